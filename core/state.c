/*
 * state.c - handles: a namespace live, in a transaction, or at a revision; and
 * the one place where reading and writing part according to that.
 *
 * A read begins the context's view, looks, copies out and ends it: no pages
 * stay pinned. A write commits before it returns. Inside a transaction the
 * same functions go to the transaction; on a snapshot they go to its view,
 * which is held until the snapshot is freed.
 */
#include "core/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- handles ---- */

static void
fill_state(zp_state *state, zp_ctx *ctx, enum zp__kind kind, const char *ns)
{
    memset(state, 0, sizeof *state);
    state->token = ctx->token;
    state->ctx = ctx;
    state->kind = kind;
    strcpy(state->ns, ns);
}

static int
make_state(zp_state **ret, zp_ctx *ctx, enum zp__kind kind, const char *ns)
{
    zp_state *state = malloc(sizeof *state);

    if (state == NULL)
        return zp__fail(-ENOMEM, "making a state handle");
    fill_state(state, ctx, kind, ns);
    *ret = state;
    return 0;
}

static void
link_state(zp_state *state)
{
    zp_ctx *ctx = state->ctx;

    state->next = ctx->states;
    if (ctx->states != NULL)
        ctx->states->prev = state;
    ctx->states = state;
}

static void
unlink_state(zp_state *state)
{
    if (state->prev != NULL)
        state->prev->next = state->next;
    else if (state->ctx->states == state)
        state->ctx->states = state->next;
    if (state->next != NULL)
        state->next->prev = state->prev;
}

void
zp__state_embed(zp_state *state, zp_ctx *ctx, zp__view *view, const char *ns,
                uint64_t revision)
{
    fill_state(state, ctx, ZP__SNAPSHOT, ns);
    state->embedded = true;
    state->view = view;
    state->revision = revision;
}

int
zp__state_adopt(zp_state **ret, zp_ctx *ctx, zp__view *view, const char *ns,
                uint64_t revision)
{
    zp_state *snapshot = NULL;
    int rc = make_state(&snapshot, ctx, ZP__SNAPSHOT, ns);

    if (rc != 0)
        return rc;
    snapshot->view = view;
    snapshot->owns_view = true;
    snapshot->revision = revision;
    link_state(snapshot);
    *ret = snapshot;
    return 0;
}

int
zp__state_new(zp_state **ret, zp_ctx *ctx, const char *ns)
{
    zp_state *state = NULL;
    int rc = zp__ns_check(ns);

    if (rc == 0)
        rc = make_state(&state, ctx, ZP__LIVE, ns);
    if (rc != 0)
        return rc;
    state->view = ctx->view;
    state->writer = zp__board_writer(ctx->board);
    link_state(state);
    *ret = state;
    return 0;
}

static bool
txn_is_over(const zp_state *state)
{
    return zp__txn_serial(state->txn) != state->serial;
}

int
zp__state_enter(const zp_state *state, const char *key, bool write)
{
    int rc;

    if (state == NULL)
        return zp__fail(-EINVAL, "the state is NULL");
    rc = zp__ctx_enter(state->token == zp__token() ? state->ctx : NULL);
    if (rc != 0)
        return state->token == zp__token()
                   ? rc
                   : zp__fail(ZP_EFORK, "a state handle from before a fork");
    if (state->kind == ZP__TXN && txn_is_over(state))
        return zp__fail(-EINVAL, "the atomic operation is over");
    if (state->kind == ZP__TXN && zp__txn_depth(state->txn) != state->depth)
        return zp__fail(-EDEADLK, "an atomic operation nested in this one is "
                                  "running: use its own handle");
    if (write && state->kind == ZP__SNAPSHOT)
        return zp__fail(-EROFS, "a snapshot cannot be written");
    return key == NULL ? 0 : zp__key_check(key);
}

int
zp__state_done(const zp_state *state, int rc)
{
    if (rc >= 0)
        return rc;
    return zp__ctx_done(
        state != NULL && state->token == zp__token() ? state->ctx : NULL, rc);
}

int
zp_state_clone(zp_state *state, zp_state **ret_state, const char *ns)
{
    zp_state *clone = NULL;
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0 && ret_state == NULL)
        rc = zp__fail(-EINVAL, "ret_state is NULL");
    if (rc == 0 && ns != NULL)
        rc = zp__ns_check(ns);
    if (rc != 0)
        return zp__state_done(state, rc);
    if (ns == NULL)
        ns = state->ns;
    if (state->kind == ZP__LIVE)
        return zp__state_done(state, zp__state_new(ret_state, state->ctx, ns));
    rc = make_state(&clone, state->ctx, state->kind, ns);
    if (rc != 0)
        return zp__state_done(state, rc);
    clone->view = state->view;
    clone->txn = state->txn;
    clone->serial = state->serial;
    clone->depth = state->depth;
    clone->revision = state->revision;
    clone->writer = state->writer;
    link_state(clone);
    *ret_state = clone;
    return 0;
}

zp_state *
zp_state_free(zp_state *state)
{
    if (state == NULL || state->token != zp__token() || state->embedded ||
        state == state->ctx->state)
        return NULL;
    if (state->kind == ZP__LIVE && state->ctx->feed_state_gone != NULL)
        state->ctx->feed_state_gone(state->ctx, state);
    unlink_state(state);
    if (state->owns_view)
        zp__view_free(state->view);
    free(state);
    return NULL;
}

const char *
zp_state_ns(const zp_state *state)
{
    return state == NULL ? "" : state->ns;
}

zp_ctx *
zp_state_ctx(const zp_state *state)
{
    return state == NULL ? NULL : state->ctx;
}

/* ---- snapshots ---- */

static int
snapshot_at(zp_state *state, zp_state **ret, uint64_t revision)
{
    zp_state *snapshot = NULL;
    uint64_t head = 0, tail = 0;
    int rc = make_state(&snapshot, state->ctx, ZP__SNAPSHOT, state->ns);

    if (rc != 0)
        return rc;
    rc = zp__view_new(&snapshot->view, state->ctx->store);
    if (rc == 0)
        rc = zp__view_begin(snapshot->view);
    if (rc == 0)
        rc = zp__view_range(snapshot->view, &head, &tail);
    if (rc == 0 && revision == ZP__NEWEST)
        revision = head;
    if (rc == 0 && revision > head)
        rc = zp__fail(-ERANGE, "revision %llu is not yet, the newest is %llu",
                      (unsigned long long)revision, (unsigned long long)head);
    if (rc == 0 && revision + 1 < tail)
        rc = zp__fail(ZP_EGONE,
                      "revision %llu is gone, the oldest kept is "
                      "%llu",
                      (unsigned long long)revision,
                      (unsigned long long)(tail - 1));
    if (rc != 0) {
        zp__view_free(snapshot->view);
        free(snapshot);
        return rc;
    }
    snapshot->owns_view = true;
    snapshot->revision = revision;
    link_state(snapshot);
    *ret = snapshot;
    return 0;
}

int
zp_at(zp_state *state, zp_state **ret_snapshot, uint64_t revision)
{
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0 && ret_snapshot == NULL)
        rc = zp__fail(-EINVAL, "ret_snapshot is NULL");
    if (rc == 0 && state->kind == ZP__TXN)
        rc = zp__fail(-EINVAL, "a transaction has no snapshots");
    if (rc == 0)
        rc = snapshot_at(state, ret_snapshot, revision);
    return zp__state_done(state, rc);
}

int
zp_snapshot(zp_state *state, zp_state **ret_snapshot)
{
    bool fixed = state != NULL && state->kind == ZP__SNAPSHOT;
    return zp_at(state, ret_snapshot, fixed ? state->revision : ZP__NEWEST);
}

int
zp_retained(zp_state *snapshot)
{
    uint64_t head, tail;
    int rc = zp__state_enter(snapshot, NULL, false);

    if (rc == 0 && snapshot->kind != ZP__SNAPSHOT)
        rc = zp__fail(-EINVAL, "not a snapshot, but %s",
                      snapshot->kind == ZP__TXN ? "in an atomic operation"
                                                : "a live state");
    if (rc == 0)
        rc = zp__view_begin(snapshot->ctx->view);
    if (rc != 0)
        return zp__state_done(snapshot, rc);
    rc = zp__view_range(snapshot->ctx->view, &head, &tail);
    zp__view_end(snapshot->ctx->view);
    if (rc == 0)
        rc = snapshot->revision + 1 >= tail;
    return zp__state_done(snapshot, rc);
}

int
zp_revision(zp_state *state, uint64_t *ret_revision)
{
    uint64_t tail;
    int rc = zp__state_enter(state, NULL, false);

    if (rc == 0 && ret_revision == NULL)
        rc = zp__fail(-EINVAL, "ret_revision is NULL");
    if (rc != 0)
        return zp__state_done(state, rc);
    if (state->kind == ZP__SNAPSHOT) {
        *ret_revision = state->revision;
    } else if (state->kind == ZP__TXN) {
        *ret_revision = zp__txn_revision(state->txn);
    } else {
        rc = zp__read_begin(state);
        if (rc == 0) {
            rc = zp__view_range(state->view, ret_revision, &tail);
            zp__read_end(state);
        }
    }
    return zp__state_done(state, rc);
}

/* ---- reading and writing, whatever the kind ---- */

int
zp__read_begin(zp_state *state)
{
    return state->kind == ZP__TXN ? 0 : zp__view_begin(state->view);
}

void
zp__read_end(zp_state *state)
{
    if (state->kind == ZP__LIVE)
        zp__view_end(state->view);
}

static uint64_t
read_revision(const zp_state *state)
{
    return state->kind == ZP__SNAPSHOT ? state->revision : ZP__NEWEST;
}

int
zp__no_key(const zp_state *state, const char *key)
{
    return zp__fail(ZP_ENOKEY, "no key '%s' in namespace '%s'", key, state->ns);
}

int
zp__about_key(const char *key, int rc)
{
    char text[ZP__ERROR_MAX];

    strncpy(text, zp__fail_text(), sizeof text - 1);
    text[sizeof text - 1] = '\0';
    return zp__fail(rc, "'%s': %s", key, text);
}

int
zp__read_get(zp_state *state, const char *key, zp__item *ret)
{
    int rc = state->kind == ZP__TXN
                 ? zp__txn_get(state->txn, state->ns, key, ret)
                 : zp__view_get(state->view, state->ns, key,
                                read_revision(state), ret);
    return rc == ZP_ENOKEY ? zp__no_key(state, key) : rc;
}

int
zp__need_image(const char *key, const zp__item *item)
{
    if (item->image != NULL)
        return 0;
    return zp__fail(ZP_EGONE,
                    "the old value of '%s' had %zu bytes: it was too large to "
                    "be kept",
                    key, item->size);
}

int
zp__read_next(zp_state *state, const char *after, char *ret_key, zp__item *ret)
{
    return state->kind == ZP__TXN
               ? zp__txn_next(state->txn, state->ns, after, ret_key, ret)
               : zp__view_next(state->view, state->ns, after,
                               read_revision(state), ret_key, ret);
}

int
zp__write_begin(zp_state *state, zp__txn **ret, size_t need, bool deletes)
{
    if (state->kind == ZP__TXN) {
        *ret = state->txn;
        return 0;
    }
    return zp__txn_begin(state->ctx->store, ret, state->writer,
                         state->ctx->lock_timeout, need, deletes);
}

int
zp__write_end(zp_state *state, zp__txn *txn, int rc)
{
    if (state->kind == ZP__TXN)
        return rc;
    if (rc < 0) {
        zp__txn_abort(txn);
        return rc;
    }
    int committed = zp__txn_commit(txn, NULL);
    return committed < 0 ? committed : rc;
}

int
zp__write_begin_many(zp_state *state, zp__txn **ret, size_t need, bool deletes)
{
    int rc = zp__write_begin(state, ret, need, deletes);

    if (rc == 0 && state->kind == ZP__TXN)
        rc = zp__txn_nest(*ret);
    return rc;
}

int
zp__write_end_many(zp_state *state, zp__txn *txn, int rc)
{
    if (state->kind != ZP__TXN)
        return zp__write_end(state, txn, rc);
    int ended = zp__txn_unnest(txn, rc >= 0);
    return rc >= 0 && ended < 0 ? ended : rc;
}

int
zp__write_image(zp_state *state, const char *key, const void *image,
                size_t size)
{
    zp__txn *txn;
    int rc = zp__write_begin(state, &txn, size, false);

    if (rc != 0)
        return rc;
    rc = zp__txn_put(txn, state->ns, key, image, size);
    return zp__write_end(state, txn, rc);
}
