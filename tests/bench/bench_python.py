# bench_python.py - the peer of our processes: multiprocessing, as it is used
# from Python on one machine; children are forked, as ours are. It talks with
# the driver as side.h tells.
import multiprocessing
import os
import signal
import statistics
import sys
import time

CHILDREN = 100  # these as in side.h
IDLERS = 16
QUICK = "BENCH_QUICK" in os.environ
SPAWNS = 20 if QUICK else 50
WARM = 10

fork = multiprocessing.get_context("fork")


def nothing():
    pass


def sleep():
    while True:
        signal.pause()


def run(count):
    """Start COUNT processes, wait for all of them: in seconds."""
    then = time.monotonic()
    children = [fork.Process(target=nothing) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    took = time.monotonic() - then
    if any(child.exitcode != 0 for child in children):
        raise RuntimeError("a child has failed")
    return took


def spawn_start():
    for _ in range(WARM):
        run(1)


def spawn_round():
    return "us=%.9g" % (1e6 * statistics.median(run(1) for _ in range(SPAWNS)))


def hundred_start():
    run(CHILDREN)


def hundred_round():
    return "ms=%.9g" % (1e3 * run(CHILDREN))


idlers = []


def idlers_start():
    for _ in range(IDLERS):
        idlers.append(fork.Process(target=sleep, daemon=True))
        idlers[-1].start()
    time.sleep(0.2)  # until they are where they sleep


def pss(pid):
    """Its proportional share of memory: in KiB."""
    with open("/proc/%d/smaps_rollup" % pid, encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss:"):
                return float(line.split()[1])
    raise RuntimeError("no Pss")


def idlers_round():
    return "kib=%.9g" % statistics.mean(pss(child.pid) for child in idlers)


def stop():
    for child in idlers:
        child.kill()
    for child in idlers:
        child.join()


MEASURES = {
    "spawn": (spawn_start, spawn_round),
    "spawn-100": (hundred_start, hundred_round),
    "child-pss": (idlers_start, idlers_round),
}


def say(text):
    print(" ".join(text.split()), flush=True)


def main():
    if sys.argv[1] not in MEASURES:
        say("skip not measured by this side")
        return
    start, measure = MEASURES[sys.argv[1]]
    try:
        start()
        say("ready")
        while sys.stdin.readline():
            say("ok " + measure())
    except Exception as error:  # whatever it is: it is told
        say("fail %r" % error)
    finally:
        stop()


main()
