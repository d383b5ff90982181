"""LoHa and LoKr adapters and what peft adds to a matrix for them: lora/products.safetensors, lora/deltas.safetensors.

    make_lora_products.py [-o FOLDER]     torch 2.15, peft 0.21

One file with an adapter on each of some matrices, named as LyCORIS names them; the other holds the differences of whole
weights [n, k] by canonical module name.  peft divides alpha by the rank as LyCORIS does where a factor is a product.
A fused q|k|v, whose rows are shared out, and BFL's final layer, whose halves change places, are among them.
"""
import argparse
import os

import peft
import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
N, K = 24, 16
LOHA, LOKR = peft.LoHaConfig, peft.LoKrConfig
# name in the file, rows, columns, config, canonical parts of its rows
CASES = (
    ("lycoris_transformer_blocks_0_attn_to_q", N, K, LOHA(r=2, alpha=3), ["transformer_blocks.0.attn.to_q"]),
    ("transformer.transformer_blocks.0.attn.to_k", N, K, LOKR(r=1, alpha=2, decompose_factor=4), ["transformer_blocks.0.attn.to_k"]),
    ("diffusion_model.double_blocks.0.txt_attn.qkv", 3 * N, K, LOKR(r=1, alpha=1, decompose_factor=2),
     [f"transformer_blocks.0.attn.add_{x}_proj" for x in "qkv"]),
    ("lora_unet_double_blocks_0_img_attn_proj", N, N, LOKR(r=1, alpha=4, decompose_factor=6, decompose_both=True),
     ["transformer_blocks.0.attn.to_out.0"]),
    ("lora_unet_final_layer_adaLN_modulation_1", 2 * K, K, LOHA(r=2, alpha=1), ["norm_out.linear"]),
)


def adapter(rows, columns, config):
    """-> the adapter's tensors by their suffix, and the difference that it makes"""
    config.target_modules, config.init_weights = ["m"], False
    model = peft.get_peft_model(torch.nn.ModuleDict({"m": torch.nn.Linear(columns, rows, bias=False)}), config)
    layer = model.base_model.model["m"]
    tensors = {}
    for key, w in peft.get_peft_model_state_dict(model).items():
        w.copy_((torch.randn(w.shape) * 0.3).to(torch.float16))
        tensors[key.rsplit(".", 1)[1]] = w
    with torch.no_grad():
        return {k: w.clone() for k, w in tensors.items()}, layer.get_delta_weight("default").clone()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{HERE}/lora", help="output folder")
    folder = ap.parse_args().o
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(41)
    file, deltas = {}, {}
    for name, rows, columns, config, parts in CASES:
        tensors, delta = adapter(rows, columns, config)
        print(name, {k: tuple(w.shape) for k, w in tensors.items()})
        for suffix, w in tensors.items():
            file[f"{name}.{suffix}"] = w.to(torch.float16)
        file[f"{name}.alpha"] = torch.tensor(float(config.alpha))
        if parts == ["norm_out.linear"]:
            delta = torch.cat(delta.chunk(2)[::-1])
        for part, d in zip(parts, delta.chunk(len(parts))):
            deltas[part] = d.contiguous()
    save_file(file, f"{folder}/products.safetensors")
    save_file(deltas, f"{folder}/deltas.safetensors")


if __name__ == "__main__":
    main()
