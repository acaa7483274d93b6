/*
 * share.h - a map's results in the state, as owner and readers find them.
 *
 * Results are a stream of *records*: zp__shared_result and an answer. Whole
 * records, some hundred kilobytes of them or a larger one, are a *run*; a run
 * is cut into *segments*, of which a small one has only one. Keys of the
 * namespace ZP__SHARE_NS, all with the map's id in hex:
 *
 *     ID       the head
 *     ID.N     segment number N in hex, which makes them sorted
 *
 * Each change of these is a transaction that has the head in it, so what the
 * head tells is true: what is below `next` is taken; what is not there from
 * `next` up to `segments` was not read in time.
 */
#ifndef ZP_REACTORS_SHARE_H
#define ZP_REACTORS_SHARE_H

#include "core/context.h"
#include "core/error.h"
#include "core/state.h"

#define ZP__SHARE_NS "zp.maps"
#define ZP__SHARE_KEY 48

typedef struct zp__share_head {
    uint64_t segments; /* that were written so far */
    uint64_t next;     /* the first of the run that is to be taken next */
    uint64_t readers;  /* that have opened it, and have not told that they leave
                          it: too many if some were killed */
    int32_t ended;
    int64_t code; /* then: what has ended it */
    char why[ZP__ERROR_MAX];
} zp__share_head;

typedef struct zp__share_segment {
    uint32_t piece, pieces; /* of its run: this one of so many */
    zp_bin bytes;
} zp__share_segment;

typedef struct zp__shared_result {
    uint64_t index;
    uint64_t size; /* of the answer */
} zp__shared_result;

/* The key of the head; the head: ZP_ENOKEY. Writing it leaves its lease as it
 * is, unless LEASE tells of another. */
void zp__share_key(char *key, uint64_t id);
int zp__share_get_head(zp_state *state, uint64_t id, zp__share_head *ret);
int zp__share_put_head(zp_state *txn, uint64_t id, const zp__share_head *head,
                       const zp_set_options *lease);

/* Segment N: ZP_ENOKEY. Bytes that are got are from malloc(). */
int zp__share_has(zp_state *state, uint64_t id, uint64_t n);
int zp__share_get(zp_state *state, uint64_t id, uint64_t n,
                  zp__share_segment *ret);
int zp__share_put(zp_state *txn, uint64_t id, uint64_t n,
                  const zp__share_segment *segment, double keep);
int zp__share_delete(zp_state *txn, uint64_t id, uint64_t n);

/* The first one from FROM on that is there: 1, or 0: there is none. */
int zp__share_find(zp_state *txn, uint64_t id, uint64_t from, uint64_t *ret);

/* All that there is of it. */
int zp__share_clear(zp_state *txn, uint64_t id);

/* The last word of an owner or a reader: zp__atomic(), although the context may
 * be about to go. */
int zp__share_last(zp_state *state, zp_atomic_fn *fn, void *user);

#endif
