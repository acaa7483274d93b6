/*
 * shape.c - the arguments behind a format, looked at before tpl takes them.
 *
 * tpl takes one address for each atom and B outside of structures, one for
 * each S(), and an int for each #, in the order in which they stand; it trusts
 * all of them. Here the same list is walked once on a copy: a NULL, or a
 * number that makes tpl's own arithmetic overflow, ends here.
 */
#include "core/shape.h"

#include <errno.h>
#include <string.h>

#include "core/error.h"

/* Where in the format the walk is. */
struct place {
    char kind[ZP__NEST_MAX + 1]; /* of each open parenthesis */
    int array[ZP__NEST_MAX + 1]; /* the A() around it */
    int depth;
    int arrays;  /* A() so far */
    int address; /* addresses so far */
    int pounds;
    char next; /* the letter before the parenthesis */
};

/* The format is valid: parentheses match. */
static void
follow(struct place *place, char c)
{
    if (c == '(') {
        int array = place->array[place->depth];
        place->depth++;
        place->kind[place->depth] = place->next;
        place->array[place->depth] =
            place->next == 'A' ? ++place->arrays : array;
    } else if (c == ')')
        place->depth--;
    place->next = c;
}

static bool
in_structure(const struct place *place)
{
    char kind = place->kind[place->depth];
    return kind == 'S' || kind == '$';
}

static bool
takes_address(const struct place *place, char c)
{
    if (c == 'S' || c == 'B')
        return true;
    return strchr("cjviuIUfs", c) && !in_structure(place);
}

int
zp__shape_bin(const zp_bin *bin, int array, void *user)
{
    (void)array;
    (void)user;
    if (bin->sz > 0 && !bin->addr)
        return zp__fail(-EINVAL, "%lu bytes at NULL", (unsigned long)bin->sz);
    return 0;
}

static int
take_arguments(zp__shape *shape, va_list ap, zp__bin_fn *each, void *user)
{
    struct place place = {.depth = 0};
    int rc = 0;
    for (const char *c = shape->format; *c && rc == 0; c++) {
        if (takes_address(&place, *c)) {
            const void *address = va_arg(ap, void *);
            place.address++;
            if (!address)
                return zp__fail(-EINVAL,
                                "address %d behind the format %.100s is NULL",
                                place.address, shape->format);
            if (*c == 'B' && each)
                rc = each(address, place.array[place.depth], user);
        } else if (*c == '#')
            shape->counts[place.pounds++] = va_arg(ap, int);
        follow(&place, *c);
    }
    return rc;
}

static int
check_plan(const zp__shape *shape, size_t length)
{
    if (length == 0)
        return zp__fail(ZP_EFORMAT, "the format is empty");
    if (shape->plan.misread >= 0)
        return zp__fail(ZP_EFORMAT,
                        "format %.100s: tpl misses the padding of the $() "
                        "before character %d",
                        shape->format, shape->plan.misread + 1);
    return 0;
}

int
zp__shape_make(zp__shape *ret, const char *format, va_list ap, zp__bin_fn *each,
               void *user)
{
    if (!format)
        return zp__fail(-EINVAL, "the format is NULL");
    size_t length = strnlen(format, ZP__FORMAT_MAX + 1);
    ret->format = format;
    int rc = zp__plan_make(&ret->plan, format, length, NULL);
    if (rc == 0) {
        va_list copy;
        va_copy(copy, ap);
        rc = take_arguments(ret, copy, each, user);
        va_end(copy);
        if (rc < 0)
            return rc;
        if (ret->plan.pounds)
            rc = zp__plan_make(&ret->plan, format, length, ret->counts);
    }
    if (rc < 0)
        return zp__plan_fail(rc, &ret->plan, format, length);
    return check_plan(ret, length);
}

int
zp__format_match(const char *format, const void *counts, const void *image,
                 size_t size)
{
    char stored[160], asked[160];
    const char *other = zp__image_format(image, size);
    size_t data = zp__image_data(image, size);
    size_t length = strlen(other) + 1;
    const unsigned char *numbers = (const unsigned char *)other + length;
    size_t numbers_size =
        data - (size_t)(numbers - (const unsigned char *)image);
    if (strcmp(format, other) == 0 &&
        memcmp(counts, numbers, numbers_size) == 0)
        return 0;
    return zp__fail(ZP_ETYPE, "%s is stored, %s was asked",
                    zp__image_what(image, size, stored, sizeof(stored)),
                    zp__format_text(format, counts, asked, sizeof(asked)));
}

int
zp__shape_match(const zp__shape *shape, const void *image, size_t size)
{
    return zp__format_match(shape->format, shape->counts, image, size);
}
