/* A BPF program of somebody else: runs at each getpgid of its own process, for about as long as `loops` says, and
 * counts how long. While it runs on a CPU, the kernel skips the perf-event programs there. (A program on the page
 * faults of its process would need no tracefs, but there interrupts, and so the sampling ticks, wait until it is over.)
 */
#include <linux/bpf.h> /* first: bpf_helpers.h takes its types from it */

#include <bpf/bpf_helpers.h>

const volatile __u32 loops = 2000;
const volatile __u32 own_pid;

__u64 runs;
__u64 run_ns;
__u32 sink;

SEC("tp")
int noise_getpgid(void *ctx)
{
	__u64 start;
	__u32 sum = 0;

	if (bpf_get_current_pid_tgid() >> 32 != own_pid)
		return 0;
	start = bpf_ktime_get_ns();
	for (__u32 i = 0; i < 8192; i++) {
		if (i >= loops)
			break;
		sum += bpf_get_prandom_u32();
	}
	sink = sum;
	__sync_fetch_and_add(&runs, 1);
	__sync_fetch_and_add(&run_ns, bpf_ktime_get_ns() - start);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
