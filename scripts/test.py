#!/usr/bin/env python3
"""What `make test` runs once everything is built: layers, unit tests, BPF tests, fault runs, end to end, fuzz smoke.

Each phase writes its output to build/test-logs; the sum ends alone on a line: `N passed, N failed, N skipped`.
A skip must name its reason. One that begins with "machine:" says that this machine cannot run the test; any other is a
skip of something that could have run and makes the exit status 1."""

import argparse
import glob
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, "build", "test-logs")
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")


class Totals:
    def __init__(self):
        self.passed, self.failed, self.skips, self.failures = 0, 0, [], []


def run(name, command, timeout, env=None):
    """Output and exit status of a command that gets no stdin; a time-out is status -1."""
    path = os.path.join(LOGS, name.replace("/", "_") + ".log")
    if "/" in command[0] and not os.path.exists(os.path.join(ROOT, command[0])):
        return 127, f"{command[0]} is not built"
    with open(path, "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                   env={**os.environ, **(env or {})}, start_new_session=True)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            status = -1
    with open(path, errors="replace") as log:
        return status, log.read()


def tail(text, lines=40):
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


def cmocka(totals, binary, timeout):
    """A cmocka program, read as TAP. A case that skips prints `skip CASE: reason` first."""
    name = os.path.relpath(binary, os.path.join(ROOT, "build/san/tests"))
    status, text = run(name, [binary], timeout, {"CMOCKA_MESSAGE_OUTPUT": "TAP"})
    passed = failed = 0
    for line in text.splitlines():
        match = re.match(r"(not ok|ok) \d+ - (\S+)(.*)", line)
        if not match:
            continue
        verdict, case, rest = match.groups()
        if "# SKIP" in rest or "# skip" in rest:
            reason = re.search(r"skip " + re.escape(case) + r": (.*)", text)
            totals.skips.append((f"{name}: {case}", reason.group(1) if reason else "no reason given"))
        elif verdict == "ok":
            passed += 1
        else:
            failed += 1
            totals.failures.append(f"{name}: {case}")
    if (status != 0 and failed == 0) or passed + failed == 0:
        if status != 0 or "# SKIP" not in text:
            failed += 1
            totals.failures.append(f"{name}: ended with {status}, {passed} cases passed")
    totals.passed += passed
    totals.failed += failed
    print(f"{'not ok' if failed else 'ok'} {name}: {passed} passed" + (f", {failed} failed" if failed else ""), flush=True)
    if failed:
        print(tail(text), flush=True)


def script(totals, name, command, timeout):
    """A script that is one test by its exit status, or many when it ends in a summary line."""
    status, text = run(name, command, timeout)
    summary = [m for m in map(SUMMARY.match, text.splitlines()) if m]
    if summary:
        passed, failed, _ = map(int, summary[-1].groups())
        for line in text.splitlines():
            if line.startswith("skip "):
                what, _, reason = line[5:].partition(": ")
                totals.skips.append((f"{name}: {what}", reason))
            elif line.startswith("not ok "):
                totals.failures.append(f"{name}: {line[7:]}")
        if status != 0 and failed == 0 and not any(line.startswith("skip ") for line in text.splitlines()):
            failed += 1
            totals.failures.append(f"{name}: ended with {status}")
    else:
        passed, failed = (1, 0) if status == 0 else (0, 1)
        if failed:
            totals.failures.append(f"{name}: ended with {status}")
    totals.passed += passed
    totals.failed += failed
    print(f"{'not ok' if failed else 'ok'} {name}: {passed} passed" + (f", {failed} failed" if failed else ""), flush=True)
    if failed:
        print(tail(text, 60), flush=True)


def binaries(pattern):
    """Built test programs whose source is still there."""
    return sorted(os.path.join(ROOT, "build/san", source[:-2]) for source in glob.glob(pattern, root_dir=ROOT))


def fuzz_smoke(totals):
    sources = glob.glob("tests/fuzz/fuzz_*.c", root_dir=ROOT)
    if not sources:
        return
    probe = subprocess.run(["clang", "-fsanitize=fuzzer", "-x", "c", "-", "-o", "/dev/null"], capture_output=True,
                           input=b"int LLVMFuzzerTestOneInput(const unsigned char*p,unsigned long n)"
                                 b"{(void)p;(void)n;return 0;}", check=False)
    if probe.returncode != 0:
        totals.skips.append(("fuzz", "the fuzzer's runtime is not installed"))
        return
    script(totals, "fuzz-build", ["make", f"-j{os.cpu_count()}", "CC=clang", "SAN=1", "FUZZ=1", "B=build/fuzz", "fuzz-binaries"], 600)
    script(totals, "fuzz-smoke", ["scripts/fuzz.sh", "5"], 60 + 30 * len(sources))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="phases, by comma: layers unit bpf fault e2e fuzz")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else ["layers", "unit", "bpf", "fault", "e2e", "fuzz"]
    os.makedirs(LOGS, exist_ok=True)
    totals = Totals()
    started = time.monotonic()
    root = os.geteuid() == 0

    if "layers" in wanted:
        script(totals, "layers", ["scripts/check-layers.sh"], 60)
    if "unit" in wanted:
        for binary in binaries("tests/unit/*/test_*.c"):
            cmocka(totals, binary, 180)
    for phase in ("bpf", "fault"):
        if phase in wanted:
            for binary in binaries(f"tests/{phase}/test_*.c"):
                if phase == "bpf" and not root:
                    totals.skips.append((binary, "not run as root"))
                    continue
                cmocka(totals, binary, 300)
            for source in sorted(glob.glob(f"tests/{phase}/test_*.py", root_dir=ROOT)):
                script(totals, source, ["python3", source], 600)
    if "e2e" in wanted:
        if root:
            script(totals, "e2e", ["python3", "tests/e2e/run.py"], 1500)
        else:
            totals.skips.append(("e2e", "not run as root"))
    if "fuzz" in wanted:
        fuzz_smoke(totals)

    print(f"\nin {time.monotonic() - started:.0f} s; logs in build/test-logs")
    for what in totals.failures:
        print(f"failed: {what}")
    for what, reason in totals.skips:
        print(f"skipped: {what}: {reason}")
    print(f"{totals.passed} passed, {totals.failed} failed, {len(totals.skips)} skipped")
    needless = [reason for _, reason in totals.skips if not reason.startswith("machine:")]
    return 1 if totals.failed or needless else 0


if __name__ == "__main__":
    sys.exit(main())
