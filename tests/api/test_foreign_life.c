/*
 * test_foreign_life.c - what may happen to a context in a loop that is not
 * libev's: anything in its callbacks; a server, an owner, a child that ends; a
 * fork. And to one whose loop is the application's libev loop.
 */
#include "tests/api/polling.h"

#include <signal.h>

/* ---------------------------------------------------- inside callbacks -- */

typedef struct inner {
    recorder *other;
    zp_state *state;
} inner;

/* A loop in a callback, in which another watch is called. */
static int
turn_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    inner *in = r->user;
    int turns;

    (void)watch;
    (void)event;
    set(in->state, "other", (int64_t)r->n);
    turns = turn_until(in->other, r->n);
    assert_in_range(turns, 1, 50);
    set(in->state, "n", (int64_t)r->n + 1); /* not while it runs itself */
    if (r->n == 1)
        for (int i = 0; i < 3; i++) {
            readable(zp_ctx_fd(r->ctx), 20);
            assert_ok(zp_ctx_dispatch(r->ctx));
            assert_int_equal(r->n, 1);
        }
    return 0;
}

static void
test_nested(void **state)
{
    fixture *f = *state;
    recorder second = {.ctx = f->ctx};
    inner in = {&second, f->other};
    recorder first = {.ctx = f->ctx, .then = turn_inside, .user = &in};
    zp_watch *a = watch_n(&first), *b;

    assert_ok(zp_call_when_change(f->state, &b, ZP_KEYS("other"), NULL, record,
                                  &second));
    turn_until_confirmed(f->ctx, b);
    set(f->other, "n", 1);
    turn_until(&first, 5);
    assert_counted(&first, 5);
    assert_counted(&second, 5);
    zp_watch_free(a);
    zp_watch_free(b);
    forget(&first);
    forget(&second);
}

static int
free_context(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    assert_null(zp_ctx_free(r->ctx));
    r->rc = zp_ctx_dispatch(r->ctx); /* it is there until this returns */
    return 0;
}

static void
test_freed_inside(void **state)
{
    recorder r = {.then = free_context};
    int fd, before = zp_test_open_fds();

    (void)state;
    assert_ok(zp_ctx_new(&r.ctx, NULL));
    watch_n(&r);
    fd = zp_ctx_fd(r.ctx);
    assert_true(fd >= 0);
    assert_ok(zp_set_int(zp_ctx_state(r.ctx), "m", 1));
    zp_state *other;
    assert_ok(zp_state_clone(zp_ctx_state(r.ctx), &other, NULL));
    set(other, "n", 1);
    while (r.n == 0) {
        int rc = turn(r.ctx);

        assert_true(rc == 0 || (rc == ZP_ECLOSED && r.n == 1));
    }
    assert_return(r.rc, ZP_ECLOSED);
    assert_int_equal(zp_test_open_fds(), before);
    forget(&r);
}

/* Negative values come out, -ETIMEDOUT and ZP_EBREAK, too, once each; a break
 * only ends the turn. */
static void
test_negative_values(void **state)
{
    static const int codes[] = {-EIO, -ETIMEDOUT, ZP_EBREAK, ZP_EGONE, 0};
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch = watch_n(&r);
    int rc;

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        r.rc = codes[i];
        r.want = codes[i] == 0 ? r.n + 1 : 0; /* record() breaks then */
        set(f->other, "n", (int64_t)i + 1);
        while ((rc = turn(f->ctx)) == 0 && r.n == i)
            continue;
        assert_int_equal(r.n, i + 1);
        assert_return(rc, codes[i]);
        assert_ok(zp_ctx_dispatch(f->ctx));
    }
    assert_return(zp_break(f->ctx), -EINVAL); /* nothing runs out here */
    zp_watch_free(watch);
    forget(&r);
}

static int
dispatch_inside(zp_state *txn, void *user)
{
    (void)txn;
    return zp_ctx_dispatch(user);
}

static void
test_inside_an_atomic(void **state)
{
    fixture *f = *state;

    assert_return(zp_atomic(f->state, dispatch_inside, f->ctx), -EDEADLK);
    assert_ok(zp_ctx_dispatch(f->ctx));
}

/* -------------------------------------------------- others come and go -- */

static int
quits(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    zp_sync_wait(arg, 30);
    return 5;
}

/* A child that ends is noticed, once. */
static void
test_a_child_ends(void **state)
{
    fixture *f = *state;
    zp_sync go;
    zp_proc *proc;
    zp_result result = {.size = sizeof result};
    int fd;

    zp_sync_open(&go);
    fd = zp_ctx_fd(f->ctx);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, quits, &go));
    assert_false(readable(fd, 0));
    zp_sync_post(&go);
    assert_ok(turn(f->ctx));
    for (int turns = 0; readable(fd, 0); turns++) {
        assert_true(turns < 10);
        assert_ok(zp_ctx_dispatch(f->ctx));
    }
    if (!zp_test_valgrind())
        assert_int_equal(zp_proc_alive(proc), 0);
    assert_ok(zp_wait(proc, &result, -1));
    assert_int_equal(result.code, 5);
    zp_sync_close(&go);
}

static uint64_t
server_of(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_ctx_stats(ctx, &stats));
    return stats.server_pid;
}

/* The server dies: this loop starts another, and misses nothing. */
static void
test_server_killed(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch = watch_n(&r);
    size_t n = 0;

    for (int i = 0; i < 3; i++) {
        pid_t server = (pid_t)server_of(f->ctx);

        set(f->other, "n", (int64_t)++n);
        kill(server, SIGKILL);
        set(f->other, "n", (int64_t)++n);
        turn_until(&r, n);
        while (server_of(f->ctx) == (uint64_t)server)
            assert_ok(turn(f->ctx));
        turn_until_confirmed(f->ctx, watch);
        set(f->other, "n", (int64_t)++n);
        turn_until(&r, n);
    }
    assert_counted(&r, n);
    zp_watch_free(watch);
    forget(&r);
}

typedef struct owner {
    zp_sync up, end;
} owner;

static int
owns(void *user)
{
    owner *o = user;
    zp_ctx *ctx = NULL;

    if (zp_ctx_new(&ctx, &(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                           .name = "owned"}) < 0)
        return 1;
    zp_sync_send(&o->up, (int64_t)server_of(ctx));
    zp_sync_wait(&o->end, 60);
    zp_ctx_free(ctx);
    return 0;
}

/* A context that starts removes what killed ones have left. */
static bool
is_swept(void *user)
{
    zp_ctx *ctx;

    (void)user;
    assert_ok(zp_ctx_new(&ctx, NULL));
    zp_ctx_free(ctx);
    return zp_test_entries(zp_test_run_dir()) <= 0;
}

/* The owner leaves, or is killed together with its server: who sleeps in a
 * poll() without an end is woken up and told, whether it has a watch or not. */
static void
test_closed(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        bool watches = i % 2, killed = i / 2;
        recorder r = {0};
        owner o;
        int rc = 0;

        zp_sync_open(&o.up);
        zp_sync_open(&o.end);
        pid_t pid = zp_test_fork(owns, &o);
        pid_t server = (pid_t)zp_sync_receive(&o.up, 30);
        assert_ok(zp_ctx_attach(&r.ctx, "owned", NULL));
        if (watches)
            watch_n(&r);
        int fd = zp_ctx_fd(r.ctx);
        assert_true(fd >= 0);
        turn_until_at_rest(r.ctx);
        if (!zp_test_valgrind())
            assert_int_equal(promised(r.ctx), -1);
        if (killed) {
            kill(pid, SIGKILL);
            zp_test_wait(pid, 30); /* reaped, before the server goes */
            zp_test_kill_server(server);
        } else {
            zp_sync_post(&o.end);
        }
        while (rc == 0) {
            double timeout;

            rc = zp_ctx_timeout(r.ctx, &timeout);
            if (rc < 0)
                break;
            readable(fd, timeout < 0 ? -1 : (int)(timeout * 1000 + 0.999));
            rc = zp_ctx_dispatch(r.ctx);
        }
        assert_return(rc, ZP_ECLOSED);
        assert_return(zp_ctx_dispatch(r.ctx), ZP_ECLOSED);
        assert_return(zp_ctx_fd(r.ctx), ZP_ECLOSED);
        zp_ctx_free(r.ctx);
        if (!killed)
            assert_int_equal(zp_test_wait(pid, 30), 0);
        assert_true(zp_test_until(is_swept, NULL, 10));
        zp_sync_close(&o.up);
        zp_sync_close(&o.end);
    }
}

static int
in_child(void *user)
{
    fixture *f = user;
    double timeout;

    assert_return(zp_ctx_fd(f->ctx), ZP_EFORK);
    assert_return(zp_ctx_events(f->ctx), ZP_EFORK);
    assert_return(zp_ctx_timeout(f->ctx, &timeout), ZP_EFORK);
    assert_return(zp_ctx_dispatch(f->ctx), ZP_EFORK);
    assert_null(zp_ctx_free(f->ctx));
    return 0;
}

/* A forked child can do nothing with it, and does nothing to it. */
static void
test_fork(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    int fd = zp_ctx_fd(f->ctx);

    assert_true(fd >= 0);
    assert_int_equal(zp_test_wait(zp_test_fork(in_child, f), 30), 0);
    zp_watch *watch = watch_n(&r);
    set(f->other, "n", 1);
    turn_until(&r, 1);
    assert_int_equal(zp_ctx_fd(f->ctx), fd);
    zp_watch_free(watch);
    forget(&r);
}

/* What zp_spawn() makes has no descriptor of its parent's set, and a set of
 * its own. */
static int
counts_turns(zp_ctx *ctx, void *arg)
{
    recorder r = {.ctx = ctx};
    zp_watch *watch = watch_n(&r);

    zp_sync_post(arg);
    turn_until(&r, 3);
    zp_watch_free(watch);
    forget(&r);
    return (int)r.n;
}

static void
test_in_a_child_of_ours(void **state)
{
    fixture *f = *state;
    zp_sync up;
    zp_proc *proc;

    assert_true(zp_ctx_fd(f->ctx) >= 0);
    zp_sync_open(&up);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, counts_turns, &up));
    zp_sync_wait(&up, 30);
    for (int i = 1; i <= 3; i++)
        set(f->state, "n", i);
    assert_ok(zp_wait(proc, NULL, -1));
    zp_sync_close(&up);
}

/* On a libev loop of the application's: dispatching runs that loop, for the
 * application's watchers, too; and ev_run() does as well. */
static void
test_on_a_libev_loop(void **state)
{
    struct ev_loop *ev = ev_loop_new(0);
    zp_ctx_options options = {.size = sizeof options, .loop = ev};
    recorder r = {0};
    zp_state *other;
    zp_watch *watch;
    ev_timer timer;
    bool over = false;

    (void)state;
    assert_ok(zp_ctx_new(&r.ctx, &options));
    watch = watch_n(&r);
    assert_ok(zp_state_clone(zp_ctx_state(r.ctx), &other, NULL));
    ev_timer_init(&timer, on_time, 0, 0);
    timer.data = &over;
    ev_timer_start(ev, &timer);
    while (!over)
        assert_ok(zp_ctx_dispatch(r.ctx));
    set(other, "n", 1);
    turn_until(&r, 1);
    set(other, "n", 2);
    while (r.n < 2)
        ev_run(ev, EVRUN_ONCE);
    set(other, "n", 3);
    turn_until(&r, 3);
    assert_counted(&r, 3);
    zp_watch_free(watch);
    zp_ctx_free(r.ctx);
    assert_int_equal(ev_run(ev, EVRUN_NOWAIT), 0);
    ev_loop_destroy(ev);
    forget(&r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_nested, watching_setup, watching_teardown),
        ZP_TEST(test_freed_inside),
        ZP_TEST_WITH(test_negative_values, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_inside_an_atomic, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_a_child_ends, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_server_killed, watching_setup, watching_teardown),
        ZP_TEST(test_closed),
        ZP_TEST_WITH(test_fork, watching_setup, watching_teardown),
        ZP_TEST_WITH(test_in_a_child_of_ours, watching_setup,
                     watching_teardown),
        ZP_TEST(test_on_a_libev_loop),
    };

    return zp_test_main("foreign_life", tests, sizeof tests / sizeof *tests,
                        60);
}
