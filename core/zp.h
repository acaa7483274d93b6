/*
 * zp.h - zproc: processes that share one smart state and react to it.
 *
 * A *context* is a process's connection to a state: its event loop and its
 * children. A *state* is a namespace seen through a context, dict-like, with
 * typed values. A *revision* (64 bits, strictly increasing) numbers each
 * committed transaction. A *change* is one key set or deleted at one revision.
 * A *snapshot* is the state as it was at one revision. A *watch* is a
 * registered reaction.
 *
 * Conventions, the same everywhere:
 *
 *  - A function that can fail returns int: 0 or more is success, a negative
 *    value is an error, either -errno or one of the ZP_E* codes below (which
 *    are negative themselves). zp_strerror() names it; zp_ctx_error() tells
 *    which key, file or process was meant.
 *  - Outputs (ret_...) are written on success only.
 *  - Pointers passed in are *borrowed* for the call, unless the contract says
 *    *kept* (must stay valid as long as the object) or *taken* (the object
 *    frees it; on error nothing is taken).
 *  - Times are seconds as double; negative means for ever, 0 do not wait.
 *  - An option struct starts with `size` (sizeof the struct); all other
 *    fields zero mean the defaults; a NULL pointer means all defaults.
 *  - A context and everything made from it belongs to one thread at a time
 *    and to one process: after fork(), every call on an inherited handle is
 *    ZP_EFORK and touches nothing (freeing one gives NULL, and leaks it).
 *    Several contexts, in several threads, are fine.
 *  - Callbacks run only inside zp_run(), inside a call that waits (zp_wait()
 *    and its kin), inside zp_ctx_dispatch(), or inside ev_run() of the
 *    application's own loop; never from within a registering call.
 *  - Freeing or cancelling anything inside any callback is legal.
 *
 * Errors that every call on a context or state can give, and which the
 * contracts below do not repeat: -EINVAL (an argument is NULL, empty or out
 * of range), ZP_EFORK, ZP_ECLOSED, -ENOMEM, for what reads or writes -EIO and
 * ZP_ECORRUPT, and for what watches, waits or asks the server -EMFILE, -ENFILE
 * and -EAGAIN (no descriptors, or no threads, to be had).
 */
#ifndef ZP_H
#define ZP_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ZP_API __attribute__((visibility("default")))
#define ZP_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define ZP_API
#define ZP_PRINTF(f, a)
#endif

#define ZP_VERSION_MAJOR 1
#define ZP_VERSION_MINOR 0
#define ZP_VERSION_PATCH 0

struct ev_loop;

typedef struct zp_ctx zp_ctx;
typedef struct zp_state zp_state;
typedef struct zp_value zp_value;
typedef struct zp_tpl zp_tpl;
typedef struct zp_iter zp_iter;
typedef struct zp_history zp_history;
typedef struct zp_watch zp_watch;
typedef struct zp_event zp_event;
typedef struct zp_proc zp_proc;
typedef struct zp_spawn_options zp_spawn_options;

/* ------------------------------------------------------------ errors -- */

/* The codes of zproc's own, each with the text that zp_strerror() gives. */
#define ZP_ERRORS(X)                                                           \
    X(ZP_ENOKEY, -20001, "no such key")                                        \
    X(ZP_ETYPE, -20002, "the value has another type")                          \
    X(ZP_EVALUE, -20003, "the bytes are not a valid value")                    \
    X(ZP_EFORMAT, -20004, "not a valid format")                                \
    X(ZP_EGONE, -20005, "the revision is no longer retained")                  \
    X(ZP_EFORK, -20006, "the handle belongs to another process")               \
    X(ZP_ECLOSED, -20007, "the state is closed")                               \
    X(ZP_ENOSTATE, -20008, "no such state")                                    \
    X(ZP_ENOSERVER, -20009, "the state server does not answer")                \
    X(ZP_EVERSION, -20010, "the state was made by another version")            \
    X(ZP_ECORRUPT, -20011, "the state is damaged")                             \
    X(ZP_EFAILED, -20012, "the process failed")                                \
    X(ZP_EBREAK, -20013, "the wait was ended by zp_break")                     \
    X(ZP_ECRASHLOOP, -20014, "the process failed again and again")             \
    X(ZP_EPOISON, -20015, "it ended each process that ran it")                 \
    X(ZP_ELOST, -20016, "the process that ran it has ended")

#define ZP_ERROR_ENUM(name, code, text) name = (code),
enum zp_error { ZP_ERRORS(ZP_ERROR_ENUM) ZP_EFIRST = -20001 };
#undef ZP_ERROR_ENUM

/* The text of an error code as zproc's functions return it: -errno, ZP_E*,
 * or an unknown one. Never NULL; static, or good until the thread's next
 * call. Callable from anywhere. */
ZP_API const char *zp_strerror(int error);

/* What the last failed call on CTX, or on anything made from it, was about,
 * in one line that names the key, file or process. Never NULL; "" when none
 * failed. Borrowed: good until the next call on CTX fails. With NULL: of the
 * last call of this thread that failed (the way to ask after a failed
 * zp_ctx_new()). */
ZP_API const char *zp_ctx_error(const zp_ctx *ctx);

/* "MAJOR.MINOR.PATCH" of the library in use. */
ZP_API const char *zp_version(void);

/* ----------------------------------------------------------- context -- */

enum zp_ctx_flag {
    ZP_CTX_WAIT = 1 << 0 /* zp_ctx_free() first waits for the children */
};

enum zp_sync_policy {
    ZP_SYNC_COMMIT = 0,  /* each commit is on the disk before it returns */
    ZP_SYNC_INTERVAL = 1 /* the server syncs every sync_interval seconds */
};

typedef struct zp_ctx_options {
    size_t size;
    unsigned flags;         /* zp_ctx_flag */
    int sync;               /* zp_sync_policy, of a durable state */
    const char *name;       /* well-known name, 1-64 of [A-Za-z0-9._-] and not
                               starting with a dot; NULL: a private state */
    const char *path;       /* directory of a durable state, made if absent;
                               NULL: ephemeral, in memory (tmpfs) */
    const char *ns;         /* namespace, 1-32 bytes; NULL: "default" */
    double lock_timeout;    /* how long a write waits for others' writes;
                               0: 10 s */
    double start_timeout;   /* how long to wait for the server; 0: 10 s */
    double grace;           /* between TERM and KILL to a child; 0: 1 s */
    double sync_interval;   /* 0: 0.1 s */
    uint64_t log_revisions; /* changes retained, rounded up to a power of two,
                               64 - 2^24; 0: 2^18 */
    uint64_t log_bytes;     /* bytes of log retained; 0: 64 MiB; less when the
                               state is nearly full */
    uint64_t max_bytes;     /* of the whole state; 0: half of the file system's
                               free space, at most 1 GiB */
    uint64_t map_bytes;     /* address space reserved; 0: 16 GiB */
    uint64_t max_value;     /* of one value's image; 0: 1 MiB, at most 64 MiB */
    struct ev_loop *loop;   /* kept: the application's own loop; NULL: one of
                               the context's */
    const zp_spawn_options *spawn; /* defaults for what it spawns: copied */
} zp_ctx_options;

/* Start a new state and its server, and connect to it. Returns when the
 * server answers. The calling process owns the state: when it frees the
 * context or ends, in whatever way, the state's processes end and an
 * ephemeral state is removed. The options log_*, max_*, sync* are stored in
 * the state and obeyed by all; a durable state that exists keeps its own.
 * Errors: -EADDRINUSE (the name or path is in use by a live state),
 * ZP_ENOSERVER (the server cannot be started; the text says why),
 * -ENAMETOOLONG, -ENOSPC, ZP_EVERSION, -errno of the file system. */
ZP_API int zp_ctx_new(zp_ctx **ret_ctx, const zp_ctx_options *options);

/* Connect to a running state: ADDRESS is its name, or the path that
 * zp_ctx_address() told or that a durable state lives at (anything with a
 * '/'), or NULL for $ZP_ADDRESS (then without `ns` the namespace is
 * $ZP_NAMESPACE). Of the options only flags, ns, lock_timeout, start_timeout,
 * grace, loop and spawn are used. Errors: ZP_ENOSTATE (nobody there;
 * at once, no waiting), ZP_EVERSION, -EACCES. */
ZP_API int zp_ctx_attach(zp_ctx **ret_ctx, const char *address,
                         const zp_ctx_options *options);

/* Leave the state: wait for or end the context's children (deepest first),
 * cancel its watches, free everything made from it, and, in the owner, close
 * the state for all and remove an ephemeral one. Takes NULL, returns NULL.
 * Inside one of the context's own callbacks it is legal and takes effect when
 * the outermost callback has returned. */
ZP_API zp_ctx *zp_ctx_free(zp_ctx *ctx);

/* The address with which another process attaches. Borrowed from CTX. */
ZP_API const char *zp_ctx_address(const zp_ctx *ctx);

/* The context's state handle for its namespace. Borrowed from CTX. */
ZP_API zp_state *zp_ctx_state(zp_ctx *ctx);

typedef struct zp_pong {
    int server_pid;
    double round_trip; /* seconds */
    uint64_t revision; /* the newest that the server knew */
} zp_pong;

/* Send PAYLOAD (SIZE bytes, at most 64 KiB; may be NULL with 0) to the state
 * server and compare its echo; start a dead server again. RET_PONG may be
 * NULL. Errors: -ETIMEDOUT, ZP_ENOSERVER, -EBADMSG (another payload came
 * back), -EDEADLK inside an atomic operation. Runs no callbacks. */
ZP_API int zp_ping(zp_ctx *ctx, zp_pong *ret_pong, const void *payload,
                   size_t size, double timeout);

typedef struct zp_stats {
    size_t size;              /* in: sizeof(zp_stats) */
    uint64_t revision;        /* newest */
    uint64_t oldest_revision; /* oldest that zp_at() can give */
    uint64_t used_bytes;      /* of the store's file */
    uint64_t max_bytes;
    uint64_t log_used_bytes;
    uint64_t readers;       /* read transactions registered */
    uint64_t oldest_reader; /* pid of the one that pins the oldest pages */
    uint64_t watches;       /* of this context */
    uint64_t events;        /* delivered to callbacks of this context */
    uint64_t server_pid;
    uint64_t server_generation; /* how often the server was started */
    double longest_callback;    /* seconds, without those that it waited */
} zp_stats;

/* Fill *RET_STATS. Errors: -EINVAL (size). */
ZP_API int zp_ctx_stats(zp_ctx *ctx, zp_stats *ret_stats);

/* Run the loop until zp_break(), until a callback returns a negative value
 * (which is then returned), or until nothing is left to wait for: no watch is
 * active, and no watcher of the application on the loop. Returns 0 or that
 * negative value, ZP_ECLOSED when the state was closed, -EDEADLK inside an
 * atomic operation. May be called inside a callback (a nested run). */
ZP_API int zp_run(zp_ctx *ctx);

/* End the innermost zp_run() (which returns 0) or wait (ZP_EBREAK) of CTX. To
 * be called from a callback, the application's watchers included. Nothing
 * running: -EINVAL. */
ZP_API int zp_break(zp_ctx *ctx);

/*
 * For a loop that is not libev's: wait until zp_ctx_fd() has one of
 * zp_ctx_events(), or zp_ctx_timeout() is over, and then call
 * zp_ctx_dispatch(); ask for the timeout again before each wait. The
 * application's own watchers on zp_ev_loop() are not seen by these: they
 * belong on that other loop.
 */

/* The descriptor to poll (it stays the same) and the poll(2) events to wait
 * for. Borrowed from CTX: nothing but poll, select or epoll may be done with
 * it. Errors: -EMFILE, -ENFILE, -ENOSPC. */
ZP_API int zp_ctx_fd(zp_ctx *ctx);
ZP_API int zp_ctx_events(zp_ctx *ctx);

/* How many seconds the wait may last: 0 (there is something to do already), a
 * positive number, or a negative one: for ever. */
ZP_API int zp_ctx_timeout(zp_ctx *ctx, double *ret_timeout);

/* Do what is due, without waiting: callbacks run. Returns 0 or a callback's
 * negative value, ZP_ECLOSED when the state was closed, -EDEADLK inside an
 * atomic operation. */
ZP_API int zp_ctx_dispatch(zp_ctx *ctx);

/* ------------------------------------------------------------- serve -- */

typedef struct zp_serve_options {
    size_t size;
    int ready_fd;        /* where to tell, in one line, that it serves; 0:
                            nowhere. A new state: its address. With run_dir
                            (which closes it then): "0 PID" or "CODE TEXT" */
    const char *run_dir; /* serve this existing state (what zp_ctx_new()
                            runs); NULL: make a new one from `state` */
    const zp_ctx_options *state; /* name, path and limits of the new state */
} zp_serve_options;

/* Be a state server in the calling process, which must have one thread; this
 * is all that the program zp-server does. With run_dir it returns 0 when the
 * state's owner has ended and everything is cleaned up; with a new state it is
 * the owner itself and returns 0 at SIGTERM or SIGINT. Errors: -EADDRINUSE (a
 * server is running on this state), and those of zp_ctx_new(). */
ZP_API int zp_serve(const zp_serve_options *options);

/* ------------------------------------------------------------ values -- */

/*
 * A value is a tpl image: typed, self-describing, compact. A *format* is
 * tpl's: c (byte), j v (16-bit), i u (32), I U (64), f (double), s (string),
 * B (bytes), S(...) structures, # fixed lengths, A(...) arrays. Behind a
 * format stand *addresses*, as with tpl_map(): where the fields are read from
 * or written to; an int behind each #.
 *
 * A lone integer format is the type int whatever its width: stored
 * canonically, read with any width that it fits into (else -ERANGE; c and v
 * are unsigned). Likewise a lone f (one NaN, no negative zero), s and B. All
 * other formats are composites: read with the format they were written with.
 * Two values are equal when their images are.
 *
 * What is read into an s field is a NUL-terminated string, into a B field
 * zp_bin.addr: both from malloc(), the caller frees them with free().
 */

/* Formats with their addresses, for plain values given directly: zp_set(state,
 * "foo", ZP_S("bar")), zp_get_when_equal(state, NULL, "n", -1, NULL, ZP_I(5)).
 * (C only: C++ has no compound literals.) */
#define ZP_I(value)                                                            \
    "I", &(int64_t)                                                            \
    {                                                                          \
        value                                                                  \
    }
#define ZP_F(value)                                                            \
    "f", &(double)                                                             \
    {                                                                          \
        value                                                                  \
    }
#define ZP_S(value)                                                            \
    "s", &(const char *)                                                       \
    {                                                                          \
        value                                                                  \
    }

typedef struct zp_bin { /* laid out as tpl_bin */
    void *addr;
    uint32_t sz;
} zp_bin;

enum zp_type {
    ZP_NONE = 1,
    ZP_BOOL,
    ZP_INT,
    ZP_DOUBLE,
    ZP_STRING,
    ZP_BYTES,
    ZP_COMPOSITE
};

/* Make a value from a format without A() and addresses. Errors: ZP_EFORMAT,
 * -EINVAL (a NULL address or lone NULL string), -EMSGSIZE (over 64 MiB). */
ZP_API int zp_value_new(zp_value **ret_value, const char *format, ...);

/* The same for the plain forms that have no format of their own. */
ZP_API int zp_value_new_bool(zp_value **ret_value, int value);
ZP_API int zp_value_new_none(zp_value **ret_value);

/* Make a value from an image of SIZE bytes that comes from elsewhere: checked
 * strictly, copied, lone numbers made canonical. Errors: ZP_EVALUE (the text
 * says what is wrong at which byte), -EMSGSIZE. */
ZP_API int zp_value_new_image(zp_value **ret_value, const void *image,
                              size_t size);

/* Free VALUE. Takes NULL, returns NULL. */
ZP_API zp_value *zp_value_free(zp_value *value);

/* Read VALUE into addresses. Errors: ZP_ETYPE (the text says what it is and
 * what was asked), -ERANGE, ZP_EFORMAT. */
ZP_API int zp_value_get(const zp_value *value, const char *format, ...);

/* Read a bool into *RET_VALUE as 0 or 1. Errors: ZP_ETYPE. */
ZP_API int zp_value_get_bool(const zp_value *value, int *ret_value);

/* Its zp_type. */
ZP_API int zp_value_type(const zp_value *value);

/* Its tpl format, borrowed from VALUE ("" of none, "c" of a bool). */
ZP_API const char *zp_value_format(const zp_value *value);

/* Its image, borrowed from VALUE, and *RET_SIZE bytes of it. */
ZP_API const void *zp_value_image(const zp_value *value, size_t *ret_size);

/* 1 if A and B are equal, else 0. */
ZP_API int zp_value_equal(const zp_value *a, const zp_value *b);

/* Write a readable form into BUFFER (SIZE bytes, always NUL-terminated when
 * SIZE > 0; long values are cut with "..."). Returns the length that the whole
 * text has, as snprintf() does. */
ZP_API int zp_value_text(const zp_value *value, char *buffer, size_t size);

/* Formats with A(): a tpl map, filled and read element by element. The
 * addresses are kept until it is freed. */
ZP_API int zp_tpl_new(zp_tpl **ret_tpl, const char *format, ...);
ZP_API zp_tpl *zp_tpl_free(zp_tpl *tpl);

/* Pack the fields of index I (0: the outermost, 1.. : the A()s from left to
 * right) from their addresses. Errors: -EINVAL (no such index, or loaded). */
ZP_API int zp_tpl_pack(zp_tpl *tpl, int i);

/* The value packed so far; TPL is as new afterwards. */
ZP_API int zp_tpl_value(zp_tpl *tpl, zp_value **ret_value);

/* Load VALUE (copied) for zp_tpl_unpack(). Errors: ZP_ETYPE (another format or
 * fixed length). */
ZP_API int zp_tpl_load(zp_tpl *tpl, const zp_value *value);

/* Unpack index I into its addresses: 0 first; an A() gives 1 per element and
 * 0 at its end. Errors: -EINVAL (no such index, nothing loaded, or an A()
 * before what it stands in). */
ZP_API int zp_tpl_unpack(zp_tpl *tpl, int i);

/* Elements left in the array of index I. */
ZP_API int zp_tpl_length(zp_tpl *tpl, int i);

/* ------------------------------------------------------------- state -- */

/*
 * A zp_state is one of three: *live* (each call is one atomic operation on the
 * newest state), a *transaction* (inside zp_atomic()), or a *snapshot*. All
 * are read with the same functions; a snapshot is not written (-EROFS).
 * Reads on a live one see every commit that happened before them.
 *
 * A key is 1-200 bytes without NUL. Reading: ZP_ENOKEY (the text names the
 * key), ZP_ETYPE (what is stored and what was asked), -ERANGE; then outputs
 * are untouched. On a snapshot that retention has passed: ZP_EGONE.
 *
 * Writing: -ETIMEDOUT (the text names the process that holds the lock and
 * since when), -EDEADLK (inside an atomic operation on another handle),
 * -ENOSPC (the text names directory, used and limit; deleting still works),
 * -EMSGSIZE (over max_value), -EROFS. After an error nothing has changed.
 */

/* A handle of its own on STATE's context for namespace NS (1-32 bytes; NULL:
 * the same). Of a transaction or snapshot: one in the same transaction or at
 * the same revision, borrowing it. To be freed with zp_state_free(). */
ZP_API int zp_state_clone(zp_state *state, zp_state **ret_state,
                          const char *ns);

/* Free a handle from zp_state_clone(), zp_snapshot() or zp_at(), with the
 * watches registered through it. Takes NULL, returns NULL. */
ZP_API zp_state *zp_state_free(zp_state *state);

/* The namespace, borrowed from STATE; its context. */
ZP_API const char *zp_state_ns(const zp_state *state);
ZP_API zp_ctx *zp_state_ctx(const zp_state *state);

/* Its revision: the newest, the snapshot's, or what the transaction will be. */
ZP_API int zp_revision(zp_state *state, uint64_t *ret_revision);

/* Set KEY from a format without A() and addresses, or from a plain C value. */
ZP_API int zp_set(zp_state *state, const char *key, const char *format, ...);
ZP_API int zp_set_int(zp_state *state, const char *key, int64_t value);
ZP_API int zp_set_double(zp_state *state, const char *key, double value);
ZP_API int zp_set_string(zp_state *state, const char *key, const char *value);
ZP_API int zp_set_bytes(zp_state *state, const char *key, const void *data,
                        size_t size);
ZP_API int zp_set_bool(zp_state *state, const char *key, int value);
ZP_API int zp_set_none(zp_state *state, const char *key);
ZP_API int zp_set_value(zp_state *state, const char *key,
                        const zp_value *value);

/*
 * Leases: keys that go by themselves, with a process, after a time, or with
 * whichever comes first. They go as by zp_delete(), with a revision and an
 * event, whose writer is the state server; until it has come to that, reads
 * see the key as it was. Each write decides anew: what is set, popped, updated
 * or replaced without options is an ordinary key afterwards;
 * zp_increase() and its kin, and zp_append(), leave the lease as it is. The
 * past has no leases: a snapshot is -EINVAL here (written to, -EROFS).
 */

enum zp_set_flag {
    ZP_BOUND = 1 << 0 /* the key goes when the process that set it ends, in
                         whatever way */
};

typedef struct zp_set_options {
    size_t size;
    unsigned flags; /* zp_set_flag */
    double ttl;     /* seconds from the call until the key goes, at most 1e9;
                       0: never */
} zp_set_options;

/* Set options written where they are used: ZP_WITH(.flags = ZP_BOUND). As
 * ZP_WATCH(). */
#define ZP_WITH(...)                                                           \
    (&(zp_set_options){.size = sizeof(zp_set_options), __VA_ARGS__})

/* Set KEY with a lease (NULL: without, as zp_set()). Errors: as writing;
 * -EINVAL (unknown flags; ttl is negative, too large or not a number); -errno
 * (ZP_BOUND: /proc does not tell who this process is). */
ZP_API int zp_set_with(zp_state *state, const char *key,
                       const zp_set_options *options, const char *format, ...);
ZP_API int zp_set_value_with(zp_state *state, const char *key,
                             const zp_set_options *options,
                             const zp_value *value);

/* Let KEY go TTL seconds from now, instead of what was; negative: not after a
 * time. Any key, whoever set it; its process, if it is bound to one, stays. No
 * change: no revision, no event. Errors: ZP_ENOKEY, -EINVAL (ttl is 0, too
 * large or not a number), as writing. */
ZP_API int zp_renew(zp_state *state, const char *key, double ttl);

typedef struct zp_lease {
    size_t size; /* in: sizeof(zp_lease) */
    int pid;     /* bound to this process; 0: to none */
    double ttl;  /* seconds left, 0: it is over, and about to go (its process
                    has ended, too); negative: for ever */
} zp_lease;

/* Tell of the lease of KEY; an ordinary one's is pid 0, ttl -1. Errors:
 * ZP_ENOKEY, -EINVAL (size; STATE is a snapshot). */
ZP_API int zp_get_lease(zp_state *state, const char *key, zp_lease *ret_lease);

/* Get KEY into addresses, or as a plain C value. Strings, bytes and values
 * are the caller's: free(), zp_value_free(). A string always has its NUL;
 * bytes have one behind them as well, not counted. */
ZP_API int zp_get(zp_state *state, const char *key, const char *format, ...);
ZP_API int zp_get_int(zp_state *state, const char *key, int64_t *ret_value);
ZP_API int zp_get_double(zp_state *state, const char *key, double *ret_value);
ZP_API int zp_get_string(zp_state *state, const char *key, char **ret_value);
ZP_API int zp_get_bytes(zp_state *state, const char *key, void **ret_data,
                        size_t *ret_size);
ZP_API int zp_get_bool(zp_state *state, const char *key, int *ret_value);
ZP_API int zp_get_value(zp_state *state, const char *key, zp_value **ret_value);

/* Its zp_type, or ZP_ENOKEY. */
ZP_API int zp_type(zp_state *state, const char *key);

/* 1 if KEY is there, else 0. */
ZP_API int zp_contains(zp_state *state, const char *key);

/* Get with default: when KEY is absent, 0 is returned and the addresses keep
 * what they hold; 1 when it was read. */
ZP_API int zp_get_or(zp_state *state, const char *key, const char *format, ...);

/* When KEY is absent, set it from the addresses and return 1; else read it
 * into them and return 0 (strings and bytes read are then the caller's). */
ZP_API int zp_setdefault(zp_state *state, const char *key, const char *format,
                         ...);

/* Delete KEY. Absent: ZP_ENOKEY. */
ZP_API int zp_delete(zp_state *state, const char *key);

/* Read KEY and delete it in one operation. zp_pop_or(): as zp_get_or(). */
ZP_API int zp_pop(zp_state *state, const char *key, const char *format, ...);
ZP_API int zp_pop_or(zp_state *state, const char *key, const char *format, ...);

/* Remove the key created last and hand it out with its value: both the
 * caller's (free(), zp_value_free()). May take time in proportion to the
 * number of keys. Empty: ZP_ENOKEY. */
ZP_API int zp_popitem(zp_state *state, char **ret_key, zp_value **ret_value);

typedef struct zp_pair {
    const char *key;
    const zp_value *value;
} zp_pair;

/* Set N pairs in one change; of two with one key the later counts. */
ZP_API int zp_update(zp_state *state, const zp_pair *pairs, size_t n);

/* Set all that OTHER holds (any kind of zp_state) in one change;
 * zp_replace() also deletes what OTHER does not hold. What is equal already
 * is not written. */
ZP_API int zp_update_from(zp_state *state, zp_state *other);
ZP_API int zp_replace(zp_state *state, zp_state *other);

/* Delete all keys of the namespace in one change. */
ZP_API int zp_clear(zp_state *state);

/* The number of keys. */
ZP_API int zp_length(zp_state *state, uint64_t *ret_length);

/* 1 if both hold the same keys with equal values, else 0. */
ZP_API int zp_equal(zp_state *a, zp_state *b);

/* Iterate over the keys in byte order, exactly as they are at this moment (a
 * live state's iterator holds a snapshot; a transaction's is good until it is
 * written to: -ESTALE). Free it before its state. */
ZP_API int zp_iter_new(zp_state *state, zp_iter **ret_iter);
ZP_API zp_iter *zp_iter_free(zp_iter *iter);

/* Step: 1 and the next key and value (either may be NULL), both borrowed until
 * the next step; 0 at the end. */
ZP_API int zp_iter_next(zp_iter *iter, const char **ret_key,
                        const zp_value **ret_value);

/* A snapshot of STATE as it is now, and as it was at REVISION. It holds a read
 * transaction: it stays readable until freed, and keeps its pages from being
 * used again, so do not keep one for long. Errors: -EAGAIN (too many read
 * transactions: the text says whose); of zp_at() ZP_EGONE (older than what is
 * retained), -ERANGE (not reached yet). */
ZP_API int zp_snapshot(zp_state *state, zp_state **ret_snapshot);
ZP_API int zp_at(zp_state *state, zp_state **ret_snapshot, uint64_t revision);

/* 1 while zp_at() can still give the revision of SNAPSHOT; 0 when retention
 * has passed it: then SNAPSHOT itself is what keeps it, and its pages. */
ZP_API int zp_retained(zp_state *snapshot);

typedef struct zp_history_entry {
    uint64_t revision; /* of the change that made it */
    unsigned flags;    /* zp_change_flag of that change */
    int writer;        /* pid; 0: the log has forgotten the change */
    double time;       /* wall clock, seconds since 1970; 0: forgotten */
} zp_history_entry;

/* Walk what has happened to KEY, the newest change first, from the revision of
 * STATE (a live one: as it is at this moment; it need not be there). It holds
 * a snapshot: free it soon, and before its state. */
ZP_API int zp_history_new(zp_state *state, zp_history **ret_history,
                          const char *key);
ZP_API zp_history *zp_history_free(zp_history *history);

/* Step: 1 and the next older change with the value that it left, borrowed
 * until the next step (either output may be NULL; no value, NULL: ZP_DELETED
 * or ZP_UNKEPT is among the flags); 0 when there was nothing before; ZP_EGONE
 * when what there was is no longer retained. */
ZP_API int zp_history_next(zp_history *history, zp_history_entry *ret_entry,
                           const zp_value **ret_value);

/* ------------------------------------------------------------ atomic -- */

/* The function of an atomic operation: TXN is read and written with the
 * functions above. 0 or more commits, a negative value rolls all back. */
typedef int zp_atomic_fn(zp_state *txn, void *user);

/* Run FN exactly once, in this process, under the state's lock, and return
 * what it returned; all of its writes are one change at one revision. On a
 * transaction: a nested one, rolled back alone. Inside FN, writing through
 * another handle and whatever waits is -EDEADLK. If the process dies inside,
 * nothing has happened. Errors before FN runs: as writing. After FN: -EIO,
 * -ENOSPC (only if the file system failed in between; nothing has changed). */
ZP_API int zp_atomic(zp_state *state, zp_atomic_fn *fn, void *user);

/* Add to the int at KEY, and tell the sum (RET_VALUE may be NULL). Errors:
 * ZP_ENOKEY, ZP_ETYPE, -EOVERFLOW. */
ZP_API int zp_increase(zp_state *state, const char *key, int64_t *ret_value,
                       int64_t by);
ZP_API int zp_decrease(zp_state *state, const char *key, int64_t *ret_value,
                       int64_t by);

/* The same for a double. */
ZP_API int zp_increase_double(zp_state *state, const char *key,
                              double *ret_value, double by);

/* Append at KEY: with format "s" to a string, with "B" to bytes, with any
 * other format X without A() one element to an array A(X). Errors: ZP_ENOKEY,
 * ZP_ETYPE, -EMSGSIZE. */
ZP_API int zp_append(zp_state *state, const char *key, const char *format, ...);

/* ----------------------------------------------------------- watches -- */

/*
 * A reaction is to *changes* of keys, or to a *condition*: to its being true.
 * Either one comes in three modes: as a callback (zp_call_when...), as a call
 * that waits (zp_get_when...), and as an iterator: a watch without a callback,
 * read with zp_watch_next().
 *
 * Changes. `..._when_change` sees each change of one of N_KEYS keys (0 keys:
 * of any key of the namespace) that happens after the call, in revision order,
 * exactly once; all keys of one transaction are one event. It does not see
 * what is written through its own state handle, unless asked (ZP_OWN), nor
 * writes of an equal value (ZP_SAME).
 *
 * Conditions are about the state, whoever wrote it. The first look is at the
 * state as it is at the call, and no change between that and the next look is
 * missed; then at each revision that changed one of the keys.
 *
 *     ..._when            the predicate returns > 0 (0 keys: looked at after
 *                         each change of the namespace)
 *     ..._when_equal      KEY is there, and its value equals the one given
 *     ..._when_not_equal  KEY is there, and its value is another one
 *     ..._when_none       KEY is there, and is none
 *     ..._when_not_none   KEY is there, and is not none
 *     ..._when_truthy     KEY is there, and is not falsy, which is
 *     ..._when_falsy      none, false, 0, 0.0, an empty string, no bytes, an
 *                         array A(...) without elements
 *     ..._when_available  KEY is there
 *
 * An absent key matches none but a predicate.
 */

enum zp_event_kind {
    ZP_CHANGED = 1, /* a transaction changed what is watched */
    ZP_OVERRUN = 2, /* the log had passed the watch: changes are lost */
    ZP_FIRST = 3,   /* a condition's first look: it holds; nothing changed */
    ZP_TIMEDOUT = 4 /* the watch's time is over: its last event */
};

enum zp_change_flag {
    ZP_CREATED = 1 << 0,   /* the key was absent before */
    ZP_DELETED = 1 << 1,   /* the key is absent now */
    ZP_IDENTICAL = 1 << 2, /* the value is equal to that before */
    ZP_UNKEPT = 1 << 3     /* zp_history_next() alone: the value has been
                              replaced and was too large to be kept */
};

typedef struct zp_change {
    const char *key; /* borrowed from the event */
    unsigned flags;  /* zp_change_flag */
} zp_change;

/* An event and what hangs on it is good until the callback returns; what
 * zp_watch_next() gives, until the next one of that watch. */
ZP_API int zp_event_kind(const zp_event *event);

/* The revision (of an overrun and a timeout: the one of the snapshot);
 * wall-clock time in seconds since 1970; pid of the writer (0 where nothing
 * changed). */
ZP_API uint64_t zp_event_revision(const zp_event *event);
ZP_API double zp_event_time(const zp_event *event);
ZP_API int zp_event_writer(const zp_event *event);

/* How many of the watched keys this transaction changed (0 of all kinds but
 * ZP_CHANGED), and the I-th, in key order. Errors: -ERANGE. */
ZP_API size_t zp_event_length(const zp_event *event);
ZP_API int zp_event_change(const zp_event *event, zp_change *ret_change,
                           size_t i);

/* The I-th change's value before and after it: the caller's, zp_value_free();
 * NULL where the key was absent. Either output may be NULL. Errors: -ERANGE,
 * ZP_EGONE (no longer retained, or too large to be kept). */
ZP_API int zp_event_values(const zp_event *event, zp_value **ret_before,
                           zp_value **ret_after, size_t i);

/* The state at exactly the event's revision, and the one before it (NULL of
 * all kinds but ZP_CHANGED). Borrowed snapshots; when the callback waits they
 * may become ZP_EGONE. zp_snapshot() of one makes a copy to keep. */
ZP_API zp_state *zp_event_snapshot(const zp_event *event);
ZP_API zp_state *zp_event_before(const zp_event *event);

/* Of an overrun: the first and last revision that were lost. */
ZP_API int zp_event_lost(const zp_event *event, uint64_t *ret_first,
                         uint64_t *ret_last);

enum zp_watch_flag {
    ZP_LIVE = 1 << 0,       /* only the newest change; skip what came while
                               busy (a condition that only held then, too) */
    ZP_OWN = 1 << 1,        /* also changes made through this state handle */
    ZP_SAME = 1 << 2,       /* also writes of an equal value */
    ZP_EXCLUDE = 1 << 3,    /* all keys but those of the list */
    ZP_SINCE = 1 << 4,      /* start behind revision `since`, not now */
    ZP_OLDEST = 1 << 5,     /* start at the oldest change retained */
    ZP_SINCE_TIME = 1 << 6, /* start at the first change of `since_time` or
                               later, by the writers' wall clocks */
    ZP_HOLD = 1 << 7        /* of what waits: no watch calls back meanwhile;
                               what happens is called when the wait is over */
};

typedef struct zp_watch_options {
    size_t size;
    unsigned flags;    /* zp_watch_flag */
    uint64_t count;    /* end after so many events; 0: never (of a wait:
                          return at the so-manieth; 0: the first) */
    uint64_t since;    /* with ZP_SINCE; a condition's first look is there */
    double since_time; /* with ZP_SINCE_TIME: seconds since 1970 */
    double timeout;    /* end so many seconds after the registration: a last
                          callback with ZP_TIMEDOUT, of an iterator 0 from
                          zp_watch_next(); 0: never */
    uint64_t *cursor;  /* of zp_get_when...() alone: see there */
} zp_watch_options;

/* Watch options written where they are used: ZP_WATCH(.flags = ZP_LIVE). (C
 * only, and good until the end of the block.) */
#define ZP_WATCH(...)                                                          \
    (&(zp_watch_options){.size = sizeof(zp_watch_options), __VA_ARGS__})

/* Of a condition: 1 if it holds in SNAPSHOT, which is borrowed, 0 if not, or a
 * negative value, which ends zp_run() or the wait and is returned by it. It
 * should only look; it is called from the loop like a callback. */
typedef int zp_predicate_fn(zp_state *snapshot, void *user);

/* A negative return ends zp_run(), which returns it. A watch's callback is
 * never entered again while it runs: what happens meanwhile comes after. */
typedef int zp_watch_fn(zp_watch *watch, const zp_event *event, void *user);

/* ZP_KEYS("a", "b") stands for the two arguments keys, n_keys. */
#define ZP_KEYS(...)                                                           \
    (const char *const[]){__VA_ARGS__},                                        \
        (sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/*
 * Callbacks, and iterators. STATE must be live. FN is called from the loop,
 * once for each event: each change; of a condition, the first look (ZP_FIRST)
 * and each change after which it holds. An overrun is told whether a condition
 * holds or not. Watches that a revision concerns are called in the order of
 * their registration, but for those that are behind or only see what is newest.
 *
 * With RET_WATCH the caller owns the watch and frees it; with NULL it is freed
 * when it ends. FN NULL makes an iterator (RET_WATCH is needed then), which
 * keeps its events in the log until zp_watch_next() fetches them.
 *
 * Keys, options and values are borrowed. Errors: -ERANGE (`since` lies
 * ahead), -EROFS (STATE is not live), -EDEADLK (inside an atomic operation),
 * ZP_ENOSERVER; of a value those of zp_value_new().
 */
ZP_API int zp_call_when_change(zp_state *state, zp_watch **ret_watch,
                               const char *const *keys, size_t n_keys,
                               const zp_watch_options *options, zp_watch_fn *fn,
                               void *user);
ZP_API int zp_call_when(zp_state *state, zp_watch **ret_watch,
                        const char *const *keys, size_t n_keys,
                        const zp_watch_options *options,
                        zp_predicate_fn *predicate, zp_watch_fn *fn,
                        void *user);
ZP_API int zp_call_when_equal(zp_state *state, zp_watch **ret_watch,
                              const char *key, const zp_watch_options *options,
                              zp_watch_fn *fn, void *user, const char *format,
                              ...);
ZP_API int zp_call_when_equal_value(zp_state *state, zp_watch **ret_watch,
                                    const char *key, const zp_value *value,
                                    const zp_watch_options *options,
                                    zp_watch_fn *fn, void *user);
ZP_API int zp_call_when_not_equal(zp_state *state, zp_watch **ret_watch,
                                  const char *key,
                                  const zp_watch_options *options,
                                  zp_watch_fn *fn, void *user,
                                  const char *format, ...);
ZP_API int zp_call_when_not_equal_value(zp_state *state, zp_watch **ret_watch,
                                        const char *key, const zp_value *value,
                                        const zp_watch_options *options,
                                        zp_watch_fn *fn, void *user);
ZP_API int zp_call_when_none(zp_state *state, zp_watch **ret_watch,
                             const char *key, const zp_watch_options *options,
                             zp_watch_fn *fn, void *user);
ZP_API int zp_call_when_not_none(zp_state *state, zp_watch **ret_watch,
                                 const char *key,
                                 const zp_watch_options *options,
                                 zp_watch_fn *fn, void *user);
ZP_API int zp_call_when_truthy(zp_state *state, zp_watch **ret_watch,
                               const char *key, const zp_watch_options *options,
                               zp_watch_fn *fn, void *user);
ZP_API int zp_call_when_falsy(zp_state *state, zp_watch **ret_watch,
                              const char *key, const zp_watch_options *options,
                              zp_watch_fn *fn, void *user);
ZP_API int zp_call_when_available(zp_state *state, zp_watch **ret_watch,
                                  const char *key,
                                  const zp_watch_options *options,
                                  zp_watch_fn *fn, void *user);

/*
 * Waits: nested runs of the loop, to be called anywhere but inside an atomic
 * operation, at most some 200 inside of each other. Other callbacks run
 * meanwhile, unless held back (ZP_HOLD); an outer wait cannot return before an
 * inner one. A condition that holds already is returned at once, and nothing
 * runs. TIMEOUT t takes t seconds (unless an inner wait is still running); 0:
 * what there is now is looked at, once; negative: for ever.
 *
 * On success *RET_SNAPSHOT (may be NULL) is the state at exactly the revision
 * that was waited for: the caller's, zp_state_free().
 *
 * options->cursor makes several waits one: set the variable to 0, and each
 * call with it goes on behind what the one before has seen, whether that came
 * to its end or not (a condition's first look is the first call's alone). So
 * nothing is lost between two calls, or seen twice. Without it each call
 * begins with the state as it is then.
 *
 * Errors: -ETIMEDOUT; ZP_EBREAK (zp_break()); -ECANCELED (STATE was freed in a
 * callback); ZP_ECLOSED; a callback's negative value; ZP_EGONE (the log has
 * passed the wait, and changes are lost: which, the text says; a condition
 * that holds now is met all the same); -ELOOP (too many waits inside of each
 * other); -EDEADLK; and those of registering.
 */
ZP_API int zp_get_when_change(zp_state *state, zp_state **ret_snapshot,
                              const char *const *keys, size_t n_keys,
                              double timeout, const zp_watch_options *options);
ZP_API int zp_get_when(zp_state *state, zp_state **ret_snapshot,
                       const char *const *keys, size_t n_keys, double timeout,
                       const zp_watch_options *options,
                       zp_predicate_fn *predicate, void *user);
ZP_API int zp_get_when_equal(zp_state *state, zp_state **ret_snapshot,
                             const char *key, double timeout,
                             const zp_watch_options *options,
                             const char *format, ...);
ZP_API int zp_get_when_equal_value(zp_state *state, zp_state **ret_snapshot,
                                   const char *key, const zp_value *value,
                                   double timeout,
                                   const zp_watch_options *options);
ZP_API int zp_get_when_not_equal(zp_state *state, zp_state **ret_snapshot,
                                 const char *key, double timeout,
                                 const zp_watch_options *options,
                                 const char *format, ...);
ZP_API int zp_get_when_not_equal_value(zp_state *state, zp_state **ret_snapshot,
                                       const char *key, const zp_value *value,
                                       double timeout,
                                       const zp_watch_options *options);
ZP_API int zp_get_when_none(zp_state *state, zp_state **ret_snapshot,
                            const char *key, double timeout,
                            const zp_watch_options *options);
ZP_API int zp_get_when_not_none(zp_state *state, zp_state **ret_snapshot,
                                const char *key, double timeout,
                                const zp_watch_options *options);
ZP_API int zp_get_when_truthy(zp_state *state, zp_state **ret_snapshot,
                              const char *key, double timeout,
                              const zp_watch_options *options);
ZP_API int zp_get_when_falsy(zp_state *state, zp_state **ret_snapshot,
                             const char *key, double timeout,
                             const zp_watch_options *options);
ZP_API int zp_get_when_available(zp_state *state, zp_state **ret_snapshot,
                                 const char *key, double timeout,
                                 const zp_watch_options *options);

/* The next event of an iterator, waiting for it as above: 1 and the event,
 * borrowed until the next call for WATCH (its snapshots pin pages until then);
 * 0 when there will be no more (its count or its time is over). Events that
 * were not fetched wait in the log: a timeout loses nothing. An overrun is an
 * event. Errors: -EINVAL (it has a callback), -EBUSY (inside of another
 * zp_watch_next() of WATCH), -ETIMEDOUT, ZP_EBREAK, -ECANCELED (WATCH was
 * cancelled or freed, before or in a callback), ZP_ECLOSED, a callback's
 * negative value, -ELOOP, -EDEADLK. */
ZP_API int zp_watch_next(zp_watch *watch, const zp_event **ret_event,
                         double timeout);

/* End WATCH: after this returns its callback is not called again. */
ZP_API int zp_watch_cancel(zp_watch *watch);

/* Cancel WATCH and free it. Takes NULL, returns NULL. */
ZP_API zp_watch *zp_watch_free(zp_watch *watch);

/* 1 while it can still have events; 0 when cancelled or at its end. */
ZP_API int zp_watch_active(const zp_watch *watch);

/* 1 when the server has confirmed the subscription: from then on changes
 * arrive at once; before, they arrive with the confirmation. */
ZP_API int zp_watch_confirmed(const zp_watch *watch);

/* Skip what is waiting: go on with changes after this moment. */
ZP_API int zp_go_live(zp_watch *watch);

/* --------------------------------------------------------- processes -- */

/*
 * A process of zproc is a function that runs in a child, or a program; it may
 * be started again when it fails, and stays one process, with one zp_proc and
 * one record (zp_each_process()), however many *attempts* it takes. It ends
 * with its parent: when the parent returns, frees its context or dies, in
 * whatever way, its children end, and theirs.
 *
 * What is told of how it ended (of the last attempt, where there were many):
 *
 *                          code           status  signal  error
 *     function returned    its value      0       0       ""
 *       0 or more
 *     function returned    its value      1       0       zp_fail()'s, or that
 *       less                                              of the call that gave
 *                                                         this value, or its
 *                                                         zp_strerror()
 *     zp_exit(0), exit(0), 0              0       0       ""
 *       program ended so
 *     zp_exit(n), exit(n), ZP_EFAILED     n       0       zp_fail()'s, or
 *       program ended so                                  "exited with ..."
 *     killed by a signal   ZP_EFAILED     -1      n       "killed by signal..."
 *     no context, no       the error of   70      0       its text
 *       program, end         that
 *       not recorded
 *     not started again    likewise       -1      0       its text
 *     stopped, deferred    -ECANCELED     -1      0       that it was
 *     crash loop           ZP_ECRASHLOOP  as the last     how many failures in
 *                                         one             what time
 *     exit status taken    as above if its function has returned or called
 *       by the application   zp_exit(); else ZP_EFAILED, -1, 0, that it was
 *
 * A result of zp_return() is left by who returned or called zp_exit(). What
 * fails before a process first runs is the error of the call that starts it.
 *
 * The parent's loop is what notices ends and starts attempts: this happens in
 * zp_run(), in whatever waits, in zp_ctx_dispatch().
 */

/* The function of a child: CTX is a context of its own on the same state and
 * namespace, freed when FN returns. 0 or more is success; a negative value is
 * a failure with that code. */
typedef int zp_proc_fn(zp_ctx *ctx, void *arg);

typedef struct zp_result {
    size_t size;           /* in: sizeof(zp_result) */
    int code;              /* what its function returned */
    int status;            /* exit status, or -1 when a signal ended it */
    int signal;            /* that signal, else 0 */
    int core;              /* 1 if it dumped core */
    const char *error;     /* what went wrong, "" on success. This and the texts
                              below: borrowed from the zp_proc */
    const char *origin;    /* "file:line" of zp_fail(), or "" */
    const char *backtrace; /* of a function that crashed: a line per frame,
                              innermost first; or "" */
    unsigned attempts;     /* started so far */
    int pid;               /* of the last attempt; 0: it was never started */
    double started;        /* the last attempt: seconds since 1970 */
    double ended;
} zp_result;

/* Called from the loop when a process has ended for good; a negative return
 * ends zp_run(), which returns it. RESULT is borrowed until FN returns. */
typedef int zp_exit_fn(zp_proc *proc, const zp_result *result, void *user);

enum zp_retry_flag {
    ZP_RETRY_CODES = 1 << 0,   /* of failures without a signal only those with
                                  a code in `codes` */
    ZP_RETRY_SIGNALS = 1 << 1, /* of signals only those in `signals` */
    ZP_RETRY_ARG = 1 << 2      /* from the second attempt on: `arg` */
};

/* When a failed process is to be started again. Without flags: whatever made
 * it fail, but zp_stop(). (With ZP_RETRY_CODES and n_codes 0: never after a
 * failure without a signal; likewise for signals.) */
typedef struct zp_retry {
    size_t size;
    unsigned flags;       /* zp_retry_flag */
    int retries;          /* attempts = retries + 1; negative: for ever */
    double delay;         /* seconds before the first retry; 0: 5; negative:
                             none */
    double backoff;       /* each delay is the one before times this; 0: 1 */
    double max_delay;     /* and no longer than this; 0: 60 */
    double jitter;        /* 0 - 1: each delay is taken at random from (1 -
                             jitter) to (1 + jitter) times its length */
    double stable;        /* an attempt that ran so many seconds makes the
                             count of retries and the delay begin anew; 0:
                             never */
    unsigned crash_count; /* so many failures within ... */
    double crash_time;    /* ... so many seconds end it as ZP_ECRASHLOOP,
                             whatever `retries` says; 0: not looked at */
    const int *codes;     /* codes as in zp_result */
    size_t n_codes;
    const int *signals;
    size_t n_signals;
    void *arg; /* as the ARG of zp_spawn() */
    size_t arg_size;
} zp_retry;

enum zp_stream_kind {
    ZP_STREAM_INHERIT = 0, /* the parent's */
    ZP_STREAM_NULL,        /* /dev/null */
    ZP_STREAM_FILE,        /* `path`: read, or made anew and written */
    ZP_STREAM_APPEND,      /* `path`: written at its end, made if absent */
    ZP_STREAM_FD,          /* the descriptor `fd` */
    ZP_STREAM_PIPE,        /* the other end: zp_proc_stream() */
    ZP_STREAM_STDOUT       /* of `err`: wherever `out` goes */
};

typedef struct zp_stream {
    int kind; /* zp_stream_kind */
    int fd;
    const char *path; /* as the parent sees it when it spawns */
} zp_stream;

enum zp_spawn_flag {
    ZP_DEFERRED = 1 << 0,  /* zp_start() starts it */
    ZP_SAYS_READY = 1 << 1 /* ready is only who calls zp_ready() */
};

/* What is zero or NULL is taken from the context's defaults
 * (zp_ctx_options.spawn), flags are added to theirs. All is borrowed for the
 * call. */
struct zp_spawn_options {
    size_t size;
    unsigned flags;   /* zp_spawn_flag */
    const char *name; /* 1-64 bytes, for messages and records; NULL: none */
    const char *ns;   /* the child's namespace; NULL: the context's */
    size_t arg_size;  /* ARG points to so many bytes, at most 64 MiB, which
                         are copied; 0: ARG is passed as it is */
    const char *dir;  /* working directory; NULL: the parent's */
    int nice;         /* added to the parent's nice value */
    zp_stream in;     /* standard input, output, error */
    zp_stream out;
    zp_stream err;
    double grace; /* between TERM and KILL; 0: the context's; negative: no
                     KILL */
    const zp_retry *retry; /* NULL: one attempt */
    zp_exit_fn *exit_fn;   /* as by zp_call_when_exit() */
    void *exit_user;       /* kept */
};

/* Fork a child that runs FN(its context, ARG). The child has ARG as it was at
 * the fork, or a copy of the arg_size bytes as they were at this call, aligned
 * as by malloc(). RET_PROC (may be NULL) is good until zp_proc_free() or
 * until CTX is freed. Standard output is flushed before the fork. Errors:
 * -EAGAIN (too many processes), -EMFILE, the file system's for streams and dir,
 * -EDEADLK inside an atomic operation, as writing. */
ZP_API int zp_spawn(zp_ctx *ctx, zp_proc **ret_proc,
                    const zp_spawn_options *options, zp_proc_fn *fn, void *arg);

/* Spawn all N_FNS functions in their order, COUNT times over: a, b, a, b. All
 * have OPTIONS and ARG. RET_PROCS (may be NULL) has room for N_FNS * COUNT.
 * Errors: as zp_spawn(); then those that were started are ended again, and
 * none is left. */
ZP_API int zp_spawn_many(zp_ctx *ctx, zp_proc **ret_procs,
                         const zp_spawn_options *options,
                         zp_proc_fn *const *fns, size_t n_fns, size_t count,
                         void *arg);

/* Run a program: ARGV (ends with NULL) is searched for as by execvp(); ENV
 * (ends with NULL; NULL: the caller's environment) gets ZP_ADDRESS and
 * ZP_NAMESPACE added, which are what zp_ctx_attach(&ctx, NULL, NULL) takes: so
 * it finds the state. Descriptors without close-on-exec are inherited. Without
 * a name it has that of its file. It is ready as soon as it runs. Errors: as
 * zp_spawn(), and those of execve() (-ENOENT, -EACCES, ...); -EINVAL (arg_size
 * or retry.arg_size is set). */
ZP_API int zp_spawn_exec(zp_ctx *ctx, zp_proc **ret_proc,
                         const zp_spawn_options *options,
                         const char *const *argv, const char *const *env);

/* Start a deferred process; all of CTX's that are deferred, in the order of
 * their spawning (on error none of them runs). Errors: as zp_spawn();
 * -EALREADY (it was started, or stopped). */
ZP_API int zp_start(zp_proc *proc);
ZP_API int zp_ctx_start(zp_ctx *ctx);

/* In a child: say that it is ready. Without it, it is when its function first
 * waits (zp_run() and its kin), or when the server has confirmed its first
 * watches, whichever comes first. Saying it again is fine. */
ZP_API int zp_ready(zp_ctx *ctx);

/* Wait until PROC is ready, running callbacks meanwhile. 0 also when it has
 * ended successfully; ZP_EFAILED: it failed for good before. Errors: as
 * zp_wait(). */
ZP_API int zp_wait_ready(zp_proc *proc, double timeout);

/* Wait until PROC has ended for good, running callbacks meanwhile, and tell
 * how (RET_RESULT may be NULL). 0 if it succeeded, ZP_EFAILED if not
 * (RET_RESULT is written then, too). Can be called again. Errors: -ETIMEDOUT,
 * ZP_EBREAK, ZP_ECLOSED, a callback's negative value, -ECANCELED (a callback
 * gave PROC back), -EINVAL (it was not started), -ELOOP, -EDEADLK inside an
 * atomic operation. */
ZP_API int zp_wait(zp_proc *proc, zp_result *ret_result, double timeout);

enum zp_wait_flag {
    ZP_SAFE = 1 << 0 /* go on past failures */
};

/* Wait until all of CTX's processes that were started before this call have
 * ended, TIMEOUT being for all together. RET_RESULTS (may be NULL) has room
 * for N results, `size` of each set, of the first N processes in the order of
 * their spawning (of those with a zp_proc that somebody has asked for). 0 when
 * all succeeded; the first failure, in order, is ZP_EFAILED at once. With
 * ZP_SAFE: how many failed. Of a process that has not ended yet when this
 * returns early, pid and attempts are told and code is -EBUSY. Errors: as
 * zp_wait(). */
ZP_API int zp_ctx_wait(zp_ctx *ctx, zp_result *ret_results, size_t n,
                       unsigned flags, double timeout);

/* TERM (and CONT, so that a stopped one hears it), the grace period, KILL;
 * waits until it has ended; callbacks run meanwhile. There are no more
 * attempts. A process that had ended already is fine, and so is one that was
 * never started, which cannot be any more (code -ECANCELED). Errors and
 * RET_RESULT as zp_wait(). */
ZP_API int zp_stop(zp_proc *proc, zp_result *ret_result);

/* The same for all of CTX's processes together. 0 when all of them have ended,
 * however: RET_RESULTS and N as for zp_ctx_wait(). */
ZP_API int zp_ctx_stop(zp_ctx *ctx, zp_result *ret_results, size_t n);

/* Call FN once, from the loop, when PROC has ended for good (soon, if it has);
 * zp_run() goes on until then. It replaces the one before; FN NULL: none. Of a
 * process that is ended by zp_ctx_free() nothing is called. */
ZP_API int zp_call_when_exit(zp_proc *proc, zp_exit_fn *fn, void *user);

/* The pid of its present or last attempt (0: not started, or a retry is due);
 * 1 until it has ended for good (0: not started, too); its name, borrowed, ""
 * if it has none; the id of its record, which no other process of the state
 * ever has. */
ZP_API int zp_proc_pid(const zp_proc *proc);
ZP_API int zp_proc_alive(zp_proc *proc);
ZP_API const char *zp_proc_name(const zp_proc *proc);
ZP_API uint64_t zp_proc_id(const zp_proc *proc);

/* The parent's end of the pipe to its standard input (WHICH 0), output (1),
 * error (2): the caller's from now on, to be closed by it; close-on-exec,
 * blocking. One pipe serves all attempts. What is not taken is closed when
 * the context is freed. Errors: -EBADF (no pipe, or taken already). */
ZP_API int zp_proc_stream(zp_proc *proc, int which);

/* Give the handle back before the context is freed. The process goes on, if it
 * has not ended, and so does an exit callback. Takes NULL, returns NULL. */
ZP_API zp_proc *zp_proc_free(zp_proc *proc);

/* Read the typed result that it left with zp_return(); after zp_wait().
 * Errors: ZP_ENOKEY (it left none), ZP_ETYPE, -ERANGE, -EBUSY (running). */
ZP_API int zp_proc_get(zp_proc *proc, const char *format, ...);
ZP_API int zp_proc_get_value(zp_proc *proc, zp_value **ret_value);

/* Write to FILE, in lines for a human, less than a screen of them: who PROC is,
 * how it ended, why, where, and after how many attempts. */
ZP_API int zp_proc_report(zp_proc *proc, FILE *file);

/* In a child: leave a typed result for whoever waits (the last one counts). */
ZP_API int zp_return(zp_ctx *ctx, const char *format, ...);
ZP_API int zp_return_value(zp_ctx *ctx, const zp_value *value);

/* In a child: leave a text for the waiter and give CODE (negative; for a
 * non-negative one ZP_EFAILED) back: return zp_fail(ctx, -EIO, "no %s", f). */
#define zp_fail(ctx, code, ...)                                                \
    zp_fail_at(ctx, __FILE__, __LINE__, code, __VA_ARGS__)
ZP_API int zp_fail_at(zp_ctx *ctx, const char *file, int line, int code,
                      const char *format, ...) ZP_PRINTF(5, 6);

/* In a child: end it here, from whatever depth, with exit status STATUS (0 -
 * 255), as if its function had returned: its children are ended, what
 * zp_return() and zp_fail() have left counts, output is flushed. Returns only
 * on error: -EINVAL (not a child of zp_spawn(), or STATUS), -EDEADLK inside an
 * atomic operation. */
ZP_API int zp_exit(zp_ctx *ctx, int status);

/*
 * All processes of the state, whoever spawned them and in whatever namespace;
 * those that have ended, too, as long as they are on record: the newest 10,000
 * of them, and of these as many as take an eighth of max_bytes, results
 * included. Ids grow from one spawn to the next, and are never used again.
 */
enum zp_process_state {
    ZP_PROC_WAITING = 1, /* not started yet, or between two attempts */
    ZP_PROC_RUNNING,
    ZP_PROC_ENDED
};

typedef struct zp_process { /* all of it borrowed */
    size_t size;            /* of this struct in the library */
    uint64_t id;
    int state;          /* zp_process_state */
    int pid;            /* the newest attempt's; 0: none yet */
    int parent;         /* pid of who spawned it ... */
    uint64_t parent_id; /* ... and its id; 0: it was not spawned itself */
    unsigned depth;     /* 1: spawned by one that was not */
    unsigned attempts;  /* started so far */
    const char *name;   /* "": none */
    const char *ns;
    double spawned; /* seconds since 1970 ... */
    double started; /* ... of the newest attempt; 0: not yet ... */
    double ended;   /* ... 0: not yet, or nobody saw it */
    int code;       /* the others as in zp_result, once it has ended */
    int status;
    int signal;
    int core;
    const char *error;
    const char *origin;
    const char *backtrace; /* of a crash; "": none */
    int has_result;        /* 1: zp_process_get() can read it */
} zp_process;

/* A return other than 0 ends zp_each_process(), which returns it. It may do
 * anything: wait, spawn, write, free the context (-ECANCELED then, if it
 * returns 0). */
typedef int zp_process_fn(const zp_process *process, void *user);

/* Call FN for each process that was spawned before this call, in the order of
 * spawning, as it is when its turn comes. One of which nobody is left who could
 * tell how it ended has ended; its `error` says so. Nothing is locked, and no
 * read transaction is open, while FN runs. Callable from anywhere. */
ZP_API int zp_each_process(zp_ctx *ctx, zp_process_fn *fn, void *user);

/* Read the typed result of process ID, from any process of the state. Errors:
 * ZP_ENOKEY (there has been no such process, or it left none), ZP_EGONE (it is
 * no longer on record), -EBUSY (it has not ended), ZP_ETYPE, -ERANGE. */
ZP_API int zp_process_get(zp_ctx *ctx, uint64_t id, const char *format, ...);
ZP_API int zp_process_get_value(zp_ctx *ctx, uint64_t id, zp_value **ret_value);

/* ------------------------------------------------------ maps, swarms -- */

/*
 * A *map* runs one function over many items, each a value of its own, in
 * *workers*: children that a *swarm* keeps and starts again when they die. The
 * items come from a source function, or one by one from zp_map_add(); the
 * results come in the order of the items, or as they are done. Work starts at
 * once and goes on while the caller's loop runs: in zp_map_next(), in
 * zp_run(), in whatever waits; between those the workers have work for some
 * tens of milliseconds, and no more.
 *
 * An item ends in one of these ways (zp_map_result):
 *
 *                              code            value          error
 *     function returned 0      its value       zp_return()'s  ""
 *       or more
 *     function returned less   its value       NULL           zp_fail()'s, or
 *                                                             that of the call
 *                                                             that gave it
 *     its worker ended while   -               -              it is run again
 *       it ran
 *     ... for the `tries`-th   ZP_EPOISON      NULL           how the worker
 *       time                                                  ended
 *     ... with ZP_ONCE         ZP_ELOST        NULL           likewise
 *
 * Items are run *at least once*, and each has exactly one result; with ZP_ONCE
 * at most once: then an item that was done is ZP_ELOST, too, if its worker
 * ended before the result had left it. A map ends with its caller: its process,
 * its context, its swarm.
 *
 * Callbacks, sources too, are held back by a wait with ZP_HOLD; but not those
 * of a map that is waited for inside of it, by zp_map_next(), get() or wait().
 */
typedef struct zp_swarm zp_swarm;
typedef struct zp_mapping zp_mapping;
typedef struct zp_results zp_results;

/* What a worker runs for each ITEM: CTX is the worker's own context, COMMON
 * that of the map's options, or NULL. It may wait, watch, spawn. Its result is
 * what it left with zp_return(), its failure may have a text by zp_fail(). ITEM
 * and COMMON are borrowed. It must be a function that was there when the
 * worker was forked, not one that was dlopen()ed later. */
typedef int zp_map_fn(zp_ctx *ctx, const zp_value *item,
                      const zp_value *common);

/* Called from the loop when MAP can take more items: gives one or more with
 * zp_map_add() and returns 1; 0: there are no more; a negative value ends the
 * map with that error. It must not wait. */
typedef int zp_map_source_fn(zp_mapping *map, void *user);

typedef struct zp_map_result { /* borrowed until the next one is asked for */
    size_t size;
    uint64_t index; /* of the item, from 0 */
    int code;
    const zp_value *value; /* NULL: it left none */
    const char *error;
    const char *origin; /* "file:line" of zp_fail(), or "" */
} zp_map_result;

/* Called from the loop for each result, and once with RESULT NULL when the map
 * has ended, however: zp_map_progress() tells. A negative return ends
 * zp_run(), which returns it. */
typedef int zp_map_result_fn(zp_mapping *map, const zp_map_result *result,
                             void *user);

/* Called from the loop, at most every `progress_every` seconds, when something
 * has changed, and once at the end. Returns as above. */
typedef int zp_map_progress_fn(zp_mapping *map, void *user);

enum zp_map_flag {
    ZP_UNORDERED = 1 << 0, /* results as they are done */
    ZP_ONCE = 1 << 1,      /* no item is run again */
    ZP_SHARED = 1 << 2     /* the results go to zp_results_open(), in whatever
                              process: there is no result_fn, and zp_map_next()
                              is -EINVAL */
};

typedef struct zp_map_options {
    size_t size;
    unsigned flags;         /* zp_map_flag */
    const char *name;       /* 1-48 bytes: of the workers, in records and
                               messages; NULL: "map". Not for a swarm's map */
    size_t count;           /* workers: 1-1024; 0: as many as the process may
                               use cores; of zp_spawn_map(): processes at a
                               time, 0: 64. Not for a swarm's map */
    const zp_value *common; /* copied; handed to each call. NULL: none */
    size_t chunk;           /* items handed out at a time, up to 65536; 0: as
                               many as take some milliseconds */
    size_t window;          /* items taken and not yet given back as results;
                               0: 65536 */
    size_t window_bytes;    /* the same in bytes, items and results together
                               (one may be more); 0: 64 MiB */
    unsigned tries;         /* 1-1000: see above; 0: 5 */
    double keep;            /* with ZP_SHARED: seconds that results are kept
                               unread; 0: 60 */
    zp_map_result_fn *result_fn;     /* NULL: zp_map_next() reads them */
    zp_map_progress_fn *progress_fn; /* NULL: none */
    double progress_every;           /* seconds; 0: 0.1 */
    void *user;                      /* of these two: kept */
    const zp_spawn_options *spawn;   /* of the workers, as far as given; not
                                        name, arg_size, retry, exit_fn,
                                        ZP_DEFERRED. Not for a swarm's map */
} zp_map_options;

/* Run FN over the items that SOURCE gives (NULL: over those of zp_map_add(),
 * until zp_map_end()), in workers of its own, which end with it. USER (kept) is
 * SOURCE's. Returns at once; callbacks run later, from the loop. Errors: as
 * zp_spawn(). */
ZP_API int zp_map(zp_ctx *ctx, zp_mapping **ret_map,
                  const zp_map_options *options, zp_map_fn *fn,
                  zp_map_source_fn *source, void *user);

/* The same with a process for each item, for work that waits: each is forked
 * when its item is at hand, and ends with it. */
ZP_API int zp_spawn_map(zp_ctx *ctx, zp_mapping **ret_map,
                        const zp_map_options *options, zp_map_fn *fn,
                        zp_map_source_fn *source, void *user);

/* One more item, from a format without A() and addresses, or a value (copied).
 * Errors: -EAGAIN (the window is full: read results first; never inside the
 * source function), -EPIPE (after the end), -ECANCELED, -EMSGSIZE (over 64
 * MiB), ZP_EFORMAT. */
ZP_API int zp_map_add(zp_mapping *map, const char *format, ...);
ZP_API int zp_map_add_value(zp_mapping *map, const zp_value *value);

/* There are no more items. Saying it again is fine. */
ZP_API int zp_map_end(zp_mapping *map);

/* Wait for the next result, running callbacks meanwhile: 1; 0: there are no
 * more. RET_RESULT may be NULL; its size is set by the caller. Errors:
 * -ETIMEDOUT, ZP_EBREAK, a callback's negative value, -ECANCELED (cancelled, or
 * its swarm was stopped before zp_map_end(), or before its source had no more),
 * the source function's own, ZP_ECRASHLOOP (the workers die without having
 * done anything), -EINVAL (there is a result_fn; TIMEOUT is NaN), -EPIPE (all
 * that was added is read, and nobody has said zp_map_end()), -EDEADLK inside an
 * atomic operation. */
ZP_API int zp_map_next(zp_mapping *map, zp_map_result *ret_result,
                       double timeout);

/* The same into addresses: 1, 0, or an error: the item's code, if it failed;
 * ZP_ENOKEY (it left no result), ZP_ETYPE, -ERANGE. The result is read then,
 * too. */
ZP_API int zp_map_get(zp_mapping *map, double timeout, const char *format, ...);

/* Wait until all items are done, whoever reads the results. 0, or errors as
 * zp_map_next(); -EAGAIN (the window is full of results that nobody has
 * read). */
ZP_API int zp_map_wait(zp_mapping *map, double timeout);

typedef struct zp_progress {
    size_t size;      /* in: sizeof(zp_progress) */
    uint64_t added;   /* items so far ... */
    int all;          /* ... 1: and there are no more */
    uint64_t running; /* in workers' hands at this moment */
    uint64_t done;    /* with a result, failures included */
    uint64_t failed;
    uint64_t read;  /* results given to the caller */
    uint64_t again; /* times that an item was taken from a dead worker */
    int ended;      /* 1: nothing more will happen */
    int code;       /* 0, or what has ended it before all was done */
} zp_progress;

/* Errors: -EINVAL (size). */
ZP_API int zp_map_progress(const zp_mapping *map, zp_progress *ret_progress);

/* Stop: nothing more is started, results not read are dropped; what runs may
 * finish within a third of a second, then its worker gets a TERM, and a third
 * of a second later a KILL; what that has of other maps of the swarm, and has
 * not begun, is others'. Returns at once. Cancelling what has ended is fine. */
ZP_API int zp_map_cancel(zp_mapping *map);

/* Cancel it and give it back. Takes NULL, returns NULL. */
ZP_API zp_mapping *zp_map_free(zp_mapping *map);

/* The id of a map with ZP_SHARED, which no other map of the state has; 0 of
 * any other. */
ZP_API uint64_t zp_map_id(const zp_mapping *map);

/* Read the results of map ID from any process of the state, in its order,
 * while the map goes on or afterwards. They are released as they are read, so
 * each is read once: several readers share them, and one that comes later goes
 * on where those begin that are left. They are taken some hundred kilobytes at
 * a time; what a reader has taken, and not read when it ends, goes with it. All
 * of it goes when its readers have come to the end. Unread ones go after `keep`
 * seconds, those that a dead owner left, too, and so does the end: within that
 * time a map that has ended outlives its owner. Errors: ZP_ENOKEY (no map has
 * this id, or its results are gone), as writing. */
ZP_API int zp_results_open(zp_ctx *ctx, zp_results **ret_results, uint64_t id);

/* As zp_map_next() and zp_map_get(). Errors: likewise; what ended the map
 * (-ECANCELED, ...; -ENOSPC: the state had no room for its results); ZP_EGONE
 * (results were not read in time: one of the readers is told so, once, and goes
 * on behind them; or the owner has died before the map was done, or nobody has
 * looked for its end in time); -EBUSY (inside of another wait for RESULTS); as
 * writing. */
ZP_API int zp_results_next(zp_results *results, zp_map_result *ret_result,
                           double timeout);
ZP_API int zp_results_get(zp_results *results, double timeout,
                          const char *format, ...);

/* Takes NULL, returns NULL. */
ZP_API zp_results *zp_results_free(zp_results *results);

typedef struct zp_swarm_options {
    size_t size;
    size_t count;                  /* as in zp_map_options */
    const char *name;              /* likewise; NULL: "swarm" */
    const zp_spawn_options *spawn; /* likewise */
} zp_swarm_options;

/* Workers that are there for many maps, several at a time (which then take
 * turns). They are forked by this call and are what the process was then.
 * Errors: as zp_spawn(). */
ZP_API int zp_swarm_new(zp_ctx *ctx, zp_swarm **ret_swarm,
                        const zp_swarm_options *options);

/* As zp_map(). Errors: -ESHUTDOWN (it was stopped). */
ZP_API int zp_swarm_map(zp_swarm *swarm, zp_mapping **ret_map,
                        const zp_map_options *options, zp_map_fn *fn,
                        zp_map_source_fn *source, void *user);

/* A single item, from a format and addresses: a map with one result. */
ZP_API int zp_swarm_run(zp_swarm *swarm, zp_mapping **ret_map,
                        const zp_map_options *options, zp_map_fn *fn,
                        const char *format, ...);

/* How many workers it is to have; change it: those too many end when they have
 * done what they have begun. Errors: as zp_spawn(); then some may be more. */
ZP_API int zp_swarm_count(const zp_swarm *swarm);
ZP_API int zp_swarm_resize(zp_swarm *swarm, size_t count);

/* Take no more maps, ask no source for more, and wait until what was added is
 * done (results stay to be read; behind the last of them a map that nobody has
 * ended gives -ECANCELED) and the workers have ended. With FORCE: end
 * the workers as by zp_stop(); what is not done has failed: -ECANCELED. Errors:
 * as zp_wait(). */
ZP_API int zp_swarm_stop(zp_swarm *swarm, int force);

/* Stop it by force, without waiting, with its maps, which must be given back
 * nevertheless. Takes NULL, returns NULL. */
ZP_API zp_swarm *zp_swarm_free(zp_swarm *swarm);

#ifdef __cplusplus
}
#endif
#endif
