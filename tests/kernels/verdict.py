#!/usr/bin/env python3
"""Judges what a guest said on its console: `verdict.py NAME VERSION CONSOLE`; prints `ok`, `not ok` and `#` lines."""

import base64
import gzip
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)
from tests.lib.pprof import Profile  # noqa: E402
from tests.lib.stacks import complete_share  # noqa: E402
from tests.lib.stats import chi_square_p  # noqa: E402

# What a program took to verify when this was last looked at: NAME PROGRAM INSNS. A rise over 25 % needs a reason,
# given by a new line here.
BASELINE = os.path.join(ROOT, "tests/kernels/verified-insns")
FUNCTIONS = ["c_hot_half", "c_hot_quarter", "c_hot_inner", "c_hot_tenth"]
# What main of w_nofp calls; n_descend is there this many times in a stack.
CALLED = ["n_deep", "n_hot_plain", "n_sort", "n_signal"]
DEPTH = 400
COMPLETE_PCT = 99.5


def console(path):
    said, verified = {}, {}
    with open(path, "rb") as file:
        for line in file.read().decode(errors="replace").splitlines():
            _, mark, rest = line.rstrip("\r").partition("@@ ")
            if not mark:
                continue
            key, _, value = rest.partition(" ")
            if key == "verify":
                words = value.split()
                if len(words) >= 4 and words[0] == "program" and words[2] == "insns":
                    verified[words[1]] = int(words[3])
                    continue
                said.setdefault("verify_text", []).append(value)
            else:
                said[key] = value
    return said, verified


class Judge:
    def __init__(self, name):
        self.name, self.bad = name, 0

    def check(self, what, condition, why=""):
        if condition:
            print(f"ok {self.name}: {what}")
        else:
            self.bad += 1
            print(f"not ok {self.name}: {what}" + (f": {why}" if why else ""))
        return bool(condition)


def unpack(said, key):
    return gzip.decompress(base64.b64decode(said[key])) if said.get(key) else b""


def document(said, key):
    try:
        return json.loads(unpack(said, key) or b"null")
    except ValueError:
        return None


def identity(judge, what, status):
    cpu = status["profilers"][0] if status and status.get("profilers") else None
    if not judge.check(f"{what}: status", cpu, "no status"):
        return None
    sum_ = cpu["samples"] + cpu["idle"] + sum(cpu["drops"].values())
    judge.check(f"{what}: reported + idle + lost = ticks", sum_ == cpu["ticks"], f"{sum_} != {cpu['ticks']}: {cpu['drops']}")
    return cpu


def below_main(profile):
    """What each function that main calls used, with all that it calls, and how often n_descend is in one stack."""
    names, stacks = profile["names"], profile["stacks"]
    used, deepest, of_node = dict.fromkeys(CALLED, 0), 0, []
    for parent, number, total in zip(stacks["parent"], stacks["name"], stacks["total"]):
        name, (by_main, depth) = names[number], of_node[parent] if parent >= 0 else (False, 0)
        if by_main and name in used:
            used[name] += total
        depth += name == "n_descend"
        deepest = max(deepest, depth)
        of_node.append((name == "main", depth))
    return used, deepest


def stacks_without_frame_pointers(judge, said, verified):
    profile, oracle = document(said, "nofp"), json.loads(said.get("oracle_nofp") or "null")
    status = document(said, "status_nofp")
    if not judge.check("no frame pointers: profile, oracle, status", profile and profile.get("samples") and oracle and status):
        return
    shares = complete_share(profile)
    # A process's first samples come before its mappings are known, an image's before its table is there.
    early = sum(shares.causes[cause] for cause in ("no_table", "no_mappings"))
    complete = 100 * shares.complete / max(1, shares.total - early)
    judge.check(f"no frame pointers: at least {COMPLETE_PCT} % of the stacks are complete", complete >= COMPLETE_PCT,
                f"{shares}\n{shares.examples()}")
    used, deepest = below_main(profile)
    judge.check(f"no frame pointers: recursion {DEPTH} deep", deepest == DEPTH, str(deepest))
    observed = [used[function] / 1e7 for function in CALLED]
    p = chi_square_p(observed, [oracle["functions"][function] for function in CALLED]) if sum(observed) else 0
    judge.check("no frame pointers: shares agree with own count", p > 0.001, f"p {p:.5f} {observed} {oracle['functions']}")
    unwinding = status.get("unwinding") or {}
    judge.check("no frame pointers: tables are loaded, none failed", unwinding.get("images") and not unwinding.get("failed"),
                str(unwinding))
    incomplete = {cause: n for cause, n in (status["profilers"][0].get("incomplete") or {}).items() if n}
    print(f"# {judge.name}: stacks: kernel {said['kernel']}: {shares.samples} samples without frame pointers, {complete:.2f} % "
          f"complete ({100 * early / max(1, shares.total):.2f} % before mappings or table), n_descend {deepest} deep, "
          f"p {p:.3f}, all incomplete on the machine {incomplete}, verified instructions "
          + ", ".join(f"{program} {insns}" for program, insns in sorted(verified.items()) if program.startswith("b_cpu")))


def main():
    name, version, path = sys.argv[1:]
    said, verified = console(path)
    judge = Judge(name)
    if not judge.check("boots", "kernel" in said):
        with open(path, encoding="utf-8", errors="replace") as file:
            print("    " + "\n    ".join(file.read().splitlines()[-15:]))
        return 1
    judge.check("the kernel that was meant", said["kernel"].startswith(version.split("-cloud")[0]), said["kernel"])
    for program, insns in sorted(verified.items()):
        print(f"# {name}: {program} verified instructions {insns}")
    judge.check("programs verified", "b_cpu_walk" in verified and said.get("verify_exit") == "0",
                " / ".join(said.get("verify_text", ["nothing said"])[-5:]))
    if os.path.exists(BASELINE):
        with open(BASELINE, encoding="utf-8") as lines:
            for line in lines:
                words = line.split("#")[0].split()
                if len(words) == 3 and words[0] == name and words[1] in verified:
                    judge.check(f"{words[1]} no more than 25 % over its {words[2]} instructions",
                                verified[words[1]] <= 1.25 * int(words[2]), str(verified[words[1]]))
    log = unpack(said, "log").decode(errors="replace")
    if not judge.check("ready", "ready" in said):
        print("    " + log.replace("\n", "\n    "))
        return 1

    cpu = identity(judge, "under load", document(said, "status"))
    top = document(said, "top") or []
    for function in FUNCTIONS:
        judge.check(f"names {function}", any(function == row["function"] for row in top), str([r["function"] for r in top][:8]))
    rows = document(said, "top_dd") or []
    judge.check("names the kernel's functions under dd",
                any(w in row["function"] for row in rows for w in ("zero", "clear", "rep_")),
                str([r["function"] for r in rows][:8]))
    profile, oracle = document(said, "profile"), json.loads(said.get("oracle") or "null")
    if judge.check("profile and oracle", profile and profile.get("samples") and oracle):
        ratio = profile["total"] / oracle["process_cpu_ns"]
        lost = sum(cpu["drops"].values()) / max(1, cpu["ticks"]) if cpu else 0
        # Emulated processors are late by whole ticks now and then: those are not_run, and count against the sum.
        judge.check("sum of values = CPU time within 5 % and what was lost", abs(ratio - 1) < 0.05 + 2 * lost,
                    f"{ratio:.4f}, lost {lost:.4f} of the ticks")
        self_ns = {row["function"]: row["self"] for row in top}
        observed = [self_ns.get(f, 0) / 1e7 for f in FUNCTIONS]
        p = chi_square_p(observed, [oracle["functions"][f] for f in FUNCTIONS]) if sum(observed) else 0
        judge.check("shares agree with own count", p > 0.001, f"p {p:.5f} {observed} {oracle['functions']}")
        print(f"# {name}: kernel {said['kernel']}: ready at {said['ready']} s, {profile['samples']} samples, sum/CPU time "
              f"{ratio:.4f}, p {p:.3f}, most verified {max(verified.values(), default=0)} instructions")
    try:
        parsed = Profile(unpack(said, "pprof"))
        judge.check("pprof", parsed.samples)
    except (ValueError, OSError, EOFError, IndexError) as error:
        judge.check("pprof", False, str(error))

    stacks_without_frame_pointers(judge, said, verified)
    identity(judge, "processor unplugged", document(said, "status_unplugged"))
    after = identity(judge, "processor plugged again", document(said, "status_plugged"))
    plugged, oracle = document(said, "plugged"), json.loads(said.get("oracle_plugged") or "null")
    if judge.check("plugged: profile and oracle", plugged and oracle and after):
        judge.check("plugged processor is sampled again", plugged["total"] > 0.7 * oracle["process_cpu_ns"],
                    f"{plugged['total']} of {oracle['process_cpu_ns']} ns")
    judge.check("SIGTERM ends it with 0", said.get("exit") == "0", said.get("exit", "never asked"))
    judge.check("no socket, no BPF program left", "socket_left" not in said and said.get("bpf_left") == "0",
                f"programs: {said.get('bpf_left')}")
    judge.check("got to its end", "end" in said)
    if judge.bad:
        print("    " + log[-4000:].replace("\n", "\n    "))
    return 1 if judge.bad else 0


if __name__ == "__main__":
    sys.exit(main())
