/*
 * process.h - children: what the parent's side (process.c, process_end.c,
 * process_wait.c) and the child's (child.c) share.
 */
#ifndef ZP_CORE_PROCESS_H
#define ZP_CORE_PROCESS_H

#include <stdatomic.h>

#include "core/context.h"
#include "core/record.h"

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
    uint64_t record;        /* id; set before `go` */
    int32_t code;           /* what the function returned */
    int32_t trouble;        /* why the context could not be made, or the record
                               not be written; 0: it was */
    uint32_t has_result;    /* the record holds an image */
    char error[ZP__RECORD_TEXT + 1];
    char origin[ZP__RECORD_ORIGIN + 1];
} zp__page;

/* In a child, behind ctx->child: what zp_return() and zp_fail() keep. */
struct zp__child {
    zp__page *page;
    zp_value *result;
    unsigned depth; /* 1: its parent is the owner or attached */
    bool failed;    /* zp_fail() was called */
    char error[ZP__RECORD_TEXT + 1];
    char origin[ZP__RECORD_ORIGIN + 1];
};

/* What a child is born with: on its parent's stack. */
typedef struct zp__birth {
    zp_ctx *parent; /* only plain fields of it are read */
    const char *ns;
    zp__page *page;
    zp_proc_fn *fn;
    void *arg;
    int parent_pid;
    bool main_thread; /* does the parent's main thread fork? */
} zp__birth;

struct zp_proc {
    zp_ctx *ctx;
    zp_proc *next;
    zp__pid id;
    int fd; /* pidfd; -1 once it is reaped, or where there are none */
    zp__owned *fd_owned;
    zp__handle *watch; /* of fd, or a timer */
    zp__page *page;    /* NULL once it is reaped */
    zp__owned *page_owned;
    uint64_t record; /* 0: none */
    bool ended;      /* reaped, and the fields below are written */
    bool unasked;    /* nobody has a pointer to this */
    bool has_result;
    zp_value *result; /* once it was read */
    int code, status, signal, core;
    char name[ZP__RECORD_NAME + 1];
    char error[ZP__RECORD_TEXT + 64];
    char origin[ZP__RECORD_ORIGIN + 1];
};

/* Has PROC's process ended? Then it is reaped, and how it ended kept. Never
 * waits. As the loop's callback (pidfd readable, or time to look): one that
 * nobody asked for is freed then. */
bool zp__proc_look(zp_proc *proc);
void zp__proc_on_end(void *proc);

/* The same for all that nobody asked for: of a context that spawns again and
 * again and never runs its loop they would pile up. */
void zp__procs_sweep(zp_ctx *ctx);

/* Delete its record; free what there is of it in this process. */
int zp__proc_forget(const zp_proc *proc);
void zp__proc_free(zp_proc *proc);

/* Everything that happens in the child, from the fork to its _exit(). */
_Noreturn void zp__child_main(const zp__birth *birth);

/* Wait until the children of CTX have ended, with callbacks (as long as
 * nothing breaks it); end them: TERM, grace, KILL, and free them all. */
void zp__procs_wait(zp_ctx *ctx);
void zp__procs_end(zp_ctx *ctx);

#endif
