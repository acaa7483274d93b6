/*
 * test_snapshot.c - snapshots that are kept: read, iterated and compared long
 * after retention has passed them; those of events; how many there can be, and
 * who sees that they are there.
 */
#include "tests/api/watching.h"

#define N 40 /* keys that are there */

/* What key I holds at first: small and large values, some of them structures.
 */
static void
put_first(zp_state *state, int i)
{
    char key[16], text[3000];
    int number = i;
    const char *word = "word";

    snprintf(key, sizeof key, "key-%02d", i);
    if (i % 4 == 0) {
        assert_ok(zp_set_int(state, key, i));
    } else if (i % 4 == 1) {
        memset(text, 'a' + i % 26, sizeof text);
        text[sizeof text - 1] = '\0';
        assert_ok(zp_set_string(state, key, text));
    } else if (i % 4 == 2) {
        assert_ok(zp_set(state, key, "is", &number, &word));
    } else {
        assert_ok(zp_set_none(state, key));
    }
}

/* The same keys over and over: other values, deletions, others in between. */
static void
churn(zp_state *state, int n)
{
    char key[16];

    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "key-%02d", i % N);
        if (i % 7 == 3 && zp_contains(state, key) == 1)
            assert_ok(zp_delete(state, key));
        else
            assert_ok(zp_set_int(state, key, 1000 + i));
        snprintf(key, sizeof key, "key-%02d-%d", i % N, i % 3);
        assert_ok(zp_set_int(state, key, i));
    }
}

/* SNAPSHOT has what put_first() put, and nothing else. */
static void
assert_first(zp_state *snapshot)
{
    char key[16];
    const char *found;
    const zp_value *value;
    uint64_t length;
    zp_iter *iter;

    assert_ok(zp_length(snapshot, &length));
    assert_int_equal(length, N);
    assert_ok(zp_iter_new(snapshot, &iter));
    for (int i = 0; i < N; i++) {
        assert_return(zp_iter_next(iter, &found, &value), 1);
        snprintf(key, sizeof key, "key-%02d", i);
        assert_string_equal(found, key);
        zp_value *mine;
        assert_ok(zp_get_value(snapshot, key, &mine));
        assert_return(zp_value_equal(mine, value), 1);
        zp_value_free(mine);
    }
    assert_return(zp_iter_next(iter, NULL, NULL), 0);
    zp_iter_free(iter);
    assert_true(int_at(snapshot, "key-04") == 4);
    assert_return(zp_type(snapshot, "key-03"), ZP_NONE);
    assert_return(zp_contains(snapshot, "key-03-0"), 0);
}

/* ----------------------------------------------------------------- kept -- */

/* Goal: a snapshot stays what it was, whatever happens to the state, and knows
 * when retention has passed it. */
static void
test_kept(void **state)
{
    fixture *f = *state; /* 64 revisions */
    zp_state *kept, *twin, *copy, *clone, *another = NULL;
    uint64_t revision, now;

    for (int i = 0; i < N; i++)
        put_first(f->state, i);
    assert_ok(zp_state_clone(f->state, &copy, "copy"));
    assert_ok(zp_update_from(copy, f->state));
    assert_ok(zp_snapshot(f->state, &kept));
    assert_ok(zp_revision(kept, &revision));
    set(f->state, "key-04", -1);
    assert_ok(zp_snapshot(kept, &twin)); /* the past already, to this one */
    for (int i = 0; i < 20; i++) {
        churn(f->state, i * 20);
        assert_return(zp_equal(kept, twin), 1);
        assert_return(zp_equal(kept, copy), 1);
        assert_return(zp_equal(copy, twin), 1);
        assert_return(zp_equal(kept, f->state), 0);
        assert_return(zp_retained(kept), i < 2);
        assert_return(zp_retained(twin), i < 2);
        assert_first(kept);
        assert_first(twin);
    }
    assert_ok(zp_revision(kept, &now));
    assert_int_equal(now, revision);
    assert_ok(zp_state_clone(kept, &clone, "copy"));
    assert_return(zp_equal(clone, kept), 1);
    assert_return(zp_retained(clone), 0);
    assert_null(zp_state_free(clone));
    assert_return(zp_at(kept, &another, revision), ZP_EGONE);
    assert_return(zp_at(f->state, &another, revision), ZP_EGONE);
    assert_null(another);
    assert_return(zp_set_int(kept, "a", 1), -EROFS);
    assert_ok(zp_replace(f->state, kept)); /* back to what was */
    assert_return(zp_equal(kept, f->state), 1);
    assert_null(zp_state_free(kept));
    assert_first(twin);
    assert_null(zp_state_free(twin));
}

static int
txn_is_none(zp_state *txn, void *user)
{
    (void)user;
    assert_return(zp_retained(txn), -EINVAL);
    return 0;
}

/* Goal: zp_retained() says, at each revision, what zp_at() would do. */
static void
test_retained(void **state)
{
    fixture *f = *state;
    zp_state *kept[3], *again;
    uint64_t revision;

    assert_return(zp_retained(NULL), -EINVAL);
    assert_return(zp_retained(f->state), -EINVAL);
    assert_ok(zp_atomic(f->state, txn_is_none, NULL));
    for (int i = 0; i < 3; i++) {
        assert_ok(zp_snapshot(f->state, &kept[i]));
        set(f->state, "a", i);
    }
    for (int i = 0; i < 70; i++) {
        int missing = 0;
        for (int k = 0; k < 3; k++) {
            assert_ok(zp_revision(kept[k], &revision));
            int rc = zp_at(f->state, &again, revision);
            assert_return(zp_retained(kept[k]), rc == 0);
            if (rc == 0)
                assert_null(zp_state_free(again));
            missing += rc != 0;
        }
        assert_int_equal(missing, i <= 61 ? 0 : i > 63 ? 3 : i - 61);
        set(f->state, "b", i);
    }
    for (int k = 0; k < 3; k++)
        assert_null(zp_state_free(kept[k]));
}

/* ---------------------------------------------------------------- events -- */

typedef struct keeper {
    recorder r;
    fixture *f;
    zp_state *now[4], *before[4];
} keeper;

/* A nested run: until a watch of "inner" was called, which ends the read
 * transaction of whoever waits. */
static void
run_inside(fixture *f)
{
    recorder more = {.ctx = f->ctx, .want = 1};
    zp_watch *inner;

    assert_ok(zp_call_when_change(f->state, &inner, ZP_KEYS("inner"), NULL,
                                  record, &more));
    set(f->other, "inner", (int64_t)head_of(f->state));
    assert_ok(zp_run(f->ctx));
    zp_watch_free(inner);
    forget(&more);
}

static int
keep(zp_watch *watch, const zp_event *event, void *user)
{
    keeper *k = user;
    zp_state *now = zp_event_snapshot(event);
    zp_state *before = zp_event_before(event);
    size_t n = k->r.n;

    assert_ok(zp_snapshot(now, &k->now[n]));
    assert_ok(zp_snapshot(before, &k->before[n]));
    assert_return(zp_retained(now), 1);
    assert_return(zp_retained(before), 1);
    assert_return(zp_equal(now, before), 0);
    assert_return(zp_equal(now, k->now[n]), 1);
    assert_return(zp_equal(k->before[n], before), 1);
    if (n > 0)
        assert_return(zp_equal(before, k->now[n - 1]), 1);
    if (n == 3)
        assert_return(zp_equal(now, k->f->state), 1);
    return record(watch, event, &k->r);
}

static int
set_two(zp_state *txn, void *user)
{
    int64_t value = *(int64_t *)user;

    set(txn, "a", value);
    set(txn, "b", -value);
    return 0;
}

static void
assert_two(zp_state *snapshot, int64_t value)
{
    const char *keys[2] = {"a", "b"}, *key;
    const zp_value *found;
    int64_t number;
    zp_iter *iter;

    assert_ok(zp_iter_new(snapshot, &iter));
    for (int i = 0; i < 2; i++) {
        assert_return(zp_iter_next(iter, &key, &found), 1);
        assert_string_equal(key, keys[i]);
        assert_ok(zp_value_get(found, "I", &number));
        assert_int_equal(number, i == 0 ? value : -value);
    }
    assert_return(zp_iter_next(iter, NULL, NULL), 0);
    zp_iter_free(iter);
}

/* Goal: copies of an event's snapshots are exact, and can be kept beyond the
 * callback and retention. */
static void
test_event_kept(void **state)
{
    fixture *f = *state;
    keeper k = {.r = {.ctx = f->ctx}, .f = f};
    uint64_t length;

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a", "b"), NULL, keep, &k));
    for (int64_t i = 1; i <= 4; i++)
        assert_ok(zp_atomic(f->other, set_two, &i));
    run_until(&k.r, 4);
    for (int i = 0; i < 200; i++)
        set(f->state, "~other", i);
    for (int i = 0; i < 4; i++) {
        assert_return(zp_retained(k.now[i]), 0);
        assert_two(k.now[i], i + 1);
        if (i > 0)
            assert_two(k.before[i], i);
        assert_null(zp_state_free(k.now[i]));
    }
    assert_ok(zp_length(k.before[0], &length));
    assert_int_equal(length, 0);
    for (int i = 0; i < 4; i++)
        assert_null(zp_state_free(k.before[i]));
    forget(&k.r);
}

static int
iterate_and_wait(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;
    zp_state *now = zp_event_snapshot(event);
    zp_state *kept;
    const char *key;
    zp_iter *iter;

    (void)watch;
    assert_ok(zp_snapshot(now, &kept));
    assert_ok(zp_iter_new(now, &iter));
    assert_return(zp_iter_next(iter, &key, NULL), 1);
    assert_string_equal(key, "a");
    set(f->other, "aa", 1);
    assert_ok(zp_delete(f->other, "b"));
    run_inside(f);
    assert_return(zp_retained(now), 1);
    assert_return(zp_iter_next(iter, &key, NULL), 1);
    assert_string_equal(key, "b");
    assert_two(now, 7);
    for (int i = 0; i < 100; i++)
        set(f->other, "~other", i);
    run_inside(f);
    assert_return(zp_retained(now), 0);
    assert_return(zp_iter_next(iter, &key, NULL), ZP_EGONE);
    assert_return(zp_equal(now, f->state), ZP_EGONE);
    assert_two(kept, 7);
    zp_iter_free(iter);
    zp_state_free(kept);
    return zp_break(f->ctx);
}

/* Goal: when the callback waits its event's snapshots go on while they are
 * retained, and are then gone; what was kept is not. */
static void
test_event_waits(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = iterate_and_wait, .user = f};
    int64_t value = 7;

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_atomic(f->other, set_two, &value));
    assert_ok(zp_run(f->ctx));
    forget(&r);
}

/* ---------------------------------------------------------------- values -- */

static void
assert_values_of(const zp_event *event, size_t i, int64_t before, int64_t after)
{
    zp_value *old, *new;
    int64_t number;

    assert_ok(zp_event_values(event, &old, &new, i));
    assert_true((old == NULL) == (before == ABSENT));
    assert_true((new == NULL) == (after == ABSENT));
    if (old) {
        assert_ok(zp_value_get(old, "I", &number));
        assert_int_equal(number, before);
    }
    if (new) {
        assert_ok(zp_value_get(new, "I", &number));
        assert_int_equal(number, after);
    }
    zp_value_free(old);
    assert_ok(zp_event_values(event, NULL, &old, i));
    assert_return(old == NULL, after == ABSENT);
    zp_value_free(old);
    assert_ok(zp_event_values(event, &old, NULL, i));
    assert_return(old == NULL, before == ABSENT);
    zp_value_free(old);
    assert_ok(zp_event_values(event, NULL, NULL, i));
    zp_value_free(new);
}

static int
values_are_right(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;
    zp_value *old = (zp_value *)r, *new = (zp_value *)r;

    (void)watch;
    if (r->n == 1) {
        assert_values_of(event, 0, ABSENT, 1);
        assert_values_of(event, 1, ABSENT, 2);
    } else if (r->n == 2) {
        assert_values_of(event, 0, 1, 1);
    } else if (r->n == 3) {
        assert_values_of(event, 0, 1, ABSENT);
        assert_values_of(event, 1, 2, 3);
    } else {
        assert_values_of(event, 0, ABSENT, 4);
    }
    assert_return(zp_event_values(event, &old, &new, zp_event_length(event)),
                  -ERANGE);
    assert_return(zp_event_values(NULL, &old, &new, 0), -EINVAL);
    if (r->n == 4) { /* the past is still known, and then it is not */
        run_inside(f);
        assert_values_of(event, 0, ABSENT, 4);
        for (int i = 0; i < 100; i++)
            set(f->other, "~other", i);
        run_inside(f);
        assert_return(zp_event_values(event, &old, &new, 0), ZP_EGONE);
        assert_return(zp_event_values(event, NULL, &new, 0), ZP_EGONE);
    }
    assert_ptr_equal(old, r);
    assert_ptr_equal(new, r);
    return 0;
}

static int
change_two(zp_state *txn, void *user)
{
    int *step = user;

    if (*step == 1) {
        set(txn, "a", 1);
        set(txn, "b", 2);
        return 0;
    }
    set(txn, "b", 3);
    return zp_delete(txn, "a");
}

/* Goal: the values before and after each change of an event. */
static void
test_event_values(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = values_are_right, .user = f};
    zp_watch_options same = {.size = sizeof same, .flags = ZP_SAME};
    int step = 1;

    assert_ok(zp_call_when_change(f->state, NULL, ZP_KEYS("a", "b"), &same,
                                  record, &r));
    assert_ok(zp_atomic(f->other, change_two, &step));
    set(f->other, "a", 1);
    step = 2;
    assert_ok(zp_atomic(f->other, change_two, &step));
    set(f->other, "a", 4);
    run_until(&r, 4);
    forget(&r);
}

static int
big_is_gone(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_value *old = NULL, *new = NULL;

    (void)watch;
    if (r->n == 1) {
        assert_return(zp_event_values(event, &old, &new, 0), ZP_EGONE);
        assert_non_null(strstr(zp_ctx_error(r->ctx), "too large"));
    } else {
        assert_return(zp_event_values(event, &old, &new, 0), ZP_EGONE);
        assert_null(old);
        assert_null(new);
        assert_ok(zp_event_values(event, NULL, &new, 0));
        zp_value_free(new);
    }
    assert_null(old);
    return 0;
}

static int
setup_big(void **state)
{
    zp_ctx_options options = {
        .size = sizeof options, .max_value = 4 << 20, .max_bytes = 64 << 20};

    return watching_setup_with(state, &options);
}

/* Goal: a value that was too large to be kept is gone; the other one is not. */
static void
test_values_too_large(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = big_is_gone};
    size_t size = 1200 * 1000;
    char *bytes = calloc(1, size);

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    assert_ok(zp_set_bytes(f->other, "a", bytes, size));
    set(f->other, "a", 1);
    run_until(&r, 2);
    forget(&r);
    free(bytes);
}

static int
overrun_has_none(recorder *r, zp_watch *watch, const zp_event *event)
{
    zp_value *old = NULL;

    (void)r;
    (void)watch;
    if (zp_event_kind(event) == ZP_OVERRUN)
        assert_return(zp_event_values(event, &old, NULL, 0), -ERANGE);
    assert_null(old);
    return 0;
}

/* Goal: an event that is no change has no values. */
static void
test_values_of_overrun(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = overrun_has_none};

    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    for (int i = 0; i < 100; i++)
        set(f->other, "a", i);
    run_until(&r, 65);
    assert_int_equal(r.events[0].kind, ZP_OVERRUN);
    forget(&r);
}

/* ------------------------------------------------------------------ many -- */

static zp_stats
stats_of(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_ok(zp_ctx_stats(ctx, &stats));
    return stats;
}

#define HUNDREDS 700

/* Goal: hundreds of snapshots at once, each of another revision, freed in any
 * order; nothing is left of them. */
static void
test_hundreds(void **state)
{
    fixture *f = *state;
    zp_state *kept[HUNDREDS];
    uint64_t readers;

    assert_int_equal(head_of(f->state), 0); /* reading takes a slot, too */
    readers = stats_of(f->ctx).readers;
    for (int i = 0; i < HUNDREDS; i++) {
        set(f->state, "a", i);
        assert_ok(zp_snapshot(f->state, &kept[i]));
    }
    assert_int_equal(stats_of(f->ctx).readers, readers + HUNDREDS);
    assert_int_equal(stats_of(f->ctx).oldest_reader, getpid());
    for (int i = 0; i < HUNDREDS; i++)
        assert_true(int_at(kept[i], "a") == i);
    for (int step = 0; step < 7; step++)
        for (int i = step; i < HUNDREDS; i += 7)
            assert_null(zp_state_free(kept[i]));
    assert_int_equal(stats_of(f->ctx).readers, readers);
    assert_int_equal(stats_of(f->ctx).oldest_reader, 0);
}

#define SLOTS 4096 /* for all processes together */

/* Goal: when the table of readers is full the error says who has them and what
 * to do; whoever reads already goes on; one freed, one can be made. */
static void
test_full(void **state)
{
    fixture *f = *state;
    zp_state **kept = calloc(SLOTS + 1, sizeof *kept), *more = NULL;
    zp_history *history = NULL;
    zp_iter *iter = NULL;
    char pid[32];
    int n = 0, rc;

    set(f->state, "a", 1);
    assert_true(int_at(f->state, "a") == 1);
    while (n <= SLOTS && (rc = zp_snapshot(f->state, &kept[n])) == 0)
        n++;
    assert_return(rc, -EAGAIN);
    assert_true(n > SLOTS - 20);
    snprintf(pid, sizeof pid, "process %d:", getpid());
    assert_non_null(strstr(zp_ctx_error(f->ctx), pid));
    assert_non_null(strstr(zp_ctx_error(f->ctx), "free snapshots"));
    assert_return(zp_history_new(f->state, &history, "a"), -EAGAIN);
    assert_return(zp_iter_new(f->state, &iter), -EAGAIN);
    assert_null(history);
    assert_null(iter);
    set(f->state, "a", 2);
    assert_true(int_at(f->state, "a") == 2);
    assert_true(int_at(kept[n - 1], "a") == 1);
    assert_return(zp_retained(kept[0]), 1);
    kept[n / 2] = zp_state_free(kept[n / 2]);
    assert_ok(zp_snapshot(f->state, &more));
    assert_true(int_at(more, "a") == 2);
    zp_state_free(more);
    for (int i = 0; i < n; i++)
        zp_state_free(kept[i]);
    free(kept);
}

typedef struct holder {
    char address[200];
    zp_sync ready, go;
} holder;

static int
hold_one(void *user)
{
    holder *h = user;
    zp_ctx *ctx;
    zp_state *kept;

    if (zp_ctx_attach(&ctx, h->address, NULL) < 0 ||
        zp_snapshot(zp_ctx_state(ctx), &kept) < 0)
        return 2;
    zp_sync_post(&h->ready);
    zp_sync_wait(&h->go, 20);
    zp_state_free(kept);
    zp_ctx_free(ctx);
    return 0;
}

/* Goal: the statistics name the process whose snapshot pins the oldest pages.
 */
static void
test_oldest(void **state)
{
    fixture *f = *state;
    zp_state *mine;
    holder h;
    pid_t pid;

    snprintf(h.address, sizeof h.address, "%s", zp_ctx_address(f->ctx));
    zp_sync_open(&h.ready);
    zp_sync_open(&h.go);
    set(f->state, "a", 1);
    pid = zp_test_fork(hold_one, &h);
    zp_sync_wait(&h.ready, 20);
    set(f->state, "a", 2);
    assert_ok(zp_snapshot(f->state, &mine));
    set(f->state, "a", 3);
    assert_int_equal(stats_of(f->ctx).oldest_reader, pid);
    zp_sync_post(&h.go);
    assert_int_equal(zp_test_wait(pid, 20), 0);
    assert_int_equal(stats_of(f->ctx).oldest_reader, getpid());
    zp_state_free(mine);
    assert_int_equal(stats_of(f->ctx).oldest_reader, 0);
    zp_sync_close(&h.ready);
    zp_sync_close(&h.go);
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        SHORT(test_kept),
        SHORT(test_retained),
        SHORT(test_event_kept),
        SHORT(test_event_waits),
        SHORT(test_event_values),
        ZP_TEST_WITH(test_values_too_large, setup_big, watching_teardown),
        SHORT(test_values_of_overrun),
        T(test_hundreds),
        T(test_full),
        T(test_oldest),
    };
    return zp_test_main("snapshot", tests, sizeof tests / sizeof *tests, 60);
}
