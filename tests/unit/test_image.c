/*
 * test_image.c - images as bytes: which formats and images are let in, plain
 * values in and out, canonical numbers, appending, the text form.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/image.h"

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* ------------------------------------------------- images, by hand -- */

/* An image being written: a head, then data piece by piece. */
struct build {
    unsigned char bytes[4096];
    size_t size;
};

static void
raw(struct build *b, const void *data, size_t size)
{
    assert_true(b->size + size <= sizeof(b->bytes));
    memcpy(b->bytes + b->size, data, size);
    b->size += size;
    uint32_t whole = (uint32_t)b->size;
    memcpy(b->bytes + 4, &whole, 4);
}

static void
begin(struct build *b, const char *format)
{
    memset(b, 0, sizeof(*b));
    memcpy(b->bytes, "tpl", 4);
    b->bytes[3] = strchr(format, 's') ? 2 : 0;
    b->size = 8;
    raw(b, format, strlen(format) + 1);
}

static void
u8(struct build *b, unsigned value)
{
    uint8_t n = (uint8_t)value;
    raw(b, &n, 1);
}

static void
u16(struct build *b, unsigned value)
{
    uint16_t n = (uint16_t)value;
    raw(b, &n, 2);
}

static void
u32(struct build *b, uint32_t value)
{
    raw(b, &value, 4);
}

static void
u64(struct build *b, uint64_t value)
{
    raw(b, &value, 8);
}

static void
f64(struct build *b, double value)
{
    raw(b, &value, 8);
}

static void
str(struct build *b, const char *value)
{
    u32(b, (uint32_t)strlen(value) + 1);
    raw(b, value, strlen(value));
}

/* The check, on a block of exactly that size: a sanitizer or valgrind sees
 * what is read behind it. */
static int
check(const void *image, size_t size)
{
    void *exact = malloc(size ? size : 1);
    assert_non_null(exact);
    memcpy(exact, image, size);
    int rc = zp__image_check(exact, size);
    free(exact);
    return rc;
}

static int
check_built(const struct build *b)
{
    return check(b->bytes, b->size);
}

static const char *
text_of(const struct build *b)
{
    static char text[4096];
    assert_int_equal(check_built(b), 0);
    int length = zp__image_text(b->bytes, b->size, text, sizeof(text));
    assert_int_equal(length, strlen(text));
    return text;
}

/* A little of everything. */
static void
build_rich(struct build *b)
{
    begin(b, "iS(sc$(jf)i#)#A(BA(sU))i##");
    u32(b, 2); /* i# */
    u32(b, 2); /* S()# */
    u32(b, 1); /* i## */
    u32(b, 3);
    u32(b, 7);
    for (int i = 0; i < 2; i++) {
        str(b, i ? "" : "one");
        u8(b, 5);
        u16(b, 6);
        f64(b, 0.25);
        u32(b, 1);
        u32(b, 2);
    }
    u32(b, 2);
    for (int i = 0; i < 2; i++) {
        u32(b, 3);
        raw(b, "a\0b", 3);
        u32(b, (uint32_t)i);
        for (int j = 0; j < i; j++) {
            u32(b, 0); /* a NULL string */
            u64(b, 9);
        }
    }
    u32(b, 10);
    u32(b, 11);
    u32(b, 12);
}

/* ----------------------------------------------------------- formats -- */

static void
test_formats_that_are(void **state)
{
    static const struct {
        const char *format;
        int pounds, arrays;
    } good[] = {
        {"", 0, 0},
        {"c", 0, 0},
        {"cjviuIUfsB", 0, 0},
        {"i#", 1, 0},
        {"s#i##########", 11, 0},
        {"A(i)", 0, 1},
        {"A(A(A(B)))A(s#)", 1, 4},
        {"S(i)", 0, 0},
        {"S(is)#", 1, 0},
        {"S(i#s#)##i", 4, 0},
        {"S(i$(c$(f)s)j)A(S(ci)#)", 1, 1},
        {"$", -1, 0},
    };
    (void)state;
    for (size_t i = 0; good[i].pounds >= 0; i++) {
        int pounds = -1, arrays = -1;
        assert_int_equal(zp__format_check(good[i].format, &pounds, &arrays), 0);
        assert_int_equal(pounds, good[i].pounds);
        assert_int_equal(arrays, good[i].arrays);
        assert_int_equal(zp__format_check(good[i].format, NULL, NULL), 0);
    }
}

static void
test_formats_that_are_not(void **state)
{
    static const char *const bad[] = {
        "x",        "i j",          "(",
        ")",        "(i)",          "i)",
        "A",        "AA(i)",        "A(",
        "A(i",      "A()",          "A(i))",
        "S",        "S()",          "S(i",
        "Si",       "S(S(i))",      "S(A(i))",
        "S(B)",     "$(i)",         "A($(i))",
        "S($)",     "S($())",       "S(i$(i)#)",
        "#",        "#i",           "B#",
        "A(i)#",    "A(#)",         "S#(i)",
        "iS#(i)",   "iA#(i)",       "S(#i)",
        "iA(#i)",   "i###########", "S(i)###########",
        "A(i)$(i)", "i\x80",        "A((i))",
        "S((i))",
    };
    (void)state;
    for (size_t i = 0; i < LENGTH(bad); i++) {
        int pounds = -1, arrays = -1;
        if (zp__format_check(bad[i], &pounds, &arrays) != ZP_EFORMAT)
            fail_msg("%s passes", bad[i]);
        assert_int_equal(pounds, -1);
        assert_int_equal(arrays, -1);
        assert_non_null(strstr(zp__fail_text(), "here"));
    }
    assert_int_equal(zp__format_check(NULL, NULL, NULL), ZP_EFORMAT);
    zp__format_check("iiA(i", NULL, NULL);
    assert_string_equal(zp__fail_text(),
                        "format \"iiA(i\" >here> \"\": a ) is missing");
}

/* N times OPEN, an i, N times ")". */
static const char *
nested(const char *open, int n)
{
    static char format[8 * ZP__FORMAT_MAX];
    format[0] = 0;
    for (int i = 0; i < n; i++)
        strcat(format, open);
    strcat(format, "i");
    for (int i = 0; i < n; i++)
        strcat(format, ")");
    return format;
}

static void
test_formats_that_are_large(void **state)
{
    char format[ZP__FORMAT_MAX + 3] = "";
    (void)state;
    assert_int_equal(zp__format_check(nested("A(", ZP__NEST_MAX), NULL, NULL),
                     0);
    assert_int_equal(
        zp__format_check(nested("A(", ZP__NEST_MAX + 1), NULL, NULL),
        ZP_EFORMAT);
    memset(format, 'i', ZP__FORMAT_MAX);
    assert_int_equal(zp__format_check(format, NULL, NULL), 0);
    format[ZP__FORMAT_MAX] = 'i';
    assert_int_equal(zp__format_check(format, NULL, NULL), ZP_EFORMAT);
    assert_true(strlen(zp__fail_text()) < ZP__ERROR_MAX);
}

/* --------------------------------------------------------- the check -- */

static void
test_whole_images_pass(void **state)
{
    struct build b;
    (void)state;
    build_rich(&b);
    assert_int_equal(check_built(&b), 0);
    begin(&b, "");
    assert_int_equal(check_built(&b), 0);
    begin(&b, "A(A(i))");
    u32(&b, 2);
    u32(&b, 0);
    u32(&b, 1);
    u32(&b, 9);
    assert_int_equal(check_built(&b), 0);
}

static void
test_every_cut_is_refused(void **state)
{
    struct build b;
    (void)state;
    build_rich(&b);
    for (uint32_t size = 0; size < b.size; size++) {
        /* Cut, and cut with a size that says so. */
        assert_int_equal(check(b.bytes, size), ZP_EVALUE);
        if (size < 8)
            continue;
        struct build cut = b;
        memcpy(cut.bytes + 4, &size, 4);
        assert_int_equal(check(cut.bytes, size), ZP_EVALUE);
    }
    u8(&b, 0);
    assert_int_equal(check_built(&b), ZP_EVALUE);
    assert_non_null(strstr(zp__fail_text(), "behind its end"));
}

/* Whatever one byte becomes: refused, or as safe to read as any. */
static void
test_every_changed_byte_is_safe(void **state)
{
    static const unsigned char values[] = {0,    1,    2,    0x23, 0x28,
                                           0x73, 0x7f, 0x80, 0xff};
    char text[4096];
    struct build b;
    size_t passed = 0;
    (void)state;
    build_rich(&b);
    for (size_t at = 0; at < b.size; at++)
        for (size_t v = 0; v < LENGTH(values); v++) {
            struct build changed = b;
            changed.bytes[at] = values[v];
            if (check_built(&changed) < 0)
                continue;
            passed++;
            unsigned char *exact = malloc(b.size);
            assert_non_null(exact);
            memcpy(exact, changed.bytes, b.size);
            zp__image_text(exact, b.size, text, sizeof(text));
            free(exact);
        }
    assert_true(passed > 100); /* those in numbers and texts */
}

static void
refused(const struct build *b, const char *why)
{
    assert_int_equal(check_built(b), ZP_EVALUE);
    if (!strstr(zp__fail_text(), why))
        fail_msg("refused, but for: %s", zp__fail_text());
}

static void
test_heads_that_lie(void **state)
{
    struct build b;
    (void)state;
    begin(&b, "i");
    u32(&b, 1);
    b.bytes[2] = 'L';
    refused(&b, "does not begin with tpl");
    b.bytes[2] = 'l';
    for (unsigned flags = 1; flags < 256; flags++) {
        b.bytes[3] = (unsigned char)flags;
        refused(&b, "flags");
    }
    b.bytes[3] = 0;
    b.bytes[4]++;
    refused(&b, "size");
    begin(&b, "s");
    str(&b, "x");
    b.bytes[3] = 0; /* tpl 1.2 */
    refused(&b, "flags");
    begin(&b, "i");
    memset(b.bytes + 8, 'i', 100);
    b.size = 8;
    raw(&b, b.bytes + 8, 100);
    refused(&b, "no end");
    begin(&b, "i#)");
    u32(&b, 1);
    u32(&b, 1);
    refused(&b, "nothing is open");
    assert_int_equal(zp__image_check(NULL, 20), ZP_EVALUE);
}

static void
test_lengths_that_lie(void **state)
{
    struct build b;
    (void)state;
    begin(&b, "A(i)");
    u32(&b, 0x80000001);
    refused(&b, "more elements than bytes");
    begin(&b, "A(i)");
    u32(&b, 2);
    u32(&b, 1);
    refused(&b, "more elements than bytes at byte 13 of 21");
    begin(&b, "i#");
    u32(&b, 0);
    refused(&b, "below 1");
    begin(&b, "i#");
    u32(&b, 0xffffffff);
    refused(&b, "below 1");
    begin(&b, "i##");
    u32(&b, 0x10000);
    u32(&b, 0x10000);
    refused(&b, "beyond any image");
    begin(&b, "i#");
    u32(&b, 2);
    u32(&b, 7);
    refused(&b, "cut off");
    begin(&b, "S(i)#s"); /* and the string is read behind the end */
    u32(&b, 1000);
    u32(&b, 7);
    refused(&b, "cut off");
    begin(&b, "i##########");
    u32(&b, 1);
    refused(&b, "fixed lengths are cut off");
    begin(&b, "sB");
    u32(&b, 0xffffffff);
    refused(&b, "longer than the image");
    begin(&b, "Bi");
    u32(&b, 0xfffffffc);
    refused(&b, "longer than the image");
    begin(&b, "si");
    u32(&b, 4);
    raw(&b, "a\0b", 3);
    u32(&b, 0);
    refused(&b, "NUL");
}

/* Nothing inside the array, but tpl would multiply for it. */
static void
test_elements_that_cannot_be(void **state)
{
    struct build b;
    (void)state;
    begin(&b, "A(S(i#)#)");
    u32(&b, 1 << 20);
    u32(&b, 1 << 20);
    u32(&b, 0);
    refused(&b, "beyond any image");
    begin(&b, "A(S(i#)#)");
    u32(&b, 1 << 10);
    u32(&b, 1 << 10);
    u32(&b, 0);
    assert_int_equal(check_built(&b), 0);
}

static void
test_lone_forms_are_stricter(void **state)
{
    struct build b;
    (void)state;
    begin(&b, "c");
    u8(&b, 2);
    refused(&b, "bool");
    begin(&b, "s");
    u32(&b, 0);
    refused(&b, "NULL");
    begin(&b, "");
    u8(&b, 0);
    refused(&b, "behind its end");
}

static void
test_the_largest_image(void **state)
{
    (void)state;
    size_t data = ZP__IMAGE_MAX - zp__image_bytes_size(0);
    unsigned char *image = calloc(1, ZP__IMAGE_MAX + 1);
    unsigned char *bytes = calloc(1, data + 1);
    assert_true(image && bytes);
    assert_int_equal(zp__image_bytes_size(data), ZP__IMAGE_MAX);
    zp__image_bytes(image, bytes, data);
    assert_int_equal(zp__image_check(image, ZP__IMAGE_MAX), 0);
    zp__image_bytes(image, bytes, data + 1);
    assert_int_equal(zp__image_check(image, ZP__IMAGE_MAX + 1), -EMSGSIZE);
    free(image);
    free(bytes);
}

/* The slowest images of 16 MiB that there are: each step takes one byte. */
static void
test_time_is_linear(void **state)
{
    static const char *const formats[] = {"A(c)", "A(S(c)#)", "A(A(c))"};
    size_t size = (size_t)16 << 20;
    (void)state;
    for (size_t i = 0; i < LENGTH(formats); i++) {
        struct build b;
        begin(&b, formats[i]);
        if (strchr(formats[i], '#'))
            u32(&b, 1);
        size_t element = i == 2 ? 4 : 1;
        uint32_t whole = (uint32_t)size;
        uint32_t count = (uint32_t)((size - b.size - 4) / element);
        whole = (uint32_t)(b.size + 4 + count * element);
        unsigned char *image = calloc(1, whole);
        assert_non_null(image);
        memcpy(image, b.bytes, b.size);
        memcpy(image + 4, &whole, 4);
        memcpy(image + b.size, &count, 4);
        double start = zp_test_now();
        assert_int_equal(zp__image_check(image, whole), 0);
        assert_true(zp_test_now() - start < 5 * zp_test_slow());
        free(image);
    }
}

/* The shipped images that break a naive use of tpl; the first byte of each is
 * not part of the image. */
static void
test_known_crashers(void **state)
{
    static const char *const names[] = {
        "tests/fuzz/corpus/image/crasher-count",
        "tests/fuzz/corpus/image/crasher-struct",
    };
    (void)state;
    for (size_t i = 0; i < LENGTH(names); i++) {
        unsigned char bytes[256];
        FILE *file = fopen(zp_test_source(names[i]), "rb");
        assert_non_null(file);
        size_t size = fread(bytes, 1, sizeof(bytes), file);
        fclose(file);
        assert_true(size > 40);
        assert_int_equal(check(bytes, size), ZP_EVALUE);
    }
}

/* ------------------------------------------------------------- plain -- */

static void
test_plain_values_in_and_out(void **state)
{
    unsigned char image[ZP__PLAIN_MAX];
    bool truth;
    int64_t number;
    uint64_t natural;
    double real;
    (void)state;

    size_t size = zp__image_none(image);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_type(image, size), ZP_NONE);
    assert_string_equal(zp__image_format(image, size), "");
    assert_int_equal(zp__image_data(image, size), size);

    size = zp__image_bool(image, true);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_type(image, size), ZP_BOOL);
    assert_int_equal(zp__image_get_bool(image, size, &truth), 0);
    assert_true(truth);

    size = zp__image_int(image, INT64_MIN);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_type(image, size), ZP_INT);
    assert_string_equal(zp__image_format(image, size), "I");
    assert_int_equal(zp__image_get_int(image, size, &number), 0);
    assert_true(number == INT64_MIN);
    assert_int_equal(zp__image_get_uint(image, size, &natural), -ERANGE);

    size = zp__image_uint(image, UINT64_MAX);
    assert_int_equal(check(image, size), 0);
    assert_string_equal(zp__image_format(image, size), "U");
    assert_int_equal(zp__image_get_uint(image, size, &natural), 0);
    assert_true(natural == UINT64_MAX);
    assert_int_equal(zp__image_get_int(image, size, &number), -ERANGE);
    size = zp__image_uint(image, INT64_MAX);
    assert_string_equal(zp__image_format(image, size), "I");

    size = zp__image_double(image, 0.1);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_type(image, size), ZP_DOUBLE);
    assert_int_equal(zp__image_get_double(image, size, &real), 0);
    assert_true(real == 0.1);
    assert_true(size <= ZP__PLAIN_MAX);
}

static void
test_strings_and_bytes(void **state)
{
    unsigned char image[64];
    const char *text;
    const void *data;
    size_t length, size = zp__image_string_size(5);
    (void)state;
    zp__image_string(image, "hello", 5);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_type(image, size), ZP_STRING);
    assert_int_equal(zp__image_get_string(image, size, &text, &length), 0);
    assert_int_equal(length, 5);
    assert_memory_equal(text, "hello", 5);
    assert_int_equal(zp__image_get_bytes(image, size, &data, &length),
                     ZP_ETYPE);
    assert_string_equal(zp__fail_text(), "a string is stored, bytes was asked");

    size = zp__image_bytes_size(3);
    zp__image_bytes(image, "\0\1\2", 3);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_type(image, size), ZP_BYTES);
    assert_int_equal(zp__image_get_bytes(image, size, &data, &length), 0);
    assert_int_equal(length, 3);
    assert_memory_equal(data, "\0\1\2", 3);

    zp__image_string(image, "", 0);
    size = zp__image_string_size(0);
    assert_int_equal(check(image, size), 0);
    assert_int_equal(zp__image_get_string(image, size, &text, &length), 0);
    assert_int_equal(length, 0);
    zp__image_bytes(image, NULL, 0);
    assert_int_equal(check(image, zp__image_bytes_size(0)), 0);
}

static void
test_readers_leave_outputs_alone(void **state)
{
    unsigned char image[ZP__PLAIN_MAX];
    bool truth = true;
    int64_t number = 7;
    uint64_t natural = 7;
    double real = 7;
    const char *text = "7";
    size_t length = 7, size = zp__image_none(image);
    (void)state;
    assert_int_equal(zp__image_get_bool(image, size, &truth), ZP_ETYPE);
    assert_int_equal(zp__image_get_int(image, size, &number), ZP_ETYPE);
    assert_string_equal(zp__fail_text(), "none is stored, an int was asked");
    assert_int_equal(zp__image_get_uint(image, size, &natural), ZP_ETYPE);
    assert_int_equal(zp__image_get_double(image, size, &real), ZP_ETYPE);
    assert_int_equal(zp__image_get_string(image, size, &text, &length),
                     ZP_ETYPE);
    size = zp__image_uint(image, UINT64_MAX);
    assert_int_equal(zp__image_get_int(image, size, &number), -ERANGE);
    assert_true(truth && number == 7 && natural == 7 && real == 7);
    assert_true(length == 7 && strcmp(text, "7") == 0);
}

static void
test_ints_of_any_width(void **state)
{
    static const struct {
        int64_t value;
        const char *fits;
    } rows[] = {
        {0, "cjviuIU"},      {255, "cjviuIU"},    {256, "jviuIU"},
        {-1, "jiI"},         {-32768, "jiI"},     {-32769, "iI"},
        {32767, "jviuIU"},   {32768, "viuIU"},    {65536, "iuIU"},
        {INT32_MAX, "iuIU"}, {2147483648, "uIU"}, {4294967296, "IU"},
        {INT32_MIN, "iI"},   {-2147483649, "I"},  {INT64_MAX, "IU"},
        {INT64_MIN, "I"},
    };
    (void)state;
    for (size_t i = 0; i < LENGTH(rows); i++)
        for (const char *c = "cjviuIU"; *c; c++) {
            unsigned char image[ZP__PLAIN_MAX];
            uint64_t out = 0x5555555555555555;
            size_t size = zp__image_int(image, rows[i].value);
            int rc = zp__image_get_as(image, size, *c, &out);
            assert_int_equal(rc, strchr(rows[i].fits, *c) ? 0 : -ERANGE);
            if (rc < 0)
                assert_true(out == 0x5555555555555555);
        }
}

/* ---------------------------------------------------------- canonical -- */

/* What is built becomes canonical: as EXPECTED. */
static void
becomes(const struct build *b, const void *expected, size_t size)
{
    unsigned char image[64];
    assert_int_equal(check_built(b), 0);
    memcpy(image, b->bytes, b->size);
    assert_int_equal(zp__image_canonical(image, b->size), size);
    assert_memory_equal(image, expected, size);
    assert_int_equal(check(image, size), 0);
}

static void
test_numbers_become_canonical(void **state)
{
    unsigned char wanted[ZP__PLAIN_MAX];
    struct build b;
    (void)state;
    begin(&b, "j");
    u16(&b, 0xfffe);
    becomes(&b, wanted, zp__image_int(wanted, -2));
    begin(&b, "v");
    u16(&b, 0xfffe);
    becomes(&b, wanted, zp__image_int(wanted, 65534));
    begin(&b, "i");
    u32(&b, 0xfffffffe);
    becomes(&b, wanted, zp__image_int(wanted, -2));
    begin(&b, "u");
    u32(&b, 0xfffffffe);
    becomes(&b, wanted, zp__image_int(wanted, 4294967294));
    begin(&b, "U");
    u64(&b, 5);
    becomes(&b, wanted, zp__image_int(wanted, 5));
    begin(&b, "U");
    u64(&b, UINT64_MAX);
    becomes(&b, wanted, zp__image_uint(wanted, UINT64_MAX));
    begin(&b, "f");
    f64(&b, -0.0);
    becomes(&b, wanted, zp__image_double(wanted, 0.0));
    begin(&b, "f");
    u64(&b, 0xfff8000000000123);
    becomes(&b, wanted, zp__image_double(wanted, (double)NAN));
    begin(&b, "f");
    f64(&b, -INFINITY);
    becomes(&b, wanted, zp__image_double(wanted, -INFINITY));
    begin(&b, "c");
    u8(&b, 1);
    becomes(&b, wanted, zp__image_bool(wanted, true));
    begin(&b, "ij");
    u32(&b, 1);
    u16(&b, 1);
    becomes(&b, b.bytes, b.size);
}

/* ------------------------------------------------------------ append -- */

static void
appended(const struct build *image, const void *element, size_t element_size,
         const struct build *expected)
{
    void *result = NULL;
    size_t size = 0;
    assert_int_equal(zp__image_append(&result, &size, image->bytes, image->size,
                                      element, element_size, ZP__IMAGE_MAX),
                     0);
    assert_int_equal(size, expected->size);
    assert_memory_equal(result, expected->bytes, size);
    assert_int_equal(check(result, size), 0);
    free(result);
}

static void
test_append_text(void **state)
{
    struct build a, b, c;
    (void)state;
    begin(&a, "s");
    str(&a, "ab");
    begin(&b, "s");
    str(&b, "cde");
    begin(&c, "s");
    str(&c, "abcde");
    appended(&a, b.bytes, b.size, &c);
    begin(&b, "s");
    str(&b, "");
    appended(&a, b.bytes, b.size, &a);
    begin(&a, "B");
    u32(&a, 0);
    begin(&b, "B");
    u32(&b, 2);
    raw(&b, "\0x", 2);
    appended(&a, b.bytes, b.size, &b);
}

static void
test_append_numbers_of_the_arrays_width(void **state)
{
    unsigned char element[ZP__PLAIN_MAX];
    struct build a, b;
    void *result = NULL;
    size_t size = 0;
    (void)state;
    begin(&a, "A(j)");
    u32(&a, 1);
    u16(&a, 5);
    b = a;
    memcpy(b.bytes + 13, &(uint32_t){2}, 4);
    u16(&b, 0xffff);
    appended(&a, element, zp__image_int(element, -1), &b);
    assert_int_equal(zp__image_append(&result, &size, a.bytes, a.size, element,
                                      zp__image_int(element, 32768),
                                      ZP__IMAGE_MAX),
                     -ERANGE);
    begin(&a, "A(f)");
    u32(&a, 0);
    begin(&b, "A(f)");
    u32(&b, 1);
    f64(&b, 0.5);
    appended(&a, element, zp__image_double(element, 0.5), &b);
    assert_null(result);
}

static void
test_append_composites(void **state)
{
    struct build a, b, x;
    (void)state;
    begin(&a, "A(S(is)#)");
    u32(&a, 2);
    u32(&a, 0);
    begin(&x, "S(is)#");
    u32(&x, 2);
    for (int i = 0; i < 2; i++) {
        u32(&x, 7);
        str(&x, "q");
    }
    begin(&b, "A(S(is)#)");
    u32(&b, 2);
    u32(&b, 1);
    for (int i = 0; i < 2; i++) {
        u32(&b, 7);
        str(&b, "q");
    }
    appended(&a, x.bytes, x.size, &b);
}

static void
test_append_refuses(void **state)
{
    unsigned char element[64];
    struct build a;
    void *result = NULL;
    size_t size = 0;
    (void)state;
    begin(&a, "A(i)A(i)");
    u32(&a, 0);
    u32(&a, 0);
    assert_int_equal(zp__image_append(&result, &size, a.bytes, a.size, element,
                                      zp__image_int(element, 1), ZP__IMAGE_MAX),
                     ZP_ETYPE);
    begin(&a, "A(c)");
    u32(&a, 0);
    assert_int_equal(zp__image_append(&result, &size, a.bytes, a.size, element,
                                      zp__image_bool(element, true),
                                      ZP__IMAGE_MAX),
                     ZP_ETYPE);
    assert_int_equal(zp__image_append(&result, &size, a.bytes, a.size, element,
                                      zp__image_none(element), ZP__IMAGE_MAX),
                     ZP_ETYPE);
    assert_string_equal(zp__fail_text(),
                        "a composite of format A(c) is stored: none cannot "
                        "be appended");
    size_t own = zp__image_int(element, 1);
    assert_int_equal(zp__image_append(&result, &size, element, own, element,
                                      own, ZP__IMAGE_MAX),
                     ZP_ETYPE);
    struct build one = a, other;
    begin(&one, "A(i#)");
    u32(&one, 2);
    u32(&one, 0);
    begin(&other, "i#");
    u32(&other, 3);
    u64(&other, 0);
    u32(&other, 0);
    assert_int_equal(zp__image_append(&result, &size, one.bytes, one.size,
                                      other.bytes, other.size, ZP__IMAGE_MAX),
                     ZP_ETYPE);
    begin(&a, "s");
    str(&a, "0123456789");
    assert_int_equal(zp__image_append(&result, &size, a.bytes, a.size, a.bytes,
                                      a.size, a.size + 9),
                     -EMSGSIZE);
    assert_null(result);
    assert_int_equal(zp__image_append(&result, &size, a.bytes, a.size, a.bytes,
                                      a.size, a.size + 10),
                     0);
    free(result);
}

/* -------------------------------------------------------------- text -- */

static const char *
plain_text(const void *image, size_t size)
{
    static char text[256];
    int length = zp__image_text(image, size, text, sizeof(text));
    assert_int_equal(length, strlen(text));
    return text;
}

static const char *
double_text(double value)
{
    unsigned char image[ZP__PLAIN_MAX];
    return plain_text(image, zp__image_double(image, value));
}

static void
test_text_of_numbers(void **state)
{
    unsigned char image[ZP__PLAIN_MAX];
    (void)state;
    assert_string_equal(plain_text(image, zp__image_none(image)), "none");
    assert_string_equal(plain_text(image, zp__image_bool(image, 0)), "false");
    assert_string_equal(plain_text(image, zp__image_bool(image, 1)), "true");
    assert_string_equal(plain_text(image, zp__image_int(image, 42)), "42");
    assert_string_equal(plain_text(image, zp__image_int(image, INT64_MIN)),
                        "-9223372036854775808");
    assert_string_equal(plain_text(image, zp__image_uint(image, UINT64_MAX)),
                        "18446744073709551615");
    assert_string_equal(double_text(0.5), "0.5");
    assert_string_equal(double_text(0.1), "0.1");
    assert_string_equal(double_text(2), "2.0");
    assert_string_equal(double_text(-1e300), "-1e+300");
    assert_string_equal(double_text(1.0 / 3), "0.3333333333333333");
    assert_string_equal(double_text((double)NAN), "nan");
    assert_string_equal(double_text(INFINITY), "inf");
    assert_string_equal(double_text(-INFINITY), "-inf");
    assert_true(strtod(double_text(DBL_MAX), NULL) == DBL_MAX);
    assert_true(strtod(double_text(DBL_TRUE_MIN), NULL) == DBL_TRUE_MIN);
}

static void
test_text_in_a_locale_with_commas(void **state)
{
    (void)state;
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") &&
        !setlocale(LC_NUMERIC, "fr_FR.UTF-8"))
        skip();
    assert_string_equal(double_text(1.5), "1.5");
    assert_string_equal(double_text(1.25e-300), "1.25e-300");
    setlocale(LC_NUMERIC, "C");
}

static void
test_text_of_strings(void **state)
{
    unsigned char image[256];
    const char *odd = "a\"\\\n\t\r\x01\x7f\xc3\xa9\xff\xc0\x80\xed\xa0\x80";
    (void)state;
    zp__image_string(image, odd, strlen(odd));
    assert_string_equal(
        plain_text(image, zp__image_string_size(strlen(odd))),
        "\"a\\\"\\\\\\n\\t\\r\\x01\\x7f\xc3\xa9\\xff\\xc0\\x80\\xed\\xa0\\x80"
        "\"");
    zp__image_bytes(image, "\0a\xc3\xa9\"", 5);
    assert_string_equal(plain_text(image, zp__image_bytes_size(5)),
                        "b\"\\x00a\\xc3\\xa9\\\"\"");
    /* A character that the string cuts off. */
    zp__image_string(image, "\xe2\x82", 2);
    assert_string_equal(plain_text(image, zp__image_string_size(2)),
                        "\"\\xe2\\x82\"");
}

static void
test_text_of_composites(void **state)
{
    struct build b;
    (void)state;
    begin(&b, "is");
    u32(&b, 1);
    str(&b, "a");
    assert_string_equal(text_of(&b), "is(1, \"a\")");
    begin(&b, "A(i)");
    u32(&b, 3);
    u32(&b, 1);
    u32(&b, 2);
    u32(&b, 3);
    assert_string_equal(text_of(&b), "A(i)[1, 2, 3]");
    begin(&b, "A(i)");
    u32(&b, 0);
    assert_string_equal(text_of(&b), "A(i)[]");
    begin(&b, "S(is)#");
    u32(&b, 2);
    u32(&b, 1);
    str(&b, "a");
    u32(&b, 2);
    u32(&b, 0);
    assert_string_equal(text_of(&b), "S(is)#(2)[(1, \"a\"), (2, NULL)]");
    begin(&b, "S(i)");
    u32(&b, 1);
    assert_string_equal(text_of(&b), "S(i)(1)");
    begin(&b, "s#");
    u32(&b, 2);
    str(&b, "a");
    str(&b, "b");
    assert_string_equal(text_of(&b), "s#(2)[\"a\", \"b\"]");
    begin(&b, "cA(A(j))A(vc#)");
    u32(&b, 2);
    u8(&b, 200);
    u32(&b, 2);
    u32(&b, 0);
    u32(&b, 1);
    u16(&b, 0xffff);
    u32(&b, 1);
    u16(&b, 0xffff);
    u8(&b, 1);
    u8(&b, 2);
    assert_string_equal(text_of(&b), "cA(A(j))A(vc#(2))(200, [[], [-1]], "
                                     "[(65535, [1, 2])])");
    build_rich(&b);
    assert_string_equal(
        text_of(&b),
        "iS(sc$(jf)i#(2))#(2)A(BA(sU))i#(1)#(3)(7, "
        "[(\"one\", 5, 6, 0.25, [1, 2]), (\"\", 5, 6, 0.25, [1, 2])], "
        "[(b\"a\\x00b\", []), (b\"a\\x00b\", [(NULL, 9)])], [10, 11, 12])");
}

static void
test_text_is_cut(void **state)
{
    unsigned char image[64];
    char text[32];
    (void)state;
    zp__image_string(image, "abcdefgh", 8);
    size_t size = zp__image_string_size(8);
    memset(text, 'x', sizeof(text));
    assert_int_equal(zp__image_text(image, size, text, 11), 10);
    assert_string_equal(text, "\"abcdefgh\"");
    assert_int_equal(zp__image_text(image, size, text, 10), 10);
    assert_string_equal(text, "\"abcde...");
    assert_int_equal(zp__image_text(image, size, text, 4), 10);
    assert_string_equal(text, "...");
    assert_int_equal(zp__image_text(image, size, text, 2), 10);
    assert_string_equal(text, ".");
    assert_int_equal(zp__image_text(image, size, text, 1), 10);
    assert_string_equal(text, "");
    assert_int_equal(zp__image_text(image, size, NULL, 0), 10);
    text[0] = 'x';
    assert_int_equal(zp__image_text(image, size, text, 0), 10);
    assert_true(text[0] == 'x');
    /* No half of a character stays in front of the dots. */
    zp__image_string(image, "ab\xe2\x82\xac\xe2\x82\xac", 8);
    assert_int_equal(zp__image_text(image, size, text, 8), 10);
    assert_string_equal(text, "\"ab...");
}

static void
test_what_it_is(void **state)
{
    unsigned char image[64];
    struct build b;
    char text[64];
    (void)state;
    assert_string_equal(
        zp__image_what(image, zp__image_none(image), text, sizeof(text)),
        "none");
    assert_string_equal(
        zp__image_what(image, zp__image_uint(image, 1), text, sizeof(text)),
        "an int");
    assert_string_equal(
        zp__image_what(image, zp__image_double(image, 1), text, sizeof(text)),
        "a double");
    assert_string_equal(
        zp__image_what(image, zp__image_bool(image, 1), text, sizeof(text)),
        "a bool");
    begin(&b, "S(is)#");
    u32(&b, 300);
    assert_string_equal(zp__image_what(b.bytes, b.size, text, sizeof(text)),
                        "a composite of format S(is)#(300)");
    assert_string_equal(zp__image_what(b.bytes, b.size, text, 12),
                        "a compos...");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_formats_that_are),
        ZP_TEST(test_formats_that_are_not),
        ZP_TEST(test_formats_that_are_large),
        ZP_TEST(test_whole_images_pass),
        ZP_TEST(test_every_cut_is_refused),
        ZP_TEST(test_every_changed_byte_is_safe),
        ZP_TEST(test_heads_that_lie),
        ZP_TEST(test_lengths_that_lie),
        ZP_TEST(test_elements_that_cannot_be),
        ZP_TEST(test_lone_forms_are_stricter),
        ZP_TEST(test_the_largest_image),
        ZP_TEST(test_time_is_linear),
        ZP_TEST(test_known_crashers),
        ZP_TEST(test_plain_values_in_and_out),
        ZP_TEST(test_strings_and_bytes),
        ZP_TEST(test_readers_leave_outputs_alone),
        ZP_TEST(test_ints_of_any_width),
        ZP_TEST(test_numbers_become_canonical),
        ZP_TEST(test_append_text),
        ZP_TEST(test_append_numbers_of_the_arrays_width),
        ZP_TEST(test_append_composites),
        ZP_TEST(test_append_refuses),
        ZP_TEST(test_text_of_numbers),
        ZP_TEST(test_text_in_a_locale_with_commas),
        ZP_TEST(test_text_of_strings),
        ZP_TEST(test_text_of_composites),
        ZP_TEST(test_text_is_cut),
        ZP_TEST(test_what_it_is),
    };
    return zp_test_main("image", tests, LENGTH(tests), 60);
}
