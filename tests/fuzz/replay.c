/*
 * replay.c - the main() of a fuzz target where there is no fuzzer: runs the
 * target on each file of its corpus, and reports in the TAP form. A crash is a
 * missing line.
 *
 * The corpus of tests/fuzz/fuzz_x.c is the directory tests/fuzz/corpus/x, and
 * tests/fuzz/corpus/x.list names its files, one per line. Both have to agree:
 * a file that got lost (on the way into a tarball, say) would be a test that
 * silently is none; a file that nobody listed would not get into the next.
 *
 *     fuzz_x [DIRECTORY [LIST]]
 */
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES 1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct names {
    char *name[FILES];
    int n;
};

static void
add_name(struct names *names, const char *name)
{
    char *copy = strdup(name);
    if (!copy || names->n == FILES) {
        printf("Bail out! more than %d files, or no memory\n", FILES);
        exit(1);
    }
    names->name[names->n++] = copy;
}

static int
by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool
has_name(const struct names *names, const char *name)
{
    return bsearch(&name, names->name, (size_t)names->n, sizeof(char *),
                   by_name) != NULL;
}

static void
sort(struct names *names)
{
    qsort(names->name, (size_t)names->n, sizeof(char *), by_name);
}

static void
free_names(struct names *names)
{
    while (names->n > 0)
        free(names->name[--names->n]);
}

/* False: there is no such directory. */
static bool
read_directory(struct names *ret, const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return false;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            add_name(ret, entry->d_name);
    closedir(dir);
    sort(ret);
    return true;
}

static bool
read_list(struct names *ret, const char *path)
{
    char line[300];
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] && line[0] != '#')
            add_name(ret, line);
    }
    fclose(file);
    sort(ret);
    return true;
}

static uint8_t *
read_file(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return NULL;
    size_t size = 0, room = 1 << 16, n;
    uint8_t *all = malloc(room);
    while (all && (n = fread(all + size, 1, room - size, file)) > 0) {
        size += n;
        if (size < room)
            continue;
        uint8_t *more = realloc(all, room *= 2);
        if (!more)
            free(all);
        all = more;
    }
    bool whole = all && !ferror(file);
    fclose(file);
    *ret_size = size;
    if (!whole) {
        free(all);
        return NULL;
    }
    return all;
}

/* The target gets a block of exactly the file's size, so that a sanitizer or
 * valgrind sees a read behind its end. */
static bool
replay(const char *dir, const char *name)
{
    char path[4096];
    size_t size;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    uint8_t *all = read_file(path, &size);
    uint8_t *exact = all ? malloc(size ? size : 1) : NULL;
    bool done = exact != NULL;
    if (done) {
        memcpy(exact, all, size);
        done = LLVMFuzzerTestOneInput(exact, size) == 0;
    }
    free(all);
    free(exact);
    return done;
}

static void
run(const char *dir, const struct names *files, const struct names *list)
{
    int line = 0;
    for (int i = 0; i < list->n; i++) {
        bool there = has_name(files, list->name[i]);
        bool good = there && replay(dir, list->name[i]);
        printf("%sok %d - %s%s\n", good ? "" : "not ", ++line, list->name[i],
               there ? "" : ": the file is missing");
    }
    for (int i = 0; i < files->n; i++)
        if (!has_name(list, files->name[i]))
            printf("not ok %d - %s: it is not in the list\n", ++line,
                   files->name[i]);
    printf("1..%d\n", line);
}

int
main(int argc, char **argv)
{
    char dir[2048], path[2100];
    const char *top = getenv("top_srcdir");
    const char *name = strrchr(argv[0], '/');
    struct names files = {.n = 0}, list = {.n = 0};

    name = strstr(name ? name : argv[0], "fuzz_");
    snprintf(dir, sizeof(dir), "%s/tests/fuzz/corpus/%s", top ? top : ".",
             name ? name + strlen("fuzz_") : "");
    if (argc > 1)
        snprintf(dir, sizeof(dir), "%s", argv[1]);
    snprintf(path, sizeof(path), "%s.list", dir);
    if (argc > 2)
        snprintf(path, sizeof(path), "%s", argv[2]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    alarm(300);
    if (!read_directory(&files, dir) || !read_list(&list, path) ||
        list.n == 0) {
        printf("Bail out! no corpus in %s, or none listed in %s\n", dir, path);
        return 1;
    }
    run(dir, &files, &list);
    free_names(&files);
    free_names(&list);
    return 0;
}
