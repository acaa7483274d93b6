/*
 * server_tree.c - ending the processes of a state whose owner has ended.
 *
 * The records in the store say who belongs to it: pid, start time, boot and
 * pid namespace, so that a process that got an old pid by chance is never hit.
 * Each is held by a pidfd from the moment it was recognised; signals go through
 * that. (Where there are none, its identity is looked at anew each time.)
 * Deepest first: a parent is told after its children. As everywhere, CONT goes
 * with TERM.
 *
 * While the tree ends it may still grow (a child that was about to spawn), so
 * the records are read again until none of them runs.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/record.h"
#include "core/server.h"

#define ROUNDS 16
#define KILL_SECONDS 1.0  /* for KILL to take effect */
#define LOOK_SECONDS 0.01 /* between looks at one without a pidfd */

struct victim {
    zp__pid id;
    uint32_t depth;
};

struct victims {
    struct victim *list;
    struct pollfd *fds; /* their pidfds; -1: there are none here */
    size_t n, room;
};

/* Is it a process of this boot and pid namespace, and not this one? */
static bool
ours(const zp__record *record)
{
    return record->state != ZP__RECORD_ENDED && record->id.pid > 1 &&
           record->id.pid != (int32_t)getpid() &&
           record->boot == zp__boot_hash() && record->pid_ns == zp__pid_ns();
}

/* Without memory it is left out: the next round finds it. */
static void
add(struct victims *victims, const zp__pid *id, uint32_t depth)
{
    size_t room = victims->room ? victims->room * 2 : 64;
    struct victim *list;

    if (victims->n == victims->room) {
        list = realloc(victims->list, room * sizeof *list);
        if (!list)
            return;
        victims->list = list;
        victims->room = room;
    }
    victims->list[victims->n++] = (struct victim){*id, depth};
}

static int
deepest_first(const void *a, const void *b)
{
    uint32_t x = ((const struct victim *)a)->depth;
    uint32_t y = ((const struct victim *)b)->depth;

    return (x < y) - (x > y);
}

/* Take hold of those in the list, as far as descriptors last; forget the
 * others. */
static void
hold(struct victims *victims)
{
    struct pollfd *fds =
        realloc(victims->fds, (victims->n + 1) * sizeof *victims->fds);
    size_t i, n = 0;
    int fd = 0;

    if (!fds) {
        victims->n = 0;
        return;
    }
    victims->fds = fds;
    for (i = 0; i < victims->n && fd != -EMFILE && fd != -ENFILE; i++) {
        fd = zp__pid_open(&victims->list[i].id);
        if (fd < 0 && (fd != -ENOSYS || !zp__pid_alive(&victims->list[i].id)))
            continue;
        victims->list[n] = victims->list[i];
        fds[n++] = (struct pollfd){fd < 0 ? -1 : fd, POLLIN, 0};
    }
    victims->n = n;
}

/* All recorded processes that run. */
static void
collect(zp__server *server, struct victims *victims)
{
    zp__record record;
    const void *data;
    uint64_t id = 0;
    size_t size;

    victims->n = 0;
    if (zp__view_begin(server->view) < 0)
        return;
    while (zp__view_next_running(server->view, id, &id, &data, &size) > 0)
        if (zp__record_decode(&record, data, size) >= 0 && ours(&record))
            add(victims, &record.id, record.depth);
    zp__view_end(server->view);
    if (victims->n)
        qsort(victims->list, victims->n, sizeof *victims->list, deepest_first);
    hold(victims);
}

static void
tell(const struct victims *victims, int signal)
{
    size_t i;

    for (i = 0; i < victims->n; i++)
        if (victims->fds[i].fd >= 0)
            (void)syscall(SYS_pidfd_send_signal, victims->fds[i].fd, signal,
                          NULL, 0);
        else
            (void)zp__pid_kill(&victims->list[i].id, signal);
}

static bool
has_ended(const struct victims *victims, size_t i)
{
    if (victims->fds[i].fd < 0)
        return !zp__pid_alive(&victims->list[i].id);
    return victims->fds[i].revents != 0;
}

/* Forget those that have ended. */
static void
reap(struct victims *victims)
{
    size_t i, n = 0;

    if (poll(victims->fds, victims->n, 0) < 0)
        return;
    for (i = 0; i < victims->n; i++) {
        if (!has_ended(victims, i)) {
            victims->list[n] = victims->list[i];
            victims->fds[n++] = victims->fds[i];
        } else if (victims->fds[i].fd >= 0) {
            close(victims->fds[i].fd);
        }
    }
    victims->n = n;
}

/* Wait until all have ended or the time is up. */
static void
wait_for(struct victims *victims, double deadline)
{
    double left;

    for (reap(victims); victims->n; reap(victims)) {
        left = deadline - zp__now();
        if (left <= 0)
            break;
        if (victims->fds[0].fd < 0 && left > LOOK_SECONDS)
            left = LOOK_SECONDS;
        (void)poll(victims->fds, 1, (int)(left * 1000) + 1);
    }
}

void
zp__server_end_tree(zp__server *server, double grace)
{
    struct victims victims = {NULL, NULL, 0, 0};
    double deadline = zp__now() + grace;
    size_t i;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        collect(server, &victims);
        if (!victims.n)
            break;
        tell(&victims, SIGTERM);
        tell(&victims, SIGCONT);
        wait_for(&victims, deadline);
        tell(&victims, SIGKILL);
        wait_for(&victims, zp__now() + KILL_SECONDS);
        for (i = 0; i < victims.n; i++) /* not to be ended */
            if (victims.fds[i].fd >= 0)
                close(victims.fds[i].fd);
    }
    free(victims.fds);
    free(victims.list);
}
