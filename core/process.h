/*
 * process.h - children: what the files of the parent's side and child.c share.
 *
 *     process.c          spawning: options, argument, all of a process's life
 *     process_options.c  what is asked for, checked and copied
 *     process_start.c    one attempt: fork, record, go
 *     process_streams.c  standard input, output, error
 *     process_end.c      an attempt has ended: reaped, judged; another one?
 *     process_wait.c     waiting for ends and for readiness
 *     process_stop.c     ending: one, all, those that are left
 *     process_result.c   what it left
 *     process_report.c   the same for a human
 *     process_record.c   its record in the state
 *     retry.c            whether and when to start again
 *     child.c            all that happens in the child; crash.c if it crashes
 */
#ifndef ZP_CORE_PROCESS_H
#define ZP_CORE_PROCESS_H

#include <stdatomic.h>

#include "core/context.h"
#include "core/crash.h"
#include "core/record.h"
#include "core/retry.h"

#define ZP__PROC_LOOK 0.01  /* how often we look, without pidfds */
#define ZP__EXIT_TROUBLE 70 /* exit status: see the page's `trouble` */

enum zp__go { ZP__GO_WAIT = 0, ZP__GO_RUN, ZP__GO_NOT };

enum zp__stage {
    ZP__STAGE_STARTING = 0, /* no context yet */
    ZP__STAGE_RUNNING,      /* inside its function */
    ZP__STAGE_RETURNED      /* out of it, or never got in: `code` holds */
};

/* A page that parent and child share until the parent has reaped it. */
typedef struct zp__page {
    _Atomic uint32_t go;    /* zp__go: a futex that the child waits for */
    _Atomic uint32_t stage; /* zp__stage */
    _Atomic uint32_t ready;
    uint32_t retried;    /* set before `go`: a failure may not be the end */
    uint64_t record;     /* id; likewise */
    int32_t code;        /* what the function returned */
    int32_t trouble;     /* why the context could not be made, the program not
                            be run, the record not be written; 0: it was */
    int32_t status;      /* the exit status that it is about to have */
    uint32_t has_result; /* the record holds an image */
    uint32_t recorded;   /* the record tells of the end: nothing is left for
                            the parent to write */
    char error[ZP__RECORD_TEXT + 1];
    char origin[ZP__RECORD_ORIGIN + 1];
    zp__crash crash;
} zp__page;

/* In a child, behind ctx->child: what zp_return() and zp_fail() keep. */
struct zp__child {
    zp__page *page;
    zp_value *result;
    zp_value *spare; /* from malloc(), to be used by the next zp_return() */
    int ready_fd;    /* tells the parent; -1: it has been told */
    zp__owned *ready_owned;
    bool says_ready; /* only zp_ready() counts */
    unsigned depth;  /* 1: its parent is the owner or attached */
    bool failed;     /* zp_fail() was called */
    char error[ZP__RECORD_TEXT + 1];
    char origin[ZP__RECORD_ORIGIN + 1];
};

/* What is to run, kept for all attempts. */
typedef struct zp__job {
    zp_proc_fn *fn; /* or ... */
    char **argv;    /* ... a program, */
    char **env;     /* all of its environment */
    void *arg;      /* as it was given, or the copy */
    void *arg_copy; /* from malloc(), or NULL */
    void *again;    /* from the second attempt on, if ... */
    void *again_copy;
    bool has_again;
    bool says_ready;
    int nice;
    char *dir;
    zp_stream streams[3]; /* the paths are copies */
    char ns[ZP__NS_MAX + 1];
} zp__job;

/* An attempt's child is born with this: on its parent's stack. */
typedef struct zp__birth {
    zp_ctx *parent; /* only plain fields of it are read */
    const zp__job *job;
    zp__page *page;
    void *arg;
    int parent_pid;
    int ready_fd;     /* the parent's: not to be used under this number */
    int dir_fd;       /* -1: none */
    int stream_fd[3]; /* to become 0, 1, 2; -1: inherited */
    bool main_thread; /* does the parent's main thread fork? */
} zp__birth;

enum zp__proc_stage {
    ZP__PROC_DEFERRED = 0, /* not started */
    ZP__PROC_RUNNING,      /* an attempt runs */
    ZP__PROC_WAITING,      /* it failed, the next one is due later */
    ZP__PROC_ENDED         /* for good: `ended` */
};

struct zp_proc {
    zp_ctx *ctx;
    zp_proc *next;
    int stage; /* zp__proc_stage */
    zp__job job;
    zp__retry *retry; /* NULL: one attempt */
    double grace;

    /* the attempt that runs, or ran last */
    zp__pid id;
    int fd; /* pidfd; -1 once it is reaped, or where there are none */
    zp__owned *fd_owned;
    zp__handle *watch; /* of fd, or a timer */
    zp__page *page;    /* NULL once it is reaped */
    zp__owned *page_owned;
    int exec_fd; /* of a program: closed by its execve(); -1 */
    zp__owned *exec_owned;
    unsigned attempts;
    int64_t spawned_ns, started_ns, ended_ns; /* wall clock */
    double started;                           /* zp__now() */

    zp__handle *timer; /* of the next attempt; of a record to be written */
    int pipes[3];      /* our ends; -1: none, or taken */
    int pipe_ends[3];  /* the child's, kept for further attempts */
    zp__owned *pipes_owned[3], *pipe_ends_owned[3];

    uint64_t record; /* 0: none */
    bool owes;       /* its record does not tell yet how it ended */
    bool ready;      /* or ended */
    bool ended;      /* for good, and the fields below are written */
    bool stopping;   /* no more attempts */
    bool killed;     /* stopping: it was sent a KILL, after a TERM; and ... */
    double kill_at;  /* ... when it is due, or in vain (zp__now()) */
    bool unasked;    /* nobody has a pointer to this */
    unsigned pins;   /* who looks at it, though it be unasked */
    bool has_result;
    zp_value *result; /* once it was read */
    /* of reactors: called when an attempt has ended, and what comes next is
     * decided; it may not free the process, nor call anybody */
    void (*attempt_fn)(zp_proc *proc, void *user);
    int (*room_fn)(void *user); /* is there room for another attempt? */
    void *attempt_user;         /* of these two */
    bool worker; /* its swarm waits for it, and ends it; nobody else */
    zp_exit_fn *exit_fn;
    void *exit_user;
    zp__handle *exit_kick; /* while there is one to be called */
    int code, status, signal, core;
    char name[ZP__RECORD_NAME + 1];
    char error[ZP__RECORD_TEXT + 128];
    char origin[ZP__RECORD_ORIGIN + 1];
    char *backtrace; /* from malloc(), or NULL */
};

/* Every entry on a process: CHECK is zp__ctx_enter() or zp__ctx_check(); and
 * what it ends with. */
int zp__proc_enter(const zp_proc *proc, int (*check)(const zp_ctx *ctx));
int zp__proc_done(const zp_proc *proc, int rc);

/* "process 123 (name)", into BUFFER. */
#define ZP__PROC_WHO (ZP__RECORD_NAME + 32)
const char *zp__proc_who(const zp_proc *proc, char *buffer);

/* ---- options ---- */

/* What GIVEN (may be NULL) and CTX's defaults ask for, checked; its pointers
 * are theirs. */
int zp__spawn_options(zp_spawn_options *ret, const zp_ctx *ctx,
                      const zp_spawn_options *given);

/* A copy of GIVEN, checked, to be CTX's defaults; NULL for NULL. */
int zp__spawn_defaults(zp_spawn_options **ret, const zp_spawn_options *given);
zp_spawn_options *zp__spawn_defaults_free(zp_spawn_options *defaults);

/* Copy what is to run into JOB (zeroed before); of a program likewise. On
 * failure, too, free it. */
int zp__job_take(zp__job *job, const zp_ctx *ctx,
                 const zp_spawn_options *options, void *arg);
int zp__job_exec(zp__job *job, const zp_ctx *ctx, const char *const *argv,
                 const char *const *env);
void zp__job_free(zp__job *job);

/* A process as OPTIONS (of zp__spawn_options()) want it, exactly. */
int zp__spawn(zp_ctx *ctx, zp_proc **ret, const zp_spawn_options *options,
              zp_proc_fn *fn, void *arg);

/* ---- an attempt ---- */

/* Fork a child for PROC's next attempt and record it: it runs nothing before
 * zp__proc_go(). On failure nothing of it is left (but an attempt counted). */
int zp__proc_prepare(zp_proc *proc);

/* Let it go; a program's execve() may fail yet: then all is undone, too. */
int zp__proc_go(zp_proc *proc);

/* Take back what zp__proc_prepare() did. */
void zp__proc_undo(zp_proc *proc);

/* Send a signal to the attempt that runs, and never to another process. */
void zp__proc_signal(const zp_proc *proc, int number);

/* Give back what is needed only while an attempt runs. */
void zp__proc_release(zp_proc *proc);

/* In the parent: open what shall be the child's 0, 1, 2 (-1: inherited); the
 * pipes are made by the first attempt, and kept. Close what is not a pipe's.
 * In the child: put them in place. */
int zp__streams_open(zp_proc *proc, int fds[3]);
void zp__streams_close(const zp_proc *proc, const int fds[3]);
int zp__streams_apply(const zp__birth *birth);
void zp__streams_free(zp_proc *proc, bool ours_too); /* the child's; ours */

/* Write out what stdio has; of a process in which another thread waits for
 * standard input, of standard output and error only. */
void zp__streams_flush(void);

/* FD (may be -1), or a duplicate of it (then it is closed) that no dup2() to
 * 0 - 2 hits; close-on-exec. */
int zp__above_two(int fd);

/* In a child that runs many functions: forget how those before have failed. */
void zp__child_anew(zp_ctx *ctx);

/* In a child: take what zp_return() has left (NULL: nothing), to be freed; and
 * what zp_fail() has said, or, for CODE, the call that gave it: borrowed until
 * the next call. */
zp_value *zp__child_result(zp_ctx *ctx);
void zp__child_spare(zp_ctx *ctx, zp_value *value);
void zp__child_failure(zp_ctx *ctx, int code, const char **ret_error,
                       const char **ret_origin);

/* Everything that happens in the child, from the fork to its _exit(). */
_Noreturn void zp__child_main(const zp__birth *birth);

/* ---- ends ---- */

/* Has PROC ended for good? An attempt that has ended is reaped, judged and
 * either followed by another one later, or the end. Never waits for it. As
 * the loop's callback (pidfd readable, or time to look): one that nobody asked
 * for is freed then. */
bool zp__proc_look(zp_proc *proc);
void zp__proc_on_end(void *proc);

/* It will not be started (again): it ends as CODE says, with TEXT. */
void zp__proc_give_up(zp_proc *proc, int code, const char *text);

/* What has failed was of use: the next attempt comes as soon as after a first
 * failure. For attempt_fn. */
void zp__proc_hurry(zp_proc *proc);

/* The timer's callback: the next attempt is due, or a record is owed. */
void zp__proc_on_timer(void *proc);

/* The exit callback's. */
void zp__proc_on_exit(void *proc);
void zp__proc_forget_exit(zp_proc *proc);

/* Unlink and free PROC if it has ended and nobody has it any more. */
void zp__proc_let_go(zp_proc *proc);
void zp__proc_free(zp_proc *proc);

/* The same for all that nobody asked for: of a context that spawns again and
 * again and never runs its loop they would pile up. */
void zp__procs_sweep(zp_ctx *ctx);

/* Who waits for more than one process has this on the stack: `any` is set
 * whenever one of the context's ends for good. */
struct zp__ends {
    struct zp__ends *outer;
    bool any;
};

/* Run the loop until a process of CTX ends, as zp__ctx_wait(). */
int zp__procs_wait_any(zp_ctx *ctx, double timeout, bool *ret_gone);

/* All of CTX's that were started, without a swarm's workers, pinned; and given
 * back (GONE: they are no more). */
enum zp__procs_too { ZP__DEFERRED_TOO = 1, ZP__WORKERS_TOO = 2 };
typedef struct zp__procs {
    zp_proc **list;
    size_t n;
} zp__procs;
int zp__procs_take(zp_ctx *ctx, zp__procs *ret, unsigned too);
void zp__procs_give(zp__procs *procs, bool gone);

/* The results of the first N that somebody has asked for (RET_RESULTS may be
 * NULL); how many of all have failed. */
size_t zp__procs_results(const zp__procs *procs, zp_result *ret_results,
                         size_t n);

/* ---- records and results ---- */

/* Write PROC's record as things stand: at the first call a new one. */
int zp__proc_record(zp_proc *proc);

/* Delete it: the process was never started. */
void zp__proc_unrecord(zp_proc *proc);

/* An ended one's, unless that would be in vain. What fails is owed. */
void zp__proc_settle(zp_proc *proc);

/* How it ended, into RET (its size is set; or NULL): 0 or ZP_EFAILED. */
int zp__proc_tell(const zp_proc *proc, zp_result *ret);
int zp__result_check(const zp_result *result);
int zp__results_check(const zp_result *results, size_t n);

/* Read the result from the record, if it is small: it may be forgotten. */
void zp__proc_keep_result(zp_proc *proc);

/* ---- all of a context ---- */

/* Wait until the children of CTX have ended, with callbacks (as long as
 * nothing breaks it); end them: TERM, grace, KILL, and free them all. */
void zp__procs_wait(zp_ctx *ctx);
void zp__procs_end(zp_ctx *ctx);

#endif
