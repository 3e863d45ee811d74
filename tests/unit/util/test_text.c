/* What is written as text: JSON, UTF-8 repair, base64, fault points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/base64.h"
#include "daemon/util/fault.h"
#include "daemon/util/json_writer.h"
#include "daemon/util/utf8.h"

static void json__commas_keys_and_numbers(void **state)
{
	struct buf b = {0};
	struct json_writer w;

	(void)state;
	json_writer_init(&w, &b);
	jw_object(&w, NULL);
	jw_array(&w, "a");
	jw_uint(&w, NULL, UINT64_MAX);
	jw_int(&w, NULL, INT64_MIN);
	jw_object(&w, NULL);
	jw_object_end(&w);
	jw_array(&w, NULL);
	jw_array_end(&w);
	jw_array_end(&w);
	jw_double(&w, "half", 0.5);
	jw_double(&w, "nan", (double)NAN);
	jw_double(&w, "inf", (double)INFINITY);
	jw_bool(&w, "yes", true);
	jw_null(&w, "none");
	jw_raw(&w, "raw", "[1]", 3);
	jw_object_end(&w);
	assert_string_equal(b.data, "{\"a\":[18446744073709551615,-9223372036854775808,{},[]],\"half\":0.5,"
				    "\"nan\":null,\"inf\":null,\"yes\":true,\"none\":null,\"raw\":[1]}");
	buf_deinit(&b);
}

static void json__double_reads_back_to_15_digits(void **state)
{
	const double values[] = {0.1, 1e15, 1795374900.125, 1.0 / 3, 1e-300};

	(void)state;
	for (size_t i = 0; i < 5; i++) {
		struct buf b = {0};
		struct json_writer w;

		json_writer_init(&w, &b);
		jw_double(&w, NULL, values[i]);
		assert_true(fabs(strtod(b.data, NULL) - values[i]) <= fabs(values[i]) * 1e-14);
		buf_deinit(&b);
	}
}

static void json__text_is_escaped_and_repaired(void **state)
{
	const char *text = "q\" b\\ n\n t\t \x01 \xc3\xa4 \xff \xed\xa0\x80 \xf0\x9f\x98\x80 \xc3";
	struct buf b = {0};
	struct json_writer w;
	json_t *parsed;

	(void)state;
	json_writer_init(&w, &b);
	jw_array(&w, NULL);
	jw_string(&w, NULL, text);
	jw_array_end(&w);
	parsed = json_loadb(b.data, b.len, 0, NULL);
	assert_non_null(parsed);
	assert_string_equal(json_string_value(json_array_get(parsed, 0)),
			    "q\" b\\ n\n t\t \x01 \xc3\xa4 " UTF8_REPLACEMENT
			    " " UTF8_REPLACEMENT UTF8_REPLACEMENT UTF8_REPLACEMENT
			    " \xf0\x9f\x98\x80 " UTF8_REPLACEMENT);
	json_decref(parsed);
	buf_deinit(&b);
}

static void utf8__overlong_and_out_of_range_are_bad(void **state)
{
	(void)state;
	assert_true(utf8_valid("a\xe2\x82\xac", 4));
	assert_false(utf8_valid("\xc0\xaf", 2));
	assert_false(utf8_valid("\xe0\x80\xaf", 3));
	assert_false(utf8_valid("\xf4\x90\x80\x80", 4));
	assert_false(utf8_valid("\xe2\x82", 2));
}

static void base64__known_vectors_both_ways(void **state)
{
	static const char *const vectors[][2] = {{"", ""},
						 {"f", "Zg=="},
						 {"fo", "Zm8="},
						 {"foo", "Zm9v"},
						 {"foob", "Zm9vYg=="},
						 {"fooba", "Zm9vYmE="},
						 {"foobar", "Zm9vYmFy"}};

	(void)state;
	for (size_t i = 0; i < 7; i++) {
		struct buf text = {0}, back = {0};

		base64_encode(&text, vectors[i][0], strlen(vectors[i][0]));
		assert_string_equal(text.data, vectors[i][1]);
		assert_int_equal(base64_decode(&back, text.data, text.len), 0);
		assert_string_equal(back.data, vectors[i][0]);
		buf_deinit(&text);
		buf_deinit(&back);
	}
}

static void base64__long_binary_comes_back(void **state)
{
	unsigned char data[10001];
	struct buf text = {0}, back = {0};

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (unsigned char)(i * 7 + i / 256);
	base64_encode(&text, data, sizeof(data));
	assert_int_equal(base64_decode(&back, text.data, text.len), 0);
	assert_int_equal(back.len, sizeof(data));
	assert_memory_equal(back.data, data, sizeof(data));
	buf_deinit(&text);
	buf_deinit(&back);
}

static void base64_decode__bad_text_appends_nothing(void **state)
{
	static const char *const bad[] = {"Zg=", "Zg", "Z===", "Zg==Zg==", "Zm9v\n", "Zh==", "Zm9=", "Z*9v", "===="};
	struct buf b = {0};

	(void)state;
	buf_adds(&b, "x");
	for (size_t i = 0; i < 9; i++) {
		assert_int_equal(base64_decode(&b, bad[i], strlen(bad[i])), -EINVAL);
		assert_string_equal(b.data, "x");
	}
	buf_deinit(&b);
}

static void fault__hits_as_often_as_asked(void **state)
{
	(void)state;
#ifdef BAROSCOPE_FAULTS
	setenv("BAROSCOPE_FAULT", "a.b:2,c.d", 1);
	fault_reload();
	assert_true(FAULT("a.b"));
	assert_true(FAULT("a.b"));
	assert_false(FAULT("a.b"));
	assert_true(FAULT("c.d"));
	assert_true(FAULT("c.d"));
	assert_false(FAULT("a"));
	unsetenv("BAROSCOPE_FAULT");
	fault_reload();
#endif
	assert_false(FAULT("c.d"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json__commas_keys_and_numbers),
		cmocka_unit_test(json__double_reads_back_to_15_digits),
		cmocka_unit_test(json__text_is_escaped_and_repaired),
		cmocka_unit_test(utf8__overlong_and_out_of_range_are_bad),
		cmocka_unit_test(base64__known_vectors_both_ways),
		cmocka_unit_test(base64__long_binary_comes_back),
		cmocka_unit_test(base64_decode__bad_text_appends_nothing),
		cmocka_unit_test(fault__hits_as_often_as_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
