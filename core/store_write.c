/*
 * store_write.c - rows in a transaction: put and delete, with the journal.
 *
 * Rows are put at once, with the revision that the commit will have. At commit
 * the journal tells what they replaced, which becomes the log row.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/store_lmdb.h"

/* ---- rows ---- */

int
zp__row_put(zp__txn *txn, const void *key, size_t key_size, const void *data,
            size_t size)
{
    MDB_val mdb_key = {key_size, (void *)key};
    MDB_val mdb_data = {size, (void *)data};
    int rc = mdb_put(zp__txn_mdb(txn), ZP__DBI, &mdb_key, &mdb_data, 0);

    if (rc != 0)
        txn->broken = rc = zp__mdb_fail(txn->store, rc, "writing");
    return rc;
}

int
zp__row_delete(zp__txn *txn, const void *key, size_t key_size)
{
    MDB_val mdb_key = {key_size, (void *)key};
    int rc = mdb_del(zp__txn_mdb(txn), ZP__DBI, &mdb_key, NULL);

    if (rc != 0 && rc != MDB_NOTFOUND)
        txn->broken = rc = zp__mdb_fail(txn->store, rc, "writing");
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int
delete_outside(zp__txn *txn, const zp__outside *outside)
{
    unsigned char key[ZP__ROWKEY_MAX];
    return zp__row_delete(txn, key, zp__rowkey_outside(key, outside));
}

static int
count_key(zp__txn *txn, const char *ns, int64_t by)
{
    unsigned char key[ZP__ROWKEY_MAX];
    uint64_t n;
    int rc = zp__ns_length(txn->store, zp__txn_mdb(txn), ns, &n);

    if (rc != 0)
        return txn->broken = rc; /* the key is there, or gone, already */
    n += (uint64_t)by;
    if (n == 0)
        return zp__row_delete(txn, key, zp__rowkey_ns(key, ns));
    return zp__row_put(txn, key, zp__rowkey_ns(key, ns), &n, sizeof n);
}

/* ---- touching a key ---- */

/* The links of the change that follows OLD in the chain of its key: jump
 * pointers of a skew-binary list. jump2 of a forgotten one is lost; then the
 * next ones jump less far. */
static int
link_change(zp__txn *txn, const char *ns, const char *key, const zp__cur *old,
            zp__cur *next)
{
    zp__chg_row row;
    int rc;

    next->depth = old->depth + 1;
    if (old->depth - old->jump_depth != old->jump_depth - old->jump2_depth) {
        next->jump = old->revision;
        next->jump_depth = old->depth;
        next->jump2 = old->jump;
        next->jump2_depth = old->jump_depth;
        return 0;
    }
    next->jump = old->jump2;
    next->jump_depth = old->jump2_depth;
    if (old->jump2 == 0 || old->jump2 < txn->last.tail)
        return 0;
    rc = zp__log_find(txn->store, zp__txn_mdb(txn), old->jump2, ns, key, &row);
    if (rc != 0)
        return rc;
    next->jump2 = row.head.jump;
    next->jump2_depth = row.head.jump_depth;
    return 0;
}

/* The touch of NS, KEY, made if need be, and its row as it is now (ROW and
 * *RET_LIVE: false for none and for a tombstone). */
static int
touch_key(zp__txn *txn, const char *ns, const char *key, zp__touch **ret,
          zp__cur_row *row, bool *ret_live)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    MDB_val mdb_key = {zp__rowkey_cur(buffer, ns, key), buffer};
    MDB_val data = {0, NULL};
    int rc = mdb_get(zp__txn_mdb(txn), ZP__DBI, &mdb_key, &data);

    if (rc != 0 && rc != MDB_NOTFOUND)
        return zp__mdb_fail(txn->store, rc, "reading");
    if (rc == 0 && !zp__cur_parse(data.mv_data, data.mv_size, row))
        return zp__fail(ZP_ECORRUPT, "%s: the row of '%s' makes no sense",
                        txn->store->place.data, key);
    *ret_live = rc == 0 && !(row->head.flags & ZP__ROW_DELETED);
    *ret = zp__journal_find(&txn->journal, ns, key);
    if (*ret != NULL)
        return 0;
    zp__cur next;
    memset(&next, 0, sizeof next);
    next.revision = txn->revision;
    next.depth = 1;
    if (rc == 0) {
        rc = link_change(txn, ns, key, &row->head, &next);
        if (rc != 0)
            return rc;
    }
    *ret = zp__journal_add(&txn->journal, ns, key, data.mv_data, data.mv_size);
    if (*ret == NULL)
        return zp__fail(-ENOMEM, "writing '%s'", key);
    (*ret)->next = next;
    return 0;
}

/* Is IMAGE what the key had before the transaction? */
static int
compare_old(zp__txn *txn, const zp__touch *touch, const void *image,
            size_t size, bool *ret)
{
    zp__cur_row old;
    const void *old_image;
    int rc;

    *ret = false;
    if (touch->old_size == 0 ||
        !zp__cur_parse(zp__touch_old(&txn->journal, touch), touch->old_size,
                       &old) ||
        (old.head.flags & ZP__ROW_DELETED) || old.head.size != size)
        return 0;
    rc = zp__cur_image(txn->store, zp__txn_mdb(txn), &old, &old_image);
    if (rc == 0)
        *ret = memcmp(image, old_image, size) == 0;
    return rc;
}

/* A large image that this transaction put itself has no owner any more. */
static int
drop_own_outside(zp__txn *txn, const zp__cur_row *row, bool live)
{
    if (live && (row->head.flags & ZP__ROW_OUTSIDE) &&
        row->outside.revision == txn->revision) {
        zp__space_waste(txn, row->head.size);
        return delete_outside(txn, &row->outside);
    }
    return 0;
}

/* ---- put and delete ---- */

/* FLAGS: ZP__ROW_LEASED or 0. */
static int
put_row(zp__txn *txn, const char *ns, const char *key, zp__cur *head,
        const void *image, size_t size, uint32_t flags)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    unsigned char row[sizeof *head + ZP__INLINE];
    size_t rest = size;

    head->size = (uint32_t)size;
    head->flags = flags;
    if (size > ZP__INLINE) {
        zp__outside outside = {txn->revision, txn->ranks++, 0};
        int rc = zp__row_put(txn, buffer, zp__rowkey_outside(buffer, &outside),
                             image, size);
        if (rc != 0)
            return rc;
        head->flags |= ZP__ROW_OUTSIDE;
        rest = sizeof outside;
        memcpy(row + sizeof *head, &outside, sizeof outside);
    } else {
        memcpy(row + sizeof *head, image, size);
    }
    memcpy(row, head, sizeof *head);
    return zp__row_put(txn, buffer, zp__rowkey_cur(buffer, ns, key), row,
                       sizeof *head + rest);
}

/* The b row beside a row that is put: LEASE, none, or (KEEP) what there is.
 * *RET: the flag of the row. */
static int
put_lease(zp__txn *txn, const char *ns, const char *key, bool had,
          const zp__lease *lease, bool keep, uint32_t *ret)
{
    *ret = lease != NULL || (had && keep) ? ZP__ROW_LEASED : 0;
    if (lease != NULL)
        return zp__lease_put(txn, ns, key, lease);
    return had && !keep ? zp__lease_drop(txn, ns, key) : 0;
}

static int
put(zp__txn *txn, const char *ns, const char *key, const void *image,
    size_t size, const zp__lease *lease, bool keep)
{
    zp__touch *touch;
    zp__cur_row row;
    uint32_t flags = 0;
    bool live, had;
    int rc = txn->broken;

    if (rc == 0 && size > txn->store->limits.max_value)
        return zp__fail(-EMSGSIZE,
                        "the value of '%s' has %zu bytes, at most %llu are "
                        "allowed",
                        key, size,
                        (unsigned long long)txn->store->limits.max_value);
    if (rc == 0)
        rc = zp__space_ensure(txn, size);
    if (rc == 0)
        rc = touch_key(txn, ns, key, &touch, &row, &live);
    if (rc != 0)
        return rc;
    had = live && (row.head.flags & ZP__ROW_LEASED);
    if (lease != NULL || had)
        rc = zp__space_ensure(txn, sizeof *lease);
    bool same = false;
    if (rc == 0)
        rc = compare_old(txn, touch, image, size, &same);
    if (rc == 0)
        rc = drop_own_outside(txn, &row, live);
    if (rc == 0)
        rc = put_lease(txn, ns, key, had, lease, keep, &flags);
    if (rc != 0)
        return rc;
    touch->next.created = live ? row.head.created : txn->revision;
    touch->next.created_rank = live ? row.head.created_rank : txn->ranks++;
    touch->same = same;
    touch->absent = false;
    touch->stale = false;
    txn->writes++;
    rc = put_row(txn, ns, key, &touch->next, image, size, flags);
    return rc == 0 && !live ? count_key(txn, ns, 1) : rc;
}

int
zp__txn_put(zp__txn *txn, const char *ns, const char *key, const void *image,
            size_t size)
{
    return put(txn, ns, key, image, size, NULL, false);
}

int
zp__txn_put_leased(zp__txn *txn, const char *ns, const char *key,
                   const void *image, size_t size, const zp__lease *lease)
{
    return put(txn, ns, key, image, size, lease, false);
}

int
zp__txn_put_kept(zp__txn *txn, const char *ns, const char *key,
                 const void *image, size_t size)
{
    return put(txn, ns, key, image, size, NULL, true);
}

int
zp__txn_delete(zp__txn *txn, const char *ns, const char *key)
{
    unsigned char buffer[ZP__ROWKEY_MAX];
    zp__touch *touch;
    zp__cur_row row;
    bool live;
    int rc = txn->broken;

    if (rc == 0) {
        rc = zp__cur_get(txn->store, zp__txn_mdb(txn), ns, key, &row);
        if (rc == 0 && (row.head.flags & ZP__ROW_DELETED))
            rc = ZP_ENOKEY;
    }
    if (rc == 0)
        rc = zp__space_ensure(txn, 0);
    if (rc == 0)
        rc = touch_key(txn, ns, key, &touch, &row, &live);
    if (rc == 0 && (row.head.flags & ZP__ROW_LEASED)) {
        rc = zp__space_ensure(txn, 0);
        if (rc == 0)
            rc = zp__lease_drop(txn, ns, key);
    }
    if (rc == 0)
        rc = drop_own_outside(txn, &row, live);
    if (rc != 0)
        return rc;
    touch->absent = true;
    touch->same = false;
    touch->stale = false;
    touch->next.size = 0;
    touch->next.flags = ZP__ROW_DELETED;
    txn->writes++;
    size_t key_size = zp__rowkey_cur(buffer, ns, key);
    rc = touch->old_size == 0 ? zp__row_delete(txn, buffer, key_size)
                              : zp__row_put(txn, buffer, key_size, &touch->next,
                                            sizeof touch->next);
    return rc == 0 ? count_key(txn, ns, -1) : rc;
}

/* ---- reading in a transaction ---- */

static int
fill_item(zp__txn *txn, const zp__cur_row *row, zp__item *ret)
{
    if (row->head.flags & ZP__ROW_DELETED)
        return ZP_ENOKEY;
    ret->size = row->head.size;
    ret->revision = row->head.revision;
    ret->created = row->head.created;
    ret->created_rank = row->head.created_rank;
    ret->leased = row->head.flags & ZP__ROW_LEASED;
    return zp__cur_image(txn->store, zp__txn_mdb(txn), row, &ret->image);
}

int
zp__txn_get(zp__txn *txn, const char *ns, const char *key, zp__item *ret)
{
    zp__cur_row row;
    int rc = txn->broken;

    if (rc == 0)
        rc = zp__cur_get(txn->store, zp__txn_mdb(txn), ns, key, &row);
    return rc == 0 ? fill_item(txn, &row, ret) : rc;
}

static int
open_cursor(zp__txn *txn, MDB_cursor **ret)
{
    int rc = txn->broken;

    if (rc == 0 && (rc = mdb_cursor_open(zp__txn_mdb(txn), ZP__DBI, ret)) != 0)
        rc = zp__mdb_fail(txn->store, rc, "reading");
    return rc;
}

static int
next_live(zp__txn *txn, MDB_cursor *cursor, const char *ns, const char *after,
          char *ret_key, zp__cur_row *row)
{
    char key[ZP__KEY_MAX + 1];
    int rc;

    do {
        rc = zp__cur_next(txn->store, cursor, ns, after, key, row);
        if (rc == 1)
            after = strcpy(ret_key, key);
    } while (rc == 1 && (row->head.flags & ZP__ROW_DELETED));
    return rc;
}

int
zp__txn_next(zp__txn *txn, const char *ns, const char *after, char *ret_key,
             zp__item *ret)
{
    MDB_cursor *cursor;
    zp__cur_row row;
    int rc = open_cursor(txn, &cursor);

    if (rc != 0)
        return rc;
    rc = next_live(txn, cursor, ns, after, ret_key, &row);
    mdb_cursor_close(cursor);
    if (rc != 1)
        return rc;
    rc = fill_item(txn, &row, ret);
    return rc == 0 ? 1 : rc;
}

int
zp__txn_youngest(zp__txn *txn, const char *ns, char *ret_key, zp__item *ret)
{
    MDB_cursor *cursor;
    zp__cur_row row, best;
    char key[ZP__KEY_MAX + 1];
    bool found = false;
    int rc = open_cursor(txn, &cursor);

    if (rc != 0)
        return rc;
    rc = next_live(txn, cursor, ns, NULL, key, &row);
    while (rc == 1) {
        if (!found || row.head.created > best.head.created ||
            (row.head.created == best.head.created &&
             row.head.created_rank > best.head.created_rank)) {
            best = row;
            strcpy(ret_key, key);
        }
        found = true;
        rc = next_live(txn, cursor, ns, key, key, &row);
    }
    mdb_cursor_close(cursor);
    if (rc != 0)
        return rc;
    return found ? fill_item(txn, &best, ret) : ZP_ENOKEY;
}

int
zp__txn_length(zp__txn *txn, const char *ns, uint64_t *ret)
{
    int rc = txn->broken;
    return rc != 0 ? rc : zp__ns_length(txn->store, zp__txn_mdb(txn), ns, ret);
}
