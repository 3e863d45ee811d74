"""How many stacks of a profile are whole, judged by their outermost frame in the JSON export."""

import collections
import re

# What the daemon puts in the place of what is missing.
INCOMPLETE = re.compile(r"^\[incomplete: (\w+)\]$")
MISSING = {"[truncated]": "depth", "[unknown]": "user_stack", "[kernel stack unreadable]": "kernel_stack"}
# The kernel's ways in from a user program. Below them its own stack must follow, so none of them is outermost in a whole
# one. What is outermost in a kernel thread (ret_from_fork_asm) is not among them.
KERNEL_ENTRY = re.compile(r"^(entry_(SYSCALL|SYSENTER|INT80)|(asm|xen_asm)_(exc|sysvec|common|int80|fred)|do_syscall_64|"
                          r"error_entry|paranoid_entry|irqentry_)")


def ending(name):
    """Why a stack with this outermost frame is not whole, or None."""
    known = INCOMPLETE.match(name)
    if known:
        return known.group(1)
    return MISSING.get(name) or ("no_user_frames" if KERNEL_ENTRY.match(name) else None)


class Shares:
    """Values (ns of a CPU profile), not counts: `total`; `causes` {why not whole: value}; `roots` {outermost function of
    whole stacks: value}; `depths` {frames: value}, of all; `tails` {cause: {outermost frames, outermost last: value}}."""

    def __init__(self, samples=0):
        self.samples, self.total = samples, 0
        self.causes, self.roots, self.depths = collections.Counter(), collections.Counter(), collections.Counter()
        self.tails = collections.defaultdict(collections.Counter)

    @property
    def complete(self):
        return self.total - sum(self.causes.values())

    def complete_pct(self):
        return 100 * self.complete / self.total if self.total else 0.0

    def native_pct(self):
        """Of the stacks that do not end in generated code."""
        native = self.total - self.causes["jit"]
        return 100 * self.complete / native if native > 0 else 0.0

    def cause_pct(self, *causes):
        return 100 * sum(self.causes[cause] for cause in causes) / self.total if self.total else 0.0

    def minus(self, earlier):
        """What came between two looks at the same windows."""
        rest = Shares(self.samples - earlier.samples)
        rest.total = self.total - earlier.total
        for mine, theirs, left in ((self.causes, earlier.causes, rest.causes), (self.roots, earlier.roots, rest.roots),
                                   (self.depths, earlier.depths, rest.depths)):
            left.update({key: value - theirs[key] for key, value in mine.items() if value > theirs[key]})
        for cause, tails in self.tails.items():
            before = earlier.tails.get(cause, {})
            rest.tails[cause].update({tail: value - before.get(tail, 0) for tail, value in tails.items()
                                      if value > before.get(tail, 0)})
        return rest

    def depth(self, quantile):
        """Frames of the stack below which this part of the value lies."""
        left = quantile * sum(self.depths.values())
        for frames in sorted(self.depths):
            left -= self.depths[frames]
            if left <= 0:
                return frames
        return max(self.depths, default=0)

    def __str__(self):
        def shares(counter, of, limit):
            return ", ".join(f"{name} {100 * value / of:.2f} %" for name, value in counter.most_common(limit) if value)

        whole = self.total or 1
        return (f"{self.samples} samples, native complete {self.native_pct():.2f} %, all {self.complete_pct():.2f} %, "
                f"jit {self.cause_pct('jit'):.2f} %; causes: {shares(self.causes, whole, 8) or 'none'}; "
                f"depth p50 {self.depth(0.5)} max {self.depth(1)}; outermost: {shares(self.roots, whole, 4)}")

    def examples(self, limit=3):
        """The outermost frames of stacks that are not whole, the most frequent of each cause."""
        lines = []
        for cause, tails in sorted(self.tails.items()):
            for tail, value in tails.most_common(limit):
                lines.append(f"{cause} {100 * value / (self.total or 1):.2f} %: " + " <- ".join(tail))
        return "\n".join(lines)


def complete_share(profile, tail_frames=8):
    """Shares of a profile in the daemon's JSON form."""
    names, stacks = profile["names"], profile["stacks"]
    shares = Shares(profile["samples"])
    of_node = []  # (number of the root's name, depth, outermost names without the root)
    for parent, name, self_value in zip(stacks["parent"], stacks["name"], stacks["self"]):
        if parent < 0:
            node = (name, 1, ())
        else:
            root, depth, tail = of_node[parent]
            node = (root, depth + 1, tail + (name,) if len(tail) < tail_frames else tail)
        of_node.append(node)
        if not self_value:
            continue
        root, depth, tail = node
        cause = ending(names[root])
        shares.total += self_value
        shares.depths[depth] += self_value
        if cause:
            shares.causes[cause] += self_value
            shares.tails[cause][tuple(names[number] for number in reversed(tail))] += self_value
        else:
            shares.roots[names[root]] += self_value
    return shares
