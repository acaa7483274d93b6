/*
 * server.c - how a state server comes to be, and how it goes.
 *
 *     find the state -> open its store -> flock -> filter to zero -> sockets
 *        -> published = head -> name ourselves in the board, generation + 1
 *        -> tell that we serve -> loop -> closing
 *
 * The flock on DIR/lock is what makes a server the one: it is taken before
 * anything of another's is touched (binding unlinks a socket file, and zmq
 * steals a live one silently), and given back by the end of the process alone.
 * A server that cannot get it leaves everything as it was.
 *
 * Starting at the head loses nothing: a watcher subscribes anew when it has
 * connected to us, and reads the log after we answered its sync topic.
 *
 * Closing: `closed` in the board first, then a wake-up to everybody, so that
 * each looks at it; the tree; our sockets (zmq unlinks their files, so this
 * has to come before another state can have the name); the directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/create.h"
#include "core/error.h"
#include "core/loop.h"
#include "core/room.h"
#include "core/server.h"
#include "core/wire.h"
#include "core/zmq_call.h"

#define PUB_QUEUE 64      /* messages per watcher; beyond, they are dropped */
#define CTL_QUEUE 8       /* requests, answers per client */
#define BACKLOG 1024      /* all of a state's processes may connect at once */
#define FAREWELL_MS 200   /* to get the last wake-ups out */
#define GRACE_SECONDS 1.0 /* between TERM and KILL */
#define TAKE_SECONDS 2.0  /* for a dying server to let go of its flock */

/* ---------------------------------------------------------- the signals -- */

/* What a server by hand ends at; SIGPIPE is blocked, so that telling the
 * address to nobody is an error and not the end. */
struct signals {
    sigset_t before;
    bool changed;
};

/* Block them and get them through a descriptor: that, or an error. */
static int
take_signals(struct signals *signals)
{
    struct sigaction hup;
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigaction(SIGHUP, NULL, &hup) < 0 || hup.sa_handler != SIG_IGN)
        sigaddset(&set, SIGHUP); /* not under nohup */
    if (sigprocmask(SIG_BLOCK, &set, &signals->before) < 0)
        return zp__fail_errno(errno, "cannot block signals");
    signals->changed = true;
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return zp__fail_errno(errno, "cannot make a descriptor for signals");
    return fd;
}

/* Back to the mask before; what we ended at has been answered. */
static void
give_signals(struct signals *signals, int fd)
{
    struct signalfd_siginfo info;

    if (fd >= 0) {
        while (read(fd, &info, sizeof info) == sizeof info)
            ;
        close(fd);
    }
    if (signals->changed)
        sigprocmask(SIG_SETMASK, &signals->before, NULL);
}

/* Write TEXT to FD as far as it goes, without a SIGPIPE. */
static void
say(int fd, const char *text)
{
    static const struct timespec at_once = {0, 0};
    sigset_t pipe, before, pending;
    size_t left = strlen(text);
    ssize_t n;

    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    sigprocmask(SIG_BLOCK, &pipe, &before);
    while (left) {
        n = write(fd, text, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        text += n;
        left -= (size_t)n;
    }
    if (left && !sigismember(&pending, SIGPIPE))
        while (sigtimedwait(&pipe, NULL, &at_once) < 0 && errno == EINTR)
            ;
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* ---------------------------------------------------------- the sockets -- */

/* A bound socket of TYPE at FILE in the run directory, or an error. */
static int
bind_socket(zp__server *server, void **ret, int type, const char *file)
{
    char path[ZP__PATH_MAX], address[ZP__PATH_MAX + 8];
    int64_t largest = ZP__ANSWER_HEAD + ZP__PAYLOAD_MAX;
    bool is_pub = type == ZMQ_XPUB;
    void *socket;

    zp__place_file(&server->place, file, path);
    snprintf(address, sizeof address, "ipc://%s", path);
    socket = zmq_socket(server->zmq, type);
    if (!socket)
        return zp__fail(zp__zmq_error(), "cannot make a socket: %s",
                        zmq_strerror(errno));
    *ret = socket; /* from here on closed by close_sockets() */
    if (zp__zmq_set(socket, ZMQ_LINGER, 0) < 0 ||
        zp__zmq_set(socket, ZMQ_BACKLOG, BACKLOG) < 0 ||
        zp__zmq_set(socket, ZMQ_SNDHWM, is_pub ? PUB_QUEUE : CTL_QUEUE) < 0 ||
        zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) < 0)
        goto failed;
    if (is_pub ? zp__zmq_set(socket, ZMQ_XPUB_VERBOSE, 1) < 0
               : zp__zmq_set(socket, ZMQ_ROUTER_MANDATORY, 1) < 0 ||
                     zp__zmq_set(socket, ZMQ_RCVHWM, CTL_QUEUE) < 0)
        goto failed;
    if (unlink(path) < 0 && errno != ENOENT)
        return zp__fail_errno(errno, "cannot remove the old socket %s", path);
    if (zmq_bind(socket, address) < 0)
        goto failed;
    return 0;
failed:
    return zp__fail(zp__zmq_error(), "cannot bind %s: %s", path,
                    zmq_strerror(errno));
}

static int
open_sockets(zp__server *server)
{
    int rc = zp__room_for_zmq();

    if (rc < 0)
        return rc;
    server->zmq = zmq_ctx_new();
    if (!server->zmq)
        return zp__fail(-ENOMEM, "no memory for sockets");
    zmq_ctx_set(server->zmq, ZMQ_BLOCKY, 0);
    zmq_ctx_set(server->zmq, ZMQ_IO_THREADS, 1);
    zmq_ctx_set(server->zmq, ZMQ_MAX_SOCKETS, 8);
    rc = bind_socket(server, &server->pub, ZMQ_XPUB, "pub");
    if (rc >= 0)
        rc = bind_socket(server, &server->ctl, ZMQ_ROUTER, "ctl");
    if (rc < 0)
        return rc;
    server->pub_fd = zp__zmq_get(server->pub, ZMQ_FD);
    server->ctl_fd = zp__zmq_get(server->ctl, ZMQ_FD);
    server->pub_used = server->ctl_used = true;
    if (server->pub_fd < 0 || server->ctl_fd < 0)
        return zp__fail(-EIO, "the sockets have no descriptor");
    return 0;
}

static void
close_sockets(zp__server *server)
{
    if (server->pub)
        zmq_close(server->pub);
    if (server->ctl)
        zmq_close(server->ctl);
    if (server->zmq)
        while (zmq_ctx_term(server->zmq) < 0 && errno == EINTR)
            ;
    server->pub = server->ctl = server->zmq = NULL;
}

/* -------------------------------------------------------------- opening -- */

/* The server's flock. One that died a moment ago may hold it still (its other
 * threads take a while to end); a live one keeps it. */
static int
take_lock(zp__server *server)
{
    static const struct timespec ms = {0, 1000000};
    double until = zp__now() + TAKE_SECONDS;
    zp__pid other;
    int fd;

    for (;;) {
        fd = zp__place_flock(&server->place, "lock");
        if (fd != -EWOULDBLOCK)
            return fd;
        other = zp__board_server(server->board);
        if (!other.pid || zp__pid_alive(&other) || zp__now() >= until)
            return zp__fail(-EADDRINUSE, "process %d serves %s", other.pid,
                            server->place.run);
        nanosleep(&ms, NULL);
    }
}

static int
find_owner(zp__server *server)
{
    int fd;

    server->owner = server->board->shared->owner;
    if (server->self_owned)
        return 0;
    fd = zp__pid_open(&server->owner);
    if (fd == -ESRCH)
        return zp__fail(ZP_ECLOSED, "the owner of %s, process %d, has ended",
                        server->place.run, server->owner.pid);
    server->owner_fd = fd < 0 ? -1 : fd; /* without one: by the clock */
    return 0;
}

static int
start_at_head(zp__server *server)
{
    uint64_t tail;
    int rc;

    server->calls = atomic_load(&server->board->shared->calls);
    atomic_store(&server->board->shared->bare, 0);
    rc = zp__view_begin(server->view);
    if (rc < 0)
        return rc;
    rc = zp__view_range(server->view, &server->published, &tail);
    zp__view_end(server->view);
    return rc;
}

/* Tell everybody that we serve. The generation comes last: who sees a new one
 * finds our name. */
static void
enter_board(zp__server *server)
{
    zp__shared *shared = server->board->shared;
    zp__pid self = zp__pid_self();

    atomic_store(&shared->asleep, 0);
    atomic_store(&shared->server_pid, 0);
    atomic_store(&shared->server_start, self.start);
    atomic_store(&shared->server_pid, self.pid);
    server->generation = atomic_fetch_add(&shared->generation, 1) + 1;
}

static void
plan_duties(zp__server *server)
{
    const zp__limits *limits = zp__store_limits(server->store);
    double now = zp__now();

    server->next_duty = now;
    server->next_readers = now; /* those of a server that was killed */
    if (limits->sync == ZP_SYNC_INTERVAL && limits->durable)
        server->next_sync = now + limits->sync_interval;
}

/* Everything up to the loop. -EADDRINUSE and ZP_ECLOSED: see zp_serve(). */
static int
open_server(zp__server *server)
{
    struct stat st;
    int rc;

    rc = zp__store_open(&server->store, &server->place);
    if (rc < 0)
        return rc;
    server->board = zp__store_board(server->store);
    if (server->lock < 0) {
        rc = server->lock = take_lock(server);
        if (rc < 0)
            return rc;
    }
    rc = zp__view_new(&server->view, server->store);
    if (rc < 0)
        return rc;
    rc = find_owner(server);
    if (rc < 0)
        return rc;
    if (stat(server->place.run, &st) < 0)
        return zp__fail_errno(errno, "cannot look at %s", server->place.run);
    server->dev = (uint64_t)st.st_dev;
    server->inode = (uint64_t)st.st_ino;
    server->request = malloc(ZP__ANSWER_HEAD + ZP__PAYLOAD_MAX);
    if (!server->request)
        return zp__fail(-ENOMEM, "no memory for requests");
    rc = zp__topics_init(&server->topics, server->board->shared->interest);
    if (rc >= 0)
        rc = open_sockets(server);
    if (rc >= 0)
        rc = start_at_head(server);
    if (rc < 0)
        return rc;
    zp__server_find_map(server);
    plan_duties(server);
    zp__server_bells_open(server);
    zp__server_leases_open(server);
    enter_board(server);
    return 0;
}

/* -------------------------------------------------------------- closing -- */

/* The state ends: tell all, end the tree, leave nothing behind. */
static void
close_state(zp__server *server)
{
    atomic_store(&server->board->shared->closed, 1);
    if (server->pub) {
        (void)zp__server_read_pub(server);
        zp__server_publish_all(server);
        (void)zp__zmq_set(server->pub, ZMQ_LINGER, FAREWELL_MS);
    }
    if (server->view)
        zp__server_end_tree(server, GRACE_SECONDS);
    if (server->next_sync > 0)
        (void)zp__store_sync(server->store);
    close_sockets(server);
    zp__place_remove(&server->place);
}

/* Everything that is this process's alone. The flock goes last. */
static void
free_server(zp__server *server)
{
    close_sockets(server);
    zp__server_bells_free(server);
    zp__server_leases_free(server);
    zp__server_orphans_free(server);
    zp__topics_free(&server->topics);
    free(server->request);
    if (server->owner_fd >= 0)
        close(server->owner_fd);
    if (server->statm_fd >= 0)
        close(server->statm_fd);
    if (server->view)
        zp__view_free(server->view);
    if (server->store)
        zp__store_close(server->store);
    if (server->lock >= 0)
        close(server->lock);
    free(server);
}

/* The sockets' files are another's by now, or will be: zmq must not unlink
 * them. It is left as it is; the process is about to end. */
static void
abandon_sockets(zp__server *server)
{
    server->pub = server->ctl = server->zmq = NULL;
}

/* What the end of the loop means. */
static int
finish(zp__server *server, int end)
{
    switch (end) {
    case ZP__END_OWNER:
    case ZP__END_SIGNAL:
        close_state(server);
        return 0;
    case ZP__END_TAKEN:
        abandon_sockets(server);
        return zp__fail(-EADDRINUSE, "another server has taken over %s",
                        server->place.run);
    case ZP__END_VANISHED:
        abandon_sockets(server);
        return zp__fail(ZP_ENOSTATE, "the directory %s is gone",
                        server->place.run);
    default: /* whoever needs a server starts the next one */
        if (server->self_owned)
            close_state(server);
        return end;
    }
}

/* ------------------------------------------------------------- the ways in */

static zp__server *
new_server(bool self_owned)
{
    zp__server *server = calloc(1, sizeof *server);

    if (!server)
        return NULL;
    server->lock = server->owner_fd = server->signal_fd = -1;
    server->statm_fd = server->leases.poll_fd = -1;
    memset(server->bells, 0xff, sizeof server->bells); /* -1: not opened */
    server->self_owned = self_owned;
    return server;
}

/* What goes through the pipe of who started us: "0 PID" or "CODE TEXT". */
static void
report(int fd, int rc)
{
    char line[ZP__ERROR_MAX + 32];

    if (fd <= 0)
        return;
    if (rc < 0)
        snprintf(line, sizeof line, "%d %s\n", zp__fail_code(rc),
                 zp__fail_text());
    else
        snprintf(line, sizeof line, "0 %d\n", (int)getpid());
    say(fd, line);
    close(fd);
}

/* It could not be opened: perhaps a server was killed while it removed it.
 * Returns RC, with its text. */
static int
sweep(int rc)
{
    char text[ZP__ERROR_MAX];

    zp__fail_code(rc);
    snprintf(text, sizeof text, "%s", zp__fail_text());
    zp__place_sweep();
    return zp__fail(rc, "%s", text);
}

/* Serve a state that exists. */
static int
serve_existing(const char *run_dir, int ready_fd)
{
    zp__server *server = new_server(false);
    bool opened;
    int rc;

    if (!server) {
        rc = zp__fail(-ENOMEM, "no memory for a server");
        report(ready_fd, rc);
        return rc;
    }
    rc = zp__place_reach(&server->place, run_dir);
    if (rc >= 0)
        rc = open_server(server);
    if (rc == ZP_ECLOSED && server->lock >= 0)
        close_state(server); /* nobody else will */
    opened = rc >= 0;
    report(ready_fd, rc);
    if (opened)
        rc = finish(server, zp__server_loop(server));
    free_server(server);
    return opened || rc == -EADDRINUSE ? zp__fail_code(rc) : sweep(rc);
}

/* Make a state and serve it. */
static int
serve_new(const zp_ctx_options *options, int ready_fd)
{
    struct signals signals = {.changed = false};
    char line[ZP__PATH_MAX + 2];
    zp_ctx_options taken;
    zp__server *server;
    int rc;

    rc = zp__options_take(&taken, options);
    if (rc < 0)
        return rc;
    server = new_server(true);
    if (!server)
        return zp__fail(-ENOMEM, "no memory for a server");
    rc = server->signal_fd = take_signals(&signals);
    if (rc >= 0)
        rc = zp__create(&server->place, &taken, &server->lock);
    if (rc < 0)
        goto out;
    rc = open_server(server);
    if (rc < 0) {
        close_state(server);
        goto out;
    }
    if (ready_fd > 0) {
        snprintf(line, sizeof line, "%s\n", server->place.run);
        say(ready_fd, line);
    }
    rc = finish(server, zp__server_loop(server));
out:
    give_signals(&signals, server->signal_fd);
    free_server(server);
    return rc < 0 ? zp__fail_code(rc) : rc;
}

int
zp_serve(const zp_serve_options *options)
{
    zp_serve_options taken;

    memset(&taken, 0, sizeof taken);
    if (!options || options->size < sizeof options->size)
        return zp__fail(-EINVAL, "zp_serve() needs options with their size");
    if (options->size > sizeof taken)
        return zp__fail(-EINVAL, "options of a later version");
    memcpy(&taken, options, options->size);
    if (taken.ready_fd < 0)
        return zp__fail(-EINVAL, "ready_fd is %d", taken.ready_fd);
    if (taken.run_dir && taken.state)
        return zp__fail(-EINVAL, "run_dir and a new state exclude each other");
    return taken.run_dir ? serve_existing(taken.run_dir, taken.ready_fd)
                         : serve_new(taken.state, taken.ready_fd);
}
