/*
 * map_results.c - a map's results: put in order, handed out.
 *
 * They stay in the messages in which they came: a batch is one of those, with a
 * finger on the next answer in it. Batches are kept sorted by index; few are
 * out of order, as many as are in work.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/swarm.h"

typedef struct batch {
    zp__node node;
    zp__message message;
    const unsigned char *at;
    uint64_t index;
    uint32_t n;
    size_t size;
} batch;

/* The first, as it will be handed out; NULL: none can be. */
static batch *
first(const zp_mapping *map)
{
    batch *found;

    if (zp__list_empty(&map->batches))
        return NULL;
    found = ZP__OF(map->batches.next, batch, node);
    if (!(map->flags & ZP_UNORDERED) && found->index != map->next)
        return NULL;
    return found;
}

static void
drop(zp_mapping *map, batch *gone)
{
    map->held -= gone->size;
    zp__list_remove(&gone->node);
    zp__message_free(&gone->message);
    free(gone);
}

static void
insert(zp_mapping *map, batch *new)
{
    zp__node *at = &map->batches;

    if (!(map->flags & ZP_UNORDERED))
        while (at->prev != &map->batches &&
               ZP__OF(at->prev, batch, node)->index > new->index)
            at = at->prev;
    zp__list_append(at, &new->node);
}

int
zp__map_results(zp_mapping *map, zp__message *message, uint64_t index,
                uint32_t n, uint32_t failed)
{
    batch *new = malloc(sizeof *new);

    if (!new) {
        zp__message_free(message);
        return -ENOMEM;
    }
    zp__message_move(&new->message, message);
    new->at = zp__message_data(&new->message, &new->size);
    new->index = index;
    new->n = n;
    zp__list_init(&new->node);
    insert(map, new);
    map->held += new->size;
    map->done += n;
    map->failed += failed;
    map->bytes_result +=
        ((double)new->size / n - map->bytes_result) / (n > 16 ? 2 : 16);
    zp__map_check_end(map);
    zp__map_changed(map);
    return 0;
}

static void
write_answer(unsigned char *at, const zp__answer *answer, const char *error)
{
    memcpy(at, answer, sizeof *answer);
    memcpy(at + sizeof *answer, error, answer->error);
}

int
zp__map_fail_items(zp_mapping *map, uint64_t index, uint32_t n, int code,
                   const char *error)
{
    zp__answer answer = {.code = code, .error = (uint16_t)strlen(error)};
    size_t each = sizeof answer + answer.error, size;
    zp__message message;
    unsigned char *at;

    if (zp__message_new(&message, each * n) < 0)
        return -ENOMEM;
    at = zp__message_data(&message, &size);
    for (uint32_t i = 0; i < n; i++, at += each)
        write_answer(at, &answer, error);
    return zp__map_results(map, &message, index, n, n);
}

bool
zp__map_has_result(const zp_mapping *map)
{
    return first(map) != NULL;
}

static void
keep_text(char *buffer, size_t room, const char *text, size_t length)
{
    if (length >= room)
        length = room - 1;
    if (length)
        memcpy(buffer, text, length);
    buffer[length] = '\0';
}

static int
keep_value(zp__kept *kept, const unsigned char *image, size_t size)
{
    if (kept->value)
        return zp__value_assign(kept->value, image, size);
    return zp__value_copy(&kept->value, image, size);
}

int
zp__answer_result(zp__kept *kept, const unsigned char *at, uint64_t index,
                  zp_map_result *ret)
{
    const unsigned char *value;
    const char *error, *origin;
    zp__answer answer;
    int rc = 0;

    zp__answer_read(&at, &answer, &value, &error, &origin);
    if (answer.value)
        rc = keep_value(kept, value, answer.value);
    if (rc < 0)
        return rc;
    keep_text(kept->error, sizeof kept->error, error, answer.error);
    keep_text(kept->origin, sizeof kept->origin, origin, answer.origin);
    *ret = (zp_map_result){
        .size = sizeof *ret,
        .index = index,
        .code = answer.code,
        .value = answer.value ? kept->value : NULL,
        .error = kept->error,
        .origin = kept->origin,
    };
    return 0;
}

const unsigned char *
zp__map_answer(const zp_mapping *map, size_t *ret_size, uint64_t *ret_index)
{
    const batch *from = first(map);
    const unsigned char *at, *value;
    const char *error, *origin;
    zp__answer answer;

    if (!from)
        return NULL;
    at = from->at;
    zp__answer_read(&at, &answer, &value, &error, &origin);
    *ret_size = (size_t)(at - from->at);
    *ret_index = from->index;
    return from->at;
}

void
zp__map_pass(zp_mapping *map)
{
    batch *from = first(map);
    const unsigned char *value;
    const char *error, *origin;
    zp__answer answer;

    zp__answer_read(&from->at, &answer, &value, &error, &origin);
    from->index++;
    map->next++;
    map->read++;
    if (--from->n == 0) {
        drop(map, from);
        zp__kick(map->swarm->kick); /* the window has room again */
    }
}

int
zp__map_result(zp_mapping *map, zp_map_result *ret)
{
    batch *from = first(map);
    int rc;

    if (!from)
        return 0;
    rc = zp__answer_result(&map->kept, from->at, from->index, ret);
    if (rc < 0)
        return rc;
    zp__map_pass(map);
    return 1;
}

int
zp__result_get(const zp_map_result *result, const char *format, va_list ap)
{
    const void *image;
    size_t size;
    int rc;

    if (result->code < 0)
        return zp__fail(result->code, "item %llu: %s",
                        (unsigned long long)result->index, result->error);
    if (!result->value)
        return zp__fail(ZP_ENOKEY, "item %llu left no result",
                        (unsigned long long)result->index);
    image = zp_value_image(result->value, &size);
    rc = zp__decode(image, size, format, ap);
    return rc < 0 ? rc : 1;
}

void
zp__map_drop_results(zp_mapping *map)
{
    ZP__EACH(at, next, &map->batches)
    drop(map, ZP__OF(at, batch, node));
}
