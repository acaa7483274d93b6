/*
 * button.c - a short press or a long one?
 *
 * A button is down or up. When it goes down a callback is called, and that
 * callback waits for the button to come up again, for a second at most: if it
 * does, the press was short; if not, it is a long one, and a light goes on.
 * Other callbacks would be called meanwhile: only this one waits.
 *
 * The finger is another process. It presses twice shortly, holds the button
 * until the light goes on, and presses shortly once more.
 *
 * `button 5` takes a press for a long one after five seconds: for slow fingers,
 * and busy machines.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [on-press] */
/* A press that lasts longer than so many seconds is a long one. */
static double long_press = 1;

/* Called each time when the button is down. It waits from this press on, not
 * from now: by now the finger may have come up, and gone down again. */
static int
on_press(zp_watch *watch, const zp_event *event, void *user)
{
    zp_state *state = user;
    uint64_t pressed = zp_event_revision(event);
    int rc;

    (void)watch;
    rc = zp_get_when_equal(state, NULL, "button", long_press,
                           ZP_WATCH(.flags = ZP_SINCE, .since = pressed),
                           ZP_S("up"));
    if (rc == -ETIMEDOUT) {
        printf("a long press\n");
        return zp_set_string(state, "light", "on");
    }
    if (rc >= 0)
        printf("a short press\n");
    return rc;
}
/* [/on-press] */

/* [finger] */
static int
press_shortly(zp_state *state)
{
    TRY(zp_set_string(state, "button", "down"));
    return zp_set_string(state, "button", "up");
}

/* Hold it until the light is on. */
static int
press_long(zp_state *state)
{
    TRY(zp_set_string(state, "button", "down"));
    TRY(zp_get_when_equal(state, NULL, "light", -1, NULL, ZP_S("on")));
    return zp_set_string(state, "button", "up");
}

static int
finger(zp_ctx *ctx, void *arg)
{
    (void)arg;
    zp_state *state = zp_ctx_state(ctx);

    TRY(press_shortly(state));
    TRY(press_shortly(state));
    TRY(press_long(state));
    return press_shortly(state);
}
/* [/finger] */

/* [main] */
static int
four_presses(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);

    TRY(zp_set_string(state, "button", "up"));
    /* [register] */
    TRY(zp_call_when_equal(state, NULL, "button", ZP_WATCH(.count = 4),
                           on_press, state, ZP_S("down")));
    /* [/register] */
    TRY(zp_spawn(ctx, NULL, NULL, finger, NULL));
    return zp_run(ctx); /* until there were four */
}
/* [/main] */

int
main(int argc, char **argv)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (argc > 1)
        long_press = atof(argv[1]);
    if (rc >= 0)
        rc = four_presses(ctx);
    if (rc < 0)
        fprintf(stderr, "button: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
