#!/usr/bin/env python3
"""Makes an executable that still runs but whose tables are crafted: `craft_elf.py IN OUT MODE`.

The kernel reads the program headers only; a profiler reads the rest. 64-bit little-endian ELF."""

import struct
import sys

SHT_SYMTAB, SHT_STRTAB, SHT_DYNSYM = 2, 3, 11


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


MODES = {f.__name__: f for f in (truncated, shoff_beyond, shnum_wrong, sizes_4gib, sizes_max, entsize_zero, link_wrong,
                                 offsets_wrong, names_wrong)}
# names_wrong has nothing that makes the file unreadable: its symbols are nameless.
REFUSED = [mode for mode in MODES if mode != "names_wrong"]


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
