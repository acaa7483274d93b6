/*
 * test_watch_next.c - iterators: what they give, when they end, what they keep;
 * and the time that a watch may have.
 */
#include <math.h>

#include "tests/api/waiting.h"

#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* An iterator of the changes of "k". */
static zp_watch *
iterate(fixture *f, const zp_watch_options *options)
{
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("k"), options, NULL,
                                  NULL));
    return watch;
}

/* The next event of WATCH is that "k" has become VALUE. */
static void
next_is(zp_watch *watch, int64_t value)
{
    const zp_event *event;

    assert_return(zp_watch_next(watch, &event, 20), 1);
    assert_int_equal(zp_event_kind(event), ZP_CHANGED);
    assert_int_equal(int_at(zp_event_snapshot(event), "k"), value);
}

static void
next_is_none(zp_watch *watch)
{
    const zp_event *event;

    assert_return(zp_watch_next(watch, &event, 0), -ETIMEDOUT);
}

static void
next_is_end(zp_watch *watch)
{
    const zp_event *event = NULL;

    assert_return(zp_watch_next(watch, &event, 20), 0);
    assert_return(zp_watch_next(watch, &event, 0), 0);
    assert_return(zp_watch_next(watch, &event, -1), 0);
    assert_null(event);
    assert_int_equal(zp_watch_active(watch), 0);
}

/* ---------------------------------------------------------------- order -- */

static int
write_all(zp_state *txn, void *user)
{
    int64_t i = *(int64_t *)user;

    TRY(zp_set_int(txn, "k", i));
    TRY(zp_set_int(txn, "j", -i));
    return zp_set_int(txn, "unrelated", i);
}

static int
write_numbers(zp_ctx *ctx, void *arg)
{
    for (int64_t i = 1; i <= *(int *)arg; i++) {
        TRY(zp_atomic(zp_ctx_state(ctx), write_all, &i));
        TRY(zp_set_int(zp_ctx_state(ctx), "unrelated", -i));
        if (i % 16 == 0)
            usleep(300); /* so that the reader comes to wait */
    }
    return 0;
}

static void
check_event(const zp_event *event, int64_t i, int writer)
{
    zp_value *before, *after;
    zp_change change;
    int64_t number;

    assert_int_equal(zp_event_kind(event), ZP_CHANGED);
    assert_int_equal(zp_event_writer(event), writer);
    assert_int_equal(zp_event_length(event), 2);
    assert_ok(zp_event_change(event, &change, 0));
    assert_string_equal(change.key, "j");
    assert_int_equal(change.flags, i == 1 ? ZP_CREATED : 0);
    assert_ok(zp_event_values(event, &before, &after, 1));
    assert_ok(zp_value_get(after, "I", &number));
    assert_int_equal(number, i);
    if (i > 1)
        assert_ok(zp_value_get(before, "I", &number));
    assert_int_equal(before ? number : 1, i > 1 ? i - 1 : 1);
    zp_value_free(before);
    zp_value_free(after);
    assert_int_equal(int_at(zp_event_snapshot(event), "j"), -i);
    assert_int_equal(int_at(zp_event_before(event), "j"),
                     i > 1 ? 1 - i : ABSENT);
}

/* Goal: hundreds of calls, most of which end too early: each transaction comes
 * once, whole, in order, with the state before and after it. */
static void
test_order(void **state)
{
    fixture *f = *state;
    int n = rounds(1000);
    zp_watch *watch;
    zp_proc *proc;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("k", "j"), NULL,
                                  NULL, NULL));
    next_is_none(watch);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, write_numbers, &n));
    for (int64_t i = 1; i <= n;) {
        const zp_event *event;
        int rc = zp_watch_next(watch, &event, (double)(i % 4) * 0.00005);

        if (rc == -ETIMEDOUT)
            continue;
        assert_return(rc, 1);
        check_event(event, i++, zp_proc_pid(proc));
    }
    next_is_none(watch);
    assert_ok(zp_wait(proc, NULL, 20));
    zp_watch_free(watch);
}

/* ----------------------------------------------------------------- ends -- */

/* Goal: a count, after which there is no more. */
static void
test_count(void **state)
{
    fixture *f = *state;
    zp_watch_options two = {.size = sizeof two, .count = 2};
    zp_watch *watch = iterate(f, &two), *condition;
    const zp_event *event;

    for (int i = 1; i <= 3; i++)
        set(f->other, "k", i);
    next_is(watch, 1);
    assert_int_equal(zp_watch_active(watch), 1);
    next_is(watch, 2);
    assert_int_equal(zp_watch_active(watch), 0);
    next_is_end(watch);
    zp_watch_free(watch);
    /* a first look is an event */
    assert_ok(zp_call_when_truthy(f->state, &condition, "k", &two, NULL, NULL));
    assert_return(zp_watch_next(condition, &event, -1), 1);
    assert_int_equal(zp_event_kind(event), ZP_FIRST);
    set(f->other, "k", 0);
    next_is_none(condition);
    set(f->other, "k", 1);
    next_is(condition, 1);
    next_is_end(condition);
    zp_watch_free(condition);
}

/* Goal: its time: what was there by then comes first. */
static void
test_time(void **state)
{
    fixture *f = *state;
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.02};
    zp_watch *watch = iterate(f, &brief), *late, *condition, *waited;
    double began;

    late = iterate(f, &brief);
    assert_ok(zp_call_when_equal(f->state, &condition, "k", &brief, NULL, NULL,
                                 ZP_I(2)));
    assert_int_equal(zp_watch_active(watch), 1);
    for (int i = 1; i <= 3; i++)
        set(f->other, "k", i);
    next_is(watch, 1);
    run_for(f->ctx, 0.03); /* nobody fetches while it passes */
    next_is(watch, 2);
    next_is(watch, 3);
    next_is_end(watch);
    next_is(condition, 2);
    next_is_end(condition);
    for (int i = 1; i <= 3; i++)
        next_is(late, i);
    next_is_end(late);
    zp_watch_free(watch);
    zp_watch_free(late);
    zp_watch_free(condition);
    /* while it is waited for */
    began = zp_test_now();
    waited = iterate(f, &brief);
    next_is_end(waited);
    assert_true(zp_test_now() - began >= 0.02);
    assert_true(zp_test_now() - began < 5 * zp_test_slow());
    zp_watch_free(waited);
}

static void
cancel_it(void *user)
{
    assert_ok(zp_watch_cancel(user));
}

/* Goal: cancelled, before and while it is waited for; what it had is gone. */
static void
test_cancel(void **state)
{
    fixture *f = *state;
    zp_watch *watch = iterate(f, NULL);
    const zp_event *event = NULL;
    later l;

    set(f->other, "k", 1);
    assert_ok(zp_watch_cancel(watch));
    assert_int_equal(zp_watch_active(watch), 0);
    assert_return(zp_watch_next(watch, &event, -1), -ECANCELED);
    assert_return(zp_watch_next(watch, &event, 0), -ECANCELED);
    zp_watch_free(watch);
    watch = iterate(f, NULL);
    do_later(&l, f->ctx, 0.001, cancel_it, watch);
    assert_return(zp_watch_next(watch, &event, -1), -ECANCELED);
    assert_null(event);
    assert_ok(zp_watch_cancel(watch));
    assert_ok(zp_go_live(watch));
    zp_watch_free(watch);
}

static int
free_it(zp_watch *watch, const zp_event *event, void *user)
{
    zp_watch **victim = user;

    (void)watch;
    (void)event;
    *victim = zp_watch_free(*victim);
    return 0;
}

/* Goal: freed in a callback, also one that the same change is for. */
static void
test_free_in_callback(void **state)
{
    fixture *f = *state;
    const zp_event *event;

    for (int before = 0; before < 2; before++) {
        zp_watch *victim, *killer;

        if (before)
            assert_ok(zp_call_when_change(f->state, &killer, ZP_KEYS("k"), NULL,
                                          free_it, &victim));
        victim = iterate(f, NULL);
        if (!before)
            assert_ok(zp_call_when_change(f->state, &killer, ZP_KEYS("x"), NULL,
                                          free_it, &victim));
        set(f->other, before ? "k" : "x", (int64_t)head_of(f->state));
        assert_return(zp_watch_next(victim, &event, -1), -ECANCELED);
        assert_null(victim);
        zp_watch_free(killer);
    }
}

static void
set_x(void *user)
{
    fixture *f = user;

    set(f->other, "x", 1);
}

/* The iterator around this gets its event in a run in here. */
static int
fail_after_wait(zp_watch *watch, const zp_event *event, void *user)
{
    fixture *f = user;
    later l;

    (void)watch;
    (void)event;
    set(f->other, "k", 1);
    do_later(&l, f->ctx, 0, set_x, f);
    assert_ok(zp_get_when_available(f->state, NULL, "x", -1, NULL));
    return -ECHILD;
}

/* Goal: a callback fails when the event has come: both are told. */
static void
test_event_is_kept(void **state)
{
    fixture *f = *state;
    zp_watch_options once = {.size = sizeof once, .count = 1};
    const zp_event *event;
    zp_watch *watch = iterate(f, &once);

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("go"), &once,
                                  fail_after_wait, f));
    set(f->other, "go", 1);
    assert_return(zp_watch_next(watch, &event, -1), -ECHILD);
    assert_int_equal(zp_watch_active(watch), 1);
    for (int i = 2; i < 300; i++) /* its log has gone on */
        set(f->other, "k", i);
    next_is(watch, 1);
    next_is_end(watch);
    zp_watch_free(watch);
}

/* Goal: one that is kept goes with a cancel, and with going live. */
static void
test_kept_event_goes(void **state)
{
    fixture *f = *state;
    zp_watch_options once = {.size = sizeof once, .count = 1};
    const zp_event *event;

    for (int i = 0; i < 2; i++) {
        zp_watch *watch = iterate(f, NULL);

        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("go"), &once,
                                      fail_after_wait, f));
        set(f->other, "go", i + 1);
        assert_return(zp_watch_next(watch, &event, -1), -ECHILD);
        if (i == 0)
            assert_ok(zp_watch_cancel(watch));
        else
            assert_ok(zp_go_live(watch));
        assert_int_equal(zp_watch_active(watch), i);
        assert_return(zp_watch_next(watch, &event, 0),
                      i ? -ETIMEDOUT : -ECANCELED);
        zp_watch_free(watch);
        assert_ok(zp_clear(f->other));
    }
}

/* Goal: it stays where it was looked at in vain, while others are called. */
static void
test_left_behind(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_watch *watch = iterate(f, NULL), *other;

    assert_ok(
        zp_call_when_change(f->state, &other, ZP_KEYS("k"), NULL, record, &r));
    for (int i = 1; i <= 5; i++) {
        next_is_none(watch); /* all stand in line */
        set(f->other, "k", i);
        run_until(&r, (size_t)i);
        settle(f);
        next_is(watch, i);
    }
    zp_watch_free(watch);
    zp_watch_free(other);
    forget(&r);
}

/* ---------------------------------------------------------------- modes -- */

/* Goal: live, since, oldest, and to go live. */
static void
test_modes(void **state)
{
    fixture *f = *state;
    zp_watch_options o = {.size = sizeof o, .flags = ZP_LIVE};
    const zp_event *event;
    zp_watch *live = iterate(f, &o), *watch;
    uint64_t first = head_of(f->state);

    for (int i = 1; i <= 5; i++)
        set(f->other, "k", i);
    next_is(live, 5);
    next_is_none(live);
    set(f->other, "k", 6);
    set(f->other, "k", 7);
    next_is(live, 7);
    zp_watch_free(live);

    o.flags = ZP_SINCE;
    o.since = first + 3;
    watch = iterate(f, &o);
    for (int i = 4; i <= 7; i++)
        next_is(watch, i);
    next_is_none(watch);
    zp_watch_free(watch);
    o.since = first + 8;
    assert_return(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), &o, NULL, NULL),
        -ERANGE);

    o.flags = ZP_OLDEST;
    watch = iterate(f, &o);
    next_is(watch, 1);
    next_is(watch, 2);
    assert_ok(zp_go_live(watch));
    /* what it gave is good until the next */
    next_is_none(watch);
    set(f->other, "k", 8);
    next_is(watch, 8);
    set(f->other, "k", 9);
    assert_ok(zp_go_live(watch));
    next_is_none(watch);
    zp_watch_free(watch);

    assert_ok(zp_call_when_truthy(f->state, &watch, "k", NULL, NULL, NULL));
    assert_return(zp_watch_next(watch, &event, -1), 1);
    assert_int_equal(zp_event_kind(event), ZP_FIRST);
    assert_int_equal(zp_event_revision(event), head_of(f->state));
    assert_int_equal(zp_event_writer(event), 0);
    assert_null(zp_event_before(event));
    next_is_none(watch);
    zp_watch_free(watch);
}

/* Goal: an event is good until the next call, whatever happens meanwhile. */
static void
test_event_stays(void **state)
{
    fixture *f = *state;
    zp_watch *watch = iterate(f, NULL);
    const zp_event *event, *second;
    zp_state *kept;
    zp_change change;
    uint64_t lost;

    set(f->other, "k", 1);
    set(f->other, "k", 2);
    next_is(watch, 1);
    assert_return(zp_watch_next(watch, &event, 0), 1);
    assert_ok(zp_snapshot(zp_event_snapshot(event), &kept));
    for (int i = 3; i < 300; i++)
        set(f->other, "k", i);
    settle(f);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("x"), 0.001, NULL),
                  -ETIMEDOUT);
    assert_ok(zp_event_change(event, &change, 0));
    assert_string_equal(change.key, "k");
    assert_int_equal(int_at(zp_event_snapshot(event), "k"), 2);
    assert_int_equal(int_at(zp_event_before(event), "k"), 1);
    /* the log has passed it: an overrun, and then what is retained */
    assert_return(zp_watch_next(watch, &second, -1), 1);
    assert_int_equal(zp_event_kind(second), ZP_OVERRUN);
    assert_ok(zp_event_lost(second, &lost, NULL));
    assert_int_equal(lost, 3);
    assert_int_equal(int_at(zp_event_snapshot(second), "k"), 299);
    assert_int_equal(int_at(kept, "k"), 2);
    zp_state_free(kept);
    assert_return(zp_watch_next(watch, &second, -1), 1);
    assert_int_equal(zp_event_kind(second), ZP_CHANGED);
    while (int_at(zp_event_snapshot(second), "k") < 299)
        assert_return(zp_watch_next(watch, &second, -1), 1);
    next_is_none(watch);
    zp_watch_free(watch);
}

struct flooding {
    fixture *f;
    int at, looks;
};

/* A predicate that lets the log pass what it looks at. */
static int
flood_once(zp_state *snapshot, void *user)
{
    struct flooding *flooding = user;

    (void)snapshot;
    if (flooding->looks++ == flooding->at)
        for (int i = 0; i < 150; i++)
            set(flooding->f->other, "k", 1000 + i);
    return 1;
}

/* Goal: the log passes an event between its being found and its being handed
 * out: it is told as an overrun, not lost. */
static void
test_passed_in_between(void **state)
{
    fixture *f = *state;

    for (int at = 0; at < 2; at++) {
        struct flooding flooding = {f, at, 0};
        zp_watch_options options = {.size = sizeof options, .count = 3};
        const zp_event *event;
        zp_watch *watch;
        uint64_t first, last, head = head_of(f->state);

        assert_ok(zp_call_when(f->state, &watch, ZP_KEYS("k"), &options,
                               flood_once, NULL, &flooding));
        if (at == 1) {
            assert_return(zp_watch_next(watch, &event, -1), 1);
            assert_int_equal(zp_event_kind(event), ZP_FIRST);
            set(f->other, "k", 1);
        }
        assert_return(zp_watch_next(watch, &event, -1), 1);
        assert_int_equal(zp_event_kind(event), ZP_OVERRUN);
        assert_ok(zp_event_lost(event, &first, &last));
        assert_int_equal(first, head + 1);
        assert_return(zp_watch_next(watch, &event, -1), 1);
        assert_int_equal(zp_event_kind(event), ZP_CHANGED);
        assert_int_equal(zp_event_revision(event), last + 1);
        assert_return(zp_watch_next(watch, &event, -1), at ? 0 : 1);
        zp_watch_free(watch);
    }
}

static int
flood_in_callback(zp_watch *watch, const zp_event *event, void *user)
{
    fixture *f = user;

    (void)watch;
    (void)event;
    for (int i = 0; i < 150; i++)
        set(f->other, "x", i);
    return 0;
}

/* Goal: likewise an overrun: what it tells to be lost begins where it did. */
static void
test_overrun_passed_in_between(void **state)
{
    fixture *f = *state;
    zp_watch_options once = {.size = sizeof once, .count = 1};
    uint64_t head = head_of(f->state), first, last;
    zp_watch *watch = iterate(f, NULL);
    const zp_event *event;

    for (int i = 0; i < 150; i++)
        set(f->other, "k", i);
    /* in the turn in which the overrun is found, but before */
    assert_ok(zp_call_when_available(f->state, NULL, "k", &once,
                                     flood_in_callback, f));
    assert_return(zp_watch_next(watch, &event, -1), 1);
    assert_int_equal(zp_event_kind(event), ZP_OVERRUN);
    assert_ok(zp_event_lost(event, &first, &last));
    assert_int_equal(first, head + 1);
    assert_true(last > head + 150);
    assert_int_equal(int_at(zp_event_snapshot(event), "x"), 149);
    zp_watch_free(watch);
}

/* ------------------------------------------------------------ loop, many -- */

/* Goal: an iterator that nobody waits for keeps no run going. */
static void
test_idle(void **state)
{
    fixture *f = *state;
    zp_watch *watch = iterate(f, NULL);
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_run(f->ctx)); /* returns */
    set(f->other, "k", 1);
    assert_ok(zp_run(f->ctx));
    next_is(watch, 1);
    assert_ok(zp_run(f->ctx));
    next_is_none(watch);
    assert_ok(zp_run(f->ctx));
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_int_equal(stats.watches, 1);
    assert_int_equal(stats.events, 1);
    settle(f);
    zp_watch_free(watch);
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_int_equal(stats.watches, 0);
}

#define MANY 400

/* Goal: hundreds of them, each where it is; no descriptors, no memory. */
static void
test_many(void **state)
{
    fixture *f = *state;
    zp_watch *watches[MANY], *warm = iterate(f, NULL);
    int n = rounds(MANY), fds;
    long before, after;
    char key[32];

    settle(f); /* and the server is connected to */
    next_is_none(warm);
    fds = zp_test_open_fds();
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "many%d", i / 4);
        assert_ok(zp_call_when_change(f->state, &watches[i], ZP_KEYS(key, "k"),
                                      NULL, NULL, NULL));
    }
    for (int i = 1; i <= 3; i++)
        set(f->other, "k", i);
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "many%d", i / 4);
        set(f->other, key, i);
    }
    for (int i = 1; i <= 3; i++) /* all of them hold an event at a time */
        for (int k = n - 1; k >= 0; k--)
            next_is(watches[k], i);
    for (int i = 0; i < n; i++) {
        const zp_event *event;

        snprintf(key, sizeof key, "many%d", i / 4);
        for (int k = 0; k < 4 && i / 4 * 4 + k < n; k++) {
            assert_return(zp_watch_next(watches[i], &event, 20), 1);
            assert_int_equal(int_at(zp_event_snapshot(event), key),
                             i / 4 * 4 + k);
        }
        if (i % 3 == 0)
            next_is_none(watches[i]);
    }
    assert_int_equal(zp_test_open_fds(), fds);
    for (int i = 0; i < n; i++)
        zp_watch_free(watches[i]);
    before = zp_test_vm_rss(0);
    for (int i = 0; i < rounds(3000); i++) {
        zp_watch *watch = iterate(f, NULL);

        set(f->other, "k", i + 10);
        next_is(watch, i + 10);
        zp_watch_free(watch);
    }
    after = zp_test_vm_rss(0);
    if (!zp_test_instrumented() && after > before + 4096)
        fail_msg("%ld kB before, %ld kB after", before, after);
    assert_int_equal(zp_test_open_fds(), fds);
    zp_watch_free(warm);
}

/* ------------------------------------------------------------ not so -- */

static int
ignore(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return 0;
}

static int
next_in_atomic(zp_state *txn, void *user)
{
    const zp_event *event;

    (void)txn;
    return zp_watch_next(user, &event, 1) == -EDEADLK ? 0 : -EINVAL;
}

static int
next_after_fork(void *user)
{
    const zp_event *event;

    return zp_watch_next(user, &event, 1) != ZP_EFORK ||
           zp_watch_active(user) != ZP_EFORK;
}

/* Goal: the errors. */
static void
test_errors(void **state)
{
    fixture *f = *state;
    const zp_event *event;
    zp_watch *watch = iterate(f, NULL), *callback, *attached;
    zp_ctx *ctx;
    later l;

    assert_return(zp_watch_next(NULL, &event, 0), -EINVAL);
    assert_return(zp_watch_next(watch, NULL, 0), -EINVAL);
    assert_ok(zp_call_when_change(f->state, &callback, ZP_KEYS("k"), NULL,
                                  ignore, NULL));
    assert_return(zp_watch_next(callback, &event, 0), -EINVAL);
    assert_non_null(strstr(zp_ctx_error(f->ctx), "callback"));
    zp_watch_free(callback);
    assert_return(zp_watch_active(NULL), -EINVAL);
    assert_return(
        zp_call_when_change(f->state, NULL, ZP_KEYS("k"), NULL, NULL, NULL),
        -EINVAL);
    assert_ok(zp_atomic(f->state, next_in_atomic, watch));
    assert_int_equal(zp_test_wait(zp_test_fork(next_after_fork, watch), 20), 0);
    do_later(&l, f->ctx, 0.001, break_it, f->ctx);
    assert_return(zp_watch_next(watch, &event, -1), ZP_EBREAK);
    assert_return(zp_watch_next(watch, &event, 0.001), -ETIMEDOUT);
    set(f->other, "k", 1);
    next_is(watch, 1);

    assert_ok(zp_ctx_attach(&ctx, zp_ctx_address(f->ctx), NULL));
    assert_ok(zp_call_when_change(zp_ctx_state(ctx), &attached, ZP_KEYS("k"),
                                  NULL, NULL, NULL));
    zp_watch_free(watch);
    f->ctx = zp_ctx_free(f->ctx);
    assert_return(zp_watch_next(attached, &event, -1), ZP_ECLOSED);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------- the time of callbacks -- */

/* Run until R has been told that its time is over. */
static void
run_out(recorder *r)
{
    while (!r->n || r->events[r->n - 1].kind != ZP_TIMEDOUT)
        run_until(r, r->n + 1);
}

static int
last_is_ended(recorder *r, zp_watch *watch, const zp_event *event)
{
    bool over = zp_event_kind(event) == ZP_TIMEDOUT;

    assert_int_equal(zp_watch_active(watch), !over);
    if (over) {
        assert_int_equal(zp_event_length(event), 0);
        assert_int_equal(zp_event_writer(event), 0);
        assert_null(zp_event_before(event));
        assert_int_equal(int_at(zp_event_snapshot(event), "k"),
                         *(int64_t *)r->user);
    }
    return 0;
}

/* Goal: ZP_TIMEDOUT comes once, as the last, behind all that is waiting; with
 * it the watch, and the run, end. */
static void
test_timed_out(void **state)
{
    fixture *f = *state;
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.03};
    int64_t last = 700;
    recorder r = {.ctx = f->ctx, .then = last_is_ended, .user = &last},
             condition = r;
    double began = zp_test_now();
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("k"), &brief,
                                  record, &r));
    assert_ok(zp_call_when_equal(f->state, NULL, "k", &brief, record,
                                 &condition, ZP_I(5)));
    for (int i = 1; i <= last; i++)
        set(f->other, "k", i);
    while (zp_test_now() - began < 0.03)
        ; /* its time passes, and no loop runs */
    assert_int_equal(zp_watch_active(watch), 1);
    assert_ok(zp_run(f->ctx)); /* ends with the last watch */
    assert_int_equal(r.n, last + 1);
    for (int i = 0; i < last; i++)
        assert_int_equal(r.events[i].value, i + 1);
    assert_int_equal(r.events[last].kind, ZP_TIMEDOUT);
    assert_int_equal(condition.n, 2);
    assert_int_equal(condition.events[1].kind, ZP_TIMEDOUT);
    assert_int_equal(zp_watch_active(watch), 0);
    set(f->other, "k", 0);
    settle(f);
    assert_int_equal(r.n, last + 1);
    zp_watch_free(watch);
    forget(&r);
    forget(&condition);
}

struct slow {
    fixture *f;
    int busy, changes, ends;
};

static int
take_long(zp_watch *watch, const zp_event *event, void *user)
{
    struct slow *s = user;

    (void)watch;
    assert_int_equal(s->busy++, 0);
    if (zp_event_kind(event) == ZP_TIMEDOUT) {
        s->ends++;
    } else {
        assert_int_equal(s->ends, 0);
        if (s->changes++ == 0) {
            set(s->f->other, "k", 2);
            assert_return(
                zp_get_when_equal(s->f->state, NULL, "k", 0.03, NULL, ZP_I(0)),
                -ETIMEDOUT);
        }
    }
    s->busy--;
    return 0;
}

/* Goal: its time ends while its callback is on the stack: told afterwards. */
static void
test_timed_out_while_busy(void **state)
{
    fixture *f = *state;
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.01};
    struct slow slow = {.f = f};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("k"), &brief,
                                  take_long, &slow));
    set(f->other, "k", 1);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(slow.changes, 2);
    assert_int_equal(slow.ends, 1);
}

static int
end_and_fail(zp_watch *watch, const zp_event *event, void *user)
{
    (void)event;
    ++*(int *)user;
    zp_watch_free(watch);
    return -ECHILD;
}

/* Goal: without any change; with a count that is reached, or a cancel, before;
 * freed in the last callback, which fails. */
static void
test_other_ends(void **state)
{
    fixture *f = *state;
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.01};
    zp_watch_options counted = {
        .size = sizeof counted, .timeout = 0.01, .count = 2};
    zp_watch_options live = {
        .size = sizeof live, .timeout = 0.01, .flags = ZP_LIVE};
    recorder idle = {.ctx = f->ctx}, two = idle, none = idle, newest = idle;
    double began = zp_test_now();
    zp_watch *watch;
    int ends = 0;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("x"), &brief, record,
                                  &idle));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("k"), &counted,
                                  record, &two));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("k"), &live, record,
                                  &newest));
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("k"), &brief,
                                  record, &none));
    assert_ok(zp_watch_cancel(watch));
    for (int i = 1; i <= 4; i++)
        set(f->other, "k", i);
    assert_ok(zp_run(f->ctx));
    assert_true(zp_test_now() - began >= 0.01);
    assert_int_equal(idle.n, 1);
    assert_int_equal(idle.events[0].kind, ZP_TIMEDOUT);
    assert_values(&two, "k", VALUES(1, 2));
    assert_int_equal(newest.n, 2);
    assert_int_equal(newest.events[0].value, 4);
    assert_int_equal(newest.events[1].kind, ZP_TIMEDOUT);
    assert_int_equal(none.n, 0);
    zp_watch_free(watch);

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("x"), &brief,
                                  end_and_fail, &ends));
    assert_return(zp_run(f->ctx), -ECHILD);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(ends, 1);
    brief.timeout = -1;
    assert_return(zp_call_when_change(f->state, NULL, ZP_KEYS("x"), &brief,
                                      record, &idle),
                  -EINVAL);
    brief.timeout = NAN;
    assert_return(zp_call_when_change(f->state, NULL, ZP_KEYS("x"), &brief,
                                      record, &idle),
                  -EINVAL);
    /* longer than anything */
    brief.timeout = INFINITY;
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("x"), &brief,
                                  record, &idle));
    settle(f);
    assert_int_equal(idle.n, 1);
    zp_watch_free(watch);
    forget(&idle);
    forget(&two);
    forget(&newest);
}

/* Goal: many of one moment, each told once. */
static void
test_many_timed_out(void **state)
{
    fixture *f = *state;
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.01};
    recorder r = {.ctx = f->ctx};

    for (int i = 0; i < 300; i++)
        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("k"), &brief,
                                      record, &r));
    set(f->other, "k", 1);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(r.n, 600);
    run_out(&r);
    forget(&r);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_order),
        T(test_count),
        T(test_time),
        T(test_cancel),
        T(test_free_in_callback),
        SHORT(test_event_is_kept),
        T(test_kept_event_goes),
        T(test_left_behind),
        T(test_modes),
        SHORT(test_event_stays),
        SHORT(test_passed_in_between),
        SHORT(test_overrun_passed_in_between),
        T(test_idle),
        T(test_many),
        T(test_errors),
        T(test_timed_out),
        T(test_timed_out_while_busy),
        T(test_other_ends),
        T(test_many_timed_out),
    };
    return zp_test_main("watch_next", tests, sizeof tests / sizeof *tests, 30);
}
