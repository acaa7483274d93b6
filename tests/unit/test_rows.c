/*
 * The bytes of the store's rows: keys sort as LMDB must see them, rows come
 * apart as they were put together, and whatever happens to their bytes they
 * are taken apart without reading one byte too many (each copy lies in memory
 * of exactly its size, for the sanitizers and valgrind).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zp.h>

#include "core/rows.h"
#include "tests/support/zp_test.h"

#define CHANGES 5

static const char *const names[CHANGES][2] = {{"a", "k"},
                                              {"default", "a"},
                                              {"default", "ab"},
                                              {"default", "b"},
                                              {"z", "\377"}};

/* ---- keys ---- */

static int
order(const void *a, size_t a_size, const void *b, size_t b_size)
{
    int rc = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return rc != 0 ? rc : (a_size > b_size) - (a_size < b_size);
}

static void
test_keys_sort(void **state)
{
    unsigned char a[ZP__ROWKEY_MAX], b[ZP__ROWKEY_MAX];
    static const uint64_t numbers[] = {
        0, 1, 255, 256, 65535, 65536, UINT64_C(1) << 32, UINT64_MAX};

    (void)state;
    for (int i = 1; i < CHANGES; i++) {
        size_t a_size = zp__rowkey_cur(a, names[i - 1][0], names[i - 1][1]);
        size_t b_size = zp__rowkey_cur(b, names[i][0], names[i][1]);
        assert_true(order(a, a_size, b, b_size) < 0);
    }
    for (size_t i = 1; i < sizeof numbers / sizeof *numbers; i++) {
        size_t a_size = zp__rowkey_record(a, numbers[i - 1], true);
        size_t b_size = zp__rowkey_record(b, numbers[i], true);
        assert_true(order(a, a_size, b, b_size) < 0);
        assert_true(zp__rowkey_u64(b) == numbers[i]);
        a_size = zp__rowkey_chunk(a, numbers[i - 1], UINT32_MAX);
        b_size = zp__rowkey_chunk(b, numbers[i], 0);
        assert_true(order(a, a_size, b, b_size) < 0);
        assert_true(zp__rowkey_u64(b) == numbers[i]);
        zp__outside low = {numbers[i - 1], UINT32_MAX, 0};
        zp__outside high = {numbers[i], 0, 0};
        a_size = zp__rowkey_outside(a, &low);
        b_size = zp__rowkey_outside(b, &high);
        assert_true(order(a, a_size, b, b_size) < 0);
    }
}

/* A revision's slot is that of N earlier, and of no other between. */
static void
test_slots(void **state)
{
    unsigned char a[ZP__ROWKEY_MAX], b[ZP__ROWKEY_MAX];
    uint64_t revision = (UINT64_C(1) << 33) - 10;

    (void)state;
    size_t size = zp__rowkey_log(a, revision, 64);
    for (uint64_t i = 1; i <= 128; i++) {
        assert_int_equal(zp__rowkey_log(b, revision + i, 64), size);
        assert_int_equal(memcmp(a, b, size) == 0, i % 64 == 0);
    }
}

static void
test_longest_names(void **state)
{
    unsigned char key[ZP__ROWKEY_MAX];
    char ns[ZP__NS_MAX + 1], name[ZP__KEY_MAX + 1];

    (void)state;
    memset(ns, 'n', ZP__NS_MAX);
    memset(name, 'k', ZP__KEY_MAX);
    ns[ZP__NS_MAX] = name[ZP__KEY_MAX] = '\0';
    assert_int_equal(zp__rowkey_cur(key, ns, name), sizeof key);
    assert_in_range(zp__rowkey_ns(key, ns), 1, sizeof key);
}

/* ---- leases ---- */

static void
test_lease_names(void **state)
{
    unsigned char key[ZP__ROWKEY_MAX + 2], damaged[ZP__ROWKEY_MAX + 2];
    char ns[ZP__NS_MAX + 1], name[ZP__KEY_MAX + 1], *copy;
    char long_ns[ZP__NS_MAX + 2], long_name[ZP__KEY_MAX + 2];

    (void)state;
    for (int i = 0; i < CHANGES; i++) {
        size_t size = zp__rowkey_lease(key, names[i][0], names[i][1]);

        for (size_t cut = 0; cut <= size; cut++) {
            size_t ns_size = strlen(names[i][0]);

            copy = malloc(cut ? cut : 1);
            memcpy(copy, key, cut);
            assert_int_equal(zp__lease_names(copy, cut, ns, name),
                             cut > 1 + ns_size + 1);
            free(copy);
        }
        assert_true(zp__lease_names(key, size, ns, name));
        assert_string_equal(ns, names[i][0]);
        assert_string_equal(name, names[i][1]);
        memcpy(damaged, key, size);
        damaged[0] = 'k';
        assert_false(zp__lease_names(damaged, size, ns, name));
        memcpy(damaged, key, size);
        damaged[1] = 0; /* no namespace */
        assert_false(zp__lease_names(damaged, size, ns, name));
        memcpy(damaged, key, size);
        damaged[size] = 0; /* a NUL in the key */
        assert_false(zp__lease_names(damaged, size + 1, ns, name));
    }
    memset(long_ns, 'n', sizeof long_ns);
    memset(long_name, 'k', sizeof long_name);
    long_ns[ZP__NS_MAX] = long_name[ZP__KEY_MAX] = 0;
    assert_true(zp__lease_names(key, zp__rowkey_lease(key, long_ns, long_name),
                                ns, name));
    assert_string_equal(name, long_name);
    long_name[ZP__KEY_MAX] = 'k';
    memcpy(key, "bn\0", 3);
    memset(key + 3, 'k', ZP__KEY_MAX + 1);
    assert_false(zp__lease_names(key, 3 + ZP__KEY_MAX + 1, ns, name));
    memset(key, 'b', sizeof key);
    key[1 + ZP__NS_MAX + 1] = 0;
    assert_false(zp__lease_names(key, 1 + ZP__NS_MAX + 1 + 5, ns, name));
}

static void
test_lease_rows(void **state)
{
    zp__lease lease = {.holder = {.pid = 7, .start = 9}, .boot = 1};
    zp__lease parsed;

    (void)state;
    for (size_t size = 0; size < sizeof lease; size++) {
        char *copy = malloc(size ? size : 1);
        memcpy(copy, &lease, size);
        assert_false(zp__lease_parse(copy, size, &parsed));
        free(copy);
    }
    assert_true(zp__lease_parse(&lease, sizeof lease, &parsed));
    assert_int_equal(parsed.holder.pid, 7);
    lease.holder.pid = 0;
    assert_false(zp__lease_parse(&lease, sizeof lease, &parsed));
    lease.deadline_ns = 5;
    assert_true(zp__lease_parse(&lease, sizeof lease, &parsed));
    lease.deadline_ns = -5;
    assert_false(zp__lease_parse(&lease, sizeof lease, &parsed));
    lease.deadline_ns = 5;
    lease.wall_ns = INT64_MIN;
    assert_false(zp__lease_parse(&lease, sizeof lease, &parsed));
    lease.wall_ns = 0;
    lease.holder.pid = -1;
    assert_false(zp__lease_parse(&lease, sizeof lease, &parsed));
}

/* ---- current rows ---- */

static void
test_current_rows(void **state)
{
    unsigned char row[sizeof(zp__cur) + 100];
    zp__cur head = {.revision = 9, .size = 100};
    zp__outside outside = {7, 3, 0};
    zp__cur_row parsed;

    (void)state;
    memset(row, 5, sizeof row);
    memcpy(row, &head, sizeof head);
    for (size_t size = 0; size <= sizeof row; size++) {
        unsigned char *copy = malloc(size ? size : 1);
        memcpy(copy, row, size);
        assert_int_equal(zp__cur_parse(copy, size, &parsed),
                         size == sizeof row);
        free(copy);
    }
    assert_true(zp__cur_parse(row, sizeof row, &parsed));
    assert_int_equal(parsed.head.revision, 9);
    assert_ptr_equal(parsed.image, row + sizeof head);
    head.flags = ZP__ROW_OUTSIDE;
    memcpy(row, &head, sizeof head);
    memcpy(row + sizeof head, &outside, sizeof outside);
    assert_true(zp__cur_parse(row, sizeof head + sizeof outside, &parsed));
    assert_null(parsed.image);
    assert_int_equal(parsed.outside.revision, 7);
    assert_int_equal(parsed.outside.rank, 3);
    assert_false(zp__cur_parse(row, sizeof head + sizeof outside - 1, &parsed));
    head.flags = ZP__ROW_DELETED;
    memcpy(row, &head, sizeof head);
    assert_true(zp__cur_parse(row, sizeof head, &parsed));
    assert_null(parsed.image);
}

/* ---- chunks ---- */

static size_t
make_chunk(unsigned char *out)
{
    uint32_t n = CHANGES, at = sizeof n * (1 + CHANGES);

    memcpy(out, &n, sizeof n);
    for (uint32_t i = 0; i < n; i++) {
        zp__chg head = {.prev = i, .size = 10 * i};
        unsigned char image[10 * CHANGES];
        memset(image, (int)i, sizeof image);
        head.flags = i == 0 ? ZP_CREATED : i == 4 ? ZP__ROW_LOST : 0;
        size_t inside = head.flags ? 0 : head.size;
        memcpy(out + sizeof n * (1 + i), &at, sizeof at);
        size_t size = zp__chg_write(out + at, &head, names[i][0], names[i][1],
                                    image, inside);
        assert_int_equal(size, zp__chg_size(names[i][0], names[i][1], inside));
        at += (uint32_t)size;
    }
    return at;
}

static void
test_chunks(void **state)
{
    unsigned char chunk[2000];
    size_t size = make_chunk(chunk);
    zp__chg_row row;

    (void)state;
    assert_int_equal(zp__chunk_length(chunk, size), CHANGES);
    for (int i = 0; i < CHANGES; i++) {
        assert_true(zp__chunk_change(chunk, size, (uint32_t)i, &row));
        assert_string_equal(row.ns, names[i][0]);
        assert_string_equal(row.key, names[i][1]);
        assert_int_equal(row.head.prev, i);
        assert_int_equal(row.image != NULL, i > 0 && i < 4);
        if (row.image != NULL)
            assert_int_equal(*(const unsigned char *)row.image, i);
        assert_int_equal(
            zp__chunk_find(chunk, size, names[i][0], names[i][1], &row), i);
    }
    assert_false(zp__chunk_change(chunk, size, CHANGES, &row));
    assert_int_equal(zp__chunk_find(chunk, size, "a", "a", &row), -1);
    assert_int_equal(zp__chunk_find(chunk, size, "default", "aa", &row), -3);
    assert_int_equal(zp__chunk_find(chunk, size, "zz", "a", &row),
                     -1 - CHANGES);
}

/* All that can be asked of a chunk; what is told must be there. */
static void
read_all(const unsigned char *bytes, size_t size)
{
    unsigned char *chunk = malloc(size ? size : 1);
    unsigned sum = 0;
    zp__chg_row row;

    memcpy(chunk, bytes, size);
    int n = zp__chunk_length(chunk, size);
    for (uint32_t i = 0; i < CHANGES + 1; i++) {
        if (!zp__chunk_change(chunk, size, i, &row))
            continue;
        assert_true((int)i < n);
        sum += (unsigned)(strlen(row.ns) + strlen(row.key));
        for (uint32_t at = 0; row.image != NULL && at < row.head.size; at++)
            sum += ((const unsigned char *)row.image)[at];
    }
    for (int i = 0; i < CHANGES; i++)
        sum += (unsigned)zp__chunk_find(chunk, size, names[i][0], names[i][1],
                                        &row);
    assert_true(sum != 12345678);
    free(chunk);
}

static void
test_damaged_chunks(void **state)
{
    unsigned char chunk[2000], damaged[2000];
    size_t size = make_chunk(chunk);
    static const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff};

    (void)state;
    for (size_t cut = 0; cut <= size; cut++)
        read_all(chunk, cut);
    for (size_t at = 0; at < size; at++) {
        for (size_t i = 0; i < sizeof values; i++) {
            memcpy(damaged, chunk, size);
            damaged[at] = values[i];
            read_all(damaged, size);
            damaged[at] = chunk[at] ^ values[i];
            read_all(damaged, size);
        }
    }
    srandom(1);
    for (int round = 0; round < 20000; round++) {
        memcpy(damaged, chunk, size);
        for (int i = 0; i < 4; i++)
            damaged[(size_t)random() % size] = (unsigned char)random();
        read_all(damaged, (size_t)random() % (size + 1));
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_keys_sort),     ZP_TEST(test_slots),
        ZP_TEST(test_longest_names), ZP_TEST(test_lease_names),
        ZP_TEST(test_lease_rows),    ZP_TEST(test_current_rows),
        ZP_TEST(test_chunks),        ZP_TEST(test_damaged_chunks),
    };
    return zp_test_main("rows", tests, sizeof tests / sizeof *tests, 30);
}
