#!/bin/bash
# Who may include whom, and what may be in the repository. Prints each breach and ends with 1 if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
breach() {
	echo "layers: $*" >&2
	bad=1
}

# A room may include itself and what stands to its left. bpf stands for the profilers' user sides.
declare -A rank=([util]=0 [opener]=1 [image]=2 [target]=3 [profile]=3 [query]=4 [export]=5 [store]=5 [core]=6 [control]=7
	[http]=7)
includes() { # file -> the paths in its #include "..." lines
	sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]\([^">]*\)[">].*/\1/p' "$1"
}

while IFS= read -r file; do
	room=${file#daemon/}
	room=${room%%/*}
	while IFS= read -r header; do
		case $header in
		bpf/libbpf.h | bpf/bpf.h | bpf/btf.h | *.skel.h | bpf/*)
			[ "$header" = bpf/abi.h ] || [ "$room" = core ] || breach "$file includes $header"
			[[ $room = core && $header = *.skel.h ]] && breach "$file includes the skeleton $header"
			;;
		daemon/config.h)
			[[ $room =~ ^(core|control|http)$ ]] || breach "$file includes $header"
			;;
		daemon/*/*)
			other=${header#daemon/}
			other=${other%%/*}
			[ "$other" = "$room" ] && continue
			if [[ $room = control && $other = core && $header != daemon/core/service.h ]]; then
				breach "$file includes $header (of core only service.h)"
			elif [ -z "${rank[$room]:-}" ] || [ -z "${rank[$other]:-}" ]; then
				breach "$file includes $header: room not in the order of $0"
			elif [ "${rank[$other]}" -ge "${rank[$room]}" ]; then
				breach "$file includes $header, which is downstream or beside it"
			fi
			;;
		esac
	done < <(includes "$file")
done < <(find daemon -mindepth 2 \( -name '*.c' -o -name '*.h' \) | sort)

# Profilers: their own skeleton in one file, of the daemon only what the interface needs.
while IFS= read -r file; do
	while IFS= read -r header; do
		case $header in
		*.skel.h)
			[ "$header" = "${file%.c}.skel.h" ] || breach "$file includes $header"
			;;
		daemon/util/* | daemon/core/profiler.h | daemon/target/target.h | daemon/image/image.h | \
			daemon/image/table.h) ;;
		daemon/*) breach "$file includes $header" ;;
		esac
	done < <(includes "$file")
done < <(find bpf -mindepth 2 \( -name '*.c' -o -name '*.h' \) -not -name '*.bpf.c' | sort)
while IFS= read -r file; do
	if includes "$file" | grep -E '^(daemon/|ctl/)' >&2; then
		breach "$file is BPF and includes user space"
	fi
done < <(find bpf -name '*.bpf.[ch]' | sort)
# baroctl talks over the socket; it takes nothing from the daemon but small helpers and the default places.
while IFS= read -r file; do
	while IFS= read -r header; do
		case $header in
		daemon/util/* | daemon/config.h) ;;
		daemon/* | bpf/*) breach "$file includes $header" ;;
		esac
	done < <(includes "$file")
done < <(find ctl -name '*.[ch]' | sort)

if git rev-parse --git-dir >/dev/null 2>&1; then
	files() { git ls-files; }
else
	files() { find . -path ./build -prune -o -type f -print | sed 's|^\./||'; }
fi
while IFS= read -r file; do
	[ -f "$file" ] || continue
	case $file in
	*.o | *.a | *.so | *.so.* | *.skel.h | *.pb-c.[ch] | *.pyc | *.ko | build/*) breach "$file is built, not written" ;;
	*.c | *.h | *.py | *.sh | *.cc | *.rs | *.go)
		lines=$(wc -l <"$file")
		if [ "$lines" -gt 1000 ] && ! grep -q 'reason for length:' "$file"; then
			breach "$file has $lines lines and no line 'reason for length:'"
		fi
		;;
	esac
	if [ "$(head -c 4 "$file" | tr -d '\0')" = $'\177ELF' ]; then
		breach "$file is an ELF object"
	fi
done < <(files)

[ "$bad" = 0 ] && echo "layers: ok"
exit "$bad"
