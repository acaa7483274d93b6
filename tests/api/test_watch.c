/*
 * test_watch.c - zp_call_when_change(): which changes come, what an event
 * shows, which arguments are refused.
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

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
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
    recorder some = {.ctx = f->ctx}, any = some, but = some,
             all_but_none = some;
    zp_watch_options exclude = {.size = sizeof exclude, .flags = ZP_EXCLUDE};

    assert_ok(zp_call_when_change(
        f->state, NULL, ZP_KEYS("c", "a", "c", "a", "a"), NULL, record, &some));
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record, &any));
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
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &here));
    assert_ok(
        zp_call_when_change(watched, NULL, ZP_KEYS("a"), NULL, record, &there));
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
                                  ZP_KEYS("z", "gone", "b", "same", "x"), NULL,
                                  record, &listed));
    assert_ok(zp_call_when_change(f->state, NULL, NULL, 0, NULL, record, &any));
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

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("c"), NULL, record, &r));
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
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
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

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("n"), NULL, record, &r));
    for (int i = 1; i <= BACKLOG; i++) {
        set(f->other, "n", i);
        snprintf(key, sizeof key, "key%d", i);
        if ((i + 1) % 3 == 0)
            set(f->other, key, i);
    }
    run_until(&r, BACKLOG);
    forget(&r);
}

/* ------------------------------------------------------------ arguments -- */

static int
watch_inside(zp_state *txn, void *user)
{
    fixture *f = user;
    recorder r = {0};

    assert_return(zp_call_when_change(txn, NULL, NULL, 0, NULL, record, &r),
                  -EROFS);
    assert_return(
        zp_call_when_change(f->state, NULL, NULL, 0, NULL, record, &r),
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
    assert_return(
        zp_call_when_change(f->state, NULL, NULL, 0, NULL, NULL, NULL),
        -EINVAL);
    assert_return(WATCH(f->state, NULL, 1, NULL, record), -EINVAL);
    assert_return(WATCH(f->state, null_key, 2, NULL, record), -EINVAL);
    assert_return(
        zp_call_when_change(f->state, &watch, ZP_KEYS(""), NULL, record, &r),
        -EINVAL);
    assert_return(zp_call_when_change(f->state, &watch, ZP_KEYS(long_key), NULL,
                                      record, &r),
                  -EINVAL);
    o.flags = 1 << 8;
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
    assert_return(
        zp_call_when_change(in->f->state, NULL, NULL, 0, NULL, record, NULL),
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
        T(test_arguments),
        T(test_after_fork),
    };
    return zp_test_main("watch", tests, sizeof tests / sizeof *tests, 20);
}
