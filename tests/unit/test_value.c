/*
 * test_value.c - formats and addresses to images and back, zp_value, zp_tpl;
 * and tpl behind its guard: out of memory at each single allocation, hooks of
 * the application's own, what tpl itself gets wrong.
 *
 * The linker wraps malloc and its kin (-Wl,--wrap), for this program and the
 * library in it: each allocation can be made to fail, and what is left over
 * counted.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tpl.h>

#include "core/error.h"
#include "core/value.h"

extern tpl_hook_t tpl_hook;

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define assert_error(text)                                                     \
    do {                                                                       \
        if (!strstr(zp__fail_text(), text))                                    \
            fail_msg("the text is: %s", zp__fail_text());                      \
    } while (0)

/* ------------------------------------------------------------ memory -- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *memory);

static _Thread_local long to_failure; /* 0: none */
static _Thread_local long live;       /* blocks not yet freed */
static _Thread_local size_t asked;    /* bytes, in all */

static bool
fails(void)
{
    if (to_failure > 0 && --to_failure == 0)
        return true;
    live++;
    return false;
}

void *
__wrap_malloc(size_t size)
{
    asked += size;
    return fails() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

char *
__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

void
__wrap_free(void *memory)
{
    live -= memory != NULL;
    __real_free(memory);
}

/* Run FN with its 1st, 2nd, ... allocation failing, until it succeeds: it has
 * to say -ENOMEM, and to leave nothing. Returns how many there are. */
static int
starve(int (*fn)(void *), void *user)
{
    for (int k = 1;; k++) {
        long before = live;
        to_failure = k;
        int rc = fn(user);
        bool reached = to_failure == 0;
        to_failure = 0;
        assert_int_equal(live, before);
        if (!reached) {
            assert_int_equal(rc, 0);
            return k - 1;
        }
        assert_int_equal(rc, -ENOMEM);
        assert_int_not_equal(zp__fail_text()[0], 0);
    }
}

/* ------------------------------------------------- calls with a format -- */

static int
encode(zp__encoded *ret, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int rc = zp__encode(ret, format, ap);
    va_end(ap);
    return rc;
}

static int
decode(const zp__encoded *from, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int rc = zp__decode(from->image, from->size, format, ap);
    va_end(ap);
    return rc;
}

static const char *
text_of(const zp_value *value)
{
    static char text[1024];
    int length = zp_value_text(value, text, sizeof(text));
    assert_int_equal(length, strlen(text));
    return text;
}

/* ------------------------------------------------------------- atoms -- */

static void
test_ints_are_one_type(void **state)
{
    unsigned char c = 200, c2;
    int16_t j = 200, j2;
    uint16_t v = 200, v2;
    int32_t i = 200, i2;
    uint32_t u = 200, u2;
    int64_t I = 200, I2;
    uint64_t U = 200, U2;
    zp_value *value[7];
    (void)state;
    assert_int_equal(zp_value_new(&value[0], "c", &c), 0);
    assert_int_equal(zp_value_new(&value[1], "j", &j), 0);
    assert_int_equal(zp_value_new(&value[2], "v", &v), 0);
    assert_int_equal(zp_value_new(&value[3], "i", &i), 0);
    assert_int_equal(zp_value_new(&value[4], "u", &u), 0);
    assert_int_equal(zp_value_new(&value[5], "I", &I), 0);
    assert_int_equal(zp_value_new(&value[6], "U", &U), 0);
    for (int n = 6; n >= 0; n--) {
        assert_true(zp_value_equal(value[0], value[n]));
        assert_int_equal(zp_value_type(value[n]), ZP_INT);
        c2 = 0, j2 = 0, v2 = 0, i2 = 0, u2 = 0, I2 = 0, U2 = 0;
        assert_int_equal(zp_value_get(value[n], "c", &c2), 0);
        assert_int_equal(zp_value_get(value[n], "j", &j2), 0);
        assert_int_equal(zp_value_get(value[n], "v", &v2), 0);
        assert_int_equal(zp_value_get(value[n], "i", &i2), 0);
        assert_int_equal(zp_value_get(value[n], "u", &u2), 0);
        assert_int_equal(zp_value_get(value[n], "I", &I2), 0);
        assert_int_equal(zp_value_get(value[n], "U", &U2), 0);
        assert_true(c2 == 200 && j2 == 200 && v2 == 200 && i2 == 200 &&
                    u2 == 200 && I2 == 200 && U2 == 200);
        zp_value_free(value[n]);
    }
}

static void
test_ints_that_do_not_fit(void **state)
{
    int32_t i = -1;
    uint64_t U = UINT64_MAX;
    unsigned char c = 9;
    uint16_t v = 9;
    int64_t I = 9;
    zp__encoded e;
    (void)state;
    assert_int_equal(encode(&e, "i", &i), 0);
    assert_int_equal(decode(&e, "c", &c), -ERANGE);
    assert_error("-1 is stored, which does not fit into c");
    assert_int_equal(decode(&e, "v", &v), -ERANGE);
    assert_int_equal(decode(&e, "U", &U), -ERANGE);
    assert_true(c == 9 && v == 9 && U == UINT64_MAX);
    assert_int_equal(encode(&e, "U", &U), 0);
    assert_int_equal(decode(&e, "I", &I), -ERANGE);
    assert_int_equal(decode(&e, "i", &i), -ERANGE);
    assert_true(I == 9 && i == -1);
    U = 0;
    assert_int_equal(decode(&e, "U", &U), 0);
    assert_true(U == UINT64_MAX);
}

static void
test_doubles(void **state)
{
    double zero = 0.0, minus = -0.0, out = 1;
    double nan1 = (double)NAN, nan2 = -(double)NAN;
    zp__encoded a, b;
    (void)state;
    assert_int_equal(encode(&a, "f", &zero), 0);
    assert_int_equal(encode(&b, "f", &minus), 0);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.image, b.image, a.size);
    assert_int_equal(decode(&b, "f", &out), 0);
    assert_false(signbit(out));
    assert_int_equal(encode(&a, "f", &nan1), 0);
    assert_int_equal(encode(&b, "f", &nan2), 0);
    assert_memory_equal(a.image, b.image, a.size);
}

static void
test_strings_and_bytes_are_copies(void **state)
{
    char *text = (char[]){"hello"}, *out = NULL, *null = NULL;
    zp_bin bin = {(char[]){1, 0, 2}, 3}, got = {0};
    zp__encoded e;
    (void)state;
    assert_int_equal(encode(&e, "s", &text), 0);
    text[0] = 'j';
    assert_int_equal(decode(&e, "s", &out), 0);
    assert_string_equal(out, "hello");
    free(out);
    assert_int_equal(encode(&e, "B", &bin), 0);
    assert_int_equal(decode(&e, "B", &got), 0);
    assert_int_equal(got.sz, 3);
    assert_memory_equal(got.addr, "\1\0\2\0", 4); /* and a NUL */
    free(got.addr);
    bin = (zp_bin){NULL, 0};
    assert_int_equal(encode(&e, "B", &bin), 0);
    assert_int_equal(decode(&e, "B", &got), 0);
    assert_int_equal(got.sz, 0);
    assert_non_null(got.addr);
    free(got.addr);
    assert_int_equal(encode(&e, "s", &null), -EINVAL);
    bin.sz = 1;
    assert_int_equal(encode(&e, "B", &bin), -EINVAL);
    assert_int_equal(zp__encode_string(&e, NULL), -EINVAL);
    assert_int_equal(zp__encode_bytes(&e, NULL, 1), -EINVAL);
}

static void
test_long_strings_leave_small(void **state)
{
    char text[300];
    (void)state;
    memset(text, 'x', sizeof(text));
    for (size_t length = 0; length < sizeof(text); length++) {
        zp__encoded e;
        char *out;
        text[length] = 0;
        assert_int_equal(zp__encode_string(&e, text), 0);
        assert_int_equal(zp__image_check(e.image, e.size), 0);
        assert_true((e.heap != NULL) == (e.size > sizeof(e.small)));
        assert_int_equal(zp__decode_string(e.image, e.size, &out), 0);
        assert_string_equal(out, text);
        free(out);
        zp__encoded_free(&e);
        text[length] = 'x';
    }
}

static void
test_over_the_limit(void **state)
{
    zp__encoded e;
    zp_bin bin = {&e, ZP__IMAGE_MAX};
    int i = 1;
    (void)state;
    assert_int_equal(encode(&e, "B", &bin), -EMSGSIZE);
    assert_int_equal(zp__encode_bytes(&e, &e, SIZE_MAX), -EMSGSIZE);
    char *text = malloc(ZP__IMAGE_MAX + 1);
    assert_non_null(text);
    memset(text, 'x', ZP__IMAGE_MAX);
    text[ZP__IMAGE_MAX] = 0;
    assert_int_equal(encode(&e, "s", &text), -EMSGSIZE);
    assert_int_equal(encode(&e, "is", &i, &text), -EMSGSIZE);
    char *many[8] = {text, text, text, text, text, text, text, text};
    asked = 0;
    assert_int_equal(encode(&e, "s#", many, 8), -EMSGSIZE);
    assert_in_range(asked, 0, 5 * ZP__IMAGE_MAX); /* not a copy of each */
    free(text);
}

/* -------------------------------------------------------- composites -- */

struct item {
    char c;
    double f;
    char *s;
    int16_t j[3];
};

static void
free_items(struct item *items, int n)
{
    for (int i = 0; i < n; i++)
        free(items[i].s);
}

static void
test_composites_come_back(void **state)
{
    struct item in[2] = {{'a', 0.5, (char *)"one", {1, 2, 3}},
                         {'b', -1, NULL, {4, 5, 6}}};
    struct item out[2] = {0};
    int i = 7, i2 = 0, grid[2][2] = {{1, 2}, {3, 4}}, grid2[2][2] = {{0}};
    zp_bin bin = {(char *)"\0b", 2}, bin2 = {0};
    zp_bin none = {NULL, 0}, none2 = {&none, 9};
    zp__encoded e;
    (void)state;
    const char *format = "iS(cfsj#)#BBi##";
    assert_int_equal(encode(&e, format, &i, in, 3, 2, &bin, &none, grid, 2, 2),
                     0);
    assert_int_equal(zp__image_check(e.image, e.size), 0);
    assert_int_equal(
        decode(&e, format, &i2, out, 3, 2, &bin2, &none2, grid2, 2, 2), 0);
    assert_int_equal(i2, 7);
    assert_memory_equal(grid, grid2, sizeof(grid));
    for (int n = 0; n < 2; n++) {
        assert_int_equal(out[n].c, in[n].c);
        assert_true(out[n].f == in[n].f);
        assert_memory_equal(out[n].j, in[n].j, sizeof(in[n].j));
    }
    assert_string_equal(out[0].s, "one");
    assert_null(out[1].s);
    assert_int_equal(bin2.sz, 2);
    assert_memory_equal(bin2.addr, "\0b\0", 3); /* and a NUL */
    assert_int_equal(none2.sz, 0);
    assert_null(none2.addr);
    free(bin2.addr);
    free_items(out, 2);
    zp__encoded_free(&e);
}

/* Ours and tpl's own, byte for byte. */
#define SAME_AS_TPL(format, ...)                                               \
    do {                                                                       \
        zp__encoded ours;                                                      \
        void *theirs;                                                          \
        size_t size;                                                           \
        assert_int_equal(encode(&ours, format, __VA_ARGS__), 0);               \
        tpl_node *map = tpl_map((char[]){format}, __VA_ARGS__);                \
        assert_non_null(map);                                                  \
        assert_int_equal(tpl_pack(map, 0), 0);                                 \
        assert_int_equal(tpl_dump(map, TPL_MEM, &theirs, &size), 0);           \
        tpl_free(map);                                                         \
        assert_int_equal(ours.size, size);                                     \
        assert_memory_equal(ours.image, theirs, size);                         \
        assert_int_equal(zp__image_check(theirs, size), 0);                    \
        free(theirs);                                                          \
        zp__encoded_free(&ours);                                               \
    } while (0)

static void
test_images_are_those_of_tpl(void **state)
{
    struct item items[2] = {{'a', 0.5, (char *)"one", {1, 2, 3}},
                            {'b', -1, NULL, {4, 5, 6}}};
    int64_t I = 1;
    uint64_t U = UINT64_MAX;
    double f = 0.1;
    char *s = (char *)"text", *null = NULL;
    zp_bin bin = {(char *)"\0\1", 2};
    int i[6] = {1, 2, 3, 4, 5, 6};
    (void)state;
    SAME_AS_TPL("I", &I);
    SAME_AS_TPL("U", &U);
    SAME_AS_TPL("f", &f);
    SAME_AS_TPL("s", &s);
    SAME_AS_TPL("B", &bin);
    SAME_AS_TPL("fs", &f, &null);
    SAME_AS_TPL("BIUB", &bin, &I, &U, &bin);
    SAME_AS_TPL("i##s", i, 2, 3, &s);
    SAME_AS_TPL("S(cfsj#)#", items, 3, 2);
}

/* tpl_free() would free what stands behind the string here. */
static void
test_formats_that_tpl_frees_wrongly(void **state)
{
    struct {
        int32_t i, j;
    } pairs[5] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}}, out[5];
    struct {
        char *s;
    } names[3] = {{(char *)"a"}, {(char *)"b"}, {(char *)"c"}}, names2[3];
    char *s = (char *)"string", *s2;
    zp__encoded e;
    (void)state;
    assert_int_equal(encode(&e, "sS(ii)#", &s, pairs, 5), 0);
    assert_int_equal(decode(&e, "sS(ii)#", &s2, out, 5), 0);
    assert_string_equal(s2, "string");
    assert_memory_equal(pairs, out, sizeof(pairs));
    free(s2);
    zp__encoded_free(&e);
    assert_int_equal(encode(&e, "S(s)#S(ii)#", names, 3, pairs, 5), 0);
    assert_int_equal(decode(&e, "S(s)#S(ii)#", names2, 3, out, 5), 0);
    for (int n = 0; n < 3; n++) {
        assert_string_equal(names2[n].s, names[n].s);
        free(names2[n].s);
    }
    zp__encoded_free(&e);
}

static void
test_inner_structures(void **state)
{
    struct {
        int32_t a;
        struct {
            int32_t b;
            char *s;
        } in;
        char c;
    } out, good = {1, {2, (char *)"x"}, 3};
    struct {
        struct {
            int32_t b;
            char c;
        } in;
        char d;
    } odd = {{1, 2}, 3};
    struct {
        char c;
        struct {
            char c;
            int32_t i;
        } in;
    } odd2[2] = {0};
    struct {
        struct {
            int32_t b;
            char c;
        } in;
        int32_t d;
    } even = {{1, 2}, 3}, even2 = {0};
    zp__encoded e;
    (void)state;
    /* tpl puts b at 4, C at 8; d at 5 instead of 8; and so on. */
    assert_int_equal(encode(&e, "S(i$(is)c)", &good), ZP_EFORMAT);
    assert_error("padding");
    assert_int_equal(encode(&e, "S($(ic)c)", &odd), ZP_EFORMAT);
    assert_int_equal(encode(&e, "S(c$(ci))", odd2), ZP_EFORMAT);
    assert_int_equal(encode(&e, "S($(ic)i)", &even), 0);
    assert_int_equal(decode(&e, "S($(ic)i)", &even2), 0);
    assert_true(even2.in.b == 1 && even2.in.c == 2 && even2.d == 3);
    struct {
        char *t;
        struct {
            int32_t b;
            char *s;
        } in;
    } fits = {(char *)"t", {2, (char *)"x"}}, fits2;
    assert_int_equal(encode(&e, "S(s$(is))", &fits), 0);
    assert_int_equal(decode(&e, "S(s$(is))", &fits2), 0);
    assert_true(fits2.in.b == 2);
    assert_string_equal(fits2.in.s, "x");
    free(fits2.t);
    free(fits2.in.s);
    zp__encoded_free(&e);
    (void)out;
}

static void
test_arguments_are_looked_at(void **state)
{
    int i = 1;
    char *s = (char *)"x";
    zp_bin bad_bin = {NULL, 4};
    zp__encoded e;
    (void)state;
    assert_int_equal(encode(&e, NULL, &i), -EINVAL);
    assert_int_equal(encode(&e, "", &i), ZP_EFORMAT);
    assert_int_equal(encode(&e, "i", NULL), -EINVAL);
    assert_int_equal(encode(&e, "ii", &i, NULL), -EINVAL);
    assert_error("address 2");
    assert_int_equal(encode(&e, "S(ii)", NULL), -EINVAL);
    assert_int_equal(encode(&e, "i#", &i, 0), -EINVAL);
    assert_error("below 1");
    assert_int_equal(encode(&e, "S(i)#", &i, -5), -EINVAL);
    assert_int_equal(encode(&e, "i#", &i, INT32_MAX), -EMSGSIZE);
    assert_int_equal(encode(&e, "i###", &i, 65536, 65536, 4), -EMSGSIZE);
    assert_int_equal(encode(&e, "S(i#)#", &i, 8192, 8192), -EMSGSIZE);
    assert_int_equal(encode(&e, "iB", &i, &bad_bin), -EINVAL);
    assert_int_equal(encode(&e, "A(i)", &i), ZP_EFORMAT);
    assert_error("zp_tpl");
    assert_int_equal(encode(&e, "ix", &i, &s), ZP_EFORMAT);
    assert_int_equal(encode(&e, "x", &i), ZP_EFORMAT);
    assert_int_equal(encode(&e, "A", &i), ZP_EFORMAT);
    assert_int_equal(encode(&e, "is", &i, &s), 0);
    assert_int_equal(decode(&e, "is", &i, NULL), -EINVAL);
    assert_int_equal(decode(&e, NULL, &i), -EINVAL);
    assert_int_equal(decode(&e, "i", NULL), -EINVAL);
    assert_int_equal(decode(&e, "A(i)", &i), ZP_EFORMAT);
}

static void
test_other_types_are_told(void **state)
{
    int i = 1, j = 5, three[3] = {1, 2, 3};
    char *s = (char *)"x", *kept = s;
    double f = 7;
    zp_bin bin = {&i, 4};
    zp__encoded e;
    (void)state;
    assert_int_equal(encode(&e, "i", &i), 0);
    assert_int_equal(decode(&e, "s", &s), ZP_ETYPE);
    assert_error("an int is stored, a string was asked");
    assert_int_equal(decode(&e, "f", &f), ZP_ETYPE);
    assert_int_equal(decode(&e, "B", &bin), ZP_ETYPE);
    assert_int_equal(decode(&e, "ii", &i, &j), ZP_ETYPE);
    assert_error("an int is stored, ii was asked");
    assert_int_equal(encode(&e, "i#", three, 3), 0);
    assert_int_equal(decode(&e, "i#", three, 2), ZP_ETYPE);
    assert_error("a composite of format i#(3) is stored, i#(2) was asked");
    assert_int_equal(decode(&e, "i", &i), ZP_ETYPE);
    assert_int_equal(decode(&e, "is", &i, &s), ZP_ETYPE);
    assert_true(i == 1 && j == 5 && s == kept && f == 7 && bin.addr == &i);
}

/* ------------------------------------------------------------- starved -- */

static int
encode_much(void *user)
{
    struct item items[2] = {{'a', 0.5, (char *)"one", {1, 2, 3}},
                            {'b', -1, (char *)"two", {4, 5, 6}}};
    char *long_text = user;
    zp_bin bin = {(char *)"bytes", 5};
    zp__encoded e;
    int rc = encode(&e, "S(cfsj#)#Bs", items, 3, 2, &bin, &long_text);
    if (rc == 0)
        zp__encoded_free(&e);
    return rc;
}

static void
test_encoding_survives_out_of_memory(void **state)
{
    char text[200];
    (void)state;
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = 0;
    assert_true(starve(encode_much, text) > 10);
}

static int
decode_much(void *user)
{
    const struct item before = {'z', 9, (char *)"kept", {7, 8, 9}};
    struct item out[2] = {before, before};
    zp_bin bin = {out, 77};
    char *s = NULL;
    int rc = decode(user, "S(cfsj#)#Bs", out, 3, 2, &bin, &s);
    if (rc == 0) {
        assert_string_equal(out[1].s, "two");
        assert_memory_equal(bin.addr, "bytes\0", 6); /* and a NUL */
        free_items(out, 2);
        free(bin.addr);
        free(s);
        return 0;
    }
    /* Nothing is written unless all of it is. */
    for (int i = 0; i < 2; i++) {
        assert_true(out[i].c == before.c && out[i].f == before.f &&
                    out[i].s == before.s && out[i].j[2] == 9);
    }
    assert_true(bin.addr == out && bin.sz == 77 && !s);
    return rc;
}

static void
test_decoding_survives_out_of_memory(void **state)
{
    struct item items[2] = {{'a', 0.5, (char *)"one", {1, 2, 3}},
                            {'b', -1, (char *)"two", {4, 5, 6}}};
    char *s = (char *)"text";
    zp_bin bin = {(char *)"bytes", 5};
    zp__encoded e;
    (void)state;
    assert_int_equal(encode(&e, "S(cfsj#)#Bs", items, 3, 2, &bin, &s), 0);
    assert_true(starve(decode_much, &e) > 10);
    zp__encoded_free(&e);
}

static int
atoms(void *user)
{
    char *s = user, *out = NULL;
    zp_value *value;
    int rc = zp_value_new(&value, "s", &s);
    if (rc < 0)
        return rc;
    rc = zp_value_get(value, "s", &out);
    free(out);
    zp_value_free(value);
    return rc;
}

static int
from_image(void *user)
{
    zp__encoded *e = user;
    zp_value *value;
    int rc = zp_value_new_image(&value, e->image, e->size);
    if (rc == 0)
        zp_value_free(value);
    return rc;
}

static void
test_values_survive_out_of_memory(void **state)
{
    char text[200];
    zp__encoded e;
    (void)state;
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = 0;
    assert_int_equal(starve(atoms, text), 4);
    assert_int_equal(zp__encode_string(&e, text), 0);
    assert_int_equal(starve(from_image, &e), 2);
    zp__encoded_free(&e);
}

/* Numbers need no memory at all. */
static void
test_lone_numbers_allocate_nothing(void **state)
{
    int i = 5;
    double f = 0.5;
    zp__encoded e;
    (void)state;
    to_failure = 1;
    assert_int_equal(encode(&e, "i", &i), 0);
    assert_int_equal(decode(&e, "i", &i), 0);
    assert_int_equal(encode(&e, "f", &f), 0);
    assert_int_equal(decode(&e, "f", &f), 0);
    assert_int_equal(zp__encode_string(&e, "short"), 0);
    assert_int_equal(to_failure, 1);
    to_failure = 0;
}

/* ------------------------------------------------------------- hooks -- */

static struct {
    int malloc, free, oops, fatal;
    void *block[16]; /* the first allocations */
    char said[128];
    jmp_buf out;
} own;

static void *
own_malloc(size_t size)
{
    void *block = malloc(size);
    if ((size_t)own.malloc < LENGTH(own.block))
        own.block[own.malloc] = block;
    own.malloc++;
    return block;
}

static void
own_free(void *memory)
{
    own.free++;
    free(memory);
}

static int
own_oops(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(own.said, sizeof(own.said), format, ap);
    va_end(ap);
    own.oops++;
    return 0;
}

static void
own_fatal(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(own.said, sizeof(own.said), format, ap);
    va_end(ap);
    own.fatal++;
    longjmp(own.out, 1);
}

/* Set at the very beginning: before zproc sets its own in front. */
static void
set_own_hooks(void)
{
    tpl_hook.malloc = own_malloc;
    tpl_hook.free = own_free;
    tpl_hook.oops = own_oops;
    tpl_hook.fatal = own_fatal;
}

static void
test_hooks_of_the_application_go_on(void **state)
{
    int i = 1, j = 2;
    zp__encoded e;
    (void)state;
    memset(&own, 0, sizeof(own));
    assert_int_equal(encode(&e, "ii", &i, &j), 0);
    assert_int_equal(decode(&e, "ii", &i, &j), 0);
    assert_int_equal(own.malloc + own.free + own.oops + own.fatal, 0);
    tpl_node *map = tpl_map((char[]){"ii"}, &i, &j);
    assert_non_null(map);
    assert_true(own.malloc > 0);
    /* tpl, used by the application, within our calls' time. */
    assert_int_equal(encode(&e, "ii", &i, &j), 0);
    int allocated = own.malloc;
    tpl_free(map);
    assert_true(own.free > 0);
    assert_int_equal(own.malloc, allocated);
    assert_null(tpl_map((char[]){"i#)"}, &i, 1));
    assert_true(own.oops > 0);
    assert_string_equal(own.said, "failed to parse i#)\n");
    memset(&own, 0, sizeof(own));
    if (setjmp(own.out) == 0)
        tpl_map((char[]){"i#"}, &i, -3);
    for (int n = 0; n < own.malloc; n++)
        free(own.block[n]);
    assert_int_equal(own.fatal, 1);
    assert_string_equal(own.said, "non-positive iteration count -3\n");
}

static void
test_hooks_set_later_are_refused(void **state)
{
    int i = 1, j = 2;
    zp__encoded e;
    tpl_hook_t ours = tpl_hook;
    (void)state;
    tpl_hook.malloc = own_malloc;
    assert_int_equal(encode(&e, "ii", &i, &j), -EBUSY);
    assert_error("tpl_hook");
    assert_int_equal(encode(&e, "i", &i), 0);
    tpl_hook = ours;
    tpl_hook.oops = own_oops; /* this one is harmless */
    tpl_hook.fatal = own_fatal;
    assert_int_equal(encode(&e, "ii", &i, &j), 0);
    tpl_hook = ours;
}

static void *
work(void *user)
{
    bool *good = user;
    *good = true;
    for (int n = 0; n < 300 && *good; n++) {
        char text[40], *s = text, *out = NULL;
        int i = n, i2 = -1;
        zp__encoded e;
        snprintf(text, sizeof(text), "text %d", n);
        to_failure = n % 7;
        int rc = encode(&e, "is", &i, &s);
        to_failure = 0;
        if (rc < 0) {
            *good = rc == -ENOMEM;
            continue;
        }
        *good = decode(&e, "is", &i2, &out) == 0 && i2 == n &&
                strcmp(out, text) == 0;
        free(out);
        zp__encoded_free(&e);
    }
    return NULL;
}

static void
test_threads_do_not_meet(void **state)
{
    pthread_t thread[4];
    bool good[4];
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, work, &good[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 4; i++)
        assert_true(good[i]);
}

/* ---------------------------------------------------------- zp_value -- */

static void
test_values_of_their_own(void **state)
{
    zp_value *none, *truth, *lie, *same;
    unsigned char other_bool[] = {'t', 'p', 'l', 0, 11, 0, 0, 0, 'c', '\0', 9};
    int is = 5;
    size_t size = 0;
    (void)state;
    assert_int_equal(zp_value_new_none(&none), 0);
    assert_int_equal(zp_value_new_bool(&truth, 77), 0);
    assert_int_equal(zp_value_new_bool(&lie, 0), 0);
    assert_int_equal(zp_value_type(none), ZP_NONE);
    assert_string_equal(zp_value_format(none), "");
    assert_int_equal(zp_value_type(truth), ZP_BOOL);
    assert_string_equal(zp_value_format(truth), "c");
    assert_int_equal(zp_value_get_bool(truth, &is), 0);
    assert_int_equal(is, 1);
    assert_int_equal(zp_value_get_bool(lie, &is), 0);
    assert_int_equal(is, 0);
    assert_int_equal(zp_value_get_bool(none, &is), ZP_ETYPE);
    assert_int_equal(zp_value_get(truth, "c", &is), ZP_ETYPE);
    assert_false(zp_value_equal(truth, lie));
    const void *image = zp_value_image(truth, &size);
    assert_int_equal(zp_value_new_image(&same, image, size), 0);
    assert_true(zp_value_equal(same, truth));
    assert_int_equal(zp_value_new_image(&same, other_bool, 11), ZP_EVALUE);
    assert_true(zp_value_equal(same, truth)); /* outputs stay */
    assert_null(zp_value_free(same));
    zp_value_free(none);
    zp_value_free(truth);
    zp_value_free(lie);
}

static void
test_values_refuse_nothing_at_all(void **state)
{
    zp_value *value;
    int i = 1;
    char text[4];
    (void)state;
    assert_int_equal(zp_value_new(NULL, "i", &i), -EINVAL);
    assert_int_equal(zp_value_new_none(NULL), -EINVAL);
    assert_int_equal(zp_value_new_bool(NULL, 1), -EINVAL);
    assert_int_equal(zp_value_new_image(NULL, &i, 4), -EINVAL);
    assert_int_equal(zp_value_new_image(&value, NULL, 4), -EINVAL);
    assert_int_equal(zp_value_get(NULL, "i", &i), -EINVAL);
    assert_int_equal(zp_value_get_bool(NULL, &i), -EINVAL);
    assert_int_equal(zp_value_type(NULL), -EINVAL);
    assert_string_equal(zp_value_format(NULL), "");
    assert_null(zp_value_image(NULL, NULL));
    assert_false(zp_value_equal(NULL, NULL));
    assert_int_equal(zp_value_text(NULL, text, 4), -EINVAL);
    assert_null(zp_value_free(NULL));
    assert_int_equal(zp_value_new_none(&value), 0);
    assert_int_equal(zp_value_text(value, NULL, 4), -EINVAL);
    assert_int_equal(zp_value_text(value, NULL, 0), 4);
    assert_int_equal(zp_value_get_bool(value, NULL), -EINVAL);
    assert_null(zp_value_free(value));
}

static void
test_foreign_images_become_canonical(void **state)
{
    int16_t j = -5;
    int64_t I = -5;
    void *image;
    size_t size;
    zp_value *value, *ours;
    (void)state;
    tpl_node *map = tpl_map((char[]){"j"}, &j);
    tpl_pack(map, 0);
    assert_int_equal(tpl_dump(map, TPL_MEM, &image, &size), 0);
    tpl_free(map);
    assert_int_equal(zp_value_new_image(&value, image, size), 0);
    assert_int_equal(zp_value_new(&ours, "I", &I), 0);
    assert_true(zp_value_equal(value, ours));
    assert_int_equal(zp_value_new_image(&value, image, size - 1), ZP_EVALUE);
    assert_error("at byte");
    free(image);
    zp_value_free(value);
    zp_value_free(ours);
}

static void
test_values_are_replaced(void **state)
{
    zp__encoded small, large;
    char text[300];
    zp_value *value;
    (void)state;
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = 0;
    assert_int_equal(zp__encode_string(&small, "s"), 0);
    assert_int_equal(zp__encode_string(&large, text), 0);
    assert_int_equal(zp__value_copy(&value, small.image, small.size), 0);
    assert_string_equal(text_of(value), "\"s\"");
    assert_int_equal(zp__value_assign(value, large.image, large.size), 0);
    const void *kept = zp_value_image(value, NULL);
    assert_int_equal(zp__value_assign(value, small.image, small.size), 0);
    assert_string_equal(text_of(value), "\"s\"");
    assert_ptr_equal(zp_value_image(value, NULL), kept);
    zp__encoded_free(&large);
    zp_value_free(value);
}

/* ------------------------------------------------------------ zp_tpl -- */

struct tree {
    char *name;
    int x;
    char *leaf;
    zp_tpl *tpl;
};

/* "sA(iA(s))": x = 0.. N-1, each with x leaves. */
static int
fill(struct tree *t, int n)
{
    int rc = zp_tpl_pack(t->tpl, 0);
    for (t->x = 0; rc == 0 && t->x < n; t->x++) {
        for (int i = 0; rc == 0 && i < t->x; i++) {
            t->leaf = (char *)(i ? "more" : "leaf");
            rc = zp_tpl_pack(t->tpl, 2);
        }
        if (rc == 0)
            rc = zp_tpl_pack(t->tpl, 1);
    }
    return rc;
}

static int
tree_new(struct tree *t)
{
    *t = (struct tree){.name = (char *)"tree"};
    return zp_tpl_new(&t->tpl, "sA(iA(s))", &t->name, &t->x, &t->leaf);
}

static zp_value *
tree_value(int n)
{
    struct tree t;
    zp_value *value;
    assert_int_equal(tree_new(&t), 0);
    assert_int_equal(fill(&t, n), 0);
    assert_int_equal(zp_tpl_value(t.tpl, &value), 0);
    zp_tpl_free(t.tpl);
    return value;
}

static void
test_trees_come_back(void **state)
{
    struct tree t;
    int sum = 0;
    (void)state;
    zp_value *value = tree_value(3);
    assert_string_equal(text_of(value),
                        "sA(iA(s))(\"tree\", [(0, []), (1, [\"leaf\"]), "
                        "(2, [\"leaf\", \"more\"])])");
    size_t size;
    const void *image = zp_value_image(value, &size);
    assert_int_equal(zp__image_check(image, size), 0);
    assert_int_equal(tree_new(&t), 0);
    assert_int_equal(zp_tpl_load(t.tpl, value), 0);
    zp_value_free(value); /* it was copied */
    assert_int_equal(zp_tpl_length(t.tpl, 1), 3);
    assert_int_equal(zp_tpl_unpack(t.tpl, 0), 1);
    assert_string_equal(t.name, "tree");
    free(t.name);
    for (int n = 0; n < 3; n++) {
        assert_int_equal(zp_tpl_length(t.tpl, 1), 3 - n);
        assert_int_equal(zp_tpl_unpack(t.tpl, 1), 1);
        assert_int_equal(t.x, n);
        assert_int_equal(zp_tpl_length(t.tpl, 2), n);
        while (zp_tpl_unpack(t.tpl, 2) == 1) {
            sum += (int)strlen(t.leaf);
            free(t.leaf);
        }
        assert_int_equal(zp_tpl_unpack(t.tpl, 2), 0);
    }
    assert_int_equal(zp_tpl_unpack(t.tpl, 1), 0);
    assert_int_equal(sum, 12);
    zp_tpl_free(t.tpl);
}

static void
test_it_is_as_new_afterwards(void **state)
{
    struct tree t;
    zp_value *value, *again;
    (void)state;
    assert_int_equal(tree_new(&t), 0);
    for (int n = 0; n < 4; n++) {
        zp_value *once = tree_value(n);
        assert_int_equal(fill(&t, n), 0);
        assert_int_equal(zp_tpl_value(t.tpl, &value), 0);
        assert_true(zp_value_equal(value, once));
        zp_value_free(value);
        zp_value_free(once);
    }
    /* Loading drops what was packed, and can be done again. */
    value = tree_value(2);
    again = tree_value(1);
    assert_int_equal(fill(&t, 3), 0);
    for (int n = 0; n < 2; n++) {
        assert_int_equal(zp_tpl_load(t.tpl, value), 0);
        assert_int_equal(zp_tpl_length(t.tpl, 1), 2);
        assert_int_equal(zp_tpl_load(t.tpl, again), 0);
        assert_int_equal(zp_tpl_length(t.tpl, 1), 1);
    }
    assert_int_equal(zp_tpl_unpack(t.tpl, 0), 1);
    free(t.name);
    assert_int_equal(zp_tpl_unpack(t.tpl, 1), 1);
    assert_int_equal(zp_tpl_unpack(t.tpl, 0), 1); /* from the beginning */
    free(t.name);
    assert_int_equal(zp_tpl_length(t.tpl, 1), 1);
    zp_value_free(value);
    zp_value_free(again);
    zp_tpl_free(t.tpl);
}

static void
test_maps_used_wrongly(void **state)
{
    struct tree t;
    zp_value *value = NULL, *tree = tree_value(2), *none;
    (void)state;
    assert_int_equal(tree_new(&t), 0);
    assert_int_equal(zp_tpl_pack(t.tpl, 3), -EINVAL);
    assert_error("no such index");
    assert_int_equal(zp_tpl_pack(t.tpl, -1), -EINVAL);
    assert_int_equal(zp_tpl_unpack(t.tpl, 0), -EINVAL);
    assert_error("nothing is loaded");
    assert_int_equal(zp_tpl_length(t.tpl, 1), -EINVAL);
    assert_int_equal(zp_tpl_value(t.tpl, &value), -EINVAL);
    assert_error("not packed");
    assert_int_equal(zp_tpl_pack(t.tpl, 0), 0);
    t.leaf = NULL;
    assert_int_equal(zp_tpl_pack(t.tpl, 2), 0);
    assert_int_equal(zp_tpl_value(t.tpl, &value), -EINVAL);
    assert_error("index 2");
    assert_int_equal(zp_tpl_pack(t.tpl, 1), 0);
    assert_int_equal(zp_tpl_value(t.tpl, NULL), -EINVAL);
    assert_int_equal(zp_tpl_value(t.tpl, &value), 0);
    assert_string_equal(text_of(value), "sA(iA(s))(\"tree\", [(0, [NULL])])");
    zp_value_free(value);

    assert_int_equal(zp_value_new_none(&none), 0);
    assert_int_equal(zp_tpl_load(t.tpl, none), ZP_ETYPE);
    zp_value_free(none);
    assert_int_equal(zp_tpl_load(t.tpl, NULL), -EINVAL);
    assert_int_equal(zp_tpl_load(t.tpl, tree), 0);
    assert_int_equal(zp_tpl_unpack(t.tpl, 1), -EINVAL);
    assert_error("must be unpacked first");
    assert_int_equal(zp_tpl_pack(t.tpl, 0), -EINVAL);
    assert_error("loaded");
    assert_int_equal(zp_tpl_value(t.tpl, &value), -EINVAL);
    assert_int_equal(zp_tpl_length(t.tpl, 0), -EINVAL);
    assert_int_equal(zp_tpl_length(t.tpl, 2), -EINVAL);
    assert_int_equal(zp_tpl_unpack(t.tpl, 0), 1);
    free(t.name);
    assert_int_equal(zp_tpl_unpack(t.tpl, 2), -EINVAL);
    assert_int_equal(zp_tpl_unpack(t.tpl, 3), -EINVAL);
    assert_int_equal(zp_tpl_unpack(t.tpl, 1), 1);
    assert_int_equal(zp_tpl_unpack(t.tpl, 2), 0);
    /* Its parent starts again: not before the parent has an element. */
    assert_int_equal(zp_tpl_unpack(t.tpl, 0), 1);
    free(t.name);
    assert_int_equal(zp_tpl_unpack(t.tpl, 2), -EINVAL);
    zp_tpl_free(t.tpl);
    zp_value_free(tree);
}

static void
test_maps_that_cannot_be(void **state)
{
    zp_tpl *tpl = NULL;
    zp_bin bin = {NULL, 3};
    zp_value *value;
    int i = 1;
    (void)state;
    assert_int_equal(zp_tpl_new(NULL, "A(i)", &i), -EINVAL);
    assert_int_equal(zp_tpl_new(&tpl, NULL), -EINVAL);
    assert_int_equal(zp_tpl_new(&tpl, "A(i"), ZP_EFORMAT);
    assert_int_equal(zp_tpl_new(&tpl, ""), ZP_EFORMAT);
    assert_int_equal(zp_tpl_new(&tpl, "i", &i), ZP_EFORMAT);
    assert_int_equal(zp_tpl_new(&tpl, "A(i)", NULL), -EINVAL);
    assert_int_equal(zp_tpl_new(&tpl, "A(i#)", &i, 0), -EINVAL);
    assert_int_equal(zp_tpl_new(&tpl, "A(S(i#)#)", &i, 65536, 65536),
                     -EMSGSIZE);
    assert_null(tpl);
    assert_int_equal(zp_tpl_pack(NULL, 0), -EINVAL);
    assert_int_equal(zp_tpl_unpack(NULL, 0), -EINVAL);
    assert_int_equal(zp_tpl_length(NULL, 0), -EINVAL);
    assert_int_equal(zp_tpl_load(NULL, NULL), -EINVAL);
    assert_int_equal(zp_tpl_value(NULL, &value), -EINVAL);
    assert_null(zp_tpl_free(NULL));
    /* A bad zp_bin is looked at where it is packed, and not elsewhere. */
    assert_int_equal(zp_tpl_new(&tpl, "iA(B)", &i, &bin), 0);
    assert_int_equal(zp_tpl_pack(tpl, 0), 0);
    assert_int_equal(zp_tpl_pack(tpl, 1), -EINVAL);
    bin = (zp_bin){&i, 1};
    assert_int_equal(zp_tpl_pack(tpl, 1), 0);
    assert_int_equal(zp_tpl_value(tpl, &value), 0);
    assert_string_equal(text_of(value), "iA(B)(1, [b\"\\x01\"])");
    zp_value_free(value);
    zp_tpl_free(tpl);
}

static void
test_arrays_alone_need_no_index_0(void **state)
{
    zp_tpl *tpl;
    zp_value *value;
    int i = 1;
    (void)state;
    assert_int_equal(zp_tpl_new(&tpl, "A(i)A(A(i))", &i, &i), 0);
    assert_int_equal(zp_tpl_value(tpl, &value), 0);
    assert_string_equal(text_of(value), "A(i)A(A(i))([], [])");
    zp_value_free(value);
    assert_int_equal(zp_tpl_pack(tpl, 1), 0);
    assert_int_equal(zp_tpl_pack(tpl, 2), 0);
    assert_int_equal(zp_tpl_value(tpl, &value), 0);
    assert_string_equal(text_of(value), "A(i)A(A(i))([1], [[]])");
    assert_int_equal(zp_tpl_load(tpl, value), 0);
    assert_int_equal(zp_tpl_unpack(tpl, 0), 1);
    assert_int_equal(zp_tpl_unpack(tpl, 2), 1);
    assert_int_equal(zp_tpl_unpack(tpl, 3), 0);
    assert_int_equal(zp_tpl_unpack(tpl, 2), 0);
    zp_value_free(value);
    zp_tpl_free(tpl);
}

static int
pack_tree(void *user)
{
    struct tree t;
    zp_value *value;
    (void)user;
    int rc = tree_new(&t);
    if (rc < 0)
        return rc;
    rc = fill(&t, 3);
    if (rc < 0) {
        /* What was packed is lost, and says so, until something is loaded. */
        assert_int_equal(zp_tpl_pack(t.tpl, 0), -EINVAL);
        assert_int_equal(zp_tpl_value(t.tpl, &value), -EINVAL);
        assert_int_equal(zp_tpl_unpack(t.tpl, 0), -EINVAL);
        assert_int_equal(zp_tpl_load(t.tpl, user), 0);
        assert_int_equal(zp_tpl_length(t.tpl, 1), 2);
        zp__fail_code(rc);
    } else {
        rc = zp_tpl_value(t.tpl, &value);
        if (rc == 0) {
            assert_string_equal(zp_value_format(value), "sA(iA(s))");
            zp_value_free(value);
        }
    }
    zp_tpl_free(t.tpl);
    return rc;
}

static void
test_packing_survives_out_of_memory(void **state)
{
    zp_value *tree = tree_value(2);
    (void)state;
    assert_true(starve(pack_tree, tree) > 30);
    zp_value_free(tree);
}

/* A value that cannot be made for want of memory can be made later. */
static void
test_a_value_can_be_tried_again(void **state)
{
    struct tree t;
    zp_value *value, *same = tree_value(3);
    (void)state;
    assert_int_equal(tree_new(&t), 0);
    assert_int_equal(fill(&t, 3), 0);
    to_failure = 1;
    assert_int_equal(zp_tpl_value(t.tpl, &value), -ENOMEM);
    assert_int_equal(zp_tpl_value(t.tpl, &value), 0);
    assert_true(zp_value_equal(value, same));
    zp_value_free(value);
    zp_value_free(same);
    zp_tpl_free(t.tpl);
}

/* As users do it, with each failed step tried again: nothing is lost. */
static void
test_unpacking_can_be_tried_again(void **state)
{
    struct tree t;
    zp_value *tree = tree_value(4);
    int leaves = 0, failures = 0, rc;
    (void)state;
    assert_int_equal(tree_new(&t), 0);
    assert_int_equal(zp_tpl_load(t.tpl, tree), 0);
#define TWICE(i)                                                               \
    (to_failure = 1, rc = zp_tpl_unpack(t.tpl, i), failures += rc < 0,         \
     to_failure = 0, rc == -ENOMEM ? zp_tpl_unpack(t.tpl, i) : rc)
    t.name = NULL;
    assert_int_equal(TWICE(0), 1);
    free(t.name);
    while (TWICE(1) == 1)
        for (t.leaf = NULL; TWICE(2) == 1; t.leaf = NULL) {
            leaves++;
            assert_non_null(t.leaf);
            free(t.leaf);
        }
#undef TWICE
    assert_int_equal(leaves, 6);
    assert_int_equal(failures, 7);
    zp_tpl_free(t.tpl);
    zp_value_free(tree);
}

static void
test_maps_over_the_limit(void **state)
{
    zp_tpl *tpl;
    zp_value *value;
    size_t half = ZP__IMAGE_MAX / 2;
    char *text = malloc(half + 1);
    (void)state;
    assert_non_null(text);
    memset(text, 'x', half);
    text[half] = 0;
    assert_int_equal(zp_tpl_new(&tpl, "A(s)", &text), 0);
    assert_int_equal(zp_tpl_pack(tpl, 1), 0);
    assert_int_equal(zp_tpl_pack(tpl, 1), 0);
    assert_int_equal(zp_tpl_value(tpl, &value), -EMSGSIZE);
    zp_tpl_free(tpl);
    free(text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_ints_are_one_type),
        ZP_TEST(test_ints_that_do_not_fit),
        ZP_TEST(test_doubles),
        ZP_TEST(test_strings_and_bytes_are_copies),
        ZP_TEST(test_long_strings_leave_small),
        ZP_TEST(test_over_the_limit),
        ZP_TEST(test_composites_come_back),
        ZP_TEST(test_images_are_those_of_tpl),
        ZP_TEST(test_formats_that_tpl_frees_wrongly),
        ZP_TEST(test_inner_structures),
        ZP_TEST(test_arguments_are_looked_at),
        ZP_TEST(test_other_types_are_told),
        ZP_TEST(test_encoding_survives_out_of_memory),
        ZP_TEST(test_decoding_survives_out_of_memory),
        ZP_TEST(test_values_survive_out_of_memory),
        ZP_TEST(test_lone_numbers_allocate_nothing),
        ZP_TEST(test_hooks_of_the_application_go_on),
        ZP_TEST(test_hooks_set_later_are_refused),
        ZP_TEST(test_threads_do_not_meet),
        ZP_TEST(test_values_of_their_own),
        ZP_TEST(test_values_refuse_nothing_at_all),
        ZP_TEST(test_foreign_images_become_canonical),
        ZP_TEST(test_values_are_replaced),
        ZP_TEST(test_trees_come_back),
        ZP_TEST(test_it_is_as_new_afterwards),
        ZP_TEST(test_maps_used_wrongly),
        ZP_TEST(test_maps_that_cannot_be),
        ZP_TEST(test_arrays_alone_need_no_index_0),
        ZP_TEST(test_packing_survives_out_of_memory),
        ZP_TEST(test_a_value_can_be_tried_again),
        ZP_TEST(test_unpacking_can_be_tried_again),
        ZP_TEST(test_maps_over_the_limit),
    };
    set_own_hooks();
    return zp_test_main("value", tests, LENGTH(tests), 60);
}
