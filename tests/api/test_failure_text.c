/*
 * test_failure_text.c - zp_ctx_error() is about the call that failed, also
 * when its code came out of the application's own callback.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <string.h>

#include <zp.h>

static int
refuse(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    return *(int *)user;
}

static int
look_up(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t value;

    (void)watch;
    (void)user;
    return zp_get_int(zp_event_snapshot(event), "missing", &value);
}

static zp_ctx *
watched(zp_watch_fn *fn, void *user)
{
    zp_watch_options options = {.size = sizeof options, .flags = ZP_OWN};
    zp_ctx *ctx;
    int64_t value;

    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "before", &value),
                     ZP_ENOKEY);
    assert_non_null(strstr(zp_ctx_error(ctx), "before"));
    assert_int_equal(zp_call_when_change(zp_ctx_state(ctx), NULL,
                                         ZP_KEYS("key"), &options, fn, user),
                     0);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "key", 1), 0);
    return ctx;
}

static void
test_a_code_without_a_text(void **state)
{
    int code = -EDOM;
    zp_ctx *ctx = watched(refuse, &code);

    (void)state;
    assert_int_equal(zp_run(ctx), -EDOM);
    assert_string_equal(zp_ctx_error(ctx), zp_strerror(-EDOM));
    zp_ctx_free(ctx);
}

static void
test_a_code_of_a_call_that_failed(void **state)
{
    zp_ctx *ctx = watched(look_up, NULL);

    (void)state;
    assert_int_equal(zp_run(ctx), ZP_ENOKEY);
    assert_non_null(strstr(zp_ctx_error(ctx), "missing"));
    zp_ctx_free(ctx);
}

static int
give_up(zp_state *txn, void *user)
{
    (void)txn;
    (void)user;
    return -EDOM;
}

static void
test_an_atomic_function(void **state)
{
    int code = 0;
    zp_ctx *ctx = watched(refuse, &code);

    (void)state;
    assert_int_equal(zp_atomic(zp_ctx_state(ctx), give_up, NULL), -EDOM);
    assert_string_equal(zp_ctx_error(ctx), zp_strerror(-EDOM));
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_a_code_without_a_text),
        ZP_TEST(test_a_code_of_a_call_that_failed),
        ZP_TEST(test_an_atomic_function),
    };
    return zp_test_main("failure_text", tests, sizeof tests / sizeof *tests,
                        30);
}
