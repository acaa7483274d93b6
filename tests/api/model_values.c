/*
 * model_values.c - values as small numbers: what the model computes with, and
 * how they go into a state and out of it again.
 */
#include "tests/api/model.h"

#include <stdlib.h>
#include <string.h>

#define LARGE_SIZE 3000

/* "a" is the beginning of "ab": topics match by their beginnings. */
const char *const model_keys[KEYS] = {"a", "ab", "abc", "b", "ba", "c"};

static zp_value *values[FIXED];
static zp_value *an_int;

static int
make_array(zp_value **ret, const char *format, int fields, int n)
{
    int32_t element = 7, first = 3;
    char *text = NULL;
    zp_tpl *tpl;
    int rc = fields == 1 ? zp_tpl_new(&tpl, format, &element)
                         : zp_tpl_new(&tpl, format, &first, &text);

    if (rc < 0)
        return rc;
    rc = zp_tpl_pack(tpl, 0);
    for (int i = 0; i < n && rc == 0; i++, element++)
        rc = zp_tpl_pack(tpl, 1);
    if (rc == 0)
        rc = zp_tpl_value(tpl, ret);
    zp_tpl_free(tpl);
    return rc;
}

static int
make_structure(zp_value **ret)
{
    struct {
        int32_t number;
        const char *text;
    } fields = {5, "five"};

    return zp_value_new(ret, "S(is)", &fields);
}

static int
make_large(zp_value **ret)
{
    char text[LARGE_SIZE + 1];

    memset(text, 'x', LARGE_SIZE);
    text[LARGE_SIZE] = '\0';
    return zp_value_new(ret, ZP_S(text));
}

int
model_values_init(void)
{
    zp_bin none = {NULL, 0};
    zp_bin some = {(void *)(uintptr_t) "\0x", 2};
    int rcs[] = {
        zp_value_new_none(&values[NONE]),
        zp_value_new_bool(&values[FALSE], 0),
        zp_value_new_bool(&values[TRUE], 1),
        zp_value_new(&values[ZERO], ZP_F(0)),
        zp_value_new(&values[HALF], ZP_F(0.5)),
        zp_value_new(&values[NO_TEXT], ZP_S("")),
        zp_value_new(&values[TEXT], ZP_S("bar")),
        zp_value_new(&values[NO_BYTES], "B", &none),
        zp_value_new(&values[BYTES], "B", &some),
        make_array(&values[NO_ARRAY], "A(i)", 1, 0),
        make_array(&values[ARRAY], "A(i)", 1, 2),
        make_array(&values[HAS_NO_ARRAY], "iA(s)", 2, 0),
        make_structure(&values[STRUCTURE]),
        make_large(&values[LARGE]),
    };

    for (size_t i = 0; i < sizeof rcs / sizeof *rcs; i++)
        if (rcs[i] < 0)
            return rcs[i];
    return 0;
}

void
model_values_free(void)
{
    for (int i = 0; i < FIXED; i++)
        values[i] = zp_value_free(values[i]);
    an_int = zp_value_free(an_int);
}

const zp_value *
model_value(int code)
{
    if (code < FIXED)
        return values[code];
    zp_value_free(an_int);
    an_int = NULL;
    if (zp_value_new(&an_int, ZP_I(code - INT(0))) < 0)
        abort();
    return an_int;
}

/* By as many of the ways to set as there are. */
int
model_set(zp_state *state, int key, int code)
{
    const char *name = model_keys[key];

    if (code >= INT(0))
        return zp_set_int(state, name, code - INT(0));
    switch (code) {
    case NONE:
        return zp_set_none(state, name);
    case FALSE:
    case TRUE:
        return zp_set_bool(state, name, code == TRUE);
    case ZERO:
        return zp_set_double(state, name, -0.0);
    case HALF:
        return zp_set(state, name, ZP_F(0.5));
    case NO_TEXT:
        return zp_set_string(state, name, "");
    case TEXT:
        return zp_set(state, name, ZP_S("bar"));
    case NO_BYTES:
        return zp_set_bytes(state, name, NULL, 0);
    default:
        return zp_set_value(state, name, values[code]);
    }
}

int
model_code(const zp_value *value)
{
    int64_t number;

    if (!value)
        return ABSENT;
    if (zp_value_type(value) == ZP_INT)
        return zp_value_get(value, "I", &number) == 0 ? (int)INT(number)
                                                      : ERROR;
    for (int i = 0; i < FIXED; i++)
        if (zp_value_equal(value, values[i]))
            return i;
    return ERROR;
}

int
model_get(zp_state *state, int key)
{
    zp_value *value;
    int rc = zp_get_value(state, model_keys[key], &value);
    int code;

    if (rc == ZP_ENOKEY)
        return ABSENT;
    if (rc < 0)
        return ERROR;
    code = model_code(value);
    zp_value_free(value);
    return code;
}

void
model_get_all(model_codes ret, zp_state *state, int n_keys)
{
    for (int i = 0; i < KEYS; i++)
        ret[i] = i < n_keys ? (short)model_get(state, i) : ABSENT;
}

bool
model_truthy(int code)
{
    switch (code) {
    case ABSENT:
    case NONE:
    case FALSE:
    case ZERO:
    case NO_TEXT:
    case NO_BYTES:
    case NO_ARRAY:
    case INT(0):
        return false;
    default:
        return true;
    }
}

bool
model_predicate(int which, const model_codes codes, int n_keys)
{
    int there = 0, sum = 0;

    for (int i = 0; i < n_keys; i++) {
        there += codes[i] != ABSENT;
        sum += codes[i];
    }
    switch (which) {
    case 0:
        return there == 0; /* only absent keys: no other condition sees that */
    case 1:
        return there % 2 == 1;
    case 2:
        return sum % 3 == 0;
    case 3:
        return codes[0] == codes[1];
    default:
        return true;
    }
}

const char *
model_text(int code)
{
    static const char *const names[] = {
        "none",   "false",  "true", "0.0",    "0.5",   "''",          "'bar'",
        "bytes0", "bytes2", "A()",  "A(7,8)", "3+A()", "S(5,'five')", "large"};
    static char buffers[16][16];
    static unsigned next;
    char *buffer;

    if (code == ABSENT)
        return "-";
    if (code == ERROR)
        return "unreadable";
    if (code < FIXED)
        return names[code];
    buffer = buffers[next++ % 16];
    snprintf(buffer, sizeof buffers[0], "%d", code - INT(0));
    return buffer;
}
