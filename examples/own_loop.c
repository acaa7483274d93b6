/*
 * own_loop.c - reactions and the program's own libev watchers on one loop.
 *
 * A timer of the program sets a key three times; a child process answers each
 * time; the program is called back. Needs libev's header and library, which a
 * program that leaves the loop to zproc does not.
 */
#include <stdio.h>
#include <zp_ev.h>

/* [child] */
static int
echo(zp_watch *watch, const zp_event *event, void *user)
{
    zp_state *state = zp_ctx_state(user); /* live: to be written */
    int64_t ball;
    int rc;

    (void)watch;
    rc = zp_get_int(zp_event_snapshot(event), "ping", &ball);
    return rc < 0 ? rc : zp_set_int(state, "pong", ball);
}

static int
player(zp_ctx *ctx, void *arg)
{
    int rc;

    (void)arg;
    rc = zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("ping"), NULL,
                             echo, ctx);
    if (rc >= 0)
        rc = zp_set_bool(zp_ctx_state(ctx), "ready", 1);
    return rc < 0 ? rc : zp_run(ctx); /* until its parent ends */
}
/* [/child] */

/* [loop] */
static void
tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
    static int64_t ball;
    zp_ctx *ctx = timer->data;

    (void)revents;
    if (zp_set_int(zp_ctx_state(ctx), "ping", ++ball) < 0)
        zp_break(ctx);
    if (ball == 3)
        ev_timer_stop(loop, timer);
}

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    zp_ctx *ctx = zp_state_ctx(zp_event_snapshot(event));
    ev_timer *timer = user;
    int64_t ball;
    int rc;

    (void)watch;
    if (!zp_contains(zp_event_snapshot(event), "pong")) {
        ev_timer_start(zp_ev_loop(ctx), timer); /* the player is ready */
        return 0;
    }
    rc = zp_get_int(zp_event_snapshot(event), "pong", &ball);
    if (rc < 0)
        return rc;
    printf("pong %d\n", (int)ball);
    return ball == 3 ? zp_break(ctx) : 0;
}

static int
play(zp_ctx *ctx)
{
    ev_timer timer;
    int rc;

    ev_timer_init(&timer, tick, 0.01, 0.01);
    timer.data = ctx;
    rc = zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("ready", "pong"),
                             NULL, on_change, &timer);
    if (rc >= 0)
        rc = zp_spawn(ctx, NULL, NULL, player, NULL);
    if (rc >= 0)
        rc = zp_run(ctx);
    ev_timer_stop(zp_ev_loop(ctx), &timer);
    return rc;
}
/* [/loop] */

int
main(void)
{
    zp_ctx *ctx;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc < 0) {
        fprintf(stderr, "own_loop: %s\n", zp_ctx_error(NULL));
        return 1;
    }
    rc = play(ctx);
    if (rc < 0)
        fprintf(stderr, "own_loop: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
