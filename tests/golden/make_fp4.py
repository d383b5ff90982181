#!/usr/bin/env python3
"""make_fp4.py: what the libraries that write FP4 checkpoints make of the tensors in fp4/input.safetensors.

Needs torch 2.15.0, safetensors 0.8.0, nvidia-modelopt 0.47.0, compressed-tensors 0.20.0 and comfy-kitchen 0.2.40
(the last three with --no-deps, and loguru, nvidia-ml-py, pulp, scipy, omegaconf). Writes, beside itself:

fp4/input.safetensors          CASE.weight [N, K]: F32, BF16, F16
fp4/WRITER-FORMAT.safetensors  CASE.* as the library names and stores them, and CASE.dequantized, F32, by the library

BF16 and F16 tensors are given to the libraries as F32: modelopt computes in F32 anyway, the others would round
intermediate values to the type of the weight. A case that a library cannot do is left out there (K, or a NaN scale for
a tensor of zeros).
"""
import json
import os

import torch
from comfy_kitchen.tensor.fp8 import TensorCoreFP8Layout
from comfy_kitchen.tensor.nvfp4 import TensorCoreNVFP4Layout
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.naive_quantized.base import FloatQuantizationCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.quant_scheme import FP8, MXFP4A16, NVFP4A16
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from modelopt.torch.quantization.qtensor import FP8QTensor, MXFP4QTensor, NVFP4QTensor
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__)) + "/fp4"
BOUNDS = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
E4M3 = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()    # the positive ones


# ---- inputs

def neighbours(x):
    """x, the next float above and the next below."""
    up, down = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    return torch.cat([x, torch.nextafter(x, up), torch.nextafter(x, down)])


def tie_blocks(step, largest):
    """Blocks of 16 whose values divided by `step` are the bounds between codes or next to them; each has `largest`."""
    values = neighbours(BOUNDS * step)
    values = torch.cat([values, -values, torch.zeros(3)]).view(-1, 15)
    return torch.cat([torch.full((values.shape[0], 1), largest), values], 1)


def ties(rule):
    """For block scales all over E4M3: every bound between codes. The first block sets the tensor's scale."""
    amax = torch.tensor(2688.0) if rule != "compressed-tensors" else torch.tensor(3.0)
    top = torch.full((1, 16), float(amax))
    blocks = [top]
    g = (1 / amax) * 2688
    for scale in E4M3[[1, 12, 70, 118]]:
        step = scale / g if rule == "compressed-tensors" else scale * (amax / 2688)
        blocks.append(tie_blocks(step, float(6 * step)))
    blocks = torch.cat(blocks)
    return blocks[:len(blocks) // 2 * 2].view(-1, 32)


def scale_ties():
    """Blocks whose largest value lies between two block scales, where the tensor's scale is 1 (amax 2688)."""
    middles = torch.cat([torch.tensor([0.25, 0.5, 0.75]) * 2 ** -9, (E4M3[1:] + E4M3[:-1]) / 2])
    largest = neighbours(6 * middles)
    largest[0] = 2688.0
    blocks = largest[::2][:192, None] * torch.linspace(1, -1, 16)
    return blocks.view(-1, 64)


def powers():
    """Blocks of 32 whose largest value is next to where a power of two as a scale goes up (1.5 2^n and 1.75 2^n)."""
    largest = [torch.nextafter(torch.tensor(m * 2.0 ** n), torch.tensor(1e38)) if j == 1 else
               torch.tensor(m * 2.0 ** n) * (1 + j * 2.0 ** -23)
               for n in (-100, -5, 0, 19, 120) for m in (1.5, 1.75) for j in (-1, 0, 1, 2, 3, 6, 12, 24)]
    return torch.stack(largest).float()[:, None] * torch.linspace(-1, 1, 32)


def power_ties():
    """Blocks of 32 with every tie between codes for scales that are powers of two."""
    rows = []
    for n in (-126, -20, 0, 9):
        step = torch.tensor(2.0 ** n)
        values = neighbours(BOUNDS * step)
        rows.append(torch.cat([6 * step[None], values, -6 * step[None], torch.zeros(9)]))
        rows.append(torch.cat([-6 * step[None], -values, torch.full((10,), -0.0)]))
    return torch.stack(rows)


def heavy(g, *shape):
    """Student's t with three degrees of freedom."""
    normal = torch.randn(4, *shape, generator=g)
    return normal[0] / (normal[1:].square().mean(0)).sqrt()


def inputs():
    g = torch.Generator().manual_seed(4)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    x = {"normal": 0.02 * normal(20, 96), "tails": heavy(g, 24, 64)}
    x["normal-bf16"] = (0.03 * normal(24, 64)).bfloat16()
    x["normal-f16"] = (0.03 * normal(24, 64)).half()
    x["wide-bf16"] = normal(129, 48).bfloat16()             # ragged everywhere: rows, tiles of scales
    x["tall-f16"] = normal(257, 16).half()
    x["small"] = normal(5, 48)
    x["one"] = normal(1, 16)
    for rule in ("modelopt", "compressed-tensors"):
        x[f"ties-{rule}"] = ties(rule)
    x["scale-ties"] = scale_ties()
    x["powers"] = powers()
    x["power-ties"] = power_ties()
    spread = torch.exp2(torch.rand(16, 8, 1, generator=g) * -26)                 # block scales that underflow
    x["spread"] = (normal(16, 8, 16) * spread).view(16, 128)
    x["spread-bf16"] = (normal(16, 8, 16) * spread).view(16, 128).bfloat16()
    zeros = normal(8, 64)
    zeros[0], zeros[1], zeros[2, :16], zeros[3, 16:] = 0.0, -0.0, 0.0, -0.0
    zeros[4, ::2], zeros[5, ::3], zeros[6, ::2], zeros[7, 1::2] = 0.0, -0.0, -1e-6, -1e-42
    x["zeros"] = zeros
    denormal = normal(6, 64)
    denormal[0] *= 1e-41
    denormal[1, 16:] *= 1e-39
    denormal[2, :48] *= 1e-44
    x["denormal"] = denormal
    x["tiny"] = normal(6, 64) * 1e-37                       # the tensor's scale is denormal
    x["tiny-bf16"] = (normal(6, 64) * 1e-36).bfloat16()
    x["huge"] = normal(6, 64).clamp(-3, 3) * 1e38
    x["little-f16"] = (normal(6, 64) * 1e-6).half()         # denormal in F16
    x["outlier"] = normal(8, 64)
    x["outlier"][3, 5] = -7e4
    x["constant"] = torch.full((4, 32), -0.3)
    x["none"] = torch.zeros(3, 64)
    return x


# ---- writers: a case's tensors from its name and its weight in F32, and the dequantised values

def modelopt_nvfp4(name, w):
    q, scale, scale_2 = NVFP4QTensor.quantize(w.clone(), 16)
    values = q.dequantize(torch.float32, scale=scale, double_scale=scale_2, block_sizes={-1: 16})
    state = {f"{name}.weight": q._quantized_data, f"{name}.weight_scale": scale, f"{name}.weight_scale_2": scale_2}
    return state, values


def modelopt_mxfp4(name, w):
    q, scale = MXFP4QTensor.quantize(w.clone(), 32)
    values = q.dequantize(torch.float32, scale=scale, block_sizes={-1: 32})
    return {f"{name}.weight": q._quantized_data, f"{name}.weight_scale": scale.view(w.shape[0], -1)}, values


def modelopt_fp8(name, w):
    q, scale = FP8QTensor.quantize(w.clone())
    values = q.dequantize(torch.float32, scale=scale)
    return {f"{name}.weight": q._quantized_data, f"{name}.weight_scale": scale.reshape(())}, values


def ct_scales(w, args, global_scale=None):
    blocks = w if args.group_size is None else w.unflatten(-1, (-1, args.group_size))
    dims = (-2, -1) if args.group_size is None else -1
    return calculate_qparams(blocks.amin(dims), blocks.amax(dims), args, global_scale=global_scale)[0]


def ct_fp4(name, w, preset, compressor):
    scheme = QuantizationScheme(targets=["Linear"], **preset)
    state = {"weight": w.clone()}
    if preset is NVFP4A16:
        state["weight_global_scale"] = generate_gparam(w.min(), w.max())
    state["weight_scale"] = ct_scales(w, scheme.weights, state.get("weight_global_scale"))
    packed = compressor.compress(state, scheme)
    values = dequantize(unpack_fp4_from_uint8(packed["weight_packed"], *w.shape, dtype=torch.float32),
                        state["weight_scale"].float(), args=scheme.weights, dtype=torch.float32,
                        global_scale=state.get("weight_global_scale"))
    return {f"{name}.{key}": value for key, value in packed.items()}, values


def ct_nvfp4(name, w):
    return ct_fp4(name, w, NVFP4A16, NVFP4PackedCompressor)


def ct_mxfp4(name, w):
    return ct_fp4(name, w, MXFP4A16, MXFP4PackedCompressor)


def ct_fp8(name, w):
    scheme = QuantizationScheme(targets=["Linear"], weights=FP8["weights"])
    state = {"weight": w.clone(), "weight_scale": ct_scales(w, scheme.weights)}
    packed = FloatQuantizationCompressor.compress(state, scheme)
    values = dequantize(packed["weight"], packed["weight_scale"], args=scheme.weights, dtype=torch.float32)
    return {f"{name}.{key}": value for key, value in packed.items()}, values


def comfy_layout(name, w, layout):
    q, params = layout.quantize(w.clone())
    values = layout.dequantize(q, params)[:w.shape[0], :w.shape[1]]
    return {f"{name}.weight{key}": value for key, value in layout.state_dict_tensors(q, params).items()}, values


def comfy_nvfp4(name, w):
    return comfy_layout(name, w, TensorCoreNVFP4Layout)


def comfy_fp8(name, w):
    return comfy_layout(name, w, TensorCoreFP8Layout)


WRITERS = {
    "modelopt-nvfp4": (modelopt_nvfp4, 16), "modelopt-mxfp4": (modelopt_mxfp4, 32), "modelopt-fp8": (modelopt_fp8, 1),
    "compressed-tensors-nvfp4": (ct_nvfp4, 16), "compressed-tensors-mxfp4": (ct_mxfp4, 32),
    "compressed-tensors-fp8": (ct_fp8, 1), "comfy-nvfp4": (comfy_nvfp4, 16), "comfy-fp8": (comfy_fp8, 1),
}


def is_finite(tensors):
    return all(bool(torch.isfinite(t.float()).all()) for t in tensors)


def write(writer, cases):
    quantise, multiple = WRITERS[writer]
    tensors, layers, left_out = {}, {}, []
    for name, w in cases.items():
        if w.shape[1] % multiple:
            continue
        case, values = quantise(name, w.float())
        if not is_finite([*case.values(), values]):
            left_out.append(name)
            continue
        tensors.update(case)
        if "fp8" not in writer or w.numel() < 400:              # they are large, and FP8 is simple
            tensors[f"{name}.dequantized"] = values.float()
        layers[name] = {"format": "nvfp4" if writer == "comfy-nvfp4" else "float8_e4m3fn"}
    metadata = None
    if writer.startswith("comfy"):
        metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{HERE}/{writer}.safetensors", metadata)
    print(f"{writer}: {len(layers)} cases", *(["without", *left_out] if left_out else []))


def main():
    os.makedirs(HERE, exist_ok=True)
    cases = inputs()
    save_file({f"{k}.weight": v.contiguous() for k, v in cases.items()}, f"{HERE}/input.safetensors")
    for writer in WRITERS:
        write(writer, cases)


if __name__ == "__main__":
    main()
