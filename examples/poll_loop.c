/*
 * poll_loop.c - reactions in a program that has a poll() loop of its own.
 *
 * A timer of the program sets a key three times; a child process answers each
 * time; the program is called back. It is what own_loop.c does on libev, and
 * glib_loop.c in GLib's main loop.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

struct game {
    zp_ctx *ctx;
    int timer; /* a timerfd: the program's own descriptor */
    int64_t pings, pongs;
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

static int
start_timer(int timer)
{
    struct itimerspec every = {.it_interval.tv_nsec = 10000000,
                               .it_value.tv_nsec = 10000000};

    return timerfd_settime(timer, 0, &every, NULL) < 0 ? -errno : 0;
}

static int
on_timer(struct game *game)
{
    uint64_t ticks;

    if (read(game->timer, &ticks, sizeof(ticks)) < 0)
        return errno == EAGAIN ? 0 : -errno;
    if (game->pings == 3)
        return 0;
    return zp_set_int(zp_ctx_state(game->ctx), "ping", ++game->pings);
}

static int
on_pong(zp_watch *watch, const zp_event *event, void *user)
{
    struct game *game = user;

    (void)watch;
    TRY(zp_get_int(zp_event_snapshot(event), "pong", &game->pongs));
    printf("pong %d\n", (int)game->pongs);
    return 0;
}

/* [loop] */
/* What poll() takes: milliseconds, rounded up, for a little too early would be
 * for nothing. */
static int
milliseconds(double seconds)
{
    return seconds < 0 ? -1 : (int)(seconds * 1000 + 0.999);
}

/* Wait for the program's timer and for zproc at the same time, and let each do
 * what is due. */
static int
turn(struct game *game)
{
    struct pollfd fds[] = {
        {.fd = game->timer, .events = POLLIN},
        {.fd = zp_ctx_fd(game->ctx), .events = zp_ctx_events(game->ctx)},
    };
    double timeout;

    TRY(fds[1].fd);
    TRY(zp_ctx_timeout(game->ctx, &timeout));
    if (poll(fds, 2, milliseconds(timeout)) < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents)
        TRY(on_timer(game));
    return zp_ctx_dispatch(game->ctx); /* also when only the time was over */
}

static int
play(struct game *game)
{
    TRY(zp_call_when_change(zp_ctx_state(game->ctx), NULL, ZP_KEYS("pong"),
                            NULL, on_pong, game));
    TRY(zp_spawn(game->ctx, NULL, NULL, player, NULL));
    TRY(start_timer(game->timer));
    while (game->pongs < 3)
        TRY(turn(game));
    return 0;
}
/* [/loop] */

int
main(void)
{
    struct game game = {0};
    int rc;

    game.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (game.timer < 0) {
        perror("poll_loop");
        return 1;
    }
    rc = zp_ctx_new(&game.ctx, NULL);
    if (rc >= 0)
        rc = play(&game);
    if (rc < 0)
        fprintf(stderr, "poll_loop: %s: %s\n", zp_strerror(rc),
                zp_ctx_error(game.ctx));
    zp_ctx_free(game.ctx);
    close(game.timer);
    return rc < 0;
}
