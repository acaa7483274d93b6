/*
 * bench.h - the driver's parts: what is measured (bench.c), how the sides are
 * run (bench_run.c), how it is judged and shown (bench_table.c).
 */
#ifndef ZP_BENCH_BENCH_H
#define ZP_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

enum { OURS, FLOOR, PEER, N_SIDES };

#define MAX_ROUNDS 32

/* One line of the table. */
struct metric {
    const char *name;
    const char *unit;
    const char *field; /* its name in a side's answer */
    const char *base;  /* a field of our own answer that stands in the floor's
                          column; NULL: the floor's own */
    double scale;      /* from the field to the unit; 0: 1 */
    double floor_max;  /* ours is to be at most so many floors; 0: no target */
    double peer_min;   /* ours is to be so many times as good as the peer */
    double peer_max;   /* ours is to be at most so many peers */
    double value_max;  /* ours is to be at most this ... */
    double value_min;  /* ... or at least */
    bool rate;         /* more is better */
    bool worst;        /* of all rounds the worst, not the median */
};

/* What is run together: the three sides, round by round. */
struct measure {
    const char *name;
    const struct metric *metrics; /* up to one without a name */
    const char *peer_name;        /* NULL: none */
    bool floor;
    int rounds, quick_rounds;
    double timeout;   /* seconds that a start or a round may take */
    const char *peer; /* its program; NULL: Redis's */
};

struct samples { /* of one metric on one side */
    double value[MAX_ROUNDS];
    int n;
};

/* ---- bench_run.c ---- */

struct options {
    const char *dir; /* private, below it all sides */
    const char *bin; /* where the programs are */
    bool quick;
    bool verbose;
    double stall;
};

enum outcome { DONE, SKIPPED, FAILED };

/* One side while its measure runs. */
struct runner {
    pid_t pid; /* 0: not running */
    int to, from;
    enum outcome outcome;
    char dir[256];
    char why[320]; /* not DONE */
    char line[1024];
    size_t have;
};

/* Block the signals that end the run, so that they only end a wait; told by
 * interrupted(). */
void catch_signals(void);
bool interrupted(void);

/* Start PROGRAM on MEASURE and wait until it is ready. */
void runner_start(struct runner *runner, const struct options *options,
                  const char *program, const struct measure *measure);

/* One round: its answer ("name=value ...") or NULL, and then the outcome and
 * the reason are set. */
const char *runner_round(struct runner *runner, double timeout);

/* Let it clean up, or kill it; its processes are gone afterwards. */
void runner_stop(struct runner *runner);

/* Remove DIR with all it holds; a state that its server has not removed within
 * seconds is an error (-1). */
int remove_all(const char *dir);

/* ---- bench_table.c ---- */

enum verdict { VERDICT_OK, VERDICT_SHORT, VERDICT_SKIPPED, VERDICT_FAILED };

struct line {
    const struct metric *metric;
    const struct measure *measure;
    double value[N_SIDES]; /* NAN: not there */
    enum outcome outcome[N_SIDES];
    enum verdict verdict;
    const char *why; /* of the verdict, or NULL */
};

/* Median, or the worst, of the rounds; NAN of none. */
double summary(const struct metric *metric, const struct samples *samples);

/* Compare with the targets. */
void judge(struct line *line);

void print_head(FILE *f);
void print_line(FILE *f, const struct line *line);
void write_tsv_head(FILE *f);
void write_tsv_line(FILE *f, const struct line *line);

#endif
