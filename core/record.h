/*
 * record.h - the record of one process, as it stands in the store's "p" rows
 * (while it runs, or is to run again) and "q" rows (once it has ended).
 *
 * A fixed header in host byte order (the store belongs to one machine), five
 * NUL-terminated strings and the image of the result. The parent writes them,
 * and the child at its end; the server reads them to end the tree; whoever
 * lists processes reads them, too. The bytes come from another process: decode
 * checks every length.
 */
#ifndef ZP_CORE_RECORD_H
#define ZP_CORE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/pid.h"

#define ZP__RECORD_NAME 64    /* bytes of a name, without NUL */
#define ZP__RECORD_NS 32      /* of a namespace */
#define ZP__RECORD_TEXT 511   /* of an error text */
#define ZP__RECORD_ORIGIN 255 /* of "file:line" */
#define ZP__RECORD_TRACE 4095 /* of a backtrace */

enum zp__record_state {
    ZP__RECORD_RUNNING = 1, /* id.pid 0: forked, not known yet */
    ZP__RECORD_ENDED = 2,
    ZP__RECORD_WAITING = 3 /* not started yet, or between two attempts: id.pid
                              is 0 */
};

typedef struct zp__record {
    uint32_t state;    /* zp__record_state */
    uint32_t depth;    /* 1: a child of the owner, 2: a child of that, ... */
    uint32_t attempts; /* started so far */
    zp__pid id;        /* the process */
    zp__pid parent;    /* who spawned it ... */
    uint64_t parent_record; /* ... and its record; 0: it was not spawned */
    uint64_t boot;      /* zp__boot_hash() and zp__pid_ns() of the writer: */
    uint64_t pid_ns;    /* set by encode; ids are good only where they are */
    int64_t spawned_ns; /* wall clock */
    int64_t started_ns; /* of this attempt; 0: none yet */
    int64_t ended_ns;   /* 0: runs */
    int32_t code;       /* as in zp_result */
    int32_t status;
    int32_t signal;
    int32_t core;
    const char *name; /* NULL is taken as ""; after decode never NULL */
    const char *ns;
    const char *error;
    const char *origin;
    const char *backtrace;
    const void *image; /* of the result; NULL with size 0: none */
    size_t image_size;
} zp__record;

/* Write RECORD into a new block from malloc(). Strings that are too long are
 * cut. Errors: -EINVAL (state), -EMSGSIZE (image over 64 MiB), -ENOMEM. */
int zp__record_encode(const zp__record *record, void **ret, size_t *ret_size);

/* Read it; strings and image are borrowed from DATA. The image is *not*
 * looked at: zp__image_check() it before use. ZP_ECORRUPT (another layout,
 * lengths that do not fit, strings without end), ZP_EVERSION. */
int zp__record_decode(zp__record *ret, const void *data, size_t size);

/* Does it tell of a process that runs or will, though that is gone, and so is
 * its parent, who would have said how it ended or started it? (Of what is in
 * another pid namespace, or could not name itself, nothing can be told: false.)
 */
bool zp__record_lost(const zp__record *record);

/* Make it one that has ended, nobody knows how. */
void zp__record_lose(zp__record *record);

#endif
