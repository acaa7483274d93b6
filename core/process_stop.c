/*
 * process_stop.c - ending children: TERM, the grace period, KILL.
 *
 * With TERM goes a CONT: a process that was stopped hears of it, too. What
 * has been told to stop makes no further attempts, whatever becomes of the
 * waiting.
 *
 * zp_stop() and zp_ctx_stop() run the context's loop meanwhile; who frees the
 * context does without, since its callbacks must not run any more: it polls the
 * pidfds.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/process.h"

#define KILL_MAX 5.0 /* seconds that a killed process may take to end */
#define FOR_EVER 1e6

void
zp__proc_signal(const zp_proc *proc, int number)
{
    if (proc->stage != ZP__PROC_RUNNING)
        return;
    if (proc->fd >= 0)
        syscall(SYS_pidfd_send_signal, proc->fd, number, NULL, 0);
    else
        (void)zp__pid_kill(&proc->id, number);
}

static void
send_term(const zp_proc *proc)
{
    zp__proc_signal(proc, SIGTERM);
    zp__proc_signal(proc, SIGCONT);
}

/* Tell PROC to end: false if there is nothing to wait for. */
static bool
begin(zp_proc *proc)
{
    proc->stopping = true;
    if (zp__proc_look(proc))
        return false;
    if (proc->stage != ZP__PROC_RUNNING) {
        zp__proc_give_up(proc, -ECANCELED, "stopped before it was started");
        return false;
    }
    send_term(proc);
    proc->kill_at = proc->grace < 0 ? INFINITY : zp__now() + proc->grace;
    proc->killed = false;
    return true;
}

/* Kill PROC if that is due. How long it may be waited for; negative: it has
 * not ended in time after a KILL. */
static double
press_one(zp_proc *proc)
{
    double now = zp__now();

    if (now >= proc->kill_at && proc->killed)
        return -1;
    if (now >= proc->kill_at) {
        zp__proc_signal(proc, SIGKILL);
        proc->killed = true;
        proc->kill_at = now + KILL_MAX;
    }
    return proc->kill_at > now + FOR_EVER ? FOR_EVER : proc->kill_at - now;
}

/* The same of all: 0: they have ended; negative: those that are left would
 * not even after a KILL. */
static double
press(const zp__procs *procs)
{
    double left, least = 0;
    size_t i;

    for (i = 0; i < procs->n; i++) {
        if (zp__proc_look(procs->list[i]))
            continue;
        left = press_one(procs->list[i]);
        if (!(fabs(least) > 0) || (left > 0 && (least < 0 || left < least)))
            least = left;
    }
    return least;
}

static int
stop(zp_ctx *ctx, const zp__procs *procs, bool *ret_gone)
{
    double left;
    size_t i;
    int rc;

    *ret_gone = false;
    for (i = 0; i < procs->n; i++)
        (void)begin(procs->list[i]);
    while ((left = press(procs)) > 0) {
        rc = zp__procs_wait_any(ctx, left, ret_gone);
        if (*ret_gone ||
            (rc < 0 && (rc != -ETIMEDOUT || zp__loop_was_stopped(ctx->loop))))
            return rc;
    }
    return left < 0 ? zp__fail(-ETIMEDOUT, "a killed process does not end") : 0;
}

int
zp_stop(zp_proc *proc, zp_result *ret_result)
{
    zp__procs one = {&proc, 1};
    zp_ctx *ctx;
    bool gone;
    int rc = zp__proc_enter(proc, zp__ctx_enter);

    if (rc == 0)
        rc = zp__result_check(ret_result);
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_stop()");
    if (rc < 0)
        return zp__proc_done(proc, rc);
    ctx = proc->ctx;
    proc->pins++;
    rc = stop(ctx, &one, &gone);
    if (gone)
        return rc;
    proc->pins--;
    zp__proc_settle(proc);
    if (rc == 0 && proc->unasked)
        rc = zp__fail(-ECANCELED, "the process was given back meanwhile");
    else if (rc == 0)
        rc = zp__proc_tell(proc, ret_result);
    zp__ctx_done(ctx, rc);
    zp__proc_let_go(proc);
    return rc;
}

int
zp_ctx_stop(zp_ctx *ctx, zp_result *ret_results, size_t n)
{
    zp__procs procs;
    bool gone;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = zp__results_check(ret_results, n);
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_ctx_stop()");
    if (rc == 0)
        rc = zp__procs_take(ctx, &procs, ZP__DEFERRED_TOO);
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    rc = stop(ctx, &procs, &gone);
    if (gone) {
        zp__procs_give(&procs, true);
        return rc;
    }
    zp__ctx_done(ctx, rc);
    (void)zp__procs_results(&procs, ret_results, n);
    zp__procs_give(&procs, false);
    return rc;
}

/* ---------------------------------------------------- without callbacks -- */

/* Wait for PROC's end until DEADLINE (infinite: for ever). */
static bool
ended_by(zp_proc *proc, double deadline)
{
    struct pollfd poller = {.events = POLLIN};
    double left;

    while (!zp__proc_look(proc)) {
        left = deadline - zp__now();
        if (left <= 0)
            return false;
        poller.fd = proc->fd;
        if (proc->fd < 0 && left > ZP__PROC_LOOK)
            left = ZP__PROC_LOOK;
        poll(&poller, 1, left < 60 ? (int)(left * 1e3) + 1 : 60000);
    }
    return true;
}

/* All are told before one is waited for. */
void
zp__procs_end(zp_ctx *ctx)
{
    double deadline;
    zp_proc *proc;

    for (proc = ctx->procs; proc; proc = proc->next)
        (void)begin(proc);
    for (proc = ctx->procs; proc; proc = proc->next)
        if (!proc->ended && !ended_by(proc, proc->kill_at))
            zp__proc_signal(proc, SIGKILL);
    deadline = zp__now() + KILL_MAX;
    for (proc = ctx->procs; proc; proc = proc->next)
        (void)ended_by(proc, deadline);
    while ((proc = ctx->procs)) {
        ctx->procs = proc->next;
        zp__proc_free(proc);
    }
}
