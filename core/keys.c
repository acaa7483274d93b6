/*
 * keys.c - single keys: set, get, delete and their kin. One call is one atomic
 * operation; values are encoded before the lock is taken, and copied out
 * before it is given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/state.h"

/* ---- set ---- */

/* Each encoding zp_set_x() ends here: RC is that of the encoding. */
static int
set_encoded(zp_state *state, const char *key, zp__encoded *encoded, int rc)
{
    if (rc != 0)
        return zp__state_done(state, zp__about_key(key, rc));
    rc = zp__write_image(state, key, encoded->image, encoded->size);
    zp__encoded_free(encoded);
    return zp__state_done(state, rc);
}

/* A plain image, made in a buffer of the caller's. */
static int
set_plain(zp_state *state, const char *key, const void *image, size_t size)
{
    int rc = zp__state_enter(state, key, true);

    if (rc == 0 && key == NULL)
        rc = zp__key_check(key);
    if (rc == 0)
        rc = zp__write_image(state, key, image, size);
    return zp__state_done(state, rc);
}

static int
enter_key(const zp_state *state, const char *key, bool write)
{
    int rc = zp__state_enter(state, key, write);
    return rc == 0 && key == NULL ? zp__key_check(key) : rc;
}

int
zp_set(zp_state *state, const char *key, const char *format, ...)
{
    zp__encoded encoded;
    va_list ap;
    int rc = enter_key(state, key, true);

    if (rc != 0)
        return zp__state_done(state, rc);
    va_start(ap, format);
    rc = zp__encode(&encoded, format, ap);
    va_end(ap);
    return set_encoded(state, key, &encoded, rc);
}

int
zp_set_int(zp_state *state, const char *key, int64_t value)
{
    unsigned char image[ZP__PLAIN_MAX];
    return set_plain(state, key, image, zp__image_int(image, value));
}

int
zp_set_double(zp_state *state, const char *key, double value)
{
    unsigned char image[ZP__PLAIN_MAX];
    return set_plain(state, key, image, zp__image_double(image, value));
}

int
zp_set_bool(zp_state *state, const char *key, int value)
{
    unsigned char image[ZP__PLAIN_MAX];
    return set_plain(state, key, image, zp__image_bool(image, value != 0));
}

int
zp_set_none(zp_state *state, const char *key)
{
    unsigned char image[ZP__PLAIN_MAX];
    return set_plain(state, key, image, zp__image_none(image));
}

int
zp_set_string(zp_state *state, const char *key, const char *value)
{
    zp__encoded encoded;
    int rc = enter_key(state, key, true);

    if (rc != 0)
        return zp__state_done(state, rc);
    return set_encoded(state, key, &encoded,
                       zp__encode_string(&encoded, value));
}

int
zp_set_bytes(zp_state *state, const char *key, const void *data, size_t size)
{
    zp__encoded encoded;
    int rc = enter_key(state, key, true);

    if (rc != 0)
        return zp__state_done(state, rc);
    return set_encoded(state, key, &encoded,
                       zp__encode_bytes(&encoded, data, size));
}

int
zp_set_value(zp_state *state, const char *key, const zp_value *value)
{
    size_t size = 0;
    const void *image = value == NULL ? NULL : zp_value_image(value, &size);
    int rc = enter_key(state, key, true);

    if (rc == 0 && value == NULL)
        rc = zp__fail(-EINVAL, "the value for '%s' is NULL", key);
    if (rc == 0)
        rc = zp__write_image(state, key, image, size);
    return zp__state_done(state, rc);
}

/* ---- get ---- */

/* Begin a read and find KEY, perhaps without an image; on success
 * zp__read_end() must follow. */
static int
find_key(zp_state *state, const char *key, zp__item *item)
{
    int rc = zp__read_begin(state);

    if (rc != 0)
        return rc;
    rc = zp__read_get(state, key, item);
    if (rc != 0)
        zp__read_end(state);
    return rc;
}

/* The same with an image, to be written to RET. */
static int
find(zp_state *state, const char *key, const void *ret, zp__item *item)
{
    int rc = enter_key(state, key, false);

    if (rc == 0 && ret == NULL)
        rc = zp__fail(-EINVAL, "the place for '%s' is NULL", key);
    if (rc == 0)
        rc = find_key(state, key, item);
    if (rc != 0)
        return rc;
    rc = zp__need_image(key, item);
    if (rc != 0)
        zp__read_end(state);
    return rc;
}

/* End a read that has decoded with RC. */
static int
end_get(zp_state *state, const char *key, int rc)
{
    zp__read_end(state);
    return rc < 0 ? zp__state_done(state, zp__about_key(key, rc)) : rc;
}

/* What another process wrote is checked before tpl sees it; the plain getters
 * check what they need themselves. */
static int
decode(const zp__item *item, const char *format, va_list ap)
{
    if (zp__image_type(item->image, item->size) == ZP_COMPOSITE) {
        int rc = zp__image_check(item->image, item->size);
        if (rc != 0)
            return rc;
    }
    return zp__decode(item->image, item->size, format, ap);
}

int
zp_get(zp_state *state, const char *key, const char *format, ...)
{
    zp__item item;
    va_list ap;
    int rc = find(state, key, format, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    va_start(ap, format);
    rc = decode(&item, format, ap);
    va_end(ap);
    return end_get(state, key, rc);
}

int
zp_get_or(zp_state *state, const char *key, const char *format, ...)
{
    zp__item item;
    va_list ap;
    int rc = find(state, key, format, &item);

    if (rc != 0)
        return rc == ZP_ENOKEY ? 0 : zp__state_done(state, rc);
    va_start(ap, format);
    rc = decode(&item, format, ap);
    va_end(ap);
    rc = end_get(state, key, rc);
    return rc == 0 ? 1 : rc;
}

int
zp_get_int(zp_state *state, const char *key, int64_t *ret_value)
{
    zp__item item;
    int rc = find(state, key, ret_value, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    return end_get(state, key,
                   zp__image_get_int(item.image, item.size, ret_value));
}

int
zp_get_double(zp_state *state, const char *key, double *ret_value)
{
    zp__item item;
    int rc = find(state, key, ret_value, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    return end_get(state, key,
                   zp__image_get_double(item.image, item.size, ret_value));
}

int
zp_get_bool(zp_state *state, const char *key, int *ret_value)
{
    zp__item item;
    bool value;
    int rc = find(state, key, ret_value, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    rc = zp__image_get_bool(item.image, item.size, &value);
    if (rc == 0)
        *ret_value = value;
    return end_get(state, key, rc);
}

int
zp_get_string(zp_state *state, const char *key, char **ret_value)
{
    zp__item item;
    int rc = find(state, key, ret_value, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    return end_get(state, key,
                   zp__decode_string(item.image, item.size, ret_value));
}

int
zp_get_bytes(zp_state *state, const char *key, void **ret_data,
             size_t *ret_size)
{
    zp__item item;
    int rc = find(state, key, ret_size == NULL ? NULL : ret_data, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    return end_get(state, key,
                   zp__decode_bytes(item.image, item.size, ret_data, ret_size));
}

int
zp_get_value(zp_state *state, const char *key, zp_value **ret_value)
{
    zp__item item;
    int rc = find(state, key, ret_value, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    rc = zp__image_check(item.image, item.size);
    if (rc == 0)
        rc = zp__value_copy(ret_value, item.image, item.size);
    return end_get(state, key, rc);
}

int
zp_type(zp_state *state, const char *key)
{
    zp__item item;
    int rc = find(state, key, state, &item);

    if (rc != 0)
        return zp__state_done(state, rc);
    return end_get(state, key, zp__image_type(item.image, item.size));
}

int
zp_contains(zp_state *state, const char *key)
{
    zp__item item;
    int rc = enter_key(state, key, false);

    if (rc == 0)
        rc = find_key(state, key, &item);
    if (rc == ZP_ENOKEY)
        return 0;
    if (rc != 0)
        return zp__state_done(state, rc);
    return end_get(state, key, 1);
}

/* ---- delete, pop, setdefault ---- */

int
zp_delete(zp_state *state, const char *key)
{
    zp__txn *txn;
    int rc = enter_key(state, key, true);

    if (rc == 0)
        rc = zp__write_begin(state, &txn, 0, true);
    if (rc != 0)
        return zp__state_done(state, rc);
    rc = zp__txn_delete(txn, state->ns, key);
    if (rc == ZP_ENOKEY)
        zp__no_key(state, key);
    return zp__state_done(state, zp__write_end(state, txn, rc));
}

/* A value on its way out: all that can fail is done before it is deleted. */
typedef struct taking {
    zp_value *value; /* a copy: the original is gone before it is written */
    zp__decoder *decoder;
} taking;

static void
end_taking(taking *taken, bool write)
{
    if (taken->decoder != NULL)
        zp__decode_end(taken->decoder, write);
    zp_value_free(taken->value);
}

/* Copy KEY's value, get ready to write it to the addresses, and delete it. */
static int
take(zp_state *state, zp__txn *txn, const char *key, const char *format,
     va_list ap, taking *ret)
{
    zp__item item;
    size_t size;
    int rc = zp__txn_get(txn, state->ns, key, &item);

    if (rc == 0)
        rc = zp__image_check(item.image, item.size);
    if (rc == 0)
        rc = zp__value_copy(&ret->value, item.image, item.size);
    if (rc != 0)
        return rc;
    const void *image = zp_value_image(ret->value, &size);
    rc = zp__decode_begin(&ret->decoder, image, size, format, ap);
    if (rc != 0)
        return zp__about_key(key, rc);
    return zp__txn_delete(txn, state->ns, key);
}

static int
pop(zp_state *state, const char *key, const char *format, va_list ap)
{
    taking taken = {NULL, NULL};
    zp__txn *txn;
    int rc = enter_key(state, key, true);

    if (rc == 0)
        rc = zp__write_begin_many(state, &txn, 0, true);
    if (rc != 0)
        return rc;
    rc = take(state, txn, key, format, ap, &taken);
    rc = zp__write_end_many(state, txn, rc);
    end_taking(&taken, rc == 0);
    return rc;
}

int
zp_pop(zp_state *state, const char *key, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    int rc = pop(state, key, format, ap);
    va_end(ap);
    if (rc == ZP_ENOKEY)
        zp__no_key(state, key);
    return zp__state_done(state, rc);
}

int
zp_pop_or(zp_state *state, const char *key, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    int rc = pop(state, key, format, ap);
    va_end(ap);
    if (rc == ZP_ENOKEY)
        return 0;
    return rc == 0 ? 1 : zp__state_done(state, rc);
}

/* In the transaction: 1 when it was set, 0 when *RET was found instead. */
static int
get_or_put(zp_state *state, zp__txn *txn, const char *key,
           const zp__encoded *encoded, zp_value **ret)
{
    zp__item item;
    int rc = zp__txn_get(txn, state->ns, key, &item);

    if (rc == ZP_ENOKEY) {
        rc = zp__txn_put(txn, state->ns, key, encoded->image, encoded->size);
        return rc == 0 ? 1 : rc;
    }
    if (rc == 0)
        rc = zp__image_check(item.image, item.size);
    return rc == 0 ? zp__value_copy(ret, item.image, item.size) : rc;
}

int
zp_setdefault(zp_state *state, const char *key, const char *format, ...)
{
    zp__encoded encoded;
    zp__txn *txn;
    zp_value *value = NULL;
    va_list ap;
    int rc = enter_key(state, key, true);

    if (rc != 0)
        return zp__state_done(state, rc);
    va_start(ap, format);
    rc = zp__encode(&encoded, format, ap);
    va_end(ap);
    if (rc != 0)
        return zp__state_done(state, zp__about_key(key, rc));
    rc = zp__write_begin(state, &txn, encoded.size, false);
    if (rc == 0) {
        rc = get_or_put(state, txn, key, &encoded, &value);
        rc = zp__write_end(state, txn, rc);
    }
    zp__encoded_free(&encoded);
    if (rc == 0 && value != NULL) {
        size_t size;
        const void *image = zp_value_image(value, &size);
        va_start(ap, format);
        rc = zp__decode(image, size, format, ap);
        va_end(ap);
        if (rc != 0)
            zp__about_key(key, rc);
    }
    zp_value_free(value);
    return zp__state_done(state, rc);
}
