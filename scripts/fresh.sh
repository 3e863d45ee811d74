#!/bin/bash
# A bare Debian 12 in a folder, entered by chroot: `make test` there, then `make run`, and what a user does first.
#
# The base system is made once by debootstrap (below BAROSCOPE_FRESH_DIR, default build/fresh) and copied for each run.
# The mirror and apt's configuration are this machine's. Whatever is mounted or started is gone at the end, on every
# path. FRESH_STEPS="run" leaves out `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
base=${BAROSCOPE_FRESH_DIR:-$checkout/build/fresh}
steps=${FRESH_STEPS:-test run}
[ "$(id -u)" = 0 ] || {
	echo "fresh needs root: it mounts and enters a chroot" >&2
	exit 1
}
mkdir -p "$base"
base=$(realpath "$base")
root=$base/root
workloads=()
daemon=""

unmount() { # everything below the root, deepest first
	local mount
	while read -r mount; do
		umount "$mount" 2>/dev/null || umount -l "$mount" || true
	done < <(awk '{print $5}' /proc/self/mountinfo | grep -E "^${root}(/|\$)" | sort -r)
}
# Processes whose root is ours: whatever was started in there and did not end.
inside() {
	local link
	for link in /proc/[0-9]*/root; do
		if [ "$(readlink "$link" 2>/dev/null)" = "$root" ]; then
			link=${link#/proc/}
			echo "${link%/root}"
		fi
	done
}
cleanup() {
	local pid
	trap - EXIT INT TERM
	[ ${#workloads[@]} = 0 ] || kill "${workloads[@]}" 2>/dev/null || true
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
	for pid in $(inside); do kill "$pid" 2>/dev/null || true; done
	poll 10 nobody || for pid in $(inside); do kill -9 "$pid" 2>/dev/null || true; done
	unmount
	# Never through a mount that is still there.
	if ! grep -qE " ${root}[/ ]" /proc/self/mountinfo; then rm -rf "$root"; fi
}
nobody() { [ -z "$(inside)" ]; }
poll() { # seconds command..
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		read -r -t 0.3 <> <(:) || true
	done
}
fail() {
	echo "fresh: $*" >&2
	exit 1
}

# shellcheck disable=SC2016 # apt expands these
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' | awk '$2 == "bookworm" {print $1; exit}')
[ -n "$mirror" ] || fail "apt of this machine knows no mirror for bookworm"
if [ ! -e "$base/base.done" ]; then
	rm -rf "$base/base"
	debootstrap --variant=minbase bookworm "$base/base" "$mirror" >"$base/debootstrap.log" 2>&1 </dev/null ||
		fail "debootstrap: $(tail -n 3 "$base/debootstrap.log")"
	touch "$base/base.done"
fi

trap cleanup EXIT
trap 'exit 130' INT TERM
unmount
rm -rf "$root"
cp -a "$base/base" "$root"
# apt reaches its mirror there as it does here; the sources are those of this machine for Debian alone.
for part in apt.conf apt.conf.d auth.conf auth.conf.d keyrings trusted.gpg.d; do
	[ ! -e "/etc/apt/$part" ] || cp -a "/etc/apt/$part" "$root/etc/apt/"
done
rm -f "$root/etc/apt/apt.conf.d/70debconf" "$root/etc/apt/apt.conf.d/20packagekit" "$root/etc/apt/apt.conf.d/50appstream"
for file in /etc/resolv.conf /etc/hosts; do cp -L "$file" "$root$file"; done
[ ! -d /usr/local/share/ca-certificates ] || cp -a /usr/local/share/ca-certificates "$root/usr/local/share/"
# Packages that were fetched once are kept, so that a second run needs the mirror for lists alone.
mkdir -p "$base/archives" "$root/var/cache/apt/archives"

# The root is a mount of its own, so that `unshare -m` works in it as on a machine.
mount --bind "$root" "$root"
mount --make-private "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --make-rslave "$root/sys"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$base/archives" "$root/var/cache/apt/archives"
echo 'APT::Keep-Downloaded-Packages "true"; Binary::apt::APT::Keep-Downloaded-Packages "true";' \
	>"$root/etc/apt/apt.conf.d/zz-keep"
rm -f "$root/etc/apt/apt.conf.d/docker-clean"

mkdir -p "$root/src"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
	[ -e "$file" ] && printf '%s\0' "$file"
done | tar -c --null -T - | tar -x -C "$root/src"

# Nothing of this machine's PATH or environment goes in.
enter() {
	chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
		${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} ${no_proxy:+no_proxy="$no_proxy"} \
		sh -c "cd /src && $1" </dev/null
}
# `make` is the one thing that the Makefile cannot install.
enter "command -v make >/dev/null || { apt-get update -q && apt-get install -q -y --no-install-recommends make; }" \
	>"$base/make.log" 2>&1 || fail "make could not be installed: $(tail -n 3 "$base/make.log")"

if [[ $steps = *test* ]]; then
	echo "== make test"
	enter "make test" 2>&1 | tee "$base/test.log"
fi

if [[ $steps = *run* ]]; then
	echo "== make run"
	enter "exec make run" >"$base/run.log" 2>&1 &
	daemon=$!
	is_ready() { grep -qw ready "$base/run.log"; }
	running() { kill -0 "$daemon" 2>/dev/null; }
	ready_or_over() { is_ready || ! running; }
	poll 900 ready_or_over || fail "make run: not ready within 900 s"
	is_ready || fail "make run ended: $(tail -n 20 "$base/run.log")"
	enter "scripts/deps.sh test && make workloads" >"$base/workloads.log" 2>&1 || fail "workloads: $(tail -n 5 "$base/workloads.log")"
	for program in w_c w_cpp w_rust w_go; do
		enter "exec build/workloads/$program" >"$base/$program.out" 2>&1 &
		workloads+=($!)
	done
	enter "exec dd if=/dev/zero of=/dev/null bs=1M" >/dev/null 2>&1 &
	workloads+=($!)
	# 30 s of sampling is what is asked for; there is no event to wait for but time.
	poll 32 false || true
	enter "build/baroctl export process_cpu --since 30s --format pprof -o cpu.pb.gz" || fail "export"
	enter "go tool pprof -top cpu.pb.gz" >"$base/pprof.txt" 2>&1 || fail "go tool pprof: $(tail -n 5 "$base/pprof.txt")"
	enter "build/baroctl top process_cpu --since 30s --limit 200" >"$base/top.txt" || fail "top"
	count=0
	for name in c_hot_half c_hot_quarter c_hot_inner 'work::churn<unsigned long, 29>' work::Engine::turn \
		w_rust::hot::Mill::grind w_rust::hot::sift 'main.(*engine).turn' main.spin main.mix; do
		grep -qF -- "$name" "$base/top.txt" || fail "top does not name $name: $(head -n 30 "$base/top.txt")"
		count=$((count + 1))
	done
	grep -qF 'main.(*engine).turn' "$base/pprof.txt" || fail "pprof does not name main.(*engine).turn"
	grep -qE 'clear_user|read_zero|iter_zero|rep_stos' "$base/top.txt" || fail "top does not name the kernel's functions under dd"
	echo "top names $count hot functions of C, C++, Rust and Go, and the kernel's under dd"
	mkdir -p "$checkout/build/figures"
	{
		[ ! -e "$base/test.log" ] || grep -E '^[0-9]+ passed, ' "$base/test.log" | tail -n 1 | sed 's/^/make test on a bare Debian 12: /'
		echo "make run: ready; go tool pprof reads the export; top names $count functions and the kernel's under dd"
	} >"$checkout/build/figures/light.1"
	head -n 12 "$base/pprof.txt"
fi
echo "fresh: ok"
