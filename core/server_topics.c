/*
 * server_topics.c - an open-addressing hash set of topics.
 *
 * XPUB (verbose) reports every subscription but only the last unsubscription
 * of a topic, so a set is what it describes: put is idempotent, take is final.
 * Each *distinct* topic counts once in each of its two buckets of the board's
 * interest filter, so that a bucket is zero exactly when no topic of it is in
 * the set.
 *
 * Linear probing; a removal moves later entries back instead of leaving a
 * grave, so the set never needs cleaning, and it shrinks when it got nearly
 * empty: a server that once had 50,000 topics is small again afterwards. Put,
 * take and mark cost one cache miss or two.
 *
 * Marks make "each topic at most once per pass over the log" free of a second
 * table: an entry remembers the number of the round that marked it last.
 */
#include "core/server_topics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/board.h"
#include "core/error.h"

#define SMALLEST 256

static size_t
home(const zp__topics *topics, uint32_t kind, uint64_t hash)
{
    uint64_t mixed = (hash ^ kind) * UINT64_C(0x9e3779b97f4a7c15);

    return (size_t)(mixed >> 32) & (topics->capacity - 1);
}

/* The slot of a topic, or the empty one where it would go. */
static zp__topic *
find(const zp__topics *topics, uint32_t kind, uint64_t hash)
{
    size_t i = home(topics, kind, hash);

    while (topics->slots[i].kind &&
           (topics->slots[i].kind != kind || topics->slots[i].hash != hash))
        i = (i + 1) & (topics->capacity - 1);
    return &topics->slots[i];
}

static int
resize(zp__topics *topics, size_t capacity)
{
    zp__topic *old = topics->slots, *slots;
    size_t n = topics->capacity, i;

    slots = calloc(capacity, sizeof *slots);
    if (!slots)
        return zp__fail(-ENOMEM, "no memory for %zu topics", capacity);
    topics->slots = slots;
    topics->capacity = capacity;
    for (i = 0; i < n; i++)
        if (old[i].kind)
            *find(topics, old[i].kind, old[i].hash) = old[i];
    free(old);
    return 0;
}

static void
count(zp__topics *topics, uint32_t kind, uint64_t hash, bool in)
{
    size_t *counter =
        kind == ZP__TOPIC_KEY ? &topics->keys : &topics->namespaces;
    uint32_t one = in ? 1 : UINT32_MAX; /* or one less */
    int i;

    *counter += in ? 1 : SIZE_MAX;
    for (i = 0; i < 2; i++)
        atomic_fetch_add_explicit(
            &topics->interest[zp__interest_bucket(hash, i)], one,
            memory_order_relaxed);
}

int
zp__topics_init(zp__topics *topics, _Atomic uint32_t *interest)
{
    size_t i;

    memset(topics, 0, sizeof *topics);
    topics->interest = interest;
    for (i = 0; i < ZP__INTEREST; i++)
        atomic_store_explicit(&interest[i], 0, memory_order_relaxed);
    return resize(topics, SMALLEST);
}

void
zp__topics_free(zp__topics *topics)
{
    free(topics->slots);
    topics->slots = NULL;
    topics->capacity = topics->keys = topics->namespaces = 0;
}

int
zp__topics_put(zp__topics *topics, uint32_t kind, uint64_t hash)
{
    zp__topic *slot = find(topics, kind, hash);
    int rc;

    if (slot->kind)
        return 0;
    if ((zp__topics_count(topics) + 1) * 2 > topics->capacity) {
        rc = resize(topics, topics->capacity * 2);
        if (rc < 0)
            return rc;
        slot = find(topics, kind, hash);
    }
    slot->kind = (uint16_t)kind;
    slot->hash = hash;
    slot->mark = 0;
    slot->late = false;
    count(topics, kind, hash, true);
    return 1;
}

/* Fill the hole at I: entries behind it that may not stand behind a hole (the
 * way from their home leads over it) move back. */
static void
close_hole(zp__topics *topics, size_t i)
{
    size_t mask = topics->capacity - 1, j = i, at;

    for (;;) {
        j = (j + 1) & mask;
        if (!topics->slots[j].kind)
            break;
        at = home(topics, topics->slots[j].kind, topics->slots[j].hash);
        if (((j - at) & mask) >= ((j - i) & mask)) {
            topics->slots[i] = topics->slots[j];
            i = j;
        }
    }
    topics->slots[i].kind = 0;
}

int
zp__topics_take(zp__topics *topics, uint32_t kind, uint64_t hash)
{
    zp__topic *slot = find(topics, kind, hash);

    if (!slot->kind)
        return 0;
    close_hole(topics, (size_t)(slot - topics->slots));
    count(topics, kind, hash, false);
    if (topics->capacity > SMALLEST &&
        zp__topics_count(topics) * 16 < topics->capacity)
        (void)resize(topics, topics->capacity / 4); /* or stay large */
    return 1;
}

zp__topic *
zp__topics_get(const zp__topics *topics, uint32_t kind, uint64_t hash)
{
    zp__topic *slot = find(topics, kind, hash);

    return slot->kind ? slot : NULL;
}

void
zp__topics_round(zp__topics *topics)
{
    size_t i;

    if (++topics->round)
        return;
    for (i = 0; i < topics->capacity; i++) /* once in 2^32 rounds */
        topics->slots[i].mark = 0;
    topics->round = 1;
}

bool
zp__topics_mark(zp__topics *topics, uint32_t kind, uint64_t hash)
{
    zp__topic *slot = find(topics, kind, hash);

    if (!slot->kind || slot->mark == topics->round)
        return false;
    slot->mark = topics->round;
    return true;
}

void
zp__topic_write(uint8_t bytes[ZP__TOPIC_SIZE], uint32_t kind, uint64_t hash)
{
    int i;

    bytes[0] = (uint8_t)kind;
    for (i = 8; i > 0; i--, hash >>= 8)
        bytes[i] = (uint8_t)hash;
}

bool
zp__topic_read(const uint8_t *bytes, size_t size, uint32_t *ret_kind,
               uint64_t *ret_hash)
{
    uint64_t hash = 0;
    int i;

    if (size != ZP__TOPIC_SIZE ||
        (bytes[0] != ZP__TOPIC_KEY && bytes[0] != ZP__TOPIC_NS))
        return false;
    for (i = 1; i < ZP__TOPIC_SIZE; i++)
        hash = hash << 8 | bytes[i];
    *ret_kind = bytes[0];
    *ret_hash = hash;
    return true;
}
