/*
 * A full file system and a full state. In a mount namespace of its own the run
 * directory is a tmpfs of 16 MiB, which a file fills up; where that is not
 * allowed the tests are skipped. What must hold: an error that names the
 * directory, nothing half changed, deletes go on, and when there is room again
 * so do sets.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

#define NOT_ALLOWED 77

static char mount_point[300];
static char filler[320];

static int
tell_kernel(const char *path, const char *format, unsigned id)
{
    FILE *file = fopen(path, "w");

    if (!file)
        return -1;
    fprintf(file, format, id, id);
    return fclose(file);
}

/* In a user namespace of our own: without a name in it we could own no file. */
static int
stay_who_we_are(unsigned user, unsigned group)
{
    if (tell_kernel("/proc/self/uid_map", "%u %u 1", user) != 0 ||
        tell_kernel("/proc/self/setgroups", "deny", 0) != 0)
        return -1;
    return tell_kernel("/proc/self/gid_map", "%u %u 1", group);
}

/* Mount the small tmpfs at the run directory. */
static int
enter_small_world(void)
{
    unsigned user = geteuid(), group = getegid();

    if (unshare(user == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER) != 0 ||
        (user != 0 && stay_who_we_are(user, group) != 0) ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return -1;
    snprintf(mount_point, sizeof mount_point, "%s", zp_test_run_dir());
    snprintf(filler, sizeof filler, "%s/filler", mount_point);
    return mount("tmpfs", mount_point, "tmpfs", 0, "size=16m,mode=0700");
}

/* Take all that is free in the file system. */
static void
fill_up(void)
{
    int fd = open(filler, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    static char block[4096];

    assert_true(fd >= 0);
    while (write(fd, block, sizeof block) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
}

static void
check_keys(zp_state *s, int from, int to)
{
    char key[32];
    uint64_t length;
    int64_t value;

    assert_int_equal(zp_length(s, &length), 0);
    assert_int_equal(length, to - from);
    for (int i = from; i < to; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        assert_int_equal(zp_get_int(s, key, &value), 0);
        assert_int_equal(value, i);
    }
}

static int calls;

static int
count_call(zp_state *txn, void *user)
{
    (void)user;
    calls++;
    return zp_set_int(txn, "atomic", calls);
}

/* Set new keys until it is refused; returns how many there are. */
static int
set_until_full(zp_ctx *ctx)
{
    zp_state *s = zp_ctx_state(ctx);
    char key[32];
    int n = 0, rc;

    do {
        snprintf(key, sizeof key, "key-%d", n);
        rc = zp_set_int(s, key, n);
    } while (rc == 0 && n++ < 1000000);
    assert_int_equal(rc, -ENOSPC);
    if (strstr(zp_ctx_error(ctx), zp_ctx_address(ctx)) == NULL)
        fail_msg("the directory is not in '%s'", zp_ctx_error(ctx));
    return n;
}

static int
full_file_system(void *user)
{
    zp_ctx_options options = {.size = sizeof options,
                              .max_bytes = (uint64_t)64 << 20};
    zp_ctx *ctx;
    char key[32];

    (void)user;
    if (enter_small_world() != 0)
        return NOT_ALLOWED;
    assert_int_equal(zp_ctx_new(&ctx, &options), 0);
    zp_state *s = zp_ctx_state(ctx);
    assert_int_equal(zp_set_int(s, "key-0", 0), 0);
    fill_up();
    int n = set_until_full(ctx);
    check_keys(s, 0, n);
    /* what could fail is known before an atomic function runs */
    calls = 0;
    assert_int_equal(zp_atomic(s, count_call, NULL), -ENOSPC);
    assert_int_equal(calls, 0);
    check_keys(s, 0, n);
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, "key-%d", i);
        int rc = zp_delete(s, key);
        if (rc != 0)
            print_message("# delete %d of %d: %s\n", i, n, zp_ctx_error(ctx));
        assert_int_equal(rc, 0);
        if (i % 100 == 0)
            check_keys(s, i + 1, n);
    }
    unlink(filler);
    assert_int_equal(zp_set_int(s, "key-0", 0), 0);
    assert_int_equal(zp_atomic(s, count_call, NULL), 0);
    assert_int_equal(calls, 1);
    assert_null(zp_ctx_free(ctx));
    assert_int_equal(zp_test_entries(mount_point), 0);
    return 0;
}

static int
no_room_to_start(void *user)
{
    zp_ctx *ctx = NULL;

    (void)user;
    if (enter_small_world() != 0)
        return NOT_ALLOWED;
    fill_up();
    int rc = zp_ctx_new(&ctx, NULL);
    assert_true(rc == -ENOSPC || rc == -EIO);
    assert_null(ctx);
    assert_true(strlen(zp_ctx_error(NULL)) > 0);
    assert_int_equal(zp_test_entries(mount_point), 1); /* the filler */
    unlink(filler);
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_null(zp_ctx_free(ctx));
    return 0;
}

static void
in_small_world(int (*fn)(void *user))
{
    int status = zp_test_wait(zp_test_fork(fn, NULL), 60);

    if (status == NOT_ALLOWED) {
        print_message("# mounting a tmpfs is not allowed here\n");
        skip();
    }
    assert_int_equal(status, 0);
}

static void
test_full_file_system(void **state)
{
    (void)state;
    in_small_world(full_file_system);
}

static void
test_no_room_to_start(void **state)
{
    (void)state;
    in_small_world(no_room_to_start);
}

/* The state's own limit, with a snapshot that pins old pages: the map is the
 * last line. */
static void
test_full_map(void **state)
{
    zp_ctx_options options = {.size = sizeof options,
                              .log_revisions = 64,
                              .max_bytes = (uint64_t)2 << 20};
    zp_ctx *ctx;
    zp_state *s, *pinned;
    int64_t value;
    int rc = 0, n = 0;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, &options), 0);
    s = zp_ctx_state(ctx);
    assert_int_equal(zp_set_int(s, "key-0", 0), 0);
    assert_int_equal(zp_snapshot(s, &pinned), 0);
    while (rc == 0 && n < 100000)
        rc = zp_set_int(s, "key-0", ++n);
    assert_int_equal(rc, -ENOSPC);
    assert_int_equal(zp_get_int(s, "key-0", &value), 0);
    assert_int_equal(value, n - 1);
    assert_int_equal(zp_get_int(pinned, "key-0", &value), 0);
    assert_int_equal(value, 0);
    zp_state_free(pinned);
    for (int i = 0; i < 1000; i++) {
        rc = zp_set_int(s, "key-0", i);
        if (rc != 0)
            print_message("# %d: %s\n", i, zp_ctx_error(ctx));
        assert_int_equal(rc, 0);
    }
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_full_file_system),
        ZP_TEST(test_no_room_to_start),
        ZP_TEST(test_full_map),
    };
    return zp_test_main("full", tests, sizeof tests / sizeof *tests, 90);
}
