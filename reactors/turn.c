/*
 * turn.c - a turn of the feed: the log is read from where the taps stand, and
 * whoever wants what stands there is called.
 *
 *     drain the socket                 (first: a commit after this brings news)
 *     begin the view: tail .. head
 *     first looks  at their cursors, before any row
 *     overruns     whom the log has passed is told so
 *     live         look ahead to the head, remembering the newest match of each
 *                  tap; then call those; what lies between is skipped
 *     in line      from `read` to the head, row by row, tap by tap
 *     laggards     from the lowest cursor to `read`, likewise
 *     expiries     of those that have seen all there was in their time
 *     end the view; more to do: another turn, soon
 *
 * Each part gets its share of the turn's events, rows and time, and at least
 * one event; so neither a backlog nor a live tap that always has news keeps the
 * others, the application's watchers among them, from their turn. A turn that
 * a callback ends is followed by one that begins with the next part.
 *
 * What a callback may do to us: anything. It may end, free or add taps, free
 * the context, or run the loop, in which case another turn comes *inside* of
 * this one, with the same view begun afresh. Against all that:
 *
 *  - a tap is put apart with its new cursor before its callback, so whoever
 *    reads next, in this turn or an inner one, goes on behind the event;
 *  - a tap that is busy (below on the stack) is passed over, and its cursor
 *    stays; what happens meanwhile waits for it in the log;
 *  - what a row matched is kept with references, and each tap is looked at
 * again before it is called;
 *  - when a callback comes back and the view is not the one from before, the
 *    turn ends then and there and begins anew: nothing that it knew holds. It
 *    does not move anybody's cursor any more, the inner turn has;
 *  - taps that were registered since the turn began are not of this turn.
 *
 * Rows that only some of their taps have got (the turn's share was used up) are
 * matched again next time: `read` is moved only past whole rows.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/turn.h"

#define NOBODY UINT64_MAX
#define RETRY 0.1 /* seconds after an error */

/* What comes out of a part; an error is negative. */
enum {
    GO = 0,
    SPENT, /* its share is used up */
    STOP,  /* the turn is over */
    GONE   /* the context is: touch nothing */
};

/* ------------------------------------------------------------- calling -- */

/* A part of the turn begins: so many events more at most. */
static void
share(zp__turn *t, unsigned events)
{
    t->before = t->events;
    t->quota = t->events + events;
    t->until = zp__now() + ZP__SLICE;
}

static bool
spent(const zp__turn *t)
{
    return t->events >= t->quota ||
           (t->events > t->before && zp__now() > t->until);
}

/* Call TAP, which is apart with its new cursor, with the frame's event. */
static int
call(zp__turn *t, zp__tap *tap)
{
    zp__feed *feed = t->feed;
    zp_ctx *ctx = feed->ctx;
    uint64_t token = ctx->token;
    double called;
    int rc;

    t->events++;
    tap->busy = true;
    tap->refs++;
    called = zp__ctx_call(ctx);
    rc = tap->call(tap, &t->frame->event);
    if (token != zp__token()) /* the callback forked, and this is the child */
        return GONE;
    tap->busy = false;
    zp__tap_unref(tap);
    if (zp__ctx_leave(ctx, called, rc))
        return GONE;
    if (ctx->dying || !zp__view_begun(feed->view) ||
        zp__view_epoch(feed->view) != t->epoch || zp__loop_ending(ctx->loop))
        return STOP;
    return GO;
}

static int
call_overrun(zp__turn *t, zp__tap *tap, uint64_t first)
{
    zp__tap_found(tap, 0);
    if (zp__tap_cursor(tap) < t->tail - 1)
        zp__tap_apart(tap, t->tail - 1);
    zp__event_plain(&t->frame->event, t->feed->ctx, t->feed->view, tap->ns,
                    ZP_OVERRUN, t->head);
    t->frame->event.first = first;
    t->frame->event.last = t->tail - 1;
    return call(t, tap);
}

/* With an event that is not in the log. */
static int
call_plain(zp__turn *t, zp__tap *tap, enum zp_event_kind kind)
{
    uint64_t revision = zp__tap_cursor(tap);

    zp__tap_apart(tap, revision);
    zp__event_plain(&t->frame->event, t->feed->ctx, t->feed->view, tap->ns,
                    kind, revision);
    return call(t, tap);
}

/* ------------------------------------------------------------ overruns -- */

/* The lowest cursor among READER's taps that can be called. */
static uint64_t
lowest(const zp__turn *t, const zp__reader *reader)
{
    uint64_t low = reader->in_line ? reader->read : NOBODY;

    ZP__EACH(at, next, &reader->apart)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, apart);

        if (zp__can_call(t, tap) && tap->cursor < low)
            low = tap->cursor;
    }
    return low;
}

/* One that the log has passed, or NULL. Looks at all taps only if there is
 * one. */
static zp__tap *
find_overrun(const zp__turn *t, const zp__reader *reader)
{
    uint64_t low = lowest(t, reader);

    if (low == NOBODY || low + 1 >= t->tail)
        return NULL;
    ZP__EACH(at, next, &t->feed->taps)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, node);

        if (tap->reader == reader && zp__can_call(t, tap) &&
            zp__tap_cursor(tap) + 1 < t->tail)
            return tap;
    }
    return NULL;
}

/* Who asked for the oldest retained has lost nothing by what was dropped before
 * the first look, as long as it is older than the registration. */
static bool
forgiven(const zp__turn *t, zp__tap *tap)
{
    uint64_t cursor = t->tail - 1;

    if (cursor > tap->silent)
        cursor = tap->silent;
    if (zp__tap_cursor(tap) < cursor)
        zp__tap_apart(tap, cursor);
    return zp__tap_cursor(tap) + 1 >= t->tail;
}

static int
overruns(zp__turn *t, const zp__reader *reader)
{
    zp__tap *tap;
    int rc;

    share(t, ZP__TURN);
    while ((tap = find_overrun(t, reader))) {
        if (forgiven(t, tap))
            continue;
        rc = call_overrun(
            t, tap, tap->found_at ? tap->found_at : zp__tap_cursor(tap) + 1);
        if (rc != GO)
            return rc;
        if (spent(t))
            return STOP; /* `read` is not good for reading on */
    }
    return GO;
}

/* ------------------------------------------------- what is not in the log --
 */

static zp__tap *
find_look(const zp__turn *t)
{
    ZP__EACH(at, next, &t->feed->due)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, due);

        if (tap->looks && zp__is_free(t, tap))
            return tap;
    }
    return NULL;
}

/* Before its first look a tap is not called for rows, and does not move. */
static int
looks(zp__turn *t)
{
    zp__tap *tap;
    int rc = GO;

    share(t, ZP__TURN);
    while (rc == GO && (tap = find_look(t))) {
        bool is_there = forgiven(t, tap);

        zp__tap_looked(tap);
        if (is_there) /* else an overrun will tell */
            rc = call_plain(t, tap, ZP_FIRST);
        if (rc == GO && spent(t)) {
            t->more = true;
            break;
        }
    }
    return rc;
}

/* One that a callback has moved on, past what this turn can show, is for the
 * next one. So is one that the log has passed: it is told that first. */
static zp__tap *
find_expired(zp__turn *t)
{
    ZP__EACH(at, next, &t->feed->due)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, due);

        if (!tap->expired || !zp__can_call(t, tap) || tap->found_at ||
            zp__tap_cursor(tap) < tap->expires)
            continue;
        if (zp__tap_cursor(tap) <= t->head &&
            zp__tap_cursor(tap) + 1 >= t->tail)
            return tap;
        t->more = true;
    }
    return NULL;
}

/* It is the last that they are called for: each of them ends. */
static int
expiries(zp__turn *t)
{
    zp__tap *tap;
    int rc = GO;

    share(t, ZP__TURN);
    while (rc == GO && (tap = find_expired(t))) {
        rc = call_plain(t, tap, ZP_TIMEDOUT);
        if (rc == GO && spent(t)) {
            t->more = true;
            break;
        }
    }
    return rc;
}

/* --------------------------------------------------------------- reading -- */

/* All rows from behind FROM to DONE have been seen by those of READER's taps
 * that stood between, and by those in line if FROM was not ahead of them. */
static void
advance(const zp__turn *t, zp__reader *reader, uint64_t from, uint64_t done)
{
    if (done > reader->read)
        reader->read = done;
    ZP__EACH(at, next, &reader->apart)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, apart);

        if (!zp__can_call(t, tap) || tap->cursor < from || tap->cursor > done)
            continue;
        tap->cursor = done;
        if (done == reader->read)
            zp__tap_in_line(tap);
    }
}

/* Call all that the row in hand is for. */
static int
call_hits(zp__turn *t, const zp__reader *reader, uint64_t from)
{
    zp__frame *frame = t->frame;
    int rc = GO;
    size_t n;

    for (size_t i = 0; i < frame->n && rc == GO; i += n) {
        zp__tap *tap = frame->hits[i].tap;

        for (n = 1; i + n < frame->n && frame->hits[i + n].tap == tap;)
            n++;
        if (!zp__is_next(t, tap, reader, from))
            continue; /* a callback has ended or moved it */
        if (i > 0 && spent(t))
            return SPENT;
        rc = zp__make_event(t, tap, &frame->hits[i], n);
        if (rc < 0)
            break;
        zp__tap_apart(tap, t->row.revision);
        rc = call(t, tap);
    }
    return rc;
}

static int
read_row(zp__turn *t, const zp__reader *reader, uint64_t from,
         uint64_t revision)
{
    int rc = zp__match(t, reader, from, revision);

    if (rc == 0 && t->frame->n)
        rc = call_hits(t, reader, from);
    zp__drop_hits(t->frame);
    return rc;
}

/* Read the log behind FROM up to TO for READER's taps that stand between. */
static int
scan(zp__turn *t, zp__reader *reader, uint64_t from, uint64_t to)
{
    uint64_t at = from;
    uint64_t last = to - from > ZP__ROWS ? from + ZP__ROWS : to;
    int rc = GO;

    while (at < last && rc == GO) {
        unsigned events = t->events;

        rc = read_row(t, reader, from, at + 1);
        if (rc != GO)
            break;
        at++;
        if (at > reader->read)
            reader->read = at;
        if (t->events != events && spent(t))
            rc = SPENT;
    }
    if (rc != GO && rc != SPENT)
        return rc;
    advance(t, reader, from, at);
    if (at < to)
        t->more = true;
    return GO;
}

/* Nobody is in line: where should the line be? Those that came for what is new
 * get it in the order of the revisions, so at the lowest of them; those that
 * replay the past are laggards to them. NOBODY: no one is there. */
static uint64_t
place_line(const zp__turn *t, const zp__reader *reader)
{
    uint64_t low = NOBODY, high = 0;

    ZP__EACH(at, next, &reader->apart)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, apart);

        if (!zp__can_call(t, tap))
            continue;
        if (!tap->replays && tap->cursor < low)
            low = tap->cursor;
        if (tap->replays && tap->cursor >= high)
            high = tap->cursor + 1;
    }
    return low != NOBODY || high == 0 ? low : high - 1;
}

static int
read_in_line(zp__turn *t, zp__reader *reader)
{
    if (!reader->in_line) {
        uint64_t line = place_line(t, reader);

        if (line == NOBODY)
            return GO;
        reader->read = line;
    }
    if (reader->read > t->head)
        return GO;
    return scan(t, reader, reader->read, t->head);
}

static int
read_laggards(zp__turn *t, zp__reader *reader)
{
    uint64_t low = lowest(t, reader);
    uint64_t to = reader->read; /* of who went live in this turn: ahead of it */

    if (to > t->head)
        to = t->head;
    if (low == NOBODY || low >= to)
        return GO;
    return scan(t, reader, low, to);
}

static int
turn_in_line(zp__turn *t)
{
    zp__reader *reader = &t->feed->buffered;
    uint64_t low;
    int rc = overruns(t, reader);

    if (rc != GO)
        return rc;
    low = lowest(t, reader);
    share(t, low < reader->read ? ZP__TURN / 2 : ZP__TURN * 3 / 4);
    return read_in_line(t, reader);
}

static int
turn_laggards(zp__turn *t)
{
    zp__reader *reader = &t->feed->buffered;
    int rc = overruns(t, reader);

    if (rc != GO)
        return rc;
    share(t, ZP__TURN / 4);
    return read_laggards(t, reader);
}

/* ---------------------------------------------------------------- live -- */

/* Note the newest match of each live tap. True when that went to the head. */
static int
look_ahead(zp__turn *t, zp__reader *reader, bool *ret_all)
{
    uint64_t from = lowest(t, reader), at, last;
    int rc;

    *ret_all = true;
    if (from == NOBODY || from >= t->head)
        return GO;
    last = t->head - from > ZP__ROWS ? from + ZP__ROWS : t->head;
    for (at = from; at < last; at++) {
        rc = zp__match(t, reader, from, at + 1);
        if (rc < 0) {
            zp__drop_hits(t->frame);
            return rc;
        }
        for (size_t i = 0; i < t->frame->n; i++)
            zp__tap_found(t->frame->hits[i].tap, at + 1);
        zp__drop_hits(t->frame);
    }
    advance(t, reader, from, at);
    *ret_all = at == t->head;
    if (at < t->head)
        t->more = true;
    return GO;
}

/* Who has waited longest for its event. */
static zp__tap *
next_found(const zp__turn *t, const zp__reader *reader)
{
    zp__tap *first = NULL;

    ZP__EACH(at, next, &reader->found)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, found);

        if (zp__can_call(t, tap) &&
            (!first || tap->found_at < first->found_at ||
             (tap->found_at == first->found_at && tap->order < first->order)))
            first = tap;
    }
    return first;
}

static int
call_found(zp__turn *t, zp__tap *tap)
{
    uint64_t revision = tap->found_at;
    int rc;

    if (revision < t->tail)
        return call_overrun(t, tap, revision);
    rc = zp__view_row(t->feed->view, revision, &t->row);
    if (rc == 0)
        rc = zp__make_event(t, tap, NULL, 0);
    if (rc < 0)
        return rc;
    zp__tap_found(tap, 0);
    zp__tap_apart(tap, zp__tap_cursor(tap)); /* it stays, others go on */
    return call(t, tap);
}

static int
turn_live(zp__turn *t)
{
    zp__reader *reader = &t->feed->live;
    zp__tap *tap;
    bool all;
    int rc = overruns(t, reader);

    if (rc == GO)
        rc = look_ahead(t, reader, &all);
    if (rc != GO || !all)
        return rc;
    share(t, ZP__TURN / 4);
    while ((tap = next_found(t, reader))) {
        rc = call_found(t, tap);
        if (rc != GO)
            return rc;
        if (spent(t)) {
            t->more = true;
            break;
        }
    }
    return GO;
}

/* ---------------------------------------------------------------- turns -- */

static int
take_frame(zp__turn *t)
{
    t->frame = t->feed->spare;
    if (t->frame) {
        t->feed->spare = t->frame->next;
        return 0;
    }
    t->frame = calloc(1, sizeof *t->frame);
    return t->frame ? 0 : zp__fail(-ENOMEM, "no memory for events");
}

static int
begin(zp__turn *t)
{
    zp__feed *feed = t->feed;
    int rc = take_frame(t);

    if (rc < 0)
        return rc;
    feed->turns++;
    t->limit = feed->order;
    zp__view_end(feed->view); /* an outer turn's: too old for this one */
    rc = zp__view_begin(feed->view);
    if (rc == 0)
        rc = zp__view_range(feed->view, &t->head, &t->tail);
    t->epoch = zp__view_epoch(feed->view);
    return rc;
}

/* The view ends with the turn, also under an outer turn: that one will see. */
static void
end(zp__turn *t, int rc)
{
    zp__feed *feed = t->feed;

    zp__view_end(feed->view);
    if (t->frame) {
        feed->turns--;
        t->frame->next = feed->spare;
        feed->spare = t->frame;
    }
    if (feed->ctx->dying)
        return;
    if (rc < 0) { /* said to who runs the loop; tried again */
        zp__loop_stop(feed->ctx->loop, zp__ctx_done(feed->ctx, rc));
        zp__timer_set(feed->again, RETRY);
    } else if (rc == STOP || t->more) {
        zp__kick(feed->kick);
    }
}

/* One that is ended before its time, by a callback or by what came true, is
 * followed by one that begins behind the part it was in: else who ends each
 * turn would keep the parts behind it from ever having theirs. */
static int
do_parts(zp__turn *t)
{
    static int (*const parts[])(zp__turn * t) = {looks, turn_live, turn_in_line,
                                                 turn_laggards, expiries};
    unsigned n = sizeof parts / sizeof *parts, first = t->feed->part;
    int rc = GO;

    for (unsigned i = 0; i < n && rc == GO; i++) {
        unsigned part = (first + i) % n;

        t->feed->part = (part + 1) % n;
        rc = parts[part](t);
    }
    if (rc != GO)
        return rc;
    t->feed->part = 0;
    if (first) /* some of it is only for who has been through a part before */
        t->more = true;
    return rc;
}

void
zp__feed_turn(zp__feed *feed)
{
    zp__turn t;
    int rc;

    zp__feed_drain(feed); /* in any case, or the loop would not rest */
    if (!feed->active || feed->ctx->dying || zp__board_closed(feed->ctx->board))
        return;
    if (zp__loop_ending(feed->ctx->loop)) { /* since the turn for the bell, */
        zp__kick(feed->kick);               /* and this one is for the socket */
        return;
    }
    memset(&t, 0, sizeof t);
    t.feed = feed;
    rc = begin(&t);
    if (rc == 0)
        rc = do_parts(&t);
    if (rc == GONE)
        zp__frame_free(t.frame);
    else
        end(&t, rc);
}
