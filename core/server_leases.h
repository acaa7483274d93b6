/*
 * server_leases.h - keys that go by themselves, as the server sees them.
 */
#ifndef ZP_CORE_SERVER_LEASES_H
#define ZP_CORE_SERVER_LEASES_H

#include "core/leases.h"

#define ZP__OVER 256 /* keys deleted in one transaction */

struct zp__server;

typedef struct zp__holder { /* a process that some lease is bound to */
    zp__pid id;
    int fd; /* pidfd, in the set; -1: it is looked for by the clock */
    bool ended;
} zp__holder;

typedef struct zp__leases {
    int poll_fd; /* epoll set of the pidfds; -1: none yet */
    zp__holder *holders;
    size_t n_holders, room; /* sorted by id */
    size_t n_fds, n_blind;  /* ... with a pidfd; without, and not ended */
    double next_blind;      /* when to look for those (zp__now()) */
    uint64_t pid_ns;
    uint64_t writer; /* our id in the log */

    /* the look at all leases: in slices */
    bool looking;
    bool wanted;        /* a holder has ended, or a writer, untold: look */
    bool failed;        /* something could not be done: look again */
    uint64_t told;      /* the board's, when it began */
    uint64_t count;     /* likewise, and ours that came since */
    uint64_t odd;       /* a count that was odd ... */
    int64_t odd_since;  /* ... at this time; 0: none was */
    zp__lease_at at;    /* so far */
    int64_t soon;       /* the next one, if this may have missed some */
    int64_t earliest;   /* of the deadlines that it found */
    int64_t reading;    /* ns that it took to read them ... */
    int64_t deleting;   /* ... and to delete those that were over */
    int64_t next;       /* when to look at the latest (zp__boottime()) ... */
    int64_t not_before; /* ... and when at the earliest, ... */
    int64_t at_once;    /* ... or this, since a holder has ended */
    int64_t patience;   /* after a failure, ns */

    size_t n_over; /* leases found to be over */
    struct zp__over {
        char ns[ZP__NS_MAX + 1];
        char key[ZP__KEY_MAX + 1];
    } over[ZP__OVER];
} zp__leases;

/* Begin, once the board has our name: the first look is due. End. */
void zp__server_leases_open(struct zp__server *server);
void zp__server_leases_free(struct zp__server *server);

/* What is to be done now: one slice. TOLD: the set of pidfds is readable. */
void zp__server_leases_turn(struct zp__server *server, bool told);

/* How many of MS may be slept before there is something to do. Behind `asleep`
 * and its fence. */
int zp__server_leases_ms(const struct zp__server *server, int ms);

#endif
