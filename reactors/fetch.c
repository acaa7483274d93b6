/*
 * fetch.c - zp_watch_next(): wait for the next event of an iterator.
 *
 * Between two calls an iterator is a tap that is not called: it stands apart in
 * the log, and what happens stays there. A call lets the feed's turns call it,
 * runs the loop until one has, and stops it again where it is. So a wait that
 * ends without an event has lost nothing, and one that ends with a callback's
 * error keeps an event that came with it for the next call.
 */
#include "reactors/watch.h"

#include <errno.h>
#include <math.h>

/* Has the tap seen all of the log up to HEAD, and been called for it? */
static bool
has_looked(const zp__tap *tap, uint64_t head)
{
    if (!tap->active)
        return true;
    return !tap->looks && !tap->found_at && !tap->expired &&
           zp__tap_cursor(tap) >= head;
}

/* Wait, but not without having seen what there was at the call, however little
 * time there is: then as many runs more as that takes. */
static int
look(zp_ctx *ctx, const zp__tap *tap, const zp__fetch *fetch, double timeout,
     bool *ret_gone)
{
    uint64_t head;
    int rc = zp__feed_head(ctx, &head);

    if (rc == 0)
        rc = zp__ctx_wait(ctx, &fetch->done, timeout, ret_gone);
    while (rc == -ETIMEDOUT && !*ret_gone && zp__ctx_enter(ctx) == 0 &&
           !zp__loop_was_stopped(ctx->loop) && !has_looked(tap, head))
        rc = zp__ctx_wait(ctx, &fetch->done, 0, ret_gone);
    return rc;
}

/* What has come of it. */
static int
outcome(const zp_watch *watch, const zp_ctx *ctx)
{
    int rc;

    if (watch->has)
        return 1;
    if (watch->complete)
        return 0;
    rc = zp__ctx_enter(ctx);
    return rc < 0 ? rc
                  : zp__fail(-ECANCELED, "the watch was cancelled or freed "
                                         "while it was waited for");
}

static int
check(const zp_watch *watch)
{
    if (watch->fetch)
        return zp__fail(-EBUSY, "the watch's next event is waited for already, "
                                "by a call that this one is inside of");
    if (!watch->tap.active)
        return zp__fail(-ECANCELED, "the watch was cancelled");
    return zp__ctx_may_wait("waiting for an event");
}

int
zp__watch_fetch(zp_watch *watch, double timeout, bool *ret_gone)
{
    zp__fetch fetch = {false};
    zp__tap *tap = &watch->tap;
    zp_ctx *ctx = tap->feed->ctx;
    bool holds = tap->flags & ZP_HOLD;
    int rc;

    *ret_gone = false;
    if (!watch->fetch && (watch->has || watch->complete))
        return watch->has;
    rc = check(watch);
    if (rc < 0)
        return rc;
    tap->refs++;
    watch->fetch = &fetch;
    if (holds)
        zp__feed_hold(ctx);
    zp__tap_await(tap, true);
    rc = look(ctx, tap, &fetch, timeout, ret_gone);
    if (!*ret_gone) {
        zp__tap_await(tap, false);
        watch->fetch = NULL;
        if (holds)
            zp__feed_unhold(ctx);
        rc = rc == 0 ? outcome(watch, ctx) : rc;
    }
    zp__tap_unref(tap);
    return rc;
}

int
zp_watch_next(zp_watch *watch, const zp_event **ret_event, double timeout)
{
    zp_ctx *ctx;
    bool gone;
    int rc;

    if (!watch)
        return zp__fail(-EINVAL, "the watch is NULL");
    if (watch->token != zp__token())
        return zp__fail(ZP_EFORK, "the watch belongs to another process");
    ctx = watch->tap.feed->ctx;
    rc = zp__ctx_enter(ctx);
    if (rc == 0 && watch->fn)
        rc = zp__fail(-EINVAL, "the watch has a callback: it is no iterator");
    if (rc == 0 && !ret_event)
        rc = zp__fail(-EINVAL, "ret_event is NULL");
    if (rc == 0 && isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    if (!watch->has && !watch->fetch)
        zp__view_end(watch->view); /* of the event before */
    rc = zp__watch_fetch(watch, timeout, &gone);
    if (gone)
        return rc;
    if (rc == 1) {
        watch->has = false;
        *ret_event = &watch->event;
    }
    return zp__ctx_done(ctx, rc);
}
