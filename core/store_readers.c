/*
 * store_readers.c - the table of read transactions, one for all processes: who
 * holds them, who pins the oldest pages, and what to do when it is full.
 *
 * A slot is taken by each view that has ever been begun, until it is freed, and
 * by a process that died until someone clears it: whoever finds the table full
 * does, and only if that was of no use it is an error. That names the process
 * which holds most of them, since there something is not freed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/store_lmdb.h"

typedef struct holders { /* a pid for each slot in use */
    unsigned long pids[ZP__READERS];
    size_t n;
} holders;

/* One line of mdb_reader_list(): pid, thread, transaction ("-": none). False:
 * it is a headline. */
static bool
parse(const char *line, unsigned long *ret_pid, unsigned long long *ret_txn,
      bool *ret_reads)
{
    char thread[32];
    int n = sscanf(line, " %lu %31s %llu", ret_pid, thread, ret_txn);

    *ret_reads = n == 3;
    return n == 3 || sscanf(line, " %lu %31s -", ret_pid, thread) == 2;
}

static int
see_reader(const char *line, void *user)
{
    zp__readers *found = user;
    unsigned long long txn;
    unsigned long pid;
    bool reads;

    if (!parse(line, &pid, &txn, &reads))
        return 0;
    found->n++;
    if (reads && (found->oldest_pid == 0 || txn < found->oldest_txn)) {
        found->oldest_txn = txn;
        found->oldest_pid = pid;
    }
    return 0;
}

void
zp__readers_look(zp__store *store, zp__readers *ret)
{
    memset(ret, 0, sizeof *ret);
    mdb_reader_list(store->env, see_reader, ret);
}

int
zp__store_check_readers(zp__store *store)
{
    int dead = 0;
    int rc = mdb_reader_check(store->env, &dead);
    return rc == 0 ? dead : zp__mdb_fail(store, rc, "checking readers");
}

/* ---- the table is full ---- */

static int
see_holder(const char *line, void *user)
{
    holders *all = user;
    unsigned long long txn;
    bool reads;

    if (all->n < ZP__READERS && parse(line, &all->pids[all->n], &txn, &reads))
        all->n++;
    return 0;
}

static int
compare_pids(const void *a, const void *b)
{
    unsigned long left = *(const unsigned long *)a;
    unsigned long right = *(const unsigned long *)b;

    return left < right ? -1 : left > right;
}

/* How many slots the process has that has most of them. */
static size_t
most(holders *all, unsigned long *ret_pid)
{
    size_t best = 0, run = 0;

    qsort(all->pids, all->n, sizeof *all->pids, compare_pids);
    for (size_t i = 0; i < all->n; i++) {
        run = i > 0 && all->pids[i] == all->pids[i - 1] ? run + 1 : 1;
        if (run > best) {
            best = run;
            *ret_pid = all->pids[i];
        }
    }
    return best;
}

static int
readers_full(zp__store *store)
{
    holders *all = calloc(1, sizeof *all);
    unsigned long pid = 0;
    size_t n;

    if (all == NULL)
        return zp__fail(-ENOMEM, "reading");
    mdb_reader_list(store->env, see_holder, all);
    n = most(all, &pid);
    free(all);
    return zp__fail(-EAGAIN,
                    "all %d read transactions of %s are taken, %zu of them by "
                    "process %lu: free snapshots, iterators and histories that "
                    "are no longer needed",
                    ZP__READERS, store->place.data, n, pid);
}

int
zp__mdb_read(zp__store *store, MDB_txn **ret)
{
    int rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, ret);

    if (rc == MDB_READERS_FULL && zp__store_check_readers(store) > 0)
        rc = mdb_txn_begin(store->env, NULL, MDB_RDONLY, ret);
    if (rc == MDB_READERS_FULL)
        return readers_full(store);
    return rc == 0 ? 0 : zp__mdb_fail(store, rc, "reading");
}
