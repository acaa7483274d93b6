/*
 * share.c - a map's results on their way to other processes: through the state.
 *
 * They are a stream of records, cut into segments: ordinary keys of a namespace
 * of their own, written by the map's owner, deleted by the reader (results.c),
 * or by their time to live. So nobody asks the owner for anything: a reader
 * waits for the next key as for any other.
 *
 *     ID.head    segments so far, ended?, code, why
 *     ID.0, ID.1, ...
 *
 * The head is bound to the owner until the map has ended: if the owner dies
 * before, the head goes, and the reader knows. When a window's worth of
 * segments is unread, or the state is full, results stay in the owner, whose
 * window fills, and the source is asked for no more.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "reactors/swarm.h"

#define KEEP 60.0           /* seconds */
#define SEGMENT (256 << 10) /* bytes; less if the state takes no more */
#define SEGMENT_MIN 1024

typedef struct zp__share {
    zp_state *state;
    uint64_t id;
    double keep;
    size_t segment; /* bytes of one */
    uint64_t n;     /* segments so far */
    unsigned char *out;
    size_t from, size, room; /* what is in it, and was not written */
} zp__share;

void
zp__share_key(char *key, uint64_t id, const char *what, uint64_t n)
{
    if (what)
        snprintf(key, ZP__SHARE_KEY, "%016llx.%s", (unsigned long long)id,
                 what);
    else
        snprintf(key, ZP__SHARE_KEY, "%016llx.%llu", (unsigned long long)id,
                 (unsigned long long)n);
}

uint64_t
zp__share_id(const zp_mapping *map)
{
    return map->share ? map->share->id : 0;
}

/* --------------------------------------------------------------- the head --
 */

static int
write_head(zp__share *share, bool ended, int code, const char *why)
{
    zp_set_options bound = {.size = sizeof bound, .flags = ZP_BOUND},
                   kept = {.size = sizeof kept, .ttl = share->keep};
    int32_t over = ended;
    int64_t what = code;
    char key[ZP__SHARE_KEY];

    zp__share_key(key, share->id, "head", 0);
    return zp_set_with(share->state, key, ended ? &kept : &bound,
                       ZP__SHARE_HEAD, &share->n, &over, &what, &why);
}

static void
delete_head(zp__share *share)
{
    char key[ZP__SHARE_KEY];

    zp__share_key(key, share->id, "head", 0);
    (void)zp_delete(share->state, key);
}

/* Is RC an error that may be gone when it is tried again? */
static bool
is_passing(int rc)
{
    return rc == -ENOSPC || rc == -ETIMEDOUT || rc == -ENOMEM;
}

static uint64_t
new_id(void)
{
    uint64_t id;

    if (getrandom(&id, sizeof id, GRND_NONBLOCK) != (ssize_t)sizeof id)
        id = zp__token() ^ (uint64_t)(zp__now() * 1e9);
    return id ? id : 1;
}

int
zp__share_new(zp_mapping *map, double keep)
{
    zp__share *share = calloc(1, sizeof *share);
    int rc;

    if (!share)
        return zp__fail(-ENOMEM, "no memory for a map");
    share->keep = keep > 0 ? keep : KEEP;
    share->segment = SEGMENT;
    share->id = new_id();
    map->share = share;
    rc = zp_state_clone(zp_ctx_state(map->ctx), &share->state, ZP__SHARE_NS);
    if (rc == 0)
        rc = write_head(share, false, 0, "");
    return rc;
}

void
zp__share_free(zp_mapping *map)
{
    zp__share *share = map->share;

    if (!share)
        return;
    if (share->state && !map->told &&
        write_head(share, true, map->code ? map->code : -ECANCELED,
                   map->code ? map->why : "the map was given back") < 0)
        delete_head(share); /* needs less: readers are not to wait for more */
    zp_state_free(share->state);
    free(share->out);
    free(share);
    map->share = NULL;
}

/* --------------------------------------------------------------- segments --
 */

/* Are too many unread? */
static bool
is_full(const zp_mapping *map)
{
    const zp__share *share = map->share;
    uint64_t most = map->window_bytes / share->segment + 1;
    char key[ZP__SHARE_KEY];

    if (share->n < most)
        return false;
    zp__share_key(key, share->id, NULL, share->n - most);
    return zp_contains(share->state, key) > 0;
}

/* The first bytes of what is there, as many as a segment has. */
static int
write_segment(zp__share *share)
{
    zp_set_options kept = {.size = sizeof kept, .ttl = share->keep};
    size_t left = share->size - share->from;
    zp_bin bytes = {.addr = share->out + share->from};
    char key[ZP__SHARE_KEY];
    int rc;

    bytes.sz = (uint32_t)(left < share->segment ? left : share->segment);
    zp__share_key(key, share->id, NULL, share->n);
    rc = zp_set_with(share->state, key, &kept, "B", &bytes);
    if (rc < 0)
        return rc;
    share->n++;
    share->from += bytes.sz;
    if (share->from == share->size)
        share->from = share->size = 0;
    return 0;
}

/* Write until less than AT_MOST bytes are left: 1; 0: later; or an error. */
static int
write_out(zp_mapping *map, size_t at_most)
{
    zp__share *share = map->share;
    int rc;

    while (share->size - share->from > at_most) {
        if (is_full(map))
            return 0;
        rc = write_segment(share);
        if (rc == -EMSGSIZE && share->segment > SEGMENT_MIN)
            share->segment /= 2;
        else if (is_passing(rc))
            return 0;
        else if (rc < 0)
            return rc;
    }
    return 1;
}

static int
reserve(zp__share *share, size_t more)
{
    size_t room = share->room ? share->room : SEGMENT;
    unsigned char *larger;

    if (share->from) {
        memmove(share->out, share->out + share->from,
                share->size - share->from);
        share->size -= share->from;
        share->from = 0;
    }
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
    int rc = 0;

    if (share->room - share->size < sizeof head + size)
        rc = reserve(share, sizeof head + size);
    if (rc < 0)
        return rc;
    memcpy(share->out + share->size, &head, sizeof head);
    memcpy(share->out + share->size + sizeof head, answer, size);
    share->size += sizeof head + size;
    return 0;
}

/* 1: all that there is is written; 0: not yet; or an error. */
static int
move_results(zp_mapping *map)
{
    const unsigned char *answer;
    uint64_t index;
    size_t size;
    int rc = 1;

    while (rc == 1 && (answer = zp__map_answer(map, &size, &index))) {
        rc = write_out(map, map->share->segment);
        if (rc != 1)
            break;
        rc = append(map->share, answer, size, index);
        if (rc < 0)
            break;
        zp__map_pass(map);
        rc = 1;
    }
    return rc == 1 ? write_out(map, 0) : rc;
}

bool
zp__share_pump(zp_mapping *map)
{
    int rc;

    if (map->told)
        return true;
    rc = move_results(map);
    if (rc < 0) {
        zp__map_abort(map, rc, zp__fail_text());
        zp__map_drop_results(map);
        map->share->from = map->share->size = 0;
    }
    if (rc == 0)
        return false;
    if (!map->ended || zp__map_has_result(map))
        return true;
    rc = write_head(map->share, true, map->code, map->why);
    map->told = !is_passing(rc);
    map->settled |= map->told;
    return map->told;
}
