/*
 * bells.h - what the tests of the watchers' bells look at inside: the slots in
 * the board, the FIFOs, and which of these are open here.
 */
#ifndef ZP_TESTS_BELLS_H
#define ZP_TESTS_BELLS_H

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>

#include "core/slots.h"
#include "reactors/feed.h"
#include "tests/api/watching.h"

#define WAIT 20.0 /* for what has to come */

static inline zp__shared *
shared_of(const fixture *f)
{
    return f->ctx->board->shared;
}

/* How many slots are taken. */
static inline unsigned
taken(const fixture *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < ZP__SLOTS; i++)
        n += atomic_load(&shared_of(f)->slots[i].owner) != 0;
    return n;
}

static inline bool
one_is_taken(void *user)
{
    return taken(user) == 1;
}

static inline const char *
bell_file(const fixture *f, unsigned slot)
{
    static char path[ZP__PATH_MAX];

    return zp__slot_file(&f->ctx->place, slot, path);
}

static inline bool
is_dry(const char *path)
{
    char byte;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    bool dry;

    assert_true(fd >= 0);
    dry = read(fd, &byte, 1) < 0 && errno == EAGAIN;
    close(fd);
    return dry;
}

static inline void
kill_server(const fixture *f)
{
    zp__pid server = zp__board_server(f->ctx->board);

    assert_int_equal(zp__pid_kill(&server, SIGKILL), 0);
}

/* How many of this process's descriptors lead to a watcher's bell. */
static inline int
open_bells(void)
{
    char path[64], target[512];
    struct dirent *entry;
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    if (!dir)
        return -1;
    while ((entry = readdir(dir))) {
        ssize_t size;

        snprintf(path, sizeof path, "/proc/self/fd/%.20s", entry->d_name);
        size = readlink(path, target, sizeof target - 1);
        target[size < 0 ? 0 : size] = '\0';
        n += strstr(target, "/bell.") != NULL;
    }
    closedir(dir);
    return n;
}

#endif
