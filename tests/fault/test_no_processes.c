/*
 * test_no_processes.c - there can be no more processes: the user has too many,
 * the machine's numbers are used up, no descriptor is left to watch one with.
 * Whoever starts some hears of it by a named error and a text. Nothing is
 * half-started: no function has run, no record says that it runs, no process,
 * zombie or descriptor is left; and the context goes on working.
 *
 * The library's calls are wrapped (-Wl,--wrap): the k-th one of a start fails,
 * for k = 1, 2, ... until a start gets through. The user's limit is met for
 * real as well, by a process that is nobody's.
 */
#include "tests/api/spawning.h"

#include <dirent.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ------------------------------------------------------- calls that fail -- */

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

/* ----------------------------------------------------------- what is left --
 */

static atomic_int *runs; /* shared: how many functions have run */

static int
counts(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    atomic_fetch_add(runs, 1);
    return 0;
}

/* All that must be as it was. */
typedef struct tally {
    int fds, processes, records, runs;
} tally;

static int
count_unended(const zp_process *process, void *user)
{
    *(int *)user += process->state != ZP_PROC_ENDED;
    return 0;
}

static bool
has_zombie(void)
{
    siginfo_t info = {0};

    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

static tally
count_all(zp_ctx *ctx)
{
    tally t = {zp_test_open_fds(), count_processes(ctx), count_records(ctx),
               atomic_load(runs)};
    int unended = 0;

    assert_ok(zp_each_process(ctx, count_unended, &unended));
    assert_int_equal(unended, t.processes);
    assert_false(has_zombie());
    return t;
}

static void
nothing_is_left(zp_ctx *ctx, const tally *before)
{
    tally now = count_all(ctx);

    assert_int_equal(now.fds, before->fds);
    assert_int_equal(now.processes, before->processes);
    assert_int_equal(now.records, before->records);
    assert_int_equal(now.runs, before->runs);
}

/* A start works, and costs a record and nothing else. */
static void
works(zp_ctx *ctx)
{
    tally before = count_all(ctx);
    zp_proc *proc = spawn(ctx, NULL, counts, NULL);

    result_of(proc, 0);
    zp_proc_free(proc);
    before.records++;
    before.runs++;
    nothing_is_left(ctx, &before);
}

/* ---------------------------------------------------------- ways to start --
 */

enum { MOST = 4 };

static const zp_spawn_options rich = {.size = sizeof rich,
                                      .dir = "/",
                                      .in = {.kind = ZP_STREAM_NULL},
                                      .out = {.kind = ZP_STREAM_PIPE},
                                      .err = {.kind = ZP_STREAM_PIPE}};

static int
start_one(zp_ctx *ctx, zp_proc **procs)
{
    return zp_spawn(ctx, procs, &rich, counts, NULL);
}

static int
start_program(zp_ctx *ctx, zp_proc **procs)
{
    const char *argv[] = {"true", NULL};

    return zp_spawn_exec(ctx, procs, &rich, argv, NULL);
}

static int
start_many(zp_ctx *ctx, zp_proc **procs)
{
    zp_proc_fn *const fns[] = {counts, counts};

    return zp_spawn_many(ctx, procs, &rich, fns, 2, MOST / 2, NULL);
}

static void
defer(zp_ctx *ctx, zp_proc **procs, int n)
{
    zp_spawn_options options = rich;
    int i;

    options.flags = ZP_DEFERRED;
    for (i = 0; i < n; i++)
        procs[i] = spawn(ctx, &options, counts, NULL);
}

static void
defer_one(zp_ctx *ctx, zp_proc **procs)
{
    defer(ctx, procs, 1);
}

static void
defer_all(zp_ctx *ctx, zp_proc **procs)
{
    defer(ctx, procs, MOST);
}

static int
start_deferred(zp_ctx *ctx, zp_proc **procs)
{
    (void)ctx;
    return zp_start(procs[0]);
}

static int
start_all(zp_ctx *ctx, zp_proc **procs)
{
    (void)procs;
    return zp_ctx_start(ctx);
}

typedef struct way {
    const char *name;
    int n, runs; /* processes, and how many of them are functions */
    void (*prepare)(zp_ctx *ctx, zp_proc **procs);
    int (*start)(zp_ctx *ctx, zp_proc **procs);
} way;

static const way ways[] = {
    {"zp_spawn", 1, 1, NULL, start_one},
    {"zp_spawn_exec", 1, 0, NULL, start_program},
    {"zp_spawn_many", MOST, MOST, NULL, start_many},
    {"zp_start", 1, 1, defer_one, start_deferred},
    {"zp_ctx_start", MOST, MOST, defer_all, start_all},
};
enum { WAYS = sizeof ways / sizeof *ways };

/* Those that were deferred still can be started; all end, and are no more. */
static void
finish(zp_ctx *ctx, const way *w, zp_proc **procs, bool started)
{
    int i;

    if (!started && w->prepare) {
        for (i = 0; i < w->n; i++) {
            assert_int_equal(zp_proc_pid(procs[i]), 0);
            assert_int_equal(zp_proc_alive(procs[i]), 0);
            assert_returns(zp_proc_stream(procs[i], 1), -EBADF);
        }
        assert_ok(w->start(ctx, procs));
        started = true;
    }
    for (i = 0; started && i < w->n; i++) {
        assert_int_equal(result_of(procs[i], 0).attempts, 1);
        close(zp_proc_stream(procs[i], 1));
        zp_proc_free(procs[i]);
    }
}

/* ----------------------------------------------------- each call, in turn --
 */

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

/* ------------------------------------------------------- the next attempt --
 */

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

/* ------------------------------------------------------- the user's limit --
 */

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

/* SCENARIO in a process of its own, which can be limited; or skip it. */
static void
with_limit(int (*scenario)(void *user))
{
    int status = zp_test_wait(zp_test_fork(scenario, NULL), 60);

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
    with_limit(no_threads);
}

/* Its parent was killed, so it is ours. */
static bool
is_reaped(void *user)
{
    return waitpid(*(pid_t *)user, NULL, WNOHANG) > 0;
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
    assert_true(zp_test_until(is_reaped, &server, 20));
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
        ZP_TEST(test_each_call),         ZP_TEST(test_next_attempt),
        ZP_TEST(test_user_limit),        ZP_TEST(test_limit_and_the_rest),
        ZP_TEST(test_limit_and_threads), ZP_TEST(test_limit_and_server),
    };

    runs = mmap(NULL, sizeof *runs, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return zp_test_main("no_processes", tests, sizeof tests / sizeof *tests,
                        60);
}
