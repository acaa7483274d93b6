/*
 * board_rings.c - the watchers' bells that this process has open, to ring them
 * by itself. (slots.h has the rules of ringing, store_call.c who does it when.)
 *
 *     own      those of this process's contexts: their descriptors are there
 *              already; known from claim to release
 *     others   other processes', ZP__RINGS_OTHERS at most: opened behind the
 *              set that has missed them first (the server rang for it)
 *
 * One of the others is what the slot's owner has open if the inode is the one
 * that stands in the slot: while it is open here the number cannot become
 * another file's. Where it is not (the owner has gone, or its FIFO is not this
 * one) it is not rung, and closed at the next miss, or within 64 sets.
 *
 * Who watches in turns must not make each set open and close a FIFO: when all
 * places are taken, one is given up only for the PATIENCE-th miss since it was
 * rung last. What finds no place, no descriptor and no memory is the server's
 * to ring, as ever.
 *
 * The list has a lock of its own, since contexts come and go in other threads;
 * under it nothing is done but looking, and writes that do not wait. System
 * calls that may take a while, and the registry of descriptors, which is held
 * over a whole fork, stay outside. A forked child never touches its parent's
 * list: the registry closes what is open, the store is forgotten (store.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/fork.h"
#include "core/slots.h"

#define PATIENCE 32

struct zp__ring {
    struct zp__ring *next;
    unsigned slot;
    int fd;
    zp__owned *owned;
    uint64_t file; /* inode; 0: it is of this process */
    uint64_t used; /* `misses` when it was rung last */
};

void
zp__rings_init(zp__board *board)
{
    pthread_mutex_init(&board->rings.lock, NULL);
}

/* Out of the list it is in. Under the lock. */
static void
unlink_ring(struct zp__rings *rings, struct zp__ring *ring)
{
    struct zp__ring **at = &rings->first;

    while (*at != ring)
        at = &(*at)->next;
    *at = ring->next;
    rings->others -= ring->file != 0;
}

/* One of the others, or NULL. It is in no list. */
static void
close_ring(struct zp__ring *ring)
{
    if (!ring)
        return;
    zp__own_forget(ring->owned);
    close(ring->fd);
    free(ring);
}

void
zp__rings_close(zp__board *board)
{
    struct zp__ring *ring, *next;

    for (ring = board->rings.first; ring; ring = next) {
        next = ring->next;
        if (ring->file)
            close_ring(ring);
    }
}

/* ----------------------------------------------------------------- ringing --
 */

static bool
is_current(const zp__board *board, const struct zp__ring *ring)
{
    return !ring->file ||
           atomic_load_explicit(&board->shared->slots[ring->slot].file,
                                memory_order_acquire) == ring->file;
}

/* Our own ones stand before the others. */
static struct zp__ring *
find(const zp__board *board, unsigned slot)
{
    struct zp__ring *ring = board->rings.first;

    while (ring && (ring->slot != slot || !is_current(board, ring)))
        ring = ring->next;
    return ring;
}

uint32_t
zp__rings_ring(zp__board *board, const unsigned *slots, unsigned n)
{
    struct zp__rings *rings = &board->rings;
    uint32_t missed = 0;

    pthread_mutex_lock(&rings->lock);
    for (unsigned i = 0; i < n; i++) {
        struct zp__ring *ring = find(board, slots[i]);

        if (!ring) {
            rings->misses++;
            missed |= UINT32_C(1) << i;
            continue;
        }
        ring->used = rings->misses;
        if (zp__slot_ring(&board->shared->slots[slots[i]]))
            zp__fifo_ring(ring->fd);
    }
    pthread_mutex_unlock(&rings->lock);
    return missed;
}

/* ------------------------------------------------------------ other's bells --
 */

/* One that is not what its slot has, or NULL. Under the lock. */
static struct zp__ring *
find_stale(const zp__board *board)
{
    struct zp__ring *ring = board->rings.first;

    while (ring && is_current(board, ring))
        ring = ring->next;
    return ring;
}

void
zp__rings_tidy(zp__board *board)
{
    struct zp__rings *rings = &board->rings;
    struct zp__ring *stale;

    do {
        pthread_mutex_lock(&rings->lock);
        stale = find_stale(board);
        if (stale)
            unlink_ring(rings, stale);
        pthread_mutex_unlock(&rings->lock);
        close_ring(stale);
    } while (stale);
}

/* The place that may be given up, or NULL. Under the lock. */
static struct zp__ring *
find_unused(const struct zp__rings *rings)
{
    struct zp__ring *oldest = NULL;

    for (struct zp__ring *ring = rings->first; ring; ring = ring->next)
        if (ring->file && (!oldest || ring->used < oldest->used))
            oldest = ring;
    return oldest && rings->misses - oldest->used >= PATIENCE ? oldest : NULL;
}

static bool
has_room(zp__board *board, unsigned slot)
{
    struct zp__rings *rings = &board->rings;
    bool room;

    pthread_mutex_lock(&rings->lock);
    room = !find(board, slot) &&
           (rings->others < ZP__RINGS_OTHERS || find_unused(rings));
    pthread_mutex_unlock(&rings->lock);
    return room;
}

static struct zp__ring *
open_other(const zp__board *board, const zp__place *place, unsigned slot)
{
    struct zp__ring *ring = calloc(1, sizeof *ring);
    char path[ZP__PATH_MAX];
    struct stat st;

    if (!ring)
        return NULL;
    ring->slot = slot;
    ring->fd = zp__fifo_open(zp__slot_file(place, slot, path));
    if (ring->fd < 0) {
        free(ring);
        return NULL;
    }
    if (fstat(ring->fd, &st) == 0)
        ring->file = (uint64_t)st.st_ino;
    if (ring->file && is_current(board, ring))
        ring->owned = zp__own_fd(ring->fd);
    if (ring->owned)
        return ring;
    close_ring(ring);
    return NULL;
}

/* Behind our own ones, in place of one that nobody needs if there is no other
 * place: what is to be closed, RING itself if another thread was first. */
static struct zp__ring *
put_other(zp__board *board, struct zp__ring *ring)
{
    struct zp__rings *rings = &board->rings;
    struct zp__ring **end = &rings->first, *out = NULL;

    if (find(board, ring->slot))
        return ring;
    if (rings->others >= ZP__RINGS_OTHERS) {
        out = find_unused(rings);
        if (!out)
            return ring;
        unlink_ring(rings, out);
    }
    while (*end)
        end = &(*end)->next;
    *end = ring;
    ring->used = rings->misses;
    rings->others++;
    return out;
}

void
zp__rings_open(zp__board *board, const zp__place *place, unsigned slot)
{
    struct zp__ring *ring;
    int before = errno;

    zp__rings_tidy(board);
    ring = has_room(board, slot) ? open_other(board, place, slot) : NULL;
    if (ring) {
        pthread_mutex_lock(&board->rings.lock);
        ring = put_other(board, ring);
        pthread_mutex_unlock(&board->rings.lock);
        close_ring(ring);
    }
    errno = before;
}

/* --------------------------------------------------------------- own bells --
 */

struct zp__ring *
zp__rings_add(zp__board *board, unsigned slot, int fd)
{
    struct zp__ring *ring = calloc(1, sizeof *ring);

    if (!ring)
        return NULL;
    ring->slot = slot;
    ring->fd = fd;
    pthread_mutex_lock(&board->rings.lock);
    ring->next = board->rings.first;
    board->rings.first = ring;
    pthread_mutex_unlock(&board->rings.lock);
    return ring;
}

void
zp__rings_remove(zp__board *board, struct zp__ring *ring)
{
    if (!ring)
        return;
    pthread_mutex_lock(&board->rings.lock);
    unlink_ring(&board->rings, ring);
    pthread_mutex_unlock(&board->rings.lock);
    free(ring);
}
