/*
 * want.c - what is asked for, gathered from the arguments of the public
 * functions, and checked.
 */
#include "reactors/want.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define ALL_FLAGS                                                              \
    (ZP_LIVE | ZP_OWN | ZP_SAME | ZP_EXCLUDE | ZP_SINCE | ZP_OLDEST |          \
     ZP_SINCE_TIME | ZP_HOLD)
#define STARTS (ZP_SINCE | ZP_OLDEST | ZP_SINCE_TIME)
#define SIZE_MOST 4096 /* bytes of a struct that anybody could mean */
#define TIME_MAX 9e9   /* seconds since 1970 that 64 bits of nanoseconds hold */

int
zp__want_change(zp__want *want, const char *const *keys, size_t n_keys)
{
    memset(want, 0, sizeof *want);
    want->keys = keys;
    want->n_keys = n_keys;
    return 0; /* the keys are checked with the tap that they are for */
}

int
zp__want_predicate(zp__want *want, const char *const *keys, size_t n_keys,
                   zp_predicate_fn *predicate, void *user)
{
    zp__want_change(want, keys, n_keys);
    want->condition.kind = ZP__WHEN;
    want->condition.predicate = predicate;
    want->condition.user = user;
    return predicate ? 0 : zp__fail(-EINVAL, "the predicate is NULL");
}

int
zp__want_key(zp__want *want, const char *key, enum zp__condition_kind kind)
{
    zp__want_change(want, &want->key, 1);
    want->key = key;
    want->condition.kind = kind;
    want->condition.key = key;
    return zp__key_check(key);
}

int
zp__want_value(zp__want *want, const char *key, enum zp__condition_kind kind,
               const zp_value *value)
{
    int rc = zp__want_key(want, key, kind);

    if (rc == 0 && !value)
        rc = zp__fail(-EINVAL, "the value is NULL");
    if (rc == 0)
        want->condition.image = zp_value_image(value, &want->condition.size);
    return rc;
}

int
zp__want_format(zp__want *want, const char *key, enum zp__condition_kind kind,
                const char *format, va_list ap)
{
    int rc = zp__want_key(want, key, kind);

    if (rc == 0)
        rc = zp__encode(&want->encoded, format, ap);
    if (rc < 0)
        return rc;
    want->has_encoded = true;
    want->condition.image = want->encoded.image;
    want->condition.size = want->encoded.size;
    return 0;
}

void
zp__want_free(zp__want *want)
{
    if (want->has_encoded)
        zp__encoded_free(&want->encoded);
    want->has_encoded = false;
}

/* ------------------------------------------------------------- options -- */

static int
check_options(const zp__want *want)
{
    const zp_watch_options *options = &want->options;
    unsigned starts = options->flags & STARTS;

    if (options->flags & ~(unsigned)ALL_FLAGS)
        return zp__fail(-EINVAL, "unknown watch flags 0x%x",
                        options->flags & ~(unsigned)ALL_FLAGS);
    if (starts & (starts - 1))
        return zp__fail(-EINVAL, "more than one of ZP_SINCE, ZP_OLDEST and "
                                 "ZP_SINCE_TIME");
    if ((starts & ZP_SINCE_TIME) && !(fabs(options->since_time) <= TIME_MAX))
        return zp__fail(-EINVAL, "since_time is %g", options->since_time);
    if (!(options->timeout >= 0))
        return zp__fail(-EINVAL, "the watch's timeout is %g", options->timeout);
    if (want->key && (options->flags & ZP_EXCLUDE))
        return zp__fail(-EINVAL, "ZP_EXCLUDE with a condition of one key");
    return 0;
}

int
zp__want_options(zp__want *want, const zp_watch_options *given)
{
    const unsigned char *bytes = (const unsigned char *)given;
    zp_watch_options *taken = &want->options;

    memset(taken, 0, sizeof *taken);
    if (!given)
        return 0;
    if (given->size < sizeof given->size || given->size > SIZE_MOST)
        return zp__fail(-EINVAL, "options.size is %zu", given->size);
    for (size_t i = sizeof *taken; i < given->size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL, "options of a later version are set");
    memcpy(taken, given,
           given->size < sizeof *taken ? given->size : sizeof *taken);
    return check_options(want);
}
