/*
 * append.c - one element more: strings, bytes, arrays.
 *
 * An image of format A(X) is a head, a count and the elements; the element's
 * image of format X has the same numbers behind the same #, so its data are
 * what belongs behind the last element, byte for byte. The one exception is a
 * lone number: it was made canonical ("I", "U", "f") when it was encoded, and
 * takes the width of the array's own letter here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/image.h"

#define HEAD 8 /* offset of the format */

struct part {
    const void *data;
    size_t size;
};

static int
mismatch(const void *image, size_t size, const void *element,
         size_t element_size)
{
    char what[160], more[160];
    return zp__fail(ZP_ETYPE, "%s is stored: %s cannot be appended",
                    zp__image_what(image, size, what, sizeof(what)),
                    zp__image_what(element, element_size, more, sizeof(more)));
}

/* A copy of IMAGE with MORE behind it; the new size in its head. */
static int
join(void **ret_image, size_t *ret_size, const void *image, size_t size,
     struct part more, size_t max)
{
    if (max > ZP__IMAGE_MAX)
        max = ZP__IMAGE_MAX;
    if (size > max || more.size > max - size)
        return zp__fail(-EMSGSIZE, "%zu bytes and %zu more: at most %zu bytes",
                        size, more.size, max);
    unsigned char *joined = malloc(size + more.size);
    if (!joined)
        return zp__fail_errno(ENOMEM, "a value");
    uint32_t whole = (uint32_t)(size + more.size);
    memcpy(joined, image, size);
    memcpy(joined + 4, &whole, 4);
    if (more.size)
        memcpy(joined + size, more.data, more.size);
    *ret_image = joined;
    *ret_size = whole;
    return 0;
}

/* Change the number at IMAGE + AT by BY. */
static void
add_u32(void *image, size_t at, uint32_t by)
{
    uint32_t n;
    memcpy(&n, (unsigned char *)image + at, 4);
    n += by;
    memcpy((unsigned char *)image + at, &n, 4);
}

static int
append_text(void **ret_image, size_t *ret_size, const void *image, size_t size,
            const void *element, size_t element_size, size_t max)
{
    size_t data = zp__image_data(image, size);
    struct part more = {(const unsigned char *)element + data + 4,
                        element_size - data - 4};
    int rc = join(ret_image, ret_size, image, size, more, max);
    if (rc == 0)
        add_u32(*ret_image, data, (uint32_t)more.size);
    return rc;
}

/* ------------------------------------------------------------- arrays -- */

/* IMAGE has a format A(X) with one X, a lone letter: which. Else 0. */
static char
array_letter(const void *image, size_t size)
{
    const char *format = zp__image_format(image, size);
    if (strncmp(format, "A(", 2) == 0 && format[2] && format[3] == ')' &&
        !format[4])
        return format[2];
    return 0;
}

static size_t
width(char c)
{
    return c == 'c' ? 1 : strchr("jv", c) ? 2 : strchr("iu", c) ? 4 : 8;
}

/* Is IMAGE an A(X) with ELEMENT an X, the numbers behind # included? */
static bool
is_array_of(const void *image, size_t size, const void *element,
            size_t element_size)
{
    const char *format = zp__image_format(image, size);
    const char *x = zp__image_format(element, element_size);
    size_t length = strlen(x);
    if (length == 0 || strlen(format) != length + 3 ||
        strncmp(format, "A(", 2) != 0 || memcmp(format + 2, x, length) != 0 ||
        format[length + 2] != ')')
        return false;
    const unsigned char *a = (const unsigned char *)image + HEAD + length + 4;
    const unsigned char *b = (const unsigned char *)element + HEAD + length + 1;
    size_t pounds = zp__image_data(element, element_size) - (HEAD + length + 1);
    return memcmp(a, b, pounds) == 0;
}

static int
append_element(void **ret_image, size_t *ret_size, const void *image,
               size_t size, const void *element, size_t element_size,
               size_t max)
{
    unsigned char number[8];
    struct part more = {number, 0};
    char c = array_letter(image, size);
    int type = zp__image_type(element, element_size), rc = 0;
    if (c && strchr("cjviuIU", c) && type == ZP_INT) {
        rc = zp__image_get_as(element, element_size, c, number);
        more.size = width(c);
    } else if (type != ZP_BOOL && type != ZP_INT &&
               is_array_of(image, size, element, element_size)) {
        size_t data = zp__image_data(element, element_size);
        more.data = (const unsigned char *)element + data;
        more.size = element_size - data;
    } else
        rc = mismatch(image, size, element, element_size);
    if (rc == 0)
        rc = join(ret_image, ret_size, image, size, more, max);
    if (rc == 0)
        add_u32(*ret_image, zp__image_data(image, size), 1);
    return rc;
}

int
zp__image_append(void **ret_image, size_t *ret_size, const void *image,
                 size_t size, const void *element, size_t element_size,
                 size_t max)
{
    int type = zp__image_type(image, size);
    if ((type == ZP_STRING || type == ZP_BYTES) &&
        type == zp__image_type(element, element_size))
        return append_text(ret_image, ret_size, image, size, element,
                           element_size, max);
    return append_element(ret_image, ret_size, image, size, element,
                          element_size, max);
}
