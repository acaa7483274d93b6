/*
 * loop_run.c - running the loop, inside of runs.
 *
 * Runs. Each is a frame on the C stack, linked to the one around it, with its
 * own flags: who ends one sets a flag, and the run sees it when the iteration
 * is over. ev_break() would end whatever ev_run() is innermost, the
 * application's own perhaps. Only the innermost frame may keep libev's count
 * above zero: a zp_run() inside a wait ends when *its* reasons are gone.
 *
 *     zp_run             frame 1: until nothing is left, or a break
 *       callback
 *         zp_wait            frame 2: until *done, or its deadline
 *
 * An outer run that has come to its end returns when the inner ones have: the
 * C stack leaves no choice.
 */
#include <errno.h>
#include <time.h>

#include "core/error.h"
#include "core/loop_inside.h"

#define DEPTH_MAX 200 /* runs on the stack: a callback needs some, too */

double
zp__now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int64_t
zp__wall_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t
zp__tick(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void
stop_deadline(struct ev_loop *ev, struct zp__frame *frame)
{
    if (ev_is_active(&frame->timer))
        ev_ref(ev);
    ev_timer_stop(ev, &frame->timer);
}

/* Only ends the poll: the run itself looks at the clock. Comes again if it was
 * a little early, but not while an inner run keeps this one from ending. */
static void
on_deadline(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct zp__frame *frame = timer->data;

    (void)events;
    if (zp__now() >= frame->deadline)
        stop_deadline(ev, frame);
}

static void
arm_deadline(struct ev_loop *ev, struct zp__frame *frame, double seconds)
{
    ev_now_update(ev);
    ev_timer_set(&frame->timer, seconds, 0.001);
    ev_timer_start(ev, &frame->timer);
    ev_unref(ev);
}

static void
enter_run(zp__loop *loop, struct zp__frame *frame, const bool *done,
          double timeout)
{
    bool forever = !(timeout >= 0 && timeout <= ZP__TIMEOUT_MAX);

    frame->outer = loop->top;
    frame->around = ev_depth(loop->ev);
    frame->done = done;
    frame->once = timeout == 0;
    frame->deadline = forever ? -1 : zp__now() + timeout;
    frame->broken = false;
    frame->stopped = false;
    frame->code = 0;
    ev_init(&frame->timer, on_deadline);
    frame->timer.data = frame;
    if (frame->outer && frame->outer->done)
        ev_unref(loop->ev); /* it is the inner run's to decide now */
    if (done)
        ev_ref(loop->ev); /* wait, even if nothing else is active */
    if (!forever && timeout > 0)
        arm_deadline(loop->ev, frame, timeout);
    loop->top = frame;
    loop->depth++;
}

static void
leave_run(zp__loop *loop, struct zp__frame *frame)
{
    stop_deadline(loop->ev, frame);
    if (frame->done)
        ev_unref(loop->ev);
    if (frame->outer && frame->outer->done)
        ev_ref(loop->ev);
    loop->top = frame->outer;
    loop->depth--;
    if (loop->dead && !loop->top)
        zp__loop_bury(loop);
}

/* Has FRAME's run ended, and with what? ACTIVE is libev's count. What `done`
 * points to may be gone when the loop is dead. A callback's error is told even
 * if what was waited for came true in the same iteration: else it were lost. */
static bool
run_ended(const zp__loop *loop, const struct zp__frame *frame, int active,
          int *ret_rc)
{
    if (loop->dead)
        *ret_rc = ZP_ECLOSED;
    else if (frame->stopped)
        *ret_rc = frame->code;
    else if (frame->done && *frame->done)
        *ret_rc = 0;
    else if (frame->broken)
        *ret_rc = frame->done ? ZP_EBREAK : 0;
    else if (!frame->done && (active <= 0 || frame->once))
        *ret_rc = 0;
    else if (frame->deadline >= 0 && zp__now() >= frame->deadline)
        *ret_rc = -ETIMEDOUT;
    else
        return false;
    return true;
}

int
zp__loop_run(zp__loop *loop, const bool *done, double timeout)
{
    struct zp__frame frame;
    int active, rc = 0;
    bool forked;

    if (done && *done)
        return 0;
    if (loop->depth >= DEPTH_MAX)
        return zp__fail(-ELOOP, "%u waits inside of each other", loop->depth);
    enter_run(loop, &frame, done, timeout);
    do
        active = ev_run(loop->ev, frame.once ? EVRUN_NOWAIT : EVRUN_ONCE);
    while (!(forked = zp__loop_forked(loop)) &&
           !run_ended(loop, &frame, active, &rc));
    loop->was_stopped = frame.stopped;
    leave_run(loop, &frame); /* in a forked child, too: memory alone */
    if (forked)
        return zp__fail(ZP_EFORK, "the loop belongs to the process that forked "
                                  "in it");
    if (frame.stopped) /* the code came with its own text, or none */
        return rc == ZP_ECLOSED ? zp__fail(rc, "%s", zp_strerror(rc)) : rc;
    if (rc == -ETIMEDOUT)
        return zp__fail(rc, "nothing came within %g s", timeout);
    if (rc == ZP_EBREAK || rc == ZP_ECLOSED)
        return zp__fail(rc, "%s", zp_strerror(rc));
    return rc;
}

int
zp__loop_break(zp__loop *loop)
{
    if (!loop->top)
        return zp__fail(-EINVAL, "nothing runs that could be ended");
    loop->top->broken = true;
    return 0;
}

void
zp__loop_stop(zp__loop *loop, int code)
{
    if (!loop->top || loop->top->stopped)
        return;
    loop->top->stopped = true;
    loop->top->code = code;
}

/* Not while the application runs libev by itself inside of the run: it may wait
 * for the very callbacks that would be left out. */
bool
zp__loop_ending(const zp__loop *loop)
{
    const struct zp__frame *top = loop->top;

    if (loop->dead)
        return true;
    if (!top || ev_depth(loop->ev) > top->around + 1)
        return false;
    return top->stopped || top->broken || (top->done && *top->done);
}

bool
zp__loop_was_stopped(const zp__loop *loop)
{
    return loop->was_stopped;
}

unsigned
zp__loop_depth(const zp__loop *loop)
{
    return loop->depth;
}
