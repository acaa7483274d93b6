/*
 * test_guard.c - the state server is killed while processes watch: within a
 * second another one serves, started by one of them, and no change is lost.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zp_ev.h>

enum { WATCHERS = 50, ROUNDS = 5 };

typedef struct crowd {
    zp_sync up;   /* a watcher is there, confirmed */
    zp_sync seen; /* a watcher has seen round N */
} crowd;

static uint64_t
server_of(zp_ctx *ctx, uint64_t *ret_generation)
{
    zp_stats stats = {.size = sizeof stats};

    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    *ret_generation = stats.server_generation;
    return stats.server_pid;
}

typedef struct awaited {
    zp_ctx *ctx;
    uint64_t generation;
} awaited;

static bool
has_come(void *user)
{
    awaited *a = user;
    uint64_t generation;

    server_of(a->ctx, &generation);
    return generation >= a->generation;
}

static int
on_round(zp_watch *watch, const zp_event *event, void *user)
{
    crowd *c = user;
    int64_t round = -1;

    (void)watch;
    if (zp_get_int(zp_event_snapshot(event), "round", &round) < 0)
        return -EIO;
    zp_sync_send(&c->seen, round);
    return 0;
}

static void
look_confirmed(struct ev_loop *loop, ev_timer *timer, int events)
{
    void **pair = timer->data;

    (void)events;
    if (!zp_watch_confirmed(pair[0]))
        return;
    ev_timer_stop(loop, timer);
    zp_sync_post(&((crowd *)pair[1])->up);
}

static int
watches(zp_ctx *ctx, void *arg)
{
    void *pair[2] = {NULL, arg};
    ev_timer timer;
    int rc;

    rc = zp_call_when_change(zp_ctx_state(ctx), (zp_watch **)&pair[0],
                             ZP_KEYS("round"), NULL, on_round, arg);
    if (rc < 0)
        return rc;
    ev_timer_init(&timer, look_confirmed, 0, 0.002);
    timer.data = pair;
    ev_timer_start(zp_ev_loop(ctx), &timer);
    return zp_run(ctx);
}

/* Fifty processes that all notice: one acts. (They may have seen the change
 * before, some by looking into the log themselves.) */
static void
test_crowd(void **state)
{
    zp_ctx *ctx = NULL;
    uint64_t server, before, after;
    crowd c;
    double begun;
    int i, round;

    (void)state;
    zp_sync_open(&c.up);
    zp_sync_open(&c.seen);
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    for (i = 0; i < WATCHERS; i++)
        assert_int_equal(zp_spawn(ctx, NULL, NULL, watches, &c), 0);
    for (i = 0; i < WATCHERS; i++)
        zp_sync_wait(&c.up, 20);
    for (round = 1; round <= ROUNDS; round++) {
        server = server_of(ctx, &before);
        zp_test_kill_server((pid_t)server);
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), "round", round), 0);
        begun = zp_test_now();
        for (i = 0; i < WATCHERS; i++)
            assert_int_equal(zp_sync_receive(&c.seen, 10), round);
        assert_true(
            zp_test_until(has_come, &(awaited){ctx, before + 1},
                          1 * zp_test_slow() - (zp_test_now() - begun)));
        server_of(ctx, &after);
        assert_int_equal(after, before + 1);
    }
    zp_ctx_free(ctx);
    zp_sync_close(&c.up);
    zp_sync_close(&c.seen);
}

typedef struct solo {
    zp_ctx *ctx;
    zp_sync up;
    int calls;
} solo;

static int
count(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    ((solo *)user)->calls++;
    return 0;
}

static int
owner_main(void *user)
{
    solo *s = user;
    zp_ctx *ctx = NULL;
    uint64_t generation;

    if (zp_ctx_new(&ctx, &(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                           .name = "solo"}) < 0)
        return 1;
    zp_sync_send(&s->up, (int64_t)server_of(ctx, &generation));
    for (;;)
        pause();
}

/* The owner and its server are killed together: who watches is told that the
 * state is closed, in zp_run(), or in an ev_run() of its own. */
static void
test_nobody_left(void **state)
{
    solo s = {0};
    pid_t owner, server;
    int own;

    (void)state;
    for (own = 0; own < 2; own++) {
        zp_sync_open(&s.up);
        owner = zp_test_fork(owner_main, &s);
        server = (pid_t)zp_sync_receive(&s.up, 20);
        assert_int_equal(zp_ctx_attach(&s.ctx, "solo", NULL), 0);
        assert_int_equal(zp_call_when_change(zp_ctx_state(s.ctx), NULL, NULL, 0,
                                             NULL, count, &s),
                         0);
        assert_int_equal(zp_set_int(zp_ctx_state(s.ctx), "a", 1), 0);
        kill(owner, SIGKILL);
        zp_test_kill_server(server);
        zp_test_wait(owner, 10);
        if (own)
            ev_run(zp_ev_loop(s.ctx), 0);
        else
            assert_int_equal(zp_run(s.ctx), ZP_ECLOSED);
        assert_int_equal(zp_set_int(zp_ctx_state(s.ctx), "a", 2), ZP_ECLOSED);
        zp_ctx_free(s.ctx);
        zp_sync_close(&s.up);
    }
    assert_int_equal(zp_ctx_new(&s.ctx, NULL), 0); /* sweeps the directory */
    zp_ctx_free(s.ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_crowd),
        ZP_TEST(test_nobody_left),
    };

    return zp_test_main("guard", tests, sizeof tests / sizeof *tests, 60);
}
