/*
 * Leases when things go wrong: holders that are killed, end or are stopped, the
 * server killed before or after, a writer that dies before it could tell, one
 * that is stopped with the lock, no descriptors, ten thousand keys at once.
 * What must go goes, what must stay stays.
 */
#include <lmdb.h>
#include <signal.h>
#include <sys/resource.h>

#include "core/leases.h"
#include "tests/api/waiting.h"

#define ANSWER 20 /* seconds, times zp_test_slow() */

static const zp_set_options bound = {.size = sizeof bound, .flags = ZP_BOUND};

typedef struct holding {
    const char *address;
    zp_sync ready, go;
    int first, keys; /* "k<first>" and so on */
} holding;

static char *
name(char buffer[16], int i)
{
    snprintf(buffer, 16, "k%05d", i);
    return buffer;
}

/* Hold the keys, tell, end when told to. */
static int
hold(void *user)
{
    const holding *h = user;
    char key[16];
    zp_ctx *ctx;

    assert_ok(zp_ctx_attach(&ctx, h->address, NULL));
    for (int i = h->first; i < h->first + h->keys; i++)
        assert_ok(zp_set_with(zp_ctx_state(ctx), name(key, i), &bound,
                              ZP_I(getpid())));
    zp_sync_post(&h->ready);
    zp_sync_wait(&h->go, 600);
    return 0; /* without a word: the context is not freed */
}

static void
holding_open(holding *h, fixture *f, int keys)
{
    *h = (holding){.address = zp_ctx_address(f->ctx), .keys = keys};
    zp_sync_open(&h->ready);
    zp_sync_open(&h->go);
}

static void
holding_close(holding *h)
{
    zp_sync_close(&h->ready);
    zp_sync_close(&h->go);
}

static pid_t
holder(holding *h)
{
    pid_t pid = zp_test_fork(hold, h);

    zp_sync_wait(&h->ready, ANSWER * zp_test_slow());
    return pid;
}

static void
end(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, ANSWER), -SIGKILL);
}

static int
has_few(zp_state *snapshot, void *user)
{
    uint64_t n;
    int rc = zp_length(snapshot, &n);

    return rc < 0 ? rc : n <= *(uint64_t *)user;
}

/* Wait until N keys are left, and no fewer. Returns how long it took. */
static double
left(fixture *f, uint64_t n)
{
    double begun = zp_test_now();
    uint64_t length = 0;
    int rc = zp_get_when(f->state, NULL, NULL, 0, ANSWER * zp_test_slow(), NULL,
                         has_few, &n);

    assert_ok(zp_length(f->state, &length));
    if (rc != 0 || length != n)
        fail_msg("%s: %d keys are left, not %d", zp_strerror(rc), (int)length,
                 (int)n);
    return zp_test_now() - begun;
}

/* A key that goes by its time has gone: so the server has looked at all. */
static void
let_look(fixture *f)
{
    uint64_t n;

    assert_ok(zp_length(f->state, &n));
    assert_ok(zp_set_with(f->state, "mark", ZP_WITH(.ttl = 0.001), ZP_I(1)));
    left(f, n);
}

static void
kill_server(fixture *f)
{
    pid_t pid = server_of(f->ctx);
    double until = zp_test_now() + ANSWER * zp_test_slow();

    kill(pid, SIGKILL);
    while (zp_test_process_state(pid) && zp_test_process_state(pid) != 'Z')
        assert_true(zp_test_now() < until);
}

static int
stop_outside(zp_state *txn, void *user)
{
    pid_t server = *(pid_t *)user;
    double until = zp_test_now() + ANSWER * zp_test_slow();

    (void)txn;
    kill(server, SIGSTOP);
    while (zp_test_process_state(server) != 'T')
        assert_true(zp_test_now() < until);
    return 0;
}

/* Stop the server, but not while it has the write lock: it does when its
 * changes are heard of. */
static pid_t
stop_server(fixture *f)
{
    pid_t server = server_of(f->ctx);

    assert_ok(zp_atomic(f->state, stop_outside, &server));
    return server;
}

/* --------------------------------------------------------- holders -- */

/* Goal: killed, ended, ended by itself while stopped: it goes. Stopped: it
 * stays. */
static void
test_ends(void **state)
{
    fixture *f = *state;
    holding h;
    double worst = 0, sum = 0;
    pid_t pid;

    holding_open(&h, f, 1);
    for (int i = 0; i < 20; i++) {
        pid = holder(&h);
        if (i % 2) /* else it may not know the holder yet */
            let_look(f);
        if (i % 3 == 0) {
            kill(pid, SIGKILL);
        } else if (i % 3 == 1) {
            zp_sync_post(&h.go);
        } else {
            kill(pid, SIGSTOP);
            let_look(f);
            assert_return(zp_contains(f->state, "k00000"), 1);
            kill(pid, SIGKILL);
        }
        double took = left(f, 0); /* a zombie has ended */
        worst = took > worst ? took : worst;
        sum += took;
        zp_test_wait(pid, ANSWER);
    }
    print_message("# gone after %.1f ms, %.1f at most\n", sum * 50,
                  worst * 1e3);
    holding_close(&h);
}

/* Goal: a process that has forked, without a context in the child: the child
 * holds nothing, whoever ends first. */
static int
fork_and_end(void *user)
{
    const holding *h = user;
    zp_ctx *ctx;

    assert_ok(zp_ctx_attach(&ctx, h->address, NULL));
    assert_ok(zp_set_with(zp_ctx_state(ctx), "forked", &bound, ZP_I(1)));
    holding child = *h;
    zp_sync_open(&child.ready);
    pid_t pid = zp_test_fork(hold, &child);
    zp_sync_wait(&child.ready, ANSWER * zp_test_slow());
    end(pid);
    zp_sync_post(&h->ready);
    zp_sync_wait(&h->go, 600);
    return 0;
}

static void
test_fork(void **state)
{
    fixture *f = *state;
    holding h;

    holding_open(&h, f, 3);
    pid_t pid = zp_test_fork(fork_and_end, &h);
    zp_sync_wait(&h.ready, ANSWER * zp_test_slow());
    left(f, 1);
    assert_return(zp_contains(f->state, "forked"), 1);
    end(pid);
    left(f, 0);
    holding_close(&h);
}

/* Goal: ten thousand keys of fifty processes that all die at once; others stay.
 * The server's memory stays what it was. */
static void
test_many(void **state)
{
    fixture *f = *state;
    int processes = zp_test_instrumented() ? 5 : 50;
    holding h;
    pid_t pids[50], stays;

    holding_open(&h, f, 200);
    set(f->state, "plain", 1);
    h.first = 90000;
    stays = holder(&h);
    let_look(f);
    long before = zp_test_vm_rss(server_of(f->ctx));
    for (int i = 0; i < processes; i++) {
        h.first = i * 200;
        pids[i] = holder(&h);
    }
    for (int i = 0; i < processes; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < processes; i++)
        zp_test_wait(pids[i], ANSWER);
    print_message("# %d keys are gone after %.0f ms\n", processes * 200,
                  left(f, 201) * 1e3);
    if (!zp_test_instrumented())
        assert_in_range(zp_test_vm_rss(server_of(f->ctx)), 0, before + 6144);
    end(stays);
    left(f, 1);
    holding_close(&h);
}

/* -------------------------------------------------------- renewing -- */

typedef struct renewing {
    const char *address;
    int number;
} renewing;

static int
renew_often(void *user)
{
    const renewing *r = user;
    double ttl = 5 * zp_test_slow();
    zp_state *state;
    char key[16];
    zp_ctx *ctx;

    assert_ok(zp_ctx_attach(&ctx, r->address, NULL));
    state = zp_ctx_state(ctx);
    for (int i = 0; i < 50; i++)
        assert_ok(zp_set_with(state, name(key, r->number * 50 + i),
                              ZP_WITH(.ttl = ttl), ZP_I(1)));
    for (int round = 0; round < rounds(100); round++)
        for (int i = 0; i < 50; i++)
            assert_ok(zp_renew(state, name(key, r->number * 50 + i), ttl));
    for (int i = 0; i < 50; i++)
        assert_ok(zp_renew(state, name(key, r->number * 50 + i), 0.01));
    zp_ctx_free(ctx);
    return 0;
}

/* Goal: renewed all the time they stay, and not a revision is made of it; then
 * all go. */
static void
test_renewals(void **state)
{
    fixture *f = *state;
    renewing r[4];
    pid_t pids[4];

    for (int i = 0; i < 4; i++) {
        r[i] = (renewing){zp_ctx_address(f->ctx), i};
        pids[i] = zp_test_fork(renew_often, &r[i]);
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(zp_test_wait(pids[i], 3 * ANSWER), 0);
    left(f, 0);
    assert_in_range(head_of(f->state), 201, 400);
}

/* In the lock: until it is over, and some ms more, in which the server finds
 * that, too, and waits for the lock. */
static int
save(zp_state *txn, void *user)
{
    struct timespec ms = {.tv_nsec = 1000 * 1000};
    zp_lease lease = {.size = sizeof lease};

    do {
        int rc = zp_get_lease(txn, "k", &lease);

        if (rc != 0)
            return rc;
        nanosleep(&ms, NULL);
    } while (lease.ttl > 0);
    for (int i = 0; i < 10; i++)
        nanosleep(&ms, NULL);
    switch (*(int *)user % 3) {
    case 0:
        return zp_renew(txn, "k", 1000);
    case 1:
        return zp_set_int(txn, "k", 2);
    default:
        return zp_set_with(txn, "k", &bound, ZP_I(3));
    }
}

/* Goal: what is saved in the last moment, and later, is not deleted. */
static void
test_saved(void **state)
{
    fixture *f = *state;

    for (int i = 0; i < rounds(30); i++) {
        assert_ok(zp_set_with(f->state, "k", ZP_WITH(.ttl = 0.05), ZP_I(1)));
        if (zp_atomic(f->state, save, &i) == ZP_ENOKEY)
            continue; /* a slow machine */
        let_look(f);
        assert_return(zp_contains(f->state, "k"), 1);
    }
}

/* ------------------------------------------------------ the server -- */

/* Goal: killed before the holder, or after it; the next one knows what to do.
 * What lives stays, and is watched by the new one, too. */
static void
test_server_killed(void **state)
{
    fixture *f = *state;
    holding h;
    pid_t pid, stays;

    holding_open(&h, f, 3);
    h.first = 100;
    stays = holder(&h);
    h.first = 0;
    for (int i = 0; i < rounds(10); i++) {
        pid = holder(&h);
        kill_server(f);
        if (i % 2) {
            assert_ok(zp_ping(f->ctx, NULL, NULL, 0, ANSWER * zp_test_slow()));
            let_look(f);
            assert_return(zp_contains(f->state, "k00000"), 1);
        }
        end(pid);
        assert_ok(zp_ping(f->ctx, NULL, NULL, 0, ANSWER * zp_test_slow()));
        left(f, 3);
        assert_return(zp_contains(f->state, "k00100"), 1);
    }
    end(stays);
    left(f, 0);
    holding_close(&h);
}

/* Goal: a lease set while no server runs. */
static void
test_set_without_server(void **state)
{
    fixture *f = *state;
    holding h;

    holding_open(&h, f, 3);
    kill_server(f);
    pid_t pid = holder(&h);
    assert_ok(zp_set_with(f->state, "t", ZP_WITH(.ttl = 0.001), ZP_I(1)));
    assert_ok(zp_ping(f->ctx, NULL, NULL, 0, ANSWER * zp_test_slow()));
    left(f, 3);
    end(pid);
    left(f, 0);
    holding_close(&h);
}

/* Goal: a writer that died between its commit and telling of it: the count in
 * the board is odd, and nobody was told. */
static void
test_died_untold(void **state)
{
    fixture *f = *state;
    zp__board board;
    zp__place place;
    holding h;

    holding_open(&h, f, 1);
    assert_ok(zp__place_find(&place, zp_ctx_address(f->ctx)));
    assert_ok(zp__board_open(&board, &place));
    let_look(f);
    for (int i = 0; i < 2; i++) {
        pid_t server = stop_server(f);
        pid_t pid = holder(&h);

        assert_int_equal(atomic_load(&board.shared->leases) % 2, 0);
        atomic_fetch_sub(&board.shared->leases, 1);
        atomic_fetch_sub(&board.shared->lease_told, 1);
        if (i == 1) /* the next writer finds it, and tells */
            assert_ok(zp_set_with(f->state, "other", &bound, ZP_I(1)));
        end(pid);
        kill(server, SIGCONT);
        left(f, (uint64_t)i);
    }
    assert_int_equal(atomic_load(&board.shared->leases) % 2, 0);
    zp__board_close(&board);
    holding_close(&h);
}

static int
stop_inside(zp_state *txn, void *user)
{
    (void)user;
    int rc = zp_set_int(txn, "x", 1);
    raise(SIGSTOP);
    return rc;
}

static int
hold_lock(void *user)
{
    zp_ctx *mine;

    assert_ok(zp_ctx_attach(&mine, user, NULL));
    assert_ok(zp_atomic(zp_ctx_state(mine), stop_inside, NULL));
    zp_ctx_free(mine);
    return 0;
}

static bool
is_stopped(void *user)
{
    return zp_test_process_state(*(pid_t *)user) == 'T';
}

/* Goal: while a stopped writer has the lock, leases are due; the server answers
 * all the time, and deletes them as soon as it can. */
static void
test_lock_held(void **state)
{
    fixture *f = *state;
    holding h;

    holding_open(&h, f, 3);
    pid_t pid = holder(&h);
    assert_ok(zp_set_with(f->state, "t", ZP_WITH(.ttl = 0.2), ZP_I(1)));
    pid_t writer = zp_test_fork(hold_lock, (void *)zp_ctx_address(f->ctx));
    assert_true(zp_test_until(is_stopped, &writer, ANSWER));
    end(pid);
    double until = zp_test_now() + 0.5; /* more than one try */
    while (zp_test_now() < until)
        assert_ok(zp_ping(f->ctx, NULL, NULL, 0, 5 * zp_test_slow()));
    assert_return(zp_contains(f->state, "k00000"), 1);
    kill(writer, SIGCONT);
    assert_int_equal(zp_test_wait(writer, ANSWER), 0);
    left(f, 1);
    assert_return(zp_contains(f->state, "x"), 1);

    /* one that is killed there */
    pid = holder(&h);
    writer = zp_test_fork(hold_lock, (void *)zp_ctx_address(f->ctx));
    assert_true(zp_test_until(is_stopped, &writer, ANSWER));
    end(pid);
    end(writer);
    left(f, 1);
    holding_close(&h);
}

/* ------------------------------------------------------------- rebooting -- */

/* As if the machine had been started anew: leases are from another boot. What
 * is at "passed" was over before that. */
static void
reboot(const char *key, zp__lease *lease)
{
    lease->boot++;
    if (strcmp(key, "passed") == 0)
        lease->wall_ns -= INT64_C(2000000000000);
    else if (lease->deadline_ns != 0)
        lease->deadline_ns = 1; /* means nothing any more */
}

/* As if one who had our number long ago had set what begins with "old". */
static void
reuse(const char *key, zp__lease *lease)
{
    if (strncmp(key, "old", 3) == 0)
        lease->holder.start--;
}

/* Change all N leases of the closed state at PATH. */
static void
edit(const char *path, void (*fn)(const char *key, zp__lease *lease), int n)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key, data;
    zp__lease lease;
    char name_of[ZP__KEY_MAX + 1];

    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_cursor_open(txn, dbi, &cursor), 0);
    while (mdb_cursor_get(cursor, &key, &data, MDB_NEXT) == 0) {
        if (*(char *)key.mv_data != 'b')
            continue;
        assert_int_equal(data.mv_size, sizeof lease);
        memcpy(&lease, data.mv_data, sizeof lease);
        memcpy(name_of, (char *)key.mv_data + sizeof "bdefault",
               key.mv_size - sizeof "bdefault");
        name_of[key.mv_size - sizeof "bdefault"] = '\0';
        fn(name_of, &lease);
        data = (MDB_val){sizeof lease, &lease};
        assert_int_equal(mdb_cursor_put(cursor, &key, &data, MDB_CURRENT), 0);
        n--;
    }
    mdb_cursor_close(cursor);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    assert_int_equal(n, 0);
}

/* Goal: a durable state after a reboot: what was bound goes, whoever has the
 * number now; times go on by the wall clock, and can be renewed. */
static void
test_reboot(void **state)
{
    zp_ctx_options options = {.size = sizeof options,
                              .path = zp_test_path("durable")};
    zp_lease lease = {.size = sizeof lease};
    fixture f = {.ctx = NULL};

    (void)state;
    assert_ok(zp_ctx_new(&f.ctx, &options));
    f.state = zp_ctx_state(f.ctx);
    set(f.state, "plain", 1);
    assert_ok(zp_set_with(f.state, "bound", &bound, ZP_I(1)));
    assert_ok(zp_set_with(f.state, "both",
                          ZP_WITH(.flags = ZP_BOUND, .ttl = 1000), ZP_I(1)));
    assert_ok(zp_set_with(f.state, "passed", ZP_WITH(.ttl = 1000), ZP_I(1)));
    assert_ok(zp_set_with(f.state, "timed", ZP_WITH(.ttl = 1000), ZP_I(1)));
    zp_ctx_free(f.ctx);
    edit(options.path, reboot, 4);
    assert_ok(zp_ctx_new(&f.ctx, &options));
    f.state = zp_ctx_state(f.ctx);
    left(&f, 2);
    assert_ok(zp_get_lease(f.state, "timed", &lease));
    assert_true(lease.ttl > 500 && lease.ttl <= 1000);
    assert_return(zp_contains(f.state, "plain"), 1);
    assert_ok(zp_renew(f.state, "timed", 0.001));
    left(&f, 1);
    zp_ctx_free(f.ctx);
}

/* Goal: a number that was given out again is another process. */
static void
test_number_reused(void **state)
{
    zp_ctx_options options = {.size = sizeof options,
                              .path = zp_test_path("durable")};
    fixture f = {.ctx = NULL};

    (void)state;
    assert_ok(zp_ctx_new(&f.ctx, &options));
    f.state = zp_ctx_state(f.ctx);
    assert_ok(zp_set_with(f.state, "mine", &bound, ZP_I(1)));
    assert_ok(zp_set_with(f.state, "old1", &bound, ZP_I(1)));
    assert_ok(zp_set_with(f.state, "old2", &bound, ZP_I(1)));
    assert_ok(zp_set_with(f.state, "that is mine", &bound, ZP_I(1)));
    zp_ctx_free(f.ctx);
    edit(options.path, reuse, 4);
    assert_ok(zp_ctx_new(&f.ctx, &options));
    f.state = zp_ctx_state(f.ctx);
    left(&f, 2);
    let_look(&f);
    assert_return(zp_contains(f.state, "mine"), 1);
    assert_return(zp_contains(f.state, "that is mine"), 1);
    zp_ctx_free(f.ctx);
}

/* ----------------------------------------------------------- descriptors -- */

static int
with_limit(void *user)
{
    struct rlimit limit = {*(rlim_t *)user, *(rlim_t *)user};
    pid_t pids[30];
    fixture *f = NULL;
    holding h;

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(watching_setup((void **)&f), 0);
    holding_open(&h, f, 1);
    for (int i = 0; i < 30; i++) {
        h.first = i;
        pids[i] = holder(&h);
    }
    let_look(f);
    assert_int_equal(zp_contains(f->state, "k00029"), 1);
    for (int i = 0; i < 30; i += 2)
        end(pids[i]);
    left(f, 15);
    for (int i = 1; i < 30; i += 2)
        end(pids[i]);
    left(f, 0);
    holding_close(&h);
    watching_teardown((void **)&f);
    return 0;
}

/* Goal: a server without descriptors for all holders, or for any, looks for
 * them by the clock. */
static void
test_few_descriptors(void **state)
{
    pid_t pids[3];

    (void)state;
    for (int i = 0; i < 3; i++)
        pids[i] = zp_test_fork(with_limit, &(rlim_t){60 + (rlim_t)i * 20});
    for (int i = 0; i < 3; i++)
        assert_int_equal(zp_test_wait(pids[i], 3 * ANSWER), 0);
}

/* ------------------------------------------------------- all of it -- */

/* Set, renew, add to and delete keys of its own for ever; whenever a bound one
 * is not what it was, tell. */
static int
churn(void *user)
{
    const renewing *r = user;
    zp_state *state;
    zp_ctx *ctx;
    char key[16];
    unsigned seed = (unsigned)getpid();
    int64_t values[5] = {0};

    assert_ok(zp_ctx_attach(&ctx, r->address, NULL));
    state = zp_ctx_state(ctx);
    for (int i = 0; i < 5; i++) { /* a dead one's may be there yet */
        values[i] = i;
        assert_ok(zp_set_with(state, name(key, r->number * 10 + i), &bound,
                              ZP_I(values[i])));
    }
    for (int rc = 0; rc == 0;) {
        int i = (int)(rand_r(&seed) % 5);

        name(key, r->number * 10 + i);
        assert_int_equal(int_at(state, key), values[i]);
        switch (rand_r(&seed) % 5) {
        case 0:
            rc = zp_set_with(state, key, &bound, ZP_I(++values[i]));
            break;
        case 1:
            rc = zp_increase(state, key, &values[i], 1);
            break;
        case 2:
            rc = zp_renew(state, key, 1000);
            break;
        case 3:
            rc = zp_delete(state, key);
            if (rc == 0)
                rc = zp_set_with(state, key, &bound, ZP_I(values[i]));
            break;
        default:
            name(key, r->number * 10 + 5 + i);
            rc = zp_set_with(state, key, ZP_WITH(.ttl = 0.001), ZP_I(1));
        }
        assert_ok(rc);
    }
    return 1;
}

/* Goal: holders and servers killed at random while they write: a bound key of a
 * living process is never lost, and in the end all that must go have gone. */
static void
test_chaos(void **state)
{
    fixture *f = *state;
    renewing r[6];
    pid_t pids[6];
    struct timespec nap = {.tv_nsec = 20 * 1000 * 1000};

    srand((unsigned)getpid());
    for (int i = 0; i < 6; i++) {
        r[i] = (renewing){zp_ctx_address(f->ctx), i};
        pids[i] = zp_test_fork(churn, &r[i]);
    }
    for (int round = 0; round < rounds(60); round++) {
        int i = rand() % 8;

        nanosleep(&nap, NULL); /* let them do something */
        if (i >= 6) {
            kill_server(f);
            assert_ok(zp_ping(f->ctx, NULL, NULL, 0, ANSWER * zp_test_slow()));
            continue;
        }
        end(pids[i]); /* and not by an assertion */
        pids[i] = zp_test_fork(churn, &r[i]);
    }
    for (int i = 0; i < 6; i++)
        end(pids[i]);
    left(f, 0);
}

#define WITH(f) ZP_TEST_WITH(f, watching_setup, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(test_ends),
        WITH(test_fork),
        WITH(test_many),
        WITH(test_renewals),
        WITH(test_server_killed),
        WITH(test_set_without_server),
        WITH(test_saved),
        WITH(test_died_untold),
        WITH(test_lock_held),
        ZP_TEST(test_reboot),
        ZP_TEST(test_number_reused),
        ZP_TEST(test_few_descriptors),
        WITH(test_chaos),
    };
    return zp_test_main("leases kill", tests, sizeof tests / sizeof *tests,
                        120);
}
