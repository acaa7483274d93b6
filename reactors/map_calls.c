/*
 * map_calls.c - the callbacks of a map: results, progress, its end.
 *
 * They are called from a kick of the map's own, one at a time, some
 * milliseconds of them until the loop has its turn. What cannot be called now
 * (callbacks are held back, or one is on the stack) is kicked again later.
 */
#include "reactors/swarm.h"

#define CALLBACKS_MAX 0.002 /* seconds of results until the loop's turn */
#define SHARE_AGAIN 0.05    /* seconds until a full state is tried again */

void
zp__map_changed(zp_mapping *map)
{
    map->ready |= map->ended || zp__map_has_result(map);
    map->settled |= map->ended;
    map->changed = true;
    zp__map_call(map);
}

void
zp__map_call(zp_mapping *map)
{
    if (map->result_fn || map->progress_fn || map->share)
        zp__kick(map->kick);
}

bool
zp__map_held(const zp_mapping *map)
{
    return map->ctx->holds > map->holds;
}

void
zp__map_hold(zp_mapping *map, bool hold)
{
    if (map->holds_loop == hold)
        return;
    map->holds_loop = hold;
    if (hold)
        zp__loop_hold(map->ctx->loop);
    else
        zp__loop_release(map->ctx->loop);
}

/* Around each callback: false: nothing of CTX may be touched any more. */
static bool
leave(zp_mapping *map, double called, int rc)
{
    zp_ctx *ctx = map->ctx;

    if (zp__ctx_check(ctx) == ZP_EFORK) /* it has forked; this is the child */
        return false;
    map->pins--;
    return !zp__ctx_leave(ctx, called, rc);
}

static bool
call_result(zp_mapping *map, const zp_map_result *result)
{
    double called = zp__ctx_call(map->ctx);

    map->pins++;
    return leave(map, called, map->result_fn(map, result, map->user));
}

static bool
call_progress(zp_mapping *map)
{
    double called = zp__ctx_call(map->ctx);

    map->changed = false;
    map->progress_at = zp__now() + map->progress_every;
    map->pins++;
    return leave(map, called, map->progress_fn(map, map->user));
}

static bool
owes_progress(const zp_mapping *map)
{
    return map->progress_fn && map->changed && !map->given_up;
}

/* false: the context is gone. */
static bool
tell_progress(zp_mapping *map)
{
    double left = map->progress_at - zp__now();

    if (!owes_progress(map))
        return true;
    if (left > 0 && !map->ended) {
        zp__timer_set(map->timer, left);
        return true;
    }
    return call_progress(map);
}

static bool
tell_results(zp_mapping *map)
{
    double until = zp__now() + CALLBACKS_MAX;
    zp_map_result result;
    int rc;

    while (!map->given_up && (rc = zp__map_result(map, &result)) != 0) {
        if (rc < 0) {
            zp__map_abort(map, rc, "no memory for a result");
            break;
        }
        if (!call_result(map, &result))
            return false;
        if (zp__now() > until || zp__loop_ending(map->ctx->loop)) {
            zp__kick(map->kick);
            return true;
        }
    }
    if (map->given_up || !map->ended || map->told)
        return true;
    map->told = true;
    return call_result(map, NULL);
}

/* A callback that waited has made things happen, and nobody was called for
 * those. true: that is due at once. */
static bool
remind(zp_mapping *map)
{
    double left = map->progress_at - zp__now();

    if (!owes_progress(map))
        return false;
    if (map->ended)
        zp__kick(map->kick);
    else
        zp__timer_set(map->timer, left > 0 ? left : 0);
    return map->ended;
}

void
zp__map_on_kick(void *user)
{
    zp_mapping *map = user;
    zp_swarm *swarm = map->swarm;

    if (zp__map_held(map) || map->calling) /* told again when that is over */
        return;
    map->calling = true;
    if (!tell_progress(map) || (map->result_fn && !tell_results(map)))
        return;
    map->calling = false;
    if (remind(map))
        return;
    if (map->share && !zp__share_pump(map))
        zp__timer_set(map->timer, SHARE_AGAIN);
    if (map->ended && (!(map->result_fn || map->share) || map->told))
        zp__map_hold(map, false);
    zp__map_let_go(map);
    zp__swarm_let_go(swarm);
}
