/*
 * first.c - a first reaction: one process measures, another one reacts.
 *
 * The program of the README. The thermometer is a child process that sets a
 * key; main() is called back at each change of it, and ends after three.
 */
/* [program] */
#include <stdio.h>
#include <zp.h>

/* [react] */
/* Called at each change of "temperature", with the state as it was then. */
static int
react(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t celsius;
    int rc;

    (void)watch;
    (void)user;
    rc = zp_get_int(zp_event_snapshot(event), "temperature", &celsius);
    if (rc < 0)
        return rc; /* zp_run() ends and returns it */
    printf("It is %d degrees now.\n", (int)celsius);
    return 0;
}
/* [/react] */

/* [thermometer] */
/* Runs in a process of its own, on the same state. */
static int
thermometer(zp_ctx *ctx, void *arg)
{
    int rc = 0;

    (void)arg;
    for (int celsius = 18; celsius <= 24 && rc >= 0; celsius += 3)
        rc = zp_set_int(zp_ctx_state(ctx), "temperature", celsius);
    return rc;
}
/* [/thermometer] */

/* [main] */
int
main(void)
{
    const zp_watch_options *thrice = ZP_WATCH(.count = 3);
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = zp_call_when_change(zp_ctx_state(ctx), NULL,
                                 ZP_KEYS("temperature"), thrice, react, NULL);
    if (rc >= 0)
        rc = zp_spawn(ctx, NULL, NULL, thermometer, NULL);
    if (rc >= 0)
        rc = zp_run(ctx); /* until nothing is left to wait for */
    if (rc < 0)
        fprintf(stderr, "first: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
/* [/main] */
/* [/program] */
