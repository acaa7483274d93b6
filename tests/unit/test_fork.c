/*
 * test_fork.c - the token and the registry, across forks of all kinds.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/fork.h"

#define PAGE 4096

/* ---- helpers ---- */

static bool
is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/* Is the page at ADDRESS mapped? */
static bool
is_mapped(void *address)
{
    unsigned char in_core;
    return mincore(address, PAGE, &in_core) == 0 || errno != ENOMEM;
}

/* Fork as zp_spawn() does; the child's exit status is what CHECK returns. */
static int
in_child(const char *run_dir, int (*check)(void *user), void *user)
{
    zp__fork_prepare();
    pid_t pid = fork();
    if (pid == 0) {
        zp__fork_child(run_dir);
        _exit(check(user));
    }
    zp__fork_parent();
    assert_true(pid > 0);
    return zp_test_wait(pid, 20);
}

struct things {
    int gone[8]; /* must be closed in the child */
    int kept[8]; /* must be open */
    size_t n_gone, n_kept;
    void *unmapped[4];
    void *mapped[4];
    size_t n_unmapped, n_mapped;
};

/* 0, or 10 + which is not as it should be. */
static int
check_things(void *user)
{
    struct things *t = user;
    for (size_t i = 0; i < t->n_gone; i++)
        if (is_open(t->gone[i]))
            return 10 + (int)i;
    for (size_t i = 0; i < t->n_kept; i++)
        if (!is_open(t->kept[i]))
            return 20 + (int)i;
    for (size_t i = 0; i < t->n_unmapped; i++)
        if (is_mapped(t->unmapped[i]))
            return 30 + (int)i;
    for (size_t i = 0; i < t->n_mapped; i++)
        if (!is_mapped(t->mapped[i]))
            return 40 + (int)i;
    return 0;
}

static void
close_all(const struct things *t)
{
    for (size_t i = 0; i < t->n_gone; i++)
        close(t->gone[i]);
    for (size_t i = 0; i < t->n_kept; i++)
        close(t->kept[i]);
}

static int
open_file(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 4 * PAGE), 0);
    return fd;
}

static void *
map(int fd, size_t size)
{
    void *address = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(address != MAP_FAILED);
    return address;
}

/* ---- the token ---- */

/* What becomes of the token on the way down. */
static int
descend(void *user)
{
    uint64_t *seen = user; /* seen[0]: how many */
    uint64_t token = zp__token();
    if (token == 0 || token != zp__token())
        return 1;
    for (uint64_t i = 1; i <= seen[0]; i++)
        if (seen[i] == token)
            return 2;
    seen[++seen[0]] = token;
    if (seen[0] == 6)
        return 0;
    return zp_test_wait(zp_test_fork(descend, seen), 20);
}

static void
test_a_fork_changes_the_token(void **state)
{
    (void)state;
    uint64_t seen[8] = {0};
    assert_int_equal(descend(seen), 0);
    assert_true(zp__token() == seen[1]);
}

/* A child may use no token, and its own child then still has another. */
static int
skip_a_generation(void *user)
{
    uint64_t seen[8] = {1, *(uint64_t *)user};
    return zp_test_wait(zp_test_fork(descend, seen), 20);
}

static void
test_a_generation_may_be_skipped(void **state)
{
    (void)state;
    uint64_t token = zp__token();
    pid_t pid = zp_test_fork(skip_a_generation, &token);
    assert_int_equal(zp_test_wait(pid, 20), 0);
}

#define THREADS 8
static _Atomic int ready;

static void *
tell_token(void *user)
{
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < THREADS)
        sched_yield();
    *(uint64_t *)user = zp__token();
    return NULL;
}

/* The first look at the token, by many threads at once. */
static int
ask_in_threads(void *user)
{
    (void)user;
    pthread_t threads[THREADS];
    uint64_t tokens[THREADS];
    atomic_store(&ready, 0);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, tell_token, &tokens[i]) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++)
        if (tokens[i] != zp__token())
            return 2;
    return 0;
}

static void
test_threads_agree_on_the_token(void **state)
{
    (void)state;
    for (int i = 0; i < 20; i++)
        assert_int_equal(zp_test_wait(zp_test_fork(ask_in_threads, NULL), 20),
                         0);
}

/* From here on madvise(..., 18) is -EINVAL, as on a kernel before 4.14. */
static bool
forbid_wipeonfork(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 16 + 2 * 8),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 18, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

#define NO_SECCOMP 77

static int
ask_old_kernel(void *user)
{
    uint64_t seen[8] = {0};
    (void)user;
    if (zp__token_page)
        return 50; /* too late: a test before this one asked */
    if (!forbid_wipeonfork())
        return NO_SECCOMP;
    int rc = ask_in_threads(NULL);
    if (rc == 0)
        rc = descend(seen);
    return zp__token_page ? 51 : rc;
}

/* Must be the first test: the choice is made once per process. */
static void
test_an_old_kernel_will_do(void **state)
{
    (void)state;
    int rc = zp_test_wait(zp_test_fork(ask_old_kernel, NULL), 20);
    if (rc == NO_SECCOMP)
        skip();
    assert_int_equal(rc, 0);
}

/* ---- descriptors ---- */

static void
test_what_libraries_opened_is_closed(void **state)
{
    (void)state;
    int before = eventfd(0, EFD_CLOEXEC), pair[2], pipes[2];
    zp__own_begin();
    int event = eventfd(0, EFD_CLOEXEC), poll = epoll_create1(EPOLL_CLOEXEC);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    int file = open_file(zp_test_path("file"));
    int net = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    zp__owned *group = zp__own_end(NULL);
    int after = eventfd(0, EFD_CLOEXEC);
    assert_non_null(group);
    struct things t = {{event, poll, pipes[0], pipes[1], pair[0], pair[1]},
                       {before, after, file, net},
                       .n_gone = 6,
                       .n_kept = 4};
    assert_int_equal(in_child(NULL, check_things, &t), 0);
    for (size_t i = 0; i < t.n_gone; i++)
        assert_true(is_open(t.gone[i]));
    zp__own_forget(group);
    t.n_kept = 0;
    memcpy(t.kept, t.gone, sizeof t.gone);
    struct things all = t;
    all.n_kept = t.n_gone;
    all.n_gone = 0;
    assert_int_equal(in_child(NULL, check_things, &all), 0);
    close_all(&t);
    close(before);
    close(after);
    close(file);
    close(net);
}

static void
test_a_number_used_again_is_kept(void **state)
{
    (void)state;
    zp__own_begin();
    int first = eventfd(0, EFD_CLOEXEC), second = eventfd(0, EFD_CLOEXEC);
    zp__owned *group = zp__own_end(NULL);
    zp__owned *single = zp__own_fd(second);
    int third = open_file(zp_test_path("old"));
    zp__owned *other = zp__own_fd(third);
    close(first);
    close(third);
    assert_int_equal(epoll_create1(EPOLL_CLOEXEC), first);
    assert_int_equal(open_file(zp_test_path("new")), third);
    struct things t = {{second}, {first, third}, .n_gone = 1, .n_kept = 2};
    assert_int_equal(in_child(NULL, check_things, &t), 0);
    zp__own_forget(group);
    zp__own_forget(single);
    zp__own_forget(other);
    close_all(&t);
}

static void
test_files_and_maps_below_a_prefix(void **state)
{
    (void)state;
    char dir[100], path[128];
    snprintf(dir, sizeof dir, "%s", zp_test_path("data"));
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(path, sizeof path, "%s/users", dir);
    int users = open_file(path);
    void *users_map = map(users, PAGE);
    zp__own_begin();
    snprintf(path, sizeof path, "%s/lock.mdb", dir);
    int lock = open_file(path);
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    int data = open_file(path);
    void *lock_map = map(lock, PAGE);
    void *data_map = map(data, 4 * PAGE), *data_again = map(data, PAGE);
    int elsewhere = open_file(zp_test_path("data-of-others"));
    void *other_map = map(elsewhere, PAGE);
    int event = eventfd(0, EFD_CLOEXEC);
    zp__owned *group = zp__own_end(dir);
    assert_non_null(group);
    /* the run directory gets its final name while the files are open */
    assert_int_equal(rename(dir, zp_test_path("renamed")), 0);
    struct things t = {
        {lock, data},
        {users, elsewhere, event},
        2,
        3,
        {lock_map, data_map, (char *)data_map + 3 * PAGE, data_again},
        {users_map, other_map},
        4,
        2};
    assert_int_equal(in_child(NULL, check_things, &t), 0);
    assert_true(is_mapped(data_map));
    zp__own_forget(group);
    munmap(lock_map, PAGE);
    munmap(data_map, 4 * PAGE);
    munmap(data_again, PAGE);
    munmap(users_map, PAGE);
    munmap(other_map, PAGE);
    close_all(&t);
}

static void
test_a_prefix_may_be_a_link(void **state)
{
    (void)state;
    char path[128];
    assert_int_equal(mkdir(zp_test_path("real"), 0700), 0);
    assert_int_equal(symlink("real", zp_test_path("link")), 0);
    snprintf(path, sizeof path, "%s/x", zp_test_path("link"));
    zp__own_begin();
    int fd = open_file(path);
    void *address = map(fd, PAGE);
    zp__owned *group = zp__own_end(zp_test_path("link"));
    struct things t = {
        {fd}, .n_gone = 1, .unmapped = {address}, .n_unmapped = 1};
    assert_int_equal(in_child(NULL, check_things, &t), 0);
    zp__own_forget(group);
    munmap(address, PAGE);
    close_all(&t);
}

static void
test_single_things(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_CLOEXEC);
    void *address = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    zp__owned *owned[3] = {zp__own_fd(fd), zp__own_map(address, PAGE),
                           zp__own_map(other, PAGE)};
    zp__own_forget(owned[2]);
    struct things t = {{fd},
                       .n_gone = 1,
                       .unmapped = {address},
                       .n_unmapped = 1,
                       .mapped = {other},
                       .n_mapped = 1};
    assert_int_equal(in_child(NULL, check_things, &t), 0);
    zp__own_forget(owned[0]);
    zp__own_forget(owned[1]);
    zp__own_forget(NULL);
    munmap(address, PAGE);
    munmap(other, PAGE);
    close_all(&t);
}

/* ---- sockets ---- */

static struct sockaddr_un
socket_name(const char *dir, const char *file)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int n = snprintf(name.sun_path, sizeof name.sun_path, "%s/%s", dir, file);
    assert_true(n > 0 && (size_t)n < sizeof name.sun_path);
    return name;
}

static int
listener(const char *dir)
{
    struct sockaddr_un name = socket_name(dir, "pub");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mkdir(dir, 0700);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(fd, 5), 0);
    return fd;
}

static int
connection(const char *dir)
{
    struct sockaddr_un name = socket_name(dir, "pub");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof name), 0);
    return fd;
}

static void
test_sockets_of_the_state_are_closed(void **state)
{
    (void)state;
    char run[100], second[100], other[100];
    snprintf(run, sizeof run, "%s", zp_test_path("run"));
    snprintf(second, sizeof second, "%s", zp_test_path("second"));
    snprintf(other, sizeof other, "%s", zp_test_path("run2"));
    struct things t = {{listener(run), 0, listener(second)},
                       {listener(other)},
                       .n_gone = 4,
                       .n_kept = 5};
    zp__owned *dir = zp__own_dir(second);
    t.gone[1] = connection(run);
    t.gone[3] = connection(second);
    t.kept[1] = connection(other);
    t.kept[2] = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, &t.kept[3]), 0);
    assert_int_equal(in_child(run, check_things, &t), 0);
    zp__own_forget(dir);
    t.kept[5] = t.gone[2];
    t.kept[6] = t.gone[3];
    t.n_kept = 7;
    t.n_gone = 2;
    assert_int_equal(in_child(run, check_things, &t), 0);
    close_all(&t);
}

/* ---- hooks, nesting, no memory, no descriptors ---- */

static _Atomic int forgotten;

static void
forget(void)
{
    atomic_fetch_add(&forgotten, 1);
}

static void
forget_too(void)
{
    atomic_fetch_add(&forgotten, 10);
}

static int
tell_forgotten(void *user)
{
    (void)user;
    return atomic_load(&forgotten);
}

static void
test_hooks_run_once_in_the_child(void **state)
{
    (void)state;
    zp__fork_on_child(forget);
    zp__fork_on_child(forget_too);
    zp__fork_on_child(forget);
    assert_int_equal(in_child(NULL, tell_forgotten, NULL), 11);
    assert_int_equal(atomic_load(&forgotten), 0);
}

/* Descriptors of ours; valgrind has its own high above. */
static int
count_open(void)
{
    int n = 0;
    for (int fd = 0; fd < 500; fd++)
        n += is_open(fd);
    return n;
}

static int
use_registry(void *user)
{
    (void)user;
    int fd = eventfd(0, EFD_CLOEXEC);
    zp__owned *group = zp__own_fd(fd);
    zp__own_begin();
    zp__owned *empty = zp__own_end(NULL);
    zp__own_forget(group);
    zp__own_forget(empty);
    return group && empty ? 0 : 1;
}

/* A child that the application forked lets go when it says so, once. */
static int
settle(void *user)
{
    struct things *t = user;
    if (!is_open(t->gone[0]))
        return 1;
    zp__fork_settle();
    int rc = check_things(t);
    if (rc == 0 && atomic_load(&forgotten) != 11)
        rc = 2;
    if (rc == 0)
        rc = use_registry(NULL);
    zp__fork_settle();
    return rc == 0 && atomic_load(&forgotten) != 11 ? 3 : rc;
}

static void
test_a_child_of_the_application_settles(void **state)
{
    (void)state;
    int fd = eventfd(0, EFD_CLOEXEC), other = eventfd(0, EFD_CLOEXEC);
    zp__owned *group = zp__own_fd(fd);
    char path[128];
    assert_int_equal(mkdir(zp_test_path("settled"), 0700), 0);
    snprintf(path, sizeof path, "%s/x", zp_test_path("settled"));
    zp__own_begin();
    int file = open_file(path);
    void *address = map(file, PAGE);
    zp__owned *files = zp__own_end(zp_test_path("settled"));
    struct things t = {{fd, file},
                       {other},
                       .n_gone = 2,
                       .n_kept = 1,
                       .unmapped = {address},
                       .n_unmapped = 1};
    zp__fork_on_child(forget);
    zp__fork_on_child(forget_too);
    assert_int_equal(zp_test_wait(zp_test_fork(settle, &t), 20), 0);
    zp__fork_settle(); /* nothing to do here */
    assert_true(is_open(fd));
    assert_int_equal(in_child(NULL, check_things, &t), 0);
    zp__own_forget(group);
    zp__own_forget(files);
    munmap(address, PAGE);
    close_all(&t);
}

/* Each generation opens something of its own, five deep. */
static int
nest(void *user)
{
    int *depth = user, base = depth[1];
    if (depth[0]++ == 5)
        return 0;
    zp__own_begin();
    int event = eventfd(0, EFD_CLOEXEC);
    epoll_create1(EPOLL_CLOEXEC);
    zp__owned *group = zp__own_end(NULL);
    if (!group || event < 0 || count_open() != base + 2)
        return depth[0];
    zp__fork_prepare();
    pid_t pid = fork();
    if (pid == 0) {
        zp__fork_child(NULL);
        _exit(nest(depth));
    }
    zp__fork_parent();
    return zp_test_wait(pid, 20);
}

static void
test_nesting_costs_no_descriptors(void **state)
{
    (void)state;
    int depth[2] = {0, count_open()};
    pid_t pid = zp_test_fork(nest, depth);
    assert_int_equal(zp_test_wait(pid, 20), 0);
}

/* The last descriptor is taken in between: what is new is found all the same,
 * in the child, too. */
static int
own_the_last(void *user)
{
    struct things *t = user;
    struct rlimit limit;
    int fds[64], n = 0;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 64;
    setrlimit(RLIMIT_NOFILE, &limit);
    while (n < 64 && (fds[n] = dup(2)) >= 0)
        n++;
    close(fds[--n]);
    zp__own_begin();
    int last = eventfd(0, EFD_CLOEXEC);
    int more = eventfd(0, EFD_CLOEXEC);
    zp__owned *group = zp__own_end(NULL);
    if (last < 0 || more >= 0 || !group)
        return 1;
    *t =
        (struct things){{last}, {fds[0], fds[n - 1]}, .n_gone = 1, .n_kept = 2};
    return in_child("/nowhere", check_things, t);
}

static void
test_the_last_descriptor_is_recorded(void **state)
{
    (void)state;
    struct things t;
    assert_int_equal(zp_test_wait(zp_test_fork(own_the_last, &t), 20), 0);
}

static void
test_errno_survives(void **state)
{
    (void)state;
    zp__own_begin();
    errno = ENOSPC;
    zp__owned *group = zp__own_end("/nowhere");
    assert_int_equal(errno, ENOSPC);
    assert_non_null(group);
    zp__own_forget(group);
}

/* ---- threads ---- */

static _Atomic bool enough;

/* Opens and closes as contexts do; a pause leaves the lock to others. */
static void *
open_and_close(void *user)
{
    (void)user;
    while (!atomic_load(&enough)) {
        zp__own_begin();
        int fd = eventfd(0, EFD_CLOEXEC);
        zp__owned *group = zp__own_end(NULL);
        zp__owned *single = zp__own_fd(fd);
        zp__own_forget(group);
        zp__own_forget(single);
        close(fd);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return NULL;
}

/* Children of both kinds, forked while other threads hold the lock now and
 * then, must not hang on it. */
static void
test_forks_beside_threads(void **state)
{
    (void)state;
    pthread_t threads[2];
    int rounds = (int)(60 / zp_test_slow()) + 5;
    atomic_store(&enough, false);
    for (int i = 0; i < 2; i++)
        assert_int_equal(
            pthread_create(&threads[i], NULL, open_and_close, NULL), 0);
    for (int i = 0; i < rounds; i++) {
        int ours = in_child("/nowhere", use_registry, NULL);
        int plain = zp_test_wait(zp_test_fork(use_registry, NULL), 20);
        if (ours || plain) {
            atomic_store(&enough, true);
            fail_msg("round %d: %d, %d", i, ours, plain);
        }
    }
    atomic_store(&enough, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_an_old_kernel_will_do), /* first */
        ZP_TEST(test_a_fork_changes_the_token),
        ZP_TEST(test_a_generation_may_be_skipped),
        ZP_TEST(test_threads_agree_on_the_token),
        ZP_TEST(test_what_libraries_opened_is_closed),
        ZP_TEST(test_a_number_used_again_is_kept),
        ZP_TEST(test_files_and_maps_below_a_prefix),
        ZP_TEST(test_a_prefix_may_be_a_link),
        ZP_TEST(test_single_things),
        ZP_TEST(test_sockets_of_the_state_are_closed),
        ZP_TEST(test_hooks_run_once_in_the_child),
        ZP_TEST(test_a_child_of_the_application_settles),
        ZP_TEST(test_nesting_costs_no_descriptors),
        ZP_TEST(test_the_last_descriptor_is_recorded),
        ZP_TEST(test_errno_survives),
        ZP_TEST(test_forks_beside_threads),
    };
    return zp_test_main("fork", tests, sizeof tests / sizeof *tests, 60);
}
