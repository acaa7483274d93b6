/*
 * floor_lmdb.c - raw LMDB in the arrangement of our store: an environment on
 * tmpfs, MDB_NOTLS and MDB_NOSYNC, no write map, one table, 10^4 current rows
 * and a ring of log rows. A get is renew, get, reset; a set is a transaction
 * that puts one current row in place and one row of the ring.
 *
 * The sizes of keys and rows are those that an int under a 10-byte key in the
 * namespace "default" has in our store (core/rows.h).
 */
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/bench/floor.h"

#define CURRENT_SIZE 74 /* header 56, image 18 */
#define LOG_SIZE 181    /* header 72, chunk 8, change 64, names 19, image 18 */
#define MAP_SIZE (UINT64_C(1) << 34)

struct lmdb {
    MDB_env *env;
    MDB_dbi dbi;
    MDB_txn *reader;
    uint64_t revision;
    uint64_t sum; /* of what was read, so that it is */
    char (*keys)[16];
};

static int
check(struct side *side, int r, const char *what)
{
    return r == 0 ? SIDE_OK : side_fail(side, "%s: %s", what, mdb_strerror(r));
}

/* 'k' namespace 0 key */
static MDB_val
current_key(struct lmdb *db, uint32_t i, char *buffer)
{
    size_t n = strlen(db->keys[i]);

    memcpy(buffer, "kdefault", 9);
    memcpy(buffer + 9, db->keys[i], n);
    return (MDB_val){9 + n, buffer};
}

/* 'l' and the number of the slot, big-endian */
static MDB_val
log_key(uint64_t revision, unsigned char *buffer)
{
    uint64_t slot = revision % SIDE_RING;

    buffer[0] = 'l';
    for (int i = 0; i < 8; i++)
        buffer[1 + i] = (unsigned char)(slot >> (56 - 8 * i));
    return (MDB_val){9, buffer};
}

static int
put_both(struct lmdb *db, MDB_txn *txn, uint32_t i)
{
    char current[32];
    unsigned char slot[16];
    char row[LOG_SIZE] = {0};
    MDB_val key = current_key(db, i, current);
    MDB_val data = {CURRENT_SIZE, row};
    int r;

    db->revision++;
    memcpy(row, &db->revision, 8);
    r = mdb_put(txn, db->dbi, &key, &data, 0);
    if (r != 0)
        return r;
    key = log_key(db->revision, slot);
    data.mv_size = LOG_SIZE;
    return mdb_put(txn, db->dbi, &key, &data, 0);
}

static int
commit_one(struct side *side)
{
    struct lmdb *db = side->data;
    MDB_txn *txn;
    int r = mdb_txn_begin(db->env, NULL, 0, &txn);

    if (r != 0)
        return check(side, r, "mdb_txn_begin");
    r = put_both(db, txn, side_random(SIDE_KEYS));
    if (r != 0) {
        mdb_txn_abort(txn);
        return check(side, r, "mdb_put");
    }
    return check(side, mdb_txn_commit(txn), "mdb_txn_commit");
}

static int
get_one(struct side *side)
{
    struct lmdb *db = side->data;
    char current[32];
    MDB_val key = current_key(db, side_random(SIDE_KEYS), current);
    MDB_val data;
    uint64_t revision;
    int r = mdb_txn_renew(db->reader);

    if (r != 0)
        return check(side, r, "mdb_txn_renew");
    r = mdb_get(db->reader, db->dbi, &key, &data);
    if (r == 0) {
        memcpy(&revision, data.mv_data, sizeof(revision));
        db->sum += revision;
    }
    mdb_txn_reset(db->reader);
    return check(side, r, "mdb_get");
}

static int
open_env(struct side *side, struct lmdb *db)
{
    char path[256];
    int r;

    snprintf(path, sizeof(path), "%s/lmdb", side->dir);
    mkdir(path, 0700);
    if ((r = mdb_env_create(&db->env)) != 0 ||
        (r = mdb_env_set_mapsize(db->env, MAP_SIZE)) != 0 ||
        (r = mdb_env_set_maxreaders(db->env, 4096)) != 0 ||
        (r = mdb_env_open(db->env, path, MDB_NOTLS | MDB_NOSYNC, 0600)) != 0)
        return check(side, r, path);
    return SIDE_OK;
}

static int
fill(struct side *side, struct lmdb *db)
{
    MDB_txn *txn;
    int r = mdb_txn_begin(db->env, NULL, 0, &txn);

    if (r != 0)
        return check(side, r, "mdb_txn_begin");
    r = mdb_dbi_open(txn, NULL, 0, &db->dbi);
    for (uint32_t i = 0; r == 0 && i < SIDE_KEYS; i++)
        r = put_both(db, txn, i);
    if (r != 0) {
        mdb_txn_abort(txn);
        return check(side, r, "fill");
    }
    if ((r = mdb_txn_commit(txn)) != 0 ||
        (r = mdb_txn_begin(db->env, NULL, MDB_RDONLY, &db->reader)) != 0)
        return check(side, r, "fill");
    mdb_txn_reset(db->reader);
    return SIDE_OK;
}

int
floor_lmdb_start(struct side *side)
{
    struct lmdb *db = calloc(1, sizeof(*db));

    side->data = db;
    if (db == NULL || (db->keys = side_keys(SIDE_KEYS)) == NULL)
        return side_fail(side, "out of memory");
    if (open_env(side, db) != SIDE_OK || fill(side, db) != SIDE_OK)
        return SIDE_FAIL;
    return side_repeat(side, commit_one, SIDE_WARM(side));
}

void
floor_lmdb_stop(struct side *side)
{
    struct lmdb *db = side->data;

    if (db == NULL)
        return;
    if (db->reader != NULL)
        mdb_txn_abort(db->reader);
    if (db->env != NULL)
        mdb_env_close(db->env);
    free(db->keys);
    free(db);
}

int
floor_get_round(struct side *side)
{
    return side_report_op(side, get_one);
}

int
floor_commit_round(struct side *side)
{
    return side_report_op(side, commit_one);
}

int
floor_rate_round(struct side *side)
{
    double us = side_per_op(side, commit_one, 0.2);

    if (us < 0)
        return SIDE_FAIL;
    side_report(side, "rate", 1e6 / us);
    return SIDE_OK;
}
