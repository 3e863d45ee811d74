#!/bin/busybox sh
# shellcheck shell=dash
# Init of the emulated machine: mounts, daemon, workload, questions, end. Nothing is raised or set for the daemon's sake.
# What it finds goes to the console as `@@ KEY VALUE` lines, which verdict.py on the host judges.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
hostname guest

say() { echo "@@ $*"; }
# Big answers go out as base64 of gzip: one word, safe beside whatever the kernel prints.
data() { say "$1" "$(gzip -c | base64 | tr -d '\n')"; }
ctl() { timeout 60 baroctl --socket /run/control.sock "$@"; }
poll() { # seconds command..: until the command succeeds
	local left=$(($1 * 5))
	shift
	until "$@"; do
		left=$((left - 1))
		[ "$left" -gt 0 ] || return 1
		usleep 200000
	done
}
end() {
	data log </tmp/log
	say end
	poweroff -f
}

say kernel "$(uname -r)"
timeout 120 baroscoped --internal-verify >/tmp/verify 2>&1
say verify_exit $?
while read -r line; do say verify "$line"; done </tmp/verify

baroscoped --state-dir /var/lib/baroscope --socket /run/control.sock >/tmp/log 2>&1 &
daemon=$!
is_ready() { grep -qw ready /tmp/log; }
if ! poll 90 is_ready; then
	say not_ready
	end
fi
say ready "$(cut -d' ' -f1 /proc/uptime)"

w_c_static --cpu-seconds 10 >/tmp/oracle
dd if=/dev/zero of=/dev/null bs=1M count=20000 2>/dev/null &
dd=$!
named() { ctl top process_cpu '{comm="w_c_static"}' --since 5m 2>/dev/null | grep -q c_hot_tenth; }
poll 30 named
say oracle "$(tail -n 1 /tmp/oracle)"
kernel_named() { ctl top process_cpu '{comm="dd"}' --since 5m 2>/dev/null | grep -qE 'zero|clear|rep_'; }
poll 40 kernel_named
kill $dd 2>/dev/null
wait $dd 2>/dev/null
ctl status --json | data status
ctl top process_cpu '{comm="w_c_static"}' --json --since 5m | data top
ctl top process_cpu '{comm="dd"}' --json --since 5m | data top_dd
ctl export process_cpu '{comm="w_c_static"}' --format json --since 5m | data profile
ctl export process_cpu --format pprof --since 5m -o /tmp/cpu.pb.gz && data pprof </tmp/cpu.pb.gz

# Stacks without frame pointers. The first process brings the table and keeps it; the second, the same file under another
# name, is judged. n_deep only calls: it is seen when a stack was walked by the table.
ln /usr/bin/w_nofp_static /usr/bin/w_nofp_again
w_nofp_static >/tmp/oracle &
nofp=$!
walked() { ctl top process_cpu '{comm="w_nofp_static"}' --since 5m 2>/dev/null | grep -q n_deep; }
poll 60 walked
w_nofp_again --cpu-seconds 10 >/tmp/oracle_nofp
again() { ctl top process_cpu '{comm="w_nofp_again"}' --since 5m 2>/dev/null | grep -q n_signal; }
poll 30 again
kill -TERM $nofp
wait $nofp
say oracle_nofp "$(tail -n 1 /tmp/oracle_nofp)"
ctl export process_cpu '{comm="w_nofp_again"}' --format json --since 5m | data nofp
ctl status --json | data status_nofp

# A processor leaves and comes back: what runs on it later is sampled.
if [ -e /sys/devices/system/cpu/cpu1/online ]; then
	echo 0 >/sys/devices/system/cpu/cpu1/online
	w_c_static --cpu-seconds 2 >/tmp/oracle
	ctl status --json | data status_unplugged
	echo 1 >/sys/devices/system/cpu/cpu1/online
	# Its event is opened at a drain: the daemon is asked until it has seen it, in the first second of work.
	cp /usr/bin/w_c_static /tmp/w_plugged
	taskset 2 /tmp/w_plugged --cpu-seconds 8 >/tmp/oracle
	plugged() { ctl top process_cpu '{comm="w_plugged"}' --since 5m 2>/dev/null | grep -q c_hot_half; }
	poll 30 plugged
	say oracle_plugged "$(tail -n 1 /tmp/oracle)"
	ctl export process_cpu '{comm="w_plugged"}' --format json --since 5m | data plugged
	ctl status --json | data status_plugged
fi

kill -TERM $daemon
gone() { ! kill -0 $daemon 2>/dev/null; }
if poll 20 gone; then
	wait $daemon
	say exit $?
else
	say exit timeout
fi
[ -e /run/control.sock ] && say socket_left
ours() { bpftool prog show 2>/dev/null | grep -q 'name b_'; }
none() { ! ours; }
poll 10 none
say bpf_left "$(bpftool prog show 2>/dev/null | grep -c 'name b_')"
end
