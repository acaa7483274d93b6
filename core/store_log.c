/*
 * store_log.c - the log: the row that a commit adds, and what it forgets.
 *
 * The log is a ring of N slots, so the row of revision r stands where that of
 * r - N stood: overwriting is the compaction. A row dies when its slot is
 * needed, or when all rows together pass the byte cap; then what it owns dies
 * with it: the large images that its changes replaced, and the tombstones of
 * keys that it deleted (if nothing has touched them since).
 *
 * No commit pays for much of another's work: at most DROP rows are dropped by
 * the byte cap, and the further chunks of a large row (x rows) are left as
 * garbage, of which each later commit clears SWEEP chunks more than it adds.
 *
 * When the state is nearly full the log gives way to the values, whatever its
 * caps: what is superseded must not keep anybody from setting.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/store_lmdb.h"

#define DROP 64
#define SWEEP 2

static int
room(zp__buffer *buffer, size_t size)
{
    if (buffer->size >= size)
        return 0;
    size_t larger = buffer->size ? buffer->size : 1024;
    while (larger < size)
        larger *= 2;
    unsigned char *data = realloc(buffer->data, larger);
    if (data == NULL)
        return zp__fail(-ENOMEM, "writing the log");
    buffer->data = data;
    buffer->size = larger;
    return 0;
}

/* ---- what has changed ---- */

/* After a nested rollback: how does the key stand now? */
static int
refresh(zp__txn *txn, zp__touch *touch)
{
    zp__cur_row now, old;
    const void *a, *b;
    zp__store *store = txn->store;
    MDB_txn *mdb = zp__txn_mdb(txn);
    int rc = zp__cur_get(store, mdb, zp__touch_ns(&txn->journal, touch),
                         zp__touch_key(&txn->journal, touch), &now);

    if (rc != 0 && rc != ZP_ENOKEY)
        return rc;
    touch->stale = false;
    touch->same = false;
    touch->absent = rc == ZP_ENOKEY || (now.head.flags & ZP__ROW_DELETED);
    if (touch->absent || touch->old_size == 0 ||
        !zp__cur_parse(zp__touch_old(&txn->journal, touch), touch->old_size,
                       &old) ||
        (old.head.flags & ZP__ROW_DELETED) || old.head.size != now.head.size)
        return 0;
    rc = zp__cur_image(store, mdb, &now, &a);
    if (rc == 0)
        rc = zp__cur_image(store, mdb, &old, &b);
    if (rc == 0)
        touch->same = memcmp(a, b, now.head.size) == 0;
    return rc;
}

/* Was the key there before? */
static bool
was_live(zp__txn *txn, const zp__touch *touch, zp__cur_row *ret)
{
    return touch->old_size > 0 &&
           zp__cur_parse(zp__touch_old(&txn->journal, touch), touch->old_size,
                         ret) &&
           !(ret->head.flags & ZP__ROW_DELETED);
}

/* A key that came and went leaves its old tombstone as it was. */
static int
restore(zp__txn *txn, const zp__touch *touch)
{
    unsigned char key[ZP__ROWKEY_MAX];

    if (touch->old_size == 0)
        return 0;
    size_t size = zp__rowkey_cur(key, zp__touch_ns(&txn->journal, touch),
                                 zp__touch_key(&txn->journal, touch));
    return zp__row_put(txn, key, size, zp__touch_old(&txn->journal, touch),
                       touch->old_size);
}

/* A nested rollback took back all that was done to the key after its touch:
 * its row is of an older revision, and no change (a lease that it was given, or
 * lost, is none). */
static int
untouched(zp__txn *txn, const zp__touch *touch, bool *ret)
{
    zp__cur_row row;
    int rc = zp__cur_get(txn->store, zp__txn_mdb(txn),
                         zp__touch_ns(&txn->journal, touch),
                         zp__touch_key(&txn->journal, touch), &row);

    *ret = rc == 0 && row.head.revision != txn->revision;
    return rc == ZP_ENOKEY ? 0 : rc;
}

/* Leave only real changes in the journal, sorted. */
static int
settle(zp__txn *txn)
{
    zp__journal *journal = &txn->journal;
    size_t kept = 0;
    zp__cur_row old;

    zp__journal_sort(journal);
    for (size_t i = 0; i < journal->n; i++) {
        zp__touch *touch = &journal->touches[i];
        bool nothing = false;
        int rc = touch->stale ? untouched(txn, touch, &nothing) : 0;
        if (rc == 0 && touch->stale && !nothing)
            rc = refresh(txn, touch);
        if (rc == 0 && !nothing && touch->absent &&
            !was_live(txn, touch, &old)) {
            nothing = true;
            rc = restore(txn, touch);
        }
        if (rc != 0)
            return rc;
        if (!nothing)
            journal->touches[kept++] = *touch;
    }
    journal->n = kept;
    return 0;
}

/* ---- the new row ---- */

/* The change of one touch: HEAD filled, the inline image or NULL; adds what the
 * row owns outside to LOG. */
static int
describe(zp__txn *txn, const zp__touch *touch, bool first_chunk, zp__log *log,
         zp__chg *head, const void **ret_image)
{
    zp__cur_row old;
    bool was = was_live(txn, touch, &old);

    memset(head, 0, sizeof *head);
    *ret_image = NULL;
    head->jump = touch->next.jump;
    head->jump_depth = touch->next.jump_depth;
    head->flags = (was ? 0 : ZP_CREATED) | (touch->absent ? ZP_DELETED : 0) |
                  (touch->same ? ZP_IDENTICAL : 0);
    if (touch->absent && first_chunk)
        log->owns = 1;
    if (touch->old_size > 0 &&
        zp__cur_parse(zp__touch_old(&txn->journal, touch), touch->old_size,
                      &old))
        head->prev = old.head.revision;
    if (!was)
        return 0;
    head->created = old.head.created;
    head->created_rank = old.head.created_rank;
    head->size = old.head.size;
    if (!(old.head.flags & ZP__ROW_OUTSIDE)) {
        *ret_image = old.image;
        return 0;
    }
    head->outside = old.outside;
    if (old.head.size <= ZP__KEPT) {
        head->flags |= ZP__ROW_OUTSIDE;
        log->own += old.head.size;
        if (first_chunk)
            log->owns = 1;
        return 0;
    }
    head->flags |= ZP__ROW_LOST;
    unsigned char key[ZP__ROWKEY_MAX];
    return zp__row_delete(txn, key, zp__rowkey_outside(key, &old.outside));
}

/* Write chunk CHUNK at OFFSET of the row buffer; its size in *RET_SIZE. */
static int
build_chunk(zp__txn *txn, uint32_t chunk, size_t offset, zp__log *log,
            size_t *ret_size)
{
    zp__journal *journal = &txn->journal;
    size_t first = (size_t)chunk * ZP__CHUNK;
    uint32_t n = (uint32_t)(journal->n - first < ZP__CHUNK ? journal->n - first
                                                           : ZP__CHUNK);
    size_t used = sizeof n * (1 + (size_t)n);
    int rc = room(&txn->row, offset + used);

    if (rc != 0)
        return rc;
    memcpy(txn->row.data + offset, &n, sizeof n);
    for (uint32_t i = 0; i < n; i++) {
        const zp__touch *touch = &journal->touches[first + i];
        const char *ns = zp__touch_ns(journal, touch);
        const char *key = zp__touch_key(journal, touch);
        const void *image;
        uint32_t at = (uint32_t)used;
        zp__chg head;
        rc = describe(txn, touch, chunk == 0, log, &head, &image);
        size_t size = image != NULL ? head.size : 0;
        if (rc == 0)
            rc = room(&txn->row, offset + used + zp__chg_size(ns, key, size));
        if (rc != 0)
            return rc;
        memcpy(txn->row.data + offset + sizeof n * (1 + (size_t)i), &at,
               sizeof at);
        used += zp__chg_write(txn->row.data + offset + used, &head, ns, key,
                              image, size);
    }
    *ret_size = used;
    return 0;
}

static int
put_chunks(zp__txn *txn, zp__log *log, size_t offset)
{
    unsigned char key[ZP__ROWKEY_MAX];

    for (uint32_t i = 1; i < log->chunks; i++) {
        size_t size;
        int rc = build_chunk(txn, i, offset, log, &size);
        if (rc == 0)
            rc = zp__row_put(txn, key, zp__rowkey_chunk(key, txn->revision, i),
                             txn->row.data + offset, size);
        if (rc != 0)
            return rc;
        log->own += size;
    }
    return 0;
}

/* ---- forgetting ---- */

/* End what the changes in a chunk of REVISION own. */
static int
end_changes(zp__txn *txn, uint64_t revision, const void *chunk, size_t size)
{
    unsigned char key[ZP__ROWKEY_MAX];
    int n = zp__chunk_length(chunk, size);
    zp__chg_row row;
    zp__cur_row cur;
    int rc = 0;

    for (int i = 0; i < n && rc == 0; i++) {
        if (!zp__chunk_change(chunk, size, (uint32_t)i, &row))
            return zp__fail(ZP_ECORRUPT, "%s: a log row makes no sense",
                            txn->store->place.data);
        if (row.head.flags & ZP__ROW_OUTSIDE)
            rc = zp__row_delete(txn, key,
                                zp__rowkey_outside(key, &row.head.outside));
        if (rc != 0 || !(row.head.flags & ZP_DELETED))
            continue;
        rc = zp__cur_get(txn->store, zp__txn_mdb(txn), row.ns, row.key, &cur);
        if (rc == 0 && (cur.head.flags & ZP__ROW_DELETED) &&
            cur.head.revision == revision)
            rc = zp__row_delete(txn, key, zp__rowkey_cur(key, row.ns, row.key));
        else if (rc == ZP_ENOKEY)
            rc = 0;
    }
    return rc;
}

/* LMDB's memory moves under a writing transaction: work on a copy. */
static int
end_copied(zp__txn *txn, uint64_t revision, const void *chunk, size_t size)
{
    int rc = room(&txn->old, size);

    if (rc != 0)
        return rc;
    memcpy(txn->old.data, chunk, size);
    return end_changes(txn, revision, txn->old.data, size);
}

/* Forget the row at LOG's tail. Its slot may be overwritten next. */
static int
forget_tail(zp__txn *txn, zp__log *log)
{
    unsigned char key[ZP__ROWKEY_MAX];
    uint64_t revision = log->tail;
    uint64_t n = txn->store->limits.log_revisions;
    zp__log old;
    MDB_val row;
    int rc = zp__log_head(txn->store, zp__txn_mdb(txn), revision, &old, &row);

    log->tail++;
    if (rc == ZP_ENOKEY)
        return 0;
    if (rc == 0 && old.owns)
        rc = end_copied(txn, revision, (char *)row.mv_data + sizeof old,
                        row.mv_size - sizeof old);
    if (rc != 0)
        return rc;
    log->bytes -= old.own < log->bytes ? old.own : log->bytes;
    if (revision + n == log->revision)
        return 0;
    return zp__row_delete(txn, key, zp__rowkey_log(key, revision, n));
}

/* Are there x rows of rows that are forgotten? */
static bool
has_garbage(const zp__log *log)
{
    return log->garbage != 0 && log->garbage < log->tail;
}

/* EXCESS: bytes to give up since the state is nearly full. Not before those are
 * cleared that were given up already. */
static int
forget(zp__txn *txn, zp__log *log, uint64_t excess)
{
    const zp__limits *limits = &txn->store->limits;
    uint64_t cap = limits->log_bytes;
    int dropped = 0;
    int rc = 0;

    if (log->revision - log->tail > 2 * limits->log_revisions)
        return zp__store_corrupt(txn->store, "log"); /* or we count for ever */
    while (rc == 0 && log->tail + limits->log_revisions <= log->revision)
        rc = forget_tail(txn, log);
    if (excess > 0 && !has_garbage(log)) {
        uint64_t less = log->bytes > excess ? log->bytes - excess : 0;
        cap = less < cap ? less : cap;
    }
    while (rc == 0 && log->bytes + log->own > cap &&
           log->tail < log->revision && dropped++ < DROP)
        rc = forget_tail(txn, log);
    return rc;
}

/* Clear one chunk of garbage; *RET_MORE: there may be more. */
static int
sweep_one(zp__txn *txn, zp__log *log, bool *ret_more)
{
    unsigned char from[ZP__ROWKEY_MAX];
    unsigned char name[ZP__ROWKEY_MAX];
    MDB_cursor *cursor;
    MDB_val key = {zp__rowkey_chunk(from, 0, 0), from};
    MDB_val data;
    int rc = mdb_cursor_open(zp__txn_mdb(txn), ZP__DBI, &cursor);

    if (rc != 0)
        return zp__mdb_fail(txn->store, rc, "reading");
    rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);
    mdb_cursor_close(cursor);
    *ret_more = false;
    if (rc != 0 && rc != MDB_NOTFOUND)
        return zp__mdb_fail(txn->store, rc, "reading");
    if (rc != 0 || key.mv_size != 13 || *(char *)key.mv_data != 'x') {
        log->garbage = 0;
        return 0;
    }
    uint64_t revision = zp__rowkey_u64(key.mv_data);
    log->garbage = revision;
    if (revision >= log->tail)
        return 0;
    *ret_more = true;
    memcpy(name, key.mv_data, key.mv_size);
    rc = end_copied(txn, revision, data.mv_data, data.mv_size);
    return rc == 0 ? zp__row_delete(txn, name, 13) : rc;
}

/* Clear more than this commit will leave itself one day, or it piles up. */
static int
sweep(zp__txn *txn, zp__log *log, uint64_t excess)
{
    uint32_t n = log->chunks - 1 + (excess > 0 ? 8 * SWEEP : SWEEP);
    bool more = has_garbage(log);
    int rc = 0;

    for (uint32_t i = 0; i < n && more && rc == 0; i++)
        rc = sweep_one(txn, log, &more);
    return rc;
}

/* ---- together ---- */

static void
fill_head(const zp__txn *txn, zp__log *log)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    memset(log, 0, sizeof *log);
    log->revision = txn->revision;
    log->tail = txn->fresh ? txn->revision : txn->last.tail;
    log->bytes = txn->last.bytes;
    log->garbage = txn->last.garbage;
    log->writer = txn->writer;
    log->time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    log->pid = txn->store->board.pid;
    log->n = (uint32_t)txn->journal.n;
    log->chunks = (log->n + ZP__CHUNK - 1) / ZP__CHUNK;
}

int
zp__log_append(zp__txn *txn, uint32_t *ret_n)
{
    unsigned char key[ZP__ROWKEY_MAX];
    zp__log log;
    size_t size;
    uint64_t excess = 0;
    int rc = settle(txn);

    *ret_n = (uint32_t)txn->journal.n;
    if (rc != 0 || *ret_n == 0)
        return rc;
    fill_head(txn, &log);
    rc = build_chunk(txn, 0, sizeof log, &log, &size);
    if (rc != 0)
        return rc;
    log.own += sizeof log + size;
    rc = put_chunks(txn, &log, sizeof log + size);
    if (rc == 0) {
        excess = zp__space_excess(txn, &log);
        rc = forget(txn, &log, excess);
    }
    if (rc == 0)
        rc = sweep(txn, &log, excess);
    if (rc != 0)
        return rc;
    if (log.chunks > 1 && log.garbage == 0)
        log.garbage = log.revision;
    log.bytes += log.own;
    txn->next = log;
    memcpy(txn->row.data, &log, sizeof log);
    return zp__row_put(
        txn, key,
        zp__rowkey_log(key, log.revision, txn->store->limits.log_revisions),
        txn->row.data, sizeof log + size);
}
