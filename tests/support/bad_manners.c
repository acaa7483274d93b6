/*
 * bad_manners.c - does all that a test must not do, so that
 * tests/shell/fence.sh can see the fence of zp_test.h catch it.
 */
#include "tests/support/zp_test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void
good(void **state)
{
    (void)state;
    zp_test_prints((const char *const[]){"sh", "-c", "echo a; echo b", NULL},
                   "a\nb\n");
}

static void
fails(void **state)
{
    (void)state;
    assert_int_equal(1, 2);
}

static void
skipped(void **state)
{
    (void)state;
    skip();
}

static int
fails_in_child(void *user)
{
    (void)user;
    assert_int_equal(1, 2);
    return 0;
}

/* Good manners: the child's failure ends the child, not the test. */
static void
child_fails(void **state)
{
    (void)state;
    assert_int_equal(zp_test_wait(zp_test_fork(fails_in_child, NULL), 5),
                     -SIGABRT);
}

static int
hangs(void *user)
{
    (void)user;
    for (;;)
        pause();
    return 0;
}

/* Whatever the one ignores and blocks who runs us: see fence.sh. */
static void
ends_at_signals(void **state)
{
    static const int usual[] = {SIGHUP, SIGINT, SIGPIPE, SIGTERM};

    (void)state;
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        pid_t pid = zp_test_fork(hangs, NULL);
        kill(pid, usual[i]);
        assert_int_equal(zp_test_wait(pid, 5), -usual[i]);
    }
}

static void
prints_else(void **state)
{
    (void)state;
    zp_test_prints((const char *const[]){"sh", "-c", "echo a", NULL}, "b\n");
}

static void
exits_badly(void **state)
{
    (void)state;
    zp_test_prints((const char *const[]){"sh", "-c", "exit 3", NULL}, "");
}

static void
leaves_descriptor(void **state)
{
    (void)state;
    assert_true(open("/dev/null", O_RDONLY) >= 0);
}

static void
leaves_file(void **state)
{
    (void)state;
    char path[200];
    snprintf(path, sizeof(path), "%s/left", zp_test_run_dir());
    assert_int_equal(mkdir(path, 0700), 0);
}

/* It detaches as a daemon does: a new session, and its parent ends. */
static int
detaches(void *user)
{
    (void)user;
    if (fork() == 0) {
        setsid();
        for (;;)
            pause();
    }
    return 0;
}

static void
leaves_daemon(void **state)
{
    (void)state;
    assert_int_equal(zp_test_wait(zp_test_fork(detaches, NULL), 5), 0);
}

static void
waits_too_long(void **state)
{
    (void)state;
    zp_test_wait(zp_test_fork(hangs, NULL), 0.05);
}

static void
no_sign(void **state)
{
    zp_sync sync = {{*state ? 0 : -1, -1}};
    zp_sync_open(&sync);
    close(sync.fd[1]);
    sync.fd[1] = -1;
    zp_sync_wait(&sync, 5);
}

/* With an argument: what a test does that never ends. */
static void
never_ends(void **state)
{
    (void)state;
    printf("# run directory: %s\n", zp_test_run_dir());
    zp_test_fork(hangs, NULL);
    hangs(NULL);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(good),          ZP_TEST(fails),
        ZP_TEST(skipped),       ZP_TEST(child_fails),
        ZP_TEST(prints_else),   ZP_TEST(exits_badly),
        ZP_TEST(leaves_file),   ZP_TEST(leaves_descriptor),
        ZP_TEST(leaves_daemon), ZP_TEST(waits_too_long),
        ZP_TEST(no_sign),       ZP_TEST(ends_at_signals),
        ZP_TEST(good),
    };
    const struct CMUnitTest forever[] = {ZP_TEST(never_ends)};

    if (argc > 1 && !strcmp(argv[1], "never_ends"))
        return zp_test_main("forever", forever, 1, 1);
    return zp_test_main("bad manners", tests, sizeof(tests) / sizeof(tests[0]),
                        60);
}
