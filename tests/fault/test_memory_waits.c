/*
 * test_memory_waits.c - out of memory while something waits: conditions as
 * callbacks, waits and iterators. A failure is told once, and what had happened
 * comes all the same: no event is lost by it, and none comes twice.
 */
#include "tests/api/waiting.h"
#include "tests/fault/no_memory.h"

#define LONG 10 /* seconds: it is lost */

static zp_ctx *owner;

/* What a scenario works with: a context of its own. */
typedef struct desk {
    zp_ctx *ctx;
    zp_state *state;
    zp_state *other; /* to write through */
    bool failed;     /* it has been told that there was no memory */
    int calls, looks;
    int64_t last;
} desk;

static int
open_owner(void **state)
{
    (void)state;
    return zp_ctx_new(&owner, NULL);
}

static int
open_short(void **state)
{
    zp_ctx_options options = {.size = sizeof options, .log_revisions = 64};

    (void)state;
    return zp_ctx_new(&owner, &options);
}

static int
close_owner(void **state)
{
    (void)state;
    owner = zp_ctx_free(owner);
    return 0;
}

static int
open_desk(desk *d)
{
    int rc;

    memset(d, 0, sizeof *d);
    rc = zp_ctx_attach(&d->ctx, zp_ctx_address(owner), NULL);
    if (rc < 0)
        return rc;
    d->state = zp_ctx_state(d->ctx);
    rc = zp_state_clone(d->state, &d->other, NULL);
    if (rc < 0)
        zp_ctx_free(d->ctx);
    return rc;
}

static int
close_desk(desk *d, int rc)
{
    zp_ctx_free(d->ctx);
    return rc;
}

/* Is RC the failure that was ordered, told for the first time? */
static bool
is_told(desk *d, int rc)
{
    if (rc != -ENOMEM)
        return false;
    assert_false(d->failed);
    return d->failed = true;
}

static void
no_more(int rc)
{
    (void)rc;
}

static int
put(desk *d, const char *key, int64_t value)
{
    int rc = zp_set_int(d->other, key, value);

    return is_told(d, rc) ? zp_set_int(d->other, key, value) : rc;
}

/* ---------------------------------------------------------------- waits -- */

struct meeting {
    desk *d;
    const waiter *w;
};

static void
meet(void *user)
{
    struct meeting *m = user;
    int rc = m->w->meet(m->d->other);

    if (is_told(m->d, rc))
        rc = m->w->meet(m->d->other);
    assert_wait(m->w, rc, 0);
}

/* One wait, made true from its inside; after a failure once more. */
static int
wait_once(desk *d, const waiter *w, unsigned flags)
{
    uint64_t cursor = 0;
    zp_watch_options options = {
        .size = sizeof options, .cursor = &cursor, .flags = flags};
    struct meeting meeting = {d, w};
    zp_state *snapshot = NULL;
    later l;
    int rc = w->spoil(d->other);

    if (is_told(d, rc))
        rc = w->spoil(d->other);
    if (rc < 0)
        return rc;
    do_later(&l, d->ctx, 0, meet, &meeting);
    rc = w->wait(d->state, &snapshot, LONG, &options);
    if (is_told(d, rc))
        rc = w->wait(d->state, &snapshot, LONG, &options);
    not_later(&l);
    if (rc == 0) {
        assert_true(l.ran);
        assert_int_equal(cursor, head_of(snapshot) + 1);
    }
    zp_state_free(snapshot);
    return rc;
}

static int
waits_with(unsigned flags)
{
    desk d;
    int rc = open_desk(&d);

    if (rc < 0)
        return rc;
    for (size_t i = 0; i < WAITERS && rc == 0; i++)
        if (strncmp(waiters[i].name, "next", 4) != 0)
            rc = wait_once(&d, &waiters[i], flags);
    return close_desk(&d, rc);
}

static int
waits(void)
{
    return waits_with(0);
}

static int
waits_live(void)
{
    return waits_with(ZP_LIVE | ZP_HOLD);
}

/* ------------------------------------------------------------ iterators -- */

static int
write_many(zp_state *txn, void *user)
{
    char key[160];
    int rc = zp_set_int(txn, "k", *(int64_t *)user);

    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "%0150d", i);
        TRY(zp_set_int(txn, key, *(int64_t *)user));
    }
    return rc;
}

static int
change(desk *d, int64_t value)
{
    int rc = zp_atomic(d->other, write_many, &value);

    return is_told(d, rc) ? zp_atomic(d->other, write_many, &value) : rc;
}

static int
next(desk *d, zp_watch *watch, const zp_event **ret)
{
    int rc = zp_watch_next(watch, ret, LONG);

    return is_told(d, rc) ? zp_watch_next(watch, ret, LONG) : rc;
}

/* The next event is of that kind, of N changes, and "k" has that value. */
static int
next_is(desk *d, zp_watch *watch, int kind, size_t n, int64_t value)
{
    const zp_event *event;
    int rc = next(d, watch, &event);

    if (rc < 0)
        return rc;
    assert_int_equal(rc, 1);
    assert_int_equal(zp_event_kind(event), kind);
    assert_int_equal(zp_event_length(event), n);
    if (kind != ZP_OVERRUN)
        assert_int_equal(int_at(zp_event_snapshot(event), "k"), value);
    return 0;
}

static int
iterate(desk *d)
{
    zp_watch_options three = {.size = sizeof three, .count = 3};
    zp_watch *all, *truthy = NULL;
    const zp_event *event;
    int rc = zp_call_when_change(d->state, &all, NULL, 0, &three, NULL, NULL);

    TRY(zp_call_when_truthy(d->state, &truthy, "k", NULL, NULL, NULL));
    TRY(change(d, 2));
    TRY(change(d, 0));
    TRY(change(d, 3));
    TRY(next_is(d, truthy, ZP_FIRST, 0, 1));
    TRY(next_is(d, all, ZP_CHANGED, 41, 2));
    TRY(next_is(d, truthy, ZP_CHANGED, 1, 2));
    TRY(next_is(d, truthy, ZP_CHANGED, 1, 3));
    TRY(next_is(d, all, ZP_CHANGED, 41, 0));
    TRY(next_is(d, all, ZP_CHANGED, 41, 3));
    if (rc == 0)
        assert_int_equal(next(d, all, &event), 0);
    return rc;
}

static int
iterators(void)
{
    desk d;
    int rc = open_desk(&d);

    if (rc < 0)
        return rc;
    rc = zp_set_int(d.other, "k", 1);
    TRY(iterate(&d));
    return close_desk(&d, rc);
}

/* A log of 64 revisions: what was lost is told, and what was not, comes. */
static int
iterate_behind(desk *d)
{
    zp_watch *watch;
    const zp_event *event;
    int rc =
        zp_call_when_change(d->state, &watch, ZP_KEYS("k"), NULL, NULL, NULL);

    for (int i = 1; i <= 100 && rc == 0; i++)
        rc = put(d, "k", i);
    TRY(next_is(d, watch, ZP_OVERRUN, 0, 0));
    for (int64_t value = 0; rc == 0 && value != 100;) {
        rc = next(d, watch, &event);
        if (rc == 1) {
            int64_t now = int_at(zp_event_snapshot(event), "k");

            assert_int_equal(zp_event_kind(event), ZP_CHANGED);
            if (value)
                assert_int_equal(now, value + 1);
            value = now;
            rc = 0;
        }
    }
    return rc;
}

static int
overruns(void)
{
    desk d;
    int rc = open_desk(&d);

    if (rc < 0)
        return rc;
    rc = put(&d, "k", 0);
    TRY(iterate_behind(&d));
    return close_desk(&d, rc);
}

/* ------------------------------------------------------------- callbacks -- */

#define EVENTS 8 /* of the two watches below */

static int
count(zp_watch *watch, const zp_event *event, void *user)
{
    desk *d = user;

    (void)watch;
    (void)event;
    return ++d->calls == EVENTS ? zp_break(d->ctx) : 0;
}

static int
is_odd(zp_state *snapshot, void *user)
{
    desk *d = user;
    int64_t value;
    int rc = zp_get_int(snapshot, "k", &value);

    d->looks++;
    return rc < 0 ? rc : value % 2 != 0;
}

static void
give_up(void *user)
{
    fail_msg("%d of %d events came", ((desk *)user)->calls, EVENTS);
}

static int
run(desk *d)
{
    later l;
    int rc;

    do_later(&l, d->ctx, LONG * zp_test_slow(), give_up, d);
    rc = zp_run(d->ctx);
    if (is_told(d, rc))
        rc = d->calls < EVENTS ? zp_run(d->ctx) : 0;
    not_later(&l);
    return rc;
}

static int
call(desk *d)
{
    zp_watch_options timed = {.size = sizeof timed, .timeout = 1000};
    zp_watch *watch = NULL;
    int rc =
        zp_call_when_equal(d->state, &watch, "k", &timed, count, d, ZP_I(1));

    TRY(zp_call_when(d->state, NULL, ZP_KEYS("k", "j"), NULL, is_odd, count,
                     d));
    /* both at the first look and at the last 1; the other at 3, 5, 7 and 9 */
    for (int i = 2; i <= 5 && rc == 0; i++) {
        rc = put(d, "k", 2 * i - 1);
        TRY(put(d, "k", 2 * i));
    }
    TRY(put(d, "k", 1));
    TRY(run(d));
    if (rc == 0)
        assert_int_equal(d->calls, EVENTS);
    return rc;
}

static int
callbacks(void)
{
    desk d;
    int rc = open_desk(&d);

    if (rc < 0)
        return rc;
    rc = put(&d, "k", 1);
    TRY(call(&d));
    return close_desk(&d, rc);
}

/* ---------------------------------------------------------------- nested -- */

static int
wait_inside(zp_watch *watch, const zp_event *event, void *user)
{
    desk *d = user;
    int rc = put(d, "j", zp_event_revision(event) % 1000 + 5);

    (void)watch;
    if (rc == 0)
        rc = put(d, "k", 7);
    if (rc < 0)
        return rc;
    d->calls++;
    rc = zp_get_when_not_equal(d->state, NULL, "j", LONG, NULL, ZP_I(0));
    if (is_told(d, rc))
        rc = zp_get_when_not_equal(d->state, NULL, "j", LONG, NULL, ZP_I(0));
    return rc;
}

/* A callback that waits, in a wait that is met inside of it. */
static int
nested(void)
{
    uint64_t cursor = 0;
    zp_watch_options options = {.size = sizeof options, .cursor = &cursor};
    desk d;
    int rc = open_desk(&d);

    if (rc < 0)
        return rc;
    rc = put(&d, "k", 0);
    TRY(put(&d, "j", 0));
    TRY(zp_call_when_change(d.state, NULL, ZP_KEYS("go"), NULL, wait_inside,
                            &d));
    TRY(put(&d, "go", (int64_t)head_of(d.other)));
    if (rc == 0) {
        rc = zp_get_when_equal(d.state, NULL, "k", LONG, &options, ZP_I(7));
        if (is_told(&d, rc))
            rc = zp_get_when_equal(d.state, NULL, "k", LONG, &options, ZP_I(7));
    }
    if (rc == 0)
        assert_int_equal(d.calls, 1);
    return close_desk(&d, rc);
}

/* ----------------------------------------------------------------- tests -- */

static void
test_waits(void **state)
{
    (void)state;
    with_failures(waits, no_more);
}

static void
test_live_waits(void **state)
{
    (void)state;
    with_failures(waits_live, no_more);
}

static void
test_iterators(void **state)
{
    (void)state;
    with_failures(iterators, no_more);
}

static void
test_overruns(void **state)
{
    (void)state;
    with_failures(overruns, no_more);
}

static void
test_callbacks(void **state)
{
    (void)state;
    with_failures(callbacks, no_more);
}

static void
test_nested(void **state)
{
    (void)state;
    with_failures(nested, no_more);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_waits, open_owner, close_owner),
        ZP_TEST_WITH(test_live_waits, open_owner, close_owner),
        ZP_TEST_WITH(test_iterators, open_owner, close_owner),
        ZP_TEST_WITH(test_overruns, open_short, close_owner),
        ZP_TEST_WITH(test_callbacks, open_owner, close_owner),
        ZP_TEST_WITH(test_nested, open_owner, close_owner),
    };
    no_memory_init();
    return zp_test_main("memory_waits", tests, sizeof tests / sizeof *tests,
                        60);
}
