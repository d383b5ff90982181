#!/usr/bin/env python3
"""nibble beside diffusers on torch's CPU build, at FLUX.1's real widths with fewer blocks.

    python3 tests/bench/vs_diffusers.py --nibble build/nibble --work /tmp/vs [--rounds 3]

Makes a pipeline with random weights once in --work (F32 and BF16: about 20 GB), then times the
text encoder (256 tokens), one denoising step and the VAE decode at 512x512 in both programs, in
turn, and prints the medians and their ratio. torch gets as many threads as there are processors,
and so does nibble. Written for torch 2.15, diffusers 0.39, transformers 5.
"""
import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import time

import torch
from diffusers import (AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel)
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZERS = os.path.join(HERE, "..", "golden", "flux", "models", "schnell")
TOKENS = 256
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def build(folder, args):
    """The four models, each saved in both types."""
    torch.manual_seed(0)
    makers = {
        "transformer": lambda: FluxTransformer2DModel(
            num_layers=args.double, num_single_layers=args.single, guidance_embeds=False),
        "text_encoder_2": lambda: T5EncoderModel(T5Config(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=args.t5_layers,
            num_heads=64, feed_forward_proj="gated-gelu", is_gated_act=True,
            dense_act_fn="gelu_new")),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(
            vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=77)),
        "vae": lambda: AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=16,
            norm_num_groups=32, sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159,
            use_quant_conv=False, use_post_quant_conv=False),
    }
    for name, make in makers.items():
        model = make().eval()
        for dtype, torch_dtype in DTYPES.items():
            model.to(torch_dtype).save_pretrained(os.path.join(folder, dtype, name))
        del model
        gc.collect()
    for dtype in DTYPES:
        target = os.path.join(folder, dtype)
        FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(
            os.path.join(target, "scheduler"))
        for part in ("tokenizer", "tokenizer_2"):
            shutil.copytree(os.path.join(TOKENIZERS, part), os.path.join(target, part),
                            dirs_exist_ok=True)
        shutil.copy(os.path.join(TOKENIZERS, "model_index.json"), target)
    open(os.path.join(folder, "complete"), "w").close()


def timed(function):
    with torch.no_grad():
        start = time.perf_counter()
        function()
        return time.perf_counter() - start


class Torch:
    """diffusers' own modules, called as its pipeline calls them."""

    def __init__(self, folder, dtype, size):
        self.t = DTYPES[dtype]
        self.size = size
        load = {"torch_dtype": self.t}
        self.t5 = T5EncoderModel.from_pretrained(f"{folder}/text_encoder_2", dtype=self.t).eval()
        self.flux = FluxTransformer2DModel.from_pretrained(f"{folder}/transformer", **load).eval()
        self.vae = AutoencoderKL.from_pretrained(f"{folder}/vae", **load).eval()
        if dtype == "bf16":
            self.vae.to(memory_format=torch.channels_last)

    def measure(self):
        side = self.size // 16
        ids = torch.zeros(1, TOKENS, dtype=torch.long)
        image_ids = torch.zeros(side, side, 3)
        image_ids[..., 1] += torch.arange(side)[:, None]
        image_ids[..., 2] += torch.arange(side)[None, :]
        inputs = {
            "hidden_states": torch.randn(1, side * side, 64).to(self.t),
            "encoder_hidden_states": torch.randn(1, TOKENS, 4096).to(self.t),
            "pooled_projections": torch.randn(1, 768).to(self.t),
            "timestep": torch.tensor([0.5]).to(self.t),
            "img_ids": image_ids.reshape(-1, 3).to(self.t),
            "txt_ids": torch.zeros(TOKENS, 3).to(self.t),
        }
        z = torch.randn(1, 16, 2 * side, 2 * side).to(self.t)
        if self.t == torch.bfloat16:
            z = z.to(memory_format=torch.channels_last)
        return {
            "t5": timed(lambda: self.t5(ids)),
            "step": timed(lambda: self.flux(**inputs)),
            "vae": timed(lambda: self.vae.decode(z)),
        }


def nibble(args, folder, dtype):
    command = [args.nibble, "image", "-m", folder, "-p", "a cat", "--size",
               f"{args.size}x{args.size}", "--steps", "2", "--seed", "1", "--t5-length",
               str(TOKENS), "--compute", dtype, "--json", "-o",
               os.path.join(args.work, "out.png")]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads(out)
    seconds = report["seconds"]
    return {"t5": seconds["t5"], "step": seconds["denoise"] / 2, "vae": seconds["decode"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--work", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--double", type=int, default=2)
    parser.add_argument("--single", type=int, default=4)
    parser.add_argument("--t5-layers", type=int, default=4)
    parser.add_argument("--dtypes", default="f32,bf16")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    if not os.path.exists(os.path.join(args.work, "complete")):
        build(args.work, args)
    print(f"{args.double} double, {args.single} single blocks, T5 of {args.t5_layers} layers, "
          f"{args.size}x{args.size}, {TOKENS} text tokens, {os.cpu_count()} threads; medians of "
          f"{args.rounds} rounds in turn, seconds")
    print(f"{'':10} {'diffusers':>10} {'nibble':>10} {'ratio':>8}   (ratio > 1: nibble is faster)")
    for dtype in args.dtypes.split(","):
        folder = os.path.join(args.work, dtype)
        reference = Torch(folder, dtype, args.size)
        rounds = []
        for i in range(args.rounds + 1):  # the first is a warm-up
            rounds.append((reference.measure(), nibble(args, folder, dtype)))
        for part in ("t5", "step", "vae"):
            theirs = statistics.median(r[0][part] for r in rounds[1:])
            ours = statistics.median(r[1][part] for r in rounds[1:])
            print(f"{dtype} {part:6} {theirs:10.3f} {ours:10.3f} {theirs / ours:8.2f}",
                  flush=True)
        del reference
        gc.collect()


if __name__ == "__main__":
    main()
