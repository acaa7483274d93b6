/*
 * swarm.c - workers that stay: for several maps, at once or one after another.
 *
 *     two maps     at the same time, whose results a function is called with
 *     one task     a single item is a map, too
 *     a window     items are added as long as there is room, results are read
 *                  when there is none
 *     the end      more workers; what was added is done before they go
 *
 * Forking workers takes a while; a swarm does it once. All that its maps need
 * of their functions is that these were there when it was made.
 */
#include <errno.h>
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

/* What the workers do: how many steps does it take from N to 1? */
static int
collatz(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n, steps = 0;

    (void)common;
    TRY(zp_value_get(item, "I", &n));
    if (n < 1)
        return zp_fail(ctx, -EDOM, "%" PRId64 " is not positive", n);
    for (; n != 1; steps++)
        n = n % 2 ? 3 * n + 1 : n / 2;
    return zp_return(ctx, "I", &steps);
}

/* [two] */
struct range {
    int64_t next, last; /* items to come */
    int64_t most;       /* the largest result so far */
};

static int
next_of_range(zp_mapping *map, void *user)
{
    struct range *range = user;

    if (range->next > range->last)
        return 0;
    TRY(zp_map_add(map, "I", &range->next));
    range->next++;
    return 1;
}

/* Called for each result, and at the end without one. */
static int
keep_largest(zp_mapping *map, const zp_map_result *result, void *user)
{
    struct range *range = user;
    int64_t steps;

    if (!result) {
        zp_map_free(map);
        return 0;
    }
    if (result->code < 0)
        return result->code; /* ends zp_run(), which returns it */
    TRY(zp_value_get(result->value, "I", &steps));
    if (steps > range->most)
        range->most = steps;
    return 0;
}

/* Maps of one swarm take turns: the long one does not delay the short one. */
static int
two_maps(zp_ctx *ctx, zp_swarm *swarm)
{
    struct range ranges[2] = {{1, 5000, 0}, {1, 50, 0}};
    zp_map_options options = {
        .size = sizeof(options),
        .flags = ZP_UNORDERED,
        .result_fn = keep_largest,
    };
    zp_mapping *map;

    for (int i = 0; i < 2; i++) {
        options.user = &ranges[i];
        TRY(zp_swarm_map(swarm, &map, &options, collatz, next_of_range,
                         &ranges[i]));
    }
    TRY(zp_run(ctx)); /* until both have ended */
    printf("up to 5000: %" PRId64 " steps\n", ranges[0].most);
    printf("up to 50: %" PRId64 " steps\n", ranges[1].most);
    return 0;
}
/* [/two] */

/* [one] */
static int
one_task(zp_swarm *swarm)
{
    int64_t n = 27, steps;
    zp_mapping *map;
    int rc;

    TRY(zp_swarm_run(swarm, &map, NULL, collatz, "I", &n));
    rc = zp_map_get(map, 10, "I", &steps); /* or do something else meanwhile */
    if (rc > 0)
        printf("27: %" PRId64 " steps\n", steps);
    zp_map_free(map);
    return rc;
}
/* [/one] */

/* [window] */
/* One more item; if there is no room, the next result makes some. */
static int
add(zp_mapping *map, int64_t n, int64_t *sum)
{
    int64_t steps;
    int rc;

    while ((rc = zp_map_add(map, "I", &n)) == -EAGAIN) {
        TRY(zp_map_get(map, -1, "I", &steps));
        *sum += steps;
    }
    return rc;
}

/* Never more than ten items are under way, however many there are. */
static int
windowed(zp_swarm *swarm)
{
    zp_map_options options = {.size = sizeof(options), .window = 10};
    int64_t sum = 0, steps;
    zp_mapping *map;
    int rc = 0;

    TRY(zp_swarm_map(swarm, &map, &options, collatz, NULL, NULL));
    for (int64_t n = 1; n <= 1000 && rc == 0; n++)
        rc = add(map, n, &sum);
    if (rc == 0)
        rc = zp_map_end(map);
    while (rc >= 0 && (rc = zp_map_get(map, -1, "I", &steps)) > 0)
        sum += steps;
    if (rc == 0)
        printf("1 to 1000: %" PRId64 " steps together\n", sum);
    zp_map_free(map);
    return rc;
}
/* [/window] */

/* [end] */
static int
the_end(zp_swarm *swarm)
{
    int64_t n = 0, steps;
    zp_mapping *map;
    int rc;

    TRY(zp_swarm_resize(swarm, 3)); /* one more comes, and gets its share */
    printf("%d workers\n", zp_swarm_count(swarm));
    TRY(zp_swarm_run(swarm, &map, NULL, collatz, "I", &n));
    rc = zp_swarm_stop(swarm, 0); /* waits until that is done */
    if (rc == 0 && zp_map_get(map, -1, "I", &steps) == -EDOM)
        printf("0: an error, of this item alone\n");
    zp_map_free(map);
    return rc;
}
/* [/end] */

/* [main] */
static int
put_to_work(zp_ctx *ctx)
{
    zp_swarm_options options = {
        .size = sizeof(options), .name = "crew", .count = 2};
    zp_swarm *swarm;
    int rc;

    TRY(zp_swarm_new(ctx, &swarm, &options));
    rc = two_maps(ctx, swarm);
    if (rc >= 0)
        rc = one_task(swarm);
    if (rc >= 0)
        rc = windowed(swarm);
    if (rc >= 0)
        rc = the_end(swarm);
    zp_swarm_free(swarm);
    return rc;
}
/* [/main] */

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = put_to_work(ctx);
    if (rc < 0)
        fprintf(stderr, "swarm: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
