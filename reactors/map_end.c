/*
 * map_end.c - how a map ends: all is done, something has ended it before that,
 * or it is cancelled.
 *
 * Results that came before can still be read, unless it was cancelled. What
 * workers have begun of it cannot be taken back: it ends at once all the
 * same, and what they report of it is dropped. Of one that was cancelled they
 * are pressed: by a TERM, then by a KILL.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>

#include "reactors/swarm.h"

#define CANCEL_STEP 0.3 /* seconds: to a TERM, and from it to a KILL */

static void
end(zp_mapping *map)
{
    map->ended = map->input_end = true;
    zp__map_drop_input(map);
    zp__list_append(&map->swarm->ending, &map->ending);
    zp__map_changed(map);
    if (map->swarm->lent)
        map->swarm->closing = true;
    zp__kick(map->swarm->kick);
}

void
zp__map_check_end(zp_mapping *map)
{
    if (!map->ended && map->input_end && map->done == map->added)
        end(map);
}

/* The workers shall begin none of its items any more. */
static void
take_all_back(zp_mapping *map)
{
    zp_swarm *swarm = map->swarm;
    zp__range *range;

    if (!map->tasks)
        return;
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        for (unsigned cell = 0; swarm->workers[i] && cell < ZP__CELLS; cell++) {
            zp__task *task = swarm->workers[i]->tasks[cell];

            if (!task || task->range->map != map)
                continue;
            range = zp__worker_take_back(swarm->workers[i], cell, 0);
            if (range)
                zp__map_requeue(map, range);
        }
}

void
zp__map_abort(zp_mapping *map, int code, const char *text)
{
    if (map->ended)
        return;
    map->code = code;
    snprintf(map->why, sizeof map->why, "%s", text);
    end(map);
    take_all_back(map);
}

/* --------------------------------------------------------------- cancelling --
 */

static void
cancel(zp_mapping *map)
{
    static const char why[] = "the map was cancelled";
    bool cut = zp__share_drop(map);

    zp__map_abort(map, -ECANCELED, why);
    if (!map->code && (cut || map->read < map->added)) { /* readers must know */
        map->code = -ECANCELED;
        snprintf(map->why, sizeof map->why, "%s", why);
    }
    zp__map_drop_results(map);
    if (!map->cancelled)
        map->cancel_at = zp__now() + CANCEL_STEP;
    map->cancelled = true;
    zp__kick(map->swarm->kick);
}

/* Items of others that WORKER has not begun are not to be begun there any more:
 * what it runs when the signal comes is MAP's. */
static void
press(zp__worker *worker, zp_mapping *map)
{
    zp__range *back;

    if (!zp__worker_runs(worker, map))
        return;
    for (unsigned cell = 0; cell < ZP__CELLS; cell++)
        if (worker->tasks[cell] &&
            (back = zp__worker_take_back(worker, cell, 0)))
            zp__map_requeue(back->map, back);
    if (zp__worker_is_at(worker, map))
        zp__worker_signal(worker, map->cancel_step ? SIGKILL : SIGTERM);
    zp__kick(worker->swarm->kick);
}

bool
zp__map_press(zp_mapping *map)
{
    zp_swarm *swarm = map->swarm;

    if (!map->cancelled || !map->tasks)
        return false;
    if (zp__now() < map->cancel_at)
        return true;
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (swarm->workers[i])
            press(swarm->workers[i], map);
    map->cancel_step++;
    map->cancel_at = zp__now() + CANCEL_STEP;
    return true;
}

int
zp_map_cancel(zp_mapping *map)
{
    int rc = zp__map_enter(map, zp__ctx_check);

    if (rc == 0)
        cancel(map);
    return zp__map_done(map, rc);
}

zp_mapping *
zp_map_free(zp_mapping *map)
{
    if (!map || zp__ctx_check(map->ctx) < 0 || map->given_up)
        return NULL;
    cancel(map);
    map->given_up = true;
    zp__map_hold(map, false);
    if (map->over)
        zp__swarm_put_by(map->swarm, map); /* to the others that go */
    if (map->swarm->lent) {
        map->swarm->given_up = true;
        zp__swarm_leave(map->swarm, false);
    }
    return NULL;
}
