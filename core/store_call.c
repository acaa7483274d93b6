/*
 * store_call.c - after a commit: who is interested in it, and the writer's part
 * of telling them.
 *
 *     commit, full fence --> the interest filter: nobody? that was it
 *                        --> leave word for the server
 *                        --> a few watchers, with bells: ring them
 *     the lock given back -> ring the server, if that were not all of them, or
 *                            it is its turn, and it sleeps
 *                        --> open the bells that were missed, for next time
 *
 * The server could ring the same bells, but it would have to wake up for that:
 * a process more to get a CPU, and one that competes with the watcher for it.
 * So a writer rings a few by itself, and lets the server sleep if those are
 * all: it finds the call when it wakes by the clock, and then the late message
 * is its to send (server_bells.c). It is rung all the same when there are many,
 * so that a set does not get longer with its watchers; when somebody has no
 * bell, or one that is not open here; and at every so-manieth call, so that it
 * never has much to read at once.
 *
 * Bells are rung under the board's lock: who gets it next notices that one has
 * died between flag and byte, and takes all flags back (board_lock.c).
 */
#include "core/slots.h"
#include "core/store_lmdb.h"

#define AT_ONCE 64 /* calls that the server may have to read in one go */
#define TOUCHES 64 /* of a transaction of which a writer looks at all */
#define TIDY 128   /* serials: two for each transaction */

static void
add_slot(zp__call *call, unsigned slot)
{
    for (unsigned i = 0; i < call->n; i++)
        if (call->slots[i] == slot)
            return;
    if (call->n == ZP__CALL_FEW)
        call->server = true;
    else
        call->slots[call->n++] = slot;
}

/* A topic that no slot wants is of interest to somebody whom the server alone
 * can reach. */
static void
add_topic(const zp__board *board, zp__call *call, uint64_t topic)
{
    unsigned words;
    bool found = false;

    if (!zp__board_interest(board, topic))
        return;
    call->any = true;
    words = zp__slot_words(board);
    for (unsigned i = 0; i < words && !call->server; i++) {
        uint64_t bits = zp__slot_wanting(board, topic, i);

        found |= bits != 0;
        for (; bits && !call->server; bits &= bits - 1)
            add_slot(call, i * 64 + (unsigned)__builtin_ctzll(bits));
    }
    if (!found)
        call->server = true;
}

/* Until all were looked at, or it is the server's business anyway. */
static void
find_wanted(const zp__txn *txn, zp__call *call)
{
    const zp__board *board = &txn->store->board;
    const zp__journal *journal = &txn->journal;

    call->server =
        journal->n > TOUCHES ||
        atomic_load_explicit(&board->shared->bare, memory_order_relaxed);
    for (size_t i = 0; i < journal->n && !(call->any && call->server); i++) {
        const zp__touch *touch = &journal->touches[i];
        const char *ns = zp__touch_ns(journal, touch);

        add_topic(board, call,
                  zp__topic_key(ns, zp__touch_key(journal, touch)));
        add_topic(board, call, zp__topic_ns(ns));
    }
}

/* `calls` before `looked`, which the server reads the other way round. A
 * commit that nobody looked at (its writer died) makes it read all of the
 * log. Is it the server's turn? */
static bool
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
    return gap || calls % AT_ONCE == 0;
}

void
zp__txn_call(zp__txn *txn, zp__call *call)
{
    zp__board *board = &txn->store->board;
    bool turn;

    *call = (zp__call){.tidy = txn->serial % TIDY == 1};
    find_wanted(txn, call);
    turn = leave_word(txn, call->any);
    if (!call->any) {
        call->server = false;
        return;
    }
    if (!call->server)
        call->missed = zp__rings_ring(board, call->slots, call->n);
    call->server = (call->server || call->missed || turn) &&
                   atomic_load(&board->shared->asleep);
}

void
zp__call_rest(zp__store *store, const zp__call *call)
{
    if (call->server)
        zp__board_ring(&store->board);
    for (unsigned i = 0; i < call->n; i++)
        if (call->missed >> i & 1)
            zp__rings_open(&store->board, &store->place, call->slots[i]);
    if (call->tidy)
        zp__rings_tidy(&store->board);
}
