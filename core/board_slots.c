/*
 * board_slots.c - claiming, releasing and clearing the slots of the watchers'
 * bells. (slots.h has the rules of ringing.)
 *
 *          claim (CAS)                 release: bits, then owner
 *     0 ---------------> owner's id ----------------------------> 0
 *                            | its process has ended (CAS, by the server)
 *                            v
 *                         CLEARING --- bits cleared ------------> 0
 *
 * The id has pid and start time in one word, so that there is no moment at
 * which half of it stands there. Whoever owns a slot, the server while it
 * clears it included, is alone with the slot's column of `wanted`. A server
 * that is killed while it clears leaves CLEARING behind; there is only ever
 * one server, so the next one knows it for a leftover.
 *
 * The matrix lies on its side: a row per bucket of topics, a bit per slot. So
 * finding who wants a topic reads two cache lines for 1024 slots, and only
 * clearing a dead slot walks over all rows.
 *
 * Cost: claiming looks at the slots from the first on, 20 ns for each that is
 * taken; the FIFO is four system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/fork.h"
#include "core/slots.h"

#define CLEARING UINT64_MAX /* no process: its pid would be -1 */
#define PIPE_BYTES 4096     /* one page of what a user's pipes may have */

_Static_assert(ZP__SLOTS % 64 == 0, "whole words");

const char *
zp__slot_file(const zp__place *place, unsigned slot, char *buffer)
{
    char name[16];

    snprintf(name, sizeof name, "bell.%u", slot);
    return zp__place_file(place, name, buffer);
}

/* ---------------------------------------------------------------- owners -- */

static uint64_t
owner_id(const zp__pid *id)
{
    return (uint64_t)(uint32_t)id->pid << 32 | (uint32_t)id->start;
}

/* Has that process ended? Where it cannot be told it has not. */
static bool
has_ended(uint64_t owner)
{
    zp__pid now, id = {.pid = (int32_t)(owner >> 32)};
    int rc = zp__pid_of(id.pid, &now);

    if (rc < 0)
        return rc == -ESRCH;
    if ((uint32_t)owner && (uint32_t)now.start != (uint32_t)owner)
        return true; /* the number is another's */
    return now.start && !zp__pid_alive(&now);
}

/* The matrix is looked at up to here. Only ever raised. */
static void
raise_used(zp__shared *shared, uint32_t used)
{
    uint32_t now = atomic_load(&shared->slots_used);

    while (now < used &&
           !atomic_compare_exchange_weak(&shared->slots_used, &now, used))
        continue;
}

static int
take_slot(zp__shared *shared)
{
    zp__pid self = zp__pid_self();
    uint64_t mine = owner_id(&self);

    for (unsigned i = 0; i < ZP__SLOTS; i++) {
        uint64_t owner = 0;

        if (atomic_load_explicit(&shared->slots[i].owner,
                                 memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong(&shared->slots[i].owner, &owner,
                                           mine)) {
            raise_used(shared, i + 1);
            return (int)i;
        }
    }
    return -EUSERS;
}

static void
clear_bits(zp__shared *shared, unsigned slot)
{
    uint64_t bit = UINT64_C(1) << slot % 64;

    for (unsigned i = 0; i < ZP__WANTED; i++) {
        _Atomic uint64_t *word = &shared->wanted[i][slot / 64];

        if (atomic_load_explicit(word, memory_order_relaxed) & bit)
            atomic_fetch_and(word, ~bit);
    }
}

static void
give_slot(zp__shared *shared, unsigned slot)
{
    clear_bits(shared, slot);
    atomic_store(&shared->slots[slot].file, 0);
    atomic_store(&shared->slots[slot].owner, 0);
}

/* -------------------------------------------------------------- watchers -- */

/* The slot's FIFO, made if need be: the descriptor or -errno. A state that is
 * being removed must not get new files: who removes it has set `closed` before
 * it looks what there is. */
static int
open_fifo(const zp__board *board, const zp__place *place, unsigned slot)
{
    char path[ZP__PATH_MAX];
    int fd;

    zp__slot_file(place, slot, path);
    if (mkfifo(path, 0600) < 0) {
        if (errno != EEXIST)
            return -errno;
    } else if (zp__board_closed(board)) {
        unlink(path);
        return -ESHUTDOWN;
    }
    fd = zp__fifo_open(path);
    if (fd >= 0)
        (void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES); /* or stay large */
    return fd;
}

int
zp__slot_claim(zp__board *board, const zp__place *place, zp__bell *ret)
{
    zp__shared *shared = board->shared;
    struct stat st;
    zp__bell bell;
    int slot = take_slot(shared);

    if (slot < 0)
        return slot;
    bell.slot = (unsigned)slot;
    bell.fd = open_fifo(board, place, bell.slot);
    if (bell.fd < 0) {
        give_slot(shared, bell.slot);
        return bell.fd;
    }
    bell.owned = zp__own_fd(bell.fd);
    bell.ring = zp__rings_add(board, bell.slot, bell.fd);
    if (!bell.owned || !bell.ring || fstat(bell.fd, &st) < 0) {
        zp__slot_release(board, &bell);
        return -ENOMEM;
    }
    zp__fifo_drain(bell.fd);
    atomic_store(&shared->slots[slot].file, (uint64_t)st.st_ino);
    atomic_exchange(&shared->slots[slot].rung, 0);
    *ret = bell;
    return 0;
}

void
zp__slot_release(zp__board *board, zp__bell *bell)
{
    zp__rings_remove(board, bell->ring);
    give_slot(board->shared, bell->slot);
    zp__own_forget(bell->owned);
    close(bell->fd);
    bell->fd = -1;
}

void
zp__slot_want(zp__board *board, const zp__bell *bell, unsigned bucket,
              bool want)
{
    _Atomic uint64_t *word = &board->shared->wanted[bucket][bell->slot / 64];
    uint64_t bit = UINT64_C(1) << bell->slot % 64;

    if (want)
        atomic_fetch_or(word, bit);
    else
        atomic_fetch_and(word, ~bit);
}

uint32_t
zp__slot_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return ((uint32_t)t.tv_sec * 1000 + (uint32_t)(t.tv_nsec / 1000000)) | 1;
}

/* ---------------------------------------------------------------- server -- */

void
zp__slot_check(zp__board *board, unsigned slot)
{
    _Atomic uint64_t *at = &board->shared->slots[slot].owner;
    uint64_t owner = atomic_load(at);

    if (owner == 0 || (owner != CLEARING && !has_ended(owner)))
        return;
    if (owner == CLEARING ||
        atomic_compare_exchange_strong(at, &owner, CLEARING))
        give_slot(board->shared, slot);
}

void
zp__slots_clear(zp__board *board)
{
    unsigned used = atomic_load(&board->shared->slots_used);

    for (unsigned i = 0; i < used && i < ZP__SLOTS; i++)
        zp__slot_check(board, i);
}

void
zp__slots_hush(zp__board *board)
{
    unsigned used = zp__slot_words(board) * 64;

    atomic_fetch_add(&board->shared->hushes, 1);
    for (unsigned i = 0; i < used; i++)
        atomic_exchange(&board->shared->slots[i].rung, 0);
    zp__board_fence();
}
