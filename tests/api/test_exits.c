/*
 * test_exits.c - every way in which a process ends, and what is told of it:
 * the table at the top of "processes" in zp.h, row by row.
 *
 * Each row is taken in each of the ways in which a parent learns of it: it
 * waits, is called back, starts the process again, starts it later; or nobody
 * asks, and the records tell. All of them have to agree.
 *
 * What crashes has a name that the program exports, so that it is to be found
 * in the backtrace; no sanitizer looks at it, which would find the crash
 * before the processor does.
 */
#include "tests/api/spawning.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#if defined(__x86_64__)
#define TRAP_SIGNAL SIGILL
#else
#define TRAP_SIGNAL SIGTRAP
#endif

zp_proc_fn crash_by_segv, crash_by_bus, crash_by_trap, crash_by_abort,
    crash_by_fpe, crash_by_sigtrap, crash_by_sigsys, crash_by_overflow;
int recurse(int depth);

enum { RETRIES = 2 };

static int
leave_result(zp_ctx *ctx)
{
    return zp_return(ctx, "i", &(int){77});
}

/* ----------------------------------------------------- returning functions --
 */

static int
returns_7(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return leave_result(ctx) < 0 ? -1 : 7;
}

static int
recovers(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_fail(ctx, -EIO, "not for long") == -EIO ? 0 : -1;
}

static int
fails(zp_ctx *ctx, void *arg)
{
    (void)arg;
    leave_result(ctx);
    return zp_fail(ctx, -EIO, "no way to %s", "go");
}

static int
fails_positive(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_fail(ctx, 5, "five");
}

static int
fails_twice(zp_ctx *ctx, void *arg)
{
    (void)arg;
    zp_fail(ctx, -EIO, "the first");
    zp_fail(ctx, -EIO, "the second");
    return -EPIPE; /* the code that counts */
}

static int
fails_with_call(zp_ctx *ctx, void *arg)
{
    int64_t value;

    (void)arg;
    return zp_get_int(zp_ctx_state(ctx), "absent", &value);
}

/* Another code than that of the call: its text is not told. */
static int
fails_with_other_code(zp_ctx *ctx, void *arg)
{
    fails_with_call(ctx, arg);
    return ZP_ETYPE;
}

/* ---------------------------------------------------------------- zp_exit() --
 */

static int
exit_fails(zp_ctx *ctx, void *arg)
{
    zp_fail(ctx, -EIO, "said before");
    leave_result(ctx);
    zp_exit(ctx, *(int *)arg);
    return 0;
}

static int
exits(zp_ctx *ctx, void *arg)
{
    leave_result(ctx);
    zp_exit(ctx, *(int *)arg);
    return 0;
}

static int
exits_in_vain(zp_ctx *ctx, void *arg)
{
    (void)arg;
    if (zp_exit(ctx, -1) != -EINVAL || zp_exit(ctx, 256) != -EINVAL ||
        zp_exit(NULL, 0) != -EINVAL)
        return zp_fail(ctx, -1, "it was accepted");
    return 0;
}

static int
exit_inside(zp_state *txn, void *user)
{
    return zp_set_int(txn, "in", 1) < 0 || zp_exit(user, 0) != -EDEADLK ? -1
                                                                        : 0;
}

static int
exits_in_atomic(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_atomic(zp_ctx_state(ctx), exit_inside, ctx);
}

static int
exit_from_watch(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    zp_exit(user, 6);
    return -1;
}

static int
wait_in_watch(zp_watch *watch, const zp_event *event, void *user)
{
    zp_state *state = zp_ctx_state(user);

    (void)watch;
    (void)event;
    zp_set_int(state, "inner", getpid());
    return zp_get_when_change(state, NULL, ZP_KEYS("never"), -1, NULL);
}

/* run - callback - wait - callback - exit. */
static int
exits_nested(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_watch_options own = {.size = sizeof own, .flags = ZP_OWN};

    (void)arg;
    leave_result(ctx);
    if (zp_call_when_change(state, NULL, ZP_KEYS("outer"), &own, wait_in_watch,
                            ctx) < 0 ||
        zp_call_when_change(state, NULL, ZP_KEYS("inner"), &own,
                            exit_from_watch, ctx) < 0)
        return -1;
    zp_set_int(state, "outer", getpid()); /* each attempt another value */
    zp_run(ctx);
    return -2;
}

static int
exit_from_predicate(zp_state *snapshot, void *user)
{
    (void)snapshot;
    return zp_exit(user, 6);
}

static int
exits_in_predicate(zp_ctx *ctx, void *arg)
{
    (void)arg;
    leave_result(ctx);
    return zp_get_when(zp_ctx_state(ctx), NULL, ZP_KEYS("k"), -1, NULL,
                       exit_from_predicate, ctx);
}

static int
exit_from_list(const zp_process *process, void *user)
{
    (void)process;
    return zp_exit(user, 6);
}

static int
exits_in_list(zp_ctx *ctx, void *arg)
{
    (void)arg;
    leave_result(ctx);
    return zp_each_process(ctx, exit_from_list, ctx);
}

static int
exit_from_exit(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    return zp_exit(user, 6);
}

/* From its own child's exit callback, while another child still runs. */
static int
exits_in_exit_callback(zp_ctx *ctx, void *arg)
{
    (void)arg;
    leave_result(ctx);
    if (zp_spawn(ctx, NULL, NULL, sleeps, NULL) < 0 ||
        zp_spawn(ctx, NULL, SPAWN(.exit_fn = exit_from_exit, .exit_user = ctx),
                 returns_0, NULL) < 0)
        return -1;
    return zp_run(ctx);
}

static void
exit_from_timer(void *user)
{
    zp_exit(user, 6);
}

static int
exits_in_timer(zp_ctx *ctx, void *arg)
{
    static later l;

    (void)arg;
    leave_result(ctx);
    do_later(&l, ctx, 0.001, exit_from_timer, ctx);
    return zp_run(ctx);
}

/* ------------------------------------------------------------------ exit() --
 */

static int
exits_by_itself(zp_ctx *ctx, void *arg)
{
    leave_result(ctx);
    exit(*(int *)arg);
}

static int
exits_at_once(zp_ctx *ctx, void *arg)
{
    leave_result(ctx);
    _exit(*(int *)arg);
}

static int
fails_and_exits(zp_ctx *ctx, void *arg)
{
    zp_fail(ctx, -EIO, "said before");
    exit(*(int *)arg);
}

/* ----------------------------------------------------------------- signals --
 */

static void
no_core(void)
{
    struct rlimit none = {0, 0};

    setrlimit(RLIMIT_CORE, &none);
}

static int
dies(zp_ctx *ctx, void *arg)
{
    no_core();
    leave_result(ctx);
    zp_fail(ctx, -EIO, "said before");
    raise(*(int *)arg);
    return 0;
}

/* Success, but for the last flush. */
static int
dies_flushing(zp_ctx *ctx, void *arg)
{
    static char buffer[100];
    int fd[2];

    (void)arg;
    if (pipe(fd) < 0 || dup2(fd[1], 1) < 0)
        return -errno;
    close(fd[0]);
    close(fd[1]);
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    printf("to nobody");
    leave_result(ctx);
    return 0;
}

/* Volatile: or the compiler knows what is to come. */
static int *volatile near_null = (int *)0x10;
static volatile int zero, twelve = 12;

ZP_TEST_BARE int
crash_by_segv(zp_ctx *ctx, void *arg)
{
    (void)arg;
    no_core();
    leave_result(ctx);
    *near_null = 1;
    return 1;
}

ZP_TEST_BARE int
crash_by_bus(zp_ctx *ctx, void *arg)
{
    int fd = open(zp_test_path("empty"), O_RDWR | O_CREAT, 0600);
    volatile char *map = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);

    (void)ctx;
    (void)arg;
    no_core();
    return map[0] + 1;
}

ZP_TEST_BARE int
crash_by_trap(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    no_core();
    __builtin_trap();
}

ZP_TEST_BARE int
crash_by_abort(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    no_core();
    abort();
}

ZP_TEST_BARE int
crash_by_fpe(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    no_core();
#if defined(__x86_64__)
    return twelve / zero;
#else
    return raise(SIGFPE) + 1;
#endif
}

ZP_TEST_BARE int
crash_by_sigtrap(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    no_core();
    return raise(SIGTRAP) + 1;
}

ZP_TEST_BARE int
crash_by_sigsys(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    no_core();
    return raise(SIGSYS) + 1;
}

ZP_TEST_BARE int
recurse(int depth)
{
    volatile char room[1000];

    room[0] = (char)depth;
    return zero ? 0 : recurse(depth + 1) + room[0];
}

ZP_TEST_BARE int
crash_by_overflow(zp_ctx *ctx, void *arg)
{
    struct rlimit small = {1 << 20, 1 << 20};

    (void)ctx;
    (void)arg;
    no_core();
    setrlimit(RLIMIT_STACK, &small);
    return recurse(0);
}

/* -------------------------------------------------------------- no context --
 */

/* The child cannot open the state. */
static void
move_store(zp_ctx *ctx, bool back)
{
    char data[300], aside[300];

    snprintf(data, sizeof data, "%s/data.mdb", zp_ctx_address(ctx));
    snprintf(aside, sizeof aside, "%s/aside", zp_ctx_address(ctx));
    assert_int_equal(rename(back ? aside : data, back ? data : aside), 0);
}

/* ------------------------------------------------------------------- table --
 */

#define ANY 1 /* any negative code */

typedef struct row {
    const char *name;
    zp_proc_fn *fn; /* or */
    const char *argv[4];
    int arg;
    int code, status, signal;
    const char *error;  /* all of it, "" included; or ... */
    const char *part;   /* ... a part of it */
    const char *origin; /* a part of it; NULL: there is none */
    const char *trace;  /* likewise */
    bool result;        /* leave_result() counts */
    bool no_context;
} row;

#define HERE "test_exits.c:"
#define SH(script) .argv = {"sh", "-c", script}
#define SIGNAL(n) .code = ZP_EFAILED, .status = -1, .signal = (n)
#define CRASH(n, function) SIGNAL(n), .fn = (function), .trace = #function

static row rows[] = {
    {"returns 0", .fn = returns_0, .error = ""},
    {"returns 7", .fn = returns_7, .code = 7, .error = "", .result = true},
    {"fails, then succeeds", .fn = recovers, .error = ""},
    {"zp_fail", .fn = fails, .code = -EIO, .status = 1, .error = "no way to go",
     .origin = HERE, .result = true},
    {"zp_fail with 5", .fn = fails_positive, .code = ZP_EFAILED, .status = 1,
     .error = "five", .origin = HERE},
    {"zp_fail twice", .fn = fails_twice, .code = -EPIPE, .status = 1,
     .error = "the second", .origin = HERE},
    {"the code of a call", .fn = fails_with_call, .code = ZP_ENOKEY,
     .status = 1, .part = "absent"},
    {"another code", .fn = fails_with_other_code, .code = ZP_ETYPE, .status = 1,
     .part = "another type"},
    {"a bare code", .fn = returns_code, .arg = -EPIPE, .code = -EPIPE,
     .status = 1, .part = "Broken pipe"},
    {"the lowest code", .fn = returns_code, .arg = INT_MIN, .code = INT_MIN,
     .status = 1, .part = "-2147483648"},
    {"the highest code", .fn = returns_code, .arg = INT_MAX, .code = INT_MAX,
     .error = ""},

    {"zp_exit(0)", .fn = exits, .error = "", .result = true},
    {"zp_exit(3)", .fn = exits, .arg = 3, .code = ZP_EFAILED, .status = 3,
     .error = "exited with status 3", .result = true},
    {"zp_exit(70)", .fn = exits, .arg = 70, .code = ZP_EFAILED, .status = 70,
     .error = "exited with status 70", .result = true},
    {"zp_exit(255)", .fn = exits, .arg = 255, .code = ZP_EFAILED, .status = 255,
     .error = "exited with status 255", .result = true},
    {"zp_fail, zp_exit(0)", .fn = exit_fails, .error = "", .result = true},
    {"zp_fail, zp_exit(3)", .fn = exit_fails, .arg = 3, .code = ZP_EFAILED,
     .status = 3, .error = "said before", .origin = HERE, .result = true},
    {"zp_exit in vain", .fn = exits_in_vain, .error = ""},
    {"zp_exit in atomic", .fn = exits_in_atomic, .error = ""},
    {"zp_exit nested", .fn = exits_nested, .code = ZP_EFAILED, .status = 6,
     .error = "exited with status 6", .result = true},
    {"zp_exit in predicate", .fn = exits_in_predicate, .code = ZP_EFAILED,
     .status = 6, .error = "exited with status 6", .result = true},
    {"zp_exit in list", .fn = exits_in_list, .code = ZP_EFAILED, .status = 6,
     .error = "exited with status 6", .result = true},
    {"zp_exit in exit callback", .fn = exits_in_exit_callback,
     .code = ZP_EFAILED, .status = 6, .error = "exited with status 6",
     .result = true},
    {"zp_exit in timer", .fn = exits_in_timer, .code = ZP_EFAILED, .status = 6,
     .error = "exited with status 6", .result = true},

    {"exit(0)", .fn = exits_by_itself, .error = ""},
    {"exit(4)", .fn = exits_by_itself, .arg = 4, .code = ZP_EFAILED,
     .status = 4, .error = "exited with status 4"},
    {"exit(70)", .fn = exits_by_itself, .arg = 70, .code = ZP_EFAILED,
     .status = 70, .error = "exited with status 70"},
    {"_exit(0)", .fn = exits_at_once, .error = ""},
    {"_exit(5)", .fn = exits_at_once, .arg = 5, .code = ZP_EFAILED, .status = 5,
     .error = "exited with status 5"},
    {"zp_fail, exit(0)", .fn = fails_and_exits, .error = ""},
    {"zp_fail, exit(3)", .fn = fails_and_exits, .arg = 3, .code = ZP_EFAILED,
     .status = 3, .error = "said before", .origin = HERE},

    {"SIGKILL", .fn = dies, .arg = SIGKILL, SIGNAL(SIGKILL), .part = "Killed"},
    {"SIGTERM", .fn = dies, .arg = SIGTERM, SIGNAL(SIGTERM),
     .part = "killed by signal 15"},
    {"SIGINT", .fn = dies, .arg = SIGINT, SIGNAL(SIGINT), .part = "killed by"},
    {"SIGUSR1", .fn = dies, .arg = SIGUSR1, SIGNAL(SIGUSR1),
     .part = "killed by"},
    {"a dead pipe at the end", .fn = dies_flushing, SIGNAL(SIGPIPE),
     .part = "Broken pipe"},
    {"SIGSEGV", CRASH(SIGSEGV, crash_by_segv), .part = "at address 0x10"},
    {"SIGBUS", CRASH(SIGBUS, crash_by_bus), .part = "Bus error"},
    {"SIGILL", CRASH(TRAP_SIGNAL, crash_by_trap), .part = "killed by"},
    {"SIGABRT", CRASH(SIGABRT, crash_by_abort), .part = "Aborted"},
    {"SIGFPE", CRASH(SIGFPE, crash_by_fpe), .part = "killed by"},
    {"SIGTRAP", CRASH(SIGTRAP, crash_by_sigtrap), .part = "killed by"},
    {"SIGSYS", CRASH(SIGSYS, crash_by_sigsys), .part = "killed by"},
    {"overflow", .fn = crash_by_overflow, SIGNAL(SIGSEGV), .trace = "recurse",
     .part = "at address"},

    {"no context", .fn = returns_0, .code = ANY, .status = 70,
     .part = "could not start", .no_context = true},

    {"program, 0", SH("exit 0"), .error = ""},
    {"program, 3", SH("exit 3"), .code = ZP_EFAILED, .status = 3,
     .error = "exited with status 3"},
    {"program, 70", SH("exit 70"), .code = ZP_EFAILED, .status = 70,
     .error = "exited with status 70"},
    {"program, SIGTERM", SH("kill -TERM $$"), SIGNAL(SIGTERM),
     .part = "killed by signal 15"},
    {"program, SIGSEGV", SH("ulimit -c 0; kill -SEGV $$"), SIGNAL(SIGSEGV),
     .part = "killed by signal 11"},
};
#define ROWS (sizeof rows / sizeof *rows)

/* --------------------------------------------------------------------- ways --
 */

/* How one of them ended, as told, and where to ask again. */
typedef struct end {
    const row *row;
    zp_proc *proc; /* NULL: nobody has asked */
    uint64_t id;
    int code, status, signal, core, pid;
    unsigned attempts;
    double started, ended;
    char error[1024], origin[512], backtrace[8192];
} end;

static void
keep(end *e, const zp_result *result)
{
    e->code = result->code;
    e->status = result->status;
    e->signal = result->signal;
    e->core = result->core;
    e->pid = result->pid;
    e->attempts = result->attempts;
    e->started = result->started;
    e->ended = result->ended;
    snprintf(e->error, sizeof e->error, "%s", result->error);
    snprintf(e->origin, sizeof e->origin, "%s", result->origin);
    snprintf(e->backtrace, sizeof e->backtrace, "%s", result->backtrace);
}

static int wrong; /* checks that failed in this test */

/* All that is wrong is told, before the test fails. */
#define check(e, what) check_that(e, what, #what)

static void
check_that(const end *e, bool holds, const char *what)
{
    if (holds)
        return;
    wrong++;
    print_error("# %s: not %s: code %d, status %d, signal %d, pid %d, %u "
                "attempts, \"%s\" at \"%s\"\n%s",
                e->row->name, what, e->code, e->status, e->signal, e->pid,
                e->attempts, e->error, e->origin, e->backtrace);
}

/* Is TEXT as PART says: with it in it, or empty? */
static bool
is_part(const char *text, const char *part)
{
    return part ? strstr(text, part) != NULL : !*text;
}

/* Is it what the table says? */
static void
check_end(const end *e)
{
    const row *r = e->row;

    check(e, r->code == ANY ? e->code < 0 : e->code == r->code);
    check(e, e->status == r->status);
    check(e, e->signal == r->signal);
    check(e,
          r->error ? !strcmp(e->error, r->error) : is_part(e->error, r->part));
    check(e, is_part(e->origin, r->origin));
    check(e, !r->origin || strncmp(e->origin, "tests/", 6) == 0 ||
                 strstr(e->origin, "/tests/"));
    check(e, e->backtrace[0] ? r->trace != NULL : r->trace == NULL);
    if (!zp_test_instrumented()) /* its frames may come between */
        check(e, is_part(e->backtrace, r->trace));
    check(e, e->pid > 0);
    check(e, e->started > 1e9);
    check(e, e->ended >= e->started - 0.001);
}

/* Does the record agree? */
static void
check_record(zp_ctx *ctx, const end *e)
{
    const zp_process *p;
    record r = record_in(ctx, e->id, ZP_PROC_ENDED, 1);
    int value = 0;

    p = &r.p;
    check(e, p->code == e->code);
    check(e, p->status == e->status);
    check(e, p->signal == e->signal);
    check(e, p->core == e->core);
    check(e, p->pid == e->pid);
    check(e, p->attempts == e->attempts);
    check(e, !strcmp(r.error, e->error));
    check(e, !strcmp(r.origin, e->origin));
    check(e, !strncmp(r.backtrace, e->backtrace, strlen(r.backtrace)));
    check(e, !r.backtrace[0] == !e->backtrace[0]);
    check(e, !strcmp(r.name, e->row->name));
    check(e, !strcmp(r.ns, "default"));
    check(e, fabs(p->started - e->started) < 0.001);
    check(e, p->spawned <= p->started);
    check(e, p->ended > 0 && p->ended <= e->ended + 0.001);
    check(e, p->parent == getpid() && p->parent_id == 0 && p->depth == 1);
    check(e, p->has_result == e->row->result);
    check(e, zp_process_get(ctx, e->id, "i", &value) ==
                 (e->row->result ? 0 : ZP_ENOKEY));
    check(e, value == (e->row->result ? 77 : 0));
}

/* Asked again: the same, and its result, twice. */
static void
check_again(const end *e)
{
    end again = *e;
    zp_result result = {.size = sizeof result};
    int round, value;

    check(e, zp_wait(e->proc, &result, 0) == (e->code < 0 ? ZP_EFAILED : 0));
    keep(&again, &result);
    check(e, memcmp(&again, e, sizeof again) == 0);
    for (round = 0; round < 2; round++) {
        value = 0;
        check(e, zp_proc_get(e->proc, "i", &value) ==
                     (e->row->result ? 0 : ZP_ENOKEY));
        check(e, value == (e->row->result ? 77 : 0));
    }
    check(e, zp_proc_alive(e->proc) == 0);
    check(e, zp_proc_pid(e->proc) == e->pid);
    check(e, zp_proc_id(e->proc) == e->id);
    check(e, !strcmp(zp_proc_name(e->proc), e->row->name));
    check(e, zp_stop(e->proc, NULL) == (e->code < 0 ? ZP_EFAILED : 0));
}

/* Start what ROW says; OPTIONS but for the name. */
static zp_proc *
start(zp_ctx *ctx, const row *r, zp_spawn_options *options, bool asked)
{
    zp_proc *proc = NULL;
    int rc;

    options->size = sizeof *options;
    options->name = r->name;
    if (r->fn)
        rc = zp_spawn(ctx, asked ? &proc : NULL, options, r->fn,
                      (void *)&r->arg);
    else
        rc = zp_spawn_exec(ctx, asked ? &proc : NULL, options, r->argv, NULL);
    if (rc < 0)
        fail_msg("%s: %s (%s)", r->name, zp_strerror(rc), zp_ctx_error(ctx));
    return proc;
}

static void
is_waited_for(zp_ctx *ctx, end *e)
{
    zp_spawn_options options = {0};
    zp_result result = {.size = sizeof result};
    int rc;

    e->proc = start(ctx, e->row, &options, true);
    rc = zp_wait(e->proc, &result, SECONDS);
    keep(e, &result);
    check(e, rc == (e->code < 0 ? ZP_EFAILED : 0));
    check(e, e->attempts == 1);
}

static int
on_exit_keep(zp_proc *proc, const zp_result *result, void *user)
{
    end *e = user;

    assert_null(e->proc); /* called once */
    e->proc = proc;
    keep(e, result);
    return 0;
}

static void
is_called(zp_ctx *ctx, end *e)
{
    zp_spawn_options options = {.exit_fn = on_exit_keep, .exit_user = e};
    zp_proc *proc = start(ctx, e->row, &options, true);

    assert_ok(zp_run(ctx));
    check(e, e->proc == proc);
    check(e, e->attempts == 1);
}

static void
is_retried(zp_ctx *ctx, end *e)
{
    zp_retry retry = {.size = sizeof retry, .retries = RETRIES, .delay = -1};
    zp_spawn_options options = {.retry = &retry};
    zp_result result = {.size = sizeof result};
    int rc;

    e->proc = start(ctx, e->row, &options, true);
    rc = zp_wait(e->proc, &result, SECONDS);
    keep(e, &result);
    check(e, rc == (e->code < 0 ? ZP_EFAILED : 0));
    check(e, e->attempts == (e->code < 0 ? RETRIES + 1 : 1));
}

static void
is_started_later(zp_ctx *ctx, end *e)
{
    zp_spawn_options options = {.flags = ZP_DEFERRED};
    zp_result result = {.size = sizeof result};
    int rc;

    e->proc = start(ctx, e->row, &options, true);
    assert_int_equal(zp_proc_pid(e->proc), 0);
    assert_int_equal(zp_proc_alive(e->proc), 0);
    assert_ok(zp_start(e->proc));
    rc = zp_wait(e->proc, &result, SECONDS);
    keep(e, &result);
    check(e, rc == (e->code < 0 ? ZP_EFAILED : 0));
    check(e, e->attempts == 1);
}

/* Reaped by the loop? */
static bool
is_gone(void *user)
{
    struct record_wait *w = user;

    return record_is(w) && kill(w->ret->p.pid, 0) < 0;
}

/* Nobody asks: its record tells. (What it wrote itself may yet be put right:
 * the last flush can end it.) */
static void
is_on_record(zp_ctx *ctx, end *e)
{
    zp_spawn_options options = {0};
    zp_result result = {.size = sizeof result};
    record r;
    struct record_wait w = {ctx, 0, ZP_PROC_ENDED, 1, &r};

    start(ctx, e->row, &options, false);
    assert_true(find_record(ctx, 0, &r));
    w.id = r.p.id;
    assert_true(zp_test_until(is_gone, &w, 20));
    assert_true(record_is(&w));
    result.code = r.p.code;
    result.status = r.p.status;
    result.signal = r.p.signal;
    result.core = r.p.core;
    result.error = r.error;
    result.origin = r.origin;
    result.backtrace = r.backtrace;
    result.attempts = r.p.attempts;
    result.pid = r.p.pid;
    result.started = r.p.started;
    result.ended = r.p.ended;
    keep(e, &result);
    e->id = r.p.id;
}

/* Each row this WAY, looked at when it has ended, and again when all have. */
static void
go(void (*way)(zp_ctx *ctx, end *e))
{
    zp_ctx *ctx = new_ctx(NULL);
    end *ends = calloc(ROWS, sizeof *ends);
    size_t i;

    wrong = 0;
    for (i = 0; i < ROWS; i++) {
        end *e = &ends[i];

        e->row = &rows[i];
        if (e->row->no_context)
            move_store(ctx, false);
        way(ctx, e);
        if (e->row->no_context)
            move_store(ctx, true);
        if (e->proc)
            e->id = zp_proc_id(e->proc);
        check_end(e);
        check_record(ctx, e);
    }
    for (i = 0; i < ROWS; i++) {
        check_record(ctx, &ends[i]);
        if (ends[i].proc)
            check_again(&ends[i]);
    }
    free(ends);
    zp_ctx_free(ctx);
    assert_int_equal(wrong, 0);
}

static void
test_waited_for(void **state)
{
    (void)state;
    go(is_waited_for);
}

static void
test_called(void **state)
{
    (void)state;
    go(is_called);
}

static void
test_retried(void **state)
{
    (void)state;
    go(is_retried);
}

static void
test_started_later(void **state)
{
    (void)state;
    go(is_started_later);
}

static void
test_on_record(void **state)
{
    (void)state;
    go(is_on_record);
}

/* ------------------------------------------------------------ other rows -- */

/* All rows at once: each is told its own. */
static void
test_all_together(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result *results = calloc(ROWS, sizeof *results);
    end *ends = calloc(ROWS, sizeof *ends);
    size_t i, n = 0, failed = 0;

    (void)state;
    wrong = 0;
    for (i = 0; i < ROWS; i++) {
        zp_spawn_options options = {0};

        if (rows[i].no_context)
            continue;
        results[n].size = sizeof *results;
        ends[n].row = &rows[i];
        ends[n++].proc = start(ctx, &rows[i], &options, true);
        failed += rows[i].code < 0;
    }
    assert_returns(zp_ctx_wait(ctx, results, n, ZP_SAFE, SECONDS), (int)failed);
    for (i = 0; i < n; i++) {
        keep(&ends[i], &results[i]);
        ends[i].id = zp_proc_id(ends[i].proc);
        check_end(&ends[i]);
        check_record(ctx, &ends[i]);
    }
    free(ends);
    free(results);
    zp_ctx_free(ctx);
    assert_int_equal(wrong, 0);
}

/* zp_exit() is for children. */
static void
test_exit_of_the_parent(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    assert_returns(zp_exit(ctx, 0), -EINVAL);
    assert_has(zp_ctx_error(ctx), "zp_exit");
    zp_ctx_free(ctx);
}

/* No such program: the call says so, and it has never been. */
static void
test_no_program(void **state)
{
    const char *argv[] = {"/nowhere/program", NULL};
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = NULL;

    (void)state;
    assert_returns(zp_spawn_exec(ctx, &proc, NULL, argv, NULL), -ENOENT);
    assert_null(proc);
    assert_has(zp_ctx_error(ctx), "/nowhere/program");
    assert_int_equal(count_records(ctx), 0);
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, 0), 0);
    zp_ctx_free(ctx);
}

/* It was there the first time: then that is how the further attempts end. */
static void
test_program_goes_away(void **state)
{
    const char *path = zp_test_path("goes"), *argv[] = {path, NULL};
    zp_retry retry = {.size = sizeof retry, .retries = RETRIES, .delay = -1};
    zp_ctx *ctx = new_ctx(NULL);
    FILE *file = fopen(path, "w");
    zp_result result;
    zp_proc *proc;
    record r;

    (void)state;
    fprintf(file, "#!/bin/sh\nrm -f %s\nexit 3\n", path);
    fclose(file);
    assert_int_equal(chmod(path, 0700), 0);
    assert_ok(zp_spawn_exec(ctx, &proc, SPAWN(.retry = &retry), argv, NULL));
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(result.code, -ENOENT);
    assert_int_equal(result.status, 70);
    assert_int_equal(result.attempts, RETRIES + 1);
    assert_has(result.error, path);
    assert_true(result.ended >= result.started - 0.001);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_ENDED, 1);
    assert_int_equal(r.p.code, -ENOENT);
    assert_int_equal(r.p.status, 70);
    assert_int_equal(r.p.attempts, RETRIES + 1);
    assert_string_equal(r.error, result.error);
    assert_true(r.p.ended >= r.p.started - 0.001);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_waited_for),
        ZP_TEST(test_called),
        ZP_TEST(test_retried),
        ZP_TEST(test_started_later),
        ZP_TEST(test_on_record),
        ZP_TEST(test_all_together),
        ZP_TEST(test_exit_of_the_parent),
        ZP_TEST(test_no_program),
        ZP_TEST(test_program_goes_away),
    };

    return zp_test_main("exits", tests, sizeof tests / sizeof *tests, 60);
}
