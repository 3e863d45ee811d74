#!/bin/sh
# Runs the daemon that was built, in the foreground. BAROSCOPE_RUN_DIR: state, socket and config below that folder
# (several can then run side by side in tests); otherwise the daemon's own default places.
set -eu
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
	echo "the daemon needs root (or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and more: docs/HACKING.md)" >&2
	exit 1
fi
if [ -n "${BAROSCOPE_RUN_DIR:-}" ]; then
	install -d -m 755 "$BAROSCOPE_RUN_DIR" "$BAROSCOPE_RUN_DIR/state"
	socket=$BAROSCOPE_RUN_DIR/control.sock
	set -- --state-dir "$BAROSCOPE_RUN_DIR/state" --socket "$socket"
	if [ -e "$BAROSCOPE_RUN_DIR/baroscope.yaml" ]; then
		set -- "$@" --config "$BAROSCOPE_RUN_DIR/baroscope.yaml"
	fi
	ctl="build/baroctl --socket $socket"
else
	ctl="build/baroctl"
fi
cat <<END
Baroscope samples every CPU as soon as it has started. In another terminal:
  $ctl status
  $ctl top process_cpu --since 30s
  $ctl export process_cpu --since 30s --format pprof -o cpu.pb.gz && go tool pprof -top cpu.pb.gz
End it with Ctrl-C.
END
exec build/baroscoped "$@"
