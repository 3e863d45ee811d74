"""The tests' own tools: wrong ones would prove anything."""

import gzip
import signal
import unittest

from tests.lib import targets
from tests.lib.harness import alive, children, wait_for
from tests.lib.pprof import Profile
from tests.lib.stacks import complete_share, ending
from tests.lib.stats import chi_square_p, gamma_q


def exported(stacks, samples=0):
    """The JSON export of [(stack, outermost first, value)]."""
    names, parent, name, own, nodes = [], [], [], [], {}
    for stack, value in stacks:
        above = -1
        for function in stack:
            if function not in names:
                names.append(function)
            key = (above, function)
            if key not in nodes:
                nodes[key] = len(parent)
                parent.append(above)
                name.append(names.index(function))
                own.append(0)
            above = nodes[key]
        own[above] += value
    return {"samples": samples, "names": names, "stacks": {"parent": parent, "name": name, "self": own}}


class Lib(unittest.TestCase):
    def test_gamma_q__known_values(self):
        # Tabled: chi-square 3.841459 at 1 degree is p 0.05, 16.2662 at 3 is 0.001, 2.365974 at 3 is 0.5.
        self.assertAlmostEqual(gamma_q(0.5, 3.841459 / 2), 0.05, places=6)
        self.assertAlmostEqual(gamma_q(1.5, 16.26624 / 2), 0.001, places=7)
        self.assertAlmostEqual(gamma_q(1.5, 2.365974 / 2), 0.5, places=6)

    def test_chi_square_p__biased_counts(self):
        self.assertGreater(chi_square_p([5000, 2500, 2500], [2, 1, 1]), 0.99)
        self.assertLess(chi_square_p([5300, 2400, 2300], [2, 1, 1]), 1e-6)

    def test_profile__fields(self):
        def varint(n):
            out = bytearray()
            while True:
                out.append((n & 0x7F) | (0x80 if n > 0x7F else 0))
                n >>= 7
                if not n:
                    return bytes(out)

        def message(number, body):
            return varint(number << 3 | 2) + varint(len(body)) + body

        def number(field, value):
            return varint(field << 3) + varint(value)

        strings = ["", "cpu", "nanoseconds", "f", "note", "pid"]
        data = message(1, number(1, 1) + number(2, 2))
        data += message(2, message(1, varint(7)) + message(2, varint(300)) + message(3, number(1, 5) + number(3, 42)))
        data += message(4, number(1, 7) + number(3, 0x1234) + message(4, number(1, 9) + number(2, 11)))
        data += message(5, number(1, 9) + number(2, 3))
        data += b"".join(message(6, s.encode()) for s in strings) + message(13, varint(4)) + number(12, 10)
        p = Profile(gzip.compress(data))
        self.assertEqual(p.sample_types, [("cpu", "nanoseconds")])
        self.assertEqual(p.samples[0]["values"], [300])
        self.assertEqual(p.samples[0]["labels"], {"pid": 42})
        self.assertEqual(p.samples[0]["stack"][0]["function"], "f")
        self.assertEqual(p.samples[0]["stack"][0]["line"], 11)
        self.assertEqual((p.comments, p.period), (["note"], 10))

    def test_complete_share__by_cause(self):
        profile = exported([(["_start", "main", "hot"], 700), (["_start", "main"], 100),
                            (["[incomplete: jit]", "[jit]", "run"], 120), (["[incomplete: gap]", "lost"], 30),
                            (["[truncated]", "deep"], 20), (["[unknown]", "do_syscall_64"], 10),
                            (["entry_SYSCALL_64_after_hwframe", "do_exit"], 5), (["ret_from_fork_asm", "kthread"], 15)],
                           samples=100)
        shares = complete_share(profile)
        self.assertEqual((shares.samples, shares.total, shares.complete), (100, 1000, 815))
        self.assertEqual(dict(shares.causes), {"jit": 120, "gap": 30, "depth": 20, "user_stack": 10, "no_user_frames": 5})
        self.assertEqual(dict(shares.roots), {"_start": 800, "ret_from_fork_asm": 15})
        self.assertAlmostEqual(shares.complete_pct(), 81.5)
        self.assertAlmostEqual(shares.native_pct(), 100 * 815 / 880)
        self.assertAlmostEqual(shares.cause_pct("gap", "depth"), 5.0)
        self.assertEqual((shares.depth(0.5), shares.depth(1), shares.depth(0.01)), (3, 3, 2))
        self.assertEqual(shares.tails["jit"], {("run", "[jit]"): 120})
        self.assertIn("jit 12.00 %: run <- [jit]", shares.examples())

    def test_complete_share__between_two_looks(self):
        early = complete_share(exported([(["_start", "a"], 100), (["[incomplete: no_table]", "a"], 40)], 14))
        late = complete_share(exported([(["_start", "a"], 300), (["[incomplete: no_table]", "a"], 40),
                                        (["[incomplete: gap]", "b"], 1)], 35))
        between = late.minus(early)
        self.assertEqual((between.samples, between.total, between.complete), (21, 201, 200))
        self.assertEqual((dict(between.causes), dict(between.tails["gap"])), ({"gap": 1}, {("b",): 1}))
        self.assertEqual(between.roots, {"_start": 200})

    def test_complete_share__nothing(self):
        shares = complete_share(exported([]))
        self.assertEqual((shares.total, shares.complete_pct(), shares.native_pct(), shares.depth(1)), (0, 0.0, 0.0, 0))

    def test_ending__names_of_programs(self):
        for name in ("_start", "[libc.so.6]", "__clone3", "entry_point", "asm_main", "[incomplete] really"):
            self.assertIsNone(ending(name), name)

    def test_tree__ends_orphans(self):
        """A child that became an orphan and does not hear SIGTERM."""
        script = "(trap '' TERM; while :; do :; done) & (exec sleep 1000) & wait"
        with targets.Tree(["/bin/sh", "-c", script]) as tree:
            pids = wait_for(lambda: len(tree.living()) == 3 and sorted(tree.living()), 10, "a shell and two children")
            self.assertEqual(set(pids) - {tree.pid}, set(children(tree.pid)))
            tree.process.send_signal(signal.SIGKILL)
            tree.process.wait()
            self.assertEqual(len(tree.living()), 2)
        self.assertEqual([pid for pid in pids if alive(pid)], [])

    def test_tree__ended_by_itself(self):
        with targets.Tree(["/bin/false"]) as tree:
            tree.process.wait()
            with self.assertRaisesRegex(AssertionError, "ended with 1: /bin/false"):
                tree.check()
            self.assertEqual(tree.living(), {})
