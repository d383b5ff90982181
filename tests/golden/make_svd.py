"""Layers and a FLUX.1 transformer that Model-Optimizer quantises by AWQ and SVDQuant, as it exports them.

    make_svd.py [-o FOLDER]        as make_flux.py, whose versions and conventions hold

Needs nvidia-modelopt 0.47.0 beside them (--no-deps, and omegaconf, loguru, nvidia-ml-py, pulp, scipy).

fp4/modelopt-awq.safetensors, fp4/modelopt-svdquant.safetensors    four layers X: as exported, X.input [M, K] and
                      X.output [M, N], which modelopt's own layer computes from it with weights quantised, inputs not
FOLDER/models/modelopt-svdquant    models/dev with a transformer of SVDQuant; FOLDER/modelopt-svdquant: its picture

modelopt quantises blocks at run time by a CUDA kernel alone; here its NVFP4QTensor does it, which rounds as the kernel.
"""
import argparse
import copy
import json
import os
import shutil
import tempfile

import torch
from safetensors.torch import load_file, save_file

import modelopt.torch.quantization as mtq
from modelopt.torch.export import unified_export_hf as export
from modelopt.torch.quantization import tensor_quant
from modelopt.torch.quantization.qtensor import NVFP4QTensor

import make_flux as flux

F32 = torch.float32
E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
KEPT = ("*x_embedder*", "*context_embedder*", "*time_text_embed*", "*norm_out*", "*proj_out*")     # of FLUX.1


def quantise_blocks(inputs, block_size, amax, num_bits, exponent_bits, scale_num_bits, scale_exponent_bits):
    assert (block_size, num_bits, exponent_bits, scale_num_bits, scale_exponent_bits) == (16, 4, 2, 8, 4)
    scale_2 = amax.float().max() / (6 * 448)
    q, scale, scale_2 = NVFP4QTensor.quantize(inputs.float(), block_size, None, scale_2)
    values = q.dequantize(F32, scale=scale, double_scale=scale_2, block_sizes={-1: block_size})
    return values.to(inputs.dtype).view(inputs.shape)


tensor_quant.dynamic_block_quantize_op = quantise_blocks


def config(algorithm, kept=()):
    preset = mtq.NVFP4_AWQ_LITE_CFG if algorithm == "awq_lite" else mtq.NVFP4_SVDQUANT_DEFAULT_CFG
    preset = copy.deepcopy(preset)
    preset["algorithm"] = algorithm
    preset["quant_cfg"] += [{"quantizer_name": name, "enable": False} for name in kept]
    return preset


# ---- layers

class Layers(torch.nn.Module):
    SIZES = (64, 96, 48, 160, 32)

    def __init__(self, gen):
        super().__init__()
        for i, (k, n) in enumerate(zip(self.SIZES, self.SIZES[1:])):
            layer = torch.nn.Linear(k, n)
            with torch.no_grad():
                layer.weight.copy_(torch.randn(n, k, generator=gen) * k ** -0.5)
                layer.weight[:, i] *= 8                 # what AWQ and a branch are for
                layer.bias.copy_(0.2 * torch.randn(n, generator=gen))
            setattr(self, f"layer{i}", layer)

    def forward(self, x):
        for i in range(len(self.SIZES) - 1):
            x = getattr(self, f"layer{i}")(x)
            x = x * torch.exp2(torch.arange(x.shape[1]) % 5 - 2.0)
        return x


def make_layers(name, algorithm):
    gen = torch.Generator().manual_seed(41)
    data = torch.randn(64, 64, generator=gen) * torch.exp(torch.randn(64, generator=gen))
    model = mtq.quantize(Layers(gen), config(algorithm), lambda m: m(data))
    out = {}
    for module, layer in model.named_children():
        x = torch.randn(5, layer.in_features, generator=gen)
        layer.input_quantizer.disable()                 # its scales of x remain
        out[f"{module}.input"], out[f"{module}.output"] = x, layer(x).detach()
        layer.input_quantizer.enable()
    export._process_quantized_modules(model, F32, is_modelopt_qlora=False)
    export._promote_quantizer_tensors_to_module(model)
    state = {k: v for k, v in model.state_dict().items() if "quantizer" not in k}
    save_file({k: v.detach().contiguous() for k, v in {**state, **out}.items()}, f"{flux.HERE}/fp4/{name}.safetensors")
    print(name, sorted({k.split(".")[-1] for k in state}))


# ---- a transformer

def expand(state):
    """An exported checkpoint as F32 matrices: the product's scales and branch are in them."""
    out = dict(state)
    for key in [k for k in state if k.endswith(".weight_scale_2")]:
        module = key.removesuffix(".weight_scale_2")
        take = lambda part: out.pop(f"{module}.{part}").double()
        codes = out.pop(f"{module}.weight")
        w = torch.stack([E2M1[(codes & 15).long()], E2M1[(codes >> 4).long()]], -1).flatten(1).double()
        w *= (take("weight_scale") * take("weight_scale_2")).float().double().repeat_interleave(16, 1)
        out.pop(f"{module}.input_scale")
        w = (w + take("svdquant_lora_b") @ take("svdquant_lora_a")) * take("pre_quant_scale")
        out[f"{module}.weight"] = w.float()
    return {k: v.to(F32) for k, v in out.items()}


def calibrate(model):
    gen = torch.Generator().manual_seed(42)
    for t in (0.9, 0.4):
        model(hidden_states=torch.randn(1, 12, 64, generator=gen), encoder_hidden_states=torch.randn(1, 8, 40, generator=gen),
              pooled_projections=torch.randn(1, 32, generator=gen), timestep=torch.tensor([t]), guidance=torch.tensor([3.5]),
              img_ids=torch.zeros(12, 3), txt_ids=torch.zeros(8, 3))


def make_transformer(folder):
    model = flux.new_transformer(flux.TRANSFORMER, torch.Generator().manual_seed(43))
    model = mtq.quantize(model, config({"method": "svdquant", "lowrank": 4}, KEPT), calibrate)
    with tempfile.TemporaryDirectory() as temporary:
        export.export_hf_checkpoint(model, dtype=F32, export_dir=temporary)
        shutil.copytree(temporary, folder)
    path = f"{folder}/config.json"
    found = {k: v for k, v in json.load(open(path)).items() if k not in flux.CONFIG_NOISE}
    flux.tiny_tokenizers.dump(path, found)


def make_case(root, name):
    folder = f"{root}/models/{name}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    make_transformer(f"{folder}/transformer")
    for part in flux.PARTS:
        if part != "transformer":
            os.symlink(f"../dev/{part}", f"{folder}/{part}")
    shutil.copy(f"{root}/models/dev/model_index.json", folder)
    load_transformer = flux.load_transformer

    def expanded(path):
        model = flux.FluxTransformer2DModel(**flux.TRANSFORMER)
        model.load_state_dict(expand(flux.stored(path)), strict=True)
        return model

    flux.load_transformer = expanded
    flux.MADE.add(name)
    flux.CASES[name] = dict(model=name, prompt="a tall bright house", seed=44, size=(48, 48), steps=2, t5_length=16)
    flux.make_case(root, name)
    flux.load_transformer = load_transformer


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{flux.HERE}/flux", help="output folder")
    root = ap.parse_args().o
    flux.calm()
    make_layers("modelopt-awq", "awq_lite")
    make_layers("modelopt-svdquant", {"method": "svdquant", "lowrank": 8})
    make_case(root, "modelopt-svdquant")


if __name__ == "__main__":
    main()
