/*
 * test_nested_waits.c - waits inside of waits: they return from the innermost
 * outwards, in whatever order they come true, and whatever of them is freed
 * meanwhile, by whom.
 */
#include <sys/wait.h>

#include "tests/api/waiting.h"

#define DEPTH 10

/* How a level waits. */
enum way { EQUAL, CHANGE, PREDICATE, NEXT_CHANGE, NEXT_TRUTHY, WAYS };

enum strike { NOBODY, FREE_WATCH, CANCEL_WATCH, FREE_STATE, FREE_CONTEXT };

typedef struct nest nest;

/* One wait, with those inside of it at higher indices. */
typedef struct level {
    nest *n;
    int i;
    char key[24];
    enum way way;
    zp_state *handle; /* of its own */
    zp_watch *watch;  /* an iterator's */
    later start;
    int rc;
    bool over;
    uint64_t met;      /* the revision at which it came true */
    uint64_t revision; /* that it returned */
} level;

struct nest {
    zp_ctx *ctx; /* that waits */
    zp_state *state;
    zp_state *other; /* to write through */
    int depth;
    int order[DEPTH]; /* in which they come true */
    int step;
    int over;      /* how many have returned */
    int64_t value; /* of this time: what their keys become */
    enum strike strike;
    bool by_callback;
    int victim; /* level */
    bool struck;
    ev_timer driver;
    level levels[DEPTH];
};

static bool
is_struck(const nest *n, const level *l)
{
    return n->struck && (n->strike == FREE_CONTEXT || n->victim == l->i);
}

/* How many can return: those that have nobody inside of them that cannot. */
static int
can_return(const nest *n)
{
    int can = 0;

    for (int i = n->depth - 1; i >= 0; i--, can++)
        if (!n->levels[i].met && !is_struck(n, &n->levels[i]))
            break;
    return can;
}

static void
strike(nest *n)
{
    level *l = &n->levels[n->victim];

    n->struck = true;
    switch (n->strike) {
    case FREE_WATCH:
        l->watch = zp_watch_free(l->watch);
        break;
    case CANCEL_WATCH:
        assert_ok(zp_watch_cancel(l->watch));
        break;
    case FREE_STATE:
        l->handle = zp_state_free(l->handle);
        l->watch = NULL;
        break;
    case FREE_CONTEXT:
        n->ctx = zp_ctx_free(n->ctx);
        break;
    default:
        break;
    }
}

static int
on_strike(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    strike(user);
    return 0;
}

/* One step after the other, each when all have returned that can. */
static void
drive(struct ev_loop *loop, ev_timer *timer, int events)
{
    nest *n = timer->data;
    level *l;

    (void)events;
    if (n->over < can_return(n))
        return;
    if (n->strike != NOBODY && !n->struck) {
        if (n->by_callback)
            set(n->other, "strike", n->value);
        else
            strike(n);
        return;
    }
    if (n->step == n->depth) {
        ev_timer_stop(loop, timer);
        return;
    }
    l = &n->levels[n->order[n->step++]];
    if (is_struck(n, l))
        return;
    set(n->other, l->key, n->value);
    l->met = head_of(n->other);
}

static int
has_value(zp_state *snapshot, void *user)
{
    const level *l = user;

    return int_at(snapshot, l->key) == l->n->value;
}

static int
next_of(level *l)
{
    const zp_event *event;
    int rc = zp_watch_next(l->watch, &event, -1);

    if (rc == 1)
        l->revision = zp_event_revision(event);
    return rc == 1 ? 0 : rc;
}

static int
wait_at(level *l)
{
    zp_state *snapshot = NULL;
    int rc;

    switch (l->way) {
    case EQUAL:
        rc = zp_get_when_equal(l->handle, &snapshot, l->key, -1, NULL,
                               ZP_I(l->n->value));
        break;
    case CHANGE:
        rc =
            zp_get_when_change(l->handle, &snapshot, ZP_KEYS(l->key), -1, NULL);
        break;
    case PREDICATE:
        rc = zp_get_when(l->handle, &snapshot, ZP_KEYS(l->key), -1, NULL,
                         has_value, l);
        break;
    default:
        return next_of(l);
    }
    if (rc == 0) {
        l->revision = head_of(snapshot);
        assert_int_equal(int_at(snapshot, l->key), l->n->value);
        zp_state_free(snapshot);
    }
    return rc;
}

/* Wait, and have the next level wait inside of it. */
static void
go_deeper(void *user)
{
    level *l = user;
    nest *n = l->n;

    if (l->i + 1 < n->depth)
        do_later(&l[1].start, n->ctx, 0, go_deeper, &l[1]);
    else
        ev_timer_start(zp_ev_loop(n->ctx), &n->driver);
    l->rc = wait_at(l);
    l->over = true;
    n->over++;
    for (int i = l->i + 1; i < n->depth; i++)
        assert_true(n->levels[i].over);
}

static void
prepare_level(nest *n, int i)
{
    level *l = &n->levels[i];
    enum way way = (enum way)((i + (int)n->value) % WAYS);
    bool victim = i == n->victim;

    if (victim && (n->strike == FREE_WATCH || n->strike == CANCEL_WATCH))
        way = i % 2 ? NEXT_CHANGE : NEXT_TRUTHY;
    *l = (level){.n = n, .i = i, .way = way};
    snprintf(l->key, sizeof l->key, "level%d", i);
    assert_ok(put_absent(n->other));
    if (zp_contains(n->other, l->key))
        assert_ok(zp_delete(n->other, l->key));
    assert_ok(zp_state_clone(n->state, &l->handle, NULL));
    if (way == NEXT_CHANGE)
        assert_ok(zp_call_when_change(l->handle, &l->watch, ZP_KEYS(l->key),
                                      NULL, NULL, NULL));
    if (way == NEXT_TRUTHY)
        assert_ok(zp_call_when_truthy(l->handle, &l->watch, l->key, NULL, NULL,
                                      NULL));
}

static void
check_level(nest *n, level *l)
{
    int rc = 0;

    if (n->strike == FREE_CONTEXT)
        rc = ZP_ECLOSED;
    else if (n->strike != NOBODY && l->i == n->victim)
        rc = -ECANCELED;
    if (l->rc != rc || (rc == 0 && l->revision != l->met))
        fail_msg("level %d of %d, way %d, strike %d at %d%s: %d, revision %d, "
                 "not %d, revision %d",
                 l->i, n->depth, l->way, n->strike, n->victim,
                 n->by_callback ? " by a callback" : "", l->rc,
                 (int)l->revision, rc, (int)l->met);
    if (n->strike == FREE_CONTEXT)
        return;
    zp_watch_free(l->watch);
    zp_state_free(l->handle);
}

/* A time: all levels wait, are driven, and looked at. */
static void
nest_once(nest *n)
{
    static int64_t time;
    zp_watch *striker = NULL;

    n->value = ++time;
    n->step = n->over = 0;
    n->struck = false;
    if (n->strike == NOBODY)
        n->victim = -1;
    for (int i = 0; i < n->depth; i++)
        prepare_level(n, i);
    if (n->by_callback)
        assert_ok(zp_call_when_change(n->state, &striker, ZP_KEYS("strike"),
                                      NULL, on_strike, n));
    ev_timer_init(&n->driver, drive, 0, 0.0001);
    n->driver.data = n;
    go_deeper(&n->levels[0]);
    assert_int_equal(n->over, n->depth);
    for (int i = 0; i < n->depth; i++)
        check_level(n, &n->levels[i]);
    if (!n->ctx)
        return;
    ev_timer_stop(zp_ev_loop(n->ctx), &n->driver);
    zp_watch_free(striker);
}

static nest *
make_nest(fixture *f, int depth)
{
    nest *n = calloc(1, sizeof *n);

    assert_non_null(n);
    n->ctx = f->ctx;
    n->state = f->state;
    n->other = f->other;
    n->depth = depth;
    for (int i = 0; i < depth; i++)
        n->order[i] = i;
    return n;
}

/* ---------------------------------------------------------------- orders -- */

/* The next order in the dictionary; false behind the last. */
static bool
next_order(int *order, int n)
{
    int i = n - 2, k = n - 1;

    while (i >= 0 && order[i] > order[i + 1])
        i--;
    if (i < 0)
        return false;
    while (order[k] < order[i])
        k--;
    for (int swap = order[i]; swap != -1; swap = -1) {
        order[i] = order[k];
        order[k] = swap;
    }
    for (i++, k = n - 1; i < k; i++, k--) {
        int swap = order[i];

        order[i] = order[k];
        order[k] = swap;
    }
    return true;
}

/* Goal: every order in which five waits can come true. */
static void
test_all_orders(void **state)
{
    nest *n = make_nest(*state, 5);
    int step = rounds(100) < 50 ? 7 : 1, i = 0;

    do
        if (i++ % step == 0)
            nest_once(n);
    while (next_order(n->order, 5));
    assert_int_equal(i, 120);
    free(n);
}

static unsigned
draw(unsigned *seed, unsigned below)
{
    *seed = *seed * 1103515245u + 12345u;
    return (*seed >> 16) % below;
}

/* Goal: ten of them, in some orders. */
static void
test_random_orders(void **state)
{
    nest *n = make_nest(*state, DEPTH);
    unsigned seed = (unsigned)getpid();

    print_message("# seed %u\n", seed);
    for (int times = rounds(200); times > 0; times--) {
        for (int i = DEPTH - 1; i > 0; i--) {
            int k = (int)draw(&seed, (unsigned)i + 1), swap = n->order[i];

            n->order[i] = n->order[k];
            n->order[k] = swap;
        }
        nest_once(n);
    }
    free(n);
}

/* -------------------------------------------------------------- freeing -- */

static void
strike_at_all_depths(fixture *f, enum strike what)
{
    for (int depth = 1; depth <= 5; depth++)
        for (int i = 0; i < depth * 2; i++) {
            nest *n = make_nest(f, depth);

            n->strike = what;
            n->victim = i / 2;
            n->by_callback = i % 2;
            if (what == FREE_CONTEXT) {
                assert_ok(zp_ctx_attach(&n->ctx, zp_ctx_address(f->ctx), NULL));
                n->state = zp_ctx_state(n->ctx);
            }
            nest_once(n);
            free(n);
        }
}

/* Goal: what is waited on is freed while waits are inside of it and around. */
static void
test_free_watch(void **state)
{
    strike_at_all_depths(*state, FREE_WATCH);
}

static void
test_cancel_watch(void **state)
{
    strike_at_all_depths(*state, CANCEL_WATCH);
}

static void
test_free_state(void **state)
{
    strike_at_all_depths(*state, FREE_STATE);
}

static void
test_free_context(void **state)
{
    strike_at_all_depths(*state, FREE_CONTEXT);
}

/* --------------------------------------------------- callbacks that wait -- */

typedef struct tower tower;

/* A callback on the stack, with those it has led to at higher indices. */
typedef struct storey {
    tower *t;
    int i;
    char key[24];
    zp_state *handle;
    zp_watch *watch;
    int calls;
} storey;

struct tower {
    fixture *f;
    zp_ctx *ctx;
    int height;
    int64_t value; /* of this time: what the keys become */
    enum strike strike;
    int victim;
    bool struck;
    storey storeys[5];
};

static bool
is_gone(const tower *t)
{
    return t->struck && t->strike == FREE_CONTEXT;
}

static void
strike_tower(tower *t)
{
    storey *s = &t->storeys[t->victim];

    t->struck = true;
    if (t->strike == FREE_WATCH)
        s->watch = zp_watch_free(s->watch);
    else if (t->strike == CANCEL_WATCH)
        assert_ok(zp_watch_cancel(s->watch));
    else if (t->strike == FREE_STATE)
        s->handle = zp_state_free(s->handle);
    else
        zp_ctx_free(t->ctx);
    if (t->strike == FREE_STATE)
        s->watch = NULL;
    set(t->f->other, "done", t->value);
}

static int
on_storey(zp_watch *watch, const zp_event *event, void *user)
{
    storey *s = user;
    tower *t = s->t;
    int rc;

    (void)watch;
    (void)event;
    s->calls++;
    if (t->struck) /* the second time */
        return 0;
    if (s->i + 1 == t->height) {
        strike_tower(t);
        return 0;
    }
    set(t->f->other, s[1].key, t->value);
    rc = zp_get_when_equal(zp_ctx_state(t->ctx), NULL, "done", -1, NULL,
                           ZP_I(t->value));
    assert_return(rc, is_gone(t) ? ZP_ECLOSED : 0);
    return s->i == 0 && !is_gone(t) ? zp_break(t->ctx) : 0;
}

static int
is_value(zp_state *snapshot, void *user)
{
    const storey *s = user;

    return int_at(snapshot, s->key) >= s->t->value;
}

static void
build_storey(tower *t, int i)
{
    storey *s = &t->storeys[i];

    *s = (storey){.t = t, .i = i};
    snprintf(s->key, sizeof s->key, "storey%d", i);
    if (zp_contains(t->f->other, s->key))
        assert_ok(zp_delete(t->f->other, s->key));
    assert_ok(zp_state_clone(zp_ctx_state(t->ctx), &s->handle, NULL));
    if (i % 3 == 0)
        assert_ok(zp_call_when(s->handle, &s->watch, ZP_KEYS(s->key), NULL,
                               is_value, on_storey, s));
    else if (i % 3 == 1)
        assert_ok(zp_call_when_change(s->handle, &s->watch, ZP_KEYS(s->key),
                                      NULL, on_storey, s));
    else
        assert_ok(zp_call_when_truthy(s->handle, &s->watch, s->key, NULL,
                                      on_storey, s));
}

/* All are changed once more: who is called? */
static void
check_tower(tower *t)
{
    for (int i = 0; i < t->height; i++)
        set(t->f->other, t->storeys[i].key, t->value + 1);
    for (int i = 0; i < t->height; i++) {
        storey *s = &t->storeys[i];
        int calls = i == t->victim ? 1 : 2;

        for (int k = 0; k < 100 && s->calls < calls; k++)
            settle(t->f);
        settle(t->f);
        if (s->calls != calls)
            fail_msg("storey %d of %d, strike %d at %d: %d calls", i, t->height,
                     t->strike, t->victim, s->calls);
        zp_watch_free(s->watch);
        zp_state_free(s->handle);
    }
}

static void
build_and_strike(fixture *f, enum strike what, int height, int victim)
{
    static int64_t time;
    tower t = {.f = f, .ctx = f->ctx, .height = height};
    int rc;

    t.strike = what;
    t.victim = victim;
    t.value = time += 2;
    if (what == FREE_CONTEXT)
        assert_ok(zp_ctx_attach(&t.ctx, zp_ctx_address(f->ctx), NULL));
    for (int i = 0; i < height; i++)
        build_storey(&t, i);
    set(f->other, t.storeys[0].key, t.value);
    if (height > 1 || what == FREE_CONTEXT) {
        rc = zp_run(t.ctx);
        assert_return(rc, what == FREE_CONTEXT ? ZP_ECLOSED : 0);
    } else {
        while (!t.struck)
            settle(f);
    }
    for (int i = 0; i < height; i++)
        assert_int_equal(t.storeys[i].calls, 1);
    if (what != FREE_CONTEXT)
        check_tower(&t);
}

/* Goal: callbacks that wait inside of each other, of which the last frees one:
 * itself, or one that is below it on the stack. */
static void
test_callbacks_on_the_stack(void **state)
{
    for (int what = FREE_WATCH; what <= FREE_CONTEXT; what++)
        for (int height = 1; height <= 5; height++)
            for (int victim = 0; victim < height; victim++)
                build_and_strike(*state, (enum strike)what, height, victim);
}

/* ------------------------------------------------------ inside callbacks -- */

struct chain {
    fixture *f;
    zp_watch *iterators[2];
    int calls, busy;
    uint64_t revision;
};

static void
set_b(void *user)
{
    struct chain *c = user;

    set(c->f->other, "b", 1);
}

/* Waits for "b" while the wait for "a" around it has come true. */
static int
wait_for_b(zp_watch *watch, const zp_event *event, void *user)
{
    struct chain *c = user;
    zp_state *snapshot;
    later l;

    (void)watch;
    assert_int_equal(c->busy++, 0);
    c->revision = zp_event_revision(event);
    if (c->calls++ == 0) {
        set(c->f->other, "a", 2); /* comes afterwards */
        do_later(&l, c->f->ctx, 0.001, set_b, c);
        assert_ok(zp_get_when_available(c->f->state, &snapshot, "b", -1, NULL));
        assert_int_equal(int_at(snapshot, "a"), 2);
        zp_state_free(snapshot);
        assert_true(l.ran);
    }
    c->busy--;
    return 0;
}

/* Goal: a callback of what is waited for waits itself: the wait around it
 * returns afterwards, with the revision that it was for; the callback is not
 * entered again, and gets what came meanwhile. */
static void
test_wait_inside_of_what_is_waited_for(void **state)
{
    fixture *f = *state;

    for (int first = 0; first < 2; first++) {
        struct chain c = {.f = f};
        zp_watch *watch;
        zp_state *snapshot;
        const zp_event *event;
        uint64_t head;

        assert_ok(put_absent(f->other));
        if (first) /* the callback is in line before the wait */
            assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL,
                                          wait_for_b, &c));
        assert_ok(zp_call_when_change(f->state, &c.iterators[0], ZP_KEYS("a"),
                                      NULL, NULL, NULL));
        if (!first)
            assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), NULL,
                                          wait_for_b, &c));
        set(f->other, "a", 1);
        head = head_of(f->state);
        assert_return(zp_watch_next(c.iterators[0], &event, -1), 1);
        assert_int_equal(zp_event_revision(event), head);
        assert_int_equal(int_at(zp_event_snapshot(event), "a"), 1);
        assert_return(zp_watch_next(c.iterators[0], &event, first ? -1 : 0),
                      first || c.calls ? 1 : -ETIMEDOUT);
        settle(f);
        assert_int_equal(c.calls, 2);
        assert_int_equal(c.revision, head + 1);
        zp_watch_free(watch);
        zp_watch_free(c.iterators[0]);
        assert_ok(
            zp_get_when_equal(f->state, &snapshot, "a", 0, NULL, ZP_I(2)));
        zp_state_free(snapshot);
        assert_ok(zp_delete(f->other, "a"));
        assert_ok(zp_delete(f->other, "b"));
    }
}

static int
next_inside(zp_watch *watch, const zp_event *event, void *user)
{
    struct chain *c = user;
    const zp_event *got;

    (void)watch;
    (void)event;
    if (c->calls++)
        return 0;
    /* the one that is waited for around this: busy, and not disturbed */
    assert_return(zp_watch_next(c->iterators[0], &got, 0), -EBUSY);
    assert_non_null(strstr(zp_ctx_error(c->f->ctx), "inside"));
    assert_return(zp_watch_next(c->iterators[0], &got, -1), -EBUSY);
    /* another one */
    set(c->f->other, "b", 7);
    assert_return(zp_watch_next(c->iterators[1], &got, -1), 1);
    assert_int_equal(int_at(zp_event_snapshot(got), "b"), 7);
    set(c->f->other, "a", 5);
    return 0;
}

/* Goal: zp_watch_next() inside of another, and of itself. */
static void
test_next_inside_of_next(void **state)
{
    fixture *f = *state;
    struct chain c = {.f = f};
    const zp_event *event;
    zp_watch *watch;

    assert_ok(zp_call_when_change(f->state, &c.iterators[0], ZP_KEYS("a"), NULL,
                                  NULL, NULL));
    assert_ok(zp_call_when_change(f->state, &c.iterators[1], ZP_KEYS("b"), NULL,
                                  NULL, NULL));
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("go"), NULL,
                                  next_inside, &c));
    set(f->other, "go", 1);
    assert_return(zp_watch_next(c.iterators[0], &event, -1), 1);
    assert_int_equal(c.calls, 1);
    assert_int_equal(int_at(zp_event_snapshot(event), "a"), 5);
    assert_return(zp_watch_next(c.iterators[1], &event, 0), -ETIMEDOUT);
    zp_watch_free(watch);
    zp_watch_free(c.iterators[0]);
    zp_watch_free(c.iterators[1]);
}

/* ----------------------------------------------------------- predicates -- */

enum deed {
    END_WATCH,
    DROP_WATCH,
    DROP_STATE,
    DROP_CONTEXT,
    WAIT_INSIDE,
    NEXT_INSIDE,
    FORK,
    DEEDS
};

enum mode { CALLBACK, ITERATOR, WAIT, MODES };

/* A predicate that does something, at its first or its second look. */
struct doer {
    fixture *f;
    zp_ctx *ctx;
    zp_state *state; /* a handle of its own */
    zp_watch *watch;
    enum deed deed;
    enum mode mode;
    int at, looks, events;
    bool says; /* that it holds, having done it */
    pid_t pid;
};

static void
set_later(void *user)
{
    struct doer *d = user;

    set(d->f->other, "later", 1);
}

static void
do_deed(struct doer *d)
{
    const zp_event *event;
    later l;

    switch (d->deed) {
    case END_WATCH:
        if (d->watch)
            assert_ok(zp_watch_cancel(d->watch));
        break;
    case DROP_WATCH:
        d->watch = zp_watch_free(d->watch);
        break;
    case DROP_STATE:
        d->state = zp_state_free(d->state);
        d->watch = NULL;
        break;
    case DROP_CONTEXT:
        d->ctx = zp_ctx_free(d->ctx);
        d->state = NULL;
        d->watch = NULL;
        break;
    case WAIT_INSIDE:
        do_later(&l, d->ctx, 0, set_later, d);
        assert_ok(zp_get_when_available(d->state, NULL, "later", -1, NULL));
        assert_ok(zp_delete(d->f->other, "later"));
        break;
    case NEXT_INSIDE:
        if (d->mode == ITERATOR)
            assert_return(zp_watch_next(d->watch, &event, -1), -EBUSY);
        break;
    default:
        fflush(NULL);
        d->pid = fork();
        assert_true(d->pid >= 0);
    }
}

static int
do_it(zp_state *snapshot, void *user)
{
    struct doer *d = user;

    (void)snapshot;
    if (d->looks++ == d->at)
        do_deed(d);
    return d->looks > d->at && d->says;
}

static int
on_done(zp_watch *watch, const zp_event *event, void *user)
{
    struct doer *d = user;

    assert_ptr_equal(watch, d->watch);
    assert_int_equal(d->looks, d->at + 1);
    assert_int_equal(int_at(zp_event_snapshot(event), "go"), d->at);
    d->events++;
    return zp_break(d->ctx);
}

static void
change_go(void *user)
{
    struct doer *d = user;

    set(d->f->other, "go", 1);
}

/* What the call that runs the loop returned. */
static int
run_doer(struct doer *d)
{
    const zp_event *event;
    later l = {.ctx = NULL};
    int rc;

    if (d->at)
        do_later(&l, d->ctx, 0.001, change_go, d);
    if (d->mode == WAIT)
        return zp_get_when(d->state, NULL, ZP_KEYS("go"), -1, NULL, do_it, d);
    if (d->mode == ITERATOR) {
        rc = zp_watch_next(d->watch, &event, -1);
        if (rc == 1)
            assert_int_equal(int_at(zp_event_snapshot(event), "go"), d->at);
        return rc == 1 ? 0 : rc;
    }
    return zp_run(d->ctx);
}

/* In the child that a predicate has forked: nothing is its own. */
static void
end_child(const struct doer *d, int rc)
{
    bool good = rc == ZP_EFORK && d->events == 0 &&
                zp_set_int(d->state, "x", 1) == ZP_EFORK;

    if (good) /* not by _exit(): what it inherited cannot be freed */
        kill(getpid(), SIGKILL);
    _exit(1);
}

static int
expected(const struct doer *d)
{
    switch (d->deed) {
    case END_WATCH:
    case DROP_WATCH: /* a wait has no watch that one could end */
        return d->mode == ITERATOR ? -ECANCELED : 0;
    case DROP_STATE:
        if (d->mode == WAIT && d->at == 0 && d->says)
            return 0; /* nothing more is needed */
        return d->mode == CALLBACK ? 0 : -ECANCELED;
    case DROP_CONTEXT:
        return ZP_ECLOSED;
    default:
        return 0;
    }
}

static void
check_doer(struct doer *d, int rc)
{
    bool called = d->mode == CALLBACK && d->deed >= WAIT_INSIDE;
    int status;

    if (rc != expected(d) || d->looks != d->at + 1 || d->events != called)
        fail_msg("deed %d, mode %d, at look %d, says %d: %d (%s), not %d; %d "
                 "looks, %d "
                 "events",
                 d->deed, d->mode, d->at, d->says, rc, zp_strerror(rc),
                 expected(d), d->looks, d->events);
    if (d->deed != FORK)
        return;
    assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void
do_once(fixture *f, enum deed deed, enum mode mode, int at, bool says)
{
    struct doer d = {
        .f = f, .deed = deed, .mode = mode, .at = at, .says = says};
    pid_t self = getpid();
    int rc;

    set(f->other, "go", 0);
    assert_ok(zp_ctx_attach(&d.ctx, zp_ctx_address(f->ctx), NULL));
    assert_ok(zp_state_clone(zp_ctx_state(d.ctx), &d.state, NULL));
    if (mode != WAIT)
        assert_ok(zp_call_when(d.state, &d.watch, ZP_KEYS("go"), NULL, do_it,
                               mode == CALLBACK ? on_done : NULL, &d));
    rc = run_doer(&d);
    if (getpid() != self)
        end_child(&d, rc);
    check_doer(&d, rc);
    zp_ctx_free(d.ctx); /* with what is left */
}

/* Is that its end, whatever the predicate says? */
static bool
ends(enum deed deed, enum mode mode)
{
    if (deed == DROP_STATE || deed == DROP_CONTEXT)
        return true;
    return mode != WAIT && (deed == END_WATCH || deed == DROP_WATCH);
}

/* Goal: a predicate may do anything, in each mode, at its first look and at a
 * later one. */
static void
test_predicates_that_do(void **state)
{
    for (int i = 0; i < DEEDS * MODES * 2; i++) {
        enum deed deed = (enum deed)(i / (MODES * 2));
        enum mode mode = (enum mode)(i / 2 % MODES);

        if (deed == FORK && zp_test_tsan())
            continue;
        do_once(*state, deed, mode, i % 2, true);
        if (ends(deed, mode))
            do_once(*state, deed, mode, i % 2, false);
    }
}

/* ------------------------------------------------------------ conditions -- */

struct again {
    fixture *f;
    int busy, calls;
};

static int
wait_for_same(zp_watch *watch, const zp_event *event, void *user)
{
    struct again *a = user;
    zp_state *snapshot;

    (void)watch;
    (void)event;
    assert_int_equal(a->busy++, 0);
    a->calls++;
    /* it holds: at once. Then its opposite, which a timer makes true */
    assert_ok(zp_get_when_truthy(a->f->state, &snapshot, "k", -1, NULL));
    zp_state_free(snapshot);
    if (a->calls == 1) {
        set(a->f->other, "k", 2);
        set(a->f->other, "k", 0);
        assert_ok(zp_get_when_falsy(a->f->state, NULL, "k", -1, NULL));
        set(a->f->other, "k", 3);
    }
    a->busy--;
    return a->calls == 3 ? zp_break(a->f->ctx) : 0;
}

/* Goal: a condition's callback that waits for conditions of the same key: not
 * entered again, and called for each time that it held meanwhile. */
static void
test_condition_inside_of_condition(void **state)
{
    fixture *f = *state;
    struct again a = {.f = f};
    zp_watch *watch;

    set(f->other, "k", 1);
    assert_ok(
        zp_call_when_truthy(f->state, &watch, "k", NULL, wait_for_same, &a));
    assert_ok(zp_run(f->ctx));
    assert_int_equal(a.calls, 3); /* the first look, 2 and 3 */
    zp_watch_free(watch);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_all_orders),
        T(test_random_orders),
        T(test_free_watch),
        T(test_cancel_watch),
        T(test_free_state),
        T(test_free_context),
        T(test_callbacks_on_the_stack),
        T(test_wait_inside_of_what_is_waited_for),
        T(test_next_inside_of_next),
        T(test_predicates_that_do),
        T(test_condition_inside_of_condition),
    };
    return zp_test_main("nested_waits", tests, sizeof tests / sizeof *tests,
                        30);
}
