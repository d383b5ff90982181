/*
 * How results are told: rows are JSON objects, from which the table for people and CSV are
 * made.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "kernels/base/cpu.h"

static json_t *roofs_json(const nb_bench_roofs *roofs)
{
    json_t *json = json_object();
    for (int i = 0; i < NB_ROOF_COUNT; i++)
        if (roofs->all[i] > 0)
            json_object_set_new(json, nb_roof_name((nb_roof)i),
                                json_pack("{s:s, s:f, s:f}", "instruction",
                                          roofs->instructions[i], "one_thread", roofs->one[i],
                                          "all_threads", roofs->all[i]));
    return json;
}

nb_status nb_bench_report_init(nb_bench_report *report, const nb_stream *s,
                               const nb_bench_roofs *roofs)
{
    char name[64];
    nb_cpu_name(name);
    *report = (nb_bench_report){
        .about = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:o}", "version", NB_VERSION,
                           "build", nb_build(), "processor", name, "threads", s->threads,
                           "compute", nb_compute_name(s->compute), "linear",
                           nb_ops_variant_name(s->device, "linear", s->compute), "attention",
                           nb_ops_variant_name(s->device, "attn", s->compute), "roofs",
                           roofs_json(roofs)),
        .rows = json_array(),
    };
    if (report->about && report->rows) return NB_OK;
    nb_bench_report_fini(report);
    return nb_fail(NB_E_SYSTEM, "out of memory for the results");
}

void nb_bench_report_fini(nb_bench_report *report)
{
    json_decref(report->about);
    json_decref(report->rows);
    *report = (nb_bench_report){0};
}

void nb_bench_set_stats(json_t *row, const nb_bench_stats *stats)
{
    json_object_set_new(row, "seconds", json_real(stats->median));
    json_object_set_new(row, "spread", json_real(stats->spread));
    json_object_set_new(row, "least", json_real(stats->least));
    json_object_set_new(row, "most", json_real(stats->most));
    json_object_set_new(row, "cpu_seconds", json_real(stats->cpu));
}

/* ---- text ---- */

enum { CELL_BYTES = 64 };

static void cell_text(const json_t *value, int digits, char text[CELL_BYTES])
{
    text[0] = 0;
    if (json_is_string(value)) snprintf(text, CELL_BYTES, "%s", json_string_value(value));
    if (json_is_integer(value))
        snprintf(text, CELL_BYTES, "%lld", (long long)json_integer_value(value));
    if (json_is_real(value)) snprintf(text, CELL_BYTES, "%.*f", digits, json_real_value(value));
}

/* Strings stand to the left, numbers to the right; a column is what its first value is. */
static int is_number(const nb_bench_report *r, const nb_bench_column *c)
{
    size_t i;
    json_t *row;
    json_array_foreach(r->rows, i, row)
    {
        const json_t *value = json_object_get(row, c->key);
        if (value) return json_is_number(value);
    }
    return 0;
}

/* A column that no row fills is left out. */
static int is_empty(const nb_bench_report *r, const nb_bench_column *c)
{
    size_t i;
    json_t *row;
    json_array_foreach(r->rows, i, row) if (json_object_get(row, c->key)) return 0;
    return 1;
}

static int width_of(const nb_bench_report *r, const nb_bench_column *c)
{
    char text[CELL_BYTES];
    size_t i, width = strlen(c->title);
    json_t *row;
    json_array_foreach(r->rows, i, row)
    {
        cell_text(json_object_get(row, c->key), c->digits, text);
        if (strlen(text) > width) width = strlen(text);
    }
    return (int)width;
}

static void print_about(const nb_bench_report *r)
{
    const json_t *about = r->about, *roof;
    const char *name;
    printf("%s, %lld threads; nibble %s, compute %s (%s)\n",
           json_string_value(json_object_get(about, "processor")),
           (long long)json_integer_value(json_object_get(about, "threads")), NB_VERSION,
           json_string_value(json_object_get(about, "compute")),
           json_string_value(json_object_get(about, "linear")));
    json_object_foreach(json_object_get(about, "roofs"), name, roof)
    {
        int is_read = !strcmp(name, nb_roof_name(NB_ROOF_READ));
        printf("roof %-5s %8.1f %s, one thread %8.1f (%s)\n", name,
               1e-9 * json_real_value(json_object_get(roof, "all_threads")),
               is_read ? "GB/s   " : "GFLOP/s",
               1e-9 * json_real_value(json_object_get(roof, "one_thread")),
               json_string_value(json_object_get(roof, "instruction")));
    }
    putchar('\n');
}

static void print_md(const nb_bench_report *r)
{
    char text[CELL_BYTES];
    size_t i;
    json_t *row;
    print_about(r);
    for (int line = -2; line < (int)json_array_size(r->rows); line++) {
        i = (size_t)line;
        row = line >= 0 ? json_array_get(r->rows, i) : NULL;
        for (int c = 0; c < r->n_columns; c++) {
            const nb_bench_column *column = &r->columns[c];
            int width = width_of(r, column), number = is_number(r, column);
            if (is_empty(r, column)) continue;
            if (row) cell_text(json_object_get(row, column->key), column->digits, text);
            if (line == -2) snprintf(text, sizeof text, "%s", column->title);
            if (line == -1) {
                memset(text, '-', (size_t)width);
                text[width] = 0;
                if (number) text[width - 1] = ':';
            }
            printf(number ? "| %*s " : "| %-*s ", width, text);
        }
        puts("|");
    }
    if (r->note) printf("\n%s\n", r->note);
}

/* A field with a comma or a quote in it is quoted. */
static void print_csv_field(const char *text)
{
    if (!strpbrk(text, ",\"\n")) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

/* Every row says what all of them have in common, so that files can be put together. */
static void print_csv(const nb_bench_report *r)
{
    static const char *const common[] = {"processor", "threads", "compute"};
    char text[CELL_BYTES];
    size_t i;
    json_t *row;
    for (size_t c = 0; c < NB_COUNT(common); c++) printf("%s,", common[c]);
    for (int c = 0; c < r->n_columns; c++) printf("%s%s", c ? "," : "", r->columns[c].key);
    putchar('\n');
    json_array_foreach(r->rows, i, row)
    {
        for (size_t c = 0; c < NB_COUNT(common); c++) {
            cell_text(json_object_get(r->about, common[c]), 0, text);
            print_csv_field(text);
            putchar(',');
        }
        for (int c = 0; c < r->n_columns; c++) {
            cell_text(json_object_get(row, r->columns[c].key), 6, text);
            if (c) putchar(',');
            print_csv_field(text);
        }
        putchar('\n');
    }
}

nb_status nb_bench_print(const nb_bench_report *r, nb_bench_format format)
{
    if (format == NB_BENCH_JSON) {
        json_t *all = json_copy(r->about);
        if (all) json_object_set(all, "results", r->rows);
        return nb_print_json(all);
    }
    if (format == NB_BENCH_CSV)
        print_csv(r);
    else
        print_md(r);
    return nb_stdout_flush();
}
