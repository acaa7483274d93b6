/*
 * test_slots.c - the slots of the watchers' bells: claimed, released, cleared
 * of the dead; rung and answered.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/slots.h"

static zp__place place;
static zp__board board;

static int
up(void **state)
{
    (void)state;
    if (zp__place_new(&place, "test", NULL) < 0 ||
        zp__board_create(&place) < 0 || zp__place_publish(&place) < 0)
        return -1;
    return zp__board_open(&board, &place);
}

static int
down(void **state)
{
    (void)state;
    zp__board_close(&board);
    zp__place_remove(&place);
    return 0;
}

static zp__bell
claim(void)
{
    zp__bell bell;

    assert_int_equal(zp__slot_claim(&board, &place, &bell), 0);
    return bell;
}

static uint64_t
owner(unsigned slot)
{
    return atomic_load(&board.shared->slots[slot].owner);
}

static void
set_owner(unsigned slot, uint64_t id)
{
    atomic_store(&board.shared->slots[slot].owner, id);
}

static bool
wants(unsigned slot, uint64_t topic)
{
    return zp__slot_wanting(&board, topic, slot / 64) >> slot % 64 & 1;
}

static bool
has_bytes(int fd)
{
    char byte;

    return read(fd, &byte, 1) == 1;
}

static const char *
file(unsigned slot)
{
    static char path[ZP__PATH_MAX];

    return zp__slot_file(&place, slot, path);
}

/* Goal: each gets a slot and a FIFO of its own, and gives them back clean. */
static void
test_claim(void **state)
{
    zp__bell one, two;
    struct stat st;

    (void)state;
    assert_int_equal(zp__slot_words(&board), 0);
    one = claim();
    two = claim();
    assert_int_equal(one.slot, 0);
    assert_int_equal(two.slot, 1);
    assert_int_equal(zp__slot_words(&board), 1);
    assert_int_equal(owner(0) >> 32, getpid());
    assert_int_equal(owner(0), owner(1));
    assert_int_equal(stat(file(1), &st), 0);
    assert_int_equal(st.st_mode, S_IFIFO | 0600);
    assert_int_equal(fcntl(one.fd, F_GETFL) & O_ACCMODE, O_RDWR);
    assert_true(fcntl(one.fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(one.fd, F_GETFD) & FD_CLOEXEC);

    zp__slot_want(&board, &one, zp__slot_bucket(5), true);
    zp__slot_want(&board, &two, zp__slot_bucket(5), true);
    zp__slot_want(&board, &two, zp__slot_bucket(6), true);
    assert_int_equal(zp__slot_wanting(&board, 5, 0), 3);
    assert_int_equal(zp__slot_wanting(&board, 5 + ZP__WANTED, 0), 3);
    zp__slot_want(&board, &two, zp__slot_bucket(5), false);
    assert_int_equal(zp__slot_wanting(&board, 5, 0), 1);

    zp__slot_release(&board, &one);
    assert_int_equal(owner(0), 0);
    assert_int_equal(zp__slot_wanting(&board, 5, 0), 0);
    assert_true(wants(1, 6));
    one = claim();
    assert_int_equal(one.slot, 0);
    zp__slot_release(&board, &one);
    zp__slot_release(&board, &two);
    assert_int_equal(zp__slot_wanting(&board, 6, 0), 0);
}

/* Goal: when all are taken there is an error, and nothing else happens. */
static void
test_full(void **state)
{
    zp__bell bell;

    (void)state;
    for (unsigned i = 0; i < ZP__SLOTS; i++)
        set_owner(i, 1);
    assert_int_equal(zp__slot_claim(&board, &place, &bell), -EUSERS);
    set_owner(ZP__SLOTS - 1, 0);
    bell = claim();
    assert_int_equal(bell.slot, ZP__SLOTS - 1);
    assert_int_equal(zp__slot_words(&board), ZP__SLOTS / 64);
    zp__slot_want(&board, &bell, 9, true);
    assert_true(wants(ZP__SLOTS - 1, 9));
    zp__slot_release(&board, &bell);
    assert_false(wants(ZP__SLOTS - 1, 9));
}

/* Goal: who claims a slot hears nothing of what its last owner was rung for,
 * and is not kept silent by it. */
static void
test_stale_bytes(void **state)
{
    zp__bell bell;
    int fd;

    (void)state;
    assert_int_equal(mkfifo(file(0), 0600), 0);
    fd = zp__fifo_open(file(0));
    assert_true(fd >= 0);
    while (write(fd, "", 1) == 1)
        ;
    assert_int_equal(errno, EAGAIN);
    atomic_store(&board.shared->slots[0].rung, 1);
    bell = claim();
    assert_false(has_bytes(bell.fd));
    assert_true(zp__slot_ring(&board.shared->slots[0]));
    zp__fifo_ring(fd);
    assert_true(has_bytes(bell.fd));
    zp__slot_release(&board, &bell);
    close(fd);
}

/* Goal: rung once until it is answered. */
static void
test_ring(void **state)
{
    zp__bell bell;
    zp__slot *slot;

    (void)state;
    bell = claim();
    slot = &board.shared->slots[bell.slot];
    zp__slot_answer(&board, &bell); /* nobody rang: nothing */
    assert_true(zp__slot_ring(slot));
    assert_false(zp__slot_ring(slot));
    zp__slot_answer(&board, &bell);
    assert_true(zp__slot_ring(slot));
    zp__slots_hush(&board); /* a new server takes it for lost */
    assert_true(zp__slot_ring(slot));
    zp__slot_release(&board, &bell);
}

static int
claim_and_die(void *user)
{
    zp__board mine;
    zp__bell bell;

    (void)user;
    if (zp__board_open(&mine, &place) < 0 ||
        zp__slot_claim(&mine, &place, &bell) < 0)
        return 1;
    for (unsigned i = 0; i < ZP__WANTED; i++)
        zp__slot_want(&mine, &bell, i, true);
    zp__rings_remove(&mine, bell.ring); /* without a word in the board */
    zp__board_close(&mine);
    return (int)bell.slot;
}

/* Goal: the dead are cleared away, the living are not; also those that were
 * killed while they claimed or cleared, and those whose pid is another's. */
static void
test_the_dead(void **state)
{
    zp__bell bell;
    uint64_t id;

    (void)state;
    bell = claim();
    id = owner(0);
    zp__slot_want(&board, &bell, 7, true);
    assert_int_equal(zp_test_wait(zp_test_fork(claim_and_die, NULL), 20), 1);
    assert_true(owner(1) != 0 && owner(1) != id);
    assert_true(wants(1, 7) && wants(1, ZP__WANTED - 1));
    set_owner(2, id ^ 1);         /* this pid, started at another time */
    set_owner(3, UINT64_MAX);     /* a server died while it cleared */
    set_owner(4, id >> 32 << 32); /* a start that could not be told */
    set_owner(5, UINT64_C(0x7ffffff) << 32 | 3); /* no such pid */
    set_owner(6, id);
    atomic_store(&board.shared->slots_used, 7);
    atomic_store(&board.shared->wanted[8][0], 0x7f);
    zp__slots_clear(&board);
    assert_int_equal(owner(0), id);
    assert_true(wants(0, 7));
    for (unsigned i = 1; i < 6; i++) {
        bool lives = i == 4;

        assert_true(lives ? owner(i) != 0 : owner(i) == 0);
        assert_int_equal(wants(i, 8), lives);
    }
    for (unsigned i = 0; i < ZP__WANTED; i++)
        assert_false(wants(1, i));
    assert_int_equal(owner(6), id);
    zp__slot_release(&board, &bell);
}

/* Goal: without a FIFO there is no bell, and the slot is free again. */
static void
test_no_fifo(void **state)
{
    zp__bell bell;
    int fd;

    (void)state;
    fd = open(file(0), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(zp__slot_claim(&board, &place, &bell), ZP_ECORRUPT);
    assert_int_equal(owner(0), 0);
    assert_int_equal(unlink(file(0)), 0);
    atomic_store(&board.shared->closed, 1);
    assert_int_equal(zp__slot_claim(&board, &place, &bell), -ESHUTDOWN);
    assert_int_equal(access(file(0), F_OK), -1);
    assert_int_equal(owner(0), 0);
}

/* Goal: the directory goes with all bells in it, and with nothing else. */
static void
test_removal(void **state)
{
    static const char *const others[] = {"bell.1024", "bell.01", "bell.1x",
                                         "bell.", "bell.-1"};
    char path[ZP__PATH_MAX];

    (void)state;
    assert_int_equal(mkfifo(file(0), 0600), 0);
    assert_int_equal(mkfifo(file(ZP__SLOTS - 1), 0600), 0);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(mkfifo(zp__place_file(&place, others[i], path), 0600),
                         0);
    zp__place_remove(&place);
    assert_int_equal(zp_test_entries(place.run), 5);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(unlink(zp__place_file(&place, others[i], path)), 0);
    assert_int_equal(rmdir(place.run), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_claim, up, down),
        ZP_TEST_WITH(test_full, up, down),
        ZP_TEST_WITH(test_stale_bytes, up, down),
        ZP_TEST_WITH(test_ring, up, down),
        ZP_TEST_WITH(test_the_dead, up, down),
        ZP_TEST_WITH(test_no_fifo, up, down),
        ZP_TEST_WITH(test_removal, up, down),
    };

    return zp_test_main("slots", tests, sizeof tests / sizeof *tests, 30);
}
