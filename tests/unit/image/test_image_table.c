/* Unwind tables of images, with both children and a sink that answers when the test says so. The parser is this program
 * started again; with the fault "lie=..." it is one that has been taken over. */
#include <elf.h>
#include <errno.h>
#include <signal.h>

#include "daemon/image/image_wire.h"
#include "daemon/image/table.h"
#include "daemon/util/child.h"
#include "tests/unit/image/elf_maker.h"
#include "tests/unit/image/image_fixture.h"

#define MAX_JOBS 64
#define DEADLINE_S 20
#define SEED 0x1234567890abcdef
#define LIBC "/lib/x86_64-linux-gnu/libc.so.6"

enum job_kind { FIND, LOAD, DROP };

static struct {
	struct job {
		enum job_kind kind;
		image_id image;
		char key[TABLE_KEY_BYTES];
		struct table *table;
	} jobs[MAX_JOBS];
	size_t count;
	int refuse, refuse_times;
	struct event *kick, *deadline;
} sink;

static int add_job(enum job_kind kind, image_id image, const char *key, struct table *table)
{
	struct job *j = &sink.jobs[sink.count];

	if (sink.refuse_times && kind != DROP) {
		sink.refuse_times--;
		return sink.refuse;
	}
	assert_true(sink.count < MAX_JOBS);
	*j = (struct job){.kind = kind, .image = image, .table = table};
	if (key)
		strcpy(j->key, key);
	sink.count++;
	return 0;
}

static int on_find(void *user, image_id image, const char *key)
{
	assert_ptr_equal(user, &sink);
	return add_job(FIND, image, key, NULL);
}

static int on_load(void *user, image_id image, const char *key, struct table *table)
{
	assert_ptr_equal(user, &sink);
	return add_job(LOAD, image, key, table);
}

static void on_drop(void *user, image_id image)
{
	assert_ptr_equal(user, &sink);
	add_job(DROP, image, NULL, NULL);
}

static const struct table_sink fake_sink = {.find = on_find, .load = on_load, .drop = on_drop, .user = &sink};

static void on_kick(evutil_socket_t fd, short what, void *user)
{
	(void)fd;
	(void)what;
	(void)user;
	images_kick(fix.images);
}

static void on_deadline(evutil_socket_t fd, short what, void *user)
{
	(void)fd;
	(void)what;
	*(bool *)user = true;
}

static bool late;

static void start_tables(const struct images_options *options)
{
	struct images_options o = options ? *options : (struct images_options){0};

	o.table_seed = o.table_seed ? o.table_seed : SEED;
	start(&o);
	images_set_table_sink(fix.images, &fake_sink);
	late = false;
	sink.kick = event_new(fix.base, -1, EV_PERSIST, on_kick, NULL);
	sink.deadline = event_new(fix.base, -1, 0, on_deadline, &late);
	assert_int_equal(event_add(sink.kick, &(struct timeval){.tv_usec = 5000}), 0);
	assert_int_equal(event_add(sink.deadline, &(struct timeval){.tv_sec = DEADLINE_S}), 0);
}

static void end_tables(void)
{
	for (size_t i = 0; i < sink.count; i++)
		free(sink.jobs[i].table);
	sink.count = 0;
	sink.refuse_times = 0;
	if (sink.kick)
		event_free(sink.kick);
	if (sink.deadline)
		event_free(sink.deadline);
	sink.kick = sink.deadline = NULL;
}

static int teardown_tables(void **state)
{
	end_tables();
	return teardown(state);
}

static struct images_stats stats(void)
{
	struct images_stats s;

	images_get_stats(fix.images, &s);
	return s;
}

static void turn(void)
{
	assert_int_equal(event_base_loop(fix.base, EVLOOP_ONCE), 0);
	assert_false(late);
}

/* Until so many jobs have come in all; the last one. */
static struct job *wait_jobs(size_t count)
{
	while (sink.count < count)
		turn();
	assert_int_equal(sink.count, count);
	return &sink.jobs[count - 1];
}

static struct job *expect_job(size_t count, enum job_kind kind, image_id image)
{
	struct job *j = wait_jobs(count);

	assert_int_equal(j->kind, kind);
	assert_int_equal(j->image, image);
	return j;
}

static void wait_failed(uint64_t count)
{
	while (stats().tables_failed < count)
		turn();
	assert_int_equal(stats().tables_failed, count);
}

/* Nothing more comes, though everything that was begun is done: names come behind tables. */
static void expect_no_more_jobs(size_t count)
{
	static uint64_t offset = 0x1000;

	frame_of(ref(self_path()), offset += 16);
	wait_idle();
	assert_int_equal(sink.count, count);
}

/* As far as the parser's table. */
static struct job *get_compiled(image_id image)
{
	size_t before = sink.count;

	images_want_table(fix.images, image);
	expect_job(before + 1, FIND, image);
	images_table_answer(fix.images, image, -ENOENT);
	return expect_job(before + 2, LOAD, image);
}

static struct table *compile(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct cfi_tables tables;
	struct table *t = NULL;
	struct elf_file f;

	assert_true(fd >= 0);
	assert_int_equal(elf_open(fd, &f, NULL), 0);
	assert_int_equal(cfi_compile(&f, NULL, &tables, NULL), 0);
	assert_int_equal(table_make(&tables, 0, &t), 0);
	cfi_free(&tables);
	elf_close(&f);
	return t;
}

static void table__in_the_cache_is_loaded_from_there(void **state)
{
	struct images_stats s;
	image_id image;
	struct job *j;

	(void)state;
	start_tables(NULL);
	image = ref(self_path());
	images_want_table(fix.images, image);
	images_want_table(fix.images, image);
	assert_true(images_tables_pending(fix.images));
	j = expect_job(1, FIND, image);
	/* A build id of 20 bytes, a hash of 16. */
	assert_int_equal(strlen(j->key), 40 + 1 + 32);
	assert_int_equal(strspn(j->key, "0123456789abcdef"), 40);
	assert_int_equal(j->key[40], '-');
	assert_int_equal(strspn(j->key + 41, "0123456789abcdef"), 32);
	assert_int_equal(stats().tables_waiting, 1);
	images_table_answer(fix.images, image, 0);
	images_want_table(fix.images, image);
	expect_no_more_jobs(1);
	s = stats();
	assert_int_equal(s.tables_cached, 1);
	assert_int_equal(s.tables_waiting, 0);
	assert_false(images_tables_pending(fix.images));
}

static void table__not_in_the_cache_is_compiled(void **state)
{
	_cleanup_free_ struct table *expected = compile(LIBC);
	struct images_stats s;
	image_id image;
	struct job *j;

	(void)state;
	start_tables(NULL);
	image = ref(realpath(LIBC, (char[4096]){0}));
	j = get_compiled(image);
	assert_string_equal(j->key, sink.jobs[0].key);
	assert_int_equal(table_check(j->table, j->table->bytes), 0);
	/* More than one message. */
	assert_true(j->table->bytes > PARSER_MESSAGE_MAX);
	assert_int_equal(j->table->bytes, expected->bytes);
	assert_memory_equal(j->table, expected, expected->bytes);
	assert_int_equal(stats().tables_waiting, 1);
	images_table_answer(fix.images, image, 0);
	s = stats();
	assert_int_equal(s.tables_compiled, 1);
	assert_int_equal(s.tables_cached + s.tables_none + s.tables_failed + s.tables_waiting, 0);
}

static void table__of_the_vdso_and_never_of_the_kernel(void **state)
{
	struct job *j;

	(void)state;
	start_tables(&(struct images_options){.table_idle_ns = 1});
	images_want_table(fix.images, IMAGE_KERNEL);
	images_want_table(fix.images, IMAGE_JIT);
	images_want_table(fix.images, IMAGE_SPECIAL);
	images_want_table(fix.images, IMAGE_NONE);
	images_want_table(fix.images, 12345);
	assert_int_equal(stats().tables_waiting, 0);
	j = get_compiled(IMAGE_VDSO);
	assert_int_equal(table_check(j->table, j->table->bytes), 0);
	assert_true(j->table->row_count > 0);
	images_table_answer(fix.images, IMAGE_VDSO, 0);
	expect_no_more_jobs(2);
}

static void table__key_depends_on_content_and_seed(void **state)
{
	char keys[4][TABLE_KEY_BYTES], path[300];
	static struct made a;
	static const uint8_t frame[16] = {0};
	struct made_section eh = {".eh_frame", SHT_PROGBITS, 0, SHF_ALLOC, frame, sizeof(frame), 0, 0};

	(void)state;
	for (int i = 0; i < 4; i++) {
		/* 0: as it is, 1: again, 2: another seed, 3: another content. */
		start_tables(&(struct images_options){.table_seed = i == 2 ? SEED + 1 : SEED});
		make_elf(&a, true, &eh, 1);
		if (i == 3)
			a.bytes[sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr)] ^= 1;
		write_file("f.so", a.bytes, a.len, path, sizeof(path));
		images_want_table(fix.images, ref(path));
		strcpy(keys[i], wait_jobs(1)->key);
		end_tables();
		if (i < 3)
			stop();
	}
	assert_memory_equal(keys[0], "none-", 5);
	assert_string_equal(keys[0], keys[1]);
	assert_string_not_equal(keys[0], keys[2]);
	assert_string_not_equal(keys[0], keys[3]);
}

static void table__of_a_file_without_call_frame_information(void **state)
{
	struct made_section text = {".text", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, "\xc3", 1, 0, 0};
	static struct made made;
	char path[300];
	image_id image;
	struct job *j;

	(void)state;
	start_tables(NULL);
	make_elf(&made, true, &text, 1);
	write_file("bare.so", made.bytes, made.len, path, sizeof(path));
	image = ref(path);
	j = get_compiled(image);
	assert_int_equal(table_check(j->table, j->table->bytes), 0);
	assert_int_equal(j->table->flags, TABLE_FRAME_POINTER);
	assert_int_equal(j->table->row_count, 0);
	images_table_answer(fix.images, image, 0);
	assert_int_equal(stats().tables_none, 1);
	assert_int_equal(stats().tables_compiled, 0);
}

static void table__that_cannot_be_had_leaves_names_alone(void **state)
{
	static const Elf32_Sym symbols[] = {{0},
					    {.st_name = 1,
					     .st_value = LOAD_ADDRESS,
					     .st_size = 4096,
					     .st_info = ELF32_ST_INFO(STB_GLOBAL, STT_FUNC),
					     .st_shndx = 1}};
	static const char strings[] = "\0main";
	const struct made_section sections[] = {
		{".strtab", SHT_STRTAB, 0, 0, strings, sizeof(strings), 0, 0},
		{".symtab", SHT_SYMTAB, 1, 0, symbols, sizeof(symbols), sizeof(*symbols), 0},
	};
	static struct made made;
	char path[300], junk[300];
	image_id image, bad;
	frame_id f;

	(void)state;
	start_tables(NULL);
	/* A program of 32 bits. */
	make_elf(&made, false, sections, ARRAY_SIZE(sections));
	write_file("small", made.bytes, made.len, path, sizeof(path));
	image = ref(path);
	f = frame_of(image, 0x40);
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	images_table_answer(fix.images, image, -ENOENT);
	wait_failed(1);
	wait_idle();
	assert_string_equal(name_of(f), "main");
	assert_int_equal(images_get(fix.images, image)->state, IMAGE_READY);
	/* Not asked for again, also by another process so soon. */
	images_want_table(fix.images, image);
	ref(path);
	images_want_table(fix.images, image);
	write_file("junk", "no ELF", 6, junk, sizeof(junk));
	bad = ref(junk);
	images_want_table(fix.images, bad);
	wait_failed(2);
	expect_no_more_jobs(1);
}

static void table__failed_one_is_tried_again_for_a_new_process(void **state)
{
	struct image_key key = {.path = self_path()};
	struct opener_file file = {.pid = 0x7ffffff0, .path = "/nowhere/at/all"};
	uint64_t now = clock_mono_ns();
	struct stat st;
	image_id id, junk;
	char path[300];

	(void)state;
	start_tables(NULL);
	clock_fake(now, now);
	assert_int_equal(stat("/proc/self/exe", &st), 0);
	key.inode = st.st_ino;
	key.dev_major = major(st.st_dev);
	key.dev_minor = minor(st.st_dev);
	assert_int_equal(images_ref(fix.images, &key, &file, &id), 0);
	images_want_table(fix.images, id);
	wait_failed(1);
	/* It was gone: at once. */
	file = (struct opener_file){.pid = (uint32_t)getpid(), .path = self_path()};
	assert_int_equal(images_ref(fix.images, &key, &file, &id), 0);
	images_want_table(fix.images, id);
	expect_job(1, FIND, id);
	/* Bad content: later. */
	write_file("junk", "no ELF", 6, path, sizeof(path));
	junk = ref(path);
	images_want_table(fix.images, junk);
	wait_failed(2);
	ref(path);
	images_want_table(fix.images, junk);
	assert_int_equal(stats().tables_waiting, 1);
	clock_fake(now + 10 * NS_PER_S, now);
	ref(path);
	images_want_table(fix.images, junk);
	assert_int_equal(stats().tables_waiting, 2);
	wait_failed(3);
}

static void table__no_room_means_a_pause(void **state)
{
	uint64_t now = clock_mono_ns();
	image_id image;

	(void)state;
	start_tables(NULL);
	clock_fake(now, now);
	image = ref(self_path());
	get_compiled(image);
	images_table_answer(fix.images, image, -ENOSPC);
	assert_int_equal(stats().tables_waiting, 0);
	assert_int_equal(stats().tables_failed, 0);
	clock_fake(now + 10 * NS_PER_S - 1, now);
	images_want_table(fix.images, image);
	assert_int_equal(stats().tables_waiting, 0);
	clock_fake(now + 10 * NS_PER_S, now);
	images_want_table(fix.images, image);
	expect_job(3, FIND, image);
	images_table_answer(fix.images, image, -EIO);
	assert_int_equal(stats().tables_failed, 1);
	/* It may have left something behind. */
	expect_job(4, DROP, image);
}

static void table__evicted_one_is_wanted_again(void **state)
{
	image_id image;

	(void)state;
	start_tables(NULL);
	image = ref(self_path());
	images_table_evicted(fix.images, image);
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	/* Of an earlier life. */
	images_table_evicted(fix.images, image);
	images_table_evicted(fix.images, 12345);
	assert_int_equal(stats().tables_waiting, 1);
	images_table_answer(fix.images, image, 0);
	images_table_evicted(fix.images, image);
	images_want_table(fix.images, image);
	expect_job(2, FIND, image);
}

static void table__of_no_process_is_dropped(void **state)
{
	uint64_t now = clock_mono_ns();
	image_id image, other;

	(void)state;
	start_tables(NULL);
	clock_fake(now, now);
	image = ref(self_path());
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	images_table_answer(fix.images, image, 0);
	images_ref_again(fix.images, image);
	images_unref(fix.images, image);
	images_unref(fix.images, image);
	clock_fake(now + 10 * NS_PER_S - 1, now);
	images_kick(fix.images);
	assert_int_equal(sink.count, 1);
	/* A process came in time. */
	images_ref_again(fix.images, image);
	clock_fake(now + 20 * NS_PER_S, now);
	images_kick(fix.images);
	assert_int_equal(sink.count, 1);
	images_unref(fix.images, image);
	images_want_table(fix.images, image);
	other = ref("/bin/true");
	images_want_table(fix.images, other);
	images_unref(fix.images, other);
	expect_job(2, FIND, other);
	clock_fake(now + 30 * NS_PER_S, now);
	images_kick(fix.images);
	assert_int_equal(sink.count, 4);
	assert_int_equal(sink.jobs[2].kind, DROP);
	assert_int_equal(sink.jobs[2].image, image);
	assert_int_equal(sink.jobs[3].image, other);
	assert_int_equal(stats().tables_dropped, 2);
	assert_int_equal(stats().tables_waiting, 0);
	/* Nothing of it is wanted while no process has it. */
	images_want_table(fix.images, image);
	assert_int_equal(stats().tables_waiting, 0);
	images_ref_again(fix.images, other);
	images_want_table(fix.images, other);
	expect_job(5, FIND, other);
	/* The answer to what was asked before the drop. */
	images_table_answer(fix.images, other, -ENOENT);
	clock_fake(now + 31 * NS_PER_S, now);
	expect_no_more_jobs(5);
	images_table_answer(fix.images, other, 0);
	images_table_answer(fix.images, other, -EIO);
	assert_int_equal(stats().tables_cached, 2);
	assert_int_equal(stats().tables_failed, 0);
}

static void table__of_a_swept_image_is_dropped(void **state)
{
	image_id image;

	(void)state;
	start_tables(NULL);
	image = ref(self_path());
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	images_unref(fix.images, image);
	for (int i = 0; i < 2; i++) {
		intern_begin_mark(fix.strings);
		images_begin_mark(fix.images);
		images_sweep(fix.images);
		intern_sweep(fix.strings);
	}
	assert_null(images_get(fix.images, image));
	expect_job(2, DROP, image);
	images_table_answer(fix.images, image, -ENOENT);
	images_table_evicted(fix.images, image);
	images_kick(fix.images);
	assert_int_equal(stats().tables_waiting, 0);
}

static void table__dropped_while_the_parser_has_it(void **state)
{
	image_id image;

	(void)state;
	start_tables(NULL);
	/* Both were unknown before: the second one is perhaps another file, so that the first's table is not believed.
	 */
	image = ref(self_path());
	images_want_table(fix.images, image);
	images_kick(fix.images);
	images_unref(fix.images, image);
	assert_int_equal(ref(self_path()), image);
	assert_int_equal(stats().tables_waiting, 0);
	assert_int_equal(stats().tables_dropped, 1);
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	expect_no_more_jobs(1);
}

static void sink__full_queue_is_tried_again(void **state)
{
	image_id image;

	(void)state;
	start_tables(NULL);
	image = ref(self_path());
	sink.refuse = -EAGAIN;
	sink.refuse_times = 3;
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	assert_int_equal(sink.refuse_times, 0);
	sink.refuse_times = 3;
	images_table_answer(fix.images, image, -ENOENT);
	assert_non_null(expect_job(2, LOAD, image)->table);
	assert_int_equal(sink.refuse_times, 0);
	/* What is kept for it goes with the image. */
	images_table_answer(fix.images, image, 0);
	images_table_evicted(fix.images, image);
	images_want_table(fix.images, image);
	expect_job(3, FIND, image);
	sink.refuse_times = 1 << 30;
	images_table_answer(fix.images, image, -ENOENT);
	while (sink.refuse_times == 1 << 30)
		turn();
}

static void sink__other_errors_and_none_at_all(void **state)
{
	image_id image, other;

	(void)state;
	start_tables(NULL);
	image = ref(self_path());
	other = ref("/bin/true");
	sink.refuse = -ENOMEM;
	sink.refuse_times = 1;
	images_want_table(fix.images, image);
	wait_failed(1);
	images_want_table(fix.images, other);
	expect_job(1, FIND, other);
	sink.refuse_times = 1;
	images_table_answer(fix.images, other, -ENOENT);
	wait_failed(2);
	images_set_table_sink(fix.images, NULL);
	images_want_table(fix.images, ref("/bin/false"));
	assert_int_equal(stats().tables_waiting, 0);
}

static void names__of_the_same_image_come_with_its_table(void **state)
{
	frame_id f;
	image_id image;

	(void)state;
	start_tables(NULL);
	image = ref(self_path());
	f = frame_of(image, offset_of((const void *)(uintptr_t)compile));
	/* The sink hangs: names come all the same. */
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	assert_int_equal(get(f)->state, FRAME_PENDING);
	wait_idle();
	assert_string_equal(name_of(f), "compile");
	images_table_answer(fix.images, image, -ENOENT);
	f = frame_of(image, offset_of((const void *)(uintptr_t)get_compiled));
	expect_job(2, LOAD, image);
	wait_idle();
	assert_string_equal(name_of(f), "get_compiled");
}

static void parser__closes_the_file_when_nothing_follows(void **state)
{
	char path[64], target[4096];
	ssize_t n;

	(void)state;
	start_tables(NULL);
	images_want_table(fix.images, ref(self_path()));
	wait_jobs(1);
	snprintf(path, sizeof(path), "/proc/%d/fd/4", stats().parser_pid);
	n = readlink(path, target, sizeof(target) - 1);
	assert_true(n > 0);
	target[n] = '\0';
	assert_string_equal(target, self_path());
	while (readlink(path, target, sizeof(target)) > 0)
		turn();
}

static void table__of_a_file_that_others_write_to_is_not_kept(void **state)
{
	static const mode_t modes[] = {0755, 0775, 0757, 0755};
	struct made_section text = {".text", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, "\xc3", 1, 0, 0};
	static struct made made;
	char path[300], name[16];

	(void)state;
	if (getuid()) {
		print_message("skip %s: machine: not root\n", __func__);
		skip();
	}
	start_tables(NULL);
	make_elf(&made, true, &text, 1);
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		snprintf(name, sizeof(name), "f%zu", i);
		write_file(name, made.bytes, made.len, path, sizeof(path));
		assert_int_equal(chmod(path, modes[i]), 0);
		if (i == 3)
			assert_int_equal(chown(path, 65534, 0), 0);
		assert_int_equal(get_compiled(ref(path))->key[0] != '\0', i == 0);
	}
}

static void table__failed_one_is_tried_again_after_pauses_that_double(void **state)
{
	uint64_t now = clock_mono_ns(), pause = 10 * NS_PER_S;
	char path[300];
	image_id junk;

	(void)state;
	start_tables(NULL);
	clock_fake(now, now);
	write_file("junk", "no ELF", 6, path, sizeof(path));
	junk = ref(path);
	images_want_table(fix.images, junk);
	wait_failed(1);
	for (uint64_t i = 2; i < 10; i++) {
		clock_fake(now + pause - 1, now);
		images_want_table(fix.images, junk);
		assert_int_equal(stats().tables_waiting, 0);
		now += pause;
		clock_fake(now, now);
		images_want_table(fix.images, junk);
		wait_failed(i);
		pause = pause * 2 < 600 * NS_PER_S ? pause * 2 : 600 * NS_PER_S;
	}
	assert_int_equal(pause, 600 * NS_PER_S);
}

static void table__that_took_too_long_stands_behind_names(void **state)
{
	uint64_t now = clock_mono_ns();
	char path[300];
	image_id bad;
	frame_id f;

	(void)state;
	setenv("BAROSCOPE_CHILD_FAULT", "parser.stall=12345", 1);
	start_tables(&(struct images_options){.parse_timeout_ns = 300 * NS_PER_MS});
	clock_fake(now, now);
	write_file("stalls", (char[12345]){0}, 12345, path, sizeof(path));
	bad = ref(path);
	images_want_table(fix.images, bad);
	wait_failed(1);
	clock_fake(now + 10 * NS_PER_S, now);
	images_want_table(fix.images, bad);
	f = frame_of(ref(self_path()), offset_of((const void *)(uintptr_t)compile));
	while (get(f)->state == FRAME_PENDING)
		turn();
	assert_string_equal(name_of(f), "compile");
	assert_int_equal(stats().parse_timeouts, 1);
	wait_failed(2);
}

static void table__losses_are_summed(void **state)
{
	/* A CIE "zR" with absolute pointers, a function, and an entry that is cut off. */
	static const uint8_t frame[] = {20, 0,	  0,	0, 0,	 0,    0, 0, 1, 'z', 'R', 0,	1,    0x78, 16,
					1,  0x03, 0x0c, 7, 8,	 0x90, 1, 0, 0, 13,  0,	  0,	0,    28,   0,
					0,  0,	  0x40, 0, 0x40, 0,    8, 0, 0, 0,   0,	  0xff, 0xff, 0,    0};
	struct made_section eh = {".eh_frame", SHT_PROGBITS, 0, SHF_ALLOC, frame, sizeof(frame), 0, 0};
	static struct made made;
	char path[300];
	struct job *j;

	(void)state;
	start_tables(NULL);
	make_elf(&made, true, &eh, 1);
	write_file("cut.so", made.bytes, made.len, path, sizeof(path));
	j = get_compiled(ref(path));
	assert_int_equal(j->table->counts[CFI_BROKEN], 1);
	assert_int_equal(stats().table_losses, 1);
	end_tables();
	stop();
	/* Nothing is left: that is no file without call frame information. */
	start_tables(NULL);
	eh.data = frame + 41;
	eh.bytes = 4;
	make_elf(&made, true, &eh, 1);
	write_file("broken.so", made.bytes, made.len, path, sizeof(path));
	images_want_table(fix.images, ref(path));
	wait_jobs(1);
	images_table_answer(fix.images, sink.jobs[0].image, -ENOENT);
	wait_failed(1);
	assert_int_equal(stats().tables_none, 0);
}

/* A process ends and another one maps the same path and inode; whether it is the same content is not known. */
static void table__of_a_doubtful_file_stays_until_its_key_differs(void **state)
{
	struct made_section text = {".text", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, "\xc3", 1, 0, 0};
	static struct made made;
	char path[300];
	image_id image;

	(void)state;
	start_tables(NULL);
	make_elf(&made, true, &text, 1);
	write_file("f.so", made.bytes, made.len, path, sizeof(path));
	image = ref(path);
	images_want_table(fix.images, image);
	expect_job(1, FIND, image);
	images_table_answer(fix.images, image, 0);
	images_unref(fix.images, image);
	assert_int_equal(ref(path), image);
	images_want_table(fix.images, image);
	images_want_table(fix.images, image);
	expect_no_more_jobs(1);
	assert_int_equal(stats().tables_dropped, 0);
	made.bytes[sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_offset)] ^= 8;
	write_file("f.so", made.bytes, made.len, path, sizeof(path));
	images_want_table(fix.images, image);
	expect_no_more_jobs(1);
	images_unref(fix.images, image);
	assert_int_equal(ref(path), image);
	assert_int_equal(sink.count, 1);
	images_want_table(fix.images, image);
	expect_job(2, DROP, image);
	assert_int_equal(stats().tables_dropped, 1);
	images_want_table(fix.images, image);
	assert_string_not_equal(expect_job(3, FIND, image)->key, sink.jobs[0].key);
}

static void parser__dies_over_a_table(void **state)
{
	image_id bad, good;
	char fault[64], path[300];
	struct made_section text = {".text", SHT_PROGBITS, 0, SHF_ALLOC | SHF_EXECINSTR, "\xc3", 1, 0, 0};
	static struct made made;

	(void)state;
	make_elf(&made, true, &text, 1);
	snprintf(fault, sizeof(fault), "parser.die_in_compile=%zu", made.len);
	setenv("BAROSCOPE_CHILD_FAULT", fault, 1);
	start_tables(NULL);
	write_file("dies.so", made.bytes, made.len, path, sizeof(path));
	bad = ref(path);
	good = ref(self_path());
	images_want_table(fix.images, bad);
	expect_job(1, FIND, bad);
	images_table_answer(fix.images, bad, -ENOENT);
	wait_failed(1);
	assert_int_equal(images_get(fix.images, bad)->state, IMAGE_NEW);
	get_compiled(good);
	assert_int_equal(stats().parser_restarts, 2);
	assert_int_equal(stats().parse_timeouts, 0);
}

static void parser__stalls_over_a_table(void **state)
{
	image_id bad;
	char path[300];

	(void)state;
	setenv("BAROSCOPE_CHILD_FAULT", "parser.stall=12345", 1);
	start_tables(&(struct images_options){.parse_timeout_ns = 300 * NS_PER_MS});
	write_file("stalls", (char[12345]){0}, 12345, path, sizeof(path));
	bad = ref(path);
	images_want_table(fix.images, bad);
	wait_failed(1);
	assert_int_equal(stats().parse_timeouts, 1);
	get_compiled(ref(self_path()));
}

/* --- a parser that lies --- */

#define TOTAL (2 * PARSER_PART_BYTES + 100)
#define PART PARSER_PART_BYTES

static const struct lie {
	const char *name;
	const char *key; /* NULL: a good one */
	struct {
		uint32_t total, offset, bytes;
		bool last;
	} parts[4];
	uint32_t head_bytes;  /* what the block says of its size; 0: TOTAL */
	const char *late_key; /* with the parts; NULL: a good one */
	bool is_true;
	bool endless; /* names: message after message without any */
} lies[] = {
	{.name = "none",
	 .parts = {{TOTAL, 0, PART, false}, {TOTAL, PART, PART, false}, {TOTAL, 2 * PART, 100, true}},
	 .is_true = true},
	{.name = "late_key",
	 .parts = {{sizeof(struct table), 0, sizeof(struct table), true}},
	 .head_bytes = sizeof(struct table),
	 .late_key = "abc-124",
	 .is_true = true},
	{.name = "late_key_path",
	 .parts = {{sizeof(struct table), 0, sizeof(struct table), true}},
	 .head_bytes = sizeof(struct table),
	 .late_key = "../x"},
	{.name = "key_path", .key = "../../etc/passwd"},
	{.name = "key_empty", .key = ""},
	{.name = "key_upper", .key = "A-1"},
	{.name = "slices", .parts = {{TOTAL, 0, PART - 1, false}, {TOTAL, PART - 1, PART, false}}},
	{.name = "hole", .parts = {{TOTAL, 0, PART, false}, {TOTAL, PART + 1, PART, false}}},
	{.name = "late_start", .parts = {{PART, 1, PART - 1, true}}},
	{.name = "again", .parts = {{TOTAL, 0, PART, false}, {TOTAL, 0, PART, false}, {TOTAL, PART, PART, false}}},
	{.name = "grows", .parts = {{TOTAL, 0, PART, false}, {TOTAL + 1, PART, PART, false}}},
	{.name = "overrun", .parts = {{PART + 9, 0, PART, false}, {PART + 9, PART, 10, true}}},
	{.name = "short", .parts = {{PART + 9, 0, PART, false}, {PART + 9, PART, 8, true}}},
	{.name = "more_than_all", .parts = {{PART, 0, PART, false}, {PART, PART, 0, true}}},
	{.name = "empty_part", .parts = {{TOTAL, 0, 0, false}, {TOTAL, 0, PART, false}}},
	{.name = "too_large", .parts = {{TABLE_MAX_BYTES + 1, 0, PART, false}}},
	{.name = "too_small", .parts = {{sizeof(struct table) - 1, 0, sizeof(struct table) - 1, true}}},
	{.name = "head_larger", .parts = {{PART, 0, PART, true}}, .head_bytes = TOTAL + 1},
	{.name = "names_without_end", .endless = true},
};

static bool send_response(struct parser_response *s, const void *data, size_t bytes)
{
	struct iovec iov[2] = {{s, sizeof(*s)}, {(void *)(uintptr_t)data, bytes}};

	return child_send(CHILD_SOCKET_FD, iov, 2, -1) == 0;
}

static int lying_parser(const char *name)
{
	static union {
		struct table head;
		char bytes[2 * TOTAL];
	} block;
	const struct lie *lie = NULL;
	struct parser_request q;
	size_t len;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		if (!strcmp(lies[i].name, name))
			lie = &lies[i];
	if (!lie || child_enter("baro-parser"))
		return 1;
	block.head.bytes = lie->head_bytes ? lie->head_bytes : TOTAL;
	while (!child_recv(CHILD_SOCKET_FD, &q, sizeof(q), &len, &fd) && len) {
		struct parser_response s = {.id = q.id};

		if (fd >= 0)
			close(fd);
		if (q.kind == PARSER_ELF && lie->endless) {
			s.more = 1;
			while (send_response(&s, NULL, 0))
				;
			return 1;
		}
		if (q.kind == PARSER_TABLE_COMPILE)
			strcpy(s.table_key, lie->late_key ? lie->late_key : "abc-123");
		if (q.kind == PARSER_TABLE_FIND) {
			strcpy(s.table_key, lie->key ? lie->key : "abc-123");
			if (!send_response(&s, NULL, 0))
				return 1;
		}
		for (size_t i = 0; q.kind == PARSER_TABLE_COMPILE && i < ARRAY_SIZE(lie->parts); i++) {
			s.table_bytes = lie->parts[i].total;
			s.table_offset = lie->parts[i].offset;
			s.more = !lie->parts[i].last;
			if (s.table_bytes && !send_response(&s, block.bytes + s.table_offset, lie->parts[i].bytes))
				return 1;
			if (lie->parts[i].last)
				break;
		}
	}
	return 0;
}

static void parser__lies_about_tables(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		char fault[64];
		image_id image;

		snprintf(fault, sizeof(fault), "lie=%s", lies[i].name);
		setenv("BAROSCOPE_CHILD_FAULT", fault, 1);
		start_tables(NULL);
		image = ref(lies[i].is_true ? "/bin/true" : self_path());
		if (lies[i].endless) {
			frame_id f = frame_of(image, 0x1000);

			wait_idle();
			assert_int_equal(get(f)->state, FRAME_NAMELESS);
			assert_string_equal(problem_of(image), "the parser died over it");
			end_tables();
			continue;
		}
		images_want_table(fix.images, image);
		if (!lies[i].key) {
			expect_job(1, FIND, image);
			images_table_answer(fix.images, image, -ENOENT);
		}
		if (lies[i].is_true) {
			expect_job(2, LOAD, image);
			assert_int_equal(sink.jobs[1].table->bytes, lies[i].parts[0].total);
			/* A table of what the file is by now is loaded, but not kept under either key. */
			assert_string_equal(sink.jobs[1].key, lies[i].late_key ? "" : "abc-123");
		} else {
			/* It is believed in nothing any more, twice. */
			wait_failed(1);
			while (stats().parser_restarts < 2)
				turn();
			assert_int_equal(sink.count, lies[i].key ? 0 : 1);
		}
		end_tables();
		if (i + 1 < ARRAY_SIZE(lies))
			stop();
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown_tables)
		T(table__in_the_cache_is_loaded_from_there),
		T(table__not_in_the_cache_is_compiled),
		T(table__of_the_vdso_and_never_of_the_kernel),
		T(table__key_depends_on_content_and_seed),
		T(table__of_a_file_without_call_frame_information),
		T(table__that_cannot_be_had_leaves_names_alone),
		T(table__failed_one_is_tried_again_for_a_new_process),
		T(table__no_room_means_a_pause),
		T(table__evicted_one_is_wanted_again),
		T(table__of_no_process_is_dropped),
		T(table__of_a_swept_image_is_dropped),
		T(table__dropped_while_the_parser_has_it),
		T(sink__full_queue_is_tried_again),
		T(sink__other_errors_and_none_at_all),
		T(names__of_the_same_image_come_with_its_table),
		T(table__of_a_file_that_others_write_to_is_not_kept),
		T(table__failed_one_is_tried_again_after_pauses_that_double),
		T(table__that_took_too_long_stands_behind_names),
		T(table__losses_are_summed),
		T(table__of_a_doubtful_file_stays_until_its_key_differs),
		T(parser__closes_the_file_when_nothing_follows),
		T(parser__dies_over_a_table),
		T(parser__stalls_over_a_table),
		T(parser__lies_about_tables),
#undef T
	};
	char lie[32];

	if (argc > 1 && !strcmp(argv[1], "--internal-opener"))
		return opener_child_main();
	if (argc > 1 && !strcmp(argv[1], "--internal-parser"))
		return child_fault("lie", lie, sizeof(lie)) ? lying_parser(lie) : parser_child_main();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
