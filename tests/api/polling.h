/*
 * polling.h - what the tests of foreign loops share: a poll() as the context
 * asks for it.
 *
 * They wait as an application would, for as long as they were told to: a
 * wake-up that is lost ends in the alarm.
 */
#ifndef ZP_TESTS_POLLING_H
#define ZP_TESTS_POLLING_H

#include "tests/api/watching.h"

#include <poll.h>

/* How long poll() may wait for CTX: rounded up, in ms. */
static inline int
promised(zp_ctx *ctx)
{
    double timeout;

    assert_ok(zp_ctx_timeout(ctx, &timeout));
    return timeout < 0 ? -1 : (int)(timeout * 1000 + 0.999);
}

static inline bool
readable(int fd, int ms)
{
    struct pollfd one = {fd, POLLIN, 0};

    return poll(&one, 1, ms) == 1;
}

/* One turn of the application's loop. */
static inline int
turn(zp_ctx *ctx)
{
    struct pollfd one = {zp_ctx_fd(ctx), (short)zp_ctx_events(ctx), 0};

    assert_true(one.fd >= 0);
    assert_true(poll(&one, 1, promised(ctx)) >= 0 || errno == EINTR);
    return zp_ctx_dispatch(ctx);
}

/* Turns until R has N events: how many. */
static inline int
turn_until(recorder *r, size_t n)
{
    int turns = 0;

    for (; r->n < n; turns++)
        assert_ok(turn(r->ctx));
    return turns;
}

/* Turns until all is done that a start brings with it (the subscription's
 * confirmation, and what is asked in between). */
static inline void
turn_until_confirmed(zp_ctx *ctx, const zp_watch *watch)
{
    while (!zp_watch_confirmed(watch))
        assert_ok(turn(ctx));
}

/* Turns until nothing is left to be done, until something happens. */
static inline void
turn_until_at_rest(zp_ctx *ctx)
{
    while (promised(ctx) == 0 || readable(zp_ctx_fd(ctx), 0))
        assert_ok(turn(ctx));
}

/* A watch of "n", confirmed. */
static inline zp_watch *
watch_n(recorder *r)
{
    zp_watch *watch;

    assert_ok(zp_call_when_change(zp_ctx_state(r->ctx), &watch, ZP_KEYS("n"),
                                  NULL, record, r));
    turn_until_confirmed(r->ctx, watch);
    return watch;
}

static inline void
assert_counted(const recorder *r, size_t n)
{
    assert_int_equal(r->n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(r->events[i].value, i + 1);
}

#endif
