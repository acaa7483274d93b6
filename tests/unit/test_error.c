/*
 * test_error.c - codes and texts: the table, what is kept, for whom, and how
 * texts that are long or odd come out.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/error.h"

static void
test_every_code_has_its_own_text(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *text;
    } codes[] = {
#define ROW(name, code, text) {name, text},
        ZP_ERRORS(ROW)
#undef ROW
    };
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        assert_true(codes[i].code <= ZP_EFIRST);
        assert_string_equal(zp_strerror(codes[i].code), codes[i].text);
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(codes[j].text, codes[i].text);
    }
}

static void
test_errno_and_unknown_codes(void **state)
{
    (void)state;
    assert_string_equal(zp_strerror(-ENOENT), "No such file or directory");
    assert_string_equal(zp_strerror(0), "success");
    assert_non_null(strstr(zp_strerror(-20999), "-20999"));
    assert_non_null(strstr(zp_strerror(17), "17"));
    assert_non_null(strstr(zp_strerror(INT32_MIN), "-2147483648"));
    assert_non_null(zp_strerror(-4095));
}

static void
test_version(void **state)
{
    char text[32];
    (void)state;
    snprintf(text, sizeof(text), "%d.%d.%d", ZP_VERSION_MAJOR, ZP_VERSION_MINOR,
             ZP_VERSION_PATCH);
    assert_string_equal(zp_version(), text);
}

static void
test_fail_keeps_text_and_errno(void **state)
{
    (void)state;
    errno = EXDEV;
    assert_int_equal(zp__fail(ZP_ENOKEY, "no key \"%s\"", "a"), ZP_ENOKEY);
    assert_string_equal(zp__fail_text(), "no key \"a\"");
    assert_int_equal(zp__fail_errno(ENOENT, "open %s", "/x"), -ENOENT);
    assert_string_equal(zp__fail_text(), "open /x: No such file or directory");
    zp_strerror(-ENOENT);
    assert_int_equal(errno, EXDEV);
}

static void
test_a_text_may_wrap_the_one_before(void **state)
{
    (void)state;
    zp__fail(-EIO, "inner");
    zp__fail(-EIO, "outer: %s", zp__fail_text());
    assert_string_equal(zp__fail_text(), "outer: inner");
}

static void
test_a_code_without_text_gets_one(void **state)
{
    (void)state;
    zp__fail(-EIO, "the disk of %s", "x");
    assert_int_equal(zp__fail_code(-EIO), -EIO);
    assert_string_equal(zp__fail_text(), "the disk of x");
    assert_int_equal(zp__fail_code(ZP_EGONE), ZP_EGONE);
    assert_string_equal(zp__fail_text(), zp_strerror(ZP_EGONE));
    assert_int_equal(zp__fail_code(0), 0);
    assert_string_equal(zp__fail_text(), zp_strerror(ZP_EGONE));
}

static void
test_long_texts_are_cut(void **state)
{
    char key[2 * ZP__ERROR_MAX];
    (void)state;
    memset(key, 'k', sizeof(key) - 1);
    key[sizeof(key) - 1] = 0;
    zp__fail_errno(ENOENT, "%s", key);
    assert_int_equal(strlen(zp__fail_text()), ZP__ERROR_MAX - 1);
    /* Two-byte characters, of which the last one would be cut in half. */
    for (size_t i = 0; i + 1 < sizeof(key) - 1; i += 2)
        memcpy(key + i, "\xc3\xa9", 2);
    key[sizeof(key) - 1] = 0;
    zp__fail(-EIO, "%s", key);
    size_t length = strlen(zp__fail_text());
    assert_in_range(length, ZP__ERROR_MAX - 4, ZP__ERROR_MAX - 1);
    assert_int_equal(length % 2, 0);
}

static void
test_a_text_is_one_line(void **state)
{
    (void)state;
    zp__fail(-EIO, "key %s", "a\nb\x7f\x1b[m\xc3\xa9");
    assert_string_equal(zp__fail_text(), "key a?b??[m\xc3\xa9");
}

static void *
fail_elsewhere(void *user)
{
    *(bool *)user = zp__fail_text()[0] == 0;
    zp__fail(-EIO, "another thread's");
    return NULL;
}

static void
test_texts_belong_to_their_thread(void **state)
{
    pthread_t thread;
    bool empty = false;
    (void)state;
    zp__fail(-EIO, "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &empty), 0);
    pthread_join(thread, NULL);
    assert_true(empty);
    assert_string_equal(zp__fail_text(), "mine");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_every_code_has_its_own_text),
        ZP_TEST(test_errno_and_unknown_codes),
        ZP_TEST(test_version),
        ZP_TEST(test_fail_keeps_text_and_errno),
        ZP_TEST(test_a_text_may_wrap_the_one_before),
        ZP_TEST(test_a_code_without_text_gets_one),
        ZP_TEST(test_long_texts_are_cut),
        ZP_TEST(test_a_text_is_one_line),
        ZP_TEST(test_texts_belong_to_their_thread),
    };
    return zp_test_main("error", tests, sizeof(tests) / sizeof(tests[0]), 30);
}
