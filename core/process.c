/*
 * process.c - children, spawned. (What happens inside of them is child.c, how
 * they end process_end.c, who waits for that process_wait.c.)
 *
 *     parent                                child
 *     page (shared memory), flush
 *     fork --------------------------------> own context
 *     pidfd, identity                        waits for `go`
 *     record: running, pid, start time
 *     watch the pidfd in the loop
 *     go ----------------------------------> its function
 *     ...                                    outcome to page and record, exits
 *     pidfd readable: waitid(P_PIDFD) <-----
 *     outcome = exit status + page
 *
 * Nothing lives unrecorded: until `go` the child runs nobody's code, and
 * whatever fails before that ends it.
 *
 * Cost of a spawn: the fork, one page, one pidfd, one write transaction.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/process.h"

static zp__page *
new_page(void)
{
    void *page = mmap(NULL, sizeof(zp__page), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? NULL : page;
}

static int
new_proc(zp_ctx *ctx, zp_proc **ret, const char *name)
{
    zp_proc *proc = calloc(1, sizeof *proc);

    if (proc)
        proc->page = new_page();
    if (!proc || !proc->page) {
        free(proc);
        return zp__fail(-ENOMEM, "no memory for a process");
    }
    proc->ctx = ctx;
    proc->fd = -1;
    if (name)
        memcpy(proc->name, name, strlen(name) + 1); /* was checked */
    *ret = proc;
    return 0;
}

static int64_t
wall_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int
write_record(zp_proc *proc, const char *ns)
{
    zp_ctx *ctx = proc->ctx;
    zp__record record;
    void *data;
    size_t size;
    int rc;

    memset(&record, 0, sizeof record);
    record.state = ZP__RECORD_RUNNING;
    record.depth = ctx->child ? ctx->child->depth + 1 : 1;
    record.id = proc->id;
    record.parent = zp__pid_self();
    record.parent_record = ctx->child ? ctx->child->page->record : 0;
    record.attempts = 1;
    record.spawned_ns = record.started_ns = wall_ns();
    record.name = proc->name;
    record.ns = ns;
    rc = zp__record_encode(&record, &data, &size);
    if (rc < 0)
        return rc;
    rc = zp__store_put_record(ctx->store, &proc->record, data, size, false,
                              ctx->lock_timeout);
    free(data);
    return zp__fail_code(rc);
}

/* Take hold of the child PID: descriptor, identity, record, watcher. */
static int
adopt(zp_proc *proc, pid_t pid, const char *ns)
{
    int rc;

    proc->page_owned = zp__own_map(proc->page, sizeof *proc->page);
    proc->fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (proc->fd >= 0)
        proc->fd_owned = zp__own_fd(proc->fd);
    else if (errno != ENOSYS)
        return zp__fail_errno(errno, "cannot watch process %d", (int)pid);
    if (!proc->page_owned || (proc->fd >= 0 && !proc->fd_owned))
        return zp__fail(-ENOMEM, "no memory for a process");
    rc = zp__pid_of(pid, &proc->id);
    if (rc < 0)
        return zp__fail_errno(-rc, "process %d ended at once", (int)pid);
    rc = write_record(proc, ns);
    if (rc < 0)
        return rc;
    if (proc->fd >= 0)
        return zp__loop_fd(proc->ctx->loop, &proc->watch, proc->fd,
                           zp__proc_on_end, proc);
    rc = zp__loop_timer(proc->ctx->loop, &proc->watch, zp__proc_on_end, proc);
    if (rc == 0)
        zp__timer_set(proc->watch, ZP__PROC_LOOK);
    return rc;
}

static void
tell_go(zp_proc *proc, enum zp__go go)
{
    proc->page->record = proc->record;
    atomic_store(&proc->page->go, go);
    syscall(SYS_futex, &proc->page->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Undo a fork: the child has run nothing yet, and ends by itself. */
static void
disown(zp_proc *proc, pid_t pid)
{
    siginfo_t info;

    tell_go(proc, ZP__GO_NOT);
    while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
        continue;
}

/* Fork with all signals blocked, so that no handler of the application's runs
 * in the child. Returns in the parent only. */
static pid_t
fork_child(const zp__birth *birth)
{
    sigset_t all, before;
    pid_t pid;
    int errnum;

    fflush(NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    zp__fork_prepare();
    pid = fork();
    if (pid == 0)
        zp__child_main(birth);
    errnum = errno;
    zp__fork_parent();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = errnum;
    return pid;
}

static int
take_options(zp_spawn_options *ret, const zp_spawn_options *given)
{
    const unsigned char *bytes = (const unsigned char *)given;
    size_t i;

    memset(ret, 0, sizeof *ret);
    if (!given)
        return 0;
    if (given->size < sizeof given->size || given->size > 4096)
        return zp__fail(-EINVAL, "options.size is %zu", given->size);
    for (i = sizeof *ret; i < given->size; i++)
        if (bytes[i])
            return zp__fail(-EINVAL, "an option of a later version is set");
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    if (ret->flags)
        return zp__fail(-EINVAL, "unknown flags 0x%x", ret->flags);
    if (ret->name && (!*ret->name || strlen(ret->name) > ZP__RECORD_NAME))
        return zp__fail(-EINVAL, "a name has 1-%d bytes", ZP__RECORD_NAME);
    return ret->ns ? zp__ns_check(ret->ns) : 0;
}

static void
append(zp_ctx *ctx, zp_proc *proc)
{
    zp_proc **at = &ctx->procs;

    while (*at)
        at = &(*at)->next;
    *at = proc;
}

/* Fork PROC's process, record it and let it go. */
static int
start(zp_proc *proc, const zp__birth *birth)
{
    pid_t pid = fork_child(birth);
    int rc;

    if (pid < 0)
        return zp__fail_errno(errno, "cannot fork");
    rc = adopt(proc, pid, birth->ns);
    if (rc < 0) {
        disown(proc, pid);
        return rc;
    }
    tell_go(proc, ZP__GO_RUN);
    return 0;
}

static int
spawn(zp_ctx *ctx, zp_proc **ret, const zp_spawn_options *options,
      zp_proc_fn *fn, void *arg)
{
    zp__birth birth = {
        .parent = ctx,
        .ns = options->ns ? options->ns : ctx->ns,
        .fn = fn,
        .arg = arg,
        .parent_pid = (int)getpid(),
        .main_thread = syscall(SYS_gettid) == getpid(),
    };
    zp_proc *proc = NULL;
    int rc = new_proc(ctx, &proc, options->name);

    if (rc < 0)
        return rc;
    birth.page = proc->page;
    rc = start(proc, &birth);
    if (rc < 0) {
        char text[ZP__ERROR_MAX];

        snprintf(text, sizeof text, "%s", zp__fail_text());
        zp__proc_forget(proc);
        zp__proc_free(proc);
        return zp__fail(rc, "%s", text);
    }
    append(ctx, proc);
    *ret = proc;
    return 0;
}

int
zp_spawn(zp_ctx *ctx, zp_proc **ret_proc, const zp_spawn_options *options,
         zp_proc_fn *fn, void *arg)
{
    zp_spawn_options taken;
    zp_proc *proc;
    int rc = zp__ctx_enter(ctx);

    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    if (!fn)
        rc = zp__fail(-EINVAL, "the function is NULL");
    else
        rc = zp__ctx_may_wait("zp_spawn()");
    if (rc == 0)
        rc = take_options(&taken, options);
    if (rc == 0) {
        zp__procs_sweep(ctx);
        rc = spawn(ctx, &proc, &taken, fn, arg);
    }
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    if (ret_proc)
        *ret_proc = proc;
    else
        proc->unasked = true;
    return 0;
}
