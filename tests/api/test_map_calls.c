/*
 * test_map_calls.c - a map's callbacks: source, result_fn, progress_fn; their
 * order, their end, and what may be done inside of them.
 */
#include "tests/api/mapping.h"

#include <poll.h>

enum action { NOTHING, FREE_MAP, CANCEL_MAP, FREE_CTX, BREAK, FAIL };

/* What the callbacks have seen, and what they are to do at call number `at`. */
typedef struct seen {
    zp_ctx *ctx;
    zp_mapping *map;
    enum action action;
    int at; /* from 1; -1: at the end call */
    int calls, ends, inside;
    int64_t next;          /* value expected; -1: not looked at */
    bool acted, in_source; /* it is the source that acts */
    numbers from;
    zp_mapping *other;
    uint64_t done;
} seen;

static int
act(seen *s, zp_mapping *map, bool due)
{
    assert_ptr_equal(map, s->map);
    assert_false(s->acted && (s->action == FREE_MAP || s->action == FREE_CTX));
    if (!due)
        return 0;
    s->acted = true;
    switch (s->action) {
    case FREE_MAP:
        s->map = zp_map_free(map);
        assert_null(s->map);
        return 0;
    case CANCEL_MAP:
        assert_ok(zp_map_cancel(map));
        assert_ok(zp_map_cancel(map));
        return 0;
    case FREE_CTX:
        s->ctx = zp_ctx_free(s->ctx);
        return 0;
    case BREAK:
        assert_ok(zp_break(s->ctx));
        return 0;
    case FAIL:
        return -ENOTTY;
    case NOTHING:
        break;
    }
    return 0;
}

static int
on_result(zp_mapping *map, const zp_map_result *result, void *user)
{
    seen *s = user;

    assert_int_equal(s->inside, 0); /* never inside of itself */
    assert_int_equal(s->ends, 0);   /* nothing comes after the end */
    if (!result) {
        s->ends++;
        assert_int_equal(progress_of(map).ended, 1);
        return act(s, map, s->at == -1);
    }
    s->calls++;
    assert_int_equal(result->size, sizeof *result);
    if (s->next >= 0) {
        assert_int_equal(result->index, s->next);
        assert_int_equal(int_of(result->value), s->next * s->next);
        s->next++;
    }
    return act(s, map, !s->in_source && s->at == s->calls);
}

static int
on_progress(zp_mapping *map, void *user)
{
    seen *s = user;
    zp_progress progress = progress_of(map);

    s->calls++;
    assert_int_equal(s->ends, 0);
    assert_true(progress.done >= s->done && progress.done <= progress.added);
    s->done = progress.done;
    s->ends += progress.ended;
    return act(s, map, s->at == -1 ? progress.ended : s->at == s->calls);
}

static int
give_and_act(zp_mapping *map, void *user)
{
    seen *s = user;
    int rc = give_numbers(map, &s->from), acted;

    acted = act(s, map, s->in_source && s->from.calls == s->at);
    return acted < 0 ? acted : rc;
}

/* ------------------------------------------------------------ result_fn -- */

static void
start(seen *s, const zp_map_options *options)
{
    s->ctx = new_ctx(NULL);
    assert_ok(zp_map(s->ctx, &s->map, options, square, give_and_act, s));
}

static void
finish(seen *s)
{
    s->map = zp_map_free(s->map);
    if (s->ctx)
        expect_processes(s->ctx, 0);
    s->ctx = zp_ctx_free(s->ctx);
}

static void
test_results_are_called_in_order(void **state)
{
    seen s = {.from = {.end = 1000}};

    (void)state;
    start(&s, MAP(.count = 2, .result_fn = on_result, .user = &s));
    assert_int_equal(s.calls, 0);
    assert_returns(zp_map_next(s.map, NULL, 0), -EINVAL);
    assert_ok(zp_run(s.ctx));
    assert_int_equal(s.calls, 1000);
    assert_int_equal(s.ends, 1);
    assert_ok(zp_run(s.ctx)); /* nothing holds it any more */
    finish(&s);
    assert_int_equal(s.ends, 1);
}

static void
test_unordered_results_are_called_once_each(void **state)
{
    seen s = {.from = {.end = 1000}, .next = -1};

    (void)state;
    start(&s, MAP(.flags = ZP_UNORDERED, .count = 2, .result_fn = on_result,
                  .user = &s));
    assert_ok(zp_map_wait(s.map, SECONDS));
    assert_ok(zp_run(s.ctx));
    assert_int_equal(s.calls, 1000);
    assert_int_equal(s.ends, 1);
    finish(&s);
}

static void
test_an_empty_map_has_its_end_call(void **state)
{
    seen s = {.from = {.end = 0}};

    (void)state;
    start(&s, MAP(.count = 1, .result_fn = on_result, .user = &s));
    assert_ok(zp_run(s.ctx));
    assert_int_equal(s.calls, 0);
    assert_int_equal(s.ends, 1);
    finish(&s);
}

/* The window is of results that were not called yet. */
static void
test_results_make_room_in_a_small_window(void **state)
{
    seen s = {.from = {.end = 500}};

    (void)state;
    start(&s, MAP(.count = 2, .window = 3, .result_fn = on_result, .user = &s));
    assert_ok(zp_run(s.ctx));
    assert_int_equal(s.calls, 500);
    finish(&s);
}

/* A negative value and zp_break() end the run, which can go on afterwards. */
static void
end_and_go_on(enum action action, int rc)
{
    seen s = {.from = {.end = 300}, .action = action, .at = 7};

    start(&s, MAP(.count = 2, .result_fn = on_result, .user = &s));
    assert_returns(zp_run(s.ctx), rc);
    assert_int_equal(s.calls, 7);
    s.at = 150;
    assert_returns(zp_run(s.ctx), rc);
    assert_int_equal(s.calls, 150);
    s.at = -1;
    assert_returns(zp_run(s.ctx), rc);
    assert_int_equal(s.calls, 300);
    assert_int_equal(s.ends, 1);
    assert_ok(zp_run(s.ctx));
    finish(&s);
}

static void
test_a_negative_result_ends_the_run(void **state)
{
    (void)state;
    end_and_go_on(FAIL, -ENOTTY);
}

static void
test_a_break_ends_the_run(void **state)
{
    (void)state;
    end_and_go_on(BREAK, 0);
}

static void
free_inside_result(enum action action, int at)
{
    seen s = {.from = {.end = 2000, .each = 10}, .action = action, .at = at};

    start(&s, MAP(.count = 2, .result_fn = on_result, .user = &s));
    assert_returns(zp_run(s.ctx), action == FREE_CTX ? ZP_ECLOSED : 0);
    if (at > 0)
        assert_int_equal(s.calls, at); /* none after that */
    assert_int_equal(s.ends, at < 0 || action == CANCEL_MAP);
    if (action == CANCEL_MAP)
        assert_int_equal(progress_of(s.map).code, at < 0 ? 0 : -ECANCELED);
    if (!s.ctx)
        s.map = NULL;
    finish(&s);
}

static void
test_freeing_inside_result_fn(void **state)
{
    (void)state;
    for (enum action action = FREE_MAP; action <= FREE_CTX; action++)
        for (int k = 0; k < 3; k++)
            free_inside_result(action, (int[]){1, 40, -1}[k]);
}

/* ---------------------------------------------------------- progress_fn -- */

static void
test_progress_is_called_and_at_the_end(void **state)
{
    seen s = {.from = {.end = 500}};

    (void)state;
    start(&s, MAP(.count = 2, .progress_fn = on_progress,
                  .progress_every = 0.001, .user = &s));
    assert_ok(zp_run(s.ctx));
    assert_true(s.calls >= 1);
    assert_int_equal(s.ends, 1);
    assert_int_equal(s.done, 500);
    expect_squares(s.map, 0, 500, 0);
    assert_int_equal(s.ends, 1);
    finish(&s);
}

static void
test_progress_is_not_called_too_often(void **state)
{
    seen s = {.from = {.end = 500}};

    (void)state;
    start(&s, MAP(.count = 2, .progress_fn = on_progress, .progress_every = 1e6,
                  .user = &s));
    assert_ok(zp_run(s.ctx));
    assert_in_range(s.calls, 1, 2); /* at first, and at the end */
    assert_int_equal(s.ends, 1);
    finish(&s);
}

static void
test_a_negative_progress_ends_the_run(void **state)
{
    seen s = {.from = {.end = 500}, .action = FAIL, .at = -1};

    (void)state;
    start(&s, MAP(.count = 2, .progress_fn = on_progress, .user = &s));
    assert_returns(zp_run(s.ctx), -ENOTTY);
    assert_int_equal(s.ends, 1);
    assert_ok(zp_run(s.ctx));
    finish(&s);
}

static void
test_freeing_inside_progress_fn(void **state)
{
    (void)state;
    for (enum action action = FREE_MAP; action <= FREE_CTX; action++)
        for (int at = -1; at <= 1; at += 2) {
            seen s = {.from = {.end = 500}, .action = action, .at = at};

            start(&s, MAP(.count = 2, .progress_fn = on_progress,
                          .progress_every = 0.0001, .user = &s));
            assert_returns(zp_run(s.ctx), action == FREE_CTX ? ZP_ECLOSED : 0);
            assert_true(s.acted);
            if (!s.ctx)
                s.map = NULL;
            finish(&s);
        }
}

/* --------------------------------------------------------------- source -- */

static void
test_freeing_inside_the_source(void **state)
{
    (void)state;
    for (enum action action = FREE_MAP; action <= FREE_CTX; action++)
        for (int k = 0; k < 3; k++) {
            seen s = {.from = {.end = 60}, .action = action, .in_source = true};
            int rc;

            s.at = (int[]){1, 30, 61}[k];
            start(&s, MAP(.count = 2));
            while ((rc = zp_map_next(s.map, NULL, SECONDS)) == 1)
                continue;
            assert_returns(rc, action == FREE_CTX ? ZP_ECLOSED : -ECANCELED);
            assert_true(s.acted);
            if (!s.ctx)
                s.map = NULL;
            finish(&s);
        }
}

/* Inside zp_run(), with nobody who waits for the map. */
static void
test_freeing_inside_the_source_of_a_run(void **state)
{
    (void)state;
    for (enum action action = FREE_MAP; action <= FREE_CTX; action++) {
        seen s = {
            .from = {.end = 60}, .action = action, .at = 20, .in_source = true};

        start(&s, MAP(.count = 2, .result_fn = on_result, .user = &s));
        assert_returns(zp_run(s.ctx), action == FREE_CTX ? ZP_ECLOSED : 0);
        assert_true(s.acted);
        assert_int_equal(s.ends, action == CANCEL_MAP);
        if (!s.ctx)
            s.map = NULL;
        finish(&s);
    }
}

static int
gives_an_error(zp_mapping *map, void *user)
{
    int64_t *n = user;

    if (*n == 20)
        return -ENOTDIR;
    assert_ok(zp_map_add(map, "I", n));
    ++*n;
    return 1;
}

static int
adds_nothing(zp_mapping *map, void *user)
{
    (void)map;
    ++*(int64_t *)user;
    return 1;
}

static void
source_ends_with(zp_map_source_fn *source, int64_t start_at, int code)
{
    zp_ctx *ctx = new_ctx(NULL);
    int64_t n = start_at, got;
    zp_mapping *map = NULL;
    int rc, results = 0;

    assert_ok(zp_map(ctx, &map, MAP(.count = 2), square, source, &n));
    while ((rc = zp_map_get(map, SECONDS, "I", &got)) == 1)
        results++;
    assert_returns(rc, code);
    assert_returns(zp_map_next(map, NULL, SECONDS), code);
    assert_returns(zp_map_wait(map, SECONDS), code);
    assert_returns(zp_map_add(map, "I", &n), code);
    assert_int_equal(progress_of(map).code, code);
    assert_int_equal(progress_of(map).ended, 1);
    assert_int_equal(progress_of(map).all, 0);
    assert_int_equal(progress_of(map).read, results);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void
test_errors_of_the_source(void **state)
{
    (void)state;
    source_ends_with(gives_an_error, 20, -ENOTDIR); /* at once */
    source_ends_with(gives_an_error, 0, -ENOTDIR);
    source_ends_with(adds_nothing, 0, -EINVAL);
}

/* The last items may come with the 0 that says that these were the last. */
static int
gives_all_with_0(zp_mapping *map, void *user)
{
    for (int64_t *n = user; *n < 100; ++*n)
        assert_ok(zp_map_add(map, "I", n));
    return 0;
}

static void
test_items_beside_the_end(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_mapping *map = NULL;
    int64_t n = 0;

    (void)state;
    assert_ok(zp_map(ctx, &map, MAP(.count = 2, .window = 10), square,
                     gives_all_with_0, &n)); /* the source may be late */
    expect_squares(map, 0, 100, 0);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------- among others -- */

static int
feed_on_result(zp_mapping *map, const zp_map_result *result, void *user)
{
    int64_t *n = user, value;

    if (!result)
        return 0;
    value = int_of(result->value);
    assert_int_equal(value, (int64_t)(result->index * result->index));
    if (*n < 200) {
        assert_ok(zp_map_add(map, "I", n));
        ++*n;
    } else {
        assert_ok(zp_map_end(map));
    }
    return 0;
}

static void
test_a_result_makes_the_next_item(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int64_t n = 1;
    zp_mapping *map = map_fed(
        ctx,
        MAP(.count = 2, .window = 4, .result_fn = feed_on_result, .user = &n),
        square);

    (void)state;
    assert_ok(zp_map_add(map, "I", &(int64_t){0}));
    assert_ok(zp_run(ctx));
    assert_int_equal(progress_of(map).read, 200);
    zp_map_free(map);
    zp_ctx_free(ctx);
}

/* It reads another map to its end, which runs the loop. */
static int
reads_another(zp_mapping *map, const zp_map_result *result, void *user)
{
    seen *s = user;
    int64_t got;
    int rc = on_result(map, result, user);

    s->inside++;
    if (result && s->calls <= 20) {
        assert_returns(zp_map_get(s->other, SECONDS, "I", &got), 1);
        assert_int_equal(got, (s->calls - 1) * (s->calls - 1));
    }
    if (s->calls == 5)
        assert_returns(zp_map_next(map, NULL, 0), -EINVAL);
    s->inside--;
    return rc;
}

static void
test_a_result_waits_for_another_map(void **state)
{
    seen s = {.from = {.end = 100}};
    numbers others = {.end = 20};

    (void)state;
    start(&s, MAP(.count = 1, .result_fn = reads_another, .user = &s));
    s.other = map_numbers(s.ctx, MAP(.count = 1), square, &others);
    assert_ok(zp_run(s.ctx));
    assert_int_equal(s.calls, 100);
    assert_int_equal(s.ends, 1);
    assert_ok(zp_map_next(s.other, NULL, SECONDS));
    zp_map_free(s.other);
    finish(&s);
}

/* The last item sets a key. */
static int
square_and_set(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int rc = square(ctx, item, common);

    if (rc == 0 && int_of(item) == 99)
        rc = zp_set_int(zp_ctx_state(ctx), "last", 1);
    return rc;
}

/* Callbacks are, sources too; work goes on. */
static void
test_held_back_during_a_wait(void **state)
{
    seen s = {.next = 0};
    numbers others = {.end = 10};
    zp_mapping *other;

    (void)state;
    s.ctx = new_ctx(NULL);
    s.map = map_fed(s.ctx, MAP(.count = 2, .result_fn = on_result, .user = &s),
                    square_and_set);
    other = map_numbers(s.ctx, MAP(.count = 1), square, &others);
    for (int64_t i = 0; i < 100; i++)
        assert_ok(zp_map_add(s.map, "I", &i));
    assert_ok(zp_map_end(s.map));
    assert_ok(zp_get_when_equal(zp_ctx_state(s.ctx), NULL, "last", SECONDS,
                                ZP_WATCH(.flags = ZP_HOLD), ZP_I(1)));
    assert_int_equal(s.calls, 0);
    assert_int_equal(others.calls, 0);
    assert_true(progress_of(s.map).done > 0);
    expect_squares(other, 0, 10, 0);
    assert_ok(zp_run(s.ctx));
    assert_int_equal(s.calls, 100);
    assert_int_equal(s.ends, 1);
    zp_map_free(other);
    finish(&s);
}

/* A loop that is not libev's. */
static void
test_results_are_dispatched(void **state)
{
    seen s = {.from = {.end = 500}};
    double deadline = zp_test_now() + SECONDS, timeout;

    (void)state;
    start(&s, MAP(.count = 2, .result_fn = on_result, .user = &s));
    while (!s.ends) {
        struct pollfd p = {.fd = zp_ctx_fd(s.ctx),
                           .events = (short)zp_ctx_events(s.ctx)};

        assert_ok(zp_ctx_timeout(s.ctx, &timeout));
        if (timeout < 0 || timeout > 1)
            timeout = 1;
        poll(&p, 1, (int)(timeout * 1000 + 0.999));
        assert_ok(zp_ctx_dispatch(s.ctx));
        assert_true(zp_test_now() < deadline);
    }
    assert_int_equal(s.calls, 500);
    finish(&s);
}

/* What is never given back goes with the context. */
static void
test_maps_are_freed_with_the_context(void **state)
{
    (void)state;
    for (int k = 0; k < 3; k++) {
        seen s = {.from = {.end = 1000}};

        start(&s, MAP(.count = 2, .result_fn = on_result, .user = &s));
        for (int i = 0; i < k * 3; i++)
            assert_ok(zp_ctx_dispatch(s.ctx));
        s.ctx = zp_ctx_free(s.ctx);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_results_are_called_in_order),
        ZP_TEST(test_unordered_results_are_called_once_each),
        ZP_TEST(test_an_empty_map_has_its_end_call),
        ZP_TEST(test_results_make_room_in_a_small_window),
        ZP_TEST(test_a_negative_result_ends_the_run),
        ZP_TEST(test_a_break_ends_the_run),
        ZP_TEST(test_freeing_inside_result_fn),
        ZP_TEST(test_progress_is_called_and_at_the_end),
        ZP_TEST(test_progress_is_not_called_too_often),
        ZP_TEST(test_a_negative_progress_ends_the_run),
        ZP_TEST(test_freeing_inside_progress_fn),
        ZP_TEST(test_freeing_inside_the_source),
        ZP_TEST(test_freeing_inside_the_source_of_a_run),
        ZP_TEST(test_errors_of_the_source),
        ZP_TEST(test_items_beside_the_end),
        ZP_TEST(test_a_result_makes_the_next_item),
        ZP_TEST(test_a_result_waits_for_another_map),
        ZP_TEST(test_held_back_during_a_wait),
        ZP_TEST(test_results_are_dispatched),
        ZP_TEST(test_maps_are_freed_with_the_context),
    };

    return zp_test_main("map_calls", tests, sizeof tests / sizeof *tests, 60);
}
