/* Images end to end, with both children: this program itself, started again. */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "daemon/util/cleanup.h"
#include "daemon/util/clock.h"
#include "tests/unit/image/image_fixture.h"

extern const char __executable_start[];

static void frame__own_function_is_named(void **state)
{
	image_id image;
	frame_id id;
	const struct image *i;

	(void)state;
	start(NULL);
	image = ref(self_path());
	id = frame_of(image, offset_of((const void *)(uintptr_t)frame__own_function_is_named) + 4);
	assert_int_equal(get(id)->state, FRAME_PENDING);
	assert_int_equal(frame_of(image, offset_of((const void *)(uintptr_t)frame__own_function_is_named) + 4), id);
	wait_idle();
	assert_string_equal(name_of(id), "frame__own_function_is_named");
	assert_int_equal(get(id)->address, (uintptr_t)frame__own_function_is_named + 4 - (uintptr_t)__executable_start);
	i = images_get(fix.images, image);
	assert_int_equal(i->state, IMAGE_READY);
	assert_true(i->has_symbols);
	assert_true(i->segment.bytes > 0 && i->segment.vaddr > 0);
	assert_int_equal(strlen(intern_str(fix.strings, i->build_id)), 40);
}

static void frame__libc_vdso_kernel_and_special(void **state)
{
	Dl_info info;
	frame_id libc, special, jit, none;
	char text[64];

	(void)state;
	start(NULL);
	assert_true(dladdr((const void *)(uintptr_t)strtoull, &info));
	libc = frame_of(ref(realpath(info.dli_fname, (char[4096]){0})),
			offset_of((const void *)(uintptr_t)strtoull) + 1);
	frame_of(IMAGE_VDSO, 0x800);
	assert_int_equal(images_special_frame(fix.images, SPECIAL_NOT_RUN, &special), 0);
	assert_string_equal(name_of(special), "[not_run]");
	jit = frame_of(IMAGE_JIT, 0x1234);
	assert_int_equal(get(jit)->state, FRAME_NAMELESS);
	assert_string_equal(images_nameless(fix.images, get(jit), text, sizeof(text)), "[jit]");
	none = frame_of(12345, 1);
	assert_string_equal(images_nameless(fix.images, get(none), text, sizeof(text)), "[unknown]");
	wait_idle();
	assert_non_null(strstr(name_of(libc), "strto"));
	assert_int_equal(images_get(fix.images, IMAGE_VDSO)->state, IMAGE_READY);
	assert_true(images_get(fix.images, IMAGE_VDSO)->has_symbols);
}

static void frame__kernel_address_is_named(void **state)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/kallsyms", "r");
	unsigned long long address = 0;
	char type, name[256];
	frame_id known, unknown;

	(void)state;
	start(NULL);
	while (fscanf(f, "%llx %c %255s%*[^\n]", &address, &type, name) == 3 && strcmp(name, "schedule") != 0)
		;
	if (!address) {
		printf("skip frame__kernel_address_is_named: machine: the kernel hides its addresses\n");
		skip();
	}
	known = frame_of(IMAGE_KERNEL, address + 1);
	unknown = frame_of(IMAGE_KERNEL, 0xffff000000000000);
	wait_idle();
	assert_string_equal(name_of(known), "schedule");
	assert_int_equal(get(unknown)->state, FRAME_NAMELESS);
	assert_string_equal(intern_str(fix.strings, images_get(fix.images, IMAGE_KERNEL)->path), "[kernel.kallsyms]");
}

static void image__bad_files_fail_with_their_cause_and_others_go_on(void **state)
{
	char junk[300], fifo[300], link[300], empty[300], gone[300], text[64];
	image_id images[5];
	frame_id frames[5], good;

	(void)state;
	start(NULL);
	write_file("junk.so", "this is not ELF at all", 22, junk, sizeof(junk));
	write_file("empty", "", 0, empty, sizeof(empty));
	snprintf(fifo, sizeof(fifo), "%s/fifo", fix.dir);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	snprintf(link, sizeof(link), "%s/link", fix.dir);
	assert_int_equal(symlink("/bin/true", link), 0);
	snprintf(gone, sizeof(gone), "%s/gone", fix.dir);
	images[0] = ref(junk);
	images[1] = ref(empty);
	images[2] = ref(fifo);
	images[3] = ref(link);
	images[4] = ref(gone);
	for (size_t i = 0; i < ARRAY_SIZE(images); i++)
		frames[i] = frame_of(images[i], 0x1000);
	good = frame_of(ref(self_path()), offset_of((const void *)(uintptr_t)write_file));
	wait_idle();
	for (size_t i = 0; i < ARRAY_SIZE(images); i++) {
		assert_int_equal(images_get(fix.images, images[i])->state, IMAGE_FAILED);
		assert_int_equal(get(frames[i])->state, FRAME_NAMELESS);
	}
	assert_string_equal(problem_of(images[0]), "not an ELF file");
	assert_string_equal(problem_of(images[1]), "not an ELF file");
	assert_string_equal(problem_of(images[2]), "not a regular file");
	assert_string_equal(problem_of(images[3]), "not a regular file");
	assert_string_equal(problem_of(images[4]), "file is gone");
	assert_string_equal(images_nameless(fix.images, get(frames[0]), text, sizeof(text)), "[junk.so]");
	assert_string_equal(name_of(good), "write_file");
	/* A failed image takes new frames without asking again. */
	assert_int_equal(get(frame_of(images[0], 0x2000))->state, FRAME_NAMELESS);
}

static void image__failed_one_is_tried_again_for_a_new_process(void **state)
{
	char path[300];
	struct image_key key = {.path = path};
	struct opener_file file = {.pid = 0x7ffffff0, .path = path};
	image_id id, again;
	struct stat st;
	frame_id f;

	(void)state;
	start(NULL);
	assert_int_equal(stat("/proc/self/exe", &st), 0);
	key.inode = st.st_ino;
	key.dev_major = major(st.st_dev);
	key.dev_minor = minor(st.st_dev);
	snprintf(path, sizeof(path), "%s/none", fix.dir);
	assert_int_equal(images_ref(fix.images, &key, &file, &id), 0);
	f = frame_of(id, offset_of((const void *)(uintptr_t)ref_pid));
	wait_idle();
	assert_string_equal(problem_of(id), "file is gone");
	file = (struct opener_file){.pid = (uint32_t)getpid(), .path = self_path()};
	assert_int_equal(images_ref(fix.images, &key, &file, &again), 0);
	assert_int_equal(again, id);
	assert_int_equal(get(f)->state, FRAME_PENDING);
	wait_idle();
	assert_string_equal(name_of(f), "ref_pid");
}

static void parser__stalled_one_is_killed_and_the_image_named(void **state)
{
	image_id bad;
	frame_id f, good;
	char path[300];
	struct images_stats stats;

	(void)state;
	setenv("BAROSCOPE_CHILD_FAULT", "parser.stall=12345", 1);
	start(&(struct images_options){.parse_timeout_ns = 300 * NS_PER_MS});
	write_file("stalls", (char[12345]){0}, 12345, path, sizeof(path));
	bad = ref(path);
	f = frame_of(bad, 0x1000);
	good = frame_of(ref(self_path()), offset_of((const void *)(uintptr_t)ref_pid));
	wait_idle();
	assert_string_equal(problem_of(bad), "parser timed out");
	assert_int_equal(get(f)->state, FRAME_NAMELESS);
	assert_string_equal(name_of(good), "ref_pid");
	images_get_stats(fix.images, &stats);
	assert_int_equal(stats.parse_timeouts, 1);
	assert_int_equal(stats.parser_restarts, 1);
	assert_int_equal(stats.by_state[IMAGE_FAILED], 1);
}

struct killer {
	struct event *timer;
	int kills, max;
	pid_t last;
};

/* Kills each parser once it holds the file (its fd table shows it). */
static void kill_parser(evutil_socket_t fd, short what, void *user)
{
	struct killer *k = user;
	struct images_stats stats;
	char path[64], target[512];
	ssize_t n = -1;

	(void)fd;
	(void)what;
	images_get_stats(fix.images, &stats);
	if (stats.parser_pid > 0 && stats.parser_pid != k->last && k->kills < k->max) {
		snprintf(path, sizeof(path), "/proc/%d/fd/4", stats.parser_pid);
		n = readlink(path, target, sizeof(target) - 1);
		if (n > 0 && (target[n] = '\0', strstr(target, "stalls"))) {
			k->last = stats.parser_pid;
			k->kills++;
			assert_int_equal(kill(stats.parser_pid, SIGKILL), 0);
		}
	}
	event_add(k->timer, &(struct timeval){.tv_usec = 5000});
}

static void parser__killed_twice_in_mid_request_fails_the_image_only(void **state)
{
	struct killer k = {.max = 2};
	struct images_stats stats;
	image_id bad;
	frame_id good;
	char path[300];

	(void)state;
	setenv("BAROSCOPE_CHILD_FAULT", "parser.stall=12345", 1);
	start(NULL);
	write_file("stalls", (char[12345]){0}, 12345, path, sizeof(path));
	bad = ref(path);
	frame_of(bad, 0x1000);
	good = frame_of(ref(self_path()), offset_of((const void *)(uintptr_t)ref_pid));
	k.timer = event_new(fix.base, -1, 0, kill_parser, &k);
	event_add(k.timer, &(struct timeval){.tv_usec = 5000});
	wait_idle();
	event_free(k.timer);
	assert_int_equal(k.kills, 2);
	assert_string_equal(problem_of(bad), "the parser died over it");
	assert_string_equal(name_of(good), "ref_pid");
	good = frame_of(ref(self_path()), offset_of((const void *)(uintptr_t)write_file));
	wait_idle();
	assert_string_equal(name_of(good), "write_file");
	images_get_stats(fix.images, &stats);
	assert_int_equal(stats.parser_restarts, 2);
	assert_int_equal(stats.parse_timeouts, 0);
}

static void parser__killed_when_idle_is_replaced_and_asks_for_the_file(void **state)
{
	struct images_stats stats;
	image_id image;
	frame_id a, b;

	(void)state;
	start(NULL);
	image = ref(self_path());
	a = frame_of(image, offset_of((const void *)(uintptr_t)ref_pid));
	wait_idle();
	images_get_stats(fix.images, &stats);
	assert_true(stats.parser_pid > 0); /* kill(-1) would be for everyone */
	assert_int_equal(kill(stats.parser_pid, SIGKILL), 0);
	b = frame_of(image, offset_of((const void *)(uintptr_t)write_file));
	wait_idle();
	assert_string_equal(name_of(a), "ref_pid");
	assert_string_equal(name_of(b), "write_file");
}

static void ref__same_file_has_one_image_and_a_new_generation_another(void **state)
{
	struct image_key key = {.dev_major = 8, .inode = 5, .inode_generation = 0, .path = "/a"};
	image_id a, b, c, d;

	(void)state;
	start(NULL);
	assert_int_equal(images_ref(fix.images, &key, NULL, &a), 0);
	key.inode_generation = 9;
	assert_int_equal(images_ref(fix.images, &key, NULL, &b), 0);
	assert_int_equal(a, b);
	key.inode_generation = 10;
	assert_int_equal(images_ref(fix.images, &key, NULL, &c), 0);
	assert_int_not_equal(a, c);
	images_unref(fix.images, a);
	images_unref(fix.images, a);
	key.inode_generation = 0;
	key.path = "/b";
	images_unref(fix.images, c);
	assert_int_equal(images_ref(fix.images, &key, NULL, &d), 0);
	assert_int_not_equal(d, a);
	assert_int_not_equal(d, c);
}

static void sweep__drops_unmarked_frames_and_unused_images(void **state)
{
	struct images_stats stats;
	image_id image, unused;
	frame_id keep, drop;

	(void)state;
	start(NULL);
	image = ref(self_path());
	unused = ref("/bin/true");
	images_unref(fix.images, unused);
	keep = frame_of(image, offset_of((const void *)(uintptr_t)ref_pid));
	drop = frame_of(image, offset_of((const void *)(uintptr_t)write_file));
	frame_of(unused, 0x1000);
	wait_idle();
	for (int i = 0; i < 2; i++) {
		intern_begin_mark(fix.strings);
		images_begin_mark(fix.images);
		images_mark_frame(fix.images, keep);
		images_sweep(fix.images);
		intern_sweep(fix.strings);
	}
	images_get_stats(fix.images, &stats);
	assert_int_equal(stats.frames, 1);
	assert_string_equal(name_of(keep), "ref_pid");
	assert_null(images_get(fix.images, unused));
	assert_non_null(images_get(fix.images, image));
	assert_string_equal(intern_str(fix.strings, images_get(fix.images, image)->path), self_path());
	/* The place is used again, the name found again. */
	assert_int_not_equal(frame_of(image, offset_of((const void *)(uintptr_t)write_file)), keep);
	(void)drop;
	wait_idle();
	assert_int_equal(frame_of(image, offset_of((const void *)(uintptr_t)ref_pid)), keep);
}

static void limits__frames_and_images_are_counted(void **state)
{
	struct image_key key = {.inode = 1, .path = "/x"};
	struct images_stats stats;
	frame_id f;
	image_id id;

	(void)state;
	start(&(struct images_options){.max_images = 1, .max_frames = 2});
	assert_int_equal(images_ref(fix.images, &key, NULL, &id), 0);
	key.inode = 2;
	assert_int_equal(images_ref(fix.images, &key, NULL, &id), -ENOSPC);
	frame_of(IMAGE_JIT, 1);
	frame_of(IMAGE_JIT, 2);
	assert_int_equal(images_frame(fix.images, IMAGE_JIT, 3, &f), -ENOSPC);
	frame_of(IMAGE_JIT, 2);
	images_get_stats(fix.images, &stats);
	assert_int_equal(stats.images_full, 1);
	assert_int_equal(stats.frames_full, 1);
}

static void special__causes_of_incomplete_stacks_have_names(void **state)
{
	frame_id f;

	(void)state;
	start(NULL);
	assert_int_equal(
		images_special_frame(fix.images, (enum special_frame)(SPECIAL_INCOMPLETE + INCOMPLETE_JIT), &f), 0);
	assert_string_equal(name_of(f), "[incomplete: jit]");
	f = frame_of(IMAGE_SPECIAL, SPECIAL_INCOMPLETE + INCOMPLETE_CAUSE_COUNT - 1);
	assert_int_equal(get(f)->state, FRAME_NAMED);
	for (int i = 0; i < SPECIAL_COUNT; i++) {
		assert_int_equal(images_special_frame(fix.images, (enum special_frame)i, &f), 0);
		assert_int_equal(name_of(f)[0], '[');
	}
	assert_int_equal(images_special_frame(fix.images, SPECIAL_COUNT, &f), -EINVAL);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(frame__own_function_is_named),
		T(frame__libc_vdso_kernel_and_special),
		T(frame__kernel_address_is_named),
		T(image__bad_files_fail_with_their_cause_and_others_go_on),
		T(image__failed_one_is_tried_again_for_a_new_process),
		T(parser__stalled_one_is_killed_and_the_image_named),
		T(parser__killed_twice_in_mid_request_fails_the_image_only),
		T(parser__killed_when_idle_is_replaced_and_asks_for_the_file),
		T(ref__same_file_has_one_image_and_a_new_generation_another),
		T(sweep__drops_unmarked_frames_and_unused_images),
		T(limits__frames_and_images_are_counted),
		T(special__causes_of_incomplete_stacks_have_names),
#undef T
	};

	if (argc > 1 && !strcmp(argv[1], "--internal-opener"))
		return opener_child_main();
	if (argc > 1 && !strcmp(argv[1], "--internal-parser"))
		return parser_child_main();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
