/*
 * stale.c - telling the dead from the living, and removing what they left.
 *
 * Three things make it safe that many processes do this at once, beside
 * others that are just publishing a fresh directory under the same name:
 *
 *  - What is judged and emptied is an open directory, not a path. A fresh one
 *    is another directory, and the final rmdir() by path cannot hurt it: it
 *    was full when it got the name.
 *  - The judgement "the owner is dead, or closed it" never turns: an owner is
 *    fixed when the board is made. Only then is the server's flock
 *    tried, so that a server of a living owner never finds it taken.
 *  - The server holds its flock to its end, and who removes holds it, too.
 *
 * The board goes last but for the directory: who is killed half way leaves a
 * directory that still tells who owned it.
 *
 * The base may be a directory that the user keeps other things in. A directory
 * without a board of ours is let alone, unless it holds nothing but what a
 * broken one of ours may hold, and its name is wanted or one that only we give.
 */
#include "core/stale.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/board.h"
#include "core/error.h"

#define QUIET 600 /* seconds: nobody uses what nobody wrote that long */

uint64_t
zp__random(void)
{
    static _Atomic uint64_t count;
    uint64_t random;
    struct timespec now = {0};
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) == sizeof random)
        return random;
    clock_gettime(CLOCK_MONOTONIC, &now);
    random = (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec << 20;
    random += (uint64_t)getpid() + (atomic_fetch_add(&count, 1) << 24);
    return random * UINT64_C(0x9e3779b97f4a7c15);
}

/* ".new-PID-START-RANDOM": numbers but the pid in hex; the upper half of the
 * random one is the pid namespace, where alone the others mean anything. */
int
zp__temp_name(char *buffer, size_t size)
{
    zp__pid self;
    int rc = zp__pid_of(getpid(), &self);
    if (rc < 0)
        return zp__fail_errno(-rc, "cannot read /proc/self/stat");
    int n = snprintf(buffer, size, ZP__TEMP_PREFIX "%d-%llx-%08x%08x",
                     (int)self.pid, (unsigned long long)self.start,
                     (unsigned)zp__pid_ns(), (unsigned)zp__random());
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static bool
parse_temp(const char *name, zp__pid *ret_id, uint32_t *ret_ns)
{
    int pid, end = 0;
    unsigned long long start;
    unsigned ns, random;
    if (sscanf(name, ZP__TEMP_PREFIX "%d-%llx-%8x%8x%n", &pid, &start, &ns,
               &random, &end) != 4 ||
        name[end] != '\0')
        return false;
    *ret_id = (zp__pid){.pid = pid, .start = start};
    *ret_ns = ns;
    return true;
}

/* "p-PID-RANDOM", "d-DEV-INO". */
static bool
is_generated(const char *name)
{
    unsigned long long a, b;
    int end = 0;
    return sscanf(name, "%*1[pd]-%llx-%llx%n", &a, &b, &end) == 2 &&
           name[end] == '\0';
}

/* In the order of removal. */
static const char *const files[] = {
    "data.mdb", "lock.mdb", "ballast", "pub",   "ctl",
    "bell",     "start",    "lock",    "board", NULL,
};

/* A watcher's bell, "bell.N"? */
static bool
is_bell(const char *name)
{
    unsigned slot;
    char same[32];
    if (sscanf(name, "bell.%4u", &slot) != 1 || slot >= ZP__SLOTS)
        return false;
    snprintf(same, sizeof same, "bell.%u", slot);
    return strcmp(name, same) == 0;
}

/* The socket of a swarm, "swarm.PID.N"? Its pid, or 0. */
static int
swarm_pid(const char *name)
{
    unsigned pid, n;
    int end = 0;
    if (sscanf(name, "swarm.%8x.%8x%n", &pid, &n, &end) != 2 ||
        name[end] != '\0' || pid > INT_MAX)
        return 0;
    return (int)pid;
}

static bool
is_known(const char *name)
{
    size_t i = 0;
    while (files[i] && strcmp(files[i], name) != 0)
        i++;
    return files[i] != NULL || is_bell(name) || swarm_pid(name);
}

/* Could a run directory of ours look like this? One without a board lost its
 * data before that. */
static int
holds_only_ours(int dir, bool data)
{
    bool only = true;
    int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (copy < 0)
        return -errno;
    DIR *list = fdopendir(copy);
    if (!list) {
        close(copy);
        return -ENOMEM;
    }
    for (struct dirent *entry; only && (entry = readdir(list));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        only = is_known(name) && (data || strcmp(name, "data.mdb") != 0);
    }
    closedir(list);
    return only;
}

/* For what no pid can tell: has nothing been written for long? */
static bool
is_quiet(int dir)
{
    struct stat st;
    time_t last = 0;
    if (fstat(dir, &st) == 0)
        last = st.st_mtime;
    if (fstatat(dir, "data.mdb", &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        st.st_mtime > last)
        last = st.st_mtime;
    return time(NULL) - last > QUIET;
}

/* Is what NAME held (open as DIR) over, as far as owners tell? 1, 0, or -errno
 * when it cannot be looked at. */
static int
is_dead(int dir, const char *name, bool wanted, zp__pid *owner)
{
    uint32_t ns;
    if (parse_temp(name, owner, &ns)) {
        if (ns != (uint32_t)zp__pid_ns())
            return is_quiet(dir);
        return !zp__pid_alive(owner);
    }
    int rc = zp__board_peek(dir, owner, NULL);
    switch (rc) {
    case 0:
        return !zp__pid_alive(owner);
    case -ESHUTDOWN:  /* the owner said farewell, alive or not */
    case ZP_ENOSTATE: /* of another boot */
        return 1;
    case -EXDEV:
        owner->pid = 0;
        return wanted || is_quiet(dir);
    case ZP_EVERSION:
        return 0;
    case ZP_ECORRUPT:
    case -ENOENT:
    case -ELOOP:
        if (!wanted && !is_generated(name))
            return 0;
        return holds_only_ours(dir, rc == ZP_ECORRUPT);
    default:
        return rc;
    }
}

static bool
same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* The flock of the server that is no more, as long as DIR still has NAME:
 * the descriptor, -EWOULDBLOCK, or -errno when another removed it. */
static int
take_flock(int base, const char *name, int dir)
{
    struct stat mine, there;
    int fd =
        openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    int rc = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
    if (rc == 0 && (fstat(fd, &mine) < 0 ||
                    fstatat(dir, "lock", &there, AT_SYMLINK_NOFOLLOW) < 0 ||
                    !same_file(&mine, &there)))
        rc = -ENOENT;
    if (rc == 0 && (fstat(dir, &mine) < 0 ||
                    fstatat(base, name, &there, AT_SYMLINK_NOFOLLOW) < 0 ||
                    !same_file(&mine, &there)))
        rc = -ENOENT;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* The watchers' bells, and the swarms' sockets. Without a descriptor to list
 * the directory with, all that there may be. */
static void
clear_bells(int dir, const char *prefix)
{
    char path[ZP__PATH_MAX];
    int copy = openat(dir, prefix[0] ? prefix : ".",
                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *list = copy >= 0 ? fdopendir(copy) : NULL;
    if (list) {
        for (struct dirent *entry; (entry = readdir(list));)
            if (is_bell(entry->d_name) || swarm_pid(entry->d_name))
                unlinkat(dirfd(list), entry->d_name, 0);
        closedir(list);
        return;
    }
    if (copy >= 0)
        close(copy);
    for (unsigned i = 0; i < ZP__SLOTS; i++) {
        snprintf(path, sizeof path, "%sbell.%u", prefix, i);
        unlinkat(dir, path, 0);
    }
}

/* A process that has the pid of a dead one since makes its own sockets anew. */
void
zp__run_tidy(const char *run)
{
    DIR *list = opendir(run);
    if (!list)
        return;
    for (struct dirent *entry; (entry = readdir(list));) {
        int pid = swarm_pid(entry->d_name);
        if (pid && kill(pid, 0) < 0 && errno == ESRCH)
            unlinkat(dirfd(list), entry->d_name, 0);
    }
    closedir(list);
}

void
zp__run_clear(int dir, const char *prefix)
{
    char path[ZP__PATH_MAX];
    clear_bells(dir, prefix);
    for (size_t i = 0; files[i]; i++) {
        snprintf(path, sizeof path, "%s%s", prefix, files[i]);
        unlinkat(dir, path, 0);
    }
}

/* Its fate, or -errno. */
static int
remove_dead(int base, const char *name, int dir)
{
    int lock = take_flock(base, name, dir);
    if (lock == -EWOULDBLOCK)
        return ZP__ENDING;
    if (lock == -ENOENT)
        return ZP__GONE;
    if (lock < 0)
        return lock;
    zp__run_clear(dir, "");
    bool gone = unlinkat(base, name, AT_REMOVEDIR) == 0 || errno == ENOENT;
    close(lock);
    return gone ? ZP__GONE : ZP__FOREIGN;
}

/* Its fate, or -errno. */
static int
judge(int base, const char *name, bool wanted, zp__pid *owner)
{
    struct stat st;
    int dir =
        openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return errno == ENOENT                      ? ZP__GONE
               : errno == ENOTDIR || errno == ELOOP ? ZP__FOREIGN
                                                    : -errno;
    int rc = ZP__LIVE;
    if (fstat(dir, &st) < 0)
        rc = -errno;
    else if (st.st_uid == geteuid()) {
        int dead = is_dead(dir, name, wanted, owner);
        rc = dead > 0   ? remove_dead(base, name, dir)
             : dead < 0 ? dead
                        : ZP__LIVE;
    }
    close(dir);
    return rc;
}

enum zp__fate
zp__stale_remove(int base, const char *name, bool wanted, zp__pid *ret_owner)
{
    zp__pid owner = {0};
    int fate = judge(base, name, wanted, &owner);
    if (ret_owner)
        *ret_owner = owner;
    if (fate >= 0)
        return (enum zp__fate)fate;
    errno = -fate;
    return ZP__UNKNOWN;
}
