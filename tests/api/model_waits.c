/*
 * model_waits.c - the oracle on calls that wait. Those with one cursor follow
 * on each other. What the cursor says is the library's own affair: so where
 * such a wait stands is known only from what came before, and if that timed out
 * on the way to its so-manieth event it is one of several places.
 */
#include "tests/api/model_oracle.h"

#include <errno.h>
#include <string.h>

#define SPOTS 512 /* in the journal where a wait can stand */

/* Where one that goes on with its cursor can stand. */
typedef struct spots {
    uint64_t at[SPOTS];
    unsigned n;
} spots;

static void
add_spot(spots *s, uint64_t revision)
{
    for (unsigned i = 0; i < s->n; i++)
        if (s->at[i] == revision)
            return;
    if (s->n < SPOTS)
        s->at[s->n++] = revision;
}

/* A live one: the newest there is; of a condition's first look, the state. */
static bool
is_live_wait(model_place *p)
{
    const model_watch *x = p->x;
    uint64_t revision = p->seen->revision, next;
    unsigned n, i = model_behind(x, revision - 1);
    const model_entry *all = model_all(x, &n);

    if (p->first && revision == p->cursor)
        return true;
    if (revision <= p->cursor || i == n || all[i].revision != revision ||
        !model_is_event(x, &all[i]))
        return model_wrong(p, "a wait behind %llu came to its end at %llu",
                           R(p->cursor), R(revision));
    if (model_count(x, revision, p->seen->head, 1, &next))
        return model_wrong(
            p, "a live wait: %llu is newer than %llu (%llu was known)", R(next),
            R(revision), R(p->seen->head));
    return true;
}

/* The log had passed it, and the condition holds at what was the newest. */
static bool
is_late_wait(const model_place *p)
{
    const model_seen *seen = p->seen;
    model_codes codes;

    if (p->x->spec->kind == CHANGE || seen->revision < seen->head ||
        seen->revision < p->cursor + (uint64_t)model_log(p->x->worker->c) + 1)
        return false;
    model_replay(codes, p->x, seen->revision);
    return model_holds(p->x, codes);
}

/* How many events it waits for, the first look apart. */
static unsigned
wanted_events(const model_place *p)
{
    unsigned count = p->x->spec->count ? p->x->spec->count : 1;

    return count - p->first;
}

static bool
is_met(model_place *p, spots *next)
{
    const model_watch *x = p->x;
    uint64_t revision = p->cursor;
    unsigned want = wanted_events(p);

    if (is_late_wait(p)) {
        revision = p->seen->revision;
    } else if (x->spec->flags & ZP_LIVE) {
        if (!is_live_wait(p))
            return false;
        revision = p->seen->revision;
    } else if (model_count(x, p->cursor, UINT64_MAX, want, &revision) < want ||
               revision != p->seen->revision) {
        return model_wrong(
            p, "a wait behind %llu came to its end at %llu, not %llu",
            R(p->cursor), R(p->seen->revision), R(revision));
    }
    add_spot(next, revision);
    return model_same_codes(p, p->seen->snapshot, revision, "the snapshot of");
}

/* Told of the loss, it goes on with what was retained at that moment. */
static bool
is_gone(model_place *p, spots *next)
{
    const model_seen *seen = p->seen;
    uint64_t log = (uint64_t)model_log(p->x->worker->c);

    for (uint64_t head = seen->head; head <= seen->head_after; head++)
        if (head > p->cursor + log)
            add_spot(next, head - log);
    if (next->n == 0)
        return model_wrong(p, "gone, behind %llu, with the newest %llu",
                           R(p->cursor), R(seen->head_after));
    return true;
}

/* It timed out, or a callback ended it. It may have seen some of the events
 * that it waits for: it goes on behind any but the last of them. */
static bool
is_not_met(model_place *p, spots *next)
{
    const model_watch *x = p->x;
    const model_seen *seen = p->seen;
    uint64_t known = seen->rc == -ETIMEDOUT ? seen->head : 0;
    uint64_t last = p->cursor, revision = 0;
    unsigned want = wanted_events(p);

    add_spot(next, p->cursor);
    if (seen->from == 0 && seen->to == 0 && seen->rc != -ETIMEDOUT)
        return true; /* the next call will be the first again */
    if (want == 0)
        return model_wrong(p, "a wait for what held at %llu: %s", R(p->cursor),
                           zp_strerror(seen->rc));
    if (x->spec->flags & ZP_LIVE) {
        if (model_has_news(x, p->cursor, seen->head_after, &revision) &&
            revision <= known)
            return model_wrong(p, "a live wait: %s, but %llu is an event",
                               zp_strerror(seen->rc), R(revision));
        return true;
    }
    if (model_count(x, p->cursor, known, want, &revision) == want)
        return model_wrong(p, "a wait: %s, but it had to end at %llu",
                           zp_strerror(seen->rc), R(revision));
    for (unsigned i = 1; i < want; i++)
        if (model_count(x, last, seen->head_after, 1, &last))
            add_spot(next, last);
    return true;
}

/* What can follow on it, if it stood at P: added to NEXT. */
static bool
is_wait(model_place *p, spots *next)
{
    spots mine = {.n = 0};
    bool right;

    if (p->seen->rc == 0)
        right = is_met(p, &mine);
    else if (p->seen->rc == ZP_EGONE)
        right = is_gone(p, &mine);
    else
        right = is_not_met(p, &mine);
    for (unsigned i = 0; right && i < mine.n; i++)
        add_spot(next, mine.at[i]);
    return right;
}

/* The wait AT can begin anywhere in FROM (and has its first look there);
 * *RET_NEXT: where it can leave its cursor. */
static bool
judge_wait(const model_watch *x, size_t at, const spots *from, bool first,
           spots *ret_next, model_complaint *complaint)
{
    bool right = false;
    model_place p;

    ret_next->n = 0;
    for (unsigned i = 0; i < from->n; i++) {
        model_start(&p, x, from->at[i], complaint);
        p.first = first && p.first;
        p.at = at;
        p.seen = &x->seen[at];
        right |= is_wait(&p, ret_next);
    }
    if (right)
        complaint->text[0] = '\0'; /* of beginnings that do not fit */
    return right;
}

/* Where its first call can have begun. */
static void
first_spots(const model_watch *x, const model_seen *seen, spots *ret)
{
    uint64_t low, high;

    ret->n = 0;
    model_range(x, seen->head, seen->head_after, &low, &high);
    if ((x->spec->flags & ZP_SINCE_TIME) && x->worker->c->is_short)
        add_spot(ret, 0);
    for (uint64_t s = low; s <= high; s++)
        add_spot(ret, s);
}

/* Is there more for it, wherever it stands? */
static bool
waits_miss(const model_watch *x, const spots *where, uint64_t *ret)
{
    unsigned want = x->spec->count ? x->spec->count : 1;
    bool more = true;

    for (unsigned i = 0; i < where->n && more; i++)
        more =
            x->spec->flags & ZP_LIVE
                ? model_has_news(x, where->at[i], UINT64_MAX, ret)
                : model_count(x, where->at[i], UINT64_MAX, want, ret) == want;
    return more && where->n;
}

/* Calls with one cursor follow on each other; without, or before there is one,
 * each is the first. */
int
model_judge_waits(const model_watch *x, model_complaint *complaint)
{
    spots where = {.n = 0}, next;
    uint64_t missing = 0;

    for (size_t i = 0; i < x->n; i++) {
        bool first = x->seen[i].from == 0;

        if (first)
            first_spots(x, &x->seen[i], &where);
        if (!judge_wait(x, i, &where, first, &next, complaint))
            return WRONG;
        where = next;
    }
    if (x->spec->mode == FRESH_WAIT ||
        (x->cursor && !waits_miss(x, &where, &missing)))
        return RIGHT;
    complaint->at = x->n; /* or it has not begun */
    snprintf(complaint->text, sizeof complaint->text,
             "the wait for %llu has not ended", R(missing));
    return SHORT_OF;
}
