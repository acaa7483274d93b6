/*
 * test_no_processes.c - there can be no more processes: the machine's numbers
 * are used up, no descriptor is left to watch one with. Whoever starts some
 * hears of it by a named error and a text. Nothing is half-started: no function
 * has run, no record says that it runs, no process, zombie or descriptor is
 * left; and the context goes on working.
 *
 * The library's calls are wrapped (-Wl,--wrap): the k-th one of a start fails,
 * for k = 1, 2, ... until a start gets through. The limit of processes is met
 * for real in test_user_limit.c.
 */
#include "tests/fault/starting.h"

#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* ------------------------------------------------------ calls that fail -- */

enum { FORK, PIDFD, EVENTFD, PIPE, CALLS };

static const struct {
    const char *part; /* of the text */
    int errors[3];    /* 0 ends them */
} calls[CALLS] = {
    [FORK] = {"cannot fork", {EAGAIN, ENOMEM, 0}},
    [PIDFD] = {"cannot watch process", {EMFILE, ENFILE, ENOMEM}},
    [EVENTFD] = {"descriptor", {EMFILE, ENFILE, ENOMEM}},
    [PIPE] = {"cannot make", {EMFILE, ENFILE, 0}},
};

static int countdown;    /* calls until one fails; 0: none will */
static int which_error;  /* of the call that is met */
static int failed_call;  /* which it was */
static int failed_error; /* 0: none of these */

pid_t __real_fork(void);
long __real_syscall(long number, ...);
int __real_eventfd(unsigned value, int flags);
int __real_pipe2(int fds[2], int flags);
pid_t __wrap_fork(void);
long __wrap_syscall(long number, ...);
int __wrap_eventfd(unsigned value, int flags);
int __wrap_pipe2(int fds[2], int flags);

static bool
fails(int call)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    failed_call = call;
    failed_error = calls[call].errors[which_error];
    errno = failed_error;
    return failed_error != 0;
}

pid_t
__wrap_fork(void)
{
    pid_t pid = fails(FORK) ? -1 : __real_fork();

    if (pid == 0)
        countdown = 0;
    return pid;
}

long
__wrap_syscall(long number, ...)
{
    long args[6];
    va_list ap;
    int i;

    if (number == SYS_pidfd_open && fails(PIDFD))
        return -1;
    va_start(ap, number);
    for (i = 0; i < 6; i++)
        args[i] = va_arg(ap, long);
    va_end(ap);
    return __real_syscall(number, args[0], args[1], args[2], args[3], args[4],
                          args[5]);
}

int
__wrap_eventfd(unsigned value, int flags)
{
    return fails(EVENTFD) ? -1 : __real_eventfd(value, flags);
}

int
__wrap_pipe2(int fds[2], int flags)
{
    return fails(PIPE) ? -1 : __real_pipe2(fds, flags);
}

/* --------------------------------------------------- each call, in turn -- */

static void
arm(int k, int error)
{
    failed_error = 0;
    which_error = error;
    countdown = k;
}

/* Was there a k-th call? */
static bool
disarm(void)
{
    bool met = countdown == 0;

    countdown = 0;
    return met;
}

/* Start as W says while the K-th call fails with the ERROR-th of its error
 * numbers: false when there are fewer calls. */
static bool
start_failing(zp_ctx *ctx, const way *w, int k, int error)
{
    zp_proc *procs[MOST] = {NULL};
    tally before;
    bool met;
    int rc;

    if (w->prepare)
        w->prepare(ctx, procs);
    before = count_all(ctx);
    arm(k, error);
    rc = w->start(ctx, procs);
    met = disarm();
    if (rc != -failed_error)
        fail_msg("%s, call %d: %d (%s), not %d", w->name, k, rc,
                 zp_ctx_error(ctx), -failed_error);
    if (rc < 0) {
        assert_has(zp_ctx_error(ctx), calls[failed_call].part);
        assert_true(w->prepare || !procs[0]);
        nothing_is_left(ctx, &before);
    }
    finish(ctx, w, procs, rc == 0);
    return met;
}

static void
test_each_call(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int i, k, error;

    (void)state;
    works(ctx);
    for (i = 0; i < WAYS; i++)
        for (error = 0; error < 3; error++) {
            tally before = count_all(ctx);

            for (k = 1; start_failing(ctx, &ways[i], k, error); k++)
                continue;
            assert_true(k > 2 * ways[i].n); /* a fork and a pidfd each */
            assert_int_equal(count_all(ctx).fds, before.fds);
            works(ctx);
        }
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------- no descriptors -- */

/* They were started with little: what each lacks it says. */
static void
finish_any(const way *w, zp_proc **procs)
{
    zp_result result = {.size = sizeof result};
    int i;

    for (i = 0; i < w->n; i++) {
        if (zp_wait(procs[i], &result, SECONDS) < 0)
            assert_has(result.error, "could not start");
        close(zp_proc_stream(procs[i], 1));
        zp_proc_free(procs[i]);
    }
}

/* Start with descriptors up to MORE above those that are open: 0 or -EMFILE. A
 * child that lacks them in its turn fails for itself. */
static int
start_with_few(zp_ctx *ctx, const way *w, int more)
{
    zp_proc *procs[MOST] = {NULL};
    struct rlimit roomy, few;
    tally before;
    int lowest, rc;

    if (w->prepare)
        w->prepare(ctx, procs);
    before = count_all(ctx);
    lowest = dup(0);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &roomy), 0);
    few = roomy;
    few.rlim_cur = (rlim_t)(lowest + more);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    rc = w->start(ctx, procs);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &roomy), 0);
    if (rc == 0) {
        finish_any(w, procs);
        return rc;
    }
    assert_returns(rc, -EMFILE);
    assert_has(zp_ctx_error(ctx), strerror(EMFILE));
    assert_null(strstr(zp_ctx_error(ctx), "ended"));
    nothing_is_left(ctx, &before);
    finish(ctx, w, procs, false);
    return rc;
}

static void
test_no_descriptors(void **state)
{
    zp_ctx *ctx;
    int i, more;

    (void)state;
    if (zp_test_valgrind()) /* it needs descriptors itself */
        skip();
    ctx = new_ctx(NULL);
    works(ctx);
    for (i = 0; i < WAYS; i++) {
        for (more = 0; start_with_few(ctx, &ways[i], more) < 0; more++)
            continue;
        assert_true(more > 3 * ways[i].n);
        works(ctx);
    }
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------- the next attempt -- */

static int
fails_once(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return atomic_fetch_add(runs, 1) ? 0 : -EIO;
}

/* What the K-th call of the second attempt's start gives is how that one
 * ended; one more may follow (RETRIES 2) or not. */
static bool
retry_failing(zp_ctx *ctx, int k, int error, int retries)
{
    tally before = count_all(ctx);
    zp_retry retry = {.size = sizeof retry, .retries = retries, .delay = 0.001};
    zp_result result = {.size = sizeof result};
    zp_proc *proc;
    bool met;
    record r;

    atomic_store(runs, 0);
    proc = spawn(ctx, SPAWN(.retry = &retry), fails_once, NULL);
    arm(k, error);
    (void)zp_wait(proc, &result, SECONDS);
    met = disarm();
    assert_int_equal(result.attempts, failed_error && retries > 1 ? 3 : 2);
    assert_int_equal(result.code, retries > 1 ? 0 : -failed_error);
    assert_int_equal(atomic_load(runs), result.code ? 1 : 2);
    assert_true(find_record(ctx, zp_proc_id(proc), &r));
    assert_int_equal(r.p.state, ZP_PROC_ENDED);
    assert_int_equal(r.p.code, result.code);
    if (result.code) {
        assert_has(result.error, "could not be started again");
        assert_has(result.error, calls[failed_call].part);
        assert_string_equal(r.error, result.error);
    }
    zp_proc_free(proc);
    before.records++;
    before.runs = atomic_load(runs);
    nothing_is_left(ctx, &before);
    return met;
}

static void
test_next_attempt(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int k, error, retries;

    (void)state;
    works(ctx);
    for (retries = 1; retries <= 2; retries++)
        for (error = 0; error < 3; error++) {
            for (k = 1; retry_failing(ctx, k, error, retries); k++)
                continue;
            assert_true(k > 2);
        }
    works(ctx);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_each_call),
        ZP_TEST(test_no_descriptors),
        ZP_TEST(test_next_attempt),
    };

    starting_init();
    return zp_test_main("no_processes", tests, sizeof tests / sizeof *tests,
                        60);
}
