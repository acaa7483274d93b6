/*
 * share_keys.c - the keys of a map's results: written, read, found, released.
 *
 * What they are is told in share.h. Whoever can write to the state can write to
 * these; what is read here is checked as all values are, and the records in it
 * where they are taken apart (results.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/leases.h"
#include "reactors/share.h"

#define HEAD "UUUiIs"
#define SEGMENT "uuB"
#define ID "%016llx"
#define PATIENCE 1 /* seconds for the state's lock */

void
zp__share_key(char *key, uint64_t id)
{
    snprintf(key, ZP__SHARE_KEY, ID, (unsigned long long)id);
}

static void
segment_key(char *key, uint64_t id, uint64_t n)
{
    snprintf(key, ZP__SHARE_KEY, ID "." ID, (unsigned long long)id,
             (unsigned long long)n);
}

/* -------------------------------------------------------------------- head --
 */

int
zp__share_get_head(zp_state *state, uint64_t id, zp__share_head *ret)
{
    char key[ZP__SHARE_KEY];
    char *why;
    int rc;

    zp__share_key(key, id);
    rc = zp_get(state, key, HEAD, &ret->segments, &ret->next, &ret->readers,
                &ret->ended, &ret->code, &why);
    if (rc < 0)
        return rc;
    snprintf(ret->why, sizeof ret->why, "%s", why);
    free(why);
    return 0;
}

int
zp__share_put_head(zp_state *txn, uint64_t id, const zp__share_head *head,
                   const zp_set_options *lease)
{
    const char *why = head->why;
    char key[ZP__SHARE_KEY];
    zp_value *value;
    const void *image;
    size_t size;
    int rc;

    zp__share_key(key, id);
    rc = zp_value_new(&value, HEAD, &head->segments, &head->next,
                      &head->readers, &head->ended, &head->code, &why);
    if (rc < 0)
        return rc;
    image = zp_value_image(value, &size);
    rc = lease ? zp_set_value_with(txn, key, lease, value)
               : zp__txn_put_kept(txn->txn, txn->ns, key, image, size);
    zp_value_free(value);
    return rc;
}

/* ---------------------------------------------------------------- segments --
 */

int
zp__share_has(zp_state *state, uint64_t id, uint64_t n)
{
    char key[ZP__SHARE_KEY];

    segment_key(key, id, n);
    return zp_contains(state, key);
}

int
zp__share_get(zp_state *state, uint64_t id, uint64_t n, zp__share_segment *ret)
{
    char key[ZP__SHARE_KEY];

    segment_key(key, id, n);
    return zp_get(state, key, SEGMENT, &ret->piece, &ret->pieces, &ret->bytes);
}

int
zp__share_put(zp_state *txn, uint64_t id, uint64_t n,
              const zp__share_segment *segment, double keep)
{
    zp_set_options lease = {.size = sizeof lease, .ttl = keep};
    char key[ZP__SHARE_KEY];

    segment_key(key, id, n);
    return zp_set_with(txn, key, &lease, SEGMENT, &segment->piece,
                       &segment->pieces, &segment->bytes);
}

int
zp__share_delete(zp_state *txn, uint64_t id, uint64_t n)
{
    char key[ZP__SHARE_KEY];

    segment_key(key, id, n);
    return zp_delete(txn, key);
}

int
zp__share_find(zp_state *txn, uint64_t id, uint64_t from, uint64_t *ret)
{
    char after[ZP__SHARE_KEY], key[ZP__KEY_MAX + 1];
    size_t prefix =
        (size_t)snprintf(after, sizeof after, ID ".", (unsigned long long)id);
    zp__item item;
    int rc;

    if (from)
        segment_key(after, id, from - 1);
    rc = zp__read_next(txn, after, key, &item);
    if (rc <= 0 || strncmp(key, after, prefix) != 0)
        return rc < 0 ? rc : 0;
    *ret = strtoull(key + prefix, NULL, 16);
    return *ret >= from; /* else it is nobody's */
}

int
zp__share_clear(zp_state *txn, uint64_t id)
{
    char key[ZP__SHARE_KEY];
    uint64_t n = 0;
    int rc;

    while ((rc = zp__share_find(txn, id, n, &n)) > 0 && rc == 1) {
        rc = zp__share_delete(txn, id, n++);
        if (rc < 0)
            return rc;
    }
    zp__share_key(key, id);
    return rc < 0 ? rc : zp_delete(txn, key);
}

int
zp__share_last(zp_state *state, zp_atomic_fn *fn, void *user)
{
    zp_ctx *ctx = state->ctx;
    bool dying = ctx->dying;
    int rc;

    ctx->dying = false;
    rc = zp__atomic(state, fn, user,
                    ctx->lock_timeout < PATIENCE ? ctx->lock_timeout : PATIENCE,
                    true);
    ctx->dying = dying;
    return rc;
}
