/*
 * ours_many.c - our side: many watches.
 *
 *   callback-100   100 watches of a key each in one process: from the set of
 *                  one of these keys to its callback; beside another process
 *                  with one watch, in turn with it, set by set
 *   watches        what watches of other keys cost a writer: a state with
 *                  1,000 of them, 100 in each of 10 processes, one with a
 *                  single one, and one with none
 *
 * The second is to show a difference of a few per cent. So the states are
 * written in slices of some milliseconds, a b c c b a, and each set is timed.
 * The mean is that of a slice in whose time nobody else had our CPU: the best
 * quarter's worst.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/ours.h"

#define PROCESSES 10
#define SLICE 500 /* sets */
#define SLICES 16 /* of each state in a round */

enum { NONE, ONE, THOUSAND, STATES };

/* Watch I of process INDEX; the process callback-100 is number 0. */
static void
key_name(char *key, size_t size, unsigned index, unsigned i)
{
    snprintf(key, size, "watched-%02u-%02u", index % 100, i % 100);
}

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t now = side_now();
    struct side *side = user;
    zp_change change;
    int64_t then;
    int r;

    (void)watch;
    if (zp_event_kind(event) != ZP_CHANGED)
        return -EPROTO;
    r = zp_event_change(event, &change, 0);
    if (r >= 0)
        r = zp_get_int(zp_event_snapshot(event), change.key, &then);
    if (r < 0)
        return r;
    ours_first_event(side);
    crew_sample(side, now - then);
    return 0;
}

int
ours_many(struct side *side, unsigned index)
{
    struct ours o = {0};
    char key[32];
    int r;

    side->data = &o;
    if (ours_join(side, &o.ctx) != SIDE_OK)
        return SIDE_FAIL;
    for (unsigned i = 0; i < SIDE_WATCHES; i++) {
        key_name(key, sizeof(key), index, i);
        r = zp_call_when_change(zp_ctx_state(o.ctx), NULL, ZP_KEYS(key), NULL,
                                on_change, side);
        if (r < 0)
            return ours_fail(side, "zp_call_when_change", r);
    }
    r = zp_run(o.ctx);
    return ours_fail(side, "zp_run", r);
}

/* ------------------------------------------------- one of a hundred -- */

static int
set_key(struct side *side, const char *key, int64_t now)
{
    struct ours *o = side->data;
    int r = zp_set_int(o->state, key, now);

    return r < 0 ? ours_fail(side, "zp_set_int", r) : SIDE_OK;
}

static int
set_one_of(struct side *side, int64_t now)
{
    char key[32];

    key_name(key, sizeof(key), 0, side_random(SIDE_WATCHES));
    return set_key(side, key, now);
}

static int
set_the_one(struct side *side, int64_t now)
{
    return set_key(side, OURS_KEY, now);
}

static int
set_both(struct side *side, int64_t now)
{
    return set_one_of(side, now) == SIDE_OK ? set_the_one(side, now)
                                            : SIDE_FAIL;
}

int
ours_hundred_start(struct side *side)
{
    if (ours_start(side) != SIDE_OK || crew_start(side, "many", 1) != SIDE_OK ||
        crew_start(side, "beside", 1) != SIDE_OK)
        return SIDE_FAIL;
    return crew_until_ready(side, set_both, 2);
}

int
ours_hundred_round(struct side *side)
{
    return crew_beside(side, set_one_of, set_the_one, SIDE_SETS(side));
}

/* ------------------------------------------------ of other keys -- */

struct many {
    zp_ctx *ctx[STATES]; /* the first one is the side's own, too */
    struct took {
        int64_t set[SLICES * SLICE]; /* ns, each of them */
        int64_t slice[SLICES];       /* ns, all of a slice */
        uint32_t n;
    } took[STATES];
};

/* From now on the sets go there. */
static void
turn_to(struct side *side, int which)
{
    struct ours *o = side->data;
    struct many *m = o->more;

    o->state = zp_ctx_state(m->ctx[which]);
}

/* One key of each process. */
static int
set_of_all(struct side *side, int64_t now)
{
    char key[32];

    for (unsigned i = 0; i < PROCESSES; i++) {
        key_name(key, sizeof(key), i, 0);
        if (set_key(side, key, now) != SIDE_OK)
            return SIDE_FAIL;
    }
    return SIDE_OK;
}

/* Start N of ROLE on that state, READY members in all. */
static int
watched(struct side *side, int which, const char *role, unsigned n,
        crew_set *set, unsigned ready)
{
    struct ours *o = side->data;
    struct many *m = o->more;

    ours_tell_address(side, m->ctx[which]);
    turn_to(side, which);
    if (crew_start(side, role, n) != SIDE_OK)
        return SIDE_FAIL;
    return crew_until_ready(side, set, ready);
}

int
ours_watches_start(struct side *side)
{
    struct ours *o;
    struct many *m;
    int r = ours_start(side);

    if (r != SIDE_OK)
        return r;
    o = side->data;
    o->more = m = calloc(1, sizeof(*m));
    if (m == NULL)
        return side_fail(side, "out of memory");
    m->ctx[NONE] = o->ctx;
    for (int i = ONE; r == SIDE_OK && i < STATES; i++)
        r = ours_open(side, &m->ctx[i], SIDE_KEYS);
    if (r == SIDE_OK)
        r = watched(side, ONE, "watcher", 1, set_the_one, 1);
    if (r == SIDE_OK)
        r = watched(side, THOUSAND, "many", PROCESSES, set_of_all,
                    1 + PROCESSES);
    for (int i = NONE; r == SIDE_OK && i < STATES; i++) {
        turn_to(side, i);
        r = side_repeat(side, ours_set_one, SIDE_WARM(side));
    }
    return r;
}

void
ours_watches_stop(struct side *side)
{
    struct ours *o = side->data;
    struct many *m = o != NULL ? o->more : NULL;

    side->crew = crew_free(side->crew);
    for (int i = ONE; m != NULL && i < STATES; i++)
        zp_ctx_free(m->ctx[i]);
    ours_stop(side);
}

static int
one_slice(struct side *side, struct took *took)
{
    int64_t *set = took->set + (size_t)took->n * SLICE;
    int64_t start = side_now();
    int64_t before = start, now = start;

    for (int i = 0; i < SLICE; i++, before = now) {
        if (ours_set_one(side) != SIDE_OK)
            return SIDE_FAIL;
        now = side_now();
        set[i] = now - before;
    }
    took->slice[took->n++] = now - start;
    return SIDE_OK;
}

int
ours_watches_round(struct side *side)
{
    static const char *const p50[] = {"none", "one", "us"};
    static const char *const mean[] = {"mean_none", "mean_one", "mean"};
    struct ours *o = side->data;
    struct many *m = o->more;

    for (int i = 0; i < STATES; i++)
        m->took[i].n = 0;
    for (int i = 0; i < STATES * SLICES; i++) {
        int at = i % STATES;
        int which = i / STATES % 2 == 0 ? at : STATES - 1 - at;

        turn_to(side, which);
        if (one_slice(side, &m->took[which]) != SIDE_OK)
            return SIDE_FAIL;
    }
    for (int i = 0; i < STATES; i++) {
        struct took *t = &m->took[i];

        side_report(side, p50[i],
                    side_percentile(t->set, t->n * SLICE, 0.5) / 1e3);
        side_report(side, mean[i],
                    side_percentile(t->slice, t->n, 0.25) / 1e3 / SLICE);
    }
    return SIDE_OK;
}
