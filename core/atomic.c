/*
 * atomic.c - the application's own atomic operations, and the ready-made ones.
 *
 * zp_atomic() is the store's transaction with a handle on it. The function
 * runs in the caller's process, under the state's lock: it sees its own
 * writes, nobody else sees any of them before the commit, and if the process
 * dies in between there was nothing.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/leases.h"
#include "core/state.h"

/* Run FN on TXN seen as STATE sees it. STATE may be freed by FN. */
static int
call(const zp_state *state, zp__txn *txn, zp_atomic_fn *fn, void *user)
{
    zp_state inner = *state;

    inner.kind = ZP__TXN;
    inner.embedded = true;
    inner.owns_view = false;
    inner.next = inner.prev = NULL;
    inner.txn = txn;
    inner.serial = zp__txn_serial(txn);
    inner.depth = zp__txn_depth(txn);
    return fn(&inner, user);
}

/* FN has forked, and this is the child: the transaction is its parent's, who
 * commits it. Ending it here, either way, would write to the same file. */
static int
forked(void)
{
    return zp__fail(ZP_EFORK, "the atomic operation belongs to the process "
                              "that forked inside of it");
}

static int
run_nested(zp_state *state, zp_atomic_fn *fn, void *user)
{
    zp__txn *txn = state->txn;
    int rc = zp__txn_nest(txn);

    if (rc != 0)
        return rc;
    uint64_t token = state->token;
    rc = call(state, txn, fn, user);
    if (token != zp__token())
        return forked();
    int ended = zp__txn_unnest(txn, rc >= 0);
    return rc >= 0 && ended < 0 ? ended : rc;
}

static int
run_outer(zp_state *state, zp_atomic_fn *fn, void *user, double patience,
          bool deletes)
{
    zp_ctx *ctx = state->ctx;
    zp__txn *txn;
    int rc =
        zp__txn_begin(ctx->store, &txn, state->writer, patience, 0, deletes);

    if (rc != 0)
        return rc;
    uint64_t token = ctx->token;
    rc = call(state, txn, fn, user);
    if (token != zp__token())
        return forked();
    if (rc < 0) {
        zp__txn_abort(txn);
        return zp__fail_code(rc); /* it may have failed without a word */
    }
    int committed = zp__txn_commit(txn, NULL);
    return committed < 0 ? committed : rc;
}

int
zp_atomic(zp_state *state, zp_atomic_fn *fn, void *user)
{
    int rc = zp__state_enter(state, NULL, true);

    if (rc == 0 && fn == NULL)
        rc = zp__fail(-EINVAL, "the atomic function is NULL");
    if (rc != 0)
        return zp__state_done(state, rc);
    zp_ctx *ctx = state->ctx;
    uint64_t token = ctx->token;
    zp__ctx_pin(ctx); /* it may free handle and context */
    rc = state->kind == ZP__TXN
             ? run_nested(state, fn, user)
             : run_outer(state, fn, user, ctx->lock_timeout, false);
    if (token != zp__token())
        return rc;
    zp__ctx_done(ctx, rc);
    zp__ctx_unpin(ctx);
    return rc;
}

int
zp__atomic(zp_state *state, zp_atomic_fn *fn, void *user, double patience,
           bool deletes)
{
    int rc = zp__state_enter(state, NULL, true);

    return rc == 0 ? run_outer(state, fn, user, patience, deletes) : rc;
}

/* ---- ready-made ---- */

/* One key read and written again: CHANGE makes the new image of the old. */
typedef struct edit {
    const char *key;
    int (*make)(struct edit *change, const zp__item *old);
    int64_t by;
    double by_double;
    int64_t sum;
    double sum_double;
    const zp__encoded *element;
    const void *image; /* out */
    size_t size;
    void *heap; /* freed afterwards */
    size_t max;
    unsigned char plain[ZP__PLAIN_MAX];
} edit;

static int
apply(zp_state *state, edit *change, size_t need)
{
    zp__item old;
    zp__txn *txn;
    int rc = zp__state_enter(state, change->key, true);

    if (rc == 0 && change->key == NULL)
        rc = zp__key_check(NULL);
    if (rc == 0)
        rc = zp__write_begin(state, &txn, need, false);
    if (rc != 0)
        return zp__state_done(state, rc);
    change->max = zp__store_limits(state->ctx->store)->max_value;
    rc = zp__txn_get(txn, state->ns, change->key, &old);
    if (rc == ZP_ENOKEY)
        zp__no_key(state, change->key);
    if (rc == 0) {
        rc = change->make(change, &old);
        if (rc != 0)
            zp__about_key(change->key, rc);
    }
    if (rc == 0)
        rc = zp__txn_put_kept(txn, state->ns, change->key, change->image,
                              change->size);
    rc = zp__write_end(state, txn, rc);
    free(change->heap);
    return zp__state_done(state, rc);
}

static int
make_sum(edit *change, const zp__item *old)
{
    int64_t value;
    int rc = zp__image_get_int(old->image, old->size, &value);

    if (rc == -ERANGE ||
        (rc == 0 && __builtin_add_overflow(value, change->by, &change->sum)))
        return zp__fail(-EOVERFLOW, "adding %lld would pass the range of int",
                        (long long)change->by);
    if (rc != 0)
        return rc;
    change->image = change->plain;
    change->size = zp__image_int(change->plain, change->sum);
    return 0;
}

static int
make_sum_double(edit *change, const zp__item *old)
{
    double value;
    int rc = zp__image_get_double(old->image, old->size, &value);

    if (rc != 0)
        return rc;
    change->sum_double = value + change->by_double;
    if (isinf(change->sum_double) && !isinf(value) && !isinf(change->by_double))
        return zp__fail(-EOVERFLOW,
                        "adding %g to %g would pass the range of "
                        "double",
                        change->by_double, value);
    change->image = change->plain;
    change->size = zp__image_double(change->plain, change->sum_double);
    return 0;
}

int
zp_increase(zp_state *state, const char *key, int64_t *ret_value, int64_t by)
{
    edit change = {.key = key, .make = make_sum, .by = by};
    int rc = apply(state, &change, 0);

    if (rc == 0 && ret_value != NULL)
        *ret_value = change.sum;
    return rc;
}

int
zp_decrease(zp_state *state, const char *key, int64_t *ret_value, int64_t by)
{
    if (by == INT64_MIN)
        return zp__state_done(state, zp__fail(-EOVERFLOW,
                                              "'%s': decreasing by INT64_MIN",
                                              key == NULL ? "" : key));
    return zp_increase(state, key, ret_value, -by);
}

int
zp_increase_double(zp_state *state, const char *key, double *ret_value,
                   double by)
{
    edit change = {.key = key, .make = make_sum_double, .by_double = by};
    int rc = apply(state, &change, 0);

    if (rc == 0 && ret_value != NULL)
        *ret_value = change.sum_double;
    return rc;
}

static int
make_longer(edit *change, const zp__item *old)
{
    int rc = zp__image_check(old->image, old->size);

    if (rc == 0)
        rc = zp__image_append(&change->heap, &change->size, old->image,
                              old->size, change->element->image,
                              change->element->size, change->max);
    change->image = change->heap;
    return rc;
}

int
zp_append(zp_state *state, const char *key, const char *format, ...)
{
    zp__encoded element;
    edit change = {.key = key, .make = make_longer, .element = &element};
    va_list ap;
    int rc = zp__state_enter(state, key, true);

    if (rc != 0)
        return zp__state_done(state, rc);
    va_start(ap, format);
    rc = zp__encode(&element, format, ap);
    va_end(ap);
    if (rc != 0)
        return zp__state_done(state, zp__about_key(key == NULL ? "" : key, rc));
    rc = apply(state, &change, element.size);
    zp__encoded_free(&element);
    return rc;
}
