/*
 * pid.h - a process's identity that survives the reuse of its pid: pid and
 * start time (in clock ticks since boot, /proc/PID/stat field 22).
 */
#ifndef ZP_CORE_PID_H
#define ZP_CORE_PID_H

#include <stdbool.h>
#include <stdint.h>

typedef struct zp__pid {
    int32_t pid;
    int32_t unused;
    uint64_t start;
} zp__pid;

/* This process (`start` is 0 if it cannot be told: no /proc, no descriptor);
 * the process PID (0, -ESRCH, or -errno if that cannot be told). */
zp__pid zp__pid_self(void);
int zp__pid_of(int pid, zp__pid *ret);

/* Does that very process still run? A zombie does not; a start of 0 is nobody.
 * True also when it cannot be told (no descriptor left, but the pid is used).
 */
bool zp__pid_alive(const zp__pid *id);

/* The letter that /proc tells: R S D T t Z ..., or 0: no such process. */
char zp__pid_state(int pid);

/* A pidfd (O_CLOEXEC) of who has the number PID now: -ESRCH, -EINVAL (a
 * thread), -ENOSYS (there are none here), or -errno. */
int zp__pidfd(int pid);

/* A pidfd (O_CLOEXEC) of that very process: -ESRCH when it has ended, -ENOSYS
 * where there are none (valgrind), or -errno. */
int zp__pid_open(const zp__pid *id);

/* Send SIGNAL to that very process: 0, -ESRCH, -EPERM. Never hits another. */
int zp__pid_kill(const zp__pid *id, int signal);

/* A hash of the boot id, and the inode of this pid namespace: identities are
 * good only where both are equal. */
uint64_t zp__boot_hash(void);
uint64_t zp__pid_ns(void);

#endif
