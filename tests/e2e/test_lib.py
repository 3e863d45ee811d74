"""The tests' own tools: wrong ones would prove anything."""

import gzip
import unittest

from tests.lib.pprof import Profile
from tests.lib.stats import chi_square_p, gamma_q


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
