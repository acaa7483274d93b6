/*
 * ours_wait.c - our side: a process that waits for a value, instead of being
 * called.
 *
 *     waiter   zp_get_when_equal(1), zp_get_when_equal(2), ...
 *     writer   pause, set(n + 1), pause, set(n + 2), ...
 *
 * Each wait is a nested run of its own, registered anew; the waiter is in it
 * long before the writer's pause is over, and the writer does not go on before
 * it has heard of the last set. The first one holds already, which is how the
 * writer knows that the waiter is there.
 */
#include "tests/bench/ours.h"

int
ours_waiter(struct side *side, unsigned index)
{
    crew_shared *s = side->crew->shared;
    struct ours o = {0};
    int r;

    (void)index;
    side->data = &o;
    if (ours_join(side, &o.ctx) != SIDE_OK)
        return SIDE_FAIL;
    for (int64_t n = 1;; n++) {
        int64_t now;

        r = zp_get_when_equal(zp_ctx_state(o.ctx), NULL, OURS_KEY, -1, NULL,
                              ZP_I(n));
        now = side_now();
        if (r < 0)
            return ours_fail(side, "zp_get_when_equal", r);
        if (n == 1)
            crew_add(&s->ready);
        else
            crew_sample(side, now - atomic_load(&s->stamp));
    }
}

static int
set_next(struct side *side, int64_t now)
{
    struct ours *o = side->data;
    int r = zp_set_int(o->state, OURS_KEY, ++o->value);

    (void)now;
    return r < 0 ? ours_fail(side, "zp_set_int", r) : SIDE_OK;
}

int
ours_wait_start(struct side *side)
{
    struct ours *o;

    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    o = side->data;
    o->value = 0;
    if (set_next(side, 0) != SIDE_OK ||
        crew_start(side, "waiter", 1) != SIDE_OK)
        return SIDE_FAIL;
    return crew_wait(side, &side->crew->shared->ready, 1, 30, "ready");
}

int
ours_wait_round(struct side *side)
{
    return crew_latency(side, set_next, SIDE_SETS(side));
}
