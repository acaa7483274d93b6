/*
 * store_records.c - the records of processes: rows p (it runs) and q (it has
 * ended), both by an id that grows with each start.
 *
 *     start: p 17          end: p 17 goes, q 17 comes, and the oldest q rows
 *                          go while there are too many of them, or too large
 *
 * Two kinds of rows, because who looks after the living (the server, once a
 * second) must not read ten thousand dead. The row `mp` counts, so that no
 * limit costs a look at all of them. Each of these is a transaction without a
 * log row: records are no part of the state, have no revisions, and ring
 * nobody.
 *
 * What a transaction drops is bounded: twice the bytes that it adds, and a few
 * rows in any case. So the limit may be passed for a while, by one large result
 * in many small ones, but never by more than that.
 */
#include <string.h>

#include "core/store_lmdb.h"

#define DROPS 32 /* old records dropped in one transaction, if need be */

/* ---- counting ---- */

static int
get_counts(zp__store *store, MDB_txn *txn, zp__counts *ret)
{
    MDB_val data;
    int rc = zp__row_get(store, txn, "mp", 2, &data);

    memset(ret, 0, sizeof *ret);
    if (rc == ZP_ENOKEY)
        return 0;
    if (rc == 0 && data.mv_size != sizeof *ret)
        rc = zp__store_corrupt(store, "record counting");
    if (rc == 0)
        memcpy(ret, data.mv_data, sizeof *ret);
    return rc;
}

/* One q row of SIZE bytes less. Counts that are too low must not wrap. */
static void
uncount(zp__counts *counts, size_t size)
{
    counts->ended -= counts->ended > 0;
    counts->bytes -= size < counts->bytes ? size : counts->bytes;
}

static bool
too_many(const zp__txn *txn, const zp__counts *counts)
{
    return counts->ended > ZP__RECORDS_ENDED ||
           counts->bytes > txn->store->limits.max_bytes / ZP__RECORDS_PART;
}

/* ---- writing ---- */

/* The rows of record ID go. */
static int
take_out(zp__txn *txn, zp__counts *counts, uint64_t id)
{
    unsigned char key[ZP__ROWKEY_MAX];
    MDB_val data;
    size_t size = zp__rowkey_record(key, id, false);
    int rc = zp__row_delete(txn, key, size);

    if (rc != 0)
        return rc;
    size = zp__rowkey_record(key, id, true);
    rc = zp__row_get(txn->store, zp__txn_mdb(txn), key, size, &data);
    if (rc != 0)
        return rc == ZP_ENOKEY ? 0 : rc;
    uncount(counts, data.mv_size);
    return zp__row_delete(txn, key, size);
}

/* The q row at or after FROM: its id; 0 when there is none; or an error. */
static int
seek_ended(zp__txn *txn, MDB_cursor *cursor, uint64_t from, uint64_t *ret_id,
           MDB_val *ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val key = {zp__rowkey_record(buffer, from, true), buffer};
    int rc = mdb_cursor_get(cursor, &key, ret, MDB_SET_RANGE);

    *ret_id = 0;
    if (rc != 0 && rc != MDB_NOTFOUND)
        return zp__mdb_fail(txn->store, rc, "reading");
    if (rc == 0 && zp__rowkey_is_record(key.mv_data, key.mv_size, true))
        *ret_id = zp__rowkey_u64(key.mv_data);
    return 0;
}

/* Drop the oldest while there are too many, but not record KEEP, which has
 * come with ADDED bytes. */
static int
drop_oldest(zp__txn *txn, zp__counts *counts, uint64_t keep, size_t added)
{
    MDB_cursor *cursor;
    MDB_val data;
    uint64_t id = 0;
    size_t dropped = 0;
    int i, rc = mdb_cursor_open(zp__txn_mdb(txn), ZP__DBI, &cursor);

    if (rc != 0)
        return zp__mdb_fail(txn->store, rc, "reading");
    for (i = 0; too_many(txn, counts); i++) {
        if (i >= DROPS && dropped / 2 >= added)
            break;
        rc = seek_ended(txn, cursor, id + 1, &id, &data);
        if (rc == 0 && id == keep)
            rc = seek_ended(txn, cursor, id + 1, &id, &data);
        if (rc != 0 || id == 0)
            break;
        dropped += data.mv_size;
        uncount(counts, data.mv_size);
        rc = mdb_cursor_del(cursor, 0);
        if (rc != 0) {
            rc = txn->broken = zp__mdb_fail(txn->store, rc, "writing");
            break;
        }
    }
    mdb_cursor_close(cursor);
    return rc;
}

static int
put_record(zp__txn *txn, uint64_t *id, const void *data, size_t size,
           bool ended)
{
    unsigned char key[ZP__ROWKEY_MAX];
    zp__counts counts;
    int rc = get_counts(txn->store, zp__txn_mdb(txn), &counts);

    if (rc != 0)
        return rc;
    if (*id == 0)
        *id = ++counts.last;
    else
        rc = take_out(txn, &counts, *id);
    if (rc == 0)
        rc = zp__row_put(txn, key, zp__rowkey_record(key, *id, ended), data,
                         size);
    if (rc == 0 && ended) {
        counts.ended++;
        counts.bytes += size;
        rc = drop_oldest(txn, &counts, *id, size);
    }
    return rc == 0 ? zp__row_put(txn, "mp", 2, &counts, sizeof counts) : rc;
}

int
zp__store_put_record(zp__store *store, uint64_t *id, const void *data,
                     size_t size, bool ended, double timeout)
{
    zp__txn *txn;
    uint64_t given = *id;
    int rc = zp__txn_begin(store, &txn, 0, timeout, size, true);

    if (rc != 0)
        return rc;
    rc = zp__txn_end_plain(txn, put_record(txn, &given, data, size, ended));
    if (rc == 0)
        *id = given;
    return rc;
}

int
zp__store_delete_record(zp__store *store, uint64_t id, double timeout)
{
    zp__counts counts;
    zp__txn *txn;
    int rc = zp__txn_begin(store, &txn, 0, timeout, 0, true);

    if (rc != 0)
        return rc;
    rc = get_counts(store, zp__txn_mdb(txn), &counts);
    uint64_t ended = counts.ended;
    if (rc == 0)
        rc = take_out(txn, &counts, id);
    if (rc == 0 && counts.ended != ended)
        rc = zp__row_put(txn, "mp", 2, &counts, sizeof counts);
    return zp__txn_end_plain(txn, rc);
}

/* ---- reading ---- */

static int
no_record(zp__view *view, uint64_t id)
{
    zp__counts counts;
    int rc = get_counts(view->store, view->txn, &counts);

    if (rc != 0)
        return rc;
    if (id > 0 && id <= counts.last)
        return zp__fail(ZP_EGONE, "process %llu is no longer on record",
                        (unsigned long long)id);
    return zp__fail(ZP_ENOKEY, "no process %llu has been started",
                    (unsigned long long)id);
}

int
zp__view_record(zp__view *view, uint64_t id, const void **ret, size_t *ret_size)
{
    unsigned char key[ZP__ROWKEY_MAX];
    MDB_val data;
    int rc = zp__row_get(view->store, view->txn, key,
                         zp__rowkey_record(key, id, false), &data);

    if (rc == ZP_ENOKEY)
        rc = zp__row_get(view->store, view->txn, key,
                         zp__rowkey_record(key, id, true), &data);
    if (rc == ZP_ENOKEY)
        return no_record(view, id);
    if (rc == 0) {
        *ret = data.mv_data;
        *ret_size = data.mv_size;
    }
    return rc;
}

int
zp__view_last_record(zp__view *view, uint64_t *ret_id)
{
    zp__counts counts;
    int rc = get_counts(view->store, view->txn, &counts);

    if (rc == 0)
        *ret_id = counts.last;
    return rc;
}

/* The first row of one kind after AFTER. */
static int
next_row(zp__view *view, uint64_t after, bool ended, uint64_t *ret_id,
         MDB_val *ret)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val key = {zp__rowkey_record(buffer, after + 1, ended), buffer};
    int rc = after == UINT64_MAX ? 0 : zp__view_cursor(view);

    if (after == UINT64_MAX || rc != 0)
        return rc;
    rc = mdb_cursor_get(view->cursor, &key, ret, MDB_SET_RANGE);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return zp__mdb_fail(view->store, rc, "reading");
    if (rc != 0 || !zp__rowkey_is_record(key.mv_data, key.mv_size, ended))
        return 0;
    *ret_id = zp__rowkey_u64(key.mv_data);
    return 1;
}

static int
tell(uint64_t id, const MDB_val *data, uint64_t *ret_id, const void **ret,
     size_t *ret_size)
{
    *ret_id = id;
    *ret = data->mv_data;
    *ret_size = data->mv_size;
    return 1;
}

int
zp__view_next_running(zp__view *view, uint64_t after, uint64_t *ret_id,
                      const void **ret, size_t *ret_size)
{
    MDB_val data;
    uint64_t id;
    int rc = next_row(view, after, false, &id, &data);

    return rc == 1 ? tell(id, &data, ret_id, ret, ret_size) : rc;
}

int
zp__view_next_record(zp__view *view, uint64_t after, uint64_t *ret_id,
                     const void **ret, size_t *ret_size)
{
    MDB_val running, ended;
    uint64_t id, ended_id;
    int rc = next_row(view, after, false, &id, &running);
    int ended_rc = rc < 0 ? 0 : next_row(view, after, true, &ended_id, &ended);

    if (rc < 0 || ended_rc < 0)
        return rc < 0 ? rc : ended_rc;
    if (ended_rc == 1 && (rc == 0 || ended_id < id))
        return tell(ended_id, &ended, ret_id, ret, ret_size);
    return rc == 1 ? tell(id, &running, ret_id, ret, ret_size) : 0;
}
