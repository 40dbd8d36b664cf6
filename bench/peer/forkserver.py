"""The contestant multiprocessing with its fork server. Arguments and output: ../bench.h.

  python3 forkserver.py life COUNT INFLIGHT HEAP_MIB

Each life is a Process with a one-way Pipe; it ends with the end of the pipe and with join().
With HEAP_MIB the server preloads a module that makes a list of as much memory.
"""
import multiprocessing as mp
import os
import sys
import time
from multiprocessing.connection import wait


def octet(pipe):
    os.write(pipe.fileno(), b"x")


def start(context):
    near, far = context.Pipe(duplex=False)
    begin = time.perf_counter()
    process = context.Process(target=octet, args=(far,))
    process.start()
    far.close()
    return near, process, begin


def life(count, inflight, heap_mib):
    context = mp.get_context("forkserver")
    if heap_mib:
        os.environ["BENCH_HEAP_MIB"] = str(heap_mib)
        context.set_forkserver_preload(["forkserver_heap"])
    warmup = max(count // 5, 20)
    everything = warmup + count
    samples, open_lives = [], {}
    started = ended = 0
    t0 = None
    while ended < everything:
        while len(open_lives) < inflight and started < everything:
            near, process, begin = start(context)
            open_lives[near] = (process, begin)
            started += 1
        for near in wait(list(open_lives)):
            process, begin = open_lives[near]
            if os.read(near.fileno(), 64):
                open_lives[near] = (process, begin)
                if ended >= warmup:
                    samples.append(1e6 * (time.perf_counter() - begin))
                continue
            near.close()
            process.join()
            process.close()
            del open_lives[near]
            ended += 1
            if ended == warmup:
                t0 = time.perf_counter()
    total = time.perf_counter() - t0
    for us in samples:
        print("%.1f" % us)
    print("total %.6f" % total)


if __name__ == "__main__":
    life(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
