/*
 * stale.h - run directories whose state has ended, and their removal.
 */
#ifndef ZP_CORE_STALE_H
#define ZP_CORE_STALE_H

#include <stdbool.h>
#include <stddef.h>

#include "core/pid.h"

#define ZP__TEMP_PREFIX ".new-"

/* The temporary name of this process, SIZE bytes. -ENAMETOOLONG, -errno. */
int zp__temp_name(char *buffer, size_t size);

enum zp__fate {
    ZP__GONE,    /* nothing has that name (any more) */
    ZP__ENDING,  /* the owner is dead, its server still cleans up */
    ZP__UNKNOWN, /* it cannot be looked at: errno says why */
    ZP__LIVE,    /* in use, or not ours to judge */
    ZP__FOREIGN  /* something that is not a run directory of ours */
};

/* If NAME in the directory BASE is a run directory whose state has ended,
 * remove it. WANTED: somebody wants that very name (else it must look more
 * surely like one of ours). RET_OWNER (may be NULL): its owner, pid 0 if not
 * known. */
enum zp__fate zp__stale_remove(int base, const char *name, bool wanted,
                               zp__pid *ret_owner);

/* Remove the known files in the run directory DIR, its board last; their names
 * stand behind PREFIX. */
void zp__run_clear(int dir, const char *prefix);

/* In the directory RUN of a state that is in use: remove the sockets of swarms
 * whose process has ended without a word. */
void zp__run_tidy(const char *run);

/* Two random numbers' worth of bits; never fails. */
uint64_t zp__random(void);

#endif
