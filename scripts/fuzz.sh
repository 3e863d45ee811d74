#!/bin/bash
# Runs each fuzzer below build/fuzz for SECONDS (default 60); corpora grow in build/fuzz/corpus. Ends with 1 and the
# path of the input when one is found that breaks.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
failed=0
shopt -s nullglob
fuzzers=(build/fuzz/tests/fuzz/fuzz_*)
for fuzzer in "${fuzzers[@]}"; do
	case $fuzzer in *.o | *.d) continue ;; esac
	name=$(basename "$fuzzer")
	corpus=build/fuzz/corpus/$name
	mkdir -p "$corpus" "build/fuzz/found/$name"
	python3 tests/fuzz/seeds.py "$name" "$corpus"
	# A length limit keeps the smoke run on structure; 512 MiB is what a parser must never need.
	if "$fuzzer" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -max_len=65536 -print_final_stats=1 \
		-artifact_prefix="build/fuzz/found/$name/" "$corpus" >"build/fuzz/$name.log" 2>&1 </dev/null; then
		echo "ok $name: $(sed -n 's/stat::number_of_executed_units: *//p' "build/fuzz/$name.log") runs"
	else
		echo "not ok $name: see build/fuzz/$name.log"
		failed=1
	fi
done
exit "$failed"
