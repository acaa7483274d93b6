/*
 * glib_loop.c - reactions in GLib's main loop, as every GTK program has one.
 *
 * A timeout of GLib sets a key three times; a child process answers each time;
 * the program is called back. What makes a GSource of a zproc context is the
 * marked part: it can be copied as it is.
 */
#include <glib.h>
#include <stdio.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [source] */
/* A source of GLib's that is a zproc context. What ends it, an error or a
 * negative value of a callback, is given to the function that was set with
 * g_source_set_callback(), as its first argument. */
typedef struct ContextSource {
    GSource source; /* which GLib knows: the first member */
    zp_ctx *ctx;
    gpointer tag; /* of the descriptor */
} ContextSource;

typedef void ContextEndFunc(int rc, gpointer user);

/* Before it waits: for how many milliseconds at most? Rounded up, for a little
 * too early would be for nothing. TRUE: not at all. */
static gboolean
context_source_prepare(GSource *source, gint *ret_timeout)
{
    double seconds;

    if (zp_ctx_timeout(((ContextSource *)source)->ctx, &seconds) < 0)
        return TRUE; /* dispatching will tell why */
    *ret_timeout = seconds < 0 ? -1 : (gint)(seconds * 1000 + 0.999);
    return *ret_timeout == 0;
}

/* Afterwards: is there something to do? */
static gboolean
context_source_check(GSource *source)
{
    gint timeout;

    return g_source_query_unix_fd(source, ((ContextSource *)source)->tag) ||
           context_source_prepare(source, &timeout);
}

static gboolean
context_source_dispatch(GSource *source, GSourceFunc callback, gpointer user)
{
    int rc = zp_ctx_dispatch(((ContextSource *)source)->ctx);

    if (rc >= 0)
        return G_SOURCE_CONTINUE;
    if (callback)
        ((ContextEndFunc *)(void (*)(void))callback)(rc, user);
    return G_SOURCE_REMOVE;
}

static GSourceFuncs context_source_funcs = {
    .prepare = context_source_prepare,
    .check = context_source_check,
    .dispatch = context_source_dispatch,
};

/* A source for CTX, which must live as long; or an error code. */
static int
context_source_new(GSource **ret_source, zp_ctx *ctx)
{
    int fd = zp_ctx_fd(ctx);
    GSource *source;

    TRY(fd);
    source = g_source_new(&context_source_funcs, sizeof(ContextSource));
    g_source_set_name(source, "zproc");
    ((ContextSource *)source)->ctx = ctx;
    ((ContextSource *)source)->tag =
        g_source_add_unix_fd(source, fd, (GIOCondition)zp_ctx_events(ctx));
    *ret_source = source;
    return 0;
}
/* [/source] */

struct game {
    GMainLoop *loop;
    zp_ctx *ctx;
    int64_t pings;
    int rc;
};

/* [child] */
static int
answer(zp_watch *watch, const zp_event *event, void *user)
{
    zp_state *state = user;
    int64_t ball;

    (void)watch;
    TRY(zp_get_int(zp_event_snapshot(event), "ping", &ball));
    return zp_set_int(state, "pong", ball);
}

/* The other player. It takes the pings from the first one on: so it does not
 * matter which came while this process was started. */
static int
player(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    (void)arg;
    TRY(zp_call_when_change(state, NULL, ZP_KEYS("ping"),
                            ZP_WATCH(.flags = ZP_OLDEST), answer, state));
    return zp_run(ctx); /* until its parent ends */
}
/* [/child] */

/* [game] */
static void
on_end(int rc, gpointer user)
{
    struct game *game = user;

    game->rc = rc;
    g_main_loop_quit(game->loop);
}

static gboolean
on_timer(gpointer user)
{
    struct game *game = user;
    int rc = zp_set_int(zp_ctx_state(game->ctx), "ping", ++game->pings);

    if (rc < 0)
        on_end(rc, game);
    return rc >= 0 && game->pings < 3;
}

static int
on_pong(zp_watch *watch, const zp_event *event, void *user)
{
    struct game *game = user;
    int64_t ball;

    (void)watch;
    TRY(zp_get_int(zp_event_snapshot(event), "pong", &ball));
    printf("pong %d\n", (int)ball);
    if (ball == 3)
        g_main_loop_quit(game->loop);
    return 0;
}

static int
play(struct game *game)
{
    GSource *source;

    TRY(zp_call_when_change(zp_ctx_state(game->ctx), NULL, ZP_KEYS("pong"),
                            NULL, on_pong, game));
    TRY(zp_spawn(game->ctx, NULL, NULL, player, NULL));
    TRY(context_source_new(&source, game->ctx));
    g_source_set_callback(source, (GSourceFunc)(void (*)(void))on_end, game,
                          NULL);
    g_source_attach(source, NULL);
    g_timeout_add(10, on_timer, game);
    g_main_loop_run(game->loop);
    g_source_destroy(source);
    g_source_unref(source);
    return game->rc;
}
/* [/game] */

int
main(void)
{
    struct game game = {.loop = g_main_loop_new(NULL, FALSE)};
    int rc = zp_ctx_new(&game.ctx, NULL);

    if (rc >= 0)
        rc = play(&game);
    if (rc < 0)
        fprintf(stderr, "glib_loop: %s: %s\n", zp_strerror(rc),
                zp_ctx_error(game.ctx));
    zp_ctx_free(game.ctx);
    g_main_loop_unref(game.loop);
    return rc < 0;
}
