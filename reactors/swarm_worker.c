/*
 * swarm_worker.c - one worker as its owner sees it.
 *
 *     forked --> up (it has greeted) --> has tasks ... --> told to leave -->
 * gone ^                                   |
 *       +------ started again, its items ---+ dead
 *               are others' now
 *
 * A worker is a process of the context like any other, with a record, started
 * again without end while it is wanted. Each start is a *life* of its own: what
 * an earlier one has sent and nobody had read when it died is void, since its
 * items have been given to others by then.
 *
 * What a dead one had: the cells tell. Items that it had not begun are queued
 * again; of those that it had begun and not told of, the last one (of the last
 * task that it had begun) was running and is suspected to have killed it; the
 * others' results were lost on the way.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dlfcn.h>

#include "core/room.h"
#include "reactors/swarm.h"

#define RETRY_DELAY 0.005 /* seconds until a dead one is started again, ... */
#define RETRY_MAX 0.5 /* ... growing up to this, as long as each begins ... */
#define RETRY_STABLE 0.02 /* ... nothing, and lives less than this */
#define STILLBORN_MAX 16  /* deaths of workers that had begun nothing, ... */
                          /* ... beside one of each that there is to be */

static void on_attempt(zp_proc *proc, void *user);

/* ------------------------------------------------------------------ birth --
 */

static int
free_seat(zp_swarm *swarm, uint32_t *ret)
{
    for (*ret = 0; *ret < ZP__WORKERS_MAX; ++*ret)
        if (!swarm->workers[*ret])
            return 0;
    return zp__fail(-EAGAIN, "a swarm has at most %d workers", ZP__WORKERS_MAX);
}

/* Each one that is not up yet is about to connect. */
static int
has_room(void *user)
{
    const zp__worker *worker = user;
    const zp_swarm *swarm = worker->swarm;
    size_t others = 0;

    for (uint32_t i = 0; i < swarm->n_seats; i++) {
        const zp__worker *other = swarm->workers[i];

        others += other && other != worker && !other->up &&
                  other->proc->stage == ZP__PROC_RUNNING;
    }
    return zp__room_for_peer(others);
}

static int
spawn(zp__worker *worker)
{
    static const zp_retry again = {
        .size = sizeof again,
        .retries = -1,
        .delay = RETRY_DELAY,
        .backoff = 2,
        .max_delay = RETRY_MAX,
        .stable = RETRY_STABLE,
    };
    zp_swarm *swarm = worker->swarm;
    zp_spawn_options options;
    char name[ZP__RECORD_NAME + 1];
    int rc = zp__ctx_enter(swarm->ctx);

    if (rc == 0)
        rc = zp__spawn_options(&options, swarm->ctx, &swarm->spawn);
    if (rc < 0)
        return rc;
    snprintf(name, sizeof name, "%s-%u", swarm->name, worker->number);
    options.name = name;
    options.flags = 0; /* the context's defaults are for others, and so on */
    options.retry = worker->single ? NULL : &again;
    options.exit_fn = NULL;
    return zp__spawn(swarm->ctx, &worker->proc, &options, zp__worker_main,
                     worker);
}

int
zp__worker_new(zp_swarm *swarm, zp__worker **ret)
{
    zp__worker *worker = calloc(1, sizeof *worker);
    uint32_t number;
    int rc = worker ? free_seat(swarm, &number)
                    : zp__fail(-ENOMEM, "no memory for a worker");

    if (rc == 0) {
        worker->swarm = swarm;
        rc = has_room(worker);
    }
    if (rc == 0) {
        worker->number = number;
        worker->seat = &swarm->seats[number];
        worker->life = ++swarm->lives;
        worker->unborn = zp__now();
        worker->single = swarm->per_item;
        rc = spawn(worker);
    }
    if (rc < 0) {
        free(worker);
        return rc;
    }
    worker->proc->worker = true;
    worker->proc->attempt_fn = on_attempt;
    worker->proc->room_fn = has_room;
    worker->proc->attempt_user = worker;
    swarm->workers[number] = worker;
    if (number >= swarm->n_seats)
        swarm->n_seats = number + 1;
    if (ret)
        *ret = worker;
    return 0;
}

void
zp__worker_free(zp__worker *worker)
{
    zp_swarm *swarm = worker->swarm;

    worker->proc->attempt_fn = NULL;
    worker->proc->room_fn = NULL;
    zp_proc_free(worker->proc);
    swarm->workers[worker->number] = NULL;
    while (swarm->n_seats && !swarm->workers[swarm->n_seats - 1])
        swarm->n_seats--;
    free(worker);
}

/* ------------------------------------------------------------------ tasks --
 */

zp__name
zp__worker_name(const zp__worker *worker)
{
    return (zp__name){{'z', 'p', 'w', 0}, worker->number, worker->life};
}

static int
send_order(const zp__worker *worker, const zp__order *order, const void *body,
           size_t size, zp__message_free_fn *free_fn, void *hint)
{
    zp__name name = zp__worker_name(worker);

    zp__loop_touched(worker->swarm->readable);
    return zp__wire_send(worker->swarm->socket, &name, order, sizeof *order,
                         body, size, free_fn, hint);
}

/* The introduction of MAP: from malloc(). */
static unsigned char *
new_intro(const zp_mapping *map, size_t *ret_size)
{
    zp__intro intro = {.fn = (uint64_t)(uintptr_t)map->fn,
                       .common = (uint32_t)map->common_size};
    unsigned char *body;
    Dl_info info = {.dli_fname = NULL};

    if (dladdr((void *)(uintptr_t)map->fn, &info) && info.dli_fname) {
        intro.base = (uint64_t)(uintptr_t)info.dli_fbase;
        intro.path = (uint32_t)strlen(info.dli_fname);
    }
    *ret_size = sizeof intro + intro.path + map->common_size;
    body = malloc(*ret_size);
    if (!body)
        return NULL;
    memcpy(body, &intro, sizeof intro);
    if (intro.path)
        memcpy(body + sizeof intro, info.dli_fname, intro.path);
    if (map->common_size)
        memcpy(body + sizeof intro + intro.path, map->common, map->common_size);
    return body;
}

static bool
knows(const zp__worker *worker, const zp_mapping *map)
{
    return worker->number < map->n_knows &&
           map->knows[worker->number] == worker->life;
}

static int
room_to_know(zp_mapping *map, uint32_t n)
{
    uint32_t *more;

    if (n <= map->n_knows)
        return 0;
    more = realloc(map->knows, n * sizeof *more);
    if (!more)
        return -ENOMEM;
    memset(more + map->n_knows, 0, (n - map->n_knows) * sizeof *more);
    map->knows = more;
    map->n_knows = n;
    return 0;
}

/* Tell WORKER of MAP, once in each of its lives. */
static int
introduce(zp__worker *worker, zp_mapping *map)
{
    zp__order order = {.kind = ZP__ORDER_MAP, .map = map->id};
    unsigned char *body;
    size_t size;
    int rc;

    if (knows(worker, map))
        return 0;
    if (room_to_know(map, worker->number + 1) < 0)
        return -ENOMEM;
    body = new_intro(map, &size);
    rc = body ? send_order(worker, &order, body, size, NULL, NULL) : -ENOMEM;
    free(body);
    if (rc == 0)
        map->knows[worker->number] = worker->life;
    return rc;
}

static unsigned
free_cell(const zp__worker *worker)
{
    unsigned cell = 0;

    while (worker->tasks[cell])
        cell++;
    return cell;
}

static void
sent(void *data, void *blob)
{
    (void)data;
    zp__wire_freed();
    zp__blob_drop(blob);
}

int
zp__worker_give(zp__worker *worker, zp__range *range, double load)
{
    zp__task *task = calloc(1, sizeof *task);
    zp__order order = {.kind = ZP__ORDER_TASK,
                       .map = range->map->id,
                       .task = ++worker->swarm->next_task,
                       .index = range->index,
                       .n = range->n};
    int rc = task ? introduce(worker, range->map) : -ENOMEM;

    if (rc < 0) {
        free(task);
        return rc;
    }
    task->range = range;
    task->id = order.task;
    task->load = load;
    order.cell = free_cell(worker);
    zp__cell_set(&worker->seat->cell[order.cell], range->n);
    atomic_fetch_add(&range->blob->refs, 1);
    rc = send_order(worker, &order, range->blob->bytes + range->from,
                    range->to - range->from, sent, range->blob);
    if (rc < 0) {
        free(task);
        return rc;
    }
    worker->tasks[order.cell] = task;
    if (worker->n_tasks++ == 0)
        worker->heard = zp__now();
    worker->load += load;
    range->map->tasks++;
    range->map->out += range->n;
    return 0;
}

uint32_t
zp__worker_claimed(const zp__worker *worker, unsigned cell)
{
    const zp__task *task = worker->tasks[cell];
    uint32_t claimed = zp__cell_claimed(&worker->seat->cell[cell]);

    if (claimed > task->range->n)
        return task->range->n;
    return claimed > task->got ? claimed : task->got;
}

/* The task in CELL is over, or somebody else's. */
static zp__range *
drop_task(zp__worker *worker, unsigned cell)
{
    zp__task *task = worker->tasks[cell];
    zp__range *range = task->range;

    worker->tasks[cell] = NULL;
    worker->load -= task->load;
    if (--worker->n_tasks == 0)
        worker->load = 0;
    range->map->tasks--;
    range->map->out -= range->n - task->got;
    free(task);
    return range;
}

zp__range *
zp__worker_take_back(zp__worker *worker, unsigned cell, uint32_t keep)
{
    zp__task *task = worker->tasks[cell];
    uint32_t limit = zp__cell_cut(&worker->seat->cell[cell], keep);
    double each;
    zp__range *rest;

    if (limit < task->got) /* somebody has written to it */
        limit = task->got;
    if (limit >= task->range->n)
        return NULL;
    each = task->load / (task->range->n - task->got);
    rest = zp__range_split(task->range, limit);
    if (!rest) { /* it is cut all the same, and would be lost */
        zp__map_abort(task->range->map, -ENOMEM, "no memory for items");
        return NULL;
    }
    task->range->map->out -= rest->n;
    task->load -= each * rest->n;
    worker->load -= each * rest->n;
    return rest;
}

/* ---------------------------------------------------------------- reports --
 */

/* Does REPORT speak of a task that its sender has, and as it should? */
static zp__task *
task_of(const zp__worker *worker, const zp__report *report)
{
    zp__task *task;

    if (report->cell >= ZP__CELLS)
        return NULL;
    task = worker->tasks[report->cell];
    if (!task || task->id != report->task || report->from != task->got ||
        report->n > task->range->n - task->got)
        return NULL;
    return task;
}

/* Items would be forgotten. (Of a map that has ended nobody asks for them.) */
static bool
ends_early(const zp__task *task, const zp__report *report)
{
    return report->last && !task->range->map->ended &&
           task->got + report->n != task->range->n;
}

static void
learn(zp_mapping *map, const zp__report *report)
{
    double each = report->seconds / report->n;

    if (!(each >= 0) || each > 1e9)
        return;
    if (map->per_item > 0)
        map->per_item += (each - map->per_item) * 0.3;
    else
        map->per_item = each;
    if (map->grown < report->n)
        map->grown = report->n;
}

/* Items of a task are done: results, or (nobody could read them) failures. */
static void
take_results(zp__worker *worker, zp__task *task, const zp__report *report,
             zp__message *body, int64_t failed)
{
    zp__range *range = task->range;
    zp_mapping *map = range->map;
    double share = task->load * report->n / (range->n - task->got);
    uint64_t index = range->index + task->got;

    task->got += report->n;
    map->out -= report->n;
    task->load -= share;
    worker->load -= share;
    worker->heard = zp__now();
    worker->fruitful = true;
    learn(map, report);
    worker->swarm->deaths = 0;
    if (map->ended)
        zp__message_free(body);
    else if (zp__map_results(map, body, index, report->n, (uint32_t)failed) < 0)
        zp__map_abort(map, -ENOMEM, "no memory for results");
}

static void
on_done(zp__worker *worker, const zp__report *report, zp__message *body)
{
    zp__task *task = task_of(worker, report);
    size_t size;
    const void *data = zp__message_data(body, &size);
    int64_t failed = task ? zp__answers_check(data, size, report->n) : -1;

    if (failed < 0 ||
        ends_early(task, report)) { /* of another life, or nonsense */
        zp__message_free(body);
        if (task)
            zp__proc_signal(worker->proc, SIGKILL);
        return;
    }
    if (report->n)
        take_results(worker, task, report, body, failed);
    else
        zp__message_free(body);
    if (report->last) /* not before: until then the cell is the worker's */
        zp__range_free(drop_task(worker, report->cell));
}

void
zp__swarm_read(zp_swarm *swarm)
{
    zp__worker *worker;
    zp__report report;
    zp__message body;
    zp__name name;

    zp__loop_touched(swarm->readable);
    while (zp__wire_receive(swarm->socket, &name, &report, sizeof report,
                            &body) > 0) {
        worker =
            name.number < swarm->n_seats ? swarm->workers[name.number] : NULL;
        if (worker && worker->life == name.life &&
            report.kind == ZP__REPORT_DONE) {
            on_done(worker, &report, &body);
            continue;
        }
        zp__message_free(&body);
        if (worker && worker->life == name.life &&
            report.kind == ZP__REPORT_UP) {
            worker->up = true;
            worker->lost = false;
        }
    }
}

/* ------------------------------------------------------------------- ends --
 */

/* How it ended, in words that name it. */
static void
epitaph(const zp_proc *proc, char *buffer, size_t room)
{
    char who[ZP__PROC_WHO];

    snprintf(buffer, room, "%s: %s", zp__proc_who(proc, who),
             proc->error[0] ? proc->error : "exited");
}

/* The first item of RANGE, its only one, was running when its worker died. */
static void
suspect(zp__range *range, const char *how)
{
    zp_mapping *map = range->map;
    char text[ZP__RECORD_TEXT + 256];

    range->deaths++;
    map->again++;
    if (map->ended || (!(map->flags & ZP_ONCE) && range->deaths < map->tries)) {
        zp__map_requeue(map, range);
        return;
    }
    if (map->flags & ZP_ONCE)
        snprintf(text, sizeof text, "%s", how);
    else
        snprintf(text, sizeof text, "%u times; the last time %s", range->deaths,
                 how);
    if (zp__map_fail_items(map, range->index, 1,
                           map->flags & ZP_ONCE ? ZP_ELOST : ZP_EPOISON,
                           text) < 0)
        zp__map_abort(map, -ENOMEM, "no memory for results");
    zp__range_free(range);
}

/* Items that were done, or nearly so, but of which nothing was heard. */
static void
unheard(zp__range *range, const char *how)
{
    zp_mapping *map = range->map;

    map->again += range->n;
    if (map->ended || !(map->flags & ZP_ONCE)) {
        zp__map_requeue(map, range);
        return;
    }
    if (zp__map_fail_items(map, range->index, range->n, ZP_ELOST, how) < 0)
        zp__map_abort(map, -ENOMEM, "no memory for results");
    zp__range_free(range);
}

/* RANGE's items from AT on; NULL if there is no memory for that: then the map
 * cannot go on. */
static zp__range *
part(zp__range *range, uint32_t at)
{
    zp__range *rest = zp__range_split(range, at);

    if (!rest)
        zp__map_abort(range->map, -ENOMEM, "no memory for items");
    return rest;
}

/* What becomes of a dead worker's task, of which GOT results were heard and
 * CLAIMED items begun; RUNNING: it was at the last of these. Returns if any
 * was begun and not heard of. */
static bool
bury_task(zp__range *range, uint32_t got, uint32_t claimed, bool running,
          const char *how)
{
    zp__range *rest = NULL, *last = NULL, *lost = NULL;

    if (claimed < range->n && claimed > got && (rest = part(range, claimed)))
        zp__map_requeue(range->map, rest);
    if (running && claimed > got && (last = part(range, claimed - 1)))
        suspect(last, how);
    if (got < range->n && (lost = part(range, got))) {
        if (claimed > got)
            unheard(lost, how);
        else
            zp__map_requeue(range->map, lost);
    }
    zp__range_free(range);
    return claimed > got;
}

/* A worker does one task after the other: what it was at is in the last one
 * that it has begun, and of those before it all is done. NULL: none is. */
static const zp__task *
begun_last(const zp__worker *worker)
{
    const zp__task *last = NULL;

    for (unsigned cell = 0; cell < ZP__CELLS; cell++) {
        const zp__task *task = worker->tasks[cell];

        if (task && zp__worker_claimed(worker, cell) > 0 &&
            (!last || task->id > last->id))
            last = task;
    }
    return last;
}

static bool
bury_tasks(zp__worker *worker, const char *how)
{
    const zp__task *last = begun_last(worker);
    bool begun = false;

    for (unsigned cell = 0; cell < ZP__CELLS; cell++) {
        zp__task *task = worker->tasks[cell];

        if (!task)
            continue;
        uint32_t got = task->got, claimed = zp__worker_claimed(worker, cell);
        bool running = task == last;
        begun |= bury_task(drop_task(worker, cell), got, claimed, running, how);
    }
    return begun;
}

/* An attempt has ended, in whatever way; nobody may be called here. */
static void
on_attempt(zp_proc *proc, void *user)
{
    zp__worker *worker = user;
    zp_swarm *swarm = worker->swarm;
    char how[ZP__RECORD_TEXT + 192];
    bool counts = !worker->up && !worker->leaving, begun;

    epitaph(proc, how, sizeof how);
    zp__swarm_read(swarm);
    worker->up = worker->told = worker->lost = false;
    counts |= worker->n_tasks > 0;
    begun = bury_tasks(worker, how);
    if (begun || worker->fruitful)
        zp__proc_hurry(proc);
    if (!begun && counts && ++swarm->deaths >= STILLBORN_MAX + swarm->count)
        zp__swarm_fail(swarm, ZP_ECRASHLOOP, how);
    worker->fruitful = false;
    worker->life = ++swarm->lives;
    worker->unborn = zp__now();
    zp__kick(swarm->kick);
}

/* -------------------------------------------------------------- departure --
 */

bool
zp__worker_runs(const zp__worker *worker, const zp_mapping *map)
{
    for (unsigned cell = 0; cell < ZP__CELLS; cell++) {
        const zp__task *task = worker->tasks[cell];

        if (task && task->range->map == map &&
            zp__worker_claimed(worker, cell) > task->got)
            return true;
    }
    return false;
}

bool
zp__worker_is_at(const zp__worker *worker, const zp_mapping *map)
{
    const zp__task *last = begun_last(worker);

    return last && last->range->map == map;
}

void
zp__worker_forget(zp__worker *worker, zp_mapping *map)
{
    zp__order order = {.kind = ZP__ORDER_FORGET, .map = map->id};

    for (unsigned cell = 0; cell < ZP__CELLS; cell++)
        if (worker->tasks[cell] && worker->tasks[cell]->range->map == map) {
            (void)zp__cell_cut(&worker->seat->cell[cell], 0);
            zp__range_free(drop_task(worker, cell));
        }
    if (worker->up && !worker->told && knows(worker, map))
        (void)send_order(worker, &order, NULL, 0, NULL, NULL);
}

void
zp__worker_signal(zp__worker *worker, int number)
{
    zp__proc_signal(worker->proc, number);
    if (number == SIGTERM)
        zp__proc_signal(worker->proc, SIGCONT);
}

void
zp__worker_leave(zp__worker *worker)
{
    zp__range *back;

    for (unsigned cell = 0; cell < ZP__CELLS; cell++)
        if (worker->tasks[cell] &&
            (back = zp__worker_take_back(worker, cell, 0)))
            zp__map_requeue(back->map, back);
    zp__worker_last(worker);
}

/* Not before its last report was read: its end might be told sooner than what
 * it has sent, and what it has done would be done again. */
void
zp__worker_last(zp__worker *worker)
{
    zp__order order = {.kind = ZP__ORDER_LEAVE};

    worker->leaving = worker->proc->stopping = true;
    if (worker->proc->stage == ZP__PROC_WAITING)
        zp__proc_give_up(worker->proc, -ECANCELED, "no longer needed");
    else if (worker->up && !worker->told && worker->n_tasks == 0)
        worker->told = send_order(worker, &order, NULL, 0, NULL, NULL) == 0;
}
