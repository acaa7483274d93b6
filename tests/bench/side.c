/*
 * side.c - the protocol of a side with the driver, and what all sides need:
 * clock, random numbers, percentiles, key names.
 */
#include "tests/bench/side.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/crew.h"

#define BATCH 64 /* operations between two looks at the clock */

int64_t
side_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void
side_sleep(int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};

    while (nanosleep(&t, &t) == -1 && errno == EINTR)
        ;
}

static int64_t
cpu_time(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void
side_spin(int64_t ns)
{
    int64_t until = cpu_time() + ns;

    while (cpu_time() < until)
        ;
}

uint32_t
side_random(uint32_t n)
{
    static uint64_t x;

    if (x == 0)
        x = (uint64_t)getpid() * UINT64_C(0x9e3779b97f4a7c15) | 1;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(((x >> 32) * n) >> 32);
}

void
side_pause(void)
{
    side_sleep(1000000 + side_random(500000));
}

static int
compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

double
side_percentile(int64_t *samples, uint32_t n, double p)
{
    if (n == 0)
        return 0;
    qsort(samples, n, sizeof(*samples), compare);
    return (double)samples[(uint32_t)(p * (n - 1))];
}

char (*side_keys(uint32_t n))[16]
{
    char(*keys)[16] = malloc((size_t)n * sizeof(*keys));

    for (uint32_t i = 0; keys != NULL && i < n; i++)
        snprintf(keys[i], sizeof(keys[i]), "key-%06u", i % 1000000);
    return keys;
}

int
side_fail(struct side *side, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(side->why, sizeof(side->why), format, args);
    va_end(args);
    for (char *p = side->why; *p != '\0'; p++)
        if (*p == '\n')
            *p = ' ';
    return SIDE_FAIL;
}

void
side_report(struct side *side, const char *name, double value)
{
    size_t have = strlen(side->answer);

    snprintf(side->answer + have, sizeof(side->answer) - have, " %s=%.9g", name,
             value);
}

double
side_per_op(struct side *side, side_op *op, double seconds)
{
    int64_t start = side_now();
    int64_t now = start;
    uint64_t n = 0;

    for (; now - start < (int64_t)(seconds * 1e9); now = side_now()) {
        for (int i = 0; i < BATCH; i++)
            if (op(side) != SIDE_OK)
                return -1;
        n += BATCH;
    }
    return (double)(now - start) / 1e3 / (double)n;
}

int
side_repeat(struct side *side, side_op *op, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (op(side) != SIDE_OK)
            return SIDE_FAIL;
    return SIDE_OK;
}

int
side_report_op(struct side *side, side_op *op)
{
    double us = side_per_op(side, op, side->quick ? 0.03 : 0.1);

    if (us < 0)
        return SIDE_FAIL;
    side_report(side, "us", us);
    return SIDE_OK;
}

int
side_report_each(struct side *side, side_one *one, uint32_t n)
{
    int64_t ns[SIDE_EACH_MAX];

    for (uint32_t i = 0; i < n; i++)
        if (one(side, &ns[i]) != SIDE_OK)
            return SIDE_FAIL;
    side_report(side, "us", side_percentile(ns, n, 0.5) / 1e3);
    return SIDE_OK;
}

/* Tell the driver. It has gone: nothing is left to do but to clean up. */
static bool
say(const char *word, const char *rest)
{
    return printf("%s%s%s\n", word, *rest != '\0' && *rest != ' ' ? " " : "",
                  rest) >= 0 &&
           fflush(stdout) == 0;
}

static void
rounds(struct side *side, const side_measure *measure)
{
    char line[64];

    while (fgets(line, sizeof(line), stdin) != NULL) {
        side->answer[0] = '\0';
        if (measure->round(side) != SIDE_OK) {
            say("fail", side->why);
            return;
        }
        if (!say("ok", side->answer))
            return;
    }
}

static int
measure_main(struct side *side, const char *name, const side_measure *measures)
{
    const side_measure *m = measures;
    int r;

    while (m->name != NULL && strcmp(m->name, name) != 0)
        m++;
    if (m->name == NULL) {
        say("skip", "not measured by this side");
        return 0;
    }
    r = m->start(side);
    if (r != SIDE_OK)
        say(r == SIDE_SKIP ? "skip" : "fail", side->why);
    else if (say("ready", ""))
        rounds(side, m);
    m->stop(side);
    side->crew = crew_free(side->crew);
    return 0;
}

static int
role_main(struct side *side, const char *name, unsigned index,
          const side_role *roles)
{
    int r;

    while (roles->name != NULL && strcmp(roles->name, name) != 0)
        roles++;
    if (roles->name == NULL)
        return 2;
    r = crew_join(side);
    if (r == SIDE_OK)
        r = roles->run(side, index);
    if (r != SIDE_OK)
        crew_complain(side, name, index);
    return r == SIDE_OK ? 0 : 1;
}

int
side_main(int argc, char **argv, const side_measure *measures,
          const side_role *roles)
{
    const char *quick = getenv("BENCH_QUICK");
    const char *stall = getenv("BENCH_STALL");
    struct side side = {.quick = quick != NULL, .stall = 60};

    if (stall != NULL)
        side.stall = atof(stall);
    if (argc == 5 && strcmp(argv[1], "--role") == 0) {
        side.dir = argv[4];
        return role_main(&side, argv[2], (unsigned)atoi(argv[3]), roles);
    }
    if (argc != 3) {
        fprintf(stderr, "%s: started by the program bench\n", argv[0]);
        return 2;
    }
    side.dir = argv[2];
    return measure_main(&side, argv[1], measures);
}
