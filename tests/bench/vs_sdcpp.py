#!/usr/bin/env python3
"""nibble beside a built stable-diffusion.cpp: a whole FLUX.1-schnell picture from 4-bit weights.

    python3 tests/bench/vs_sdcpp.py --sd PATH/sd-cli --nibble build/nibble --work DIR

Makes two checkpoints of FLUX.1's full shape once in --work (18 GB in all): NVFP4 by `nibble bench
image --keep`, and GGUF of type Q4_0 for the other (transformer and T5; what is no matrix, CLIP
and the VAE are F16 and F32), both of random numbers. Then it runs both commands in turn, from
start to PNG, and prints the medians of the time on the clock, their ratio and the most memory
that each held. Needs numpy and gguf; written for gguf 0.19.
"""
import argparse
import math
import os
import re
import statistics
import subprocess
import time

import gguf
import numpy

PROMPT = "a photograph of a wooden sailing ship in a quiet harbour at dawn"
HIDDEN, HEADS_DIM, MLP, TEXT, POOLED = 3072, 128, 12288, 4096, 768
Q4_0_BYTES, Q4_0_BLOCK = 18, 32


def linear(name, n, k):
    return [(f"{name}.weight", (n, k)), (f"{name}.bias", (n,))]


def flux_tensors(n_double, n_single):
    """BFL's names; what fits Q4_0 will be Q4_0."""
    t = []
    for name, k in (("img_in", 64), ("txt_in", TEXT)):
        t += linear(name, HIDDEN, k)
    for name, k in (("time_in", 256), ("vector_in", POOLED)):
        t += linear(f"{name}.in_layer", HIDDEN, k) + linear(f"{name}.out_layer", HIDDEN, HIDDEN)
    for i in range(n_double):
        for side in ("img", "txt"):
            b = f"double_blocks.{i}.{side}"
            t += linear(f"{b}_mod.lin", 6 * HIDDEN, HIDDEN)
            t += linear(f"{b}_attn.qkv", 3 * HIDDEN, HIDDEN)
            t += [(f"{b}_attn.norm.{x}_norm.scale", (HEADS_DIM,)) for x in ("query", "key")]
            t += linear(f"{b}_attn.proj", HIDDEN, HIDDEN)
            t += linear(f"{b}_mlp.0", MLP, HIDDEN) + linear(f"{b}_mlp.2", HIDDEN, MLP)
    for i in range(n_single):
        b = f"single_blocks.{i}"
        t += linear(f"{b}.modulation.lin", 3 * HIDDEN, HIDDEN)
        t += linear(f"{b}.linear1", 3 * HIDDEN + MLP, HIDDEN)
        t += linear(f"{b}.linear2", HIDDEN, HIDDEN + MLP)
        t += [(f"{b}.norm.{x}_norm.scale", (HEADS_DIM,)) for x in ("query", "key")]
    t += linear("final_layer.adaLN_modulation.1", 2 * HIDDEN, HIDDEN)
    return t + linear("final_layer.linear", 64, HIDDEN)


def t5_tensors():
    t = [("shared.weight", (32128, TEXT)), ("encoder.final_layer_norm.weight", (TEXT,)),
         ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 64))]
    for i in range(24):
        b = f"encoder.block.{i}.layer"
        t += [(f"{b}.0.SelfAttention.{x}.weight", (TEXT, TEXT)) for x in "qkvo"]
        t += [(f"{b}.1.DenseReluDense.{x}.weight", (10240, TEXT)) for x in ("wi_0", "wi_1")]
        t += [(f"{b}.1.DenseReluDense.wo.weight", (TEXT, 10240))]
        t += [(f"{b}.{x}.layer_norm.weight", (TEXT,)) for x in (0, 1)]
    return t


def clip_tensors():
    b, t = "text_model.embeddings", []
    t += [(f"{b}.token_embedding.weight", (49408, POOLED)),
          (f"{b}.position_embedding.weight", (77, POOLED))]
    norms = ["text_model.final_layer_norm"]
    for i in range(12):
        b = f"text_model.encoder.layers.{i}"
        for x in ("q_proj", "k_proj", "v_proj", "out_proj"):
            t += linear(f"{b}.self_attn.{x}", POOLED, POOLED)
        t += linear(f"{b}.mlp.fc1", 4 * POOLED, POOLED) + linear(f"{b}.mlp.fc2", POOLED, 4 * POOLED)
        norms += [f"{b}.layer_norm1", f"{b}.layer_norm2"]
    return t + [(f"{n}.{x}", (POOLED,)) for n in norms for x in ("weight", "bias")]


def conv(name, n, k, side=3):
    return [(f"{name}.weight", (n, k, side, side)), (f"{name}.bias", (n,))]


def norm(name, n):
    return [(f"{name}.weight", (n,)), (f"{name}.bias", (n,))]


def resnet(name, n, k):
    t = norm(f"{name}.norm1", k) + conv(f"{name}.conv1", n, k)
    t += norm(f"{name}.norm2", n) + conv(f"{name}.conv2", n, n)
    return t + (conv(f"{name}.nin_shortcut", n, k, 1) if n != k else [])


def vae_tensors():
    """BFL's names of the decoder."""
    t = conv("decoder.conv_in", 512, 16)
    t += resnet("decoder.mid.block_1", 512, 512) + resnet("decoder.mid.block_2", 512, 512)
    t += norm("decoder.mid.attn_1.norm", 512)
    for x in ("q", "k", "v", "proj_out"):
        t += conv(f"decoder.mid.attn_1.{x}", 512, 512, 1)
    k = 512
    for level, n in ((3, 512), (2, 512), (1, 256), (0, 128)):
        for i in range(3):
            t += resnet(f"decoder.up.{level}.block.{i}", n, k)
            k = n
        t += conv(f"decoder.up.{level}.upsample.conv", n, n) if level else []
    return t + norm("decoder.norm_out", 128) + conv("decoder.conv_out", 3, 128)


def q4_0(shape, random):
    """Random blocks whose values deviate by 1/sqrt(k): a scale, then 32 codes minus 8."""
    n, k = shape
    blocks = numpy.empty((n, k // Q4_0_BLOCK, Q4_0_BYTES), numpy.uint8)
    scale = numpy.float16(1 / (4.6 * math.sqrt(k)))
    blocks[:, :, :2] = numpy.frombuffer(scale.tobytes(), numpy.uint8)
    blocks[:, :, 2:] = random.integers(0, 256, (n, k // Q4_0_BLOCK, 16), numpy.uint8)
    return blocks.reshape(n, -1)


def values(name, shape, quantise, random):
    if len(shape) == 1:
        return (numpy.zeros if name.endswith("bias") else numpy.ones)(shape, numpy.float32)
    if quantise and shape[1] % Q4_0_BLOCK == 0 and "attention_bias" not in name:
        return q4_0(shape, random)
    spread = 1 / math.sqrt(math.prod(shape[1:]))
    return (random.standard_normal(shape, numpy.float32) * spread).astype(numpy.float16)


def write_gguf(path, arch, tensors, quantise):
    writer = gguf.GGUFWriter(path + ".part", arch)
    for name, shape in tensors:
        dtype, form, kind = numpy.float16, shape, None
        if len(shape) == 1:
            dtype = numpy.float32
        elif quantise and shape[1] % Q4_0_BLOCK == 0 and "attention_bias" not in name:
            dtype, kind = numpy.uint8, gguf.GGMLQuantizationType.Q4_0
            form = (shape[0], shape[1] // Q4_0_BLOCK * Q4_0_BYTES)
        writer.add_tensor_info(name, form, numpy.dtype(dtype),
                               math.prod(form) * numpy.dtype(dtype).itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = numpy.random.default_rng(0)
    for name, shape in tensors:
        writer.write_tensor_data(values(name, shape, quantise, random))
    writer.close()
    os.rename(path + ".part", path)


def build(args):
    files = {"flux": (flux_tensors(args.double, args.single), True), "t5": (t5_tensors(), True),
             "clip": (clip_tensors(), False), "vae": (vae_tensors(), False)}
    for name, (tensors, quantise) in files.items():
        path = os.path.join(args.work, f"{name}.gguf")
        if not os.path.exists(path):
            write_gguf(path, name, tensors, quantise)
    subprocess.run([args.nibble, "bench", "image", "--keep", os.path.join(args.work, "nvfp4"),
                    "--double", str(args.double), "--single", str(args.single), "--steps", "1",
                    "-r", "1", "--size", "64x64", "-q"], check=True, stdout=subprocess.DEVNULL)


def run(command, log):
    """Seconds on the clock, GiB at most, of a whole command."""
    with open(log, "w") as out:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {child.returncode}, see {log}")
    return seconds, usage.ru_maxrss / 2**20


def commands(args):
    size, work = str(args.size), args.work
    theirs = [args.sd, "--diffusion-model", f"{work}/flux.gguf", "--t5xxl", f"{work}/t5.gguf",
              "--clip_l", f"{work}/clip.gguf", "--vae", f"{work}/vae.gguf", "-p", PROMPT,
              "--cfg-scale", "1", "--sampling-method", "euler", "--steps", str(args.steps), "-W",
              size, "-H", size, "-t", str(os.cpu_count()), "-v", "-o", f"{work}/theirs.png"]
    out = {"stable-diffusion.cpp": theirs + args.sd_flags.split()}
    for compute in args.compute.split(","):
        out[f"nibble {compute}"] = [
            args.nibble, "image", "-m", f"{work}/nvfp4", "-p", PROMPT, "--steps", str(args.steps),
            "--size", f"{size}x{size}", "--seed", "1", "--t5-length", "256", "--compute", compute,
            "-v", "-o", f"{work}/ours.png"]
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sd", required=True, help="the built sd-cli")
    parser.add_argument("--sd-flags", default="", help="more of its flags")
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--work", required=True)
    parser.add_argument("--compute", default="a8,bf16")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--double", type=int, default=19)
    parser.add_argument("--single", type=int, default=38)
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    build(args)
    runs = {name: [] for name in commands(args)}
    for _ in range(args.rounds):
        for name, command in commands(args).items():
            runs[name].append(run(command, f"{args.work}/{re.sub('[^a-z0-9]', '-', name)}.log"))
    print(f"FLUX.1-schnell, {args.double} double and {args.single} single blocks, {args.size}x"
          f"{args.size}, {args.steps} steps, {os.cpu_count()} processors; whole commands, medians "
          f"of {args.rounds} in turn")
    theirs = statistics.median(r[0] for r in runs["stable-diffusion.cpp"])
    print(f"{'':22} {'seconds':>8} {'GiB':>6} {'times as fast':>14}")
    for name, measured in runs.items():
        seconds = statistics.median(r[0] for r in measured)
        memory = max(r[1] for r in measured)
        print(f"{name:22} {seconds:8.1f} {memory:6.2f} {theirs / seconds:14.2f}")


if __name__ == "__main__":
    main()
