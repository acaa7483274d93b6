/*
 * test_process_records.c - listing what no process of ours would have written:
 * damaged records, results that are no values, processes that nobody is left
 * to tell of.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/context.h"
#include "core/record.h"

static zp_ctx *ctx;

static int
set_up(void **state)
{
    (void)state;
    return zp_ctx_new(&ctx, NULL);
}

static int
tear_down(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

static uint64_t
put(const zp__record *record)
{
    bool ended = record->state == ZP__RECORD_ENDED;
    uint64_t id = 0;
    void *data;
    size_t size;

    assert_int_equal(zp__record_encode(record, &data, &size), 0);
    assert_int_equal(
        zp__store_put_record(ctx->store, &id, data, size, ended, 5), 0);
    free(data);
    return id;
}

static int
remember(const zp_process *process, void *user)
{
    *(zp_process *)user = *process;
    return 0;
}

/* A result comes from another process: it is not believed. */
static void
test_bad_image(void **state)
{
    char image[64];
    zp_value *value = NULL;
    zp_process seen;
    char *text = NULL;
    uint64_t id;

    (void)state;
    memcpy(image, "tpl\0\x40\0\0\0s\0\xff\xff\xff\x7f", 14);
    memset(image + 14, 'x', sizeof image - 14);
    id = put(&(zp__record){
        .state = ZP__RECORD_ENDED, .image = image, .image_size = sizeof image});
    assert_int_equal(zp_process_get(ctx, id, "s", &text), ZP_EVALUE);
    assert_int_equal(zp_process_get_value(ctx, id, &value), ZP_EVALUE);
    assert_int_equal(zp_each_process(ctx, remember, &seen), 0);
    assert_true(seen.id == id && seen.has_result);
}

static void
test_bad_record(void **state)
{
    char *text = NULL;
    zp_process seen;
    uint64_t id = 0;

    (void)state;
    assert_int_equal(
        zp__store_put_record(ctx->store, &id, "rubbish", 7, true, 5), 0);
    assert_int_equal(zp_process_get(ctx, id, "s", &text), ZP_ECORRUPT);
    assert_int_equal(zp_each_process(ctx, remember, &seen), ZP_ECORRUPT);
}

static int
sleeps(void *user)
{
    (void)user;
    for (;;)
        pause();
    return 0;
}

/* One that runs or waits is told as that only if it, or its parent, lives. */
static void
test_lost(void **state)
{
    static const uint32_t states[] = {ZP__RECORD_RUNNING, ZP__RECORD_WAITING};
    const zp__pid dead = {.pid = getpid(), .start = 1};
    const zp__pid self = zp__pid_self();
    const pid_t pid = zp_test_fork(sleeps, NULL); /* ended with the state */
    zp__pid other;
    zp_process seen;
    char *text = NULL;

    (void)state;
    assert_int_equal(zp__pid_of(pid, &other), 0);
    for (int i = 0; i < 2; i++) {
        zp__record record = {.state = states[i], .id = dead, .parent = self};
        int alive = i == 0 ? ZP_PROC_RUNNING : ZP_PROC_WAITING;

        uint64_t id = put(&record);
        assert_int_equal(zp_each_process(ctx, remember, &seen), 0);
        assert_int_equal(seen.state, alive);
        assert_int_equal(zp_process_get(ctx, id, "s", &text), -EBUSY);

        record.id = i == 0 ? other : (zp__pid){0};
        record.parent = i == 0 ? dead : self;
        id = put(&record);
        assert_int_equal(zp_each_process(ctx, remember, &seen), 0);
        assert_int_equal(seen.state, alive);

        record.id = (zp__pid){0};
        record.parent = dead;
        id = put(&record);
        assert_int_equal(zp_each_process(ctx, remember, &seen), 0);
        assert_true(seen.id == id);
        assert_int_equal(seen.state, ZP_PROC_ENDED);
        assert_int_equal(seen.code, ZP_EFAILED);
        assert_int_equal(seen.status, -1);
        assert_non_null(strstr(seen.error, "spawned it"));
        assert_int_equal(zp_process_get(ctx, id, "s", &text), ZP_ENOKEY);
    }
    ctx = zp_ctx_free(ctx);
    assert_int_equal(zp_test_wait(pid, 10 * zp_test_slow()), -SIGTERM);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_bad_image, set_up, tear_down),
        ZP_TEST_WITH(test_bad_record, set_up, tear_down),
        ZP_TEST_WITH(test_lost, set_up, tear_down),
    };
    return zp_test_main("process_records", tests, sizeof tests / sizeof *tests,
                        30);
}
