/*
 * walk.c - the header of an image, and the walk through its data.
 *
 *     | t p l | flags | size u32 | format NUL | u32 per # | data ... |
 *
 *     number   as it is in memory        string   u32 length + 1, the bytes;
 *     bytes    u32 length, the bytes              0: NULL
 *     A(...)   u32 count, the elements   S(...)#  the structures in a row
 *
 * No step goes further than its bytes, and each takes at least one (only the
 * ends of arrays and structures take none, and each belongs to an element that
 * took some or to an array that took four), so a walk is linear in the size of
 * the image and ends. The count of an array is compared with the bytes that
 * are left before its first element: no format has elements of zero bytes.
 *
 * The flags must be those that tpl writes here: another byte order, or strings
 * in the form of tpl 1.2, would make equal values of unequal bytes.
 */
#include "core/walk.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"

#define FORMAT_AT 8 /* offset of the format */

static int
bad(const zp__walk *walk, const char *what)
{
    return zp__fail(ZP_EVALUE, "not a valid image: %s at byte %zu of %zu", what,
                    (size_t)(walk->at - walk->start),
                    (size_t)(walk->end - walk->start));
}

static size_t
bytes_left(const zp__walk *walk)
{
    return (size_t)(walk->end - walk->at);
}

void
zp__walk_begin(zp__walk *walk, const zp__plan *plan, int op, int stop,
               const unsigned char *start, const unsigned char *at,
               const unsigned char *end)
{
    walk->plan = plan;
    walk->start = start;
    walk->at = at;
    walk->end = end;
    walk->op = op;
    walk->stop = stop;
    walk->strings = 0;
    walk->depth = 0;
}

/* ------------------------------------------------------------- items -- */

static int
take_u32(zp__walk *walk, uint32_t *ret, const char *what)
{
    if (bytes_left(walk) < 4)
        return bad(walk, what);
    memcpy(ret, walk->at, 4);
    return 0;
}

static int
take_numbers(zp__walk *walk, const zp__op *op, zp__item *ret)
{
    uint64_t size = (uint64_t)op->count * op->width;
    if (size > bytes_left(walk))
        return bad(walk, "numbers are cut off");
    ret->kind = ZP__NUMBERS;
    ret->data = walk->at;
    ret->size = (uint32_t)size;
    ret->count = op->count;
    walk->at += size;
    walk->op++;
    return ZP__NUMBERS;
}

static int
take_string(zp__walk *walk, const zp__op *op, zp__item *ret)
{
    uint32_t length = 0;
    if (walk->strings == 0)
        walk->strings = op->count;
    int rc = take_u32(walk, &length, "the length of a string is cut off");
    if (rc < 0)
        return rc;
    ret->size = length ? length - 1 : 0;
    if (ret->size > bytes_left(walk) - 4)
        return bad(walk, "a string is longer than the image");
    if (memchr(walk->at + 4, 0, ret->size))
        return bad(walk, "a string with a NUL inside");
    ret->kind = ZP__STRING;
    ret->data = length ? walk->at + 4 : NULL;
    walk->at += 4 + (size_t)ret->size;
    ret->count = --walk->strings;
    if (walk->strings == 0)
        walk->op++;
    return ZP__STRING;
}

static int
take_bytes(zp__walk *walk, zp__item *ret)
{
    int rc = take_u32(walk, &ret->size, "the length of bytes is cut off");
    if (rc < 0)
        return rc;
    if (ret->size > bytes_left(walk) - 4)
        return bad(walk, "bytes are longer than the image");
    ret->kind = ZP__BYTES;
    ret->data = walk->at + 4;
    ret->count = 0;
    walk->at += 4 + (size_t)ret->size;
    walk->op++;
    return ZP__BYTES;
}

static int
open_loop(zp__walk *walk, const zp__op *op, zp__item *ret)
{
    uint32_t count = op->count;
    if (op->type == 'A') {
        int rc = take_u32(walk, &count, "the count of an array is cut off");
        if (rc < 0)
            return rc;
        if ((uint64_t)count * op->least > bytes_left(walk) - 4)
            return bad(walk, "an array has more elements than bytes");
        walk->at += 4;
    }
    walk->open[walk->depth].op = walk->op;
    walk->open[walk->depth++].left = count;
    walk->op = op->other;
    ret->kind = ZP__OPEN;
    ret->data = walk->at;
    ret->size = 0;
    ret->count = count;
    return ZP__OPEN;
}

/* At the end step of the innermost A or S: once more, or out. */
static int
loop(zp__walk *walk, zp__item *ret)
{
    int begin = walk->open[walk->depth - 1].op;
    ret->op = &walk->plan->op[begin];
    ret->data = walk->at;
    ret->size = 0;
    ret->count = walk->open[walk->depth - 1].left;
    if (ret->count == 0) {
        walk->depth--;
        walk->op++;
        return ret->kind = ZP__CLOSE;
    }
    walk->open[walk->depth - 1].left--;
    walk->op = begin + 1;
    return ret->kind = ZP__NEXT;
}

int
zp__walk_next(zp__walk *walk, zp__item *ret)
{
    if (walk->op == walk->stop && walk->depth == 0)
        return ret->kind = ZP__DONE;
    const zp__op *op = ret->op = &walk->plan->op[walk->op];
    switch (op->type) {
    case 's':
        return take_string(walk, op, ret);
    case 'B':
        return take_bytes(walk, ret);
    case 'A':
    case 'S':
        return open_loop(walk, op, ret);
    case ')':
        return loop(walk, ret);
    default:
        return take_numbers(walk, op, ret);
    }
}

int
zp__walk_skip(zp__walk *walk, const zp__item *item)
{
    uint64_t size = (uint64_t)item->count * item->op->least;
    if (size > bytes_left(walk))
        return bad(walk, "numbers are cut off");
    walk->at += size;
    walk->op = item->op->other + 1;
    walk->depth--;
    return 0;
}

/* ------------------------------------------------------------ header -- */

/* The flag byte that tpl writes on this machine. */
static unsigned char
flags_for(const char *format)
{
    unsigned char flags = 0;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    flags |= 1;
#endif
    if (strchr(format, 's'))
        flags |= 2;
    return flags;
}

static int
check_fixed(zp__walk *walk, size_t size)
{
    uint32_t inner;
    if (size > ZP__IMAGE_MAX)
        return zp__fail(-EMSGSIZE, "an image of %zu bytes: at most %zu", size,
                        ZP__IMAGE_MAX);
    if (size < FORMAT_AT + 1)
        return bad(walk, "its beginning is cut off");
    if (memcmp(walk->start, "tpl", 3) != 0)
        return bad(walk, "it does not begin with tpl");
    walk->at = walk->start + 4;
    memcpy(&inner, walk->at, 4);
    if (inner != size)
        return bad(walk, "its size is another than it says");
    return 0;
}

static int
check_format(zp__walk *walk, zp__plan *ret_plan)
{
    const char *format = (const char *)walk->start + FORMAT_AT;
    walk->at = walk->start + FORMAT_AT;
    const unsigned char *nul = memchr(walk->at, 0, bytes_left(walk));
    if (!nul)
        return bad(walk, "the format has no end");
    size_t length = (size_t)(nul - walk->at), pounds = 0;
    for (const char *c = format; *c; c++)
        pounds += *c == '#';
    /* More # than bytes is cut off; the plan refuses long formats. */
    walk->at = nul + 1;
    if (pounds > bytes_left(walk) / 4)
        return bad(walk, "fixed lengths are cut off");
    int rc = zp__plan_make(ret_plan, format, length, walk->at);
    if (rc < 0) {
        zp__plan_fail(ZP_EVALUE, ret_plan, format, length);
        return zp__fail(ZP_EVALUE, "not a valid image: %s, at byte %d",
                        zp__fail_text(), FORMAT_AT + ret_plan->where);
    }
    walk->at += 4 * pounds;
    return 0;
}

static int
check_flags(zp__walk *walk)
{
    const char *format = (const char *)walk->start + FORMAT_AT;
    const unsigned char *data = walk->at;
    walk->at = walk->start + 3;
    if (*walk->at != flags_for(format))
        return bad(walk, "flags of another machine or version");
    walk->at = data;
    return 0;
}

int
zp__walk_image(zp__walk *walk, zp__plan *ret_plan, const void *image,
               size_t size)
{
    const unsigned char *start = image;
    zp__walk_begin(walk, ret_plan, 0, 0, start, start, start + size);
    int rc = check_fixed(walk, size);
    if (rc == 0)
        rc = check_format(walk, ret_plan);
    if (rc == 0)
        rc = check_flags(walk);
    if (rc == 0)
        walk->stop = ret_plan->ops;
    return rc;
}
