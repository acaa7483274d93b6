/*
 * test_get_when_modes.c - waits with options: a cursor that makes several one,
 * a count, only the newest, callbacks held back; what the log has lost; what
 * is handed out; bad arguments.
 */
#include <math.h>

#include "tests/api/waiting.h"

#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* --------------------------------------------------------------- cursors -- */

struct writing {
    int n;
    int every; /* changes of other keys in between */
};

static int
write_numbers(zp_ctx *ctx, void *arg)
{
    struct writing *writing = arg;
    zp_state *state = zp_ctx_state(ctx);

    for (int i = 1; i <= writing->n; i++) {
        TRY(zp_set_int(state, "k", i));
        for (int k = 0; k < writing->every; k++)
            TRY(zp_set_int(state, "x", i));
        if (i % 16 == 0)
            usleep(500); /* so that the reader comes to wait */
    }
    return 0;
}

/* A generator of its own: the seed is all that decides. */
static unsigned
draw(unsigned *seed, unsigned below)
{
    *seed = *seed * 1103515245u + 12345u;
    return (*seed >> 16) % below;
}

/* Goal: hundreds of waits with one cursor, most of which end too early: not a
 * change is lost, none seen twice. */
static void
test_cursor(void **state)
{
    fixture *f = *state;
    struct writing writing = {.n = rounds(2000), .every = 2};
    uint64_t cursor = 0;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
    unsigned seed = (unsigned)getpid(), in_vain = 0;
    zp_proc *proc;
    int64_t last = 0;

    print_message("# seed %u\n", seed);
    /* the first call says where it begins */
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    assert_int_equal(cursor, head_of(f->state) + 1);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, write_numbers, &writing));
    while (last < writing.n) {
        zp_state *snapshot;
        uint64_t before = cursor;
        double timeout = draw(&seed, 4) * 0.0001;
        int rc = zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), timeout,
                                    &options);

        assert_true(cursor >= before);
        if (rc == -ETIMEDOUT) {
            in_vain++;
            continue;
        }
        assert_return(rc, 0);
        assert_int_equal(int_at(snapshot, "k"), ++last);
        assert_int_equal(head_of(snapshot) + 1, cursor);
        zp_state_free(snapshot);
    }
    print_message("# %u waits in vain\n", in_vain);
    assert_true(in_vain > 0);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    assert_ok(zp_wait(proc, NULL, 20));
}

static int
by_three(zp_state *snapshot, void *user)
{
    (void)user;
    return int_at(snapshot, "k") % 3 == 0;
}

static int
cursor_round(fixture *f, zp_watch_options *options, unsigned *seed,
             int64_t *value)
{
    zp_state *snapshot;
    double timeout = draw(seed, 3) * 0.0002;
    int rc = zp_get_when(f->state, &snapshot, ZP_KEYS("k"), timeout, options,
                         by_three, NULL);

    if (rc == 0) {
        *value = int_at(snapshot, "k");
        zp_state_free(snapshot);
    }
    return rc;
}

/* Goal: likewise a condition: each change after which it holds, once; also
 * over zp_break() and a callback's error. */
static void
test_cursor_of_condition(void **state)
{
    fixture *f = *state;
    struct writing writing = {.n = rounds(1500), .every = 0};
    uint64_t cursor = 0;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
    unsigned seed = (unsigned)getpid();
    zp_proc *proc;
    int64_t value, last = 0;

    print_message("# seed %u\n", seed);
    set(f->other, "k", 0);
    assert_ok(cursor_round(f, &options, &seed, &value)); /* the first look */
    assert_int_equal(value, 0);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, write_numbers, &writing));
    while (last + 3 <= writing.n) {
        later l;
        int rc;

        do_later(&l, f->ctx, draw(&seed, 2) * 0.0001, break_it, f->ctx);
        rc = cursor_round(f, &options, &seed, &value);
        not_later(&l);
        if (rc == -ETIMEDOUT || rc == ZP_EBREAK)
            continue;
        assert_return(rc, 0);
        assert_int_equal(value, last + 3);
        last = value;
    }
    assert_ok(zp_wait(proc, NULL, 20));
}

/* Goal: a wait without waiting reaches what is at the end of a long log. */
static void
test_long_log(void **state)
{
    fixture *f = *state;
    uint64_t cursor = head_of(f->state) + 1;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
    int n = rounds(100000);
    zp_state *snapshot;

    for (int i = 0; i < n; i++)
        set(f->other, "x", i);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    assert_int_equal(cursor, head_of(f->state) + 1);
    cursor = 1;
    set(f->other, "k", 1);
    set(f->other, "x", -1);
    assert_ok(
        zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), 0, &options));
    assert_int_equal(head_of(snapshot), head_of(f->state) - 1);
    zp_state_free(snapshot);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
}

/* Goal: a condition looks at the state only in the first call with a cursor. */
static void
test_cursor_first_look(void **state)
{
    fixture *f = *state;
    uint64_t cursor = 0, head;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};

    set(f->other, "k", 5);
    head = head_of(f->state);
    assert_ok(zp_get_when_truthy(f->state, NULL, "k", 0, &options));
    assert_int_equal(cursor, head + 1);
    assert_return(zp_get_when_truthy(f->state, NULL, "k", 0, &options),
                  -ETIMEDOUT);
    set(f->other, "k", 0);
    set(f->other, "k", 6);
    assert_ok(zp_get_when_truthy(f->state, NULL, "k", 0, &options));
    assert_int_equal(cursor, head + 3);
    /* one that does not hold, and is waited for in vain */
    cursor = 0;
    assert_return(zp_get_when_falsy(f->state, NULL, "k", 0.001, &options),
                  -ETIMEDOUT);
    assert_int_equal(cursor, head + 3);
    set(f->other, "k", 0);
    set(f->other, "k", 1);
    assert_ok(zp_get_when_falsy(f->state, NULL, "k", -1, &options));
    assert_int_equal(cursor, head + 4);
}

static void
set_x(void *user)
{
    fixture *f = user;

    set(f->other, "x", 1);
}

static void
set_go(void *user)
{
    fixture *f = user;

    set(f->other, "go", (int64_t)head_of(f->other));
}

/* The wait around this comes true in a run in here. */
static int
fail_after_wait(zp_watch *watch, const zp_event *event, void *user)
{
    fixture *f = user;
    later l;

    (void)watch;
    (void)event;
    set(f->other, "k", 5);
    do_later(&l, f->ctx, 0, set_x, f);
    assert_ok(zp_get_when_available(f->state, NULL, "x", -1, NULL));
    return -ECHILD;
}

/* Goal: a callback fails when the wait has come true already: the next one with
 * the cursor has it. */
static void
test_cursor_over_failure(void **state)
{
    fixture *f = *state;
    zp_watch_options once = {.size = sizeof once, .count = 1};

    for (size_t i = 0; i < WAITERS; i++) {
        const waiter *w = &waiters[i];
        uint64_t cursor = 0;
        zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
        zp_state *snapshot;
        later l;

        if ((w->meet != put_5 && w->meet != put_other) ||
            strncmp(w->name, "next", 4) == 0)
            continue;
        assert_ok(w->spoil(f->other));
        (void)zp_delete(f->other, "x");
        assert_wait(w, w->wait(f->state, NULL, 0, &options), -ETIMEDOUT);
        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("go"), &once,
                                      fail_after_wait, f));
        do_later(&l, f->ctx, 0, set_go, f);
        assert_wait(w, w->wait(f->state, NULL, -1, &options), -ECHILD);
        assert_wait(w, w->wait(f->state, &snapshot, 0, &options), 0);
        assert_int_equal(int_at(snapshot, "k"), 5);
        assert_int_equal(int_at(snapshot, "x"), ABSENT);
        zp_state_free(snapshot);
        assert_wait(w, w->wait(f->state, NULL, 0, &options), -ETIMEDOUT);
        set(f->other, "k", 6);
    }
}

/* ----------------------------------------------------------------- count -- */

/* Goal: the so-manieth event is returned. */
static void
test_count(void **state)
{
    fixture *f = *state;
    uint64_t cursor = head_of(f->state) + 1;
    zp_watch_options options = {
        .size = sizeof options, .cursor = &cursor, .count = 3};
    zp_state *snapshot;

    for (int i = 1; i <= 7; i++)
        set(f->other, "k", i);
    for (int i = 3; i <= 6; i += 3) {
        assert_ok(
            zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), 0, &options));
        assert_int_equal(int_at(snapshot, "k"), i);
        zp_state_free(snapshot);
    }
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    /* a first look is the first of them */
    options.cursor = NULL;
    options.count = 1;
    assert_ok(zp_get_when_truthy(f->state, NULL, "k", 0, &options));
    options.count = 2;
    assert_return(zp_get_when_truthy(f->state, NULL, "k", 0, &options),
                  -ETIMEDOUT);
    options.cursor = &cursor;
    cursor = 0;
    options.count = 2;
    assert_return(zp_get_when_truthy(f->state, NULL, "k", 0, &options),
                  -ETIMEDOUT);
    set(f->other, "k", 9);
    assert_return(zp_get_when_truthy(f->state, NULL, "k", 0, &options),
                  -ETIMEDOUT);
    set(f->other, "k", 0);
    set(f->other, "k", 10);
    set(f->other, "k", 11);
    assert_ok(zp_get_when_truthy(f->state, &snapshot, "k", 0, &options));
    assert_int_equal(int_at(snapshot, "k"), 11);
    zp_state_free(snapshot);
    /* from the past */
    options.cursor = NULL;
    options.flags = ZP_OLDEST;
    options.count = 4;
    assert_ok(
        zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), 0, &options));
    assert_int_equal(int_at(snapshot, "k"), 4);
    zp_state_free(snapshot);
}

/* Goal: of a live wait the newest; of the other flags what they say. */
static void
test_flags(void **state)
{
    fixture *f = *state;
    uint64_t cursor = head_of(f->state) + 1;
    zp_watch_options options = {
        .size = sizeof options, .cursor = &cursor, .flags = ZP_LIVE};
    zp_state *snapshot;

    for (int i = 1; i <= 7; i++)
        set(f->other, "k", i);
    set(f->other, "x", 1);
    assert_ok(
        zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), 0, &options));
    assert_int_equal(int_at(snapshot, "k"), 7);
    zp_state_free(snapshot);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    /* own, and equal ones */
    options.flags = 0;
    set(f->state, "k", 8);
    set(f->other, "k", 8);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    cursor = head_of(f->state) - 1;
    options.flags = ZP_OWN;
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options));
    assert_int_equal(cursor, head_of(f->state));
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    cursor = head_of(f->state);
    options.flags = ZP_SAME;
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options));
    /* all but, and all */
    cursor = head_of(f->state) + 1;
    options.flags = ZP_EXCLUDE;
    set(f->other, "k", 9);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ETIMEDOUT);
    set(f->other, "x", 9);
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options));
    set(f->other, "y", 9);
    options.flags = 0;
    assert_ok(zp_get_when_change(f->state, NULL, NULL, 0, 0, &options));
}

/* Goal: a wait that starts in the past. */
static void
test_since(void **state)
{
    fixture *f = *state;
    uint64_t first = head_of(f->state);
    zp_watch_options options = {.size = sizeof options, .flags = ZP_SINCE};
    zp_state *snapshot;

    for (int i = 1; i <= 7; i++)
        set(f->other, "k", i);
    for (int i = 1; i <= 7; i++) {
        options.since = first + (unsigned)i;
        assert_ok(zp_get_when_truthy(f->state, &snapshot, "k", 0, &options));
        assert_int_equal(int_at(snapshot, "k"), i); /* the first look */
        zp_state_free(snapshot);
        assert_return(
            zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), 0, &options),
            i < 7 ? 0 : -ETIMEDOUT);
        if (i == 7)
            break;
        assert_int_equal(int_at(snapshot, "k"), i + 1);
        zp_state_free(snapshot);
        assert_ok(
            zp_get_when_equal(f->state, &snapshot, "k", 0, &options, ZP_I(7)));
        assert_int_equal(int_at(snapshot, "k"), 7);
        zp_state_free(snapshot);
    }
    options.since = first + 8;
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  -ERANGE);
    assert_return(zp_get_when_truthy(f->state, NULL, "k", 0, &options),
                  -ERANGE);
    options.flags = ZP_SINCE_TIME;
    options.since_time = 0;
    assert_ok(
        zp_get_when_equal(f->state, &snapshot, "k", 0, &options, ZP_I(2)));
    assert_int_equal(int_at(snapshot, "k"), 2);
    zp_state_free(snapshot);
}

/* ------------------------------------------------------------------ hold -- */

struct holding {
    fixture *f;
    recorder inner;
    size_t seen; /* when the wait was over */
    int ticks;
    bool nested;
};

static void
tick(struct ev_loop *loop, ev_timer *timer, int events)
{
    struct holding *h = timer->data;

    (void)loop;
    (void)events;
    h->ticks++;
    if (h->ticks == 5) {
        set(h->f->other, "b", 100);
        set(h->f->other, "k", 5);
    }
}

static void
hold_and_wait(fixture *f, const waiter *w, bool settled)
{
    struct holding h = {.f = f, .inner = {.ctx = f->ctx}};
    recorder r = {.ctx = f->ctx};
    zp_watch_options hold = {.size = sizeof hold, .flags = ZP_HOLD};
    zp_watch *watch, *condition;
    ev_timer timer;

    assert_ok(zp_set_int(f->other, "k", 4));
    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("b"), NULL, record, &r));
    assert_ok(zp_call_when_available(f->state, &condition, "b", NULL, record,
                                     &h.inner));
    if (settled) { /* in line, when it begins */
        settle(f);
        for (int i = 0; i < 10; i++)
            assert_ok(zp_ctx_dispatch(f->ctx));
    }
    for (int i = 1; i <= 3; i++)
        set(f->other, "b", i);
    ev_timer_init(&timer, tick, 0.001, 0.001);
    timer.data = &h;
    ev_timer_start(zp_ev_loop(f->ctx), &timer);
    assert_wait(w, w->wait(f->state, NULL, -1, &hold), 0);
    assert_true(h.ticks >= 5);
    assert_int_equal(r.n, 0);
    assert_int_equal(h.inner.n, 0);
    /* without: what was held comes */
    assert_return(zp_get_when_equal(f->state, NULL, "k", 0, NULL, ZP_I(6)),
                  -ETIMEDOUT);
    ev_timer_stop(zp_ev_loop(f->ctx), &timer);
    run_until(&r, 4);
    run_until(&h.inner, 4);
    settle(f);
    assert_values(&r, "b", VALUES(1, 2, 3, 100));
    assert_values(&h.inner, "b", VALUES(1, 2, 3, 100));
    zp_watch_free(watch);
    zp_watch_free(condition);
    assert_ok(zp_delete(f->other, "b"));
    forget(&r);
    forget(&h.inner);
}

/* Goal: callbacks are held back, the application's timers are not; afterwards
 * all that has happened is called, in order and once. */
static void
test_hold(void **state)
{
    fixture *f = *state;

    for (size_t i = 0; i < WAITERS * 2; i++) {
        const waiter *w = &waiters[i / 2];

        if (w->meet == put_5 && w->spoil == put_4)
            hold_and_wait(f, w, i % 2);
    }
}

static int
wait_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    (void)event;
    if (r->n != 1)
        return 0;
    set(r->user, "b", 2);
    set(r->user, "b", 3);
    assert_return(zp_get_when_equal(zp_ctx_state(r->ctx), NULL, "k", 0.005,
                                    NULL, ZP_I(5)),
                  -ETIMEDOUT);
    return 0;
}

static void
hold_again(void *user)
{
    struct holding *h = user;
    zp_watch_options hold = {.size = sizeof hold, .flags = ZP_HOLD};

    /* inside of one that holds: both, and one that does not, hold back */
    assert_return(
        zp_get_when_equal(h->f->state, NULL, "k", 0.005, &hold, ZP_I(6)),
        -ETIMEDOUT);
    assert_int_equal(h->inner.n, 0);
    assert_return(
        zp_get_when_equal(h->f->state, NULL, "k", 0.005, NULL, ZP_I(6)),
        -ETIMEDOUT);
    assert_int_equal(h->inner.n, 0);
    set(h->f->other, "b", 7);
    set(h->f->other, "k", 5);
    h->nested = true;
}

/* Goal: holds inside of holds, and of callbacks. */
static void
test_hold_nested(void **state)
{
    fixture *f = *state;
    struct holding h = {.f = f, .inner = {.ctx = f->ctx}};
    zp_watch_options hold = {.size = sizeof hold, .flags = ZP_HOLD};
    recorder waits = {.ctx = f->ctx, .then = wait_inside, .user = f->other};
    zp_watch *watch, *other;
    later l;

    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("b"), NULL, record,
                                  &h.inner));
    set(f->other, "b", 1);
    do_later(&l, f->ctx, 0, hold_again, &h);
    assert_ok(zp_get_when_equal(f->state, NULL, "k", -1, &hold, ZP_I(5)));
    assert_true(h.nested);
    assert_int_equal(h.inner.n, 0);
    settle(f);
    assert_values(&h.inner, "b", VALUES(1, 7));
    /* a callback waits, not holding: others are called meanwhile, it is not */
    assert_ok(zp_call_when_change(f->state, &other, ZP_KEYS("b"), NULL, record,
                                  &waits));
    set(f->other, "k", 4);
    set(f->other, "b", 1);
    run_until(&waits, 3);
    settle(f);
    assert_values(&waits, "b", VALUES(1, 2, 3));
    assert_values(&h.inner, "b", VALUES(1, 7, 1, 2, 3));
    zp_watch_free(watch);
    zp_watch_free(other);
    forget(&h.inner);
    forget(&waits);
}

static void
free_watch(void *user)
{
    zp_watch **watch = user;

    *watch = zp_watch_free(*watch);
}

/* Goal: while held back a watch may end, by its owner or by its time; what is
 * registered meanwhile is held back, too. */
static void
test_hold_and_end(void **state)
{
    fixture *f = *state;
    recorder freed = {.ctx = f->ctx}, timed = freed, live = freed;
    zp_watch_options hold = {.size = sizeof hold, .flags = ZP_HOLD};
    zp_watch_options brief = {.size = sizeof brief, .timeout = 0.002};
    zp_watch_options newest = {.size = sizeof newest, .flags = ZP_LIVE};
    zp_watch *one, *two, *three;
    later l;

    assert_ok(zp_call_when_change(f->state, &one, ZP_KEYS("b"), NULL, record,
                                  &freed));
    assert_ok(zp_call_when_change(f->state, &two, ZP_KEYS("b"), &brief, record,
                                  &timed));
    assert_ok(zp_call_when_change(f->state, &three, ZP_KEYS("b"), &newest,
                                  record, &live));
    for (int i = 1; i <= 3; i++)
        set(f->other, "b", i);
    do_later(&l, f->ctx, 0.002, free_watch, &one);
    assert_return(zp_get_when_equal(f->state, NULL, "k", 0.02, &hold, ZP_I(5)),
                  -ETIMEDOUT);
    assert_int_equal(freed.n + timed.n + live.n, 0);
    run_until(&timed, 4);
    settle(f);
    assert_int_equal(freed.n, 0);
    assert_int_equal(timed.n, 4);
    assert_int_equal(timed.events[2].value, 3);
    assert_int_equal(timed.events[3].kind, ZP_TIMEDOUT);
    assert_values(&live, "b", VALUES(3));
    zp_watch_free(two);
    zp_watch_free(three);
    forget(&timed);
    forget(&live);
}

/* ------------------------------------------------------------- overruns -- */

struct flood {
    fixture *f;
    int n;
    int64_t k; /* what k is at the end */
};

static void
flood(void *user)
{
    struct flood *flood = user;

    for (int i = 1; i < flood->n; i++)
        set(flood->f->other, i % 2 ? "k" : "x", -i);
    set(flood->f->other, "k", flood->k);
}

/* Goal: the log passes a wait: it is said that changes are lost, or the
 * condition holds, which is all that it waits for. */
static void
test_overrun(void **state)
{
    fixture *f = *state;
    struct flood all = {f, 300, 5};
    uint64_t cursor = head_of(f->state) + 1;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
    zp_state *snapshot = NULL;
    later l;

    do_later(&l, f->ctx, 0, flood, &all);
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), -1, NULL),
                  ZP_EGONE);
    assert_non_null(strstr(zp_ctx_error(f->ctx), "lost"));

    all.k = 4;
    do_later(&l, f->ctx, 0, flood, &all);
    assert_return(
        zp_get_when_equal(f->state, &snapshot, "k", -1, NULL, ZP_I(6)),
        ZP_EGONE);
    all.k = 5;
    do_later(&l, f->ctx, 0, flood, &all);
    assert_return(
        zp_get_when_equal(f->state, &snapshot, "k", -1, NULL, ZP_I(5)), 0);
    assert_int_equal(int_at(snapshot, "k"), 5);
    assert_int_equal(head_of(snapshot), head_of(f->state));
    zp_state_free(snapshot);

    /* a cursor goes on behind what was lost */
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  ZP_EGONE);
    assert_ok(
        zp_get_when_change(f->state, &snapshot, ZP_KEYS("k"), 0, &options));
    assert_true(cursor + 70 > head_of(f->state));
    zp_state_free(snapshot);
    while (zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options) == 0)
        ;
    assert_int_equal(cursor, head_of(f->state) + 1);
    cursor = 1;
    assert_ok(
        zp_get_when_equal(f->state, &snapshot, "k", 0, &options, ZP_I(5)));
    assert_int_equal(cursor, head_of(f->state) + 1);
    zp_state_free(snapshot);
    /* of the oldest that is retained nothing is lost */
    options.cursor = NULL;
    options.flags = ZP_OLDEST;
    assert_ok(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options));
    options.flags = ZP_SINCE;
    options.since = 1;
    assert_return(zp_get_when_change(f->state, NULL, ZP_KEYS("k"), 0, &options),
                  ZP_EGONE);
}

/* ------------------------------------------------------------ snapshots -- */

static void
set_more(void *user)
{
    fixture *f = user;

    set(f->other, "k", 5);
    set(f->other, "k", 6);
    set(f->other, "x", 1);
}

/* Goal: the snapshot is of exactly that revision, and stays. */
static void
test_snapshot(void **state)
{
    fixture *f = *state;

    for (size_t i = 0; i < WAITERS; i++) {
        const waiter *w = &waiters[i];
        zp_state *snapshot, *clone;
        uint64_t head;
        later l;

        if (w->meet != put_5 && w->meet != put_other)
            continue;
        assert_ok(w->spoil(f->other));
        head = head_of(f->state);
        do_later(&l, f->ctx, 0, set_more, f);
        assert_wait(w, w->wait(f->state, &snapshot, -1, NULL), 0);
        for (int k = 0; k < 100; k++)
            set(f->other, "k", -k);
        assert_int_equal(head_of(snapshot), head + 1);
        assert_int_equal(int_at(snapshot, "k"), 5);
        assert_return(zp_set_int(snapshot, "k", 1), -EROFS);
        assert_int_equal(zp_retained(snapshot), 0);
        assert_ok(zp_state_clone(snapshot, &clone, NULL));
        zp_state_free(clone);
        /* the loop runs: nothing takes it away */
        assert_return(
            zp_get_when_change(f->state, NULL, ZP_KEYS("y"), 0.001, NULL),
            -ETIMEDOUT);
        assert_int_equal(int_at(snapshot, "k"), 5);
        zp_state_free(snapshot);
    }
}

/* ---------------------------------------------------------- bad arguments --
 */

/* The call fails and its text names what is wrong. */
#define assert_bad(call, what)                                                 \
    do {                                                                       \
        assert_return(call, -EINVAL);                                          \
        if (!strstr(zp_ctx_error(NULL), what))                                 \
            fail_msg("%s: \"%s\" does not say %s", #call, zp_ctx_error(NULL),  \
                     what);                                                    \
    } while (0)

static int
count_nothing(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return 0;
}

static int
yes(zp_state *snapshot, void *user)
{
    (void)snapshot;
    (void)user;
    return 1;
}

/* Goal: what is wrong is named. */
static void
test_bad_arguments(void **state)
{
    fixture *f = *state;
    char key[300] = "";
    const char *null = NULL;
    uint64_t cursor = 0;
    zp_watch_options o = {0};
    zp_state *s = f->state;
    int64_t n = 5;

    set(f->other, "k", 5);
    memset(key, 'k', sizeof key - 1);
    assert_bad(zp_get_when_change(NULL, NULL, ZP_KEYS("k"), 0, NULL), "NULL");
    assert_bad(zp_get_when_change(s, NULL, NULL, 2, 0, NULL), "keys");
    assert_bad(zp_get_when_change(s, NULL, &null, 1, 0, NULL), "key");
    assert_bad(zp_get_when_change(s, NULL, ZP_KEYS("a", ""), 0, NULL), "key");
    assert_bad(zp_get_when_change(s, NULL, ZP_KEYS(key), 0, NULL), "key");
    assert_bad(zp_get_when(s, NULL, NULL, 0, 0, NULL, NULL, NULL), "predicate");
    assert_bad(zp_get_when(s, NULL, &null, 1, 0, NULL, yes, NULL), "key");
    assert_bad(zp_get_when_equal(s, NULL, NULL, 0, NULL, ZP_I(5)), "key");
    assert_bad(zp_get_when_equal(s, NULL, "", 0, NULL, ZP_I(5)), "key");
    assert_bad(zp_get_when_equal(s, NULL, key, 0, NULL, ZP_I(5)), "key");
    assert_bad(zp_get_when_equal(s, NULL, "k", 0, NULL, "i", NULL), "NULL");
    assert_bad(zp_get_when_equal(s, NULL, "k", 0, NULL, NULL), "NULL");
    assert_return(zp_get_when_equal(s, NULL, "k", 0, NULL, "Q", &n),
                  ZP_EFORMAT);
    assert_return(zp_get_when_not_equal(s, NULL, "k", 0, NULL, "A(i)", &n),
                  ZP_EFORMAT);
    assert_bad(zp_get_when_equal_value(s, NULL, "k", NULL, 0, NULL), "value");
    assert_bad(zp_get_when_not_equal_value(s, NULL, "k", NULL, 0, NULL),
               "value");
    assert_bad(zp_get_when_none(s, NULL, NULL, 0, NULL), "key");
    assert_bad(zp_get_when_available(s, NULL, key, 0, NULL), "key");

    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "size");
    o.size = sizeof o;
    o.flags = 1u << 20;
    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "flags");
    o.flags = ZP_SINCE | ZP_OLDEST;
    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "ZP_SINCE");
    o.flags = ZP_EXCLUDE;
    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "ZP_EXCLUDE");
    o.flags = ZP_SINCE_TIME;
    o.since_time = NAN;
    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "since_time");
    o.flags = 0;
    o.since_time = 0;
    o.timeout = 1;
    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "timeout");
    o.timeout = -1;
    assert_bad(zp_get_when_truthy(s, NULL, "k", 0, &o), "timeout");
    o.timeout = 0;
    o.flags = ZP_SINCE;
    o.since = head_of(s) + 1;
    assert_return(zp_get_when_truthy(s, NULL, "k", 0, &o), -ERANGE);
    o.flags = 0;
    cursor = head_of(s) + 2; /* of a revision that has not been */
    o.cursor = &cursor;
    assert_return(zp_get_when_truthy(s, NULL, "k", 0, &o), -ERANGE);
    assert_int_equal(cursor, head_of(s) + 2);
    /* what is for waits alone */
    assert_bad(zp_call_when_truthy(s, NULL, "k", &o, count_nothing, NULL),
               "cursor");
    o.cursor = NULL;
    o.flags = ZP_HOLD;
    assert_bad(zp_call_when_truthy(s, NULL, "k", &o, count_nothing, NULL),
               "ZP_HOLD");
    assert_bad(zp_call_when_truthy(s, NULL, "k", NULL, NULL, NULL),
               "ret_watch");
}

/* -------------------------------------------------------------- too deep -- */

struct deep {
    fixture *f;
    int depth, deepest;
    int rc;
    later levels[300];
};

static void
wait_deeper(void *user)
{
    struct deep *d = user;
    int rc;

    assert_true(d->depth < 299);
    do_later(&d->levels[++d->depth], d->f->ctx, 0, wait_deeper, d);
    rc = zp_get_when_equal(d->f->state, NULL, "k", -1, NULL, ZP_I(5));
    if (rc == -ELOOP) {
        assert_non_null(strstr(zp_ctx_error(d->f->ctx), "inside"));
        not_later(&d->levels[d->depth]);
        d->deepest = d->depth;
        set(d->f->other, "k", 5);
    } else {
        assert_return(rc, 0);
    }
    d->depth--;
}

/* Goal: too many waits inside of each other are an error; the others go on. */
static void
test_too_deep(void **state)
{
    fixture *f = *state;
    struct deep *d = calloc(1, sizeof *d);

    d->f = f;
    wait_deeper(d);
    assert_int_equal(d->depth, 0);
    assert_in_range(d->deepest, 100, 250);
    assert_ok(zp_get_when_equal(f->state, NULL, "k", 0, NULL, ZP_I(5)));
    free(d);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_cursor),
        T(test_cursor_of_condition),
        T(test_long_log),
        T(test_cursor_first_look),
        T(test_cursor_over_failure),
        T(test_count),
        T(test_flags),
        T(test_since),
        T(test_hold),
        T(test_hold_nested),
        T(test_hold_and_end),
        SHORT(test_overrun),
        SHORT(test_snapshot),
        T(test_bad_arguments),
        T(test_too_deep),
    };
    return zp_test_main("get_when_modes", tests, sizeof tests / sizeof *tests,
                        30);
}
