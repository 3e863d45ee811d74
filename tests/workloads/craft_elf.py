#!/usr/bin/env python3
"""Makes an executable that still runs but whose tables are crafted: `craft_elf.py IN OUT MODE`.

The kernel reads the program headers only; a profiler reads the rest. 64-bit little-endian ELF."""

import struct
import sys

SHT_SYMTAB, SHT_STRTAB, SHT_DYNSYM = 2, 3, 11
PT_LOAD, PT_NOTE = 1, 4
R_X = 5
# What cfi_rows claims: 2 GiB of code less a bit, which is mapped beyond the file's end and never touched.
CLAIMED_BYTES, CLAIMED_AT = 0x7FF00000, 0x10000000


class Elf:
    def __init__(self, data):
        self.data = bytearray(data)
        self.shoff, = struct.unpack_from("<Q", self.data, 0x28)
        self.shnum, self.shstrndx = struct.unpack_from("<HH", self.data, 0x3C)

    def sections(self, kinds):
        """Offsets of the headers of these types."""
        for number in range(self.shnum):
            header = self.shoff + 64 * number
            if struct.unpack_from("<I", self.data, header + 4)[0] in kinds:
                yield header

    def section(self, name):
        """Offset of the header of the section of this name."""
        names = struct.unpack_from("<Q", self.data, self.shoff + 64 * self.shstrndx + 0x18)[0]
        for number in range(self.shnum):
            header = self.shoff + 64 * number
            at = names + struct.unpack_from("<I", self.data, header)[0]
            if self.data[at:self.data.index(0, at)] == name.encode():
                return header
        raise KeyError(name)

    def text(self):
        """Address and size of .text."""
        header = self.section(".text")
        return struct.unpack_from("<Q", self.data, header + 0x10)[0], struct.unpack_from("<Q", self.data, header + 0x20)[0]

    def put_eh_frame(self, data):
        """The section is behind the file's end now; its address stays. The program headers still lead to the old one,
        which is what the C++ runtime would use."""
        header = self.section(".eh_frame")
        struct.pack_into("<QQ", self.data, header + 0x18, len(self.data), len(data))
        self.data += data

    def put(self, kinds, offset, value):
        for header in self.sections(kinds):
            struct.pack_into("<Q", self.data, header + offset, value)


def truncated(elf):
    """The section headers, which stand at the end, are cut in the middle; e_shnum still counts them all."""
    del elf.data[elf.shoff + 64 * (elf.shnum // 2):]


def shoff_beyond(elf):
    struct.pack_into("<Q", elf.data, 0x28, 1 << 62)


def shnum_wrong(elf):
    """More sections than the file holds."""
    struct.pack_into("<H", elf.data, 0x3C, 0xFEFF)


def sizes_4gib(elf):
    elf.put((SHT_SYMTAB, SHT_DYNSYM, SHT_STRTAB), 0x20, 1 << 32)


def sizes_max(elf):
    elf.put((SHT_SYMTAB, SHT_DYNSYM, SHT_STRTAB), 0x20, (1 << 64) - 1)


def entsize_zero(elf):
    elf.put((SHT_SYMTAB, SHT_DYNSYM), 0x38, 0)


def link_wrong(elf):
    """The symbol tables' string table is a section that is not there."""
    for header in elf.sections((SHT_SYMTAB, SHT_DYNSYM)):
        struct.pack_into("<I", elf.data, header + 0x28, 0x7FFFFFF0)


def offsets_wrong(elf):
    elf.put((SHT_SYMTAB, SHT_DYNSYM, SHT_STRTAB), 0x18, (1 << 64) - 4096)


def names_wrong(elf):
    """Each symbol's name lies far outside of the string table."""
    for header in elf.sections((SHT_SYMTAB, SHT_DYNSYM)):
        offset, size = struct.unpack_from("<QQ", elf.data, header + 0x18)
        if struct.unpack_from("<I", elf.data, header + 4)[0] == SHT_DYNSYM:
            continue  # the dynamic linker needs it
        for symbol in range(offset, offset + size, 24):
            struct.pack_into("<I", elf.data, symbol, 0xFFFFFFF0)


def entry(body):
    """An entry of .eh_frame: length and body."""
    return struct.pack("<I", len(body)) + body


# "zR" with absolute 8-byte addresses: CFA = rsp + 8, return address at CFA - 8.
CIE = entry(struct.pack("<I", 0) + b"\x01zR\0\x01\x78\x10\x01\x04\x0c\x07\x08\x90\x01")


def function(at, start, size, program, cie=0):
    """An FDE that stands at offset `at`."""
    return entry(struct.pack("<IQQ", (at + 4 - cie) & 0xFFFFFFFF, start, size) + b"\0" + program)


def cfi_endless(elf):
    """What leads in circles or never gets on: terminators, functions that are their own and each other's CIE, programs
    that only remember, only advance by nothing; nothing in it can be used."""
    start, size = elf.text()
    data = bytearray(CIE) + bytes(1 << 20)
    for _ in range(1000):
        data += function(len(data), start, size, b"", len(data))
        data += function(len(data), start, size, b"", len(data) + 25)
        data += function(len(data), start, size, b"", len(data) - 29)
    data += function(len(data), start, size, b"\x0a" * (1 << 20))
    data += function(len(data), start, size, b"\x40" * (1 << 20) + b"\x0a" * 100)
    elf.put_eh_frame(data)


def cfi_overlap(elf):
    """200,000 functions out of order, each of which begins somewhere in the text and covers all that is behind."""
    start, size = elf.text()
    data = bytearray(CIE)
    for n in range(200000):
        begin = n * 7919 % size
        data += function(len(data), start + begin, size - begin, b"\x41\x0e" + bytes([8 * (n % 15 + 1)]))
    elf.put_eh_frame(data)


def cfi_rows(elf):
    """One function of 2 GiB with a row at each byte: 11 million that are written out, by a segment that says that the
    file has so much code."""
    phoff, = struct.unpack_from("<Q", elf.data, 0x20)
    phnum, = struct.unpack_from("<H", elf.data, 0x38)
    note = [phoff + 56 * n for n in range(phnum) if struct.unpack_from("<I", elf.data, phoff + 56 * n)[0] == PT_NOTE][-1]
    # Not from the file's start: the kernel takes the segment that holds the program headers for the one to announce.
    struct.pack_into("<IIQQQQQQ", elf.data, note, PT_LOAD, R_X, 4096, CLAIMED_AT, CLAIMED_AT, CLAIMED_BYTES,
                     CLAIMED_BYTES, 4096)
    data = bytearray(CIE)
    data += function(len(data), CLAIMED_AT, CLAIMED_BYTES, b"\x41\x0e\x10\x41\x0e\x20" * (32 * 1024 * 1024 // 6))
    elf.put_eh_frame(data)


def cfi_wrong(elf):
    """Sound entries that lie: each 16 bytes of the text have another rule, and none is that of the code."""
    start, size = elf.text()
    programs = [b"\x0e\x80\x80\x80\x80\x04",  # CFA = rsp + 2^30
                b"\x13\x01",  # rsp - 8
                b"\x0c\x06\xf0\xff\xff\xff\x07",  # rbp + 2^31 - 16
                b"\x0f\x03\x77\x00\x06",  # *rsp
                b"\x0f\x05\x76\x80\x80\x40\x06",  # *(rbp - 2^20)
                b"\x0e\x18\x86\x64",  # rsp + 24, rbp far below
                b"\x0c\x06\x03"]  # rbp + 3
    data = bytearray(CIE)
    for n in range(size // 16):
        data += function(len(data), start + 16 * n, 16, programs[n % len(programs)])
    elf.put_eh_frame(data)


TABLE_MODES = {f.__name__: f for f in (truncated, shoff_beyond, shnum_wrong, sizes_4gib, sizes_max, entsize_zero,
                                       link_wrong, offsets_wrong, names_wrong)}
# Symbols are sound in these, call frame information is not.
CFI_MODES = {f.__name__: f for f in (cfi_endless, cfi_overlap, cfi_rows, cfi_wrong)}
MODES = {**TABLE_MODES, **CFI_MODES}
# names_wrong has nothing that makes the file unreadable: its symbols are nameless.
REFUSED = [mode for mode in TABLE_MODES if mode != "names_wrong"]
# More rows than there may be. What the others say is believed where it can be, and costs their own stacks only.
CFI_REFUSED = ["cfi_rows"]


def craft(source, target, mode):
    with open(source, "rb") as file:
        elf = Elf(file.read())
    MODES[mode](elf)
    with open(target, "wb") as file:
        file.write(elf.data)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[3] not in MODES:
        sys.exit(f"usage: craft_elf.py IN OUT {'|'.join(MODES)}")
    craft(*sys.argv[1:])
    import os
    os.chmod(sys.argv[2], 0o755)
