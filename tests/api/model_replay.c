/*
 * model_replay.c - the journal, as the oracle reads it: entry by entry.
 */
#include "tests/api/model_oracle.h"

#include <stdarg.h>
#include <string.h>

/* ------------------------------------------------------------- replaying -- */

const model_entry *
model_all(const model_watch *x, unsigned *ret_n)
{
    *ret_n = model_entries(x->worker->shared);
    return x->worker->shared->entries;
}

unsigned
model_behind(const model_watch *x, uint64_t revision)
{
    unsigned low = 0, high;
    const model_entry *all = model_all(x, &high);

    while (low < high) {
        unsigned middle = low + (high - low) / 2;

        if (all[middle].revision <= revision)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void
model_replay(model_codes ret, const model_watch *x, uint64_t revision)
{
    unsigned n, i = model_behind(x, revision);
    const model_entry *all = model_all(x, &n);

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

unsigned
model_count(const model_watch *x, uint64_t from, uint64_t to, unsigned max,
            uint64_t *ret_last)
{
    unsigned n, found = 0;
    const model_entry *all = model_all(x, &n);

    for (unsigned i = model_behind(x, from); i < n && found < max; i++) {
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

bool
model_has_news(const model_watch *x, uint64_t from, uint64_t to, uint64_t *ret)
{
    unsigned n;
    const model_entry *all = model_all(x, &n);

    for (unsigned i = n; i > 0 && all[i - 1].revision > from; i--) {
        if (all[i - 1].revision > to || !model_wanted(x, &all[i - 1]))
            continue;
        *ret = all[i - 1].revision;
        return model_is_event(x, &all[i - 1]);
    }
    return false;
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
    const model_entry *all = model_all(x, &n);
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
    const model_entry *all = model_all(x, &n);
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

void
model_range(const model_watch *x, uint64_t head, uint64_t head_after,
            uint64_t *low, uint64_t *high)
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

void
model_start(model_place *p, const model_watch *x, uint64_t revision,
            model_complaint *complaint)
{
    model_codes codes;

    memset(p, 0, sizeof *p);
    p->x = x;
    p->cursor = revision;
    p->complaint = complaint;
    model_replay(codes, x, revision);
    p->first = x->spec->kind != CHANGE && model_holds(x, codes);
}

/* ------------------------------------------------------------ complaining --
 */

bool
model_wrong(model_place *p, const char *format, ...)
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

bool
model_same_codes(model_place *p, const model_codes got, uint64_t revision,
                 const char *what)
{
    model_codes wanted;

    model_replay(wanted, p->x, revision);
    for (int k = 0; k < p->x->worker->c->n_keys; k++)
        if (got[k] != wanted[k])
            return model_wrong(p, "%s %llu: %s is %s, not %s", what,
                               R(revision), model_keys[k], model_text(got[k]),
                               model_text(wanted[k]));
    return true;
}
