/*
 * model.h - the model test: what its parts know of each other.
 *
 * A *case* is made from a seed: some keys in two namespaces, and for each of a
 * few *workers* (processes with a context of their own) watches of every kind
 * and a script: transactions, registrations, waits, turns of the loop. All
 * workers play their scripts at the same time.
 *
 *     test_model.c      the pool of workers, and the cases, one by one
 *     model_case.c      seed -> case
 *     model_values.c    values as small codes, and what is true of them
 *     model_journal.c   transactions, written down as they are made
 *     model_watch.c     watches and waits (see model_watch.h)
 *     model_worker.c    playing a script; when a case is over
 *     model_oracle.c    what must be seen, computed from the journal alone (see
 *                       model_oracle.h)
 *     model_report.c    a failure, to be read by people
 *
 * The *journal* is memory that all workers share: for each revision what every
 * key was before and after it. A transaction with a function writes its entry
 * inside of the function, under the state's lock; a plain call cannot know its
 * revision, so it keeps all others out by a lock of the journal. The oracle
 * knows nothing else, and shares no code with the library.
 */
#ifndef ZP_TESTS_MODEL_H
#define ZP_TESTS_MODEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <zp_ev.h>

#define WORKERS 3
#define SPACES 2  /* namespaces of a case */
#define HANDLES 4 /* of a worker: two of each namespace */
#define KEYS 6
#define WATCHES 4 /* of a worker, at most */
#define OPS 8     /* of a transaction, at most */
#define ACTIONS 48
#define ENTRIES 2048
#define LONG_LOG 1024 /* revisions retained */
#define SHORT_LOG 64
#define REPORT 16384

/* -------------------------------------------------------------- values -- */

/* Of a key. Ints are INT(0) + n. */
enum {
    ERROR = -2, /* it could not be read */
    ABSENT = -1,
    NONE,
    FALSE,
    TRUE,
    ZERO, /* a double */
    HALF,
    NO_TEXT,
    TEXT,
    NO_BYTES,
    BYTES,
    NO_ARRAY, /* A(i) without elements: falsy */
    ARRAY,
    HAS_NO_ARRAY, /* an int and an A(s) without elements: truthy */
    STRUCTURE,
    LARGE, /* more than a row takes */
    FIXED
};
#define INT(n) (1000 + (n))

typedef short model_codes[KEYS];

extern const char *const model_keys[KEYS]; /* in byte order */

int model_values_init(void);
void model_values_free(void);
int model_set(zp_state *state, int key, int code);
const zp_value *model_value(int code); /* borrowed until the next call */
int model_code(const zp_value *value);
int model_get(zp_state *state, int key);
void model_get_all(model_codes ret, zp_state *state, int n_keys);
bool model_truthy(int code);
const char *model_text(int code); /* good until the 16th next call */

/* What a predicate of the case looks for. */
#define PREDICATES 5
bool model_predicate(int which, const model_codes codes, int n_keys);

/* ---------------------------------------------------------------- case -- */

enum op_kind {
    OP_SET,
    OP_DELETE,
    OP_INCREASE,
    OP_POP,
    OP_DEFAULT,
    OP_UPDATE, /* all keys of the mask */
    OP_CLEAR,
    OP_REPLACE, /* by what the other namespace holds */
    OP_KINDS
};

typedef struct model_op {
    int kind, space, key, code;
    unsigned mask;
} model_op;

typedef struct model_txn {
    int handle;
    bool atomic;
    bool back;              /* it rolls back */
    int nested, nested_end; /* ops in a nested one, and that one's fate */
    bool nested_back;
    int n;
    model_op ops[OPS];
} model_txn;

enum mode { CALLBACK, ITERATOR, WAIT, FRESH_WAIT }; /* the last: no cursor */
enum kind {
    CHANGE,
    WHEN,
    EQUAL,
    NOT_EQUAL,
    IS_NONE,
    NOT_NONE,
    TRUTHY,
    FALSY,
    AVAILABLE,
    KINDS
};

typedef struct model_spec {
    enum mode mode;
    enum kind kind;
    int handle;
    unsigned keys;  /* mask; 0: none given */
    unsigned flags; /* zp_watch_flag */
    int code;       /* of EQUAL, NOT_EQUAL */
    int predicate;
    unsigned count;
    double timeout;
    bool exact;    /* registered while nobody writes */
    bool attended; /* has a ret_watch */
    int age;       /* of ZP_SINCE, ZP_SINCE_TIME: in revisions */
    int writes;    /* what its callback does: so many transactions at most */
    unsigned mood; /* percent of its callbacks that do something odd */
} model_spec;

enum action_kind {
    DO_WRITE,
    DO_BURST,
    DO_REGISTER,
    DO_STEP,
    DO_FETCH,
    DO_WAIT,
    DO_GO_LIVE,
    DO_CANCEL,
    DO_KILL
};

typedef struct model_action {
    enum action_kind kind;
    int which; /* watch */
    int size;  /* of a burst */
} model_action;

typedef struct model_case {
    uint64_t seed;
    unsigned number; /* of the case in its state */
    bool is_short;   /* the state with the short log */
    bool kills;      /* the server */
    int n_keys;
    int n_pool; /* values that are used */
    int pool[8];
    char space[SPACES][24];
    int n_specs[WORKERS], n_actions[WORKERS];
    model_spec specs[WORKERS][WATCHES];
    model_action actions[WORKERS][ACTIONS];
} model_case;

uint64_t model_random(uint64_t *rng);
int model_below(uint64_t *rng, int n);
bool model_chance(uint64_t *rng, int percent);
double model_wait_time(uint64_t *rng); /* 0, or up to some milliseconds */
void model_case_make(model_case *c, uint64_t seed, unsigned number);
void model_txn_make(model_txn *t, const model_case *c, uint64_t *rng);

static inline int
model_space(int handle)
{
    return handle % SPACES;
}

static inline int
model_log(const model_case *c)
{
    return c->is_short ? SHORT_LOG : LONG_LOG;
}

/* ------------------------------------------------------------- journal -- */

typedef struct model_entry {
    uint64_t revision;
    int writer; /* worker * HANDLES + handle */
    int pid;
    int64_t begun, ended; /* wall clock, ns; 0: not yet */
    model_codes before[SPACES], after[SPACES];
    unsigned written[SPACES]; /* masks of keys */
} model_entry;

/* Shared by all processes of the test. */
typedef struct model_shared {
    pthread_rwlock_t lock;  /* for writing: no transaction at all but mine */
    unsigned n;             /* entries */
    unsigned idle[WORKERS]; /* 1 + entries when all of them had been seen */
    unsigned failed;
    unsigned long events, waits, overruns; /* seen, for the record */
    char address[2][4200];
    char report[REPORT];
    model_entry entries[ENTRIES];
} model_shared;

typedef struct model_worker model_worker;

unsigned model_entries(const model_shared *shared);
void model_lock(model_worker *w);
void model_unlock(model_worker *w);
int64_t model_clock(void);

/* Do it, and write it down. */
void model_write(model_worker *w, const model_txn *t);

/* --------------------------------------------------------------- watch -- */

enum seen_kind {
    SEEN_EVENT,
    SEEN_NOTHING, /* an iterator that timed out, or was broken off */
    SEEN_END,     /* an iterator's */
    SEEN_LIVE,    /* zp_go_live() at `revision` */
    SEEN_WAIT     /* what a wait returned */
};

typedef struct model_change {
    int key; /* -1: unknown */
    unsigned flags;
    int before, after;
} model_change;

typedef struct model_seen {
    enum seen_kind what;
    int kind; /* zp_event_kind */
    int rc;
    uint64_t revision;   /* of the event, of the snapshot */
    uint64_t head;       /* known before the run or call began */
    uint64_t head_after; /* of what waits */
    uint64_t from, to;   /* cursor before and after; what an overrun lost */
    double timeout;      /* of a call that waits */
    int64_t clock;       /* when it was seen, ns */
    int pid;
    int n;
    model_change changes[KEYS];
    model_codes snapshot, before;
} model_seen;

typedef struct model_watch {
    model_worker *worker;
    const model_spec *spec;
    int number;
    zp_watch *watch; /* NULL: not registered, unattended, or a wait */
    bool registered; /* of a wait: called once */
    bool cancelled;
    bool busy; /* its callback, or a call of its, is on the stack */
    uint64_t head, head_after; /* around the registration */
    uint64_t since;
    int64_t since_ns;
    int64_t registered_ns;
    uint64_t cursor;
    int writes;
    model_seen *seen;
    size_t n, room;
    size_t checked; /* n when it was judged last, */
    unsigned checked_entries;
    int verdict;
    zp_state *kept; /* a copy of an event's snapshot, */
    size_t kept_of; /* of that event */
} model_watch;

void model_register(model_watch *x);
void model_fetch(model_watch *x, double timeout);
void model_wait(model_watch *x, double timeout);
void model_go_live(model_watch *x);
void model_cancel(model_watch *x);
void model_watch_clear(model_watch *x);

/* -------------------------------------------------------------- worker -- */

struct model_worker {
    int id;
    model_shared *shared;
    const model_case *c;
    zp_ctx *ctx[2]; /* of the state with the long log, of the short one */
    zp_state *handles[HANDLES];
    model_watch watches[WATCHES];
    int next;           /* to be registered */
    uint64_t rng;       /* for the script */
    uint64_t other_rng; /* for callbacks: when they come is not ours */
    uint64_t head;      /* known before the innermost run began */
    int depth;          /* of callbacks */
    int holds;          /* waits on the stack that hold callbacks back */
    bool ending;
};

static inline zp_ctx *
model_ctx(const model_worker *w)
{
    return w->ctx[w->c->is_short];
}

uint64_t model_head(model_worker *w);
bool model_failed(const model_worker *w);
void model_step(model_worker *w, double seconds);
void model_guard(model_worker *w, ev_timer *timer, double timeout);
void model_unguard(model_worker *w, ev_timer *timer);
void model_play(model_worker *w, const model_case *c);

/* Be worker ID: obey what comes through COMMANDS until its end. */
typedef struct model_command {
    char what; /* 'n'ew states, 'a'ttach, 'f'ree, 'c'ase */
    unsigned number;
    uint64_t seed;
} model_command;
int model_serve(model_shared *shared, int id, int commands, int answers);

/* -------------------------------------------------------------- oracle -- */

enum { RIGHT, SHORT_OF, WRONG };

typedef struct model_complaint {
    size_t at; /* which of what was seen; its number: what is missing */
    char text[256];
} model_complaint;

/* Is what X has seen right and all, right up to now, or wrong? */
int model_judge(const model_watch *x, model_complaint *ret);

/* Which keys of its namespace does ENTRY change for X; is it an event? */
unsigned model_wanted(const model_watch *x, const model_entry *entry);
bool model_holds(const model_watch *x, const model_codes codes);
bool model_is_event(const model_watch *x, const model_entry *entry);
unsigned model_flags(const model_entry *entry, int space, int key);

/* -------------------------------------------------------------- report -- */

/* Something has gone wrong: the first to say so is heard. */
void model_fail(model_worker *w, const char *format, ...) ZP_PRINTF(2, 3);
void model_fail_watch(const model_watch *x, const model_complaint *complaint);

#endif
