/*
 * Atomic operations: exactly once, all or nothing, nested, refused where they
 * would wait for themselves; the ready-made ones; several processes at once.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

static zp_ctx *ctx;
static zp_state *live;

static int
open_ctx(void **state)
{
    (void)state;
    int rc = zp_ctx_new(&ctx, NULL);
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

static int64_t
value_of(const char *key)
{
    int64_t value;

    assert_int_equal(zp_get_int(live, key, &value), 0);
    return value;
}

static int
set_two(zp_state *txn, void *user)
{
    int64_t mine;

    assert_int_equal(zp_set_int(txn, "a", 1), 0);
    assert_int_equal(zp_set_int(txn, "b", 2), 0);
    assert_int_equal(zp_get_int(txn, "a", &mine), 0);
    assert_int_equal(mine, 1);
    assert_int_equal(zp_contains(live, "a"), 0); /* nobody else sees it */
    return *(int *)user;
}

static void
test_all_or_nothing(void **state)
{
    uint64_t before, after;
    int rc = -ECANCELED;

    (void)state;
    assert_int_equal(zp_revision(live, &before), 0);
    assert_int_equal(zp_atomic(live, set_two, &rc), -ECANCELED);
    assert_int_equal(zp_contains(live, "a"), 0);
    assert_int_equal(zp_contains(live, "b"), 0);
    assert_true(strlen(zp_ctx_error(ctx)) > 0);
    rc = 5;
    assert_int_equal(zp_atomic(live, set_two, &rc), 5);
    assert_int_equal(value_of("b"), 2);
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + 1);
}

static int
fail_inside(zp_state *txn, void *user)
{
    (void)user;
    assert_int_equal(zp_set_int(txn, "a", 100), 0);
    assert_int_equal(zp_delete(txn, "b"), 0);
    assert_int_equal(zp_set_int(txn, "c", 100), 0);
    return -1;
}

static int
use_outer(zp_state *txn, void *user)
{
    int64_t value;

    (void)txn;
    assert_int_equal(zp_set_int(user, "x", 1), -EDEADLK);
    assert_int_equal(zp_get_int(user, "x", &value), -EDEADLK);
    return 3;
}

static int
nest(zp_state *txn, void *user)
{
    zp_state *other;
    int depth = (*(int *)user)++;
    int64_t value;

    assert_int_equal(zp_set_int(txn, "a", depth), 0);
    assert_int_equal(zp_set_int(txn, "b", depth), 0);
    assert_int_equal(zp_atomic(txn, fail_inside, NULL), -1);
    assert_int_equal(zp_get_int(txn, "a", &value), 0);
    assert_int_equal(value, depth);
    assert_int_equal(zp_get_int(txn, "b", &value), 0);
    assert_int_equal(zp_contains(txn, "c"), 0);
    assert_int_equal(zp_atomic(txn, use_outer, txn), 3);
    assert_int_equal(zp_state_clone(txn, &other, "other"), 0);
    assert_int_equal(zp_set_int(other, "a", depth), 0);
    assert_null(zp_state_free(other));
    return depth < 10 ? zp_atomic(txn, nest, user) : depth;
}

static void
test_nested(void **state)
{
    uint64_t before, after;
    zp_state *other;
    int64_t value;
    int depth = 0;

    (void)state;
    assert_int_equal(zp_revision(live, &before), 0);
    assert_int_equal(zp_atomic(live, nest, &depth), 10);
    assert_int_equal(value_of("a"), 10);
    assert_int_equal(value_of("b"), 10);
    assert_int_equal(zp_contains(live, "c"), 0);
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + 1);
    assert_int_equal(zp_state_clone(live, &other, "other"), 0);
    assert_int_equal(zp_get_int(other, "a", &value), 0);
    assert_int_equal(value, 10);
    zp_state_free(other);
}

static int
nothing(zp_ctx *child, void *arg)
{
    (void)child;
    (void)arg;
    return 0;
}

static int
forbidden(zp_state *txn, void *user)
{
    zp_state *second = user;
    zp_proc *proc;

    (void)txn;
    assert_int_equal(zp_set_int(live, "x", 1), -EDEADLK);
    assert_int_equal(zp_set_int(second, "x", 1), -EDEADLK);
    assert_int_equal(zp_atomic(live, forbidden, NULL), -EDEADLK);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, nothing, NULL), -EDEADLK);
    assert_int_equal(zp_run(ctx), -EDEADLK);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, 1), -EDEADLK);
    return 0;
}

static int
keep_handle(zp_state *txn, void *user)
{
    return zp_state_clone(txn, user, NULL);
}

static void
test_refused(void **state)
{
    zp_ctx *second;
    zp_state *stale;

    (void)state;
    assert_int_equal(zp_ctx_attach(&second, zp_ctx_address(ctx), NULL), 0);
    assert_int_equal(zp_atomic(live, forbidden, zp_ctx_state(second)), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(second), "x", 1), 0);
    assert_null(zp_ctx_free(second));
    assert_int_equal(zp_atomic(live, NULL, NULL), -EINVAL);
    assert_int_equal(zp_atomic(live, keep_handle, &stale), 0);
    assert_int_equal(zp_set_int(stale, "x", 2), -EINVAL);
    assert_int_equal(value_of("x"), 1);
    zp_state_free(stale);
}

static void
test_ready_made(void **state)
{
    int64_t sum = 7;
    double real;
    const char *text = "b";
    char *joined;
    zp_bin bin = {(void *)"\0\1", 2};
    void *bytes;
    size_t size;

    (void)state;
    assert_int_equal(zp_increase(live, "n", &sum, 1), ZP_ENOKEY);
    assert_int_equal(sum, 7);
    assert_int_equal(zp_set_int(live, "n", 40), 0);
    assert_int_equal(zp_increase(live, "n", &sum, 3), 0);
    assert_int_equal(sum, 43);
    assert_int_equal(zp_decrease(live, "n", NULL, 1), 0);
    assert_int_equal(value_of("n"), 42);
    assert_int_equal(zp_increase(live, "n", &sum, INT64_MAX), -EOVERFLOW);
    assert_int_equal(zp_decrease(live, "n", &sum, INT64_MIN), -EOVERFLOW);
    assert_int_equal(value_of("n"), 42);
    assert_int_equal(zp_increase_double(live, "n", NULL, 1), ZP_ETYPE);
    assert_int_equal(zp_set_double(live, "d", 0.5), 0);
    assert_int_equal(zp_increase_double(live, "d", &real, 0.25), 0);
    assert_true(real == 0.75);
    assert_int_equal(zp_append(live, "s", "s", &text), ZP_ENOKEY);
    assert_int_equal(zp_set_string(live, "s", "a"), 0);
    assert_int_equal(zp_append(live, "s", "s", &text), 0);
    assert_int_equal(zp_get_string(live, "s", &joined), 0);
    assert_string_equal(joined, "ab");
    free(joined);
    assert_int_equal(zp_append(live, "s", "B", &bin), ZP_ETYPE);
    assert_int_equal(zp_set_bytes(live, "b", "x", 1), 0);
    assert_int_equal(zp_append(live, "b", "B", &bin), 0);
    assert_int_equal(zp_get_bytes(live, "b", &bytes, &size), 0);
    assert_int_equal(size, 3);
    assert_memory_equal(bytes, "x\0\1", 3);
    free(bytes);
}

/* ---- several processes ---- */

#define WRITERS 8
#define EACH 2000

static int
count_up(void *user)
{
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, user, NULL) != 0)
        return 1;
    for (int i = 0; i < EACH; i++)
        if (zp_increase(zp_ctx_state(mine), "count", NULL, 1) != 0)
            return 2;
    zp_ctx_free(mine);
    return 0;
}

static void
test_many_writers(void **state)
{
    pid_t pids[WRITERS];
    uint64_t before, after;

    (void)state;
    assert_int_equal(zp_set_int(live, "count", 0), 0);
    assert_int_equal(zp_revision(live, &before), 0);
    for (int i = 0; i < WRITERS; i++)
        pids[i] = zp_test_fork(count_up, (void *)zp_ctx_address(ctx));
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(zp_test_wait(pids[i], 60), 0);
    assert_int_equal(value_of("count"), WRITERS * EACH);
    assert_int_equal(zp_revision(live, &after), 0);
    assert_int_equal(after, before + WRITERS * EACH);
}

static int
die_inside(zp_state *txn, void *user)
{
    (void)user;
    zp_set_int(txn, "count", -1);
    zp_set_int(txn, "trace", 1);
    raise(SIGKILL);
    return 0;
}

static int
dying_writer(void *user)
{
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, user, NULL) != 0)
        return 1;
    return zp_atomic(zp_ctx_state(mine), die_inside, NULL);
}

static void
test_death_leaves_no_trace(void **state)
{
    (void)state;
    assert_int_equal(zp_set_int(live, "count", 1), 0);
    for (int i = 0; i < 10; i++) {
        pid_t pid = zp_test_fork(dying_writer, (void *)zp_ctx_address(ctx));
        assert_int_equal(zp_test_wait(pid, 20), -SIGKILL);
        assert_int_equal(zp_increase(live, "count", NULL, 1), 0);
        assert_int_equal(value_of("count"), 2 + i);
        assert_int_equal(zp_contains(live, "trace"), 0);
    }
}

static int
free_all(zp_state *txn, void *user)
{
    assert_int_equal(zp_set_int(txn, "last", 1), 0);
    assert_null(zp_state_free(user));
    assert_null(zp_ctx_free(zp_state_ctx(txn)));
    return 0;
}

static void
test_free_inside(void **state)
{
    zp_ctx *second;
    zp_state *handle;

    (void)state;
    assert_int_equal(zp_ctx_attach(&second, zp_ctx_address(ctx), NULL), 0);
    assert_int_equal(zp_state_clone(zp_ctx_state(second), &handle, NULL), 0);
    assert_int_equal(zp_atomic(handle, free_all, handle), 0);
    assert_int_equal(value_of("last"), 1);
}

/* A child that the application forks inside is not inside itself. */
static int
forked_inside(void *user)
{
    zp_ctx_options options = {.size = sizeof options, .lock_timeout = 0.05};
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, user, &options) != 0)
        return 1;
    if (zp_contains(zp_ctx_state(mine), "inside") != 0)
        return 2;
    if (zp_set_int(zp_ctx_state(mine), "x", 1) != -ETIMEDOUT)
        return 3;
    if (zp_ping(mine, NULL, NULL, 0, 10) != 0)
        return 4;
    zp_ctx_free(mine);
    return 0;
}

static int
fork_inside(zp_state *txn, void *user)
{
    assert_int_equal(zp_set_int(txn, "inside", 1), 0);
    return zp_test_wait(zp_test_fork(forked_inside, user), 20);
}

static void
test_fork_inside(void **state)
{
    (void)state;
    assert_int_equal(zp_atomic(live, fork_inside, (void *)zp_ctx_address(ctx)),
                     0);
    assert_int_equal(value_of("inside"), 1);
}

/* What fails inside, without the function minding: the rest is kept. */
static int
ignore_failures(zp_state *txn, void *user)
{
    int64_t value;

    (void)user;
    assert_int_equal(zp_set_int(txn, "before", 1), 0);
    assert_int_equal(zp_increase(txn, "absent", NULL, 1), ZP_ENOKEY);
    assert_int_equal(zp_pop(txn, "absent", "I", &value), ZP_ENOKEY);
    assert_int_equal(zp_pop(txn, "before", "s", &value), ZP_ETYPE);
    assert_int_equal(zp_delete(txn, "absent"), ZP_ENOKEY);
    assert_int_equal(zp_atomic(txn, fail_inside, NULL), -1);
    assert_int_equal(zp_set_int(txn, "after", 2), 0);
    return 0;
}

static void
test_failures_inside(void **state)
{
    uint64_t length;

    (void)state;
    assert_int_equal(zp_set_int(live, "b", 7), 0);
    assert_int_equal(zp_atomic(live, ignore_failures, NULL), 0);
    assert_int_equal(value_of("before"), 1);
    assert_int_equal(value_of("after"), 2);
    assert_int_equal(value_of("b"), 7);
    assert_int_equal(zp_length(live, &length), 0);
    assert_int_equal(length, 3);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_all_or_nothing, open_ctx, close_ctx),
        ZP_TEST_WITH(test_nested, open_ctx, close_ctx),
        ZP_TEST_WITH(test_refused, open_ctx, close_ctx),
        ZP_TEST_WITH(test_ready_made, open_ctx, close_ctx),
        ZP_TEST_WITH(test_many_writers, open_ctx, close_ctx),
        ZP_TEST_WITH(test_death_leaves_no_trace, open_ctx, close_ctx),
        ZP_TEST_WITH(test_free_inside, open_ctx, close_ctx),
        ZP_TEST_WITH(test_fork_inside, open_ctx, close_ctx),
        ZP_TEST_WITH(test_failures_inside, open_ctx, close_ctx),
    };
    return zp_test_main("atomic", tests, sizeof tests / sizeof *tests, 60);
}
