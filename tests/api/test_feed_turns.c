/*
 * test_feed_turns.c - a turn of the feed leaves everybody theirs: the
 * application's watchers, other watches, other loops.
 */
#include "tests/api/watching.h"

#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* ---------------------------------------------------------- everybody's turn
 * -- */

struct turns {
    zp_ctx *ctx;
    int events, since, most, timers, want;
};

static int
count_turn(zp_watch *watch, const zp_event *event, void *user)
{
    struct turns *t = user;

    (void)watch;
    (void)event;
    t->events++;
    if (++t->since > t->most)
        t->most = t->since;
    if (t->events == t->want)
        assert_ok(zp_break(t->ctx));
    return 0;
}

static void
on_turn(struct ev_loop *loop, ev_timer *timer, int events)
{
    struct turns *t = timer->data;

    (void)loop;
    (void)events;
    t->since = 0;
    t->timers++;
}

/* Goal: while a long backlog is delivered the application's own watchers are
 * called, too: at most three turns of 64 events lie between (there is more to
 * do; news; more news). */
static void
test_backlog_gives_way(void **state)
{
    fixture *f = *state;
    struct turns t = {.ctx = f->ctx, .want = rounds(5000)};
    ev_timer timer;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL,
                                  count_turn, &t));
    for (int i = 0; i < t.want; i++)
        set(f->other, "a", i);
    ev_timer_init(&timer, on_turn, 0, 1e-9);
    timer.data = &t;
    ev_timer_start(zp_ev_loop(f->ctx), &timer);
    assert_ok(zp_run(f->ctx));
    ev_timer_stop(zp_ev_loop(f->ctx), &timer);
    assert_int_equal(t.events, t.want);
    assert_true(t.timers >= t.want / (3 * 64));
    assert_true(t.most <= 3 * 64);
}

struct replay {
    recorder *current;
    int n, fresh_at;
};

static int
replayed(zp_watch *watch, const zp_event *event, void *user)
{
    struct replay *replay = user;

    (void)watch;
    assert_int_equal(zp_event_revision(event), ++replay->n);
    if (!replay->fresh_at && replay->current->n)
        replay->fresh_at = replay->n;
    return 0;
}

/* Goal: who replays the past does not keep the others from what is new. */
static void
test_replay_gives_way(void **state)
{
    fixture *f = *state;
    recorder fresh = {.ctx = f->ctx}, live = fresh;
    struct replay replay = {.current = &fresh};
    zp_watch_options oldest = {.size = sizeof oldest, .flags = ZP_OLDEST};
    zp_watch_options newest = {.size = sizeof newest, .flags = ZP_LIVE};
    int n = rounds(4000);

    for (int i = 0; i < n; i++)
        set(f->other, "a", i);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &fresh));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &newest, record,
                                  &live));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &oldest,
                                  replayed, &replay));
    for (int i = 1; i <= 3; i++)
        set(f->other, "a", -i);
    run_until(&fresh, 3);
    assert_true(replay.n < 128);
    while (replay.n < n + 3)
        run_for(f->ctx, 0.01);
    assert_int_equal(replay.n, n + 3);
    assert_true(replay.fresh_at > 0 && replay.fresh_at < 128);
    assert_values(&live, "a", VALUES(-3));
    forget(&fresh);
    forget(&live);
}

struct rivals {
    fixture *f;
    size_t live, last, most;
};

static int
feed_again(zp_watch *watch, const zp_event *event, void *user)
{
    struct rivals *rivals = user;

    (void)watch;
    (void)event;
    rivals->live++;
    set(rivals->f->other, "a", int_at(rivals->f->state, "a") + 1);
    return 0;
}

static int
how_long(recorder *r, zp_watch *watch, const zp_event *event)
{
    struct rivals *rivals = r->user;

    (void)watch;
    (void)event;
    if (rivals->live - rivals->last > rivals->most)
        rivals->most = rivals->live - rivals->last;
    rivals->last = rivals->live;
    return 0;
}

/* Goal: live watches of which each always has news leave the buffered ones
 * their turn, and a big one. */
static void
test_live_gives_way(void **state)
{
    fixture *f = *state;
    struct rivals rivals = {.f = f};
    recorder r = {.ctx = f->ctx, .then = how_long, .user = &rivals};
    zp_watch_options newest = {.size = sizeof newest, .flags = ZP_LIVE};

    for (int i = 0; i < 100; i++)
        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &newest,
                                      feed_again, &rivals));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 1);
    run_until(&r, 200);
    assert_int_equal(r.events[199].revision, 200);
    assert_true(rivals.live > 0);
    assert_true(rivals.most < 64);
    forget(&r);
}

/* ----------------------------------------------------------------- many -- */

#define MANY 1000

static int
set_many(zp_state *txn, void *user)
{
    char key[16];

    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "%04d", i);
        TRY(zp_set_int(txn, key, *(int64_t *)user));
    }
    return 0;
}

static int
all_in_order(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_change change;
    char key[16];

    (void)watch;
    (void)r;
    assert_int_equal(zp_event_length(event), MANY);
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "%04d", i);
        assert_ok(zp_event_change(event, &change, (size_t)i));
        assert_string_equal(change.key, key);
    }
    return 0;
}

/* Goal: one transaction of many keys for many watches: each gets its own, in
 * the order of registration, all at the same revision. */
static void
test_many(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, any = r;
    zp_stats stats = {.size = sizeof stats};
    int64_t value = 1;
    char key[16];

    any.then = all_in_order;
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "%04d", MANY - 1 - i);
        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS(key), NULL,
                                      record, &r));
    }
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record, &any));
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_int_equal(stats.watches, MANY + 1);
    assert_ok(zp_atomic(f->other, set_many, &value));
    run_until(&any, 1);
    assert_int_equal(r.n, MANY);
    for (int i = 0; i < MANY; i++) {
        snprintf(key, sizeof key, "%04d", MANY - 1 - i);
        assert_string_equal(r.events[i].key[0], key);
        assert_int_equal(r.events[i].length, 1);
        assert_int_equal(r.events[i].revision, 1);
    }
    forget(&r);
    forget(&any);
}

/* ---------------------------------------------------------------- loops -- */

static int
break_ev(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    ev_break(user, EVBREAK_ONE);
    return 0;
}

/* Goal: on a loop of the application, without any zp_run(). */
static void
test_own_loop(void **state)
{
    struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
    zp_ctx_options options = {.size = sizeof options, .loop = loop};
    zp_watch_options once = {.size = sizeof once, .count = 1};
    fixture f;

    (void)state;
    assert_ok(zp_ctx_new(&f.ctx, &options));
    f.state = zp_ctx_state(f.ctx);
    assert_ok(zp_state_clone(f.state, &f.other, NULL));
    assert_ptr_equal(zp_ev_loop(f.ctx), loop);
    assert_ok(
        zp_call_when_change(f.state, NULL, ZP_KEYS("a"), NULL, break_ev, loop));
    set(f.other, "a", 1);
    ev_run(loop, 0);
    set(f.other, "a", 2);
    ev_run(loop, 0);
    assert_null(zp_ctx_free(f.ctx));
    ev_run(loop, 0); /* nothing is left on it */

    assert_ok(zp_ctx_new(&f.ctx, &options));
    assert_ok(zp_state_clone(zp_ctx_state(f.ctx), &f.other, NULL));
    assert_ok(zp_call_when_change(zp_ctx_state(f.ctx), NULL, ZP_KEYS("a"),
                                  &once, break_ev, loop));
    set(f.other, "a", 1);
    ev_run(loop, 0);
    ev_run(loop, 0); /* the watch has ended: this returns */
    assert_null(zp_ctx_free(f.ctx));
    ev_loop_destroy(loop);
}

struct attach {
    char address[200];
    zp_sync ready;
};

static int
never(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return -EPROTO;
}

static int
watch_until_closed(void *user)
{
    struct attach *attach = user;
    zp_ctx *ctx;
    zp_watch *watch;
    int rc;

    if (zp_ctx_attach(&ctx, attach->address, NULL) < 0)
        return 2;
    if (zp_call_when_change(zp_ctx_state(ctx), &watch, ZP_KEYS("a"), NULL,
                            never, NULL) < 0)
        return 3;
    zp_sync_post(&attach->ready);
    rc = zp_run(ctx);
    if (rc != ZP_ECLOSED)
        return 4;
    if (zp_go_live(watch) != ZP_ECLOSED)
        return 5;
    ev_run(zp_ev_loop(ctx), 0); /* returns: the watch does not wait */
    if (zp_watch_active(watch))
        return 6;
    zp_ctx_free(ctx);
    return 0;
}

/* Goal: a watcher is told when the owner closes the state. */
static void
test_closed(void **state)
{
    struct attach attach;
    zp_ctx *ctx;
    pid_t pid;

    (void)state;
    zp_sync_open(&attach.ready);
    assert_ok(zp_ctx_new(&ctx, NULL));
    snprintf(attach.address, sizeof attach.address, "%s", zp_ctx_address(ctx));
    pid = zp_test_fork(watch_until_closed, &attach);
    zp_sync_wait(&attach.ready, 10);
    assert_null(zp_ctx_free(ctx));
    assert_int_equal(zp_test_wait(pid, 10), 0);
    zp_sync_close(&attach.ready);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_backlog_gives_way), T(test_replay_gives_way),
        T(test_live_gives_way),    T(test_many),
        ZP_TEST(test_own_loop),    ZP_TEST(test_closed),
    };
    return zp_test_main("feed_turns", tests, sizeof tests / sizeof *tests, 30);
}
