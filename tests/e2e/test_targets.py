"""Who was it: labels, cgroups of both kinds, threads, exec, fork, pid reuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

from tests.lib import harness
from tests.lib.harness import Daemon, Workload, wait_for, workload


def cgroup_mount(wanted):
    """Where a hierarchy is mounted: "cgroup2", or the name of a v1 controller."""
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            if kind == wanted == "cgroup2" or (kind == "cgroup" and wanted in options.split(",")):
                return before.split()[4]
    return None


class Labels(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="baroscope-lab-")
        self.addCleanup(shutil.rmtree, self.directory, True)

    def cgroup(self, mount):
        path = os.path.join(mount, f"baroscope-e2e-{os.getpid()}")
        os.mkdir(path)

        def remove():
            # A v1 group is busy for a moment after its last process left.
            def gone():
                try:
                    os.rmdir(path)
                    return True
                except FileNotFoundError:
                    return True
                except OSError:
                    return False
            wait_for(gone, 10, f"removal of {path}")

        self.addCleanup(remove)
        return path

    def enter(self, path, pid):
        with open(os.path.join(path, "cgroup.procs"), "w", encoding="utf-8") as procs:
            procs.write(str(pid))

    def test_service_name__from_environment(self):
        environments = {
            "shop": {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,service.version=3"},
            "cart": {"OTEL_RESOURCE_ATTRIBUTES": "deployment=x,service.name=cart"},
        }
        with Workload([workload("w_c")], env={**os.environ, **environments["shop"]}), Daemon() as daemon, \
                Workload([workload("w_cpp")], env={**os.environ, **environments["cart"]}):
            daemon.wait_named('{service_name="shop"}', "c_hot_half")  # older than the daemon
            daemon.wait_named('{service_name="cart"}', "work::Engine::turn")
            self.assertEqual(daemon.top('{service_name="other"}'), [])

    def in_cgroup(self, mount):
        path = self.cgroup(mount)
        label = path[len(mount):]
        with Daemon() as daemon, Workload([workload("w_c")]) as target:
            self.enter(path, target.pid)
            daemon.wait_named(f'{{cgroup="{label}"}}', "c_hot_half")
            target.kill()

    def test_cgroup__v2(self):
        mount = cgroup_mount("cgroup2")
        if not mount:
            self.skipTest("machine: no cgroup2 is mounted")
        self.in_cgroup(mount)

    def test_cgroup__v1(self):
        mount = cgroup_mount("memory")
        if not mount:
            self.skipTest("machine: no v1 memory controller is mounted")
        self.in_cgroup(mount)

    def test_cgroup__made_and_removed_while_running(self):
        """A cgroup younger than the daemon keeps its path in samples that are read after it is gone."""
        mount = cgroup_mount("cgroup2") or cgroup_mount("memory")
        if not mount:
            self.skipTest("machine: no cgroup hierarchy is mounted")
        with Daemon() as daemon:
            path = self.cgroup(mount)
            with Workload([workload("w_c"), "--cpu-seconds", "1"]) as target:
                self.enter(path, target.pid)
                target.finish(60)
            wait_for(lambda: not os.path.exists(path) or os.rmdir(path) is None, 10, "the end of the group")
            daemon.wait_named(f'{{cgroup="{path[len(mount):]}"}}', "c_hot_half")

    def test_targets_deny__left_out(self):
        mount = cgroup_mount("cgroup2") or cgroup_mount("memory")
        if not mount:
            self.skipTest("machine: no cgroup hierarchy is mounted")
        path = self.cgroup(mount)
        label = path[len(mount):]
        with Workload([workload("w_c")]) as hidden, Workload([workload("w_cpp")]):
            self.enter(path, hidden.pid)
            with Daemon(f'targets: {{deny: ["{label}"]}}\n') as daemon:
                daemon.wait_named('{comm="w_cpp"}', "work::Engine::turn")
                wait_for(lambda: daemon.status()["drops"]["denied"] > 0, 10, "the drop cause denied")
                self.assertEqual(daemon.top('{comm="w_c"}'), [])
            hidden.kill()

    def test_threads__named(self):
        with Daemon() as daemon, Workload([workload("w_misc"), "threads"]) as target:
            daemon.wait_named('{comm="w_misc"}', "misc_spin")

            def threads():
                samples = daemon.pprof('{comm="w_misc"}').samples
                return {s["labels"]["thread"] for s in samples if s["labels"]["pid"] == target.pid} >= {
                    "misc-left", "misc-right"}

            wait_for(threads, 15, "both threads' names")

    def test_comm__renamed(self):
        with Daemon() as daemon, Workload([workload("w_misc"), "comm", "renamed-one"]):
            daemon.wait_named('{comm="renamed-one"}', "misc_spin")

    def test_exec__new_comm_and_image(self):
        with Daemon() as daemon, Workload([workload("w_misc"), "exec", workload("w_cpp")],
                                          stdin=subprocess.PIPE) as target:
            daemon.wait_named('{comm="w_misc"}', "misc_spin")
            target.process.stdin.write(b"\n")
            target.process.stdin.close()
            daemon.wait_named('{comm="w_cpp"}', "work::Engine::turn")
            after = daemon.pprof('{comm="w_cpp"}')
            self.assertEqual({s["labels"]["pid"] for s in after.samples}, {target.pid})
            names = {f["function"] for s in after.samples for f in s["stack"]}
            self.assertFalse({n for n in names if "misc_spin" in n}, "the old program's frames under the new name")

    def test_short_lived__counted(self):
        """Children that live for milliseconds: their CPU time is there, under their name."""
        with Daemon("cpu: {rate_hz: 997}\n") as daemon, Workload([workload("w_misc"), "forker"]) as target:
            daemon.wait_named('{comm="w_misc"}', "misc_spin")
            wait_for(lambda: daemon.profile('{comm="w_misc"}')["samples"] > 3000, 60, "3,000 samples")
            oracle = target.stop()
            self.assertGreater(oracle["children"], 100)
            spin = sum(row["total"] for row in daemon.top('{comm="w_misc"}') if "misc_spin" in row["function"])
            total = daemon.profile('{comm="w_misc"}')["total"]
            self.assertGreater(spin, 0.5 * total, "short-lived processes are nameless")

    def test_pid__reused(self):
        """Another program gets the pid of one that ended: a process of its own."""
        try:
            with open("/proc/sys/kernel/ns_last_pid", encoding="utf-8"):
                pass
        except FileNotFoundError:
            self.skipTest("machine: this kernel has no ns_last_pid")
        with Daemon() as daemon:
            with Workload([workload("w_c")]) as first:
                daemon.wait_named('{comm="w_c"}', "c_hot_half")
                pid = first.pid
            second = self.start_as(pid)
            if second is None:
                self.skipTest("machine: the pid was taken by others each time")
            with second:
                daemon.wait_named('{comm="w_cpp"}', "work::Engine::turn")
                samples = [s for s in daemon.pprof('{comm="w_cpp"}').samples if s["labels"]["pid"] == pid]
                self.assertTrue(samples)
                names = {f["function"] for s in samples for f in s["stack"]}
                self.assertFalse([n for n in names if n.startswith("c_hot")], "frames of the one before")

    def start_as(self, pid):
        for _ in range(50):
            with open("/proc/sys/kernel/ns_last_pid", "w", encoding="utf-8") as last:
                last.write(str(pid - 1))
            target = Workload([workload("w_cpp")])
            if target.pid == pid:
                return target
            target.kill()
        return None
