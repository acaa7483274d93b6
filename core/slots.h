/*
 * slots.h - the watchers' own bells: a slot of the board and a FIFO for each
 * watching context, rung by who has written, or by the state server before it
 * sends messages.
 *
 * A bell is a hint that comes early. The subscriptions, their confirmation and
 * what must arrive stay with PUB/SUB (wire.h); a context without a bell (no
 * slot, descriptor or FIFO left) lives by these alone.
 *
 *     watcher:  claims a slot; sets the bits of its topics, then subscribes.
 *               On the bell: reads it dry; rung = 0; full fence; reads the log.
 *               The same from "rung = 0" on for whatever else wakes it.
 *     ringer:   has committed, or read the log; full fence; for each slot with
 *               a bit set: if rung was 0 and is not now: one byte (EAGAIN is
 *               fine). This is the writer, under the lock, if there are few
 *               (store_call.c), else the server.
 *
 * A ringer that finds `rung` set may leave it at that: the watcher has still to
 * take it back, and reads the log behind that. Reading the FIFO after taking
 * it back could swallow a byte whose flag stays set: silence ever after. A
 * ringer that is killed between flag and byte leaves the flag set, too: the
 * next server takes back all flags before it serves, and so does who gets the
 * lock that a dead writer held; the message covers the rest. The flag says when
 * it was set, so that the server need not ask who did.
 *
 * A slot whose bits are 0 and whose owner is 0 is free. Its FIFO, "bell.N", is
 * made by its first owner and stays as long as the state: who still has it
 * open from before rings a stranger, which is a wake-up for nothing. The owner
 * says in the slot which file it has open: a writer, whose ring may be the only
 * one, leaves all that is another to the server.
 */
#ifndef ZP_CORE_SLOTS_H
#define ZP_CORE_SLOTS_H

#include "core/board.h"

struct zp__owned;
struct zp__ring;

typedef struct zp__bell {
    unsigned slot;
    int fd;
    struct zp__owned *owned;
    struct zp__ring *ring; /* for those of this process who ring it */
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

/* A time in ms, never 0, that goes round every 49 days. */
uint32_t zp__slot_now(void);

/* The ringer's half, behind its fence: true if a byte has to be written. */
static inline bool
zp__slot_ring(zp__slot *slot)
{
    return !atomic_load_explicit(&slot->rung, memory_order_relaxed) &&
           !atomic_exchange(&slot->rung, zp__slot_now());
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

/* For the one server: free a slot if its process has ended; all such. */
void zp__slot_check(zp__board *board, unsigned slot);
void zp__slots_clear(zp__board *board);

/* Take back every flag: who may have died before the byte? */
void zp__slots_hush(zp__board *board);

/* The path of a slot's FIFO, into BUFFER of ZP__PATH_MAX bytes. */
const char *zp__slot_file(const zp__place *place, unsigned slot, char *buffer);

/* The bells that this process has open, to ring them: those of its own contexts
 * and ZP__RINGS_OTHERS at most of other processes (board_rings.c). */
#define ZP__RINGS_OTHERS 4

void zp__rings_init(zp__board *board);
void zp__rings_close(zp__board *board);

/* Ring N slots (32 at most), behind a fence and under the board's lock. Returns
 * a bit for each that could not be rung, since its bell is not open here. */
uint32_t zp__rings_ring(zp__board *board, const unsigned *slots, unsigned n);

/* Open the bell of SLOT for the next time, if there is room for it. Better not
 * under the board's lock. Failing is no error: then it is not open. */
void zp__rings_open(zp__board *board, const zp__place *place, unsigned slot);

/* Close those whose slots are not what they were. */
void zp__rings_tidy(zp__board *board);

/* For zp__slot_claim() and zp__slot_release(): a bell of this process. NULL: no
 * memory. */
struct zp__ring *zp__rings_add(zp__board *board, unsigned slot, int fd);
void zp__rings_remove(zp__board *board, struct zp__ring *ring);

#endif
