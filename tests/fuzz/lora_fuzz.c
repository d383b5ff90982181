/*
 * LoRA files, for one small model of all three parts: names, scales, and what they add to
 * matrices and biases. An input is a list of tensors (tests/fuzz/listed.h); the first byte says
 * whether unknown names are left out.
 */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "models/canonical.h"
#include "models/lora.h"
#include "tests/fuzz/bound.h"
#include "tests/fuzz/listed.h"
#include "tests/fuzz/target.h"

/* BFL's names, so that matrices are fused in files and split here: q, k and v of 12 rows. */
static const char model_text[] = "double_blocks.0.img_attn.qkv.weight F32 36 12\n"
                                 "double_blocks.0.img_attn.qkv.bias F32 36\n"
                                 "double_blocks.0.txt_attn.proj.weight F16 12 12\n"
                                 "double_blocks.0.img_mod.lin.weight F32 72 12\n"
                                 "double_blocks.0.img_mod.lin.bias F32 72\n"
                                 "single_blocks.0.linear1.weight BF16 52 12\n"
                                 "single_blocks.0.linear1.bias BF16 52\n"
                                 "single_blocks.0.linear2.weight F32 12 28\n"
                                 "single_blocks.0.linear2.bias F32 12\n"
                                 "img_in.weight F32 12 3\n"
                                 "final_layer.adaLN_modulation.1.weight F32 24 12\n"
                                 "final_layer.adaLN_modulation.1.bias F32 24\n"
                                 "text_model.encoder.layers.0.self_attn.q_proj.weight F32 4 4\n"
                                 "text_model.encoder.layers.0.self_attn.q_proj.bias F32 4\n"
                                 "text_model.encoder.layers.0.mlp.fc1.weight F32 8 4\n"
                                 "encoder.block.0.layer.0.SelfAttention.o.weight F32 4 8\n"
                                 "encoder.block.0.layer.1.DenseReluDense.wi_0.weight F32 8 4\n";

static nb_checkpoint *model(void)
{
    static nb_checkpoint *c;
    char path[LISTED_PATH_BYTES];
    if (c) return c;
    int fd = listed_file((const uint8_t *)model_text, sizeof model_text - 1);
    listed_path(fd, path);
    must(!nb_canonical_open(path, &c));
    close(fd);
    return c;
}

static void check_summary(const nb_checkpoint *file, const char *path)
{
    nb_lora_summary s;
    (void)path;
    if (!nb_lora_summarise(file, &s)) return;
    must(s.dialect && s.family && s.n_modules >= 0 && s.n_unknown >= 0);
    must(s.least_rank >= 0 && s.least_rank <= s.largest_rank);
}

static void open_loras(const char *path, int lenient, nb_compute compute)
{
    nb_checkpoint *c = model();
    const nb_checkpoint *models[] = {c};
    nb_lora_use use[2] = {{.path = path, .weight = 0.5}, {.path = path, .weight = -2}};
    nb_lora_options options = {.lenient = lenient, .compute = compute};
    nb_loras *l;
    if (refused(nb_loras_open(use, 2, &options, models, 1, &l), path)) return;
    must(nb_loras_n_files(l) == 2 && nb_loras_n_terms(l) > 0);
    check_summary(nb_loras_file(l, 0), path);
    nb_checkpoint_set_loras(c, l);
    read_layers(c);
    nb_checkpoint_set_loras(c, NULL);
    nb_loras_close(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[LISTED_PATH_BYTES];
    if (!size) return 0;
    int fd = listed_file(data + 1, size - 1);
    listed_path(fd, path);
    open_loras(path, data[0] & 1, data[0] & 2 ? NB_COMPUTE_BF16 : NB_COMPUTE_F32);
    close(fd);
    return 0;
}
