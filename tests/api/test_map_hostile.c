/*
 * test_map_hostile.c - maps whose callers, callbacks and item functions do what
 * they should not, or at the worst moment: nothing hangs, and nothing is lost.
 */
#include <stdatomic.h>
#include <sys/mman.h>

#include <ev.h>

#include "tests/api/mapping.h"

/* A word that this process and the workers share. */
static _Atomic int *shared;

static int
share_word(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED ? -1 : 0;
}

static int
unshare_word(void **state)
{
    (void)state;
    return munmap((void *)shared, sizeof *shared);
}

/* ----------------------------------------------------------------- stopping --
 */

static int
give_for_ever(zp_mapping *map, void *user)
{
    int *given = user;
    int rc = zp_map_add(map, "i", given);

    ++*given;
    return rc < 0 ? rc : 1;
}

static void
test_stop_asks_no_source(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    zp_mapping *map = NULL;
    zp_progress progress;
    int given = 0, before;

    (void)state;
    assert_ok(zp_swarm_map(swarm, &map, MAP(.flags = ZP_UNORDERED), echo,
                           give_for_ever, &given));
    next_of(map);
    before = given;
    assert_ok(zp_swarm_stop(swarm, 0));
    assert_int_equal(given, before);
    progress = progress_of(map);
    assert_int_equal(progress.done, given);
    assert_int_equal(progress.code, -ECANCELED);
    for (int i = 1; i < given; i++)
        next_of(map);
    assert_returns(zp_map_next(map, NULL, SECONDS), -ECANCELED);
    zp_map_free(map);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

/* 20 kB for each item. */
static int
much(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    static char bytes[20000];
    zp_bin bin = {bytes, sizeof bytes};

    (void)item;
    (void)common;
    return zp_return(ctx, "B", &bin);
}

static void
test_stop_with_a_full_window(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    zp_mapping *map = NULL;

    (void)state;
    assert_ok(zp_swarm_map(swarm, &map, MAP(.window_bytes = 50000), much, NULL,
                           NULL));
    for (int i = 0; i < 50; i++)
        assert_ok(zp_map_add(map, "i", &i));
    assert_ok(zp_map_end(map));
    assert_returns(zp_map_wait(map, SECONDS), -EAGAIN);
    assert_ok(zp_swarm_stop(swarm, 0));
    assert_int_equal(progress_of(map).done, 50);
    assert_int_equal(progress_of(map).code, 0);
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(next_of(map).index, i);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

static int
count_it(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)ctx;
    (void)item;
    (void)common;
    atomic_fetch_add(shared, 1);
    return 0;
}

/* A context that waits for its children waits for all items. */
static void
leave_with_items(int (*make)(zp_ctx *ctx, zp_mapping **ret_map,
                             const zp_map_options *options, zp_map_fn *fn,
                             zp_map_source_fn *source, void *user))
{
    zp_ctx *ctx = new_ctx(&(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                            .flags = ZP_CTX_WAIT});
    zp_mapping *map = NULL;

    atomic_store(shared, 0);
    assert_ok(make(ctx, &map, MAP(.count = 2), count_it, NULL, NULL));
    for (int i = 0; i < 20; i++)
        assert_ok(zp_map_add(map, "i", &i));
    zp_ctx_free(ctx);
    assert_int_equal(atomic_load(shared), 20);
}

static void
test_a_context_waits_for_all_items(void **state)
{
    (void)state;
    leave_with_items(zp_map);
    leave_with_items(zp_spawn_map);
}

/* ---------------------------------------------------------------- waiting --
 */

struct inner {
    zp_mapping *map;
    int rc, called, ended, ends_told;
};

static int
waits_inside(zp_mapping *map, const zp_map_result *result, void *user)
{
    struct inner *inner = user;

    inner->ended += !result;
    if (!inner->called++)
        inner->rc = zp_map_wait(map, SECONDS);
    return 0;
}

static void
test_waiting_in_the_result_function(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 40};
    struct inner inner = {NULL, 1, 0, 0, 0};
    zp_mapping *map =
        map_numbers(ctx,
                    MAP(.count = 2, .window = 10, .result_fn = waits_inside,
                        .user = &inner),
                    square, &from);

    (void)state;
    assert_ok(zp_run(ctx));
    assert_int_equal(inner.called, 41);
    assert_int_equal(inner.ended, 1);
    assert_int_equal(inner.rc, -EAGAIN);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
tell_end(zp_mapping *map, void *user)
{
    struct inner *inner = user;

    inner->ends_told += progress_of(map).ended;
    return 0;
}

static void
test_progress_of_an_end_in_a_nested_wait(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 5};
    struct inner inner = {NULL, 1, 0, 0, 0};
    zp_mapping *map = map_numbers(ctx,
                                  MAP(.count = 2, .result_fn = waits_inside,
                                      .progress_fn = tell_end, .user = &inner),
                                  square, &from);

    (void)state;
    assert_ok(zp_run(ctx));
    assert_int_equal(inner.rc, 0);
    assert_int_equal(inner.ended, 1);
    assert_true(inner.ends_told > 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

struct waiting_source {
    zp_mapping *other;
    zp_swarm *swarm;
    int next, rc[4];
};

static int
wait_and_give(zp_mapping *map, void *user)
{
    struct waiting_source *me = user;
    int n = me->next++;

    if (n == 0) {
        me->rc[0] = zp_map_next(map, NULL, -1);
        me->rc[1] = zp_map_wait(map, -1);
        me->rc[2] = zp_map_next(me->other, NULL, -1);
        me->rc[3] = zp_swarm_stop(me->swarm, 1);
    }
    if (n == 5)
        return 0;
    return zp_map_add(map, "i", &n) < 0 ? -EPROTO : 1;
}

static void
test_a_source_that_waits_is_told(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    struct waiting_source me = {.swarm = swarm};
    zp_mapping *map = NULL;
    int n = 3;

    (void)state;
    assert_ok(zp_swarm_run(swarm, &me.other, NULL, echo, "i", &n));
    assert_ok(zp_swarm_map(swarm, &map, NULL, echo, wait_and_give, &me));
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(next_of(map).index, i);
    for (int i = 0; i < 4; i++)
        assert_int_equal(me.rc[i], -EDEADLK);
    next_of(me.other);
    zp_map_free(map);
    zp_map_free(me.other);
    zp_swarm_free(swarm);
    zp_ctx_free(ctx);
}

/* How often a source is asked until the loop has its turn again. */
struct slow_source {
    int next, in_a_row, most;
    ev_prepare turn;
};

static void
on_turn(struct ev_loop *loop, ev_prepare *turn, int events)
{
    struct slow_source *me = turn->data;

    (void)loop;
    (void)events;
    me->in_a_row = 0;
}

static int
give_slowly(zp_mapping *map, void *user)
{
    struct slow_source *me = user;

    if (me->next == 150)
        return 0;
    usleep(3000); /* it is what is tested: a source that takes its time */
    if (++me->in_a_row > me->most)
        me->most = me->in_a_row;
    me->next++;
    return zp_map_add(map, "i", &me->next) < 0 ? -EPROTO : 1;
}

static void
test_a_slow_source_leaves_the_loop_its_turn(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct slow_source me = {0};
    zp_mapping *map = NULL;

    (void)state;
    ev_prepare_init(&me.turn, on_turn);
    me.turn.data = &me;
    ev_prepare_start(zp_ev_loop(ctx), &me.turn);
    assert_ok(zp_map(ctx, &map, MAP(.count = 1), echo, give_slowly, &me));
    for (int i = 0; i < 150; i++)
        next_of(map);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    ev_prepare_stop(zp_ev_loop(ctx), &me.turn);
    assert_in_range(me.most, 1, 40); /* some for each of what woke it */
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
break_it(zp_mapping *map, void *user)
{
    (void)map;
    assert_ok(zp_break(user));
    return 0;
}

/* Reading what is there looks at the loop, too. */
static void
test_a_break_while_reading(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(
        ctx, MAP(.count = 1, .progress_fn = break_it, .user = ctx), echo);
    int i = 0, rc;

    (void)state;
    do {
        assert_ok(zp_map_add(map, "i", &i));
        rc = zp_map_next(map, NULL, SECONDS);
        i++;
    } while (rc == 1 && i < 100000);
    assert_int_equal(rc, ZP_EBREAK);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- cancelling --
 */

static void
test_cancelling_what_was_not_read(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 5};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 2), square, &from);

    (void)state;
    assert_ok(zp_map_wait(map, SECONDS));
    assert_int_equal(next_of(map).index, 0);
    assert_ok(zp_map_cancel(map)); /* four results are lost: not an end */
    assert_returns(zp_map_next(map, NULL, SECONDS), -ECANCELED);
    zp_map_free(map);

    from = (numbers){.end = 5};
    map = map_numbers(ctx, MAP(.count = 2), square, &from);
    expect_squares(map, 0, 5, 0);
    assert_ok(zp_map_cancel(map)); /* nothing is lost */
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------- item functions -- */

static int
fails_by_turns(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int n, rc = zp_value_get(item, "i", &n);

    (void)common;
    if (rc < 0)
        return rc;
    if (n == 0) { /* a failure that it has got over */
        (void)zp_fail(ctx, -EXDEV, "text of item 0");
        return 0;
    }
    if (n == 2)
        return zp_get(zp_ctx_state(ctx), "none", "i", &n) == ZP_ENOKEY ? 0 : -1;
    return n == 1 ? -EXDEV : ZP_ENOKEY;
}

static void
test_a_failure_is_told_of_its_own_item(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 1), fails_by_turns);
    zp_map_result result;

    (void)state;
    for (int i = 0; i < 4; i++)
        assert_ok(zp_map_add(map, "i", &i));
    assert_int_equal(next_of(map).code, 0);
    result = next_of(map);
    assert_int_equal(result.code, -EXDEV);
    assert_null(strstr(result.error, "item 0"));
    assert_string_equal(result.origin, "");
    assert_int_equal(next_of(map).code, 0);
    result = next_of(map);
    assert_int_equal(result.code, ZP_ENOKEY);
    assert_null(strstr(result.error, "none"));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
exits_later(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int n, rc = zp_value_get(item, "i", &n);

    (void)common;
    if (rc == 0 && n == 0)
        return zp_fail(ctx, -EXDEV, "text of item 0");
    _exit(3);
}

static void
test_an_end_is_told_of_its_own_item(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map =
        map_fed(ctx, MAP(.count = 1, .flags = ZP_ONCE), exits_later);
    zp_map_result result;
    int i = 0;

    (void)state;
    assert_ok(zp_map_add(map, "i", &i));
    assert_int_equal(next_of(map).code, -EXDEV);
    i = 1;
    assert_ok(zp_map_add(map, "i", &i));
    result = next_of(map);
    assert_int_equal(result.code, ZP_ELOST);
    assert_null(strstr(result.error, "item 0"));
    assert_has(result.error, "status 3");
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* Looks at the common argument before and after a wait, in which it may hear
 * that the map is no more. */
static int
keeps_common(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    zp_state *state = zp_ctx_state(ctx);
    const char *key = "never";
    size_t size, after;
    const char *image = zp_value_image(common, &size);
    char *copy = malloc(size);

    (void)item;
    signal(SIGTERM, SIG_IGN);
    memcpy(copy, image, size);
    atomic_store(shared, 1);
    for (int i = 0; i < 10; i++)
        (void)zp_get_when(state, NULL, &key, 1, 0.02, NULL, NULL, NULL);
    image = zp_value_image(common, &after);
    atomic_store(shared,
                 size == after && memcmp(copy, image, size) == 0 ? 2 : 3);
    free(copy);
    _exit(0); /* nobody tells it to leave */
}

static bool
is_shared_set(void *user)
{
    zp_ctx *ctx = user;

    assert_true(zp_ctx_dispatch(ctx) >= 0);
    return atomic_load(shared) != 0;
}

static void
test_a_common_argument_outlives_its_map(void **state)
{
    static char bytes[300000];
    zp_bin bin = {bytes, sizeof bytes};
    zp_ctx *ctx = new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .grace = SECONDS});
    zp_value *common = NULL;
    zp_mapping *map;
    int n = 1;

    (void)state;
    atomic_store(shared, 0);
    memset(bytes, 'x', sizeof bytes);
    assert_ok(zp_value_new(&common, "B", &bin));
    map = map_fed(ctx, MAP(.count = 1, .common = common), keeps_common);
    assert_ok(zp_map_add(map, "i", &n));
    assert_true(zp_test_until(is_shared_set, ctx, SECONDS));
    zp_ctx_free(ctx); /* waits: the worker ignores the TERM */
    assert_int_equal(atomic_load(shared), 2);
    zp_value_free(common);
}

static int
exits_with_0(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int n, rc = zp_value_get(item, "i", &n);

    (void)common;
    if (rc == 0 && n == 3)
        exit(0);
    return rc < 0 ? rc : zp_return(ctx, "i", &n);
}

static void
test_an_item_that_ends_its_worker_well(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 2, .tries = 3), exits_with_0);

    (void)state;
    for (int i = 0; i < 10; i++)
        assert_ok(zp_map_add(map, "i", &i));
    for (int i = 0; i < 10; i++)
        assert_int_equal(next_of(map).code, i == 3 ? ZP_EPOISON : 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ options --
 */

static int
on_exit_(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    ++*(int *)user;
    return 0;
}

/* What a context's children are by default, workers are as far as it makes
 * sense. */
static void
test_defaults_that_are_not_for_workers(void **state)
{
    int ended = 0;
    zp_ctx *ctx = new_ctx(&(zp_ctx_options){
        .size = sizeof(zp_ctx_options),
        .spawn = SPAWN(.flags = ZP_DEFERRED | ZP_SAYS_READY, .name = "child",
                       .exit_fn = on_exit_, .exit_user = &ended,
                       .retry = RETRY(.retries = 3))});
    zp_mapping *map;
    int64_t got;

    (void)state;
    for (int per_item = 0; per_item < 2; per_item++) {
        assert_ok((per_item ? zp_spawn_map : zp_map)(ctx, &map, MAP(.count = 2),
                                                     square, NULL, NULL));
        for (int64_t i = 0; i < 10; i++)
            assert_ok(zp_map_add(map, "I", &i));
        for (int64_t i = 0; i < 10; i++) {
            assert_returns(zp_map_get(map, SECONDS, "I", &got), 1);
            assert_int_equal(got, i * i);
        }
        zp_map_free(map);
    }
    expect_processes(ctx, 0);
    assert_ok(zp_run(ctx)); /* nothing holds it */
    assert_int_equal(ended, 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------- results elsewhere --
 */

static int
free_ctx(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    zp_ctx_free(user);
    return 0;
}

static int
free_results(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    (void)result;
    zp_results_free(user);
    return 0;
}

/* While the next result is waited for, a callback takes away what waits. */
static void
test_results_given_back_meanwhile(void **state)
{
    zp_sync sync;

    (void)state;
    for (int all = 0; all < 2; all++) {
        zp_ctx *ctx = new_ctx(NULL);
        zp_mapping *map =
            map_fed(ctx, MAP(.count = 1, .flags = ZP_SHARED), never_ends);
        zp_results *results = NULL;
        int n = 0;

        zp_sync_open(&sync);
        assert_ok(zp_map_add(map, "i", &n));
        assert_ok(zp_results_open(ctx, &results, zp_map_id(map)));
        spawn(ctx,
              SPAWN(.exit_fn = all ? free_ctx : free_results,
                    .exit_user = all ? (void *)ctx : (void *)results),
              waits_for_post, &sync);
        zp_sync_post(&sync);
        assert_returns(zp_results_next(results, NULL, SECONDS),
                       all ? ZP_ECLOSED : -ECANCELED);
        if (!all) {
            zp_map_free(map);
            zp_ctx_free(ctx);
        }
        zp_sync_close(&sync);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_stop_asks_no_source),
        ZP_TEST(test_stop_with_a_full_window),
        ZP_TEST_WITH(test_a_context_waits_for_all_items, share_word,
                     unshare_word),
        ZP_TEST(test_waiting_in_the_result_function),
        ZP_TEST(test_progress_of_an_end_in_a_nested_wait),
        ZP_TEST(test_a_source_that_waits_is_told),
        ZP_TEST(test_a_slow_source_leaves_the_loop_its_turn),
        ZP_TEST(test_a_break_while_reading),
        ZP_TEST(test_cancelling_what_was_not_read),
        ZP_TEST(test_a_failure_is_told_of_its_own_item),
        ZP_TEST(test_an_end_is_told_of_its_own_item),
        ZP_TEST_WITH(test_a_common_argument_outlives_its_map, share_word,
                     unshare_word),
        ZP_TEST(test_an_item_that_ends_its_worker_well),
        ZP_TEST(test_defaults_that_are_not_for_workers),
        ZP_TEST(test_results_given_back_meanwhile),
    };

    return zp_test_main("map_hostile", tests, sizeof tests / sizeof *tests, 60);
}
