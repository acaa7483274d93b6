/*
 * test_map_items.c - how items fail; large items, and many; what their workers
 * are.
 */
#include "tests/api/mapping.h"

/* --------------------------------------------------------------- failures --
 */

/* By the item's number modulo 8: in each way. */
static int
fails_in_ways(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n = int_of(item), got;

    (void)common;
    switch (n % 8) {
    case 0:
        assert_ok(zp_return(ctx, ZP_I(1))); /* does not count */
        return zp_fail(ctx, -EIO, "no disk for item %d", (int)n);
    case 1:
        return zp_get(zp_ctx_state(ctx), "absent", "I", &got);
    case 2:
        return -ENOTTY;
    case 3:
        return 0; /* without a result */
    case 4:
        (void)zp_fail(ctx, -EIO, "not meant");
        (void)zp_get(zp_ctx_state(ctx), "absent", "I", &got);
        zp_return(ctx, "I", &n);
        return 17; /* and yet a success */
    case 5:
        return -EIO; /* by itself: nobody's text */
    case 6:
        return ZP_ENOKEY;
    default:
        return zp_return(ctx, "I", &n);
    }
}

static void
expect_way(const zp_map_result *r)
{
    static const int codes[8] = {-EIO, ZP_ENOKEY, -ENOTTY,   0,
                                 17,   -EIO,      ZP_ENOKEY, 0};
    int way = (int)(r->index % 8);
    char text[40];

    assert_int_equal(r->code, codes[way]);
    if (r->code >= 0) {
        assert_string_equal(r->error, "");
        assert_string_equal(r->origin, "");
        if (way == 3)
            assert_null(r->value);
        else
            assert_int_equal(int_of(r->value), r->index);
        return;
    }
    assert_null(r->value);
    snprintf(text, sizeof text, "no disk for item %d", (int)r->index);
    assert_has(r->error, way == 0   ? text
                         : way == 1 ? "absent"
                                    : zp_strerror(r->code));
    if (way == 0)
        assert_has(r->origin, "test_map_items.c:");
    else
        assert_string_equal(r->origin, "");
    if (way >= 5 && (strstr(r->error, "disk") || strstr(r->error, "meant") ||
                     strstr(r->error, "absent")))
        fail_msg("another item's text: \"%s\"", r->error);
}

static void
test_failures(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 800};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 2), fails_in_ways, &from);

    (void)state;
    for (uint64_t i = 0; i < 800; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(result.index, i);
        expect_way(&result);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    assert_int_equal(progress_of(map).failed, 500);
    assert_int_equal(progress_of(map).code, 0); /* those are the items' own */
    assert_int_equal(progress_of(map).again, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_failures_by_get(void **state)
{
    static const int codes[8] = {-EIO, ZP_ENOKEY, -ENOTTY,   ZP_ENOKEY,
                                 1,    -EIO,      ZP_ENOKEY, 1};
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 8};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 1), fails_in_ways, &from);
    int64_t got;

    (void)state;
    for (int i = 0; i < 8; i++) {
        got = -1;
        assert_returns(zp_map_get(map, SECONDS, "I", &got), codes[i]);
        assert_int_equal(got, codes[i] == 1 ? i : -1);
        if (i == 0)
            assert_has(zp_ctx_error(ctx), "item 0: no disk for item 0");
        if (i == 3)
            assert_has(zp_ctx_error(ctx), "item 3");
    }
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* A text as long as may be. */
static int
fails_at_length(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    char text[5000];

    (void)item;
    (void)common;
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    return zp_fail(ctx, -EIO, "%s", text);
}

static void
test_a_long_text(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 20};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 1), fails_at_length, &from);

    (void)state;
    for (int i = 0; i < 20; i++) {
        zp_map_result result = next_of(map);

        assert_in_range(strlen(result.error), 200, 5000);
        assert_int_equal(strspn(result.error, "x."), strlen(result.error));
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ large, many --
 */

static void
test_the_largest_item_and_result(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = map_fed(ctx, MAP(.count = 1), echo);
    uint32_t most = zp_test_valgrind() ? 4 << 20 : (64 << 20) - 14;
    zp_bin bin = {malloc(most + 1), most + 1}, got = {NULL, 0};

    (void)state;
    for (uint32_t i = 0; i <= most; i++)
        ((unsigned char *)bin.addr)[i] = (unsigned char)(i * 2654435761u >> 24);
    if (!zp_test_valgrind())
        assert_returns(zp_map_add(map, "B", &bin), -EMSGSIZE);
    bin.sz = most;
    for (int i = zp_test_instrumented(); i < 2; i++) {
        assert_ok(zp_map_add(map, "B", &bin));
        assert_returns(zp_map_get(map, SECONDS, "B", &got), 1);
        assert_int_equal(got.sz, most);
        assert_int_equal(memcmp(got.addr, bin.addr, most), 0);
        free(got.addr);
    }
    assert_ok(zp_map_end(map));
    assert_ok(zp_map_next(map, NULL, SECONDS));
    free(bin.addr);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* A text of any length, from small items. */
static int
grow(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n = int_of(item);
    size_t size = (size_t)(n * n * n) % 100003;
    zp_bin bin = {malloc(size + 1), (uint32_t)size};
    int rc;

    (void)common;
    memset(bin.addr, (int)(n & 255), size);
    rc = zp_return(ctx, "IB", &n, &bin);
    free(bin.addr);
    return rc;
}

static void
test_results_of_many_sizes(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int64_t rounds = (int64_t)(2000 / zp_test_slow()), n = -1;
    numbers from = {.end = rounds, .each = 5};
    zp_mapping *map =
        map_numbers(ctx, MAP(.count = 2, .window_bytes = 1 << 20), grow, &from);
    zp_bin got = {NULL, 0};

    (void)state;
    for (int64_t i = 0; i < rounds; i++) {
        assert_returns(zp_map_get(map, SECONDS, "IB", &n, &got), 1);
        assert_int_equal(n, i);
        assert_int_equal(got.sz, i * i * i % 100003);
        for (uint32_t k = 0; k < got.sz; k++)
            if (((unsigned char *)got.addr)[k] != (i & 255))
                fail_msg("byte %u of result %d is wrong", k, (int)i);
        free(got.addr);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_a_million_items(void **state)
{
    int64_t n = zp_test_valgrind()       ? 3000
                : zp_test_instrumented() ? 100000
                                         : 1000000;
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = n, .each = 100};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 2), square, &from);

    (void)state;
    expect_squares(map, 0, n, 0);
    assert_int_equal(progress_of(map).done, n);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

static void
test_chunks_of_any_size(void **state)
{
    static const size_t chunks[] = {1, 2, 7, 999, 65536};
    zp_ctx *ctx = new_ctx(NULL);
    int64_t n = zp_test_valgrind() ? 500 : 5000;

    (void)state;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        numbers from = {.end = n, .each = 3};
        zp_mapping *map = map_numbers(ctx, MAP(.count = 2, .chunk = chunks[i]),
                                      square, &from);

        expect_squares(map, 0, n, 0);
        zp_map_free(map);
    }
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ spawn --
 */

static int
sets_a_key(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)common;
    printf("item %d\n", (int)int_of(item));
    return zp_set_value(zp_ctx_state(ctx), "key", item);
}

/* Of the options of zp_spawn() those that are given are the workers'. */
static void
test_workers_are_spawned_as_told(void **state)
{
    const char *path = zp_test_path("out");
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map =
        map_fed(ctx,
                MAP(.count = 1, .spawn = SPAWN(.ns = "theirs", .out.path = path,
                                               .out.kind = ZP_STREAM_FILE)),
                sets_a_key);
    zp_state *theirs = NULL;
    char line[20] = "";
    int64_t got = 0;
    FILE *file;

    (void)state;
    assert_ok(zp_map_add(map, ZP_I(7)));
    assert_ok(zp_map_end(map));
    assert_int_equal(next_of(map).code, 0);
    zp_map_free(map);
    expect_processes(ctx, 0);
    assert_ok(zp_state_clone(zp_ctx_state(ctx), &theirs, "theirs"));
    assert_ok(zp_get_int(theirs, "key", &got));
    assert_int_equal(got, 7);
    assert_returns(zp_get_int(zp_ctx_state(ctx), "key", &got), ZP_ENOKEY);
    zp_state_free(theirs);
    file = fopen(path, "re");
    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    assert_string_equal(line, "item 7\n");
    fclose(file);
    zp_ctx_free(ctx);
}

/* A process that has done its item ends: what it has sent is read nevertheless,
 * and no item is thought to be lost. */
static void
test_processes_end_with_their_items(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = zp_test_instrumented() ? 20 : 300};
    zp_mapping *map = NULL;

    (void)state;
    assert_ok(zp_spawn_map(ctx, &map, MAP(.flags = ZP_ONCE), square,
                           give_numbers, &from));
    expect_squares(map, 0, from.end, 0);
    assert_int_equal(progress_of(map).again, 0);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* In a forked child the handle belongs to another process. */
static int
uses_after_fork(void *user)
{
    zp_mapping *map = user;
    zp_progress progress = {.size = sizeof progress};

    assert_returns(zp_map_next(map, NULL, 0), ZP_EFORK);
    assert_returns(zp_map_wait(map, 0), ZP_EFORK);
    assert_returns(zp_map_add(map, ZP_I(1)), ZP_EFORK);
    assert_returns(zp_map_end(map), ZP_EFORK);
    assert_returns(zp_map_cancel(map), ZP_EFORK);
    assert_returns(zp_map_progress(map, &progress), ZP_EFORK);
    assert_null(zp_map_free(map));
    return 0;
}

static void
test_after_a_fork(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 100};
    zp_mapping *map = map_numbers(ctx, MAP(.count = 1), square, &from);

    (void)state;
    assert_int_equal(int_of(next_of(map).value), 0);
    assert_int_equal(zp_test_wait(zp_test_fork(uses_after_fork, map), 20), 0);
    expect_squares(map, 1, 100, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_failures),
        ZP_TEST(test_failures_by_get),
        ZP_TEST(test_a_long_text),
        ZP_TEST(test_the_largest_item_and_result),
        ZP_TEST(test_results_of_many_sizes),
        ZP_TEST(test_a_million_items),
        ZP_TEST(test_chunks_of_any_size),
        ZP_TEST(test_workers_are_spawned_as_told),
        ZP_TEST(test_processes_end_with_their_items),
        ZP_TEST(test_after_a_fork),
    };

    return zp_test_main("map_items", tests, sizeof tests / sizeof *tests, 60);
}
