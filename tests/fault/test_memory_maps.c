/*
 * test_memory_maps.c - out of memory in a map, in its caller or in a worker:
 * it is told, or overcome; each item has its result, and nothing hangs.
 */
#include "tests/api/mapping.h"
#include "tests/fault/no_memory.h"

#define ITEMS 4 /* 2 with a process for each */

static zp_ctx *ctx;
static int fds; /* open when all is quiet; 0: not known yet */

static int
open_ctx(void **state)
{
    (void)state;
    fds = 0;
    return zp_ctx_new(&ctx, NULL);
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

/* libzmq closes what a socket had some time after that: not more than before is
 * open, sooner or later. */
static bool
are_closed(void *user)
{
    int now;

    (void)user;
    assert_true(zp_ctx_dispatch(ctx) >= 0);
    now = zp_test_open_fds();
    if (now > fds && fds)
        return false;
    fds = now;
    return true;
}

static void
expect_quiet(long k)
{
    expect_processes(ctx, 0);
    if (!zp_test_until(are_closed, NULL, SECONDS))
        fail_msg("allocation %ld failed: %d descriptors, not %d", k,
                 zp_test_open_fds(), fds);
}

/* SCENARIO, with one failure at each place: 0 or -ENOMEM. */
static void
fail_everywhere(int (*scenario)(void))
{
    bool fired = true;
    long k;
    int rc;

    if (zp_test_tsan()) /* it ends workers, too */
        skip();
    assert_ok(scenario());
    expect_quiet(0);
    for (k = 1; fired; k++) {
        atomic_store(countdown, k);
        rc = scenario();
        fired = atomic_exchange(countdown, 0) <= 0;
        if (rc != 0 && rc != -ENOMEM)
            fail_msg("allocation %ld failed: %d %s (%s)", k, rc,
                     zp_strerror(rc), zp_ctx_error(NULL));
        expect_quiet(k);
    }
    print_message("# %ld allocations\n", k - 1);
}

/* The result of item I of MAP. An item that could not be unpacked, or its
 * result not be kept, has failed. */
static int
check_next(zp_mapping *map, uint64_t i, unsigned flags)
{
    zp_map_result result = {.size = sizeof result};
    int rc;

    rc = zp_map_next(map, &result, SECONDS);
    if (rc == -ENOMEM && progress_of(map).code == 0) /* it is there yet */
        rc = zp_map_next(map, &result, SECONDS);
    if (rc < 0)
        return rc;
    assert_int_equal(rc, 1);
    if (!(flags & ZP_UNORDERED))
        assert_int_equal(result.index, i);
    if (result.code == 0)
        assert_int_equal(int_of(result.value), result.index * result.index);
    return result.code == ZP_EPOISON || result.code == 0 ? 0 : result.code;
}

static int
read_all(zp_mapping *map, uint64_t n, unsigned flags)
{
    int rc = 0, got;

    for (uint64_t i = 0; i < n; i++) {
        got = check_next(map, i, flags);
        if (got < 0 && progress_of(map).code < 0)
            return got; /* the map is over */
        if (got < 0)
            rc = got;
    }
    TRY(zp_map_next(map, NULL, SECONDS));
    return rc;
}

/* Looks at the loop, where orders may wait. */
static int
look_and_square(zp_ctx *worker, const zp_value *item, const zp_value *common)
{
    int rc = zp_ctx_dispatch(worker);

    return rc < 0 ? rc : square(worker, item, common);
}

static int
run_map(zp_swarm *swarm, bool per_item, const zp_map_options *options)
{
    numbers from = {.end = per_item ? ITEMS / 2 : ITEMS, .each = 2};
    zp_mapping *map = NULL;
    int rc;

    if (swarm)
        rc = zp_swarm_map(swarm, &map, options, look_and_square, give_numbers,
                          &from);
    else
        rc = (per_item ? zp_spawn_map : zp_map)(
            ctx, &map, options, look_and_square, give_numbers, &from);
    if (rc < 0)
        return rc;
    rc = read_all(map, (uint64_t)from.end, options->flags);
    zp_map_free(map);
    return rc == -EPROTO ? -ENOMEM : rc; /* the source's */
}

static int
maps(void)
{
    return run_map(NULL, false, MAP(.count = 2, .chunk = 2));
}

static int
maps_per_item(void)
{
    return run_map(NULL, true, MAP(.count = 2, .flags = ZP_UNORDERED));
}

static int
swarms(void)
{
    zp_swarm *swarm = NULL;
    zp_mapping *one = NULL;
    int64_t n = 3, got = 9;
    int rc = zp_swarm_new(ctx, &swarm, SWARM(.count = 1));

    TRY(run_map(swarm, false, MAP(.chunk = 3)));
    TRY(zp_swarm_resize(swarm, 2));
    TRY(zp_swarm_run(swarm, &one, NULL, square, "I", &n));
    if (one)
        TRY(zp_map_get(one, SECONDS, "I", &got));
    assert_int_equal(got, 9);
    zp_map_free(one);
    TRY(zp_swarm_stop(swarm, 0));
    zp_swarm_free(swarm);
    return rc < 0 ? rc : 0;
}

static int
shared(void)
{
    numbers from = {.end = ITEMS};
    zp_mapping *map = NULL;
    zp_results *results = NULL;
    int64_t got = 0;
    int rc = zp_map(ctx, &map, MAP(.count = 1, .flags = ZP_SHARED), square,
                    give_numbers, &from);

    TRY(zp_results_open(ctx, &results, zp_map_id(map)));
    for (int64_t i = 0; rc >= 0 && i < ITEMS; i++) {
        rc = zp_results_get(results, SECONDS, "I", &got);
        if (rc == 1)
            assert_int_equal(got, i * i);
    }
    TRY(zp_results_next(results, NULL, SECONDS));
    zp_results_free(results);
    zp_map_free(map);
    return rc == -EPROTO ? -ENOMEM : rc;
}

static void
test_maps(void **state)
{
    (void)state;
    fail_everywhere(maps);
}

static void
test_maps_per_item(void **state)
{
    (void)state;
    fail_everywhere(maps_per_item);
}

static void
test_swarms(void **state)
{
    (void)state;
    fail_everywhere(swarms);
}

static void
test_shared_results(void **state)
{
    (void)state;
    fail_everywhere(shared);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_maps, open_ctx, close_ctx),
        ZP_TEST_WITH(test_maps_per_item, open_ctx, close_ctx),
        ZP_TEST_WITH(test_swarms, open_ctx, close_ctx),
        ZP_TEST_WITH(test_shared_results, open_ctx, close_ctx),
    };

    no_memory_init();
    return zp_test_main("memory_maps", tests, sizeof tests / sizeof *tests,
                        120);
}
