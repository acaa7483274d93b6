/*
 * rows.h - the bytes of the store's rows. Pure memory: no LMDB here.
 *
 * One table; the first byte of a key tells the kind of row:
 *
 *   k ns 0 key          current row: zp__cur, then the image, or - above
 *                       ZP__INLINE bytes - the rank of an o row. A deleted
 *                       key's row stays, flagged, while the log knows of it.
 *   l slot              log row of revision (slot = revision mod N): zp__log,
 *                       then the first chunk of changes
 *   x revision chunk    further chunks of a large transaction
 *   o revision rank     a large image: owned by the current row that points to
 *                       it, later by the log row whose change replaced it
 *   n ns                number of keys of a namespace (u64)
 *   b ns 0 key          why a key goes by itself: zp__lease. Its current row
 *                       has ZP__ROW_LEASED, so that a put of an ordinary key
 *                       need not look. The past knows nothing of leases.
 *   m, mp               zp__meta; zp__counts, of the records
 *   p id                record of a process that runs
 *   q id                record of one that has ended: the first is the oldest
 *
 * A change keeps the image that it *replaced*. So each image has one owner, and
 * the value of a key at revision R is the current one if that is not younger
 * than R, else what the first change after R replaced. That change is found
 * along `prev` (the key's change before this one) and `jump` (a skew-binary
 * ancestor): all that is visited is younger than R, and thus in the log.
 *
 * Chunk: u32 n, u32 offset[n] (from the chunk's begin), then for each change
 * zp__chg, ns 0 key 0, and the replaced image if it is inline. Sorted by ns,
 * key over all chunks. All integers in host order (a state never leaves its
 * machine), but big-endian in keys, which LMDB sorts by bytes.
 */
#ifndef ZP_CORE_ROWS_H
#define ZP_CORE_ROWS_H

#include <stdbool.h>

#include <zp.h>

#include "core/leases.h"

#define ZP__INLINE 1800 /* bytes of an image that sits in its row */
#define ZP__KEPT                                                               \
    ((size_t)1 << 20) /* a larger image is not kept once replaced */
#define ZP__CHUNK 128 /* changes in one chunk */
#define ZP__ROWKEY_MAX (1 + ZP__NS_MAX + 1 + ZP__KEY_MAX)

enum zp__row_flag { /* beside zp_change_flag's 1, 2, 4 */
                    ZP__ROW_DELETED = ZP_DELETED,
                    ZP__ROW_OUTSIDE = 1 << 8, /* the image is an o row */
                    ZP__ROW_LOST = 1 << 9,    /* it was too large to be kept */
                    ZP__ROW_LEASED = 1 << 10  /* the key has a b row */
};

typedef struct zp__cur {
    uint64_t revision; /* of the key's newest change */
    uint64_t created;
    uint64_t jump, jump2; /* of that change, and of the one it jumps to */
    uint32_t depth, jump_depth, jump2_depth; /* changes before, and there */
    uint32_t created_rank;
    uint32_t size; /* of the image */
    uint32_t flags;
} zp__cur;

typedef struct zp__outside { /* names an o row */
    uint64_t revision;
    uint32_t rank;
    uint32_t unused;
} zp__outside;

typedef struct zp__log {
    uint64_t revision;
    uint64_t tail;    /* oldest retained, once this row stands */
    uint64_t bytes;   /* of all log rows and what they own, likewise */
    uint64_t own;     /* of this one */
    uint64_t garbage; /* oldest revision that may have x rows; 0: none */
    uint64_t writer;
    int64_t time_ns;
    int32_t pid;
    uint32_t n;
    uint32_t chunks; /* the one in this row included */
    uint32_t owns;   /* o rows or tombstones that end with the first chunk */
} zp__log;

typedef struct zp__chg {
    uint64_t prev; /* revision of the key's change before; 0: none known */
    uint64_t jump;
    uint64_t created; /* of the replaced image */
    zp__outside outside;
    uint32_t jump_depth;
    uint32_t created_rank;
    uint32_t size; /* of the replaced image */
    uint32_t flags;
    uint16_t ns_size; /* with NUL */
    uint16_t key_size;
    uint32_t unused;
} zp__chg;

typedef struct zp__meta {
    uint64_t magic;
    uint32_t version;
    uint32_t size;
    zp__limits limits;
    uint64_t boot;
    uint64_t pid_ns;
    zp__pid owner;
} zp__meta;

#define ZP__META_MAGIC UINT64_C(0x316174654d727a7a) /* "zzrMeta1" */
#define ZP__META_VERSION 2

typedef struct zp__counts {
    uint64_t last;  /* record id given */
    uint64_t ended; /* q rows */
    uint64_t bytes; /* in them */
} zp__counts;

/* Row keys, into BUFFER of ZP__ROWKEY_MAX bytes; return the size. */
size_t zp__rowkey_cur(void *buffer, const char *ns, const char *key);
size_t zp__rowkey_log(void *buffer, uint64_t revision, uint64_t n);
size_t zp__rowkey_chunk(void *buffer, uint64_t revision, uint32_t chunk);
size_t zp__rowkey_outside(void *buffer, const zp__outside *outside);
size_t zp__rowkey_ns(void *buffer, const char *ns);
size_t zp__rowkey_record(void *buffer, uint64_t id, bool ended);
bool zp__rowkey_is_record(const void *key, size_t size, bool ended);
size_t zp__rowkey_lease(void *buffer, const char *ns, const char *key);
uint64_t zp__rowkey_u64(const void *key); /* the one behind the first byte */

/* A current row taken apart: false if its bytes make no sense. */
typedef struct zp__cur_row {
    zp__cur head;
    const void *image;   /* inline, or NULL */
    zp__outside outside; /* with ZP__ROW_OUTSIDE */
} zp__cur_row;
bool zp__cur_parse(const void *data, size_t size, zp__cur_row *ret);

/* The key of a b row, and the row, taken apart (RET_NS: ZP__NS_MAX + 1 bytes,
 * RET_KEY: ZP__KEY_MAX + 1); false if the bytes make no sense. */
bool zp__lease_names(const void *rowkey, size_t size, char *ret_ns,
                     char *ret_key);
bool zp__lease_parse(const void *data, size_t size, zp__lease *ret);

/* A change of a chunk taken apart. */
typedef struct zp__chg_row {
    zp__chg head;
    const char *ns;
    const char *key;
    const void *image; /* replaced, inline; or NULL */
} zp__chg_row;

/* The changes in the chunk, or -1 if its bytes make no sense. */
int zp__chunk_length(const void *chunk, size_t size);
bool zp__chunk_change(const void *chunk, size_t size, uint32_t i,
                      zp__chg_row *ret);

/* Find NS, KEY: its place, or -1 - the place where it would stand; a chunk that
 * makes no sense has nothing. */
int zp__chunk_find(const void *chunk, size_t size, const char *ns,
                   const char *key, zp__chg_row *ret);

/* Order of changes. */
int zp__chg_compare(const char *ns_a, const char *key_a, const char *ns_b,
                    const char *key_b);

/* Bytes of a change in a chunk, and writing it at OUT; returns the size. */
size_t zp__chg_size(const char *ns, const char *key, size_t inline_size);
size_t zp__chg_write(void *out, const zp__chg *head, const char *ns,
                     const char *key, const void *image, size_t inline_size);

#endif
