/*
 * room.c - is there room for what libzmq starts with?
 *
 * The first socket of a zmq context starts two threads and opens a handful of
 * descriptors. If the process may not have them libzmq prints a line and aborts
 * it. So we try first: as many are opened, and started, at once as it needs,
 * and all are gone again before it begins.
 *
 * A thread that was joined still counts for a moment, until the kernel has
 * forgotten its number: we wait for that. What another process takes in between
 * cannot be helped.
 *
 * Cost: about 50 us, once in a process that asks the server or watches.
 */
#include "core/room.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/error.h"
#include "core/tsan.h"

#define DESCRIPTORS 10
#define DESCRIPTORS_MAX 64 /* that are tried at once */
#define PEER 4    /* one for the connection, and some for whoever is quicker */
#define THREADS 2 /* the reaper, and one for I/O */
#define PATIENCE 1000 /* looks; the number may be another thread's by now */

static int
try_descriptors(int wanted)
{
    int fds[DESCRIPTORS_MAX], n = 0, errnum;

    while (n < wanted && (fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0)
        n++;
    errnum = errno;
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return n == wanted ? 0 : errnum;
}

struct guest {
    pthread_t thread;
    pthread_mutex_t *gate; /* held as long as it must stay */
    long number;
};

static void *
stay(void *user)
{
    struct guest *guest = user;

    guest->number = syscall(SYS_gettid);
    pthread_mutex_lock(guest->gate);
    pthread_mutex_unlock(guest->gate);
    return NULL;
}

static void
see_off(const struct guest *guest)
{
    int i;

    pthread_join(guest->thread, NULL);
    for (i = 0; i < PATIENCE; i++) {
        if (syscall(SYS_tgkill, getpid(), guest->number, 0) < 0)
            break;
        sched_yield();
    }
}

/* With all signals blocked: none of the application's handlers runs in them. */
static int
try_threads(void)
{
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct guest guests[THREADS];
    sigset_t all, before;
    int n, rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_mutex_lock(&gate);
    for (n = 0; n < THREADS; n++) {
        guests[n].gate = &gate;
        rc = pthread_create(&guests[n].thread, NULL, stay, &guests[n]);
        if (rc)
            break;
    }
    pthread_mutex_unlock(&gate);
    while (n)
        see_off(&guests[--n]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_destroy(&gate);
    return rc;
}

static int
fail(int errnum, const char *what)
{
    errno = errnum;
    return zp__fail_errno(errnum, "cannot make a socket: %s", what);
}

int
zp__room_for_zmq(void)
{
    int rc = try_descriptors(DESCRIPTORS);

    if (rc)
        return fail(rc, "no descriptors for it");
    if (!ZP__TSAN) /* it gives up when a forked child starts many threads */
        rc = try_threads();
    if (rc)
        return fail(rc, "no threads for it");
    return 0;
}

int
zp__room_for_peer(size_t others)
{
    int rc = try_descriptors(
        others < DESCRIPTORS_MAX - PEER ? PEER + (int)others : DESCRIPTORS_MAX);

    return rc ? fail(rc, "no descriptors for it") : 0;
}
