/*
 * peanut_processor.c - buffered, live, or something in between.
 *
 * Peanuts are made faster than they are eaten: while an eater eats one, three
 * are made. What does it get next?
 *
 *     buffered    the next one it has not had: none is missed, ever
 *     live        the newest one; what came while it ate is skipped
 *     hybrid      a buffered one that skips what is waiting when it feels like
 *                 it: zp_go_live()
 *
 * So that the result does not depend on how fast a machine is, peanuts are made
 * to order, by another process. The eaters are iterators: watches without a
 * callback, from which events are fetched.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <zp.h>

enum { PER_ROUND = 3, ROUNDS = 4 };

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [maker] */
/* The condition: more are ordered than *USER. */
static int
more_ordered(zp_state *snapshot, void *user)
{
    const int64_t *made = user;
    int64_t ordered;

    TRY(zp_get_int(snapshot, "ordered", &ordered));
    return ordered > *made;
}

/* The process that makes them, one by one, until its parent ends. */
static int
maker(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    (void)arg;
    for (int64_t made = 0;; made++) {
        TRY(zp_get_when(state, NULL, ZP_KEYS("ordered"), -1, NULL, more_ordered,
                        &made));
        TRY(zp_set_int(state, "peanuts", made + 1));
    }
}

/* Have some more made, and wait until they are. */
static int
make_more(zp_state *state)
{
    int64_t ordered;

    TRY(zp_increase(state, "ordered", &ordered, PER_ROUND));
    return zp_get_when_equal(state, NULL, "peanuts", -1, NULL, ZP_I(ordered));
}
/* [/maker] */

/* [eater] */
/* An eater: an iterator over the changes of "peanuts" from now on. */
static int
new_eater(zp_state *state, zp_watch **ret_eater, unsigned flags)
{
    return zp_call_when_change(state, ret_eater, ZP_KEYS("peanuts"),
                               ZP_WATCH(.flags = flags), NULL, NULL);
}

/* Its next peanut. */
static int
eat(zp_watch *eater, double timeout, int64_t *ret_peanut)
{
    const zp_event *event;

    TRY(zp_watch_next(eater, &event, timeout));
    return zp_get_int(zp_event_snapshot(event), "peanuts", ret_peanut);
}
/* [/eater] */

/* [rounds] */
static int
one_round(zp_state *state, zp_watch *buffered, zp_watch *live, zp_watch *hybrid)
{
    int64_t b, l, h;

    TRY(make_more(state));
    TRY(eat(buffered, -1, &b));
    TRY(eat(live, -1, &l));
    TRY(eat(hybrid, -1, &h));
    TRY(zp_go_live(hybrid)); /* the others are no longer fresh */
    printf("%8" PRId64 " %8" PRId64 " %8" PRId64 "\n", b, l, h);
    return 0;
}
/* [/rounds] */

/* [rest] */
/* What is there for EATER without waiting. */
static int
eat_rest(zp_watch *eater)
{
    int64_t peanut;
    int rc;

    while ((rc = eat(eater, 0, &peanut)) >= 0)
        printf(" %" PRId64, peanut);
    printf("\n");
    return rc == -ETIMEDOUT ? 0 : rc;
}
/* [/rest] */

static int
process_peanuts(zp_ctx *ctx)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_watch *buffered, *live, *hybrid;

    TRY(zp_set_int(state, "ordered", 0));
    TRY(new_eater(state, &buffered, 0));
    TRY(new_eater(state, &live, ZP_LIVE));
    TRY(new_eater(state, &hybrid, 0));
    TRY(zp_spawn(ctx, NULL, NULL, maker, NULL));

    printf("buffered     live   hybrid\n");
    for (int i = 0; i < ROUNDS; i++)
        TRY(one_round(state, buffered, live, hybrid));
    printf("left for buffered:");
    TRY(eat_rest(buffered));
    printf("left for live:");
    return eat_rest(live);
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = process_peanuts(ctx);
    if (rc < 0)
        fprintf(stderr, "peanut_processor: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx); /* ends the maker, and frees the eaters */
    return rc < 0;
}
