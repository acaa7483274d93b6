/*
 * test_bells.c - the watchers' bells, when they or the messages fail: what
 * happened comes all the same, once and in order.
 *
 * The tests look at the board and into the feed to break what they want to
 * break; what comes of it they see through zp.h alone. Each runs twice: the
 * watcher is rung by who has written, and by the server. (What belongs to the
 * writer alone is in test_rings.c.)
 */
#include <sys/resource.h>
#include <sys/stat.h>

#include "core/zmq_call.h"
#include "tests/fault/bells.h"

static bool by_server; /* who sets leaves the ringing to it */

static void
watch(fixture *f, recorder *r)
{
    r->ctx = f->ctx;
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, r));
}

/* Sets, each of which has to wake the watcher by itself: the turn that is left
 * over from the end of the last run is made before. A new server does not know
 * of the watcher without a bell that we pretend there is. */
static void
expect(fixture *f, recorder *r, int n)
{
    static int64_t value; /* never the one that is there */

    for (int i = 0; i < n; i++) {
        size_t before = r->n;

        ev_run(zp_ev_loop(r->ctx), EVRUN_NOWAIT);
        ev_run(zp_ev_loop(r->ctx), EVRUN_NOWAIT);
        if (by_server)
            atomic_store(&shared_of(f)->bare, 1);
        set(f->other, "a", --value);
        run_until(r, before + 1);
        assert_int_equal(r->n, before + 1);
        assert_int_equal(r->events[before].value, value);
    }
}

/* --------------------------------------------------------------- the tests */

/* Goal: each context that watches has a bell, until it is freed. */
static void
test_who_has_one(void **state)
{
    fixture *f = *state;
    recorder r = {0}, other = {0};
    fixture second = {0};

    assert_int_equal(taken(f), 0);
    watch(f, &r);
    assert_int_equal(taken(f), 1);
    assert_non_null(f->ctx->feed->bell);
    assert_ok(zp_ctx_attach(&second.ctx, zp_ctx_address(f->ctx), NULL));
    second.state = zp_ctx_state(second.ctx);
    assert_int_equal(taken(f), 1);
    watch(&second, &other);
    assert_int_equal(taken(f), 2);
    expect(f, &r, 3);
    run_until(&other, 3);
    zp_ctx_free(second.ctx);
    assert_int_equal(taken(f), 1);
    expect(f, &r, 3);
    forget(&r);
    forget(&other);
}

/* A socket of its own that wants what F's feed is subscribed to: the server
 * keeps its interest when the feed has none. Returns when the server knows. */
static void *
stand_in(fixture *f, const uint8_t *topic)
{
    uint8_t sync[ZP__TOPIC_SIZE] = {ZP__TOPIC_SYNC, 1, 2, 3};
    zmq_pollitem_t item = {.events = ZMQ_POLLIN};
    void *zmq = NULL, *sub;

    assert_int_equal(zp__client_zmq(f->ctx->client, &zmq), 0);
    item.socket = sub = zmq_socket(zmq, ZMQ_SUB);
    assert_non_null(sub);
    assert_int_equal(zmq_connect(sub, f->ctx->feed->address), 0);
    assert_int_equal(zp__zmq_topic(sub, ZMQ_SUBSCRIBE, topic, ZP__TOPIC_SIZE),
                     0);
    assert_int_equal(zp__zmq_topic(sub, ZMQ_SUBSCRIBE, sync, sizeof sync), 0);
    while (zmq_poll(&item, 1, 20000) < 0 && errno == EINTR)
        ;
    assert_int_equal(item.revents, ZMQ_POLLIN);
    return sub;
}

static const uint8_t *
topic_of(const fixture *f, const char *key)
{
    zp__sub *sub = zp__subs_find(&f->ctx->feed->subs, ZP__TOPIC_KEY,
                                 zp__topic_key("default", key));

    assert_non_null(sub);
    return sub->name;
}

/* Goal: no message reaches the watcher; the bell does. */
static void
test_no_messages(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    void *sub;

    watch(f, &r);
    expect(f, &r, 1);
    sub = stand_in(f, topic_of(f, "a"));
    assert_int_equal(zp__zmq_topic(f->ctx->feed->socket, ZMQ_UNSUBSCRIBE,
                                   topic_of(f, "a"), ZP__TOPIC_SIZE),
                     0);
    zp__loop_touched(f->ctx->feed->readable);
    expect(f, &r, rounds(1000));
    zmq_close(sub);
    forget(&r);
}

/* Goal: all slots are taken: the messages do it, for this one and, while there
 * is one such, for all. */
static void
test_no_slot(void **state)
{
    fixture *f = *state;
    recorder r = {0}, late = {0};
    fixture second = {0};

    watch(f, &r);
    expect(f, &r, 1);
    for (unsigned i = 1; i < ZP__SLOTS; i++) /* by init, started at any time */
        atomic_store(&shared_of(f)->slots[i].owner, UINT64_C(1) << 32);
    assert_ok(zp_ctx_attach(&second.ctx, zp_ctx_address(f->ctx), NULL));
    second.state = zp_ctx_state(second.ctx);
    second.other = f->other;
    watch(&second, &late);
    assert_null(second.ctx->feed->bell);
    expect(&second, &late, rounds(200));
    run_until(&r, late.n + 1);
    kill_server(f);
    expect(&second, &late, 10);
    zp_ctx_free(second.ctx);
    expect(f, &r, 0);
    for (unsigned i = 1; i < ZP__SLOTS; i++)
        atomic_store(&shared_of(f)->slots[i].owner, 0);
    forget(&r);
    forget(&late);
}

/* Goal: the server finds no FIFO, or another one: the messages do it. */
static void
test_no_fifo(void **state)
{
    fixture *f = *state;
    recorder r = {0};

    watch(f, &r);
    expect(f, &r, 1);
    assert_int_equal(unlink(bell_file(f, 0)), 0);
    expect(f, &r, 2); /* both have the old one */
    kill_server(f);
    expect(f, &r, 5);
    assert_int_equal(mkfifo(bell_file(f, 0), 0600), 0);
    kill_server(f);
    expect(f, &r, 5);
    forget(&r);
}

/* Goal: the server has no descriptor for the bell. */
static void
test_no_descriptor(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    struct rlimit none = {0, 0};
    zp__pid server = zp__board_server(f->ctx->board);

    watch(f, &r);
    settle(f);
    kill_server(f); /* the next one has rung nobody yet */
    while (zp__board_server(f->ctx->board).pid == server.pid)
        run_for(f->ctx, 0.01);
    assert_int_equal(prlimit(zp__board_server(f->ctx->board).pid, RLIMIT_NOFILE,
                             NULL, &none),
                     0);
    none.rlim_cur = 3;
    assert_int_equal(prlimit(zp__board_server(f->ctx->board).pid, RLIMIT_NOFILE,
                             &none, NULL),
                     0);
    expect(f, &r, rounds(100));
    forget(&r);
}

/* Goal: a server was killed between the flag and the byte: nothing is lost by
 * it, neither with the next server nor without. */
static void
test_lost_byte(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    int n = rounds(20);

    watch(f, &r);
    expect(f, &r, 1);
    for (int i = 0; i < n; i++) {
        atomic_store(&shared_of(f)->slots[0].rung, 1);
        expect(f, &r, 2);
    }
    atomic_store(&shared_of(f)->slots[0].rung, 1);
    kill_server(f);
    expect(f, &r, 2);
    forget(&r);
}

static bool
is_hushed(void *user)
{
    fixture *f = user;

    return zp_ping(f->ctx, NULL, NULL, 0, 1) == 0 &&
           atomic_load(&shared_of(f)->slots[0].rung) == 0;
}

/* Goal: the next server takes back the flags, though no watcher is awake. */
static void
test_hushed(void **state)
{
    fixture *f = *state, second = {0};
    recorder r = {0};

    watch(f, &r);
    expect(f, &r, 1);
    assert_ok(zp_ctx_attach(&second.ctx, zp_ctx_address(f->ctx), NULL));
    atomic_store(&shared_of(f)->slots[0].rung, 1);
    kill_server(f);
    assert_true(zp_test_until(is_hushed, &second, WAIT));
    zp_ctx_free(second.ctx);
    expect(f, &r, 2);
    forget(&r);
}

/* Goal: a FIFO that is full rings, too, and is read dry. */
static void
test_full_fifo(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    int fd;

    watch(f, &r);
    expect(f, &r, 1);
    fd = open(bell_file(f, 0), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    for (int i = 0; i < 5; i++) {
        while (write(fd, "", 1) == 1)
            ;
        assert_int_equal(errno, EAGAIN);
        expect(f, &r, 2);
        while (!is_dry(bell_file(f, 0))) /* a message may have been first */
            run_for(f->ctx, 0.001);
    }
    close(fd);
    forget(&r);
}

/* ------------------------------------------------------- other processes -- */

static int
look_at_bells(zp_ctx *ctx, void *arg)
{
    recorder r = {.ctx = ctx};

    (void)arg;
    if (open_bells() != 0)
        return -EBADF;
    if (zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("a"), NULL, record,
                            &r) < 0)
        return -EIO;
    return open_bells() == 1 ? 0 : -EBADF;
}

/* Goal: a child has nothing of its parent's bell, and its end leaves it be. */
static void
test_children(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    zp_proc *proc;
    uint64_t owner;

    watch(f, &r);
    expect(f, &r, 1);
    assert_int_equal(open_bells(), 1);
    owner = atomic_load(&shared_of(f)->slots[0].owner);
    for (int i = 0; i < 3; i++) {
        assert_ok(zp_spawn(f->ctx, &proc, NULL, look_at_bells, NULL));
        assert_ok(zp_wait(proc, NULL, WAIT * zp_test_slow()));
        expect(f, &r, 2);
    }
    assert_int_equal(atomic_load(&shared_of(f)->slots[0].owner), owner);
    assert_true(zp_test_until(one_is_taken, f, WAIT));
    forget(&r);
}

static int
watch_for_ever(zp_ctx *ctx, void *arg)
{
    recorder r = {.ctx = ctx};
    zp_watch *own;
    int rc = zp_call_when_change(zp_ctx_state(ctx), &own, ZP_KEYS("a"), NULL,
                                 record, &r);

    if (rc < 0)
        return rc;
    while (!zp_watch_confirmed(own))
        ev_run(zp_ev_loop(ctx), EVRUN_ONCE);
    zp_sync_post(arg);
    return zp_run(ctx);
}

/* Goal: the slot of a watcher that was killed is cleared soon. */
static void
test_killed(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    zp_sync ready;
    zp_proc *proc;

    zp_sync_open(&ready);
    watch(f, &r);
    for (int i = 0; i < 2; i++) {
        assert_ok(zp_spawn(f->ctx, &proc, NULL, watch_for_ever, &ready));
        zp_sync_wait(&ready, WAIT);
        assert_int_equal(taken(f), 2);
        assert_int_equal(kill(zp_proc_pid(proc), SIGKILL), 0);
        assert_true(zp_wait(proc, NULL, WAIT * zp_test_slow()) < 0);
        while (i == 1 && !one_is_taken(f)) /* nobody answers the bell */
            expect(f, &r, 1);
        assert_true(zp_test_until(one_is_taken, f, WAIT)); /* it is gone */
        expect(f, &r, 3);
    }
    zp_sync_close(&ready);
    forget(&r);
}

/* Break the run of who counts to this. */
static int
count_to(zp_ctx *ctx, void *arg)
{
    recorder r = {.ctx = ctx, .want = 2000};
    zp_sync *sync = arg;

    if (zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("a"), NULL, record,
                            &r) < 0)
        return -EIO;
    zp_sync_post(&sync[0]);
    if (zp_run(ctx) < 0 || r.n != 2000)
        return -EIO;
    for (int i = 0; i < 2000; i++)
        if (r.events[i].kind != ZP_CHANGED ||
            (i > 0 && r.events[i].revision <= r.events[i - 1].revision))
            return -EIO;
    free(r.events);
    return 0;
}

/* Goal: a watcher that is stopped hears all when it goes on, and nobody waits
 * for it. */
static void
test_stopped(void **state)
{
    fixture *f = *state;
    recorder r = {0};
    zp_sync ready;
    zp_proc *proc;

    zp_sync_open(&ready);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, count_to, &ready));
    zp_sync_wait(&ready, WAIT);
    assert_int_equal(kill(zp_proc_pid(proc), SIGSTOP), 0);
    watch(f, &r);
    for (int i = 0; i < 1000; i++)
        set(f->other, "a", i + 1);
    run_until(&r, 1000);
    expect(f, &r, 200);
    assert_int_equal(kill(zp_proc_pid(proc), SIGCONT), 0);
    expect(f, &r, 800);
    assert_ok(zp_wait(proc, NULL, WAIT * zp_test_slow()));
    zp_sync_close(&ready);
    forget(&r);
}

static int
rung_by_writer(void **state)
{
    by_server = false;
    return watching_setup(state);
}

static int
rung_by_server(void **state)
{
    by_server = true;
    return watching_setup(state);
}

#define TEST(f)                                                                \
    ZP_TEST_WITH(f, rung_by_writer, watching_teardown),                        \
    {                                                                          \
#f "_by_server", f, zp_test_setup, zp_test_teardown, &(zp_test_frame)  \
        {                                                                      \
            rung_by_server, watching_teardown                                  \
        }                                                                      \
    }

int
main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_who_has_one), TEST(test_no_messages),   TEST(test_no_slot),
        TEST(test_no_fifo),     TEST(test_lost_byte),     TEST(test_hushed),
        TEST(test_full_fifo),   TEST(test_no_descriptor), TEST(test_children),
        TEST(test_killed),      TEST(test_stopped),
    };

    return zp_test_main("bells", tests, sizeof tests / sizeof *tests, 60);
}
