"""The contestant multiprocessing with its fork server. Arguments and output: ../bench.h.

  python3 forkserver.py spawn|first INFLIGHT HEAP_MIB

Each process is a Process with a one-way Pipe; it has ended with the end of the pipe and with
join(). With HEAP_MIB the server preloads a module that makes a list of as much memory.
"""
import multiprocessing as mp
import os
import sys
import time
from multiprocessing.connection import wait


def nothing(pipe):
    pass


def first(pipe):
    os.write(pipe.fileno(), b"x")


def start(context, function):
    near, far = context.Pipe(duplex=False)
    begin = time.perf_counter()
    process = context.Process(target=function, args=(far,))
    process.start()
    far.close()
    return near, process, begin


def make(context, function, n, inflight):
    samples, running = [], {}
    started = ended = 0
    while ended < n:
        while len(running) < inflight and started < n:
            near, process, begin = start(context, function)
            running[near] = (process, begin)
            started += 1
        for near in wait(list(running)):
            process, begin = running[near]
            if os.read(near.fileno(), 64):
                samples.append(1e6 * (time.perf_counter() - begin))
                continue
            near.close()
            process.join()
            process.close()
            del running[near]
            ended += 1
    return samples


def main(mode, inflight=1, heap_mib=0, *rest):
    context = mp.get_context("forkserver")
    if int(heap_mib):
        os.environ["BENCH_HEAP_MIB"] = heap_mib
        context.set_forkserver_preload(["forkserver_heap"])
    for line in sys.stdin:
        begin = time.perf_counter()
        samples = make(context, first if mode == "first" else nothing, int(line), int(inflight))
        total = 1e6 * (time.perf_counter() - begin)
        print(*("%.1f" % us for us in [total] + samples), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
