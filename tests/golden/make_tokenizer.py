"""Token ids that transformers gives, for the tiny tokenizers of flux/models and for FLUX.1's real ones.

    make_tokenizer.py [--real FOLDER]      FOLDER holds clip/ (vocab.json, merges.txt) and t5/ (tokenizer.json)

Pinned as make_flux.py.  Writes tokenizer/NAME.jsonl, one object a line, and tokenizer/index.json:
    {"name", "folder": a tokenizer folder relative to tokenizer/, or "clip" / "t5" below $NIBBLE_TOKENIZERS, "real": bool,
     "t5": bool}
    {"text", "ids"}                ids with special tokens, not cut, not padded, as FluxPipeline's tokenizers give them:
                                   transformers.CLIPTokenizer and T5TokenizerFast, from_pretrained(folder)
    {"text", "ids", "file_ids"}    where tokenizer.json read as it is (tokenizers.Tokenizer.from_file) says otherwise;
                                   nibble follows the class in a pipeline, and the file in a tokenizer's own folder
                                   (a lone spiece.model there as the tokenizer.json of it)

Where the class and the file differ, and why (all of it seen in these lines):
  - T5TokenizerFast rebuilds the pipeline: of the normalizers it keeps only Precompiled, and pre-tokenizes with
    WhitespaceSplit + Metaspace(prepend "always") where the file has Strip(right), Replace(/ {2,}/) and Metaspace("first").
    So after a literal special token with no blank behind it (`a<extra_id_0>b`) the class begins a word with ▁, the file
    does not; the class splits at every Unicode white space that the charsmap leaves in the text (with the real T5 that
    is U+0085 alone, and only where the file gives <unk>), the file at U+0020; and ` ▁` is one ▁ to the class.
  - CLIP has no tokenizer.json in FLUX.1; a tokenizer.json saved by transformers gives the class's ids.
  - CLIPTokenizer's ByteLevel keeps use_regex=True: pieces of CLIP's own pattern are split once more by GPT-2's.
U+0000 and lone surrogates are left out: neither reaches a program by argv.
"""
import argparse
import json
import os
import random
import unicodedata

import transformers.utils.logging
from tokenizers import Tokenizer
from transformers import CLIPTokenizer, T5TokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))

PLAIN = """a photo of a cat¦A cat holding a sign that says hello world¦The house is wonderful.¦HELLO World iPhone McDonald
the quick brown fox jumps over the lazy dog¦masterpiece, best quality, (detailed:1.3), [low-res], {x|y}¦a_b-c.d/e\\f
it's he's I'm you're they've we'll he'd can't¦IT'S HE'S I'M YOU'RE THEY'VE WE'LL HE'D¦it’s he’s I’m¦'s't're've'm'll'd¦''s 'S
'tis the season¦rock 'n' roll¦don''t¦'¦''¦'''¦"quoted"¦""¦!¦!!¦!!!¦?!?!¦...¦....¦.....¦.-.-.¦,,,¦;:¦--¦---¦***¦@@@¦###¦$$$
1¦12¦123¦1234567890¦3.14159¦1,000,000¦1e-5¦0x1F¦2nd 3rd 4th¦10%¦$5.99¦#1¦v1.2.3-rc4¦1+1=2¦5'6"¦16:9¦1/2¦½¦¼ cup¦²³¦x²+y²¦Ⅳ¦①②③
<|startoftext|>¦<|endoftext|>¦<|endoftext|><|endoftext|>¦a<|endoftext|>b¦a <|endoftext|> b¦<|startoftext|>a photo
<|ENDOFTEXT|>¦<|startoftext|> <|endoftext|>¦<|endoftext<|endoftext|>¦<|end|>¦< | endoftext | >¦<s>¦</s>¦<pad>¦<unk>
a</s>b¦a </s> b¦</s></s>¦<pad><unk></s>¦a <extra_id_0> b¦a<extra_id_0>b¦<extra_id_99>¦<extra_id_100>¦<extra_id_0><extra_id_1>
x <extra_id_5>¦<extra_id_5> x¦<extra_id_5>  x¦<EXTRA_ID_5>¦</S>¦<pad >¦hello</s>world again¦  <pad>  ¦a </s>.¦</s>a b""".replace("\n", "¦")  # one string between two ¦

# Written as escapes: nobody can see these.
ODD = ["", " ", "  ", "   ", "\t", "\n", "\r\n", " a", "a ", "  a  b  ", "a\tb", "a\nb", "a\r\nb", " a  b\n\nc ", "a\u00a0b", "a\u3000b",
       "a\u2003b", "a\u2009b", "a\u200ab", "a\u202fb", "a\u205fb", "a\u1680b", "a\u0085b", "a\u2028b", "a\u2029b", "a\u200bb", "a\u200cb",
       "a\u200db", "a\u2060b", "a\ufeffb", "\ufeffa", "a\u00adb", "a\u180eb", "a\x01b", "a\x07b", "a\x0bb", "a\x0cb", "a\x1bb", "a\x1cb",
       "a\x1fb", "a\x7fb", "a\x80b", "a\x9fb", "\u00a0", "\u3000", "\u200b", "\ufffd", "a\ufffdb", "\u00a0a\u00a0", "a \u00a0 b", "a\u2003 b",
       "a \n b", "\n\na", "a\n\n", "\ta\t",
       "café", "cafe\u0301", "CAFE\u0301", "e\u0301\u0323", "A\u0323\u0302", "\u1ead", "a\u0323\u0302", "\u0301", "\u0301a", "a\u0301\u0301\u0301", "Å", "\u212b",
       "A\u030a", "\u1e9e", "ß", "STRASSE straße", "İstanbul", "ıI", "Σίσυφος ΣΊΣΥΦΟΣ", "ΌΣΟΣ", "ﬁ ﬂ ﬀ ﬃ ﬄ ﬅ", "ǅ ǆ Ǆ", "ĳ Ĳ", "ŉ",
       "ｆｕｌｌ　ｗｉｄｔｈ １２３！？", "ｱｲｳ ﾊﾟ ﾞ", "㍿ ㎏ ㎡", "™ ® ©", "№ ℃ Å Ω", "… ‥", "“curly” ‘quotes’", "— – ‐ −", "‹«»›", "€ £ ¥ ₿", "½ ⅓ ⅞", "x⁻¹ H₂O",
       "Ⅷ ⅷ", "𝐇𝐞𝐥𝐥𝐨 𝒲𝑜𝓇𝓁𝒹", "🅰🅱", "ℍ𝕖𝕝𝕝𝕠",
       "漢字", "漢字 test", "東京タワー", "こんにちは世界", "ガ ｶﾞ か\u3099", "안녕하세요", "\u1112\u1161\u11ab", "你好，世界。", "中文English混排", "𠮷野家", "\ufa19 神",
       "привет мир", "ПРИВЕТ", "Ђура", "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "السَّلَامُ", "\ufefb لا", "नमस्ते", "क्षि", "ไทย", "สวัสดี", "தமிழ்", "ខ្មែរ", "བོད", "አማርኛ",
       "🙂", "🙂🙂", "a🙂b", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "❤", "☃", "✈️ →", "👩🏿‍🚀 in space", "1️⃣ #️⃣", "漢字 test 🙂 ok",
       "\u202eRTL\u202c", "\u2066x\u2069", "ab\u0338c", "Z̸̡͌a̷l̶g̵o̴", "▁", "▁▁", "▁a", "a▁b", "▁ a", "a ▁", "_ a", "Ġa", "a</w>", "Ã©", "\ue000", "\U000f0000",
       "\U0010ffff", "\ufdd0", "ⅰ̇", "ʼn", "i̇", "ͅ", "ᾳ ΑΙ", "ﷺ", "㈱", "⑳", "㋿", "〜～", "・･", "「」｢｣", "゛゜",
       "a" * 50, "supercalifragilisticexpialidocious", "Donaudampfschifffahrtsgesellschaftskapitän", "x" * 200, "ab" * 60, "!" * 80, "1" * 60,
       "https://example.com/a?b=c&d=e#f", "user@example.com", "C:\\Users\\x", "print('hi')\nfor i in x:\n\tpass", "{\"a\": [1, 2]}", "<b>bold</b> &amp;",
       "a,b;c.d:e!f?g", "a , b", "(a)(b)", "a...b", "a--b", "snake_case camelCase PascalCase kebab-case", "3D 4K 8k HDR", "f/1.8 85mm ISO100",
       "word " * 90, "The " + "very " * 40 + "end."]

RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x3ff), (0x300, 0x36f), (0x400, 0x52f), (0x590, 0x6ff), (0x900, 0xd7f), (0xe00, 0xfff),
          (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x218f), (0x2190, 0x27bf), (0x3000, 0x30ff), (0x3130, 0x33ff),
          (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff), (0xfb00, 0xfdff), (0xfe00, 0xfe6f), (0xff00, 0xffef), (0x1d400, 0x1d7ff),
          (0x1f100, 0x1f64f), (0x1f680, 0x1f9ff), (0x20000, 0x2a6d6), (1, 0x1f)]


def assigned(rng, lo, hi):
    while True:         # assigned in CPython 3.11's Unicode 14: newer characters depend on everybody's tables
        c = chr(rng.randint(lo, hi))
        if unicodedata.category(c) not in ("Cn", "Cs"):
            return c


def fuzz(n, seed):
    rng = random.Random(seed)
    words = [w for w in " ".join([PLAIN, *ODD]).replace("¦", " ").split() if len(w) < 16]
    for k in range(n):
        if k % 3 == 0:      # one script, with blanks
            lo, hi = rng.choice(RANGES)
            yield "".join(" " if rng.random() < 0.15 else assigned(rng, lo, hi) for _ in range(rng.randint(1, 24)))
        elif k % 3 == 1:    # anything beside anything
            yield "".join(assigned(rng, *rng.choice(RANGES)) for _ in range(rng.randint(1, 16)))
        else:               # words glued and spaced
            yield "".join(rng.choice(words) + rng.choice(["", " ", " ", "  ", "\n", "'", "-", "\u3000"]) for _ in range(rng.randint(1, 9)))


def strings(n_fuzz, seed):
    all_of_it = PLAIN.split("¦") + ["a|b", "|"] + ODD + list(fuzz(n_fuzz, seed))
    return list(dict.fromkeys(s for s in all_of_it if "\0" not in s))


def write(name, folder, kind, texts, file_folder=None):
    tok = (CLIPTokenizer if kind == "clip" else T5TokenizerFast).from_pretrained(folder)
    path = f"{file_folder or folder}/tokenizer.json"
    file = Tokenizer.from_file(path) if os.path.exists(path) else None
    differ = 0
    with open(f"{HERE}/tokenizer/{name}.jsonl", "w", encoding="utf-8") as f:
        for text in texts:
            line = {"text": text, "ids": tok(text).input_ids}
            if file is not None and file.encode(text).ids != line["ids"]:
                line["file_ids"] = file.encode(text).ids
                differ += 1
            f.write(json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{name}: {len(texts)} strings, class and file differ in {differ}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--real", help="folder of the real tokenizers; without it their files are left as they are")
    opt = ap.parse_args()
    transformers.utils.logging.set_verbosity_error()
    os.makedirs(f"{HERE}/tokenizer", exist_ok=True)
    index = [("tiny-clip", "dev/tokenizer", "clip"), ("tiny-clip-json", "sharded/tokenizer", "clip"),
             ("tiny-clip-specials-first", "f16/tokenizer", "clip"), ("tiny-t5", "dev/tokenizer_2", "t5"),
             ("tiny-t5-nfkc", "schnell/tokenizer_2", "t5"), ("tiny-t5-spiece", "sharded/tokenizer_2", "t5")]
    for name, folder, kind in index:
        # The spiece.model is read as the tokenizer.json with the same pieces and charsmap, dev's.
        same = f"{HERE}/flux/models/dev/tokenizer_2" if name == "tiny-t5-spiece" else None
        write(name, f"{HERE}/flux/models/{folder}", kind, strings(60, 1), same)
    if opt.real:
        write("real-clip", f"{opt.real}/clip", "clip", strings(400, 2))
        write("real-t5", f"{opt.real}/t5", "t5", strings(400, 3))
    rows = [{"name": n, "folder": f"../flux/models/{f}", "real": False, "t5": k == "t5"} for n, f, k in index]
    rows += [{"name": f"real-{k}", "folder": k, "real": True, "t5": k == "t5"} for k in ("clip", "t5")]
    with open(f"{HERE}/tokenizer/index.json", "w") as f:
        json.dump(rows, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
