#!/usr/bin/env python3
"""Runs the end-to-end tests: all, or those whose name contains one of the arguments.

Prints `ok NAME`, `not ok NAME` with the cause, or `skip NAME: reason`, and ends in `N passed, N failed, N skipped`.
As root; the tests load BPF and run one at a time."""

import glob
import importlib
import os
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))
sys.dont_write_bytecode = True


class Lines(unittest.TestResult):
    """One line a test, as soon as it is over."""

    def __init__(self):
        super().__init__()
        self.passed, self.failed, self.skipped_count = 0, 0, 0
        self.before = 0.0
        self.broken = set()

    @staticmethod
    def name(test):
        # Class-level failures come as an _ErrorHolder, whose id is "setUpClass (module.Class)".
        return test.id().replace("tests.e2e.", "")

    def startTest(self, test):
        super().startTest(test)
        self.before = time.monotonic()

    def addSuccess(self, test):
        if test.id() not in self.broken:
            self.passed += 1
            print(f"ok {self.name(test)} ({time.monotonic() - self.before:.1f} s)", flush=True)

    def _fail(self, test, error):
        self.failed += 1
        self.broken.add(test.id())
        text = self._exc_info_to_string(error, test)
        print(f"not ok {self.name(test)}\n    " + text.strip().replace("\n", "\n    "), flush=True)

    def addError(self, test, err):
        self._fail(test, err)

    def addFailure(self, test, err):
        self._fail(test, err)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fail(subtest, err)
            self.broken.add(test.id())

    def addSkip(self, test, reason):
        self.skipped_count += 1
        print(f"skip {self.name(test)}: {reason}", flush=True)


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def main():
    if os.geteuid() != 0:
        print("the end-to-end tests need root", file=sys.stderr)
        return 2
    loader = unittest.TestLoader()
    tests = []
    for path in sorted(glob.glob(os.path.join(HERE, "test_*.py"))):
        module = importlib.import_module("tests.e2e." + os.path.basename(path)[:-3])
        tests += flatten(loader.loadTestsFromModule(module))
    chosen = [t for t in tests if not sys.argv[1:] or any(word in t.id() for word in sys.argv[1:])]
    if not chosen:
        print("no test of that name", file=sys.stderr)
        return 2
    result = Lines()
    # A TestSuite runs setUpClass and tearDownClass around the tests of a class.
    unittest.TestSuite(chosen).run(result)
    print(f"{result.passed} passed, {result.failed} failed, {result.skipped_count} skipped")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
