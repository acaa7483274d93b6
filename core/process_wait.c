/*
 * process_wait.c - waiting for children: for the end of one, of all, for
 * readiness.
 *
 * Who waits runs the context's loop until the child has been reaped there. What
 * is waited for is pinned: a callback may give the handle back meanwhile.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "core/process.h"

/* ------------------------------------------------------------------ one -- */

/* Wait for *DONE, something of PROC's. When *RET_GONE its context is gone, and
 * PROC with it. */
static int
wait_for(zp_proc *proc, const bool *done, const char *what, double timeout,
         bool *ret_gone)
{
    char who[ZP__PROC_WHO];
    zp_ctx *ctx = proc->ctx;
    int rc;

    proc->pins++;
    rc = zp__ctx_wait(ctx, done, timeout, ret_gone);
    if (*ret_gone)
        return rc;
    proc->pins--;
    if (rc == -ETIMEDOUT && !zp__loop_was_stopped(ctx->loop))
        rc = zp__fail(rc, "%s %s within %g s", zp__proc_who(proc, who), what,
                      timeout);
    if (rc == 0 && proc->unasked)
        rc = zp__fail(-ECANCELED, "%s was given back meanwhile",
                      zp__proc_who(proc, who));
    if (rc < 0)
        zp__ctx_done(ctx, rc);
    zp__proc_let_go(proc);
    return rc;
}

static int
may_wait(zp_proc *proc, double timeout, const char *what)
{
    char who[ZP__PROC_WHO];
    int rc = zp__proc_enter(proc, zp__ctx_enter);

    if (rc == 0 && isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    if (rc == 0)
        rc = zp__ctx_may_wait(what);
    if (rc == 0 && proc->stage == ZP__PROC_DEFERRED)
        rc = zp__fail(-EINVAL, "%s has not been started",
                      zp__proc_who(proc, who));
    return rc;
}

int
zp_wait(zp_proc *proc, zp_result *ret_result, double timeout)
{
    bool gone;
    int rc = may_wait(proc, timeout, "zp_wait()");

    if (rc == 0)
        rc = zp__result_check(ret_result);
    if (rc < 0)
        return zp__proc_done(proc, rc);
    if (!zp__proc_look(proc)) {
        rc = wait_for(proc, &proc->ended, "has not ended", timeout, &gone);
        if (rc < 0)
            return rc;
    }
    zp__proc_settle(proc);
    return zp__proc_done(proc, zp__proc_tell(proc, ret_result));
}

int
zp_wait_ready(zp_proc *proc, double timeout)
{
    bool gone;
    int rc = may_wait(proc, timeout, "zp_wait_ready()");

    if (rc < 0)
        return zp__proc_done(proc, rc);
    if (!zp__proc_look(proc) && proc->page && atomic_load(&proc->page->ready))
        proc->ready = true;
    if (!proc->ready) {
        rc = wait_for(proc, &proc->ready, "is not ready", timeout, &gone);
        if (rc < 0)
            return rc;
    }
    return proc->ended ? zp__proc_done(proc, zp__proc_tell(proc, NULL)) : 0;
}

/* -------------------------------------------------------------- several -- */

int
zp__procs_wait_any(zp_ctx *ctx, double timeout, bool *ret_gone)
{
    struct zp__ends ends = {ctx->ends, false};
    int rc;

    ctx->ends = &ends;
    rc = zp__ctx_wait(ctx, &ends.any, timeout, ret_gone);
    if (!*ret_gone)
        ctx->ends = ends.outer;
    return rc;
}

int
zp__procs_take(zp_ctx *ctx, zp__procs *ret, unsigned too)
{
    zp_proc *proc;
    size_t n = 0;

    for (proc = ctx->procs; proc; proc = proc->next)
        n++;
    ret->n = 0;
    ret->list = malloc((n ? n : 1) * sizeof *ret->list);
    if (!ret->list)
        return zp__fail(-ENOMEM, "no memory to wait for %zu processes", n);
    for (proc = ctx->procs; proc; proc = proc->next)
        if (((too & ZP__DEFERRED_TOO) || proc->stage != ZP__PROC_DEFERRED) &&
            ((too & ZP__WORKERS_TOO) || !proc->worker)) {
            proc->pins++;
            ret->list[ret->n++] = proc;
        }
    return 0;
}

void
zp__procs_give(zp__procs *procs, bool gone)
{
    size_t i;

    for (i = 0; !gone && i < procs->n; i++) {
        procs->list[i]->pins--;
        zp__proc_settle(procs->list[i]);
        zp__proc_let_go(procs->list[i]);
    }
    free(procs->list);
}

size_t
zp__procs_results(const zp__procs *procs, zp_result *ret_results, size_t n)
{
    size_t i, told = 0, failed = 0;
    char *at = (char *)ret_results;

    for (i = 0; i < procs->n; i++) {
        zp_proc *proc = procs->list[i];

        failed += proc->ended && proc->code < 0;
        if (!ret_results || told == n || proc->unasked)
            continue;
        (void)zp__proc_tell(proc, (zp_result *)at);
        at += ((zp_result *)at)->size;
        told++;
    }
    return failed;
}

/* How things are: the first that has failed, and how many run. */
static size_t
running(const zp__procs *procs, zp_proc **ret_failed)
{
    size_t i, n = 0;

    *ret_failed = NULL;
    for (i = 0; i < procs->n; i++) {
        zp_proc *proc = procs->list[i];

        if (!zp__proc_look(proc))
            n++;
        else if (proc->code < 0 && !*ret_failed)
            *ret_failed = proc;
    }
    return n;
}

static int
wait_for_all(zp_ctx *ctx, const zp__procs *procs, unsigned flags,
             double timeout, bool *ret_gone)
{
    double deadline = zp__now() + timeout, left = timeout;
    zp_proc *failed;
    size_t n;
    int rc = 0;

    *ret_gone = false;
    for (;;) {
        n = running(procs, &failed);
        if (failed && !(flags & ZP_SAFE))
            return zp__proc_tell(failed, NULL);
        if (!n)
            return 0;
        if (rc < 0)
            break;
        if (timeout > 0)
            left = deadline > zp__now() ? deadline - zp__now() : 0;
        rc = zp__procs_wait_any(ctx, left, ret_gone);
        if (*ret_gone ||
            (rc < 0 && (rc != -ETIMEDOUT || zp__loop_was_stopped(ctx->loop))))
            return rc;
    }
    return zp__fail(rc, "%zu of %zu processes have not ended within %g s", n,
                    procs->n, timeout);
}

int
zp_ctx_wait(zp_ctx *ctx, zp_result *ret_results, size_t n, unsigned flags,
            double timeout)
{
    zp__procs procs;
    size_t failed;
    bool gone;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && (flags & ~(unsigned)ZP_SAFE))
        rc = zp__fail(-EINVAL, "unknown flags 0x%x", flags);
    if (rc == 0 && isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    if (rc == 0)
        rc = zp__results_check(ret_results, n);
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_ctx_wait()");
    if (rc == 0)
        rc = zp__procs_take(ctx, &procs, 0);
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    rc = wait_for_all(ctx, &procs, flags, timeout, &gone);
    if (gone) {
        zp__procs_give(&procs, true);
        return rc;
    }
    rc = zp__ctx_done(ctx, rc);
    failed = zp__procs_results(&procs, ret_results, n);
    zp__procs_give(&procs, false);
    return rc < 0 ? rc : (int)failed;
}

void
zp__procs_wait(zp_ctx *ctx)
{
    zp__procs procs;
    bool gone;

    if (zp__procs_take(ctx, &procs, ZP__WORKERS_TOO) < 0)
        return;
    (void)wait_for_all(ctx, &procs, ZP_SAFE, -1, &gone);
    zp__procs_give(&procs, gone);
}
