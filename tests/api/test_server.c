/*
 * test_server.c - the state server as a process: started, detached, killed,
 * refused twice, ended with its owner; and the program by hand.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zp.h>

#define ANSWER 10 /* seconds for an answer */

static const char *
program(void)
{
    const char *path = getenv("ZP_SERVER");

    assert_non_null(path);
    return path;
}

static zp_ctx *
new_ctx(const char *name)
{
    zp_ctx_options options = {.size = sizeof options, .name = name};
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, &options);

    if (rc < 0)
        fail_msg("zp_ctx_new: %s: %s", zp_strerror(rc), zp_ctx_error(NULL));
    return ctx;
}

static zp_ctx *
attach(const char *address)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_attach(&ctx, address, NULL);

    if (rc < 0)
        fail_msg("zp_ctx_attach: %s: %s", zp_strerror(rc), zp_ctx_error(NULL));
    return ctx;
}

static pid_t
server_of(zp_ctx *ctx)
{
    zp_pong pong;
    int rc = zp_ping(ctx, &pong, NULL, 0, ANSWER * zp_test_slow());

    if (rc < 0)
        fail_msg("zp_ping: %s: %s", zp_strerror(rc), zp_ctx_error(ctx));
    return pong.server_pid;
}

static zp_stats
stats_of(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof stats};

    assert_int_equal(zp_ctx_stats(ctx, &stats), 0);
    return stats;
}

static uint64_t
generation_of(zp_ctx *ctx)
{
    return stats_of(ctx).server_generation;
}

static bool
is_dead(void *user)
{
    char letter = zp_test_process_state(*(pid_t *)user);

    return !letter || letter == 'Z';
}

static bool
is_alive(pid_t pid)
{
    return !is_dead(&pid);
}

static void
ends(pid_t pid, double seconds)
{
    if (!zp_test_until(is_dead, &pid, seconds))
        fail_msg("process %d still runs", (int)pid);
}

/* ------------------------------------------------------------- detached -- */

/* The value of FIELD in /proc/PID/status as a hexadecimal number. */
static unsigned long long
signals(pid_t pid, const char *field)
{
    char path[64], line[256];
    unsigned long long value = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            value = strtoull(line + strlen(field), NULL, 16);
    fclose(file);
    return value;
}

static void
link_is(pid_t pid, const char *what, const char *expected)
{
    char path[64], target[PATH_MAX];
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    n = readlink(path, target, sizeof target - 1);
    assert_true(n >= 0);
    target[n] = '\0';
    assert_string_equal(target, expected);
}

/* Whoever started it, nothing of it is left in the server: not its descriptors
 * (a pipe would never end), session, directory, signals; it is not its child,
 * and there is no zombie. */
static void
test_detached(void **state)
{
    int leak[2], high;
    sigset_t set, before;
    zp_ctx *ctx;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(leak), 0); /* not close-on-exec */
    high = fcntl(leak[1], F_DUPFD, 200);
    assert_true(high >= 200);
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, &before);
    signal(SIGTERM, SIG_IGN);
    ctx = new_ctx(NULL);
    signal(SIGTERM, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    pid = server_of(ctx);
    assert_int_not_equal(getsid(pid), getsid(0));
    assert_int_not_equal(getpgid(pid), pid); /* no leader: gets no terminal */
    link_is(pid, "cwd", "/");
    link_is(pid, "fd/0", "/dev/null");
    link_is(pid, "fd/1", "/dev/null");
    link_is(pid, "fd/2", "/dev/null");
    assert_int_equal(signals(pid, "SigBlk:"), 0);
    /* HUP 1, INT 2, QUIT 3, PIPE 13; above 31 the C library has its own */
    assert_int_equal(signals(pid, "SigIgn:") & 0x7fffffff, 0x1007);
    close(high);
    close(leak[1]);
    /* nobody has the other end */
    assert_int_equal(read(leak[0], &(char){0}, 1), 0);
    close(leak[0]);
    kill(pid, SIGINT);
    kill(pid, SIGHUP);
    kill(pid, SIGQUIT);
    assert_int_equal(server_of(ctx), pid);
    zp_ctx_free(ctx);
}

/* The application has odd descriptors and reaps its children itself. */
static int
odd_application(void *user)
{
    zp_ctx *ctx;

    (void)user;
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 3; i++) {
        close(0); /* the pipe gets 0 and more */
        close(i);
        ctx = new_ctx(NULL);
        server_of(ctx);
        zp_ctx_free(ctx);
    }
    close(3);
    close(4); /* it gets the server's own number */
    ctx = new_ctx(NULL);
    server_of(ctx);
    zp_ctx_free(ctx);
    return 0;
}

static void
test_odd_application(void **state)
{
    (void)state;
    assert_int_equal(zp_test_wait(zp_test_fork(odd_application, NULL), 30), 0);
}

/* ---------------------------------------------------------- no good start --
 */

static void
write_script(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* A ctx_new() with a program that is none: the code, and words of the text. */
static void
refused_with(const char *server, const char *word)
{
    zp_ctx_options options = {.size = sizeof options, .start_timeout = 0.5};
    char *before = strdup(program());
    zp_ctx *ctx = NULL;
    int rc;

    assert_non_null(before);
    options.start_timeout *= zp_test_slow();
    setenv("ZP_SERVER", server, 1);
    rc = zp_ctx_new(&ctx, &options);
    setenv("ZP_SERVER", before, 1);
    free(before);
    zp_ctx_free(ctx);
    assert_int_equal(rc, ZP_ENOSERVER);
    if (!strstr(zp_ctx_error(NULL), word))
        fail_msg("no \"%s\" in: %s", word, zp_ctx_error(NULL));
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

static void
test_bad_programs(void **state)
{
    const char *script = zp_test_path("script");

    (void)state;
    refused_with("/nonexistent/zp-server", "/nonexistent/zp-server");
    if (!zp_test_valgrind()) /* there it tells of status 127 instead */
        refused_with("/etc/passwd", "/etc/passwd");
    write_script(script, "#!/bin/sh\nexit 7\n");
    refused_with(script, "status 7");
    write_script(script, "#!/bin/sh\nkill -9 $$\n");
    refused_with(script, "signal 9");
    write_script(script, "#!/bin/sh\nexec sleep 1000\n");
    refused_with(script, "time");
    write_script(script, "#!/bin/sh\necho nonsense >&3\n");
    refused_with(script, "nonsense");
    write_script(script, "#!/bin/sh\necho -5 out of luck >&3\n");
    refused_with(script, "out of luck");
    write_script(script, "#!/bin/sh\necho 0 1 >&3\nexec sleep 1000\n");
    refused_with(script, ""); /* and does not leave it running */
    /* says it serves, and does not */
    write_script(script, "#!/bin/sh\necho 0 1 >&3\n");
    refused_with(script, "does not serve");
}

/* ------------------------------------------------------------- killed -- */

/* Killed again and again; each time the next call that needs it brings a new
 * one, within a second, and the state is as it was. */
static void
test_killed(void **state)
{
    zp_ctx *ctx = new_ctx(NULL);
    zp_state *s = zp_ctx_state(ctx);
    pid_t pid = server_of(ctx);
    int64_t value;
    double begun;
    int late = 0;

    (void)state;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(zp_set_int(s, "a", i), 0);
        zp_test_kill_server(pid);
        assert_int_equal(zp_get_int(s, "a", &value), 0); /* needs none */
        assert_int_equal(value, i);
        begun = zp_test_now();
        pid = server_of(ctx);
        /* one of a loaded machine's hiccups is not our doing */
        late += zp_test_now() - begun > 1 * zp_test_slow();
    }
    assert_true(late < 3);
    assert_int_equal(generation_of(ctx), 21);
    zp_ctx_free(ctx);
}

/* Asked with ever more descriptors, until there are enough: an error as long as
 * there are too few, and then all is well. libzmq would abort the process. */
static void
test_few_descriptors(void **state)
{
    struct rlimit before, few;
    int rc = -1, more, highest;
    zp_ctx *ctx = new_ctx(NULL);

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    highest = dup(0);
    close(highest);
    few = before;
    for (more = 0; rc < 0 && more < 60; more++) {
        few.rlim_cur = (rlim_t)(highest + more);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        rc = zp_ping(ctx, NULL, NULL, 0, ANSWER);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        if (rc < 0)
            assert_int_equal(rc, -EMFILE);
    }
    assert_int_equal(rc, 0);
    assert_true(more > 3);
    zp_ctx_free(ctx);
}

typedef struct herd {
    zp_sync ready;
    zp_sync go;
    const char *address;
} herd;

static int
herd_member(void *user)
{
    herd *h = user;
    zp_ctx *ctx = attach(h->address);

    zp_sync_post(&h->ready);
    zp_sync_wait(&h->go, 30);
    server_of(ctx);
    zp_ctx_free(ctx);
    return 0;
}

/* Many notice at once: one starts a server, the others find it. */
static void
test_herd(void **state)
{
    enum { MEMBERS = 10 };
    zp_ctx *ctx = new_ctx(NULL);
    herd h = {.address = zp_ctx_address(ctx)};
    /* not by a ping: TSan does not let a process with threads fork one that
     * starts some */
    pid_t pids[MEMBERS], server = (pid_t)stats_of(ctx).server_pid;

    (void)state;
    zp_sync_open(&h.ready);
    zp_sync_open(&h.go);
    for (int i = 0; i < MEMBERS; i++)
        pids[i] = zp_test_fork(herd_member, &h);
    for (int i = 0; i < MEMBERS; i++)
        zp_sync_wait(&h.ready, 30);
    zp_test_kill_server(server);
    ends(server, 5);
    for (int i = 0; i < MEMBERS; i++)
        zp_sync_post(&h.go);
    for (int i = 0; i < MEMBERS; i++)
        assert_int_equal(zp_test_wait(pids[i], 30), 0);
    assert_int_equal(generation_of(ctx), 2);
    zp_sync_close(&h.ready);
    zp_sync_close(&h.go);
    zp_ctx_free(ctx);
}

/* A second server on a live state is refused, and harms nothing. */
static void
test_refused_twice(void **state)
{
    zp_ctx *ctx = new_ctx("once");
    pid_t server = server_of(ctx);
    zp_test_output output;
    char command[512];
    zp_serve_options options = {.size = sizeof options};

    (void)state;
    snprintf(command, sizeof command,
             "\"$ZP_SERVER\" --run-dir '%s' --ready-fd 3 3>&1",
             zp_ctx_address(ctx));
    zp_test_run_program(
        &output, &(zp_test_run){.argv = (const char *const[]){"/bin/sh", "-c",
                                                              command, NULL}});
    snprintf(command, sizeof command, "%d process %d serves", -EADDRINUSE,
             (int)server);
    if (!strstr(output.out, command))
        fail_msg("it said: %s", output.out);
    zp_test_output_free(&output);
    zp_test_run_program(&output,
                        &(zp_test_run){.argv = (const char *const[]){
                                           program(), "--name", "once", NULL}});
    assert_int_equal(output.status, 3);
    assert_non_null(strstr(output.err, "in use"));
    assert_string_equal(output.out, "");
    zp_test_output_free(&output);
    options.run_dir = zp_ctx_address(ctx);
    assert_int_equal(zp_serve(&options), -EADDRINUSE);
    assert_int_equal(server_of(ctx), server);
    assert_int_equal(generation_of(ctx), 1);
    zp_ctx_free(ctx);
}

/* ------------------------------------------------------- with its owner -- */

typedef struct family {
    zp_sync pids;
} family;

/* Does not want to end: only KILL does it. */
static int
stubborn(zp_ctx *ctx, void *arg)
{
    family *f = arg;

    (void)ctx;
    signal(SIGTERM, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    zp_sync_send(&f->pids, getpid());
    while (pause() < 0)
        continue;
    return 0;
}

/* A child with a stubborn child of its own. */
static int
parent(zp_ctx *ctx, void *arg)
{
    family *f = arg;

    prctl(PR_SET_PDEATHSIG, 0);
    assert_int_equal(zp_spawn(ctx, NULL, NULL, stubborn, f), 0);
    zp_sync_send(&f->pids, getpid());
    while (pause() < 0)
        continue;
    return 0;
}

static int
owner(void *user)
{
    family *f = user;
    zp_ctx *ctx = new_ctx("family");

    assert_int_equal(zp_spawn(ctx, NULL, NULL, parent, f), 0);
    assert_int_equal(zp_spawn(ctx, NULL, NULL, stubborn, f), 0);
    zp_sync_send(&f->pids, server_of(ctx));
    while (pause() < 0)
        continue;
    return 0;
}

/* The owner is killed: within two seconds its children, theirs, the server and
 * the directory are gone, however they cling to life. */
static void
test_no_orphans(void **state)
{
    enum { PIDS = 4 };
    family f;
    pid_t pid, pids[PIDS];
    double begun;

    (void)state;
    zp_sync_open(&f.pids);
    pid = zp_test_fork(owner, &f);
    for (int i = 0; i < PIDS; i++)
        pids[i] = (pid_t)zp_sync_receive(&f.pids, 30);
    for (int i = 0; i < PIDS; i++)
        assert_true(is_alive(pids[i]));
    begun = zp_test_now();
    kill(pid, SIGKILL);
    assert_int_equal(zp_test_wait(pid, 5), -SIGKILL);
    for (int i = 0; i < PIDS; i++)
        ends(pids[i], 2 - (zp_test_now() - begun));
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
    zp_sync_close(&f.pids);
}

/* ------------------------------------------------------------- by hand -- */

typedef struct by_hand {
    pid_t pid;
    char address[512]; /* its first line, what may be attached to */
} by_hand;

static void
start_by_hand(by_hand *ret, const char *const *argv)
{
    int out[2];
    size_t used = 0;
    ssize_t n;

    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    fflush(NULL);
    ret->pid = fork();
    assert_true(ret->pid >= 0);
    if (ret->pid == 0) {
        dup2(out[1], 1);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(out[1]);
    do {
        n = read(out[0], ret->address + used, sizeof ret->address - used);
        assert_true(n > 0 || errno == EINTR);
        used += n > 0 ? (size_t)n : 0;
    } while (ret->address[used - 1] != '\n');
    ret->address[used - 1] = '\0';
    close(out[0]);
}

static void
test_by_hand(void **state)
{
    static const int how[] = {SIGTERM, SIGINT, SIGHUP};
    const char *const argv[] = {program(),         "--name", "desk",
                                "--log-revisions", "64",     NULL};
    zp_ctx *ctx, *by_address;
    by_hand server;
    int64_t value;

    (void)state;
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        start_by_hand(&server, argv);
        ctx = attach("desk");
        by_address = attach(server.address);
        assert_int_equal(server_of(ctx), server.pid);
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), "a", 5), 0);
        assert_int_equal(zp_get_int(zp_ctx_state(by_address), "a", &value), 0);
        assert_int_equal(value, 5);
        zp_ctx_free(by_address);
        kill(server.pid, how[i]);
        assert_int_equal(zp_test_wait(server.pid, 5), 0);
        assert_int_equal(zp_set_int(zp_ctx_state(ctx), "a", 5), ZP_ECLOSED);
        zp_ctx_free(ctx);
        assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
    }
}

/* Under nohup it does not end with its terminal. */
static void
test_by_hand_nohup(void **state)
{
    const char *const argv[] = {program(), "--name", "desk", NULL};
    by_hand server;
    zp_ctx *ctx;

    (void)state;
    signal(SIGHUP, SIG_IGN);
    start_by_hand(&server, argv);
    signal(SIGHUP, SIG_DFL);
    ctx = attach("desk");
    kill(server.pid, SIGHUP);
    for (int i = 0; i < 3; i++) /* the first may overtake the signal */
        assert_int_equal(server_of(ctx), server.pid);
    zp_ctx_free(ctx);
    kill(server.pid, SIGTERM);
    assert_int_equal(zp_test_wait(server.pid, 5), 0);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

/* Killed by hand: who is attached is told, the next one has the name. */
static void
test_by_hand_killed(void **state)
{
    const char *const argv[] = {program(), "--name", "desk", NULL};
    by_hand server;
    zp_ctx *ctx;

    (void)state;
    start_by_hand(&server, argv);
    ctx = attach("desk");
    server_of(ctx);
    kill(server.pid, SIGKILL);
    assert_int_equal(zp_test_wait(server.pid, 5), -SIGKILL);
    assert_int_equal(zp_ping(ctx, NULL, NULL, 0, 5), ZP_ECLOSED);
    zp_ctx_free(ctx);
    start_by_hand(&server, argv);
    kill(server.pid, SIGTERM);
    assert_int_equal(zp_test_wait(server.pid, 5), 0);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

static void
test_by_hand_durable(void **state)
{
    const char *path = zp_test_path("durable");
    const char *const argv[] = {program(), "--path", path,
                                "--sync",  "0.05",   NULL};
    by_hand server;
    int64_t value;
    zp_ctx *ctx;

    (void)state;
    for (int i = 0; i < 2; i++) {
        start_by_hand(&server, argv);
        ctx = attach(path);
        if (i)
            assert_int_equal(zp_increase(zp_ctx_state(ctx), "a", &value, 1), 0);
        else
            assert_int_equal(zp_set_int(zp_ctx_state(ctx), "a", 5), 0);
        zp_ctx_free(ctx);
        kill(server.pid, SIGTERM);
        assert_int_equal(zp_test_wait(server.pid, 5), 0);
    }
    assert_int_equal(value, 6);
    assert_int_equal(zp_test_entries(zp_test_run_dir()), 0);
}

typedef struct wrong {
    const char *argv[6];
    int status;
    const char *word;
} wrong;

/* One line on standard error, a fixed exit code. */
static void
test_wrong_usage(void **state)
{
    static const wrong all[] = {
        {{"--nonsense"}, 2, "--nonsense"},
        {{"--name"}, 2, "--name"},
        {{"-x"}, 2, "-x"},
        {{"argument"}, 2, "argument"},
        {{"--max-bytes", "12Q"}, 2, "--max-bytes"},
        {{"--max-bytes", "-1"}, 2, "--max-bytes"},
        {{"--max-bytes", "99999999999999G"}, 2, "--max-bytes"},
        {{"--max-bytes", ""}, 2, "--max-bytes"},
        {{"--sync", "often"}, 2, "--sync"},
        {{"--sync", "nan"}, 2, "--sync"},
        {{"--run-dir", "/tmp"}, 2, "--ready-fd"},
        {{"--ready-fd", "5"}, 2, "--run-dir"},
        {{"--ready-fd", "1", "--run-dir", "/tmp"}, 2, "--ready-fd"},
        {{"--run-dir", "/", "--ready-fd", "9", "--name=x"}, 2, "--run-dir"},
        {{"--name", "a/b"}, 1, "a/b"},
        {{"--path", "/proc/nonexistent/x"}, 1, "/proc/nonexistent"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *argv[7] = {program()};
        zp_test_output output;
        char *end;

        for (int j = 0; j < 6; j++)
            argv[j + 1] = j < 5 ? all[i].argv[j] : NULL;
        zp_test_run_program(&output, &(zp_test_run){.argv = argv});
        end = strchr(output.err, '\n');
        if (output.status != all[i].status || output.out[0] || !end || end[1] ||
            strncmp(output.err, "zp-server: ", 11) != 0 ||
            !strstr(output.err, all[i].word))
            fail_msg("%zu: it ended with %d and said: %s%s", i, output.status,
                     output.out, output.err);
        zp_test_output_free(&output);
    }
    zp_test_prints((const char *const[]){program(), "--version", NULL},
                   "zp-server (zproc) 1.0.0\n");
}

/* The address goes nowhere: no SIGPIPE, it serves all the same. */
static void
test_nobody_reads_the_address(void **state)
{
    int out[2];
    zp_ctx *ctx = NULL;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    close(out[0]);
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        dup2(out[1], 1);
        execl(program(), program(), "--name", "mute", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    double end = zp_test_now() + 10 * zp_test_slow();
    while (zp_ctx_attach(&ctx, "mute", NULL) < 0)
        assert_true(zp_test_now() < end);
    assert_int_equal(server_of(ctx), pid);
    zp_ctx_free(ctx);
    kill(pid, SIGTERM);
    assert_int_equal(zp_test_wait(pid, 5), 0);
}

static void
test_bad_arguments(void **state)
{
    zp_serve_options options = {.size = 3};
    zp_ctx_options new_state = {.size = sizeof new_state};

    (void)state;
    assert_int_equal(zp_serve(NULL), -EINVAL);
    assert_int_equal(zp_serve(&options), -EINVAL);
    options.size = sizeof options;
    options.ready_fd = -1;
    assert_int_equal(zp_serve(&options), -EINVAL);
    options.ready_fd = 0;
    options.run_dir = "/nonexistent/state";
    assert_int_equal(zp_serve(&options), ZP_ENOSTATE);
    options.state = &new_state;
    assert_int_equal(zp_serve(&options), -EINVAL);
    options.run_dir = NULL;
    new_state.flags = 0x1000;
    assert_int_equal(zp_serve(&options), -EINVAL);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_detached),        ZP_TEST(test_odd_application),
        ZP_TEST(test_bad_programs),    ZP_TEST(test_killed),
        ZP_TEST(test_few_descriptors), ZP_TEST(test_herd),
        ZP_TEST(test_refused_twice),   ZP_TEST(test_no_orphans),
        ZP_TEST(test_by_hand),         ZP_TEST(test_by_hand_nohup),
        ZP_TEST(test_by_hand_killed),  ZP_TEST(test_by_hand_durable),
        ZP_TEST(test_wrong_usage),     ZP_TEST(test_nobody_reads_the_address),
        ZP_TEST(test_bad_arguments),
    };

    return zp_test_main("server", tests, sizeof tests / sizeof *tests, 60);
}
