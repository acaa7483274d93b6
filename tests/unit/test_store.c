/*
 * The store against a model: random transactions, nested ones among them, are
 * applied to the store and to an array that remembers every revision; then any
 * retained revision, any log row and the counts must be what the array says.
 * The seed is printed when a case fails; ZP_TEST_SEED sets it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zp.h>

#include "core/error.h"
#include "core/store.h"
#include "tests/support/zp_test.h"

#define NAMESPACES 2
#define KEYS 400
#define FEW 12 /* keys that most transactions use */
#define REVISIONS 4000
#define LARGE (1200 * 1000) /* above what is kept when replaced */

static const char *const ns_names[NAMESPACES] = {"default", "other"};

typedef struct cell {
    uint32_t seed; /* 0: absent */
    uint32_t size;
    uint64_t created;
} cell;

typedef struct model {
    cell cells[NAMESPACES][KEYS];
    bool written[NAMESPACES][KEYS]; /* in the transaction that made it */
} model;

typedef struct world {
    zp__place place;
    zp__store *store;
    zp__view *view;
    model *history[REVISIONS];
    uint64_t head;
    unsigned seed;
} world;

static unsigned char *image_buffer;

static unsigned
pick(world *w, unsigned n)
{
    w->seed = w->seed * 1103515245u + 12345u;
    return (w->seed >> 8) % n;
}

static const char *
key_name(unsigned key)
{
    static char name[4][32];
    static unsigned turn;
    char *out = name[turn++ % 4];

    snprintf(out, sizeof name[0], "key-%03u", key);
    return out;
}

/* The store does not look into images: any bytes will do. */
static const void *
fill_image(const cell *c)
{
    uint32_t x = c->seed;

    for (uint32_t i = 0; i < c->size; i++) {
        x = x * 1664525u + 1013904223u;
        image_buffer[i] = (unsigned char)(x >> 24);
    }
    return image_buffer;
}

static void
start(world *w, const zp__limits *limits)
{
    const char *seed = getenv("ZP_TEST_SEED");

    memset(w, 0, sizeof *w);
    w->seed = seed ? (unsigned)atoi(seed) : (unsigned)time(NULL) ^ getpid();
    print_message("# seed %u\n", w->seed);
    image_buffer = calloc(1, LARGE + 10);
    assert_int_equal(zp__place_new(&w->place, NULL, NULL), 0);
    assert_int_equal(zp__board_create(&w->place), 0);
    assert_int_equal(zp__store_create(&w->place, limits), 0);
    assert_int_equal(zp__place_publish(&w->place), 0);
    assert_int_equal(zp__store_open(&w->store, &w->place), 0);
    assert_int_equal(zp__view_new(&w->view, w->store), 0);
    w->history[0] = calloc(1, sizeof(model));
}

static void
stop(world *w)
{
    zp__view_free(w->view);
    zp__store_close(w->store);
    zp__place_remove(&w->place);
    for (uint64_t i = 0; i <= w->head; i++)
        free(w->history[i]);
    free(image_buffer);
}

/* ---- random transactions ---- */

static uint32_t
random_size(world *w)
{
    unsigned dice = pick(w, 1000);

    if (dice < 850)
        return 9 + pick(w, 100);
    if (dice < 950)
        return 1790 + pick(w, 20);
    return dice < 999 ? 3000 + pick(w, 9000) : LARGE;
}

static void
one_put(world *w, zp__txn *txn, model *m, unsigned ns, unsigned key)
{
    cell *c = &m->cells[ns][key];
    cell next = {1 + pick(w, 1u << 20), random_size(w), c->created};

    if (c->seed != 0 && pick(w, 5) == 0)
        next = *c; /* an equal value */
    if (c->seed == 0)
        next.created = zp__txn_revision(txn);
    assert_int_equal(zp__txn_put(txn, ns_names[ns], key_name(key),
                                 fill_image(&next), next.size),
                     0);
    *c = next;
    m->written[ns][key] = true;
}

static void
one_delete(zp__txn *txn, model *m, unsigned ns, unsigned key)
{
    int rc = zp__txn_delete(txn, ns_names[ns], key_name(key));

    if (m->cells[ns][key].seed == 0) {
        assert_int_equal(rc, ZP_ENOKEY);
        return;
    }
    assert_int_equal(rc, 0);
    memset(&m->cells[ns][key], 0, sizeof(cell));
    m->written[ns][key] = true;
}

static void
some_writes(world *w, zp__txn *txn, model *m, int depth)
{
    unsigned n = pick(w, 4);
    unsigned keys = FEW;

    if (depth == 0 && pick(w, 60) == 0) {
        n = 300 + pick(w, 200); /* several chunks */
        keys = KEYS;
    }
    while (n-- > 0) {
        unsigned ns = pick(w, NAMESPACES), key = pick(w, keys);
        if (pick(w, 3) == 0)
            one_delete(txn, m, ns, key);
        else
            one_put(w, txn, m, ns, key);
    }
    if (depth < 3 && pick(w, 4) == 0) {
        model *inner = malloc(sizeof *inner);
        bool commit = pick(w, 2);
        *inner = *m;
        assert_int_equal(zp__txn_nest(txn), 0);
        some_writes(w, txn, inner, depth + 1);
        assert_int_equal(zp__txn_unnest(txn, commit), 0);
        if (commit)
            *m = *inner;
        free(inner);
        some_writes(w, txn, m, depth + 1);
    }
}

static bool
is_changed(const model *before, const model *after, unsigned ns, unsigned key)
{
    return after->written[ns][key] && (before->cells[ns][key].seed != 0 ||
                                       after->cells[ns][key].seed != 0);
}

static bool
any_change(const model *before, const model *after)
{
    for (unsigned ns = 0; ns < NAMESPACES; ns++)
        for (unsigned key = 0; key < KEYS; key++)
            if (is_changed(before, after, ns, key))
                return true;
    return false;
}

static void
one_transaction(world *w)
{
    const model *before = w->history[w->head];
    model *m = malloc(sizeof *m);
    zp__txn *txn;
    uint64_t revision;

    *m = *before;
    memset(m->written, 0, sizeof m->written);
    assert_int_equal(zp__txn_begin(w->store, &txn, 7, 5, 0, false), 0);
    assert_true(zp__in_txn());
    assert_int_equal(zp__txn_revision(txn), w->head + 1);
    some_writes(w, txn, m, 0);
    if (pick(w, 10) == 0) {
        zp__txn_abort(txn);
        free(m);
        return;
    }
    int rc = zp__txn_commit(txn, &revision);
    if (rc != 0)
        print_message("# %s\n", zp__fail_text());
    assert_int_equal(rc, 0);
    assert_false(zp__in_txn());
    if (!any_change(before, m)) {
        assert_int_equal(revision, w->head);
        free(m);
        return;
    }
    assert_int_equal(revision, w->head + 1);
    w->history[++w->head] = m;
}

/* ---- what must hold ---- */

static void
check_item(const cell *c, int rc, const zp__item *item, bool newest)
{
    if (c->seed == 0) {
        assert_int_equal(rc, ZP_ENOKEY);
        return;
    }
    if (rc != 0)
        print_message("# %s\n", zp__fail_text());
    assert_int_equal(rc, 0);
    assert_int_equal(item->size, c->size);
    assert_int_equal(item->created, c->created);
    if (item->image == NULL) /* not kept */
        assert_true(c->size == LARGE && !newest);
    else
        assert_memory_equal(item->image, fill_image(c), c->size);
}

static void
check_revision(world *w, uint64_t revision)
{
    const model *m = w->history[revision];
    bool newest = revision == w->head;
    uint64_t as = newest && pick(w, 2) ? ZP__NEWEST : revision;

    for (unsigned ns = 0; ns < NAMESPACES; ns++) {
        char key[ZP__KEY_MAX + 1];
        const char *after = NULL;
        uint64_t length = 0, counted;
        zp__item item;
        for (unsigned i = 0; i < KEYS; i++) {
            const cell *c = &m->cells[ns][i];
            int rc =
                zp__view_get(w->view, ns_names[ns], key_name(i), as, &item);
            check_item(c, rc, &item, newest);
            if (c->seed == 0)
                continue;
            length++;
            rc = zp__view_next(w->view, ns_names[ns], after, as, key, &item);
            assert_int_equal(rc, 1);
            assert_string_equal(key, key_name(i));
            after = key;
        }
        assert_int_equal(
            zp__view_next(w->view, ns_names[ns], after, as, key, &item), 0);
        assert_int_equal(zp__view_length(w->view, ns_names[ns], as, &counted),
                         0);
        assert_int_equal(counted, length);
    }
}

static void
check_row(world *w, uint64_t revision)
{
    const model *before = w->history[revision - 1];
    const model *after = w->history[revision];
    zp__row row;
    uint32_t i = 0;

    assert_int_equal(zp__view_row(w->view, revision, &row), 0);
    assert_int_equal(row.writer, 7);
    assert_int_equal(row.pid, getpid());
    for (unsigned ns = 0; ns < NAMESPACES; ns++) {
        for (unsigned key = 0; key < KEYS; key++) {
            const cell *a = &before->cells[ns][key];
            const cell *b = &after->cells[ns][key];
            zp__log_change change;
            unsigned flags = 0;
            if (!is_changed(before, after, ns, key))
                continue;
            if (a->seed == 0)
                flags |= ZP_CREATED;
            if (b->seed == 0)
                flags |= ZP_DELETED;
            if (a->seed != 0 && a->seed == b->seed && a->size == b->size)
                flags |= ZP_IDENTICAL;
            assert_int_equal(zp__row_change(w->view, &row, i++, &change), 0);
            assert_string_equal(change.ns, ns_names[ns]);
            assert_string_equal(change.key, key_name(key));
            assert_int_equal(change.flags, flags);
        }
    }
    assert_int_equal(i, row.n);
}

static void
check(world *w, bool all)
{
    uint64_t head, tail;
    zp__item item;
    zp__row row;

    assert_int_equal(zp__view_begin(w->view), 0);
    assert_int_equal(zp__view_range(w->view, &head, &tail), 0);
    assert_int_equal(head, w->head);
    if (tail >= 2)
        assert_int_equal(
            zp__view_get(w->view, "default", "key-001", tail - 2, &item),
            ZP_EGONE);
    if (tail >= 2)
        assert_int_equal(zp__view_row(w->view, tail - 1, &row), ZP_EGONE);
    assert_int_equal(zp__view_row(w->view, head + 1, &row), -ERANGE);
    uint64_t first = all ? tail - 1 : head;
    if (!all && head >= tail)
        first = tail - 1 + pick(w, (unsigned)(head - tail + 2));
    for (uint64_t r = first; r <= head && (all || r == first); r++) {
        check_revision(w, r);
        if (r >= tail)
            check_row(w, r);
    }
    zp__view_end(w->view);
}

static void
run(const zp__limits *limits, unsigned transactions)
{
    world *w = malloc(sizeof *w);

    start(w, limits);
    for (unsigned i = 0; i < transactions; i++) {
        one_transaction(w);
        if (i % 8 == 0)
            check(w, false);
        if (i % 400 == 0)
            check(w, true);
    }
    check(w, true);
    stop(w);
    free(w);
}

static void
test_small_ring(void **state)
{
    (void)state;
    run(&(zp__limits){.log_revisions = 64, .max_value = 2 << 20},
        (unsigned)(2000 / zp_test_slow()));
}

static void
test_large_ring(void **state)
{
    (void)state;
    run(&(zp__limits){.log_revisions = 4096, .max_value = 2 << 20},
        (unsigned)(1000 / zp_test_slow()));
}

static void
test_byte_cap(void **state)
{
    (void)state;
    run(&(zp__limits){.log_revisions = 4096,
                      .log_bytes = 50000,
                      .max_value = 2 << 20},
        (unsigned)(2000 / zp_test_slow()));
}

/* All keys created and deleted over and over: nothing of them stays once the
 * log has forgotten. */
static void
test_nothing_grows(void **state)
{
    zp__limits limits = {.log_revisions = 64};
    world *w = malloc(sizeof *w);
    zp__usage early, late;
    zp__txn *txn;

    (void)state;
    start(w, &limits);
    for (unsigned round = 0; round < 600; round++) {
        char key[32];
        assert_int_equal(zp__txn_begin(w->store, &txn, 1, 5, 0, false), 0);
        for (unsigned i = 0; i < 20; i++) {
            snprintf(key, sizeof key, "passing-%u-%u", round, i);
            memset(image_buffer, 1, 4000);
            assert_int_equal(
                zp__txn_put(txn, "default", key, image_buffer, i * 200), 0);
        }
        assert_int_equal(zp__txn_commit(txn, NULL), 0);
        assert_int_equal(zp__txn_begin(w->store, &txn, 1, 5, 0, true), 0);
        for (unsigned i = 0; i < 20; i++) {
            snprintf(key, sizeof key, "passing-%u-%u", round, i);
            assert_int_equal(zp__txn_delete(txn, "default", key), 0);
        }
        assert_int_equal(zp__txn_commit(txn, NULL), 0);
        if (round == 100)
            assert_int_equal(zp__store_usage(w->store, &early), 0);
    }
    assert_int_equal(zp__store_usage(w->store, &late), 0);
    assert_in_range(late.used_bytes, 1, early.used_bytes + 65536);
    assert_in_range(late.log_bytes, 1, early.log_bytes + 65536);
    stop(w);
    free(w);
}

/* The limit: sets are refused with a text that names it, deletes go on, and
 * when enough is deleted (and forgotten) sets work again. */
static void
test_limit(void **state)
{
    zp__limits limits = {.log_revisions = 64, .max_bytes = 4 << 20};
    world *w = malloc(sizeof *w);
    zp__txn *txn;
    char key[32];
    unsigned n = 0;
    int rc;

    (void)state;
    start(w, &limits);
    for (;; n++) {
        snprintf(key, sizeof key, "fill-%u", n);
        memset(image_buffer, 1, 10000);
        rc = zp__txn_begin(w->store, &txn, 1, 5, 10000, false);
        if (rc != 0)
            break;
        rc = zp__txn_put(txn, "default", key, image_buffer, 10000);
        if (rc != 0) {
            zp__txn_abort(txn);
            break;
        }
        assert_int_equal(zp__txn_commit(txn, NULL), 0);
        assert_in_range(n, 0, 400);
    }
    assert_int_equal(rc, -ENOSPC);
    assert_non_null(strstr(zp__fail_text(), w->place.data));
    assert_non_null(strstr(zp__fail_text(), "4194304"));
    assert_in_range(n, 200, 400);
    for (unsigned i = 0; i < n; i++) {
        snprintf(key, sizeof key, "fill-%u", i);
        assert_int_equal(zp__txn_begin(w->store, &txn, 1, 5, 0, true), 0);
        assert_int_equal(zp__txn_delete(txn, "default", key), 0);
        rc = zp__txn_commit(txn, NULL);
        if (rc != 0)
            print_message("# %s\n", zp__fail_text());
        assert_int_equal(rc, 0);
    }
    for (unsigned i = 0; i < 100; i++) {
        rc = zp__txn_begin(w->store, &txn, 1, 5, 10000, false);
        if (rc != 0)
            print_message("# %s\n", zp__fail_text());
        assert_int_equal(rc, 0);
        assert_int_equal(
            zp__txn_put(txn, "default", "again", image_buffer, 10000 - i), 0);
        assert_int_equal(zp__txn_commit(txn, NULL), 0);
    }
    stop(w);
    free(w);
}

static void
test_names(void **state)
{
    char long_key[ZP__KEY_MAX + 2];

    (void)state;
    memset(long_key, 'x', sizeof long_key);
    long_key[ZP__KEY_MAX + 1] = '\0';
    assert_int_equal(zp__key_check(long_key), -EINVAL);
    assert_non_null(strstr(zp__fail_text(), "201"));
    long_key[ZP__KEY_MAX] = '\0';
    assert_int_equal(zp__key_check(long_key), 0);
    assert_int_equal(zp__key_check(""), -EINVAL);
    assert_int_equal(zp__key_check(NULL), -EINVAL);
    long_key[ZP__NS_MAX + 1] = '\0';
    assert_int_equal(zp__ns_check(long_key), -EINVAL);
    long_key[ZP__NS_MAX] = '\0';
    assert_int_equal(zp__ns_check(long_key), 0);
}

static void
test_deadlock_and_depth(void **state)
{
    zp__limits limits = {.log_revisions = 64};
    world *w = malloc(sizeof *w);
    zp__txn *txn, *second;
    int depth = 0;

    (void)state;
    start(w, &limits);
    assert_int_equal(zp__txn_begin(w->store, &txn, 1, 5, 0, false), 0);
    assert_int_equal(zp__txn_begin(w->store, &second, 1, 5, 0, false),
                     -EDEADLK);
    while (zp__txn_nest(txn) == 0)
        depth++;
    assert_in_range(depth, 8, 100);
    assert_int_equal(zp__txn_put(txn, "default", "k", "image", 5), 0);
    while (depth-- > 0)
        assert_int_equal(zp__txn_unnest(txn, true), 0);
    assert_int_equal(zp__txn_put(txn, "default", "big", "image", 2 << 20),
                     -EMSGSIZE);
    assert_int_equal(zp__txn_commit(txn, NULL), 0);
    stop(w);
    free(w);
}

static uint64_t
put_record(world *w, uint64_t id, size_t size, bool ended)
{
    assert_int_equal(
        zp__store_put_record(w->store, &id, image_buffer, size, ended, 5), 0);
    return id;
}

/* All records from the first on: how many; whether in order. */
static unsigned
walk_records(world *w, bool all, uint64_t *ret_first, size_t *ret_bytes)
{
    uint64_t id = 0, before = 0;
    const void *data;
    unsigned n = 0;
    size_t size;

    *ret_bytes = 0;
    assert_int_equal(zp__view_begin(w->view), 0);
    while ((all ? zp__view_next_record
                : zp__view_next_running)(w->view, id, &id, &data, &size) == 1) {
        assert_true(id > before);
        before = id;
        *ret_bytes += size;
        if (n++ == 0)
            *ret_first = id;
    }
    zp__view_end(w->view);
    return n;
}

static void
expect_record(world *w, uint64_t id, int expected, size_t expected_size)
{
    const void *data;
    size_t size = 0;

    assert_int_equal(zp__view_begin(w->view), 0);
    assert_int_equal(zp__view_record(w->view, id, &data, &size), expected);
    zp__view_end(w->view);
    assert_int_equal(size, expected_size);
}

/* Written, moved from the living to the dead and back, listed, deleted. */
static void
test_records(void **state)
{
    zp__limits limits = {.log_revisions = 64};
    world *w = malloc(sizeof *w);
    uint64_t ids[4], first = 0;
    size_t bytes;

    (void)state;
    start(w, &limits);
    for (int i = 0; i < 4; i++)
        ids[i] = put_record(w, 0, (size_t)i + 1, i == 2);
    assert_true(ids[0] > 0 && ids[1] > ids[0] && ids[2] > ids[1]);
    assert_int_equal(walk_records(w, true, &first, &bytes), 4);
    assert_int_equal(bytes, 1 + 2 + 3 + 4);
    assert_int_equal(walk_records(w, false, &first, &bytes), 3);
    assert_int_equal(bytes, 1 + 2 + 4);

    assert_int_equal(put_record(w, ids[0], 10, true), ids[0]);
    assert_int_equal(put_record(w, ids[2], 30, true), ids[2]);
    expect_record(w, ids[0], 0, 10);
    expect_record(w, ids[1], 0, 2);
    expect_record(w, ids[2], 0, 30);
    assert_int_equal(walk_records(w, true, &first, &bytes), 4);
    assert_int_equal(first, ids[0]);
    assert_int_equal(walk_records(w, false, &first, &bytes), 2);
    assert_int_equal(first, ids[1]);
    put_record(w, ids[0], 11, false);
    assert_int_equal(walk_records(w, false, &first, &bytes), 3);

    for (int i = 0; i < 4; i++)
        assert_int_equal(zp__store_delete_record(w->store, ids[i], 5), 0);
    assert_int_equal(walk_records(w, true, &first, &bytes), 0);
    expect_record(w, ids[2], ZP_EGONE, 0);
    expect_record(w, ids[3] + 1, ZP_ENOKEY, 0);
    expect_record(w, 0, ZP_ENOKEY, 0);
    stop(w);
    free(w);
}

/* The oldest of the ended ones go: by number, by bytes; what runs stays. */
static void
test_records_are_bounded(void **state)
{
    zp__limits limits = {.log_revisions = 64, .max_bytes = 8 << 20};
    world *w = malloc(sizeof *w);
    const size_t part = limits.max_bytes / ZP__RECORDS_PART;
    uint64_t running, id = 0, first = 0;
    size_t bytes;

    (void)state;
    start(w, &limits);
    running = put_record(w, 0, 100, false);
    for (int i = 0; i < ZP__RECORDS_ENDED + 50; i++)
        id = put_record(w, 0, 8, true);
    assert_int_equal(walk_records(w, true, &first, &bytes),
                     ZP__RECORDS_ENDED + 1);
    assert_int_equal(first, running);
    expect_record(w, id, 0, 8);
    expect_record(w, id - ZP__RECORDS_ENDED + 1, 0, 8);
    expect_record(w, id - ZP__RECORDS_ENDED, ZP_EGONE, 0);

    for (int i = 0; i < 40; i++)
        id = put_record(w, 0, part / 10, true);
    assert_int_equal(walk_records(w, true, &first, &bytes), 10 + 1);
    assert_true(bytes <= part + 100);
    expect_record(w, id, 0, part / 10);

    /* One too large by itself, and the oldest: the others go, it stays. */
    put_record(w, running, part + 1, true);
    expect_record(w, running, 0, part + 1);
    assert_int_equal(walk_records(w, true, &first, &bytes), 1);
    id = put_record(w, 0, 8, true);
    expect_record(w, running, ZP_EGONE, 0);
    assert_int_equal(walk_records(w, true, &first, &bytes), 1);
    stop(w);
    free(w);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_names),
        ZP_TEST(test_small_ring),
        ZP_TEST(test_large_ring),
        ZP_TEST(test_byte_cap),
        ZP_TEST(test_nothing_grows),
        ZP_TEST(test_limit),
        ZP_TEST(test_deadlock_and_depth),
        ZP_TEST(test_records),
        ZP_TEST(test_records_are_bounded),
    };
    return zp_test_main("store", tests, sizeof tests / sizeof *tests, 60);
}
