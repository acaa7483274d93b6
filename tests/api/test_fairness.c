/*
 * test_fairness.c - a flood on one key, written by another process as fast as
 * it can, keeps neither the other watches nor the application's timers from
 * their turn; a slow callback delays only itself and those behind it, and the
 * statistics tell of it.
 */
#include "tests/api/watching.h"

#define LIMIT 200000 /* changes of a flood: less than the log retains */
#define EVERY 500    /* so many, and then one of the quiet key */
#define TURNS 4      /* turns of 64 events between two looks at a timer */

/* ---------------------------------------------------------------- floods -- */

typedef struct flood {
    fixture *f;
    char address[200];
    int quiet_every; /* 0: the flooder does not write it */
    double slow;     /* seconds that a callback takes */
    pid_t pid;
    zp_sync go;

    size_t events, overruns; /* of the flooded key */
    size_t since, most;      /* ... between two firings of the timer */
    size_t timers;
    ev_timer timer;
    size_t set_at; /* what `events` was when the quiet key was set ... */
    bool waits;    /* ... and its event has not come yet */
    size_t latest; /* the most that came before it did */
} flood;

/* In another process: until "stop" is there. */
static int
write_flood(void *user)
{
    flood *fl = user;
    zp_state *state;
    zp_ctx *ctx;

    zp_sync_wait(&fl->go, 20);
    if (zp_ctx_attach(&ctx, fl->address, NULL) < 0)
        return 2;
    state = zp_ctx_state(ctx);
    for (int i = 1; i <= LIMIT; i++) {
        if (zp_set_int(state, "flood", i) < 0)
            return 3;
        if (fl->quiet_every && i % fl->quiet_every == 0 &&
            zp_set_int(state, "quiet", i / fl->quiet_every) < 0)
            return 4;
        if (i % 100 == 0 && zp_contains(state, "stop") == 1)
            break;
    }
    zp_ctx_free(ctx);
    return 0;
}

static void
take_time(double seconds)
{
    double until = zp_test_now() + seconds;

    while (zp_test_now() < until)
        continue;
}

static int
on_flood(zp_watch *watch, const zp_event *event, void *user)
{
    flood *fl = user;

    (void)watch;
    fl->events++;
    fl->overruns += zp_event_kind(event) == ZP_OVERRUN;
    if (++fl->since > fl->most)
        fl->most = fl->since;
    if (fl->slow > 0)
        take_time(fl->slow);
    return 0;
}

static void
on_tick(struct ev_loop *loop, ev_timer *timer, int events)
{
    flood *fl = timer->data;

    (void)loop;
    (void)events;
    fl->since = 0;
    fl->timers++;
}

/* The same, and it sets the quiet key when the event of the last time is there.
 */
static void
on_tick_set(struct ev_loop *loop, ev_timer *timer, int events)
{
    flood *fl = timer->data;

    on_tick(loop, timer, events);
    if (fl->waits || fl->events == 0)
        return;
    fl->waits = true;
    fl->set_at = fl->events;
    set(fl->f->other, "quiet", (int64_t)fl->timers);
}

static int
on_quiet(recorder *r, zp_watch *watch, const zp_event *event)
{
    flood *fl = r->user;

    (void)watch;
    (void)event;
    if (fl->waits && fl->events - fl->set_at > fl->latest)
        fl->latest = fl->events - fl->set_at;
    fl->waits = false;
    return 0;
}

/* With QUIET's watch first, and a timer that is due in each iteration of the
 * loop. */
static void
start_flood(flood *fl, void (*tick)(struct ev_loop *, ev_timer *, int),
            const zp_watch_options *options, recorder *quiet)
{
    fixture *f = fl->f;

    snprintf(fl->address, sizeof fl->address, "%s", zp_ctx_address(f->ctx));
    zp_sync_open(&fl->go);
    fl->pid = zp_test_fork(write_flood, fl);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("quiet"), options,
                                  record, quiet));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("flood"), NULL,
                                  on_flood, fl));
    ev_timer_init(&fl->timer, tick, 0, 1e-9);
    fl->timer.data = fl;
    ev_timer_start(zp_ev_loop(f->ctx), &fl->timer);
    zp_sync_post(&fl->go);
}

static void
stop_flood(flood *fl)
{
    set(fl->f->other, "stop", 1);
    assert_int_equal(zp_test_wait(fl->pid, 60), 0);
    ev_timer_stop(zp_ev_loop(fl->f->ctx), &fl->timer);
    zp_sync_close(&fl->go);
}

/* Goal: whoever keeps up with a flood gets all of it, and so does a watch of
 * another key; the timer fires all the while. */
static void
test_flood(void **state)
{
    fixture *f = *state;
    flood fl = {.f = f, .quiet_every = EVERY};
    recorder quiet = {.ctx = f->ctx};
    size_t n = (size_t)rounds(40);

    start_flood(&fl, on_tick, NULL, &quiet);
    run_until(&quiet, n);
    stop_flood(&fl);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(quiet.events[i].kind, ZP_CHANGED);
        assert_int_equal(quiet.events[i].value, i + 1);
        assert_int_equal(quiet.events[i].revision, (i + 1) * (EVERY + 1));
    }
    assert_int_equal(fl.overruns, 0);
    assert_true(fl.events >= n * EVERY);
    assert_true(fl.most <= TURNS * 64);
    assert_true(fl.timers >= fl.events / (TURNS * 64));
    forget(&quiet);
}

/* Goal: what this process sets itself while it is flooded comes to its live
 * watches within a few turns, however long the backlog of the flood is; also
 * when its callback cannot keep up: then a turn has few events. */
static void
flood_and_live(fixture *f, double slow, size_t few)
{
    zp_watch_options newest = {.size = sizeof newest, .flags = ZP_LIVE};
    flood fl = {.f = f, .slow = slow};
    recorder quiet = {.ctx = f->ctx, .then = on_quiet, .user = &fl};
    size_t n = (size_t)rounds(100);

    start_flood(&fl, on_tick_set, &newest, &quiet);
    run_until(&quiet, n);
    stop_flood(&fl);
    assert_true(fl.events > 0);
    assert_true(fl.most <= few);
    assert_true(fl.latest <= 2 * few);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(quiet.events[i].kind, ZP_CHANGED);
    forget(&quiet);
}

static void
test_flood_live(void **state)
{
    flood_and_live(*state, 0, TURNS * 64);
}

static void
test_flood_slow(void **state)
{
    flood_and_live(*state, 0.003, TURNS * 3);
}

/* Goal: with a log that the flood passes again and again the slow one is told
 * what it has lost, and nobody else waits for it. */
static void
test_flood_overruns(void **state)
{
    fixture *f = *state; /* 64 revisions */
    zp_watch_options newest = {.size = sizeof newest, .flags = ZP_LIVE};
    flood fl = {.f = f, .slow = 0.003};
    recorder quiet = {.ctx = f->ctx, .then = on_quiet, .user = &fl};
    size_t n = (size_t)rounds(60);

    start_flood(&fl, on_tick_set, &newest, &quiet);
    run_until(&quiet, n);
    while (fl.overruns == 0)
        run_for(f->ctx, 0.01);
    stop_flood(&fl);
    assert_true(fl.most <= TURNS * 3);
    assert_true(fl.latest <= 2 * TURNS * 3);
    forget(&quiet);
}

/* ------------------------------------------------------------------ slow -- */

typedef struct slow {
    fixture *f;
    char address[200];
    zp_sync ready, seen;
    char order[16];
    int n;
    bool inside;
} slow;

static int
note_name(slow *s, char name)
{
    s->order[s->n++] = name;
    s->order[s->n] = '\0';
    return strlen(s->order) == 4 ? zp_break(s->f->ctx) : 0;
}

static int
on_early(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    return note_name(user, 'e');
}

static int
on_late(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    return note_name(user, 'l');
}

/* Slow: until another process has seen the same change, and the next. */
static int
on_slow(zp_watch *watch, const zp_event *event, void *user)
{
    slow *s = user;

    (void)watch;
    (void)event;
    if (s->n == 1)
        for (int i = 0; i < 2; i++)
            zp_sync_wait(&s->seen, 20);
    return note_name(s, 's');
}

static int
post(zp_watch *watch, const zp_event *event, void *user)
{
    slow *s = user;

    (void)watch;
    zp_sync_post(&s->seen);
    if (zp_event_revision(event) == 1)
        return zp_set_int(zp_ctx_state(zp_state_ctx(zp_event_snapshot(event))),
                          "a", 2);
    return zp_break(zp_state_ctx(zp_event_snapshot(event)));
}

static int
watch_too(void *user)
{
    slow *s = user;
    zp_watch_options own = {.size = sizeof own, .flags = ZP_OWN};
    zp_ctx *ctx;
    int rc;

    if (zp_ctx_attach(&ctx, s->address, NULL) < 0 ||
        zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("a"), &own, post,
                            s) < 0)
        return 2;
    zp_sync_post(&s->ready);
    rc = zp_run(ctx);
    zp_ctx_free(ctx);
    return rc == 0 ? 0 : 3;
}

/* Goal: a slow callback delays those of its own process that are behind it: not
 * those registered earlier, not other processes, not who writes. */
static void
test_slow(void **state)
{
    fixture *f = *state;
    slow s = {.f = f};
    pid_t pid;

    zp_sync_open(&s.ready);
    zp_sync_open(&s.seen);
    snprintf(s.address, sizeof s.address, "%s", zp_ctx_address(f->ctx));
    pid = zp_test_fork(watch_too, &s);
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, on_early, &s));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, on_slow, &s));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, on_late, &s));
    zp_sync_wait(&s.ready, 20);
    set(f->other, "a", 1);
    assert_ok(zp_run(f->ctx));
    assert_string_equal(s.order, "esle");
    assert_int_equal(zp_test_wait(pid, 20), 0);
    zp_sync_close(&s.ready);
    zp_sync_close(&s.seen);
}

/* A callback that takes its time by waiting: the others are called meanwhile.
 */
static int
on_waiting(zp_watch *watch, const zp_event *event, void *user)
{
    slow *s = user;

    (void)watch;
    (void)event;
    assert_false(s->inside);
    if (s->n > 0)
        return note_name(s, 'w');
    s->inside = true;
    for (int i = 3; i <= 5; i++)
        set(s->f->other, "a", i);
    note_name(s, 'W');
    assert_ok(zp_run(s->f->ctx)); /* until there are four names */
    s->inside = false;
    return 0;
}

/* Goal: a callback that waits delays nobody but itself. */
static void
test_slow_waits(void **state)
{
    fixture *f = *state;
    slow s = {.f = f};
    int w = 0;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL,
                                  on_waiting, &s));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, on_late, &s));
    set(f->other, "a", 1);
    while (s.n < 8)
        run_for(f->ctx, 0.01);
    assert_memory_equal(s.order, "Wlll", 4);
    for (int i = 4; i < 8; i++)
        w += s.order[i] == 'w';
    assert_int_equal(w, 3); /* and one l is left */
}

/* --------------------------------------------------------------- longest -- */

static double
longest(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_ctx_stats(ctx, &stats));
    return stats.longest_callback;
}

static int
sleep_in(zp_state *txn, void *user)
{
    (void)txn;
    usleep((unsigned)(*(double *)user * 1e6));
    return 0;
}

static int
on_sleep(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    usleep((unsigned)(*(double *)r->user * 1e6));
    return 0;
}

/* Goal: the statistic is the time of the slowest callback. */
static void
test_longest(void **state)
{
    fixture *f = *state;
    double seconds = 0.05, began, first;
    recorder r = {.ctx = f->ctx, .then = on_sleep, .user = &seconds};

    assert_true(longest(f->ctx) == 0);
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 1);
    began = zp_test_now();
    run_until(&r, 1);
    first = longest(f->ctx);
    assert_true(first >= 0.05);
    assert_true(first <= zp_test_now() - began);
    seconds = 0;
    set(f->other, "a", 2);
    run_until(&r, 2);
    assert_true(longest(f->ctx) >= first); /* it stays */
    forget(&r);
}

/* Goal: an atomic function is no callback; in a callback it is part of it. */
static void
test_longest_atomic(void **state)
{
    fixture *f = *state;
    double seconds = 0.05;

    assert_ok(zp_atomic(f->state, sleep_in, &seconds));
    assert_true(longest(f->ctx) == 0);
}

static int
atomic_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    return zp_atomic(zp_ctx_state(r->ctx), sleep_in, r->user);
}

static void
test_longest_with_atomic(void **state)
{
    fixture *f = *state;
    double seconds = 0.05;
    recorder r = {.ctx = f->ctx, .then = atomic_inside, .user = &seconds};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 1);
    run_until(&r, 1);
    assert_true(longest(f->ctx) >= 0.05);
    forget(&r);
}

#define WAIT 1.0 /* seconds */

static void
on_break(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    assert_ok(zp_break(timer->data));
}

/* Wait, take a little time, wait again. */
static int
wait_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    ev_timer timer;

    (void)watch;
    (void)event;
    ev_timer_init(&timer, on_break, WAIT / 2, 0);
    timer.data = r->ctx;
    set(r->user, "b", 1);
    for (int i = 0; i < 2; i++) {
        ev_now_update(zp_ev_loop(r->ctx));
        ev_timer_start(zp_ev_loop(r->ctx), &timer);
        assert_ok(zp_run(r->ctx));
        usleep(20000);
    }
    return 0;
}

/* Goal: the time that a callback waits does not count, since it delays nobody;
 * what runs meanwhile does, for itself. */
static void
test_longest_waits(void **state)
{
    fixture *f = *state;
    double seconds = 0.01;
    recorder inner = {.ctx = f->ctx, .then = on_sleep, .user = &seconds};
    recorder r = {.ctx = f->ctx, .then = wait_inside, .user = f->other};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b"), NULL, record,
                                  &inner));
    set(f->other, "a", 1);
    while (r.n == 0 || inner.n == 0 || longest(f->ctx) < 0.04)
        run_for(f->ctx, 0);
    assert_true(longest(f->ctx) < WAIT / 2);
    forget(&inner);
    forget(&r);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_flood),
        T(test_flood_live),
        T(test_flood_slow),
        SHORT(test_flood_overruns),
        T(test_slow),
        T(test_slow_waits),
        T(test_longest),
        T(test_longest_atomic),
        T(test_longest_with_atomic),
        T(test_longest_waits),
    };
    return zp_test_main("fairness", tests, sizeof tests / sizeof *tests, 60);
}
