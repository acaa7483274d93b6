/*
 * The past in the store: versions of keys read upwards, downwards and across
 * through one view, which remembers the way to them; and moments in the log.
 * The seed is printed when a case fails; ZP_TEST_SEED sets it.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zp.h>

#include "core/error.h"
#include "core/store.h"
#include "tests/support/zp_test.h"

#define RING 1024
#define REVISIONS 4000
#define KEYS 40 /* more than there are ways: they take each other's place */

static zp__place place;
static zp__store *store;
static zp__view *view;
static unsigned seed;

/* What each revision did: one key, set or deleted. */
static struct change {
    int key;
    bool deleted, created;
    uint64_t prev; /* the key's change before; 0: none */
} changes[REVISIONS + 1];
static uint64_t newest[KEYS];
static uint64_t head;

static unsigned
pick(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % n;
}

static const char *
key_name(int key)
{
    static char text[16];

    snprintf(text, sizeof text, "key-%02d", key);
    return text;
}

static int
setup(void **state)
{
    const char *given = getenv("ZP_TEST_SEED");
    zp__limits limits = {.log_revisions = RING};

    (void)state;
    seed = given ? (unsigned)atoi(given) : (unsigned)time(NULL) ^ getpid();
    print_message("# seed %u\n", seed);
    memset(changes, 0, sizeof changes);
    memset(newest, 0, sizeof newest);
    head = 0;
    assert_int_equal(zp__place_new(&place, NULL, NULL), 0);
    assert_int_equal(zp__board_create(&place), 0);
    assert_int_equal(zp__store_create(&place, &limits), 0);
    assert_int_equal(zp__place_publish(&place), 0);
    assert_int_equal(zp__store_open(&store, &place), 0);
    return zp__view_new(&view, store);
}

static int
teardown(void **state)
{
    (void)state;
    view = zp__view_free(view);
    store = zp__store_close(store);
    zp__place_remove(&place);
    return 0;
}

static void
expect(int rc, int expected)
{
    if (rc != expected)
        print_message("# %d: %s\n", rc, zp__fail_text());
    assert_int_equal(rc, expected);
}

/* The next revision: its number is the value. */
static void
commit(int key, bool deletes)
{
    struct change *change = &changes[head + 1];
    uint64_t value = head + 1, revision;
    zp__txn *txn;

    change->prev = newest[key];
    change->created = change->prev == 0 || changes[change->prev].deleted;
    change->key = key;
    change->deleted = deletes && !change->created;
    expect(zp__txn_begin(store, &txn, 1, 5, 0, false), 0);
    if (change->deleted)
        expect(zp__txn_delete(txn, "default", key_name(key)), 0);
    else
        expect(zp__txn_put(txn, "default", key_name(key), &value, sizeof value),
               0);
    expect(zp__txn_commit(txn, &revision), 0);
    newest[key] = ++head;
    assert_int_equal(revision, head);
}

/* ---- versions ---- */

/* The change that made KEY what it is at REVISION; 0: none. */
static uint64_t
change_at(int key, uint64_t revision)
{
    uint64_t at = newest[key];

    while (at > revision)
        at = changes[at].prev;
    return at;
}

static void
check_version(int key, uint64_t revision, uint64_t tail)
{
    uint64_t at = change_at(key, revision), value = 0;
    zp__version version;
    int rc =
        zp__view_version(view, "default", key_name(key), revision, &version);

    if (at == 0 || (at < tail && changes[at].deleted && rc == ZP_ENOKEY)) {
        expect(rc, ZP_ENOKEY);
        return;
    }
    expect(rc, 0);
    assert_int_equal(version.revision, at);
    assert_int_equal(version.forgotten, at < tail);
    assert_int_equal(!!(version.flags & ZP_DELETED), changes[at].deleted);
    assert_int_equal(!!(version.flags & ZP_CREATED), changes[at].created);
    assert_int_equal(version.pid, at < tail ? 0 : getpid());
    assert_int_equal(version.time_ns == 0, at < tail);
    if (changes[at].deleted) {
        assert_null(version.item.image);
    } else {
        assert_int_equal(version.item.size, sizeof value);
        memcpy(&value, version.item.image, sizeof value);
        assert_int_equal(value, at);
        assert_int_equal(version.item.revision, at);
    }
}

static void
check_get(int key, uint64_t revision)
{
    uint64_t at = change_at(key, revision), value;
    zp__item item;
    int rc = zp__view_get(view, "default", key_name(key), revision, &item);

    if (at == 0 || changes[at].deleted) {
        expect(rc, ZP_ENOKEY);
        return;
    }
    expect(rc, 0);
    memcpy(&value, item.image, sizeof value);
    assert_int_equal(value, at);
}

/* Through the view, as it is begun now: up, down, or wherever. */
static void
read_about(uint64_t tail, int n)
{
    uint64_t low = tail - 1, at = low + pick((unsigned)(head - low + 1));
    int key = pick(3) ? 0 : (int)pick(KEYS);
    unsigned way = pick(3);

    for (int i = 0; i < n; i++) {
        unsigned step = pick(12);
        if (pick(2))
            check_version(key, at, tail);
        else
            check_get(key, at);
        if (way == 2)
            at = low + pick((unsigned)(head - low + 1));
        else if (way == 1)
            at = at + step > head ? low : at + step;
        else
            at = at - low < step ? head : at - step;
    }
}

/* Goal: whichever way one comes, each revision shows what it was. */
static void
test_any_way(void **state)
{
    int n = zp_test_instrumented() ? REVISIONS / 2 : REVISIONS;
    uint64_t top, tail = 1;
    zp__version version;

    (void)state;
    for (int i = 0; i < n; i++) {
        commit(pick(3) ? 0 : (int)pick(KEYS), pick(4) == 0);
        if (pick(40))
            continue;
        expect(zp__view_begin(view), 0);
        expect(zp__view_range(view, &top, &tail), 0);
        assert_int_equal(top, head);
        read_about(tail, 200);
        read_about(tail, 200);
        zp__view_end(view); /* what it remembers is still right */
    }
    expect(zp__view_begin(view), 0);
    expect(zp__view_range(view, &top, &tail), 0);
    assert_true(tail > 1);
    expect(zp__view_version(view, "default", "key-00", tail - 2, &version),
           ZP_EGONE);
    expect(zp__view_version(view, "other", "key-00", head, &version),
           ZP_ENOKEY);
    for (uint64_t at = head; at + 1 >= tail && at > 0; at--)
        check_version(0, at, tail);
    for (uint64_t at = tail - 1; at <= head; at++)
        check_version(0, at, tail);
    zp__view_end(view);
}

/* ---- moments ---- */

/* By looking at each row. */
static uint64_t
since(double moment, uint64_t tail)
{
    zp__row row;

    for (uint64_t at = tail; at <= head; at++) {
        expect(zp__view_row(view, at, &row), 0);
        if ((double)row.time_ns * 1e-9 >= moment)
            return at == tail ? 0 : at - 1;
    }
    return head;
}

static bool
in_order(uint64_t tail)
{
    int64_t last = INT64_MIN;
    zp__row row;

    for (uint64_t at = tail; at <= head; at++) {
        expect(zp__view_row(view, at, &row), 0);
        if (row.time_ns < last)
            return false;
        last = row.time_ns;
    }
    return true;
}

static void
check_since(double moment, uint64_t tail)
{
    uint64_t cursor = UINT64_MAX;

    expect(zp__view_since(view, moment, &cursor), 0);
    assert_int_equal(cursor, since(moment, tail));
}

/* Goal: the first change of a moment, of any, in a log of any length; before
 * the oldest retained one it is 0, that is: something may be lost. */
static void
test_since(void **state)
{
    static const int lengths[] = {0, 1, 1, 1, 5, 60, RING - 69, 1, 1, 500};
    uint64_t top, tail, cursor;
    zp__row row;

    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        for (int k = 0; k < lengths[i]; k++)
            commit((int)pick(KEYS), pick(4) == 0);
        expect(zp__view_begin(view), 0);
        expect(zp__view_range(view, &top, &tail), 0);
        if (in_order(tail)) { /* nobody has set the clock */
            for (int k = 0; k < 50 && head > 0; k++) {
                uint64_t at = tail + pick((unsigned)(head - tail + 1));
                expect(zp__view_row(view, at, &row), 0);
                check_since((double)row.time_ns * 1e-9, tail);
                check_since((double)row.time_ns * 1e-9 + 1e-6, tail);
                check_since((double)row.time_ns * 1e-9 - 1e-6, tail);
            }
            check_since(0, tail);
            check_since(-INFINITY, tail);
            check_since(INFINITY, tail);
            check_since(1e300, tail);
        }
        expect(zp__view_since(view, INFINITY, &cursor), 0);
        assert_int_equal(cursor, head);
        expect(zp__view_since(view, -INFINITY, &cursor), 0);
        assert_int_equal(cursor, 0);
        zp__view_end(view);
    }
    assert_true(tail > 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_any_way, setup, teardown),
        ZP_TEST_WITH(test_since, setup, teardown),
    };
    return zp_test_main("store_past", tests, sizeof tests / sizeof *tests, 60);
}
