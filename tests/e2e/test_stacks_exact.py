"""stacks.2: not by luck. Samples of real programs, walked by the walker over the registers and stack bytes that were
captured at the event, have the frames that elfutils' unwinder finds over the same bytes. No daemon takes part."""

import os
import re
import shutil
import subprocess
import unittest

from tests.lib import harness, targets

# What is compared is fewer than what is sampled: memory that was not captured, code without tables.
SAMPLES = 1200
SECONDS = 60
NO_LIBDW = 77


def stackrec(pids):
    program = os.path.join(harness.build_dir(), "stackrec")
    command = [program, "--compare", f"--samples={SAMPLES}", f"--seconds={SECONDS}", *(f"--pid={pid}" for pid in pids)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 120, check=False)


def numbers(output):
    """{name: number} of the summary line, the ends as end_NAME."""
    line = next(line for line in output.splitlines() if line.startswith("stackrec: "))
    counts, _, ends = line.partition(" ends:")
    found = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", counts)}
    found.update({f"end_{name}": float(value) for name, value in re.findall(r"(\w+)=(\d+)", ends)})
    return found


class Stacks2Exact(unittest.TestCase):
    def exact(self, start, compared=1190, apart=5, equal=99.0):
        """compared: that many of the samples must have been comparable; apart: so many may depend on memory that was not
        captured, which a wrong walk would, too."""
        with start() as target:
            done = stackrec(target.pids())
            for tree in target.trees:
                tree.check()
        if done.returncode == NO_LIBDW:
            self.skipTest("machine: no libdw")
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        found = numbers(done.stdout)
        classes = " ".join(f"{name} {found[name]:.0f}" for name in ("oracle_stopped", "cut", "top", "red_zone", "moved")
                           if found[name])
        ends = " ".join(f"{name[4:]} {value:.0f}" for name, value in found.items() if name.startswith("end_"))
        text = (f"{target.name}: {found['equal']:.0f} of {found['compared']:.0f} equal to libdwfl "
                f"({found['equal_pct']:.2f} %), {found['frames'] / found['samples']:.1f} frames a sample, apart: "
                f"{classes or 'none'}; ends: {ends}")
        print(f"# {text}", flush=True)
        harness.figure(f"stacks.2-{target.name}", text)
        detail = f"{text}\n{done.stdout[-6000:]}"
        self.assertGreaterEqual(found["samples"], SAMPLES, detail)
        self.assertGreaterEqual(found["compared"], compared, detail)
        self.assertLessEqual(found["cut"] + found["red_zone"], apart, detail)
        if compared:
            self.assertGreaterEqual(found["equal_pct"], equal, detail)
        return found

    def test_stacks_2_redis(self):
        self.exact(targets.redis)

    def test_stacks_2_postgres(self):
        self.exact(targets.postgres)

    def test_stacks_2_nginx(self):
        self.exact(targets.nginx)

    def test_stacks_2_python3(self):
        self.exact(targets.python3)

    def test_stacks_2_gzip(self):
        self.exact(targets.gzip)

    def test_stacks_2_xz(self):
        self.exact(targets.xz)

    def test_stacks_2_openssl(self):
        """Some of its assembly keeps the frame below the stack pointer, which is not captured."""
        self.exact(targets.openssl, compared=1150, apart=50)

    def test_stacks_2_rust(self):
        self.exact(targets.rust)

    def test_stacks_2_unwind(self):
        """Its handlers run on a stack of their own: what was interrupted is not captured then."""
        found = self.exact(targets.unwind, compared=1100, apart=90)
        self.assertGreater(found["deepest"], 400)

    def test_stacks_2_node(self):
        self.exact(targets.node, compared=1160)

    def test_stacks_2_node_perf(self):
        self.exact(targets.node_perf, compared=1160)

    def test_stacks_2_java(self):
        """libdw follows frame pointers through generated code; where they are kept, it comes to the same. About as
        many samples are cut as end in generated code."""
        self.exact(targets.java, compared=1020, apart=170)

    def test_stacks_2_java_fp(self):
        self.exact(targets.java_fp, compared=1170)

    def test_stacks_2_chromium(self):
        """It has hardly any tables: libdw follows frame pointers without judging them. In lld's PLT, which has no
        entry, it leaves out a frame."""
        found = self.exact(targets.chromium, compared=950, apart=30)
        self.assertGreaterEqual(found["whole_pct"], 99.0)

    def needs(self, tool):
        if not shutil.which(tool):
            self.skipTest(f"machine: {tool} is not installed")

    def test_stacks_2_go(self):
        self.needs("go")
        self.exact(targets.go, compared=1170)

    def test_stacks_2_go_stripped(self):
        """libdw has nothing to go by; but the walker reaches the end."""
        self.needs("go")
        found = self.exact(targets.go_stripped, compared=0)
        self.assertGreaterEqual(found["whole_pct"], 99.0)
