/*
 * test_map_kill.c - workers are killed, in every way and at any moment, and a
 * map gives what a loop would have given; items that kill their workers are
 * given up, and no others; a caller that dies takes its workers with it. Nor
 * does it help a worker to lie.
 */
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "core/retry.h"
#include "reactors/swarm_wire.h"
#include "tests/api/mapping.h"

#define PROMISED (2 * zp_test_slow())

/* ---------------------------------------------------------------- killing --
 */

/* Kills our own children but the state's two, every few milliseconds, until
 * told to stop: a process by itself, so that whoever waits need not care. Some
 * at a time; then it waits for another result: however slow the machine is,
 * there is a worker now and then that lives so long. */
typedef struct killer {
    atomic_bool stop;
    atomic_int kills;
    atomic_llong results;
    pid_t spare[8]; /* not these: who was there before */
    pid_t pid;
} killer;

/* Seconds that have passed for the library, beside those that really have. */
static double skipped;
double __real_zp__now(void);
double __wrap_zp__now(void);

double
__wrap_zp__now(void)
{
    return __real_zp__now() + skipped;
}

static void
nap(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void
kill_one(killer *k, pid_t pid, unsigned short seed[3])
{
    static const int signals[] = {SIGKILL, SIGSEGV, SIGSTOP, SIGABRT, SIGTERM};
    int number = signals[(int)(erand48(seed) * 5)];

    for (int i = 0; i < 8; i++)
        if (pid == k->spare[i])
            return;
    if (kill(pid, number) < 0)
        return;
    atomic_fetch_add(&k->kills, 1);
    if (number == SIGSTOP) { /* silent for a moment, and then gone */
        nap(3);
        kill(pid, SIGKILL);
    }
}

static int
kill_children(void *user)
{
    unsigned short seed[3] = {7, 8, 9};
    pid_t parent = getppid(), self = getpid(), pids[64];
    long long seen = -1;
    killer *k = user;

    while (!atomic_load(&k->stop) && getppid() == parent) {
        nap(1 + (long)(erand48(seed) * 6));
        if (atomic_load(&k->results) == seen)
            continue;
        seen = atomic_load(&k->results);
        for (int some = (int)(erand48(seed) * 4); some >= 0; some--) {
            size_t n = zp_test_children(parent, pids, 64);
            pid_t one = n ? pids[(int)(erand48(seed) * (double)n)] : self;

            if (one != self)
                kill_one(k, one, seed);
        }
    }
    return 0;
}

/* From now on whatever CTX spawns is in danger. */
static killer *
start_killer(zp_ctx *ctx)
{
    killer *k = mmap(NULL, sizeof *k, PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    zp_pong pong;

    assert_true(k != MAP_FAILED);
    assert_ok(zp_ping(ctx, &pong, NULL, 0, SECONDS));
    assert_in_range(zp_test_children(getpid(), k->spare, 7), 1, 6);
    k->spare[7] = pong.server_pid;
    k->pid = zp_test_fork(kill_children, k);
    return k;
}

static int
stop_killer(killer *k)
{
    int kills = atomic_load(&k->kills);

    atomic_store(&k->stop, true);
    assert_int_equal(zp_test_wait(k->pid, 20), 0);
    munmap(k, sizeof *k);
    return kills;
}

/* ---------------------------------------------------------------- results --
 */

/* Some work that leaves a number, and now and then a large text. */
static uint64_t
hash_of(int64_t n)
{
    uint64_t x = (uint64_t)n + 0x9e3779b97f4a7c15u;

    for (int i = 0; i < 300; i++) {
        x ^= x >> 30;
        x *= 0xbf58476d1ce4e5b9u;
    }
    return x;
}

static uint32_t
size_of(int64_t n)
{
    return n % 50 ? 8 : (uint32_t)(n * 37 % 30000);
}

static int
work(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n = int_of(item);
    uint64_t hash = hash_of(n);
    zp_bin bin = {malloc(size_of(n) + 1), size_of(n)};
    int rc;

    (void)common;
    memset(bin.addr, (int)(n & 255), bin.sz);
    if (n % 97 == 5)
        nap(2);
    rc = n % 101 == 7 ? zp_fail(ctx, -EIO, "item %d", (int)n)
                      : zp_return(ctx, "IUB", &n, &hash, &bin);
    free(bin.addr);
    return rc;
}

static void
expect_work(const zp_map_result *result)
{
    int64_t n = (int64_t)result->index, got = -1;
    zp_bin bin = {NULL, 0};
    char text[40];
    uint64_t hash;

    if (n % 101 == 7) {
        snprintf(text, sizeof text, "item %d", (int)n);
        assert_int_equal(result->code, -EIO);
        assert_string_equal(result->error, text);
        return;
    }
    if (result->code < 0)
        fail_msg("item %d: %s (%s)", (int)n, zp_strerror(result->code),
                 result->error);
    assert_ok(zp_value_get(result->value, "IUB", &got, &hash, &bin));
    assert_int_equal(got, n);
    assert_true(hash == hash_of(n));
    assert_int_equal(bin.sz, size_of(n));
    for (uint32_t i = 0; i < bin.sz; i++)
        assert_int_equal(((unsigned char *)bin.addr)[i], n & 255);
    free(bin.addr);
}

/* Until there were enough kills, whatever the machine: an endless map. */
static void
map_under_fire(unsigned flags, size_t window, int kills)
{
    zp_ctx *ctx = new_ctx(NULL);
    killer *k = start_killer(ctx);
    numbers from = {.end = -1, .each = 9};
    zp_mapping *map = map_numbers(
        ctx, MAP(.count = 3, .flags = flags, .window = window, .tries = 1000),
        work, &from);
    zp_map_result result = {.size = sizeof result};
    int64_t n = 0, sum = 0;
    int rc;

    for (; atomic_load(&k->kills) < kills; n++) {
        result = next_of(map);

        if (!(flags & ZP_UNORDERED))
            assert_int_equal(result.index, n);
        expect_work(&result);
        atomic_fetch_add(&k->results, 1);
        sum += (int64_t)result.index;
    }
    from.end = from.next + 1; /* and now it comes to its end */
    while ((rc = zp_map_next(map, &result, SECONDS)) == 1) {
        expect_work(&result);
        atomic_fetch_add(&k->results, 1);
        sum += (int64_t)result.index;
        n++;
    }
    assert_ok(rc);
    stop_killer(k);
    assert_int_equal(n, from.end);
    assert_int_equal(sum, n * (n - 1) / 2); /* each of them once */
    assert_ok(zp_map_next(map, NULL, SECONDS));
    assert_true(progress_of(map).again > 0);
    assert_int_equal(progress_of(map).code, 0);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static int
kills_wanted(void)
{
    return zp_test_valgrind() ? 5 : zp_test_instrumented() ? 20 : 40;
}

static void
test_kills_in_order(void **state)
{
    (void)state;
    map_under_fire(0, 0, kills_wanted());
}

static void
test_kills_as_they_are_done(void **state)
{
    (void)state;
    map_under_fire(ZP_UNORDERED, 0, kills_wanted());
}

static void
test_kills_with_a_small_window(void **state)
{
    (void)state;
    map_under_fire(0, 40, kills_wanted());
}

/* All workers at once, again and again. */
static void
test_all_workers_at_once(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = (int64_t)(6000 / zp_test_slow()), .each = 5};
    pid_t spare[8], pids[64];
    zp_mapping *map;
    size_t n_spare;

    (void)state;
    n_spare = zp_test_children(getpid(), spare, 8);
    map = map_numbers(ctx, MAP(.count = 4, .tries = 1000), work, &from);
    for (int64_t i = 0; i < from.end; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(result.index, i);
        expect_work(&result);
        if (i % (from.end / 15) != 5)
            continue;
        for (size_t k = 0, n = zp_test_children(getpid(), pids, 64); k < n;
             k++) {
            bool spared = false;

            for (size_t j = 0; j < n_spare; j++)
                spared |= pids[k] == spare[j];
            if (!spared)
                kill(pids[k], SIGKILL);
        }
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* Item 0 waits, and kills its worker the first time; the others leave much. */
static int
first_dies_late(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    static char text[10000];
    zp_bin bin = {text, sizeof text};
    int64_t times = 0;

    if (int_of(item) == 0) {
        int rc = zp_increase(zp_ctx_state(ctx), "begun", &times, 1);

        if (rc == 0 && times == 1)
            rc = first_waits(ctx, item, common);
        if (rc < 0 || times == 1)
            raise(SIGKILL);
    }
    return zp_return(ctx, "B", &bin);
}

static bool
some_are_done(void *user)
{
    zp_mapping *map = user;

    (void)zp_map_next(map, NULL, 0); /* none yet, but the loop has its turn */
    return progress_of(map).done >= 9;
}

/* What has to be done again, and is waited for, comes before all that was never
 * begun: else the window would overflow. */
static void
test_what_is_waited_for_comes_first(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 1000, .each = 1000};
    zp_value *common;
    zp_mapping *map;
    zp_sync sync;

    (void)state;
    zp_sync_open(&sync);
    common = new_sync_value(&sync);
    assert_ok(zp_set_int(zp_ctx_state(ctx), "begun", 0));
    map = map_numbers(ctx,
                      MAP(.count = 2, .chunk = 1, .window_bytes = 150 << 10,
                          .common = common),
                      first_dies_late, &from);
    assert_true(zp_test_until(some_are_done, map, SECONDS));
    assert_int_equal(progress_of(map).read, 0);
    zp_sync_post(&sync);
    assert_int_equal(next_of(map).index, 0);
    assert_in_range(progress_of(map).done, 10, 100);
    for (uint64_t i = 1; i < 1000; i++)
        assert_int_equal(next_of(map).index, i);
    assert_ok(zp_map_next(map, NULL, SECONDS));
    zp_map_free(map);
    zp_value_free(common);
    zp_sync_close(&sync);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- nonsense --
 */

/* Workers that are forked now say more than is true. */
static bool nonsense;
int __real_zp__wire_send(void *socket, const zp__name *name, const void *head,
                         size_t head_size, const void *body, size_t size,
                         zp__message_free_fn *free_fn, void *hint);
int __wrap_zp__wire_send(void *socket, const zp__name *name, const void *head,
                         size_t head_size, const void *body, size_t size,
                         zp__message_free_fn *free_fn, void *hint);

static void
say(void *socket, zp__report report, const void *body, size_t size)
{
    (void)__real_zp__wire_send(socket, NULL, &report, sizeof report, body, size,
                               NULL, NULL);
}

/* Of another task, of items that were told of or do not come next, of too many
 * of them, of no cell, of no kind, of another size. */
static void
talk_nonsense(void *socket, zp__report told, const void *body, size_t size)
{
    zp__report other = told;

    other.task++;
    say(socket, other, body, size);
    other.task -= 2;
    say(socket, other, body, size);
    other = told;
    other.from++;
    say(socket, other, body, size);
    other.from -= 2;
    say(socket, other, body, size);
    other = told;
    other.n += 1u << 17;
    say(socket, other, body, size);
    other = told;
    other.cell = 64;
    say(socket, other, body, size);
    other.cell = UINT32_MAX;
    say(socket, other, body, size);
    other = told;
    other.kind = 99;
    say(socket, other, body, size);
    (void)__real_zp__wire_send(socket, NULL, &told, 4, body, size, NULL, NULL);
}

int
__wrap_zp__wire_send(void *socket, const zp__name *name, const void *head,
                     size_t head_size, const void *body, size_t size,
                     zp__message_free_fn *free_fn, void *hint)
{
    static const double times[] = {NAN, -1, INFINITY, 1e300, 0};
    static unsigned said;
    zp__report told;

    if (!nonsense || name || head_size != sizeof told)
        return __real_zp__wire_send(socket, name, head, head_size, body, size,
                                    free_fn, hint);
    memcpy(&told, head, sizeof told);
    if (told.kind == ZP__REPORT_DONE) {
        talk_nonsense(socket, told, body, size);
        told.seconds = times[said++ % 5];
        if (said % 16 == 0 && size) /* and ends by a KILL */
            say(socket, told, body, size - 1);
    }
    return __real_zp__wire_send(socket, name, &told, sizeof told, body, size,
                                free_fn, hint);
}

static int
add_attempts(const zp_process *process, void *user)
{
    *(unsigned *)user += process->attempts;
    return 0;
}

static void
test_workers_that_talk_nonsense(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 400, .each = 3};
    unsigned attempts = 0;
    zp_mapping *map;

    (void)state;
    nonsense = true;
    map = map_numbers(ctx, MAP(.count = 3, .chunk = 2, .tries = 1000), work,
                      &from);
    for (int64_t i = 0; i < from.end; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(result.index, i);
        expect_work(&result);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    assert_int_equal(progress_of(map).done, from.end);
    assert_ok(zp_each_process(ctx, add_attempts, &attempts));
    assert_true(attempts > 3); /* some were killed */
    nonsense = false;
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ poison, once --
 */

/* Counts in the state how often it was begun, under the item's number; of a
 * hundred some kill their worker. */
static int
count_and_die(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t n = int_of(item), each = int_of(common);
    char key[30];
    int rc;

    snprintf(key, sizeof key, "begun.%d", (int)n);
    rc = zp_increase(zp_ctx_state(ctx), key, NULL, 1);
    if (rc == 0 && n % each == each / 2)
        raise(n % 2 ? SIGKILL : SIGSEGV);
    return rc < 0 ? rc : zp_return(ctx, "I", &n);
}

static zp_mapping *
start_counting(zp_ctx *ctx, const zp_map_options *options, zp_map_fn *fn,
               numbers *from, int64_t each)
{
    zp_map_options own = *options;
    zp_value *common = NULL;
    zp_mapping *map;
    char key[30];

    for (int64_t i = 0; i < from->end; i++) {
        snprintf(key, sizeof key, "begun.%d", (int)i);
        assert_ok(zp_set_int(zp_ctx_state(ctx), key, 0));
    }
    assert_ok(zp_value_new(&common, "I", &each));
    own.common = common;
    map = map_numbers(ctx, &own, fn, from);
    zp_value_free(common);
    return map;
}

static int64_t
begun(zp_ctx *ctx, int64_t n)
{
    char key[30];
    int64_t times = -1;

    snprintf(key, sizeof key, "begun.%d", (int)n);
    assert_ok(zp_get_int(zp_ctx_state(ctx), key, &times));
    return times;
}

static void
poison(size_t count, unsigned tries, int64_t n)
{
    zp_ctx *ctx = new_ctx(NULL);
    int64_t each = n < 50 ? n : 50;
    numbers from = {.end = n};
    zp_mapping *map = start_counting(ctx, MAP(.count = count, .tries = tries),
                                     count_and_die, &from, each);
    unsigned expected = tries ? tries : 5;
    int64_t begun_in_all = 0;
    char times[20];

    snprintf(times, sizeof times, "%u times", expected);
    for (int64_t i = 0; i < n; i++) {
        zp_map_result result = next_of(map);

        assert_int_equal(result.index, i);
        if (i % each == each / 2) {
            assert_int_equal(result.code, ZP_EPOISON);
            assert_has(result.error, times);
            assert_has(result.error, "signal");
            assert_int_equal(begun(ctx, i), expected);
            continue;
        }
        assert_int_equal(result.code, 0);
        assert_int_equal(int_of(result.value), i);
        assert_true(begun(ctx, i) >= 1);
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    assert_int_equal(progress_of(map).failed, n / each);
    for (int64_t i = 0; i < n; i++)
        begun_in_all += begun(ctx, i);
    assert_int_equal(begun_in_all - (int64_t)progress_of(map).again,
                     n - n / each);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* Failures of workers that do not make the next one wait longer. */
static unsigned forgiven;
double __real_zp__retry_forgive(zp__retry *retry);
double __wrap_zp__retry_forgive(zp__retry *retry);

double
__wrap_zp__retry_forgive(zp__retry *retry)
{
    forgiven++;
    return __real_zp__retry_forgive(retry);
}

static void
test_poison(void **state)
{
    int64_t n = zp_test_instrumented() ? 100 : 400;

    (void)state;
    poison(3, 1, n);
    poison(3, 2, n);
    poison(3, 0, n);
    forgiven = 0;
    poison(1, zp_test_instrumented() ? 10 : 80, 10);
    assert_in_range(forgiven, zp_test_instrumented() ? 10 : 80, 1000);
}

/* Whatever dies, no item is begun a second time. */
static void
once(int64_t n, int64_t each, bool fire)
{
    zp_ctx *ctx = new_ctx(NULL);
    killer *k = fire ? start_killer(ctx) : NULL;
    numbers from = {.end = n, .each = 3};
    zp_mapping *map = start_counting(ctx, MAP(.count = 3, .flags = ZP_ONCE),
                                     count_and_die, &from, each);
    int64_t lost = 0;

    for (int64_t i = 0; i < n; i++) {
        zp_map_result result = next_of(map);

        if (k)
            atomic_fetch_add(&k->results, 1);
        assert_int_equal(result.index, i);
        assert_in_range(begun(ctx, i), 0, 1);
        if (result.code == 0) {
            assert_int_equal(int_of(result.value), i);
            assert_int_equal(begun(ctx, i), 1);
            assert_true(i % each != each / 2);
            continue;
        }
        if (result.code != ZP_ELOST)
            fail_msg("item %d: %s: %s", (int)i, zp_strerror(result.code),
                     result.error);
        assert_has(result.error, "map-");
        lost++;
    }
    assert_ok(zp_map_next(map, NULL, SECONDS));
    assert_int_equal(progress_of(map).failed, lost);
    assert_true(lost >= n / each);
    if (fire)
        stop_killer(k);
    for (int64_t i = 0; i < n; i++)
        assert_in_range(begun(ctx, i), 0, 1);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void
test_once(void **state)
{
    int64_t n = zp_test_instrumented() ? 150 : 1000;

    (void)state;
    once(n, 50, false);
    once(n, 1000000, true);
    once(n, 50, true);
}

/* -------------------------------------------------------------- stillborn --
 */

/* So many of those who are forked next die before they do anything; or, with a
 * negative number, one does nothing, as if it waited for a lock. */
static atomic_int *stillborn;

static void
at_birth(void)
{
    if (stillborn && atomic_load(stillborn) < 0) {
        atomic_store(stillborn, 0);
        for (;;)
            pause();
    }
    if (stillborn && atomic_load(stillborn) > 0) {
        atomic_fetch_sub(stillborn, 1);
        _exit(9);
    }
}

static void
set_stillborn(int n)
{
    if (!stillborn) {
        stillborn = mmap(NULL, sizeof *stillborn, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(stillborn != MAP_FAILED);
        assert_int_equal(pthread_atfork(NULL, NULL, at_birth), 0);
    }
    atomic_store(stillborn, n);
}

static void
test_workers_that_die_at_birth(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 100};
    zp_mapping *map;
    int64_t got = -1;

    (void)state;
    set_stillborn(INT_MAX);
    map = map_numbers(ctx, MAP(.count = 2), square, &from);
    assert_returns(zp_map_get(map, SECONDS, "I", &got), ZP_ECRASHLOOP);
    assert_has(zp_ctx_error(ctx), "map-");
    assert_has(zp_ctx_error(ctx), "9");
    assert_returns(zp_map_wait(map, -1), ZP_ECRASHLOOP);
    assert_int_equal(progress_of(map).code, ZP_ECRASHLOOP);
    zp_map_free(map);
    expect_processes(ctx, 0);
    assert_ok(zp_spawn_map(ctx, &map, MAP(.count = 2, .tries = 3), square,
                           give_numbers, &from));
    assert_returns(zp_map_get(map, SECONDS, "I", &got), ZP_ECRASHLOOP);
    zp_map_free(map);
    set_stillborn(0);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* A bad start is not the end; nor are some deaths in between. */
static void
test_some_workers_die_at_birth(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 100};
    zp_mapping *map;

    (void)state;
    set_stillborn(8);
    map = map_numbers(ctx, MAP(.count = 2), square, &from);
    expect_squares(map, 0, 100, 0);
    assert_int_equal(atomic_load(stillborn), 0);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static bool
is_held(void *user)
{
    assert_true(zp_ctx_dispatch(user) >= 0);
    return atomic_load(stillborn) == 0;
}

/* Another one comes when it was awaited for long. */
static void
never_up(int (*start)(zp_ctx *ctx, zp_mapping **ret_map,
                      const zp_map_options *options, zp_map_fn *fn,
                      zp_map_source_fn *source, void *user))
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 20};
    zp_mapping *map;

    set_stillborn(-1);
    assert_ok(start(ctx, &map, MAP(.count = 1), square, give_numbers, &from));
    assert_true(zp_test_until(is_held, ctx, SECONDS));
    skipped += 11;
    expect_squares(map, 0, 20, 0);
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

static void
test_a_worker_that_never_comes_up(void **state)
{
    (void)state;
    never_up(zp_map);
    never_up(zp_spawn_map);
}

static int
kills_itself(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    (void)ctx;
    (void)item;
    (void)common;
    return raise(SIGKILL);
}

/* A swarm whose workers cannot be replaced says so to all of its maps. */
static void
test_a_swarm_that_cannot_go_on(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_swarm *swarm = new_swarm(ctx, 2);
    numbers from = {.end = 100};
    zp_mapping *map = swarm_numbers(swarm, NULL, square, &from);

    (void)state;
    expect_squares(map, 0, 100, 0);
    zp_map_free(map);
    from = (numbers){.end = 100};
    map = swarm_numbers(swarm, MAP(.tries = 1000), kills_itself, &from);
    set_stillborn(INT_MAX);
    assert_returns(zp_map_next(map, NULL, SECONDS), ZP_ECRASHLOOP);
    zp_map_free(map);
    assert_returns(zp_swarm_map(swarm, &map, NULL, square, NULL, NULL),
                   ZP_ECRASHLOOP);
    set_stillborn(0);
    assert_ok(zp_swarm_stop(swarm, 0));
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------- forks that fail --
 */

/* The library's forks fail, so many of them; and time that passes with each. */
static int failing_forks;
static double fork_takes;
pid_t __real_fork(void);
pid_t __wrap_fork(void);

pid_t
__wrap_fork(void)
{
    if (failing_forks <= 0)
        return __real_fork();
    failing_forks--;
    skipped += fork_takes;
    errno = EAGAIN;
    return -1;
}

static int
dies_once(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    int64_t times;

    if (int_of(item) == 20 &&
        zp_increase(zp_ctx_state(ctx), "begun", &times, 1) == 0 && times == 1)
        raise(SIGKILL);
    return square(ctx, item, common);
}

/* A worker dies and cannot be replaced for a while: the other one does it all,
 * and when there can be new ones there are. */
static void
test_forks_that_fail(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int64_t n = zp_test_valgrind() ? 300 : 3000;
    numbers from = {.end = n, .each = 3};
    zp_swarm *swarm = new_swarm(ctx, 2), *other = NULL;
    zp_mapping *map = NULL;

    (void)state;
    assert_ok(zp_set_int(zp_ctx_state(ctx), "begun", 0));
    failing_forks = INT_MAX;
    assert_returns(zp_swarm_resize(swarm, 5), -EAGAIN);
    assert_in_range(zp_swarm_count(swarm), 2, 5);
    assert_returns(zp_swarm_new(ctx, &other, SWARM(.count = 2)), -EAGAIN);
    assert_null(other);
    assert_returns(zp_map(ctx, &map, NULL, square, give_numbers, &from),
                   -EAGAIN);
    assert_null(map);
    assert_int_equal(count_processes(ctx), 2);
    map = swarm_numbers(swarm, NULL, dies_once, &from);
    for (int64_t i = 0; i < n / 2; i++)
        assert_int_equal(int_of(next_of(map).value), i * i);
    failing_forks = 0;
    expect_squares(map, n / 2, n, 0);
    assert_int_equal(progress_of(map).again > 0, 1);
    assert_ok(zp_swarm_resize(swarm, 3));
    expect_processes(ctx, 3);
    zp_map_free(map);
    zp_swarm_free(swarm);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* With a process for each item nothing can be done but try again; and in the
 * end to say so. */
static void
test_forks_that_fail_for_each_item(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    numbers from = {.end = 20};
    zp_mapping *map = NULL;

    (void)state;
    failing_forks = 3;
    assert_ok(
        zp_spawn_map(ctx, &map, MAP(.count = 4), square, give_numbers, &from));
    expect_squares(map, 0, 20, 0);
    assert_int_equal(failing_forks, 0);
    zp_map_free(map);
    failing_forks = INT_MAX;
    from.next = 0;
    assert_ok(
        zp_spawn_map(ctx, &map, MAP(.count = 4), square, give_numbers, &from));
    fork_takes = 1;
    assert_returns(zp_map_next(map, NULL, SECONDS), -EAGAIN);
    fork_takes = 0;
    failing_forks = 0;
    zp_map_free(map);
    expect_processes(ctx, 0);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------------------- callers --
 */

static zp_sync up;

static int
posts_and_stays(zp_ctx *ctx, const zp_value *item, const zp_value *common)
{
    signal(SIGTERM, SIG_IGN);
    zp_sync_post(&up);
    return never_ends(ctx, item, common);
}

static int
open_up(void **state)
{
    (void)state;
    zp_sync_open(&up);
    return 0;
}

static int
close_up(void **state)
{
    (void)state;
    zp_sync_close(&up);
    return 0;
}

/* A map, a swarm and a process for each item: 6 that are busy. */
static int
maps_for_ever(zp_ctx *ctx, void *arg)
{
    numbers one = {.end = 2}, two = one, three = one;
    zp_mapping *maps[3];
    zp_swarm *swarm;

    (void)arg;
    swarm = new_swarm(ctx, 2);
    maps[0] = map_numbers(ctx, MAP(.count = 2), posts_and_stays, &one);
    maps[1] = swarm_numbers(swarm, NULL, posts_and_stays, &two);
    assert_ok(zp_spawn_map(ctx, &maps[2], NULL, posts_and_stays, give_numbers,
                           &three));
    return zp_map_wait(maps[0], -1);
}

static int
caller(void *user)
{
    static zp_ctx *ctx; /* reachable to the end */

    ctx = new_ctx(NULL);
    return maps_for_ever(ctx, user) < 0;
}

static bool
nobody(void *user)
{
    (void)user;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
    return zp_test_descendants(NULL, 0) == 0;
}

static void
test_a_caller_that_dies(void **state)
{
    pid_t pid = zp_test_fork(caller, NULL);
    double died;

    (void)state;
    for (int i = 0; i < 6; i++)
        zp_sync_wait(&up, SECONDS);
    kill(pid, SIGKILL);
    died = zp_test_now();
    assert_int_equal(zp_test_wait(pid, 20), -SIGKILL);
    assert_true(zp_test_until(nobody, NULL, 20));
    if (zp_test_now() - died > PROMISED)
        fail_msg("its workers were there %g s longer", zp_test_now() - died);
}

/* It is a child itself; the state goes on. */
static void
test_a_child_that_dies_with_its_maps(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc = spawn(ctx, NULL, maps_for_ever, NULL);
    double died;

    (void)state;
    for (int i = 0; i < 6; i++)
        zp_sync_wait(&up, SECONDS);
    assert_int_equal(count_processes(ctx), 7);
    kill(zp_proc_pid(proc), SIGKILL);
    died = zp_test_now();
    result_of(proc, ZP_EFAILED);
    expect_processes(ctx, 0);
    if (zp_test_now() - died > PROMISED)
        fail_msg("its workers were there %g s longer", zp_test_now() - died);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_kills_in_order),
        ZP_TEST(test_kills_as_they_are_done),
        ZP_TEST(test_kills_with_a_small_window),
        ZP_TEST(test_all_workers_at_once),
        ZP_TEST(test_what_is_waited_for_comes_first),
        ZP_TEST(test_workers_that_talk_nonsense),
        ZP_TEST(test_poison),
        ZP_TEST(test_once),
        ZP_TEST(test_workers_that_die_at_birth),
        ZP_TEST(test_some_workers_die_at_birth),
        ZP_TEST(test_a_worker_that_never_comes_up),
        ZP_TEST(test_a_swarm_that_cannot_go_on),
        ZP_TEST(test_forks_that_fail),
        ZP_TEST(test_forks_that_fail_for_each_item),
        ZP_TEST_WITH(test_a_caller_that_dies, open_up, close_up),
        ZP_TEST_WITH(test_a_child_that_dies_with_its_maps, open_up, close_up),
    };

    return zp_test_main("map_kill", tests, sizeof tests / sizeof *tests, 30);
}
