/*
 * test_conditions.c - each condition, of each kind of value, in each mode. What
 * must hold is a table of the test's own: which values are falsy, which of
 * them are equal.
 */
#include <math.h>

#include "tests/api/waiting.h"

/* --------------------------------------------------------------- values -- */

enum sample_index {
    ABSENT_KEY,
    NONE,
    IS_FALSE,
    IS_TRUE,
    INT_0,
    BYTE_0,
    INT_1,
    INT_MINUS,
    INT_MAX63,
    INT_BIG,
    INT_MAX64,
    DOUBLE_0,
    DOUBLE_MINUS_0,
    DOUBLE_1,
    DOUBLE_NAN,
    DOUBLE_OTHER_NAN,
    DOUBLE_INF,
    DOUBLE_TINY,
    NO_TEXT,
    TEXT_0,
    TEXT_BAR,
    NO_BYTES,
    BYTES_NUL,
    BYTES_BAR,
    INTS_0,
    STRUCTURE_0,
    STRUCTURE,
    FIXED_ARRAY,
    NO_ARRAY,
    ARRAY,
    NO_STRUCTURES,
    NO_ARRAYS,
    ARRAY_OF_NONE,
    WITH_NO_ARRAY,
    TWO_NO_ARRAYS,
    LARGE,
    SAMPLES
};

typedef struct sample {
    const char *name;
    const char *format; /* with one or two addresses; NULL: made otherwise */
    const void *a, *b;
    bool falsy;
    int same; /* the first that it equals; 0: itself */
    zp_value *value;
} sample;

static int32_t zero, three[3] = {0, 0, 0};
static uint8_t byte_0;
static int64_t int_0, int_1 = 1, int_minus = -1, int_max63 = INT64_MAX;
static uint64_t int_big = (uint64_t)INT64_MAX + 1, int_max64 = UINT64_MAX;
static double double_0, double_minus_0 = -0.0, double_1 = 1,
                        double_tiny = 5e-324;
static double double_nan, double_other_nan, double_inf; /* set by main() */
static const char *no_text = "", *text_0 = "0", *text_bar = "bar";
static zp_bin no_bytes, bytes_nul = {(void *)(uintptr_t) "\0", 1},
                        bytes_bar = {(void *)(uintptr_t) "bar", 3};
static struct {
    int32_t number;
    const char *text;
} structure_0 = {0, ""}, structure = {5, "five"};

static sample samples[SAMPLES] = {
    [ABSENT_KEY] = {.name = "absent"},
    [NONE] = {.name = "none", .falsy = true},
    [IS_FALSE] = {.name = "false", .falsy = true},
    [IS_TRUE] = {.name = "true"},
    [INT_0] = {.name = "int 0", .format = "I", .a = &int_0, .falsy = true},
    [BYTE_0] = {.name = "byte 0",
                .format = "c",
                .a = &byte_0,
                .falsy = true,
                .same = INT_0},
    [INT_1] = {.name = "int 1", .format = "I", .a = &int_1},
    [INT_MINUS] = {.name = "int -1", .format = "I", .a = &int_minus},
    [INT_MAX63] = {.name = "INT64_MAX", .format = "I", .a = &int_max63},
    [INT_BIG] = {.name = "INT64_MAX + 1", .format = "U", .a = &int_big},
    [INT_MAX64] = {.name = "UINT64_MAX", .format = "U", .a = &int_max64},
    [DOUBLE_0] = {.name = "0.0", .format = "f", .a = &double_0, .falsy = true},
    [DOUBLE_MINUS_0] = {.name = "-0.0",
                        .format = "f",
                        .a = &double_minus_0,
                        .falsy = true,
                        .same = DOUBLE_0},
    [DOUBLE_1] = {.name = "1.0", .format = "f", .a = &double_1},
    [DOUBLE_NAN] = {.name = "NaN", .format = "f", .a = &double_nan},
    [DOUBLE_OTHER_NAN] = {.name = "-NaN",
                          .format = "f",
                          .a = &double_other_nan,
                          .same = DOUBLE_NAN},
    [DOUBLE_INF] = {.name = "inf", .format = "f", .a = &double_inf},
    [DOUBLE_TINY] = {.name = "5e-324", .format = "f", .a = &double_tiny},
    [NO_TEXT] = {.name = "\"\"", .format = "s", .a = &no_text, .falsy = true},
    [TEXT_0] = {.name = "\"0\"", .format = "s", .a = &text_0},
    [TEXT_BAR] = {.name = "\"bar\"", .format = "s", .a = &text_bar},
    [NO_BYTES] = {.name = "no bytes",
                  .format = "B",
                  .a = &no_bytes,
                  .falsy = true},
    [BYTES_NUL] = {.name = "a NUL byte", .format = "B", .a = &bytes_nul},
    [BYTES_BAR] = {.name = "bytes bar", .format = "B", .a = &bytes_bar},
    [INTS_0] = {.name = "two ints 0", .format = "ii", .a = &zero, .b = &zero},
    [STRUCTURE_0] = {.name = "a structure of nothing",
                     .format = "S(is)",
                     .a = &structure_0},
    [STRUCTURE] = {.name = "a structure", .format = "S(is)", .a = &structure},
    [FIXED_ARRAY] = {.name = "i#"},
    [NO_ARRAY] = {.name = "no A(i)", .falsy = true},
    [ARRAY] = {.name = "A(i)"},
    [NO_STRUCTURES] = {.name = "no A(S(is))", .falsy = true},
    [NO_ARRAYS] = {.name = "no A(A(i))", .falsy = true},
    [ARRAY_OF_NONE] = {.name = "an empty one in A(A(i))"},
    [WITH_NO_ARRAY] = {.name = "int and no A(i)"},
    [TWO_NO_ARRAYS] = {.name = "no A(i), no A(i)"},
    [LARGE] = {.name = "large"},
};

/* A tpl map of FORMAT, with such an index packed (0: none). */
static void
make_array(zp_value **ret, const char *format, int pack)
{
    int32_t first = 0, second = 0;
    zp_tpl *tpl;

    assert_ok(zp_tpl_new(&tpl, format, &first, &second));
    assert_ok(zp_tpl_pack(tpl, 0));
    if (pack)
        assert_ok(zp_tpl_pack(tpl, pack));
    assert_ok(zp_tpl_value(tpl, ret));
    zp_tpl_free(tpl);
}

#define LARGE_SIZE ((1 << 20) + 1000) /* too much to be kept */

static void
make_large(zp_value **ret, int fill, size_t size)
{
    char *text = malloc(size + 1);
    const char *address = text;

    assert_non_null(text);
    memset(text, fill, size);
    text[size] = '\0';
    assert_ok(zp_value_new(ret, "s", &address));
    free(text);
}

static void
make_others(void)
{
    struct {
        int32_t number;
        const char *text;
    } fields = {0, ""};
    zp_tpl *tpl;

    assert_ok(zp_value_new_none(&samples[NONE].value));
    assert_ok(zp_value_new_bool(&samples[IS_FALSE].value, 0));
    assert_ok(zp_value_new_bool(&samples[IS_TRUE].value, 1));
    assert_ok(zp_value_new(&samples[FIXED_ARRAY].value, "i#", three, 3));
    make_array(&samples[NO_ARRAY].value, "A(i)", 0);
    make_array(&samples[ARRAY].value, "A(i)", 1);
    assert_ok(zp_tpl_new(&tpl, "A(S(is))", &fields));
    assert_ok(zp_tpl_value(tpl, &samples[NO_STRUCTURES].value));
    zp_tpl_free(tpl);
    make_array(&samples[NO_ARRAYS].value, "A(A(i))", 0);
    make_array(&samples[ARRAY_OF_NONE].value, "A(A(i))", 1);
    make_array(&samples[WITH_NO_ARRAY].value, "iA(i)", 0);
    make_array(&samples[TWO_NO_ARRAYS].value, "A(i)A(i)", 0);
    make_large(&samples[LARGE].value, 'x', LARGE_SIZE);
}

static void
make_samples(void)
{
    for (int i = 0; i < SAMPLES; i++) {
        sample *s = &samples[i];

        if (!s->same)
            s->same = i;
        if (s->format)
            assert_ok(zp_value_new(&s->value, s->format, s->a, s->b));
    }
    make_others();
}

static void
free_samples(void)
{
    for (int i = 0; i < SAMPLES; i++)
        samples[i].value = zp_value_free(samples[i].value);
}

static void
put(zp_state *state, int i)
{
    if (i == ABSENT_KEY)
        assert_ok(put_absent(state));
    else
        assert_ok(zp_set_value(state, "k", samples[i].value));
}

/* ----------------------------------------------------------- conditions -- */

enum kind {
    EQUAL_FORMAT,
    EQUAL_VALUE,
    NOT_EQUAL_FORMAT,
    NOT_EQUAL_VALUE,
    IS_NONE,
    NOT_NONE,
    TRUTHY,
    FALSY,
    AVAILABLE,
    WHEN
};

typedef struct condition {
    enum kind kind;
    int i;         /* of equal and not equal: to which sample */
    int good, bad; /* a sample of which it holds, and one of which not */
} condition;

static condition conditions[4 * SAMPLES + 6];
static size_t n_conditions;

static bool
is_int(int i)
{
    return i >= INT_0 && i <= INT_MAX64;
}

/* Must it hold of that sample? */
static bool
holds(const condition *c, int i)
{
    if (c->kind == WHEN)
        return i == ABSENT_KEY || is_int(i);
    if (i == ABSENT_KEY)
        return false;
    switch (c->kind) {
    case EQUAL_FORMAT:
    case EQUAL_VALUE:
        return samples[i].same == samples[c->i].same;
    case NOT_EQUAL_FORMAT:
    case NOT_EQUAL_VALUE:
        return samples[i].same != samples[c->i].same;
    case IS_NONE:
        return i == NONE;
    case NOT_NONE:
        return i != NONE;
    case TRUTHY:
        return !samples[i].falsy;
    case FALSY:
        return samples[i].falsy;
    default:
        return true;
    }
}

static void
add_condition(enum kind kind, int i)
{
    condition *c = &conditions[n_conditions++];

    c->kind = kind;
    c->i = i;
    c->good = ABSENT_KEY;
    while (!holds(c, c->good))
        c->good++;
    c->bad = ABSENT_KEY;
    while (holds(c, c->bad))
        c->bad++;
}

static void
make_conditions(void)
{
    for (int i = NONE; i < SAMPLES; i++) {
        add_condition(EQUAL_VALUE, i);
        add_condition(NOT_EQUAL_VALUE, i);
        if (!samples[i].format)
            continue;
        add_condition(EQUAL_FORMAT, i);
        add_condition(NOT_EQUAL_FORMAT, i);
    }
    for (int kind = IS_NONE; kind <= WHEN; kind++)
        add_condition((enum kind)kind, 0);
}

/* Absent, or an int. */
static int
predicate(zp_state *snapshot, void *user)
{
    int rc = zp_type(snapshot, "k");

    (void)user;
    return rc == ZP_ENOKEY || rc == ZP_INT;
}

static int
call_when(zp_state *s, zp_watch **ret, const condition *c,
          const zp_watch_options *o, zp_watch_fn *fn, void *user)
{
    const sample *to = &samples[c->i];

    switch (c->kind) {
    case EQUAL_FORMAT:
        return zp_call_when_equal(s, ret, "k", o, fn, user, to->format, to->a,
                                  to->b);
    case EQUAL_VALUE:
        return zp_call_when_equal_value(s, ret, "k", to->value, o, fn, user);
    case NOT_EQUAL_FORMAT:
        return zp_call_when_not_equal(s, ret, "k", o, fn, user, to->format,
                                      to->a, to->b);
    case NOT_EQUAL_VALUE:
        return zp_call_when_not_equal_value(s, ret, "k", to->value, o, fn,
                                            user);
    case IS_NONE:
        return zp_call_when_none(s, ret, "k", o, fn, user);
    case NOT_NONE:
        return zp_call_when_not_none(s, ret, "k", o, fn, user);
    case TRUTHY:
        return zp_call_when_truthy(s, ret, "k", o, fn, user);
    case FALSY:
        return zp_call_when_falsy(s, ret, "k", o, fn, user);
    case AVAILABLE:
        return zp_call_when_available(s, ret, "k", o, fn, user);
    default:
        return zp_call_when(s, ret, ZP_KEYS("k"), o, predicate, fn, user);
    }
}

static int
get_when(zp_state *s, zp_state **ret, const condition *c, double timeout,
         const zp_watch_options *o)
{
    const sample *to = &samples[c->i];

    switch (c->kind) {
    case EQUAL_FORMAT:
        return zp_get_when_equal(s, ret, "k", timeout, o, to->format, to->a,
                                 to->b);
    case EQUAL_VALUE:
        return zp_get_when_equal_value(s, ret, "k", to->value, timeout, o);
    case NOT_EQUAL_FORMAT:
        return zp_get_when_not_equal(s, ret, "k", timeout, o, to->format, to->a,
                                     to->b);
    case NOT_EQUAL_VALUE:
        return zp_get_when_not_equal_value(s, ret, "k", to->value, timeout, o);
    case IS_NONE:
        return zp_get_when_none(s, ret, "k", timeout, o);
    case NOT_NONE:
        return zp_get_when_not_none(s, ret, "k", timeout, o);
    case TRUTHY:
        return zp_get_when_truthy(s, ret, "k", timeout, o);
    case FALSY:
        return zp_get_when_falsy(s, ret, "k", timeout, o);
    case AVAILABLE:
        return zp_get_when_available(s, ret, "k", timeout, o);
    default:
        return zp_get_when(s, ret, ZP_KEYS("k"), timeout, o, predicate, NULL);
    }
}

static const char *
text_of(const condition *c)
{
    static const char *const names[] = {
        "equal to",  "equal to value", "not equal to", "not equal to value",
        "none",      "not none",       "truthy",       "falsy",
        "available", "predicate"};
    static char text[100];

    snprintf(text, sizeof text, "%s %s", names[c->kind],
             c->kind <= NOT_EQUAL_VALUE ? samples[c->i].name : "");
    return text;
}

/* ------------------------------------------------------------ callbacks -- */

/* A condition under test: what came, and what has to come. */
typedef struct cell {
    const condition *c;
    zp_watch *watch;
    unsigned firsts, changes;
    unsigned want_firsts, want_changes;
    uint64_t last; /* revision */
} cell;

static size_t total; /* of events that came */
static size_t want;

static void
see(cell *at, const zp_event *event)
{
    uint64_t revision = zp_event_revision(event);

    total++;
    assert_int_equal(head_of(zp_event_snapshot(event)), revision);
    if (zp_event_kind(event) == ZP_FIRST) {
        assert_int_equal(at->firsts + at->changes, 0);
        assert_int_equal(zp_event_length(event), 0);
        assert_int_equal(zp_event_writer(event), 0);
        assert_null(zp_event_before(event));
        at->firsts++;
    } else {
        assert_int_equal(zp_event_kind(event), ZP_CHANGED);
        assert_int_equal(zp_event_length(event), 1);
        assert_true(revision > at->last);
        at->changes++;
    }
    at->last = revision;
}

static int
on_cell(zp_watch *watch, const zp_event *event, void *user)
{
    (void)watch;
    see(user, event);
    return 0;
}

static cell *
make_cells(zp_state *state, const zp_watch_options *options, zp_watch_fn *fn)
{
    cell *cells = calloc(n_conditions, sizeof *cells);

    assert_non_null(cells);
    total = want = 0;
    for (size_t i = 0; i < n_conditions; i++) {
        cells[i].c = &conditions[i];
        assert_ok(call_when(state, &cells[i].watch, cells[i].c, options, fn,
                            &cells[i]));
    }
    assert_int_equal(total, 0); /* never from inside */
    return cells;
}

static void
free_cells(cell *cells)
{
    for (size_t i = 0; i < n_conditions; i++)
        zp_watch_free(cells[i].watch);
    free(cells);
}

/* The state that the first look is at, and one to change to. */
static void
expect_first(cell *cells, int i)
{
    for (size_t k = 0; k < n_conditions; k++) {
        cells[k].want_firsts += holds(cells[k].c, i);
        want += holds(cells[k].c, i);
    }
}

static void
expect_change(cell *cells, int i)
{
    for (size_t k = 0; k < n_conditions; k++) {
        cells[k].want_changes += holds(cells[k].c, i);
        want += holds(cells[k].c, i);
    }
}

static void
check_cells(const cell *cells, const char *what)
{
    for (size_t k = 0; k < n_conditions; k++) {
        const cell *c = &cells[k];

        if (c->firsts != c->want_firsts || c->changes != c->want_changes)
            fail_msg("%s: when %s: %u first looks and %u changes, not %u and "
                     "%u",
                     what, text_of(c->c), c->firsts, c->changes, c->want_firsts,
                     c->want_changes);
    }
}

/* Run until all of it has come, and look whether more does. */
static void
settle_cells(fixture *f, const cell *cells, const char *what)
{
    for (int i = 0; i < 1000 && total < want; i++)
        settle(f);
    settle(f);
    check_cells(cells, what);
}

/* Goal: the first look, once and from the loop, at the state as it is. */
static void
test_first_look(void **state)
{
    fixture *f = *state;

    for (int i = ABSENT_KEY; i < SAMPLES; i++) {
        cell *cells;

        put(f->state, i);
        cells = make_cells(f->state, NULL, on_cell);
        expect_first(cells, i);
        settle_cells(f, cells, samples[i].name);
        free_cells(cells);
    }
}

/* Change "k" from one sample to the next, and look what comes. */
static void
walk(fixture *f, unsigned flags)
{
    zp_watch_options options = {.size = sizeof options, .flags = flags};
    cell *cells;
    int before = ABSENT_KEY;

    put(f->state, before);
    cells = make_cells(f->state, &options, on_cell);
    expect_first(cells, before);
    for (int i = NONE; i <= SAMPLES; i++) {
        int at = i % SAMPLES;

        put(f->state, at); /* its own writes count */
        if ((flags & ZP_SAME) || samples[before].same != samples[at].same)
            expect_change(cells, at);
        settle_cells(f, cells, samples[at].name);
        before = at;
    }
    free_cells(cells);
}

/* Goal: each change after which it holds; equal writes only when asked for. */
static void
test_changes(void **state)
{
    walk(*state, 0);
    walk(*state, ZP_SAME);
}

/* Set one sample after the other; the revisions that they were set at. */
static void
make_history(fixture *f, uint64_t *revisions)
{
    for (int i = NONE; i < SAMPLES; i++) {
        if (i == TEXT_BAR) /* to be told apart by its time */
            usleep(2000);
        put(f->other, i);
        revisions[i] = head_of(f->state);
    }
}

/* What comes to one that starts at sample I. */
static void
expect_from(cell *cells, int i)
{
    expect_first(cells, i);
    for (int k = i + 1; k < SAMPLES; k++)
        if (samples[k].same != samples[k - 1].same)
            expect_change(cells, k);
}

/* Goal: with a start in the past the first look is there. */
static void
test_since(void **state)
{
    fixture *f = *state;
    uint64_t revisions[SAMPLES];
    zp_watch_options options = {.size = sizeof options, .flags = ZP_SINCE};
    int step = zp_test_instrumented() ? 5 : 1;

    make_history(f, revisions);
    for (int i = NONE; i < SAMPLES; i += step) {
        cell *cells;

        options.since = revisions[i];
        cells = make_cells(f->state, &options, on_cell);
        expect_from(cells, i);
        settle_cells(f, cells, samples[i].name);
        free_cells(cells);
    }
}

/* When was it that REVISION was made? */
static double
time_of(fixture *f, uint64_t revision)
{
    zp_watch_options options = {
        .size = sizeof options, .flags = ZP_SINCE, .since = revision - 1};
    const zp_event *event;
    zp_watch *watch;
    double when;

    assert_ok(
        zp_call_when_change(f->state, &watch, NULL, 0, &options, NULL, NULL));
    assert_return(zp_watch_next(watch, &event, 5), 1);
    assert_int_equal(zp_event_revision(event), revision);
    when = zp_event_time(event);
    zp_watch_free(watch);
    return when;
}

/* Goal: a start at a time: the first look is at the state before it. */
static void
test_since_time(void **state)
{
    fixture *f = *state;
    uint64_t revisions[SAMPLES];
    zp_watch_options options = {.size = sizeof options, .flags = ZP_SINCE_TIME};
    cell *cells;

    make_history(f, revisions);
    options.since_time = (time_of(f, revisions[TEXT_BAR - 1]) +
                          time_of(f, revisions[TEXT_BAR])) /
                         2;
    cells = make_cells(f->state, &options, on_cell);
    expect_from(cells, TEXT_BAR - 1);
    settle_cells(f, cells, "since a time");
    free_cells(cells);
    options.since_time = time_of(f, revisions[SAMPLES - 1]) + 3600;
    cells = make_cells(f->state, &options, on_cell);
    expect_first(cells, SAMPLES - 1);
    settle_cells(f, cells, "since the future");
    free_cells(cells);
}

static int
note_value(recorder *r, zp_watch *watch, const zp_event *event)
{
    (void)watch;
    r->events[r->n - 1].value = int_at(zp_event_snapshot(event), "k");
    return 0;
}

/* Goal: from the oldest retained, of a log that has dropped much. */
static void
test_oldest(void **state)
{
    fixture *f = *state;
    recorder r = {.ctx = f->ctx, .then = note_value};
    zp_watch_options options = {.size = sizeof options, .flags = ZP_OLDEST};
    zp_stats stats = {.size = sizeof stats};
    uint64_t head;
    zp_watch *watch;

    for (int i = 1; i <= 200; i++)
        set(f->other, "k", i);
    head = head_of(f->state);
    assert_ok(zp_ctx_stats(f->ctx, &stats));
    assert_ok(zp_call_when_truthy(f->state, &watch, "k", &options, record, &r));
    run_until(&r, 20);
    while (r.events[r.n - 1].revision < head)
        run_until(&r, r.n + 1);
    /* one first look, and then each change that is retained */
    assert_int_equal(r.events[0].kind, ZP_FIRST);
    assert_in_range(r.events[0].revision, stats.oldest_revision - 1,
                    stats.oldest_revision);
    for (size_t i = 0; i < r.n; i++) {
        assert_int_equal(r.events[i].revision, r.events[0].revision + i);
        assert_int_equal(r.events[i].value,
                         (int64_t)(200 - (head - r.events[i].revision)));
        if (i)
            assert_int_equal(r.events[i].kind, ZP_CHANGED);
    }
    zp_watch_free(watch);
    forget(&r);
}

/* ------------------------------------------------------- other modes -- */

/* Goal: a wait for what holds, or not, as it is. */
static void
test_waits(void **state)
{
    fixture *f = *state;

    for (int i = ABSENT_KEY; i < SAMPLES; i++) {
        put(f->state, i);
        for (size_t k = 0; k < n_conditions; k++) {
            const condition *c = &conditions[k];
            zp_state *snapshot = NULL;
            int rc = get_when(f->state, &snapshot, c, 0, NULL);

            if (rc != (holds(c, i) ? 0 : -ETIMEDOUT))
                fail_msg("%s: wait for %s: %d", samples[i].name, text_of(c),
                         rc);
            if (rc == 0)
                assert_int_equal(head_of(snapshot), head_of(f->state));
            zp_state_free(snapshot);
        }
    }
}

struct writing {
    fixture *f;
    const condition *c;
    int i;
    uint64_t revision; /* at which it came true */
};

/* The sample, and then one of which it holds. */
static void
write_two(void *user)
{
    struct writing *w = user;

    put(w->f->state, w->i);
    w->revision = head_of(w->f->state);
    put(w->f->state, w->c->bad);
    put(w->f->state, w->c->good);
    if (!holds(w->c, w->i))
        w->revision = head_of(w->f->state);
}

/* Goal: a wait for what is not true yet returns at the revision that makes it
 * true, and not before. */
static void
test_waits_for_change(void **state)
{
    fixture *f = *state;
    int step = rounds(100) < 50 ? 7 : 1;

    for (int i = ABSENT_KEY; i < SAMPLES; i++) {
        for (size_t k = (size_t)(i % step); k < n_conditions;
             k += (size_t)step) {
            struct writing w = {.f = f, .c = &conditions[k], .i = i};
            zp_state *snapshot;
            later l;
            int rc;

            if (samples[i].same == LARGE || w.c->bad == LARGE ||
                w.c->good == LARGE)
                continue; /* replaced before it is looked at */
            put(f->state, w.c->bad);
            do_later(&l, f->ctx, 0, write_two, &w);
            rc = get_when(f->state, &snapshot, w.c, -1, NULL);
            if (rc != 0 || head_of(snapshot) != w.revision)
                fail_msg("%s: wait for %s: %d, at another revision",
                         samples[i].name, text_of(w.c), rc);
            zp_state_free(snapshot);
        }
    }
}

/* All that the iterator of CELL has. */
static void
fetch_all(cell *at)
{
    const zp_event *event;
    int rc;

    while ((rc = zp_watch_next(at->watch, &event, 0)) == 1)
        see(at, event);
    assert_return(rc, -ETIMEDOUT);
}

/* Goal: iterators see the same. */
static void
test_iterators(void **state)
{
    fixture *f = *state;
    cell *cells;
    int before = ABSENT_KEY;

    put(f->state, before);
    cells = make_cells(f->state, NULL, NULL);
    expect_first(cells, before);
    for (int i = NONE; i < SAMPLES; i++) {
        if (i % 3 == 0) /* some at once, some late */
            for (size_t k = 0; k < n_conditions; k++)
                fetch_all(&cells[k]);
        if (i % 3 == 0)
            check_cells(cells, samples[before].name);
        put(f->state, i);
        if (samples[before].same != samples[i].same)
            expect_change(cells, i);
        before = i;
    }
    for (size_t k = 0; k < n_conditions; k++)
        fetch_all(&cells[k]);
    check_cells(cells, "the last");
    free_cells(cells);
}

/* ----------------------------------------------------- what is not kept -- */

static int
large_setup(void **state)
{
    zp_ctx_options options = {.size = sizeof options,
                              .max_value = (uint64_t)4 << 20};

    return watching_setup_with(state, &options);
}

/* Goal: of a value that was replaced, and too large to be kept, it is known
 * that it was there, was not empty, and how large it was. */
static void
test_not_kept(void **state)
{
    fixture *f = *state;
    zp_watch_options options = {.size = sizeof options, .flags = ZP_SINCE};
    zp_value *same_size;
    int five = NONE;

    put(f->state, LARGE);
    options.since = head_of(f->state);
    put(f->state, five);
    make_large(&same_size, 'y', LARGE_SIZE);
    for (size_t k = 0; k < n_conditions; k++) {
        const condition *c = &conditions[k];
        /* none, and of course what is equal to it, comes behind it; the
         * predicate cannot read it */
        bool known = c->kind != WHEN && c->i != LARGE && c->kind != IS_NONE;
        zp_state *snapshot = NULL;
        int rc = get_when(f->state, &snapshot, c, 0, &options);

        if (known && holds(c, LARGE)) {
            if (rc != 0 || head_of(snapshot) != options.since)
                fail_msg("%s: not at once: %d", text_of(c), rc);
        } else if (known && holds(c, five)) {
            if (rc != 0 || head_of(snapshot) != options.since + 1)
                fail_msg("%s: %d, or at the wrong one", text_of(c), rc);
        } else if (known && rc != -ETIMEDOUT) {
            fail_msg("%s: %d", text_of(c), rc);
        }
        zp_state_free(snapshot);
    }
    /* of the same size: neither can be said */
    assert_return(
        zp_get_when_equal_value(f->state, NULL, "k", same_size, 0, &options),
        -ETIMEDOUT);
    options.since--;
    put(f->state, ABSENT_KEY);
    assert_return(zp_get_when_equal_value(f->state, NULL, "k",
                                          samples[LARGE].value, 0, &options),
                  -ETIMEDOUT);
    zp_value_free(same_size);
}

/* ------------------------------------------------------------ predicates -- */

struct looking {
    fixture *f;
    unsigned looks, events;
    uint64_t last; /* looked at */
    int rc;        /* what it says */
    void (*then)(struct looking *looking);
    zp_watch *watch;
};

static int
look(zp_state *snapshot, void *user)
{
    struct looking *l = user;
    uint64_t revision = head_of(snapshot);

    assert_return(zp_set_int(snapshot, "k", 1), -EROFS);
    assert_true(revision >= l->last);
    l->last = revision;
    l->looks++;
    if (l->then)
        l->then(l);
    return l->rc;
}

static int
on_look(zp_watch *watch, const zp_event *event, void *user)
{
    struct looking *l = user;

    (void)watch;
    assert_int_equal(zp_event_revision(event), l->last);
    l->events++;
    return 0;
}

/* Goal: the keys say what wakes a predicate; it looks at each revision that
 * changed one, once, and calls when it says 1 or more. */
static void
test_predicate_keys(void **state)
{
    fixture *f = *state;
    zp_watch_options except = {.size = sizeof except, .flags = ZP_EXCLUDE};
    struct looking some = {f, .rc = 1}, all = {f, .rc = 7}, but = {f, .rc = 1},
                   no = {f, .rc = 0};
    zp_watch *watches[4];

    assert_ok(zp_call_when(f->state, &watches[0], ZP_KEYS("b", "a", "b"), NULL,
                           look, on_look, &some));
    assert_ok(zp_call_when(f->state, &watches[1], NULL, 0, NULL, look, on_look,
                           &all));
    assert_ok(zp_call_when(f->state, &watches[2], ZP_KEYS("a", "~mark"),
                           &except, look, on_look, &but));
    assert_ok(zp_call_when(f->state, &watches[3], ZP_KEYS("a"), NULL, look,
                           on_look, &no));
    assert_int_equal(some.looks + all.looks + but.looks + no.looks, 0);
    while (!some.looks || !all.looks || !but.looks || !no.looks)
        run_for(f->ctx, 0.01); /* the first look of each ... */
    settle(f);                 /* ... and of all keys the mark */
    assert_int_equal(some.looks, 1);
    assert_int_equal(all.looks, 2);
    assert_int_equal(but.looks, 1);
    assert_int_equal(no.looks, 1);
    set(f->state, "a", 1);
    set(f->other, "b", 1);
    set(f->other, "b", 1); /* equal: no change */
    set(f->state, "c", 1);
    assert_ok(zp_clear(f->other)); /* all of them in one change, and the mark */
    settle(f);
    assert_int_equal(some.looks, 4);
    assert_int_equal(all.looks, 7);
    assert_int_equal(but.looks, 4);
    assert_int_equal(no.looks, 3);
    assert_int_equal(some.events, 4);
    assert_int_equal(all.events, 7);
    assert_int_equal(but.events, 4);
    assert_int_equal(no.events, 0);
    for (int i = 0; i < 4; i++)
        zp_watch_free(watches[i]);
    /* waits look at once, and only when woken */
    no.looks = 0;
    assert_return(zp_get_when(f->state, NULL, ZP_KEYS("a"), 0, NULL, look, &no),
                  -ETIMEDOUT);
    assert_int_equal(no.looks, 1);
}

/* Goal: a predicate's negative value ends the run, or the wait, which returns
 * it; the next one goes on. */
static void
test_predicate_fails(void **state)
{
    fixture *f = *state;
    struct looking l = {f, .rc = -ECHILD};
    const zp_event *event;
    zp_watch *watch;

    assert_ok(
        zp_call_when(f->state, &watch, ZP_KEYS("a"), NULL, look, on_look, &l));
    assert_return(zp_run(f->ctx), -ECHILD);
    assert_int_equal(l.looks, 1);
    set(f->other, "a", 1);
    assert_return(zp_run(f->ctx), -ECHILD);
    assert_int_equal(l.looks, 2);
    l.rc = 1;
    set(f->other, "a", 2);
    settle(f);
    assert_int_equal(l.looks, 3);
    assert_int_equal(l.events, 1);
    zp_watch_free(watch);

    l = (struct looking){f, .rc = -ECHILD};
    assert_return(zp_get_when(f->state, NULL, ZP_KEYS("a"), -1, NULL, look, &l),
                  -ECHILD);
    assert_int_equal(l.looks, 1);
    assert_ok(
        zp_call_when(f->state, &watch, ZP_KEYS("a"), NULL, look, NULL, &l));
    assert_return(zp_watch_next(watch, &event, -1), -ECHILD);
    assert_int_equal(l.looks, 2);
    l.rc = 1;
    set(f->other, "a", 3);
    assert_return(zp_watch_next(watch, &event, -1), 1);
    assert_int_equal(zp_event_kind(event), ZP_CHANGED);
    zp_watch_free(watch);
}

/* Goal: a condition of one key has no use for ZP_EXCLUDE. */
static void
test_exclude(void **state)
{
    fixture *f = *state;
    zp_watch_options except = {.size = sizeof except, .flags = ZP_EXCLUDE};
    struct looking l = {f, .rc = 1};
    zp_watch *watch;

    for (size_t k = 0; k < n_conditions; k++)
        if (conditions[k].kind != WHEN) {
            assert_return(call_when(f->state, &watch, &conditions[k], &except,
                                    on_cell, NULL),
                          -EINVAL);
            assert_return(get_when(f->state, NULL, &conditions[k], 0, &except),
                          -EINVAL);
        }
    assert_ok(zp_get_when(f->state, NULL, ZP_KEYS("a"), 0, &except, look, &l));
}

#define T(test) ZP_TEST_WITH(test, large_setup, watching_teardown)
#define SHORT(test) ZP_TEST_WITH(test, watching_setup_short, watching_teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_first_look),       T(test_changes),         T(test_since),
        T(test_since_time),       SHORT(test_oldest),      T(test_waits),
        T(test_waits_for_change), T(test_iterators),       T(test_not_kept),
        T(test_predicate_keys),   T(test_predicate_fails), T(test_exclude),
    };
    int rc;

    double_nan = NAN;
    double_other_nan = -NAN;
    double_inf = INFINITY;
    make_samples();
    make_conditions();
    rc = zp_test_main("conditions", tests, sizeof tests / sizeof *tests, 30);
    free_samples();
    return rc;
}
