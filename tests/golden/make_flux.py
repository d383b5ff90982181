"""Small random FLUX.1 pipelines in the published layouts, and what diffusers computes from them.

    make_flux.py [-o FOLDER] [CASE ...]        default folder: flux/ beside this file; default: every case

Pinned: torch 2.15.0, diffusers 0.42.1, transformers 5.24.0, tokenizers 0.23.3, safetensors 0.8.0,
sentencepiece 0.2.3, protobuf 7.36.2, numpy 2.4.6, pillow 13.0.0, CPython 3.11, x86-64 (AVX2), CPU only.

FOLDER/models/NAME     a pipeline; parts it shares with another one are relative links, as in the Hugging Face cache
FOLDER/CASE/case.json  {"model": folder relative to the case, "args": what follows `nibble image`, "why": the traps,
                        "clip_ids", "t5_ids": ids with special tokens, truncated, without padding}; @CASE@ in an argument
                        stands for the case's folder
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


# name -> its own parts; a part that is missing here is linked from `base`.  dtype: of what is written.
MODELS = {
    "dev": dict(seed=1, dtype=F32, transformer=TRANSFORMER, t5=T5, clip=CLIP, vae=vae(4), scheduler=DYNAMIC,
                tokenizer={}, tokenizer_2={}),
    "schnell": dict(seed=2, dtype=BF16, scheduler=STATIC, vae=vae(4, layers_per_block=2), tokenizer={},
                    tokenizer_2=dict(full_charsmap=True), clip=dict(CLIP, hidden_size=24, num_attention_heads=3),
                    t5=dict(T5, d_model=32, num_heads=4, d_kv=8, relative_attention_num_buckets=32,
                            relative_attention_max_distance=128),
                    transformer=dict(TRANSFORMER, num_attention_heads=2, attention_head_dim=20, guidance_embeds=False,
                                     joint_attention_dim=32, pooled_projection_dim=24, axes_dims_rope=(8, 4, 8))),
    "sharded": dict(seed=3, dtype=BF16, shard={"transformer": "150KB", "text_encoder_2": "16KB"}, scheduler=DYNAMIC,
                    vae=vae(3, mid_block_add_attention=False, norm_num_groups=2, scaling_factor=0.72, shift_factor=-0.21),
                    tokenizer=dict(as_json=True), tokenizer_2=dict(spiece_only=True), t5_embed="encoder.embed_tokens.weight",
                    clip=dict(CLIP, hidden_size=20), clip_prefix="text_model.",
                    t5=dict(T5, d_model=24, num_heads=2, d_kv=10),
                    transformer=dict(TRANSFORMER, num_attention_heads=4, attention_head_dim=12, joint_attention_dim=24,
                                     pooled_projection_dim=20, axes_dims_rope=(2, 4, 6))),
}

CASES = {
    # FluxPipeline as it is for dev: guidance embedder, exponential dynamic shift (trap 30: shift 3.0 unused), 512 tokens,
    # F32 checkpoint -> F32 noise.
    "dev-square": dict(model="dev", prompt="a photo of a cat", seed=7, size=(64, 64), steps=3),
    # No guidance embedder (--guidance must be ignored, trap 7), static shift 1, 256 tokens (trap 40), bf16 noise field of
    # torch >= 2.12 by default (trap 21), nmt_nfkc charsmap with non-ASCII text (traps 39, 41, 42).
    "schnell": dict(model="schnell", prompt="ﬁsh & chips… ① café ｈｅｌｌｏ\u3000漢字 🙂", seed=42, size=(64, 64), steps=4,
                    args=["--guidance", "9"]),
    # Not square and not divisible by 16 (75x107 -> 64x96, trap 26): rows and columns of positions and of packing (trap 20).
    "rectangular": dict(model="dev", prompt="A painting of the small red house, in the rain", seed=3, size=(107, 75), steps=2,
                        guidance=2.5, t5_length=40),
    # BF16 shards with an index (transformer and T5), T5 embedding under its other name (trap 5), CLIP with the text_model.
    # prefix, spiece.model only, CLIP tokenizer.json only, 3-level VAE without attention, other scaling and shift (trap 28).
    "sharded-bf16": dict(model="sharded", prompt="It's an oil sketch of 12 lighthouses, at sunset", seed=11, size=(48, 36),
                         steps=3, t5_length=24, guidance=4.25),
    # True CFG: two passes, the same guidance embedding in both, v = v_neg + s (v_pos - v_neg).
    "true-cfg": dict(model="dev", prompt="a green triangle", negative="blurry, text", true_cfg=2.5, seed=5, size=(48, 48),
                     steps=2, t5_length=20),
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


def new_transformer(cfg, gen):
    m = FluxTransformer2DModel(**cfg)
    fill(m, gen, [("norm_q.", 1.4), ("norm_k.", 1.4), ("norm_added_", 1.4), ("norm1", 0.8), ("norm.linear", 0.8),
                  ("norm_out.linear", 0.5), ("time_text_embed", 1.4)])
    return m


def new_t5(cfg, gen):
    m = T5EncoderModel(T5Config(**cfg))
    inner = (cfg["d_kv"] ** -0.25) * 1.2     # no 1/sqrt(d) in T5: q.k gets it from the weights
    fill(m, gen, [("shared", cfg["d_model"] ** 0.5), ("embed_tokens", cfg["d_model"] ** 0.5),
                  ("relative_attention_bias", 3.0), ("SelfAttention.q", inner), ("SelfAttention.k", inner),
                  ("SelfAttention.o", 1.2), ("DenseReluDense.wo", 1.5)])
    return m


def new_clip(cfg, gen):
    m = CLIPTextModel(CLIPTextConfig(**cfg))
    d = cfg["hidden_size"] ** 0.5
    fill(m, gen, [("token_embedding", d), ("position_embedding", 0.5 * d), ("q_proj", 1.4), ("k_proj", 1.4)])
    return m


def new_vae(cfg, gen):
    m = AutoencoderKL(**cfg)
    fill(m, gen, [("to_q", 1.4), ("to_k", 1.4), ("conv_shortcut", 1.0)])
    with torch.no_grad():           # contrast: the picture's values of order 0.5 around 0, few of them clamped
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
    dtype, gen = spec.get("dtype"), torch.Generator().manual_seed(spec.get("seed", 0))
    shard = spec.get("shard", {})
    if "tokenizer" in spec:
        tiny_tokenizers.write_clip(f"{folder}/tokenizer", **spec["tokenizer"])
    if "tokenizer_2" in spec:
        assert tiny_tokenizers.write_t5(f"{folder}/tokenizer_2", **spec["tokenizer_2"]) <= T5["vocab_size"]
    if "transformer" in spec:
        save_part(new_transformer(spec["transformer"], gen), f"{folder}/transformer", dtype, shard.get("transformer"))
    if "t5" in spec:
        save_part(new_t5(spec["t5"], gen), f"{folder}/text_encoder_2", dtype, shard.get("text_encoder_2"))
        if "t5_embed" in spec:
            rename(f"{folder}/text_encoder_2", lambda k: spec["t5_embed"] if k == "shared.weight" else k)
    if "clip" in spec:
        save_part(new_clip(spec["clip"], gen), f"{folder}/text_encoder", dtype)
        prefix = spec.get("clip_prefix", "")
        rename(f"{folder}/text_encoder", lambda k: prefix + k.removeprefix("text_model."))
    if "vae" in spec:
        save_part(new_vae(spec["vae"], gen), f"{folder}/vae", dtype)
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


def run(root, case, dtype=F32, damage=None):
    """-> (tensors as nibble dumps them, pictures as PIL, ids)"""
    spec = CASES[case]
    folder = f"{root}/models/{spec['model']}"
    pipe = load_pipeline(folder, dtype)
    if damage:
        damage(pipe)
    width, height = spec["size"]
    b = spec.get("batch", 1)
    px = 2 * pipe.vae_scale_factor
    h, w = 2 * (height // px), 2 * (width // px)
    length = spec.get("t5_length") or (512 if pipe.transformer.config.guidance_embeds else 256)
    kind = NOISE[spec["noise"]] if "noise" in spec else next(iter(stored(f"{folder}/text_encoder_2").values())).dtype
    noise = torch.randn((b, 16, h, w), generator=torch.Generator("cpu").manual_seed(spec["seed"]), dtype=kind).to(F32)
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
    ids = {"clip_ids": pipe.tokenizer(spec["prompt"], truncation=True, max_length=77).input_ids,
           "t5_ids": pipe.tokenizer_2(spec["prompt"], truncation=True, max_length=length).input_ids}
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
    save_file(tensors, f"{folder}/expected.safetensors")
    for i, p in enumerate(pictures):
        p.save(f"{folder}/expected.png" if len(pictures) == 1 else f"{folder}/expected.{i}.png")
    tiny_tokenizers.dump(f"{folder}/case.json", {"model": f"../models/{spec['model']}", "args": arguments(spec), **ids})
    describe(case, tensors)


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
                m.eps = 1e-3

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
    yield "VAE eps 1e-3", vae_eps
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


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{HERE}/flux", help="output folder")
    ap.add_argument("--check", action="store_true")
    ap.add_argument("cases", nargs="*", default=list(CASES))
    opt = ap.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for case in opt.cases or list(CASES):
        (check if opt.check else make_case)(opt.o, case)


if __name__ == "__main__":
    main()
