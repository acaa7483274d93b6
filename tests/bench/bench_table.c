/*
 * bench_table.c - medians, verdicts, the table and bench.tsv.
 *
 * A verdict is `short` when a target is missed, `skipped` when none is missed
 * but one could not be judged since its side is not installed, `failed` when
 * something that should have been measured was not.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/bench.h"

static int
compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

double
summary(const struct metric *metric, const struct samples *samples)
{
    struct samples s = *samples;

    if (s.n == 0)
        return NAN;
    qsort(s.value, (size_t)s.n, sizeof(s.value[0]), compare);
    if (metric->worst)
        return metric->rate ? s.value[0] : s.value[s.n - 1];
    if (s.n % 2 == 1)
        return s.value[s.n / 2];
    return (s.value[s.n / 2 - 1] + s.value[s.n / 2]) / 2;
}

/* How many times as good as the peer. */
static double
advantage(const struct line *line)
{
    double ratio = line->value[OURS] / line->value[PEER];

    return line->metric->rate ? ratio : 1 / ratio;
}

void
judge(struct line *line)
{
    const struct metric *m = line->metric;
    bool missed, unknown;

    line->verdict = VERDICT_FAILED;
    for (int side = 0; side < N_SIDES; side++)
        if (line->outcome[side] == FAILED)
            return;
    if (isnan(line->value[OURS]))
        return;
    /* A comparison with NAN is false: neither missed nor met. */
    missed = (m->floor_max != 0 &&
              line->value[OURS] / line->value[FLOOR] > m->floor_max) ||
             (m->peer_min != 0 && advantage(line) < m->peer_min) ||
             (m->peer_max != 0 &&
              line->value[OURS] / line->value[PEER] > m->peer_max) ||
             (m->value_max != 0 && line->value[OURS] > m->value_max) ||
             (m->value_min != 0 && line->value[OURS] < m->value_min);
    unknown =
        (m->floor_max != 0 && isnan(line->value[FLOOR])) ||
        ((m->peer_min != 0 || m->peer_max != 0) && isnan(line->value[PEER]));
    line->verdict = missed    ? VERDICT_SHORT
                    : unknown ? VERDICT_SKIPPED
                              : VERDICT_OK;
}

static const char *
verdict_text(const struct line *line)
{
    static const char *const text[] = {"ok", "short", "skipped", "failed"};

    return text[line->verdict];
}

static const char *
number(double v, char *buffer, size_t size)
{
    int digits = v >= 100 ? 0 : v >= 10 ? 1 : v >= 1 ? 2 : 3;

    if (isnan(v))
        snprintf(buffer, size, "-");
    else
        snprintf(buffer, size, "%.*f", digits, v);
    return buffer;
}

static void
add(char *buffer, size_t size, const char *format, double value,
    const char *tail)
{
    size_t n = strlen(buffer);

    if (n > 0 && n + 2 < size)
        n += (size_t)snprintf(buffer + n, size - n, ", ");
    n += (size_t)snprintf(buffer + n, size - n, format, value);
    snprintf(buffer + n, size - n, "%s", tail);
}

static const char *
target(const struct metric *m, char *buffer, size_t size)
{
    buffer[0] = '\0';
    if (m->floor_max != 0)
        add(buffer, size, "<= %gx ", m->floor_max,
            m->base != NULL ? "base" : "floor");
    if (m->peer_min != 0)
        add(buffer, size, m->rate ? ">= %gx peer" : ">= %gx faster than peer",
            m->peer_min, "");
    if (m->peer_max != 0)
        add(buffer, size, "<= %gx peer", m->peer_max, "");
    if (m->value_max != 0)
        add(buffer, size, "<= %g ", m->value_max, m->unit);
    if (m->value_min != 0)
        add(buffer, size, ">= %g ", m->value_min, m->unit);
    if (buffer[0] == '\0')
        snprintf(buffer, size, "reported");
    return buffer;
}

/* The peer's name, and why it is not there. */
static const char *
peer_name(const struct line *line, char *buffer, size_t size)
{
    const char *name = line->measure->peer_name;

    snprintf(buffer, size, "%s%s", name != NULL ? name : "-",
             line->outcome[PEER] == SKIPPED ? " (skipped)" : "");
    return buffer;
}

void
print_head(FILE *f)
{
    double load[3] = {0, 0, 0};

    if (getloadavg(load, 3) == 3)
        fprintf(f, "%ld CPUs, load %.1f %.1f %.1f\n",
                sysconf(_SC_NPROCESSORS_ONLN), load[0], load[1], load[2]);
    fprintf(f, "%-19s %-7s %9s %9s %9s %7s %7s  %-37s %-8s %s\n", "measure",
            "unit", "ours", "floor", "peer", "/floor", "/peer", "target",
            "verdict", "peer");
    fflush(f);
}

void
print_line(FILE *f, const struct line *line)
{
    char a[5][32], goal[96], name[96];
    const double *v = line->value;

    fprintf(f, "%-19s %-7s %9s %9s %9s %7s %7s  %-37s %-8s %s\n",
            line->metric->name, line->metric->unit,
            number(v[OURS], a[0], sizeof(a[0])),
            number(v[FLOOR], a[1], sizeof(a[1])),
            number(v[PEER], a[2], sizeof(a[2])),
            number(v[OURS] / v[FLOOR], a[3], sizeof(a[3])),
            number(v[OURS] / v[PEER], a[4], sizeof(a[4])),
            target(line->metric, goal, sizeof(goal)), verdict_text(line),
            peer_name(line, name, sizeof(name)));
    if (line->why != NULL)
        fprintf(f, "  %s: %s\n", line->metric->name, line->why);
    fflush(f);
}

void
write_tsv_head(FILE *f)
{
    fprintf(f, "name\tunit\tours\tfloor\tpeer\tpeer_name\tours/floor\t"
               "ours/peer\ttarget\tverdict\n");
}

/* What is not there is an empty field. */
static const char *
exact(double v, char *buffer, size_t size)
{
    snprintf(buffer, size, "%.6g", v);
    if (isnan(v))
        buffer[0] = '\0';
    return buffer;
}

void
write_tsv_line(FILE *f, const struct line *line)
{
    char a[5][32], goal[96], name[96];
    const double *v = line->value;

    fprintf(f, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", line->metric->name,
            line->metric->unit, exact(v[OURS], a[0], sizeof(a[0])),
            exact(v[FLOOR], a[1], sizeof(a[1])),
            exact(v[PEER], a[2], sizeof(a[2])),
            peer_name(line, name, sizeof(name)),
            exact(v[OURS] / v[FLOOR], a[3], sizeof(a[3])),
            exact(v[OURS] / v[PEER], a[4], sizeof(a[4])),
            target(line->metric, goal, sizeof(goal)), verdict_text(line));
    fflush(f);
}
