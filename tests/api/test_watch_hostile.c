/*
 * test_watch_hostile.c - reactions where several things come at once: the log
 * passes a watch in the middle of a turn, callbacks and predicates take away
 * what others stand on, ones that always have news, waits inside of waits.
 */
#include "tests/api/watching.h"

#define PATIENCE 5.0 /* seconds, for what comes at once */

/* Push everything out of a log of 64. */
static void
flood(fixture *f)
{
    for (int i = 0; i < 200; i++)
        set(f->other, "flood", i);
}

static int
flood_once(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    if (r->n == 1)
        flood(r->user);
    return 0;
}

static int
fetch_kind(zp_watch *watch, const zp_event **ret_event)
{
    assert_return(zp_watch_next(watch, ret_event, PATIENCE), 1);
    return zp_event_kind(*ret_event);
}

/* --------------------------------------------------- passed in mid-turn -- */

/* Holds once there is a "k"; and pushes out what it is asked about. */
static int
flood_and_hold(zp_state *snapshot, void *user)
{
    if (zp_contains(snapshot, "k") <= 0)
        return 0;
    flood(user);
    return 1;
}

/* Goal: an iterator whose row went from the log in the middle of the turn is
 * told of the loss. */
static void
test_row_gone_in_turn(void **state)
{
    fixture *f = *state;
    const zp_event *event;
    uint64_t first, last, lost;
    zp_watch *watch;

    assert_ok(zp_call_when(f->state, &watch, ZP_KEYS("k"), NULL, flood_and_hold,
                           NULL, f));
    assert_return(zp_watch_next(watch, &event, 0), -ETIMEDOUT);
    set(f->other, "k", 1);
    lost = head_of(f->state);
    assert_int_equal(fetch_kind(watch, &event), ZP_OVERRUN);
    assert_ok(zp_event_lost(event, &first, &last));
    assert_true(first <= lost && lost <= last);
    zp_watch_free(watch);
}

/* Goal: an overrun that was overtaken itself tells all that was lost. */
static void
test_overrun_gone_in_turn(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = flood_once, .user = f};
    const zp_event *event;
    uint64_t first, last, begin;
    zp_watch *watch;

    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), NULL, NULL, NULL));
    begin = head_of(f->state);
    flood(f);
    assert_ok(
        zp_call_when_available(f->state, NULL, "flood", NULL, record, &r));
    assert_int_equal(fetch_kind(watch, &event), ZP_OVERRUN);
    assert_ok(zp_event_lost(event, &first, &last));
    assert_int_equal(first, begin + 1);
    assert_true(last > begin + 200);
    zp_watch_free(watch);
    forget(&r);
}

/* Goal: the first look at the oldest revision that can be read is a look, also
 * of what waits. */
static void
test_first_look_at_oldest(void **state)
{
    fixture *f = *state;
    zp_watch_options oldest = {.size = sizeof oldest, .flags = ZP_OLDEST};
    const zp_event *event;
    zp_state *snapshot;
    zp_watch *watch;

    set(f->other, "k", 1);
    flood(f);
    assert_ok(zp_get_when_truthy(f->state, &snapshot, "k", 1, &oldest));
    assert_int_equal(int_at(snapshot, "k"), 1);
    assert_int_equal(zp_retained(snapshot), 1);
    zp_state_free(snapshot);
    assert_ok(zp_call_when_truthy(f->state, &watch, "k", &oldest, NULL, NULL));
    assert_int_equal(fetch_kind(watch, &event), ZP_FIRST);
    assert_int_equal(int_at(zp_event_snapshot(event), "k"), 1);
    zp_watch_free(watch);
}

/* ------------------------------------------------- an event that waits -- */

static int
dawdle(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    usleep(5000); /* longer than one part of a turn may take */
    return r->rc;
}

/* Goal: a look without waiting sees what was found, even if others took so long
 * that it was not called in the same turn. */
static void
test_live_look_behind_slow_one(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = dawdle};
    zp_watch_options live = {.size = sizeof live, .flags = ZP_LIVE};
    const zp_event *event;
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("slow"), &live,
                                  record, &r));
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), &live, NULL, NULL));
    set(f->other, "slow", 1);
    set(f->other, "k", 1);
    assert_return(zp_watch_next(watch, &event, 0), 1);
    zp_watch_free(watch);
    forget(&r);
}

/* Goal: a live wait that ends with a callback's error, when its event was found
 * already, gets it in the next call. */
static void
test_live_cursor_keeps_found(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = dawdle, .rc = -5};
    uint64_t cursor = 0;
    zp_watch_options live = {
        .size = sizeof live, .flags = ZP_LIVE, .cursor = &cursor};

    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &live),
                  -ETIMEDOUT);
    live.cursor = NULL;
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("slow"), &live,
                                  record, &r));
    live.cursor = &cursor;
    set(f->other, "slow", 1);
    set(f->other, "k", 1);
    assert_return(
        zp_get_when_change(f->state, NULL, ZP_KEYS("k"), PATIENCE, &live), -5);
    assert_ok(
        zp_get_when_change(f->state, NULL, ZP_KEYS("k"), PATIENCE, &live));
    forget(&r);
}

/* Goal: a callback's error is told, also if it is the one that a wait without
 * an event gives; the event comes with the next call. */
static void
test_timeout_of_callback(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .rc = -ETIMEDOUT};
    const zp_event *event;
    zp_watch *watch;

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), NULL, NULL, NULL));
    for (int i = 0; i < 2; i++) {
        set(f->other, "a", i);
        set(f->other, "k", i);
        assert_return(zp_watch_next(watch, &event, i ? PATIENCE : 0),
                      -ETIMEDOUT);
        assert_int_equal(r.n, i + 1);
        assert_return(zp_watch_next(watch, &event, 0), 1);
    }
    zp_watch_free(watch);
    forget(&r);
}

/* What a callback inside of a run inside of a wait does to who waits. */
typedef struct inner {
    fixture *f;
    zp_watch *watch;
    bool skips; /* zp_go_live(), or else zp_watch_next() */
    zp_watch *(*frees)(zp_watch *watch);
    int rc;
} inner;

static int
meddle(recorder *r, zp_watch *watch, const zp_event *event)
{
    inner *in = r->user;
    const zp_event *stolen;

    (void)watch;
    (void)event;
    in->rc = in->skips ? zp_go_live(in->watch)
                       : zp_watch_next(in->watch, &stolen, 0);
    return zp_break(r->ctx);
}

static int
run_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    inner *in = r->user;

    (void)watch;
    (void)event;
    set(in->f->other, "k", 7 + in->skips);
    set(in->f->other, "meddle", 1 + in->skips);
    return zp_run(r->ctx);
}

static void
wait_and_meddle(fixture *f, inner *in)
{
    recorder outer = {.ctx = f->ctx, .then = run_inside, .user = in};
    recorder deep = {.ctx = f->ctx, .then = meddle, .user = in};
    const zp_event *event;
    zp_watch *watches[2];

    assert_ok(zp_call_when_change(f->state, &in->watch, ZP_KEYS("k"), NULL,
                                  NULL, NULL));
    assert_ok(zp_call_when_change(f->state, &watches[0], ZP_KEYS("run"), NULL,
                                  record, &outer));
    assert_ok(zp_call_when_change(f->state, &watches[1], ZP_KEYS("meddle"),
                                  NULL, record, &deep));
    set(f->other, "run", 1 + in->skips);
    assert_return(zp_watch_next(in->watch, &event, PATIENCE), 1);
    assert_int_equal(int_at(zp_event_snapshot(event), "k"), 7 + in->skips);
    zp_watch_free(in->watch);
    zp_watch_free(watches[0]);
    zp_watch_free(watches[1]);
    forget(&outer);
    forget(&deep);
}

/* Goal: an event that has come to a wait, which cannot return yet, is that
 * wait's: a call inside of it neither takes it away nor skips it. */
static void
test_event_is_its_waiters(void **state)
{
    inner in = {.f = *state};

    wait_and_meddle(*state, &in);
    assert_int_equal(in.rc, -EBUSY);
    in.skips = true;
    wait_and_meddle(*state, &in);
    assert_int_equal(in.rc, 0);
}

static int
end_turn(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    return zp_break(r->ctx);
}

static int
look_at_end(recorder *r, zp_watch *watch, const zp_event *event)
{
    int64_t *value = r->user;

    (void)watch;
    if (zp_event_kind(event) != ZP_TIMEDOUT)
        return 0;
    *value = int_at(zp_event_snapshot(event), "e");
    return zp_break(r->ctx);
}

/* Goal: the log passes a watch whose time is over, when the next turn begins
 * with those: the loss is told before the end, and that has its snapshot. */
static void
test_passed_at_its_end(void **state)
{
    fixture *f = *state;
    int64_t value = ABSENT;
    recorder ends = {.ctx = f->ctx, .then = end_turn};
    recorder brief = {.ctx = f->ctx, .then = look_at_end, .user = &value};
    zp_watch_options oldest = {.size = sizeof oldest, .flags = ZP_OLDEST};
    double brevity = 0.02 * zp_test_slow();
    zp_watch_options soon = {.size = sizeof soon, .timeout = brevity};

    set(f->other, "e", 1);
    for (int i = 0; i < 20; i++)
        set(f->other, "k", i);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("e"), &soon, record,
                                  &brief));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("k"), &oldest, record,
                                  &ends));
    assert_ok(zp_run(f->ctx));
    usleep((useconds_t)(1.5e6 * brevity));
    assert_ok(zp_run(f->ctx)); /* in which the time is over */
    assert_int_equal(brief.n, 0);
    flood(f);
    do
        assert_ok(zp_run(f->ctx));
    while (brief.n == 0 || brief.events[brief.n - 1].kind != ZP_TIMEDOUT);
    assert_int_equal(brief.n, 2);
    assert_int_equal(brief.events[0].kind, ZP_OVERRUN);
    assert_int_equal(value, 1);
    forget(&ends);
    forget(&brief);
}

static zp_watch *
cancel(zp_watch *watch)
{
    assert_ok(zp_watch_cancel(watch));
    return watch;
}

static int
take_away(recorder *r, zp_watch *watch, const zp_event *event)
{
    inner *in = r->user;

    (void)watch;
    (void)event;
    in->watch = in->frees(in->watch);
    return zp_break(r->ctx);
}

/* Goal: a watch that is taken away, when its last event has come, but the wait
 * for it cannot return yet, was taken away: it has not come to its end. */
static void
test_last_event_taken_away(void **state)
{
    fixture *f = *state;
    inner in = {.f = f};
    recorder outer = {.ctx = f->ctx, .then = run_inside, .user = &in};
    recorder deep = {.ctx = f->ctx, .then = take_away, .user = &in};
    zp_watch_options once = {.size = sizeof once, .count = 1};
    const zp_event *event;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("run"), NULL, record,
                                  &outer));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("meddle"), NULL,
                                  record, &deep));
    for (int i = 0; i < 2; i++) {
        in.skips = i; /* for other values */
        in.frees = i ? zp_watch_free : cancel;
        assert_ok(zp_call_when_change(f->state, &in.watch, ZP_KEYS("k"), &once,
                                      NULL, NULL));
        set(f->other, "run", i);
        assert_return(zp_watch_next(in.watch, &event, PATIENCE), -ECANCELED);
        zp_watch_free(in.watch);
    }
    forget(&outer);
    forget(&deep);
}

/* ----------------------------------------------------- taken from below -- */

static int
free_and_look(zp_state *snapshot, void *user)
{
    zp_state **clone = user;

    *clone = zp_state_free(*clone);
    return zp_contains(snapshot, "flood");
}

/* Goal: a predicate that is asked after an overrun may free the state that is
 * waited on, and go on looking. */
static void
test_predicate_frees_state_at_overrun(void **state)
{
    fixture *f = *state;
    uint64_t cursor = head_of(f->state) + 1;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
    zp_state *clone, *snapshot;

    assert_ok(zp_state_clone(f->state, &clone, NULL));
    flood(f);
    assert_ok(zp_get_when(clone, &snapshot, ZP_KEYS("k"), PATIENCE, &options,
                          free_and_look, &clone));
    assert_null(clone);
    assert_int_equal(int_at(snapshot, "flood"), 199);
    assert_int_equal(cursor, head_of(f->state) + 1);
    zp_state_free(snapshot);
}

static int
free_state(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    zp_state_free(r->user);
    return 0;
}

/* Goal: the events that a wait for several has had are not seen again, when the
 * state was freed before the last of them. */
static void
test_cursor_of_freed_state(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = free_state};
    uint64_t cursor = 0;
    zp_watch_options options = {
        .size = sizeof options, .count = 2, .cursor = &cursor};
    zp_state *clone;

    assert_ok(zp_state_clone(f->state, &clone, NULL));
    r.user = clone;
    assert_return(zp_get_when_change(clone, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("free"), NULL, record, &r));
    set(f->other, "k", 1);
    set(f->other, "free", 1);
    assert_return(
        zp_get_when_change(clone, NULL, ZP_KEYS("k"), PATIENCE, &options),
        -ECANCELED);
    set(f->other, "k", 2);
    options.count = 1;
    zp_state *snapshot;
    assert_ok(zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), PATIENCE,
                                 &options));
    assert_int_equal(int_at(snapshot, "k"), 2);
    zp_state_free(snapshot);
    forget(&r);
}

/* ---------------------------------------------------------- starvation -- */

/* Goal: who fetches from a live iterator that always has news does not keep
 * the callbacks from theirs. */
static void
test_live_iterator_starves_nobody(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch_options live = {.size = sizeof live, .flags = ZP_LIVE};
    const zp_event *event;
    zp_watch *watch;

    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), &live, NULL, NULL));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("k"), NULL, record, &r));
    for (int i = 0; i < 100; i++) {
        set(f->other, "k", i);
        assert_return(zp_watch_next(watch, &event, PATIENCE), 1);
    }
    assert_true(r.n >= 90);
    zp_watch_free(watch);
    forget(&r);
}

/* Goal: nor does who fetches from a buffered one keep others from the end of
 * their time, and from their past. */
static void
test_busy_iterator_starves_nobody(void **state)
{
    fixture *f = *state;
    recorder past = {.ctx = f->ctx}, timed = past;
    zp_watch_options oldest = {.size = sizeof oldest, .flags = ZP_OLDEST};
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.001};
    const zp_event *event;
    zp_watch *watch;

    for (int i = 0; i < 50; i++)
        set(f->other, "past", i);
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), NULL, NULL, NULL));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("past"), &oldest,
                                  record, &past));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("none"), &brief,
                                  record, &timed));
    usleep(2000);
    set(f->other, "k", 0);
    for (int i = 1; i < 100; i++) {
        set(f->other, "k", i); /* always one more than is fetched */
        assert_return(zp_watch_next(watch, &event, PATIENCE), 1);
    }
    assert_int_equal(past.n, 50);
    assert_int_equal(timed.n, 1);
    zp_watch_free(watch);
    forget(&past);
    forget(&timed);
}

/* ------------------------------------------------------------ foreigners -- */

/* Goal: a callback that runs the application's loop by itself gets other
 * callbacks there, also when the wait that it is inside of has come true. */
static int
run_ev(recorder *r, zp_watch *watch, const zp_event *event)
{
    inner *in = r->user;
    bool over = false;
    ev_timer timer;

    (void)watch;
    (void)event;
    set(in->f->other, "k", 7);
    set(in->f->other, "note", 1);
    ev_timer_init(&timer, on_time, PATIENCE, 0);
    timer.data = &over;
    ev_now_update(zp_ev_loop(r->ctx));
    ev_timer_start(zp_ev_loop(r->ctx), &timer);
    while (!over && !in->skips)
        ev_run(zp_ev_loop(r->ctx), EVRUN_ONCE);
    ev_timer_stop(zp_ev_loop(r->ctx), &timer);
    return 0;
}

static int
note_inner(recorder *r, zp_watch *watch, const zp_event *event)
{
    inner *in = r->user;

    (void)watch;
    (void)event;
    in->skips = true;
    return 0;
}

static void
test_application_runs_loop_inside(void **state)
{
    fixture *f = *state;
    inner in = {.f = f};
    recorder runs = {.ctx = f->ctx, .then = run_ev, .user = &in};
    recorder notes = {.ctx = f->ctx, .then = note_inner, .user = &in};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("run"), NULL, record,
                                  &runs));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("note"), NULL, record,
                                  &notes));
    set(f->other, "run", 1);
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), PATIENCE, NULL));
    assert_true(in.skips);
    forget(&runs);
    forget(&notes);
}

/* Goal: a size that no struct has is an error, not a walk through memory. */
static void
test_huge_options(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = SIZE_MAX / 2};

    assert_return(zp_get_when_available(f->state, NULL, "k", 0, &options),
                  -EINVAL);
}

#define SHORT(f) ZP_TEST_WITH(f, watching_setup_short, watching_teardown)
#define FULL(f) ZP_TEST_WITH(f, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        SHORT(test_row_gone_in_turn),
        SHORT(test_overrun_gone_in_turn),
        SHORT(test_first_look_at_oldest),
        FULL(test_live_look_behind_slow_one),
        FULL(test_live_cursor_keeps_found),
        FULL(test_timeout_of_callback),
        FULL(test_event_is_its_waiters),
        SHORT(test_passed_at_its_end),
        FULL(test_last_event_taken_away),
        SHORT(test_predicate_frees_state_at_overrun),
        FULL(test_cursor_of_freed_state),
        FULL(test_live_iterator_starves_nobody),
        FULL(test_busy_iterator_starves_nobody),
        FULL(test_application_runs_loop_inside),
        FULL(test_huge_options),
    };

    return zp_test_main("watch_hostile", tests, sizeof tests / sizeof *tests,
                        60);
}
