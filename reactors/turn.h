/*
 * turn.h - what a turn of the feed knows, for the files that make it up:
 * match.c tells who wants what of a row, turn.c reads and calls.
 */
#ifndef ZP_REACTORS_TURN_H
#define ZP_REACTORS_TURN_H

#include "reactors/event.h"
#include "reactors/feed.h"

/* That a tap wants a change of the row in hand. */
typedef struct zp__hit {
    zp__tap *tap;    /* a reference is held */
    const char *key; /* the tap's; NULL: look for all of its keys */
    unsigned flags;  /* zp_change_flag */
    uint32_t i;      /* which change */
} zp__hit;

/* The memory of a turn: as many as turns are on the stack. */
struct zp__frame {
    zp__frame *next;
    zp__hit *hits;
    size_t n, room;
    bool mixed; /* not in order of registration as they came */
    zp_event event;
};

typedef struct zp__turn {
    zp__feed *feed;
    zp__frame *frame;
    zp__row row; /* the one in hand */
    uint64_t head, tail;
    uint64_t epoch; /* of the view */
    uint64_t limit; /* the order of the first tap that is not of this turn */
    unsigned events;
    unsigned before; /* of this part */
    unsigned quota;
    double until;
    bool more; /* there is more to do than this turn did */
} zp__turn;

/* Is TAP free to be called in this turn? */
static inline bool
zp__is_free(const zp__turn *t, const zp__tap *tap)
{
    if (!tap->active || tap->busy || tap->order >= t->limit)
        return false;
    return tap->fetches ? tap->awaited : !t->feed->ctx->holds;
}

/* Can this turn call TAP for what is in the log? */
static inline bool
zp__can_call(const zp__turn *t, const zp__tap *tap)
{
    return zp__is_free(t, tap) && !tap->looks;
}

/* ---- match.c ---- */

/* Read row REVISION and collect who of READER's taps wants something of it, in
 * order of registration: the frame's hits, each with a reference. */
int zp__match(zp__turn *t, const zp__reader *reader, uint64_t from,
              uint64_t revision);
void zp__drop_hits(zp__frame *frame); /* also when the context is gone */

/* Is the row in hand the next for TAP, in a scan that began behind FROM? One
 * that was further back then has rows to see before this one. */
bool zp__is_next(const zp__turn *t, const zp__tap *tap,
                 const zp__reader *reader, uint64_t from);

/* The row's event for TAP, from its N hits (none: whatever it wants of it). */
int zp__make_event(zp__turn *t, zp__tap *tap, const zp__hit *hits, size_t n);

void zp__frame_free(zp__frame *frame);

#endif
