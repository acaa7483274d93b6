/*
 * state.h - zp_state: a namespace seen live, in a transaction, or at a
 * revision. The three differ only in where they read and whether they write;
 * state.c has single keys, dict.c whole namespaces, atomic.c transactions.
 */
#ifndef ZP_CORE_STATE_H
#define ZP_CORE_STATE_H

#include "core/context.h"
#include "core/value.h"

enum zp__kind { ZP__LIVE = 1, ZP__TXN, ZP__SNAPSHOT };

struct zp_state {
    uint64_t token;
    zp_ctx *ctx;
    enum zp__kind kind;
    bool embedded;  /* lives in another object: not freed by the user */
    zp__view *view; /* LIVE: the context's; SNAPSHOT: its own or borrowed */
    bool owns_view;
    zp__txn *txn; /* TXN; with serial and depth it is this very one */
    uint64_t serial;
    int depth;
    uint64_t revision; /* SNAPSHOT */
    uint64_t writer;   /* LIVE, TXN: id of the handle */
    char ns[ZP__NS_MAX + 1];
    zp_state *next; /* in ctx->states (not the embedded ones) */
    zp_state *prev;
};

/* Make STATE (embedded in another object) a snapshot of NS at REVISION read
 * through VIEW, which is borrowed. If VIEW has been ended, the next read
 * begins it again and gives ZP_EGONE if retention has passed REVISION. */
void zp__state_embed(zp_state *state, zp_ctx *ctx, zp__view *view,
                     const char *ns, uint64_t revision);

/* A snapshot of NS at REVISION, to be freed like any other, that takes VIEW,
 * which has been begun. */
int zp__state_adopt(zp_state **ret, zp_ctx *ctx, zp__view *view, const char *ns,
                    uint64_t revision);

/* A handle of CTX on namespace NS, live. */
int zp__state_new(zp_state **ret, zp_ctx *ctx, const char *ns);

/* Every public entry: checks pointer, token, context; WRITE: -EROFS on a
 * snapshot. KEY may be NULL (none to check). */
int zp__state_enter(const zp_state *state, const char *key, bool write);
int zp__state_done(const zp_state *state, int rc);

/* Reading, whatever the kind: begin, then get/next/length, then end. */
int zp__read_begin(zp_state *state);
void zp__read_end(zp_state *state);
int zp__read_get(zp_state *state, const char *key, zp__item *ret);
int zp__read_next(zp_state *state, const char *after, char *ret_key,
                  zp__item *ret);

/* Make RET, to be embedded, read STATE as it is now, by itself, for as long as
 * one likes: a live one through a view of its own. */
int zp__reading_open(zp_state *state, zp_state *ret);
void zp__reading_close(zp_state *reading);

/* Has KEY's ITEM an image? Else it was too large to be kept: ZP_EGONE. */
int zp__need_image(const char *key, const zp__item *item);

/* Writing, whatever the kind: a txn begun (live) or the one it is in, and its
 * end: commit if RC >= 0. Returns RC or the commit's error. */
int zp__write_begin(zp_state *state, zp__txn **ret, size_t need, bool deletes);
int zp__write_end(zp_state *state, zp__txn *txn, int rc);

/* The same for what takes several writes: all or nothing in a TXN as well. */
int zp__write_begin_many(zp_state *state, zp__txn **ret, size_t need,
                         bool deletes);
int zp__write_end_many(zp_state *state, zp__txn *txn, int rc);

/* Put an image: the whole of a set. */
int zp__write_image(zp_state *state, const char *key, const void *image,
                    size_t size);

/* As zp_atomic(), on a live STATE, for FNs of our own: they leave it alone. It
 * waits PATIENCE seconds for the lock; DELETES: what FN writes makes room, and
 * may use what is kept for that. */
int zp__atomic(zp_state *state, zp_atomic_fn *fn, void *user, double patience,
               bool deletes);

/* "no such key" with KEY and namespace; RC with the key before its text. */
int zp__no_key(const zp_state *state, const char *key);
int zp__about_key(const char *key, int rc);

#endif
