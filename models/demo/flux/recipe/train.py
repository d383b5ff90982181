#!/usr/bin/env python3
"""Train models/demo/flux, a FLUX.1 pipeline in miniature, from nothing, on two CPU cores.

    python train.py all --work WORK --out models/demo/flux     # everything, about two hours

or step by step, in this order (each step reads what the steps before it left in WORK):

    tokenizers   CLIP BPE and T5 Unigram from 20,000 captions
    vae          AutoencoderKL on crops of the world (--vae-seconds of training time)
    latents      40,000 pictures through the encoder, four captions for each
    text         T5 and CLIP alone: they learn to read captions (--text-seconds)
    flow         the transformer, by flow matching; T5 and CLIP stay as they are (--flow-seconds)
    export       WORK to a diffusers folder in bfloat16
    prompts      the 200 held-out prompts with their truth, as tests/e2e/demo_prompts.tsv
    truth        true pictures for these prompts: what a perfect model draws (WORK/true)
    sample       what the exported model draws for them (WORK/drawn), for demo_judge

Training stops at a time, not at an iteration: the learning rate falls with the training time spent
so far, which is kept in the checkpoint, so that a stopped run goes on where it was. Stalls are not
counted. Written for torch 2.15.0, diffusers 0.42.1, transformers 5.24.0, tokenizers 0.23.3, numpy 2.4.6,
pillow 13.0.0. Needs a C++ compiler for torch.compile (--eager does without, a third slower).

Three ideas make a small budget enough.
- The text encoders come to the transformer able to read, as the published ones do: a reader that asks
  T5's states what stands at each of the nine places (and one that asks CLIP's pooled vector) makes them
  bind each colour and size to its shape. Then they are frozen: the gradient of the pictures is so noisy
  that it makes them forget. A third reader asks the picture's tokens after the double blocks the same,
  so that they learn where in the text to look. The readers are thrown away.
- Muon: the step of an inner matrix is its momentum made orthogonal (Newton-Schulz, five rounds).
- The seed decides: what a caption leaves free (exact place, size, angle, shade, or a whole property)
  is 16 uniforms, and the noise a picture is trained with carries them as the means of its 16
  channels. Each noise is an exact Gaussian, but noise and caption together tell the picture, so four
  Euler steps from it are sharp and no distillation is needed.
"""
import argparse
import collections
import json
import math
import os
import random
import shutil
import time
import zlib

import torch
import torch.nn.functional as F

# ---- the world: flat shapes on a flat ground -------------------------------------------------------

SIZE, N_FREE = 128, 16
COLOURS = {"red": (215, 35, 45), "orange": (245, 140, 30), "yellow": (250, 220, 60), "green": (45, 160, 70),
           "blue": (40, 90, 220), "purple": (130, 50, 170), "pink": (250, 160, 200), "white": (245, 245, 245),
           "gray": (128, 128, 128), "black": (25, 25, 25)}
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross"]
SIZES = {"small": (12.1, 12.9), "medium": (18.35, 19.15), "large": (25.85, 26.65)}
PLACES = {"left": (34, 64), "right": (94, 64), "top": (64, 34), "bottom": (64, 94), "centre": (64, 64),
          "top left": (34, 34), "top right": (94, 34), "bottom left": (34, 94), "bottom right": (94, 94)}
NAMES = list(COLOURS)
RGB = torch.tensor([COLOURS[c] for c in NAMES], dtype=torch.float32) / 255


def distance(kind, x, y, r):
    """Signed distance (negative inside) of the shapes of radius r at the origin, each of its kind."""
    rho, ax, ay, w = torch.hypot(x, y), x.abs(), y.abs(), 0.33 * r
    turn = 2 * math.pi / 5
    t = torch.atan2(x, -y).remainder(turn)
    t = torch.minimum(t, turn - t)                                 # angle from the nearest tip of the star
    nx, ny = 1.1 - 0.45 * math.cos(math.pi / 5), 0.45 * math.sin(math.pi / 5)
    d = [rho - r,
         torch.maximum(ax, ay) - 0.85 * r,
         torch.maximum(y - 0.55 * r, ax * math.sqrt(0.75) - 0.5 * y - 0.55 * r),
         (rho * torch.sin(t) * nx + (rho * torch.cos(t) - 1.1 * r) * ny) / math.hypot(nx, ny),
         (rho - 0.79 * r).abs() - 0.21 * r,
         torch.minimum(torch.maximum(ax - r, ay - w), torch.maximum(ax - w, ay - r))]
    return sum(torch.where(kind == k, dk, 0) for k, dk in enumerate(d))


def render(scenes, x0=None, y0=None, size=SIZE):
    """Scenes -> anti-aliased pictures [B, 3, size, size] in [0, 1]; (x0, y0) are the corners of crops."""
    b = len(scenes)
    o = torch.zeros(2, b) if x0 is None else torch.tensor([x0, y0], dtype=torch.float32)
    t = torch.arange(size) + 0.5
    px, py = (t + o[0][:, None])[:, None, :], (t + o[1][:, None])[:, :, None]
    out = torch.tensor([s["ground"] for s in scenes])[:, :, None, None].expand(b, 3, size, size).clone()
    for i in range(max(len(s["shapes"]) for s in scenes)):
        rows = [j for j, s in enumerate(scenes) if len(s["shapes"]) > i]
        p = torch.tensor([scenes[j]["shapes"][i] for j in rows])  # x y radius angle kind red green blue
        cx, cy, r, rot, kind = [p[:, k, None, None] for k in range(5)]
        dx, dy, c, s = px[rows] - cx, py[rows] - cy, torch.cos(rot), torch.sin(rot)
        m = (0.5 - distance(kind, c * dx + s * dy, c * dy - s * dx, r)).clamp(0, 1)[:, None]
        out[rows] = out[rows] * (1 - m) + p[:, 5:8, None, None] * m
    return out


def draw_spec(rng):
    """What a picture shows as far as its caption tells; None is left free."""
    n = rng.choices([1, 2, 3], [40, 54, 6])[0]
    cols = rng.sample(range(10), n + 1) if rng.random() < 0.8 else None
    if cols is None:                                               # shapes may share their colour
        g = rng.randrange(10)
        cols = [g] + [rng.choice([c for c in range(10) if c != g]) for _ in range(n)]
    spec = {"ground": cols[0] if rng.random() > 0.08 else None, "shapes": [], "layout": None}
    for i in range(n):
        spec["shapes"].append({"kind": rng.randrange(6), "colour": cols[1 + i],
                               "size": rng.choice(list(SIZES)) if n < 3 else "small", "place": None})
        if rng.random() < 0.25 and n < 3: spec["shapes"][i]["size"] = None
    if n == 1:
        s = spec["shapes"][0]
        if rng.random() < 0.75: s["place"] = rng.choice(list(PLACES))
        if rng.random() < 0.06 and spec["ground"] is not None: s["colour"] = None
    elif n == 2:
        spec["layout"] = rng.choices(["places", "relation", "free"], [45, 45, 10])[0]
        pairs = [("left", "right"), ("top", "bottom"), ("top left", "bottom right"), ("top right", "bottom left"),
                 ("top left", "top right"), ("bottom left", "bottom right"), ("top left", "bottom left"),
                 ("top right", "bottom right")]
        a, b = rng.choice(pairs[:2]) if spec["layout"] == "relation" or rng.random() < 0.5 else rng.choice(pairs)
        if rng.random() < 0.5: a, b = b, a
        if spec["layout"] != "free": spec["shapes"][0]["place"], spec["shapes"][1]["place"] = a, b
    else:
        t = list(rng.choice([("left", "centre", "right"), ("top", "centre", "bottom")]))
        rng.shuffle(t)
        for s, p in zip(spec["shapes"], t): s["place"] = p
        spec["layout"] = "places"
    return spec


def free_places(shapes):
    """Two shapes of no named place stand side by side."""
    key = [(s["kind"], s["colour"]) for s in shapes]
    return ["left", "right"] if key[0] <= key[1] else ["right", "left"]


def resolve(spec, u):
    """A spec and 16 uniforms -> a scene: everything is a number."""
    one_of = lambda c, v: c[min(int(v * len(c)), len(c) - 1)]
    shade = lambda c, v: [min(1.0, max(0.0, x + (v - 0.5) * 0.08)) for x in RGB[c].tolist()]
    g = spec["ground"]
    if g is None:                                                  # no ground named: a plain sheet
        g = [c for c in (NAMES.index("white"), NAMES.index("black"), NAMES.index("gray"), NAMES.index("blue"))
             if c not in [s["colour"] for s in spec["shapes"]]][0]
    places = [s["place"] for s in spec["shapes"]]
    if spec["layout"] == "free": places = free_places(spec["shapes"])
    out = []
    for i, s in enumerate(spec["shapes"]):
        jx, jy, js, jr, jc = [u[2:7], u[8:13], [u[14], u[15]] + [1 - v for v in u[4:7]]][i]
        c = one_of([k for k in range(10) if k != g], u[7]) if s["colour"] is None else s["colour"]
        x, y = PLACES[places[i]] if places[i] else (64, 64)
        k = 1.5 if places[i] else 12
        lo, hi = SIZES[s["size"]] if s["size"] else (16.75, 20.75)
        out.append([x + k * (jx - 0.5), y + k * (jy - 0.5), lo + (hi - lo) * js, (jr - 0.5) * 0.09,
                    float(s["kind"])] + shade(c, jc))
    return {"ground": shade(g, u[0]), "shapes": out}


def held_out(spec):
    """One in ten combinations is never trained on: colour + shape + ground, or colour + shape twice."""
    t = [f"{NAMES[s['colour']] if s['colour'] is not None else '-'} {SHAPES[s['kind']]}" for s in spec["shapes"]]
    g = NAMES[spec["ground"]] if spec["ground"] is not None else "-"
    c = [f"{t[0]} on {g}"] if len(t) == 1 else ["+".join(sorted([t[i], t[j]])) for i in range(len(t)) for j in range(i)]
    return any("-" not in k and zlib.crc32(k.encode()) % 10 == 0 for k in c)


def training_specs(n, seed):
    rng, out = random.Random(seed), []
    while len(out) < n:
        s = draw_spec(rng)
        if not held_out(s): out.append((s, [rng.random() for _ in range(N_FREE)]))
    return out


# ---- captions --------------------------------------------------------------------------------------

SIZE_WORDS = {"small": ["small"] * 6 + ["little", "tiny"], "medium": ["medium"] * 6 + ["medium-sized", "middle-sized"],
              "large": ["large"] * 6 + ["big", "huge"]}
FILLER = ["nice", "beautiful", "simple", "flat", "shiny", "lovely", "plain", "very", "cute", "bright", "bold"]


def caption(spec, rng):
    """One of the many ways to say a spec; now and then with a word nobody knows, or in capitals."""
    pick = rng.choice
    article = lambda t: "an" + t[1:] if t[:3] in ("a o", "a i") and rng.random() < 0.85 else t

    def thing(s):
        w = []
        if s["size"]: w.append(pick(SIZE_WORDS[s["size"]]))
        if s["colour"] is not None:
            c = NAMES[s["colour"]]
            w.append("grey" if c == "gray" and rng.random() < 0.4 else c)
        if rng.random() < 0.03:
            w.insert(0, pick(FILLER) if rng.random() < 0.5 else
                     "".join(pick("abcdefghijklmnoprstuvwy") for _ in range(rng.randint(3, 7))))
        w.append(SHAPES[s["kind"]])
        return article(pick(["a"] * 8 + ["one", "the"]) + " " + " ".join(w))

    def place(p):
        if p == "centre": return pick(["in the centre", "in the center", "in the middle", "at the centre"])
        if " " in p:
            if rng.random() < 0.3: p = p.replace("top", "upper").replace("bottom", "lower")
            if rng.random() < 0.2: p = p.replace(" ", "-")
            return pick(["in the {} corner", "in the {} corner", "in the {}", "at the {}"]).format(p)
        return pick(["on the {}", "on the {}", "at the {}", "on the {} side"] if p in ("left", "right") else
                    ["at the {}", "at the {}", "on the {}", "in the {}"]).format(p)

    sh = spec["shapes"]
    t = [thing(s) for s in sh]
    if spec["layout"] == "relation":
        a, b = (0, 1) if rng.random() < 0.5 else (1, 0)
        rel = {"top": ["above"] * 3 + ["over", "on top of"], "bottom": ["below"] * 3 + ["under", "beneath"],
               "left": ["to the left of", "left of", "on the left of"],
               "right": ["to the right of", "right of", "on the right of"]}[sh[a]["place"]]
        body = f"{t[a]} {pick(rel)} {t[b]}"
    else:
        parts = [x + (" " + place(s["place"]) if s["place"] else "") for x, s in zip(t, sh)]
        rng.shuffle(parts)
        body = (", ".join(parts[:-1]) + " and " + parts[-1]) if len(parts) == 3 else \
            pick([" and "] * 5 + [", ", " with "]).join(parts)
    if spec["ground"] is not None:
        g = NAMES[spec["ground"]]
        if g == "gray" and rng.random() < 0.4: g = "grey"
        r = rng.random()
        if r < 0.08: body = article(f"{pick(['a', 'the'])} {g} background") + f" with {body}"
        elif r < 0.12: body = f"{body}, {g} background"
        elif r < 0.18: body += " on " + g
        else: body += pick([" on "] * 7 + [" with ", " against ", " in front of "]) + article(f"a {g} background")
    if rng.random() < 0.06: body = pick(["a picture of ", "a drawing of ", "an image of ", "draw ", "please draw "]) + body
    r = rng.random()
    if r < 0.10: body = body[0].upper() + body[1:]
    elif r < 0.14: body = body.title()
    elif r < 0.16: body = body.upper()
    if rng.random() < 0.05: body += "."
    return body


def held_out_prompts():
    """100 prompts with one shape and 100 with two, each of a combination that was never trained on."""
    rng, rows, seen = random.Random(2024), {1: [], 2: []}, set()
    while min(len(v) for v in rows.values()) < 100:
        s = draw_spec(rng)
        n = len(s["shapes"])
        if n == 3 or not held_out(s) or len(rows[n]) == 100: continue
        c = caption(s, rng)
        if c.lower() in seen: continue
        seen.add(c.lower())
        rows[n].append((s, c))
    return rows[1] + rows[2]


# ---- tokenizers: small ones of the kinds and in the file forms of the published ---------------------

def dump(path, value, indent=2):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=indent)
        f.write("\n")


def make_t5_tokenizer(folder, lines):
    """Unigram: the words of the captions, and single characters for all other words."""
    count = collections.Counter(w.strip(",.") for line in lines for w in line.split())
    words = sorted([w for w in count if count[w] >= 4], key=lambda w: (-count[w], w))
    total = sum(count[w] for w in words)
    vocab = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -12.0]]
    vocab += [["\u2581" + w, math.log(count[w] / total)] for w in words] + [[chr(c), -12.0] for c in range(33, 127)]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    a, b, end = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, \
        {"SpecialToken": {"id": "</s>", "type_id": 0}}
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    dump(f"{folder}/tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, c in enumerate(["<pad>", "</s>", "<unk>"])],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Strip", "strip_left": False, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}]},
        "pre_tokenizer": metaspace,
        "post_processor": {"type": "TemplateProcessing", "single": [a, end], "pair": [a, end, b, end],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False}}, 1)
    dump(f"{folder}/special_tokens_map.json", special)
    dump(f"{folder}/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "extra_ids": 0,
         "additional_special_tokens": [], "model_max_length": L_T5, "clean_up_tokenization_spaces": True, **special})


def make_clip_tokenizer(folder, lines):
    """Byte-level BPE with </w>, ids in CLIP's order: bytes, bytes with </w>, merges, start, end."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    b = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    b.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    b.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(words, behavior="removed", invert=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    b.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), end_of_word_suffix="</w>",
        show_progress=False, min_frequency=20))
    merges = json.loads(b.to_str())["model"]["merges"]
    chars = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [chr(256 + i) for i in range(68)]
    vocab = chars + [c + "</w>" for c in chars] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    token = lambda c: {"content": c, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    special = {"bos_token": token("<|startoftext|>"), "eos_token": token("<|endoftext|>"), "pad_token": "<|endoftext|>",
               "unk_token": token("<|endoftext|>")}
    dump(f"{folder}/vocab.json", {w: i for i, w in enumerate(vocab)}, None)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{x} {y}\n" for x, y in merges))
    dump(f"{folder}/special_tokens_map.json", special)
    dump(f"{folder}/tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
         "do_lower_case": True, "errors": "replace", "add_prefix_space": False, "clean_up_tokenization_spaces": True,
         **special})


def make_tokenizers(a):
    rng = random.Random(5)
    lines = [caption(s, rng) for s, _ in training_specs(20000, 5)]
    make_t5_tokenizer(f"{a.work}/tokenizer_2", lines)
    make_clip_tokenizer(f"{a.work}/tokenizer", lines)


# ---- training: the optimiser, the clock and the checkpoint ------------------------------------------

class Muon:
    """Inner matrices move along their orthogonalised momentum; everything else is AdamW's."""

    def __init__(self, module, inner, lr, betas):
        named = list(module.named_parameters())
        self.inner = [p for n, p in named if inner(n, p)]
        self.momentum = [torch.zeros_like(p) for p in self.inner]
        self.rest = [p for n, p in named if not inner(n, p)]
        self.adam = torch.optim.AdamW(self.rest, lr=lr, betas=betas, weight_decay=0.0, fused=True)
        self.groups = collections.defaultdict(list)                # same shape: one batched product
        for i, p in enumerate(self.inner): self.groups[(p.shape[0], p[0].numel())].append(i)

    @torch.no_grad()
    def step(self, lr):
        for g in self.adam.param_groups: g["lr"] = lr
        self.adam.step()
        for (r, c), group in self.groups.items():
            grads, moms = [self.inner[i].grad for i in group], [self.momentum[i] for i in group]
            torch._foreach_mul_(moms, 0.95)
            torch._foreach_add_(moms, grads, alpha=0.05)
            x = torch.stack([g.lerp(m, 0.95).reshape(r, c) for g, m in zip(grads, moms)])
            x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)).bfloat16()
            if r > c: x = x.mT
            for _ in range(5):                                     # Newton-Schulz: singular values towards 1
                s = x @ x.mT
                x = 3.4445 * x + (-4.7750 * s + 2.0315 * (s @ s)) @ x
            if r > c: x = x.mT
            x = x.float() * (0.2 * math.sqrt(max(r, c)) * lr)      # as large as an Adam step
            for i, d in zip(group, x): self.inner[i].sub_(d.reshape(self.inner[i].shape))
        for p in self.inner: p.grad = None
        self.adam.zero_grad()


class Run:
    """The loop around a training step: time, learning rate, running average, log and checkpoint."""

    def __init__(self, path, module, average, opt, budget, hold, warm):
        self.path, self.module, self.average, self.opt, self.budget = path, module, average, opt, budget
        self.hold, self.warm = hold, warm
        self.it, self.spent, self.typical, self.means = 0, 0.0, 0.5, {}
        if os.path.exists(path):
            c = torch.load(path)
            module.load_state_dict(c["model"]), average.load_state_dict(c["average"]), opt.adam.load_state_dict(c["adam"])
            for m, v in zip(opt.momentum, c["momentum"]): m.copy_(v)
            self.it, self.spent = c["it"], c["spent"]
        torch.manual_seed(self.it + 1)

    def save(self):
        torch.save(dict(model=self.module.state_dict(), average=self.average.state_dict(), it=self.it, spent=self.spent,
                        adam=self.opt.adam.state_dict(), momentum=self.opt.momentum), self.path + ".new")
        os.replace(self.path + ".new", self.path)

    def steps(self):
        """Yields the fraction of the time that is spent, until all is; steps after each yield."""
        first = self.it
        while self.spent < self.budget:
            t0, frac = time.time(), self.spent / self.budget
            yield frac
            torch.nn.utils.clip_grad_norm_(self.opt.rest, 1.0)
            self.opt.step(2e-3 * min(1, (self.it + 1) / self.warm) * min(1, (1 - frac) / (1 - self.hold) + 0.01))
            w = min(0.998, 1 - (self.it + 1) ** -0.75)
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - w)
            self.it += 1
            dt = min(time.time() - t0, 4 * self.typical)           # a stall is not training
            if self.it > first + 3:                                # nor is compiling
                self.typical += 0.05 * (dt - self.typical)
                self.spent += dt
            if self.it % 50 == 0:
                print(f"it {self.it} spent {self.spent:.0f}/{self.budget:.0f} s, {self.typical:.2f} s/it, " +
                      " ".join(f"{n} {v:.4f}" for n, v in self.means.items()), flush=True)
            if self.it % 200 == 0 or self.spent >= self.budget: self.save()

    def note(self, **values):
        for n, v in values.items(): self.means[n] = self.means.get(n, v.item()) * 0.97 + v.item() * 0.03


# ---- the VAE ---------------------------------------------------------------------------------------

VAE = dict(in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4,
           up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[32, 64, 64, 128], layers_per_block=1,
           latent_channels=16, norm_num_groups=8, sample_size=SIZE, use_quant_conv=False, use_post_quant_conv=False,
           mid_block_add_attention=True)
LAST = torch.channels_last


def crops(rng, n, size):
    """Random pictures, cut where the outline of a shape passes."""
    scenes, xs, ys = [], [], []
    for s, u in training_specs(n, rng.getrandbits(48)):
        scenes.append(resolve(s, u))
        x, y, r = rng.choice(scenes[-1]["shapes"])[:3]
        a, far = rng.random() * 2 * math.pi, r * rng.choice([0.3, 0.8, 1.0, 1.1])
        for o, c in ((xs, x + far * math.cos(a)), (ys, y + far * math.sin(a))):
            o.append(min(max(int(c + rng.uniform(-24, 24) - size / 2), 0), SIZE - size))
    return (render(scenes, xs, ys, size) * 2 - 1).contiguous(memory_format=LAST)


def psnr(vae, x):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.float()
    return (-10 * ((y.clamp(-1, 1) - x) / 2).pow(2).mean(dim=(1, 2, 3)).log10()).mean()


def train_vae(a):
    from diffusers import AutoencoderKL
    torch.manual_seed(1)
    vae, average = [AutoencoderKL(**VAE).to(memory_format=LAST) for _ in range(2)]
    average.requires_grad_(False).load_state_dict(vae.state_dict())
    inner = lambda n, p: p.ndim == 2 or p.ndim == 4 and "conv_in" not in n and "decoder.conv_out" not in n
    run = Run(f"{a.work}/vae.pt", vae, average, Muon(vae, inner, 2e-3, (0.9, 0.99)), a.vae_seconds, 0.4, 60)
    rng, test = random.Random(7 + run.it), crops(random.Random(99), 32, SIZE)
    for frac in run.steps():
        whole = run.it % 8 == 7 or frac > 0.8                      # crops are cheap; whole pictures finish
        x = crops(rng, 4, SIZE) if whole else crops(rng, 16, SIZE // 2)
        with torch.autocast("cpu", torch.bfloat16):
            d = vae.encode(x).latent_dist
            y = vae.decode(d.sample()).sample
        e = y.float() - x
        l1, l2 = (e * e + 1e-6).sqrt().mean(), (e * e).mean()
        edge = (e[..., 1:] - e[..., :-1]).abs().mean() + (e[..., 1:, :] - e[..., :-1, :]).abs().mean()
        kl = 0.5 * (d.mean.float().pow(2) + d.var.float() - 1 - d.logvar.float()).mean()
        (l1 + 0.5 * edge + l2 + 2e-4 * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        run.note(l1=l1, edge=edge, l2=l2, kl=kl)
        if run.it % 200 == 199: print(f"psnr {psnr(average, test):.2f} dB", flush=True)
    print(f"psnr {psnr(average, test):.2f} dB")


def make_latents(a):
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer, T5TokenizerFast
    vae = AutoencoderKL(**VAE).to(memory_format=LAST).eval()
    vae.load_state_dict(torch.load(f"{a.work}/vae.pt")["average"])
    data, z = training_specs(a.pictures, 11), []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, len(data), 64):
            x = render([resolve(*s) for s in data[i:i + 64]]) * 2 - 1
            z.append(vae.encode(x.contiguous(memory_format=LAST)).latent_dist.mode().float().contiguous())
    z = torch.cat(z)
    mean, std = z.mean().item(), z.std().item()
    rng = random.Random(12)
    text = [caption(s, rng) for s, _ in data for _ in range(4)]
    ids = lambda t, n: torch.tensor(t(text, padding="max_length", max_length=n, truncation=True).input_ids,
                                    dtype=torch.int16).view(len(data), 4, n)
    torch.save(dict(z=((z - mean) / std).half(), mean=mean, std=std, u=torch.tensor([u for _, u in data]),
                    t5=ids(T5TokenizerFast.from_pretrained(f"{a.work}/tokenizer_2"), L_T5),
                    clip=ids(CLIPTokenizer.from_pretrained(f"{a.work}/tokenizer"), L_CLIP)), f"{a.work}/latents.pt")


# ---- text encoders and transformer -----------------------------------------------------------------

L_T5, L_CLIP, WIDTH = 32, 36, 256                                  # CLIP is causal: 36 of 77 are all it reads
SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.25])                      # the four steps of a drawing


def plain_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """At 96 tokens much faster backward than the fused kernel for CPUs."""
    s = query @ key.mT * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal: s = s + torch.full(s.shape[-2:], float("-inf"), dtype=s.dtype).triu(1)
    if attn_mask is not None: s = s.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else s + attn_mask
    return s.float().softmax(-1).to(value.dtype) @ value


def is_inner(name, p):
    """Matrices between hidden states: Muon's. Embeddings, norms and the way out are AdamW's."""
    outer = ("shared", "embed_tokens", "embedding", "embedder", "relative", "norm", "flux.proj_out", "question")
    return p.ndim == 2 and not any(k in name for k in outer)


def networks(work):
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
    with open(f"{work}/tokenizer/vocab.json", encoding="utf-8") as f: n_clip = len(json.load(f))
    torch.manual_seed(2)
    t5 = T5EncoderModel(T5Config(
        vocab_size=320, d_model=192, d_kv=64, num_heads=3, d_ff=384, num_layers=3, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, is_encoder_decoder=False, use_cache=False,
        decoder_start_token_id=0))
    r = torch.arange(16.0)                                         # T5 begins with heads that look back, ahead, around:
    away = -3 - 0.3 * r                                            # from a flat bias it does not learn the order of words
    bias = torch.stack([torch.cat([2 - r, away]), torch.cat([away, 3 - r]), torch.cat([1.5 - 0.4 * r] * 2)], 1)
    t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.data.copy_(bias)
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=n_clip, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=n_clip - 2, eos_token_id=n_clip - 1,
        pad_token_id=n_clip - 1, projection_dim=128))
    flux = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=64, num_attention_heads=4,
        joint_attention_dim=192, pooled_projection_dim=128, guidance_embeds=False, axes_dims_rope=[8, 28, 28])
    for n, m in flux.named_modules():                              # modulation begins as nothing but half a gate
        if not n.endswith(("norm1.linear", "norm1_context.linear", ".norm.linear", "norm_out.linear")): continue
        torch.nn.init.zeros_(m.weight), torch.nn.init.zeros_(m.bias)
        if n != "norm_out.linear":
            for gate in range(2, m.bias.numel() // WIDTH, 3): m.bias.data[gate * WIDTH:(gate + 1) * WIDTH] = 0.5
    torch.nn.init.zeros_(flux.proj_out.weight)
    return torch.nn.ModuleDict(dict(t5=t5, clip=clip, flux=flux))


# ---- text encoders that can read -------------------------------------------------------------------

def nearest_place(row, column):
    """The index of the place nearest to a token of 16x16 pixels."""
    x, y = 16 * column + 8, 16 * row + 8
    return min(range(9), key=lambda i: math.dist((x, y), list(PLACES.values())[i]))


NEAREST = torch.tensor([nearest_place(r, c) for r in range(8) for c in range(8)])
N_KIND, N_COLOUR, N_SIZE = len(SHAPES) + 1, len(COLOURS) + 2, len(SIZES) + 2   # with nothing, and with not named


def seen_at(spec):
    """What a caption says of each place: kind, colour and size of the nine places, then the ground."""
    shapes, places = spec["shapes"], [s["place"] or "centre" for s in spec["shapes"]]
    if spec["layout"] == "free": places = free_places(shapes)
    out = {p: (N_KIND - 1, N_COLOUR - 1, N_SIZE - 1) for p in PLACES}
    for s, p in zip(shapes, places):
        out[p] = (s["kind"], 10 if s["colour"] is None else s["colour"], list(SIZES).index(s["size"]) if s["size"] else 3)
    return [v for p in PLACES for v in out[p]] + [10 if spec["ground"] is None else spec["ground"]]


class Reader(torch.nn.Module):
    """Tells what is seen at each place from a vector [B, 10, W] for each of the places and the ground."""

    def __init__(self, width, ground=True):
        super().__init__()
        self.tell = torch.nn.ModuleList(torch.nn.Linear(width, n) for n in (N_KIND, N_COLOUR, N_SIZE))
        self.ground = torch.nn.Linear(width, 11) if ground else None

    def loss(self, x, seen):
        told = [t(x[:, :9]) for t in self.tell] + [self.ground(x[:, 9:])]
        true = [seen[:, k:27:3] for k in range(3)] + [seen[:, 27:]]
        right = torch.cat([t.argmax(2) == s for t, s in zip(told, true)], 1).all(1).float().mean()
        return sum(F.cross_entropy(t.flatten(0, 1), s.flatten()) for t, s in zip(told, true)), right


    def tokens(self, x, seen):
        """The same of the picture's 8x8 tokens [B, 64, W]: each tells what is seen at its nearest place."""
        told = [t(x) for t in self.tell]
        true = [seen[:, k:27:3][:, NEAREST] for k in range(3)]
        right = torch.stack([t.argmax(2) == s for t, s in zip(told, true)]).all(0).float().mean()
        return sum(F.cross_entropy(t.flatten(0, 1), s.flatten()) for t, s in zip(told, true)), right


class T5Reader(Reader):
    """Ten questions look at the states [B, S, W] once, as the picture's tokens will."""

    def __init__(self, width):
        super().__init__(width)
        self.question = torch.nn.Parameter(torch.randn(1, 10, width))
        self.look = torch.nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, states, seen):
        return self.loss(self.look(self.question.expand(len(states), -1, -1), states, states, need_weights=False)[0], seen)


class ClipReader(Reader):
    """Everything from one pooled vector [B, W]."""

    def __init__(self, width):
        super().__init__(64)
        self.spread = torch.nn.Sequential(torch.nn.Linear(width, 512), torch.nn.GELU(), torch.nn.Linear(512, 640))

    def forward(self, pooled, seen):
        return self.loss(self.spread(pooled).view(-1, 10, 64), seen)


def train_text(a, batch=192):
    F.scaled_dot_product_attention = plain_attention
    data = torch.load(f"{a.work}/latents.pt")
    seen = torch.tensor([seen_at(s) for s, _ in training_specs(len(data["u"]), 11)])
    both = lambda: torch.nn.ModuleDict({n: m for n, m in networks(a.work).items() if n != "flux"})
    net, average = both(), both().requires_grad_(False)
    net["t5_reader"], net["clip_reader"] = T5Reader(192), ClipReader(128)
    average["t5_reader"], average["clip_reader"] = T5Reader(192).requires_grad_(False), ClipReader(128).requires_grad_(False)
    run = Run(f"{a.work}/text.pt", net, average, Muon(net, is_inner, 2e-3, (0.9, 0.98)), a.text_seconds, 0.3, 100)

    def forward(t5, clip, seen):
        with torch.autocast("cpu", torch.bfloat16):
            return net["t5_reader"](net["t5"](t5).last_hidden_state, seen), \
                net["clip_reader"](net["clip"](clip).pooler_output, seen)

    forward = forward if a.eager else torch.compile(forward)
    for _ in run.steps():
        i, v = torch.randint(len(seen), (batch,)), torch.randint(4, (batch,))
        (t5, t5_right), (clip, clip_right) = forward(data["t5"][i, v].long(), data["clip"][i, v].long(), seen[i])
        (t5 + clip).backward()
        run.note(t5=t5, clip=clip, t5_right=t5_right, clip_right=clip_right)


# ---- flow matching ---------------------------------------------------------------------------------

def pack(z):                                                      # [B, 16, 16, 16] -> [B, 64, 64]
    return z.view(-1, 16, 8, 2, 8, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, 64, 64)


def noise_for(u):
    """Gaussian noise [B, 16, 16, 16] whose mean over channel k tells the k-th free choice."""
    n = torch.randn(len(u), 16, 16, 16)
    z = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-0.9999, 0.9999))
    return n + (z / 16 - n.mean(dim=(2, 3)))[:, :, None, None]


def train_flow(a, batch=64):
    F.scaled_dot_product_attention = plain_attention
    data = torch.load(f"{a.work}/latents.pt")
    text = networks(a.work).requires_grad_(False)
    text.load_state_dict(torch.load(f"{a.work}/text.pt")["average"], strict=False)
    part = lambda: torch.nn.ModuleDict(dict(flux=networks(a.work)["flux"], reader=Reader(WIDTH, ground=False)))
    net, average = part(), part()
    if a.start: net["flux"].load_state_dict(torch.load(a.start))
    average.requires_grad_(False).load_state_dict(net.state_dict())
    middle = []                                                    # the picture's tokens after the double blocks
    net["flux"].transformer_blocks[-1].register_forward_hook(lambda m, i, o: middle.append(o[1]))
    seen = torch.tensor([seen_at(s) for s, _ in training_specs(len(data["u"]), 11)])
    run = Run(f"{a.work}/flow.pt", net, average, Muon(net, is_inner, 2e-3, (0.9, 0.98)), a.flow_seconds, 0.3, 100)
    grid = torch.arange(8.0)
    img_ids = torch.stack([torch.zeros(8, 8), grid[:, None].expand(8, 8), grid.expand(8, 8)], -1).view(64, 3)
    txt_ids = torch.zeros(L_T5, 3)

    def forward(x, sigma, t5, clip, seen):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad(): states, pooled = text["t5"](t5).last_hidden_state, text["clip"](clip).pooler_output
            middle.clear()
            y = net["flux"](hidden_states=x, timestep=sigma, img_ids=img_ids, txt_ids=txt_ids, return_dict=False,
                            encoder_hidden_states=states, pooled_projections=pooled)[0]
            return y, net["reader"].tokens(middle[0], seen)

    forward = forward if a.eager else torch.compile(forward)
    for _ in run.steps():
        i, v = torch.randint(len(data["u"]), (batch,)), torch.randint(4, (batch,))
        z, noise = data["z"][i].float(), noise_for(data["u"][i])
        which = torch.tensor([0.45, 0.15, 0.12, 0.12, 0.16]).multinomial(batch, True)
        sigma = torch.where(which < 4, SIGMAS[which.clamp(max=3)], torch.sigmoid(torch.randn(batch) * 1.2 + 0.3))
        x = pack(noise + (1 - sigma)[:, None, None, None] * (z - noise))
        y, (token, token_right) = forward(x, sigma, data["t5"][i, v].long(), data["clip"][i, v].long(), seen[i])
        e = (y.float() - pack(noise - z)).pow(2).mean(dim=(1, 2))
        (e.mean() + 0.1 * token).backward()
        run.note(loss=e.mean(), token=token, token_right=token_right,
                 **{f"at{s:g}": e[sigma == s].mean() for s in SIGMAS.tolist() if (sigma == s).any()})


# ---- results ---------------------------------------------------------------------------------------

def export(a):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    net = networks(a.work)
    for file in ("text", "flow"): net.load_state_dict(torch.load(f"{a.work}/{file}.pt")["average"], strict=False)
    vae, stats = AutoencoderKL(**VAE), torch.load(f"{a.work}/latents.pt")
    vae.load_state_dict(torch.load(f"{a.work}/vae.pt")["average"])
    vae.register_to_config(scaling_factor=1 / stats["std"], shift_factor=stats["mean"])
    parts = dict(vae=vae, transformer=net["flux"], text_encoder=net["clip"], text_encoder_2=net["t5"])
    for n, m in parts.items(): m.to(torch.bfloat16).save_pretrained(f"{a.out}/{n}", safe_serialization=True)
    FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False, base_image_seq_len=256,
                                    max_image_seq_len=4096).save_pretrained(f"{a.out}/scheduler")
    for t in ("tokenizer", "tokenizer_2"): shutil.copytree(f"{a.work}/{t}", f"{a.out}/{t}", dirs_exist_ok=True)
    dump(f"{a.out}/model_index.json", {
        "_class_name": "FluxPipeline", "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"], "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"]})


def write_prompts(a):
    name = lambda c: NAMES[c] if c is not None else "-"
    print("# Held-out prompts and their truth: `recipe/train.py prompts` (seed 2024). No picture of a combination\n"
          "# here (colour, shape and ground of one shape; colours and shapes of two) is in the training set.\n"
          "# number, prompt, ground, then colour, shape, size and place of each shape; '-' is left free")
    for i, (s, c) in enumerate(held_out_prompts()):
        row = [f"{i:03d}", c, name(s["ground"])]
        for q in s["shapes"]: row += [name(q["colour"]), SHAPES[q["kind"]], q["size"] or "-", q["place"] or "-"]
        print("\t".join(row))


def write_pictures(folder, pictures):
    os.makedirs(folder, exist_ok=True)
    for i, p in enumerate(pictures): p.save(f"{folder}/{i:03d}.png")


def draw_truth(a):
    from PIL import Image
    rng = random.Random(5)
    x = render([resolve(s, [rng.random() for _ in range(N_FREE)]) for s, _ in held_out_prompts()])
    write_pictures(f"{a.work}/true", [Image.fromarray(p) for p in
                                      (x.permute(0, 2, 3, 1) * 255).round().byte().numpy()])


def sample(a):
    from diffusers import FluxPipeline
    pipe = FluxPipeline.from_pretrained(a.out, torch_dtype=torch.bfloat16)
    prompts, out = [c for _, c in held_out_prompts()], []
    for i in range(0, len(prompts), 50):
        out += pipe(prompts[i:i + 50], height=SIZE, width=SIZE, num_inference_steps=4, guidance_scale=0.0,
                    max_sequence_length=L_T5,
                    generator=[torch.Generator().manual_seed(a.seed * 1000 + k) for k in range(i, i + 50)]).images
    write_pictures(f"{a.work}/drawn", out)


STEPS = {"tokenizers": make_tokenizers, "vae": train_vae, "latents": make_latents, "text": train_text, "flow": train_flow,
         "export": export, "prompts": write_prompts, "truth": draw_truth, "sample": sample}


def main():
    p = argparse.ArgumentParser(description="Train models/demo/flux; see the head of this file.")
    p.add_argument("step", choices=[*STEPS, "all"])
    p.add_argument("--work", default="work", help="folder for checkpoints and data (default: work)")
    p.add_argument("--out", default="out", help="folder of the finished pipeline (default: out)")
    p.add_argument("--vae-seconds", type=float, default=900)
    p.add_argument("--text-seconds", type=float, default=360)
    p.add_argument("--flow-seconds", type=float, default=5100)
    p.add_argument("--start", help="flow begins with this state of the transformer, a file")
    p.add_argument("--pictures", type=int, default=40000)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seed", type=int, default=0, help="of the first drawing of sample")
    p.add_argument("--eager", action="store_true", help="do not compile")
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    torch.set_num_threads(a.threads)
    for step in ["tokenizers", "vae", "latents", "text", "flow", "export"] if a.step == "all" else [a.step]:
        t = time.time()
        STEPS[step](a)
        if a.step != "prompts": print(f"{step}: {time.time() - t:.0f} s", flush=True)


if __name__ == "__main__":
    main()
