"""The encoders of EfficientViT-SAM in PyTorch and in ONNX Runtime, beside `kirie bench encoder`: the same layers and sizes, random weights.

    pip install torch onnxruntime
    python crates/sam/peers/encoder_pytorch.py KIRIE [--models efficientvit-sam-l0 ...] [--rounds 3] [--threads 2] [--onnx DIR]

With `--onnx DIR`, ONNX Runtime runs `DIR/MODEL-encoder.onnx` as `kirie export` writes it; then models without layers here (mobile-sam) can be asked for too.

Runs kirie and PyTorch in turns and prints medians. PyTorch runs as it comes (`eager`), with its channels last (`channels last`), and
traced and frozen with its channels last, norms folded (`frozen`).
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F
from torch import nn


def conv(i, o, k, stride=1, groups=1, bias=False, norm=True, act=False):
    layers = [nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=bias)]
    if norm:
        layers.append(nn.BatchNorm2d(o, eps=1e-6))
    if act:
        layers.append(nn.GELU(approximate="tanh"))
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, main):
        super().__init__()
        self.main = main

    def forward(self, x):
        return x + self.main(x)


def res(i, o, stride=1):
    return nn.Sequential(conv(i, i, 3, stride, act=True), conv(i, o, 3))


def fused(i, o, hidden, stride=1):
    return nn.Sequential(conv(i, hidden, 3, stride, act=True), conv(hidden, o, 1))


def mb(i, o, hidden, stride=1, fewer_norm=True):
    plain = dict(bias=fewer_norm, norm=not fewer_norm, act=True)
    return nn.Sequential(conv(i, hidden, 1, **plain), conv(hidden, hidden, 3, stride, hidden, **plain), conv(hidden, o, 1))


class LinearAttention(nn.Module):
    def __init__(self, width, head, kernel):
        super().__init__()
        self.head = head
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.near = nn.Sequential(
            nn.Conv2d(3 * width, 3 * width, kernel, padding=kernel // 2, groups=3 * width, bias=False),
            nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // head, bias=False),
        )
        self.proj = conv(2 * width, width, 1)

    def forward(self, x):
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        qkv = torch.cat([qkv, self.near(qkv)], 1).reshape(b, -1, 3 * self.head, h * w)
        q, k, v = qkv.chunk(3, 2)
        q, k = F.relu(q), F.relu(k)
        v = F.pad(v, (0, 0, 0, 1), value=1.0)
        out = (v @ k.transpose(-1, -2)) @ q
        out = out[:, :, :-1] / (out[:, :, -1:] + 1e-15)
        return self.proj(out.reshape(b, -1, h, w))


class Encoder(nn.Module):
    def __init__(self, kinds, depths, expand, kernel, neck_depth, neck_expand):
        super().__init__()
        width, stages = 3, []
        for n, (kind, depth, e) in enumerate(zip(kinds, depths, expand)):
            o = 32 << n
            make = {"res": res, "fused": fused, "mb": mb, "att": mb}[kind]
            if n == 0:
                steps = [conv(3, o, 3, 2, act=True)]
            else:
                steps = [make(width, o, width * e * 4, 2)]
            for _ in range(depth):
                if kind == "att":
                    steps.append(Residual(LinearAttention(o, 32, kernel)))
                steps.append(Residual(make(o, o) if kind == "res" else make(o, o, o * e)))
            stages.append(nn.Sequential(*steps))
            width = o
        self.stages = nn.ModuleList(stages)
        self.inputs = nn.ModuleList(conv(32 << n, 256, 1) for n in range(len(kinds) - 3, len(kinds)))
        self.middle = nn.Sequential(*(Residual(fused(256, 256, 256 * neck_expand)) for _ in range(neck_depth)))
        self.output = nn.Conv2d(256, 256, 1)
        self.norm = nn.LayerNorm(256, eps=1e-6)

    def forward(self, x):
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        x = sum(
            F.interpolate(op(y), size=(64, 64), mode="bicubic", align_corners=False)
            for op, y in zip(self.inputs, outputs[-3:])
        )
        x = self.output(self.middle(x))
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


L = (["res", "fused", "fused", "mb", "att"], [1, 4, 4, 4, 6], 5)
XL = (["res", "fused", "fused", "fused", "att", "att"], [1, 4, 4, 4, 4, 6], 3)
MODELS = {
    "efficientvit-sam-l0": (512, L, [1, 1, 1, 4, 4], 4, 1),
    "efficientvit-sam-l1": (512, L, [1, 1, 1, 6, 6], 8, 1),
    "efficientvit-sam-l2": (512, L, [1, 2, 2, 8, 8], 12, 1),
    "efficientvit-sam-xl0": (1024, XL, [0, 1, 1, 2, 3, 3], 6, 4),
    "efficientvit-sam-xl1": (1024, XL, [1, 2, 2, 4, 6, 6], 12, 4),
}


def build(name):
    size, (kinds, expand, kernel), depths, neck_depth, neck_expand = MODELS[name]
    torch.manual_seed(0)
    return Encoder(kinds, depths, expand, kernel, neck_depth, neck_expand).eval(), torch.randn(1, 3, size, size)


def seconds(run, repeats):
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return took


def pytorch(name):
    model, x = build(name)
    other, _ = build(name)
    last = x.to(memory_format=torch.channels_last)
    other.to(memory_format=torch.channels_last)
    frozen = torch.jit.freeze(torch.jit.trace(other, last))
    return {"eager": lambda: model(x), "channels last": lambda: other(last), "frozen": lambda: frozen(last)}


def onnxruntime(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    x = torch.randn(*[side if isinstance(side, int) else 1 for side in given.shape]).numpy()
    return lambda: session.run(None, {given.name: x})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kirie")
    parser.add_argument("--models", nargs="+", default=["efficientvit-sam-l0"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--onnx")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.models:
        print(name)
        with torch.inference_mode():
            ways = pytorch(name) if name in MODELS else {}
            if args.onnx:
                ways["onnxruntime"] = onnxruntime(f"{args.onnx}/{name}-encoder.onnx", args.threads)
            for way in ways.values():
                seconds(way, 2)
            found = {"kirie": []} | {way: [] for way in ways}
            for _ in range(args.rounds):
                command = [args.kirie, "bench", "encoder", "--model", name, "--repeat", str(args.repeats), "--json"]
                answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                found["kirie"].append(answer["seconds"]["median"])
                for way, run in ways.items():
                    found[way].append(statistics.median(seconds(run, args.repeats)))
        for way, medians in found.items():
            ratio = statistics.median(medians) / statistics.median(found["kirie"])
            print(f"  {way:14} {', '.join(f'{m:.3f}' for m in medians)} s   {ratio:.2f}")


if __name__ == "__main__":
    main()
