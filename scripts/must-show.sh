#!/bin/sh
# What must be shown: id, the command that shows it, and the last figures that it left in build/figures/ID.
set -eu
cd "$(dirname "$0")/.."
show() {
	printf '%s\t%s\n' "$1" "$2"
	found=0
	for file in "build/figures/$1" "build/figures/$1"-*; do
		[ -s "$file" ] || continue
		found=1
		sed 's/^/\t\t/' "$file"
	done
	[ "$found" = 1 ] || printf '\t\t(not run yet)\n'
}
e2e="python3 tests/e2e/run.py"
show light.1 "make fresh"
show light.2 "$e2e light_2"
show light.3 "$e2e light_3"
show light.4 "make kernels"
show light.5 "make bench-cpu"
show light.6 "$e2e light_6"
show light.7 "$e2e light_7"
show light.8 "$e2e light_8"
show stacks.1 "$e2e stacks_1"
show stacks.2 "$e2e stacks_2"
show stacks.3 "make bench-cpu"
show stacks.4 "make bench-tables"
show stacks.5 "$e2e stacks_5"
show stacks.6 "$e2e stacks_6"
show stacks.7 "make kernels"
