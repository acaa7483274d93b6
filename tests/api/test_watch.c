/*
 * test_watch.c - zp_call_when_change(): which changes come, what an event
 * shows, the options, and how a watch ends.
 */
#include <math.h>
#include <time.h>

#include "tests/api/watching.h"

/* ------------------------------------------------- which changes come -- */

/* Goal: a change of the watched key comes, with all that there is to know. */
static void
test_one_key(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    set(f->other, "b", 1);
    set(f->other, "a", 2);
    set(f->other, "aa", 3);
    set(f->other, "a", 4);
    assert_ok(zp_delete(f->other, "a"));
    settle(f);

    assert_int_equal(r.n, 3);
    assert_int_equal(r.events[0].kind, ZP_CHANGED);
    assert_int_equal(r.events[0].length, 1);
    assert_string_equal(r.events[0].key[0], "a");
    assert_int_equal(r.events[0].revision, 2);
    assert_int_equal(r.events[0].writer, getpid());
    assert_int_equal(r.events[0].flags[0], ZP_CREATED);
    assert_int_equal(r.events[0].value, 2);
    assert_int_equal(r.events[0].before, ABSENT);
    assert_int_equal(r.events[1].revision, 4);
    assert_int_equal(r.events[1].flags[0], 0);
    assert_int_equal(r.events[1].before, 2);
    assert_int_equal(r.events[2].flags[0], ZP_DELETED);
    assert_int_equal(r.events[2].value, ABSENT);
    assert_int_equal(r.events[2].before, 4);
    forget(&r);
}

/* Goal: several keys, any key, all keys but some; each its own. */
static void
test_key_lists(void **state)
{
    fixture *f = *state;
    recorder some = {.ctx = f->ctx}, any = some, but = some, all_but_none = some;
    zp_watch_options exclude = {.size = sizeof exclude, .flags = ZP_EXCLUDE};

    assert_ok(zp_call_when_change(f->state, NULL,
                                  ZP_KEYS("c", "a", "c", "a", "a"), NULL,
                                  record, &some));
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record,
                                  &any));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b", "~mark", "b"),
                                  &exclude, record, &but));
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, &exclude, record,
                                  &all_but_none));
    set(f->other, "a", 1);
    set(f->other, "b", 2);
    set(f->other, "c", 3);
    set(f->other, "d", 4);
    settle(f);

    assert_int_equal(some.n, 2);
    assert_int_equal(some.events[0].value, 1);
    assert_int_equal(some.events[1].value, 3);
    assert_int_equal(any.n, 5);
    assert_string_equal(any.events[4].key[0], "~mark");
    assert_int_equal(but.n, 3);
    assert_int_equal(but.events[0].value, 1);
    assert_int_equal(but.events[1].value, 3);
    assert_int_equal(but.events[2].value, 4);
    assert_int_equal(all_but_none.n, 5);
    forget(&some);
    forget(&any);
    forget(&but);
    forget(&all_but_none);
}

/* Goal: the same key of another namespace is another key. */
static void
test_namespaces(void **state)
{
    fixture *f = *state;
    recorder here = {.ctx = f->ctx}, there = here, any = here;
    zp_state *writer, *watched;

    assert_ok(zp_state_clone(f->state, &watched, "elsewhere"));
    assert_ok(zp_state_clone(f->state, &writer, "elsewhere"));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &here));
    assert_ok(zp_call_when_change(watched, NULL, ZP_KEYS("a"), NULL, record,
                                  &there));
    assert_ok(zp_call_when_change(watched, NULL, NULL, 0, NULL, record, &any));
    set(f->other, "a", 1);
    set(writer, "a", 2);
    set(writer, "b", 3);
    settle(f);
    assert_values(&here, "a", VALUES(1));
    assert_values(&there, "a", VALUES(2));
    assert_int_equal(any.n, 2);
    forget(&here);
    forget(&there);
    forget(&any);
}

static int
change_many(zp_state *txn, void *user)
{
    (void)user;
    assert_ok(zp_set_int(txn, "z", 26));
    assert_ok(zp_set_int(txn, "b", 2));
    assert_ok(zp_set_int(txn, "a", 1));
    assert_ok(zp_delete(txn, "gone"));
    assert_ok(zp_set_int(txn, "same", 7));
    assert_ok(zp_set_int(txn, "b", 22));
    return 0;
}

/* Goal: what one transaction changed is one event, in the order of the keys,
 * and only what is watched. */
static void
test_one_transaction_is_one_event(void **state)
{
    fixture *f = *state;
    recorder listed = {.ctx = f->ctx}, any = listed, same = listed;
    zp_watch_options with_same = {.size = sizeof with_same, .flags = ZP_SAME};

    set(f->other, "gone", 1);
    set(f->other, "same", 7);
    assert_ok(zp_call_when_change(f->state, NULL,
                                  ZP_KEYS("z", "gone", "b", "same", "x"),
                                  NULL, record, &listed));
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record,
                                  &any));
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, &with_same, record,
                                  &same));
    assert_ok(zp_atomic(f->other, change_many, NULL));
    settle(f);

    assert_int_equal(listed.n, 1);
    assert_int_equal(listed.events[0].length, 3);
    assert_string_equal(listed.events[0].key[0], "b");
    assert_string_equal(listed.events[0].key[1], "gone");
    assert_string_equal(listed.events[0].key[2], "z");
    assert_int_equal(listed.events[0].flags[0], ZP_CREATED);
    assert_int_equal(listed.events[0].flags[1], ZP_DELETED);
    assert_int_equal(listed.events[0].value, 22);
    assert_int_equal(any.n, 2); /* and the mark */
    assert_int_equal(any.events[0].length, 4);
    assert_string_equal(any.events[0].key[0], "a");
    assert_int_equal(same.events[0].length, 5);
    assert_string_equal(same.events[0].key[3], "same");
    assert_int_equal(same.events[0].flags[3], ZP_IDENTICAL);
    forget(&listed);
    forget(&any);
    forget(&same);
}

static int
set_c(zp_state *txn, void *user)
{
    (void)user;
    return zp_set_int(txn, "c", 30);
}

/* Goal: one's own writes do not come, unless asked for; "own" is the handle. */
static void
test_own_writes(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, own = r;
    zp_watch_options with_own = {.size = sizeof with_own, .flags = ZP_OWN};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("c"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("c"), &with_own,
                                  record, &own));
    set(f->state, "c", 1);
    set(f->other, "c", 2);
    assert_ok(zp_atomic(f->state, set_c, NULL));
    set(f->other, "c", 4);
    settle(f);
    assert_values(&r, "c", VALUES(2, 4));
    assert_values(&own, "c", VALUES(1, 2, 30, 4));
    forget(&r);
    forget(&own);
}

/* Goal: writing an equal value is not a change, unless asked for. */
static void
test_identical_values(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, same = r;
    zp_watch_options with_same = {.size = sizeof with_same, .flags = ZP_SAME};

    set(f->other, "a", 1);
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &with_same,
                                  record, &same));
    set(f->other, "a", 1);
    set(f->other, "a", 2);
    set(f->other, "a", 2);
    settle(f);
    assert_values(&r, "a", VALUES(2));
    assert_values(&same, "a", VALUES(1, 2, 2));
    assert_int_equal(same.events[0].flags[0], ZP_IDENTICAL);
    assert_int_equal(same.events[1].flags[0], 0);
    assert_int_equal(same.events[2].flags[0], ZP_IDENTICAL);
    forget(&r);
    forget(&same);
}

/* ------------------------------------------------- what an event shows -- */

#define BACKLOG 300

static int
check_moment(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_state *snapshot = zp_event_snapshot(event);
    int64_t i = (int64_t)r->n;
    uint64_t length, revision;

    (void)watch;
    assert_ok(zp_revision(snapshot, &revision));
    assert_int_equal(revision, zp_event_revision(event));
    assert_ok(zp_revision(zp_event_before(event), &revision));
    assert_int_equal(revision, zp_event_revision(event) - 1);
    assert_int_equal(int_at(snapshot, "n"), i);
    assert_int_equal(int_at(zp_event_before(event), "n"),
                     i == 1 ? ABSENT : i - 1);
    /* the live state is at the end already, the others are not */
    assert_int_equal(int_at(zp_ctx_state(r->ctx), "n"), BACKLOG);
    assert_ok(zp_length(snapshot, &length));
    assert_int_equal(length, 1 + (uint64_t)i / 3);
    assert_return(zp_set_int(snapshot, "n", 0), -EROFS);
    assert_true(fabs(zp_event_time(event) - (double)time(NULL)) < 60);
    assert_return(zp_event_lost(event, NULL, NULL), -EINVAL);
    return 0;
}

/* Goal: in a backlog each event has the snapshot of its own revision and the
 * one before it. */
static void
test_snapshots_in_a_backlog(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = check_moment};
    char key[16];

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("n"), NULL, record,
                                  &r));
    for (int i = 1; i <= BACKLOG; i++) {
        set(f->other, "n", i);
        snprintf(key, sizeof key, "key%d", i);
        if ((i + 1) % 3 == 0)
            set(f->other, key, i);
    }
    run_until(&r, BACKLOG);
    forget(&r);
}

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
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &all));
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

    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, &options, record,
                                  &r));
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
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &all));
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

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    for (int i = 1; i <= 10; i++)
        set(f->other, "a", i);
    settle(f);
    assert_values(&r, "a", VALUES(1, 2, 3));
    set(f->other, "a", 11);
    settle(f);
    assert_values(&r, "a", VALUES(1, 2, 3, 11));
    forget(&r);
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
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &newest,
                                  record, &live));
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

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), &two, record,
                                  &few));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &live_mode,
                                  record, &live));
    for (int i = 1; i <= 200; i++) {
        set(f->other, "a", i);
        if (i == 50)
            assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL,
                                          record, &late));
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

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
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

/* ----------------------------------------------------------------- ends -- */

/* Goal: after so many events a watch ends, and with the last watch the run. */
static void
test_count(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, one = r;
    zp_watch_options three = {.size = sizeof three, .count = 3};
    zp_watch_options once = {.size = sizeof once, .count = 1};
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), &three,
                                  record, &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &once, record,
                                  &one));
    assert_int_equal(zp_watch_active(watch), 1);
    for (int i = 1; i <= 5; i++)
        set(f->other, "a", i);
    assert_ok(zp_run(f->ctx)); /* returns: nothing is left */
    assert_values(&r, "a", VALUES(1, 2, 3));
    assert_values(&one, "a", VALUES(1));
    assert_int_equal(zp_watch_active(watch), 0);
    assert_ok(zp_go_live(watch));
    assert_ok(zp_watch_cancel(watch));
    assert_null(zp_watch_free(watch));
    assert_ok(zp_run(f->ctx));
    forget(&r);
    forget(&one);
}

static int
last_is_inactive(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)event;
    assert_int_equal(zp_watch_active(watch), r->n < 2);
    return 0;
}

/* Goal: inside of the last callback the watch has ended already. */
static void
test_active_inside(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = last_is_inactive};
    zp_watch_options two = {.size = sizeof two, .count = 2};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &two, record,
                                  &r));
    for (int i = 1; i <= 5; i++)
        set(f->other, "a", i);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(r.n, 2);
    forget(&r);
}

static int
fail_at_three(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    return r->n == 3 ? -ECHILD : 0;
}

/* Goal: a negative return ends the run at once; the next one goes on behind. */
static void
test_negative_return(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = fail_at_three}, after = {.ctx = f->ctx};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &after));
    for (int i = 1; i <= 6; i++)
        set(f->other, "a", i);
    assert_return(zp_run(f->ctx), -ECHILD);
    assert_values(&r, "a", VALUES(1, 2, 3));
    assert_values(&after, "a", VALUES(1, 2));
    settle(f);
    assert_values(&r, "a", VALUES(1, 2, 3, 4, 5, 6));
    assert_values(&after, "a", VALUES(1, 2, 3, 4, 5, 6));
    forget(&r);
    forget(&after);
}

/* Goal: zp_break() ends the run before the next callback. */
static void
test_break(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    for (int i = 1; i <= 20; i++)
        set(f->other, "a", i);
    run_until(&r, 5);
    assert_int_equal(r.n, 5);
    run_until(&r, 6);
    assert_int_equal(r.n, 6);
    run_until(&r, 20);
    forget(&r);
}

/* Goal: after cancel no callback comes, and the run does not wait. */
static void
test_cancel(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, other = r;
    zp_watch *watch, *second;
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(f->state, &second, ZP_KEYS("a"), NULL,
                                  record, &other));
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_int_equal(stats.watches, 2);
    set(f->other, "a", 1);
    settle(f);
    set(f->other, "a", 2);
    assert_ok(zp_watch_cancel(watch));
    assert_ok(zp_watch_cancel(watch));
    assert_int_equal(zp_watch_active(watch), 0);
    assert_int_equal(zp_watch_confirmed(watch), 0);
    settle(f);
    assert_values(&r, "a", VALUES(1));
    assert_values(&other, "a", VALUES(1, 2));
    assert_null(zp_watch_free(second));
    assert_ok(zp_run(f->ctx));
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_int_equal(stats.watches, 0);
    assert_int_equal(stats.events, 5);
    assert_null(zp_watch_free(watch));
    assert_null(zp_watch_free(NULL));
    forget(&r);
    forget(&other);
}

/* Goal: the watches of a handle go with it. */
static void
test_state_free(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx}, kept = r;
    zp_state *handle;
    zp_watch *watch;

    assert_ok(zp_state_clone(f->state, &handle, NULL));
    assert_ok(zp_call_when_change(handle, &watch, ZP_KEYS("a"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(handle, NULL, NULL, 0, NULL, record, &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &kept));
    set(f->other, "a", 1);
    assert_null(zp_state_free(handle));
    settle(f);
    assert_int_equal(r.n, 0);
    assert_values(&kept, "a", VALUES(1));
    forget(&kept);
}

/* Goal: freeing the context with watches of all kinds leaks nothing. */
static void
test_context_free(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch;

    for (int i = 0; i < 10; i++) {
        assert_ok(zp_call_when_change(f->state, i % 2 ? &watch : NULL,
                                      ZP_KEYS("a", "b"), NULL, record, &r));
        set(f->other, "a", i);
    }
    assert_ok(zp_watch_cancel(watch)); /* ended, not freed */
}

/* ------------------------------------------------------------ arguments -- */

static int
watch_inside(zp_state *txn, void *user)
{
    fixture *f = user;
    recorder r = {0};

    assert_return(zp_call_when_change(txn, NULL, NULL, 0, NULL, record, &r),
                  -EROFS);
    assert_return(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record,
                                      &r),
                  -EDEADLK);
    assert_string_not_equal(zp_ctx_error(f->ctx), "");
    return 0;
}

/* Goal: each bad argument is an error, and nothing is registered. */
static void
test_arguments(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch = NULL;
    zp_watch_options o = {.size = sizeof o};
    const char *null_key[] = {"a", NULL};
    char long_key[202];
    zp_state *snapshot;
    struct {
        zp_watch_options options;
        uint64_t later;
    } newer = {{.size = sizeof newer}, 0};

    memset(long_key, 'k', 201);
    long_key[201] = 0;
#define WATCH(state_, keys, n, options, fn)                                    \
    zp_call_when_change(state_, &watch, keys, n, options, fn, &r)
    assert_return(WATCH(NULL, NULL, 0, NULL, record), -EINVAL);
    assert_return(WATCH(f->state, NULL, 0, NULL, NULL), -EINVAL);
    assert_return(WATCH(f->state, NULL, 1, NULL, record), -EINVAL);
    assert_return(WATCH(f->state, null_key, 2, NULL, record), -EINVAL);
    assert_return(zp_call_when_change(f->state, &watch, ZP_KEYS(""), NULL,
                                      record, &r),
                  -EINVAL);
    assert_return(zp_call_when_change(f->state, &watch, ZP_KEYS(long_key),
                                      NULL, record, &r),
                  -EINVAL);
    o.flags = 1 << 6;
    assert_return(WATCH(f->state, NULL, 0, &o, record), -EINVAL);
    o.flags = ZP_SINCE | ZP_OLDEST;
    assert_return(WATCH(f->state, NULL, 0, &o, record), -EINVAL);
    o.flags = 0;
    o.size = 0;
    assert_return(WATCH(f->state, NULL, 0, &o, record), -EINVAL);
    newer.later = 1;
    assert_return(WATCH(f->state, NULL, 0, &newer.options, record), -EINVAL);
    assert_ok(zp_snapshot(f->state, &snapshot));
    assert_return(WATCH(snapshot, NULL, 0, NULL, record), -EROFS);
    zp_state_free(snapshot);
    assert_ok(zp_atomic(f->state, watch_inside, f));
    assert_null(watch);
    assert_ok(zp_run(f->ctx)); /* nothing to wait for */

    newer.later = 0;
    assert_ok(WATCH(f->state, NULL, 0, &newer.options, record));
    zp_watch_free(watch);
    o.size = sizeof o.size; /* an old caller */
    assert_ok(WATCH(f->state, NULL, 0, &o, record));
    zp_watch_free(watch);
    assert_return(zp_watch_cancel(NULL), -EINVAL);
    assert_return(zp_watch_active(NULL), -EINVAL);
    assert_return(zp_watch_confirmed(NULL), -EINVAL);
    assert_return(zp_go_live(NULL), -EINVAL);
    assert_return(zp_event_kind(NULL), -EINVAL);
    assert_null(zp_event_snapshot(NULL));
    assert_null(zp_event_before(NULL));
    assert_int_equal(zp_event_length(NULL), 0);
    assert_int_equal(zp_event_revision(NULL), 0);
}

struct inherited {
    fixture *f;
    zp_watch *watch;
};

static int
use_inherited(void *user)
{
    struct inherited *in = user;

    assert_return(zp_watch_cancel(in->watch), ZP_EFORK);
    assert_return(zp_watch_active(in->watch), ZP_EFORK);
    assert_return(zp_watch_confirmed(in->watch), ZP_EFORK);
    assert_return(zp_go_live(in->watch), ZP_EFORK);
    assert_null(zp_watch_free(in->watch));
    assert_return(zp_call_when_change(in->f->state, NULL, NULL, 0, NULL,
                                      record, NULL),
                  ZP_EFORK);
    assert_null(zp_ctx_free(in->f->ctx));
    return 0;
}

/* Goal: after a fork a watch is of no use to the child, and unharmed. */
static void
test_after_fork(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    struct inherited in = {.f = f};

    assert_ok(zp_call_when_change(f->state, &in.watch, ZP_KEYS("a"), NULL,
                                  record, &r));
    set(f->other, "a", 1);
    assert_int_equal(zp_test_wait(zp_test_fork(use_inherited, &in), 10), 0);
    settle(f);
    assert_values(&r, "a", VALUES(1));
    zp_watch_free(in.watch);
    forget(&r);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_one_key),
        T(test_key_lists),
        T(test_namespaces),
        T(test_one_transaction_is_one_event),
        T(test_own_writes),
        T(test_identical_values),
        T(test_snapshots_in_a_backlog),
        T(test_live),
        T(test_live_while_busy),
        T(test_live_with_filters),
        T(test_go_live),
        T(test_go_live_inside),
        T(test_since),
        SHORT(test_overrun),
        SHORT(test_oldest_that_comes_late),
        SHORT(test_overrun_in_the_middle),
        T(test_count),
        T(test_active_inside),
        T(test_negative_return),
        T(test_break),
        T(test_cancel),
        T(test_state_free),
        T(test_context_free),
        T(test_arguments),
        T(test_after_fork),
    };
    return zp_test_main("watch", tests, sizeof tests / sizeof *tests, 20);
}
