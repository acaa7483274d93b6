/*
 * test_watch_modes.c - where a watch starts and what it skips: live watches,
 * those that start in the past, and those that the log has passed.
 */
#include "tests/api/watching.h"

/* --------------------------------------------------------------- modes -- */

/* Goal: a live watch gets the newest of what came while it was not looking. */
static void
test_live(void **state)
{
    fixture *f = *state;
    recorder live = {.ctx = f->ctx}, all = live;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_LIVE};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &options,
                                  record, &live));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &all));
    for (int i = 1; i <= 10; i++)
        set(f->other, "a", i);
    set(f->other, "b", 1);
    settle(f);
    assert_values(&live, "a", VALUES(10));
    assert_int_equal(live.events[0].before, 9);
    assert_int_equal(all.n, 10);
    set(f->other, "a", 11);
    settle(f);
    assert_values(&live, "a", VALUES(10, 11));
    forget(&live);
    forget(&all);
}

static int
write_more(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;

    (void)watch;
    (void)event;
    for (int i = 0; r->n == 1 && i < 5; i++)
        set(f->other, "a", 100 + i);
    return 0;
}

/* Goal: what comes while a live watch is busy is skipped but for the newest. */
static void
test_live_while_busy(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = write_more, .user = f};
    zp_watch_options options = {.size = sizeof options, .flags = ZP_LIVE};

    assert_ok(
        zp_call_when_change(f->state, NULL, NULL, 0, &options, record, &r));
    set(f->other, "a", 1);
    run_until(&r, 2);
    assert_values(&r, "a", VALUES(1, 104));
    forget(&r);
}

/* Goal: a live watch with filters finds the newest that passes them. */
static void
test_live_with_filters(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch_options options = {.size = sizeof options,
                                .flags = ZP_LIVE | ZP_EXCLUDE};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b", "~mark"),
                                  &options, record, &r));
    set(f->other, "a", 1);
    set(f->other, "a", 2);
    set(f->other, "a", 2);
    set(f->other, "b", 3);
    set(f->state, "a", 4);
    settle(f);
    assert_values(&r, "a", VALUES(2));
    forget(&r);
}

/* Goal: zp_go_live() skips what is waiting, once. */
static void
test_go_live(void **state)
{
    fixture *f = *state;
    recorder skip = {.ctx = f->ctx}, all = skip, live = skip;
    zp_watch_options live_mode = {.size = sizeof live_mode, .flags = ZP_LIVE};
    zp_watch *watch, *live_watch;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, record,
                                  &skip));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &all));
    assert_ok(zp_call_when_change(f->state, &live_watch, ZP_KEYS("a"),
                                  &live_mode, record, &live));
    set(f->other, "a", 1);
    set(f->other, "a", 2);
    assert_ok(zp_go_live(watch));
    assert_ok(zp_go_live(live_watch));
    set(f->other, "a", 3);
    set(f->other, "a", 4);
    settle(f);
    assert_values(&skip, "a", VALUES(3, 4));
    assert_values(&all, "a", VALUES(1, 2, 3, 4));
    assert_values(&live, "a", VALUES(4));
    forget(&skip);
    forget(&all);
    forget(&live);
}

static int
skip_the_rest(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)event;
    if (r->n == 3)
        assert_ok(zp_go_live(watch));
    return 0;
}

/* Goal: inside of its own callback, too. */
static void
test_go_live_inside(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = skip_the_rest};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    for (int i = 1; i <= 10; i++)
        set(f->other, "a", i);
    settle(f);
    assert_values(&r, "a", VALUES(1, 2, 3));
    set(f->other, "a", 11);
    settle(f);
    assert_values(&r, "a", VALUES(1, 2, 3, 11));
    forget(&r);
}

typedef struct other_watch {
    zp_state *state;
    zp_watch *watch;
} other_watch;

static int
write_and_skip(recorder *r, zp_watch *watch, const zp_event *event)
{
    other_watch *other = r->user;

    (void)watch;
    (void)event;
    if (r->n > 1)
        return 0;
    set(other->state, "a", 4);
    assert_ok(zp_go_live(other->watch));
    return 0;
}

/* Goal: one that a callback has sent ahead of the turn's own view of the log
 * does not make others be read for beyond it. */
static void
test_go_live_ahead(void **state)
{
    fixture *f = *state;
    other_watch other = {f->other, NULL};
    recorder live = {.ctx = f->ctx, .then = write_and_skip, .user = &other};
    recorder all = {.ctx = f->ctx}, none = all;

    for (int i = 1; i <= 3; i++)
        set(f->other, "a", i);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"),
                                  ZP_WATCH(.flags = ZP_OLDEST), record, &all));
    assert_ok(zp_call_when_change(f->state, &other.watch, ZP_KEYS("b"), NULL,
                                  record, &none));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"),
                                  ZP_WATCH(.flags = ZP_OLDEST | ZP_LIVE),
                                  record, &live));
    run_until(&all, 4);
    assert_values(&live, "a", VALUES(3, 4));
    assert_values(&all, "a", VALUES(1, 2, 3, 4));
    assert_int_equal(none.n, 0);
    forget(&live);
    forget(&all);
}

/* --------------------------------------------------------------- since -- */

/* Goal: a watch may start in the past, but not in the future. */
static void
test_since(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, oldest = r, now = r, live = r;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_SINCE};
    zp_watch_options first = {.size = sizeof first, .flags = ZP_OLDEST};
    zp_watch_options newest = {.size = sizeof newest,
                               .flags = ZP_OLDEST | ZP_LIVE};

    for (int i = 1; i <= 10; i++)
        set(f->other, "a", i);
    options.since = 11;
    assert_return(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &options,
                                      record, &now),
                  -ERANGE);
    options.since = 10;
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &options,
                                  record, &now));
    options.since = 7;
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &options,
                                  record, &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &first, record,
                                  &oldest));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &newest, record,
                                  &live));
    run_until(&oldest, 10);
    run_until(&r, 3);
    run_until(&live, 1);
    assert_values(&r, "a", VALUES(8, 9, 10));
    assert_values(&oldest, "a", VALUES(1, 2, 3, 4, 5, 6, 7, 8, 9, 10));
    assert_values(&live, "a", VALUES(10));
    assert_int_equal(now.n, 0);
    set(f->other, "a", 11);
    settle(f);
    assert_values(&r, "a", VALUES(8, 9, 10, 11));
    assert_values(&now, "a", VALUES(11));
    assert_int_equal(oldest.n, 11);
    assert_values(&live, "a", VALUES(10, 11));
    forget(&r);
    forget(&oldest);
    forget(&now);
    forget(&live);
}

/* Of an overrun, then N changes up to VALUE of "a". */
static void
assert_overrun(const recorder *r, uint64_t first, uint64_t last,
               uint64_t newest, size_t n)
{
    assert_int_equal(r->n, n + 1);
    assert_int_equal(r->events[0].kind, ZP_OVERRUN);
    assert_int_equal(r->events[0].first, first);
    assert_int_equal(r->events[0].last, last);
    assert_int_equal(r->events[0].revision, newest);
    assert_int_equal(r->events[0].writer, 0);
    assert_int_equal(r->events[0].length, 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(r->events[1 + i].kind, ZP_CHANGED);
        assert_int_equal(r->events[1 + i].revision, last + 1 + i);
    }
}

static int
check_newest(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    if (zp_event_kind(event) == ZP_OVERRUN)
        assert_int_equal(int_at(zp_event_snapshot(event), "a"),
                         int_at(zp_ctx_state(r->ctx), "a"));
    return 0;
}

/* Goal: whom the log has passed gets one overrun that says what is lost, then
 * all that is left; each watch for itself, once per gap. */
static void
test_overrun(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = check_newest};
    recorder late = r, past = r, few = r, live = r, oldest = r;
    zp_watch_options since = {.size = sizeof since, .flags = ZP_SINCE};
    zp_watch_options two = {.size = sizeof two, .count = 2};
    zp_watch_options live_mode = {.size = sizeof live_mode, .flags = ZP_LIVE};
    zp_watch_options first = {.size = sizeof first, .flags = ZP_OLDEST};
    zp_watch *watch;

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), &two, record,
                                  &few));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &live_mode,
                                  record, &live));
    for (int i = 1; i <= 200; i++) {
        set(f->other, "a", i);
        if (i == 50)
            assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record,
                                          &late));
    }
    since.since = 3;
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &since, record,
                                  &past));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &first, record,
                                  &oldest));
    run_until(&oldest, 64);
    settle(f);

    assert_overrun(&r, 1, 136, 200, 64);
    assert_int_equal(late.events[late.n - 1].revision, 201); /* the mark */
    late.n--;
    assert_overrun(&late, 51, 136, 200, 64);
    assert_overrun(&past, 4, 136, 200, 64);
    assert_overrun(&few, 1, 136, 200, 1);
    assert_int_equal(zp_watch_active(watch), 0);
    assert_int_equal(live.n, 2);
    assert_int_equal(live.events[0].kind, ZP_OVERRUN);
    assert_int_equal(live.events[1].revision, 200);
    assert_int_equal(oldest.n, 64);
    assert_int_equal(oldest.events[0].revision, 137);

    forget(&r);
    set(f->other, "a", 1000);
    settle(f);
    assert_values(&r, "a", VALUES(1000)); /* no second overrun */
    forget(&r);
    forget(&late);
    forget(&past);
    forget(&few);
    forget(&live);
    forget(&oldest);
}

/* Goal: what was dropped between the registration of an "oldest" watch and its
 * first look is no loss if it was there before, and one if it came after. */
static void
test_oldest_that_comes_late(void **state)
{
    fixture *f = *state;
    recorder a = {.ctx = f->ctx}, b = a;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_OLDEST};

    for (int i = 1; i <= 64; i++)
        set(f->other, "a", i);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &options,
                                  record, &a));
    for (int i = 65; i <= 74; i++)
        set(f->other, "a", i);
    run_until(&a, 64);
    assert_int_equal(a.events[0].kind, ZP_CHANGED);
    assert_int_equal(a.events[0].revision, 11);
    assert_int_equal(a.events[63].revision, 74);

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &options,
                                  record, &b));
    for (int i = 75; i <= 200; i++)
        set(f->other, "a", i);
    run_until(&b, 65);
    assert_overrun(&b, 75, 136, 200, 64);
    forget(&a);
    forget(&b);
}

static int
fall_behind(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;

    (void)watch;
    for (int i = 1; r->n == 10 && i <= 100; i++)
        set(f->other, "a", 1000 + i);
    if (zp_event_kind(event) == ZP_CHANGED && zp_event_revision(event) == 160)
        assert_ok(zp_break(r->ctx));
    return 0;
}

/* Goal: passed by the log in the middle of a backlog: what the turn's own
 * snapshot still shows comes, then the gap is told. */
static void
test_overrun_in_the_middle(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = fall_behind, .user = f};
    uint64_t next = 1;
    size_t overruns = 0;

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    for (int i = 1; i <= 60; i++)
        set(f->other, "a", i);
    assert_ok(zp_run(f->ctx));
    for (size_t i = 0; i < r.n; i++) {
        seen *e = &r.events[i];

        if (e->kind == ZP_OVERRUN) {
            assert_int_equal(e->first, next);
            next = e->last + 1;
            overruns++;
            continue;
        }
        assert_int_equal(e->revision, next);
        next++;
    }
    assert_int_equal(next, 161);
    assert_int_equal(overruns, 1);
    forget(&r);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_live),
        T(test_live_while_busy),
        T(test_live_with_filters),
        T(test_go_live),
        T(test_go_live_inside),
        T(test_go_live_ahead),
        T(test_since),
        SHORT(test_overrun),
        SHORT(test_oldest_that_comes_late),
        SHORT(test_overrun_in_the_middle),
    };
    return zp_test_main("watch_modes", tests, sizeof tests / sizeof *tests, 20);
}
