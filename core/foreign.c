/*
 * foreign.c - a context in a loop that is not libev's: what to wait for, and
 * what to do then.
 *
 *     application: fd, events, timeout --> poll() or whatever it has
 *                  dispatch            --> one look, as a run of the loop
 *
 * Whoever waits inside of zproc is told that the state was closed by a tick
 * (wait.c). Here nobody is inside while the application sleeps, and waking it
 * up four times a second only to look would be a poor guest. So who asks for
 * the descriptor has the server watched over as watches do (guard.c): it ends
 * when the state is closed, its pidfd is in the set, and the application wakes
 * up by that alone.
 */
#include <errno.h>
#include <poll.h>

#include "core/context.h"

static int
poll_fd(zp_ctx *ctx)
{
    bool guarded = ctx->guard != NULL;
    int rc = zp__ctx_guard_server(ctx);

    if (rc < 0)
        return rc;
    rc = zp__loop_poll_fd(ctx->loop);
    if (rc < 0 && !guarded)
        zp__ctx_unguard_server(ctx);
    return rc;
}

int
zp_ctx_fd(zp_ctx *ctx)
{
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = poll_fd(ctx);
    return zp__ctx_done(ctx, rc);
}

int
zp_ctx_events(zp_ctx *ctx)
{
    int rc = zp__ctx_enter(ctx);

    return rc < 0 ? zp__ctx_done(ctx, rc) : POLLIN;
}

int
zp_ctx_timeout(zp_ctx *ctx, double *ret_timeout)
{
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && !ret_timeout)
        rc = zp__fail(-EINVAL, "ret_timeout is NULL");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    *ret_timeout = zp__loop_poll_timeout(ctx->loop);
    return 0;
}

int
zp_ctx_dispatch(zp_ctx *ctx)
{
    bool gone = false;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = zp__ctx_wait(ctx, NULL, 0, &gone);
    return gone ? rc : zp__ctx_done(ctx, rc);
}
