/*
 * bench_run.c - the sides as processes of the driver.
 *
 * Each side leads a process group of its own and dies with the driver, so that
 * ^C, a hanging side and a killed driver all end with nothing left. The
 * signals that end the run are blocked but for the moments in which the driver
 * waits: a wait ends then, and all is cleaned up in the ordinary way.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define PATIENCE 20.0 /* seconds to clean up */

static volatile sig_atomic_t got_signal;
static sigset_t waiting; /* the mask while waiting */

static void
on_signal(int number)
{
    got_signal = number;
}

void
catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t set;

    sigemptyset(&set);
    for (const int *s = (const int[]){SIGINT, SIGTERM, SIGHUP, 0}; *s != 0;
         s++) {
        sigaddset(&set, *s);
        sigaction(*s, &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, &waiting);
}

bool
interrupted(void)
{
    sigset_t pending;

    sigpending(&pending);
    return got_signal != 0 || sigismember(&pending, SIGINT) == 1 ||
           sigismember(&pending, SIGTERM) == 1 ||
           sigismember(&pending, SIGHUP) == 1;
}

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void
nap(double seconds)
{
    struct timespec t = {0, (long)(seconds * 1e9)};

    nanosleep(&t, NULL);
}

/* In the child: become the side. */
static void
become(const struct options *o, const char *program, const char *measure,
       const char *dir, const int in[2], const int out[2], pid_t parent)
{
    char path[600];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0);
    if (getppid() != parent)
        _exit(126);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &waiting, NULL);
    dup2(in[0], 0);
    dup2(out[1], 1);
    snprintf(path, sizeof(path), "%s/%s", o->bin, program);
    execl(path, program, measure, dir, (char *)NULL);
    _exit(127);
}

/* Wait for the next line: 1, 0 at the end, -1 on timeout or signal. */
static int
read_line(struct runner *r, double timeout)
{
    double end = now() + timeout;
    char *newline;

    while ((newline = memchr(r->line, '\n', r->have)) == NULL) {
        struct pollfd p = {r->from, POLLIN, 0};
        double left = end - now();
        struct timespec t = {(time_t)left, (long)((left - (time_t)left) * 1e9)};
        ssize_t n;

        if (left <= 0 || interrupted() || r->have == sizeof(r->line))
            return -1;
        if (ppoll(&p, 1, &t, &waiting) <= 0)
            continue;
        n = read(r->from, r->line + r->have, sizeof(r->line) - r->have);
        if (n == 0 || (n == -1 && errno != EINTR))
            return 0;
        r->have += n > 0 ? (size_t)n : 0;
    }
    *newline = '\0';
    r->have = 0; /* it says one line at a time */
    return 1;
}

static void
give_up(struct runner *r, enum outcome outcome, const char *program,
        const char *why)
{
    r->outcome = outcome;
    snprintf(r->why, sizeof(r->why), "%s: %s", program, why);
}

/* What it said instead of WORD. */
static const char *
expect(struct runner *r, const char *word, const char *program, double timeout)
{
    size_t n = strlen(word);
    int got = read_line(r, timeout);

    if (got == 1 && strncmp(r->line, word, n) == 0)
        return r->line + n + (r->line[n] == ' ');
    if (got == 1 && strncmp(r->line, "skip ", 5) == 0)
        give_up(r, SKIPPED, program, r->line + 5);
    else if (got == 1 && strncmp(r->line, "fail ", 5) == 0)
        give_up(r, FAILED, program, r->line + 5);
    else
        give_up(r, FAILED, program,
                got == 0        ? "ended without a word"
                : interrupted() ? "interrupted"
                                : "no answer in time");
    runner_stop(r);
    return NULL;
}

void
runner_start(struct runner *r, const struct options *o, const char *program,
             const struct measure *measure)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    char path[600];
    pid_t parent = getpid();

    snprintf(path, sizeof(path), "%s/%s", o->bin, program);
    if (access(path, X_OK) != 0) {
        give_up(r, SKIPPED, program, "not built (what it needs is missing)");
        return;
    }
    snprintf(r->dir, sizeof(r->dir), "%s/%s", o->dir, program);
    mkdir(r->dir, 0700);
    fflush(NULL);
    if (pipe2(in, O_CLOEXEC) == -1 || pipe2(out, O_CLOEXEC) == -1 ||
        (r->pid = fork()) == -1) {
        r->pid = 0;
        give_up(r, FAILED, program, strerror(errno));
        for (int i = 0; i < 2; i++) {
            close(in[i]);
            close(out[i]);
        }
        return;
    }
    if (r->pid == 0)
        become(o, program, measure->name, r->dir, in, out, parent);
    setpgid(r->pid, r->pid);
    close(in[0]);
    close(out[1]);
    r->to = in[1];
    r->from = out[0];
    expect(r, "ready", program, measure->timeout);
}

const char *
runner_round(struct runner *r, double timeout)
{
    const char *program = strrchr(r->dir, '/') + 1;

    if (write(r->to, "go\n", 3) != 3) {
        give_up(r, FAILED, program, "ended");
        runner_stop(r);
        return NULL;
    }
    return expect(r, "ok", program, timeout);
}

/* Reap it, if it ends within SECONDS. */
static bool
reaped(struct runner *r, double seconds)
{
    for (double end = now() + seconds; now() < end; nap(0.002)) {
        pid_t pid = waitpid(r->pid, NULL, WNOHANG);

        if (pid == r->pid || (pid == -1 && errno == ECHILD))
            return true;
    }
    return false;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    remove(path);
    return 0;
}

void
runner_stop(struct runner *r)
{
    pid_t group = r->pid;
    bool patient = r->outcome == DONE && !interrupted();

    if (group == 0)
        return;
    close(r->to);
    if (!reaped(r, patient ? PATIENCE : 1.0)) {
        kill(-group, SIGTERM);
        if (!reaped(r, 2.0)) {
            kill(-group, SIGKILL);
            reaped(r, PATIENCE);
        }
    }
    kill(-group, SIGKILL); /* whoever of its crew is left */
    close(r->from);
    r->pid = 0;
    nftw(r->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static bool
is_empty(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool empty = true;

    while (d != NULL && (e = readdir(d)) != NULL)
        empty = empty &&
                (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0);
    if (d != NULL)
        closedir(d);
    return empty;
}

int
remove_all(const char *dir)
{
    char states[256];
    double end = now() + 5;
    int r = 0;

    snprintf(states, sizeof(states), "%s/zp", dir);
    while (!is_empty(states) && now() < end)
        nap(0.01);
    if (!is_empty(states)) {
        fprintf(stderr, "bench: a state outlived its owner by 5 s\n");
        r = -1;
    }
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return r;
}
