"""A FLUX.1 pipeline whose transformer and T5 are GGUF files: models/gguf, flux/gguf.

    make_gguf_flux.py [-o FOLDER]     gguf 0.19.0, and the versions and conventions of make_flux.py

Named as city96's converter and llama.cpp name such files: BFL's names for the transformer, token_embd and enc.blk.N for
T5; vectors in F32.  Every block type is there.  Where the package has no quantiser (the K types) a matrix is random
blocks of the spread that the weights had.  VAE, CLIP and tokenizers are those of models/single.  diffusers is given
what the package expands the blocks to.
"""
import argparse
import itertools
import os
import shutil
import tempfile

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type, quants
from safetensors.torch import save_file

import make_flux as flux
import make_gguf
import make_single as single

TRANSFORMER = dict(single.TRANSFORMER, joint_attention_dim=256)
T5 = dict(single.T5, d_model=256, d_ff=256)
SMALL = ("Q8_0", "Q4_0", "Q5_1", "F16", "Q4_1", "Q5_0", "BF16")
LARGE = ("Q4_K", "Q6_K", "Q5_K", "Q3_K", "Q2_K", "Q4_K")
# What centres q * scale - min: the middle of q in units of dmin / d, at equal scale and min.
CENTRE = dict(Q2_K=1.5, Q4_K=7.5, Q5_K=15.5)
T5_NAMES = {"shared": "token_embd", "encoder.final_layer_norm": "enc.output_norm"}
T5_PARTS = {"layer.0.SelfAttention.q": "attn_q", "layer.0.SelfAttention.k": "attn_k", "layer.0.SelfAttention.v": "attn_v",
            "layer.0.SelfAttention.o": "attn_o", "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
            "layer.0.layer_norm": "attn_norm", "layer.1.DenseReluDense.wi_0": "ffn_gate",
            "layer.1.DenseReluDense.wi_1": "ffn_up", "layer.1.DenseReluDense.wo": "ffn_down", "layer.1.layer_norm": "ffn_norm"}
flux.CASES["gguf"] = dict(model="gguf", prompt="a photo of the small horse, beside a river", seed=22, size=(48, 64), steps=2,
                          t5_length=24, noise="bf16")


def k_blocks(rng, name, w):
    """random blocks of type `name` in the shape and with the spread of w -> bytes"""
    rows, columns = w.shape
    size = gguf.GGML_QUANT_SIZES[Type[name]][1]
    blocks = rng.integers(0, 256, (rows * columns // 256, size), dtype=np.uint8)
    at = make_gguf.HALVES[name]

    def put(d):
        for place, factor in zip(at, (1, CENTRE.get(name))):
            blocks[:, place:place + 2] = np.float16(d * factor).reshape(-1, 1).view(np.uint8)

    put(np.ones(len(blocks), np.float32))
    spread = quants.dequantize(blocks, Type[name]).std(1)
    put(w.std() / spread)
    return blocks.reshape(rows, -1)


def add(out, expanded, rng, name, w, kinds):
    """a tensor to the writer, and what it expands to"""
    w = w.to(torch.float32).numpy()
    kind = "F32"
    if w.ndim == 2 and min(w.shape) > 2:
        kind = next(kinds["K" if w.shape[1] % 256 == 0 else "32"]) if w.shape[1] % 32 == 0 else "F16"
    if kind == "F32":
        out.add_tensor(name, w)
        expanded[name] = torch.from_numpy(w.copy())
        return
    data = k_blocks(rng, kind, w) if kind.endswith("K") else quants.quantize(w, Type[kind])
    if kind in ("F16", "F32"):
        out.add_tensor(name, data)
    else:
        out.add_tensor(name, data, raw_dtype=Type[kind])
    expanded[name] = torch.from_numpy(quants.dequantize(data, Type[kind]).astype(np.float32).reshape(w.shape))


def write(path, architecture, tensors, rng):
    """-> the tensors as F32"""
    out = gguf.GGUFWriter(path, architecture)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_array("nibble.words", ["the", "small", "horse"])
    expanded, kinds = {}, {"K": itertools.cycle(LARGE), "32": itertools.cycle(SMALL)}
    for name, w in tensors.items():
        add(out, expanded, rng, name, w, kinds)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    os.chmod(path, 0o644)
    return expanded


def llama_name(name):
    name = name.removesuffix(".weight")
    if name in T5_NAMES:
        return T5_NAMES[name] + ".weight"
    _, _, block, part = name.split(".", 3)
    return f"enc.blk.{block}.{T5_PARTS[part]}.weight"


def make_files(root):
    """-> what load() reads: the expanded tensors"""
    folder = f"{root}/models/gguf"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    gen, rng = torch.Generator().manual_seed(22), np.random.default_rng(22)
    names = single.bfl_transformer(dict(flux.new_transformer(TRANSFORMER, gen).state_dict()))
    transformer = write(f"{folder}/flux1-dev.gguf", "flux", names, rng)
    state = flux.new_t5(T5, gen).state_dict()
    state = {k: v for k, v in state.items() if k != "encoder.embed_tokens.weight"}
    t5 = write(f"{folder}/t5xxl.gguf", "t5encoder", {llama_name(k): v for k, v in state.items()}, rng)
    return transformer, {k: t5[llama_name(k)] for k in state}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{flux.HERE}/flux", help="output folder")
    root = ap.parse_args().o
    flux.calm()
    single.TRANSFORMER, single.T5 = TRANSFORMER, T5
    transformer, t5 = make_files(root)
    folder = f"{root}/gguf"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with tempfile.TemporaryDirectory() as temp:
        shutil.copytree(f"{root}/models/single", temp, dirs_exist_ok=True)
        save_file(transformer | {"scaled_fp8": torch.zeros(1)}, f"{temp}/flux1-dev.safetensors")
        save_file(t5 | {"encoder.embed_tokens.weight": t5["shared.weight"].clone()}, f"{temp}/t5xxl.safetensors")
        tensors, pictures, ids = flux.run(root, "gguf", load=lambda _, dtype=flux.F32: single.load(temp, dtype))
    args = flux.arguments(flux.CASES["gguf"])
    for flag, file in (single.FILES | {"--transformer": "flux1-dev.gguf", "--t5": "t5xxl.gguf"}).items():
        args += [flag, f"@CASE@/../models/{'gguf' if file.endswith('.gguf') else 'single'}/{file}"]
    args += ["--tokenizers", "@CASE@/../models/single"]
    flux.save_case(folder, tensors, pictures, {"parts": "../models/single", "args": args, **ids})


if __name__ == "__main__":
    main()
