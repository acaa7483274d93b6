/*
 * model_case.c - seed -> case. What happens at which moment is up to the
 * scheduler; what is tried is not.
 */
#include "tests/api/model.h"

#include <string.h>

/* splitmix64 */
uint64_t
model_random(uint64_t *rng)
{
    uint64_t x = *rng += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

int
model_below(uint64_t *rng, int n)
{
    return (int)(model_random(rng) % (uint64_t)n);
}

bool
model_chance(uint64_t *rng, int percent)
{
    return model_below(rng, 100) < percent;
}

double
model_wait_time(uint64_t *rng)
{
    return model_chance(rng, 40) ? 0 : 1e-6 * model_below(rng, 2000);
}

/* Of all values, some ints more often. */
static int
any_value(uint64_t *rng)
{
    return model_chance(rng, 40) ? INT(model_below(rng, 3))
                                 : model_below(rng, FIXED);
}

static int
pooled(const model_case *c, uint64_t *rng)
{
    return c->pool[model_below(rng, c->n_pool)];
}

/* --------------------------------------------------------- transactions -- */

static void
make_op(model_op *op, const model_case *c, uint64_t *rng, bool plain)
{
    int dice = model_below(rng, 100);

    op->space = model_below(rng, SPACES);
    op->key = model_below(rng, c->n_keys);
    op->code = pooled(c, rng);
    op->mask = (unsigned)model_below(rng, 1 << c->n_keys);
    if (dice < 55)
        op->kind = OP_SET;
    else if (dice < 70)
        op->kind = OP_DELETE;
    else if (dice < 80)
        op->kind = OP_INCREASE;
    else if (dice < 84)
        op->kind = OP_POP;
    else if (dice < 88)
        op->kind = OP_DEFAULT;
    else if (dice < 94)
        op->kind = OP_UPDATE;
    else if (dice < 97)
        op->kind = OP_CLEAR;
    else
        op->kind = plain ? OP_REPLACE : OP_SET;
}

void
model_txn_make(model_txn *t, const model_case *c, uint64_t *rng)
{
    memset(t, 0, sizeof *t);
    t->handle = model_below(rng, HANDLES);
    t->atomic = model_chance(rng, 50);
    t->n = t->atomic ? model_below(rng, OPS) + 1 : 1;
    for (int i = 0; i < t->n; i++)
        make_op(&t->ops[i], c, rng, !t->atomic);
    if (!t->atomic) { /* through its handle: there is no other */
        t->ops[0].space = model_space(t->handle);
        return;
    }
    t->back = model_chance(rng, 10);
    t->nested = t->nested_end = t->n;
    if (model_chance(rng, 25)) {
        t->nested = model_below(rng, t->n);
        t->nested_end = t->nested + 1 + model_below(rng, t->n - t->nested);
        t->nested_back = model_chance(rng, 60);
    }
    if (t->n > 1 && model_chance(rng, 30)) { /* set, and delete again */
        model_op *op = &t->ops[t->n - 2];

        op[1] = op[0];
        op[0].kind = OP_SET;
        op[1].kind = model_chance(rng, 50) ? OP_DELETE : OP_SET;
    }
}

/* -------------------------------------------------------------- watches -- */

static void
make_start(model_spec *s, const model_case *c, uint64_t *rng)
{
    int dice = model_below(rng, 100);

    s->age = model_below(rng, c->is_short ? 100 : 20);
    if (dice < 15)
        s->flags |= ZP_SINCE;
    else if (dice < 22)
        s->flags |= ZP_OLDEST;
    else if (dice < 30)
        s->flags |= ZP_SINCE_TIME;
}

static void
make_keys(model_spec *s, const model_case *c, uint64_t *rng)
{
    bool any = s->kind == CHANGE || s->kind == WHEN;

    if (!any) {
        s->keys = 1u << model_below(rng, c->n_keys);
        return;
    }
    if (model_chance(rng, 30))
        return;
    s->keys = (unsigned)model_below(rng, (1 << c->n_keys) - 1) + 1;
    if (model_chance(rng, 30))
        s->flags |= ZP_EXCLUDE;
}

static void
make_spec(model_spec *s, const model_case *c, uint64_t *rng)
{
    static const enum mode modes[] = {CALLBACK, CALLBACK, CALLBACK, ITERATOR,
                                      ITERATOR, WAIT,     WAIT,     FRESH_WAIT};

    memset(s, 0, sizeof *s);
    s->mode = modes[model_below(rng, 8)];
    s->kind = model_chance(rng, 40)
                  ? CHANGE
                  : (enum kind)(1 + model_below(rng, KINDS - 1));
    s->handle = model_below(rng, HANDLES);
    make_keys(s, c, rng);
    s->code = pooled(c, rng);
    s->predicate = model_below(rng, PREDICATES);
    if (model_chance(rng, 33))
        s->flags |= ZP_LIVE;
    if (model_chance(rng, 30))
        s->flags |= ZP_OWN;
    if (model_chance(rng, 30))
        s->flags |= ZP_SAME;
    if (s->mode != FRESH_WAIT)
        make_start(s, c, rng);
    if (s->mode != CALLBACK && model_chance(rng, 25))
        s->flags |= ZP_HOLD;
    if (s->mode >= WAIT) { /* a live one skips: what counts is not known */
        if (!(s->flags & ZP_LIVE) && model_chance(rng, 30))
            s->count = 1 + (unsigned)model_below(rng, 3);
    } else {
        if (model_chance(rng, 25))
            s->count = 1 + (unsigned)model_below(rng, 8);
        if (model_chance(rng, 8))
            s->timeout = 1e-6 * (1 + model_below(rng, 3000));
    }
    s->exact = model_chance(rng, 50);
    s->attended = s->mode != CALLBACK || model_chance(rng, 70);
    s->writes = model_chance(rng, 40) ? model_below(rng, 8) : 0;
    s->mood = model_chance(rng, 60) ? (unsigned)model_below(rng, 60) : 0;
}

/* -------------------------------------------------------------- scripts -- */

static void
make_action(model_action *a, const model_case *c, int worker, uint64_t *rng)
{
    int dice = model_below(rng, 100);
    int n = c->n_specs[worker];

    a->which = n ? model_below(rng, n) : 0;
    a->size = 2 + model_below(rng, c->is_short ? 50 : 6);
    if (dice < 40 || n == 0)
        a->kind = DO_WRITE;
    else if (dice < 48)
        a->kind = DO_BURST;
    else if (dice < 62)
        a->kind = DO_REGISTER;
    else if (dice < 76)
        a->kind = DO_STEP;
    else if (dice < 96)
        a->kind = c->specs[worker][a->which].mode >= WAIT ? DO_WAIT : DO_FETCH;
    else if (dice < 98)
        a->kind = DO_GO_LIVE;
    else
        a->kind = DO_CANCEL;
}

static void
make_script(model_case *c, int worker, uint64_t *rng)
{
    c->n_specs[worker] = model_below(rng, WATCHES + 1);
    for (int i = 0; i < c->n_specs[worker]; i++)
        make_spec(&c->specs[worker][i], c, rng);
    c->n_actions[worker] = 4 + model_below(rng, c->is_short ? 20 : ACTIONS - 3);
    for (int i = 0; i < c->n_actions[worker]; i++)
        make_action(&c->actions[worker][i], c, worker, rng);
    if (c->kills && worker == 1)
        c->actions[1][model_below(rng, c->n_actions[1])].kind = DO_KILL;
}

void
model_case_make(model_case *c, uint64_t seed, unsigned number)
{
    uint64_t rng = seed;

    memset(c, 0, sizeof *c);
    c->seed = seed;
    c->number = number;
    c->is_short = model_chance(&rng, 20);
    c->kills = model_chance(&rng, 2);
    c->n_keys = 2 + model_below(&rng, KEYS - 1);
    c->n_pool = 2 + model_below(&rng, 5);
    for (int i = 0; i < c->n_pool; i++)
        c->pool[i] = any_value(&rng);
    for (int i = 0; i < SPACES; i++)
        snprintf(c->space[i], sizeof c->space[i], "case%u%s", number,
                 i ? "x" : ""); /* one is the beginning of the other */
    for (int i = 0; i < WORKERS; i++)
        make_script(c, i, &rng);
}
