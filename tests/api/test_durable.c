/*
 * A durable state: it is there again after its owner has ended in order, and
 * after owner and server were killed; its history, limits and revisions go on;
 * nobody opens it twice; what is not a state is refused and left as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

static int
open_at(zp_ctx **ret, const char *path, int sync)
{
    zp_ctx_options options = {.size = sizeof options,
                              .path = path,
                              .sync = sync,
                              .sync_interval = 0.01,
                              .max_bytes = 16 << 20,
                              .log_revisions = 128};

    return zp_ctx_new(ret, &options);
}

static void
test_there_again(void **state)
{
    const char *path = zp_test_path("state");
    zp_ctx *ctx, *second;
    zp_state *old;
    uint64_t revision, again;
    int64_t value;

    (void)state;
    for (int round = 0; round < 3; round++) {
        assert_int_equal(open_at(&ctx, path, round), round == 2 ? -EINVAL : 0);
        if (round == 2)
            break;
        zp_state *s = zp_ctx_state(ctx);
        if (round == 0) {
            assert_int_equal(zp_set_int(s, "n", 1), 0);
            assert_int_equal(zp_set_int(s, "n", 2), 0);
            assert_int_equal(zp_revision(s, &revision), 0);
        } else {
            assert_int_equal(zp_revision(s, &again), 0);
            assert_int_equal(again, revision);
            assert_int_equal(zp_get_int(s, "n", &value), 0);
            assert_int_equal(value, 2);
            assert_int_equal(zp_at(s, &old, revision - 1), 0);
            assert_int_equal(zp_get_int(old, "n", &value), 0);
            assert_int_equal(value, 1);
            zp_state_free(old);
            assert_int_equal(zp_increase(s, "n", &value, 1), 0);
            assert_int_equal(zp_revision(s, &again), 0);
            assert_int_equal(again, revision + 1);
        }
        /* once at a time; others attach, by the path as well */
        assert_int_equal(open_at(&second, path, 0), -EADDRINUSE);
        assert_int_equal(zp_ctx_attach(&second, path, NULL), 0);
        assert_int_equal(zp_get_int(zp_ctx_state(second), "n", &value), 0);
        zp_ctx_free(second);
        assert_null(zp_ctx_free(ctx));
        assert_int_equal(zp_ctx_attach(&second, path, NULL), ZP_ENOSTATE);
        assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
        assert_int_equal(access(path, F_OK), 0);
    }
}

typedef struct writer {
    const char *path;
    zp_sync acked;
    int sync;
} writer;

/* Write until killed; tell each value that is safe. */
static int
write_for_ever(void *user)
{
    writer *w = user;
    zp_ctx *ctx;
    int64_t value = 0;

    if (open_at(&ctx, w->path, w->sync) != 0)
        return 1;
    if (zp_contains(zp_ctx_state(ctx), "n") == 0 &&
        zp_set_int(zp_ctx_state(ctx), "n", 0) != 0)
        return 2;
    for (;;) {
        if (zp_increase(zp_ctx_state(ctx), "n", &value, 1) != 0)
            return 3;
        zp_sync_send(&w->acked, value);
    }
}

static bool
all_gone(void *user)
{
    (void)user;
    return zp_test_descendants(NULL, 0) == 0;
}

static void
kill_and_compare(int sync)
{
    writer w = {.path = zp_test_path("killed"), .sync = sync};
    pid_t pids[8];
    zp_ctx *ctx;
    int64_t value, acked = 0;

    zp_sync_open(&w.acked);
    for (int round = 0; round < 5; round++) {
        pid_t pid = zp_test_fork(write_for_ever, &w);
        for (int i = 0; i < 50 + round * 37; i++)
            acked = zp_sync_receive(&w.acked, 20);
        /* the server first in odd rounds: then nobody cleans up */
        size_t n = zp_test_descendants(pids, 8);
        for (size_t i = 0; i < n && round % 2 == 1; i++)
            if (pids[i] != pid)
                kill(pids[i], SIGKILL);
        kill(pid, SIGKILL);
        assert_int_equal(zp_test_wait(pid, 20), -SIGKILL);
        assert_true(zp_test_until(all_gone, NULL, 20));
        while (true) { /* what it told before it died */
            fcntl(w.acked.fd[0], F_SETFL, O_NONBLOCK);
            ssize_t pending = read(w.acked.fd[0], &value, sizeof value);
            fcntl(w.acked.fd[0], F_SETFL, 0);
            if (pending != sizeof value)
                break;
            acked = value;
        }
        assert_int_equal(open_at(&ctx, w.path, sync), 0);
        assert_int_equal(zp_get_int(zp_ctx_state(ctx), "n", &value), 0);
        assert_in_range(value, acked, acked + 1);
        assert_null(zp_ctx_free(ctx));
    }
    zp_sync_close(&w.acked);
}

static void
test_killed_commit(void **state)
{
    (void)state;
    kill_and_compare(ZP_SYNC_COMMIT);
}

static void
test_killed_interval(void **state)
{
    (void)state;
    kill_and_compare(ZP_SYNC_INTERVAL);
}

static void
test_not_a_state(void **state)
{
    const char *path = zp_test_path("other");
    zp_ctx *ctx = NULL;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val key = {3, (void *)(uintptr_t) "key"}, data = key, got;

    (void)state;
    /* a file */
    FILE *file = fopen(zp_test_path("file"), "w");
    assert_non_null(file);
    fclose(file);
    assert_true(open_at(&ctx, zp_test_path("file"), 0) < 0);
    assert_true(open_at(&ctx, zp_test_path("no/such/parent"), 0) < 0);
    /* an LMDB environment of somebody else */
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_put(txn, dbi, &key, &data, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    assert_int_equal(open_at(&ctx, path, 0), ZP_ECORRUPT);
    assert_non_null(strstr(zp_ctx_error(NULL), path));
    assert_null(ctx);
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_open(env, path, MDB_RDONLY, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_get(txn, dbi, &key, &got), 0);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    /* garbage */
    file = fopen(zp_test_path("garbage"), "w");
    fclose(file);
    unlink(zp_test_path("garbage"));
    assert_int_equal(mkdir(zp_test_path("garbage"), 0700), 0);
    file = fopen(zp_test_path("garbage/data.mdb"), "w");
    for (int i = 0; i < 20000; i++)
        fputc(i * 7 & 0xff, file);
    fclose(file);
    assert_true(open_at(&ctx, zp_test_path("garbage"), 0) < 0);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_there_again),
        ZP_TEST(test_killed_commit),
        ZP_TEST(test_killed_interval),
        ZP_TEST(test_not_a_state),
    };
    return zp_test_main("durable", tests, sizeof tests / sizeof *tests, 60);
}
