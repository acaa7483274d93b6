/*
 * place.c - the directories of states: made, published, found, removed.
 *
 *     BASE/.new-PID-START-RANDOM   being filled by process PID
 *          | rename(): fails on a directory that is not empty
 *          v
 *     BASE/NAME  BASE/p-PID-RANDOM  BASE/d-DEV-INO
 *
 * rename() is the only arbiter of a name. Who finds it taken asks whether the
 * owner lives (stale.c), and if not removes it and tries again; a server that
 * still cleans up after a dead owner is waited for. A durable path is also
 * guarded when its state has a name: after the rename one looks for another
 * state on the same data; of two that start at once at least one sees the
 * other, and gives way. The base is base.c's.
 */
#include "core/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base.h"
#include "core/board.h"
#include "core/error.h"
#include "core/stale.h"

#define TRIES 100       /* at a directory that others keep making or removing */
#define ENDING_WAIT 3.0 /* seconds for the server of a dead owner */
#define ENDING_STEP 5   /* milliseconds */

static int
join(char *buffer, size_t size, const char *dir, const char *name)
{
    int n = snprintf(buffer, size, "%s/%s", dir, name);
    if (n >= 0 && (size_t)n < size)
        return 0;
    return zp__fail(-ENAMETOOLONG, "%s/%s: the path is longer than %zu bytes",
                    dir, name, size - 1);
}

static int
open_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static void
durable_name(char buffer[64], const struct stat *data)
{
    snprintf(buffer, 64, "d-%llx-%llx", (unsigned long long)data->st_dev,
             (unsigned long long)data->st_ino);
}

/* ---- finding ---- */

/* Asked as the effective user, as all else is done (access() asks as the real
 * one). */
static bool
exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

/* Whose RUN is, dead or alive: 0 with PLACE filled; ZP_ENOSTATE and others,
 * with text. */
static int
read_run(const char *run, zp__place *ret, zp__pid *ret_owner)
{
    struct stat st;
    char data[ZP__PATH_MAX] = "";
    zp__pid owner = {0};
    zp__place place = {.durable = false};
    int dir = open_dir(run);
    if (dir == -ENOENT || dir == -ENOTDIR || dir == -ELOOP)
        return zp__fail(ZP_ENOSTATE, "%s: no state is running there", run);
    if (dir < 0)
        return zp__fail_errno(-dir, "%s", run);
    int rc = fstat(dir, &st) < 0 ? -errno : 0;
    if (rc == 0 && st.st_uid != geteuid())
        rc = zp__fail(-EACCES, "%s belongs to user %u", run,
                      (unsigned)st.st_uid);
    else if (rc == 0)
        rc = zp__board_peek(dir, &owner, data);
    close(dir);
    if (rc == -ESHUTDOWN) /* for the caller to see on the board */
        rc = 0;
    if (rc == -ENOENT || rc == ZP_ENOSTATE)
        return zp__fail(ZP_ENOSTATE, "%s: no state is running there", run);
    if (rc == -EXDEV)
        return zp__fail(ZP_ENOSTATE,
                        "%s: the state lives in another pid namespace", run);
    if (rc == -EACCES)
        return rc;
    if (rc < 0)
        return zp__fail(rc, "%s/board: %s", run, zp_strerror(rc));
    if (strlen(run) >= sizeof place.run)
        return zp__fail(-ENAMETOOLONG, "%s: the path is longer than %zu bytes",
                        run, sizeof place.run - 1);
    strcpy(place.run, run);
    place.durable = data[0] != '\0';
    strcpy(place.data, place.durable ? data : place.run);
    place.dev = st.st_dev;
    place.ino = st.st_ino;
    *ret = place;
    *ret_owner = owner;
    return 0;
}

/* Who uses RUN, if anyone: likewise. */
static int
look_at(const char *run, zp__place *ret, zp__pid *ret_owner)
{
    zp__place place;
    zp__pid owner;
    int rc = read_run(run, &place, &owner);
    if (rc < 0)
        return rc;
    if (!zp__pid_alive(&owner))
        return zp__fail(ZP_ENOSTATE,
                        "%s: the state's owner, process %d, has "
                        "ended",
                        run, (int)owner.pid);
    if (ret)
        *ret = place;
    if (ret_owner)
        *ret_owner = owner;
    return 0;
}

/* Is the error of one that we cannot look at, rather than of one that is not
 * a live state? */
static bool
is_blind(int rc)
{
    return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -EIO;
}

/* A live state below BASE, other than EXCEPT, whose data is in DATA: 1, 0, or
 * -errno. */
static int
scan_for_data(const char *base, const struct stat *data, const char *except,
              zp__place *ret, zp__pid *ret_owner)
{
    struct dirent *entry;
    int found = 0;
    DIR *list = opendir(base);
    if (!list)
        return errno == ENOENT ? 0 : zp__fail_errno(errno, "%s", base);
    while (found == 0 && (entry = readdir(list))) {
        char run[ZP__RUN_MAX];
        struct stat st;
        zp__place place;
        if (entry->d_name[0] == '.' ||
            (size_t)snprintf(run, sizeof run, "%s/%s", base, entry->d_name) >=
                sizeof run ||
            strcmp(run, except) == 0)
            continue;
        int rc = look_at(run, &place, ret_owner);
        if (is_blind(rc))
            found = rc;
        else if (rc == 0 && place.durable && stat(place.data, &st) == 0)
            found = st.st_dev == data->st_dev && st.st_ino == data->st_ino;
        if (found > 0 && ret)
            *ret = place;
    }
    closedir(list);
    return found;
}

static int
find_by_data(zp__place *ret, const char *path)
{
    char base[ZP__RUN_MAX], data[ZP__PATH_MAX];
    struct stat st;
    int rc = zp__data_find(data, path, &st, false);
    if (rc < 0)
        return rc;
    rc = zp__base_find(base, false);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    if (rc == 0)
        rc = scan_for_data(base, &st, "", ret, NULL);
    if (rc > 0)
        return 0;
    if (rc < 0 && rc != -ENOENT)
        return rc;
    return zp__fail(ZP_ENOSTATE, "%s: no state is running there", data);
}

static int
find_by_path(zp__place *ret, const char *path)
{
    char *real = realpath(path, NULL);
    if (!real && (errno == ENOENT || errno == ENOTDIR))
        return zp__fail(ZP_ENOSTATE, "%s: there is no such directory", path);
    if (!real)
        return zp__fail_errno(errno, "%s", path);
    char board[PATH_MAX + 8];
    snprintf(board, sizeof board, "%s/board", real);
    int rc = exists(board) ? look_at(real, ret, NULL) : find_by_data(ret, real);
    free(real);
    return rc;
}

int
zp__place_find(zp__place *ret, const char *address)
{
    char base[ZP__RUN_MAX], run[ZP__RUN_MAX];
    if (!address || !*address)
        return zp__fail(-EINVAL, "no address of a state is given");
    if (strchr(address, '/'))
        return find_by_path(ret, address);
    int rc = zp__name_check(address);
    if (rc < 0)
        return rc;
    rc = zp__base_find(base, false);
    if (rc == -ENOENT)
        return zp__fail(ZP_ENOSTATE, "no state named \"%s\" is running",
                        address);
    if (rc < 0 || (rc = join(run, sizeof run, base, address)) < 0)
        return rc;
    if (!exists(run) && errno == ENOENT)
        return zp__fail(ZP_ENOSTATE, "no state named \"%s\" is running in %s",
                        address, base);
    return look_at(run, ret, NULL);
}

int
zp__place_reach(zp__place *ret, const char *run_dir)
{
    zp__pid owner;
    char *real = realpath(run_dir, NULL);
    if (!real && (errno == ENOENT || errno == ENOTDIR))
        return zp__fail(ZP_ENOSTATE, "%s: there is no such directory", run_dir);
    if (!real)
        return zp__fail_errno(errno, "%s", run_dir);
    int rc = read_run(real, ret, &owner);
    free(real);
    return rc;
}

/* ---- making ---- */

static double
now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int
in_use(const char *what, const zp__pid *owner)
{
    if (owner->pid > 0)
        return zp__fail(-EADDRINUSE, "%s is in use by process %d", what,
                        (int)owner->pid);
    return zp__fail(-EADDRINUSE, "%s is in use", what);
}

/* See to it that nothing has the name of the directory TARGET: 0, or who has
 * it lives: -EADDRINUSE. */
static int
free_name(const char *target)
{
    char base[ZP__RUN_MAX];
    const char *name = strrchr(target, '/') + 1;
    zp__pid owner;
    enum zp__fate fate;
    double deadline = now() + ENDING_WAIT;
    snprintf(base, sizeof base, "%.*s", (int)(name - target - 1), target);
    int dir = open_dir(base);
    if (dir < 0)
        return zp__fail_errno(-dir, "%s", base);
    while ((fate = zp__stale_remove(dir, name, true, &owner)) == ZP__ENDING &&
           now() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = ENDING_STEP * 1000000}, NULL);
    int error = errno;
    close(dir);
    if (fate == ZP__UNKNOWN)
        return zp__fail_errno(error, "%s cannot be looked at", target);
    if (fate == ZP__GONE)
        return 0;
    if (fate == ZP__FOREIGN)
        return zp__fail(-EADDRINUSE, "%s is in the way: not a state's", target);
    if (fate == ZP__ENDING)
        return zp__fail(-EADDRINUSE,
                        "%s: the state of process %d has ended, but its "
                        "server still runs",
                        target, (int)owner.pid);
    return in_use(target, &owner);
}

/* A directory of our own below BASE, which others may remove when empty. */
static int
make_temp(zp__place *place, char base[ZP__RUN_MAX])
{
    char name[80];
    struct stat st;
    int rc = -ENOENT;
    for (int i = 0; i < TRIES && (rc == -ENOENT || rc == -EEXIST); i++) {
        if ((rc = zp__base_find(base, true)) < 0 ||
            (rc = zp__temp_name(name, sizeof name)) < 0 ||
            (rc = join(place->run, sizeof place->run, base, name)) < 0)
            return rc;
        rc = mkdir(place->run, S_IRWXU) < 0 ? -errno : 0;
    }
    if (rc < 0)
        return zp__fail_errno(-rc, "cannot make %s", place->run);
    if (stat(place->run, &st) < 0) {
        rc = zp__fail_errno(errno, "%s", place->run);
        rmdir(place->run);
        return rc;
    }
    place->dev = st.st_dev;
    place->ino = st.st_ino;
    return 0;
}

/* The final name, which nobody has now. */
static int
choose_target(zp__place *place, const char *base, const char *name,
              const struct stat *data)
{
    char made[64];
    zp__pid owner;
    if (!name && data)
        durable_name(made, data);
    else if (!name)
        snprintf(made, sizeof made, "p-%d-%016llx", (int)getpid(),
                 (unsigned long long)zp__random());
    int rc =
        join(place->target, sizeof place->target, base, name ? name : made);
    if (rc < 0)
        return rc;
    if (data)
        rc = scan_for_data(base, data, place->run, NULL, &owner);
    if (rc != 0)
        return rc < 0 ? rc : in_use(place->data, &owner);
    return free_name(place->target);
}

int
zp__place_new(zp__place *ret, const char *name, const char *path)
{
    zp__place place = {.durable = path != NULL};
    char base[ZP__RUN_MAX];
    struct stat st;
    int rc = name ? zp__name_check(name) : 0;
    if (rc == 0 && path && !*path)
        rc = zp__fail(-EINVAL, "the path of a durable state is empty");
    if (rc == 0 && path)
        rc = zp__data_find(place.data, path, &st, true);
    if (rc < 0)
        return rc;
    zp__place_sweep();
    rc = make_temp(&place, base);
    if (rc < 0)
        return rc;
    if (!path)
        strcpy(place.data, place.run);
    rc = choose_target(&place, base, name, path ? &st : NULL);
    if (rc < 0) {
        zp__place_remove(&place);
        return rc;
    }
    *ret = place;
    return 0;
}

/* After the rename: does another state live on the same data? */
static int
check_alone(const zp__place *place)
{
    char base[ZP__RUN_MAX];
    struct stat st;
    zp__pid owner;
    if (!place->durable || stat(place->data, &st) < 0)
        return 0;
    strcpy(base, place->run);
    *strrchr(base, '/') = '\0';
    int rc = scan_for_data(base, &st, place->run, NULL, &owner);
    return rc > 0 ? in_use(place->data, &owner) : rc;
}

int
zp__place_publish(zp__place *place)
{
    if (!place->target[0])
        return zp__fail(-EINVAL, "%s is published already", place->run);
    for (int i = 0; rename(place->run, place->target) < 0; i++) {
        if ((errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR) ||
            i == TRIES)
            return zp__fail_errno(errno, "cannot rename %s to %s", place->run,
                                  place->target);
        int rc = free_name(place->target);
        if (rc < 0)
            return rc;
    }
    strcpy(place->run, place->target);
    place->target[0] = '\0';
    if (!place->durable)
        strcpy(place->data, place->run);
    return check_alone(place);
}

/* ---- removing ---- */

/* The base, if it was made on demand; rmdir() fails unless it is empty. */
static void
remove_base(const char *run)
{
    char base[ZP__RUN_MAX];
    struct stat st;
    snprintf(base, sizeof base, "%s", run);
    char *slash = strrchr(base, '/');
    if (!slash || slash == base)
        return;
    *slash = '\0';
    if (lstat(base, &st) == 0 && S_ISDIR(st.st_mode) &&
        st.st_uid == geteuid() && st.st_mode & S_ISVTX &&
        !(st.st_mode & (S_IRWXG | S_IRWXO)))
        rmdir(base);
}

/* PLACE's run directory, if it is still that one: a descriptor or -errno. */
static int
open_run(const zp__place *place)
{
    struct stat st;
    int dir = open_dir(place->run);
    if (dir < 0)
        return dir;
    int rc = fstat(dir, &st) < 0 ? -errno : 0;
    if (rc == 0 && place->ino &&
        (st.st_dev != place->dev || st.st_ino != place->ino))
        rc = -ENOENT;
    if (rc == 0 && st.st_uid != geteuid())
        rc = -EPERM;
    if (rc == 0)
        return dir;
    close(dir);
    return rc;
}

/* Without a descriptor left, by path: but for a race that needs two other
 * processes in between, as good. */
static void
remove_by_path(const zp__place *place)
{
    char prefix[ZP__RUN_MAX + 1];
    struct stat st;
    if (lstat(place->run, &st) < 0 || !S_ISDIR(st.st_mode) ||
        (place->ino && (st.st_dev != place->dev || st.st_ino != place->ino)))
        return;
    snprintf(prefix, sizeof prefix, "%s/", place->run);
    zp__run_clear(AT_FDCWD, prefix);
    rmdir(place->run);
}

void
zp__place_remove(const zp__place *place)
{
    int before = errno;
    if (!place->run[0])
        return;
    int dir = open_run(place);
    if (dir >= 0) {
        /* again if somebody opened a lock file in between, which makes it */
        for (int i = 0; i < 3; i++) {
            zp__run_clear(dir, "");
            if (rmdir(place->run) == 0 || errno != ENOTEMPTY)
                break;
        }
        close(dir);
    } else if (dir == -EMFILE || dir == -ENFILE) {
        remove_by_path(place);
    }
    remove_base(place->run);
    errno = before;
}

void
zp__place_sweep(void)
{
    char base[ZP__RUN_MAX];
    if (zp__base_find(base, false) < 0)
        return;
    DIR *list = opendir(base);
    if (!list)
        return;
    for (struct dirent *entry; (entry = readdir(list));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            zp__stale_remove(dirfd(list), entry->d_name, false, NULL);
    closedir(list);
}

/* ---- files in it ---- */

const char *
zp__place_file(const zp__place *place, const char *file, char *buffer)
{
    snprintf(buffer, ZP__PATH_MAX, "%s/%s", place->run, file);
    return buffer;
}

/* The lock counts only while its file is still there: who removes a run
 * directory holds the flock of a file that others may be opening. */
int
zp__place_flock(const zp__place *place, const char *file)
{
    struct stat mine, there;
    int dir = open_run(place);
    if (dir < 0)
        return zp__fail_errno(-dir, "%s", place->run);
    int fd = openat(dir, file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = fd < 0 ? -errno : 0;
    if (rc == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
        rc = -errno;
    if (rc == 0 && (fstat(fd, &mine) < 0 ||
                    fstatat(dir, file, &there, AT_SYMLINK_NOFOLLOW) < 0 ||
                    mine.st_dev != there.st_dev || mine.st_ino != there.st_ino))
        rc = -ENOENT;
    close(dir);
    if (rc == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return zp__fail_errno(-rc, "the lock %s/%s", place->run, file);
}
