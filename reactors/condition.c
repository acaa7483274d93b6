/*
 * condition.c - is it true of this snapshot?
 *
 * Values are compared as images: equal values have equal bytes, so nothing is
 * decoded but what truth needs. Of a superseded value that was too large to be
 * kept the size is still known: that it was not empty, and not equal to what
 * has another size. More cannot be said, and then neither of equal and
 * not-equal holds.
 */
#include "reactors/condition.h"

#include <string.h>

#include "core/image.h"

/* Is FORMAT one array, A(...) and nothing else? */
static bool
is_array(const char *format)
{
    size_t open = 0, i;

    if (format[0] != 'A')
        return false;
    for (i = 1; format[i]; i++) {
        if (format[i] == '(')
            open++;
        if (format[i] == ')' && --open == 0)
            break;
    }
    return format[i] && !format[i + 1];
}

/* The data of an array begin with the number of its elements. */
static bool
is_empty_array(const void *image, size_t size)
{
    size_t data = zp__image_data(image, size);
    uint32_t n = 1;

    if (!is_array(zp__image_format(image, size)))
        return false;
    if (data + sizeof n <= size)
        memcpy(&n, (const char *)image + data, sizeof n);
    return n == 0;
}

static bool
is_zero(const void *image, size_t size)
{
    uint64_t number;

    return zp__image_get_uint(image, size, &number) == 0 && number == 0;
}

static bool
is_falsy(const zp__item *item)
{
    const void *image = item->image;
    size_t size = item->size, length;
    const char *text;
    const void *data;
    double number;
    bool truth;

    if (!image)
        return false; /* it was large */
    switch (zp__image_type(image, size)) {
    case ZP_NONE:
        return true;
    case ZP_BOOL:
        return zp__image_get_bool(image, size, &truth) == 0 && !truth;
    case ZP_INT:
        return is_zero(image, size);
    case ZP_DOUBLE:
        return zp__image_get_double(image, size, &number) == 0 && number == 0;
    case ZP_STRING:
        return zp__image_get_string(image, size, &text, &length) == 0 &&
               length == 0;
    case ZP_BYTES:
        return zp__image_get_bytes(image, size, &data, &length) == 0 &&
               length == 0;
    default:
        return is_empty_array(image, size);
    }
}

static bool
is_none(const zp__item *item)
{
    return item->image && zp__image_type(item->image, item->size) == ZP_NONE;
}

static bool
is_equal(const zp__condition *condition, const zp__item *item)
{
    return item->image && item->size == condition->size &&
           memcmp(item->image, condition->image, item->size) == 0;
}

static bool
differs(const zp__condition *condition, const zp__item *item)
{
    if (item->size != condition->size)
        return true;
    return item->image &&
           memcmp(item->image, condition->image, item->size) != 0;
}

static bool
holds(const zp__condition *condition, const zp__item *item)
{
    switch (condition->kind) {
    case ZP__EQUAL:
        return is_equal(condition, item);
    case ZP__NOT_EQUAL:
        return differs(condition, item);
    case ZP__IS_NONE:
        return is_none(item);
    case ZP__NOT_NONE:
        return !is_none(item);
    case ZP__TRUTHY:
        return !is_falsy(item);
    case ZP__FALSY:
        return is_falsy(item);
    default:
        return true;
    }
}

int
zp__condition_holds(const zp__condition *condition, zp_state *snapshot)
{
    zp__item item;
    int rc;

    if (condition->kind == ZP__ALWAYS)
        return 1;
    if (condition->kind == ZP__WHEN) {
        rc = condition->predicate(snapshot, condition->user);
        return rc > 0 ? 1 : rc;
    }
    rc = zp__read_begin(snapshot);
    if (rc < 0)
        return rc;
    rc = zp__view_get(snapshot->view, snapshot->ns, condition->key,
                      snapshot->revision, &item);
    if (rc == ZP_ENOKEY)
        return 0;
    return rc < 0 ? rc : holds(condition, &item);
}
