/*
 * process_record.c - a process's record in the state, as its parent writes it.
 *
 * The parent writes at each start, when a retry is due, and how it ended if
 * the child could not tell (a signal, exit(), a program, the last of several
 * attempts). The child itself writes its end with its result (child.c), so what
 * is there of a result is kept.
 *
 * A write can fail (the lock is taken, the state is full, we are inside an
 * atomic operation): then the process `owes` its record, and the timer, the
 * next wait or the end of the context try again. Until then whoever reads the
 * record sees a process that runs, though no such process is there. Of many
 * that end while somebody sits on the lock only the first waits for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/process.h"

#define SETTLE_MAX 0.2   /* seconds that a record may wait for the lock */
#define SETTLE_AGAIN 1.0 /* seconds until the next try */

static void
describe(const zp_proc *proc, zp__record *ret)
{
    const zp_ctx *ctx = proc->ctx;

    memset(ret, 0, sizeof *ret);
    ret->state = proc->stage == ZP__PROC_ENDED     ? ZP__RECORD_ENDED
                 : proc->stage == ZP__PROC_WAITING ? ZP__RECORD_WAITING
                                                   : ZP__RECORD_RUNNING;
    ret->depth = ctx->child ? ctx->child->depth + 1 : 1;
    ret->id = proc->id;
    if (proc->stage == ZP__PROC_WAITING)
        memset(&ret->id, 0, sizeof ret->id);
    ret->parent = zp__pid_self();
    ret->parent_record = ctx->child ? ctx->child->page->record : 0;
    ret->attempts = proc->attempts;
    ret->spawned_ns = proc->spawned_ns;
    ret->started_ns = proc->started_ns;
    ret->ns = proc->job.ns;
    ret->name = proc->name;
    if (proc->stage == ZP__PROC_RUNNING)
        return;
    ret->ended_ns = proc->ended_ns;
    ret->code = proc->code;
    ret->status = proc->status;
    ret->signal = proc->signal;
    ret->core = proc->core;
    ret->error = proc->error;
    ret->origin = proc->origin;
    ret->backtrace = proc->backtrace;
}

/* RECORD as bytes, with the image that the child has left. */
static int
encode(const zp_proc *proc, zp__record *record, void **ret, size_t *ret_size)
{
    zp__view *view = proc->ctx->view;
    bool begun = zp__view_begun(view);
    zp__record old;
    const void *data;
    size_t size;
    int rc;

    if (!proc->has_result || proc->stage == ZP__PROC_RUNNING)
        return zp__record_encode(record, ret, ret_size);
    rc = zp__view_begin(view);
    if (rc < 0)
        return rc;
    rc = zp__view_record(view, proc->record, &data, &size);
    if (rc == 0)
        rc = zp__record_decode(&old, data, size);
    if (rc == 0) {
        record->image = old.image;
        record->image_size = old.image_size;
        rc = zp__record_encode(record, ret, ret_size);
    }
    if (!begun)
        zp__view_end(view);
    return rc;
}

static int
write_record(zp_proc *proc, double timeout)
{
    zp__record record;
    void *data;
    size_t size;
    int rc;

    describe(proc, &record);
    rc = encode(proc, &record, &data, &size);
    if (rc < 0)
        return zp__fail_code(rc);
    rc = zp__store_put_record(proc->ctx->store, &proc->record, data, size,
                              proc->stage == ZP__PROC_ENDED, timeout);
    free(data);
    return zp__fail_code(rc);
}

int
zp__proc_record(zp_proc *proc)
{
    return write_record(proc, proc->ctx->lock_timeout);
}

/* What cannot be deleted now stays, until we have ended: then the server sees
 * to it. Of many only the first waits for the lock. */
void
zp__proc_unrecord(zp_proc *proc)
{
    zp_ctx *ctx = proc->ctx;
    double timeout = zp__now() < ctx->unsettled ? 0 : ctx->lock_timeout;

    if (proc->record &&
        zp__store_delete_record(ctx->store, proc->record, timeout) < 0)
        ctx->unsettled = zp__now() + SETTLE_AGAIN / 2;
    proc->record = 0;
}

/* Those of an ephemeral state go with it, when its owner ends. */
static bool
in_vain(const zp_proc *proc)
{
    const zp_ctx *ctx = proc->ctx;

    return !proc->record || (ctx->owner && ctx->dying && !ctx->place.durable) ||
           zp__board_closed(ctx->board);
}

void
zp__proc_settle(zp_proc *proc)
{
    zp_ctx *ctx = proc->ctx;
    double timeout = ctx->lock_timeout;

    if (!proc->owes)
        return;
    if (timeout < 0 || timeout > SETTLE_MAX)
        timeout = SETTLE_MAX;
    if (zp__now() < ctx->unsettled)
        timeout = 0;
    proc->owes =
        !in_vain(proc) && (zp__in_txn() || write_record(proc, timeout) < 0);
    if (!proc->owes)
        return;
    if (timeout > 0)
        ctx->unsettled = zp__now() + SETTLE_AGAIN / 2;
    zp__timer_set(proc->timer, SETTLE_AGAIN);
}
