/*
 * record.c - records of processes as bytes.
 *
 *     | header (fixed) | name NUL | error NUL | origin NUL | image |
 *
 * The header holds the three lengths and that of the image, and their sum has
 * to be the size of the row exactly: what is cut off, padded or made up is
 * ZP_ECORRUPT, and nothing outside of the row is ever read. Rows in LMDB are
 * not aligned, so the header is copied, never pointed into.
 */
#include "core/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/image.h"

#define RECORD_MAGIC UINT32_C(0x7270727a) /* "zrpr" */
#define RECORD_VERSION 1

struct header {
    uint32_t magic;
    uint16_t version;
    uint16_t size; /* of this header */
    uint32_t state;
    uint32_t depth;
    zp__pid id;
    zp__pid parent;
    uint64_t boot;
    uint64_t pid_ns;
    int64_t spawned_ns;
    int64_t ended_ns;
    int32_t code;
    int32_t status;
    int32_t signal;
    int32_t core;
    uint16_t name; /* lengths without NUL */
    uint16_t error;
    uint16_t origin;
    uint16_t unused;
    uint64_t image;
};

/* Length of TEXT (may be NULL), at most MAX. */
static uint16_t
cut(const char *text, size_t max)
{
    return text ? (uint16_t)strnlen(text, max) : 0;
}

/* Append LENGTH bytes of TEXT and a NUL; returns what is behind them. */
static char *
put_text(char *at, const char *text, size_t length)
{
    if (length)
        memcpy(at, text, length);
    at[length] = '\0';
    return at + length + 1;
}

int
zp__record_encode(const zp__record *record, void **ret, size_t *ret_size)
{
    struct header header;
    size_t size;
    char *block, *at;

    if (record->state != ZP__RECORD_RUNNING &&
        record->state != ZP__RECORD_ENDED)
        return zp__fail(-EINVAL, "no such state of a process: %u",
                        record->state);
    if (record->image_size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "the result has %zu bytes, limit %zu",
                        record->image_size, ZP__IMAGE_MAX);
    memset(&header, 0, sizeof header); /* no stray bytes in the store */
    header.magic = RECORD_MAGIC;
    header.version = RECORD_VERSION;
    header.size = sizeof header;
    header.state = record->state;
    header.depth = record->depth;
    header.id = record->id;
    header.parent = record->parent;
    header.boot = zp__boot_hash();
    header.pid_ns = zp__pid_ns();
    header.spawned_ns = record->spawned_ns;
    header.ended_ns = record->ended_ns;
    header.code = record->code;
    header.status = record->status;
    header.signal = record->signal;
    header.core = record->core;
    header.name = cut(record->name, ZP__RECORD_NAME);
    header.error = cut(record->error, ZP__RECORD_TEXT);
    header.origin = cut(record->origin, ZP__RECORD_ORIGIN);
    header.image = record->image_size;

    size = sizeof header + header.name + 1 + header.error + 1 + header.origin +
           1 + record->image_size;
    block = malloc(size);
    if (!block)
        return zp__fail(-ENOMEM, "no memory for a process record of %zu bytes",
                        size);
    memcpy(block, &header, sizeof header);
    at = block + sizeof header;
    at = put_text(at, record->name, header.name);
    at = put_text(at, record->error, header.error);
    at = put_text(at, record->origin, header.origin);
    if (record->image_size)
        memcpy(at, record->image, record->image_size);
    *ret = block;
    *ret_size = size;
    return 0;
}

/* A string of LENGTH bytes and its NUL at *AT, before END: or NULL. Steps
 * *AT behind it. */
static const char *
get_text(const char **at, const char *end, size_t length, size_t max)
{
    const char *text = *at;

    if (length > max || (size_t)(end - text) < length + 1)
        return NULL;
    if (memchr(text, '\0', length + 1) != text + length)
        return NULL;
    *at = text + length + 1;
    return text;
}

int
zp__record_decode(zp__record *ret, const void *data, size_t size)
{
    const char *at = data, *end = at + size;
    struct header header;
    zp__record record;

    if (size < sizeof header)
        return zp__fail(ZP_ECORRUPT, "a process record of %zu bytes", size);
    memcpy(&header, data, sizeof header);
    if (header.magic != RECORD_MAGIC)
        return zp__fail(ZP_ECORRUPT, "a process record without its mark");
    if (header.version != RECORD_VERSION || header.size != sizeof header)
        return zp__fail(ZP_EVERSION, "a process record of version %u",
                        header.version);
    if (header.state != ZP__RECORD_RUNNING && header.state != ZP__RECORD_ENDED)
        return zp__fail(ZP_ECORRUPT, "a process record in state %u",
                        header.state);
    at += sizeof header;
    memset(&record, 0, sizeof record);
    record.name = get_text(&at, end, header.name, ZP__RECORD_NAME);
    if (record.name)
        record.error = get_text(&at, end, header.error, ZP__RECORD_TEXT);
    if (record.error)
        record.origin = get_text(&at, end, header.origin, ZP__RECORD_ORIGIN);
    if (!record.origin || header.image != (uint64_t)(end - at))
        return zp__fail(ZP_ECORRUPT, "a process record with bad lengths");
    record.image = header.image ? at : NULL;
    record.image_size = (size_t)header.image;
    record.state = header.state;
    record.depth = header.depth;
    record.id = header.id;
    record.parent = header.parent;
    record.boot = header.boot;
    record.pid_ns = header.pid_ns;
    record.spawned_ns = header.spawned_ns;
    record.ended_ns = header.ended_ns;
    record.code = header.code;
    record.status = header.status;
    record.signal = header.signal;
    record.core = header.core;
    *ret = record;
    return 0;
}
