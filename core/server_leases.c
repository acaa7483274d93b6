/*
 * server_leases.c - deletes the keys whose lease is over.
 *
 *     told by a writer (board: leases) --+
 *     a deadline (board: lease_look) ----+--> a look at all leases, in slices:
 *     a holder ended (its pidfd) --------+    who holds them? (a pidfd for each
 *                                             that is new)  which are over?
 *                                                  |
 *                   one transaction per 256 keys <-+   each looked at again
 *
 * store_leases.c has the rules by which no lease escapes. Nothing is kept per
 * key: a look reads all leases (0.1 us each) and finds what is due and
 * when the next one will be. So that many leases, renewed all the time, do not
 * burn a processor, looks are apart by ten times as long as the last one took,
 * and by 20 ms at least if not for a holder's end: who waits for one of 100,000
 * keys to go may wait some 100 ms. When there is very much to delete, a look
 * begins anew for a holder that ends meanwhile: what it has deleted is done.
 *
 * The server is a writer like any other here: after a commit comes the next
 * turn of the loop, whose pass behind the fence finds it. But it must not hang
 * on a writer that is stopped: it waits for the lock for 50 ms, which is as
 * long as bells may wait (while somebody has the lock, nobody commits anyway),
 * and tries again after a while.
 *
 * A holder stays in the list until it has ended, and in the board, where its
 * later leases see that they need not tell. Without a pidfd (no descriptor
 * left, or none in this kernel) it is looked for once a second.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/error.h"
#include "core/loop.h"
#include "core/server.h"

#define MS INT64_C(1000000)
#define ROWS 4096       /* of a slice */
#define SHARE 10        /* between looks: times as long as one takes, ... */
#define APART (20 * MS) /* ... and at least */
#define PAUSE_MAX (500 * MS) /* ... but when a holder has ended */
#define PROGRESS (20 * MS)   /* so much of deleting, and it may begin anew */
#define LOCK_SECONDS 0.05    /* how long to wait for a writer */
#define PATIENCE (50 * MS)   /* after a failure: doubled, up to ... */
#define PATIENCE_MAX (400 * MS)
#define WALL (10000 * MS) /* the wall clock may be set: look so often */
#define BLIND_SECONDS 1.0
#define SOON (1000 * MS) /* what a look may miss comes in the next */
#define STUCK (400 * MS) /* so long no commit takes */

/* -------------------------------------------------------------- holders -- */

static int
compare(const zp__pid *a, const zp__pid *b)
{
    if (a->pid != b->pid)
        return a->pid < b->pid ? -1 : 1;
    return (a->start > b->start) - (a->start < b->start);
}

/* Where ID stands, or would: true if it is there. */
static bool
find_holder(const zp__leases *leases, const zp__pid *id, size_t *ret)
{
    size_t low = 0, high = leases->n_holders;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(id, &leases->holders[middle].id);

        if (order == 0) {
            *ret = middle;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    *ret = low;
    return false;
}

static _Atomic uint64_t *
place_in_board(zp__server *server, const zp__pid *id)
{
    return &server->board->shared->holders[(uint32_t)id->pid % ZP__HOLDERS];
}

/* Let go of HOLDER, which has ended: there will be no leases of its any more
 * that we have not seen. */
static void
end_holder(zp__server *server, zp__holder *holder)
{
    zp__leases *leases = &server->leases;
    _Atomic uint64_t *place = place_in_board(server, &holder->id);

    if (holder->fd >= 0) {
        close(holder->fd); /* and out of the set */
        leases->n_fds--;
    } else if (!holder->ended) {
        leases->n_blind--;
    }
    if (atomic_load(place) == zp__holder_word(&holder->id))
        atomic_store(place, 0);
    holder->fd = -1;
    holder->ended = true;
    leases->wanted = true;
}

/* Put FD into the set: it, or -1, and it is closed. */
static int
put_in_set(zp__leases *leases, int fd, uint64_t word)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = word};

    if (leases->poll_fd < 0)
        leases->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (leases->poll_fd >= 0 &&
        epoll_ctl(leases->poll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return fd;
    close(fd);
    return -1;
}

/* A pidfd of ID in the set: that, -ESRCH if it has ended, or another error: it
 * is looked for by the clock. */
static int
open_holder(zp__server *server, const zp__pid *id)
{
    zp__leases *leases = &server->leases;
    int fd = -EMFILE;

    if (leases->n_fds < server->max_bells / 2)
        fd = zp__pid_open(id);
    if (fd >= 0)
        fd = put_in_set(leases, fd, zp__holder_word(id));
    if (fd < 0 && fd != -ESRCH && !zp__pid_alive(id))
        fd = -ESRCH;
    return fd;
}

/* A new one at place AT; NULL without memory. */
static zp__holder *
add_holder(zp__server *server, const zp__pid *id, size_t at)
{
    zp__leases *leases = &server->leases;
    zp__holder *holder;
    int fd;

    if (leases->n_holders == leases->room) {
        size_t room = leases->room ? leases->room * 2 : 16;
        zp__holder *larger = realloc(leases->holders, room * sizeof *larger);

        if (larger == NULL)
            return NULL;
        leases->holders = larger;
        leases->room = room;
    }
    fd = open_holder(server, id);
    holder = &leases->holders[at];
    memmove(holder + 1, holder, (leases->n_holders - at) * sizeof *holder);
    leases->n_holders++;
    *holder = (zp__holder){*id, fd < 0 ? -1 : fd, fd == -ESRCH};
    leases->n_fds += fd >= 0;
    leases->n_blind += fd < 0 && !holder->ended;
    if (!holder->ended)
        atomic_store(place_in_board(server, id), zp__holder_word(id));
    return holder;
}

static void
forget_ended(zp__leases *leases)
{
    size_t n = 0;

    for (size_t i = 0; i < leases->n_holders; i++)
        if (!leases->holders[i].ended)
            leases->holders[n++] = leases->holders[i];
    leases->n_holders = n;
}

/* The set is readable: who has ended? */
static void
take_ended(zp__server *server)
{
    zp__leases *leases = &server->leases;
    struct epoll_event events[64];
    int n = epoll_wait(leases->poll_fd, events, 64, 0);

    for (int k = 0; k < n; k++)
        for (size_t i = 0; i < leases->n_holders; i++) {
            zp__holder *holder = &leases->holders[i];

            if (holder->fd >= 0 &&
                zp__holder_word(&holder->id) == events[k].data.u64)
                end_holder(server, holder);
        }
}

/* Look for those without a pidfd, and try to get one. */
static void
look_for_blind(zp__server *server)
{
    zp__leases *leases = &server->leases;

    leases->next_blind = zp__now() + BLIND_SECONDS;
    for (size_t i = 0; i < leases->n_holders; i++) {
        zp__holder *holder = &leases->holders[i];
        int fd;

        if (holder->fd >= 0 || holder->ended)
            continue;
        fd = open_holder(server, &holder->id);
        if (fd == -ESRCH)
            end_holder(server, holder);
        if (fd < 0)
            continue;
        holder->fd = fd;
        leases->n_fds++;
        leases->n_blind--;
    }
}

/* ------------------------------------------------------- what is over -- */

static bool
holder_has_ended(zp__server *server, const zp__lease *lease)
{
    zp__leases *leases = &server->leases;
    zp__holder *holder;
    size_t at;

    if (lease->boot != zp__boot_hash() || lease->pid_ns != leases->pid_ns)
        return true;
    if (find_holder(leases, &lease->holder, &at))
        return leases->holders[at].ended;
    holder = add_holder(server, &lease->holder, at);
    if (holder != NULL)
        return holder->ended;
    leases->failed = true; /* nobody watches it: look again */
    return !zp__pid_alive(&lease->holder);
}

static bool
is_over(zp__server *server, const zp__lease *lease, int64_t now)
{
    zp__leases *leases = &server->leases;
    int64_t left = zp__lease_left(lease, now);

    if (left <= 0 ||
        (lease->holder.pid != 0 && holder_has_ended(server, lease)))
        return true;
    if (left == INT64_MAX)
        return false;
    if (lease->boot != zp__boot_hash() && left > WALL)
        left = WALL;
    if (now + left < leases->earliest)
        leases->earliest = now + left;
    return false;
}

/* The key as it is now: it may have been set, renewed or deleted meanwhile. */
static int
delete_one(zp__server *server, zp__txn *txn, const struct zp__over *over,
           int64_t now)
{
    zp__lease lease;
    int rc = zp__txn_lease(txn, over->ns, over->key, &lease);

    if (rc == ZP_ENOKEY ||
        (rc == 0 && lease.holder.pid == 0 && lease.deadline_ns == 0))
        return zp__txn_drop_lease(txn, over->ns, over->key);
    if (rc == 0 && is_over(server, &lease, now))
        rc = zp__txn_delete(txn, over->ns, over->key);
    return rc;
}

static int
delete_over(zp__server *server)
{
    zp__leases *leases = &server->leases;
    int64_t now;
    zp__txn *txn;
    bool alone;
    int rc;

    /* Who commits now need not ring: a pass comes after this. */
    atomic_store_explicit(&server->board->shared->asleep, 0,
                          memory_order_relaxed);
    rc = zp__txn_begin(server->store, &txn, leases->writer, LOCK_SECONDS, 0,
                       true);
    if (rc < 0)
        return rc;
    now = zp__boottime();
    alone = atomic_load(&server->board->shared->leases) == leases->count;
    for (size_t i = 0; i < leases->n_over && rc >= 0; i++)
        rc = delete_one(server, txn, &leases->over[i], now);
    if (rc < 0) {
        zp__txn_abort(txn);
        return rc;
    }
    rc = zp__txn_commit(txn, NULL);
    if (rc >= 0 && alone)
        leases->count += 2; /* this one needs no look */
    return rc;
}

/* -------------------------------------------------------------- looking -- */

/* Has anybody told us of something since the last look began? */
static bool
is_told(const zp__server *server)
{
    return atomic_load(&server->board->shared->lease_told) !=
           server->leases.told;
}

/* Has the count been odd for long, so that its writer must be stopped, or have
 * died before it told us? */
static bool
is_stuck(zp__server *server, int64_t now)
{
    zp__leases *leases = &server->leases;
    uint64_t count = atomic_load(&server->board->shared->leases);

    if (!(count & 1) || count != leases->odd)
        leases->odd_since = now;
    leases->odd = count;
    if (now - leases->odd_since < STUCK)
        return false;
    leases->odd_since = now;
    return true;
}

/* With the lock we know that no commit is under way. False: somebody has it. */
static bool
unstick(zp__server *server)
{
    zp__shared *shared = server->board->shared;

    if (zp__board_lock(server->board, 0) < 0)
        return false;
    if (atomic_load(&shared->leases) & 1)
        atomic_store(&shared->leases, atomic_load(&shared->leases) + 1);
    zp__board_unlock(server->board);
    return true;
}

static void
begin_look(zp__server *server)
{
    zp__shared *shared = server->board->shared;
    zp__leases *leases = &server->leases;

    leases->looking = true;
    leases->wanted = leases->failed = false;
    leases->earliest = INT64_MAX;
    leases->reading = leases->deleting = 0;
    memset(&leases->at, 0, sizeof leases->at);
    leases->soon = zp__boottime() + SOON;
    atomic_store(&shared->lease_look, leases->soon);
    leases->told = atomic_load(&shared->lease_told);
    leases->count = atomic_load(&shared->leases);
    zp__board_fence();
}

static void
end_look(zp__server *server)
{
    zp__leases *leases = &server->leases;
    int64_t pause = leases->reading * SHARE, now = zp__boottime();

    leases->looking = false;
    leases->at_once = now + (pause < PAUSE_MAX ? pause : PAUSE_MAX);
    if (leases->failed) {
        pause = pause > leases->patience ? pause : leases->patience;
        leases->at_once = now + pause;
        leases->next = now;
        leases->patience *= 2;
        if (leases->patience > PATIENCE_MAX)
            leases->patience = PATIENCE_MAX;
    } else {
        leases->next = leases->earliest;
        if (atomic_load(&server->board->shared->leases) != leases->count &&
            leases->soon < leases->next)
            leases->next = leases->soon;
        leases->patience = PATIENCE;
        forget_ended(leases);
    }
    leases->not_before = now + (pause > APART ? pause : APART);
    if (leases->next < leases->not_before)
        leases->next = leases->not_before;
    atomic_store(&server->board->shared->lease_look, leases->next);
}

/* Some rows on: 1, 0 at the end, or an error. */
static int
read_slice(zp__server *server)
{
    zp__leases *leases = &server->leases;
    int64_t now = zp__boottime();
    zp__lease lease;
    int n, rc;

    leases->n_over = 0;
    rc = zp__view_begin(server->view);
    if (rc < 0)
        return rc;
    for (n = 0, rc = 1; n < ROWS && leases->n_over < ZP__OVER; n++) {
        struct zp__over *over = &leases->over[leases->n_over];

        rc = zp__view_next_lease(server->view, &leases->at, &lease);
        if (rc != 1)
            break;
        if (!is_over(server, &lease, now))
            continue;
        strcpy(over->ns, leases->at.ns);
        strcpy(over->key, leases->at.key);
        leases->n_over++;
    }
    zp__view_end(server->view);
    zp__server_trim(server, ZP__TRIM_PASS + (unsigned)n / 16);
    return rc;
}

static void
look_on(zp__server *server)
{
    zp__leases *leases = &server->leases;
    int64_t begun = zp__boottime(), read;
    int rc = read_slice(server);

    read = zp__boottime();
    leases->reading += read - begun;
    if (leases->n_over > 0 && rc >= 0 && delete_over(server) < 0)
        rc = -EAGAIN;
    leases->deleting += zp__boottime() - read;
    if (rc < 0)
        leases->failed = true;
    if (rc <= 0)
        end_look(server);
}

static int64_t
may_look(const zp__leases *leases)
{
    return leases->wanted ? leases->at_once : leases->not_before;
}

void
zp__server_leases_turn(zp__server *server, bool told)
{
    zp__leases *leases = &server->leases;
    int64_t now;

    if (told)
        take_ended(server);
    if (leases->n_blind > 0 && zp__now() >= leases->next_blind)
        look_for_blind(server);
    if (!leases->looking) {
        now = zp__boottime();
        if (is_stuck(server, now) && unstick(server))
            leases->wanted = true;
        if (now < may_look(leases) ||
            (now < leases->next && !leases->wanted && !is_told(server)))
            return;
        begin_look(server);
    } else if (leases->deleting >= PROGRESS &&
               (leases->wanted || is_told(server))) {
        begin_look(server);
    }
    look_on(server);
}

int
zp__server_leases_ms(const zp__server *server, int ms)
{
    const zp__leases *leases = &server->leases;
    int64_t left, next = leases->next;

    if (leases->looking)
        return 0;
    if ((atomic_load(&server->board->shared->leases) & 1) && STUCK / MS < ms)
        ms = STUCK / MS;
    if (leases->wanted || is_told(server))
        next = may_look(leases);
    if (next == INT64_MAX)
        return ms;
    left = next - zp__boottime();
    if (left <= 0)
        return 0;
    return left / MS + 1 < ms ? (int)(left / MS) + 1 : ms;
}

/* ------------------------------------------------------ coming and going -- */

void
zp__server_leases_open(zp__server *server)
{
    zp__shared *shared = server->board->shared;
    zp__leases *leases = &server->leases;

    leases->poll_fd = -1;
    leases->patience = PATIENCE;
    leases->pid_ns = zp__pid_ns();
    leases->writer = zp__board_writer(server->board);
    for (unsigned i = 0; i < ZP__HOLDERS; i++)
        atomic_store(&shared->holders[i], 0);
    atomic_store(&shared->lease_look, INT64_MAX);
    leases->next = 0; /* now */
}

void
zp__server_leases_free(zp__server *server)
{
    zp__leases *leases = &server->leases;

    for (size_t i = 0; i < leases->n_holders; i++)
        if (leases->holders[i].fd >= 0)
            close(leases->holders[i].fd);
    if (leases->poll_fd >= 0)
        close(leases->poll_fd);
    free(leases->holders);
}
