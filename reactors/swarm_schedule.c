/*
 * swarm_schedule.c - who gets what, how much of it, and who gives it back.
 *
 * A task is to take TASK_TIME, as far as the items before it tell; the first
 * ones are of one item, and each is at most GROWTH times as large as the
 * largest that came back. A worker has work for AHEAD, and two tasks at least,
 * so that it need not wait for us; so little that nobody else waits for it.
 * What it has not begun can be taken back: when nothing is queued any more, who
 * is idle gets half of what another one has left.
 *
 * Maps take turns, task by task. One whose results nobody reads gets nothing
 * more when they (as large as they have been so far) would fill its window; but
 * the item that is waited for is always given.
 */
#include <errno.h>
#include <stdio.h>

#include "reactors/swarm.h"

#define TASK_TIME 0.008 /* seconds */
#define AHEAD 0.032
#define GROWTH 8
#define UNKNOWN 1.0     /* seconds that a task takes as long as nobody knows */
#define WORTH_IT 0.0002 /* seconds of work that are worth being taken back */
#define SILENT 0.02     /* a worker unheard of for so long is in a slow item */
#define PUMP_MAX 0.005  /* seconds until the loop has its turn again */
/* A fork that failed is tried again after so many seconds, twice as many so
 * many times; given up after so many tries, and so many seconds, without any
 * worker. */
#define SPAWN_AGAIN 0.002
#define SPAWN_DOUBLE 6
#define SPAWN_TRIES 10
#define SPAWN_PATIENCE 5

/* --------------------------------------------------------------- workers -- */

static void
count_workers(const zp_swarm *swarm, size_t *ret_staying, size_t *ret_leaving)
{
    *ret_staying = *ret_leaving = 0;
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (swarm->workers[i])
            ++*(swarm->workers[i]->leaving ? ret_leaving : ret_staying);
}

static void
reap(zp_swarm *swarm)
{
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (swarm->workers[i] && swarm->workers[i]->proc->ended)
            zp__worker_free(swarm->workers[i]);
}

static uint64_t
queued(const zp_swarm *swarm)
{
    uint64_t n = 0;

    ZP__EACH(at, next, &swarm->turns)
    n += ZP__OF(at, zp_mapping, turn)->queued;
    return n;
}

/* How many should stay: with a process per item those that have one are about
 * to leave, and take up room as long as they are there. */
static size_t
wanted(const zp_swarm *swarm, size_t leaving)
{
    size_t room;
    uint64_t n;

    if (swarm->code)
        return 0;
    if (!swarm->per_item)
        return swarm->count;
    n = queued(swarm);
    room = leaving < swarm->count ? swarm->count - leaving : 0;
    return n < room ? (size_t)n : room;
}

/* The one that has most to do is not the one to go. */
static void
dismiss(zp_swarm *swarm, size_t n)
{
    zp__worker *least;

    for (; n; n--) {
        least = NULL;
        for (uint32_t i = 0; i < swarm->n_seats; i++) {
            zp__worker *worker = swarm->workers[i];

            if (worker && !worker->leaving &&
                (!least || worker->n_tasks <= least->n_tasks))
                least = worker;
        }
        if (least)
            zp__worker_leave(least);
    }
}

static void
spawn_failed(zp_swarm *swarm, int rc, size_t others)
{
    char text[ZP__ERROR_MAX];
    double now = zp__now();
    unsigned n = swarm->spawn_failures++;

    if (others || !n)
        swarm->spawn_since = now;
    swarm->spawn_at =
        now + SPAWN_AGAIN * (1 << (n < SPAWN_DOUBLE ? n : SPAWN_DOUBLE));
    if (n < SPAWN_TRIES || now - swarm->spawn_since < SPAWN_PATIENCE)
        return;
    snprintf(text, sizeof text, "%s", zp__fail_text());
    zp__swarm_fail(swarm, rc, text);
}

/* As many workers as there should be; those that leave know it. */
static void
keep_up(zp_swarm *swarm)
{
    size_t staying, leaving, want;
    int rc;

    reap(swarm);
    count_workers(swarm, &staying, &leaving);
    want = wanted(swarm, leaving);
    if (staying > want)
        dismiss(swarm, staying - want);
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (swarm->workers[i] && swarm->workers[i]->leaving &&
            !swarm->workers[i]->told)
            zp__worker_last(swarm->workers[i]);
    if (zp__now() < swarm->spawn_at)
        return;
    swarm->spawn_at = 0;
    for (; staying < want; staying++) {
        rc = zp__worker_new(swarm, NULL);
        if (rc < 0) {
            spawn_failed(swarm, rc, staying + leaving);
            return;
        }
        swarm->spawn_failures = 0;
    }
}

/* ---------------------------------------------------------------- giving -- */

static bool
has_room(const zp__worker *worker)
{
    return worker && worker->up && !worker->lost && !worker->leaving &&
           worker->n_tasks < ZP__CELLS &&
           (worker->n_tasks < 2 || worker->load < AHEAD);
}

/* Who has least to do, and room; NULL: nobody. */
static zp__worker *
best_worker(const zp_swarm *swarm)
{
    zp__worker *best = NULL;

    for (uint32_t i = 0; i < swarm->n_seats; i++) {
        zp__worker *worker = swarm->workers[i];

        if (has_room(worker) &&
            (!best || worker->n_tasks == 0 || worker->load < best->load))
            best = worker;
        if (best && best->n_tasks == 0)
            break;
    }
    return best;
}

static uint32_t
bytes_limit(double each, uint32_t n)
{
    if (each * n <= ZP__TASK_BYTES)
        return n;
    return each < ZP__TASK_BYTES ? (uint32_t)(ZP__TASK_BYTES / each) : 1;
}

/* Items in a task of MAP. */
static uint32_t
task_size(const zp_mapping *map)
{
    double n = map->per_item > 0 ? TASK_TIME / map->per_item : ZP__TASK_MAX;
    uint32_t most =
        map->grown < ZP__TASK_MAX / GROWTH ? map->grown * GROWTH : ZP__TASK_MAX;

    if (map->swarm->per_item)
        return 1;
    if (map->chunk)
        return (uint32_t)map->chunk;
    if (!map->grown || n < 1)
        return 1;
    most = n < most ? (uint32_t)n : most;
    return bytes_limit(map->bytes_item + map->bytes_result, most);
}

/* Would the results of what is in work fill the window? (Of a swarm that is to
 * end they may: it waits for what was added, and nobody reads meanwhile.) */
static bool
may_give(const zp_mapping *map)
{
    const zp__range *range;
    double expected = (double)map->held + (double)map->out * map->bytes_result;

    if (map->swarm->closing)
        return true;
    if (expected < (double)map->window_bytes || !map->out)
        return expected < (double)map->window_bytes || !zp__map_has_result(map);
    if (zp__list_empty(&map->queue) || (map->flags & ZP_UNORDERED))
        return false;
    range = ZP__OF(map->queue.next, zp__range, node);
    return range->index == map->next;
}

/* The map whose turn it was comes last. */
static void
next_turn(zp_mapping *map)
{
    zp__list_remove(&map->turn);
    if (!zp__map_rests(map))
        zp__map_turn(map);
}

/* Give WORKER a task of MAP: 1, or it turned out to be dead; 0: there is none
 * to be given; -ECANCELED: a source has freed the context. */
static int
give_of(zp_mapping *map, zp__worker *worker)
{
    uint32_t n = task_size(map);
    zp_swarm *swarm = map->swarm;
    zp__range *range;
    double load;
    int rc;

    if (!zp__map_fill(map, n))
        return -ECANCELED;
    if (!has_room(worker)) /* the source has run the loop, and it is gone */
        return 1;
    if (map->ended || !may_give(map))
        return 0;
    range = zp__map_take(map, n, ZP__TASK_BYTES);
    if (!range) {
        swarm->waiting |= map->queued > 0; /* no memory: later */
        return 0;
    }
    load = map->per_item > 0 ? map->per_item * range->n : UNKNOWN;
    rc = zp__worker_give(worker, range, load);
    if (rc < 0) {
        zp__map_requeue(map, range);
        worker->lost = rc == -EHOSTUNREACH; /* its end will be told */
        swarm->waiting |= !worker->lost;    /* no memory: later */
        return worker->lost;
    }
    if (worker->single)
        zp__worker_last(worker);
    next_turn(map);
    return 1;
}

static int
give(zp_swarm *swarm, zp__worker *worker)
{
    int rc = 0;

    ZP__EACH(at, next, &swarm->turns)
    {
        zp_mapping *map = ZP__OF(at, zp_mapping, turn);

        rc = give_of(map, worker);
        if (rc)
            return rc;
        if (zp__map_rests(map))
            zp__list_remove(&map->turn);
    }
    return 0;
}

/* ----------------------------------------------------------- taking back -- */

static uint32_t
unclaimed(const zp__worker *worker, unsigned cell)
{
    return worker->tasks[cell]->range->n - zp__worker_claimed(worker, cell);
}

/* How long the items of the task in CELL that are not begun have to wait: for
 * each other, and for a slow one before them, however quick they are. */
static double
waits_for(const zp__worker *worker, unsigned cell, double now)
{
    double each = worker->tasks[cell]->range->map->per_item;
    uint32_t n = unclaimed(worker, cell);

    if (n && now - worker->heard > SILENT)
        return n * (each > 0 ? each : UNKNOWN) + (now - worker->heard);
    return n * (each > 0 ? each : UNKNOWN);
}

/* The task that has most of its work before it. */
static zp__worker *
busiest(zp_swarm *swarm, unsigned *ret_cell)
{
    zp__worker *found = NULL;
    double most = WORTH_IT, now = zp__now();

    for (uint32_t i = 0; i < swarm->n_seats; i++) {
        zp__worker *worker = swarm->workers[i];

        if (!worker || worker->n_tasks == 0)
            continue;
        for (unsigned cell = 0; cell < ZP__CELLS; cell++) {
            double left;

            if (!worker->tasks[cell])
                continue;
            left = waits_for(worker, cell, now);
            swarm->waiting |= left > 0;
            if (left > most) {
                most = left;
                found = worker;
                *ret_cell = cell;
            }
        }
    }
    return found;
}

/* Half of what somebody has not begun goes back to the queue. */
static bool
take_back(zp_swarm *swarm)
{
    unsigned cell = 0;
    zp__worker *victim = busiest(swarm, &cell);
    zp__range *range;

    if (!victim)
        return false;
    range = zp__worker_take_back(victim, cell, unclaimed(victim, cell) / 2);
    if (!range)
        return false;
    zp__map_requeue(range->map, range);
    return true;
}

static bool
somebody_idles(const zp_swarm *swarm)
{
    for (uint32_t i = 0; i < swarm->n_seats; i++)
        if (has_room(swarm->workers[i]) && swarm->workers[i]->n_tasks == 0)
            return true;
    return false;
}

/* ------------------------------------------------------------------ pump -- */

/* -ECANCELED: the swarm is no more. */
static int
hand_out(zp_swarm *swarm)
{
    double until = zp__now() + PUMP_MAX;
    zp__worker *worker;
    int rc;

    swarm->waiting = false;
    while ((worker = best_worker(swarm))) {
        rc = give(swarm, worker);
        if (rc < 0)
            return rc;
        if (rc == 0 && !(somebody_idles(swarm) && take_back(swarm)))
            return 0;
        if (zp__now() > until) {
            zp__kick(swarm->kick);
            return 0;
        }
    }
    return 0;
}

/* With a process per item there must be an item to fork for. */
static int
fill(zp_swarm *swarm)
{
    ZP__EACH(at, next, &swarm->turns)
    if (!zp__map_fill(ZP__OF(at, zp_mapping, turn), swarm->count))
        return -ECANCELED;
    return 0;
}

void
zp__swarm_pump(zp_swarm *swarm)
{
    if (swarm->pumping)
        return;
    swarm->pumping = true;
    zp__swarm_read(swarm);
    if (swarm->per_item && fill(swarm) < 0)
        return;
    keep_up(swarm);
    if (hand_out(swarm) < 0)
        return;
    swarm->pumping = false;
    zp__swarm_settle(swarm);
}
