/*
 * test_history.c - the history of a key: what each of its changes left, from
 * the newest back to where the log ends; and the same against a model that
 * remembers everything (its seed is printed; ZP_TEST_SEED sets it).
 */
#include "tests/api/watching.h"

#include <math.h>
#include <time.h>

#define BIG ((size_t)1200 * 1000) /* above what is kept when replaced */

/* The next entry of H: at REVISION, with FLAGS and the int VALUE (ABSENT: no
 * value). */
#define assert_entry(h, revision, flags, value)                                \
    assert_entry_by(h, revision, flags, value, getpid())

static void
assert_entry_by(zp_history *h, uint64_t revision, unsigned flags, int64_t value,
                int writer)
{
    zp_history_entry entry;
    const zp_value *found;
    int64_t number = ABSENT;

    assert_return(zp_history_next(h, &entry, &found), 1);
    assert_int_equal(entry.revision, revision);
    assert_int_equal(entry.flags, flags);
    assert_int_equal(entry.writer, writer);
    if (writer == 0)
        assert_true(entry.time == 0);
    else
        assert_true(fabs(entry.time - (double)time(NULL)) < 600);
    if (found)
        assert_ok(zp_value_get(found, "I", &number));
    assert_true(number == value);
}

static void
assert_end(zp_history *h, int end)
{
    const zp_value *value = NULL;
    zp_history_entry entry = {.revision = 77};

    for (int i = 0; i < 3; i++)
        assert_return(zp_history_next(h, &entry, &value), end);
    assert_null(value);
    assert_int_equal(entry.revision, 77);
    assert_null(zp_history_free(h));
}

static zp_history *
history_of(zp_state *state, const char *key)
{
    zp_history *h = NULL;

    assert_ok(zp_history_new(state, &h, key));
    assert_non_null(h);
    return h;
}

/* Pass the log on by N changes of another key. */
static void
pass(zp_state *state, int n)
{
    for (int i = 0; i < n; i++)
        set(state, "~other", i);
}

/* ---------------------------------------------------------------- plain -- */

static int
several(zp_state *txn, void *user)
{
    (void)user;
    set(txn, "a", 40);
    set(txn, "b", 1);
    set(txn, "a", 41);
    set(txn, "c", 1);
    return zp_delete(txn, "c");
}

/* Goal: each change of the key, the newest first: sets, equal sets, deletions,
 * one of several in a transaction; nothing else. */
static void
test_walk(void **state)
{
    fixture *f = *state;
    zp_history *h;

    set(f->state, "a", 10);
    set(f->other, "b", 0);
    set(f->state, "a", 10);
    set(f->state, "a", 20);
    assert_ok(zp_delete(f->state, "a"));
    set(f->other, "b", 0);
    set(f->state, "a", 30);
    assert_ok(zp_atomic(f->state, several, NULL));
    h = history_of(f->state, "a");
    assert_entry(h, 8, 0, 41);
    assert_entry(h, 7, ZP_CREATED, 30);
    assert_entry(h, 5, ZP_DELETED, ABSENT);
    assert_entry(h, 4, 0, 20);
    assert_entry(h, 3, ZP_IDENTICAL, 10);
    assert_entry(h, 1, ZP_CREATED, 10);
    assert_end(h, 0);
    assert_end(history_of(f->state, "c"), 0);
    assert_end(history_of(f->state, "never"), 0);
}

/* Goal: a live state's history begins as it is at that moment, whatever comes;
 * a snapshot's at its revision; a deleted key has one, too; namespaces are
 * apart. */
static void
test_begin(void **state)
{
    fixture *f = *state;
    zp_state *past, *elsewhere;
    zp_history *h;

    for (int i = 1; i <= 5; i++)
        set(f->state, "a", i);
    h = history_of(f->state, "a");
    set(f->state, "a", 6);
    assert_ok(zp_delete(f->state, "a"));
    assert_entry(h, 5, 0, 5);
    pass(f->state, 10);
    assert_entry(h, 4, 0, 4);
    assert_null(zp_history_free(h));

    assert_ok(zp_at(f->state, &past, 2));
    h = history_of(past, "a");
    assert_entry(h, 2, 0, 2);
    assert_entry(h, 1, ZP_CREATED, 1);
    assert_end(h, 0);
    assert_ok(zp_state_clone(past, &elsewhere, "elsewhere"));
    assert_end(history_of(elsewhere, "a"), 0);
    zp_state_free(elsewhere);
    zp_state_free(past);
    assert_ok(zp_at(f->state, &past, 0));
    assert_end(history_of(past, "a"), 0);
    zp_state_free(past);

    h = history_of(f->state, "a");
    assert_entry(h, 7, ZP_DELETED, ABSENT);
    assert_entry(h, 6, 0, 6);
    assert_null(zp_history_free(h));
}

/* Goal: both outputs may be NULL; the value is there until the next step. */
static void
test_outputs(void **state)
{
    fixture *f = *state;
    zp_history_entry entry;
    const zp_value *value;
    zp_history *h;

    for (int i = 1; i <= 4; i++)
        set(f->state, "a", i);
    h = history_of(f->state, "a");
    assert_return(zp_history_next(h, NULL, NULL), 1);
    assert_return(zp_history_next(h, &entry, NULL), 1);
    assert_int_equal(entry.revision, 3);
    assert_return(zp_history_next(h, NULL, &value), 1);
    set(f->state, "a", 5);
    int64_t number;
    assert_ok(zp_value_get(value, "I", &number));
    assert_int_equal(number, 2);
    assert_null(zp_history_free(h));
}

static int
no_history(zp_state *txn, void *user)
{
    zp_history *h = user;

    assert_return(zp_history_new(txn, &h, "a"), -EINVAL);
    assert_ptr_equal(h, user);
    return 0;
}

static int
free_inherited(void *user)
{
    zp_history *h = user;

    if (zp_history_next(h, NULL, NULL) != ZP_EFORK)
        return 1;
    return zp_history_free(h) == NULL ? 0 : 2;
}

/* Goal: what makes no sense is told, and nothing is handed out. */
static void
test_wrong(void **state)
{
    fixture *f = *state;
    zp_history *h = NULL;
    char key[202];

    memset(key, 'k', 201);
    key[201] = '\0';
    assert_return(zp_history_new(NULL, &h, "a"), -EINVAL);
    assert_return(zp_history_new(f->state, NULL, "a"), -EINVAL);
    assert_return(zp_history_new(f->state, &h, NULL), -EINVAL);
    assert_return(zp_history_new(f->state, &h, ""), -EINVAL);
    assert_return(zp_history_new(f->state, &h, key), -EINVAL);
    assert_return(zp_history_next(NULL, NULL, NULL), -EINVAL);
    assert_null(zp_history_free(NULL));
    assert_null(h);
    assert_ok(zp_atomic(f->state, no_history, f));
    set(f->state, "a", 1);
    h = history_of(f->state, "a");
    assert_int_equal(zp_test_wait(zp_test_fork(free_inherited, h), 10), 0);
    assert_entry(h, 1, ZP_CREATED, 1);
    assert_end(h, 0);
}

static int
write_too(void *user)
{
    zp_ctx *ctx;
    int rc = zp_ctx_attach(&ctx, user, NULL);

    if (rc == 0)
        rc = zp_set_int(zp_ctx_state(ctx), "a", 2);
    zp_ctx_free(ctx);
    return rc == 0 ? 0 : 1;
}

/* Goal: the writer is the process that wrote. */
static void
test_writer(void **state)
{
    fixture *f = *state;
    zp_history *h;
    pid_t pid;

    set(f->state, "a", 1);
    pid = zp_test_fork(write_too, (void *)zp_ctx_address(f->ctx));
    assert_int_equal(zp_test_wait(pid, 20), 0);
    set(f->state, "a", 3);
    h = history_of(f->state, "a");
    assert_entry(h, 3, 0, 3);
    assert_entry_by(h, 2, 0, 2, pid);
    assert_entry(h, 1, ZP_CREATED, 1);
    assert_end(h, 0);
}

/* ------------------------------------------------------------ retention -- */

/* Goal: where the log ends the value that it still knows is told, without
 * writer and time, and then that what was before is gone; or, if that change
 * created the key, that there was nothing. */
static void
test_forgotten(void **state)
{
    fixture *f = *state; /* 64 revisions */
    zp_history *h;

    set(f->state, "made", 1);
    set(f->state, "a", 1);
    set(f->state, "a", 2);
    pass(f->state, 30);
    set(f->state, "a", 3);
    pass(f->state, 40); /* head 74, so 11 to 74 are retained */
    h = history_of(f->state, "a");
    assert_entry(h, 34, 0, 3);
    assert_entry_by(h, 3, 0, 2, 0);
    assert_return(zp_history_next(h, NULL, NULL), ZP_EGONE);
    assert_non_null(strstr(zp_ctx_error(f->ctx), "'a'"));
    assert_end(h, ZP_EGONE);
    h = history_of(f->state, "made");
    assert_entry_by(h, 1, ZP_CREATED, 1, 0);
    assert_end(h, 0);
    pass(f->state, 70);
    h = history_of(f->state, "a");
    assert_entry_by(h, 34, 0, 3, 0);
    assert_end(h, ZP_EGONE);
}

/* Goal: a deletion that is forgotten is told if the log still knows of it, by
 * the change that followed; and when nothing followed the key is unknown. */
static void
test_forgotten_deletion(void **state)
{
    fixture *f = *state;
    zp_history *h;

    set(f->state, "a", 1);
    assert_ok(zp_delete(f->state, "a"));
    pass(f->state, 40);
    set(f->state, "a", 2);
    pass(f->state, 40);
    h = history_of(f->state, "a");
    assert_entry(h, 43, ZP_CREATED, 2);
    assert_entry_by(h, 2, ZP_DELETED, ABSENT, 0);
    assert_end(h, ZP_EGONE);
    assert_ok(zp_delete(f->state, "a"));
    pass(f->state, 70);
    assert_end(history_of(f->state, "a"), 0);
    set(f->state, "a", 3);
    h = history_of(f->state, "a");
    assert_entry(h, head_of(f->state), ZP_CREATED, 3);
    assert_end(h, 0);
}

/* Goal: a history, and one of a kept snapshot, do not care that retention
 * passes them. */
static void
test_passed(void **state)
{
    fixture *f = *state;
    zp_state *kept;
    zp_history *h;

    for (int i = 1; i <= 10; i++)
        set(f->state, "a", i);
    h = history_of(f->state, "a");
    assert_ok(zp_snapshot(f->state, &kept));
    assert_entry(h, 10, 0, 10);
    pass(f->state, 300);
    assert_return(zp_retained(kept), 0);
    for (int i = 9; i > 1; i--)
        assert_entry(h, (uint64_t)i, 0, i);
    assert_entry(h, 1, ZP_CREATED, 1);
    assert_end(h, 0);
    h = history_of(kept, "a");
    for (int i = 10; i > 1; i--)
        assert_entry(h, (uint64_t)i, 0, i);
    assert_null(zp_history_free(h));
    zp_state_free(kept);
}

static int
setup_big(void **state)
{
    zp_ctx_options options = {
        .size = sizeof options, .max_value = 4 << 20, .max_bytes = 64 << 20};

    return watching_setup_with(state, &options);
}

/* Goal: a value that was too large to be kept is missing, and told as such; the
 * newest one is there; so are those that are just not too large. */
static void
test_unkept(void **state)
{
    fixture *f = *state;
    char *bytes = calloc(1, BIG);
    zp_history_entry entry;
    const zp_value *value;
    zp_history *h;
    size_t size;

    set(f->state, "a", 1);
    assert_ok(zp_set_bytes(f->state, "a", bytes, BIG));
    assert_ok(zp_set_bytes(f->state, "a", bytes, BIG / 2));
    assert_ok(zp_set_bytes(f->state, "a", bytes, BIG));
    assert_ok(zp_delete(f->state, "a"));
    assert_ok(zp_set_bytes(f->state, "a", bytes, BIG));
    h = history_of(f->state, "a");
    assert_return(zp_history_next(h, &entry, &value), 1);
    assert_int_equal(entry.flags, ZP_CREATED);
    zp_value_image(value, &size);
    assert_true(size > BIG);
    assert_entry(h, 5, ZP_DELETED, ABSENT);
    assert_entry(h, 4, ZP_UNKEPT, ABSENT);
    assert_return(zp_history_next(h, &entry, &value), 1);
    assert_int_equal(entry.flags, 0);
    zp_value_image(value, &size);
    assert_true(size > BIG / 2 && size < BIG);
    assert_entry(h, 2, ZP_UNKEPT, ABSENT);
    assert_entry(h, 1, ZP_CREATED, 1);
    assert_end(h, 0);
    free(bytes);
}

/* --------------------------------------------------------------- events -- */

static int
look_back(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;
    zp_history *h, *before;

    (void)watch;
    h = history_of(zp_event_snapshot(event), "a");
    before = history_of(zp_event_before(event), "a");
    if (r->n == 1) { /* a run inside: the view is ended */
        set(f->other, "a", 4);
        zp_watch *inner;
        recorder more = {.ctx = f->ctx, .want = 1};
        assert_ok(zp_call_when_change(f->state, &inner, ZP_KEYS("b"), NULL,
                                      record, &more));
        set(f->other, "b", 1);
        assert_ok(zp_run(f->ctx));
        zp_watch_free(inner);
        forget(&more);
    }
    assert_entry(h, 3, 0, 3);
    assert_entry(before, 2, 0, 2);
    if (r->n == 1) {
        pass(f->other, 200);
        r->want = 2;
    }
    assert_entry(h, 2, 0, 2);
    assert_entry(h, 1, ZP_CREATED, 1);
    assert_end(h, 0);
    assert_null(zp_history_free(before));
    return zp_break(f->ctx);
}

/* Goal: in a callback, from the event's snapshots; also when it has waited. */
static void
test_event(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = look_back, .user = f};

    set(f->other, "a", 1);
    set(f->other, "a", 2);
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 3);
    assert_ok(zp_run(f->ctx));
    assert_int_equal(r.n, 1);
    forget(&r);
}

static int
look_too_late(recorder *r, zp_watch *watch, const zp_event *event)
{
    fixture *f = r->user;
    recorder more = {.ctx = f->ctx, .want = 1};
    zp_state *now = zp_event_snapshot(event);
    zp_watch *inner;
    zp_history *h;

    (void)watch;
    h = history_of(now, "a");
    assert_return(zp_retained(now), 1);
    assert_ok(zp_call_when_change(f->state, &inner, ZP_KEYS("b"), NULL, record,
                                  &more));
    pass(f->other, 100);
    set(f->other, "b", 1);
    assert_return(zp_retained(now), 0);
    assert_entry(h, 3, 0, 3); /* the event's read transaction still holds it */
    assert_ok(zp_run(f->ctx));
    zp_watch_free(inner);
    forget(&more);
    assert_return(zp_retained(now), 0);
    assert_return(zp_retained(zp_event_before(event)), 0);
    assert_int_equal(int_at(now, "a"), ABSENT);
    assert_end(h, ZP_EGONE);
    return zp_break(f->ctx);
}

/* Goal: an event's snapshot whose read transaction has been ended by a wait,
 * and that retention has passed then, is gone, and so is its history. */
static void
test_event_passed(void **state)
{
    fixture *f = *state; /* 64 revisions */
    recorder r = {.ctx = f->ctx, .then = look_too_late, .user = f};

    set(f->other, "a", 1);
    set(f->other, "a", 2);
    assert_ok(
        zp_call_when_change(f->state, NULL, ZP_KEYS("a"), NULL, record, &r));
    set(f->other, "a", 3);
    assert_ok(zp_run(f->ctx));
    forget(&r);
}

/* Goal: a watch that begins at the time that a history tells of a change sees
 * that change first. */
static void
test_since_time(void **state)
{
    fixture *f = *state;
    zp_watch_options since = {.size = sizeof since, .flags = ZP_SINCE_TIME};
    zp_history_entry entry;
    zp_history *h;

    for (int i = 0; i < 30; i++) {
        set(f->other, "a", i);
        usleep(10); /* a clock has digits that a double has not */
    }
    h = history_of(f->state, "a");
    while (zp_history_next(h, &entry, NULL) == 1) {
        recorder r = {.ctx = f->ctx};
        zp_watch *watch;
        since.since_time = entry.time;
        assert_ok(zp_call_when_change(f->state, &watch, ZP_KEYS("a"), &since,
                                      record, &r));
        run_until(&r, 1);
        assert_true(r.events[0].revision <= entry.revision);
        if (entry.revision > 2) /* ... which may be two in one microsecond */
            assert_true(r.events[0].revision > entry.revision - 2);
        zp_watch_free(watch);
        forget(&r);
    }
    assert_end(h, 0);
}

/* ---------------------------------------------------------------- model -- */

#define KEYS 6
#define TRANSACTIONS 600

typedef struct version {
    uint64_t revision;
    unsigned flags;
    int64_t value; /* ABSENT: deleted; its parity tells whether it is big */
    bool made;     /* the key was made: new, or again in one transaction */
} version;

typedef struct model {
    fixture *f;
    unsigned seed;
    version versions[KEYS][TRANSACTIONS];
    int n[KEYS];
    uint64_t head;
    int64_t now[KEYS];  /* inside of a transaction */
    bool touched[KEYS]; /* likewise */
    bool made[KEYS];
    char bytes[3 * 1024]; /* a value outside of its row */
} model;

static unsigned
pick(model *m, unsigned n)
{
    m->seed = m->seed * 1103515245u + 12345u;
    return (m->seed >> 8) % n;
}

static const char *
key_name(int key)
{
    static const char *const names[KEYS] = {"a", "aa", "b", "c", "d", "e"};

    return names[key];
}

/* Odd numbers are written as bytes that do not fit into a row. */
static int
put(model *m, zp_state *txn, const char *key, int64_t value)
{
    if (value % 2 == 0)
        return zp_set_int(txn, key, value);
    memset(m->bytes, (int)value, sizeof m->bytes);
    memcpy(m->bytes, &value, sizeof value);
    return zp_set_bytes(txn, key, m->bytes, sizeof m->bytes);
}

static int64_t
number_of(const zp_value *value)
{
    int64_t number = ABSENT;
    zp_bin bin;

    if (!value)
        return ABSENT;
    if (zp_value_type(value) == ZP_INT) {
        assert_ok(zp_value_get(value, "I", &number));
        return number;
    }
    assert_ok(zp_value_get(value, "B", &bin));
    memcpy(&number, bin.addr, sizeof number);
    free(bin.addr);
    return number;
}

static int
rolled_back(zp_state *txn, void *user)
{
    model *m = user;

    for (unsigned i = 0; i < 3; i++) {
        const char *key = key_name((int)pick(m, KEYS));
        if (zp_contains(txn, key) == 1 && pick(m, 2))
            assert_ok(zp_delete(txn, key));
        else
            assert_ok(put(m, txn, key, pick(m, 1000)));
    }
    return -EAGAIN;
}

static int
transaction(zp_state *txn, void *user)
{
    model *m = user;
    unsigned n = 1 + pick(m, 4);

    for (unsigned i = 0; i < n; i++) {
        if (pick(m, 5) == 0)
            assert_return(zp_atomic(txn, rolled_back, m), -EAGAIN);
        int k = (int)pick(m, pick(m, 3) ? 2 : KEYS);
        const char *key = key_name(k);

        if (m->now[k] != ABSENT && pick(m, 4) == 0) {
            assert_ok(zp_delete(txn, key));
            m->now[k] = ABSENT;
        } else {
            if (m->now[k] == ABSENT)
                m->made[k] = true;
            if (m->now[k] == ABSENT || pick(m, 4))
                m->now[k] = pick(m, 1000);
            assert_ok(put(m, txn, key, m->now[k]));
        }
        m->touched[k] = true;
    }
    return 0;
}

static int64_t
newest(const model *m, int k)
{
    return m->n[k] ? m->versions[k][m->n[k] - 1].value : ABSENT;
}

static void
transact(model *m)
{
    uint64_t revision = m->head + 1;

    for (int k = 0; k < KEYS; k++) {
        m->now[k] = newest(m, k);
        m->touched[k] = m->made[k] = false;
    }
    assert_ok(zp_atomic(m->f->state, transaction, m));
    for (int k = 0; k < KEYS; k++) {
        int64_t old = newest(m, k);
        version *v = &m->versions[k][m->n[k]];

        if (!m->touched[k] || (old == ABSENT && m->now[k] == ABSENT))
            continue;
        m->n[k]++;
        m->head = v->revision = revision;
        v->value = m->now[k];
        v->made = m->made[k] && v->value != ABSENT;
        v->flags = (old == ABSENT ? ZP_CREATED : 0) |
                   (v->value == ABSENT ? ZP_DELETED : 0) |
                   (v->value == old ? ZP_IDENTICAL : 0);
    }
    assert_int_equal(head_of(m->f->state), m->head);
}

/* What is told of V, whose change is forgotten; then the end. A deletion may
 * not be known any more: END is the end then. */
static void
check_forgotten(zp_history *h, const version *v)
{
    const zp_value *value = NULL;
    zp_history_entry entry;
    unsigned flags = v->value == ABSENT ? ZP_DELETED : 0;
    int rc = zp_history_next(h, &entry, &value);

    if (v->made)
        flags = ZP_CREATED;
    if (v->value != ABSENT || rc == 1) {
        assert_return(rc, 1);
        assert_int_equal(entry.revision, v->revision);
        assert_int_equal(entry.flags, flags);
        assert_int_equal(entry.writer, 0);
        assert_true(number_of(value) == v->value);
        assert_end(h, v->made ? 0 : ZP_EGONE);
    } else {
        assert_end(h, 0);
    }
}

/* The walk of key K from REVISION; TAIL: the oldest change retained. */
static void
check(model *m, zp_state *from, int k, uint64_t revision, uint64_t tail)
{
    zp_history *h = history_of(from, key_name(k));
    int i = m->n[k] - 1;

    while (i >= 0 && m->versions[k][i].revision > revision)
        i--;
    for (; i >= 0 && m->versions[k][i].revision >= tail; i--) {
        const version *v = &m->versions[k][i];
        const zp_value *value;
        zp_history_entry entry;
        assert_return(zp_history_next(h, &entry, &value), 1);
        assert_int_equal(entry.revision, v->revision);
        assert_int_equal(entry.flags, v->flags);
        assert_int_equal(entry.writer, getpid());
        assert_true(number_of(value) == v->value);
        if (pick(m, 40) == 0) { /* not every walk goes to its end */
            zp_history_free(h);
            return;
        }
    }
    if (i >= 0)
        check_forgotten(h, &m->versions[k][i]);
    else
        assert_end(h, 0);
}

/* From the live state, and from a snapshot: its view is used by all walks. */
static void
check_all(model *m)
{
    zp_stats stats = {.size = sizeof stats};
    zp_state *past;
    uint64_t oldest, revision;

    assert_ok(zp_ctx_stats(m->f->ctx, &stats));
    oldest = stats.oldest_revision;
    revision = oldest + pick(m, (unsigned)(m->head - oldest + 1));
    for (int k = 0; k < KEYS; k++)
        check(m, m->f->state, k, m->head, oldest + 1);
    assert_ok(zp_at(m->f->state, &past, revision));
    for (int i = 0; i < 2 * KEYS; i++)
        check(m, past, (int)pick(m, KEYS), revision, oldest + 1);
    zp_state_free(past);
}

/* Goal: whatever has happened, the history is what the model remembers. */
static void
test_model(void **state)
{
    const char *seed = getenv("ZP_TEST_SEED");
    model *m = calloc(1, sizeof *m);
    int n = rounds(TRANSACTIONS);

    m->f = *state;
    m->seed = seed ? (unsigned)atoi(seed) : (unsigned)time(NULL) ^ getpid();
    print_message("# seed %u\n", m->seed);
    for (int i = 0; i < n; i++) {
        transact(m);
        if (pick(m, 4) == 0)
            check_all(m);
    }
    check_all(m);
    free(m);
}

/* ------------------------------------------------------------------ long -- */

#define LONG 65000

static double
walk_all(zp_state *state, int n)
{
    zp_history *h = history_of(state, "a");
    double began = zp_test_now();
    zp_history_entry entry;
    const zp_value *value;
    uint64_t last = UINT64_MAX;
    int64_t number;

    for (int i = n - 1; i >= 0; i--) {
        assert_return(zp_history_next(h, &entry, &value), 1);
        assert_true(entry.revision < last);
        last = entry.revision;
        assert_ok(zp_value_get(value, "I", &number));
        assert_int_equal(number, i);
    }
    assert_end(h, 0);
    return zp_test_now() - began;
}

/* Goal: many versions are walked in linear time. */
static void
test_long(void **state)
{
    fixture *f = *state;
    int n = rounds(LONG);
    double took;

    for (int i = 0; i < n; i++)
        set(f->state, "a", i);
    took = walk_all(f->state, n);
    print_message("# %d versions in %.3f s: %.2f us each\n", n, took,
                  took / n * 1e6);
    assert_true(took < 30 * zp_test_slow());
}

#define T(test) ZP_TEST_WITH(test, watching_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_walk),
        T(test_begin),
        T(test_outputs),
        T(test_wrong),
        T(test_writer),
        SHORT(test_forgotten),
        SHORT(test_forgotten_deletion),
        SHORT(test_passed),
        ZP_TEST_WITH(test_unkept, setup_big, watching_teardown),
        T(test_event),
        SHORT(test_event_passed),
        T(test_since_time),
        SHORT(test_model),
        T(test_long),
    };
    return zp_test_main("history", tests, sizeof tests / sizeof *tests, 60);
}
