/*
 * model_journal.c - transactions: each is done to the state and, at the same
 * time and in the simplest way, to the codes in the journal.
 *
 * A transaction is known by its net effect: which keys were written, what they
 * were before and are after. One that leaves nothing changed (keys that came
 * and went, what was rolled back, nothing at all) has no revision and no entry.
 */
#include "tests/api/model.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROLL_BACK (-4711)

/* A transaction in the making. */
typedef struct making {
    model_worker *worker;
    const model_txn *txn;
    model_codes now[SPACES];
    unsigned written[SPACES];
    zp_state *states[SPACES]; /* what is written through */
    int64_t begun;
    bool appended;
    bool wrong; /* told already */
} making;

unsigned
model_entries(const model_shared *shared)
{
    return __atomic_load_n(&shared->n, __ATOMIC_ACQUIRE);
}

int64_t
model_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void
model_lock(model_worker *w)
{
    pthread_rwlock_wrlock(&w->shared->lock);
}

void
model_unlock(model_worker *w)
{
    pthread_rwlock_unlock(&w->shared->lock);
}

/* ------------------------------------------------------------------ ops -- */

static void
put(making *m, int space, int key, int code)
{
    m->now[space][key] = (short)code;
    m->written[space] |= 1u << key;
}

static void
expect(making *m, const model_op *op, int rc, int wanted)
{
    static const char *const names[] = {"set",   "delete",  "increase",
                                        "pop",   "default", "update",
                                        "clear", "replace"};

    if (rc == wanted || m->wrong)
        return;
    m->wrong = true;
    model_fail(m->worker, "%s of %s in %s: %s (%s), not %d", names[op->kind],
               model_keys[op->key], m->worker->c->space[op->space],
               zp_strerror(rc), zp_ctx_error(NULL), wanted);
}

static void
do_set(making *m, const model_op *op)
{
    expect(m, op, model_set(m->states[op->space], op->key, op->code), 0);
    put(m, op->space, op->key, op->code);
}

static void
do_delete(making *m, const model_op *op)
{
    int was = m->now[op->space][op->key];
    int rc = zp_delete(m->states[op->space], model_keys[op->key]);

    expect(m, op, rc, was == ABSENT ? ZP_ENOKEY : 0);
    if (was != ABSENT)
        put(m, op->space, op->key, ABSENT);
}

static void
do_increase(making *m, const model_op *op)
{
    int was = m->now[op->space][op->key];
    int rc = zp_increase(m->states[op->space], model_keys[op->key], NULL, 1);

    expect(m, op, rc, was == ABSENT ? ZP_ENOKEY : was < INT(0) ? ZP_ETYPE : 0);
    if (rc == 0)
        put(m, op->space, op->key, was + 1);
}

static void
do_pop(making *m, const model_op *op)
{
    int was = m->now[op->space][op->key];
    int64_t value = 0;
    int rc = zp_pop(m->states[op->space], model_keys[op->key], "I", &value);

    expect(m, op, rc, was == ABSENT ? ZP_ENOKEY : was < INT(0) ? ZP_ETYPE : 0);
    if (rc == 0)
        put(m, op->space, op->key, ABSENT);
}

static void
do_default(making *m, const model_op *op)
{
    int was = m->now[op->space][op->key];
    int64_t value = 1;
    int rc =
        zp_setdefault(m->states[op->space], model_keys[op->key], "I", &value);

    expect(m, op, rc, was == ABSENT ? 1 : was < INT(0) ? ZP_ETYPE : 0);
    if (rc == 1)
        put(m, op->space, op->key, INT(1));
}

static void
do_update(making *m, const model_op *op)
{
    static const int codes[] = {TRUE, TEXT, NO_ARRAY, HALF, NONE, LARGE};
    zp_pair pairs[KEYS];
    size_t n = 0;

    for (int i = 0; i < KEYS; i++)
        if (op->mask & 1u << i) {
            pairs[n].key = model_keys[i];
            pairs[n++].value = model_value(codes[(i + op->key) % KEYS]);
            put(m, op->space, i, codes[(i + op->key) % KEYS]);
        }
    expect(m, op, zp_update(m->states[op->space], pairs, n), 0);
}

static void
do_clear(making *m, const model_op *op)
{
    expect(m, op, zp_clear(m->states[op->space]), 0);
    for (int i = 0; i < KEYS; i++)
        if (m->now[op->space][i] != ABSENT)
            put(m, op->space, i, ABSENT);
}

/* What is equal already is not written. */
static void
do_replace(making *m, const model_op *op)
{
    int other = !op->space;

    expect(m, op, zp_replace(m->states[op->space], m->states[other]), 0);
    for (int i = 0; i < KEYS; i++)
        if (m->now[op->space][i] != m->now[other][i])
            put(m, op->space, i, m->now[other][i]);
}

static void
do_op(making *m, const model_op *op)
{
    static void (*const how[])(making *, const model_op *) = {
        do_set,     do_delete, do_increase, do_pop,
        do_default, do_update, do_clear,    do_replace};

    how[op->kind](m, op);
}

/* -------------------------------------------------------------- entries -- */

/* As the newest entry has left it. */
static void
begin(making *m, model_worker *w, const model_txn *t)
{
    unsigned n = model_entries(w->shared);

    m->worker = w;
    m->txn = t;
    m->wrong = m->appended = false;
    for (int i = 0; i < SPACES; i++) {
        m->written[i] = 0;
        for (int k = 0; k < KEYS; k++)
            m->now[i][k] = n ? w->shared->entries[n - 1].after[i][k] : ABSENT;
    }
}

/* What was written, but for keys that came and went. */
static void
append(making *m, uint64_t revision)
{
    model_shared *shared = m->worker->shared;
    unsigned n = model_entries(shared);
    model_entry *entry = &shared->entries[n];
    unsigned any = 0;

    entry->revision = revision;
    entry->writer = m->worker->id * HANDLES + m->txn->handle;
    entry->pid = getpid();
    entry->begun = m->begun;
    __atomic_store_n(&entry->ended, 0, __ATOMIC_RELAXED);
    for (int i = 0; i < SPACES; i++) {
        for (int k = 0; k < KEYS; k++) {
            entry->before[i][k] = n ? entry[-1].after[i][k] : ABSENT;
            if (entry->before[i][k] == ABSENT && m->now[i][k] == ABSENT)
                m->written[i] &= ~(1u << k);
        }
        memcpy(entry->after[i], m->now[i], sizeof(model_codes));
        entry->written[i] = m->written[i];
        any |= m->written[i];
    }
    if (!any)
        return;
    m->appended = true;
    __atomic_store_n(&shared->n, n + 1, __ATOMIC_RELEASE);
}

static void
ended(model_shared *shared, unsigned entry)
{
    __atomic_store_n(&shared->entries[entry].ended, model_clock(),
                     __ATOMIC_RELEASE);
}

/* --------------------------------------------------------------- atomic -- */

static int
nested(zp_state *txn, void *user)
{
    making *m = user;
    zp_state *outer[SPACES];
    int space = model_space(m->txn->handle);

    memcpy(outer, m->states, sizeof outer);
    m->states[space] = txn;
    if (zp_state_clone(txn, &m->states[!space], m->worker->c->space[!space]) <
        0) {
        memcpy(m->states, outer, sizeof outer);
        return ROLL_BACK + 1;
    }
    for (int i = m->txn->nested; i < m->txn->nested_end; i++)
        do_op(m, &m->txn->ops[i]);
    zp_state_free(m->states[!space]);
    memcpy(m->states, outer, sizeof outer);
    return m->txn->nested_back ? ROLL_BACK : 0;
}

static void
do_nested(making *m, zp_state *txn)
{
    making before = *m;
    int rc = zp_atomic(txn, nested, m);

    if (rc != (m->txn->nested_back ? ROLL_BACK : 0)) {
        model_fail(m->worker, "a nested transaction: %s (%s)", zp_strerror(rc),
                   zp_ctx_error(NULL));
        m->wrong = true;
    }
    if (!m->txn->nested_back)
        return;
    memcpy(m->now, before.now, sizeof m->now);
    memcpy(m->written, before.written, sizeof m->written);
}

static int
transact(zp_state *txn, void *user)
{
    making *m = user;
    int space = model_space(m->txn->handle);
    uint64_t revision;
    int rc;

    begin(m, m->worker, m->txn);
    m->states[space] = txn;
    rc = zp_state_clone(txn, &m->states[!space], m->worker->c->space[!space]);
    for (int i = 0; i < m->txn->n && rc == 0; i++) {
        if (i < m->txn->nested || i >= m->txn->nested_end)
            do_op(m, &m->txn->ops[i]);
        else if (i == m->txn->nested)
            do_nested(m, txn);
    }
    if (rc == 0) {
        rc = zp_revision(txn, &revision);
        zp_state_free(m->states[!space]);
    }
    if (rc == 0 && m->txn->back)
        return ROLL_BACK;
    if (rc == 0)
        append(m, revision);
    return rc;
}

/* Others may, too: the state's own lock orders us. */
static void
write_atomic(model_worker *w, const model_txn *t)
{
    making m = {.worker = w, .txn = t, .begun = model_clock()};
    unsigned entry;
    int rc;

    pthread_rwlock_rdlock(&w->shared->lock);
    rc = zp_atomic(w->handles[t->handle], transact, &m);
    entry = model_entries(w->shared); /* mine is before that, maybe far */
    pthread_rwlock_unlock(&w->shared->lock);
    if (rc != (t->back ? ROLL_BACK : 0))
        model_fail(w, "a transaction: %s (%s)", zp_strerror(rc),
                   zp_ctx_error(NULL));
    for (int pid = getpid(); m.appended && entry--;)
        if (w->shared->entries[entry].pid == pid) {
            ended(w->shared, entry);
            break;
        }
}

/* ---------------------------------------------------------------- plain -- */

/* Nobody else writes: so what is the newest afterwards is its revision. */
static void
write_plain(model_worker *w, const model_txn *t)
{
    zp_state *state = w->handles[t->handle];
    uint64_t before = 0, after = 0;
    making m;
    unsigned n;

    model_lock(w);
    n = model_entries(w->shared);
    begin(&m, w, t);
    m.begun = model_clock();
    m.states[0] = m.states[1] = state;
    m.states[!model_space(t->handle)] = w->handles[!model_space(t->handle)];
    zp_revision(state, &before);
    do_op(&m, &t->ops[0]);
    zp_revision(state, &after);
    append(&m, after);
    if (m.appended)
        ended(w->shared, n);
    if (after != before + m.appended && !m.wrong)
        model_fail(w, "a plain call led from revision %llu to %llu",
                   (unsigned long long)before, (unsigned long long)after);
    model_unlock(w);
}

void
model_write(model_worker *w, const model_txn *t)
{
    if (model_entries(w->shared) > ENTRIES - 2 * WORKERS || model_failed(w))
        return;
    if (t->atomic)
        write_atomic(w, t);
    else
        write_plain(w, t);
}
