/*
 * record.c - records of processes as bytes.
 *
 *     | header (fixed) | name NUL | namespace NUL | error NUL | origin NUL
 *     | backtrace NUL | image |
 *
 * The header holds all the lengths, and their sum with that of the header has
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
#define RECORD_VERSION 2

/* The texts, in this order. */
enum { NAME, NS, ERROR, ORIGIN, TRACE, N_TEXTS };

static const size_t longest[N_TEXTS] = {
    [NAME] = ZP__RECORD_NAME,   [NS] = ZP__RECORD_NS,
    [ERROR] = ZP__RECORD_TEXT,  [ORIGIN] = ZP__RECORD_ORIGIN,
    [TRACE] = ZP__RECORD_TRACE,
};

struct header {
    uint32_t magic;
    uint16_t version;
    uint16_t size; /* of this header */
    uint32_t state;
    uint32_t depth;
    zp__pid id;
    zp__pid parent;
    uint64_t parent_record;
    uint64_t boot;
    uint64_t pid_ns;
    int64_t spawned_ns;
    int64_t started_ns;
    int64_t ended_ns;
    uint32_t attempts;
    int32_t code;
    int32_t status;
    int32_t signal;
    int32_t core;
    uint16_t lengths[N_TEXTS]; /* without NUL */
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

static bool
is_state(uint32_t state)
{
    return state == ZP__RECORD_RUNNING || state == ZP__RECORD_ENDED ||
           state == ZP__RECORD_WAITING;
}

/* All of the header but the lengths. */
static void
fill(struct header *header, const zp__record *record)
{
    memset(header, 0, sizeof *header); /* no stray bytes in the store */
    header->magic = RECORD_MAGIC;
    header->version = RECORD_VERSION;
    header->size = sizeof *header;
    header->state = record->state;
    header->depth = record->depth;
    header->id = record->id;
    header->parent = record->parent;
    header->parent_record = record->parent_record;
    header->boot = zp__boot_hash();
    header->pid_ns = zp__pid_ns();
    header->spawned_ns = record->spawned_ns;
    header->started_ns = record->started_ns;
    header->ended_ns = record->ended_ns;
    header->attempts = record->attempts;
    header->code = record->code;
    header->status = record->status;
    header->signal = record->signal;
    header->core = record->core;
}

int
zp__record_encode(const zp__record *record, void **ret, size_t *ret_size)
{
    const char *texts[N_TEXTS] = {
        [NAME] = record->name,       [NS] = record->ns,
        [ERROR] = record->error,     [ORIGIN] = record->origin,
        [TRACE] = record->backtrace,
    };
    size_t size = sizeof(struct header) + N_TEXTS + record->image_size;
    struct header header;
    char *block, *at;
    int i;

    if (!is_state(record->state))
        return zp__fail(-EINVAL, "no such state of a process: %u",
                        record->state);
    if (record->image_size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "the result has %zu bytes, limit %zu",
                        record->image_size, ZP__IMAGE_MAX);
    fill(&header, record);
    for (i = 0; i < N_TEXTS; i++)
        size += header.lengths[i] = cut(texts[i], longest[i]);
    header.image = record->image_size;
    block = malloc(size);
    if (!block)
        return zp__fail(-ENOMEM, "no memory for a process record of %zu bytes",
                        size);
    memcpy(block, &header, sizeof header);
    at = block + sizeof header;
    for (i = 0; i < N_TEXTS; i++)
        at = put_text(at, texts[i], header.lengths[i]);
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

/* All texts, one behind the other from *AT on: false if they do not fit. */
static bool
get_texts(const char **texts, const struct header *header, const char **at,
          const char *end)
{
    int i;

    for (i = 0; i < N_TEXTS; i++) {
        texts[i] = get_text(at, end, header->lengths[i], longest[i]);
        if (!texts[i])
            return false;
    }
    return true;
}

static int
get_header(struct header *header, const void *data, size_t size)
{
    if (size < sizeof *header)
        return zp__fail(ZP_ECORRUPT, "a process record of %zu bytes", size);
    memcpy(header, data, sizeof *header);
    if (header->magic != RECORD_MAGIC)
        return zp__fail(ZP_ECORRUPT, "a process record without its mark");
    if (header->version != RECORD_VERSION || header->size != sizeof *header)
        return zp__fail(ZP_EVERSION, "a process record of version %u",
                        header->version);
    if (!is_state(header->state))
        return zp__fail(ZP_ECORRUPT, "a process record in state %u",
                        header->state);
    return 0;
}

int
zp__record_decode(zp__record *ret, const void *data, size_t size)
{
    const char *at = data, *end = at + size;
    const char *texts[N_TEXTS];
    struct header header;
    int rc = get_header(&header, data, size);

    if (rc < 0)
        return rc;
    at += sizeof header;
    if (!get_texts(texts, &header, &at, end) ||
        header.image != (uint64_t)(end - at))
        return zp__fail(ZP_ECORRUPT, "a process record with bad lengths");
    *ret = (zp__record){
        .state = header.state,
        .depth = header.depth,
        .attempts = header.attempts,
        .id = header.id,
        .parent = header.parent,
        .parent_record = header.parent_record,
        .boot = header.boot,
        .pid_ns = header.pid_ns,
        .spawned_ns = header.spawned_ns,
        .started_ns = header.started_ns,
        .ended_ns = header.ended_ns,
        .code = header.code,
        .status = header.status,
        .signal = header.signal,
        .core = header.core,
        .name = texts[NAME],
        .ns = texts[NS],
        .error = texts[ERROR],
        .origin = texts[ORIGIN],
        .backtrace = texts[TRACE],
        .image = header.image ? at : NULL,
        .image_size = (size_t)header.image,
    };
    return 0;
}

bool
zp__record_lost(const zp__record *record)
{
    if (record->state == ZP__RECORD_ENDED)
        return false;
    if (record->boot != zp__boot_hash())
        return true;
    if (record->pid_ns != zp__pid_ns() || record->parent.start == 0)
        return false;
    return !zp__pid_alive(&record->id) && !zp__pid_alive(&record->parent);
}

void
zp__record_lose(zp__record *record)
{
    record->error = record->state == ZP__RECORD_WAITING
                        ? "was not started again, since the process that "
                          "spawned it has ended"
                        : "ended unseen, and so did the process that spawned "
                          "it";
    record->state = ZP__RECORD_ENDED;
    record->code = ZP_EFAILED;
    record->status = -1;
}
