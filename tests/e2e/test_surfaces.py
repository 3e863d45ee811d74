"""What is seen from outside: flags, exit codes, formats, times, signals, the socket."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
import unittest

from tests.lib import harness
from tests.lib.harness import Daemon, Workload, wait_for, workload


def run(program, *arguments, **more):
    return subprocess.run([os.path.join(harness.build_dir(), program), *arguments], capture_output=True, timeout=30,
                          stdin=subprocess.DEVNULL, check=False, **more)


class Programs(unittest.TestCase):
    def config(self, text):
        path = os.path.join("/tmp", f"baroscope-check-{os.getpid()}.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        return path

    def test_help_and_version__exit_0(self):
        with open(os.path.join(harness.ROOT, "VERSION"), encoding="utf-8") as file:
            version = file.read().strip()
        for program in ("baroscoped", "baroctl"):
            done = run(program, "--help")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(b"--socket", done.stdout)
        done = run("baroscoped", "--version")
        self.assertEqual(done.returncode, 0)
        self.assertIn(version.encode(), done.stdout)
        for verb in ("status", "top", "export"):
            self.assertEqual(run("baroctl", verb, "--help").returncode, 0, verb)

    def test_check_config__good(self):
        for text in ("{}\n", "cpu: {rate_hz: 99}\nlabels: {region: eu}\n", "triggers: []\n"):
            done = run("baroscoped", "--check-config", "--config", self.config(text))
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_check_config__bad_names_the_line(self):
        for text, line in (("cpu:\n  rate_hz: fast\n", 2), ("listen: 127.0.0.1:4041\nnonsense: 1\n", 2),
                           ("store: {retention: 14parsecs}\n", 1),
                           ("triggers:\n  - name: a\n    source: psi.cpu.some\n    threshold: 120%\n    start: [cpu]\n", 4)):
            path = self.config(text)
            done = run("baroscoped", "--check-config", "--config", path)
            self.assertEqual(done.returncode, 1, text)
            self.assertRegex((done.stderr + done.stdout).decode(), re.escape(f"{path}:{line}: "), text)

    def test_start__bad_config_ends_it(self):
        with Daemon("cpu: {rate_hz: 0}\n", start=False, check=False) as daemon:
            done = subprocess.run(daemon.command(), capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(f"{daemon.config}:1: ", done.stderr.decode())
            self.assertNotRegex(done.stderr.decode(), r"\bready\b")

    def test_start__open_address_needs_token(self):
        with Daemon(start=False, check=False) as daemon:
            done = subprocess.run([*daemon.command(), "--listen", "0.0.0.0:4041"], capture_output=True, timeout=30,
                                  check=False, stdin=subprocess.DEVNULL)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("token", done.stderr.decode())

    def test_baroctl__no_daemon(self):
        done = run("baroctl", "--socket", "/nonexistent/control.sock", "status")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.decode().strip().splitlines()), 1, done.stderr)

    def test_baroctl__usage(self):
        for arguments in (["nonsense"], ["top"], ["export"], ["export", "process_cpu", "--format", "nonsense"], []):
            self.assertEqual(run("baroctl", "--socket", "/nonexistent/s", *arguments).returncode, 2, arguments)


class Running(unittest.TestCase):
    """One daemon with a busy C program for all of these."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon("labels: {region: eu}\n")
        cls.target = None
        try:
            cls.began = time.time()
            cls.target = Workload([workload("w_c")])
            cls.daemon.wait_named('{comm="w_c"}', "c_hot_tenth")
        except BaseException:
            cls.tearDownClass()
            raise

    @classmethod
    def tearDownClass(cls):
        if cls.target:
            cls.target.kill()
        cls.daemon.close()

    def rows(self, selector, *times):
        return self.daemon.top(selector, *times)

    def test_log__ready_once_and_nothing_before(self):
        lines = self.daemon.log().splitlines()
        self.assertEqual(len([line for line in lines if re.search(r"\bready\b", line)]), 1)

    def test_start__within_20_seconds(self):
        self.assertLess(self.daemon.ready_seconds, 20)

    def test_status__fields(self):
        status = self.daemon.status()
        for key in ("version", "uptime_seconds", "profilers", "sessions", "drops", "memory", "targets", "series", "store"):
            self.assertIn(key, status)
        cpu = status["profilers"][0]
        self.assertEqual((cpu["profiler"], cpu["state"]), ("cpu", "running"))
        for key in ("rate", "samples", "cost_percent", "drops"):
            self.assertIn(key, cpu)
        self.assertEqual(status["sessions"], [])
        self.assertGreater(status["memory"]["rss_bytes"], 0)
        self.assertGreater(status["memory"]["map_bytes"], 0)
        self.assertIn("not_run", status["drops"])
        text = self.daemon.ctl("status")
        self.assertEqual(text.returncode, 0)
        self.assertIn(b"cpu", text.stdout)

    def test_top__fields_and_limit(self):
        rows = self.daemon.top('{comm="w_c"}', "--since", "60s", "--limit", "2")
        self.assertEqual(len(rows), 2)
        self.assertEqual(rows[0]["function"], "c_hot_half")
        for key in ("function", "file", "line", "self", "total", "self_percent", "total_percent", "ci95"):
            self.assertIn(key, rows[0])
        self.assertGreaterEqual(rows[0]["self"], rows[1]["self"])
        self.assertGreater(rows[0]["self_percent"], 30)
        self.assertEqual(self.daemon.ctl("top", "process_cpu", '{comm="w_c"}', "--by", "line").returncode, 0)
        self.assertEqual(self.daemon.ctl("top", "process_cpu", '{comm="w_c"}', "--by", "nonsense").returncode, 2)

    def test_selectors(self):
        for selector in ('{comm=~"w_.*"}', '{comm!="dd",comm=~"w_c"}', '{comm!~"d.*",region="eu",comm="w_c"}',
                         '{service_name="w_c"}', "{comm='w_c'}"):
            self.assertTrue(any(r["function"] == "c_hot_half" for r in self.rows(selector)), selector)
        for selector in ('{comm=~"w"}', '{region!="eu"}', '{comm="w_c",host="nowhere"}'):
            # [not_run] is a series that has only `host`: it has no region.
            rows = [row for row in self.rows(selector) if row["function"] != "[not_run]"]
            self.assertEqual(rows, [], selector)
        for selector in ("{comm=", '{comm=~"("}', "comm"):
            self.assertIn(self.daemon.ctl("top", "process_cpu", selector).returncode, (1, 2), selector)

    def test_times(self):
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began - 1))
        for times in (("--since", "1m"), ("--from", f"{self.began - 1:.3f}", "--until", f"{now + 1:.3f}"),
                      ("--from", "now-1h"), ("--from", stamp, "--until", "now"), ()):
            done = self.daemon.ctl("top", "process_cpu", '{comm="w_c"}', "--json", *times)
            self.assertEqual(done.returncode, 0, (times, done.stderr))
            self.assertTrue(json.loads(done.stdout), times)
        self.assertEqual(self.rows('{comm="w_c"}', "--from", "now-3h", "--until", "now-2h"), [])
        for times in (("--since", "nonsense"), ("--from", "now", "--until", "now-1h"), ("--since", "1m", "--from", "now-1h")):
            self.assertIn(self.daemon.ctl("top", "process_cpu", "{}", *times).returncode, (1, 2), times)

    def test_types(self):
        for name in ("process_cpu", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"):
            self.assertEqual(self.daemon.ctl("top", name).returncode, 0, name)
        done = self.daemon.ctl("top", "no_such_type")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.decode().strip().splitlines()), 1)
        self.assertEqual(self.daemon.ctl("export", "no:such:type:a:b", "--format", "json").returncode, 1)

    def test_empty_selection__note_and_exit_0(self):
        for arguments in (("top", "process_cpu", '{comm="nobody"}'),
                          ("export", "process_cpu", '{comm="nobody"}', "--format", "folded")):
            done = self.daemon.ctl(*arguments)
            self.assertEqual(done.returncode, 0)
            self.assertTrue(done.stderr.strip(), "no note on stderr")
        profile = self.daemon.pprof('{comm="nobody"}')
        self.assertEqual(profile.samples, [])

    def test_export_json__agrees_with_itself(self):
        profile = self.daemon.profile('{comm="w_c"}')
        stacks = profile["stacks"]
        self.assertEqual(profile["unit"], "nanoseconds")
        self.assertEqual(sum(stacks["self"]), profile["total"])
        lengths = {len(stacks[key]) for key in ("parent", "name", "self", "total", "ci95")}
        self.assertEqual(len(lengths), 1)
        self.assertTrue(all(0 <= name < len(profile["names"]) for name in stacks["name"]))
        self.assertIn("c_hot_half", profile["names"])
        self.assertIsInstance(profile["dropped"], dict)

    def test_export_folded__root_first(self):
        done = self.daemon.ctl("export", "process_cpu", '{comm="w_c"}', "--format", "folded")
        lines = done.stdout.decode().splitlines()
        self.assertTrue(lines)
        for line in lines:
            self.assertRegex(line, r"^.+ \d+$")
        inner = [line for line in lines if re.search(r"c_hot_inner \d+$", line)]
        self.assertTrue(any(re.search(r"main;.*c_outer;c_hot_inner \d+$", line) for line in inner), lines[:5])

    def test_export_pprof__fields(self):
        profile = self.daemon.pprof('{comm="w_c"}')
        self.assertEqual(profile.sample_types, [("samples", "count"), ("cpu", "nanoseconds")])
        self.assertEqual(profile.default_sample_type, "cpu")
        self.assertEqual((profile.period_type, profile.period), (("cpu", "nanoseconds"), 10_000_000))
        self.assertGreater(profile.duration_ns, 0)
        self.assertLess(abs(profile.time_ns / 1e9 - time.time()), 120)
        sample = next(s for s in profile.samples if s["stack"] and s["stack"][0]["function"] == "c_hot_half")
        self.assertEqual(sample["labels"]["pid"], self.target.pid)
        self.assertEqual((sample["labels"]["comm"], sample["labels"]["thread"]), ("w_c", "w_c"))
        frame = sample["stack"][0]
        self.assertTrue(frame["mapping"]["file"].endswith("/w_c"), frame)
        built = subprocess.run(["readelf", "-n", workload("w_c")], capture_output=True, check=True).stdout.decode()
        self.assertEqual(frame["mapping"]["build_id"], re.search(r"Build ID: (\w+)", built).group(1))
        # The address is the image's own: nm's range of the function holds it.
        nm = subprocess.run(["nm", "-S", workload("w_c")], capture_output=True, check=True).stdout.decode()
        start, size = (int(x, 16) for x in re.search(r"^(\w+) (\w+) \w c_hot_half$", nm, re.M).groups())
        self.assertTrue(start <= frame["address"] < start + size, hex(frame["address"]))
        self.assertTrue(profile.comments)
        # Values and counts belong together; each sample is worth about its CPU's period.
        self.assertGreater(profile.total(0), 0)
        self.assertLess(abs(profile.total(1) / profile.total(0) / 10_000_000 - 1), 0.05)

    def test_export_pprof__kernel_mapping(self):
        mappings = [f["mapping"]["file"] for s in self.daemon.pprof("{}").samples for f in s["stack"] if f["mapping"]]
        self.assertTrue(any(name.startswith("[kernel") for name in mappings), set(mappings))

    def test_export__to_stdout_and_file(self):
        done = self.daemon.ctl("export", "process_cpu", '{comm="w_c"}', "--format", "json")
        self.assertIn("names", json.loads(done.stdout))
        path = os.path.join(self.daemon.directory, "nowhere", "f")
        done = self.daemon.ctl("export", "process_cpu", "--format", "json", "-o", path)
        self.assertEqual(done.returncode, 1)

    def test_socket__mode(self):
        mode = os.stat(self.daemon.socket).st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        group = subprocess.run(["getent", "group", "baroscope"], capture_output=True, check=False).returncode == 0
        self.assertEqual(stat.S_IMODE(mode), 0o660 if group else 0o600)

    def talk(self, message, timeout=10):
        """One reply to raw bytes, or b"" when the connection ends."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(self.daemon.socket)
            try:
                client.sendall(message)
                reply = b""
                while not reply.endswith(b"\0"):
                    part = client.recv(65536)
                    if not part:
                        break
                    reply += part
                return reply
            except (BrokenPipeError, ConnectionResetError):
                return b""

    def call(self, method, parameters=None):
        message = {"method": method, "parameters": parameters or {}}
        return json.loads(self.talk(json.dumps(message).encode() + b"\0")[:-1])

    def test_varlink__service(self):
        reply = self.call("org.varlink.service.GetInfo")["parameters"]
        self.assertIn("io.baroscope.Control", reply["interfaces"])
        reply = self.call("org.varlink.service.GetInterfaceDescription", {"interface": "io.baroscope.Control"})
        self.assertIn("method Status", reply["parameters"]["description"])
        self.assertIn("sessions", self.call("io.baroscope.Control.Status")["parameters"])
        self.assertEqual(self.call("io.baroscope.Control.Nonsense")["error"], "org.varlink.service.MethodNotFound")
        self.assertEqual(self.call("io.nowhere.X.Y")["error"], "org.varlink.service.InterfaceNotFound")

    def test_varlink__malformed_and_long(self):
        for message in (b"\0", b"not json\0", b'{"method":3}\0', b"[" * 200000 + b"\0", b'{"method":"' + b"a" * (4 << 20)):
            reply = self.talk(message)
            self.assertTrue(reply == b"" or b"error" in reply, reply[:100])
        self.assertEqual(self.daemon.ctl("status").returncode, 0)

    def test_varlink__many_clients(self):
        clients = []
        try:
            for _ in range(64):
                client = socket.socket(socket.AF_UNIX)
                clients.append(client)
                client.settimeout(10)
                client.connect(self.daemon.socket)
            for client in clients:
                client.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')
            for client in clients:
                self.assertIn(b"io.baroscope.Control", client.recv(65536))
        finally:
            for client in clients:
                client.close()

    def test_second_daemon__same_state(self):
        done = subprocess.run([os.path.join(self.daemon.build, "baroscoped"), "--config", self.daemon.config, "--state-dir",
                               self.daemon.state, "--socket", self.daemon.socket + "2"], capture_output=True, timeout=30,
                              check=False, stdin=subprocess.DEVNULL)
        self.assertEqual(done.returncode, 1)
        self.assertIn(self.daemon.state, done.stderr.decode())
        self.assertNotRegex(done.stderr.decode(), r"\bready\b")
        self.assertTrue(self.daemon.running())


class Reload(unittest.TestCase):
    def test_sighup__good_and_bad(self):
        with Daemon("labels: {region: eu}\n") as daemon, Workload([workload("w_c")]):
            daemon.wait_named('{region="eu",comm="w_c"}', "c_hot_half")
            daemon.write_config("labels: {region: us}\ncpu: {rate_hz: nonsense}\n")
            daemon.process.send_signal(signal.SIGHUP)
            wait_for(lambda: f"{daemon.config}:2: " in daemon.log(), 10, "the log naming the bad line")
            self.assertEqual(daemon.top('{region="us"}'), [], "half of a bad config was taken")
            daemon.write_config("labels: {region: mars}\n")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_named('{region="mars",comm="w_c"}', "c_hot_half")
            self.assertEqual(daemon.status()["profilers"][0]["state"], "running")


class Notify(unittest.TestCase):
    def test_sd_notify__ready(self):
        with Daemon(start=False) as daemon:
            path = os.path.join(daemon.directory, "notify")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
                receiver.settimeout(30)
                receiver.bind(path)
                daemon.env["NOTIFY_SOCKET"] = path
                daemon.start()
                self.assertIn(b"READY=1", receiver.recv(4096))


class Release(unittest.TestCase):
    """The build that is shipped, with its own allocator and without sanitizers, does the same."""

    def test_release__names_and_ends(self):
        build = os.path.join(harness.ROOT, "build")
        with Daemon(build=build) as daemon, Workload([workload("w_c")]):
            daemon.wait_named('{comm="w_c"}', "c_hot_half")
            self.assertEqual(daemon.stop(), 0)
