/*
 * tap.c - what a reaction wants, where it stands in the log, and its life from
 * registration to the last reference.
 *
 * One block of memory holds the links and the keys of a tap. The keys are
 * sorted: a change of the namespace is looked up in them by halves (the
 * excluded ones), and a change of one key comes by its link anyway.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "reactors/feed.h"

/* ---------------------------------------------------------------- wants -- */

static int
compare_keys(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int
zp__tap_check_keys(const char *const *keys, size_t n, size_t *ret_bytes)
{
    int rc = 0;

    *ret_bytes = 0;
    if (n && !keys)
        return zp__fail(-EINVAL, "%zu keys, but keys is NULL", n);
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (!keys[i])
            return zp__fail(-EINVAL, "key %zu is NULL", i);
        rc = zp__key_check(keys[i]);
        *ret_bytes += strlen(keys[i]) + 1;
    }
    return rc;
}

/* Sort, and drop what is there twice. */
static size_t
sort_keys(char **keys, size_t n)
{
    size_t kept = 0;

    if (n == 0)
        return 0;
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(keys[kept - 1], keys[i]) != 0)
            keys[kept++] = keys[i];
    return kept;
}

int
zp__tap_init(zp__tap *tap, zp_state *handle, const char *const *keys,
             size_t n_keys, unsigned flags)
{
    size_t bytes, one = sizeof(zp__link) + sizeof(char *);
    char *block, *text;
    int rc = zp__tap_check_keys(keys, n_keys, &bytes);

    if (rc < 0)
        return rc;
    if (n_keys > SIZE_MAX / 2 / one)
        return zp__fail(-EINVAL, "%zu keys", n_keys);
    block = calloc(1, (n_keys + 1) * one + bytes);
    if (!block)
        return zp__fail(-ENOMEM, "no memory for a watch");
    tap->links = (zp__link *)block;
    tap->keys = (char **)(tap->links + n_keys + 1);
    text = (char *)(tap->keys + n_keys + 1);
    for (size_t i = 0; i < n_keys; i++) {
        tap->keys[i] = strcpy(text, keys[i]);
        text += strlen(text) + 1;
    }
    tap->n_keys = sort_keys(tap->keys, n_keys);
    tap->handle = handle;
    tap->writer = handle->writer;
    tap->flags = flags;
    strcpy(tap->ns, handle->ns); /* of the same size */
    zp__list_init(&tap->node);
    zp__list_init(&tap->apart);
    zp__list_init(&tap->found);
    zp__list_init(&tap->due);
    tap->refs = 1;
    return 0;
}

void
zp__tap_unref(zp__tap *tap)
{
    if (--tap->refs)
        return;
    free(tap->links);
    tap->release(tap);
}

bool
zp__tap_wants(const zp__tap *tap, const zp__log_change *change)
{
    bool listed;

    if ((change->flags & ZP_IDENTICAL) && !(tap->flags & ZP_SAME))
        return false;
    if (strcmp(tap->ns, change->ns) != 0)
        return false;
    if (tap->n_keys == 0)
        return true;
    listed = bsearch(&change->key, tap->keys, tap->n_keys, sizeof *tap->keys,
                     compare_keys) != NULL;
    return listed == !(tap->flags & ZP_EXCLUDE);
}

/* ------------------------------------------------------- where it stands -- */

uint64_t
zp__tap_cursor(const zp__tap *tap)
{
    return tap->is_apart ? tap->cursor : tap->reader->read;
}

void
zp__tap_apart(zp__tap *tap, uint64_t cursor)
{
    tap->cursor = cursor;
    if (tap->is_apart)
        return;
    tap->is_apart = true;
    tap->reader->in_line--;
    if (!tap->fetches || tap->awaited)
        zp__list_append(&tap->reader->apart, &tap->apart);
}

void
zp__tap_in_line(zp__tap *tap)
{
    if (!tap->is_apart)
        return;
    tap->is_apart = false;
    tap->replays = false;
    tap->reader->in_line++;
    zp__list_remove(&tap->apart);
}

void
zp__tap_found(zp__tap *tap, uint64_t revision)
{
    tap->found_at = revision;
    zp__list_remove(&tap->found);
    if (revision)
        zp__list_append(&tap->reader->found, &tap->found);
}

/* The log as it is at this moment. */
static int
begin_log(zp__view *view)
{
    zp__view_end(view); /* from before: an older head will not do */
    return zp__view_begin(view);
}

int
zp__feed_head(zp_ctx *ctx, uint64_t *ret_head)
{
    uint64_t tail;
    int rc = begin_log(ctx->view);

    if (rc < 0)
        return rc;
    rc = zp__view_range(ctx->view, ret_head, &tail);
    zp__view_end(ctx->view);
    return rc;
}

/* Where it starts, and what the newest revision is. VIEW has been begun. */
static int
first_cursor(zp__tap *tap, zp__view *view, const zp_watch_options *options,
             uint64_t *ret_head)
{
    uint64_t tail;
    int rc = zp__view_range(view, ret_head, &tail);

    if (rc < 0)
        return rc;
    tap->cursor = *ret_head;
    tap->silent = 0;
    if (tap->flags & ZP_SINCE) {
        if (options->since > *ret_head)
            return zp__fail(-ERANGE,
                            "since revision %llu, but the newest is %llu",
                            (unsigned long long)options->since,
                            (unsigned long long)*ret_head);
        tap->cursor = options->since;
    } else if (tap->flags & ZP_SINCE_TIME) {
        rc = zp__view_since(view, options->since_time, &tap->cursor);
    } else if (tap->flags & ZP_OLDEST) {
        tap->cursor = tail ? tail - 1 : 0;
        tap->silent = *ret_head;
    }
    return rc;
}

/* In the list of those that are due as long as it is. */
static void
note_due(zp__tap *tap)
{
    zp__list_remove(&tap->due);
    if (tap->looks || tap->expired)
        zp__list_append(&tap->feed->due, &tap->due);
}

void
zp__tap_look(zp__tap *tap)
{
    tap->looks = true;
    note_due(tap);
}

void
zp__tap_looked(zp__tap *tap)
{
    tap->looks = false;
    note_due(tap);
}

int
zp__tap_go_live(zp__tap *tap)
{
    uint64_t head;
    int rc;

    if (!tap->active)
        return 0;
    rc = zp__feed_head(tap->feed->ctx, &head);
    if (rc < 0)
        return rc;
    zp__tap_found(tap, 0);
    zp__tap_looked(tap); /* what it would have looked at is over */
    if (head > zp__tap_cursor(tap))
        zp__tap_apart(tap, head);
    return 0;
}

void
zp__tap_expire(zp__tap *tap)
{
    if (!tap->active)
        return;
    if (zp__feed_head(tap->feed->ctx, &tap->expires) < 0)
        tap->expires = 0; /* then without what it has not seen yet */
    tap->expired = true;
    note_due(tap);
    zp__kick(tap->feed->kick);
}

void
zp__tap_await(zp__tap *tap, bool awaited)
{
    if (!tap->active)
        return;
    zp__tap_apart(tap, zp__tap_cursor(tap));
    zp__list_remove(&tap->apart);
    tap->awaited = awaited;
    if (!awaited)
        return;
    zp__list_append(&tap->reader->apart, &tap->apart);
    zp__kick(tap->feed->kick);
}

/* Those that stand in line must not be moved on with it. */
void
zp__feed_hold(zp_ctx *ctx)
{
    if (ctx->holds++ || !ctx->feed)
        return;
    ZP__EACH(at, next, &ctx->feed->taps)
    {
        zp__tap *tap = ZP__OF(at, zp__tap, node);

        if (tap->active && !tap->fetches)
            zp__tap_apart(tap, zp__tap_cursor(tap));
    }
}

void
zp__feed_unhold(zp_ctx *ctx)
{
    if (--ctx->holds)
        return;
    if (ctx->feed)
        zp__kick(ctx->feed->kick);
    zp__procs_unheld(ctx);
    if (ctx->swarms_unheld)
        ctx->swarms_unheld(ctx);
}

/* ----------------------------------------------------------------- life -- */

static void
unlink_all(zp__tap *tap)
{
    for (size_t i = 0; i < tap->n_links; i++)
        zp__feed_unsubscribe(tap->feed, &tap->links[i]);
    tap->n_links = 0;
}

static int
link_one(zp__tap *tap, const char *key)
{
    zp__link *link = &tap->links[tap->n_links++];

    memset(link, 0, sizeof *link);
    link->tap = tap;
    link->key = key;
    if (key)
        return zp__feed_subscribe(tap->feed, link, ZP__TOPIC_KEY,
                                  zp__topic_key(tap->ns, key));
    return zp__feed_subscribe(tap->feed, link, ZP__TOPIC_NS,
                              zp__topic_ns(tap->ns));
}

/* Listed keys by their own topics, all others by the namespace's. */
static int
link_all(zp__tap *tap)
{
    int rc = 0;

    if (tap->n_keys == 0 || (tap->flags & ZP_EXCLUDE))
        rc = link_one(tap, NULL);
    else
        for (size_t i = 0; i < tap->n_keys && rc == 0; i++)
            rc = link_one(tap, tap->keys[i]);
    if (rc < 0)
        unlink_all(tap);
    return rc;
}

/* It becomes one of the feed's, apart, with the cursor that it has. */
static void
list(zp__tap *tap, uint64_t head, bool looks)
{
    zp__feed *feed = tap->feed;

    tap->reader = tap->flags & ZP_LIVE ? &feed->live : &feed->buffered;
    tap->order = feed->order++;
    zp__list_append(&feed->taps, &tap->node);
    tap->listed = true;
    tap->active = true;
    tap->replays = tap->cursor < head;
    tap->looks = looks;
    feed->active++;
    tap->reader->in_line++;
    zp__tap_apart(tap, tap->cursor);
    note_due(tap);
    if (!tap->fetches)
        zp__loop_hold(feed->ctx->loop);
}

int
zp__tap_start(zp__tap *tap, const zp_watch_options *options, bool looks)
{
    zp_ctx *ctx = tap->handle->ctx;
    uint64_t head;
    int rc = begin_log(ctx->view);

    if (rc < 0)
        return rc;
    rc = first_cursor(tap, ctx->view, options, &head);
    zp__view_end(ctx->view);
    if (rc == 0)
        rc = zp__feed_get(&tap->feed, ctx);
    if (rc == 0)
        rc = link_all(tap);
    if (rc < 0)
        return rc;
    list(tap, head, looks);
    zp__feed_confirm(tap->feed);
    if (looks || tap->cursor < head)
        zp__kick(tap->feed->kick);
    return 0;
}

void
zp__tap_end(zp__tap *tap)
{
    zp__feed *feed = tap->feed;

    if (!tap->active)
        return;
    tap->active = false;
    unlink_all(tap);
    zp__tap_found(tap, 0);
    zp__list_remove(&tap->due);
    zp__tap_in_line(tap);
    tap->reader->in_line--;
    feed->active--;
    if (!tap->fetches)
        zp__loop_release(feed->ctx->loop);
    tap->ended(tap);
    if (tap->unattended)
        zp__tap_free(tap);
}

void
zp__tap_free(zp__tap *tap)
{
    if (!tap->listed)
        return;
    tap->listed = false;
    zp__list_remove(&tap->node);
    zp__tap_end(tap);
    tap->freed(tap);
    zp__tap_unref(tap);
}

bool
zp__tap_confirmed(const zp__tap *tap)
{
    for (size_t i = 0; i < tap->n_links; i++)
        if (!zp__feed_confirmed(tap->feed, tap->links[i].sub))
            return false;
    return tap->active;
}
