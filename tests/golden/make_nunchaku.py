"""nunchaku's files, of random weights, and what diffusers computes from the same weights expanded.

    make_nunchaku.py [-o FOLDER]        as make_flux.py, whose versions and conventions hold

fp4/nunchaku.safetensors    layer.* and mod.* in nunchaku's orders, plain.* the same in order
FOLDER/models/nunchaku/     transformers of nunchaku: svdq-fp4 as one file, svdq-int4 as the older folder of two files
FOLDER/nunchaku-fp4, FOLDER/nunchaku-int4    a picture from each; the other parts are those of models/single

The library itself needs a GPU: the orders are written here from its documentation, the fragments of PTX's mma.m16n8k64
and m16n8k16. Traps: the modulations' outputs of a place stand side by side for all chunks, with 1 added to the bias of
scales; single blocks' proj_out is two layers; the branch is of the x that is not divided by smooth; q, k and v have
scales of their own (wcscales), and in one block every row has; vectors are in the order of fragments too; with
integers the layer behind a GELU is made for x + 0.171875.
"""
import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

import make_flux as flux
import make_single as single

F32, BF16, F8 = torch.float32, torch.bfloat16, torch.float8_e4m3fn
E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
GELU_SHIFT = 0.171875
CONFIG = dict(single.TRANSFORMER, num_attention_heads=2, attention_head_dim=64, axes_dims_rope=(8, 28, 28))
D = 128
FILE, FOLDER = "svdq-fp4_r16-flux.1-dev.safetensors", "svdq-int4-flux.1-dev"


# ---- orders

def words(nibbles, bits, dtype):
    """[..., bits / 4] nibbles, the lowest first, as integers of so many bits."""
    w = (nibbles.long() << (4 * torch.arange(bits // 4))).sum(-1)
    return torch.where(w >= 2 ** (bits - 1), w - 2 ** bits, w).to(dtype)


def pack_codes(codes):
    """[N, K] nibbles as I8 [N, K/2]: 8 of them an int32, in the order of a warp's fragments."""
    n, k = codes.shape
    t = codes.view(n // 128, 8, 2, 8, 1, k // 64, 1, 2, 4, 8).permute(0, 5, 6, 1, 3, 8, 2, 7, 4, 9)
    return words(t.contiguous(), 32, torch.int32).view(-1).view(torch.int8).view(n, k // 2)


def pack_micro_scales(scales):
    """E4M3 [N, K/16] as [K/16, N]."""
    n, groups = scales.shape
    t = scales.view(torch.uint8).view(n // 128, 1, 4, 4, 8, groups // 4, 4).permute(0, 5, 1, 4, 3, 2, 6)
    return t.contiguous().view(groups, n).view(F8)


def pack_scales(scales):
    """16 bits [N, groups] as [groups, N]; a vector is one group."""
    n, groups = scales.shape
    return scales.view(n // 128, 1, 8, 2, 4, 2, groups).permute(0, 6, 1, 2, 4, 3, 5).contiguous().view(groups, n)


def pack_vector(v):
    return pack_scales(v[:, None]).view(-1)


def pack_branch(matrix, down):
    """16x16 tiles; tiles of up [N, r] lie row by row, those of down [r, K] column by column, stored [K, r]."""
    rows, columns = matrix.shape
    t = matrix.view(rows // 16, 2, 8, columns // 16, 2, 4, 2)
    t = t.permute(3, 0, 2, 5, 1, 4, 6) if down else t.permute(0, 3, 2, 5, 1, 4, 6)
    return t.contiguous().view(*((columns, rows) if down else (rows, columns)))


def pack_awq(codes):
    """[N, K] nibbles as I32 [N/4, K/2]: int16 words of columns i, 8 + i, 16 + i, 24 + i, 4 rows side by side."""
    n, k = codes.shape
    w = words(codes.view(n, k // 32, 4, 8).transpose(2, 3), 16, torch.int16)
    return w.reshape(n // 4, 4, k // 64, 16).permute(0, 2, 1, 3).contiguous().view(-1).view(torch.int32).view(n // 4, k // 2)


# ---- layers

class Writer:
    """Random layers in nunchaku's form, and what they mean to diffusers."""

    def __init__(self, seed, integer, rank):
        self.gen = torch.Generator().manual_seed(seed)
        self.integer, self.rank = integer, rank
        self.file, self.state = {}, {}

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.gen)

    def uniform(self, low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=self.gen)

    def weight(self, name, n, k, std, rows):
        """-> W [n, k] in F32, of that deviation. rows: "one" scale, one for "parts" of three, or for "all" rows"""
        if self.integer:
            codes = torch.randint(-8, 8, (n, k), generator=self.gen)
            scales = (self.uniform(0.5, 1.5, n, k // 64) * std / 4.6).to(BF16)
            self.file[f"{name}.qweight"], self.file[f"{name}.wscales"] = pack_codes(codes & 15), pack_scales(scales)
            return codes.float() * scales.float().repeat_interleave(64, 1)
        codes = torch.randint(0, 16, (n, k), generator=self.gen)
        scales = self.uniform(64, 200, n, k // 16).to(F8)
        factor = torch.full((n,), std / 2.9 / 128)
        if rows == "one":
            self.file[f"{name}.wtscale"] = factor[:1].clone()
        else:
            factor *= self.uniform(0.7, 1.4, 3).repeat_interleave(n // 3) if rows == "parts" else self.uniform(0.7, 1.4, n)
            factor = factor.to(BF16)
            self.file[f"{name}.wcscales"] = pack_vector(factor)
        self.file[f"{name}.qweight"], self.file[f"{name}.wscales"] = pack_codes(codes), pack_micro_scales(scales)
        return E2M1[codes] * scales.float().repeat_interleave(16, 1) * factor.float()[:, None]

    def layer(self, name, n, k, smooth=True, rows="one", gelu=False):
        """-> the matrix and bias that it means"""
        s = self.uniform(0.5, 2, k).to(BF16) if smooth else torch.ones(k, dtype=BF16)
        w = self.weight(name, n, k, k ** -0.5, rows)
        bias = (0.2 * self.normal(n)).to(BF16)
        down = (0.5 * self.normal(self.rank, k) * k ** -0.5).to(BF16)
        up = (self.normal(n, self.rank) * self.rank ** -0.5).to(BF16)
        self.file[f"{name}.smooth"] = pack_vector(s)
        self.file[f"{name}.smooth_orig"] = pack_vector(s)
        self.file[f"{name}.bias"] = pack_vector(bias)
        self.file[f"{name}.lora_down"], self.file[f"{name}.lora_up"] = pack_branch(down, True), pack_branch(up, False)
        w = w.double() / s.double()
        meant = bias.double() + (w.sum(1) * GELU_SHIFT if gelu and self.integer else 0)
        return (w + up.double() @ down.double()).float(), meant.float()

    def modulation(self, name, chunks):
        n = chunks * D
        codes = torch.randint(0, 16, (n, D), generator=self.gen)
        scales = (self.uniform(0.5, 1.5, n, D // 64) * 0.8 * D ** -0.5 / 4.6).to(BF16)
        zeros = (-7 * scales.float()).to(BF16)
        bias = 0.2 * self.normal(n)
        group = lambda t: t.float().repeat_interleave(64, 1)
        side_by_side = lambda t: t.view(chunks, D, *t.shape[1:]).transpose(0, 1).reshape(t.shape).contiguous()
        scale_chunks = torch.zeros(chunks)
        scale_chunks[1] = scale_chunks[-2] = 1
        one = scale_chunks.repeat_interleave(D)
        bias = (bias + one).to(BF16)
        padded = lambda t: torch.cat([side_by_side(t).t(), torch.zeros(14 if self.integer else 0, n, dtype=BF16)]).contiguous()
        self.file[f"{name}.qweight"] = pack_awq(side_by_side(codes))
        self.file[f"{name}.wscales"], self.file[f"{name}.wzeros"] = padded(scales), padded(zeros)
        self.file[f"{name}.bias"] = side_by_side(bias)
        self.state[f"{name}.weight"] = codes.float() * group(scales) + group(zeros)
        self.state[f"{name}.bias"] = bias.float() - one

    def put(self, name, w, bias):
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = w.contiguous(), bias.contiguous()

    def linear(self, block, name, to, n, k, **more):
        w, bias = self.layer(f"{block}.{name}", n, k, **more)
        for i, part in enumerate(to):
            rows = slice(i * n // len(to), (i + 1) * n // len(to))
            self.put(f"{block}.{part}", w[rows], bias[rows])

    def norms(self, block, *names):
        for name in names:
            v = (1.4 * (1 + 0.3 * self.normal(CONFIG["attention_head_dim"]))).to(BF16)
            self.file[f"{block}.{name}.weight"], self.state[f"{block}.attn.{name}.weight"] = v, v.float()

    def blocks(self):
        b = "transformer_blocks.0"
        for side, qkv, out, ff in (("", ("attn.to_q", "attn.to_k", "attn.to_v"), "attn.to_out.0", "ff"),
                                   ("context", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), "attn.to_add_out",
                                    "ff_context")):
            tail, middle = (f"_{side}", f"{side}_") if side else ("", "")
            self.linear(b, f"qkv_proj{tail}", qkv, 3 * D, D, rows="parts")
            self.linear(b, f"out_proj{tail}", [out], D, D, smooth=False)
            self.linear(b, f"mlp_{middle}fc1", [f"{ff}.net.0.proj"], 4 * D, D)
            self.linear(b, f"mlp_{middle}fc2", [f"{ff}.net.2"], D, 4 * D, gelu=True)
            self.modulation(f"{b}.norm1{tail}.linear", 6)
        self.norms(b, "norm_q", "norm_k", "norm_added_q", "norm_added_k")
        for i, rows in enumerate(("parts", "all")):
            b = f"single_transformer_blocks.{i}"
            self.linear(b, "qkv_proj", ("attn.to_q", "attn.to_k", "attn.to_v"), 3 * D, D, rows=rows)
            self.linear(b, "mlp_fc1", ["proj_mlp"], 4 * D, D)
            w, bias = self.layer(f"{b}.out_proj", D, D, smooth=False, rows="one" if rows == "parts" else "all")
            w2, bias2 = self.layer(f"{b}.mlp_fc2", D, 4 * D, gelu=True)
            self.put(f"{b}.proj_out", torch.cat([w, w2], 1), bias + bias2)
            self.modulation(f"{b}.norm.linear", 3)
            self.norms(b, "norm_q", "norm_k")

    def others(self):
        """-> the layers that are as diffusers has them, in BF16"""
        m = flux.new_transformer(dict(CONFIG, num_single_layers=2), self.gen)
        rest = {k: v.to(BF16) for k, v in m.state_dict().items() if "blocks." not in k}
        self.state.update({k: v.float() for k, v in rest.items()})
        m.load_state_dict(self.state, strict=True)
        return rest, m


# ---- files

def config():
    return json.dumps({"_class_name": "NunchakuFluxTransformer2dModel", **CONFIG, "num_single_layers": 2})


def write_fp4(root):
    w = Writer(31, False, 16)
    w.blocks()
    rest, model = w.others()
    note = {"method": "svdquant", "weight": {"dtype": "fp4_e2m1_all", "scale_dtype": [None, "fp8_e4m3_nan"], "group_size": 16},
            "activation": {"dtype": "fp4_e2m1_all", "scale_dtype": "fp8_e4m3_nan", "group_size": 16}, "rank": 16}
    save_file({**w.file, **rest}, f"{root}/models/nunchaku/{FILE}",
              {"config": config(), "quantization_config": json.dumps(note), "model_class": "NunchakuFluxTransformer2dModel"})
    return model


def write_int4(root):
    folder = f"{root}/models/nunchaku/{FOLDER}"
    os.makedirs(folder)
    w = Writer(32, True, 32)
    w.blocks()
    rest, model = w.others()
    save_file(w.file, f"{folder}/transformer_blocks.safetensors")
    save_file(rest, f"{folder}/unquantized_layers.safetensors")
    with open(f"{folder}/config.json", "w") as f:
        f.write(config())
    return model


def write_orders(path):
    g = torch.Generator().manual_seed(5)
    n, k, r = 256, 128, 32
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=g)
    codes, awq = draw(16, n, k), draw(16, n, k)
    scales = draw(126, n, k // 16).add(1).to(torch.uint8).view(F8)
    up, down, groups = (torch.randn(*s, generator=g).to(BF16) for s in ((n, r), (r, k), (n, k // 64)))
    vector = torch.randn(n, generator=g).to(BF16)
    bytes_of = lambda c: (c[:, 0::2] | c[:, 1::2] << 4).to(torch.uint8)
    save_file({
        "layer.qweight": pack_codes(codes), "layer.wscales": pack_micro_scales(scales),
        "layer.lora_up": pack_branch(up, False), "layer.lora_down": pack_branch(down, True),
        "layer.bias": pack_vector(vector), "layer.groups": pack_scales(groups), "mod.qweight": pack_awq(awq),
        "plain.codes": bytes_of(codes), "plain.scales": scales, "plain.lora_up": up, "plain.lora_down": down,
        "plain.bias": vector, "plain.groups": groups, "plain.awq": awq.to(torch.uint8),
    }, path)


def make_case(root, name, model, transformer):
    case = f"nunchaku-{name}"
    flux.CASES[case] = dict(model="single", prompt="a quiet house beside a river", seed=33, size=(48, 48), steps=2, t5_length=16,
                            noise="bf16")

    def load(folder, dtype=F32):
        pipe = single.load(folder, dtype)
        pipe.transformer = model.eval().to(dtype)
        return pipe

    folder = f"{root}/{case}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tensors, pictures, ids = flux.run(root, case, load=load)
    args = flux.arguments(flux.CASES[case]) + ["--transformer", f"@CASE@/../models/nunchaku/{transformer}"]
    for flag, file in single.FILES.items():
        args += [] if flag == "--transformer" else [flag, f"@CASE@/../models/single/{file}"]
    args += ["--tokenizers", "@CASE@/../models/single"]
    flux.save_case(folder, tensors, pictures, {"parts": "../models/single", "args": args, **ids})


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{flux.HERE}/flux", help="output folder")
    root = ap.parse_args().o
    flux.calm()
    shutil.rmtree(f"{root}/models/nunchaku", ignore_errors=True)
    os.makedirs(f"{root}/models/nunchaku")
    write_orders(f"{flux.HERE}/fp4/nunchaku.safetensors")
    make_case(root, "fp4", write_fp4(root), FILE)
    make_case(root, "int4", write_int4(root), FOLDER)


if __name__ == "__main__":
    main()
