/*
 * bench.c - make bench: what is measured, and the order of it.
 *
 * Each measure has up to three sides, each a program of its own: ours, the
 * floor (the libraries below us, called raw) and the peer (what one would use
 * instead). They are started together and then take turns, round by round, in
 * one order and then in the other, so that whatever the machine does meanwhile
 * hits all of them: rounds are short, a tenth of a second where one can be. A
 * line shows the medians of the rounds. README in this directory tells how to
 * read it.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/bench/bench.h"

#define METRICS(...) ((const struct metric[]){__VA_ARGS__, {.name = NULL}})

#define PYTHON "Python Process, "
#define POOL "Python Pool of 2, "

static const struct measure measures[] = {
    {"get", METRICS({"get", "us", "us", .floor_max = 2.5, .peer_min = 30}),
     "Redis GET", true, 15, 5, .timeout = 30},
    {"set", METRICS({"set", "us", "us", .floor_max = 1.5, .peer_min = 3.5}),
     "Redis SET", true, 15, 5, .timeout = 30},
    {"increase", METRICS({"increase", "us", "us", .peer_min = 3}), "Redis INCR",
     true, 15, 5, .timeout = 30},
    {"atomic", METRICS({"atomic", "us", "us", .peer_min = 15}),
     "Redis WATCH/MULTI/EXEC", true, 15, 5, .timeout = 30},
    {"increase-8",
     METRICS({"increase-8", "1/s", "rate", .peer_min = 1.3, .rate = true},
             {"increase-8-longest", "ms", "longest", .value_max = 20,
              .worst = true},
             {"increase-8-share", "max/min", "share", .value_max = 2}),
     "Redis INCR, 8 clients", false, 7, 3, .timeout = 30},
    {"callback",
     METRICS({"callback", "us", "us", .floor_max = 1.1, .peer_max = 1}),
     "Redis SET -> keyspace event", true, 24, 8, .timeout = 60},
    {"callback-64", METRICS({"callback-64", "us", "us", .peer_max = 1.2}),
     "Redis, 64 subscribers", false, 20, 8, .timeout = 60},
    {"callback-100",
     METRICS({"callback-100", "us", "us", .base = "base", .floor_max = 1.2}),
     "Redis, 100 subscriptions", false, 12, 6, .timeout = 60},
    {"wait", METRICS({"wait", "us", "us", .scale = 1}),
     "Redis SET -> keyspace event", true, 16, 6, .timeout = 60},
    {"watches",
     METRICS(
         {"set-1000-watches", "us", "us", .base = "none", .floor_max = 1.05},
         {"set-1000-mean", "us", "mean", .base = "mean_none",
          .floor_max = 1.05},
         {"set-1-watch", "us", "one", .base = "none", .floor_max = 1.05}),
     NULL, false, 11, 5, .timeout = 60},
    {"events",
     METRICS({"events", "1/s", "rate", .peer_min = 2.5, .rate = true}),
     "Redis PUBLISH, 1 subscriber", true, 7, 3, .timeout = 60},
    {"keys",
     METRICS({"set-1e6-keys", "us", "us", .base = "base", .floor_max = 2}),
     NULL, false, 9, 3, .timeout = 120},
    {"deletes",
     METRICS(
         {"set-after-deletes", "us", "us", .base = "base", .floor_max = 2.5}),
     NULL, false, 9, 3, .timeout = 120},
    {"deletes-later",
     METRICS(
         {"set-deletes-later", "us", "us", .base = "base", .floor_max = 2.5}),
     NULL, false, 9, 3, .timeout = 120},
    {"pss",
     METRICS({"pss-idle", "MiB", "kib", .scale = 1 / 1024.0, .floor_max = 1.3}),
     NULL, true, 3, 2, .timeout = 60},
    {"spawn", METRICS({"spawn", "us", "us", .floor_max = 5, .peer_max = 0.5}),
     PYTHON "start, join", true, 15, 5, .timeout = 30, .peer = "bench-python"},
    {"spawn-100", METRICS({"spawn-100", "ms", .field = "ms"}),
     PYTHON "100 of them", true, 11, 3, .timeout = 60, .peer = "bench-python"},
    {"kill-exit", METRICS({"kill-exit", "us", .field = "us"}), NULL, true, 11,
     5, .timeout = 30},
    {"child-pss", METRICS({"child-pss", "MiB", "kib", .scale = 1 / 1024.0}),
     PYTHON "asleep", true, 3, 2, .timeout = 60, .peer = "bench-python"},
    {"map",
     METRICS({"map", "1/s", "rate", .peer_min = 1.5, .value_min = 1e6,
              .rate = true}),
     POOL "best chunk", true, 11, 5, .timeout = 60, .peer = "bench-python"},
    {"map-singly",
     METRICS({"map-singly", "1/s", "rate", .peer_min = 3, .rate = true}),
     POOL "chunk 1", true, 9, 5, .timeout = 60, .peer = "bench-python"},
    {"map-spin",
     METRICS({"map-spin", "1/s", "rate", .value_min = 1900, .rate = true}),
     POOL "chunk 1", true, 11, 5, .timeout = 60, .peer = "bench-python"},
    {"map-large",
     METRICS({"map-large", "1/s", "rate", .peer_min = 2, .rate = true}),
     POOL "chunk 1", true, 9, 5, .timeout = 60, .peer = "bench-python"},
    {"map-results", METRICS({"map-results", "1/s", "rate", .rate = true}),
     POOL "chunk 1", true, 9, 5, .timeout = 60, .peer = "bench-python"},
    {"map-process", METRICS({"map-process", "1/s", "rate", .rate = true}),
     PYTHON "64 at a time", true, 7, 3, .timeout = 60, .peer = "bench-python"},
    {"stall",
     METRICS({"stall-server-rss", "MiB", "kib", .scale = 1 / 1024.0,
              .value_max = 16, .worst = true},
             {"stall-set", "us", "us", .base = "base", .floor_max = 1.2},
             {"stall-set-p99", "us", "p99", .base = "base99"}),
     NULL, false, 1, 1, .timeout = 120},
    {.name = NULL},
};

static const char *const programs[N_SIDES] = {"bench-ours", "bench-floor",
                                              "bench-redis"};

/* What one run has come to. */
struct totals {
    FILE *tsv;
    int failed, lost, lines;
};

/* Is NAME in the comma-separated LIST (NULL: all are)? */
static bool
wanted(const char *list, const char *name)
{
    size_t n = strlen(name);

    for (const char *p = list; p != NULL; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, name, n) == 0 && (p[n] == ',' || p[n] == '\0'))
            return true;
    }
    return list == NULL;
}

/* "a=1 b=2": the value of FIELD, or NAN. */
static double
field(const char *answer, const char *name)
{
    size_t n = strlen(name);

    for (const char *p = answer; p != NULL; p = strchr(p, ' ')) {
        p += *p == ' ';
        if (strncmp(p, name, n) == 0 && p[n] == '=')
            return strtod(p + n + 1, NULL);
    }
    return NAN;
}

static const char *
program_of(const struct measure *m, int side)
{
    return side == PEER && m->peer != NULL ? m->peer : programs[side];
}

static void
collect(const struct metric *metric, int side, const char *answer,
        struct samples samples[N_SIDES])
{
    double scale = metric->scale != 0 ? metric->scale : 1;
    double v = field(answer, metric->field);

    if (!isnan(v) && samples[side].n < MAX_ROUNDS)
        samples[side].value[samples[side].n++] = v * scale;
    if (side != OURS || metric->base == NULL)
        return;
    v = field(answer, metric->base);
    if (!isnan(v) && samples[FLOOR].n < MAX_ROUNDS)
        samples[FLOOR].value[samples[FLOOR].n++] = v * scale;
}

static bool
has_side(const struct measure *m, int side)
{
    return side == OURS || (side == FLOOR && m->floor) ||
           (side == PEER && m->peer_name != NULL);
}

static void
report(struct totals *totals, const struct measure *m, int i,
       const struct runner runners[N_SIDES],
       const struct samples samples[N_SIDES])
{
    struct line line = {.measure = m, .metric = &m->metrics[i]};

    for (int side = 0; side < N_SIDES; side++) {
        line.value[side] = summary(line.metric, &samples[side]);
        line.outcome[side] = runners[side].outcome;
        if (runners[side].outcome != DONE && line.why == NULL)
            line.why = runners[side].why;
    }
    judge(&line);
    print_line(stdout, &line);
    write_tsv_line(totals->tsv, &line);
    totals->lines++;
    totals->failed += line.verdict == VERDICT_FAILED;
    totals->lost += line.verdict == VERDICT_SHORT;
}

#define MAX_METRICS 4

static void
measure_one(const struct options *o, const struct measure *m,
            struct totals *totals)
{
    struct runner runners[N_SIDES] = {0};
    struct samples samples[MAX_METRICS][N_SIDES] = {0};
    int rounds = o->quick ? m->quick_rounds : m->rounds;

    for (int side = 0; side < N_SIDES; side++) {
        runners[side].outcome = DONE;
        if (has_side(m, side) && !interrupted())
            runner_start(&runners[side], o, program_of(m, side), m);
    }
    for (int round = 0; round < rounds && !interrupted(); round++)
        for (int k = 0; k < N_SIDES; k++) {
            int side = round % 2 == 0 ? k : N_SIDES - 1 - k;
            const char *answer = NULL;

            if (runners[side].pid != 0)
                answer = runner_round(&runners[side], m->timeout + o->stall);
            if (answer != NULL && o->verbose)
                fprintf(stderr, "%s %s %d: %s\n", m->name, program_of(m, side),
                        round + 1, answer);
            for (int i = 0; answer != NULL && m->metrics[i].name != NULL; i++)
                collect(&m->metrics[i], side, answer, samples[i]);
        }
    for (int side = N_SIDES - 1; side >= 0; side--)
        runner_stop(&runners[side]);
    for (int i = 0; m->metrics[i].name != NULL && !interrupted(); i++)
        report(totals, m, i, runners, samples[i]);
}

/* -------------------------------------------------------------- main -- */

static int
usage(const char *self, int status)
{
    fprintf(status == 0 ? stdout : stderr,
            "usage: %s [--quick] [--only NAME,...] [--stall SECONDS]\n"
            "       [--output FILE] [--verbose] [--list]\n"
            "  --quick    fewer and shorter rounds, below a minute\n"
            "  --only     these measures (--list names them)\n"
            "  --stall    how long the stalled watcher is stopped (60; quick: "
            "3)\n"
            "  --output   the table for programs (bench.tsv)\n"
            "  --verbose  each round, on standard error\n",
            self);
    return status;
}

static int
list(void)
{
    for (const struct measure *m = measures; m->name != NULL; m++)
        puts(m->name);
    return 0;
}

static int
known(const char *only)
{
    char *copy = only != NULL ? strdup(only) : NULL;
    int r = 0;

    for (char *save, *p = copy != NULL ? strtok_r(copy, ",", &save) : NULL;
         p != NULL; p = strtok_r(NULL, ",", &save)) {
        const struct measure *m = measures;

        while (m->name != NULL && strcmp(m->name, p) != 0)
            m++;
        if (m->name == NULL) {
            fprintf(stderr, "bench: no measure \"%s\" (--list)\n", p);
            r = -1;
        }
    }
    free(copy);
    return r;
}

/* A private directory on tmpfs, where our states, LMDB and sockets go. */
static int
make_dir(char *dir, size_t size)
{
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    snprintf(dir, size, "%s/zp-bench-%d-XXXXXX", base, (int)getpid());
    if (mkdtemp(dir) == NULL) {
        fprintf(stderr, "bench: %s: %s\n", dir, strerror(errno));
        return -1;
    }
    return 0;
}

static void
set_environment(const struct options *o)
{
    char text[300];

    snprintf(text, sizeof(text), "%s/zp", o->dir);
    setenv("ZP_RUNTIME_DIR", text, 1);
    snprintf(text, sizeof(text), "%g", o->stall);
    setenv("BENCH_STALL", text, 1);
    if (o->quick)
        setenv("BENCH_QUICK", "1", 1);
    else
        unsetenv("BENCH_QUICK");
    unsetenv("ZP_ADDRESS");
}

/* The directory of this program, where its siblings are. */
static int
own_dir(char *bin, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", bin, size - 1);
    char *slash;

    if (n <= 0)
        return -1;
    bin[n] = '\0';
    slash = strrchr(bin, '/');
    if (slash != NULL)
        *slash = '\0';
    slash = strrchr(bin, '/');
    if (slash != NULL && strcmp(slash, "/.libs") == 0)
        *slash = '\0';
    return 0;
}

static int
run(const struct options *o, const char *only, const char *output)
{
    struct totals totals = {.tsv = fopen(output, "we")};

    if (totals.tsv == NULL) {
        fprintf(stderr, "bench: %s: %s\n", output, strerror(errno));
        return 1;
    }
    print_head(stdout);
    write_tsv_head(totals.tsv);
    for (const struct measure *m = measures; m->name != NULL; m++)
        if (wanted(only, m->name) && !interrupted())
            measure_one(o, m, &totals);
    if (fclose(totals.tsv) != 0) {
        fprintf(stderr, "bench: %s: %s\n", output, strerror(errno));
        return 1;
    }
    if (interrupted()) {
        fprintf(stderr, "bench: interrupted\n");
        return 1;
    }
    printf("%d lines, %d short, %d failed; also in %s\n", totals.lines,
           totals.lost, totals.failed, output);
    return totals.failed != 0;
}

int
main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"quick", no_argument, NULL, 'q'},
        {"only", required_argument, NULL, 'n'},
        {"stall", required_argument, NULL, 's'},
        {"output", required_argument, NULL, 'o'},
        {"verbose", no_argument, NULL, 'v'},
        {"list", no_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    char dir[64], bin[512];
    struct options o = {.dir = dir, .bin = bin, .stall = -1};
    const char *only = NULL, *output = "bench.tsv";
    int c, r;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'q':
            o.quick = true;
            break;
        case 'n':
            only = optarg;
            break;
        case 's':
            o.stall = atof(optarg);
            break;
        case 'o':
            output = optarg;
            break;
        case 'v':
            o.verbose = true;
            break;
        case 'l':
            return list();
        case 'h':
            return usage(argv[0], 0);
        default:
            return usage(argv[0], 2);
        }
    }
    if (optind != argc || known(only) == -1)
        return usage(argv[0], 2);
    if (o.stall < 0)
        o.stall = o.quick ? 3 : 60;
    if (own_dir(bin, sizeof(bin)) == -1 || make_dir(dir, sizeof(dir)) == -1)
        return 1;
    catch_signals();
    set_environment(&o);
    r = run(&o, only, output);
    if (remove_all(dir) == -1)
        r = 1;
    return r;
}
