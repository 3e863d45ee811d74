/* What tests may exchange in a control server: the decision on peers. */
#ifndef BAROSCOPE_CONTROL_CONTROL_TEST_H
#define BAROSCOPE_CONTROL_CONTROL_TEST_H

#include "daemon/control/auth.h"

struct control;

typedef bool control_allow_fn(const struct peer *p, uid_t daemon_uid, gid_t group);
void control_set_allow(struct control *c, control_allow_fn *allow);

#endif
