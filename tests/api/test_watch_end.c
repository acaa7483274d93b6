/*
 * test_watch_end.c - how watches end, and runs with them: counted, cancelled,
 * freed, also inside of callbacks.
 */
#include "tests/api/watching.h"

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
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &once, record, &one));
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

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &two, record, &r));
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
    recorder r = {.ctx = f->ctx, .then = fail_at_three},
             after = {.ctx = f->ctx};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
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

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
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

    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_call_when_change(f->state, &second, ZP_KEYS("a"), NULL, record,
                                  &other));
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
    assert_ok(
        zp_call_when_change(handle, &watch, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_call_when_change(handle, NULL, NULL, 0, NULL, record, &r));
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &kept));
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

/* ------------------------------------------------------- end and free -- */

enum what { CANCEL, FREE, FREE_TWICE_CANCELLED };

struct killer {
    fixture *f;
    zp_watch **victims;
    size_t n;
    enum what what;
    int64_t at; /* value at which it strikes */
    int calls;
};

static int
strike(zp_watch *watch, const zp_event *event, void *user)
{
    struct killer *killer = user;

    (void)watch;
    killer->calls++;
    if (int_at(zp_event_snapshot(event), "a") != killer->at)
        return 0;
    for (size_t i = 0; i < killer->n; i++) {
        if (killer->what != FREE) {
            assert_ok(zp_watch_cancel(killer->victims[i]));
            assert_int_equal(zp_watch_active(killer->victims[i]), 0);
        }
        if (killer->what != CANCEL)
            killer->victims[i] = zp_watch_free(killer->victims[i]);
    }
    return 0;
}

/* Three watches of one key; the one in the middle ends all three. */
static void
strike_all(fixture *f, enum what what)
{
    recorder first = {.ctx = f->ctx}, last = first;
    zp_watch *watches[3];
    struct killer killer = {f, watches, 3, what, 3, 0};

    assert_ok(zp_call_when_change(f->state, &watches[0], ZP_KEYS("a"), NULL,
                                  record, &first));
    assert_ok(zp_call_when_change(f->state, &watches[1], ZP_KEYS("a"), NULL,
                                  strike, &killer));
    assert_ok(zp_call_when_change(f->state, &watches[2], NULL, 0, NULL, record,
                                  &last));
    for (int i = 1; i <= 5; i++)
        set(f->other, "a", i);
    assert_ok(zp_run(f->ctx)); /* ends: nobody is left */
    assert_values(&first, "a", VALUES(1, 2, 3));
    assert_int_equal(killer.calls, 3);
    assert_values(&last, "a", VALUES(1, 2));
    for (int i = 0; i < 3 && what == CANCEL; i++)
        zp_watch_free(watches[i]);
    assert_ok(zp_delete(f->other, "a"));
    forget(&first);
    forget(&last);
}

/* Goal: a callback may cancel or free any watch, its own included; they are
 * not called again, not even for the change in hand. */
static void
test_end_inside(void **state)
{
    strike_all(*state, CANCEL);
    strike_all(*state, FREE);
    strike_all(*state, FREE_TWICE_CANCELLED);
}

static int
end_self(zp_watch *watch, const zp_event *event, void *user)
{
    int *how = user;

    (void)event;
    if (*how & 1)
        assert_ok(zp_watch_cancel(watch));
    if (*how & 2)
        assert_null(zp_watch_free(watch));
    *how |= 4;
    return 0;
}

/* Goal: likewise a watch that nobody holds, and the last one of its count. */
static void
test_end_unattended_inside(void **state)
{
    fixture *f = *state;
    zp_watch_options once = {.size = sizeof once, .count = 1};

    for (int i = 0; i < 8; i++) {
        int how = i & 3;

        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"),
                                      i & 4 || how == 0 ? &once : NULL,
                                      end_self, &how));
        set(f->other, "a", i);
        assert_ok(zp_run(f->ctx));
        assert_true(how & 4);
    }
}

static int
free_inside_nested(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_watch **outer = r->user;

    (void)watch;
    (void)event;
    *outer = zp_watch_free(*outer);
    return 0;
}

struct pair {
    zp_watch *watch[2];
    int calls[2];
};

static int
skip_the_other(zp_watch *watch, const zp_event *event, void *user)
{
    struct pair *pair = user;
    int me = watch == pair->watch[1];

    (void)event;
    pair->calls[me]++;
    assert_ok(zp_go_live(pair->watch[!me]));
    return 0;
}

/* Goal: zp_go_live() of another watch takes back what it was about to get. */
static void
test_go_live_of_another(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = sizeof options};
    struct pair pair;

    for (int mode = 0; mode < 2; mode++) {
        options.flags = mode ? ZP_LIVE : 0;
        memset(&pair, 0, sizeof pair);
        for (int i = 0; i < 2; i++)
            assert_ok(zp_call_when_change(f->state, &pair.watch[i],
                                          ZP_KEYS("a"), &options,
                                          skip_the_other, &pair));
        set(f->other, "a", mode);
        settle(f);
        assert_int_equal(pair.calls[0], 1);
        assert_int_equal(pair.calls[1], 0);
        zp_watch_free(pair.watch[0]);
        zp_watch_free(pair.watch[1]);
    }
}

struct outer {
    fixture *f;
    recorder inner;
    zp_watch *watch;
    bool back;
};

static int
wait_inside(zp_watch *watch, const zp_event *event, void *user)
{
    struct outer *outer = user;

    (void)watch;
    set(outer->f->other, "b", 1);
    run_until(&outer->inner, 1);
    assert_null(outer->watch);
    assert_int_equal(int_at(zp_event_snapshot(event), "a"), 1);
    outer->back = true;
    return zp_break(outer->f->ctx);
}

/* Goal: a watch freed by another's callback while its own is on the stack. */
static void
test_free_outer(void **state)
{
    fixture *f = *state;
    struct outer outer = {.f = f,
                          .inner = {.ctx = f->ctx, .then = free_inside_nested}};

    outer.inner.user = &outer.watch;
    assert_ok(zp_call_when_change(f->state, &outer.watch, ZP_KEYS("a"), NULL,
                                  wait_inside, &outer));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b"), NULL, record,
                                  &outer.inner));
    set(f->other, "a", 1);
    set(f->other, "a", 2);
    assert_ok(zp_run(f->ctx));
    assert_true(outer.back);
    settle(f);
    forget(&outer.inner);
}

static int
free_state(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_state **handle = r->user;

    (void)watch;
    (void)event;
    *handle = zp_state_free(*handle);
    return 0;
}

/* Goal: the handle that the watches hang on may be freed inside. */
static void
test_free_state_inside(void **state)
{
    fixture *f = *state;
    zp_state *handle;
    recorder r = {.ctx = f->ctx, .then = free_state, .user = &handle};
    recorder never = {.ctx = f->ctx};
    zp_watch *watch;

    assert_ok(zp_state_clone(f->state, &handle, NULL));
    assert_ok(
        zp_call_when_change(handle, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_call_when_change(handle, &watch, ZP_KEYS("a"), NULL, record,
                                  &never));
    set(f->other, "a", 1);
    set(f->other, "a", 2);
    assert_ok(zp_run(f->ctx));
    assert_values(&r, "a", VALUES(1));
    assert_int_equal(never.n, 0);
    forget(&r);
}

static int
free_context(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    assert_null(zp_ctx_free(r->ctx));
    assert_int_equal(zp_event_length(event), 1);
    assert_return(zp_run(r->ctx), ZP_ECLOSED);
    return 0;
}

/* Goal: the whole context may be freed inside; nobody is called any more. */
static void
test_free_context_inside(void **state)
{
    fixture f = {0};
    recorder r = {.then = free_context}, never = {0};
    zp_watch *watch;

    (void)state;
    assert_ok(zp_ctx_new(&f.ctx, NULL));
    r.ctx = never.ctx = f.ctx;
    assert_ok(zp_state_clone(zp_ctx_state(f.ctx), &f.other, NULL));
    assert_ok(zp_call_when_change(zp_ctx_state(f.ctx), &watch, ZP_KEYS("a"),
                                  NULL, record, &r));
    assert_ok(zp_call_when_change(zp_ctx_state(f.ctx), NULL, ZP_KEYS("a"), NULL,
                                  record, &never));
    set(f.other, "a", 1);
    set(f.other, "a", 2);
    assert_return(zp_run(f.ctx), ZP_ECLOSED);
    assert_int_equal(r.n, 1);
    assert_int_equal(never.n, 0);
    forget(&r);
}

static int
nest_and_free(zp_watch *watch, const zp_event *event, void *user)
{
    struct outer *outer = user;

    (void)watch;
    (void)event;
    set(outer->f->other, "b", 1);
    assert_return(zp_run(outer->f->ctx), ZP_ECLOSED);
    outer->back = true;
    return 0;
}

/* Goal: likewise in the callback of a nested run: both runs end. */
static void
test_free_context_nested(void **state)
{
    fixture f = {0};
    struct outer outer = {.f = &f, .inner = {.then = free_context}};

    (void)state;
    assert_ok(zp_ctx_new(&f.ctx, NULL));
    outer.inner.ctx = f.ctx;
    f.state = zp_ctx_state(f.ctx);
    assert_ok(zp_state_clone(f.state, &f.other, NULL));
    assert_ok(zp_call_when_change(f.state, NULL, ZP_KEYS("a"), NULL,
                                  nest_and_free, &outer));
    assert_ok(zp_call_when_change(f.state, NULL, ZP_KEYS("b"), NULL, record,
                                  &outer.inner));
    set(f.other, "a", 1);
    assert_return(zp_run(f.ctx), ZP_ECLOSED);
    assert_true(outer.back);
    assert_int_equal(outer.inner.n, 1);
    forget(&outer.inner);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_count),
        T(test_active_inside),
        T(test_negative_return),
        T(test_break),
        T(test_cancel),
        T(test_state_free),
        T(test_context_free),
        T(test_end_inside),
        T(test_end_unattended_inside),
        T(test_go_live_of_another),
        T(test_free_outer),
        T(test_free_state_inside),
        ZP_TEST(test_free_context_inside),
        ZP_TEST(test_free_context_nested),
    };
    return zp_test_main("watch_end", tests, sizeof tests / sizeof *tests, 20);
}
