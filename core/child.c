/*
 * child.c - what happens in a child of zp_spawn(), between fork and _exit().
 *
 *     directory, streams, nice value -> close what was inherited -> default
 *     signals, crash handlers -> die with the parent -> own context -> wait
 *     until the parent has recorded us -> the function -> flush -> outcome to
 *     the page and the record -> end own children -> exit
 *
 * A program takes another way after the streams: wait for the parent, then
 * execve(), which closes all that is the library's.
 *
 * The child never returns into its parent's code, and never runs the user's
 * function unrecorded: if the parent dies before it has written the record, the
 * child notices (its parent is another one) and ends.
 *
 * How it went is told twice. The page shared with the parent has the code and
 * the texts: it needs no store, so that even "no context, the disk is full"
 * reaches the waiter. The record in the store has them, too, for everybody
 * else, and the image of the result. If the record cannot be written, that is
 * told in the page, and by the exit status 70. What zp_fail() says is in the
 * page at once: the function may end by exit().
 *
 * Exit status: 0 when the function returned 0 or more, 1 when it failed, 70
 * when there was trouble around it, or that of zp_exit(). A function that calls
 * exit() itself has its own status, and leaves no result.
 *
 * The parent's memory is dead weight here: its context, store and loop are
 * never touched again, only kept reachable for leak checkers. So are LMDB's
 * lists: 3 MiB of address space for each level of children, hardly any of it
 * touched. Given back, they would be what the calloc() of the child's own
 * environment finds, and clears: 2 MiB of memory in each child, and most of
 * the time of its start.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/process.h"
#include "core/value.h"

#define LOOK_AROUND_NS 100000000 /* is the parent still there? */

/* What was inherited, for leak checkers. */
static const void *volatile inherited;

/* --------------------------------------------------------------- birth -- */

/* Handlers are code of the parent's, for the parent; a signal that arrives
 * before this is blocked. */
static void
reset_signals(void)
{
    struct sigaction action, standard;
    sigset_t none;
    int number;

    memset(&standard, 0, sizeof standard);
    standard.sa_handler = SIG_DFL;
    for (number = 1; number < NSIG; number++) {
        if (number == SIGKILL || number == SIGSTOP)
            continue;
        if (sigaction(number, NULL, &action) == 0 &&
            action.sa_handler != SIG_DFL)
            sigaction(number, &standard, NULL);
    }
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static bool
orphaned(const zp__birth *birth)
{
    return getppid() != birth->parent_pid;
}

/* PDEATHSIG belongs to the thread that forked: it would kill the child at the
 * end of any other than the main one. */
static void
die_with_parent(const zp__birth *birth)
{
    if (birth->main_thread)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (orphaned(birth))
        _exit(ZP__EXIT_TROUBLE);
}

/* Wait until the parent has recorded this process. */
static void
wait_for_go(const zp__birth *birth)
{
    struct timespec soon = {0, LOOK_AROUND_NS};
    uint32_t go;

    while ((go = atomic_load(&birth->page->go)) == ZP__GO_WAIT) {
        if (orphaned(birth))
            _exit(ZP__EXIT_TROUBLE);
        syscall(SYS_futex, &birth->page->go, FUTEX_WAIT, ZP__GO_WAIT, &soon,
                NULL, 0);
    }
    if (go != ZP__GO_RUN)
        _exit(ZP__EXIT_TROUBLE);
}

/* ----------------------------------------------------------------- end -- */

/* The text and origin of a failure with CODE: those of zp_fail(), or those of
 * the call that gave this code. */
static void
tell_failure(const zp_ctx *ctx, const struct zp__child *child, int code)
{
    zp__page *page = child->page;

    if (child->failed) {
        memcpy(page->error, child->error, sizeof page->error);
        memcpy(page->origin, child->origin, sizeof page->origin);
    } else if (ctx->error_code == code && ctx->error[0]) {
        snprintf(page->error, sizeof page->error, "returned %d: %.400s", code,
                 ctx->error);
    } else {
        snprintf(page->error, sizeof page->error, "returned %d (%s)", code,
                 zp_strerror(code));
    }
}

/* Is this end for good? If not, or if it cannot be told here, the parent has
 * the last word. */
static bool
last(const zp__page *page)
{
    return page->code >= 0 || !page->retried;
}

/* The record as the parent wrote it, with how this process ended, encoded. */
static int
ended_record(zp_ctx *ctx, const struct zp__child *child, void **ret,
             size_t *ret_size)
{
    const zp__page *page = child->page;
    zp__record record;
    const void *data;
    size_t size;
    int rc;

    rc = zp__view_begin(ctx->view);
    if (rc < 0)
        return rc;
    rc = zp__view_record(ctx->view, page->record, &data, &size);
    if (rc == 0)
        rc = zp__record_decode(&record, data, size);
    if (rc == 0) {
        record.state = last(page) ? ZP__RECORD_ENDED : ZP__RECORD_WAITING;
        record.ended_ns = zp__wall_ns();
        record.code = page->code;
        record.status = page->status;
        record.error = page->error;
        record.origin = page->origin;
        if (child->result)
            record.image = zp_value_image(child->result, &record.image_size);
        rc = zp__record_encode(&record, ret, ret_size);
    }
    zp__view_end(ctx->view);
    return zp__fail_code(rc);
}

static int
write_record(zp_ctx *ctx, const struct zp__child *child)
{
    uint64_t id = child->page->record;
    void *data;
    size_t size;
    int rc = ended_record(ctx, child, &data, &size);

    if (rc < 0)
        return rc;
    rc = zp__store_put_record(ctx->store, &id, data, size, last(child->page),
                              ctx->lock_timeout);
    free(data);
    return zp__fail_code(rc);
}

/* The function forked by itself, and this is not the process that was spawned:
 * nothing is its to tell or to free. */
_Noreturn static void
finish_stray(int code)
{
    zp__streams_flush();
    _exit(code >= 0 ? 0 : 1);
}

/* The function has returned CODE, or has asked for it with an exit status:
 * tell it, and end. */
_Noreturn static void
finish(zp_ctx *ctx, struct zp__child *child, int code, int status)
{
    zp__page *page = child->page;
    int rc;

    page->code = code;
    page->status = status;
    if (code >= 0)
        page->error[0] = page->origin[0] = '\0';
    zp__streams_flush(); /* for as long as it takes: on record, we run */
    rc = write_record(ctx, child);
    if (rc < 0) {
        page->trouble = rc;
        page->status = ZP__EXIT_TROUBLE;
        snprintf(page->error, sizeof page->error,
                 "its outcome could not be recorded: %s", zp__fail_text());
    } else {
        page->has_result = child->result != NULL;
        page->recorded = last(page);
    }
    atomic_store(&page->stage, ZP__STAGE_RETURNED);
    status = page->status;
    ctx->depth = 0; /* no callback on the stack is returned to */
    zp_value_free(child->result);
    child->result = NULL;
    child->spare = zp_value_free(child->spare);
    zp__ctx_destroy(ctx); /* as a child's: its children's records tell */
    _exit(status);
}

_Noreturn static void
finish_function(zp_ctx *ctx, struct zp__child *child, int code)
{
    if (zp__ctx_check(ctx) < 0)
        finish_stray(code);
    if (code < 0)
        tell_failure(ctx, child, code);
    finish(ctx, child, code, code < 0);
}

_Noreturn static void
refuse(zp__page *page, int rc)
{
    page->code = page->trouble = rc;
    page->status = ZP__EXIT_TROUBLE;
    snprintf(page->error, sizeof page->error, "could not start: %s",
             zp__fail_text());
    atomic_store(&page->stage, ZP__STAGE_RETURNED);
    _exit(ZP__EXIT_TROUBLE);
}

/* Directory, streams and nice value, while the descriptors that were inherited
 * are what they were at the fork. */
static int
settle_in(const zp__birth *birth)
{
    int rc;

    if (birth->dir_fd >= 0 && fchdir(birth->dir_fd) < 0)
        return zp__fail_errno(errno, "working directory %s", birth->job->dir);
    if (birth->dir_fd >= 0)
        close(birth->dir_fd);
    rc = zp__streams_apply(birth);
    if (rc < 0)
        return zp__fail_errno(-rc, "cannot put the streams in place");
    errno = 0;
    if (birth->job->nice && nice(birth->job->nice) == -1 && errno)
        return zp__fail_errno(errno, "cannot change its nice value by %d",
                              birth->job->nice);
    return 0;
}

/* What execve() closes need not be closed here. */
_Noreturn static void
become_program(const zp__birth *birth)
{
    const zp__job *job = birth->job;
    int rc;

    reset_signals();
    die_with_parent(birth);
    rc = settle_in(birth);
    if (rc < 0)
        refuse(birth->page, rc);
    wait_for_go(birth);
    atomic_store(&birth->page->stage, ZP__STAGE_RUNNING);
    execvpe(job->argv[0], job->argv, job->env);
    rc = errno;
    refuse(birth->page, zp__fail_errno(rc, "cannot run %s", job->argv[0]));
}

/* The context and all else of this process's own, or an error. */
static int
make_own(const zp__birth *birth, struct zp__child *child, zp_ctx **ret)
{
    const zp_ctx *parent = birth->parent;
    int rc;

    if (!zp__own_map(birth->page, sizeof *birth->page) ||
        !(child->ready_owned = zp__own_fd(child->ready_fd)))
        return zp__fail(-ENOMEM, "no memory");
    rc = zp__ctx_child(ret, &parent->place, birth->job->ns, parent);
    if (rc < 0)
        return rc;
    child->page = birth->page;
    child->depth = parent->child ? parent->child->depth + 1 : 1;
    child->says_ready = birth->job->says_ready;
    (*ret)->child = child;
    return 0;
}

void
zp__child_main(const zp__birth *birth)
{
    struct zp__child child;
    zp_ctx *ctx;
    int rc, ready_rc;

    if (birth->job->argv)
        become_program(birth);
    memset(&child, 0, sizeof child);
    child.ready_fd = fcntl(birth->ready_fd, F_DUPFD_CLOEXEC, 3);
    ready_rc = child.ready_fd < 0 ? -errno : 0;
    rc = settle_in(birth);
    zp__fork_child(birth->parent->place.run);
    inherited = birth->parent;
    reset_signals();
    die_with_parent(birth);
    if (rc == 0 && ready_rc < 0)
        rc = zp__fail_errno(-ready_rc, "no descriptor for readiness");
    if (rc == 0)
        rc = make_own(birth, &child, &ctx);
    if (rc < 0)
        refuse(birth->page, rc);
    zp__crash_install(&birth->page->crash);
    wait_for_go(birth);
    atomic_store(&birth->page->stage, ZP__STAGE_RUNNING);
    finish_function(ctx, &child, birth->job->fn(ctx, birth->arg));
}

/* ------------------------------------------------------------- readiness -- */

static void
say_ready(struct zp__child *child)
{
    static const uint64_t one = 1;

    if (child->ready_fd < 0)
        return;
    atomic_store(&child->page->ready, 1);
    (void)!write(child->ready_fd, &one, sizeof one);
    zp__own_forget(child->ready_owned);
    close(child->ready_fd);
    child->ready_fd = -1;
}

void
zp__child_waits(zp_ctx *ctx)
{
    if (!ctx->child->says_ready)
        say_ready(ctx->child);
}

/* ------------------------------------------------------- what it leaves -- */

static int
check_child(const zp_ctx *ctx, const char *what)
{
    int rc = zp__ctx_check(ctx);

    if (rc == 0 && !ctx->child)
        rc = zp__fail(-EINVAL, "%s works only in a process made by zp_spawn()",
                      what);
    return rc;
}

/* VALUE is taken. */
static void
keep_result(zp_ctx *ctx, zp_value *value)
{
    zp_value_free(ctx->child->result);
    ctx->child->result = value;
}

int
zp_return(zp_ctx *ctx, const char *format, ...)
{
    zp__encoded encoded;
    zp_value *value;
    va_list ap;
    int rc = check_child(ctx, "zp_return()");

    if (rc == 0 && !format)
        rc = zp__fail(ZP_EFORMAT, "the format is NULL");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    va_start(ap, format);
    rc = zp__encode(&encoded, format, ap);
    va_end(ap);
    if (rc == 0) {
        value = ctx->child->spare;
        ctx->child->spare = NULL;
        rc = value ? zp__value_assign(value, encoded.image, encoded.size)
                   : zp__value_copy(&value, encoded.image, encoded.size);
        zp__encoded_free(&encoded);
    }
    if (rc == 0)
        keep_result(ctx, value);
    return zp__ctx_done(ctx, rc);
}

void
zp__child_spare(zp_ctx *ctx, zp_value *value)
{
    zp_value_free(ctx->child->spare);
    ctx->child->spare = value;
}

int
zp_return_value(zp_ctx *ctx, const zp_value *value)
{
    zp_value *copy;
    const void *image;
    size_t size;
    int rc = check_child(ctx, "zp_return_value()");

    if (rc == 0 && !value)
        rc = zp__fail(-EINVAL, "the value is NULL");
    if (rc == 0) {
        image = zp_value_image(value, &size);
        rc = zp__value_copy(&copy, image, size);
    }
    if (rc == 0)
        keep_result(ctx, copy);
    return zp__ctx_done(ctx, rc);
}

zp_value *
zp__child_result(zp_ctx *ctx)
{
    zp_value *result = ctx->child->result;

    ctx->child->result = NULL;
    return result;
}

void
zp__child_anew(zp_ctx *ctx)
{
    struct zp__child *child = ctx->child;

    child->page->error[0] = child->page->origin[0] = '\0';
    child->failed = false;
    ctx->error_code = 0;
}

void
zp__child_failure(zp_ctx *ctx, int code, const char **ret_error,
                  const char **ret_origin)
{
    struct zp__child *child = ctx->child;

    tell_failure(ctx, child, code);
    *ret_error = child->page->error;
    *ret_origin = child->failed ? child->origin : "";
    child->failed = false;
}

int
zp_fail_at(zp_ctx *ctx, const char *file, int line, int code,
           const char *format, ...)
{
    struct zp__child *child;
    va_list ap;
    int rc = check_child(ctx, "zp_fail()");

    if (rc == 0 && (!file || !format))
        rc = zp__fail(-EINVAL, "the text is NULL");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    child = ctx->child;
    child->failed = true;
    va_start(ap, format);
    if (vsnprintf(child->error, sizeof child->error, format, ap) < 0)
        child->error[0] = '\0';
    va_end(ap);
    snprintf(child->origin, sizeof child->origin, "%s:%d", file, line);
    memcpy(child->page->error, child->error, sizeof child->error);
    memcpy(child->page->origin, child->origin, sizeof child->origin);
    return code < 0 ? code : ZP_EFAILED;
}

int
zp_ready(zp_ctx *ctx)
{
    int rc = check_child(ctx, "zp_ready()");

    if (rc == 0)
        say_ready(ctx->child);
    return zp__ctx_done(ctx, rc);
}

int
zp_exit(zp_ctx *ctx, int status)
{
    struct zp__child *child;
    int rc = check_child(ctx, "zp_exit()");

    if (rc == 0 && (status < 0 || status > 255))
        rc = zp__fail(-EINVAL, "an exit status is 0 - 255, not %d", status);
    if (rc == 0)
        rc = zp__ctx_may_wait("zp_exit()");
    if (rc < 0)
        return zp__ctx_done(ctx, rc);
    child = ctx->child;
    if (status && child->failed)
        tell_failure(ctx, child, ZP_EFAILED);
    else if (status)
        snprintf(child->page->error, sizeof child->page->error,
                 "exited with status %d", status);
    finish(ctx, child, status ? ZP_EFAILED : 0, status);
}
