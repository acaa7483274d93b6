/*
 * child.c - what happens in a child of zp_spawn(), between fork and _exit().
 *
 *     close what was inherited -> default signals -> die with the parent
 *     -> own context -> wait until the parent has recorded us -> the function
 *     -> outcome to the page and the record -> end own children -> flush, exit
 *
 * The child never returns into its parent's code, and never runs the user's
 * function unrecorded: if the parent dies before it has written the record, the
 * child notices (its parent is another one) and ends.
 *
 * How it went is told twice. The page shared with the parent has the code and
 * the texts: it needs no store, so that even "no context, the disk is full"
 * reaches the waiter. The record in the store has them, too, for everybody
 * else, and the image of the result. If the record cannot be written, that is
 * told in the page, and by the exit status 70.
 *
 * Exit status: 0 when the function returned 0 or more, 1 when it failed, 70
 * when there was trouble around it. A function that calls exit() itself has
 * its own status, and leaves no result.
 *
 * The parent's memory is dead weight here: its context, store and loop are
 * never touched again, only kept reachable for leak checkers. (But for LMDB's:
 * that is megabytes, and would add up over nested children.)
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
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

static int64_t
wall_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

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
        record.state = ZP__RECORD_ENDED;
        record.ended_ns = wall_ns();
        record.code = page->code;
        record.status = page->code >= 0 ? 0 : 1;
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
    rc = zp__store_put_record(ctx->store, &id, data, size, true,
                              ctx->lock_timeout);
    free(data);
    return zp__fail_code(rc);
}

/* The function forked by itself, and this is not the process that was spawned:
 * nothing is its to tell or to free. */
_Noreturn static void
finish_stray(int code)
{
    fflush(NULL);
    _exit(code >= 0 ? 0 : 1);
}

/* The function has returned CODE: tell it, and end. */
_Noreturn static void
finish(zp_ctx *ctx, struct zp__child *child, int code)
{
    zp__page *page = child->page;
    int rc;

    if (zp__ctx_check(ctx) < 0)
        finish_stray(code);
    page->code = code;
    if (code < 0)
        tell_failure(ctx, child, code);
    rc = write_record(ctx, child);
    if (rc < 0) {
        page->trouble = rc;
        snprintf(page->error, sizeof page->error,
                 "its outcome could not be recorded: %s", zp__fail_text());
    } else {
        page->has_result = child->result != NULL;
    }
    atomic_store(&page->stage, ZP__STAGE_RETURNED);
    ctx->child = NULL;
    zp_value_free(child->result);
    zp_ctx_free(ctx);
    fflush(NULL);
    _exit(rc < 0 ? ZP__EXIT_TROUBLE : code >= 0 ? 0 : 1);
}

_Noreturn static void
refuse(zp__page *page, int rc)
{
    page->code = page->trouble = rc;
    snprintf(page->error, sizeof page->error, "could not start: %s",
             zp__fail_text());
    atomic_store(&page->stage, ZP__STAGE_RETURNED);
    _exit(ZP__EXIT_TROUBLE);
}

void
zp__child_main(const zp__birth *birth)
{
    const zp_ctx *parent = birth->parent;
    struct zp__child child;
    zp_ctx *ctx;
    int rc;

    zp__store_abandon();
    zp__fork_child(parent->place.run);
    inherited = parent;
    reset_signals();
    die_with_parent(birth);
    if (!zp__own_map(birth->page, sizeof *birth->page))
        refuse(birth->page, zp__fail(-ENOMEM, "no memory"));
    rc = zp__ctx_child(&ctx, &parent->place, birth->ns, parent);
    if (rc < 0)
        refuse(birth->page, rc);
    memset(&child, 0, sizeof child);
    child.page = birth->page;
    child.depth = parent->child ? parent->child->depth + 1 : 1;
    ctx->child = &child;
    wait_for_go(birth);
    atomic_store(&birth->page->stage, ZP__STAGE_RUNNING);
    finish(ctx, &child, birth->fn(ctx, birth->arg));
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
        rc = zp__value_copy(&value, encoded.image, encoded.size);
        zp__encoded_free(&encoded);
    }
    if (rc == 0)
        keep_result(ctx, value);
    return zp__ctx_done(ctx, rc);
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
    return code < 0 ? code : ZP_EFAILED;
}
