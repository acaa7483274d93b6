/*
 * zp_test.c - the fence around each test: see zp_test.h.
 *
 * The test process is a child subreaper, so that whatever was started below
 * it, a state server that detached itself included, comes back to it when its
 * parent ends, and can be found, counted and reaped: nobody escapes by forking
 * twice. The look at the end is patient (a server may need a moment to notice
 * that its owner has ended) but not endless.
 *
 * A failing cmocka assertion jumps back to the test loop. In a forked child
 * that loop must not go on: an atfork handler tells cmocka to abort there
 * instead.
 */
#include "tests/support/zp_test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define INSTRUMENTED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define INSTRUMENTED 1
#endif
#ifndef INSTRUMENTED
#define INSTRUMENTED 0
#endif

#ifdef __SANITIZE_THREAD__
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif
#ifndef TSAN
#define TSAN 0
#endif

#define PATIENCE 5.0 /* seconds for processes and files to be gone */
#define PIDS 64      /* survivors that are named */

extern char **environ;

static struct {
    unsigned seconds;         /* per test */
    pid_t pid;                /* of the test process itself */
    int fds;                  /* open before the test */
    const zp_test_frame *own; /* the test's own setup and teardown */
    char root[64];            /* holds the next two */
    char run[80];
    char files[80];
} fence;

/* ------------------------------------------------------------- time -- */

double
zp_test_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double
zp_test_slow(void)
{
    const char *text = getenv("ZP_TEST_SLOW");
    double slow = text ? atof(text) : 1;
    return slow >= 1 ? slow : 1;
}

bool
zp_test_instrumented(void)
{
    return INSTRUMENTED || zp_test_slow() > 1;
}

bool
zp_test_valgrind(void)
{
    const char *run = getenv("VALGRIND_RUN");
    return run && run[0];
}

bool
zp_test_tsan(void)
{
    return TSAN;
}

static void
nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

bool
zp_test_until(bool (*condition)(void *user), void *user, double seconds)
{
    double deadline = zp_test_now() + seconds * zp_test_slow();
    for (;;) {
        if (condition(user))
            return true;
        if (zp_test_now() > deadline)
            return false;
        nap();
    }
}

/* -------------------------------------------------------- processes -- */

/* State letter and parent of PID, from /proc/PID/stat; 0 if it is gone. */
static char
process_look(pid_t pid, pid_t *ret_parent)
{
    char path[40], line[512];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, line, sizeof(line) - 1);
    close(fd);
    if (n <= 0)
        return 0;
    line[n] = 0;
    /* The name may hold anything: look behind the last parenthesis. */
    char *rest = strrchr(line, ')');
    char state = 0;
    int parent = 0;
    if (!rest || sscanf(rest + 1, " %c %d", &state, &parent) != 2)
        return 0;
    *ret_parent = parent;
    return state;
}

char
zp_test_process_state(pid_t pid)
{
    pid_t parent;
    return process_look(pid, &parent);
}

void
zp_test_kill_server(pid_t server)
{
    char path[40], name[32] = "";
    pid_t parent = 0;
    FILE *file;

    if (process_look(server, &parent)) {
        snprintf(path, sizeof path, "/proc/%d/comm", (int)parent);
        file = fopen(path, "re");
        if (file && fgets(name, sizeof name, file) &&
            strcmp(name, "zp-warden\n") == 0)
            kill(parent, SIGKILL);
        if (file)
            fclose(file);
    }
    kill(server, SIGKILL);
}

/* Does PID descend from this process? Its parents are followed up. */
static bool
descends(pid_t pid)
{
    pid_t self = getpid(), parent = 0;
    for (int depth = 0; depth < 100 && pid > 1; depth++) {
        if (!process_look(pid, &parent))
            return false;
        if (parent == self)
            return true;
        pid = parent;
    }
    return false;
}

size_t
zp_test_descendants(pid_t *pids, size_t n)
{
    DIR *dir = opendir("/proc");
    if (!dir)
        return 0;
    size_t found = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        pid_t pid = atoi(e->d_name), parent;
        if (pid <= 0)
            continue;
        char state = process_look(pid, &parent);
        if (!state || state == 'Z' || state == 'X' || !descends(pid))
            continue;
        if (found < n)
            pids[found] = pid;
        found++;
    }
    closedir(dir);
    return found;
}

size_t
zp_test_children(pid_t parent, pid_t *pids, size_t n)
{
    char path[60];
    size_t found = 0;
    int pid;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent,
             (int)parent);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    while (found < n && fscanf(file, "%d", &pid) == 1) {
        char state = zp_test_process_state(pid);
        if (state && state != 'Z' && state != 'X')
            pids[found++] = pid;
    }
    fclose(file);
    return found;
}

/* A server whose warden has ended is a child of the subreaper: of ours. */
size_t
zp_test_others(pid_t server)
{
    pid_t warden = 0, pids[PIDS];
    size_t others = zp_test_descendants(pids, PIDS), n = others;

    process_look(server, &warden);
    for (size_t i = 0; i < n && i < PIDS; i++)
        others -= pids[i] == server || pids[i] == warden;
    if (n - others != 2)
        fail_msg("of the server %d and its warden %d only %zu is there",
                 (int)server, (int)warden, n - others);
    return others;
}

/* Reap what has ended: true when there are no children. Then there are no other
 * descendants either, as they would be ours; and no zombies, not even such as
 * /proc calls one already, and no wait takes yet. */
static bool
nobody_left(void *user)
{
    pid_t pid;
    (void)user;
    do
        pid = waitpid(-1, NULL, WNOHANG | __WALL);
    while (pid > 0 || (pid < 0 && errno == EINTR));
    return pid < 0;
}

/* What /proc/PID/NAME has, on one line. */
static const char *
proc_text(pid_t pid, const char *name, char *text, size_t room)
{
    char path[60];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, room - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = 0;
    for (ssize_t k = 0; k + 1 < got; k++)
        if (!text[k] || text[k] == '\n')
            text[k] = ' ';
    return text;
}

void
zp_test_name_descendants(const char *why)
{
    pid_t pids[PIDS];
    size_t n = zp_test_descendants(pids, PIDS);
    char command[200], where[60];
    for (size_t i = 0; i < n && i < PIDS; i++)
        print_error("# %s: process %d (%c, %s): %s\n", why, (int)pids[i],
                    zp_test_process_state(pids[i]),
                    proc_text(pids[i], "wchan", where, sizeof(where)),
                    proc_text(pids[i], "cmdline", command, sizeof(command)));
}

static void
kill_descendants(const char *why)
{
    pid_t pids[PIDS];
    zp_test_name_descendants(why);
    size_t n = zp_test_descendants(pids, PIDS);
    for (size_t i = 0; i < n && i < PIDS; i++)
        kill(pids[i], SIGKILL);
}

pid_t
zp_test_fork(int (*fn)(void *user), void *user)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        fail_msg("fork: %s", strerror(errno));
    if (pid == 0) {
        int status = fn(user);
        fflush(NULL);
        _exit(status);
    }
    return pid;
}

static int
pidfd_of(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* Wait until FD is ready or the DEADLINE has passed: poll() > 0. */
static bool
ready_by(int fd, double deadline)
{
    for (;;) {
        double left = deadline - zp_test_now();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int n = poll(&p, 1, left > 0 ? (int)(left * 1e3) + 1 : 0);
        if (n > 0)
            return true;
        if (n == 0 || errno != EINTR)
            return false;
    }
}

static int
status_of(int status)
{
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int
zp_test_wait(pid_t pid, double seconds)
{
    int status, fd = pidfd_of(pid);
    bool ended =
        fd < 0 || ready_by(fd, zp_test_now() + seconds * zp_test_slow());
    if (fd >= 0)
        close(fd);
    if (!ended)
        kill(pid, SIGKILL);
    pid_t got;
    while ((got = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
        continue;
    if (!ended)
        fail_msg("process %d did not end in %g s", (int)pid, seconds);
    if (got < 0)
        fail_msg("waitpid %d: %s", (int)pid, strerror(errno));
    return status_of(status);
}

/* Read what FD has into the buffer; false at its end. */
static bool
collect(int fd, char **buffer, size_t *size)
{
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR)
        return true;
    if (n <= 0)
        return false;
    char *larger = realloc(*buffer, *size + (size_t)n + 1);
    if (!larger)
        abort();
    memcpy(larger + *size, chunk, (size_t)n);
    *buffer = larger;
    *size += (size_t)n;
    larger[*size] = 0;
    return true;
}

static int
input_file(const char *input)
{
    if (!input)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    FILE *file = tmpfile();
    assert_non_null(file);
    fputs(input, file);
    rewind(file);
    int fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 0);
    fclose(file);
    return fd;
}

static pid_t
start_program(const zp_test_run *run, int in, int out, int err)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, 0);
    posix_spawn_file_actions_adddup2(&actions, out, 1);
    posix_spawn_file_actions_adddup2(&actions, err, 2);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attr, 0);
    int rc = posix_spawnp(&pid, run->argv[0], &actions, &attr,
                          (char *const *)run->argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    if (rc)
        fail_msg("%s: %s", run->argv[0], strerror(rc));
    return pid;
}

void
zp_test_run_program(zp_test_output *ret, const zp_test_run *run)
{
    int pipes[2][2];
    char *text[2] = {strdup(""), strdup("")};
    size_t size[2] = {0, 0};
    double deadline =
        zp_test_now() + (run->seconds > 0 ? run->seconds : 10) * zp_test_slow();

    assert_int_equal(pipe2(pipes[0], O_CLOEXEC), 0);
    assert_int_equal(pipe2(pipes[1], O_CLOEXEC), 0);
    int in = input_file(run->input);
    pid_t pid = start_program(run, in, pipes[0][1], pipes[1][1]);
    close(in);
    close(pipes[0][1]);
    close(pipes[1][1]);

    struct pollfd p[2] = {{pipes[0][0], POLLIN, 0}, {pipes[1][0], POLLIN, 0}};
    bool late = false;
    while (!late && (p[0].fd >= 0 || p[1].fd >= 0)) {
        double left = deadline - zp_test_now();
        poll(p, 2, left > 0 ? (int)(left * 1e3) + 1 : 0);
        for (int i = 0; i < 2; i++)
            if (p[i].fd >= 0 && p[i].revents &&
                !collect(p[i].fd, &text[i], &size[i]))
                p[i].fd = -1;
        late = zp_test_now() > deadline;
    }
    close(pipes[0][0]);
    close(pipes[1][0]);
    if (late) {
        kill(-pid, SIGKILL);
        waitpid(pid, NULL, 0);
        fail_msg("%s took too long; it printed:\n%s%s", run->argv[0], text[0],
                 text[1]);
    }
    double left = deadline - zp_test_now();
    ret->status = zp_test_wait(pid, left > 1 ? left : 1);
    ret->out = text[0];
    ret->err = text[1];
    ret->out_size = size[0];
}

void
zp_test_output_free(zp_test_output *output)
{
    free(output->out);
    free(output->err);
    memset(output, 0, sizeof(*output));
}

void
zp_test_prints(const char *const *argv, const char *expected)
{
    zp_test_output output;
    zp_test_run_program(&output, &(zp_test_run){.argv = argv});
    if (output.status || strcmp(output.out, expected))
        fail_msg("%s ended with %d and printed:\n%s%s", argv[0], output.status,
                 output.out, output.err);
    zp_test_output_free(&output);
}

/* ------------------------------------------------------------ order -- */

void
zp_sync_open(zp_sync *sync)
{
    if (pipe2(sync->fd, O_CLOEXEC))
        fail_msg("pipe: %s", strerror(errno));
}

void
zp_sync_close(zp_sync *sync)
{
    for (int i = 0; i < 2; i++)
        if (sync->fd[i] >= 0)
            close(sync->fd[i]);
    sync->fd[0] = sync->fd[1] = -1;
}

static void
send_all(const zp_sync *sync, const void *data, size_t size)
{
    ssize_t n;
    while ((n = write(sync->fd[1], data, size)) < 0 && errno == EINTR)
        continue;
    if (n != (ssize_t)size)
        fail_msg("write to a sync pipe: %s", strerror(errno));
}

static void
receive_all(const zp_sync *sync, void *data, size_t size, double seconds)
{
    if (!ready_by(sync->fd[0], zp_test_now() + seconds * zp_test_slow()))
        fail_msg("nobody gave the sign to go on in %g s", seconds);
    ssize_t n;
    while ((n = read(sync->fd[0], data, size)) < 0 && errno == EINTR)
        continue;
    if (n != (ssize_t)size)
        fail_msg("who should give the sign to go on has ended");
}

void
zp_sync_post(const zp_sync *sync)
{
    send_all(sync, "", 1);
}

void
zp_sync_wait(const zp_sync *sync, double seconds)
{
    char byte;
    receive_all(sync, &byte, 1, seconds);
}

void
zp_sync_send(const zp_sync *sync, int64_t number)
{
    send_all(sync, &number, sizeof(number));
}

int64_t
zp_sync_receive(const zp_sync *sync, double seconds)
{
    int64_t number = 0;
    receive_all(sync, &number, sizeof(number), seconds);
    return number;
}

/* ------------------------------------------------------------ leaks -- */

int
zp_test_entries(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(dir);
    return n;
}

int
zp_test_open_fds(void)
{
    return zp_test_entries("/proc/self/fd") - 1; /* but for the one it needs */
}

static long
proc_line(pid_t pid, const char *file_name, const char *name)
{
    char path[48], line[128];
    long kb = -1;
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)(pid ? pid : getpid()),
             file_name);
    FILE *file = fopen(path, "re");
    if (!file)
        return -1;
    while (kb < 0 && fgets(line, sizeof(line), file))
        if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
            kb = atol(line + strlen(name) + 1);
    fclose(file);
    return kb;
}

long
zp_test_vm_size(pid_t pid)
{
    return proc_line(pid, "status", "VmSize");
}

long
zp_test_vm_rss(pid_t pid)
{
    return proc_line(pid, "status", "VmRSS");
}

long
zp_test_vm_private(pid_t pid)
{
    return proc_line(pid, "smaps_rollup", "Private_Dirty");
}

static void
name_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));) {
        char target[256];
        ssize_t n =
            readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
        if (n < 0 || atoi(e->d_name) == dirfd(dir))
            continue;
        target[n] = 0;
        print_error("# open: %s -> %s\n", e->d_name, target);
    }
    closedir(dir);
}

static int
name_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    if (at->level)
        print_error("# left: %s\n", path);
    return 0;
}

static int
remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    remove(path);
    return 0;
}

void
zp_test_remove(const char *dir)
{
    nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static bool
run_dir_clean(void *user)
{
    (void)user;
    return zp_test_entries(fence.run) <= 0;
}

/* ------------------------------------------------------------ fence -- */

const char *
zp_test_run_dir(void)
{
    return fence.run;
}

const char *
zp_test_dir(void)
{
    return fence.files;
}

static const char *
join(const char *dir, const char *name)
{
    static char buffers[8][1024];
    static unsigned next;
    char *buffer = buffers[next++ % 8];
    snprintf(buffer, sizeof(buffers[0]), "%s/%s", dir, name);
    return buffer;
}

const char *
zp_test_path(const char *name)
{
    return join(fence.files, name);
}

const char *
zp_test_source(const char *name)
{
    const char *top = getenv("top_srcdir");
    return join(top ? top : ".", name);
}

static int
make_dirs(void)
{
    const char *base = "/dev/shm";
    if (access(base, W_OK | X_OK))
        base = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    snprintf(fence.root, sizeof(fence.root), "%s/zpt-XXXXXX", base);
    if (!mkdtemp(fence.root)) {
        print_error("# %s: %s\n", fence.root, strerror(errno));
        return -1;
    }
    snprintf(fence.run, sizeof(fence.run), "%s/run", fence.root);
    snprintf(fence.files, sizeof(fence.files), "%s/files", fence.root);
    if (mkdir(fence.run, 0700) || mkdir(fence.files, 0700))
        return -1;
    return setenv("ZP_RUNTIME_DIR", fence.run, 1);
}

/* The last resort: not safe in a signal handler, so a second alarm stands
 * behind it that nobody catches. */
static void
too_late(int sig)
{
    static const char text[] = "\nBail out! a test took too long\n";
    signal(sig, SIG_DFL);
    alarm(5);
    if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
        _exit(98);
    kill_descendants("too late");
    zp_test_remove(fence.root);
    _exit(99);
}

int
zp_test_setup(void **state)
{
    fence.own = *state;
    *state = NULL;
    if (make_dirs())
        return -1;
    signal(SIGALRM, too_late);
    alarm((unsigned)(fence.seconds * zp_test_slow()));
    fence.fds = zp_test_open_fds();
    return fence.own && fence.own->setup ? fence.own->setup(state) : 0;
}

int
zp_test_teardown(void **state)
{
    int rc = 0;
    if (fence.own && fence.own->teardown)
        rc = fence.own->teardown(state);
    if (!zp_test_until(nobody_left, NULL, PATIENCE)) {
        kill_descendants("still runs");
        zp_test_until(nobody_left, NULL, PATIENCE);
        rc = -1;
    }
    if (!zp_test_until(run_dir_clean, NULL, PATIENCE)) {
        nftw(fence.run, name_entry, 16, FTW_PHYS);
        rc = -1;
    }
    int fds = zp_test_open_fds();
    if (fds > fence.fds) {
        print_error("# %d descriptors open, %d before\n", fds, fence.fds);
        name_fds();
        rc = -1;
    }
    alarm(0);
    zp_test_remove(fence.root);
    return rc;
}

/* In every child, however it was forked. */
static void
forked(void)
{
    setenv("CMOCKA_TEST_ABORT", "1", 1);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGALRM, SIG_DFL);
}

/* Is no other thread of this process at work? */
static bool
others_sleep(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *entry;
    bool asleep = true;

    while (tasks && asleep && (entry = readdir(tasks)) != NULL) {
        char path[300], text[512];
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == gettid())
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
        if (fd >= 0)
            close(fd);
        text[n > 0 ? n : 0] = '\0';
        const char *state = strrchr(text, ')');
        asleep = !state || state[2] == 'S' || state[2] == 'Z';
    }
    if (tasks)
        closedir(tasks);
    return asleep;
}

/* The sanitizers' allocators (of gcc 12, clang 14) do not care for forks: a
 * lock that another thread, libzmq's say, holds at that moment is held in the
 * child for ever. So an instrumented test forks when they sleep. */
static void
before_fork(void)
{
    for (int i = 0; i < 500 && !others_sleep(); i++)
        usleep(200);
}

/* Whoever starts us may ignore or block signals (nohup, a background job), and
 * programs that we start would inherit that: begin as from a terminal. */
static void
usual_signals(void)
{
    struct sigaction action;
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        if (sigaction(sig, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            signal(sig, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int
zp_test_main(const char *name, const struct CMUnitTest *tests, size_t n,
             unsigned seconds)
{
    fence.seconds = seconds;
    fence.pid = getpid();
    usual_signals();
    setvbuf(stdout, NULL, _IOLBF, 0);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pthread_atfork(INSTRUMENTED ? before_fork : NULL, NULL, forked);
    return _cmocka_run_group_tests(name, tests, n, NULL, NULL);
}
