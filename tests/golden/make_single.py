"""A FLUX.1 pipeline as single files (BFL's transformer and VAE, ComfyUI's text encoders): flux/single-files.

    make_single.py [-o FOLDER]        as make_flux.py, whose versions and conventions hold

No config files: all that is not in the tensors' shapes is FLUX.1's own (head_dim 128 with axes 16, 56, 56; CLIP and T5
heads of 64; quick_gelu; 32 groups in the VAE; scaling 0.3611, shift 0.1159; dynamic shift with a guidance embedder).
Traps: the final layer's halves are (shift, scale) and the VAE's decoder levels are reversed, fused
qkv and linear1 with one scale, attention as 1x1 convolutions, text_projection and position_ids to be ignored, T5's
embedding stored twice.  The files are read back by diffusers' own single-file converters.
"""
import argparse
import inspect
import os
import shutil

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

import make_flux as flux

F32, F16, BF16, F8 = flux.F32, flux.F16, flux.BF16, flux.F8
TRANSFORMER = dict(flux.HEAD128, pooled_projection_dim=64)
CLIP = dict(flux.CLIP, hidden_size=64, intermediate_size=96, num_attention_heads=1)
T5 = dict(flux.T5, d_model=32, num_heads=2, d_kv=64, relative_attention_num_buckets=32, relative_attention_max_distance=128)
VAE = flux.vae(4, block_out_channels=(32, 32, 32, 32), layers_per_block=2, norm_num_groups=32)
FILES = {"--transformer": "flux1-dev.safetensors", "--vae": "ae.safetensors", "--clip": "clip_l.safetensors",
         "--t5": "t5xxl.safetensors"}
flux.CASES["single-files"] = dict(model="single", prompt="a photo of the small horse, beside a river", seed=21, size=(48, 64),
                                  steps=2, t5_length=24, noise="bf16")


def bfl_transformer(s):
    """diffusers' names -> BFL's; every `pick` takes weight and bias along"""
    out = {}

    def pick(new, *old, suffixes=("weight", "bias")):
        for x in suffixes:
            out[f"{new}.{x}"] = torch.cat([s.pop(f"{o}.{x}") for o in old])

    def norm(new, old):
        out[f"{new}.scale"] = s.pop(f"{old}.weight")

    pick("img_in", "x_embedder")
    pick("txt_in", "context_embedder")
    for new, old in (("time_in", "timestep"), ("guidance_in", "guidance"), ("vector_in", "text")):
        pick(f"{new}.in_layer", f"time_text_embed.{old}_embedder.linear_1")
        pick(f"{new}.out_layer", f"time_text_embed.{old}_embedder.linear_2")
    for i in range(TRANSFORMER["num_layers"]):
        a, b = f"transformer_blocks.{i}", f"double_blocks.{i}"
        for side, mod, ff, q, k, v, o, n in (("img", "norm1", "ff", "to_q", "to_k", "to_v", "to_out.0", "norm_"),
                                             ("txt", "norm1_context", "ff_context", "add_q_proj", "add_k_proj", "add_v_proj",
                                              "to_add_out", "norm_added_")):
            pick(f"{b}.{side}_mod.lin", f"{a}.{mod}.linear")
            pick(f"{b}.{side}_attn.qkv", *(f"{a}.attn.{x}" for x in (q, k, v)))
            norm(f"{b}.{side}_attn.norm.query_norm", f"{a}.attn.{n}q")
            norm(f"{b}.{side}_attn.norm.key_norm", f"{a}.attn.{n}k")
            pick(f"{b}.{side}_attn.proj", f"{a}.attn.{o}")
            pick(f"{b}.{side}_mlp.0", f"{a}.{ff}.net.0.proj")
            pick(f"{b}.{side}_mlp.2", f"{a}.{ff}.net.2")
    for i in range(TRANSFORMER["num_single_layers"]):
        a, b = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        pick(f"{b}.modulation.lin", f"{a}.norm.linear")
        pick(f"{b}.linear1", f"{a}.attn.to_q", f"{a}.attn.to_k", f"{a}.attn.to_v", f"{a}.proj_mlp")
        pick(f"{b}.linear2", f"{a}.proj_out")
        norm(f"{b}.norm.query_norm", f"{a}.attn.norm_q")
        norm(f"{b}.norm.key_norm", f"{a}.attn.norm_k")
    pick("final_layer.linear", "proj_out")
    for x in ("weight", "bias"):
        scale, shift = s.pop(f"norm_out.linear.{x}").chunk(2)
        out[f"final_layer.adaLN_modulation.1.{x}"] = torch.cat([shift, scale])
    assert not s, s.keys()
    return out


def bfl_vae(s):
    """diffusers' names -> BFL's, the decoder alone: a picture from text needs no more"""
    out = {}
    for key, w in s.items():
        if not key.startswith("decoder."):
            continue
        for i in range(4):
            key = key.replace(f"up_blocks.{i}.resnets", f"up.{3 - i}.block")
            key = key.replace(f"up_blocks.{i}.upsamplers.0", f"up.{3 - i}.upsample")
        for old, new in (("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"), ("conv_norm_out", "norm_out"),
                         ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"), ("conv_shortcut", "nin_shortcut"),
                         ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"), ("mid_block.attentions.0.to_", "mid.attn_1.")):
            key = key.replace(old, new)
        out[key] = w[:, :, None, None] if "attn_1" in key and w.ndim == 2 else w
    return out


def scaled_fp8(state):
    out = {"scaled_fp8": torch.ones(2).to(F8)}
    for key, w in state.items():
        if w.ndim != 2 or "blocks" not in key:
            out[key] = w.to(BF16)
        else:
            scale = w.abs().max() / 448
            out[key] = (w / scale).to(F8)
            out[key.removesuffix(".weight") + ".scale_weight"] = scale
    return out


def cast(state, dtype):
    return {k: v.to(dtype).contiguous() for k, v in state.items()}


def make_files(root):
    folder = f"{root}/models/single"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    flux.tiny_tokenizers.write_clip(f"{folder}/tokenizer")
    flux.tiny_tokenizers.write_t5(f"{folder}/tokenizer_2")
    gen = torch.Generator().manual_seed(21)
    save_file(scaled_fp8(bfl_transformer(dict(flux.new_transformer(TRANSFORMER, gen).state_dict()))), f"{folder}/flux1-dev.safetensors")
    clip = {"text_model." + k.removeprefix("text_model."): v for k, v in flux.new_clip(CLIP, gen).state_dict().items()}
    clip["text_projection.weight"] = torch.randn(64, 64, generator=gen)
    clip = cast(clip, F16)
    clip["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(clip, f"{folder}/clip_l.safetensors")
    t5 = cast(flux.new_t5(T5, gen).state_dict(), F16)
    t5["encoder.embed_tokens.weight"] = t5["shared.weight"].clone()
    save_file(t5, f"{folder}/t5xxl.safetensors", {"format": "pt"})
    save_file(cast(bfl_vae(flux.new_vae(VAE, gen).state_dict()), BF16), f"{folder}/ae.safetensors")


def load(folder, dtype=F32):
    state = load_file(f"{folder}/flux1-dev.safetensors")
    del state["scaled_fp8"]
    for key in [k for k in state if k.endswith(".scale_weight")]:
        weight = key.removesuffix(".scale_weight") + ".weight"
        state[weight] = state[weight].to(F32) * state.pop(key)
    # The converter has FLUX.1's inner width as a constant.
    text = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert text.count("inner_dim = 3072") == 1
    names = dict(vars(single_file_utils))
    exec(text.replace("inner_dim = 3072", "inner_dim = 128"), names)
    transformer = FluxTransformer2DModel(**TRANSFORMER)
    transformer.load_state_dict(cast(names["convert_flux_transformer_checkpoint_to_diffusers"](state), F32))

    vae = AutoencoderKL(**VAE)
    state = single_file_utils.convert_ldm_vae_checkpoint(load_file(f"{folder}/ae.safetensors"), vae.config)
    missing, unexpected = vae.load_state_dict(cast(state, F32), strict=False)
    assert not unexpected and all(k.startswith("encoder.") for k in missing), (missing, unexpected)

    clip = CLIPTextModel(CLIPTextConfig(**CLIP))
    prefix = "text_model." if next(iter(clip.state_dict())).startswith("text_model.") else ""
    state = {prefix + k.removeprefix("text_model."): v for k, v in load_file(f"{folder}/clip_l.safetensors").items()
             if k.startswith("text_model.") and not k.endswith("position_ids")}
    clip.load_state_dict(cast(state, F32))
    t5 = T5EncoderModel(T5Config(**T5))
    t5.load_state_dict(cast(load_file(f"{folder}/t5xxl.safetensors"), F32))

    pipe = FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(**flux.DYNAMIC), text_encoder=clip, text_encoder_2=t5,
                        tokenizer=CLIPTokenizer.from_pretrained(f"{folder}/tokenizer"),
                        tokenizer_2=T5TokenizerFast.from_pretrained(f"{folder}/tokenizer_2"), transformer=transformer, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    for part in (clip, t5, transformer, vae):
        part.eval().to(dtype)
    return pipe


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{flux.HERE}/flux", help="output folder")
    root = ap.parse_args().o
    flux.calm()
    make_files(root)
    folder = f"{root}/single-files"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    tensors, pictures, ids = flux.run(root, "single-files", load=load)
    args = flux.arguments(flux.CASES["single-files"])
    for flag, file in FILES.items():
        args += [flag, f"@CASE@/../models/single/{file}"]
    args += ["--tokenizers", "@CASE@/../models/single"]
    flux.save_case(folder, tensors, pictures, {"parts": "../models/single", "args": args, **ids})
    wide = flux.run(root, "single-files", torch.float64, load=load)[0]
    print(max(((wide[k] - tensors[k]).abs().max() / (wide[k].max() - wide[k].min())).item() for k in tensors if k != "noise"))


if __name__ == "__main__":
    main()
