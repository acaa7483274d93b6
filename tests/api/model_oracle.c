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
#include "tests/api/model.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#define SPOTS 512     /* in the journal where a wait can stand */
#define CLOCK 1000000 /* nanoseconds that a timer may be off */

/* Where a watch stands, if it began at one possible revision. */
typedef struct place {
    const model_watch *x;
    const model_seen *seen; /* the one in hand */
    size_t at;
    uint64_t cursor;
    unsigned events;
    bool first; /* the first look is to come */
    bool over;
    model_complaint *complaint;
} place;

/* ------------------------------------------------------------- replaying -- */

static const model_entry *
entries(const model_watch *x, unsigned *ret_n)
{
    *ret_n = model_entries(x->worker->shared);
    return x->worker->shared->entries;
}

/* The first entry behind REVISION: its number. */
static unsigned
behind(const model_watch *x, uint64_t revision)
{
    unsigned low = 0, high;
    const model_entry *all = entries(x, &high);

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (all[middle].revision <= revision)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The state of X's namespace at REVISION. */
static void
replay(model_codes ret, const model_watch *x, uint64_t revision)
{
    unsigned n, i = behind(x, revision);
    const model_entry *all = entries(x, &n);

    for (int k = 0; k < KEYS; k++)
        ret[k] = i ? all[i - 1].after[model_space(x->spec->handle)][k] : ABSENT;
}

unsigned
model_flags(const model_entry *entry, int space, int key)
{
    int before = entry->before[space][key], after = entry->after[space][key];

    return (before == ABSENT ? ZP_CREATED : 0u) |
           (after == ABSENT ? ZP_DELETED : 0u) |
           (before == after ? ZP_IDENTICAL : 0u);
}

unsigned
model_wanted(const model_watch *x, const model_entry *entry)
{
    const model_spec *s = x->spec;
    int space = model_space(s->handle);
    unsigned keys = entry->written[space];

    if (s->kind == CHANGE && !(s->flags & ZP_OWN) &&
        entry->writer == x->worker->id * HANDLES + s->handle)
        return 0;
    if (s->keys)
        keys &= s->flags & ZP_EXCLUDE ? ~s->keys : s->keys;
    for (int k = 0; k < KEYS; k++)
        if (!(s->flags & ZP_SAME) &&
            entry->before[space][k] == entry->after[space][k])
            keys &= ~(1u << k);
    return keys;
}

bool
model_holds(const model_watch *x, const model_codes codes)
{
    const model_spec *s = x->spec;
    int code = ABSENT;

    for (int k = 0; s->kind > WHEN && k < KEYS; k++)
        if (s->keys == 1u << k)
            code = codes[k];
    switch (s->kind) {
    case CHANGE:
        return true;
    case WHEN:
        return model_predicate(s->predicate, codes, x->worker->c->n_keys);
    case EQUAL:
        return code == s->code;
    case NOT_EQUAL:
        return code != ABSENT && code != s->code;
    case IS_NONE:
        return code == NONE;
    case NOT_NONE:
        return code != ABSENT && code != NONE;
    case TRUTHY:
        return model_truthy(code);
    case FALSY:
        return code != ABSENT && !model_truthy(code);
    default:
        return code != ABSENT;
    }
}

bool
model_is_event(const model_watch *x, const model_entry *entry)
{
    return model_wanted(x, entry) &&
           model_holds(x, entry->after[model_space(x->spec->handle)]);
}

/* How many events there are in (FROM, TO], at most MAX; *RET_LAST: where the
 * last of them is. */
static unsigned
count_events(const model_watch *x, uint64_t from, uint64_t to, unsigned max,
             uint64_t *ret_last)
{
    unsigned n, found = 0;
    const model_entry *all = entries(x, &n);

    for (unsigned i = behind(x, from); i < n && found < max; i++) {
        if (all[i].revision > to)
            break;
        if (!model_is_event(x, &all[i]))
            continue;
        found++;
        if (ret_last)
            *ret_last = all[i].revision;
    }
    return found;
}

/* Must a live watch that has seen all up to FROM be told of something up to
 * TO? If the newest change is an event, yes. */
static bool
has_news(const model_watch *x, uint64_t from, uint64_t to, uint64_t *ret)
{
    unsigned n;
    const model_entry *all = entries(x, &n);

    for (unsigned i = n; i > 0 && all[i - 1].revision > from; i--) {
        if (all[i - 1].revision > to || !model_wanted(x, &all[i - 1]))
            continue;
        *ret = all[i - 1].revision;
        return model_is_event(x, &all[i - 1]);
    }
    return false;
}

/* ------------------------------------------------------------ complaining --
 */

static bool wrong(place *p, const char *format, ...) ZP_PRINTF(2, 3);

static bool
wrong(place *p, const char *format, ...)
{
    va_list ap;

    /* The beginning that explains most is the one to speak of. */
    if (p->complaint->text[0] && p->at < p->complaint->at)
        return false;
    p->complaint->at = p->at;
    va_start(ap, format);
    vsnprintf(p->complaint->text, sizeof p->complaint->text, format, ap);
    va_end(ap);
    return false;
}

#define R(revision) ((unsigned long long)(revision))

/* ---------------------------------------------------------------- events -- */

static bool
same_codes(place *p, const model_codes got, uint64_t revision, const char *what)
{
    model_codes wanted;

    replay(wanted, p->x, revision);
    for (int k = 0; k < p->x->worker->c->n_keys; k++)
        if (got[k] != wanted[k])
            return wrong(p, "%s %llu: %s is %s, not %s", what, R(revision),
                         model_keys[k], model_text(got[k]),
                         model_text(wanted[k]));
    return true;
}

static bool
same_changes(place *p, const model_entry *entry)
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
            return wrong(p, "revision %llu: the change of %s is not right",
                         R(entry->revision), model_keys[k]);
    }
    if (n != seen->n)
        return wrong(p, "revision %llu: %d changes, not %d", R(entry->revision),
                     seen->n, n);
    if (seen->pid != entry->pid)
        return wrong(p, "revision %llu: written by %d, not %d",
                     R(entry->revision), seen->pid, entry->pid);
    return same_codes(p, seen->snapshot, entry->revision, "the snapshot of") &&
           same_codes(p, seen->before, entry->revision - 1, "the snapshot of");
}

static bool
is_first(place *p)
{
    const model_seen *seen = p->seen;

    if (!p->first)
        return wrong(p, "a first look at %llu that was not due",
                     R(seen->revision));
    if (seen->revision != p->cursor)
        return wrong(p, "a first look at %llu, not at %llu", R(seen->revision),
                     R(p->cursor));
    if (seen->n || seen->pid)
        return wrong(p, "a first look with changes or a writer");
    p->first = false;
    return same_codes(p, seen->snapshot, seen->revision, "the snapshot of");
}

static bool
is_changed(place *p)
{
    const model_watch *x = p->x;
    uint64_t revision = p->seen->revision, next = 0;
    unsigned n, i = behind(x, revision - 1);
    const model_entry *all = entries(x, &n);

    if (i == n || all[i].revision != revision)
        return wrong(p, "revision %llu: there was none", R(revision));
    if (revision <= p->cursor)
        return wrong(p, "revision %llu again, or behind %llu", R(revision),
                     R(p->cursor));
    if (!model_is_event(x, &all[i]))
        return wrong(p, "revision %llu is no event", R(revision));
    if (!(x->spec->flags & ZP_LIVE)) {
        if (p->first)
            return wrong(p, "revision %llu, but no first look at %llu",
                         R(revision), R(p->cursor));
        count_events(x, p->cursor, UINT64_MAX, 1, &next);
        if (next != revision)
            return wrong(p, "revision %llu is missing before %llu", R(next),
                         R(revision));
    } else if (count_events(x, revision, p->seen->head, 1, &next)) {
        return wrong(p, "live, but %llu is newer than %llu (%llu was known)",
                     R(next), R(revision), R(p->seen->head));
    }
    p->first = false;
    p->cursor = revision;
    return same_changes(p, &all[i]);
}

static bool
is_overrun(place *p)
{
    const model_seen *seen = p->seen;
    uint64_t log = (uint64_t)model_log(p->x->worker->c), next = 0;

    if (seen->to + log != seen->revision)
        return wrong(p, "an overrun: lost to %llu, but the newest is %llu",
                     R(seen->to), R(seen->revision));
    if (seen->from <= p->cursor || seen->from > seen->to)
        return wrong(p, "an overrun from %llu to %llu, and %llu had been seen",
                     R(seen->from), R(seen->to), R(p->cursor));
    if (!(p->x->spec->flags & ZP_LIVE) &&
        count_events(p->x, p->cursor, seen->from - 1, 1, &next))
        return wrong(p, "an overrun from %llu, but %llu is missing",
                     R(seen->from), R(next));
    if ((p->x->spec->flags & ZP_OLDEST) && p->x->spec->kind == CHANGE &&
        p->events == 0 && seen->from <= p->x->head)
        return wrong(p, "an overrun from %llu, which it was not to begin with",
                     R(seen->from));
    if (seen->n || seen->pid)
        return wrong(p, "an overrun with changes or a writer");
    p->cursor = seen->to;
    p->first = false;
    return same_codes(p, seen->snapshot, seen->revision, "the snapshot of");
}

/* Its time is over. All that was there by then has come. */
static bool
is_out_of_time(place *p)
{
    const model_watch *x = p->x;
    int64_t end = x->registered_ns + (int64_t)(x->spec->timeout * 1e9);
    unsigned n;
    const model_entry *all = entries(x, &n);

    if (x->spec->timeout <= 0)
        return wrong(p, "timed out, without a time");
    if (p->seen->clock < end - CLOCK)
        return wrong(p, "timed out %g s too early",
                     1e-9 * (double)(end - p->seen->clock));
    if (p->first)
        return wrong(p, "timed out, but no first look");
    p->over = true;
    if (x->spec->flags & ZP_LIVE)
        return true;
    for (unsigned i = behind(x, p->cursor); i < n; i++) {
        int64_t ended = __atomic_load_n(&all[i].ended, __ATOMIC_ACQUIRE);

        if (ended && ended < end - CLOCK && model_is_event(x, &all[i]))
            return wrong(p, "timed out, but %llu came before that",
                         R(all[i].revision));
    }
    return true;
}

static bool
is_timed_out(place *p)
{
    const model_seen *seen = p->seen;
    uint64_t next = 0;

    if (seen->revision < p->cursor)
        return wrong(p, "timed out at %llu, before %llu", R(seen->revision),
                     R(p->cursor));
    if (!(p->x->spec->flags & ZP_LIVE) &&
        count_events(p->x, p->cursor, seen->revision, 1, &next))
        return wrong(p, "timed out at %llu, but %llu is missing",
                     R(seen->revision), R(next));
    if (seen->n || seen->pid)
        return wrong(p, "timed out with changes or a writer");
    return is_out_of_time(p) &&
           same_codes(p, seen->snapshot, seen->revision, "the snapshot of");
}

static bool
is_event(place *p)
{
    bool right;

    if (p->over)
        return wrong(p, "an event behind the last one");
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
        right = wrong(p, "an event of kind %d", p->seen->kind);
    }
    if (++p->events == p->x->spec->count)
        p->over = true;
    return right;
}

/* Is there something that should have come, of what was there at HEAD? (Of a
 * live one: if nothing newer was there by LATER.) */
static bool
misses(const place *p, uint64_t head, uint64_t later, uint64_t *ret)
{
    *ret = p->cursor;
    if (p->over)
        return false;
    if (p->x->spec->flags & ZP_LIVE)
        return (has_news(p->x, p->cursor, later, ret) && *ret <= head) ||
               (p->first && !count_events(p->x, p->cursor, later, 1, ret));
    return p->first || count_events(p->x, p->cursor, head, 1, ret);
}

static bool
is_nothing(place *p)
{
    uint64_t revision;

    if (misses(p, p->seen->head, p->seen->head_after, &revision))
        return wrong(p, "no event, but %llu is one", R(revision));
    return true;
}

/* ----------------------------------------------------------------- waits -- */

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
is_live_wait(place *p)
{
    const model_watch *x = p->x;
    uint64_t revision = p->seen->revision, next;
    unsigned n, i = behind(x, revision - 1);
    const model_entry *all = entries(x, &n);

    if (p->first && revision == p->cursor)
        return true;
    if (revision <= p->cursor || i == n || all[i].revision != revision ||
        !model_is_event(x, &all[i]))
        return wrong(p, "a wait behind %llu came to its end at %llu",
                     R(p->cursor), R(revision));
    if (count_events(x, revision, p->seen->head, 1, &next))
        return wrong(p, "a live wait: %llu is newer than %llu (%llu was known)",
                     R(next), R(revision), R(p->seen->head));
    return true;
}

/* The log had passed it, and the condition holds at what was the newest. */
static bool
is_late_wait(const place *p)
{
    const model_seen *seen = p->seen;
    model_codes codes;

    if (p->x->spec->kind == CHANGE || seen->revision < seen->head ||
        seen->revision < p->cursor + (uint64_t)model_log(p->x->worker->c) + 1)
        return false;
    replay(codes, p->x, seen->revision);
    return model_holds(p->x, codes);
}

/* How many events it waits for, the first look apart. */
static unsigned
wanted_events(const place *p)
{
    unsigned count = p->x->spec->count ? p->x->spec->count : 1;

    return count - p->first;
}

static bool
is_met(place *p, spots *next)
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
    } else if (count_events(x, p->cursor, UINT64_MAX, want, &revision) < want ||
               revision != p->seen->revision) {
        return wrong(p, "a wait behind %llu came to its end at %llu, not %llu",
                     R(p->cursor), R(p->seen->revision), R(revision));
    }
    add_spot(next, revision);
    return same_codes(p, p->seen->snapshot, revision, "the snapshot of");
}

/* Told of the loss, it goes on with what was retained at that moment. */
static bool
is_gone(place *p, spots *next)
{
    const model_seen *seen = p->seen;
    uint64_t log = (uint64_t)model_log(p->x->worker->c);

    for (uint64_t head = seen->head; head <= seen->head_after; head++)
        if (head > p->cursor + log)
            add_spot(next, head - log);
    if (next->n == 0)
        return wrong(p, "gone, behind %llu, with the newest %llu", R(p->cursor),
                     R(seen->head_after));
    return true;
}

/* It timed out, or a callback ended it. It may have seen some of the events
 * that it waits for: it goes on behind any but the last of them. */
static bool
is_not_met(place *p, spots *next)
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
        return wrong(p, "a wait for what held at %llu: %s", R(p->cursor),
                     zp_strerror(seen->rc));
    if (x->spec->flags & ZP_LIVE) {
        if (has_news(x, p->cursor, seen->head_after, &revision) &&
            revision <= known)
            return wrong(p, "a live wait: %s, but %llu is an event",
                         zp_strerror(seen->rc), R(revision));
        return true;
    }
    if (count_events(x, p->cursor, known, want, &revision) == want)
        return wrong(p, "a wait: %s, but it had to end at %llu",
                     zp_strerror(seen->rc), R(revision));
    for (unsigned i = 1; i < want; i++)
        if (count_events(x, last, seen->head_after, 1, &last))
            add_spot(next, last);
    return true;
}

/* What can follow on it, if it stood at P: added to NEXT. */
static bool
is_wait(place *p, spots *next)
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

/* ------------------------------------------------------------- beginnings --
 */

/* The log may silently have dropped what a watch from the oldest on would have
 * seen first, but only what was there when it was registered. */
static void
oldest_range(const model_watch *x, uint64_t head, uint64_t *low, uint64_t *high)
{
    uint64_t log = (uint64_t)model_log(x->worker->c);
    unsigned n;
    const model_entry *all = entries(x, &n);
    uint64_t newest = n ? all[n - 1].revision : head;

    *low = *low > log ? *low - log : 0;
    *high = newest > log ? newest - log : 0;
    if (*high > head)
        *high = head;
    if (*high < *low)
        *high = *low;
}

/* By the wall clock: what was surely before that moment, and what after. */
static void
time_range(const model_watch *x, uint64_t *low, uint64_t *high)
{
    const int64_t rounding = 1000; /* of a time as double */
    unsigned n;
    const model_entry *all = entries(x, &n);
    uint64_t before = n ? all[0].revision - 1 : *low;

    for (unsigned i = 0; i < n; i++) {
        int64_t end = __atomic_load_n(&all[i].ended, __ATOMIC_ACQUIRE);

        if (all[i].begun > x->since_ns + rounding) {
            if (all[i].revision - 1 < *high)
                *high = all[i].revision - 1;
            break;
        }
        if (end && end < x->since_ns - rounding)
            before = all[i].revision;
    }
    *low = before < *high ? before : *high;
}

static void
range(const model_watch *x, uint64_t head, uint64_t head_after, uint64_t *low,
      uint64_t *high)
{
    *low = head;
    *high = head_after;
    if (x->spec->flags & ZP_SINCE)
        *low = *high = x->since;
    else if (x->spec->flags & ZP_OLDEST)
        oldest_range(x, head_after, low, high);
    else if (x->spec->flags & ZP_SINCE_TIME)
        time_range(x, low, high);
}

static void
start(place *p, const model_watch *x, uint64_t revision,
      model_complaint *complaint)
{
    model_codes codes;

    memset(p, 0, sizeof *p);
    p->x = x;
    p->cursor = revision;
    p->complaint = complaint;
    replay(codes, x, revision);
    p->first = x->spec->kind != CHANGE && model_holds(x, codes);
}

/* --------------------------------------------------------------- judging -- */

static bool
judge_one(place *p)
{
    switch (p->seen->what) {
    case SEEN_EVENT:
        return is_event(p);
    case SEEN_NOTHING:
        return is_nothing(p);
    case SEEN_END:
        return p->over || (p->x->spec->timeout > 0 && is_out_of_time(p)) ||
               wrong(p, "no more events, but there are");
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
    place p;

    start(&p, x, revision, complaint);
    for (p.at = 0; p.at < x->n; p.at++) {
        p.seen = &x->seen[p.at];
        if (!judge_one(&p))
            return WRONG;
    }
    if (x->cancelled || !misses(&p, UINT64_MAX, UINT64_MAX, &missing))
        return RIGHT;
    wrong(&p, "%llu has not come", R(missing));
    return SHORT_OF;
}

/* Since 0: a moment before all that is in the short log means its beginning,
 * and what was before that is told as lost. */
static int
judge_watch(const model_watch *x, model_complaint *complaint)
{
    uint64_t low, high;
    int best = WRONG;

    range(x, x->head, x->head_after, &low, &high);
    if ((x->spec->flags & ZP_SINCE_TIME) && x->worker->c->is_short)
        best = judge_from(x, 0, complaint);
    for (uint64_t s = low; s <= high && best != RIGHT; s++) {
        int verdict = judge_from(x, s, complaint);

        if (verdict < best)
            best = verdict;
    }
    return best;
}

/* The wait AT can begin anywhere in FROM (and has its first look there);
 * *RET_NEXT: where it can leave its cursor. */
static bool
judge_wait(const model_watch *x, size_t at, const spots *from, bool first,
           spots *ret_next, model_complaint *complaint)
{
    bool right = false;
    place p;

    ret_next->n = 0;
    for (unsigned i = 0; i < from->n; i++) {
        start(&p, x, from->at[i], complaint);
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
    range(x, seen->head, seen->head_after, &low, &high);
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
                ? has_news(x, where->at[i], UINT64_MAX, ret)
                : count_events(x, where->at[i], UINT64_MAX, want, ret) == want;
    return more && where->n;
}

/* Calls with one cursor follow on each other; without, or before there is one,
 * each is the first. */
static int
judge_waits(const model_watch *x, model_complaint *complaint)
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

int
model_judge(const model_watch *x, model_complaint *ret)
{
    memset(ret, 0, sizeof *ret);
    if (x->spec->mode >= WAIT)
        return judge_waits(x, ret);
    return x->registered ? judge_watch(x, ret) : RIGHT;
}
