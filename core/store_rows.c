/*
 * store_rows.c - rows and log, read in any transaction: what views and writers
 * have in common.
 *
 * The newest row of the log: the board's hint is right, or a few commits off,
 * because a view may be older than the hint and a writer may have died before
 * it wrote it. We look at the hint's slot and walk; what the slot holds
 * decides. Only a hint that is far off (never seen) costs a scan.
 */
#include <string.h>

#include "core/store_lmdb.h"

#define WALK 256 /* slots looked at on both sides of the hint */

/* ---- rows, in any transaction ---- */

int
zp__store_corrupt(const zp__store *store, const char *what)
{
    return zp__fail(ZP_ECORRUPT, "%s: a %s row makes no sense",
                    store->place.data, what);
}

int
zp__row_get(zp__store *store, MDB_txn *txn, const void *key, size_t key_size,
            MDB_val *ret)
{
    MDB_val mdb_key = {key_size, (void *)key};
    int rc = mdb_get(txn, ZP__DBI, &mdb_key, ret);

    if (rc == 0)
        return 0;
    return rc == MDB_NOTFOUND ? ZP_ENOKEY : zp__mdb_fail(store, rc, "reading");
}

int
zp__cur_get(zp__store *store, MDB_txn *txn, const char *ns, const char *key,
            zp__cur_row *ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val data;
    int rc =
        zp__row_get(store, txn, buffer, zp__rowkey_cur(buffer, ns, key), &data);

    if (rc != 0)
        return rc;
    return zp__cur_parse(data.mv_data, data.mv_size, ret)
               ? 0
               : zp__store_corrupt(store, "current");
}

int
zp__outside_get(zp__store *store, MDB_txn *txn, const zp__outside *outside,
                size_t size, const void **ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val data;
    int rc = zp__row_get(store, txn, buffer,
                         zp__rowkey_outside(buffer, outside), &data);

    if (rc == ZP_ENOKEY || (rc == 0 && data.mv_size != size))
        return zp__store_corrupt(store, "large value's");
    if (rc == 0)
        *ret = data.mv_data;
    return rc;
}

int
zp__cur_image(zp__store *store, MDB_txn *txn, const zp__cur_row *row,
              const void **ret)
{
    if (row->image == NULL)
        return zp__outside_get(store, txn, &row->outside, row->head.size, ret);
    *ret = row->image;
    return 0;
}

int
zp__cur_next(zp__store *store, MDB_cursor *cursor, const char *ns,
             const char *after, char *ret_key, zp__cur_row *ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    size_t from = zp__rowkey_cur(buffer, ns, after == NULL ? "" : after);
    size_t prefix = 1 + strlen(ns) + 1;
    MDB_val key = {from, buffer};
    MDB_val data;
    int rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);

    if (rc == 0 && after != NULL && key.mv_size == from &&
        memcmp(key.mv_data, buffer, from) == 0)
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc != 0)
        return zp__mdb_fail(store, rc, "reading");
    if (key.mv_size <= prefix || memcmp(key.mv_data, buffer, prefix) != 0)
        return 0;
    size_t length = key.mv_size - prefix;
    if (length > ZP__KEY_MAX || !zp__cur_parse(data.mv_data, data.mv_size, ret))
        return zp__store_corrupt(store, "current");
    memcpy(ret_key, (char *)key.mv_data + prefix, length);
    ret_key[length] = '\0';
    return 1;
}

int
zp__ns_length(zp__store *store, MDB_txn *txn, const char *ns, uint64_t *ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val data;
    int rc = zp__row_get(store, txn, buffer, zp__rowkey_ns(buffer, ns), &data);

    if (rc == ZP_ENOKEY)
        *ret = 0;
    else if (rc == 0 && data.mv_size == sizeof *ret)
        memcpy(ret, data.mv_data, sizeof *ret);
    else
        return rc != 0 ? rc : zp__store_corrupt(store, "namespace");
    return 0;
}

/* ---- the log, in any transaction ---- */

int
zp__log_head(zp__store *store, MDB_txn *txn, uint64_t revision, zp__log *ret,
             MDB_val *ret_data)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val data;
    size_t size = zp__rowkey_log(buffer, revision, store->limits.log_revisions);
    int rc = zp__row_get(store, txn, buffer, size, &data);

    if (rc != 0)
        return rc;
    if (data.mv_size < sizeof *ret)
        return zp__store_corrupt(store, "log");
    memcpy(ret, data.mv_data, sizeof *ret);
    if (ret_data != NULL)
        *ret_data = data;
    return ret->revision == revision ? 0 : ZP_ENOKEY;
}

/* No hint: look at every slot. */
static int
scan_newest(zp__store *store, MDB_txn *txn, zp__log *ret)
{
    MDB_cursor *cursor;
    MDB_val key = {1, (void *)(uintptr_t) "l"};
    MDB_val data;
    bool found = false;
    int rc = mdb_cursor_open(txn, ZP__DBI, &cursor);

    if (rc != 0)
        return zp__mdb_fail(store, rc, "reading");
    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);
    while (rc == 0 && *(char *)key.mv_data == 'l') {
        zp__log log;
        if (data.mv_size >= sizeof log) {
            memcpy(&log, data.mv_data, sizeof log);
            if (!found || log.revision > ret->revision)
                *ret = log;
            found = true;
        }
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return zp__mdb_fail(store, rc, "reading");
    return found ? 0 : ZP_ENOKEY;
}

int
zp__log_newest(zp__store *store, MDB_txn *txn, zp__log *ret)
{
    uint64_t hint = atomic_load(&store->board.shared->head);
    uint64_t at = hint;
    zp__log next;
    int rc = hint == 0 ? ZP_ENOKEY : zp__log_head(store, txn, hint, ret, NULL);

    while (rc == ZP_ENOKEY && at > 1 && hint - at < WALK)
        rc = zp__log_head(store, txn, --at, ret, NULL);
    if (rc == ZP_ENOKEY)
        return scan_newest(store, txn, ret);
    if (rc != 0 || at != hint)
        return rc;
    for (int i = 0; i < WALK; i++) {
        rc = zp__log_head(store, txn, ret->revision + 1, &next, NULL);
        if (rc != 0)
            return rc == ZP_ENOKEY ? 0 : rc;
        *ret = next;
    }
    return scan_newest(store, txn, ret);
}

int
zp__log_chunk(zp__store *store, MDB_txn *txn, uint64_t revision,
              const MDB_val *row, uint32_t i, MDB_val *ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    int rc;

    if (i == 0) {
        ret->mv_data = (char *)row->mv_data + sizeof(zp__log);
        ret->mv_size = row->mv_size - sizeof(zp__log);
        return 0;
    }
    rc = zp__row_get(store, txn, buffer, zp__rowkey_chunk(buffer, revision, i),
                     ret);
    return rc == ZP_ENOKEY ? zp__store_corrupt(store, "log") : rc;
}

int
zp__log_find(zp__store *store, MDB_txn *txn, uint64_t revision, const char *ns,
             const char *key, zp__chg_row *ret)
{
    zp__log log;
    MDB_val row, chunk;
    uint32_t low = 0, high;
    int rc = zp__log_head(store, txn, revision, &log, &row);

    if (rc != 0)
        return rc == ZP_ENOKEY ? zp__store_corrupt(store, "log") : rc;
    high = log.chunks;
    while (low < high) { /* the chunk: by the first change of each */
        uint32_t middle = low + (high - low) / 2;
        rc = zp__log_chunk(store, txn, revision, &row, middle, &chunk);
        if (rc != 0)
            return rc;
        int place = zp__chunk_find(chunk.mv_data, chunk.mv_size, ns, key, ret);
        if (place >= 0)
            return 0;
        if (place == -1)
            high = middle;
        else
            low = middle + 1;
    }
    return zp__store_corrupt(store, "log");
}
