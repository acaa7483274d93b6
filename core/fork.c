/*
 * fork.c - the registry of what must not cross a fork.
 *
 * It is a list of groups under one lock. A forked child in which the lock was
 * held by another thread would hang on it: atfork handlers take it around
 * every fork of the application, too. Descriptors are noted with what
 * they were (file, or type of an anonymous one), since the libraries below us
 * close some on their own and the application may then get the number. In a
 * child only system calls, free() and string functions are used.
 *
 * Which mappings a group's files have is looked up when a fork is at hand,
 * once: most processes are leaves, and reading /proc/self/maps would be a tenth
 * of their start.
 *
 * What cannot be told apart: a descriptor that another thread opens while a
 * group is being recorded. Only kinds that the libraries open are taken, so
 * this can hit an eventfd, an epoll or a pipe of the application, and only in
 * children made by zp_spawn().
 */
#include "core/fork.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/inspect.h"

#define HOOKS 8
#define TEXT 1024 /* of what a descriptor leads to, for comparing */

struct held_fd {
    int fd;
    dev_t dev;
    ino_t ino;
    uint64_t kind; /* hash of the text of one without a path; 0: has one */
    bool path;     /* has one */
};

struct held_map {
    uintptr_t start;
    size_t size;
};

struct zp__owned {
    zp__owned *next;
    zp__owned **link; /* what points to this one */
    struct held_fd *fds;
    size_t n_fds;
    struct held_map *maps;
    size_t n_maps;
    char *dir;     /* sockets below it are ours */
    bool maps_due; /* those of its files have not been looked up yet */
    bool failed;   /* no memory while it was filled */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local bool holding; /* this thread has the lock */
static zp__owned *groups;
static uint64_t groups_token; /* of the process that recorded them */
static uint64_t settled;      /* token of the last process that was settled */
static void (*hooks[HOOKS])(void);

static struct { /* open at zp__own_begin(): a bit per descriptor */
    unsigned char *bits;
    size_t size;
    bool failed;
} before;

static void
fork_begins(void)
{
    if (!holding)
        pthread_mutex_lock(&lock);
}

static void
fork_ends(void)
{
    if (!holding)
        pthread_mutex_unlock(&lock);
}

static void
guard_forks(void)
{
    pthread_atfork(fork_begins, fork_ends, fork_ends);
}

static void
take_lock(void)
{
    pthread_once(&once, guard_forks);
    pthread_mutex_lock(&lock);
    holding = true;
}

static void
drop_lock(void)
{
    holding = false;
    pthread_mutex_unlock(&lock);
}

static uint64_t
hash_of(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash | 1;
}

static zp__owned *
free_group(zp__owned *group)
{
    if (group) {
        free(group->fds);
        free(group->maps);
        free(group->dir);
        free(group);
    }
    return NULL;
}

/* Into the list, unless something of it is missing. Under the lock. */
static zp__owned *
enlist(zp__owned *group)
{
    if (group->failed)
        return free_group(group);
    group->next = groups;
    group->link = &groups;
    if (groups)
        groups->link = &group->next;
    groups = group;
    groups_token = zp__token();
    return group;
}

/* What FD is. */
static bool
look_at(int fd, const char *text, struct held_fd *ret)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return false;
    *ret = (struct held_fd){.fd = fd, .dev = st.st_dev, .ino = st.st_ino};
    if (text[0] == '/')
        ret->path = true;
    else
        ret->kind = hash_of(text);
    return true;
}

static void
hold_fd(zp__owned *group, int fd, const char *text)
{
    struct held_fd held;
    if (!look_at(fd, text, &held))
        return;
    struct held_fd *more =
        realloc(group->fds, (group->n_fds + 1) * sizeof *more);
    if (!more) {
        group->failed = true;
        return;
    }
    group->fds = more;
    group->fds[group->n_fds++] = held;
}

static void
hold_map(zp__owned *group, uintptr_t start, size_t size)
{
    struct held_map *more =
        realloc(group->maps, (group->n_maps + 1) * sizeof *more);
    if (!more) {
        group->failed = true;
        return;
    }
    group->maps = more;
    group->maps[group->n_maps++] =
        (struct held_map){.start = start, .size = size};
}

static void
note_before(int fd, void *user)
{
    (void)user;
    size_t byte = (size_t)fd / 8;
    if (byte >= before.size && !before.failed) {
        size_t size = byte * 2 + 64;
        unsigned char *bits = realloc(before.bits, size);
        before.failed = !bits;
        if (bits) {
            memset(bits + before.size, 0, size - before.size);
            before.bits = bits;
            before.size = size;
        }
    }
    if (!before.failed)
        before.bits[byte] |= (unsigned char)(1 << fd % 8);
}

static bool
was_open_before(int fd)
{
    size_t byte = (size_t)fd / 8;
    return byte < before.size && before.bits[byte] & 1 << fd % 8;
}

void
zp__own_begin(void)
{
    take_lock();
    before.failed = false;
    zp__each_fd(note_before, NULL);
}

/* One end of a socketpair: what a library uses that has no eventfd. All other
 * sockets are the application's, or known by their path. */
static bool
is_pair(int fd)
{
    struct sockaddr_un name = {0};
    socklen_t size = sizeof name;
    if (getpeername(fd, (struct sockaddr *)&name, &size) < 0 ||
        name.sun_family != AF_UNIX || size > sizeof(sa_family_t))
        return false;
    size = sizeof name;
    return getsockname(fd, (struct sockaddr *)&name, &size) == 0 &&
           size <= sizeof(sa_family_t);
}

struct recording {
    zp__owned *group;
    const char *prefix;
    size_t length;
};

static void
note_after(int fd, void *user)
{
    struct recording *to = user;
    char text[TEXT];
    bool ours;
    if (was_open_before(fd))
        return;
    zp__fd_text(fd, text, sizeof text);
    if (to->prefix)
        ours = zp__path_below(text, to->prefix, to->length);
    else if (strncmp(text, "socket:", 7) == 0)
        ours = is_pair(fd);
    else
        ours = text[0] != '/' || strcmp(text, "/dev/urandom") == 0 ||
               strcmp(text, "/dev/random") == 0;
    if (ours)
        hold_fd(to->group, fd, text);
}

static void
record_new(zp__owned *group, const char *prefix)
{
    char *real = prefix ? realpath(prefix, NULL) : NULL;
    struct recording to = {.group = group, .prefix = real ? real : prefix};
    to.length = to.prefix ? strlen(to.prefix) : 0;
    zp__each_fd(note_after, &to);
    group->maps_due = prefix && group->n_fds > 0;
    free(real);
}

zp__owned *
zp__own_end(const char *prefix)
{
    int errnum = errno;
    zp__owned *group = before.failed ? NULL : calloc(1, sizeof *group);
    if (group) {
        record_new(group, prefix);
        group = enlist(group);
    }
    free(before.bits);
    before.bits = NULL;
    before.size = 0;
    drop_lock();
    errno = errnum;
    return group;
}

/* Groups are made, and freed, under the lock: at a fork none is on its way in
 * or out in another thread. */
zp__owned *
zp__own_fd(int fd)
{
    char text[TEXT];
    zp__fd_text(fd, text, sizeof text);
    take_lock();
    zp__owned *group = calloc(1, sizeof *group);
    if (group) {
        hold_fd(group, fd, text);
        group = enlist(group);
    }
    drop_lock();
    return group;
}

zp__owned *
zp__own_map(void *address, size_t size)
{
    take_lock();
    zp__owned *group = calloc(1, sizeof *group);
    if (group) {
        hold_map(group, (uintptr_t)address, size);
        group = enlist(group);
    }
    drop_lock();
    return group;
}

zp__owned *
zp__own_dir(const char *dir)
{
    take_lock();
    zp__owned *group = calloc(1, sizeof *group);
    if (group) {
        group->dir = strdup(dir);
        group->failed = !group->dir;
        group = enlist(group);
    }
    drop_lock();
    return group;
}

void
zp__own_forget(zp__owned *group)
{
    if (!group)
        return;
    take_lock();
    *group->link = group->next;
    if (group->next)
        group->next->link = group->link;
    free_group(group);
    drop_lock();
}

void
zp__fork_on_child(void (*forget)(void))
{
    take_lock();
    for (size_t i = 0; i < HOOKS; i++) {
        if (!hooks[i])
            hooks[i] = forget;
        if (hooks[i] == forget)
            break;
    }
    drop_lock();
}

/* ---- the mappings of files ---- */

#define MAPPED 4 /* files of a group: LMDB has two, one of them twice */

struct mapped {
    zp__owned *group;
    uint64_t paths[MAPPED]; /* hashes of what its files are called now */
    size_t n;
    bool child; /* unmap at once: nothing may be allocated here */
};

static bool
is_still(const struct held_fd *held, const char *text)
{
    struct held_fd now;
    return look_at(held->fd, text, &now) && now.dev == held->dev &&
           now.ino == held->ino && now.kind == held->kind;
}

/* A mapping of a file that the group holds open is the group's. */
static bool
note_map(uintptr_t start, size_t size, const char *path, void *user)
{
    struct mapped *of = user;
    uint64_t hash = hash_of(path);
    size_t i = 0;
    while (i < of->n && of->paths[i] != hash)
        i++;
    if (i < of->n && of->child)
        munmap((void *)start, size);
    else if (i < of->n)
        hold_map(of->group, start, size);
    return !of->group->failed;
}

/* Find the mappings of GROUP's files, by their paths as they are by now. Its
 * descriptors must be open yet. What cannot be noted is left to the child,
 * which unmaps it at once. */
static void
look_up_maps(zp__owned *group, bool child)
{
    struct mapped of = {.group = group, .child = child};
    char text[TEXT];
    for (size_t i = 0; i < group->n_fds && of.n < MAPPED; i++) {
        zp__fd_text(group->fds[i].fd, text, sizeof text);
        if (group->fds[i].path && is_still(&group->fds[i], text))
            of.paths[of.n++] = hash_of(text);
    }
    group->maps_due =
        of.n > 0 && (zp__each_map(note_map, &of) < 0 || group->failed);
    group->failed = false;
    if (group->maps_due)
        group->n_maps = 0;
}

/* ---- the fork ---- */

void
zp__fork_prepare(void)
{
    take_lock();
    for (zp__owned *group = groups; group; group = group->next)
        if (group->maps_due)
            look_up_maps(group, false);
}

void
zp__fork_parent(void)
{
    drop_lock();
}

static void
close_held(const struct held_fd *held)
{
    char text[TEXT];
    zp__fd_text(held->fd, text, sizeof text);
    if (is_still(held, text))
        close(held->fd);
}

/* Is NAME of SIZE bytes the path of a socket below RUN_DIR or a directory
 * that was registered? */
static bool
is_ours(struct sockaddr_un *name, socklen_t size, const char *run_dir)
{
    if (name->sun_family != AF_UNIX || size <= sizeof(sa_family_t))
        return false;
    if (size >= sizeof *name)
        size = sizeof *name - 1;
    ((char *)name)[size] = '\0';
    if (run_dir && zp__path_below(name->sun_path, run_dir, strlen(run_dir)))
        return true;
    for (zp__owned *group = groups; group; group = group->next)
        if (group->dir &&
            zp__path_below(name->sun_path, group->dir, strlen(group->dir)))
            return true;
    return false;
}

static void
close_if_connected(int fd, void *user)
{
    const char *run_dir = user;
    struct sockaddr_un name = {0};
    socklen_t size = sizeof name;
    bool ours = getpeername(fd, (struct sockaddr *)&name, &size) == 0 &&
                is_ours(&name, size, run_dir);
    size = sizeof name;
    if (!ours)
        ours = getsockname(fd, (struct sockaddr *)&name, &size) == 0 &&
               is_ours(&name, size, run_dir);
    if (ours)
        close(fd);
}

void
zp__fork_child(const char *run_dir)
{
    for (zp__owned *group = groups; group; group = group->next) {
        if (group->maps_due)
            look_up_maps(group, true);
        for (size_t i = 0; i < group->n_fds; i++)
            close_held(&group->fds[i]);
        for (size_t i = 0; i < group->n_maps; i++)
            munmap((void *)group->maps[i].start, group->maps[i].size);
    }
    zp__each_fd(close_if_connected, (void *)(uintptr_t)run_dir);
    while (groups) {
        zp__owned *group = groups;
        groups = group->next;
        free_group(group);
    }
    settled = zp__token_slow();
    for (size_t i = 0; i < HOOKS && hooks[i]; i++)
        hooks[i]();
    drop_lock();
}

/* Without any group left to close, too: another thread of the parent may have
 * been at work in what the hooks forget, and have had its locks. */
void
zp__fork_settle(void)
{
    take_lock();
    bool forked = settled && settled != zp__token();
    settled = zp__token();
    if (forked || (groups && groups_token != zp__token()))
        zp__fork_child(NULL); /* gives the lock back */
    else
        drop_lock();
}

#ifdef ZP_ASAN_LOCKS
/*
 * The address sanitizer's run time (of gcc 12) does not hold its allocator's
 * locks around a fork, as glibc's malloc does: a child that was forked while
 * libzmq's thread allocated would wait for one that nobody gives back. The
 * functions are its leak checker's. As other handlers allocate these are
 * registered before all of them: the last before a fork, the first after it.
 */
void zp__asan_lock(void) __asm__("_ZN6__lsan13LockAllocatorEv");
void zp__asan_unlock(void) __asm__("_ZN6__lsan15UnlockAllocatorEv");

__attribute__((constructor(101))) static void
asan_forks(void)
{
    (void)pthread_atfork(zp__asan_lock, zp__asan_unlock, zp__asan_unlock);
}
#endif
