/*
 * store_lmdb.h - what the store's own files share: the LMDB side of store.h.
 * Only core/store*.c includes this.
 *
 *   store.c        the environment: make, open, close, limits
 *   store_rows.c   rows and log, read in any transaction
 *   store_read.c   views: the state at any revision, the log
 *   store_past.c   the past of a key; where in the log a moment is
 *   store_txn.c    transactions: begin, commit, nested ones
 *   store_write.c  put and delete
 *   store_log.c    commit's log row; forgetting old rows
 *   store_call.c   commit's call: the watchers, or the server
 *   store_leases.c leases of keys, and telling the server of them
 *   store_space.c  room: limits and the reserve
 *   store_readers.c  who reads
 *   store_records.c  records of processes
 */
#ifndef ZP_CORE_STORE_LMDB_H
#define ZP_CORE_STORE_LMDB_H

#include <lmdb.h>

#include "core/error.h"
#include "core/fork.h"
#include "core/journal.h"

#define ZP__DBI ((MDB_dbi)1)          /* LMDB's main table */
#define ZP__TXN_DEPTH 32              /* of nested transactions */
#define ZP__READERS 4096              /* read transactions of all processes */
#define ZP__RESERVE ((size_t)1 << 20) /* kept allocated ahead of the file */

typedef struct zp__buffer { /* kept from one transaction to the next */
    unsigned char *data;
    size_t size;
} zp__buffer;

struct zp__lease_news { /* what a transaction has done to leases ... */
    bool any;
    uint64_t bound; /* ... of this holder, whom the server may not know */
    int64_t due;    /* ... and their earliest deadline */
    uint64_t count; /* the board's before the commit */
};

struct zp__txn {
    zp__store *store;
    MDB_txn *txns[ZP__TXN_DEPTH]; /* nested: the last one is in use */
    struct zp__level {
        zp__journal_mark mark;
        uint64_t writes; /* how these two were when it began */
        size_t wasted;
    } levels[ZP__TXN_DEPTH];
    int depth; /* of the one in use; -1: not begun */
    uint64_t revision;
    uint64_t writer;
    uint64_t serial; /* of the transactions that this object has served */
    uint64_t writes;
    uint32_t ranks; /* given to created keys, and to o rows */
    int broken;     /* LMDB failed inside: only abort is left */
    bool deletes;   /* may use the last tenth of the space */
    bool fresh;     /* no log row yet: `last` is all zero */
    zp__log last;   /* head of the newest log row ... */
    size_t known;   /* ... as of this LMDB transaction; 0: not known */
    zp__log next;   /* head of the row that the commit writes */
    uint64_t end;   /* of the file's used part at the beginning, in pages */
    size_t live;    /* pages of rows, likewise */
    size_t wasted;  /* pages given up inside: LMDB takes others */
    long budget;    /* pages that are sure to be there still */
    zp__journal journal;
    zp__buffer row; /* a log row being made */
    zp__buffer old; /* one being forgotten */
    struct zp__lease_news leases;
};

struct zp__store {
    MDB_env *env;
    zp__board board;
    zp__place place;
    zp__limits limits;
    zp__txn txn; /* under the board's lock */
    dev_t dev;   /* of data.mdb: the key in the table */
    ino_t ino;
    zp__owned *owned;
    size_t page; /* bytes */
    mdb_filehandle_t fd;
    struct zp__free { /* pages; counted when it matters, by the writer */
        uint64_t all;
        uint64_t usable;   /* those that no reader pins */
        uint64_t revision; /* when; 0: never */
    } free;
    unsigned users;
    zp__store *next;
};

#define ZP__WAYS 8 /* keys whose past a view remembers the way to, by hash */

struct zp__view {
    zp__store *store;
    MDB_txn *txn; /* NULL before the first begin */
    bool begun;
    bool ranged; /* head and tail are known */
    uint64_t epoch;
    uint64_t head, tail;
    MDB_cursor *cursor; /* for iteration: renewed with the transaction */
    uint64_t cursor_epoch;
    struct zp__way *ways[ZP__WAYS]; /* made when needed */
};

#define ZP__CALL_FEW 4 /* watchers that a writer rings by itself */

typedef struct zp__call {
    bool any;    /* somebody is interested, so the filter says */
    bool server; /* the server has to be rung */
    bool tidy;
    unsigned n;
    unsigned slots[ZP__CALL_FEW];
    uint32_t missed; /* a bit for each of these that could not be rung */
} zp__call;

/* After a commit and a fence, under the lock: tell those who want it. Then,
 * when the lock was given back: the rest. */
void zp__txn_call(zp__txn *txn, zp__call *ret);
void zp__call_rest(zp__store *store, const zp__call *call);

/* ZP_ECORRUPT: "... a WHAT row makes no sense". */
int zp__store_corrupt(const zp__store *store, const char *what);

/* The row of a key: 0, ZP_ENOKEY (no text), or an error. */
int zp__row_get(zp__store *store, MDB_txn *txn, const void *key,
                size_t key_size, MDB_val *ret);

/* LMDB's code RC (not 0) as ours, with a text: "WHAT: ..." . */
int zp__mdb_fail(const zp__store *store, int rc, const char *what);

typedef struct zp__readers {
    uint64_t n;          /* slots of the reader table in use */
    uint64_t oldest_txn; /* of LMDB's, that one of them reads ... */
    uint64_t oldest_pid; /* ... in this process; 0: none reads */
} zp__readers;
void zp__readers_look(zp__store *store, zp__readers *ret);

/* Begin a read transaction; when the reader table is full, clear it of dead
 * processes and try again. -EAGAIN with a text that names what to do. */
int zp__mdb_read(zp__store *store, MDB_txn **ret);

/* The head of the log row of REVISION in TXN and its bytes: 0, ZP_ENOKEY (that
 * slot is empty or another's), or an error. RET_DATA may be NULL. */
int zp__log_head(zp__store *store, MDB_txn *txn, uint64_t revision,
                 zp__log *ret, MDB_val *ret_data);

/* The newest log row in TXN: 0, or ZP_ENOKEY when there is none. */
int zp__log_newest(zp__store *store, MDB_txn *txn, zp__log *ret);

/* Chunk I of the log row of REVISION (whose row is ROW). */
int zp__log_chunk(zp__store *store, MDB_txn *txn, uint64_t revision,
                  const MDB_val *row, uint32_t i, MDB_val *ret);

/* The change of NS, KEY in the log row of REVISION. */
int zp__log_find(zp__store *store, MDB_txn *txn, uint64_t revision,
                 const char *ns, const char *key, zp__chg_row *ret);

/* The image named by OUTSIDE. */
int zp__outside_get(zp__store *store, MDB_txn *txn, const zp__outside *outside,
                    size_t size, const void **ret);

/* Reading shared by views and transactions: the current row; the next key's;
 * the image of one; the stored number of keys. */
int zp__cur_get(zp__store *store, MDB_txn *txn, const char *ns, const char *key,
                zp__cur_row *ret);
int zp__cur_image(zp__store *store, MDB_txn *txn, const zp__cur_row *row,
                  const void **ret);
int zp__cur_next(zp__store *store, MDB_cursor *cursor, const char *ns,
                 const char *after, char *ret_key, zp__cur_row *ret);
int zp__ns_length(zp__store *store, MDB_txn *txn, const char *ns,
                  uint64_t *ret);

/* Is REVISION one that VIEW can show? 0 or ZP_EGONE. */
int zp__view_check(zp__view *view, uint64_t revision);

/* Make VIEW's cursor good for its transaction. */
int zp__view_cursor(zp__view *view);

/* The item of a current row; of KEY at REVISION, before NEWEST, its newest
 * change: ZP_ENOKEY (no text). */
int zp__cur_item(zp__view *view, const zp__cur_row *row, zp__item *ret);
int zp__item_before(zp__view *view, const char *ns, const char *key,
                    uint64_t revision, uint64_t newest, zp__item *ret);

static inline MDB_txn *
zp__txn_mdb(const zp__txn *txn)
{
    return txn->txns[txn->depth];
}

/* Put and delete one row in a transaction: errors break it. */
int zp__row_put(zp__txn *txn, const void *key, size_t key_size,
                const void *data, size_t size);
int zp__row_delete(zp__txn *txn, const void *key, size_t key_size);

/* End a transaction of rows that are no change of the state: no revision, no
 * log row. Without RC commit, else abort and give that back. */
int zp__txn_end_plain(zp__txn *txn, int rc);

/* The row of a lease in TXN, while the key is put or deleted. */
int zp__lease_put(zp__txn *txn, const char *ns, const char *key,
                  const zp__lease *lease);
int zp__lease_drop(zp__txn *txn, const char *ns, const char *key);

/* Around the commit of a transaction with TXN->leases: mark the board; behind
 * the commit and a fence say whether the server has to look. True: ring. */
void zp__leases_begin(zp__txn *txn);
bool zp__leases_tell(zp__txn *txn);

/* Write the log row of TXN's changes and forget what is too old. *RET_N: how
 * many changes there were (0: nothing was written). */
int zp__log_append(zp__txn *txn, uint32_t *ret_n);

/* Look at the file when TXN begins. */
int zp__space_begin(zp__txn *txn);

/* Make sure that one write more of BYTES fits, before it is done: limits, and
 * really allocated space in the file. -ENOSPC. */
int zp__space_ensure(zp__txn *txn, size_t bytes);

/* A large image of SIZE bytes, put in this very transaction, is dropped. */
void zp__space_waste(zp__txn *txn, size_t size);

/* How many bytes the log should give up, since the state is nearly full. */
uint64_t zp__space_excess(zp__txn *txn, const zp__log *log);

/* RC with a text that tells of a full file system, if that is why. */
int zp__space_explain(zp__store *store, int rc, const char *what);

#endif
