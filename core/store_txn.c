/*
 * store_txn.c - transactions: the lock, begin, commit, nested ones.
 *
 * The board's lock stands in front of LMDB's: it knows a deadlock, a timeout
 * and fairness. Whoever holds it is the only writer, so the one zp__txn in the
 * store needs no other protection. LMDB rolls back what a dead writer left;
 * the lock is robust; the only trace can be a board hint (the head) that is
 * behind, which zp__log_newest() notices.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/store_lmdb.h"

/* In a child that was forked inside of one it is not the child's. */
static _Thread_local unsigned in_txn;
static _Thread_local uint64_t in_txn_token;

bool
zp__in_txn(void)
{
    return in_txn > 0 && in_txn_token == zp__token();
}

static void
enter_txn(void)
{
    if (!zp__in_txn())
        in_txn = 0;
    in_txn_token = zp__token();
    in_txn++;
}

/* ---- begin and end ---- */

static void
release(zp__txn *txn)
{
    zp__journal_clear(&txn->journal);
    txn->serial++;
    txn->depth = -1;
    in_txn--;
    zp__board_unlock(&txn->store->board);
}

/* Head of the newest log row. If LMDB's transaction follows on the one that we
 * committed last, nobody has written in between, and we need not look: that
 * number comes from LMDB's own pages, which nothing but a commit can change. */
static int
find_last(zp__txn *txn)
{
    int rc;

    if (txn->known != 0 && mdb_txn_id(txn->txns[0]) == txn->known + 1)
        return 0;
    txn->known = 0;
    rc = zp__log_newest(txn->store, txn->txns[0], &txn->last);
    txn->fresh = rc == ZP_ENOKEY;
    if (txn->fresh)
        memset(&txn->last, 0, sizeof txn->last);
    return txn->fresh ? 0 : rc;
}

/* Commit to LMDB; on success `last` is known as of then. */
static int
commit_mdb(zp__txn *txn)
{
    size_t id = mdb_txn_id(txn->txns[0]);
    int rc = mdb_txn_commit(txn->txns[0]);

    txn->known = rc == 0 ? id : 0;
    return rc == 0 ? 0 : zp__space_explain(txn->store, rc, "writing");
}

static int
begin_mdb(zp__txn *txn)
{
    zp__store *store = txn->store;
    int rc = mdb_txn_begin(store->env, NULL, 0, &txn->txns[0]);

    if (rc != 0)
        return zp__mdb_fail(store, rc, "writing");
    txn->depth = 0;
    rc = find_last(txn);
    if (rc == 0)
        rc = zp__space_begin(txn);
    if (rc != 0)
        mdb_txn_abort(txn->txns[0]);
    return rc;
}

int
zp__txn_begin(zp__store *store, zp__txn **ret, uint64_t writer, double timeout,
              size_t need, bool deletes)
{
    zp__txn *txn = &store->txn;
    int rc;

    if (zp__board_closed(&store->board))
        return zp__fail(ZP_ECLOSED, "%s is closed", store->place.run);
    rc = zp__board_lock(&store->board, timeout);
    if (rc < 0)
        return rc;
    enter_txn();
    txn->serial++;
    txn->writer = writer;
    txn->writes = 0;
    txn->ranks = 0;
    txn->broken = 0;
    txn->deletes = deletes;
    txn->leases = (struct zp__lease_news){.due = INT64_MAX};
    rc = begin_mdb(txn);
    if (rc != 0) {
        release(txn);
        return rc;
    }
    txn->revision = txn->last.revision + 1;
    rc = zp__space_ensure(txn, need);
    if (rc != 0) {
        zp__txn_abort(txn);
        return rc;
    }
    *ret = txn;
    return 0;
}

void
zp__txn_abort(zp__txn *txn)
{
    mdb_txn_abort(txn->txns[0]); /* and the nested ones in it */
    release(txn);
}

int
zp__txn_commit(zp__txn *txn, uint64_t *ret_revision)
{
    zp__store *store = txn->store;
    uint64_t revision = txn->revision;
    zp__call call = {.any = false};
    uint32_t n = 0;
    int rc = txn->broken;

    if (rc == 0)
        rc = zp__log_append(txn, &n);
    if (rc != 0 || (n == 0 && !txn->leases.any)) {
        zp__txn_abort(txn);
        if (rc == 0 && ret_revision != NULL)
            *ret_revision = revision - 1;
        return rc;
    }
    if (txn->leases.any)
        zp__leases_begin(txn);
    rc = commit_mdb(txn);
    if (rc == 0 && n > 0) {
        txn->last = txn->next;
        txn->fresh = false;
        atomic_store_explicit(&store->board.shared->head, revision,
                              memory_order_release);
    } else {
        txn->known = 0; /* that id may be another's yet */
    }
    zp__board_fence();
    bool tell = txn->leases.any && zp__leases_tell(txn);
    if (rc == 0 && n > 0)
        zp__txn_call(txn, &call);
    call.server |= tell;
    release(txn);
    zp__call_rest(store, &call);
    if (rc == 0 && ret_revision != NULL)
        *ret_revision = n > 0 ? revision : revision - 1;
    return rc;
}

int
zp__txn_nest(zp__txn *txn)
{
    int rc;

    if (txn->broken != 0)
        return txn->broken;
    if (txn->depth + 1 == ZP__TXN_DEPTH)
        return zp__fail(-EOVERFLOW, "atomic operations nest %d deep at most",
                        ZP__TXN_DEPTH);
    rc = mdb_txn_begin(txn->store->env, zp__txn_mdb(txn), 0,
                       &txn->txns[txn->depth + 1]);
    if (rc != 0)
        return zp__mdb_fail(txn->store, rc, "writing");
    txn->levels[++txn->depth] = (struct zp__level){
        zp__journal_mark_now(&txn->journal), txn->writes, txn->wasted};
    return 0;
}

int
zp__txn_unnest(zp__txn *txn, bool commit)
{
    const struct zp__level *level = &txn->levels[txn->depth];
    MDB_txn *inner = txn->txns[txn->depth--];
    int rc = commit ? txn->broken : 0;

    if (commit && rc == 0) {
        rc = mdb_txn_commit(inner);
        if (rc == 0)
            return 0;
        rc = txn->broken = zp__mdb_fail(txn->store, rc, "writing");
    } else {
        mdb_txn_abort(inner);
        txn->broken = 0; /* what failed was inside of it, and is undone */
    }
    txn->wasted = level->wasted;
    if (txn->writes == level->writes && txn->journal.n == level->mark.n)
        return rc;
    zp__journal_rollback(&txn->journal, level->mark);
    txn->writes++;
    return rc;
}

uint64_t
zp__txn_revision(const zp__txn *txn)
{
    return txn->revision;
}

uint64_t
zp__txn_writes(const zp__txn *txn)
{
    return txn->writes;
}

uint64_t
zp__txn_serial(const zp__txn *txn)
{
    return txn->serial;
}

int
zp__txn_depth(const zp__txn *txn)
{
    return txn->depth;
}

int
zp__txn_end_plain(zp__txn *txn, int rc)
{
    if (rc != 0) {
        zp__txn_abort(txn);
        return rc;
    }
    rc = commit_mdb(txn);
    txn->known = 0; /* nothing written: that id is another's yet */
    release(txn);
    return rc;
}
