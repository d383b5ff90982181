"""Tiny tokenizers in the published layouts of FLUX.1's tokenizer/ and tokenizer_2/.

They are trained here on a few sentences, so nothing of the real vocabularies is copied; the files they are
written to have the real files' form: vocab.json + merges.txt (or tokenizer.json) for CLIP, tokenizer.json (or
spiece.model) for T5.  Used by make_flux.py and make_tokenizer.py; versions are pinned in make_flux.py.
"""
import collections
import io
import json
import os
import tempfile

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as sp_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SUBJECTS = "cat dog house red circle blue square green triangle lighthouse astronaut horse café naïve robot".split()
PLACES = "on a hill, in the rain, under the moon, beside a river, at sunset, inside a box, on Mars".split(", ")
STYLES = ["a photo of", "a painting of", "an oil sketch of", "the small", "a very large", "it's", "we've seen",
          "they'll draw", "don't paint", "I'm holding"]
EXTRA = ["A cat holding a sign that says hello world", "The house is wonderful.", "1234 567 89 0", "...!!?",
         "größe straße élan œuvre", "漢字 東京", "привет мир", "שלום", "x² + y² = z²", "fish & chips: 3/4 (half)",
         "hello, hello; \"quoted\" text - with_dashes", "sunset sunrise sunlight moonlight", "ing ed er est un re"]


def corpus():
    lines = [f"{s} {n} {p}" for s in STYLES for n in SUBJECTS for p in PLACES]
    return lines + EXTRA * 20


def byte_alphabet():
    """The 256 printable stand-ins for bytes, in CLIP's vocabulary order."""
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    return [chr(b) for b in own] + [chr(256 + i) for i in range(256 - len(own))]


def clip_merges(n):
    """BPE by hand: the tokenizers library breaks ties by a hash order that differs from run to run."""
    stand_in = byte_alphabet()
    of_byte = dict(zip(list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256)), stand_in))
    of_byte.update(zip([b for b in range(256) if b not in of_byte], stand_in[len(of_byte):]))
    split = pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    count = collections.Counter(w for line in corpus() for w, _ in split.pre_tokenize_str(line.lower()))
    words = {tuple(of_byte[b] for b in w.encode()[:-1]) + (of_byte[w.encode()[-1]] + "</w>",): c for w, c in count.items()}
    merges = []
    for _ in range(n):
        pairs = collections.Counter()
        for w, c in words.items():
            for pair in zip(w, w[1:]):
                pairs[pair] += c
        a, b = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append((a, b))
        words = {merged(w, a, b): c for w, c in words.items()}
    return merges


def merged(word, a, b):
    out = []
    for symbol in word:
        if out and out[-1] == a and symbol == b:
            out[-1] = a + b
        else:
            out.append(symbol)
    return tuple(out)


def clip_bpe(n_merges=160, specials_first=False):
    """-> (vocab, merges): CLIP's order of ids unless specials_first puts the two special tokens at 0 and 1."""
    merges = clip_merges(n_merges)
    special = ["<|startoftext|>", "<|endoftext|>"]
    order = byte_alphabet() + [c + "</w>" for c in byte_alphabet()] + [a + b for a, b in merges]
    order = special + order if specials_first else order + special
    assert len(set(order)) == len(order)
    return {t: i for i, t in enumerate(order)}, merges


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def write_clip(folder, specials_first=False, as_json=False):
    """Write a CLIP tokenizer folder; returns the size of its vocabulary."""
    os.makedirs(folder, exist_ok=True)
    vocab, merges = clip_bpe(specials_first=specials_first)
    with open(f"{folder}/vocab.json", "w", encoding="utf-8") as f:
        json.dump(vocab, f, ensure_ascii=False)
    with open(f"{folder}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
               "unk_token": "<|endoftext|>"}
    dump(f"{folder}/special_tokens_map.json", special)
    dump(f"{folder}/tokenizer_config.json", {"add_prefix_space": False, "do_lower_case": True, "errors": "replace",
         "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **special})
    if as_json:  # what transformers >= 5 itself saves: tokenizer.json and no vocab.json, merges.txt
        from transformers import CLIPTokenizer
        CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(f"{folder}/tokenizer.json")
        os.remove(f"{folder}/vocab.json")
        os.remove(f"{folder}/merges.txt")
    return len(vocab)


# A small charsmap in place of nmt_nfkc's 237 kB: source code points -> target code points, both in hex.
RULES = {"\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u200b": " ", "\u2028": " ", "\ufeff": " ",
         "ﬁ": "fi", "ﬂ": "fl", "①": "1", "½": "1⁄2", "…": "...", "™": "TM", "e\u0301": "é", "\u0007": "", "\u007f": "",
         **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}}


def unigram(full_charsmap):
    """-> the bytes of a spiece.model: ids <pad> 0, </s> 1, <unk> 2, no bos, as T5's."""
    hexes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    out = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as tsv:
        tsv.writelines(f"{hexes(src)}\t{hexes(dst)}\n" for src, dst in RULES.items())
        tsv.flush()
        rule = {"normalization_rule_name": "nmt_nfkc"} if full_charsmap else {"normalization_rule_tsv": tsv.name}
        train_unigram(out, rule)
    model = sp_pb2.ModelProto.FromString(out.getvalue())
    model.trainer_spec.input[:] = []
    model.normalizer_spec.normalization_rule_tsv = ""
    return model.SerializeToString(deterministic=True)


def train_unigram(out, rule):
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=out, vocab_size=260,
                                   model_type="unigram", character_coverage=0.998, pad_id=0, eos_id=1, unk_id=2,
                                   bos_id=-1, num_threads=1, minloglevel=2, hard_vocab_limit=False, **rule)


def write_t5(folder, full_charsmap=False, spiece_only=False, n_extra=100):
    """Write a T5 tokenizer folder; returns the number of pieces with the <extra_id_n>."""
    os.makedirs(folder, exist_ok=True)
    raw = unigram(full_charsmap)
    model = sp_pb2.ModelProto.FromString(raw)
    extra = [f"<extra_id_{i}>" for i in range(n_extra)]
    vocab = [(p.piece, p.score) for p in model.pieces] + [(e, 0.0) for e in reversed(extra)]
    dump(f"{folder}/tokenizer_config.json", {"additional_special_tokens": extra, "eos_token": "</s>",
         "extra_ids": n_extra, "model_max_length": 512, "pad_token": "<pad>", "sp_model_kwargs": {},
         "tokenizer_class": "T5Tokenizer", "unk_token": "<unk>"})
    dump(f"{folder}/special_tokens_map.json", {"additional_special_tokens": extra, "eos_token": "</s>",
         "pad_token": "<pad>", "unk_token": "<unk>"})
    if spiece_only:
        with open(f"{folder}/spiece.model", "wb") as f:
            f.write(raw)
        return len(vocab)
    tok = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    # T5's own file: Precompiled, Strip(right), Replace(/ {2,}/ -> ▁); Metaspace; "$A </s>".
    tok.normalizer = normalizers.Sequence([normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
                                           normalizers.Strip(left=False, right=True),
                                           normalizers.Replace(Regex(" {2,}"), "▁")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>",
                                                       special_tokens=[("</s>", 1)])
    tok.add_special_tokens(["<pad>", "</s>", "<unk>"] + list(reversed(extra)))
    tok.save(f"{folder}/tokenizer.json", pretty=False)
    return len(vocab)
