/*
 * nested_procs.c - processes in processes: a sum is divided until it is small.
 *
 * Each process splits its numbers into two halves, spawns a process for each,
 * and hands up what the two have found: three levels of processes below
 * main(). At the end the records of all of them, which are kept in the state,
 * are printed as a tree, with who was whose child, and with what each found.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <zp.h>

enum { LEVELS = 3, PROCESSES = 7 };

/* How errors are handled here: whoever meets one gives it to its caller. */
#define TRY(call)                                                              \
    do {                                                                       \
        int rc_ = (call);                                                      \
        if (rc_ < 0)                                                           \
            return rc_;                                                        \
    } while (0)

/* [sum] */
/* The numbers from first to last, to be added up on so many levels. */
struct range {
    int64_t first, last;
    int levels;
};

static int add_up(zp_ctx *ctx, void *arg);

/* Start a process for RANGE, which is named after it. */
static int
spawn_one(zp_ctx *ctx, zp_proc **ret_proc, struct range range)
{
    char name[48];
    zp_spawn_options options = {
        .size = sizeof(options),
        .name = name,
        .arg_size = sizeof(range), /* a copy: RANGE ends with this call */
    };

    snprintf(name, sizeof(name), "%" PRId64 "-%" PRId64, range.first,
             range.last);
    return zp_spawn(ctx, ret_proc, &options, add_up, &range);
}

/* Have both halves of RANGE added up, at the same time. */
static int
add_halves(zp_ctx *ctx, const struct range *range, int64_t *ret_sum)
{
    int64_t middle = (range->first + range->last) / 2, left, right;
    zp_proc *lower, *upper;

    TRY(spawn_one(ctx, &lower,
                  (struct range){range->first, middle, range->levels - 1}));
    TRY(spawn_one(ctx, &upper,
                  (struct range){middle + 1, range->last, range->levels - 1}));
    TRY(zp_wait(lower, NULL, -1));
    TRY(zp_wait(upper, NULL, -1));
    TRY(zp_proc_get(lower, "I", &left));
    TRY(zp_proc_get(upper, "I", &right));
    *ret_sum = left + right;
    return 0;
}

/* What each of the processes does. */
static int
add_up(zp_ctx *ctx, void *arg)
{
    const struct range *range = arg;
    int64_t sum = 0;

    if (range->levels > 1)
        TRY(add_halves(ctx, range, &sum));
    else
        for (int64_t i = range->first; i <= range->last; i++)
            sum += i;
    return zp_return(ctx, "I", &sum);
}
/* [/sum] */

/* [tree] */
struct node {
    uint64_t id, parent_id;
    unsigned depth;
    char name[48];
    int64_t sum;
};

struct tree {
    zp_ctx *ctx;
    struct node nodes[PROCESSES];
    size_t n;
};

/* Called for each process of the state. It is lent: what we need of it has to
 * be copied. */
static int
collect(const zp_process *process, void *user)
{
    struct tree *tree = user;
    struct node *node = &tree->nodes[tree->n];

    if (tree->n == PROCESSES)
        return -E2BIG;
    node->id = process->id;
    node->parent_id = process->parent_id;
    node->depth = process->depth;
    snprintf(node->name, sizeof(node->name), "%s", process->name);
    TRY(zp_process_get(tree->ctx, process->id, "I", &node->sum));
    tree->n++;
    return 0;
}

/* Those whose parent is PARENT_ID (0: main()), and what is below them. */
static void
print_below(const struct tree *tree, uint64_t parent_id)
{
    for (size_t i = 0; i < tree->n; i++) {
        const struct node *node = &tree->nodes[i];

        if (node->parent_id != parent_id)
            continue;
        printf("%*s%s: %" PRId64 "\n", 2 * (int)(node->depth - 1), "",
               node->name, node->sum);
        print_below(tree, node->id);
    }
}
/* [/tree] */

static int
divide_and_add(zp_ctx *ctx)
{
    struct tree tree = {.ctx = ctx};
    zp_proc *all;
    int64_t sum;

    TRY(spawn_one(ctx, &all, (struct range){1, 100, LEVELS}));
    TRY(zp_wait(all, NULL, -1));
    TRY(zp_proc_get(all, "I", &sum));
    printf("the sum is %" PRId64 "\n", sum);
    TRY(zp_each_process(ctx, collect, &tree));
    print_below(&tree, 0);
    return 0;
}

int
main(void)
{
    zp_ctx *ctx = NULL;
    int rc = zp_ctx_new(&ctx, NULL);

    if (rc >= 0)
        rc = divide_and_add(ctx);
    if (rc < 0)
        fprintf(stderr, "nested_procs: %s\n", zp_ctx_error(ctx));
    zp_ctx_free(ctx);
    return rc < 0;
}
