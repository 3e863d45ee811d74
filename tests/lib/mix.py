"""Loads for the benches: programs of Debian without frame pointers, all of them busy, and short programs beside them.

A cost is measured over minutes, so each load stays what it is: one process a program, no feeders, no process starts but
those that are asked for (tests/lib/targets.py has targets that vary as much as they can). Processes are started
directly, die with the thread that started them, and are ended by pid on every path."""

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time

from tests.lib import harness
from tests.lib.harness import wait_for

PYTHON = "/usr/bin/python3"
# Interpreted work of several kinds: a big C program whose own frames lie between the leaf and the start.
SCRIPT = """
import hashlib, json, re
words = [f"word{i * 7919 % 10007}" for i in range(4000)]
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
while True:
    tree = json.loads(json.dumps({word: [i, str(i), {"at": i / 3}] for i, word in enumerate(words)}))
    found = re.findall(r"w(or)d(\\d+)7", " ".join(sorted(tree, key=lambda word: word[::-1])))
    fib(16)
    hashlib.sha256(repr(found).encode()).hexdigest()
"""


def _text(size):
    """Compressible as source code is; the same in every run."""
    source = random.Random(4)
    words = ["".join(source.choices("etaoinshrdlu_", k=source.randint(2, 10))) for _ in range(3000)]
    out = bytearray()
    while len(out) < size:
        out += (" ".join(source.choices(words, k=source.randint(1, 12))) + "\n").encode()
    return bytes(out[:size])


def _start(command, directory):
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], cwd=directory, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class _Programs:
    """Some processes in a directory of their own."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="baroscope-mix-")
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, *command):
        process = _start(command, self.directory)
        self.processes.append(process)
        return process

    def pids(self):
        return [process.pid for process in self.processes]

    def check(self):
        """A figure of a load that has ended is none."""
        for process in self.processes:
            if process.poll() is not None:
                raise AssertionError(f"{process.args} ended with {process.returncode}")


class Heavy(_Programs):
    """Deep C++, gzip, xz, python3, openssl and redis under its benchmark: at least two busy processes a CPU."""

    name = "deep C++, gzip, xz, python3, openssl, redis"

    def __init__(self):
        super().__init__()
        try:
            with open(os.path.join(self.directory, "text"), "wb") as out:
                out.write(_text(8 << 20))
            for _ in range(max(1, (2 * os.cpu_count() + 5) // 6)):
                self._one_of_each()
        except BaseException:
            self.__exit__()
            raise

    def _one_of_each(self):
        # One process over the same file again and again: hours, and no process starts.
        again = ["text"] * 20000
        self.start(harness.workload("w_deep"))
        self.start("gzip", "-9c", *again)
        self.start("xz", "-6c", *again)
        self.start(PYTHON, "-S", "-c", SCRIPT)
        self.start("openssl", "speed", "-seconds", "36000", "rsa2048")
        socket = os.path.join(self.directory, f"redis{len(self.processes)}")
        self.start("redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no",
                   "--daemonize", "no", "--dir", self.directory)
        wait_for(lambda: os.path.exists(socket), 20, "redis-server's socket")
        self.start("redis-benchmark", "-s", socket, "-q", "-l", "-c", "20", "-n", "200000", "-r", "10000", "-t",
                   "set,get,incr,hset,sadd,zadd")


class Light(_Programs):
    """The tests' own workloads: C, C++, Rust and Go with frame pointers and shallow stacks."""

    name = "w_c, w_cpp, w_rust, w_go"

    def __init__(self):
        super().__init__()
        programs = self.name.split(", ")
        try:
            for number in range(max(len(programs), 2 * os.cpu_count())):
                self.start(harness.workload(programs[number % len(programs)]))
        except BaseException:
            self.__exit__()
            raise


class Deep(_Programs):
    """One w_deep a CPU."""

    DEPTH = 60  # what w_deep has

    def __init__(self, depth=DEPTH):
        super().__init__()
        try:
            for _ in range(os.cpu_count()):
                self.start(harness.workload("w_deep"), str(depth))
        except BaseException:
            self.__exit__()
            raise


class Churn(contextlib.AbstractContextManager):
    """Starts short programs of different kinds at an even rate, from a thread; each is one process of a few ms."""

    LIMIT = 64  # alive at once: on a machine that can't keep up, starts are left out and counted

    def __init__(self, rate):
        self.rate = rate
        self.directory = tempfile.mkdtemp(prefix="baroscope-churn-")
        with open(os.path.join(self.directory, "small"), "wb") as out:
            out.write(_text(64 << 10))
        loop = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done"
        self.commands = [["gzip", "-9c", "small"], [PYTHON, "-S", "-c", "import json; json.dumps(list(range(20000)))"],
                         ["sh", "-c", loop], ["ls", "-lR", "/usr/lib/x86_64-linux-gnu/perl-base", "/etc"],
                         ["sort", "small"], ["openssl", "dgst", "-sha256", "small"], ["xz", "-1c", "small"],
                         ["grep", "-cE", "(e|t)a.*o[ins]+h", "small"]]
        self.started = self.left_out = 0
        self.failure = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        alive, number, due = [], 0, time.monotonic()
        try:
            while not self._end.wait(max(0, due - time.monotonic())):
                due += 1 / self.rate
                alive = [process for process in alive if process.poll() is None]
                if len(alive) >= self.LIMIT:
                    self.left_out += 1
                    continue
                # Not by way of setpriv: that would be two programs a start.
                alive.append(subprocess.Popen(self.commands[number % len(self.commands)], cwd=self.directory,
                                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                              stderr=subprocess.DEVNULL))
                number += 1
                self.started = number
        except OSError as error:
            self.failure = error
        finally:
            for process in alive:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def check(self):
        if self.failure:
            raise AssertionError(f"a program could not be started: {self.failure}")

    def __exit__(self, *exc):
        self._end.set()
        self._thread.join(30)
        shutil.rmtree(self.directory, ignore_errors=True)
