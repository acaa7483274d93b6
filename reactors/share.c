/*
 * share.c - a map's results on their way to other processes: through the state.
 *
 * Nobody asks the owner for anything: it writes them as they come (share.h
 * tells what), and a reader waits for the head as for any other key. What is
 * read is deleted by the reader (results.c), what is not, by its time to live.
 *
 * The head is bound to the owner until the map has ended: if the owner dies
 * before, the head goes, and the reader knows.
 *
 * When a window's worth of segments is unread, or the state is full, results
 * stay in the owner, whose window fills, and the source is asked for no more.
 * It looks again after some milliseconds; so it does when others hold the
 * state's lock, which the owner's loop must not wait for. A state that is full
 * although nothing of ours is unread in it is asked with smaller segments, and
 * then it is an error that ends the map.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "reactors/share.h"
#include "reactors/swarm.h"

#define KEEP 60.0           /* seconds */
#define SEGMENT (256 << 10) /* bytes; less if the state takes no more */
#define SEGMENT_MIN 1024
#define PATIENCE 0.01 /* seconds for the state's lock; twice that next ... */
#define PATIENCE_MAX 0.05 /* ... time, up to this */
#define FULL_SMALLER 4    /* times that the state was full: smaller segments */
#define FULL_MAX 20       /* ... and it is an error */
#define TURN 0.005        /* seconds, until the loop's turn */

typedef struct zp__share {
    zp_state *state;
    uint64_t id;
    double keep;
    double patience;
    size_t segment; /* bytes of one */
    uint64_t n;     /* segments so far */
    uint64_t next;  /* the head's, when it was last seen */
    unsigned full; /* times that the state was, and that was nobody's of ours */
    /* The run that is to be written: */
    unsigned char *out;
    size_t size, room;
    uint32_t piece;  /* so many segments of it are written ... */
    uint32_t pieces; /* ... of so many; 0: none is */
} zp__share;

uint64_t
zp__share_id(const zp_mapping *map)
{
    return map->share ? map->share->id : 0;
}

/* Is RC an error that may be gone when it is tried again? */
static bool
is_passing(int rc)
{
    return rc == -ETIMEDOUT || rc == -ENOMEM;
}

/* ------------------------------------------------------------------ writing --
 */

/* What one transaction does: a segment, if there is one, and the end, if it is
 * one. */
typedef struct writing {
    zp__share *share;
    const zp__share_segment *segment;
    bool ended;
    int code;
    const char *why;
    uint64_t next; /* out */
} writing;

static int
write_txn(zp_state *txn, void *user)
{
    writing *w = user;
    zp_set_options lease = {.size = sizeof lease, .ttl = w->share->keep};
    zp__share_head head;
    int rc = zp__share_get_head(txn, w->share->id, &head);

    if (rc == 0 && w->segment) {
        head.segments = w->share->n + 1;
        rc = zp__share_put(txn, w->share->id, w->share->n, w->segment,
                           w->share->keep);
    }
    if (rc < 0)
        return rc;
    if (w->ended) {
        head.ended = 1;
        head.code = w->code;
        snprintf(head.why, sizeof head.why, "%s", w->why);
    }
    w->next = head.next;
    return zp__share_put_head(txn, w->share->id, &head,
                              w->ended ? &lease : NULL);
}

/* The end alone may use what a full state keeps for deleting. */
static int
write_soon(writing *w)
{
    zp__share *share = w->share;
    int rc =
        zp__atomic(share->state, write_txn, w, share->patience, !w->segment);

    if (rc == 0) {
        share->next = w->next;
        share->patience = PATIENCE;
    } else if (rc == -ETIMEDOUT && share->patience < PATIENCE_MAX) {
        share->patience *= 2;
    }
    return rc;
}

static int
drop_txn(zp_state *txn, void *user)
{
    const zp__share *share = user;

    return zp__share_clear(txn, share->id);
}

/* -------------------------------------------------------------------- life --
 */

static uint64_t
new_id(void)
{
    uint64_t id;

    if (getrandom(&id, sizeof id, GRND_NONBLOCK) != (ssize_t)sizeof id)
        id = zp__token() ^ (uint64_t)(zp__now() * 1e9);
    return id ? id : 1;
}

static int
begin_txn(zp_state *txn, void *user)
{
    zp_set_options bound = {.size = sizeof bound, .flags = ZP_BOUND};
    const zp__share *share = user;
    zp__share_head head = {.ended = 0};

    return zp__share_put_head(txn, share->id, &head, &bound);
}

int
zp__share_new(zp_mapping *map, double keep)
{
    zp__share *share = calloc(1, sizeof *share);
    int rc;

    if (!share)
        return zp__fail(-ENOMEM, "no memory for a map");
    share->keep = keep > 0 ? keep : KEEP;
    share->patience = PATIENCE;
    share->segment = SEGMENT;
    share->id = new_id();
    map->share = share;
    rc = zp_state_clone(zp_ctx_state(map->ctx), &share->state, ZP__SHARE_NS);
    if (rc == 0)
        rc = zp_atomic(share->state, begin_txn, share);
    map->told = rc < 0; /* nobody is to be told of an end */
    return rc;
}

void
zp__share_free(zp_mapping *map)
{
    zp__share *share = map->share;
    writing end = {.share = share, .ended = true};

    if (!share)
        return;
    end.code = map->code ? map->code : -ECANCELED;
    end.why = map->code ? map->why : "the map was given back";
    if (!map->told)
        (void)zp__share_last(share->state, write_txn, &end);
    zp_state_free(share->state);
    free(share->out);
    free(share);
    map->share = NULL;
}

bool
zp__share_pending(const zp_mapping *map)
{
    return map->share && !map->told;
}

bool
zp__share_drop(zp_mapping *map)
{
    zp__share *share = map->share;
    bool any = share && share->size > 0;

    if (any) {
        share->size = 0;
        share->piece = share->pieces = 0;
    }
    return any;
}

/* -------------------------------------------------------------------- runs --
 */

static int
reserve(zp__share *share, size_t more)
{
    size_t room = share->room ? share->room : SEGMENT;
    unsigned char *larger;

    if (share->room - share->size >= more)
        return 0;
    while (room - share->size < more)
        room *= 2;
    larger = realloc(share->out, room);
    if (!larger)
        return zp__fail(-ENOMEM, "no memory for results");
    share->out = larger;
    share->room = room;
    return 0;
}

static int
append(zp__share *share, const unsigned char *answer, size_t size,
       uint64_t index)
{
    zp__shared_result head = {index, size};
    int rc = reserve(share, sizeof head + size);

    if (rc < 0)
        return rc;
    memcpy(share->out + share->size, &head, sizeof head);
    memcpy(share->out + share->size + sizeof head, answer, size);
    share->size += sizeof head + size;
    return 0;
}

/* Make a run of what there is: as many results as a segment has room for, or a
 * larger one. */
static int
fill(zp_mapping *map)
{
    zp__share *share = map->share;
    const unsigned char *answer;
    uint64_t index;
    size_t size;
    int rc = 0;

    if (share->piece)
        return 0;
    while (rc == 0 && (answer = zp__map_answer(map, &size, &index))) {
        if (share->size &&
            share->size + sizeof(zp__shared_result) + size > share->segment)
            break;
        rc = append(share, answer, size, index);
        if (rc == 0)
            zp__map_pass(map);
    }
    share->pieces =
        (uint32_t)((share->size + share->segment - 1) / share->segment);
    return rc;
}

/* The run is written. */
static void
empty(zp__share *share)
{
    share->size = 0;
    share->piece = share->pieces = 0;
    if (share->room <= 4 * SEGMENT)
        return;
    free(share->out);
    share->out = NULL;
    share->room = 0;
}

/* Are too many segments unread? (What is below `next` is being read.) */
static bool
is_full(const zp_mapping *map)
{
    zp__share *share = map->share;
    uint64_t most = map->window_bytes / share->segment + 1;
    zp__share_head head;

    if (share->n < share->next + most)
        return false;
    if (zp__share_get_head(share->state, share->id, &head) == 0)
        share->next = head.next;
    return share->n >= share->next + most &&
           zp__share_has(share->state, share->id, share->n - most) > 0;
}

/* The state has no room for a segment: 1: try again with a smaller one, 0:
 * later, or RC: never. */
static int
on_no_room(zp__share *share, int rc)
{
    bool smaller = !share->piece && share->segment > SEGMENT_MIN;

    if (rc == -ENOSPC && share->n &&
        zp__share_has(share->state, share->id, share->n - 1) > 0) {
        share->full = 0; /* somebody will read, or its time will be over */
        return 0;
    }
    if (rc == -ENOSPC && ++share->full < FULL_SMALLER)
        return 0;
    if (smaller)
        share->segment /= 2;
    if (rc == -EMSGSIZE)
        return smaller ? 1 : rc;
    return share->full < FULL_MAX ? 0 : rc;
}

/* The next segment of the run, and with the last one of all, the end: 1; 0:
 * later; or an error. */
static int
write_segment(zp_mapping *map)
{
    zp__share *share = map->share;
    size_t from = share->piece * share->segment, left = share->size - from;
    zp__share_segment segment = {share->piece, share->pieces, {NULL, 0}};
    writing w = {share, &segment, .code = map->code, .why = map->why};
    char text[ZP__ERROR_MAX];
    int rc;

    segment.bytes.addr = share->out + from;
    segment.bytes.sz =
        (uint32_t)(left < share->segment ? left : share->segment);
    w.ended = map->ended && share->piece + 1 == share->pieces &&
              !zp__map_has_result(map);
    rc = write_soon(&w);
    if (rc == -ENOSPC || rc == -EMSGSIZE) {
        snprintf(text, sizeof text, "%s", zp__fail_text());
        rc = on_no_room(share, rc);
        return rc < 0 ? zp__fail(rc, "%s", text) : rc;
    }
    if (rc < 0)
        return is_passing(rc) ? 0 : rc;
    map->told |= w.ended;
    share->full = 0;
    share->n++;
    if (++share->piece == share->pieces)
        empty(share);
    return 1;
}

/* ------------------------------------------------------------------ pumping --
 */

/* 1: all that there is is written; 2: there is more, and it is others' turn; 0:
 * more later; or an error. */
static int
move_results(zp_mapping *map)
{
    double until = zp__now() + TURN;
    int rc;

    for (;;) {
        rc = fill(map);
        if (rc < 0)
            return is_passing(rc) ? 0 : rc;
        if (!map->share->size)
            return 1;
        if (zp__now() > until)
            return 2;
        if (is_full(map))
            return 0;
        rc = write_segment(map);
        if (rc <= 0)
            return rc;
    }
}

/* They cannot be written: that is what the map ends with, whatever else. */
static void
give_up(zp_mapping *map, int rc)
{
    char text[ZP__ERROR_MAX];

    snprintf(text, sizeof text, "%s", zp__fail_text());
    zp__map_abort(map, rc, text);
    if (!map->code) { /* all was done */
        map->code = rc;
        snprintf(map->why, sizeof map->why, "%s", text);
    }
    zp__map_drop_results(map);
    (void)zp__share_drop(map);
}

/* The end alone: false: later. If it cannot be told, what there is goes, which
 * readers understand, too. */
static bool
tell_end(zp_mapping *map)
{
    zp__share *share = map->share;
    writing end = {share, NULL, true, map->code, map->why, 0};
    int rc = write_soon(&end);

    if (is_passing(rc))
        return false;
    if (rc < 0)
        (void)zp__atomic(share->state, drop_txn, share, PATIENCE, true);
    map->told = true;
    return true;
}

bool
zp__share_pump(zp_mapping *map)
{
    bool told = map->told;
    int rc = told ? 1 : move_results(map);

    if (rc < 0)
        give_up(map, rc);
    if (rc == 2)
        zp__kick(map->kick);
    if (rc == 2 || rc == 0)
        return rc == 2;
    if (map->ended && !map->told && !tell_end(map))
        return false;
    map->settled |= map->told && !told;
    return true;
}
