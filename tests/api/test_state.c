/*
 * The dict-like state: every function, on a live state, inside a transaction
 * and on a snapshot; missing keys, wrong types, defaults; namespaces.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zp.h>

#include "tests/support/zp_test.h"

static zp_ctx *ctx;
static zp_state *live;

static int
open_ctx(void **state)
{
    zp_ctx_options options = {.size = sizeof options, .log_revisions = 256};

    (void)state;
    int rc = zp_ctx_new(&ctx, &options);
    if (rc != 0)
        print_message("# %s: %s\n", zp_strerror(rc), zp_ctx_error(NULL));
    live = rc == 0 ? zp_ctx_state(ctx) : NULL;
    return rc;
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

static void
assert_error(int rc, int expected, const char *word)
{
    if (rc != expected)
        print_message("# %d: %s\n", rc, zp_ctx_error(ctx));
    assert_int_equal(rc, expected);
    if (strstr(zp_ctx_error(ctx), word) == NULL)
        fail_msg("'%s' is not in '%s'", word, zp_ctx_error(ctx));
}

/* Run FN on the live state and on a transaction. */
static int
in_txn(zp_state *txn, void *user)
{
    void (*fn)(zp_state *) = *(void (**)(zp_state *))user;

    fn(txn);
    return 0;
}

static void
on_both(void (*fn)(zp_state *))
{
    fn(live);
    assert_int_equal(zp_clear(live), 0);
    assert_int_equal(zp_atomic(live, in_txn, &fn), 0);
}

/* ---- types ---- */

static void
plain_types(zp_state *s)
{
    int64_t i;
    double d;
    char *text;
    void *bytes;
    size_t size;
    int b;

    assert_int_equal(zp_set_int(s, "i", INT64_MIN), 0);
    assert_int_equal(zp_get_int(s, "i", &i), 0);
    assert_true(i == INT64_MIN);
    assert_int_equal(zp_set_double(s, "d", -0.0), 0);
    assert_int_equal(zp_get_double(s, "d", &d), 0);
    assert_true(d == 0 && !signbit(d));
    assert_int_equal(zp_set_string(s, "s", "sm\303\266rg\303\245s"), 0);
    assert_int_equal(zp_get_string(s, "s", &text), 0);
    assert_string_equal(text, "sm\303\266rg\303\245s");
    free(text);
    assert_int_equal(zp_set_string(s, "s", ""), 0);
    assert_int_equal(zp_get_string(s, "s", &text), 0);
    assert_string_equal(text, "");
    free(text);
    assert_int_equal(zp_set_bytes(s, "b", "a\0b", 3), 0);
    assert_int_equal(zp_get_bytes(s, "b", &bytes, &size), 0);
    assert_int_equal(size, 3);
    assert_memory_equal(bytes, "a\0b", 4);
    free(bytes);
    assert_int_equal(zp_set_bytes(s, "b", NULL, 0), 0);
    assert_int_equal(zp_get_bytes(s, "b", &bytes, &size), 0);
    assert_int_equal(size, 0);
    free(bytes);
    assert_int_equal(zp_set_bool(s, "t", 17), 0);
    assert_int_equal(zp_get_bool(s, "t", &b), 0);
    assert_int_equal(b, 1);
    assert_int_equal(zp_set_none(s, "n"), 0);
    assert_int_equal(zp_type(s, "i"), ZP_INT);
    assert_int_equal(zp_type(s, "d"), ZP_DOUBLE);
    assert_int_equal(zp_type(s, "s"), ZP_STRING);
    assert_int_equal(zp_type(s, "b"), ZP_BYTES);
    assert_int_equal(zp_type(s, "t"), ZP_BOOL);
    assert_int_equal(zp_type(s, "n"), ZP_NONE);
}

static void
test_plain_types(void **state)
{
    (void)state;
    on_both(plain_types);
}

static void
formats(zp_state *s)
{
    struct {
        int32_t n;
        double x;
    } in = {3, 0.5}, out = {0, 0};
    uint16_t small = 65535, small_out = 0;
    uint64_t large = UINT64_MAX, large_out = 0;
    int16_t tight = 77;
    int32_t many[3] = {1, 2, 3}, many_out[3] = {0};
    const char *name = "n";
    char *name_out = NULL;

    assert_int_equal(zp_set(s, "v", "v", &small), 0);
    assert_int_equal(zp_get(s, "v", "v", &small_out), 0);
    assert_int_equal(small_out, 65535);
    assert_int_equal(zp_get(s, "v", "j", &tight), -ERANGE);
    assert_int_equal(tight, 77);
    assert_int_equal(zp_set(s, "U", "U", &large), 0);
    assert_int_equal(zp_get(s, "U", "U", &large_out), 0);
    assert_true(large_out == UINT64_MAX);
    assert_int_equal(zp_set(s, "S", "S(if)", &in), 0);
    assert_int_equal(zp_get(s, "S", "S(if)", &out), 0);
    assert_true(out.n == 3 && out.x == 0.5);
    assert_int_equal(zp_set(s, "#", "si#", &name, many, 3), 0);
    assert_int_equal(zp_type(s, "#"), ZP_COMPOSITE);
    assert_int_equal(zp_get(s, "#", "si#", &name_out, many_out, 3), 0);
    assert_string_equal(name_out, "n");
    free(name_out);
    assert_memory_equal(many, many_out, sizeof many);
    assert_int_equal(zp_get(s, "#", "si#", &name_out, many_out, 2), ZP_ETYPE);
    assert_int_equal(zp_get(s, "#", "ii#", &name_out, many_out, 3), ZP_ETYPE);
    assert_int_equal(zp_set(s, "bad", "q", &name), ZP_EFORMAT);
    assert_int_equal(zp_set(s, "bad", "A(i)", &name), ZP_EFORMAT);
    assert_int_equal(zp_contains(s, "bad"), 0);
}

static void
test_formats(void **state)
{
    (void)state;
    on_both(formats);
}

static void
wrong(zp_state *s)
{
    int64_t i = 42;
    char *text = (char *)1;
    int b = 9;

    assert_error(zp_get_int(s, "absent", &i), ZP_ENOKEY, "'absent'");
    assert_int_equal(zp_set_string(s, "text", "x"), 0);
    assert_error(zp_get_int(s, "text", &i), ZP_ETYPE, "'text'");
    assert_error(zp_get(s, "text", "i", &i), ZP_ETYPE, "string");
    assert_error(zp_get_bool(s, "text", &b), ZP_ETYPE, "string");
    assert_int_equal(i, 42);
    assert_int_equal(b, 9);
    assert_int_equal(zp_set_int(s, "n", 1), 0);
    assert_error(zp_get_string(s, "n", &text), ZP_ETYPE, "int");
    assert_true(text == (char *)1);
    assert_error(zp_set_int(s, "", 1), -EINVAL, "empty");
    assert_error(zp_set_int(s, NULL, 1), -EINVAL, "NULL");
    assert_error(zp_get_int(s, NULL, &i), -EINVAL, "NULL");
    assert_error(zp_get_int(s, "n", NULL), -EINVAL, "NULL");
    assert_error(zp_set_string(s, "n", NULL), -EINVAL, "NULL");
    assert_error(zp_set(s, "n", NULL), -EINVAL, "format");
    assert_error(zp_delete(s, "absent"), ZP_ENOKEY, "'absent'");
    char *large = calloc(1, (1 << 20) + 1);
    assert_error(zp_set_bytes(s, "n", large, (1 << 20) + 1), -EMSGSIZE, "'n'");
    free(large);
    assert_int_equal(zp_get_int(s, "n", &i), 0);
    assert_int_equal(i, 1);
}

static void
test_wrong(void **state)
{
    (void)state;
    on_both(wrong);
    assert_int_equal(zp_set_int(NULL, "x", 1), -EINVAL);
    assert_int_equal(zp_delete(NULL, "x"), -EINVAL);
    assert_int_equal(zp_iter_next(NULL, NULL, NULL), -EINVAL);
    assert_null(zp_state_free(NULL));
    assert_null(zp_iter_free(NULL));
}

/* ---- defaults, pop ---- */

static void
defaults(zp_state *s)
{
    int32_t n = 7;
    char *text = (char *)"default";

    assert_int_equal(zp_get_or(s, "n", "i", &n), 0);
    assert_int_equal(n, 7);
    assert_int_equal(zp_setdefault(s, "n", "i", &n), 1);
    n = 8;
    assert_int_equal(zp_setdefault(s, "n", "i", &n), 0);
    assert_int_equal(n, 7);
    assert_int_equal(zp_get_or(s, "n", "i", &n), 1);
    assert_int_equal(zp_get_or(s, "n", "s", &text), ZP_ETYPE);
    assert_error(zp_pop(s, "n", "s", &text), ZP_ETYPE, "'n'");
    assert_string_equal(text, "default");
    assert_int_equal(zp_contains(s, "n"), 1);
    n = 0;
    assert_int_equal(zp_pop(s, "n", "i", &n), 0);
    assert_int_equal(n, 7);
    assert_int_equal(zp_contains(s, "n"), 0);
    assert_error(zp_pop(s, "n", "i", &n), ZP_ENOKEY, "'n'");
    assert_int_equal(zp_pop_or(s, "n", "i", &n), 0);
    assert_int_equal(n, 7);
    assert_int_equal(zp_set_string(s, "t", "there"), 0);
    assert_int_equal(zp_pop_or(s, "t", "s", &text), 1);
    assert_string_equal(text, "there");
    free(text);
}

static void
test_defaults(void **state)
{
    (void)state;
    on_both(defaults);
}

static void
popitem(zp_state *s)
{
    static const char *const keys[] = {"m", "z", "a"};
    char *key;
    zp_value *value;
    int64_t i;

    for (int64_t n = 0; n < 3; n++)
        assert_int_equal(zp_set_int(s, keys[n], n), 0);
    assert_int_equal(zp_set_int(s, "m", 9), 0); /* not created again */
    for (int n = 2; n >= 0; n--) {
        assert_int_equal(zp_popitem(s, &key, &value), 0);
        assert_string_equal(key, keys[n]);
        assert_int_equal(zp_value_get(value, "I", &i), 0);
        assert_int_equal(i, n == 0 ? 9 : n);
        free(key);
        zp_value_free(value);
    }
    assert_error(zp_popitem(s, &key, &value), ZP_ENOKEY, "empty");
}

static void
test_popitem(void **state)
{
    (void)state;
    on_both(popitem);
}

/* ---- the namespace as a whole ---- */

static void
fill(zp_state *s, int from, int to)
{
    char key[16];

    for (int i = from; i < to; i++) {
        snprintf(key, sizeof key, "k%03d", i);
        assert_int_equal(zp_set_int(s, key, i), 0);
    }
}

static void
expect_keys(zp_state *s, int from, int to)
{
    zp_iter *iter;
    const char *key;
    const zp_value *value;
    char expected[16];
    uint64_t length;

    assert_int_equal(zp_length(s, &length), 0);
    assert_int_equal(length, to - from);
    assert_int_equal(zp_iter_new(s, &iter), 0);
    for (int i = from; i < to; i++) {
        int64_t n;
        assert_int_equal(zp_iter_next(iter, &key, &value), 1);
        snprintf(expected, sizeof expected, "k%03d", i);
        assert_string_equal(key, expected);
        assert_int_equal(zp_value_get(value, "I", &n), 0);
        assert_int_equal(n, i);
    }
    assert_int_equal(zp_iter_next(iter, &key, &value), 0);
    assert_int_equal(zp_iter_next(iter, &key, &value), 0);
    assert_null(zp_iter_free(iter));
}

static void
whole(zp_state *s)
{
    zp_value *one, *two;
    int64_t i = 1;

    expect_keys(s, 0, 0);
    fill(s, 0, 50);
    expect_keys(s, 0, 50);
    assert_int_equal(zp_value_new(&one, "I", &i), 0);
    i = 2;
    assert_int_equal(zp_value_new(&two, "I", &i), 0);
    zp_pair pairs[] = {{"x", one}, {"y", two}, {"x", two}};
    assert_int_equal(zp_update(s, pairs, 3), 0);
    assert_int_equal(zp_get_int(s, "x", &i), 0);
    assert_int_equal(i, 2);
    zp_pair bad[] = {{"p", one}, {"", two}};
    assert_int_equal(zp_update(s, bad, 2), -EINVAL);
    assert_int_equal(zp_contains(s, "p"), 0);
    zp_value_free(one);
    zp_value_free(two);
    assert_int_equal(zp_clear(s), 0);
    expect_keys(s, 0, 0);
    assert_int_equal(zp_clear(s), 0);
}

static void
test_whole(void **state)
{
    (void)state;
    on_both(whole);
}

static void
test_one_change_each(void **state)
{
    zp_state *other, *snapshot;
    uint64_t before, after;

    (void)state;
    fill(live, 0, 20);
    assert_int_equal(zp_state_clone(live, &other, "other"), 0);
    assert_string_equal(zp_state_ns(other), "other");
    assert_ptr_equal(zp_state_ctx(other), ctx);
    fill(other, 10, 30);
    assert_int_equal(zp_equal(live, other), 0);
    assert_int_equal(zp_snapshot(live, &snapshot), 0);
    assert_int_equal(zp_equal(live, snapshot), 1);

    assert_int_equal(zp_revision(live, &before), 0);
    assert_int_equal(zp_update_from(live, other), 0);
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + 1);
    expect_keys(live, 0, 30);
    expect_keys(snapshot, 0, 20);

    assert_int_equal(zp_replace(live, other), 0);
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + 2);
    expect_keys(live, 10, 30);
    assert_int_equal(zp_equal(live, other), 1);
    assert_int_equal(zp_replace(live, other), 0); /* nothing to do */
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + 2);
    assert_int_equal(zp_replace(live, snapshot), 0);
    expect_keys(live, 0, 20);
    expect_keys(other, 10, 30);

    assert_int_equal(zp_clear(live), 0);
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + 4);
    expect_keys(snapshot, 0, 20);
    assert_null(zp_state_free(snapshot));
    assert_null(zp_state_free(other));
}

/* ---- snapshots ---- */

static void
test_snapshots(void **state)
{
    zp_state *snapshots[100], *late;
    uint64_t first, revision;
    int64_t i;

    (void)state;
    assert_int_equal(zp_set_int(live, "n", 0), 0);
    assert_int_equal(zp_revision(live, &first), 0);
    for (int n = 1; n < 100; n++)
        assert_int_equal(zp_set_int(live, "n", n), 0);
    for (int n = 0; n < 100; n++) {
        assert_int_equal(zp_at(live, &snapshots[n], first + (uint64_t)n), 0);
        assert_int_equal(zp_revision(snapshots[n], &revision), 0);
        assert_int_equal(revision, first + (uint64_t)n);
    }
    /* they stay exact when the log has long forgotten them */
    for (int n = 0; n < 2000; n++)
        assert_int_equal(zp_set_int(live, "n", -n), 0);
    for (int n = 0; n < 100; n++) {
        assert_int_equal(zp_get_int(snapshots[n], "n", &i), 0);
        assert_int_equal(i, n);
        assert_error(zp_set_int(snapshots[n], "n", 1), -EROFS, "snapshot");
        assert_int_equal(zp_delete(snapshots[n], "n"), -EROFS);
        assert_int_equal(zp_clear(snapshots[n]), -EROFS);
    }
    assert_error(zp_at(live, &late, first), ZP_EGONE, "oldest");
    assert_error(zp_at(live, &late, first + 100000), -ERANGE, "newest");
    assert_error(zp_snapshot(snapshots[5], &late), ZP_EGONE, "oldest");
    for (int n = 0; n < 100; n++)
        assert_null(zp_state_free(snapshots[n]));
}

/* A value too large to be kept hides nothing but itself. */
static void
test_lost_value(void **state)
{
    static const char *const keys[] = {"a", "b", "c"};
    zp_ctx_options options = {.size = sizeof options, .max_value = 4 << 20};
    char *large = calloc(1, 2 << 20);
    zp_ctx *other;
    zp_state *s, *snapshot;
    zp_iter *iter;
    const char *key;
    const zp_value *value;
    uint64_t revision, length;
    void *bytes = NULL;
    size_t size = 0;

    (void)state;
    assert_int_equal(zp_ctx_new(&other, &options), 0);
    s = zp_ctx_state(other);
    assert_int_equal(zp_set_int(s, "a", 1), 0);
    assert_int_equal(zp_set_bytes(s, "b", large, 2 << 20), 0);
    assert_int_equal(zp_set_int(s, "c", 3), 0);
    free(large);
    assert_int_equal(zp_revision(s, &revision), 0);
    assert_int_equal(zp_set_int(s, "b", 2), 0);
    assert_int_equal(zp_at(s, &snapshot, revision), 0);
    assert_int_equal(zp_contains(snapshot, "b"), 1);
    assert_int_equal(zp_length(snapshot, &length), 0);
    assert_int_equal(length, 3);
    assert_int_equal(zp_get_bytes(snapshot, "b", &bytes, &size), ZP_EGONE);
    assert_non_null(strstr(zp_ctx_error(other), "'b'"));
    assert_null(bytes);
    assert_int_equal(zp_type(snapshot, "b"), ZP_EGONE);
    assert_int_equal(zp_equal(s, snapshot), 0);
    assert_int_equal(zp_equal(snapshot, snapshot), ZP_EGONE);
    assert_int_equal(zp_replace(s, snapshot), ZP_EGONE);
    assert_int_equal(zp_iter_new(snapshot, &iter), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(zp_iter_next(iter, &key, NULL), 1);
        assert_string_equal(key, keys[i]);
    }
    assert_int_equal(zp_iter_next(iter, &key, NULL), 0);
    zp_iter_free(iter);
    assert_int_equal(zp_iter_new(snapshot, &iter), 0);
    assert_int_equal(zp_iter_next(iter, &key, &value), 1);
    assert_int_equal(zp_iter_next(iter, &key, &value), ZP_EGONE);
    assert_int_equal(zp_iter_next(iter, &key, &value), 1); /* goes on */
    assert_string_equal(key, "c");
    zp_iter_free(iter);
    zp_state_free(snapshot);
    zp_ctx_free(other);
}

/* ---- two namespaces at one moment ---- */

#define TOGETHER 20000

static int
set_both(zp_state *txn, void *user)
{
    zp_state *second;
    int rc = zp_state_clone(txn, &second, "second");

    if (rc == 0)
        rc = zp_set_int(txn, "k", *(int *)user);
    if (rc == 0)
        rc = zp_set_int(second, "k", *(int *)user);
    zp_state_free(second);
    return rc;
}

static int
write_both(void *user)
{
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, user, NULL) != 0)
        return 1;
    for (int i = 0; i < TOGETHER; i++)
        if (zp_atomic(zp_ctx_state(mine), set_both, &i) != 0)
            return 2;
    zp_ctx_free(mine);
    return 0;
}

static void
test_equal_at_one_moment(void **state)
{
    zp_state *second;
    uint64_t revision = 0;
    int i = -1;

    (void)state;
    assert_int_equal(zp_state_clone(live, &second, "second"), 0);
    assert_int_equal(zp_atomic(live, set_both, &i), 0);
    pid_t pid = zp_test_fork(write_both, (void *)zp_ctx_address(ctx));
    while (revision < TOGETHER) {
        for (i = 0; i < 100; i++)
            assert_int_equal(zp_equal(live, second), 1);
        assert_int_equal(zp_revision(live, &revision), 0);
    }
    assert_int_equal(zp_test_wait(pid, 30), 0);
    assert_int_equal(zp_set_int(second, "k", -5), 0);
    assert_int_equal(zp_equal(live, second), 0);
    zp_state_free(second);
}

static int
iterate_and_write(zp_state *txn, void *user)
{
    zp_iter *iter;
    zp_state *snapshot;
    const char *key;

    (void)user;
    fill(txn, 0, 5);
    assert_int_equal(zp_iter_new(txn, &iter), 0);
    assert_int_equal(zp_iter_next(iter, &key, NULL), 1);
    assert_int_equal(zp_iter_next(iter, NULL, NULL), 1);
    assert_int_equal(zp_set_int(txn, "k001", 5), 0);
    assert_error(zp_iter_next(iter, &key, NULL), -ESTALE, "written");
    zp_iter_free(iter);
    assert_int_equal(zp_snapshot(txn, &snapshot), -EINVAL);
    return 0;
}

static void
test_iterators_hold(void **state)
{
    zp_iter *iter;
    const char *key;
    int n = 0;

    (void)state;
    fill(live, 0, 100);
    assert_int_equal(zp_iter_new(live, &iter), 0);
    while (zp_iter_next(iter, &key, NULL) == 1) {
        n++;
        assert_int_equal(zp_delete(live, key), 0);
        fill(live, 200 + n, 201 + n);
    }
    assert_int_equal(n, 100);
    zp_iter_free(iter);
    assert_int_equal(zp_atomic(live, iterate_and_write, NULL), 0);
}

static void
test_values(void **state)
{
    unsigned char image[64] = "tpl";
    zp_value *value, *again;
    zp_tpl *tpl;
    const char *text = "text";
    int32_t element;

    (void)state;
    assert_int_equal(zp_value_new_image(&value, image, 20), ZP_EVALUE);
    assert_int_equal(zp_tpl_new(&tpl, "A(i)", &element), 0);
    for (element = 0; element < 1000; element++)
        assert_int_equal(zp_tpl_pack(tpl, 1), 0);
    assert_int_equal(zp_tpl_value(tpl, &value), 0);
    assert_int_equal(zp_set_value(live, "array", value), 0);
    element = 1000;
    assert_int_equal(zp_append(live, "array", "i", &element), 0);
    assert_int_equal(zp_append(live, "array", "s", &text), ZP_ETYPE);
    assert_int_equal(zp_get_value(live, "array", &again), 0);
    assert_int_equal(zp_value_equal(value, again), 0);
    assert_int_equal(zp_tpl_load(tpl, again), 0);
    assert_int_equal(zp_tpl_unpack(tpl, 0), 1);
    for (int i = 0; i <= 1000; i++) {
        assert_true(zp_tpl_unpack(tpl, 1) > 0);
        assert_int_equal(element, i);
    }
    assert_int_equal(zp_tpl_unpack(tpl, 1), 0);
    zp_tpl_free(tpl);
    zp_value_free(value);
    zp_value_free(again);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_plain_types, open_ctx, close_ctx),
        ZP_TEST_WITH(test_formats, open_ctx, close_ctx),
        ZP_TEST_WITH(test_wrong, open_ctx, close_ctx),
        ZP_TEST_WITH(test_defaults, open_ctx, close_ctx),
        ZP_TEST_WITH(test_popitem, open_ctx, close_ctx),
        ZP_TEST_WITH(test_whole, open_ctx, close_ctx),
        ZP_TEST_WITH(test_one_change_each, open_ctx, close_ctx),
        ZP_TEST_WITH(test_snapshots, open_ctx, close_ctx),
        ZP_TEST_WITH(test_iterators_hold, open_ctx, close_ctx),
        ZP_TEST(test_lost_value),
        ZP_TEST_WITH(test_equal_at_one_moment, open_ctx, close_ctx),
        ZP_TEST_WITH(test_values, open_ctx, close_ctx),
    };
    return zp_test_main("state", tests, sizeof tests / sizeof *tests, 30);
}
