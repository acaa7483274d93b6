/*
 * test_feed.c - how changes reach the watches of another process: nothing
 * lost, nothing twice, nothing out of order, whatever happens to messages and
 * to the state server.
 */
#include <signal.h>

#include "tests/api/watching.h"

#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

static void
wait_all(zp_proc **procs, int n)
{
    for (int i = 0; i < n; i++)
        assert_ok(zp_wait(procs[i], NULL, 20 * zp_test_slow()));
}

/* --------------------------------------------------------------- order -- */

#define WRITERS 4

static int
set_both(zp_state *txn, void *user)
{
    int64_t n = *(int64_t *)user;

    TRY(zp_set_int(txn, "left", n));
    return zp_set_int(txn, "right", n);
}

static int
write_pairs(zp_ctx *ctx, void *arg)
{
    int64_t last = *(int *)arg;

    for (int64_t i = 1; i <= last; i++) {
        int64_t n = i * 100000 + getpid();

        TRY(zp_atomic(zp_ctx_state(ctx), set_both, &n));
    }
    return 0;
}

struct sequence {
    zp_ctx *ctx;
    uint64_t last;
    uint64_t n, want;
};

static int
in_sequence(zp_watch *watch, const zp_event *event, void *user)
{
    struct sequence *s = user;
    zp_state *snapshot = zp_event_snapshot(event);

    (void)watch;
    assert_int_equal(zp_event_kind(event), ZP_CHANGED);
    assert_int_equal(zp_event_revision(event), s->last + 1);
    assert_int_equal(zp_event_length(event), 2);
    assert_int_equal(int_at(snapshot, "left"), int_at(snapshot, "right"));
    s->last++;
    if (++s->n == s->want)
        assert_ok(zp_break(s->ctx));
    return 0;
}

/* Goal: of many writers each transaction comes once, whole, in order. */
static void
test_order(void **state)
{
    fixture *f = *state;
    int n = rounds(500);
    struct sequence listed = {.ctx = f->ctx}, any = listed;
    zp_proc *procs[WRITERS];

    any.want = (uint64_t)n * WRITERS;
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("left", "right"),
                                  NULL, in_sequence, &listed));
    assert_ok(
        zp_call_when_change(f->state, NULL, NULL, 0, NULL, in_sequence, &any));
    for (int i = 0; i < WRITERS; i++)
        assert_ok(zp_spawn(f->ctx, &procs[i], NULL, write_pairs, &n));
    assert_ok(zp_run(f->ctx));
    assert_int_equal(any.n, any.want);
    assert_int_equal(listed.n, any.want);
    wait_all(procs, WRITERS);
}

/* --------------------------------------------------- subscribe, then set -- */

struct echo {
    zp_sync go;
    int n;
};

/* Set what one is told to, at once. */
static int
set_when_told(zp_ctx *ctx, void *arg)
{
    struct echo *echo = arg;
    char key[32];

    for (int i = 0; i < echo->n; i++) {
        int64_t number = zp_sync_receive(&echo->go, 20);

        snprintf(key, sizeof key, "key%d", (int)(number % 1000));
        TRY(zp_set_int(zp_ctx_state(ctx), key, number));
    }
    return 0;
}

/* Goal: a watch registered, then another process told to set: it always
 * comes, on new keys and on those that are subscribed already. */
static void
test_subscribe_then_set(void **state)
{
    fixture *f = *state;
    struct echo echo = {.n = rounds(1000)};
    zp_watch_options once = {.size = sizeof once, .count = 1};
    recorder r = {.ctx = f->ctx};
    zp_proc *proc;

    zp_sync_open(&echo.go);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, set_when_told, &echo));
    for (int i = 0; i < echo.n; i++) {
        int64_t number = i * 1000 + (i % 3 ? i % 999 : 999);
        char key[32];

        snprintf(key, sizeof key, "key%d", (int)(number % 1000));
        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS(key), &once,
                                      record, &r));
        zp_sync_send(&echo.go, number);
        assert_ok(zp_run(f->ctx)); /* until the count is reached */
        assert_int_equal(r.n, i + 1);
        assert_int_equal(r.events[i].value, number);
    }
    wait_all(&proc, 1);
    zp_sync_close(&echo.go);
    forget(&r);
}

/* ----------------------------------------------------------- the server -- */

static int
server_pid(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_ctx_stats(ctx, &stats));
    return (int)stats.server_pid;
}

struct killing {
    struct sequence sequence;
    int killed;
    int last_pid;
};

static int
kill_now_and_then(zp_watch *watch, const zp_event *event, void *user)
{
    struct killing *k = user;
    int pid;

    in_sequence(watch, event, &k->sequence);
    if (k->sequence.n % 100 != 50)
        return 0;
    pid = server_pid(k->sequence.ctx);
    if (pid == k->last_pid) /* it is not back yet */
        return 0;
    k->last_pid = pid;
    k->killed++;
    kill(pid, SIGKILL);
    return 0;
}

/* Goal: the server is killed again and again; not one event is missing. */
static void
test_server_killed(void **state)
{
    fixture *f = *state;
    int n = rounds(2000);
    struct killing k = {.sequence = {.ctx = f->ctx, .want = (uint64_t)n * 2}};
    zp_stats stats = {.size = sizeof stats};
    zp_proc *procs[2];
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("left"), NULL,
                                  in_sequence, &k.sequence));
    zp_watch_free(watch); /* its subscription stays for a while */
    assert_ok(zp_call_when_change(f->state, &watch, NULL, 0, NULL,
                                  kill_now_and_then, &k));
    for (int i = 0; i < 2; i++)
        assert_ok(zp_spawn(f->ctx, &procs[i], NULL, write_pairs, &n));
    assert_ok(zp_run(f->ctx));
    assert_int_equal(k.sequence.n, k.sequence.want);
    wait_all(procs, 2);
    assert_true(k.killed > 0);
    assert_ok(zp_ping(f->ctx, NULL, NULL, 0, 10));
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_true(stats.server_generation > 1);
    zp_watch_free(watch);
}

struct wait_for {
    zp_ctx *ctx;
    zp_watch *watch;
    int pid;
};

static void
on_poll(struct ev_loop *loop, ev_timer *timer, int events)
{
    struct wait_for *w = timer->data;

    (void)loop;
    (void)events;
    if ((!w->pid || server_pid(w->ctx) != w->pid) &&
        zp_watch_confirmed(w->watch) == 1)
        assert_ok(zp_break(w->ctx));
}

/* Run until WATCH is confirmed, by another server than PID. */
static void
until_confirmed(zp_ctx *ctx, zp_watch *watch, int pid)
{
    struct wait_for w = {ctx, watch, pid};
    ev_timer timer;

    ev_timer_init(&timer, on_poll, 0, 0.002);
    timer.data = &w;
    ev_timer_start(zp_ev_loop(ctx), &timer);
    assert_ok(zp_run(ctx));
    ev_timer_stop(zp_ev_loop(ctx), &timer);
    assert_int_equal(zp_watch_confirmed(watch), 1);
}

static int
set_one(zp_ctx *ctx, void *arg)
{
    zp_sync *go = arg;

    for (int i = 1; i <= 3; i++) {
        zp_sync_wait(go, 20);
        TRY(zp_set_int(zp_ctx_state(ctx), "a", i));
    }
    return 0;
}

/* Goal: a subscription is confirmed, and again by the next server, so that
 * what another process then sets comes by itself. */
static void
test_confirmed_again(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch;
    zp_proc *proc;
    zp_sync go;

    zp_sync_open(&go);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, set_one, &go));
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, record, &r));
    assert_int_equal(zp_watch_confirmed(watch), 0);
    until_confirmed(f->ctx, watch, 0);
    for (size_t i = 1; i <= 3; i++) {
        int pid = server_pid(f->ctx);

        zp_sync_post(&go);
        run_until(&r, i);
        kill(pid, SIGKILL);
        until_confirmed(f->ctx, watch, pid);
    }
    assert_values(&r, "a", VALUES(1, 2, 3));
    wait_all(&proc, 1);
    zp_sync_close(&go);
    zp_watch_free(watch);
    forget(&r);
}

/* Goal: a server that dies before the first confirmation. */
static void
test_server_dead_at_once(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch;
    int pid = server_pid(f->ctx);

    kill(pid, SIGKILL);
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, record, &r));
    until_confirmed(f->ctx, watch, pid);
    set(f->other, "a", 1);
    run_until(&r, 1);
    zp_watch_free(watch);
    forget(&r);
}

/* Goal: a server that is stopped when the subscription is made. */
static void
test_server_stopped(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch;
    int pid = server_pid(f->ctx);

    assert_int_equal(kill(pid, SIGSTOP), 0);
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "b", 1);
    set(f->other, "a", 1);
    assert_int_equal(zp_watch_confirmed(watch), 0);
    assert_int_equal(kill(pid, SIGCONT), 0);
    run_until(&r, 1);
    until_confirmed(f->ctx, watch, 0);
    assert_values(&r, "a", VALUES(1));
    zp_watch_free(watch);
    forget(&r);
}

#define KEPT 0.9 /* seconds that a subscription stays, at least */

/* Free all watches of "a" and "b", and register for "b" again. True if that
 * was within the time for which the subscription is kept. */
static bool
leave_and_return(fixture *f, zp_watch **watches, recorder *r)
{
    double began = zp_test_now();

    for (int i = 0; i < 2; i++)
        watches[i] = zp_watch_free(watches[i]);
    run_for(f->ctx, 0.2);
    assert_ok(zp_call_when_change(f->state, &watches[1], ZP_KEYS("b"), NULL,
                                  record, r));
    return zp_test_now() - began < KEPT;
}

/* Goal: a key that is subscribed to is confirmed at once, also for a while
 * after its last watch has gone. */
static void
test_kept_subscription(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watches[2] = {NULL, NULL};
    bool in_time;
    int tries = 0;

    do { /* the machine may be too busy for it */
        zp_watch_free(watches[1]);
        assert_ok(zp_call_when_change(f->state, &watches[0], ZP_KEYS("a", "b"),
                                      NULL, record, &r));
        until_confirmed(f->ctx, watches[0], 0);
        assert_ok(zp_call_when_change(f->state, &watches[1], ZP_KEYS("a"), NULL,
                                      record, &r));
        assert_int_equal(zp_watch_confirmed(watches[1]), 1);
        in_time = leave_and_return(f, watches, &r);
    } while (!in_time && ++tries < 10);
    if (in_time)
        assert_int_equal(zp_watch_confirmed(watches[1]), 1);
    run_for(f->ctx, 1.0); /* "a" goes, "b" stays */
    until_confirmed(f->ctx, watches[1], 0);
    assert_ok(zp_call_when_change(f->state, &watches[0], ZP_KEYS("a"), NULL,
                                  record, &r));
    assert_int_equal(zp_watch_confirmed(watches[0]), 0);
    until_confirmed(f->ctx, watches[0], 0);
    set(f->other, "a", 1);
    set(f->other, "b", 2);
    run_until(&r, 2);
    zp_watch_free(watches[0]);
    zp_watch_free(watches[1]);
    forget(&r);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_order),
        T(test_subscribe_then_set),
        T(test_server_killed),
        T(test_confirmed_again),
        T(test_server_dead_at_once),
        T(test_server_stopped),
        T(test_kept_subscription),
    };
    return zp_test_main("feed", tests, sizeof tests / sizeof *tests, 30);
}
