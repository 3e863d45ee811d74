/* Embeds the interface descriptions, so that what the daemon answers and what is read in the source cannot differ.
 * The assembler finds them from the top of the tree, where the build runs. */
#include "daemon/control/idl.h"

#define EMBED(symbol, path)                                                                                            \
	__asm__(".pushsection .rodata\n"                                                                               \
		".global " #symbol "\n"                                                                                \
		".type " #symbol ", %object\n" #symbol ":\n"                                                           \
		".incbin \"" path "\"\n"                                                                               \
		".byte 0\n"                                                                                            \
		".size " #symbol ", . - " #symbol "\n"                                                                 \
		".popsection\n")

EMBED(idl_io_baroscope_control, "daemon/control/io.baroscope.Control.varlink");
EMBED(idl_org_varlink_service, "daemon/control/org.varlink.service.varlink");
