/*
 * cookie_eater.c - a baker and an eater, two processes, share `cookies`.
 *
 * The eater does not ask again and again whether there is a cookie, and the
 * baker does not know of the eater: whenever `cookies` changes, the eater is
 * called. Its own write, when it eats, does not call it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [atomic] */
/* Both of these are atomic operations: nobody else writes while one runs. That
 * they print inside is what puts the lines in the order of the changes. */
static int
bake(zp_state *txn, void *user)
{
    (void)user;
    TRY(zp_increase(txn, "cookies", NULL, 1));
    printf("Here's a cookie!\n");
    return fflush(stdout);
}

static int
eat(zp_state *txn, void *user)
{
    (void)user;
    TRY(zp_decrease(txn, "cookies", NULL, 1));
    printf("nom nom nom\n");
    return fflush(stdout);
}
/* [/atomic] */

/* [eater] */
/* The reaction. */
static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    zp_state *state = user;
    return zp_atomic(state, eat, NULL);
}

/* The eater's process: eat five times, whenever a cookie comes. It begins with
 * the changes behind revision *ARG: so it does not matter how long this
 * process took to start, or how fast the baker is. */
static int
eater(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);
    const uint64_t *since = arg;

    TRY(zp_call_when_change(
        state, NULL, ZP_KEYS("cookies"),
        ZP_WATCH(.flags = ZP_SINCE, .since = *since, .count = 5), on_change,
        state));
    return zp_run(ctx); /* until the five are eaten */
}
/* [/eater] */

/* [kitchen] */
static int
kitchen(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_proc *proc;
    uint64_t since;
    int64_t left;

    TRY(zp_set_int(state, "cookies", 0));
    TRY(zp_revision(state, &since));
    TRY(zp_spawn(ctx, &proc, NULL, eater, &since));
    for (int i = 0; i < 5; i++)
        TRY(zp_atomic(state, bake, NULL));
    TRY(zp_wait(proc, NULL, -1));
    TRY(zp_get_int(state, "cookies", &left));
    printf("cookies left: %" PRId64 "\n", left);
    return 0;
}
/* [/kitchen] */

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = kitchen(ctx);
    if (rc < 0)
        fprintf(stderr, "cookie_eater: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
