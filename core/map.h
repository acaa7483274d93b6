/*
 * map.h - a tpl map that cannot hurt: the whole of tpl as the library uses it.
 *
 * value.c, which implements this, is the only file that knows tpl. All of it
 * expects formats, numbers and images that were checked before (format.h,
 * image.h); what is left to fail is memory.
 */
#ifndef ZP_CORE_MAP_H
#define ZP_CORE_MAP_H

#include <stdarg.h>
#include <stddef.h>

#include "core/walk.h"

struct tpl_node;
struct zp__block;

typedef struct zp__map {
    struct tpl_node *root;
    struct zp__block *first; /* all that tpl has allocated for it */
    struct zp__block *last;
    size_t used;  /* bytes of those */
    size_t limit; /* and how many they may be */
    void *kept;   /* what the blocks held at zp__map_keep() */
} zp__map;

/* Memory for one string or bytes field, made before tpl asks for it, so that
 * unpacking cannot fail half way; it becomes the caller's of the unpacking,
 * as memory from malloc(). */
typedef struct zp__spare {
    struct zp__spare *next;
    size_t size;
} zp__spare;

typedef struct zp__spares {
    zp__spare *first;
    zp__spare *last;
} zp__spares;

/* One for what tpl allocates when it unpacks ITEM: nothing, for most. */
int zp__spares_item(zp__spares *spares, const zp__item *item);
void zp__spares_free(zp__spares *spares);

/* Map FORMAT to the addresses of AP. LIMIT: bytes of memory it may come to
 * hold (then -EMSGSIZE). -ENOMEM; -EBUSY (tpl's hooks were replaced). On
 * success zp__map_close() must follow. */
int zp__map_open(zp__map *map, const char *format, va_list ap, size_t limit);
void zp__map_close(zp__map *map);

/* Remember the map as it is now, just opened; go back to that. Going back
 * needs no memory and is legal after any error. */
int zp__map_keep(zp__map *map);
void zp__map_reset(zp__map *map);

/* After an error of any of these only reset or close are legal. */
int zp__map_pack(zp__map *map, int i);
int zp__map_size(zp__map *map, size_t *ret_size);
int zp__map_dump(zp__map *map, void *buffer, size_t size);
int zp__map_load(zp__map *map, const void *image, size_t size);

/* SPARES: what the strings and bytes of this element need, in their order. */
int zp__map_unpack(zp__map *map, int i, zp__spares *spares);

#endif
