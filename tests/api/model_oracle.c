/*
 * model_oracle.c - what a watch must have seen, computed from the journal in
 * the simplest way: go through all entries behind the cursor.
 *
 * A watch is a cursor that moves through the journal. Where it begins is known
 * to lie between two revisions (exactly, if nobody wrote meanwhile); each
 * possible beginning is tried, and what was seen must fit one of them:
 *
 *   buffered   each event is the next one behind the cursor, and at the end
 *              there is none
 *   live       each event is one behind the cursor, with none between it and
 *              what was known before the run that called it
 *   a wait     the so-manieth behind the cursor that it was called with; when
 *              it timed out there were not so many
 *   an iterator that timed out: there was none
 *   an overrun the log, of so many revisions, had passed what it says; there
 *              was no event between the cursor and that
 *
 * One thing is left open: whether a live watch of a condition is told of a
 * revision at which it held, when at a later change it did not. Both are right.
 */
#include "tests/api/model_oracle.h"

#define CLOCK 1000000 /* nanoseconds that a timer may be off */

/* ---------------------------------------------------------------- events -- */

static bool
same_changes(model_place *p, const model_entry *entry)
{
    const model_seen *seen = p->seen;
    int space = model_space(p->x->spec->handle);
    unsigned keys = model_wanted(p->x, entry);
    int n = 0;

    for (int k = 0; k < KEYS; k++) {
        const model_change *c = &seen->changes[n];

        if (!(keys & 1u << k))
            continue;
        if (n++ >= seen->n || c->key != k ||
            c->flags != model_flags(entry, space, k) ||
            c->before != entry->before[space][k] ||
            c->after != entry->after[space][k])
            return model_wrong(p,
                               "revision %llu: the change of %s is not right",
                               R(entry->revision), model_keys[k]);
    }
    if (n != seen->n)
        return model_wrong(p, "revision %llu: %d changes, not %d",
                           R(entry->revision), seen->n, n);
    if (seen->pid != entry->pid)
        return model_wrong(p, "revision %llu: written by %d, not %d",
                           R(entry->revision), seen->pid, entry->pid);
    return model_same_codes(p, seen->snapshot, entry->revision,
                            "the snapshot of") &&
           model_same_codes(p, seen->before, entry->revision - 1,
                            "the snapshot of");
}

static bool
is_first(model_place *p)
{
    const model_seen *seen = p->seen;

    if (!p->first)
        return model_wrong(p, "a first look at %llu that was not due",
                           R(seen->revision));
    if (seen->revision != p->cursor)
        return model_wrong(p, "a first look at %llu, not at %llu",
                           R(seen->revision), R(p->cursor));
    if (seen->n || seen->pid)
        return model_wrong(p, "a first look with changes or a writer");
    p->first = false;
    return model_same_codes(p, seen->snapshot, seen->revision,
                            "the snapshot of");
}

static bool
is_changed(model_place *p)
{
    const model_watch *x = p->x;
    uint64_t revision = p->seen->revision, next = 0;
    unsigned n, i = model_behind(x, revision - 1);
    const model_entry *all = model_all(x, &n);

    if (i == n || all[i].revision != revision)
        return model_wrong(p, "revision %llu: there was none", R(revision));
    if (revision <= p->cursor)
        return model_wrong(p, "revision %llu again, or behind %llu",
                           R(revision), R(p->cursor));
    if (!model_is_event(x, &all[i]))
        return model_wrong(p, "revision %llu is no event", R(revision));
    if (!(x->spec->flags & ZP_LIVE)) {
        if (p->first)
            return model_wrong(p, "revision %llu, but no first look at %llu",
                               R(revision), R(p->cursor));
        model_count(x, p->cursor, UINT64_MAX, 1, &next);
        if (next != revision)
            return model_wrong(p, "revision %llu is missing before %llu",
                               R(next), R(revision));
    } else if (model_count(x, revision, p->seen->head, 1, &next)) {
        return model_wrong(p,
                           "live, but %llu is newer than %llu (%llu was known)",
                           R(next), R(revision), R(p->seen->head));
    }
    p->first = false;
    p->cursor = revision;
    return same_changes(p, &all[i]);
}

static bool
is_overrun(model_place *p)
{
    const model_seen *seen = p->seen;
    uint64_t log = (uint64_t)model_log(p->x->worker->c), next = 0;

    if (seen->to + log != seen->revision)
        return model_wrong(p,
                           "an overrun: lost to %llu, but the newest is %llu",
                           R(seen->to), R(seen->revision));
    if (seen->from <= p->cursor || seen->from > seen->to)
        return model_wrong(
            p, "an overrun from %llu to %llu, and %llu had been seen",
            R(seen->from), R(seen->to), R(p->cursor));
    if (!(p->x->spec->flags & ZP_LIVE) &&
        model_count(p->x, p->cursor, seen->from - 1, 1, &next))
        return model_wrong(p, "an overrun from %llu, but %llu is missing",
                           R(seen->from), R(next));
    if ((p->x->spec->flags & ZP_OLDEST) && p->x->spec->kind == CHANGE &&
        p->events == 0 && seen->from <= p->x->head)
        return model_wrong(
            p, "an overrun from %llu, which it was not to begin with",
            R(seen->from));
    if (seen->n || seen->pid)
        return model_wrong(p, "an overrun with changes or a writer");
    p->cursor = seen->to;
    p->first = false;
    return model_same_codes(p, seen->snapshot, seen->revision,
                            "the snapshot of");
}

/* Its time is over. All that was there by then has come. */
static bool
is_out_of_time(model_place *p)
{
    const model_watch *x = p->x;
    int64_t end = x->registered_ns + (int64_t)(x->spec->timeout * 1e9);
    unsigned n;
    const model_entry *all = model_all(x, &n);

    if (x->spec->timeout <= 0)
        return model_wrong(p, "timed out, without a time");
    if (p->seen->clock < end - CLOCK)
        return model_wrong(p, "timed out %g s too early",
                           1e-9 * (double)(end - p->seen->clock));
    if (p->first)
        return model_wrong(p, "timed out, but no first look");
    p->over = true;
    if (x->spec->flags & ZP_LIVE)
        return true;
    for (unsigned i = model_behind(x, p->cursor); i < n; i++) {
        int64_t ended = __atomic_load_n(&all[i].ended, __ATOMIC_ACQUIRE);

        if (ended && ended < end - CLOCK && model_is_event(x, &all[i]))
            return model_wrong(p, "timed out, but %llu came before that",
                               R(all[i].revision));
    }
    return true;
}

static bool
is_timed_out(model_place *p)
{
    const model_seen *seen = p->seen;
    uint64_t next = 0;

    if (seen->revision < p->cursor)
        return model_wrong(p, "timed out at %llu, before %llu",
                           R(seen->revision), R(p->cursor));
    if (!(p->x->spec->flags & ZP_LIVE) &&
        model_count(p->x, p->cursor, seen->revision, 1, &next))
        return model_wrong(p, "timed out at %llu, but %llu is missing",
                           R(seen->revision), R(next));
    if (seen->n || seen->pid)
        return model_wrong(p, "timed out with changes or a writer");
    return is_out_of_time(p) &&
           model_same_codes(p, seen->snapshot, seen->revision,
                            "the snapshot of");
}

static bool
is_event(model_place *p)
{
    bool right;

    if (p->over)
        return model_wrong(p, "an event behind the last one");
    switch (p->seen->kind) {
    case ZP_FIRST:
        right = is_first(p);
        break;
    case ZP_CHANGED:
        right = is_changed(p);
        break;
    case ZP_OVERRUN:
        right = is_overrun(p);
        break;
    case ZP_TIMEDOUT:
        right = is_timed_out(p);
        break;
    default:
        right = model_wrong(p, "an event of kind %d", p->seen->kind);
    }
    if (++p->events == p->x->spec->count)
        p->over = true;
    return right;
}

/* Is there something that should have come, of what was there at HEAD? (Of a
 * live one: if nothing newer was there by LATER.) */
static bool
misses(const model_place *p, uint64_t head, uint64_t later, uint64_t *ret)
{
    *ret = p->cursor;
    if (p->over)
        return false;
    if (p->x->spec->flags & ZP_LIVE)
        return (model_has_news(p->x, p->cursor, later, ret) && *ret <= head) ||
               (p->first && !model_count(p->x, p->cursor, later, 1, ret));
    return p->first || model_count(p->x, p->cursor, head, 1, ret);
}

static bool
is_nothing(model_place *p)
{
    uint64_t revision;

    if (misses(p, p->seen->head, p->seen->head_after, &revision))
        return model_wrong(p, "no event, but %llu is one", R(revision));
    return true;
}

/* --------------------------------------------------------------- judging -- */

static bool
judge_one(model_place *p)
{
    switch (p->seen->what) {
    case SEEN_EVENT:
        return is_event(p);
    case SEEN_NOTHING:
        return is_nothing(p);
    case SEEN_END:
        return p->over || (p->x->spec->timeout > 0 && is_out_of_time(p)) ||
               model_wrong(p, "no more events, but there are");
    default: /* SEEN_LIVE */
        if (p->seen->revision > p->cursor)
            p->cursor = p->seen->revision;
        p->first = false;
        return true;
    }
}

static int
judge_from(const model_watch *x, uint64_t revision, model_complaint *complaint)
{
    uint64_t missing;
    model_place p;

    model_start(&p, x, revision, complaint);
    for (p.at = 0; p.at < x->n; p.at++) {
        p.seen = &x->seen[p.at];
        if (!judge_one(&p))
            return WRONG;
    }
    if (x->cancelled || !misses(&p, UINT64_MAX, UINT64_MAX, &missing))
        return RIGHT;
    model_wrong(&p, "%llu has not come", R(missing));
    return SHORT_OF;
}

/* Since 0: a moment before all that is in the short log means its beginning,
 * and what was before that is told as lost. */
static int
judge_watch(const model_watch *x, model_complaint *complaint)
{
    uint64_t low, high;
    int best = WRONG;

    model_range(x, x->head, x->head_after, &low, &high);
    if ((x->spec->flags & ZP_SINCE_TIME) && x->worker->c->is_short)
        best = judge_from(x, 0, complaint);
    for (uint64_t s = low; s <= high && best != RIGHT; s++) {
        int verdict = judge_from(x, s, complaint);

        if (verdict < best)
            best = verdict;
    }
    return best;
}

int
model_judge(const model_watch *x, model_complaint *ret)
{
    memset(ret, 0, sizeof *ret);
    if (x->spec->mode >= WAIT)
        return model_judge_waits(x, ret);
    return x->registered ? judge_watch(x, ret) : RIGHT;
}
