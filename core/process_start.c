/*
 * process_start.c - one attempt: from the fork until the child is let go.
 *
 *     parent                                child
 *     streams, page (shared memory), flush
 *     fork --------------------------------> own context (or: a program's
 *     pidfd, identity                        arguments)
 *     record: running, pid, start time       waits for `go`
 *     watch the pidfd in the loop
 *     go ----------------------------------> its function, or execve()
 *     of a program: wait until execve() <--- the pipe closes, or `trouble`
 *     ...
 *
 * Nothing lives unrecorded: until `go` the child runs nobody's code, and
 * whatever fails before that ends it. So several can be started as one.
 *
 * Cost: the fork, one page, one pidfd, one write transaction.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/process.h"

#define EXEC_LOOK_MS 20 /* how often we look whether execve() was left */

/* ----------------------------------------------------------- readiness -- */

static void
on_ready(void *user)
{
    zp_ctx *ctx = user;
    zp_proc *proc;
    uint64_t n;

    (void)!read(ctx->ready_fd, &n, sizeof n);
    for (proc = ctx->procs; proc; proc = proc->next)
        if (proc->page && atomic_load(&proc->page->ready))
            proc->ready = true;
}

/* The descriptor by which CTX's children tell that they are ready. */
static int
need_ready_fd(zp_ctx *ctx)
{
    if (ctx->ready_watch)
        return 0;
    if (ctx->ready_fd < 0)
        ctx->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ctx->ready_fd < 0)
        return zp__fail_errno(errno, "cannot make a descriptor for children");
    if (!ctx->ready_owned)
        ctx->ready_owned = zp__own_fd(ctx->ready_fd);
    if (!ctx->ready_owned)
        return zp__fail(-ENOMEM, "no memory for a process");
    return zp__loop_fd(ctx->loop, &ctx->ready_watch, ctx->ready_fd, on_ready,
                       ctx);
}

/* No child is left that would tell. */
static void
free_ready_fd(zp_ctx *ctx)
{
    if (ctx->attempts)
        return;
    ctx->ready_watch = zp__handle_free(ctx->ready_watch);
    zp__own_forget(ctx->ready_owned);
    ctx->ready_owned = NULL;
    if (ctx->ready_fd >= 0)
        close(ctx->ready_fd);
    ctx->ready_fd = -1;
}

/* ------------------------------------------------------------- the fork -- */

static int
new_page(zp_proc *proc)
{
    void *page = mmap(NULL, sizeof(zp__page), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return zp__fail(-ENOMEM, "no memory for a process");
    proc->ctx->attempts++;
    proc->page = page;
    proc->page->retried = proc->retry != NULL;
    return 0;
}

/* Fork with all signals blocked, so that no handler of the application's runs
 * in the child. Returns in the parent only. */
static pid_t
fork_child(const zp__birth *birth)
{
    sigset_t all, before;
    pid_t pid;
    int errnum;

    zp__crash_prepare();
    zp__streams_flush();
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
fail_fork(int errnum)
{
    struct rlimit limit;

    if (errnum == EAGAIN && getrlimit(RLIMIT_NPROC, &limit) == 0 &&
        limit.rlim_cur != RLIM_INFINITY)
        return zp__fail(-EAGAIN,
                        "cannot fork: too many processes or threads (this "
                        "user may have %llu)",
                        (unsigned long long)limit.rlim_cur);
    if (errnum == EAGAIN)
        return zp__fail(-EAGAIN, "cannot fork: too many processes or threads "
                                 "on this machine, or in this group");
    return zp__fail_errno(errnum, "cannot fork");
}

/* ---------------------------------------------------------- the attempt -- */

static void
tell_go(zp_proc *proc, enum zp__go go)
{
    proc->page->record = proc->record;
    atomic_store(&proc->page->go, go);
    syscall(SYS_futex, &proc->page->go, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Take hold of the child PID: descriptor, identity, record, watcher. */
static int
adopt(zp_proc *proc, pid_t pid)
{
    int fd = zp__pidfd(pid), rc;

    proc->page_owned = zp__own_map(proc->page, sizeof *proc->page);
    if (fd < 0 && fd != -ENOSYS)
        return zp__fail_errno(-fd, "cannot watch process %d", (int)pid);
    proc->fd = fd < 0 ? -1 : fd;
    if (fd >= 0)
        proc->fd_owned = zp__own_fd(fd);
    if (!proc->page_owned || (proc->fd >= 0 && !proc->fd_owned))
        return zp__fail(-ENOMEM, "no memory for a process");
    rc = zp__pid_of(pid, &proc->id);
    if (rc < 0)
        return zp__fail_errno(-rc, "cannot look at process %d", (int)pid);
    rc = zp__proc_record(proc);
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

/* Give back what is needed only while an attempt runs. */
void
zp__proc_release(zp_proc *proc)
{
    proc->watch = zp__handle_free(proc->watch);
    if (proc->exec_fd >= 0) {
        zp__own_forget(proc->exec_owned);
        close(proc->exec_fd);
        proc->exec_fd = -1;
        proc->exec_owned = NULL;
    }
    if (proc->fd >= 0) {
        zp__own_forget(proc->fd_owned);
        close(proc->fd);
        proc->fd = -1;
        proc->fd_owned = NULL;
    }
    if (proc->page) {
        zp__own_forget(proc->page_owned);
        munmap(proc->page, sizeof *proc->page);
        proc->page = NULL;
        proc->page_owned = NULL;
        proc->ctx->attempts--;
    }
    free_ready_fd(proc->ctx);
}

/* Of several that are started as one some may run already. Twice is fine. */
void
zp__proc_undo(zp_proc *proc)
{
    siginfo_t info;

    if (proc->page && proc->id.pid) {
        tell_go(proc, ZP__GO_NOT);
        if (proc->fd >= 0 || proc->id.start)
            zp__proc_signal(proc, SIGKILL);
        else /* born a moment ago, not reaped: the number is its own */
            kill(proc->id.pid, SIGKILL);
        while (waitid(P_PID, (id_t)proc->id.pid, &info, WEXITED) < 0 &&
               errno == EINTR)
            continue;
    }
    zp__proc_release(proc);
}

/* What the child takes over that is opened for this attempt alone. */
static int
open_birth(zp_proc *proc, zp__birth *birth, int exec_pipe[2])
{
    int rc = zp__streams_open(proc, birth->stream_fd);

    if (rc < 0)
        return rc;
    if (proc->job.dir) {
        birth->dir_fd = zp__above_two(
            open(proc->job.dir, O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (birth->dir_fd < 0)
            rc = zp__fail_errno(errno, "working directory %s", proc->job.dir);
    }
    if (rc == 0 && proc->job.argv) {
        if (pipe2(exec_pipe, O_CLOEXEC) < 0)
            return zp__fail_errno(errno, "cannot make a pipe");
        exec_pipe[1] = zp__above_two(exec_pipe[1]);
        proc->exec_fd = exec_pipe[0];
        if (exec_pipe[1] < 0)
            return zp__fail_errno(errno, "cannot make a pipe");
        proc->exec_owned = zp__own_fd(exec_pipe[0]);
        if (!proc->exec_owned)
            rc = zp__fail(-ENOMEM, "no memory for a process");
    }
    return rc;
}

static void
close_birth(const zp_proc *proc, const zp__birth *birth, int exec_write)
{
    zp__streams_close(proc, birth->stream_fd);
    if (birth->dir_fd >= 0)
        close(birth->dir_fd);
    if (exec_write >= 0)
        close(exec_write);
}

/* Fork and take hold of the child; on failure it is gone. */
static int
fork_and_adopt(zp_proc *proc, const zp__birth *birth)
{
    pid_t pid = fork_child(birth);
    int rc;

    if (pid < 0)
        return fail_fork(errno);
    proc->id.pid = pid;
    rc = adopt(proc, pid);
    if (rc < 0) {
        char text[ZP__ERROR_MAX];

        snprintf(text, sizeof text, "%s", zp__fail_text());
        zp__proc_undo(proc);
        return zp__fail(rc, "%s", text);
    }
    return 0;
}

int
zp__proc_prepare(zp_proc *proc)
{
    zp__birth birth = {
        .parent = proc->ctx,
        .job = &proc->job,
        .parent_pid = (int)getpid(),
        .main_thread = syscall(SYS_gettid) == getpid(),
        .dir_fd = -1,
        .stream_fd = {-1, -1, -1},
    };
    int exec_pipe[2] = {-1, -1};
    int rc = need_ready_fd(proc->ctx);

    proc->attempts++;
    memset(&proc->id, 0, sizeof proc->id);
    proc->ready = proc->owes = false;
    proc->has_result = false;
    proc->result = zp_value_free(proc->result);
    proc->started = zp__now();
    proc->started_ns = zp__wall_ns();
    proc->ended_ns = 0;
    if (!proc->spawned_ns)
        proc->spawned_ns = proc->started_ns;
    birth.ready_fd = proc->ctx->ready_fd;
    birth.arg = proc->job.has_again && proc->attempts > 1 ? proc->job.again
                                                          : proc->job.arg;
    if (rc == 0 && proc->room_fn)
        rc = proc->room_fn(proc->attempt_user);
    if (rc == 0)
        rc = open_birth(proc, &birth, exec_pipe);
    if (rc == 0)
        rc = new_page(proc);
    if (rc == 0) {
        birth.page = proc->page;
        proc->stage = ZP__PROC_RUNNING;
        rc = fork_and_adopt(proc, &birth);
    }
    close_birth(proc, &birth, exec_pipe[1]);
    if (rc < 0)
        zp__proc_release(proc);
    return rc;
}

/* ------------------------------------------------------------------- go -- */

/* Has PID left the program that forked it? (A flag of the kernel's, as told by
 * /proc; when it cannot be told, the pipe will do.) */
static bool
has_execed(int pid)
{
    enum { FORKED_NO_EXEC = 0x40 };
    char path[32], text[512], *at;
    unsigned flags;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = fopen(path, "re");
    if (!file)
        return false;
    at = fgets(text, sizeof text, file) ? strrchr(text, ')') : NULL;
    fclose(file);
    return at && sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 &&
           !(flags & FORKED_NO_EXEC);
}

/* Wait until execve() has closed the pipe, or failed and told so in the page.
 * Somebody else's fork may have the pipe open, too: then we look. */
static int
wait_for_exec(const zp_proc *proc)
{
    struct pollfd one = {proc->exec_fd, POLLIN, 0};
    int rc;

    do
        rc = poll(&one, 1, EXEC_LOOK_MS);
    while (rc <= 0 && atomic_load(&proc->page->stage) != ZP__STAGE_RETURNED &&
           zp__pid_alive(&proc->id) && !has_execed(proc->id.pid));
    if (atomic_load(&proc->page->stage) != ZP__STAGE_RETURNED)
        return 0;
    return zp__fail(proc->page->trouble, "%.*s", ZP__RECORD_TEXT,
                    proc->page->error);
}

int
zp__proc_go(zp_proc *proc)
{
    int rc;

    tell_go(proc, ZP__GO_RUN);
    if (!proc->job.argv)
        return 0;
    rc = wait_for_exec(proc);
    if (rc < 0) {
        zp__proc_undo(proc); /* it ends by itself */
        return rc;
    }
    proc->ready = true;
    return 0;
}
