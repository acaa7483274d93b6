/*
 * The journal of a transaction against a plain model: what was touched is
 * found, with the row from before; rollbacks forget what came after their mark
 * and make the rest stale, whatever the index has seen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zp.h>

#include "core/journal.h"
#include "tests/support/zp_test.h"

#define KEYS 3000
#define MARKS 8

static zp__journal journal;

static const char *
ns_of(unsigned i)
{
    return i % 3 == 0 ? "default" : i % 3 == 1 ? "other" : "o";
}

static const char *
key_of(unsigned i)
{
    static char text[16];

    snprintf(text, sizeof text, "key-%u", i / 3);
    return text;
}

static zp__touch *
add(unsigned i)
{
    unsigned char old[300];

    memset(old, (int)i, sizeof old);
    zp__touch *touch =
        zp__journal_add(&journal, ns_of(i), key_of(i), old, i % 300);
    assert_non_null(touch);
    assert_true(touch->stale); /* until its owner says otherwise */
    touch->stale = false;
    return touch;
}

static void
expect(unsigned i, bool there)
{
    const zp__touch *touch = zp__journal_find(&journal, ns_of(i), key_of(i));

    assert_int_equal(touch != NULL, there);
    if (touch == NULL)
        return;
    assert_string_equal(zp__touch_ns(&journal, touch), ns_of(i));
    assert_string_equal(zp__touch_key(&journal, touch), key_of(i));
    assert_int_equal(touch->old_size, i % 300);
    const unsigned char *old = zp__touch_old(&journal, touch);
    for (size_t at = 0; at < touch->old_size; at++)
        assert_int_equal(old[at], (unsigned char)i);
}

static void
test_few_and_many(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        for (unsigned i = 0; i < KEYS; i++) {
            expect(i, false);
            add(i);
            expect(i, true);
            expect(i / 2, true);
        }
        assert_int_equal(journal.n, KEYS);
        zp__journal_sort(&journal);
        for (size_t i = 1; i < journal.n; i++) {
            const zp__touch *a = &journal.touches[i - 1];
            const zp__touch *b = &journal.touches[i];
            assert_true(zp__chg_compare(zp__touch_ns(&journal, a),
                                        zp__touch_key(&journal, a),
                                        zp__touch_ns(&journal, b),
                                        zp__touch_key(&journal, b)) < 0);
        }
        for (unsigned i = 0; i < KEYS; i += 7)
            expect(i, true); /* after sorting, too */
        zp__journal_clear(&journal);
        assert_int_equal(journal.n, 0);
        expect(1, false);
    }
    zp__journal_free(&journal);
}

/* Random adds, finds, marks and rollbacks. */
static void
test_rollback(void **state)
{
    static bool there[KEYS];
    static unsigned added[KEYS];
    zp__journal_mark marks[MARKS];
    int depth = 0;
    const char *given = getenv("ZP_TEST_SEED");
    unsigned seed =
        given ? (unsigned)atoi(given) : (unsigned)time(NULL) ^ getpid();

    (void)state;
    print_message("# seed %u\n", seed);
    srandom(seed);
    for (int round = 0; round < 200000 / zp_test_slow(); round++) {
        unsigned i = (unsigned)random() % KEYS;
        long dice = random() % 1000;
        if (dice < 15 && depth < MARKS) {
            marks[depth++] = zp__journal_mark_now(&journal);
        } else if (dice < 30 && depth > 0) {
            if (random() % 2)
                depth--; /* a nested commit: nothing to do */
            else {
                size_t n = marks[--depth].n;
                for (size_t at = n; at < journal.n; at++)
                    there[added[at]] = false;
                zp__journal_rollback(&journal, marks[depth]);
                assert_int_equal(journal.n, n);
                for (size_t at = 0; at < n; at++)
                    assert_true(journal.touches[at].stale);
            }
        } else if (dice < 32) {
            zp__journal_clear(&journal);
            memset(there, 0, sizeof there);
            depth = 0;
        } else if (dice < 500 && !there[i]) {
            added[journal.n] = i;
            add(i);
            there[i] = true;
        } else {
            expect(i, there[i]);
        }
    }
    for (unsigned i = 0; i < KEYS; i++)
        expect(i, there[i]);
    zp__journal_free(&journal);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_few_and_many),
        ZP_TEST(test_rollback),
    };
    return zp_test_main("journal", tests, sizeof tests / sizeof *tests, 30);
}
