/*
 * test_process_list.c - the processes of a state, told to anybody: which there
 * are, what became of them, what they left; whatever is done meanwhile.
 */
#include "tests/api/spawning.h"

static zp_proc *
spawn_named(zp_ctx *ctx, const char *name, const char *ns, zp_proc_fn *fn,
            void *arg)
{
    return spawn(ctx, SPAWN(.name = name, .ns = ns), fn, arg);
}

/* ------------------------------------------------------------- children -- */

static int
spawns_one_that_sleeps(zp_ctx *ctx, void *arg)
{
    spawn_named(ctx, "inner", NULL, sleeps, arg);
    return sleeps(ctx, NULL);
}

static int
returns_text(zp_ctx *ctx, void *arg)
{
    return zp_return(ctx, "s", &arg);
}

static int
returns_nothing(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 3;
}

static int
fails(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_fail(ctx, -EIO, "no %s", "luck");
}

/* -------------------------------------------------------------- listing -- */

/* What was told, copied. */
struct told {
    unsigned n;
    struct one {
        zp_process process;
        char name[80], ns[40], error[600], origin[300];
    } all[16];
};

static int
remember(const zp_process *process, void *user)
{
    struct told *told = user;
    struct one *one = &told->all[told->n++];

    assert_true(told->n <= 16);
    one->process = *process;
    snprintf(one->name, sizeof one->name, "%s", process->name);
    snprintf(one->ns, sizeof one->ns, "%s", process->ns);
    snprintf(one->error, sizeof one->error, "%s", process->error);
    snprintf(one->origin, sizeof one->origin, "%s", process->origin);
    return 0;
}

static struct told *
list(zp_ctx *ctx)
{
    static struct told told;
    int rc;

    memset(&told, 0, sizeof told);
    rc = zp_each_process(ctx, remember, &told);
    if (rc != 0)
        fail_msg("zp_each_process: %s: %s", zp_strerror(rc), zp_ctx_error(ctx));
    for (unsigned i = 1; i < told.n; i++)
        assert_true(told.all[i].process.id > told.all[i - 1].process.id);
    return &told;
}

static uint64_t
id_of(zp_ctx *ctx, const char *name)
{
    struct told *told = list(ctx);

    for (unsigned i = 0; i < told->n; i++)
        if (strcmp(told->all[i].name, name) == 0)
            return told->all[i].process.id;
    fail_msg("no process named %s", name);
    return 0;
}

/* ---------------------------------------------------------------- tests -- */

/* Every field, of those that run and of those that have ended. */
static void
test_fields(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_sync sync;
    zp_proc *tree, *good, *bad;
    struct told *told;

    (void)state;
    assert_int_equal(list(ctx)->n, 0);
    zp_sync_open(&sync);
    tree = spawn_named(ctx, "tree", "elsewhere", spawns_one_that_sleeps, &sync);
    zp_sync_wait(&sync, SECONDS);
    good = spawn_named(ctx, "good", NULL, returns_text,
                       (void *)(uintptr_t) "text");
    assert_int_equal(zp_wait(good, NULL, SECONDS), 0);
    bad = spawn_named(ctx, NULL, NULL, fails, NULL);
    assert_int_equal(zp_wait(bad, NULL, SECONDS), ZP_EFAILED);

    told = list(ctx);
    assert_int_equal(told->n, 4);
    const struct one *one = &told->all[0];
    assert_string_equal(one->name, "tree");
    assert_string_equal(one->ns, "elsewhere");
    assert_int_equal(one->process.size, sizeof one->process);
    assert_int_equal(one->process.state, ZP_PROC_RUNNING);
    assert_int_equal(one->process.pid, zp_proc_pid(tree));
    assert_int_equal(one->process.parent, getpid());
    assert_int_equal(one->process.parent_id, 0);
    assert_int_equal(one->process.depth, 1);
    assert_int_equal(one->process.attempts, 1);
    assert_true(one->process.spawned > 1e9);
    assert_true(one->process.started >= one->process.spawned);
    assert_true(one->process.ended == 0);
    assert_false(one->process.has_result);

    one = &told->all[1];
    assert_string_equal(one->name, "inner");
    assert_string_equal(one->ns, "elsewhere");
    assert_int_equal(one->process.parent, zp_proc_pid(tree));
    assert_true(one->process.parent_id == told->all[0].process.id);
    assert_int_equal(one->process.depth, 2);

    one = &told->all[2];
    assert_string_equal(one->name, "good");
    assert_string_equal(one->ns, "default");
    assert_int_equal(one->process.state, ZP_PROC_ENDED);
    assert_int_equal(one->process.pid, zp_proc_pid(good));
    assert_true(one->process.ended >= one->process.started);
    assert_int_equal(one->process.status, 0);
    assert_string_equal(one->error, "");
    assert_true(one->process.has_result);

    one = &told->all[3];
    assert_string_equal(one->name, "");
    assert_int_equal(one->process.state, ZP_PROC_ENDED);
    assert_int_equal(one->process.code, -EIO);
    assert_int_equal(one->process.status, 1);
    assert_string_equal(one->error, "no luck");
    assert_non_null(strstr(one->origin, "test_process_list.c:"));
    assert_false(one->process.has_result);
    zp_sync_close(&sync);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------ inside the call -- */

struct busy {
    zp_ctx *ctx;
    unsigned calls;
};

/* Writes, spawns and waits: what it spawns is not in this list. */
static int
works(const zp_process *process, void *user)
{
    struct busy *busy = user;
    zp_state *s = zp_ctx_state(busy->ctx);
    zp_proc *proc;

    assert_int_equal(zp_set_int(s, process->name, process->pid), 0);
    proc = spawn_named(busy->ctx, "new", NULL, returns_nothing, NULL);
    assert_int_equal(zp_wait(proc, NULL, SECONDS), 0);
    assert_int_equal(zp_each_process(busy->ctx, remember, &(struct told){0}),
                     0);
    busy->calls++;
    return 0;
}

static int
stops_at_second(const zp_process *process, void *user)
{
    struct busy *busy = user;

    (void)process;
    return ++busy->calls == 2 ? -77 : 0;
}

static int
frees(const zp_process *process, void *user)
{
    struct busy *busy = user;

    (void)process;
    busy->calls++;
    assert_null(zp_ctx_free(busy->ctx));
    assert_int_equal(zp_each_process(busy->ctx, frees, user), ZP_ECLOSED);
    return 0;
}

static void
test_anything_meanwhile(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct busy busy = {.ctx = ctx};
    int64_t pid;

    (void)state;
    spawn_named(ctx, "one", NULL, sleeps, NULL);
    zp_proc *two = spawn_named(ctx, "two", NULL, sleeps, NULL);
    assert_int_equal(zp_each_process(ctx, works, &busy), 0);
    assert_int_equal(busy.calls, 2);
    assert_int_equal(zp_get_int(zp_ctx_state(ctx), "two", &pid), 0);
    assert_int_equal(pid, zp_proc_pid(two));
    busy.calls = 0;
    assert_int_equal(zp_each_process(ctx, stops_at_second, &busy), -77);
    assert_int_equal(busy.calls, 2);
    busy.calls = 0;
    assert_int_equal(zp_each_process(ctx, frees, &busy), -ECANCELED);
    assert_int_equal(busy.calls, 1);
}

/* -------------------------------------------------------------- results -- */

/* In a sibling: nothing but the id leads to the result. */
static int
reads_of_another(zp_ctx *ctx, void *arg)
{
    const uint64_t *id = arg;
    zp_value *value = NULL;
    char *text = NULL;
    int rc = zp_process_get(ctx, *id, "s", &text);

    if (rc < 0)
        return rc;
    rc = zp_process_get_value(ctx, *id, &value);
    if (rc >= 0)
        rc = zp_return_value(ctx, value);
    if (rc >= 0 && strcmp(text, "treasure") != 0)
        rc = zp_fail(ctx, -EBADMSG, "it is %s", text);
    zp_value_free(value);
    free(text);
    return rc;
}

static void
test_result_by_id(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc;
    uint64_t left, none, runs;
    zp_value *value = NULL;
    char *text = NULL;
    int number;

    (void)state;
    proc = spawn_named(ctx, "left", NULL, returns_text,
                       (void *)(uintptr_t) "treasure");
    assert_int_equal(zp_wait(proc, NULL, SECONDS), 0);
    proc = spawn_named(ctx, "none", NULL, returns_nothing, NULL);
    assert_int_equal(zp_wait(proc, NULL, SECONDS), 0);
    spawn_named(ctx, "runs", NULL, sleeps, NULL);
    left = id_of(ctx, "left");
    none = id_of(ctx, "none");
    runs = id_of(ctx, "runs");

    proc = spawn_named(ctx, "reader", NULL, reads_of_another, &left);
    assert_int_equal(zp_wait(proc, NULL, SECONDS), 0);
    assert_int_equal(zp_proc_get(proc, "s", &text), 0);
    assert_string_equal(text, "treasure");
    free(text);

    assert_int_equal(zp_process_get(ctx, left, "i", &number), ZP_ETYPE);
    assert_int_equal(zp_process_get(ctx, none, "s", &text), ZP_ENOKEY);
    assert_int_equal(zp_process_get_value(ctx, none, &value), ZP_ENOKEY);
    assert_int_equal(zp_process_get(ctx, runs, "s", &text), -EBUSY);
    assert_int_equal(zp_process_get(ctx, 0, "s", &text), ZP_ENOKEY);
    assert_int_equal(zp_process_get(ctx, runs + 100, "s", &text), ZP_ENOKEY);
    assert_non_null(strstr(zp_ctx_error(ctx), "103"));
    assert_null(value);
    zp_ctx_free(ctx);
}

static int
returns_large(zp_ctx *ctx, void *arg)
{
    zp_bin bin = {calloc(1, 600000), 600000};
    int rc = bin.addr ? zp_return(ctx, "B", &bin) : -ENOMEM;

    (void)arg;
    free(bin.addr);
    return rc;
}

/* Results have an eighth of the state: the oldest go. */
static void
test_forgotten(void **state)
{
    zp_ctx *ctx = new_ctx(&(zp_ctx_options){.size = sizeof(zp_ctx_options),
                                            .max_bytes = 8 << 20});
    zp_value *value = NULL;
    uint64_t ids[3];
    char name[8];
    int i;

    (void)state;
    for (i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%d", i);
        zp_proc *proc = spawn_named(ctx, name, NULL, returns_large, NULL);
        assert_int_equal(zp_wait(proc, NULL, SECONDS), 0);
        ids[i] = id_of(ctx, name);
    }
    assert_int_equal(list(ctx)->n, 1);
    assert_int_equal(zp_process_get_value(ctx, ids[0], &value), ZP_EGONE);
    assert_int_equal(zp_process_get_value(ctx, ids[1], &value), ZP_EGONE);
    assert_int_equal(zp_process_get_value(ctx, ids[2], &value), 0);
    zp_value_free(value);
    zp_ctx_free(ctx);
}

/* ----------------------------------------------------------------- lost -- */

struct stranger {
    const char *address;
    zp_sync sync;
};

static int
attaches_and_spawns(void *user)
{
    struct stranger *stranger = user;
    zp_ctx *ctx;

    if (zp_ctx_attach(&ctx, stranger->address, NULL) < 0)
        return 1;
    spawn_named(ctx, "lost", NULL, sleeps, &stranger->sync);
    return sleeps(ctx, NULL);
}

static bool
first_has_ended(void *user)
{
    return list(user)->all[0].process.state == ZP_PROC_ENDED;
}

/* Killed, and so is whoever would have told of it. */
static void
test_nobody_tells(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    struct stranger stranger = {.address = zp_ctx_address(ctx)};
    struct told *told;
    char *text;
    pid_t pid;

    (void)state;
    zp_sync_open(&stranger.sync);
    pid = zp_test_fork(attaches_and_spawns, &stranger);
    zp_sync_wait(&stranger.sync, SECONDS);
    assert_int_equal(list(ctx)->all[0].process.state, ZP_PROC_RUNNING);
    kill(list(ctx)->all[0].process.pid, SIGKILL);
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, SECONDS), -SIGKILL);
    assert_true(zp_test_until(first_has_ended, ctx, SECONDS));
    told = list(ctx);
    assert_int_equal(told->n, 1);
    assert_string_equal(told->all[0].name, "lost");
    assert_int_equal(told->all[0].process.code, ZP_EFAILED);
    assert_int_equal(told->all[0].process.status, -1);
    assert_non_null(strstr(told->all[0].error, "spawned it"));
    assert_int_equal(zp_process_get(ctx, told->all[0].process.id, "s", &text),
                     ZP_ENOKEY);
    zp_sync_close(&stranger.sync);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ bad calls -- */

static int
uses_parents(void *user)
{
    return zp_each_process(user, remember, NULL) == ZP_EFORK &&
                   zp_process_get(user, 1, "i", NULL) == ZP_EFORK
               ? 0
               : 1;
}

static int
forks(const zp_process *process, void *user)
{
    pid_t *pid = user;

    (void)process;
    fflush(NULL);
    *pid = fork();
    return 0;
}

static void
test_bad_calls(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    pid_t pid;
    int rc;

    (void)state;
    spawn_named(ctx, "one", NULL, sleeps, NULL);
    assert_int_equal(zp_each_process(NULL, remember, NULL), -EINVAL);
    assert_int_equal(zp_each_process(ctx, NULL, NULL), -EINVAL);
    assert_int_equal(zp_process_get(ctx, 1, NULL), ZP_EFORMAT);
    assert_int_equal(zp_process_get_value(ctx, 1, NULL), -EINVAL);
    assert_int_equal(zp_test_wait(zp_test_fork(uses_parents, ctx), SECONDS), 0);
    rc = zp_each_process(ctx, forks, &pid);
    if (pid == 0)
        _exit(rc == ZP_EFORK ? 0 : 1);
    assert_int_equal(rc, 0);
    assert_int_equal(zp_test_wait(pid, SECONDS), 0);
    zp_ctx_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_fields),       ZP_TEST(test_anything_meanwhile),
        ZP_TEST(test_result_by_id), ZP_TEST(test_forgotten),
        ZP_TEST(test_nobody_tells), ZP_TEST(test_bad_calls),
    };
    return zp_test_main("process_list", tests, sizeof tests / sizeof *tests,
                        60);
}
