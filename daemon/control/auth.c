/* Peers of the control socket. */
#include "daemon/control/auth.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/socket.h>

#define GROUPS_MAX_BYTES (65536 * sizeof(gid_t)) /* the kernel's NGROUPS_MAX */

int peer_init(int fd, struct peer *ret)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	gid_t *groups = NULL;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	len = 64 * sizeof(gid_t);
	for (;;) {
		gid_t *more = realloc(groups, len ? len : sizeof(gid_t));

		if (!more) {
			free(groups);
			return -ENOMEM;
		}
		groups = more;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) >= 0)
			break;
		/* ERANGE: len now says how much there is. */
		if (errno != ERANGE || len > GROUPS_MAX_BYTES) {
			int r = -errno;

			free(groups);
			return r;
		}
	}
	*ret = (struct peer){cred.uid, cred.gid, groups, len / sizeof(gid_t)};
	return 0;
}

void peer_deinit(struct peer *p)
{
	free(p->groups);
	p->groups = NULL;
	p->group_count = 0;
}

bool peer_allowed(const struct peer *p, uid_t daemon_uid, gid_t group)
{
	if (p->uid == 0 || p->uid == daemon_uid)
		return true;
	if (group == AUTH_NO_GROUP)
		return false;
	if (p->gid == group)
		return true;
	for (size_t i = 0; i < p->group_count; i++)
		if (p->groups[i] == group)
			return true;
	return false;
}

gid_t auth_group(void)
{
	struct group entry, *found = NULL;
	char text[16384];

	if (getgrnam_r(AUTH_GROUP, &entry, text, sizeof(text), &found) || !found)
		return AUTH_NO_GROUP;
	return found->gr_gid;
}
