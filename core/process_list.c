/*
 * process_list.c - the processes of a state as its records tell of them: all,
 * one after the other, and what one has left.
 *
 * For anybody who is connected to the state, not for parents alone; so all of
 * it comes from the store. Each record is copied out and its read transaction
 * ended before the application sees it: what FN does can take as long as it
 * likes, and pins nothing. The next record is the first behind the id of the
 * last one: an end meanwhile moves a record to another kind of row, but never
 * in this order.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "core/context.h"
#include "core/record.h"
#include "core/value.h"

/* A record in memory of its own. */
struct entry {
    uint64_t id;
    void *data; /* the caller's to free */
    size_t size;
    size_t room; /* at DATA, kept from one record to the next */
    zp__record record;
};

/* ------------------------------------------------------------- fetching -- */

static int
keep(struct entry *entry, const void *data, size_t size)
{
    if (size > entry->room) {
        void *more = realloc(entry->data, size);

        if (!more)
            return zp__fail(-ENOMEM, "no memory for a process record");
        entry->data = more;
        entry->room = size;
    }
    memcpy(entry->data, data, size);
    entry->size = size;
    return 0;
}

/* The record ID, or (NEXT) the first one after it: 1, or 0 at the end. */
static int
copy(zp_ctx *ctx, struct entry *entry, uint64_t id, bool next)
{
    bool begun = zp__view_begun(ctx->view);
    const void *data;
    size_t size;
    int rc = zp__view_begin(ctx->view), found = 1;

    if (rc < 0)
        return rc;
    entry->id = id;
    if (next)
        rc = found =
            zp__view_next_record(ctx->view, id, &entry->id, &data, &size);
    else
        rc = zp__view_record(ctx->view, id, &data, &size);
    if (rc >= 0 && found)
        rc = keep(entry, data, size);
    if (!begun)
        zp__view_end(ctx->view);
    return rc < 0 ? zp__fail_code(rc) : found;
}

/* The same, understood. */
static int
fetch(zp_ctx *ctx, struct entry *entry, uint64_t id, bool next)
{
    int rc = copy(ctx, entry, id, next), decoded;

    if (rc <= 0)
        return rc;
    decoded = zp__record_decode(&entry->record, entry->data, entry->size);
    if (decoded < 0)
        return decoded;
    if (zp__record_lost(&entry->record))
        zp__record_lose(&entry->record);
    return rc;
}

static int
last_id(zp_ctx *ctx, uint64_t *ret)
{
    bool begun = zp__view_begun(ctx->view);
    int rc = zp__view_begin(ctx->view);

    if (rc < 0)
        return rc;
    rc = zp__view_last_record(ctx->view, ret);
    if (!begun)
        zp__view_end(ctx->view);
    return rc;
}

/* -------------------------------------------------------------- listing -- */

static int
state_of(const zp__record *record)
{
    switch (record->state) {
    case ZP__RECORD_RUNNING:
        return ZP_PROC_RUNNING;
    case ZP__RECORD_WAITING:
        return ZP_PROC_WAITING;
    default:
        return ZP_PROC_ENDED;
    }
}

static double
seconds(int64_t ns)
{
    return (double)ns * 1e-9;
}

static int
tell(const struct entry *entry, zp_process_fn *fn, void *user)
{
    const zp__record *record = &entry->record;
    const bool ended = record->state == ZP__RECORD_ENDED;
    const zp_process process = {
        .size = sizeof process,
        .id = entry->id,
        .state = state_of(record),
        .pid = record->id.pid,
        .parent = record->parent.pid,
        .parent_id = record->parent_record,
        .depth = record->depth,
        .attempts = record->attempts,
        .name = record->name,
        .ns = record->ns,
        .spawned = seconds(record->spawned_ns),
        .started = seconds(record->started_ns),
        .ended = seconds(record->ended_ns),
        .code = record->code,
        .status = record->status,
        .signal = record->signal,
        .core = record->core,
        .error = record->error,
        .origin = record->origin,
        .backtrace = record->backtrace,
        .has_result = ended && record->image_size > 0,
    };

    return fn(&process, user);
}

/* CTX is pinned. */
static int
each(zp_ctx *ctx, zp_process_fn *fn, void *user)
{
    struct entry entry;
    uint64_t last;
    int rc = last_id(ctx, &last);

    if (rc < 0)
        return rc;
    memset(&entry, 0, sizeof entry);
    for (;;) {
        rc = fetch(ctx, &entry, entry.id, true);
        if (rc <= 0)
            break;
        if (entry.id > last) {
            rc = 0;
            break;
        }
        rc = tell(&entry, fn, user);
        if (rc == 0)
            rc = zp__ctx_check(ctx); /* FN may have forked and come back */
        if (rc == 0 && ctx->dying)
            rc = zp__fail(-ECANCELED, "the context was freed meanwhile");
        if (rc)
            break;
    }
    free(entry.data);
    return rc;
}

int
zp_each_process(zp_ctx *ctx, zp_process_fn *fn, void *user)
{
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && !fn)
        rc = zp__fail(-EINVAL, "the function is NULL");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    zp__ctx_pin(ctx);
    rc = each(ctx, fn, user);
    if (zp__ctx_check(ctx) < 0)
        return rc;
    zp__ctx_done(ctx, rc);
    zp__ctx_unpin(ctx);
    return rc;
}

/* -------------------------------------------------------------- results -- */

/* The image that process ID left, checked: it comes from another process. */
static int
fetch_result(zp_ctx *ctx, struct entry *entry, uint64_t id)
{
    const zp__record *record = &entry->record;
    int rc;

    memset(entry, 0, sizeof *entry);
    rc = fetch(ctx, entry, id, false);
    if (rc < 0)
        return rc;
    if (record->state != ZP__RECORD_ENDED)
        return zp__fail(-EBUSY, "process %llu has not ended",
                        (unsigned long long)id);
    if (!record->image_size)
        return zp__fail(ZP_ENOKEY, "process %llu left no result%s%s",
                        (unsigned long long)id, *record->error ? ": it " : "",
                        record->error);
    return zp__image_check(record->image, record->image_size);
}

int
zp_process_get(zp_ctx *ctx, uint64_t id, const char *format, ...)
{
    struct entry entry;
    va_list ap;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    rc = fetch_result(ctx, &entry, id);
    if (rc == 0) {
        va_start(ap, format);
        rc =
            zp__decode(entry.record.image, entry.record.image_size, format, ap);
        va_end(ap);
    }
    free(entry.data);
    return zp__ctx_done(ctx, rc);
}

int
zp_process_get_value(zp_ctx *ctx, uint64_t id, zp_value **ret_value)
{
    struct entry entry;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && !ret_value)
        rc = zp__fail(-EINVAL, "ret_value is NULL");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    rc = fetch_result(ctx, &entry, id);
    if (rc == 0)
        rc = zp__value_copy(ret_value, entry.record.image,
                            entry.record.image_size);
    free(entry.data);
    return zp__ctx_done(ctx, rc);
}
