/* cgroup paths of the managers that are met: service, container id, container name. */
#include "daemon/target/cgroup_names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define ID2 "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
#define POD "pod11111111_2222_3333_4444_555555555555"
#define POD_DASHED "pod11111111-2222-3333-4444-555555555555"

static const struct {
	const char *path, *service, *id, *name;
} cases[] = {
	{"/", "", "", ""},
	{"", "", "", ""},
	/* systemd */
	{"/system.slice/nginx.service", "nginx", "", ""},
	{"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1", "", ""},
	{"/system.slice/postgresql@15-main.service/worker", "postgresql@15-main", "", ""},
	{"/system.slice/a.service/nested/b.service", "b", "", ""},
	{"/init.scope", "", "", ""},
	{"/system.slice/run-r1.scope", "", "", ""},
	{"/system.slice", "", "", ""},
	{"/system.slice/.service", "", "", ""},
	/* user sessions */
	{"/user.slice/user-1000.slice/session-3.scope", "", "", ""},
	{"/user.slice/user-1000.slice/user@1000.service/app.slice/firefox.service", "", "", ""},
	{"/user.slice/user-1000.slice/user@1000.service/init.scope", "", "", ""},
	{"/user@0.service/x.service", "", "", ""},
	{"/system.slice/user-runtime-dir@1000.service", "user-runtime-dir@1000", "", ""},
	{"/system.slice/user@home.service", "user@home", "", ""},
	/* docker */
	{"/docker/" ID, "", ID, ""},
	{"/docker/" ID "/init", "", ID, ""},
	{"/system.slice/docker-" ID ".scope", "", ID, ""},
	{"/system.slice/docker-" ID ".scope/system.slice/nginx.service", "nginx", ID, ""},
	{"/docker/" ID "/docker/" ID2, "", ID2, ""},
	/* podman */
	{"/machine.slice/libpod-" ID ".scope", "", ID, ""},
	{"/machine.slice/libpod-" ID ".scope/container", "", ID, ""},
	{"/machine.slice/libpod-conmon-" ID ".scope", "", "", ""},
	{"/system.slice/web.service/libpod-payload-" ID, "web", ID, ""},
	{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" ID ".scope", "", ID, ""},
	/* kubernetes: systemd and cgroupfs drivers; guaranteed, burstable, best effort */
	{"/kubepods.slice/kubepods-" POD ".slice/cri-containerd-" ID ".scope", "", ID, ""},
	{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-" POD ".slice/cri-containerd-" ID ".scope", "",
	 ID, ""},
	{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-" POD ".slice/crio-" ID ".scope", "", ID, ""},
	{"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-" POD ".slice/crio-conmon-" ID ".scope", "", "",
	 ""},
	{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-" POD ".slice/docker-" ID ".scope", "", ID, ""},
	{"/kubepods/" POD_DASHED "/" ID, "", ID, ""},
	{"/kubepods/burstable/" POD_DASHED "/" ID, "", ID, ""},
	{"/kubepods/besteffort/" POD_DASHED "/crio-" ID, "", ID, ""},
	{"/system.slice/containerd.service/kubepods-burstable-" POD ".slice:cri-containerd:" ID, "containerd", ID, ""},
	{"/kubepods.slice/kubepods-" POD ".slice", "", "", ""},
	/* lxc, machined */
	{"/lxc.payload.web1", "", "", "web1"},
	{"/lxc.payload.web1/system.slice/nginx.service", "nginx", "", "web1"},
	{"/lxc.monitor.web1", "", "", ""},
	{"/lxc.payload/web1", "", "", "web1"},
	{"/lxc/101/ns", "", "", "101"},
	{"/machine.slice/machine-build\\x2dbox.scope", "", "", "build-box"},
	{"/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt", "", "", "qemu-1-vm"},
	{"/machine.slice/machine-.scope", "", "", ""},
	{"/machine.slice/systemd-nspawn@db.service/payload", "systemd-nspawn@db", "", ""},
	/* Not quite ids. */
	{"/x/0123456789abcdef0123456789abcdef", "", "", ""},
	{"/docker/" ID "0", "", "", ""},
	{"/docker/x" ID, "", "", ""},
	{"/docker/0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", "", "", ""},
	{"/docker/" ID ".mount", "", "", ""},
};

static void cgroup_names__table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char service[CGROUP_NAME_BYTES], id[CONTAINER_ID_BYTES], name[CGROUP_NAME_BYTES];

		cgroup_service(cases[i].path, service);
		cgroup_container_id(cases[i].path, id);
		cgroup_container_name(cases[i].path, name);
		if (strcmp(service, cases[i].service) != 0 || strcmp(id, cases[i].id) != 0 ||
		    strcmp(name, cases[i].name) != 0)
			fail_msg("%s: service '%s', container '%s', name '%s'", cases[i].path, service, id, name);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cgroup_names__table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
