/*
 * slots.h - the watchers' own bells: a slot of the board and a FIFO for each
 * watching context, rung by the state server before it sends messages.
 *
 * A bell is a hint that comes early. The subscriptions, their confirmation and
 * what must arrive stay with PUB/SUB (wire.h); a context without a bell (no
 * slot, descriptor or FIFO left) lives by these alone.
 *
 *     watcher:  claims a slot; sets the bits of its topics, then subscribes.
 *               On the bell: reads it dry; rung = 0; full fence; reads the log.
 *               The same from "rung = 0" on for whatever else wakes it.
 *     server:   has read the log; full fence; for each slot with a bit set:
 *               if rung was 0 and is 1 now: one byte (EAGAIN is fine).
 *
 * A ringer that finds `rung` set may leave it at that: the watcher has still to
 * take it back, and reads the log behind that. Reading the FIFO after taking
 * it back could swallow a byte whose flag stays set: silence ever after. A
 * server that is killed between flag and byte leaves the flag set, too: the
 * next one takes back all flags before it serves, the message covers the rest.
 *
 * A slot whose bits are 0 and whose owner is 0 is free. Its FIFO, "bell.N", is
 * made by its first owner and stays as long as the state: who still has it
 * open from before rings a stranger, which is a wake-up for nothing.
 */
#ifndef ZP_CORE_SLOTS_H
#define ZP_CORE_SLOTS_H

#include "core/board.h"

struct zp__owned;

typedef struct zp__bell {
    unsigned slot;
    int fd;
    struct zp__owned *owned;
} zp__bell;

/* A slot for this process, with no bits set and its bell read dry: 0,
 * -EUSERS (none left), -ENOMEM, -errno. No texts are kept. */
int zp__slot_claim(zp__board *board, const zp__place *place, zp__bell *ret);

/* Clear all bits, close the FIFO, give the slot back. */
void zp__slot_release(zp__board *board, zp__bell *bell);

/* Set or clear the bit of TOPIC's bucket, zp__slot_bucket(). Two topics may
 * have the same: the caller counts. */
void zp__slot_want(zp__board *board, const zp__bell *bell, unsigned bucket,
                   bool want);

static inline unsigned
zp__slot_bucket(uint64_t topic)
{
    return (unsigned)(topic % ZP__WANTED);
}

/* The watcher is awake: what was rung before this is in the log after it. */
static inline void
zp__slot_answer(zp__board *board, const zp__bell *bell)
{
    _Atomic uint32_t *rung = &board->shared->slots[bell->slot].rung;

    if (atomic_load_explicit(rung, memory_order_relaxed)) {
        atomic_exchange(rung, 0);
        zp__board_fence();
    }
}

/* The ringer's half, behind its fence: true if a byte has to be written. */
static inline bool
zp__slot_ring(zp__slot *slot)
{
    return !atomic_load_explicit(&slot->rung, memory_order_relaxed) &&
           !atomic_exchange(&slot->rung, 1);
}

/* The slots that want TOPIC, 64 at a time: those from WORD * 64 on. */
static inline uint64_t
zp__slot_wanting(const zp__board *board, uint64_t topic, unsigned word)
{
    return atomic_load_explicit(
        &board->shared->wanted[zp__slot_bucket(topic)][word],
        memory_order_acquire);
}

/* How many words there are to look at: none beyond was ever claimed. */
static inline unsigned
zp__slot_words(const zp__board *board)
{
    uint32_t used =
        atomic_load_explicit(&board->shared->slots_used, memory_order_acquire);

    return (used < ZP__SLOTS ? used + 63 : ZP__SLOTS) / 64;
}

/* For the one server: free a slot if its process has ended; all such; and,
 * when it starts, take back every flag. */
void zp__slot_check(zp__board *board, unsigned slot);
void zp__slots_clear(zp__board *board);
void zp__slots_hush(zp__board *board);

/* The path of a slot's FIFO, into BUFFER of ZP__PATH_MAX bytes. */
const char *zp__slot_file(const zp__place *place, unsigned slot, char *buffer);

#endif
