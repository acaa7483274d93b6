/*
 * crew_rounds.c - the rounds that need more than one process, the same for all
 * sides: only how one sets and how one hears of it differs.
 *
 * The clock is CLOCK_MONOTONIC, one for all processes of the machine. A set's
 * time goes with it, in the value or, where the event does not carry the
 * value, in the shared page. In a measure of latency the writer waits until the
 * set was heard of, and then pauses: there is never more than one on its way,
 * and all sleep again when it begins.
 */
#include "tests/bench/crew.h"

#define PATIENCE 10.0 /* seconds until something counts as lost */

int
crew_until_ready(struct side *side, crew_set *set, uint32_t n)
{
    crew_shared *s = side->crew->shared;
    int64_t end = side_now() + (int64_t)(3 * PATIENCE * 1e9);

    while (atomic_load(&s->ready) < n) {
        if (set(side, side_now()) != SIDE_OK)
            return SIDE_FAIL;
        if (crew_wait(side, &s->ready, n, 0.02, "ready") == SIDE_OK)
            break;
        if (atomic_load(&s->failed) || side_now() > end)
            return SIDE_FAIL;
    }
    side_sleep(100000000); /* for the last of these sets to arrive */
    return SIDE_OK;
}

void
crew_sample_in(struct side *side, unsigned lane, int64_t ns)
{
    crew_shared *s = side->crew->shared;
    uint32_t i = atomic_load_explicit(&s->lane[lane].n, memory_order_relaxed);

    if (i < CREW_SAMPLES)
        s->lane[lane].ns[i] = ns;
    atomic_store(&s->lane[lane].n, i + 1);
    crew_add(&s->n_samples);
}

void
crew_sample(struct side *side, int64_t ns)
{
    crew_sample_in(side, CREW_LANE, ns);
}

static void
forget_samples(crew_shared *s)
{
    for (int i = 0; i < CREW_LANES; i++)
        atomic_store(&s->lane[i].n, 0);
    atomic_store(&s->n_samples, 0);
}

/* Pause, set, and wait until somebody has heard of it. */
static int
set_and_wait(struct side *side, crew_set *set)
{
    crew_shared *s = side->crew->shared;
    uint32_t before = atomic_load(&s->n_samples);
    int64_t now;

    side_pause();
    now = side_now();
    atomic_store(&s->stamp, now);
    if (set(side, now) != SIDE_OK)
        return SIDE_FAIL;
    return crew_wait(side, &s->n_samples, before + 1, PATIENCE, "the event");
}

static int
report_lane(struct side *side, const char *name, unsigned lane, uint32_t n)
{
    crew_shared *s = side->crew->shared;

    if (atomic_load(&s->lane[lane].n) != n)
        return side_fail(side, "%u events of %u sets",
                         atomic_load(&s->lane[lane].n), n);
    side_report(side, name, side_percentile(s->lane[lane].ns, n, 0.5) / 1e3);
    return SIDE_OK;
}

int
crew_latency(struct side *side, crew_set *set, uint32_t n_sets)
{
    forget_samples(side->crew->shared);
    for (uint32_t i = 0; i < n_sets; i++)
        if (set_and_wait(side, set) != SIDE_OK)
            return SIDE_FAIL;
    return report_lane(side, "us", CREW_LANE, n_sets);
}

int
crew_beside(struct side *side, crew_set *set, crew_set *base, uint32_t n_sets)
{
    forget_samples(side->crew->shared);
    for (uint32_t i = 0; i < n_sets; i++)
        if (set_and_wait(side, base) != SIDE_OK ||
            set_and_wait(side, set) != SIDE_OK)
            return SIDE_FAIL;
    if (report_lane(side, "us", CREW_LANE, n_sets) != SIDE_OK)
        return SIDE_FAIL;
    return report_lane(side, "base", CREW_BASE, n_sets);
}

void
crew_arrive(struct side *side, int64_t now, uint32_t n)
{
    crew_shared *s = side->crew->shared;
    int64_t last = atomic_load(&s->last);

    while (last < now && !atomic_compare_exchange_weak(&s->last, &last, now))
        ;
    if (atomic_fetch_add(&s->target, 1) + 1 == n)
        crew_add(&s->arrived);
}

int
crew_fanout(struct side *side, crew_set *set, uint32_t n_sets)
{
    crew_shared *s = side->crew->shared;
    static int64_t samples[CREW_SAMPLES];

    if (n_sets > CREW_SAMPLES)
        return side_fail(side, "too many sets");
    for (uint32_t i = 0; i < n_sets; i++) {
        int64_t now;

        side_pause();
        atomic_store(&s->arrived, 0);
        atomic_store(&s->target, 0);
        atomic_store(&s->last, 0);
        now = side_now();
        if (set(side, now) != SIDE_OK ||
            crew_wait(side, &s->arrived, 1, PATIENCE, "the last watcher") !=
                SIDE_OK)
            return SIDE_FAIL;
        samples[i] = atomic_load(&s->last) - now;
    }
    side_report(side, "us", side_percentile(samples, n_sets, 0.5) / 1e3);
    return SIDE_OK;
}

void
crew_count(struct side *side)
{
    crew_shared *s = side->crew->shared;
    uint64_t n;

    n = atomic_load_explicit(&s->member[0].count, memory_order_relaxed) + 1;
    atomic_store_explicit(&s->member[0].count, n, memory_order_relaxed);
    if (n == atomic_load_explicit(&s->target, memory_order_relaxed)) {
        atomic_store(&s->last, side_now());
        crew_add(&s->arrived);
    }
}

int
crew_events(struct side *side, crew_set *set, uint32_t n_sets)
{
    crew_shared *s = side->crew->shared;
    int64_t start;

    atomic_store(&s->arrived, 0);
    atomic_store(&s->target, atomic_load(&s->member[0].count) + n_sets);
    start = side_now();
    for (uint32_t i = 0; i < n_sets; i++)
        if (set(side, start + i) != SIDE_OK)
            return SIDE_FAIL;
    if (crew_wait(side, &s->arrived, 1, PATIENCE, "the last event") != SIDE_OK)
        return side_fail(
            side, "%llu events missing",
            (unsigned long long)(atomic_load(&s->target) -
                                 atomic_load(&s->member[0].count)));
    side_report(side, "rate",
                n_sets * 1e9 / (double)(atomic_load(&s->last) - start));
    return SIDE_OK;
}

int
crew_hammer(struct side *side, unsigned index, side_op *op)
{
    crew_shared *s = side->crew->shared;

    for (uint32_t round = 1;; round++) {
        uint64_t n = 0;
        int64_t longest = 0;
        int64_t until, before, now;

        crew_add(&s->ready);
        if (crew_wait(side, &s->go, round, 1e6, "go") != SIDE_OK)
            return SIDE_FAIL;
        until = atomic_load(&s->until);
        for (before = side_now(); before < until; before = now, n++) {
            if (op(side) != SIDE_OK)
                return SIDE_FAIL;
            now = side_now();
            if (now - before > longest)
                longest = now - before;
        }
        atomic_store(&s->member[index].count, n);
        atomic_store(&s->member[index].longest, longest);
    }
}

static void
hammer_report(struct side *side, unsigned n, double seconds)
{
    crew_shared *s = side->crew->shared;
    uint64_t least = UINT64_MAX, most = 0, sum = 0;
    int64_t longest = 0;

    for (unsigned i = 0; i < n; i++) {
        uint64_t count = atomic_load(&s->member[i].count);
        int64_t ns = atomic_load(&s->member[i].longest);

        sum += count;
        least = count < least ? count : least;
        most = count > most ? count : most;
        longest = ns > longest ? ns : longest;
    }
    side_report(side, "rate", (double)sum / seconds);
    side_report(side, "longest", (double)longest / 1e6);
    side_report(side, "share", (double)most / (double)(least ? least : 1));
}

int
crew_hammer_round(struct side *side, unsigned n, double seconds)
{
    crew_shared *s = side->crew->shared;
    uint32_t round = atomic_load(&s->go) + 1;

    if (crew_wait(side, &s->ready, n * round, PATIENCE, "ready") != SIDE_OK)
        return SIDE_FAIL;
    atomic_store(&s->until, side_now() + (int64_t)(seconds * 1e9));
    crew_add(&s->go);
    if (crew_wait(side, &s->ready, n * (round + 1), PATIENCE + seconds,
                  "done") != SIDE_OK)
        return SIDE_FAIL;
    hammer_report(side, n, seconds);
    return SIDE_OK;
}
