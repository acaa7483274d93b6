/*
 * test_results.c - a map's results by its id: read by whom, when, how far, and
 * what is left of them; owners and readers that die; results that are not read
 * in time, or for which there is no room.
 */
#include <math.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "tests/api/mapping.h"

#define SHARED(...) MAP(.flags = ZP_SHARED, .count = 2, __VA_ARGS__)
#define ITEMS_MAX 512

/* What the processes of a test tell each other. */
static struct words {
    _Atomic int seen[ITEMS_MAX]; /* by index: how often */
    _Atomic uint64_t id;
    zp_sync up, go;
} * words;

static int
set_up(void **state)
{
    (void)state;
    words = mmap(NULL, sizeof *words, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED)
        return -1;
    zp_sync_open(&words->up);
    zp_sync_open(&words->go);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    zp_sync_close(&words->up);
    zp_sync_close(&words->go);
    return munmap(words, sizeof *words);
}

static int
fewer(int n)
{
    return zp_test_slow() > 1 ? n / 10 : n;
}

/* ---------------------------------------------------------------- reading --
 */

static zp_results *
open_id(zp_ctx *ctx, uint64_t id)
{
    zp_results *results = NULL;

    assert_ok(zp_results_open(ctx, &results, id));
    return results;
}

static zp_results *
open_map(zp_ctx *ctx, const zp_mapping *map)
{
    return open_id(ctx, zp_map_id(map));
}

static zp_map_result
read_next(zp_results *results)
{
    zp_map_result result = {.size = sizeof result};

    assert_returns(zp_results_next(results, &result, SECONDS), 1);
    return result;
}

static void
expect_next(zp_results *results, uint64_t index)
{
    zp_map_result result = read_next(results);

    assert_int_equal(result.index, index);
    assert_int_equal(result.code, 0);
    assert_int_equal(int_of(result.value), index * index);
}

/* ... and will stay so. */
static void
expect_end(zp_results *results, int rc)
{
    for (int i = 0; i < 2; i++)
        assert_returns(zp_results_next(results, NULL, SECONDS), rc);
}

/* The squares from FROM up to TO, and the end. */
static void
read_squares(zp_results *results, uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i < to; i++)
        expect_next(results, i);
    expect_end(results, 0);
}

/* Keys that there are of maps' results, and a wait until they are LENGTH. */
static uint64_t
count_keys(zp_ctx *ctx)
{
    zp_state *state = NULL;
    uint64_t n = 0;

    assert_ok(zp_state_clone(zp_ctx_state(ctx), &state, "zp.maps"));
    assert_ok(zp_length(state, &n));
    zp_state_free(state);
    return n;
}

static int
has_keys(zp_state *snapshot, void *user)
{
    uint64_t n, *wanted = user;
    int rc = zp_length(snapshot, &n);

    return rc < 0 ? rc : n == *wanted;
}

static void
wait_for_keys(zp_ctx *ctx, uint64_t n)
{
    zp_state *state = NULL;

    assert_ok(zp_state_clone(zp_ctx_state(ctx), &state, "zp.maps"));
    assert_ok(zp_get_when(state, NULL, NULL, 0, SECONDS, NULL, has_keys, &n));
    zp_state_free(state);
}

/* A child that reads squares from the first to the last. */
struct range {
    uint64_t id, n;
};

static int
reads_squares(zp_ctx *ctx, void *arg)
{
    const struct range *range = arg;
    zp_results *results = open_id(ctx, range->id);

    read_squares(results, 0, range->n);
    zp_results_free(results);
    return 0;
}

static void
read_in_child(zp_ctx *ctx, const zp_mapping *map, uint64_t n)
{
    struct range range = {zp_map_id(map), n};

    result_of(spawn(ctx, NULL, reads_squares, &range), 0);
}

/* ------------------------------------------------------------ who and when --
 */

static void
test_in_order(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1000};
    zp_mapping *map = map_numbers(ctx, SHARED(.chunk = 7), square, &from);

    (void)state;
    assert_int_equal(count_keys(ctx), 1);
    read_in_child(ctx, map, 1000);
    assert_int_equal(count_keys(ctx), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_unordered(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = ITEMS_MAX};
    zp_mapping *map = map_numbers(
        ctx, MAP(.flags = ZP_SHARED | ZP_UNORDERED, .count = 3, .chunk = 5),
        square, &from);
    zp_results *results = open_map(ctx, map);
    zp_map_result result;

    (void)state;
    for (int i = 0; i < ITEMS_MAX; i++) {
        result = read_next(results);
        assert_int_equal(int_of(result.value), result.index * result.index);
        assert_in_range(result.index, 0, ITEMS_MAX - 1);
        assert_int_equal(words->seen[result.index]++, 0);
    }
    expect_end(results, 0);
    assert_int_equal(count_keys(ctx), 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_after_the_end(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 100};
    zp_mapping *map = map_numbers(ctx, SHARED(0), square, &from);
    struct range range = {zp_map_id(map), 100};

    (void)state;
    assert_ok(zp_map_wait(map, SECONDS));
    assert_int_equal(progress_of(map).read, 100);
    zp_map_free(map);
    result_of(spawn(ctx, NULL, reads_squares, &range), 0);
    assert_int_equal(count_keys(ctx), 0);
    zp_ctx_free(ctx);
}

static int
maps_and_ends(zp_ctx *ctx, void *arg)
{
    numbers from = {.end = 100};
    zp_mapping *map = map_numbers(ctx, SHARED(0), square, &from);

    (void)arg;
    words->id = zp_map_id(map);
    return zp_map_wait(map, SECONDS);
}

static void
test_after_the_owner(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_results *results;

    (void)state;
    result_of(spawn(ctx, NULL, maps_and_ends, NULL), 0);
    results = open_id(ctx, words->id);
    read_squares(results, 0, 100);
    zp_results_free(results);
    assert_int_equal(count_keys(ctx), 0);
    zp_ctx_free(ctx);
}

/* An item for each post. */
static int
square_when_told(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    zp_sync_wait(&words->go, SECONDS);
    return square(ctx, item, common);
}

static int
reads_and_tells(zp_ctx *ctx, void *arg)
{
    zp_results *results = open_id(ctx, *(uint64_t *)arg);

    for (uint64_t i = 0; i < 5; i++) {
        zp_sync_post(&words->go); /* there is none before */
        expect_next(results, i);
    }
    expect_end(results, 0);
    return 0;
}

static void
test_while_it_goes_on(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 5};
    zp_mapping *map =
        map_numbers(ctx, MAP(.flags = ZP_SHARED, .count = 1, .chunk = 1),
                    square_when_told, &from);
    uint64_t id = zp_map_id(map);

    (void)state;
    result_of(spawn(ctx, NULL, reads_and_tells, &id), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
attaches_and_reads(void *user)
{
    struct range range = {.n = 300};
    zp_ctx *ctx = NULL;

    (void)user;
    zp_sync_wait(&words->go, SECONDS);
    assert_ok(zp_ctx_attach(&ctx, "strangers", NULL));
    range.id = words->id;
    reads_squares(ctx, &range);
    zp_ctx_free(ctx);
    return 0;
}

static void
test_a_stranger(void **state)
{
    pid_t pid = zp_test_fork(attaches_and_reads, NULL);
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .name = "strangers"});
    numbers from = {.end = 300};
    zp_mapping *map = map_numbers(ctx, SHARED(0), square, &from);

    (void)state;
    words->id = zp_map_id(map);
    zp_sync_post(&words->go);
    assert_ok(zp_map_wait(map, SECONDS));
    assert_int_equal(zp_test_wait(pid, SECONDS), 0);
    assert_int_equal(count_keys(ctx), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_many(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int n = fewer(50000);
    numbers from = {.end = n, .each = 100};
    zp_mapping *map = map_numbers(ctx, SHARED(.window = 5000), square, &from);

    (void)state;
    read_in_child(ctx, map, (uint64_t)n);
    assert_int_equal(count_keys(ctx), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------- several readers --
 */

/* The item, in many bytes: only two of them are in one run. */
static int
pad(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    static char bytes[100000];
    zp_bin bin = {bytes, sizeof bytes};
    int64_t n;
    int rc = zp_value_get(item, "I", &n);

    (void)common;
    return rc < 0 ? rc : zp_return(ctx, "IB", &n, &bin);
}

static void
expect_padded(const zp_map_result *result)
{
    zp_bin bin;
    int64_t n;

    assert_int_equal(result->code, 0);
    assert_ok(zp_value_get(result->value, "IB", &n, &bin));
    assert_int_equal(n, result->index);
    free(bin.addr);
}

/* Reads three, and then no more. */
static int
reads_three(zp_ctx *ctx, void *arg)
{
    zp_results *results = open_id(ctx, *(uint64_t *)arg);

    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(read_next(results).index, i);
    return sleeps(ctx, &words->up);
}

static void
test_another_goes_on(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 20};
    zp_mapping *map = map_numbers(ctx, SHARED(0), pad, &from);
    uint64_t id = zp_map_id(map), first;
    zp_proc *proc = spawn(ctx, NULL, reads_three, &id);
    zp_results *results;
    zp_map_result result;

    (void)state;
    assert_ok(zp_map_wait(map, SECONDS));
    zp_sync_wait(&words->up, SECONDS);
    kill(zp_proc_pid(proc), SIGKILL);
    result_of(proc, ZP_EFAILED);
    results = open_id(ctx, id);
    result = read_next(results);
    expect_padded(&result);
    first = result.index;
    assert_in_range(first, 3, 4); /* the run that it was in has gone with it */
    while (first < 19) {
        result = read_next(results);
        assert_int_equal(result.index, ++first);
        expect_padded(&result);
    }
    expect_end(results, 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* Given back, and opened again, in one process. */
static void
test_one_after_the_other(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 20};
    zp_mapping *map = map_numbers(ctx, SHARED(0), pad, &from);
    zp_results *results;
    zp_map_result result = {.size = sizeof result};
    uint64_t next = 0, opened = 0;
    int rc = 1;

    (void)state;
    assert_ok(zp_map_wait(map, SECONDS));
    for (; rc == 1; opened++) {
        if (zp_results_open(ctx, &results, zp_map_id(map)) == ZP_ENOKEY)
            break; /* the last one has read the last run */
        rc = zp_results_next(results, &result, SECONDS);
        if (rc == 1) {
            assert_in_range(result.index, next, next + 1);
            next = result.index + 1;
        }
        zp_results_free(results);
    }
    assert_in_range(opened, 10, 21);
    assert_int_equal(count_keys(ctx), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* Counts what it reads. */
static int
reads_its_share(zp_ctx *ctx, void *arg)
{
    zp_results *results = open_id(ctx, *(uint64_t *)arg);
    zp_map_result result = {.size = sizeof result};
    int64_t last = -1;
    int rc;

    zp_sync_post(&words->up);
    zp_sync_wait(&words->go, SECONDS);
    while ((rc = zp_results_next(results, &result, SECONDS)) == 1) {
        assert_true((int64_t)result.index > last);
        last = (int64_t)result.index;
        expect_padded(&result);
        words->seen[last]++;
    }
    zp_results_free(results);
    return rc;
}

static void
test_readers_share(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int n = fewer(200);
    numbers from = {.end = n};
    zp_mapping *map = map_numbers(ctx, SHARED(0), pad, &from);
    uint64_t id = zp_map_id(map);
    zp_proc *procs[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        procs[i] = spawn(ctx, NULL, reads_its_share, &id);
    for (int i = 0; i < 3; i++)
        zp_sync_wait(&words->up, SECONDS);
    for (int i = 0; i < 3; i++)
        zp_sync_post(&words->go);
    for (int i = 0; i < 3; i++)
        result_of(procs[i], 0);
    for (int i = 0; i < n; i++)
        assert_int_equal(words->seen[i], 1);
    assert_int_equal(count_keys(ctx), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ deaths --
 */

/* Maps three items, and waits for more. */
static int
maps_for_ever(zp_ctx *ctx, void *arg)
{
    zp_mapping *map = map_fed(ctx, SHARED(0), square);

    (void)arg;
    for (int64_t i = 0; i < 3; i++)
        assert_ok(zp_map_add(map, "I", &i));
    words->id = zp_map_id(map);
    zp_sync_post(&words->up);
    return zp_run(ctx);
}

static void
kill_owner(zp_ctx *ctx, bool open_before)
{
    zp_proc *proc = spawn(ctx, NULL, maps_for_ever, NULL);
    zp_results *results;
    uint64_t i = 0;
    int rc;

    zp_sync_wait(&words->up, SECONDS);
    results = open_id(ctx, words->id);
    if (open_before)
        for (; i < 3; i++)
            expect_next(results, i);
    else /* the first of them are there */
        assert_true(read_next(results).index == i++);
    kill(zp_proc_pid(proc), SIGKILL);
    result_of(proc, ZP_EFAILED);
    while ((rc = zp_results_next(results, NULL, SECONDS)) == 1)
        i++;
    assert_int_equal(rc, ZP_EGONE);
    assert_in_range(i, 1, 3);
    expect_end(results, ZP_EGONE);
    zp_results_free(results);
    assert_int_equal(count_keys(ctx), 0);
    assert_returns(zp_results_open(ctx, &results, words->id), ZP_ENOKEY);
}

static void
test_the_owner_dies(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    kill_owner(ctx, true);
    kill_owner(ctx, false);
    zp_ctx_free(ctx);
}

/* Results of it are there that are too many for one run: all are read, by one
 * who has waited since before, until it is told. */
static int
maps_much(zp_ctx *ctx, void *arg)
{
    numbers from = {.end = 10};
    zp_mapping *map = map_fed(ctx, SHARED(0), pad);

    (void)arg;
    while (give_numbers(map, &from) > 0)
        ;
    words->id = zp_map_id(map);
    zp_sync_post(&words->up);
    while (progress_of(map).read < 10)
        assert_true(zp_ctx_dispatch(ctx) >= 0);
    zp_sync_post(&words->up);
    return zp_run(ctx);
}

static void
test_what_a_dead_owner_left(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = spawn(ctx, NULL, maps_much, NULL);
    zp_results *results;
    zp_map_result result = {.size = sizeof result};
    uint64_t n = 0;
    int rc;

    (void)state;
    zp_sync_wait(&words->up, SECONDS);
    results = open_id(ctx, words->id);
    zp_sync_wait(&words->up, SECONDS);
    kill(zp_proc_pid(proc), SIGKILL);
    result_of(proc, ZP_EFAILED);
    while ((rc = zp_results_next(results, &result, SECONDS)) == 1) {
        assert_int_equal(result.index, n++);
        expect_padded(&result);
    }
    assert_int_equal(rc, ZP_EGONE);
    assert_in_range(n, 8, 10); /* the last run may have been on its way */
    zp_results_free(results);
    assert_int_equal(count_keys(ctx), 0);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------------- ends before all
 * --
 */

static int
leaves_a_map(zp_ctx *ctx, void *arg)
{
    zp_mapping *map = map_fed(ctx, SHARED(0), square);

    (void)arg;
    words->id = zp_map_id(map);
    zp_sync_post(&words->up);
    zp_sync_wait(&words->go, SECONDS);
    return 0;
}

static void
test_the_owner_leaves(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = spawn(ctx, NULL, leaves_a_map, NULL);
    zp_results *results;

    (void)state;
    zp_sync_wait(&words->up, SECONDS);
    results = open_id(ctx, words->id);
    zp_sync_post(&words->go);
    expect_end(results, -ECANCELED);
    result_of(proc, 0);
    zp_results_free(results);
    assert_int_equal(count_keys(ctx), 0);
    zp_ctx_free(ctx);
}

static int
first_only(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    return int_of(item) == 0 ? square(ctx, item, common)
                             : never_ends(ctx, item, common);
}

static void
test_cancelled(void **state)
{
    (void)state;
    for (int freed = 0; freed < 2; freed++) {
        zp_ctx *ctx = new_ctx(NULL);
        numbers from = {.end = 4};
        zp_mapping *map =
            map_numbers(ctx, SHARED(.chunk = 1), first_only, &from);
        zp_results *results = open_map(ctx, map);

        wait_for_keys(ctx, 2);
        if (freed)
            zp_map_free(map);
        else
            assert_ok(zp_map_cancel(map));
        expect_next(results, 0);
        expect_end(results, -ECANCELED);
        assert_has(zp_ctx_error(ctx), "cancelled");
        zp_results_free(results);
        assert_int_equal(count_keys(ctx), 0);
        if (!freed)
            zp_map_free(map);
        zp_ctx_free(ctx);
    }
}

static int
source_fails(zp_mapping *map, void *user)
{
    int *n = user;

    assert_ok(zp_map_add(map, "I", &(int64_t){*n}));
    return ++*n < 3 ? 1 : -EIO;
}

static void
test_a_source_that_fails(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = NULL;
    zp_results *results;
    int n = 0, rc;

    (void)state;
    assert_ok(zp_map(ctx, &map, SHARED(0), square, source_fails, &n));
    results = open_map(ctx, map);
    while ((rc = zp_results_next(results, NULL, SECONDS)) == 1)
        ;
    assert_int_equal(rc, -EIO);
    expect_end(results, -EIO);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* 0: a square, 1: a failure with a text, 2: kills its worker, 3: no result */
static int
ends_somehow(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    switch (int_of(item)) {
    case 1:
        return zp_fail(ctx, -EIO, "no luck with %d", 1);
    case 2:
        raise(SIGKILL);
        return 0;
    case 3:
        return 0;
    default:
        return square(ctx, item, common);
    }
}

static void
test_failures_of_items(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 8};
    zp_mapping *map;
    zp_results *results;
    zp_map_result result;
    int64_t n;
    double d;

    (void)state;
    map = map_numbers(ctx, SHARED(.chunk = 1, .tries = 1), ends_somehow, &from);
    results = open_map(ctx, map);
    expect_next(results, 0);
    result = read_next(results);
    assert_int_equal(result.code, -EIO);
    assert_null(result.value);
    assert_string_equal(result.error, "no luck with 1");
    assert_has(result.origin, "test_results.c:");
    result = read_next(results);
    assert_int_equal(result.code, ZP_EPOISON);
    assert_has(result.error, "signal");
    result = read_next(results);
    assert_int_equal(result.code, 0);
    assert_null(result.value);
    assert_returns(zp_results_get(results, SECONDS, "s", &n), ZP_ETYPE);
    assert_returns(zp_results_get(results, SECONDS, "I", &n), 1);
    assert_int_equal(n, 25);
    assert_returns(zp_results_get(results, SECONDS, NULL), ZP_EFORMAT);
    assert_returns(zp_results_get(results, SECONDS, "f", &d), ZP_ETYPE);
    assert_returns(zp_results_get(results, SECONDS, "c", &(char){0}), 1);
    assert_ok(zp_results_get(results, SECONDS, "I", &n));
    zp_results_free(results);
    zp_map_free(map);

    from = (numbers){.next = 1, .end = 4};
    map = map_numbers(ctx, SHARED(.chunk = 1, .tries = 1), ends_somehow, &from);
    results = open_map(ctx, map);
    assert_returns(zp_results_get(results, SECONDS, "I", &n), -EIO);
    assert_has(zp_ctx_error(ctx), "no luck");
    assert_returns(zp_results_get(results, SECONDS, "I", &n), ZP_EPOISON);
    assert_returns(zp_results_get(results, SECONDS, "I", &n), ZP_ENOKEY);
    expect_end(results, 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------- expiry --
 */

static void
test_not_read_in_time(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, SHARED(.keep = 0.2), square);
    zp_results *results = open_map(ctx, map), *second;

    (void)state;
    for (int64_t i = 0; i < 2; i++) {
        assert_ok(zp_map_add(map, "I", &i));
        wait_for_keys(ctx, 2);
    }
    wait_for_keys(ctx, 1); /* the map goes on: its head stays */
    assert_returns(zp_results_next(results, NULL, SECONDS), ZP_EGONE);
    second = open_map(ctx, map);
    assert_returns(zp_results_next(second, NULL, 0.01), -ETIMEDOUT);
    assert_ok(zp_map_add(map, "I", &(int64_t){2}));
    expect_next(results, 2); /* it goes on */
    assert_ok(zp_map_end(map));
    expect_end(results, 0);
    expect_end(second, 0);
    assert_int_equal(count_keys(ctx), 0);
    zp_results_free(results);
    zp_results_free(second);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_nothing_is_left_of_what_nobody_reads(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 10};
    zp_mapping *map = map_numbers(ctx, SHARED(.keep = 0.1), square, &from);
    zp_results *results;
    uint64_t id = zp_map_id(map);

    (void)state;
    assert_ok(zp_map_wait(map, SECONDS));
    zp_map_free(map);
    wait_for_keys(ctx, 0);
    assert_returns(zp_results_open(ctx, &results, id), ZP_ENOKEY);
    zp_ctx_free(ctx);
}

/* One who works on what it has for longer than the rest is kept. */
static void
test_a_slow_reader_learns_the_end(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, SHARED(.keep = 0.1), square);
    zp_results *results = open_map(ctx, map);

    (void)state;
    assert_ok(zp_map_add(map, "I", &(int64_t){0}));
    assert_ok(zp_map_end(map));
    expect_next(results, 0);
    wait_for_keys(ctx, 0);
    expect_end(results, 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- large ones --
 */

static int
large(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    size_t size = (size_t)int_of(item);
    zp_bin bin = {malloc(size), (uint32_t)size};
    int rc;

    (void)common;
    if (!bin.addr)
        return -ENOMEM;
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)bin.addr)[i] = (unsigned char)(i * i >> 8);
    rc = zp_return(ctx, "B", &bin);
    free(bin.addr);
    return rc;
}

static void
expect_large(zp_results *results, size_t size)
{
    zp_bin bin = {NULL, 0};

    assert_returns(zp_results_get(results, SECONDS, "B", &bin), 1);
    assert_int_equal(bin.sz, size);
    for (size_t i = 0; i < size; i++)
        if (((unsigned char *)bin.addr)[i] != (unsigned char)(i * i >> 8))
            fail_msg("byte %zu is another one", i);
    free(bin.addr);
}

static void
read_large(const zp_ctx_options *options, size_t window_bytes, int64_t size)
{
    zp_ctx *ctx = new_ctx(options);
    zp_mapping *map = map_fed(ctx, SHARED(.window_bytes = window_bytes), large);
    zp_results *results = open_map(ctx, map);
    int64_t sizes[] = {1, size, 300000, 2};

    for (int i = 0; i < 4; i++) {
        while (zp_map_add(map, "I", &sizes[i]) == -EAGAIN)
            assert_true(zp_ctx_dispatch(ctx) >= 0);
        expect_large(results, (size_t)sizes[i]);
    }
    assert_ok(zp_map_end(map));
    expect_end(results, 0);
    assert_int_equal(count_keys(ctx), 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_large_results(void **state)
{
    zp_ctx_options small_values = {.size = sizeof small_values,
                                   .max_value = 10000},
                   small = {.size = sizeof small, .max_bytes = 8 << 20};

    (void)state;
    read_large(NULL, 0, fewer((64 << 20) - 100));
    read_large(NULL, 1, 3 << 20);
    read_large(&small_values, 0, 1 << 20);
    read_large(&small, 0, fewer(32 << 20)); /* it does not fit in all at once */
}

/* A reader goes in the middle of one: it has gone, too. */
static void
test_half_a_result(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, SHARED(.window_bytes = 1), large);
    zp_results *results = open_map(ctx, map);

    (void)state;
    assert_ok(zp_map_add(map, "I", &(int64_t){1 << 20}));
    wait_for_keys(ctx, 2);
    assert_returns(zp_results_next(results, NULL, 0), -ETIMEDOUT);
    zp_results_free(results);
    results = open_map(ctx, map);
    while (zp_map_add(map, "I", &(int64_t){3}) == -EAGAIN)
        assert_true(zp_ctx_dispatch(ctx) >= 0);
    assert_ok(zp_map_end(map));
    expect_large(results, 3);
    expect_end(results, 0);
    zp_results_free(results);
    assert_int_equal(count_keys(ctx), 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- slow, full --
 */

/* Without a reader: no more than the window is taken, and kept in the state. */
static void
test_the_window_bounds_a_slow_reader(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1000000};
    zp_mapping *map = map_numbers(
        ctx, SHARED(.chunk = 1, .window_bytes = 1 << 20), pad, &from);
    zp_results *results;
    uint64_t before;

    (void)state;
    wait_for_keys(ctx, 6);
    assert_returns(zp_map_wait(map, 0.2), -ETIMEDOUT);
    assert_int_equal(count_keys(ctx), 6);
    before = progress_of(map).done;
    assert_in_range(before, 8, 100);
    results = open_map(ctx, map);
    for (uint64_t i = 0; i < before + 20; i++)
        assert_int_equal(read_next(results).index, i);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
fill_state(zp_ctx *ctx, int round)
{
    size_t size = 200000;
    char *bytes = calloc(1, size), key[40];
    int rc;

    for (int i = 0; size > 100; i++) {
        snprintf(key, sizeof key, "round%d.key%d", round, i);
        rc = zp_set_bytes(zp_ctx_state(ctx), key, bytes, size);
        if (rc == -ENOSPC)
            size /= 2;
        else
            assert_ok(rc);
    }
    free(bytes);
}

/* (Pages that readers had pinned may come free while it is tried: then there is
 * room once more, and it is filled again.) */
static void
test_no_room(void **state)
{
    zp_ctx_options small = {.size = sizeof small, .max_bytes = 4 << 20};
    zp_ctx *ctx = new_ctx(&small);
    zp_mapping *map = map_fed(ctx, SHARED(0), pad);
    zp_results *results = open_map(ctx, map);
    int rc, round = 0;

    (void)state;
    do {
        fill_state(ctx, round);
        assert_ok(zp_map_add(map, "I", &(int64_t){0}));
        rc = zp_results_next(results, NULL, SECONDS);
    } while (rc == 1 && ++round < 50);
    assert_int_equal(rc, -ENOSPC);
    assert_has(zp_ctx_error(ctx), "full");
    expect_end(results, -ENOSPC);
    assert_returns(zp_map_wait(map, SECONDS), -ENOSPC);
    zp_results_free(results);
    zp_map_free(map);
    assert_int_equal(count_keys(ctx), 0);
    zp_ctx_free(ctx);
}

/* All that there is room for is unread: that is no error. */
static void
test_room_by_reading(void **state)
{
    zp_ctx_options small = {.size = sizeof small, .max_bytes = 4 << 20};
    zp_ctx *ctx = new_ctx(&small);
    numbers from = {.end = 100};
    zp_mapping *map = map_numbers(ctx, SHARED(0), pad, &from);
    zp_results *results;
    zp_map_result result;

    (void)state;
    assert_returns(zp_map_wait(map, 0.2), -ETIMEDOUT);
    results = open_map(ctx, map);
    for (uint64_t i = 0; i < 100; i++) {
        result = read_next(results);
        assert_int_equal(result.index, i);
        expect_padded(&result);
    }
    expect_end(results, 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
hold_lock(zp_state *txn, void *user)
{
    (void)txn;
    (void)user;
    zp_sync_post(&words->up);
    zp_sync_wait(&words->go, SECONDS);
    return 0;
}

static int
holds_lock(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_atomic(zp_ctx_state(ctx), hold_lock, NULL);
}

/* The owner's loop goes on while others hold the lock, which it would wait for
 * until the alarm. */
static void
test_the_loop_goes_on_without_the_lock(void **state)
{
    zp_ctx_options patient = {.size = sizeof patient, .lock_timeout = 1e6};
    zp_ctx *ctx = new_ctx(&patient);
    zp_mapping *map = map_fed(ctx, SHARED(0), square);
    zp_results *results = open_map(ctx, map);
    zp_proc *proc;

    (void)state;
    proc = spawn(ctx, NULL, holds_lock, NULL);
    zp_sync_wait(&words->up, SECONDS);
    assert_ok(zp_map_add(map, "I", &(int64_t){0}));
    assert_ok(zp_map_end(map));
    while (progress_of(map).read < 1)
        assert_true(zp_ctx_dispatch(ctx) >= 0);
    assert_returns(zp_map_wait(map, 0.2), -ETIMEDOUT);
    assert_returns(zp_results_next(results, NULL, 0), -ETIMEDOUT);
    zp_sync_post(&words->go);
    read_squares(results, 0, 1);
    result_of(proc, 0);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ misuse --
 */

static int
reads_inside(zp_state *txn, void *user)
{
    zp_results *other;

    assert_returns(zp_results_next(user, NULL, 0), -EDEADLK);
    assert_returns(zp_results_get(user, 0, "I", &(int64_t){0}), -EDEADLK);
    assert_returns(zp_results_open(zp_state_ctx(txn), &other, words->id),
                   -EDEADLK);
    return 0;
}

static int
reads_inherited(void *user)
{
    zp_results *results = user;

    assert_returns(zp_results_next(results, NULL, 0), ZP_EFORK);
    assert_null(zp_results_free(results));
    return 0;
}

static void
test_misuse(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *plain = map_fed(ctx, MAP(.count = 1), square);
    zp_mapping *map = map_fed(ctx, SHARED(0), square);
    zp_results *results, *none = NULL;
    zp_map_result result = {.size = 1};

    (void)state;
    assert_int_equal(zp_map_id(plain), 0);
    assert_int_equal(zp_map_id(NULL), 0);
    words->id = zp_map_id(map);
    assert_true(words->id != 0);
    results = open_map(ctx, map);
    assert_returns(zp_results_open(ctx, &none, 0), -EINVAL);
    assert_returns(zp_results_open(ctx, NULL, words->id), -EINVAL);
    assert_returns(zp_results_open(NULL, &none, words->id), -EINVAL);
    assert_returns(zp_results_open(ctx, &none, words->id + 1), ZP_ENOKEY);
    assert_null(none);
    assert_returns(zp_results_next(NULL, NULL, 0), -EINVAL);
    assert_returns(zp_results_next(results, &result, 0), -EINVAL);
    assert_returns(zp_results_next(results, NULL, NAN), -EINVAL);
    assert_returns(zp_results_get(results, NAN, "I", &(int64_t){0}), -EINVAL);
    assert_returns(zp_results_get(NULL, 0, "I", &(int64_t){0}), -EINVAL);
    assert_returns(zp_results_next(results, NULL, 0), -ETIMEDOUT);
    assert_returns(zp_results_next(results, NULL, 0.01), -ETIMEDOUT);
    assert_returns(zp_map_next(map, NULL, 0), -EINVAL);
    assert_returns(zp_map_get(map, 0, "I", &(int64_t){0}), -EINVAL);
    assert_ok(zp_atomic(zp_ctx_state(ctx), reads_inside, results));
    assert_int_equal(zp_test_wait(zp_test_fork(reads_inherited, results), 20),
                     0);
    assert_null(zp_results_free(NULL));
    assert_ok(zp_map_add(map, "I", &(int64_t){0}));
    assert_ok(zp_map_end(map));
    read_squares(results, 0, 1);
    zp_results_free(results);
    zp_map_free(map);
    zp_map_free(plain);
    zp_ctx_free(ctx);
}

/* What others write there is not believed. */
static void
test_others_in_the_namespace(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, SHARED(0), square);
    zp_results *results = open_map(ctx, map);
    zp_state *maps = NULL;
    char key[60];
    uint32_t piece = 0, pieces = 1;
    zp_bin bytes = {(char[20]){"not results at all"}, 20};

    (void)state;
    assert_ok(zp_state_clone(zp_ctx_state(ctx), &maps, "zp.maps"));
    assert_ok(zp_map_add(map, "I", &(int64_t){0}));
    wait_for_keys(ctx, 2);
    snprintf(key, sizeof key, "%016llx.%016llx",
             (unsigned long long)zp_map_id(map), 0ull);
    assert_true(zp_contains(maps, key));
    assert_ok(zp_set(maps, key, "uuB", &piece, &pieces, &bytes));
    assert_returns(zp_results_next(results, NULL, SECONDS), ZP_ECORRUPT);
    assert_ok(zp_map_add(map, "I", &(int64_t){1}));
    expect_next(results, 1);
    assert_ok(zp_set_int(maps, key, 3));
    key[16] = '\0';
    assert_ok(zp_set_string(maps, key, "a head"));
    assert_returns(zp_results_next(results, NULL, SECONDS), ZP_ETYPE);
    assert_ok(zp_clear(maps));
    assert_returns(zp_results_next(results, NULL, SECONDS), ZP_EGONE);
    assert_ok(zp_map_add(map, "I", &(int64_t){2}));
    assert_returns(zp_map_wait(map, SECONDS), ZP_ENOKEY);
    zp_results_free(results);
    zp_state_free(maps);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
reads_too(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    assert_returns(zp_results_next(user, NULL, SECONDS), -EBUSY);
    zp_sync_post(&words->go);
    return 0;
}

static void
test_reading_in_a_callback_of_the_wait(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1};
    zp_mapping *map = map_numbers(ctx, SHARED(0), square_when_told, &from);
    zp_results *results = open_map(ctx, map);

    (void)state;
    spawn(ctx, SPAWN(.exit_fn = reads_too, .exit_user = results), returns_0,
          NULL);
    read_squares(results, 0, 1);
    zp_results_free(results);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

#define RESULTS_TEST(f) ZP_TEST_WITH(f, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        RESULTS_TEST(test_in_order),
        RESULTS_TEST(test_unordered),
        RESULTS_TEST(test_after_the_end),
        RESULTS_TEST(test_after_the_owner),
        RESULTS_TEST(test_while_it_goes_on),
        RESULTS_TEST(test_a_stranger),
        RESULTS_TEST(test_many),
        RESULTS_TEST(test_another_goes_on),
        RESULTS_TEST(test_one_after_the_other),
        RESULTS_TEST(test_readers_share),
        RESULTS_TEST(test_the_owner_dies),
        RESULTS_TEST(test_what_a_dead_owner_left),
        RESULTS_TEST(test_the_owner_leaves),
        RESULTS_TEST(test_cancelled),
        RESULTS_TEST(test_a_source_that_fails),
        RESULTS_TEST(test_failures_of_items),
        RESULTS_TEST(test_not_read_in_time),
        RESULTS_TEST(test_nothing_is_left_of_what_nobody_reads),
        RESULTS_TEST(test_a_slow_reader_learns_the_end),
        RESULTS_TEST(test_large_results),
        RESULTS_TEST(test_half_a_result),
        RESULTS_TEST(test_the_window_bounds_a_slow_reader),
        RESULTS_TEST(test_no_room),
        RESULTS_TEST(test_room_by_reading),
        RESULTS_TEST(test_the_loop_goes_on_without_the_lock),
        RESULTS_TEST(test_misuse),
        RESULTS_TEST(test_others_in_the_namespace),
        RESULTS_TEST(test_reading_in_a_callback_of_the_wait),
    };

    return zp_test_main("results", tests, sizeof tests / sizeof *tests, 60);
}
