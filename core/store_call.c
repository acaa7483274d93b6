/*
 * store_call.c - after a commit: who is interested in it, and the writer's part
 * of telling them.
 *
 *     commit, full fence --> the interest filter: nobody? that was it
 *                        --> a few watchers with bells: ring them
 *                        --> leave word for the server; ring it, if it sleeps
 *
 * The server could ring the same bells, but it would have to wake up for that:
 * a process more to get a CPU, and one that competes with the watcher for it.
 * So a writer rings a few by itself, and lets the server sleep if those are
 * all: it finds the call when it wakes by the clock, and then the late message
 * is its to send (server_bells.c). It is rung all the same when there are many,
 * so that a set does not get longer with its watchers; when somebody has no
 * bell; and at every so-manieth call, so that it never has much to read at
 * once.
 *
 * All of this is under the board's lock, since it writes what is shared (the
 * calls) and what belongs to all threads of the process (the bells that are
 * open). So a writer that dies between flag and byte is noticed by the next one
 * that takes the lock, which takes all flags back.
 */
#include <unistd.h>

#define AT_ONCE 64 /* calls that the server may have to read in one go */

#include "core/fork.h"
#include "core/slots.h"
#include "core/store_lmdb.h"

/* Who wants what was changed. */
struct wanted {
    bool any; /* somebody is interested, so the filter says */
    bool many;
    unsigned n;
    unsigned slots[ZP__RINGS];
};

static void
add_slot(struct wanted *wanted, unsigned slot)
{
    for (unsigned i = 0; i < wanted->n; i++)
        if (wanted->slots[i] == slot)
            return;
    if (wanted->n == ZP__RINGS)
        wanted->many = true;
    else
        wanted->slots[wanted->n++] = slot;
}

static void
add_topic(const zp__board *board, struct wanted *wanted, uint64_t topic)
{
    unsigned words;

    if (!zp__board_interest(board, topic))
        return;
    wanted->any = true;
    words = zp__slot_words(board);
    for (unsigned i = 0; i < words && !wanted->many; i++) {
        uint64_t bits = zp__slot_wanting(board, topic, i);

        for (; bits && !wanted->many; bits &= bits - 1)
            add_slot(wanted, i * 64 + (unsigned)__builtin_ctzll(bits));
    }
}

static void
find_wanted(const zp__txn *txn, struct wanted *wanted)
{
    const zp__board *board = &txn->store->board;
    const zp__journal *journal = &txn->journal;

    for (size_t i = 0; i < journal->n && !wanted->many; i++) {
        const zp__touch *touch = &journal->touches[i];
        const char *ns = zp__touch_ns(journal, touch);

        add_topic(board, wanted,
                  zp__topic_key(ns, zp__touch_key(journal, touch)));
        add_topic(board, wanted, zp__topic_ns(ns));
    }
}

/* ---------------------------------------------------------------- bells -- */

void
zp__rings_init(zp__store *store)
{
    for (unsigned i = 0; i < ZP__RINGS; i++)
        store->rings[i].fd = -1;
}

static void
close_ring(struct zp__ring *ring)
{
    if (ring->fd < 0)
        return;
    zp__own_forget(ring->owned);
    close(ring->fd);
    ring->fd = -1;
}

void
zp__rings_close(zp__store *store)
{
    for (unsigned i = 0; i < ZP__RINGS; i++)
        close_ring(&store->rings[i]);
}

/* The bell of SLOT, open, or -1: then the server does it. */
static int
find_ring(zp__store *store, unsigned slot)
{
    char path[ZP__PATH_MAX];
    struct zp__ring *ring;

    for (unsigned i = 0; i < ZP__RINGS; i++)
        if (store->rings[i].fd >= 0 && store->rings[i].slot == slot)
            return store->rings[i].fd;
    ring = &store->rings[store->next_ring++ % ZP__RINGS];
    close_ring(ring);
    ring->slot = slot;
    ring->fd = zp__fifo_open(zp__slot_file(&store->place, slot, path));
    if (ring->fd < 0)
        return ring->fd = -1;
    ring->owned = zp__own_fd(ring->fd);
    if (!ring->owned)
        close_ring(ring);
    return ring->fd;
}

/* Ring those who want it: true if that were all there are. */
static bool
ring_few(zp__store *store, const struct wanted *wanted)
{
    zp__shared *shared = store->board.shared;
    bool all = wanted->n > 0 &&
               !atomic_load_explicit(&shared->bare, memory_order_relaxed);

    for (unsigned i = 0; i < wanted->n; i++) {
        int fd = find_ring(store, wanted->slots[i]);

        if (fd < 0)
            all = false;
        else if (zp__slot_ring(&shared->slots[wanted->slots[i]]))
            zp__fifo_ring(fd);
    }
    return all;
}

/* `calls` before `looked`, which the server reads the other way round. A
 * commit that nobody looked at (its writer died) makes it read all of the
 * log. Returns how many there were. */
static uint64_t
leave_word(zp__txn *txn, bool called)
{
    zp__shared *shared = txn->store->board.shared;
    uint64_t calls = atomic_load_explicit(&shared->calls, memory_order_relaxed);
    uint64_t looked =
        atomic_load_explicit(&shared->looked, memory_order_relaxed);
    bool gap = looked + 1 != txn->revision;

    if (gap)
        calls += ZP__CALLS;
    if (called)
        atomic_store_explicit(&shared->called[calls++ % ZP__CALLS],
                              txn->revision, memory_order_relaxed);
    if (called || gap)
        atomic_store(&shared->calls, calls); /* and a fence before `asleep` */
    atomic_store_explicit(&shared->looked, txn->revision, memory_order_release);
    return calls;
}

bool
zp__txn_call(zp__txn *txn)
{
    struct wanted wanted = {.any = false};
    uint64_t calls;

    find_wanted(txn, &wanted);
    calls = leave_word(txn, wanted.any);
    if (!wanted.any)
        return false;
    if (!wanted.many && ring_few(txn->store, &wanted) && calls % AT_ONCE)
        return false;
    return atomic_load(&txn->store->board.shared->asleep);
}
