/*
 * map_read.c - a map's results as they are asked for: zp_map_next() and its
 * kin, which run the loop meanwhile.
 *
 * What is there is handed out without a run; but the loop has its turn once in
 * a tick of the coarse clock, so that who reads all the time starves nobody.
 */
#include <errno.h>
#include <math.h>

#include "reactors/swarm.h"

/* Whoever holds callbacks back around this wait does not hold back MAP's. */
static unsigned
unhold(zp_mapping *map)
{
    unsigned before = map->holds;

    if (map->holds != map->ctx->holds) {
        map->holds = map->ctx->holds;
        zp__map_call(map);
        zp__kick(map->swarm->kick);
    }
    return before;
}

/* Run the loop until FLAG, or (NULL) for a look at it. */
static int
wait_for(zp_mapping *map, const bool *flag, double timeout, bool *ret_gone)
{
    static const bool never = false; /* a run without any is not broken off */
    unsigned before = unhold(map);
    int rc;

    map->pins++;
    rc = zp__ctx_wait(map->ctx, flag ? flag : &never, timeout, ret_gone);
    if (*ret_gone)
        return rc;
    map->pins--;
    map->holds = before;
    map->looked = zp__tick();
    if (!flag && rc == -ETIMEDOUT && !zp__loop_was_stopped(map->ctx->loop))
        rc = 0;
    if (map->given_up && rc >= 0)
        rc = zp__fail(-ECANCELED, "the map was given back meanwhile");
    if (map->given_up)
        zp__kick(map->swarm->kick);
    return rc;
}

bool
zp__map_starved(const zp_mapping *map)
{
    uint64_t over = map->result_fn || map->share ? map->read : map->done;

    return !map->source && !map->input_end && over == map->added;
}

static int
check_fed(const zp_mapping *map)
{
    if (!zp__map_starved(map))
        return 0;
    return zp__fail(-EPIPE, "all items are done, and nobody has said "
                            "zp_map_end()");
}

static int
next(zp_mapping *map, zp_map_result *ret, double timeout, bool *ret_gone)
{
    double deadline = 0, left = timeout;
    int rc = 0;

    if (zp__tick() != map->looked)
        rc = wait_for(map, NULL, 0, ret_gone);
    while (rc == 0 && (rc = zp__map_result(map, ret)) == 0) {
        if (map->code)
            return zp__fail(map->code, "%s", map->why);
        if (map->ended)
            return 0;
        rc = check_fed(map);
        if (rc < 0)
            return rc;
        map->ready = false;
        if (!(deadline > 0))
            deadline = zp__now() + timeout;
        rc = wait_for(map, &map->ready, left, ret_gone);
        if (timeout > 0)
            left = deadline > zp__now() ? deadline - zp__now() : 0;
    }
    return rc;
}

static int
check_timeout(double timeout)
{
    if (isnan(timeout))
        return zp__fail(-EINVAL, "the timeout is not a number");
    return 0;
}

static int
may_read(const zp_mapping *map, double timeout)
{
    int rc = zp__map_enter(map, zp__ctx_enter);

    if (rc == 0)
        rc = check_timeout(timeout);
    if (rc == 0)
        rc = zp__swarm_may_wait(map->swarm, "reading a map's results");
    if (rc == 0 && map->result_fn)
        rc = zp__fail(-EINVAL, "the map's results go to its result_fn");
    if (rc == 0 && map->share)
        rc = zp__fail(-EINVAL, "the map's results go to zp_results_open()");
    return rc;
}

int
zp_map_next(zp_mapping *map, zp_map_result *ret_result, double timeout)
{
    zp_map_result result;
    bool gone = false;
    int rc = may_read(map, timeout);

    if (rc == 0 && ret_result && ret_result->size != sizeof result)
        rc = zp__fail(-EINVAL, "ret_result: its size is %zu, not %zu",
                      ret_result->size, sizeof result);
    if (rc == 0)
        rc = next(map, &result, timeout, &gone);
    if (rc == 1 && ret_result)
        *ret_result = result;
    return gone || rc >= 0 ? rc : zp__map_done(map, rc);
}

int
zp_map_get(zp_mapping *map, double timeout, const char *format, ...)
{
    zp_map_result result;
    bool gone = false;
    va_list ap;
    int rc = may_read(map, timeout);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc == 0)
        rc = next(map, &result, timeout, &gone);
    if (rc == 1) {
        va_start(ap, format);
        rc = zp__result_get(&result, format, ap);
        va_end(ap);
    }
    return gone || rc >= 0 ? rc : zp__map_done(map, rc);
}

/* Nothing more will happen unless somebody reads. (In the map's own callback no
 * other one is called.) */
static bool
is_stuck(const zp_mapping *map)
{
    bool called = (map->result_fn || map->share) && !map->calling;

    return !called && zp__map_stuck(map);
}

/* ... and all of it has gone where it belongs? */
static bool
is_over(const zp_mapping *map)
{
    return map->ended && (!map->share || map->told || map->calling);
}

static int
wait_settled(zp_mapping *map, double timeout, bool *ret_gone)
{
    int rc;

    map->settled = false;
    if (map->waits++ == 0)
        zp__list_append(&map->swarm->awaited, &map->awaited);
    rc = wait_for(map, &map->settled, timeout, ret_gone);
    if (!*ret_gone && --map->waits == 0)
        zp__list_remove(&map->awaited);
    return rc;
}

int
zp_map_wait(zp_mapping *map, double timeout)
{
    double deadline = zp__now() + timeout, left = timeout;
    bool gone = false;
    int rc = zp__map_enter(map, zp__ctx_enter);

    if (rc == 0)
        rc = check_timeout(timeout);
    if (rc == 0)
        rc = zp__swarm_may_wait(map->swarm, "zp_map_wait()");
    if (rc == 0) /* results may have been read: the window has room again */
        zp__kick(map->swarm->kick);
    while (rc == 0 && !is_over(map) && (rc = check_fed(map)) == 0) {
        rc = wait_settled(map, left, &gone);
        if (gone)
            return rc;
        if (timeout > 0)
            left = deadline > zp__now() ? deadline - zp__now() : 0;
        if (rc == 0 && !is_over(map) && is_stuck(map))
            rc = zp__fail(-EAGAIN, "the window is full of results that nobody "
                                   "has read");
    }
    if (rc == 0 && map->code)
        rc = zp__fail(map->code, "%s", map->why);
    return zp__map_done(map, rc);
}
