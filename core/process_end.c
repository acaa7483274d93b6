/*
 * process_end.c - how a child ended: reaped, judged, forgotten.
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
 * A zp_proc lives as long as its context; one that nobody asked for
 * (ret_proc NULL) goes when its process has ended. With it goes its record.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/process.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define FORGET_MAX 0.2 /* seconds that a record's deletion may wait */

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

static void
judge_exit(zp_proc *proc, int status)
{
    proc->status = status;
    if (atomic_load(&proc->page->stage) == ZP__STAGE_RETURNED)
        judge_page(proc);
    else if (status)
        how(proc, ZP_EFAILED, "exited with status %d", status);
    else
        how(proc, 0, "%s", ""); /* exit(0) */
}

static void
judge_signal(zp_proc *proc, int number, bool core)
{
    proc->status = -1;
    proc->signal = number;
    proc->core = core;
    how(proc, ZP_EFAILED, "killed by signal %d (%s)%s", number,
        strsignal(number), core ? ", core dumped" : "");
}

/* Somebody else has reaped it. */
static void
judge_stolen(zp_proc *proc)
{
    proc->status = -1;
    if (atomic_load(&proc->page->stage) == ZP__STAGE_RETURNED) {
        judge_page(proc);
        proc->status =
            proc->page->trouble ? ZP__EXIT_TROUBLE : proc->page->code < 0;
    } else {
        how(proc, ZP_EFAILED,
            "ended, but its exit status was taken by "
            "another wait, or SIGCHLD is ignored");
    }
}

/* --------------------------------------------------------------- reaping -- */

/* Give back what is needed only while it runs. */
static void
release(zp_proc *proc)
{
    proc->watch = zp__handle_free(proc->watch);
    if (proc->fd >= 0) {
        zp__own_forget(proc->fd_owned);
        close(proc->fd);
        proc->fd = -1;
    }
    if (proc->page) {
        zp__own_forget(proc->page_owned);
        munmap(proc->page, sizeof *proc->page);
        proc->page = NULL;
    }
}

/* One that cannot be deleted soon stays: it tells nothing wrong. Those of an
 * ephemeral state go with it, when its owner ends. */
int
zp__proc_forget(const zp_proc *proc)
{
    const zp_ctx *ctx = proc->ctx;
    double timeout = ctx->lock_timeout;

    if (!proc->record || (ctx->owner && ctx->dying && !ctx->place.durable))
        return 0;
    if (timeout < 0 || timeout > FORGET_MAX)
        timeout = FORGET_MAX;
    return zp__store_delete_record(ctx->store, proc->record, timeout);
}

void
zp__proc_free(zp_proc *proc)
{
    release(proc);
    zp_value_free(proc->result);
    free(proc);
}

bool
zp__proc_look(zp_proc *proc)
{
    bool by_fd = proc->fd >= 0;
    siginfo_t info;
    int rc;

    if (proc->ended)
        return true;
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
    if (rc < 0)
        judge_stolen(proc);
    else if (info.si_code == CLD_EXITED)
        judge_exit(proc, info.si_status);
    else
        judge_signal(proc, info.si_status, info.si_code == CLD_DUMPED);
    release(proc);
    proc->ended = true;
    return true;
}

static void
unlink_proc(zp_proc *proc)
{
    zp_proc **at = &proc->ctx->procs;

    while (*at != proc)
        at = &(*at)->next;
    *at = proc->next;
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

void
zp__proc_on_end(void *user)
{
    zp_proc *proc = user;
    bool ended = zp__proc_look(proc);

    if (ended && proc->unasked) {
        unlink_proc(proc);
        zp__proc_forget(proc);
        zp__proc_free(proc);
    } else if (!ended && proc->fd < 0) {
        zp__timer_set(proc->watch, ZP__PROC_LOOK);
    }
}
