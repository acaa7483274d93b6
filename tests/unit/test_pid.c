/*
 * test_pid.c - identities: who is who, who lives, who gets the signal.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/pid.h"

static int
sleeper(void *user)
{
    (void)user;
    while (pause() < 0)
        continue;
    return 0;
}

/* Where there are no pidfds (valgrind) they cannot be tested. */
static int
no_process(void)
{
    zp__pid self = zp__pid_self();
    int fd = zp__pid_open(&self);
    if (fd >= 0)
        close(fd);
    return fd == -ENOSYS ? -ENOSYS : -ESRCH;
}

static zp__pid
start_sleeper(void)
{
    zp__pid id;
    pid_t pid = zp_test_fork(sleeper, NULL);
    assert_int_equal(zp__pid_of(pid, &id), 0);
    assert_int_equal(id.pid, pid);
    assert_true(id.start > 0);
    return id;
}

/* Ended, but not reaped. */
static void
end_unreaped(const zp__pid *id)
{
    siginfo_t info;
    kill(id->pid, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)id->pid, &info, WEXITED | WNOWAIT), 0);
}

static void
test_self_is_the_process_of_its_pid(void **state)
{
    (void)state;
    zp__pid self = zp__pid_self(), same;
    assert_int_equal(self.pid, getpid());
    assert_true(self.start > 0);
    assert_int_equal(zp__pid_of(getpid(), &same), 0);
    assert_true(same.start == self.start);
    assert_true(zp__pid_alive(&self));
}

static void
test_any_name_is_read(void **state)
{
    (void)state;
    char before[16];
    zp__pid self = zp__pid_self(), named;
    prctl(PR_GET_NAME, before);
    prctl(PR_SET_NAME, ") Z 1 (x) 2 3");
    named = zp__pid_self();
    bool alive = zp__pid_alive(&self);
    prctl(PR_SET_NAME, before);
    assert_true(named.start == self.start);
    assert_true(alive);
}

static void
test_a_zombie_is_not_alive(void **state)
{
    (void)state;
    zp__pid id = start_sleeper();
    assert_true(zp__pid_alive(&id));
    end_unreaped(&id);
    assert_int_equal(zp__pid_state(id.pid), 'Z');
    assert_false(zp__pid_alive(&id));
    assert_int_equal(zp__pid_open(&id), no_process());
    assert_int_equal(zp__pid_kill(&id, SIGTERM), -ESRCH);
    zp_test_wait(id.pid, 5);
    zp__pid none;
    assert_false(zp__pid_alive(&id));
    assert_int_equal(zp__pid_of(id.pid, &none), -ESRCH);
    assert_int_equal(zp__pid_open(&id), no_process());
    assert_int_equal(zp__pid_state(id.pid), 0);
}

static void
test_another_with_the_pid_is_not_hit(void **state)
{
    (void)state;
    zp__pid id = start_sleeper(), earlier = id;
    earlier.start--;
    assert_false(zp__pid_alive(&earlier));
    assert_int_equal(zp__pid_open(&earlier), no_process());
    assert_int_equal(zp__pid_kill(&earlier, SIGKILL), -ESRCH);
    assert_true(zp__pid_alive(&id));
    assert_int_equal(zp__pid_kill(&id, SIGTERM), 0);
    assert_int_equal(zp_test_wait(id.pid, 5), -SIGTERM);
}

static void
test_a_pidfd_tells_the_end(void **state)
{
    (void)state;
    if (no_process() == -ENOSYS)
        skip();
    zp__pid id = start_sleeper();
    int fd = zp__pid_open(&id);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_true(fd >= 0);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(poll(&p, 1, 0), 0);
    assert_int_equal(zp__pid_kill(&id, SIGKILL), 0);
    assert_int_equal(poll(&p, 1, 5000), 1);
    close(fd);
    zp_test_wait(id.pid, 5);
}

static void
test_unknown_identities_are_nobody(void **state)
{
    (void)state;
    zp__pid ids[] = {{0},
                     {.pid = 0, .start = 1},
                     {.pid = -1, .start = 1},
                     {.pid = getpid(), .start = 0}};
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        assert_false(zp__pid_alive(&ids[i]));
        assert_int_equal(zp__pid_open(&ids[i]), -ESRCH);
        assert_int_equal(zp__pid_kill(&ids[i], 0), -ESRCH);
    }
    zp__pid none = {.pid = 7};
    assert_int_equal(zp__pid_of(0, &none), -ESRCH);
    assert_int_equal(zp__pid_of(-1, &none), -ESRCH);
    assert_int_equal(none.pid, 7);
}

static void
test_a_stopped_process_is_seen(void **state)
{
    (void)state;
    zp__pid id = start_sleeper();
    int status;
    kill(id.pid, SIGSTOP);
    assert_int_equal(waitpid(id.pid, &status, WUNTRACED), id.pid);
    assert_int_equal(zp__pid_state(id.pid), 'T');
    assert_true(zp__pid_alive(&id));
    kill(id.pid, SIGKILL);
    zp_test_wait(id.pid, 5);
}

/* The main thread ends, a thread goes on until told. */
static void *
go_on(void *user)
{
    zp_sync *sync = user;
    while (zp__pid_state(getpid()) != 'Z')
        sched_yield();
    zp_sync_send(&sync[0], getpid());
    zp_sync_wait(&sync[1], 20);
    _exit(3);
}

static int
leave_a_thread(void *user)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, go_on, user) != 0)
        return 1;
    pthread_exit(NULL);
}

static void
test_a_process_lives_on_in_its_threads(void **state)
{
    (void)state;
    static zp_sync sync[2]; /* not on the stack of a thread that ends */
    zp__pid id;
    if (no_process() == -ENOSYS) /* valgrind takes the stack for lost */
        skip();
    zp_sync_open(&sync[0]);
    zp_sync_open(&sync[1]);
    pid_t pid = zp_test_fork(leave_a_thread, sync);
    assert_int_equal(zp_sync_receive(&sync[0], 20), pid);
    assert_int_equal(zp__pid_of(pid, &id), 0);
    assert_int_equal(zp__pid_state(pid), 'Z');
    assert_true(zp__pid_alive(&id));
    zp_sync_post(&sync[1]);
    assert_int_equal(zp_test_wait(pid, 20), 3);
    assert_false(zp__pid_alive(&id));
    zp_sync_close(&sync[0]);
    zp_sync_close(&sync[1]);
}

static void
test_without_descriptors_nobody_is_dead(void **state)
{
    (void)state;
    struct rlimit old, none;
    zp__pid self = zp__pid_self();
    zp__pid id = start_sleeper();
    getrlimit(RLIMIT_NOFILE, &old);
    none = old;
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    zp__pid unknown = zp__pid_self(), other;
    bool alive = zp__pid_alive(&self) && zp__pid_alive(&id);
    int of = zp__pid_of(id.pid, &other);
    int opened = zp__pid_open(&id);
    int killed = zp__pid_kill(&id, SIGKILL);
    setrlimit(RLIMIT_NOFILE, &old);
    assert_true(alive);
    assert_int_equal(unknown.pid, getpid());
    assert_int_equal(unknown.start, 0);
    assert_int_equal(of, -EMFILE);
    if (no_process() != -ENOSYS) {
        assert_int_equal(opened, -EMFILE);
        assert_int_equal(killed, -EMFILE);
        assert_int_equal(zp__pid_kill(&id, SIGKILL), 0);
    }
    zp_test_wait(id.pid, 5);
    assert_false(zp__pid_alive(&id));
}

static void
test_boot_and_namespace_are_told(void **state)
{
    (void)state;
    struct stat st;
    assert_true(zp__boot_hash() != 0);
    assert_true(zp__boot_hash() == zp__boot_hash());
    assert_int_equal(stat("/proc/self/ns/pid", &st), 0);
    assert_true(zp__pid_ns() == st.st_ino);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_self_is_the_process_of_its_pid),
        ZP_TEST(test_any_name_is_read),
        ZP_TEST(test_a_zombie_is_not_alive),
        ZP_TEST(test_another_with_the_pid_is_not_hit),
        ZP_TEST(test_a_pidfd_tells_the_end),
        ZP_TEST(test_unknown_identities_are_nobody),
        ZP_TEST(test_a_stopped_process_is_seen),
        ZP_TEST(test_a_process_lives_on_in_its_threads),
        ZP_TEST(test_without_descriptors_nobody_is_dead),
        ZP_TEST(test_boot_and_namespace_are_told),
    };
    return zp_test_main("pid", tests, sizeof tests / sizeof *tests, 30);
}
