#!/bin/bash
# Boots Debian's kernels in the emulator and samples there: run.sh [KERNEL..], KERNEL = 5.10 6.1 6.12 6.18 newest.
#
# Packages come from Debian's suites by an apt configuration of our own (the system's sources stay as they are), by the
# newest name that a suite has at that moment, and stay in build/kernels. The guest is busybox, the release build of the
# daemon and baroctl, and two workloads, in an initramfs; what it finds comes out on the serial console and is judged by
# verdict.py. `newest` also boots with preempt=full. Ends in `N passed, N failed, N skipped`.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
build=$root/${BAROSCOPE_BUILD:-build}
here=$root/tests/kernels
work=$root/build/kernels
mkdir -p "$work"
[ $# -gt 0 ] || set -- 5.10 6.1 6.12 newest

if [ "$(uname -m)" != x86_64 ]; then
	echo "skip kernels: machine: only x86_64 kernels are booted"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
fi

apt_dir=$work/apt
apt_options=(-o "Dir::State=$apt_dir/state" -o "Dir::Cache=$apt_dir/cache" -o "Dir::Etc::SourceList=$apt_dir/sources.list"
	-o Dir::Etc::SourceParts=/dev/null -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
	-o APT::Sandbox::User=root -o Acquire::Languages=none -o Dir::State::status=/dev/null -o APT::Architecture=amd64)

sources() {
	# The mirrors that this machine uses; suites of one mirror are all there.
	local site codename main="" security="" keys=/usr/share/keyrings/debian-archive-keyring.gpg
	# shellcheck disable=SC2016 # apt expands these
	while read -r site codename; do
		case $codename in
		*-security) security=${security:-$site} ;;
		bookworm | bullseye | trixie) main=${main:-$site} ;;
		esac
	done < <(apt-get indextargets --format '$(SITE) $(CODENAME)' | sort -u)
	[ -n "$main" ] || {
		echo "apt knows no Debian mirror" >&2
		return 1
	}
	mkdir -p "$apt_dir/state/lists/partial" "$apt_dir/cache/archives/partial"
	{
		echo "deb [signed-by=$keys] $main bookworm main"
		echo "deb [signed-by=$keys] $main trixie-backports main"
		[ -z "$security" ] || echo "deb [signed-by=$keys] $security bullseye-security main"
		[ -z "$security" ] || echo "deb [signed-by=$keys] $security trixie-security main"
	} >"$apt_dir/sources.list"
	# Once a day is enough.
	if [ -z "$(find "$apt_dir/updated" -mmin -1440 2>/dev/null)" ]; then
		apt-get "${apt_options[@]}" update -q >"$work/apt.log" 2>&1 </dev/null || {
			cat "$work/apt.log" >&2
			return 1
		}
		touch "$apt_dir/updated"
	fi
}

# Newest version (5.10.0-46-cloud-amd64) of a series whose image the suites have.
version_of() {
	local pattern
	case $1 in
	5.10 | 6.1) pattern="linux-image-${1//./\\.}\\.0-[0-9]+-cloud-amd64" ;;
	newest) pattern='linux-(image|binary)-[0-9][0-9.]*\+deb13-cloud-amd64' ;;
	*) pattern="linux-(image|binary)-${1//./\\.}\\.[0-9.]*\\+deb13-cloud-amd64" ;;
	esac
	apt-cache "${apt_options[@]}" pkgnames linux- | grep -xE "$pattern" | sed 's/^linux-[a-z]*-//' | sort -V | tail -n 1
}

# Path of the kernel of a version, fetched and unpacked if need be.
kernel_of() {
	local version=$1 package found
	local folder=$work/$version
	if [ ! -s "$folder/vmlinuz" ]; then
		rm -rf "$folder" "$folder.tmp"
		mkdir -p "$folder.tmp"
		for package in "linux-binary-$version" "linux-image-$version"; do
			apt-cache "${apt_options[@]}" show "$package" >/dev/null 2>&1 || continue
			(cd "$folder.tmp" && apt-get "${apt_options[@]}" download -q "$package" >>"$work/apt.log" 2>&1 </dev/null)
			dpkg -x "$folder.tmp"/"$package"_*.deb "$folder.tmp/x"
			found=$(find "$folder.tmp/x" -name 'vmlinuz*' -type f | head -n 1)
			if [ -n "$found" ]; then
				mv "$found" "$folder.tmp/vmlinuz"
				break
			fi
		done
		rm -rf "$folder.tmp/x" "$folder.tmp"/*.deb
		[ -s "$folder.tmp/vmlinuz" ] || return 1
		mv "$folder.tmp" "$folder"
	fi
	echo "$folder/vmlinuz"
}

put() { # program: into the initramfs, with its shared libraries at their own paths
	local library
	install -D -m 755 "$1" "$tree/usr/bin/$(basename "$1")"
	while read -r library; do
		[ -e "$tree$library" ] || install -D -m 755 "$library" "$tree$library"
	done < <(ldd "$1" 2>/dev/null | grep -oE '/[^ ]+' || true)
}

initramfs() {
	tree=$(mktemp -d "$work/tree.XXXXXX")
	mkdir -p "$tree"/{bin,proc,sys,dev,run,tmp,etc/baroscope,var/lib}
	install -m 755 "$(command -v busybox)" "$tree/bin/busybox"
	put "$build/baroscoped"
	put "$build/baroctl"
	put "$root/build/workloads/w_c_static"
	put "$root/build/workloads/w_nofp_static"
	put "$(command -v bpftool || echo /usr/sbin/bpftool)"
	install -m 755 "$here/init.sh" "$tree/init"
	echo 'root:x:0:0:root:/:/bin/sh' >"$tree/etc/passwd"
	echo 'root:x:0:' >"$tree/etc/group"
	(cd "$tree" && find . -print0 | cpio --quiet --null -o -H newc) | gzip -1 >"$work/initramfs.gz"
	rm -rf "$tree"
}

boot() { # name version kernel extra-command-line
	local log=$work/$1.console
	echo "# booting $2 ($1)"
	# Emulated: no KVM, so that it is the same everywhere. The time-out is the last resort: the guest has its own.
	timeout -k 5 420 qemu-system-x86_64 -M pc -accel tcg,thread=multi -cpu max -m 768 -smp 2 -nodefaults -no-user-config \
		-display none -monitor none -serial stdio -no-reboot -kernel "$3" -initrd "$work/initramfs.gz" \
		-append "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/init $4" </dev/null >"$log" 2>&1 || true
	PYTHONDONTWRITEBYTECODE=1 python3 "$here/verdict.py" "$1" "$2" "$log" | tee "$work/$1.verdict" || true
}

tree=""
trap '[ -z "$tree" ] || rm -rf "$tree"' EXIT
sources
initramfs
rm -f "$work"/*.verdict
unknown=0
for kernel in "$@"; do
	version=$(version_of "$kernel") || true
	if [ -z "$version" ] || ! image=$(kernel_of "$version"); then
		echo "not ok $kernel: no package of this kernel could be fetched (see build/kernels/apt.log)"
		unknown=$((unknown + 1))
		continue
	fi
	boot "$kernel" "$version" "$image" ""
	[ "$kernel" != newest ] || boot newest-preempt "$version" "$image" "preempt=full"
done

passed=$(cat "$work"/*.verdict 2>/dev/null | grep -c '^ok ' || true)
failed=$(($(cat "$work"/*.verdict 2>/dev/null | grep -c '^not ok ' || true) + unknown))
mkdir -p "$root/build/figures"
{
	grep -h '^# .*: kernel ' "$work"/*.verdict 2>/dev/null | sed 's/^# //' || true
	echo "$passed passed, $failed failed"
} >"$root/build/figures/light.4"
grep -h '^# .*: stacks: ' "$work"/*.verdict 2>/dev/null | sed 's/^# //' >"$root/build/figures/stacks.7" || true
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
