#include "pipeline/calibrate.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/observe.h"

/* Of one matrix. Sums are doubles: rows of many pictures are added. */
struct seen {
    char *module;
    int64_t k, rows;
    double *sums;  /* [k] */
    uint32_t amax; /* bits of the largest magnitude, which order as magnitudes do, NaN last */
    float *means;  /* [k], made at the end */
};

struct nb_calibration {
    const nb_pipeline *pipeline;
    struct seen *seen;
    int n, room;
    nb_status status; /* the first shortage of memory */
};

/* "X" of a tensor "X.weight" or "X.weight_packed"; 0 if it is called otherwise. */
static size_t module_length(const char *tensor)
{
    static const char *const tails[] = {".weight", ".weight_packed"};
    size_t n = strlen(tensor);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t t = strlen(tails[i]);
        if (n > t && !strcmp(tensor + n - t, tails[i])) return n - t;
    }
    return 0;
}

static struct seen *find(const nb_calibration *c, const char *module, size_t length)
{
    for (int i = 0; i < c->n; i++)
        if (!strncmp(c->seen[i].module, module, length) && !c->seen[i].module[length])
            return &c->seen[i];
    return NULL;
}

static struct seen *add(nb_calibration *c, const char *module, size_t length, int64_t k)
{
    if (c->n == c->room) {
        int room = c->room ? 2 * c->room : 64;
        struct seen *grown = realloc(c->seen, (size_t)room * sizeof *grown);
        if (!grown) return NULL;
        c->seen = grown;
        c->room = room;
    }
    struct seen new = {
        .module = strndup(module, length), .k = k, .sums = calloc((size_t)k, sizeof(double))};
    if (!new.module || !new.sums) {
        free(new.module);
        free(new.sums);
        return NULL;
    }
    c->seen[c->n] = new;
    return &c->seen[c->n++];
}

static void take_row(struct seen *seen, const float *x)
{
    for (int64_t i = 0; i < seen->k; i++) {
        uint32_t magnitude = nb_f32_bits(x[i]) & 0x7fffffffu;
        seen->sums[i] += (double)x[i] * x[i];
        if (magnitude > seen->amax) seen->amax = magnitude;
    }
}

/* Sees every linear before it runs. A matrix is known by the tensor that its rows lie in: the
 * parts of a fused one share their input, and with it their name. */
static void observe(void *arg, const nb_op_call *call)
{
    if (call->op != NB_OP_LINEAR) return;
    const nb_linear_args *a = call->args;
    nb_calibration *c = arg;
    const char *tensor = nb_pipeline_tensor_at(c->pipeline, a->w->data);
    size_t length = tensor ? module_length(tensor) : 0;
    if (!length || c->status) return;
    struct seen *seen = find(c, tensor, length);
    if (!seen) seen = add(c, tensor, length, a->w->k);
    if (!seen) {
        c->status = nb_fail(NB_E_SYSTEM, "out of memory for calibration");
        return;
    }
    if (seen->k != a->w->k) return;
    for (int64_t m = 0; m < a->x.shape[0]; m++)
        take_row(seen, nb_tensor_f32(a->x) + m * a->x.stride[0]);
    seen->rows += a->x.shape[0];
}

static nb_status make_means(nb_calibration *c)
{
    for (int i = 0; i < c->n; i++) {
        struct seen *seen = &c->seen[i];
        seen->means = malloc((size_t)seen->k * sizeof(float));
        if (!seen->means) return nb_fail(NB_E_SYSTEM, "out of memory for calibration");
        for (int64_t j = 0; j < seen->k; j++)
            seen->means[j] = (float)(seen->sums[j] / (double)seen->rows);
    }
    return NB_OK;
}

static nb_status draw(nb_calibration *c, nb_pipeline *p, nb_stream *s,
                      const nb_txt2img_request *request)
{
    const nb_txt2img_callbacks callbacks = {0};
    nb_txt2img_result result;
    const nb_observer observer = {.before = observe, .arg = c};
    s->observer = &observer;
    nb_status status = nb_txt2img(p, s, request, &callbacks, &result);
    s->observer = NULL;
    return status ? status : c->status;
}

nb_status nb_calibrate(nb_pipeline *p, nb_stream *s, const nb_txt2img_request *request,
                       const char *const *prompts, int n_prompts,
                       void (*progress)(void *arg, int prompt), void *arg, nb_calibration **out)
{
    nb_calibration *c = calloc(1, sizeof *c);
    if (!c) return nb_fail(NB_E_SYSTEM, "out of memory for calibration");
    nb_status status = NB_OK;
    c->pipeline = p;
    for (int i = 0; i < n_prompts && !status; i++) {
        nb_txt2img_request r = *request;
        r.prompt = prompts[i];
        r.seed += (uint64_t)i;
        if (progress) progress(arg, i);
        status = draw(c, p, s, &r);
    }
    if (!status) status = make_means(c);
    if (status)
        nb_calibration_destroy(c);
    else
        *out = c;
    return status;
}

void nb_calibration_destroy(nb_calibration *c)
{
    if (!c) return;
    for (int i = 0; i < c->n; i++) {
        free(c->seen[i].module);
        free(c->seen[i].sums);
        free(c->seen[i].means);
    }
    free(c->seen);
    free(c);
}

const float *nb_calibration_importance(void *arg, const char *module, int64_t k)
{
    const struct seen *seen = find(arg, module, strlen(module));
    return seen && seen->k == k ? seen->means : NULL;
}

float nb_calibration_amax(void *arg, const char *module, int64_t k)
{
    const struct seen *seen = find(arg, module, strlen(module));
    return seen && seen->k == k ? nb_f32_from_bits(seen->amax) : 0.0f;
}

int nb_calibration_count(const nb_calibration *c)
{
    return c->n;
}
