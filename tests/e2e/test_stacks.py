"""The promises of the table unwinder, from outside: stacks.1 (real targets), .4 (cache), .5 (memory), .6 (hostile)."""

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from tests.lib import harness, targets
from tests.lib.harness import Daemon, Workload, wait_for, workload
from tests.lib.stacks import complete_share, ending
from tests.workloads import craft_elf

RATE = 499
CONFIG = f"cpu: {{rate_hz: {RATE}}}\n"
SINCE = ("--since", "4m")
# An image's first stacks are taken before its table, a process's first ones before its mappings are known.
YOUNG = ("no_table", "no_mappings")


def selector(comm):
    return f'{{comm="{comm}"}}'


def shares_of(daemon, chosen):
    return complete_share(daemon.profile(chosen, *SINCE))


def unwinding(daemon):
    return daemon.status()["unwinding"]


def wait_ticks(daemon, seconds):
    """By the daemon's own clock: this much time was sampled."""
    def ticks():
        return daemon.status()["profilers"][0]["ticks"]

    until = ticks() + seconds * RATE * os.cpu_count() * 0.98
    wait_for(lambda: ticks() >= until, 30 + 4 * seconds, f"{seconds} s of ticks")


def sampled(daemon, chosen, seconds, samples=1):
    """Shares of what is sampled during this time, or longer until there are that many samples."""
    before = shares_of(daemon, chosen)
    wait_ticks(daemon, seconds)
    last = []

    def enough():
        last[:] = [shares_of(daemon, chosen).minus(before)]
        return last[0].samples >= samples and last[0]

    try:
        return wait_for(enough, 30, f"{samples} samples of {chosen}")
    except AssertionError as error:
        raise AssertionError(f"{error}; there is: {last[0]}") from None


def settle(daemon, chosen, quiet=2, timeout=25):
    """Until its tables are loaded: nothing is on its way, and for two seconds no stack was young. False: not in time."""
    deadline = time.monotonic() + timeout
    wait_for(lambda: shares_of(daemon, chosen).samples, timeout, f"samples of {chosen}")
    while time.monotonic() < deadline:
        piece = sampled(daemon, chosen, quiet)
        if unwinding(daemon)["waiting"] == 0 and not any(piece.causes[cause] for cause in YOUNG):
            return True
    return False


def wait_whole(daemon, chosen, seconds, least=30):
    """Until none of `least` stacks in a row is young. How long that took; the time begins with the call."""
    began = time.monotonic()
    looks = [shares_of(daemon, chosen)]

    def look():
        now = shares_of(daemon, chosen)
        piece = now.minus(looks[-1])
        if piece.samples < least:
            return False
        looks.append(now)
        return not any(piece.causes[cause] for cause in YOUNG)

    try:
        wait_for(look, seconds, f"whole stacks of {chosen}")
    except AssertionError as error:
        raise AssertionError(f"{error}; there is: {looks[-1]}\n{state_of(daemon)}") from None
    return time.monotonic() - began


def answered(daemon):
    """Images whose table was made, or refused, so far."""
    now = unwinding(daemon)
    return now["compiled"] + now["none"] + now["failed"]


def state_of(daemon):
    status = daemon.status()
    incomplete = {cause: count for cause, count in status["profilers"][0]["incomplete"].items() if count}
    return f"unwinding {status['unwinding']}, incomplete {incomplete}"


class Stacks1Targets(unittest.TestCase):
    """One daemon for all: the image of one is still there when the next comes."""
    SECONDS, SAMPLES = 6, 2000

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(CONFIG)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.close()

    def whole(self, start, roots, samples=SAMPLES, least=99.5, native=100):
        """roots: what whole stacks of it end in, nameless frames included."""
        self.assertTrue(self.daemon.running(), self.daemon.log()[-3000:])
        with start() as target:
            settled = settle(self.daemon, target.selector)
            for tree in target.trees:
                tree.check()
            shares = sampled(self.daemon, target.selector, self.SECONDS, samples)
            for tree in target.trees:
                tree.check()
        print(f"# {target.name}: {shares}", flush=True)
        harness.figure(f"stacks.1-{target.name}", f"{target.name}: {shares}")
        detail = (f"{target.name}{'' if settled else ' (not settled)'}: {shares}\n{shares.examples()}\n"
                  f"{state_of(self.daemon)}")
        self.assertGreaterEqual(shares.samples, samples, detail)
        self.assertGreaterEqual(shares.native_pct(), least, detail)
        # A figure of few native samples would say nothing.
        self.assertGreaterEqual(shares.samples * (1 - shares.cause_pct("jit") / 100), native, detail)
        # Whole is not by luck: nearly all whole stacks end where programs and threads of this kind begin.
        fitting = sum(value for name, value in shares.roots.items() if re.search(roots, name))
        self.assertGreater(fitting, 0.99 * shares.complete,
                           f"whole stacks end elsewhere: {shares.roots.most_common(10)}\n{detail}")
        return shares

    # Threads begin in clone3 or clone, nameless where the C library's names are stripped.
    LIBC = r"^(_start|__clone3?|clone3?|start_thread|_?_?libc_start.*|\[libc\.so\.6\])$|ret_from_fork"

    def libc_or(self, *names):
        return self.LIBC + "".join("|" + name for name in names)

    def test_stacks_1_redis(self):
        self.whole(targets.redis, self.libc_or(r"\[redis-(server|check-rdb)\]"))

    def test_stacks_1_postgres(self):
        self.whole(targets.postgres, self.libc_or(r"\[postgres\]"))

    def test_stacks_1_nginx(self):
        self.whole(targets.nginx, self.libc_or(r"\[nginx\]"))

    def test_stacks_1_python3(self):
        self.whole(targets.python3, self.libc_or(r"\[python3\.\d+\]"))

    def test_stacks_1_node(self):
        self.whole(targets.node, self.libc_or(r"\[node\]"), 4000)

    def test_stacks_1_node_perf(self):
        self.whole(targets.node_perf, self.libc_or(r"\[node\]"), 4000)

    def test_stacks_1_java(self):
        self.whole(targets.java, self.libc_or(r"\[java\]"), native=20)

    def test_stacks_1_java_fp(self):
        self.whole(targets.java_fp, self.libc_or(r"\[java\]"))

    def test_stacks_1_gzip(self):
        self.whole(targets.gzip, self.libc_or(r"\[gzip\]"))

    def test_stacks_1_xz(self):
        self.whole(targets.xz, self.libc_or(r"\[xz\]"))

    def test_stacks_1_openssl(self):
        self.whole(targets.openssl, self.libc_or(r"\[openssl\]"))

    def test_stacks_1_chromium(self):
        self.whole(targets.chromium, self.libc_or(r"\[chromium\]"))

    def test_stacks_1_go(self):
        self.whole(targets.go, r"^(runtime\.goexit|runtime\.mstart|runtime\.rt0_go|_rt0_amd64|runtime\.mcall|"
                               r"runtime\.systemstack|runtime\.sigreturn)|_linux$")

    def test_stacks_1_go_stripped(self):
        self.whole(targets.go_stripped, r"^(runtime\.goexit|runtime\.mstart|runtime\.rt0_go|_rt0_amd64|runtime\.mcall|"
                                        r"runtime\.systemstack|runtime\.sigreturn)|_linux$|\[w_go_stripped\]")

    def test_stacks_1_rust(self):
        self.whole(targets.rust, self.LIBC)

    def test_stacks_1_unwind(self):
        shares = self.whole(targets.unwind, self.LIBC)
        self.assertGreater(shares.depth(1), 400, "recursion is not walked to its end")

    def test_stacks_1_unwind_parts(self):
        """Each of its ways to be hard is among the stacks, and its stacks are whole."""
        with targets.unwind() as target:
            settle(self.daemon, target.selector)
            before = self.parts(target)
            wait_ticks(self.daemon, self.SECONDS)
            after = self.parts(target)
        for part in PARTS:
            total, whole = (after[part][i] - before[part][i] for i in (0, 1))
            with self.subTest(part=part):
                self.assertGreater(total, 0, f"no stack goes through {part}")
                # libgcc's eh_return has the return address in a register and overwrites the stack below it: a few
                # instructions that call frame information does not describe, and libdwfl fails at them too.
                least = 0.98 if part in ("exceptions", "while unwinding") else 0.995
                self.assertGreaterEqual(whole / total, least, f"{part}: {100 * whole / total:.2f} % whole; "
                                                              f"{shares_of(self.daemon, target.selector).examples()}")

    def parts(self, target):
        """{part: [value of stacks through it, of those that are whole]}"""
        profile = self.daemon.profile(target.selector, *SINCE)
        found = {part: [0, 0] for part in PARTS}
        names, stacks = profile["names"], profile["stacks"]
        through = []  # of each node: its parts, whether the stack is whole
        for parent, number, own in zip(stacks["parent"], stacks["name"], stacks["self"]):
            parts, whole = through[parent] if parent >= 0 else (frozenset(), not ending(names[number]))
            new = {part for part, pattern in PARTS.items() if re.search(pattern, names[number])}
            node = (parts | new if new - parts else parts, whole)
            through.append(node)
            for part in node[0]:
                found[part][0] += own
                found[part][1] += own if node[1] else 0
        return found

    def test_stacks_1_first(self):
        """Of a program that nobody ran before, the first stacks say why they are not whole; none of the later ones."""
        with tempfile.TemporaryDirectory(prefix="baroscope-first-") as directory:
            path = os.path.join(directory, "w_first")
            fresh_copy(workload("w_unwind"), path, b"first" + os.urandom(15))
            with Workload([path]):
                wait_for(lambda: any(shares_of(self.daemon, selector("w_first")).causes[cause] for cause in YOUNG), 20,
                         "stacks without table or mappings")
                self.assertTrue(settle(self.daemon, selector("w_first")), state_of(self.daemon))
                first = shares_of(self.daemon, selector("w_first"))
                later = sampled(self.daemon, selector("w_first"), 4, 1000)
        young = {cause: first.causes[cause] for cause in YOUNG if first.causes[cause]}
        self.assertTrue(young, first)
        self.assertEqual([cause for cause in YOUNG if later.causes[cause]], [], later)
        self.assertGreaterEqual(later.native_pct(), 99.5, f"{later}\n{later.examples()}")
        harness.figure("stacks.1-first", "fresh program: " + ", ".join(
            f"{cause} for {value / 1e6:.0f} ms of CPU time" for cause, value in young.items()) + ", none after")


PARTS = {"exceptions": r"throw_below", "while unwinding": r"_Unwind_RaiseException", "signal handlers": r"on_signal",
         "variable frames": r"in_vla", "coroutines": r"descend", "PLT": r"run_plt", "callback": r"by_value",
         "vDSO": r"clock_gettime|\[vdso\]", "recursion": r"recurse", "threads": r"run_thread|_M_run"}


def fresh_copy(source, path, build_id):
    """A program that differs from the source in its build id, 20 bytes, so that no table of it can be known."""
    with open(source, "rb") as file:
        data = bytearray(file.read())
    note = data.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    if note < 0:
        raise AssertionError(f"{source} has no build id")
    data[note + 16:note + 36] = build_id[:20].ljust(20, b"\0")
    with open(path, "wb") as file:
        file.write(data)
    os.chmod(path, 0o755)


class Stacks4Cache(unittest.TestCase):
    def files(self, daemon):
        """{path: inode} of the tables on disk."""
        found = {}
        for path in glob.glob(os.path.join(daemon.state, "**"), recursive=True):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError), open(path, "rb") as file:
                if file.read(8).startswith(b"BAROTAB"):
                    found[path] = os.stat(path).st_ino
        return found

    def build_id(self, path):
        done = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True, timeout=30)
        return re.search(r"Build ID: ([0-9a-f]+)", done.stdout).group(1)

    def wait_cached(self, daemon, ids):
        """The files of these build ids, once each is there."""
        def look():
            files = self.files(daemon)
            own = {ident: [path for path in files if ident in os.path.basename(path)] for ident in ids}
            return {ident: paths[0] for ident, paths in own.items() if paths} if all(own.values()) else None

        try:
            return wait_for(look, 30, "tables in the cache")
        except AssertionError as error:
            raise AssertionError(f"{error}; {state_of(daemon)}\n{sorted(self.files(daemon))}") from None

    def restart(self, daemon, target):
        self.assertEqual(daemon.stop(timeout=30), 0, daemon.log())
        self.assertNotRegex(daemon.log(), harness.SAN_REPORT)
        os.truncate(daemon.log_path, 0)  # start() waits for its own `ready`
        daemon.start()
        self.assertTrue(settle(daemon, target.selector), state_of(daemon))

    def test_stacks_4_cache(self):
        with targets.unwind() as target, Daemon(CONFIG) as daemon:
            with open(f"/proc/{target.pids()[0]}/maps", encoding="utf-8") as maps:
                libc = next(line.split()[5] for line in maps if line.rstrip().endswith("/libc.so.6"))
            ids = {self.build_id(path) for path in (target.binary, libc)}
            self.assertEqual(len(ids), 2)
            self.assertTrue(settle(daemon, target.selector), state_of(daemon))
            first = unwinding(daemon)
            self.assertGreater(first["compiled"], 0, first)
            own = self.wait_cached(daemon, ids)
            files = self.files(daemon)

            # The second start finds them. Others of this machine may be sampled for the first time.
            self.restart(daemon, target)
            second = unwinding(daemon)
            again = self.files(daemon)
            self.assertGreaterEqual(second["cache_hits"], len(own), second)
            self.assertLessEqual(second["compiled"], len(set(again) - set(files)), second)
            self.assertEqual({path: again.get(path) for path in files}, files, "a cached table was written anew")

            # A cut one and one with a flipped bit are noticed, and made anew.
            kept = {}
            for path, spoil in zip(sorted(own.values()), (self.cut, self.flip)):
                with open(path, "rb") as file:
                    kept[path] = file.read()
                spoil(path, kept[path])
            self.restart(daemon, target)
            third = unwinding(daemon)
            self.assertEqual(third["cache_broken"], 2, third)
            self.assertGreaterEqual(third["compiled"], 2, third)
            for path, data in kept.items():
                def whole(path=path, data=data):
                    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                        return file.read() == data
                    return False
                wait_for(whole, 15, f"{path} as it was")
            shares = sampled(daemon, target.selector, 3, 1000)
            self.assertGreaterEqual(shares.native_pct(), 99.5, f"{shares}\n{shares.examples()}")
            harness.figure("stacks.4-cache", f"second start: {second['cache_hits']} tables from the cache, "
                                             f"{second['compiled']} compiled; a cut and a changed file compiled anew")

    def cut(self, path, data):
        with open(path, "wb") as file:
            file.write(data[:len(data) * 2 // 3])

    def flip(self, path, data):
        with open(path, "wb") as file:
            middle = len(data) // 2
            file.write(data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1:])


class Stacks5Memory(unittest.TestCase):
    FORKS, SHORT = 500, 2000
    OTHERS = 10

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="baroscope-mem-")
        self.addCleanup(shutil.rmtree, self.directory, True)

    def test_stacks_5_forks(self):
        """Processes of one binary share its table."""
        with Daemon(CONFIG) as daemon, targets.unwind() as target:
            self.assertTrue(settle(daemon, target.selector), state_of(daemon))
            looks = []

            def no_more():
                before, now = looks[-1]
                return all(after <= was for was, after in zip(before, now))

            # Another program of this machine may be sampled for the first time just then: it is tried again.
            for _ in range(4):
                looks.append(self.with_forks(daemon))
                if no_more():
                    break
            self.assertTrue(no_more(), "(images, rows, bytes of tables, bytes of maps) before and while "
                                       f"{self.FORKS} processes more ran, each time: {looks}")
            images, rows, table_bytes, map_bytes = looks[-1][1]
            self.assertGreater(table_bytes, 0)
            harness.figure("stacks.5-forks", f"{self.FORKS} processes of one binary add nothing: {images} images, {rows} "
                                             f"rows, {table_bytes} bytes of tables, {map_bytes} of maps; before them "
                                             f"{', '.join(str(value) for value in looks[-1][0])}")

    def with_forks(self, daemon):
        """What tables take before and while the processes run, each of which has been sampled."""
        def look():
            status = daemon.status()
            now = status["unwinding"]
            loads = sum(now[key] for key in ("compiled", "cache_hits", "none", "failed"))
            return (now["images"], now["rows"], now["table_bytes"], status["memory"]["map_bytes"]), loads

        before, loads_before = look()
        with Workload([workload("w_unwind"), "--forks", str(self.FORKS)]) as forker:
            self.assertEqual(len(harness.children(forker.pid)), self.FORKS)
            wait_for(lambda: daemon.status()["targets"] > self.FORKS, 20, f"{self.FORKS} targets")
            wait_ticks(daemon, 1)
            wait_for(lambda: unwinding(daemon)["waiting"] == 0, 20, "all tables")
            now, loads = look()
            pids = {sample["labels"]["pid"] for sample in daemon.pprof(selector("w_unwind"), *SINCE).samples}
            sampled_forks = len(pids & set(harness.children(forker.pid)))
        self.assertGreater(sampled_forks, 0.9 * self.FORKS, "processes without a sample show nothing")
        self.assertLess(loads - loads_before, self.FORKS // 5)
        return before, now

    def test_stacks_5_short(self):
        """Programs that nobody maps any more leave no table behind."""
        with Daemon(CONFIG) as daemon, targets.unwind() as target:
            self.assertTrue(settle(daemon, target.selector), state_of(daemon))
            before = unwinding(daemon)
            running, most = [], 0
            for number in range(self.SHORT):
                path = os.path.join(self.directory, f"short{number}")
                fresh_copy(workload("w_c"), path, b"short" + number.to_bytes(4, "little") + os.urandom(11))
                # Not waited for: its first line is read by nobody, a pipe holds it.
                running.append((path, Workload([path, "--cpu-seconds", "0.03"], wait_started=False)))
                if len(running) == 4:
                    self.reap(running.pop(0))
                if number % 100 == 0:
                    most = max(most, unwinding(daemon)["images"])
            for one in running:
                self.reap(one)
            after = unwinding(daemon)
            loaded = sum(after[key] - before[key] for key in ("compiled", "cache_hits"))
            self.assertGreater(loaded, self.SHORT // 20, f"hardly any of them had a table: {before} {after}")

            def gone():
                now = unwinding(daemon)
                # A few of other programs that were sampled meanwhile for the first time.
                return now["images"] <= before["images"] + self.OTHERS and now

            try:
                now = wait_for(gone, 60, "the end of their tables")
            except AssertionError as error:
                raise AssertionError(f"{error}: before {before}; now {unwinding(daemon)}") from None
            shares = sampled(daemon, target.selector, 2, 1000)
            self.assertGreaterEqual(shares.native_pct(), 99.5, f"{shares}\n{shares.examples()}")
            harness.figure("stacks.5-short", f"{self.SHORT} short programs, {loaded} tables loaded, at most {most} at a "
                                             f"look: {now['images']} images after, {before['images']} before")

    def reap(self, one):
        path, process = one
        process.finish(60)
        process.kill()
        os.unlink(path)


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", encoding="utf-8") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Stacks6Hostile(unittest.TestCase):
    """Call frame information that lies."""
    GOOD_SECONDS = 15

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="baroscope-cfi-")
        self.addCleanup(shutil.rmtree, self.directory, True)

    def refused(self, daemon, path):
        """Whether the log says of this file, in one line, that its table is not used."""
        return any("has no usable unwind table" in line and f'path="{path}"' in line
                   for line in daemon.log().splitlines())

    def beside(self, daemon, mode, path, target):
        """Runs the hostile file, and a good program that nobody ran before. How long they waited for their answers, and
        the shares of the target meanwhile."""
        comm = os.path.basename(path)
        good = os.path.join(self.directory, f"w_{mode}"[:15])
        fresh_copy(workload("w_unwind"), good, os.urandom(20))
        before, failed = answered(daemon), unwinding(daemon)["failed"]
        others, began = shares_of(daemon, target.selector), time.monotonic()
        with Workload([path]):
            wait_for(lambda: shares_of(daemon, selector(comm)).samples > 0, 30, f"samples of {mode}")
            with Workload([good]):
                good_seconds = wait_whole(daemon, selector(os.path.basename(good)), self.GOOD_SECONDS)
                # One answer is that of the good program.
                wait_for(lambda: answered(daemon) >= before + 2, 30, f"an answer about {mode}")
                seconds = time.monotonic() - began
                after = sampled(daemon, selector(os.path.basename(good)), 1, 200)
            # So many that a few stacks (0.1 % are not whole, most of them while exceptions unwind) don't decide.
            shares = wait_for(lambda: (now := shares_of(daemon, target.selector).minus(others)).samples >= 1500 and now,
                              30, "samples beside it")
        self.assertGreaterEqual(after.native_pct(), 98.0, f"beside {mode}: {after}\n{after.examples()}")
        if mode in craft_elf.CFI_REFUSED:
            self.assertGreater(unwinding(daemon)["failed"], failed, mode)
        return seconds, good_seconds, shares

    def test_stacks_6_hostile(self):
        modes = [mode for mode in craft_elf.MODES if mode.startswith("cfi_")]
        self.assertGreaterEqual(len(modes), 4)
        # What the sanitizer keeps of freed memory is not the daemon's.
        environment = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:quarantine_size_mb=4"}
        with Daemon(CONFIG, environment) as daemon, targets.unwind() as target:
            self.assertTrue(settle(daemon, target.selector), state_of(daemon))
            parser, restarts = daemon.child("parser"), daemon.status()["images"]["parser_restarts"]
            rss, marked, took, good = resident_bytes(daemon.process.pid), [], [], []
            for mode in modes:
                with self.subTest(mode=mode):
                    path = os.path.join(self.directory, f"x_{mode}"[:15])
                    craft_elf.craft(workload("w_c"), path, mode)
                    os.chmod(path, 0o755)
                    seconds, good_seconds, shares = self.beside(daemon, mode, path, target)
                    took.append(seconds)
                    good.append(good_seconds)
                    if self.refused(daemon, path):
                        marked.append(mode)
                    print(f"# {mode}: {'marked' if mode in marked else 'loaded'} after {took[-1]:.1f} s, a good "
                          f"program whole after {good[-1]:.1f} s; beside it: {shares}", flush=True)
                    self.assertGreaterEqual(shares.native_pct(), 99.0, f"beside {mode}: {shares}\n{shares.examples()}")
                    self.assertTrue(daemon.running(), daemon.log()[-3000:])
                    self.assertLess(took[-1], 40, mode)
            self.assertEqual(marked, craft_elf.CFI_REFUSED, f"marked; the log says:\n{daemon.log()[-3000:]}")
            # A time-out ends a parser; no file ends more than one.
            restarts = daemon.status()["images"]["parser_restarts"] - restarts
            self.assertLessEqual(restarts, len(modes), daemon.log()[-3000:])
            grown = resident_bytes(daemon.process.pid) - rss
            self.assertLess(grown, 256 << 20, "resident bytes of the daemon")
            again = daemon.child("parser")
            self.assertTrue(again)
            self.assertEqual(again == parser, restarts == 0, "restarts that nobody counted")
            harness.figure("stacks.6", f"{len(modes)} files with hostile tables ({', '.join(marked)} marked), longest "
                                       f"{max(took):.1f} s; good programs started beside them whole after at most "
                                       f"{max(good):.1f} s; {restarts} parser restarts; daemon {grown >> 20} MiB "
                                       "larger")
