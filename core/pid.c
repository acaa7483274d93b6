/*
 * pid.c - identities of processes, read from /proc.
 *
 * A pid alone names whoever has the number now; pid and start time together
 * name one process for as long as the machine runs. To act on a process
 * (signal it, wait for it) the identity must not only have been right a moment
 * ago: we open a pidfd first and look at the start time *then*. If it is still
 * right, the pidfd was opened while the process lived, so it is that process
 * and stays it, whatever happens to the number.
 *
 * What cannot be told counts as alive: the callers remove what the dead left
 * behind. Cost: one look at /proc is about 10 us.
 */
#include "core/pid.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* What /proc/PID/stat tells of a process. */
struct stat_line {
    int pid;
    char state;
    long threads;
    uint64_t start;
};

/* A short file, whole, NUL-terminated: its length or -errno. */
static int
read_file(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t used = 0;
    int rc = 0;
    while (used < size - 1) {
        ssize_t n = read(fd, buffer + used, size - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = -errno;
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    close(fd);
    buffer[used] = '\0';
    return rc ? rc : (int)used;
}

/* "PID (NAME) STATE PPID ...": the name may hold anything, ") " too, so the
 * fields are counted from the last parenthesis. */
static int
parse_stat(const char *text, struct stat_line *ret)
{
    enum { STATE = 3, THREADS = 20, START = 22 };
    const char *at = strrchr(text, ')');
    if (!at || at[1] != ' ')
        return -EIO;
    at += 2;
    ret->pid = atoi(text);
    ret->state = *at;
    for (int field = STATE; field < START; field++) {
        if (field == THREADS)
            ret->threads = strtol(at, NULL, 10);
        at = strchr(at, ' ');
        if (!at)
            return -EIO;
        at++;
    }
    ret->start = strtoull(at, NULL, 10);
    return 0;
}

/* 0, -ESRCH, or why it cannot be told. */
static int
read_stat(int pid, struct stat_line *ret)
{
    char path[32], text[1024];
    if (pid <= 0)
        return -ESRCH;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int rc = read_file(path, text, sizeof text);
    if (rc == -ENOENT && access("/proc/self/stat", F_OK) == 0)
        return -ESRCH;
    return rc < 0 ? rc : parse_stat(text, ret);
}

/* The main thread may end before the others do, and looks like a zombie. */
static bool
has_ended(const struct stat_line *line)
{
    bool gone = line->state == 'Z' || line->state == 'X' || line->state == 'x';
    return gone && line->threads <= 1;
}

zp__pid
zp__pid_self(void)
{
    char text[1024];
    struct stat_line line;
    zp__pid self = {.pid = getpid()};
    if (read_file("/proc/self/stat", text, sizeof text) > 0 &&
        parse_stat(text, &line) == 0)
        self.start = line.start;
    return self;
}

int
zp__pid_of(int pid, zp__pid *ret)
{
    struct stat_line line;
    int rc = read_stat(pid, &line);
    if (rc < 0)
        return rc;
    *ret = (zp__pid){.pid = pid, .start = line.start};
    return 0;
}

char
zp__pid_state(int pid)
{
    struct stat_line line;
    return read_stat(pid, &line) == 0 ? line.state : '\0';
}

bool
zp__pid_alive(const zp__pid *id)
{
    struct stat_line line;
    if (id->pid <= 0 || id->start == 0)
        return false;
    int rc = read_stat(id->pid, &line);
    if (rc == -ESRCH)
        return false;
    if (rc < 0) /* no /proc, or no descriptor left to read it with */
        return kill(id->pid, 0) == 0 || errno != ESRCH;
    return line.start == id->start && !has_ended(&line);
}

int
zp__pidfd(int pid)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0u);
    if (fd >= 0)
        return fd;
    return errno == EPERM ? -ENOSYS : -errno; /* so some sandboxes say it */
}

int
zp__pid_open(const zp__pid *id)
{
    if (id->pid <= 0 || id->start == 0)
        return -ESRCH;
    int fd = zp__pidfd(id->pid);
    if (fd < 0) /* EINVAL: the number is a thread's now */
        return fd == -EINVAL ? -ESRCH : fd;
    struct stat_line line;
    int rc = read_stat(id->pid, &line);
    if (rc == 0 && (line.start != id->start || has_ended(&line)))
        rc = -ESRCH;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* Sandboxes (and valgrind) may know no pidfds. The number is then used at once
 * after the look: numbers are given out in turn, not again in microseconds. */
static int
kill_by_number(const zp__pid *id, int signal)
{
    if (!zp__pid_alive(id))
        return -ESRCH;
    return kill(id->pid, signal) < 0 ? -errno : 0;
}

int
zp__pid_kill(const zp__pid *id, int signal)
{
    int fd = zp__pid_open(id);
    if (fd == -ENOSYS)
        return kill_by_number(id, signal);
    if (fd < 0)
        return fd;
    long rc = syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0u);
    int error = rc < 0 ? -errno : 0;
    close(fd);
    return error;
}

/* The machine's boot id never changes under a process, so it is read once. */
uint64_t
zp__boot_hash(void)
{
    static _Atomic uint64_t known;
    uint64_t hash = atomic_load_explicit(&known, memory_order_relaxed);
    if (hash)
        return hash;
    char text[64];
    int n = read_file("/proc/sys/kernel/random/boot_id", text, sizeof text);
    if (n <= 0)
        return 0;
    hash = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    hash |= 1; /* 0 means unknown */
    atomic_store_explicit(&known, hash, memory_order_relaxed);
    return hash;
}

uint64_t
zp__pid_ns(void)
{
    struct stat st;
    return stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
}
