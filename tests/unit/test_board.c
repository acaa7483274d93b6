/*
 * test_board.c - the shared page: who may open it, the lock, the bell, topics.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/board.h"
#include "core/error.h"
#include "core/fork.h"

/* ---- helpers ---- */

static zp__place place;

static int
up(void **state)
{
    (void)state;
    if (zp__place_new(&place, "test", NULL) < 0 ||
        zp__board_create(&place) < 0 || zp__place_publish(&place) < 0)
        return -1;
    return 0;
}

static int
down(void **state)
{
    (void)state;
    zp__place_remove(&place);
    return 0;
}

static void
open_board(zp__board *board)
{
    int rc = zp__board_open(board, &place);
    if (rc < 0)
        fail_msg("%d: %s", rc, zp__fail_text());
}

static void
assert_text(const char *part)
{
    if (!strstr(zp__fail_text(), part))
        fail_msg("\"%s\" is not in \"%s\"", part, zp__fail_text());
}

static const char *
file(const char *name)
{
    static char path[ZP__PATH_MAX];
    return zp__place_file(&place, name, path);
}

static void
patch(size_t offset, const void *data, size_t size)
{
    int fd = open(file("board"), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, size, (off_t)offset), size);
    close(fd);
}

/* Memory that children share. */
static void *
shared_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    return memory;
}

/* ---- making and opening ---- */

static void
test_a_new_board(void **state)
{
    (void)state;
    zp__board board;
    zp__pid self = zp__pid_self(), owner, server;
    struct stat st;
    assert_int_equal(stat(file("board"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_true(st.st_blocks * 512 >= (off_t)sizeof(zp__shared));
    assert_int_equal(stat(file("bell"), &st), 0);
    assert_int_equal(st.st_mode, S_IFIFO | 0600);
    assert_int_equal(zp__board_owner(place.run, &owner), 0);
    assert_int_equal(owner.pid, self.pid);
    assert_true(owner.start == self.start);
    open_board(&board);
    assert_true(board.shared->owner.start == self.start);
    assert_int_equal(board.shared->head, 0);
    assert_string_equal(board.shared->data, "");
    assert_false(zp__board_closed(&board));
    server = zp__board_server(&board);
    assert_int_equal(server.pid, 0);
    int flags = fcntl(board.bell, F_GETFL);
    assert_int_equal(flags & O_ACCMODE, O_RDWR);
    assert_true(flags & O_NONBLOCK);
    assert_true(fcntl(board.bell, F_GETFD) & FD_CLOEXEC);
    atomic_store(&board.shared->server_start, 7);
    atomic_store(&board.shared->server_pid, 6);
    atomic_store(&board.shared->closed, 1);
    server = zp__board_server(&board);
    assert_int_equal(server.pid, 6);
    assert_int_equal(server.start, 7);
    assert_true(zp__board_closed(&board));
    assert_int_equal(zp__board_owner(place.run, &owner), -ESHUTDOWN);
    zp__board_close(&board);
    zp__board_close(&board);
    assert_int_equal(zp__board_create(&place), -EEXIST);
}

/* What opening says, and what the sweep is told. */
static void
refused(int opening, int owner_code)
{
    zp__board board;
    zp__pid owner = {.pid = 0};
    assert_int_equal(zp__board_open(&board, &place), opening);
    assert_text(place.run);
    assert_int_equal(zp__board_owner(place.run, &owner), owner_code);
}

static void
test_boards_that_are_refused(void **state)
{
    (void)state;
    zp__shared good;
    uint64_t other = 1;
    uint32_t version = ZP__BOARD_VERSION + 1;
    char full[ZP__PATH_MAX];
    int fd = open(file("board"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(read(fd, &good, sizeof good), sizeof good);
    close(fd);
    patch(offsetof(zp__shared, magic), &other, 8);
    refused(ZP_ECORRUPT, ZP_ECORRUPT);
    patch(0, &good, sizeof good);
    patch(offsetof(zp__shared, version), &version, 4);
    refused(ZP_EVERSION, ZP_EVERSION);
    patch(0, &good, sizeof good);
    patch(offsetof(zp__shared, size), &version, 4);
    refused(ZP_EVERSION, ZP_EVERSION);
    patch(0, &good, sizeof good);
    patch(offsetof(zp__shared, boot), &other, 8);
    refused(ZP_ENOSTATE, ZP_ENOSTATE);
    patch(0, &good, sizeof good);
    patch(offsetof(zp__shared, pid_ns), &other, 8);
    refused(ZP_ENOSTATE, -EXDEV);
    patch(0, &good, sizeof good);
    memset(full, 'x', sizeof full);
    patch(offsetof(zp__shared, data), full, sizeof full);
    refused(ZP_ECORRUPT, ZP_ECORRUPT);
    patch(0, &good, sizeof good);
    assert_int_equal(truncate(file("board"), sizeof good - 1), 0);
    refused(ZP_ECORRUPT, ZP_ECORRUPT);
    assert_int_equal(truncate(file("board"), 8), 0);
    refused(ZP_ECORRUPT, ZP_ECORRUPT);
    assert_int_equal(truncate(file("board"), 0), 0);
    refused(ZP_ECORRUPT, ZP_ECORRUPT);
    unlink(file("board"));
    refused(ZP_ENOSTATE, -ENOENT);
    assert_int_equal(mkfifo(file("board"), 0600), 0);
    refused(ZP_ECORRUPT, ZP_ECORRUPT);
}

static void
test_a_bell_that_is_none(void **state)
{
    (void)state;
    zp__board board;
    unlink(file("bell"));
    assert_int_equal(zp__board_open(&board, &place), ZP_ENOSTATE);
    int fd = open(file("bell"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    close(fd);
    assert_int_equal(zp__board_open(&board, &place), ZP_ECORRUPT);
}

/* No room for the page: an error now, not a SIGBUS later. */
static int
create_without_room(void *user)
{
    struct rlimit limit = {4096, 4096};
    zp__place *full = user;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    return zp__board_create(full) == -EFBIG ? 0 : 1;
}

static void
test_no_room(void **state)
{
    (void)state;
    zp__place full;
    assert_int_equal(zp__place_new(&full, "full", NULL), 0);
    assert_int_equal(zp_test_wait(zp_test_fork(create_without_room, &full), 20),
                     0);
    assert_int_equal(zp_test_entries(full.run), 0);
    zp__place_remove(&full);
}

static int
look_for_board(void *user)
{
    zp__board *board = user;
    unsigned char in_core;
    bool mapped = mincore(board->shared, 4096, &in_core) == 0;
    return (fcntl(board->bell, F_GETFD) >= 0) + 2 * mapped;
}

static void
test_children_lose_it(void **state)
{
    (void)state;
    zp__board board;
    open_board(&board);
    zp__fork_prepare();
    pid_t pid = fork();
    if (pid == 0) {
        zp__fork_child(NULL);
        _exit(look_for_board(&board));
    }
    zp__fork_parent();
    assert_int_equal(zp_test_wait(pid, 20), 0);
    zp__board_close(&board);
}

/* ---- the lock ---- */

static void *
try_lock(void *user)
{
    zp__board *board = user;
    static int rc;
    char pid[30];
    rc = zp__board_lock(board, 0.05);
    if (rc == 0)
        zp__board_unlock(board);
    snprintf(pid, sizeof pid, "process %d", getpid());
    if (rc == -ETIMEDOUT && !strstr(zp__fail_text(), pid))
        rc = -1;
    return &rc;
}

static int
lock_in_thread(zp__board *board)
{
    pthread_t thread;
    void *rc;
    assert_int_equal(pthread_create(&thread, NULL, try_lock, board), 0);
    pthread_join(thread, &rc);
    return *(int *)rc;
}

static void
test_lock_and_unlock(void **state)
{
    (void)state;
    zp__board board;
    open_board(&board);
    for (double timeout = -1; timeout <= 1; timeout++) {
        assert_int_equal(zp__board_lock(&board, timeout), 0);
        assert_int_equal(board.shared->holder, getpid());
        assert_true(board.shared->held_since > 0);
        assert_int_equal(zp__board_lock(&board, timeout), -EDEADLK);
        assert_text("this thread");
        zp__board_unlock(&board);
        assert_int_equal(board.shared->holder, 0);
    }
    assert_int_equal(board.shared->acquired, 3);
    assert_int_equal(zp__board_lock(&board, NAN), 0);
    assert_int_equal(lock_in_thread(&board), -ETIMEDOUT);
    zp__board_unlock(&board);
    assert_int_equal(lock_in_thread(&board), 0);
    assert_int_equal(board.shared->waiters, 0);
    zp__board_close(&board);
}

struct holding {
    zp_sync ready, end;
};

/* Take the lock; end with it. */
static int
hold(void *user)
{
    struct holding *holding = user;
    zp__board board;
    open_board(&board);
    if (zp__board_lock(&board, 10) < 0)
        return 1;
    zp_sync_post(&holding->ready);
    zp_sync_wait(&holding->end, 60);
    return 0;
}

static pid_t
start_holder(struct holding *holding)
{
    zp_sync_open(&holding->ready);
    zp_sync_open(&holding->end);
    pid_t pid = zp_test_fork(hold, holding);
    zp_sync_wait(&holding->ready, 20);
    return pid;
}

static void
end_holder(struct holding *holding)
{
    zp_sync_close(&holding->ready);
    zp_sync_close(&holding->end);
}

static void
test_a_holder_that_dies(void **state)
{
    (void)state;
    struct holding holding;
    zp__board board;
    open_board(&board);
    for (int killed = 0; killed < 2; killed++) {
        pid_t pid = start_holder(&holding);
        if (killed)
            kill(pid, SIGKILL);
        else
            zp_sync_post(&holding.end);
        assert_int_equal(zp__board_lock(&board, 20), 1);
        assert_int_equal(board.shared->holder, getpid());
        zp__board_unlock(&board);
        assert_int_equal(zp__board_lock(&board, 0), 0);
        zp__board_unlock(&board);
        zp_test_wait(pid, 20);
        end_holder(&holding);
    }
    zp__board_close(&board);
}

static void
test_a_holder_that_is_stopped(void **state)
{
    (void)state;
    struct holding holding;
    zp__board board;
    char name[40];
    int status;
    pid_t pid = start_holder(&holding);
    snprintf(name, sizeof name, "process %d", (int)pid);
    open_board(&board);
    assert_int_equal(zp__board_lock(&board, 0.01), -ETIMEDOUT);
    assert_text(name);
    assert_null(strstr(zp__fail_text(), "stopped"));
    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    double start = zp_test_now();
    assert_int_equal(zp__board_lock(&board, 0.2), -ETIMEDOUT);
    double took = zp_test_now() - start;
    assert_true(took >= 0.19 && took < 0.2 + 2 * zp_test_slow());
    assert_text(name);
    assert_text("stopped");
    start = zp_test_now();
    assert_int_equal(zp__board_lock(&board, 0), -ETIMEDOUT);
    assert_true(zp_test_now() - start < 0.2 * zp_test_slow());
    kill(pid, SIGKILL);
    zp_test_wait(pid, 20);
    assert_int_equal(zp__board_lock(&board, -1), 1);
    zp__board_unlock(&board);
    zp__board_close(&board);
    end_holder(&holding);
}

#define ROUNDS 20000

/* Not atomic: only the lock makes the sum right. */
static int
add_up(void *user)
{
    volatile long *sum = user;
    zp__board board;
    open_board(&board);
    int rounds = (int)(ROUNDS / zp_test_slow());
    for (int i = 0; i < rounds; i++) {
        if (zp__board_lock(&board, 30) != 0)
            return 1;
        *sum = *sum + 1;
        zp__board_unlock(&board);
    }
    zp__board_close(&board);
    return 0;
}

static void
test_one_at_a_time(void **state)
{
    (void)state;
    pid_t pids[4];
    long *sum = shared_memory(4096);
    for (int i = 0; i < 4; i++)
        pids[i] = zp_test_fork(add_up, sum);
    for (int i = 0; i < 4; i++)
        assert_int_equal(zp_test_wait(pids[i], 60), 0);
    assert_int_equal(*sum, 4 * (int)(ROUNDS / zp_test_slow()));
    munmap(sum, 4096);
}

static long thread_sum;

static void *
add_in_thread(void *user)
{
    zp__board *board = user;
    for (int i = 0; i < 2000; i++) {
        if (zp__board_lock(board, 30) != 0)
            return board;
        thread_sum++;
        zp__board_unlock(board);
    }
    return NULL;
}

static void
test_threads_one_at_a_time(void **state)
{
    (void)state;
    pthread_t threads[2];
    zp__board board;
    open_board(&board);
    thread_sum = 0;
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, add_in_thread, &board);
    for (int i = 0; i < 2; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(thread_sum, 4000);
    zp__board_close(&board);
}

/* ---- fairness ---- */

static void
work(long nanoseconds)
{
    double end = zp_test_now() + (double)nanoseconds * 1e-9;
    while (zp_test_now() < end)
        continue;
}

/* Have the lock nearly always, until told. */
static int
be_greedy(void *user)
{
    _Atomic int *stop = user;
    zp__board board;
    open_board(&board);
    while (!atomic_load(stop)) {
        if (zp__board_lock(&board, 30) != 0)
            return 1;
        work(30000);
        zp__board_unlock(&board);
    }
    zp__board_close(&board);
    return 0;
}

/* After a streak one stays away while another waits; after a while without
 * anybody coming, no more. */
static void
test_a_streak_ends(void **state)
{
    (void)state;
    zp__board board;
    double took[40];
    int waited = 0;
    open_board(&board);
    for (int i = 0; i < 40; i++) {
        if (i == 20)
            atomic_store(&board.shared->waiters, 1); /* it never comes */
        double start = zp_test_now();
        assert_int_equal(zp__board_lock(&board, 10), 0);
        took[i] = zp_test_now() - start;
        zp__board_unlock(&board);
        assert_int_equal(board.shared->waiters, 0);
    }
    assert_true(took[20] > 0.001);
    for (int i = 0; i < 40; i++)
        waited += took[i] > 0.001;
    assert_true(waited < 10);
    assert_int_equal(board.shared->streak, 20);
    zp__board_close(&board);
}

/* Beside a greedy process we get it, and soon. */
static void
test_the_greedy_give_way(void **state)
{
    (void)state;
    _Atomic int *stop = shared_memory(4096);
    zp__board board;
    double longest = 0;
    open_board(&board);
    pid_t pid = zp_test_fork(be_greedy, stop);
    for (int i = 0; i < 100; i++) {
        uint64_t before = atomic_load(&board.shared->acquired);
        while (atomic_load(&board.shared->acquired) < before + 10)
            sched_yield();
        double start = zp_test_now();
        assert_int_equal(zp__board_lock(&board, 30), 0);
        double took = zp_test_now() - start;
        zp__board_unlock(&board);
        longest = took > longest ? took : longest;
    }
    atomic_store(stop, 1);
    assert_int_equal(zp_test_wait(pid, 60), 0);
    assert_true(longest < zp_test_slow());
    zp__board_close(&board);
    munmap((void *)stop, 4096);
}

/* A waiter that was killed is waited for once, not for ever. */
static void
test_a_waiter_that_was_killed(void **state)
{
    (void)state;
    struct holding holding;
    zp__board board;
    open_board(&board);
    assert_int_equal(zp__board_lock(&board, 0), 0);
    zp_sync_open(&holding.ready);
    zp_sync_open(&holding.end);
    pid_t pid = zp_test_fork(hold, &holding);
    while (atomic_load(&board.shared->waiters) == 0)
        sched_yield();
    kill(pid, SIGKILL);
    zp_test_wait(pid, 20);
    zp__board_unlock(&board);
    assert_int_equal(board.shared->waiters, 1);
    double start = zp_test_now();
    for (int i = 0; i < 8000; i++) {
        assert_int_equal(zp__board_lock(&board, 10), 0);
        zp__board_unlock(&board);
    }
    assert_int_equal(board.shared->waiters, 0);
    assert_true(zp_test_now() - start < 0.5 * zp_test_slow());
    zp__board_close(&board);
    end_holder(&holding);
}

/* Nor does a real waiter fall out of the count for good. */
static void
test_a_waiter_counts_itself_again(void **state)
{
    (void)state;
    struct holding holding;
    zp__board board;
    open_board(&board);
    assert_int_equal(zp__board_lock(&board, 0), 0);
    zp_sync_open(&holding.ready);
    zp_sync_open(&holding.end);
    pid_t pid = zp_test_fork(hold, &holding);
    for (int i = 0; i < 2; i++) {
        while (atomic_load(&board.shared->waiters) == 0)
            sched_yield();
        atomic_store(&board.shared->waiters, 0);
    }
    zp__board_unlock(&board);
    zp_sync_post(&holding.end);
    assert_int_equal(zp_test_wait(pid, 20), 0);
    assert_true(atomic_load(&board.shared->waiters) >= 0);
    zp__board_close(&board);
    end_holder(&holding);
}

/* ---- the bell ---- */

static int
rung(const zp__board *board)
{
    char bytes[100];
    ssize_t n = read(board->bell, bytes, sizeof bytes);
    return n < 0 ? 0 : (int)n;
}

static void
test_the_bell(void **state)
{
    (void)state;
    zp__board board;
    open_board(&board);
    zp__board_ring(&board);
    assert_int_equal(rung(&board), 0); /* the server is awake */
    atomic_store(&board.shared->asleep, 1);
    zp__board_ring(&board);
    assert_int_equal(rung(&board), 1);
    assert_int_equal(board.shared->asleep, 1); /* not the writer's to clear */
    assert_int_equal(board.shared->rings, 1);
    for (int i = 0; i < 70000; i++) { /* more than a pipe holds */
        errno = 7;
        zp__board_ring(&board);
        assert_int_equal(errno, 7);
    }
    zp__board_drain(&board);
    assert_int_equal(rung(&board), 0);
    errno = 7;
    zp__board_drain(&board);
    assert_int_equal(errno, 7);
    zp__board_close(&board);
}

/* ---- topics and ids ---- */

static void
test_topics(void **state)
{
    (void)state;
    char key[32];
    static uint8_t buckets[ZP__INTEREST];
    unsigned fullest = 0;
    assert_true(zp__topic_key("a", "bc") != zp__topic_key("ab", "c"));
    assert_true(zp__topic_key("a", "b") != zp__topic_key("b", "a"));
    assert_true(zp__topic_key("a", "") != zp__topic_ns("a"));
    assert_true(zp__topic_key("", "a") != zp__topic_ns("a"));
    assert_true(zp__topic_ns("a") != zp__topic_ns("b"));
    assert_true(zp__topic_key("a", "b") == zp__topic_key("a", "b"));
    memset(buckets, 0, sizeof buckets);
    for (int i = 0; i < ZP__INTEREST; i++) {
        snprintf(key, sizeof key, "key%d", i);
        uint8_t *bucket =
            &buckets[zp__topic_key("default", key) % ZP__INTEREST];
        if (++*bucket > fullest)
            fullest = *bucket;
    }
    assert_in_range(fullest, 2, 10); /* 7 or 8 for a random function */
}

static void
test_interest(void **state)
{
    (void)state;
    zp__board board;
    uint64_t topic = zp__topic_key("default", "key");
    open_board(&board);
    assert_false(zp__board_interest(&board, topic));
    atomic_store(&board.shared->interest[zp__interest_bucket(topic, 0)], 1);
    assert_false(zp__board_interest(&board, topic));
    atomic_store(&board.shared->interest[zp__interest_bucket(topic, 1)], 1);
    assert_true(zp__board_interest(&board, topic));
    zp__board_fence();
    zp__board_close(&board);
}

static void
test_writer_ids(void **state)
{
    (void)state;
    zp__board board;
    zp__place other;
    open_board(&board);
    uint64_t first = zp__board_writer(&board);
    assert_true(first != 0);
    assert_true(zp__board_writer(&board) != first);
    atomic_store(&board.shared->writers, UINT64_MAX);
    assert_true(zp__board_writer(&board) != 0);
    zp__board_close(&board);
    /* another life of the state does not give the same ones */
    assert_int_equal(zp__place_new(&other, NULL, NULL), 0);
    assert_int_equal(zp__board_create(&other), 0);
    assert_int_equal(zp__board_open(&board, &other), 0);
    uint64_t again = zp__board_writer(&board);
    assert_true(again > first ? again - first > 1000 : first - again > 1000);
    zp__board_close(&board);
    zp__place_remove(&other);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_a_new_board, up, down),
        ZP_TEST_WITH(test_boards_that_are_refused, up, down),
        ZP_TEST_WITH(test_a_bell_that_is_none, up, down),
        ZP_TEST_WITH(test_no_room, up, down),
        ZP_TEST_WITH(test_children_lose_it, up, down),
        ZP_TEST_WITH(test_lock_and_unlock, up, down),
        ZP_TEST_WITH(test_a_holder_that_dies, up, down),
        ZP_TEST_WITH(test_a_holder_that_is_stopped, up, down),
        ZP_TEST_WITH(test_one_at_a_time, up, down),
        ZP_TEST_WITH(test_threads_one_at_a_time, up, down),
        ZP_TEST_WITH(test_a_streak_ends, up, down),
        ZP_TEST_WITH(test_the_greedy_give_way, up, down),
        ZP_TEST_WITH(test_a_waiter_that_was_killed, up, down),
        ZP_TEST_WITH(test_a_waiter_counts_itself_again, up, down),
        ZP_TEST_WITH(test_the_bell, up, down),
        ZP_TEST_WITH(test_topics, up, down),
        ZP_TEST_WITH(test_interest, up, down),
        ZP_TEST_WITH(test_writer_ids, up, down),
    };
    return zp_test_main("board", tests, sizeof tests / sizeof *tests, 60);
}
