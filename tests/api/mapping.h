/*
 * mapping.h - what the tests of maps and swarms share: options, sources, item
 * functions.
 */
#ifndef ZP_TESTS_MAPPING_H
#define ZP_TESTS_MAPPING_H

#include "tests/api/spawning.h"

#define MAP(...)                                                               \
    (&(zp_map_options){.size = sizeof(zp_map_options), __VA_ARGS__})
#define SWARM(...)                                                             \
    (&(zp_swarm_options){.size = sizeof(zp_swarm_options), __VA_ARGS__})

/* ---------------------------------------------------------------- sources --
 */

/* The numbers from `next` up to `end`, some at each call. */
typedef struct numbers {
    int64_t next, end;
    int each; /* 0: one */
    int calls;
} numbers;

static inline int
give_numbers(zp_mapping *map, void *user)
{
    numbers *n = user;

    n->calls++;
    for (int i = 0; i < (n->each ? n->each : 1); i++) {
        if (n->next == n->end)
            return 0;
        if (zp_map_add(map, "I", &n->next) < 0)
            return -EPROTO;
        n->next++;
    }
    return 1;
}

static inline zp_mapping *
map_numbers(zp_ctx *ctx, const zp_map_options *options, zp_map_fn *fn,
            numbers *from)
{
    zp_mapping *map = NULL;

    assert_ok(zp_map(ctx, &map, options, fn, give_numbers, from));
    return map;
}

/* One that is fed by zp_map_add(). */
static inline zp_mapping *
map_fed(zp_ctx *ctx, const zp_map_options *options, zp_map_fn *fn)
{
    zp_mapping *map = NULL;

    assert_ok(zp_map(ctx, &map, options, fn, NULL, NULL));
    return map;
}

static inline zp_swarm *
new_swarm(zp_ctx *ctx, size_t count)
{
    zp_swarm *swarm = NULL;

    assert_ok(zp_swarm_new(ctx, &swarm, SWARM(.count = count)));
    return swarm;
}

static inline zp_mapping *
swarm_numbers(zp_swarm *swarm, const zp_map_options *options, zp_map_fn *fn,
              numbers *from)
{
    zp_mapping *map = NULL;

    assert_ok(zp_swarm_map(swarm, &map, options, fn, give_numbers, from));
    return map;
}

/* --------------------------------------------------------- item functions --
 */

/* The square of an int, plus the common one. */
static inline int
square(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n, more = 0;
    int rc = zp_value_get(item, "I", &n);

    if (rc == 0 && common)
        rc = zp_value_get(common, "I", &more);
    n = n * n + more;
    return rc < 0 ? rc : zp_return(ctx, "I", &n);
}

/* The item itself. */
static inline int
echo(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)common;
    return zp_return_value(ctx, item);
}

/* The pid of who runs it. */
static inline int
tell_pid(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int pid = getpid();

    (void)item;
    (void)common;
    return zp_return(ctx, "i", &pid);
}

/* A pipe as a common argument: workers inherit its descriptors. */
static inline zp_value *
new_sync_value(const zp_sync *sync)
{
    zp_value *value = NULL;

    assert_ok(zp_value_new(&value, "ii", &sync->fd[0], &sync->fd[1]));
    return value;
}

static inline int
sync_of(const zp_value *common, zp_sync *ret)
{
    return zp_value_get(common, "ii", &ret->fd[0], &ret->fd[1]);
}

/* Item 0 waits for the common pipe; the others are done at once. */
static inline int
first_waits(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    zp_sync sync;
    int64_t n;
    int rc = sync_of(common, &sync);

    if (rc == 0)
        rc = zp_value_get(item, "I", &n);
    if (rc == 0 && n == 0)
        zp_sync_wait(&sync, SECONDS);
    return rc < 0 ? rc : zp_return(ctx, "I", &n);
}

/* Never ends by itself. */
static inline int
never_ends(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)ctx;
    (void)item;
    (void)common;
    for (;;)
        pause();
    return 0;
}

/* Nor by a TERM. */
static inline int
ignores_term(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    signal(SIGTERM, SIG_IGN);
    return never_ends(ctx, item, common);
}

/* ---------------------------------------------------------------- reading --
 */

static inline zp_progress
progress_of(const zp_mapping *map)
{
    zp_progress progress = {.size = sizeof progress};

    assert_ok(zp_map_progress(map, &progress));
    return progress;
}

/* The next result, which is there sooner or later. */
static inline zp_map_result
next_of(zp_mapping *map)
{
    zp_map_result result = {.size = sizeof result};

    assert_returns(zp_map_next(map, &result, SECONDS), 1);
    assert_int_equal(result.size, sizeof result);
    return result;
}

static inline int64_t
int_of(const zp_value *value)
{
    int64_t n = INT64_MIN;

    assert_non_null(value);
    assert_ok(zp_value_get(value, "I", &n));
    return n;
}

/* The squares (plus MORE) of FROM .. TO - 1 come in order, and then the end. */
static inline void
expect_squares(zp_mapping *map, int64_t from, int64_t to, int64_t more)
{
    int64_t got;

    for (int64_t i = from; i < to; i++) {
        got = INT64_MIN;
        assert_returns(zp_map_get(map, SECONDS, "I", &got), 1);
        if (got != i * i + more)
            fail_msg("item %lld gave %lld", (long long)i, (long long)got);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
}

/* Run the loop until all workers and others below us have ended. */
struct quiet_wait {
    zp_ctx *ctx;
    int n;
};

static inline bool
is_quiet(void *user)
{
    struct quiet_wait *w = user;
    pid_t pids[16];

    assert_true(zp_ctx_dispatch(w->ctx) >= 0);
    if ((int)zp_test_children(getpid(), pids, 16) > w->n + 1 && w->n < 15)
        return false; /* beside the state's warden: the quick way to see it */
    return count_processes(w->ctx) == w->n;
}

static inline void
expect_processes(zp_ctx *ctx, int n)
{
    struct quiet_wait w = {ctx, n};

    if (zp_test_until(is_quiet, &w, 20))
        return;
    zp_test_name_descendants("there is");
    fail_msg("%d processes, not %d", count_processes(ctx), n);
}

#endif
