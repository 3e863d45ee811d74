#!/usr/bin/env python3
"""stacks.4: what unwind tables cost, from the file to the kernel.

First build/tests/bench/bench_tables: CPU time, peak memory and size of compiling the large files of the machine, beside
OpenTelemetry's profiler (its CPU time for the same files on this kind of machine, not in this run). Then the running
daemon: from the start of a program whose work is in libLLVM to the moment when libLLVM's table is loaded, and to the
last stack for which a table was missing; with an empty cache, from the cache after a restart of the daemon, and with an
empty cache on a machine whose CPUs are all busy. The files' pages are in memory each time; the daemon is asked every
10 ms, and its answers count when they are there. Prints `name value unit (peer value, ratio) [min..max]`, the median
of the rounds. Nothing here passes or fails.
    bench_tables.py [--rounds 5]"""

import argparse
import glob
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
from tests.bench import measure  # noqa: E402
from tests.bench.measure import Control, Figures, wait_seconds  # noqa: E402
from tests.lib import harness, mix  # noqa: E402
from tests.lib.harness import Daemon, wait_for  # noqa: E402

COMPILER = os.path.join(ROOT, "build/tests/bench/bench_tables")
LINE = re.compile(r"stacks\.4 (\S+): ([\d.]+) ms, peak ([\d.]+) MB, (\d+) rows, (\d+) stored, (\d+) infos, "
                  r"([\d.]+) bytes a row, ([\d.]+) a stored row")
# CPU ms of OpenTelemetry's profiler for one file, by the beginning of its name.
OPENTELEMETRY = {"libc.so": 4, "python3": 14, "node": 75, "libjvm": 43, "libLLVM": 123, "librustc_driver": 146}
# Its peak in MB over that of the empty program.
OPENTELEMETRY_PEAK = {"node": 22.6, "libjvm": 13.6, "libLLVM": 32.6, "librustc_driver": 40.6}
OPENTELEMETRY_USABLE = 0.7  # s, from exec to usable table of libLLVM; 0.5 to 1.8 by file and load
MISSING = ("no_table", "no_mappings")
POLL_SECONDS = 0.01
SETTLE_SECONDS = 3  # the tables of what runs anyway
REST_SECONDS = 1    # without a further missing table


def peer(known, file):
    value = next((value for start, value in known.items() if file.startswith(start)), None)
    return {} if value is None else {"OpenTelemetry": value}


def compiled(out):
    """{file: rows stored}"""
    done = subprocess.run([COMPILER], stdout=subprocess.PIPE, check=True, timeout=600)
    rows = {}
    for line in done.stdout.decode().splitlines():
        match = LINE.match(line)
        if not match:
            out.note(line)
            continue
        name = match.group(1)
        rows[name] = int(match.group(5))
        out.add(f"compile:{name}", [float(match.group(2))], "ms CPU", **peer(OPENTELEMETRY, name))
        out.add(f"peak:{name}", [float(match.group(3))], "MB", 1, **peer(OPENTELEMETRY_PEAK, name))
        out.add(f"size:{name}", [float(match.group(7))], "bytes a row before merging", OpenTelemetry=8)
        out.note(f"{name}: {match.group(4)} rows, {match.group(5)} stored in {match.group(8)} bytes each, "
                 f"{match.group(6)} infos{line[match.end():].replace(';', ',', 1)}")
    return rows


def write_module(path):
    """Work for a quarter of a minute of code generation."""
    with open(path, "w", encoding="utf-8") as out:
        for number in range(12000):
            out.write(f"define i64 @f{number}(i64 %a, i64 %b, ptr %p) {{\nentry:\n  br label %loop\nloop:\n"
                      "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]\n  %s = phi i64 [ %a, %entry ], [ %t, %loop ]\n")
            value = "%s"
            for step in range(24):
                kind = ("mul", "xor", "add", "sub", "or", "shl")[(number + step) % 6]
                other = "3" if kind == "shl" else ("%b", "%i", "%a", str(7919 * step + number))[step % 4]
                out.write(f"  %v{step} = {kind} i64 {value}, {other}\n")
                value = f"%v{step}"
            out.write(f"  %at = getelementptr i64, ptr %p, i64 %i\n  store i64 {value}, ptr %at\n"
                      f"  %t = add i64 {value}, %i\n  %next = add i64 %i, 1\n  %more = icmp ult i64 %next, %b\n"
                      "  br i1 %more, label %loop, label %out\nout:\n  ret i64 %t\n}\n")


def missing(status):
    return sum(status["profilers"][0]["incomplete"][cause] for cause in MISSING)


def once(daemon, module, rows):
    """Seconds from the start of llc to its library's table, to the last stack without one, and what that cost."""
    pid = daemon.process.pid
    with Control(daemon.socket) as control:
        wait_seconds(SETTLE_SECONDS)
        wait_for(lambda: control.status()["unwinding"]["waiting"] == 0, 30, "the tables of what runs anyway")
        before, cpu = control.status(), measure.family_seconds(pid)
        lacking, usable, last, spent = missing(before), None, None, None
        started = time.monotonic()
        process = subprocess.Popen(["llc", "-O3", "-opaque-pointers", "-o", "/dev/null", module],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while usable is None or time.monotonic() - max(usable, last or 0) - started < REST_SECONDS:
                select.select([], [], [], POLL_SECONDS)
                status = control.status()
                now = time.monotonic() - started
                if missing(status) > lacking:
                    lacking, last = missing(status), now
                # All the other files that llc maps have less than two thirds of that together.
                if usable is None and status["unwinding"]["rows"] - before["unwinding"]["rows"] >= 0.95 * rows:
                    usable, spent = now, measure.family_seconds(pid) - cpu
                if process.poll() is not None:
                    raise AssertionError(f"llc ended with {process.returncode} after {now:.2f} s")
                if now > 30:
                    raise AssertionError(f"no table of libLLVM within 30 s: {status['unwinding']}")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        after = status["unwinding"]
        return {"usable": usable, "last": last or 0.0, "cpu": 1e3 * spent,
                **{key: after[key] - before["unwinding"][key] for key in ("compiled", "cache_hits", "cache_misses")}}


def fresh_daemon():
    return Daemon("{}\n", build=os.path.join(ROOT, "build"), check=False)


def restart(daemon):
    """Another daemon on the same state."""
    daemon.stop()
    os.unlink(daemon.log_path)  # the old one's `ready` is not the new one's
    daemon.start()


def usable_tables(out, rounds, rows):
    results = {"cold": [], "cached": [], "busy": []}
    folder = tempfile.mkdtemp(prefix="baroscope-bench-")
    try:
        module = os.path.join(folder, "big.ll")
        write_module(module)
        # Once for the page cache.
        subprocess.run(["llc", "--version"], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                       timeout=60)
        for _ in range(rounds):
            with fresh_daemon() as daemon:
                results["cold"].append(once(daemon, module, rows))
                restart(daemon)
                results["cached"].append(once(daemon, module, rows))
            with mix.Deep() as load, fresh_daemon() as daemon:
                results["busy"].append(once(daemon, module, rows))
                load.check()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for kind, ones in results.items():
        theirs = {"OpenTelemetry": OPENTELEMETRY_USABLE} if kind == "cold" else {}
        out.add(f"usable_{kind}", [one["usable"] for one in ones], "s from the start of llc to libLLVM's table", 3,
                **theirs)
        out.add(f"last_missing_{kind}", [one["last"] for one in ones], "s to the last stack that lacked a table", 3)
        out.add(f"usable_cpu_{kind}", [one["cpu"] for one in ones], "ms CPU, daemon and children, to that table", 1)
        out.note(f"{kind}: {ones[-1]['compiled']} compiled, {ones[-1]['cache_hits']} from the cache, "
                 f"{ones[-1]['cache_misses']} not in the cache")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measure.end_by_exception()
    out = Figures()
    rows = compiled(out)
    library = next((number for name, number in rows.items() if name.startswith("libLLVM")), None)
    if os.geteuid() != 0:
        out.note("skip usable_*: machine: not root")
    elif library is None or not shutil.which("llc"):
        out.note(f"skip usable_*: machine: no libLLVM-14 or no llc ({glob.glob('/usr/lib/*/libLLVM*')})")
    else:
        usable_tables(out, options.rounds, library)
    out.note("goal: compile <= OpenTelemetry, peak <= 32 MB, size <= 5 bytes a row, usable_cold <= 0.3 s, cached: none "
             "compiled")
    out.leave("stacks.4")
    return 0


if __name__ == "__main__":
    sys.exit(main())
