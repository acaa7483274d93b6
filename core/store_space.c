/*
 * store_space.c - room: the limit of the state, and space that is really there.
 *
 * Two things can run out. The *limit*, max_bytes: a set is refused when the
 * used part of the file would pass nine tenths of it, a delete (and the record
 * of a process) at the whole. Free pages inside the file count as free, unless
 * a reader pins them; they are counted only when the file's end is near the
 * limit. A tenth before that, or more, the log is shortened.
 *
 * The *file system*: LMDB writes its pages at commit, and on a full tmpfs gets
 * a short write, which it tells as EIO, after the application's function has
 * run. So we allocate (fallocate) ahead of what LMDB will write: each
 * transaction is given a budget of pages that are sure to exist, refilled
 * before it is spent; sets leave ZP__RESERVE untouched, which deletes and
 * records may use. The cost: one comparison per write, a system call per
 * megabyte by which the file grows.
 *
 * How many pages a transaction can need at most: what its rows have grown by,
 * plus a copy of each page that it touched (five per write: a path in the
 * tree of rows and in that of free pages), but never more than there are, plus
 * the large images that it put and dropped again (LMDB does not use their
 * pages before the end), plus the log row that the commit will add.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "core/store_lmdb.h"

#define PATH_PAGES 5   /* copied per write, at most */
#define SLACK_PAGES 24 /* free list and meta pages of any transaction */
#define REFILL 128     /* pages of budget at a time */
#define SPARE_PAGES 64 /* beside a large value's own */
#define RECOUNT 16     /* revisions after which free pages are counted again */
#define RECOUNT_PAGES 256 /* ... and one more for so many that were free */

/* ---- free pages ---- */

/* Pages on LMDB's free list: records by the transaction that gave them up, each
 * beginning with their number. A reader pins what was given up after its own
 * transaction. (The newest one's wait for one commit more: they count.) */
static int
count_free(zp__store *store, uint64_t *ret_all, uint64_t *ret_usable)
{
    zp__readers found;
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, data;
    int rc = zp__mdb_read(store, &txn);

    if (rc != 0)
        return rc;
    *ret_all = *ret_usable = 0;
    zp__readers_look(store, &found);
    rc = mdb_cursor_open(txn, 0, &cursor);
    if (rc == 0) {
        while ((rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {
            size_t n = 0, id = 0;
            if (data.mv_size >= sizeof n && key.mv_size == sizeof id) {
                memcpy(&n, data.mv_data, sizeof n);
                memcpy(&id, key.mv_data, sizeof id);
            }
            *ret_all += n;
            *ret_usable +=
                found.oldest_pid == 0 || id <= found.oldest_txn ? n : 0;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    return rc == MDB_NOTFOUND ? 0
                              : zp__mdb_fail(store, rc, "counting free pages");
}

/* Count free pages, now or (OLD) unless it was done not long ago: the more
 * there are, the longer until others may have used them up. */
static int
free_pages(zp__txn *txn, bool old)
{
    struct zp__free *pages = &txn->store->free;
    uint64_t age = RECOUNT + pages->usable / RECOUNT_PAGES;

    if (pages->revision != 0 &&
        txn->revision - pages->revision <= (old ? age : 0))
        return 0;
    int rc = count_free(txn->store, &pages->all, &pages->usable);
    if (rc == 0)
        pages->revision = txn->revision;
    return rc;
}

/* ---- room for a transaction ---- */

int
zp__space_begin(zp__txn *txn)
{
    MDB_envinfo info;
    MDB_stat stat;
    int rc = mdb_env_info(txn->store->env, &info);

    if (rc == 0)
        rc = mdb_stat(zp__txn_mdb(txn), ZP__DBI, &stat);
    if (rc != 0)
        return zp__mdb_fail(txn->store, rc, "reading");
    txn->end = info.me_last_pgno + 1;
    txn->live =
        stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    txn->wasted = 0;
    txn->budget = 0;
    return 0;
}

/* Pages that TXN may write, for what it has done so far. */
static int
pages_wanted(zp__txn *txn, uint64_t *ret)
{
    MDB_stat stat;
    int rc = mdb_stat(zp__txn_mdb(txn), ZP__DBI, &stat);

    if (rc != 0)
        return zp__mdb_fail(txn->store, rc, "reading");
    uint64_t live =
        stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    uint64_t copied = (txn->writes + 1) * PATH_PAGES;
    if (copied > txn->live)
        copied = txn->live;
    uint64_t log = (txn->journal.used + txn->journal.n * sizeof(zp__chg)) /
                       txn->store->page +
                   txn->journal.n / ZP__CHUNK;
    *ret = (live > txn->live ? live - txn->live : 0) + txn->wasted + copied +
           log + SLACK_PAGES;
    return 0;
}

/* Of PAGES that were free when they were counted, those that certainly are:
 * each revision since then may have taken some, as many as the largest value
 * needs, by whomever. */
static uint64_t
still_free(const zp__txn *txn, uint64_t pages)
{
    const zp__store *store = txn->store;
    uint64_t each = store->limits.max_value / store->page + 2 * REFILL;
    uint64_t taken = (txn->revision - store->free.revision) * each;

    return taken < pages ? pages - taken : 0;
}

/* Pages that are used when WANTED more are, as far as counted. */
static uint64_t
pages_used(const zp__txn *txn, uint64_t wanted)
{
    uint64_t usable = still_free(txn, txn->store->free.usable);
    return txn->end + wanted - (usable < txn->end ? usable : 0);
}

static int
check_limit(zp__txn *txn, uint64_t wanted)
{
    zp__store *store = txn->store;
    uint64_t max = store->limits.max_bytes;
    uint64_t limit = (txn->deletes ? max : max / 10 * 9) / store->page;
    int rc;

    if (txn->end + wanted <= limit)
        return 0;
    rc = free_pages(txn, wanted <= REFILL);
    if (rc == 0 && pages_used(txn, wanted) > limit)
        rc = free_pages(txn, false);
    if (rc != 0 || pages_used(txn, wanted) <= limit)
        return rc;
    zp__store_check_readers(store);
    store->free.revision = 0;
    rc = free_pages(txn, false);
    if (rc != 0 || pages_used(txn, wanted) <= limit)
        return rc;
    uint64_t used = pages_used(txn, 0);
    store->free.revision = 0; /* ask again: something may be let go */
    return zp__fail(-ENOSPC,
                    "%s is full: %llu of %llu bytes are used (the last tenth "
                    "is kept for deleting)",
                    store->place.data, (unsigned long long)(used * store->page),
                    (unsigned long long)max);
}

/* Pages in use from which on the log gives way: a tenth below the limit of
 * sets, or as far as the largest value needs, but not too far. */
static uint64_t
log_end(const zp__store *store)
{
    uint64_t max = store->limits.max_bytes;
    uint64_t value = store->limits.max_value + SPARE_PAGES * store->page;
    uint64_t spare = value < max / 3 ? value : max / 3;

    if (spare < max / 10)
        spare = max / 10;
    return (max / 10 * 9 - spare) / store->page;
}

uint64_t
zp__space_excess(zp__txn *txn, const zp__log *log)
{
    zp__store *store = txn->store;
    const struct zp__free *pages = &store->free;
    uint64_t max = store->limits.max_bytes;
    uint64_t most = log_end(store);
    uint64_t least = max / 16; /* of log, that is kept in any case */

    if (txn->end <= most || log->bytes <= least)
        return 0;
    int rc = free_pages(txn, true);
    if (rc == 0 && txn->end > most + still_free(txn, pages->all))
        rc = free_pages(txn, false);
    if (rc != 0 || txn->end <= most + pages->all)
        return 0; /* a commit does not fail for the want of counting */
    uint64_t excess = (txn->end - pages->all - most) * store->page;
    return excess < log->bytes - least ? excess : log->bytes - least;
}

void
zp__space_waste(zp__txn *txn, size_t size)
{
    txn->wasted += size / txn->store->page + 1;
}

static uint64_t
allocated(zp__store *store)
{
    uint64_t bytes = atomic_load(&store->board.shared->allocated);
    struct stat st;

    if (bytes == 0 && fstat(store->fd, &st) == 0) {
        bytes = (uint64_t)st.st_size;
        atomic_store(&store->board.shared->allocated, bytes);
    }
    return bytes;
}

/* Allocate up to BYTES from the file's begin: 0 or an errno. */
static int
allocate(zp__store *store, uint64_t from, uint64_t bytes)
{
    int rc;

    do
        rc = fallocate(store->fd, 0, (off_t)from, (off_t)(bytes - from));
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return errno;
    atomic_store(&store->board.shared->allocated, bytes);
    return 0;
}

static int
check_file(zp__txn *txn, uint64_t wanted)
{
    zp__store *store = txn->store;
    uint64_t have = allocated(store);
    uint64_t need = (txn->end + wanted) * store->page;
    uint64_t spare = txn->deletes ? 0 : ZP__RESERVE;
    struct statvfs fs;
    int rc;

    if (have >= need + spare)
        return 0;
    rc = allocate(store, have, need + spare + ZP__RESERVE);
    if (rc != 0)
        rc = allocate(store, have, need + spare);
    if (rc == 0 || have >= need + spare)
        return 0;
    if (txn->deletes && rc == ENOSPC)
        return 0; /* free pages may do; else the commit tells */
    if (statvfs(store->place.data, &fs) != 0)
        memset(&fs, 0, sizeof fs);
    return zp__fail(-rc,
                    "the file system of %s is full: %llu of %llu bytes are "
                    "free, %llu are needed",
                    store->place.data,
                    (unsigned long long)fs.f_bavail * fs.f_frsize,
                    (unsigned long long)fs.f_blocks * fs.f_frsize,
                    (unsigned long long)(need + spare - have));
}

int
zp__space_ensure(zp__txn *txn, size_t bytes)
{
    uint64_t wanted = 0;
    long cost = PATH_PAGES + 1 + (long)(bytes / txn->store->page) + 1;
    int rc;

    if (txn->budget >= cost) {
        txn->budget -= cost;
        return 0;
    }
    rc = pages_wanted(txn, &wanted);
    if (rc == 0)
        rc = check_limit(txn, wanted + (uint64_t)cost);
    if (rc == 0)
        rc = check_file(txn, wanted + (uint64_t)cost + REFILL);
    if (rc == 0)
        txn->budget = REFILL;
    return rc;
}

int
zp__space_explain(zp__store *store, int rc, const char *what)
{
    struct statvfs fs;

    if ((rc == EIO || rc == ENOSPC) && statvfs(store->place.data, &fs) == 0 &&
        (uint64_t)fs.f_bavail * fs.f_frsize < ZP__RESERVE)
        return zp__fail(-ENOSPC,
                        "%s: the file system of %s is full: %llu of %llu "
                        "bytes are free",
                        what, store->place.data,
                        (unsigned long long)fs.f_bavail * fs.f_frsize,
                        (unsigned long long)fs.f_blocks * fs.f_frsize);
    return zp__mdb_fail(store, rc, what);
}

/* ---- statistics ---- */

int
zp__store_usage(zp__store *store, zp__usage *ret)
{
    MDB_envinfo info;
    MDB_txn *txn;
    zp__log log;
    uint64_t free;
    uint64_t usable;
    zp__readers found;
    int rc = count_free(store, &free, &usable);

    if (rc == 0)
        rc = zp__mdb_read(store, &txn);
    if (rc != 0)
        return rc;
    memset(ret, 0, sizeof *ret);
    rc = zp__log_newest(store, txn, &log);
    mdb_txn_abort(txn);
    if (rc == 0)
        ret->log_bytes = log.bytes;
    else if (rc != ZP_ENOKEY)
        return rc;
    rc = mdb_env_info(store->env, &info);
    if (rc != 0)
        return zp__mdb_fail(store, rc, "reading");
    zp__readers_look(store, &found);
    ret->used_bytes = (info.me_last_pgno + 1 - free) * store->page;
    ret->max_bytes = store->limits.max_bytes;
    ret->readers = found.n;
    ret->oldest_reader = found.oldest_pid;
    return 0;
}
