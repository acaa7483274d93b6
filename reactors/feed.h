/*
 * feed.h - how changes reach a process: one SUB socket per context for the
 * wake-ups, and the log for the truth.
 *
 *     server --news--> feed.c: socket, subscriptions, confirmed start
 *                         | a turn is due
 *                         v
 *     log (store.h) --> turn.c: reads the log, matches, calls
 *                         |
 *                         v
 *                      taps (tap.c): what a reaction wants, how far it has seen
 *
 * A message is a wake-up; it is never compared with what has been read. Each
 * tap has a *cursor*, the revision up to which it has seen everything, and a
 * turn reads the log from there. So a lost, repeated or late message can delay
 * an event, never lose, repeat or reorder one.
 *
 * Readers. Most taps have seen the log to the same revision: they are *in
 * line*, and their common cursor is their reader's `read`. Only a tap that is
 * elsewhere (just registered, called back, busy, started in the past) stands
 * *apart* with a cursor of its own, until a turn has brought it to `read`. So
 * a turn costs what happened, not how many taps there are. There are two
 * readers: one of the buffered taps and one of the live ones.
 *
 * Two things come to a tap that do not stand in the log: its first look (a
 * condition may hold already), at its cursor and before any row; and the end of
 * its time, behind all rows that were there by then. Until a turn has called it
 * for these it is *due*.
 *
 * A tap that *fetches* (an iterator) is called only while somebody waits for
 * its next event; else it stays where it is, apart. While the context's
 * callbacks are held back, those are the only ones that are called.
 *
 * Life of a tap. It holds one reference to itself while the feed lists it, and
 * a turn holds one for each time it has it in hand: so whatever a callback
 * frees stays readable until the turn has seen that it is no longer active.
 */
#ifndef ZP_REACTORS_FEED_H
#define ZP_REACTORS_FEED_H

#include "core/state.h"
#include "core/wire.h"
#include "reactors/list.h"

#define ZP__TURN 64     /* events per turn of the loop, at most */
#define ZP__ROWS 4096   /* rows of the log looked at per turn and reader */
#define ZP__SLICE 0.002 /* seconds after which a turn gives way, per part */

typedef struct zp__feed zp__feed;
typedef struct zp__tap zp__tap;
typedef struct zp__frame zp__frame;

/* A topic that the socket is subscribed to; kept for a while when idle. */
typedef struct zp__sub {
    struct zp__sub *chain; /* in its bucket */
    zp__node idle;         /* in feed->idle while it has no links */
    zp__node links;        /* who reacts, in order of registration */
    unsigned char kind;    /* ZP__TOPIC_KEY, ZP__TOPIC_NS */
    unsigned char name[ZP__TOPIC_SIZE];
    uint64_t hash;
    uint64_t serial; /* its place among all subscriptions ever made */
    double idle_since;
} zp__sub;

typedef struct zp__subs {
    zp__sub **buckets;
    size_t n_buckets; /* a power of two */
    size_t n;
} zp__subs;

/* That a tap wants a topic, and for which key (NULL: the namespace). */
typedef struct zp__link {
    zp__node node; /* in sub->links */
    zp__tap *tap;
    zp__sub *sub;
    const char *key; /* the tap's */
} zp__link;

/* The taps of one mode. */
typedef struct zp__reader {
    uint64_t read;  /* what all taps in line have seen the log to */
    size_t in_line; /* how many those are */
    zp__node apart; /* active taps with a cursor of their own, but for those
                       that fetch and are not waited for: they cost nothing */
    zp__node found; /* live: active taps with an event waiting */
} zp__reader;

/* What a reaction wants, how far it has seen, and what to call. To be embedded
 * in the object that reacts; zeroed before zp__tap_init(). */
struct zp__tap {
    zp__node node; /* in feed->taps, until freed */
    zp__node apart;
    zp__node found;
    zp__node due;
    zp__feed *feed;
    zp_state *handle; /* registered through */
    zp__reader *reader;

    /* Called with each event (the tap has been told apart before); the result
     * is the callback's. May do anything, zp__tap_free() included. */
    int (*call)(zp__tap *tap, zp_event *event);
    void (*ended)(zp__tap *tap);   /* it is no longer active */
    void (*freed)(zp__tap *tap);   /* let go of all that is the context's */
    void (*release)(zp__tap *tap); /* free what it is embedded in */

    uint64_t writer;
    unsigned flags; /* zp_watch_flag */
    char ns[ZP__NS_MAX + 1];
    char **keys; /* sorted, each once; NULL: none */
    size_t n_keys;
    zp__link *links;
    size_t n_links;

    uint64_t order;    /* of registration */
    uint64_t cursor;   /* when apart */
    uint64_t found_at; /* live: the revision of the event that waits, or 0 */
    uint64_t silent;   /* what is lost up to here is no loss (ZP_OLDEST) */
    uint64_t expires;  /* expired: the head then */
    uint64_t mark;     /* the row for which it was collected last */
    unsigned refs;
    bool active; /* can still be called */
    bool busy;   /* its callback is on the stack */
    bool is_apart;
    bool replays;    /* started in the past, and is not in line yet */
    bool listed;     /* in feed->taps */
    bool looks;      /* due: its first look, at its cursor */
    bool expired;    /* due: the end of its time */
    bool fetches;    /* called only while it is ... */
    bool awaited;    /* ... waited for */
    bool unattended; /* freed when it ends: nobody else does */
};

struct zp__feed {
    zp_ctx *ctx;

    /* feed.c: the socket and what it is subscribed to */
    void *socket;
    struct zp__owned *owned;
    zp__handle *readable;
    char address[ZP__PATH_MAX + 8];
    uint32_t connected; /* the server's generation that we connected to */
    uint32_t told;      /* the one that answered last */
    unsigned char standing[ZP__TOPIC_SIZE]; /* sync topic for reconnects */
    unsigned char asking[ZP__TOPIC_SIZE];   /* sync topic of this round */
    bool is_asking;
    struct zp__feed_bell *bell; /* our own; NULL: there was none left */
    bool bell_rang;             /* this turn is for it */
    uint64_t serial;            /* of the subscription made last */
    uint64_t asked;             /* this round's answer confirms up to here */
    uint64_t confirmed;         /* up to here the server has told us it knows */
    double patience;            /* how long to wait for an answer */
    zp__handle *patience_timer;
    zp__handle *idle_timer;
    zp__node idle; /* subscriptions without links, longest first */
    zp__subs subs;

    /* tap.c, turn.c: who reacts, and how far the log has been read */
    zp__view *view;
    zp__handle *kick;  /* another turn is due */
    zp__handle *again; /* after an error */
    zp__node taps;     /* all, in order of registration */
    zp__node due;      /* those with something that is not in the log */
    zp__reader buffered, live;
    unsigned turns;   /* on the stack */
    unsigned part;    /* of a turn, with which the next one begins */
    zp__frame *spare; /* turns' memory, for as many as were nested */
    uint64_t order;   /* the next registration's */
    uint64_t rows;    /* matched so far: marks taps */
    uint64_t active;  /* how many taps are */
};

/* ---- feed.c ---- */

/* CTX's feed; made, with its socket, and the server watched over, if there is
 * none yet. */
int zp__feed_get(zp__feed **ret, zp_ctx *ctx);

/* Read what has come, at most so much; look after the connection. */
void zp__feed_drain(zp__feed *feed);

/* Let LINK (of a tap, zeroed) have the topic of KIND ('K', 'N') and HASH: as
 * its last. Then, after a batch of these, have the server confirm them. */
int zp__feed_subscribe(zp__feed *feed, zp__link *link, unsigned char kind,
                       uint64_t hash);
void zp__feed_confirm(zp__feed *feed);

/* Undo it (nothing for a link that was not made). */
void zp__feed_unsubscribe(zp__feed *feed, zp__link *link);

/* Does the server that runs now know this subscription? */
bool zp__feed_confirmed(const zp__feed *feed, const zp__sub *sub);

/* ---- bell.c ---- */

/* A bell for the feed, if there can be one; without, messages have to do. */
void zp__bell_open(zp__feed *feed);
void zp__bell_close(zp__feed *feed);

/* Be rung for a subscription: to be said before it is sent; and no more. */
void zp__bell_want(zp__feed *feed, uint64_t topic, bool want);

/* A turn begins, and will read the log. True if it was the bell that rang: then
 * the socket needs no look. */
bool zp__bell_answer(zp__feed *feed);

/* ---- subs.c ---- */

int zp__subs_init(zp__subs *subs);
void zp__subs_free(zp__subs *subs); /* which is empty */
int zp__subs_add(zp__subs *subs, zp__sub **ret, unsigned char kind,
                 uint64_t hash);
void zp__subs_remove(zp__subs *subs, zp__sub *sub);

/* Who wants that topic: NULL or a subscription (maybe an idle one). */
zp__sub *zp__subs_find(const zp__subs *subs, unsigned char kind, uint64_t hash);

/* ---- tap.c ---- */

/* Can these be watched? And how many bytes they are. Errors: -EINVAL. */
int zp__tap_check_keys(const char *const *keys, size_t n, size_t *ret_bytes);

/* Check and copy what is wanted of HANDLE. Errors: -EINVAL, -ENOMEM. On
 * success one reference is held: zp__tap_unref() undoes it. */
int zp__tap_init(zp__tap *tap, zp_state *handle, const char *const *keys,
                 size_t n_keys, unsigned flags);
void zp__tap_unref(zp__tap *tap);

/* Register it: from now on (or from where OPTIONS say) it is called. It holds
 * the loop, unless it fetches. With LOOKS it gets a first look. On an error it
 * is as before. Errors: -ERANGE, ZP_ENOSERVER. */
int zp__tap_start(zp__tap *tap, const zp_watch_options *options, bool looks);

/* It will not be called again: unsubscribed, the loop released; freed if it is
 * unattended. Then, or at once: taken out of the feed, its reference dropped.
 * Both may be called twice, and in any callback. */
void zp__tap_end(zp__tap *tap);
void zp__tap_free(zp__tap *tap);

/* Has the server confirmed all that it subscribed to? */
bool zp__tap_confirmed(const zp__tap *tap);

/* Forget what is waiting: go on with what comes after now. */
int zp__tap_go_live(zp__tap *tap);

/* Its time is over: it is told so behind what has happened until now. */
void zp__tap_expire(zp__tap *tap);

/* One that fetches: from now on somebody waits for its next event, or not any
 * more. (A turn is due, then.) */
void zp__tap_await(zp__tap *tap, bool awaited);

/* The newest revision at this moment. */
int zp__feed_head(zp_ctx *ctx, uint64_t *ret_head);

/* From now on only those that fetch are called; and all again. Counted. */
void zp__feed_hold(zp_ctx *ctx);
void zp__feed_unhold(zp_ctx *ctx);

/* What it has seen the log to; put it apart with that cursor; or in line. */
uint64_t zp__tap_cursor(const zp__tap *tap);
void zp__tap_apart(zp__tap *tap, uint64_t cursor);
void zp__tap_in_line(zp__tap *tap);

/* An event for a live tap at that revision; 0: none any more. */
void zp__tap_found(zp__tap *tap, uint64_t revision);

/* It is to have its first look; it has had it. */
void zp__tap_look(zp__tap *tap);
void zp__tap_looked(zp__tap *tap);

/* Does it want this change? (Whose it is has been looked at.) */
bool zp__tap_wants(const zp__tap *tap, const zp__log_change *change);

/* ---- turn.c ---- */

/* Read the news, then the log, and call whom it concerns. Called from the loop
 * alone; calls itself through it, if a callback runs the loop. */
void zp__feed_turn(zp__feed *feed);

/* The memory of turns that are over. */
void zp__frames_free(zp__frame *frames);

#endif
