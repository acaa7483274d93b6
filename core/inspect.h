/*
 * inspect.h - what this process has open and mapped, told without malloc():
 * also good in a child forked from a process with threads.
 */
#ifndef ZP_CORE_INSPECT_H
#define ZP_CORE_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* FN for each open descriptor; it may close it. */
void zp__each_fd(void (*fn)(int fd, void *user), void *user);

/* Where /proc says FD leads ("/path", "socket:[1]", "anon_inode:[eventfd]"),
 * NUL-terminated, cut if need be; "" if it cannot be told. */
void zp__fd_text(int fd, char *buffer, size_t size);

/* FN for each mapping of a file, until it returns false: 0 or -errno. PATH is
 * cut if need be, and borrowed for the call. */
int zp__each_map(bool (*fn)(uintptr_t start, size_t size, const char *path,
                            void *user),
                 void *user);

/* Is PATH a thing below directory DIR (of LENGTH bytes, no slash behind)? */
bool zp__path_below(const char *path, const char *dir, size_t length);

#endif
