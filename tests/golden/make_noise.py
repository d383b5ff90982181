"""What torch.randn draws on the CPU, what cuRAND's Philox gives it on a GPU, and FlowMatchEulerDiscreteScheduler's sigmas.

    make_noise.py        writes noise.safetensors and schedule.json beside this file; pinned as make_flux.py

noise.safetensors, tensors named KIND.SEED.N:
    f32, f16, bf16   torch.randn(N, generator=manual_seed(SEED), dtype=KIND) of torch >= 2.12, to be met bit for bit.
                     N as A+B: two draws from one generator, one after the other (below 16 the second normal of a
                     pair is kept for the next draw).
    bf16-8bit        the bf16 field of torch <= 2.11; bit for bit
    cuda             N elements of torch.randn on a CUDA device, KIND cuda-SMS with 2048 threads an SM (1536 where the name
                     says so: cuda-SMSx1536); computed here in double precision, so to be met within 1e-5
schedule.json: {"config": scheduler_config.json's fields, "seq_len", "steps", "mu", "sigmas": F32, N+1}
"""
import json
import os

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import save_file

from make_flux import bf16_8bit

HERE = os.path.dirname(os.path.abspath(__file__))
KINDS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def generator(seed):
    return torch.Generator("cpu").manual_seed(seed)


def philox(seed, counters, offset):
    """Philox4x32-10 at counter (offset, 0, thread, 0) -> four uint32 arrays"""
    m = np.uint64(0xFFFFFFFF)
    c = [np.full_like(counters, offset), np.zeros_like(counters), counters & m, counters >> np.uint64(32)]
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & m, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & m]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & m, (k1 + np.uint64(0xBB67AE85)) & m
    return c


def cuda_randn(seed, n, sms, per_sm=2048):
    threads = 256 * min(-(-n // 256), sms * (per_sm // 256))
    li = np.arange(n, dtype=np.uint64)
    q, tid = li // np.uint64(threads), li % np.uint64(threads)
    out = np.empty(n)
    for turn in range(int(q.max()) + 1):
        here = q == turn
        w = philox(seed, tid[here], turn // 4)
        a = float(np.float32(2.3283064e-10))
        b = float(np.float32(2.3283064e-10) * np.float32(6.2831855))
        comp = turn % 4
        x, y = w[comp & 2].astype(np.float64), w[(comp & 2) + 1].astype(np.float64)
        r, v = np.sqrt(-2 * np.log(np.float32(x * a + a / 2).astype(np.float64))), y * b + b / 2
        out[here] = r * (np.cos(v) if comp & 1 else np.sin(v))
    return torch.from_numpy(out.astype(np.float32))


def noise():
    out = {}
    for kind, dtype in KINDS.items():
        for seed in (0, 7, 42, 2 ** 32 + 7, 2 ** 63 - 1, 2 ** 64 - 1):
            for n in (1, 2, 5, 15, 16, 17, 31, 32, 40, 47):
                out[f"{kind}.{seed}.{n}"] = torch.randn(n, generator=generator(seed), dtype=dtype)
        for a, b in ((5, 5), (4, 3), (15, 16), (17, 16), (16, 16), (5, 17)):
            g = generator(3)
            out[f"{kind}.3.{a}+{b}"] = torch.cat([torch.randn(k, generator=g, dtype=dtype) for k in (a, b)])
        out[f"{kind}.1234.16384"] = torch.randn(16384, generator=generator(1234), dtype=dtype)
    assert torch.equal(out["f32.7.40"], out[f"f32.{2 ** 32 + 7}.40"])
    assert torch.equal(out["bf16.1234.16384"], out["f32.1234.16384"].to(torch.bfloat16))
    for seed in (0, 42, 2 ** 32 + 7):
        for n in (16, 80, 4096):
            out[f"bf16-8bit.{seed}.{n}"] = bf16_8bit(n, generator(seed))
    g = generator(3)
    out["bf16-8bit.3.32+16"] = torch.cat([bf16_8bit(32, g), bf16_8bit(16, g)])
    published = torch.tensor([1.4609375, 0.291015625, 0.9609375, 1.5703125], dtype=torch.bfloat16)
    assert torch.equal(out["bf16-8bit.0.16"][:4], published)

    for seed in (0, 42, 2 ** 32 + 7):
        out[f"cuda-132.{seed}.1000"] = cuda_randn(seed, 1000, 132)
        out[f"cuda-2.{seed}.9000"] = cuda_randn(seed, 9000, 2)       # wraps: components 0, 1, 2
        out[f"cuda-2x1536.{seed}.16000"] = cuda_randn(seed, 16000, 2, 1536)
    published = torch.tensor([-0.924662, -0.425344, -2.643846, 0.145184, -0.120867, -0.579726])
    assert torch.allclose(out["cuda-132.0.1000"][:6], published, atol=2e-6)
    far = [cuda_randn(0, 262144, *card)[[196608, 221184, 262143]] for card in ((132,), (108,), (128, 1536))]
    assert torch.allclose(torch.stack(far), torch.tensor([[1.741074, -0.716542, -1.399392], [1.741074, 0.991138, -0.332907],
                                                          [0.991138, -0.291052, 0.098679]]), atol=2e-6), far
    return out


def schedules():
    dev = dict(use_dynamic_shifting=True, shift=3.0, base_image_seq_len=256, max_image_seq_len=4096, base_shift=0.5,
               max_shift=1.15)
    configs = [dev, dict(use_dynamic_shifting=False, shift=1.0), dict(use_dynamic_shifting=False, shift=3.0),
               dict(dev, time_shift_type="linear"), dict(dev, base_shift=0.7, max_shift=2.0, max_image_seq_len=1024),
               dict(dev, shift_terminal=0.02), dict(use_dynamic_shifting=False, shift=3.0, shift_terminal=0.1)]
    for config in configs:
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, **config)
        lengths = (4, 24, 256, 1024, 4096, 16384) if config["use_dynamic_shifting"] else (256,)
        for seq_len in lengths:
            for steps in (1, 2, 3, 4, 8, 20, 28, 50):
                if steps == 1 and "shift_terminal" in config:   # 0/0 in diffusers
                    continue
                mu = calculate_shift(seq_len, *(scheduler.config[k] for k in ("base_image_seq_len", "max_image_seq_len",
                                                                              "base_shift", "max_shift")))
                scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
                assert torch.equal(scheduler.timesteps, scheduler.sigmas[:-1] * 1000)
                yield {"config": config, "seq_len": seq_len, "steps": steps, "mu": mu, "sigmas": scheduler.sigmas.tolist()}


def main():
    tensors = noise()
    save_file({k: tensors[k].contiguous() for k in sorted(tensors)}, f"{HERE}/noise.safetensors")
    with open(f"{HERE}/schedule.json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(row) for row in schedules()) + "\n]\n")
    print(len(tensors), "tensors; CPU", torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    main()
