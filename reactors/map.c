/*
 * map.c - a map as its caller sees it.
 *
 * Nothing is computed here: items go in by map_input.c, results come out of
 * map_results.c, and in between the swarm's loop works. A map has ended when
 * all items are done, or when something has ended it before that (an error of
 * its source, a swarm that cannot go on, zp_map_cancel()): results that came
 * before can still be read, unless it was cancelled.
 *
 * One that was given back stays as long as a worker has some of its items:
 * their reports must find it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/swarm.h"

#define WINDOW 65536
#define WINDOW_BYTES ((size_t)64 << 20)
#define TRIES 5
#define PROGRESS 0.1
#define SPAWN_COUNT 64      /* zp_spawn_map(): processes at a time */
#define CANCEL_STEP 0.3     /* seconds: to a TERM, and from it to a KILL */
#define SHARE_AGAIN 0.05    /* seconds until a full state is tried again */
#define CALLBACKS_MAX 0.002 /* seconds of results until the loop's turn */

/* ----------------------------------------------------------------- events --
 */

void
zp__map_changed(zp_mapping *map)
{
    map->ready |= map->ended || zp__map_has_result(map);
    map->settled |= map->ended;
    map->changed = true;
    if (map->result_fn || map->progress_fn || map->share)
        zp__kick(map->kick);
}

static void
end(zp_mapping *map)
{
    map->ended = map->input_end = true;
    zp__map_drop_input(map);
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

/* -------------------------------------------------------------- callbacks --
 */

/* zp_run() goes on as long as there is something to be called for. */
static void
hold_loop(zp_mapping *map, bool hold)
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

static void
on_kick(void *user)
{
    zp_mapping *map = user;
    zp_swarm *swarm = map->swarm;

    if (map->ctx->holds || map->calling) /* told again when that is over */
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
        hold_loop(map, false);
    zp__map_let_go(map);
    zp__swarm_let_go(swarm);
}

/* ------------------------------------------------------------------ making --
 */

static int
check_options(const zp_map_options *options, bool own_swarm)
{
    if (options->size != sizeof *options)
        return zp__fail(-EINVAL, "options: their size is %zu, not %zu",
                        options->size, sizeof *options);
    if (options->flags & ~(unsigned)(ZP_UNORDERED | ZP_ONCE | ZP_SHARED))
        return zp__fail(-EINVAL, "options.flags: 0x%x is not known",
                        options->flags);
    if (options->chunk > ZP__TASK_MAX)
        return zp__fail(-EINVAL, "options.chunk: at most %d, not %zu",
                        ZP__TASK_MAX, options->chunk);
    if (options->tries > 1000)
        return zp__fail(-EINVAL, "options.tries: at most 1000, not %u",
                        options->tries);
    if (!(options->progress_every >= 0) || options->progress_every > 1e9)
        return zp__fail(-EINVAL, "options.progress_every: seconds, not %g",
                        options->progress_every);
    if (!(options->keep >= 0) || options->keep > 1e9)
        return zp__fail(-EINVAL, "options.keep: seconds, not %g",
                        options->keep);
    if ((options->flags & ZP_SHARED) && options->result_fn)
        return zp__fail(-EINVAL, "options: a map with ZP_SHARED has no "
                                 "result_fn");
    if (!own_swarm && (options->count || options->name || options->spawn))
        return zp__fail(-EINVAL, "options: count, name and spawn are the "
                                 "swarm's");
    return 0;
}

static int
take_options(zp_mapping *map, const zp_map_options *options)
{
    const void *image;

    map->flags = options->flags;
    map->chunk = options->chunk;
    map->window = options->window ? options->window : WINDOW;
    map->window_bytes =
        options->window_bytes ? options->window_bytes : WINDOW_BYTES;
    map->tries = options->tries ? options->tries : TRIES;
    map->result_fn = options->result_fn;
    map->progress_fn = options->progress_fn;
    map->progress_every =
        options->progress_every > 0 ? options->progress_every : PROGRESS;
    map->user = options->user;
    if (!options->common)
        return 0;
    image = zp_value_image(options->common, &map->common_size);
    map->common = malloc(map->common_size);
    if (!map->common)
        return zp__fail(-ENOMEM, "no memory for the common argument");
    memcpy(map->common, image, map->common_size);
    return 0;
}

void
zp__map_destroy(zp_mapping *map)
{
    zp_swarm *swarm = map->swarm;

    hold_loop(map, false);
    zp__list_remove(&map->node);
    zp__map_drop_results(map);
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (swarm->workers[i])
            zp__worker_forget(swarm->workers[i], map);
    zp__map_drop_input(map);
    zp__handle_free(map->kick);
    zp__handle_free(map->timer);
    zp_value_free(map->kept.value);
    zp__share_free(map);
    free(map->common);
    free(map);
}

void
zp__map_let_go(zp_mapping *map)
{
    if (map->given_up && !map->pins && !map->tasks && !map->swarm->pumping)
        zp__map_destroy(map);
}

static int
new_map(zp_swarm *swarm, zp_mapping **ret, const zp_map_options *options,
        zp_map_fn *fn, zp_map_source_fn *source, void *user)
{
    zp_mapping *map = calloc(1, sizeof *map);
    int rc;

    if (!map)
        return zp__fail(-ENOMEM, "no memory for a map");
    map->ctx = swarm->ctx;
    map->swarm = swarm;
    map->id = ++swarm->next_map;
    map->fn = fn;
    map->source = source;
    map->source_user = user;
    zp__list_init(&map->queue);
    zp__list_init(&map->batches);
    zp__list_append(&swarm->maps, &map->node);
    rc = take_options(map, options);
    if (rc == 0)
        rc = zp__loop_kick(map->ctx->loop, &map->kick, on_kick, map);
    if (rc == 0)
        rc = zp__loop_timer(map->ctx->loop, &map->timer, on_kick, map);
    if (rc == 0 && (map->flags & ZP_SHARED))
        rc = zp__share_new(map, options->keep);
    if (rc < 0) {
        zp__map_destroy(map);
        return rc;
    }
    hold_loop(map, map->result_fn || map->progress_fn || map->share);
    zp__kick(swarm->kick);
    *ret = map;
    return 0;
}

static int
take(zp_map_options *ret, const zp_map_options *given, bool own_swarm,
     zp_map_fn *fn, zp_mapping **ret_map)
{
    *ret = (zp_map_options){.size = sizeof *ret};
    if (given)
        *ret = *given;
    if (!fn || !ret_map)
        return zp__fail(-EINVAL, "%s is NULL", fn ? "ret_map" : "the function");
    return check_options(ret, own_swarm);
}

/* A map with workers of its own. */
static int
map_alone(zp_ctx *ctx, zp_mapping **ret_map, const zp_map_options *options,
          zp_map_fn *fn, zp_map_source_fn *source, void *user, bool per_item)
{
    zp_swarm_options own = {.size = sizeof own,
                            .count = options->count,
                            .name = options->name,
                            .spawn = options->spawn};
    zp_mapping *map;
    zp_swarm *swarm;
    int rc;

    if (per_item && !own.count)
        own.count = SPAWN_COUNT;
    rc = zp__swarm_make(ctx, &swarm, &own, "map");
    if (rc < 0)
        return rc;
    swarm->lent = true;
    swarm->per_item = per_item;
    rc = new_map(swarm, &map, options, fn, source, user);
    if (rc < 0) {
        zp__swarm_destroy(swarm);
        return rc;
    }
    if (!per_item)
        rc = zp__swarm_man(swarm);
    if (rc < 0) {
        map->given_up = true;
        hold_loop(map, false);
        return rc;
    }
    *ret_map = map;
    return 0;
}

int
zp_map(zp_ctx *ctx, zp_mapping **ret_map, const zp_map_options *options,
       zp_map_fn *fn, zp_map_source_fn *source, void *user)
{
    zp_map_options taken;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = take(&taken, options, true, fn, ret_map);
    if (rc == 0)
        rc = map_alone(ctx, ret_map, &taken, fn, source, user, false);
    return zp__ctx_done(ctx, rc);
}

int
zp_spawn_map(zp_ctx *ctx, zp_mapping **ret_map, const zp_map_options *options,
             zp_map_fn *fn, zp_map_source_fn *source, void *user)
{
    zp_map_options taken;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = take(&taken, options, true, fn, ret_map);
    if (rc == 0)
        rc = map_alone(ctx, ret_map, &taken, fn, source, user, true);
    return zp__ctx_done(ctx, rc);
}

int
zp_swarm_map(zp_swarm *swarm, zp_mapping **ret_map,
             const zp_map_options *options, zp_map_fn *fn,
             zp_map_source_fn *source, void *user)
{
    zp_map_options taken;
    int rc = swarm ? zp__ctx_enter(swarm->ctx)
                   : zp__fail(-EINVAL, "the swarm is NULL");

    if (rc == 0)
        rc = take(&taken, options, false, fn, ret_map);
    if (rc == 0 && swarm->code)
        rc = zp__fail(swarm->code, "%s", swarm->error);
    if (rc == 0 && swarm->closing)
        rc = zp__fail(-ESHUTDOWN, "the swarm was stopped");
    if (rc == 0)
        rc = new_map(swarm, ret_map, &taken, fn, source, user);
    return zp__ctx_done(swarm ? swarm->ctx : NULL, rc);
}

int
zp_swarm_run(zp_swarm *swarm, zp_mapping **ret_map,
             const zp_map_options *options, zp_map_fn *fn, const char *format,
             ...)
{
    zp_mapping *map;
    zp__encoded encoded;
    va_list ap;
    int rc;

    if (!ret_map || !format)
        return zp__ctx_done(swarm ? swarm->ctx : NULL,
                            zp__fail(-EINVAL, "%s is NULL",
                                     ret_map ? "the format" : "ret_map"));
    rc = zp_swarm_map(swarm, &map, options, fn, NULL, NULL);
    if (rc < 0)
        return rc;
    va_start(ap, format);
    rc = zp__encode(&encoded, format, ap);
    va_end(ap);
    if (rc == 0) {
        rc = zp__map_add_image(map, encoded.image, encoded.size);
        zp__encoded_free(&encoded);
    }
    if (rc < 0) {
        zp_map_free(map);
        return zp__ctx_done(swarm->ctx, rc);
    }
    (void)zp_map_end(map);
    *ret_map = map;
    return 0;
}

/* ----------------------------------------------------------------- reading --
 */

static int
enter(const zp_mapping *map, int (*check)(const zp_ctx *ctx))
{
    if (!map)
        return zp__fail(-EINVAL, "the map is NULL");
    return check(map->ctx);
}

static int
done(const zp_mapping *map, int rc)
{
    return zp__ctx_done(map ? map->ctx : NULL, rc);
}

/* Run the loop until FLAG, or (NULL) for a look at it. */
static int
wait_for(zp_mapping *map, const bool *flag, double timeout, bool *ret_gone)
{
    static const bool never = false; /* a run without any is not broken off */
    int rc;

    map->pins++;
    rc = zp__ctx_wait(map->ctx, flag ? flag : &never, timeout, ret_gone);
    if (*ret_gone)
        return rc;
    map->pins--;
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
        if (!deadline)
            deadline = zp__now() + timeout;
        rc = wait_for(map, &map->ready, left, ret_gone);
        if (timeout > 0)
            left = deadline > zp__now() ? deadline - zp__now() : 0;
    }
    return rc;
}

static int
may_read(const zp_mapping *map)
{
    int rc = enter(map, zp__ctx_enter);

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
    int rc = may_read(map);

    if (rc == 0 && ret_result && ret_result->size != sizeof result)
        rc = zp__fail(-EINVAL, "ret_result: its size is %zu, not %zu",
                      ret_result->size, sizeof result);
    if (rc == 0)
        rc = next(map, &result, timeout, &gone);
    if (rc == 1 && ret_result)
        *ret_result = result;
    return gone || rc >= 0 ? rc : done(map, rc);
}

int
zp_map_get(zp_mapping *map, double timeout, const char *format, ...)
{
    zp_map_result result;
    bool gone = false;
    va_list ap;
    int rc = may_read(map);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc == 0)
        rc = next(map, &result, timeout, &gone);
    if (rc == 1) {
        va_start(ap, format);
        rc = zp__result_get(&result, format, ap);
        va_end(ap);
    }
    return gone || rc >= 0 ? rc : done(map, rc);
}

/* Nothing more will happen unless somebody reads. (In the map's own callback no
 * other one is called.) */
static bool
is_stuck(const zp_mapping *map)
{
    bool called = (map->result_fn || map->share) && !map->calling;

    return !called && !map->out && zp__map_has_result(map) && zp__map_full(map);
}

/* ... and all of it has gone where it belongs? */
static bool
is_over(const zp_mapping *map)
{
    return map->ended && (!map->share || map->told || map->calling);
}

int
zp_map_wait(zp_mapping *map, double timeout)
{
    double deadline = zp__now() + timeout, left = timeout;
    bool gone = false;
    int rc = enter(map, zp__ctx_enter);

    if (rc == 0)
        rc = zp__swarm_may_wait(map->swarm, "zp_map_wait()");
    if (rc == 0) /* results may have been read: the window has room again */
        zp__kick(map->swarm->kick);
    while (rc == 0 && !is_over(map) && (rc = check_fed(map)) == 0) {
        map->settled = false;
        rc = wait_for(map, &map->settled, left, &gone);
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
    return done(map, rc);
}

static uint64_t
count_running(const zp_mapping *map)
{
    const zp_swarm *swarm = map->swarm;
    uint64_t n = 0;

    for (uint32_t i = 0; i < swarm->n_seats; i++)
        n += swarm->workers[i] && zp__worker_runs(swarm->workers[i], map);
    return n;
}

int
zp_map_progress(const zp_mapping *map, zp_progress *ret_progress)
{
    int rc = enter(map, zp__ctx_check);

    if (rc == 0 &&
        (!ret_progress || ret_progress->size != sizeof *ret_progress))
        rc = zp__fail(-EINVAL, "ret_progress: NULL, or of another size");
    if (rc < 0)
        return done(map, rc);
    *ret_progress = (zp_progress){
        .size = sizeof *ret_progress,
        .added = map->added,
        .all = map->input_end && !map->code,
        .running = count_running(map),
        .done = map->done,
        .failed = map->failed,
        .read = map->read,
        .again = map->again,
        .ended = map->ended,
        .code = map->code,
    };
    return 0;
}

uint64_t
zp_map_id(const zp_mapping *map)
{
    return enter(map, zp__ctx_check) < 0 ? 0 : zp__share_id(map);
}

/* --------------------------------------------------------------- cancelling --
 */

static void
cancel(zp_mapping *map)
{
    static const char why[] = "the map was cancelled";

    zp__map_abort(map, -ECANCELED, why);
    if (!map->code && map->read < map->added) { /* who reads is to know */
        map->code = -ECANCELED;
        snprintf(map->why, sizeof map->why, "%s", why);
    }
    zp__map_drop_results(map);
    if (!map->cancelled)
        map->cancel_at = zp__now() + CANCEL_STEP;
    map->cancelled = true;
    zp__kick(map->swarm->kick);
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
        if (swarm->workers[i] && zp__worker_runs(swarm->workers[i], map))
            zp__worker_signal(swarm->workers[i],
                              map->cancel_step ? SIGKILL : SIGTERM);
    map->cancel_step++;
    map->cancel_at = zp__now() + CANCEL_STEP;
    return true;
}

int
zp_map_cancel(zp_mapping *map)
{
    int rc = enter(map, zp__ctx_check);

    if (rc == 0)
        cancel(map);
    return done(map, rc);
}

zp_mapping *
zp_map_free(zp_mapping *map)
{
    if (!map || zp__ctx_check(map->ctx) < 0 || map->given_up)
        return NULL;
    cancel(map);
    map->given_up = true;
    hold_loop(map, false);
    map->swarm->sweep = true;
    if (map->swarm->lent) {
        map->swarm->given_up = true;
        zp__swarm_leave(map->swarm, false);
    }
    return NULL;
}
