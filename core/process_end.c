/*
 * process_end.c - an attempt has ended: reaped, judged, and followed by another
 * one, or the end for good.
 *
 * Only our own children are reaped, each by its pidfd: no SIGCHLD, no
 * waitpid(-1). Where there are none (valgrind has no pidfds) we look every
 * 10 ms, and go by the number, which stays a child's until we reap it. An
 * application that reaps everything, or ignores SIGCHLD, takes the exit status
 * away from us; the page still tells how the function ended.
 *
 * The exit status decides which story is told, the page has its words: a
 * function that returned and then died of a signal (on its last flush, say) was
 * ended by that signal.
 *
 *     DEFERRED --> RUNNING --> ENDED      succeeded, or no retry
 *                  |     ^
 *                  v     |                the timer, in the loop
 *                  WAITING ----> ENDED    stopped, or it cannot be started
 *
 * A zp_proc lives as long as its context; one that nobody has a pointer to goes
 * when its process has ended, and its exit callback has been called.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "core/process.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* ------------------------------------------------------- how it ended -- */

static void how(zp_proc *proc, int code, const char *format, ...)
    ZP_PRINTF(3, 4);

static void
how(zp_proc *proc, int code, const char *format, ...)
{
    va_list ap;

    proc->code = code;
    va_start(ap, format);
    vsnprintf(proc->error, sizeof proc->error, format, ap);
    va_end(ap);
}

/* Its function has returned, or could not be entered. */
static void
judge_page(zp_proc *proc)
{
    const zp__page *page = proc->page;

    proc->has_result = page->has_result;
    if (page->trouble || page->code < 0) {
        how(proc, page->trouble ? page->trouble : page->code, "%.*s",
            ZP__RECORD_TEXT, page->error);
        snprintf(proc->origin, sizeof proc->origin, "%.*s", ZP__RECORD_ORIGIN,
                 page->origin);
    } else {
        how(proc, page->code, "%s", "");
    }
}

/* It has called exit(), perhaps after zp_fail(). */
static void
judge_own_exit(zp_proc *proc, int status)
{
    const zp__page *page = proc->page;

    if (!page->origin[0]) {
        how(proc, ZP_EFAILED, "exited with status %d", status);
        return;
    }
    how(proc, ZP_EFAILED, "%.*s", ZP__RECORD_TEXT, page->error);
    snprintf(proc->origin, sizeof proc->origin, "%.*s", ZP__RECORD_ORIGIN,
             page->origin);
}

static void
judge_exit(zp_proc *proc, int status)
{
    proc->status = status;
    if (atomic_load(&proc->page->stage) == ZP__STAGE_RETURNED)
        judge_page(proc);
    else if (status)
        judge_own_exit(proc, status);
    else
        how(proc, 0, "%s", ""); /* exit(0) */
}

static void
judge_signal(zp_proc *proc, int number, bool core)
{
    const zp__crash *crash = &proc->page->crash;
    bool noted = atomic_load(&crash->signal) == number;
    char what[96];

    proc->status = -1;
    proc->signal = number;
    proc->core = core;
    how(proc, ZP_EFAILED, "killed by signal %d (%s)%s%s%s", number,
        strsignal(number), noted ? ": " : "",
        noted ? zp__crash_what(crash, number, what, sizeof what) : "",
        core ? ", core dumped" : "");
    proc->backtrace = noted ? zp__crash_text(crash) : NULL;
}

/* Somebody else has reaped it. */
static void
judge_stolen(zp_proc *proc)
{
    proc->status = -1;
    if (atomic_load(&proc->page->stage) == ZP__STAGE_RETURNED) {
        judge_page(proc);
        proc->status = proc->page->status;
    } else {
        how(proc, ZP_EFAILED,
            "ended, but its exit status was taken by "
            "another wait, or SIGCHLD is ignored");
    }
}

/* What is told of the attempt before. */
static void
forget_last(zp_proc *proc)
{
    proc->signal = proc->core = 0;
    proc->origin[0] = '\0';
    free(proc->backtrace);
    proc->backtrace = NULL;
}

static void
judge(zp_proc *proc, int rc, const siginfo_t *info)
{
    proc->ended_ns = zp__wall_ns();
    forget_last(proc);
    if (rc < 0)
        judge_stolen(proc);
    else if (info->si_code == CLD_EXITED)
        judge_exit(proc, info->si_status);
    else
        judge_signal(proc, info->si_status, info->si_code == CLD_DUMPED);
    proc->owes = !proc->page->recorded || proc->status < 0;
}

/* ----------------------------------------------------------- what then -- */

static void
tell_attempt(zp_proc *proc)
{
    if (proc->attempt_fn)
        proc->attempt_fn(proc, proc->attempt_user);
}

/* It has ended for good. */
static void
finish(zp_proc *proc)
{
    struct zp__ends *ends;

    proc->stage = ZP__PROC_ENDED;
    proc->ended = proc->ready = true;
    zp__timer_set(proc->timer, -1);
    zp__streams_free(proc, false);
    proc->retry = zp__retry_free(proc->retry);
    zp__proc_settle(proc);
    zp__proc_keep_result(proc);
    for (ends = proc->ctx->ends; ends; ends = ends->outer)
        ends->any = true;
    if (proc->exit_kick)
        zp__kick(proc->exit_kick);
    tell_attempt(proc);
}

static void
end_crash_loop(zp_proc *proc, double span)
{
    char last[sizeof proc->error];

    snprintf(last, sizeof last, "%s", proc->error);
    how(proc, ZP_ECRASHLOOP,
        "crash loop: failed too often within %.3g s (%u attempts in all); the "
        "last time: %.*s",
        span, proc->attempts, ZP__RECORD_TEXT - 100, last);
}

static double
randomly(void)
{
    struct timespec now;
    uint64_t x;

    clock_gettime(CLOCK_MONOTONIC, &now);
    x = (uint64_t)now.tv_nsec ^ (uint64_t)(uintptr_t)&now ^ zp__token();
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (double)((x ^ (x >> 31)) >> 11) / (double)(UINT64_C(1) << 53);
}

/* The attempt has failed: another one, later, or the end. */
static void
retry_or_finish(zp_proc *proc)
{
    zp__attempt attempt = {proc->code, proc->signal, proc->started, zp__now(),
                           randomly()};
    double delay = 0, span = 0;
    int verdict;

    verdict = proc->stopping || !proc->retry
                  ? ZP__RETRY_NOT
                  : zp__retry_ask(proc->retry, &attempt, &delay, &span);
    if (verdict == ZP__RETRY_LOOP)
        end_crash_loop(proc, span);
    if (verdict != ZP__RETRY_AFTER) {
        proc->owes |= proc->retry != NULL; /* it says: waiting */
        finish(proc);
        return;
    }
    proc->stage = ZP__PROC_WAITING;
    proc->ready = false;
    zp__proc_settle(proc);
    zp__timer_set(proc->timer, delay);
    tell_attempt(proc);
}

void
zp__proc_give_up(zp_proc *proc, int code, const char *text)
{
    if (proc->stage == ZP__PROC_DEFERRED) {
        proc->status = -1;
        how(proc, code, "%s", text);
    }
    proc->owes = true;
    finish(proc);
}

void
zp__proc_hurry(zp_proc *proc)
{
    if (proc->stage == ZP__PROC_WAITING)
        zp__timer_set(proc->timer, zp__retry_forgive(proc->retry));
}

/* The next attempt: what it cannot start for is a failure like any other. */
static void
start_again(zp_proc *proc)
{
    int rc = zp__proc_prepare(proc);

    forget_last(proc);
    proc->status = -1;
    if (rc == 0) {
        proc->status = ZP__EXIT_TROUBLE; /* if it cannot be run */
        rc = zp__proc_go(proc);
    }
    if (rc == 0)
        return;
    proc->ended_ns = zp__wall_ns();
    how(proc, rc, "could not be started again: %.*s", ZP__RECORD_TEXT,
        zp__fail_text());
    proc->owes = true;
    retry_or_finish(proc);
}

void
zp__proc_on_timer(void *user)
{
    zp_proc *proc = user;

    if (proc->stage == ZP__PROC_WAITING)
        start_again(proc);
    else if (proc->ended)
        zp__proc_settle(proc);
    zp__proc_let_go(proc);
}

/* --------------------------------------------------------------- reaping -- */

bool
zp__proc_look(zp_proc *proc)
{
    bool by_fd = proc->fd >= 0;
    siginfo_t info;
    int rc;

    if (proc->stage != ZP__PROC_RUNNING)
        return proc->ended;
    memset(&info, 0, sizeof info);
    do
        rc = waitid(by_fd ? (idtype_t)P_PIDFD : P_PID,
                    (id_t)(by_fd ? proc->fd : proc->id.pid), &info,
                    WEXITED | WNOHANG);
    while (rc < 0 && errno == EINTR);
    if (rc == 0 && info.si_pid == 0)
        return false;
    if (rc < 0 && zp__pid_alive(&proc->id))
        return false; /* ignored SIGCHLD: ECHILD comes before the end, too */
    judge(proc, rc, &info);
    zp__proc_release(proc);
    if (proc->code < 0)
        retry_or_finish(proc);
    else
        finish(proc);
    return proc->ended;
}

void
zp__proc_on_end(void *user)
{
    zp_proc *proc = user;

    if (!zp__proc_look(proc) && proc->stage == ZP__PROC_RUNNING && proc->fd < 0)
        zp__timer_set(proc->watch, ZP__PROC_LOOK);
    zp__proc_let_go(proc);
}

/* --------------------------------------------------------- exit callback -- */

void
zp__proc_forget_exit(zp_proc *proc)
{
    if (!proc->exit_kick)
        return;
    proc->exit_kick = zp__handle_free(proc->exit_kick);
    zp__loop_release(proc->ctx->loop);
    proc->exit_fn = NULL;
}

void
zp__proc_on_exit(void *user)
{
    zp_proc *proc = user;
    zp_ctx *ctx = proc->ctx;
    zp_result result = {.size = sizeof result};
    zp_exit_fn *fn = proc->exit_fn;
    double called;
    int rc;

    if (ctx->holds || !proc->ended) /* kicked again later */
        return;
    zp__proc_forget_exit(proc);
    (void)zp__proc_tell(proc, &result);
    proc->pins++;
    called = zp__ctx_call(ctx);
    rc = fn(proc, &result, proc->exit_user);
    if (zp__ctx_check(ctx) < 0) /* it has forked, and this is the other one */
        return;
    proc->pins--;
    zp__proc_let_go(proc);
    zp__ctx_leave(ctx, called, rc);
}

void
zp__procs_unheld(zp_ctx *ctx)
{
    zp_proc *proc;

    for (proc = ctx->procs; proc; proc = proc->next)
        if (proc->ended && proc->exit_kick)
            zp__kick(proc->exit_kick);
}

int
zp_call_when_exit(zp_proc *proc, zp_exit_fn *fn, void *user)
{
    int rc = zp__proc_enter(proc, zp__ctx_enter);

    if (rc < 0)
        return zp__proc_done(proc, rc);
    if (!fn) {
        zp__proc_forget_exit(proc);
        return 0;
    }
    if (!proc->exit_kick) {
        rc = zp__loop_kick(proc->ctx->loop, &proc->exit_kick, zp__proc_on_exit,
                           proc);
        if (rc < 0)
            return zp__proc_done(proc, rc);
        zp__loop_hold(proc->ctx->loop);
    }
    proc->exit_fn = fn;
    proc->exit_user = user;
    if (zp__proc_look(proc))
        zp__kick(proc->exit_kick);
    return 0;
}

/* ------------------------------------------------------------ letting go -- */

void
zp__proc_free(zp_proc *proc)
{
    zp__proc_release(proc);
    zp__proc_forget_exit(proc);
    zp__streams_free(proc, true);
    zp__handle_free(proc->timer);
    zp__retry_free(proc->retry);
    zp__job_free(&proc->job);
    zp_value_free(proc->result);
    free(proc->backtrace);
    free(proc);
}

void
zp__proc_let_go(zp_proc *proc)
{
    zp_proc **at = &proc->ctx->procs;

    if (!proc->ended || !proc->unasked || proc->pins || proc->exit_kick ||
        proc->owes)
        return;
    while (*at != proc)
        at = &(*at)->next;
    *at = proc->next;
    zp__proc_free(proc);
}

void
zp__procs_sweep(zp_ctx *ctx)
{
    zp_proc *proc, *next;

    for (proc = ctx->procs; proc; proc = next) {
        next = proc->next;
        if (proc->unasked)
            zp__proc_on_end(proc);
    }
}

zp_proc *
zp_proc_free(zp_proc *proc)
{
    if (!proc || zp__ctx_check(proc->ctx) < 0 || proc->ctx->leaving)
        return NULL;
    proc->unasked = true;
    (void)zp__proc_look(proc);
    zp__proc_let_go(proc);
    return NULL;
}
