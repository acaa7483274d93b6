/*
 * map_input.c - a map's items: packed, queued, asked of the source.
 *
 * Items are packed one behind the other into blobs, as they go on the wire; a
 * blob has a fixed size, so that what is in it can be on its way to a worker
 * while more is added behind. The queue is of ranges, cut to what a worker is
 * to get when it gets it: the right size is not known before. What comes back,
 * from a worker that has died or has too much, goes to where it was: the queue
 * is sorted, and the item that the caller waits for is always the first.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/swarm.h"

#define BLOB 65536     /* bytes; a larger item has one of its own */
#define BLOB_FIRST 512 /* many maps are of a single item */

/* ----------------------------------------------------------------- blobs -- */

static zp__blob *
new_blob(size_t room)
{
    zp__blob *blob = malloc(sizeof *blob + room);

    if (!blob)
        return NULL;
    atomic_init(&blob->refs, 1);
    blob->size = 0;
    blob->room = room;
    return blob;
}

void
zp__blob_drop(zp__blob *blob)
{
    if (blob && atomic_fetch_sub(&blob->refs, 1) == 1)
        free(blob);
}

static size_t
item_size(const zp__blob *blob, size_t at)
{
    uint32_t size;

    memcpy(&size, blob->bytes + at, sizeof size);
    return sizeof size + size;
}

/* Where the item that is N behind the one at FROM begins. */
static size_t
skip_items(const zp__blob *blob, size_t from, uint32_t n)
{
    while (n--)
        from += item_size(blob, from);
    return from;
}

/* ---------------------------------------------------------------- ranges -- */

static zp__range *
new_range(zp_mapping *map, zp__blob *blob)
{
    zp__range *range = calloc(1, sizeof *range);

    if (!range)
        return NULL;
    zp__list_init(&range->node);
    range->map = map;
    range->blob = blob;
    atomic_fetch_add(&blob->refs, 1);
    return range;
}

void
zp__range_free(zp__range *range)
{
    if (!range)
        return;
    range->map->held -= range->to - range->from;
    zp__list_remove(&range->node);
    zp__blob_drop(range->blob);
    free(range);
}

zp__range *
zp__range_split(zp__range *range, uint32_t at)
{
    zp__range *rest = new_range(range->map, range->blob);

    if (!rest)
        return NULL;
    rest->from = skip_items(range->blob, range->from, at);
    rest->to = range->to;
    rest->index = range->index + at;
    rest->n = range->n - at;
    if (at == 0) { /* its first item is now REST's */
        rest->deaths = range->deaths;
        range->deaths = 0;
    }
    range->to = rest->from;
    range->n = at;
    return rest;
}

void
zp__map_requeue(zp_mapping *map, zp__range *range)
{
    zp__node *at = map->queue.next;

    if (map->ended) {
        zp__range_free(range);
        return;
    }
    while (at != &map->queue &&
           ZP__OF(at, zp__range, node)->index < range->index)
        at = at->next;
    zp__list_append(at, &range->node);
    map->queued += range->n;
    zp__map_turn(map);
}

/* What is in the open blob and in no range becomes one. */
static int
seal(zp_mapping *map)
{
    zp__range *range;

    if (!map->open_n)
        return 0;
    range = new_range(map, map->open);
    if (!range)
        return -ENOMEM;
    range->from = map->open_from;
    range->to = map->open->size;
    range->index = map->open_index;
    range->n = map->open_n;
    zp__list_append(&map->queue, &range->node);
    map->open_from = map->open->size;
    map->open_index += map->open_n;
    map->open_n = 0;
    return 0;
}

static bool
more_in(const zp__range *range, uint32_t n, size_t from, size_t bytes)
{
    return n < range->n &&
           (n == 0 ||
            from - range->from + item_size(range->blob, from) <= bytes);
}

zp__range *
zp__map_take(zp_mapping *map, uint32_t most, size_t bytes)
{
    zp__range *range, *rest;
    uint32_t n = 0;
    size_t from;

    if (zp__list_empty(&map->queue) && (!map->open_n || seal(map) < 0))
        return NULL;
    range = ZP__OF(map->queue.next, zp__range, node);
    for (from = range->from; n < most && more_in(range, n, from, bytes); n++)
        from += item_size(range->blob, from);
    if (n < range->n) {
        rest = zp__range_split(range, n);
        if (!rest)
            return NULL;
        zp__list_append(range->node.next, &rest->node);
    }
    zp__list_remove(&range->node);
    map->queued -= n;
    return range;
}

void
zp__map_drop_input(zp_mapping *map)
{
    ZP__EACH(at, next, &map->queue)
    zp__range_free(ZP__OF(at, zp__range, node));
    if (map->open)
        map->held -= map->open->size - map->open_from;
    zp__blob_drop(map->open);
    map->open = NULL;
    map->open_n = 0;
    map->queued = 0;
}

/* ---------------------------------------------------------------- adding -- */

bool
zp__map_full(const zp_mapping *map)
{
    return map->added > map->read && (map->added - map->read >= map->window ||
                                      map->held >= map->window_bytes);
}

bool
zp__map_stuck(const zp_mapping *map)
{
    return !map->out && zp__map_has_result(map) && zp__map_full(map) &&
           (!map->queued || map->held >= map->window_bytes);
}

void
zp__map_turn(zp_mapping *map)
{
    if (zp__list_empty(&map->turn))
        zp__list_append(&map->swarm->turns, &map->turn);
}

bool
zp__map_rests(zp_mapping *map)
{
    return map->ended || (!map->queued && (!map->source || map->input_end));
}

static int
open_blob(zp_mapping *map, size_t size)
{
    size_t room = map->open ? BLOB : BLOB_FIRST;
    zp__blob *blob;

    if (map->open && map->open->room - map->open->size >= size)
        return 0;
    if (map->open && seal(map) < 0)
        return zp__fail(-ENOMEM, "no memory for an item");
    blob = new_blob(size > room ? size : room);
    if (!blob)
        return zp__fail(-ENOMEM, "no memory for an item of %zu bytes", size);
    zp__blob_drop(map->open);
    map->open = blob;
    map->open_from = 0;
    return 0;
}

int
zp__map_add_image(zp_mapping *map, const void *image, size_t size)
{
    uint32_t length = (uint32_t)size;
    unsigned char *at;
    int rc = open_blob(map, sizeof length + size);

    if (rc < 0)
        return rc;
    at = map->open->bytes + map->open->size;
    memcpy(at, &length, sizeof length);
    memcpy(at + sizeof length, image, size);
    map->open->size += sizeof length + size;
    map->open_n++;
    map->held += sizeof length + size;
    map->queued++;
    map->added++;
    zp__map_turn(map);
    map->bytes_item += ((double)size - map->bytes_item) / 16;
    if (!map->sourcing)
        zp__kick(map->swarm->kick);
    return 0;
}

static int
may_add(const zp_mapping *map)
{
    int rc;

    if (!map)
        return zp__fail(-EINVAL, "the map is NULL");
    rc = zp__ctx_check(map->ctx);
    if (rc < 0)
        return rc;
    if (map->code)
        return zp__fail(map->code, "%s", map->why);
    if (map->input_end)
        return zp__fail(-EPIPE, "the map was told that there are no more "
                                "items");
    if (map->source && !map->sourcing)
        return zp__fail(-EINVAL, "the map has a source function: it alone "
                                 "adds items");
    if (!map->sourcing && zp__map_full(map))
        return zp__fail(-EAGAIN,
                        "%llu items of the map have not been given back as "
                        "results",
                        (unsigned long long)(map->added - map->read));
    return 0;
}

int
zp_map_add(zp_mapping *map, const char *format, ...)
{
    zp__encoded encoded;
    va_list ap;
    int rc = may_add(map);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc == 0) {
        va_start(ap, format);
        rc = zp__encode(&encoded, format, ap);
        va_end(ap);
    }
    if (rc == 0) {
        rc = zp__map_add_image(map, encoded.image, encoded.size);
        zp__encoded_free(&encoded);
    }
    return rc == 0 ? 0 : zp__ctx_done(map ? map->ctx : NULL, rc);
}

int
zp_map_add_value(zp_mapping *map, const zp_value *value)
{
    const void *image;
    size_t size;
    int rc = may_add(map);

    if (rc == 0 && !value)
        rc = zp__fail(-EINVAL, "the value is NULL");
    if (rc == 0) {
        image = zp_value_image(value, &size);
        rc = zp__map_add_image(map, image, size);
    }
    return rc == 0 ? 0 : zp__ctx_done(map ? map->ctx : NULL, rc);
}

int
zp_map_end(zp_mapping *map)
{
    int rc =
        map ? zp__ctx_check(map->ctx) : zp__fail(-EINVAL, "the map is NULL");

    if (rc == 0 && !map->input_end) {
        map->input_end = true;
        zp__map_check_end(map);
    }
    return zp__ctx_done(map ? map->ctx : NULL, rc);
}

/* ---------------------------------------------------------------- source -- */

/* Ask it once. -ECANCELED: there is nothing to go on with. */
static int
ask_source(zp_mapping *map)
{
    zp_ctx *ctx = map->ctx;
    uint64_t before = map->added;
    int rc;

    map->sourcing = true;
    rc = map->source(map, map->source_user);
    if (zp__ctx_check(ctx) == ZP_EFORK) /* it has forked; this is the child */
        return -ECANCELED;
    map->sourcing = false;
    if (rc < 0)
        zp__map_abort(map, rc, "the source function gave an error");
    else if (rc == 0)
        map->input_end = true;
    else if (map->added == before && !map->input_end)
        zp__map_abort(map, -EINVAL,
                      "the source function said that there are more items, "
                      "and added none");
    if (rc == 0)
        zp__map_check_end(map);
    return ctx->dying ? -EPIPE : 0;
}

static bool
asks(const zp_mapping *map, uint64_t want)
{
    return map->source && !map->input_end && !map->ended && !map->sourcing &&
           !map->swarm->closing && map->queued < want && !zp__map_full(map) &&
           !zp__map_held(map);
}

bool
zp__map_fill(zp_mapping *map, uint64_t want)
{
    int64_t tick = zp__tick();
    double called;
    int rc = 0;

    if (!asks(map, want))
        return true;
    called = zp__ctx_call(map->ctx);
    map->pins++;
    do
        rc = ask_source(map);
    while (rc == 0 && asks(map, want) && zp__tick() == tick);
    if (rc == -ECANCELED) /* a child */
        return false;
    map->pins--;
    return !zp__ctx_leave(map->ctx, called, 0);
}
