/*
 * create.c - options, and the one order in which a new state comes to be:
 *
 *     temporary directory -> board and bell -> store -> [server's flock]
 *                                           -> rename to the final name
 *
 * Whoever finds the state by its name finds it whole. The server's flock is
 * taken before the rename when the creator serves itself: else a process that
 * attaches in between would start a second server.
 */
#include "core/create.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "core/board.h"
#include "core/error.h"
#include "core/store.h"

#define LOCK_TIMEOUT 10.0
#define START_TIMEOUT 10.0
#define GRACE 1.0
#define SYNC_INTERVAL 0.1

/* A time that is 0 for its default. */
static int
take_time(double *time, double standard, const char *what)
{
    if (isnan(*time))
        return zp__fail(-EINVAL, "%s is not a number", what);
    if (*time == 0)
        *time = standard;
    return 0;
}

/* What a caller of a later version set and we do not know. */
static int
check_tail(const void *given, size_t size, size_t known)
{
    const unsigned char *bytes = given;
    size_t i;

    for (i = known; i < size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL,
                            "an option of a later version is set "
                            "(byte %zu)",
                            i);
    return 0;
}

int
zp__options_take(zp_ctx_options *ret, const zp_ctx_options *given)
{
    zp_ctx_options taken;
    int rc;

    memset(&taken, 0, sizeof taken);
    if (given) {
        if (given->size < sizeof given->size || given->size > 4096)
            return zp__fail(-EINVAL, "options.size is %zu", given->size);
        rc = check_tail(given, given->size, sizeof taken);
        if (rc < 0)
            return rc;
        memcpy(&taken, given,
               given->size < sizeof taken ? given->size : sizeof taken);
    }
    taken.size = sizeof taken;
    if (taken.flags & ~(unsigned)ZP_CTX_WAIT)
        return zp__fail(-EINVAL, "unknown flags 0x%x", taken.flags);
    if (taken.sync != ZP_SYNC_COMMIT && taken.sync != ZP_SYNC_INTERVAL)
        return zp__fail(-EINVAL, "unknown sync policy %d", taken.sync);
    if (!taken.ns)
        taken.ns = "default";
    rc = zp__ns_check(taken.ns);
    if (rc < 0)
        return rc;
    if ((rc = take_time(&taken.lock_timeout, LOCK_TIMEOUT, "lock_timeout")) <
            0 ||
        (rc = take_time(&taken.start_timeout, START_TIMEOUT, "start_timeout")) <
            0 ||
        (rc = take_time(&taken.grace, GRACE, "grace")) < 0 ||
        (rc = take_time(&taken.sync_interval, SYNC_INTERVAL, "sync_interval")) <
            0)
        return rc;
    if (taken.sync_interval < 0)
        return zp__fail(-EINVAL, "sync_interval is negative");
    *ret = taken;
    return 0;
}

static void
limits_of(zp__limits *ret, const zp_ctx_options *options)
{
    memset(ret, 0, sizeof *ret);
    ret->log_revisions = options->log_revisions;
    ret->log_bytes = options->log_bytes;
    ret->max_bytes = options->max_bytes;
    ret->map_bytes = options->map_bytes;
    ret->max_value = options->max_value;
    ret->sync = (uint32_t)options->sync;
    ret->sync_interval = options->sync_interval;
    ret->durable = options->path != NULL;
}

int
zp__create(zp__place *ret, const zp_ctx_options *options, int *ret_lock)
{
    zp__limits limits;
    zp__place place;
    int lock = -1, rc;

    limits_of(&limits, options);
    rc = zp__place_new(&place, options->name, options->path);
    if (rc < 0)
        return rc;
    rc = zp__board_create(&place);
    if (rc < 0)
        goto remove;
    rc = zp__store_create(&place, &limits);
    if (rc < 0)
        goto remove;
    if (ret_lock) {
        rc = lock = zp__place_flock(&place, "lock");
        if (rc < 0) {
            rc = zp__fail(rc, "cannot lock %s: %s", place.run, zp_strerror(rc));
            goto remove;
        }
    }
    rc = zp__place_publish(&place);
    if (rc < 0)
        goto unlock;
    *ret = place;
    if (ret_lock)
        *ret_lock = lock;
    return 0;

unlock:
    if (lock >= 0)
        close(lock);
remove:
    zp__place_remove(&place);
    return rc;
}
