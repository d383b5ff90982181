"""LoRA files in every dialect for the small pipeline `dev`, and diffusers' pictures with them: flux/lora-*.

    make_lora.py [-o FOLDER]        as make_flux.py, whose versions and conventions hold; peft 0.21.2

One set of random factors ("all": every linear layer of the blocks, the embedders and the final layer) is written in the names of
PEFT, kohya, ComfyUI, BFL and OneTrainer, fused where BFL's layers are fused, with alpha as each dialect has it; another one
("attention": what XLabs' trainers reach) in XLabs' names. diffusers' load_lora_weights reads the PEFT and XLabs files as they are
and kohya's by its converter, whose constants of the inner width are FLUX.1's and are replaced (it loses the embedders and the final
layer, so that only the blocks are compared); the answers must be one. The other dialects have the same expected files, as links. Text encoders: CLIP by load_lora_weights, T5 (which diffusers drops) by adding the
product to the weights.
"""
import argparse
import inspect
import json
import os
import shutil

import torch
from diffusers import FluxPipeline
from diffusers.loaders import lora_conversion_utils, lora_pipeline
from safetensors.torch import load_file, save_file

import make_flux as flux

F32, F16, BF16 = flux.F32, flux.F16, flux.BF16
D = flux.TRANSFORMER["num_attention_heads"] * flux.TRANSFORMER["attention_head_dim"]
CASE = dict(model="dev", prompt="a photo of a cat, on Mars", seed=31, size=(48, 32), steps=2, t5_length=16)
PREFIX = {"kohya": "lora_unet_", "comfy": "diffusion_model.", "bfl": "", "onetrainer": "lora_transformer_", "peft": "transformer."}


def random(gen, *shape, gain=1.0):
    return (torch.randn(shape, generator=gen) * gain * shape[-1] ** -0.5).to(BF16).to(F32)


def layers(model):
    """BFL's module -> (diffusers' modules, rows of each, columns)"""
    size = {k.removesuffix(".weight"): v.shape for k, v in model.state_dict().items() if v.ndim == 2}
    out = {}

    def put(bfl, *names):
        out[bfl] = (names, [size[n][0] for n in names], size[names[0]][1])

    for i in range(flux.TRANSFORMER["num_layers"]):
        a, b = f"transformer_blocks.{i}", f"double_blocks.{i}"
        put(f"{b}.img_mod.lin", f"{a}.norm1.linear")
        put(f"{b}.txt_mod.lin", f"{a}.norm1_context.linear")
        put(f"{b}.img_attn.qkv", *(f"{a}.attn.to_{x}" for x in "qkv"))
        put(f"{b}.txt_attn.qkv", *(f"{a}.attn.add_{x}_proj" for x in "qkv"))
        put(f"{b}.img_attn.proj", f"{a}.attn.to_out.0")
        put(f"{b}.txt_attn.proj", f"{a}.attn.to_add_out")
        for side, ff in (("img", "ff"), ("txt", "ff_context")):
            put(f"{b}.{side}_mlp.0", f"{a}.{ff}.net.0.proj")
            put(f"{b}.{side}_mlp.2", f"{a}.{ff}.net.2")
    for i in range(flux.TRANSFORMER["num_single_layers"]):
        a, b = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        put(f"{b}.modulation.lin", f"{a}.norm.linear")
        put(f"{b}.linear1", *(f"{a}.attn.to_{x}" for x in "qkv"), f"{a}.proj_mlp")
        put(f"{b}.linear2", f"{a}.proj_out")
    for bfl, name in (("img_in", "x_embedder"), ("txt_in", "context_embedder"), ("final_layer.linear", "proj_out"),
                      ("final_layer.adaLN_modulation.1", "norm_out.linear")):
        put(bfl, name)
    for bfl, name in (("time_in", "timestep"), ("guidance_in", "guidance"), ("vector_in", "text")):
        put(f"{bfl}.in_layer", f"time_text_embed.{name}_embedder.linear_1")
        put(f"{bfl}.out_layer", f"time_text_embed.{name}_embedder.linear_2")
    return out


def factors(model, gen, only=lambda bfl: True):
    """BFL's module -> (down, up in BFL's order of rows, alpha); ranks differ"""
    out = {}
    for i, (bfl, (_, rows, k)) in enumerate(layers(model).items()):
        rank = 3 if i % 4 == 0 else 2
        if only(bfl):
            out[bfl] = (random(gen, rank, k), random(gen, sum(rows), rank, gain=0.5), rank * (0.5 if i % 3 else 2.0))
    return out


def swap(up):
    return torch.cat(up.chunk(2)[::-1])


def write_bfl(path, pairs, dialect):
    flat, down, up = dialect == "kohya", ".lora_down.weight", ".lora_up.weight"
    if dialect == "bfl":
        down, up = ".lora_A.weight", ".lora_B.weight"
    out = {}
    for bfl, (a, b, alpha) in pairs.items():
        name = PREFIX[dialect] + (bfl.replace(".", "_") if flat else bfl)
        scale = alpha / len(a) if dialect == "bfl" else 1.0     # BFL's files have no alpha
        out[name + down], out[name + up] = a.to(BF16), (b * scale).to(BF16)
        if dialect != "bfl":
            out[name + ".alpha"] = torch.tensor(alpha, dtype=F32)
    save_file(out, path, {"ss_network_module": "networks.lora_flux"} if flat else None)


def split(pairs, model):
    """diffusers' module -> (down, up, alpha)"""
    out = {}
    for bfl, (names, rows, _) in layers(model).items():
        if bfl in pairs:
            a, b, alpha = pairs[bfl]
            b = swap(b) if bfl.startswith("final_layer.ada") else b
            for name, part in zip(names, b.split(rows)):
                out[name] = (a, part.contiguous(), alpha)
    return out


def write_peft(path, pairs, model):
    """alpha in the header, as save_lora_weights leaves it"""
    out, parts = {}, split(pairs, model)
    for name, (a, b, _) in parts.items():
        out[f"transformer.{name}.lora_A.weight"], out[f"transformer.{name}.lora_B.weight"] = a.to(BF16), b.to(BF16)
    meta = {"r": 2, "lora_alpha": 1.0, "use_rslora": False,
            "rank_pattern": {"^" + n: len(a) for n, (a, _, _) in parts.items() if len(a) != 2},
            "alpha_pattern": {"^" + n: alpha for n, (_, _, alpha) in parts.items() if alpha != 1.0}}
    meta["target_modules"] = sorted(parts)
    save_file(out, path, {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in meta.items()})})


def write_onetrainer(path, pairs, model):
    out = {}
    for name, (a, b, alpha) in split(pairs, model).items():
        name = "lora_transformer_" + name.replace(".", "_")
        out[name + ".lora_down.weight"], out[name + ".lora_up.weight"] = a.to(F16), b.to(F16)
        out[name + ".alpha"] = torch.tensor(alpha, dtype=F16)
    save_file(out, path)


XLABS = {"img_attn.qkv": "qkv_lora1", "txt_attn.qkv": "qkv_lora2", "img_attn.proj": "proj_lora1", "txt_attn.proj": "proj_lora2",
         "linear1": "qkv_lora", "linear2": "proj_lora"}


def write_xlabs(path, pairs):
    out = {}
    for bfl, (a, b, _) in pairs.items():
        block, i, module = bfl.split(".", 2)
        name = f"{block}.{i}.processor.{XLABS[module]}"
        b = b[:3 * D].contiguous() if module == "linear1" else b
        out[f"{name}.down.weight"], out[f"{name}.up.weight"] = a, b
    save_file(out, path)


def write_text(path, pipe, gen):
    """-> T5's products, which diffusers does not read"""
    out, t5 = {}, {}
    for i in range(flux.CLIP["num_hidden_layers"]):
        for module, n, k in (("self_attn.q_proj", 32, 32), ("self_attn.out_proj", 32, 32), ("mlp.fc1", 72, 32), ("mlp.fc2", 32, 72)):
            name = f"lora_te1_text_model.encoder.layers.{i}.{module}".replace(".", "_")
            out[name + ".lora_down.weight"], out[name + ".lora_up.weight"] = random(gen, 2, k), random(gen, n, 2, gain=0.5)
            out[name + ".alpha"] = torch.tensor(1.0)
    for name, p in pipe.text_encoder_2.named_parameters():
        module = name.removesuffix(".weight")
        if p.ndim == 2 and ("SelfAttention" in name or "DenseReluDense" in name) and "bias" not in name:
            flat = "lora_te3_" + module.replace(".", "_")
            a, b = random(gen, 2, p.shape[1]), random(gen, p.shape[0], 2, gain=0.3)
            out[flat + ".lora_down.weight"], out[flat + ".lora_up.weight"] = a, b
            out[flat + ".alpha"] = torch.tensor(3.0)
            t5[name] = 3.0 / 2 * b @ a
    save_file(out, path)
    return t5


# ---------------------------------------------------------------- the reference

def small_converter():
    """kohya's converter with this model's widths in the place of FLUX.1's"""
    name = "_convert_kohya_flux_lora_to_diffusers"
    text = inspect.getsource(getattr(lora_conversion_utils, name))
    assert text.count("[3072, 3072, 3072, 12288]") == 1
    names = dict(vars(lora_conversion_utils))
    exec(text.replace("[3072, 3072, 3072, 12288]", f"[{D}, {D}, {D}, {4 * D}]"), names)
    setattr(lora_pipeline, name, names[name])


def answer(root, load):
    """make_flux.run with `load(pipe)` before the picture"""
    def opened(folder, dtype):
        pipe = flux.load_pipeline(folder, dtype)
        load(pipe)
        return pipe
    flux.CASES["lora"] = CASE
    return flux.run(root, "lora", load=opened)


def by_diffusers(*files):
    def load(pipe):
        for i, (path, weight) in enumerate(files):
            pipe.load_lora_weights(path, adapter_name=f"lora{i}")
        pipe.set_adapters([f"lora{i}" for i in range(len(files))], [w for _, w in files])
    return load


def by_merging(files, t5=None):
    """files: (BFL's factors, weight)"""
    def load(pipe):
        with torch.no_grad():
            for pairs, weight in files:
                for name, (a, b, alpha) in split(pairs, pipe.transformer).items():
                    pipe.transformer.get_submodule(name).weight += weight * alpha / len(a) * b @ a
            for name, product in (t5 or {}).items():
                pipe.text_encoder_2.get_parameter(name).add_(product)
    return load


def distance(a, b):
    return max(((a[k].double() - b[k].double()).abs().max() / (b[k].max() - b[k].min())).item()
               for k in b if b[k].numel() > 1 and k != "noise")


def save(root, case, result, args, like=None):
    folder = f"{root}/{case}"
    tensors, pictures, ids = result
    args = flux.arguments(CASE) + args
    spec = {"model": f"../models/{CASE['model']}", "args": args, **ids}
    if like is None:
        flux.save_case(folder, tensors, pictures, spec)
        return
    for f in ("expected.safetensors", "expected.png"):
        os.symlink(f"../{like}/{f}", f"{folder}/{f}")
    flux.tiny_tokenizers.dump(f"{folder}/case.json", spec)


def fresh(root, case):
    shutil.rmtree(f"{root}/{case}", ignore_errors=True)
    os.makedirs(f"{root}/{case}")
    return f"{root}/{case}/lora.safetensors"


def make_all(root):
    gen = torch.Generator().manual_seed(31)
    model = flux.load_transformer(f"{root}/models/{CASE['model']}/transformer")
    pairs = factors(model, gen)
    at = {d: fresh(root, f"lora-{d}") for d in ("peft", "kohya", "comfy", "bfl", "onetrainer")}
    write_peft(at["peft"], pairs, model)
    for dialect in ("kohya", "comfy", "bfl"):
        write_bfl(at[dialect], pairs, dialect)
    write_onetrainer(at["onetrainer"], pairs, model)
    weight = 0.75
    good = answer(root, by_diffusers((at["peft"], weight)))
    merged = answer(root, by_merging([(pairs, weight)]))
    plain = answer(root, lambda pipe: None)
    print(f"PEFT by diffusers against merged weights {distance(good[0], merged[0]):.1e}, against no LoRA {distance(plain[0], good[0]):.1e}")
    small_converter()
    by_kohya = answer(root, by_diffusers((at["kohya"], weight)))
    blocks = answer(root, by_merging([({k: v for k, v in pairs.items() if "blocks" in k}, weight)]))
    print(f"kohya by diffusers against merged blocks {distance(by_kohya[0], blocks[0]):.1e}")
    use = ["--lora", f"@CASE@/lora.safetensors:{weight}"]
    save(root, "lora-peft", good, use)
    for dialect in ("kohya", "comfy", "bfl", "onetrainer"):
        save(root, f"lora-{dialect}", good, use, "lora-peft")

    attention = factors(model, gen, lambda bfl: "blocks" in bfl and bfl.split(".", 2)[2] in XLABS)
    path = fresh(root, "lora-xlabs")
    write_xlabs(path, attention)
    save(root, "lora-xlabs", answer(root, by_diffusers((path, 1.0))), ["--lora", "@CASE@/lora.safetensors"])

    path = fresh(root, "lora-text")
    t5 = write_text(path, flux.load_pipeline(f"{root}/models/{CASE['model']}"), gen)
    files = [("../lora-kohya/lora.safetensors", 0.5), ("../lora-xlabs/lora.safetensors", -0.5), ("lora.safetensors", 1.0)]

    def several(pipe):
        by_merging([], t5)(pipe)
        by_diffusers(*((f"{root}/lora-text/{f.replace('kohya', 'peft')}", w) for f, w in files))(pipe)
    args = [x for f, w in files for x in ("--lora", f"@CASE@/{f}" + ("" if w == 1 else f":{w}"))]
    save(root, "lora-text", answer(root, several), args)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{flux.HERE}/flux", help="output folder")
    opt = ap.parse_args()
    flux.calm()
    make_all(opt.o)


if __name__ == "__main__":
    main()
