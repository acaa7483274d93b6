/*
 * server_bells.c - ringing the watchers' own bells, and which messages may
 * come later for it. (slots.h has the rules, and who else is in it.)
 *
 *     batch of topics found --> bells of all slots that want one of them
 *          |                       |
 *          | not all have bells    | all have: noted as late
 *          v                       v
 *     message at once         LOOK seconds later: one not answered? message
 *                             at the next duty: message, whatever happened
 *
 * A watcher whose `rung` is 0 again has read the log since it was rung; a
 * message would only wake it for nothing, and make two of its threads and one
 * of ours compete with the watchers that are just at work. So a message goes
 * out early for those who do not answer: stopped, busy, or rung by somebody
 * who died between flag and byte. A writer that finds the lock of such a one
 * takes all flags back: that is nobody's answer, and all messages go out that
 * are late then. The late one for everybody, once a second and topic, is for
 * what cannot be told from here (a damaged board, a slot taken from a living
 * process), so that nothing but time depends on bells.
 *
 * Descriptors: half of what there are, less some, may be bells, so that there
 * is always one for a watcher's connection. A slot whose bell cannot be opened
 * is deaf for a second, and messages do it.
 */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/server.h"

#define LOOK 0.05 /* seconds in which a bell should be answered */
#define LOOK_MS 50
#define WANTED_FDS 8192 /* what a server needs at the most */
#define OTHER_FDS 64    /* not bells, not connections */
#define UNOPENED (-1)   /* of server->bells */
#define DEAF (-2)

/* ----------------------------------------------------------- descriptors -- */

static void
raise_limit(zp__server *server)
{
    struct rlimit limit;
    rlim_t most;

    server->max_bells = 0;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    server->limit = limit;
    most = limit.rlim_max < WANTED_FDS ? limit.rlim_max : WANTED_FDS;
    if (limit.rlim_cur < most) {
        limit.rlim_cur = most;
        server->limit_raised = setrlimit(RLIMIT_NOFILE, &limit) == 0;
        if (!server->limit_raised)
            limit = server->limit;
    }
    if (limit.rlim_cur > WANTED_FDS)
        limit.rlim_cur = WANTED_FDS;
    if (limit.rlim_cur > OTHER_FDS)
        server->max_bells = (unsigned)(limit.rlim_cur - OTHER_FDS) / 2;
}

void
zp__server_bells_open(zp__server *server)
{
    for (unsigned i = 0; i < ZP__SLOTS; i++)
        server->bells[i] = UNOPENED;
    raise_limit(server);
    zp__slots_clear(server->board);
    zp__slots_hush(server->board);
    server->hushes = atomic_load(&server->board->shared->hushes);
}

static void
close_bell(zp__server *server, unsigned slot)
{
    if (server->bells[slot] >= 0) {
        close(server->bells[slot]);
        server->n_bells--;
    }
    server->bells[slot] = UNOPENED;
}

void
zp__server_bells_free(zp__server *server)
{
    for (unsigned i = 0; server->n_bells && i < ZP__SLOTS; i++)
        close_bell(server, i);
    if (server->limit_raised)
        (void)setrlimit(RLIMIT_NOFILE, &server->limit);
    server->limit_raised = false;
}

static int
open_bell(zp__server *server, unsigned slot)
{
    char path[ZP__PATH_MAX];
    int fd = -EMFILE;

    if (server->n_bells < server->max_bells)
        fd = zp__fifo_open(zp__slot_file(&server->place, slot, path));
    if (fd >= 0)
        server->n_bells++;
    server->bells[slot] = fd < 0 ? DEAF : fd;
    return server->bells[slot];
}

void
zp__server_bells_tidy(zp__server *server)
{
    const zp__shared *shared = server->board->shared;

    for (unsigned i = 0; i < ZP__SLOTS; i++)
        if (server->bells[i] == DEAF ||
            (server->bells[i] >= 0 &&
             atomic_load(&shared->slots[i].owner) == 0))
            close_bell(server, i);
}

/* --------------------------------------------------------------- ringing -- */

/* False: it is deaf. */
static bool
ring_slot(zp__server *server, unsigned slot)
{
    int fd = server->bells[slot];

    if (fd == UNOPENED)
        fd = open_bell(server, slot);
    if (fd < 0)
        return false;
    if (zp__slot_ring(&server->board->shared->slots[slot]))
        zp__fifo_ring(fd);
    return true;
}

/* Ring all that want the topic. True if somebody did and no one was deaf. */
static bool
ring_topic(zp__server *server, uint64_t hash)
{
    unsigned words = zp__slot_words(server->board);
    bool any = false, deaf = false;

    for (unsigned i = 0; i < words; i++) {
        uint64_t bits = zp__slot_wanting(server->board, hash, i);

        for (; bits; bits &= bits - 1) {
            any = true;
            if (!ring_slot(server, i * 64 + (unsigned)__builtin_ctzll(bits)))
                deaf = true;
        }
    }
    return any && !deaf;
}

void
zp__server_ring_all(zp__server *server)
{
    unsigned used = zp__slot_words(server->board) * 64;

    zp__board_fence();
    for (unsigned i = 0; i < used; i++)
        if (atomic_load(&server->board->shared->slots[i].owner))
            (void)ring_slot(server, i);
}

/* ------------------------------------------------------------ being late -- */

/* Note that its message will come later: false if it cannot. */
static bool
put_late(zp__server *server, const uint8_t *topic, uint32_t kind, uint64_t hash,
         double now)
{
    zp__topic *entry = zp__topics_get(&server->topics, kind, hash);

    if (!entry)
        return false;
    if (!entry->late) {
        if (server->n_late == ZP__LATE)
            return false;
        entry->late = true;
        memcpy(server->late[server->n_late++], topic, ZP__TOPIC_SIZE);
    }
    if (!(server->look > 0))
        server->look = now + LOOK;
    return true;
}

void
zp__server_ring_batch(zp__server *server)
{
    size_t n = 0;
    double now;

    if (!server->n_batch)
        return;
    now = zp__now();
    zp__board_fence();
    for (size_t i = 0; i < server->n_batch; i++) {
        const uint8_t *topic = server->batch[i];
        uint32_t kind;
        uint64_t hash;

        if (zp__topic_read(topic, ZP__TOPIC_SIZE, &kind, &hash) &&
            ring_topic(server, hash) && !server->bare &&
            put_late(server, topic, kind, hash, now))
            continue;
        memmove(server->batch[n++], topic, ZP__TOPIC_SIZE);
    }
    server->n_batch = n;
}

/* Has anybody who wants the topic been rung long ago and not answered? If it
 * was a moment ago, there will be another look. */
static bool
unanswered(zp__server *server, uint64_t hash, double now)
{
    unsigned words = zp__slot_words(server->board);
    bool found = false;

    for (unsigned i = 0; i < words; i++) {
        uint64_t bits = zp__slot_wanting(server->board, hash, i);

        for (; bits; bits &= bits - 1) {
            unsigned slot = i * 64 + (unsigned)__builtin_ctzll(bits);
            uint32_t rung =
                atomic_load(&server->board->shared->slots[slot].rung);

            if (!rung)
                continue;
            if (zp__slot_now() - rung < LOOK_MS) {
                server->look = now + LOOK;
                continue;
            }
            found = true;
            close_bell(server, slot); /* it may be another file by now */
            zp__slot_check(server->board, slot);
        }
    }
    return found;
}

/* Have all flags been taken back since this was asked last? */
static bool
was_hushed(zp__server *server)
{
    uint32_t before = server->hushes;

    server->hushes = atomic_load(&server->board->shared->hushes);
    return server->hushes != before;
}

int
zp__server_send_late(zp__server *server, bool all)
{
    double now = zp__now();
    size_t n = 0, i;
    int rc = 0;

    server->look = 0;
    all |= was_hushed(server); /* before the flags are looked at, ... */
    for (i = 0; i < server->n_late && rc >= 0; i++) {
        uint8_t topic[ZP__TOPIC_SIZE];
        zp__topic *entry;
        uint32_t kind;
        uint64_t hash;

        memcpy(topic, server->late[i], sizeof topic);
        (void)zp__topic_read(topic, sizeof topic, &kind, &hash);
        if (!all && !unanswered(server, hash, now)) {
            memcpy(server->late[n++], topic, sizeof topic);
            continue;
        }
        entry = zp__topics_get(&server->topics, kind, hash);
        if (!entry) /* nobody is there any more */
            continue;
        entry->late = false;
        rc = zp__server_send(server, topic);
    }
    server->n_late = n; /* after an error the server ends */
    if (n && atomic_load(&server->board->shared->hushes) != server->hushes)
        server->look = now + LOOK; /* ... and behind it */
    return rc;
}

int
zp__server_look_ms(const zp__server *server, int ms)
{
    double left;

    if (!(server->look > 0))
        return ms;
    left = (server->look - zp__now()) * 1000;
    return left <= 0 ? 0 : left + 1 < ms ? (int)left + 1 : ms;
}
