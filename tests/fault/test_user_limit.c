/*
 * test_user_limit.c - the user has as many processes as he may have
 * (RLIMIT_NPROC). Whoever starts more, of whatever kind, hears of it; what
 * needs none goes on. The limit counts threads as well: libzmq, which aborts a
 * process that lacks them, is not let try.
 *
 * Who is root, or may be as good as root, is not limited: each scenario runs in
 * a process that gives up being it.
 */
#include "tests/fault/starting.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* ------------------------------------------------------------ the limit -- */

enum { NOBODY = 65534, CANNOT = 77 };

static void
no_more_processes(bool yes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NPROC, &limit), 0);
    limit.rlim_cur = yes ? 0 : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NPROC, &limit), 0);
}

/* Without the powers that would lift the limit; files are reached as before. */
static bool
give_up_powers(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    unsigned lifts = 1u << CAP_SYS_ADMIN | 1u << CAP_SYS_RESOURCE;

    if (getuid() == 0 && setresuid(NOBODY, (uid_t)-1, (uid_t)-1) < 0)
        return false;
    if (syscall(SYS_capget, &head, data) < 0)
        return false;
    data[0].effective &= ~lifts;
    return syscall(SYS_capset, &head, data) == 0;
}

/* Has the limit an effect on this process, which gives all up for that? */
static bool
can_be_limited(void)
{
    pid_t pid;

    if (!give_up_powers())
        return false;
    no_more_processes(true);
    pid = fork();
    if (pid == 0)
        _exit(0);
    no_more_processes(false);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return pid < 0;
}

/* SCENARIO in a process of its own, which can be limited; or skip it. (Such a
 * process dies under valgrind 3.19, of a SIGSEGV that this says nothing of.) */
static void
with_limit(int (*scenario)(void *user))
{
    int status;

    if (zp_test_valgrind())
        skip();
    status = zp_test_wait(zp_test_fork(scenario, NULL), 60);
    if (status == CANNOT)
        skip();
    assert_int_equal(status, 0);
}

static zp_ctx *
new_limited_ctx(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* the server is below us, too */
    return can_be_limited() ? new_ctx(NULL) : NULL;
}

static int
starts_at_limit(void *user)
{
    zp_ctx *ctx = new_limited_ctx();
    int i, rc;

    (void)user;
    if (!ctx)
        return CANNOT;
    works(ctx);
    for (i = 0; i < WAYS; i++) {
        zp_proc *procs[MOST] = {NULL};
        tally before;

        if (ways[i].prepare)
            ways[i].prepare(ctx, procs);
        before = count_all(ctx);
        no_more_processes(true);
        rc = ways[i].start(ctx, procs);
        no_more_processes(false);
        assert_returns(rc, -EAGAIN);
        assert_has(zp_ctx_error(ctx), "too many processes");
        assert_has(zp_ctx_error(ctx), "this user may have 0");
        nothing_is_left(ctx, &before);
        finish(ctx, &ways[i], procs, false);
        works(ctx);
    }
    zp_ctx_free(ctx);
    return 0;
}

static void
test_user_limit(void **state)
{
    (void)state;
    with_limit(starts_at_limit);
}

static int
on_exit_count(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    *(int *)user += result->code == 0;
    return 0;
}

static int
on_change_count(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    ++*(int *)user;
    return 0;
}

static const zp_watch_options once = {
    .size = sizeof once, .flags = ZP_OWN, .count = 1};

static int
watch(zp_ctx *ctx, int *count)
{
    return zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("key"), &once,
                               on_change_count, count);
}

static int
spawns_one(zp_ctx *ctx, void *arg)
{
    (void)arg;
    no_more_processes(true);
    return zp_spawn(ctx, NULL, NULL, counts, NULL);
}

/* What needs no new process goes on: state, waits, callbacks, ends. And what a
 * child cannot start its parent hears of. */
static int
goes_on_at_limit(void *user)
{
    zp_ctx *ctx = new_limited_ctx();
    int exits = 0, changes = 0;
    zp_proc *ends, *lasts;
    zp_result result;
    zp_sync go;

    (void)user;
    if (!ctx)
        return CANNOT;
    result = result_of(spawn(ctx, NULL, spawns_one, NULL), ZP_EFAILED);
    assert_int_equal(result.code, -EAGAIN);
    assert_has(result.error, "cannot fork");
    zp_sync_open(&go);
    ends = spawn(ctx, NULL, waits_for_post, &go);
    lasts = spawn(ctx, NULL, sleeps, NULL);
    assert_ok(watch(ctx, &changes));
    no_more_processes(true);
    assert_ok(zp_set_int(zp_ctx_state(ctx), "key", 1));
    assert_ok(zp_call_when_exit(ends, on_exit_count, &exits));
    zp_sync_post(&go);
    assert_ok(zp_run(ctx));
    assert_int_equal(exits, 1);
    assert_int_equal(changes, 1);
    result_of(ends, 0);
    assert_returns(zp_stop(lasts, NULL), ZP_EFAILED);
    assert_int_equal(count_processes(ctx), 0);
    no_more_processes(false);
    zp_sync_close(&go);
    works(ctx);
    zp_ctx_free(ctx);
    return 0;
}

static void
test_limit_and_the_rest(void **state)
{
    (void)state;
    with_limit(goes_on_at_limit);
}

/* libzmq's threads count as well. What needs them can be tried again. */
static int
no_threads(void *user)
{
    zp_ctx *ctx = new_limited_ctx(), *watches, *asks;
    int fds, changes = 0;

    (void)user;
    if (!ctx)
        return CANNOT;
    assert_ok(zp_ctx_attach(&watches, zp_ctx_address(ctx), NULL));
    assert_ok(zp_ctx_attach(&asks, zp_ctx_address(ctx), NULL));
    fds = zp_test_open_fds();
    no_more_processes(true);
    assert_returns(watch(watches, &changes), -EAGAIN);
    assert_has(zp_ctx_error(watches), "threads");
    assert_returns(zp_ping(asks, NULL, NULL, 0, SECONDS), -EAGAIN);
    assert_has(zp_ctx_error(asks), "threads");
    assert_int_equal(zp_test_open_fds(), fds);
    no_more_processes(false);
    assert_ok(watch(watches, &changes));
    assert_ok(zp_ping(asks, NULL, NULL, 0, SECONDS));
    assert_ok(zp_set_int(zp_ctx_state(ctx), "key", 1));
    assert_ok(zp_run(watches));
    assert_int_equal(changes, 1);
    zp_ctx_free(asks);
    zp_ctx_free(watches);
    zp_ctx_free(ctx);
    return 0;
}

static void
test_limit_and_threads(void **state)
{
    (void)state;
    if (zp_test_tsan()) /* the library tries no threads then */
        skip();
    with_limit(no_threads);
}

/* Its parent was killed, too, so it is ours; or that one reaped it yet. */
static bool
is_gone(void *user)
{
    pid_t pid = *(pid_t *)user;

    return waitpid(pid, NULL, WNOHANG) == pid || kill(pid, 0) < 0;
}

/* A state server is a process, too: it is said at once that there can be none
 * (the time for its start is more than the test has). */
static int
no_server(void *user)
{
    zp_ctx_options patient = {.size = sizeof patient, .start_timeout = -1};
    zp_ctx *ctx = new_limited_ctx(), *other;
    int entries = zp_test_entries(zp_test_run_dir());
    zp_stats stats = {.size = sizeof stats};
    pid_t server;

    (void)user;
    if (!ctx)
        return CANNOT;
    no_more_processes(true);
    assert_returns(zp_ctx_new(&other, &patient), ZP_ENOSERVER);
    assert_has(zp_ctx_error(NULL), strerror(EAGAIN));
    assert_int_equal(zp_test_entries(zp_test_run_dir()), entries);
    assert_ok(zp_ctx_stats(ctx, &stats));
    server = (pid_t)stats.server_pid;
    zp_test_kill_server(server);
    assert_true(zp_test_until(is_gone, &server, 20));
    assert_returns(zp_ping(ctx, NULL, NULL, 0, SECONDS), ZP_ENOSERVER);
    assert_has(zp_ctx_error(ctx), strerror(EAGAIN));
    no_more_processes(false);
    assert_ok(zp_ping(ctx, NULL, NULL, 0, SECONDS));
    zp_ctx_free(ctx);
    return 0;
}

static void
test_limit_and_server(void **state)
{
    (void)state;
    with_limit(no_server);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_user_limit),
        ZP_TEST(test_limit_and_the_rest),
        ZP_TEST(test_limit_and_threads),
        ZP_TEST(test_limit_and_server),
    };

    starting_init();
    return zp_test_main("user_limit", tests, sizeof tests / sizeof *tests, 60);
}
