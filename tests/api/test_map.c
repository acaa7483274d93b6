/*
 * test_map.c - maps: items in, results out, in order or as they are done; how
 * much is taken at a time; what is refused.
 */
#include "tests/api/mapping.h"

/* ------------------------------------------------------------------ order --
 */

static void
test_results_are_in_order(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 3000, .each = 7};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 3), square, &from);
    zp_progress progress;

    (void)state;
    expect_squares(map, 0, 3000, 0);
    assert_ok(zp_map_next(map, NULL, SECONDS)); /* and it stays so */
    progress = progress_of(map);
    assert_int_equal(progress.added, 3000);
    assert_int_equal(progress.done, 3000);
    assert_int_equal(progress.read, 3000);
    assert_int_equal(progress.failed, 0);
    assert_int_equal(progress.running, 0);
    assert_int_equal(progress.again, 0);
    assert_int_equal(progress.all, 1);
    assert_int_equal(progress.ended, 1);
    assert_int_equal(progress.code, 0);
    assert_null(zp_map_free(map));
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

struct done_wait {
    zp_ctx *ctx;
    zp_mapping *map;
    uint64_t done, running;
};

static bool
are_done(void *user)
{
    struct done_wait *w = user;
    zp_progress progress;

    assert_true(zp_ctx_dispatch(w->ctx) >= 0);
    progress = progress_of(w->map);
    w->running = progress.running;
    return progress.done == w->done;
}

static void
expect_done(zp_ctx *ctx, zp_mapping *map, uint64_t done)
{
    struct done_wait w = {ctx, map, done, 0};

    if (!zp_test_until(are_done, &w, 20))
        fail_msg("%d items are done, not %d", (int)progress_of(map).done,
                 (int)done);
}

/* All items but the first are done: which results are there? */
static void
run_with_a_slow_first(unsigned flags)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 200};
    bool seen[200] = {false};
    zp_value *common;
    zp_mapping *map;
    zp_sync sync;

    zp_sync_open(&sync);
    common = new_sync_value(&sync);
    map = map_numbers(ctx, MAP(.flags = flags, .count = 2, .common = common),
                      first_waits, &from);
    expect_done(ctx, map, 199);
    assert_int_equal(progress_of(map).running, 1);
    assert_int_equal(progress_of(map).ended, 0);
    for (int i = 0; (flags & ZP_UNORDERED) && i < 199; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(int_of(result.value), result.index);
        assert_true(result.index > 0 && !seen[result.index]);
        seen[result.index] = true;
    }
    assert_returns(zp_map_next(map, NULL, 0), -ETIMEDOUT);
    assert_returns(zp_map_next(map, NULL, 0.01), -ETIMEDOUT);
    assert_returns(zp_map_wait(map, 0.01), -ETIMEDOUT);
    zp_sync_post(&sync);
    for (int i = 0; i < (flags & ZP_UNORDERED ? 1 : 200); i++)
        assert_int_equal(next_of(map).index, i);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_value_free(common);
    zp_ctx_free(ctx);
    zp_sync_close(&sync);
}

static void
test_a_slow_item_holds_the_others_back(void **state)
{
    (void)state;
    run_with_a_slow_first(0);
}

static void
test_unordered_results_come_as_they_are_done(void **state)
{
    (void)state;
    run_with_a_slow_first(ZP_UNORDERED);
}

/* -------------------------------------------------------------- adding -- */

static void
test_items_one_by_one(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 2), square);
    int64_t got;

    (void)state;
    for (int64_t i = 0; i < 50; i++) { /* each before the next */
        assert_ok(zp_map_add(map, "I", &i));
        assert_returns(zp_map_get(map, SECONDS, "I", &got), 1);
        assert_int_equal(got, i * i);
    }
    assert_returns(zp_map_next(map, NULL, SECONDS), -EPIPE);
    assert_returns(zp_map_get(map, -1, "I", &got), -EPIPE);
    assert_returns(zp_map_next(map, NULL, 0), -EPIPE);
    for (int64_t i = 50; i < 100; i++)
        assert_ok(zp_map_add(map, "I", &i));
    assert_ok(zp_map_end(map));
    assert_ok(zp_map_end(map));
    assert_returns(zp_map_add(map, "I", &got), -EPIPE);
    expect_squares(map, 50, 100, 0);
    assert_returns(zp_map_add(map, "I", &got), -EPIPE);
    assert_ok(zp_map_end(map));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_a_full_window(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 2, .window = 10), square);
    int64_t i;

    (void)state;
    for (i = 0; i < 10; i++)
        assert_ok(zp_map_add(map, "I", &i));
    assert_returns(zp_map_add(map, "I", &i), -EAGAIN);
    expect_done(ctx, map, 10);
    assert_returns(zp_map_add(map, "I", &i), -EAGAIN); /* done is not read */
    for (; i < 100; i++) {
        assert_int_equal(int_of(next_of(map).value), (i - 10) * (i - 10));
        assert_ok(zp_map_add(map, "I", &i));
        assert_returns(zp_map_add(map, "I", &i), -EAGAIN);
    }
    assert_int_equal(progress_of(map).added, 100);
    assert_ok(zp_map_end(map));
    expect_squares(map, 90, 100, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_a_window_of_bytes(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map =
        map_fed(ctx, MAP(.count = 2, .window_bytes = 100 << 10), echo);
    zp_bin bin = {calloc(1, 60 << 10), 60 << 10};

    (void)state;
    assert_ok(zp_map_add(map, "B", &bin));
    assert_ok(zp_map_add(map, "B", &bin)); /* one may be more */
    assert_returns(zp_map_add(map, "B", &bin), -EAGAIN);
    (void)next_of(map);
    (void)next_of(map);
    bin.sz = 10;
    assert_ok(zp_map_add(map, "B", &bin));
    assert_ok(zp_map_end(map));
    (void)next_of(map);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    free(bin.addr);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_no_items_and_one(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    for (int64_t n = 0; n < 2; n++) {
        numbers from = {.end = n};
        zp_mapping *map = map_numbers(ctx, NULL, square, &from);

        assert_ok(zp_map_wait(map, SECONDS));
        assert_int_equal(progress_of(map).ended, 1);
        expect_squares(map, 0, n, 0);
        assert_ok(zp_map_wait(map, SECONDS));
        zp_map_free(map);
        map = map_fed(ctx, NULL, square);
        for (int64_t i = 0; i < n; i++)
            assert_ok(zp_map_add(map, "I", &i));
        assert_ok(zp_map_end(map));
        expect_squares(map, 0, n, 0);
        assert_ok(zp_map_wait(map, SECONDS));
        zp_map_free(map);
    }
    assert_null(zp_map_free(NULL));
    zp_ctx_free(ctx);
}

static void
test_waiting_for_all(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 500};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 2), square, &from);

    (void)state;
    assert_ok(zp_map_wait(map, SECONDS));
    assert_int_equal(progress_of(map).done, 500);
    assert_int_equal(progress_of(map).read, 0);
    assert_ok(zp_map_wait(map, 0));
    expect_squares(map, 0, 500, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* It says so when it can get no further, and goes on when results are read. */
static void
test_waiting_for_more_than_the_window(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 45};
    zp_mapping *map =
        map_numbers(ctx, MAP(.count = 2, .window = 20), square, &from);

    (void)state;
    for (int64_t i = 0; i < 45; i++) {
        int rc = zp_map_wait(map, SECONDS);

        if (rc != (progress_of(map).ended ? 0 : -EAGAIN))
            fail_msg("zp_map_wait: %d (%s)", rc, zp_strerror(rc));
        assert_int_equal(progress_of(map).done, i + 20 < 45 ? i + 20 : 45);
        assert_int_equal(int_of(next_of(map).value), i * i);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- laziness --
 */

static void
test_the_source_is_asked_as_results_are_read(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = -1}; /* endless */
    zp_mapping *map =
        map_numbers(ctx, MAP(.count = 2, .window = 25), square, &from);

    (void)state;
    assert_int_equal(from.calls, 0); /* not by the call that makes it */
    for (int64_t i = 0; i < 300; i++) {
        zp_progress progress;

        assert_int_equal(int_of(next_of(map).value), i * i);
        progress = progress_of(map);
        assert_int_equal(progress.added, from.next);
        assert_true(progress.added - (progress.read - 1) <= 25);
    }
    zp_map_free(map);
    assert_true(from.calls <= 325);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static int
give_bytes(zp_mapping *map, void *user)
{
    static unsigned char bytes[4096];

    ++*(int *)user;
    return zp_map_add(map, "B", &(zp_bin){bytes, sizeof bytes}) < 0 ? -EPROTO
                                                                    : 1;
}

/* An endless input does not fill the memory, whoever is the slower one. */
static void
test_endless_input(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int rounds = zp_test_instrumented() ? 2000 : 40000, asked = 0;
    zp_mapping *map = NULL;
    long before;

    (void)state;
    assert_ok(zp_map(ctx, &map, MAP(.count = 2, .window_bytes = 4 << 20), echo,
                     give_bytes, &asked));
    for (int i = 0; i < rounds / 10; i++)
        (void)next_of(map);
    before = zp_test_vm_rss(0);
    for (int i = 0; i < rounds; i++)
        (void)next_of(map);
    if (!zp_test_instrumented())
        assert_in_range(zp_test_vm_rss(0), 1, before + 16384); /* of 160 MB */
    assert_true(asked <= rounds + rounds / 10 + (4 << 20) / 4096 + 1);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ items --
 */

static void
test_a_common_argument(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 300};
    zp_value *common = NULL;
    zp_mapping *map;

    (void)state;
    assert_ok(zp_value_new(&common, ZP_I(1000)));
    map = map_numbers(ctx, MAP(.count = 2, .common = common), square, &from);
    zp_value_free(common); /* it was copied */
    expect_squares(map, 0, 300, 1000);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* A value of each format; the last one has an A(). Returns how many. */
static int
make_values(zp_value **values)
{
    static const struct pair {
        int n;
        const char *text;
    } pair = {5, "five"};
    const char *text = "ein wort, \xc3\xa4", *empty = "";
    int array[3] = {1, -2, 3}, i, n = 0;
    zp_bin bin = {(void *)(uintptr_t) "a\0b", 3}, none = {NULL, 0};
    zp_tpl *tpl = NULL;

    assert_ok(zp_value_new(&values[n++], "c", &(char){'x'}));
    assert_ok(zp_value_new(&values[n++], "j", &(int16_t){-7}));
    assert_ok(zp_value_new(&values[n++], "v", &(uint16_t){65535}));
    assert_ok(zp_value_new(&values[n++], "i", &(int32_t){INT32_MIN}));
    assert_ok(zp_value_new(&values[n++], "u", &(uint32_t){UINT32_MAX}));
    assert_ok(zp_value_new(&values[n++], "I", &(int64_t){INT64_MIN}));
    assert_ok(zp_value_new(&values[n++], "U", &(uint64_t){UINT64_MAX}));
    assert_ok(zp_value_new(&values[n++], "f", &(double){-0.1}));
    assert_ok(zp_value_new(&values[n++], "s", &text));
    assert_ok(zp_value_new(&values[n++], "s", &empty));
    assert_ok(zp_value_new(&values[n++], "B", &bin));
    assert_ok(zp_value_new(&values[n++], "B", &none));
    assert_ok(zp_value_new_bool(&values[n++], 1));
    assert_ok(zp_value_new_none(&values[n++]));
    assert_ok(zp_value_new(&values[n++], "S(is)", &pair));
    assert_ok(zp_value_new(&values[n++], "i#", array, 3));
    assert_ok(zp_value_new(&values[n++], "cfsB", &(char){'y'}, &(double){2},
                           &text, &bin));
    assert_ok(zp_tpl_new(&tpl, "sA(i)", &text, &i));
    assert_ok(zp_tpl_pack(tpl, 0));
    for (i = 0; i < 100; i++)
        assert_ok(zp_tpl_pack(tpl, 1));
    assert_ok(zp_tpl_value(tpl, &values[n++]));
    zp_tpl_free(tpl);
    return n;
}

static void
test_items_of_every_format(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 2), echo);
    zp_value *values[30] = {NULL};
    int n = make_values(values), x = 0;

    (void)state;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < n; i++)
            assert_ok(zp_map_add_value(map, values[i]));
    assert_returns(zp_map_add(map, "A(i)", &x), ZP_EFORMAT);
    assert_returns(zp_map_add(map, "Q", &x), ZP_EFORMAT);
    assert_returns(zp_map_add(map, NULL), ZP_EFORMAT);
    assert_returns(zp_map_add(map, "s", NULL), -EINVAL);
    assert_returns(zp_map_add_value(map, NULL), -EINVAL);
    assert_ok(zp_map_end(map));
    for (int i = 0; i < 2 * n; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(result.code, 0);
        assert_non_null(result.value);
        if (!zp_value_equal(result.value, values[i % n]))
            fail_msg("the value of format \"%s\" has changed",
                     zp_value_format(values[i % n]));
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    while (n--)
        zp_value_free(values[n]);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_items_by_format_and_address(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 2), echo);
    const char *text = "seven";
    char *got = NULL, byte = 0;
    int seven = 7, array[3] = {4, 5, 6}, back[3] = {0};
    double half;

    (void)state;
    assert_ok(zp_map_add(map, "is", &seven, &text));
    assert_ok(zp_map_add(map, "i#", array, 3));
    assert_ok(zp_map_add(map, ZP_F(0.5)));
    assert_ok(zp_map_add(map, ZP_S("lone")));
    assert_ok(zp_map_add(map, ZP_I(300)));
    assert_ok(zp_map_end(map));
    seven = 0;
    assert_returns(zp_map_get(map, SECONDS, "is", &seven, &got), 1);
    assert_int_equal(seven, 7);
    assert_string_equal(got, "seven");
    free(got);
    assert_returns(zp_map_get(map, SECONDS, "i#", back, 3), 1);
    assert_memory_equal(back, array, sizeof back);
    assert_returns(zp_map_get(map, SECONDS, "f", &half), 1);
    assert_true(half == 0.5);
    assert_returns(zp_map_get(map, SECONDS, "i", &seven), ZP_ETYPE);
    assert_returns(zp_map_get(map, SECONDS, "c", &byte), -ERANGE);
    assert_int_equal(progress_of(map).read, 5); /* those two are read, too */
    assert_ok(zp_map_get(map, SECONDS, "i", &seven));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- refused -- */

static void
refuse(zp_ctx *ctx, const zp_map_options *options, int code, const char *part)
{
    numbers from = {.end = 3};
    zp_mapping *map = NULL;

    assert_returns(zp_map(ctx, &map, options, square, give_numbers, &from),
                   code);
    assert_has(zp_ctx_error(ctx), part);
    assert_returns(zp_spawn_map(ctx, &map, options, square, NULL, NULL), code);
    assert_null(map);
}

static int
no_result(zp_mapping *map, const zp_map_result *result, void *user)
{
    (void)map;
    (void)result;
    (void)user;
    return -EPROTO;
}

static void
test_options_that_make_no_sense(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_map_options small = {.size = sizeof small - 1};
    char long_name[50] = "";

    (void)state;
    memset(long_name, 'n', 49);
    refuse(ctx, &(zp_map_options){.size = 0}, -EINVAL, "size");
    refuse(ctx, &small, -EINVAL, "size");
    refuse(ctx, MAP(.flags = 8), -EINVAL, "flags");
    refuse(ctx, MAP(.flags = ZP_SHARED, .result_fn = no_result), -EINVAL,
           "result_fn");
    refuse(ctx, MAP(.flags = ZP_SHARED, .keep = -1), -EINVAL, "keep");
    refuse(ctx, MAP(.name = ""), -EINVAL, "name");
    refuse(ctx, MAP(.name = long_name), -EINVAL, "name");
    refuse(ctx, MAP(.count = 1025), -EINVAL, "count");
    refuse(ctx, MAP(.chunk = 65537), -EINVAL, "chunk");
    refuse(ctx, MAP(.tries = 1001), -EINVAL, "tries");
    refuse(ctx, MAP(.progress_every = -1), -EINVAL, "progress_every");
    refuse(ctx, MAP(.progress_every = 0.0 / 0.0), -EINVAL, "progress_every");
    refuse(ctx, MAP(.spawn = SPAWN(.name = "x")), -EINVAL, "spawn");
    refuse(ctx, MAP(.spawn = SPAWN(.arg_size = 1)), -EINVAL, "spawn");
    refuse(ctx, MAP(.spawn = SPAWN(.retry = RETRY(.retries = 1))), -EINVAL,
           "spawn");
    refuse(ctx, MAP(.spawn = SPAWN(.flags = ZP_DEFERRED)), -EINVAL, "spawn");
    refuse(ctx, MAP(.spawn = &(zp_spawn_options){.size = 3}), -EINVAL, "size");
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void
test_arguments_that_make_no_sense(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1};
    zp_map_result result = {.size = 1};
    zp_progress progress = {.size = 1};
    zp_mapping *map = NULL;
    int64_t n = 0;

    (void)state;
    assert_returns(zp_map(NULL, &map, NULL, square, NULL, NULL), -EINVAL);
    assert_returns(zp_map(ctx, NULL, NULL, square, NULL, NULL), -EINVAL);
    assert_returns(zp_map(ctx, &map, NULL, NULL, NULL, NULL), -EINVAL);
    assert_returns(zp_spawn_map(ctx, &map, NULL, NULL, NULL, NULL), -EINVAL);
    assert_returns(zp_map_add(NULL, "I", &n), -EINVAL);
    assert_returns(zp_map_end(NULL), -EINVAL);
    assert_returns(zp_map_next(NULL, NULL, 0), -EINVAL);
    assert_returns(zp_map_get(NULL, 0, "I", &n), -EINVAL);
    assert_returns(zp_map_wait(NULL, 0), -EINVAL);
    assert_returns(zp_map_progress(NULL, &progress), -EINVAL);
    assert_returns(zp_map_cancel(NULL), -EINVAL);
    map = map_numbers(ctx, MAP(.count = 1), square, &from);
    assert_returns(zp_map_add(map, "I", &n), -EINVAL); /* it has a source */
    assert_returns(zp_map_next(map, &result, SECONDS), -EINVAL);
    assert_returns(zp_map_progress(map, &progress), -EINVAL);
    assert_returns(zp_map_progress(map, NULL), -EINVAL);
    assert_returns(zp_map_get(map, SECONDS, NULL), ZP_EFORMAT);
    expect_squares(map, 0, 1, 0); /* nothing was lost by these */
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static int
maps_inside(zp_state *state, void *user)
{
    zp_mapping *map = user, *other = NULL;
    zp_ctx *ctx = zp_state_ctx(state);

    assert_returns(zp_map_next(map, NULL, 1), -EDEADLK);
    assert_returns(zp_map_wait(map, 1), -EDEADLK);
    assert_returns(zp_map(ctx, &other, NULL, square, NULL, NULL), -EDEADLK);
    return 0;
}

static void
test_nothing_waits_inside_an_atomic_operation(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 10};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 1), square, &from);

    (void)state;
    assert_ok(zp_atomic(zp_ctx_state(ctx), maps_inside, map));
    expect_squares(map, 0, 10, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_results_are_in_order),
        ZP_TEST(test_a_slow_item_holds_the_others_back),
        ZP_TEST(test_unordered_results_come_as_they_are_done),
        ZP_TEST(test_items_one_by_one),
        ZP_TEST(test_a_full_window),
        ZP_TEST(test_a_window_of_bytes),
        ZP_TEST(test_no_items_and_one),
        ZP_TEST(test_waiting_for_all),
        ZP_TEST(test_waiting_for_more_than_the_window),
        ZP_TEST(test_the_source_is_asked_as_results_are_read),
        ZP_TEST(test_endless_input),
        ZP_TEST(test_a_common_argument),
        ZP_TEST(test_items_of_every_format),
        ZP_TEST(test_items_by_format_and_address),
        ZP_TEST(test_options_that_make_no_sense),
        ZP_TEST(test_arguments_that_make_no_sense),
        ZP_TEST(test_nothing_waits_inside_an_atomic_operation),
    };

    return zp_test_main("map", tests, sizeof tests / sizeof *tests, 60);
}
