/* The trigger rules of the configuration: what each source may be given, and what a rule must say. Nothing here knows
 * how a trigger works; the rules are only checked and kept. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "daemon/config_walk.h"
#include "daemon/util/clock.h"

#define TRIGGERS_MAX 256

enum threshold_kind { THRESHOLD_SHARE, THRESHOLD_COUNT, THRESHOLD_SHARE_OR_SIZE, THRESHOLD_LEVEL, THRESHOLD_NONE };

static const struct {
	const char *name;
	enum threshold_kind threshold;
} sources[] = {
	{"psi.cpu.some", THRESHOLD_SHARE},
	{"psi.cpu.full", THRESHOLD_SHARE},
	{"psi.memory.some", THRESHOLD_SHARE},
	{"psi.memory.full", THRESHOLD_SHARE},
	{"psi.io.some", THRESHOLD_SHARE},
	{"psi.io.full", THRESHOLD_SHARE},
	{"memory.events.high", THRESHOLD_COUNT},
	{"memory.events.max", THRESHOLD_COUNT},
	{"memory.events.oom", THRESHOLD_COUNT},
	{"memory.events.oom_kill", THRESHOLD_COUNT},
	{"memory.high.slope", THRESHOLD_SHARE_OR_SIZE},
	{"v1.pressure", THRESHOLD_LEVEL},
	{"v1.usage", THRESHOLD_SHARE_OR_SIZE},
	{"oom", THRESHOLD_NONE},
	{"alert", THRESHOLD_NONE},
};

static const char *const profilers[] = {"cpu", "alloc", "offcpu", "lock"};
static const char *const levels[] = {"low", "medium", "critical"};
static const char *const target_keys[] = {"pid", "cgroup", "service"};

static walk_read_fn read_source, read_threshold_text, read_start, read_target;

/* The threshold's form depends on the source, which may stand below it: kept as its node until the rule is read. */
struct rule {
	struct config_trigger t;
	const yaml_node_t *threshold;
};

#define AT(field) offsetof(struct rule, t.field)

enum rule_key {
	K_NAME,
	K_SOURCE,
	K_CGROUP,
	K_THRESHOLD,
	K_WINDOW,
	K_START,
	K_FOR,
	K_BUDGET,
	K_COOLDOWN,
	K_MAX_PER_HOUR,
	K_MATCH,
	K_TARGET,
};

static const struct walk_key rule_keys[] = {
	[K_NAME] = {"name", walk_string, AT(name), 0, 0},
	[K_SOURCE] = {"source", read_source, AT(source), 0, 0},
	[K_CGROUP] = {"cgroup", walk_glob_list, AT(cgroup), 0, 0},
	[K_THRESHOLD] = {"threshold", read_threshold_text, offsetof(struct rule, threshold), 0, 0},
	[K_WINDOW] = {"window", walk_duration, AT(window_ns), 100 * NS_PER_MS, 3600 * NS_PER_S},
	[K_START] = {"start", read_start, AT(start), 0, 0},
	[K_FOR] = {"for", walk_duration, AT(for_ns), NS_PER_S, 86400 * NS_PER_S},
	[K_BUDGET] = {"budget", walk_percent, AT(budget_ratio), 0, 0},
	[K_COOLDOWN] = {"cooldown", walk_duration, AT(cooldown_ns), 0, 86400 * NS_PER_S},
	[K_MAX_PER_HOUR] = {"max_per_hour", walk_u32, AT(max_per_hour), 1, 3600},
	[K_MATCH] = {"match", walk_label_map, AT(match), 0, 32},
	[K_TARGET] = {"target", read_target, AT(target), 0, 1},
};

/* walk_label_map takes the pointer and the count that follows it. */
_Static_assert(AT(match_count) == AT(match) + sizeof(void *), "");
_Static_assert(AT(target_count) == AT(target) + sizeof(void *), "");

static int read_source(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	const char *names[ARRAY_SIZE(sources)], *text, *nearest;
	int r;

	r = walk_text(w, n, k->name, "a source such as psi.cpu.some", &text);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(sources); i++) {
		names[i] = sources[i].name;
		if (!strcmp(text, names[i]))
			return walk_string(w, k, n, field);
	}
	nearest = walk_nearest(text, names, ARRAY_SIZE(names));
	if (nearest)
		return walk_fail(w, n, "unknown source \"%.60s\"; did you mean \"%s\"?", text, nearest);
	return walk_fail(w, n,
			 "unknown source \"%.60s\"; known are: psi.{cpu,memory,io}.{some,full}, "
			 "memory.events.{high,max,oom,oom_kill}, memory.high.slope, v1.pressure, v1.usage, oom, alert",
			 text);
}

static int read_threshold_text(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	const char *text;
	int r;

	r = walk_text(w, n, k->name, "a threshold such as 20%", &text);
	if (r < 0)
		return r;
	*(const yaml_node_t **)field = n;
	return 0;
}

static int read_start(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	char ***start = field;
	int r;

	r = walk_string_list(w, k, n, field);
	if (r < 0)
		return r;
	if (!*start || !**start)
		return walk_fail(w, n, "start is empty; name profilers such as [cpu, alloc]");
	for (size_t i = 0; (*start)[i]; i++) {
		const yaml_node_t *at;
		const char *name = (*start)[i], *nearest;
		size_t j;

		for (j = 0; j < ARRAY_SIZE(profilers) && strcmp(profilers[j], name); j++)
			;
		if (j < ARRAY_SIZE(profilers))
			continue;
		at = walk_node(w, n->data.sequence.items.start[i]);
		nearest = walk_nearest(name, profilers, ARRAY_SIZE(profilers));
		return walk_fail(w, at ? at : n,
				 "unknown profiler \"%.60s\"; %s%s%sknown are: cpu, alloc, offcpu, lock", name,
				 nearest ? "did you mean \"" : "", nearest ? nearest : "", nearest ? "\"? " : "");
	}
	return 0;
}

static int read_target(struct walk *w, const struct walk_key *k, const yaml_node_t *n, void *field)
{
	struct config_label **target = field;
	int r;

	r = walk_label_map(w, k, n, field);
	if (r < 0)
		return r;
	if (!*target || !(*target)[0].name)
		return walk_fail(w, n, "target is empty; write one of pid, cgroup, service such as {service: NAME}");
	for (size_t i = 0; i < ARRAY_SIZE(target_keys); i++)
		if (!strcmp((*target)[0].name, target_keys[i]))
			return 0;
	return walk_fail(w, n, "unknown key \"%.60s\" in target; write one of pid, cgroup, service", (*target)[0].name);
}

static int read_level(const char *text, uint64_t *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (!strcmp(text, levels[i])) {
			*ret = i + 1;
			return 0;
		}
	}
	return -EINVAL;
}

static int read_threshold(struct walk *w, struct rule *rule)
{
	const yaml_node_t *n = rule->threshold;
	const char *text = (const char *)n->data.scalar.value, *source = rule->t.source;
	enum threshold_kind kind = THRESHOLD_NONE;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(sources); i++)
		if (!strcmp(source, sources[i].name))
			kind = sources[i].threshold;
	switch (kind) {
	case THRESHOLD_NONE:
		return walk_fail(w, n, "a rule with source %s has no threshold; leave it out", source);
	case THRESHOLD_COUNT:
		r = walk_parse_uint(text, &rule->t.threshold_value);
		if (r < 0 || !rule->t.threshold_value)
			return walk_fail(
				w, n,
				"threshold is \"%.60s\"; %s counts events, write a whole number above 0 such as 1",
				text, source);
		return 0;
	case THRESHOLD_LEVEL:
		if (read_level(text, &rule->t.threshold_value) < 0)
			return walk_fail(
				w, n, "threshold is \"%.60s\"; write a pressure level: low, medium or critical", text);
		return 0;
	case THRESHOLD_SHARE_OR_SIZE:
		/* A bare number would be bytes to the size parser; here it is more likely a forgotten %. */
		if (!text[strspn(text, "0123456789.")])
			return walk_fail(w, n, "threshold is \"%.60s\", which has no unit; write 20%% or 64MiB", text);
		if (walk_parse_size(text, &rule->t.threshold_value) >= 0 && rule->t.threshold_value)
			return 0;
		break;
	case THRESHOLD_SHARE:
		break;
	}
	r = walk_parse_percent(text, &rule->t.threshold_ratio);
	if (r == -ERANGE)
		return walk_fail(w, n, "threshold is \"%.60s\"; it must be above 0%% and at most 100%%", text);
	if (r < 0)
		return walk_fail(w, n, "threshold is \"%.60s\", which is no percentage; write one such as 20%%", text);
	return 0;
}

static int require(struct walk *w, const yaml_node_t *n, const struct rule *rule, uint32_t seen, enum rule_key key,
		   const char *example)
{
	if (seen & (1u << key))
		return 0;
	if (rule->t.name)
		return walk_fail(w, n, "the rule \"%.60s\" has no %s; write %s", rule->t.name, rule_keys[key].name,
				 example);
	return walk_fail(w, n, "a rule has no %s; write %s", rule_keys[key].name, example);
}

static int check_alert(struct walk *w, const yaml_node_t *n, const struct rule *rule, uint32_t seen)
{
	static const enum rule_key foreign[] = {K_CGROUP, K_WINDOW};
	int r;

	r = require(w, n, rule, seen, K_MATCH, "match: {alertname: NAME}");
	if (r >= 0)
		r = require(w, n, rule, seen, K_TARGET, "target: {service: \"$labels.service\"}");
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
		if (seen & (1u << foreign[i]))
			return walk_fail(
				w, n,
				"the rule \"%.60s\" has source alert and %s; an alert names its target, leave %s out",
				rule->t.name, rule_keys[foreign[i]].name, rule_keys[foreign[i]].name);
	return 0;
}

static int check_pressure(struct walk *w, const yaml_node_t *n, const struct rule *rule, uint32_t seen)
{
	static const enum rule_key foreign[] = {K_MATCH, K_TARGET};

	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
		if (seen & (1u << foreign[i]))
			return walk_fail(
				w, n, "the rule \"%.60s\" has source %s and %s; only a rule with source alert has one",
				rule->t.name, rule->t.source, rule_keys[foreign[i]].name);
	return 0;
}

static void trigger_deinit(struct config_trigger *t)
{
	free(t->name);
	free(t->source);
	config_strv_free(t->cgroup);
	config_strv_free(t->start);
	config_labels_free(t->match, t->match_count);
	config_labels_free(t->target, t->target_count);
}

static int read_rule(struct walk *w, const yaml_node_t *n, struct config_trigger *ret)
{
	struct rule rule = {0};
	uint32_t seen;
	int r;

	rule.t.for_ns = 60 * NS_PER_S;
	rule.t.cooldown_ns = 60 * NS_PER_S;
	rule.t.budget_ratio = 0.02;
	rule.t.max_per_hour = 6;
	r = walk_map(w, n, "a trigger rule", rule_keys, ARRAY_SIZE(rule_keys), &rule, &seen);
	if (r >= 0)
		r = require(w, n, &rule, seen, K_NAME, "name: NAME");
	if (r >= 0)
		r = require(w, n, &rule, seen, K_SOURCE, "source: psi.cpu.some");
	if (r >= 0)
		r = require(w, n, &rule, seen, K_START, "start: [cpu]");
	if (r >= 0)
		r = strcmp(rule.t.source, "alert") ? check_pressure(w, n, &rule, seen) : check_alert(w, n, &rule, seen);
	if (r >= 0 && rule.threshold)
		r = read_threshold(w, &rule);
	if (r >= 0 && !rule.t.cgroup) {
		rule.t.cgroup = calloc(2, sizeof(char *));
		if (!rule.t.cgroup || !(rule.t.cgroup[0] = strdup("/**")))
			r = err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	}
	if (r >= 0 && !rule.t.cgroup[0])
		r = walk_fail(w, n, "the rule \"%.60s\" has an empty cgroup list; write [\"/**\"] for all",
			      rule.t.name);
	if (r < 0) {
		trigger_deinit(&rule.t);
		return r;
	}
	*ret = rule.t;
	return 0;
}

int config_read_triggers(struct walk *w, const yaml_node_t *n, struct config *c)
{
	size_t count;

	if (n->type != YAML_SEQUENCE_NODE)
		return walk_fail(
			w, n,
			"triggers is no list; write a list of rules, or [] for none, or leave the key out for the "
			"default rules");
	count = (size_t)(n->data.sequence.items.top - n->data.sequence.items.start);
	if (count > TRIGGERS_MAX)
		return walk_fail(w, n, "triggers has %zu rules; at most %d are allowed", count, TRIGGERS_MAX);
	c->triggers = calloc(count + 1, sizeof(*c->triggers));
	if (!c->triggers)
		return err_set(w->e, -ENOMEM, "%s: out of memory", w->file);
	for (size_t i = 0; i < count; i++) {
		const yaml_node_t *node = walk_node(w, n->data.sequence.items.start[i]);
		int r;

		r = node ? read_rule(w, node, &c->triggers[i]) : -EINVAL;
		if (r < 0)
			return r;
		c->trigger_count = i + 1;
		for (size_t j = 0; j < i; j++)
			if (!strcmp(c->triggers[j].name, c->triggers[i].name))
				return walk_fail(w, node, "two rules have the name \"%.60s\"; a name is used once",
						 c->triggers[i].name);
	}
	c->triggers_given = true;
	return 0;
}

void config_triggers_free(struct config_trigger *triggers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		trigger_deinit(&triggers[i]);
	free(triggers);
}
