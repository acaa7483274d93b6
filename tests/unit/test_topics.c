/*
 * test_topics.c - the set of subscribed topics and the interest filter, against
 * a plain model of both.
 */
#include "tests/support/zp_test.h"

#include <stdlib.h>
#include <string.h>

#include "core/board.h"
#include "core/server_topics.h"

static _Atomic uint32_t interest[ZP__INTEREST];

static uint64_t
sum_of_interest(void)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < ZP__INTEREST; i++)
        sum += interest[i];
    return sum;
}

/* A topic counts once, however often it is put; taking it is final. */
static void
test_put_and_take(void **state)
{
    zp__topics topics;
    (void)state;
    interest[7] = 3; /* of a server that was killed */
    assert_int_equal(zp__topics_init(&topics, interest), 0);
    assert_int_equal(sum_of_interest(), 0);
    assert_int_equal(zp__topics_put(&topics, ZP__TOPIC_KEY, 7), 1);
    assert_int_equal(zp__topics_put(&topics, ZP__TOPIC_KEY, 7), 0);
    assert_int_equal(interest[7], 1);
    assert_int_equal(zp__topics_put(&topics, ZP__TOPIC_NS, 7), 1);
    assert_int_equal(zp__topics_put(&topics, ZP__TOPIC_KEY, 7 + ZP__INTEREST),
                     1);
    assert_int_equal(interest[7], 3);
    assert_int_equal(topics.keys, 2);
    assert_int_equal(topics.namespaces, 1);
    assert_int_equal(zp__topics_take(&topics, ZP__TOPIC_KEY, 7), 1);
    assert_int_equal(zp__topics_take(&topics, ZP__TOPIC_KEY, 7), 0);
    assert_int_equal(interest[7], 2);
    assert_int_equal(zp__topics_take(&topics, ZP__TOPIC_NS, 8), 0);
    assert_int_equal(zp__topics_take(&topics, ZP__TOPIC_NS, 7), 1);
    assert_int_equal(zp__topics_take(&topics, ZP__TOPIC_KEY, 7 + ZP__INTEREST),
                     1);
    assert_int_equal(zp__topics_count(&topics), 0);
    assert_int_equal(sum_of_interest(), 0);
    zp__topics_free(&topics);
}

/* Each is marked once per round, what is not in never. */
static void
test_marks(void **state)
{
    zp__topics topics;
    (void)state;
    assert_int_equal(zp__topics_init(&topics, interest), 0);
    zp__topics_put(&topics, ZP__TOPIC_KEY, 1);
    zp__topics_round(&topics);
    assert_true(zp__topics_mark(&topics, ZP__TOPIC_KEY, 1));
    assert_false(zp__topics_mark(&topics, ZP__TOPIC_KEY, 1));
    assert_false(zp__topics_mark(&topics, ZP__TOPIC_NS, 1));
    zp__topics_put(&topics, ZP__TOPIC_NS, 1); /* in the middle of a round */
    assert_true(zp__topics_mark(&topics, ZP__TOPIC_NS, 1));
    for (uint64_t i = 2; i < 1000; i++) /* the table moves, the marks with it */
        zp__topics_put(&topics, ZP__TOPIC_KEY, i);
    assert_false(zp__topics_mark(&topics, ZP__TOPIC_KEY, 1));
    zp__topics_round(&topics);
    assert_true(zp__topics_mark(&topics, ZP__TOPIC_KEY, 1));
    topics.round = UINT32_MAX; /* marks of the first rounds are forgotten */
    zp__topics_round(&topics);
    assert_true(zp__topics_mark(&topics, ZP__TOPIC_KEY, 1));
    assert_false(zp__topics_mark(&topics, ZP__TOPIC_KEY, 1));
    zp__topics_free(&topics);
}

#define UNIVERSE 3000

static bool in[2][UNIVERSE];

static uint32_t
kind_of(int i)
{
    return i ? ZP__TOPIC_NS : ZP__TOPIC_KEY;
}

/* Many topics, many of them in a few buckets and next to each other. */
static uint64_t
hash_of(unsigned i)
{
    return i % 3 == 0 ? i : (uint64_t)i * (ZP__INTEREST / 8);
}

static void
compare(zp__topics *topics)
{
    size_t n = 0;
    zp__topics_round(topics);
    for (int kind = 0; kind < 2; kind++)
        for (unsigned i = 0; i < UNIVERSE; i++) {
            n += in[kind][i];
            assert_int_equal(zp__topics_mark(topics, kind_of(kind), hash_of(i)),
                             in[kind][i]);
        }
    assert_int_equal(zp__topics_count(topics), n);
    assert_int_equal(sum_of_interest(), 2 * n); /* two buckets each */
}

/* Random puts and takes, growing and shrinking, against the model. */
static void
test_against_a_model(void **state)
{
    zp__topics topics;
    size_t largest = 0;
    (void)state;
    srand(1);
    memset(in, 0, sizeof in);
    assert_int_equal(zp__topics_init(&topics, interest), 0);
    for (int phase = 0; phase < 12; phase++) {
        for (int i = 0; i < 6000; i++) {
            int kind = rand() % 2;
            unsigned which = (unsigned)rand() % UNIVERSE;
            bool put = rand() % 100 < (phase % 2 ? 2 : 80);
            uint64_t hash = hash_of(which);
            int rc = put ? zp__topics_put(&topics, kind_of(kind), hash)
                         : zp__topics_take(&topics, kind_of(kind), hash);
            assert_int_equal(rc, in[kind][which] != put);
            in[kind][which] = put;
            if (topics.capacity > largest)
                largest = topics.capacity;
        }
        compare(&topics);
    }
    for (int kind = 0; kind < 2; kind++)
        for (unsigned i = 0; i < UNIVERSE; i++)
            zp__topics_take(&topics, kind_of(kind), hash_of(i));
    assert_int_equal(sum_of_interest(), 0);
    assert_true(topics.capacity * 8 <= largest); /* it is small again */
    zp__topics_free(&topics);
}

/* Big-endian: libzmq sends topics again in byte order, sync topics last. */
static void
test_bytes(void **state)
{
    uint8_t bytes[ZP__TOPIC_SIZE + 1];
    uint64_t hash;
    uint32_t kind;
    (void)state;
    zp__topic_write(bytes, ZP__TOPIC_KEY, UINT64_C(0x0102030405060708));
    assert_memory_equal(bytes, "K\1\2\3\4\5\6\7\10", ZP__TOPIC_SIZE);
    assert_true(zp__topic_read(bytes, ZP__TOPIC_SIZE, &kind, &hash));
    assert_int_equal(kind, ZP__TOPIC_KEY);
    assert_int_equal(hash, UINT64_C(0x0102030405060708));
    assert_false(zp__topic_read(bytes, ZP__TOPIC_SIZE - 1, &kind, &hash));
    assert_false(zp__topic_read(bytes, ZP__TOPIC_SIZE + 1, &kind, &hash));
    bytes[0] = ZP__TOPIC_SYNC;
    assert_false(zp__topic_read(bytes, ZP__TOPIC_SIZE, &kind, &hash));
    assert_true(ZP__TOPIC_SYNC > ZP__TOPIC_KEY &&
                ZP__TOPIC_SYNC > ZP__TOPIC_NS);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_put_and_take),
        ZP_TEST(test_marks),
        ZP_TEST(test_against_a_model),
        ZP_TEST(test_bytes),
    };
    return zp_test_main("topics", tests, sizeof tests / sizeof *tests, 30);
}
