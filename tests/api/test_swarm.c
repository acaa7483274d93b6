/*
 * test_swarm.c - workers that stay: several maps at once, single tasks, more
 * and fewer workers, the end; a process for each item.
 */
#include "tests/api/mapping.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

/* ------------------------------------------------------------- many maps -- */

static void
test_maps_one_after_the_other(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    int pids[2] = {0, 0}, pid;

    (void)state;
    assert_int_equal(zp_swarm_count(swarm), 2);
    assert_int_equal(count_processes(ctx), 2); /* forked by the call */
    for (int round = 0; round < 20; round++) {
        numbers from = {.end = 100};
        zp_mapping *map = swarm_numbers(swarm, NULL, tell_pid, &from);

        for (int i = 0; i < 100; i++) {
            assert_returns(zp_map_get(map, SECONDS, "i", &pid), 1);
            if (!pids[0])
                pids[0] = pid;
            else if (!pids[1] && pid != pids[0])
                pids[1] = pid;
            assert_true(pid == pids[0] || pid == pids[1]); /* always the same */
        }
        assert_ok(zp_map_next(map, NULL, SECONDS));
        zp_map_free(map);
    }
    assert_int_equal(count_processes(ctx), 2);
    assert_null(zp_swarm_free(swarm));
    assert_null(zp_swarm_free(NULL));
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

#define MAPS 10

/* All of them go on, whoever is read. */
static void
test_maps_at_once(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    zp_value *common[MAPS];
    zp_mapping *maps[MAPS];
    numbers from[MAPS];
    int64_t got;

    (void)state;
    for (int k = 0; k < MAPS; k++) {
        from[k] = (numbers){.end = 300};
        assert_ok(zp_value_new(&common[k], ZP_I(k)));
        maps[k] = swarm_numbers(swarm, MAP(.common = common[k], .window = 50),
                                square, &from[k]);
        zp_value_free(common[k]);
    }
    for (int64_t i = 0; i < 300; i++)
        for (int k = 0; k < MAPS; k++) {
            assert_returns(zp_map_get(maps[k], SECONDS, "I", &got), 1);
            assert_int_equal(got, i * i + k);
        }
    for (int k = 0; k < MAPS; k++) {
        assert_ok(zp_map_next(maps[k], NULL, SECONDS));
        zp_map_free(maps[k]);
    }
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* A long map does not keep a short one waiting: it comes after some tasks. */
/* What a map took of its workers' memory goes with it. */
static void
test_workers_forget_their_maps(void **state)
{
    static char text[1 << 20];
    const zp_bin bin = {text, sizeof text};
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 1);
    zp_value *common = NULL;
    long memory = 0;
    int pid = 0;

    (void)state;
    memset(text, 'x', sizeof text);
    assert_ok(zp_value_new(&common, "B", &bin));
    for (int round = 0; round < 50; round++) {
        numbers one = {.end = 1};
        zp_mapping *map =
            swarm_numbers(swarm, MAP(.common = common), tell_pid, &one);

        assert_returns(zp_map_get(map, SECONDS, "i", &pid), 1);
        zp_map_free(map);
        if (round == 9)
            memory = zp_test_vm_private(pid);
    }
    if (!zp_test_instrumented())
        assert_in_range(zp_test_vm_private(pid), 1, memory + (10 << 10));
    zp_value_free(common);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static int
square_slowly(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    const struct timespec work = {.tv_nsec = 1000000};

    nanosleep(&work, NULL);
    return square(ctx, item, common);
}

/* Who comes later does not wait until the first one has all that it wants. */
static void
test_maps_take_turns_item_by_item(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 1);
    numbers many = {.end = 1000, .each = 1000}, few = {.end = 20};
    zp_mapping *longer, *map;

    (void)state;
    longer = swarm_numbers(swarm, MAP(.chunk = 1), square_slowly, &many);
    for (int i = 0; i < 10; i++)
        (void)next_of(longer);
    map = swarm_numbers(swarm, MAP(.chunk = 1), square_slowly, &few);
    expect_squares(map, 0, 20, 0);
    assert_in_range(progress_of(longer).done, 10, 300);
    zp_map_free(map);
    zp_map_free(longer);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void
test_maps_take_turns(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 1);
    numbers endless = {.end = -1, .each = 50}, few = {.end = 20};
    zp_mapping *longer = swarm_numbers(swarm, NULL, square, &endless), *map;

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(int_of(next_of(longer).value), (int64_t)i * i);
    for (int round = 0; round < 10; round++) {
        few.next = 0;
        map = swarm_numbers(swarm, NULL, square, &few);
        expect_squares(map, 0, 20, 0);
        zp_map_free(map);
    }
    assert_int_equal(progress_of(longer).ended, 0);
    for (int i = 1000; i < 2000; i++)
        assert_int_equal(int_of(next_of(longer).value), (int64_t)i * i);
    zp_map_free(longer);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* One that waits for its items keeps nobody's worker busy. */
static void
test_a_map_that_is_cancelled_beside_others(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    numbers one = {.end = 100}, two = {.end = 2000};
    zp_mapping *stuck = swarm_numbers(swarm, NULL, never_ends, &one);
    zp_mapping *map = swarm_numbers(swarm, NULL, square, &two);

    (void)state;
    assert_returns(zp_map_next(stuck, NULL, 0.01), -ETIMEDOUT);
    assert_ok(zp_map_cancel(stuck));
    assert_returns(zp_map_next(stuck, NULL, SECONDS), -ECANCELED);
    expect_squares(map, 0, 2000, 0); /* by workers that were born again */
    assert_int_equal(progress_of(map).failed, 0);
    zp_map_free(stuck);
    zp_map_free(map);
    assert_ok(zp_swarm_stop(swarm, 0));
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------------- single tasks --
 */

static void
test_single_tasks(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    zp_mapping *maps[50], *map = NULL;
    int64_t got;

    (void)state;
    for (int64_t i = 0; i < 50; i++)
        assert_ok(zp_swarm_run(swarm, &maps[i], NULL, square, "I", &i));
    for (int64_t i = 49; i >= 0; i--) {
        assert_returns(zp_map_get(maps[i], SECONDS, "I", &got), 1);
        assert_int_equal(got, i * i);
        assert_ok(zp_map_next(maps[i], NULL, SECONDS));
        assert_int_equal(progress_of(maps[i]).ended, 1);
        zp_map_free(maps[i]);
    }
    assert_returns(zp_swarm_run(swarm, &map, NULL, square, NULL), -EINVAL);
    assert_returns(zp_swarm_run(swarm, &map, NULL, square, "A(i)", &got),
                   ZP_EFORMAT);
    assert_returns(zp_swarm_run(swarm, NULL, NULL, square, "I", &got), -EINVAL);
    assert_returns(zp_swarm_run(swarm, &map, NULL, NULL, "I", &got), -EINVAL);
    assert_returns(zp_swarm_run(NULL, &map, NULL, square, "I", &got), -EINVAL);
    assert_null(map);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------------------- resize -- */

static void
test_more_and_fewer_workers(void **state)
{
    static const size_t sizes[] = {1, 5, 2, 8, 3, 1, 4};
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 3);
    numbers from = {.end = -1, .each = 10};
    zp_mapping *map = swarm_numbers(swarm, NULL, square, &from);
    int64_t i = 0;

    (void)state;
    for (int round = zp_test_valgrind() ? 7 : 0; round < 14; round++) {
        size_t size = sizes[round % 7];

        assert_ok(zp_swarm_resize(swarm, size));
        assert_int_equal(zp_swarm_count(swarm), size);
        for (int k = 0; k < 300; k++, i++)
            assert_int_equal(int_of(next_of(map).value), i * i);
    }
    expect_processes(ctx, 4);
    assert_ok(zp_swarm_resize(swarm, 4)); /* nothing */
    assert_returns(zp_swarm_resize(swarm, 0), -EINVAL);
    assert_returns(zp_swarm_resize(swarm, 1025), -EINVAL);
    from.end = from.next;
    expect_squares(map, i, from.end, 0);
    assert_int_equal(progress_of(map).again, 0); /* nobody was killed */
    zp_map_free(map);
    assert_ok(zp_swarm_resize(swarm, 1)); /* those who idle */
    expect_processes(ctx, 1);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* Who is to go finishes what it has begun, and gives back the rest. */
static void
test_fewer_workers_while_all_are_busy(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 3);
    numbers from = {.end = 60};
    zp_value *common;
    zp_mapping *map;
    zp_sync sync;

    (void)state;
    zp_sync_open(&sync);
    zp_swarm_free(swarm);
    swarm = new_swarm(ctx, 3); /* they inherit the pipe */
    common = new_sync_value(&sync);
    map = swarm_numbers(swarm, MAP(.common = common), first_waits, &from);
    while (progress_of(map).done < 59)
        assert_ok(zp_ctx_dispatch(ctx));
    assert_ok(zp_swarm_resize(swarm, 1));
    expect_processes(ctx, 1); /* not the one that waits */
    zp_sync_post(&sync);
    for (int64_t i = 0; i < 60; i++)
        assert_int_equal(int_of(next_of(map).value), i);
    assert_int_equal(progress_of(map).again, 0);
    zp_map_free(map);
    zp_value_free(common);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
    zp_sync_close(&sync);
}

/* ------------------------------------------------------------------- stop --
 */

/* Posts the first common pipe, waits for the second, and tells who it is. */
static int
posts_and_waits(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    zp_sync up, go;
    int rc = zp_value_get(common, "iiii", &up.fd[0], &up.fd[1], &go.fd[0],
                          &go.fd[1]);

    if (rc < 0)
        return rc;
    zp_sync_post(&up);
    zp_sync_wait(&go, SECONDS);
    return tell_pid(ctx, item, common);
}

struct begun_wait { /* until so many items were begun */
    zp_mapping *map;
    zp_sync *up;
    int left;
};

static bool
are_begun(void *user)
{
    struct begun_wait *w = user;
    struct pollfd up = {.fd = w->up->fd[0], .events = POLLIN};

    assert_returns(zp_map_next(w->map, NULL, 0), -ETIMEDOUT);
    while (w->left > 0 && poll(&up, 1, 0) > 0) {
        zp_sync_wait(w->up, SECONDS);
        w->left--;
    }
    return w->left == 0;
}

/* It ends with the item that it is at: all the others are somebody else's. */
static void
test_who_leaves_gives_back(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 40, .each = 40};
    int of_first = 0, first = 0, pid;
    zp_value *common = NULL;
    zp_sync up, go;
    zp_swarm *swarm;
    struct begun_wait h;

    (void)state;
    zp_sync_open(&up);
    zp_sync_open(&go);
    swarm = new_swarm(ctx, 2);
    assert_ok(zp_value_new(&common, "iiii", &up.fd[0], &up.fd[1], &go.fd[0],
                           &go.fd[1]));
    h = (struct begun_wait){.up = &up, .left = 2};
    h.map = swarm_numbers(swarm, MAP(.common = common, .chunk = 10),
                          posts_and_waits, &from);
    assert_true(zp_test_until(are_begun, &h, SECONDS));
    assert_ok(zp_swarm_resize(swarm, 1));
    for (int i = 0; i < 3; i++) /* the loop has its turn */
        assert_returns(zp_map_next(h.map, NULL, 0.01), -ETIMEDOUT);
    for (int i = 0; i < 40; i++)
        zp_sync_post(&go);
    for (int i = 0; i < 40; i++) {
        assert_returns(zp_map_get(h.map, SECONDS, "i", &pid), 1);
        first = i ? first : pid;
        of_first += pid == first;
    }
    assert_true(of_first == 1 || of_first == 39);
    assert_int_equal(progress_of(h.map).again, 0);
    zp_map_free(h.map);
    zp_value_free(common);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
    zp_sync_close(&up);
    zp_sync_close(&go);
}

static void
test_stop_when_all_is_done(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    zp_mapping *map = NULL, *other = NULL;
    int64_t i;

    (void)state;
    assert_ok(zp_swarm_map(swarm, &map, NULL, square, NULL, NULL));
    for (i = 0; i < 500; i++)
        assert_ok(zp_map_add(map, "I", &i));
    assert_ok(zp_map_end(map));
    assert_ok(zp_swarm_stop(swarm, 0));
    assert_int_equal(count_processes(ctx), 0);
    assert_int_equal(progress_of(map).done, 500);
    expect_squares(map, 0, 500, 0); /* they stay to be read */
    assert_ok(zp_swarm_stop(swarm, 0));
    assert_ok(zp_swarm_stop(swarm, 1));
    assert_returns(zp_swarm_map(swarm, &other, NULL, square, NULL, NULL),
                   -ESHUTDOWN);
    assert_returns(zp_swarm_run(swarm, &other, NULL, square, "I", &i),
                   -ESHUTDOWN);
    assert_returns(zp_swarm_resize(swarm, 3), -ESHUTDOWN);
    zp_map_free(map);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

/* What was taken from the source is done, and no more is asked of it. */
static void
test_stop_an_endless_map(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    numbers from = {.end = -1};
    zp_mapping *map = swarm_numbers(swarm, NULL, square, &from);
    int64_t i, added, got;
    int rc = 1;

    (void)state;
    for (i = 0; i < 100; i++)
        assert_int_equal(int_of(next_of(map).value), i * i);
    assert_ok(zp_swarm_stop(swarm, 0));
    added = from.next;
    for (; (rc = zp_map_get(map, SECONDS, "I", &got)) == 1; i++)
        assert_int_equal(got, i * i);
    assert_int_equal(i, added);
    assert_int_equal(from.next, added);
    assert_returns(rc, -ECANCELED);
    zp_map_free(map);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

static void
test_stop_by_force(void **state)
{
    static zp_map_fn *const fns[] = {square, never_ends, ignores_term};

    (void)state;
    for (int k = 0; k < 3; k++) {
        zp_ctx *ctx = new_ctx(NULL);
        zp_swarm *swarm = NULL;
        numbers from = {.end = -1};
        zp_mapping *map;
        int rc;

        assert_ok(zp_swarm_new(
            ctx, &swarm, SWARM(.count = 2, .spawn = SPAWN(.grace = 0.2))));
        map = swarm_numbers(swarm, NULL, fns[k], &from);
        rc = zp_map_next(map, NULL, k ? 0.05 : SECONDS);
        assert_returns(rc, k ? -ETIMEDOUT : 1);
        assert_ok(zp_swarm_stop(swarm, 1));
        assert_int_equal(count_processes(ctx), 0);
        while ((rc = zp_map_next(map, NULL, SECONDS)) == 1)
            continue;
        assert_returns(rc, -ECANCELED);
        zp_map_free(map);
        zp_swarm_free(swarm);
        zp_ctx_free(ctx);
    }
}

/* Maps outlive their swarm's handle, until they are given back. */
static void
test_free_with_maps_alive(void **state)
{
    int step = zp_test_valgrind() ? 2 : 1;

    (void)state;
    for (int k = step - 1; k < 4; k += step) {
        zp_ctx *ctx = new_ctx(NULL);
        zp_swarm *swarm = new_swarm(ctx, 2);
        numbers one = {.end = -1, .each = 5}, two = {.end = 1};
        zp_mapping *maps[2] = {swarm_numbers(swarm, NULL, square, &one),
                               swarm_numbers(swarm, NULL, never_ends, &two)};
        int rc;

        for (int i = 0; i < 10 * k; i++)
            (void)next_of(maps[0]);
        swarm = zp_swarm_free(swarm);
        if (k == 1)
            expect_processes(ctx, 0);
        while ((rc = zp_map_next(maps[0], NULL, SECONDS)) == 1)
            continue;
        assert_returns(rc, -ECANCELED);
        assert_returns(zp_map_wait(maps[1], SECONDS), -ECANCELED);
        assert_int_equal(progress_of(maps[1]).ended, 1);
        zp_map_free(maps[0]);
        if (k < 3)
            zp_map_free(maps[1]);
        if (k < 2)
            expect_processes(ctx, 0);
        zp_ctx_free(ctx);
    }
}

/* ---------------------------------------------------------- among others -- */

static void
test_two_swarms(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *one = new_swarm(ctx, 1), *two = new_swarm(ctx, 2);
    numbers first = {.end = 500}, second = first;
    zp_mapping *map = swarm_numbers(one, NULL, square, &first);
    zp_mapping *other = swarm_numbers(two, NULL, square, &second);
    int64_t got;

    (void)state;
    for (int64_t i = 0; i < 500; i++) {
        assert_returns(zp_map_get(map, SECONDS, "I", &got), 1);
        assert_int_equal(got, i * i);
        assert_returns(zp_map_get(other, SECONDS, "I", &got), 1);
        assert_int_equal(got, i * i);
        if (i == 250)
            one = zp_swarm_free(one), i = 500;
    }
    zp_map_free(map);
    expect_squares(other, 251, 500, 0);
    expect_processes(ctx, 2);
    zp_map_free(other);
    zp_swarm_free(two);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* Each has a socket of its own. */
static void
test_many_swarms(void **state)
{
    zp_swarm *swarms[70];
    size_t n = zp_test_instrumented() ? 10 : 70;
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    for (size_t i = 0; i < n; i++)
        swarms[i] = new_swarm(ctx, 1);
    for (size_t i = 0; i < n; i++) {
        numbers from = {.end = 3};
        zp_mapping *map = swarm_numbers(swarms[i], NULL, square, &from);

        expect_squares(map, 0, 3, 0);
        zp_map_free(map);
    }
    for (size_t i = 0; i < n; i++)
        zp_swarm_free(swarms[i]);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void *
map_in_thread(void *user)
{
    zp_ctx *ctx = user;
    zp_swarm *swarm = new_swarm(ctx, 2);

    for (int round = 0; round < 5; round++) {
        numbers from = {.end = 300};
        zp_mapping *map = swarm_numbers(swarm, NULL, square, &from);

        expect_squares(map, 0, 300, 0);
        zp_map_free(map);
    }
    assert_ok(zp_swarm_stop(swarm, 0));
    zp_swarm_free(swarm);
    return NULL;
}

static void
test_two_contexts_in_two_threads(void **state)
{
    zp_ctx *ctx[2];
    pthread_t thread;

    (void)state;
    if (zp_test_tsan())
        skip(); /* threads in a child of one that has some */
    ctx[0] = new_ctx(NULL);
    assert_ok(zp_ctx_attach(&ctx[1], zp_ctx_address(ctx[0]), NULL));
    assert_int_equal(pthread_create(&thread, NULL, map_in_thread, ctx[1]), 0);
    map_in_thread(ctx[0]);
    pthread_join(thread, NULL);
    zp_ctx_free(ctx[1]);
    zp_ctx_free(ctx[0]);
}

/* Workers are processes of the state like others, but nobody waits for them. */
static int
count_named(const zp_process *process, void *user)
{
    if (strncmp(process->name, "crew-", 5) == 0 &&
        process->state == ZP_PROC_RUNNING)
        ++*(int *)user;
    return 0;
}

static void
test_workers_among_processes(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = NULL;
    numbers from = {.end = 50};
    zp_mapping *map;
    int n = 0;

    (void)state;
    assert_ok(zp_swarm_new(ctx, &swarm, SWARM(.count = 3, .name = "crew")));
    spawn(ctx, NULL, returns_0, NULL);
    assert_ok(zp_ctx_wait(ctx, NULL, 0, 0, SECONDS)); /* not for workers */
    assert_int_equal(count_processes(ctx), 3);
    assert_ok(zp_each_process(ctx, count_named, &n));
    assert_int_equal(n, 3);
    map = swarm_numbers(swarm, NULL, square, &from);
    expect_squares(map, 0, 50, 0);
    zp_map_free(map);
    assert_ok(zp_swarm_stop(swarm, 0));
    n = 0;
    assert_ok(zp_each_process(ctx, count_named, &n));
    assert_int_equal(n, 0);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

static int
sets_by_number(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)common;
    return zp_increase(zp_ctx_state(ctx), "sum", NULL, int_of(item));
}

/* ZP_CTX_WAIT: the context goes when all that was added is done. */
static void
test_a_context_that_waits(void **state)
{
    zp_ctx *ctx = new_ctx(NULL), *waiting = NULL;
    zp_mapping *map = NULL;
    int64_t sum = -1;
    zp_swarm *swarm;

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "sum", 0));
    assert_ok(zp_ctx_attach(&waiting, zp_ctx_address(ctx),
                            &(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                              .flags = ZP_CTX_WAIT}));
    swarm = new_swarm(waiting, 2);
    assert_ok(zp_swarm_map(swarm, &map, NULL, sets_by_number, NULL, NULL));
    for (int64_t i = 1; i <= 100; i++)
        assert_ok(zp_map_add(map, "I", &i));
    zp_ctx_free(waiting);
    assert_ok(zp_get_int(zp_ctx_state(ctx), "sum", &sum));
    assert_int_equal(sum, 5050);
    zp_ctx_free(ctx);
}

struct left_wait {
    zp_ctx *ctx;
    int fds, files;
};

/* Workers' ends are seen by the loop, sockets closed by a thread of libzmq. */
static bool
nothing_left(void *user)
{
    struct left_wait *w = user;

    assert_ok(zp_ctx_dispatch(w->ctx));
    return zp_test_open_fds() <= w->fds &&
           zp_test_entries(zp_ctx_address(w->ctx)) <= w->files;
}

/* Nothing is left of maps and swarms: descriptors, files, processes. */
static void
test_nothing_is_left_behind(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct left_wait w = {.ctx = ctx};
    long memory = 0;

    (void)state;
    for (int round = 0; round < (zp_test_valgrind() ? 7 : 25); round++) {
        zp_swarm *swarm;
        numbers from = {.end = 50}, own = {.end = 50};
        zp_mapping *map, *alone;

        swarm = new_swarm(ctx, 2);
        map = swarm_numbers(swarm, NULL, square, &from);
        alone = map_numbers(ctx, MAP(.count = 1), square, &own);
        expect_squares(map, 0, 50, 0);
        expect_squares(alone, 0, 50, 0);
        zp_map_free(map);
        zp_map_free(alone);
        zp_swarm_free(swarm);
        expect_processes(ctx, 0);
        if (round == 4) {
            w.fds = zp_test_open_fds();
            w.files = zp_test_entries(zp_ctx_address(ctx));
            memory = zp_test_vm_rss(0);
        }
    }
    if (!zp_test_until(nothing_left, &w, 10))
        fail_msg("%d descriptors, %d before; %d files, %d before",
                 zp_test_open_fds(), w.fds,
                 zp_test_entries(zp_ctx_address(ctx)), w.files);
    if (!zp_test_instrumented())
        assert_in_range(zp_test_vm_rss(0), 1, memory + 2048);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------------- zp_spawn_map --
 */

/* How many run at the same time, as the state counts them. */
static int
counts_itself(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    zp_state *state = zp_ctx_state(ctx);
    int64_t now = 0;
    int pid = getpid(), rc = zp_increase(state, "now", &now, 1);

    (void)common;
    if (rc == 0 && int_of(item) < 4) /* all four are there at once */
        rc = zp_get_when_equal(state, NULL, "now", SECONDS, NULL, ZP_I(4));
    if (rc == 0 && now > 4)
        rc = zp_fail(ctx, -E2BIG, "%d at a time", (int)now);
    if (rc == 0 && int_of(item) < 4) { /* and none of them is the fifth */
        rc = zp_increase(state, "left", &now, 1);
        if (rc == 0)
            rc = zp_get_when_equal(state, NULL, "left", SECONDS, NULL, ZP_I(4));
    }
    if (rc == 0)
        rc = zp_decrease(state, "now", NULL, 1);
    return rc < 0 ? rc : zp_return(ctx, "i", &pid);
}

static void
test_a_process_for_each_item(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int n = zp_test_valgrind() ? 12 : 60, pids[60];
    numbers from = {.end = n};
    zp_mapping *map = NULL;

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "now", 0));
    assert_ok(zp_set_int(zp_ctx_state(ctx), "left", 0));
    assert_ok(zp_spawn_map(ctx, &map, MAP(.count = 4, .name = "each"),
                           counts_itself, give_numbers, &from));
    assert_int_equal(count_processes(ctx), 0); /* none before its item */
    for (int i = 0; i < n; i++) {
        assert_returns(zp_map_get(map, SECONDS, "i", &pids[i]), 1);
        assert_true(pids[i] > 0 && pids[i] != getpid());
        for (int k = 0; k < i; k++)
            assert_int_not_equal(pids[i], pids[k]);
        assert_true(count_processes(ctx) <= 4);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    expect_processes(ctx, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
dies_or_fails(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    if (int_of(item) % 10 == 3)
        raise(SIGKILL);
    if (int_of(item) % 10 == 4)
        return zp_fail(ctx, -EIO, "item %d", (int)int_of(item));
    return square(ctx, item, common);
}

static void
test_a_process_for_each_item_may_die(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 30};
    zp_mapping *map = NULL;
    int64_t got;

    (void)state;
    assert_ok(zp_spawn_map(ctx, &map, MAP(.count = 8, .tries = 2),
                           dies_or_fails, give_numbers, &from));
    for (int64_t i = 0; i < 30; i++) {
        int rc = zp_map_get(map, SECONDS, "I", &got);

        assert_returns(rc, i % 10 == 3 ? ZP_EPOISON : i % 10 == 4 ? -EIO : 1);
        if (rc == 1)
            assert_int_equal(got, i * i);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    expect_processes(ctx, 0);
    assert_ok(zp_spawn_map(ctx, &map, NULL, never_ends, NULL, NULL));
    for (int64_t i = 0; i < 5; i++)
        assert_ok(zp_map_add(map, "I", &i));
    expect_processes(ctx, 5); /* one each, as they are added */
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- refused -- */

static void
test_what_makes_no_sense(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = NULL;
    zp_mapping *map = NULL;

    (void)state;
    assert_returns(zp_swarm_new(NULL, &swarm, NULL), -EINVAL);
    assert_returns(zp_swarm_new(ctx, NULL, NULL), -EINVAL);
    assert_returns(zp_swarm_new(ctx, &swarm, &(zp_swarm_options){.size = 1}),
                   -EINVAL);
    assert_returns(zp_swarm_new(ctx, &swarm, SWARM(.count = 1025)), -EINVAL);
    assert_returns(zp_swarm_new(ctx, &swarm, SWARM(.name = "")), -EINVAL);
    assert_null(swarm);
    assert_returns(zp_swarm_count(NULL), -EINVAL);
    assert_returns(zp_swarm_resize(NULL, 1), -EINVAL);
    assert_returns(zp_swarm_stop(NULL, 0), -EINVAL);
    assert_returns(zp_swarm_map(NULL, &map, NULL, square, NULL, NULL), -EINVAL);
    swarm = new_swarm(ctx, 1);
    assert_returns(
        zp_swarm_map(swarm, &map, MAP(.count = 1), square, NULL, NULL),
        -EINVAL);
    assert_returns(
        zp_swarm_map(swarm, &map, MAP(.name = "x"), square, NULL, NULL),
        -EINVAL);
    assert_returns(zp_swarm_map(swarm, &map, MAP(.spawn = SPAWN(.nice = 1)),
                                square, NULL, NULL),
                   -EINVAL);
    assert_returns(zp_swarm_map(swarm, NULL, NULL, square, NULL, NULL),
                   -EINVAL);
    assert_null(map);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_maps_one_after_the_other),
        ZP_TEST(test_maps_at_once),
        ZP_TEST(test_workers_forget_their_maps),
        ZP_TEST(test_maps_take_turns),
        ZP_TEST(test_maps_take_turns_item_by_item),
        ZP_TEST(test_a_map_that_is_cancelled_beside_others),
        ZP_TEST(test_single_tasks),
        ZP_TEST(test_more_and_fewer_workers),
        ZP_TEST(test_fewer_workers_while_all_are_busy),
        ZP_TEST(test_who_leaves_gives_back),
        ZP_TEST(test_stop_when_all_is_done),
        ZP_TEST(test_stop_an_endless_map),
        ZP_TEST(test_stop_by_force),
        ZP_TEST(test_free_with_maps_alive),
        ZP_TEST(test_two_swarms),
        ZP_TEST(test_many_swarms),
        ZP_TEST(test_two_contexts_in_two_threads),
        ZP_TEST(test_workers_among_processes),
        ZP_TEST(test_a_context_that_waits),
        ZP_TEST(test_nothing_is_left_behind),
        ZP_TEST(test_a_process_for_each_item),
        ZP_TEST(test_a_process_for_each_item_may_die),
        ZP_TEST(test_what_makes_no_sense),
    };

    return zp_test_main("swarm", tests, sizeof tests / sizeof *tests, 60);
}
