/* Finds the CIEs and FDEs of a section and reads their heads. An entry's cursor never leaves the entry. */
#include <errno.h>

#include "daemon/image/cfi_internal.h"

#define FAIL(count) ((int)(count) + 1)

/* Pointer encodings (LSB core, "DWARF exception header encoding"). */
enum {
	PE_ABSOLUTE = 0x00,
	PE_ULEB128 = 0x01,
	PE_UDATA2 = 0x02,
	PE_UDATA4 = 0x03,
	PE_UDATA8 = 0x04,
	PE_SLEB128 = 0x09,
	PE_SDATA2 = 0x0a,
	PE_SDATA4 = 0x0b,
	PE_SDATA8 = 0x0c,
	PE_PC = 0x10,
	PE_TEXT = 0x20,
	PE_DATA = 0x30,
	PE_FUNCTION = 0x40,
	PE_ALIGNED = 0x50,
	PE_INDIRECT = 0x80,
	PE_OMIT = 0xff,
};

int cfi_entry_read(const struct cfi_section *s, uint32_t at, struct cfi_entry *ret)
{
	struct cfi_cursor c = {.at = s->data + at, .end = s->data + s->bytes};
	struct cfi_entry e = {.kind = CFI_KIND_END, .next = s->bytes};
	size_t id_bytes = 4;
	uint64_t bytes, id;
	uint32_t id_at;

	/* Terminators in the middle come from linked-in end files. */
	do {
		if (cursor_left(&c) < 4) {
			*ret = e;
			return 0;
		}
		bytes = cursor_uint(&c, 4);
	} while (!bytes && !s->ends_at_zero);
	if (!bytes) {
		*ret = e;
		return 0;
	}
	if (bytes == 0xffffffff) {
		bytes = cursor_uint(&c, 8);
		if (s->debug)
			id_bytes = 8;
	}
	if (c.bad || bytes > cursor_left(&c))
		return -EBADMSG;
	e.next = (uint32_t)(c.at - s->data) + (uint32_t)bytes;
	e.body = (struct cfi_cursor){.at = c.at, .end = c.at + bytes};
	id_at = (uint32_t)(c.at - s->data);
	id = cursor_uint(&e.body, id_bytes);
	if (e.body.bad)
		return -EBADMSG;
	if (s->debug) {
		e.kind = id == (id_bytes == 8 ? UINT64_MAX : UINT32_MAX) ? CFI_KIND_CIE : CFI_KIND_FDE;
		e.cie = id < s->bytes ? (uint32_t)id : UINT32_MAX;
	} else {
		e.kind = id == 0 ? CFI_KIND_CIE : CFI_KIND_FDE;
		e.cie = id <= id_at ? id_at - (uint32_t)id : UINT32_MAX;
	}
	*ret = e;
	return 0;
}

int cfi_pointer_read(const struct cfi_section *s, struct cfi_cursor *c, uint8_t encoding, uint64_t *ret)
{
	uint64_t base = 0, place = s->address + (uint64_t)(c->at - s->data), v;

	if (encoding == PE_OMIT) {
		*ret = 0;
		return 0;
	}
	switch (encoding & 0x70) {
	case 0:
		break;
	case PE_PC:
		base = place;
		break;
	case PE_TEXT:
		base = s->text_address;
		break;
	case PE_DATA:
		base = s->data_address;
		break;
	case PE_ALIGNED:
		if (encoding != PE_ALIGNED)
			return FAIL(CFI_ENCODING);
		cursor_take(c, -place & 7);
		encoding = PE_UDATA8;
		break;
	case PE_FUNCTION:
	default:
		return FAIL(CFI_ENCODING);
	}
	switch (encoding & 0x0f) {
	case PE_ABSOLUTE:
	case PE_UDATA8:
	case PE_SDATA8:
		v = cursor_uint(c, 8);
		break;
	case PE_ULEB128:
		v = cursor_uleb(c);
		break;
	case PE_UDATA2:
		v = cursor_uint(c, 2);
		break;
	case PE_UDATA4:
		v = cursor_uint(c, 4);
		break;
	case PE_SLEB128:
		v = (uint64_t)cursor_sleb(c);
		break;
	case PE_SDATA2:
		v = (uint64_t)(int64_t)(int16_t)cursor_uint(c, 2);
		break;
	case PE_SDATA4:
		v = (uint64_t)(int64_t)(int32_t)cursor_uint(c, 4);
		break;
	default:
		return FAIL(CFI_ENCODING);
	}
	if (c->bad)
		return FAIL(CFI_BROKEN);
	*ret = v + base;
	return 0;
}

/* Reads the augmentation's letters; the cursor stands at its data. Reads the whole CIE up to its program. */
static int cie_read(const struct cfi_section *s, struct cfi_cursor *c, struct cfi_cie *cie)
{
	const char *letters;
	struct cfi_cursor data;
	size_t length;
	uint64_t bytes, ignored;

	cie->version = (uint8_t)cursor_uint(c, 1);
	if (cie->version != 1 && cie->version != 3 && !(cie->version == 4 && s->debug))
		return FAIL(c->bad ? CFI_BROKEN : CFI_ENCODING);
	letters = (const char *)c->at;
	length = strnlen(letters, cursor_left(c));
	if (!cursor_take(c, length + 1))
		return FAIL(CFI_BROKEN);
	cie->address_bytes = 8;
	if (cie->version == 4) {
		cie->address_bytes = (uint8_t)cursor_uint(c, 1);
		cie->segment_bytes = (uint8_t)cursor_uint(c, 1);
		if (cie->address_bytes != 8 || cie->segment_bytes != 0)
			return FAIL(CFI_ENCODING);
	}
	/* The oldest g++: a pointer to its own data. */
	if (!strncmp(letters, "eh", 2)) {
		cursor_take(c, cie->address_bytes);
		letters += 2;
	}
	cie->code_align = cursor_uleb(c);
	cie->data_align = cursor_sleb(c);
	cie->ra_register = cie->version == 1 ? cursor_uint(c, 1) : cursor_uleb(c);
	cie->encoding = PE_ABSOLUTE;
	if (c->bad)
		return FAIL(CFI_BROKEN);
	if (*letters == 'z') {
		const uint8_t *p;

		letters++;
		cie->sized = true;
		bytes = cursor_uleb(c);
		p = cursor_take(c, bytes);
		if (!p)
			return FAIL(CFI_BROKEN);
		data = (struct cfi_cursor){.at = p, .end = p + bytes};
	} else {
		data = *c;
	}
	for (; *letters; letters++) {
		int r = 0;

		switch (*letters) {
		case 'R':
			cie->encoding = (uint8_t)cursor_uint(&data, 1);
			break;
		case 'L':
			cursor_uint(&data, 1);
			break;
		case 'P':
			r = cfi_pointer_read(s, &data, (uint8_t)cursor_uint(&data, 1), &ignored);
			break;
		case 'S':
			cie->signal = true;
			break;
		case 'B': /* aarch64: pointer authentication; no data */
			break;
		default:
			/* With a length, what is not known can be left out as long as the encoding is known. */
			return cie->sized && cie->encoding != PE_ABSOLUTE ? 0 : FAIL(CFI_ENCODING);
		}
		if (r || data.bad)
			return r ? r : FAIL(CFI_BROKEN);
	}
	if (!cie->sized)
		*c = data;
	/* Compilers of C use -8 here; Go's linker writes -4 (and 8-byte addresses) on this architecture. */
	cie->go = s->debug && !length && cie->code_align == 1 && cie->data_align == CFI_GO_DATA_ALIGN;
	return 0;
}

const struct cfi_cie *cfi_cie_get(struct cfi_build *b, const struct cfi_section *s, uint32_t at)
{
	uint64_t key = ((uint64_t)s->debug << 32 | at) + 1;
	struct cfi_cie *cie = &b->cies[(key * 0x9e3779b97f4a7c15ull) >> 56];
	struct cfi_entry e;

	_Static_assert(CIE_CACHE == 256, "8 bits of the hash");
	if (cie->key == key)
		return cie;
	*cie = (struct cfi_cie){.key = key};
	b->work_bytes += CIE_MAX_BYTES;
	/* A CIE is read again for each of its functions in the worst case: it must be short. */
	if (at >= s->bytes || cfi_entry_read(s, at, &e) || e.kind != CFI_KIND_CIE ||
	    cursor_left(&e.body) > CIE_MAX_BYTES)
		cie->error = FAIL(CFI_BROKEN);
	else
		cie->error = cie_read(s, &e.body, cie);
	if (!cie->error && cie->ra_register != CFI_REG_RA)
		cie->error = FAIL(CFI_RETURN_RULE);
	if (!cie->error)
		cie->error = cfi_run_initial(cie, e.body);
	return cie;
}

int cfi_fde_head(const struct cfi_section *s, const struct cfi_cie *cie, struct cfi_entry *entry, uint64_t *ret_start,
		 uint64_t *ret_bytes)
{
	struct cfi_cursor *c = &entry->body;
	uint64_t start, bytes;
	int r;

	if (cie->error)
		return cie->error;
	if (cie->encoding == PE_OMIT || cie->encoding & PE_INDIRECT)
		return FAIL(CFI_ENCODING);
	r = cfi_pointer_read(s, c, cie->encoding, &start);
	if (!r)
		/* A length: the same form, but relative to nothing. */
		r = cfi_pointer_read(s, c, cie->encoding == PE_ALIGNED ? PE_UDATA8 : cie->encoding & 0x0f, &bytes);
	if (r)
		return r;
	if (cie->sized)
		cursor_take(c, cursor_uleb(c));
	if (c->bad)
		return FAIL(CFI_BROKEN);
	*ret_start = start;
	*ret_bytes = bytes;
	return 0;
}
