/*
 * zp-server - the state server's program.
 *
 * Two uses, one zp_serve(). Run by the library (--run-dir, --ready-fd) it first
 * detaches itself: from the descriptors it inherited (a pipeline whose writer
 * started us must end when that ends), from the session and its signals, from
 * the directory, and, by a fork of this small process, from whoever started
 * it, who reaps the first process at once. A second fork leaves a warden behind
 * (warden.c). What goes wrong is told through the descriptor, in the words of
 * zp_serve(). Run by hand it stays in the foreground, prints its address and
 * serves until SIGTERM or SIGINT.
 *
 * Exit codes: 0 it served and has ended, 1 it could not serve, 2 wrong usage,
 * 3 the name or path is in use.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <zp.h>

#include "tools/warden.h"

#define READY_FD 3 /* where the descriptor is kept when all others go */

enum exit_code { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_IN_USE = 3 };

enum option_id {
    RUN_DIR = 256,
    READY,
    NAME,
    PATH,
    SYNC,
    LOG_REVISIONS,
    LOG_BYTES,
    MAX_BYTES,
    MAP_BYTES,
    MAX_VALUE,
    HELP,
    VERSION
};

static const struct option long_options[] = {
    {"run-dir", required_argument, NULL, RUN_DIR},
    {"ready-fd", required_argument, NULL, READY},
    {"name", required_argument, NULL, NAME},
    {"path", required_argument, NULL, PATH},
    {"sync", required_argument, NULL, SYNC},
    {"log-revisions", required_argument, NULL, LOG_REVISIONS},
    {"log-bytes", required_argument, NULL, LOG_BYTES},
    {"max-bytes", required_argument, NULL, MAX_BYTES},
    {"map-bytes", required_argument, NULL, MAP_BYTES},
    {"max-value", required_argument, NULL, MAX_VALUE},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {NULL, 0, NULL, 0},
};

static const char help[] =
    "usage: zp-server [--name NAME] [--path DIR] [option ...]\n"
    "\n"
    "Make a state, print its address, and serve it until SIGTERM or SIGINT.\n"
    "\n"
    "  --name NAME        attach to it by this name (1-64 of A-Za-z0-9._-)\n"
    "  --path DIR         keep it in this directory; else in memory\n"
    "  --sync POLICY      with --path: `commit` (each change is on the disk\n"
    "                     before it returns, the default) or seconds between\n"
    "                     syncs\n"
    "  --log-revisions N  changes that watches and snapshots can go back\n"
    "  --log-bytes SIZE   ... and how many bytes of them\n"
    "  --max-bytes SIZE   of the whole state\n"
    "  --map-bytes SIZE   of address space\n"
    "  --max-value SIZE   of one value\n"
    "  --help, --version\n"
    "\n"
    "A SIZE may end in K, M or G (times 1024). The library itself runs this\n"
    "program as zp-server --run-dir DIR --ready-fd N for a state that exists.\n"
    "\n"
    "Exit codes: 0 it served and has ended, 1 it could not serve, 2 wrong\n"
    "usage, 3 the name or path is in use.\n";

/* One line on standard error; returns CODE. */
static int
complain(int code, const char *what, const char *why)
{
    fprintf(stderr, "zp-server: %s%s%s\n", what, why ? ": " : "",
            why ? why : "");
    return code;
}

/* ------------------------------------------------------------ arguments -- */

struct arguments {
    zp_serve_options serve;
    zp_ctx_options state;
    int done; /* --help, --version: exit with 0 */
};

/* A size with K, M or G behind it: 0, or EXIT_USAGE. */
static int
read_size(uint64_t *ret, const char *text, const char *name)
{
    static const char units[] = "KMG";
    unsigned long long value;
    const char *unit;
    char *end;
    unsigned shift = 0;

    errno = 0;
    value = strtoull(text, &end, 10);
    if (end != text && *end && (unit = strchr(units, *end)) != NULL) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
    }
    if (end == text || *end || errno || *text == '-' ||
        value > UINT64_MAX >> shift)
        return complain(EXIT_USAGE, name, "not a size");
    *ret = (uint64_t)value << shift;
    return 0;
}

/* `commit`, or seconds. */
static int
read_sync(zp_ctx_options *state, const char *text)
{
    char *end;

    if (strcmp(text, "commit") == 0) {
        state->sync = ZP_SYNC_COMMIT;
        return 0;
    }
    state->sync = ZP_SYNC_INTERVAL;
    state->sync_interval = strtod(text, &end);
    if (end == text || *end || !(state->sync_interval > 0) ||
        state->sync_interval > 86400)
        return complain(EXIT_USAGE, "--sync", "not `commit`, nor seconds");
    return 0;
}

static int
read_fd(int *ret, const char *text)
{
    char *end;
    long fd = strtol(text, &end, 10);

    if (end == text || *end || fd < READY_FD || fd > INT_MAX)
        return complain(EXIT_USAGE, "--ready-fd", "not a descriptor above 2");
    *ret = (int)fd;
    return 0;
}

static int
read_option(struct arguments *arguments, int option, const char *value)
{
    zp_ctx_options *state = &arguments->state;

    switch (option) {
    case RUN_DIR:
        arguments->serve.run_dir = value;
        return 0;
    case READY:
        return read_fd(&arguments->serve.ready_fd, value);
    case NAME:
        state->name = value;
        return 0;
    case PATH:
        state->path = value;
        return 0;
    case SYNC:
        return read_sync(state, value);
    case LOG_REVISIONS:
        return read_size(&state->log_revisions, value, "--log-revisions");
    case LOG_BYTES:
        return read_size(&state->log_bytes, value, "--log-bytes");
    case MAX_BYTES:
        return read_size(&state->max_bytes, value, "--max-bytes");
    case MAP_BYTES:
        return read_size(&state->map_bytes, value, "--map-bytes");
    case MAX_VALUE:
        return read_size(&state->max_value, value, "--max-value");
    case HELP:
        fputs(help, stdout);
        arguments->done = 1;
        return 0;
    case VERSION:
        printf("zp-server (zproc) %s\n", zp_version());
        arguments->done = 1;
        return 0;
    default:
        return EXIT_USAGE;
    }
}

static int
read_arguments(struct arguments *arguments, int argc, char **argv)
{
    int option, rc;

    memset(arguments, 0, sizeof *arguments);
    arguments->serve.size = sizeof arguments->serve;
    arguments->state.size = sizeof arguments->state;
    opterr = 0; /* one line, in our words */
    while ((option = getopt_long(argc, argv, "+:", long_options, NULL)) >= 0) {
        if (option == ':')
            return complain(EXIT_USAGE, argv[optind - 1], "needs a value");
        if (option == '?')
            return complain(EXIT_USAGE, argv[optind - 1],
                            "no such option; try --help");
        rc = read_option(arguments, option, optarg);
        if (rc || arguments->done)
            return rc;
    }
    if (optind < argc)
        return complain(EXIT_USAGE, argv[optind],
                        "takes options only; try --help");
    if (!arguments->serve.run_dir != !arguments->serve.ready_fd)
        return complain(EXIT_USAGE, "--run-dir and --ready-fd go together",
                        NULL);
    if (arguments->serve.run_dir &&
        (arguments->state.name || arguments->state.path))
        return complain(EXIT_USAGE, "--run-dir is for a state that exists",
                        NULL);
    return 0;
}

/* ------------------------------------------------------------ detaching -- */

/* Tell whoever waits at FD, in the form of zp_serve(), and give up. */
static int
give_up(int fd, const char *what)
{
    int saved = errno;

    dprintf(fd, "%d %s: %s\n", -saved, what, strerror(saved));
    return EXIT_FAILED;
}

/* Close every descriptor from FIRST on, the slow way. */
static void
close_one_by_one(int first)
{
    struct dirent *entry;
    DIR *dir = opendir("/proc/self/fd");
    int fd;

    if (!dir)
        return;
    while ((entry = readdir(dir)) != NULL) {
        fd = atoi(entry->d_name);
        if (fd >= first && fd != dirfd(dir))
            close(fd);
    }
    closedir(dir);
}

/* The standard three to /dev/null, the ready one to READY_FD, the others
 * closed. */
static int
detach_fds(int ready)
{
    int null, i;

    if (ready != READY_FD && dup2(ready, READY_FD) < 0)
        return -1;
    if (syscall(SYS_close_range, READY_FD + 1, ~0U, 0) < 0)
        close_one_by_one(READY_FD + 1);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        return -1;
    for (i = 0; i < READY_FD; i++)
        if (dup2(null, i) < 0)
            return -1;
    if (null > READY_FD)
        close(null);
    return fcntl(READY_FD, F_SETFD, FD_CLOEXEC);
}

/* Nothing blocked, everything at its default, but for what a terminal or a
 * broken pipe would send. */
static void
detach_signals(void)
{
    static const int ignored[] = {SIGINT, SIGQUIT, SIGHUP, SIGPIPE};
    struct sigaction action;
    sigset_t none;
    size_t i;
    int n;

    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_DFL;
    for (n = 1; n < NSIG; n++)
        (void)sigaction(n, &action, NULL);
    action.sa_handler = SIG_IGN;
    for (i = 0; i < sizeof ignored / sizeof *ignored; i++)
        (void)sigaction(ignored[i], &action, NULL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Each watching process is a connection or two. */
static void
raise_fd_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Become a process of nobody's: -1 in it, else the exit code of this one. */
static int
detach(zp_serve_options *serve)
{
    static char run_dir[PATH_MAX];
    pid_t pid;

    detach_signals();
    if (!realpath(serve->run_dir, run_dir))
        return give_up(serve->ready_fd, serve->run_dir);
    serve->run_dir = run_dir;
    if (detach_fds(serve->ready_fd) < 0)
        return give_up(serve->ready_fd, "cannot let go of descriptors");
    serve->ready_fd = READY_FD;
    if (chdir("/") < 0)
        return give_up(READY_FD, "/");
    (void)setsid(); /* fails when we lead a session already */
    raise_fd_limit();
    pid = fork();
    if (pid < 0)
        return give_up(READY_FD, "cannot fork");
    return pid ? EXIT_SUCCESS : -1;
}

int
main(int argc, char **argv)
{
    struct arguments arguments;
    int rc;

    rc = read_arguments(&arguments, argc, argv);
    if (rc || arguments.done)
        return rc || !fflush(stdout) ? rc : EXIT_FAILED;
    umask(077);
    (void)mallopt(M_ARENA_MAX, 1); /* libzmq's thread needs none of its own */
    if (arguments.serve.run_dir) {
        rc = detach(&arguments.serve);
        if (rc >= 0)
            _exit(rc);
        arguments.serve.ready_fd = zp_warden(arguments.serve.ready_fd);
    } else {
        arguments.serve.state = &arguments.state;
        arguments.serve.ready_fd = STDOUT_FILENO;
    }
    rc = zp_serve(&arguments.serve);
    if (rc >= 0)
        return EXIT_SUCCESS;
    return complain(rc == -EADDRINUSE ? EXIT_IN_USE : EXIT_FAILED,
                    *zp_ctx_error(NULL) ? zp_ctx_error(NULL) : zp_strerror(rc),
                    NULL);
}
