"""Workload for the system's python3: a mixture of what its C code does. Runs until it is ended."""

import collections
import decimal
import hashlib
import json
import random
import re
import zlib

WORDS = re.compile(r"\b([a-z]+)(\d+)\b")


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        side = "left" if key < self.key else "right"
        child = getattr(self, side)
        if child is None:
            setattr(self, side, Node(key))
        else:
            child.insert(key)

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.key
        if self.right:
            yield from self.right.walk()


def as_json(rng):
    data = {f"key{i}": [rng.random(), {"nested": "text" * rng.randrange(20)}, None] for i in range(200)}
    return len(json.dumps(json.loads(json.dumps(data, indent=1))))


def as_text(rng):
    text = " ".join(f"word{rng.randrange(1000)}" for _ in range(1000))
    return len(WORDS.sub(lambda m: m.group(2) + m.group(1).upper(), text).encode().decode().split())


def as_tree(rng):
    root = Node(rng.random())
    for _ in range(400):
        root.insert(rng.random())
    return sum(root.walk())


def as_bytes(rng):
    data = bytes(rng.getrandbits(8) & 0x3F for _ in range(20000))
    return hashlib.sha256(zlib.decompress(zlib.compress(data, 6))).hexdigest()


def as_numbers(rng):
    with decimal.localcontext() as context:
        context.prec = 60
        total = sum((decimal.Decimal(rng.randrange(1, 9999)).sqrt() for _ in range(100)), decimal.Decimal(0))
    return str(total) + str(pow(rng.getrandbits(512), rng.getrandbits(64), rng.getrandbits(512) | 1))


def as_sorted(rng):
    pairs = [(rng.random(), str(i)) for i in range(3000)]
    return collections.Counter(text[0] for _, text in sorted(pairs, key=lambda pair: (pair[1], pair[0]))[:500])


def as_errors(rng, depth=40):
    if depth:
        try:
            return as_errors(rng, depth - 1)
        except KeyError as error:
            raise KeyError(depth) from error
    return {}[rng.random()]


def main():
    rng = random.Random(4711)
    print("started", flush=True)
    while True:
        for work in (as_json, as_text, as_tree, as_bytes, as_numbers, as_sorted):
            work(rng)
        for _ in range(20):
            try:
                as_errors(rng)
            except KeyError:
                pass


main()
