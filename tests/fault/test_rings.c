/*
 * test_rings.c - who writes rings a few watchers by itself: the server may be
 * stopped meanwhile, and is asked only where it has to be. (What becomes of
 * bells that fail is in test_bells.c, the list of those that are open in
 * tests/unit/test_rings.c.)
 *
 * Two processes: who asks sets a key, the echo watches it and sets "b", which
 * the first one watches. With the server stopped nothing but their bells takes
 * this back and forth.
 */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/fault/bells.h"

#define MANY 6 /* more than one process has open of others */

typedef struct echo {
    const char *key;
    zp_sync ready;
    zp_ctx *ctx;
    zp_proc *proc;
} echo;

typedef struct asker {
    recorder r;
    zp__pid server;
} asker;

/* ------------------------------------------------------------------- echo --
 */

static int
answer(zp_watch *watch, const zp_event *event, void *user)
{
    echo *e = user;
    int64_t value = int_at(zp_event_snapshot(event), e->key);

    (void)watch;
    if (value == 0)
        return zp_break(e->ctx);
    return zp_set_int(zp_ctx_state(e->ctx), "b", value);
}

/* Until the key is set to 0. */
static int
be_echo(zp_ctx *ctx, void *arg)
{
    echo *e = arg;
    zp_watch *watch;
    int rc;

    e->ctx = ctx;
    rc = zp_call_when_change(zp_ctx_state(ctx), &watch, ZP_KEYS(e->key), NULL,
                             answer, e);
    if (rc < 0)
        return rc;
    while (!zp_watch_confirmed(watch))
        ev_run(zp_ev_loop(ctx), EVRUN_ONCE);
    zp_sync_post(&e->ready);
    return zp_run(ctx);
}

static void
start_echo(fixture *f, echo *e, const char *key)
{
    e->key = key;
    zp_sync_open(&e->ready);
    assert_ok(zp_spawn(f->ctx, &e->proc, NULL, be_echo, e));
    zp_sync_wait(&e->ready, WAIT);
}

static void
end_echo(fixture *f, echo *e)
{
    set(f->other, e->key, 0);
    assert_ok(zp_wait(e->proc, NULL, WAIT * zp_test_slow()));
    zp_sync_close(&e->ready);
}

static unsigned
slot_of(fixture *f, echo *e)
{
    for (unsigned i = 0; i < ZP__SLOTS; i++)
        if (atomic_load(&shared_of(f)->slots[i].owner) >> 32 ==
            (uint64_t)zp_proc_pid(e->proc))
            return i;
    fail_msg("it has no slot");
    return 0;
}

/* ----------------------------------------------------------------- asking --
 */

static void
start_asking(fixture *f, asker *a)
{
    zp_watch *watch;

    memset(a, 0, sizeof *a);
    a->r.ctx = f->ctx;
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("b"), NULL, record,
                                  &a->r));
    while (!zp_watch_confirmed(watch))
        ev_run(zp_ev_loop(f->ctx), EVRUN_ONCE);
}

static void
ask(fixture *f, asker *a, const char *key, int n)
{
    static int64_t value; /* never the one that is there */

    for (int i = 0; i < n; i++) {
        size_t before = a->r.n;

        set(f->other, key, --value);
        run_until(&a->r, before + 1);
        assert_int_equal(a->r.n, before + 1);
        assert_int_equal(a->r.events[before].value, value);
    }
}

static bool
is_stopped(void *user)
{
    zp__pid *server = user;

    return zp_test_process_state(server->pid) == 'T';
}

/* From here on it can help nobody. */
static void
stop_server(fixture *f, asker *a)
{
    a->server = zp__board_server(f->ctx->board);
    assert_int_equal(zp__pid_kill(&a->server, SIGSTOP), 0);
    assert_true(zp_test_until(is_stopped, &a->server, WAIT));
}

static void
go_on(asker *a)
{
    assert_int_equal(zp__pid_kill(&a->server, SIGCONT), 0);
}

/* ------------------------------------------------------------------ tests --
 */

/* Goal: it goes back and forth without the server, as soon as each has opened
 * the other's bell. */
static void
test_without_server(void **state)
{
    fixture *f = *state;
    asker a;
    echo e;

    start_asking(f, &a);
    start_echo(f, &e, "a");
    ask(f, &a, "a", 3);
    assert_int_equal(open_bells(), 2);
    stop_server(f, &a);
    ask(f, &a, "a", rounds(500));
    go_on(&a);
    ask(f, &a, "a", rounds(500));
    assert_int_equal(open_bells(), 2);
    end_echo(f, &e);
    forget(&a.r);
}

static void *
echo_here(void *user)
{
    echo *e = user;
    zp_ctx *ctx;

    if (zp_ctx_attach(&ctx, zp_ctx_address(e->ctx), NULL) < 0)
        return NULL;
    be_echo(ctx, e);
    zp_ctx_free(ctx);
    return NULL;
}

/* Goal: a watcher in another thread of the writer's process is rung through
 * its own descriptor; the writer opens none for it. */
static void
test_threads(void **state)
{
    fixture *f = *state;
    echo e = {.key = "a", .ctx = f->ctx};
    pthread_t thread;
    asker a;

    start_asking(f, &a);
    zp_sync_open(&e.ready);
    assert_int_equal(pthread_create(&thread, NULL, echo_here, &e), 0);
    zp_sync_wait(&e.ready, WAIT);
    stop_server(f, &a);
    ask(f, &a, "a", rounds(500));
    assert_int_equal(open_bells(), 2);
    go_on(&a);
    set(f->other, "a", 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    zp_sync_close(&e.ready);
    assert_int_equal(open_bells(), 1);
    forget(&a.r);
}

/* Goal: who has no bell is told by the server, and so are all others while
 * there is one such. */
static void
test_bare(void **state)
{
    fixture *f = *state;
    asker a;
    echo e, bare;

    start_asking(f, &a);
    start_echo(f, &e, "a");
    ask(f, &a, "a", 3);
    for (unsigned i = 2; i < ZP__SLOTS; i++) /* by init, started at any time */
        atomic_store(&shared_of(f)->slots[i].owner, UINT64_C(1) << 32);
    start_echo(f, &bare, "c");
    assert_int_equal(atomic_load(&shared_of(f)->bare), 1);
    ask(f, &a, "c", rounds(100));
    ask(f, &a, "a", 10);
    kill_server(f);
    ask(f, &a, "c", 10);
    end_echo(f, &bare);
    while (atomic_load(&shared_of(f)->bare))
        ask(f, &a, "a", 1);
    for (unsigned i = 2; i < ZP__SLOTS; i++)
        atomic_store(&shared_of(f)->slots[i].owner, 0);
    end_echo(f, &e);
    forget(&a.r);
}

/* ------------------------------------------------------------ descriptors --
 */

/* Goal: however many there are, few are kept open, and it is those that are
 * rung. */
static void
test_many(void **state)
{
    static const char *const keys[MANY] = {"a0", "a1", "a2", "a3", "a4", "a5"};
    fixture *f = *state;
    echo e[MANY];
    asker a;

    start_asking(f, &a);
    for (int i = 0; i < MANY; i++)
        start_echo(f, &e[i], keys[i]);
    for (int n = 0; n < 3; n++)
        for (int i = 0; i < MANY; i++) {
            ask(f, &a, keys[i], 1);
            assert_in_range(open_bells(), 1, 1 + ZP__RINGS_OTHERS);
        }
    assert_int_equal(open_bells(), 1 + ZP__RINGS_OTHERS);
    ask(f, &a, keys[MANY - 1], 50);
    assert_int_equal(open_bells(), 1 + ZP__RINGS_OTHERS);
    stop_server(f, &a);
    ask(f, &a, keys[MANY - 1], 10);
    go_on(&a);
    for (int i = 0; i < MANY; i++)
        end_echo(f, &e[i]);
    forget(&a.r);
}

/* Goal: who has gone is not kept open, and the next one in its slot is rung,
 * with the same FIFO or another. */
static void
test_given_back(void **state)
{
    fixture *f = *state;
    asker a;
    echo e;

    start_asking(f, &a);
    for (int i = 0; i < 3; i++) {
        start_echo(f, &e, "a");
        assert_int_equal(slot_of(f, &e), 1);
        ask(f, &a, "a", 3);
        stop_server(f, &a);
        ask(f, &a, "a", 10);
        go_on(&a);
        assert_int_equal(open_bells(), 2);
        assert_int_equal(kill(zp_proc_pid(e.proc), SIGKILL), 0);
        assert_true(zp_wait(e.proc, NULL, WAIT * zp_test_slow()) < 0);
        zp_sync_close(&e.ready);
        while (!one_is_taken(f))
            run_for(f->ctx, 0.01);
        if (i == 1)
            assert_int_equal(unlink(bell_file(f, 1)), 0);
    }
    for (int i = 0; i < 64; i++)
        set(f->other, "nobody's", i);
    assert_int_equal(open_bells(), 1);
    forget(&a.r);
}

static int
lowest_free_fd(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

/* Goal: without a descriptor for the bell the server does it. */
static void
test_no_descriptor(void **state)
{
    fixture *f = *state;
    struct rlimit old, few;
    asker a;
    echo e;

    start_asking(f, &a);
    start_echo(f, &e, "a");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    few = old;
    few.rlim_cur = (rlim_t)lowest_free_fd(); /* poll() minds a lower one */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    ask(f, &a, "a", rounds(100));
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(open_bells(), 1);
    ask(f, &a, "a", 2);
    assert_int_equal(open_bells(), 2);
    end_echo(f, &e);
    forget(&a.r);
}

static int
look_at_bells(zp_ctx *ctx, void *arg)
{
    (void)arg;
    if (open_bells() != 0)
        return -EBADF;
    /* the parent and the echo are watching */
    for (int i = 0; i < 3; i++)
        if (zp_increase(zp_ctx_state(ctx), "c", NULL, 1) < 0)
            return -EIO;
    return open_bells() == 1 ? 0 : -EBADF;
}

static int
attach_again(void *user)
{
    zp_ctx *ctx;
    int rc;

    if (zp_ctx_attach(&ctx, user, NULL) < 0)
        return 1;
    rc = look_at_bells(ctx, NULL);
    zp_ctx_free(ctx);
    return rc < 0 || open_bells() != 0 ? 2 : 0;
}

/* Goal: a child has nothing of what its parent rings, be it spawned or forked
 * by hand, and opens what it needs. */
static void
test_children(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    char address[ZP__PATH_MAX];
    zp_proc *proc;
    asker a;
    echo e;

    snprintf(address, sizeof address, "%s", zp_ctx_address(f->ctx));
    assert_ok(zp_set_int(f->other, "c", 0));
    start_asking(f, &a);
    start_echo(f, &e, "a");
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("c"), NULL, record, &r));
    settle(f);
    for (int i = 0; i < 3; i++) {
        ask(f, &a, "a", 2);
        assert_int_equal(open_bells(), 2);
        assert_ok(zp_spawn(f->ctx, &proc, NULL, look_at_bells, NULL));
        assert_ok(zp_wait(proc, NULL, WAIT * zp_test_slow()));
        if (!zp_test_tsan()) /* a context there starts threads */
            assert_int_equal(
                zp_test_wait(zp_test_fork(attach_again, address), WAIT), 0);
        assert_int_equal(open_bells(), 2);
    }
    end_echo(f, &e);
    forget(&r);
    forget(&a.r);
}

/* ------------------------------------------------------------------ deaths --
 */

typedef struct victim {
    zp_sync go, gone;
    unsigned slot;
} victim;

static int
die_with_flag(zp_ctx *ctx, void *arg)
{
    victim *v = arg;

    zp_sync_wait(&v->go, WAIT);
    if (zp__board_lock(ctx->board, 10) < 0)
        return -EIO;
    atomic_store(&ctx->board->shared->slots[v->slot].rung, zp__slot_now());
    raise(SIGKILL);
    return 0;
}

/* Goal: a writer that died between the flag and the byte held the lock: who
 * gets that takes the flag back, and rings, though the server sleeps. */
static void
test_dead_writer(void **state)
{
    fixture *f = *state;
    siginfo_t info;
    zp_proc *proc;
    victim v;
    asker a;
    echo e;

    start_asking(f, &a);
    start_echo(f, &e, "a");
    v.slot = slot_of(f, &e);
    zp_sync_open(&v.go);
    for (int i = 0; i < 3; i++) {
        ask(f, &a, "a", 3);
        assert_ok(zp_spawn(f->ctx, &proc, NULL, die_with_flag, &v));
        stop_server(f, &a);
        zp_sync_post(&v.go);
        assert_int_equal(
            waitid(P_PID, (id_t)zp_proc_pid(proc), &info, WEXITED | WNOWAIT),
            0);
        ask(f, &a, "a", 10);
        go_on(&a);
        assert_return(zp_wait(proc, NULL, WAIT * zp_test_slow()), ZP_EFAILED);
    }
    zp_sync_close(&v.go);
    end_echo(f, &e);
    forget(&a.r);
}

/* Goal: such a flag is no secret to the server, though nobody writes again. */
static void
test_last_writer(void **state)
{
    fixture *f = *state;
    asker a;
    echo e;

    start_asking(f, &a);
    start_echo(f, &e, "a");
    ask(f, &a, "a", 3);
    for (int i = 0; i < rounds(5); i++) {
        atomic_store(&shared_of(f)->slots[slot_of(f, &e)].rung, zp__slot_now());
        ask(f, &a, "a", 1);
    }
    end_echo(f, &e);
    forget(&a.r);
}

#define TEST(f) ZP_TEST_WITH(f, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_without_server), TEST(test_threads),
        TEST(test_bare),           TEST(test_many),
        TEST(test_given_back),     TEST(test_no_descriptor),
        TEST(test_children),       TEST(test_dead_writer),
        TEST(test_last_writer),
    };

    return zp_test_main("rings", tests, sizeof tests / sizeof *tests, 60);
}
