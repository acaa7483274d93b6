/*
 * test_swarm_wire.c - what a swarm's owner and its workers say to each other:
 * bytes are checked before they are used, and what has another shape than a
 * message of ours is passed over.
 */
#include "tests/support/zp_test.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "core/image.h"
#include "reactors/swarm_wire.h"

/* --------------------------------------------------------------- answers -- */

typedef struct body {
    unsigned char bytes[8192];
    size_t size;
} body;

static void
put(body *to, const void *bytes, size_t size)
{
    assert_true(to->size + size <= sizeof to->bytes);
    if (size)
        memcpy(to->bytes + to->size, bytes, size);
    to->size += size;
}

static void
put_answer(body *to, int code, const void *image, size_t size,
           const char *error, const char *origin)
{
    zp__answer answer = {.code = code,
                         .value = (uint32_t)size,
                         .error = (uint16_t)strlen(error),
                         .origin = (uint16_t)strlen(origin)};

    put(to, &answer, sizeof answer);
    put(to, image, size);
    put(to, error, strlen(error));
    put(to, origin, strlen(origin));
}

/* Four answers, of which two failed. */
static void
put_four(body *to)
{
    unsigned char image[ZP__PLAIN_MAX];
    zp_value *value = NULL;
    const char *text = "a text";
    const void *composite;
    size_t size;

    assert_int_equal(zp_value_new(&value, "is", &(int){7}, &text), 0);
    composite = zp_value_image(value, &size);
    put_answer(to, 0, image, zp__image_int(image, 5), "", "");
    put_answer(to, -ENOENT, NULL, 0, "no such file", "test.c:12");
    put_answer(to, 3, composite, size, "", "");
    put_answer(to, ZP_EPOISON, NULL, 0, "", "");
    zp_value_free(value);
}

/* Of a copy that ends where it ends: a sanitizer sees who reads behind it. */
static int64_t
check(const void *bytes, size_t size, uint32_t n)
{
    unsigned char *copy = malloc(size ? size : 1);
    int64_t rc;

    if (size)
        memcpy(copy, bytes, size);
    rc = zp__answers_check(copy, size, n);
    if (rc >= 0 && n) { /* then it can be read */
        const unsigned char *at = copy, *value;
        const char *error, *origin;
        zp__answer answer;

        for (uint32_t i = 0; i < n; i++) {
            zp__answer_read(&at, &answer, &value, &error, &origin);
            assert_true(at <= copy + size);
            if (answer.value)
                assert_int_equal(zp__image_check(value, answer.value), 0);
        }
        assert_ptr_equal(at, copy + size);
    }
    free(copy);
    return rc;
}

static void
test_answers_are_counted_and_read(void **state)
{
    body b = {.size = 0};
    const unsigned char *at = b.bytes, *value;
    const char *error, *origin;
    zp__answer answer;
    int64_t five = 0;

    (void)state;
    assert_int_equal(check(NULL, 0, 0), 0);
    put_four(&b);
    assert_int_equal(check(b.bytes, b.size, 4), 2);
    zp__answer_read(&at, &answer, &value, &error, &origin);
    assert_int_equal(answer.code, 0);
    assert_int_equal(zp__image_get_int(value, answer.value, &five), 0);
    assert_int_equal(five, 5);
    zp__answer_read(&at, &answer, &value, &error, &origin);
    assert_int_equal(answer.code, -ENOENT);
    assert_int_equal(answer.value, 0);
    assert_int_equal(answer.error, strlen("no such file"));
    assert_memory_equal(error, "no such file", answer.error);
    assert_int_equal(answer.origin, strlen("test.c:12"));
    assert_memory_equal(origin, "test.c:12", answer.origin);
    zp__answer_read(&at, &answer, &value, &error, &origin);
    assert_int_equal(answer.code, 3);
    assert_string_equal(zp__image_format(value, answer.value), "is");
    zp__answer_read(&at, &answer, &value, &error, &origin);
    assert_int_equal(answer.code, ZP_EPOISON);
    assert_ptr_equal(at, b.bytes + b.size);
}

static void
test_answers_of_another_size(void **state)
{
    body b = {.size = 0};

    (void)state;
    put_four(&b);
    for (size_t size = 0; size < b.size; size++)
        assert_int_equal(check(b.bytes, size, 4), -1);
    for (uint32_t n = 0; n < 8; n++)
        assert_int_equal(check(b.bytes, b.size, n), n == 4 ? 2 : -1);
    assert_int_equal(check(b.bytes, b.size, UINT32_MAX), -1);
    put(&b, "", 1);
    assert_int_equal(check(b.bytes, b.size, 4), -1);
    assert_int_equal(check(b.bytes, b.size, 5), -1);
}

/* Lengths that lie, each field by itself and all together. */
static void
test_answers_that_promise_too_much(void **state)
{
    static const zp__answer lies[] = {
        {.value = UINT32_MAX},
        {.value = UINT32_MAX, .error = UINT16_MAX, .origin = UINT16_MAX},
        {.error = UINT16_MAX},
        {.origin = 1},
        {.value = 1}, /* no image is so short */
        {.value = 0x80000000u, .error = 8},
    };

    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        body b = {.size = 0};

        put(&b, &lies[i], sizeof lies[i]);
        assert_int_equal(check(b.bytes, b.size, 1), -1);
        put(&b, "x", 1);
        assert_int_equal(check(b.bytes, b.size, 1),
                         lies[i].origin == 1 ? 0 : -1);
    }
}

static void
test_answers_with_a_bad_image(void **state)
{
    unsigned char image[ZP__PLAIN_MAX];
    size_t size = zp__image_int(image, 5);

    (void)state;
    for (size_t i = 0; i < size; i++) {
        body b = {.size = 0};

        image[i] ^= 0x55;
        put_answer(&b, 0, image, size, "", "");
        if (zp__image_check(image, size) < 0)
            assert_int_equal(check(b.bytes, b.size, 1), -1);
        else
            assert_int_equal(check(b.bytes, b.size, 1), 0);
        image[i] ^= 0x55;
    }
}

static void
test_random_answers(void **state)
{
    unsigned short seed[3] = {4, 5, 6};
    int rounds = (int)(20000 / zp_test_slow());
    body good = {.size = 0};

    (void)state;
    put_four(&good);
    for (int i = 0; i < rounds; i++) {
        body b = good;
        int changes = 1 + (int)(erand48(seed) * 4);

        for (int k = 0; k < changes; k++)
            b.bytes[(size_t)(erand48(seed) * (double)b.size)] =
                (unsigned char)(erand48(seed) * 256);
        (void)check(b.bytes, b.size, 4);
        for (size_t k = 0; k < b.size; k++)
            b.bytes[k] = (unsigned char)(erand48(seed) * 256);
        (void)check(b.bytes, b.size, 1 + (uint32_t)(erand48(seed) * 9));
    }
}

/* --------------------------------------------------------------- sockets -- */

static const zp__name us = {{'z', 'p', 'w', 0}, 3, 17};

typedef struct line {
    void *zmq, *owner, *worker;
    char address[160];
} line;

static void
open_line(line *l)
{
    l->zmq = zmq_ctx_new();
    assert_non_null(l->zmq);
    snprintf(l->address, sizeof l->address, "ipc://%s", zp_test_path("wire"));
    l->owner = zp__wire_bind(l->zmq, l->address);
    assert_non_null(l->owner);
    l->worker = zp__wire_connect(l->zmq, l->address, &us);
    assert_non_null(l->worker);
}

static void
close_line(line *l)
{
    zp__wire_close(l->worker, NULL);
    zp__wire_close(l->owner, l->address);
    assert_int_equal(access(zp_test_path("wire"), F_OK), -1);
    zmq_ctx_term(l->zmq);
}

/* The next message for SOCKET of a head of SIZE bytes, once it is there. */
static void
receive(void *socket, zp__name *name, void *head, size_t size, zp__message *got)
{
    double deadline = zp_test_now() + 10 * zp_test_slow();
    zmq_pollitem_t poll = {.socket = socket, .events = ZMQ_POLLIN};

    while (zp__wire_receive(socket, name, head, size, got) == 0) {
        if (zp_test_now() > deadline)
            fail_msg("no message has come");
        zmq_poll(&poll, 1, 100);
    }
}

static bool
is_body(zp__message *message, const void *bytes, size_t size)
{
    size_t got;
    const void *data = zp__message_data(message, &got);
    bool same = got == size && (!size || memcmp(data, bytes, size) == 0);

    zp__message_free(message);
    return same;
}

/* The worker makes itself known. */
static void
greet(line *l)
{
    zp__report report = {.kind = ZP__REPORT_UP}, seen;
    zp__name name;
    zp__message got;

    assert_int_equal(zp__wire_send(l->worker, NULL, &report, sizeof report,
                                   NULL, 0, NULL, NULL),
                     0);
    receive(l->owner, &name, &seen, sizeof seen, &got);
    assert_memory_equal(&name, &us, sizeof us);
    assert_memory_equal(&seen, &report, sizeof seen);
    assert_true(is_body(&got, NULL, 0));
}

static void
test_both_ways(void **state)
{
    zp__order order = {.kind = ZP__ORDER_TASK, .map = 1, .n = 2}, seen;
    zp__message got;
    line l;

    (void)state;
    open_line(&l);
    assert_int_equal(zp__wire_receive(l.owner, &(zp__name){.number = 0}, &seen,
                                      sizeof(zp__report), &got),
                     0);
    greet(&l);
    for (uint64_t i = 0; i < 100; i++) {
        order.task = i;
        assert_int_equal(zp__wire_send(l.owner, &us, &order, sizeof order, &i,
                                       sizeof i, NULL, NULL),
                         0);
    }
    for (uint64_t i = 0; i < 100; i++) {
        receive(l.worker, NULL, &seen, sizeof seen, &got);
        assert_int_equal(seen.task, i);
        assert_true(is_body(&got, &i, sizeof i));
    }
    assert_int_equal(zp__wire_receive(l.worker, NULL, &seen, sizeof seen, &got),
                     0);
    close_line(&l);
}

static void
test_nobody_there(void **state)
{
    zp__order order = {.kind = ZP__ORDER_LEAVE};
    zp__name other = us;
    line l;

    (void)state;
    open_line(&l);
    greet(&l);
    other.life++;
    assert_int_equal(zp__wire_send(l.owner, &other, &order, sizeof order, NULL,
                                   0, NULL, NULL),
                     -EHOSTUNREACH);
    assert_int_equal(
        zp__wire_send(l.owner, &us, &order, sizeof order, NULL, 0, NULL, NULL),
        0); /* it has done no harm */
    close_line(&l);
    l.zmq = zmq_ctx_new();
    assert_null(zp__wire_bind(l.zmq, "ipc:///no/such/directory/wire"));
    assert_int_equal(errno, ENOENT);
    zmq_ctx_term(l.zmq);
}

/* -------------------------------------------------------- without a copy -- */

static atomic_int frees;

static void
count_free(void *data, void *hint)
{
    (void)data;
    zp__wire_freed();
    free(hint);
    atomic_fetch_add(&frees, 1);
}

static bool
freed(void *user)
{
    return atomic_load(&frees) >= *(int *)user;
}

/* Send SIZE bytes to NAME, which are freed once. */
static void
send_own(line *l, const zp__name *name, size_t size, int rc)
{
    zp__order order = {.kind = ZP__ORDER_TASK};
    unsigned char *bytes = malloc(size);
    zp__message got;

    memset(bytes, 'b', size);
    atomic_store(&frees, 0);
    assert_int_equal(zp__wire_send(l->owner, name, &order, sizeof order, bytes,
                                   size, count_free, bytes),
                     rc);
    if (rc == 0) {
        unsigned char *same = malloc(size);

        memset(same, 'b', size);
        receive(l->worker, NULL, &order, sizeof order, &got);
        assert_true(is_body(&got, same, size));
        free(same);
        assert_true(zp_test_until(freed, &(int){1}, 10));
    }
    assert_int_equal(atomic_load(&frees), 1); /* on failure: at once */
}

static void
test_bodies_that_are_not_copied(void **state)
{
    zp__name other = us;
    line l;

    (void)state;
    other.number++;
    open_line(&l);
    greet(&l);
    send_own(&l, &us, 10, 0);
    send_own(&l, &us, 1024, 0);
    send_own(&l, &us, 1025, 0);
    send_own(&l, &us, 9 << 20, 0);
    send_own(&l, &other, 10, -EHOSTUNREACH);
    send_own(&l, &other, 9 << 20, -EHOSTUNREACH);
    close_line(&l);
}

/* -------------------------------------------------------- other shapes -- */

/* Frames of these sizes as one message. */
static void
send_frames(void *socket, const size_t *sizes, int n)
{
    static const unsigned char bytes[200];

    for (int i = 0; i < n; i++)
        assert_int_equal(
            zmq_send(socket, bytes, sizes[i], i < n - 1 ? ZMQ_SNDMORE : 0),
            sizes[i]);
}

/* All that is not a head and a body, from whoever speaks on SOCKET. */
static void
send_nonsense(void *socket, size_t head)
{
    send_frames(socket, (size_t[]){0}, 1);
    send_frames(socket, (size_t[]){head}, 1);
    send_frames(socket, (size_t[]){head - 1, 5}, 2);
    send_frames(socket, (size_t[]){head + 1, 5}, 2);
    send_frames(socket, (size_t[]){0, 0}, 2);
    send_frames(socket, (size_t[]){head, 5, 5}, 3);
    send_frames(socket, (size_t[]){head, 0, 0, 0, 7, 150}, 6);
    send_frames(socket, (size_t[]){1, head, 5}, 3);
}

static void
test_owner_passes_over_what_it_does_not_know(void **state)
{
    zp__report report = {.kind = ZP__REPORT_DONE, .n = 9}, seen;
    zp__name name;
    zp__message got;
    void *stranger;
    line l;

    (void)state;
    open_line(&l);
    greet(&l);
    stranger = zmq_socket(l.zmq, ZMQ_DEALER); /* named by ZeroMQ: 5 bytes */
    assert_int_equal(zmq_connect(stranger, l.address), 0);
    send_nonsense(stranger, sizeof report);
    send_frames(stranger, (size_t[]){sizeof report, 5}, 2);
    send_nonsense(l.worker, sizeof report);
    assert_int_equal(zp__wire_send(l.worker, NULL, &report, sizeof report,
                                   "body", 4, NULL, NULL),
                     0);
    receive(l.owner, &name, &seen, sizeof seen, &got);
    assert_memory_equal(&name, &us, sizeof us);
    assert_int_equal(seen.n, 9);
    assert_true(is_body(&got, "body", 4));
    assert_int_equal(zp__wire_receive(l.owner, &name, &seen, sizeof seen, &got),
                     0);
    zmq_setsockopt(stranger, ZMQ_LINGER, &(int){0}, sizeof(int));
    zmq_close(stranger);
    close_line(&l);
}

static void
test_worker_passes_over_what_it_does_not_know(void **state)
{
    zp__order order = {.kind = ZP__ORDER_TASK, .n = 4}, seen;
    zp__message got;
    line l;

    (void)state;
    open_line(&l);
    greet(&l);
    for (int i = 0; i < 8; i++) {
        static const size_t head = sizeof order;
        static const size_t shapes[8][3] = {
            {0, 0, 0},    {head, 0, 0}, {head - 1, 5, 0}, {head + 1, 5, 0},
            {head, 5, 5}, {head, 0, 0}, {1, head, 5},     {head, 200, 1},
        };
        static const int counts[8] = {1, 1, 2, 2, 3, 3, 3, 3};

        assert_int_equal(zmq_send(l.owner, &us, sizeof us, ZMQ_SNDMORE),
                         sizeof us);
        send_frames(l.owner, shapes[i], counts[i]);
    }
    assert_int_equal(zp__wire_send(l.owner, &us, &order, sizeof order, "body",
                                   4, NULL, NULL),
                     0);
    receive(l.worker, NULL, &seen, sizeof seen, &got);
    assert_int_equal(seen.n, 4);
    assert_true(is_body(&got, "body", 4));
    close_line(&l);
}

/* --------------------------------------------------------------- messages --
 */

static void
test_messages_move(void **state)
{
    zp__message one, two;
    size_t size;

    (void)state;
    assert_int_equal(zp__message_new(&one, 5), 0);
    memcpy(zp__message_data(&one, &size), "hello", 5);
    assert_int_equal(size, 5);
    zp__message_move(&two, &one);
    assert_true(is_body(&two, "hello", 5));
    zp__message_init(&one);
    assert_true(is_body(&one, NULL, 0));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ZP_TEST(test_answers_are_counted_and_read),
        ZP_TEST(test_answers_of_another_size),
        ZP_TEST(test_answers_that_promise_too_much),
        ZP_TEST(test_answers_with_a_bad_image),
        ZP_TEST(test_random_answers),
        ZP_TEST(test_both_ways),
        ZP_TEST(test_nobody_there),
        ZP_TEST(test_bodies_that_are_not_copied),
        ZP_TEST(test_owner_passes_over_what_it_does_not_know),
        ZP_TEST(test_worker_passes_over_what_it_does_not_know),
        ZP_TEST(test_messages_move),
    };

    return zp_test_main("swarm_wire", tests, sizeof tests / sizeof *tests, 30);
}
