"""Small random FLUX.1 pipelines in the published layouts, and what diffusers computes from them.

    make_flux.py [-o FOLDER] [CASE ...]        default folder: flux/ beside this file; default: every case

Pinned: torch 2.15.0, diffusers 0.42.1, transformers 5.24.0, tokenizers 0.23.3, safetensors 0.8.0,
sentencepiece 0.2.3, protobuf 7.36.2, numpy 2.4.6, pillow 13.0.0, CPython 3.11, x86-64 (AVX2), CPU only.

FOLDER/models/NAME     a pipeline; parts it shares with another one are relative links, as in the Hugging Face cache
FOLDER/CASE/case.json  {"model": folder relative to the case, "args": what follows `nibble image -m MODEL`,
                        "clip_ids", "t5_ids": of the prompt, with special tokens, not cut, not padded}; @CASE@ in an
                        argument stands for the case's folder
                       "parts": in place of "model" where the parts are single files named in args: the folder that
                        holds tokenizer/ and tokenizer_2/ (make_single.py)
FOLDER/CASE/expected.safetensors   the tensors of `nibble image --compute f32 --dump FILE`, F32
FOLDER/CASE/expected.png           the picture (expected.0.png, expected.1.png ... with -b)

All arithmetic is diffusers' at float32 on weights that are expanded to F32 exactly.  The noise alone is drawn in the
dtype that the checkpoint's T5 has, as FluxPipeline does when it runs in the checkpoint's dtype, unless the case's
--noise-dtype says otherwise.  `--check` also runs each case in float64 (how much room is below the tolerance?) and with
deliberate mistakes (would the expected values notice?).
"""
import argparse
import json
import os
import shutil

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

import diffusers.utils
import transformers.utils.logging

import tiny_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
F32, F16, BF16, F8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn

# ---------------------------------------------------------------- models

TRANSFORMER = dict(in_channels=64, num_layers=2, num_single_layers=2, num_attention_heads=3, attention_head_dim=16,
                   joint_attention_dim=40, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6))
T5 = dict(vocab_size=256, d_model=40, d_kv=12, num_heads=3, d_ff=56, num_layers=2, relative_attention_num_buckets=16,
          relative_attention_max_distance=40, feed_forward_proj="gated-gelu", decoder_start_token_id=0)
CLIP = dict(vocab_size=674, hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1)
VAE = dict(block_out_channels=(8, 16, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=16,
           scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False,
           mid_block_add_attention=True, sample_size=64)
DYNAMIC = dict(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)
STATIC = dict(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


def vae(levels, **more):
    return dict(VAE, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
                **{"block_out_channels": VAE["block_out_channels"][:levels], **more})


HEAD128 = dict(TRANSFORMER, num_attention_heads=1, attention_head_dim=128, num_layers=1, num_single_layers=1,
               joint_attention_dim=32, pooled_projection_dim=24, axes_dims_rope=(16, 56, 56))
SCHNELL = dict(TRANSFORMER, num_attention_heads=2, attention_head_dim=20, guidance_embeds=False, joint_attention_dim=32,
               pooled_projection_dim=24, axes_dims_rope=(8, 4, 8))

# name -> its own parts; a part that is missing here is linked from `base`.
MODELS = {
    "dev": dict(seed=1, dtype=F32, transformer=TRANSFORMER, t5=T5, clip=CLIP, vae=vae(4), scheduler=DYNAMIC,
                tokenizer={}, tokenizer_2={}),
    # quiet: first activations so small that the epsilons of the norms are seen.
    "schnell": dict(seed=2, dtype=BF16, quiet=0.03, scheduler=STATIC, vae=vae(4, layers_per_block=2), tokenizer={},
                    tokenizer_2=dict(full_charsmap=True), clip=dict(CLIP, hidden_size=24, num_attention_heads=3),
                    t5=dict(T5, d_model=32, num_heads=4, d_kv=8, relative_attention_num_buckets=32,
                            relative_attention_max_distance=128), transformer=SCHNELL),
    "sharded": dict(seed=3, dtype=BF16, shard={"transformer": "150KB", "text_encoder_2": "16KB"}, scheduler=DYNAMIC,
                    vae=vae(3, mid_block_add_attention=False, norm_num_groups=2, scaling_factor=0.72, shift_factor=-0.21),
                    tokenizer=dict(as_json=True), tokenizer_2=dict(spiece_only=True), t5_embed="encoder.embed_tokens.weight",
                    clip=dict(CLIP, hidden_size=20), clip_prefix="text_model.",
                    t5=dict(T5, d_model=24, num_heads=2, d_kv=10),
                    transformer=dict(TRANSFORMER, num_attention_heads=4, attention_head_dim=12, joint_attention_dim=24,
                                     pooled_projection_dim=20, axes_dims_rope=(2, 4, 6))),
    # F16 transformer and T5, BF16 CLIP, F32 VAE: each part has its own dtype, and T5's decides the noise.
    "f16": dict(seed=4, dtype=F16, dtypes={"clip": BF16, "vae": F32}, base="dev", scheduler=dict(STATIC, shift=3.0),
                t5=dict(T5, num_heads=5, d_kv=6, num_layers=3, layer_norm_epsilon=1e-5), vae=vae(2, layers_per_block=1),
                clip=dict(CLIP, num_attention_heads=4, hidden_act="gelu", eos_token_id=1, layer_norm_eps=1e-4), quiet=0.1,
                tokenizer=dict(specials_first=True), clip_prefix="text_model.",
                transformer=dict(TRANSFORMER, num_layers=1, num_single_layers=3, num_attention_heads=2, attention_head_dim=24,
                                 axes_dims_rope=(6, 8, 10))),
    # head_dim 128 and axes_dims_rope not in config.json; plain cast e4m3 in the blocks, the rest BF16.
    "fp8": dict(seed=5, dtype=BF16, base="schnell", fp8="plain", scheduler=DYNAMIC, transformer=HEAD128,
                absent={"transformer": ["axes_dims_rope", "out_channels", "patch_size"]}),
    # e4m3 with an F32 scalar per layer, under its two names.
    "fp8-scale-weight": dict(seed=6, dtype=BF16, base="schnell", fp8="scale_weight", transformer=SCHNELL),
    "fp8-weight-scale": dict(seed=7, dtype=BF16, base="schnell", fp8="weight_scale", transformer=dict(SCHNELL, num_layers=1)),
    "static-3": dict(base="dev", scheduler=dict(STATIC, shift=3.0)),
    "linear-shift": dict(base="dev", scheduler=dict(DYNAMIC, time_shift_type="linear", base_image_seq_len=4,
                                                    max_image_seq_len=64, base_shift=0.6, max_shift=2.5)),
    "terminal-shift": dict(base="schnell", scheduler=dict(DYNAMIC, shift_terminal=0.1)),
}

WORDS = "red blue green small large old new bright dark quiet loud round flat tall short warm cold".split()
LONG = ", ".join(f"a {WORDS[i * 7 % 17]} {WORDS[i * 5 % 13]} house number {i}" for i in range(40))

CASES = {
    # FluxPipeline as it is for dev: guidance embedder, exponential dynamic shift (trap 30: shift 3.0 unused), 512 tokens,
    # F32 checkpoint -> F32 noise; CLIP without the text_model. prefix.
    "dev-square": dict(model="dev", prompt="a photo of a cat", seed=7, size=(64, 64), steps=3),
    # No guidance embedder (--guidance must be ignored, trap 7), static shift 1, 256 tokens (trap 40), bf16 noise field of
    # torch >= 2.12 by default (trap 21), nmt_nfkc charsmap with non-ASCII text (traps 39, 41, 42), epsilons (trap 11).
    "schnell": dict(model="schnell", prompt="ﬁsh & chips… ① café ｈｅｌｌｏ\u3000漢字 🙂", seed=42, size=(64, 64), steps=4,
                    args=["--guidance", "9"]),
    # Not square and not divisible by 16 (75x107 -> 64x96, trap 26): rows and columns of positions and of packing (trap 20).
    "rectangular": dict(model="dev", prompt="A painting of the small red house, in the rain", seed=3, size=(107, 75), steps=2,
                        guidance=2.5, t5_length=40),
    # BF16 shards with an index (transformer and T5), T5 embedding under its other name (trap 5), CLIP with the text_model.
    # prefix, spiece.model only, CLIP tokenizer.json only, 3-level VAE without attention, other scaling and shift (trap 28);
    # the prompt is cut at --t5-length.
    "sharded-bf16": dict(model="sharded", prompt="It's an oil sketch of 12 lighthouses, at sunset", seed=11, size=(48, 36),
                         steps=3, t5_length=24, guidance=4.25),
    # True CFG: two passes, the same guidance embedding in both, v = v_neg + s (v_pos - v_neg).
    "true-cfg": dict(model="dev", prompt="a green triangle", negative="blurry, text", true_cfg=2.5, seed=5, size=(48, 48),
                     steps=2, t5_length=20),
    # True CFG without a guidance embedder, an empty negative prompt, -b 2 with one generator.
    "true-cfg-schnell": dict(model="schnell", prompt="a blue square", negative="", true_cfg=1.75, seed=8, size=(48, 32),
                             steps=2, batch=2, t5_length=16),
    # A negative prompt changes nothing while true CFG is 1.
    "negative-ignored": dict(model="schnell", prompt="a robot", negative="a cat", seed=12, size=(32, 32), steps=2, t5_length=16),
    # One generator goes on from picture to picture; seed above 2^32 (trap 24: 4294967303 is 7).
    "batch-2": dict(model="dev", prompt="the small dog, on Mars", seed=2 ** 32 + 7, size=(32, 48), steps=2, batch=2,
                    t5_length=16),
    # --seed-step: a generator for each picture, seed and seed + 1.
    "seed-step": dict(model="sharded", prompt="a very large horse", seed=2 ** 33 - 1, size=(32, 32), steps=2, batch=2,
                      seed_step=True, t5_length=16, args=["--seed-step"]),
    # A single step: sigmas 1, 0.  Empty prompt: CLIP bos eos, T5 eos and pads.
    "one-step": dict(model="dev", prompt="", seed=0, size=(32, 32), steps=1),
    # Longer than CLIP's 77 and T5's 512: both are cut, keeping their end token.
    "long-prompt": dict(model="dev", prompt=LONG, seed=9, size=(32, 32), steps=2, guidance=1),
    # Literal special tokens: CLIP pools at the first end token (trap 37), T5 maps them directly (6.2 step 1).
    "special-tokens": dict(model="dev", prompt="a cat <|endoftext|> a dog </s> and <extra_id_7> <pad> end", seed=10,
                           size=(32, 32), steps=2, t5_length=32),
    # Start from a file, packed; the seed is not used.
    "init-latents": dict(model="dev", prompt="a painting of a dog", seed=1, size=(64, 32), steps=2, t5_length=16,
                         init=(1, 8, 64)),
    # Start from a file, unpacked [1,16,h,w].
    "init-unpacked": dict(model="schnell", prompt="a painting of a dog", seed=1, size=(32, 48), steps=2, t5_length=16,
                          init=(1, 16, 6, 4)),
    # F16 weights: T5 of F16 -> the noise is rounded to F16.  CLIP with erf gelu, own eos_token_id that is not the largest id
    # (trap 37: no argmax), own epsilons, static shift 3, 2-level VAE (a token is 4 pixels), 1 double and 3 single blocks.
    "f16": dict(model="f16", prompt="we've seen a café, inside a box!!", seed=13, size=(48, 40), steps=3, t5_length=32),
    "f16-noise-f32": dict(model="f16", prompt="naïve (half) 3/4", seed=13, size=(16, 24), steps=2, t5_length=32, noise="f32"),
    # --noise-dtype against the checkpoint's.
    "noise-f32": dict(model="sharded", prompt="a photo of a robot", seed=14, size=(32, 32), steps=2, t5_length=16, noise="f32"),
    "noise-bf16": dict(model="dev", prompt="a photo of a robot", seed=14, size=(32, 32), steps=2, t5_length=16, noise="bf16"),
    # The bf16 field of torch <= 2.11 (trap 21).
    "noise-bf16-8bit": dict(model="schnell", prompt="a photo of a robot", seed=42, size=(32, 32), steps=2, t5_length=16,
                            noise="bf16-8bit"),
    # head_dim 128 with the default axes 16, 56, 56 (trap 4), dynamic shift, guidance; weights e4m3 without scales.
    "fp8-plain": dict(model="fp8", prompt="a red circle beside a river", seed=15, size=(64, 48), steps=2, t5_length=24),
    # e4m3 times scale_weight; marker scaled_fp8 and scale_input are to be ignored.
    "fp8-scale-weight": dict(model="fp8-scale-weight", prompt="a red circle", seed=16, size=(48, 32), steps=2, t5_length=24),
    "fp8-weight-scale": dict(model="fp8-weight-scale", prompt="a red circle", seed=16, size=(32, 48), steps=2, t5_length=24),
    # Schedules: shift 3 without dynamic shifting; linear time shift with its own mu line; shift_terminal.
    "static-shift-3": dict(model="static-3", prompt="don't paint", seed=17, size=(32, 32), steps=4, t5_length=16),
    "linear-shift": dict(model="linear-shift", prompt="don't paint", seed=17, size=(96, 64), steps=4, t5_length=16),
    "terminal-shift": dict(model="terminal-shift", prompt="don't paint", seed=17, size=(32, 32), steps=4, t5_length=16),
}


# Random weights with the statistics that make a mistake visible: activations of order 1, softmaxes neither uniform nor
# one-hot, norm weights away from 1, biases away from 0, gates and modulations of order 1.
def fill(module, gen, gains=()):
    with torch.no_grad():
        for name, p in module.named_parameters():
            r = torch.randn(p.shape, generator=gen)
            gain = next((g for key, g in gains if key in name), 1.0)
            if p.ndim == 1 and name.endswith("weight"):
                p.copy_((1 + 0.3 * r) * gain)
            elif p.ndim == 1:
                p.copy_(0.2 * r)
            else:
                p.copy_(r * gain * (p[0].numel() ** -0.5))


def new_transformer(cfg, gen, quiet=1.0):
    m = FluxTransformer2DModel(**cfg)
    fill(m, gen, [("norm_q.", 1.4), ("norm_k.", 1.4), ("norm_added_", 1.4), ("norm1", 0.8), ("norm.linear", 0.8),
                  ("norm_out.linear", 0.5), ("time_text_embed", 1.4)])
    with torch.no_grad():
        for p in (*m.x_embedder.parameters(), *m.context_embedder.parameters(), *m.transformer_blocks[0].attn.to_q.parameters(),
                  *m.single_transformer_blocks[0].attn.to_k.parameters()):
            p *= quiet
    return m


def new_t5(cfg, gen, quiet=1.0):
    m = T5EncoderModel(T5Config(**cfg))
    inner = (cfg["d_kv"] ** -0.25) * 1.2     # no 1/sqrt(d) in T5: q.k gets it from the weights
    fill(m, gen, [("shared", cfg["d_model"] ** 0.5), ("embed_tokens", cfg["d_model"] ** 0.5),
                  ("relative_attention_bias", 3.0), ("SelfAttention.q", inner), ("SelfAttention.k", inner),
                  ("SelfAttention.o", 1.2), ("DenseReluDense.wo", 1.5)])
    with torch.no_grad():
        m.shared.weight *= quiet
    return m


def new_clip(cfg, gen, quiet=1.0):
    m = CLIPTextModel(CLIPTextConfig(**cfg))
    d = cfg["hidden_size"] ** 0.5
    fill(m, gen, [("token_embedding", d), ("position_embedding", 0.5 * d), ("q_proj", 1.4), ("k_proj", 1.4)])
    with torch.no_grad():
        for p in m.get_submodule("embeddings" if hasattr(m, "embeddings") else "text_model.embeddings").parameters():
            p *= quiet
    return m


def new_vae(cfg, gen, quiet=1.0):
    m = AutoencoderKL(**cfg)
    fill(m, gen, [("to_q", 1.4), ("to_k", 1.4), ("conv_shortcut", 1.0)])
    with torch.no_grad():           # contrast: the picture's values of order 0.5 around 0, few of them clamped
        for p in m.decoder.conv_in.parameters():
            p *= quiet
        size = cfg["sample_size"] // 2 ** (len(cfg["block_out_channels"]) - 1)
        z = torch.randn(1, 16, size, size, generator=gen) / cfg["scaling_factor"] + cfg["shift_factor"]
        x = m.decode(z).sample
        m.decoder.conv_out.weight *= 0.45 / x.std()
        m.decoder.conv_out.bias *= 0.5
    return m


def save_part(part, folder, dtype, shard=None):
    part.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))


def rename(folder, change):
    """Rename tensors of a saved part, in its shards and its index."""
    for f in os.listdir(folder):
        path = f"{folder}/{f}"
        if f.endswith(".safetensors"):
            save_file({change(k): v for k, v in load_file(path).items()}, path, {"format": "pt"})
        elif f.endswith(".index.json"):
            index = json.load(open(path))
            index["weight_map"] = {change(k): v for k, v in index["weight_map"].items()}
            tiny_tokenizers.dump(path, index)


def to_fp8(path, form):
    """The blocks' matrices as e4m3: "plain" casts, the others with an F32 scale per layer under that name."""
    out = {} if form == "plain" else {"scaled_fp8": torch.ones(2).to(F8)} if form == "scale_weight" else {}
    for key, w in load_file(path).items():
        if w.ndim != 2 or "blocks" not in key:
            out[key] = w
        elif form == "plain":
            out[key] = w.to(F8)
        else:
            layer = key.removesuffix(".weight")
            scale = w.float().abs().max() / 448
            out[key] = (w.float() / scale).to(F8)
            out[f"{layer}.{form}"] = scale
            out[f"{layer}.{'scale_input' if form == 'scale_weight' else 'input_scale'}"] = torch.tensor(0.75)
    save_file(out, path, {"format": "pt"})


CONFIG_NOISE = ("_name_or_path", "transformers_version", "_diffusers_version")
PARTS = {"transformer": ("diffusers", "FluxTransformer2DModel"), "vae": ("diffusers", "AutoencoderKL"),
         "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"), "text_encoder": ("transformers", "CLIPTextModel"),
         "text_encoder_2": ("transformers", "T5EncoderModel"), "tokenizer": ("transformers", "CLIPTokenizer"),
         "tokenizer_2": ("transformers", "T5TokenizerFast")}


def make_model(root, name):
    spec = MODELS[name]
    folder = f"{root}/models/{name}"
    if "base" in spec:
        make_model_once(root, spec["base"])
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    gen, quiet = torch.Generator().manual_seed(spec.get("seed", 0)), spec.get("quiet", 1.0)
    makers = {"transformer": new_transformer, "t5": new_t5, "clip": new_clip, "vae": new_vae}
    folders = {"transformer": "transformer", "t5": "text_encoder_2", "clip": "text_encoder", "vae": "vae"}
    if "tokenizer" in spec:
        tiny_tokenizers.write_clip(f"{folder}/tokenizer", **spec["tokenizer"])
    if "tokenizer_2" in spec:
        assert tiny_tokenizers.write_t5(f"{folder}/tokenizer_2", **spec["tokenizer_2"]) <= T5["vocab_size"]
    for part, make in makers.items():
        if part in spec:
            sub = folders[part]
            save_part(make(spec[part], gen, quiet), f"{folder}/{sub}", spec.get("dtypes", {}).get(part, spec["dtype"]),
                      spec.get("shard", {}).get(sub))
    if "t5_embed" in spec:
        rename(f"{folder}/text_encoder_2", lambda k: spec["t5_embed"] if k == "shared.weight" else k)
    if "clip" in spec:
        rename(f"{folder}/text_encoder", lambda k: spec.get("clip_prefix", "") + k.removeprefix("text_model."))
    if "fp8" in spec:
        to_fp8(f"{folder}/transformer/diffusion_pytorch_model.safetensors", spec["fp8"])
    if "scheduler" in spec:
        FlowMatchEulerDiscreteScheduler(**spec["scheduler"]).save_pretrained(f"{folder}/scheduler")
    for part in PARTS:
        if not os.path.lexists(f"{folder}/{part}"):
            os.symlink(f"../{spec['base']}/{part}", f"{folder}/{part}")
        elif os.path.exists(f"{folder}/{part}/config.json"):
            path = f"{folder}/{part}/config.json"
            config = {k: v for k, v in json.load(open(path)).items() if k not in CONFIG_NOISE}
            for key in spec.get("absent", {}).get(part, ()):
                del config[key]
            tiny_tokenizers.dump(path, config)
    tiny_tokenizers.dump(f"{folder}/model_index.json", {"_class_name": "FluxPipeline", **{k: list(v) for k, v in PARTS.items()}})


MADE = set()


def make_model_once(root, name):
    if name not in MADE:
        MADE.add(name)
        make_model(root, name)


# ---------------------------------------------------------------- the reference

def load_pipeline(folder, dtype=F32):
    """FluxPipeline of a directory, every stored value expanded exactly to dtype."""
    sub = lambda part: f"{folder}/{part}"
    t5_file = sub("text_encoder_2")
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(sub("scheduler")),
        text_encoder=CLIPTextModel.from_pretrained(sub("text_encoder"), dtype=F32),
        text_encoder_2=load_t5(t5_file), tokenizer=CLIPTokenizer.from_pretrained(sub("tokenizer")),
        tokenizer_2=T5TokenizerFast.from_pretrained(sub("tokenizer_2")),
        transformer=load_transformer(sub("transformer")), vae=AutoencoderKL.from_pretrained(sub("vae"), torch_dtype=F32))
    pipe.set_progress_bar_config(disable=True)
    for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer, pipe.vae):
        part.eval().to(dtype)
    return pipe


def stored(folder):
    """All tensors of a part as they are in its file(s)."""
    out = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".safetensors"):
            out.update(load_file(f"{folder}/{f}"))
    return out


def load_t5(folder):
    m = T5EncoderModel(T5Config.from_pretrained(folder))
    state = {k: v.to(F32) for k, v in stored(folder).items()}
    embed = state.pop("shared.weight", None)
    embed = state.pop("encoder.embed_tokens.weight") if embed is None else embed
    missing, unexpected = m.load_state_dict({**state, "shared.weight": embed}, strict=False)
    assert not unexpected and set(missing) <= {"encoder.embed_tokens.weight"}, (missing, unexpected)
    assert torch.equal(m.encoder.embed_tokens.weight, embed)
    return m


def load_transformer(folder):
    m = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(folder))
    state = stored(folder)
    scales = {}
    for key in [k for k in state if k.endswith((".scale_weight", ".weight_scale"))]:
        scales[key.rsplit(".", 1)[0] + ".weight"] = state.pop(key)
    for key in [k for k in state if k.endswith((".scale_input", ".input_scale")) or k == "scaled_fp8"]:
        del state[key]
    state = {k: v.to(F32) * scales.pop(k, torch.ones(())) for k, v in state.items()}
    assert not scales
    m.load_state_dict(state, strict=True)
    return m


NOISE = {"f32": F32, "bf16": BF16, "f16": F16}


def bf16_8bit(n, generator):
    """torch.randn(n, dtype=bfloat16) as torch <= 2.11 drew it on the CPU (n a multiple of 16), in words of this torch."""
    low_byte = torch.empty(n, dtype=torch.int64).random_(0, 256, generator=generator)   # one 32-bit draw each
    u = (low_byte.to(F32) / 256).view(-1, 2, 8)
    r = ((1 - u[:, 0]).double().log().to(BF16) * -2).double().sqrt().to(BF16)
    theta = (2 * torch.pi * u[:, 1].double()).to(F32).to(BF16)
    return torch.stack([r * theta.double().cos().to(BF16), r * theta.double().sin().to(BF16)], 1).reshape(n)


def draw(shape, seed, kind):
    gen = torch.Generator("cpu").manual_seed(seed)
    if kind == "bf16-8bit":
        return bf16_8bit(torch.Size(shape).numel(), gen).view(shape).to(F32)
    return torch.randn(shape, generator=gen, dtype=NOISE.get(kind, kind)).to(F32)


def run(root, case, dtype=F32, damage=None, load=load_pipeline):
    """-> (tensors as nibble dumps them, pictures as PIL, ids)"""
    spec = CASES[case]
    folder = f"{root}/models/{spec['model']}"
    pipe = load(folder, dtype)
    if damage:
        damage(pipe)
    width, height = spec["size"]
    b = spec.get("batch", 1)
    px = 2 * pipe.vae_scale_factor
    h, w = 2 * (height // px), 2 * (width // px)
    length = spec.get("t5_length") or (512 if pipe.transformer.config.guidance_embeds else 256)
    kind = spec.get("noise") or next(iter(stored(f"{folder}/text_encoder_2").values())).dtype
    if spec.get("seed_step"):
        noise = torch.cat([draw((1, 16, h, w), spec["seed"] + i, kind) for i in range(b)])
    else:
        noise = draw((b, 16, h, w), spec["seed"], kind)
    out = {}
    start = FluxPipeline._pack_latents(noise, b, 16, h, w)
    if "init" in spec:
        start = load_file(f"{root}/{case}/latents.safetensors")["latents"]
        start = start if start.ndim == 3 else FluxPipeline._pack_latents(start, b, 16, h, w)
    else:
        out["noise"] = noise

    encode, step = pipe.encode_prompt, pipe.scheduler.step

    def spy_encode(*args, **kwargs):
        r = encode(*args, **kwargs)
        if "prompt_embeds" not in out:      # the first call is the prompt, the second the negative one
            out["prompt_embeds"], out["pooled_prompt_embeds"] = r[0][:1], r[1][:1]
        return r

    def spy_step(velocity, t, sample, **kwargs):
        i = pipe.scheduler.step_index or 0
        if i == 0:
            out["latents.0"] = sample
        r = step(velocity, t, sample, **kwargs)
        out[f"velocity.{i}"], out[f"latents.{i + 1}"] = velocity, r[0]
        return r

    pipe.encode_prompt, pipe.scheduler.step = spy_encode, spy_step
    more = dict(negative_prompt=spec["negative"], true_cfg_scale=spec.get("true_cfg", 1.0)) if "negative" in spec else {}
    image = pipe(prompt=spec["prompt"], height=height, width=width, num_inference_steps=spec["steps"],
                 guidance_scale=spec.get("guidance", 3.5), num_images_per_prompt=b, latents=start.to(dtype), output_type="pt",
                 max_sequence_length=length, **more).images
    out["image"] = image
    out["sigmas"] = pipe.scheduler.sigmas
    pictures = pipe.image_processor.numpy_to_pil(pipe.image_processor.pt_to_numpy(image.to(F32)))
    ids = {"clip_ids": pipe.tokenizer(spec["prompt"]).input_ids, "t5_ids": pipe.tokenizer_2(spec["prompt"]).input_ids}
    for part, key in (("tokenizer", "clip_ids"), ("tokenizer_2", "t5_ids")):    # see make_tokenizer.py
        path = f"{folder}/{part}/tokenizer.json"
        assert not os.path.exists(path) or Tokenizer.from_file(path).encode(spec["prompt"]).ids == ids[key]
    return {k: v.detach().to(dtype).contiguous() for k, v in sorted(out.items())}, pictures, ids


def arguments(spec):
    width, height = spec["size"]
    args = ["-p", spec["prompt"], "--seed", str(spec["seed"]), "--size", f"{width}x{height}", "--steps", str(spec["steps"])]
    flags = [("t5_length", "--t5-length"), ("guidance", "--guidance"), ("noise", "--noise-dtype"), ("batch", "-b"),
             ("negative", "--negative-prompt"), ("true_cfg", "--true-cfg")]
    for key, flag in flags:
        args += [flag, str(spec[key])] if key in spec else []
    return args + spec.get("args", []) + (["--init-latents", "@CASE@/latents.safetensors"] if "init" in spec else [])


def make_case(root, case):
    spec = CASES[case]
    make_model_once(root, spec["model"])
    folder = f"{root}/{case}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    if "init" in spec:
        latents = torch.randn(spec["init"], generator=torch.Generator().manual_seed(99)) * 0.9 + 0.1
        save_file({"latents": latents}, f"{folder}/latents.safetensors")
    tensors, pictures, ids = run(root, case)
    save_case(folder, tensors, pictures, {"model": f"../models/{spec['model']}", "args": arguments(spec), **ids})


def save_case(folder, tensors, pictures, case):
    save_file(tensors, f"{folder}/expected.safetensors")
    for i, p in enumerate(pictures):
        p.save(f"{folder}/expected.png" if len(pictures) == 1 else f"{folder}/expected.{i}.png")
    tiny_tokenizers.dump(f"{folder}/case.json", case)
    describe(os.path.basename(folder), tensors)


def describe(case, tensors):
    image = tensors["image"]
    clamped = ((image <= 0) | (image >= 1)).float().mean().item()
    last = tensors[max((k for k in tensors if k.startswith("velocity.")), key=lambda k: int(k.split(".")[1]))]
    print(f"{case:16} image {tuple(image.shape)} mean {image.mean():.3f} std {image.std():.3f} clamped {clamped:.3f}; "
          f"velocity std {last.std():.3f}; prompt_embeds std {tensors['prompt_embeds'].std():.3f}; "
          f"pooled std {tensors['pooled_prompt_embeds'].std():.3f}")


# ---------------------------------------------------------------- would a mistake be seen?

def swap_halves(p, parts, a, b):
    rows = p.shape[0] // parts
    x, y = p[a * rows:(a + 1) * rows].clone(), p[b * rows:(b + 1) * rows].clone()
    p[a * rows:(a + 1) * rows], p[b * rows:(b + 1) * rows] = y, x


def damages():
    def swap(path, parts, a, b):
        def act(pipe):
            lin = pipe.transformer.get_submodule(path)
            with torch.no_grad():
                swap_halves(lin.weight, parts, a, b)
                swap_halves(lin.bias, parts, a, b)
        return act

    def theta(pipe):
        pipe.transformer.pos_embed.theta = 5000

    def axes(pipe):
        d = pipe.transformer.pos_embed.axes_dim
        pipe.transformer.pos_embed.axes_dim = list(d)[::-1]

    def ones(*names):
        def act(pipe):
            for key, p in pipe.transformer.named_parameters():
                if any(n in key for n in names):
                    p.data.fill_(1)
        return act

    def t5_distance(pipe):
        for m in pipe.text_encoder_2.modules():
            if hasattr(m, "relative_attention_max_distance"):
                m.relative_attention_max_distance *= 2

    def vae_eps(pipe):
        for m in pipe.vae.modules():
            if isinstance(m, torch.nn.GroupNorm):
                m.eps *= 10

    def norm_eps(pipe):
        for m in (*pipe.transformer.modules(), *pipe.text_encoder_2.modules(), *pipe.text_encoder.modules()):
            for key in ("eps", "variance_epsilon"):
                if isinstance(getattr(m, key, None), float):
                    setattr(m, key, getattr(m, key) * 10)

    def erf_gelu(pipe):
        for m in pipe.transformer.modules():
            if getattr(m, "approximate", None) == "tanh":
                m.approximate = "none"

    def t5_erf_gelu(pipe):
        for m in pipe.text_encoder_2.modules():
            if type(m).__name__ == "T5DenseGatedActDense":
                m.act = torch.nn.GELU()

    def sinusoid(pipe):
        pipe.transformer.time_text_embed.time_proj.downscale_freq_shift = 1

    def guidance(pipe):
        g = getattr(pipe.transformer.time_text_embed, "guidance_embedder", None)
        if g is not None:
            g.linear_2.weight.data.zero_()

    yield "norm_out halves swapped", swap("norm_out.linear", 2, 0, 1)
    yield "double block shift/scale", swap("transformer_blocks.0.norm1.linear", 6, 0, 1)
    yield "double block text gates", swap("transformer_blocks.0.norm1_context.linear", 6, 2, 5)
    yield "single block shift/scale", swap("single_transformer_blocks.0.norm.linear", 3, 0, 1)
    yield "theta 5000", theta
    yield "rope axes reversed", axes
    yield "text q/k norms 1", ones("norm_added_")
    yield "T5 max distance", t5_distance
    yield "VAE eps x10", vae_eps
    yield "other eps x10", norm_eps
    yield "erf GELU", erf_gelu
    yield "T5 erf GELU", t5_erf_gelu
    yield "sinusoid divisor 127", sinusoid
    yield "no guidance", guidance


def check(root, case):
    good = load_file(f"{root}/{case}/expected.safetensors")
    spread = lambda a, b, k: ((a[k].double() - b[k].double()).abs().max() / (a[k].max() - a[k].min())).item()
    wide = run(root, case, torch.float64)[0]
    keys = [k for k in good if good[k].numel() > 1 and k != "noise"]
    worst = max(keys, key=lambda k: spread(good, wide, k))
    print(f"{case:16} F32 against F64: worst {spread(good, wide, worst):.1e} ({worst})")
    for name, damage in damages():
        bad = run(root, case, damage=damage)[0]
        print(f"    {name:28} image {spread(good, bad, 'image'):.1e}  velocity.0 {spread(good, bad, 'velocity.0'):.1e}"
              f"  prompt_embeds {spread(good, bad, 'prompt_embeds'):.1e}")


def calm():
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{HERE}/flux", help="output folder")
    ap.add_argument("--check", action="store_true")
    ap.add_argument("cases", nargs="*", default=list(CASES))
    opt = ap.parse_args()
    calm()
    for case in opt.cases or list(CASES):
        (check if opt.check else make_case)(opt.o, case)


if __name__ == "__main__":
    main()
