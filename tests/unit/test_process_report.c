/*
 * test_process_report.c - processes in words, in each of their stages.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/process.h"

static zp_ctx *ctx;

static int
open_ctx(void **state)
{
    (void)state;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc < 0)
        print_error("# %s\n", zp_ctx_error(NULL));
    return rc;
}

static int
close_ctx(void **state)
{
    (void)state;
    ctx = zp_ctx_free(ctx);
    return 0;
}

#define REPORT_TEST(f) ZP_TEST_WITH(f, open_ctx, close_ctx)

static int
succeed(zp_ctx *own, void *arg)
{
    (void)own;
    (void)arg;
    return 7;
}

static int
miss(zp_ctx *own, void *arg)
{
    (void)arg;
    return zp_fail(own, -EIO, "no paper\nin the printer");
}

static int
be_killed(zp_ctx *own, void *arg)
{
    (void)own;
    (void)arg;
    return raise(SIGKILL);
}

static int
be_aborted(zp_ctx *own, void *arg)
{
    struct rlimit none = {0, 0};

    (void)own;
    (void)arg;
    setrlimit(RLIMIT_CORE, &none);
    abort();
}

static int
wait_for_ever(zp_ctx *own, void *arg)
{
    (void)own;
    (void)arg;
    while (pause() < 0)
        continue;
    return 0;
}

static zp_proc *
spawn(zp_proc_fn *fn, unsigned flags, const zp_retry *retry)
{
    zp_spawn_options options = {.size = sizeof options,
                                .flags = flags,
                                .name = "worker",
                                .retry = retry};
    zp_proc *proc = NULL;

    assert_int_equal(zp_spawn(ctx, &proc, &options, fn, NULL), 0);
    return proc;
}

/* The report: to be freed; it is no screen, and nothing but text. */
static char *
report_on(zp_proc *proc)
{
    char *text = NULL;
    size_t size = 0, lines = 0;
    FILE *file = open_memstream(&text, &size);

    assert_int_equal(zp_proc_report(proc, file), 0);
    fclose(file);
    for (size_t i = 0; i < size; i++) {
        assert_true(text[i] == '\n' || (unsigned char)text[i] >= ' ');
        lines += text[i] == '\n';
    }
    assert_true(lines < 24);
    return text;
}

/* Each of the strings is there, in this order. */
static void
says(zp_proc *proc, const char *const *parts)
{
    char *text = report_on(proc), *at = text;

    for (; *parts; parts++) {
        at = strstr(at, *parts);
        if (!at)
            fail_msg("no \"%s\" in its place in\n%s", *parts, text);
    }
    free(text);
}

#define SAYS(proc, ...) says(proc, (const char *[]){__VA_ARGS__, NULL})

static void
says_not(zp_proc *proc, const char *part)
{
    char *text = report_on(proc);

    if (strstr(text, part))
        fail_msg("there is \"%s\" in\n%s", part, text);
    free(text);
}

static void
test_a_success(void **state)
{
    (void)state;
    zp_proc *proc = spawn(succeed, 0, NULL);
    char who[64];
    assert_int_equal(zp_wait(proc, NULL, 20), 0);
    snprintf(who, sizeof who, "process %d (worker) succeeded\n",
             zp_proc_pid(proc));
    SAYS(proc, who, "  outcome   code 7, exit status 0\n", "  started   20",
         ", ran ", " s\n", "  attempts  1\n", "  record    ", " of ",
         zp_ctx_address(ctx), ", namespace default\n");
    says_not(proc, "error");
    says_not(proc, "backtrace");
}

static void
test_a_failure_with_a_text(void **state)
{
    (void)state;
    zp_proc *proc = spawn(miss, 0, NULL);
    assert_int_equal(zp_wait(proc, NULL, 20), ZP_EFAILED);
    SAYS(proc, " (worker) failed\n",
         "  outcome   code -5 (Input/output error), exit status 1\n",
         "  error     no paper?in the printer\n", "  at        ",
         "test_process_report.c:");
}

static void
test_signals(void **state)
{
    (void)state;
    zp_proc *proc = spawn(be_killed, 0, NULL);
    assert_int_equal(zp_wait(proc, NULL, 20), ZP_EFAILED);
    SAYS(proc, " failed\n", "(the process failed), SIGKILL\n",
         "  error     killed by");
    says_not(proc, "backtrace");
    proc = spawn(be_aborted, 0, NULL);
    assert_int_equal(zp_wait(proc, NULL, 20), ZP_EFAILED);
    SAYS(proc, "(the process failed), SIGABRT\n", "  backtrace\n    #0  ",
         "    #1  ", "abort+0x");
}

static void
test_one_that_has_not_ended(void **state)
{
    (void)state;
    zp_proc *proc = spawn(wait_for_ever, ZP_DEFERRED | ZP_SAYS_READY, NULL);
    SAYS(proc, "process (worker) was not started yet\n", "namespace default");
    says_not(proc, "attempts");
    says_not(proc, "outcome");
    assert_int_equal(zp_start(proc), 0);
    SAYS(proc, " (worker) runs\n", ", has run ", "  attempts  1\n");
    says_not(proc, "outcome");
    (void)zp_stop(proc, NULL);
    SAYS(proc, " failed\n", ", SIGTERM\n");
}

static void
test_one_that_never_ran(void **state)
{
    (void)state;
    zp_proc *proc = spawn(wait_for_ever, ZP_DEFERRED, NULL);
    (void)zp_stop(proc, NULL);
    SAYS(proc, " never ran\n", "code -125 (");
}

static bool
waits(void *user)
{
    zp_ctx_dispatch(ctx);
    return ((const zp_proc *)user)->stage == ZP__PROC_WAITING;
}

static void
test_one_that_is_to_run_again(void **state)
{
    (void)state;
    const zp_retry retry = {
        .size = sizeof retry, .retries = -1, .delay = 10000, .max_delay = 1e6};
    zp_proc *proc = spawn(miss, 0, &retry);
    assert_true(zp_test_until(waits, proc, 20));
    SAYS(proc, " failed, and will be started again\n", "  outcome   code -5",
         "  error     no paper", ", ran ", "  attempts  1\n");
    (void)zp_stop(proc, NULL);
}

static void
test_a_long_backtrace_is_cut(void **state)
{
    (void)state;
    zp_proc *proc = spawn(be_killed, 0, NULL);
    char lines[48 * 6 + 1] = "";
    assert_int_equal(zp_wait(proc, NULL, 20), ZP_EFAILED);
    for (int i = 0; i < 48; i++)
        snprintf(lines + strlen(lines), 7, "#%d\te\n", 10 + i);
    free(proc->backtrace);
    proc->backtrace = strdup(lines);
    SAYS(proc, "    #10?e\n", "    #21?e\n    ...\n");
    says_not(proc, "#22");
    memset(proc->error, 'e', sizeof proc->error - 1);
    SAYS(proc, "eee...\n");
}

static void
test_what_cannot_be_written(void **state)
{
    (void)state;
    zp_proc *proc = spawn(succeed, 0, NULL);
    FILE *full = fopen("/dev/full", "w");
    assert_int_equal(zp_wait(proc, NULL, 20), 0);
    assert_int_equal(zp_proc_report(proc, NULL), -EINVAL);
    assert_int_equal(zp_proc_report(NULL, stdout), -EINVAL);
    assert_non_null(full);
    assert_int_equal(zp_proc_report(proc, full), -EIO);
    assert_non_null(strstr(zp_ctx_error(ctx), "report"));
    fclose(full);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        REPORT_TEST(test_a_success),
        REPORT_TEST(test_a_failure_with_a_text),
        REPORT_TEST(test_signals),
        REPORT_TEST(test_one_that_has_not_ended),
        REPORT_TEST(test_one_that_never_ran),
        REPORT_TEST(test_one_that_is_to_run_again),
        REPORT_TEST(test_a_long_backtrace_is_cut),
        REPORT_TEST(test_what_cannot_be_written),
    };

    return zp_test_main("process report", tests, sizeof tests / sizeof *tests,
                        60);
}
