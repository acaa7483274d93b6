/*
 * board.h - the page of shared memory beside the store: the write lock, the
 * doorbell, the interest filter, and who owns and serves the state.
 *
 * Everything here is a hint or a lock; the truth is in the store. A damaged
 * board can delay an event, never lose or invent one.
 *
 * The doorbell, in the only order that checks clean (docs/models/doorbell.pml):
 *   writer:  commit; full fence; if interest: note it in `called`; `looked` =
 *            the commit; let go of the lock; if interest and asleep: write one
 *            byte. It never clears `asleep`.
 *   server:  asleep = 1; full fence; read the log to its end, publishing; wait
 *            for the bell; asleep = 0; read the log, publishing, until nothing
 *            is found; drain the bell; and again. Of the log it reads what was
 *            called, and what nobody has looked at (its writer died).
 *
 * The watchers have bells of their own, which the writer rings if they are few,
 * else the server, before it sends messages: their slots are here, the rules in
 * slots.h.
 */
#ifndef ZP_CORE_BOARD_H
#define ZP_CORE_BOARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/pid.h"
#include "core/place.h"

#define ZP__BOARD_MAGIC UINT64_C(0x31647261426f727a) /* "zroBard1" */
#define ZP__BOARD_VERSION 4
#define ZP__INTEREST 65536 /* buckets of the interest filter */
#define ZP__CALLS 1024     /* interesting commits that are known one by one */
#define ZP__SLOTS 1024     /* of watching contexts: a bell each (slots.h) */
#define ZP__WANTED 1024    /* buckets of topics that slots are interested in */
#define ZP__HOLDERS 1024   /* processes that the server looks after, by pid */

/* The bell of a watching context: who has it, and was it rung? Each on a cache
 * line of its own: they are written to by different processors. */
typedef struct zp__slot {
    _Alignas(64) _Atomic uint64_t owner; /* zp__slot_owner(); 0: free */
    _Atomic uint64_t file;               /* inode of the FIFO; 0: not open */
    _Atomic uint32_t rung; /* and not answered yet: when, zp__slot_now() */
} zp__slot;

/* Laid out in shared memory: fixed-size, atomics lock-free. */
typedef struct zp__shared {
    uint64_t magic;
    uint32_t version;
    uint32_t size; /* of this struct */
    uint64_t boot;
    uint64_t pid_ns;
    zp__pid owner;
    char data[ZP__PATH_MAX]; /* directory of a durable state's data.mdb; "":
                                it is in the run directory */

    /* the lock */
    pthread_mutex_t lock;        /* process-shared, robust, error-checking */
    _Atomic int32_t holder;      /* pid; 0: free */
    _Atomic int32_t waiters;     /* processes waiting for it */
    _Atomic uint64_t held_since; /* CLOCK_MONOTONIC ns */
    _Atomic uint64_t acquired;   /* how often it was taken */
    _Atomic int32_t last_holder; /* pid, for fairness */
    _Atomic uint32_t streak;     /* times in a row by last_holder */

    /* hints about the store, written by who holds the lock */
    _Atomic uint64_t head;      /* newest revision */
    _Atomic uint64_t allocated; /* bytes of data.mdb that are really there */
    _Atomic uint64_t writers;   /* source of zp_state writer ids */

    /* the doorbell and the server */
    _Atomic uint32_t asleep;
    _Atomic uint32_t closed;     /* the owner has ended */
    _Atomic uint32_t generation; /* how often a server was started */
    _Atomic int32_t server_pid;  /* 0: none yet */
    _Atomic uint64_t server_start;
    _Atomic uint64_t rings;
    _Atomic uint32_t interest[ZP__INTEREST]; /* distinct topics per bucket */

    /* what the server has to read, so that it need not read all: written under
       the lock, behind the commit and a fence (store_call.c) */
    _Atomic uint64_t looked; /* newest commit that was compared with interest */
    _Atomic uint64_t calls;  /* how many of them were of interest ... */
    _Atomic uint64_t called[ZP__CALLS]; /* ... and which, the latest */
    _Atomic uint32_t bare;   /* a watcher has no bell: the server has to know */
    _Atomic uint32_t hushes; /* how often all flags of slots were taken back */

    /* leases of keys (store_leases.c, server_leases.c): what the server has to
       look at, and when it will by itself */
    _Atomic uint64_t leases;     /* commits, twice; odd: one is under way */
    _Atomic uint64_t lease_told; /* those that need a look */
    _Atomic int64_t lease_look;  /* CLOCK_BOOTTIME ns; INT64_MAX: never */
    _Atomic uint64_t holders[ZP__HOLDERS]; /* zp__holder_word() at pid's place:
                                              it is watched to its end */

    /* the watchers' own bells: a row of `wanted` has a bit per slot */
    _Atomic uint32_t slots_used; /* none from here on was ever claimed */
    zp__slot slots[ZP__SLOTS];
    _Alignas(64) _Atomic uint64_t wanted[ZP__WANTED][ZP__SLOTS / 64];
} zp__shared;

typedef struct zp__board {
    zp__shared *shared;
    int bell;    /* O_RDWR|O_NONBLOCK|O_CLOEXEC */
    int32_t pid; /* this process: getpid() costs more than the lock */
    void *owned[3];
    struct zp__rings { /* watchers' bells that are open here: board_rings.c */
        pthread_mutex_t lock;
        struct zp__ring *first;
        unsigned others; /* that many are other processes' */
        uint64_t misses;
    } rings;
} zp__board;

/* Make board and bell in PLACE's run directory (0600), owned by this process,
 * with the head unknown (0) and nobody serving. */
int zp__board_create(const zp__place *place);

/* Map an existing one. ZP_ENOSTATE, ZP_EVERSION, ZP_ECORRUPT. */
int zp__board_open(zp__board *ret, const zp__place *place);
void zp__board_close(zp__board *board);

/* Only read who owns the state in DIR: for the sweep. -ENOENT (no board),
 * ZP_ECORRUPT, ZP_EVERSION, ZP_ENOSTATE (from before the last boot: the owner
 * is dead), -ESHUTDOWN (closed; the outputs are written), -EXDEV (of another
 * pid namespace: nobody here can tell; the owner is written), -errno.
 * zp__board_peek() does it in an open directory, and tells `data`, too
 * (RET_DATA may be NULL). No texts are kept. */
int zp__board_owner(const char *dir, zp__pid *ret);
int zp__board_peek(int dir, zp__pid *ret_owner, char ret_data[ZP__PATH_MAX]);

/* Take the write lock within TIMEOUT seconds (negative: for ever). A process
 * that had it 8 times in a row while others wait lets one of them go first.
 * 0, or 1 when the last holder died with it (the store's own lock has rolled
 * it back, the flags of all bells were taken back), -EDEADLK (this thread has
 * it), -ETIMEDOUT (text: holder, since). */
int zp__board_lock(zp__board *board, double timeout);
void zp__board_unlock(zp__board *board);

/* 64-bit topics: of a key, and of all keys of a namespace. */
uint64_t zp__topic_key(const char *ns, const char *key);
uint64_t zp__topic_ns(const char *ns);

/* The two buckets of a topic: with 1,000 topics, one in a thousand others looks
 * as if it were of interest. */
static inline uint32_t
zp__interest_bucket(uint64_t topic, int i)
{
    return (uint32_t)((i ? topic >> 32 : topic) % ZP__INTEREST);
}

/* Is anybody interested in TOPIC? To be asked after the fence. */
static inline bool
zp__board_interest(const zp__board *board, uint64_t topic)
{
    const _Atomic uint32_t *interest = board->shared->interest;

    return atomic_load_explicit(&interest[zp__interest_bucket(topic, 0)],
                                memory_order_relaxed) != 0 &&
           atomic_load_explicit(&interest[zp__interest_bucket(topic, 1)],
                                memory_order_relaxed) != 0;
}

/* After a commit: fence once, then zp__board_ring() if any of its topics is of
 * interest. zp__board_ring() writes the byte if the server is asleep. */
static inline void
zp__board_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}
void zp__board_ring(zp__board *board);

/* The server's side of the bell: read it dry. */
void zp__board_drain(zp__board *board);

/* A bell, any bell: open it for both ends (-errno, ZP_ECORRUPT: no FIFO), write
 * a byte if it is not full, read it dry. */
int zp__fifo_open(const char *path);
void zp__fifo_ring(int fd);
void zp__fifo_drain(int fd);

/* A new writer id: unique in this state, not 0. */
uint64_t zp__board_writer(zp__board *board);

bool zp__board_closed(const zp__board *board);

/* The process that serves (alive or not; pid 0: none yet). */
zp__pid zp__board_server(const zp__board *board);

#endif
