/* The interface description: what the daemon answers is what docs/CONTROL.md shows. Run from the top of the tree. */
#include "daemon/control/idl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/util/cleanup.h"

static void idl__is_the_one_in_the_docs(void **state)
{
	static const char fence[] = "```varlink\n";
	_cleanup_fclose_ FILE *f = fopen("docs/CONTROL.md", "r");
	static char text[65536];
	char *from, *end;

	(void)state;
	assert_non_null(f);
	assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
	from = strstr(text, fence);
	assert_non_null(from);
	from += strlen(fence);
	end = strstr(from, "```\n");
	assert_non_null(end);
	*end = 0;
	assert_string_equal(from, idl_io_baroscope_control);
}

static void idl__declares_every_method_and_error(void **state)
{
	static const char *const lines[] = {"interface io.baroscope.Control\n",
					    "\nmethod Status(",
					    "\nmethod Top(",
					    "\nmethod Export(",
					    "\nerror PermissionDenied (uid: int)\n",
					    "\nerror NotFound (what: string)\n",
					    "\nerror Failed (message: string)\n",
					    "\nerror Busy (message: string)\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_non_null(strstr(idl_io_baroscope_control, lines[i]));
	assert_non_null(strstr(idl_org_varlink_service, "interface org.varlink.service\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(idl__is_the_one_in_the_docs),
		cmocka_unit_test(idl__declares_every_method_and_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
