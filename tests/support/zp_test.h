/*
 * zp_test.h - what every test of zproc stands on.
 *
 * A test program is one cmocka group, run by zp_test_main(). Around each of
 * its tests stands a fence: a private run directory ($ZP_RUNTIME_DIR), an
 * alarm, and, after the test, a look at what it left behind. A process of its
 * own that still runs, a descriptor more than before, or a file in the run
 * directory fails the test.
 *
 *     static void
 *     test_that_it_works(void **state)
 *     {
 *         (void)state;
 *         ...
 *     }
 *
 *     int
 *     main(void)
 *     {
 *         const struct CMUnitTest tests[] = {
 *             ZP_TEST(test_that_it_works),
 *         };
 *         return zp_test_main("image", tests, 1, 30);
 *     }
 *
 * Tests do not sleep to order things: they use zp_sync pipes. zp_test_until()
 * polls, and is for facts that come true sooner or later.
 */
#ifndef ZP_TEST_H
#define ZP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A function that stays one in a trace, and crashes as it is told to. */
#ifdef __clang__
#define ZP_TEST_NO_CLONE
#else
#define ZP_TEST_NO_CLONE __attribute__((noclone))
#endif
#define ZP_TEST_BARE                                                           \
    ZP_TEST_NO_CLONE                                                           \
    __attribute__((noinline, no_sanitize("address"), no_sanitize("undefined")))

#if defined(__has_include)
#if !__has_include(<cmocka.h>)
#error "the tests need cmocka; on Debian: apt-get install libcmocka-dev"
#endif
#endif
#include <cmocka.h>

/* A test inside the fence, and one with setup and teardown of its own. The
 * run directory is there before the setup, the look comes after the
 * teardown. */
#define ZP_TEST(f) ZP_TEST_WITH(f, NULL, NULL)
#define ZP_TEST_WITH(f, up, down)                                              \
    {                                                                          \
#f, f, zp_test_setup, zp_test_teardown, &(zp_test_frame)               \
        {                                                                      \
            up, down                                                           \
        }                                                                      \
    }

typedef struct zp_test_frame {
    int (*setup)(void **state);
    int (*teardown)(void **state);
} zp_test_frame;

int zp_test_setup(void **state);
int zp_test_teardown(void **state);

/* Run N tests as the group NAME, each within SECONDS (more under valgrind and
 * sanitizers: times $ZP_TEST_SLOW), with no signal ignored or blocked, whoever
 * started us. For main() to return. */
int zp_test_main(const char *name, const struct CMUnitTest *tests, size_t n,
                 unsigned seconds);

/* How much slower than usual this run may be: 1, or $ZP_TEST_SLOW; for
 * deadlines and for the number of rounds. */
double zp_test_slow(void);

/* The private directory of the running test ($ZP_RUNTIME_DIR), and another for
 * its files: gone after the test, with whatever is in it. */
const char *zp_test_run_dir(void);
const char *zp_test_dir(void);

/* NAME in zp_test_dir(), in a static buffer that the 8th next call reuses. */
const char *zp_test_path(const char *name);

/* A file of the source tree (tests/...), likewise. */
const char *zp_test_source(const char *name);

/* --------------------------------------------------------- processes -- */

/* Fork a child that runs FN(USER) and _exits with what it returns; a cmocka
 * assertion that fails in it makes its exit status 99. Its output is flushed.
 * Returns the pid; the test fails if there can be none. */
pid_t zp_test_fork(int (*fn)(void *user), void *user);

/* Wait for PID within SECONDS: the exit status, or -signal. Too long: it is
 * killed and the test fails. */
int zp_test_wait(pid_t pid, double seconds);

/* All live (no zombie) descendants of this process; how many, at most N of
 * them in PIDS. Children whose parents ended count: the test process is a
 * subreaper. */
size_t zp_test_descendants(pid_t *pids, size_t n);

/* Say which those are, and what they are at. */
void zp_test_name_descendants(const char *why);

/* At most N live children of PARENT's main thread. Quick, and not reliable: one
 * may be left out while others end. */
size_t zp_test_children(pid_t parent, pid_t *pids, size_t n);

/* How many live descendants there are besides the two of a state: the server
 * with this pid and its warden. The test fails if one of these is none. */
size_t zp_test_others(pid_t server);

/* Kill the state server with this pid, and before it its warden, so that nobody
 * starts another one by himself. (A plain kill() is as good where that does
 * not matter.) */
void zp_test_kill_server(pid_t server);

/* Is the process stopped ('T' in /proc)? Its state letter, 0 if there is
 * none. */
char zp_test_process_state(pid_t pid);

typedef struct zp_test_run {
    const char *const *argv; /* argv[0] is a path or found in PATH */
    const char *input;       /* its standard input; NULL: /dev/null */
    double seconds;          /* 0: 10 */
} zp_test_run;

typedef struct zp_test_output {
    int status; /* exit status, or -signal */
    char *out;  /* both NUL-terminated, never NULL */
    char *err;
    size_t out_size;
} zp_test_output;

/* Run a program and collect what it prints until both of its outputs are
 * closed by all who have them. Too long: it is killed and the test fails. */
void zp_test_run_program(zp_test_output *ret, const zp_test_run *run);
void zp_test_output_free(zp_test_output *output);

/* Run it; fail unless it exits with 0 and prints exactly EXPECTED. */
void zp_test_prints(const char *const *argv, const char *expected);

/* -------------------------------------------------------------- order -- */

/* A pipe with which one process tells another to go on. */
typedef struct zp_sync {
    int fd[2];
} zp_sync;

void zp_sync_open(zp_sync *sync);
void zp_sync_close(zp_sync *sync);

/* Let one zp_sync_wait() go; in any process that inherited it. */
void zp_sync_post(const zp_sync *sync);

/* Wait for a post within SECONDS; else the test (or forked child) fails. */
void zp_sync_wait(const zp_sync *sync, double seconds);

/* Pass 8 bytes along, for pids and numbers. */
void zp_sync_send(const zp_sync *sync, int64_t number);
int64_t zp_sync_receive(const zp_sync *sync, double seconds);

/* Poll until CONDITION(USER) holds: true, or false after SECONDS (times
 * zp_test_slow()). */
bool zp_test_until(bool (*condition)(void *user), void *user, double seconds);

/* CLOCK_MONOTONIC in seconds. */
double zp_test_now(void);

/* -------------------------------------------------------------- leaks -- */

/* How many descriptors are open in this process; and bytes of address space,
 * in kB (VmSize), of memory used (VmRSS), and of memory that it shares with
 * nobody and has written to, of process PID (0: this one); -1: not known. */
int zp_test_open_fds(void);
long zp_test_vm_size(pid_t pid);
long zp_test_vm_rss(pid_t pid);
long zp_test_vm_private(pid_t pid);

/* Is this run under valgrind or a sanitizer, where memory and address space
 * cannot be judged? */
bool zp_test_instrumented(void);

/* Is it under valgrind? It runs vfork() as fork(), and knows no pidfds. */
bool zp_test_valgrind(void);

/* Under ThreadSanitizer? It ends a process that starts threads after a fork in
 * a process that had some ("dup thread with used id"). */
bool zp_test_tsan(void);

/* How many entries DIR has (-1: there is none). */
int zp_test_entries(const char *dir);

/* Remove DIR with all it holds. */
void zp_test_remove(const char *dir);

#endif
