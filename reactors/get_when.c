/*
 * get_when.c - zp_get_when_change() and its family: wait until it has happened.
 *
 *     a condition: look at the state as it is   -> holds: that snapshot, at
 * once an iterator behind what was looked at     (registration and first look
 *     fetch an event, or as many as asked        are one step: the log is read
 *     its view becomes the caller's snapshot     from the revision looked at)
 *
 * A cursor that the caller keeps is the revision up to which has been seen, and
 * one (0: nothing yet). It is moved past what was handed out, or, by a wait
 * that fails, past what it has looked at in vain.
 */
#include <errno.h>
#include <math.h>

#include "reactors/watch.h"

#define STARTS ((unsigned)(ZP_SINCE | ZP_OLDEST | ZP_SINCE_TIME))

typedef struct waiting {
    zp_state *state;
    zp_ctx *ctx;
    zp_state **ret;
    zp__want *want;
    uint64_t *cursor; /* the caller's; NULL: none */
    uint64_t left;    /* events to come */
    double deadline;  /* negative: none */
    zp_watch *watch;
    zp_state *snapshot; /* of its event, taken from it */
    bool gone;          /* the context is */
} waiting;

/* --------------------------------------------------------- first look -- */

/* The predicate may free the state's handle: is it still one of CTX's? */
static bool
is_listed(const zp_ctx *ctx, const zp_state *state)
{
    const zp_state *at = ctx->states;

    while (at && at != state)
        at = at->next;
    return at != NULL;
}

/* Does the condition hold in SNAPSHOT? The predicate is a callback: after it
 * nothing is certain. */
static int
ask(waiting *w, zp_state *snapshot)
{
    zp_ctx *ctx = w->ctx;
    uint64_t token = ctx->token;
    double called;
    int rc;

    if (w->want->condition.kind != ZP__WHEN)
        return zp__condition_holds(&w->want->condition, snapshot);
    called = zp__ctx_call(ctx);
    rc = zp__condition_holds(&w->want->condition, snapshot);
    if (token != zp__token() || zp__ctx_leave(ctx, called, 0)) {
        w->gone = true;
        return token != zp__token()
                   ? zp__fail(ZP_EFORK, "the predicate has forked")
                   : zp__fail(ZP_ECLOSED, "the predicate has freed the "
                                          "context");
    }
    return rc;
}

/* Can one go on waiting, after the predicate? */
static int
check_again(const waiting *w)
{
    int rc = zp__ctx_enter(w->ctx);

    if (rc == 0 && !is_listed(w->ctx, w->state))
        rc = zp__fail(-ECANCELED, "the predicate has freed the state");
    return rc;
}

static void
saw(waiting *w, uint64_t revision)
{
    if (w->cursor)
        *w->cursor = revision + 1;
}

/* Look at the state as it is: 1 if it holds and nothing else is waited for,
 * 0 if one has to wait behind *RET_REVISION, or an error. */
static int
look_now(waiting *w, uint64_t *ret_revision)
{
    zp_state *snapshot = NULL;
    int rc = zp_snapshot(w->state, &snapshot);

    if (rc < 0)
        return rc;
    *ret_revision = snapshot->revision;
    rc = ask(w, snapshot);
    if (w->gone)
        return rc; /* the snapshot, too */
    if (rc >= 0)
        saw(w, *ret_revision);
    if (rc > 0 && --w->left > 0)
        rc = 0;
    if (rc > 0 && w->ret)
        *w->ret = snapshot;
    else
        zp_state_free(snapshot);
    return rc == 0 ? check_again(w) : rc;
}

/* ------------------------------------------------------------- waiting -- */

/* Where the iterator starts, and whether it has a first look of its own: 0, or
 * what look_now() says. */
static int
begin(waiting *w, bool *ret_looks)
{
    zp_watch_options *options = &w->want->options;
    int rc;

    *ret_looks = false;
    if (w->cursor && *w->cursor) {
        options->since = *w->cursor - 1;
    } else if (!w->want->condition.kind) {
        return 0;
    } else if (options->flags & STARTS) {
        *ret_looks = true;
        return 0;
    } else {
        rc = look_now(w, &options->since);
        if (rc != 0)
            return rc;
    }
    options->flags = (options->flags & ~STARTS) | ZP_SINCE;
    return 0;
}

static double
time_left(const waiting *w)
{
    double left;

    if (w->deadline < 0)
        return -1;
    left = w->deadline - zp__now();
    return left > 0 ? left : 0;
}

/* The event's snapshot, with the view, becomes a handle that outlives the
 * watch. */
static int
take_snapshot(waiting *w)
{
    zp_watch *watch = w->watch;
    int rc = zp__state_adopt(&w->snapshot, w->ctx, watch->view, watch->tap.ns,
                             watch->event.revision);

    if (rc == 0)
        watch->view = NULL;
    return rc;
}

/* Does the condition hold after all that was lost? The predicate may free the
 * state that is waited on, and then look at the snapshot. */
static int
ask_taken(waiting *w)
{
    int rc = take_snapshot(w);

    if (rc == 0)
        rc = ask(w, w->snapshot);
    if (rc <= 0 && !w->gone)
        w->snapshot = zp_state_free(w->snapshot);
    return rc;
}

/* Changes were lost. That is fine with a condition that holds in spite of it;
 * all else has to be told. */
static int
on_overrun(waiting *w, const zp_event *event)
{
    int rc = 0;

    if (w->want->condition.kind)
        rc = ask_taken(w);
    if (rc != 0)
        return rc;
    return zp__fail(ZP_EGONE,
                    "the changes %llu to %llu are no longer retained: the "
                    "wait has lost them",
                    (unsigned long long)event->first,
                    (unsigned long long)event->last);
}

/* Fetch until the last event that is asked for: 1, or an error. */
static int
fetch(waiting *w)
{
    zp_watch *watch = w->watch;
    double first = w->deadline < 0 ? -1 : time_left(w);
    int rc = zp__watch_fetch(watch, first, &w->gone);

    while (rc == 1 && watch->event.kind != ZP_OVERRUN && --w->left > 0) {
        saw(w, watch->event.revision);
        watch->has = false;
        zp__view_end(watch->view);
        rc = zp__watch_fetch(watch, time_left(w), &w->gone);
    }
    if (rc == 1 && watch->event.kind == ZP_OVERRUN) {
        rc = on_overrun(w, &watch->event);
        if (!w->gone && rc < 0) /* it has been told; go on behind it */
            watch->has = false;
    }
    return rc;
}

/* A wait has failed: how far has it seen? What a live one has found, but was
 * not called for yet, is still to be seen. */
static void
note_cursor(waiting *w)
{
    const zp_watch *watch = w->watch;
    const zp__tap *tap = &watch->tap;

    if (!tap->active || tap->looks)
        return;
    if (!watch->has)
        saw(w, tap->found_at ? tap->found_at - 1 : zp__tap_cursor(tap));
    else if (watch->event.kind == ZP_CHANGED)
        saw(w, watch->event.revision - 1);
}

/* The event's snapshot becomes the caller's. */
static int
hand_over(waiting *w)
{
    int rc = w->ret && !w->snapshot ? take_snapshot(w) : 0;

    if (rc < 0)
        return rc;
    if (w->ret)
        *w->ret = w->snapshot;
    else
        zp_state_free(w->snapshot);
    saw(w, w->watch->event.revision);
    return 0;
}

static int
wait_for(waiting *w, bool looks)
{
    zp__tap *tap;
    int rc =
        zp__watch_new(&w->watch, w->state, w->want, looks, false, NULL, NULL);

    if (rc < 0)
        return rc;
    tap = &w->watch->tap;
    tap->refs++; /* the state may be freed, and the watch with it */
    rc = fetch(w);
    if (!w->gone) {
        if (rc == 1)
            rc = hand_over(w);
        if (rc < 0)
            note_cursor(w);
        zp__tap_free(tap);
    }
    zp__tap_unref(tap);
    return rc;
}

/* The keys, too: a wait for what holds already makes no watch of them. */
static int
check(const waiting *w, double timeout)
{
    const zp__want *want = w->want;
    size_t bytes;

    if (isnan(timeout))
        return zp__fail(-EINVAL, "the timeout is not a number");
    if (want->options.timeout > 0)
        return zp__fail(-EINVAL, "options.timeout is for callbacks and "
                                 "iterators: a wait has its own");
    return zp__tap_check_keys(want->keys, want->n_keys, &bytes);
}

/* To be called with what is wanted. */
static int
get_when_wanted(zp_state *state, zp_state **ret_snapshot, zp__want *want,
                double timeout)
{
    waiting w = {.state = state, .ret = ret_snapshot, .want = want};
    bool looks;
    int rc = check(&w, timeout);

    w.ctx = state->ctx;
    w.cursor = want->options.cursor;
    w.left = want->options.count ? want->options.count : 1;
    w.deadline = timeout >= 0 ? zp__now() + timeout : -1;
    want->options.count = 0;
    if (rc == 0)
        rc = begin(&w, &looks);
    if (rc == 0)
        rc = wait_for(&w, looks);
    if (w.gone)
        return rc;
    return zp__ctx_done(w.ctx, rc > 0 ? 0 : rc);
}

/* What all of them do with what is wanted, which could be made if RC is 0. */
static int
get_when(int rc, zp_state *state, zp_state **ret_snapshot, zp__want *want,
         double timeout, const zp_watch_options *options)
{
    if (rc == 0)
        rc = zp__may_watch(state);
    if (rc == 0)
        rc = zp__want_options(want, options);
    if (rc == 0)
        rc = get_when_wanted(state, ret_snapshot, want, timeout);
    else
        zp__state_done(state, rc);
    zp__want_free(want);
    return rc;
}

/* -------------------------------------------------------------- public -- */

int
zp_get_when_change(zp_state *state, zp_state **ret_snapshot,
                   const char *const *keys, size_t n_keys, double timeout,
                   const zp_watch_options *options)
{
    zp__want want;
    int rc = zp__want_change(&want, keys, n_keys);

    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

int
zp_get_when(zp_state *state, zp_state **ret_snapshot, const char *const *keys,
            size_t n_keys, double timeout, const zp_watch_options *options,
            zp_predicate_fn *predicate, void *user)
{
    zp__want want;
    int rc = zp__want_predicate(&want, keys, n_keys, predicate, user);

    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

int
zp_get_when_equal(zp_state *state, zp_state **ret_snapshot, const char *key,
                  double timeout, const zp_watch_options *options,
                  const char *format, ...)
{
    zp__want want;
    va_list ap;
    int rc;

    va_start(ap, format);
    rc = zp__want_format(&want, key, ZP__EQUAL, format, ap);
    va_end(ap);
    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

int
zp_get_when_not_equal(zp_state *state, zp_state **ret_snapshot, const char *key,
                      double timeout, const zp_watch_options *options,
                      const char *format, ...)
{
    zp__want want;
    va_list ap;
    int rc;

    va_start(ap, format);
    rc = zp__want_format(&want, key, ZP__NOT_EQUAL, format, ap);
    va_end(ap);
    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

int
zp_get_when_equal_value(zp_state *state, zp_state **ret_snapshot,
                        const char *key, const zp_value *value, double timeout,
                        const zp_watch_options *options)
{
    zp__want want;
    int rc = zp__want_value(&want, key, ZP__EQUAL, value);

    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

int
zp_get_when_not_equal_value(zp_state *state, zp_state **ret_snapshot,
                            const char *key, const zp_value *value,
                            double timeout, const zp_watch_options *options)
{
    zp__want want;
    int rc = zp__want_value(&want, key, ZP__NOT_EQUAL, value);

    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

/* The conditions that take a key and nothing else. */
static int
get_when_key(zp_state *state, zp_state **ret_snapshot, const char *key,
             double timeout, const zp_watch_options *options,
             enum zp__condition_kind kind)
{
    zp__want want;
    int rc = zp__want_key(&want, key, kind);

    return get_when(rc, state, ret_snapshot, &want, timeout, options);
}

int
zp_get_when_none(zp_state *state, zp_state **ret_snapshot, const char *key,
                 double timeout, const zp_watch_options *options)
{
    return get_when_key(state, ret_snapshot, key, timeout, options,
                        ZP__IS_NONE);
}

int
zp_get_when_not_none(zp_state *state, zp_state **ret_snapshot, const char *key,
                     double timeout, const zp_watch_options *options)
{
    return get_when_key(state, ret_snapshot, key, timeout, options,
                        ZP__NOT_NONE);
}

int
zp_get_when_truthy(zp_state *state, zp_state **ret_snapshot, const char *key,
                   double timeout, const zp_watch_options *options)
{
    return get_when_key(state, ret_snapshot, key, timeout, options, ZP__TRUTHY);
}

int
zp_get_when_falsy(zp_state *state, zp_state **ret_snapshot, const char *key,
                  double timeout, const zp_watch_options *options)
{
    return get_when_key(state, ret_snapshot, key, timeout, options, ZP__FALSY);
}

int
zp_get_when_available(zp_state *state, zp_state **ret_snapshot, const char *key,
                      double timeout, const zp_watch_options *options)
{
    return get_when_key(state, ret_snapshot, key, timeout, options,
                        ZP__AVAILABLE);
}
