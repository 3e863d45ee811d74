#!/usr/bin/env python3
"""light.5: what always-on CPU sampling at 100 Hz costs with all CPUs busy, beside `perf record -F 100 -g -a`.

Rounds of the daemon and of perf follow each other, so that a slow minute of the machine meets both. Cost = run time of
the BPF programs (kernel.bpf_stats_enabled, switched on here and put back) + CPU time of the daemon and its children,
as per cent of the machine. Memory is that of the daemon and its children; the maps' is what their descriptors say.
Prints `name value unit (perf value, ratio) [min..max]`, the median of the rounds. Nothing here passes or fails.
    bench_cpu.py [--rounds 3] [--seconds 20] [--rate 100]"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
from tests.lib import harness  # noqa: E402
from tests.lib.harness import Daemon, Workload, wait_for  # noqa: E402

STATS = "/proc/sys/kernel/bpf_stats_enabled"
TICKS = os.sysconf("SC_CLK_TCK")
MIX = ["w_c", "w_cpp", "w_rust", "w_go"]


def cpu_seconds(pids):
    """Of processes that are alive, with what their ended children left them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), \
                open(f"/proc/{pid}/schedstat", encoding="utf-8") as file:
            # schedstat is in ns but of the main thread alone; the other threads have theirs.
            total += int(file.read().split()[0])
            for task in os.listdir(f"/proc/{pid}/task"):
                if task != str(pid):
                    with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as one:
                        total += int(one.read().split()[0])
    return total / 1e9


def reaped_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / TICKS


def fdinfo(pid, key):
    """Sum over the distinct BPF objects of a process: programs' run_time_ns, maps' memlock."""
    seen = {}
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="utf-8") as file:
                fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
        except FileNotFoundError:
            continue
        # A link's descriptor names its program too, and has no figures.
        if key in fields and "link_id" not in fields:
            ident = ("map", fields["map_id"].strip()) if "map_id" in fields else ("prog", fields.get("prog_id", "").strip())
            seen[ident] = int(fields[key])
    return sum(seen.values())


def memory(pids, key):
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), \
                open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            total += int(re.search(rf"^{key}:\s+(\d+)", file.read(), re.M).group(1)) * 1024
    return total


def wait_seconds(seconds):
    deadline = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= deadline, seconds + 10, "the measured time")


def baroscope(seconds, rate):
    with Daemon(f"cpu: {{rate_hz: {rate}}}\n", build=os.path.join(ROOT, "build"), check=False) as daemon:
        pid = daemon.process.pid
        wait_seconds(5)  # the first stacks and names are a cost of the start, not of always-on
        family = [pid, *harness.children(pid)]
        before = cpu_seconds(family) + reaped_seconds(pid), fdinfo(pid, "run_time_ns"), daemon.status()["profilers"][0]
        started = time.monotonic()
        wait_seconds(seconds)
        took = time.monotonic() - started
        user, bpf = cpu_seconds(family) + reaped_seconds(pid) - before[0], fdinfo(pid, "run_time_ns") - before[1]
        after = daemon.status()["profilers"][0]
        machine = took * os.cpu_count() / 100
        samples = after["samples"] - before[2]["samples"]
        return {"cost": (bpf / 1e9 + user) / machine, "bpf": bpf / 1e9 / machine, "daemon": user / machine,
                "bpf_us_a_sample": bpf / 1e3 / max(1, samples), "samples": samples / took,
                "lost": 100 * (sum(after["drops"].values()) - sum(before[2]["drops"].values()))
                        / max(1, after["ticks"] - before[2]["ticks"]),
                "rss": memory(family, "Rss") / 2**20, "pss": memory(family, "Pss") / 2**20,
                "maps": fdinfo(pid, "memlock") / 2**20}


def perf(seconds, rate):
    """perf with what it writes: its CPU time, its memory, its bytes a second. Its time in the interrupt is not accounted to
    it by anything, so only the user side is compared."""
    directory = tempfile.mkdtemp(prefix="baroscope-bench-")
    path = os.path.join(directory, "data")
    process = subprocess.Popen(["perf", "record", "-q", "-F", str(rate), "-g", "-a", "-e", "cpu-clock", "-o", path],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    began = time.monotonic()
    try:
        wait_for(lambda: os.path.exists(path) or process.poll() is not None, 20, "perf's file")
        wait_seconds(2)
        before, started = cpu_seconds([process.pid]), time.monotonic()
        wait_seconds(seconds)
        took = time.monotonic() - started
        machine = took * os.cpu_count() / 100
        figures = {"daemon": (cpu_seconds([process.pid]) - before) / machine,
                   "rss": memory([process.pid], "Rss") / 2**20, "pss": memory([process.pid], "Pss") / 2**20}
        # It writes when its buffers are full and at the end, so only the whole file tells the rate.
        sampled = time.monotonic() - began
        process.send_signal(signal.SIGINT)
        process.wait(60)
        return {**figures, "bytes": os.path.getsize(path) / sampled}
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=100)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the bench needs root")

    have_perf = shutil.which("perf") is not None
    with open(STATS, encoding="utf-8") as file:
        stats = file.read().strip()
    ours, theirs = [], []
    with contextlib.ExitStack() as stack:
        def put_back():
            with open(STATS, "w", encoding="utf-8") as out:
                out.write(stats)
        stack.callback(put_back)
        with open(STATS, "w", encoding="utf-8") as out:
            out.write("1")
        for number in range(max(len(MIX), 2 * os.cpu_count())):
            stack.enter_context(Workload([harness.workload(MIX[number % len(MIX)])]))
        for number in range(options.rounds):
            ours.append(baroscope(options.seconds, options.rate))
            if have_perf:
                theirs.append(perf(options.seconds, options.rate))
            print(f"# round {number + 1}: cost {ours[-1]['cost']:.3f} %", flush=True)

    lines = []

    def line(name, key, unit, digits=2):
        values = [one[key] for one in ours]
        text = f"{name} {statistics.median(values):.{digits}f} {unit}"
        if theirs and key in theirs[0]:
            peer = statistics.median(one[key] for one in theirs)
            text += f" (perf {peer:.{digits}f}, ratio {statistics.median(values) / peer if peer else float('inf'):.2f})"
        lines.append(f"{text} [{min(values):.{digits}f}..{max(values):.{digits}f}]")

    line("accounted_cost", "cost", "% of the machine", 3)
    line("bpf_run_time", "bpf", "% of the machine", 3)
    line("daemon_cpu", "daemon", "% of the machine", 3)
    line("bpf_a_sample", "bpf_us_a_sample", "us")
    line("samples", "samples", "/s")
    line("lost", "lost", "% of the ticks", 3)
    line("rss", "rss", "MiB")
    line("pss", "pss", "MiB")
    line("map_memory", "maps", "MiB")
    if theirs:
        lines.append(f"perf_data {statistics.median(one['bytes'] for one in theirs):.0f} bytes/s (to disk; baroscope keeps "
                     "windows in memory)")
    lines.append(f"# {options.rounds} rounds of {options.seconds:.0f} s at {options.rate} Hz on {os.cpu_count()} CPUs, all busy; "
                 "goal: accounted_cost <= 0.3 %, rss + map_memory <= 40 MiB")
    print("\n".join(lines))
    harness.figure("light.5", "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
