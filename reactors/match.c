/*
 * match.c - who wants what of a row of the log.
 *
 * A change is looked up twice, by its key and (once per namespace of the row)
 * by its namespace, in the table of subscriptions, whose entries link to the
 * taps: so a row costs what it changed and whom it concerns, not how many taps
 * there are. Topics are hashes: the names are compared as well.
 *
 * Of a tap with listed keys each change that it wants is a hit. One of a whole
 * namespace has one hit per row, and its changes are gathered when its event is
 * made: else a transaction of many keys times many such taps would fill memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/turn.h"

/* -------------------------------------------------------------- memory -- */

void
zp__frame_free(zp__frame *frame)
{
    zp__event_clear(&frame->event);
    free(frame->hits);
    free(frame);
}

void
zp__frames_free(zp__frame *frames)
{
    while (frames) {
        zp__frame *next = frames->next;

        zp__frame_free(frames);
        frames = next;
    }
}

static int
add_hit(zp__frame *frame, zp__tap *tap, const char *key, unsigned flags,
        uint32_t i)
{
    if (frame->n == frame->room) {
        size_t room = frame->room ? frame->room * 2 : 16;
        zp__hit *grown = realloc(frame->hits, room * sizeof *grown);

        if (!grown)
            return zp__fail(-ENOMEM, "no memory for events");
        frame->hits = grown;
        frame->room = room;
    }
    if (frame->n && frame->hits[frame->n - 1].tap->order > tap->order)
        frame->mixed = true;
    frame->hits[frame->n++] = (zp__hit){tap, key, flags, i};
    tap->refs++;
    return 0;
}

/* A reference is only memory. */
void
zp__drop_hits(zp__frame *frame)
{
    while (frame->n)
        zp__tap_unref(frame->hits[--frame->n].tap);
    frame->mixed = false;
}

/* ------------------------------------------------------------ matching -- */

static bool
own_write(const zp__turn *t, const zp__tap *tap)
{
    return t->row.writer == tap->writer && !(tap->flags & ZP_OWN);
}

bool
zp__is_next(const zp__turn *t, const zp__tap *tap, const zp__reader *reader,
            uint64_t from)
{
    uint64_t cursor = zp__tap_cursor(tap);

    return zp__can_call(t, tap) && tap->reader == reader && cursor >= from &&
           cursor < t->row.revision;
}

static int
match_key(zp__turn *t, const zp__reader *reader, uint64_t from,
          const zp__log_change *change, uint32_t i)
{
    zp__sub *sub = zp__subs_find(&t->feed->subs, ZP__TOPIC_KEY,
                                 zp__topic_key(change->ns, change->key));
    int rc = 0;

    if (!sub)
        return 0;
    ZP__EACH(at, next, &sub->links)
    {
        zp__link *link = ZP__OF(at, zp__link, node);
        zp__tap *tap = link->tap;

        if (strcmp(link->key, change->key) != 0 ||
            strcmp(tap->ns, change->ns) != 0 ||
            !zp__is_next(t, tap, reader, from) || own_write(t, tap))
            continue;
        if ((change->flags & ZP_IDENTICAL) && !(tap->flags & ZP_SAME))
            continue;
        rc = add_hit(t->frame, tap, link->key, change->flags, i);
        if (rc < 0)
            break;
    }
    return rc;
}

static int
match_ns(zp__turn *t, const zp__reader *reader, uint64_t from,
         const zp__sub *sub, const zp__log_change *change, uint32_t i)
{
    int rc = 0;

    ZP__EACH(at, next, &sub->links)
    {
        zp__tap *tap = ZP__OF(at, zp__link, node)->tap;

        if (tap->mark == t->feed->rows || !zp__is_next(t, tap, reader, from) ||
            own_write(t, tap) || !zp__tap_wants(tap, change))
            continue;
        tap->mark = t->feed->rows;
        rc = add_hit(t->frame, tap, NULL, 0, i);
        if (rc < 0)
            break;
    }
    return rc;
}

static int
compare_hits(const void *a, const void *b)
{
    const zp__hit *x = a, *y = b;

    if (x->tap->order != y->tap->order)
        return x->tap->order < y->tap->order ? -1 : 1;
    return x->i < y->i ? -1 : x->i > y->i;
}

int
zp__match(zp__turn *t, const zp__reader *reader, uint64_t from,
          uint64_t revision)
{
    zp__log_change change;
    const char *ns = ""; /* of the row, like all that it points to */
    zp__sub *sub = NULL;
    int rc = zp__view_row(t->feed->view, revision, &t->row);

    t->feed->rows++;
    for (uint32_t i = 0; rc == 0 && i < t->row.n; i++) {
        rc = zp__row_change(t->feed->view, &t->row, i, &change);
        if (rc < 0)
            break;
        if (strcmp(ns, change.ns) != 0) {
            ns = change.ns;
            sub = zp__subs_find(&t->feed->subs, ZP__TOPIC_NS, zp__topic_ns(ns));
        }
        rc = match_key(t, reader, from, &change, i);
        if (rc == 0 && sub)
            rc = match_ns(t, reader, from, sub, &change, i);
    }
    if (rc == 0 && t->frame->mixed)
        qsort(t->frame->hits, t->frame->n, sizeof *t->frame->hits,
              compare_hits);
    return rc;
}

/* -------------------------------------------------------------- events -- */

/* All changes of the row in hand that TAP wants. */
static int
add_all(zp__turn *t, zp__tap *tap)
{
    zp__log_change change;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < t->row.n; i++) {
        rc = zp__row_change(t->feed->view, &t->row, i, &change);
        if (rc == 0 && zp__tap_wants(tap, &change))
            rc = zp__event_add(&t->frame->event, change.key, change.flags);
    }
    return rc;
}

int
zp__make_event(zp__turn *t, zp__tap *tap, const zp__hit *hits, size_t n)
{
    zp_event *event = &t->frame->event;
    int rc = 0;

    zp__event_row(event, t->feed->ctx, t->feed->view, tap->ns, &t->row);
    if (n == 0 || !hits->key)
        return add_all(t, tap);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = zp__event_add(event, hits[i].key, hits[i].flags);
    return rc;
}
