#!/usr/bin/env python3
"""Writes small starting inputs for a fuzzer: `seeds.py FUZZER FOLDER`. Made at run time, so that no binary is kept.

The ELF images have what the parser looks at: symbol tables, a build id, and a Go function table of each format."""

import os
import struct
import sys
import zlib

GO_MAGICS = {"1.2": 0xFFFFFFFB, "1.16": 0xFFFFFFFA, "1.18": 0xFFFFFFF0, "1.20": 0xFFFFFFF1}
NAMES = ["main", "_ZN3foo3barIiEEvT_", "_RNvCs15kBYyAo9fc_7mycrate3foo", "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE",
         "_ZNSt6vectorIiSaIiEE9push_backERKi", "malloc@@GLIBC_2.2.5"]
TEXT, TEXT_BYTES = 0x1000, 0x400


def pclntab(version, width):
    """Functions main.f0 to main.f3 at text + 0x100 * n."""
    magic, word = GO_MAGICS[version], "<Q" if width == 8 else "<I"
    names = b"".join(b"main.f%d\0" % n for n in range(4))
    starts = [n * 8 for n in range(4)]
    old = version in ("1.2", "1.16")
    cell = word if old else "<I"
    cell_bytes = struct.calcsize(cell)
    base = TEXT if old else 0
    header_words = {"1.2": 1, "1.16": 7, "1.18": 8, "1.20": 8}[version]
    header_bytes = 8 + header_words * width
    table_bytes = (2 * 4 + 1) * cell_bytes
    function_bytes = cell_bytes + 4
    if version == "1.2":
        table_at, names_at, relative_to = header_bytes, header_bytes + table_bytes + 4 * function_bytes, 0
    else:
        names_at = header_bytes
        table_at = relative_to = header_bytes + len(names)
    table = b""
    functions = b""
    for n in range(4):
        at = table_at + table_bytes + n * function_bytes - relative_to
        table += struct.pack(cell, base + 0x100 * n) + struct.pack(cell, at)
        name = starts[n] + (names_at if version == "1.2" else 0)
        functions += struct.pack(cell, base + 0x100 * n) + struct.pack("<I", name)
    table += struct.pack(cell, base + TEXT_BYTES)
    words = {"1.2": [4], "1.16": [4, 1, names_at, 0, 0, 0, table_at],
             "1.18": [4, 1, TEXT, names_at, 0, 0, 0, table_at]}
    words["1.20"] = words["1.18"]
    header = struct.pack("<IBBBB", magic, 0, 0, 1, width) + b"".join(struct.pack(word, w) for w in words[version])
    return header + (table + functions + names if version == "1.2" else names + table + functions)


def elf(bits, symbols, table):
    wide = bits == 64
    sections = [("", 0, b"", 0, 0)]
    strings = b"\0"
    entries = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0) if wide else bytes(16)
    for n, name in enumerate(NAMES):
        value, info = TEXT + 0x40 * n, 0x10 * (n % 3) + (2 if n % 2 else 0)
        if wide:
            entries += struct.pack("<IBBHQQ", len(strings), info, 0, 1, value, 0x40)
        else:
            entries += struct.pack("<IIIBBH", len(strings), value, 0x40, info, 0, 1)
        strings += name.encode() + b"\0"
    sections.append((".text", 1, bytes(TEXT_BYTES), 0, 0))
    if symbols:
        sections.append((".symtab", 2, entries, 3, 24 if wide else 16))
        sections.append((".strtab", 3, strings, 0, 0))
    sections.append((".note.gnu.build-id", 7, struct.pack("<III4s", 4, 20, 3, b"GNU\0") + bytes(range(20)), 0, 0))
    if table:
        sections.append((".gopclntab", 1, table, 0, 0))
    names = b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    sections.append((".shstrtab", 3, names, 0, 0))
    body, headers, name_at = b"", b"", 0
    start = (64 + 56) if wide else (52 + 32)
    for name, kind, data, link, entry_bytes in sections:
        offset = start + len(body)
        address, flags = (TEXT, 6) if name == ".text" else (0, 0)
        headers += struct.pack("<IIQQQQIIQQ" if wide else "<IIIIIIIIII", name_at, kind, flags, address, offset, len(data),
                               link, 0, 1, entry_bytes)
        name_at += len(name) + 1
        body += data + bytes(-len(data) % 8)
    end = start + len(body)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    machine, count = (62 if wide else 3), len(sections)
    if wide:
        head = ident + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, TEXT, 64, end, 0, 64, 56, 1, 64, count, count - 1)
        head += struct.pack("<IIQQQQQQ", 1, 5, 0, TEXT - start, TEXT - start, end, end, 4096)
    else:
        head = ident + struct.pack("<HHIIIIIHHHHHH", 3, machine, 1, TEXT, 52, end, 0, 52, 32, 1, 40, count, count - 1)
        head += struct.pack("<IIIIIIII", 1, 0, TEXT - start, TEXT - start, end, end, 5, 4096)
    return head + body + headers


def parser_seeds():
    for bits in (64, 32):
        yield f"elf{bits}", elf(bits, True, None)
        for version in GO_MAGICS:
            yield f"go{version}-{bits}", elf(bits, False, pclntab(version, bits // 8))
    yield "kallsyms", (b"ffffffff81000000 T _text\nffffffff81000000 T first\nffffffff81000100 d data\n"
                       b"ffffffffc0000000 t in_module\t[mod]\n0000000000000000 W zero\n")


def control_seeds():
    calls = ['"method":"io.baroscope.Control.Status"', '"method":"io.baroscope.Control.Status","more":true',
             '"method":"io.baroscope.Control.Top","parameters":{"type":"process_cpu","selector":"{comm=~\\"a.*\\"}","limit":3}',
             '"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.baroscope.Control"}',
             '"method":"x","oneway":true,"upgrade":null']
    for n, call in enumerate(calls):
        yield f"call{n}", ("{" + call + "}").encode()


def config_seeds():
    yield "empty", b"{}\n"
    yield "small", b"""listen: 127.0.0.1:4041
http: {token_file: /f, tls_cert: /f, tls_key: /f, allow_control: false}
labels: {region: eu, env: prod}
cpu: {rate_hz: 100}
store: {retention: 14d, max_bytes: 2GiB}
limits: {series: 2000, sessions: 16, triggers_per_hour: 20}
symbols: {debuginfod: []}
relabel: [{cgroup: "/a/*", comm: "a.*", exe: "/bin/*", set: {label: value}}]
targets: {allow: ["/**"], deny: ["/secret.slice/**"]}
"""
    yield "triggers", b"""triggers:
  - name: cpu-pressure
    source: psi.cpu.some
    cgroup: ["/system.slice/*"]
    threshold: 20%
    window: 2s
    start: [cpu, alloc]
    for: 60s
    budget: 2%
    cooldown: 60s
    max_per_hour: 6
  - name: latency
    source: alert
    match: {alertname: HighLatency}
    target: {service: "$labels.service"}
    start: [offcpu, lock]
"""


def entry(body):
    body += bytes(-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def debug_frame(programs, data_align=b"\x78"):
    """As compilers of C write it, or with \x7c Go's linker: addresses of 8 bytes, CIEs by offset."""
    data = entry(struct.pack("<I", 0xFFFFFFFF) + b"\x03\0\x01" + data_align + b"\x10\x0c\x07\x08\x90\x01")
    for n, program in enumerate(programs):
        data += entry(struct.pack("<IQQ", 0, TEXT + 0x100 * n, 0x100) + program)
    return data


def cfi_seeds():
    """A CIE with FDEs that begin near their own place, with the instructions that compilers use, and some that never
    get on. The first byte is enum input of fuzz_cfi.c."""
    programs = [b"\x0c\x07\x08\x90\x01", b"\x41\x0e\x10\x86\x02\x43\x0d\x06\x02\x50\x0c\x07\x08",
                b"\x44\x0e\x20\x0a\x0e\x08\x41\x0b\x2e\x10", b"\x0f\x03\x77\x08\x06\x10\x06\x02\x76\x78", b"\x04\0\x01\0\0\x07\x10",
                b"\x01\x20\x10\0\0\0\0\0\0\x0e\x10", b"\x0a" * 12, b"\x41\x0e\x10\x41\x0e\x18" * 8]
    for n, program in enumerate(programs):
        data = entry(struct.pack("<I", 0) + b"\x01zR\0\x01\x78\x10\x01\x1b" + programs[0])
        for place in range(3):
            data += entry(struct.pack("<IiI", len(data) + 4, 0x1000 * (place + 1), 0x80) + b"\0" + program)
        yield f"eh{n}", b"\0" + data + bytes(4)
        yield f"debug{n}", b"\x01" + debug_frame([program] * 3)
    plain = debug_frame(programs)
    yield "pack", b"\x02" + plain
    yield "compressed", b"\x04" + struct.pack("<IIQQ", 1, 0, len(plain), 1) + zlib.compress(plain)
    for version in ("1.18", "1.20"):
        table = pclntab(version, 8)
        yield "go" + version, b"\x09" + struct.pack("<H", len(table)) + table + debug_frame([b"\x41\x0e\x10"] * 4, b"\x7c")


SEEDS = {"fuzz_cfi": cfi_seeds, "fuzz_parser": parser_seeds, "fuzz_control": control_seeds, "fuzz_config": config_seeds}


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: seeds.py FUZZER FOLDER")
    os.makedirs(sys.argv[2], exist_ok=True)
    for name, data in SEEDS.get(sys.argv[1], lambda: ())():
        with open(os.path.join(sys.argv[2], "seed-" + name), "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
