/*
 * server_topics.h - the set of topics that somebody subscribed to, and the
 * interest filter that the writers see of it.
 */
#ifndef ZP_CORE_SERVER_TOPICS_H
#define ZP_CORE_SERVER_TOPICS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/wire.h"

typedef struct zp__topic {
    uint64_t hash; /* zp__topic_key() or zp__topic_ns() */
    uint32_t mark; /* round in which it was marked last */
    uint16_t kind; /* ZP__TOPIC_KEY, ZP__TOPIC_NS; 0: an empty slot */
    bool late;     /* its message is to be sent later */
} zp__topic;

typedef struct zp__topics {
    zp__topic *slots;
    size_t capacity; /* a power of two */
    size_t keys;     /* how many of each kind are in */
    size_t namespaces;
    uint32_t round;
    _Atomic uint32_t *interest; /* ZP__INTEREST counters in the board */
} zp__topics;

/* An empty set; the counters become zero first. -ENOMEM. */
int zp__topics_init(zp__topics *topics, _Atomic uint32_t *interest);

/* Free it; the counters stay (writers may go on ringing nobody). */
void zp__topics_free(zp__topics *topics);

static inline size_t
zp__topics_count(const zp__topics *topics)
{
    return topics->keys + topics->namespaces;
}

/* Put in, take out: 1 if that changed the set, 0 if not, -ENOMEM (of put: then
 * the set is as it was). The caller fences before it tells anybody. */
int zp__topics_put(zp__topics *topics, uint32_t kind, uint64_t hash);
int zp__topics_take(zp__topics *topics, uint32_t kind, uint64_t hash);

/* A topic that is in, or NULL; good until the set changes. */
zp__topic *zp__topics_get(const zp__topics *topics, uint32_t kind,
                          uint64_t hash);

/* Begin a round; then mark a topic: true if it is in and was not marked in
 * this round. Putting and taking in between is fine. */
void zp__topics_round(zp__topics *topics);
bool zp__topics_mark(zp__topics *topics, uint32_t kind, uint64_t hash);

/* As bytes on the wire, and back: false when it is not one of the two kinds. */
void zp__topic_write(uint8_t bytes[ZP__TOPIC_SIZE], uint32_t kind,
                     uint64_t hash);
bool zp__topic_read(const uint8_t *bytes, size_t size, uint32_t *ret_kind,
                    uint64_t *ret_hash);

#endif
