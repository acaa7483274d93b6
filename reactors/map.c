/*
 * map.c - a map as its caller sees it.
 *
 * Nothing is computed here: items go in by map_input.c, results come out of
 * map_results.c, by map_read.c or map_calls.c, and in between the swarm's loop
 * works, until map_end.c.
 *
 * One that was given back stays as long as a worker has some of its items:
 * their reports must find it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/swarm.h"

#define WINDOW 65536
#define WINDOW_BYTES ((size_t)64 << 20)
#define TRIES 5
#define PROGRESS 0.1
#define SPAWN_COUNT 64 /* zp_spawn_map(): processes at a time */

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

    zp__map_hold(map, false);
    zp__list_remove(&map->node);
    zp__list_remove(&map->turn);
    zp__list_remove(&map->ending);
    zp__list_remove(&map->awaited);
    zp__map_drop_results(map);
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (swarm->workers[i])
            zp__worker_forget(swarm->workers[i], map);
    zp__map_drop_input(map);
    zp__handle_free(map->kick);
    zp__handle_free(map->timer);
    zp_value_free(map->kept.value);
    zp__share_free(map);
    free(map->knows);
    free(map->common);
    free(map);
}

void
zp__map_let_go(zp_mapping *map)
{
    if (map->given_up && !map->pins && !map->tasks && !map->swarm->pumping &&
        !zp__share_pending(map))
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
    zp__list_init(&map->ending);
    zp__list_init(&map->awaited);
    zp__list_init(&map->turn);
    zp__list_append(&swarm->maps, &map->node);
    zp__list_append(&swarm->turns, &map->turn);
    rc = take_options(map, options);
    if (rc == 0)
        rc = zp__loop_kick(map->ctx->loop, &map->kick, zp__map_on_kick, map);
    if (rc == 0)
        rc = zp__loop_timer(map->ctx->loop, &map->timer, zp__map_on_kick, map);
    if (rc == 0 && (map->flags & ZP_SHARED))
        rc = zp__share_new(map, options->keep);
    if (rc < 0) {
        zp__map_destroy(map);
        return rc;
    }
    zp__map_hold(map, map->result_fn || map->progress_fn || map->share);
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

/* It has failed with RC before anybody had it. */
static int
disown(zp_mapping *map, int rc)
{
    zp_swarm *swarm = map->swarm;
    char text[ZP__ERROR_MAX];

    snprintf(text, sizeof text, "%s", zp__fail_text());
    map->given_up = true;
    zp__map_let_go(map);
    zp__swarm_let_go(swarm);
    return zp__fail(rc, "%s", text);
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
    if (rc < 0)
        return disown(map, rc);
    *ret_map = map;
    return 0;
}

static int
map_entered(zp_ctx *ctx, zp_mapping **ret_map, const zp_map_options *options,
            zp_map_fn *fn, zp_map_source_fn *source, void *user, bool per_item)
{
    zp_map_options taken;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = take(&taken, options, true, fn, ret_map);
    if (rc == 0)
        rc = map_alone(ctx, ret_map, &taken, fn, source, user, per_item);
    return zp__ctx_done(ctx, rc);
}

int
zp_map(zp_ctx *ctx, zp_mapping **ret_map, const zp_map_options *options,
       zp_map_fn *fn, zp_map_source_fn *source, void *user)
{
    return map_entered(ctx, ret_map, options, fn, source, user, false);
}

int
zp_spawn_map(zp_ctx *ctx, zp_mapping **ret_map, const zp_map_options *options,
             zp_map_fn *fn, zp_map_source_fn *source, void *user)
{
    return map_entered(ctx, ret_map, options, fn, source, user, true);
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

/* --------------------------------------------------------------- questions --
 */

int
zp__map_enter(const zp_mapping *map, int (*check)(const zp_ctx *ctx))
{
    if (!map)
        return zp__fail(-EINVAL, "the map is NULL");
    return check(map->ctx);
}

int
zp__map_done(const zp_mapping *map, int rc)
{
    return zp__ctx_done(map ? map->ctx : NULL, rc);
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
    int rc = zp__map_enter(map, zp__ctx_check);

    if (rc == 0 &&
        (!ret_progress || ret_progress->size != sizeof *ret_progress))
        rc = zp__fail(-EINVAL, "ret_progress: NULL, or of another size");
    if (rc < 0)
        return zp__map_done(map, rc);
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
    return zp__map_enter(map, zp__ctx_check) < 0 ? 0 : zp__share_id(map);
}
