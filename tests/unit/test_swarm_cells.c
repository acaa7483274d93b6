/*
 * test_swarm_cells.c - the words that a swarm's owner and a worker share: each
 * item is claimed or taken back, never both, never neither.
 */
#include "tests/support/zp_test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/swarm_cells.h"

#define RACES 400
#define ITEMS 3000 /* of a cell, at most */

static uint32_t
claim_all(_Atomic uint64_t *cell)
{
    uint32_t n = 0, number;

    while (zp__cell_claim(cell, &number)) {
        assert_int_equal(zp__cell_claimed(cell), number + 1);
        n++;
    }
    return n;
}

static void
test_claims_are_in_order_and_end(void **state)
{
    _Atomic uint64_t cell;
    uint32_t number = 77;

    (void)state;
    zp__cell_set(&cell, 3);
    assert_int_equal(zp__cell_claimed(&cell), 0);
    for (uint32_t i = 0; i < 3; i++) {
        assert_true(zp__cell_claim(&cell, &number));
        assert_int_equal(number, i);
    }
    assert_false(zp__cell_claim(&cell, &number));
    assert_int_equal(zp__cell_claimed(&cell), 3);
    zp__cell_set(&cell, 0); /* a new task, of nothing */
    assert_false(zp__cell_claim(&cell, &number));
    zp__cell_set(&cell, 2); /* what was claimed before does not count */
    assert_int_equal(claim_all(&cell), 2);
}

static void
test_a_cut_leaves_what_is_claimed(void **state)
{
    _Atomic uint64_t cell;
    uint32_t number;

    (void)state;
    zp__cell_set(&cell, 10);
    assert_int_equal(zp__cell_cut(&cell, 10), 10); /* all stay */
    assert_int_equal(zp__cell_cut(&cell, UINT32_MAX), 10);
    assert_true(zp__cell_claim(&cell, &number));
    assert_true(zp__cell_claim(&cell, &number));
    assert_int_equal(zp__cell_cut(&cell, 5), 7); /* 2 claimed, 5 more */
    assert_int_equal(zp__cell_cut(&cell, 5), 7);
    assert_int_equal(zp__cell_cut(&cell, 8), 7); /* never up again */
    assert_true(zp__cell_claim(&cell, &number));
    assert_int_equal(zp__cell_cut(&cell, 0), 3);
    assert_false(zp__cell_claim(&cell, &number));
    assert_int_equal(zp__cell_cut(&cell, 0), 3);
    assert_int_equal(zp__cell_claimed(&cell), 3);
}

static void
test_the_largest_task(void **state)
{
    _Atomic uint64_t cell;
    uint32_t number;

    (void)state;
    zp__cell_set(&cell, UINT32_MAX);
    assert_true(zp__cell_claim(&cell, &number));
    assert_int_equal(zp__cell_cut(&cell, UINT32_MAX - 1), UINT32_MAX);
    assert_int_equal(zp__cell_cut(&cell, UINT32_MAX), UINT32_MAX);
    assert_int_equal(zp__cell_cut(&cell, 1), 2);
    assert_int_equal(zp__cell_claimed(&cell), 1);
    assert_int_equal(claim_all(&cell), 1);
}

/* Cells lie beside each other: none touches its neighbour. */
static void
test_cells_do_not_mix(void **state)
{
    static zp__seat seat;
    uint32_t number;

    (void)state;
    for (unsigned i = 0; i < ZP__CELLS; i++)
        zp__cell_set(&seat.cell[i], i);
    for (unsigned i = 0; i < ZP__CELLS; i += 2)
        zp__cell_cut(&seat.cell[i], 0);
    for (unsigned i = 0; i < ZP__CELLS; i++) {
        assert_int_equal(zp__cell_claim(&seat.cell[i], &number), i % 2 ? 1 : 0);
        assert_int_equal(claim_all(&seat.cell[i]), i % 2 ? i - 1 : 0);
    }
    assert_int_equal(sizeof seat % 64, 0);
}

/* ---------------------------------------------------------------- a race -- */

typedef struct race {
    _Atomic uint64_t cell;
    atomic_bool go;
    unsigned char claimed[ITEMS];
} race;

static void *
claim_in_thread(void *user)
{
    race *r = user;
    uint32_t number;

    while (!atomic_load(&r->go))
        continue;
    while (zp__cell_claim(&r->cell, &number))
        r->claimed[number]++;
    return NULL;
}

/* A worker claims while its owner takes back in steps: of N items each is on
 * one side, once. Returns how many were taken back. */
static uint32_t
run_race(uint32_t n, unsigned short seed[3])
{
    static race r;
    static unsigned char taken[ITEMS];
    uint32_t limit = n, cut, backs = 0;
    pthread_t thread;

    memset(taken, 0, sizeof taken);
    memset(r.claimed, 0, sizeof r.claimed);
    atomic_store(&r.go, false);
    zp__cell_set(&r.cell, n);
    assert_int_equal(pthread_create(&thread, NULL, claim_in_thread, &r), 0);
    atomic_store(&r.go, true);
    for (;;) {
        uint32_t claimed = zp__cell_claimed(&r.cell), keep;

        assert_true(claimed <= limit);
        keep = (limit - claimed) - (uint32_t)(erand48(seed) * 4);
        if (keep > limit) /* fewer than that are left */
            keep = 0;
        cut = zp__cell_cut(&r.cell, keep);
        assert_true(cut <= limit);
        backs += limit - cut;
        while (limit > cut)
            taken[--limit]++;
        if (zp__cell_claimed(&r.cell) == limit)
            break;
    }
    pthread_join(thread, NULL);
    assert_int_equal(zp__cell_claimed(&r.cell), limit);
    for (uint32_t i = 0; i < n; i++)
        if (r.claimed[i] + taken[i] != 1)
            fail_msg("item %u of %u: claimed %d times, taken back %d times", i,
                     n, r.claimed[i], taken[i]);
    return backs;
}

static void
test_each_item_is_on_one_side(void **state)
{
    unsigned short seed[3] = {1, 2, 3};
    int races = (int)(RACES / zp_test_slow());
    uint64_t items = 0, backs = 0;

    (void)state;
    for (int i = 0; i < races; i++) {
        uint32_t n = 1 + (uint32_t)(erand48(seed) * (ITEMS - 1));

        items += n;
        backs += run_race(n, seed);
    }
    assert_true(backs > 0 && backs <= items);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_claims_are_in_order_and_end),
        ZP_TEST(test_a_cut_leaves_what_is_claimed),
        ZP_TEST(test_the_largest_task),
        ZP_TEST(test_cells_do_not_mix),
        ZP_TEST(test_each_item_is_on_one_side),
    };

    return zp_test_main("swarm_cells", tests, sizeof tests / sizeof *tests, 30);
}
