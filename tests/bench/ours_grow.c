/*
 * ours_grow.c - does a set get slower as the state grows, or after much was
 * deleted? Two states side by side, so that one drift hits both: the one that
 * has grown, and the one that it is compared with.
 *
 *   keys      10^6 keys                      beside 10^3 keys
 *   deletes   3*10^5 keys deleted one by     beside the same keys, not deleted
 *             one, 10^4 left
 *   deletes-later   the same, when the log has gone round once more
 *
 * The deletes are looked at twice: at once, while each set also forgets one
 * tombstone, and when the log has forgotten them all and LMDB's free list is
 * what is left of them. In all states the log has gone round already: it does
 * not grow any more.
 */
#include <stdlib.h>

#include "tests/bench/ours.h"

#define FEW 1000
#define MANY 1000000
#define DELETED 300000

static int
open_both(struct side *side, uint32_t n, uint32_t n_other)
{
    struct ours *o = calloc(1, sizeof(*o));

    side->data = o;
    if (o == NULL || (o->keys = side_keys(n)) == NULL)
        return side_fail(side, "out of memory");
    if (ours_open(side, &o->ctx, n) != SIDE_OK ||
        ours_open(side, &o->other, n_other) != SIDE_OK)
        return SIDE_FAIL;
    o->state = zp_ctx_state(o->ctx);
    o->other_state = zp_ctx_state(o->other);
    return SIDE_OK;
}

/* Let the sets go to the other state. */
static void
swap(struct ours *o)
{
    zp_state *state = o->state;

    o->state = o->other_state;
    o->other_state = state;
}

/* Sets of one of the first N keys, in microseconds each. */
static double
per_set(struct side *side, uint32_t n)
{
    struct ours *o = side->data;

    o->n_keys = n;
    return side_per_op(side, ours_set_one, side->quick ? 0.05 : 0.1);
}

static int
report_both(struct side *side, uint32_t n, uint32_t n_other)
{
    struct ours *o = side->data;
    double base, us;

    swap(o);
    base = per_set(side, n_other);
    swap(o);
    us = base < 0 ? -1 : per_set(side, n);
    if (us < 0)
        return SIDE_FAIL;
    side_report(side, "us", us);
    side_report(side, "base", base);
    return SIDE_OK;
}

int
ours_keys_start(struct side *side)
{
    struct ours *o;

    if (open_both(side, MANY, FEW) != SIDE_OK)
        return SIDE_FAIL;
    o = side->data;
    o->n_keys = FEW;
    swap(o);
    if (side_repeat(side, ours_set_one, SIDE_RING) != SIDE_OK)
        return SIDE_FAIL;
    swap(o);
    return SIDE_OK;
}

int
ours_keys_round(struct side *side)
{
    return report_both(side, MANY, FEW);
}

int
ours_deletes_start(struct side *side)
{
    uint32_t n = SIDE_KEYS + DELETED;
    struct ours *o;

    if (open_both(side, n, n) != SIDE_OK)
        return SIDE_FAIL;
    o = side->data;
    for (uint32_t i = SIDE_KEYS; i < n; i++) {
        int r = zp_delete(o->state, o->keys[i]);

        if (r < 0)
            return ours_fail(side, "zp_delete", r);
    }
    o->n_keys = SIDE_KEYS;
    return SIDE_OK;
}

int
ours_later_start(struct side *side)
{
    if (ours_deletes_start(side) != SIDE_OK)
        return SIDE_FAIL;
    return side_repeat(side, ours_set_one, SIDE_RING + SIDE_KEYS);
}

int
ours_deletes_round(struct side *side)
{
    return report_both(side, SIDE_KEYS, SIDE_KEYS);
}
