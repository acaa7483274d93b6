/*
 * server_loop.c - one thread that waits for the bell, the sockets, the owner
 * and the clock.
 *
 *         +--> asleep = 1; full fence
 *         |    pass over the log             (what came before the fence)
 *         |    subscriptions, requests       (read dry: ZMQ_FD tells edges;
 *         |                                   those that were used since)
 *         |    poll: bell, XPUB, ROUTER, owner, signals, holders of
 *         |          leases; 100 ms or 1 s, or what comes due sooner
 *         |    asleep = 0                    (rung: something to do)
 *         |    passes while there is something
 *         |    keys whose lease is over, duties
 *         +--- drain the bell
 *
 * This is the doorbell of board.h with one change, checked by the same model
 * (docs/models/doorbell.pml): the look at the log behind the fence is a whole
 * pass, made while `asleep` already stands. What it does not see was committed
 * after the fence, by a writer who sees `asleep` and rings. So nobody has to
 * look again, and a stream of writes that nobody watches cannot keep the
 * server from sleeping. The bell is drained before the fence, not right after
 * the poll, which takes two system calls out of the way from bell to message.
 *
 * The server writes, too (server_leases.c). Its commits come before the pass
 * behind the next fence, as everybody's do that found it awake.
 *
 * The timeout is for writers that died between commit and bell.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/error.h"
#include "core/loop.h"
#include "core/server.h"
#include "core/stale.h"
#include "core/zmq_call.h"

#define PASSES 64        /* in a row, before others get a turn */
#define REQUESTS 64      /* likewise */
#define WATCHED_MS 100   /* the longest sleep while somebody watches */
#define IDLE_MS 1000     /* while nobody does */
#define DUTY_SECONDS 1.0 /* between looks at directory and owner */
#define READERS_SECONDS 30.0

enum { BELL, PUB, CTL, OWNER, SIGNALS, LEASES, N_FDS };

/* ------------------------------------------------------------ requests -- */

/* The answer's head is longer than the request's by this: a request is read
 * behind a gap, so that the payload need not move. */
#define GAP (ZP__ANSWER_HEAD - ZP__REQUEST_HEAD)

static void
answer(zp__server *server, const void *peer, size_t peer_size, size_t size)
{
    unsigned char *request = server->request + GAP, id[8];
    int32_t pid = (int32_t)getpid();
    unsigned char *at;

    if (size < ZP__REQUEST_HEAD || request[0] != ZP__VERB_PING)
        return;
    memcpy(id, request + 1, sizeof id);
    at = server->request;
    *at = ZP__VERB_PING;
    memcpy(at + 1, id, 8);
    memcpy(at + 9, &pid, 4);
    memcpy(at + 13, &server->published, 8);
    /* A peer that has gone, or does not read, gets none. */
    if (zp__zmq_send(server->ctl, peer, peer_size, ZMQ_SNDMORE) >= 0)
        (void)zp__zmq_send(server->ctl, at, GAP + size, 0);
}

/* One request: false when there is none. */
static bool
read_request(zp__server *server)
{
    unsigned char peer[256], rest[8];
    int n, size = 0;

    n = zp__zmq_recv(server->ctl, peer, sizeof peer);
    if (n < 0)
        return false;
    if (zp__zmq_more(server->ctl) > 0) {
        size = zp__zmq_recv(server->ctl, server->request + GAP,
                            ZP__REQUEST_HEAD + ZP__PAYLOAD_MAX);
        while (zp__zmq_more(server->ctl) > 0) {
            if (zp__zmq_recv(server->ctl, rest, sizeof rest) < 0)
                break;
            size = 0; /* more frames than a request has */
        }
    }
    if (n <= (int)sizeof peer && size > 0 &&
        size <= ZP__REQUEST_HEAD + ZP__PAYLOAD_MAX)
        answer(server, peer, (size_t)n, (size_t)size);
    return true;
}

bool
zp__server_read_ctl(zp__server *server)
{
    int i;

    for (i = 0; i < REQUESTS; i++)
        if (!read_request(server)) {
            server->ctl_used = false;
            return false;
        }
    return true;
}

/* -------------------------------------------------------------- duties -- */

/* Does the owner live? Its pidfd tells at once; without one (no descriptor was
 * left when it was opened) we look here. */
static bool
owner_ended(zp__server *server)
{
    int fd;

    if (server->self_owned || server->owner_fd >= 0)
        return false;
    fd = zp__pid_open(&server->owner);
    if (fd >= 0)
        server->owner_fd = fd;
    return fd == -ESRCH || (fd < 0 && !zp__pid_alive(&server->owner));
}

static bool
vanished(const zp__server *server)
{
    struct stat st;

    if (stat(server->place.run, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR;
    return (uint64_t)st.st_dev != server->dev ||
           (uint64_t)st.st_ino != server->inode;
}

/* The newest revision; 0 when it cannot be read. */
static uint64_t
head_now(zp__server *server)
{
    uint64_t head = 0, tail;

    if (zp__view_begin(server->view) < 0)
        return 0;
    if (zp__view_range(server->view, &head, &tail) < 0)
        head = 0;
    zp__view_end(server->view);
    return head;
}

static void
sync_now(zp__server *server, double now)
{
    const zp__limits *limits = zp__store_limits(server->store);
    uint64_t head = head_now(server);

    server->next_sync = now + limits->sync_interval;
    if (head && head == server->synced)
        return;
    if (zp__store_sync(server->store) >= 0)
        server->synced = head;
}

/* What is due by the clock: a reason to end, or 0. */
static int
do_duties(zp__server *server)
{
    double now = zp__now();

    int rc = 0;

    if (server->next_sync > 0 && now >= server->next_sync)
        sync_now(server, now);
    if (server->look > 0 && now >= server->look)
        rc = zp__server_send_late(server, false);
    zp__server_orphans_tick(server, now);
    if (rc < 0 || now < server->next_duty)
        return rc;
    server->next_duty = now + DUTY_SECONDS;
    if (atomic_load(&server->board->shared->generation) != server->generation)
        return ZP__END_TAKEN;
    if (vanished(server))
        return ZP__END_VANISHED;
    if (owner_ended(server))
        return ZP__END_OWNER;
    zp__server_trim(server, ZP__TRIM_TICK);
    if (now >= server->next_readers || server->gone) {
        server->next_readers = now + READERS_SECONDS;
        server->gone -= server->gone > 0;
        (void)zp__store_check_readers(server->store);
        zp__slots_clear(server->board);
        zp__run_tidy(server->place.run);
    }
    zp__server_bells_tidy(server);
    return zp__server_send_late(server, true);
}

/* ------------------------------------------------------------ the loop -- */

static int
sleep_ms(const zp__server *server)
{
    int ms = zp__topics_count(&server->topics) ? WATCHED_MS : IDLE_MS;
    double sync;

    if (server->next_sync > 0) {
        sync = zp__store_limits(server->store)->sync_interval * 1000;
        if (sync < ms)
            ms = sync < 1 ? 1 : (int)sync;
    }
    ms = zp__server_leases_ms(server, zp__server_look_ms(server, ms));
    return zp__server_orphans_ms(server, ms);
}

/* Announce the sleep, look once more, sleep: 0, or an error. */
static int
fall_asleep(zp__server *server, struct pollfd *fds)
{
    bool busy = false;
    int rc;

    atomic_store_explicit(&server->board->shared->asleep, 1,
                          memory_order_relaxed);
    zp__board_fence();
    rc = zp__server_pass(server);
    if (rc >= 0 && server->pub_used)
        rc = zp__server_read_pub(server);
    if (rc < 0)
        return rc;
    if (server->ctl_used)
        busy = zp__server_read_ctl(server);
    if (zp__board_closed(server->board)) /* while nobody rang: we were awake */
        busy = true;
    rc = poll(fds, N_FDS, busy ? 0 : sleep_ms(server));
    if (rc < 0 && errno != EINTR)
        return zp__fail_errno(errno, "the server cannot poll");
    if (rc < 0)
        fds[BELL].revents = fds[OWNER].revents = fds[SIGNALS].revents =
            fds[LEASES].revents = 0;
    server->pub_used |= rc < 0 || fds[PUB].revents;
    server->ctl_used |= rc < 0 || fds[CTL].revents;
    return 0;
}

/* Is there likely more in the log? A hint will do: who falls asleep looks. */
static bool
may_be_more(const zp__server *server)
{
    return atomic_load_explicit(&server->board->shared->head,
                                memory_order_relaxed) != server->published;
}

/* The bell rang: publish while there is something; 0, or an error. */
static int
wake_up(zp__server *server)
{
    int rc, i;

    atomic_store_explicit(&server->board->shared->asleep, 0,
                          memory_order_relaxed);
    for (i = 0; i < PASSES; i++) {
        rc = zp__server_pass(server);
        if (rc <= 0 || !may_be_more(server))
            break;
    }
    zp__board_drain(server->board);
    return rc < 0 ? rc : 0;
}

/* The pidfd is readable: the owner has ended, unless the descriptor is not
 * what we think; then the clock looks after it. */
static bool
owner_told(zp__server *server, struct pollfd *fds)
{
    if (!zp__pid_alive(&server->owner))
        return true;
    close(server->owner_fd);
    server->owner_fd = fds[OWNER].fd = -1;
    return false;
}

static void
watch_fds(const zp__server *server, struct pollfd *fds)
{
    int i;

    memset(fds, 0, N_FDS * sizeof *fds);
    fds[BELL].fd = server->board->bell;
    fds[PUB].fd = server->pub_fd;
    fds[CTL].fd = server->ctl_fd;
    fds[OWNER].fd = server->owner_fd;
    fds[SIGNALS].fd = server->signal_fd;
    fds[LEASES].fd = server->leases.poll_fd;
    for (i = 0; i < N_FDS; i++)
        fds[i].events = POLLIN;
}

int
zp__server_loop(zp__server *server)
{
    struct pollfd fds[N_FDS];
    int rc;

    watch_fds(server, fds);
    for (;;) {
        rc = fall_asleep(server, fds);
        if (rc >= 0 && fds[BELL].revents)
            rc = wake_up(server);
        if (rc < 0)
            return rc;
        if (fds[SIGNALS].revents)
            return ZP__END_SIGNAL;
        if (zp__board_closed(server->board))
            return ZP__END_OWNER;
        if (fds[OWNER].revents && owner_told(server, fds))
            return ZP__END_OWNER;
        zp__server_leases_turn(server, fds[LEASES].revents != 0);
        rc = do_duties(server);
        if (rc)
            return rc;
        fds[OWNER].fd = server->owner_fd;
        fds[LEASES].fd = server->leases.poll_fd;
    }
}
