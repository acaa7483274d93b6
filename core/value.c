/*
 * value.c - tpl, fenced in: the one file that includes tpl.h.
 *
 * tpl allocates through global hooks, prints through one and leaves the
 * process through another when an allocation fails. So the hooks are set once,
 * to functions that look for a *guard* in their thread: without one they do
 * exactly what those before them did (the application may use tpl itself),
 * with one
 *
 *     malloc, realloc, free   work on the blocks of the guard's map;
 *     a failed allocation     jumps out of tpl to where the guard began;
 *     a complaint             is kept as the error's text.
 *
 * tpl never frees anything of ours, and tpl_free() is never called: it takes
 * the # of a later structure for that of an earlier string and frees what was
 * never there ("sS(i)#"). Closing a map frees its blocks, whatever tpl was
 * doing. For the same reason a map is not reused the way tpl means it
 * (tpl_load() over a packed map): zp__map_keep() copies the few blocks that a
 * new map has, zp__map_reset() frees all others and copies those back, after
 * which tpl cannot tell that anything happened.
 *
 * What unpacking allocates goes to the user and has to be memory of malloc().
 * It is made in advance (zp__spares), for a user's fields must be written
 * all or not at all; the hook only hands it out.
 */
#include "core/value.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tpl.h>

#include "core/error.h"
#include "core/map.h"

_Static_assert(sizeof(zp_bin) == sizeof(tpl_bin), "zp_bin is a tpl_bin");
_Static_assert(offsetof(zp_bin, sz) == offsetof(tpl_bin, sz),
               "zp_bin is a tpl_bin");

/* ------------------------------------------------------------ blocks -- */

/* Before each piece of memory that tpl has. */
struct zp__block {
    struct zp__block *next;
    struct zp__block *prev;
    size_t size;
    bool kept; /* was there at zp__map_keep() */
    alignas(max_align_t) unsigned char data[];
};

static struct zp__block *
block_of(void *data)
{
    return (struct zp__block *)((unsigned char *)data -
                                offsetof(struct zp__block, data));
}

/* 0, -EMSGSIZE, -ENOMEM, with a text. */
static int
block_new(zp__map *map, void **ret, size_t size)
{
    if (size > map->limit || map->used > map->limit - size)
        return zp__fail(-EMSGSIZE, "a value of more than %zu bytes",
                        ZP__IMAGE_MAX);
    struct zp__block *block = malloc(sizeof(*block) + size);
    if (!block)
        return zp__fail_errno(ENOMEM, "a value");
    block->size = size;
    block->kept = false;
    block->next = NULL;
    block->prev = map->last;
    *(map->last ? &map->last->next : &map->first) = block;
    map->last = block;
    map->used += size;
    *ret = block->data;
    return 0;
}

static void
block_free(zp__map *map, struct zp__block *block)
{
    *(block->prev ? &block->prev->next : &map->first) = block->next;
    *(block->next ? &block->next->prev : &map->last) = block->prev;
    map->used -= block->size;
    free(block);
}

/* ------------------------------------------------------------- hooks -- */

struct guard {
    jmp_buf out;
    zp__map *map;
    zp__spares *spares; /* unpacking: hand these out instead */
    volatile int error; /* why it was left by a jump */
};

extern tpl_hook_t tpl_hook; /* tpl.h leaves it to its users to declare it */

static tpl_hook_t before; /* the hooks that ours stand in front of */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local struct guard *guard;

static _Noreturn void
leave(struct guard *from, int error)
{
    from->error = error;
    longjmp(from->out, 1);
}

static void *
spare_take(struct guard *from, size_t size)
{
    zp__spare *spare = from->spares->first;
    if (!spare || spare->size < size)
        leave(from, zp__fail(ZP_EVALUE, "tpl reads the image differently"));
    from->spares->first = spare->next;
    if (!spare->next)
        from->spares->last = NULL;
    /* Behind bytes, too, stands a NUL; tpl writes that of strings. */
    size_t size_of_spare = spare->size;
    ((unsigned char *)spare)[size_of_spare - 1] = 0;
    return spare;
}

static void *
hook_malloc(size_t size)
{
    void *data = NULL;
    if (!guard)
        return before.malloc(size);
    if (guard->spares)
        return spare_take(guard, size);
    int rc = block_new(guard->map, &data, size);
    if (rc < 0)
        leave(guard, rc);
    return data;
}

static void
hook_free(void *data)
{
    if (!guard)
        before.free(data);
    else if (data && !block_of(data)->kept)
        block_free(guard->map, block_of(data));
}

static void *
hook_realloc(void *data, size_t size)
{
    void *moved = NULL;
    if (!guard)
        return before.realloc(data, size);
    int rc = block_new(guard->map, &moved, size);
    if (rc < 0)
        leave(guard, rc);
    if (data) {
        size_t old = block_of(data)->size;
        memcpy(moved, data, old < size ? old : size);
        hook_free(data);
    }
    return moved;
}

/* Both reach the hooks before them as one string: a va_list cannot be passed
 * on to "...". */
static int
hook_oops(const char *format, ...)
{
    char short_text[256], *text = NULL;
    va_list ap;
    va_start(ap, format);
    if (guard) {
        vsnprintf(short_text, sizeof(short_text), format, ap);
        zp__fail(ZP_EVALUE, "tpl: %.*s", (int)strcspn(short_text, "\n"),
                 short_text);
        va_end(ap);
        return 0;
    }
    if (vasprintf(&text, format, ap) < 0)
        text = NULL;
    int rc = before.oops("%s", text ? text : format);
    free(text);
    va_end(ap);
    return rc;
}

static void
hook_fatal(const char *format, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    if (guard)
        leave(guard,
              zp__fail(ZP_EVALUE, "tpl: %.*s", (int)strcspn(text, "\n"), text));
    before.fatal("%s", text);
}

static void
set_hooks(void)
{
    before = tpl_hook;
    tpl_hook.oops = hook_oops;
    tpl_hook.malloc = hook_malloc;
    tpl_hook.realloc = hook_realloc;
    tpl_hook.free = hook_free;
    tpl_hook.fatal = hook_fatal;
}

/* Hooks that somebody set later, in place of ours, would take our memory for
 * theirs; and ours cannot be put in front once more, for theirs may call
 * them. */
static int
hooks_ours(void)
{
    pthread_once(&once, set_hooks);
    if (tpl_hook.malloc == hook_malloc && tpl_hook.realloc == hook_realloc &&
        tpl_hook.free == hook_free)
        return 0;
    return zp__fail(-EBUSY, "tpl_hook was changed after zproc had used tpl:"
                            " set it before the first call of zproc");
}

/* ------------------------------------------------------------- guard -- */

/* A call into tpl: what it needs, and what it gives. */
struct call {
    zp__map *map;
    int (*fn)(struct call *call);
    zp__spares *spares;
    const char *format;
    va_list *ap;
    int i;
    void *buffer;
    size_t size;
};

/* Run CALL->fn where a failing tpl comes back from. */
static int
guarded(struct call *call)
{
    struct guard here = {.map = call->map, .spares = call->spares};
    int rc = hooks_ours();
    if (rc < 0)
        return rc;
    if (setjmp(here.out) == 0) {
        guard = &here;
        rc = call->fn(call);
    } else
        rc = here.error;
    guard = NULL;
    return rc;
}

/* tpl says -1, after a complaint that our hook has kept. */
static int
said(int rc)
{
    return rc < 0 ? ZP_EVALUE : 0;
}

static int
call_map(struct call *call)
{
    /* tpl's argument is not const, but only read. */
    call->map->root = tpl_map_va((char *)call->format, *call->ap);
    return call->map->root ? 0 : ZP_EFORMAT;
}

static int
call_pack(struct call *call)
{
    return said(tpl_pack(call->map->root, call->i));
}

static int
call_size(struct call *call)
{
    return said(tpl_dump(call->map->root, TPL_GETSIZE, &call->size));
}

static int
call_dump(struct call *call)
{
    return said(tpl_dump(call->map->root, TPL_MEM | TPL_PREALLOCD, call->buffer,
                         call->size));
}

static int
call_load(struct call *call)
{
    return said(tpl_load(call->map->root, TPL_MEM, call->buffer, call->size));
}

static int
call_unpack(struct call *call)
{
    return said(tpl_unpack(call->map->root, call->i));
}

/* --------------------------------------------------------------- map -- */

int
zp__map_open(zp__map *map, const char *format, va_list ap, size_t limit)
{
    va_list copy;
    *map = (zp__map){.limit = limit};
    va_copy(copy, ap);
    int rc = guarded(&(struct call){
        .map = map, .fn = call_map, .format = format, .ap = &copy});
    va_end(copy);
    if (rc < 0)
        zp__map_close(map);
    return rc;
}

void
zp__map_close(zp__map *map)
{
    while (map->first)
        block_free(map, map->first);
    free(map->kept);
    map->kept = NULL;
    map->root = NULL;
}

int
zp__map_keep(zp__map *map)
{
    unsigned char *kept = malloc(map->used ? map->used : 1);
    if (!kept)
        return zp__fail_errno(ENOMEM, "a value");
    map->kept = kept;
    for (struct zp__block *b = map->first; b; b = b->next) {
        memcpy(kept, b->data, b->size);
        kept += b->size;
        b->kept = true;
    }
    return 0;
}

void
zp__map_reset(zp__map *map)
{
    const unsigned char *kept = map->kept;
    struct zp__block *b = map->first;
    while (b) {
        struct zp__block *next = b->next;
        if (b->kept) {
            memcpy(b->data, kept, b->size);
            kept += b->size;
        } else
            block_free(map, b);
        b = next;
    }
}

int
zp__map_pack(zp__map *map, int i)
{
    return guarded(&(struct call){.map = map, .fn = call_pack, .i = i});
}

int
zp__map_size(zp__map *map, size_t *ret_size)
{
    struct call call = {.map = map, .fn = call_size};
    int rc = guarded(&call);
    if (rc == 0)
        *ret_size = call.size;
    return rc;
}

int
zp__map_dump(zp__map *map, void *buffer, size_t size)
{
    return guarded(&(struct call){
        .map = map, .fn = call_dump, .buffer = buffer, .size = size});
}

int
zp__map_load(zp__map *map, const void *image, size_t size)
{
    /* tpl only reads it, and must find it there as long as it unpacks. */
    return guarded(&(struct call){
        .map = map, .fn = call_load, .buffer = (void *)image, .size = size});
}

int
zp__map_unpack(zp__map *map, int i, zp__spares *spares)
{
    return guarded(&(struct call){
        .map = map, .fn = call_unpack, .i = i, .spares = spares});
}

/* ------------------------------------------------------------ spares -- */

int
zp__spares_item(zp__spares *spares, const zp__item *item)
{
    bool string = item->kind == ZP__STRING && item->data;
    bool bytes = item->kind == ZP__BYTES && item->size > 0;
    if (!string && !bytes)
        return 0;
    size_t size = (size_t)item->size + 1; /* a NUL behind both */
    zp__spare *spare = malloc(size < sizeof(*spare) ? sizeof(*spare) : size);
    if (!spare)
        return zp__fail_errno(ENOMEM, "a value");
    spare->next = NULL;
    spare->size = size;
    *(spares->last ? &spares->last->next : &spares->first) = spare;
    spares->last = spare;
    return 0;
}

void
zp__spares_free(zp__spares *spares)
{
    while (spares->first) {
        zp__spare *next = spares->first->next;
        free(spares->first);
        spares->first = next;
    }
    spares->last = NULL;
}
