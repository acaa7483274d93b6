/*
 * event.c - what a callback gets to see: the change, the snapshot at exactly
 * its revision, and the one before it.
 *
 * The two snapshots are embedded handles that read through the feed's view,
 * which is not ended while the callback runs; only when it waits.
 */
#include "reactors/event.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void
begin(zp_event *event, zp_ctx *ctx, enum zp_event_kind kind, uint64_t revision)
{
    event->token = ctx->token;
    event->kind = kind;
    event->revision = revision;
    event->n = 0;
    event->text_size = 0;
}

void
zp__event_row(zp_event *event, zp_ctx *ctx, zp__view *view, const char *ns,
              const zp__row *row)
{
    begin(event, ctx, ZP_CHANGED, row->revision);
    event->writer = row->pid;
    event->time_ns = row->time_ns;
    zp__state_embed(&event->snapshot, ctx, view, ns, row->revision);
    zp__state_embed(&event->before, ctx, view, ns, row->revision - 1);
}

void
zp__event_plain(zp_event *event, zp_ctx *ctx, zp__view *view, const char *ns,
                enum zp_event_kind kind, uint64_t revision)
{
    struct timespec now;

    begin(event, ctx, kind, revision);
    clock_gettime(CLOCK_REALTIME, &now);
    event->writer = 0;
    event->time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    event->first = event->last = 0;
    zp__state_embed(&event->snapshot, ctx, view, ns, revision);
}

void
zp__event_move(zp_event *to, zp_event *from, zp__view *view)
{
    zp_event moved = *from;

    *from = *to;
    *to = moved;
    to->snapshot.view = view;
    to->before.view = view;
}

/* Room for MORE of SIZE bytes each, in steps that double. */
static int
make_room(void *array, size_t *room, size_t used, size_t more, size_t size)
{
    void *old, *grown;
    size_t want = *room ? *room : 16;

    if (more <= *room - used)
        return 0;
    while (want - used < more)
        want *= 2;
    memcpy(&old, array, sizeof old);
    grown = realloc(old, want * size);
    if (!grown)
        return zp__fail(-ENOMEM, "no memory for an event");
    memcpy(array, &grown, sizeof grown);
    *room = want;
    return 0;
}

int
zp__event_add(zp_event *event, const char *key, unsigned flags)
{
    size_t size = strlen(key) + 1;
    int rc = make_room(&event->changes, &event->room, event->n, 1,
                       sizeof *event->changes);

    if (rc == 0)
        rc = make_room(&event->text, &event->text_room, event->text_size, size,
                       1);
    if (rc < 0)
        return rc;
    memcpy(event->text + event->text_size, key, size);
    event->changes[event->n].key = event->text_size;
    event->changes[event->n].flags = flags;
    event->text_size += size;
    event->n++;
    return 0;
}

void
zp__event_clear(zp_event *event)
{
    free(event->changes);
    free(event->text);
}

/* ------------------------------------------------------------- public -- */

static int
enter(const zp_event *event)
{
    if (!event)
        return zp__fail(-EINVAL, "the event is NULL");
    if (event->token != zp__token())
        return zp__fail(ZP_EFORK, "the event belongs to another process");
    return 0;
}

int
zp_event_kind(const zp_event *event)
{
    int rc = enter(event);

    return rc < 0 ? rc : (int)event->kind;
}

uint64_t
zp_event_revision(const zp_event *event)
{
    return enter(event) < 0 ? 0 : event->revision;
}

double
zp_event_time(const zp_event *event)
{
    return enter(event) < 0 ? 0 : (double)event->time_ns * 1e-9;
}

int
zp_event_writer(const zp_event *event)
{
    int rc = enter(event);

    return rc < 0 ? rc : event->writer;
}

size_t
zp_event_length(const zp_event *event)
{
    return enter(event) < 0 ? 0 : event->n;
}

int
zp_event_change(const zp_event *event, zp_change *ret_change, size_t i)
{
    int rc = enter(event);

    if (rc < 0)
        return rc;
    if (!ret_change)
        return zp__state_done(&event->snapshot,
                              zp__fail(-EINVAL, "ret_change is NULL"));
    if (i >= event->n)
        return zp__state_done(
            &event->snapshot,
            zp__fail(-ERANGE, "change %zu of %zu", i, event->n));
    ret_change->key = event->text + event->changes[i].key;
    ret_change->flags = event->changes[i].flags;
    return 0;
}

/* The handles are read through by functions that change them: not const. */
static int
value_in(const zp_state *snapshot, const char *key, bool absent,
         zp_value **ret_value)
{
    *ret_value = NULL;
    return absent ? 0 : zp_get_value((zp_state *)snapshot, key, ret_value);
}

int
zp_event_values(const zp_event *event, zp_value **ret_before,
                zp_value **ret_after, size_t i)
{
    zp_value *before = NULL, *after = NULL;
    zp_change change;
    int rc = zp_event_change(event, &change, i);

    if (rc == 0 && ret_before)
        rc = value_in(&event->before, change.key, change.flags & ZP_CREATED,
                      &before);
    if (rc == 0 && ret_after)
        rc = value_in(&event->snapshot, change.key, change.flags & ZP_DELETED,
                      &after);
    if (rc < 0) {
        zp_value_free(before);
        return rc;
    }
    if (ret_before)
        *ret_before = before;
    if (ret_after)
        *ret_after = after;
    return 0;
}

zp_state *
zp_event_snapshot(const zp_event *event)
{
    return enter(event) < 0 ? NULL : (zp_state *)&event->snapshot;
}

zp_state *
zp_event_before(const zp_event *event)
{
    if (enter(event) < 0 || event->kind != ZP_CHANGED)
        return NULL;
    return (zp_state *)&event->before;
}

int
zp_event_lost(const zp_event *event, uint64_t *ret_first, uint64_t *ret_last)
{
    int rc = enter(event);

    if (rc < 0)
        return rc;
    if (event->kind != ZP_OVERRUN)
        return zp__state_done(&event->snapshot,
                              zp__fail(-EINVAL, "nothing was lost: the event "
                                                "is of a change"));
    if (ret_first)
        *ret_first = event->first;
    if (ret_last)
        *ret_last = event->last;
    return 0;
}
