/*
 * test_leases.c - keys that go by themselves: with their process, after a
 * time, or when somebody else writes them; what leaves a lease alone, and what
 * ends it; and that it is all an ordinary change when it comes to that.
 *
 * Nothing here waits for a time to pass but for a key to go.
 */
#include <math.h>
#include <signal.h>

#include "tests/api/waiting.h"

#define LONG 1000.0 /* seconds: not in this test */

static zp_lease
lease_of(zp_state *state, const char *key)
{
    zp_lease lease = {.size = sizeof lease};

    assert_ok(zp_get_lease(state, key, &lease));
    return lease;
}

#define assert_lease(state, key, pid_, low, high)                              \
    do {                                                                       \
        zp_lease lease_ = lease_of(state, key);                                \
        assert_int_equal(lease_.pid, pid_);                                    \
        if (!(lease_.ttl >= (low) && lease_.ttl <= (high)))                    \
            fail_msg("ttl %g", lease_.ttl);                                    \
    } while (0)
#define assert_ordinary(state, key) assert_lease(state, key, 0, -1, -1)
#define assert_bound(state, key) assert_lease(state, key, getpid(), -1, -1)
#define assert_timed(state, key) assert_lease(state, key, 0, LONG - 200, LONG)

static const zp_set_options bound = {.size = sizeof bound, .flags = ZP_BOUND};
static const zp_set_options timed = {.size = sizeof timed, .ttl = LONG};
static const zp_set_options brief = {.size = sizeof brief, .ttl = 0.001};

static void
set_with(zp_state *state, const char *key, const zp_set_options *options,
         int64_t value)
{
    assert_ok(zp_set_with(state, key, options, ZP_I(value)));
}

/* The key is gone, or will be. */
static void
goes(zp_state *state, const char *key)
{
    bool gone = false;
    double end = zp_test_now() + 20 * zp_test_slow();

    while (!gone && zp_test_now() < end)
        gone = zp_get_when_change(state, NULL, &key, 1, 0.05, NULL) == 0
                   ? zp_contains(state, key) == 0
                   : zp_contains(state, key) == 0;
    if (!gone)
        fail_msg("'%s' stays", key);
}

/* ---- what is told ---- */

/* Goal: each kind of lease is told as it was set; without one it is an ordinary
 * key. */
static void
test_kinds(void **state)
{
    fixture *f = *state;
    zp_value *value;
    zp_set_options both = {.size = sizeof both, .flags = ZP_BOUND, .ttl = LONG};
    zp_set_options neither = {.size = sizeof neither};

    set(f->state, "plain", 1);
    assert_ordinary(f->state, "plain");
    set_with(f->state, "null", NULL, 1);
    assert_ordinary(f->state, "null");
    set_with(f->state, "neither", &neither, 1);
    assert_ordinary(f->state, "neither");
    set_with(f->state, "bound", &bound, 1);
    assert_bound(f->state, "bound");
    set_with(f->state, "timed", &timed, 1);
    assert_timed(f->state, "timed");
    assert_ok(zp_value_new(&value, ZP_S("text")));
    assert_ok(zp_set_value_with(f->state, "both", &both, value));
    zp_value_free(value);
    assert_lease(f->state, "both", getpid(), LONG - 200, LONG);
    assert_ok(zp_set_with(f->state, "macro",
                          ZP_WITH(.flags = ZP_BOUND, .ttl = LONG), ZP_I(1)));
    assert_lease(f->other, "macro", getpid(), LONG - 200, LONG);
    assert_int_equal(int_at(f->other, "timed"), 1);
}

/* Goal: every wrong argument is -EINVAL, and has done nothing. */
static void
test_arguments(void **state)
{
    fixture *f = *state;
    const double bad[] = {-1, -0.001, NAN, INFINITY, -INFINITY, 1.1e9};
    const double bad_renewals[] = {0, -0.0, NAN, INFINITY, 1.1e9};
    struct {
        zp_set_options options;
        char later;
    } newer = {.options = {.size = sizeof newer, .ttl = LONG}};
    zp_lease lease = {.size = 0};
    zp_value *value;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        zp_set_options options = {.size = sizeof options, .ttl = bad[i]};

        assert_return(zp_set_with(f->state, "k", &options, ZP_I(1)), -EINVAL);
    }
    assert_return(zp_set_with(f->state, "k",
                              ZP_WITH(.flags = ZP_BOUND | 1u << 7), ZP_I(1)),
                  -EINVAL);
    assert_return(
        zp_set_with(f->state, "k", &(zp_set_options){.size = 0}, ZP_I(1)),
        -EINVAL);
    assert_return(zp_set_with(f->state, NULL, &bound, ZP_I(1)), -EINVAL);
    assert_return(zp_set_with(f->state, "", &bound, ZP_I(1)), -EINVAL);
    assert_return(zp_set_with(NULL, "k", &bound, ZP_I(1)), -EINVAL);
    assert_return(zp_set_with(f->state, "k", &bound, NULL), -EINVAL);
    assert_return(zp_set_with(f->state, "k", &bound, "?"), ZP_EFORMAT);
    assert_return(zp_set_value_with(f->state, "k", &bound, NULL), -EINVAL);
    assert_int_equal(zp_contains(f->state, "k"), 0);
    assert_int_equal(head_of(f->state), 0);

    /* of a version that knows more, and asks for none of it, or for some */
    assert_ok(zp_set_with(f->state, "k", &newer.options, ZP_I(1)));
    assert_timed(f->state, "k");
    newer.later = 1;
    assert_return(zp_set_with(f->state, "k", &newer.options, ZP_I(1)), -EINVAL);
    assert_ok(zp_value_new(&value, ZP_I(1)));
    assert_return(zp_set_value_with(f->state, "k", &newer.options, value),
                  -EINVAL);
    zp_value_free(value);

    for (size_t i = 0; i < sizeof bad_renewals / sizeof *bad_renewals; i++)
        assert_return(zp_renew(f->state, "k", bad_renewals[i]), -EINVAL);
    assert_return(zp_renew(f->state, NULL, 1), -EINVAL);
    assert_return(zp_renew(NULL, "k", 1), -EINVAL);
    assert_return(zp_renew(f->state, "none", 1), ZP_ENOKEY);
    assert_return(zp_renew(f->state, "none", -1), ZP_ENOKEY);
    assert_timed(f->state, "k");

    assert_return(zp_get_lease(f->state, "k", &lease), -EINVAL);
    assert_return(zp_get_lease(f->state, "k", NULL), -EINVAL);
    lease.size = sizeof lease;
    assert_return(zp_get_lease(f->state, NULL, &lease), -EINVAL);
    assert_return(zp_get_lease(NULL, "k", &lease), -EINVAL);
    assert_return(zp_get_lease(f->state, "none", &lease), ZP_ENOKEY);
    assert_non_null(strstr(zp_ctx_error(f->ctx), "none"));
}

/* Goal: a snapshot is not written, and has no leases; it shows the key for as
 * long as it is kept. */
static void
test_snapshots(void **state)
{
    fixture *f = *state;
    zp_lease lease = {.size = sizeof lease};
    zp_state *past;

    set_with(f->state, "k", &brief, 7);
    assert_ok(zp_at(f->state, &past, 1));
    assert_return(zp_set_with(past, "k", &bound, ZP_I(1)), -EROFS);
    assert_return(zp_renew(past, "k", 1), -EROFS);
    assert_return(zp_get_lease(past, "k", &lease), -EINVAL);
    assert_non_null(strstr(zp_ctx_error(f->ctx), "snapshot"));
    goes(f->state, "k");
    assert_int_equal(int_at(past, "k"), 7);
    zp_state_free(past);
}

/* ---- what ends a lease, and what does not ---- */

static void
put_plain(zp_state *state)
{
    set(state, "k", 6);
}

static void
put_equal(zp_state *state)
{
    set(state, "k", 5);
}

static void
put_value(zp_state *state)
{
    zp_value *value;

    assert_ok(zp_value_new(&value, ZP_I(5)));
    assert_ok(zp_set_value(state, "k", value));
    zp_value_free(value);
}

static void
update_it(zp_state *state)
{
    zp_pair pair = {"k", NULL};
    zp_value *value;

    assert_ok(zp_value_new(&value, ZP_I(5)));
    pair.value = value;
    assert_ok(zp_update(state, &pair, 1));
    zp_value_free(value);
}

static void
delete_and_set(zp_state *state)
{
    assert_ok(zp_delete(state, "k"));
    set(state, "k", 5);
}

static void
pop_and_set(zp_state *state)
{
    int64_t value;

    assert_ok(zp_pop(state, "k", "I", &value));
    assert_return(zp_setdefault(state, "k", ZP_I(5)), 1);
}

static void
popitem_and_set(zp_state *state)
{
    zp_value *value;
    char *key;

    assert_ok(zp_popitem(state, &key, &value));
    free(key);
    zp_value_free(value);
    set(state, "k", 5);
}

static void
clear_and_set(zp_state *state)
{
    assert_ok(zp_clear(state));
    set(state, "k", 5);
}

/* By a namespace that has the same, or another, value at "k". */
static void
with_other(zp_state *state, int64_t value,
           int (*fn)(zp_state *state, zp_state *other))
{
    zp_state *other;

    assert_ok(
        zp_state_clone(zp_ctx_state(zp_state_ctx(state)), &other, "other"));
    if (int_at(other, "k") != value && zp_state_ctx(state))
        set(other, "k", value);
    assert_ok(fn(state, other));
    zp_state_free(other);
}

static void
replace_equal(zp_state *state)
{
    with_other(state, 5, zp_replace);
}

static void
replace_other(zp_state *state)
{
    with_other(state, 9, zp_replace);
}

static void
update_equal(zp_state *state)
{
    with_other(state, 5, zp_update_from);
}

static void
add(zp_state *state)
{
    int64_t sum;

    assert_ok(zp_increase(state, "k", &sum, 2));
    assert_ok(zp_decrease(state, "k", &sum, 2));
}

static void
add_double(zp_state *state)
{
    double sum;

    assert_ok(zp_increase_double(state, "d", &sum, 0.5));
}

static void
append(zp_state *state)
{
    assert_ok(zp_append(state, "s", ZP_S("b")));
}

static void
look_at(zp_state *state)
{
    int64_t value;

    assert_ok(zp_get_int(state, "k", &value));
    assert_return(zp_setdefault(state, "k", "I", &value), 0);
    assert_return(zp_contains(state, "k"), 1);
}

static void
touch_another(zp_state *state)
{
    set(state, "kk", 1);
    assert_ok(zp_delete(state, "kk"));
}

static void
fail_to_put(zp_state *state)
{
    char *large = calloc(1, (1 << 20) + 1);

    assert_return(zp_set_bytes(state, "k", large, (1 << 20) + 1), -EMSGSIZE);
    assert_return(zp_increase(state, "s", NULL, 1), ZP_ETYPE);
    free(large);
}

static const struct {
    const char *name;
    void (*write)(zp_state *state);
    bool keeps;
} writes[] = {
    {"set", put_plain, false},
    {"set equal", put_equal, false},
    {"set_value", put_value, false},
    {"update", update_it, false},
    {"delete, set", delete_and_set, false},
    {"pop, setdefault", pop_and_set, false},
    {"popitem, set", popitem_and_set, false},
    {"clear, set", clear_and_set, false},
    {"replace by an equal one", replace_equal, false},
    {"replace", replace_other, false},
    {"update from an equal one", update_equal, false},
    {"increase", add, true},
    {"increase_double", add_double, true},
    {"append", append, true},
    {"reads", look_at, true},
    {"another key", touch_another, true},
    {"what fails", fail_to_put, true},
};

/* "k" is the last one created. */
static void
lease_all(zp_state *state, const zp_set_options *options)
{
    const char *text = "a";
    double number = 1;

    assert_ok(zp_clear(state));
    assert_ok(zp_set_with(state, "d", options, "f", &number));
    assert_ok(zp_set_with(state, "s", options, "s", &text));
    set_with(state, "k", options, 5);
}

/* Goal: each way to write ends the lease, but for those that add; no other
 * call does. */
static void
test_writes(void **state)
{
    fixture *f = *state;

    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
        print_message("# %s\n", writes[i].name);
        lease_all(f->state, &bound);
        writes[i].write(f->state);
        if (!writes[i].keeps) {
            assert_ordinary(f->state, "k");
            continue;
        }
        assert_bound(f->state, "k");
        assert_bound(f->state, "d");
        assert_bound(f->state, "s");
    }
}

typedef struct in_txn {
    void (*write)(zp_state *state);
    bool keeps, fail;
} in_txn;

static int
write_inside(zp_state *txn, void *user)
{
    const in_txn *w = user;

    lease_all(txn, &timed);
    assert_timed(txn, "k");
    w->write(txn);
    if (w->keeps)
        assert_timed(txn, "k");
    else
        assert_ordinary(txn, "k");
    return w->fail ? -EDOM : 0;
}

static int
write_nested(zp_state *txn, void *user)
{
    assert_return(zp_atomic(txn, write_inside, user), -EDOM);
    return 0;
}

/* Goal: the same in a transaction, in one that is rolled back, and in a nested
 * one that is: then the lease is what it was. */
static void
test_writes_in_txn(void **state)
{
    fixture *f = *state;
    zp_state *other;

    assert_ok(zp_state_clone(f->state, &other, "other"));
    for (size_t i = 0; i < sizeof writes / sizeof *writes; i++) {
        in_txn w = {writes[i].write, writes[i].keeps, false};
        uint64_t before;

        /* with_other() may not write in a transaction: it is there already */
        set(other, "k", writes[i].write == replace_other ? 9 : 5);
        print_message("# %s\n", writes[i].name);
        assert_ok(zp_atomic(f->state, write_inside, &w));
        if (w.keeps)
            assert_timed(f->other, "k");
        else
            assert_ordinary(f->other, "k");
        w.fail = true;
        lease_all(f->state, &bound);
        before = head_of(f->state);
        assert_return(zp_atomic(f->state, write_inside, &w), -EDOM);
        assert_bound(f->state, "k");
        assert_ok(zp_atomic(f->state, write_nested, &w));
        assert_bound(f->state, "k");
        assert_int_equal(head_of(f->state), before);
        assert_ok(zp_clear(f->state));
        set(f->state, "k", 1);
        assert_ok(zp_atomic(f->state, write_nested, &w));
        assert_ordinary(f->state, "k");
    }
    zp_state_free(other);
}

/* ---- renewing ---- */

/* Goal: no revision, no event, no change of the value; also on an ordinary key;
 * a negative time takes it away, the process stays. */
static void
test_renew(void **state)
{
    fixture *f = *state;
    uint64_t head;

    set(f->state, "k", 1);
    head = head_of(f->state);
    assert_ok(zp_renew(f->state, "k", -1));
    assert_ordinary(f->state, "k");
    assert_ok(zp_renew(f->state, "k", LONG));
    assert_timed(f->state, "k");
    assert_ok(zp_renew(f->other, "k", 2 * LONG));
    assert_lease(f->state, "k", 0, 2 * LONG - 200, 2 * LONG);
    assert_ok(zp_renew(f->state, "k", -1));
    assert_ordinary(f->state, "k");
    assert_int_equal(head_of(f->state), head);

    set_with(f->state, "b", &bound, 2);
    head = head_of(f->state);
    assert_ok(zp_renew(f->state, "b", LONG));
    assert_lease(f->state, "b", getpid(), LONG - 200, LONG);
    assert_ok(zp_renew(f->state, "b", -2));
    assert_bound(f->state, "b");
    assert_int_equal(head_of(f->state), head);
    assert_int_equal(int_at(f->state, "b"), 2);
    set(f->state, "k", 1); /* the log is whole */
    assert_int_equal(head_of(f->state), head + 1);
}

static int
renew_inside(zp_state *txn, void *user)
{
    assert_ok(zp_renew(txn, "k", LONG));
    assert_timed(txn, "k");
    return *(int *)user;
}

static int
renew_nested(zp_state *txn, void *user)
{
    zp_iter *iter;
    const char *key;
    int rc;

    assert_ok(zp_iter_new(txn, &iter));
    assert_return(zp_iter_next(iter, &key, NULL), 1);
    rc = zp_atomic(txn, renew_inside, user);
    assert_return(zp_iter_next(iter, &key, NULL), 1); /* nothing was written */
    assert_string_equal(key, "z");
    zp_iter_free(iter);
    return rc == -EDOM ? 0 : rc;
}

static int
touch_then_renew(zp_state *txn, void *user)
{
    in_txn w = {put_plain, false, true};

    assert_return(zp_atomic(txn, write_inside, &w), -EDOM);
    return renew_inside(txn, user);
}

static int
renew_then_set(zp_state *txn, void *user)
{
    renew_inside(txn, user);
    set(txn, "k", 8);
    assert_ordinary(txn, "k");
    return renew_inside(txn, user);
}

/* Goal: in transactions: alone, nested, rolled back, before and after writes of
 * the same key. */
static void
test_renew_in_txn(void **state)
{
    fixture *f = *state;
    int rc = 0;
    uint64_t head;

    set(f->state, "k", 1);
    set(f->state, "z", 1);
    head = head_of(f->state);
    assert_ok(zp_atomic(f->state, renew_inside, &rc));
    assert_timed(f->state, "k");
    assert_ok(zp_renew(f->state, "k", -1));
    rc = -EDOM;
    assert_return(zp_atomic(f->state, renew_inside, &rc), -EDOM);
    assert_ordinary(f->state, "k");
    assert_ok(zp_atomic(f->state, renew_nested, &rc));
    assert_ordinary(f->state, "k");
    rc = 0;
    assert_ok(zp_atomic(f->state, renew_nested, &rc));
    assert_timed(f->state, "k");
    assert_int_equal(head_of(f->state), head);

    /* touched, and rolled back: no change, whatever its lease is now */
    assert_ok(zp_renew(f->state, "k", -1));
    assert_ok(zp_atomic(f->state, touch_then_renew, &rc));
    assert_timed(f->state, "k");
    assert_int_equal(head_of(f->state), head);
    assert_int_equal(int_at(f->state, "k"), 1);

    assert_ok(zp_renew(f->state, "k", -1));
    assert_ok(zp_atomic(f->state, renew_then_set, &rc));
    assert_timed(f->state, "k");
    assert_int_equal(head_of(f->state), head + 1);
    assert_int_equal(int_at(f->state, "k"), 8);
}

/* Goal: what is renewed stays beyond its first time, what is not goes; a time
 * given to an ordinary key is one. */
static void
test_renewed_stays(void **state)
{
    fixture *f = *state;

    for (int i = 0; i < 20; i++) {
        set_with(f->state, "first", ZP_WITH(.ttl = 0.05), 1);
        set_with(f->state, "k", ZP_WITH(.ttl = 0.05), 1);
        if (zp_renew(f->state, "k", LONG) == ZP_ENOKEY)
            continue; /* a slow machine */
        goes(f->state, "first");
        assert_timed(f->state, "k");
        assert_int_equal(int_at(f->state, "k"), 1);
        assert_ok(zp_renew(f->state, "k", 0.001));
        goes(f->state, "k");
        set(f->state, "o", 1);
        assert_ok(zp_renew(f->state, "o", 0.001));
        goes(f->state, "o");
        return;
    }
    fail_msg("no renewal in time");
}

/* ---- going ---- */

/* Goal: it goes as by a delete: a revision, an event with the value before, by
 * the server; the watch of the setting handle sees it, too; the history and the
 * number of keys know of it. */
static void
test_event(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx};
    zp_history *history;
    zp_history_entry entry;
    zp_watch *watch;
    uint64_t n;

    assert_ok(
        zp_call_when_change(f->state, &watch, ZP_KEYS("k"), NULL, record, &r));
    set_with(f->state, "k", &brief, 7);
    run_until(&r, 1);
    assert_int_equal(r.events[0].kind, ZP_CHANGED);
    assert_int_equal(r.events[0].flags[0], ZP_DELETED);
    assert_int_equal(r.events[0].writer, server_of(f->ctx));
    assert_int_equal(r.events[0].before, 7);
    assert_int_equal(r.events[0].value, ABSENT);
    assert_int_equal(r.events[0].revision, 2);
    assert_int_equal(head_of(f->state), 2);
    assert_ok(zp_length(f->state, &n));
    assert_int_equal(n, 0);
    assert_ok(zp_history_new(f->state, &history, "k"));
    assert_return(zp_history_next(history, &entry, NULL), 1);
    assert_int_equal(entry.flags, ZP_DELETED);
    assert_int_equal(entry.writer, server_of(f->ctx));
    assert_return(zp_history_next(history, &entry, NULL), 1);
    assert_int_equal(entry.writer, getpid());
    zp_history_free(history);
    set(f->other, "k", 1); /* it is a key like any other again */
    run_until(&r, 2);
    assert_int_equal(r.events[1].flags[0], ZP_CREATED);
    assert_ordinary(f->state, "k");
    zp_watch_free(watch);
    forget(&r);
}

static int
set_both_times(zp_state *txn, void *user)
{
    (void)user;
    for (int i = 0; i < 300; i++) {
        char key[16];

        snprintf(key, sizeof key, "t%d", i);
        set_with(txn, key, &brief, i);
    }
    set_with(txn, "stays", &timed, 1);
    set_with(txn, "rolled", &timed, 1);
    set(txn, "rolled", 2);
    return 0;
}

/* Goal: many at once, in several namespaces, with large values: all of them and
 * nothing else. */
static void
test_many(void **state)
{
    fixture *f = *state;
    zp_state *elsewhere;
    char *large = calloc(1, 10000);
    zp_value *value;
    uint64_t n = 0;
    double end = zp_test_now() + 20 * zp_test_slow();

    set(f->state, "t", 1);
    assert_ok(zp_state_clone(f->state, &elsewhere, "elsewhere"));
    assert_ok(zp_atomic(f->state, set_both_times, NULL));
    assert_ok(zp_atomic(elsewhere, set_both_times, NULL));
    assert_ok(zp_set_bytes(f->state, "large", large, 10000));
    assert_ok(zp_get_value(f->state, "large", &value));
    assert_ok(zp_set_value_with(f->state, "large", &brief, value));
    zp_value_free(value);
    goes(f->state, "large");
    while (n != 3 && zp_test_now() < end)
        assert_ok(zp_length(f->state, &n));
    assert_int_equal(n, 3);
    assert_int_equal(int_at(f->state, "t"), 1);
    assert_timed(f->state, "stays");
    assert_int_equal(int_at(f->state, "rolled"), 2);
    assert_ordinary(f->state, "rolled");
    do
        assert_ok(zp_length(elsewhere, &n));
    while (n != 2 && zp_test_now() < end);
    assert_int_equal(n, 2);
    zp_state_free(elsewhere);
    free(large);
}

/* Goal: what waits sees it go: until it is there no more, or again. */
static int
set_again(zp_watch *watch, const zp_event *event, void *user)
{
    zp_change change;

    (void)watch;
    assert_ok(zp_event_change(event, &change, 0));
    if (change.flags & ZP_DELETED)
        set(user, "k", 2);
    return 0;
}

static int
is_absent(zp_state *snapshot, void *user)
{
    (void)user;
    return zp_contains(snapshot, "k") == 0;
}

static void
test_waits(void **state)
{
    fixture *f = *state;
    zp_state *then;
    zp_watch *watch;

    set_with(f->state, "k", &brief, 1);
    assert_ok(zp_get_when(f->state, &then, ZP_KEYS("k"), 20 * zp_test_slow(),
                          NULL, is_absent, NULL));
    assert_int_equal(zp_contains(then, "k"), 0);
    zp_state_free(then);
    assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("k"), NULL,
                                  set_again, f->other));
    set_with(f->other, "k", &brief, 1);
    assert_ok(zp_get_when_equal(f->state, NULL, "k", 20 * zp_test_slow(), NULL,
                                ZP_I(2)));
    zp_watch_free(watch);
}

/* ---- processes ---- */

static int
bind_and_end(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    (void)arg;
    assert_ok(zp_set_with(state, "child", ZP_WITH(.flags = ZP_BOUND), "s",
                          &(const char *){"I live"}));
    assert_bound(state, "child");
    return zp_set_int(state, "ready", getpid());
}

static int
bind_and_stay(zp_ctx *ctx, void *arg)
{
    int rc = bind_and_end(ctx, arg);

    return rc < 0 ? rc
                  : zp_get_when_available(zp_ctx_state(ctx), NULL, "end", -1,
                                          NULL);
}

/* Goal: bound to the child that set it, not to its parent, nor to the context;
 * a key of one that lives stays, and is told with its pid. */
static void
test_child(void **state)
{
    fixture *f = *state;
    zp_proc *proc;

    set_with(f->state, "mine", &bound, 1);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, bind_and_stay, NULL));
    assert_ok(zp_get_when_available(f->state, NULL, "ready",
                                    20 * zp_test_slow(), NULL));
    assert_lease(f->state, "child", zp_proc_pid(proc), -1, -1);
    set(f->state, "end", 1);
    assert_ok(zp_wait(proc, NULL, 20 * zp_test_slow()));
    goes(f->state, "child");
    assert_bound(f->state, "mine");

    /* one that is killed; told as over from then on, whenever it goes */
    assert_ok(zp_delete(f->state, "end"));
    assert_ok(zp_delete(f->state, "ready"));
    assert_ok(zp_spawn(f->ctx, &proc, NULL, bind_and_stay, NULL));
    assert_ok(zp_get_when_available(f->state, NULL, "ready",
                                    20 * zp_test_slow(), NULL));
    kill(zp_proc_pid(proc), SIGKILL);
    assert_return(zp_wait(proc, NULL, 20 * zp_test_slow()), ZP_EFAILED);
    zp_lease lease = {.size = sizeof lease};
    if (zp_get_lease(f->state, "child", &lease) == 0)
        assert_true(lease.ttl == 0);
    goes(f->state, "child");
}

static int
take_over(zp_ctx *ctx, void *arg)
{
    (void)arg;
    set_with(zp_ctx_state(ctx), "k", &bound, 2);
    return zp_renew(zp_ctx_state(ctx), "mine", LONG);
}

/* Goal: the last who sets it holds it; renewing does not take it. */
static void
test_taken_over(void **state)
{
    fixture *f = *state;
    zp_proc *proc;

    set_with(f->state, "mine", &bound, 1);
    set_with(f->state, "k", &bound, 1);
    assert_ok(zp_spawn(f->ctx, &proc, NULL, take_over, NULL));
    assert_ok(zp_wait(proc, NULL, 20 * zp_test_slow()));
    goes(f->state, "k");
    assert_lease(f->state, "mine", getpid(), LONG - 200, LONG);

    /* and the other way */
    assert_ok(zp_spawn(f->ctx, &proc, NULL, bind_and_stay, NULL));
    assert_ok(zp_get_when_available(f->state, NULL, "ready",
                                    20 * zp_test_slow(), NULL));
    set_with(f->state, "child", &bound, 1);
    set(f->state, "end", 1);
    assert_ok(zp_wait(proc, NULL, 20 * zp_test_slow()));
    set_with(f->state, "mark", &brief, 1);
    goes(f->state, "mark"); /* the server has looked */
    assert_bound(f->state, "child");
}

/* Goal: freeing the context, and making another, ends nothing: it is the
 * process that holds. */
static void
test_context_ends(void **state)
{
    fixture *f = *state;
    zp_ctx *mine;

    assert_ok(zp_ctx_attach(&mine, zp_ctx_address(f->ctx), NULL));
    set_with(zp_ctx_state(mine), "k", &bound, 1);
    zp_ctx_free(mine);
    set_with(f->state, "mark", &brief, 1);
    goes(f->state, "mark");
    assert_bound(f->state, "k");
}

static int
stand(zp_state *txn, void *user)
{
    if (zp_contains(txn, "leader"))
        return 0;
    *(bool *)user = true;
    return zp_set_with(txn, "leader", ZP_WITH(.flags = ZP_BOUND), "i",
                       &(int){getpid()});
}

static int
has_no_leader(zp_state *snapshot, void *user)
{
    (void)user;
    return !zp_contains(snapshot, "leader");
}

static int
candidate(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);
    bool leads = false;
    int rc = 0;

    (void)arg;
    while (rc >= 0 && !leads) {
        rc = zp_atomic(state, stand, &leads);
        if (rc >= 0 && !leads)
            rc = zp_get_when(state, NULL, ZP_KEYS("leader"), -1, NULL,
                             has_no_leader, NULL);
    }
    return rc < 0 ? rc : zp_increase(state, "terms", NULL, 1);
}

/* Goal: the election: each leads once, one after the other. */
static void
test_election(void **state)
{
    fixture *f = *state;
    zp_proc *procs[5];

    set(f->state, "terms", 0);
    for (int i = 0; i < 5; i++)
        assert_ok(zp_spawn(f->ctx, &procs[i], NULL, candidate, NULL));
    for (int i = 0; i < 5; i++)
        assert_ok(zp_wait(procs[i], NULL, 20 * zp_test_slow()));
    assert_int_equal(int_at(f->state, "terms"), 5);
    goes(f->state, "leader");
}

/* ---- iteration, durable ---- */

/* Goal: iterators, comparisons and copies see leased keys as any others; copies
 * are ordinary. */
static void
test_as_any(void **state)
{
    fixture *f = *state;
    zp_state *copy;
    zp_iter *iter;
    const char *key;
    const zp_value *value;

    set_with(f->state, "a", &bound, 1);
    set(f->state, "b", 2);
    set_with(f->state, "c", &timed, 3);
    assert_ok(zp_iter_new(f->state, &iter));
    for (const char *want = "abc"; *want; want++) {
        assert_return(zp_iter_next(iter, &key, &value), 1);
        assert_int_equal(key[0], *want);
        assert_int_equal(zp_value_type(value), ZP_INT);
    }
    assert_return(zp_iter_next(iter, &key, &value), 0);
    zp_iter_free(iter);
    assert_ok(zp_state_clone(f->state, &copy, "copy"));
    assert_ok(zp_update_from(copy, f->state));
    assert_return(zp_equal(copy, f->state), 1);
    assert_ordinary(copy, "a");
    assert_ordinary(copy, "c");
    assert_bound(f->state, "a");
    zp_state_free(copy);
}

/* Goal: a durable state that is opened again, on the same boot: what is bound
 * to one that still lives stays, times go on, what is over goes. */
static int
hold_durable(void *user)
{
    zp_ctx_options options = {.size = sizeof options, .path = user};
    zp_ctx *ctx;

    assert_ok(zp_ctx_new(&ctx, &options));
    set_with(zp_ctx_state(ctx), "dead", &bound, 1);
    set_with(zp_ctx_state(ctx), "long", &timed, 1);
    set_with(zp_ctx_state(ctx), "plain", NULL, 1);
    zp_ctx_free(ctx);
    return 0;
}

static void
test_durable(void **state)
{
    zp_ctx_options options = {.size = sizeof options,
                              .path = zp_test_path("leases")};
    zp_ctx *ctx;

    (void)state;
    assert_int_equal(
        zp_test_wait(zp_test_fork(hold_durable, (void *)options.path), 30), 0);
    assert_ok(zp_ctx_new(&ctx, &options));
    goes(zp_ctx_state(ctx), "dead");
    assert_timed(zp_ctx_state(ctx), "long");
    assert_ordinary(zp_ctx_state(ctx), "plain");
    set_with(zp_ctx_state(ctx), "mine", &bound, 1);
    set_with(zp_ctx_state(ctx), "brief", ZP_WITH(.ttl = 0.5), 1);
    zp_ctx_free(ctx);
    assert_ok(zp_ctx_new(&ctx, &options));
    goes(zp_ctx_state(ctx), "brief");
    assert_bound(zp_ctx_state(ctx), "mine");
    zp_ctx_free(ctx);
}

#define WITH(f) ZP_TEST_WITH(f, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(test_kinds),        WITH(test_arguments),     WITH(test_snapshots),
        WITH(test_writes),       WITH(test_writes_in_txn), WITH(test_renew),
        WITH(test_renew_in_txn), WITH(test_renewed_stays), WITH(test_event),
        WITH(test_many),         WITH(test_waits),         WITH(test_child),
        WITH(test_taken_over),   WITH(test_context_ends),  WITH(test_election),
        WITH(test_as_any),       ZP_TEST(test_durable),
    };
    return zp_test_main("leases", tests, sizeof tests / sizeof *tests, 60);
}
