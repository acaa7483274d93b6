/*
 * test_place.c - the directories of states: who may have a name, who loses it,
 * and what is never touched.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utime.h>

#include "core/board.h"
#include "core/error.h"
#include "core/place.h"
#include "core/stale.h"

/* ---- helpers ---- */

static const char *
in_dir(const char *dir, const char *name)
{
    static char buffers[4][600];
    static unsigned i;
    char *buffer = buffers[i++ % 4];
    snprintf(buffer, sizeof *buffers, "%s/%s", dir, name);
    return buffer;
}

static bool
exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static mode_t
mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    return st.st_mode & 07777;
}

static void
touch(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

/* A state as zp_ctx_new() makes it, but without a store. */
static int
make(zp__place *place, const char *name, const char *path)
{
    int rc = zp__place_new(place, name, path);
    if (rc < 0)
        return rc;
    rc = zp__board_create(place);
    if (rc == 0)
        rc = zp__place_publish(place);
    if (rc < 0)
        zp__place_remove(place);
    return rc;
}

static void
must_make(zp__place *place, const char *name, const char *path)
{
    int rc = make(place, name, path);
    if (rc < 0)
        fail_msg("%s: %d: %s", name ? name : "private", rc, zp__fail_text());
}

static void
assert_text(const char *part)
{
    if (!strstr(zp__fail_text(), part))
        fail_msg("\"%s\" is not in \"%s\"", part, zp__fail_text());
}

struct plan {
    const char *name, *path;
    bool unfinished; /* ends before publishing */
};

/* Make a state and die. */
static int
make_and_end(void *user)
{
    const struct plan *plan = user;
    zp__place place;
    if (!plan->unfinished)
        return make(&place, plan->name, plan->path) == 0 ? 0 : 1;
    if (zp__place_new(&place, plan->name, plan->path) < 0)
        return 1;
    return zp__board_create(&place) == 0 ? 0 : 1;
}

static void
leave_stale(const char *name, const char *path, bool unfinished)
{
    struct plan plan = {name, path, unfinished};
    assert_int_equal(zp_test_wait(zp_test_fork(make_and_end, &plan), 20), 0);
}

/* Change a field in the board of RUN. */
static void
patch_board(const char *run, size_t offset, const void *data, size_t size)
{
    int fd = open(in_dir(run, "board"), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
    close(fd);
}

/* ---- one after the other ---- */

static void
test_a_private_state(void **state)
{
    (void)state;
    zp__place place, found;
    char temp[128];
    assert_int_equal(zp__place_new(&place, NULL, NULL), 0);
    assert_int_equal(strncmp(strrchr(place.run, '/'), "/.new-", 6), 0);
    assert_int_equal(mode_of(place.run), 0700);
    assert_string_equal(place.data, place.run);
    assert_int_equal(zp__board_create(&place), 0);
    strcpy(temp, place.run);
    assert_int_equal(zp__place_publish(&place), 0);
    assert_false(exists(temp));
    assert_int_equal(strncmp(strrchr(place.run, '/'), "/p-", 3), 0);
    assert_string_equal(place.data, place.run);
    assert_false(place.durable);
    assert_int_equal(zp__place_find(&found, place.run), 0);
    assert_string_equal(found.run, place.run);
    assert_string_equal(found.data, place.run);
    assert_false(found.durable);
    assert_int_equal(zp__place_publish(&place), -EINVAL);
    zp__place_remove(&place);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
    assert_true(exists(zp_test_run_dir())); /* it was there before us */
    zp__place_remove(&place);
    assert_int_equal(zp__place_find(&found, place.run), ZP_ENOSTATE);
}

static void
test_a_named_state(void **state)
{
    (void)state;
    zp__place place, second, found = {.durable = true};
    char pid[20], path[ZP__PATH_MAX];
    must_make(&place, "app", NULL);
    assert_string_equal(place.run, in_dir(zp_test_run_dir(), "app"));
    assert_int_equal(zp__place_find(&found, "app"), 0);
    assert_string_equal(found.run, place.run);
    assert_string_equal(zp__place_file(&found, "bell", path),
                        in_dir(place.run, "bell"));
    assert_int_equal(make(&second, "app", NULL), -EADDRINUSE);
    snprintf(pid, sizeof pid, "process %d", getpid());
    assert_text(pid);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 1);
    zp__place_remove(&place);
    assert_int_equal(zp__place_find(&found, "app"), ZP_ENOSTATE);
    assert_text("app");
}

static void
test_names(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    ".x",       "a b",
                                      "a\n", "\xc3\xa4", "a:b"};
    char longest[66];
    zp__place place;
    memset(longest, 'a', sizeof longest);
    longest[65] = '\0';
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(zp__place_new(&place, bad[i], NULL), -EINVAL);
        assert_int_equal(zp__place_find(&place, bad[i]), -EINVAL);
    }
    assert_int_equal(zp__place_new(&place, "a/b", NULL), -EINVAL);
    assert_int_equal(zp__place_new(&place, longest, NULL), -EINVAL);
    assert_int_equal(zp__place_find(&place, NULL), -EINVAL);
    assert_int_equal(zp__place_find(&place, "nobody"), ZP_ENOSTATE);
    assert_int_equal(zp__place_find(&place, "/no/where"), ZP_ENOSTATE);
    assert_int_equal(zp__place_find(&place, "/etc/passwd/x"), ZP_ENOSTATE);
    must_make(&place, "A-z_0.9", NULL);
    zp__place_remove(&place);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

static void
test_long_paths(void **state)
{
    (void)state;
    char base[150], name[65];
    zp__place place;
    /* the longest base that a private state fits into, then one more */
    snprintf(base, sizeof base, "%s/", zp_test_run_dir());
    memset(base + strlen(base), 'b', 100);
    base[57] = '\0';
    setenv("ZP_RUNTIME_DIR", base, 1);
    must_make(&place, "n", NULL);
    assert_true(strlen(place.run) + strlen("/pub") < 108);
    zp__place_remove(&place);
    memset(name, 'n', 64);
    name[64] = '\0';
    assert_int_equal(make(&place, name, NULL), -ENAMETOOLONG);
    assert_text(name);
    assert_text("99");
    assert_false(exists(base));
    memset(base + 57, 'b', 60);
    base[117] = '\0';
    setenv("ZP_RUNTIME_DIR", base, 1);
    assert_int_equal(make(&place, NULL, NULL), -ENAMETOOLONG);
    assert_text(base);
    rmdir(base);
    setenv("ZP_RUNTIME_DIR", zp_test_run_dir(), 1);
}

/* ---- the base ---- */

static int
new_in(const char *base)
{
    zp__place place;
    setenv("ZP_RUNTIME_DIR", base, 1);
    int rc = make(&place, NULL, NULL);
    if (rc == 0)
        zp__place_remove(&place);
    setenv("ZP_RUNTIME_DIR", zp_test_run_dir(), 1);
    return rc;
}

static void
test_the_base_is_made_and_removed(void **state)
{
    (void)state;
    zp__place place, other;
    const char *base = zp_test_path("base");
    setenv("ZP_RUNTIME_DIR", base, 1);
    assert_int_equal(zp__place_find(&place, "x"), ZP_ENOSTATE);
    zp__place_sweep();
    assert_false(exists(base));
    must_make(&place, NULL, NULL);
    must_make(&other, NULL, NULL);
    assert_int_equal(mode_of(base) & 0777, 0700);
    zp__place_remove(&place);
    assert_true(exists(base));
    zp__place_remove(&other);
    assert_false(exists(base));
    setenv("ZP_RUNTIME_DIR", zp_test_run_dir(), 1);
}

static void
test_a_base_that_is_not_ours_alone(void **state)
{
    (void)state;
    const char *good = zp_test_path("good"), *bad = zp_test_path("bad");
    zp__place place;
    assert_int_equal(mkdir(good, 0700), 0);
    assert_int_equal(new_in(good), 0);
    assert_true(exists(good));
    assert_int_equal(chmod(good, 0755), 0);
    assert_int_equal(new_in(good), -EACCES);
    assert_text("0755");
    chmod(good, 0700);
    assert_int_equal(symlink("good", bad), 0);
    assert_int_equal(new_in(bad), -EACCES);
    assert_text("link");
    unlink(bad);
    touch(bad);
    assert_int_equal(new_in(bad), -ENOTDIR);
    unlink(bad);
    assert_int_equal(new_in(zp_test_path("no/where")), -ENOENT);
    assert_text("where");
    if (geteuid() == 0) {
        assert_int_equal(chown(good, 1, 1), 0);
        assert_int_equal(new_in(good), -EACCES);
        assert_text("user 1");
        setenv("ZP_RUNTIME_DIR", good, 1);
        assert_int_equal(zp__place_find(&place, "x"), -EACCES);
        setenv("ZP_RUNTIME_DIR", zp_test_run_dir(), 1);
    }
}

static void
test_a_state_of_another_user(void **state)
{
    (void)state;
    zp__place place, found;
    if (geteuid() != 0)
        skip();
    must_make(&place, "app", NULL);
    assert_int_equal(chown(place.run, 1, 1), 0);
    assert_int_equal(zp__place_find(&found, place.run), -EACCES);
    assert_int_equal(make(&found, "app", NULL), -EADDRINUSE);
    zp__place_remove(&place);
    assert_true(exists(in_dir(place.run, "board")));
    assert_int_equal(chown(place.run, 0, 0), 0);
    zp__place_remove(&place);
    assert_false(exists(place.run));
}

/* ---- stale ones ---- */

static void
test_a_stale_name_is_taken(void **state)
{
    (void)state;
    zp__place place, found;
    leave_stale("app", NULL, false);
    assert_int_equal(zp__place_find(&found, "app"), ZP_ENOSTATE);
    assert_text("ended");
    must_make(&place, "app", NULL);
    assert_int_equal(zp__place_find(&found, "app"), 0);
    zp__place_remove(&place);
}

static void
test_the_sweep(void **state)
{
    (void)state;
    zp__place live, unfinished;
    must_make(&live, "live", NULL);
    assert_int_equal(zp__place_new(&unfinished, "later", NULL), 0);
    for (int i = 0; i < 3; i++) {
        leave_stale(i == 0 ? "dead" : NULL, NULL, i == 2);
        assert_int_equal(zp_test_entries(zp_test_run_dir()), 3);
        zp__place_sweep();
        assert_int_equal(zp_test_entries(zp_test_run_dir()), 2);
    }
    assert_true(exists(in_dir(live.run, "board")));
    assert_true(exists(unfinished.run));
    zp__place_remove(&live);
    zp__place_remove(&unfinished);
}

/* Hold the flock of a dead owner's server, until told. */
struct serving {
    zp_sync ready, end;
    const char *run;
};

static int
serve(void *user)
{
    struct serving *serving = user;
    zp__place place = {.durable = false};
    strcpy(place.run, serving->run);
    int lock = zp__place_flock(&place, "lock");
    if (lock < 0)
        return 1;
    zp_sync_post(&serving->ready);
    zp_sync_wait(&serving->end, 20);
    return 0;
}

static int
take_name(void *user)
{
    zp__place place;
    (void)user;
    if (make(&place, "app", NULL) < 0)
        return 1;
    zp__place_remove(&place);
    return 0;
}

static void
test_a_server_that_still_cleans_up(void **state)
{
    (void)state;
    struct serving serving = {.run = in_dir(zp_test_run_dir(), "app")};
    zp_sync_open(&serving.ready);
    zp_sync_open(&serving.end);
    leave_stale("app", NULL, false);
    pid_t server = zp_test_fork(serve, &serving);
    zp_sync_wait(&serving.ready, 20);
    zp__place_sweep();
    assert_true(exists(in_dir(serving.run, "board")));
    pid_t taker = zp_test_fork(take_name, NULL); /* waits */
    zp_sync_post(&serving.end);
    assert_int_equal(zp_test_wait(server, 20), 0);
    assert_int_equal(zp_test_wait(taker, 20), 0);
    assert_false(exists(serving.run));
    zp_sync_close(&serving.ready);
    zp_sync_close(&serving.end);
}

static void
test_a_server_that_does_not_end(void **state)
{
    (void)state;
    struct serving serving = {.run = in_dir(zp_test_run_dir(), "app")};
    zp__place place;
    zp_sync_open(&serving.ready);
    zp_sync_open(&serving.end);
    leave_stale("app", NULL, false);
    pid_t server = zp_test_fork(serve, &serving);
    zp_sync_wait(&serving.ready, 20);
    assert_int_equal(make(&place, "app", NULL), -EADDRINUSE);
    assert_text("server still runs");
    zp_sync_post(&serving.end);
    assert_int_equal(zp_test_wait(server, 20), 0);
    zp__place_sweep();
    assert_false(exists(serving.run));
    zp_sync_close(&serving.ready);
    zp_sync_close(&serving.end);
}

static void
test_a_closed_state_is_over(void **state)
{
    (void)state;
    zp__place place, next;
    uint32_t closed = 1;
    must_make(&place, "app", NULL);
    patch_board(place.run, offsetof(zp__shared, closed), &closed,
                sizeof closed);
    must_make(&next, "app", NULL);
    zp__place_remove(&place); /* too late: another has the name */
    assert_true(exists(in_dir(next.run, "board")));
    zp__place_remove(&next);
    assert_false(exists(next.run));
}

static void
test_other_boots_and_namespaces(void **state)
{
    (void)state;
    zp__place place, found;
    uint64_t other = 1;
    must_make(&place, "boot", NULL);
    patch_board(place.run, offsetof(zp__shared, boot), &other, sizeof other);
    assert_int_equal(zp__place_find(&found, "boot"), ZP_ENOSTATE);
    zp__place_sweep();
    assert_false(exists(place.run));

    must_make(&place, "ns", NULL);
    patch_board(place.run, offsetof(zp__shared, pid_ns), &other, sizeof other);
    assert_int_equal(zp__place_find(&found, "ns"), ZP_ENOSTATE);
    assert_text("namespace");
    zp__place_sweep();
    assert_true(exists(place.run)); /* nobody can tell, and it is new */
    must_make(&found, "ns", NULL);  /* but its server is gone */
    patch_board(found.run, offsetof(zp__shared, pid_ns), &other, sizeof other);
    struct utimbuf old = {1, 1};
    assert_int_equal(utime(found.run, &old), 0);
    zp__place_sweep();
    assert_false(exists(found.run));

    uint32_t version = 99;
    must_make(&place, "version", NULL);
    patch_board(place.run, offsetof(zp__shared, version), &version,
                sizeof version);
    assert_int_equal(zp__place_find(&found, "version"), ZP_EVERSION);
    assert_int_equal(make(&found, "version", NULL), -EADDRINUSE);
    zp__place_sweep();
    assert_true(exists(place.run));
    zp__place_remove(&place);
}

/* The base may be a directory that the user keeps other things in. */
static void
test_what_is_not_ours_is_not_touched(void **state)
{
    (void)state;
    char dir[128], board[128], file[128], link[128];
    zp__place place;
    snprintf(dir, sizeof dir, "%s", in_dir(zp_test_run_dir(), "mydb"));
    snprintf(board, sizeof board, "%s", in_dir(zp_test_run_dir(), "games"));
    snprintf(file, sizeof file, "%s", in_dir(zp_test_run_dir(), "file"));
    snprintf(link, sizeof link, "%s", in_dir(zp_test_run_dir(), "link"));
    assert_int_equal(mkdir(dir, 0700), 0);
    touch(in_dir(dir, "data.mdb"));
    touch(in_dir(dir, "lock"));
    assert_int_equal(mkdir(board, 0700), 0);
    touch(in_dir(board, "board"));
    touch(in_dir(board, "pieces"));
    touch(file);
    assert_int_equal(symlink("mydb", link), 0);
    zp__place_sweep();
    assert_int_equal(make(&place, "mydb", NULL), -EADDRINUSE);
    assert_int_equal(make(&place, "games", NULL), -EADDRINUSE);
    assert_int_equal(make(&place, "file", NULL), -EADDRINUSE);
    assert_int_equal(make(&place, "link", NULL), -EADDRINUSE);
    assert_text("in the way");
    assert_int_equal(zp_test_entries(dir), 2);
    assert_int_equal(zp_test_entries(board), 2);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 4);
    /* but the remains of one of ours are */
    unlink(in_dir(dir, "data.mdb"));
    must_make(&place, "mydb", NULL);
    zp__place_remove(&place);
    unlink(in_dir(board, "pieces"));
    must_make(&place, "games", NULL);
    zp__place_remove(&place);
    unlink(file);
    unlink(link);
}

static void
test_removing_is_careful(void **state)
{
    (void)state;
    zp__place place;
    const char *outside = zp_test_path("outside");
    touch(outside);
    must_make(&place, "app", NULL);
    assert_int_equal(symlink(outside, in_dir(place.run, "data.mdb")), 0);
    touch(in_dir(place.run, "mine"));
    zp__place_remove(&place);
    assert_true(exists(outside));
    assert_int_equal(zp_test_entries(place.run), 1);
    unlink(in_dir(place.run, "mine"));
    zp__place_remove(&place);
    assert_false(exists(place.run));
    zp__place none = {.durable = false};
    zp__place_remove(&none);
}

/* ---- durable ones ---- */

static void
test_a_durable_state(void **state)
{
    (void)state;
    zp__place place, second, found;
    char data[128], given[140];
    snprintf(data, sizeof data, "%s", zp_test_path("data"));
    snprintf(given, sizeof given, "%s/", data);
    must_make(&place, NULL, given);
    assert_int_equal(mode_of(data), 0700);
    assert_string_equal(place.data, data);
    assert_true(place.durable);
    assert_int_equal(strncmp(strrchr(place.run, '/'), "/d-", 3), 0);
    touch(in_dir(data, "data.mdb"));
    assert_int_equal(zp__place_find(&found, given), 0);
    assert_string_equal(found.run, place.run);
    assert_string_equal(found.data, data);
    assert_true(found.durable);
    assert_int_equal(zp__place_find(&found, place.run), 0);
    assert_string_equal(found.data, data);
    assert_int_equal(zp__place_new(&second, NULL, data), -EADDRINUSE);
    assert_text(data);
    assert_int_equal(zp__place_new(&second, "named", data), -EADDRINUSE);
    zp__place_remove(&place);
    assert_true(exists(in_dir(data, "data.mdb")));
    assert_int_equal(zp__place_find(&found, data), ZP_ENOSTATE);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
    leave_stale(NULL, data, false);
    must_make(&place, NULL, data);
    assert_true(exists(in_dir(data, "data.mdb")));
    zp__place_remove(&place);
}

static void
test_a_durable_state_with_a_name(void **state)
{
    (void)state;
    zp__place place, late, found;
    const char *data = zp_test_path("data");
    must_make(&place, "app", data);
    assert_string_equal(place.run, in_dir(zp_test_run_dir(), "app"));
    assert_int_equal(zp__place_find(&found, "app"), 0);
    assert_string_equal(found.data, data);
    assert_int_equal(zp__place_find(&found, data), 0);
    assert_string_equal(found.run, place.run);
    assert_int_equal(zp__place_new(&late, NULL, data), -EADDRINUSE);
    zp__place_remove(&place);
    /* two that start at once, and see each other only when published */
    assert_int_equal(zp__place_new(&late, NULL, data), 0);
    assert_int_equal(zp__board_create(&late), 0);
    must_make(&place, "app", data);
    assert_int_equal(zp__place_publish(&late), -EADDRINUSE);
    zp__place_remove(&late);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 1);
    zp__place_remove(&place);
}

static void
test_bad_durable_paths(void **state)
{
    (void)state;
    zp__place place;
    touch(zp_test_path("file"));
    assert_int_equal(zp__place_new(&place, NULL, zp_test_path("file")),
                     -ENOTDIR);
    assert_int_equal(zp__place_new(&place, NULL, zp_test_path("a/b")), -ENOENT);
    assert_int_equal(zp__place_find(&place, zp_test_path("file")), -ENOTDIR);
    assert_int_equal(zp__place_new(&place, NULL, ""), -EINVAL);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

/* ---- flocks ---- */

static void
test_a_flock_is_held_once(void **state)
{
    (void)state;
    zp__place place, next;
    must_make(&place, "app", NULL);
    int lock = zp__place_flock(&place, "lock");
    assert_true(lock >= 0);
    assert_true(fcntl(lock, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(zp__place_flock(&place, "lock"), -EWOULDBLOCK);
    int start = zp__place_flock(&place, "start");
    assert_true(start >= 0);
    close(lock);
    lock = zp__place_flock(&place, "lock");
    assert_true(lock >= 0);
    close(lock);
    close(start);
    zp__place_remove(&place);
    assert_int_equal(zp__place_flock(&place, "lock"), -ENOENT);
    must_make(&next, "app", NULL);
    assert_int_equal(zp__place_flock(&place, "lock"), -ENOENT);
    zp__place_remove(&next);
}

/* With any number of descriptors: it works, or says why it does not, leaves
 * nothing, and takes no live state for a dead one. */
static int
make_with_few(void *user)
{
    struct rlimit limit;
    zp__place place = {.durable = false}, found;
    bool done = false;
    getrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < 30 && !done; i++) {
        const char *path = i % 2 ? user : NULL;
        limit.rlim_cur = (rlim_t)(i / 2 + 3);
        setrlimit(RLIMIT_NOFILE, &limit);
        int rc = make(&place, i % 2 ? NULL : "few", path);
        int busy = make(&found, "live", NULL);
        int known = zp__place_find(&found, "live");
        zp__place_sweep();
        if ((rc < 0 && rc != -EMFILE) ||
            (busy != -EADDRINUSE && busy != -EMFILE) ||
            (known < 0 && known != -EMFILE)) {
            print_error("# %d: %d %d %d\n", i, rc, busy, known);
            return 1;
        }
        done = rc == 0 && busy == -EADDRINUSE && known == 0 && path;
        if (rc == 0)
            zp__place_remove(&place);
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        if (zp_test_entries(zp_test_run_dir()) != 1)
            return 3;
    }
    return done ? 0 : 2;
}

static void
test_removing_without_descriptors(void **state)
{
    (void)state;
    struct rlimit limit, none = {0, 0};
    zp__place place, gone;
    must_make(&gone, "app", NULL);
    zp__place_remove(&gone);
    must_make(&place, "app", NULL);
    getrlimit(RLIMIT_NOFILE, &limit);
    none.rlim_max = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &none);
    zp__place_remove(&gone);
    bool kept = access(in_dir(place.run, "board"), F_OK) == 0;
    zp__place_remove(&place);
    setrlimit(RLIMIT_NOFILE, &limit);
    assert_true(kept);
    assert_false(exists(place.run));
}

static void
test_few_descriptors(void **state)
{
    (void)state;
    zp__place live;
    must_make(&live, "live", NULL);
    pid_t pid =
        zp_test_fork(make_with_few, (void *)(uintptr_t)zp_test_path("data"));
    assert_int_equal(zp_test_wait(pid, 20), 0);
    assert_true(exists(in_dir(live.run, "board")));
    zp__place_remove(&live);
    zp__place_sweep();
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

/* ---- all at once ---- */

struct crowd {
    const char *name; /* NULL: private ones */
    int rounds;
    bool crash; /* some die without removing theirs */
};

/* Whoever has the name also makes a file that only one can make. */
static int
alone_with(const char *mark)
{
    int fd = open(mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return 1;
    close(fd);
    return unlink(mark) == 0 ? 0 : 1;
}

/* One of a crowd: 0, or what went wrong. */
static int
compete(void *user)
{
    const struct crowd *crowd = user;
    char mark[128];
    snprintf(mark, sizeof mark, "%s", zp_test_path("mark"));
    for (int i = 0; i < crowd->rounds; i++) {
        zp__place place, found;
        int rc = make(&place, crowd->name, NULL);
        if (rc == -EADDRINUSE && crowd->name)
            continue;
        if (rc < 0) {
            print_error("# %d %s\n", rc, zp__fail_text());
            return 2;
        }
        if (crowd->name && alone_with(mark) != 0)
            return 3;
        if (zp__place_find(&found, place.run) != 0) {
            print_error("# %s\n", zp__fail_text());
            return 4;
        }
        if (crowd->crash && i % 7 == 3)
            _exit(0);
        zp__place_remove(&place);
    }
    return 0;
}

static void
run_crowd(struct crowd *crowd, int n, int generations)
{
    for (int g = 0; g < generations; g++) {
        pid_t pids[8];
        for (int i = 0; i < n; i++)
            pids[i] = zp_test_fork(compete, crowd);
        for (int i = 0; i < n; i++)
            assert_int_equal(zp_test_wait(pids[i], 60), 0);
    }
}

static void
test_many_want_one_name(void **state)
{
    (void)state;
    struct crowd crowd = {"app", (int)(100 / zp_test_slow()) + 3, false};
    run_crowd(&crowd, 6, 1);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

static void
test_many_want_the_name_of_the_dead(void **state)
{
    (void)state;
    struct crowd crowd = {"app", 20, true};
    run_crowd(&crowd, 6, (int)(12 / zp_test_slow()) + 1);
    zp__place_sweep();
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

static void
test_a_base_that_comes_and_goes(void **state)
{
    (void)state;
    struct crowd crowd = {NULL, (int)(100 / zp_test_slow()) + 3, false};
    const char *base = zp_test_path("base");
    setenv("ZP_RUNTIME_DIR", base, 1);
    run_crowd(&crowd, 4, 1);
    assert_false(exists(base));
    setenv("ZP_RUNTIME_DIR", zp_test_run_dir(), 1);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_a_private_state),
        ZP_TEST(test_a_named_state),
        ZP_TEST(test_names),
        ZP_TEST(test_long_paths),
        ZP_TEST(test_the_base_is_made_and_removed),
        ZP_TEST(test_a_base_that_is_not_ours_alone),
        ZP_TEST(test_a_state_of_another_user),
        ZP_TEST(test_a_stale_name_is_taken),
        ZP_TEST(test_the_sweep),
        ZP_TEST(test_a_server_that_still_cleans_up),
        ZP_TEST(test_a_server_that_does_not_end),
        ZP_TEST(test_a_closed_state_is_over),
        ZP_TEST(test_other_boots_and_namespaces),
        ZP_TEST(test_what_is_not_ours_is_not_touched),
        ZP_TEST(test_removing_is_careful),
        ZP_TEST(test_a_durable_state),
        ZP_TEST(test_a_durable_state_with_a_name),
        ZP_TEST(test_bad_durable_paths),
        ZP_TEST(test_a_flock_is_held_once),
        ZP_TEST(test_removing_without_descriptors),
        ZP_TEST(test_few_descriptors),
        ZP_TEST(test_many_want_one_name),
        ZP_TEST(test_many_want_the_name_of_the_dead),
        ZP_TEST(test_a_base_that_comes_and_goes),
    };
    return zp_test_main("place", tests, sizeof tests / sizeof *tests, 60);
}
