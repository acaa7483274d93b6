/*
 * Writers, watchers and the state server are killed at random moments while
 * all work. What was acknowledged is kept in memory shared with this process,
 * which outlives them, and in the end everything must fit together:
 *
 *  - nothing acknowledged is lost: a writer's key is what it last
 *    acknowledged, or one more for each life since (committed, then killed
 *    before it could say so);
 *  - each watcher, over all its lives, saw every revision once and in order;
 *  - no transaction is seen half: its two keys are always equal;
 *  - what the log says about a revision is what the watchers saw.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <zp.h>

#include "tests/support/zp_test.h"

#define WRITERS 3
#define WATCHERS 2
#define KILLS 400

typedef struct shared {
    _Atomic int stop;
    _Atomic int64_t acked[WRITERS];
    _Atomic int lives[WRITERS]; /* since it acknowledged, this one included */
    _Atomic uint64_t seen[WATCHERS]; /* last revision that was handled */
    _Atomic uint64_t sum[WATCHERS];  /* over what it saw */
    _Atomic int wrong[WATCHERS];
    char address[256];
} shared;

typedef struct role {
    shared *all;
    int which;
} role;

/* ---- writers ---- */

typedef struct step {
    int which;
    int64_t value;
} step;

static int
write_pair(zp_state *txn, void *user)
{
    step *s = user;
    char a[16], b[16];

    snprintf(a, sizeof a, "a%d", s->which);
    snprintf(b, sizeof b, "b%d", s->which);
    int rc = zp_increase(txn, a, &s->value, 1);
    return rc < 0 ? rc : zp_increase(txn, b, NULL, 1);
}

static int
be_writer(void *user)
{
    role *r = user;
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, r->all->address, NULL) != 0)
        return 1;
    r->all->lives[r->which]++;
    do {
        step s = {r->which, 0};
        int rc = zp_atomic(zp_ctx_state(mine), write_pair, &s);
        if (rc < 0)
            return 2;
        int64_t acked = r->all->acked[r->which];
        if (s.value <= acked || s.value > acked + r->all->lives[r->which])
            return 3; /* something acknowledged was lost, or is there twice */
        r->all->acked[r->which] = s.value;
        r->all->lives[r->which] = 1;
    } while (!r->all->stop);
    zp_ctx_free(mine);
    return 0;
}

/* ---- watchers ---- */

static int
is_whole(zp_state *snapshot, uint64_t *ret_sum)
{
    *ret_sum = 0;
    for (int i = 0; i < WRITERS; i++) {
        char a[16], b[16];
        int64_t x, y;
        snprintf(a, sizeof a, "a%d", i);
        snprintf(b, sizeof b, "b%d", i);
        if (zp_get_int(snapshot, a, &x) != 0 ||
            zp_get_int(snapshot, b, &y) != 0 || x != y)
            return 0;
        *ret_sum += (uint64_t)x;
    }
    return 1;
}

static int
give_up(role *r, int why)
{
    r->all->wrong[r->which] = why;
    return -1;
}

static int
on_pair(zp_watch *watch, const zp_event *event, void *user)
{
    role *r = user;
    shared *all = r->all;
    uint64_t sum;

    (void)watch;
    if (zp_event_kind(event) != ZP_CHANGED)
        return give_up(r, 1);
    if (zp_event_revision(event) != all->seen[r->which] + 1)
        return give_up(r, 2);
    if (zp_event_length(event) != 2)
        return give_up(r, 3);
    if (!is_whole(zp_event_snapshot(event), &sum))
        return give_up(r, 4);
    /* every transaction adds exactly one to the sum */
    if (sum != all->sum[r->which] + 1 && sum != all->sum[r->which])
        return give_up(r, 5);
    all->sum[r->which] = sum;
    all->seen[r->which] = zp_event_revision(event);
    return 0;
}

static int
be_watcher(void *user)
{
    role *r = user;
    zp_watch_options options = {.size = sizeof options,
                                .flags = ZP_SINCE,
                                .since = r->all->seen[r->which]};
    zp_ctx *mine;

    if (zp_ctx_attach(&mine, r->all->address, NULL) != 0)
        return 1;
    if (zp_call_when_change(zp_ctx_state(mine), NULL, NULL, 0, &options,
                            on_pair, r) != 0)
        return 2;
    return -zp_run(mine) & 0x7f;
}

/* ---- the killer ---- */

typedef struct player {
    pid_t pid;
    int (*fn)(void *user);
    role role;
} player;

static zp_ctx *ctx;

static void
start(player *p)
{
    p->pid = zp_test_fork(p->fn, &p->role);
}

static void
kill_player(player *p, shared *all)
{
    kill(p->pid, SIGKILL);
    int status = zp_test_wait(p->pid, 20);
    if (status != -SIGKILL) /* it had ended by itself: why? */
        print_message("# %s %d ended with %d (wrong: %d)\n",
                      p->fn == be_writer ? "writer" : "watcher", p->role.which,
                      status,
                      p->fn == be_watcher ? all->wrong[p->role.which] : 0);
    assert_int_equal(status, -SIGKILL);
    start(p);
}

static void
kill_server(void)
{
    zp_stats stats = {.size = sizeof stats};

    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    if (stats.server_pid != 0)
        kill((pid_t)stats.server_pid, SIGKILL);
}

static void
rest(unsigned *seed)
{
    struct timespec t = {0, 200000 + rand_r(seed) % 4000000};
    nanosleep(&t, NULL);
}

typedef struct reached {
    shared *all;
    uint64_t head;
} reached;

static bool
all_seen(void *user)
{
    reached *r = user;

    for (int i = 0; i < WATCHERS; i++)
        if (r->all->seen[i] != r->head)
            return false;
    return true;
}

static void
check_log(shared *all, uint64_t first, uint64_t head)
{
    zp_state *at;
    uint64_t sum, before = 0;

    for (uint64_t r = first; r <= head; r += 1 + (head - first) / 500) {
        assert_int_equal(zp_at(zp_ctx_state(ctx), &at, r), 0);
        assert_true(is_whole(at, &sum));
        assert_true(sum >= before);
        before = sum;
        zp_state_free(at);
    }
    assert_int_equal(zp_at(zp_ctx_state(ctx), &at, head), 0);
    assert_true(is_whole(at, &sum));
    for (int i = 0; i < WATCHERS; i++)
        assert_int_equal(all->sum[i], sum);
    zp_state_free(at);
}

static void
prepare(shared *all)
{
    zp_ctx_options options = {.size = sizeof options,
                              .log_revisions = 1 << 20,
                              .log_bytes = (uint64_t)600 << 20,
                              .max_bytes = (uint64_t)1 << 30};
    uint64_t revision;

    assert_int_equal(zp_ctx_new(&ctx, &options), 0);
    strcpy(all->address, zp_ctx_address(ctx));
    for (int i = 0; i < WRITERS; i++) {
        char key[16];
        snprintf(key, sizeof key, "a%d", i);
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), key, 0), 0);
        snprintf(key, sizeof key, "b%d", i);
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), key, 0), 0);
    }
    assert_int_equal(zp_revision(zp_ctx_state(ctx), &revision), 0);
    for (int i = 0; i < WATCHERS; i++)
        all->seen[i] = revision;
}

static void
settle(shared *all, player *players)
{
    reached r = {all, 0};

    all->stop = 1;
    for (int i = 0; i < WRITERS; i++) {
        int status = zp_test_wait(players[i].pid, 20);
        if (status != 0)
            print_message("# writer %d: %d\n", i, status);
        assert_int_equal(status, 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        char key[16];
        int64_t value;
        snprintf(key, sizeof key, "a%d", i);
        assert_int_equal(zp_get_int(zp_ctx_state(ctx), key, &value), 0);
        /* its last life but one may have committed and not said so */
        assert_in_range(value, all->acked[i], all->acked[i] + all->lives[i]);
    }
    assert_int_equal(zp_revision(zp_ctx_state(ctx), &r.head), 0);
    if (!zp_test_until(all_seen, &r, 40))
        fail_msg("seen %llu and %llu of %llu (wrong: %d %d)",
                 (unsigned long long)all->seen[0],
                 (unsigned long long)all->seen[1], (unsigned long long)r.head,
                 all->wrong[0], all->wrong[1]);
    for (int i = WRITERS; i < WRITERS + WATCHERS; i++) {
        kill(players[i].pid, SIGKILL);
        assert_int_equal(zp_test_wait(players[i].pid, 20), -SIGKILL);
    }
}

static void
test_chaos(void **state)
{
    const char *given = getenv("ZP_TEST_SEED");
    unsigned seed = given ? (unsigned)atoi(given)
                          : (unsigned)time(NULL) ^ (unsigned)getpid();
    shared *all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    player players[WRITERS + WATCHERS];
    int kills = (int)(KILLS / zp_test_slow());

    (void)state;
    print_message("# seed %u\n", seed);
    prepare(all);
    uint64_t first = all->seen[0];
    for (int i = 0; i < WRITERS + WATCHERS; i++) {
        bool writer = i < WRITERS;
        players[i] = (player){0,
                              writer ? be_writer : be_watcher,
                              {all, writer ? i : i - WRITERS}};
        start(&players[i]);
    }
    for (int i = 0; i < kills; i++) {
        unsigned dice = (unsigned)rand_r(&seed) % 8;
        rest(&seed);
        if (dice < WRITERS + WATCHERS)
            kill_player(&players[dice], all);
        else
            kill_server();
    }
    settle(all, players);
    check_log(all, first, all->seen[0]);
    print_message("# %llu transactions, %d kills\n",
                  (unsigned long long)(all->seen[0] - first), kills);
    ctx = zp_ctx_free(ctx);
    munmap(all, sizeof *all);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {ZP_TEST(test_chaos)};
    return zp_test_main("chaos", tests, 1, 120);
}
