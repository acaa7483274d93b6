/*
 * bench_ours.c - our side: the single operations, and the table of all.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/ours.h"

int
ours_fail(struct side *side, const char *what, int r)
{
    struct ours *o = side->data;

    return side_fail(side, "%s: %s (%.150s)", what, zp_strerror(r),
                     zp_ctx_error(o != NULL ? o->ctx : NULL));
}

int
ours_open(struct side *side, zp_ctx **ret_ctx, uint32_t n)
{
    struct ours *o = side->data;
    int r = zp_ctx_new(ret_ctx, NULL);

    if (r < 0)
        return ours_fail(side, "zp_ctx_new", r);
    for (uint32_t i = 0; i < n; i++) {
        r = zp_set_int(zp_ctx_state(*ret_ctx), o->keys[i], 1234567);
        if (r < 0)
            return ours_fail(side, "zp_set_int", r);
    }
    return SIDE_OK;
}

void
ours_tell_address(struct side *side, zp_ctx *ctx)
{
    crew_shared *s = side->crew->shared;

    snprintf(s->address, sizeof(s->address), "%s", zp_ctx_address(ctx));
}

int
ours_start(struct side *side)
{
    struct ours *o = calloc(1, sizeof(*o));
    int r;

    side->data = o;
    if (o == NULL || (o->keys = side_keys(SIDE_KEYS)) == NULL)
        return side_fail(side, "out of memory");
    o->n_keys = SIDE_KEYS;
    if (ours_open(side, &o->ctx, SIDE_KEYS) != SIDE_OK ||
        crew_new(side) != SIDE_OK)
        return SIDE_FAIL;
    o->state = zp_ctx_state(o->ctx);
    ours_tell_address(side, o->ctx);
    if ((r = zp_set_int(o->state, OURS_KEY, 0)) < 0)
        return ours_fail(side, "zp_set_int", r);
    return side_per_op(side, ours_set_one, 0.1) < 0 ? SIDE_FAIL : SIDE_OK;
}

/* The same, when the log has gone round (but for --quick): from now on it does
 * not grow. */
static int
full_start(struct side *side)
{
    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    return side_repeat(side, ours_set_one, SIDE_WARM(side));
}

void
ours_stop(struct side *side)
{
    struct ours *o = side->data;

    side->crew = crew_free(side->crew);
    if (o == NULL)
        return;
    zp_ctx_free(o->other);
    zp_ctx_free(o->ctx);
    free(o->keys);
    free(o->more);
    free(o);
}

int
ours_join(struct side *side, zp_ctx **ret_ctx)
{
    int r = zp_ctx_attach(ret_ctx, side->crew->shared->address, NULL);

    return r < 0 ? ours_fail(side, "zp_ctx_attach", r) : SIDE_OK;
}

/* ------------------------------------------------- single operations -- */

static int
get_one(struct side *side)
{
    struct ours *o = side->data;
    int64_t value;
    int r = zp_get_int(o->state, o->keys[side_random(o->n_keys)], &value);

    o->value += value & 1;
    return r < 0 ? ours_fail(side, "zp_get_int", r) : SIDE_OK;
}

int
ours_set_one(struct side *side)
{
    struct ours *o = side->data;
    int r = zp_set_int(o->state, o->keys[side_random(o->n_keys)], ++o->value);

    return r < 0 ? ours_fail(side, "zp_set_int", r) : SIDE_OK;
}

static int
increase_one(struct side *side)
{
    struct ours *o = side->data;
    int r = zp_increase(o->state, OURS_KEY, NULL, 1);

    return r < 0 ? ours_fail(side, "zp_increase", r) : SIDE_OK;
}

/* Read, change, write back: what WATCH, MULTI and EXEC are for. */
static int
add_one(zp_state *txn, void *user)
{
    int64_t value;
    int r = zp_get_int(txn, OURS_KEY, &value);

    (void)user;
    return r < 0 ? r : zp_set_int(txn, OURS_KEY, value + 1);
}

static int
atomic_one(struct side *side)
{
    struct ours *o = side->data;
    int r = zp_atomic(o->state, add_one, NULL);

    return r < 0 ? ours_fail(side, "zp_atomic", r) : SIDE_OK;
}

static int
get_round(struct side *side)
{
    return side_report_op(side, get_one);
}

static int
set_round(struct side *side)
{
    return side_report_op(side, ours_set_one);
}

static int
increase_round(struct side *side)
{
    return side_report_op(side, increase_one);
}

static int
atomic_round(struct side *side)
{
    return side_report_op(side, atomic_one);
}

/* --------------------------------------------- eight that increment -- */

static int
hammer_role(struct side *side, unsigned index)
{
    struct ours o = {0};

    side->data = &o;
    if (ours_join(side, &o.ctx) != SIDE_OK)
        return SIDE_FAIL;
    o.state = zp_ctx_state(o.ctx);
    return crew_hammer(side, index, increase_one);
}

static int
hammer_start(struct side *side)
{
    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    return crew_start(side, "hammer", SIDE_HAMMERS);
}

static int
hammer_round(struct side *side)
{
    return crew_hammer_round(side, SIDE_HAMMERS, side->quick ? 0.3 : 1.0);
}

static const struct side_measure measures[] = {
    {"get", full_start, get_round, ours_stop},
    {"set", full_start, set_round, ours_stop},
    {"increase", full_start, increase_round, ours_stop},
    {"atomic", full_start, atomic_round, ours_stop},
    {"increase-8", hammer_start, hammer_round, ours_stop},
    {"callback", ours_callback_start, ours_callback_round, ours_stop},
    {"callback-64", ours_fan_start, ours_fan_round, ours_stop},
    {"callback-100", ours_hundred_start, ours_hundred_round, ours_stop},
    {"wait", ours_wait_start, ours_wait_round, ours_stop},
    {"watches", ours_watches_start, ours_watches_round, ours_watches_stop},
    {"events", ours_events_start, ours_events_round, ours_stop},
    {"keys", ours_keys_start, ours_keys_round, ours_stop},
    {"deletes", ours_deletes_start, ours_deletes_round, ours_stop},
    {"deletes-later", ours_later_start, ours_deletes_round, ours_stop},
    {"pss", ours_pss_start, ours_pss_round, ours_stop},
    {"spawn", ours_spawn_start, ours_spawn_round, ours_stop},
    {"spawn-100", ours_hundred_children_start, ours_hundred_children_round,
     ours_stop},
    {"kill-exit", ours_kill_start, ours_kill_round, ours_stop},
    {"child-pss", ours_children_start, ours_children_round, ours_stop},
    {"map", ours_map_start, ours_map_round, ours_map_stop},
    {"map-singly", ours_map_start, ours_map_singly_round, ours_map_stop},
    {"map-spin", ours_map_start, ours_map_spin_round, ours_map_stop},
    {"map-large", ours_map_start, ours_map_large_round, ours_map_stop},
    {"map-results", ours_map_start, ours_map_results_round, ours_map_stop},
    {"map-process", ours_map_start, ours_map_process_round, ours_map_stop},
    {"stall", ours_stall_start, ours_stall_round, ours_stop},
    {0},
};

static const struct side_role roles[] = {
    {"hammer", hammer_role},
    {"watcher", ours_watcher},
    {"fan", ours_fan},
    {"counter", ours_counter},
    {"stalled", ours_stalled},
    {"beside", ours_beside},
    {"many", ours_many},
    {"waiter", ours_waiter},
    {0},
};

int
main(int argc, char **argv)
{
    return side_main(argc, argv, measures, roles);
}
