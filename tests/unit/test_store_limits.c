/*
 * The store at its edges: limits that contradict each other, a log that would
 * fill the state, large transactions passed by the ring, readers that pin
 * pages, failures inside of (nested) transactions, images of exactly the sizes
 * at which their place changes.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zp.h>

#include "core/error.h"
#include "core/fork.h"
#include "core/rows.h"
#include "core/store.h"
#include "tests/support/zp_test.h"

#define MIB ((size_t)1 << 20)

static zp__place place;
static zp__store *store;
static zp__view *view;
static unsigned char *image; /* 8 MiB */

static void
start(const zp__limits *limits)
{
    image = calloc(8, MIB);
    assert_non_null(image);
    assert_int_equal(zp__place_new(&place, NULL, NULL), 0);
    assert_int_equal(zp__board_create(&place), 0);
    assert_int_equal(zp__store_create(&place, limits), 0);
    assert_int_equal(zp__place_publish(&place), 0);
    assert_int_equal(zp__store_open(&store, &place), 0);
    assert_int_equal(zp__view_new(&view, store), 0);
}

static void
stop(void)
{
    view = zp__view_free(view);
    store = zp__store_close(store);
    zp__place_remove(&place);
    free(image);
}

static void
expect(int rc, int expected)
{
    if (rc != expected)
        print_message("# %d: %s\n", rc, zp__fail_text());
    assert_int_equal(rc, expected);
}

static zp__txn *
begin(bool deletes)
{
    zp__txn *txn = NULL;

    expect(zp__txn_begin(store, &txn, 1, 5, 0, deletes), 0);
    return txn;
}

static int
put(const char *key, size_t size)
{
    zp__txn *txn;
    int rc = zp__txn_begin(store, &txn, 1, 5, size, false);

    if (rc != 0)
        return rc;
    rc = zp__txn_put(txn, "default", key, image, size);
    if (rc == 0)
        return zp__txn_commit(txn, NULL);
    zp__txn_abort(txn);
    return rc;
}

static int
erase(const char *key)
{
    zp__txn *txn;
    int rc = zp__txn_begin(store, &txn, 1, 5, 0, true);

    if (rc != 0)
        return rc;
    rc = zp__txn_delete(txn, "default", key);
    if (rc == 0)
        return zp__txn_commit(txn, NULL);
    zp__txn_abort(txn);
    return rc;
}

static uint64_t
used(void)
{
    zp__usage usage;

    expect(zp__store_usage(store, &usage), 0);
    return usage.used_bytes;
}

static const char *
name(unsigned i)
{
    static char text[32];

    snprintf(text, sizeof text, "key-%06u", i);
    return text;
}

/* A new state with LIMITS cannot be made. */
static void
refuse(const zp__limits *limits, int code, const char *word)
{
    zp__place nowhere;

    assert_int_equal(zp__place_new(&nowhere, NULL, NULL), 0);
    assert_int_equal(zp__board_create(&nowhere), 0);
    expect(zp__store_create(&nowhere, limits), code);
    if (strstr(zp__fail_text(), word) == NULL)
        fail_msg("'%s' is not in '%s'", word, zp__fail_text());
    zp__place_remove(&nowhere);
}

static void
test_ranges(void **state)
{
    (void)state;
    refuse(&(zp__limits){.log_revisions = 63}, -EINVAL, "log_revisions");
    refuse(&(zp__limits){.log_revisions = (1 << 24) + 1}, -EINVAL,
           "log_revisions");
    refuse(&(zp__limits){.log_revisions = UINT64_MAX}, -EINVAL,
           "log_revisions");
    refuse(&(zp__limits){.max_value = 64 * MIB + 1}, -EINVAL, "max_value");
    refuse(&(zp__limits){.max_bytes = 1000}, -ENOSPC, "1 MiB");
}

/* What was asked for is what there is, unless it contradicts itself. */
static void
test_limits_are_kept(void **state)
{
    (void)state;
    start(&(zp__limits){.max_bytes = 10000000, .map_bytes = 1 << 30});
    assert_true(zp__store_limits(store)->max_bytes == 10000000);
    assert_in_range(zp__store_limits(store)->map_bytes, 11250000, 16000000);
    stop();
    start(&(zp__limits){.max_bytes = 10000000, .map_bytes = 5000000});
    assert_in_range(zp__store_limits(store)->max_bytes, 3000000, 4900000);
    assert_in_range(zp__store_limits(store)->map_bytes, 4900000, 5000000);
    stop();
}

/* One key set again and again never fills a state: its log gives way. */
static void
test_log_gives_way(void **state)
{
    (void)state;
    start(&(zp__limits){.max_bytes = 4 * MIB});
    for (unsigned i = 0; i < 60000 / zp_test_slow(); i++) {
        memcpy(image, &i, sizeof i);
        expect(put("n", 20), 0);
    }
    assert_in_range(used(), 1, 4 * MIB / 10 * 9);
    stop();
}

/* ... so that the largest value finds room at once. */
static void
test_log_leaves_room(void **state)
{
    (void)state;
    start(&(zp__limits){.max_bytes = 6 * MIB});
    for (unsigned i = 0; i < 40000 / zp_test_slow(); i++) {
        memcpy(image, &i, sizeof i);
        expect(put("n", 20), 0);
    }
    expect(put("large", MIB), 0);
    stop();
}

/* The same with values outside of their rows, and a log that was asked to be
 * larger than all. */
static void
test_log_of_large_values_gives_way(void **state)
{
    uint64_t head, tail;

    (void)state;
    start(&(zp__limits){.max_bytes = 4 * MIB, .log_bytes = 64 * MIB});
    for (unsigned i = 0; i < 3000 / zp_test_slow(); i++) {
        memcpy(image, &i, sizeof i);
        expect(put("n", 5000), 0);
    }
    assert_in_range(used(), 1, 4 * MIB / 10 * 9);
    expect(zp__view_begin(view), 0);
    expect(zp__view_range(view, &head, &tail), 0);
    assert_true(head - tail > 20); /* but not more than it must */
    zp__view_end(view);
    stop();
}

/* At the limit each key can be deleted, then there is room. In any order, and
 * with values that move into the log. */
static void
delete_all(size_t size)
{
    unsigned n = 0;
    int rc;

    start(&(zp__limits){.max_bytes = 4 * MIB, .max_value = 2 * MIB});
    for (; (rc = put(name(n), size)) == 0; n++)
        assert_true(n < 100000);
    expect(rc, -ENOSPC);
    assert_non_null(strstr(zp__fail_text(), place.data));
    assert_non_null(strstr(zp__fail_text(), "4194304"));
    assert_true(n * size > MIB / 5);
    for (unsigned i = 0, at = 0; i < n; i++, at = (at + 7919) % n)
        expect(erase(name(at)), 0);
    for (unsigned i = 0; i < 100; i++)
        expect(put(name(i), size < 10000 ? size : 10000), 0);
    stop();
}

static void
test_deleting_small(void **state)
{
    (void)state;
    delete_all(60);
}

static void
test_deleting_inline(void **state)
{
    (void)state;
    delete_all(1000);
}

static void
test_deleting_outside(void **state)
{
    (void)state;
    delete_all(3000);
}

/* Transactions of many chunks, passed by the ring, leave nothing: as much is
 * cleared as is added. */
static void
test_chunks_do_not_pile_up(void **state)
{
    uint64_t early = 0;
    unsigned rounds = (unsigned)(600 / zp_test_slow());

    (void)state;
    start(&(zp__limits){.log_revisions = 64});
    for (unsigned round = 0; round < rounds; round++) {
        zp__txn *txn = begin(false);
        memcpy(image, &round, sizeof round);
        for (unsigned i = 0; i < 1000; i++)
            expect(zp__txn_put(txn, "default", name(i), image, 40), 0);
        expect(zp__txn_commit(txn, NULL), 0);
        if (round == 80)
            early = used();
    }
    if (rounds > 80)
        assert_in_range(used(), 1, early + early / 4 + MIB);
    stop();
}

/* One transaction of very many keys, then the ring passes it: all of it is
 * gone in the end, and each commit on the way is right. */
static void
test_ring_passes_a_large_one(void **state)
{
    unsigned n = (unsigned)(100000 / zp_test_slow());
    uint64_t before;
    zp__item item;

    (void)state;
    start(&(zp__limits){.log_revisions = 64});
    expect(put("first", 10), 0);
    before = used();
    zp__txn *txn = begin(false);
    for (unsigned i = 0; i < n; i++)
        expect(zp__txn_put(txn, "default", name(i), image, 10), 0);
    expect(zp__txn_commit(txn, NULL), 0);
    txn = begin(true);
    for (unsigned i = 0; i < n; i++)
        expect(zp__txn_delete(txn, "default", name(i)), 0);
    expect(zp__txn_commit(txn, NULL), 0);
    for (unsigned i = 0; i < n / 128 + 200; i++)
        expect(put("first", 10 + i % 2), 0);
    expect(zp__view_begin(view), 0);
    expect(zp__view_get(view, "default", name(1), ZP__NEWEST, &item),
           ZP_ENOKEY);
    zp__view_end(view);
    assert_in_range(used(), 1, before + MIB / 2);
    stop();
}

/* Rows larger than the whole byte cap: the newest one is always kept. */
static void
test_tiny_log(void **state)
{
    uint64_t head, tail;
    zp__item item;

    (void)state;
    start(&(zp__limits){.log_revisions = 64, .log_bytes = 100});
    for (unsigned i = 1; i <= 200; i++) {
        image[0] = (unsigned char)i;
        expect(put("n", 1000), 0);
        expect(zp__view_begin(view), 0);
        expect(zp__view_range(view, &head, &tail), 0);
        assert_int_equal(head, i);
        assert_int_equal(tail, i);
        if (i > 1) {
            expect(zp__view_get(view, "default", "n", i - 1, &item), 0);
            assert_int_equal(*(unsigned char *)item.image,
                             (unsigned char)(i - 1));
        }
        zp__view_end(view);
    }
    stop();
}

/* Where an image changes its place, and the largest one. */
static void
test_sizes(void **state)
{
    static const size_t sizes[] = {0,
                                   1,
                                   ZP__INLINE - 1,
                                   ZP__INLINE,
                                   ZP__INLINE + 1,
                                   2 * MIB,
                                   ZP__KEPT - 1,
                                   ZP__KEPT,
                                   ZP__KEPT + 1,
                                   0};
    const unsigned n = sizeof sizes / sizeof *sizes;
    char key[ZP__KEY_MAX + 1];
    zp__item item;

    (void)state;
    memset(key, 'k', ZP__KEY_MAX);
    key[ZP__KEY_MAX] = '\0';
    start(&(zp__limits){.log_revisions = 64, .max_value = 2 * MIB});
    expect(put(key, 2 * MIB + 1), -EMSGSIZE);
    assert_non_null(strstr(zp__fail_text(), key));
    for (unsigned i = 0; i < n; i++) {
        memset(image, (int)i, sizes[i]);
        expect(put(key, sizes[i]), 0);
    }
    expect(zp__view_begin(view), 0);
    for (unsigned i = 0; i < n; i++) {
        expect(zp__view_get(view, "default", key, i + 1, &item), 0);
        assert_int_equal(item.size, sizes[i]);
        if (sizes[i] > ZP__KEPT && i + 1 < n) {
            assert_null(item.image);
            continue;
        }
        memset(image, (int)i, sizes[i]);
        assert_memory_equal(item.image, image, sizes[i]);
    }
    zp__view_end(view);
    stop();
}

/* What is too large to be kept does not hide the rest of the past. */
static void
test_lost_values(void **state)
{
    char key[ZP__KEY_MAX + 1];
    zp__item item;
    uint64_t n;

    (void)state;
    start(&(zp__limits){.log_revisions = 64, .max_value = 2 * MIB});
    expect(put("a", 10), 0);
    expect(put("b", 2 * MIB), 0);
    expect(put("c", 10), 0);
    expect(erase("b"), 0);
    expect(zp__view_begin(view), 0);
    expect(zp__view_length(view, "default", 3, &n), 0);
    assert_int_equal(n, 3);
    expect(zp__view_next(view, "default", "a", 3, key, &item), 1);
    assert_string_equal(key, "b");
    assert_null(item.image);
    assert_int_equal(item.size, 2 * MIB);
    expect(zp__view_next(view, "default", "b", 3, key, &item), 1);
    assert_string_equal(key, "c");
    assert_non_null(item.image);
    zp__view_end(view);
    stop();
}

/* A reader pins what is freed: that is not room. Sets are refused at the
 * limit, deletes still work; without it, all is well again. */
static void
test_pinned(void **state)
{
    unsigned i = 0;
    int rc;

    (void)state;
    start(&(zp__limits){.log_revisions = 64, .max_bytes = 4 * MIB});
    for (; i < 100; i++)
        expect(put(name(i), 100), 0);
    expect(zp__view_begin(view), 0);
    while ((rc = put("n", 100 + i % 2)) == 0)
        assert_true(i++ < 100000);
    expect(rc, -ENOSPC);
    assert_non_null(strstr(zp__fail_text(), place.data));
    assert_non_null(strstr(zp__fail_text(), "4194304"));
    for (i = 0; i < 5; i++)
        expect(erase(name(i)), 0);
    zp__view_end(view);
    for (i = 0; i < 100; i++)
        expect(put("n", 100 + i), 0);
    stop();
}

/* A reader that died does so only until somebody looks. */
static int
die_reading(void *user)
{
    zp__store *mine;
    zp__view *reading;

    (void)user;
    zp__fork_settle();
    if (zp__store_open(&mine, &place) != 0 ||
        zp__view_new(&reading, mine) != 0 || zp__view_begin(reading) != 0)
        return 1;
    _exit(0);
}

static void
test_pinned_by_the_dead(void **state)
{
    (void)state;
    start(&(zp__limits){.log_revisions = 64, .max_bytes = 2 * MIB});
    expect(put("n", 100), 0);
    assert_int_equal(zp_test_wait(zp_test_fork(die_reading, NULL), 10), 0);
    for (unsigned i = 0; i < 3000; i++)
        expect(put("n", 100 + i % 2), 0);
    stop();
}

/* Large values put over and over in one transaction: LMDB does not use their
 * pages again before it ends. It is the limit that refuses, not the map. */
static void
test_large_over_and_over(void **state)
{
    unsigned n = 0;
    zp__txn *txn;
    int rc = 0;

    (void)state;
    start(&(zp__limits){.log_revisions = 64, .max_bytes = 16 * MIB});
    expect(put("n", MIB), 0);
    txn = begin(false);
    while (rc == 0 && n < 100) {
        memcpy(image, &n, sizeof n);
        rc = zp__txn_put(txn, "default", "n", image, MIB);
        n++;
    }
    expect(rc, -ENOSPC);
    if (strstr(zp__fail_text(), "16777216") == NULL)
        fail_msg("%s", zp__fail_text());
    expect(zp__txn_put(txn, "default", "small", image, 10), 0);
    expect(zp__txn_commit(txn, NULL), 0);
    /* taken back with a nested transaction they cost nothing */
    txn = begin(false);
    for (n = 0; n < 40; n++) {
        expect(zp__txn_nest(txn), 0);
        expect(zp__txn_put(txn, "default", "n", image, MIB), 0);
        expect(zp__txn_unnest(txn, false), 0);
    }
    expect(zp__txn_commit(txn, NULL), 0);
    stop();
}

/* Fill it with values of SIZE, delete them, and again: free pages come and go,
 * and what sets leave for deleting is always there. */
static void
fill_and_delete(size_t size)
{
    unsigned n, rounds = zp_test_instrumented() ? 2 : 6;
    int rc;

    for (unsigned round = 0; round < rounds; round++) {
        for (n = 0; (rc = put(name(n), size)) == 0; n++)
            ;
        expect(rc, -ENOSPC);
        assert_true(used() <= 4 * MIB);
        for (unsigned k = round % 3; k < n; k++)
            expect(erase(name(k)), 0);
        for (unsigned k = 0; k < round % 3; k++)
            expect(erase(name(k)), 0);
    }
}

static void
test_full_and_empty_again(void **state)
{
    static const size_t sizes[] = {10000, 50000, 200000, 400000};

    (void)state;
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        start(&(zp__limits){.max_bytes = 4 * MIB});
        fill_and_delete(sizes[i]);
        stop();
    }
}

/* The map is smaller than the limit: then it is the limit. */
static void
test_small_map(void **state)
{
    unsigned n = 0;
    int rc;

    (void)state;
    start(&(zp__limits){
        .log_revisions = 64, .map_bytes = 4 * MIB, .max_bytes = 64 * MIB});
    while ((rc = put(name(n), 3000)) == 0)
        assert_true(n++ < 5000);
    expect(rc, -ENOSPC);
    assert_non_null(strstr(zp__fail_text(), "kept for deleting"));
    for (unsigned i = 0; i < n; i++)
        expect(erase(name(i)), 0);
    expect(put("n", 3000), 0);
    stop();
}

/* A nested transaction that fails does not take the outer one with it. */
static void
test_nested_fails_alone(void **state)
{
    zp__txn *txn;
    zp__item item;
    int rc = 0;

    (void)state;
    start(&(zp__limits){.log_revisions = 64, .max_bytes = 4 * MIB});
    txn = begin(false);
    expect(zp__txn_put(txn, "default", "outer", image, 10), 0);
    expect(zp__txn_nest(txn), 0);
    for (unsigned i = 0; rc == 0 && i < 5000; i++)
        rc = zp__txn_put(txn, "default", name(i), image, 3000);
    expect(rc, -ENOSPC);
    expect(zp__txn_unnest(txn, false), 0);
    expect(zp__txn_put(txn, "default", "after", image, 10), 0);
    expect(zp__txn_commit(txn, NULL), 0);
    expect(zp__view_begin(view), 0);
    expect(zp__view_get(view, "default", "outer", ZP__NEWEST, &item), 0);
    expect(zp__view_get(view, "default", "after", ZP__NEWEST, &item), 0);
    expect(zp__view_get(view, "default", name(0), ZP__NEWEST, &item),
           ZP_ENOKEY);
    zp__view_end(view);
    stop();
}

/* Nested transactions that write nothing cost nothing, however many keys the
 * outer one has touched. */
static void
test_empty_nested_are_cheap(void **state)
{
    unsigned n = (unsigned)(50000 / zp_test_slow());
    double began;
    zp__txn *txn;

    (void)state;
    start(&(zp__limits){.log_revisions = 64});
    txn = begin(false);
    for (unsigned i = 0; i < n; i++)
        expect(zp__txn_put(txn, "default", name(i), image, 10), 0);
    began = zp_test_now();
    for (unsigned i = 0; i < n; i++) {
        expect(zp__txn_nest(txn), 0);
        expect(zp__txn_delete(txn, "default", "absent"), ZP_ENOKEY);
        expect(zp__txn_unnest(txn, false), 0);
        expect(zp__txn_put(txn, "default", name(i), image, 11), 0);
    }
    if (!zp_test_instrumented())
        assert_true(zp_test_now() - began < 5);
    expect(zp__txn_commit(txn, NULL), 0);
    stop();
}

/* The board's hint of the head may be anything: a writer died before it wrote
 * it, or the page was damaged. The log tells. */
static void
test_any_hint(void **state)
{
    static const uint64_t hints[] = {
        0,         1,   2,   63,  64,  499, 500,     501,
        502,       510, 563, 564, 565, 800, 1000000, UINT64_MAX - 1,
        UINT64_MAX};
    uint64_t head, tail, revision = 500;

    (void)state;
    start(&(zp__limits){.log_revisions = 64});
    for (unsigned i = 0; i < revision; i++)
        expect(put("n", i), 0);
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        zp__shared *shared = zp__store_board(store)->shared;
        atomic_store(&shared->head, hints[i]);
        expect(zp__view_begin(view), 0);
        expect(zp__view_range(view, &head, &tail), 0);
        assert_int_equal(head, revision);
        assert_int_equal(tail, revision - 63);
        atomic_store(&shared->head, hints[i]);
        expect(put("n", i), 0);
        revision++;
        zp__view_end(view);
        expect(zp__view_begin(view), 0);
        expect(zp__view_range(view, &head, &tail), 0);
        assert_int_equal(head, revision);
        zp__view_end(view);
    }
    stop();
}

static int
put_elsewhere(void *user)
{
    (void)user;
    zp__fork_settle();
    if (zp__store_open(&store, &place) != 0)
        return 1;
    return put("theirs", 20) == 0 ? 0 : 2;
}

/* A commit that changes nothing does not count for LMDB: what another process
 * commits next must be seen. */
static void
test_commit_of_nothing(void **state)
{
    uint64_t head, tail;

    (void)state;
    start(&(zp__limits){.log_revisions = 64});
    expect(put("ours", 20), 0);
    expect(zp__store_delete_record(store, 12345, 5), 0); /* there is none */
    assert_int_equal(zp_test_wait(zp_test_fork(put_elsewhere, NULL), 10), 0);
    expect(put("ours", 21), 0);
    expect(zp__view_begin(view), 0);
    expect(zp__view_range(view, &head, &tail), 0);
    assert_int_equal(head, 3);
    zp__view_end(view);
    stop();
}

/* A durable state keeps its own limits, however small those are that it is
 * opened with, and opens on a disk where no new one could be made. */
static void
test_old_state_with_small_limits(void **state)
{
    zp__limits limits = {.log_revisions = 64, .max_bytes = 16 * MIB};
    zp__item item;
    unsigned n = 0;

    (void)state;
    image = calloc(8, MIB);
    for (int round = 0; round < 3; round++) {
        assert_int_equal(zp__place_new(&place, NULL, zp_test_path("durable")),
                         0);
        expect(zp__board_create(&place), 0);
        expect(zp__store_create(&place, &limits), 0);
        expect(zp__place_publish(&place), 0);
        expect(zp__store_open(&store, &place), 0);
        expect(zp__view_new(&view, store), 0);
        assert_true(zp__store_limits(store)->max_bytes == 16 * MIB);
        for (unsigned i = 0; i < 100; i++)
            expect(put(name(n++), 40000), 0);
        expect(zp__view_begin(view), 0);
        expect(zp__view_get(view, "default", name(0), ZP__NEWEST, &item), 0);
        zp__view_end(view);
        view = zp__view_free(view);
        store = zp__store_close(store);
        zp__place_remove(&place);
        limits.max_bytes = round == 0 ? MIB : 1000;
    }
    free(image);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_ranges),
        ZP_TEST(test_limits_are_kept),
        ZP_TEST(test_log_gives_way),
        ZP_TEST(test_log_leaves_room),
        ZP_TEST(test_log_of_large_values_gives_way),
        ZP_TEST(test_deleting_small),
        ZP_TEST(test_deleting_inline),
        ZP_TEST(test_deleting_outside),
        ZP_TEST(test_chunks_do_not_pile_up),
        ZP_TEST(test_ring_passes_a_large_one),
        ZP_TEST(test_tiny_log),
        ZP_TEST(test_sizes),
        ZP_TEST(test_lost_values),
        ZP_TEST(test_pinned),
        ZP_TEST(test_pinned_by_the_dead),
        ZP_TEST(test_large_over_and_over),
        ZP_TEST(test_full_and_empty_again),
        ZP_TEST(test_small_map),
        ZP_TEST(test_nested_fails_alone),
        ZP_TEST(test_empty_nested_are_cheap),
        ZP_TEST(test_any_hint),
        ZP_TEST(test_commit_of_nothing),
        ZP_TEST(test_old_state_with_small_limits),
    };
    return zp_test_main("store_limits", tests, sizeof tests / sizeof *tests,
                        60);
}
