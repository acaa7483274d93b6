/*
 * swarm.c - a swarm's life: its socket and shared cells, its size, its end.
 *
 * The owner binds a ROUTER in the state's run directory, where only the same
 * user comes; children close what they inherited of it, as everything of the
 * library's. All of the work is done in the loop, after a kick: by
 * zp__swarm_pump(), which the functions of the other files ask for.
 *
 * A swarm that was given back stays until its workers have ended, and its maps
 * were given back, too; one that belongs to a map (zp_map()) goes with it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "reactors/swarm.h"

#define TICK 0.05    /* seconds between looks at what is to end */
#define BIRTH_MAX 10 /* seconds until a worker that is not up is ended */
#define SEATS_SIZE (ZP__WORKERS_MAX * sizeof(zp__seat))

/* --------------------------------------------------------------- hooks -- */

static void
crews_free(zp_ctx *ctx)
{
    struct zp__crews *crews = ctx->crews;

    if (!crews)
        return;
    ctx->crews = NULL;
    ZP__EACH(at, next, &crews->swarms)
    zp__swarm_destroy(ZP__OF(at, zp_swarm, node));
    ZP__EACH(at, next, &crews->results)
    zp__results_destroy(at);
    free(crews);
}

/* Is there something added that can be done, and is not? */
static bool
has_work(const zp_swarm *swarm)
{
    ZP__EACH(at, next, &swarm->maps)
    {
        const zp_mapping *map = ZP__OF(at, zp_mapping, node);

        if (!map->ended && (map->queued || map->out))
            return true;
    }
    return false;
}

/* Is there anything left of it to be waited for? */
static bool
is_quiet(const zp_swarm *swarm)
{
    return !swarm->n_seats && !has_work(swarm);
}

static zp_swarm *
first_busy(const zp_ctx *ctx)
{
    ZP__EACH(at, next, &ctx->crews->swarms)
    if (!is_quiet(ZP__OF(at, zp_swarm, node)))
        return ZP__OF(at, zp_swarm, node);
    return NULL;
}

/* Until its workers have ended. When *RET_GONE its context is gone, too; else
 * it may have been given back. */
static int
wait_for_quiet(zp_swarm *swarm, bool *ret_gone)
{
    int rc;

    swarm->quiet = is_quiet(swarm);
    swarm->pins++;
    rc = zp__ctx_wait(swarm->ctx, &swarm->quiet, -1, ret_gone);
    if (!*ret_gone)
        swarm->pins--;
    return rc;
}

/* Callbacks run meanwhile, and may make more swarms; a negative value of theirs
 * ends this. */
static void
swarms_leave(zp_ctx *ctx)
{
    zp_swarm *swarm;
    bool gone;
    int rc = 0;

    while (ctx->crews && rc == 0 && (swarm = first_busy(ctx))) {
        ZP__EACH(at, next, &ctx->crews->swarms)
        zp__swarm_leave(ZP__OF(at, zp_swarm, node), false);
        rc = wait_for_quiet(swarm, &gone);
        if (gone)
            return;
        zp__swarm_let_go(swarm);
    }
}

static void
swarms_unheld(zp_ctx *ctx)
{
    if (!ctx->crews)
        return;
    ZP__EACH(at, next, &ctx->crews->swarms)
    {
        zp_swarm *swarm = ZP__OF(at, zp_swarm, node);

        ZP__EACH(one, next_one, &swarm->maps)
        zp__map_call(ZP__OF(one, zp_mapping, node));
        ZP__EACH(one, next_one, &swarm->over)
        zp__map_call(ZP__OF(one, zp_mapping, node));
        zp__kick(swarm->kick); /* sources */
    }
}

int
zp__crews_get(zp_ctx *ctx, struct zp__crews **ret)
{
    if (!ctx->crews) {
        ctx->crews = malloc(sizeof *ctx->crews);
        if (!ctx->crews)
            return zp__fail(-ENOMEM, "no memory for a swarm");
        zp__list_init(&ctx->crews->swarms);
        zp__list_init(&ctx->crews->results);
        ctx->swarms_free = crews_free;
        ctx->swarms_leave = swarms_leave;
        ctx->swarms_unheld = swarms_unheld;
    }
    *ret = ctx->crews;
    return 0;
}

/* ----------------------------------------------------------------- parts -- */

static void
on_readable(void *user)
{
    zp__swarm_pump(user);
}

static void
on_timer(void *user)
{
    zp_swarm *swarm = user;

    swarm->ticking = false;
    zp__swarm_pump(swarm);
}

static int
open_socket(zp_swarm *swarm)
{
    static _Atomic unsigned count;
    zp_ctx *ctx = swarm->ctx;
    char path[ZP__PATH_MAX], name[64];
    void *zmq;
    int rc;

    rc = zp__ctx_zmq(ctx, &zmq);
    if (rc < 0)
        return rc;
    snprintf(name, sizeof name, "swarm.%x.%x", (unsigned)getpid(),
             atomic_fetch_add(&count, 1));
    snprintf(swarm->address, sizeof swarm->address, "ipc://%s",
             zp__place_file(&ctx->place, name, path));
    zp__own_begin();
    swarm->socket = zp__wire_bind(zmq, swarm->address);
    rc = swarm->socket ? 0 : errno;
    swarm->owned = zp__own_end(NULL);
    if (rc)
        return zp__fail_errno(rc, "cannot listen at %s", swarm->address);
    if (!swarm->owned)
        return zp__fail(-ENOMEM, "no memory for a socket");
    return zp__loop_zmq(ctx->loop, &swarm->readable, swarm->socket, on_readable,
                        swarm);
}

static int
map_seats(zp_swarm *swarm)
{
    void *seats = mmap(NULL, SEATS_SIZE, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (seats == MAP_FAILED)
        return zp__fail(-ENOMEM, "no memory for a swarm");
    swarm->seats = seats;
    return 0;
}

static void
close_parts(zp_swarm *swarm)
{
    zp__handle_free(swarm->readable);
    zp__handle_free(swarm->kick);
    zp__handle_free(swarm->timer);
    if (swarm->socket)
        zp__wire_close(swarm->socket, swarm->address);
    zp__own_forget(swarm->owned);
    if (swarm->seats)
        munmap(swarm->seats, SEATS_SIZE);
    zp__spawn_defaults_free(swarm->spawn_copy);
    free(swarm);
}

static int
open_parts(zp_swarm *swarm)
{
    zp__loop *loop = swarm->ctx->loop;
    int rc = map_seats(swarm);

    if (rc == 0)
        rc = zp__loop_kick(loop, &swarm->kick, on_readable, swarm);
    if (rc == 0)
        rc = zp__loop_timer(loop, &swarm->timer, on_timer, swarm);
    if (rc == 0)
        rc = open_socket(swarm);
    return rc;
}

/* ----------------------------------------------------------------- making --
 */

static int
check_spawn(const zp_spawn_options *spawn)
{
    if (!spawn)
        return 0;
    if (spawn->size != sizeof *spawn)
        return zp__fail(-EINVAL, "options.spawn: its size is %zu, not %zu",
                        spawn->size, sizeof *spawn);
    if (spawn->name || spawn->arg_size || spawn->retry || spawn->exit_fn)
        return zp__fail(-EINVAL, "options.spawn: name, arg_size, retry and "
                                 "exit_fn are the swarm's");
    if (spawn->flags)
        return zp__fail(-EINVAL, "options.spawn: no flags are for workers");
    return 0;
}

static int
check_options(const zp_swarm_options *options)
{
    if (options->size != sizeof *options)
        return zp__fail(-EINVAL, "options: their size is %zu, not %zu",
                        options->size, sizeof *options);
    if (options->count > ZP__WORKERS_MAX)
        return zp__fail(-EINVAL,
                        "options.count: a swarm has 1 - %d workers, "
                        "not %zu",
                        ZP__WORKERS_MAX, options->count);
    if (options->name &&
        (!*options->name || strlen(options->name) > ZP__SWARM_NAME))
        return zp__fail(-EINVAL, "options.name: has 1 - %d bytes",
                        ZP__SWARM_NAME);
    return check_spawn(options->spawn);
}

static size_t
count_cores(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return (size_t)sysconf(_SC_NPROCESSORS_ONLN);
    return (size_t)CPU_COUNT(&set);
}

static int
take_options(zp_swarm *swarm, const zp_swarm_options *options)
{
    int rc;

    snprintf(swarm->name, sizeof swarm->name, "%s", options->name);
    swarm->count = options->count ? options->count : count_cores();
    if (swarm->count > ZP__WORKERS_MAX)
        swarm->count = ZP__WORKERS_MAX;
    swarm->spawn.size = sizeof swarm->spawn;
    if (!options->spawn)
        return 0;
    rc = zp__spawn_defaults(&swarm->spawn_copy, options->spawn);
    if (rc == 0)
        swarm->spawn = *swarm->spawn_copy;
    return rc;
}

int
zp__swarm_make(zp_ctx *ctx, zp_swarm **ret, const zp_swarm_options *given,
               const char *name)
{
    zp_swarm_options options = {.size = sizeof options};
    zp_swarm *swarm;
    struct zp__crews *crews = NULL;
    int rc;

    if (given)
        options = *given;
    rc = check_options(&options);
    if (rc == 0)
        rc = zp__ctx_may_wait("a swarm");
    if (rc == 0)
        rc = zp__crews_get(ctx, &crews);
    if (rc < 0)
        return rc;
    if (!options.name)
        options.name = name;
    swarm = calloc(1, sizeof *swarm);
    if (!swarm)
        return zp__fail(-ENOMEM, "no memory for a swarm");
    swarm->ctx = ctx;
    zp__list_init(&swarm->maps);
    zp__list_init(&swarm->over);
    zp__list_init(&swarm->turns);
    zp__list_init(&swarm->ending);
    zp__list_init(&swarm->awaited);
    rc = take_options(swarm, &options);
    if (rc == 0)
        rc = open_parts(swarm);
    if (rc < 0) {
        close_parts(swarm);
        return rc;
    }
    zp__list_append(&crews->swarms, &swarm->node);
    *ret = swarm;
    return 0;
}

/* The first workers; with an error, none: if it has no maps it may be gone. */
int
zp__swarm_man(zp_swarm *swarm)
{
    char text[ZP__ERROR_MAX];
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < swarm->count; i++)
        rc = zp__worker_new(swarm, NULL);
    if (rc == 0)
        return 0;
    snprintf(text, sizeof text, "%s", zp__fail_text());
    swarm->given_up = true;
    zp__swarm_leave(swarm, true);
    zp__swarm_let_go(swarm);
    return zp__fail(rc, "%s", text);
}

/* -------------------------------------------------------------------- end --
 */

/* Free it and all of its maps; the workers are the context's to end. */
void
zp__swarm_destroy(zp_swarm *swarm)
{
    ZP__EACH(at, next, &swarm->maps)
    zp__map_destroy(ZP__OF(at, zp_mapping, node));
    ZP__EACH(at, next, &swarm->over)
    zp__map_destroy(ZP__OF(at, zp_mapping, node));
    for (uint32_t i = 0; i < ZP__WORKERS_MAX; i++)
        if (swarm->workers[i])
            zp__worker_free(swarm->workers[i]);
    zp__list_remove(&swarm->node);
    close_parts(swarm);
}

/* Of MAP nothing is to be done any more, but that its results are read, or that
 * it goes. */
void
zp__swarm_put_by(zp_swarm *swarm, zp_mapping *map)
{
    map->over = true;
    zp__list_remove(&map->ending);
    zp__list_remove(&map->node);
    zp__list_append(map->given_up ? swarm->over.next : &swarm->over,
                    &map->node);
}

/* What was given back, but for what somebody on the stack looks at. */
static void
sweep(zp_swarm *swarm)
{
    ZP__EACH(at, next, &swarm->over)
    {
        zp_mapping *map = ZP__OF(at, zp_mapping, node);

        if (!map->given_up)
            return;
        zp__map_let_go(map);
    }
}

/* Press those that should have ended; is there anybody left to be pressed? */
static bool
press_leaving(zp_swarm *swarm)
{
    double now = zp__now();
    bool any = false;

    for (uint32_t i = 0; i < swarm->n_seats; i++) {
        zp__worker *worker = swarm->workers[i];

        if (!worker || !worker->leaving || !swarm->forced)
            continue;
        any = true;
        if (now < worker->end_at)
            continue;
        zp__worker_signal(worker, worker->signals++ ? SIGKILL : SIGTERM);
        worker->end_at =
            now + (worker->proc->grace < 0 ? 1e9 : worker->proc->grace);
    }
    return any;
}

/* End those that do not come up: a lock that another thread held at the fork
 * may hold them for ever. Is there anybody to be looked at again? */
static bool
press_unborn(zp_swarm *swarm)
{
    double now = zp__now();
    bool any = false;

    for (uint32_t i = 0; i < swarm->n_seats; i++) {
        zp__worker *worker = swarm->workers[i];

        if (!worker || worker->up)
            continue;
        any = true;
        if (!zp_proc_pid(worker->proc) || now - worker->unborn < BIRTH_MAX)
            continue;
        zp__worker_signal(worker, SIGKILL);
        worker->unborn = now;
    }
    return any;
}

/* A swarm that is to leave when its work is done, and it is done. */
static void
leave_if_done(zp_swarm *swarm)
{
    if (!swarm->closing || swarm->code || has_work(swarm))
        return;
    swarm->code = -ESHUTDOWN;
    snprintf(swarm->error, sizeof swarm->error, "the swarm was stopped");
    ZP__EACH(at, next, &swarm->maps)
    if (!ZP__OF(at, zp_mapping, node)->ended)
        zp__map_abort(ZP__OF(at, zp_mapping, node), -ECANCELED,
                      "the swarm was stopped");
    zp__kick(swarm->kick);
}

void
zp__swarm_settle(zp_swarm *swarm)
{
    bool more = press_leaving(swarm);

    more |= press_unborn(swarm);
    ZP__EACH(at, next, &swarm->ending)
    {
        zp_mapping *map = ZP__OF(at, zp_mapping, ending);

        more |= zp__map_press(map);
        if (!map->tasks)
            zp__swarm_put_by(swarm, map);
    }
    ZP__EACH(at, next, &swarm->awaited)
    {
        zp_mapping *map = ZP__OF(at, zp_mapping, awaited);

        map->settled |=
            map->ended || zp__map_starved(map) || zp__map_stuck(map);
    }
    sweep(swarm);
    leave_if_done(swarm);
    more |= swarm->waiting || swarm->spawn_at > 0;
    if (swarm->pins)
        swarm->quiet = is_quiet(swarm);
    if (swarm->spawn_at > 0) {
        double left = swarm->spawn_at - zp__now();

        zp__timer_set(swarm->timer, left < 0 ? 0 : left < TICK ? left : TICK);
    } else if (more && !swarm->ticking)
        zp__timer_set(swarm->timer, TICK);
    swarm->ticking |= more;
    zp__swarm_let_go(swarm);
}

void
zp__swarm_let_go(zp_swarm *swarm)
{
    if (swarm->given_up && !swarm->pumping && !swarm->pins &&
        zp__list_empty(&swarm->maps) && zp__list_empty(&swarm->over) &&
        !swarm->n_seats)
        zp__swarm_destroy(swarm);
}

int
zp__swarm_may_wait(const zp_swarm *swarm, const char *what)
{
    if (swarm->pumping)
        return zp__fail(-EDEADLK,
                        "%s inside a source function: nothing would "
                        "be handed out meanwhile",
                        what);
    return zp__ctx_may_wait(what);
}

void
zp__swarm_leave(zp_swarm *swarm, bool force)
{
    swarm->closing = true;
    if (force && !swarm->forced) {
        swarm->forced = true;
        zp__swarm_fail(swarm, -ECANCELED, "the swarm was stopped");
        swarm->code = -ESHUTDOWN;
        for (uint32_t i = 0; i < swarm->n_seats; i++)
            if (swarm->workers[i])
                zp__worker_leave(swarm->workers[i]);
        (void)press_leaving(swarm);
    }
    zp__kick(swarm->kick);
}

void
zp__swarm_fail(zp_swarm *swarm, int code, const char *text)
{
    if (swarm->code)
        return;
    swarm->code = code;
    snprintf(swarm->error, sizeof swarm->error, "%s", text);
    ZP__EACH(at, next, &swarm->maps)
    zp__map_abort(ZP__OF(at, zp_mapping, node), code, text);
    zp__kick(swarm->kick);
}

/* ----------------------------------------------------------------- public --
 */

static int
enter(const zp_swarm *swarm, int (*check)(const zp_ctx *ctx))
{
    if (!swarm)
        return zp__fail(-EINVAL, "the swarm is NULL");
    return check(swarm->ctx);
}

int
zp_swarm_new(zp_ctx *ctx, zp_swarm **ret_swarm, const zp_swarm_options *options)
{
    zp_swarm *swarm;
    int rc = zp__ctx_enter(ctx);

    if (rc == 0 && !ret_swarm)
        rc = zp__fail(-EINVAL, "ret_swarm is NULL");
    if (rc == 0)
        rc = zp__swarm_make(ctx, &swarm, options, "swarm");
    if (rc == 0)
        rc = zp__swarm_man(swarm);
    if (rc == 0)
        *ret_swarm = swarm;
    return zp__ctx_done(ctx, rc);
}

int
zp_swarm_count(const zp_swarm *swarm)
{
    int rc = enter(swarm, zp__ctx_check);

    return rc < 0 ? rc : (int)swarm->count;
}

int
zp_swarm_resize(zp_swarm *swarm, size_t count)
{
    size_t before;
    int rc = enter(swarm, zp__ctx_enter);

    if (rc == 0)
        rc = zp__ctx_may_wait("zp_swarm_resize()");
    if (rc == 0 && (!count || count > ZP__WORKERS_MAX))
        rc = zp__fail(-EINVAL, "a swarm has 1 - %d workers, not %zu",
                      ZP__WORKERS_MAX, count);
    if (rc == 0 && swarm->closing)
        rc = zp__fail(-ESHUTDOWN, "the swarm was stopped");
    if (rc < 0)
        return zp__ctx_done(swarm ? swarm->ctx : NULL, rc);
    before = swarm->count;
    for (; rc == 0 && swarm->count < count; swarm->count += rc == 0)
        rc = zp__worker_new(swarm, NULL);
    if (count < before)
        swarm->count = count;
    zp__kick(swarm->kick);
    return zp__ctx_done(swarm->ctx, rc);
}

int
zp_swarm_stop(zp_swarm *swarm, int force)
{
    zp_ctx *ctx;
    bool gone;
    int rc = enter(swarm, zp__ctx_enter);

    if (rc == 0)
        rc = zp__swarm_may_wait(swarm, "zp_swarm_stop()");
    if (rc < 0)
        return zp__ctx_done(swarm ? swarm->ctx : NULL, rc);
    ctx = swarm->ctx;
    zp__swarm_leave(swarm, force != 0);
    rc = wait_for_quiet(swarm, &gone);
    if (gone)
        return rc;
    rc = zp__ctx_done(ctx, rc);
    zp__swarm_let_go(swarm);
    return rc;
}

zp_swarm *
zp_swarm_free(zp_swarm *swarm)
{
    if (!swarm || zp__ctx_check(swarm->ctx) < 0 || swarm->given_up)
        return NULL;
    swarm->given_up = true;
    zp__swarm_leave(swarm, true);
    return NULL;
}
