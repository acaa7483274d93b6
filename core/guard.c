/*
 * guard.c - the state server as a context sees it: watched over while it is
 * needed, started again when it dies, asked for its pulse.
 *
 * Watched over: a pidfd of the server in the loop. When it becomes readable the
 * server has died, and one of all who see that has to start another:
 *
 *     died -> closed? -> end what waits
 *          -> another serves already -> watch that one
 *          -> `start` is locked (somebody is at it) -> look again in 10 ms
 *          -> start it -> watch it
 *
 * The lock is only tried here: fifty processes that wake up at once do not
 * queue for it with their loops standing still, one starts the server (some
 * 10 ms) and the others go on. What fails is tried again, ever more slowly.
 *
 * When the owner has ended, too, nobody is left who could say so: then whoever
 * notices marks the state as closed, for all.
 */
#include "core/context.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/wire.h"

#define RETRY 0.01    /* while another starts it */
#define RETRY_MAX 1.0 /* while nobody can */
#define START_MAX 2.0 /* the loop stands still for so long at most */
#define PULSE 0.25    /* a ping unanswered for so long: does it live? */
#define PULSE_MAX 8.0 /* doubled up to this: a slow one is given the time */

struct zp__guard {
    int fd; /* of the server that is watched; -1: none */
    zp__owned *owned;
    zp__handle *watch;
    zp__handle *timer; /* while there is none */
    double retry;
    zp__pid seen; /* looked at by the clock; pid 0: no need to */
};

/* -------------------------------------------------------------- closed -- */

bool
zp__ctx_closed(zp_ctx *ctx, bool thorough)
{
    zp__shared *shared = ctx->board->shared;

    if (zp__board_closed(ctx->board))
        return true;
    if (!thorough || zp__pid_alive(&shared->owner) ||
        zp__server_alive(ctx->board))
        return false;
    atomic_store(&shared->closed, 1);
    return true;
}

/* --------------------------------------------------------------- guard -- */

static void
drop_fd(struct zp__guard *guard)
{
    if (guard->fd < 0)
        return;
    guard->watch = zp__handle_free(guard->watch);
    zp__own_forget(guard->owned);
    close(guard->fd);
    guard->fd = -1;
}

static void revive(void *user);

/* Where there are no pidfds (under valgrind): look now and then. */
static int
look_later(zp_ctx *ctx, zp__pid server)
{
    if (!zp__pid_alive(&server))
        return -ESRCH;
    ctx->guard->seen = server;
    zp__timer_set(ctx->guard->timer, PULSE);
    return 0;
}

/* It was looked at, and still is what it was. */
static bool
lives_on(zp_ctx *ctx)
{
    zp__pid server = zp__board_server(ctx->board);
    const zp__pid *seen = &ctx->guard->seen;

    return seen->pid > 0 && seen->pid == server.pid &&
           seen->start == server.start && look_later(ctx, server) == 0;
}

/* Watch the server that the board names: 0, or -ESRCH when it is dead. */
static int
watch_server(zp_ctx *ctx)
{
    struct zp__guard *guard = ctx->guard;
    zp__pid server = zp__board_server(ctx->board);
    int rc;

    guard->fd = server.pid > 0 ? zp__pid_open(&server) : -ESRCH;
    if (guard->fd < 0) {
        rc = guard->fd;
        guard->fd = -1;
        if (rc == -ENOSYS)
            return look_later(ctx, server);
        return rc == -ESRCH
                   ? rc
                   : zp__fail_errno(-rc, "cannot watch the state server");
    }
    guard->owned = zp__own_fd(guard->fd);
    rc = guard->owned
             ? zp__loop_fd(ctx->loop, &guard->watch, guard->fd, revive, ctx)
             : zp__fail(-ENOMEM, "no memory to watch the state "
                                 "server");
    if (rc < 0)
        drop_fd(guard);
    return rc;
}

/* Start a server unless somebody else is at it: -EWOULDBLOCK then. */
static int
start_server(zp_ctx *ctx)
{
    int lock = zp__place_flock(&ctx->place, "start");

    if (lock == -EWOULDBLOCK)
        return lock;
    if (lock >= 0) {
        /* a child forked in this moment has it, too: closing is not enough */
        flock(lock, LOCK_UN);
        close(lock);
    }
    return zp__server_ensure(&ctx->place, ctx->board,
                             ctx->start_timeout >= 0 &&
                                     ctx->start_timeout < START_MAX
                                 ? ctx->start_timeout
                                 : START_MAX);
}

static void
try_later(struct zp__guard *guard, int why)
{
    if (why == -EWOULDBLOCK)
        guard->retry = RETRY;
    else
        guard->retry = fmin(guard->retry * 2, RETRY_MAX);
    zp__timer_set(guard->timer, guard->retry);
}

static void
tell_closed(zp_ctx *ctx)
{
    void (*hook)(zp_ctx *) = ctx->feed_closed;

    zp__timer_set(ctx->guard->timer, -1);
    zp__loop_stop(ctx->loop, ZP_ECLOSED);
    if (hook)
        hook(ctx);
}

/* The server has died, or the last try to have one again failed. */
static void
revive(void *user)
{
    zp_ctx *ctx = user;
    struct zp__guard *guard = ctx->guard;
    int rc;

    drop_fd(guard);
    if (zp__ctx_closed(ctx, true)) {
        tell_closed(ctx);
        return;
    }
    if (lives_on(ctx))
        return;
    rc = watch_server(ctx);
    if (rc == -ESRCH) {
        rc = start_server(ctx);
        if (rc == ZP_ECLOSED && zp__ctx_closed(ctx, true)) {
            tell_closed(ctx);
            return;
        }
        if (rc == 0)
            rc = watch_server(ctx);
    }
    if (rc < 0) {
        try_later(guard, rc);
        return;
    }
    guard->retry = RETRY;
    if (ctx->feed_server_new)
        ctx->feed_server_new(ctx);
}

int
zp__ctx_guard_server(zp_ctx *ctx)
{
    struct zp__guard *guard = ctx->guard;
    int rc;

    if (guard)
        return 0;
    guard = calloc(1, sizeof *guard);
    if (!guard)
        return zp__fail(-ENOMEM, "no memory to watch the state server");
    guard->fd = -1;
    guard->retry = RETRY;
    ctx->guard = guard;
    rc = zp__loop_timer(ctx->loop, &guard->timer, revive, ctx);
    if (rc == 0)
        rc = watch_server(ctx);
    if (rc == -ESRCH) { /* never from within a registering call */
        zp__timer_set(guard->timer, 0);
        rc = 0;
    }
    if (rc < 0)
        zp__ctx_unguard_server(ctx);
    return rc;
}

void
zp__ctx_unguard_server(zp_ctx *ctx)
{
    struct zp__guard *guard = ctx->guard;

    if (!guard)
        return;
    drop_fd(guard);
    zp__handle_free(guard->timer);
    free(guard);
    ctx->guard = NULL;
}

/* ---------------------------------------------------------------- ping -- */

static int
need_client(zp_ctx *ctx)
{
    return ctx->client ? 0 : zp__client_new(&ctx->client, &ctx->place);
}

int
zp__ctx_zmq(zp_ctx *ctx, void **ret)
{
    int rc = need_client(ctx);

    return rc < 0 ? rc : zp__client_zmq(ctx->client, ret);
}

/* The smaller of two timeouts (negative: for ever). */
static double
sooner(double a, double b)
{
    if (a < 0 || b < 0)
        return fmax(a, b);
    return fmin(a, b);
}

/* Pings of growing patience until TIMEOUT has passed: a server that died is
 * started again in between, one that is only slow is given the time. */
static int
ping(zp_ctx *ctx, zp_pong *pong, const void *payload, size_t size,
     double timeout)
{
    double deadline = zp__now() + timeout, patience = PULSE, left = -1;
    int rc;

    for (;;) {
        if (!zp__server_alive(ctx->board)) {
            rc = zp__server_ensure(&ctx->place, ctx->board,
                                   sooner(timeout, ctx->start_timeout));
            if (rc < 0)
                return rc;
        }
        if (timeout >= 0)
            left = fmax(deadline - zp__now(), 0);
        rc = zp__client_ping(ctx->client, payload, size, sooner(patience, left),
                             pong);
        if (rc != -ETIMEDOUT || (timeout >= 0 && left <= patience))
            return rc;
        rc = zp__ctx_enter(ctx); /* closed meanwhile? */
        if (rc < 0)
            return rc;
        patience = fmin(patience * 2, PULSE_MAX);
    }
}

int
zp_ping(zp_ctx *ctx, zp_pong *ret_pong, const void *payload, size_t size,
        double timeout)
{
    zp_pong pong;
    int rc = zp__ctx_enter(ctx);

    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    if (size && !payload)
        rc = zp__fail(-EINVAL, "the payload is NULL");
    else if (size > ZP__PAYLOAD_MAX)
        rc = zp__fail(-EINVAL, "a payload of %zu bytes, limit %d", size,
                      ZP__PAYLOAD_MAX);
    else if (isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    else
        rc = zp__ctx_may_wait("zp_ping()");
    if (rc == 0)
        rc = need_client(ctx);
    if (rc == 0)
        rc = ping(ctx, &pong, payload, size, timeout);
    if (rc == 0 && ret_pong)
        *ret_pong = pong;
    return zp__ctx_done(ctx, rc);
}
