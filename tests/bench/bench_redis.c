/*
 * bench_redis.c - the peer: Redis, as it is used from C on one machine.
 *
 * A redis-server of our own, in the side's private directory, on a unix socket
 * only, with nothing written to disk; clients through hiredis, one command and
 * its answer at a time (a program that needs the answer cannot pipeline).
 * Arguments are passed ready (redisCommandArgv), which is the fastest way in.
 *
 * The keyspace event does not carry the value, nor does this side read it: it
 * is the event alone that is timed.
 */
#include <hiredis/hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/bench/crew.h"

#define KEY "cookies"
#define CHANNEL "__keyspace@0__:" KEY

struct redis {
    redisContext *c;
    char (*keys)[16];
    int64_t value;
};

/* ------------------------------------------------------ connections -- */

static redisContext *
dial(struct side *side)
{
    char path[256];
    redisContext *c;

    snprintf(path, sizeof(path), "%s/redis.sock", side->dir);
    c = redisConnectUnix(path);
    if (c != NULL && c->err == 0)
        return c;
    side_fail(side, "%s: %s", path, c != NULL ? c->errstr : "out of memory");
    if (c != NULL)
        redisFree(c);
    return NULL;
}

/* One command and its answer; NULL when either went wrong. */
static redisReply *
ask(struct side *side, redisContext *c, int n, const char **words)
{
    redisReply *reply = redisCommandArgv(c, n, words, NULL);

    if (reply == NULL)
        side_fail(side, "%s: %s", words[0], c->errstr);
    else if (reply->type == REDIS_REPLY_ERROR) {
        side_fail(side, "%s: %s", words[0], reply->str);
        freeReplyObject(reply);
        reply = NULL;
    }
    return reply;
}

static int
tell(struct side *side, redisContext *c, int n, const char **words)
{
    redisReply *reply = ask(side, c, n, words);

    if (reply == NULL)
        return SIDE_FAIL;
    freeReplyObject(reply);
    return SIDE_OK;
}

#define TELL(side, c, ...)                                                     \
    tell(side, c, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *),      \
         (const char *[]){__VA_ARGS__})

/* ------------------------------------------------------- the server -- */

/* configure's finding, or whatever the path has. */
static const char *
program(void)
{
    const char *path = getenv("REDIS_SERVER");

    return path != NULL && *path != '\0' ? path : "redis-server";
}

static bool
installed(void)
{
    char command[512];

    snprintf(command, sizeof(command), "command -v '%s' >/dev/null 2>&1",
             program());
    return system(command) == 0;
}

static int
serve(struct side *side)
{
    char path[256];
    const char *argv[] = {program(), "--port",
                          "0",       "--unixsocket",
                          path,      "--dir",
                          side->dir, "--save",
                          "",        "--appendonly",
                          "no",      "--daemonize",
                          "no",      "--notify-keyspace-events",
                          "K$",      NULL};
    pid_t pid;

    snprintf(path, sizeof(path), "%s/redis.sock", side->dir);
    if (crew_exec(side, argv, &pid) != SIDE_OK)
        return SIDE_FAIL;
    for (int i = 0; i < 500 && access(path, W_OK) != 0; i++)
        side_sleep(10000000);
    return SIDE_OK;
}

static int
redis_start(struct side *side)
{
    struct redis *r = calloc(1, sizeof(*r));

    side->data = r;
    if (!installed()) {
        side_fail(side, "redis-server is not installed");
        return SIDE_SKIP;
    }
    if (r == NULL || (r->keys = side_keys(SIDE_KEYS)) == NULL)
        return side_fail(side, "out of memory");
    if (crew_new(side) != SIDE_OK || serve(side) != SIDE_OK ||
        (r->c = dial(side)) == NULL)
        return SIDE_FAIL;
    for (int i = 0; i < SIDE_KEYS; i++)
        if (TELL(side, r->c, "SET", r->keys[i], "1234567") != SIDE_OK)
            return SIDE_FAIL;
    return TELL(side, r->c, "SET", KEY, "0");
}

static void
redis_stop(struct side *side)
{
    struct redis *r = side->data;

    if (r == NULL)
        return;
    if (r->c != NULL)
        redisFree(r->c);
    free(r->keys);
    free(r);
}

/* ------------------------------------------------- single operations -- */

static int
get_one(struct side *side)
{
    struct redis *r = side->data;
    const char *words[] = {"GET", r->keys[side_random(SIDE_KEYS)]};
    redisReply *reply = ask(side, r->c, 2, words);

    if (reply == NULL)
        return SIDE_FAIL;
    r->value += reply->type == REDIS_REPLY_STRING ? atoll(reply->str) : 0;
    freeReplyObject(reply);
    return SIDE_OK;
}

static int
set_one(struct side *side)
{
    struct redis *r = side->data;
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)++r->value);
    return TELL(side, r->c, "SET", r->keys[side_random(SIDE_KEYS)], text);
}

static int
incr_one(struct side *side)
{
    struct redis *r = side->data;

    return TELL(side, r->c, "INCR", KEY);
}

/* Read, change, write back if nobody wrote meanwhile: alone here, so that it
 * succeeds at the first attempt. */
static int
watch_one(struct side *side)
{
    struct redis *r = side->data;
    const char *get[] = {"GET", KEY};
    redisReply *reply;
    char text[24];

    if (TELL(side, r->c, "WATCH", KEY) != SIDE_OK ||
        (reply = ask(side, r->c, 2, get)) == NULL)
        return SIDE_FAIL;
    snprintf(text, sizeof(text), "%lld",
             reply->type == REDIS_REPLY_STRING ? atoll(reply->str) + 1 : 1);
    freeReplyObject(reply);
    if (TELL(side, r->c, "MULTI") != SIDE_OK ||
        TELL(side, r->c, "SET", KEY, text) != SIDE_OK)
        return SIDE_FAIL;
    return TELL(side, r->c, "EXEC");
}

static int
get_round(struct side *side)
{
    return side_report_op(side, get_one);
}

static int
set_round(struct side *side)
{
    return side_report_op(side, set_one);
}

static int
incr_round(struct side *side)
{
    return side_report_op(side, incr_one);
}

static int
watch_round(struct side *side)
{
    return side_report_op(side, watch_one);
}

/* ------------------------------------------------- several processes -- */

static int
hammer_role(struct side *side, unsigned index)
{
    struct redis r = {0};

    side->data = &r;
    if ((r.c = dial(side)) == NULL)
        return SIDE_FAIL;
    return crew_hammer(side, index, incr_one);
}

static int
hammer_start(struct side *side)
{
    int r = redis_start(side);

    return r != SIDE_OK ? r : crew_start(side, "hammer", SIDE_HAMMERS);
}

static int
hammer_round(struct side *side)
{
    return crew_hammer_round(side, SIDE_HAMMERS, side->quick ? 0.3 : 1.0);
}

/* Call HEARD at each message. */
static int
listen_on(struct side *side, redisContext *c,
          void (*heard)(struct side *side, int64_t now))
{
    bool first = true;
    redisReply *reply;

    while (redisGetReply(c, (void **)&reply) == REDIS_OK) {
        int64_t now = side_now();

        freeReplyObject(reply);
        if (first)
            crew_add(&side->crew->shared->ready);
        first = false;
        heard(side, now);
    }
    return side_fail(side, "SUBSCRIBE: %s", c->errstr);
}

static int
listen_role(struct side *side, void (*heard)(struct side *side, int64_t now))
{
    redisContext *c = dial(side);

    if (c == NULL || TELL(side, c, "SUBSCRIBE", CHANNEL) != SIDE_OK)
        return SIDE_FAIL;
    return listen_on(side, c, heard);
}

static void
heard_sample(struct side *side, int64_t now)
{
    crew_sample(side, now - atomic_load(&side->crew->shared->stamp));
}

static void
heard_fanout(struct side *side, int64_t now)
{
    crew_arrive(side, now, SIDE_WATCHERS);
}

static void
heard_count(struct side *side, int64_t now)
{
    (void)now;
    crew_count(side);
}

static int
watcher_role(struct side *side, unsigned index)
{
    (void)index;
    return listen_role(side, heard_sample);
}

/* One channel more, each with an answer of its own, until there are as many as
 * we have watches. */
static int
hundred_role(struct side *side, unsigned index)
{
    redisContext *c = dial(side);
    char channel[sizeof(CHANNEL) + 16];

    (void)index;
    for (int i = 0; i < SIDE_WATCHES; i++) {
        snprintf(channel, sizeof(channel), CHANNEL "-%02d", i);
        if (c == NULL || TELL(side, c, "SUBSCRIBE", channel) != SIDE_OK)
            return SIDE_FAIL;
    }
    return listen_on(side, c, heard_sample);
}

static int
fan_role(struct side *side, unsigned index)
{
    (void)index;
    return listen_role(side, heard_fanout);
}

static int
counter_role(struct side *side, unsigned index)
{
    (void)index;
    return listen_role(side, heard_count);
}

static int
set_time(struct side *side, int64_t now)
{
    struct redis *r = side->data;
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)now);
    return TELL(side, r->c, "SET", KEY, text);
}

static int
set_one_of(struct side *side, int64_t now)
{
    struct redis *r = side->data;
    char key[sizeof(KEY) + 16];
    char text[24];

    snprintf(key, sizeof(key), KEY "-%02u", side_random(SIDE_WATCHES));
    snprintf(text, sizeof(text), "%lld", (long long)now);
    return TELL(side, r->c, "SET", key, text);
}

static int
publish(struct side *side, int64_t now)
{
    struct redis *r = side->data;
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)now);
    return TELL(side, r->c, "PUBLISH", CHANNEL, text);
}

static int
listeners(struct side *side, const char *role, unsigned n, crew_set *set)
{
    int r = redis_start(side);

    if (r != SIDE_OK)
        return r;
    if (crew_start(side, role, n) != SIDE_OK)
        return SIDE_FAIL;
    return crew_until_ready(side, set, n);
}

static int
callback_start(struct side *side)
{
    return listeners(side, "watcher", 1, set_time);
}

static int
callback_round(struct side *side)
{
    return crew_latency(side, set_time, SIDE_SETS(side));
}

static int
fan_start(struct side *side)
{
    return listeners(side, "fan", SIDE_WATCHERS, set_time);
}

static int
fan_round(struct side *side)
{
    return crew_fanout(side, set_time, SIDE_SETS(side) / 4);
}

static int
hundred_start(struct side *side)
{
    return listeners(side, "hundred", 1, set_one_of);
}

static int
hundred_round(struct side *side)
{
    return crew_latency(side, set_one_of, SIDE_SETS(side));
}

static int
events_start(struct side *side)
{
    return listeners(side, "counter", 1, publish);
}

static int
events_round(struct side *side)
{
    return crew_events(side, publish, side->quick ? 10000 : 30000);
}

static const side_measure measures[] = {
    {"get", redis_start, get_round, redis_stop},
    {"set", redis_start, set_round, redis_stop},
    {"increase", redis_start, incr_round, redis_stop},
    {"atomic", redis_start, watch_round, redis_stop},
    {"increase-8", hammer_start, hammer_round, redis_stop},
    {"callback", callback_start, callback_round, redis_stop},
    {"callback-64", fan_start, fan_round, redis_stop},
    {"callback-100", hundred_start, hundred_round, redis_stop},
    {"wait", callback_start, callback_round, redis_stop},
    {"events", events_start, events_round, redis_stop},
    {0},
};

static const side_role roles[] = {
    {"hammer", hammer_role},   {"watcher", watcher_role},
    {"hundred", hundred_role}, {"fan", fan_role},
    {"counter", counter_role}, {0},
};

int
main(int argc, char **argv)
{
    return side_main(argc, argv, measures, roles);
}
