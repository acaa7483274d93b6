/*
 * Bytes in the store that no zproc wrote: another program changes the rows of
 * a live state at random. Reading gives an error or a value, never a crash,
 * and what is handed to tpl has always been checked.
 */
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

#define KEYS 24

/* On a damaged state any of these may fail. */
static int
set_all(zp_state *s)
{
    char key[16];
    const char *text = "some text";
    int32_t numbers[4] = {1, 2, 3, 4};
    zp_bin bin = {(void *)"bytes", 5};
    struct {
        char *s;
        int i;
    } both[2] = {{(char *)"a", 1}, {(char *)"b", 2}};

    int rc = 0;

    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "k%02d", i);
        switch (i % 6) {
        case 0:
            rc |= zp_set_int(s, key, i);
            break;
        case 1:
            rc |= zp_set_string(s, key, text);
            break;
        case 2:
            rc |= zp_set(s, key, "i#s", numbers, 4, &text);
            break;
        case 3:
            rc |= zp_set(s, key, "B", &bin);
            break;
        case 4:
            rc |= zp_set(s, key, "S(si)#", both, 2);
            break;
        default:
            rc |= zp_set(s, key, "sBi", &text, &bin, numbers);
        }
    }
    return rc;
}

typedef struct vandal {
    const char *dir;
    unsigned seed;
    int rounds;
} vandal;

/* Change some bytes of some row: of KIND 'k' (only in its image, if TAIL) or
 * 'l'. */
static int
vandalise(MDB_env *env, unsigned *seed, char kind)
{
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_cursor *cursor;
    MDB_val key = {1, &kind}, data;
    int rc = mdb_txn_begin(env, NULL, 0, &txn);

    if (rc != 0)
        return rc;
    rc = mdb_dbi_open(txn, NULL, 0, &dbi);
    if (rc == 0)
        rc = mdb_cursor_open(txn, dbi, &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &data, MDB_SET_RANGE);
    for (int skip = rand_r(seed) % KEYS; rc == 0 && skip > 0; skip--)
        rc = mdb_cursor_get(cursor, &key, &data, MDB_NEXT);
    if (rc == 0 && *(char *)key.mv_data == kind) {
        size_t size = data.mv_size;
        unsigned char *copy = malloc(size + 16);
        memcpy(copy, data.mv_data, size);
        for (int n = 1 + rand_r(seed) % 4; n > 0; n--)
            copy[(unsigned)rand_r(seed) % size] =
                rand_r(seed) % 3 ? (unsigned char)rand_r(seed) : 0xff;
        if (rand_r(seed) % 4 == 0)
            size -= (unsigned)rand_r(seed) % size;
        MDB_val name = {key.mv_size, malloc(key.mv_size)};
        memcpy(name.mv_data, key.mv_data, key.mv_size);
        MDB_val changed = {size, copy};
        mdb_cursor_close(cursor);
        rc = mdb_put(txn, dbi, &name, &changed, 0);
        free(name.mv_data);
        free(copy);
        if (rc == 0)
            return mdb_txn_commit(txn);
    }
    mdb_txn_abort(txn);
    return 0;
}

static int
be_vandal(void *user)
{
    vandal *v = user;
    MDB_env *env;

    if (mdb_env_create(&env) != 0 ||
        mdb_env_open(env, v->dir, MDB_NOSYNC, 0600) != 0)
        return 1;
    for (int i = 0; i < v->rounds; i++)
        if (vandalise(env, &v->seed, i % 5 == 4 ? 'l' : 'k') != 0)
            return 2;
    mdb_env_close(env);
    return 0;
}

static void
read_one(zp_state *s, const char *key)
{
    zp_value *value;
    char text[200];
    char *string = NULL;
    int64_t number;
    int32_t numbers[4];
    zp_bin bin = {NULL, 0};
    struct {
        char *s;
        int i;
    } both[2];

    if (zp_get_value(s, key, &value) == 0) {
        zp_value_text(value, text, sizeof text);
        zp_value_free(value);
    }
    zp_get_int(s, key, &number);
    if (zp_get_string(s, key, &string) == 0)
        free(string);
    if (zp_get(s, key, "i#s", numbers, 4, &string) == 0)
        free(string);
    if (zp_get(s, key, "B", &bin) == 0)
        free(bin.addr);
    if (zp_get(s, key, "S(si)#", both, 2) == 0) {
        free(both[0].s);
        free(both[1].s);
    }
    if (zp_get(s, key, "sBi", &string, &bin, numbers) == 0) {
        free(string);
        free(bin.addr);
    }
    zp_type(s, key);
}

static void
read_all(zp_state *s)
{
    zp_iter *iter;
    const char *key;
    const zp_value *value;
    char name[16];

    for (int i = 0; i < KEYS; i++) {
        snprintf(name, sizeof name, "k%02d", i);
        read_one(s, name);
    }
    if (zp_iter_new(s, &iter) != 0)
        return;
    while (zp_iter_next(iter, &key, &value) == 1)
        ;
    zp_iter_free(iter);
}

static void
read_history(zp_state *s)
{
    uint64_t head;
    zp_state *at;

    if (zp_revision(s, &head) != 0)
        return;
    for (uint64_t r = head > 30 ? head - 30 : 0; r <= head; r++) {
        if (zp_at(s, &at, r) != 0)
            continue;
        read_all(at);
        zp_state_free(at);
    }
}

static void
test_foreign_rows(void **state)
{
    zp_ctx *ctx;
    vandal v = {.seed = (unsigned)time(NULL) ^ (unsigned)getpid(),
                .rounds = 10};
    int rounds = (int)(600 / zp_test_slow());

    (void)state;
    print_message("# seed %u\n", v.seed);
    for (int i = 0; i < rounds; i++) {
        zp_ctx_options options = {.size = sizeof options, .log_revisions = 64};
        if (i % 30 == 0)
            assert_int_equal(zp_ctx_new(&ctx, &options), 0);
        zp_state *s = zp_ctx_state(ctx);
        int rc = set_all(s);
        if (i % 30 == 0)
            assert_int_equal(rc, 0);
        v.dir = zp_ctx_address(ctx);
        v.seed = (unsigned)rand_r(&v.seed);
        assert_int_equal(zp_test_wait(zp_test_fork(be_vandal, &v), 20), 0);
        read_all(s);
        read_history(s);
        zp_increase(s, "k00", NULL, 1);
        zp_clear(s);
        if (i % 30 == 29 || i == rounds - 1)
            ctx = zp_ctx_free(ctx);
        else if (i % 3 == 0)
            zp_update(s, NULL, 0);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {ZP_TEST(test_foreign_rows)};
    return zp_test_main("foreign", tests, 1, 90);
}
