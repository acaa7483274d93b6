/*
 * ours_watch.c - our side: what reaches a callback in another process, how
 * fast, and what such a process costs while nothing happens.
 *
 * A watcher is ready at its first event: the side sets the key until all are.
 */
#include <errno.h>

#include "tests/bench/ours.h"

/* Watch OURS_KEY with FN, for ever. */
static int
watch(struct side *side, zp_watch_fn *fn)
{
    struct ours o = {0};
    int r;

    side->data = &o;
    if (ours_join(side, &o.ctx) != SIDE_OK)
        return SIDE_FAIL;
    r = zp_call_when_change(zp_ctx_state(o.ctx), NULL, ZP_KEYS(OURS_KEY), NULL,
                            fn, side);
    if (r < 0)
        return ours_fail(side, "zp_call_when_change", r);
    r = zp_run(o.ctx);
    return ours_fail(side, "zp_run", r);
}

void
ours_first_event(struct side *side)
{
    static bool told;

    if (!told)
        crew_add(&side->crew->shared->ready);
    told = true;
}

/* The value that the event brings. */
static int
read_value(const zp_event *event, int64_t *ret)
{
    if (zp_event_kind(event) != ZP_CHANGED)
        return -EPROTO;
    return zp_get_int(zp_event_snapshot(event), OURS_KEY, ret);
}

static unsigned lane = CREW_LANE; /* this process's */

static int
on_sample(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t now = side_now();
    int64_t then;
    int r = read_value(event, &then);

    (void)watch;
    if (r < 0)
        return r;
    ours_first_event(user);
    crew_sample_in(user, lane, now - then);
    return 0;
}

static int
on_fan(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t now = side_now();

    (void)watch;
    (void)event;
    ours_first_event(user);
    crew_arrive(user, now, SIDE_WATCHERS);
    return 0;
}

static int
on_count(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t value;
    int r = read_value(event, &value);

    (void)watch;
    if (r < 0)
        return r;
    ours_first_event(user);
    crew_count(user);
    return 0;
}

int
ours_watcher(struct side *side, unsigned index)
{
    (void)index;
    return watch(side, on_sample);
}

/* The same, beside another one. */
int
ours_beside(struct side *side, unsigned index)
{
    (void)index;
    lane = CREW_BASE;
    return watch(side, on_sample);
}

int
ours_fan(struct side *side, unsigned index)
{
    (void)index;
    return watch(side, on_fan);
}

int
ours_counter(struct side *side, unsigned index)
{
    (void)index;
    return watch(side, on_count);
}

static int
set_time(struct side *side, int64_t now)
{
    struct ours *o = side->data;
    int r = zp_set_int(o->state, OURS_KEY, now);

    return r < 0 ? ours_fail(side, "zp_set_int", r) : SIDE_OK;
}

static int
watchers(struct side *side, const char *role, unsigned n)
{
    if (ours_start(side) != SIDE_OK || crew_start(side, role, n) != SIDE_OK)
        return SIDE_FAIL;
    return crew_until_ready(side, set_time, n);
}

int
ours_callback_start(struct side *side)
{
    return watchers(side, "watcher", 1);
}

int
ours_callback_round(struct side *side)
{
    return crew_latency(side, set_time, SIDE_SETS(side));
}

int
ours_fan_start(struct side *side)
{
    return watchers(side, "fan", SIDE_WATCHERS);
}

int
ours_fan_round(struct side *side)
{
    return crew_fanout(side, set_time, SIDE_SETS(side) / 4);
}

int
ours_events_start(struct side *side)
{
    return watchers(side, "counter", 1);
}

int
ours_events_round(struct side *side)
{
    return crew_events(side, set_time, side->quick ? 30000 : 100000);
}

int
ours_pss_start(struct side *side)
{
    return watchers(side, "counter", SIDE_IDLERS);
}

int
ours_pss_round(struct side *side)
{
    return crew_report_pss(side, side->crew->pid, side->crew->n);
}
