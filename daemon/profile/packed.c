/* Packing and reading of closed windows. Pure functions. */
#include "daemon/profile/packed.h"

static size_t put_varint(uint8_t *out, uint64_t v)
{
	size_t n = 0;

	do {
		uint8_t byte = v & 0x7f;

		v >>= 7;
		if (out)
			out[n] = v ? byte | 0x80 : byte;
		n++;
	} while (v);
	return n;
}

static uint64_t get_varint(struct packed_reader *r)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; r->at < r->end && shift < 64; shift += 7) {
		uint8_t byte = *r->at++;

		v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			break;
	}
	return v;
}

static bool same_group(const struct profile_entry *a, const struct profile_entry *b)
{
	return a->series == b->series && a->pid == b->pid && a->comm == b->comm && a->thread == b->thread;
}

/* out NULL: only the length. */
static size_t write_all(const struct entries *from, uint8_t *out)
{
	size_t len = 0;

#define PUT(v) (len += put_varint(out ? out + len : NULL, (v)))
	for (size_t i = 0; i < from->count;) {
		const struct profile_entry *first = &from->list[i];
		size_t end = i;
		node_id before = 0;

		while (end < from->count && same_group(first, &from->list[end]))
			end++;
		PUT(first->series);
		PUT(first->pid);
		PUT(first->comm);
		PUT(first->thread);
		PUT(end - i);
		for (; i < end; i++) {
			PUT(from->list[i].node - before);
			PUT(from->list[i].count);
			PUT(from->list[i].value);
			before = from->list[i].node;
		}
	}
#undef PUT
	return len;
}

int packed_create(struct entries *from, struct packed *ret)
{
	struct packed p = {.count = from->count};

	entries_sort(from);
	p.bytes = write_all(from, NULL);
	if (p.bytes) {
		p.data = malloc(p.bytes);
		if (!p.data)
			return -ENOMEM;
		write_all(from, p.data);
	}
	*ret = p;
	return 0;
}

void packed_deinit(struct packed *p)
{
	free(p->data);
	*p = (struct packed){0};
}

void packed_reader_init(struct packed_reader *r, const struct packed *p)
{
	*r = (struct packed_reader){.at = p->data, .end = p->data ? p->data + p->bytes : NULL};
}

bool packed_next(struct packed_reader *r)
{
	if (!r->left) {
		if (r->at == r->end)
			return false;
		r->entry = (struct profile_entry){0};
		r->entry.series = (series_id)get_varint(r);
		r->entry.pid = (uint32_t)get_varint(r);
		r->entry.comm = (intern_id)get_varint(r);
		r->entry.thread = (intern_id)get_varint(r);
		r->left = get_varint(r);
	}
	r->entry.node += (node_id)get_varint(r);
	r->entry.count = get_varint(r);
	r->entry.value = get_varint(r);
	r->left--;
	return true;
}
