/*
 * store_read.c - views: the rows of one read transaction, at its own revision
 * or at any retained one.
 *
 * A view keeps its LMDB transaction over many uses (renew and reset cost some
 * 40 ns each, a new one takes a slot in the reader table). Between begin and
 * end it pins the pages it sees: so plain reads end theirs at once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/store_lmdb.h"

/* ---- views ---- */

int
zp__view_new(zp__view **ret, zp__store *store)
{
    zp__view *view = calloc(1, sizeof *view);

    if (view == NULL)
        return zp__fail(-ENOMEM, "making a view");
    view->store = store;
    *ret = view;
    return 0;
}

zp__view *
zp__view_free(zp__view *view)
{
    if (view == NULL)
        return NULL;
    if (view->cursor != NULL)
        mdb_cursor_close(view->cursor);
    if (view->txn != NULL)
        mdb_txn_abort(view->txn);
    for (int i = 0; i < ZP__WAYS; i++)
        free(view->ways[i]);
    free(view);
    return NULL;
}

int
zp__view_begin(zp__view *view)
{
    int rc = 0;

    if (view->begun)
        return 0;
    if (view->txn == NULL)
        rc = zp__mdb_read(view->store, &view->txn);
    else if ((rc = mdb_txn_renew(view->txn)) != 0)
        rc = zp__mdb_fail(view->store, rc, "reading");
    if (rc != 0)
        return rc;
    view->begun = true;
    view->ranged = false;
    view->epoch++;
    return 0;
}

void
zp__view_end(zp__view *view)
{
    if (!view->begun)
        return;
    mdb_txn_reset(view->txn);
    view->begun = false;
}

bool
zp__view_begun(const zp__view *view)
{
    return view->begun;
}

uint64_t
zp__view_epoch(const zp__view *view)
{
    return view->epoch;
}

int
zp__view_range(zp__view *view, uint64_t *ret_head, uint64_t *ret_tail)
{
    zp__log log;

    if (!view->ranged) {
        int rc = zp__log_newest(view->store, view->txn, &log);
        if (rc != 0 && rc != ZP_ENOKEY)
            return rc;
        view->head = rc == 0 ? log.revision : 0;
        view->tail = rc == 0 ? log.tail : 1;
        view->ranged = true;
    }
    *ret_head = view->head;
    *ret_tail = view->tail;
    return 0;
}

int
zp__view_check(zp__view *view, uint64_t revision)
{
    uint64_t head, tail;
    int rc = zp__view_range(view, &head, &tail);

    if (rc != 0)
        return rc;
    if (revision + 1 < tail)
        return zp__fail(
            ZP_EGONE, "revision %llu is gone, the oldest kept is %llu",
            (unsigned long long)revision, (unsigned long long)(tail - 1));
    return 0;
}

int
zp__cur_item(zp__view *view, const zp__cur_row *row, zp__item *ret)
{
    int rc = zp__cur_image(view->store, view->txn, row, &ret->image);

    ret->size = row->head.size;
    ret->revision = row->head.revision;
    ret->created = row->head.created;
    ret->created_rank = row->head.created_rank;
    return rc;
}

static int
item_at(zp__view *view, const char *ns, const char *key, const zp__cur_row *row,
        uint64_t revision, zp__item *ret)
{
    if (row->head.revision > revision)
        return zp__item_before(view, ns, key, revision, row->head.revision,
                               ret);
    if (row->head.flags & ZP__ROW_DELETED)
        return ZP_ENOKEY;
    return zp__cur_item(view, row, ret);
}

int
zp__view_get(zp__view *view, const char *ns, const char *key, uint64_t revision,
             zp__item *ret)
{
    zp__cur_row row;
    int rc;

    if (revision != ZP__NEWEST) {
        rc = zp__view_check(view, revision);
        if (rc != 0)
            return rc;
    }
    rc = zp__cur_get(view->store, view->txn, ns, key, &row);
    return rc == 0 ? item_at(view, ns, key, &row, revision, ret) : rc;
}

int
zp__view_cursor(zp__view *view)
{
    int rc = 0;

    if (view->cursor == NULL)
        rc = mdb_cursor_open(view->txn, ZP__DBI, &view->cursor);
    else if (view->cursor_epoch != view->epoch)
        rc = mdb_cursor_renew(view->txn, view->cursor);
    view->cursor_epoch = view->epoch;
    return rc == 0 ? 0 : zp__mdb_fail(view->store, rc, "reading");
}

int
zp__view_next(zp__view *view, const char *ns, const char *after,
              uint64_t revision, char *ret_key, zp__item *ret)
{
    char key[ZP__KEY_MAX + 1];
    zp__cur_row row;
    int rc = revision == ZP__NEWEST ? 0 : zp__view_check(view, revision);

    if (rc == 0)
        rc = zp__view_cursor(view);
    if (rc != 0)
        return rc;
    for (;;) {
        rc = zp__cur_next(view->store, view->cursor, ns, after, key, &row);
        if (rc <= 0)
            return rc;
        rc = item_at(view, ns, key, &row, revision, ret);
        if (rc == 0)
            break;
        if (rc != ZP_ENOKEY)
            return rc;
        after = strcpy(ret_key, key);
    }
    strcpy(ret_key, key);
    return 1;
}

int
zp__view_length(zp__view *view, const char *ns, uint64_t revision,
                uint64_t *ret)
{
    char key[ZP__KEY_MAX + 1];
    uint64_t head, tail, length = 0;
    zp__item item;
    int rc = zp__view_range(view, &head, &tail);

    if (rc != 0)
        return rc;
    if (revision >= head)
        return zp__ns_length(view->store, view->txn, ns, ret);
    rc = zp__view_next(view, ns, NULL, revision, key, &item);
    for (; rc == 1; length++)
        rc = zp__view_next(view, ns, key, revision, key, &item);
    if (rc == 0)
        *ret = length;
    return rc;
}

/* ---- the log, for those who react ---- */

int
zp__view_row(zp__view *view, uint64_t revision, zp__row *ret)
{
    zp__log log;
    MDB_val row;
    uint64_t head, tail;
    int rc = zp__view_range(view, &head, &tail);

    if (rc != 0)
        return rc;
    if (revision < tail)
        return zp__fail(ZP_EGONE,
                        "change %llu is gone, the oldest kept is %llu",
                        (unsigned long long)revision, (unsigned long long)tail);
    if (revision > head)
        return zp__fail(-ERANGE, "change %llu is not yet, the newest is %llu",
                        (unsigned long long)revision, (unsigned long long)head);
    rc = zp__log_head(view->store, view->txn, revision, &log, &row);
    if (rc != 0)
        return rc == ZP_ENOKEY ? zp__store_corrupt(view->store, "log") : rc;
    ret->revision = revision;
    ret->writer = log.writer;
    ret->time_ns = log.time_ns;
    ret->pid = log.pid;
    ret->n = log.n;
    ret->chunk = 0;
    ret->data = (const char *)row.mv_data + sizeof log;
    ret->size = row.mv_size - sizeof log;
    return 0;
}

/* Chunk CHUNK of ROW in place of the one it has. */
static int
turn_to_chunk(zp__view *view, zp__row *row, uint32_t chunk)
{
    zp__log log;
    MDB_val data, found;
    int rc = zp__log_head(view->store, view->txn, row->revision, &log, &data);

    if (rc == 0)
        rc = zp__log_chunk(view->store, view->txn, row->revision, &data, chunk,
                           &found);
    if (rc != 0)
        return rc == ZP_ENOKEY ? zp__store_corrupt(view->store, "log") : rc;
    row->chunk = chunk;
    row->data = found.mv_data;
    row->size = found.mv_size;
    return 0;
}

int
zp__row_change(zp__view *view, zp__row *row, uint32_t i, zp__log_change *ret)
{
    zp__chg_row change;

    if (i >= row->n)
        return zp__fail(-ERANGE, "change %u of %u", i, row->n);
    if (i / ZP__CHUNK != row->chunk) {
        int rc = turn_to_chunk(view, row, i / ZP__CHUNK);
        if (rc != 0)
            return rc;
    }
    if (!zp__chunk_change(row->data, row->size, i % ZP__CHUNK, &change))
        return zp__store_corrupt(view->store, "log");
    ret->ns = change.ns;
    ret->key = change.key;
    ret->flags = change.head.flags & (ZP_CREATED | ZP_DELETED | ZP_IDENTICAL);
    return 0;
}
