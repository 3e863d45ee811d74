"""What the benches measure with: CPU time and memory of processes, BPF's own books, perf as the peer, and how a figure
is printed: `name value unit (peer value, ratio) [min..max]`, the median of the rounds."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

from tests.lib import harness
from tests.lib.harness import wait_for

STATS = "/proc/sys/kernel/bpf_stats_enabled"
TICKS = os.sysconf("SC_CLK_TCK")
KERNEL_HALF = 1 << 63
# The outermost function of a whole user stack; behind it there may be one more frame, the program's own _start without
# a name. Kernel threads, and processes before their first return to user space, begin in the others.
USER_START = re.compile(r"(_start|__libc_start_main|__libc_start_call_main|(__)?clone3?|start_thread|_dl_start_user)\b")
KERNEL_START = re.compile(r"(ret_from_fork\w*|secondary_startup\w*|\w*start_kernel|common_startup\w*)\b")


def end_by_exception():
    """SIGTERM leaves by way of every `finally`: a bench must not leave a load behind."""
    def leave(_signo, _frame):
        raise SystemExit(143)
    signal.signal(signal.SIGTERM, leave)


def wait_seconds(seconds):
    deadline = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() >= deadline, seconds + 10, "the measured time")


def cpu_seconds(pid):
    """Of a process with all its threads, also those that have ended: its CPU clock, in ns."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def family(pid):
    return [pid, *harness.children(pid)]


def family_seconds(pid):
    """Of the daemon, its children, and those of them that have ended."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return sum(cpu_seconds(one) for one in family(pid)) + (int(fields[13]) + int(fields[14])) / TICKS


def _status_field(pids, key):
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), \
                open(f"/proc/{pid}/status", encoding="utf-8") as file:
            total += int(re.search(rf"^{key}:\s+(\d+)", file.read(), re.M).group(1)) << 10
    return total


def peak_bytes(pids):
    return _status_field(pids, "VmHWM")


def memory_bytes(pids):
    """(rss, pss, of the rss: pages of BPF maps). A map that is mapped is in the maps' own books already."""
    rss = pss = mapped = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), \
                open(f"/proc/{pid}/smaps", encoding="utf-8") as file:
            in_map = False
            for line in file:
                key, _, value = line.partition(":")
                if "-" in key:
                    in_map = "bpf-map" in line or "bpf_map" in line
                elif key == "Rss":
                    size = int(value.split()[0]) << 10
                    rss += size
                    mapped += size if in_map else 0
                elif key == "Pss":
                    pss += int(value.split()[0]) << 10
    return rss, pss, mapped


def _host(kind):
    done = subprocess.run([harness.BPFTOOL, "-j", kind, "show"], capture_output=True, check=True, timeout=30)
    return {item["id"]: item for item in json.loads(done.stdout or b"[]") or []}


class Bpf:
    """The BPF objects that came since this was made: a daemon's programs and maps, with the maps inside of maps, which
    no descriptor needs to hold."""

    def __init__(self):
        self.before = {kind: set(_host(kind)) for kind in ("prog", "map")}

    def _own(self, kind):
        return [item for ident, item in _host(kind).items() if ident not in self.before[kind]]

    def names(self):
        """{id: name} of the programs."""
        return {item["id"]: item.get("name", "") for item in self._own("prog")}

    def map_bytes(self):
        return sum(item["bytes_memlock"] for item in self._own("map"))


def run_ns(pid):
    """{program id: ns} of the programs that a process holds, asked without a process that would be sampled itself. One
    that is reached by a tail call runs on the time of the one that was called first."""
    spent = {}
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/fdinfo/{fd}", encoding="utf-8") as file:
            fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
            # A link's descriptor names its program too, and has no figures.
            if "run_time_ns" in fields:
                spent[int(fields["prog_id"])] = int(fields["run_time_ns"])
    return spent


@contextlib.contextmanager
def bpf_stats():
    with open(STATS, encoding="utf-8") as file:
        before = file.read()
    try:
        with open(STATS, "w", encoding="utf-8") as out:
            out.write("1")
        yield
    finally:
        with open(STATS, "w", encoding="utf-8") as out:
            out.write(before)


class Control:
    """The daemon's socket, without a process a question."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(path)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def status(self):
        self.socket.sendall(b'{"method":"io.baroscope.Control.Status"}\0')
        answer = bytearray()
        while not answer.endswith(b"\0"):
            part = self.socket.recv(1 << 16)
            if not part:
                raise AssertionError("the daemon closed the connection")
            answer += part
        reply = json.loads(answer[:-1])
        if "error" in reply:
            raise AssertionError(f"Status: {reply['error']}")
        return reply["parameters"]


class Perf:
    """perf record of the whole machine, with what it writes. mode: fp (-g) or dwarf. Its time in the interrupt is in
    nobody's books, so only its user side can be told."""

    def __init__(self, mode, rate):
        self.directory = tempfile.mkdtemp(prefix="baroscope-bench-")
        self.path = os.path.join(self.directory, "data")
        graph = ["-g"] if mode == "fp" else ["--call-graph", "dwarf"]
        self.process = subprocess.Popen(["perf", "record", "-q", "-F", str(rate), *graph, "-a", "-e", "cpu-clock", "-o",
                                         self.path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        self.began = time.monotonic()
        try:
            wait_for(lambda: os.path.exists(self.path) or self.process.poll() is not None, 20, "perf's file")
            if self.process.poll() is not None:
                raise AssertionError(f"perf record ended with {self.process.returncode}")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def stop(self):
        """Bytes a second. It writes when its buffers are full and at the end, so only the whole file tells the rate."""
        sampled = time.monotonic() - self.began
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)
        return os.path.getsize(self.path) / sampled

    def stacks(self, timeout=300):
        """[(comm, user frames, kernel frames)]: names, leaf first."""
        done = subprocess.run(["perf", "script", "--no-inline", "-F", "comm,pid,ip,sym", "-i", self.path],
                              capture_output=True, check=True, timeout=timeout, stdin=subprocess.DEVNULL,
                              env={**os.environ, "DEBUGINFOD_URLS": ""})
        return parse_script(done.stdout.decode(errors="replace"))


def parse_script(text):
    found, comm, user, kernel = [], None, [], []
    for line in [*text.splitlines(), ""]:
        words = line.split(None, 1)
        if not words:
            if comm is not None:
                found.append((comm, user, kernel))
            comm, user, kernel = None, [], []
        elif comm is None:
            comm = line.rsplit(None, 1)[0].strip()
        else:
            (kernel if int(words[0], 16) & KERNEL_HALF else user).append(words[1] if len(words) > 1 else "")
    return found


def is_whole(user, kernel):
    if user:
        return any(USER_START.match(name) for name in user[-2:])
    return bool(kernel) and bool(KERNEL_START.match(kernel[-1]))


def whole_share(stacks):
    """Per cent of the stacks that reach where their thread began; idle CPUs have none. None where there is no stack."""
    judged = [is_whole(user, kernel) for comm, user, kernel in stacks if comm != "swapper"]
    return 100 * sum(judged) / len(judged) if judged else None


class Figures:
    """Lines of figures."""

    def __init__(self):
        self.lines = []

    def add(self, name, values, unit, digits=2, **peers):
        """peers: name of the peer -> its values, or one value that is known of it."""
        values = [value for value in values if value is not None]
        if not values:
            return
        middle = statistics.median(values)
        shown = []
        for peer, theirs in peers.items():
            theirs = [one for one in (theirs if isinstance(theirs, list) else [theirs]) if one is not None]
            if theirs:
                other = statistics.median(theirs)
                ratio = f", ratio {middle / other:.2f}" if other else ""
                shown.append(f"{peer.replace('_', ' ')} {other:.{digits}f}{ratio}")
        text = f"{name} {middle:.{digits}f} {unit}"
        text += f" ({'; '.join(shown)})" if shown else ""
        text += f" [{min(values):.{digits}f}..{max(values):.{digits}f}]" if len(values) > 1 else ""
        self.lines.append(text)

    def note(self, text):
        self.lines.append(f"# {text}")

    def leave(self, ident):
        text = "\n".join(self.lines)
        print(text, flush=True)
        harness.figure(ident, text)
