/*
 * store.h - the state in LMDB: current rows and the ring log, read exactly at
 * any retained revision, written in transactions. Knows bytes, namespaces and
 * keys; knows nothing of values, contexts or loops.
 *
 * The head comment of store.c draws the rows. What users of this header need:
 *
 *  - Revisions count committed transactions that changed something. `head` is
 *    the newest (0: nothing yet), `tail` the oldest whose log row is kept;
 *    the state can be read at every revision from tail - 1 to head.
 *  - A *view* is a read transaction, begun and ended as often as one likes;
 *    what is read from it is borrowed until it is ended. Not shared between
 *    threads.
 *  - A *txn* is the one write transaction of this process, under the board's
 *    lock. Its reads see its own writes.
 *  - Keys and namespaces have been checked by the caller (zp__key_check()).
 */
#ifndef ZP_CORE_STORE_H
#define ZP_CORE_STORE_H

#include "core/board.h"

#define ZP__NS_MAX 32
#define ZP__KEY_MAX 200

typedef struct zp__limits { /* stored in the state, obeyed by all */
    uint64_t log_revisions;
    uint64_t log_bytes;
    uint64_t max_bytes;
    uint64_t map_bytes;
    uint64_t max_value;
    uint32_t sync; /* zp_sync_policy */
    uint32_t durable;
    double sync_interval;
} zp__limits;

typedef struct zp__store zp__store;
typedef struct zp__view zp__view;
typedef struct zp__txn zp__txn;

/* Make data.mdb in PLACE with these limits (zeros: the defaults), or check an
 * existing durable one (its own limits stay). The board exists already. */
int zp__store_create(const zp__place *place, const zp__limits *limits);

/* Open PLACE's store and board: one per process and data.mdb, counted. */
int zp__store_open(zp__store **ret, const zp__place *place);
zp__store *zp__store_close(zp__store *store);

zp__board *zp__store_board(zp__store *store);
const zp__limits *zp__store_limits(const zp__store *store);

/* Clear the reader slots of dead processes; returns how many. */
int zp__store_check_readers(zp__store *store);

/* Make everything committed durable now (the interval policy). */
int zp__store_sync(zp__store *store);

typedef struct zp__usage {
    uint64_t used_bytes, max_bytes, log_bytes, readers, oldest_reader;
} zp__usage;
int zp__store_usage(zp__store *store, zp__usage *ret);

/* 0 or -EINVAL with a text: 1-32, 1-200 bytes. */
int zp__ns_check(const char *ns);
int zp__key_check(const char *key);

/* ---- reading ---- */

typedef struct zp__item {
    const void *image; /* borrowed; NULL (in the past alone): it was too large
                          to be kept */
    size_t size;
    uint64_t revision;     /* of the change that made it; 0: before the log */
    uint64_t created;      /* revision that created the key, and the rank */
    uint32_t created_rank; /* among those created in one transaction */
    bool leased;           /* told by a txn alone: leases.h */
} zp__item;

int zp__view_new(zp__view **ret, zp__store *store);
zp__view *zp__view_free(zp__view *view);

/* Begin on the newest state (nothing if begun already), end (likewise). The
 * epoch counts the beginnings: pointers taken under another are dangling. */
int zp__view_begin(zp__view *view);
void zp__view_end(zp__view *view);
bool zp__view_begun(const zp__view *view);
uint64_t zp__view_epoch(const zp__view *view);

/* Head and tail as of this view (which must be begun). */
int zp__view_range(zp__view *view, uint64_t *ret_head, uint64_t *ret_tail);

#define ZP__NEWEST UINT64_MAX /* as revision: whatever the view shows */

/* The item of KEY at REVISION: 0, ZP_ENOKEY (no text: hot), ZP_EGONE. */
int zp__view_get(zp__view *view, const char *ns, const char *key,
                 uint64_t revision, zp__item *ret);

/* The first key after AFTER (NULL: the first) that was there at REVISION, into
 * RET_KEY (ZP__KEY_MAX + 1 bytes): 1, 0 at the end, or an error. */
int zp__view_next(zp__view *view, const char *ns, const char *after,
                  uint64_t revision, char *ret_key, zp__item *ret);

typedef struct zp__version { /* what a change of a key left */
    zp__item item;           /* image NULL: deleted, or too large to be kept */
    uint64_t revision;       /* of the change */
    unsigned flags; /* zp_change_flag; as far as it can be told when ... */
    bool forgotten; /* ... its log row is not retained ... */
    int32_t pid;    /* ... and then these are 0 */
    int64_t time_ns;
} zp__version;

/* The version of KEY at REVISION, also when that is a deletion: 0, ZP_ENOKEY
 * (no text: the log knows of no change until then), ZP_EGONE. To go on with the
 * one before: at its revision - 1, unless it is forgotten. */
int zp__view_version(zp__view *view, const char *ns, const char *key,
                     uint64_t revision, zp__version *ret);

/* How many keys there were. */
int zp__view_length(zp__view *view, const char *ns, uint64_t revision,
                    uint64_t *ret);

/* ---- the log ---- */

typedef struct zp__row { /* one committed transaction; borrowed */
    uint64_t revision;
    uint64_t writer;
    int64_t time_ns; /* wall clock */
    int32_t pid;
    uint32_t n; /* changes */
    const void *data;
    size_t size;
    uint32_t chunk; /* which chunk `data` is (large transactions) */
} zp__row;

typedef struct zp__log_change {
    const char *ns; /* NUL-terminated, borrowed */
    const char *key;
    unsigned flags; /* zp_change_flag */
} zp__log_change;

/* The row of REVISION: 0, ZP_EGONE (before the tail), -ERANGE (after the
 * head). */
int zp__view_row(zp__view *view, uint64_t revision, zp__row *ret);

/* Its I-th change, in order of namespace, key. */
int zp__row_change(zp__view *view, zp__row *row, uint32_t i,
                   zp__log_change *ret);

/* The revision behind which to begin, to see first the first change of MOMENT
 * (wall clock, in seconds) or later: the head when all are older; 0 when the
 * oldest that is retained is not older: what came before it may have been
 * forgotten, and who begins at 0 is told so. */
int zp__view_since(zp__view *view, double moment, uint64_t *ret_cursor);

/* ---- writing ---- */

/* Begin: take the lock, begin LMDB's transaction, make sure of space for NEED
 * bytes of values (and for deletes alone when DELETES). One per store and
 * thread: -EDEADLK. Errors as the public contract of writing. */
int zp__txn_begin(zp__store *store, zp__txn **ret, uint64_t writer,
                  double timeout, size_t need, bool deletes);

/* Nested: begin, then end with commit or without. */
int zp__txn_nest(zp__txn *txn);
int zp__txn_unnest(zp__txn *txn, bool commit);

/* What the revision will be. */
uint64_t zp__txn_revision(const zp__txn *txn);

/* A number that grows with each write in TXN: for iterators. */
uint64_t zp__txn_writes(const zp__txn *txn);

/* Which transaction it is (the object serves one after another), and how deep
 * it is nested: for handles that may have outlived theirs. */
uint64_t zp__txn_serial(const zp__txn *txn);
int zp__txn_depth(const zp__txn *txn);

int zp__txn_get(zp__txn *txn, const char *ns, const char *key, zp__item *ret);
int zp__txn_next(zp__txn *txn, const char *ns, const char *after, char *ret_key,
                 zp__item *ret);
int zp__txn_length(zp__txn *txn, const char *ns, uint64_t *ret);

/* The key created last, into RET_KEY; ZP_ENOKEY when there is none. Looks at
 * all of them. */
int zp__txn_youngest(zp__txn *txn, const char *ns, char *ret_key,
                     zp__item *ret);

/* Put checks max_value and space, before it changes anything. The image is
 * trusted. Delete: ZP_ENOKEY. */
int zp__txn_put(zp__txn *txn, const char *ns, const char *key,
                const void *image, size_t size);
int zp__txn_delete(zp__txn *txn, const char *ns, const char *key);

/* End. A commit that changed nothing gives no revision. Both release the lock
 * and free TXN; the commit rings the bell. *RET_REVISION (may be NULL): the
 * new revision, or the head if nothing changed. */
int zp__txn_commit(zp__txn *txn, uint64_t *ret_revision);
void zp__txn_abort(zp__txn *txn);

/* Is this thread inside a txn of any store? What waits must refuse then. */
bool zp__in_txn(void);

/* ---- records of processes: bytes by id ---- */

/* Ids grow from one process to the next and are never given twice. A record is
 * either of one that runs or of one that has ended; of the latter the newest
 * are kept: so many, and so large a part of max_bytes. */
#define ZP__RECORDS_ENDED 10000
#define ZP__RECORDS_PART 8

/* Write record ID (*ID 0: a new one, told in *ID), as that of a process that
 * has ENDED or not, whatever it was before, in a transaction of its own; may
 * use the reserved space. One that is written is never dropped for itself. No
 * revision, no event. */
int zp__store_put_record(zp__store *store, uint64_t *id, const void *data,
                         size_t size, bool ended, double timeout);
int zp__store_delete_record(zp__store *store, uint64_t id, double timeout);

/* Read: 0, or with a text ZP_ENOKEY (there has never been such an id) or
 * ZP_EGONE (it is no longer kept). */
int zp__view_record(zp__view *view, uint64_t id, const void **ret,
                    size_t *ret_size);

/* The newest id that was given; 0: none. */
int zp__view_last_record(zp__view *view, uint64_t *ret_id);

/* The first record after id AFTER, of those that run or of all of them: 1, 0
 * at the end. */
int zp__view_next_running(zp__view *view, uint64_t after, uint64_t *ret_id,
                          const void **ret, size_t *ret_size);
int zp__view_next_record(zp__view *view, uint64_t after, uint64_t *ret_id,
                         const void **ret, size_t *ret_size);

#endif
