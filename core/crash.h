/*
 * crash.h - what a child that crashes leaves behind: the signal, where it came
 * from, and the frames on its stack.
 *
 * The handlers run in a broken process: they take no lock and no memory, note
 * plain addresses in a page that the parent shares, give the signal its default
 * back and let it come again, so that the core and the exit status are those
 * of the crash. The parent, which has the same mappings, makes words of it.
 */
#ifndef ZP_CORE_CRASH_H
#define ZP_CORE_CRASH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define ZP__FRAMES 48

typedef struct zp__crash {
    _Atomic int32_t signal; /* 0: it did not crash */
    int32_t si_code;
    uint64_t address;            /* of a fault */
    int32_t n;                   /* frames that have been written */
    uint64_t frames[ZP__FRAMES]; /* innermost first */
} zp__crash;

/* Before a fork: load what the handlers need, once per process. */
void zp__crash_prepare(void);

/* In a child: handle SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP and
 * SIGSYS where the default is in place, on a stack of their own; notes go to
 * WHERE. Handlers that the child's function installs take their place. */
void zp__crash_install(zp__crash *where);

/* "SIGSEGV at address 0x10" (also for signals that are no crash: "SIGKILL"),
 * into BUFFER. */
const char *zp__crash_what(const zp__crash *crash, int signal, char *buffer,
                           size_t size);

/* The frames in words, each a line with its newline: "#0  name+0x1f
 * (libfoo.so+0x1234)" is the instruction that it was at, in the others the last
 * byte of the call: the offsets are ready for addr2line. From malloc(); NULL:
 * there are none, or no memory. */
char *zp__crash_text(const zp__crash *crash);

#endif
