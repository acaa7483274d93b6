/*
 * dict.c - a namespace as a whole: iteration, update, replace, clear,
 * equality, popitem.
 *
 * Iterating steps from key to key (a search each: the tree is not held still
 * by a cursor, so that the application may do what it likes in between) on a
 * view that shows one revision. What writes many keys is one transaction; on a
 * transaction a nested one, so that it happens whole or not at all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/leases.h"
#include "core/state.h"

struct zp_iter {
    zp_state state;  /* what is read: a copy, perhaps with a view of its own */
    uint64_t writes; /* of the transaction when it began */
    bool begun;
    bool ended;
    char key[ZP__KEY_MAX + 1];
    zp_value *value;
};

/* ---- iteration ---- */

int
zp__reading_open(zp_state *state, zp_state *ret)
{
    int rc;

    *ret = *state;
    ret->embedded = true;
    ret->owns_view = false;
    ret->next = ret->prev = NULL;
    if (state->kind != ZP__LIVE)
        return zp__read_begin(ret);
    rc = zp__view_new(&ret->view, state->ctx->store);
    if (rc != 0)
        return rc;
    rc = zp__view_begin(ret->view);
    if (rc != 0)
        zp__view_free(ret->view);
    ret->owns_view = rc == 0;
    return rc;
}

/* Read STATE through the view of READING: both at one revision. */
static void
share_reading(const zp_state *state, const zp_state *reading, zp_state *ret)
{
    *ret = *state;
    ret->embedded = true;
    ret->next = ret->prev = NULL;
    ret->view = reading->view;
    ret->owns_view = false;
}

void
zp__reading_close(zp_state *reading)
{
    if (reading->owns_view)
        zp__view_free(reading->view);
}

int
zp_iter_new(zp_state *state, zp_iter **ret_iter)
{
    zp_iter *iter;
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0 && ret_iter == NULL)
        rc = zp__fail(-EINVAL, "ret_iter is NULL");
    if (rc != 0)
        return zp__state_done(state, rc);
    iter = calloc(1, sizeof *iter);
    if (iter == NULL)
        return zp__state_done(state, zp__fail(-ENOMEM, "iterating"));
    rc = zp__reading_open(state, &iter->state);
    if (rc != 0) {
        free(iter);
        return zp__state_done(state, rc);
    }
    if (state->kind == ZP__TXN)
        iter->writes = zp__txn_writes(state->txn);
    *ret_iter = iter;
    return 0;
}

zp_iter *
zp_iter_free(zp_iter *iter)
{
    if (iter == NULL || iter->state.token != zp__token())
        return NULL;
    zp__reading_close(&iter->state);
    zp_value_free(iter->value);
    free(iter);
    return NULL;
}

/* Keep ITEM's image as the iterator's value. */
static int
keep_value(zp_iter *iter, const zp__item *item)
{
    int rc = zp__need_image(iter->key, item);

    if (rc != 0)
        return rc;
    rc = zp__image_check(item->image, item->size);
    if (rc != 0)
        return zp__about_key(iter->key, rc);
    return iter->value == NULL
               ? zp__value_copy(&iter->value, item->image, item->size)
               : zp__value_assign(iter->value, item->image, item->size);
}

static int
step(zp_iter *iter, zp__item *item)
{
    zp_state *state = &iter->state;
    int rc = zp__state_enter(state, NULL, false);

    if (rc != 0 || iter->ended)
        return rc;
    if (state->kind == ZP__TXN && zp__txn_writes(state->txn) != iter->writes)
        return zp__fail(-ESTALE, "the transaction was written to since the "
                                 "iterator was made");
    rc = zp__read_begin(state);
    if (rc == 0)
        rc = zp__read_next(state, iter->begun ? iter->key : NULL, iter->key,
                           item);
    iter->begun = true;
    iter->ended = rc == 0;
    return rc;
}

int
zp_iter_next(zp_iter *iter, const char **ret_key, const zp_value **ret_value)
{
    zp__item item;
    int rc;

    if (iter == NULL)
        return zp__fail(-EINVAL, "the iterator is NULL");
    rc = step(iter, &item);
    if (rc == 1 && ret_value != NULL) {
        rc = keep_value(iter, &item);
        if (rc == 0)
            rc = 1;
    }
    if (rc != 1)
        return zp__state_done(&iter->state, rc);
    if (ret_key != NULL)
        *ret_key = iter->key;
    if (ret_value != NULL)
        *ret_value = iter->value;
    return 1;
}

int
zp_length(zp_state *state, uint64_t *ret_length)
{
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0 && ret_length == NULL)
        rc = zp__fail(-EINVAL, "ret_length is NULL");
    if (rc == 0)
        rc = zp__read_begin(state);
    if (rc != 0)
        return zp__state_done(state, rc);
    if (state->kind == ZP__TXN)
        rc = zp__txn_length(state->txn, state->ns, ret_length);
    else
        rc = zp__view_length(state->view, state->ns,
                             state->kind == ZP__SNAPSHOT ? state->revision
                                                         : ZP__NEWEST,
                             ret_length);
    zp__read_end(state);
    return zp__state_done(state, rc);
}

/* ---- equality ---- */

static int
compare(zp_state *a, zp_state *b)
{
    char key_a[ZP__KEY_MAX + 1], key_b[ZP__KEY_MAX + 1];
    zp__item item_a, item_b;
    const char *after_a = NULL, *after_b = NULL;

    for (;;) {
        int more_a = zp__read_next(a, after_a, key_a, &item_a);
        int more_b = zp__read_next(b, after_b, key_b, &item_b);
        if (more_a < 0 || more_b < 0)
            return more_a < 0 ? more_a : more_b;
        if (more_a != more_b)
            return 0;
        if (more_a == 0)
            return 1;
        if (strcmp(key_a, key_b) != 0 || item_a.size != item_b.size)
            return 0;
        int rc = zp__need_image(key_a, &item_a);
        if (rc == 0)
            rc = zp__need_image(key_b, &item_b);
        if (rc != 0)
            return rc;
        if (memcmp(item_a.image, item_b.image, item_a.size) != 0)
            return 0;
        after_a = key_a;
        after_b = key_b;
    }
}

int
zp_equal(zp_state *a, zp_state *b)
{
    zp_state one, two;
    int rc = zp__state_enter(a, NULL, false);

    if (rc != 0)
        return zp__state_done(a, rc);
    rc = zp__state_enter(b, NULL, false);
    if (rc == 0)
        rc = zp__reading_open(a, &one);
    if (rc != 0)
        return zp__state_done(a, rc);
    if (one.owns_view && b->kind == ZP__LIVE && a->ctx->store == b->ctx->store)
        share_reading(b, &one, &two);
    else
        rc = zp__reading_open(b, &two);
    if (rc == 0) {
        rc = compare(&one, &two);
        zp__reading_close(&two);
    }
    zp__reading_close(&one);
    return zp__state_done(a, rc);
}

/* ---- many keys at once ---- */

static int
check_pairs(const zp_pair *pairs, size_t n, size_t *ret_need)
{
    size_t need = 0;

    if (pairs == NULL && n > 0)
        return zp__fail(-EINVAL, "the pairs are NULL");
    for (size_t i = 0; i < n; i++) {
        size_t size;
        int rc = zp__key_check(pairs[i].key);
        if (rc != 0)
            return rc;
        if (pairs[i].value == NULL)
            return zp__fail(-EINVAL, "the value for '%s' is NULL",
                            pairs[i].key);
        zp_value_image(pairs[i].value, &size);
        need += size;
    }
    *ret_need = need;
    return 0;
}

int
zp_update(zp_state *state, const zp_pair *pairs, size_t n)
{
    zp__txn *txn;
    size_t need = 0;
    int rc = zp__state_enter(state, NULL, true);

    if (rc == 0)
        rc = check_pairs(pairs, n, &need);
    if (rc == 0)
        rc = zp__write_begin_many(state, &txn, need, false);
    if (rc != 0)
        return zp__state_done(state, rc);
    for (size_t i = 0; i < n && rc == 0; i++) {
        size_t size;
        const void *image = zp_value_image(pairs[i].value, &size);
        rc = zp__txn_put(txn, state->ns, pairs[i].key, image, size);
    }
    return zp__state_done(state, zp__write_end_many(state, txn, rc));
}

/* Is ITEM what the transaction has at KEY? Then it is not written, but becomes
 * an ordinary key like all that are. */
static int
has_equal(zp__txn *txn, const char *ns, const char *key, const zp__item *item)
{
    zp__item mine;
    int rc = zp__txn_get(txn, ns, key, &mine);

    if (rc == ZP_ENOKEY)
        return 0;
    if (rc != 0)
        return rc;
    if (mine.size != item->size ||
        memcmp(mine.image, item->image, item->size) != 0)
        return 0;
    rc = mine.leased ? zp__txn_set_lease(txn, ns, key, NULL) : 0;
    return rc == 0 ? 1 : rc;
}

/* The image may lie in the very transaction that is written: then LMDB may
 * move it while it is read. */
static int
put_copy(zp__txn *txn, const char *ns, const char *key, const zp__item *item)
{
    void *copy = malloc(item->size);

    if (copy == NULL)
        return zp__fail(-ENOMEM, "copying '%s'", key);
    memcpy(copy, item->image, item->size);
    int rc = zp__txn_put(txn, ns, key, copy, item->size);
    free(copy);
    return rc;
}

static int
copy_all(zp__txn *txn, const char *ns, zp_state *from)
{
    char key[ZP__KEY_MAX + 1];
    const char *after = NULL;
    zp__item item;
    int rc;

    while ((rc = zp__read_next(from, after, key, &item)) == 1) {
        rc = zp__need_image(key, &item);
        if (rc == 0)
            rc = has_equal(txn, ns, key, &item);
        if (rc == 0)
            rc = put_copy(txn, ns, key, &item);
        if (rc < 0)
            return rc;
        after = key;
    }
    return rc;
}

/* Delete what TXN has and FROM has not. */
static int
delete_others(zp__txn *txn, const char *ns, zp_state *from)
{
    char key[ZP__KEY_MAX + 1];
    const char *after = NULL;
    zp__item item;
    int rc;

    while ((rc = zp__txn_next(txn, ns, after, key, &item)) == 1) {
        after = key;
        rc = from == NULL ? ZP_ENOKEY : zp__read_get(from, key, &item);
        if (rc == ZP_ENOKEY)
            rc = zp__txn_delete(txn, ns, key);
        if (rc != 0)
            return rc;
    }
    return rc;
}

/* FROM inside of a transaction is read in it: nested like the writing. */
static int
open_source(zp_state *other, zp_state *ret)
{
    int rc = zp__reading_open(other, ret);

    if (rc == 0 && ret->kind == ZP__TXN)
        ret->depth = zp__txn_depth(ret->txn);
    return rc;
}

static int
take_over(zp_state *state, zp_state *other, bool replace)
{
    zp_state from;
    zp__txn *txn;
    int rc = zp__state_enter(state, NULL, true);

    if (rc == 0)
        rc = zp__state_enter(other, NULL, false);
    if (rc == 0)
        rc = zp__write_begin_many(state, &txn, 0, false);
    if (rc != 0)
        return zp__state_done(state, rc);
    rc = open_source(other, &from);
    if (rc == 0) {
        if (replace)
            rc = delete_others(txn, state->ns, &from);
        if (rc == 0)
            rc = copy_all(txn, state->ns, &from);
        zp__reading_close(&from);
    }
    return zp__state_done(state, zp__write_end_many(state, txn, rc));
}

int
zp_update_from(zp_state *state, zp_state *other)
{
    return take_over(state, other, false);
}

int
zp_replace(zp_state *state, zp_state *other)
{
    return take_over(state, other, true);
}

int
zp_clear(zp_state *state)
{
    zp__txn *txn;
    int rc = zp__state_enter(state, NULL, true);

    if (rc == 0)
        rc = zp__write_begin_many(state, &txn, 0, true);
    if (rc != 0)
        return zp__state_done(state, rc);
    rc = delete_others(txn, state->ns, NULL);
    return zp__state_done(state, zp__write_end_many(state, txn, rc));
}

/* ---- popitem ---- */

/* Copies of the youngest key and its value, taken out of the transaction. */
static int
take_youngest(zp__txn *txn, const zp_state *state, char **ret_key,
              zp_value **ret_value)
{
    char key[ZP__KEY_MAX + 1];
    zp__item item;
    int rc = zp__txn_youngest(txn, state->ns, key, &item);

    if (rc == ZP_ENOKEY)
        return zp__fail(rc, "namespace '%s' is empty", state->ns);
    if (rc == 0)
        rc = zp__image_check(item.image, item.size);
    if (rc == 0)
        rc = zp__value_copy(ret_value, item.image, item.size);
    if (rc != 0)
        return rc;
    *ret_key = strdup(key);
    rc = *ret_key == NULL ? zp__fail(-ENOMEM, "popping '%s'", key)
                          : zp__txn_delete(txn, state->ns, key);
    if (rc != 0) {
        free(*ret_key);
        zp_value_free(*ret_value);
    }
    return rc;
}

int
zp_popitem(zp_state *state, char **ret_key, zp_value **ret_value)
{
    zp__txn *txn;
    char *key;
    zp_value *value;
    int rc = zp__state_enter(state, NULL, true);

    if (rc == 0 && (ret_key == NULL || ret_value == NULL))
        rc = zp__fail(-EINVAL, "ret_key or ret_value is NULL");
    if (rc == 0)
        rc = zp__write_begin_many(state, &txn, 0, true);
    if (rc != 0)
        return zp__state_done(state, rc);
    int taken = take_youngest(txn, state, &key, &value);
    rc = zp__write_end_many(state, txn, taken);
    if (rc == 0) {
        *ret_key = key;
        *ret_value = value;
    } else if (taken == 0) {
        free(key);
        zp_value_free(value);
    }
    return zp__state_done(state, rc);
}
