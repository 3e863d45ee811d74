# The only build of Baroscope. `make help` lists the targets.
#
# build/       release objects, baroscoped, baroctl
# build/san/   the same with ASan and UBSan; the tests run these
# build/fuzz/  the same for libFuzzer, by clang
# Adding a profiler: a folder bpf/X with X.bpf.c, X.h, X.c, its name in PROFILERS, a line in daemon/core/registry.c.

PROFILERS := cpu
BPF_ROOMS := track $(PROFILERS)
ROOMS     := util opener target image profile query export core control

ifeq ($(origin CC),default)
CC        := gcc
endif
CLANG     := clang
BPFTOOL   := $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
PKGS      := libbpf libevent libjansson yaml-0.1 libprotobuf-c libpcre2-8 libseccomp libcap zlib
PKG_NAMES := $(patsubst libjansson,jansson,$(patsubst libevent,libevent_core libevent_extra,$(PKGS)))

B         ?= build
PREFIX    ?= /usr/local
ARCH      := $(shell uname -m | sed 's/x86_64/x86/;s/aarch64/arm64/')
VERSION   := $(shell cat VERSION)

# What needs the build tools at once; the others install them first or don't need them.
NO_TOOLS  := help deps run test fresh must-show clean format lint kernels fuzz bench bench-% layers install-check
ifneq ($(filter-out $(NO_TOOLS),$(or $(MAKECMDGOALS),all)),)
MISSING   := $(foreach t,$(CC) $(CLANG) $(BPFTOOL) llvm-strip protoc-c pkg-config,$(if $(shell command -v $(t)),,$(t)))
ifeq ($(strip $(MISSING)),)
MISSING   := $(foreach p,$(PKG_NAMES),$(if $(shell pkg-config --exists $(p) && echo y),,$(p)))
endif
ifneq ($(strip $(MISSING)),)
$(error missing to build: $(strip $(MISSING)); run `make deps` as root)
endif
endif

WARN      := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla
CPPFLAGS  := -I. -I$(B) -D_GNU_SOURCE -DBAROSCOPE_VERSION='"$(VERSION)"'
CFLAGS    := -std=gnu11 -O2 -g $(WARN) -fno-omit-frame-pointer -fstack-protector-strong
LDFLAGS   := -Wl,--as-needed
HARDEN    := -D_FORTIFY_SOURCE=2 -fPIE
# Static: the shared one brings the C++ runtime, 1 MiB of resident pages in each of the three processes.
ALLOCATOR := -l:libjemalloc_pic.a
ifeq ($(SAN),1)
CFLAGS    += -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
LDFLAGS   += -fsanitize=address,undefined
CPPFLAGS  += -DBAROSCOPE_SANITIZE -DBAROSCOPE_FAULTS
HARDEN    :=
ALLOCATOR :=
endif
ifeq ($(FUZZ),1)
CFLAGS    += -fsanitize=fuzzer-no-link -w
endif
LDLIBS     = $(shell pkg-config --libs $(PKG_NAMES)) -liberty $(ALLOCATOR) -lm
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v2 -D__TARGET_ARCH_$(ARCH) -I. -I/usr/include/$(shell $(CC) -print-multiarch) $(WARN) -Wno-unused-parameter -Wno-missing-prototypes

BPF_SRC   := $(foreach r,$(BPF_ROOMS),bpf/$(r)/$(r).bpf.c)
SKELS     := $(BPF_SRC:%.bpf.c=$(B)/%.skel.h)
PROTO_C   := $(B)/proto/profile.pb-c.c
PROTO_H   := $(PROTO_C:.c=.h)
LIB_SRC   := $(foreach r,$(ROOMS),$(wildcard daemon/$(r)/*.c)) $(wildcard daemon/config*.c) $(filter-out ctl/main.c,$(wildcard ctl/*.c)) $(foreach r,$(BPF_ROOMS),$(wildcard bpf/$(r)/$(r).c bpf/$(r)/$(r)_*.c))
CTL_SRC   := ctl/main.c
LIB_OBJ   := $(LIB_SRC:%.c=$(B)/%.o) $(PROTO_C:.c=.o)
CTL_OBJ   := $(CTL_SRC:%.c=$(B)/%.o)
UNIT_SRC  := $(wildcard tests/unit/*/test_*.c)
UNIT_BIN  := $(UNIT_SRC:%.c=$(B)/%)
# Tests in C that load BPF (tests/bpf) or inject faults (tests/fault): built like unit tests.
ROOT_SRC  := $(wildcard tests/bpf/test_*.c tests/fault/test_*.c)
ROOT_BIN  := $(ROOT_SRC:%.c=$(B)/%)
FUZZ_SRC  := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ_BIN  := $(FUZZ_SRC:%.c=$(B)/%)

W         := build/workloads
WORKLOADS := $(W)/w_deep $(W)/w_c $(W)/w_c_static $(W)/w_nofp_static $(W)/w_cpp $(W)/w_misc $(W)/w_unwind $(W)/bpfnoise
WORKLOADS += $(if $(shell command -v go),$(W)/w_go $(W)/w_go_stripped)
WORKLOADS += $(if $(shell command -v rustc),$(W)/w_rust $(W)/w_rust_nofp)

.PHONY: all
all: $(B)/baroscoped $(B)/baroctl ## build the daemon and baroctl (the default)

$(B)/baroscoped: $(B)/daemon/main.o $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/baroctl: $(CTL_OBJ) $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/libbaroscope.a: $(LIB_OBJ)
	rm -f $@ && ar qcs $@ $^

$(B)/%.bpf.o: %.bpf.c
	@mkdir -p $(@D)
	$(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@
	llvm-strip -g $@
$(B)/%.skel.h: $(B)/%.bpf.o
	$(BPFTOOL) gen skeleton $< name $(notdir $*)_bpf > $@.tmp && mv $@.tmp $@
$(B)/proto/%.pb-c.c $(B)/proto/%.pb-c.h: proto/%.proto
	@mkdir -p $(@D)
	protoc-c --c_out=$(B) $<

# Generated headers first; the dependency files know the rest.
$(B)/%.o: %.c | $(SKELS) $(PROTO_H)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) $(HARDEN) -MMD -MP -c $< -o $@
$(B)/proto/%.o: $(B)/proto/%.c
	$(CC) $(CPPFLAGS) -std=gnu11 -O2 -g $(HARDEN) -c $< -o $@

# Embedded by the assembler, unseen by -MMD.
$(B)/daemon/control/idl.o: $(wildcard daemon/control/*.varlink)

# Unit tests link the archive: each takes only the objects that it needs.
$(B)/tests/bench/bench_tables: $(B)/tests/bench/bench_tables.o $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(UNIT_BIN) $(ROOT_BIN): $(B)/%: $(B)/%.o $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka
# The unwinder in user space, and what records stacks for it.
UNWIND_USER := $(B)/tests/bpf/unwind_user.o
STACK_CASE  := $(UNWIND_USER) $(B)/tests/bpf/stack_case.o $(B)/tests/bpf/stack_replay.o
STACKREC    := $(patsubst %.c,$(B)/%.o,$(wildcard tests/tools/*.c)) $(STACK_CASE)
$(B)/tests/unit/bpf/test_unwind: $(UNWIND_USER)
$(B)/tests/unit/bpf/test_replay: $(STACK_CASE)
$(B)/stackrec: $(STACKREC) $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(FUZZ_BIN): $(B)/%: $(B)/%.o $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

.PHONY: test-binaries fuzz-binaries workloads generated
test-binaries: $(UNIT_BIN) $(ROOT_BIN) $(B)/stackrec
fuzz-binaries: $(FUZZ_BIN)
generated: $(SKELS) $(PROTO_H)
workloads: $(WORKLOADS) ## targets with an oracle, for the tests

# Workloads keep their frame pointers and symbols, but for w_deep, w_unwind, w_rust_nofp and w_go_stripped; they are no
# part of the product and take no product flags.
W_CFLAGS  := -O2 -g -fno-omit-frame-pointer -fno-optimize-sibling-calls -mno-omit-leaf-frame-pointer -Wall -Wextra -Werror
$(W)/w_c: tests/workloads/w_c.c tests/workloads/oracle.h
	@mkdir -p $(@D)
	gcc $(W_CFLAGS) -pthread -o $@ $<
$(W)/w_c_static: tests/workloads/w_c.c tests/workloads/oracle.h
	@mkdir -p $(@D)
	gcc $(W_CFLAGS) -pthread -static -o $@ $<
$(W)/w_nofp_static: tests/workloads/w_nofp.c tests/workloads/oracle.h
	@mkdir -p $(@D)
	gcc $(filter-out %frame-pointer,$(W_CFLAGS)) -fomit-frame-pointer -static -o $@ $<
$(W)/w_cpp: tests/workloads/w_cpp.cc tests/workloads/oracle.h
	@mkdir -p $(@D)
	g++ $(W_CFLAGS) -o $@ $<
$(W)/w_deep: tests/workloads/w_deep.cc
	@mkdir -p $(@D)
	g++ -O2 -g -fomit-frame-pointer -Wall -Wextra -Werror -o $@ $<
$(W)/w_misc: tests/workloads/w_misc.c
	@mkdir -p $(@D)
	gcc $(W_CFLAGS) -pthread -o $@ $<
$(W)/w_unwind: tests/workloads/w_unwind.cc tests/workloads/oracle.h
	@mkdir -p $(@D)
	g++ -std=c++20 -O2 -g -fomit-frame-pointer -fno-builtin -fplt -Wall -Wextra -Werror -pthread -o $@ $<
$(W)/w_rust_nofp: tests/workloads/w_rust.rs
	@mkdir -p $(@D)
	rustc --edition 2021 --crate-name w_rust -O -g -C force-frame-pointers=no -o $@ $<
$(W)/w_rust: tests/workloads/w_rust.rs
	@mkdir -p $(@D)
	rustc --edition 2021 -O -g -C force-frame-pointers=yes -o $@ $<
$(W)/w_go_stripped: GO_FLAGS := -ldflags="-s -w"
$(W)/w_go $(W)/w_go_stripped: tests/workloads/w_go/main.go
	@mkdir -p $(@D)
	cd tests/workloads/w_go && GOFLAGS=-mod=mod GOTOOLCHAIN=local CGO_ENABLED=0 \
		go build -buildvcs=false $(GO_FLAGS) -o $(abspath $@) main.go
$(W)/bpfnoise.bpf.o: tests/workloads/bpfnoise.bpf.c
	@mkdir -p $(@D)
	$(CLANG) -g -O2 -target bpf -mcpu=v2 -I/usr/include/$(shell uname -m)-linux-gnu -c $< -o $@
$(W)/bpfnoise.skel.h: $(W)/bpfnoise.bpf.o
	$(BPFTOOL) gen skeleton $< name bpfnoise_bpf > $@.tmp && mv $@.tmp $@
$(W)/bpfnoise: tests/workloads/bpfnoise.c $(W)/bpfnoise.skel.h
	gcc $(W_CFLAGS) -I$(W) -o $@ $< -lbpf

# --- for people and CI ---------------------------------------------------------------------------------------------

.PHONY: help deps run test must-show fresh kernels fuzz format format-check lint stackrec layers bench bench-cpu install clean
JOBS      := -j$(shell nproc)
SUB        = +@$(MAKE) --no-print-directory $(JOBS)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

deps: ## install what is missing to build and test (Debian 12, as root)
	@scripts/deps.sh build test

run: ## install what is missing, build, run the daemon in the foreground (BAROSCOPE_RUN_DIR: state and socket there)
	@scripts/deps.sh build
	$(SUB) all
	@exec scripts/run.sh

test: ## everything that can be tested on one machine; ends in `N passed, N failed, N skipped`
	@scripts/deps.sh build test
	$(SUB) all
	$(SUB) SAN=1 B=build/san all test-binaries
	$(SUB) workloads
	@python3 scripts/test.py

must-show: ## each promise with the command that shows it and the last figure
	@scripts/must-show.sh

fresh: ## test and run on a debootstrapped minimal Debian 12 in a chroot
	@scripts/deps.sh fresh
	@scripts/fresh.sh

kernels: ## boot Debian's kernels in the emulator and sample there (KERNELS="5.10 6.1 6.12 newest")
	@scripts/deps.sh build test kernels
	$(SUB) all build/workloads/w_c_static build/workloads/w_nofp_static
	@tests/kernels/run.sh $(KERNELS)

fuzz: ## run each fuzzer for FUZZ_SECONDS (default 60)
	@scripts/deps.sh build fuzz
	$(SUB) CC=clang SAN=1 FUZZ=1 B=build/fuzz fuzz-binaries
	@scripts/fuzz.sh $(or $(FUZZ_SECONDS),60)

C_FILES    = $(shell find bpf daemon ctl tests \( -name '*.c' -o -name '*.h' \) -type f | sort)
format: ## format all C
	@scripts/deps.sh lint
	clang-format -i $(C_FILES)
format-check:
	@scripts/deps.sh lint
	@clang-format --dry-run -Werror $(C_FILES)

lint: format-check layers ## formatting, layers, clang-tidy, shellcheck
	@scripts/deps.sh build test lint
	$(SUB) generated
	@scripts/lint.sh "$(filter-out -DBAROSCOPE_VERSION%,$(CPPFLAGS)) -std=gnu11" $(filter %.c,$(LIB_SRC) $(CTL_SRC) $(wildcard daemon/main.c))

stackrec: ## build/stackrec: records stacks of processes as cases, compares them with elfutils
	$(SUB) $(B)/stackrec

layers: ## who may include whom
	@scripts/check-layers.sh

bench: bench-cpu bench-tables ## all benches

bench-cpu: ## accounted cost of always-on sampling, beside perf record (BENCH_ARGS="--mix heavy --rounds 5")
	@scripts/deps.sh build test bench
	$(SUB) all workloads
	@python3 tests/bench/bench_cpu.py $(BENCH_ARGS)

bench-tables: ## what unwind tables cost, and how soon they are there
	@scripts/deps.sh build test bench
	$(SUB) all build/workloads/w_deep $(B)/tests/bench/bench_tables
	@python3 tests/bench/bench_tables.py $(BENCH_ARGS)

install: all ## DESTDIR, PREFIX
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 755 $(B)/baroscoped $(DESTDIR)$(PREFIX)/sbin/baroscoped
	install -m 755 $(B)/baroctl $(DESTDIR)$(PREFIX)/bin/baroctl
	sed 's|@PREFIX@|$(PREFIX)|g' packaging/baroscope.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/baroscope.service
	chmod 644 $(DESTDIR)$(PREFIX)/lib/systemd/system/baroscope.service
	set -e; for m in $(wildcard packaging/man/*.[1-8]); do \
		d=$(DESTDIR)$(PREFIX)/share/man/man$${m##*.}; install -d $$d; install -m 644 $$m $$d/; done

clean: ## remove build/
	rm -rf build

.PRECIOUS: $(B)/%.bpf.o $(B)/%.skel.h $(B)/%.o
DEP_DIRS  := $(wildcard $(B)/bpf $(B)/daemon $(B)/ctl $(B)/proto $(B)/tests)
-include $(if $(DEP_DIRS),$(shell find $(DEP_DIRS) -name '*.d' -type f))
