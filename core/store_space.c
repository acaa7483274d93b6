/*
 * store_space.c - room: the limit of the state, and space that is really there.
 *
 * Two things can run out. The *limit*, max_bytes: a set is refused when the
 * used part of the file would pass nine tenths of it, a delete (and the record
 * of a process) at the whole. Free pages inside the file count as free; they
 * are counted only when the file's end is near the limit.
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
 * the log row that the commit will add.
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
#define RECOUNT 16     /* revisions after which free pages are counted again */

/* Pages on LMDB's free list; each record begins with their number. */
static int
count_free(zp__store *store, uint64_t *ret)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, data;
    uint64_t pages = 0;
    int rc = zp__mdb_read(store, &txn);

    if (rc != 0)
        return rc;
    rc = mdb_cursor_open(txn, 0, &cursor);
    if (rc == 0) {
        while ((rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT)) == 0) {
            size_t n = 0;
            if (data.mv_size >= sizeof n)
                memcpy(&n, data.mv_data, sizeof n);
            pages += n;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    if (rc != MDB_NOTFOUND)
        return zp__mdb_fail(store, rc, "counting free pages");
    *ret = pages;
    return 0;
}

static int
free_pages(zp__txn *txn, uint64_t *ret)
{
    zp__store *store = txn->store;
    uint64_t counted = store->free_counted;

    if (counted == 0 || txn->revision - counted >= RECOUNT) {
        uint64_t pages;
        int rc = count_free(store, &pages);
        if (rc != 0)
            return rc;
        store->free_pages = pages;
        store->free_counted = txn->revision;
        if (counted == 0)
            zp__store_check_readers(store);
    }
    *ret = store->free_pages;
    return 0;
}

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
    *ret = (live > txn->live ? live - txn->live : 0) + copied + log +
           SLACK_PAGES;
    return 0;
}

static int
check_limit(zp__txn *txn, uint64_t wanted)
{
    zp__store *store = txn->store;
    uint64_t max = store->limits.max_bytes;
    uint64_t limit = txn->deletes ? max : max / 10 * 9;
    uint64_t used = (txn->end + wanted) * store->page;
    uint64_t free;
    int rc;

    if (used <= limit)
        return 0;
    rc = free_pages(txn, &free);
    if (rc != 0)
        return rc;
    used -= free < txn->end ? free * store->page : 0;
    if (used <= limit)
        return 0;
    store->free_counted = 0; /* ask again next time: something may be freed */
    return zp__fail(-ENOSPC,
                    "%s is full: %llu of %llu bytes are used (the last tenth "
                    "is kept for deleting)",
                    store->place.data,
                    (unsigned long long)((txn->end - free) * store->page),
                    (unsigned long long)max);
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

typedef struct oldest {
    unsigned long long txn;
    uint64_t pid;
    uint64_t readers;
} oldest;

/* One line of mdb_reader_list(): pid, thread, transaction ("-": none). */
static int
see_reader(const char *line, void *user)
{
    oldest *found = user;
    unsigned long long txn;
    unsigned long pid;
    char thread[32];

    if (sscanf(line, " %lu %31s %llu", &pid, thread, &txn) == 3) {
        found->readers++;
        if (found->pid == 0 || txn < found->txn) {
            found->txn = txn;
            found->pid = pid;
        }
    } else if (sscanf(line, " %lu %31s -", &pid, thread) == 2) {
        found->readers++;
    }
    return 0;
}

int
zp__store_usage(zp__store *store, zp__usage *ret)
{
    MDB_envinfo info;
    MDB_txn *txn;
    zp__log log;
    uint64_t free;
    oldest found = {0, 0, 0};
    int rc = count_free(store, &free);

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
    mdb_reader_list(store->env, see_reader, &found);
    ret->used_bytes = (info.me_last_pgno + 1 - free) * store->page;
    ret->max_bytes = store->limits.max_bytes;
    ret->readers = found.readers;
    ret->oldest_reader = found.pid;
    return 0;
}
