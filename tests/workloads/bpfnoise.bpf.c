/* A BPF program of somebody else: runs at each page fault of its own process, for about as long as `loops` says, and
 * counts how long. While it runs on a CPU, the kernel skips other perf-event programs there. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

const volatile __u32 loops = 2000;

__u64 runs;
__u64 run_ns;
__u32 sink;

SEC("perf_event")
int noise_fault(struct bpf_perf_event_data *ctx)
{
	__u64 start = bpf_ktime_get_ns();
	__u32 sum = 0;

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
