/*
 * test_launch.c - what a process is given when it is launched: name, argument,
 * directory, streams, environment; how it is started later, together with
 * others, or not at all; and when it is ready.
 *
 * The program that is run is this one, in its second mode: see main().
 */
#include "tests/api/spawning.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static zp_ctx *
new_ctx_with(const zp_spawn_options *defaults)
{
    return new_ctx(
        &(zp_ctx_options){.size = sizeof(zp_ctx_options), .spawn = defaults});
}

/* ------------------------------------------------------------------- files --
 */

static void
write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* All that FD gives, to its end; closed. In a static buffer. */
static const char *
drain(int fd)
{
    static char text[4096];
    size_t used = 0;
    ssize_t n;

    while ((n = read(fd, text + used, sizeof text - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = '\0';
    close(fd);
    return text;
}

static void
file_is(const char *path, const char *text)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_string_equal(drain(fd), text);
}

/* -------------------------------------------------------- name, namespace --
 */

static int
tells_ns(zp_ctx *ctx, void *arg)
{
    return strcmp(zp_state_ns(zp_ctx_state(ctx)), arg) ? -EBADMSG : 0;
}

static void
test_names(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char longest[65];
    zp_proc *proc;
    record r;

    (void)state;
    memset(longest, 'n', 64);
    longest[64] = '\0';
    proc = spawn(ctx, SPAWN(.name = longest, .ns = "other"), tells_ns,
                 (void *)"other");
    assert_string_equal(zp_proc_name(proc), longest);
    result_of(proc, 0);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_ENDED, 1);
    assert_string_equal(r.name, longest);
    assert_string_equal(r.ns, "other");
    proc = spawn(ctx, NULL, tells_ns, (void *)"default");
    assert_string_equal(zp_proc_name(proc), "");
    result_of(proc, 0);
    r = record_in(ctx, zp_proc_id(proc), ZP_PROC_ENDED, 1);
    assert_string_equal(r.name, "");
    assert_string_equal(r.ns, "default");
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- argument --
 */

static int
tells_size(zp_ctx *ctx, void *arg)
{
    const char *text = arg;
    int size = (int)strlen(text);

    if ((uintptr_t)arg % _Alignof(max_align_t))
        return zp_fail(ctx, -EFAULT, "not aligned");
    return text[0] == 'a' ? size : -EBADMSG;
}

/* Bytes are copied at the call, not at the start. */
static void
test_argument_is_copied(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char text[] = "abcdefg";
    zp_proc *now, *then;

    (void)state;
    now = spawn(ctx, SPAWN(.arg_size = 8), tells_size, text);
    then = spawn(ctx, SPAWN(.arg_size = 8, .flags = ZP_DEFERRED), tells_size,
                 text);
    memset(text, 'x', 4);
    assert_ok(zp_start(then));
    assert_int_equal(result_of(now, 0).code, 7);
    assert_int_equal(result_of(then, 0).code, 7);
    zp_ctx_free(ctx);
}

static void
test_argument_limits(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    size_t most = (size_t)64 << 20;
    char *large;

    (void)state;
    assert_returns(zp_spawn(ctx, NULL, SPAWN(.arg_size = 1), returns_0, NULL),
                   -EINVAL);
    assert_has(zp_ctx_error(ctx), "arg_size");
    large = malloc(most);
    memset(large, 'a', most);
    large[most - 1] = '\0';
    assert_returns(
        zp_spawn(ctx, NULL, SPAWN(.arg_size = most + 1), returns_0, large),
        -EMSGSIZE);
    assert_has(zp_ctx_error(ctx), "argument");
    if (!zp_test_instrumented()) {
        zp_proc *proc = spawn(ctx, SPAWN(.arg_size = most), tells_size, large);

        memset(large, 'x', 4);
        assert_int_equal(result_of(proc, 0).code, (int)most - 1);
    }
    assert_int_equal(count_records(ctx), !zp_test_instrumented());
    free(large);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------- directory, nice --
 */

static int
tells_dir(zp_ctx *ctx, void *arg)
{
    char here[400];

    (void)ctx;
    printf("there\n");
    return getcwd(here, sizeof here) && strcmp(here, arg) == 0 ? 0 : -EBADMSG;
}

/* Paths are the parent's, who stands elsewhere. */
static void
test_directory(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char before[400], base[200], dir[300];

    (void)state;
    snprintf(base, sizeof base, "%s", zp_test_dir());
    snprintf(dir, sizeof dir, "%s/sub", base);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(base), 0);
    result_of(spawn(ctx, SPAWN(.dir = dir, .out.kind = ZP_STREAM_NULL),
                    tells_dir, dir),
              0);
    result_of(spawn(ctx,
                    SPAWN(.dir = "sub", .out.kind = ZP_STREAM_FILE,
                          .out.path = "out"),
                    tells_dir, dir),
              0);
    file_is("out", "there\n");
    assert_returns(
        zp_spawn(ctx, NULL, SPAWN(.dir = "nowhere"), returns_0, NULL), -ENOENT);
    assert_has(zp_ctx_error(ctx), "nowhere");
    assert_returns(zp_spawn(ctx, NULL, SPAWN(.dir = "out"), returns_0, NULL),
                   -ENOTDIR);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(count_records(ctx), 2);
    zp_ctx_free(ctx);
}

static int
tells_nice(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return getpriority(PRIO_PROCESS, 0) + 20;
}

static void
test_nice(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int here = getpriority(PRIO_PROCESS, 0) + 20, code;

    (void)state;
    code = result_of(spawn(ctx, SPAWN(.nice = 3), tells_nice, NULL), 0).code;
    assert_int_equal(code, here + 3 < 39 ? here + 3 : 39);
    code = result_of(spawn(ctx, NULL, tells_nice, NULL), 0).code;
    assert_int_equal(code, here);
    assert_int_equal(getpriority(PRIO_PROCESS, 0) + 20, here);
    zp_ctx_free(ctx);
}

/* ---------------------------------------------------------------- streams --
 */

/* Its input to its output; and a word to its standard error. */
static int
copies(zp_ctx *ctx, void *arg)
{
    int c;

    (void)ctx;
    fprintf(stderr, "[%s]", arg ? (char *)arg : "");
    while ((c = getchar()) != EOF)
        putchar(c);
    return 0;
}

static void
test_files(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    const char *in = zp_test_path("in"), *out = zp_test_path("out"),
               *err = zp_test_path("err");
    int fd;

    (void)state;
    write_file(in, "hello");
    write_file(out, "more than is written");
    result_of(spawn(ctx,
                    SPAWN(.in = {ZP_STREAM_FILE, 0, in},
                          .out = {ZP_STREAM_FILE, 0, out},
                          .err = {ZP_STREAM_FILE, 0, err}),
                    copies, (void *)"one"),
              0);
    file_is(out, "hello");
    file_is(err, "[one]");
    result_of(spawn(ctx,
                    SPAWN(.in = {ZP_STREAM_FILE, 0, in},
                          .out = {ZP_STREAM_APPEND, 0, out},
                          .err = {ZP_STREAM_NULL, 0, NULL}),
                    copies, NULL),
              0);
    file_is(out, "hellohello");
    file_is(err, "[one]");
    result_of(spawn(ctx,
                    SPAWN(.in = {ZP_STREAM_NULL, 0, NULL},
                          .out = {ZP_STREAM_APPEND, 0, out},
                          .err = {ZP_STREAM_STDOUT, 0, NULL}),
                    copies, (void *)"two"),
              0);
    file_is(out, "hellohello[two]");
    fd = open(out, O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    result_of(spawn(ctx,
                    SPAWN(.in = {ZP_STREAM_FILE, 0, in},
                          .out = {ZP_STREAM_FD, fd, NULL},
                          .err = {ZP_STREAM_FD, fd, NULL}),
                    copies, (void *)"three"),
              0);
    close(fd);
    file_is(out, "[three]hello");
    zp_ctx_free(ctx);
}

/* Its standard error goes to the parent's standard output. */
static void
test_error_to_inherited(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    const char *out = zp_test_path("out");
    int kept, fd;

    (void)state;
    fflush(stdout);
    kept = fcntl(1, F_DUPFD_CLOEXEC, 10);
    fd = open(out, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    dup2(fd, 1);
    result_of(spawn(ctx,
                    SPAWN(.in = {ZP_STREAM_NULL, 0, NULL},
                          .err = {ZP_STREAM_STDOUT, 0, NULL}),
                    copies, (void *)"here"),
              0);
    dup2(kept, 1);
    close(kept);
    close(fd);
    file_is(out, "[here]");
    zp_ctx_free(ctx);
}

static int
prints_and_fails(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    copies(ctx, NULL);
    printf("%s\n", (char *)arg);
    return -EAGAIN;
}

/* Each attempt goes on where the one before ended; what it reads, it reads
 * anew. One pipe serves all, and ends with the last. */
static void
test_streams_of_attempts(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    const char *in = zp_test_path("in"), *out = zp_test_path("out");
    const zp_retry *retry = RETRY(.retries = 2, .delay = -1);
    zp_proc *proc;

    (void)state;
    write_file(in, "i");
    write_file(out, "before");
    proc = spawn(ctx,
                 SPAWN(.retry = retry, .in = {ZP_STREAM_FILE, 0, in},
                       .out = {ZP_STREAM_FILE, 0, out},
                       .err = {ZP_STREAM_PIPE, 0, NULL}),
                 prints_and_fails, (void *)"o");
    assert_int_equal(result_of(proc, ZP_EFAILED).attempts, 3);
    file_is(out, "io\nio\nio\n");
    assert_string_equal(drain(zp_proc_stream(proc, 2)), "[][][]");
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------------ pipes --
 */

static zp_proc *
spawn_piped(zp_ctx *ctx)
{
    return spawn(ctx,
                 SPAWN(.in = {ZP_STREAM_PIPE, 0, NULL},
                       .out = {ZP_STREAM_PIPE, 0, NULL},
                       .err = {ZP_STREAM_STDOUT, 0, NULL}),
                 copies, (void *)"p");
}

/* Several, all alive at once: each end belongs to one of them and to us, and
 * closing ours is an end for the child. */
static void
test_pipes(void **state)
{
    enum { N = 4 };
    zp_ctx *ctx = new_ctx(NULL);
    const char *sleeper[] = {"sleep", "1000", NULL};
    zp_proc *procs[N];
    int in[N], out[N], i;
    char text[16];

    (void)state;
    for (i = 0; i < N; i++) {
        procs[i] = spawn_piped(ctx);
        in[i] = zp_proc_stream(procs[i], 0);
        out[i] = zp_proc_stream(procs[i], 1);
        assert_true(in[i] > 2 && out[i] > 2);
        assert_true(fcntl(in[i], F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(out[i], F_GETFD) & FD_CLOEXEC);
        assert_false(fcntl(out[i], F_GETFL) & O_NONBLOCK);
        assert_returns(zp_proc_stream(procs[i], 0), -EBADF);
        assert_returns(zp_proc_stream(procs[i], 1), -EBADF);
        assert_returns(zp_proc_stream(procs[i], 2), -EBADF);
    }
    spawn(ctx, NULL, sleeps, NULL); /* has none of them */
    assert_ok(zp_spawn_exec(ctx, NULL, NULL, sleeper, NULL));
    for (i = 0; i < N; i++) {
        int n = snprintf(text, sizeof text, "to %d", i);

        assert_int_equal(write(in[i], text, (size_t)n), n);
    }
    for (i = N - 1; i >= 0; i--) {
        char expected[32];

        close(in[i]);
        result_of(procs[i], 0);
        snprintf(expected, sizeof expected, "[p]to %d", i);
        assert_string_equal(drain(out[i]), expected);
    }
    assert_returns(zp_proc_stream(procs[0], 3), -EINVAL);
    assert_returns(zp_proc_stream(procs[0], -1), -EINVAL);
    assert_returns(zp_proc_stream(NULL, 1), -EINVAL);
    zp_ctx_free(ctx);
}

/* What is not taken is closed with the context, or with the process; a child
 * that waits for its input ends then. */
static void
test_pipes_not_taken(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int fds = zp_test_open_fds();
    zp_proc *proc = spawn_piped(ctx);

    (void)state;
    zp_stop(proc, NULL);
    zp_proc_free(proc);
    assert_int_equal(zp_test_open_fds(), fds);
    spawn_piped(ctx);
    zp_ctx_free(ctx); /* the fence counts */
}

static int
writes_to_fd(zp_ctx *ctx, void *arg)
{
    int fd = *(int *)arg;

    (void)ctx;
    return write(fd, "mine", 4) == 4 ? 0 : -errno;
}

/* An end that was taken and closed: its number is another file's now, which is
 * none of the library's business. */
static void
test_number_used_again(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    const char *path = zp_test_path("mine");
    zp_proc *proc = spawn_piped(ctx);
    int in = zp_proc_stream(proc, 0), fd;

    (void)state;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(dup2(fd, in), in); /* closes the pipe */
    result_of(proc, 0);
    result_of(spawn(ctx, NULL, writes_to_fd, &in), 0);
    file_is(path, "mine");
    zp_proc_free(proc);
    assert_int_equal(write(in, "!", 1), 1); /* still open here */
    close(in);
    close(fd);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------------ bad options --
 */

static void
test_bad_options(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char long_name[66], long_ns[40];
    const char *argv[] = {"true", NULL};
    const struct {
        int rc;
        const char *part;
        zp_spawn_options options;
    } bad[] = {
        {-EINVAL, "size", {.size = 4}},
        {-EINVAL, "flags", {.flags = 1u << 20}},
        {-EINVAL, "name", {.name = ""}},
        {-EINVAL, "name", {.name = long_name}},
        {-EINVAL, "namespace", {.ns = ""}},
        {-EINVAL, "namespace", {.ns = long_ns}},
        {-EINVAL, "directory", {.dir = ""}},
        {-ENOENT, "/nowhere", {.dir = "/nowhere"}},
        {-EINVAL, "nice", {.nice = 40}},
        {-EINVAL, "nice", {.nice = -40}},
        {-EINVAL, "grace", {.grace = 0.0 / 0.0}},
        {-EINVAL, "options.in", {.in = {77, 0, NULL}}},
        {-EINVAL, "options.in", {.in = {ZP_STREAM_STDOUT, 0, NULL}}},
        {-EINVAL, "options.in", {.in = {ZP_STREAM_APPEND, 0, "/tmp/x"}}},
        {-EINVAL, "options.out", {.out = {ZP_STREAM_STDOUT, 0, NULL}}},
        {-EINVAL, "options.out", {.out = {ZP_STREAM_FILE, 0, NULL}}},
        {-EINVAL, "options.err", {.err = {ZP_STREAM_APPEND, 0, ""}}},
        {-EBADF, "options.err", {.err = {ZP_STREAM_FD, 987, NULL}}},
        {-EBADF, "options.in", {.in = {ZP_STREAM_FD, -1, NULL}}},
        {-ENOENT, "/nowhere/in", {.in = {ZP_STREAM_FILE, 0, "/nowhere/in"}}},
        {-ENOENT,
         "/nowhere/err",
         {.in = {ZP_STREAM_PIPE, 0, NULL},
          .out = {ZP_STREAM_PIPE, 0, NULL},
          .err = {ZP_STREAM_FILE, 0, "/nowhere/err"}}},
        {-EISDIR, "output", {.out = {ZP_STREAM_FILE, 0, "/"}}},
    };
    int fds = zp_test_open_fds();
    size_t i;

    (void)state;
    memset(long_name, 'n', 65);
    long_name[65] = '\0';
    memset(long_ns, 's', 33);
    long_ns[33] = '\0';
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        zp_spawn_options options = bad[i].options;
        zp_proc *proc = NULL;
        int rc;

        options.size = options.size ? options.size : sizeof options;
        rc = zp_spawn(ctx, &proc, &options, returns_0, NULL);
        if (rc != bad[i].rc)
            fail_msg("%d: %s: %d, not %d", (int)i, bad[i].part, rc, bad[i].rc);
        assert_has(zp_ctx_error(ctx), bad[i].part);
        assert_int_equal(zp_spawn_exec(ctx, &proc, &options, argv, NULL), rc);
        assert_has(zp_ctx_error(ctx), bad[i].part);
        assert_null(proc);
    }
    assert_returns(zp_spawn_exec(ctx, NULL, SPAWN(.arg_size = 3), argv, NULL),
                   -EINVAL);
    assert_has(zp_ctx_error(ctx), "arg_size");
    assert_returns(zp_spawn_exec(ctx, NULL, NULL, NULL, NULL), -EINVAL);
    assert_returns(zp_spawn_exec(ctx, NULL, NULL, argv + 1, NULL), -EINVAL);
    assert_int_equal(count_records(ctx), 0);
    assert_int_equal(zp_test_open_fds(), fds);
    assert_int_equal(count_processes(ctx), 0);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- deferred --
 */

static void
test_deferred(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    int codes[] = {4, 5, 6};
    zp_result result = {.size = sizeof result};
    zp_proc *procs[3];
    int i;

    (void)state;
    for (i = 0; i < 3; i++)
        procs[i] =
            spawn(ctx, SPAWN(.flags = ZP_DEFERRED), returns_code, &codes[i]);
    assert_int_equal(count_processes(ctx), 0);
    assert_int_equal(zp_proc_pid(procs[0]), 0);
    assert_int_equal(zp_proc_alive(procs[0]), 0);
    assert_returns(zp_wait(procs[0], &result, 1), -EINVAL);
    assert_has(zp_ctx_error(ctx), "not been started");
    assert_returns(zp_wait_ready(procs[0], 1), -EINVAL);
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, 1), 0); /* none was started */
    assert_ok(zp_start(procs[1]));
    assert_returns(zp_start(procs[1]), -EALREADY);
    assert_int_equal(result_of(procs[1], 0).code, 5);
    assert_returns(zp_start(procs[1]), -EALREADY);
    assert_returns(zp_start(NULL), -EINVAL);

    assert_returns(zp_stop(procs[0], &result), ZP_EFAILED); /* never will be */
    assert_int_equal(result.code, -ECANCELED);
    assert_int_equal(result.pid, 0);
    assert_int_equal(result.attempts, 0);
    assert_returns(zp_start(procs[0]), -EALREADY);
    assert_ok(zp_ctx_start(ctx)); /* the third */
    assert_int_equal(result_of(procs[2], 0).code, 6);
    assert_ok(zp_ctx_start(ctx)); /* of none */
    zp_ctx_free(ctx);
}

static int
notes_turn(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    return *(int *)arg;
}

/* In the order of their spawning; and on error none of them. */
static void
test_start_all(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char dir[200];
    zp_proc *procs[3];
    int turn = 0, i, fds;

    (void)state;
    snprintf(dir, sizeof dir, "%s", zp_test_path("dir"));
    assert_int_equal(mkdir(dir, 0700), 0);
    fds = zp_test_open_fds();
    for (i = 0; i < 3; i++)
        procs[i] =
            spawn(ctx, SPAWN(.flags = ZP_DEFERRED, .dir = i == 1 ? dir : NULL),
                  notes_turn, &turn);
    assert_int_equal(rmdir(dir), 0);
    assert_returns(zp_ctx_start(ctx), -ENOENT);
    assert_has(zp_ctx_error(ctx), dir);
    assert_int_equal(count_records(ctx), 0);
    assert_int_equal(zp_test_open_fds(), fds);
    for (i = 0; i < 3; i++) {
        assert_int_equal(zp_proc_pid(procs[i]), 0);
        assert_returns(zp_wait(procs[i], NULL, 0), -EINVAL);
    }
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_ok(zp_ctx_start(ctx)); /* and now it can be */
    for (i = 0; i < 3; i++)
        assert_int_equal(result_of(procs[i], 0).attempts, 1);
    assert_true(zp_proc_id(procs[0]) < zp_proc_id(procs[1]));
    assert_true(zp_proc_id(procs[1]) < zp_proc_id(procs[2]));
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- many of them
 * --
 */

static int
is_a(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    return 10 + *(int *)arg;
}

static int
is_b(zp_ctx *ctx, void *arg)
{
    (void)ctx;
    return 20 + *(int *)arg;
}

static int
leaves_mark(zp_ctx *ctx, void *arg)
{
    (void)arg;
    return zp_set_int(zp_ctx_state(ctx), "ran", 1);
}

static void
test_many(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc_fn *const both[] = {is_a, is_b};
    zp_proc_fn *const holes[] = {is_a, NULL};
    zp_proc *procs[4];
    int arg = 1, i;

    (void)state;
    assert_ok(
        zp_spawn_many(ctx, procs, SPAWN(.name = "many"), both, 2, 2, &arg));
    for (i = 0; i < 4; i++) {
        assert_int_equal(result_of(procs[i], 0).code, i % 2 ? 21 : 11);
        assert_string_equal(zp_proc_name(procs[i]), "many");
        assert_true(i == 0 || zp_proc_id(procs[i]) > zp_proc_id(procs[i - 1]));
    }
    assert_ok(zp_spawn_many(ctx, NULL, NULL, both, 2, 3, &arg));
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, SECONDS), 0);
    assert_int_equal(count_records(ctx), 10);
    assert_returns(zp_spawn_many(ctx, procs, NULL, both, 0, 2, NULL), -EINVAL);
    assert_returns(zp_spawn_many(ctx, procs, NULL, both, 2, 0, NULL), -EINVAL);
    assert_returns(zp_spawn_many(ctx, procs, NULL, NULL, 2, 2, NULL), -EINVAL);
    assert_returns(zp_spawn_many(ctx, procs, NULL, holes, 2, 2, NULL), -EINVAL);
    assert_returns(zp_spawn_many(ctx, procs, NULL, both, 2, SIZE_MAX, NULL),
                   -EINVAL);
    assert_int_equal(count_records(ctx), 10);
    zp_ctx_free(ctx);
}

/* All or none: descriptors run out in the midst, and none has run. */
static void
test_many_or_none(void **state)
{
    enum { N = 12 };
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc_fn *const fn[] = {leaves_mark};
    zp_proc *procs[N];
    struct rlimit roomy, tight;
    int fds, highest, i;

    (void)state;
    if (zp_test_valgrind()) { /* no pidfds: none needs a descriptor */
        zp_ctx_free(ctx);
        skip();
    }
    result_of(spawn(ctx, NULL, returns_0, NULL), 0);
    fds = zp_test_open_fds();
    highest = dup(0);
    close(highest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &roomy), 0);
    for (i = 3; i < N; i += 2) {
        int rc;

        tight = roomy;
        tight.rlim_cur = (rlim_t)(highest + i);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
        rc = zp_spawn_many(ctx, procs, NULL, fn, 1, N, NULL);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &roomy), 0);
        assert_int_equal(rc, -EMFILE);
        assert_true(zp_ctx_error(ctx)[0]);
        assert_int_equal(zp_test_open_fds(), fds);
        assert_int_equal(count_records(ctx), 1);
        assert_int_equal(count_processes(ctx), 0);
        assert_int_equal(zp_contains(zp_ctx_state(ctx), "ran"), 0);
    }
    assert_ok(zp_spawn_many(ctx, procs, NULL, fn, 1, N, NULL));
    assert_int_equal(zp_ctx_wait(ctx, NULL, 0, 0, SECONDS), 0);
    assert_int_equal(zp_contains(zp_ctx_state(ctx), "ran"), 1);
    zp_ctx_free(ctx);
}

/* --------------------------------------------------------------- defaults --
 */

static int
on_exit_add(zp_proc *proc, const zp_result *result, void *user)
{
    (void)proc;
    *(int *)user += result->code;
    return 0;
}

static int
prints_ns(zp_ctx *ctx, void *arg)
{
    (void)arg;
    printf("%s\n", zp_state_ns(zp_ctx_state(ctx)));
    return 1;
}

static void
test_defaults(void **state)
{
    char out[200], name[] = "usual", ns[] = "mine";
    int sum = 0, other = 0;
    zp_spawn_options defaults = {.size = sizeof defaults,
                                 .name = name,
                                 .ns = ns,
                                 .flags = ZP_DEFERRED,
                                 .out = {ZP_STREAM_APPEND, 0, out},
                                 .exit_fn = on_exit_add,
                                 .exit_user = &sum};
    zp_proc *usual, *own;
    zp_ctx *ctx;

    (void)state;
    snprintf(out, sizeof out, "%s", zp_test_path("out"));
    ctx = new_ctx_with(&defaults);
    memset(name, 'x', 4); /* they are copies */
    memset(ns, 'x', 4);
    out[strlen(out) - 1] = 'x';
    usual = spawn(ctx, NULL, prints_ns, NULL);
    own = spawn(ctx,
                SPAWN(.name = "own", .ns = "theirs", .exit_fn = on_exit_add,
                      .exit_user = &other),
                prints_ns, NULL);
    assert_string_equal(zp_proc_name(usual), "usual");
    assert_string_equal(zp_proc_name(own), "own");
    assert_returns(zp_wait(usual, NULL, 0), -EINVAL); /* flags are added */
    assert_ok(zp_start(usual));
    result_of(usual, 0);
    assert_ok(zp_start(own));
    result_of(own, 0);
    assert_ok(zp_run(ctx));
    assert_int_equal(sum, 1);
    assert_int_equal(other, 1);
    out[strlen(out) - 1] = 't';
    file_is(out, "mine\ntheirs\n");
    zp_ctx_free(ctx);
}

static void
test_bad_defaults(void **state)
{
    const struct {
        int rc;
        const char *part;
        zp_spawn_options options;
    } bad[] = {
        {-EINVAL, "name", {.size = sizeof(zp_spawn_options), .name = ""}},
        {-EINVAL, "size", {.size = 3}},
        {-EINVAL,
         "arg_size",
         {.size = sizeof(zp_spawn_options), .arg_size = 3}},
        {-EINVAL,
         "retry",
         {.size = sizeof(zp_spawn_options), .retry = RETRY(.crash_count = 2)}},
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        zp_ctx_options options = {.size = sizeof options,
                                  .spawn = &bad[i].options};
        zp_ctx *ctx = NULL;

        assert_int_equal(zp_ctx_new(&ctx, &options), bad[i].rc);
        assert_has(zp_ctx_error(NULL), bad[i].part);
        assert_null(ctx);
    }
}

/* --------------------------------------------------------------- programs --
 */

static char this_program[400];

/* The second mode: attach by what is in the environment, and tell what is
 * there. */
static int
be_program(int argc, char **argv)
{
    const char *extra = getenv("EXTRA"), *home = getenv("HOME");
    zp_ctx *ctx;
    zp_state *s;

    if (argc != 3 || strcmp(argv[2], "last argument"))
        return 10;
    if (zp_ctx_attach(&ctx, NULL, NULL) < 0)
        return 11;
    s = zp_ctx_state(ctx);
    if (zp_set_string(s, "extra", extra ? extra : "none") < 0 ||
        zp_set_bool(s, "home", home != NULL) < 0 ||
        zp_set_string(s, "ns", zp_state_ns(s)) < 0)
        return 12;
    zp_ctx_free(ctx);
    return 0;
}

static void
key_is(zp_ctx *ctx, const char *ns, const char *key, const char *expected)
{
    zp_state *s;
    char *text;

    assert_ok(zp_state_clone(zp_ctx_state(ctx), &s, ns));
    assert_ok(zp_get_string(s, key, &text));
    assert_string_equal(text, expected);
    free(text);
    zp_state_free(s);
}

/* A program finds the state, and in it the namespace; its environment is the
 * caller's, or another one. */
static void
test_program_attaches(void **state)
{
    const char *argv[] = {this_program, "--program", "last argument", NULL};
    const char *env[] = {"EXTRA=yes", "ZP_ADDRESS=/nowhere", NULL};
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc;
    int home;

    (void)state;
    setenv("HOME", "/", 0);
    assert_ok(zp_spawn_exec(ctx, &proc, NULL, argv, NULL));
    assert_has(this_program, zp_proc_name(proc)); /* its own name */
    result_of(proc, 0);
    key_is(ctx, NULL, "extra", "none");
    key_is(ctx, NULL, "ns", "default");
    assert_ok(zp_get_bool(zp_ctx_state(ctx), "home", &home));
    assert_int_equal(home, 1);
    assert_ok(zp_spawn_exec(ctx, &proc, SPAWN(.ns = "other", .name = "named"),
                            argv, env));
    assert_string_equal(zp_proc_name(proc), "named");
    assert_ok(zp_wait_ready(proc, SECONDS)); /* as soon as it runs */
    result_of(proc, 0);
    key_is(ctx, "other", "extra", "yes");
    key_is(ctx, "other", "ns", "other");
    zp_ctx_free(ctx);
}

/* Searched for as the caller's PATH says; not run: nothing is left. */
static void
test_program_search(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    char dir[200], path[300], old[4000], file[300];
    const char *argv[] = {"found-by-path", NULL}, *plain[] = {file, NULL};
    const char *nowhere[] = {"/nowhere/at/all", NULL};
    zp_proc *proc;
    int fds = zp_test_open_fds();

    (void)state;
    snprintf(dir, sizeof dir, "%s", zp_test_dir());
    snprintf(path, sizeof path, "%s/found-by-path", dir);
    snprintf(file, sizeof file, "%s/plain", dir);
    write_file(path, "#!/bin/sh\nexit 7\n");
    write_file(file, "#!/bin/sh\nexit 7\n");
    assert_int_equal(chmod(path, 0700), 0);
    assert_int_equal(chmod(file, 0600), 0);
    assert_returns(zp_spawn_exec(ctx, &proc, NULL, argv, NULL), -ENOENT);
    assert_has(zp_ctx_error(ctx), "found-by-path");
    assert_returns(zp_spawn_exec(ctx, &proc, NULL, nowhere, NULL), -ENOENT);
    assert_returns(zp_spawn_exec(ctx, &proc, NULL, plain, NULL), -EACCES);
    assert_has(zp_ctx_error(ctx), file);
    assert_int_equal(count_records(ctx), 0);
    assert_int_equal(zp_test_open_fds(), fds);
    assert_int_equal(count_processes(ctx), 0);
    assert_ok(
        zp_spawn_exec(ctx, &proc, SPAWN(.flags = ZP_DEFERRED), nowhere, NULL));
    assert_returns(zp_start(proc), -ENOENT);
    assert_int_equal(count_records(ctx), 0);

    snprintf(old, sizeof old, "%s", getenv("PATH"));
    setenv("PATH", dir, 1);
    assert_ok(zp_spawn_exec(ctx, &proc, NULL, argv, NULL));
    setenv("PATH", old, 1);
    assert_int_equal(result_of(proc, ZP_EFAILED).status, 7);
    zp_ctx_free(ctx);
}

static _Atomic int forking;

static void *
forks_on_and_on(void *user)
{
    (void)user;
    while (forking) {
        pid_t pid = fork();

        if (pid == 0) {
            usleep(20000); /* holds all descriptors meanwhile */
            _exit(0);
        }
        while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    return NULL;
}

/* Another thread forks all the while: its children have our pipes open, and
 * that is not taken for a program that does not start. */
static void
test_program_while_another_forks(void **state)
{
    const char *argv[] = {"true", NULL};
    zp_ctx *ctx = new_ctx(NULL);
    pthread_t thread;
    int i;

    (void)state;
    forking = 1;
    assert_int_equal(pthread_create(&thread, NULL, forks_on_and_on, NULL), 0);
    for (i = 0; i < 20; i++) {
        zp_proc *proc;

        assert_ok(zp_spawn_exec(ctx, &proc, NULL, argv, NULL));
        result_of(proc, 0);
    }
    forking = 0;
    assert_int_equal(pthread_join(thread, NULL), 0);
    zp_ctx_free(ctx);
}

/* -------------------------------------------------------------- readiness --
 */

typedef struct steps {
    zp_sync up, go;
} steps;

static int
says_so(zp_ctx *ctx, void *arg)
{
    steps *s = arg;

    zp_sync_post(&s->up);
    zp_sync_wait(&s->go, SECONDS);
    if (zp_ready(ctx) < 0 || zp_ready(ctx) < 0) /* again: fine */
        return -EBADMSG;
    zp_sync_wait(&s->go, SECONDS);
    return 0;
}

static int
waits_first(zp_ctx *ctx, void *arg)
{
    steps *s = arg;
    int rc;

    zp_sync_post(&s->up);
    zp_sync_wait(&s->go, SECONDS);
    rc = zp_get_when_available(zp_ctx_state(ctx), NULL, "go", SECONDS, NULL);
    return rc;
}

static int
waits_then_says(zp_ctx *ctx, void *arg)
{
    steps *s = arg;

    zp_get_when_available(zp_ctx_state(ctx), NULL, "never", 0.01, NULL);
    zp_sync_post(&s->up);
    zp_sync_wait(&s->go, SECONDS);
    zp_ready(ctx);
    zp_sync_wait(&s->go, SECONDS);
    return 0;
}

static int
do_nothing(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    (void)event;
    (void)user;
    return 0;
}

static void
end_own_loop(struct ev_loop *loop, ev_timer *timer, int events)
{
    (void)events;
    (void)timer;
    ev_break(loop, EVBREAK_ALL);
}

/* Runs libev by itself, and never waits by a call of ours. */
static int
runs_own_loop(zp_ctx *ctx, void *arg)
{
    struct ev_loop *loop = zp_ev_loop(ctx);
    steps *s = arg;
    ev_timer timer;
    int rc = zp_call_when_change(zp_ctx_state(ctx), NULL, ZP_KEYS("k"), NULL,
                                 do_nothing, NULL);

    if (rc < 0)
        return rc;
    zp_sync_post(&s->up);
    zp_sync_wait(&s->go, SECONDS);
    ev_timer_init(&timer, end_own_loop, SECONDS, 0);
    ev_timer_start(loop, &timer);
    ev_run(loop, 0);
    return 0;
}

static void
test_ready(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc;
    steps s;

    (void)state;
    zp_sync_open(&s.up);
    zp_sync_open(&s.go);
    proc = spawn(ctx, NULL, says_so, &s);
    zp_sync_wait(&s.up, 20);
    assert_returns(zp_wait_ready(proc, 0), -ETIMEDOUT);
    assert_returns(zp_wait_ready(proc, 0.02), -ETIMEDOUT);
    assert_has(zp_ctx_error(ctx), "is not ready");
    zp_sync_post(&s.go);
    assert_ok(zp_wait_ready(proc, SECONDS));
    assert_int_equal(zp_proc_alive(proc), 1);
    assert_ok(zp_wait_ready(proc, 0)); /* again */
    zp_sync_post(&s.go);
    result_of(proc, 0);
    assert_ok(zp_wait_ready(proc, 0));
    assert_returns(zp_ready(ctx), -EINVAL); /* no child */

    proc = spawn(ctx, NULL, waits_first, &s);
    zp_sync_wait(&s.up, 20);
    assert_returns(zp_wait_ready(proc, 0.02), -ETIMEDOUT);
    zp_sync_post(&s.go);
    assert_ok(zp_wait_ready(proc, SECONDS));
    assert_int_equal(zp_proc_alive(proc), 1);
    assert_ok(zp_set_int(zp_ctx_state(ctx), "go", 1));
    result_of(proc, 0);

    proc = spawn(ctx, NULL, runs_own_loop, &s);
    zp_sync_wait(&s.up, 20);
    assert_returns(zp_wait_ready(proc, 0.02), -ETIMEDOUT);
    zp_sync_post(&s.go);
    assert_ok(zp_wait_ready(proc, SECONDS));
    assert_int_equal(zp_proc_alive(proc), 1);
    zp_stop(proc, NULL);
    zp_sync_close(&s.up);
    zp_sync_close(&s.go);
    zp_ctx_free(ctx);
}

/* Only the word counts, not that it waits. */
static void
test_ready_by_word(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_proc *proc;
    steps s;

    (void)state;
    zp_sync_open(&s.up);
    zp_sync_open(&s.go);
    proc = spawn(ctx, SPAWN(.flags = ZP_SAYS_READY), waits_then_says, &s);
    zp_sync_wait(&s.up, 20);
    assert_returns(zp_wait_ready(proc, 0.02), -ETIMEDOUT);
    zp_sync_post(&s.go);
    assert_ok(zp_wait_ready(proc, SECONDS));
    assert_int_equal(zp_proc_alive(proc), 1);
    zp_sync_post(&s.go);
    result_of(proc, 0);
    zp_sync_close(&s.up);
    zp_sync_close(&s.go);
    zp_ctx_free(ctx);
}

/* It ended before: well, or not. */
static void
test_never_ready(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    const zp_spawn_options *says = SPAWN(.flags = ZP_SAYS_READY);
    int code = -EIO;

    (void)state;
    assert_ok(zp_wait_ready(spawn(ctx, says, returns_0, NULL), SECONDS));
    assert_returns(
        zp_wait_ready(spawn(ctx, says, returns_code, &code), SECONDS),
        ZP_EFAILED);
    assert_returns(
        zp_wait_ready(spawn(ctx,
                            SPAWN(.flags = ZP_SAYS_READY,
                                  .retry = RETRY(.retries = 2, .delay = -1)),
                            returns_code, &code),
                      SECONDS),
        ZP_EFAILED);
    assert_returns(zp_wait_ready(NULL, 0), -EINVAL);
    zp_ctx_free(ctx);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_names),
        ZP_TEST(test_argument_is_copied),
        ZP_TEST(test_argument_limits),
        ZP_TEST(test_directory),
        ZP_TEST(test_nice),
        ZP_TEST(test_files),
        ZP_TEST(test_error_to_inherited),
        ZP_TEST(test_streams_of_attempts),
        ZP_TEST(test_pipes),
        ZP_TEST(test_pipes_not_taken),
        ZP_TEST(test_number_used_again),
        ZP_TEST(test_bad_options),
        ZP_TEST(test_deferred),
        ZP_TEST(test_start_all),
        ZP_TEST(test_many),
        ZP_TEST(test_many_or_none),
        ZP_TEST(test_defaults),
        ZP_TEST(test_bad_defaults),
        ZP_TEST(test_program_attaches),
        ZP_TEST(test_program_search),
        ZP_TEST(test_program_while_another_forks),
        ZP_TEST(test_ready),
        ZP_TEST(test_ready_by_word),
        ZP_TEST(test_never_ready),
    };
    ssize_t n;

    if (argc > 1)
        return be_program(argc, argv);
    n = readlink("/proc/self/exe", this_program, sizeof this_program - 1);
    if (n < 0)
        return 99;
    return zp_test_main("launch", tests, sizeof tests / sizeof *tests, 60);
}
