/*
 * Leases in the store: rows come and go with the keys' own, whatever a nested
 * transaction does; all of them are found from any place on; and the board is
 * told of what the server does not know, of nothing else.
 */
#include <errno.h>
#include <lmdb.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <zp.h>

#include "core/leases.h"
#include "tests/support/zp_test.h"

#define SECOND INT64_C(1000000000)

static zp__place place;
static zp__store *store;
static zp__view *view;
static zp__shared *shared;

static int
start(void **state)
{
    zp__limits limits = {.max_bytes = 16 << 20, .map_bytes = 64 << 20};

    (void)state;
    assert_int_equal(zp__place_new(&place, NULL, NULL), 0);
    assert_int_equal(zp__board_create(&place), 0);
    assert_int_equal(zp__store_create(&place, &limits), 0);
    assert_int_equal(zp__place_publish(&place), 0);
    assert_int_equal(zp__store_open(&store, &place), 0);
    assert_int_equal(zp__view_new(&view, store), 0);
    shared = zp__store_board(store)->shared;
    return 0;
}

static int
stop(void **state)
{
    (void)state;
    zp__view_free(view);
    zp__store_close(store);
    zp__place_remove(&place);
    return 0;
}

static zp__txn *
begin(void)
{
    zp__txn *txn = NULL;

    assert_int_equal(zp__txn_begin(store, &txn, 1, 5, 0, false), 0);
    return txn;
}

static uint64_t
commit(zp__txn *txn)
{
    uint64_t revision = 0;

    assert_int_equal(zp__txn_commit(txn, &revision), 0);
    return revision;
}

static zp__lease
bound(void)
{
    zp__lease lease = {.holder = zp__pid_self(), .pid_ns = zp__pid_ns()};

    zp__lease_until(&lease, -1);
    return lease;
}

static zp__lease
timed(double ttl)
{
    zp__lease lease = {.pid_ns = zp__pid_ns()};

    zp__lease_until(&lease, ttl);
    return lease;
}

static void
put(zp__txn *txn, const char *key, const zp__lease *lease)
{
    assert_int_equal(zp__txn_put_leased(txn, "ns", key, "x", 1, lease), 0);
}

/* How many leases there are. */
static int
count(void)
{
    zp__lease_at at = {.epoch = 0};
    zp__lease lease;
    int n = 0, rc;

    assert_int_equal(zp__view_begin(view), 0);
    while ((rc = zp__view_next_lease(view, &at, &lease)) == 1)
        n++;
    zp__view_end(view);
    assert_int_equal(rc, 0);
    return n;
}

/* ---- rows ---- */

/* Goal: rows that are gone with their keys, in each way, and those of rolled
 * back transactions. */
static void
test_rows_go(void **state)
{
    zp__lease lease = bound(), got;
    zp__txn *txn = begin();

    (void)state;
    put(txn, "a", &lease);
    put(txn, "b", &lease);
    put(txn, "c", &lease);
    put(txn, "d", &lease);
    commit(txn);
    assert_int_equal(count(), 4);

    txn = begin();
    assert_int_equal(zp__txn_put(txn, "ns", "a", "x", 1), 0);
    assert_int_equal(zp__txn_delete(txn, "ns", "b"), 0);
    assert_int_equal(zp__txn_put_kept(txn, "ns", "c", "y", 1), 0);
    assert_int_equal(zp__txn_set_lease(txn, "ns", "d", NULL), 0);
    assert_int_equal(zp__txn_lease(txn, "ns", "b", &got), ZP_ENOKEY);
    assert_int_equal(zp__txn_lease(txn, "ns", "c", &got), 0);
    assert_int_equal(got.holder.pid, getpid());
    assert_int_equal(zp__txn_lease(txn, "ns", "d", &got), 0);
    assert_int_equal(got.holder.pid, 0);
    zp__txn_abort(txn);
    assert_int_equal(count(), 4);

    txn = begin();
    assert_int_equal(zp__txn_nest(txn), 0);
    assert_int_equal(zp__txn_delete(txn, "ns", "b"), 0);
    assert_int_equal(zp__txn_set_lease(txn, "ns", "d", NULL), 0);
    put(txn, "e", &lease);
    assert_int_equal(zp__txn_unnest(txn, false), 0);
    assert_int_equal(zp__txn_put(txn, "ns", "a", "x", 1), 0);
    commit(txn);
    assert_int_equal(count(), 3);
    txn = begin();
    assert_int_equal(zp__txn_lease(txn, "ns", "d", &got), 0);
    assert_int_equal(got.holder.pid, getpid());
    assert_int_equal(zp__txn_set_lease(txn, "ns", "d", NULL), 0);
    assert_int_equal(zp__txn_delete(txn, "ns", "b"), 0);
    assert_int_equal(zp__txn_delete(txn, "ns", "c"), 0);
    commit(txn);
    assert_int_equal(count(), 0);
}

/* Goal: what changes leases alone is committed, and is no revision; also as the
 * first of all, and between two changes. */
static void
test_no_revision(void **state)
{
    zp__lease got;
    zp__txn *txn = begin();

    (void)state;
    assert_int_equal(zp__txn_put(txn, "ns", "a", "x", 1), 0);
    assert_int_equal(commit(txn), 1);
    for (int i = 0; i < 3; i++) {
        txn = begin();
        assert_int_equal(zp__txn_renew(txn, "ns", "a", 100), 0);
        assert_int_equal(commit(txn), (uint64_t)i + 1);
        assert_int_equal(count(), 1);
        txn = begin();
        assert_int_equal(zp__txn_lease(txn, "ns", "a", &got), 0);
        assert_true(zp__lease_left(&got, zp__boottime()) > 10 * SECOND);
        assert_int_equal(zp__txn_put(txn, "ns", "b", "x", 1), 0);
        assert_int_equal(commit(txn), (uint64_t)i + 2);
    }
    txn = begin();
    assert_int_equal(zp__txn_renew(txn, "ns", "none", 1), ZP_ENOKEY);
    assert_int_equal(zp__txn_renew(txn, "ns", "b", -1), 0);
    zp__txn_abort(txn);
}

/* Goal: the walk goes on from where it was, in a new view as in the same one,
 * whether that row is there or not; namespaces in order. */
static void
test_walk(void **state)
{
    static const char *const order[] = {"a", "ab", "b", "c"};
    zp__lease lease = bound();
    zp__lease_at at = {.epoch = 0};
    zp__txn *txn = begin();

    (void)state;
    for (int i = 3; i >= 0; i--)
        assert_int_equal(zp__txn_put_leased(txn, i % 2 ? "two" : "one",
                                            order[i], "x", 1, &lease),
                         0);
    assert_int_equal(zp__txn_put(txn, "two", "plain", "x", 1), 0);
    commit(txn);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(zp__view_begin(view), 0);
        assert_int_equal(zp__view_next_lease(view, &at, &lease), 1);
        assert_string_equal(at.ns, i < 2 ? "one" : "two");
        assert_string_equal(at.key, order[i < 2 ? 2 * i : 2 * i - 3]);
        if (i == 1) /* within one view */
            continue;
        zp__view_end(view);
        txn = begin(); /* the row it stands at goes */
        assert_int_equal(zp__txn_delete(txn, at.ns, at.key), 0);
        commit(txn);
    }
    assert_int_equal(zp__view_begin(view), 0);
    assert_int_equal(zp__view_next_lease(view, &at, &lease), 0);
    zp__view_end(view);
    assert_int_equal(count(), 1);
}

/* ---- telling ---- */

/* One commit of KEY with LEASE: was the server told? */
static bool
tells(const char *key, const zp__lease *lease)
{
    uint64_t told = atomic_load(&shared->lease_told);
    uint64_t leases = atomic_load(&shared->leases);
    zp__txn *txn = begin();

    if (lease != NULL)
        put(txn, key, lease);
    else
        assert_int_equal(zp__txn_put(txn, "ns", key, "x", 1), 0);
    commit(txn);
    assert_int_equal(atomic_load(&shared->leases) % 2, 0);
    if (lease != NULL)
        assert_true(atomic_load(&shared->leases) > leases);
    return atomic_load(&shared->lease_told) != told;
}

/* Goal: told of an unknown holder, of a deadline before the next look, and of
 * what a dead writer could not tell; not of what is known, or later, or of a
 * transaction that was rolled back. */
static void
test_told(void **state)
{
    zp__lease lease = bound(), other = bound(), soon = timed(5);
    zp__pid self = zp__pid_self();
    _Atomic uint64_t *holder =
        &shared->holders[(uint32_t)self.pid % ZP__HOLDERS];
    uint64_t told;
    zp__txn *txn;

    (void)state;
    assert_false(tells("plain", NULL));
    assert_true(tells("bound", &lease));
    atomic_store(holder, zp__holder_word(&self));
    assert_false(tells("bound", &lease));
    other.holder.start++; /* of the same number, long ago */
    assert_true(tells("bound", &other));
    assert_false(tells("bound", NULL));
    assert_false(tells("bound", NULL));

    assert_true(tells("timed", &soon)); /* no look is planned */
    atomic_store(&shared->lease_look, soon.deadline_ns - SECOND);
    assert_false(tells("timed", &soon));
    atomic_store(&shared->lease_look, soon.deadline_ns + SECOND);
    assert_true(tells("timed", &soon));
    assert_false(tells("bound", &lease));

    /* the earliest of several, and two holders of which one is unknown */
    txn = begin();
    told = atomic_load(&shared->lease_told);
    put(txn, "1", &soon);
    soon = timed(500);
    put(txn, "2", &soon);
    commit(txn);
    assert_int_equal(atomic_load(&shared->lease_told), told + 1);
    txn = begin();
    put(txn, "1", &other);
    put(txn, "2", &lease);
    commit(txn);
    assert_int_equal(atomic_load(&shared->lease_told), told + 2);
    txn = begin();
    put(txn, "1", &other);
    zp__txn_abort(txn);
    assert_int_equal(atomic_load(&shared->lease_told), told + 2);

    atomic_fetch_add(&shared->leases, 1); /* odd: died before it told */
    assert_true(tells("bound", &lease));
    assert_false(tells("bound", &lease));
}

/* ---- time ---- */

/* Goal: another boot goes by the wall clock, its processes have ended. */
static void
test_other_boot(void **state)
{
    zp__lease lease = timed(100);
    int64_t now = zp__boottime();

    (void)state;
    assert_true(zp__lease_is_here(&lease));
    assert_in_range(zp__lease_left(&lease, now), 90 * SECOND, 100 * SECOND);
    lease.boot++;
    assert_false(zp__lease_is_here(&lease));
    lease.deadline_ns = 1;
    assert_in_range(zp__lease_left(&lease, now), 90 * SECOND, 100 * SECOND);
    lease.wall_ns -= 200 * SECOND;
    assert_true(zp__lease_left(&lease, now) < 0);
    lease = bound();
    assert_true(zp__lease_left(&lease, now) == INT64_MAX);
    lease.pid_ns++;
    assert_false(zp__lease_is_here(&lease));
}

#define WITH(f) ZP_TEST_WITH(f, start, stop)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(test_rows_go), WITH(test_no_revision), WITH(test_walk),
        WITH(test_told),    WITH(test_other_boot),
    };
    return zp_test_main("store leases", tests, sizeof tests / sizeof *tests,
                        30);
}
