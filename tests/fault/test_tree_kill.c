/*
 * test_tree_kill.c - nothing outlives the owner of a private state, however it
 * ends: no process of its tree, no server, no warden, no run directory. Nor
 * does anything outlive a process in the middle of the tree. But what the
 * application forked by itself is left alone.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zp.h>

#include "core/context.h"
#include "core/record.h"
#include "tests/support/zp_test.h"

#define CHILDREN 9 /* of the owner, ... */
#define EACH 10    /* ... and of each of these: 100 processes with the owner */
#define PROMISED (2 * zp_test_slow())
#define PATIENCE (20 * zp_test_slow())

/* What the processes of a test tell each other, in shared memory. */
static struct shared {
    zp_sync up; /* posted by each process of the tree */
    zp_sync go;
    pid_t server;
    pid_t bystander; /* forked by the application itself */
    char address[200];
    pid_t stopped;
} * shared;

static zp_ctx *own; /* of the owner, or of who attached: reachable to the end */

static int
set_up(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return -1;
    zp_sync_open(&shared->up);
    zp_sync_open(&shared->go);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    zp_sync_close(&shared->up);
    zp_sync_close(&shared->go);
    return munmap(shared, sizeof *shared);
}

static void
wait_up(int n)
{
    while (n-- > 0)
        zp_sync_wait(&shared->up, PATIENCE);
}

_Noreturn static void
sleep_for_ever(void)
{
    for (;;)
        pause();
}

/* No child of zp_spawn(): not the library's to end. */
static void
fork_bystander(void)
{
    fflush(NULL);
    pid_t pid = fork();

    if (pid == 0) {
        setpgid(0, 0);
        sleep_for_ever();
    }
    shared->bystander = pid;
}

/* ------------------------------------------------------------ the owner -- */

static int
leaf(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    zp_sync_post(&shared->up);
    sleep_for_ever();
}

static int
branch(zp_ctx *ctx, void *arg)
{
    for (int i = 0; i < EACH; i++)
        if (zp_spawn(ctx, NULL, NULL, leaf, NULL) < 0)
            return -1;
    return leaf(ctx, arg);
}

static int
grow(void)
{
    zp_pong pong;

    setpgid(0, 0);
    if (zp_ctx_new(&own, NULL) < 0)
        return 1;
    fork_bystander();
    for (int i = 0; i < CHILDREN; i++)
        if (zp_spawn(own, NULL, NULL, branch, NULL) < 0)
            return 2;
    if (zp_ping(own, &pong, NULL, 0, PATIENCE) < 0)
        return 3;
    shared->server = pong.server_pid;
    snprintf(shared->address, sizeof shared->address, "%s",
             zp_ctx_address(own));
    zp_sync_post(&shared->up);
    return 0;
}

static int
owner_waits(void *user)
{
    (void)user;
    int rc = grow();

    if (rc != 0)
        return rc;
    zp_sync_wait(&shared->go, PATIENCE);
    return 0;
}

static int
owner_frees(void *user)
{
    int rc = owner_waits(user);

    own = zp_ctx_free(own);
    return rc;
}

static int
owner_exits(void *user)
{
    exit(owner_waits(user));
}

static int
owner_exits_at_once(void *user)
{
    _exit(owner_waits(user));
}

static int
owner_aborts(void *user)
{
    int rc = owner_waits(user);

    if (rc != 0)
        return rc;
    abort();
}

/* ---------------------------------------------------------- what is left -- */

/* Nothing but the bystander. */
static bool
only_bystander(void *user)
{
    pid_t pids[2] = {0, 0};
    size_t n = zp_test_descendants(pids, 2);

    (void)user;
    return n == 1 && pids[0] == shared->bystander &&
           zp_test_entries(zp_test_run_dir()) <= 0;
}

/* Those who were handed to us when their parents died. */
static void
reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
}

static void
end_bystander(void)
{
    kill(shared->bystander, SIGKILL);
    assert_int_equal(zp_test_wait(shared->bystander, PATIENCE), -SIGKILL);
    reap();
}

static void
nothing_is_left(void)
{
    double ended = zp_test_now();

    if (!zp_test_until(only_bystander, NULL, PROMISED)) {
        bool sooner_or_later = zp_test_until(only_bystander, NULL, 20);
        fail_msg("%zu processes and %d files after %g s%s",
                 zp_test_descendants(NULL, 0),
                 zp_test_entries(zp_test_run_dir()), zp_test_now() - ended,
                 sooner_or_later ? "" : ", for good");
    }
    end_bystander();
}

static int
rounds(int most)
{
    int n = (int)(most / zp_test_slow());

    return n < 1 ? 1 : n;
}

/* ------------------------------------------------------- the owner ends -- */

static pid_t
start(int (*owner)(void *user))
{
    pid_t pid = zp_test_fork(owner, NULL);

    wait_up(1 + CHILDREN + CHILDREN * EACH);
    return pid;
}

/* By itself: when told to go, as OWNER does. */
static void
test_by_itself(int (*owner)(void *user), int status)
{
    for (int i = 0; i < rounds(3); i++) {
        pid_t pid = start(owner);

        zp_sync_post(&shared->go);
        assert_int_equal(zp_test_wait(pid, PATIENCE), status);
        nothing_is_left();
    }
}

static void
test_returns(void **state)
{
    (void)state;
    test_by_itself(owner_waits, 0);
}

static void
test_frees(void **state)
{
    (void)state;
    test_by_itself(owner_frees, 0);
}

static void
test_exits(void **state)
{
    (void)state;
    test_by_itself(owner_exits, 0);
    test_by_itself(owner_exits_at_once, 0);
}

static void
test_aborts(void **state)
{
    (void)state;
    test_by_itself(owner_aborts, -SIGABRT);
}

static void
test_by_signal(int number, bool group, int most)
{
    for (int i = 0; i < rounds(most); i++) {
        pid_t pid = start(owner_waits);

        kill(group ? -pid : pid, number);
        assert_int_equal(zp_test_wait(pid, PATIENCE), -number);
        nothing_is_left();
    }
}

static void
test_killed(void **state)
{
    (void)state;
    test_by_signal(SIGKILL, false, 20);
}

static void
test_terminated(void **state)
{
    (void)state;
    test_by_signal(SIGTERM, false, 3);
    test_by_signal(SIGINT, true, 3);
}

/* Nobody is left but the warden. */
static void
test_server_killed_before(void **state)
{
    (void)state;
    for (int i = 0; i < rounds(20); i++) {
        pid_t pid = start(owner_waits);

        kill(shared->server, SIGKILL);
        kill(pid, SIGKILL);
        assert_int_equal(zp_test_wait(pid, PATIENCE), -SIGKILL);
        nothing_is_left();
    }
}

/* As when a service is stopped: everybody is told, server and warden, too. */
static void
test_all_terminated(void **state)
{
    pid_t pids[200];

    (void)state;
    for (int i = 0; i < rounds(5); i++) {
        pid_t pid = start(owner_waits);
        size_t n = zp_test_descendants(pids, 200);

        while (n-- > 0)
            if (pids[n] != shared->bystander)
                kill(pids[n], SIGTERM);
        assert_int_equal(zp_test_wait(pid, PATIENCE), -SIGTERM);
        nothing_is_left();
    }
}

/* ------------------------------------------------------------ the warden -- */

static pid_t
server_of(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    return (pid_t)stats.server_pid;
}

struct successor {
    zp_ctx *ctx;
    pid_t before;
};

static bool
has_come(void *user)
{
    const struct successor *wanted = user;
    pid_t server = server_of(wanted->ctx);

    return server > 0 && server != wanted->before &&
           zp_test_process_state(server) != 0;
}

static bool
no_process(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 0;
}

/* Nobody needs the server, nobody looks after it but the warden: that starts
 * another one, and gives up at the fifth death. */
static void
test_warden(void **state)
{
    double began = zp_test_now();
    struct successor next;
    zp_pong pong;
    zp_ctx *ctx;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    next.ctx = ctx;
    for (int i = 0; i < 4; i++) {
        next.before = server_of(ctx);
        kill(next.before, SIGKILL);
        assert_true(zp_test_until(has_come, &next, PATIENCE));
    }
    assert_int_equal(zp_test_descendants(NULL, 0), 2);
    next.before = server_of(ctx);
    kill(next.before, SIGKILL);
    if (zp_test_now() - began < 9)
        assert_true(zp_test_until(no_process, NULL, PATIENCE));
    assert_int_equal(zp_ping(ctx, &pong, NULL, 0, PATIENCE), 0);
    assert_int_not_equal(pong.server_pid, next.before);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------- one in the middle ends -- */

struct order { /* for the thread that spawns */
    zp_ctx *ctx;
    zp_proc_fn *fn;
    int rc;
};

static void *
spawn_in_thread(void *user)
{
    struct order *order = user;

    order->rc = zp_spawn(order->ctx, NULL, NULL, order->fn, NULL);
    return NULL;
}

/* The kernel does not end it with its parent: another thread forked it. */
static int
spawn_elsewhere(zp_ctx *ctx, zp_proc_fn *fn)
{
    struct order order = {.ctx = ctx, .fn = fn};
    pthread_t thread;

    if (pthread_create(&thread, NULL, spawn_in_thread, &order) != 0)
        return -EAGAIN;
    pthread_join(thread, NULL);
    return order.rc;
}

static int
stubborn(zp_ctx *ctx, void *arg)
{
    signal(SIGTERM, SIG_IGN);
    return leaf(ctx, arg);
}

static int
inner(zp_ctx *ctx, void *arg)
{
    if (spawn_elsewhere(ctx, leaf) < 0)
        return -1;
    return leaf(ctx, arg);
}

static int
middle(zp_ctx *ctx, void *arg)
{
    fork_bystander();
    if (spawn_elsewhere(ctx, inner) < 0 || spawn_elsewhere(ctx, inner) < 0 ||
        spawn_elsewhere(ctx, stubborn) < 0)
        return -1;
    return leaf(ctx, arg);
}

#define MIDDLE (1 + 2 * 2 + 1) /* processes of this tree */

static int
attached(void *user)
{
    (void)user;
    if (zp_ctx_attach(&own, shared->address, NULL) < 0)
        return 1;
    if (middle(own, NULL) < 0)
        return 2;
    return 0;
}

struct census {
    unsigned running, told;
};

static int
count(const zp_process *process, void *user)
{
    struct census *census = user;

    if (process->parent != getpid()) /* ours are our own business */
        census->running += process->state != ZP_PROC_ENDED;
    if (strstr(process->error, "the process that spawned it"))
        census->told++;
    return 0;
}

/* Has the server moved the records of all whose parent is dead? */
static bool
none_lost(void *user)
{
    zp_ctx *ctx = user;
    zp__record record;
    uint64_t id = 0;
    const void *data;
    size_t size;
    bool none = true;

    assert_int_equal(zp__view_begin(ctx->view), 0);
    while (zp__view_next_running(ctx->view, id, &id, &data, &size) == 1) {
        assert_int_equal(zp__record_decode(&record, data, size), 0);
        none = none && zp__pid_alive(&record.parent);
    }
    zp__view_end(ctx->view);
    return none;
}

/* Our other child, the bystander, the server and the warden. */
static bool
four_live(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 4;
}

static void
wait_for_the_end(zp_ctx *ctx)
{
    struct census census = {0, 0};

    /* the stubborn one has a second more, before it is killed */
    assert_true(zp_test_until(four_live, NULL, 2 * PROMISED));
    assert_int_equal(zp_test_process_state(shared->bystander), 'S');
    assert_true(zp_test_until(none_lost, ctx, PATIENCE));
    assert_int_equal(zp_each_process(ctx, count, &census), 0);
    assert_int_equal(census.running, 0);
    assert_true(census.told >= 5);
}

static void
test_middle_killed(void **state)
{
    zp_ctx *ctx;
    zp_proc *other, *proc;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_spawn(ctx, &other, NULL, leaf, NULL), 0);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, middle, NULL), 0);
    wait_up(1 + MIDDLE);
    kill(zp_proc_pid(proc), SIGKILL);
    assert_int_equal(zp_wait(proc, NULL, PATIENCE), ZP_EFAILED);
    wait_for_the_end(ctx);
    assert_int_equal(zp_proc_alive(other), 1);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "still", 1), 0);
    zp_ctx_free(ctx);
    end_bystander();
}

static void
test_attached_ends(void **state)
{
    zp_ctx *ctx;
    zp_proc *other;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    snprintf(shared->address, sizeof shared->address, "%s",
             zp_ctx_address(ctx));
    assert_int_equal(zp_spawn(ctx, &other, NULL, leaf, NULL), 0);
    pid_t pid = zp_test_fork(attached, NULL);
    wait_up(1 + MIDDLE);
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, PATIENCE), -SIGKILL);
    wait_for_the_end(ctx);
    assert_int_equal(zp_proc_alive(other), 1);
    zp_ctx_free(ctx);
    end_bystander();
}

/* --------------------------------------------------------- stopped ones -- */

/* (A handler would do, too, but for the thread sanitizer, which puts it off
 * until some later call: pause() then waits for ever.) */
static int
stopped(zp_ctx *ctx, void *arg)
{
    sigset_t term;
    int number;

    (void)ctx;
    (void)arg;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);
    shared->stopped = getpid();
    zp_sync_post(&shared->up);
    raise(SIGSTOP);
    if (sigwait(&term, &number) == 0)
        zp_sync_post(&shared->up);
    _exit(0);
}

static int
over_stopped(zp_ctx *ctx, void *arg)
{
    if (spawn_elsewhere(ctx, stopped) < 0)
        return -1;
    return leaf(ctx, arg);
}

static int
owner_over_stopped(void *user)
{
    (void)user;
    if (zp_ctx_new(&own, NULL) < 0)
        return 1;
    return over_stopped(own, NULL);
}

static bool
is_stopped(void *user)
{
    (void)user;
    return zp_test_process_state(shared->stopped) == 'T';
}

/* It can do its last things, as one that runs. */
static void
test_stopped_hears(void **state)
{
    zp_ctx *ctx;
    zp_proc *proc;
    pid_t pid;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, over_stopped, NULL), 0);
    wait_up(2);
    assert_true(zp_test_until(is_stopped, NULL, PATIENCE));
    kill(zp_proc_pid(proc), SIGKILL);
    wait_up(1);
    zp_ctx_free(ctx);
    pid = zp_test_fork(owner_over_stopped, NULL);
    wait_up(2);
    assert_true(zp_test_until(is_stopped, NULL, PATIENCE));
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, PATIENCE), -SIGKILL);
    wait_up(1);
    assert_true(zp_test_until(no_process, NULL, PATIENCE));
    reap();
}

/* ------------------------------------------------- one that starts others */

static int
starts_again(zp_ctx *ctx, void *arg)
{
    const zp_retry retry = {.size = sizeof retry, .retries = -1, .delay = -1};
    const zp_spawn_options options = {.size = sizeof options, .retry = &retry};

    (void)arg;
    signal(SIGTERM, SIG_IGN);
    if (zp_spawn(ctx, NULL, &options, leaf, NULL) < 0)
        return -1;
    for (;;)
        (void)zp_ctx_wait(ctx, NULL, 0, 0, -1);
}

static void *
start_again(void *user)
{
    struct order *order = user;

    order->rc = starts_again(order->ctx, NULL);
    return NULL;
}

/* Another thread than the main one does it all: the kernel ends none of them.
 */
static int
keeper(zp_ctx *ctx, void *arg)
{
    struct order order = {.ctx = ctx};
    pthread_t thread;

    (void)arg;
    if (pthread_create(&thread, NULL, start_again, &order) != 0)
        return -EAGAIN;
    pthread_join(thread, NULL);
    return order.rc;
}

static int
over_keeper(zp_ctx *ctx, void *arg)
{
    if (spawn_elsewhere(ctx, keeper) < 0)
        return -1;
    return leaf(ctx, arg);
}

/* Only the server, the warden. */
static bool
two_live(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 2;
}

/* Its child is ended, it starts another one, and is then killed: that child has
 * to go, too. */
static void
test_starts_again_while_ending(void **state)
{
    zp_ctx *ctx;
    zp_proc *proc;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, over_keeper, NULL), 0);
    wait_up(2);
    kill(zp_proc_pid(proc), SIGKILL);
    assert_int_equal(zp_wait(proc, NULL, PATIENCE), ZP_EFAILED);
    wait_up(1); /* again */
    assert_true(zp_test_until(two_live, NULL, PATIENCE));
    assert_true(zp_test_until(none_lost, ctx, PATIENCE));
    zp_ctx_free(ctx);
    reap();
}

/* --------------------------------------------------- one that cannot end -- */

/* Returns with more in its buffer than anybody will read. */
static int
stuffed(zp_ctx *ctx, void *arg)
{
    static char buffer[1 << 18], text[sizeof buffer - 1];
    int fds[2];

    (void)ctx;
    (void)arg;
    if (pipe(fds) < 0 || dup2(fds[1], STDOUT_FILENO) < 0)
        return -1;
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    fwrite(text, 1, sizeof text, stdout);
    zp_sync_post(&shared->up);
    return 0;
}

static int
over_stuffed(zp_ctx *ctx, void *arg)
{
    if (spawn_elsewhere(ctx, stuffed) < 0)
        return -1;
    return leaf(ctx, arg);
}

static bool
one_has_ended(void *user)
{
    struct census census = {0, 0};

    assert_int_equal(zp_each_process(user, count, &census), 0);
    return census.running == 0;
}

/* It is on record as long as it is there. */
static void
test_stuffed(void **state)
{
    zp_ctx *ctx;
    zp_proc *proc;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, over_stuffed, NULL), 0);
    wait_up(2);
    (void)zp_test_until(one_has_ended, ctx, 0.3); /* it says so by mistake */
    kill(zp_proc_pid(proc), SIGKILL);
    assert_int_equal(zp_wait(proc, NULL, PATIENCE), ZP_EFAILED);
    assert_true(zp_test_until(two_live, NULL, PATIENCE));
    zp_ctx_free(ctx);
    reap();
}

/* ---------------------------------------------------- nobody to clean up -- */

static int
attached_over_leaf(void *user)
{
    (void)user;
    if (zp_ctx_attach(&own, shared->address, NULL) < 0)
        return 1;
    if (zp_spawn(own, NULL, NULL, leaf, NULL) < 0)
        return 2;
    sleep_for_ever();
}

static bool
one_lives(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 1;
}

/* The owner frees its context while there is no server: the processes of others
 * end with the state nevertheless. */
static void
test_freed_without_server(void **state)
{
    zp_ctx *ctx;
    pid_t pid;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    snprintf(shared->address, sizeof shared->address, "%s",
             zp_ctx_address(ctx));
    pid = zp_test_fork(attached_over_leaf, NULL);
    wait_up(1);
    zp_test_kill_server(server_of(ctx));
    zp_ctx_free(ctx);
    assert_true(zp_test_until(one_lives, NULL, PROMISED));
    assert_int_not_equal(zp_test_process_state(pid), 0);
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, PATIENCE), -SIGKILL);
}

/* ------------------------------------------------------- records by hand -- */

static uint64_t
put(zp_ctx *ctx, const zp__record *record)
{
    uint64_t id = 0;
    void *data;
    size_t size;

    assert_int_equal(zp__record_encode(record, &data, &size), 0);
    assert_int_equal(
        zp__store_put_record(ctx->store, &id, data, size, false, 5), 0);
    free(data);
    return id;
}

/* A pid that is another's by now; the server's own; what waits for an attempt.
 * Only records end. */
static void
test_reused_pid(void **state)
{
    const zp__pid dead = {.pid = getpid(), .start = 1};
    zp__pid other;
    zp_pong pong;
    zp_ctx *ctx;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_ping(ctx, &pong, NULL, 0, PATIENCE), 0);
    fork_bystander();
    assert_int_equal(zp__pid_of(shared->bystander, &other), 0);
    other.start++;
    put(ctx, &(zp__record){
                 .state = ZP__RECORD_RUNNING, .id = other, .parent = dead});
    put(ctx, &(zp__record){.state = ZP__RECORD_WAITING, .parent = dead});
    assert_true(zp_test_until(none_lost, ctx, PATIENCE));
    int server = pong.server_pid;
    assert_int_equal(zp_ping(ctx, &pong, NULL, 0, PATIENCE), 0);
    assert_int_equal(pong.server_pid, server);
    assert_int_equal(zp_test_process_state(shared->bystander), 'S');
    zp_ctx_free(ctx);
    end_bystander();
}

static int
hold_inside(zp_state *txn, void *user)
{
    (void)txn;
    (void)user;
    zp_sync_post(&shared->up);
    zp_sync_wait(&shared->go, PATIENCE);
    return 0;
}

static int
hold_lock(void *user)
{
    (void)user;
    if (zp_ctx_attach(&own, shared->address, NULL) < 0)
        return 1;
    int rc = zp_atomic(zp_ctx_state(own), hold_inside, NULL);
    own = zp_ctx_free(own);
    return rc < 0;
}

struct pinging {
    zp_ctx *ctx;
    double until;
};

/* It answers until then. */
static bool
pinged(void *user)
{
    struct pinging *pinging = user;

    assert_int_equal(zp_ping(pinging->ctx, NULL, NULL, 0, PROMISED), 0);
    return zp_test_now() >= pinging->until;
}

/* Somebody keeps the lock: the server does not wait for it, but writes when it
 * can. */
static void
test_server_does_not_hang(void **state)
{
    const zp__pid dead = {.pid = getpid(), .start = 1};
    struct pinging pinging;
    zp_pong pong;
    zp_ctx *ctx;

    (void)state;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    snprintf(shared->address, sizeof shared->address, "%s",
             zp_ctx_address(ctx));
    assert_int_equal(zp_ping(ctx, &pong, NULL, 0, PATIENCE), 0);
    kill(pong.server_pid, SIGSTOP);
    put(ctx, &(zp__record){.state = ZP__RECORD_WAITING, .parent = dead});
    pid_t pid = zp_test_fork(hold_lock, NULL);
    wait_up(1);
    kill(pong.server_pid, SIGCONT);
    pinging = (struct pinging){ctx, zp_test_now() + 1.5};
    assert_true(zp_test_until(pinged, &pinging, PATIENCE));
    assert_false(none_lost(ctx));
    zp_sync_post(&shared->go);
    assert_int_equal(zp_test_wait(pid, PATIENCE), 0);
    assert_true(zp_test_until(none_lost, ctx, PATIENCE));
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------- side by side -- */

/* These wait for a second or two most of the time: each in a process of its
 * own, whose descendants are its. */
static const struct apart {
    const char *name;
    void (*test)(void **state);
} apart[] = {
    {"test_middle_killed", test_middle_killed},
    {"test_attached_ends", test_attached_ends},
    {"test_stopped_hears", test_stopped_hears},
    {"test_starts_again_while_ending", test_starts_again_while_ending},
    {"test_stuffed", test_stuffed},
    {"test_reused_pid", test_reused_pid},
    {"test_server_does_not_hang", test_server_does_not_hang},
};

#define APART (sizeof apart / sizeof *apart)

static int
run_apart(void *user)
{
    const struct apart *one = user;
    void *state = NULL;

    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 || set_up(&state) < 0)
        return 1;
    one->test(&state);
    return tear_down(&state) < 0 || !zp_test_until(no_process, NULL, PATIENCE);
}

static void
test_side_by_side(void **state)
{
    pid_t pids[APART];
    int status;

    (void)state;
    for (size_t i = 0; i < APART; i++)
        pids[i] = zp_test_fork(run_apart, (void *)(uintptr_t)&apart[i]);
    for (size_t i = 0; i < APART; i++) {
        status = zp_test_wait(pids[i], 2 * PATIENCE);
        if (status != 0)
            fail_msg("%s: %d", apart[i].name, status);
    }
}

#define CASE(f) ZP_TEST_WITH(f, set_up, tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_returns),
        CASE(test_frees),
        CASE(test_exits),
        CASE(test_aborts),
        CASE(test_killed),
        CASE(test_terminated),
        CASE(test_server_killed_before),
        CASE(test_all_terminated),
        CASE(test_warden),
        CASE(test_freed_without_server),
        ZP_TEST(test_side_by_side),
    };
    return zp_test_main("tree_kill", tests, sizeof tests / sizeof *tests, 120);
}
