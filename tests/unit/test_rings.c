/*
 * test_rings.c - the bells that a process has open to ring them: its own, and
 * a few of others; which are given up, and what is no longer what it was.
 *
 * Two boards of one page: each knows only what is open through itself, as if
 * they were two processes.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/slots.h"

#define MANY 8
#define PATIENCE 32 /* misses, until what is not used gives place */

static zp__place place;
static zp__board board, theirs; /* the watchers' */
static zp__bell bells[MANY];
static int fds;

static int
up(void **state)
{
    (void)state;
    if (zp__place_new(&place, "test", NULL) < 0 ||
        zp__board_create(&place) < 0 || zp__place_publish(&place) < 0 ||
        zp__board_open(&board, &place) < 0)
        return -1;
    return zp__board_open(&theirs, &place);
}

static int
down(void **state)
{
    (void)state;
    zp__board_close(&board);
    zp__board_close(&theirs);
    zp__place_remove(&place);
    return 0;
}

static void
claim_all(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(zp__slot_claim(&theirs, &place, &bells[i]), 0);
        assert_int_equal(bells[i].slot, i);
    }
    fds = zp_test_open_fds();
}

static void
release_all(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        zp__slot_release(&theirs, &bells[i]);
}

static bool
has_bytes(const zp__bell *bell)
{
    char byte;

    return read(bell->fd, &byte, 1) == 1;
}

/* Is it open here? It has been rung once then, and answered. */
static bool
rings(unsigned slot)
{
    uint32_t missed = zp__rings_ring(&board, &slot, 1);

    assert_true(missed <= 1);
    assert_int_equal(has_bytes(&bells[slot]), !missed);
    assert_false(has_bytes(&bells[slot]));
    zp__slot_answer(&theirs, &bells[slot]);
    return !missed;
}

static void
open_one(unsigned slot)
{
    zp__rings_open(&board, &place, slot);
}

static int
more_fds(void)
{
    return zp_test_open_fds() - fds;
}

static const char *
file(unsigned slot)
{
    static char path[ZP__PATH_MAX];

    return zp__slot_file(&place, slot, path);
}

/* Goal: our own bells are rung through the descriptors that are there. */
static void
test_own(void **state)
{
    const unsigned slots[] = {0, 1, 2};

    (void)state;
    claim_all(2);
    assert_int_equal(zp__rings_ring(&theirs, slots, 3), 4);
    assert_true(has_bytes(&bells[0]) && has_bytes(&bells[1]));
    assert_int_equal(zp__rings_ring(&theirs, slots, 2), 0); /* rung already */
    assert_false(has_bytes(&bells[0]) || has_bytes(&bells[1]));
    assert_int_equal(more_fds(), 0);
    zp__rings_open(&theirs, &place, 0); /* they are open */
    assert_int_equal(more_fds(), 0);
    zp__slot_release(&theirs, &bells[0]);
    zp__slot_answer(&theirs, &bells[1]);
    assert_int_equal(zp__rings_ring(&theirs, slots, 2), 1);
    zp__slot_release(&theirs, &bells[1]);
}

/* Goal: another's is missed until it was opened; few are kept, and what is not
 * used gives place to what is, not at once. */
static void
test_others(void **state)
{
    (void)state;
    claim_all(MANY);
    for (unsigned i = 0; i < MANY; i++) {
        assert_false(rings(i));
        open_one(i);
        open_one(i);
        assert_int_equal(rings(i), i < ZP__RINGS_OTHERS);
    }
    assert_int_equal(more_fds(), ZP__RINGS_OTHERS);
    for (int n = 0; n < 3 * PATIENCE; n++) /* in turns: nothing changes */
        for (unsigned i = 0; i < MANY; i++) {
            bool open = rings(i);

            assert_int_equal(open, i < ZP__RINGS_OTHERS);
            if (!open)
                open_one(i);
        }
    for (int n = 0; n < PATIENCE; n++)
        for (unsigned i = 1; i <= ZP__RINGS_OTHERS; i++)
            if (!rings(i))
                open_one(i);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(rings(i), i >= 1 && i <= ZP__RINGS_OTHERS);
    assert_int_equal(more_fds(), ZP__RINGS_OTHERS);
    zp__rings_close(&board);
    board.rings = (struct zp__rings){.first = NULL};
    zp__rings_init(&board);
    assert_int_equal(more_fds(), 0);
    release_all(MANY);
}

/* Goal: a slot without an owner is not rung, and its bell is closed; another
 * owner with the same FIFO is. */
static void
test_gone(void **state)
{
    (void)state;
    claim_all(2);
    open_one(0);
    open_one(1);
    zp__slot_release(&theirs, &bells[0]);
    assert_int_equal(zp__rings_ring(&board, &bells[0].slot, 1), 1);
    assert_int_equal(more_fds(), 2 - 1);
    zp__rings_tidy(&board);
    assert_int_equal(more_fds(), 1 - 1);
    assert_true(rings(1));
    zp__slot_release(&theirs, &bells[1]);
    open_one(0); /* nobody has it, and nothing is left of the other */
    assert_int_equal(more_fds(), 0 - 2);
    claim_all(2);
    open_one(0);
    zp__slot_release(&theirs, &bells[0]);
    assert_int_equal(zp__slot_claim(&theirs, &place, &bells[0]), 0);
    assert_true(rings(0)); /* a stranger's: the file is the same */
    release_all(2);
}

/* Goal: another FIFO of the same name is another bell. */
static void
test_another_file(void **state)
{
    (void)state;
    claim_all(1);
    open_one(0);
    assert_true(rings(0));
    zp__slot_release(&theirs, &bells[0]);
    assert_int_equal(unlink(file(0)), 0);
    assert_int_equal(zp__slot_claim(&theirs, &place, &bells[0]), 0);
    assert_false(rings(0));
    open_one(0);
    assert_true(rings(0));
    assert_int_equal(more_fds(), 1);
    zp__slot_release(&theirs, &bells[0]);

    assert_int_equal(zp__slot_claim(&theirs, &place, &bells[0]), 0);
    assert_int_equal(rename(file(0), zp_test_path("bell")), 0);
    assert_true(rings(0)); /* that is what its owner has */
    zp__rings_tidy(&board);
    assert_true(rings(0));
    zp__slot_release(&theirs, &bells[0]);
    zp__rings_tidy(&board);

    assert_int_equal(zp__slot_claim(&theirs, &place, &bells[0]), 0);
    assert_int_equal(unlink(file(0)), 0);
    assert_int_equal(mkfifo(file(0), 0600), 0);
    open_one(0); /* not what its owner has */
    assert_false(rings(0));
    zp__slot_release(&theirs, &bells[0]);
    assert_int_equal(more_fds(), -1);
}

/* Goal: no descriptor, no file: it is not open, and errno is what it was. */
static void
test_failures(void **state)
{
    struct rlimit old, none;

    (void)state;
    claim_all(1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    errno = 77;
    open_one(0);
    assert_int_equal(errno, 77);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_false(rings(0));
    assert_int_equal(unlink(file(0)), 0);
    errno = 77;
    open_one(0);
    assert_int_equal(errno, 77);
    assert_false(rings(0));
    assert_int_equal(more_fds(), 0);
    zp__slot_release(&theirs, &bells[0]);
}

/* Goal: a full FIFO rings, too. */
static void
test_full(void **state)
{
    (void)state;
    claim_all(1);
    open_one(0);
    while (write(bells[0].fd, "", 1) == 1)
        ;
    assert_int_equal(zp__rings_ring(&board, &bells[0].slot, 1), 0);
    assert_true(has_bytes(&bells[0]));
    zp__slot_release(&theirs, &bells[0]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_own, up, down),
        ZP_TEST_WITH(test_others, up, down),
        ZP_TEST_WITH(test_gone, up, down),
        ZP_TEST_WITH(test_another_file, up, down),
        ZP_TEST_WITH(test_failures, up, down),
        ZP_TEST_WITH(test_full, up, down),
    };

    return zp_test_main("rings", tests, sizeof tests / sizeof *tests, 30);
}
