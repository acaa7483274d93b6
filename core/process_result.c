/*
 * process_result.c - what a process has left: how it ended, and its result.
 *
 * The result stands in the record, which is forgotten when ten thousand others
 * have ended after it; so its parent reads a small one at once, and keeps it
 * as long as the zp_proc.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/image.h"
#include "core/process.h"
#include "core/value.h"

#define KEEP_MAX                                                               \
    ((size_t)1 << 16) /* bytes of a result that is read at once                \
                       */

int
zp__proc_enter(const zp_proc *proc, int (*check)(const zp_ctx *ctx))
{
    return proc ? check(proc->ctx) : zp__fail(-EINVAL, "the process is NULL");
}

int
zp__proc_done(const zp_proc *proc, int rc)
{
    return zp__ctx_done(proc ? proc->ctx : NULL, rc);
}

const char *
zp__proc_who(const zp_proc *proc, char *buffer)
{
    int n = snprintf(buffer, ZP__PROC_WHO, "process");

    if (proc->id.pid)
        n += snprintf(buffer + n, ZP__PROC_WHO - (size_t)n, " %d",
                      (int)proc->id.pid);
    if (proc->name[0])
        snprintf(buffer + n, ZP__PROC_WHO - (size_t)n, " (%s)", proc->name);
    return buffer;
}

/* -------------------------------------------------------- how it ended -- */

int
zp__result_check(const zp_result *result)
{
    if (result && (result->size < sizeof result->size || result->size > 4096))
        return zp__fail(-EINVAL, "result.size is not set");
    return 0;
}

/* An array is of structs that are all of one version, and thus size. */
int
zp__results_check(const zp_result *results, size_t n)
{
    const char *at = (const char *)results;
    size_t i;
    int rc = 0;

    if (!results && n)
        return zp__fail(-EINVAL, "the results are NULL, n is %zu", n);
    for (i = 0; rc == 0 && i < n; i++, at += results->size) {
        rc = zp__result_check((const zp_result *)at);
        if (rc == 0 && ((const zp_result *)at)->size != results->size)
            rc = zp__fail(-EINVAL, "results[%zu].size is another", i);
    }
    return rc;
}

static void
fill(const zp_proc *proc, zp_result *ret)
{
    zp_result result;
    size_t size = ret->size;

    memset(&result, 0, sizeof result);
    result.size = size;
    result.code = proc->ended ? proc->code : -EBUSY;
    result.status = proc->ended ? proc->status : -1;
    result.signal = proc->signal;
    result.core = proc->core;
    result.error = proc->ended ? proc->error : "";
    result.origin = proc->origin;
    result.backtrace = proc->backtrace ? proc->backtrace : "";
    result.attempts = proc->attempts;
    result.pid = (int)proc->id.pid;
    result.started = (double)proc->started_ns / 1e9;
    result.ended = proc->ended ? (double)proc->ended_ns / 1e9 : 0;
    memset(ret, 0, size); /* what a later version may know */
    memcpy(ret, &result, size < sizeof result ? size : sizeof result);
}

int
zp__proc_tell(const zp_proc *proc, zp_result *ret)
{
    char who[ZP__PROC_WHO];

    if (ret)
        fill(proc, ret);
    if (!proc->ended)
        return zp__fail(-EBUSY, "%s has not ended", zp__proc_who(proc, who));
    if (proc->code >= 0)
        return 0;
    return zp__fail(ZP_EFAILED, "%s: %s%s%s", zp__proc_who(proc, who),
                    proc->error, proc->origin[0] ? ", at " : "", proc->origin);
}

/* ---------------------------------------------------------------- result -- */

/* Read the result, of at most MAX bytes, from the record, checked: its bytes
 * come from another process. */
static int
read_result(zp_proc *proc, size_t max)
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
    if (rc == ZP_ENOKEY)
        rc = zp__fail(ZP_EGONE,
                      "the record of process %d was forgotten, and "
                      "its result with it",
                      (int)proc->id.pid);
    if (rc == 0)
        rc = zp__record_decode(&record, data, size);
    if (rc == 0 && record.image_size <= max) {
        rc = zp__image_check(record.image, record.image_size);
        if (rc == 0)
            rc = zp__value_copy(&proc->result, record.image, record.image_size);
    }
    if (!begun)
        zp__view_end(view);
    return zp__fail_code(rc);
}

void
zp__proc_keep_result(zp_proc *proc)
{
    if (proc->has_result && !proc->result && !proc->unasked &&
        !proc->ctx->leaving)
        (void)read_result(proc, KEEP_MAX);
}

static int
need_result(zp_proc *proc)
{
    char who[ZP__PROC_WHO];

    if (!zp__proc_look(proc))
        return zp__fail(-EBUSY, "%s has not ended", zp__proc_who(proc, who));
    if (!proc->has_result)
        return zp__fail(ZP_ENOKEY, "%s left no result",
                        zp__proc_who(proc, who));
    return proc->result ? 0 : read_result(proc, SIZE_MAX);
}

int
zp_proc_get(zp_proc *proc, const char *format, ...)
{
    const void *image;
    size_t size;
    va_list ap;
    int rc = zp__proc_enter(proc, zp__ctx_enter);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc == 0)
        rc = need_result(proc);
    if (rc < 0)
        return zp__proc_done(proc, rc);
    image = zp_value_image(proc->result, &size);
    va_start(ap, format);
    rc = zp__decode(image, size, format, ap);
    va_end(ap);
    return zp__proc_done(proc, rc);
}

int
zp_proc_get_value(zp_proc *proc, zp_value **ret_value)
{
    const void *image;
    size_t size;
    int rc = zp__proc_enter(proc, zp__ctx_enter);

    if (rc == 0 && !ret_value)
        rc = zp__fail(-EINVAL, "ret_value is NULL");
    if (rc == 0)
        rc = need_result(proc);
    if (rc == 0) {
        image = zp_value_image(proc->result, &size);
        rc = zp__value_copy(ret_value, image, size);
    }
    return zp__proc_done(proc, rc);
}

/* ------------------------------------------------------------- questions -- */

int
zp_proc_pid(const zp_proc *proc)
{
    int rc = zp__proc_enter(proc, zp__ctx_check);

    if (rc < 0)
        return zp__proc_done(proc, rc);
    return proc->stage == ZP__PROC_WAITING ? 0 : (int)proc->id.pid;
}

int
zp_proc_alive(zp_proc *proc)
{
    int rc = zp__proc_enter(proc, zp__ctx_check);

    if (rc < 0)
        return zp__proc_done(proc, rc);
    return proc->stage != ZP__PROC_DEFERRED && !zp__proc_look(proc);
}

const char *
zp_proc_name(const zp_proc *proc)
{
    return zp__proc_enter(proc, zp__ctx_check) < 0 ? NULL : proc->name;
}

uint64_t
zp_proc_id(const zp_proc *proc)
{
    return zp__proc_enter(proc, zp__ctx_check) < 0 ? 0 : proc->record;
}
