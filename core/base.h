/*
 * base.h - the base directory of all run directories of a user, and the checks
 * of what the user names: states and paths of durable ones.
 */
#ifndef ZP_CORE_BASE_H
#define ZP_CORE_BASE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "core/place.h"

#define ZP__RUN_MAX sizeof(((zp__place *)0)->run)
#define ZP__NAME_MAX 64

/* The base, canonical, into BUFFER. MAKE: make it if it is absent; else
 * -ENOENT, without a text. -EACCES: it is not the user's alone. */
int zp__base_find(char buffer[ZP__RUN_MAX], bool make);

/* Is NAME a name of a state? 0, -EINVAL. */
int zp__name_check(const char *name);

/* The canonical path of a durable state's directory, and what stat() tells of
 * it; MAKE: made, 0700, if absent. -ENOTDIR, -ENAMETOOLONG, -errno. */
int zp__data_find(char buffer[ZP__PATH_MAX], const char *path,
                  struct stat *ret_stat, bool make);

#endif
