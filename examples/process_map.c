/*
 * process_map.c - one function over many items, in several processes.
 *
 *     squares    items from a source function, results in their order
 *     powers     what all of the calls have in common
 *     areas      several arguments for each item, results as they are done
 *     roots      items that fail, and one that kills whoever touches it
 *     sum        another process reads the results
 *
 * The function is written as if there were one item. How many processes there
 * are, how many items each gets at a time, and what becomes of those of a
 * process that dies, is the map's business.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <zp.h>

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [square] */
/* For each item, in some worker. */
static int
square(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n;

    (void)common;
    TRY(zp_value_get(item, "I", &n));
    n *= n;
    return zp_return(ctx, "I", &n);
}

/* Called when the map can take more: the next number, or 0 after the last. */
static int
count_to_ten(zp_mapping *map, void *user)
{
    int64_t *n = user;

    if (*n == 10)
        return 0;
    ++*n;
    TRY(zp_map_add(map, "I", n));
    return 1;
}
/* [/square] */

/* [squares] */
static int
print_all(zp_mapping *map, const char *what)
{
    int64_t number;
    int rc;

    printf("%s:", what);
    while ((rc = zp_map_get(map, -1, "I", &number)) > 0)
        printf(" %" PRId64, number);
    printf("\n");
    return rc; /* 0: that was the last one */
}

static int
squares(zp_ctx *ctx)
{
    zp_mapping *map;
    int64_t n = 0;
    int rc;

    TRY(zp_map(ctx, &map, NULL, square, count_to_ten, &n));
    rc = print_all(map, "squares");
    zp_map_free(map);
    return rc;
}
/* [/squares] */

/* [powers] */
static int
power(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t base, exponent, result = 1;

    TRY(zp_value_get(item, "I", &base));
    TRY(zp_value_get(common, "I", &exponent));
    while (exponent--)
        result *= base;
    return zp_return(ctx, "I", &result);
}

/* The exponent is the same for all: it is sent once to each worker. */
static int
powers(zp_ctx *ctx)
{
    zp_map_options options = {.size = sizeof(options), .count = 2};
    zp_value *exponent;
    zp_mapping *map;
    int64_t n = 0;
    int rc;

    TRY(zp_value_new(&exponent, ZP_I(3)));
    options.common = exponent; /* copied */
    rc = zp_map(ctx, &map, &options, power, count_to_ten, &n);
    zp_value_free(exponent);
    TRY(rc);
    rc = print_all(map, "powers");
    zp_map_free(map);
    return rc;
}
/* [/powers] */

/* [areas] */
/* An item is a value of any format: a structure here. */
static int
area(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t result;
    int width, height;

    (void)common;
    TRY(zp_value_get(item, "ii", &width, &height));
    result = (int64_t)width * height;
    return zp_return(ctx, "I", &result);
}

/* Items can also be given from outside, one by one; then somebody has to say
 * which is the last. Whoever wants the sum does not care for the order. */
static int
areas(zp_ctx *ctx)
{
    static const int sizes[][2] = {{2, 3}, {4, 5}, {10, 10}, {1, 7}};
    zp_map_options options = {.size = sizeof(options), .flags = ZP_UNORDERED};
    int64_t one, sum = 0;
    zp_mapping *map;
    int rc = 0;

    TRY(zp_map(ctx, &map, &options, area, NULL, NULL));
    for (int i = 0; i < 4 && rc == 0; i++)
        rc = zp_map_add(map, "ii", &sizes[i][0], &sizes[i][1]);
    if (rc == 0)
        rc = zp_map_end(map);
    while (rc >= 0 && (rc = zp_map_get(map, -1, "I", &one)) > 0)
        sum += one;
    if (rc == 0)
        printf("areas: %" PRId64 " together\n", sum);
    zp_map_free(map);
    return rc;
}
/* [/areas] */

/* [square-root] */
/* The whole root of a number, if it has one. */
static int
root(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n, r = 0;

    (void)common;
    TRY(zp_value_get(item, "I", &n));
    if (n == 13)
        raise(SIGKILL); /* what nobody can expect */
    if (n < 0)
        return zp_fail(ctx, -EDOM, "%" PRId64 " has no root", n);
    while (r * r < n)
        r++;
    return zp_return(ctx, "I", &r);
}
/* [/square-root] */

/* [roots] */
/* What fails is an item, not the map: each has a result of its own, and the
 * others are not concerned, not even by the death of a worker. */
static int
roots(zp_ctx *ctx)
{
    static const int64_t numbers[] = {4, -4, 9, 13, 16};
    zp_map_options options = {.size = sizeof(options), .count = 2, .tries = 2};
    zp_map_result result = {.size = sizeof(result)};
    zp_mapping *map;
    int64_t r;
    int rc = 0;

    TRY(zp_map(ctx, &map, &options, root, NULL, NULL));
    for (int i = 0; i < 5 && rc == 0; i++)
        rc = zp_map_add(map, "I", &numbers[i]);
    if (rc == 0)
        rc = zp_map_end(map);
    while (rc >= 0 && (rc = zp_map_next(map, &result, -1)) > 0) {
        printf("root of %" PRId64 ": ", numbers[result.index]);
        if (result.code == ZP_EPOISON)
            printf("%s\n", zp_strerror(result.code));
        else if (result.code < 0)
            printf("%s\n", result.error);
        else if (zp_value_get(result.value, "I", &r) == 0)
            printf("%" PRId64 "\n", r);
    }
    zp_map_free(map);
    return rc;
}
/* [/roots] */

/* [sum] */
/* In another process, which was told the id of a map. */
static int
add_up(zp_ctx *ctx, void *arg)
{
    const uint64_t *id = arg;
    zp_results *results;
    int64_t one, sum = 0;
    int rc;

    TRY(zp_results_open(ctx, &results, *id));
    while ((rc = zp_results_get(results, -1, "I", &one)) > 0)
        sum += one;
    zp_results_free(results);
    return rc < 0 ? rc : zp_return(ctx, "I", &sum);
}

/* The results go into the state, and the map goes on while we wait for whoever
 * reads them. */
static int
sum(zp_ctx *ctx)
{
    zp_map_options options = {.size = sizeof(options), .flags = ZP_SHARED};
    int64_t n = 0, total;
    zp_mapping *map;
    zp_proc *reader;
    uint64_t id;
    int rc;

    TRY(zp_map(ctx, &map, &options, square, count_to_ten, &n));
    id = zp_map_id(map);
    rc = zp_spawn(ctx, &reader, NULL, add_up, &id);
    if (rc == 0)
        rc = zp_wait(reader, NULL, -1);
    if (rc == 0)
        rc = zp_proc_get(reader, "I", &total);
    if (rc == 0)
        printf("sum: %" PRId64 "\n", total);
    zp_map_free(map);
    return rc;
}
/* [/sum] */

static int
calculate(zp_ctx *ctx)
{
    TRY(squares(ctx));
    TRY(powers(ctx));
    TRY(areas(ctx));
    TRY(roots(ctx));
    return sum(ctx);
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = calculate(ctx);
    if (rc < 0)
        fprintf(stderr, "process_map: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
