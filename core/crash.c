/*
 * crash.c - a child that crashes: where it was.
 *
 *     fault -> handler, on its own stack: notes in the page the signal, the
 *              address, the frames; gives the signal its default back, sends it
 *              again, and returns
 *           -> the kernel ends the process at the very instruction
 *
 * The signal is sent again to its thread: being blocked while the handler runs,
 * it waits until the thread is back where it was. A core shows that place, with
 * its registers, and no handler. (Most faults would come again by themselves,
 * with the siginfo of the first; but one that does not, since another thread
 * has mapped the page, or valgrind gave back other registers, would leave a
 * process that lives on after its crash was noted.)
 *
 * The unwinder may crash in its turn, on a stack that was overwritten, or wait
 * for a lock that is never given back. A second fault of the same thread finds
 * the handler busy and ends the process at once by the first signal; so does
 * the alarm when TOO_LONG has passed. The signal and the innermost frame, which
 * need no unwinder, are noted before. Other threads that crash meanwhile wait
 * for the end. Only the process that has installed the handlers notes: one that
 * it has forked by itself has the same page, but not its story.
 *
 * An alternate stack belongs to one thread, the one that runs the child's
 * function; others have the handlers run on their own stacks, and when that is
 * used up the kernel ends them without a note.
 *
 * The parent finds the names. It has the mappings of the fork; what the child
 * has loaded since is a plain address there.
 */
#include "core/crash.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <link.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

#define STACK 65536 /* beside what the kernel puts there: vector registers */
#define GUARD 4096
#define OURS 12 /* frames of the handler itself, of a sanitizer's around it */
#define TOO_LONG 3 /* seconds; the alarm() of a process that is dying */

static const int crashes[] = {SIGSEGV, SIGBUS,  SIGFPE, SIGILL,
                              SIGABRT, SIGTRAP, SIGSYS};
#define CRASHES (sizeof crashes / sizeof *crashes)

static struct {
    zp__crash *where;
    pid_t pid;
    _Atomic int thread; /* that is in the handler; 0: none */
    _Atomic int signal; /* the first one */
    void *stack;        /* of this process, or inherited from its parent */
    size_t stack_size;
    _Atomic bool prepared;
} at;

/* ---------------------------------------------------------- the handlers -- */

static int
this_thread(void)
{
    return (int)syscall(SYS_gettid);
}

static void
let_default(int number)
{
    struct sigaction standard;

    memset(&standard, 0, sizeof standard);
    standard.sa_handler = SIG_DFL;
    sigaction(number, &standard, NULL);
}

static void
unblock(int number)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* The unwinder failed us: end here, by the signal of the crash. */
_Noreturn static void
end_now(void)
{
    int number = atomic_load(&at.signal);

    let_default(number);
    unblock(number);
    syscall(SYS_tgkill, getpid(), this_thread(), number);
    _exit(128 + number); /* init of a pid namespace survives it */
}

static void
on_alarm(int number)
{
    (void)number;
    end_now();
}

/* Not later than TOO_LONG from now this ends, or by a second fault: whatever
 * blocks signals around us. */
static void
beware(int number)
{
    struct sigaction action;
    size_t i;

    for (i = 0; i < CRASHES; i++)
        if (crashes[i] != number)
            unblock(crashes[i]);
    memset(&action, 0, sizeof action);
    action.sa_handler = SIG_IGN; /* forgets one that waits to be unblocked */
    sigaction(SIGALRM, &action, NULL);
    action.sa_handler = on_alarm;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGALRM, &action, NULL);
    unblock(SIGALRM);
    alarm(TOO_LONG);
}

/* The instruction that it was at; false: not known on this processor. */
static bool
place_of(const ucontext_t *context, uint64_t *ret)
{
#if defined(__x86_64__)
    *ret = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
    return true;
#elif defined(__aarch64__)
    *ret = context->uc_mcontext.pc;
    return true;
#else
    (void)context;
    *ret = 0;
    return false;
#endif
}

/* Just after a call: where it came from; 0: not known. */
static uint64_t
caller_of(const ucontext_t *context)
{
#if defined(__x86_64__)
    uint64_t caller = 0;
    struct iovec to = {&caller, sizeof caller};
    struct iovec from = {(void *)context->uc_mcontext.gregs[REG_RSP],
                         sizeof caller};

    if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != sizeof caller)
        return 0;
    return caller;
#elif defined(__aarch64__)
    return context->uc_mcontext.regs[30];
#else
    (void)context;
    return 0;
#endif
}

/* A fault tells an address; a signal that was sent does not, and neither does
 * what the processor refuses without a page (x86: SI_KERNEL). */
static bool
tells_address(int number, int si_code)
{
    return si_code > 0 && si_code != SI_KERNEL &&
           (number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
            number == SIGILL || number == SIGTRAP);
}

/* The innermost frame, which takes no unwinder; and the next one, when it was
 * a jump to nowhere, which no unwinder gets behind. */
static void
note_place(zp__crash *crash, const ucontext_t *context)
{
    crash->n = place_of(context, &crash->frames[0]) ? 1 : 0;
    if (crash->n && tells_address(crash->signal, crash->si_code) &&
        (crash->signal == SIGSEGV || crash->signal == SIGBUS) &&
        crash->address == crash->frames[0]) {
        crash->frames[1] = caller_of(context);
        crash->n += crash->frames[1] != 0;
    }
}

/* All frames, without those of the handler. */
static void
note_frames(zp__crash *crash)
{
    void *found[ZP__FRAMES + OURS];
    int i, first = 0, n = backtrace(found, ZP__FRAMES + OURS);

    while (crash->n && first < n &&
           (uint64_t)(uintptr_t)found[first] != crash->frames[0])
        first++;
    if (n - first <= crash->n)
        return;
    for (i = 0; i < ZP__FRAMES && first + i < n; i++)
        crash->frames[i] = (uint64_t)(uintptr_t)found[first + i];
    crash->n = i;
}

static void
note(int number, const siginfo_t *info, const ucontext_t *context)
{
    zp__crash *crash = at.where;

    crash->si_code = info->si_code;
    if (tells_address(number, info->si_code))
        crash->address = (uint64_t)(uintptr_t)info->si_addr;
    atomic_store(&crash->signal, number);
    note_place(crash, context);
    note_frames(crash);
}

static void
on_crash(int number, siginfo_t *info, void *context)
{
    int nobody = 0, thread = this_thread();

    if (getpid() != at.pid) {
        let_default(number);
        syscall(SYS_tgkill, getpid(), thread, number);
        return;
    }
    if (!atomic_compare_exchange_strong(&at.thread, &nobody, thread)) {
        if (nobody == thread)
            end_now();
        for (;;)
            pause();
    }
    atomic_store(&at.signal, number);
    beware(number);
    note(number, info, context);
    alarm(0);
    let_default(number);
    syscall(SYS_tgkill, getpid(), thread, number);
}

/* --------------------------------------------------------- the child's life --
 */

void
zp__crash_prepare(void)
{
    void *frames[4];

    if (atomic_load(&at.prepared))
        return;
    backtrace(frames, 4); /* loads libgcc, finds its tables */
    atomic_store(&at.prepared, true);
}

/* A stack with a page below it that nobody may touch. A nested child has that
 * of its parent already. */
static bool
make_stack(void)
{
    unsigned long frame = getauxval(AT_MINSIGSTKSZ);
    size_t size = STACK + ((frame ? frame : GUARD) + GUARD - 1) / GUARD * GUARD;
    void *stack;

    if (at.stack)
        return true;
    stack = mmap(NULL, GUARD + size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED)
        return false;
    mprotect(stack, GUARD, PROT_NONE);
    at.stack = (char *)stack + GUARD;
    at.stack_size = size;
    return true;
}

void
zp__crash_install(zp__crash *where)
{
    struct sigaction action, before;
    stack_t stack;
    size_t i;

    at.where = where;
    at.pid = getpid();
    atomic_store(&at.thread, 0);
    if (make_stack()) {
        memset(&stack, 0, sizeof stack);
        stack.ss_sp = at.stack;
        stack.ss_size = at.stack_size;
        sigaltstack(&stack, NULL);
    }
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_crash;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (i = 0; i < CRASHES; i++)
        if (sigaction(crashes[i], NULL, &before) == 0 &&
            before.sa_handler == SIG_DFL)
            sigaction(crashes[i], &action, NULL);
}

/* ---------------------------------------------------------------- in words --
 */

static void
signal_name(int number, char *buffer, size_t size)
{
    const char *name = NULL;

#if __GLIBC_PREREQ(2, 32)
    name = sigabbrev_np(number);
#endif
    if (name)
        snprintf(buffer, size, "SIG%s", name);
    else if (number >= SIGRTMIN && number <= SIGRTMAX)
        snprintf(buffer, size, "SIGRTMIN+%d", number - SIGRTMIN);
    else
        snprintf(buffer, size, "signal %d", number);
}

const char *
zp__crash_what(const zp__crash *crash, int signal, char *buffer, size_t size)
{
    char name[32];

    signal_name(signal, name, sizeof name);
    if (crash && atomic_load(&crash->signal) == signal &&
        (signal == SIGSEGV || signal == SIGBUS) &&
        tells_address(signal, crash->si_code))
        snprintf(buffer, size, "%s at address 0x%llx", name,
                 (unsigned long long)crash->address);
    else
        snprintf(buffer, size, "%s", name);
    return buffer;
}

static const char *
last_part(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* Frame I at ADDRESS. All but the innermost are where calls return to, which
 * may be another line, or another function: the byte before belongs to the
 * call. The address is only looked up: it is another process's. */
static void
print_frame(FILE *out, int i, uint64_t address)
{
    uint64_t call = i && address ? address - 1 : address;
    struct link_map *object = NULL;
    Dl_info found;

    fprintf(out, "#%-2d ", i);
    if (!dladdr1((void *)(uintptr_t)call, &found, (void **)&object,
                 RTLD_DL_LINKMAP) ||
        !found.dli_fname || !object) {
        fprintf(out, "0x%llx\n", (unsigned long long)address);
        return;
    }
    if (found.dli_sname)
        fprintf(out, "%s+0x%llx ", found.dli_sname,
                (unsigned long long)(call - (uintptr_t)found.dli_saddr));
    fprintf(out, "(%s+0x%llx)\n", last_part(found.dli_fname),
            (unsigned long long)(call - object->l_addr));
}

char *
zp__crash_text(const zp__crash *crash)
{
    int i, n = crash->n < ZP__FRAMES ? crash->n : ZP__FRAMES;
    char *text = NULL;
    size_t size;
    FILE *out;

    if (!atomic_load(&crash->signal) || n <= 0)
        return NULL;
    out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    for (i = 0; i < n; i++)
        print_frame(out, i, crash->frames[i]);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}
