/*
 * server_tree.c - ending the processes of a state whose owner has ended.
 *
 * The records in the store say who belongs to it: pid, start time, boot and
 * pid namespace, so that a process that got an old pid by chance is never hit.
 * Each is held by a pidfd from the moment it was recognised; signals go through
 * that. Deepest first: a parent is told after its children.
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
#define KILL_SECONDS 1.0 /* for KILL to take effect */

struct victim {
    int fd;
    uint32_t depth;
};

struct victims {
    struct victim *list;
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

/* Keep FD (taken). Without memory it is left out: the next round finds it. */
static void
add(struct victims *victims, int fd, uint32_t depth)
{
    if (victims->n == victims->room) {
        size_t room = victims->room ? victims->room * 2 : 64;
        struct victim *list = realloc(victims->list, room * sizeof *list);

        if (!list) {
            close(fd);
            return;
        }
        victims->list = list;
        victims->room = room;
    }
    victims->list[victims->n].fd = fd;
    victims->list[victims->n++].depth = depth;
}

static int
deepest_first(const void *a, const void *b)
{
    uint32_t x = ((const struct victim *)a)->depth;
    uint32_t y = ((const struct victim *)b)->depth;

    return (x < y) - (x > y);
}

/* All recorded processes that run, as far as descriptors last. */
static void
collect(zp__server *server, struct victims *victims)
{
    zp__record record;
    const void *data;
    uint64_t id = 0;
    size_t size;
    int fd;

    victims->n = 0;
    if (zp__view_begin(server->view) < 0)
        return;
    while (zp__view_next_running(server->view, id, &id, &data, &size) > 0) {
        if (zp__record_decode(&record, data, size) < 0 || !ours(&record))
            continue;
        fd = zp__pid_open(&record.id);
        if (fd >= 0)
            add(victims, fd, record.depth);
        else if (fd == -EMFILE || fd == -ENFILE)
            break;
    }
    zp__view_end(server->view);
    if (victims->n)
        qsort(victims->list, victims->n, sizeof *victims->list, deepest_first);
}

static void
tell(const struct victims *victims, int signal)
{
    size_t i;

    for (i = 0; i < victims->n; i++)
        (void)syscall(SYS_pidfd_send_signal, victims->list[i].fd, signal, NULL,
                      0);
}

/* Forget those that have ended. */
static void
reap(struct victims *victims)
{
    size_t i, n = 0;

    for (i = 0; i < victims->n; i++) {
        struct pollfd one = {victims->list[i].fd, POLLIN, 0};

        if (poll(&one, 1, 0) > 0)
            close(one.fd);
        else
            victims->list[n++] = victims->list[i];
    }
    victims->n = n;
}

/* Wait until all have ended or the time is up. */
static void
wait_for(struct victims *victims, double deadline)
{
    double left;

    for (reap(victims); victims->n; reap(victims)) {
        struct pollfd one = {victims->list[0].fd, POLLIN, 0};

        left = deadline - zp__now();
        if (left <= 0)
            break;
        (void)poll(&one, 1, (int)(left * 1000) + 1);
    }
}

void
zp__server_end_tree(zp__server *server, double grace)
{
    struct victims victims = {NULL, 0, 0};
    double deadline = zp__now() + grace;
    size_t i;
    int round;

    for (round = 0; round < ROUNDS; round++) {
        collect(server, &victims);
        if (!victims.n)
            break;
        tell(&victims, SIGTERM);
        wait_for(&victims, deadline);
        tell(&victims, SIGKILL);
        wait_for(&victims, zp__now() + KILL_SECONDS);
        for (i = 0; i < victims.n; i++) /* not to be ended */
            close(victims.list[i].fd);
    }
    free(victims.list);
}
