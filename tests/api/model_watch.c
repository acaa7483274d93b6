/*
 * model_watch.c - watches and waits of every kind: registered, fetched from,
 * waited in, and ended.
 */
#include "tests/api/model_watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------ registering --
 */

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

void
model_register(model_watch *x)
{
    model_worker *w = x->worker;
    model_request r;
    int rc;

    if (x->registered || x->spec->mode >= WAIT)
        return;
    if (x->spec->exact)
        model_lock(w);
    begin(x);
    model_make_request(&r, x);
    r.fn = x->spec->mode == CALLBACK ? model_on_event : NULL;
    r.ret = x->spec->attended ? &x->watch : NULL;
    rc = model_call_when(&r, x);
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
    return rc == ZP_EBREAK || rc == MODEL_UNHAPPY;
}

static void
see_nothing(model_watch *x, double timeout)
{
    model_seen *seen = model_new_seen(x, SEEN_NOTHING);

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
        model_see_event(x, event);
    else if (rc == 0)
        model_new_seen(x, SEEN_END);
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

static void
see_wait(model_watch *x, int rc, const model_request *r, uint64_t from,
         zp_state *snapshot)
{
    model_worker *w = x->worker;
    model_seen *seen = model_new_seen(x, SEEN_WAIT);

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
    model_request r;
    int rc;

    if (x->busy || x->spec->mode < WAIT || model_failed(w))
        return;
    if (!x->registered)
        begin(x);
    x->registered = true;
    model_make_request(&r, x);
    r.ret_snapshot = &snapshot;
    r.wait = timeout;
    if (x->spec->mode == WAIT)
        r.options.cursor = &x->cursor;
    x->busy = true;
    w->head = model_head(w);
    w->holds += held;
    model_guard(w, &guard, timeout);
    rc = model_get_when(&r, x);
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
    model_new_seen(x, SEEN_LIVE)->revision = head;
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
