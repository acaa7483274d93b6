/*
 * test_watch_reentry.c - what else a callback may do: run the loop, register,
 * write, fork.
 */
#include <signal.h>
#include <sys/wait.h>

#include "tests/api/watching.h"

#define NESTED 20 /* deep */

/* ---------------------------------------------------------- nested runs -- */

#define PAST 5

struct past {
    fixture *f;
    uint64_t last;
    bool nested;
};

static int
replay(zp_watch *watch, const zp_event *event, void *user)
{
    struct past *past = user;

    (void)watch;
    assert_int_equal(zp_event_revision(event), ++past->last);
    if (past->nested && past->last % 10 == 0)
        assert_ok(zp_break(past->f->ctx));
    return 0;
}

static int
let_it_replay(recorder *r, zp_watch *watch, const zp_event *event)
{
    struct past *past = r->user;

    (void)watch;
    if (r->n != 7)
        return 0;
    past->nested = true; /* it may have begun: a slow turn gives way to it */
    assert_ok(zp_run(r->ctx));
    past->nested = false;
    /* the snapshot is there again, through another transaction */
    assert_int_equal(int_at(zp_event_snapshot(event), "a"),
                     (int64_t)zp_event_revision(event));
    return 0;
}

/* Goal: a watch that replays the past comes, in a run inside of another's
 * callback, to where that one's turn was: neither misses or repeats anything.
 */
static void
test_nested_replay(void **state)
{
    fixture *f = *state;
    struct past past = {.f = f};
    recorder r = {.ctx = f->ctx, .then = let_it_replay, .user = &past};
    zp_watch_options oldest = {.size = sizeof oldest, .flags = ZP_OLDEST};

    for (int i = 1; i <= PAST; i++)
        set(f->other, "a", i);
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &oldest, replay,
                                  &past));
    for (int i = PAST + 1; i <= PAST + 100; i++)
        set(f->other, "a", i);
    run_until(&r, 100);
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(r.events[i].revision, PAST + 1 + i);
    past.nested = true; /* breaks at 110 */
    for (int i = 1; i <= 5; i++)
        set(f->other, "a", i);
    while (past.last < PAST + 105)
        assert_ok(zp_run(f->ctx));
    forget(&r);
}

struct nest {
    fixture *f;
    recorder inner; /* of another watch */
    int busy;       /* on the stack */
    int64_t last;
    bool deep; /* run inside of every callback */
};

static int
run_inside(zp_watch *watch, const zp_event *event, void *user)
{
    struct nest *nest = user;
    int64_t value = int_at(zp_event_snapshot(event), "a");

    (void)watch;
    assert_int_equal(nest->busy, 0); /* never entered again */
    nest->busy++;
    assert_int_equal(value, nest->last + 1);
    nest->last = value;
    if (value == 1) {
        set(nest->f->other, "a", 2);
        set(nest->f->other, "b", 1);
        set(nest->f->other, "a", 3);
        set(nest->f->other, "b", 2);
        run_until(&nest->inner, 2);
        assert_int_equal(nest->last, 1); /* its own have waited */
        /* the snapshot went with the wait, and comes again */
        assert_int_equal(int_at(zp_event_snapshot(event), "a"), 1);
        assert_int_equal(int_at(zp_event_before(event), "a"), ABSENT);
        assert_int_equal(zp_event_length(event), 1);
    }
    nest->busy--;
    if (value == 3)
        assert_ok(zp_break(nest->f->ctx));
    return 0;
}

/* Goal: a nested run serves the others; the events of the watch that is on the
 * stack wait, and come in order afterwards. */
static void
test_nested_run(void **state)
{
    fixture *f = *state;
    struct nest nest = {.f = f, .inner = {.ctx = f->ctx}};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL,
                                  run_inside, &nest));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b"), NULL, record,
                                  &nest.inner));
    set(f->other, "a", 1);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(nest.last, 3);
    assert_values(&nest.inner, "b", VALUES(1, 2));
    settle(f);
    assert_values(&nest.inner, "b", VALUES(1, 2));
    forget(&nest.inner);
}

struct level {
    fixture *f;
    struct level *next;
    int64_t last;
    bool busy;
};

/* Each level runs the loop until the next one has got what it has. */
static int
go_deeper(zp_watch *watch, const zp_event *event, void *user)
{
    struct level *level = user;
    int64_t value = int_at(zp_event_snapshot(event), "a");

    (void)watch;
    assert_false(level->busy);
    assert_int_equal(value, level->last + 1);
    level->last = value;
    level->busy = true;
    if (level->next && !level->next->busy) {
        if (value == 1)
            set(level->f->other, "a", int_at(level->f->other, "a") + 1);
        while (level->next->last < value)
            assert_ok(zp_run(level->f->ctx));
    }
    level->busy = false;
    assert_ok(zp_break(level->f->ctx));
    return 0;
}

/* Goal: many levels deep, each of them sees everything once and in order. */
static void
test_nested_deeply(void **state)
{
    fixture *f = *state;
    struct level levels[NESTED];
    int64_t newest;

    for (int i = 0; i < NESTED; i++) {
        levels[i] = (struct level){.f = f};
        levels[i].next = i + 1 < NESTED ? &levels[i + 1] : NULL;
        assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL,
                                      go_deeper, &levels[i]));
    }
    set(f->other, "a", 1);
    for (int i = 0; i < NESTED; i++)
        while (levels[i].last < int_at(f->state, "a"))
            assert_ok(zp_run(f->ctx));
    newest = int_at(f->state, "a");
    assert_true(newest >= 2);
    for (int i = 0; i < NESTED; i++)
        assert_int_equal(levels[i].last, newest);
}

static int
live_inside(zp_watch *watch, const zp_event *event, void *user)
{
    struct nest *nest = user;
    int64_t value = int_at(zp_event_snapshot(event), "a");

    (void)watch;
    assert_int_equal(nest->busy, 0);
    nest->busy++;
    if (value == 1) {
        for (int i = 2; i <= 5; i++) {
            set(nest->f->other, "a", i);
            set(nest->f->other, "b", i);
        }
        run_until(&nest->inner, 4);
    }
    nest->busy--;
    nest->last = nest->last * 10 + value;
    if (value >= 5)
        assert_ok(zp_break(nest->f->ctx));
    return 0;
}

/* Goal: a live watch that was busy in a nested run gets the newest only. */
static void
test_nested_live(void **state)
{
    fixture *f = *state;
    struct nest nest = {.f = f, .inner = {.ctx = f->ctx}};
    zp_watch_options live = {.size = sizeof live, .flags = ZP_LIVE};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &live,
                                  live_inside, &nest));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b"), NULL, record,
                                  &nest.inner));
    set(f->other, "a", 1);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(nest.last, 15);
    assert_values(&nest.inner, "b", VALUES(2, 3, 4, 5));
    forget(&nest.inner);
}

static int
outlive_snapshot(zp_watch *watch, const zp_event *event, void *user)
{
    struct nest *nest = user;
    zp_state *snapshot = zp_event_snapshot(event);
    zp_change change;
    int64_t value;

    (void)watch;
    if (nest->busy)
        return 0;
    nest->busy++;
    assert_int_equal(int_at(snapshot, "a"), 1);
    for (int i = 2; i <= 200; i++)
        set(nest->f->other, "a", i);
    /* it is held while the callback does not wait */
    assert_ok(zp_get_int(snapshot, "a", &value));
    assert_int_equal(value, 1);
    set(nest->f->other, "b", 1);
    run_until(&nest->inner, 1);
    assert_return(zp_get_int(snapshot, "a", &value), ZP_EGONE);
    assert_return(zp_get_int(zp_event_before(event), "a", &value), ZP_EGONE);
    assert_ok(zp_event_change(event, &change, 0)); /* the keys stay */
    assert_string_equal(change.key, "a");
    assert_ok(zp_break(nest->f->ctx));
    return 0;
}

/* Goal: the snapshot cannot be pulled away but by waiting; then ZP_EGONE. */
static void
test_snapshot_gone(void **state)
{
    fixture *f = *state;
    struct nest nest = {.f = f, .inner = {.ctx = f->ctx}};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL,
                                  outlive_snapshot, &nest));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("b"), NULL, record,
                                  &nest.inner));
    set(f->other, "a", 1);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(nest.busy, 1);
    forget(&nest.inner);
}

/* ------------------------------------------------------------- register -- */

static int
register_more(recorder *r, zp_watch *watch, const zp_event *event)
{
    recorder *more = r->user;
    zp_watch_options since = {.size = sizeof since, .flags = ZP_SINCE};

    (void)watch;
    (void)event;
    if (r->n != 2)
        return 0;
    since.since = 1;
    assert_ok(zp_call_when_change(zp_ctx_state(r->ctx), NULL, ZP_KEYS("a"),
                                  NULL, record, &more[0]));
    assert_ok(zp_call_when_change(zp_ctx_state(r->ctx), NULL, NULL, 0, &since,
                                  record, &more[1]));
    assert_int_equal(more[0].n + more[1].n, 0); /* never from inside */
    return 0;
}

/* Goal: what is registered inside begins now, or where it was told to, and the
 * order of what it sees is not mixed up by the turn that is under way. */
static void
test_register_inside(void **state)
{
    fixture *f = *state;
    recorder more[2] = {{.ctx = f->ctx}, {.ctx = f->ctx}};
    recorder r = {.ctx = f->ctx, .then = register_more, .user = more};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    for (int i = 1; i <= 5; i++)
        set(f->other, "a", i);
    run_until(&r, 5);
    run_until(&more[1], 4);
    assert_values(&more[1], "a", VALUES(2, 3, 4, 5));
    assert_int_equal(more[0].n, 0);
    set(f->other, "a", 6);
    settle(f);
    assert_values(&more[0], "a", VALUES(6));
    assert_int_equal(more[1].n, 6); /* and the mark */
    assert_values(&r, "a", VALUES(1, 2, 3, 4, 5, 6));
    forget(&r);
    forget(&more[0]);
    forget(&more[1]);
}

static int
write_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_state *state = zp_ctx_state(r->ctx);

    (void)watch;
    (void)event;
    if (r->n < 5)
        set(r->user, "a", int_at(state, "a") + 1);
    set(state, "a", int_at(state, "a") + 100); /* own: does not come */
    return 0;
}

/* Goal: writing inside a callback is like any other write. */
static void
test_write_inside(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = write_inside, .user = f->other};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 1);
    run_until(&r, 5);
    settle(f);
    assert_values(&r, "a", VALUES(1, 2, 103, 204, 305));
    forget(&r);
}

static int
fork_inside(recorder *r, zp_watch *watch, const zp_event *event)
{
    pid_t pid;
    int status;

    (void)r;
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        bool good = zp_event_kind(event) == ZP_EFORK &&
                    !zp_event_snapshot(event) &&
                    zp_watch_cancel(watch) == ZP_EFORK;

        if (good) /* not by _exit(): valgrind would look for leaks, which a
                     child that may not free anything has */
            kill(getpid(), SIGKILL);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return 0;
}

/* Goal: a fork inside a callback: the child cannot use the event. */
static void
test_fork_inside(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = fork_inside};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 1);
    set(f->other, "a", 2);
    settle(f);
    assert_values(&r, "a", VALUES(1, 2));
    forget(&r);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_nested_replay),     T(test_nested_run),
        T(test_nested_deeply),     T(test_nested_live),
        SHORT(test_snapshot_gone), T(test_register_inside),
        T(test_write_inside),      T(test_fork_inside),
    };
    return zp_test_main("watch_reentry", tests, sizeof tests / sizeof *tests,
                        20);
}
