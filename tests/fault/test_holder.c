/*
 * A lock holder that stops, an application with SIGPIPE at its default while
 * the server is dead, and the use of what belongs to another process.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

static zp_ctx *ctx;

static int
open_ctx(void **state)
{
    zp_ctx_options options = {.size = sizeof options, .lock_timeout = 0.3};

    (void)state;
    return zp_ctx_new(&ctx, &options);
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

static int
stop_inside(zp_state *txn, void *user)
{
    (void)user;
    int rc = zp_set_int(txn, "x", 1);
    raise(SIGSTOP);
    return rc;
}

static int
hold_lock(void *user)
{
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, user, NULL) != 0)
        return 1;
    int rc = zp_atomic(zp_ctx_state(mine), stop_inside, NULL);
    zp_ctx_free(mine);
    return rc == 0 ? 0 : 2;
}

static bool
is_stopped(void *user)
{
    return zp_test_process_state(*(pid_t *)user) == 'T';
}

static void
test_stopped_holder(void **state)
{
    zp_state *s = zp_ctx_state(ctx);
    char pid_text[32];
    int64_t value;

    (void)state;
    assert_int_equal(zp_set_int(s, "x", 0), 0);
    pid_t pid = zp_test_fork(hold_lock, (void *)zp_ctx_address(ctx));
    assert_true(zp_test_until(is_stopped, &pid, 20));
    double before = zp_test_now();
    assert_int_equal(zp_set_int(s, "x", 2), -ETIMEDOUT);
    assert_true(zp_test_now() - before >= 0.3);
    snprintf(pid_text, sizeof pid_text, "%d", (int)pid);
    if (strstr(zp_ctx_error(ctx), pid_text) == NULL)
        fail_msg("%s is not in '%s'", pid_text, zp_ctx_error(ctx));
    assert_int_equal(zp_get_int(s, "x", &value), 0); /* reading goes on */
    assert_int_equal(value, 0);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, 5), 0);
    kill(pid, SIGCONT);
    assert_int_equal(zp_test_wait(pid, 20), 0);
    assert_int_equal(zp_get_int(s, "x", &value), 0);
    assert_int_equal(value, 1);
    assert_int_equal(zp_set_int(s, "x", 2), 0);

    /* killed while stopped: as if it had never been */
    pid = zp_test_fork(hold_lock, (void *)zp_ctx_address(ctx));
    assert_true(zp_test_until(is_stopped, &pid, 20));
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, 20), -SIGKILL);
    assert_int_equal(zp_increase(s, "x", &value, 1), 0);
    assert_int_equal(value, 3);
}

static int
ignore(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return 0;
}

static int
watch_for_ever(void *user)
{
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, user, NULL) != 0 ||
        zp_call_when_change(zp_ctx_state(mine), NULL, NULL, 0, NULL, ignore,
                            NULL) != 0)
        return 1;
    return zp_run(mine) == 0 ? 0 : 2;
}

static int
server_pid(void)
{
    zp_pong pong;

    return zp_ping(ctx, &pong, NULL, 0, 5) == 0 ? pong.server_pid : 0;
}

static bool
is_gone(void *user)
{
    return kill(*(pid_t *)user, 0) != 0 ||
           zp_test_process_state(*(pid_t *)user) == 'Z';
}

static void
test_no_sigpipe(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_DFL);
    pid_t watcher = zp_test_fork(watch_for_ever, (void *)zp_ctx_address(ctx));
    for (int i = 0; i < 20; i++) {
        pid_t server = server_pid();
        assert_true(server > 0);
        kill(server, SIGKILL);
        for (int n = 0; n < 500; n++)
            assert_int_equal(zp_set_int(zp_ctx_state(ctx), "x", n), 0);
        assert_true(zp_test_until(is_gone, &server, 10));
        assert_true(server_pid() != server);
    }
    kill(watcher, SIGKILL);
    assert_int_equal(zp_test_wait(watcher, 20), -SIGKILL);
}

/* ---- after fork ---- */

typedef struct handles {
    zp_state *snapshot;
    zp_iter *iter;
    zp_watch *watch;
} handles;

static int
use_inherited(void *user)
{
    handles *h = user;
    zp_state *s = zp_ctx_state(ctx), *out;
    zp_iter *iter;
    uint64_t number;
    int64_t value = 5;
    const char *key;

    if (s != NULL)
        return 1;
    assert_int_equal(zp_get_int(h->snapshot, "x", &value), ZP_EFORK);
    assert_int_equal(zp_length(h->snapshot, &number), ZP_EFORK);
    assert_int_equal(zp_iter_next(h->iter, &key, NULL), ZP_EFORK);
    assert_int_equal(zp_iter_new(h->snapshot, &iter), ZP_EFORK);
    assert_int_equal(zp_snapshot(h->snapshot, &out), ZP_EFORK);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, 1), ZP_EFORK);
    assert_int_equal(zp_run(ctx), ZP_EFORK);
    assert_int_equal(zp_watch_cancel(h->watch), ZP_EFORK);
    assert_null(zp_watch_free(h->watch));
    assert_null(zp_iter_free(h->iter));
    assert_null(zp_state_free(h->snapshot));
    assert_null(zp_ctx_free(ctx));
    assert_int_equal(value, 5);
    return 0;
}

static void
test_after_fork(void **state)
{
    handles h;
    int64_t value;
    const char *key;

    (void)state;
    zp_state *s = zp_ctx_state(ctx);
    assert_int_equal(zp_set_int(s, "x", 1), 0);
    assert_int_equal(zp_snapshot(s, &h.snapshot), 0);
    assert_int_equal(zp_iter_new(s, &h.iter), 0);
    assert_int_equal(
        zp_call_when_change(s, &h.watch, NULL, 0, NULL, ignore, NULL), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(zp_test_wait(zp_test_fork(use_inherited, &h), 20), 0);
    /* nothing of ours was harmed */
    assert_int_equal(zp_iter_next(h.iter, &key, NULL), 1);
    assert_int_equal(zp_get_int(h.snapshot, "x", &value), 0);
    assert_int_equal(zp_set_int(s, "x", 2), 0);
    assert_int_equal(zp_ping(ctx, NULL, "p", 1, 5), 0);
    zp_iter_free(h.iter);
    zp_watch_free(h.watch);
    zp_state_free(h.snapshot);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_stopped_holder, open_ctx, close_ctx),
        ZP_TEST_WITH(test_no_sigpipe, open_ctx, close_ctx),
        ZP_TEST_WITH(test_after_fork, open_ctx, close_ctx),
    };
    return zp_test_main("holder", tests, sizeof tests / sizeof *tests, 60);
}
