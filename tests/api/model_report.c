/*
 * model_report.c - a failure, to be read by people: the seed, what is wrong,
 * the watch, what it saw, and the transactions around that.
 */
#include "tests/api/model.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define AROUND 12 /* things seen, and transactions, on both sides */

#define R(revision) ((unsigned long long)(revision))

/* Text that is cut when the report is full. */
typedef struct text {
    char *at;
    size_t left;
} text;

static void say(text *t, const char *format, ...) ZP_PRINTF(2, 3);

static void
say(text *t, const char *format, ...)
{
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(t->at, t->left, format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= t->left)
        n = t->left ? (int)t->left - 1 : 0;
    t->at += n;
    t->left -= (size_t)n;
}

/* True for the first who comes. */
static bool
claim(model_worker *w, text *ret)
{
    static const unsigned claimed = 1;

    if (__atomic_exchange_n(&w->shared->failed, claimed, __ATOMIC_ACQ_REL))
        return false;
    ret->at = w->shared->report;
    ret->left = sizeof w->shared->report;
    say(ret, "seed %llu%s%s, worker %d: ", R(w->c ? w->c->seed : 0),
        w->c && w->c->is_short ? ", short log" : "",
        w->c && w->c->kills ? ", server killed" : "", w->id);
    return true;
}

void
model_fail(model_worker *w, const char *format, ...)
{
    char line[512];
    va_list ap;
    text t;

    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (claim(w, &t))
        say(&t, "%s\n", line);
}

/* --------------------------------------------------------------- a watch -- */

static void
say_flags(text *t, unsigned flags)
{
    static const char *const names[] = {"live",       "own",   "same",
                                        "exclude",    "since", "oldest",
                                        "since_time", "hold"};

    for (int i = 0; i < 8; i++)
        if (flags & 1u << i)
            say(t, " %s", names[i]);
}

static void
say_spec(text *t, const model_watch *x)
{
    static const char *const modes[] = {"callback", "iterator", "wait",
                                        "wait without cursor"};
    static const char *const kinds[] = {"change",    "when",  "equal",
                                        "not_equal", "none",  "not_none",
                                        "truthy",    "falsy", "available"};
    const model_spec *s = x->spec;

    say(t, "watch %d: %s of %s,", x->number, modes[s->mode], kinds[s->kind]);
    for (int k = 0; k < KEYS; k++)
        if (s->keys & 1u << k)
            say(t, " %s", model_keys[k]);
    if (s->kind == EQUAL || s->kind == NOT_EQUAL)
        say(t, " to %s", model_text(s->code));
    if (s->kind == WHEN)
        say(t, " predicate %d", s->predicate);
    say(t, "; handle %d.%d;", x->worker->id, s->handle);
    say_flags(t, s->flags);
    if (s->flags & ZP_SINCE)
        say(t, " %llu", R(x->since));
    if (s->count)
        say(t, " count %u", s->count);
    if (s->timeout > 0)
        say(t, " timeout %g", s->timeout);
    say(t, "; from %llu to %llu\n", R(x->head), R(x->head_after));
}

static void
say_codes(text *t, const model_watch *x, const model_codes codes)
{
    for (int k = 0; k < x->worker->c->n_keys; k++)
        if (codes[k] != ABSENT)
            say(t, " %s=%s", model_keys[k], model_text(codes[k]));
}

static void
say_seen(text *t, const model_watch *x, const model_seen *seen)
{
    static const char *const kinds[] = {"?", "changed", "overrun", "first",
                                        "timed out"};

    if (seen->what == SEEN_NOTHING)
        say(t, "nothing within %g (known: %llu)", seen->timeout, R(seen->head));
    else if (seen->what == SEEN_END)
        say(t, "the end");
    else if (seen->what == SEEN_LIVE)
        say(t, "gone live at %llu", R(seen->revision));
    else if (seen->what == SEEN_WAIT)
        say(t,
            "waited %g, cursor %llu to %llu (known: %llu, then %llu): %d "
            "%llu:",
            seen->timeout, R(seen->from), R(seen->to), R(seen->head),
            R(seen->head_after), seen->rc, R(seen->revision));
    else if (seen->kind == ZP_OVERRUN)
        say(t, "overrun %llu - %llu, now %llu:", R(seen->from), R(seen->to),
            R(seen->revision));
    else
        say(t, "%s %llu (known: %llu)", kinds[seen->kind % 5],
            R(seen->revision), R(seen->head));
    for (int i = 0; i < seen->n && i < KEYS; i++)
        say(t, " %s:%s->%s/%x",
            seen->changes[i].key < 0 ? "?" : model_keys[seen->changes[i].key],
            model_text(seen->changes[i].before),
            model_text(seen->changes[i].after), seen->changes[i].flags);
    say(t, " |");
    if (seen->what == SEEN_EVENT || (seen->what == SEEN_WAIT && !seen->rc))
        say_codes(t, x, seen->snapshot);
    say(t, "\n");
}

static void
say_all_seen(text *t, const model_watch *x, size_t at)
{
    size_t from = at > AROUND ? at - AROUND : 0;

    say(t, "it saw:\n");
    for (size_t i = from; i < x->n && i < at + 3; i++) {
        say(t, "  %s", i == at ? "> " : "  ");
        say_seen(t, x, &x->seen[i]);
    }
}

/* ---------------------------------------------------------- transactions -- */

static void
say_entry(text *t, const model_watch *x, const model_entry *entry)
{
    int space = model_space(x->spec->handle);

    say(t, "  %s%llu by %d.%d:", model_is_event(x, entry) ? "* " : "  ",
        R(entry->revision), entry->writer / HANDLES, entry->writer % HANDLES);
    for (int k = 0; k < KEYS; k++)
        if (entry->written[space] & 1u << k)
            say(t, " %s:%s->%s/%x", model_keys[k],
                model_text(entry->before[space][k]),
                model_text(entry->after[space][k]),
                model_flags(entry, space, k));
    say(t, "\n");
}

/* Around what was seen last before it went wrong, and that. */
static void
say_entries(text *t, const model_watch *x, size_t at)
{
    unsigned n = model_entries(x->worker->shared);
    const model_entry *all = x->worker->shared->entries;
    uint64_t low = 0, high = x->head_after;

    for (size_t i = 0; i < x->n && i <= at; i++) {
        const model_seen *seen = &x->seen[i];

        if (i + 1 < at)
            low = seen->revision ? seen->revision : seen->head;
        if (seen->head > high)
            high = seen->head;
    }
    say(t, "transactions in its namespace (* an event of it):\n");
    for (unsigned i = 0; i < n; i++)
        if (all[i].written[model_space(x->spec->handle)] &&
            all[i].revision + 4 > low &&
            (at >= x->n || all[i].revision < high + 4))
            say_entry(t, x, &all[i]);
}

void
model_fail_watch(const model_watch *x, const model_complaint *complaint)
{
    text t;

    if (!claim(x->worker, &t))
        return;
    say(&t, "%s\n", complaint->text);
    say_spec(&t, x);
    say_all_seen(&t, x, complaint->at);
    say_entries(&t, x, complaint->at);
    if (getenv("ZP_MODEL_STOP"))
        raise(SIGSTOP);
}
