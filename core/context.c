/*
 * context.c - how a context comes to be (new, attached, in a child) and ends.
 *
 * All three ways meet in connect(): the store with its board, a view for plain
 * reads, the loop, the default handle. What differs is how the state was found
 * and who answers for it:
 *
 *     new       makes the state, starts its server, is its owner
 *     attach    finds it, starts a dead server again while the owner lives
 *     child     is told where it is; relies on its parent for the rest
 *
 * Everything is undone in reverse by zp__ctx_destroy(), from whatever point
 * was reached: so a failed zp_ctx_new() leaves no file and no process either.
 *
 * In the owner the end of the context is the end of the state: when
 * zp_ctx_free() returns, the children are reaped, the server has gone, and the
 * run directory with it.
 */
#include "core/context.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/create.h"
#include "core/process.h"
#include "core/state.h"

#define CLOSE_MAX 2.0  /* seconds for the server's farewell */
#define STATS_MAX 4096 /* bytes of a struct that anybody could mean */

/* --------------------------------------------------------------- birth -- */

static int
ctx_alloc(zp_ctx **ret, const zp_ctx_options *options)
{
    zp_ctx *ctx = calloc(1, sizeof *ctx);
    int rc;

    if (!ctx)
        return zp__fail(-ENOMEM, "no memory for a context");
    rc = zp__spawn_defaults(&ctx->spawn, options->spawn);
    if (rc < 0) {
        free(ctx);
        return rc;
    }
    ctx->ready_fd = -1;
    ctx->token = zp__token();
    ctx->flags = options->flags;
    ctx->lock_timeout = options->lock_timeout;
    ctx->start_timeout = options->start_timeout;
    ctx->grace = options->grace;
    memcpy(ctx->ns, options->ns, strlen(options->ns) + 1); /* was checked */
    *ret = ctx;
    return 0;
}

static void
ctx_free(zp_ctx *ctx)
{
    zp__spawn_defaults_free(ctx->spawn);
    free(ctx);
}

/* Open CTX's place and make all that hangs on it. What was made before an
 * error is the caller's to undo. */
static int
connect_to(zp_ctx *ctx, struct ev_loop *ev)
{
    int rc = zp__store_open(&ctx->store, &ctx->place);

    if (rc < 0)
        return rc;
    ctx->board = zp__store_board(ctx->store);
    rc = zp__view_new(&ctx->view, ctx->store);
    if (rc == 0)
        rc = zp__loop_new(&ctx->loop, ev);
    if (rc == 0)
        rc = zp__state_new(&ctx->state, ctx, ctx->ns);
    return rc;
}

/* A new state has been published, but its store could not be opened. */
static void
unpublish(const zp__place *place)
{
    zp__board board;

    if (zp__board_open(&board, place) < 0) {
        zp__place_remove(place);
        return;
    }
    zp__server_close(place, &board, CLOSE_MAX);
    zp__board_close(&board);
}

/* Undo what there is of CTX after RC, whose text is kept. */
static int
undo(zp_ctx *ctx, int rc)
{
    char text[ZP__ERROR_MAX];

    snprintf(text, sizeof text, "%s", zp__fail_text());
    if (ctx->owner && !ctx->store)
        unpublish(&ctx->place);
    zp__ctx_destroy(ctx);
    return zp__fail(rc, "%s", text);
}

int
zp_ctx_new(zp_ctx **ret_ctx, const zp_ctx_options *options)
{
    zp_ctx_options taken;
    zp_ctx *ctx;
    int rc;

    if (!ret_ctx)
        return zp__fail(-EINVAL, "ret_ctx is NULL");
    rc = zp__ctx_may_wait("zp_ctx_new()");
    if (rc == 0)
        rc = zp__options_take(&taken, options);
    if (rc < 0)
        return rc;
    zp__fork_settle();
    rc = ctx_alloc(&ctx, &taken);
    if (rc < 0)
        return rc;
    rc = zp__create(&ctx->place, &taken, NULL);
    if (rc < 0) {
        ctx_free(ctx);
        return rc;
    }
    ctx->owner = true;
    rc = connect_to(ctx, taken.loop);
    if (rc == 0)
        rc = zp__server_ensure(&ctx->place, ctx->board, ctx->start_timeout);
    if (rc < 0)
        return undo(ctx, rc);
    *ret_ctx = ctx;
    return 0;
}

/* Is there still somebody who answers for the state that CTX has found? */
static int
check_owner(zp_ctx *ctx)
{
    const zp__shared *shared = ctx->board->shared;

    if (zp__board_closed(ctx->board))
        return zp__fail(ZP_ENOSTATE, "the state %s has been closed",
                        ctx->place.run);
    if (shared->boot != zp__boot_hash() || shared->pid_ns != zp__pid_ns())
        return zp__fail(ZP_ENOSTATE,
                        "the state %s belongs to another boot or pid "
                        "namespace",
                        ctx->place.run);
    if (!zp__pid_alive(&shared->owner))
        return zp__fail(ZP_ENOSTATE, "the owner of the state %s has ended",
                        ctx->place.run);
    return 0;
}

static int
attach(zp_ctx *ctx, const char *address, struct ev_loop *ev)
{
    int rc = zp__place_find(&ctx->place, address);

    if (rc == 0)
        rc = connect_to(ctx, ev);
    if (rc == 0)
        rc = check_owner(ctx);
    if (rc == 0 && !zp__server_alive(ctx->board)) {
        rc = zp__server_ensure(&ctx->place, ctx->board, ctx->start_timeout);
        if (rc == ZP_ECLOSED) /* its owner has ended in this moment */
            rc = zp__fail(ZP_ENOSTATE, "the state %s has been closed",
                          ctx->place.run);
    }
    return rc;
}

static bool
given_ns(const zp_ctx_options *options)
{
    return options && options->size > offsetof(zp_ctx_options, ns) &&
           options->ns;
}

int
zp_ctx_attach(zp_ctx **ret_ctx, const char *address,
              const zp_ctx_options *options)
{
    bool by_env = !address;
    zp_ctx_options taken;
    zp_ctx *ctx;
    int rc;

    if (!ret_ctx)
        return zp__fail(-EINVAL, "ret_ctx is NULL");
    if (!address && !(address = getenv("ZP_ADDRESS")))
        return zp__fail(ZP_ENOSTATE, "no address was given, and ZP_ADDRESS "
                                     "is not set");
    if (!*address)
        return zp__fail(-EINVAL, "the address is empty");
    rc = zp__ctx_may_wait("zp_ctx_attach()");
    if (rc == 0)
        rc = zp__options_take(&taken, options);
    if (rc == 0 && by_env && !given_ns(options) && getenv("ZP_NAMESPACE")) {
        taken.ns = getenv("ZP_NAMESPACE");
        rc = zp__ns_check(taken.ns);
    }
    if (rc < 0)
        return rc;
    zp__fork_settle();
    rc = ctx_alloc(&ctx, &taken);
    if (rc < 0)
        return rc;
    rc = attach(ctx, address, taken.loop);
    if (rc < 0)
        return undo(ctx, rc);
    *ret_ctx = ctx;
    return 0;
}

int
zp__ctx_child(zp_ctx **ret, const zp__place *place, const char *ns,
              const zp_ctx *parent)
{
    zp_ctx_options options = {
        .size = sizeof options,
        .ns = ns,
        .lock_timeout = parent->lock_timeout,
        .start_timeout = parent->start_timeout,
        .grace = parent->grace,
    };
    zp_ctx *ctx;
    int rc = ctx_alloc(&ctx, &options);

    if (rc < 0)
        return rc;
    ctx->place = *place;
    rc = connect_to(ctx, NULL);
    if (rc < 0)
        return undo(ctx, rc);
    *ret = ctx;
    return 0;
}

/* ----------------------------------------------------------------- end -- */

/* Free what was made from CTX, then what it is made of. */
static void
free_parts(zp_ctx *ctx)
{
    if (ctx->worker_free)
        ctx->worker_free(ctx);
    if (ctx->swarms_free)
        ctx->swarms_free(ctx);
    zp__procs_end(ctx);
    zp__ctx_unguard_server(ctx);
    if (ctx->feed_free)
        ctx->feed_free(ctx);
    ctx->state = NULL; /* as long as it is the default it is not freed */
    while (ctx->states)
        zp_state_free(ctx->states);
    zp__client_free(ctx->client);
    zp__loop_free(ctx->loop);
    zp__view_free(ctx->view);
    if (ctx->owner && ctx->store)
        zp__server_close(&ctx->place, ctx->board, CLOSE_MAX);
    zp__store_close(ctx->store);
}

/* false: a callback has forked, and this is the child. */
static bool
wait_for_children(zp_ctx *ctx)
{
    if (ctx->swarms_leave)
        ctx->swarms_leave(ctx);
    if (ctx->token == zp__token() && ctx->procs)
        zp__procs_wait(ctx);
    return ctx->token == zp__token();
}

void
zp__ctx_destroy(zp_ctx *ctx)
{
    ctx->leaving = true;
    if ((ctx->flags & ZP_CTX_WAIT) && (ctx->procs || ctx->crews)) {
        ctx->dying = false; /* callbacks go on until the children have ended */
        if (!wait_for_children(ctx))
            return;
    }
    ctx->dying = true;
    zp__ctx_waits_gone(ctx);
    free_parts(ctx);
    ctx_free(ctx);
}

zp_ctx *
zp_ctx_free(zp_ctx *ctx)
{
    if (!ctx || ctx->token != zp__token() || ctx->leaving)
        return NULL;
    if (ctx->child) /* lent to the child's function: freed when that returns */
        return NULL;
    if (ctx->depth) {
        ctx->dying = true;
        zp__loop_stop(ctx->loop, ZP_ECLOSED);
        return NULL;
    }
    zp__ctx_destroy(ctx);
    return NULL;
}

/* ----------------------------------------------------------- questions -- */

const char *
zp_ctx_address(const zp_ctx *ctx)
{
    return zp__ctx_check(ctx) < 0 ? NULL : ctx->place.run;
}

zp_state *
zp_ctx_state(zp_ctx *ctx)
{
    return zp__ctx_check(ctx) < 0 ? NULL : ctx->state;
}

/* The revisions that can be read now. */
static int
range(zp_ctx *ctx, uint64_t *ret_head, uint64_t *ret_oldest)
{
    bool begun = zp__view_begun(ctx->view);
    uint64_t tail = 0;
    int rc = zp__view_begin(ctx->view);

    if (rc < 0)
        return rc;
    rc = zp__view_range(ctx->view, ret_head, &tail);
    *ret_oldest = tail ? tail - 1 : 0;
    if (!begun)
        zp__view_end(ctx->view);
    return rc;
}

int
zp_ctx_stats(zp_ctx *ctx, zp_stats *ret_stats)
{
    zp_stats stats;
    zp__usage usage;
    size_t size;
    int rc = zp__ctx_enter(ctx);

    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    if (!ret_stats || ret_stats->size < sizeof ret_stats->size ||
        ret_stats->size > STATS_MAX)
        return zp__ctx_done(ctx, zp__fail(-EINVAL, "stats.size is not set"));
    size = ret_stats->size;
    memset(&stats, 0, sizeof stats);
    rc = zp__store_usage(ctx->store, &usage);
    if (rc == 0)
        rc = range(ctx, &stats.revision, &stats.oldest_revision);
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    stats.used_bytes = usage.used_bytes;
    stats.max_bytes = usage.max_bytes;
    stats.log_used_bytes = usage.log_bytes;
    stats.readers = usage.readers;
    stats.oldest_reader = usage.oldest_reader;
    stats.events = ctx->events;
    stats.longest_callback = ctx->longest_callback;
    stats.server_pid = (uint64_t)zp__board_server(ctx->board).pid;
    stats.server_generation = atomic_load(&ctx->board->shared->generation);
    if (ctx->feed_stats)
        ctx->feed_stats(ctx, &stats);
    stats.size = size;
    memset(ret_stats, 0, size); /* what a later version may know */
    memcpy(ret_stats, &stats, size < sizeof stats ? size : sizeof stats);
    return 0;
}
