/*
 * test_watch_reentry.c - what a callback may do: run the loop, end and free
 * anything, register, fork.
 */
#include "tests/api/watching.h"

#include <sys/wait.h>

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
    assert_int_equal(past->last, 0);
    past->nested = true;
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
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), &oldest,
                                  replay, &past));
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
    bool deep;      /* run inside of every callback */
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
    assert_ok(zp_call_when_change(f->state, &watches[2], NULL, 0, NULL,
                                  record, &last));
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
                          .inner = {.ctx = f->ctx,
                                    .then = free_inside_nested}};

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
    assert_ok(zp_call_when_change(handle, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
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
    assert_ok(zp_call_when_change(zp_ctx_state(f.ctx), NULL, ZP_KEYS("a"),
                                  NULL, record, &never));
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

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
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

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
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

        _exit(good ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return 0;
}

/* Goal: a fork inside a callback: the child cannot use the event. */
static void
test_fork_inside(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = fork_inside};

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record,
                                  &r));
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
        T(test_nested_run),
        T(test_nested_deeply),
        T(test_nested_live),
        T(test_nested_replay),
        SHORT(test_snapshot_gone),
        T(test_end_inside),
        T(test_end_unattended_inside),
        T(test_go_live_of_another),
        T(test_free_outer),
        T(test_free_state_inside),
        ZP_TEST(test_free_context_inside),
        ZP_TEST(test_free_context_nested),
        T(test_register_inside),
        T(test_write_inside),
        T(test_fork_inside),
    };
    return zp_test_main("watch_reentry", tests, sizeof tests / sizeof *tests,
                        20);
}
