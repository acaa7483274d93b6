/*
 * model_worker.c - a worker: plays its part of a case, and knows when the case
 * is over: all scripts are played, and each worker has found all of its watches
 * right and complete with the same number of entries in the journal. (Callbacks
 * write, too, but only for an event, and only so often.)
 */
#include "tests/api/model_watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/zp_test.h"

#define PATIENCE 10 /* seconds for what is to come */

bool
model_failed(const model_worker *w)
{
    return __atomic_load_n(&w->shared->failed, __ATOMIC_ACQUIRE) != 0;
}

uint64_t
model_head(model_worker *w)
{
    uint64_t head = 0;

    if (zp_revision(w->handles[0], &head) < 0)
        model_fail(w, "zp_revision(): %s", zp_ctx_error(NULL));
    return head;
}

/* -------------------------------------------------------- turns of the loop --
 */

static void
on_time(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)loop;
    (void)events;
    zp_break(timer->data); /* again and again, until its own run ends */
}

/* What is waited for for ever must come: else it is broken off after a time,
 * and missed in the end. */
void
model_guard(model_worker *w, ev_timer *timer, double timeout)
{
    ev_timer_init(timer, on_time, 1 * zp_test_slow(), 1);
    timer->data = model_ctx(w);
    if (timeout < 0)
        ev_timer_start(zp_ev_loop(model_ctx(w)), timer);
}

void
model_unguard(model_worker *w, ev_timer *timer)
{
    ev_timer_stop(zp_ev_loop(model_ctx(w)), timer);
}

/* The application's run, or ours. */
static int
run_libev(zp_ctx *ctx, double seconds)
{
    struct ev_loop *loop = zp_ev_loop(ctx);
    ev_timer timer;
    int rc = 0;

    ev_timer_init(&timer, on_time, seconds, 0.0005);
    timer.data = ctx;
    ev_now_update(loop);
    ev_timer_start(loop, &timer);
    if ((int)(seconds * 1e6) % 2)
        ev_run(loop, EVRUN_ONCE);
    else
        rc = zp_run(ctx);
    ev_timer_stop(loop, &timer);
    return rc;
}

/* As in a loop that is not libev's. */
static int
run_foreign(zp_ctx *ctx, double seconds)
{
    struct pollfd p = {.fd = zp_ctx_fd(ctx)};
    struct timespec left;
    double timeout;
    int rc = zp_ctx_timeout(ctx, &timeout);

    if (p.fd < 0 || rc < 0)
        return p.fd < 0 ? p.fd : rc;
    p.events = (short)zp_ctx_events(ctx);
    if (timeout < 0 || timeout > seconds)
        timeout = seconds;
    left.tv_sec = 0;
    left.tv_nsec = (long)(timeout * 1e9);
    if (ppoll(&p, 1, &left, NULL) < 0 && errno != EINTR)
        return -errno;
    return zp_ctx_dispatch(ctx);
}

void
model_step(model_worker *w, double seconds)
{
    uint64_t outer = w->head;
    zp_ctx *ctx = model_ctx(w);
    int rc = 0;

    w->head = model_head(w);
    switch (model_below(&w->other_rng, 4)) {
    case 0:
        ev_run(zp_ev_loop(ctx), EVRUN_NOWAIT);
        break;
    case 1:
        rc = run_foreign(ctx, seconds);
        break;
    default:
        rc = run_libev(ctx, seconds);
    }
    if (rc < 0 && rc != MODEL_UNHAPPY && rc != ZP_EBREAK)
        model_fail(w, "a run: %s (%s)", zp_strerror(rc), zp_ctx_error(NULL));
    w->head = outer;
}

/* ---------------------------------------------------------------- a script --
 */

static void
kill_server(model_worker *w)
{
    zp_stats stats = {.size = sizeof stats};
    int rc = zp_ctx_stats(model_ctx(w), &stats);

    if (rc < 0)
        model_fail(w, "zp_ctx_stats(): %s", zp_ctx_error(NULL));
    else if (stats.server_pid)
        kill((pid_t)stats.server_pid, SIGKILL);
}

static void
write_some(model_worker *w, int n)
{
    model_txn t;

    while (n-- > 0) {
        model_txn_make(&t, w->c, &w->rng);
        model_write(w, &t);
    }
}

static void
do_action(model_worker *w, const model_action *a)
{
    model_watch *x = &w->watches[a->which];

    switch (a->kind) {
    case DO_WRITE:
        write_some(w, 1);
        break;
    case DO_BURST:
        write_some(w, a->size);
        break;
    case DO_REGISTER:
        if (w->next < w->c->n_specs[w->id])
            model_register(&w->watches[w->next++]);
        break;
    case DO_STEP:
        model_step(w, model_wait_time(&w->rng) / 4);
        break;
    case DO_FETCH:
        model_fetch(x, model_wait_time(&w->rng));
        break;
    case DO_WAIT:
        model_wait(x, model_wait_time(&w->rng));
        break;
    case DO_GO_LIVE:
        model_go_live(x);
        break;
    case DO_CANCEL:
        model_cancel(x);
        break;
    default:
        kill_server(w);
    }
}

/* ----------------------------------------------------------------- the end --
 */

/* Judge X, if something has changed since the last time. What it has seen of a
 * plain call may not have been written down yet: that is waited for. */
static int
judge(model_watch *x, unsigned entries)
{
    model_complaint complaint;

    if (x->verdict == RIGHT && x->checked == x->n &&
        x->checked_entries == entries)
        return RIGHT;
    x->checked = x->n;
    x->checked_entries = entries;
    pthread_rwlock_rdlock(&x->worker->shared->lock);
    pthread_rwlock_unlock(&x->worker->shared->lock);
    x->verdict = model_judge(x, &complaint);
    if (x->verdict == WRONG)
        model_fail_watch(x, &complaint);
    return x->verdict;
}

/* All watches are right and complete; those that are asked are: for ever, where
 * something must be there. */
static bool
is_complete(model_worker *w, unsigned entries)
{
    bool all = true;

    for (int i = 0; i < w->c->n_specs[w->id]; i++) {
        model_watch *x = &w->watches[i];
        bool ever = model_chance(&w->other_rng, 50);

        if (judge(x, entries) != SHORT_OF)
            continue;
        all = false;
        if (x->spec->mode == ITERATOR)
            model_fetch(x, ever ? -1 : 0.001);
        else if (x->spec->mode == WAIT)
            model_wait(x, ever && x->cursor ? -1 : 0.001);
    }
    return all;
}

/* Say that all there is has been seen: with so many entries (0: not yet). True
 * when all workers say the same, and nothing has come since. */
static bool
all_idle(model_worker *w, unsigned said)
{
    __atomic_store_n(&w->shared->idle[w->id], said, __ATOMIC_SEQ_CST);
    for (int i = 0; i < WORKERS; i++)
        if (__atomic_load_n(&w->shared->idle[i], __ATOMIC_SEQ_CST) != said)
            return false;
    return said == model_entries(w->shared) + 1;
}

static void
fail_short(model_worker *w)
{
    model_complaint complaint;

    for (int i = 0; i < w->c->n_specs[w->id]; i++)
        if (model_judge(&w->watches[i], &complaint) != RIGHT)
            model_fail_watch(&w->watches[i], &complaint);
}

static void
finish(model_worker *w)
{
    double deadline = zp_test_now() + PATIENCE * zp_test_slow();
    unsigned entries = 0, said = 0;

    while (!model_failed(w)) {
        entries = model_entries(w->shared);
        said = is_complete(w, entries) ? entries + 1 : 0;
        if (all_idle(w, said))
            return;
        model_step(w, said ? 0.0003 : 0.001);
        if (!said && zp_test_now() > deadline)
            fail_short(w);
        if (zp_test_now() > deadline + 20)
            model_fail(w, "the other workers do not come to an end");
    }
}

/* Nothing comes twice, and nothing is left. What was asked for the first time
 * while others wrote may have more to say, though. */
static void
look_again(model_worker *w)
{
    double deadline = zp_test_now() + PATIENCE * zp_test_slow();

    ev_run(zp_ev_loop(model_ctx(w)), EVRUN_NOWAIT);
    for (int i = 0; i < w->c->n_specs[w->id] && !model_failed(w); i++) {
        model_fetch(&w->watches[i], 0);
        if (w->watches[i].spec->mode == WAIT)
            model_wait(&w->watches[i], 0);
    }
    while (!model_failed(w) && !is_complete(w, model_entries(w->shared)))
        if (zp_test_now() > deadline)
            fail_short(w);
}

/* ------------------------------------------------------------------ a case --
 */

static void
open_handles(model_worker *w)
{
    zp_state *state = zp_ctx_state(model_ctx(w));

    for (int i = 0; i < HANDLES; i++)
        if (zp_state_clone(state, &w->handles[i], w->c->space[model_space(i)]) <
            0)
            model_fail(w, "a handle: %s", zp_ctx_error(NULL));
}

/* By hand, or with the handles that they were registered through. */
static void
close_handles(model_worker *w)
{
    bool by_hand = w->c->seed % 2;

    for (int i = 0; i < WATCHES; i++) {
        if (!by_hand)
            w->watches[i].watch = NULL;
        model_watch_clear(&w->watches[i]);
    }
    for (int i = 0; i < HANDLES; i++)
        w->handles[i] = zp_state_free(w->handles[i]);
}

void
model_play(model_worker *w, const model_case *c)
{
    w->c = c;
    w->rng = c->seed * WORKERS + (uint64_t)w->id;
    w->other_rng = ~w->rng;
    w->next = w->depth = w->holds = 0;
    open_handles(w);
    for (int i = 0; i < c->n_specs[w->id]; i++) {
        w->watches[i].worker = w;
        w->watches[i].spec = &c->specs[w->id][i];
        w->watches[i].number = i;
    }
    for (int i = 0; i < c->n_actions[w->id] && !model_failed(w); i++)
        do_action(w, &c->actions[w->id][i]);
    while (w->next < c->n_specs[w->id] && !model_failed(w))
        model_register(&w->watches[w->next++]);
    finish(w);
    if (!model_failed(w))
        look_again(w);
    close_handles(w);
}

/* ----------------------------------------------------------------- serving --
 */

static int
make_states(model_worker *w)
{
    zp_ctx_options options = {.size = sizeof options};
    int rc = 0;

    for (int i = 0; i < 2 && rc == 0; i++) {
        options.log_revisions = i ? SHORT_LOG : LONG_LOG;
        rc = zp_ctx_new(&w->ctx[i], &options);
        if (rc == 0)
            snprintf(w->shared->address[i], sizeof w->shared->address[i], "%s",
                     zp_ctx_address(w->ctx[i]));
    }
    return rc;
}

static int
attach(model_worker *w)
{
    int rc = 0;

    for (int i = 0; i < 2 && rc == 0; i++)
        rc = zp_ctx_attach(&w->ctx[i], w->shared->address[i], NULL);
    return rc;
}

static int
obey(model_worker *w, const model_command *command)
{
    model_case c;
    int rc = 0;

    switch (command->what) {
    case 'n':
        rc = make_states(w);
        break;
    case 'a':
        rc = attach(w);
        break;
    case 'f':
        for (int i = 0; i < 2; i++)
            w->ctx[i] = zp_ctx_free(w->ctx[i]);
        break;
    default:
        model_case_make(&c, command->seed, command->number);
        model_play(w, &c);
        w->c = NULL;
    }
    if (rc < 0)
        model_fail(w, "command '%c': %s", command->what, zp_ctx_error(NULL));
    return rc;
}

int
model_serve(model_shared *shared, int id, int commands, int answers)
{
    model_worker w = {.id = id, .shared = shared};
    model_command command;

    if (model_values_init() < 0)
        return 1;
    while (read(commands, &command, sizeof command) == sizeof command) {
        obey(&w, &command);
        if (write(answers, "", 1) != 1)
            return 1;
    }
    for (int i = 0; i < 2; i++)
        zp_ctx_free(w.ctx[i]);
    model_values_free();
    return 0;
}
