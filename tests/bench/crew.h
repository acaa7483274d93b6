/*
 * crew.h - the other processes of a side: watchers, writers, forwarders,
 * servers. Each is executed, not only forked, so that it shares no memory and
 * no library state with the side that started it; each dies with it. What they
 * count lies in one page of shared memory, and nobody spins: waiting is done
 * in futexes.
 */
#ifndef ZP_BENCH_CREW_H
#define ZP_BENCH_CREW_H

#include <stdatomic.h>
#include <sys/types.h>

#include "tests/bench/side.h"

#define CREW_MAX 128
#define CREW_SAMPLES 65536 /* in a lane */

/* Which latency it is, where two are measured side by side. */
enum { CREW_LANE, CREW_BASE, CREW_LANES };

typedef struct crew_shared {
    _Atomic uint32_t ready;     /* members that are set up */
    _Atomic uint32_t failed;    /* members that gave up, for the reason below */
    _Atomic uint32_t go;        /* the round that hammers now */
    _Atomic uint32_t arrived;   /* who has it: see each measure */
    _Atomic uint32_t n_samples; /* of all lanes */
    _Atomic int64_t stamp;      /* when the set began */
    _Atomic int64_t last;       /* when the latest of them arrived */
    _Atomic int64_t until;      /* when to stop */
    _Atomic uint64_t target;
    char address[256];
    char why[256];
    struct {
        _Atomic uint32_t n;
        int64_t ns[CREW_SAMPLES];
    } lane[CREW_LANES];
    struct {
        _Atomic uint64_t count;
        _Atomic int64_t longest; /* ns */
        uint64_t apart[6];
    } member[CREW_MAX];
} crew_shared;

struct crew {
    crew_shared *shared;
    pid_t pid[CREW_MAX];
    unsigned n;
};

/* Make SIDE's crew, with nobody in it. */
int crew_new(struct side *side);
struct crew *crew_free(struct crew *crew); /* kills and reaps all of them */

/* In a member: map the shared memory; leave the reason of a failure there. */
int crew_join(struct side *side);
void crew_complain(struct side *side, const char *role, unsigned index);

/* Start N members of ROLE, with indices from 0 on. */
int crew_start(struct side *side, const char *role, unsigned n);

/* Start any program, silenced, as a member. */
int crew_exec(struct side *side, const char *const argv[], pid_t *ret_pid);

/* Wait until *WORD has reached AT_LEAST, or a member failed, or SECONDS have
 * passed (then the reason is that WHAT did not happen). */
int crew_wait(struct side *side, _Atomic uint32_t *word, uint32_t at_least,
              double seconds, const char *what);

/* Add one to *WORD and wake who waits for it. */
void crew_add(_Atomic uint32_t *word);

/* In a watcher: note one latency. A lane has one writer. */
void crew_sample(struct side *side, int64_t ns);
void crew_sample_in(struct side *side, unsigned lane, int64_t ns);

/* In one of N watchers of the same key: this one has it, at NOW. The last one
 * wakes the writer, who finds in `last` when that was. */
void crew_arrive(struct side *side, int64_t now, uint32_t n);

/* A round of N_SETS sets with a pause after each: SET is to write the time
 * that it is given. Reports the p50 of the samples as "us". crew_latency():
 * one watcher, which calls crew_sample(). crew_beside(): SET and BASE in turn,
 * each with a watcher of its own, and the p50 of CREW_BASE as "base".
 * crew_fanout(): N watchers, which call crew_arrive(); the time of the last
 * one counts. */
typedef int crew_set(struct side *side, int64_t now);
int crew_latency(struct side *side, crew_set *set, uint32_t n_sets);
int crew_beside(struct side *side, crew_set *set, crew_set *base,
                uint32_t n_sets);
int crew_fanout(struct side *side, crew_set *set, uint32_t n_sets);

/* A round of one watcher that gets N_SETS events as fast as they come; it calls
 * crew_count() at each. Reports "rate" per second. */
int crew_events(struct side *side, crew_set *set, uint32_t n_sets);
void crew_count(struct side *side);

/* Set again and again until N members are ready (each says so at its first
 * event): whatever way a side subscribes, this is when it works. */
int crew_until_ready(struct side *side, crew_set *set, uint32_t n);

/* A round in which N members do OP for SECONDS: reports "rate" per second,
 * the "longest" single one in ms and the "share" of the luckiest member over
 * that of the unluckiest. The members run crew_hammer(). */
int crew_hammer_round(struct side *side, unsigned n, double seconds);
int crew_hammer(struct side *side, unsigned index, side_op *op);

/* Report the Pss of N processes, the mean, as "kib"; RSS of one in KiB. */
int crew_report_pss(struct side *side, const pid_t *pids, unsigned n);
int crew_rss(struct side *side, pid_t pid, double *ret_kib);

#endif
