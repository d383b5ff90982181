#!/usr/bin/env python3
"""nibble's products and attention beside torch's, at FLUX.1's shapes, in turn.

    python3 tests/bench/vs_torch.py --nibble build/nibble [--rounds 3]

Each round times F.linear (BF16 and F32 weights) and scaled_dot_product_attention (BF16), then
`nibble bench` of the same shapes at bf16, a8 and f32; printed are the medians over the rounds, in
GFLOP/s of all processors, and the ratio to torch. Written for torch 2.15.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

LINEARS = [(m, n, k) for m in (512, 1280)
           for n, k in ((9216, 3072), (12288, 3072), (3072, 15360), (21504, 3072))]
ATTENTION = [1280, 4608]


def rate(flops, function, runs=3):
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e-9 * flops / statistics.median(times)


def torch_rates():
    out = {}
    with torch.no_grad():
        for m, n, k in LINEARS:
            for name, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
                x, w = torch.randn(m, k, dtype=dtype), torch.randn(n, k, dtype=dtype)
                out[name, m, n, k] = rate(2.0 * m * n * k, lambda: F.linear(x, w))
        for s in ATTENTION:
            q = torch.randn(1, 24, s, 128, dtype=torch.bfloat16)
            out["attention", s] = rate(
                4.0 * s * s * 3072, lambda: F.scaled_dot_product_attention(q, q, q))
    return out


def nibble_rates(program):
    out = {}

    def bench(kernel, compute, *flags):
        line = subprocess.run([program, "bench", kernel, "--compute", compute, "--json", "-q",
                               *flags], check=True, capture_output=True, text=True).stdout
        return json.loads(line)["results"]

    for compute, weights in (("bf16", "bf16"), ("bf16", "nvfp4"), ("a8", "nvfp4"), ("f32", "f32")):
        for r in bench("gemm", compute, "--weights", weights, "-r", "5"):
            out[compute, r["weights"], r["rows"], r["n"], r["k"]] = r["gflops"]
    for r in bench("attn", "bf16"):
        if r["of"] == "transformer":
            out["attention", r["rows"]] = r["gflops"]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = [(torch_rates(), nibble_rates(args.nibble)) for _ in range(args.rounds)]
    median = lambda side, key: statistics.median(r[side][key] for r in rounds)
    print(f"GFLOP/s of {torch.get_num_threads()} threads, medians of {args.rounds} rounds in turn; "
          "ratios are to torch with weights of the same or, for 4 bits, of BF16 type")
    print(f"{'rows x n x k':>20} {'torch bf16':>11} {'bf16':>13} {'nvfp4':>13} {'nvfp4 a8':>13} "
          f"{'torch f32':>10} {'f32':>13}")
    for shape in LINEARS:
        if ("bf16", "nvfp4", *shape) not in rounds[0][1]:
            continue
        theirs, plain = median(0, ("bf16", *shape)), median(0, ("f32", *shape))
        cells = [f"{median(1, key):7.0f} {median(1, key) / base:4.2f}x" for key, base in (
            (("bf16", "bf16", *shape), theirs), (("bf16", "nvfp4", *shape), theirs),
            (("a8", "nvfp4", *shape), theirs), (("f32", "f32", *shape), plain))]
        print(f"{'x'.join(map(str, shape)):>20} {theirs:11.0f} {cells[0]} {cells[1]} {cells[2]} "
              f"{plain:10.0f} {cells[3]}")
    for s in ATTENTION:
        theirs, ours = median(0, ("attention", s)), median(1, ("attention", s))
        print(f"attention, {s} rows, 24 heads of 128: torch {theirs:.0f}, nibble {ours:.0f}, "
              f"{ours / theirs:.2f}x")


if __name__ == "__main__":
    main()
