"""Real programs under load, to take stacks of: servers and interpreters from Debian's packages, and this repository's own.

Each is a context manager that yields a Target once the program is busy. It runs on loopback, with a free port and a
folder of its own, beside whatever service of the same name the machine runs; binaries are started directly, not through
an init system. On every path all processes are ended, by pid, and files removed."""

import contextlib
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from tests.lib.harness import ROOT, WORKLOADS, wait_for

SOURCES = os.path.join(ROOT, "tests/workloads")
POSTGRES = "/usr/lib/postgresql/15/bin"
CHROMIUM = "/usr/lib/chromium/chromium"
NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
TICKS = os.sysconf("SC_CLK_TCK")


def processes():
    """{pid: (parent, start time, CPU seconds, comm)} of all that are no zombies."""
    there = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                    head, _, tail = stat.read().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = tail.split()
            if fields[0] not in "ZX":
                there[int(name)] = (int(fields[1]), int(fields[19]), (int(fields[11]) + int(fields[12])) / TICKS,
                                    head.partition("(")[2])
    return there


class Tree:
    """A program and all that descend from it. Whoever was once seen below it belongs to it, also when it became an
    orphan; a pid is told from a later one by the time of its start."""

    def __init__(self, command, output=None, stop=signal.SIGTERM, **popen):
        """output: a file for what it says, shown when it fails."""
        self.command, self.output, self.stop_signal = command, output, stop
        self.members = {}
        with open(output or os.devnull, "wb") as log:
            self.process = subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **popen})
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.end()

    def living(self):
        """{pid: (parent, start, CPU seconds, comm)} of its processes now."""
        there = processes()
        found = {pid for pid, start in self.members.items() if pid in there and there[pid][1] == start}
        if self.process.poll() is None and self.pid in there:
            found.add(self.pid)
        grown = True
        while grown:
            below = {pid for pid, entry in there.items() if entry[0] in found and pid not in found}
            grown = bool(below)
            found |= below
        self.members.update({pid: there[pid][1] for pid in found})
        return {pid: there[pid] for pid in found}

    def failed(self, what):
        said = ""
        if self.output:
            with open(self.output, encoding="utf-8", errors="replace") as log:
                said = log.read()[-2000:]
        return AssertionError(f"{what}: {' '.join(self.command)[:300]} {said}")

    def check(self):
        if self.process.poll() is not None:
            raise self.failed(f"ended with {self.process.returncode}")
        return True

    def end(self):
        self.living()
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            # Its children, too, have this long to end by themselves.
            with contextlib.suppress(AssertionError):
                wait_for(lambda: self.process.poll() is not None and not self.living(), 5, "the end")
        deadline = time.monotonic() + 20
        while (left := self.living()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.pid in left:
                self.process.wait()
            select.select([], [], [], 0.05)
        self.process.wait()
        if left:
            raise AssertionError(f"processes that can't be ended: {left}")


class Target:
    """What is sampled: `selector` chooses its samples, `binary` is its main file; `trees` are the program and what loads
    it, the program first."""

    def __init__(self, name, selector, binary, trees, comm=None):
        self.name, self.selector, self.binary, self.trees, self.comm = name, selector, binary, trees, comm

    def pids(self):
        """Of the processes that count: those of the first tree, or those with the name of the selector."""
        living = self.trees[0].living()
        return sorted(pid for pid, entry in living.items() if self.comm in (None, entry[3]))

    def cpu_seconds(self):
        living = self.trees[0].living()
        return sum(entry[2] for entry in living.values() if self.comm in (None, entry[3]))

    def wait_busy(self, seconds=0.3, timeout=60):
        def busy():
            for tree in self.trees:
                tree.check()
            return self.cpu_seconds() >= seconds

        try:
            wait_for(busy, timeout, f"{seconds} s of CPU time of {self.name}")
        except AssertionError as error:
            raise self.trees[0].failed(str(error)) from None
        return self


def program(path, package):
    if not os.access(path, os.X_OK):
        raise AssertionError(f"{path} is not there: package {package} (make deps)")
    return path


def built(name):
    path = os.path.join(WORKLOADS, name)
    if not os.path.exists(path):
        raise AssertionError(f"{path} is not built (make workloads)")
    return path


def free_port():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def answers(port, tree):
    def connects():
        tree.check()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    wait_for(connects, 30, f"{tree.command[0]} on its port")


@contextlib.contextmanager
def folder():
    """A temporary one that other users can enter."""
    path = tempfile.mkdtemp(prefix="baroscope-target-")
    try:
        os.chmod(path, 0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def by_comm(comm):
    return f'{{comm="{comm}"}}'


@contextlib.contextmanager
def single(name, command, before=None, environment=None):
    """One program that keeps itself busy, with a service name of its own. `before`: a command whose output it reads."""
    service = f"target-{name}-{os.getpid()}"  # another run of the tests may have one, too
    env = {**os.environ, **(environment or {})}
    with folder() as path, contextlib.ExitStack() as stack:
        env["HOME"] = path
        own = {**env, "OTEL_SERVICE_NAME": service}
        log = os.path.join(path, "log")
        if before:
            read, write = os.pipe()
            try:
                trees = [stack.enter_context(Tree(command, env=own, cwd=path, stdin=read)),
                         stack.enter_context(Tree(before, log, env=env, cwd=path, stdout=write))]
            finally:
                os.close(read)
                os.close(write)
        else:
            trees = [stack.enter_context(Tree(command, log, env=own, cwd=path))]
        yield Target(name, f'{{service_name="{service}"}}', command[0], trees).wait_busy()


@contextlib.contextmanager
def redis():
    server, load = program("/usr/bin/redis-server", "redis-server"), program("/usr/bin/redis-benchmark", "redis-tools")
    with folder() as path, contextlib.ExitStack() as stack:
        port = free_port()
        tree = stack.enter_context(Tree([server, "--port", str(port), "--bind", "127.0.0.1", "--dir", path, "--save", "",
                                         "--appendonly", "no"], os.path.join(path, "log"), cwd=path))
        answers(port, tree)
        trees = [tree]
        for tests, pipeline in (("set,get,lpush,lrange_100,sadd,zadd,zpopmin,hset,mset", "8"), ("spop,rpop,incr", "1")):
            trees.append(stack.enter_context(Tree([load, "-p", str(port), "-c", "16", "-n", "100000", "-r", "100000", "-P",
                                                   pipeline, "-t", tests, "-l", "-q"])))
        # An expensive command: scripts, sorting.
        script = "local t = {} for i = 1, 200 do t[i] = redis.call('incrby', 'k' .. i % 20, i) end table.sort(t) return #t"
        trees.append(stack.enter_context(Tree([load, "-p", str(port), "-c", "2", "-n", "100000", "-l", "-q", "eval", script,
                                               "0"])))
        yield Target("redis", by_comm("redis-server"), server, trees).wait_busy()


@contextlib.contextmanager
def postgres():
    server = program(f"{POSTGRES}/postgres", "postgresql-15")
    with folder() as path, contextlib.ExitStack() as stack:
        nobody = pwd.getpwnam("nobody")
        data = os.path.join(path, "data")
        os.mkdir(data, 0o700)
        for owned in (path, data):
            os.chown(owned, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run([*NOBODY, f"{POSTGRES}/initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-sync",
                               "--no-instructions", "--locale=C.UTF-8"], capture_output=True, timeout=120, cwd=path,
                              stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise AssertionError(f"initdb: {done.stderr.decode()[-1000:]}")
        port = free_port()
        # SIGINT: fast shutdown.
        tree = stack.enter_context(Tree([*NOBODY, server, "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                                         "-c", f"unix_socket_directories={path}", "-c", "fsync=off", "-c",
                                         "shared_buffers=64MB", "-c", "max_connections=20"], os.path.join(path, "log"),
                                        stop=signal.SIGINT, cwd=path))
        answers(port, tree)
        to = ["-h", "127.0.0.1", "-p", str(port), "-U", "bench", "postgres"]
        wait_for(lambda: subprocess.run([f"{POSTGRES}/pg_isready", *to[:4]], capture_output=True, timeout=10,
                                        check=False).returncode == 0, 30, "postgres is ready")
        done = subprocess.run([f"{POSTGRES}/pgbench", "-i", "-s", "3", "-q", *to], capture_output=True, timeout=120,
                              check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise AssertionError(f"pgbench -i: {done.stderr.decode()[-1000:]}")
        query = os.path.join(path, "query.sql")
        with open(query, "w", encoding="utf-8") as file:
            file.write("\\set a random(1, 250000)\n"
                       "SELECT bid, count(*), sum(abalance), md5(string_agg(aid::text, ',' ORDER BY abalance, aid DESC)) "
                       "FROM pgbench_accounts WHERE aid BETWEEN :a AND :a + 2000 GROUP BY bid;\n")
        load = stack.enter_context(Tree([f"{POSTGRES}/pgbench", "-n", "-c", "4", "-T", "3600", "-b", "tpcb-like@4", "-b",
                                         "select-only@8", "-f", query + "@1", *to]))
        yield Target("postgres", by_comm("postgres"), server, [tree, load]).wait_busy()


NGINX = """daemon off;
master_process on;
worker_processes 2;
user nobody nogroup;
pid {path}/pid;
error_log {path}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {path}/t1; proxy_temp_path {path}/t2; fastcgi_temp_path {path}/t3;
  uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5;
  types {{ text/html html; }}
  gzip on; gzip_min_length 100; gzip_comp_level 3;
  server {{
    listen 127.0.0.1:{port};
    root {path}/www;
    location ~ ^/(\\d+)/(.*)$ {{ rewrite ^/(\\d+)/(.*)$ /$2 break; sub_filter 'word' 'other'; }}
    location /answer {{ return 200 "$request_uri $connection $msec\\n"; }}
  }}
}}
"""


@contextlib.contextmanager
def nginx():
    server, load = program("/usr/sbin/nginx", "nginx"), program("/usr/bin/wrk", "wrk")
    with folder() as path, contextlib.ExitStack() as stack:
        port = free_port()
        os.mkdir(f"{path}/www")
        with open(f"{path}/www/page.html", "w", encoding="utf-8") as page:
            page.write("".join(f"<p>a line of text, number {i * 7919 % 10007}</p>\n" for i in range(400)))
        with open(f"{path}/nginx.conf", "w", encoding="utf-8") as conf:
            conf.write(NGINX.format(path=path, port=port))
        tree = stack.enter_context(Tree([server, "-c", f"{path}/nginx.conf", "-p", path, "-e", f"{path}/error.log"],
                                        os.path.join(path, "log"), cwd=path))
        answers(port, tree)
        base = f"http://127.0.0.1:{port}"
        trees = [tree]
        for url, headers in (("/page.html", ["-H", "Accept-Encoding: gzip"]), ("/5/page.html", []), ("/answer", [])):
            trees.append(stack.enter_context(Tree([load, "-t", "1", "-c", "8", "-d", "3600s", *headers, base + url])))
        yield Target("nginx", by_comm("nginx"), server, trees).wait_busy()


def python3():
    return single("python3", [program("/usr/bin/python3", "python3"), os.path.join(SOURCES, "mixed.py")])


def node():
    return single("node", [program("/usr/bin/node", "nodejs"), os.path.join(SOURCES, "mixed.js")])


@contextlib.contextmanager
def node_perf():
    """With a perf map, which node writes to /tmp."""
    command = [program("/usr/bin/node", "nodejs"), "--perf-basic-prof", os.path.join(SOURCES, "mixed.js")]
    perf_map = None
    try:
        with single("node_perf", command) as target:
            perf_map = f"/tmp/perf-{target.trees[0].pid}.map"
            yield target
    finally:
        if perf_map:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(perf_map)


def java(*options, name="java"):
    return single(name, [program("/usr/bin/java", "openjdk-17-jdk-headless"), "-Xmx256m", "-XX:-UsePerfData", *options,
                         os.path.join(SOURCES, "Mixed.java")])


def java_fp():
    return java("-XX:+PreserveFramePointer", name="java_fp")


# Text, code and what hardly shrinks, again and again.
FEED = ["/bin/sh", "-c", "while cat \"$0\" /lib/x86_64-linux-gnu/libc.so.6; do :; done",
        os.path.join(SOURCES, "w_unwind.cc")]


def gzip():
    return single("gzip", [program("/usr/bin/gzip", "gzip"), "-c"], before=FEED)


def xz():
    return single("xz", [program("/usr/bin/xz", "xz-utils"), "-2", "-c"], before=FEED)


def openssl():
    """One process for half a minute and more, about a second an algorithm, in an order of its own."""
    algorithms = ["md5", "sha1", "sha256", "sha512", "rmd160", "aes-128-cbc", "aes-256-cbc", "camellia-256-cbc", "rsa2048",
                  "rsa4096", "dsa2048", "ecdsap256", "ecdsap384", "ecdhx25519", "ecdhp256", "ed25519", "ffdh2048"]
    return single("openssl", [program("/usr/bin/openssl", "openssl"), "speed", "-seconds", "1", "-bytes", "4096",
                              *algorithms])


@contextlib.contextmanager
def chromium():
    with folder() as path, contextlib.ExitStack() as stack:
        env = {**os.environ, "HOME": path, "XDG_RUNTIME_DIR": path}
        tree = stack.enter_context(Tree([
            program(CHROMIUM, "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-extensions", "--disable-breakpad", "--disable-dev-shm-usage", "--no-default-browser-check",
            "--allow-file-access-from-files", f"--user-data-dir={path}/profile",
            "file://" + os.path.join(SOURCES, "page.html")], os.path.join(path, "log"), cwd=path, env=env))
        yield Target("chromium", by_comm("chromium"), CHROMIUM, [tree], comm="chromium").wait_busy(1.0)


def go():
    return single("go", [built("w_go")])


def go_stripped():
    return single("go_stripped", [built("w_go_stripped")])


def rust():
    return single("rust", [built("w_rust_nofp")])


def unwind():
    return single("unwind", [built("w_unwind")])


ALL = (redis, postgres, nginx, python3, node, node_perf, java, java_fp, gzip, xz, openssl, chromium, go, go_stripped, rust,
       unwind)
