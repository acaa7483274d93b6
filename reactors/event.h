/*
 * event.h - zp_event: what a callback gets. One is part of each turn's memory
 * and used for one event after another; its keys are copied, so that they stay
 * when the callback waits and the read transaction is gone.
 */
#ifndef ZP_REACTORS_EVENT_H
#define ZP_REACTORS_EVENT_H

#include "core/state.h"

struct zp_event {
    uint64_t token;
    enum zp_event_kind kind;
    int writer; /* pid */
    uint64_t revision;
    int64_t time_ns;
    uint64_t first, last; /* of what an overrun lost */
    struct zp__changed {
        size_t key; /* in `text` */
        unsigned flags;
    } * changes;
    size_t n, room;
    char *text;
    size_t text_size, text_room;
    zp_state snapshot, before;
};

/* Begin an event of a row, or one of another KIND (an overrun's lost range is
 * the caller's to fill in) as of REVISION; read through VIEW. */
void zp__event_row(zp_event *event, zp_ctx *ctx, zp__view *view, const char *ns,
                   const zp__row *row);
void zp__event_plain(zp_event *event, zp_ctx *ctx, zp__view *view,
                     const char *ns, enum zp_event_kind kind,
                     uint64_t revision);

/* Move FROM to TO (whose memory FROM gets), to be read through VIEW, which has
 * been begun; from then on TO is good as long as that is not ended. */
void zp__event_move(zp_event *to, zp_event *from, zp__view *view);

/* One more change. -ENOMEM. */
int zp__event_add(zp_event *event, const char *key, unsigned flags);

/* Free what it holds. */
void zp__event_clear(zp_event *event);

#endif
