/*
 * server.h - the state server inside: what its files share. Nobody else
 * includes this; the way in is zp_serve().
 *
 *     server.c          comes to be and goes: lock, sockets, board, closing
 *     server_loop.c     waits for the bell, sockets, owner and clock
 *     server_publish.c  reads the log and the subscriptions, sends
 *     server_bells.c    rings the watchers' own bells
 *     server_topics.c   what is subscribed to, and the interest filter
 *     server_leases.c   deletes the keys whose lease is over
 *     server_tree.c     ends the processes of the state
 *     server_orphans.c  ends those whose parent has died
 *     server_memory.c   lets go of the store's mapped pages
 */
#ifndef ZP_CORE_SERVER_H
#define ZP_CORE_SERVER_H

#include <sys/resource.h>

#include "core/server_leases.h"
#include "core/server_topics.h"
#include "core/slots.h"
#include "core/store.h"

#define ZP__BATCH 256 /* topics found before they are sent */
#define ZP__SYNCS 64  /* sync topics read before they are answered */
#define ZP__LATE 1024 /* topics whose messages may come later */

/* Processes that are being ended, since their parents have died. */
typedef struct zp__orphan {
    uint64_t record;
    zp__pid id; /* 0: there is none, or it is another's */
    double due; /* when to signal it again */
    bool told;
} zp__orphan;

typedef struct zp__orphans {
    zp__orphan *list; /* by record */
    unsigned n, room;
    uint64_t after; /* the walk goes on behind this record */
    bool some;      /* there are processes that run */
    double next, next_walk;
} zp__orphans;

typedef struct zp__server {
    zp__place place;
    zp__store *store;
    zp__board *board;
    zp__view *view;
    zp__pid owner;
    bool self_owned;     /* run by hand: this process is the owner */
    int lock;            /* the flock: held from before binding to the end */
    int owner_fd;        /* pidfd of the owner; -1: look now and then */
    int signal_fd;       /* by hand: TERM, INT, HUP; -1 else */
    uint64_t dev, inode; /* of the run directory */
    uint32_t generation; /* ours */

    void *zmq;
    void *pub;
    void *ctl;
    int pub_fd;
    int ctl_fd;
    bool pub_used; /* since it was read dry: its descriptor may be silent */
    bool ctl_used;

    zp__topics topics;
    uint64_t calls;     /* of the board's, so many were taken */
    uint64_t published; /* all revisions up to here have been looked at */
    size_t n_batch;
    uint8_t batch[ZP__BATCH][ZP__TOPIC_SIZE];
    size_t n_syncs;
    uint8_t syncs[ZP__SYNCS][ZP__TOPIC_SIZE];
    unsigned gone; /* a watcher left, or a parent died: so many looks at
                      what is left behind, it may take a while to die */

    int bells[ZP__SLOTS]; /* descriptors of the watchers' bells */
    unsigned n_bells, max_bells;
    struct rlimit limit; /* of descriptors, before it was raised */
    bool limit_raised;
    bool bare;       /* there is a watcher without a bell */
    double look;     /* when to look for unanswered bells; 0: none is out */
    uint32_t hushes; /* of the board: seen so many */
    size_t n_late;
    uint8_t late[ZP__LATE][ZP__TOPIC_SIZE]; /* rung, no message yet */

    zp__leases leases;

    unsigned char *request; /* room for the largest */
    void *map;              /* of the store's file; NULL: not found */
    size_t map_size;
    int64_t mapped_base; /* file-backed memory when it started */
    int statm_fd;
    unsigned touched; /* of the map, since it was looked at last */
    double next_duty; /* times of what comes due (zp__now()) */
    double next_readers;
    double next_sync;
    uint64_t synced; /* head at the last sync */
    zp__orphans orphans;
} zp__server;

/* Why the server ended. */
enum zp__server_end {
    ZP__END_OWNER = 1, /* the owner ended, or closed the state */
    ZP__END_SIGNAL,    /* by hand: was told to */
    ZP__END_TAKEN,     /* another server has taken over */
    ZP__END_VANISHED   /* the run directory is gone */
};

/* Serve until there is a reason to end: that, or a negative code. */
int zp__server_loop(zp__server *server);

/* Look at all revisions after `published` and send each topic that was
 * changed in them once. 1 if there was one, 0 if not, -ENOMEM. */
int zp__server_pass(zp__server *server);

/* Read all subscriptions there are, put them in the filter, answer the sync
 * topics among them. -ENOMEM: the filter is not complete, end. */
int zp__server_read_pub(zp__server *server);

/* Ring everybody, send every topic once. */
void zp__server_publish_all(zp__server *server);

/* Send one topic, XPUB read dry before. -ENOMEM. */
int zp__server_send(zp__server *server, const uint8_t *topic);

/* The watchers' own bells: before the first pass; at the end; once a second,
 * when slots have been cleared, too. */
void zp__server_bells_open(zp__server *server);
void zp__server_bells_free(zp__server *server);
void zp__server_bells_tidy(zp__server *server);

/* Ring all whom the batch concerns; what stays in it has to be sent at once. */
void zp__server_ring_batch(zp__server *server);
void zp__server_ring_all(zp__server *server);

/* Send what is late: to whom has not answered, or (ALL) to everybody. -ENOMEM.
 * How many of MS may be slept before that has to be looked at. */
int zp__server_send_late(zp__server *server, bool all);
int zp__server_look_ms(const zp__server *server, int ms);

/* Answer requests: true when there may be more of them. */
bool zp__server_read_ctl(zp__server *server);

/* Find the mapping of the store's file. Then, after each thing that reads of
 * it: let go of its pages if they have become many. */
void zp__server_find_map(zp__server *server);
void zp__server_trim(zp__server *server, unsigned weight);

#define ZP__TRIM_ROW 1    /* weights: a row read, ... */
#define ZP__TRIM_PASS 32  /* ... a pass, */
#define ZP__TRIM_TICK 256 /* a second gone */

/* End all processes of the state that are on record: TERM, after GRACE seconds
 * KILL, deepest first. Returns when they have ended (or cannot be). */
void zp__server_end_tree(zp__server *server, double grace);

/* Look for processes whose parent has died, end them, and their records: what
 * is due of that; never waits. How many of MS may be slept before the next
 * tick. At the end. */
void zp__server_orphans_tick(zp__server *server, double now);
int zp__server_orphans_ms(const zp__server *server, int ms);
void zp__server_orphans_free(zp__server *server);

#endif
