/*
 * Running out of descriptors: with only k more allowed, each scenario fails
 * with an error that says so, for every k until it succeeds, and leaves
 * nothing behind.
 */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

static zp_ctx *ctx;
static char address[256];

static int
open_ctx(void **state)
{
    (void)state;
    int rc = zp_ctx_new(&ctx, NULL);
    if (rc == 0)
        strcpy(address, zp_ctx_address(ctx));
    return rc;
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

static int
lowest_free_fd(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

static int
start_and_stop(void)
{
    zp_ctx *mine;
    int rc = zp_ctx_new(&mine, NULL);

    if (rc == 0)
        zp_ctx_free(mine);
    return rc;
}

static int
attach(void)
{
    zp_ctx *mine;
    int64_t value;
    int rc = zp_ctx_attach(&mine, address, NULL);

    if (rc != 0)
        return rc;
    rc = zp_set_int(zp_ctx_state(mine), "x", 1);
    if (rc == 0)
        rc = zp_get_int(zp_ctx_state(mine), "x", &value);
    zp_ctx_free(mine);
    return rc;
}

static int
child(zp_ctx *mine, void *arg)
{
    (void)mine;
    (void)arg;
    return 0;
}

static int
spawn(void)
{
    zp_proc *proc;
    int rc = zp_spawn(ctx, &proc, NULL, child, NULL);

    return rc == 0 ? zp_wait(proc, NULL, 20) : rc;
}

/* What the limit of descriptors may look like: libzmq says EMFILE as well. A
 * child or server that lacks them fails for itself. */
static bool
is_lack(int rc)
{
    return rc == -EMFILE || rc == -ENFILE || rc == ZP_EFAILED ||
           rc == ZP_ENOSERVER;
}

static void
with_few(int (*scenario)(void))
{
    struct rlimit old, few;
    int rc = -EMFILE;
    int k = 0;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    int base = lowest_free_fd();
    int fds = zp_test_open_fds();
    int entries = zp_test_entries(zp_test_run_dir());
    for (; rc != 0 && k < 100; k++) {
        few = old;
        few.rlim_cur = (rlim_t)(base + k);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        rc = scenario();
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
        if (rc != 0 && !is_lack(rc))
            fail_msg("%d more: %d %s (%s)", k, rc, zp_strerror(rc),
                     zp_ctx_error(NULL));
        if (rc != 0) {
            assert_int_equal(zp_test_open_fds(), fds);
            assert_int_equal(zp_test_entries(zp_test_run_dir()), entries);
        }
    }
    assert_int_equal(rc, 0);
    print_message("# %d more are enough\n", k - 1);
}

static void
test_start(void **state)
{
    (void)state;
    with_few(start_and_stop);
}

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return 0;
}

static int
watch(void)
{
    zp_watch_options own = {.size = sizeof own, .flags = ZP_OWN, .count = 1};
    zp_ctx *mine;
    int rc = zp_ctx_attach(&mine, address, NULL);

    if (rc != 0)
        return rc;
    rc = zp_call_when_change(zp_ctx_state(mine), NULL, ZP_KEYS("x"), &own,
                             on_change, NULL);
    if (rc == 0)
        rc = zp_set_int(zp_ctx_state(mine), "x", 1);
    if (rc == 0)
        rc = zp_run(mine);
    zp_ctx_free(mine);
    return rc;
}

static int
attach_in_child(void *user)
{
    zp_ctx *none;

    (void)user;
    /* what it has inherited goes first */
    assert_int_equal(zp_ctx_attach(&none, "no-such-state", NULL), ZP_ENOSTATE);
    with_few(attach);
    return 0;
}

static void
test_attach(void **state)
{
    (void)state;
    /* in a process that does not have the store open already */
    assert_int_equal(zp_test_wait(zp_test_fork(attach_in_child, NULL), 60), 0);
}

static void
test_watch(void **state)
{
    (void)state;
    with_few(watch);
}

static void
test_spawn(void **state)
{
    (void)state;
    with_few(spawn);
    for (int i = 0; i < 20; i++)
        assert_int_equal(spawn(), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_start),
        ZP_TEST_WITH(test_attach, open_ctx, close_ctx),
        ZP_TEST_WITH(test_watch, open_ctx, close_ctx),
        ZP_TEST_WITH(test_spawn, open_ctx, close_ctx),
    };
    return zp_test_main("descriptors", tests, sizeof tests / sizeof *tests, 90);
}
