"""Blocks of every GGUF type that is read and what the gguf package expands them to: gguf/blocks.safetensors; seeds of the reader's
fuzz target: ../fuzz/corpus/gguf, and two with names of T5 and FLUX.1 for ../fuzz/corpus/canonical.

    make_gguf.py [-o FOLDER]        gguf 0.19.0, numpy, safetensors

TYPE.blocks U8 [n, bytes], TYPE.values F32 [n, elements].  Half of the blocks are quantised normal numbers where the
package has a quantiser, all others are random bits under random steps: negative, tiny (subnormal in F16) and zero ones too.
"""
import argparse
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type, quants
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4")
# Where a block has its F16 fields.
HALVES = dict(Q4_0=(0,), Q4_1=(0, 2), Q5_0=(0,), Q5_1=(0, 2), Q8_0=(0,), Q2_K=(80, 82), Q3_K=(108,), Q4_K=(0, 2), Q5_K=(0, 2),
              Q6_K=(208,), IQ4_NL=(0,), IQ4_XS=(0,), MXFP4=(), NVFP4=())


def random_blocks(rng, name, n):
    """valid blocks: any bits are, but for steps that are not finite"""
    blocks = rng.integers(0, 256, (n, gguf.GGML_QUANT_SIZES[Type[name]][1]), dtype=np.uint8)
    for at in HALVES[name]:
        steps = rng.normal(0, 0.01, n).astype(np.float16)
        if n >= 8:
            steps[1::7] = np.float16(3e-7)
            steps[2::7] = np.float16(-3e-5)
            steps[3::7] = 0
            steps[4::7] = np.float16(-65504 if name[:2] == "Q8" else 600)
        blocks[:, at:at + 2] = steps.view(np.uint8).reshape(n, 2)
    if name == "MXFP4":  # the largest exponents overflow
        blocks[:, 0] = np.concatenate([np.arange(251, 251 - n // 2, -1), np.arange(n - n // 2)])
    return blocks


def quantise(rng, name, rows, columns):
    """[rows, bytes] of blocks for normal numbers of the size that weights have"""
    w = rng.normal(0, 0.05, (rows, columns)).astype(np.float32)
    try:
        return quants.quantize(w, Type[name])
    except NotImplementedError:
        elements, size = gguf.GGML_QUANT_SIZES[Type[name]]
        return random_blocks(rng, name, rows * columns // elements).reshape(rows, columns // elements * size)


def blocks_file(rng):
    out = {}
    for name in TYPES:
        elements, size = gguf.GGML_QUANT_SIZES[Type[name]]
        n = 32 if elements < 256 else 8
        blocks = np.concatenate([quantise(rng, name, n // 2, elements), random_blocks(rng, name, n - n // 2)])
        assert blocks.shape == (n, size)
        out[f"{name}.blocks"] = blocks
        out[f"{name}.values"] = quants.dequantize(blocks, Type[name])
        assert out[f"{name}.values"].shape == (n, elements) and np.isfinite(out[f"{name}.values"]).all()
    return out


def seed_file(path, names, **keys):
    """a small file with a matrix of two rows for each type"""
    out = gguf.GGUFWriter(path, "flux")
    for key, value in keys.items():
        (out.add_array if isinstance(value, list) else out.add_string)(key.replace("__", "."), value)
    rng = np.random.default_rng(31)
    for name in names:
        name, module = name if isinstance(name, tuple) else (name, name)
        if name in ("F32", "F16"):
            out.add_tensor(f"{module}.weight", np.ones((2, 3), np.float32 if name == "F32" else np.float16))
        else:
            out.add_tensor(f"{module}.weight", random_blocks(rng, name, 2), raw_dtype=Type[name])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    os.chmod(path, 0o644)


def seeds(folder):
    os.makedirs(folder, exist_ok=True)
    seed_file(f"{folder}/plain", ("F32", "F16"))
    seed_file(f"{folder}/small-blocks", TYPES[:5])
    seed_file(f"{folder}/k-blocks", TYPES[5:10])
    seed_file(f"{folder}/table-blocks", TYPES[10:])
    seed_file(f"{folder}/keys", ("F32",), words=["a", "bc"], numbers=[1, 2, 3], nested=[[1, 2], [3]], text="x")
    seed_file(f"{folder}/shape", ("F32",), comfy__gguf__orig_shape__F32__weight=[3, 2, 1])
    names = ("token_embd", "enc.output_norm", "enc.blk.0.attn_q", "enc.blk.0.attn_rel_b", "enc.blk.11.ffn_gate")
    seed_file(f"{folder}/../canonical/gguf-t5", [("Q8_0", x) for x in names])
    names = ("img_in", "double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "final_layer.adaLN_modulation.1")
    seed_file(f"{folder}/../canonical/gguf-flux", [("Q4_0", x) for x in names])
    data = bytearray(open(f"{folder}/keys", "rb").read())
    data[4] = 2
    open(f"{folder}/version-2", "wb").write(data)
    open(f"{folder}/cut-short", "wb").write(data[:len(data) // 2])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("-o", default=f"{HERE}/gguf", help="output folder")
    folder = ap.parse_args().o
    os.makedirs(folder, exist_ok=True)
    save_file(blocks_file(np.random.default_rng(30)), f"{folder}/blocks.safetensors")
    seeds(f"{HERE}/../fuzz/corpus/gguf")


if __name__ == "__main__":
    main()
