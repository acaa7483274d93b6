/*
 * ours_stall.c - one watcher of many is stopped while the state goes on being
 * written: does the state server's memory stay flat, and does the writer
 * notice?
 *
 *     50 processes x 20 watches of a key each; a writer that sets 10^4 times a
 *     second, half of them keys of process 0
 *
 *     5 s                 nobody is stopped: the base
 *     --stall seconds     process 0 is stopped (SIGSTOP); then all of the
 *                         others must have had each event of theirs
 *     5 s                 it goes on, and must hear again: the base, too
 *
 * The sets are paced by the clock, ten at each millisecond; what is reported
 * of them is the time that zp_set_int() takes.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/ours.h"

#define PROCESSES 50
#define WATCHES 20
#define PER_MS 10
#define SAMPLES 600000

struct stall {
    char keys[PROCESSES][WATCHES][16];
    uint64_t sent[PROCESSES];
    uint32_t turn;
    pid_t server;
    double rss; /* the largest seen, KiB */
    struct took {
        uint32_t n;
        int64_t ns[SAMPLES]; /* the latest */
    } stalled, base, *now;
};

static void
key_name(char *key, size_t size, unsigned process, unsigned watch)
{
    snprintf(key, size, "watched-%02u-%02u", process % 100, watch % 100);
}

/* ------------------------------------------------------- the watchers -- */

static unsigned own_index;

static int
on_change(zp_watch *watch, const zp_event *event, void *user)
{
    crew_shared *s = user;

    (void)watch;
    if (zp_event_kind(event) == ZP_OVERRUN)
        atomic_fetch_add(&s->member[own_index].longest, 1);
    if (atomic_fetch_add(&s->member[own_index].count, 1) == 0)
        crew_add(&s->ready);
    return 0;
}

int
ours_stalled(struct side *side, unsigned index)
{
    struct ours o = {0};
    int r;

    side->data = &o;
    own_index = index;
    if (ours_join(side, &o.ctx) != SIDE_OK)
        return SIDE_FAIL;
    for (unsigned i = 0; i < WATCHES; i++) {
        char key[16];

        key_name(key, sizeof(key), index, i);
        r = zp_call_when_change(zp_ctx_state(o.ctx), NULL, ZP_KEYS(key), NULL,
                                on_change, side->crew->shared);
        if (r < 0)
            return ours_fail(side, "zp_call_when_change", r);
    }
    r = zp_run(o.ctx);
    return ours_fail(side, "zp_run", r);
}

/* --------------------------------------------------------- the writer -- */

/* One set: of process 0 and of all the others in turn. */
static int
set_next(struct side *side)
{
    struct ours *o = side->data;
    struct stall *s = o->more;
    uint32_t t = s->turn++;
    unsigned process = t % 2 == 0 ? 0 : 1 + t / 2 % (PROCESSES - 1);
    unsigned watch = t / 2 / (PROCESSES - 1) % WATCHES;
    int64_t before = side_now();
    int r = zp_set_int(o->state, s->keys[process][watch], before);

    if (r < 0)
        return ours_fail(side, "zp_set_int", r);
    s->now->ns[s->now->n++ % SAMPLES] = side_now() - before;
    s->sent[process]++;
    return SIDE_OK;
}

static int
look_at_server(struct side *side)
{
    struct ours *o = side->data;
    struct stall *s = o->more;
    double rss;

    if (crew_rss(side, s->server, &rss) != SIDE_OK)
        return SIDE_FAIL;
    s->rss = rss > s->rss ? rss : s->rss;
    return SIDE_OK;
}

/* Set at the rate for SECONDS, and add to TOOK what a set took. */
static int
write_for(struct side *side, double seconds, struct took *took)
{
    struct ours *o = side->data;
    struct stall *s = o->more;
    int64_t start = side_now();

    s->now = took;
    for (int64_t ms = 0; ms < (int64_t)(seconds * 1e3); ms++) {
        int64_t wait = start + ms * 1000000 - side_now();

        if (wait > 0)
            side_sleep(wait);
        if (side_repeat(side, set_next, PER_MS) != SIDE_OK ||
            (ms % 100 == 0 && look_at_server(side) != SIDE_OK))
            return SIDE_FAIL;
    }
    if (side_now() - start > (int64_t)(seconds * 1.05e9))
        return side_fail(side, "%d sets per second are too much",
                         PER_MS * 1000);
    return SIDE_OK;
}

static void
report_took(struct side *side, struct took *took, const char *p50,
            const char *p99)
{
    uint32_t n = took->n < SAMPLES ? took->n : SAMPLES;

    side_report(side, p50, side_percentile(took->ns, n, 0.50) / 1e3);
    side_report(side, p99, side_percentile(took->ns, n, 0.99) / 1e3);
}

/* Set each process's first key until all have heard of it. */
static int
wake_all(struct side *side, int64_t now)
{
    struct ours *o = side->data;
    struct stall *s = o->more;

    for (unsigned i = 0; i < PROCESSES; i++) {
        int r = zp_set_int(o->state, s->keys[i][0], now);

        if (r < 0)
            return ours_fail(side, "zp_set_int", r);
    }
    return SIDE_OK;
}

int
ours_stall_start(struct side *side)
{
    zp_stats stats = {.size = sizeof(stats)};
    struct ours *o;
    struct stall *s;
    int r;

    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    o = side->data;
    o->more = s = calloc(1, sizeof(*s));
    if (s == NULL)
        return side_fail(side, "out of memory");
    for (unsigned i = 0; i < PROCESSES; i++)
        for (unsigned k = 0; k < WATCHES; k++)
            key_name(s->keys[i][k], sizeof(s->keys[i][k]), i, k);
    if (crew_start(side, "stalled", PROCESSES) != SIDE_OK ||
        crew_until_ready(side, wake_all, PROCESSES) != SIDE_OK)
        return SIDE_FAIL;
    r = zp_ctx_stats(o->ctx, &stats);
    s->server = (pid_t)stats.server_pid;
    return r < 0 ? ours_fail(side, "zp_ctx_stats", r) : SIDE_OK;
}

/* Wait until process I has counted as many events as were sent to it. */
static int
heard_all(struct side *side, unsigned i)
{
    struct ours *o = side->data;
    struct stall *s = o->more;
    crew_shared *c = side->crew->shared;
    int64_t end = side_now() + INT64_C(20000000000);

    while (atomic_load(&c->member[i].count) < s->sent[i] && side_now() < end)
        side_sleep(10000000);
    if (atomic_load(&c->member[i].count) != s->sent[i])
        return side_fail(side, "process %u got %llu events of %llu", i,
                         (unsigned long long)atomic_load(&c->member[i].count),
                         (unsigned long long)s->sent[i]);
    return SIDE_OK;
}

/* Has the stopped one come back? It gets everything, or what the log still had
 * and an overrun. */
static int
hears_again(struct side *side, uint64_t before)
{
    crew_shared *c = side->crew->shared;
    int64_t end = side_now() + INT64_C(20000000000);

    while (atomic_load(&c->member[0].count) == before && side_now() < end)
        side_sleep(10000000);
    if (atomic_load(&c->member[0].count) == before)
        return side_fail(side, "the stopped watcher hears nothing any more");
    if (atomic_load(&c->member[0].longest) == 0)
        return heard_all(side, 0);
    return SIDE_OK;
}

static void
forget_counts(struct side *side)
{
    struct ours *o = side->data;
    struct stall *s = o->more;

    for (unsigned i = 0; i < PROCESSES; i++) {
        atomic_store(&side->crew->shared->member[i].count, 1);
        s->sent[i] = 1;
    }
}

static int
others_heard_all(struct side *side)
{
    for (unsigned i = 1; i < PROCESSES; i++)
        if (heard_all(side, i) != SIDE_OK)
            return SIDE_FAIL;
    return SIDE_OK;
}

int
ours_stall_round(struct side *side)
{
    struct ours *o = side->data;
    struct stall *s = o->more;
    pid_t victim = side->crew->pid[0];
    double before_after = side->quick ? 1.5 : 5;
    uint64_t heard;

    side_sleep(500000000); /* for what woke them all to arrive */
    forget_counts(side);
    if (write_for(side, before_after, &s->base) != SIDE_OK ||
        heard_all(side, 0) != SIDE_OK)
        return SIDE_FAIL;
    kill(victim, SIGSTOP);
    heard = atomic_load(&side->crew->shared->member[0].count);
    if (write_for(side, side->stall, &s->stalled) != SIDE_OK ||
        others_heard_all(side) != SIDE_OK)
        return SIDE_FAIL;
    kill(victim, SIGCONT);
    if (write_for(side, before_after, &s->base) != SIDE_OK ||
        others_heard_all(side) != SIDE_OK ||
        hears_again(side, heard) != SIDE_OK)
        return SIDE_FAIL;
    report_took(side, &s->stalled, "us", "p99");
    report_took(side, &s->base, "base", "base99");
    side_report(side, "kib", s->rss);
    return SIDE_OK;
}
