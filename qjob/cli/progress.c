#include "qjob/cli/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "qjob/base/mem.h"
#include "qjob/cli/session.h"

enum { STAGES_MAX = 16, BAR = 20 };

#define REDRAW_SECONDS 0.1
#define LINE_SECONDS   5.0      /* plain: at most a line a stage in so long, */
#define ALIVE_SECONDS  30.0     /* and in so long at least, when something is heard of it */

struct track {
	const struct stage *stage;
	const char *unit;
	size_t total, finished, hits, ran, failed;
	size_t running;
	double busy, since;       /* seconds in which at least one ran; since when one does */
	double last_line;
	const struct node *now;   /* the latest that runs; NULL: none */
	bool replays;
	double part;              /* of now: 0..1 */
	char text[96];            /* "loss 0.0123" */
	bool told;                /* its last line was printed */
};

struct progress {
	struct progress_options o;
	struct track v[STAGES_MAX];
	size_t n;
	int shown;                /* live lines on the terminal now */
	double drawn;
	struct buf line;
};

static const char *const state_names[] = {
	[NODE_WAITS] = "waits", [NODE_HIT] = "hit", [NODE_REPLAYS] = "replays", [NODE_RUNS] = "runs", [NODE_DONE] = "done",
	[NODE_CUTOFF] = "same", [NODE_FAILED] = "failed", [NODE_SKIPPED] = "skipped",
};

const char *
node_state_name(enum node_state s)
{
	return state_names[s];
}

/* ---- the numbers of a stage ---- */

static struct track *
track_of(struct progress *p, const struct stage *stage)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].stage == stage)
			return &p->v[i];
	return NULL;
}

struct progress *
progress_open(const struct graph *g, const struct progress_options *o)
{
	struct progress *p = mem_new(1, sizeof(*p));

	p->o = *o;
	for (size_t i = 0; i < g->n; i++) {
		struct track *t = track_of(p, g->v[i]->stage);

		if (!t && p->n < STAGES_MAX) {
			t = &p->v[p->n++];
			*t = (struct track){.stage = g->v[i]->stage, .unit = g->v[i]->unit};
		}
		if (t)
			t->total++;
	}
	return p;
}

static double
busy_seconds(const struct track *t, double now)
{
	return t->busy + (t->running ? now - t->since : 0);
}

/* Seconds a node; 0 while nothing is known. */
static double
pace(const struct track *t, double now)
{
	double done = (double)t->ran + (t->now && !t->replays ? t->part : 0);

	return done > 0 ? busy_seconds(t, now) / done : 0;
}

static void
describe(const struct track *t, double now, struct buf *out)
{
	double each = pace(t, now), left = (double)(t->total - t->finished) - (t->now ? t->part : 0);
	const char *unit = t->unit ? t->unit : "nodes";
	char eta[32];

	buf_printf(out, "%zu/%zu %s", t->finished, t->total, unit);
	if (t->now && t->replays)
		buf_puts(out, "  replaying what is in the store");
	if (each > 0 && t->total > 1)
		buf_printf(out, "  %.2f s each", each);
	if (*t->text)
		buf_printf(out, "  %s", t->text);
	if (each > 0 && left > 0) {
		time_text(each * left, eta, sizeof(eta));
		buf_printf(out, "  ETA %s", eta);
	}
}

static void
begin_node(struct track *t, const struct event *e)
{
	t->now = e->node;
	t->replays = e->state == NODE_REPLAYS;
	t->part = 0;
	if (!t->replays && t->running++ == 0)
		t->since = e->seconds;
}

static void
end_node(struct track *t, const struct event *e)
{
	if (t->running && --t->running == 0)
		t->busy += e->seconds - t->since;
	if (t->now == e->node)
		t->now = NULL;
}

static void
update(struct track *t, const struct event *e)
{
	switch (e->state) {
	case NODE_WAITS:   return;
	case NODE_REPLAYS:
	case NODE_RUNS:    begin_node(t, e); return;
	case NODE_DONE:
	case NODE_CUTOFF:  end_node(t, e); t->ran++; break;
	case NODE_FAILED:  end_node(t, e); t->failed++; break;
	case NODE_HIT:     t->hits++; break;
	case NODE_SKIPPED:
		if (t->now == e->node)    /* what it went on from failed while it ran */
			end_node(t, e);
		break;
	}
	t->finished++;
}

/* ---- live lines ---- */

static size_t
width_of(FILE *f)
{
	struct winsize w;

	return ioctl(fileno(f), TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

static void
erase(struct progress *p)
{
	if (p->shown > 0)
		fprintf(p->o.to, "\033[%dA\r\033[J", p->shown);
	p->shown = 0;
}

static void
draw_track(struct progress *p, const struct track *t, double now, size_t width)
{
	double share = ((double)t->finished + (t->now ? t->part : 0)) / (double)t->total;
	int full = (int)(share * BAR + 0.5);
	struct buf *b = &p->line;

	buf_clear(b);
	buf_printf(b, "%-9s [", t->stage->name);
	for (int i = 0; i < BAR; i++)
		buf_puts(b, i < full ? "=" : i == full ? ">" : " ");
	buf_puts(b, "] ");
	describe(t, now, b);
	fprintf(p->o.to, "%.*s\n", (int)(b->n < width ? b->n : width - 1), b->p);
	p->shown++;
}

static void
draw(struct progress *p, double now)
{
	size_t width = width_of(p->o.to);

	erase(p);
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].now)
			draw_track(p, &p->v[i], now, width);
	fflush(p->o.to);
	p->drawn = now;
}

/* ---- plain lines ---- */

static void
tell_end(struct progress *p, struct track *t, double now)
{
	const char *unit = t->unit ? t->unit : "nodes";
	char took[32];

	t->told = true;
	time_text(busy_seconds(t, now), took, sizeof(took));
	fprintf(p->o.to, "%-9s %zu %.*s", t->stage->name, t->total, (int)strlen(unit) - (t->total == 1), unit);
	if (t->hits)
		fprintf(p->o.to, ", %zu in the store", t->hits);
	if (t->failed)
		fprintf(p->o.to, ", %zu failed", t->failed);
	if (t->ran)
		fprintf(p->o.to, ", %zu ran in %s", t->ran, took);
	if (t->ran && *t->text)
		fprintf(p->o.to, ", %s", t->text);
	fprintf(p->o.to, "\n");
}

static void
tell(struct progress *p, struct track *t, double now)
{
	buf_clear(&p->line);
	describe(t, now, &p->line);
	fprintf(p->o.to, "%-9s %s\n", t->stage->name, buf_text(&p->line));
	t->last_line = now;
}

static void
on_state(struct progress *p, struct track *t, const struct event *e)
{
	update(t, e);
	if (e->state == NODE_FAILED) {
		erase(p);
		fprintf(p->o.to, "%s: failed: %s\n", e->node->name, e->text ? e->text : "no reason was given");
	}
	if (p->o.quiet)
		return;
	if (t->finished == t->total && !t->told) {
		erase(p);
		tell_end(p, t, e->seconds);
	} else if (!p->o.live && (e->state == NODE_DONE || e->state == NODE_CUTOFF) && e->seconds - t->last_line >= LINE_SECONDS) {
		tell(p, t, e->seconds);
	}
}

static void
on_progress(struct progress *p, struct track *t, const struct event *e)
{
	t->part = e->of > 0 ? e->done / e->of : 0;
	if (t->part > 1)
		t->part = 1;
	if (e->text)
		snprintf(t->text, sizeof(t->text), "%s", e->text);
	if (!p->o.quiet && !p->o.live && e->seconds - t->last_line >= ALIVE_SECONDS)
		tell(p, t, e->seconds);
}

static void
on_log(struct progress *p, const struct event *e)
{
	if (p->o.quiet)
		return;
	erase(p);
	fprintf(p->o.to, "%s%s%s%s\n", e->level == LOG_WARN ? "warning: " : "", e->node ? e->node->name : "", e->node ? ": " : "",
	        e->text ? e->text : "");
}

/* ---- events ---- */

json_t *
event_json(const struct event *e, const char *variant)
{
	static const char *const kinds[] = {
		[EV_START] = "start", [EV_STATE] = "state", [EV_PROGRESS] = "progress", [EV_LOG] = "log", [EV_END] = "end",
	};
	json_t *o = json_object();

	json_object_set_new(o, "event", json_string(kinds[e->kind]));
	json_object_set_new(o, "seconds", json_real(e->seconds));
	if (*variant)
		json_object_set_new(o, "variant", json_string(variant));
	if (e->node) {
		json_object_set_new(o, "stage", json_string(e->node->stage->name));
		json_object_set_new(o, "node", json_string(e->node->name));
	}
	if (e->kind == EV_STATE)
		json_object_set_new(o, "state", json_string(node_state_name(e->state)));
	if (e->kind == EV_PROGRESS) {
		json_object_set_new(o, "done", json_real(e->done));
		json_object_set_new(o, "of", json_real(e->of));
	}
	if (e->kind == EV_LOG)
		json_object_set_new(o, "level", json_string(e->level == LOG_WARN ? "warning" : "info"));
	if (e->text)
		json_object_set_new(o, "text", json_string(e->text));
	return o;
}

static void
write_event(struct progress *p, const struct event *e)
{
	json_t *o = event_json(e, p->o.variant);

	buf_clear(&p->line);
	json_write_line(o, &p->line);
	fprintf(p->o.events, "%s\n", buf_text(&p->line));
	fflush(p->o.events);
	json_decref(o);
}

void
progress_event(void *own, const struct event *e)
{
	struct progress *p = own;
	struct track *t = e->node ? track_of(p, e->node->stage) : NULL;

	if (p->o.events)
		write_event(p, e);
	if (e->kind == EV_STATE && t)
		on_state(p, t, e);
	else if (e->kind == EV_PROGRESS && t)
		on_progress(p, t, e);
	else if (e->kind == EV_LOG)
		on_log(p, e);
	if (p->o.live && !p->o.quiet && (e->kind == EV_END || !p->shown || e->seconds - p->drawn >= REDRAW_SECONDS))
		draw(p, e->seconds);
	else if (!p->o.live)
		fflush(p->o.to);
}

void
progress_close(struct progress *p)
{
	erase(p);
	fflush(p->o.to);
	buf_release(&p->line);
	free(p);
}
