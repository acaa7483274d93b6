/*
 * test_record.c - records of processes: there and back, and what is not one.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/image.h"
#include "core/record.h"

static zp__record
example(void)
{
    return (zp__record){
        .state = ZP__RECORD_ENDED,
        .depth = 3,
        .attempts = 4,
        .id = {.pid = 12, .start = 34},
        .parent = {.pid = 56, .start = 78},
        .parent_record = UINT64_C(1) << 40,
        .spawned_ns = -1,
        .started_ns = 7,
        .ended_ns = INT64_MAX,
        .code = -5,
        .status = 6,
        .signal = 7,
        .core = 1,
        .name = "a name",
        .ns = "a namespace",
        .error = "an error",
        .origin = "file.c:1",
        .backtrace = "here\nthere\n",
        .image = "12345",
        .image_size = 5,
    };
}

static void
test_there_and_back(void **state)
{
    zp__record record = example(), got;
    void *data;
    size_t size;
    (void)state;
    assert_int_equal(zp__record_encode(&record, &data, &size), 0);
    assert_int_equal(zp__record_decode(&got, data, size), 0);
    assert_int_equal(got.state, ZP__RECORD_ENDED);
    assert_int_equal(got.depth, 3);
    assert_int_equal(got.attempts, 4);
    assert_memory_equal(&got.id, &record.id, sizeof got.id);
    assert_memory_equal(&got.parent, &record.parent, sizeof got.parent);
    assert_int_equal(got.boot, zp__boot_hash());
    assert_int_equal(got.pid_ns, zp__pid_ns());
    assert_true(got.parent_record == UINT64_C(1) << 40);
    assert_true(got.spawned_ns == -1 && got.ended_ns == INT64_MAX);
    assert_int_equal(got.started_ns, 7);
    assert_int_equal(got.code, -5);
    assert_int_equal(got.status, 6);
    assert_int_equal(got.signal, 7);
    assert_int_equal(got.core, 1);
    assert_string_equal(got.name, "a name");
    assert_string_equal(got.ns, "a namespace");
    assert_string_equal(got.error, "an error");
    assert_string_equal(got.origin, "file.c:1");
    assert_string_equal(got.backtrace, "here\nthere\n");
    assert_int_equal(got.image_size, 5);
    assert_memory_equal(got.image, "12345", 5);
    free(data);
}

/* Nothing is as good as empty; what is too long is cut. */
static void
test_limits(void **state)
{
    zp__record record = {.state = ZP__RECORD_WAITING}, got;
    char text[8000];
    void *data;
    size_t size;
    (void)state;
    assert_int_equal(zp__record_encode(&record, &data, &size), 0);
    assert_int_equal(zp__record_decode(&got, data, size), 0);
    assert_int_equal(got.state, ZP__RECORD_WAITING);
    assert_string_equal(got.name, "");
    assert_string_equal(got.ns, "");
    assert_string_equal(got.error, "");
    assert_string_equal(got.origin, "");
    assert_string_equal(got.backtrace, "");
    assert_null(got.image);
    assert_int_equal(got.image_size, 0);
    free(data);

    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    record.name = record.ns = text;
    record.error = record.origin = record.backtrace = text;
    assert_int_equal(zp__record_encode(&record, &data, &size), 0);
    assert_int_equal(zp__record_decode(&got, data, size), 0);
    assert_int_equal(strlen(got.name), ZP__RECORD_NAME);
    assert_int_equal(strlen(got.ns), ZP__RECORD_NS);
    assert_int_equal(strlen(got.error), ZP__RECORD_TEXT);
    assert_int_equal(strlen(got.origin), ZP__RECORD_ORIGIN);
    assert_int_equal(strlen(got.backtrace), ZP__RECORD_TRACE);
    free(data);

    record.image_size = ZP__IMAGE_MAX + 1;
    assert_int_equal(zp__record_encode(&record, &data, &size), -EMSGSIZE);
    record.image_size = 0;
    record.state = 0;
    assert_int_equal(zp__record_encode(&record, &data, &size), -EINVAL);
}

/* Every prefix, one byte more, and every byte changed: an error or a record
 * that lies inside the bytes. Each in a block of its exact size, for what
 * watches memory. */
static void
test_damage(void **state)
{
    zp__record record = example(), got;
    void *data;
    size_t size;
    (void)state;
    assert_int_equal(zp__record_encode(&record, &data, &size), 0);
    for (size_t n = 0; n <= size + 1; n++) {
        char *part = calloc(1, n ? n : 1);
        assert_non_null(part);
        memcpy(part, data, n < size ? n : size);
        int rc = zp__record_decode(&got, part, n);
        assert_int_equal(rc, n == size ? 0 : ZP_ECORRUPT);
        free(part);
    }
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit++) {
            char *copy = malloc(size);
            assert_non_null(copy);
            memcpy(copy, data, size);
            copy[i] = (char)(copy[i] ^ 1 << bit);
            int rc = zp__record_decode(&got, copy, size);
            if (rc == 0) {
                const char *end = copy + size;
                assert_true(got.name + strlen(got.name) < got.ns);
                assert_true(got.ns + strlen(got.ns) < got.error);
                assert_true(got.error + strlen(got.error) < got.origin);
                assert_true(got.origin + strlen(got.origin) < got.backtrace);
                assert_true(got.backtrace + strlen(got.backtrace) < end);
                assert_true((const char *)got.image + got.image_size == end);
            } else {
                assert_true(rc == ZP_ECORRUPT || rc == ZP_EVERSION);
            }
            free(copy);
        }
    free(data);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_there_and_back),
        ZP_TEST(test_limits),
        ZP_TEST(test_damage),
    };
    return zp_test_main("record", tests, sizeof tests / sizeof *tests, 30);
}
