/*
 * manual.c - the short examples of the manual pages, in one program that runs.
 *
 * Each function is what one page shows under EXAMPLES (the marked part of it);
 * main() gives each a clean state and prints its name before it. What it
 * prints is compared by `make check`, so the manual cannot show code that
 * does not work.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zp.h>

/* zp_value(3): a composite made, shown, sent as bytes and read back. */
/* [value] */
static int
value(void)
{
    char text[80];
    const char *name = "Ada";
    char *read_name = NULL;
    int year = 1815, read_year, rc;
    zp_value *made = NULL, *copy = NULL;
    const void *image;
    size_t size;

    rc = zp_value_new(&made, "si", &name, &year);
    if (rc < 0)
        goto out;
    zp_value_text(made, text, sizeof(text));
    printf("%s\n", text);

    image = zp_value_image(made, &size); /* bytes to keep or to send */
    rc = zp_value_new_image(&copy, image, size);
    if (rc >= 0)
        rc = zp_value_get(copy, "si", &read_name, &read_year);
    if (rc >= 0)
        printf("%s, %d, equal: %d\n", read_name, read_year,
               zp_value_equal(made, copy));
out:
    free(read_name);
    zp_value_free(copy);
    zp_value_free(made);
    return rc;
}
/* [/value] */

/* zp_tpl(3): an array of names and years, packed and unpacked. */
/* [tpl] */
static int
array(zp_state *state)
{
    static const struct {
        const char *name;
        int year;
    } people[] = {{"Ada", 1815}, {"Alan", 1912}, {"Grace", 1906}};
    char *name;
    int year, rc;
    zp_value *value = NULL;
    zp_tpl *tpl;

    rc = zp_tpl_new(&tpl, "A(si)", &name, &year);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < 3 && rc >= 0; i++) {
        name = (char *)people[i].name;
        year = people[i].year;
        rc = zp_tpl_pack(tpl, 1); /* one more element of the A() */
    }
    if (rc >= 0)
        rc = zp_tpl_value(tpl, &value);
    if (rc >= 0)
        rc = zp_set_value(state, "people", value);
    value = zp_value_free(value);

    if (rc >= 0)
        rc = zp_get_value(state, "people", &value);
    if (rc >= 0)
        rc = zp_tpl_load(tpl, value);
    if (rc >= 0)
        rc = zp_tpl_unpack(tpl, 0); /* always first */
    while (rc >= 0 && (rc = zp_tpl_unpack(tpl, 1)) > 0) {
        printf("%s was born in %d\n", name, year);
        free(name);
    }
    zp_value_free(value);
    zp_tpl_free(tpl);
    return rc;
}
/* [/tpl] */

/* zp_state(3): set and get; what is missing; what has another type. */
/* [state] */
static int
dictionary(zp_state *state)
{
    int x = 3, y = 4, rc;
    int64_t number;
    char *greeting;

    if ((rc = zp_set_string(state, "greeting", "hello")) < 0 ||
        (rc = zp_set(state, "point", "ii", &x, &y)) < 0)
        return rc;
    if ((rc = zp_get_string(state, "greeting", &greeting)) < 0)
        return rc;
    printf("%s\n", greeting);
    free(greeting);
    if ((rc = zp_pop(state, "point", "ii", &x, &y)) < 0)
        return rc;
    printf("%d %d, still there: %d\n", x, y, zp_contains(state, "point"));

    rc = zp_get_int(state, "number", &number);
    if (rc == ZP_ENOKEY)
        printf("no number yet\n");
    rc = zp_get_int(state, "greeting", &number);
    if (rc == ZP_ETYPE)
        printf("the greeting is no number\n");
    return 0;
}
/* [/state] */

/* zp_dict(3): many keys in one change, and a walk through them. */
/* [dict] */
static int
fruit(zp_state *state)
{
    zp_pair pairs[2] = {{"apple", NULL}, {"pear", NULL}};
    zp_value *three = NULL, *five = NULL;
    int n = 3, m = 5, rc;
    zp_iter *iter;
    const char *key;
    const zp_value *value;

    if ((rc = zp_value_new(&three, "i", &n)) < 0 ||
        (rc = zp_value_new(&five, "i", &m)) < 0)
        goto out;
    pairs[0].value = three;
    pairs[1].value = five;
    rc = zp_update(state, pairs, 2); /* one change: seen together */
    if (rc < 0)
        goto out;

    rc = zp_iter_new(state, &iter);
    if (rc < 0)
        goto out;
    while ((rc = zp_iter_next(iter, &key, &value)) > 0) {
        char text[32];

        zp_value_text(value, text, sizeof(text));
        printf("%s: %s\n", key, text);
    }
    zp_iter_free(iter);
out:
    zp_value_free(three);
    zp_value_free(five);
    return rc;
}
/* [/dict] */

/* zp_snapshot(3): the state as it is now stays what it was. */
/* [snapshot] */
static int
past(zp_state *state)
{
    zp_state *then = NULL;
    int64_t a, b;
    int rc;

    if ((rc = zp_set_int(state, "count", 1)) < 0 ||
        (rc = zp_snapshot(state, &then)) < 0)
        return rc;
    if ((rc = zp_set_int(state, "count", 2)) >= 0 &&
        (rc = zp_get_int(then, "count", &a)) >= 0 &&
        (rc = zp_get_int(state, "count", &b)) >= 0)
        printf("it was %d, it is %d\n", (int)a, (int)b);
    zp_state_free(then);
    return rc;
}
/* [/snapshot] */

/* zp_snapshot(3): and any earlier revision, while it is retained. */
/* [at] */
static int
one_before(zp_state *state, const char *key, int64_t *ret_value)
{
    zp_state *then;
    uint64_t revision;
    int rc;

    if ((rc = zp_revision(state, &revision)) < 0 ||
        (rc = zp_at(state, &then, revision - 1)) < 0)
        return rc;
    rc = zp_get_int(then, key, ret_value);
    zp_state_free(then);
    return rc;
}
/* [/at] */

/* zp_history(3): all that a key has been, from now back. */
/* [lease] */
/* To be called every few seconds by who works, whose name is USER: nobody else
 * does, for 30 seconds more. Or another one has taken over. */
static int
work_on(zp_state *txn, void *user)
{
    const char *name = user;
    char *worker;
    int rc, same;

    rc = zp_get_string(txn, "worker", &worker);
    if (rc == ZP_ENOKEY) /* nobody's, or no more: it was too slow */
        return zp_set_with(txn, "worker", ZP_WITH(.ttl = 30), "s", &name);
    if (rc < 0)
        return rc;
    same = strcmp(worker, name) == 0;
    free(worker);
    return same ? zp_renew(txn, "worker", 30) : -EBUSY;
}

static int
how_long(zp_state *state)
{
    zp_lease lease = {.size = sizeof(lease)};
    int rc = zp_get_lease(state, "worker", &lease);

    if (rc >= 0)
        printf("for %.0f seconds\n", lease.ttl);
    return rc;
}
/* [/lease] */

static int
working(zp_state *state)
{
    char ann[] = "ann", ben[] = "ben";
    int rc;

    if ((rc = zp_atomic(state, work_on, ann)) < 0 ||
        (rc = zp_atomic(state, work_on, ann)) < 0)
        return rc;
    rc = zp_atomic(state, work_on, ben);
    printf("ben: %s\n", rc == -EBUSY ? "busy" : "what?");
    return how_long(state);
}

/* [history] */
static int
look_back(zp_state *state, const char *key)
{
    char text[40];
    const zp_value *value;
    zp_history *history;
    zp_history_entry entry;
    int rc;

    if ((rc = zp_history_new(state, &history, key)) < 0)
        return rc;
    while ((rc = zp_history_next(history, &entry, &value)) == 1) {
        if (value)
            zp_value_text(value, text, sizeof(text));
        else
            strcpy(text, entry.flags & ZP_DELETED ? "deleted" : "not kept");
        printf("%s%s\n", text, entry.flags & ZP_CREATED ? " (created)" : "");
    }
    zp_history_free(history);
    if (rc == ZP_EGONE) {
        printf("what was before is forgotten\n");
        rc = 0;
    }
    return rc;
}
/* [/history] */

static int
looking_back(zp_state *state)
{
    int rc;

    if ((rc = zp_set(state, "mood", ZP_S("tired"))) < 0 ||
        (rc = zp_set(state, "mood", ZP_S("awake"))) < 0 ||
        (rc = zp_delete(state, "mood")) < 0 ||
        (rc = zp_set(state, "mood", ZP_S("happy"))) < 0)
        return rc;
    return look_back(state, "mood");
}

/* zp_atomic(3): all of it or nothing. */
/* [atomic] */
struct transfer {
    const char *from, *to;
    int64_t amount;
};

static int
transfer(zp_state *txn, void *user)
{
    struct transfer *t = user;
    int64_t left;
    int rc;

    if ((rc = zp_decrease(txn, t->from, &left, t->amount)) < 0)
        return rc;
    if (left < 0)
        return -EDQUOT; /* our own word for it: nothing has happened */
    return zp_increase(txn, t->to, NULL, t->amount);
}

static int
pay(zp_state *state, const char *from, const char *to, int64_t amount)
{
    struct transfer t = {from, to, amount};

    return zp_atomic(state, transfer, &t);
}
/* [/atomic] */

static int
bank(zp_state *state)
{
    int64_t ann, ben;
    int rc;

    if ((rc = zp_set_int(state, "ann", 10)) < 0 ||
        (rc = zp_set_int(state, "ben", 0)) < 0)
        return rc;
    if ((rc = pay(state, "ann", "ben", 7)) < 0)
        return rc;
    rc = pay(state, "ann", "ben", 7);
    printf("the second time: %s\n", rc == -EDQUOT ? "refused" : "paid");
    if ((rc = zp_get_int(state, "ann", &ann)) < 0 ||
        (rc = zp_get_int(state, "ben", &ben)) < 0)
        return rc;
    printf("ann %d, ben %d\n", (int)ann, (int)ben);
    return 0;
}

/* zp_call_when_change(3): all keys but one; what changed, before and after. */
/* [watch] */
/* [report] */
static int
report(zp_watch *watch, const zp_event *event, void *user)
{
    zp_state *before = zp_event_before(event);
    zp_state *after = zp_event_snapshot(event);
    zp_change change;
    int *seen = user;

    (void)watch;
    if (zp_event_kind(event) == ZP_OVERRUN) {
        printf("changes were lost\n"); /* `after` is what there is now */
        return 0;
    }
    for (size_t i = 0; i < zp_event_length(event); i++) {
        int64_t old = 0, new = 0; /* stay so where the key is absent */

        zp_event_change(event, &change, i);
        zp_get_or(before, change.key, "I", &old);
        zp_get_or(after, change.key, "I", &new);
        printf("%s: %d -> %d%s\n", change.key, (int)old, (int)new,
               change.flags & ZP_DELETED ? " (deleted)" : "");
    }
    *seen += 1;
    return 0;
}
/* [/report] */

static int
watch_all_but_time(zp_state *state, zp_watch **ret_watch, int *seen)
{
    return zp_call_when_change(
        state, ret_watch, ZP_KEYS("time"),
        ZP_WATCH(.flags = ZP_EXCLUDE | ZP_OWN, .count = 3), report, seen);
}
/* [/watch] */

static int
watching(zp_state *state)
{
    zp_watch *watch;
    int seen = 0, rc;

    rc = watch_all_but_time(state, &watch, &seen);
    if (rc < 0)
        return rc;
    if ((rc = zp_set_int(state, "a", 1)) >= 0 &&
        (rc = zp_set_int(state, "time", 99)) >= 0 &&
        (rc = zp_set_int(state, "a", 2)) >= 0 &&
        (rc = zp_delete(state, "a")) >= 0)
        rc = zp_run(zp_state_ctx(state)); /* until the third event */
    if (rc >= 0)
        printf("%d events, active: %d\n", seen, zp_watch_active(watch));
    zp_watch_free(watch);
    return rc;
}

/* zp_watch(3): a reader that is only interested in what comes now. */
/* [go-live] */
static int
progress(zp_watch *watch, const zp_event *event, void *user)
{
    int64_t *last = user;
    int rc;

    rc = zp_get_int(zp_event_snapshot(event), "percent", last);
    if (rc < 0)
        return rc;
    if (*last == 100)
        return zp_watch_cancel(watch); /* this callback is the last one */
    return zp_go_live(watch); /* what came meanwhile is of no interest */
}
/* [/go-live] */

static int
live(zp_state *state)
{
    int64_t last = 0;
    int rc;

    rc = zp_call_when_change(state, NULL, ZP_KEYS("percent"),
                             ZP_WATCH(.flags = ZP_OWN), progress, &last);
    if (rc >= 0)
        rc = zp_set_int(state, "percent", 100);
    if (rc >= 0)
        rc = zp_run(zp_state_ctx(state));
    if (rc >= 0)
        printf("%d %%\n", (int)last);
    return rc;
}

/* zp_event(3): the value before and after a change, of any type. */
/* [raw] */
static int
print_change(const zp_event *event, size_t i)
{
    char was[40] = "nothing", is[40] = "nothing";
    zp_value *before, *after;
    zp_change change;
    int rc;

    if ((rc = zp_event_change(event, &change, i)) < 0 ||
        (rc = zp_event_values(event, &before, &after, i)) < 0)
        return rc;
    if (before)
        zp_value_text(before, was, sizeof(was));
    if (after)
        zp_value_text(after, is, sizeof(is));
    printf("%s: %s -> %s%s\n", change.key, was, is,
           change.flags & ZP_IDENTICAL ? " (the same)" : "");
    zp_value_free(before);
    zp_value_free(after);
    return 0;
}
/* [/raw] */

/* zp_watch_next(3): one event after the other, until none comes for a while. */
/* [follow] */
static int
follow(zp_watch *watch, double patience)
{
    const zp_event *event;
    int rc;

    while ((rc = zp_watch_next(watch, &event, patience)) > 0) {
        if (zp_event_kind(event) == ZP_OVERRUN)
            printf("changes were lost\n");
        for (size_t i = 0; i < zp_event_length(event) && rc >= 0; i++)
            rc = print_change(event, i);
        if (rc < 0)
            return rc;
    }
    return rc == -ETIMEDOUT ? 0 : rc; /* 0: it is at its end */
}
/* [/follow] */

static int
following(zp_state *state)
{
    zp_watch *watch;
    int rc;

    rc = zp_call_when_change(state, &watch, NULL, 0,
                             ZP_WATCH(.flags = ZP_OWN | ZP_SAME), NULL, NULL);
    if (rc < 0)
        return rc;
    if ((rc = zp_set_int(state, "answer", 42)) >= 0 &&
        (rc = zp_set_int(state, "answer", 42)) >= 0 &&
        (rc = zp_set_string(state, "answer", "forty-two")) >= 0 &&
        (rc = zp_delete(state, "answer")) >= 0)
        rc = follow(watch, 0); /* here all of it has happened */
    zp_watch_free(watch);
    return rc;
}

/* zp_get_when(3): one wait after the other, and nothing lost in between. */
/* [cursor] */
/* Wait for the next job. *CURSOR is 0 before the first call. */
static int
next_job(zp_state *state, uint64_t *cursor, double timeout, int64_t *ret_job)
{
    zp_state *then;
    int rc;

    /* ZP_OWN: this program gives itself its jobs */
    rc = zp_get_when_change(state, &then, ZP_KEYS("job"), timeout,
                            ZP_WATCH(.flags = ZP_OWN, .cursor = cursor));
    if (rc < 0)
        return rc; /* -ETIMEDOUT: what comes now is for the next call */
    rc = zp_get_int(then, "job", ret_job);
    zp_state_free(then);
    return rc;
}
/* [/cursor] */

static int
jobs(zp_state *state)
{
    uint64_t cursor = 0;
    int64_t job;
    int rc;

    rc = next_job(state, &cursor, 0, &job);
    printf("%s\n", rc == -ETIMEDOUT ? "no job yet" : "a job?");
    for (job = 1; job <= 3; job++)
        if ((rc = zp_set_int(state, "job", job)) < 0)
            return rc;
    while ((rc = next_job(state, &cursor, 0, &job)) >= 0)
        printf("job %d\n", (int)job);
    return rc == -ETIMEDOUT ? 0 : rc;
}

/* zp_spawn(3), zp_return(3): children that calculate, or fail. */
/* [child] */
static int
divide(zp_ctx *ctx, void *arg)
{
    const int *n = arg; /* as it was at the fork */
    double quotient;
    int rc;

    if (n[1] == 0)
        return zp_fail(ctx, -EDOM, "%d divided by nothing", n[0]);
    quotient = (double)n[0] / n[1];
    rc = zp_return(ctx, "f", &quotient);
    return rc < 0 ? rc : 0;
}
/* [/child] */

/* zp_wait(3): how they ended. */
/* [wait] */
static int
in_a_process(zp_ctx *ctx, int a, int b)
{
    zp_result result = {.size = sizeof(result)};
    int n[2] = {a, b}, rc;
    double quotient;
    zp_proc *proc;

    rc = zp_spawn(ctx, &proc, NULL, divide, n);
    if (rc < 0)
        return rc;
    rc = zp_wait(proc, &result, 10);
    if (rc == ZP_EFAILED) {
        printf("%d / %d: %s\n", a, b, result.error);
        return 0;
    }
    if (rc >= 0)
        rc = zp_proc_get(proc, "f", &quotient);
    if (rc >= 0)
        printf("%d / %d = %g\n", a, b, quotient);
    return rc;
}
/* [/wait] */

/* zp_each_process(3): what there is, and what there was. */
/* [each] */
static int
show(const zp_process *process, void *user)
{
    zp_ctx *ctx = user;
    double quotient;

    if (process->state != ZP_PROC_ENDED)
        printf("process %d is at work\n", process->pid);
    else if (process->code < 0)
        printf("failed at attempt %u: %s\n", process->attempts, process->error);
    else if (zp_process_get(ctx, process->id, "f", &quotient) >= 0)
        printf("left %g\n", quotient);
    return 0; /* go on */
}

static int
show_all(zp_ctx *ctx)
{
    return zp_each_process(ctx, show, ctx);
}
/* [/each] */

static int
children(zp_ctx *ctx)
{
    int rc = in_a_process(ctx, 7, 2);

    if (rc >= 0)
        rc = in_a_process(ctx, 7, 0);
    return rc < 0 ? rc : show_all(ctx);
}

/* zp_ctx(3): a state with limits of its own, and a second context on it. */
/* [ctx] */
static int
two_contexts(void)
{
    zp_ctx_options options = {
        .size = sizeof(options),
        .ns = "weather",
        .lock_timeout = 2,     /* seconds */
        .max_bytes = 16 << 20, /* of the whole state */
    };
    zp_ctx *owner, *guest;
    int64_t celsius;
    int rc;

    rc = zp_ctx_new(&owner, &options);
    if (rc < 0) {
        fprintf(stderr, "%s\n", zp_ctx_error(NULL));
        return rc;
    }
    /* mostly done by another process, which was told the address */
    rc = zp_ctx_attach(&guest, zp_ctx_address(owner), &options);
    if (rc >= 0) {
        rc = zp_set_int(zp_ctx_state(guest), "celsius", 21);
        zp_ctx_free(guest);
    }
    if (rc >= 0)
        rc = zp_get_int(zp_ctx_state(owner), "celsius", &celsius);
    if (rc >= 0)
        printf("%d\n", (int)celsius);
    zp_ctx_free(owner);
    return rc;
}
/* [/ctx] */

/* zp_error(3): telling the user what went wrong. */
/* [error] */
static void
complain(const char *what, int rc, const zp_ctx *ctx)
{
    const char *about = zp_ctx_error(ctx);

    fprintf(stderr, "%s: %s\n", what, *about ? about : zp_strerror(rc));
}
/* [/error] */

/* Is the server there, and does the state know its size? */
/* [ping] */
static int
health(zp_ctx *ctx)
{
    zp_stats stats = {.size = sizeof(stats)};
    zp_pong pong;
    int rc;

    if ((rc = zp_ping(ctx, &pong, "hello?", 6, 5)) < 0 ||
        (rc = zp_ctx_stats(ctx, &stats)) < 0)
        return rc;
    fprintf(stderr, "server %d answers in %.0f us; %d %% are used\n",
            pong.server_pid, 1e6 * pong.round_trip,
            (int)(100 * stats.used_bytes / stats.max_bytes));
    return 0;
}
/* [/ping] */

/* zp_serve(3): `manual serve` is a state server, for whoever attaches to
 * "weather", until it is told to end. */
/* [serve] */
static int
serve(void)
{
    zp_ctx_options state = {.size = sizeof(state), .name = "weather"};
    zp_serve_options options = {.size = sizeof(options), .state = &state};

    return zp_serve(&options);
}
/* [/serve] */

static int
earlier(zp_state *state)
{
    int64_t was;
    int rc;

    if ((rc = past(state)) < 0 || (rc = one_before(state, "count", &was)) < 0)
        return rc;
    printf("one revision ago: %d\n", (int)was);
    return 0;
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*fn)(zp_state *state);
    } parts[] = {{"zp_tpl", array},
                 {"zp_state", dictionary},
                 {"zp_dict", fruit},
                 {"zp_snapshot", earlier},
                 {"zp_history", looking_back},
                 {"zp_atomic", bank},
                 {"zp_set_with", working},
                 {"zp_call_when_change", watching},
                 {"zp_watch", live},
                 {"zp_watch_next", following},
                 {"zp_get_when", jobs}};
    zp_ctx *ctx = NULL;
    int rc;

    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        return serve() < 0;
    rc = zp_ctx_new(&ctx, NULL);
    if (rc < 0) {
        complain("manual", rc, NULL);
        return 1;
    }
    printf("zp_value\n");
    rc = value();
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts) && rc >= 0; i++) {
        printf("%s\n", parts[i].name);
        rc = zp_clear(zp_ctx_state(ctx));
        if (rc >= 0)
            rc = parts[i].fn(zp_ctx_state(ctx));
    }
    if (rc >= 0) {
        printf("zp_spawn\n");
        rc = children(ctx);
    }
    if (rc >= 0) {
        printf("zp_ping\n");
        rc = health(ctx);
    }
    if (rc >= 0) {
        printf("zp_ctx\n");
        rc = two_contexts();
    }
    if (rc < 0)
        complain("manual", rc, ctx);
    zp_ctx_free(ctx);
    return rc < 0;
}
