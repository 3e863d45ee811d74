#!/bin/bash
# clang-tidy over C (first argument: compiler flags, then the files), shellcheck over scripts, syntax of the Python.
set -euo pipefail
cd "$(dirname "$0")/.."
flags="$1 -DBAROSCOPE_VERSION=\"lint\""
shift
failed=0

tidy() {
	# shellcheck disable=SC2016,SC2086
	printf '%s\n' "$@" | xargs -P "$(nproc)" -n 4 sh -c \
		'flags=$1; shift; clang-tidy --quiet --warnings-as-errors="*" "$@" -- $flags 2>/dev/null' sh "$flags"
}
[ $# = 0 ] || tidy "$@" || failed=1

mapfile -t scripts < <({
	find scripts tests packaging -name '*.sh' -type f
	find .ci -type f
	grep -rlE '^#!/bin/(ba)?sh' tests packaging scripts 2>/dev/null || true
} | sort -u)
shellcheck -x "${scripts[@]}" || failed=1

find scripts tests -name '*.py' -print0 | PYTHONDONTWRITEBYTECODE=1 xargs -0 -n 1 python3 -c '
import ast, sys
ast.parse(open(sys.argv[1]).read(), sys.argv[1])' || failed=1

[ "$failed" = 0 ] && echo "lint: ok"
exit "$failed"
