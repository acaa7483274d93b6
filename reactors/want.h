/*
 * want.h - what a reaction is asked for: keys, condition, options. The same for
 * callbacks, iterators and waits.
 */
#ifndef ZP_REACTORS_WANT_H
#define ZP_REACTORS_WANT_H

#include "core/value.h"
#include "reactors/condition.h"

/* All but an encoded value is borrowed. Not to be moved: it points into
 * itself. */
typedef struct zp__want {
    const char *const *keys;
    size_t n_keys;
    const char *key; /* the condition's, the only one */
    zp__condition condition;
    zp__encoded encoded; /* the condition's value, of zp__want_format() */
    bool has_encoded;
    zp_watch_options options; /* taken */
} zp__want;

/* Begin one. On an error, too, zp__want_free() must follow. Errors: -EINVAL,
 * those of zp_value_new(). */
int zp__want_change(zp__want *want, const char *const *keys, size_t n_keys);
int zp__want_predicate(zp__want *want, const char *const *keys, size_t n_keys,
                       zp_predicate_fn *predicate, void *user);
int zp__want_key(zp__want *want, const char *key, enum zp__condition_kind kind);
int zp__want_value(zp__want *want, const char *key,
                   enum zp__condition_kind kind, const zp_value *value);
int zp__want_format(zp__want *want, const char *key,
                    enum zp__condition_kind kind, const char *format,
                    va_list ap);
void zp__want_free(zp__want *want);

/* Take GIVEN, of whatever version (NULL: the defaults), checked. */
int zp__want_options(zp__want *want, const zp_watch_options *given);

#endif
