/*
 * nibble doctor: what this machine has, what nibble would use of it, and whether every variant
 * of every operation that runs here agrees with its reference.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/common.h"
#include "cli/measure.h"
#include "kernels/base/cpu.h"
#include "kernels/ops.h"
#include "tests/check/check.h"

struct doctor_options {
    nb_common_options common;
    int check;
    const char *op;
};

#define AT(field) offsetof(struct doctor_options, field)

static const nb_option options[] = {
    {.name = "check",
     .type = NB_OPTION_FLAG,
     .fallback = "yes",
     .offset = AT(check),
     .help = "do not compare the operations with their references"},
    {.name = "op",
     .type = NB_OPTION_STRING,
     .value = "NAME",
     .offset = AT(op),
     .help = "compare this operation alone: linear, attn ..."},
};

static const char *const ops[] = {"linear",   "attn",       "conv2d", "layer_norm",
                                  "rms_norm", "group_norm", "rope"};

/* What the harness said. */
struct findings {
    nb_console *console;
    int n_ok, n_skipped;
    json_t *failures; /* its lines about variants that failed */
};

static void take_line(void *arg, const char *line)
{
    struct findings *f = arg;
    if (strstr(line, " FAILED "))
        json_array_append_new(f->failures, json_string(line));
    else if (!strncmp(line, "SKIP", 4))
        f->n_skipped++;
    else if (strstr(line, " ok ("))
        f->n_ok++;
    nb_console_say(f->console, NB_LOG_DEBUG, "%s", line);
}

/* A figure of /proc/meminfo in bytes, 0 if it is not there. */
static int64_t memory_figure(const char *key)
{
    char line[128];
    int64_t bytes = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
            bytes = strtoll(line + strlen(key) + 1, NULL, 10) * 1024;
    if (f) fclose(f);
    return bytes;
}

static json_t *capabilities(void)
{
    json_t *names = json_array();
    for (int i = 0; i < NB_CPU_N_CAPS; i++)
        if (nb_cpu_caps() & (1u << i))
            json_array_append_new(names, json_string(nb_cpu_cap_name(i)));
    return names;
}

static json_t *variants(const nb_device *device, nb_compute compute)
{
    json_t *names = json_object();
    for (size_t i = 0; i < NB_COUNT(ops); i++)
        json_object_set_new(names, ops[i],
                            json_string(nb_ops_variant_name(device, ops[i], compute)));
    return names;
}

/* Which linear each policy would run. */
static json_t *linears(const nb_device *device)
{
    json_t *names = json_object();
    for (int i = 0; i < NB_COMPUTE_COUNT; i++)
        json_object_set_new(names, nb_compute_name((nb_compute)i),
                            json_string(nb_ops_variant_name(device, "linear", (nb_compute)i)));
    return names;
}

/* What --compute means for weights of 16 bits and more, and of few. */
struct computes {
    nb_compute plain, quantised;
};

/* Everything but the check. */
static json_t *describe(const nb_device *device, const struct computes *computes)
{
    char name[64], *demo = NULL;
    nb_cpu_name(name);
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:i, s:o, s:I, s:I, s:s, s:s, s:s, s:o, s:o}", "version",
                  NB_VERSION, "build", nb_build(), "processor", name, "processors",
                  nb_cpu_count(), "instruction_sets", capabilities(), "memory_bytes",
                  (json_int_t)memory_figure("MemTotal"), "memory_available_bytes",
                  (json_int_t)memory_figure("MemAvailable"), "device", nb_device_name(device),
                  "compute", nb_compute_name(computes->plain), "compute_quantised",
                  nb_compute_name(computes->quantised), "variants",
                  variants(device, computes->plain), "libraries", nb_libraries());
    json_object_set_new(json, "linears", linears(device));
    if (nb_model_resolve(NULL, &demo) == NB_OK)
        json_object_set_new(json, "demo", json_string(demo));
    free(demo);
    return json;
}

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "none";
}

static void print_description(json_t *json)
{
    char total[NB_AMOUNT_BYTES], available[NB_AMOUNT_BYTES];
    const char *key;
    size_t i;
    json_t *value;
    printf("nibble            %s, %s\n", text_of(json, "version"), text_of(json, "build"));
    printf("processor         %s, %d to use\n", text_of(json, "processor"), nb_cpu_count());
    printf("instruction sets ");
    json_array_foreach(json_object_get(json, "instruction_sets"), i, value)
        printf("%s %s", i ? "," : "", json_string_value(value));
    if (!json_array_size(json_object_get(json, "instruction_sets"))) printf(" none beyond C");
    printf("\nmemory            %s, %s available\n",
           nb_amount_text((double)memory_figure("MemTotal"), "B", total),
           nb_amount_text((double)memory_figure("MemAvailable"), "B", available));
    printf("libraries        ");
    i = 0;
    json_object_foreach(json_object_get(json, "libraries"), key, value)
        printf("%s %s %s", i++ ? "," : "", key, json_string_value(value));
    printf("\nbuilt-in demo     %s\n", text_of(json, "demo"));
    const char *compute = text_of(json, "compute"), *few = text_of(json, "compute_quantised");
    printf("would use         device %s, compute %s", text_of(json, "device"), compute);
    if (strcmp(compute, few) != 0)
        printf(", of transformers with FP8, FP4 or GGUF weights %s", few);
    printf(":\n                 ");
    i = 0;
    json_object_foreach(json_object_get(json, "variants"), key, value)
        printf("%s %s %s", i++ ? "," : "", key, json_string_value(value));
    printf("\nlinears          ");
    i = 0;
    json_object_foreach(json_object_get(json, "linears"), key, value)
        printf("%s %s %s", i++ ? "," : "", key, json_string_value(value));
    putchar('\n');
}

static nb_status run_check(const struct doctor_options *o, struct findings *f)
{
    nb_check_options check = {.op = o->op, .quick = 1, .print = take_line, .arg = f};
    int n_failed = nb_check_run(&check);
    if (n_failed < 0) return nb_fail(NB_E_USAGE, "--op: there is no operation %.60s", o->op);
    return NB_OK;
}

static void print_findings(const struct findings *f)
{
    size_t i;
    json_t *line;
    json_array_foreach(f->failures, i, line)
        printf("FAILED            %s\n", json_string_value(line));
    printf("check             %d variants agree with their references, %zu do not\n", f->n_ok,
           json_array_size(f->failures));
}

static nb_status examine(const struct doctor_options *o, json_t *json, struct findings *f)
{
    int as_json = o->common.json;
    if (!as_json) print_description(json);
    if (o->check) {
        NB_TRY(nb_stdout_flush()); /* the harness forks */
        NB_TRY(run_check(o, f));
        if (!as_json) print_findings(f);
        json_object_set_new(json, "check",
                            json_pack("{s:i, s:i, s:O}", "ok", f->n_ok, "skipped", f->n_skipped,
                                      "failures", f->failures));
    }
    if (as_json) NB_TRY(nb_print_json(json_incref(json)));
    size_t n_failed = json_array_size(f->failures);
    if (n_failed == 0) return NB_OK;
    return nb_fail(NB_E_UNAVAILABLE,
                   "%zu variant%s computed otherwise than the reference on this machine",
                   n_failed, n_failed == 1 ? "" : "s");
}

static nb_status resolve(const nb_common_options *common, const nb_device *device,
                         struct computes *out)
{
    nb_arithmetic plain, quantised;
    NB_TRY(nb_machine_compute(common, device, NULL, &plain));
    quantised = plain;
    if (*plain.why) nb_arithmetic_choose(device, "FP4", &quantised);
    *out = (struct computes){plain.compute, quantised.compute};
    return NB_OK;
}

static nb_status run(void *values, const nb_parsed *parsed)
{
    const struct doctor_options *o = values;
    struct findings findings = {.console = o->common.console};
    nb_device *device;
    struct computes computes;
    if (parsed->n_words)
        return nb_fail(NB_E_USAGE, "doctor: wanted no words, found %.60s", parsed->words[0]);
    NB_TRY(nb_machine_open(&o->common, &device));
    nb_status status = resolve(&o->common, device, &computes);
    json_t *json = status ? NULL : describe(device, &computes);
    findings.failures = json_array();
    if (!status)
        status = json && findings.failures ? examine(o, json, &findings)
                                           : nb_fail(NB_E_SYSTEM, "out of memory");
    json_decref(findings.failures);
    json_decref(json);
    nb_device_close(device);
    return status;
}

const nb_command nb_command_doctor = {
    .name = "doctor",
    .summary = "say what this machine has and whether it computes right",
    .usage = "",
    .about = "Exit code 0: everything agrees. 69: the device is not there, or a variant of an\n"
             "operation computes otherwise than the reference here.\n",
    .examples = "nibble doctor\n"
                "nibble doctor --no-check\n"
                "nibble doctor -v --op attn\n"
                "nibble doctor --json\n",
    .groups = {{"Check", options, NB_COUNT(options)}, NB_MACHINE_GROUP, NB_MESSAGE_GROUP},
    .bytes = sizeof(struct doctor_options),
    .run = run,
};
