/*
 * context.h - a process's connection to a state: what hangs together.
 *
 * zp_ctx owns the loop, the store's reference, the state handles, the children
 * and, through hooks (core never includes reactors), the feed. It dies in one
 * order: children, feed, handles, loop, store, place. Inside its own callbacks
 * zp_ctx_free() only marks it; the outermost zp__ctx_leave() does it.
 *
 * context.c has birth and death; wait.c what stands around each call, callback
 * and nested run; guard.c the watch over the state server.
 */
#ifndef ZP_CORE_CONTEXT_H
#define ZP_CORE_CONTEXT_H

#include "core/client.h"
#include "core/error.h"
#include "core/fork.h"
#include "core/loop.h"
#include "core/store.h"

struct zp_ctx {
    uint64_t token; /* zp__token() of its process */
    zp__place place;
    zp__store *store;
    zp__board *board; /* the store's */
    zp__view *view;   /* for plain reads: begun and ended within a call */
    zp__loop *loop;
    zp__client *client;      /* of the state server; made on demand */
    zp_state *state;         /* the default handle */
    zp_state *states;        /* all handles, linked */
    zp_proc *procs;          /* children, oldest first */
    zp_spawn_options *spawn; /* defaults for them; NULL: none */
    struct zp__ends *ends;   /* who waits for several, innermost first */
    int ready_fd;            /* an eventfd: a child has become ready; -1 */
    zp__owned *ready_owned;
    zp__handle *ready_watch;
    double unsettled;  /* until then no record waits for the lock again */
    unsigned attempts; /* children that run: while there are some, it is open */
    struct zp__feed *feed; /* of reactors; NULL until the first watch */
    void (*feed_free)(zp_ctx *ctx);
    void (*feed_state_gone)(zp_ctx *ctx, zp_state *state);
    void (*feed_stats)(zp_ctx *ctx, zp_stats *stats);
    void (*feed_server_new)(zp_ctx *ctx); /* guarded: another server serves */
    void (*feed_closed)(zp_ctx *ctx);     /* guarded: the state was closed */
    void (*feed_waiting)(zp_ctx *ctx);    /* a nested run begins */
    struct zp__crews *crews; /* of reactors; NULL until the first swarm */
    void *worker;            /* of reactors; NULL: it is none of a swarm */
    void (*worker_free)(zp_ctx *ctx);
    void (*swarms_free)(zp_ctx *ctx);
    void (*swarms_leave)(zp_ctx *ctx);  /* ... when all is done: waits */
    void (*swarms_unheld)(zp_ctx *ctx); /* callbacks are not held back now */
    struct zp__guard *guard; /* the watch over the server; NULL: none */
    struct zp__wait *waits;  /* nested runs on the stack, innermost first */
    zp__handle *tick;        /* while something waits: was the state closed? */
    unsigned ticks;
    bool owner;     /* made the state: closes it */
    bool leaving;   /* zp_ctx_free() is at work */
    bool dying;     /* zp_ctx_free() inside a callback, or past waiting */
    unsigned depth; /* callbacks of this context on the stack */
    unsigned holds; /* waits on the stack that hold callbacks back */
    unsigned flags;
    double lock_timeout;
    double start_timeout;
    double grace;
    double longest_callback;
    double waited; /* seconds in nested runs, so far */
    uint64_t events;
    struct zp__child *child; /* in a spawned child: what zp_return() keeps */
    int error_code;          /* what `error` is about */
    char ns[ZP__NS_MAX + 1];
    char error[ZP__ERROR_MAX];
};

void zp__child_waits(zp_ctx *ctx); /* child.c: see below */

/* Every public entry begins with this: 0, -EINVAL, ZP_EFORK, ZP_ECLOSED. */
int zp__ctx_enter(const zp_ctx *ctx);

/* The same for what makes sense on a closed state, too: 0, -EINVAL, ZP_EFORK.
 */
int zp__ctx_check(const zp_ctx *ctx);

/* ... and ends with this: keeps the text of a failure (RC < 0) in CTX, which
 * may be NULL; returns RC. */
int zp__ctx_done(const zp_ctx *ctx, int rc);

/* Around each function of the application's that may free CTX: unpin frees a
 * dying context at depth 0 (returns true: it is gone). */
void zp__ctx_pin(zp_ctx *ctx);
bool zp__ctx_unpin(zp_ctx *ctx);

/* Around each callback of CTX, which is one of these: takes the time, without
 * that of the nested runs in it; leave hands a negative RC of the callback to
 * zp__loop_stop(). */
double zp__ctx_call(zp_ctx *ctx);
bool zp__ctx_leave(zp_ctx *ctx, double called, int rc);

/* Around each nested run, likewise counted: a run that waits for *DONE.
 * -EDEADLK inside an atomic operation; ends with ZP_ECLOSED when the context
 * is freed or the state closed meanwhile: then CTX must not be touched if
 * *RET_GONE. Likewise ZP_EFORK, in a child that a callback has forked. */
int zp__ctx_wait(zp_ctx *ctx, const bool *done, double timeout, bool *ret_gone);

/* In a child: it waits, or its watches are confirmed. Nothing elsewhere. */
static inline void
zp__ctx_waits(zp_ctx *ctx)
{
    if (ctx->child)
        zp__child_waits(ctx);
}

/* The last wait that held callbacks back is over. */
void zp__procs_unheld(zp_ctx *ctx);

/* -EDEADLK with a text that names WHAT inside an atomic operation, else 0. */
int zp__ctx_may_wait(const char *what);

/* What zp_ctx_free() does outside of callbacks: CTX is gone afterwards, and
 * the runs on the stack have been told. */
void zp__ctx_destroy(zp_ctx *ctx);
void zp__ctx_waits_gone(zp_ctx *ctx);

/* Watch over the state server from the loop: start it again when it dies while
 * the owner lives, and say so to feed_server_new; else mark the state closed,
 * end what waits and say so to feed_closed (which may free nothing but its
 * own). Guarding twice is guarding once. -EMFILE, -ENOMEM. */
int zp__ctx_guard_server(zp_ctx *ctx);
void zp__ctx_unguard_server(zp_ctx *ctx);

/* The zmq context, made on demand: 0, or an error. */
int zp__ctx_zmq(zp_ctx *ctx, void **ret);

/* Has the state been closed, or has its owner ended without a server to tell
 * (looked for only with THOROUGH)? Then it is marked as closed. */
bool zp__ctx_closed(zp_ctx *ctx, bool thorough);

/* The struct ev_loop (as in zp_ev.h, which would bring ev.h). */
ZP_API struct ev_loop *zp_ev_loop(zp_ctx *ctx);

/* The context of a child on PLACE (in the child, after zp__fork_child()). */
int zp__ctx_child(zp_ctx **ret, const zp__place *place, const char *ns,
                  const zp_ctx *parent);

#endif
