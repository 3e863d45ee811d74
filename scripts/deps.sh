#!/bin/sh
# Installs what is missing for the groups given as arguments: build test lint kernels fresh fuzz bench.
# Debian 12; asks nothing. Only what dpkg does not know is installed; with nothing missing it needs no root.
set -eu

build="gcc make pkgconf libc6-dev clang llvm bpftool libbpf-dev libelf-dev zlib1g-dev libevent-dev libjansson-dev
	libcyaml-dev libyaml-dev libprotobuf-c-dev protobuf-c-compiler libpcre2-dev libseccomp-dev libcap-dev
	libiberty-dev uthash-dev libjemalloc-dev libxxhash-dev"
test="g++ binutils libcmocka-dev libdw-dev util-linux procps libclang-rt-14-dev
	redis-server redis-tools postgresql-15 nginx wrk nodejs openjdk-17-jdk-headless chromium xz-utils openssl python3"
lint="clang-format clang-tidy shellcheck"
kernels="qemu-system-x86 busybox-static cpio debian-archive-keyring"
fresh="debootstrap util-linux"
fuzz="libclang-rt-14-dev"
bench="linux-perf redis-server redis-tools xz-utils openssl gzip python3 llvm util-linux"

command -v go >/dev/null || test="$test golang-go"
command -v rustc >/dev/null || test="$test rustc"

wanted=""
for group in "$@"; do
	case $group in
	build) wanted="$wanted $build" ;;
	test) wanted="$wanted $test" ;;
	lint) wanted="$wanted $lint" ;;
	kernels) wanted="$wanted $kernels" ;;
	fresh) wanted="$wanted $fresh" ;;
	fuzz) wanted="$wanted $fuzz" ;;
	bench) wanted="$wanted $bench" ;;
	*)
		echo "deps.sh: unknown group $group" >&2
		exit 2
		;;
	esac
done

missing=""
for package in $wanted; do
	case " $missing " in *" $package "*) continue ;; esac
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "missing packages:$missing (run \`make deps\` as root)" >&2
	exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
# Servers are wanted as programs, not as services: Debian's way to say that none be started.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'rm -f $policy' EXIT
	trap 'exit 130' INT TERM
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
fi
apt-get update -q </dev/null
# shellcheck disable=SC2086 # one word per package
apt-get install -q -y --no-install-recommends $missing </dev/null
