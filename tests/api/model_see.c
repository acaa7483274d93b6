/*
 * model_see.c - what watches see: each event with its changes, their values,
 * and the snapshots before and after it, as read while it was good. Judging is
 * the oracle's.
 *
 * Callbacks do what applications' callbacks do: write, wait, run the loop, go
 * live, cancel, break, fail.
 */
#include "tests/api/model_watch.h"

#include <stdlib.h>
#include <string.h>

#define DEEP 3 /* callbacks inside of callbacks that wait */

model_seen *
model_new_seen(model_watch *x, enum seen_kind what)
{
    if (x->n == x->room) {
        x->room = x->room ? x->room * 2 : 32;
        x->seen = realloc(x->seen, x->room * sizeof *x->seen);
        if (!x->seen)
            abort();
    }
    memset(&x->seen[x->n], 0, sizeof *x->seen);
    x->seen[x->n].what = what;
    x->seen[x->n].head = x->worker->head;
    x->seen[x->n].clock = model_clock();
    return &x->seen[x->n++];
}

/* --------------------------------------------------------------- events -- */

static int
key_of(const char *name)
{
    for (int i = 0; i < KEYS; i++)
        if (strcmp(name, model_keys[i]) == 0)
            return i;
    return -1;
}

static void
see_change(model_watch *x, model_change *ret, const zp_event *event, int i)
{
    zp_value *before = NULL, *after = NULL;
    zp_change change;
    int rc = zp_event_change(event, &change, (size_t)i);

    if (rc == 0)
        rc = zp_event_values(event, &before, &after, (size_t)i);
    if (rc < 0) {
        model_fail(x->worker, "change %d of revision %llu: %s", i,
                   (unsigned long long)zp_event_revision(event),
                   zp_ctx_error(NULL));
        return;
    }
    ret->key = key_of(change.key);
    ret->flags = change.flags;
    ret->before = model_code(before);
    ret->after = model_code(after);
    zp_value_free(before);
    zp_value_free(after);
}

/* A copy to look at later. The log may have passed it already. */
static void
keep(model_watch *x, const zp_event *event)
{
    model_worker *w = x->worker;
    uint64_t oldest = zp_event_revision(event) + (uint64_t)model_log(w->c);
    int rc;

    if (x->kept || !model_chance(&w->other_rng, 10))
        return;
    rc = zp_snapshot(zp_event_snapshot(event), &x->kept);
    if (rc < 0 && (rc != ZP_EGONE || model_head(w) < oldest))
        model_fail(w, "a copy of a snapshot: %s", zp_ctx_error(NULL));
    x->kept_of = x->n - 1;
}

void
model_see_event(model_watch *x, const zp_event *event)
{
    model_worker *w = x->worker;
    model_seen *seen = model_new_seen(x, SEEN_EVENT);
    zp_state *before = zp_event_before(event);

    seen->kind = zp_event_kind(event);
    seen->revision = zp_event_revision(event);
    seen->pid = zp_event_writer(event);
    seen->n = (int)zp_event_length(event);
    if (seen->kind == ZP_OVERRUN) {
        zp_event_lost(event, &seen->from, &seen->to);
        __atomic_add_fetch(&w->shared->overruns, 1, __ATOMIC_RELAXED);
    }
    for (int i = 0; i < seen->n && i < KEYS; i++)
        see_change(x, &seen->changes[i], event, i);
    model_get_all(seen->snapshot, zp_event_snapshot(event), w->c->n_keys);
    if ((before != NULL) != (seen->kind == ZP_CHANGED))
        model_fail(w, "zp_event_before() of an event of kind %d", seen->kind);
    if (before)
        model_get_all(seen->before, before, w->c->n_keys);
    keep(x, event);
    __atomic_add_fetch(&w->shared->events, 1, __ATOMIC_RELAXED);
}

/* ------------------------------------------------------------ callbacks -- */

/* Another one of my worker's, in one of two modes, that is not busy. */
static model_watch *
another(model_worker *w, enum mode mode, enum mode or)
{
    int n = w->c->n_specs[w->id];
    int first = model_below(&w->other_rng, n);

    for (int i = 0; i < n; i++) {
        model_watch *y = &w->watches[(first + i) % n];

        if (!y->busy && (y->spec->mode == mode || y->spec->mode == or))
            return y;
    }
    return NULL;
}

/* Something odd. */
static int
act(model_watch *x)
{
    model_worker *w = x->worker;
    double seconds = model_wait_time(&w->other_rng) / 4;
    int dice = model_below(&w->other_rng, w->depth <= DEEP ? 9 : 5);
    model_watch *y;

    switch (dice) {
    case 0:
        y = another(w, CALLBACK, ITERATOR);
        model_go_live(y && model_chance(&w->other_rng, 50) ? y : x);
        break;
    case 1:
        zp_break(model_ctx(w)); /* refused in the application's ev_run() */
        break;
    case 2:
        return MODEL_UNHAPPY;
    case 3:
        if (model_chance(&w->other_rng, 10))
            model_cancel(x);
        else if ((y = another(w, CALLBACK, ITERATOR)) &&
                 model_chance(&w->other_rng, 10))
            model_cancel(y);
        break;
    case 4:
        if (w->next < w->c->n_specs[w->id])
            model_register(&w->watches[w->next++]);
        break;
    case 5:
    case 6:
        if ((y = another(w, ITERATOR, ITERATOR)))
            model_fetch(y, seconds);
        break;
    case 7:
        if ((y = another(w, WAIT, FRESH_WAIT)))
            model_wait(y, seconds);
        break;
    default:
        model_step(w, seconds);
    }
    return 0;
}

/* Now and then so much that the short log forgets what others have not seen. */
static void
write_some(model_watch *x)
{
    model_worker *w = x->worker;
    bool much = w->c->is_short && model_chance(&w->other_rng, 25);
    model_txn t;

    x->writes--;
    for (int n = much ? 2 * SHORT_LOG : 1; n > 0; n--) {
        model_txn_make(&t, w->c, &w->other_rng);
        model_write(w, &t);
    }
}

static int
react(model_watch *x, int kind)
{
    model_worker *w = x->worker;

    if (kind == ZP_TIMEDOUT || model_failed(w))
        return 0;
    if (x->writes > 0 && model_chance(&w->other_rng, 50))
        write_some(x);
    if (model_chance(&w->other_rng, (int)x->spec->mood))
        return act(x);
    return 0;
}

int
model_on_event(zp_watch *watch, const zp_event *event, void *user)
{
    model_watch *x = user;
    model_worker *w = x->worker;
    int rc;

    if (w->holds)
        model_fail(w, "watch %d was called while callbacks were held back",
                   x->number);
    if (x->busy)
        model_fail(w, "watch %d was entered again", x->number);
    if (x->cancelled)
        model_fail(w, "watch %d was called after it was cancelled", x->number);
    if (x->watch && x->watch != watch)
        model_fail(w, "watch %d was called as another one", x->number);
    x->busy = true;
    w->depth++;
    model_see_event(x, event);
    rc = react(x, zp_event_kind(event));
    w->depth--;
    x->busy = false;
    return rc;
}

int
model_on_look(zp_state *snapshot, void *user)
{
    model_watch *x = user;
    model_codes codes;

    model_get_all(codes, snapshot, x->worker->c->n_keys);
    for (int i = 0; i < KEYS; i++)
        if (codes[i] == ERROR)
            model_fail(x->worker, "a predicate cannot read '%s': %s",
                       model_keys[i], zp_ctx_error(NULL));
    return model_predicate(x->spec->predicate, codes, x->worker->c->n_keys);
}
