/*
 * test_plain_fork.c - children that the application forks by itself.
 *
 * What they inherited is dead; but they may make contexts of their own, also
 * on the very state that their parent has open. LMDB's environment must not be
 * shared over the fork then: the child's read transactions would stand under
 * the parent's pid, and would be cleared, or kept, with it.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <zp.h>

struct family {
    zp_ctx *ctx;
    char address[256];
    zp_sync ready, go_on;
};

static void
make(struct family *family)
{
    memset(family, 0, sizeof *family);
    assert_int_equal(zp_ctx_new(&family->ctx, NULL), 0);
    strcpy(family->address, zp_ctx_address(family->ctx));
    assert_int_equal(zp_set_int(zp_ctx_state(family->ctx), "n", 0), 0);
    zp_sync_open(&family->ready);
    zp_sync_open(&family->go_on);
}

static void
unmake(struct family *family)
{
    zp_sync_close(&family->ready);
    zp_sync_close(&family->go_on);
    zp_ctx_free(family->ctx);
}

static int
use_inherited(void *user)
{
    struct family *family = user;
    zp_state *state = zp_ctx_state(family->ctx);
    zp_stats stats = {.size = sizeof stats};

    assert_null(state);
    assert_null(zp_ctx_address(family->ctx));
    assert_int_equal(zp_ctx_stats(family->ctx, &stats), ZP_EFORK);
    assert_int_equal(zp_run(family->ctx), ZP_EFORK);
    assert_null(zp_ctx_free(family->ctx));
    return 7;
}

static void
test_what_is_inherited_is_dead(void **state)
{
    struct family family;
    int64_t n = -1;

    (void)state;
    make(&family);
    assert_int_equal(zp_test_wait(zp_test_fork(use_inherited, &family), 10), 7);
    assert_int_equal(zp_get_int(zp_ctx_state(family.ctx), "n", &n), 0);
    assert_int_equal(n, 0);
    unmake(&family);
}

/* Keeps a snapshot until it is told to go on: the oldest reader is known by
 * its own pid. */
static int
attach_and_read(void *user)
{
    struct family *family = user;
    zp_ctx *ctx;
    zp_state *then;
    zp_stats stats = {.size = sizeof stats};

    assert_int_equal(zp_ctx_attach(&ctx, family->address, NULL), 0);
    assert_int_equal(zp_snapshot(zp_ctx_state(ctx), &then), 0);
    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    assert_int_equal(stats.oldest_reader, getpid());
    assert_int_equal(zp_increase(zp_ctx_state(ctx), "n", NULL, 1), 0);
    zp_sync_post(&family->ready);
    zp_sync_wait(&family->go_on, 10);
    zp_state_free(then);
    zp_ctx_free(ctx);
    assert_null(zp_ctx_free(family->ctx)); /* still harmless */
    return 0;
}

static void
test_attaching_opens_anew(void **state)
{
    struct family family;
    zp_stats stats = {.size = sizeof stats};
    int64_t n = -1;
    pid_t pid;

    (void)state;
    make(&family);
    pid = zp_test_fork(attach_and_read, &family);
    zp_sync_wait(&family.ready, 10);
    assert_int_equal(zp_ctx_stats(family.ctx, &stats), 0);
    assert_int_equal(stats.oldest_reader, pid);
    assert_int_equal(zp_increase(zp_ctx_state(family.ctx), "n", &n, 1), 0);
    assert_int_equal(n, 2);
    zp_sync_post(&family.go_on);
    assert_int_equal(zp_test_wait(pid, 10), 0);
    assert_int_equal(zp_increase(zp_ctx_state(family.ctx), "n", &n, 1), 0);
    assert_int_equal(n, 3);
    unmake(&family);
}

/* Descriptors that the library holds for FAMILY's context are not in the way
 * of those of a context in the child, and no more of them stay open. */
static int
count_open(void *user)
{
    struct family *family = user;
    zp_ctx *ctx;
    int first, again;

    assert_int_equal(zp_ctx_attach(&ctx, family->address, NULL), 0);
    zp_ctx_free(ctx);
    first = zp_test_open_fds();
    assert_int_equal(zp_ctx_attach(&ctx, family->address, NULL), 0);
    zp_ctx_free(ctx);
    again = zp_test_open_fds();
    assert_int_equal(first, again);
    return 0;
}

static void
test_what_was_inherited_is_closed(void **state)
{
    struct family family;

    (void)state;
    make(&family);
    assert_int_equal(zp_test_wait(zp_test_fork(count_open, &family), 10), 0);
    unmake(&family);
}

static int
add_ones(zp_ctx *ctx, void *arg)
{
    (void)arg;
    for (int i = 0; i < 100; i++)
        if (zp_increase(zp_ctx_state(ctx), "n", NULL, 1) < 0)
            return -EIO;
    return 0;
}

/* A whole program in the child: a state of its own, and children. */
static int
start_over(void *user)
{
    zp_ctx *ctx;
    zp_proc *proc;
    int64_t n;

    (void)user;
    assert_int_equal(zp_ctx_new(&ctx, NULL), 0);
    assert_int_equal(zp_set_int(zp_ctx_state(ctx), "n", 0), 0);
    assert_int_equal(zp_spawn(ctx, &proc, NULL, add_ones, NULL), 0);
    assert_int_equal(zp_wait(proc, NULL, 10), 0);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "n", &n), 0);
    assert_int_equal(n, 100);
    zp_ctx_free(ctx);
    return 0;
}

static void
test_a_state_of_its_own(void **state)
{
    struct family family;
    int64_t n = -1;

    (void)state;
    make(&family);
    assert_int_equal(zp_test_wait(zp_test_fork(start_over, &family), 20), 0);
    assert_int_equal(zp_get_int(zp_ctx_state(family.ctx), "n", &n), 0);
    assert_int_equal(n, 0);
    unmake(&family);
}

static int
owns(void *user)
{
    struct family *family = user;
    zp_ctx_options options = {.size = sizeof options, .name = "forks"};

    assert_int_equal(zp_ctx_new(&family->ctx, &options), 0);
    zp_sync_post(&family->ready);
    zp_sync_wait(&family->go_on, 60 * zp_test_slow());
    zp_ctx_free(family->ctx);
    return 0;
}

static int
attaches(void *user)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_attach(&ctx, "forks", NULL);

    (void)user;
    zp_ctx_free(ctx);
    return rc == 0 ? 0 : 1;
}

static atomic_bool enough;

static void *
attach_again_and_again(void *user)
{
    while (!atomic_load(&enough))
        if (attaches(user) != 0)
            return user;
    return NULL;
}

/* Forks while another thread opens and closes: whatever lock it has in that
 * moment, nobody in the child will give it back. */
static void
test_fork_while_attaching(void **state)
{
    struct family family = {0};
    void *failed = NULL;
    pthread_t thread;
    pid_t owner;

    (void)state;
    if (zp_test_instrumented()) /* their allocators have locks, too; and what
                                   the other thread had is lost to the child */
        skip();
    zp_sync_open(&family.ready);
    zp_sync_open(&family.go_on);
    owner = zp_test_fork(owns, &family);
    zp_sync_wait(&family.ready, 20);
    atomic_store(&enough, false);
    assert_int_equal(
        pthread_create(&thread, NULL, attach_again_and_again, &family), 0);
    for (int i = 0; i < 100 / zp_test_slow(); i++)
        assert_int_equal(zp_test_wait(zp_test_fork(attaches, NULL), 10), 0);
    atomic_store(&enough, true);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    zp_sync_post(&family.go_on);
    assert_int_equal(zp_test_wait(owner, 20), 0);
    zp_sync_close(&family.ready);
    zp_sync_close(&family.go_on);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_what_is_inherited_is_dead),
        ZP_TEST(test_attaching_opens_anew),
        ZP_TEST(test_what_was_inherited_is_closed),
        ZP_TEST(test_a_state_of_its_own),
        ZP_TEST(test_fork_while_attaching),
    };
    return zp_test_main("plain_fork", tests, sizeof tests / sizeof *tests, 60);
}
