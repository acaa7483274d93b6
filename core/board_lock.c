/*
 * board_lock.c - the write lock in the board.
 *
 * It costs two atomic operations when nobody else wants it, and a few plain
 * stores that say who has it and since when. All bookkeeping is written by who
 * holds the lock; others read it without, for messages and fairness.
 *
 * Fairness. A mutex that is given back and taken again at once is never seen
 * free by a waiter that must first be woken up. So a process that had it
 * STREAK times in a row while others wait leaves it alone until one of them
 * has come in (`acquired` moves), for PATIENCE at most:
 *
 *     unlock -> waiter woken (~50 us) -> takes it -> acquired + 1 -> we queue
 *
 * `waiters` may be wrong, since a waiter that is killed does not count itself
 * out. When nobody came within PATIENCE the count is disproved and set to 0;
 * those who do wait count down no further than 0, and say every SLICE that
 * they are there. The price of a wrong count is one such pause, or some turns
 * taken out of order.
 */
#include <errno.h>
#include <sched.h>
#include <time.h>

#include "core/board.h"
#include "core/error.h"
#include "core/slots.h"
#include "core/tsan.h"

#define STREAK 8
#define PATIENCE UINT64_C(1500000) /* ns */
#define NAP 30000                  /* ns */
#define YIELDS 4
#define SECOND UINT64_C(1000000000)
#define SLICE (SECOND / 20)
#define FOREVER 1e9 /* seconds */

static uint64_t
clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t
peek64(_Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

/* Count one waiter less, but not below none. */
static void
leave_queue(zp__shared *shared)
{
    int32_t n = atomic_load_explicit(&shared->waiters, memory_order_relaxed);
    while (n > 0 && !atomic_compare_exchange_weak(&shared->waiters, &n, n - 1))
        continue;
}

/* Has this process had the lock too often while others wait? (When somebody
 * has it now, we queue up like all.) */
static bool
is_greedy(const zp__board *board)
{
    zp__shared *shared = board->shared;
    return atomic_load_explicit(&shared->waiters, memory_order_relaxed) > 0 &&
           atomic_load_explicit(&shared->last_holder, memory_order_relaxed) ==
               board->pid &&
           atomic_load_explicit(&shared->holder, memory_order_relaxed) == 0 &&
           atomic_load_explicit(&shared->streak, memory_order_relaxed) >=
               STREAK;
}

/* Stay away until another has had it, or nobody seems to want it. */
static void
let_others(zp__shared *shared)
{
    uint64_t seen = peek64(&shared->acquired);
    uint64_t end = clock_ns(CLOCK_MONOTONIC) + PATIENCE;
    for (int i = 0; peek64(&shared->acquired) == seen; i++) {
        if (clock_ns(CLOCK_MONOTONIC) >= end) {
            atomic_store(&shared->waiters, 0);
            atomic_store(&shared->streak, 0);
            return;
        }
        if (i < YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = NAP}, NULL);
    }
}

/* Until END, CLOCK_MONOTONIC ns. */
#if ZP__TSAN
/* It knows no clocklock, and no timedlock that finds the owner dead. */
static int
lock_until(pthread_mutex_t *lock, uint64_t end)
{
    int rc;
    while ((rc = pthread_mutex_trylock(lock)) == EBUSY) {
        if (clock_ns(CLOCK_MONOTONIC) >= end)
            return ETIMEDOUT;
        nanosleep(&(struct timespec){.tv_nsec = NAP}, NULL);
    }
    return rc;
}
#else
static int
lock_until(pthread_mutex_t *lock, uint64_t end)
{
    struct timespec time = {.tv_sec = (time_t)(end / SECOND),
                            .tv_nsec = (long)(end % SECOND)};
    return pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &time);
}
#endif

/* Wait for the lock: what pthread_mutex_lock() and its kin return. Who waits
 * long says so again, should the count have been disproved meanwhile, and
 * looks for itself: the one that was woken may have been stopped since. */
static int
wait_for_lock(zp__shared *shared, double timeout)
{
    bool forever = !(timeout >= 0 && timeout < FOREVER);
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t end = forever ? UINT64_MAX : now + (uint64_t)(timeout * 1e9);
    for (;;) {
        int32_t none = 0;
        int rc =
            lock_until(&shared->lock, end - now > SLICE ? now + SLICE : end);
        if (rc != ETIMEDOUT)
            return rc;
        now = clock_ns(CLOCK_MONOTONIC);
        if (now >= end)
            return rc;
        atomic_compare_exchange_strong(&shared->waiters, &none, 1);
    }
}

static int
timed_out(zp__shared *shared, double timeout)
{
    int32_t pid = atomic_load(&shared->holder);
    uint64_t since = atomic_load(&shared->held_since);
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    double held = now > since ? (double)(now - since) * 1e-9 : 0;
    char state = pid > 0 ? zp__pid_state(pid) : '\0';
    if (pid <= 0)
        return zp__fail(-ETIMEDOUT,
                        "the state's write lock was not to be had within "
                        "%g s: too many want it",
                        timeout);
    return zp__fail(-ETIMEDOUT,
                    "the state's write lock has been held for %.3g s by "
                    "process %d%s",
                    held, (int)pid,
                    state == 'T' || state == 't' ? ", which is stopped" : "");
}

/* Now it is ours: say so. */
static void
enter(const zp__board *board)
{
    zp__shared *shared = board->shared;
    uint32_t streak = 0;
    if (atomic_load_explicit(&shared->last_holder, memory_order_relaxed) ==
        board->pid)
        streak = atomic_load_explicit(&shared->streak, memory_order_relaxed);
    else
        atomic_store_explicit(&shared->last_holder, board->pid,
                              memory_order_relaxed);
    atomic_store_explicit(&shared->streak, streak + 1, memory_order_relaxed);
    atomic_store_explicit(&shared->held_since, clock_ns(CLOCK_MONOTONIC_COARSE),
                          memory_order_relaxed);
    atomic_store_explicit(&shared->holder, board->pid, memory_order_relaxed);
    atomic_store_explicit(&shared->acquired, peek64(&shared->acquired) + 1,
                          memory_order_relaxed);
}

int
zp__board_lock(zp__board *board, double timeout)
{
    zp__shared *shared = board->shared;
    if (is_greedy(board))
        let_others(shared);
    int rc = pthread_mutex_trylock(&shared->lock);
    if (rc == EBUSY) {
        atomic_fetch_add(&shared->waiters, 1);
        rc = wait_for_lock(shared, timeout);
        leave_queue(shared);
    }
    if (rc == EOWNERDEAD) {
        rc = pthread_mutex_consistent(&shared->lock);
        if (rc == 0) {
            enter(board);
            zp__slots_hush(board); /* it may have died while it rang */
            return 1;
        }
        pthread_mutex_unlock(&shared->lock);
    }
    switch (rc) {
    case 0:
        enter(board);
        return 0;
    case EBUSY:
    case ETIMEDOUT:
        return timed_out(shared, timeout);
    case EDEADLK:
        return zp__fail(-EDEADLK, "this thread is writing already");
    case ENOTRECOVERABLE:
        return zp__fail(ZP_ECORRUPT, "the state's write lock is broken");
    default:
        return zp__fail_errno(rc, "the state's write lock");
    }
}

void
zp__board_unlock(zp__board *board)
{
    atomic_store_explicit(&board->shared->holder, 0, memory_order_relaxed);
    pthread_mutex_unlock(&board->shared->lock);
}
