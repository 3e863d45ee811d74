# The only build of Baroscope. `make help` lists the targets.
#
# build/       release objects, baroscoped, baroctl
# build/san/   the same with ASan and UBSan; the tests run these
# Adding a profiler: a folder bpf/X with X.bpf.c, X.h, X.c, its name in PROFILERS, a line in daemon/core/registry.c.

PROFILERS := cpu
BPF_ROOMS := track $(PROFILERS)
ROOMS     := util opener target image profile query export core control

CC        := gcc
CLANG     := clang
BPFTOOL   := $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
PKGS      := libbpf libelf libevent libjansson libcyaml libprotobuf-c libpcre2-8 libseccomp libcap zlib
PKG_NAMES := $(patsubst libjansson,jansson,$(patsubst libevent,libevent_core libevent_extra,$(PKGS)))

B         ?= build
ARCH      := $(shell uname -m | sed 's/x86_64/x86/;s/aarch64/arm64/')
VERSION   := $(shell cat VERSION)

WARN      := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wvla
CPPFLAGS  := -I. -I$(B) -D_GNU_SOURCE -DBAROSCOPE_VERSION='"$(VERSION)"'
CFLAGS    := -std=gnu11 -O2 -g $(WARN) -fno-omit-frame-pointer -fstack-protector-strong
LDFLAGS   := -Wl,--as-needed
HARDEN    := -D_FORTIFY_SOURCE=2 -fPIE
ALLOCATOR := -ljemalloc
ifeq ($(SAN),1)
CFLAGS    += -fsanitize=address,undefined -fno-sanitize-recover=undefined -O1
LDFLAGS   += -fsanitize=address,undefined
CPPFLAGS  += -DBAROSCOPE_SANITIZE -DBAROSCOPE_FAULTS
HARDEN    :=
ALLOCATOR :=
endif
LDLIBS     = $(shell pkg-config --libs $(PKG_NAMES)) -liberty -lm $(ALLOCATOR)
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v2 -D__TARGET_ARCH_$(ARCH) -I. $(WARN) -Wno-unused-parameter -Wno-missing-prototypes

BPF_SRC   := $(foreach r,$(BPF_ROOMS),bpf/$(r)/$(r).bpf.c)
SKELS     := $(BPF_SRC:%.bpf.c=$(B)/%.skel.h)
PROTO_C   := $(B)/proto/profile.pb-c.c
PROTO_H   := $(PROTO_C:.c=.h)
LIB_SRC   := $(foreach r,$(ROOMS),$(wildcard daemon/$(r)/*.c)) daemon/config.c $(foreach r,$(BPF_ROOMS),$(wildcard bpf/$(r)/$(r).c bpf/$(r)/$(r)_*.c))
CTL_SRC   := $(wildcard ctl/*.c)
LIB_OBJ   := $(LIB_SRC:%.c=$(B)/%.o) $(PROTO_C:.c=.o)
CTL_OBJ   := $(CTL_SRC:%.c=$(B)/%.o)
UNIT_SRC  := $(wildcard tests/unit/*/test_*.c)
UNIT_BIN  := $(UNIT_SRC:%.c=$(B)/%)

.PHONY: all
all: $(B)/baroscoped $(B)/baroctl

$(B)/baroscoped: $(B)/daemon/main.o $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/baroctl: $(CTL_OBJ) $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(B)/libbaroscope.a: $(LIB_OBJ)
	rm -f $@ && ar rcs $@ $^

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

# Unit tests link the archive: each takes only the objects that it needs.
$(B)/tests/unit/%: $(B)/tests/unit/%.o $(B)/libbaroscope.a
	$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

.PRECIOUS: $(B)/%.bpf.o $(B)/%.skel.h $(B)/%.o
-include $(shell find $(B) -name '*.d' 2>/dev/null)
