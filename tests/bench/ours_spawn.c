/*
 * ours_spawn.c - our side: processes, from the start to the end of one, of a
 * hundred, of one that is killed; and what one costs that waits.
 *
 * A child has a context of its own on the state before its function is called:
 * that is a part of each spawn, like its two records in the state (it runs, it
 * has ended).
 */
#include <signal.h>
#include <stdlib.h>

#include "tests/bench/ours.h"

#define PATIENCE 30 /* seconds that no child takes */

/* ---------------------------------------------------------- that end -- */

static int
end_at_once(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 0;
}

/* One process, started and waited for: in nanoseconds. */
static int
spawn_one(struct side *side, int64_t *ret_ns)
{
    struct ours *o = side->data;
    int64_t then = side_now();
    zp_proc *proc;
    int r = zp_spawn(o->ctx, &proc, NULL, end_at_once, NULL);

    if (r < 0)
        return ours_fail(side, "zp_spawn", r);
    r = zp_wait(proc, NULL, PATIENCE);
    *ret_ns = side_now() - then;
    zp_proc_free(proc);
    return r < 0 ? ours_fail(side, "zp_wait", r) : SIDE_OK;
}

int
ours_spawn_round(struct side *side)
{
    return side_report_each(side, spawn_one, SIDE_SPAWNS(side));
}

int
ours_spawn_start(struct side *side)
{
    int64_t ns;
    int r = ours_start(side);

    for (int i = 0; r == SIDE_OK && i < SIDE_SPAWN_WARM; i++)
        r = spawn_one(side, &ns);
    return r;
}

static int
spawn_hundred(struct side *side, int64_t *ret_ns)
{
    static zp_proc_fn *const fns[] = {end_at_once};
    struct ours *o = side->data;
    int64_t then = side_now();
    int r = zp_spawn_many(o->ctx, NULL, NULL, fns, 1, SIDE_CHILDREN, NULL);

    if (r < 0)
        return ours_fail(side, "zp_spawn_many", r);
    r = zp_ctx_wait(o->ctx, NULL, 0, 0, PATIENCE);
    *ret_ns = side_now() - then;
    return r < 0 ? ours_fail(side, "zp_ctx_wait", r) : SIDE_OK;
}

int
ours_hundred_children_round(struct side *side)
{
    int64_t ns;

    if (spawn_hundred(side, &ns) != SIDE_OK)
        return SIDE_FAIL;
    side_report(side, "ms", (double)ns / 1e6);
    return SIDE_OK;
}

int
ours_hundred_children_start(struct side *side)
{
    int64_t ns;

    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    return spawn_hundred(side, &ns);
}

/* ---------------------------------------------------------- that wait -- */

static int
ignore_change(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return 0;
}

/* Watch a key for ever. */
static int
wait_for_ever(zp_ctx *ctx, void *arg)
{
    int r = zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS(OURS_KEY),
                                NULL, ignore_change, NULL);

    (void)arg;
    return r < 0 ? r : zp_run(ctx);
}

static int
start_waiting(struct side *side, zp_proc **ret)
{
    struct ours *o = side->data;
    int r = zp_spawn(o->ctx, ret, NULL, wait_for_ever, NULL);

    if (r < 0)
        return ours_fail(side, "zp_spawn", r);
    r = zp_wait_ready(*ret, PATIENCE);
    return r < 0 ? ours_fail(side, "zp_wait_ready", r) : SIDE_OK;
}

static int
on_exit_of(zp_proc *proc, const zp_result *result, void *user)
{
    int64_t *when = user;

    (void)proc;
    (void)result;
    *when = side_now();
    return 0;
}

/* From the KILL to the exit callback. The callback is all that zp_run() waits
 * for here. */
static int
kill_one(struct side *side, int64_t *ret_ns)
{
    struct ours *o = side->data;
    int64_t killed, called = 0;
    zp_proc *proc;
    int r;

    if (start_waiting(side, &proc) != SIDE_OK)
        return SIDE_FAIL;
    r = zp_call_when_exit(proc, on_exit_of, &called);
    if (r < 0)
        return ours_fail(side, "zp_call_when_exit", r);
    side_pause();
    killed = side_now();
    kill(zp_proc_pid(proc), SIGKILL);
    r = zp_run(o->ctx);
    zp_proc_free(proc);
    if (r < 0)
        return ours_fail(side, "zp_run", r);
    *ret_ns = called - killed;
    return called ? SIDE_OK : side_fail(side, "no exit callback");
}

int
ours_kill_round(struct side *side)
{
    return side_report_each(side, kill_one, SIDE_KILLS(side));
}

int
ours_kill_start(struct side *side)
{
    int64_t ns;

    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    return kill_one(side, &ns);
}

int
ours_children_start(struct side *side)
{
    struct ours *o;
    zp_proc **procs;

    if (ours_start(side) != SIDE_OK)
        return SIDE_FAIL;
    o = side->data;
    procs = o->more = calloc(SIDE_IDLERS, sizeof(*procs));
    if (procs == NULL)
        return side_fail(side, "out of memory");
    for (int i = 0; i < SIDE_IDLERS; i++)
        if (start_waiting(side, &procs[i]) != SIDE_OK)
            return SIDE_FAIL;
    return SIDE_OK;
}

int
ours_children_round(struct side *side)
{
    struct ours *o = side->data;
    zp_proc **procs = o->more;
    pid_t pids[SIDE_IDLERS];

    for (int i = 0; i < SIDE_IDLERS; i++)
        pids[i] = zp_proc_pid(procs[i]);
    return crew_report_pss(side, pids, SIDE_IDLERS);
}
