/*
 * token.c - the process token, by which handles notice a fork.
 *
 * It is made without locks: a child may be forked while another thread is in
 * the middle of anything. One compare-and-swap decides for the life of the
 * process (and its children) how a fork is noticed:
 *
 *     mode  0 --+--> address of a page that the kernel wipes in children
 *               +--> FALLBACK: the pid in the token is compared with getpid()
 *
 * and one more decides which token the process has; who loses takes the
 * winner's. A token is 42 bits of randomness above 22 bits of pid, so that a
 * parent and its child differ even if the randomness fails. Cost: two loads,
 * 1 ns; a getpid() in the fallback.
 */
#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "core/fork.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define PID_BITS 22 /* Linux: pids stay below 2^22 */
#define PID_MASK ((UINT64_C(1) << PID_BITS) - 1)
#define FALLBACK ((uintptr_t)1)

const volatile uint64_t *zp__token_page;
static _Atomic uintptr_t token_mode;
static _Atomic uint64_t token_fallback;
static _Atomic uint64_t token_count; /* inherited: differs along a chain */

static uint64_t
mix(uint64_t x)
{
    x = (x ^ (x >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ (x >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}

static uint64_t
new_token(void)
{
    struct timespec now = {0};
    uint64_t random = 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0)
        random = 0;
    random ^= mix((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    random ^= mix(atomic_fetch_add(&token_count, 1) + 1);
    return mix(random) << PID_BITS | ((uint64_t)getpid() & PID_MASK);
}

/* Decide, once, on a page or the fallback. */
static uintptr_t
choose_mode(void)
{
    uintptr_t mode = FALLBACK, decided = 0;
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page != MAP_FAILED && madvise(page, size, MADV_WIPEONFORK) == 0)
        mode = (uintptr_t)page;
    if (atomic_compare_exchange_strong(&token_mode, &decided, mode))
        decided = mode;
    if (page != MAP_FAILED && decided != (uintptr_t)page)
        munmap(page, size);
    return decided;
}

static uint64_t
token_in_page(uintptr_t mode)
{
    uint64_t *page = (uint64_t *)mode;
    uint64_t token = __atomic_load_n(page, __ATOMIC_ACQUIRE);
    if (!token) {
        uint64_t fresh = new_token();
        if (__atomic_compare_exchange_n(page, &token, fresh, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            token = fresh;
    }
    __atomic_store_n(&zp__token_page, page, __ATOMIC_RELEASE);
    return token;
}

static uint64_t
token_by_pid(void)
{
    uint64_t pid = (uint64_t)getpid() & PID_MASK;
    uint64_t token = atomic_load(&token_fallback);
    if (token && (token & PID_MASK) == pid)
        return token;
    uint64_t fresh = new_token();
    if (atomic_compare_exchange_strong(&token_fallback, &token, fresh))
        token = fresh;
    return token;
}

uint64_t
zp__token_slow(void)
{
    int before = errno;
    uintptr_t mode = atomic_load(&token_mode);
    if (!mode)
        mode = choose_mode();
    uint64_t token = mode == FALLBACK ? token_by_pid() : token_in_page(mode);
    errno = before;
    return token;
}
