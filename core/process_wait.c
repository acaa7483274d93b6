/*
 * process_wait.c - waiting for children, reading what they left, stopping them.
 *
 * Who waits runs the context's loop until the child has been reaped there; who
 * frees the context does without, since its callbacks must not run any more:
 * it polls the pidfds.
 */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/process.h"
#include "core/value.h"

#define KILL_MAX 5.0 /* seconds that a killed process may take to end */

/* ------------------------------------------------------------------ wait -- */

/* Every entry on a process: CHECK is zp__ctx_enter() or zp__ctx_check(). */
static int
enter(const zp_proc *proc, int (*check)(const zp_ctx *ctx))
{
    return proc ? check(proc->ctx) : zp__fail(-EINVAL, "the process is NULL");
}

static int
done(const zp_proc *proc, int rc)
{
    return zp__ctx_done(proc ? proc->ctx : NULL, rc);
}

static int
check_result(const zp_result *result)
{
    if (result && (result->size < sizeof result->size || result->size > 4096))
        return zp__fail(-EINVAL, "result.size is not set");
    return 0;
}

/* " (name)", or nothing. */
static const char *
called(const zp_proc *proc, char *buffer, size_t size)
{
    if (proc->name[0])
        snprintf(buffer, size, " (%s)", proc->name);
    else
        buffer[0] = '\0';
    return buffer;
}

/* Tell how PROC has ended: 0 or ZP_EFAILED. */
static int
tell(const zp_proc *proc, zp_result *ret)
{
    char name[ZP__RECORD_NAME + 4];
    zp_result result;

    memset(&result, 0, sizeof result);
    result.code = proc->code;
    result.status = proc->status;
    result.signal = proc->signal;
    result.core = proc->core;
    result.error = proc->error;
    result.origin = proc->origin;
    if (ret) {
        result.size = ret->size;
        memset(ret, 0, result.size); /* what a later version may know */
        memcpy(ret, &result,
               result.size < sizeof result ? result.size : sizeof result);
    }
    if (proc->code >= 0)
        return 0;
    return zp__fail(ZP_EFAILED, "process %d%s: %s%s%s", (int)proc->id.pid,
                    called(proc, name, sizeof name), proc->error,
                    proc->origin[0] ? ", at " : "", proc->origin);
}

/* Wait until PROC has ended. When *RET_GONE it is gone, with its context. */
static int
wait_for(zp_proc *proc, double timeout, bool *ret_gone)
{
    char name[ZP__RECORD_NAME + 4];
    int rc;

    *ret_gone = false;
    if (zp__proc_look(proc))
        return 0;
    rc = zp__ctx_wait(proc->ctx, &proc->ended, timeout, ret_gone);
    if (rc == -ETIMEDOUT && !*ret_gone)
        return zp__fail(rc, "process %d%s has not ended within %g s",
                        (int)proc->id.pid, called(proc, name, sizeof name),
                        timeout);
    return rc;
}

int
zp_wait(zp_proc *proc, zp_result *ret_result, double timeout)
{
    bool gone;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0)
        rc = check_result(ret_result);
    if (rc == 0 && isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_wait()");
    if (rc < 0)
        return done(proc, rc);
    rc = wait_for(proc, timeout, &gone);
    if (gone)
        return rc;
    return done(proc, rc < 0 ? rc : tell(proc, ret_result));
}

int
zp_proc_pid(const zp_proc *proc)
{
    int rc = enter(proc, zp__ctx_check);

    return rc < 0 ? done(proc, rc) : (int)proc->id.pid;
}

int
zp_proc_alive(zp_proc *proc)
{
    int rc = enter(proc, zp__ctx_check);

    return rc < 0 ? done(proc, rc) : !zp__proc_look(proc);
}

/* ---------------------------------------------------------------- result -- */

/* Read the result from the record, checked: its bytes come from another
 * process. */
static int
read_result(zp_proc *proc)
{
    zp__view *view = proc->ctx->view;
    bool begun = zp__view_begun(view);
    zp__record record;
    const void *data;
    size_t size;
    int rc = zp__view_begin(view);

    if (rc < 0)
        return rc;
    rc = zp__view_record(view, proc->record, &data, &size);
    if (rc == 0)
        rc = zp__record_decode(&record, data, size);
    if (rc == 0)
        rc = zp__image_check(record.image, record.image_size);
    if (rc == 0)
        rc = zp__value_copy(&proc->result, record.image, record.image_size);
    if (!begun)
        zp__view_end(view);
    return zp__fail_code(rc);
}

static int
need_result(zp_proc *proc)
{
    if (!zp__proc_look(proc))
        return zp__fail(-EBUSY, "process %d has not ended", (int)proc->id.pid);
    if (!proc->has_result)
        return zp__fail(ZP_ENOKEY, "process %d left no result",
                        (int)proc->id.pid);
    return proc->result ? 0 : read_result(proc);
}

int
zp_proc_get(zp_proc *proc, const char *format, ...)
{
    const void *image;
    size_t size;
    va_list ap;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc == 0)
        rc = need_result(proc);
    if (rc < 0)
        return done(proc, rc);
    image = zp_value_image(proc->result, &size);
    va_start(ap, format);
    rc = zp__decode(image, size, format, ap);
    va_end(ap);
    return done(proc, rc);
}

int
zp_proc_get_value(zp_proc *proc, zp_value **ret_value)
{
    const void *image;
    size_t size;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0 && !ret_value)
        rc = zp__fail(-EINVAL, "ret_value is NULL");
    if (rc == 0)
        rc = need_result(proc);
    if (rc == 0) {
        image = zp_value_image(proc->result, &size);
        rc = zp__value_copy(ret_value, image, size);
    }
    return done(proc, rc);
}

/* ------------------------------------------------------------------ stop -- */

static void
send_signal(const zp_proc *proc, int number)
{
    if (proc->ended)
        return;
    if (proc->fd >= 0)
        syscall(SYS_pidfd_send_signal, proc->fd, number, NULL, 0);
    else
        (void)zp__pid_kill(&proc->id, number);
}

/* What ends the wait early (zp_break(), a callback's error) ends the stopping:
 * the process has had its TERM, and stopping can be called again. */
int
zp_stop(zp_proc *proc, zp_result *ret_result)
{
    double deadline;
    bool gone;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0)
        rc = check_result(ret_result);
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_stop()");
    if (rc < 0)
        return done(proc, rc);
    if (!zp__proc_look(proc))
        send_signal(proc, SIGTERM);
    deadline = zp__now() + proc->ctx->grace;
    rc = wait_for(proc, proc->ctx->grace, &gone);
    if (rc == -ETIMEDOUT && zp__now() >= deadline) { /* no callback's code */
        send_signal(proc, SIGKILL);
        rc = wait_for(proc, -1, &gone);
    }
    if (gone)
        return rc;
    return done(proc, rc < 0 ? rc : tell(proc, ret_result));
}

/* Wait for PROC's end until DEADLINE (infinite: for ever), without callbacks.
 */
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

void
zp__procs_wait(zp_ctx *ctx)
{
    zp_proc *proc = ctx->procs;
    bool gone;
    int rc = 0;

    /* Any of them may go meanwhile (unasked), others may come: from the
     * start again each time. */
    while (proc && rc == 0) {
        if (zp__proc_look(proc)) {
            proc = proc->next;
            continue;
        }
        proc->unasked = false; /* `ended` is looked at */
        rc = zp__ctx_wait(ctx, &proc->ended, -1, &gone);
        proc = ctx->procs;
    }
}

/* A sender in an ended process is skipped; all are told before one is waited
 * for. Here no callbacks run: the context is half gone. */
void
zp__procs_end(zp_ctx *ctx)
{
    double grace = ctx->grace < 0 ? INFINITY : ctx->grace;
    double deadline;
    zp_proc *proc;
    int rc = 0;

    for (proc = ctx->procs; proc; proc = proc->next)
        if (!zp__proc_look(proc))
            send_signal(proc, SIGTERM);
    deadline = zp__now() + grace;
    for (proc = ctx->procs; proc; proc = proc->next)
        if (!ended_by(proc, deadline))
            send_signal(proc, SIGKILL);
    deadline = zp__now() + KILL_MAX;
    for (proc = ctx->procs; proc; proc = proc->next)
        ended_by(proc, deadline);
    while ((proc = ctx->procs)) {
        ctx->procs = proc->next;
        if (rc == 0) /* do not wait for the lock again and again */
            rc = zp__proc_forget(proc);
        zp__proc_free(proc);
    }
}
