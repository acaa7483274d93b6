/*
 * warden.c - who looks after the server's process.
 *
 * A server that is killed is started again by whoever needs it, as long as the
 * owner lives; the owner's death is seen by the server, which then cleans up.
 * If both are killed at once nobody is left to do that. So the server has a
 * parent that does nothing but wait for it:
 *
 *     warden: fork, wait --> ended by itself            --> ends, too
 *                        --> killed: fork another, which
 *                              finds the owner alive    --> serves on
 *                              finds the owner dead     --> ends the tree,
 *                                                           cleans up
 *                              finds another server     --> ends, and so does
 *                                                           the warden
 *
 * It is the last one to go: where everybody is told to end, as when a service
 * is stopped, it does not listen, or nobody would clean up.
 *
 * The program is small and has done nothing yet when it splits. The warden has
 * about 100 kB of its own; what else it needs it shares with the server.
 */
#include "tools/warden.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* So many deaths in so many seconds, and it is left to the clients, which say
 * what is wrong to those who wait for it. */
#define DEATHS 5
#define SECONDS 10

static double
now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Is this death one too many? AT: a ring of when the last ones were. */
static int
too_often(double *at, unsigned count)
{
    double *oldest = &at[count % DEATHS], time = now();
    int rc = count >= DEATHS - 1 && time - at[(count + 1) % DEATHS] < SECONDS;

    *oldest = time;
    return rc;
}

/* Returns in a child that stands in for PID, if that was killed. */
static void
look_after(pid_t pid)
{
    double deaths[DEATHS];
    unsigned count;
    int status;

    for (count = 0;; count++) {
        while (waitpid(pid, &status, 0) < 0)
            if (errno != EINTR)
                _exit(1);
        if (!WIFSIGNALED(status))
            _exit(WEXITSTATUS(status));
        if (too_often(deaths, count))
            _exit(1);
        pid = fork();
        if (pid < 0)
            _exit(1);
        if (pid == 0)
            return;
    }
}

/* It has its name before anybody can hear of the server. */
int
zp_warden(int ready)
{
    pid_t pid;

    (void)prctl(PR_SET_NAME, "zp-warden");
    (void)signal(SIGTERM, SIG_IGN); /* not for a moment can it be ended so */
    pid = fork();
    if (pid > 0) {
        close(ready);
        ready = 0;
        look_after(pid);
    }
    (void)signal(SIGTERM, SIG_DFL);
    (void)prctl(PR_SET_NAME, "zp-server");
    return ready;
}
