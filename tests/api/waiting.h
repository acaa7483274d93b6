/*
 * waiting.h - every call that waits, as rows of a table: how to call it, and
 * how to make come true, or not, what it waits for. All are about the key "k".
 */
#ifndef ZP_TESTS_WAITING_H
#define ZP_TESTS_WAITING_H

#include <signal.h>

#include "tests/api/watching.h"

typedef struct waiter {
    const char *name;
    /* 0 and the snapshot (RET may be NULL), or the error */
    int (*wait)(zp_state *state, zp_state **ret, double timeout,
                const zp_watch_options *options);
    int (*meet)(zp_state *state);
    int (*spoil)(zp_state *state);
    bool looks; /* at the state first: returns at once if it holds */
} waiter;

/* Like assert_return(), and tells which wait it was. */
#define assert_wait(w, call, rc)                                               \
    do {                                                                       \
        int got_ = (call);                                                     \
        if (got_ != (rc))                                                      \
            fail_msg("%s: %s: %d (%s: %s), not %d", (w)->name, #call, got_,    \
                     zp_strerror(got_), zp_ctx_error(NULL), (int)(rc));        \
    } while (0)

/* ---- what happens to "k" ---- */

static inline int
put_4(zp_state *state)
{
    return zp_set_int(state, "k", 4);
}

static inline int
put_5(zp_state *state)
{
    return zp_set_int(state, "k", 5);
}

static inline int
put_0(zp_state *state)
{
    return zp_set_int(state, "k", 0);
}

static inline int
put_none(zp_state *state)
{
    return zp_set_none(state, "k");
}

static inline int
put_absent(zp_state *state)
{
    int rc = zp_delete(state, "k");

    return rc == ZP_ENOKEY ? 0 : rc;
}

/* Something else than before. */
static inline int
put_other(zp_state *state)
{
    uint64_t revision;
    int rc = zp_revision(state, &revision);

    return rc < 0 ? rc : zp_set_int(state, "k", (int64_t)revision + 100);
}

static inline int
put_nothing(zp_state *state)
{
    (void)state;
    return 0;
}

/* ---- the calls ---- */

static inline int
is_5(zp_state *snapshot, void *user)
{
    int64_t value = 0;

    (void)user;
    (void)zp_get_int(snapshot, "k", &value);
    return value == 5;
}

static inline int
wait_change(zp_state *state, zp_state **ret, double timeout,
            const zp_watch_options *options)
{
    return zp_get_when_change(state, ret, ZP_KEYS("k"), timeout, options);
}

static inline int
wait_when(zp_state *state, zp_state **ret, double timeout,
          const zp_watch_options *options)
{
    return zp_get_when(state, ret, ZP_KEYS("k"), timeout, options, is_5, NULL);
}

static inline int
wait_equal(zp_state *state, zp_state **ret, double timeout,
           const zp_watch_options *options)
{
    return zp_get_when_equal(state, ret, "k", timeout, options, ZP_I(5));
}

static inline int
wait_not_equal(zp_state *state, zp_state **ret, double timeout,
               const zp_watch_options *options)
{
    return zp_get_when_not_equal(state, ret, "k", timeout, options, ZP_I(4));
}

static inline int
wait_equal_value(zp_state *state, zp_state **ret, double timeout,
                 const zp_watch_options *options)
{
    zp_value *five;
    int rc = zp_value_new(&five, ZP_I(5));

    if (rc < 0)
        return rc;
    rc = zp_get_when_equal_value(state, ret, "k", five, timeout, options);
    zp_value_free(five);
    return rc;
}

static inline int
wait_not_equal_value(zp_state *state, zp_state **ret, double timeout,
                     const zp_watch_options *options)
{
    zp_value *four;
    int rc = zp_value_new(&four, ZP_I(4));

    if (rc < 0)
        return rc;
    rc = zp_get_when_not_equal_value(state, ret, "k", four, timeout, options);
    zp_value_free(four);
    return rc;
}

#define WAIT_KEY(what)                                                         \
    static inline int wait_##what(zp_state *state, zp_state **ret,             \
                                  double timeout,                              \
                                  const zp_watch_options *options)             \
    {                                                                          \
        return zp_get_when_##what(state, ret, "k", timeout, options);          \
    }
WAIT_KEY(none)
WAIT_KEY(not_none)
WAIT_KEY(truthy)
WAIT_KEY(falsy)
WAIT_KEY(available)

/* The next event of an iterator, which goes with what cancels it. */
static inline int
wait_next(zp_watch *watch, zp_state **ret, double timeout)
{
    const zp_event *event;
    int rc = zp_watch_next(watch, &event, timeout);

    if (rc == 1 && ret)
        assert_ok(zp_snapshot(zp_event_snapshot(event), ret));
    if (rc != -ECANCELED && rc != ZP_ECLOSED && rc != ZP_EFORK)
        zp_watch_free(watch);
    assert_int_not_equal(rc, 0);
    return rc == 1 ? 0 : rc;
}

static inline int
wait_next_change(zp_state *state, zp_state **ret, double timeout,
                 const zp_watch_options *options)
{
    zp_watch *watch;
    int rc =
        zp_call_when_change(state, &watch, ZP_KEYS("k"), options, NULL, NULL);

    return rc < 0 ? rc : wait_next(watch, ret, timeout);
}

static inline int
wait_next_equal(zp_state *state, zp_state **ret, double timeout,
                const zp_watch_options *options)
{
    zp_watch *watch;
    int rc =
        zp_call_when_equal(state, &watch, "k", options, NULL, NULL, ZP_I(5));

    return rc < 0 ? rc : wait_next(watch, ret, timeout);
}

static const waiter waiters[] = {
    {"change", wait_change, put_other, put_nothing, false},
    {"when", wait_when, put_5, put_4, true},
    {"equal", wait_equal, put_5, put_4, true},
    {"not_equal", wait_not_equal, put_5, put_4, true},
    {"equal_value", wait_equal_value, put_5, put_4, true},
    {"not_equal_value", wait_not_equal_value, put_5, put_4, true},
    {"none", wait_none, put_none, put_4, true},
    {"not_none", wait_not_none, put_5, put_none, true},
    {"truthy", wait_truthy, put_5, put_0, true},
    {"falsy", wait_falsy, put_0, put_5, true},
    {"available", wait_available, put_5, put_absent, true},
    {"next of changes", wait_next_change, put_other, put_nothing, false},
    {"next of a condition", wait_next_equal, put_5, put_4, false},
};
#define WAITERS (sizeof waiters / sizeof *waiters)

/* --------------------------------------------------------------- timers -- */

/* FN once, after SECONDS, from the loop of a context, as the application's. */
typedef struct later {
    ev_timer timer;
    zp_ctx *ctx;
    void (*fn)(void *user);
    void *user;
    bool ran;
} later;

static inline void
on_later(struct ev_loop *loop, ev_timer *timer, int events)
{
    later *l = timer->data;

    (void)events;
    ev_timer_stop(loop, timer);
    l->ran = true;
    l->fn(l->user);
}

static inline void
do_later(later *l, zp_ctx *ctx, double seconds, void (*fn)(void *user),
         void *user)
{
    *l = (later){.ctx = ctx, .fn = fn, .user = user};
    ev_timer_init(&l->timer, on_later, seconds, 0);
    l->timer.data = l;
    ev_now_update(zp_ev_loop(ctx));
    ev_timer_start(zp_ev_loop(ctx), &l->timer);
}

static inline void
not_later(later *l)
{
    ev_timer_stop(zp_ev_loop(l->ctx), &l->timer);
}

static inline void
break_it(void *user)
{
    assert_ok(zp_break(user));
}

static inline int
server_of(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_ctx_stats(ctx, &stats));
    return (int)stats.server_pid;
}

#endif
