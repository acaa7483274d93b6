/*
 * test_no_pidfd.c - where the kernel, or what stands in for it, knows no pidfds
 * (Debian 12's valgrind, some sandboxes): all goes on by looking now and then.
 *
 * Each test runs in a child behind a filter that answers pidfd_open() with
 * ENOSYS, or, as some sandboxes do with all that they do not know, EPERM; the
 * state server that it starts is behind it as well.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <zp.h>

#define CANNOT 77 /* exit status: no filters here */

static const int answers[] = {ENOSYS, EPERM};
static int answer; /* of pidfd_open() */

static int
forbid_pidfds(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)answer),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        return -1;
    return syscall(SYS_pidfd_open, getpid(), 0) < 0 && errno == answer ? 0 : -1;
}

/* Run FN behind the filter, once for each answer; its assertions end the child,
 * which is to end as EXPECTED. false: there can be no filter. */
static bool
behind_filter(int (*fn)(void *user), void *user, int expected)
{
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        answer = answers[i];
        int status = zp_test_wait(zp_test_fork(fn, user), 30);
        if (status == CANNOT)
            return false;
        assert_int_equal(status, expected);
    }
    return true;
}

static zp_ctx *
begin(void)
{
    zp_ctx *ctx = NULL;
    if (forbid_pidfds())
        _exit(CANNOT);
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    return ctx;
}

/* ------------------------------------------------------------- children -- */

static int
returns(zp_ctx *ctx, void *arg)
{
    return zp_return(ctx, "i", arg);
}

static int
waits_for_ever(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    for (;;)
        pause();
    return 0;
}

static int
children(void *user)
{
    zp_ctx *ctx = begin();
    zp_proc *proc;
    zp_result result = {.size = sizeof(result)};
    int number = 7, got = 0;
    (void)user;

    assert_int_equal(zp_spawn(ctx, &proc, NULL, returns, &number), 0);
    assert_int_equal(zp_wait(proc, &result, 10), 0);
    assert_int_equal(zp_proc_get(proc, "i", &got), 0);
    assert_int_equal(got, 7);

    assert_int_equal(zp_spawn(ctx, &proc, NULL, waits_for_ever, NULL), 0);
    assert_int_equal(zp_wait(proc, NULL, 0.05), -ETIMEDOUT);
    assert_int_equal(zp_proc_alive(proc), 1);
    assert_int_equal(zp_stop(proc, &result), ZP_EFAILED);
    assert_int_equal(result.signal, SIGTERM);
    assert_int_equal(zp_proc_alive(proc), 0);

    /* One that nobody asked for, and one that ends with the context. */
    assert_int_equal(zp_spawn(ctx, NULL, NULL, returns, &number), 0);
    assert_int_equal(zp_spawn(ctx, NULL, NULL, waits_for_ever, NULL), 0);
    assert_null(zp_ctx_free(ctx));
    assert_int_equal(zp_test_descendants(NULL, 0), 0);
    return 0;
}

static void
test_children(void **state)
{
    (void)state;
    if (!behind_filter(children, NULL, 0))
        skip();
}

/* --------------------------------------------------------------- server -- */

static int
note(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (*(int *)user)++;
    return 0;
}

static int
sets(zp_ctx *ctx, void *arg)
{
    return zp_set_int(zp_ctx_state(ctx), "key", *(int *)arg);
}

/* A server that is killed is started again by who watches, and no change is
 * lost. */
static int
server(void *user)
{
    zp_ctx *ctx = begin();
    zp_stats stats = {.size = sizeof(stats)};
    zp_watch *watch;
    uint64_t first;
    int rounds = 0, events = 0;
    double deadline;
    (void)user;

    assert_int_equal(zp_call_when_change(zp_ctx_state(ctx), &watch,
                                         ZP_KEYS("key"), NULL, note, &events),
                     0);
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    first = stats.server_pid;
    assert_int_equal(kill((pid_t)first, SIGKILL), 0);
    deadline = zp_test_now() + 10 * zp_test_slow();
    do {
        zp_proc *proc;
        rounds++;
        assert_int_equal(zp_spawn(ctx, &proc, NULL, sets, &rounds), 0);
        assert_int_equal(zp_wait(proc, NULL, 10), 0);
        assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    } while ((stats.server_pid == first || events == 0) &&
             zp_test_now() < deadline);
    assert_int_not_equal(stats.server_pid, first);
    assert_true(events > 0 && events <= rounds);
    assert_int_equal(zp_watch_cancel(watch), 0);
    assert_null(zp_watch_free(watch));
    assert_null(zp_ctx_free(ctx));
    assert_true(zp_test_entries(zp_test_run_dir()) <= 0);
    return 0;
}

static void
test_server(void **state)
{
    (void)state;
    if (!behind_filter(server, NULL, 0))
        skip();
}

/* ----------------------------------------------------------------- trees -- */

static int
ignores_term(zp_ctx *ctx, void *arg)
{
    signal(SIGTERM, SIG_IGN);
    zp_sync_post(arg);
    return waits_for_ever(ctx, NULL);
}

struct order { /* for the thread that spawns */
    zp_ctx *ctx;
    zp_sync *up;
    int rc;
};

static void *
spawn_in_thread(void *user)
{
    struct order *order = user;

    order->rc = zp_spawn(order->ctx, NULL, NULL, ignores_term, order->up);
    return NULL;
}

/* The owner is killed; the kernel does not end its child, which another thread
 * has spawned. */
static int
owner(void *user)
{
    struct order order = {.ctx = begin(), .up = user};
    pthread_t thread;

    if (pthread_create(&thread, NULL, spawn_in_thread, &order) != 0)
        return 1;
    pthread_join(thread, NULL);
    if (order.rc < 0)
        return 2;
    zp_sync_wait(user, 10);
    raise(SIGKILL);
    return 3;
}

static bool
nobody(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 0 &&
           zp_test_entries(zp_test_run_dir()) <= 0;
}

static void
test_tree(void **state)
{
    zp_sync up;

    (void)state;
    zp_sync_open(&up);
    bool done = behind_filter(owner, &up, -SIGKILL);
    zp_sync_close(&up);
    if (!done)
        skip();
    assert_true(zp_test_until(nobody, NULL, 10));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_children),
        ZP_TEST(test_server),
        ZP_TEST(test_tree),
    };
    return zp_test_main("no pidfd", tests, sizeof(tests) / sizeof(tests[0]),
                        40);
}
