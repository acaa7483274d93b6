/*
 * inspect.c - /proc/self/fd and /proc/self/maps, read with plain system calls
 * into buffers on the stack. opendir() and fopen() would allocate.
 *
 * Without /proc, or without a descriptor left to read it with, descriptors are
 * found by trying the numbers; mappings are then not found at all.
 */
#include "core/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRIED_FDS 65536
#define MAPS_LINE 1200

/* The number in NAME, or -1. */
static int
number_of(const char *name)
{
    int number = 0;
    if (!*name)
        return -1;
    for (; *name; name++) {
        if (*name < '0' || *name > '9' || number > 100000000)
            return -1;
        number = number * 10 + (*name - '0');
    }
    return number;
}

static void
try_fds(void (*fn)(int fd, void *user), void *user)
{
    struct rlimit limit;
    int end = TRIED_FDS;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < TRIED_FDS)
        end = (int)limit.rlim_cur;
    for (int fd = 0; fd < end; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            fn(fd, user);
}

void
zp__each_fd(void (*fn)(int fd, void *user), void *user)
{
    _Alignas(struct dirent64) char buffer[2048];
    int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        try_fds(fn, user);
        return;
    }
    for (;;) {
        long size = syscall(SYS_getdents64, dir, buffer, sizeof buffer);
        if (size <= 0)
            break;
        for (long at = 0; at < size;) {
            struct dirent64 *entry = (struct dirent64 *)(buffer + at);
            int fd = number_of(entry->d_name);
            if (fd >= 0 && fd != dir)
                fn(fd, user);
            at += entry->d_reclen;
        }
    }
    close(dir);
}

void
zp__fd_text(int fd, char *buffer, size_t size)
{
    char path[32] = "/proc/self/fd/", digits[12];
    size_t n = 0, end = strlen(path);
    do
        digits[n++] = (char)('0' + fd % 10);
    while (fd /= 10);
    while (n > 0)
        path[end++] = digits[--n];
    path[end] = '\0';
    ssize_t length = readlink(path, buffer, size - 1);
    buffer[length > 0 ? length : 0] = '\0';
}

/* "START-END PERMS OFFSET DEV INODE     PATH"; false ends the walk. */
static bool
tell_map(char *line,
         bool (*fn)(uintptr_t start, size_t size, const char *path, void *user),
         void *user)
{
    char *at = line, *path = strchr(line, '/');
    uintptr_t start = strtoull(at, &at, 16);
    if (*at != '-' || !path)
        return true;
    uintptr_t end = strtoull(at + 1, NULL, 16);
    return end <= start || fn(start, end - start, path, user);
}

int
zp__each_map(bool (*fn)(uintptr_t start, size_t size, const char *path,
                        void *user),
             void *user)
{
    char buffer[4096], line[MAPS_LINE];
    size_t used = 0;
    bool more = true;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    while (more) {
        ssize_t size = read(fd, buffer, sizeof buffer);
        if (size < 0 && errno == EINTR)
            continue;
        if (size <= 0)
            break;
        for (ssize_t i = 0; i < size && more; i++) {
            if (buffer[i] == '\n') {
                line[used] = '\0';
                used = 0;
                more = tell_map(line, fn, user);
            } else if (used < sizeof line - 1) {
                line[used++] = buffer[i];
            }
        }
    }
    close(fd);
    return 0;
}

bool
zp__path_below(const char *path, const char *dir, size_t length)
{
    return length > 0 && strncmp(path, dir, length) == 0 && path[length] == '/';
}
