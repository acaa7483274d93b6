/*
 * test_publish.c - the state server on its two sockets, asked by bare ZeroMQ:
 * what wire.h promises, to friend and foe.
 *
 * The state is made and written with the store itself, the server is the real
 * program; here is only what a watcher's socket sees of it.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "core/client.h"
#include "core/create.h"
#include "core/error.h"
#include "core/image.h"
#include "core/server_topics.h"
#include "core/store.h"
#include "core/zmq_call.h"

#define WAIT 10.0 /* for what has to come */
#define ROW_BYTES 100

static zp__place place;
static zp__store *store;
static zp__board *board;
static void *zmq;

/* ------------------------------------------------------ around each test -- */

static void
start_server(void)
{
    int rc = zp__server_ensure(&place, board, 20 * zp_test_slow());

    if (rc < 0)
        fail_msg("%s: %s", zp_strerror(rc), zp__fail_text());
}

static bool
server_ended(void *user)
{
    (void)user;
    return !zp__server_alive(board);
}

static void
kill_server(void)
{
    zp_test_kill_server(zp__board_server(board).pid);
    assert_true(zp_test_until(server_ended, NULL, WAIT));
}

static int
set_up_with(uint64_t log_revisions)
{
    zp_ctx_options options = {.size = sizeof options,
                              .log_revisions = log_revisions};

    assert_int_equal(zp__options_take(&options, &options), 0);
    assert_int_equal(zp__create(&place, &options, NULL), 0);
    assert_int_equal(zp__store_open(&store, &place), 0);
    board = zp__store_board(store);
    zmq = zmq_ctx_new();
    assert_non_null(zmq);
    zmq_ctx_set(zmq, ZMQ_BLOCKY, 0);
    start_server();
    return 0;
}

static int
set_up(void **state)
{
    (void)state;
    return set_up_with(0);
}

static int
set_up_short(void **state)
{
    (void)state;
    return set_up_with(64);
}

static int
tear_down(void **state)
{
    (void)state;
    if (zmq)
        zmq_ctx_term(zmq);
    zmq = NULL;
    if (store) {
        zp__server_close(&place, board, WAIT);
        store = zp__store_close(store);
    }
    return 0;
}

/* --------------------------------------------------------------- writing -- */

static void
put(zp__txn *txn, const char *ns, const char *key, int64_t value)
{
    char image[ZP__PLAIN_MAX];
    size_t size = zp__image_int(image, value);

    assert_int_equal(zp__txn_put(txn, ns, key, image, size), 0);
}

/* Set KEY to something new; the revision. */
static uint64_t
set(const char *ns, const char *key)
{
    static int64_t value;
    uint64_t revision;
    zp__txn *txn;

    assert_true(zp__txn_begin(store, &txn, 1, WAIT, ROW_BYTES, false) >= 0);
    put(txn, ns, key, ++value);
    assert_int_equal(zp__txn_commit(txn, &revision), 0);
    return revision;
}

/* -------------------------------------------------------------- watching -- */

static void *
new_socket(int type, const char *file)
{
    char path[ZP__PATH_MAX], address[ZP__PATH_MAX + 8];
    void *socket = zmq_socket(zmq, type);

    assert_non_null(socket);
    snprintf(address, sizeof address, "ipc://%s",
             zp__place_file(&place, file, path));
    assert_int_equal(zp__zmq_set(socket, ZMQ_LINGER, 0), 0);
    assert_int_equal(zp__zmq_set(socket, ZMQ_RECONNECT_IVL, 2), 0);
    assert_int_equal(zp__zmq_set(socket, ZMQ_SNDHWM, 0), 0);
    assert_int_equal(zmq_connect(socket, address), 0);
    return socket;
}

static void
subscribe_hash(void *sub, uint32_t kind, uint64_t hash)
{
    uint8_t topic[ZP__TOPIC_SIZE];

    zp__topic_write(topic, kind, hash);
    assert_int_equal(zp__zmq_topic(sub, ZMQ_SUBSCRIBE, topic, sizeof topic), 0);
}

static void
sync_topic(uint8_t topic[ZP__TOPIC_SIZE], uint64_t number)
{
    zp__topic_write(topic, ZP__TOPIC_KEY, number);
    topic[0] = ZP__TOPIC_SYNC;
}

typedef struct news {
    uint32_t kind; /* of the topic; ZP__TOPIC_SYNC, too */
    uint64_t hash;
    uint32_t generation;
    uint64_t revision;
} news;

static bool
readable(void *socket, double seconds)
{
    zmq_pollitem_t item = {socket, 0, ZMQ_POLLIN, 0};
    int rc;

    do
        rc = zmq_poll(&item, 1, (long)(seconds * zp_test_slow() * 1000));
    while (rc < 0 && errno == EINTR);
    return rc > 0;
}

/* The next message within SECONDS; false: none came. */
static bool
receive(void *sub, news *ret, double seconds)
{
    uint8_t body[64];

    if (!readable(sub, seconds))
        return false;
    assert_int_equal(zp__zmq_recv(sub, body, sizeof body), ZP__NEWS_SIZE);
    assert_int_equal(zp__zmq_more(sub), 0);
    ret->kind = body[0];
    body[0] = ZP__TOPIC_KEY;
    assert_true(
        zp__topic_read(body, ZP__TOPIC_SIZE, &(uint32_t){0}, &ret->hash));
    memcpy(&ret->generation, body + ZP__TOPIC_SIZE, 4);
    memcpy(&ret->revision, body + ZP__TOPIC_SIZE + 4, 8);
    return true;
}

/* Subscribe to a new sync topic and wait for its answer; what comes before it
 * is counted in *RET_BEFORE (may be NULL). */
static news
sync_with(void *sub, int *ret_before)
{
    static uint64_t number = 100;
    uint8_t topic[ZP__TOPIC_SIZE];
    int before = 0;
    news got;

    sync_topic(topic, ++number);
    assert_int_equal(zp__zmq_topic(sub, ZMQ_SUBSCRIBE, topic, sizeof topic), 0);
    for (;; before++) {
        assert_true(receive(sub, &got, WAIT));
        if (got.kind == ZP__TOPIC_SYNC && got.hash == number)
            break;
    }
    assert_int_equal(zp__zmq_topic(sub, ZMQ_UNSUBSCRIBE, topic, sizeof topic),
                     0);
    if (ret_before)
        *ret_before = before;
    return got;
}

static uint32_t
interest(uint64_t hash)
{
    return board->shared->interest[zp__interest_bucket(hash, 0)];
}

static bool
no_interest(void *hash)
{
    return interest(*(uint64_t *)hash) == 0;
}

static void
expect_news(void *sub, uint32_t kind, uint64_t hash, uint64_t revision)
{
    news got;

    assert_true(receive(sub, &got, WAIT));
    assert_int_equal(got.kind, kind);
    assert_int_equal(got.hash, hash);
    assert_int_equal(got.generation, board->shared->generation);
    assert_true(got.revision >= revision);
}

/* ----------------------------------------------------------------- tests -- */

/* The answer of the sync topic comes after the interest stands; then each
 * change of the topic, and no other, is told; and the interest ends. */
static void
test_news(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a"), ns = zp__topic_ns("other");
    uint64_t revision;
    int before;
    news got;

    (void)state;
    revision = set("ns", "a"); /* before: not told */
    assert_int_equal(interest(key), 0);
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    subscribe_hash(sub, ZP__TOPIC_NS, ns);
    got = sync_with(sub, NULL);
    assert_int_equal(got.revision, revision);
    assert_int_equal(got.generation, 1);
    assert_int_equal(interest(key), 1);
    assert_int_equal(interest(ns), 1);
    revision = set("ns", "a");
    expect_news(sub, ZP__TOPIC_KEY, key, revision);
    set("ns", "b");
    revision = set("other", "a");
    expect_news(sub, ZP__TOPIC_NS, ns, revision);
    zmq_close(sub); /* the last unsubscription of both */
    assert_true(zp_test_until(no_interest, &key, WAIT));
    assert_true(zp_test_until(no_interest, &ns, WAIT));
    sub = new_socket(ZMQ_SUB, "pub");
    set("ns", "a");
    sync_with(sub, &before);
    assert_int_equal(before, 0);
    zmq_close(sub);
}

/* Two watchers of one topic are one interest, until the last has gone. */
static void
test_counts_distinct_topics(void **state)
{
    void *one = new_socket(ZMQ_SUB, "pub"), *two = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a");
    uint64_t revision;

    (void)state;
    subscribe_hash(one, ZP__TOPIC_KEY, key);
    sync_with(one, NULL);
    subscribe_hash(two, ZP__TOPIC_KEY, key);
    sync_with(two, NULL);
    assert_int_equal(interest(key), 1);
    zmq_close(one);
    sync_with(two, NULL);
    assert_int_equal(interest(key), 1);
    revision = set("ns", "a");
    expect_news(two, ZP__TOPIC_KEY, key, revision);
    zmq_close(two);
    assert_true(zp_test_until(no_interest, &key, WAIT));
}

/* ------------------------------------------------- commits not looked at -- */

/* As if the writer of the last commit, REVISION, had died before it looked who
 * is interested: nobody was told, and the bell is silent. */
static void
unlook(uint64_t revision, uint64_t calls)
{
    atomic_store(&board->shared->looked, revision - 1);
    atomic_store(&board->shared->calls, calls);
    zp__board_drain(board);
}

static void
stop_server(int signal)
{
    zp__pid server = zp__board_server(board);

    assert_int_equal(zp__pid_kill(&server, signal), 0);
    if (signal == SIGSTOP)
        while (zp_test_process_state(server.pid) != 'T')
            usleep(1000);
}

/* The server finds it all the same, by the clock; and does when another writer
 * has come since, whose commit is of no interest. */
static void
test_writer_died_before_look(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a"), revision, calls;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    sync_with(sub, NULL);
    for (int others = 0; others < 3; others++) {
        stop_server(SIGSTOP);
        calls = board->shared->calls;
        revision = set("ns", "a");
        unlook(revision, calls);
        for (int i = 0; i < others; i++)
            set("ns", "b");
        stop_server(SIGCONT);
        expect_news(sub, ZP__TOPIC_KEY, key, revision);
    }
    zmq_close(sub);
}

/* More commits of interest than are known one by one. */
static void
test_many_calls(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t a = zp__topic_key("ns", "a"), b = zp__topic_key("ns", "b");
    bool told_a, told_b;
    news got;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_KEY, a);
    subscribe_hash(sub, ZP__TOPIC_KEY, b);
    sync_with(sub, NULL);
    for (int n = ZP__CALLS - 2; n < ZP__CALLS + 3; n++) {
        stop_server(SIGSTOP);
        set("ns", "b");
        for (int i = 0; i < n; i++)
            set("ns", i % 8 ? "a" : "c");
        stop_server(SIGCONT);
        told_a = told_b = false;
        while (!told_a || !told_b) {
            assert_true(receive(sub, &got, WAIT));
            told_a |= got.hash == a;
            told_b |= got.hash == b;
        }
        sync_with(sub, NULL);
    }
    zmq_close(sub);
}

/* A transaction of many keys, most of them watched: each topic once. */
static void
test_large_transaction(void **state)
{
    enum { KEYS = 1000 };
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t ns = zp__topic_ns("ns");
    char key[16];
    zp__txn *txn;
    int before;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_NS, ns);
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof key, "k%d", i);
        subscribe_hash(sub, ZP__TOPIC_KEY, zp__topic_key("ns", key));
    }
    sync_with(sub, NULL);
    assert_true(zp__txn_begin(store, &txn, 1, WAIT, KEYS * ROW_BYTES, false) >=
                0);
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof key, "k%d", i);
        put(txn, "ns", key, i);
    }
    assert_int_equal(zp__txn_commit(txn, NULL), 0);
    for (int i = 0; i < 21; i++)
        assert_true(receive(sub, &(news){0}, WAIT));
    sync_with(sub, &before);
    assert_int_equal(before, 0);
    zmq_close(sub);
}

/* While the server was stopped a key changed often: one message tells it. */
static void
test_once_per_pass(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a"), revision = 0;
    pid_t server = (pid_t)zp__board_server(board).pid;
    int before;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    sync_with(sub, NULL);
    assert_int_equal(kill(server, SIGSTOP), 0);
    for (int i = 0; i < 1000; i++)
        revision = set("ns", "a");
    assert_int_equal(kill(server, SIGCONT), 0);
    expect_news(sub, ZP__TOPIC_KEY, key, revision);
    sync_with(sub, &before);
    /* one, or two when it woke up before the stop took effect */
    assert_true(before <= 1);
    zmq_close(sub);
}

/* The log passed the server: everybody is woken up, and it goes on. */
static void
test_log_passed_the_server(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t a = zp__topic_key("ns", "a"), b = zp__topic_key("ns", "b");
    pid_t server = (pid_t)zp__board_server(board).pid;
    bool got_a = false, got_b = false;
    uint64_t revision;
    news got;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_KEY, a);
    subscribe_hash(sub, ZP__TOPIC_KEY, b);
    sync_with(sub, NULL);
    assert_int_equal(kill(server, SIGSTOP), 0);
    set("ns", "a");
    for (int i = 0; i < 1000; i++)
        set("ns", "c");
    assert_int_equal(kill(server, SIGCONT), 0);
    while (!got_a || !got_b) { /* also b: nobody knows */
        assert_true(receive(sub, &got, WAIT));
        got_a |= got.hash == a;
        got_b |= got.hash == b;
    }
    revision = set("ns", "a");
    do
        assert_true(receive(sub, &got, WAIT));
    while (got.hash != a || got.revision < revision);
    zmq_close(sub);
}

/* Killed and started again: libzmq subscribes anew, the sync topic is answered
 * again, and from then on nothing is missed. Many times. */
static void
test_restart(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a"), revision;
    uint8_t topic[ZP__TOPIC_SIZE];
    news got;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    sync_topic(topic, 1);
    assert_int_equal(zp__zmq_topic(sub, ZMQ_SUBSCRIBE, topic, sizeof topic), 0);
    assert_true(receive(sub, &got, WAIT));
    for (uint32_t i = 2; i < 12; i++) {
        kill_server();
        start_server();
        assert_int_equal(board->shared->generation, i);
        do
            assert_true(receive(sub, &got, WAIT));
        while (got.kind != ZP__TOPIC_SYNC);
        assert_int_equal(got.generation, i);
        assert_int_equal(interest(key), 1);
        revision = set("ns", "a");
        expect_news(sub, ZP__TOPIC_KEY, key, revision);
    }
    zmq_close(sub);
}

/* Without the server writing and ringing go on; the next one is not flooded by
 * what was rung. */
static void
test_ringing_nobody(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a");

    (void)state;
    signal(SIGPIPE, SIG_DFL);
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    sync_with(sub, NULL);
    kill_server();
    atomic_store(&board->shared->asleep, 1);
    for (int i = 0; i < 70000; i++) /* more than the FIFO holds */
        zp__board_ring(board);
    for (int i = 0; i < 100; i++)
        set("ns", "a");
    start_server();
    sync_with(sub, NULL);
    expect_news(sub, ZP__TOPIC_KEY, key, set("ns", "a"));
    zmq_close(sub);
}

/* ------------------------------------------------------------- strangers -- */

static void
expect_pong(zp__client *client)
{
    zp_pong pong;
    int rc = zp__client_ping(client, "x", 1, WAIT, &pong);

    if (rc < 0)
        fail_msg("%s: %s", zp_strerror(rc), zp__fail_text());
    assert_int_equal(pong.server_pid, zp__board_server(board).pid);
}

/* What is no subscription of ours counts nothing, and hurts nobody. */
static void
test_strange_subscriptions(void **state)
{
    static const uint8_t odd[300] = {'K'};
    void *sub = new_socket(ZMQ_SUB, "pub"), *xsub = new_socket(ZMQ_XSUB, "pub");
    uint64_t key = zp__topic_key("ns", "a"), sum = 0;

    (void)state;
    for (size_t size = 0; size < 240; size++)
        if (size != ZP__TOPIC_SIZE)
            assert_int_equal(zp__zmq_topic(sub, ZMQ_SUBSCRIBE, odd, size), 0);
    for (size_t size = 0; size < sizeof odd; size++) /* no subscriptions */
        assert_int_equal(zp__zmq_send(xsub, odd, size, 0), 0);
    assert_int_equal(zp__zmq_send(xsub, "\1X2345678", 10, 0), 0);
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    sync_with(sub, NULL);
    for (size_t i = 0; i < ZP__INTEREST; i++)
        sum += board->shared->interest[i];
    assert_int_equal(sum, 2); /* its two buckets */
    set("ns", "a");
    assert_true(receive(sub, &(news){0}, WAIT));
    zmq_close(xsub);
    zmq_close(sub);
}

/* Requests that are none get no answer; those that are do, all the same. */
static void
test_strange_requests(void **state)
{
    static uint8_t large[ZP__REQUEST_HEAD + ZP__PAYLOAD_MAX + 1] = {'P'};
    void *dealer = new_socket(ZMQ_DEALER, "ctl");
    void *bully = new_socket(ZMQ_DEALER, "ctl");
    zp__client *client;
    uint8_t answer[64];

    (void)state;
    assert_int_equal(zp__client_new(&client, &place), 0);
    for (size_t size = 0; size < ZP__REQUEST_HEAD; size++)
        assert_int_equal(zp__zmq_send(dealer, large, size, 0), 0);
    assert_int_equal(zp__zmq_send(dealer, "Q12345678", 9, 0), 0);
    for (int i = 0; i < 5; i++) /* many frames, the first like a request */
        assert_int_equal(
            zp__zmq_send(dealer, large, 20, i < 4 ? ZMQ_SNDMORE : 0), 0);
    assert_int_equal(zp__zmq_send(dealer, large, sizeof large, 0), 0);
    /* one that asks and never listens, then one that asks and goes */
    for (int i = 0; i < 1000; i++)
        (void)zp__zmq_send(bully, large, sizeof large - 1, 0);
    expect_pong(client);
    zmq_close(bully);
    expect_pong(client);
    assert_int_equal(zp__zmq_send(dealer, "P12345678hello", 14, 0), 0);
    assert_true(readable(dealer, WAIT));
    assert_int_equal(zp__zmq_recv(dealer, answer, sizeof answer),
                     ZP__ANSWER_HEAD + 5);
    assert_memory_equal(answer, "P12345678", 9);
    assert_memory_equal(answer + ZP__ANSWER_HEAD, "hello", 5);
    assert_int_equal(zp__zmq_recv(dealer, answer, sizeof answer), -EAGAIN);
    zmq_close(dealer);
    zp__client_free(client);
}

/* -------------------------------------------------------------- the clock --
 */

/* Another server has taken over (so says the board): ours goes, and harms
 * nothing. */
static void
test_taken_over(void **state)
{
    char path[ZP__PATH_MAX];

    (void)state;
    atomic_fetch_add(&board->shared->generation, 1);
    assert_true(zp_test_until(server_ended, NULL, WAIT));
    assert_false(zp__board_closed(board));
    assert_int_equal(access(zp__place_file(&place, "pub", path), F_OK), 0);
    start_server();
}

/* The run directory is taken away under the server: it ends. */
static void
test_vanished(void **state)
{
    (void)state;
    zp_test_remove(place.run);
    assert_true(zp_test_until(server_ended, NULL, WAIT));
    assert_int_equal(zp__server_ensure(&place, board, 1), ZP_ENOSERVER);
    assert_non_null(strstr(zp__fail_text(), "gone"));
}

/* Commits of a writer that died before it rang are told all the same. */
static void
test_lost_ring(void **state)
{
    void *sub = new_socket(ZMQ_SUB, "pub");
    uint64_t key = zp__topic_key("ns", "a"), revision;

    (void)state;
    subscribe_hash(sub, ZP__TOPIC_KEY, key);
    sync_with(sub, NULL);
    stop_server(SIGSTOP);
    revision = set("ns", "a");
    zp__board_drain(board);
    stop_server(SIGCONT);
    expect_news(sub, ZP__TOPIC_KEY, key, revision);
    zmq_close(sub);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST_WITH(test_news, set_up, tear_down),
        ZP_TEST_WITH(test_counts_distinct_topics, set_up, tear_down),
        ZP_TEST_WITH(test_writer_died_before_look, set_up, tear_down),
        ZP_TEST_WITH(test_many_calls, set_up, tear_down),
        ZP_TEST_WITH(test_large_transaction, set_up, tear_down),
        ZP_TEST_WITH(test_once_per_pass, set_up, tear_down),
        ZP_TEST_WITH(test_log_passed_the_server, set_up_short, tear_down),
        ZP_TEST_WITH(test_restart, set_up, tear_down),
        ZP_TEST_WITH(test_ringing_nobody, set_up, tear_down),
        ZP_TEST_WITH(test_strange_subscriptions, set_up, tear_down),
        ZP_TEST_WITH(test_strange_requests, set_up, tear_down),
        ZP_TEST_WITH(test_taken_over, set_up, tear_down),
        ZP_TEST_WITH(test_vanished, set_up, tear_down),
        ZP_TEST_WITH(test_lost_ring, set_up, tear_down),
    };
    return zp_test_main("publish", tests, sizeof tests / sizeof *tests, 30);
}
