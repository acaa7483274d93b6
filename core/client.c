/*
 * client.c - starting the state server, and asking it.
 *
 * Starting: whoever finds no server alive takes the flock on DIR/start, looks
 * again, and runs the program with posix_spawn() (never a fork of the
 * application, which may be large). The program detaches itself by a fork of
 * its own: its first process ends at once and is reaped here; the server tells
 * through a pipe, in one line, "0 PID" when it serves or "CODE TEXT". Of fifty
 * that notice a death, one starts a server and the rest see it in the board.
 *
 * Asking: a DEALER socket; each request has a number of its own, and answers
 * to earlier ones, which came too late, are passed over. libzmq may take a
 * while to notice that the server behind a connection is another one now, so
 * an answer that does not come makes us connect anew and ask again.
 */
#include "core/client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/error.h"
#include "core/fork.h"
#include "core/loop.h"
#include "core/wire.h"
#include "core/zmq_call.h"

#define READY_FD 3        /* in the server's program */
#define TRIALS 3          /* of servers that die as soon as they serve */
#define LOOK_AGAIN_MS 2   /* while another process starts one */
#define FIRST_ANSWER 0.05 /* seconds before the first new connection */
#define DESCRIPTORS 10    /* that libzmq needs for a start */
#define RECONNECT_IVL 2   /* ms */
#define RECONNECT_IVL_MAX 250

extern char **environ;

#ifdef ZP__TSAN
char zp__zmq_order;
#endif

static void
sleep_ms(int ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};

    nanosleep(&time, NULL);
}

/* Until DEADLINE (negative: for ever) as poll() wants it: rounded up. */
static int
ms_left(double deadline)
{
    double left;

    if (deadline < 0)
        return -1;
    left = (deadline - zp__now()) * 1000;
    if (left <= 0)
        return 0;
    return left > INT_MAX - 1 ? INT_MAX : (int)left + 1;
}

/* ------------------------------------------------- starting the server -- */

/* The program, and where its name comes from. */
static const char *
program(const char **ret_source)
{
    const char *path = secure_getenv("ZP_SERVER");

    if (path && *path) {
        *ret_source = "named by $ZP_SERVER";
        return path;
    }
    *ret_source = "installed there; $ZP_SERVER names no other";
    return ZP_SERVER_PATH;
}

/* Run it with its end of the pipe: the pid, or an error. */
static int
spawn(const zp__place *place, int ready)
{
    char *argv[6], run[sizeof place->run], fd[16];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    const char *path, *source;
    sigset_t none, all;
    pid_t pid;
    int rc;

    path = program(&source);
    snprintf(run, sizeof run, "%s", place->run);
    snprintf(fd, sizeof fd, "%d", READY_FD);
    argv[0] = (char *)"zp-server";
    argv[1] = (char *)"--run-dir";
    argv[2] = run;
    argv[3] = (char *)"--ready-fd";
    argv[4] = fd;
    argv[5] = NULL;
    rc = posix_spawn_file_actions_init(&actions);
    if (rc)
        return zp__fail_errno(rc, "cannot start the state server");
    rc = posix_spawnattr_init(&attributes);
    if (rc) {
        posix_spawn_file_actions_destroy(&actions);
        return zp__fail_errno(rc, "cannot start the state server");
    }
    sigemptyset(&none);
    sigfillset(&all);
    /* dup2() of a descriptor to itself takes its close-on-exec away, too */
    rc = posix_spawn_file_actions_adddup2(&actions, ready, READY_FD);
    if (!rc)
        rc = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK |
                                                       POSIX_SPAWN_SETSIGDEF |
                                                       POSIX_SPAWN_SETSID);
    if (!rc)
        rc = posix_spawnattr_setsigmask(&attributes, &none);
    if (!rc)
        rc = posix_spawnattr_setsigdefault(&attributes, &all);
    if (!rc)
        rc = posix_spawn(&pid, path, &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (!rc)
        return (int)pid;
    (void)zp__fail_errno(rc, "cannot run the state server %s (%s)", path,
                         source);
    return rc == ENOMEM || rc == EAGAIN ? -rc : ZP_ENOSERVER;
}

/* Read one line (without its end) from FD: its length, 0 when the other side
 * closed before it, -ETIMEDOUT, or another error. */
static int
read_line(int fd, char *line, size_t size, double deadline)
{
    struct pollfd one = {fd, POLLIN, 0};
    size_t used = 0;
    ssize_t n;
    int rc;

    while (used < size - 1) {
        rc = poll(&one, 1, ms_left(deadline));
        if (rc < 0 && errno == EINTR)
            continue;
        if (rc < 0)
            return -errno;
        if (!rc)
            return -ETIMEDOUT;
        n = read(fd, line + used, size - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (!n)
            return 0;
        used += (size_t)n;
        if (line[used - 1] == '\n') {
            line[used - 1] = '\0';
            return (int)used;
        }
    }
    return 0;
}

/* Reap the program's first process, which has ended when the server speaks; if
 * it has not by DEADLINE it is no zp-server, and killed. The application may
 * have reaped it before us. Its wait status, or 0. */
static int
reap(pid_t pid, double deadline)
{
    zp__pid id;
    bool known = zp__pid_of(pid, &id) >= 0;
    int status = 0;
    pid_t rc;

    for (;;) {
        rc = waitpid(pid, &status, WNOHANG);
        if (rc == pid)
            return status;
        if (rc < 0 && errno != EINTR)
            return 0;
        if (known && !ms_left(deadline))
            (void)zp__pid_kill(&id, SIGKILL);
        sleep_ms(1);
    }
}

/* What the line of the server means. */
static int
judge(const char *line)
{
    char *text;
    long code = strtol(line, &text, 10);

    if (text == line || *text != ' ')
        return zp__fail(ZP_ENOSERVER, "the state server said: %.200s", line);
    if (code >= 0)
        return 0;
    if (code == -EADDRINUSE) /* another one is faster: fine */
        return -EADDRINUSE;
    if (code == ZP_ECLOSED)
        return zp__fail(ZP_ECLOSED, "%s", text + 1);
    return zp__fail(ZP_ENOSERVER, "the state server cannot start: %s",
                    text + 1);
}

/* It ended, and said nothing. */
static int
judge_status(int status)
{
    const char *source, *path = program(&source);

    if (WIFSIGNALED(status))
        return zp__fail(ZP_ENOSERVER,
                        "the state server %s (%s) was ended by signal %d", path,
                        source, WTERMSIG(status));
    return zp__fail(ZP_ENOSERVER,
                    "the state server %s (%s) ended with status %d before it "
                    "served",
                    path, source, WEXITSTATUS(status));
}

/* Start one: 0, -EADDRINUSE (one serves already), or an error. */
static int
start(const zp__place *place, double deadline)
{
    char line[ZP__ERROR_MAX + 32];
    int fds[2], rc, status;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return zp__fail_errno(errno, "cannot make a pipe for the server");
    rc = pid = spawn(place, fds[1]);
    close(fds[1]);
    if (rc < 0)
        goto out;
    rc = read_line(fds[0], line, sizeof line, deadline);
    status = reap(pid, deadline);
    if (rc > 0)
        rc = judge(line);
    else if (rc == 0)
        rc = judge_status(status);
    else if (rc == -ETIMEDOUT)
        rc = zp__fail(ZP_ENOSERVER,
                      "the state server of %s did not start in "
                      "time",
                      place->run);
    else
        rc = zp__fail_errno(-rc, "cannot hear from the state server");
out:
    close(fds[0]);
    return rc;
}

/* One was started, and said that it serves. If it has died by now we may try
 * again, but not for ever: it may be a program that only says so. */
static int
trust(const zp__board *board, int *trials)
{
    const char *source, *path = program(&source);

    if (zp__server_alive(board))
        return 0;
    if (--*trials > 0)
        return -EAGAIN;
    return zp__fail(ZP_ENOSERVER, "the state server %s (%s) does not serve",
                    path, source);
}

/* Start one unless another process has, or is about to: 0, -EAGAIN (look
 * again in a moment), or an error. */
static int
start_alone(const zp__place *place, const zp__board *board, double deadline,
            int *trials)
{
    zp__owned *owned;
    int lock, rc;

    lock = zp__place_flock(place, "start");
    if (lock == -EWOULDBLOCK)
        return -EAGAIN;
    if (lock == -ENOENT)
        return zp__fail(ZP_ENOSERVER, "the directory %s is gone", place->run);
    if (lock < 0)
        return zp__fail(lock, "cannot lock %s: %s", place->run,
                        zp_strerror(lock));
    owned = zp__own_fd(lock);
    rc = zp__server_alive(board) ? 0 : start(place, deadline);
    if (rc == 0)
        rc = trust(board, trials);
    /* A child that was forked meanwhile has the descriptor, too: closing ours
     * alone would not give the lock back. */
    flock(lock, LOCK_UN);
    zp__own_forget(owned);
    close(lock);
    return rc == -EADDRINUSE ? -EAGAIN : rc;
}

bool
zp__server_alive(const zp__board *board)
{
    zp__pid server = zp__board_server(board);

    return server.pid > 0 && zp__pid_alive(&server);
}

int
zp__server_ensure(const zp__place *place, zp__board *board, double timeout)
{
    double deadline = timeout < 0 ? -1 : zp__now() + timeout;
    zp__pid owner = board->shared->owner;
    int trials = TRIALS, rc;

    for (;;) {
        if (zp__board_closed(board))
            return zp__fail(ZP_ECLOSED, "the state %s is closed", place->run);
        if (zp__server_alive(board))
            return 0;
        if (!zp__pid_alive(&owner))
            return zp__fail(ZP_ECLOSED,
                            "the owner of %s, process %d, has "
                            "ended",
                            place->run, owner.pid);
        rc = start_alone(place, board, deadline, &trials);
        if (rc < 0 && rc != -EAGAIN && zp__board_closed(board))
            continue; /* that is why, and says more */
        if (rc != -EAGAIN)
            return rc;
        if (deadline >= 0 && zp__now() >= deadline)
            return zp__fail(ZP_ENOSERVER, "no state server on %s in time",
                            place->run);
        sleep_ms(LOOK_AGAIN_MS);
    }
}

/* ------------------------------------------------------------- farewell -- */

static bool
is_gone(const zp__place *place)
{
    struct stat st;

    return stat(place->run, &st) < 0 && errno == ENOENT;
}

/* Wait until that process has ended: false when the time is up first. Without
 * a descriptor for it (none left, or no pidfds, as under valgrind) we look now
 * and then. */
static bool
wait_for_end(const zp__pid *id, double deadline)
{
    struct pollfd one = {zp__pid_open(id), POLLIN, 0};
    bool ended;
    int rc;

    if (one.fd < 0) {
        while (!(ended = !zp__pid_alive(id)) && ms_left(deadline))
            sleep_ms(LOOK_AGAIN_MS);
        return ended;
    }
    do
        rc = poll(&one, 1, ms_left(deadline));
    while (rc < 0 && errno == EINTR);
    close(one.fd);
    return rc > 0;
}

int
zp__server_close(const zp__place *place, zp__board *board, double timeout)
{
    double deadline = timeout < 0 ? -1 : zp__now() + timeout;
    zp__pid server = zp__board_server(board);

    atomic_store(&board->shared->closed, 1);
    zp__board_fence();
    zp__board_ring(board);
    if (server.pid > 0 && !wait_for_end(&server, deadline))
        return zp__fail(-ETIMEDOUT,
                        "the state server, process %d, does not "
                        "end",
                        server.pid);
    if (!is_gone(place)) /* it had died before */
        zp__place_remove(place);
    return 0;
}

/* --------------------------------------------------------------- asking -- */

struct zp__client {
    char address[sizeof(((zp__place *)0)->run) + 16];
    void *zmq;
    void *dealer;
    zp__owned *owned_zmq; /* with the first dealer: descriptors of libzmq */
    zp__owned *owned_dealer;
    uint64_t id; /* of the last request */
};

int
zp__client_new(zp__client **ret, const zp__place *place)
{
    zp__client *client = calloc(1, sizeof *client);

    if (!client)
        return zp__fail(-ENOMEM, "no memory for a client of the server");
    snprintf(client->address, sizeof client->address, "ipc://%s/ctl",
             place->run);
    *ret = client;
    return 0;
}

static void
drop_dealer(zp__client *client)
{
    if (client->dealer)
        zmq_close(client->dealer);
    zp__own_forget(client->owned_dealer);
    client->dealer = NULL;
    client->owned_dealer = NULL;
}

zp__client *
zp__client_free(zp__client *client)
{
    if (!client)
        return NULL;
    drop_dealer(client);
    if (client->zmq) {
        ZP__ZMQ_RELEASE();
        while (zmq_ctx_term(client->zmq) < 0 && errno == EINTR)
            ;
        ZP__ZMQ_ACQUIRE();
    }
    zp__own_forget(client->owned_zmq);
    free(client);
    return NULL;
}

/* A connected DEALER; NULL with errno. */
static void *
new_dealer(void *zmq, const char *address)
{
    int64_t largest = ZP__ANSWER_HEAD + ZP__PAYLOAD_MAX;
    void *dealer = zmq_socket(zmq, ZMQ_DEALER);

    if (!dealer)
        return NULL;
    if (zp__zmq_set(dealer, ZMQ_LINGER, 0) < 0 ||
        zp__zmq_set(dealer, ZMQ_RECONNECT_IVL, RECONNECT_IVL) < 0 ||
        zp__zmq_set(dealer, ZMQ_RECONNECT_IVL_MAX, RECONNECT_IVL_MAX) < 0 ||
        zp__zmq_set(dealer, ZMQ_SNDHWM, 8) < 0 ||
        zp__zmq_set(dealer, ZMQ_RCVHWM, 8) < 0 ||
        zp__zmq_set(dealer, ZMQ_SNDTIMEO, 0) < 0 ||
        zmq_setsockopt(dealer, ZMQ_MAXMSGSIZE, &largest, sizeof largest) < 0 ||
        zmq_connect(dealer, address) < 0) {
        int saved = errno;

        zmq_close(dealer);
        errno = saved;
        return NULL;
    }
    return dealer;
}

/* Are there descriptors enough? libzmq aborts the process when it starts its
 * threads without. */
static bool
enough_descriptors(void)
{
    int fds[DESCRIPTORS], n = 0, saved;

    while (n < DESCRIPTORS && (fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0)
        n++;
    saved = errno;
    for (int i = 0; i < n; i++)
        close(fds[i]);
    errno = saved;
    return n == DESCRIPTORS;
}

/* zmq_ctx_new() opens nothing; the first socket starts its threads and opens
 * their descriptors. Both in one bracket, so that all of them are on record. */
static int
make_zmq(zp__client *client)
{
    void *zmq = NULL, *dealer = NULL;
    int rc = 0;

    zp__own_begin();
    if (enough_descriptors())
        zmq = zmq_ctx_new();
    if (zmq) {
        zmq_ctx_set(zmq, ZMQ_BLOCKY, 0);
        zmq_ctx_set(zmq, ZMQ_IO_THREADS, 1);
        zmq_ctx_set(zmq, ZMQ_MAX_SOCKETS, 64);
        dealer = new_dealer(zmq, client->address);
    }
    if (!dealer)
        rc = zp__fail(zp__zmq_error(), "cannot make a socket: %s",
                      zmq_strerror(errno));
    client->owned_zmq = zp__own_end(NULL);
    if (rc < 0) {
        if (zmq)
            zmq_ctx_term(zmq);
        zp__own_forget(client->owned_zmq);
        client->owned_zmq = NULL;
        return rc;
    }
    client->zmq = zmq;
    client->dealer = dealer;
    return 0;
}

void *
zp__client_zmq(zp__client *client)
{
    if (!client->zmq)
        (void)make_zmq(client);
    return client->zmq;
}

/* See to it that there is a connected socket. */
static int
connect_server(zp__client *client)
{
    if (client->dealer)
        return 0;
    if (!client->zmq)
        return make_zmq(client);
    zp__own_begin();
    client->dealer = new_dealer(client->zmq, client->address);
    client->owned_dealer = zp__own_end(NULL);
    if (client->dealer)
        return 0;
    zp__own_forget(client->owned_dealer);
    client->owned_dealer = NULL;
    return zp__fail(zp__zmq_error(), "cannot make a socket: %s",
                    zmq_strerror(errno));
}

/* One ping on its way: the request, and behind it room for the answer. */
struct ping {
    const void *payload;
    size_t size;
    unsigned char *request; /* ZP__REQUEST_HEAD + size */
    unsigned char *answer;  /* ZP__ANSWER_HEAD + size */
    uint64_t id;
};

/* The frame of SIZE bytes in ping->answer: 1 if it answers this ping, 0 if it
 * is something else, -EBADMSG. */
static int
take_answer(const struct ping *ping, size_t size, zp_pong *pong)
{
    uint64_t id;
    int32_t pid;

    if (size < ZP__ANSWER_HEAD || ping->answer[0] != ZP__VERB_PING)
        return 0;
    memcpy(&id, ping->answer + 1, 8);
    if (id != ping->id)
        return 0;
    if (size != ZP__ANSWER_HEAD + ping->size ||
        (ping->size && memcmp(ping->answer + ZP__ANSWER_HEAD, ping->payload,
                              ping->size) != 0))
        return zp__fail(-EBADMSG, "the state server sent back another payload");
    memcpy(&pid, ping->answer + 9, 4);
    memcpy(&pong->revision, ping->answer + 13, 8);
    pong->server_pid = pid;
    return 1;
}

/* Receive until the answer, or until there is nothing to be received: 1, 0 or
 * an error. */
static int
receive(zp__client *client, const struct ping *ping, zp_pong *pong)
{
    unsigned char rest[8];
    int n, rc;

    for (;;) {
        n = zp__zmq_recv(client->dealer, ping->answer,
                         ZP__ANSWER_HEAD + ping->size);
        if (n < 0)
            return n == -EAGAIN ? 0
                                : zp__fail(n, "cannot receive from the state "
                                              "server");
        rc = zp__zmq_more(client->dealer) > 0
                 ? 0
                 : take_answer(ping, (size_t)n, pong);
        while (zp__zmq_more(client->dealer) > 0)
            if (zp__zmq_recv(client->dealer, rest, sizeof rest) < 0)
                break;
        if (rc)
            return rc;
    }
}

/* Ask once, and wait until UNTIL: 1, 0 (no answer), or an error. */
static int
ask(zp__client *client, const struct ping *ping, double until, zp_pong *pong)
{
    struct pollfd one = {-1, POLLIN, 0};
    int rc;

    rc = connect_server(client);
    if (rc < 0)
        return rc;
    rc = zp__zmq_send(client->dealer, ping->request,
                      ZP__REQUEST_HEAD + ping->size, 0);
    if (rc < 0 && rc != -EAGAIN)
        return zp__fail(rc, "cannot send to the state server");
    one.fd = zp__zmq_get(client->dealer, ZMQ_FD);
    if (one.fd < 0)
        return zp__fail(one.fd, "the socket has no descriptor");
    for (;;) {
        rc = receive(client, ping, pong);
        if (rc)
            return rc;
        if (until >= 0 && zp__now() >= until)
            return 0;
        rc = poll(&one, 1, ms_left(until));
        if (rc < 0 && errno != EINTR)
            return zp__fail_errno(errno, "cannot wait for the state server");
    }
}

/* Ask until there is an answer, each time on a new connection, since the old
 * one may lead nowhere: 0 or an error. */
static int
ask_again(zp__client *client, const struct ping *ping, double deadline,
          zp_pong *pong)
{
    double patience = FIRST_ANSWER, until;
    int rc;

    for (;;) {
        until = zp__now() + patience;
        if (deadline >= 0 && until > deadline)
            until = deadline;
        rc = ask(client, ping, until, pong);
        if (rc)
            return rc < 0 ? rc : 0;
        drop_dealer(client); /* with what is queued in it */
        if (deadline >= 0 && zp__now() >= deadline)
            return zp__fail(-ETIMEDOUT, "the state server does not answer");
        patience *= 2;
    }
}

int
zp__client_ping(zp__client *client, const void *payload, size_t size,
                double timeout, zp_pong *ret)
{
    double begun = zp__now();
    struct ping ping = {.payload = payload, .size = size};
    unsigned char *block;
    zp_pong pong;
    int rc;

    if (size > ZP__PAYLOAD_MAX || (size && !payload))
        return zp__fail(-EINVAL, "a payload of %zu bytes, limit %d", size,
                        ZP__PAYLOAD_MAX);
    block = malloc(ZP__REQUEST_HEAD + ZP__ANSWER_HEAD + 2 * size);
    if (!block)
        return zp__fail(-ENOMEM, "no memory for a ping");
    ping.id = ++client->id;
    ping.request = block;
    ping.answer = block + ZP__REQUEST_HEAD + size;
    block[0] = ZP__VERB_PING;
    memcpy(block + 1, &ping.id, 8);
    if (size)
        memcpy(block + ZP__REQUEST_HEAD, payload, size);
    rc = ask_again(client, &ping, timeout < 0 ? -1 : begun + timeout, &pong);
    free(block);
    if (rc < 0)
        return rc;
    pong.round_trip = zp__now() - begun;
    if (ret)
        *ret = pong;
    return 0;
}
