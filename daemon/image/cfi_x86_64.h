/* What the compiler of call frame information must know about x86-64 (System V psABI and Linux). Another architecture
 * is another such header. */
#ifndef BAROSCOPE_IMAGE_CFI_X86_64_H
#define BAROSCOPE_IMAGE_CFI_X86_64_H

#include <elf.h>

#define CFI_MACHINE EM_X86_64
#define CFI_REG_BP 6
#define CFI_REG_SP 7
#define CFI_REG_RA 16

/* Where the kernel's struct pt_regs has the registers 0 to 15, in words. */
#define CFI_REG_WORDS                                                                                                  \
	{                                                                                                              \
		10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0                                                   \
	}

/* The return address is at CFA - 8. */
#define CFI_RA_OFFSET (-8)

/* What tells a CIE of Go's linker, and where its compiler saves rbp once the CFA is this far from rsp. */
#define CFI_GO_DATA_ALIGN (-4)
#define CFI_GO_FRAME_MIN 16
#define CFI_GO_BP_OFFSET (-16)

/* Kernel's rt_sigframe as the return trampoline sees it: rsp points to a ucontext. */
#define CFI_SIGNAL_BP 120
#define CFI_SIGNAL_SP 160
#define CFI_SIGNAL_PC 168

/* A lazy PLT entry has 16 bytes; from one of these on its push is done. */
#define CFI_PLT_PUSHED_MIN 10
#define CFI_PLT_PUSHED_MAX 11
#define CFI_PLT_ENTRY_BYTES 16
/* The first entry of a PLT with lazy binding: push of a word of the GOT, then a jump by another. */
#define CFI_PLT_HEAD_0 0xff
#define CFI_PLT_HEAD_1 0x35
#define CFI_PLT_HEAD_PUSHED 6

#endif
