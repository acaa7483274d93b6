/*
 * side.h - one side of the benchmark (ours, the floor, the peer): a program
 * that the driver starts once per measure and then asks, round by round.
 *
 *     driver                        side
 *     exec PROGRAM MEASURE DIR  ->  start: set up, warm up
 *                               <-  "ready" | "skip WHY" | "fail WHY"
 *     "go"                      ->  one round
 *                               <-  "ok NAME=VALUE ..." | "fail WHY"
 *     end of input              ->  stop: clean up, exit
 *
 * Between its rounds a side sleeps in read(), so that the sides of a measure
 * can take turns, each with its data warm, on the same stretch of time.
 *
 * The same program, with --role, is also a member of its side's crew (crew.h).
 */
#ifndef ZP_BENCH_SIDE_H
#define ZP_BENCH_SIDE_H

#include <stdbool.h>
#include <stdint.h>

#define SIDE_OK 0
#define SIDE_FAIL (-1)
#define SIDE_SKIP 1

/* The same for all sides, or they would not be comparable. */
#define SIDE_KEYS 10000  /* where no other number is told */
#define SIDE_RING 262144 /* log rows of a state: with fewer it still grows */
#define SIDE_WARM(side)                                                        \
    ((side)->quick ? SIDE_RING / 8                                             \
                   : SIDE_RING) /* sets before the first round */
#define SIDE_IDLERS 16          /* idle processes whose memory is measured */
#define SIDE_WATCHERS 64        /* of one key */
#define SIDE_WATCHES 100        /* of a key each, in one process */
#define SIDE_HAMMERS 8          /* processes that increment one key */
#define SIDE_CHILDREN 100       /* processes that are started as one */
#define SIDE_SPAWN_WARM 10      /* processes before the first round */
#define SIDE_SPAWNS(side) ((side)->quick ? 20u : 50u) /* in a round */
#define SIDE_KILLS(side) ((side)->quick ? 15u : 40u)  /* likewise */
#define SIDE_SETS(side)                                                        \
    ((side)->quick ? 60u : 100u) /* in a round of latency                      \
                                  */

/* Of maps: a round has so many items. */
#define SIDE_WORKERS 2
#define SIDE_ITEMS(side) ((side)->quick ? 300000u : 1000000u)
#define SIDE_SINGLE_ITEMS(side) ((side)->quick ? 5000u : 20000u)
#define SIDE_SPINS(side) ((side)->quick ? 300u : 600u)
#define SIDE_SPIN 1000000 /* ns of CPU time that each of these takes */
#define SIDE_LARGE_ITEMS(side) ((side)->quick ? 100u : 300u)
#define SIDE_LARGE (1 << 20) /* bytes of one, or of its result */
#define SIDE_PROCESSES(side) ((side)->quick ? 100u : 300u)
#define SIDE_AT_ONCE 64 /* of these */

struct crew;

struct side {
    const char *dir; /* private to this side and measure, on tmpfs */
    bool quick;
    double stall;      /* seconds that the stalled watcher is stopped */
    struct crew *crew; /* NULL until crew_new() */
    void *data;        /* the measure's own */
    char why[256];     /* of the last failure */
    char answer[512];  /* what side_report() has gathered */
};

typedef struct side_measure {
    const char *name;
    int (*start)(struct side *side); /* SIDE_OK, SIDE_FAIL, SIDE_SKIP */
    int (*round)(struct side *side); /* SIDE_OK, SIDE_FAIL */
    void (*stop)(struct side *side); /* also after a failed start */
} side_measure;

typedef struct side_role {
    const char *name;
    int (*run)(struct side *side, unsigned index);
} side_role;

/* main() of a side. Both tables end with a NULL name. */
int side_main(int argc, char **argv, const side_measure *measures,
              const side_role *roles);

/* Note why, and return SIDE_FAIL. */
int side_fail(struct side *side, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Add NAME=VALUE to the answer of this round. */
void side_report(struct side *side, const char *name, double value);

/* Run OP again and again for about SECONDS and tell the microseconds of one,
 * or a negative number when OP failed (it has called side_fail()). */
typedef int side_op(struct side *side);
double side_per_op(struct side *side, side_op *op, double seconds);

/* Run OP N times. */
int side_repeat(struct side *side, side_op *op, uint32_t n);

/* The ordinary round of a measure that is one operation in a loop. */
int side_report_op(struct side *side, side_op *op);

/* The ordinary round of one that times itself: ONE, N times (at most
 * SIDE_EACH_MAX); the median is told in microseconds. */
#define SIDE_EACH_MAX 256
typedef int side_one(struct side *side, int64_t *ret_ns);
int side_report_each(struct side *side, side_one *one, uint32_t n);

/* CLOCK_MONOTONIC in nanoseconds; sleep so many. */
int64_t side_now(void);
void side_sleep(int64_t ns);

/* Burn NS of this thread's CPU time. */
void side_spin(int64_t ns);

/* The pause between two sets of a latency measure: 1 ms and up to half of one
 * more, so that no timer of any side gets in step with it. */
void side_pause(void);

/* A cheap random number below N (N > 0). */
uint32_t side_random(uint32_t n);

/* The p-th (0 - 1) of N samples, which it sorts; 0 when N is 0. */
double side_percentile(int64_t *samples, uint32_t n, double p);

/* N names of keys, 10 bytes each, one after the other in 16 bytes; the caller
 * frees them. NULL when out of memory. */
char (*side_keys(uint32_t n))[16];

#endif
