/*
 * ours_map.c - our side: items through workers, tiny ones and large ones, one
 * at a time and in chunks as they come; and a process for each item.
 *
 * The workers of a swarm are there before the first round, like those of the
 * peer's pool. A round is one map: from zp_swarm_map() until its last result
 * was read. The source gives an item a call, results are read one by one, in
 * order, and added up: a sum that is not what it should be is a failure.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/bench/ours.h"

#define PATIENCE 30 /* seconds that no map takes */

struct maps {
    zp_swarm *swarm;
    zp_value *large; /* an item of SIDE_LARGE bytes */
    uint64_t given, n;
};

/* ------------------------------------------------------------ functions -- */

static int
square(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n;
    int r = zp_value_get(item, "I", &n);

    (void)common;
    if (r < 0)
        return r;
    n *= n;
    return zp_return(ctx, "I", &n);
}

static int
spin(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    side_spin(SIDE_SPIN);
    return square(ctx, item, common);
}

/* Look at a large item: its size. */
static int
look_at(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    size_t size;
    const unsigned char *image = zp_value_image(item, &size);
    int64_t n = (int64_t)size - image[size - 1];

    (void)common;
    return zp_return(ctx, "I", &n);
}

static int
make_large(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    static unsigned char bytes[SIDE_LARGE];
    zp_bin bin = {bytes, sizeof(bytes)};

    (void)item;
    (void)common;
    return zp_return(ctx, "B", &bin);
}

/* -------------------------------------------------------------- sources -- */

static int
count_up(zp_mapping *map, void *user)
{
    struct maps *m = user;
    int64_t n = (int64_t)m->given;
    int r;

    if (m->given == m->n)
        return 0;
    r = zp_map_add(map, "I", &n);
    m->given++;
    return r < 0 ? r : 1;
}

static int
give_large(zp_mapping *map, void *user)
{
    struct maps *m = user;
    int r;

    if (m->given == m->n)
        return 0;
    r = zp_map_add_value(map, m->large);
    m->given++;
    return r < 0 ? r : 1;
}

/* --------------------------------------------------------------- a map -- */

/* Read all results: their number and sum; of bytes, their size counts. */
static int
read_all(struct side *side, zp_mapping *map, uint64_t *ret_n, uint64_t *ret_sum)
{
    zp_map_result result = {.size = sizeof(result)};
    int64_t value;
    size_t size;
    int r;

    *ret_n = *ret_sum = 0;
    while ((r = zp_map_next(map, &result, PATIENCE)) == 1) {
        if (result.code < 0)
            return ours_fail(side, result.error, result.code);
        if (zp_value_type(result.value) == ZP_BYTES)
            value = zp_value_image(result.value, &size) ? (int64_t)size : 0;
        else if ((r = zp_value_get(result.value, "I", &value)) < 0)
            break;
        *ret_sum += (uint64_t)value;
        ++*ret_n;
    }
    return r < 0 ? ours_fail(side, "zp_map_next", r) : SIDE_OK;
}

/* The same of ints alone, as one reads them. */
static int
read_ints(struct side *side, zp_mapping *map, uint64_t *ret_n,
          uint64_t *ret_sum)
{
    int64_t value;
    int r;

    *ret_n = *ret_sum = 0;
    while ((r = zp_map_get(map, PATIENCE, "I", &value)) == 1) {
        *ret_sum += (uint64_t)value;
        ++*ret_n;
    }
    return r < 0 ? ours_fail(side, "zp_map_get", r) : SIDE_OK;
}

static uint64_t
sum_of_squares(uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i++)
        sum += i * i;
    return sum;
}

struct plan {
    zp_map_fn *fn;
    zp_map_source_fn *source;
    uint64_t n;
    size_t chunk;
    bool each; /* a process for each item */
};

static int
start_map(struct side *side, const struct plan *plan, zp_mapping **ret)
{
    struct ours *o = side->data;
    struct maps *m = o->more;
    zp_map_options options = {.size = sizeof(options), .chunk = plan->chunk};
    int r;

    m->given = 0;
    m->n = plan->n;
    if (plan->each)
        r = zp_spawn_map(o->ctx, ret, &options, plan->fn, plan->source, m);
    else
        r = zp_swarm_map(m->swarm, ret, &options, plan->fn, plan->source, m);
    return r < 0 ? ours_fail(side, "a map", r) : SIDE_OK;
}

static int
run_map(struct side *side, const struct plan *plan, uint64_t sum)
{
    int64_t then = side_now();
    uint64_t n, got;
    zp_mapping *map;
    int r = start_map(side, plan, &map);

    if (r != SIDE_OK)
        return r;
    if (plan->fn == make_large)
        r = read_all(side, map, &n, &got);
    else
        r = read_ints(side, map, &n, &got);
    side_report(side, "rate",
                (double)plan->n / ((double)(side_now() - then) / 1e9));
    zp_map_free(map);
    if (r == SIDE_OK && (n != plan->n || got != sum))
        return side_fail(side, "%llu results, or a wrong sum",
                         (unsigned long long)n);
    return r;
}

static int
squares(struct side *side, zp_map_fn *fn, uint64_t n, size_t chunk, bool each)
{
    struct plan plan = {fn, count_up, n, chunk, each};

    return run_map(side, &plan, sum_of_squares(n));
}

/* --------------------------------------------------------------- rounds -- */

int
ours_map_round(struct side *side)
{
    return squares(side, square, SIDE_ITEMS(side), 0, false);
}

int
ours_map_singly_round(struct side *side)
{
    return squares(side, square, SIDE_SINGLE_ITEMS(side), 1, false);
}

int
ours_map_spin_round(struct side *side)
{
    return squares(side, spin, SIDE_SPINS(side), 0, false);
}

int
ours_map_process_round(struct side *side)
{
    return squares(side, square, SIDE_PROCESSES(side), 0, true);
}

int
ours_map_large_round(struct side *side)
{
    struct maps *m = ((struct ours *)side->data)->more;
    struct plan plan = {look_at, give_large, SIDE_LARGE_ITEMS(side), 0, false};
    size_t size;

    (void)zp_value_image(m->large, &size);
    return run_map(side, &plan, plan.n * (size - 1));
}

int
ours_map_results_round(struct side *side)
{
    struct maps *m = ((struct ours *)side->data)->more;
    struct plan plan = {make_large, count_up, SIDE_LARGE_ITEMS(side), 0, false};
    size_t size;

    (void)zp_value_image(m->large, &size);
    return run_map(side, &plan, plan.n * size);
}

/* ----------------------------------------------------------------- life -- */

static int
new_large(struct side *side, zp_value **ret)
{
    unsigned char *bytes = malloc(SIDE_LARGE);
    zp_bin bin = {bytes, SIDE_LARGE};
    int r;

    if (bytes == NULL)
        return side_fail(side, "out of memory");
    memset(bytes, 1, SIDE_LARGE);
    r = zp_value_new(ret, "B", &bin);
    free(bytes);
    return r < 0 ? ours_fail(side, "zp_value_new", r) : SIDE_OK;
}

int
ours_map_start(struct side *side)
{
    zp_swarm_options options = {.size = sizeof(options), .count = SIDE_WORKERS};
    struct maps *m;
    struct ours *o;
    int r;

    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    o = side->data;
    m = o->more = calloc(1, sizeof(*m));
    if (m == NULL)
        return side_fail(side, "out of memory");
    if (new_large(side, &m->large) != SIDE_OK)
        return SIDE_FAIL;
    r = zp_swarm_new(o->ctx, &m->swarm, &options);
    if (r < 0)
        return ours_fail(side, "zp_swarm_new", r);
    r = squares(side, square, SIDE_WORKERS, 1, false); /* until all are up */
    side->answer[0] = '\0';
    return r;
}

void
ours_map_stop(struct side *side)
{
    struct ours *o = side->data;
    struct maps *m = o != NULL ? o->more : NULL;

    if (m != NULL) {
        m->swarm = zp_swarm_free(m->swarm);
        zp_value_free(m->large);
    }
    ours_stop(side);
}
