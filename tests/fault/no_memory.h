/*
 * no_memory.h - out of memory on demand: the k-th allocation of the library
 * fails, for k = 1, 2, ... until a scenario gets through without meeting it.
 * Each time there is -ENOMEM or success, and no descriptor is left. (Under
 * valgrind, which is slow, every third.)
 *
 * For one source of a program, which is linked with -Wl,--wrap=malloc and so
 * on: that wraps what libzp's objects in it call; libzmq, LMDB and libev keep
 * theirs (libzmq would abort).
 */
#ifndef ZP_TESTS_NO_MEMORY_H
#define ZP_TESTS_NO_MEMORY_H

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <zp.h>

#include "tests/support/zp_test.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *data, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *data, size_t size);
char *__wrap_strdup(const char *text);

/* 0: not armed, or fired; shared with children, where it may fire, too. */
static _Atomic long *countdown;

static bool
fires(void)
{
    if (countdown == NULL || atomic_load(countdown) <= 0 ||
        atomic_fetch_sub(countdown, 1) != 1)
        return false;
    errno = ENOMEM;
    return true;
}

void *
__wrap_malloc(size_t size)
{
    return fires() ? NULL : __real_malloc(size);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return fires() ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *data, size_t size)
{
    return fires() ? NULL : __real_realloc(data, size);
}

char *
__wrap_strdup(const char *text)
{
    return fires() ? NULL : __real_strdup(text);
}

/* For main() to begin with. */
static inline void
no_memory_init(void)
{
    countdown = mmap(NULL, sizeof *countdown, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* SCENARIO returns the first error; it is run with one failure at each place,
 * AFTER each run (unarmed) checks what must hold. */
static inline void
with_failures(int (*scenario)(void), void (*after)(int rc))
{
    int fds;

    assert_int_equal(scenario(), 0); /* everything is warm */
    after(0);
    fds = zp_test_open_fds();
    for (long k = 1; k < 5000; k += zp_test_valgrind() ? 3 : 1) {
        bool fired;
        int rc;

        atomic_store(countdown, k);
        rc = scenario();
        fired = atomic_exchange(countdown, 0) <= 0;
        if (rc != 0 && rc != -ENOMEM)
            fail_msg("allocation %ld failed: %d %s (%s)", k, rc,
                     zp_strerror(rc), zp_ctx_error(NULL));
        after(rc);
        assert_int_equal(zp_test_open_fds(), fds);
        if (!fired) {
            assert_int_equal(rc, 0);
            print_message("# %ld allocations\n", k - 1);
            return;
        }
    }
    fail_msg("no end");
}

#define TRY(call)                                                              \
    do {                                                                       \
        if (rc >= 0)                                                           \
            rc = (call);                                                       \
    } while (0)

#endif
