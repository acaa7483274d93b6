/*
 * test_forkguard.c - after a plain fork() of the application every inherited
 * handle is ZP_EFORK: nothing hangs, nothing is touched, nothing is lost to
 * the parent; and the child can make a context of its own.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zp_ev.h>

typedef struct inherited {
    zp_ctx *ctx;
    zp_state *state, *clone, *snapshot;
    zp_iter *iter;
    zp_watch *watch;
    zp_proc *proc, *ended;
    zp_value *value;
    int calls;
    int failures;
    char address[256];
} inherited;

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    ((inherited *)user)->calls++;
    return 0;
}

static int
sleeps(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    for (;;)
        pause();
    return 0;
}

static int
returns_one(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_return(ctx, "i", &(int){1});
}

static int
not_called(zp_state *txn, void *user)
{
    (void)txn;
    ((inherited *)user)->calls++;
    return 0;
}

static void
set_up(inherited *in)
{
    int rc = zp_ctx_new(&in->ctx, NULL);

    if (rc < 0)
        fail_msg("zp_ctx_new: %s: %s", zp_strerror(rc), zp_ctx_error(NULL));
    in->state = zp_ctx_state(in->ctx);
    snprintf(in->address, sizeof in->address, "%s", zp_ctx_address(in->ctx));
    assert_int_equal(zp_set_int(in->state, "a", 1), 0);
    assert_int_equal(zp_state_clone(in->state, &in->clone, "other"), 0);
    assert_int_equal(zp_snapshot(in->state, &in->snapshot), 0);
    assert_int_equal(zp_iter_new(in->state, &in->iter), 0);
    assert_int_equal(zp_value_new(&in->value, "i", &(int){1}), 0);
    assert_int_equal(zp_call_when_change(in->state, &in->watch, ZP_KEYS("a"),
                                         NULL, on_change, in),
                     0);
    assert_int_equal(zp_spawn(in->ctx, &in->proc, NULL, sleeps, NULL), 0);
    assert_int_equal(zp_spawn(in->ctx, &in->ended, NULL, returns_one, NULL), 0);
    assert_int_equal(zp_wait(in->ended, NULL, 20), 0);
}

/* The parent can do all it could before. */
static void
still_works(inherited *in)
{
    zp_state *other;
    int64_t value = 0;
    int one = 0;

    assert_int_equal(zp_ping(in->ctx, NULL, "x", 1, 10), 0);
    assert_int_equal(zp_state_clone(in->state, &other, NULL), 0);
    assert_int_equal(zp_increase(other, "a", &value, 1), 0);
    while (in->calls == 0)
        assert_int_equal(zp_wait(in->proc, NULL, 0.01), -ETIMEDOUT);
    assert_int_equal(zp_get_int(in->snapshot, "a", &value), 0);
    assert_int_equal(zp_iter_next(in->iter, NULL, NULL), 1);
    assert_int_equal(zp_proc_alive(in->proc), 1);
    assert_int_equal(zp_proc_get(in->ended, "i", &one), 0);
    assert_int_equal(one, 1);
}

static void
tear_down(inherited *in)
{
    zp_iter_free(in->iter);
    zp_state_free(in->snapshot);
    zp_watch_free(in->watch);
    zp_value_free(in->value);
    zp_ctx_free(in->ctx);
}

static void
expect(inherited *in, const char *what, int rc, int wanted)
{
    if (rc == wanted)
        return;
    fprintf(stderr, "# %s: %d (%s), not %d\n", what, rc, zp_strerror(rc),
            wanted);
    in->failures++;
}

#define FORKED(call) expect(in, #call, call, ZP_EFORK)
#define NOTHING(call) expect(in, #call, (call) != NULL, 0)

static void
try_context(inherited *in)
{
    zp_stats stats = {.size = sizeof stats};
    zp_proc *proc = NULL;
    zp_pong pong;

    FORKED(zp_run(in->ctx));
    FORKED(zp_break(in->ctx));
    FORKED(zp_ping(in->ctx, &pong, NULL, 0, 1));
    FORKED(zp_ctx_stats(in->ctx, &stats));
    FORKED(zp_spawn(in->ctx, &proc, NULL, sleeps, NULL));
    FORKED(zp_return(in->ctx, "i", &(int){1}));
    FORKED(zp_return_value(in->ctx, in->value));
    FORKED(zp_fail(in->ctx, -1, "x"));
    NOTHING(zp_ev_loop(in->ctx));
    NOTHING(zp_ctx_state(in->ctx));
    NOTHING(zp_ctx_address(in->ctx));
    if (!strstr(zp_ctx_error(in->ctx), "process"))
        expect(in, "zp_ctx_error", 0, 1);
}

static void
try_process(inherited *in)
{
    zp_value *value = NULL;
    int number;

    FORKED(zp_wait(in->proc, NULL, 1));
    FORKED(zp_wait(in->ended, NULL, 1));
    FORKED(zp_stop(in->proc, NULL));
    FORKED(zp_proc_pid(in->proc));
    FORKED(zp_proc_alive(in->proc));
    FORKED(zp_proc_get(in->ended, "i", &number));
    FORKED(zp_proc_get_value(in->ended, &value));
}

static void
try_state(inherited *in, zp_state *state)
{
    zp_state *new_state = NULL;
    zp_value *value = NULL;
    zp_iter *iter = NULL;
    zp_watch *watch = NULL;
    zp_pair pair = {"a", in->value};
    uint64_t number;
    int64_t integer;
    char *key;

    FORKED(zp_state_clone(state, &new_state, NULL));
    FORKED(zp_revision(state, &number));
    FORKED(zp_set(state, "a", "i", &(int){1}));
    FORKED(zp_set_int(state, "a", 1));
    FORKED(zp_set_double(state, "a", 1));
    FORKED(zp_set_string(state, "a", "1"));
    FORKED(zp_set_bytes(state, "a", "1", 1));
    FORKED(zp_set_bool(state, "a", 1));
    FORKED(zp_set_none(state, "a"));
    FORKED(zp_set_value(state, "a", in->value));
    FORKED(zp_get(state, "a", "I", &integer));
    FORKED(zp_get_int(state, "a", &integer));
    FORKED(zp_get_value(state, "a", &value));
    FORKED(zp_get_or(state, "a", "I", &integer));
    FORKED(zp_type(state, "a"));
    FORKED(zp_contains(state, "a"));
    FORKED(zp_setdefault(state, "a", "I", &integer));
    FORKED(zp_delete(state, "a"));
    FORKED(zp_pop(state, "a", "I", &integer));
    FORKED(zp_popitem(state, &key, &value));
    FORKED(zp_update(state, &pair, 1));
    FORKED(zp_update_from(state, in->snapshot));
    FORKED(zp_replace(state, in->snapshot));
    FORKED(zp_clear(state));
    FORKED(zp_length(state, &number));
    FORKED(zp_equal(state, in->snapshot));
    FORKED(zp_iter_new(state, &iter));
    FORKED(zp_snapshot(state, &new_state));
    FORKED(zp_at(state, &new_state, 1));
    FORKED(zp_atomic(state, not_called, in));
    FORKED(zp_increase(state, "a", &integer, 1));
    FORKED(zp_append(state, "a", "i", &(int){1}));
    FORKED(zp_call_when_change(state, &watch, NULL, 0, NULL, on_change, in));
}

static void
try_frees(inherited *in)
{
    NOTHING(zp_iter_free(in->iter));
    NOTHING(zp_state_free(in->clone));
    NOTHING(zp_state_free(in->snapshot));
    NOTHING(zp_watch_free(in->watch));
    NOTHING(zp_ctx_free(in->ctx));
    NOTHING(zp_ctx_free(in->ctx)); /* leaked: it is still there */
}

/* The child's own context, beside the inherited one. */
static void
own_context(inherited *in)
{
    zp_ctx *ctx = NULL;
    int64_t value = 0;

    expect(in, "attach", zp_ctx_attach(&ctx, in->address, NULL), 0);
    if (!ctx)
        return;
    expect(in, "get", zp_get_int(zp_ctx_state(ctx), "a", &value), 0);
    expect(in, "value", (int)value, 1);
    expect(in, "set", zp_set_int(zp_ctx_state(ctx), "from-child", 1), 0);
    expect(in, "ping", zp_ping(ctx, NULL, NULL, 0, 10), 0);
    zp_ctx_free(ctx);
}

static int
in_child(void *user)
{
    inherited *in = user;

    try_context(in);
    try_process(in);
    try_state(in, in->state);
    try_state(in, in->clone);
    FORKED(zp_iter_next(in->iter, NULL, NULL));
    FORKED(zp_watch_cancel(in->watch));
    FORKED(zp_go_live(in->watch));
    try_frees(in);
    own_context(in);
    return in->failures || in->calls ? 1 : 0;
}

static void
test_every_call(void **state)
{
    inherited in = {0};

    (void)state;
    if (zp_test_tsan())
        skip();
    set_up(&in);
    assert_int_equal(zp_test_wait(zp_test_fork(in_child, &in), 30), 0);
    assert_int_equal(zp_contains(in.state, "from-child"), 1);
    still_works(&in);
    tear_down(&in);
}

static int
exits_normally(void *user)
{
    (void)user;
    exit(0); /* with atexit handlers and all */
}

static int
is_killed(void *user)
{
    (void)user;
    raise(SIGKILL);
    return 0;
}

static int
starts_a_new_state(void *user)
{
    inherited *in = user;
    zp_ctx *ctx = NULL;

    expect(in, "new", zp_ctx_new(&ctx, NULL), 0);
    expect(in, "set", zp_set_int(zp_ctx_state(ctx), "a", 5), 0);
    zp_ctx_free(ctx);
    zp_ctx_free(in->ctx);
    return in->failures;
}

/* However a forked child ends, the state goes on. */
static void
test_child_ends(void **state)
{
    inherited in = {0};

    (void)state;
    set_up(&in);
    zp_test_wait(zp_test_fork(exits_normally, &in), 30);
    assert_int_equal(zp_test_wait(zp_test_fork(is_killed, &in), 30), -SIGKILL);
    assert_int_equal(zp_test_wait(zp_test_fork(starts_a_new_state, &in), 30),
                     0);
    still_works(&in);
    tear_down(&in);
}

static int
child_of_child(zp_ctx *ctx, void *arg)
{
    inherited *in = arg;

    FORKED(zp_run(in->ctx));
    FORKED(zp_set_int(in->state, "a", 1));
    FORKED(zp_get_int(in->snapshot, "a", &(int64_t){0}));
    FORKED(zp_wait(in->proc, NULL, 1));
    FORKED(zp_watch_cancel(in->watch));
    FORKED(zp_iter_next(in->iter, NULL, NULL));
    try_frees(in);
    if (in->failures)
        return zp_fail(ctx, -1, "%d failures", in->failures);
    return zp_set_int(zp_ctx_state(ctx), "from-child", 1);
}

/* The same in a child of zp_spawn(), where the memory behind the handles is
 * unmapped. */
static void
test_spawned(void **state)
{
    inherited in = {0};
    zp_result result = {.size = sizeof result};
    zp_proc *proc;

    (void)state;
    set_up(&in);
    assert_int_equal(zp_spawn(in.ctx, &proc, NULL, child_of_child, &in), 0);
    if (zp_wait(proc, &result, 30) < 0)
        fail_msg("%s", result.error);
    assert_int_equal(zp_contains(in.state, "from-child"), 1);
    still_works(&in);
    tear_down(&in);
}

static int
forks_inside(zp_state *txn, void *user)
{
    int rc = zp_set_int(txn, "b", 1);

    fflush(NULL);
    *(pid_t *)user = fork();
    if (*(pid_t *)user > 0)
        rc = zp_test_wait(*(pid_t *)user, 20) == 0 ? rc : -ECHILD;
    return rc;
}

/* A function that forks and returns in the child, too: one of them commits. */
static void
test_fork_in_atomic(void **state)
{
    inherited in = {0};
    uint64_t before, after;
    pid_t pid = -1;
    int rc;

    (void)state;
    set_up(&in);
    assert_int_equal(zp_revision(in.state, &before), 0);
    rc = zp_atomic(in.state, forks_inside, &pid);
    if (pid == 0)
        _exit(rc == ZP_EFORK && zp_set_int(in.state, "c", 1) == ZP_EFORK ? 0
                                                                         : 1);
    assert_int_equal(rc, 0);
    assert_int_equal(zp_revision(in.state, &after), 0);
    assert_int_equal(after, before + 1);
    still_works(&in);
    tear_down(&in);
}

static int
forks_and_returns(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    fflush(NULL);
    *(pid_t *)user = fork();
    return *(pid_t *)user ? -ECANCELED : 0;
}

/* A callback that forks and returns in the child, too: the run around it is the
 * parent's, and ends in the child at once. */
static void
test_fork_in_callback(void **state)
{
    inherited in = {0};
    pid_t pid = -1;
    int rc;

    (void)state;
    set_up(&in);
    assert_int_equal(zp_call_when_change(in.state, NULL, ZP_KEYS("b"), NULL,
                                         forks_and_returns, &pid),
                     0);
    assert_int_equal(zp_set_int(in.clone, "b", 1), 0); /* elsewhere */
    zp_state_free(in.clone);
    assert_int_equal(zp_state_clone(in.state, &in.clone, NULL), 0);
    assert_int_equal(zp_set_int(in.clone, "b", 1), 0);
    rc = zp_wait(in.proc, NULL, 20);
    if (pid == 0)
        _exit(rc == ZP_EFORK ? 0 : 1);
    assert_int_equal(rc, -ECANCELED);
    assert_int_equal(zp_test_wait(pid, 20), 0);
    still_works(&in);
    tear_down(&in);
}

/* A program that the application runs inherits nothing of ours. */
static void
test_exec(void **state)
{
    inherited in = {0};
    bool before[256];
    int fd;

    (void)state;
    for (fd = 0; fd < 256; fd++)
        before[fd] = fcntl(fd, F_GETFD) >= 0;
    set_up(&in);
    assert_int_equal(zp_ping(in.ctx, NULL, "x", 1, 10), 0);
    for (fd = 0; fd < 256; fd++) {
        int flags = before[fd] ? -1 : fcntl(fd, F_GETFD);

        if (flags >= 0 && !(flags & FD_CLOEXEC))
            fail_msg("descriptor %d would be inherited", fd);
    }
    tear_down(&in);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_every_call),       ZP_TEST(test_child_ends),
        ZP_TEST(test_spawned),          ZP_TEST(test_fork_in_atomic),
        ZP_TEST(test_fork_in_callback), ZP_TEST(test_exec),
    };

    return zp_test_main("forkguard", tests, sizeof tests / sizeof *tests, 60);
}
