/*
 * base.c - the base directory, and what names and paths may be.
 *
 * The base is shared by the processes of one user, so it must be the user's
 * alone: whoever could write there could swap the sockets. A base made on
 * demand has the sticky bit, and only such a one is removed when it is empty:
 * a directory that the user (or systemd) made may not be ours to make again.
 */
#include "core/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/error.h"

#define TRIES 100 /* at a base that others keep removing */

static int
check_base(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return -errno;
    if (S_ISLNK(st.st_mode))
        return zp__fail(-EACCES, "%s is a symbolic link", path);
    if (!S_ISDIR(st.st_mode))
        return zp__fail(-ENOTDIR, "%s is not a directory", path);
    if (st.st_uid != geteuid())
        return zp__fail(-EACCES, "%s belongs to user %u", path,
                        (unsigned)st.st_uid);
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return zp__fail(-EACCES, "%s is open to other users (mode %04o)", path,
                        (unsigned)st.st_mode & 07777);
    return 0;
}

int
zp__base_find(char buffer[ZP__RUN_MAX], bool make)
{
    char standard[40];
    const char *path = secure_getenv("ZP_RUNTIME_DIR");
    int rc = -ENOENT;
    if (!path || !*path) {
        snprintf(standard, sizeof standard, "/dev/shm/zp-%u",
                 (unsigned)geteuid());
        path = standard;
    }
    for (int i = 0; i < TRIES; i++) {
        if (make && mkdir(path, S_ISVTX | S_IRWXU) < 0 && errno != EEXIST)
            return zp__fail_errno(errno, "cannot make %s", path);
        rc = check_base(path);
        char *real = rc == 0 ? realpath(path, NULL) : NULL;
        if (rc == 0 && !real)
            rc = -errno;
        if (rc == 0 && strlen(real) >= ZP__RUN_MAX)
            rc =
                zp__fail(-ENAMETOOLONG, "%s: the path is longer than %zu bytes",
                         real, ZP__RUN_MAX - 1);
        if (rc == 0)
            strcpy(buffer, real);
        free(real);
        if (rc != -ENOENT || !make)
            break;
    }
    if (rc == 0 || (rc == -ENOENT && !make))
        return rc;
    return zp__fail_code(rc);
}

int
zp__name_check(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > ZP__NAME_MAX || name[0] == '.' ||
        strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                     "0123456789._-") != length)
        return zp__fail(-EINVAL,
                        "\"%.80s\" is not a name of a state: 1 to %d of "
                        "[A-Za-z0-9._-], not starting with a dot",
                        name, ZP__NAME_MAX);
    return 0;
}

int
zp__data_find(char buffer[ZP__PATH_MAX], const char *path,
              struct stat *ret_stat, bool make)
{
    if (make && mkdir(path, S_IRWXU) < 0 && errno != EEXIST)
        return zp__fail_errno(errno, "cannot make %s", path);
    char *real = realpath(path, NULL);
    if (!real)
        return zp__fail_errno(errno, "%s", path);
    int rc = 0;
    if (stat(real, ret_stat) < 0)
        rc = zp__fail_errno(errno, "%s", real);
    else if (!S_ISDIR(ret_stat->st_mode))
        rc = zp__fail(-ENOTDIR, "%s is not a directory", real);
    else if (strlen(real) >= ZP__PATH_MAX)
        rc = zp__fail(-ENAMETOOLONG, "%s: the path is longer than %d bytes",
                      real, ZP__PATH_MAX - 1);
    else
        strcpy(buffer, real);
    free(real);
    return rc;
}
