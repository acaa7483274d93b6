/*
 * cookie_eater_extreme.c - one baker, and a hundred eaters who all react.
 *
 * Each eater sees the changes of `cookies` from the beginning, whenever its
 * process got ready, and eats at the first five that are not its own: there is
 * one cookie for a hundred of them, so the count ends far below zero.
 */
#include <inttypes.h>
#include <stdio.h>
#include <zp.h>

enum { EATERS = 100, COOKIES = 5 };

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

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

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    zp_state *state = user;
    return zp_atomic(state, eat, NULL);
}

static int
eater(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);
    const uint64_t *since = arg;

    TRY(zp_call_when_change(
        state, NULL, ZP_KEYS("cookies"),
        ZP_WATCH(.flags = ZP_SINCE, .since = *since, .count = COOKIES),
        on_change, state));
    return zp_run(ctx);
}

static int
kitchen(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_proc *procs[EATERS];
    uint64_t since;
    int64_t left;

    TRY(zp_set_int(state, "cookies", 0));
    TRY(zp_revision(state, &since));
    for (int i = 0; i < EATERS; i++)
        TRY(zp_spawn(ctx, &procs[i], NULL, eater, &since));
    for (int i = 0; i < COOKIES; i++)
        TRY(zp_atomic(state, bake, NULL));
    for (int i = 0; i < EATERS; i++)
        TRY(zp_wait(procs[i], NULL, -1));
    TRY(zp_get_int(state, "cookies", &left));
    printf("cookies left: %" PRId64 "\n", left);
    return 0;
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = kitchen(ctx);
    if (rc < 0)
        fprintf(stderr, "cookie_eater_extreme: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
