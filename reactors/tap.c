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

static int
check_keys(const char *const *keys, size_t n, size_t *ret_bytes)
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
    int rc = check_keys(keys, n_keys, &bytes);

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

/* Head and tail of the log at this moment. */
static int
log_range(zp_ctx *ctx, uint64_t *ret_head, uint64_t *ret_tail)
{
    bool begun = zp__view_begun(ctx->view);
    int rc;

    if (begun) /* from before: an older head will not do */
        zp__view_end(ctx->view);
    rc = zp__view_begin(ctx->view);
    if (rc < 0)
        return rc;
    rc = zp__view_range(ctx->view, ret_head, ret_tail);
    zp__view_end(ctx->view);
    return rc;
}

static int
first_cursor(zp__tap *tap, uint64_t since, uint64_t *ret_head,
             uint64_t *ret_cursor)
{
    uint64_t head, tail;
    int rc = log_range(tap->handle->ctx, &head, &tail);

    if (rc < 0)
        return rc;
    *ret_head = *ret_cursor = head;
    tap->silent = 0;
    if (tap->flags & ZP_SINCE) {
        if (since > head)
            return zp__fail(
                -ERANGE, "since revision %llu, but the newest is %llu",
                (unsigned long long)since, (unsigned long long)head);
        *ret_cursor = since;
    } else if (tap->flags & ZP_OLDEST) {
        *ret_cursor = tail ? tail - 1 : 0;
        tap->silent = head;
    }
    return 0;
}

int
zp__tap_go_live(zp__tap *tap)
{
    uint64_t head, tail;
    int rc;

    if (!tap->active)
        return 0;
    rc = log_range(tap->feed->ctx, &head, &tail);
    if (rc < 0)
        return rc;
    zp__tap_found(tap, 0);
    if (head > zp__tap_cursor(tap))
        zp__tap_apart(tap, head);
    return 0;
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

static void
list(zp__tap *tap, uint64_t cursor)
{
    zp__feed *feed = tap->feed;

    tap->reader = tap->flags & ZP_LIVE ? &feed->live : &feed->buffered;
    tap->order = feed->order++;
    zp__list_append(&feed->taps, &tap->node);
    tap->listed = true;
    tap->active = true;
    tap->replays = tap->flags & (ZP_SINCE | ZP_OLDEST);
    feed->active++;
    tap->reader->in_line++;
    zp__tap_apart(tap, cursor);
    zp__loop_hold(feed->ctx->loop);
}

int
zp__tap_start(zp__tap *tap, uint64_t since)
{
    uint64_t head, cursor;
    int rc = first_cursor(tap, since, &head, &cursor);

    if (rc == 0)
        rc = zp__feed_get(&tap->feed, tap->handle->ctx);
    if (rc == 0)
        rc = link_all(tap);
    if (rc < 0)
        return rc;
    list(tap, cursor);
    zp__feed_confirm(tap->feed);
    if (cursor < head)
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
    zp__tap_in_line(tap);
    tap->reader->in_line--;
    feed->active--;
    zp__loop_release(feed->ctx->loop);
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
