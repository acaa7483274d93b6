/*
 * crew.c - starting, waiting for and ending the other processes of a side.
 *
 * A member dies with the side (PDEATHSIG, which survives exec) and is killed
 * and reaped by crew_free(). The shared memory is a file in the side's private
 * directory: a member that is executed finds it there.
 */
#include "tests/bench/crew.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int
map_shared(struct side *side, int flags)
{
    char path[256];
    void *p = MAP_FAILED;
    int fd;

    snprintf(path, sizeof(path), "%s/crew", side->dir);
    fd = open(path, O_RDWR | O_CLOEXEC | flags, 0600);
    if (fd != -1 && ftruncate(fd, sizeof(crew_shared)) == 0)
        p = mmap(NULL, sizeof(crew_shared), PROT_READ | PROT_WRITE, MAP_SHARED,
                 fd, 0);
    if (fd != -1)
        close(fd);
    if (p == MAP_FAILED)
        return side_fail(side, "%s: %s", path, strerror(errno));
    side->crew->shared = p;
    return SIDE_OK;
}

int
crew_new(struct side *side)
{
    side->crew = calloc(1, sizeof(*side->crew));
    if (side->crew == NULL)
        return side_fail(side, "out of memory");
    return map_shared(side, O_CREAT);
}

int
crew_join(struct side *side)
{
    side->crew = calloc(1, sizeof(*side->crew));
    if (side->crew == NULL)
        return side_fail(side, "out of memory");
    return map_shared(side, 0);
}

struct crew *
crew_free(struct crew *crew)
{
    if (crew == NULL)
        return NULL;
    for (unsigned i = 0; i < crew->n; i++)
        kill(crew->pid[i], SIGKILL);
    for (unsigned i = 0; i < crew->n; i++)
        while (waitpid(crew->pid[i], NULL, 0) == -1 && errno == EINTR)
            ;
    if (crew->shared != NULL)
        munmap(crew->shared, sizeof(*crew->shared));
    free(crew);
    return NULL;
}

void
crew_complain(struct side *side, const char *role, unsigned index)
{
    crew_shared *s = side->crew != NULL ? side->crew->shared : NULL;

    if (s == NULL)
        return;
    if (atomic_exchange(&s->failed, 1) == 0)
        snprintf(s->why, sizeof(s->why), "%s %u: %.200s", role, index,
                 side->why);
    syscall(SYS_futex, &s->ready, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    syscall(SYS_futex, &s->arrived, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void
silence(void)
{
    int fd = open("/dev/null", O_RDWR);

    if (fd == -1)
        _exit(126);
    dup2(fd, 0);
    dup2(fd, 1);
    if (fd > 2)
        close(fd);
}

int
crew_exec(struct side *side, const char *const argv[], pid_t *ret_pid)
{
    pid_t parent = getpid();
    pid_t pid;

    if (side->crew->n == CREW_MAX)
        return side_fail(side, "more than %d processes", CREW_MAX);
    fflush(NULL);
    pid = fork();
    if (pid == -1)
        return side_fail(side, "fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(126);
        silence();
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    side->crew->pid[side->crew->n++] = pid;
    *ret_pid = pid;
    return SIDE_OK;
}

int
crew_start(struct side *side, const char *role, unsigned n)
{
    char index[16];
    const char *argv[] = {"/proc/self/exe", "--role", role, index,
                          side->dir,        NULL};
    pid_t pid;

    for (unsigned i = 0; i < n; i++) {
        snprintf(index, sizeof(index), "%u", i);
        if (crew_exec(side, argv, &pid) != SIDE_OK)
            return SIDE_FAIL;
    }
    return SIDE_OK;
}

void
crew_add(_Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* A member that died says nothing: look. */
static int
check_members(struct side *side)
{
    struct crew *crew = side->crew;
    siginfo_t info;

    if (atomic_load(&crew->shared->failed))
        return side_fail(side, "%.200s", crew->shared->why);
    for (unsigned i = 0; i < crew->n; i++) {
        info.si_pid = 0;
        if (waitid(P_PID, (id_t)crew->pid[i], &info,
                   WEXITED | WNOHANG | WNOWAIT) == 0 &&
            info.si_pid != 0)
            return side_fail(side, "process %u ended (%s %d)", i,
                             info.si_code == CLD_EXITED ? "exit" : "signal",
                             info.si_status);
    }
    return SIDE_OK;
}

int
crew_wait(struct side *side, _Atomic uint32_t *word, uint32_t at_least,
          double seconds, const char *what)
{
    int64_t end = side_now() + (int64_t)(seconds * 1e9);
    struct timespec t = {0, 100000000};
    uint32_t now;

    while ((now = atomic_load(word)) < at_least) {
        if (check_members(side) != SIDE_OK)
            return SIDE_FAIL;
        if (side_now() > end)
            return side_fail(side, "%s: %u of %u in %.3g s", what, now,
                             at_least, seconds);
        syscall(SYS_futex, word, FUTEX_WAIT, now, &t, NULL, 0);
    }
    return SIDE_OK;
}

/* The number behind NAME in a file of /proc, in KiB. */
static int
proc_kib(struct side *side, pid_t pid, const char *file, const char *name,
         double *ret_kib)
{
    char path[64];
    char line[256];
    size_t n = strlen(name);
    int r = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (strncmp(line, name, n) == 0 && line[n] == ':') {
            *ret_kib = atof(line + n + 1);
            r = 0;
        }
    if (f != NULL)
        fclose(f);
    return r == 0 ? SIDE_OK : side_fail(side, "%s: no %s", path, name);
}

int
crew_rss(struct side *side, pid_t pid, double *ret_kib)
{
    return proc_kib(side, pid, "status", "VmRSS", ret_kib);
}

int
crew_report_pss(struct side *side, const pid_t *pids, unsigned n)
{
    double sum = 0;
    double one;

    for (unsigned i = 0; i < n; i++) {
        if (proc_kib(side, pids[i], "smaps_rollup", "Pss", &one) != SIDE_OK)
            return SIDE_FAIL;
        sum += one;
    }
    side_report(side, "kib", sum / n);
    return SIDE_OK;
}
