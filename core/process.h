/*
 * process.h - children: what process.c (the parent's side) and child.c (what
 * happens in the child) share.
 */
#ifndef ZP_CORE_PROCESS_H
#define ZP_CORE_PROCESS_H

#include <stdatomic.h>

#include "core/context.h"
#include "core/record.h"

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

/* Everything that happens in the child, from the fork to its _exit(). */
_Noreturn void zp__child_main(const zp__birth *birth);

/* Wait until the children of CTX have ended, with callbacks (as long as
 * nothing breaks it); end them: TERM, grace, KILL, and free them all. */
void zp__procs_wait(zp_ctx *ctx);
void zp__procs_end(zp_ctx *ctx);

#endif
