/*
 * model_call.c - from what is wanted to the function that does it: one for each
 * kind, to be called and to be waited for.
 */
#include "tests/api/model_watch.h"

#include <string.h>

void
model_make_request(model_request *r, model_watch *x)
{
    const model_spec *s = x->spec;

    memset(r, 0, sizeof *r);
    r->state = x->worker->handles[s->handle];
    for (int i = 0; i < KEYS; i++)
        if (s->keys & 1u << i)
            r->keys[r->n_keys++] = model_keys[i];
    r->options.size = sizeof r->options;
    r->options.flags = s->flags;
    r->options.count = s->count;
    r->options.timeout = s->timeout;
    r->options.since = x->since;
    r->options.since_time = (double)x->since_ns * 1e-9;
}

/* -------------------------------------------------------- to be called -- */

static int
call_equal(const model_request *r, model_watch *x)
{
    int code = x->spec->code;
    int64_t number = code - INT(0);

    if (x->spec->kind == EQUAL) {
        if (code >= INT(0))
            return zp_call_when_equal(r->state, r->ret, r->keys[0], &r->options,
                                      r->fn, x, "I", &number);
        return zp_call_when_equal_value(r->state, r->ret, r->keys[0],
                                        model_value(code), &r->options, r->fn,
                                        x);
    }
    if (code >= INT(0))
        return zp_call_when_not_equal(r->state, r->ret, r->keys[0], &r->options,
                                      r->fn, x, "I", &number);
    return zp_call_when_not_equal_value(
        r->state, r->ret, r->keys[0], model_value(code), &r->options, r->fn, x);
}

int
model_call_when(const model_request *r, model_watch *x)
{
    const zp_watch_options *options = &r->options;

    switch (x->spec->kind) {
    case CHANGE:
        return zp_call_when_change(r->state, r->ret, r->keys, r->n_keys,
                                   options, r->fn, x);
    case WHEN:
        return zp_call_when(r->state, r->ret, r->keys, r->n_keys, options,
                            model_on_look, r->fn, x);
    case IS_NONE:
        return zp_call_when_none(r->state, r->ret, r->keys[0], options, r->fn,
                                 x);
    case NOT_NONE:
        return zp_call_when_not_none(r->state, r->ret, r->keys[0], options,
                                     r->fn, x);
    case TRUTHY:
        return zp_call_when_truthy(r->state, r->ret, r->keys[0], options, r->fn,
                                   x);
    case FALSY:
        return zp_call_when_falsy(r->state, r->ret, r->keys[0], options, r->fn,
                                  x);
    case AVAILABLE:
        return zp_call_when_available(r->state, r->ret, r->keys[0], options,
                                      r->fn, x);
    default:
        return call_equal(r, x);
    }
}

/* ------------------------------------------------------- to be waited for --
 */

static int
get_equal(const model_request *r, const model_watch *x)
{
    int code = x->spec->code;
    int64_t number = code - INT(0);

    if (x->spec->kind == EQUAL) {
        if (code >= INT(0))
            return zp_get_when_equal(r->state, r->ret_snapshot, r->keys[0],
                                     r->wait, &r->options, "I", &number);
        return zp_get_when_equal_value(r->state, r->ret_snapshot, r->keys[0],
                                       model_value(code), r->wait, &r->options);
    }
    if (code >= INT(0))
        return zp_get_when_not_equal(r->state, r->ret_snapshot, r->keys[0],
                                     r->wait, &r->options, "I", &number);
    return zp_get_when_not_equal_value(r->state, r->ret_snapshot, r->keys[0],
                                       model_value(code), r->wait, &r->options);
}

int
model_get_when(const model_request *r, model_watch *x)
{
    const zp_watch_options *options = &r->options;

    switch (x->spec->kind) {
    case CHANGE:
        return zp_get_when_change(r->state, r->ret_snapshot, r->keys, r->n_keys,
                                  r->wait, options);
    case WHEN:
        return zp_get_when(r->state, r->ret_snapshot, r->keys, r->n_keys,
                           r->wait, options, model_on_look, x);
    case IS_NONE:
        return zp_get_when_none(r->state, r->ret_snapshot, r->keys[0], r->wait,
                                options);
    case NOT_NONE:
        return zp_get_when_not_none(r->state, r->ret_snapshot, r->keys[0],
                                    r->wait, options);
    case TRUTHY:
        return zp_get_when_truthy(r->state, r->ret_snapshot, r->keys[0],
                                  r->wait, options);
    case FALSY:
        return zp_get_when_falsy(r->state, r->ret_snapshot, r->keys[0], r->wait,
                                 options);
    case AVAILABLE:
        return zp_get_when_available(r->state, r->ret_snapshot, r->keys[0],
                                     r->wait, options);
    default:
        return get_equal(r, x);
    }
}
