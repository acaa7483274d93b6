/*
 * call_when.c - zp_call_when_change() and its family: callbacks and iterators.
 * (The calls that wait are get_when.c.)
 */
#include <errno.h>

#include "reactors/watch.h"

static int
check(const zp__want *want, zp_watch **ret_watch, zp_watch_fn *fn)
{
    if (!fn && !ret_watch)
        return zp__fail(-EINVAL, "neither a callback nor ret_watch: nobody "
                                 "would see the events");
    if (fn && (want->options.flags & ZP_HOLD))
        return zp__fail(-EINVAL, "ZP_HOLD is for what waits");
    if (want->options.cursor)
        return zp__fail(-EINVAL, "options.cursor is for zp_get_when...()");
    return 0;
}

/* What all of them do with what is wanted, which could be made if RC is 0. */
static int
call_when(int rc, zp_state *state, zp_watch **ret_watch, zp__want *want,
          const zp_watch_options *options, zp_watch_fn *fn, void *user)
{
    zp_watch *watch;

    if (rc == 0)
        rc = zp__may_watch(state);
    if (rc == 0)
        rc = zp__want_options(want, options);
    if (rc == 0)
        rc = check(want, ret_watch, fn);
    if (rc == 0)
        rc = zp__watch_new(&watch, state, want, want->condition.kind,
                           !ret_watch, fn, user);
    if (rc == 0 && ret_watch)
        *ret_watch = watch;
    zp__want_free(want);
    return zp__state_done(state, rc);
}

int
zp_call_when_change(zp_state *state, zp_watch **ret_watch,
                    const char *const *keys, size_t n_keys,
                    const zp_watch_options *options, zp_watch_fn *fn,
                    void *user)
{
    zp__want want;
    int rc = zp__want_change(&want, keys, n_keys);

    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

int
zp_call_when(zp_state *state, zp_watch **ret_watch, const char *const *keys,
             size_t n_keys, const zp_watch_options *options,
             zp_predicate_fn *predicate, zp_watch_fn *fn, void *user)
{
    zp__want want;
    int rc = zp__want_predicate(&want, keys, n_keys, predicate, user);

    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

int
zp_call_when_equal(zp_state *state, zp_watch **ret_watch, const char *key,
                   const zp_watch_options *options, zp_watch_fn *fn, void *user,
                   const char *format, ...)
{
    zp__want want;
    va_list ap;
    int rc;

    va_start(ap, format);
    rc = zp__want_format(&want, key, ZP__EQUAL, format, ap);
    va_end(ap);
    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

int
zp_call_when_not_equal(zp_state *state, zp_watch **ret_watch, const char *key,
                       const zp_watch_options *options, zp_watch_fn *fn,
                       void *user, const char *format, ...)
{
    zp__want want;
    va_list ap;
    int rc;

    va_start(ap, format);
    rc = zp__want_format(&want, key, ZP__NOT_EQUAL, format, ap);
    va_end(ap);
    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

int
zp_call_when_equal_value(zp_state *state, zp_watch **ret_watch, const char *key,
                         const zp_value *value, const zp_watch_options *options,
                         zp_watch_fn *fn, void *user)
{
    zp__want want;
    int rc = zp__want_value(&want, key, ZP__EQUAL, value);

    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

int
zp_call_when_not_equal_value(zp_state *state, zp_watch **ret_watch,
                             const char *key, const zp_value *value,
                             const zp_watch_options *options, zp_watch_fn *fn,
                             void *user)
{
    zp__want want;
    int rc = zp__want_value(&want, key, ZP__NOT_EQUAL, value);

    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

/* The conditions that take a key and nothing else. */
static int
call_when_key(zp_state *state, zp_watch **ret_watch, const char *key,
              const zp_watch_options *options, zp_watch_fn *fn, void *user,
              enum zp__condition_kind kind)
{
    zp__want want;
    int rc = zp__want_key(&want, key, kind);

    return call_when(rc, state, ret_watch, &want, options, fn, user);
}

int
zp_call_when_none(zp_state *state, zp_watch **ret_watch, const char *key,
                  const zp_watch_options *options, zp_watch_fn *fn, void *user)
{
    return call_when_key(state, ret_watch, key, options, fn, user, ZP__IS_NONE);
}

int
zp_call_when_not_none(zp_state *state, zp_watch **ret_watch, const char *key,
                      const zp_watch_options *options, zp_watch_fn *fn,
                      void *user)
{
    return call_when_key(state, ret_watch, key, options, fn, user,
                         ZP__NOT_NONE);
}

int
zp_call_when_truthy(zp_state *state, zp_watch **ret_watch, const char *key,
                    const zp_watch_options *options, zp_watch_fn *fn,
                    void *user)
{
    return call_when_key(state, ret_watch, key, options, fn, user, ZP__TRUTHY);
}

int
zp_call_when_falsy(zp_state *state, zp_watch **ret_watch, const char *key,
                   const zp_watch_options *options, zp_watch_fn *fn, void *user)
{
    return call_when_key(state, ret_watch, key, options, fn, user, ZP__FALSY);
}

int
zp_call_when_available(zp_state *state, zp_watch **ret_watch, const char *key,
                       const zp_watch_options *options, zp_watch_fn *fn,
                       void *user)
{
    return call_when_key(state, ret_watch, key, options, fn, user,
                         ZP__AVAILABLE);
}
