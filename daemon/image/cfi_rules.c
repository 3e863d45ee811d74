/* Runs the programs of CIEs and FDEs and turns the state after each step into a row. Bounded: every instruction
 * consumes at least a byte, and an FDE's program is its own. */
#include <errno.h>

#include "daemon/image/cfi_dwarf.h"
#include "daemon/image/cfi_internal.h"

#define MAX_STATES 8
#define FAIL(count) ((int)(count) + 1)

struct run {
	const struct cfi_cie *cie;
	const struct cfi_section *section; /* of a function's program; NULL in a CIE's */
	uint64_t address;
	struct cfi_rules rules, initial;
	struct cfi_rules states[MAX_STATES];
	unsigned int depth;
};

/* sp or bp + offset, perhaps dereferenced, perhaps with a constant added; or the PLT's rule. */
struct expression {
	enum { EXPRESSION_UNKNOWN, EXPRESSION_ADDRESS, EXPRESSION_DEREF, EXPRESSION_PLT } kind;
	bool bp;
	int64_t offset, add;
};

static struct expression expression_read(struct cfi_cursor *program)
{
	static const uint8_t plt_head[] = {DW_OP_breg7, 8, DW_OP_breg16, 0, DW_OP_lit15, DW_OP_and};
	static const uint8_t plt_tail[] = {DW_OP_ge, DW_OP_lit3, DW_OP_shl, DW_OP_plus};
	uint64_t bytes = cursor_uleb(program);
	const uint8_t *p = cursor_take(program, bytes);
	struct expression e = {.kind = EXPRESSION_UNKNOWN};
	struct cfi_cursor c;
	uint8_t op;

	if (!p || !bytes)
		return e;
	c = (struct cfi_cursor){.at = p, .end = p + bytes};
	if (bytes == sizeof(plt_head) + 1 + sizeof(plt_tail) && !memcmp(p, plt_head, sizeof(plt_head)) &&
	    !memcmp(p + sizeof(plt_head) + 1, plt_tail, sizeof(plt_tail))) {
		e.offset = p[sizeof(plt_head)] - DW_OP_lit0;
		if (e.offset >= CFI_PLT_PUSHED_MIN && e.offset <= CFI_PLT_PUSHED_MAX)
			e.kind = EXPRESSION_PLT;
		return e;
	}
	op = *c.at++;
	if (op != DW_OP_breg0 + CFI_REG_BP && op != DW_OP_breg0 + CFI_REG_SP)
		return e;
	e.bp = op == DW_OP_breg0 + CFI_REG_BP;
	e.offset = cursor_sleb(&c);
	if (c.bad)
		return e;
	if (c.at == c.end) {
		e.kind = EXPRESSION_ADDRESS;
		return e;
	}
	if (*c.at++ != DW_OP_deref)
		return e;
	if (c.at < c.end) {
		if (*c.at++ != DW_OP_plus_uconst)
			return e;
		e.add = (int64_t)cursor_uleb(&c);
	}
	if (!c.bad && c.at == c.end)
		e.kind = EXPRESSION_DEREF;
	return e;
}

static void cfa_expression(struct cfi_rules *rules, struct expression e)
{
	rules->cfa_expression = CFI_CFA_INVALID;
	switch (e.kind) {
	case EXPRESSION_ADDRESS:
		rules->cfa_expression = e.bp ? CFI_CFA_BP : CFI_CFA_SP;
		rules->cfa_offset = e.offset;
		break;
	case EXPRESSION_DEREF:
		/* An offset and a small constant share one field. */
		if (e.add < 0 || e.add > 255 || e.offset < INT32_MIN / 256 || e.offset > INT32_MAX / 256)
			break;
		rules->cfa_expression = e.bp ? CFI_CFA_BP_DEREF : CFI_CFA_SP_DEREF;
		rules->cfa_offset = e.offset * 256 + e.add;
		break;
	case EXPRESSION_PLT:
		rules->cfa_expression = CFI_CFA_PLT;
		rules->cfa_offset = e.offset;
		break;
	case EXPRESSION_UNKNOWN:
		break;
	}
}

static void set_register(struct run *run, uint64_t reg, enum cfi_where where, int64_t offset)
{
	if (reg == CFI_REG_BP) {
		run->rules.bp = (uint8_t)where;
		run->rules.bp_offset = offset;
	} else if (reg == run->cie->ra_register) {
		run->rules.ra = (uint8_t)where;
		run->rules.ra_offset = offset;
	}
}

static void restore_register(struct run *run, uint64_t reg)
{
	if (reg == CFI_REG_BP) {
		run->rules.bp = run->initial.bp;
		run->rules.bp_offset = run->initial.bp_offset;
	} else if (reg == run->cie->ra_register) {
		run->rules.ra = run->initial.ra;
		run->rules.ra_offset = run->initial.ra_offset;
	}
}

static void set_cfa(struct run *run, uint64_t reg, int64_t offset)
{
	run->rules.cfa_expression = 0;
	run->rules.cfa_register = reg < UINT32_MAX ? (uint32_t)reg : UINT32_MAX;
	run->rules.cfa_offset = offset;
}

static int64_t scaled(struct run *run, int64_t factored)
{
	return (int64_t)((uint64_t)factored * (uint64_t)run->cie->data_align);
}

/* One instruction. Moves of the location are added to *ret_advance. 0 or enum cfi_count + 1. */
static int step(struct run *run, struct cfi_cursor *c, uint64_t *ret_advance)
{
	const struct cfi_cie *cie = run->cie;
	uint8_t op = *c->at++;
	struct expression e;
	uint64_t reg, to;
	int bad;

	switch (op & 0xc0) {
	case DW_CFA_advance_loc:
		*ret_advance = (op & 0x3f) * cie->code_align;
		return 0;
	case DW_CFA_offset:
		set_register(run, op & 0x3f, WHERE_AT_CFA, scaled(run, (int64_t)cursor_uleb(c)));
		return 0;
	case DW_CFA_restore:
		restore_register(run, op & 0x3f);
		return 0;
	default:
		break;
	}
	switch (op) {
	case DW_CFA_nop:
		break;
	case DW_CFA_set_loc:
		/* Only forward, as rows are; a CIE's program has no location. */
		if (!run->section)
			return FAIL(CFI_BROKEN);
		bad = cfi_pointer_read(run->section, c, cie->encoding, &to);
		if (bad || to < run->address)
			return bad ? bad : FAIL(CFI_BROKEN);
		*ret_advance = to - run->address;
		break;
	case DW_CFA_advance_loc1:
		*ret_advance = cursor_uint(c, 1) * cie->code_align;
		break;
	case DW_CFA_advance_loc2:
		*ret_advance = cursor_uint(c, 2) * cie->code_align;
		break;
	case DW_CFA_advance_loc4:
		*ret_advance = cursor_uint(c, 4) * cie->code_align;
		break;
	case DW_CFA_offset_extended:
		reg = cursor_uleb(c);
		set_register(run, reg, WHERE_AT_CFA, scaled(run, (int64_t)cursor_uleb(c)));
		break;
	case DW_CFA_offset_extended_sf:
		reg = cursor_uleb(c);
		set_register(run, reg, WHERE_AT_CFA, scaled(run, cursor_sleb(c)));
		break;
	case DW_CFA_GNU_negative_offset_extended:
		reg = cursor_uleb(c);
		set_register(run, reg, WHERE_AT_CFA, scaled(run, (int64_t)(0 - cursor_uleb(c))));
		break;
	case DW_CFA_restore_extended:
		restore_register(run, cursor_uleb(c));
		break;
	case DW_CFA_undefined:
		set_register(run, cursor_uleb(c), WHERE_UNDEFINED, 0);
		break;
	case DW_CFA_same_value:
		reg = cursor_uleb(c);
		set_register(run, reg, reg == CFI_REG_BP ? WHERE_UNSET : WHERE_UNKNOWN, 0);
		break;
	case DW_CFA_register:
		reg = cursor_uleb(c);
		cursor_uleb(c);
		set_register(run, reg, WHERE_UNKNOWN, 0);
		break;
	case DW_CFA_remember_state:
		if (run->depth == MAX_STATES)
			return FAIL(CFI_STATES);
		run->states[run->depth++] = run->rules;
		break;
	case DW_CFA_restore_state:
		if (!run->depth)
			return FAIL(CFI_STATES);
		run->rules = run->states[--run->depth];
		break;
	case DW_CFA_def_cfa:
		reg = cursor_uleb(c);
		set_cfa(run, reg, (int64_t)cursor_uleb(c));
		break;
	case DW_CFA_def_cfa_sf:
		reg = cursor_uleb(c);
		set_cfa(run, reg, scaled(run, cursor_sleb(c)));
		break;
	case DW_CFA_def_cfa_register:
		set_cfa(run, cursor_uleb(c), run->rules.cfa_offset);
		break;
	case DW_CFA_def_cfa_offset:
		set_cfa(run, run->rules.cfa_register, (int64_t)cursor_uleb(c));
		break;
	case DW_CFA_def_cfa_offset_sf:
		set_cfa(run, run->rules.cfa_register, scaled(run, cursor_sleb(c)));
		break;
	case DW_CFA_def_cfa_expression:
		cfa_expression(&run->rules, expression_read(c));
		break;
	case DW_CFA_expression:
		reg = cursor_uleb(c);
		e = expression_read(c);
		set_register(run, reg,
			     e.kind != EXPRESSION_ADDRESS ? WHERE_UNKNOWN
			     : e.bp			  ? WHERE_AT_BP
							  : WHERE_AT_SP,
			     e.offset);
		break;
	case DW_CFA_val_offset:
	case DW_CFA_val_offset_sf:
		reg = cursor_uleb(c);
		cursor_uleb(c);
		set_register(run, reg, WHERE_UNKNOWN, 0);
		break;
	case DW_CFA_val_expression:
		reg = cursor_uleb(c);
		expression_read(c);
		set_register(run, reg, WHERE_UNKNOWN, 0);
		break;
	case DW_CFA_GNU_args_size:
		cursor_uleb(c);
		break;
	default:
		return FAIL(CFI_OPCODE);
	}
	return c->bad ? FAIL(CFI_BROKEN) : 0;
}

int cfi_run_initial(struct cfi_cie *cie, struct cfi_cursor program)
{
	struct run run = {.cie = cie};
	uint64_t advance = 0;

	run.rules.cfa_register = UINT32_MAX;
	while (program.at < program.end) {
		int r = step(&run, &program, &advance);

		if (r)
			return r;
		if (advance)
			return FAIL(CFI_BROKEN);
	}
	cie->initial = run.rules;
	return 0;
}

static struct cfi_info refuse(struct cfi_build *b, enum cfi_count why)
{
	b->out.counts[why]++;
	return (struct cfi_info){.rules = CFI_CFA_INVALID};
}

/* A CFA in a register that is neither rsp nor rbp: hand-written leaf functions and prologues that realign the stack. */
static bool in_register(struct cfi_build *b, int64_t *offset, uint32_t reg)
{
	static const uint8_t words[] = CFI_REG_WORDS;

	b->out.counts[CFI_CFA_REGISTER]++;
	if (reg >= sizeof(words) || *offset < INT32_MIN / 32 || *offset > INT32_MAX / 32)
		return false;
	*offset = *offset * 32 + words[reg];
	return true;
}

static struct cfi_info to_info(struct cfi_build *b, const struct cfi_function *f, const struct cfi_rules *r)
{
	enum cfi_cfa cfa = (enum cfi_cfa)r->cfa_expression;
	enum cfi_bp bp = CFI_BP_SAME;
	int64_t bp_offset = 0, cfa_offset = r->cfa_offset;

	if (r->ra == WHERE_UNDEFINED)
		return (struct cfi_info){.rules = CFI_CFA_END};
	if (f->cie->signal && cfa == CFI_CFA_SP_DEREF && r->cfa_offset == CFI_SIGNAL_SP * 256 && r->ra == WHERE_AT_SP &&
	    r->ra_offset == CFI_SIGNAL_PC && r->bp == WHERE_AT_SP && r->bp_offset == CFI_SIGNAL_BP)
		return (struct cfi_info){.rules = CFI_CFA_SIGNAL};
	if (r->ra != WHERE_AT_CFA || r->ra_offset != CFI_RA_OFFSET)
		return refuse(b, CFI_RETURN_RULE);
	if (!cfa) {
		if (r->cfa_register == CFI_REG_SP)
			cfa = CFI_CFA_SP;
		else if (r->cfa_register == CFI_REG_BP)
			cfa = CFI_CFA_BP;
		else if (!in_register(b, &cfa_offset, r->cfa_register))
			return refuse(b, CFI_RANGE);
		else
			cfa = CFI_CFA_IN_REGISTER;
	} else if (cfa == CFI_CFA_INVALID) {
		return refuse(b, CFI_CFA_EXPRESSION);
	}
	if (cfa_offset < INT32_MIN || cfa_offset > INT32_MAX)
		return refuse(b, CFI_RANGE);
	switch ((enum cfi_where)r->bp) {
	case WHERE_UNSET:
		if (f->go == CFI_GO_NOT || cfa != CFI_CFA_SP || r->cfa_offset < CFI_GO_FRAME_MIN)
			break;
		/* Go's linker never says where rbp is. */
		bp = f->go == CFI_GO_COMPILED ? CFI_BP_AT_CFA : CFI_BP_UNDEFINED;
		bp_offset = f->go == CFI_GO_COMPILED ? CFI_GO_BP_OFFSET : 0;
		break;
	case WHERE_AT_CFA:
		bp = CFI_BP_AT_CFA;
		bp_offset = r->bp_offset;
		break;
	case WHERE_AT_BP:
		bp = CFI_BP_AT_BP;
		bp_offset = r->bp_offset;
		break;
	case WHERE_AT_SP:
	case WHERE_UNKNOWN:
		b->out.counts[CFI_BP_RULE]++;
		bp = CFI_BP_UNDEFINED;
		break;
	case WHERE_UNDEFINED:
		bp = CFI_BP_UNDEFINED;
		break;
	}
	if (bp_offset < INT16_MIN || bp_offset > INT16_MAX) {
		b->out.counts[CFI_RANGE]++;
		bp = CFI_BP_UNDEFINED;
		bp_offset = 0;
	}
	return (struct cfi_info){
		.offset = (int32_t)cfa_offset,
		.bp_offset = (int16_t)bp_offset,
		.rules = (uint8_t)(cfa | (unsigned int)bp << 4),
	};
}

int cfi_run(struct cfi_build *b, const struct cfi_function *f)
{
	struct cfi_cursor program = f->program;
	struct run run;
	uint64_t at = f->start;
	int r;

	/* The saved states stay uninitialised: clearing them would cost more than a usual program. */
	b->work_bytes += cursor_left(&program);
	run.cie = f->cie;
	run.section = f->section;
	run.address = f->address;
	run.rules = run.initial = f->cie->initial;
	run.depth = 0;
	while (program.at < program.end) {
		uint64_t advance = 0;
		int bad = step(&run, &program, &advance);

		if (bad) {
			/* What was said up to here holds, the rest of the function is not believed. */
			b->out.counts[bad - 1]++;
			return cfi_rows_add(b, (uint32_t)at, (struct cfi_info){.rules = CFI_CFA_INVALID});
		}
		if (!advance)
			continue;
		r = cfi_rows_add(b, (uint32_t)at, to_info(b, f, &run.rules));
		if (r)
			return r;
		if (advance >= f->stop - at)
			return 0;
		at += advance;
		run.address += advance;
	}
	return cfi_rows_add(b, (uint32_t)at, to_info(b, f, &run.rules));
}
