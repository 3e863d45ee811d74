/* Who may operate the daemon. The decision is a pure function of what the kernel said about the peer. */
#ifndef BAROSCOPE_CONTROL_AUTH_H
#define BAROSCOPE_CONTROL_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define AUTH_GROUP "baroscope"
#define AUTH_NO_GROUP ((gid_t)-1)

struct peer {
	uid_t uid;
	gid_t gid;
	gid_t *groups; /* supplementary; owned */
	size_t group_count;
};

/* SO_PEERCRED and SO_PEERGROUPS: the former lacks supplementary groups. */
int peer_init(int fd, struct peer *ret);
void peer_deinit(struct peer *p);
/* Root, the daemon's own user, or the group; AUTH_NO_GROUP when the host has no such group. */
bool peer_allowed(const struct peer *p, uid_t daemon_uid, gid_t group);
/* The id of AUTH_GROUP, or AUTH_NO_GROUP. May ask a name service: at start only. */
gid_t auth_group(void);

#endif
