/*
 * journal.h - what one transaction has touched, and how it was before.
 *
 * An entry per touched key, made at the first touch, with the bytes of its
 * current row from before the transaction (none: the key had no row). The rest
 * of an entry says what it is by now; after a nested rollback that is stale
 * and read again from the transaction at commit. Memory is kept from one
 * transaction to the next: a plain set allocates nothing.
 */
#ifndef ZP_CORE_JOURNAL_H
#define ZP_CORE_JOURNAL_H

#include "core/rows.h"

typedef struct zp__touch {
    size_t names;    /* offset of ns 0 key 0 in the arena */
    size_t ns_size;  /* with NUL */
    size_t old;      /* offset of the row before */
    size_t old_size; /* 0: there was none */
    zp__cur next;    /* header of the row as it will be: links filled in */
    bool absent;     /* the key is absent now */
    bool same;       /* its image is that of before */
    bool stale;      /* these two must be looked up (again) */
} zp__touch;

typedef struct zp__journal {
    zp__touch *touches;
    size_t n, room;
    unsigned char *arena;
    size_t used, size;
    uint32_t *index; /* open addressing, of place + 1; n > 8 only */
    size_t index_size;
    size_t indexed; /* touches in it */
} zp__journal;

typedef struct zp__journal_mark {
    size_t n, used;
} zp__journal_mark;

void zp__journal_clear(zp__journal *journal); /* keeps (most) memory */
void zp__journal_free(zp__journal *journal);

/* The touch of NS, KEY, or NULL. Good until the next one is added. */
zp__touch *zp__journal_find(zp__journal *journal, const char *ns,
                            const char *key);

/* Add one that is not there yet; OLD is copied. NULL: out of memory. */
zp__touch *zp__journal_add(zp__journal *journal, const char *ns,
                           const char *key, const void *old, size_t old_size);

const char *zp__touch_ns(const zp__journal *journal, const zp__touch *touch);
const char *zp__touch_key(const zp__journal *journal, const zp__touch *touch);
const void *zp__touch_old(const zp__journal *journal, const zp__touch *touch);

/* Nested transactions: forget what was added since MARK; what stays is stale.
 */
zp__journal_mark zp__journal_mark_now(const zp__journal *journal);
void zp__journal_rollback(zp__journal *journal, zp__journal_mark mark);

/* Bring the touches in order of namespace, key. The index is gone after. */
void zp__journal_sort(zp__journal *journal);

#endif
