/*
 * test_process.c - children: what they get, how they end, what their parent
 * learns, and that none of them outlives it.
 */
#include "tests/api/spawning.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ------------------------------------------------------------- results -- */

static int
returns_values(zp_ctx *ctx, void *arg)
{
    const char *text = "seven";
    int seven = 7;

    if (zp_return(ctx, "i", &(int){1}) < 0)
        return -1;
    if (zp_set_int(zp_ctx_state(ctx), "child", getpid()) < 0)
        return -1;
    if (zp_return(ctx, "is", &seven, &text) < 0) /* the last one counts */
        return -1;
    return *(int *)arg;
}

static void
test_result(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int arg = 42, seven = 0;
    zp_proc *proc = spawn(ctx, NULL, returns_values, &arg);
    zp_value *value = NULL;
    zp_result result;
    char *text = NULL;
    int64_t pid = 0;
    double wrong;

    (void)state;
    arg = 43; /* the child has it as it was */
    result = result_of(proc, 0);
    assert_int_equal(result.code, 42);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.signal, 0);
    assert_string_equal(result.error, "");
    assert_string_equal(result.origin, "");
    assert_int_equal(zp_proc_get(proc, "is", &seven, &text), 0);
    assert_int_equal(seven, 7);
    assert_string_equal(text, "seven");
    free(text);
    assert_int_equal(zp_proc_get(proc, "f", &wrong), ZP_ETYPE);
    assert_int_equal(zp_proc_get(proc, NULL), ZP_EFORMAT);
    assert_int_equal(zp_proc_get_value(proc, &value), 0); /* again */
    assert_string_equal(zp_value_format(value), "is");
    zp_value_free(value);
    assert_int_equal(zp_proc_get_value(proc, NULL), -EINVAL);
    assert_int_equal(result_of(proc, 0).code, 42);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "child", &pid), 0);
    assert_int_equal(pid, zp_proc_pid(proc));
    assert_int_equal(zp_proc_alive(proc), 0);
    zp_ctx_free(ctx);
}

static int
returns_large(zp_ctx *ctx, void *arg)
{
    size_t size = *(size_t *)arg;
    zp_bin bin = {calloc(1, size), (uint32_t)size};
    zp_value *value;
    int rc;

    memset(bin.addr, 'z', size);
    rc = zp_value_new(&value, "B", &bin);
    free(bin.addr);
    if (rc == 0) {
        rc = zp_return_value(ctx, value);
        zp_value_free(value);
    }
    return rc;
}

static void
test_large_result(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    size_t size = 3 << 20;
    zp_proc *proc = spawn(ctx, NULL, returns_large, &size);
    zp_bin bin = {0};

    (void)state;
    result_of(proc, 0);
    assert_int_equal(zp_proc_get(proc, "B", &bin), 0);
    assert_int_equal(bin.sz, size);
    assert_int_equal(((char *)bin.addr)[size - 1], 'z');
    free(bin.addr);
    zp_ctx_free(ctx);
}

static void
test_no_result(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *slow, *quick = spawn(ctx, NULL, returns_0, NULL);
    int value;

    (void)state;
    slow = spawn(ctx, NULL, sleeps, NULL);
    assert_int_equal(zp_wait(quick, NULL, 20), 0);
    assert_int_equal(zp_proc_get(quick, "i", &value), ZP_ENOKEY);
    assert_int_equal(zp_proc_get(slow, "i", &value), -EBUSY);
    assert_int_equal(zp_return(ctx, "i", &value), -EINVAL); /* no child */
    assert_non_null(strstr(zp_ctx_error(ctx), "zp_spawn"));
    assert_int_equal(zp_return_value(ctx, NULL), -EINVAL);
    assert_int_equal(zp_fail(ctx, -EIO, "x"), -EINVAL);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ failures -- */

static int
fails(zp_ctx *ctx, void *arg)
{
    return zp_fail(ctx, *(int *)arg, "no way to %s", "go");
}

static int
fails_with_call(zp_ctx *ctx, void *arg)
{
    int64_t value;

    (void)arg;
    return zp_get_int(zp_ctx_state(ctx), "absent", &value);
}

static int
fails_barely(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return -EPIPE;
}

static int
recovers(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_fail(ctx, -EIO, "not for long") == -EIO ? 0 : 1;
}

static void
test_failures(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_spawn_options named = {.size = sizeof named, .name = "eater"};
    int code = -EIO;
    zp_result result;
    zp_proc *proc;

    (void)state;
    assert_int_equal(zp_spawn(ctx, &proc, &named, fails, &code), 0);
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(result.code, -EIO);
    assert_int_equal(result.status, 1);
    assert_string_equal(result.error, "no way to go");
    assert_non_null(strstr(result.origin, "test_process.c:"));
    assert_non_null(strstr(zp_ctx_error(ctx), "eater"));
    assert_non_null(strstr(zp_ctx_error(ctx), "no way to go"));

    code = 5; /* not an error: made one */
    result = result_of(spawn(ctx, NULL, fails, &code), ZP_EFAILED);
    assert_int_equal(result.code, ZP_EFAILED);

    result = result_of(spawn(ctx, NULL, fails_with_call, NULL), ZP_EFAILED);
    assert_int_equal(result.code, ZP_ENOKEY);
    assert_non_null(strstr(result.error, "absent"));
    assert_string_equal(result.origin, "");

    result = result_of(spawn(ctx, NULL, fails_barely, NULL), ZP_EFAILED);
    assert_int_equal(result.code, -EPIPE);
    assert_non_null(strstr(result.error, "pipe"));

    result = result_of(spawn(ctx, NULL, recovers, NULL), 0);
    assert_string_equal(result.error, "");
    zp_ctx_free(ctx);
}

static int
exits(zp_ctx *ctx, void *arg)
{
    zp_return(ctx, "i", &(int){1});
    exit(*(int *)arg);
}

static int
dies(zp_ctx *ctx, void *arg)
{
    struct rlimit none = {0, 0};

    zp_return(ctx, "i", &(int){1});
    setrlimit(RLIMIT_CORE, &none);
    raise(*(int *)arg);
    return 0;
}

static void
test_exits_and_signals(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    static const int signals[] = {SIGKILL, SIGSEGV, SIGTERM, SIGINT, SIGPIPE};
    int value = 3;
    zp_result result;
    zp_proc *proc;
    size_t i;

    (void)state;
    proc = spawn(ctx, NULL, exits, &value);
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(result.status, 3);
    assert_int_equal(result.code, ZP_EFAILED);
    assert_string_equal(result.error, "exited with status 3");
    assert_int_equal(zp_proc_get(proc, "i", &value), ZP_ENOKEY);
    value = 0;
    assert_int_equal(result_of(spawn(ctx, NULL, exits, &value), 0).status, 0);

    for (i = 0; i < sizeof signals / sizeof *signals; i++) {
        value = signals[i];
        result = result_of(spawn(ctx, NULL, dies, &value), ZP_EFAILED);
        assert_int_equal(result.status, -1);
        assert_int_equal(result.signal, value);
        assert_int_equal(result.core, 0);
        assert_non_null(strstr(result.error, "killed by signal"));
        assert_non_null(strstr(result.error, strsignal(value)));
    }
    zp_ctx_free(ctx);
}

/* The child cannot even open the state: that is what the waiter is told. */
static void
test_no_context_in_child(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char data[300], aside[300];
    zp_result result;
    zp_proc *proc;

    (void)state;
    snprintf(data, sizeof data, "%s/data.mdb", zp_ctx_address(ctx));
    snprintf(aside, sizeof aside, "%s/aside", zp_ctx_address(ctx));
    assert_int_equal(rename(data, aside), 0);
    proc = spawn(ctx, NULL, returns_0, NULL);
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(rename(aside, data), 0);
    assert_true(result.code < 0);
    assert_int_equal(result.status, 70);
    assert_non_null(strstr(result.error, "could not start"));
    zp_ctx_free(ctx);
}

typedef struct lock_case {
    zp_sync held, release, go;
    char address[256];
} lock_case;

static int
hold_lock(zp_state *txn, void *user)
{
    lock_case *c = user;

    (void)txn;
    zp_sync_post(&c->held);
    zp_sync_wait(&c->release, 20);
    return 0;
}

static int
lock_main(void *user)
{
    lock_case *c = user;
    zp_ctx *ctx;

    zp_sync_wait(&c->go, 20);
    assert_int_equal(zp_ctx_attach(&ctx, c->address, NULL), 0);
    assert_int_equal(zp_atomic(zp_ctx_state(ctx), hold_lock, c), 0);
    zp_ctx_free(ctx);
    return 0;
}

static int
returns_when_locked(zp_ctx *ctx, void *arg)
{
    lock_case *c = arg;

    (void)ctx;
    zp_sync_post(&c->go);
    zp_sync_wait(&c->held, 20);
    return 0;
}

/* The outcome cannot be written to the store: not taken for a success. */
static void
test_no_record(void **state)
{
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .lock_timeout = 0.1});
    lock_case c;
    zp_result result;
    zp_proc *proc;
    pid_t holder;

    (void)state;
    zp_sync_open(&c.held);
    zp_sync_open(&c.release);
    zp_sync_open(&c.go);
    snprintf(c.address, sizeof c.address, "%s", zp_ctx_address(ctx));
    holder = zp_test_fork(lock_main, &c);
    proc = spawn(ctx, NULL, returns_when_locked, &c);
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(result.status, 70);
    assert_int_equal(result.code, -ETIMEDOUT);
    assert_non_null(strstr(result.error, "could not be recorded"));
    zp_sync_post(&c.release);
    assert_int_equal(zp_test_wait(holder, 20), 0);
    zp_ctx_free(ctx);
    zp_sync_close(&c.held);
    zp_sync_close(&c.release);
    zp_sync_close(&c.go);
}

/* ------------------------------------------------------------- waiting -- */

typedef struct wait_case {
    zp_ctx *ctx;
    zp_proc *proc;
    zp_sync sync;
    int calls;
    int rc;
} wait_case;

static void
on_post(struct ev_loop *loop, ev_timer *timer, int events)
{
    wait_case *c = timer->data;

    (void)loop;
    (void)events;
    c->calls++;
    zp_sync_post(&c->sync);
}

static int
waits_in_case(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    zp_sync_wait(&((wait_case *)arg)->sync, 20);
    return 0;
}

static void
start_timer(wait_case *c, ev_timer *timer,
            void (*fn)(struct ev_loop *, ev_timer *, int), double after)
{
    ev_timer_init(timer, fn, after, 0);
    timer->data = c;
    ev_timer_start(zp_ev_loop(c->ctx), timer);
}

/* A timeout, then callbacks while it waits: one of them lets the child go. */
static void
test_wait(void **state)
{
    wait_case c = {.ctx = new_ctx(NULL)};
    zp_result result = {.size = sizeof result};
    ev_timer timer;
    double begun;

    (void)state;
    zp_sync_open(&c.sync);
    c.proc = spawn(c.ctx, NULL, waits_in_case, &c);
    assert_int_equal(zp_proc_alive(c.proc), 1);
    assert_true(zp_proc_pid(c.proc) > 0);
    assert_int_equal(zp_wait(c.proc, &result, 0), -ETIMEDOUT);
    begun = zp_test_now();
    assert_int_equal(zp_wait(c.proc, &result, 0.05), -ETIMEDOUT);
    assert_true(zp_test_now() - begun >= 0.05);
    assert_null(result.error); /* untouched */
    assert_int_equal(zp_wait(c.proc, NULL, NAN), -EINVAL);
    result.size = 1;
    assert_int_equal(zp_wait(c.proc, &result, 0), -EINVAL);
    assert_int_equal(zp_wait(NULL, NULL, 0), -EINVAL);
    start_timer(&c, &timer, on_post, 0.02);
    assert_int_equal(zp_wait(c.proc, NULL, -1), 0);
    assert_int_equal(c.calls, 1);
    assert_int_equal(zp_wait(c.proc, NULL, 0), 0);
    assert_int_equal(zp_proc_alive(c.proc), 0);
    zp_sync_close(&c.sync);
    zp_ctx_free(c.ctx);
}

static void
on_break(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    zp_break(((wait_case *)timer->data)->ctx);
}

static void
on_free(struct ev_loop *loop, ev_timer *timer, int events)
{
    wait_case *c = timer->data;

    (void)loop;
    (void)events;
    c->ctx = zp_ctx_free(c->ctx);
}

static void
test_wait_ended_early(void **state)
{
    wait_case c = {.ctx = new_ctx(NULL)};
    ev_timer timer;

    (void)state;
    c.proc = spawn(c.ctx, NULL, sleeps, NULL);
    start_timer(&c, &timer, on_break, 0.02);
    assert_int_equal(zp_wait(c.proc, NULL, -1), ZP_EBREAK);
    assert_int_equal(zp_proc_alive(c.proc), 1);
    start_timer(&c, &timer, on_free, 0.02);
    assert_int_equal(zp_wait(c.proc, NULL, -1), ZP_ECLOSED);
    assert_null(c.ctx);
}

static int
in_atomic(zp_state *txn, void *user)
{
    wait_case *c = user;

    (void)txn;
    assert_int_equal(zp_spawn(c->ctx, NULL, NULL, sleeps, NULL), -EDEADLK);
    assert_int_equal(zp_wait(c->proc, NULL, 0), -EDEADLK);
    assert_int_equal(zp_stop(c->proc, NULL), -EDEADLK);
    return 0;
}

static void
test_bad_calls(void **state)
{
    wait_case c = {.ctx = new_ctx(NULL)};
    zp_spawn_options options = {.size = sizeof options};
    char name[66];

    (void)state;
    c.proc = spawn(c.ctx, NULL, sleeps, NULL);
    assert_int_equal(zp_atomic(zp_ctx_state(c.ctx), in_atomic, &c), 0);
    assert_int_equal(zp_spawn(NULL, NULL, NULL, sleeps, NULL), -EINVAL);
    assert_int_equal(zp_spawn(c.ctx, NULL, NULL, NULL, NULL), -EINVAL);
    options.flags = 1u << 31;
    assert_int_equal(zp_spawn(c.ctx, NULL, &options, sleeps, NULL), -EINVAL);
    options.flags = 0;
    options.name = "";
    assert_int_equal(zp_spawn(c.ctx, NULL, &options, sleeps, NULL), -EINVAL);
    memset(name, 'x', 65);
    name[65] = '\0';
    options.name = name;
    assert_int_equal(zp_spawn(c.ctx, NULL, &options, sleeps, NULL), -EINVAL);
    options.name = NULL;
    options.ns = "";
    assert_int_equal(zp_spawn(c.ctx, NULL, &options, sleeps, NULL), -EINVAL);
    options.ns = NULL;
    options.size = 0;
    assert_int_equal(zp_spawn(c.ctx, NULL, &options, sleeps, NULL), -EINVAL);
    assert_int_equal(zp_proc_pid(NULL), -EINVAL);
    assert_int_equal(zp_proc_alive(NULL), -EINVAL);
    assert_int_equal(zp_stop(NULL, NULL), -EINVAL);
    zp_ctx_free(c.ctx);
}

/* ------------------------------------------------------------ stopping -- */

static void
on_signal(int number)
{
    (void)number;
}

static int
handles_term(zp_ctx *ctx, void *arg)
{
    signal(SIGTERM, on_signal);
    return sleeps(ctx, arg);
}

static int
ignores_term(zp_ctx *ctx, void *arg)
{
    signal(SIGTERM, SIG_IGN);
    return sleeps(ctx, arg);
}

static int
fails_with_timeout(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return -ETIMEDOUT;
}

static int
sets_when_told(zp_ctx *ctx, void *arg)
{
    zp_sync *up_go = arg;
    sigset_t term;
    int number;

    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    zp_sync_post(&up_go[0]);
    sigwait(&term, &number);
    zp_set_int(zp_ctx_state(ctx), "told", 1);
    zp_sync_wait(&up_go[1], 20);
    return 0;
}

/* A callback's error that looks like the end of the grace is none: the process
 * is not killed for it. */
static void
test_stop_callback_fails(void **state)
{
    zp_ctx *ctx =
        new_ctx(&(zp_ctx_options){.size = sizeof(zp_ctx_options), .grace = 60});
    zp_watch *watch = NULL;
    zp_proc *proc;
    zp_sync up_go[2];

    (void)state;
    zp_sync_open(&up_go[0]);
    zp_sync_open(&up_go[1]);
    assert_int_equal(zp_call_when_change(zp_ctx_state(ctx), &watch,
                                         ZP_KEYS("told"), NULL,
                                         fails_with_timeout, NULL),
                     0);
    proc = spawn(ctx, NULL, sets_when_told, up_go);
    zp_sync_wait(&up_go[0], 20);
    while (!zp_watch_confirmed(watch))
        assert_int_equal(zp_wait(proc, NULL, 0.01), -ETIMEDOUT);
    assert_int_equal(zp_stop(proc, NULL), -ETIMEDOUT);
    assert_int_equal(zp_proc_alive(proc), 1);
    zp_sync_post(&up_go[1]);
    assert_int_equal(result_of(proc, 0).signal, 0);
    zp_watch_free(watch);
    zp_sync_close(&up_go[0]);
    zp_sync_close(&up_go[1]);
    zp_ctx_free(ctx);
}

static void
test_stop(void **state)
{
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .grace = 0.2});
    zp_result result = {.size = sizeof result};
    zp_proc *proc;
    zp_sync up;
    double begun;

    (void)state;
    zp_sync_open(&up);
    proc = spawn(ctx, SPAWN(.grace = SECONDS), sleeps, &up);
    zp_sync_wait(&up, 20);
    assert_int_equal(zp_stop(proc, &result), ZP_EFAILED);
    assert_int_equal(result.signal, SIGTERM);
    assert_int_equal(zp_stop(proc, &result), ZP_EFAILED); /* fine again */

    proc = spawn(ctx, NULL, ignores_term, &up);
    zp_sync_wait(&up, 20);
    begun = zp_test_now();
    assert_int_equal(zp_stop(proc, &result), ZP_EFAILED);
    assert_true(zp_test_now() - begun >= 0.2);
    assert_int_equal(result.signal, SIGKILL);

    proc = spawn(ctx, NULL, handles_term, &up);
    zp_sync_wait(&up, 20);
    kill(zp_proc_pid(proc), SIGSTOP); /* its handler cannot run */
    assert_int_equal(zp_stop(proc, &result), ZP_EFAILED);
    assert_int_equal(result.signal, SIGKILL);

    proc = spawn(ctx, NULL, returns_0, NULL);
    assert_int_equal(zp_wait(proc, NULL, 20), 0);
    assert_int_equal(zp_stop(proc, &result), 0);
    assert_int_equal(result.status, 0);
    zp_sync_close(&up);
    zp_ctx_free(ctx);
}

/* Leaving ends the children, stubborn and stopped ones included, in one grace
 * period for all. */
static void
test_free_ends_children(void **state)
{
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .grace = 0.3});
    zp_proc *proc;
    pid_t pids[6];
    zp_sync up;
    double begun;
    int i;

    (void)state;
    zp_sync_open(&up);
    for (i = 0; i < 6; i++) {
        proc = spawn(ctx, NULL, i % 2 ? ignores_term : sleeps, &up);
        pids[i] = zp_proc_pid(proc);
        zp_sync_wait(&up, 20);
    }
    kill(pids[0], SIGSTOP);
    begun = zp_test_now();
    zp_ctx_free(ctx);
    assert_true(zp_test_now() - begun < 0.3 + 1.0 * zp_test_slow());
    for (i = 0; i < 6; i++) {
        assert_int_equal(waitpid(pids[i], NULL, WNOHANG), -1); /* reaped */
        assert_int_equal(errno, ECHILD);
    }
    zp_sync_close(&up);
}

static int
sets_when_posted(zp_ctx *ctx, void *arg)
{
    zp_sync_wait(&((wait_case *)arg)->sync, 20);
    return zp_set_int(zp_ctx_state(ctx), "done", 1);
}

/* With ZP_CTX_WAIT leaving waits for them first, with callbacks: one of them
 * lets the child go. */
static void
test_free_waits(void **state)
{
    wait_case c = {.ctx = new_ctx(NULL)};
    zp_ctx_options waiting = {.size = sizeof waiting, .flags = ZP_CTX_WAIT};
    zp_ctx *owner = c.ctx;
    ev_timer timer;

    (void)state;
    zp_sync_open(&c.sync);
    assert_int_equal(zp_ctx_attach(&c.ctx, zp_ctx_address(owner), &waiting), 0);
    assert_int_equal(zp_spawn(c.ctx, NULL, NULL, returns_0, NULL), 0);
    assert_int_equal(zp_spawn(c.ctx, NULL, NULL, sets_when_posted, &c), 0);
    start_timer(&c, &timer, on_post, 0.05);
    zp_ctx_free(c.ctx);
    assert_int_equal(c.calls, 1);
    assert_int_equal(zp_contains(zp_ctx_state(owner), "done"), 1);
    zp_sync_close(&c.sync);
    zp_ctx_free(owner);
}

/* The same from inside of a callback: another watch of the context still sees
 * what lets the child go. */
static int
free_while_waited_for(zp_watch *watch, const zp_event *event, void *user)
{
    wait_case *c = user;

    (void)watch;
    (void)event;
    zp_ctx_free(c->ctx);
    zp_sync_post(&c->sync);
    return 0;
}

static int
post_when_done(zp_watch *watch, const zp_event *event, void *user)
{
    wait_case *c = user;

    (void)watch;
    (void)event;
    c->calls++;
    zp_sync_post(&c->sync);
    return 0;
}

static int
sets_and_waits(zp_ctx *ctx, void *arg)
{
    int rc = sets_when_posted(ctx, arg);

    zp_sync_wait(&((wait_case *)arg)->sync, 20);
    return rc;
}

static void
test_free_waits_in_callback(void **state)
{
    wait_case c = {.ctx = new_ctx(NULL)};
    zp_ctx_options waiting = {.size = sizeof waiting, .flags = ZP_CTX_WAIT};
    zp_ctx *owner = c.ctx;
    zp_state *guest;

    (void)state;
    zp_sync_open(&c.sync);
    assert_int_equal(zp_ctx_attach(&c.ctx, zp_ctx_address(owner), &waiting), 0);
    guest = zp_ctx_state(c.ctx);
    assert_int_equal(zp_call_when_change(guest, NULL, ZP_KEYS("free"), NULL,
                                         free_while_waited_for, &c),
                     0);
    assert_int_equal(zp_call_when_change(guest, NULL, ZP_KEYS("done"), NULL,
                                         post_when_done, &c),
                     0);
    assert_int_equal(zp_spawn(c.ctx, NULL, NULL, sets_and_waits, &c), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(owner), "free", 1), 0);
    assert_int_equal(zp_run(c.ctx), ZP_ECLOSED);
    assert_int_equal(c.calls, 1);
    zp_sync_close(&c.sync);
    zp_ctx_free(owner);
}

/* -------------------------------------------------------- environment -- */

/* Those that leave a backtrace. */
static bool
tells_a_crash(int number)
{
    return number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
           number == SIGILL || number == SIGABRT || number == SIGTRAP ||
           number == SIGSYS;
}

static int
looks_at_signals(zp_ctx *ctx, void *arg)
{
    struct sigaction action;
    sigset_t mask;
    int number;

    (void)arg;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (number = 1; number < 32; number++) {
        if (sigismember(&mask, number))
            return zp_fail(ctx, -1, "signal %d is blocked", number);
        sigaction(number, NULL, &action);
        if (action.sa_handler != SIG_DFL && !tells_a_crash(number))
            return zp_fail(ctx, -1, "signal %d is not default", number);
    }
    return 0;
}

static void
test_signals_are_default(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    sigset_t mask, before;

    (void)state;
    signal(SIGUSR1, on_signal);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_BLOCK, &mask, &before);
    result_of(spawn(ctx, NULL, looks_at_signals, NULL), 0);
    sigprocmask(SIG_SETMASK, NULL, &mask);
    assert_true(sigismember(&mask, SIGUSR2)); /* ours are as they were */
    assert_false(sigismember(&mask, SIGTERM));
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    zp_ctx_free(ctx);
}

static int
looks_at_ns(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    if (strcmp(zp_state_ns(state), arg) != 0)
        return -EINVAL;
    return zp_set_int(state, "k", 1);
}

static void
test_namespace(void **state)
{
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .ns = "mine"});
    zp_spawn_options other = {.size = sizeof other, .ns = "other"};
    zp_proc *proc;

    (void)state;
    result_of(spawn(ctx, NULL, looks_at_ns, (void *)"mine"), 0);
    assert_int_equal(zp_contains(zp_ctx_state(ctx), "k"), 1);
    assert_int_equal(zp_delete(zp_ctx_state(ctx), "k"), 0);
    assert_int_equal(zp_spawn(ctx, &proc, &other, looks_at_ns, (void *)"other"),
                     0);
    result_of(proc, 0);
    assert_int_equal(zp_contains(zp_ctx_state(ctx), "k"), 0);
    zp_ctx_free(ctx);
}

/* An application that reaps everything, or ignores SIGCHLD, gets no hang and
 * no wrong result; and its own children are left to it. */
static void
test_stolen_status(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int value = 5;
    zp_proc *proc;
    zp_result result;
    pid_t own;

    (void)state;
    proc = spawn(ctx, NULL, returns_values, &value);
    while (waitpid(zp_proc_pid(proc), NULL, 0) < 0)
        assert_int_equal(errno, EINTR);
    result = result_of(proc, 0);
    assert_int_equal(result.code, 5);

    value = SIGKILL;
    proc = spawn(ctx, NULL, dies, &value);
    while (waitpid(zp_proc_pid(proc), NULL, 0) < 0)
        assert_int_equal(errno, EINTR);
    result = result_of(proc, ZP_EFAILED);
    assert_int_equal(result.status, -1);
    assert_non_null(strstr(result.error, "taken"));

    signal(SIGCHLD, SIG_IGN);
    value = 6;
    result = result_of(spawn(ctx, NULL, returns_values, &value), 0);
    assert_int_equal(result.code, 6);
    signal(SIGCHLD, SIG_DFL);

    own = fork();
    if (own == 0)
        _exit(9);
    value = 0;
    result_of(spawn(ctx, NULL, returns_values, &value), 0);
    assert_int_equal(zp_run(ctx), 0);
    zp_ctx_free(ctx);
    assert_int_equal(waitpid(own, &value, 0), own);
    assert_int_equal(WEXITSTATUS(value), 9);
}

/* They do not pile up where no loop runs: spawning cleans up, too. */
static void
test_unasked_without_loop(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int i, fds;

    (void)state;
    result_of(spawn(ctx, NULL, returns_0, NULL), 0);
    fds = zp_test_open_fds();
    for (i = 0; i < 20; i++) {
        siginfo_t info;

        assert_int_equal(zp_spawn(ctx, NULL, NULL, returns_0, NULL), 0);
        assert_int_equal(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), 0);
    }
    assert_true(zp_test_open_fds() <= fds + 2);
    zp_ctx_free(ctx);
}

/* Children that nobody asked for are cleaned up when they end. */
static void
test_unasked(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_stats stats = {.size = sizeof stats};
    zp_proc *last;
    int i, fds;
    long kb;

    (void)state;
    result_of(spawn(ctx, NULL, returns_0, NULL), 0);
    fds = zp_test_open_fds();
    kb = zp_test_vm_size(0);
    for (i = 0; i < 100; i++) {
        assert_int_equal(zp_spawn(ctx, NULL, NULL, returns_0, NULL), 0);
        zp_run(ctx);
    }
    last = spawn(ctx, NULL, returns_0, NULL);
    result_of(last, 0);
    for (i = 0; i < 2000 && zp_test_open_fds() > fds; i++) {
        assert_int_equal(zp_run(ctx), 0);
        poll(NULL, 0, 2);
    }
    assert_int_equal(zp_test_open_fds(), fds);
    if (!zp_test_instrumented())
        assert_true(zp_test_vm_size(0) < kb + 200); /* less than two each */
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    zp_ctx_free(ctx);
}

/* Who reads what a process writes need not run the loop to see its end. */
static void
test_pipe_without_loop(void **state)
{
    zp_spawn_options options = {.size = sizeof options,
                                .out = {.kind = ZP_STREAM_PIPE}};
    zp_ctx *ctx = new_ctx(NULL);
    struct pollfd poller = {.events = POLLIN};
    zp_proc *proc;
    char byte;

    (void)state;
    assert_int_equal(zp_spawn(ctx, &proc, &options, returns_0, NULL), 0);
    poller.fd = zp_proc_stream(proc, 1);
    assert_true(poller.fd >= 0);
    assert_int_equal(poll(&poller, 1, (int)(20e3 * zp_test_slow())), 1);
    assert_int_equal(read(poller.fd, &byte, 1), 0);
    close(poller.fd);
    result_of(proc, 0);
    zp_ctx_free(ctx);
}

/* What would be passed to a function is refused where there is none. */
static void
test_program_takes_no_argument(void **state)
{
    const char *const argv[] = {"true", NULL};
    char arg[] = "x";
    zp_retry retry = {
        .size = sizeof retry, .flags = ZP_RETRY_ARG, .retries = 1};
    zp_spawn_options options = {.size = sizeof options, .retry = &retry};
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    retry.arg = arg;
    retry.arg_size = sizeof arg;
    assert_int_equal(zp_spawn_exec(ctx, NULL, &options, argv, NULL), -EINVAL);
    assert_non_null(strstr(zp_ctx_error(ctx), "retry.arg_size"));
    options.retry = NULL;
    options.arg_size = sizeof arg;
    assert_int_equal(zp_spawn_exec(ctx, NULL, &options, argv, NULL), -EINVAL);
    assert_non_null(strstr(zp_ctx_error(ctx), "options.arg_size"));
    zp_ctx_free(ctx);
}

/* With ever more descriptors, until there are enough for parent and child: a
 * clear error from the one or the other each time, and nothing left. */
static void
test_few_descriptors(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result result = {.size = sizeof result};
    struct rlimit before, few;
    int rc = -1, more, used, highest;
    zp_proc *proc;

    (void)state;
    used = zp_test_open_fds();
    highest = dup(0);
    close(highest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    for (more = 0; rc < 0 && more < 60; more++) {
        few.rlim_cur = (rlim_t)(highest + more);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        rc = zp_spawn(ctx, &proc, NULL, returns_0, NULL);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        if (rc < 0) {
            assert_true(zp_ctx_error(ctx)[0]);
            continue;
        }
        rc = zp_wait(proc, &result, 20 * zp_test_slow());
        if (rc < 0) {
            assert_int_equal(rc, ZP_EFAILED);
            assert_int_equal(result.status, 70);
            assert_non_null(strstr(result.error, "could not start"));
        }
        assert_int_equal(zp_test_open_fds(), used);
    }
    assert_int_equal(rc, 0);
    zp_ctx_free(ctx);
}

static int
forks(zp_ctx *ctx, void *arg)
{
    pid_t pid;
    int status;

    (void)arg;
    pid = fork();
    if (pid == 0)
        return zp_return(ctx, "i", &(int){2}) == ZP_EFORK ? 3 : -3;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    exit(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 5 : 6);
}

/* A function that forks, and returns in the other process: only the spawned
 * one tells how it went. */
static void
test_function_forks(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_result result = result_of(spawn(ctx, NULL, forks, NULL), ZP_EFAILED);

    (void)state;
    assert_int_equal(result.status, 5);
    assert_string_equal(result.error, "exited with status 5");
    zp_ctx_free(ctx);
}

/* Many at once, all waited for. */
static void
test_many(void **state)
{
    enum { N = 40 };
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *procs[N];
    int i, args[N];

    (void)state;
    for (i = 0; i < N; i++) {
        args[i] = i;
        procs[i] = spawn(ctx, NULL, returns_values, &args[i]);
    }
    for (i = 0; i < N; i++)
        assert_int_equal(result_of(procs[i], 0).code, i);
    zp_ctx_free(ctx);
}

typedef struct thread_case {
    zp_ctx *ctx;
    zp_sync up, go;
} thread_case;

static int
waits_for_go(zp_ctx *ctx, void *arg)
{
    thread_case *c = arg;

    (void)ctx;
    zp_sync_post(&c->up);
    zp_sync_wait(&c->go, 20);
    return 11;
}

static void *
spawn_in_thread(void *user)
{
    thread_case *c = user;

    return spawn(c->ctx, NULL, waits_for_go, c);
}

/* A child of a thread that ends goes on. */
static void
test_thread(void **state)
{
    thread_case c = {.ctx = new_ctx(NULL)};
    pthread_t thread;
    void *proc;

    (void)state;
    zp_sync_open(&c.up);
    zp_sync_open(&c.go);
    assert_int_equal(pthread_create(&thread, NULL, spawn_in_thread, &c), 0);
    assert_int_equal(pthread_join(thread, &proc), 0);
    zp_sync_wait(&c.up, 20);
    zp_sync_post(&c.go);
    assert_int_equal(result_of(proc, 0).code, 11);
    zp_sync_close(&c.up);
    zp_sync_close(&c.go);
    zp_ctx_free(c.ctx);
}

/* --------------------------------------------------------------- trees -- */

enum { DEPTH = 5 };

typedef struct level {
    int number;
    bool sockets; /* each level talks to the server: threads and sockets */
} level;

/* What a level has when it begins, to the state. */
static int
measure(zp_ctx *ctx, int number)
{
    char key[16];
    int rc;

    snprintf(key, sizeof key, "fds%d", number);
    rc = zp_set_int(zp_ctx_state(ctx), key, zp_test_open_fds());
    snprintf(key, sizeof key, "vm%d", number);
    if (rc == 0)
        rc = zp_set_int(zp_ctx_state(ctx), key, zp_test_vm_size(0));
    snprintf(key, sizeof key, "own%d", number);
    if (rc == 0)
        rc = zp_set_int(zp_ctx_state(ctx), key, zp_test_vm_private(0));
    return rc;
}

static int
nested(zp_ctx *ctx, void *arg)
{
    level this = *(level *)arg, below = {this.number + 1, this.sockets};
    zp_result result = {.size = sizeof result};
    zp_proc *proc;
    int rc = measure(ctx, this.number);

    if (rc == 0 && this.sockets)
        rc = zp_ping(ctx, NULL, NULL, 0, 20);
    if (rc < 0 || this.number == DEPTH)
        return rc < 0 ? rc : this.number;
    rc = zp_spawn(ctx, &proc, NULL, nested, &below);
    if (rc == 0)
        rc = zp_wait(proc, &result, 20 * zp_test_slow());
    return rc < 0 ? rc : result.code;
}

static int64_t
measured(zp_ctx *ctx, const char *what, int number)
{
    int64_t value = -1;
    char key[16];

    snprintf(key, sizeof key, "%s%d", what, number);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), key, &value), 0);
    return value;
}

/* Five levels: each begins with as many descriptors as the one above it, with
 * as much address space, but for LMDB's lists there, 3 MiB that are hardly
 * touched, and with little memory of its own. (What threads reserve for
 * malloc() varies.) */
static void
test_nested(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    level first = {1, false};
    int64_t fds, kb, own;
    int i, round;

    (void)state;
    for (round = 0; round < 2; round++) {
        first.sockets = round == 1;
        assert_int_equal(result_of(spawn(ctx, NULL, nested, &first), 0).code,
                         DEPTH);
        for (i = 2; i <= DEPTH; i++) {
            fds = measured(ctx, "fds", i) - measured(ctx, "fds", 1);
            kb = measured(ctx, "vm", i) - measured(ctx, "vm", 1);
            if (fds != 0)
                fail_msg("level %d: %d descriptors more", i, (int)fds);
            own = measured(ctx, "own", i);
            if (zp_test_instrumented())
                continue;
            if (!first.sockets && kb > 3584 * (i - 1))
                fail_msg("level %d: %d kB more", i, (int)kb);
            if (own > 1536)
                fail_msg("level %d: %d kB of its own", i, (int)own);
        }
    }
    zp_ctx_free(ctx);
}

/* Spawn one below, down to the last, which says so and sleeps. */
static int
chain(zp_ctx *ctx, void *arg)
{
    thread_case *c = arg;
    int64_t depth;
    int rc = zp_increase(zp_ctx_state(ctx), "level", &depth, 1);

    if (rc == 0 && depth < DEPTH)
        rc = zp_spawn(ctx, NULL, NULL, chain, c);
    else if (rc == 0)
        zp_sync_post(&c->up);
    return rc < 0 ? rc : sleeps(ctx, NULL);
}

/* A whole chain goes with its top: none of it outlives the context (the fence
 * looks for survivors). */
static void
test_tree_ends(void **state)
{
    thread_case c = {.ctx = new_ctx(NULL)};

    (void)state;
    zp_sync_open(&c.up);
    assert_int_equal(zp_set_int(zp_ctx_state(c.ctx), "level", 0), 0);
    spawn(c.ctx, NULL, chain, &c);
    zp_sync_wait(&c.up, 20);
    assert_true(zp_test_descendants(NULL, 0) >= DEPTH);
    zp_ctx_free(c.ctx);
    zp_sync_close(&c.up);
}

static int
tree_main(void *user)
{
    thread_case *c = user;

    setpgid(0, 0);
    c->ctx = new_ctx(NULL);
    assert_int_equal(zp_set_int(zp_ctx_state(c->ctx), "level", 0), 0);
    spawn(c->ctx, NULL, chain, c);
    zp_run(c->ctx); /* nothing to wait for */
    return sleeps(c->ctx, NULL);
}

/* The owner is killed, or ^C is typed: all is gone soon, on its own. */
static void
test_owner_killed(void **state)
{
    thread_case c = {0};
    pid_t pid;
    int round;

    (void)state;
    for (round = 0; round < 2; round++) {
        zp_sync_open(&c.up);
        pid = zp_test_fork(tree_main, &c);
        zp_sync_wait(&c.up, 20);
        assert_int_equal(round ? kill(-pid, SIGINT) : kill(pid, SIGKILL), 0);
        assert_int_equal(zp_test_wait(pid, 5), round ? -SIGINT : -SIGKILL);
        zp_sync_close(&c.up);
    }
}

/* -------------------------------------------------------------- output -- */

static int
exits_with_output(zp_ctx *ctx, void *arg)
{
    prints(ctx, arg);
    exit(0);
}

static int
output_main(void *user)
{
    int *fd = user;
    zp_ctx *ctx;

    dup2(fd[1], STDOUT_FILENO);
    close(fd[0]);
    close(fd[1]);
    setvbuf(stdout, NULL, _IOFBF, 4096);
    printf("a");
    ctx = new_ctx(NULL);
    result_of(spawn(ctx, NULL, prints, (void *)"b"), 0);
    result_of(spawn(ctx, NULL, exits_with_output, (void *)"c"), 0);
    printf("d");
    fflush(stdout);
    spawn(ctx, NULL, sleeps, NULL);
    raise(SIGKILL); /* its child and its server let go of the pipe, too */
    return 0;
}

/* Everything appears once, in order, and the reader sees the end. */
static void
test_output(void **state)
{
    char text[64] = "";
    size_t used = 0;
    ssize_t n;
    int fd[2];
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(fd), 0);
    pid = zp_test_fork(output_main, fd);
    close(fd[1]);
    while ((n = read(fd[0], text + used, sizeof text - 1 - used)) > 0)
        used += (size_t)n;
    assert_string_equal(text, "abcd");
    close(fd[0]);
    assert_int_equal(zp_test_wait(pid, 5), -SIGKILL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_result),
        ZP_TEST(test_large_result),
        ZP_TEST(test_no_result),
        ZP_TEST(test_failures),
        ZP_TEST(test_exits_and_signals),
        ZP_TEST(test_no_context_in_child),
        ZP_TEST(test_no_record),
        ZP_TEST(test_wait),
        ZP_TEST(test_wait_ended_early),
        ZP_TEST(test_bad_calls),
        ZP_TEST(test_stop),
        ZP_TEST(test_stop_callback_fails),
        ZP_TEST(test_free_ends_children),
        ZP_TEST(test_free_waits),
        ZP_TEST(test_free_waits_in_callback),
        ZP_TEST(test_signals_are_default),
        ZP_TEST(test_namespace),
        ZP_TEST(test_stolen_status),
        ZP_TEST(test_unasked),
        ZP_TEST(test_pipe_without_loop),
        ZP_TEST(test_program_takes_no_argument),
        ZP_TEST(test_unasked_without_loop),
        ZP_TEST(test_few_descriptors),
        ZP_TEST(test_function_forks),
        ZP_TEST(test_many),
        ZP_TEST(test_thread),
        ZP_TEST(test_nested),
        ZP_TEST(test_tree_ends),
        ZP_TEST(test_owner_killed),
        ZP_TEST(test_output),
    };

    return zp_test_main("process", tests, sizeof tests / sizeof *tests, 60);
}
