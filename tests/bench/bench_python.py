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
WORKERS = 2
ITEMS = 300000 if QUICK else 1000000
SINGLE_ITEMS = 5000 if QUICK else 20000
SPIN = 1000000
SPINS = 300 if QUICK else 600
LARGE = b"\1" * (1 << 20)
LARGE_ITEMS = 100 if QUICK else 300
AT_ONCE = 64
PROCESSES = 100 if QUICK else 300

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


pool = None


def pool_start():
    global pool
    pool = fork.Pool(WORKERS)
    pool.map(square, range(WORKERS), chunksize=1)


def square(n):
    return n * n


def spin(n):
    until = time.thread_time_ns() + SPIN
    while time.thread_time_ns() < until:
        pass
    return n * n


def look_at(data):
    return len(data) - data[-1]


def make_large(_):
    return LARGE


def rate(run, function, items, chunk):
    """Run all ITEMS by pool.map or pool.imap: items per second."""
    then = time.monotonic()
    count = sum(1 for _ in run(function, items, chunksize=chunk))
    took = time.monotonic() - then
    if count != len(items):
        raise RuntimeError("results are missing")
    return count / took


def best_rate(function, items, chunk):
    return "rate=%.9g" % max(
        rate(run, function, items, chunk) for run in (pool.map, pool.imap)
    )


best = None


def chunks_start():
    """Find the way and the chunk that have the fastest of four tries: other
    work only slows them."""
    global best
    pool_start()
    ways = [
        (run, chunk)
        for run in (pool.map, pool.imap)
        for chunk in (1000, 5000, 20000, ITEMS // 16, ITEMS // 8, ITEMS // 2)
    ]
    rates = {way: [] for way in ways}
    for _ in range(2 if QUICK else 4):
        for run, chunk in ways:
            rates[run, chunk].append(rate(run, square, range(ITEMS), chunk))
    best = max(ways, key=lambda way: max(rates[way]))


def chunks_round():
    run, chunk = best
    return "rate=%.9g chunk=%d imap=%d" % (
        rate(run, square, range(ITEMS), chunk),
        chunk,
        run == pool.imap,
    )


def singly_round():
    return best_rate(square, range(SINGLE_ITEMS), 1)


def spin_round():
    return best_rate(spin, range(SPINS), 1)


def large_round():
    return best_rate(look_at, [LARGE] * LARGE_ITEMS, 1)


def results_round():
    return best_rate(make_large, range(LARGE_ITEMS), 1)


def run_one(results, n):
    results.put((n, square(n)))


def process_round():
    """A process for each item. (A Pool with maxtasksperchild=1 forks beside
    its threads, and hangs now and then.)"""
    then = time.monotonic()
    results = fork.SimpleQueue()
    children = {}
    begun = 0
    for _ in range(PROCESSES):
        while begun < PROCESSES and len(children) < AT_ONCE:
            children[begun] = fork.Process(target=run_one, args=(results, begun))
            children[begun].start()
            begun += 1
        n, _ = results.get()
        children.pop(n).join()
    return "rate=%.9g" % (PROCESSES / (time.monotonic() - then))


def stop():
    if pool is not None:
        pool.terminate()
    for child in idlers:
        child.kill()
    for child in idlers:
        child.join()


MEASURES = {
    "spawn": (spawn_start, spawn_round),
    "spawn-100": (hundred_start, hundred_round),
    "child-pss": (idlers_start, idlers_round),
    "map": (chunks_start, chunks_round),
    "map-singly": (pool_start, singly_round),
    "map-spin": (pool_start, spin_round),
    "map-large": (pool_start, large_round),
    "map-results": (pool_start, results_round),
    "map-process": (lambda: None, process_round),
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
