/*
 * codec.c - formats and addresses to images and back.
 *
 * Two ways. A lone atom's image is some fixed bytes, made and read right here:
 * the way of almost every value, without malloc (strings and bytes that do
 * not fit into zp__encoded.small apart), without tpl. Everything else is a tpl
 * map that lives for the call:
 *
 *     encode   look at the arguments, map, pack, dump into the right size
 *     decode   look at the arguments, compare format and numbers with the
 *              image, walk through it and make the memory that its fields
 *              need, map, load; only now unpack, which cannot fail any more
 *              (zp__decode_begin() ends before that)
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/map.h"
#include "core/shape.h"
#include "core/value.h"
#include "core/walk.h"

/* Memory that tpl may take for one composite: the numbers and pointers of the
 * map and the copies of its strings and bytes, each at most twice an image. */
#define MAP_LIMIT (4 * ZP__IMAGE_MAX)

/* Is it a lone atom? */
static bool
is_lone(const char *format)
{
    switch (format[0]) {
    case 'c':
    case 'j':
    case 'v':
    case 'i':
    case 'u':
    case 'I':
    case 'U':
    case 'f':
    case 's':
    case 'B':
        return !format[1];
    default:
        return false;
    }
}

static int
null_argument(const char *what)
{
    return zp__fail(-EINVAL, "%s is NULL", what);
}

/* ------------------------------------------------------------ encode -- */

/* Room for SIZE bytes in RET: small, or from malloc(). */
static int
make_room(zp__encoded *ret, void **ret_room, size_t size)
{
    ret->heap = NULL;
    ret->image = ret->small;
    ret->size = size;
    if (size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "a value of %zu bytes: at most %zu", size,
                        ZP__IMAGE_MAX);
    if (size > sizeof(ret->small)) {
        ret->heap = malloc(size);
        if (!ret->heap)
            return zp__fail_errno(ENOMEM, "a value");
        ret->image = ret->heap;
    }
    *ret_room = ret->heap ? ret->heap : ret->small;
    return 0;
}

int
zp__encode_string(zp__encoded *ret, const char *value)
{
    void *room;
    if (!value)
        return null_argument("the string");
    size_t length = strlen(value);
    int rc = make_room(ret, &room, zp__image_string_size(length));
    if (rc == 0)
        zp__image_string(room, value, length);
    return rc;
}

int
zp__encode_bytes(zp__encoded *ret, const void *value, size_t size)
{
    void *room;
    if (!value && size > 0)
        return zp__fail(-EINVAL, "%zu bytes at NULL", size);
    if (size > ZP__IMAGE_MAX)
        return make_room(ret, &room, size);
    int rc = make_room(ret, &room, zp__image_bytes_size(size));
    if (rc == 0)
        zp__image_bytes(room, value, size);
    return rc;
}

void
zp__encoded_free(zp__encoded *encoded)
{
    free(encoded->heap);
    encoded->heap = NULL;
}

/* A number, which always fits into small. */
static int
encode_number(zp__encoded *ret, char atom, const void *address)
{
    void *room = ret->small;
    ret->heap = NULL;
    ret->image = room;
    switch (atom) {
    case 'c':
        ret->size = zp__image_int(room, *(const unsigned char *)address);
        break;
    case 'j':
        ret->size = zp__image_int(room, *(const int16_t *)address);
        break;
    case 'v':
        ret->size = zp__image_int(room, *(const uint16_t *)address);
        break;
    case 'i':
        ret->size = zp__image_int(room, *(const int32_t *)address);
        break;
    case 'u':
        ret->size = zp__image_int(room, *(const uint32_t *)address);
        break;
    case 'I':
        ret->size = zp__image_int(room, *(const int64_t *)address);
        break;
    case 'U':
        ret->size = zp__image_uint(room, *(const uint64_t *)address);
        break;
    default:
        ret->size = zp__image_double(room, *(const double *)address);
        break;
    }
    return 0;
}

/* ATOM is one of cjviuIUfsB. */
static int
encode_lone(zp__encoded *ret, char atom, const void *address)
{
    if (!address)
        return null_argument("the address");
    if (atom == 's')
        return zp__encode_string(ret, *(char *const *)address);
    if (atom != 'B')
        return encode_number(ret, atom, address);
    const zp_bin *bin = address;
    return zp__encode_bytes(ret, bin->addr, bin->sz);
}

static int
no_arrays(const zp__shape *shape)
{
    if (shape->plan.arrays == 0)
        return 0;
    return zp__fail(ZP_EFORMAT, "format %.100s: A() needs a zp_tpl",
                    shape->format);
}

static int
dump(zp__encoded *ret, zp__map *map)
{
    void *room;
    size_t size;
    int rc = zp__map_pack(map, 0);
    if (rc == 0)
        rc = zp__map_size(map, &size);
    if (rc < 0)
        return rc;
    rc = make_room(ret, &room, size);
    if (rc < 0)
        return rc;
    rc = zp__map_dump(map, room, size);
    if (rc < 0)
        zp__encoded_free(ret);
    return rc;
}

static int
encode_composite(zp__encoded *ret, const char *format, va_list ap)
{
    zp__shape shape;
    zp__map map;
    int rc = zp__shape_make(&shape, format, ap, zp__shape_bin, NULL);
    if (rc == 0)
        rc = no_arrays(&shape);
    if (rc == 0)
        rc = zp__map_open(&map, format, ap, MAP_LIMIT);
    if (rc < 0)
        return rc;
    rc = dump(ret, &map);
    zp__map_close(&map);
    return rc;
}

int
zp__encode(zp__encoded *ret, const char *format, va_list ap)
{
    if (!format)
        return null_argument("the format");
    if (is_lone(format))
        return encode_lone(ret, format[0], va_arg(ap, const void *));
    return encode_composite(ret, format, ap);
}

/* ------------------------------------------------------------ decode -- */

/* A copy with a NUL behind it. */
static int
copy_out(void **ret, const void *data, size_t size)
{
    char *copy = malloc(size + 1);
    if (!copy)
        return zp__fail_errno(ENOMEM, "a value");
    memcpy(copy, data, size);
    copy[size] = 0;
    *ret = copy;
    return 0;
}

int
zp__decode_string(const void *image, size_t size, char **ret)
{
    const char *data;
    size_t length;
    void *copy = NULL;
    int rc = zp__image_get_string(image, size, &data, &length);
    if (rc == 0)
        rc = copy_out(&copy, data, length);
    if (rc == 0)
        *ret = copy;
    return rc;
}

int
zp__decode_bytes(const void *image, size_t size, void **ret, size_t *ret_size)
{
    const void *data;
    size_t length;
    int rc = zp__image_get_bytes(image, size, &data, &length);
    if (rc == 0)
        rc = copy_out(ret, data, length);
    if (rc == 0)
        *ret_size = length;
    return rc;
}

static int
decode_bin(const void *image, size_t size, zp_bin *ret)
{
    void *data = NULL;
    size_t length = 0;
    int rc = zp__decode_bytes(image, size, &data, &length);
    if (rc == 0)
        *ret = (zp_bin){data, (uint32_t)length};
    return rc;
}

static int
decode_lone(const void *image, size_t size, char atom, void *address)
{
    if (!address)
        return null_argument("the address");
    switch (atom) {
    case 's':
        return zp__decode_string(image, size, address);
    case 'B':
        return decode_bin(image, size, address);
    case 'f':
        return zp__image_get_double(image, size, address);
    default:
        return zp__image_get_as(image, size, atom, address);
    }
}

/* What all strings and bytes of the image take in memory. */
static int
make_spares(zp__spares *spares, const void *image, size_t size)
{
    zp__plan plan;
    zp__walk walk;
    zp__item item;
    int kind = zp__walk_image(&walk, &plan, image, size);
    if (kind < 0)
        return kind;
    while ((kind = zp__walk_next(&walk, &item)) > 0) {
        if (kind == ZP__OPEN && item.op->flat)
            kind = zp__walk_skip(&walk, &item);
        else
            kind = zp__spares_item(spares, &item);
        if (kind < 0)
            return kind;
    }
    return kind;
}

/* All of decoding a composite but the writing. On success both outputs are to
 * be closed and freed. */
static int
load_map(zp__map *map, zp__spares *spares, const void *image, size_t size,
         const char *format, va_list ap)
{
    zp__shape shape;
    int rc = zp__shape_make(&shape, format, ap, NULL, NULL);
    *spares = (zp__spares){0};
    if (rc == 0)
        rc = no_arrays(&shape);
    if (rc == 0)
        rc = zp__shape_match(&shape, image, size);
    if (rc == 0)
        rc = make_spares(spares, image, size);
    if (rc == 0)
        rc = zp__map_open(map, format, ap, MAP_LIMIT);
    if (rc == 0) {
        rc = zp__map_load(map, image, size);
        if (rc == 0)
            return 0;
        zp__map_close(map);
    }
    zp__spares_free(spares);
    return rc;
}

static int
unload_map(zp__map *map, zp__spares *spares, bool write)
{
    int rc = write ? zp__map_unpack(map, 0, spares) : 0;
    zp__map_close(map);
    zp__spares_free(spares);
    return rc;
}

static int
decode_composite(const void *image, size_t size, const char *format, va_list ap)
{
    zp__spares spares;
    zp__map map;
    int rc = load_map(&map, &spares, image, size, format, ap);
    return rc == 0 ? unload_map(&map, &spares, true) : rc;
}

int
zp__decode(const void *image, size_t size, const char *format, va_list ap)
{
    if (!format)
        return null_argument("the format");
    if (is_lone(format))
        return decode_lone(image, size, format[0], va_arg(ap, void *));
    return decode_composite(image, size, format, ap);
}

/* -------------------------------------------------- decode in two steps -- */

struct zp__decoder {
    char atom;     /* of a lone value; 0: a composite */
    void *address; /* of a lone one; what will be written there: */
    union {
        unsigned char number[8];
        double real;
        char *string;
        zp_bin bin;
    } lone;
    zp__map map;
    zp__spares spares;
};

static int
prepare_lone(zp__decoder *decoder, const void *image, size_t size)
{
    return decoder->address == NULL
               ? null_argument("the address")
               : decode_lone(image, size, decoder->atom, &decoder->lone);
}

int
zp__decode_begin(zp__decoder **ret, const void *image, size_t size,
                 const char *format, va_list ap)
{
    int rc;
    if (!format)
        return null_argument("the format");
    zp__decoder *decoder = calloc(1, sizeof(*decoder));
    if (!decoder)
        return zp__fail_errno(ENOMEM, "a value");
    if (is_lone(format)) {
        decoder->atom = format[0];
        decoder->address = va_arg(ap, void *);
        rc = prepare_lone(decoder, image, size);
    } else
        rc = load_map(&decoder->map, &decoder->spares, image, size, format, ap);
    if (rc == 0)
        *ret = decoder;
    else
        free(decoder);
    return rc;
}

static size_t
lone_size(char atom)
{
    switch (atom) {
    case 'c':
        return 1;
    case 'j':
    case 'v':
        return 2;
    case 'i':
    case 'u':
        return 4;
    case 's':
        return sizeof(char *);
    case 'B':
        return sizeof(zp_bin);
    default:
        return 8;
    }
}

int
zp__decode_end(zp__decoder *decoder, bool write)
{
    int rc = 0;
    if (!decoder->atom)
        rc = unload_map(&decoder->map, &decoder->spares, write);
    else if (write)
        memcpy(decoder->address, &decoder->lone, lone_size(decoder->atom));
    else if (decoder->atom == 's')
        free(decoder->lone.string);
    else if (decoder->atom == 'B')
        free(decoder->lone.bin.addr);
    free(decoder);
    return rc;
}
