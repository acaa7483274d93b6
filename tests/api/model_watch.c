/*
 * model_watch.c - watches and waits of every kind, and what they see: each
 * event with its changes, their values, and the snapshots before and after it,
 * as read while it was good. Judging is the oracle's.
 *
 * Callbacks do what applications' callbacks do: write, wait, run the loop, go
 * live, cancel, break, fail.
 */
#include "tests/api/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEEP 3         /* callbacks inside of callbacks that wait */
#define UNHAPPY (-477) /* what a callback returns now and then */

static model_seen *
new_seen(model_watch *x, enum seen_kind what)
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
    int rc;

    if (x->kept || !model_chance(&x->worker->other_rng, 10))
        return;
    rc = zp_snapshot(zp_event_snapshot(event), &x->kept);
    if (rc < 0 && (rc != ZP_EGONE || !x->worker->c->is_short))
        model_fail(x->worker, "a copy of a snapshot: %s", zp_ctx_error(NULL));
    x->kept_of = x->n - 1;
}

static void
see_event(model_watch *x, const zp_event *event)
{
    model_worker *w = x->worker;
    model_seen *seen = new_seen(x, SEEN_EVENT);
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
        return UNHAPPY;
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

static int
on_event(zp_watch *watch, const zp_event *event, void *user)
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
    see_event(x, event);
    rc = react(x, zp_event_kind(event));
    w->depth--;
    x->busy = false;
    return rc;
}

static int
on_look(zp_state *snapshot, void *user)
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

/* -------------------------------------------------------------- options -- */

/* What is needed to begin any of them. */
typedef struct request {
    zp_state *state;
    zp_watch **ret; /* or ... */
    zp_state **ret_snapshot;
    const char *keys[KEYS];
    size_t n_keys;
    double wait;
    zp_watch_options options;
    zp_watch_fn *fn;
} request;

/* A moment at which the case has written something, or between. */
static int64_t
moment(model_worker *w, int age)
{
    unsigned n = model_entries(w->shared);
    const model_entry *entry;
    int64_t end;

    if (!n)
        return model_clock();
    entry = &w->shared->entries[n > (unsigned)age ? n - 1 - (unsigned)age : 0];
    end = __atomic_load_n(&entry->ended, __ATOMIC_ACQUIRE);
    return age % 2 && end ? end : entry->begun;
}

static void
make_request(request *r, model_watch *x)
{
    const model_spec *s = x->spec;

    memset(r, 0, sizeof *r);
    r->state = x->worker->handles[s->handle];
    for (int i = 0; i < KEYS; i++)
        if (s->keys & 1u << i)
            r->keys[r->n_keys++] = model_keys[i];
    r->options.size = sizeof r->options;
    r->options.flags = s->flags;
    r->options.count = s->count;
    r->options.timeout = s->timeout;
    r->options.since = x->since;
    r->options.since_time = (double)x->since_ns * 1e-9;
}

/* What "now", "since" and the like mean is fixed when it begins. */
static void
begin(model_watch *x)
{
    model_worker *w = x->worker;
    uint64_t age = (uint64_t)x->spec->age;

    x->head = model_head(w);
    x->since = x->head > age ? x->head - age : 0;
    x->since_ns = moment(w, x->spec->age);
    x->registered_ns = model_clock();
}

/* ------------------------------------------------------------ to be called --
 */

static int
call_equal(const request *r, model_watch *x)
{
    int code = x->spec->code;
    int64_t number = code - INT(0);

    if (x->spec->kind == EQUAL) {
        if (code >= INT(0))
            return zp_call_when_equal(r->state, r->ret, r->keys[0], &r->options,
                                      r->fn, x, "I", &number);
        return zp_call_when_equal_value(r->state, r->ret, r->keys[0],
                                        model_value(code), &r->options, r->fn,
                                        x);
    }
    if (code >= INT(0))
        return zp_call_when_not_equal(r->state, r->ret, r->keys[0], &r->options,
                                      r->fn, x, "I", &number);
    return zp_call_when_not_equal_value(
        r->state, r->ret, r->keys[0], model_value(code), &r->options, r->fn, x);
}

static int
call_when(const request *r, model_watch *x)
{
    const zp_watch_options *options = &r->options;

    switch (x->spec->kind) {
    case CHANGE:
        return zp_call_when_change(r->state, r->ret, r->keys, r->n_keys,
                                   options, r->fn, x);
    case WHEN:
        return zp_call_when(r->state, r->ret, r->keys, r->n_keys, options,
                            on_look, r->fn, x);
    case IS_NONE:
        return zp_call_when_none(r->state, r->ret, r->keys[0], options, r->fn,
                                 x);
    case NOT_NONE:
        return zp_call_when_not_none(r->state, r->ret, r->keys[0], options,
                                     r->fn, x);
    case TRUTHY:
        return zp_call_when_truthy(r->state, r->ret, r->keys[0], options, r->fn,
                                   x);
    case FALSY:
        return zp_call_when_falsy(r->state, r->ret, r->keys[0], options, r->fn,
                                  x);
    case AVAILABLE:
        return zp_call_when_available(r->state, r->ret, r->keys[0], options,
                                      r->fn, x);
    default:
        return call_equal(r, x);
    }
}

void
model_register(model_watch *x)
{
    model_worker *w = x->worker;
    request r;
    int rc;

    if (x->registered || x->spec->mode >= WAIT)
        return;
    if (x->spec->exact)
        model_lock(w);
    begin(x);
    make_request(&r, x);
    r.fn = x->spec->mode == CALLBACK ? on_event : NULL;
    r.ret = x->spec->attended ? &x->watch : NULL;
    rc = call_when(&r, x);
    x->head_after = model_head(w);
    if (x->spec->exact)
        model_unlock(w);
    if (rc < 0)
        model_fail(w, "registering watch %d: %s (%s)", x->number,
                   zp_strerror(rc), zp_ctx_error(NULL));
    x->registered = rc == 0;
}

/* ------------------------------------------------------------ iterators -- */

/* What a run that a callback ended returns, other than being done. */
static bool
is_broken(int rc)
{
    return rc == ZP_EBREAK || rc == UNHAPPY;
}

static void
see_nothing(model_watch *x, double timeout)
{
    model_seen *seen = new_seen(x, SEEN_NOTHING);

    seen->timeout = timeout;
    seen->head_after = model_head(x->worker);
}

void
model_fetch(model_watch *x, double timeout)
{
    model_worker *w = x->worker;
    const zp_event *event;
    uint64_t outer = w->head;
    ev_timer guard;
    double begun = ev_time();
    int rc;

    if (!x->watch || x->busy || x->spec->mode != ITERATOR)
        return;
    x->busy = true;
    w->head = model_head(w);
    w->holds += (x->spec->flags & ZP_HOLD) != 0;
    model_guard(w, &guard, timeout);
    rc = zp_watch_next(x->watch, &event, timeout);
    model_unguard(w, &guard);
    w->holds -= (x->spec->flags & ZP_HOLD) != 0;
    x->busy = false;
    if (rc == 1)
        see_event(x, event);
    else if (rc == 0)
        new_seen(x, SEEN_END);
    else if (rc == -ETIMEDOUT)
        see_nothing(x, timeout);
    else if (!is_broken(rc) && !(rc == -ECANCELED && x->cancelled))
        model_fail(w, "zp_watch_next() of watch %d: %s (%s)", x->number,
                   zp_strerror(rc), zp_ctx_error(NULL));
    if (rc == -ETIMEDOUT && ev_time() - begun < timeout - 1e-3)
        model_fail(w, "watch %d timed out after %g of %g s", x->number,
                   ev_time() - begun, timeout);
    w->head = outer;
}

/* ---------------------------------------------------------------- waits -- */

static int
get_equal(const request *r, const model_watch *x)
{
    int code = x->spec->code;
    int64_t number = code - INT(0);

    if (x->spec->kind == EQUAL) {
        if (code >= INT(0))
            return zp_get_when_equal(r->state, r->ret_snapshot, r->keys[0],
                                     r->wait, &r->options, "I", &number);
        return zp_get_when_equal_value(r->state, r->ret_snapshot, r->keys[0],
                                       model_value(code), r->wait, &r->options);
    }
    if (code >= INT(0))
        return zp_get_when_not_equal(r->state, r->ret_snapshot, r->keys[0],
                                     r->wait, &r->options, "I", &number);
    return zp_get_when_not_equal_value(r->state, r->ret_snapshot, r->keys[0],
                                       model_value(code), r->wait, &r->options);
}

static int
get_when(const request *r, model_watch *x)
{
    const zp_watch_options *options = &r->options;

    switch (x->spec->kind) {
    case CHANGE:
        return zp_get_when_change(r->state, r->ret_snapshot, r->keys, r->n_keys,
                                  r->wait, options);
    case WHEN:
        return zp_get_when(r->state, r->ret_snapshot, r->keys, r->n_keys,
                           r->wait, options, on_look, x);
    case IS_NONE:
        return zp_get_when_none(r->state, r->ret_snapshot, r->keys[0], r->wait,
                                options);
    case NOT_NONE:
        return zp_get_when_not_none(r->state, r->ret_snapshot, r->keys[0],
                                    r->wait, options);
    case TRUTHY:
        return zp_get_when_truthy(r->state, r->ret_snapshot, r->keys[0],
                                  r->wait, options);
    case FALSY:
        return zp_get_when_falsy(r->state, r->ret_snapshot, r->keys[0], r->wait,
                                 options);
    case AVAILABLE:
        return zp_get_when_available(r->state, r->ret_snapshot, r->keys[0],
                                     r->wait, options);
    default:
        return get_equal(r, x);
    }
}

static void
see_wait(model_watch *x, int rc, const request *r, uint64_t from,
         zp_state *snapshot)
{
    model_worker *w = x->worker;
    model_seen *seen = new_seen(x, SEEN_WAIT);

    seen->rc = rc;
    seen->timeout = r->wait;
    seen->from = from;
    seen->to = x->cursor;
    seen->head_after = model_head(w);
    if (rc != 0)
        return;
    if (zp_revision(snapshot, &seen->revision) < 0)
        model_fail(w, "the snapshot of a wait: %s", zp_ctx_error(NULL));
    model_get_all(seen->snapshot, snapshot, w->c->n_keys);
    zp_state_free(snapshot);
    __atomic_add_fetch(&w->shared->waits, 1, __ATOMIC_RELAXED);
}

void
model_wait(model_watch *x, double timeout)
{
    model_worker *w = x->worker;
    zp_state *snapshot = NULL;
    uint64_t outer = w->head, from = x->cursor;
    int held = (x->spec->flags & ZP_HOLD) != 0;
    double begun = ev_time();
    ev_timer guard;
    request r;
    int rc;

    if (x->busy || x->spec->mode < WAIT || model_failed(w))
        return;
    if (!x->registered)
        begin(x);
    x->registered = true;
    make_request(&r, x);
    r.ret_snapshot = &snapshot;
    r.wait = timeout;
    if (x->spec->mode == WAIT)
        r.options.cursor = &x->cursor;
    x->busy = true;
    w->head = model_head(w);
    w->holds += held;
    model_guard(w, &guard, timeout);
    rc = get_when(&r, x);
    model_unguard(w, &guard);
    w->holds -= held;
    x->busy = false;
    if (rc != 0 && rc != -ETIMEDOUT && rc != ZP_EGONE && !is_broken(rc))
        model_fail(w, "wait %d: %s (%s)", x->number, zp_strerror(rc),
                   zp_ctx_error(NULL));
    if (rc == -ETIMEDOUT && ev_time() - begun < timeout - 1e-3)
        model_fail(w, "wait %d timed out after %g of %g s", x->number,
                   ev_time() - begun, timeout);
    see_wait(x, rc, &r, from, snapshot);
    w->head = outer;
}

/* ----------------------------------------------------------------- ends -- */

/* Not while it is waited for: what was on its way then, is it skipped? */
void
model_go_live(model_watch *x)
{
    model_worker *w = x->worker;
    uint64_t head;
    int rc;

    if (!x->watch || (x->busy && x->spec->mode == ITERATOR))
        return;
    model_lock(w); /* so that "now" is one revision */
    head = model_head(w);
    rc = zp_go_live(x->watch);
    model_unlock(w);
    if (rc < 0)
        model_fail(w, "zp_go_live() of watch %d: %s (%s)", x->number,
                   zp_strerror(rc), zp_ctx_error(NULL));
    new_seen(x, SEEN_LIVE)->revision = head;
}

void
model_cancel(model_watch *x)
{
    int rc = 0;

    if (!x->watch)
        return;
    x->cancelled = true;
    if (model_chance(&x->worker->other_rng, 50)) {
        rc = zp_watch_cancel(x->watch);
        if (rc == 0)
            rc = zp_watch_active(x->watch);
    } else {
        x->watch = zp_watch_free(x->watch);
    }
    if (rc != 0)
        model_fail(x->worker, "cancelling watch %d: %s", x->number,
                   zp_strerror(rc));
}

/* The snapshot that was kept is as it was. */
static void
check_kept(model_watch *x)
{
    const model_seen *seen = &x->seen[x->kept_of];
    model_codes codes;
    uint64_t revision = 0;
    int rc = zp_revision(x->kept, &revision);

    model_get_all(codes, x->kept, x->worker->c->n_keys);
    if (rc < 0 || revision != seen->revision ||
        memcmp(codes, seen->snapshot, sizeof codes) != 0)
        model_fail(x->worker,
                   "watch %d: the copy of the snapshot at %llu is "
                   "another one later (%llu, %s)",
                   x->number, (unsigned long long)seen->revision,
                   (unsigned long long)revision, zp_strerror(rc));
}

void
model_watch_clear(model_watch *x)
{
    if (x->kept) {
        check_kept(x);
        x->kept = zp_state_free(x->kept);
    }
    x->watch = zp_watch_free(x->watch);
    free(x->seen);
    memset(x, 0, sizeof *x);
}
