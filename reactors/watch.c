/*
 * watch.c - zp_call_when_change() and what one does with a watch. A watch is a
 * tap with a count and the application's function.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/feed.h"

#define ALL_FLAGS                                                              \
    (ZP_LIVE | ZP_OWN | ZP_SAME | ZP_EXCLUDE | ZP_SINCE | ZP_OLDEST)

struct zp_watch {
    zp__tap tap; /* first */
    uint64_t token;
    uint64_t left; /* events until it ends; 0: it does not */
    zp_watch_fn *fn;
    void *user;
};

static int
call(zp__tap *tap, const zp_event *event)
{
    zp_watch *watch = (zp_watch *)tap;

    if (watch->left && --watch->left == 0)
        zp__tap_end(tap); /* this is the last one */
    return watch->fn(watch, event, watch->user);
}

static void
release(zp__tap *tap)
{
    free(tap);
}

/* Copy GIVEN, of whatever version, to RET. */
static int
take_options(zp_watch_options *ret, const zp_watch_options *given)
{
    const unsigned char *bytes = (const unsigned char *)given;

    memset(ret, 0, sizeof *ret);
    if (!given)
        return 0;
    if (given->size < sizeof given->size)
        return zp__fail(-EINVAL, "options.size is not set");
    for (size_t i = sizeof *ret; i < given->size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL, "options of a later version are set");
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    if (ret->flags & ~(unsigned)ALL_FLAGS)
        return zp__fail(-EINVAL, "unknown watch flags 0x%x",
                        ret->flags & ~(unsigned)ALL_FLAGS);
    if ((ret->flags & ZP_SINCE) && (ret->flags & ZP_OLDEST))
        return zp__fail(-EINVAL, "ZP_SINCE together with ZP_OLDEST");
    return 0;
}

static int
may_watch(zp_state *state, zp_watch_fn *fn)
{
    int rc = zp__state_enter(state, NULL, false);

    if (rc < 0)
        return rc;
    if (!fn)
        return zp__fail(-EINVAL, "the callback is NULL");
    if (state->kind != ZP__LIVE)
        return zp__fail(-EROFS, "a watch of a %s: it does not change",
                        state->kind == ZP__TXN ? "transaction" : "snapshot");
    return zp__ctx_may_wait("registering a watch");
}

static int
watch_new(zp_watch **ret, zp_state *state, const char *const *keys,
          size_t n_keys, const zp_watch_options *options)
{
    zp_watch *watch = calloc(1, sizeof *watch);
    int rc;

    if (!watch)
        return zp__fail(-ENOMEM, "no memory for a watch");
    rc = zp__tap_init(&watch->tap, state, keys, n_keys, options->flags);
    if (rc < 0) {
        free(watch);
        return rc;
    }
    watch->token = state->token;
    watch->left = options->count;
    watch->tap.call = call;
    watch->tap.release = release;
    *ret = watch;
    return 0;
}

int
zp_call_when_change(zp_state *state, zp_watch **ret_watch,
                    const char *const *keys, size_t n_keys,
                    const zp_watch_options *options, zp_watch_fn *fn,
                    void *user)
{
    zp_watch_options taken;
    zp_watch *watch = NULL;
    int rc;

    rc = may_watch(state, fn);
    if (rc == 0)
        rc = take_options(&taken, options);
    if (rc == 0)
        rc = watch_new(&watch, state, keys, n_keys, &taken);
    if (rc < 0)
        return zp__state_done(state, rc);
    watch->fn = fn;
    watch->user = user;
    watch->tap.unattended = !ret_watch;
    rc = zp__tap_start(&watch->tap, taken.since);
    if (rc < 0) {
        zp__tap_unref(&watch->tap);
        return zp__state_done(state, rc);
    }
    if (ret_watch)
        *ret_watch = watch;
    return 0;
}

static int
enter(const zp_watch *watch)
{
    if (!watch)
        return zp__fail(-EINVAL, "the watch is NULL");
    if (watch->token != zp__token())
        return zp__fail(ZP_EFORK, "the watch belongs to another process");
    return 0;
}

int
zp_watch_cancel(zp_watch *watch)
{
    int rc = enter(watch);

    if (rc == 0)
        zp__tap_end(&watch->tap);
    return rc;
}

zp_watch *
zp_watch_free(zp_watch *watch)
{
    if (enter(watch) == 0)
        zp__tap_free(&watch->tap);
    return NULL;
}

int
zp_watch_active(const zp_watch *watch)
{
    int rc = enter(watch);

    return rc < 0 ? rc : watch->tap.active;
}

int
zp_watch_confirmed(const zp_watch *watch)
{
    int rc = enter(watch);

    return rc < 0 ? rc : zp__tap_confirmed(&watch->tap);
}

int
zp_go_live(zp_watch *watch)
{
    int rc = enter(watch);

    if (rc < 0)
        return rc;
    rc = zp__ctx_enter(watch->tap.feed->ctx);
    if (rc == 0)
        rc = zp__tap_go_live(&watch->tap);
    return zp__ctx_done(watch->tap.feed->ctx, rc);
}
