/* What the compiler of call frame information must know about x86-64 (System V psABI and Linux). Another architecture
 * is another such header. */
#ifndef BAROSCOPE_IMAGE_CFI_X86_64_H
#define BAROSCOPE_IMAGE_CFI_X86_64_H

#include <elf.h>

#define CFI_MACHINE EM_X86_64
#define CFI_REG_BP 6
#define CFI_REG_SP 7
#define CFI_REG_RA 16

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

#endif
