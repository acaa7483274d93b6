/*
 * wait.c - what stands around each call, each callback and each nested run of
 * a context.
 *
 * A context may be freed in any callback, and callbacks run inside of waits
 * that are inside of callbacks. Two counts keep this apart:
 *
 *   depth   callbacks of the context's own on the stack (watches, children).
 *           Who called them still needs the context: zp_ctx_free() only marks
 *           it then, and the last one to leave does the work.
 *   waits   runs on the stack, each a record that the work of freeing marks as
 *           `gone`: it never looks at the context again.
 *
 *     zp_run            wait 1
 *       callback          depth 1
 *         zp_wait           wait 2
 *           callback          depth 2: zp_ctx_free() -> dying
 *         zp_wait ends with ZP_ECLOSED
 *       callback leaves: depth 0 -> destroyed, wait 1 is gone
 *     zp_run returns ZP_ECLOSED
 *
 * The application's own watchers are called by libev, not by us, and are not
 * counted: freeing in one of those happens at once.
 *
 * Nobody tells a waiting process that the state was closed, the server may be
 * dead; so whatever waits looks at the board every quarter of a second.
 */
#include "core/context.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TICK 0.25  /* seconds */
#define THOROUGH 4 /* every so many ticks the owner is looked for */

/* A nested run on the C stack. */
struct zp__wait {
    struct zp__wait *outer;
    bool gone; /* the context was freed meanwhile */
};

/* --------------------------------------------------------------- calls -- */

int
zp__ctx_check(const zp_ctx *ctx)
{
    if (!ctx)
        return zp__fail(-EINVAL, "the context is NULL");
    if (ctx->token != zp__token())
        return zp__fail(ZP_EFORK, "the context was made before a fork, by "
                                  "another process");
    return 0;
}

int
zp__ctx_enter(const zp_ctx *ctx)
{
    int rc = zp__ctx_check(ctx);

    if (rc < 0)
        return rc;
    if (ctx->dying)
        return zp__fail(ZP_ECLOSED, "the context has been freed");
    if (zp__board_closed(ctx->board))
        return zp__fail(ZP_ECLOSED, "the state %s was closed by its owner",
                        ctx->place.run);
    return 0;
}

int
zp__ctx_done(const zp_ctx *ctx, int rc)
{
    zp_ctx *own = (zp_ctx *)ctx; /* of which only the text is changed */

    if (rc >= 0 || !ctx || ctx->token != zp__token())
        return rc;
    zp__fail_code(rc); /* a callback's own code has come without a text */
    own->error_code = rc;
    snprintf(own->error, sizeof own->error, "%s", zp__fail_text());
    return rc;
}

const char *
zp_ctx_error(const zp_ctx *ctx)
{
    if (!ctx)
        return zp__fail_text();
    if (ctx->token != zp__token())
        return zp_strerror(ZP_EFORK);
    return ctx->error;
}

/* ----------------------------------------------------------- callbacks -- */

void
zp__ctx_pin(zp_ctx *ctx)
{
    ctx->depth++;
}

bool
zp__ctx_unpin(zp_ctx *ctx)
{
    if (ctx->token != zp__token()) /* forked by the callback */
        return true;
    ctx->depth--;
    if (ctx->depth || !ctx->dying || ctx->leaving)
        return false;
    zp__ctx_destroy(ctx);
    return true;
}

/* A clock that stands still in nested runs: they hold nobody up. */
static double
busy_time(const zp_ctx *ctx)
{
    return zp__now() - ctx->waited;
}

double
zp__ctx_call(zp_ctx *ctx)
{
    zp__ctx_pin(ctx);
    return busy_time(ctx);
}

bool
zp__ctx_leave(zp_ctx *ctx, double called, int rc)
{
    double took = busy_time(ctx) - called;

    if (took > ctx->longest_callback)
        ctx->longest_callback = took;
    if (rc < 0)
        zp__loop_stop(ctx->loop, rc);
    return zp__ctx_unpin(ctx);
}

/* --------------------------------------------------------------- waits -- */

int
zp__ctx_may_wait(const char *what)
{
    if (zp__in_txn())
        return zp__fail(-EDEADLK,
                        "%s inside an atomic operation would hold "
                        "its lock for everybody",
                        what);
    return 0;
}

/* While something waits: end it when the state has been closed. An outer run
 * is ended by a later tick, after the inner one. */
static void
on_tick(void *user)
{
    zp_ctx *ctx = user;

    zp__timer_set(ctx->tick, TICK);
    if (zp__ctx_closed(ctx, ++ctx->ticks % THOROUGH == 0))
        zp__loop_stop(ctx->loop, ZP_ECLOSED);
}

static int
start_tick(zp_ctx *ctx)
{
    int rc = 0;

    if (!ctx->tick)
        rc = zp__loop_timer(ctx->loop, &ctx->tick, on_tick, ctx);
    if (rc == 0 && !ctx->waits)
        zp__timer_set(ctx->tick, TICK);
    return rc;
}

/* What is left to do in CTX after a run on it: end the run around it, too, if
 * the context is to be freed. */
static void
leave_wait(zp_ctx *ctx, struct zp__wait *wait)
{
    ctx->waits = wait->outer;
    if (!ctx->waits)
        zp__timer_set(ctx->tick, -1);
    if (ctx->dying)
        zp__loop_stop(ctx->loop, ZP_ECLOSED);
}

int
zp__ctx_wait(zp_ctx *ctx, const bool *done, double timeout, bool *ret_gone)
{
    struct zp__wait wait = {ctx->waits, false};
    uint64_t token = ctx->token;
    double began;
    int rc;

    *ret_gone = false;
    rc = zp__ctx_may_wait("waiting");
    if (rc < 0 || (done && *done))
        return rc;
    rc = start_tick(ctx);
    if (rc < 0)
        return rc;
    began = busy_time(ctx);
    ctx->waits = &wait;
    zp__ctx_waits(ctx);
    if (ctx->feed_waiting)
        ctx->feed_waiting(ctx);
    rc = zp__loop_run(ctx->loop, done, timeout);
    if (token != zp__token()) {
        *ret_gone = true; /* in this process: a callback has forked */
        return rc;
    }
    if (wait.gone) {
        *ret_gone = true;
        return zp__fail(ZP_ECLOSED, "the context was freed meanwhile");
    }
    ctx->waited = zp__now() - began;
    leave_wait(ctx, &wait);
    return rc;
}

/* Called by who frees CTX. */
void
zp__ctx_waits_gone(zp_ctx *ctx)
{
    struct zp__wait *wait;

    for (wait = ctx->waits; wait; wait = wait->outer)
        wait->gone = true;
    ctx->waits = NULL;
}

int
zp_run(zp_ctx *ctx)
{
    bool gone = false;
    int rc;

    rc = zp__ctx_enter(ctx);
    if (rc == 0)
        rc = zp__ctx_wait(ctx, NULL, -1, &gone);
    return gone ? rc : zp__ctx_done(ctx, rc);
}

int
zp_break(zp_ctx *ctx)
{
    int rc = zp__ctx_check(ctx);

    if (rc == 0)
        rc = zp__loop_break(ctx->loop);
    return zp__ctx_done(ctx, rc);
}

struct ev_loop *
zp_ev_loop(zp_ctx *ctx)
{
    return zp__ctx_check(ctx) < 0 ? NULL : zp__loop_ev(ctx->loop);
}
