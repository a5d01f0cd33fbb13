"""Makes the files of tests/data/checkpoints: one set of weights in every layout that torch.save gives them.

    python tests/make_checkpoints.py        (needs torch, safetensors, numpy; run in the crate's folder)

The weights follow from their names (src/formula.rs), so the tests know every value without these files, and a
second run of the script makes the same ones. `tiny.*` hold the whole tiny model of tests/common/mod.rs, the rest its
prompt encoder alone, to stay small.
"""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

OUT = Path(__file__).parent / "data" / "checkpoints"
MASK64 = (1 << 64) - 1


def formula(key, shape):
    """src/formula.rs, value by value."""
    seed = 0xCBF29CE484222325
    for byte in key.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK64
    count = int(np.prod(shape, dtype=np.int64))
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    values = np.empty(count, dtype=np.float64)
    for i in range(count):
        x = (seed + (i + 1) * 0x9E3779B97F4A7C15) & MASK64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
        x ^= x >> 31
        values[i] = (x >> 40) / (1 << 24) * 2.0 - 1.0
    if key.endswith("running_var"):
        values = 1.0 + 0.5 * np.abs(values)
    elif key.endswith("running_mean"):
        values = 0.1 * values
    elif key.endswith("positional_encoding_gaussian_matrix"):
        values = 2.0 * values
    elif key.endswith("pos_embed"):
        values = 0.02 * values
    elif len(shape) == 1:
        values = 1.0 + 0.1 * values if key.endswith("weight") else 0.1 * values
    else:
        values = values * np.sqrt(3.0 / np.prod(shape[1:], dtype=np.int64))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def read_keys(name):
    for line in (OUT / name).read_text().splitlines():
        key, shape = line.split(" ")
        yield key, [int(side) for side in shape.split("x") if side]


def transposed(tensor):
    """The same values, last axis stored first."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1) if tensor.dim() > 1 else tensor


def sharing_one_storage(weights):
    """The same values as views into one storage, with a gap before each."""
    gap = 3
    storage = torch.full([sum(gap + t.numel() for t in weights.values())], 777.0)
    views, start = OrderedDict(), 0
    for key, tensor in weights.items():
        start += gap
        storage[start : start + tensor.numel()] = tensor.flatten()
        views[key] = storage[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return views


class Command:
    """Unpickling it in Python would run a command."""

    def __reduce__(self):
        return os.system, ("touch kirie-ran-a-command",)


def main():
    tiny = OrderedDict((key, formula(key, shape)) for key, shape in read_keys("tiny_keys.txt"))
    torch.save(tiny, OUT / "tiny.pt")
    safetensors.torch.save_file(tiny, OUT / "tiny.safetensors", metadata={"format": "pt", "model": "tiny"})

    weights = OrderedDict((key, formula(key, shape)) for key, shape in read_keys("prompt_encoder_keys.txt"))

    def save(name, value, **options):
        torch.save(value, OUT / name, **options)

    def mapped(f):
        return OrderedDict((key, f(tensor)) for key, tensor in weights.items())

    save("flat.pt", weights)
    save("plain_dict.pt", dict(weights))
    save("state_dict.pt", {"epoch": 3, "state_dict": weights})
    # What training scripts leave beside the weights.
    save(
        "training_run.pt",
        {
            "model": weights,
            "optimizer": {
                "state": {i: {"step": torch.tensor(7.0), "exp_avg": torch.ones(3)} for i in range(2)},
                "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0, 1], "foreach": None}],
            },
            "epoch": 12,
            "best": np.float64(0.75),
            "name": "tiny",
            "amp": False,
            "nothing": None,
            "nested": {"a": {"b": [1, 2.5, "c", None, 1 << 70]}},
            "seen": {1, 2},
            "dtype": torch.float32,
            "device": torch.device("cpu"),
            "size": torch.Size([1, 2]),
        },
    )
    save("protocol4.pt", weights, pickle_protocol=4)
    save("legacy.pt", weights, _use_new_zipfile_serialization=False)
    save("legacy_state_dict.pt", {"state_dict": weights}, _use_new_zipfile_serialization=False)
    save("transposed.pt", mapped(transposed))
    save("shared.pt", sharing_one_storage(weights))
    save("legacy_shared.pt", sharing_one_storage(weights), _use_new_zipfile_serialization=False)
    save("parameters.pt", mapped(torch.nn.Parameter))
    for dtype in [torch.float16, torch.bfloat16, torch.float64]:
        save(f"{str(dtype).removeprefix('torch.')}.pt", mapped(lambda t, dtype=dtype: t.to(dtype)))

    save("prefixed.pt", OrderedDict((f"model.{key}", tensor) for key, tensor in weights.items()))

    # Files that run a command when Python unpickles them.
    save("command_protocol2.pt", {**weights, "hook": Command()})
    save("command_protocol4.pt", {**weights, "hook": Command()}, pickle_protocol=4)
    save("command_legacy.pt", {"model": weights, "hook": Command()}, _use_new_zipfile_serialization=False)
    with open(OUT / "command_alone.pt", "wb") as file:
        pickle.dump(Command(), file)


main()
