/*
 * store.c - the LMDB environment of a state: made once, opened once per
 * process, counted.
 *
 * LMDB's locks are POSIX locks: a process that opens the same files twice and
 * closes one of them loses the locks of both. So all contexts of a process
 * share one environment, found by device and inode of data.mdb in a
 * process-wide table. A forked child empties that table (the registry of
 * fork.h closes the descriptors) and opens its own.
 *
 * The environment is opened MDB_NOTLS (a read transaction belongs to a view,
 * not to a thread), and MDB_NOSYNC unless each commit shall be on the disk.
 * Never MDB_WRITEMAP: the map stays read-only, so that a stray pointer of the
 * application cannot harm the state of all.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/store_lmdb.h"

#define LEAST ((uint64_t)1 << 20)     /* bytes of a state */
#define MAP_SPARE ((uint64_t)4 << 20) /* of map beyond max_bytes, about */

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static zp__store *table;
static zp__store
    *inherited; /* a parent's: never touched, only kept reachable */

static void
forget_table(void)
{
    zp__store **end = &table;

    pthread_mutex_init(&table_lock, NULL);
    while (*end != NULL)
        end = &(*end)->next;
    *end = inherited;
    inherited = table;
    table = NULL;
}

static void
forget_on_fork(void)
{
    zp__fork_on_child(forget_table);
}

/* No page left, or not so many in a row: free ones may lie apart, or be pinned
 * by readers. */
static int
map_full(const zp__store *store, const char *what)
{
    MDB_envinfo info = {0};

    if (store == NULL || mdb_env_info(store->env, &info) != 0)
        return zp__fail(-ENOSPC, "%s: the map is full", what);
    return zp__fail(-ENOSPC,
                    "%s: the map of %s is full: %zu bytes, for %llu at most "
                    "that are used",
                    what, store->place.data, info.me_mapsize,
                    (unsigned long long)store->limits.max_bytes);
}

int
zp__mdb_fail(const zp__store *store, int rc, const char *what)
{
    const char *dir = store != NULL ? store->place.data : "";

    switch (rc) {
    case MDB_MAP_FULL:
        return map_full(store, what);
    case MDB_TXN_FULL:
        return zp__fail(-EMSGSIZE, "%s: too large a transaction", what);
    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
        return zp__fail(ZP_EVERSION, "%s: %s: %s", what, dir, mdb_strerror(rc));
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
    case MDB_BAD_TXN:
        return zp__fail(ZP_ECORRUPT, "%s: %s: %s", what, dir, mdb_strerror(rc));
    default:
        if (rc > 0)
            return zp__fail_errno(rc, "%s: %s", what, dir);
        return zp__fail(ZP_ECORRUPT, "%s: %s: %s", what, dir, mdb_strerror(rc));
    }
}

/* ---- limits ---- */

static uint64_t
round_up_power(uint64_t value)
{
    uint64_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

static int
check_range(const char *what, uint64_t value, uint64_t low, uint64_t high)
{
    if (value >= low && value <= high)
        return 0;
    return zp__fail(-EINVAL, "%s is %llu: it may be %llu to %llu", what,
                    (unsigned long long)value, (unsigned long long)low,
                    (unsigned long long)high);
}

/* The map is the last line of max_bytes, when readers pin what is free: it is
 * somewhat larger. */
static void
fit_map(zp__limits *limits)
{
    uint64_t wanted = limits->max_bytes + limits->max_bytes / 8 + MAP_SPARE;

    if (limits->map_bytes > wanted)
        limits->map_bytes = wanted + 0xffff;
    limits->map_bytes &= ~(uint64_t)0xffff;
    if (limits->map_bytes < wanted) {
        uint64_t spare = limits->map_bytes / 8;
        spare = spare < MAP_SPARE ? spare : MAP_SPARE;
        uint64_t fits = (limits->map_bytes - spare) / 9 * 8;
        limits->max_bytes = fits < limits->max_bytes ? fits : limits->max_bytes;
    }
}

static int
fill_limits(zp__limits *limits, const char *dir)
{
    struct statvfs fs;
    int rc;

    if (statvfs(dir, &fs) != 0)
        return zp__fail_errno(errno, "statvfs of %s", dir);
    if (limits->log_revisions == 0)
        limits->log_revisions = (uint64_t)1 << 18;
    rc = check_range("log_revisions", limits->log_revisions, 64, 1 << 24);
    if (rc != 0)
        return rc;
    limits->log_revisions = round_up_power(limits->log_revisions);
    if (limits->log_bytes == 0)
        limits->log_bytes = (uint64_t)64 << 20;
    if (limits->max_bytes == 0) {
        limits->max_bytes = (uint64_t)fs.f_bavail * fs.f_frsize / 2;
        if (limits->max_bytes > (uint64_t)1 << 30)
            limits->max_bytes = (uint64_t)1 << 30;
    }
    if (limits->max_value == 0)
        limits->max_value = (uint64_t)1 << 20;
    rc = check_range("max_value", limits->max_value, 1, 64 << 20);
    if (rc != 0)
        return rc;
    if (limits->map_bytes == 0)
        limits->map_bytes = (uint64_t)16 << 30;
    if (limits->sync_interval == 0)
        limits->sync_interval = 0.1;
    return 0;
}

/* Is there enough for a new state? */
static int
check_room(const zp__limits *limits, const char *dir)
{
    if (limits->max_bytes < LEAST || limits->map_bytes < LEAST)
        return zp__fail(
            -ENOSPC,
            "%s: a state needs 1 MiB at least, %llu bytes are "
            "there for it",
            dir,
            (unsigned long long)(limits->max_bytes < limits->map_bytes
                                     ? limits->max_bytes
                                     : limits->map_bytes));
    return 0;
}

/* ---- the environment ---- */

/* LMDB opens the file for data without O_CLOEXEC: a program that the
 * application runs would have it, writable. */
static int
close_on_exec(MDB_env *env)
{
    int fd, rc = mdb_env_get_fd(env, &fd);

    if (rc == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        rc = errno;
    return rc;
}

static int
open_env(zp__store *store, uint64_t map_bytes, unsigned flags)
{
    char prefix[ZP__PATH_MAX + 1];
    int rc = mdb_env_create(&store->env);

    if (rc != 0)
        return zp__mdb_fail(store, rc, "opening");
    snprintf(prefix, sizeof prefix, "%s", store->place.data);
    zp__own_begin();
    rc = mdb_env_set_maxreaders(store->env, ZP__READERS);
    if (rc == 0 && map_bytes != 0)
        rc = mdb_env_set_mapsize(store->env, map_bytes);
    if (rc == 0)
        rc = mdb_env_open(store->env, store->place.data, MDB_NOTLS | flags,
                          0600);
    if (rc == 0)
        rc = close_on_exec(store->env);
    store->owned = zp__own_end(prefix);
    if (rc == 0 && store->owned != NULL)
        return 0;
    mdb_env_close(store->env);
    zp__own_forget(store->owned);
    store->owned = NULL;
    store->env = NULL;
    return rc == 0 ? zp__fail(-ENOMEM, "opening %s", store->place.data)
                   : zp__mdb_fail(store, rc, "opening");
}

static void
close_env(zp__store *store)
{
    if (store->env != NULL)
        mdb_env_close(store->env);
    zp__own_forget(store->owned);
    store->env = NULL;
    store->owned = NULL;
}

static int
read_meta(zp__store *store, MDB_txn *txn, zp__meta *ret)
{
    MDB_val key = {1, (void *)(uintptr_t) "m"};
    MDB_val data;
    int rc = mdb_get(txn, ZP__DBI, &key, &data);

    if (rc == MDB_NOTFOUND)
        return zp__fail(ZP_ENOKEY, "%s holds no state", store->place.data);
    if (rc != 0)
        return zp__mdb_fail(store, rc, "reading");
    if (data.mv_size >= sizeof ret->magic + sizeof ret->version) {
        memcpy(ret, data.mv_data,
               data.mv_size < sizeof *ret ? data.mv_size : sizeof *ret);
        if (ret->magic == ZP__META_MAGIC && ret->version != ZP__META_VERSION)
            return zp__fail(ZP_EVERSION, "%s has format %u, this is %u",
                            store->place.data, ret->version, ZP__META_VERSION);
    }
    if (data.mv_size != sizeof *ret || ret->magic != ZP__META_MAGIC ||
        ret->size != sizeof *ret || ret->limits.log_revisions < 2 ||
        (ret->limits.log_revisions & (ret->limits.log_revisions - 1)) != 0)
        return zp__fail(ZP_ECORRUPT, "%s: bad meta row", store->place.data);
    return 0;
}

/* LIMITS in the map that there is (an older one, if its maker was killed). */
static int
take_limits(zp__store *store, const zp__limits *limits, zp__limits *ret)
{
    MDB_envinfo info;
    int rc = check_room(limits, store->place.data);

    if (rc == 0 && (rc = mdb_env_info(store->env, &info)) != 0)
        rc = zp__mdb_fail(store, rc, "reading");
    if (rc != 0)
        return rc;
    *ret = *limits;
    ret->map_bytes = info.me_mapsize;
    fit_map(ret);
    return 0;
}

/* An empty table gets its meta row; one that has it keeps its limits. */
static int
write_meta(zp__store *store, MDB_txn *txn, const zp__limits *limits)
{
    MDB_stat stat;
    zp__meta meta;
    int rc = mdb_stat(txn, ZP__DBI, &stat);

    if (rc != 0)
        return zp__mdb_fail(store, rc, "reading");
    memset(&meta, 0, sizeof meta);
    if (stat.ms_entries > 0) {
        rc = read_meta(store, txn, &meta);
        if (rc != 0)
            return rc == ZP_ENOKEY ? ZP_ECORRUPT : rc;
    } else {
        meta.magic = ZP__META_MAGIC;
        meta.version = ZP__META_VERSION;
        meta.size = sizeof meta;
        rc = take_limits(store, limits, &meta.limits);
        if (rc != 0)
            return rc;
    }
    meta.boot = zp__boot_hash();
    meta.pid_ns = zp__pid_ns();
    meta.owner = zp__pid_self();
    MDB_val key = {1, (void *)(uintptr_t) "m"};
    MDB_val data = {sizeof meta, &meta};
    rc = mdb_put(txn, ZP__DBI, &key, &data, 0);
    store->limits = meta.limits;
    return rc == 0 ? 0 : zp__mdb_fail(store, rc, "writing");
}

/* The board is fresh: tell it where the log of an old state ends. */
static int
find_head(zp__store *store, const zp__place *place)
{
    MDB_txn *txn;
    zp__log log;
    int rc = zp__board_open(&store->board, place);

    if (rc < 0)
        return rc;
    rc = zp__mdb_read(store, &txn);
    if (rc == 0) {
        rc = zp__log_newest(store, txn, &log);
        if (rc == 0)
            atomic_store(&store->board.shared->head, log.revision);
        mdb_txn_abort(txn);
    }
    zp__board_close(&store->board);
    return rc == ZP_ENOKEY ? 0 : rc;
}

static int
create_rows(zp__store *store, const zp__limits *limits)
{
    MDB_txn *txn;
    MDB_dbi dbi;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn);

    if (rc != 0)
        return zp__mdb_fail(store, rc, "writing");
    rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    if (rc != 0)
        rc = zp__mdb_fail(store, rc, "opening");
    else
        rc = write_meta(store, txn, limits);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 ? 0 : zp__space_explain(store, rc, "writing");
}

/* Open or make the files. A state that is there has its own map: the one for
 * these limits might be too small to write to it. */
static int
make_env(zp__store *store, zp__limits *limits)
{
    unsigned flags = store->place.durable ? 0 : MDB_NOSYNC;
    char path[ZP__PATH_MAX + 16];
    struct stat st;
    int rc;

    snprintf(path, sizeof path, "%s/data.mdb", store->place.data);
    if (stat(path, &st) == 0 && st.st_size > 0)
        return open_env(store, 0, flags);
    rc = check_room(limits, store->place.data);
    if (rc != 0)
        return rc;
    fit_map(limits);
    for (;;) {
        rc = open_env(store, limits->map_bytes, flags);
        if (rc != -ENOMEM || limits->map_bytes < 2 * MAP_SPARE)
            return rc;
        limits->map_bytes /= 2;
        fit_map(limits);
    }
}

int
zp__store_create(const zp__place *place, const zp__limits *limits)
{
    zp__limits filled = *limits;
    zp__store *store;
    int rc = fill_limits(&filled, place->data);

    if (rc != 0)
        return rc;
    store = calloc(1, sizeof *store);
    if (store == NULL)
        return zp__fail(-ENOMEM, "making a store");
    store->place = *place;
    filled.durable = place->durable;
    rc = make_env(store, &filled);
    if (rc == 0)
        rc = create_rows(store, &filled);
    if (rc == 0)
        rc = find_head(store, place);
    close_env(store);
    free(store);
    return rc;
}

/* ---- the process's table ---- */

static zp__store *
lookup(dev_t dev, ino_t ino)
{
    for (zp__store *store = table; store != NULL; store = store->next)
        if (store->dev == dev && store->ino == ino)
            return store;
    return NULL;
}

static int
load(zp__store *store)
{
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_stat stat;
    zp__meta meta;
    int rc = zp__mdb_read(store, &txn);

    if (rc != 0)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    if (rc != 0)
        rc = zp__mdb_fail(store, rc, "opening");
    else
        rc = read_meta(store, txn, &meta);
    if (rc == 0 && mdb_stat(txn, dbi, &stat) == 0) {
        store->page = stat.ms_psize;
        store->limits = meta.limits;
    }
    mdb_txn_abort(txn);
    if (rc == 0)
        rc = mdb_env_get_fd(store->env, &store->fd);
    if (rc == 0 && (!meta.limits.durable || meta.limits.sync != 0))
        rc = mdb_env_set_flags(store->env, MDB_NOSYNC, 1);
    return rc > 0 ? zp__mdb_fail(store, rc, "opening") : rc;
}

static int
open_new(zp__store **ret, const zp__place *place, const struct stat *st)
{
    zp__store *store = calloc(1, sizeof *store);
    int rc;

    if (store == NULL)
        return zp__fail(-ENOMEM, "opening %s", place->run);
    store->place = *place;
    store->dev = st->st_dev;
    store->ino = st->st_ino;
    store->txn.store = store;
    store->txn.depth = -1;
    rc = zp__board_open(&store->board, place);
    if (rc != 0)
        goto fail_board;
    rc = open_env(store, 0, 0);
    if (rc != 0)
        goto fail_env;
    rc = load(store);
    if (rc != 0)
        goto fail_load;
    store->users = 1;
    *ret = store;
    return 0;

fail_load:
    close_env(store);
fail_env:
    zp__board_close(&store->board);
fail_board:
    free(store);
    return rc;
}

int
zp__store_open(zp__store **ret, const zp__place *place)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char path[ZP__PATH_MAX + 16];
    struct stat st;
    int rc = 0;

    pthread_once(&once, forget_on_fork);
    snprintf(path, sizeof path, "%s/data.mdb", place->data);
    pthread_mutex_lock(&table_lock);
    if (stat(path, &st) != 0) {
        rc = errno == ENOENT
                 ? zp__fail(ZP_ENOSTATE, "no state in %s", place->data)
                 : zp__fail_errno(errno, "%s", path);
        goto out;
    }
    zp__store *store = lookup(st.st_dev, st.st_ino);
    if (store != NULL) {
        store->users++;
    } else {
        rc = open_new(&store, place, &st);
        if (rc != 0)
            goto out;
        store->next = table;
        table = store;
    }
    *ret = store;
out:
    pthread_mutex_unlock(&table_lock);
    return rc;
}

zp__store *
zp__store_close(zp__store *store)
{
    if (store == NULL)
        return NULL;
    pthread_mutex_lock(&table_lock);
    if (--store->users > 0) {
        pthread_mutex_unlock(&table_lock);
        return NULL;
    }
    for (zp__store **link = &table; *link != NULL; link = &(*link)->next) {
        if (*link == store) {
            *link = store->next;
            break;
        }
    }
    close_env(store);
    zp__board_close(&store->board);
    zp__journal_free(&store->txn.journal);
    free(store->txn.row.data);
    free(store->txn.old.data);
    free(store);
    pthread_mutex_unlock(&table_lock);
    return NULL;
}

zp__board *
zp__store_board(zp__store *store)
{
    return &store->board;
}

const zp__limits *
zp__store_limits(const zp__store *store)
{
    return &store->limits;
}

int
zp__store_sync(zp__store *store)
{
    int rc = mdb_env_sync(store->env, 1);
    return rc == 0 ? 0 : zp__space_explain(store, rc, "syncing");
}

/* ---- names ---- */

static int
check_name(const char *name, size_t max, const char *what)
{
    size_t length = name == NULL ? 0 : strnlen(name, max + 1);

    if (length >= 1 && length <= max)
        return 0;
    if (length == 0)
        return zp__fail(-EINVAL, "a %s has 1-%zu bytes, this is %s", what, max,
                        name == NULL ? "NULL" : "empty");
    return zp__fail(-EINVAL, "a %s has 1-%zu bytes, this has %zu: %.32s...",
                    what, max, strlen(name), name);
}

int
zp__ns_check(const char *ns)
{
    return check_name(ns, ZP__NS_MAX, "namespace");
}

int
zp__key_check(const char *key)
{
    return check_name(key, ZP__KEY_MAX, "key");
}
