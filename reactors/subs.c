/*
 * subs.c - the table of what a feed is subscribed to, by kind and hash of the
 * topic: chains in buckets, which are doubled when there are more entries than
 * buckets.
 */
#include <errno.h>
#include <stdlib.h>

#include "reactors/feed.h"

#define BUCKETS 64 /* to begin with */

int
zp__subs_init(zp__subs *subs)
{
    subs->n = 0;
    subs->n_buckets = BUCKETS;
    subs->buckets = calloc(BUCKETS, sizeof *subs->buckets);
    return subs->buckets ? 0 : zp__fail(-ENOMEM, "no memory for watches");
}

void
zp__subs_free(zp__subs *subs)
{
    free(subs->buckets);
}

static zp__sub **
bucket(const zp__subs *subs, unsigned char kind, uint64_t hash)
{
    hash = (hash ^ kind) * UINT64_C(0x9e3779b97f4a7c15);
    return &subs->buckets[(hash >> 32) & (subs->n_buckets - 1)];
}

zp__sub *
zp__subs_find(const zp__subs *subs, unsigned char kind, uint64_t hash)
{
    zp__sub *sub = *bucket(subs, kind, hash);

    while (sub && (sub->hash != hash || sub->kind != kind))
        sub = sub->chain;
    return sub;
}

/* Twice the buckets. Without memory the chains just get longer. */
static void
grow(zp__subs *subs)
{
    size_t n = subs->n_buckets;
    zp__sub **old = subs->buckets, **grown = calloc(n * 2, sizeof *grown);

    if (!grown)
        return;
    subs->buckets = grown;
    subs->n_buckets = n * 2;
    for (size_t i = 0; i < n; i++) {
        for (zp__sub *sub = old[i], *next; sub; sub = next) {
            zp__sub **at = bucket(subs, sub->kind, sub->hash);
            next = sub->chain;
            sub->chain = *at;
            *at = sub;
        }
    }
    free(old);
}

int
zp__subs_add(zp__subs *subs, zp__sub **ret, unsigned char kind, uint64_t hash)
{
    zp__sub *sub = calloc(1, sizeof *sub), **at;

    if (!sub)
        return zp__fail(-ENOMEM, "no memory for a subscription");
    if (subs->n >= subs->n_buckets)
        grow(subs);
    at = bucket(subs, kind, hash);
    sub->kind = kind;
    sub->hash = hash;
    sub->chain = *at;
    *at = sub;
    zp__list_init(&sub->idle);
    zp__list_init(&sub->links);
    subs->n++;
    *ret = sub;
    return 0;
}

void
zp__subs_remove(zp__subs *subs, zp__sub *sub)
{
    zp__sub **at = bucket(subs, sub->kind, sub->hash);

    while (*at != sub)
        at = &(*at)->chain;
    *at = sub->chain;
    subs->n--;
    free(sub);
}
