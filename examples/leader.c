/*
 * leader.c - of five candidates one leads, and when it dies another one does.
 *
 * To lead is to hold the key "leader". It is bound to the process that set it:
 * when that ends, in whatever way, the key goes, and the others, who wait for
 * just that, stand for election. An atomic operation decides it: look whether
 * there is a leader, and if not, be it.
 *
 * main() kills three leaders, each without a warning, and looks whether there
 * is another one within two seconds (`leader 20`: twenty). In the end it reads
 * in the history of the key whether there were ever two at once.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zp.h>

enum { CANDIDATES = 5, KILLED = 3 };

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [stand] */
/* 1: this process leads, until it ends; 0: another one does. */
static int
stand(zp_state *txn, void *user)
{
    int pid = getpid();

    (void)user;
    if (zp_contains(txn, "leader"))
        return 0;
    TRY(zp_set_with(txn, "leader", ZP_WITH(.flags = ZP_BOUND), "i", &pid));
    return 1;
}
/* [/stand] */

/* [candidate] */
/* Is there something to do: no leader, or nothing any more? */
static int
is_vacant(zp_state *snapshot, void *user)
{
    (void)user;
    return !zp_contains(snapshot, "leader") || zp_contains(snapshot, "over");
}

static int
candidate(zp_ctx *ctx, void *arg)
{
    zp_state *state = zp_ctx_state(ctx);

    (void)arg;
    while (!zp_contains(state, "over")) {
        int leads = zp_atomic(state, stand, NULL);

        TRY(leads);
        if (leads) /* this is where the work would be */
            return zp_get_when_available(state, NULL, "over", -1, NULL);
        TRY(zp_get_when(state, NULL, ZP_KEYS("leader", "over"), -1, NULL,
                        is_vacant, NULL));
    }
    return 0;
}
/* [/candidate] */

/* Wait for another leader than PID, and say who it is. */
static int
next_leader(zp_ctx *ctx, zp_proc **procs, double patience, int *pid)
{
    static int term;
    zp_state *then;

    TRY(zp_get_when_not_equal(zp_ctx_state(ctx), &then, "leader", patience,
                              NULL, "i", pid));
    TRY(zp_get(then, "leader", "i", pid));
    zp_state_free(then);
    for (int i = 0; i < CANDIDATES; i++)
        if (zp_proc_pid(procs[i]) == *pid) {
            printf("term %d: candidate %d leads\n", ++term, i + 1);
            return i;
        }
    return -ESRCH; /* somebody else */
}

/* [history] */
/* Each term begins where there is no leader, and ends before the next one. The
 * newest entry is the first. */
static int
never_two(zp_state *state)
{
    zp_history_entry entry;
    zp_history *history;
    int terms = 0, deleted = -1, rc;

    TRY(zp_history_new(state, &history, "leader"));
    while ((rc = zp_history_next(history, &entry, NULL)) > 0) {
        if (deleted == !!(entry.flags & ZP_DELETED))
            rc = -EEXIST; /* two of a kind in a row */
        else if (!(entry.flags & (ZP_CREATED | ZP_DELETED)))
            rc = -EEXIST; /* one in the place of another */
        if (rc < 0)
            break;
        deleted = !!(entry.flags & ZP_DELETED);
        terms += !deleted;
    }
    zp_history_free(history);
    return rc < 0 ? rc : terms;
}
/* [/history] */

static int
elect(zp_ctx *ctx, double patience)
{
    zp_state *state = zp_ctx_state(ctx);
    zp_proc *procs[CANDIDATES];
    int pid = 0, terms;

    for (int i = 0; i < CANDIDATES; i++)
        TRY(zp_spawn(ctx, &procs[i], NULL, candidate, NULL));
    TRY(next_leader(ctx, procs, patience, &pid));
    for (int i = 0; i < KILLED; i++) {
        if (kill(pid, SIGKILL) < 0)
            return -errno;
        TRY(next_leader(ctx, procs, patience, &pid));
    }
    terms = never_two(state);
    TRY(terms);
    if (terms != KILLED + 1)
        return -ERANGE;
    TRY(zp_set_bool(state, "over", 1));
    for (int i = 0; i < CANDIDATES; i++) {
        int rc = zp_wait(procs[i], NULL, -1);

        if (rc < 0 && rc != ZP_EFAILED) /* that was us */
            return rc;
    }
    return 0;
}

int
main(int argc, char **argv)
{
    double patience = argc > 1 ? atof(argv[1]) : 2;
    zp_ctx *ctx = NULL;
    int rc;

    setvbuf(stdout, NULL, _IOLBF, 0);
    rc = zp_ctx_new(&ctx, NULL);
    if (rc >= 0)
        rc = elect(ctx, patience);
    if (rc < 0)
        fprintf(stderr, "leader: %s (%s)\n", zp_strerror(rc),
                zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
