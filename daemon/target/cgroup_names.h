/* What a cgroup path tells by itself: the systemd service, the container. Pure functions. */
#ifndef BAROSCOPE_TARGET_CGROUP_NAMES_H
#define BAROSCOPE_TARGET_CGROUP_NAMES_H

#include <stddef.h>

#define CONTAINER_ID_BYTES 65
#define CGROUP_NAME_BYTES 257

/* The innermost *.service without its suffix; "" when there is none or in a user session. */
void cgroup_service(const char *path, char ret[CGROUP_NAME_BYTES]);
/* 64 hex digits of the innermost container; "" when it is none. */
void cgroup_container_id(const char *path, char ret[CONTAINER_ID_BYTES]);
/* Name of a container that has it in its path (lxc, machined); "". */
void cgroup_container_name(const char *path, char ret[CGROUP_NAME_BYTES]);

#endif
