/*
 * test_crash.c - children crash in every way; what they leave in the page.
 *
 * Each way is a function with a name that the program exports, so that it is
 * to be found in the text; they are not inlined, and no sanitizer looks at
 * them, which would find the crash before the processor does. backtrace() is
 * the test's: on demand it crashes or hangs, as the real one may on a stack
 * that is in pieces.
 */
#include "tests/support/zp_test.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/crash.h"

#if defined(__x86_64__)
#define TRAP_SIGNAL SIGILL
#else
#define TRAP_SIGNAL SIGTRAP
#endif

typedef int way(void);

way write_near_null, write_in_a_static, call_abort, call_null, divide_by_zero,
    hit_a_trap, read_past_a_file, overflow_the_stack, crash_in_a_thread,
    crash_in_two_threads, raise_sigsys, raise_sigtrap, send_sigsegv,
    abort_and_unwind_badly, crash_and_unwind_badly, crash_and_unwind_for_ever,
    fork_and_crash_there, crash_nested, crash_handled;
int recurse(int depth);
void *crash_there(void *user);

/* ------------------------------------------------------------ the unwinder --
 */

static enum { UNWIND, UNWIND_BADLY, UNWIND_FOR_EVER } mode;
static int unwound;

/* Volatile: or the compiler knows what is to come. */
static int *volatile near_null = (int *)0x10;
static int (*volatile null_function)(void);
static volatile int zero, twelve = 12;

ZP_TEST_BARE int
backtrace(void **frames, int n)
{
    static int (*real)(void **frames, int n);

    unwound++;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "backtrace");
    if (mode == UNWIND_BADLY)
        *near_null = 1;
    while (mode == UNWIND_FOR_EVER)
        pause();
    return real(frames, n);
}

/* --------------------------------------------------------------- the ways --
 */

static zp__crash *page; /* shared */
static zp__crash *other_page;

ZP_TEST_BARE int
write_near_null(void)
{
    *near_null = 1;
    return 1;
}

ZP_TEST_BARE static int
hidden(void)
{
    *near_null = 2; /* not as above, or they would be one */
    return 2;
}

ZP_TEST_BARE int
write_in_a_static(void)
{
    return hidden() + 1;
}

ZP_TEST_BARE int
call_abort(void)
{
    abort();
}

ZP_TEST_BARE int
call_null(void)
{
    return null_function() + 1;
}

ZP_TEST_BARE int
divide_by_zero(void)
{
#if defined(__x86_64__)
    return twelve / zero;
#else
    return raise(SIGFPE);
#endif
}

ZP_TEST_BARE int
hit_a_trap(void)
{
    __builtin_trap();
}

ZP_TEST_BARE int
read_past_a_file(void)
{
    int fd = open(zp_test_path("empty"), O_RDWR | O_CREAT | O_EXCL, 0600);
    volatile char *map = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);

    return map[0] + 1;
}

ZP_TEST_BARE int
recurse(int depth)
{
    volatile char room[1000];

    room[0] = (char)depth;
    return zero ? 0 : recurse(depth + 1) + room[0];
}

ZP_TEST_BARE int
overflow_the_stack(void)
{
    return recurse(0);
}

ZP_TEST_BARE void *
crash_there(void *user)
{
    pthread_barrier_t *both = user;

    if (both)
        pthread_barrier_wait(both);
    *near_null = 1;
    return NULL;
}

ZP_TEST_BARE int
crash_in_a_thread(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, crash_there, NULL);
    for (;;)
        pause();
}

ZP_TEST_BARE int
crash_in_two_threads(void)
{
    pthread_barrier_t both;
    pthread_t threads[2];

    pthread_barrier_init(&both, NULL, 2);
    pthread_create(&threads[0], NULL, crash_there, &both);
    pthread_create(&threads[1], NULL, crash_there, &both);
    for (;;)
        pause();
}

ZP_TEST_BARE int
raise_sigsys(void)
{
    return raise(SIGSYS) + 1;
}

ZP_TEST_BARE int
raise_sigtrap(void)
{
    return raise(SIGTRAP) + 1;
}

ZP_TEST_BARE int
send_sigsegv(void)
{
    return kill(getpid(), SIGSEGV) + 1;
}

ZP_TEST_BARE int
abort_and_unwind_badly(void)
{
    mode = UNWIND_BADLY;
    abort();
}

ZP_TEST_BARE int
crash_and_unwind_badly(void)
{
    mode = UNWIND_BADLY;
    *near_null = 1;
    return 1;
}

ZP_TEST_BARE int
crash_and_unwind_for_ever(void)
{
    mode = UNWIND_FOR_EVER;
    *near_null = 1;
    return 1;
}

static int
crash_as_told(void *user)
{
    return (*(way **)user)();
}

ZP_TEST_BARE int
fork_and_crash_there(void)
{
    way *same = write_near_null;

    return zp_test_wait(zp_test_fork(crash_as_told, &same), 10) == -SIGSEGV ? 0
                                                                            : 1;
}

static void
reset_signals(void)
{
    const int signals[] = {SIGSEGV, SIGBUS,  SIGFPE, SIGILL,
                           SIGABRT, SIGTRAP, SIGSYS};

    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], SIG_DFL);
}

static int
install_again(void *user)
{
    (void)user;
    reset_signals();
    zp__crash_install(other_page);
    return overflow_the_stack();
}

/* A child of a child: the stack is inherited, the page another one. */
ZP_TEST_BARE int
crash_nested(void)
{
    return zp_test_wait(zp_test_fork(install_again, NULL), 10) == -SIGSEGV ? 0
                                                                           : 1;
}

ZP_TEST_BARE int
crash_handled(void)
{
    *near_null = 1;
    return 1;
}

static void
leave(int number)
{
    _exit(number);
}

/* ------------------------------------------------------------- the fences --
 */

static int
open_pages(void **state)
{
    zp__crash **pages[] = {&page, &other_page};

    (void)state;
    for (int i = 0; i < 2; i++) {
        *pages[i] = mmap(NULL, sizeof(zp__crash), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (*pages[i] == MAP_FAILED)
            return -1;
    }
    zp__crash_prepare();
    return 0;
}

static int
close_pages(void **state)
{
    (void)state;
    munmap(page, sizeof *page);
    munmap(other_page, sizeof *other_page);
    return 0;
}

#define CRASH_TEST(f) ZP_TEST_WITH(f, open_pages, close_pages)

static int
run_way(void *user)
{
    struct rlimit none = {0, 0}, small = {1 << 20, 1 << 20};
    way *this = *(way **)user;
    volatile int rc; /* not a tail call: the trace has this function */

    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_STACK, &small);
    reset_signals();
    if (this == crash_handled)
        signal(SIGSEGV, leave);
    zp__crash_install(page);
    rc = this();
    return rc;
}

/* How a child ends that goes this WAY: exit status or -signal. */
static int
end_of(way *this)
{
    return zp_test_wait(zp_test_fork(run_way, &this), 20);
}

/* Line I of TEXT has all of WHAT. */
static void
line_has(const char *text, int i, const char *what)
{
    const char *line = text;
    char copy[1024];

    assert_non_null(text);
    while (line && i--) {
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    if (!line || !*line)
        fail_msg("too few lines:\n%s", text);
    snprintf(copy, sizeof copy, "%.*s", (int)strcspn(line, "\n"), line);
    if (!strstr(copy, what))
        fail_msg("\"%s\" is not in \"%s\" of\n%s", what, copy, text);
}

static void
what_is(const char *expected)
{
    char what[64];

    assert_string_equal(
        zp__crash_what(page, atomic_load(&page->signal), what, sizeof what),
        expected);
}

/* A child that goes this WAY ends by SIGNAL, and the page says so. The text:
 * to be freed. */
static char *
text_of(way *this, int number)
{
    assert_int_equal(end_of(this), -number);
    assert_int_equal(atomic_load(&page->signal), number);
    return zp__crash_text(page);
}

/* ---------------------------------------------------------------- crashes --
 */

static void
test_a_fault(void **state)
{
    (void)state;
    char *text = text_of(write_near_null, SIGSEGV);
    line_has(text, 0, "#0  write_near_null+0x");
    line_has(text, 0, " (test_crash+0x");
    line_has(text, 1, "#1  (test_crash+0x"); /* static: no name */
    assert_true(text[strlen(text) - 1] == '\n');
    assert_true(page->address == 0x10);
    what_is("SIGSEGV at address 0x10");
    free(text);
}

static void
test_an_abort(void **state)
{
    (void)state;
    char *text = text_of(call_abort, SIGABRT);
    assert_non_null(strstr(text, "abort+0x"));
    assert_non_null(strstr(text, "call_abort+0x"));
    assert_null(strstr(text, "on_crash"));
    assert_true(page->address == 0);
    what_is("SIGABRT");
    free(text);
}

static void
test_a_stack_overflow(void **state)
{
    (void)state;
    char *text = text_of(overflow_the_stack, SIGSEGV);
    line_has(text, 0, "#0  recurse+0x");
    line_has(text, ZP__FRAMES - 1, "#47 recurse+0x");
    assert_int_equal(page->n, ZP__FRAMES);
    free(text);
}

static void
test_a_call_of_nothing(void **state)
{
    (void)state;
    char *text = text_of(call_null, SIGSEGV);
    line_has(text, 0, "#0  0x0");
    line_has(text, 1, "#1  call_null+0x");
    what_is("SIGSEGV at address 0x0");
    free(text);
}

static void
test_the_other_signals(void **state)
{
    (void)state;
    const struct {
        way *way;
        const char *name;
        int signal;
    } ways[] = {
        {divide_by_zero, "divide_by_zero+0x", SIGFPE},
        {hit_a_trap, "hit_a_trap+0x", TRAP_SIGNAL},
        {read_past_a_file, "read_past_a_file+0x", SIGBUS},
        {raise_sigsys, "raise_sigsys+0x", SIGSYS},
        {raise_sigtrap, "raise_sigtrap+0x", SIGTRAP},
        {send_sigsegv, "send_sigsegv+0x", SIGSEGV},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        memset(page, 0, sizeof *page);
        char *text = text_of(ways[i].way, ways[i].signal);
        if (!text || !strstr(text, ways[i].name))
            fail_msg("no %s in\n%s", ways[i].name, text ? text : "nothing");
        assert_null(strstr(text, "on_crash"));
        free(text);
    }
    what_is("SIGSEGV"); /* it was sent: no address */
}

static void
test_a_second_thread(void **state)
{
    (void)state;
    char *text = text_of(crash_in_a_thread, SIGSEGV);
    line_has(text, 0, "#0  crash_there+0x");
    free(text);
}

static void
test_two_threads_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++) {
        memset(page, 0, sizeof *page);
        char *text = text_of(crash_in_two_threads, SIGSEGV);
        line_has(text, 0, "#0  crash_there+0x");
        free(text);
    }
}

/* -------------------------------------------------------------- bad unwinders
 */

static void
test_an_unwinder_that_crashes(void **state)
{
    (void)state;
    char *text = text_of(abort_and_unwind_badly, SIGABRT);
    line_has(text, 0, "#0  "); /* somewhere inside raise() */
    assert_int_equal(page->n, 1);
    free(text);
    memset(page, 0, sizeof *page);
    text = text_of(crash_and_unwind_badly, SIGSEGV);
    line_has(text, 0, "#0  crash_and_unwind_badly+0x");
    assert_int_equal(page->n, 1);
    free(text);
}

static void
test_an_unwinder_that_hangs(void **state)
{
    (void)state;
    char *text = text_of(crash_and_unwind_for_ever, SIGSEGV);
    line_has(text, 0, "#0  crash_and_unwind_for_ever+0x");
    assert_int_equal(page->n, 1);
    free(text);
}

/* ------------------------------------------------------- whose story it is --
 */

static void
test_a_fork_of_its_own_is_not_told(void **state)
{
    (void)state;
    assert_int_equal(end_of(fork_and_crash_there), 0);
    assert_int_equal(atomic_load(&page->signal), 0);
    assert_null(zp__crash_text(page));
}

static void
test_a_nested_child_has_its_own_page(void **state)
{
    (void)state;
    assert_int_equal(end_of(crash_nested), 0);
    assert_int_equal(atomic_load(&page->signal), 0);
    assert_int_equal(atomic_load(&other_page->signal), SIGSEGV);
    char *text = zp__crash_text(other_page);
    line_has(text, 0, "#0  recurse+0x");
    free(text);
}

static void
test_a_handler_that_is_there_stays(void **state)
{
    (void)state;
    if (zp_test_valgrind()) /* it tells of the crash by its exit status */
        skip();
    assert_int_equal(end_of(crash_handled), SIGSEGV);
    assert_int_equal(atomic_load(&page->signal), 0);
}

static void
test_it_is_prepared_once(void **state)
{
    (void)state;
    int before = unwound;
    zp__crash_prepare();
    assert_int_equal(unwound, before);
    assert_true(before > 0);
}

/* --------------------------------------------------------------- the texts --
 */

/* What addr2line tells of the frame in line I. */
static void
found_by_addr2line(const char *text, int i, const char *function)
{
    char at[32];
    const char *argv[] = {"addr2line", "-f", "-e", "/proc/self/exe", at, NULL};
    char exe[4096];
    zp_test_run run = {.argv = argv};
    zp_test_output output;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);

    assert_true(n > 0);
    exe[n] = '\0';
    argv[3] = exe;
    while (i--)
        text = strchr(text, '\n') + 1;
    text = strstr(text, "(test_crash+0x");
    assert_non_null(text);
    snprintf(at, sizeof at, "%.*s", (int)strcspn(text + 12, ")"), text + 12);
    zp_test_run_program(&output, &run);
    if (output.status == 0)
        assert_int_equal(strncmp(output.out, function, strlen(function)), 0);
    else
        print_message("# no addr2line: %s", output.err);
    zp_test_output_free(&output);
}

static void
test_addr2line_finds_the_frames(void **state)
{
    (void)state;
    if (zp_test_valgrind()) /* /proc/self/exe is another one */
        skip();
    char *text = text_of(write_in_a_static, SIGSEGV);
    found_by_addr2line(text, 0, "hidden");
    found_by_addr2line(text, 1, "write_in_a_static");
    found_by_addr2line(text, 2, "run_way");
    free(text);
}

static void
test_any_addresses_are_only_looked_up(void **state)
{
    (void)state;
    zp__crash crash = {.signal = SIGSEGV, .n = 4};
    crash.frames[0] = 0x10;
    crash.frames[1] = UINT64_MAX;
    crash.frames[3] = 0x1000;
    char *text = zp__crash_text(&crash);
    assert_string_equal(text, "#0  0x10\n#1  0xffffffffffffffff\n#2  0x0\n"
                              "#3  0x1000\n");
    free(text);
    crash.n = INT32_MAX;
    text = zp__crash_text(&crash);
    line_has(text, ZP__FRAMES - 1, "#47 0x0");
    assert_null(strstr(text, "#48"));
    free(text);
    crash.n = -1;
    assert_null(zp__crash_text(&crash));
    crash.n = 0;
    assert_null(zp__crash_text(&crash));
    crash.n = 1;
    crash.signal = 0;
    assert_null(zp__crash_text(&crash));
}

static void
test_signals_in_words(void **state)
{
    (void)state;
    zp__crash crash = {.signal = SIGBUS, .si_code = BUS_ADRERR, .address = 64};
    char what[64], realtime[64];
    snprintf(realtime, sizeof realtime, "SIGRTMIN+%d", 2);
    const struct {
        const zp__crash *crash;
        int signal;
        const char *what;
    } words[] = {
        {NULL, SIGKILL, "SIGKILL"},
        {&crash, SIGTERM, "SIGTERM"},
        {&crash, SIGSEGV, "SIGSEGV"}, /* not the one that it tells of */
        {&crash, SIGBUS, "SIGBUS at address 0x40"},
        {NULL, SIGBUS, "SIGBUS"},
        {NULL, SIGRTMIN + 2, realtime},
        {NULL, 999, "signal 999"},
        {NULL, -1, "signal -1"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        assert_string_equal(
            zp__crash_what(words[i].crash, words[i].signal, what, sizeof what),
            words[i].what);
    crash.si_code = SI_USER;
    assert_string_equal(zp__crash_what(&crash, SIGBUS, what, sizeof what),
                        "SIGBUS");
    assert_string_equal(zp__crash_what(NULL, SIGKILL, what, 4), "SIG");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CRASH_TEST(test_a_fault),
        CRASH_TEST(test_an_abort),
        CRASH_TEST(test_a_stack_overflow),
        CRASH_TEST(test_a_call_of_nothing),
        CRASH_TEST(test_the_other_signals),
        CRASH_TEST(test_a_second_thread),
        CRASH_TEST(test_two_threads_at_once),
        CRASH_TEST(test_an_unwinder_that_crashes),
        CRASH_TEST(test_an_unwinder_that_hangs),
        CRASH_TEST(test_a_fork_of_its_own_is_not_told),
        CRASH_TEST(test_a_nested_child_has_its_own_page),
        CRASH_TEST(test_a_handler_that_is_there_stays),
        CRASH_TEST(test_it_is_prepared_once),
        CRASH_TEST(test_addr2line_finds_the_frames),
        CRASH_TEST(test_any_addresses_are_only_looked_up),
        CRASH_TEST(test_signals_in_words),
    };

    return zp_test_main("crash", tests, sizeof tests / sizeof *tests, 60);
}
