/*
 * zpvalue.c - zp_value: one image, owned.
 *
 * Whatever is in a zp_value has been made by us or has passed the strict check
 * and is canonical, so two are equal when their bytes are, and reading never
 * checks again.
 */
#include "core/zpvalue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

static int
null_value(void)
{
    return zp__fail(-EINVAL, "the value is NULL");
}

static int
null_return(void)
{
    return zp__fail(-EINVAL, "the place for the result is NULL");
}

static void
drop_image(zp_value *value)
{
    if (value->image != value->small)
        free(value->image);
}

/* Make room for SIZE bytes; what was there is lost, unless it fails. */
static int
make_room(zp_value *value, size_t size)
{
    if (size <= value->room)
        return 0;
    unsigned char *image = malloc(size);
    if (!image)
        return zp__fail_errno(ENOMEM, "a value");
    drop_image(value);
    value->image = image;
    value->room = size;
    return 0;
}

int
zp__value_make(zp_value **ret, size_t size)
{
    zp_value *value = malloc(sizeof(*value));
    if (!value)
        return zp__fail_errno(ENOMEM, "a value");
    value->image = value->small;
    value->size = 0;
    value->room = sizeof(value->small);
    int rc = make_room(value, size);
    if (rc < 0) {
        free(value);
        return rc;
    }
    *ret = value;
    return 0;
}

int
zp__value_copy(zp_value **ret, const void *image, size_t size)
{
    int rc = zp__value_make(ret, size);
    if (rc == 0) {
        memcpy((*ret)->image, image, size);
        (*ret)->size = size;
    }
    return rc;
}

int
zp__value_assign(zp_value *value, const void *image, size_t size)
{
    int rc = make_room(value, size);
    if (rc == 0) {
        memcpy(value->image, image, size);
        value->size = size;
    }
    return rc;
}

/* ------------------------------------------------------------ making -- */

int
zp_value_new(zp_value **ret_value, const char *format, ...)
{
    zp__encoded encoded;
    va_list ap;
    if (!ret_value)
        return null_return();
    va_start(ap, format);
    int rc = zp__encode(&encoded, format, ap);
    va_end(ap);
    if (rc < 0)
        return rc;
    rc = zp__value_copy(ret_value, encoded.image, encoded.size);
    zp__encoded_free(&encoded);
    return rc;
}

int
zp_value_new_bool(zp_value **ret_value, int value)
{
    unsigned char image[ZP__PLAIN_MAX];
    if (!ret_value)
        return null_return();
    return zp__value_copy(ret_value, image, zp__image_bool(image, value != 0));
}

int
zp_value_new_none(zp_value **ret_value)
{
    unsigned char image[ZP__PLAIN_MAX];
    if (!ret_value)
        return null_return();
    return zp__value_copy(ret_value, image, zp__image_none(image));
}

int
zp_value_new_image(zp_value **ret_value, const void *image, size_t size)
{
    if (!ret_value)
        return null_return();
    if (!image)
        return zp__fail(-EINVAL, "the image is NULL");
    int rc = zp__image_check(image, size);
    if (rc == 0)
        rc = zp__value_make(ret_value, size + 8);
    if (rc < 0)
        return rc;
    memcpy((*ret_value)->image, image, size);
    (*ret_value)->size = zp__image_canonical((*ret_value)->image, size);
    return 0;
}

zp_value *
zp_value_free(zp_value *value)
{
    if (value) {
        drop_image(value);
        free(value);
    }
    return NULL;
}

/* ----------------------------------------------------------- reading -- */

int
zp_value_get(const zp_value *value, const char *format, ...)
{
    va_list ap;
    if (!value)
        return null_value();
    va_start(ap, format);
    int rc = zp__decode(value->image, value->size, format, ap);
    va_end(ap);
    return rc;
}

int
zp_value_get_bool(const zp_value *value, int *ret_value)
{
    bool is;
    if (!value)
        return null_value();
    if (!ret_value)
        return null_return();
    int rc = zp__image_get_bool(value->image, value->size, &is);
    if (rc == 0)
        *ret_value = is;
    return rc;
}

int
zp_value_type(const zp_value *value)
{
    if (!value)
        return null_value();
    return zp__image_type(value->image, value->size);
}

const char *
zp_value_format(const zp_value *value)
{
    return value ? zp__image_format(value->image, value->size) : "";
}

const void *
zp_value_image(const zp_value *value, size_t *ret_size)
{
    if (ret_size)
        *ret_size = value ? value->size : 0;
    return value ? value->image : NULL;
}

int
zp_value_equal(const zp_value *a, const zp_value *b)
{
    return a && b && a->size == b->size &&
           memcmp(a->image, b->image, a->size) == 0;
}

int
zp_value_text(const zp_value *value, char *buffer, size_t size)
{
    if (!value)
        return null_value();
    if (!buffer && size > 0)
        return zp__fail(-EINVAL, "the buffer is NULL");
    return zp__image_text(value->image, value->size, buffer, size);
}
