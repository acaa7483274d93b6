/*
 * replay.c - the main() of a fuzz target where there is no fuzzer: runs the
 * target on each file of its corpus, and reports in the TAP form. A crash is a
 * missing line.
 *
 * The corpus of tests/fuzz/fuzz_x.c is the directory tests/fuzz/corpus/x.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int
visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* The target gets a block of exactly the file's size, so that a sanitizer or
 * valgrind sees a read behind its end. */
static int
replay(const char *path)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return -1;
    size_t size = 0, room = 1 << 16;
    uint8_t *all = malloc(room), *exact = NULL;
    for (size_t n; all && (n = fread(all + size, 1, room - size, file)) > 0;) {
        size += n;
        if (size == room)
            all = realloc(all, room *= 2);
    }
    fclose(file);
    if (all && (exact = malloc(size ? size : 1))) {
        memcpy(exact, all, size);
        LLVMFuzzerTestOneInput(exact, size);
    }
    free(all);
    free(exact);
    return exact ? 0 : -1;
}

int
main(int argc, char **argv)
{
    char dir[2048], path[4096];
    const char *top = getenv("top_srcdir");
    const char *name = strrchr(argv[0], '/');
    struct dirent **files;

    name = strstr(name ? name : argv[0], "fuzz_");
    if (argc > 1)
        snprintf(dir, sizeof(dir), "%s", argv[1]);
    else
        snprintf(dir, sizeof(dir), "%s/tests/fuzz/corpus/%s", top ? top : ".",
                 name ? name + 5 : "");
    int n = scandir(dir, &files, visible, alphasort);
    if (n <= 0) {
        printf("Bail out! no corpus in %s\n", dir);
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("1..%d\n", n);
    alarm(60);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]->d_name);
        printf("%sok %d - %s\n", replay(path) ? "not " : "", i + 1,
               files[i]->d_name);
        free(files[i]);
    }
    free(files);
    return 0;
}
