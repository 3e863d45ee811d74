/* The interface descriptions, byte for byte the *.varlink files of this room. */
#ifndef BAROSCOPE_CONTROL_IDL_H
#define BAROSCOPE_CONTROL_IDL_H

/* NUL-terminated. */
extern const char idl_io_baroscope_control[];
extern const char idl_org_varlink_service[];

#endif
