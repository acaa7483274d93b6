/*
 * process.c - spawning: from what is asked for to a process that runs.
 *
 * Starting is in two steps, so that several are started as one: prepare (the
 * child is there, recorded, and waits) and go. What fails before the first
 * `go` leaves nothing behind, and has run nothing. (A program may still fail
 * at its execve(), after `go`.)
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/process.h"

/* ----------------------------------------------------------------- made -- */

static int
equip(zp_proc *proc, const zp_spawn_options *options, void *arg)
{
    int rc = zp__job_take(&proc->job, proc->ctx, options, arg);

    if (rc == 0 && options->retry)
        rc = zp__retry_new(&proc->retry, options->retry);
    if (rc == 0)
        rc = zp__loop_timer(proc->ctx->loop, &proc->timer, zp__proc_on_timer,
                            proc);
    if (rc == 0 && options->exit_fn)
        rc = zp_call_when_exit(proc, options->exit_fn, options->exit_user);
    return rc;
}

/* A process as OPTIONS (with the defaults in them) want it, not started, in
 * no list. */
static int
new_proc(zp_ctx *ctx, zp_proc **ret, const zp_spawn_options *options, void *arg)
{
    zp_proc *proc = calloc(1, sizeof *proc);
    int i, rc;

    if (!proc)
        return zp__fail(-ENOMEM, "no memory for a process");
    proc->ctx = ctx;
    proc->fd = proc->exec_fd = -1;
    for (i = 0; i < 3; i++)
        proc->pipes[i] = proc->pipe_ends[i] = -1;
    proc->grace = fabs(options->grace) > 0 ? options->grace : ctx->grace;
    if (options->name)
        memcpy(proc->name, options->name, strlen(options->name) + 1);
    rc = equip(proc, options, arg);
    if (rc < 0) {
        zp__proc_free(proc);
        return rc;
    }
    *ret = proc;
    return 0;
}

static void
append(zp_ctx *ctx, zp_proc *proc)
{
    zp_proc **at = &ctx->procs;

    while (*at)
        at = &(*at)->next;
    *at = proc;
}

/* -------------------------------------------------------------- started -- */

/* Undo the preparation of PROCS: as if they had never been started. */
static void
undo(zp_proc **procs, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++) {
        zp__proc_undo(procs[i]);
        zp__proc_unrecord(procs[i]);
        zp__streams_free(procs[i], true);
        memset(&procs[i]->id, 0, sizeof procs[i]->id);
        procs[i]->stage = ZP__PROC_DEFERRED;
        procs[i]->attempts = 0;
    }
}

/* Of those that have one attempt only the child has its end of a pipe: who
 * reads the other sees that it has ended, without any loop. */
static void
let_go_of_pipes(zp_proc **procs, size_t n)
{
    size_t i;

    for (i = 0; i < n; i++)
        if (!procs[i]->retry)
            zp__streams_free(procs[i], false);
}

/* Start all N or none. */
static int
start(zp_proc **procs, size_t n)
{
    char text[ZP__ERROR_MAX];
    size_t i, gone = 0;
    int rc = 0;

    for (i = 0; rc == 0 && i < n; i++)
        rc = zp__proc_prepare(procs[i]);
    for (; rc == 0 && gone < n; gone++)
        rc = zp__proc_go(procs[gone]);
    if (rc == 0) {
        let_go_of_pipes(procs, n);
        return 0;
    }
    snprintf(text, sizeof text, "%s", zp__fail_text());
    undo(procs, i);
    return zp__fail(rc, "%s", text);
}

static void
free_all(zp_proc **procs, size_t n)
{
    while (n)
        zp__proc_free(procs[--n]);
}

/* Make N processes, started unless deferred, and hand them over. FNS: by turns
 * (NULL: a program, ARGV and ENV). */
static int
spawn(zp_ctx *ctx, zp_proc **procs, size_t n, const zp_spawn_options *options,
      zp_proc_fn *const *fns, size_t n_fns, void *arg)
{
    size_t i;
    int rc = 0;

    zp__procs_sweep(ctx);
    for (i = 0; i < n; i++) {
        rc = new_proc(ctx, &procs[i], options, arg);
        if (rc < 0)
            break;
        procs[i]->job.fn = fns[i % n_fns];
    }
    if (rc == 0 && !(options->flags & ZP_DEFERRED))
        rc = start(procs, n);
    if (rc < 0) {
        char text[ZP__ERROR_MAX];

        snprintf(text, sizeof text, "%s", zp__fail_text());
        free_all(procs, i);
        return zp__fail(rc, "%s", text);
    }
    for (i = 0; i < n; i++)
        append(ctx, procs[i]);
    return 0;
}

/* --------------------------------------------------------------- public -- */

static int
enter(zp_ctx *ctx, zp_spawn_options *taken, const zp_spawn_options *options,
      const char *what)
{
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = zp__ctx_may_wait(what);
    if (rc == 0)
        rc = zp__spawn_options(taken, ctx, options);
    return rc;
}

/* Give PROC to who asked. */
static void
hand_out(zp_proc **ret, zp_proc *proc)
{
    if (ret)
        *ret = proc;
    else
        proc->unasked = true;
}

int
zp__spawn(zp_ctx *ctx, zp_proc **ret, const zp_spawn_options *options,
          zp_proc_fn *fn, void *arg)
{
    return spawn(ctx, ret, 1, options, &fn, 1, arg);
}

int
zp_spawn(zp_ctx *ctx, zp_proc **ret_proc, const zp_spawn_options *options,
         zp_proc_fn *fn, void *arg)
{
    zp_spawn_options taken;
    zp_proc *proc = NULL;
    int rc = enter(ctx, &taken, options, "zp_spawn()");

    if (rc == 0 && !fn)
        rc = zp__fail(-EINVAL, "the function is NULL");
    if (rc == 0)
        rc = zp__spawn(ctx, &proc, &taken, fn, arg);
    if (rc == 0)
        hand_out(ret_proc, proc);
    return zp__ctx_done(ctx, rc);
}

static int
check_many(zp_proc_fn *const *fns, size_t n_fns, size_t count)
{
    size_t i;

    if (!fns || !n_fns || !count)
        return zp__fail(-EINVAL, "no function to spawn");
    for (i = 0; i < n_fns; i++)
        if (!fns[i])
            return zp__fail(-EINVAL, "function %zu is NULL", i);
    if (count > SIZE_MAX / sizeof(zp_proc *) / n_fns)
        return zp__fail(-EINVAL, "%zu times %zu processes", count, n_fns);
    return 0;
}

int
zp_spawn_many(zp_ctx *ctx, zp_proc **ret_procs, const zp_spawn_options *options,
              zp_proc_fn *const *fns, size_t n_fns, size_t count, void *arg)
{
    zp_spawn_options taken;
    zp_proc **procs = NULL;
    size_t i, n = n_fns * count;
    int rc = enter(ctx, &taken, options, "zp_spawn_many()");

    if (rc == 0)
        rc = check_many(fns, n_fns, count);
    if (rc == 0 && !(procs = calloc(n, sizeof *procs)))
        rc = zp__fail(-ENOMEM, "no memory for %zu processes", n);
    if (rc == 0)
        rc = spawn(ctx, procs, n, &taken, fns, n_fns, arg);
    for (i = 0; rc == 0 && i < n; i++)
        hand_out(ret_procs ? &ret_procs[i] : NULL, procs[i]);
    free(procs);
    return zp__ctx_done(ctx, rc);
}

/* A program that was given no name has its own. */
static void
name_program(zp_proc *proc, const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!proc->name[0])
        snprintf(proc->name, sizeof proc->name, "%.*s", ZP__RECORD_NAME,
                 slash ? slash + 1 : path);
}

static int
spawn_exec(zp_ctx *ctx, zp_proc **ret, const zp_spawn_options *options,
           const char *const *argv, const char *const *env)
{
    zp_proc *proc;
    int rc;

    zp__procs_sweep(ctx);
    rc = new_proc(ctx, &proc, options, NULL);
    if (rc < 0)
        return rc;
    name_program(proc, argv[0]);
    if (proc->job.again_copy)
        rc = zp__fail(-EINVAL, "retry.arg_size: a program has its argv");
    if (rc == 0)
        rc = zp__job_exec(&proc->job, ctx, argv, env);
    if (rc == 0 && !(options->flags & ZP_DEFERRED))
        rc = start(&proc, 1);
    if (rc < 0) {
        char text[ZP__ERROR_MAX];

        snprintf(text, sizeof text, "%s", zp__fail_text());
        zp__proc_free(proc);
        return zp__fail(rc, "%s", text);
    }
    append(ctx, proc);
    *ret = proc;
    return 0;
}

int
zp_spawn_exec(zp_ctx *ctx, zp_proc **ret_proc, const zp_spawn_options *options,
              const char *const *argv, const char *const *env)
{
    zp_spawn_options taken;
    zp_proc *proc = NULL;
    int rc = enter(ctx, &taken, options, "zp_spawn_exec()");

    if (rc == 0 && (!argv || !argv[0] || !*argv[0]))
        rc = zp__fail(-EINVAL, "no program to run");
    if (rc == 0 && taken.arg_size)
        rc = zp__fail(-EINVAL, "options.arg_size: a program has its argv");
    if (rc == 0)
        rc = spawn_exec(ctx, &proc, &taken, argv, env);
    if (rc == 0)
        hand_out(ret_proc, proc);
    return zp__ctx_done(ctx, rc);
}

int
zp_start(zp_proc *proc)
{
    char who[ZP__PROC_WHO];
    int rc = zp__proc_enter(proc, zp__ctx_enter);

    if (rc == 0)
        rc = zp__ctx_may_wait("zp_start()");
    if (rc == 0 && proc->stage != ZP__PROC_DEFERRED)
        rc = zp__fail(-EALREADY, "%s was %s before", zp__proc_who(proc, who),
                      proc->attempts ? "started" : "stopped");
    if (rc == 0)
        rc = start(&proc, 1);
    return zp__proc_done(proc, rc);
}

int
zp_ctx_start(zp_ctx *ctx)
{
    zp_proc *proc, **procs;
    size_t n = 0;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0)
        rc = zp__ctx_may_wait("zp_ctx_start()");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    for (proc = ctx->procs; proc; proc = proc->next)
        n += proc->stage == ZP__PROC_DEFERRED;
    procs = malloc((n ? n : 1) * sizeof *procs);
    if (!procs)
        return zp__ctx_done(
            ctx, zp__fail(-ENOMEM, "no memory to start %zu processes", n));
    n = 0;
    for (proc = ctx->procs; proc; proc = proc->next)
        if (proc->stage == ZP__PROC_DEFERRED)
            procs[n++] = proc;
    rc = start(procs, n);
    free(procs);
    return zp__ctx_done(ctx, rc);
}
