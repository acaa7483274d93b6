/*
 * test_fetch_edges.c - the corners of iterators and waits, as a model met them
 * (see model.h): what is waiting when somebody stops to look, and what the log
 * forgets meanwhile.
 */
#include "tests/api/watching.h"

static int
is_true(zp_state *snapshot, void *user)
{
    (void)snapshot;
    (void)user;
    return 1;
}

/* Goal: however little time a wait has, it sees what was there at the call. */
static void
test_no_time_but_a_backlog(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_OLDEST};
    const zp_event *event;
    zp_watch *watch;

    for (int i = 0; i < 10000; i++)
        set(f->other, "a", i);
    set(f->other, "b", 1);
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("b"), &options,
                                  NULL, NULL));
    assert_return(zp_watch_next(watch, &event, 1e-6), 1);
    assert_int_equal(zp_event_revision(event), 10001);
    zp_watch_free(watch);
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("b"), 1e-6, &options));
}

static int
return_error(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return -77;
}

/* Goal: what a live wait has found, but not been given when a callback's
 * failure ends it, the next one with its cursor gets. */
static void
test_live_wait_that_a_callback_ends(void **state)
{
    fixture *f = *state;
    zp_watch_options live = {.size = sizeof live, .flags = ZP_LIVE};
    zp_watch_options options = live;
    uint64_t cursor = 0;
    zp_state *snapshot;

    options.cursor = &cursor;
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("a"), 0, &options),
                  -ETIMEDOUT);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &live,
                                  return_error, NULL));
    set(f->other, "a", 1);
    set(f->other, "b", 1);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("a"), 5, &options),
                  -77);
    assert_ok(
        zp_get_when_change(f->state, &snapshot, ZP_KEYS("a"), 0, &options));
    assert_int_equal(head_of(snapshot), 1);
    zp_state_free(snapshot);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("a"), 0, &options),
                  -ETIMEDOUT);
}

/* Goal: going live skips a first look that is still to come. */
static void
test_go_live_before_the_first_look(void **state)
{
    fixture *f = *state;
    const zp_event *event;
    zp_watch *watch;
    recorder r = {.ctx = f->ctx};
    zp_watch *called;

    set(f->other, "a", 1);
    assert_ok(zp_call_when_available(f->state, &watch, "a", NULL, NULL, NULL));
    assert_ok(zp_call_when_available(f->state, &called, "a", NULL, record, &r));
    assert_ok(zp_go_live(watch));
    assert_ok(zp_go_live(called));
    assert_return(zp_watch_next(watch, &event, 0), -ETIMEDOUT);
    set(f->other, "a", 2);
    assert_return(zp_watch_next(watch, &event, 5), 1);
    assert_int_equal(zp_event_kind(event), ZP_CHANGED);
    settle(f);
    assert_values(&r, "a", VALUES(2));
    zp_watch_free(watch);
    zp_watch_free(called);
    forget(&r);
}

/* Write, and skip that: past what the turn knows. */
static int
go_ahead(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;

    if (zp_event_kind(event) == ZP_CHANGED) {
        set(f->other, "a", 2);
        return zp_go_live(watch);
    }
    assert_int_equal(int_at(zp_event_snapshot(event), "a"), 2);
    return zp_break(r->ctx);
}

/* Goal: the last event's snapshot is of its revision, also when the callback
 * has gone ahead of the turn that it was called in. */
static void
test_time_is_over_ahead_of_the_turn(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = go_ahead, .user = f};
    zp_watch_options options = {.size = sizeof options, .timeout = 1e-6};
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), &options,
                                  record, &r));
    set(f->other, "a", 1);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(r.n, 2);
    assert_int_equal(r.events[1].kind, ZP_TIMEDOUT);
    assert_int_equal(r.events[1].revision, 2);
    zp_watch_free(watch);
    forget(&r);
}

/* Goal: an iterator from the oldest on looks first at the state before the
 * oldest change that is retained; so does a wait. */
static void
test_first_look_at_the_oldest(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_OLDEST};
    const zp_event *event;
    zp_state *snapshot;
    zp_watch *watch;

    for (int i = 1; i <= 100; i++)
        set(f->other, "a", i);
    assert_ok(
        zp_call_when(f->state, &watch, NULL, 0, &options, is_true, NULL, NULL));
    assert_return(zp_watch_next(watch, &event, 0), 1);
    assert_int_equal(zp_event_kind(event), ZP_FIRST);
    assert_int_equal(zp_event_revision(event), 36);
    assert_int_equal(int_at(zp_event_snapshot(event), "a"), 36);
    zp_watch_free(watch);
    assert_ok(
        zp_get_when(f->state, &snapshot, NULL, 0, 0, &options, is_true, NULL));
    assert_int_equal(head_of(snapshot), 36);
    zp_state_free(snapshot);
}

/* Once: let the log forget some of what is on its way to others. */
static int
write_much(zp_watch *watch, const zp_event *event, void *user)
{
    fixture *f = user;

    (void)event;
    zp_watch_cancel(watch);
    for (int i = 1; i <= 60; i++)
        set(f->other, "b", i);
    return 0;
}

/* Goal: changes that the log forgets while a turn reads them, before an
 * iterator can hold them, are told as lost: all of them. */
static void
test_forgotten_on_the_way(void **state)
{
    fixture *f = *state;
    const zp_event *event;
    uint64_t first, last;
    zp_watch *watch, *writer;

    assert_ok(zp_call_when_change(f->state, &writer, ZP_KEYS("a"), NULL,
                                  write_much, f));
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, NULL, NULL));
    for (int i = 1; i <= 10; i++)
        set(f->other, "a", i);
    assert_return(zp_watch_next(watch, &event, 5), 1);
    assert_int_equal(zp_event_kind(event), ZP_OVERRUN);
    assert_ok(zp_event_lost(event, &first, &last));
    assert_int_equal(first, 1);
    assert_int_equal(last, 6);
    for (uint64_t revision = 7; revision <= 10; revision++) {
        assert_return(zp_watch_next(watch, &event, 0), 1);
        assert_int_equal(zp_event_revision(event), revision);
        assert_int_equal(int_at(zp_event_snapshot(event), "a"), revision);
        assert_int_equal(int_at(zp_event_before(event), "a"), revision - 1);
    }
    assert_return(zp_watch_next(watch, &event, 0), -ETIMEDOUT);
    zp_watch_free(watch);
    zp_watch_free(writer);
}

/* Goal: if that happens to one from the oldest on, what was there when it was
 * registered is still not told as lost. */
static void
test_oldest_forgotten_on_the_way(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_OLDEST};
    const zp_event *event;
    uint64_t first, last;
    zp_watch *watch, *writer;

    assert_ok(zp_call_when_change(f->state, &writer, ZP_KEYS("a"), NULL,
                                  write_much, f));
    for (int i = 1; i <= 10; i++) {
        set(f->other, "a", i);
        if (i == 4)
            assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"),
                                          &options, NULL, NULL));
    }
    assert_return(zp_watch_next(watch, &event, 5), 1);
    assert_int_equal(zp_event_kind(event), ZP_OVERRUN);
    assert_ok(zp_event_lost(event, &first, &last));
    assert_int_equal(first, 5);
    assert_int_equal(last, 6);
    zp_watch_free(watch);
    zp_watch_free(writer);
}

/* Goal: what was held back is called when the wait is over, without any other
 * news. */
static void
test_held_back_until_the_wait_is_over(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch_options options = {.size = sizeof options, .flags = ZP_HOLD};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 1);
    run_until(&r, 1);
    set(f->other, "a", 2);
    set(f->other, "b", 1);
    options.flags |= ZP_SINCE;
    options.since = 1;
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("b"), 5, &options));
    options.flags = ZP_HOLD;
    assert_return(
        zp_get_when_change(f->state, NULL, ZP_KEYS("b"), 0.05, &options),
        -ETIMEDOUT);
    assert_int_equal(r.n, 1);
    run_until(&r, 2);
    assert_values(&r, "a", VALUES(1, 2));
    forget(&r);
}

static int
let_go_live(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    return r->n == 1 ? zp_go_live(r->user) : 0;
}

/* Goal: going live skips what a live watch was about to be called for. */
static void
test_go_live_before_a_live_event(void **state)
{
    fixture *f = *state;
    recorder first = {.ctx = f->ctx, .then = let_go_live}, second = {0};
    zp_watch_options live = {.size = sizeof live, .flags = ZP_LIVE};
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &live, record,
                                  &first));
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), &live, record,
                                  &second));
    first.user = watch;
    second.ctx = f->ctx;
    set(f->other, "a", 1);
    settle(f);
    set(f->other, "a", 2);
    settle(f);
    assert_values(&first, "a", VALUES(1, 2));
    assert_values(&second, "a", VALUES(2));
    zp_watch_free(watch);
    forget(&first);
    forget(&second);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_no_time_but_a_backlog),
        T(test_live_wait_that_a_callback_ends),
        T(test_go_live_before_the_first_look),
        T(test_time_is_over_ahead_of_the_turn),
        T(test_held_back_until_the_wait_is_over),
        T(test_go_live_before_a_live_event),
        SHORT(test_first_look_at_the_oldest),
        SHORT(test_forgotten_on_the_way),
        SHORT(test_oldest_forgotten_on_the_way),
    };
    return zp_test_main("fetch_edges", tests, sizeof tests / sizeof *tests, 20);
}
