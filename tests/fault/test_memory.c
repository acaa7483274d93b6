/*
 * test_memory.c - out of memory in whatever the library does: nothing is
 * half-changed, and nothing leaks (descriptors here; memory under check-asan
 * and valgrind). The waits are test_memory_waits.c.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/fault/no_memory.h"

/* ---- the state ---- */

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

static int
plain(int rc)
{
    return rc > 0 ? 0 : rc;
}

static void
no_more(int rc)
{
    (void)rc;
}

/* ---- scenarios ---- */

static int
start_and_stop(void)
{
    zp_ctx *mine, *second;
    int rc = zp_ctx_new(&mine, NULL);

    if (rc != 0)
        return rc;
    TRY(zp_set_int(zp_ctx_state(mine), "x", 1));
    if (rc == 0) {
        rc = zp_ctx_attach(&second, zp_ctx_address(mine), NULL);
        if (rc == 0) {
            TRY(zp_increase(zp_ctx_state(second), "x", NULL, 1));
            TRY(zp_ping(second, NULL, "p", 1, 5));
            zp_ctx_free(second);
        }
    }
    zp_ctx_free(mine);
    return rc;
}

static int
values(void)
{
    const char *text = "a text that does not fit into a small buffer, for it "
                       "is longer than what a buffer on the stack may hold, "
                       "as one can see without counting";
    char *out = NULL;
    int32_t n = 5, m = 0;
    zp_bin bin = {(void *)"bytes", 5}, bin_out = {NULL, 0};
    zp_value *value = NULL;
    zp_tpl *tpl = NULL;
    int rc = zp_set_string(live, "s", text);

    TRY(zp_set(live, "c", "isB", &n, &text, &bin));
    TRY(zp_get(live, "c", "isB", &m, &out, &bin_out));
    free(out);
    free(bin_out.addr);
    TRY(zp_append(live, "s", "s", &text));
    TRY(zp_get_value(live, "c", &value));
    TRY(zp_set_value(live, "v", value));
    zp_value_free(value);
    TRY(zp_tpl_new(&tpl, "A(is)", &n, &text));
    TRY(zp_tpl_pack(tpl, 1));
    TRY(zp_tpl_pack(tpl, 1));
    value = NULL;
    TRY(zp_tpl_value(tpl, &value));
    TRY(zp_set_value(live, "t", value));
    TRY(zp_append(live, "t", "is", &n, &text));
    zp_value_free(value);
    zp_tpl_free(tpl);
    out = NULL;
    TRY(zp_pop(live, "s", "s", &out));
    free(out);
    return plain(rc);
}

/* What is popped comes out, or it is still there. */
static int
popping(void)
{
    const char *text = "text";
    char *out = NULL;
    int32_t n = 5, m = 0;
    zp_bin bin = {(void *)"bytes", 5}, bin_out = {NULL, 0};
    int rc = zp_set(live, "c", "isB", &n, &text, &bin);

    TRY(zp_set_string(live, "s", text));
    if (rc < 0)
        return rc;
    rc = zp_pop(live, "c", "isB", &m, &out, &bin_out);
    assert_int_equal(zp_contains(live, "c"), rc == 0 ? 0 : 1);
    assert_int_equal(m, rc == 0 ? 5 : 0);
    free(out);
    free(bin_out.addr);
    out = NULL;
    if (rc < 0)
        return rc;
    rc = zp_pop(live, "s", "s", &out);
    assert_int_equal(zp_contains(live, "s"), rc == 0 ? 0 : 1);
    free(out);
    return rc;
}

static int
many_writes(zp_state *txn, void *user)
{
    char key[32];
    int rc = 0;

    for (int i = 0; i < 40 && rc == 0; i++) {
        snprintf(key, sizeof key, "k%d", i);
        rc = zp_increase(txn, "sum", NULL, 1);
        TRY(zp_set_int(txn, key, *(int *)user));
    }
    return rc;
}

static int round_number;

static int
dictionary(void)
{
    zp_state *snapshot = NULL, *other = NULL;
    zp_iter *iter = NULL;
    const char *key;
    const zp_value *value;
    int rc;

    round_number++;
    rc = zp_set_int(live, "sum", 0);
    TRY(zp_atomic(live, many_writes, &round_number));
    TRY(zp_snapshot(live, &snapshot));
    TRY(zp_state_clone(live, &other, "other"));
    TRY(zp_replace(other, snapshot));
    TRY(zp_equal(other, live) == 1 ? 0 : -ENOMEM);
    TRY(zp_iter_new(other, &iter));
    while (rc == 0 && (rc = zp_iter_next(iter, &key, &value)) == 1)
        rc = 0;
    zp_iter_free(iter);
    char *popped;
    zp_value *taken;
    TRY(zp_popitem(other, &popped, &taken));
    if (rc == 0) {
        free(popped);
        zp_value_free(taken);
    }
    TRY(zp_clear(other));
    zp_state_free(other);
    zp_state_free(snapshot);
    return plain(rc);
}

/* The forty keys were written together or not at all. */
static void
whole(int rc)
{
    int64_t sum = 0, first = 0, last = 0;

    (void)rc;
    if (zp_get_int(live, "sum", &sum) != 0 || sum == 0)
        return;
    assert_int_equal(sum, 40);
    assert_int_equal(zp_get_int(live, "k0", &first), 0);
    assert_int_equal(zp_get_int(live, "k39", &last), 0);
    assert_int_equal(first, last);
}

/* With a lease as it was asked for, or not at all. */
static int
leases(void)
{
    const char *text = "text";
    zp_lease lease = {.size = sizeof lease};
    zp_value *value = NULL;
    int rc = zp_clear(live), set;

    if (rc < 0)
        return rc;
    rc = set = zp_set_with(live, "l", ZP_WITH(.flags = ZP_BOUND, .ttl = 1000),
                           "s", &text);
    assert_int_equal(zp_contains(live, "l"), set == 0);
    TRY(zp_get_lease(live, "l", &lease));
    if (rc == 0)
        assert_true(lease.pid == getpid() && lease.ttl > 0);
    TRY(zp_append(live, "l", "s", &text));
    TRY(zp_get_value(live, "l", &value));
    TRY(zp_renew(live, "l", -1));
    lease.ttl = 0;
    if (set == 0 && zp_get_lease(live, "l", &lease) == 0)
        assert_true(lease.pid == getpid() && (lease.ttl < 0) == (rc == 0));
    TRY(zp_set_value_with(live, "l", ZP_WITH(.ttl = 1000), value));
    zp_value_free(value);
    TRY(zp_set_int(live, "l", 1));
    return rc;
}

/* One step of a walk: when there was no memory for it, it was not taken. */
static int
step(zp_history *history, uint64_t revision)
{
    zp_history_entry entry = {.revision = 0};
    const zp_value *value;
    int rc = zp_history_next(history, &entry, &value);

    if (rc == -ENOMEM) {
        assert_int_equal(entry.revision, 0);
        rc = zp_history_next(history, &entry, &value);
    }
    assert_int_equal(rc, 1);
    assert_int_equal(entry.revision, revision);
    return 0;
}

static int
looking_back(void)
{
    const char *text = "another";
    zp_state *past = NULL;
    zp_history *history = NULL;
    uint64_t revision = 0;
    int32_t n = 5;
    int rc = zp_set_int(live, "h", ++round_number);

    TRY(zp_set(live, "h", "is", &n, &text));
    TRY(zp_revision(live, &revision));
    TRY(zp_snapshot(live, &past));
    TRY(zp_retained(past) == 1 ? 0 : -ENOMEM);
    TRY(zp_history_new(past, &history, "h"));
    TRY(step(history, revision));
    TRY(step(history, revision - 1));
    zp_history_free(history);
    history = NULL;
    TRY(zp_history_new(live, &history, "h"));
    TRY(step(history, revision));
    zp_history_free(history);
    zp_state_free(past);
    return plain(rc);
}

static int
got(zp_watch *watch, const zp_event *event, void *user)
{
    zp_value *before = NULL, *after = NULL;
    int rc = zp_event_values(event, &before, &after, 0);

    (void)watch;
    if (rc == -ENOMEM) {
        assert_null(before);
        assert_null(after);
        rc = zp_event_values(event, &before, &after, 0);
    }
    assert_int_equal(rc, 0);
    assert_non_null(after);
    zp_value_free(before);
    zp_value_free(after);
    ++*(int *)user;
    return 0;
}

static int
watching(void)
{
    zp_watch_options once = {.size = sizeof once, .flags = ZP_OWN, .count = 1};
    zp_watch *watch = NULL;
    zp_ctx *mine = NULL;
    int events = 0;
    int rc = zp_ctx_attach(&mine, zp_ctx_address(ctx), NULL);

    TRY(zp_call_when_change(zp_ctx_state(mine), &watch, ZP_KEYS("w"), &once,
                            got, &events));
    if (rc == 0) {
        rc = zp_set_int(zp_ctx_state(mine), "w", ++round_number);
        if (rc == 0) {
            int run = zp_run(mine);
            if (run == -ENOMEM) /* it may say so, but must not lose it */
                run = zp_run(mine);
            rc = run;
            assert_int_equal(run, 0);
            assert_int_equal(events, 1);
        }
        zp_watch_free(watch);
    }
    zp_ctx_free(mine);
    return rc;
}

/* The same in a loop that is not libev's. */
static int
polling(void)
{
    zp_watch_options once = {.size = sizeof once, .flags = ZP_OWN, .count = 1};
    zp_ctx *mine = NULL;
    int events = 0;
    int rc = zp_ctx_attach(&mine, zp_ctx_address(ctx), NULL);

    TRY(zp_ctx_fd(mine));
    TRY(zp_call_when_change(zp_ctx_state(mine), NULL, ZP_KEYS("w"), &once, got,
                            &events));
    TRY(zp_set_int(zp_ctx_state(mine), "w", ++round_number));
    while (rc >= 0 && events == 0) {
        struct pollfd one = {zp_ctx_fd(mine), POLLIN, 0};
        double timeout;

        assert_int_equal(zp_ctx_timeout(mine, &timeout), 0);
        poll(&one, 1, timeout < 0 ? -1 : (int)(timeout * 1000 + 0.999));
        int run = zp_ctx_dispatch(mine);
        if (run == -ENOMEM) /* it may say so, but must not lose it */
            run = 0;
        assert_int_equal(run, 0);
    }
    zp_ctx_free(mine);
    return plain(rc);
}

static int
child(zp_ctx *mine, void *arg)
{
    int32_t n = 7;

    (void)arg;
    return zp_return(mine, "i", &n);
}

static int
spawning(void)
{
    zp_proc *proc = NULL;
    zp_ctx *mine = NULL;
    int32_t n = 0;
    zp_result result = {.size = sizeof result};
    int rc = zp_ctx_attach(&mine, zp_ctx_address(ctx), NULL);

    TRY(zp_spawn(mine, &proc, NULL, child, NULL));
    if (rc == 0) {
        rc = zp_wait(proc, &result, 20);
        if (rc == ZP_EFAILED) /* it was the child that had no memory */
            rc = result.code < 0 ? result.code : -ENOMEM;
        TRY(zp_proc_get(proc, "i", &n));
        if (rc == 0)
            assert_int_equal(n, 7);
    }
    zp_ctx_free(mine);
    return rc;
}

static void
test_start_and_stop(void **state)
{
    (void)state;
    with_failures(start_and_stop, no_more);
}

static void
test_values(void **state)
{
    (void)state;
    with_failures(values, no_more);
}

static void
test_popping(void **state)
{
    (void)state;
    with_failures(popping, no_more);
}

static void
test_dictionary(void **state)
{
    (void)state;
    with_failures(dictionary, whole);
}

static void
test_leases(void **state)
{
    (void)state;
    with_failures(leases, no_more);
}

/* ---- the server's own ---- */

static int
serve(void *user)
{
    zp_ctx_options options = {.size = sizeof options, .name = "memory"};
    zp_serve_options serving = {
        .size = sizeof serving, .ready_fd = *(int *)user, .state = &options};

    return zp_serve(&serving) == 0 ? 0 : 1;
}

static int
hold(void *user)
{
    const zp_sync *sync = user; /* ready, go, set */
    zp_ctx *mine;
    int rc;

    if (zp_ctx_attach(&mine, "memory", NULL) != 0)
        return 1;
    zp_sync_post(&sync[0]);
    zp_sync_wait(&sync[1], 60);
    do
        rc = zp_set_with(zp_ctx_state(mine), "held", ZP_WITH(.flags = ZP_BOUND),
                         ZP_I(1));
    while (rc == -ENOMEM);
    zp_sync_post(&sync[2]);
    return rc == 0 ? 0 : 2;
}

static bool
is_gone(void *user)
{
    return zp_contains(user, "held") == 0;
}

/* An allocation of the server fails while it looks after leases: it tries
 * again, and goes on. */
static void
test_server_leases(void **state)
{
    zp_sync sync[3], ready;
    char line[256];
    zp_pong pong;
    pid_t server;

    (void)state;
    zp_sync_open(&ready);
    server = zp_test_fork(serve, &ready.fd[1]);
    assert_true(read(ready.fd[0], line, sizeof line) > 0);
    assert_int_equal(zp_ctx_attach(&ctx, "memory", NULL), 0);
    for (int i = 0; i < 3; i++)
        zp_sync_open(&sync[i]);
    for (long k = 1; k < 12; k++) {
        pid_t pid = zp_test_fork(hold, sync);

        zp_sync_wait(&sync[0], 20);
        atomic_store(countdown, k);
        zp_sync_post(&sync[1]);
        zp_sync_wait(&sync[2], 20);
        assert_int_equal(zp_test_wait(pid, 20), 0);
        assert_true(zp_test_until(is_gone, zp_ctx_state(ctx), 20));
        atomic_store(countdown, 0);
    }
    assert_int_equal(zp_ping(ctx, &pong, NULL, 0, 20), 0);
    assert_int_equal(pong.server_pid, server);
    ctx = zp_ctx_free(ctx);
    kill(server, SIGTERM);
    assert_int_equal(zp_test_wait(server, 20), 0);
    for (int i = 0; i < 3; i++)
        zp_sync_close(&sync[i]);
    zp_sync_close(&ready);
}

static void
test_looking_back(void **state)
{
    (void)state;
    with_failures(looking_back, no_more);
}

static void
test_watching(void **state)
{
    (void)state;
    with_failures(watching, no_more);
}

static void
test_polling(void **state)
{
    (void)state;
    with_failures(polling, no_more);
}

static void
test_spawning(void **state)
{
    (void)state;
    with_failures(spawning, no_more);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_start_and_stop),
        ZP_TEST_WITH(test_values, open_ctx, close_ctx),
        ZP_TEST_WITH(test_popping, open_ctx, close_ctx),
        ZP_TEST_WITH(test_dictionary, open_ctx, close_ctx),
        ZP_TEST_WITH(test_leases, open_ctx, close_ctx),
        ZP_TEST(test_server_leases),
        ZP_TEST_WITH(test_looking_back, open_ctx, close_ctx),
        ZP_TEST_WITH(test_watching, open_ctx, close_ctx),
        ZP_TEST_WITH(test_polling, open_ctx, close_ctx),
        ZP_TEST_WITH(test_spawning, open_ctx, close_ctx),
    };
    no_memory_init();
    return zp_test_main("memory", tests, sizeof tests / sizeof *tests, 90);
}
