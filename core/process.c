/*
 * process.c - children, seen from their parent: spawned, waited for, stopped,
 * reaped. (What happens inside of them is child.c.)
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
 * Only our own children are reaped, each by its pidfd: no SIGCHLD, no
 * waitpid(-1). Where there are none (valgrind has no pidfds) we look every
 * 10 ms, and go by the number, which stays a child's until we reap it. An
 * application that reaps everything, or ignores SIGCHLD, takes the exit status
 * away from us; the page still tells how the function ended.
 *
 * A zp_proc lives as long as its context; one that nobody asked for
 * (ret_proc NULL) goes when its process has ended. With it goes its record.
 *
 * Cost of a spawn: the fork, one page, one pidfd, one write transaction.
 */
#include "core/process.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/value.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define LOOK 0.01      /* how often we look, without pidfds */
#define KILL_MAX 5.0   /* seconds that a killed process may take to end */
#define FORGET_MAX 0.2 /* seconds that a record's deletion may wait */

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

/* ------------------------------------------------------- how it ended -- */

static void how(zp_proc *proc, int code, const char *format, ...)
    ZP_PRINTF(3, 4);

static void
how(zp_proc *proc, int code, const char *format, ...)
{
    va_list ap;

    proc->code = code;
    va_start(ap, format);
    vsnprintf(proc->error, sizeof proc->error, format, ap);
    va_end(ap);
}

/* Its function has returned, or could not be entered. */
static void
judge_page(zp_proc *proc)
{
    const zp__page *page = proc->page;

    proc->has_result = page->has_result;
    if (page->trouble || page->code < 0) {
        how(proc, page->trouble ? page->trouble : page->code, "%.*s",
            ZP__RECORD_TEXT, page->error);
        snprintf(proc->origin, sizeof proc->origin, "%.*s", ZP__RECORD_ORIGIN,
                 page->origin);
    } else {
        how(proc, page->code, "%s", "");
    }
}

static void
judge_exit(zp_proc *proc, int status)
{
    proc->status = status;
    if (atomic_load(&proc->page->stage) == ZP__STAGE_RETURNED)
        judge_page(proc);
    else if (status)
        how(proc, ZP_EFAILED, "exited with status %d", status);
    else
        how(proc, 0, "%s", ""); /* exit(0) */
}

static void
judge_signal(zp_proc *proc, int number, bool core)
{
    proc->status = -1;
    proc->signal = number;
    proc->core = core;
    how(proc, ZP_EFAILED, "killed by signal %d (%s)%s", number,
        strsignal(number), core ? ", core dumped" : "");
}

/* Somebody else has reaped it. */
static void
judge_stolen(zp_proc *proc)
{
    proc->status = -1;
    if (atomic_load(&proc->page->stage) == ZP__STAGE_RETURNED) {
        judge_page(proc);
        proc->status =
            proc->page->trouble ? ZP__EXIT_TROUBLE : proc->page->code < 0;
    } else {
        how(proc, ZP_EFAILED,
            "ended, but its exit status was taken by "
            "another wait, or SIGCHLD is ignored");
    }
}

/* --------------------------------------------------------------- reaping -- */

static zp__page *
new_page(void)
{
    void *page = mmap(NULL, sizeof(zp__page), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? NULL : page;
}

/* Give back what is needed only while it runs. */
static void
release(zp_proc *proc)
{
    proc->watch = zp__handle_free(proc->watch);
    if (proc->fd >= 0) {
        zp__own_forget(proc->fd_owned);
        close(proc->fd);
        proc->fd = -1;
    }
    if (proc->page) {
        zp__own_forget(proc->page_owned);
        munmap(proc->page, sizeof *proc->page);
        proc->page = NULL;
    }
}

/* A record that cannot be deleted soon stays: it tells nothing wrong. Those of
 * an ephemeral state go with it, when its owner ends. */
static int
forget_record(const zp_proc *proc)
{
    const zp_ctx *ctx = proc->ctx;
    double timeout = ctx->lock_timeout;

    if (!proc->record || (ctx->owner && ctx->dying && !ctx->place.durable))
        return 0;
    if (timeout < 0 || timeout > FORGET_MAX)
        timeout = FORGET_MAX;
    return zp__store_delete_record(ctx->store, proc->record, timeout);
}

static void
free_proc(zp_proc *proc)
{
    release(proc);
    zp_value_free(proc->result);
    free(proc);
}

/* Has it ended? Then reap it and keep how. Never waits. */
static bool
look(zp_proc *proc)
{
    bool by_fd = proc->fd >= 0;
    siginfo_t info;
    int rc;

    if (proc->ended)
        return true;
    memset(&info, 0, sizeof info);
    do
        rc = waitid(by_fd ? (idtype_t)P_PIDFD : P_PID,
                    (id_t)(by_fd ? proc->fd : proc->id.pid), &info,
                    WEXITED | WNOHANG);
    while (rc < 0 && errno == EINTR);
    if (rc == 0 && info.si_pid == 0)
        return false;
    if (rc < 0 && zp__pid_alive(&proc->id))
        return false; /* ignored SIGCHLD: ECHILD comes before the end, too */
    if (rc < 0)
        judge_stolen(proc);
    else if (info.si_code == CLD_EXITED)
        judge_exit(proc, info.si_status);
    else
        judge_signal(proc, info.si_status, info.si_code == CLD_DUMPED);
    release(proc);
    proc->ended = true;
    return true;
}

static void
unlink_proc(zp_proc *proc)
{
    zp_proc **at = &proc->ctx->procs;

    while (*at != proc)
        at = &(*at)->next;
    *at = proc->next;
}

/* The pidfd is readable, or it is time to look. */
static void
on_end(void *user)
{
    zp_proc *proc = user;
    bool ended = look(proc);

    if (ended && proc->unasked) {
        unlink_proc(proc);
        forget_record(proc);
        free_proc(proc);
    } else if (!ended && proc->fd < 0) {
        zp__timer_set(proc->watch, LOOK);
    }
}

/* ----------------------------------------------------------------- spawn -- */

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
write_record(zp_proc *proc)
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
    record.spawned_ns = wall_ns();
    record.name = proc->name;
    rc = zp__record_encode(&record, &data, &size);
    if (rc < 0)
        return rc;
    rc = zp__store_put_record(ctx->store, &proc->record, data, size,
                              ctx->lock_timeout);
    free(data);
    return zp__fail_code(rc);
}

/* Take hold of the child PID: descriptor, identity, record, watcher. */
static int
adopt(zp_proc *proc, pid_t pid)
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
    rc = write_record(proc);
    if (rc < 0)
        return rc;
    if (proc->fd >= 0)
        return zp__loop_fd(proc->ctx->loop, &proc->watch, proc->fd, on_end,
                           proc);
    rc = zp__loop_timer(proc->ctx->loop, &proc->watch, on_end, proc);
    if (rc == 0)
        zp__timer_set(proc->watch, LOOK);
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
    rc = adopt(proc, pid);
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
        forget_record(proc);
        free_proc(proc);
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
    if (rc == 0)
        rc = spawn(ctx, &proc, &taken, fn, arg);
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    if (ret_proc)
        *ret_proc = proc;
    else
        proc->unasked = true;
    return 0;
}

/* ------------------------------------------------------------------ wait -- */

/* Every entry on a process: CHECK is zp__ctx_enter() or zp__ctx_check(). */
static int
enter(const zp_proc *proc, int (*check)(const zp_ctx *ctx))
{
    return proc ? check(proc->ctx) : zp__fail(-EINVAL, "the process is NULL");
}

static int
done(const zp_proc *proc, int rc)
{
    return zp__ctx_done(proc ? proc->ctx : NULL, rc);
}

static int
check_result(const zp_result *result)
{
    if (result && (result->size < sizeof result->size || result->size > 4096))
        return zp__fail(-EINVAL, "result.size is not set");
    return 0;
}

/* " (name)", or nothing. */
static const char *
called(const zp_proc *proc, char *buffer, size_t size)
{
    if (proc->name[0])
        snprintf(buffer, size, " (%s)", proc->name);
    else
        buffer[0] = '\0';
    return buffer;
}

/* Tell how PROC has ended: 0 or ZP_EFAILED. */
static int
tell(const zp_proc *proc, zp_result *ret)
{
    char name[ZP__RECORD_NAME + 4];
    zp_result result;

    memset(&result, 0, sizeof result);
    result.code = proc->code;
    result.status = proc->status;
    result.signal = proc->signal;
    result.core = proc->core;
    result.error = proc->error;
    result.origin = proc->origin;
    if (ret) {
        result.size = ret->size;
        memset(ret, 0, result.size); /* what a later version may know */
        memcpy(ret, &result,
               result.size < sizeof result ? result.size : sizeof result);
    }
    if (proc->code >= 0)
        return 0;
    return zp__fail(ZP_EFAILED, "process %d%s: %s%s%s", (int)proc->id.pid,
                    called(proc, name, sizeof name), proc->error,
                    proc->origin[0] ? ", at " : "", proc->origin);
}

/* Wait until PROC has ended. When *RET_GONE it is gone, with its context. */
static int
wait_for(zp_proc *proc, double timeout, bool *ret_gone)
{
    char name[ZP__RECORD_NAME + 4];
    int rc;

    *ret_gone = false;
    if (look(proc))
        return 0;
    rc = zp__ctx_wait(proc->ctx, &proc->ended, timeout, ret_gone);
    if (rc == -ETIMEDOUT && !*ret_gone)
        return zp__fail(rc, "process %d%s has not ended within %g s",
                        (int)proc->id.pid, called(proc, name, sizeof name),
                        timeout);
    return rc;
}

int
zp_wait(zp_proc *proc, zp_result *ret_result, double timeout)
{
    bool gone;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0)
        rc = check_result(ret_result);
    if (rc == 0 && isnan(timeout))
        rc = zp__fail(-EINVAL, "the timeout is not a number");
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_wait()");
    if (rc < 0)
        return done(proc, rc);
    rc = wait_for(proc, timeout, &gone);
    if (gone)
        return rc;
    return done(proc, rc < 0 ? rc : tell(proc, ret_result));
}

int
zp_proc_pid(const zp_proc *proc)
{
    int rc = enter(proc, zp__ctx_check);

    return rc < 0 ? done(proc, rc) : (int)proc->id.pid;
}

int
zp_proc_alive(zp_proc *proc)
{
    int rc = enter(proc, zp__ctx_check);

    return rc < 0 ? done(proc, rc) : !look(proc);
}

/* ---------------------------------------------------------------- result -- */

/* Read the result from the record, checked: its bytes come from another
 * process. */
static int
read_result(zp_proc *proc)
{
    zp__view *view = proc->ctx->view;
    bool begun = zp__view_begun(view);
    zp__record record;
    const void *data;
    size_t size;
    int rc = zp__view_begin(view);

    if (rc < 0)
        return rc;
    rc = zp__view_record(view, proc->record, &data, &size);
    if (rc == 0)
        rc = zp__record_decode(&record, data, size);
    if (rc == 0)
        rc = zp__image_check(record.image, record.image_size);
    if (rc == 0)
        rc = zp__value_copy(&proc->result, record.image, record.image_size);
    if (!begun)
        zp__view_end(view);
    return zp__fail_code(rc);
}

static int
need_result(zp_proc *proc)
{
    if (!look(proc))
        return zp__fail(-EBUSY, "process %d has not ended", (int)proc->id.pid);
    if (!proc->has_result)
        return zp__fail(ZP_ENOKEY, "process %d left no result",
                        (int)proc->id.pid);
    return proc->result ? 0 : read_result(proc);
}

int
zp_proc_get(zp_proc *proc, const char *format, ...)
{
    const void *image;
    size_t size;
    va_list ap;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc == 0)
        rc = need_result(proc);
    if (rc < 0)
        return done(proc, rc);
    image = zp_value_image(proc->result, &size);
    va_start(ap, format);
    rc = zp__decode(image, size, format, ap);
    va_end(ap);
    return done(proc, rc);
}

int
zp_proc_get_value(zp_proc *proc, zp_value **ret_value)
{
    const void *image;
    size_t size;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0 && !ret_value)
        rc = zp__fail(-EINVAL, "ret_value is NULL");
    if (rc == 0)
        rc = need_result(proc);
    if (rc == 0) {
        image = zp_value_image(proc->result, &size);
        rc = zp__value_copy(ret_value, image, size);
    }
    return done(proc, rc);
}

/* ------------------------------------------------------------------ stop -- */

static void
send_signal(const zp_proc *proc, int number)
{
    if (proc->ended)
        return;
    if (proc->fd >= 0)
        syscall(SYS_pidfd_send_signal, proc->fd, number, NULL, 0);
    else
        (void)zp__pid_kill(&proc->id, number);
}

/* What ends the wait early (zp_break(), a callback's error) ends the stopping:
 * the process has had its TERM, and stopping can be called again. */
int
zp_stop(zp_proc *proc, zp_result *ret_result)
{
    bool gone;
    int rc = enter(proc, zp__ctx_enter);

    if (rc == 0)
        rc = check_result(ret_result);
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_stop()");
    if (rc < 0)
        return done(proc, rc);
    if (!look(proc))
        send_signal(proc, SIGTERM);
    rc = wait_for(proc, proc->ctx->grace, &gone);
    if (rc == -ETIMEDOUT) {
        send_signal(proc, SIGKILL);
        rc = wait_for(proc, -1, &gone);
    }
    if (gone)
        return rc;
    return done(proc, rc < 0 ? rc : tell(proc, ret_result));
}

/* Wait for PROC's end until DEADLINE (infinite: for ever), without callbacks.
 */
static bool
ended_by(zp_proc *proc, double deadline)
{
    struct pollfd poller = {.events = POLLIN};
    double left;

    while (!look(proc)) {
        left = deadline - zp__now();
        if (left <= 0)
            return false;
        poller.fd = proc->fd;
        if (proc->fd < 0 && left > LOOK)
            left = LOOK;
        poll(&poller, 1, left < 60 ? (int)(left * 1e3) + 1 : 60000);
    }
    return true;
}

void
zp__procs_wait(zp_ctx *ctx)
{
    zp_proc *proc = ctx->procs;
    bool gone;
    int rc = 0;

    /* Any of them may go meanwhile (unasked), others may come: from the
     * start again each time. */
    while (proc && rc == 0) {
        if (look(proc)) {
            proc = proc->next;
            continue;
        }
        proc->unasked = false; /* `ended` is looked at */
        rc = zp__ctx_wait(ctx, &proc->ended, -1, &gone);
        proc = ctx->procs;
    }
}

/* A sender in an ended process is skipped; all are told before one is waited
 * for. Here no callbacks run: the context is half gone. */
void
zp__procs_end(zp_ctx *ctx)
{
    double grace = ctx->grace < 0 ? INFINITY : ctx->grace;
    double deadline;
    zp_proc *proc;
    int rc = 0;

    for (proc = ctx->procs; proc; proc = proc->next)
        if (!look(proc))
            send_signal(proc, SIGTERM);
    deadline = zp__now() + grace;
    for (proc = ctx->procs; proc; proc = proc->next)
        if (!ended_by(proc, deadline))
            send_signal(proc, SIGKILL);
    deadline = zp__now() + KILL_MAX;
    for (proc = ctx->procs; proc; proc = proc->next)
        ended_by(proc, deadline);
    while ((proc = ctx->procs)) {
        ctx->procs = proc->next;
        if (rc == 0) /* do not wait for the lock again and again */
            rc = forget_record(proc);
        free_proc(proc);
    }
}
