/*
 * floor_fork.c - processes by bare system calls: a child that runs nothing, or
 * that sleeps. It inherits all and opens nothing; nobody records it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/bench/crew.h"
#include "tests/bench/floor.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static int
fork_one(struct side *side, bool sleeps, pid_t *ret)
{
    pid_t pid = fork();

    if (pid == -1)
        return side_fail(side, "fork: %s", strerror(errno));
    if (pid == 0) {
        if (sleeps)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (sleeps)
            pause();
        _exit(0);
    }
    *ret = pid;
    return SIDE_OK;
}

static int
reap(struct side *side, pid_t pid)
{
    pid_t got = waitpid(pid, NULL, 0);

    if (got == -1 || (pid != -1 && got != pid))
        return side_fail(side, "waitpid: %s", strerror(errno));
    return SIDE_OK;
}

static int
spawn_one(struct side *side, int64_t *ret_ns)
{
    int64_t then = side_now();
    pid_t pid;

    if (fork_one(side, false, &pid) != SIDE_OK || reap(side, pid) != SIDE_OK)
        return SIDE_FAIL;
    *ret_ns = side_now() - then;
    return SIDE_OK;
}

int
floor_spawn_start(struct side *side)
{
    int64_t ns;
    int r = SIDE_OK;

    for (int i = 0; r == SIDE_OK && i < SIDE_SPAWN_WARM; i++)
        r = spawn_one(side, &ns);
    return r;
}

int
floor_spawn_round(struct side *side)
{
    return side_report_each(side, spawn_one, SIDE_SPAWNS(side));
}

int
floor_hundred_round(struct side *side)
{
    int64_t then = side_now();
    pid_t pids[SIDE_CHILDREN];

    for (int i = 0; i < SIDE_CHILDREN; i++)
        if (fork_one(side, false, &pids[i]) != SIDE_OK)
            return SIDE_FAIL;
    for (int i = 0; i < SIDE_CHILDREN; i++)
        if (reap(side, pids[i]) != SIDE_OK)
            return SIDE_FAIL;
    side_report(side, "ms", (double)(side_now() - then) / 1e6);
    return SIDE_OK;
}

/* From the KILL until it is reaped, by way of its descriptor. */
static int
kill_one(struct side *side, int64_t *ret_ns)
{
    struct pollfd one = {.events = POLLIN};
    siginfo_t info;
    int64_t killed;
    pid_t pid;
    int r;

    if (fork_one(side, true, &pid) != SIDE_OK)
        return SIDE_FAIL;
    one.fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (one.fd == -1) {
        kill(pid, SIGKILL);
        (void)reap(side, pid);
        return side_fail(side, "pidfd_open: %s", strerror(errno));
    }
    side_pause();
    killed = side_now();
    kill(pid, SIGKILL);
    poll(&one, 1, -1);
    r = waitid((idtype_t)P_PIDFD, (id_t)one.fd, &info, WEXITED);
    *ret_ns = side_now() - killed;
    close(one.fd);
    return r == 0 ? SIDE_OK : side_fail(side, "waitid: %s", strerror(errno));
}

int
floor_kill_round(struct side *side)
{
    return side_report_each(side, kill_one, SIDE_KILLS(side));
}

int
floor_children_start(struct side *side)
{
    if (crew_new(side) != SIDE_OK)
        return SIDE_FAIL;
    for (int i = 0; i < SIDE_IDLERS; i++, side->crew->n++)
        if (fork_one(side, true, &side->crew->pid[i]) != SIDE_OK)
            return SIDE_FAIL;
    return SIDE_OK;
}

int
floor_children_round(struct side *side)
{
    return crew_report_pss(side, side->crew->pid, side->crew->n);
}

/* A process for each item, some at a time, that leaves eight bytes in a pipe.
 */
static int
process_all(struct side *side, const int ends[2], uint32_t n)
{
    uint64_t result = 1;
    uint32_t begun = 0;

    for (uint32_t done = 0; done < n; done++) {
        for (; begun < n && begun - done < SIDE_AT_ONCE; begun++) {
            pid_t pid = fork();

            if (pid == -1)
                return side_fail(side, "fork: %s", strerror(errno));
            if (pid == 0)
                _exit(write(ends[1], &result, sizeof(result)) < 0);
        }
        if (read(ends[0], &result, sizeof(result)) != sizeof(result))
            return side_fail(side, "read: %s", strerror(errno));
        if (reap(side, -1) != SIDE_OK)
            return SIDE_FAIL;
    }
    return SIDE_OK;
}

int
floor_process_round(struct side *side)
{
    int64_t then = side_now();
    int ends[2];
    int r;

    if (pipe(ends) == -1)
        return side_fail(side, "pipe: %s", strerror(errno));
    r = process_all(side, ends, SIDE_PROCESSES(side));
    close(ends[0]);
    close(ends[1]);
    side_report(side, "rate",
                SIDE_PROCESSES(side) / ((double)(side_now() - then) / 1e9));
    return r;
}

void
floor_fork_stop(struct side *side)
{
    (void)side; /* side_main() ends its crew */
}
