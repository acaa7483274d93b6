/*
 * store_past.c - the past of a key, and where in the log a moment is.
 *
 * What a key held at a revision is what the first change after that replaced
 * (rows.h). That change is found on the way down from the newest one, along
 * `prev` and `jump`: some 2 log2 of the changes since.
 *
 *     newest ----jump----------------> o ---jump---> o
 *     o -> o -> o -> o -> o -> o -> o -> o -> o -> o -> o -> created
 *          prev                            |  ^ R
 *                                          first after R: holds what it
 * replaced
 *
 * Who reads a key change by change, as a watch that lags behind or a history
 * does, comes by nearly the same changes again and again. So a view remembers
 * that way, for some keys: its part above the revision that is looked for next
 * is still right, since what the log says of a change is never altered. Then a
 * look costs one or two rows, whether one reads up or down.
 */
#include <stdlib.h>
#include <string.h>

#include "core/store_lmdb.h"

#define STEPS 64 /* from the newest of 2^18 changes: 35 at most */

typedef struct zp__step {
    uint64_t revision; /* of a change of the key ... */
    uint64_t prev;     /* ... and where it points to */
    uint64_t jump;
} zp__step;

typedef struct zp__way {
    char ns[ZP__NS_MAX + 1];
    char key[ZP__KEY_MAX + 1];
    size_t n;
    zp__step steps[STEPS]; /* from the youngest down, some left out */
} zp__way;

/* What is known of the way to KEY; NULL without memory. */
static zp__way *
find_way(zp__view *view, const char *ns, const char *key)
{
    uint32_t hash = 2166136261;
    zp__way **at, *way;

    for (const char *p = key; *p != '\0'; p++)
        hash = (hash ^ (unsigned char)*p) * 16777619;
    at = &view->ways[(hash >> 16) % ZP__WAYS];
    if (*at == NULL)
        *at = calloc(1, sizeof **at);
    way = *at;
    if (way == NULL)
        return NULL;
    if (strcmp(way->key, key) != 0 || strcmp(way->ns, ns) != 0) {
        way->n = 0;
        strcpy(way->ns, ns); /* of the same size */
        strcpy(way->key, key);
    }
    return way;
}

/* Where the next step from STEP leads on the way down to REVISION. */
static uint64_t
next_step(const zp__step *step, uint64_t revision)
{
    return step->jump > revision ? step->jump : step->prev;
}

/* The change to start from: what is known of the way is not walked again. */
static uint64_t
resume(zp__way *way, uint64_t revision, uint64_t newest)
{
    while (way->n > 0 && way->steps[way->n - 1].revision <= revision)
        way->n--;
    if (way->n == 0)
        return newest;
    uint64_t to = next_step(&way->steps[way->n - 1], revision);
    if (to > revision)
        return to;
    return way->steps[--way->n].revision; /* it is the one */
}

/* Who reads down comes by more changes than there is room for: then every
 * other one is left out, so that some remain all the way up. */
static void
remember(zp__way *way, const zp__step *step)
{
    if (way == NULL)
        return;
    if (way->n == STEPS) {
        for (size_t i = 0; i < STEPS / 2; i++)
            way->steps[i] = way->steps[2 * i];
        way->n = STEPS / 2;
    }
    way->steps[way->n++] = *step;
}

/* The first change of KEY after REVISION, before or at NEWEST. */
static int
first_after(zp__view *view, const char *ns, const char *key, uint64_t revision,
            uint64_t newest, zp__chg_row *ret)
{
    zp__way *way = find_way(view, ns, key);
    uint64_t at = way == NULL ? newest : resume(way, revision, newest);

    for (;;) {
        int rc = zp__log_find(view->store, view->txn, at, ns, key, ret);
        if (rc != 0)
            return rc;
        zp__step step = {at, ret->head.prev, ret->head.jump};
        uint64_t to = next_step(&step, revision);
        if (to >= at)
            return zp__store_corrupt(view->store, "log");
        remember(way, &step);
        if (to <= revision)
            return 0;
        at = to;
    }
}

/* The item that the change ROW replaced. */
static int
replaced(zp__view *view, const zp__chg_row *row, zp__item *ret)
{
    if (row->head.flags & ZP_CREATED)
        return ZP_ENOKEY;
    ret->size = row->head.size;
    ret->revision = row->head.prev;
    ret->created = row->head.created;
    ret->created_rank = row->head.created_rank;
    ret->image = row->image;
    if (row->image != NULL || (row->head.flags & ZP__ROW_LOST))
        return 0;
    return zp__outside_get(view->store, view->txn, &row->head.outside,
                           row->head.size, &ret->image);
}

int
zp__item_before(zp__view *view, const char *ns, const char *key,
                uint64_t revision, uint64_t newest, zp__item *ret)
{
    zp__chg_row row;
    int rc = first_after(view, ns, key, revision, newest, &row);

    return rc == 0 ? replaced(view, &row, ret) : rc;
}

/* ---- versions ---- */

/* What a change left: RET's item and revision, or with ZP_ENOKEY the revision
 * of the deletion (0: none is known). */
static int
find_version(zp__view *view, const char *ns, const char *key, uint64_t revision,
             zp__version *ret)
{
    zp__cur_row row;
    zp__chg_row change;
    int rc = zp__cur_get(view->store, view->txn, ns, key, &row);

    if (rc != 0)
        return rc;
    ret->revision = row.head.revision;
    if (ret->revision <= revision)
        return row.head.flags & ZP__ROW_DELETED
                   ? ZP_ENOKEY
                   : zp__cur_item(view, &row, &ret->item);
    rc = first_after(view, ns, key, revision, ret->revision, &change);
    if (rc != 0)
        return rc;
    ret->revision = change.head.prev;
    return replaced(view, &change, &ret->item);
}

/* What the log says of the change itself. */
static int
describe(zp__view *view, const char *ns, const char *key, zp__version *version)
{
    zp__row row;
    zp__chg_row change;
    int rc = zp__view_row(view, version->revision, &row);

    if (rc == 0)
        rc = zp__log_find(view->store, view->txn, version->revision, ns, key,
                          &change);
    if (rc != 0)
        return rc;
    version->flags =
        change.head.flags & (ZP_CREATED | ZP_DELETED | ZP_IDENTICAL);
    version->pid = row.pid;
    version->time_ns = row.time_ns;
    return 0;
}

int
zp__view_version(zp__view *view, const char *ns, const char *key,
                 uint64_t revision, zp__version *ret)
{
    zp__version version;
    uint64_t head, tail;
    int rc = zp__view_range(view, &head, &tail);

    memset(&version, 0, sizeof version);
    if (rc == 0)
        rc = zp__view_check(view, revision);
    if (rc != 0)
        return rc;
    rc = find_version(view, ns, key, revision, &version);
    if (rc == ZP_ENOKEY && version.revision != 0)
        version.flags = ZP_DELETED;
    else if (rc != 0)
        return rc;
    else if (version.item.created == version.revision)
        version.flags = ZP_CREATED;
    version.forgotten = version.revision < tail;
    rc = version.forgotten ? 0 : describe(view, ns, key, &version);
    if (rc == 0)
        *ret = version;
    return rc;
}

/* ---- moments ---- */

/* Each log row has its writer's wall clock. They are taken to be in order, as
 * those of one machine are but for the moments when the clock is set: so the
 * first row of a moment is found by halving, 18 looks in a full log. They are
 * compared as the seconds that the API tells: who begins at the time that it
 * told of a change sees that change, though a double has not all of its digits.
 */
int
zp__view_since(zp__view *view, double moment, uint64_t *ret_cursor)
{
    uint64_t head, low, high;
    int rc = zp__view_range(view, &head, &low);
    uint64_t tail = low;

    if (rc != 0)
        return rc;
    high = head + 1;
    while (low < high) { /* those before `low` are older, from `high` on not */
        uint64_t middle = low + (high - low) / 2;
        zp__row row;
        rc = zp__view_row(view, middle, &row);
        if (rc != 0)
            return rc;
        if ((double)row.time_ns * 1e-9 < moment)
            low = middle + 1;
        else
            high = middle;
    }
    *ret_cursor = low == tail ? 0 : low - 1;
    return 0;
}
