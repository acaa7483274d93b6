/*
 * process_report.c - how a process ended, for a human.
 *
 *     process 4711 (worker) failed
 *       outcome   code -20012 (the process failed), SIGSEGV, core dumped
 *       error     killed by signal 11 (SIGSEGV at address 0x10), core dumped
 *       started   2026-11-21 14:05:07.250 +0100, ran 1.250 s
 *       attempts  3
 *       record    17 of /dev/shm/zp-1000/p-4700-77, namespace default
 *       backtrace
 *         #0  work+0x1f (program+0x1234)
 *
 * It must fit on a screen: of the backtrace only the innermost frames are
 * shown. Names and texts come from elsewhere: a control character among them
 * is shown as '?', and a long text is cut.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/process.h"

#define FRAMES 12
#define LINE 400 /* bytes of a text */

static void
put_text(FILE *file, const char *text, size_t length)
{
    size_t i;

    for (i = 0; i < length && i < LINE; i++)
        fputc((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i],
              file);
    fputs(length > LINE ? "...\n" : "\n", file);
}

static void
put_line(FILE *file, const char *what, const char *text)
{
    if (!*text)
        return;
    fprintf(file, "  %-9s ", what);
    put_text(file, text, strlen(text));
}

/* ------------------------------------------------------------ its lines -- */

static void
put_who(FILE *file, const zp_proc *proc)
{
    char line[ZP__PROC_WHO + 64], who[ZP__PROC_WHO];
    const char *stage = "was not started yet";

    if (proc->stage == ZP__PROC_RUNNING)
        stage = proc->ready ? "runs, and is ready" : "runs";
    else if (proc->stage == ZP__PROC_WAITING)
        stage = "failed, and will be started again";
    else if (proc->ended && proc->code >= 0)
        stage = "succeeded";
    else if (proc->ended)
        stage = proc->attempts ? "failed" : "never ran";
    snprintf(line, sizeof line, "%s %s", zp__proc_who(proc, who), stage);
    put_text(file, line, strlen(line));
}

/* Of its last attempt, if that has ended. */
static void
put_outcome(FILE *file, const zp_proc *proc)
{
    char what[64];

    if (!proc->ended && proc->stage != ZP__PROC_WAITING)
        return;
    fprintf(file, "  outcome   code %d", proc->code);
    if (proc->code < 0)
        fprintf(file, " (%s)", zp_strerror(proc->code));
    if (proc->signal)
        fprintf(file, ", %s%s",
                zp__crash_what(NULL, proc->signal, what, sizeof what),
                proc->core ? ", core dumped" : "");
    else if (proc->status >= 0)
        fprintf(file, ", exit status %d", proc->status);
    fputc('\n', file);
    put_line(file, "error", proc->error);
    put_line(file, "at", proc->origin);
}

/* Wall clocks jump: what would be less than nothing is not told. */
static void
put_times(FILE *file, const zp_proc *proc)
{
    bool runs = proc->stage == ZP__PROC_RUNNING;
    time_t seconds = (time_t)(proc->started_ns / 1000000000);
    int64_t until = proc->ended_ns;
    struct tm local;
    char day[32], zone[16];

    if (!proc->started_ns || !localtime_r(&seconds, &local))
        return;
    if (runs)
        until = zp__wall_ns();
    strftime(day, sizeof day, "%Y-%m-%d %H:%M:%S", &local);
    strftime(zone, sizeof zone, "%z", &local);
    fprintf(file, "  started   %s.%03d %s", day,
            (int)(proc->started_ns / 1000000 % 1000), zone);
    if (until >= proc->started_ns)
        fprintf(file, ", %s %.3f s", runs ? "has run" : "ran",
                (double)(until - proc->started_ns) / 1e9);
    fputc('\n', file);
}

static void
put_record(FILE *file, const zp_proc *proc)
{
    const zp__place *place = &proc->ctx->place;
    char line[sizeof place->data + ZP__NS_MAX + 64];
    int n = 0;

    if (proc->record)
        n = snprintf(line, sizeof line, "%llu of ",
                     (unsigned long long)proc->record);
    snprintf(line + n, sizeof line - (size_t)n, "%s, namespace %s",
             place->durable ? place->data : place->run, proc->job.ns);
    put_line(file, proc->record ? "record" : "state", line);
}

static void
put_backtrace(FILE *file, const zp_proc *proc)
{
    const char *line = proc->backtrace;
    size_t length;
    int i;

    if (!line || !*line || proc->stage == ZP__PROC_RUNNING)
        return;
    fputs("  backtrace\n", file);
    for (i = 0; *line && i < FRAMES; i++) {
        length = strcspn(line, "\n");
        fputs("    ", file);
        put_text(file, line, length);
        line += length + (line[length] == '\n');
    }
    if (*line)
        fputs("    ...\n", file);
}

static int
report(const zp_proc *proc, FILE *file)
{
    put_who(file, proc);
    put_outcome(file, proc);
    put_times(file, proc);
    if (proc->attempts)
        fprintf(file, "  attempts  %u\n", proc->attempts);
    put_record(file, proc);
    put_backtrace(file, proc);
    if (fflush(file) || ferror(file))
        return zp__fail(-EIO, "a report on process %d could not be written",
                        (int)proc->id.pid);
    return 0;
}

int
zp_proc_report(zp_proc *proc, FILE *file)
{
    int rc = zp__proc_enter(proc, zp__ctx_check);

    if (rc == 0 && !file)
        rc = zp__fail(-EINVAL, "the file is NULL");
    if (rc == 0) {
        (void)zp__proc_look(proc);
        rc = report(proc, file);
    }
    return zp__proc_done(proc, rc);
}
