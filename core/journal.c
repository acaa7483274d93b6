/*
 * journal.c - the touched keys of a transaction: an array, an arena for names
 * and old rows, and a hash index once there are more than a few.
 */
#include "core/journal.h"

#include <stdlib.h>
#include <string.h>

#define LINEAR 8               /* up to so many are searched one by one */
#define KEEP ((size_t)1 << 20) /* of memory kept between transactions */

static uint64_t
hash_names(const char *ns, const char *key)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *ns != '\0'; ns++)
        hash = (hash ^ (unsigned char)*ns) * UINT64_C(0x100000001b3);
    hash *= UINT64_C(0x100000001b3);
    for (; *key != '\0'; key++)
        hash = (hash ^ (unsigned char)*key) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 29;
}

void
zp__journal_clear(zp__journal *journal)
{
    journal->n = 0;
    journal->used = 0;
    journal->indexed = 0;
    if (journal->size > KEEP || journal->room * sizeof(zp__touch) > KEEP ||
        journal->index_size * sizeof *journal->index > KEEP)
        zp__journal_free(journal);
}

void
zp__journal_free(zp__journal *journal)
{
    free(journal->touches);
    free(journal->arena);
    free(journal->index);
    memset(journal, 0, sizeof *journal);
}

const char *
zp__touch_ns(const zp__journal *journal, const zp__touch *touch)
{
    return (const char *)journal->arena + touch->names;
}

const char *
zp__touch_key(const zp__journal *journal, const zp__touch *touch)
{
    return zp__touch_ns(journal, touch) + touch->ns_size;
}

const void *
zp__touch_old(const zp__journal *journal, const zp__touch *touch)
{
    return journal->arena + touch->old;
}

static bool
is_touch(const zp__journal *journal, const zp__touch *touch, const char *ns,
         const char *key)
{
    return strcmp(zp__touch_key(journal, touch), key) == 0 &&
           strcmp(zp__touch_ns(journal, touch), ns) == 0;
}

/* Where NS, KEY stands in the index, or the free slot for it. */
static size_t
probe(const zp__journal *journal, const char *ns, const char *key)
{
    size_t mask = journal->index_size - 1;
    size_t slot = (size_t)hash_names(ns, key) & mask;

    while (journal->index[slot] != 0 &&
           !is_touch(journal, &journal->touches[journal->index[slot] - 1], ns,
                     key))
        slot = (slot + 1) & mask;
    return slot;
}

static void
index_one(zp__journal *journal, size_t place)
{
    const zp__touch *touch = &journal->touches[place];
    size_t slot = probe(journal, zp__touch_ns(journal, touch),
                        zp__touch_key(journal, touch));
    journal->index[slot] = (uint32_t)place + 1;
}

/* Take the last one out again: with linear probing nothing stands behind it. */
static void
unindex_one(zp__journal *journal, size_t place)
{
    const zp__touch *touch = &journal->touches[place];
    journal->index[probe(journal, zp__touch_ns(journal, touch),
                         zp__touch_key(journal, touch))] = 0;
}

/* Bring the index up to date, at most half full. */
static bool
index_all(zp__journal *journal)
{
    if (journal->index_size < 2 * journal->n || journal->indexed == 0) {
        size_t size = 64;
        while (size < 4 * journal->n)
            size *= 2;
        if (size > journal->index_size) {
            uint32_t *index = calloc(size, sizeof *index);
            if (index == NULL)
                return false;
            free(journal->index);
            journal->index = index;
            journal->index_size = size;
        } else {
            memset(journal->index, 0,
                   journal->index_size * sizeof *journal->index);
        }
        journal->indexed = 0;
    }
    while (journal->indexed < journal->n)
        index_one(journal, journal->indexed++);
    return true;
}

zp__touch *
zp__journal_find(zp__journal *journal, const char *ns, const char *key)
{
    if (journal->n <= LINEAR || !index_all(journal)) {
        for (size_t i = journal->n; i-- > 0;)
            if (is_touch(journal, &journal->touches[i], ns, key))
                return &journal->touches[i];
        return NULL;
    }
    uint32_t place = journal->index[probe(journal, ns, key)];
    return place == 0 ? NULL : &journal->touches[place - 1];
}

static bool
grow(zp__journal *journal, size_t more)
{
    if (journal->n == journal->room) {
        size_t room = journal->room ? 2 * journal->room : 16;
        zp__touch *touches = realloc(journal->touches, room * sizeof *touches);
        if (touches == NULL)
            return false;
        journal->touches = touches;
        journal->room = room;
    }
    if (journal->size - journal->used < more) {
        size_t size = journal->size ? 2 * journal->size : 4096;
        while (size - journal->used < more)
            size *= 2;
        unsigned char *arena = realloc(journal->arena, size);
        if (arena == NULL)
            return false;
        journal->arena = arena;
        journal->size = size;
    }
    return true;
}

zp__touch *
zp__journal_add(zp__journal *journal, const char *ns, const char *key,
                const void *old, size_t old_size)
{
    size_t ns_size = strlen(ns) + 1;
    size_t key_size = strlen(key) + 1;

    if (!grow(journal, ns_size + key_size + old_size))
        return NULL;
    zp__touch *touch = &journal->touches[journal->n++];
    memset(touch, 0, sizeof *touch);
    touch->stale = true; /* until something has been done to the key */
    touch->names = journal->used;
    touch->ns_size = ns_size;
    touch->old = journal->used + ns_size + key_size;
    touch->old_size = old_size;
    memcpy(journal->arena + touch->names, ns, ns_size);
    memcpy(journal->arena + touch->names + ns_size, key, key_size);
    if (old_size > 0)
        memcpy(journal->arena + touch->old, old, old_size);
    journal->used += ns_size + key_size + old_size;
    return touch;
}

zp__journal_mark
zp__journal_mark_now(const zp__journal *journal)
{
    return (zp__journal_mark){journal->n, journal->used};
}

void
zp__journal_rollback(zp__journal *journal, zp__journal_mark mark)
{
    while (journal->indexed > mark.n)
        unindex_one(journal, --journal->indexed);
    journal->n = mark.n;
    journal->used = mark.used;
    for (size_t i = 0; i < journal->n; i++)
        journal->touches[i].stale = true;
}

static int
compare(const void *a, const void *b, void *user)
{
    const zp__journal *journal = user;
    return zp__chg_compare(zp__touch_ns(journal, a), zp__touch_key(journal, a),
                           zp__touch_ns(journal, b), zp__touch_key(journal, b));
}

void
zp__journal_sort(zp__journal *journal)
{
    journal->indexed = 0;
    if (journal->n > 1)
        qsort_r(journal->touches, journal->n, sizeof *journal->touches, compare,
                journal);
}
