/*
 * watch.c - the life of a watch: made, called with its events, ended, freed.
 *
 * A watch is a tap. Of what its tap is called with, a condition lets through
 * what holds; the rest goes to the callback, or, of an iterator, to who waits
 * for it. An iterator's event is moved out of the turn's memory, and gets a
 * view of its own: so it stays until the next one is fetched, whatever the
 * feed does meanwhile.
 */
#include "reactors/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int
zp__may_watch(zp_state *state)
{
    int rc = zp__state_enter(state, NULL, false);

    if (rc < 0)
        return rc;
    if (state->kind != ZP__LIVE)
        return zp__fail(-EROFS, "a watch of a %s: it does not change",
                        state->kind == ZP__TXN ? "transaction" : "snapshot");
    return zp__ctx_may_wait("registering a watch");
}

/* -------------------------------------------------------------- events -- */

/* Is EVENT one for the watch? 1, 0, or an error. The predicate may have ended
 * it, freed the context, or forked. */
static int
applies(zp_watch *watch, zp_event *event)
{
    int rc;

    if (event->kind == ZP_OVERRUN || event->kind == ZP_TIMEDOUT)
        return 1;
    rc = zp__condition_holds(&watch->condition, &event->snapshot);
    if (rc > 0 && (watch->token != zp__token() || !watch->tap.active ||
                   watch->tap.feed->ctx->dying))
        return 0;
    return rc;
}

/* One event less; was it the last one? */
static void
count(zp_watch *watch, const zp_event *event)
{
    if (event->kind != ZP_TIMEDOUT && (!watch->left || --watch->left))
        return;
    watch->complete = true;
    zp__tap_end(&watch->tap);
}

static int
on_event(zp__tap *tap, zp_event *event)
{
    zp_watch *watch = (zp_watch *)tap;
    int rc;

    tap->silent = 0; /* from now on it is told of what it loses */
    rc = applies(watch, event);
    if (rc <= 0)
        return rc;
    tap->feed->ctx->events++;
    count(watch, event);
    return watch->fn(watch, event, watch->user);
}

/* Begin the iterator's own view: 1 if EVENT can be read through it, 0 if it has
 * gone since the turn began, or an error. What there was before a change is
 * read, too. */
static int
begin_view(zp_watch *watch, const zp_event *event)
{
    uint64_t oldest = event->revision - (event->kind == ZP_CHANGED);
    uint64_t head, tail;
    int rc;

    zp__view_end(watch->view);
    rc = zp__view_begin(watch->view);
    if (rc == 0)
        rc = zp__view_range(watch->view, &head, &tail);
    if (rc < 0 || oldest + 1 < tail)
        zp__view_end(watch->view);
    return rc < 0 ? rc : oldest + 1 >= tail;
}

/* It comes again: as an overrun, or after the error. */
static void
put_back(zp_watch *watch, const zp_event *event)
{
    zp__tap *tap = &watch->tap;

    if (event->kind == ZP_CHANGED)
        zp__tap_apart(tap, event->revision - 1);
    else if (event->kind == ZP_OVERRUN)
        zp__tap_apart(tap, event->first - 1);
    else
        zp__tap_look(tap);
    zp__view_end(tap->feed->view); /* ends the turn, which would move it on */
    zp__kick(tap->feed->kick);
}

/* The time of an iterator that is over is not told as an event. */
static int
on_fetched(zp__tap *tap, zp_event *event)
{
    zp_watch *watch = (zp_watch *)tap;
    uint64_t silent = tap->silent;
    int rc;

    tap->silent = 0;
    rc = applies(watch, event);
    if (rc <= 0)
        return rc;
    if (event->kind != ZP_TIMEDOUT) {
        rc = begin_view(watch, event);
        if (rc <= 0) {
            tap->silent = silent; /* as if it had not come */
            put_back(watch, event);
            return rc;
        }
        zp__event_move(&watch->event, event, watch->view);
        watch->has = true;
        tap->feed->ctx->events++;
        tap->awaited = false; /* not another one */
        watch->fetch->done = true;
    }
    count(watch, event);
    return 0;
}

static void
on_time(void *user)
{
    zp_watch *watch = user;

    zp__tap_expire(&watch->tap);
}

/* ---------------------------------------------------------------- life -- */

static void
ended(zp__tap *tap)
{
    zp_watch *watch = (zp_watch *)tap;

    watch->timer = zp__handle_free(watch->timer);
    if (watch->fetch)
        watch->fetch->done = true;
}

/* What is the store's goes while that is open; the rest with the memory. */
static void
freed(zp__tap *tap)
{
    zp_watch *watch = (zp_watch *)tap;

    watch->view = zp__view_free(watch->view);
    watch->has = watch->complete = false;
}

static void
release(zp__tap *tap)
{
    zp_watch *watch = (zp_watch *)tap;

    zp__event_clear(&watch->event);
    free(watch->image);
    free(watch);
}

static int
copy_condition(zp_watch *watch, const zp__condition *condition)
{
    watch->condition = *condition;
    if (watch->tap.n_keys) /* of which the condition's is the only one */
        watch->condition.key = watch->tap.keys[0];
    if (!condition->image)
        return 0;
    watch->image = malloc(condition->size);
    if (!watch->image)
        return zp__fail(-ENOMEM, "no memory for the value of a condition");
    watch->condition.image =
        memcpy(watch->image, condition->image, condition->size);
    return 0;
}

/* A view for its events, with its place among the readers: what fails, fails
 * now. */
static int
make_view(zp_watch *watch, zp__store *store)
{
    int rc = zp__view_new(&watch->view, store);

    if (rc == 0)
        rc = zp__view_begin(watch->view);
    if (rc == 0)
        zp__view_end(watch->view);
    return rc;
}

/* Conditions are about the state, whoever wrote it. */
static unsigned
tap_flags(const zp__want *want)
{
    return want->options.flags | (want->condition.kind ? ZP_OWN : 0);
}

static int
watch_alloc(zp_watch **ret, zp_state *state, const zp__want *want)
{
    zp_watch *watch = calloc(1, sizeof *watch);
    int rc;

    if (!watch)
        return zp__fail(-ENOMEM, "no memory for a watch");
    watch->tap.release = release;
    watch->tap.ended = ended;
    watch->tap.freed = freed;
    rc = zp__tap_init(&watch->tap, state, want->keys, want->n_keys,
                      tap_flags(want));
    if (rc < 0) {
        free(watch);
        return rc;
    }
    watch->token = state->token;
    watch->left = want->options.count;
    *ret = watch;
    return 0;
}

/* All that has to be there before it is called for the first time. */
static int
start(zp_watch *watch, zp_state *state, const zp__want *want, bool looks)
{
    zp__tap *tap = &watch->tap;
    int rc = copy_condition(watch, &want->condition);

    tap->fetches = !watch->fn;
    tap->call = watch->fn ? on_event : on_fetched;
    if (rc == 0 && tap->fetches)
        rc = make_view(watch, state->ctx->store);
    if (rc == 0 && want->options.timeout > 0)
        rc = zp__loop_timer(state->ctx->loop, &watch->timer, on_time, watch);
    if (rc == 0)
        rc = zp__tap_start(tap, &want->options, looks);
    if (rc == 0 && watch->timer)
        zp__timer_set(watch->timer, want->options.timeout);
    return rc;
}

int
zp__watch_new(zp_watch **ret, zp_state *state, const zp__want *want, bool looks,
              bool unattended, zp_watch_fn *fn, void *user)
{
    zp_watch *watch = NULL;
    int rc = watch_alloc(&watch, state, want);

    if (rc < 0)
        return rc;
    watch->fn = fn;
    watch->user = user;
    watch->tap.unattended = unattended;
    rc = start(watch, state, want, looks);
    if (rc < 0) {
        zp__handle_free(watch->timer);
        zp__view_free(watch->view);
        zp__tap_unref(&watch->tap);
        return rc;
    }
    *ret = watch;
    return 0;
}

/* -------------------------------------------------------------- public -- */

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

    if (rc < 0)
        return rc;
    watch->has = watch->complete = false; /* it has not come to its end */
    zp__tap_end(&watch->tap);
    return 0;
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

    return rc < 0 ? rc : watch->tap.active || watch->has;
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
    if (rc == 0 && !watch->fetch) /* else it is theirs who wait */
        watch->has = false;
    return zp__ctx_done(watch->tap.feed->ctx, rc);
}
