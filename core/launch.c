/*
 * launch.c - starting the state server, and waiting for its end.
 *
 * Whoever finds no server alive takes the flock on DIR/start, looks again, and
 * runs the program with posix_spawn() (never a fork of the application, which
 * may be large). The program detaches itself by a fork of its own: its first
 * process ends at once and is reaped here; the server tells through a pipe, in
 * one line, "0 PID" when it serves or "CODE TEXT". Of fifty that notice a
 * death, one starts a server and the rest see it in the board.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/client.h"
#include "core/error.h"
#include "core/fork.h"
#include "core/loop.h"

#define READY_FD 3      /* in the server's program */
#define TRIALS 3        /* of servers that die as soon as they serve */
#define LOOK_AGAIN_MS 2 /* while another process starts one */

extern char **environ;

static void
sleep_ms(int ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};

    nanosleep(&time, NULL);
}

int
zp__ms_left(double deadline)
{
    double left;

    if (deadline < 0)
        return -1;
    left = (deadline - zp__now()) * 1000;
    if (left <= 0)
        return 0;
    return left > INT_MAX - 1 ? INT_MAX : (int)left + 1;
}

/* ------------------------------------------------- starting the server -- */

/* The program, and where its name comes from. */
static const char *
program(const char **ret_source)
{
    const char *path = secure_getenv("ZP_SERVER");

    if (path && *path) {
        *ret_source = "named by $ZP_SERVER";
        return path;
    }
    *ret_source = "installed there; $ZP_SERVER names no other";
    return ZP_SERVER_PATH;
}

/* Run it with its end of the pipe: the pid, or an error. */
static int
spawn(const zp__place *place, int ready)
{
    char *argv[6], run[sizeof place->run], fd[16];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    const char *path, *source;
    sigset_t none, all;
    pid_t pid;
    int rc;

    path = program(&source);
    snprintf(run, sizeof run, "%s", place->run);
    snprintf(fd, sizeof fd, "%d", READY_FD);
    argv[0] = (char *)"zp-server";
    argv[1] = (char *)"--run-dir";
    argv[2] = run;
    argv[3] = (char *)"--ready-fd";
    argv[4] = fd;
    argv[5] = NULL;
    rc = posix_spawn_file_actions_init(&actions);
    if (rc)
        return zp__fail_errno(rc, "cannot start the state server");
    rc = posix_spawnattr_init(&attributes);
    if (rc) {
        posix_spawn_file_actions_destroy(&actions);
        return zp__fail_errno(rc, "cannot start the state server");
    }
    sigemptyset(&none);
    sigfillset(&all);
    /* dup2() of a descriptor to itself takes its close-on-exec away, too */
    rc = posix_spawn_file_actions_adddup2(&actions, ready, READY_FD);
    if (!rc)
        rc = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK |
                                                       POSIX_SPAWN_SETSIGDEF |
                                                       POSIX_SPAWN_SETSID);
    if (!rc)
        rc = posix_spawnattr_setsigmask(&attributes, &none);
    if (!rc)
        rc = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!rc)
        rc = posix_spawn(&pid, path, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (!rc)
        return (int)pid;
    return zp__fail(rc == ENOMEM ? -ENOMEM : ZP_ENOSERVER,
                    "cannot run the state server %s (%s): %s", path, source,
                    zp_strerror(-rc));
}

/* Read one line (without its end) from FD: its length, 0 when the other side
 * closed before it, -ETIMEDOUT, or another error. */
static int
read_line(int fd, char *line, size_t size, double deadline)
{
    struct pollfd one = {fd, POLLIN, 0};
    size_t used = 0;
    ssize_t n;
    int rc;

    while (used < size - 1) {
        rc = poll(&one, 1, zp__ms_left(deadline));
        if (rc < 0 && errno == EINTR)
            continue;
        if (rc < 0)
            return -errno;
        if (!rc)
            return -ETIMEDOUT;
        n = read(fd, line + used, size - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (!n)
            return 0;
        used += (size_t)n;
        if (line[used - 1] == '\n') {
            line[used - 1] = '\0';
            return (int)used;
        }
    }
    return 0;
}

/* Reap the program's first process, which has ended when the server speaks; if
 * it has not by DEADLINE it is no zp-server, and killed. The application may
 * have reaped it before us. Its wait status, or 0. */
static int
reap(pid_t pid, double deadline)
{
    zp__pid id;
    bool known = zp__pid_of(pid, &id) >= 0;
    int status = 0;
    pid_t rc;

    for (;;) {
        rc = waitpid(pid, &status, WNOHANG);
        if (rc == pid)
            return status;
        if (rc < 0 && errno != EINTR)
            return 0;
        if (known && !zp__ms_left(deadline))
            (void)zp__pid_kill(&id, SIGKILL);
        sleep_ms(1);
    }
}

/* What the line of the server means. */
static int
judge(const char *line)
{
    char *text;
    long code = strtol(line, &text, 10);

    if (text == line || *text != ' ')
        return zp__fail(ZP_ENOSERVER, "the state server said: %.200s", line);
    if (code >= 0)
        return 0;
    if (code == -EADDRINUSE) /* another one is faster: fine */
        return -EADDRINUSE;
    if (code == ZP_ECLOSED)
        return zp__fail(ZP_ECLOSED, "%s", text + 1);
    return zp__fail(ZP_ENOSERVER, "the state server cannot start: %s",
                    text + 1);
}

/* It ended, and said nothing. */
static int
judge_status(int status)
{
    const char *source, *path = program(&source);

    if (WIFSIGNALED(status))
        return zp__fail(ZP_ENOSERVER,
                        "the state server %s (%s) was ended by signal %d", path,
                        source, WTERMSIG(status));
    return zp__fail(ZP_ENOSERVER,
                    "the state server %s (%s) ended with status %d before it "
                    "served",
                    path, source, WEXITSTATUS(status));
}

/* Start one: 0, -EADDRINUSE (one serves already), or an error. */
static int
start(const zp__place *place, double deadline)
{
    char line[ZP__ERROR_MAX + 32];
    int fds[2], rc, status;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return zp__fail_errno(errno, "cannot make a pipe for the server");
    rc = pid = spawn(place, fds[1]);
    close(fds[1]);
    if (rc < 0)
        goto out;
    rc = read_line(fds[0], line, sizeof line, deadline);
    status = reap(pid, deadline);
    if (rc > 0)
        rc = judge(line);
    else if (rc == 0)
        rc = judge_status(status);
    else if (rc == -ETIMEDOUT)
        rc = zp__fail(ZP_ENOSERVER,
                      "the state server of %s did not start in "
                      "time",
                      place->run);
    else
        rc = zp__fail_errno(-rc, "cannot hear from the state server");
out:
    close(fds[0]);
    return rc;
}

/* One was started, and said that it serves. If it has died by now we may try
 * again, but not for ever: it may be a program that only says so. */
static int
trust(const zp__board *board, int *trials)
{
    const char *source, *path = program(&source);

    if (zp__server_alive(board))
        return 0;
    if (--*trials > 0)
        return -EAGAIN;
    return zp__fail(ZP_ENOSERVER, "the state server %s (%s) does not serve",
                    path, source);
}

/* Start one unless another process has, or is about to: 0, -EAGAIN (look
 * again in a moment), or an error. */
static int
start_alone(const zp__place *place, const zp__board *board, double deadline,
            int *trials)
{
    zp__owned *owned;
    int lock, rc;

    lock = zp__place_flock(place, "start");
    if (lock == -EWOULDBLOCK)
        return -EAGAIN;
    if (lock == -ENOENT)
        return zp__fail(ZP_ENOSERVER, "the directory %s is gone", place->run);
    if (lock < 0)
        return zp__fail(lock, "cannot lock %s: %s", place->run,
                        zp_strerror(lock));
    owned = zp__own_fd(lock);
    rc = zp__server_alive(board) ? 0 : start(place, deadline);
    if (rc == 0)
        rc = trust(board, trials);
    /* A child that was forked meanwhile has the descriptor, too: closing ours
     * alone would not give the lock back. */
    flock(lock, LOCK_UN);
    zp__own_forget(owned);
    close(lock);
    return rc == -EADDRINUSE ? -EAGAIN : rc;
}

bool
zp__server_alive(const zp__board *board)
{
    zp__pid server = zp__board_server(board);

    return server.pid > 0 && zp__pid_alive(&server);
}

int
zp__server_ensure(const zp__place *place, zp__board *board, double timeout)
{
    double deadline = timeout < 0 ? -1 : zp__now() + timeout;
    zp__pid owner = board->shared->owner;
    int trials = TRIALS, rc;

    for (;;) {
        if (zp__board_closed(board))
            return zp__fail(ZP_ECLOSED, "the state %s is closed", place->run);
        if (zp__server_alive(board))
            return 0;
        if (!zp__pid_alive(&owner))
            return zp__fail(ZP_ECLOSED,
                            "the owner of %s, process %d, has "
                            "ended",
                            place->run, owner.pid);
        rc = start_alone(place, board, deadline, &trials);
        if (rc < 0 && rc != -EAGAIN && zp__board_closed(board))
            continue; /* that is why, and says more */
        if (rc != -EAGAIN)
            return rc;
        if (deadline >= 0 && zp__now() >= deadline)
            return zp__fail(ZP_ENOSERVER, "no state server on %s in time",
                            place->run);
        sleep_ms(LOOK_AGAIN_MS);
    }
}

/* ------------------------------------------------------------- farewell -- */

static bool
is_gone(const zp__place *place)
{
    struct stat st;

    return stat(place->run, &st) < 0 && errno == ENOENT;
}

/* Wait until that process has ended: false when the time is up first. Without
 * a descriptor for it (none left, or no pidfds, as under valgrind) we look now
 * and then. */
static bool
wait_for_end(const zp__pid *id, double deadline)
{
    struct pollfd one = {zp__pid_open(id), POLLIN, 0};
    bool ended;
    int rc;

    if (one.fd < 0) {
        while (!(ended = !zp__pid_alive(id)) && zp__ms_left(deadline))
            sleep_ms(LOOK_AGAIN_MS);
        return ended;
    }
    do
        rc = poll(&one, 1, zp__ms_left(deadline));
    while (rc < 0 && errno == EINTR);
    close(one.fd);
    return rc > 0;
}

/* No server is left that would clean up: do it, with the flock, so that one
 * that is just being started (by the warden, say) keeps off. -EWOULDBLOCK: one
 * was faster. */
static int
clean_up(const zp__place *place)
{
    int lock = zp__place_flock(place, "lock");

    if (lock == -EWOULDBLOCK)
        return lock;
    zp__place_remove(place);
    if (lock >= 0)
        close(lock);
    return 0;
}

int
zp__server_close(const zp__place *place, zp__board *board, double timeout)
{
    double deadline = timeout < 0 ? -1 : zp__now() + timeout;
    zp__pid server = {.pid = 0};
    int trials = 1;

    atomic_store(&board->shared->closed, 1);
    zp__board_fence();
    for (;;) {
        server = zp__board_server(board);
        zp__board_ring(board);
        if (server.pid > 0 && !wait_for_end(&server, deadline))
            break;
        if (is_gone(place))
            return 0;
        /* It was killed: the next one ends the processes that are not ours. */
        if (server.pid > 0 && trials > 0) {
            (void)start_alone(place, board, deadline, &trials);
            trials = 0;
            continue;
        }
        if (clean_up(place) == 0)
            return 0;
        if (!zp__ms_left(deadline))
            break;
        sleep_ms(LOOK_AGAIN_MS);
    }
    return zp__fail(-ETIMEDOUT, "the state server, process %d, does not end",
                    server.pid);
}
