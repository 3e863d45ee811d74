"""A daemon under test, its control program, and workloads beside it.

Nothing here sleeps for a result: wait_for polls a condition until a deadline. What is started is ended by its own pid,
on every path. BAROSCOPE_BUILD says which build is tested (default: build/san when it is there, else build)."""

import ctypes
import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time

from tests.lib.pprof import Profile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORKLOADS = os.path.join(ROOT, "build/workloads")
BPFTOOL = "/usr/sbin/bpftool" if os.path.exists("/usr/sbin/bpftool") else "bpftool"
LIBC = ctypes.CDLL(None)
SAN_REPORT = re.compile(r"ERROR: (Address|Leak|Undefined)\w*Sanitizer|runtime error:")


def build_dir():
    chosen = os.environ.get("BAROSCOPE_BUILD")
    if chosen:
        return os.path.join(ROOT, chosen)
    san = os.path.join(ROOT, "build/san")
    return san if os.path.exists(os.path.join(san, "baroscoped")) else os.path.join(ROOT, "build")


def wait_for(condition, timeout, what):
    """The condition's first true value. Polls: most of what is waited for has no event to wait on."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        select.select([], [], [], 0.05)


def figure(ident, text):
    """Leaves a figure for `make must-show`."""
    os.makedirs(os.path.join(ROOT, "build/figures"), exist_ok=True)
    with open(os.path.join(ROOT, "build/figures", ident), "w", encoding="utf-8") as out:
        out.write(text.rstrip("\n") + "\n")


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                    if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                        found.append(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def bpf_objects_of(pid):
    """{("prog"|"map"|"link", id)} that the descriptors of a process hold."""
    held = set()
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            with open(f"/proc/{pid}/fdinfo/{fd}", encoding="utf-8") as info:
                for line in info:
                    key, _, value = line.partition(":")
                    if key in ("prog_id", "map_id", "link_id"):
                        held.add((key[:-3], int(value)))
        except FileNotFoundError:
            continue
    return held


def bpf_objects():
    """All of the host, by their ids alone: whoever opens a program array that is just being freed (bpftool opens every map)
    makes the kernel free it twice, and then never."""
    there = set()
    for kind, command in (("prog", 11), ("map", 12), ("link", 31)):  # BPF_{PROG,MAP,LINK}_GET_NEXT_ID
        attr = (ctypes.c_uint32 * 8)()
        while LIBC.syscall(321, command, attr, ctypes.sizeof(attr)) == 0:
            there.add((kind, attr[1]))
            attr = (ctypes.c_uint32 * 8)(attr[1])
    return there


class Workload:
    """A process of the tests. Its first line, `started`, is waited for; stop() gives what it printed last, as JSON."""

    def __init__(self, command, wait_started=True, **popen):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        stdin=popen.pop("stdin", subprocess.DEVNULL), **popen)
        self.pid = self.process.pid
        if wait_started:
            ready, _, _ = select.select([self.process.stdout], [], [], 30)
            line = self.process.stdout.readline() if ready else b""
            if line.strip() != b"started":
                self.kill()
                raise AssertionError(f"{command} did not start: {line!r}")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def _last(self, output):
        lines = output.decode().strip().splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None

    def stop(self, timeout=30):
        self.process.send_signal(signal.SIGTERM)
        return self._last(self.process.communicate(timeout=timeout)[0])

    def finish(self, timeout):
        """Waits for an end of its own."""
        return self._last(self.process.communicate(timeout=timeout)[0])


def workload(name):
    path = os.path.join(WORKLOADS, name)
    if not os.path.exists(path):
        raise AssertionError(f"{path} is not built (make workloads)")
    return path


class Daemon:
    """baroscoped with state, socket and config of its own. One at a time on the machine, by a lock file."""

    def __init__(self, config="{}\n", env=None, arguments=(), build=None, start=True, check=True):
        self.directory = tempfile.mkdtemp(prefix="baroscope-e2e-")
        self.state = os.path.join(self.directory, "state")
        self.socket = os.path.join(self.directory, "control.sock")
        self.config = os.path.join(self.directory, "baroscope.yaml")
        self.log_path = os.path.join(self.directory, "log")
        self.build = build or build_dir()
        self.env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", **(env or {})}
        self.arguments = list(arguments)
        self.check = check
        self.process = None
        self.held, self.offspring = set(), []
        os.mkdir(self.state)
        self.write_config(config)
        # Held until stop(): two daemons would see each other in their counters.
        self.lock = open(os.path.join(tempfile.gettempdir(), "baroscope-e2e.lock"), "w", encoding="utf-8")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        if start:
            try:
                self.start()
            except BaseException:
                self.check = False
                self.close()
                raise

    def write_config(self, text):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def command(self):
        return [os.path.join(self.build, "baroscoped"), "--config", self.config, "--state-dir", self.state, "--socket",
                self.socket, *self.arguments]

    def start(self, timeout=30):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        started = time.monotonic()
        try:
            wait_for(self._is_ready, timeout, "the daemon's ready line")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None
        self.ready_seconds = time.monotonic() - started
        self.note_held()

    def _is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}")
        return any(re.search(r"\bready\b", line) for line in self.log().splitlines())

    def note_held(self):
        """Remembers what the daemon holds now, for the check that nothing stays."""
        self.held |= bpf_objects_of(self.process.pid)
        self.offspring = sorted(set(self.offspring) | set(children(self.process.pid)))

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def running(self):
        return self.process is not None and self.process.poll() is None

    def child(self, kind):
        """The pid of the opener or the parser, or None."""
        for pid in children(self.process.pid):
            if f"--internal-{kind}" in command_line(pid):
                return pid
        return None

    def ctl(self, *arguments, timeout=30, env=None):
        return subprocess.run([os.path.join(self.build, "baroctl"), "--socket", self.socket, *arguments],
                              capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
                              env={**self.env, **(env or {})})

    def _json(self, *arguments):
        done = self.ctl(*arguments)
        if done.returncode != 0:
            raise AssertionError(f"baroctl {' '.join(arguments)}: {done.returncode} {done.stderr.decode()}\n{self.log()}")
        return json.loads(done.stdout)

    def status(self):
        return self._json("status", "--json")

    def top(self, selector="{}", *arguments):
        return self._json("top", "process_cpu", selector, "--json", *(arguments or ("--since", "60s")))

    def profile(self, selector="{}", *arguments):
        """The json export."""
        return self._json("export", "process_cpu", selector, "--format", "json", *(arguments or ("--since", "60s")))

    def pprof(self, selector="{}", *arguments):
        path = os.path.join(self.directory, "out.pb.gz")
        done = self.ctl("export", "process_cpu", selector, "--format", "pprof", "-o", path,
                        *(arguments or ("--since", "60s")))
        if done.returncode != 0:
            raise AssertionError(f"export: {done.returncode} {done.stderr.decode()}")
        with open(path, "rb") as file:
            return Profile(file.read())

    def wait_named(self, selector, function, timeout=25, arguments=()):
        """Rows of top once a function whose name contains `function` is among them."""
        seen = []

        def look():
            rows = self.top(selector, "--limit", "100", *(arguments or ("--since", "60s")))
            seen[:] = [row["function"] for row in rows[:8]]
            return rows if any(function in row["function"] for row in rows) else None

        try:
            return wait_for(look, timeout, f"{function} in top {selector}")
        except AssertionError as error:
            raise AssertionError(f"{error}; there is: {seen}\n{self.log()[-3000:]}") from None

    def wait_exit(self, timeout):
        return self.process.wait(timeout)

    def stop(self, signo=signal.SIGTERM, timeout=10):
        """Ends the daemon and checks that nothing stays behind."""
        if not self.running():
            return self.process.returncode if self.process else None
        self.note_held()
        self.process.send_signal(signo)
        code = self.process.wait(timeout)
        if self.check:
            # The kernel frees programs and maps behind grace periods.
            wait_for(lambda: not self.held & bpf_objects(), 30, f"the end of some of {sorted(self.held)[:5]}..")
            wait_for(lambda: not any(alive(pid) for pid in self.offspring), 5, f"the end of children {self.offspring}")
            if signo != signal.SIGKILL and os.path.exists(self.socket):
                raise AssertionError("the socket file is left behind")
        return code

    def close(self):
        """Ends the daemon however it stands; on checked daemons asserts a clean end and no sanitizer report."""
        try:
            try:
                code = self.stop(timeout=30)
            except subprocess.TimeoutExpired:
                code = "no end within 30 s"
            log = self.log() if os.path.exists(self.log_path) else ""
            report = SAN_REPORT.search(log)
            if report:
                raise AssertionError(f"sanitizer report:\n{log[report.start():][:4000]}")
            if self.check and code not in (0, -signal.SIGKILL, None):
                raise AssertionError(f"the daemon ended with {code}\n{log[-3000:]}")
        finally:
            if self.running():
                self.process.kill()
                self.process.wait()
            self.lock.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            # The first failure counts; a further one on the way out must not hide it.
            self.check = False
            try:
                self.close()
            except AssertionError as error:
                print(f"# while ending: {error}")
        else:
            self.close()


def first_known(stack, names):
    """Which of the names a stack (leaf first, function names) is in: the first that is met from the leaf on."""
    for function in stack:
        for name in names:
            if name in function:
                return name
    return None
