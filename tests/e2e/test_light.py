"""The promises of the first issue, from outside: light.1 (names), .2 (shares), .3 (identity), .6, .7, .8."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from tests.lib import harness
from tests.lib.harness import Daemon, Workload, wait_for, workload
from tests.lib.stats import chi_square_p
from tests.workloads import craft_elf

LANGUAGES = {
    "w_c": ["c_hot_half", "c_hot_quarter", "c_hot_inner", "c_hot_tenth"],
    "w_cpp": ["work::churn<unsigned long, 29>", "work::Engine::turn", "work::Engine::operator()"],
    "w_rust": ["w_rust::hot::Mill::grind", "<w_rust::hot::Mill as w_rust::hot::Stir>::stir", "w_rust::hot::sift"],
    "w_go": ["main.(*engine).turn", "main.spin", "main.mix"],
}
KERNEL_ZERO = re.compile(r"clear_user|read_zero|iter_zero|iov_iter_zero|rep_stos")


def selector(comm):
    return f'{{comm="{comm}"}}'


def folded(daemon, chosen, *arguments):
    """[(stack leaf first, value)]."""
    done = daemon.ctl("export", "process_cpu", chosen, "--format", "folded", *(arguments or ("--since", "60s")))
    if done.returncode != 0:
        raise AssertionError(done.stderr.decode())
    stacks = []
    for line in done.stdout.decode().splitlines():
        stack, _, value = line.rpartition(" ")
        stacks.append((stack.split(";")[::-1], int(value)))
    return stacks


def identity(case, status):
    """reported + idle + lost = ticks, in one snapshot."""
    cpu = next(p for p in status["profilers"] if p["profiler"] == "cpu")
    lost = sum(cpu["drops"].values())
    case.assertEqual(cpu["samples"] + cpu["idle"] + lost, cpu["ticks"], cpu)
    # No run ends without an outcome, what user space filed is what the kernel side says it sent, and the ticks are
    # those that the clock implies (a deficit is settled within two seconds).
    cpus, rate = os.cpu_count(), int(cpu["rate"].removesuffix("Hz"))
    case.assertLessEqual(cpu["in_flight"], cpus, cpu)
    case.assertLessEqual(cpu["stored"], cpu["samples"], cpu)
    uptime = status["uptime_seconds"]
    case.assertGreater(cpu["ticks"], (uptime - 2.5) * cpus * rate * 0.975, status)
    case.assertLess(cpu["ticks"], (uptime + 1) * cpus * rate * 1.025, status)
    return cpu


class Light1Names(unittest.TestCase):
    def test_light_1__five_languages(self):
        with Daemon() as daemon, contextlib.ExitStack() as stack:
            for name in LANGUAGES:
                stack.enter_context(Workload([workload(name)]))
            stack.enter_context(Workload(["dd", "if=/dev/zero", "of=/dev/null", "bs=1M"], wait_started=False))
            shown = []
            for name, functions in LANGUAGES.items():
                for function in functions:
                    daemon.wait_named(selector(name), function)
                rows = [row["function"] for row in daemon.top(selector(name), "--limit", "50")]
                for function in functions:
                    with self.subTest(program=name, function=function):
                        self.assertTrue(any(function in row for row in rows), rows)
                        shown.append(function)
                        self.assertFalse([r for r in rows if re.search(r"::h[0-9a-f]{16}$", r)], "a Rust hash is left")
            rows = wait_for(lambda: daemon.top(selector("dd"), "--since", "60s"), 20, "dd in top")
            names = [row["function"] for row in rows]
            self.assertTrue(any(KERNEL_ZERO.search(name) for name in names), names)
            harness.figure("light.1-names", f"{len(shown)} functions of C, C++, Rust and Go, and the kernel's under dd")

    def test_light_1__go_tool_pprof(self):
        go = shutil.which("go")
        if not go:
            self.skipTest("go is not installed")
        with Daemon() as daemon, Workload([workload("w_go")]):
            daemon.wait_named(selector("w_go"), "main.spin")
            path = os.path.join(daemon.directory, "cpu.pb.gz")
            done = daemon.ctl("export", "process_cpu", "--since", "30s", "--format", "pprof", "-o", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            done = subprocess.run([go, "tool", "pprof", "-top", path], capture_output=True, timeout=60, check=False,
                                  env={**os.environ, "PPROF_TMPDIR": daemon.directory, "PPROF_BINARY_PATH": "/nowhere"})
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(b"main.(*engine).turn", done.stdout)
            self.assertIn(b"Type: cpu", done.stdout)


class Light2Shares(unittest.TestCase):
    RATE = 1997
    SAMPLES = 42000

    def test_light_2__shares_and_sum(self):
        seconds = self.SAMPLES / self.RATE
        with Daemon(f"cpu: {{rate_hz: {self.RATE}}}\n") as daemon, contextlib.ExitStack() as stack:
            began = time.time()
            running = {name: stack.enter_context(Workload([workload(name), "--cpu-seconds", f"{seconds:.2f}"]))
                       for name in LANGUAGES}
            oracles = {name: one.finish(400) for name, one in running.items()}
            ended = time.time()
            lines = []
            for name, functions in LANGUAGES.items():
                with self.subTest(program=name):
                    lines.append(self.check(daemon, name, functions, oracles[name], began, ended))
            identity(self, daemon.status())
            self.assertEqual(len(lines), len(LANGUAGES))
            harness.figure("light.2", "\n".join(lines))

    def check(self, daemon, name, functions, oracle, began, ended):
        times = ("--from", f"{began - 1:.3f}", "--until", f"{ended + 1:.3f}")

        def total():
            profile = daemon.profile(selector(name), *times)
            return profile if abs(profile["total"] / oracle["process_cpu_ns"] - 1) < 0.01 else None

        # Queryable 2 s after it was taken; a sum that never gets there fails below with the numbers.
        try:
            profile = wait_for(total, 6, "the whole CPU time")
        except AssertionError:
            profile = daemon.profile(selector(name), *times)
        ratio = profile["total"] / oracle["process_cpu_ns"]
        self.assertLess(abs(ratio - 1), 0.01,
                        f"sum {profile['total']} ns of {oracle['process_cpu_ns']} ns; {daemon.status()['drops']}")
        self.assertGreaterEqual(profile["samples"], 40000)
        value = profile["total"] / profile["samples"]
        counts = dict.fromkeys([*functions, "rest"], 0.0)
        for stack, weight in folded(daemon, selector(name), *times):
            counts[harness.first_known(stack, functions) or "rest"] += weight / value
        # The functions' own counts include half of each clock read, so the rest (start, main's loop, those reads) is no
        # category of the test; it must be small.
        self.assertLess(counts["rest"] / profile["samples"], 0.02)
        own = oracle["functions"]
        p = chi_square_p([counts[f] for f in functions], [own[f] for f in functions])
        known = sum(counts[f] for f in functions)
        shares = ", ".join(f"{f} {counts[f] / known:.4f} (own count {own[f] / sum(own.values()):.4f})" for f in functions)
        self.assertGreater(p, 0.001, shares + f", rest {counts['rest']:.0f}")
        return f"{name}: p {p:.3f}, sum/CPU time {ratio:.5f}, {profile['samples']} samples; {shares}"


class Light3Identity(unittest.TestCase):
    def poll(self, daemon, until, timeout, what):
        """Checks the identity at every look until the condition holds."""
        def look():
            cpu = identity(self, daemon.status())
            return cpu if until(cpu) else None
        return wait_for(look, timeout, what)

    def test_light_3__quiet(self):
        with Daemon() as daemon:
            first = identity(self, daemon.status())
            cpus = os.cpu_count()
            cpu = self.poll(daemon, lambda c: c["ticks"] >= first["ticks"] + 100 * cpus * 5, 30, "5 s of ticks")
            self.assertGreater(cpu["ticks"], 0)
            comments = daemon.pprof("{}").comments
            self.assertTrue(comments, "the pprof says nothing of its samples and drops")
            harness.figure("light.3-quiet", f"ticks {cpu['ticks']} = samples {cpu['samples']} + idle {cpu['idle']} + "
                                            f"lost {sum(cpu['drops'].values())}")

    def test_light_3__another_bpf_program(self):
        rate = 499
        with Daemon(f"cpu: {{rate_hz: {rate}}}\n") as daemon, contextlib.ExitStack() as stack:
            # No processor idles: a virtual one that sleeps is woken late, and such ticks are not_run too.
            for cpu in sorted(os.sched_getaffinity(0)):
                stack.enter_context(Workload(["taskset", "-c", str(cpu), workload("w_c")]))
            before = identity(self, daemon.status())
            began = time.time()
            with Workload([workload("bpfnoise")]) as noise:
                self.poll(daemon, lambda c: c["drops"]["not_run"] - before["drops"]["not_run"] > 1500, 60,
                          "not_run under BPF noise")
                oracle = noise.stop()
            ended = time.time()
            expected = oracle["bpf_ns"] / 1e9
            # A missed tick is known for sure when the counters were read twice: that is at most 2 s later.
            cpu = self.poll(daemon, lambda c: time.time() > ended + 2.5, 10, "the last missed ticks")
            missed = (cpu["drops"]["not_run"] - before["drops"]["not_run"]) / rate
            self.assertLess(abs(missed - expected), 0.05 * expected + 0.2, f"not_run {missed} s, noise ran {expected} s")
            times = ("--from", f"{began - 1:.3f}", "--until", f"{ended + 1:.3f}")
            profile = daemon.profile("{}", *times)
            self.assertIn("[not_run]", profile["names"])
            self.assertGreater(profile["dropped"]["not_run"], 0)
            self.assertNotIn("[not_run]", daemon.profile('{comm="bpfnoise"}', *times)["names"])
            self.assertTrue(any("not_run" in c for c in daemon.pprof("{}", *times).comments))
            harness.figure("light.3", f"not_run {missed:.2f} s while another program ran {expected:.2f} s; identity exact")

    def test_light_3__tiny_ring_and_maps(self):
        if "san" not in os.path.basename(harness.build_dir()):
            self.skipTest("machine: the release build takes no test variables")
        tiny = {"BAROSCOPE_TEST_RING_BYTES": "4096", "BAROSCOPE_TEST_STACKS": "64", "BAROSCOPE_TEST_MAPPINGS": "16"}
        with Daemon("cpu: {rate_hz: 1997}\n", env=tiny) as daemon, Workload([workload("w_misc"), "stacks"]), \
                Workload([workload("w_misc"), "forker"]):
            cpu = self.poll(daemon, lambda c: c["drops"].get("ring_full", 0) + c["drops"].get("stack_lost", 0) > 0, 30,
                            "losses in a ring of one page")
            self.poll(daemon, lambda c: c["ticks"] > cpu["ticks"] + 20000, 60, "20,000 ticks more")
            self.assertTrue(daemon.running())
            harness.figure("light.3-tiny", "drops " + str({k: v for k, v in daemon.status()["drops"].items() if v}))


class Light6Images(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="baroscope-img-")
        self.addCleanup(shutil.rmtree, self.directory, True)

    def copy(self, name):
        path = os.path.join(self.directory, name)
        shutil.copy(workload("w_c"), path)
        return path

    def test_light_6__mount_namespace(self):
        """The binary's path exists in the process's namespace only."""
        os.mkdir(os.path.join(self.directory, "inside"))
        inside = os.path.join(self.directory, "inside", "in_ns")
        script = (f"mount -t tmpfs none {self.directory}/inside && cp {workload('w_c')} {inside} && exec {inside}")
        with Daemon() as daemon, Workload(["unshare", "-m", "sh", "-c", script]):
            self.assertFalse(os.path.exists(inside))
            daemon.wait_named(selector("in_ns"), "c_hot_half")

    def test_light_6__mount_namespace_before_the_daemon(self):
        os.mkdir(os.path.join(self.directory, "inside"))
        inside = os.path.join(self.directory, "inside", "in_ns_old")
        script = (f"mount -t tmpfs none {self.directory}/inside && cp {workload('w_c')} {inside} && exec {inside}")
        with Workload(["unshare", "-m", "sh", "-c", script]), Daemon() as daemon:
            daemon.wait_named(selector("in_ns_old"), "c_hot_half")

    def test_light_6__deleted(self):
        path = self.copy("w_deleted")
        with Daemon() as daemon, Workload([path]):
            os.unlink(path)
            daemon.wait_named(selector("w_deleted"), "c_hot_half")

    def test_light_6__deleted_before_the_daemon(self):
        path = self.copy("w_deleted_old")
        with Workload([path]):
            os.unlink(path)
            with Daemon() as daemon:
                daemon.wait_named(selector("w_deleted_old"), "c_hot_half")

    def test_light_6__replaced(self):
        """What is at the path now is another program: the one that runs is named."""
        path = self.copy("w_replaced")
        with Daemon() as daemon, Workload([path]):
            shutil.copy(workload("w_cpp"), path + ".new")
            os.rename(path + ".new", path)
            rows = daemon.wait_named(selector("w_replaced"), "c_hot_half")
            self.assertFalse([r for r in rows if "work::" in r["function"]])
            harness.figure("light.6", "named: other mount namespace, deleted, replaced; older and younger than the daemon")


class Light7Foreign(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="baroscope-elf-")
        self.addCleanup(shutil.rmtree, self.directory, True)

    def still_names(self, daemon, comm):
        """A target that starts now is named: the daemon goes on."""
        path = os.path.join(self.directory, comm)
        shutil.copy(workload("w_cpp"), path)
        with Workload([path]):
            daemon.wait_named(selector(comm), "work::Engine::turn")

    def test_light_7__crafted_elf(self):
        with Daemon() as daemon:
            held = []
            for mode in craft_elf.MODES:
                with self.subTest(mode=mode):
                    path = os.path.join(self.directory, f"x_{mode}"[:15])
                    craft_elf.craft(workload("w_c"), path, mode)
                    os.chmod(path, 0o755)
                    comm = os.path.basename(path)
                    with Workload([path]):
                        wait_for(lambda c=comm: daemon.top(selector(c)), 20, f"samples of {mode}")
                        if mode in craft_elf.REFUSED:
                            wait_for(lambda p=path: p in daemon.log(), 20, f"the log naming {path}")
                            line = next(x for x in daemon.log().splitlines() if path in x)
                            self.assertGreater(len(line.split(path, 1)[1] + line.split(path, 1)[0]), 20, "no reason: " + line)
                    self.assertTrue(daemon.running(), daemon.log())
                    held.append(mode)
            self.still_names(daemon, "after_crafted")
            self.assertEqual(held, list(craft_elf.MODES))
            harness.figure("light.7", f"{len(held)} crafted files, a FIFO, a link, killed children: went on")

    def swapped(self, name, put):
        path = os.path.join(self.directory, name)
        shutil.copy(workload("w_c"), path)
        with Workload([path]):
            os.rename(path, path + ".away")
            put(path)
            with Daemon() as daemon:
                # The mapping still leads to the file, or the daemon says that it could not be opened; never a hang.
                wait_for(lambda: any("c_hot_half" in row["function"] for row in daemon.top(selector(name)))
                         or path in daemon.log(), 25, f"{path} named or told of")
                self.still_names(daemon, "after_" + name[:6])

    def test_light_7__fifo_in_place(self):
        self.swapped("w_fifo", os.mkfifo)

    def test_light_7__link_in_place(self):
        self.swapped("w_link", lambda path: os.symlink("/etc/shadow", path))

    def kill_child(self, kind):
        with Daemon() as daemon:
            old = wait_for(lambda: daemon.child(kind), 10, f"a {kind}")
            os.kill(old, signal.SIGSTOP)  # what is asked from now on is in mid-request
            path = os.path.join(self.directory, "w_kill")
            shutil.copy(workload("w_c"), path)
            with Workload([path]):
                if kind == "parser":
                    # Samples are there although nothing answers.
                    wait_for(lambda: daemon.status()["profilers"][0]["samples"] > 50, 20, "samples beside a stopped child")
                os.kill(old, signal.SIGKILL)
                new = wait_for(lambda: daemon.child(kind) not in (None, old) and daemon.child(kind), 15, f"a new {kind}")
                self.assertNotEqual(new, old)
                wait_for(lambda: re.search(kind, daemon.log()), 10, f"a log line about the {kind}")
                self.still_names(daemon, f"after_{kind}")

    def test_light_7__parser_killed(self):
        self.kill_child("parser")

    def test_light_7__opener_killed(self):
        self.kill_child("opener")


class Light8Nothing(unittest.TestCase):
    def leaves(self, signo):
        with Daemon() as daemon, Workload([workload("w_c")]):
            daemon.wait_named(selector("w_c"), "c_hot_half")
            daemon.note_held()
            kinds = sorted({kind for kind, _ in daemon.held})
            # On kernels without link descriptors for perf events there are programs and maps alone.
            self.assertIn("prog", kinds)
            self.assertIn("map", kinds)
            self.assertGreaterEqual(len(daemon.offspring), 2, "opener and parser")
            started = time.monotonic()
            code = daemon.stop(signo)
            self.assertLess(time.monotonic() - started, 20)
            return code, len(daemon.held)

    def test_light_8__sigterm(self):
        code, held = self.leaves(signal.SIGTERM)
        self.assertEqual(code, 0)
        harness.figure("light.8", f"SIGTERM and SIGKILL: {held} BPF objects and all children gone")

    def test_light_8__sigint(self):
        self.assertEqual(self.leaves(signal.SIGINT)[0], 0)

    def test_light_8__sigkill(self):
        self.assertEqual(self.leaves(signal.SIGKILL)[0], -signal.SIGKILL)

    def test_light_8__sigterm_while_it_starts(self):
        """At every stage of the start: when a child is there, when a program is loaded, when the socket is bound."""
        def has_program(daemon):
            return any(kind == "prog" for kind, _ in harness.bpf_objects_of(daemon.process.pid))

        stages = {"opener": lambda d: d.child("opener"), "program": has_program,
                  "socket": lambda d: os.path.exists(d.socket)}
        for name, reached in stages.items():
            with self.subTest(stage=name), Daemon(start=False) as daemon:
                with open(daemon.log_path, "ab") as log:
                    daemon.process = subprocess.Popen(daemon.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                      env=daemon.env)
                wait_for(lambda d=daemon, r=reached: r(d), 20, name)
                daemon.process.send_signal(signal.SIGTERM)
                self.assertEqual(daemon.process.wait(15), 0, daemon.log())
                self.assertFalse(os.path.exists(daemon.socket))
