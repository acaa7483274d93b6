/*
 * store_leases.c - leases: why a key goes by itself, and what the server must
 * know of that.
 *
 * A leased key has a b row beside its current row, and a flag in it. Both are
 * written in the transaction that sets the key; renewing writes the b row
 * alone, which is no change: no revision, no log row. So a transaction may
 * commit without either.
 *
 * Only the server deletes what is over (server_leases.c). It looks at all b
 * rows, but seldom: it watches each process that holds a lease, and has put the
 * time of its next look into the board. A writer tells it of what neither of
 * the two covers, in the manner of the doorbell:
 *
 *     writer:  count + 1: odd; commit; full fence; is the holder unknown, or
 *              the deadline before the next look? told + 1; count + 1; ring if
 *              told and asleep.
 *     server:  next look = soon; told and count taken; full fence; look at all
 *              rows; next look = the earliest deadline, or soon if there were
 *              commits meanwhile. Before it sleeps: was it told? Look again.
 *
 * What a look does not see was committed behind its fence, by a writer who sees
 * "soon" or later, and tells if that is too late. A writer that dies between
 * commit and telling leaves the count odd.
 */
#include <string.h>
#include <time.h>

#include "core/store_lmdb.h"

#define SECOND INT64_C(1000000000)
#define SEVERAL UINT64_MAX /* holders: as if unknown */

/* ---- time ---- */

static int64_t
clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

int64_t
zp__boottime(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

void
zp__lease_until(zp__lease *lease, double ttl)
{
    int64_t ns = ttl < 0 ? 0 : (int64_t)(ttl * (double)SECOND);

    lease->deadline_ns = ttl < 0 ? 0 : zp__boottime() + ns;
    lease->wall_ns = ttl < 0 ? 0 : clock_ns(CLOCK_REALTIME) + ns;
    lease->boot = zp__boot_hash();
}

int64_t
zp__lease_left(const zp__lease *lease, int64_t now)
{
    if (lease->deadline_ns == 0)
        return INT64_MAX;
    if (lease->boot == zp__boot_hash())
        return lease->deadline_ns - now;
    return lease->wall_ns - clock_ns(CLOCK_REALTIME);
}

bool
zp__lease_is_here(const zp__lease *lease)
{
    return lease->boot == zp__boot_hash() && lease->pid_ns == zp__pid_ns();
}

/* ---- rows ---- */

int
zp__lease_put(zp__txn *txn, const char *ns, const char *key,
              const zp__lease *lease)
{
    unsigned char name[ZP__ROWKEY_MAX];
    struct zp__lease_news *news = &txn->leases;

    news->any = true;
    if (lease->holder.pid != 0) {
        uint64_t word = zp__holder_word(&lease->holder);
        news->bound = news->bound == 0 || news->bound == word ? word : SEVERAL;
    }
    if (lease->deadline_ns != 0 && lease->deadline_ns < news->due)
        news->due = lease->deadline_ns;
    return zp__row_put(txn, name, zp__rowkey_lease(name, ns, key), lease,
                       sizeof *lease);
}

int
zp__lease_drop(zp__txn *txn, const char *ns, const char *key)
{
    unsigned char name[ZP__ROWKEY_MAX];

    txn->leases.any = true;
    return zp__row_delete(txn, name, zp__rowkey_lease(name, ns, key));
}

/* The lease of a key whose current row is HEAD. */
static int
get_lease(zp__store *store, MDB_txn *txn, const char *ns, const char *key,
          const zp__cur *head, zp__lease *ret)
{
    unsigned char name[ZP__ROWKEY_MAX];
    MDB_val data;
    int rc;

    if (head->flags & ZP__ROW_DELETED)
        return ZP_ENOKEY;
    memset(ret, 0, sizeof *ret);
    if (!(head->flags & ZP__ROW_LEASED))
        return 0;
    rc = zp__row_get(store, txn, name, zp__rowkey_lease(name, ns, key), &data);
    if (rc == ZP_ENOKEY ||
        (rc == 0 && !zp__lease_parse(data.mv_data, data.mv_size, ret)))
        return zp__store_corrupt(store, "lease");
    return rc;
}

/* ---- in a transaction ---- */

int
zp__txn_lease(zp__txn *txn, const char *ns, const char *key, zp__lease *ret)
{
    zp__cur_row row;
    int rc = txn->broken;

    if (rc == 0)
        rc = zp__cur_get(txn->store, zp__txn_mdb(txn), ns, key, &row);
    return rc != 0 ? rc
                   : get_lease(txn->store, zp__txn_mdb(txn), ns, key, &row.head,
                               ret);
}

/* Set or clear the flag in the current row, which stays what it is. */
static int
flag_row(zp__txn *txn, const char *ns, const char *key, bool leased)
{
    unsigned char name[ZP__ROWKEY_MAX];
    unsigned char row[sizeof(zp__cur) + ZP__INLINE];
    size_t name_size = zp__rowkey_cur(name, ns, key);
    zp__cur head;
    MDB_val data;
    int rc = zp__row_get(txn->store, zp__txn_mdb(txn), name, name_size, &data);

    if (rc != 0)
        return rc;
    if (data.mv_size < sizeof head || data.mv_size > sizeof row)
        return zp__store_corrupt(txn->store, "current");
    memcpy(row, data.mv_data, data.mv_size);
    memcpy(&head, row, sizeof head);
    if (!(head.flags & ZP__ROW_LEASED) == !leased)
        return 0;
    head.flags ^= ZP__ROW_LEASED;
    memcpy(row, &head, sizeof head);
    return zp__row_put(txn, name, name_size, row, data.mv_size);
}

int
zp__txn_set_lease(zp__txn *txn, const char *ns, const char *key,
                  const zp__lease *lease)
{
    int rc = zp__space_ensure(txn, sizeof *lease);

    if (rc == 0)
        rc = zp__space_ensure(txn, ZP__INLINE);
    if (rc == 0)
        rc = flag_row(txn, ns, key, lease != NULL);
    if (rc != 0)
        return rc;
    return lease != NULL ? zp__lease_put(txn, ns, key, lease)
                         : zp__lease_drop(txn, ns, key);
}

int
zp__txn_renew(zp__txn *txn, const char *ns, const char *key, double ttl)
{
    zp__lease lease;
    int rc = zp__txn_lease(txn, ns, key, &lease);

    if (rc != 0)
        return rc;
    if (lease.holder.pid == 0 && lease.deadline_ns == 0 && ttl < 0)
        return 0;
    if (lease.holder.pid != 0 && !zp__lease_is_here(&lease))
        return ZP_ENOKEY; /* its holder has ended: it is as good as gone */
    zp__lease_until(&lease, ttl);
    return zp__txn_set_lease(
        txn, ns, key,
        lease.holder.pid != 0 || lease.deadline_ns != 0 ? &lease : NULL);
}

int
zp__txn_drop_lease(zp__txn *txn, const char *ns, const char *key)
{
    int rc = txn->broken;

    if (rc == 0)
        rc = zp__space_ensure(txn, 0);
    return rc == 0 ? zp__lease_drop(txn, ns, key) : rc;
}

/* ---- telling the server ---- */

void
zp__leases_begin(zp__txn *txn)
{
    zp__shared *shared = txn->store->board.shared;
    uint64_t count =
        atomic_load_explicit(&shared->leases, memory_order_relaxed);

    txn->leases.count = count;
    atomic_store(&shared->leases, (count + 1) | 1);
}

/* Does the server watch this process to its end? */
static bool
is_watched(const zp__shared *shared, uint64_t word)
{
    return atomic_load(&shared->holders[(uint32_t)word % ZP__HOLDERS]) == word;
}

bool
zp__leases_tell(zp__txn *txn)
{
    zp__shared *shared = txn->store->board.shared;
    const struct zp__lease_news *news = &txn->leases;
    bool tell = (news->bound != 0 && !is_watched(shared, news->bound)) ||
                news->due < atomic_load(&shared->lease_look) ||
                (news->count & 1); /* a dead writer's, who could not tell */

    if (tell)
        atomic_store(&shared->lease_told, atomic_load(&shared->lease_told) + 1);
    atomic_store(&shared->leases, ((news->count + 1) | 1) + 1);
    return tell && atomic_load(&shared->asleep);
}

/* ---- in a view ---- */

int
zp__view_lease(zp__view *view, const char *ns, const char *key, zp__lease *ret)
{
    zp__cur_row row;
    int rc = zp__cur_get(view->store, view->txn, ns, key, &row);

    return rc != 0 ? rc
                   : get_lease(view->store, view->txn, ns, key, &row.head, ret);
}

/* The row behind AT: LMDB's code. */
static int
step(zp__view *view, const zp__lease_at *at, MDB_val *key, MDB_val *data)
{
    unsigned char from[ZP__ROWKEY_MAX];
    size_t size = zp__rowkey_lease(from, at->ns, at->key);
    int rc;

    if (at->epoch == view->epoch)
        return mdb_cursor_get(view->cursor, key, data, MDB_NEXT);
    *key = (MDB_val){at->ns[0] == '\0' ? 1 : size, from};
    rc = mdb_cursor_get(view->cursor, key, data, MDB_SET_RANGE);
    if (rc == 0 && at->ns[0] != '\0' && key->mv_size == size &&
        memcmp(key->mv_data, from, size) == 0)
        rc = mdb_cursor_get(view->cursor, key, data, MDB_NEXT);
    return rc;
}

int
zp__view_next_lease(zp__view *view, zp__lease_at *at, zp__lease *ret)
{
    MDB_val key, data;
    int rc = zp__view_cursor(view);

    while (rc == 0) {
        rc = step(view, at, &key, &data);
        if (rc == MDB_NOTFOUND ||
            (rc == 0 && *(const char *)key.mv_data != 'b'))
            return 0;
        if (rc != 0)
            return zp__mdb_fail(view->store, rc, "reading");
        at->epoch = view->epoch;
        if (zp__lease_names(key.mv_data, key.mv_size, at->ns, at->key) &&
            zp__lease_parse(data.mv_data, data.mv_size, ret))
            return 1;
    }
    return rc;
}
