"""Exported models beside kirie itself: ONNX's checker, then ONNX Runtime's answers against kirie's.

    cargo run --release -p kirie-export --example formula -- DIR [NAME]...
    pip install onnx onnxruntime safetensors
    python onnxruntime_check.py DIR [--threads 2] [--repeat 3]

Prints one line a model: size of the files, the largest difference of every output beside the largest value, and the encoder's median time.
"""

import argparse
import pathlib
import statistics
import time

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file


def session(path, threads):
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def size(path):
    beside = path.with_name(path.name + ".data")
    return (path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)) / 1e6


def difference(found, expected):
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return f"{np.abs(found - expected).max():.1e} of {np.abs(expected).max():.2g}"


def check(folder, arguments):
    name = folder.name
    answers = load_file(folder / "answers.safetensors")
    path = folder / f"{name}-encoder.onnx"
    encoder = session(path, arguments.threads)
    outputs = [output.name for output in encoder.get_outputs()]
    times = []
    for _ in range(arguments.repeat + 1):
        start = time.perf_counter()
        found = dict(zip(outputs, encoder.run(None, {"image": answers["image"]})))
        times.append(time.perf_counter() - start)
    line = [name, f"{size(path):.1f}", difference(found["image_embeddings"], answers["image_embeddings"])]
    del encoder

    # The decoder on kirie's own embedding, so that differences do not add up.
    picture = {"image_embeddings": answers["image_embeddings"]}
    if "hq_features" in answers:
        assert np.abs(found["hq_features"] - answers["hq_features"]).max() < 1e-3
        picture["hq_features"] = answers["hq_features"]
    prompts = {key: answers[key] for key in ("point_coords", "point_labels")}
    plain = session(folder / f"{name}-decoder.plain.onnx", arguments.threads)
    masks, iou = plain.run(None, picture | prompts)
    line += [f"{size(folder / f'{name}-decoder.onnx'):.1f}", difference(masks[:, :1], answers["mask_0"])]
    line += [difference(iou[:, :1], answers["iou_0"])]
    full = session(folder / f"{name}-decoder.onnx", arguments.threads)
    rest = {"mask_input": answers["mask_input"], "orig_im_size": np.array([683, 1000], np.float32)}
    for has, expected in ((0, "mask_0"), (1, "mask_0_from_mask")):
        given = picture | prompts | rest | {"has_mask_input": np.array([has], np.float32)}
        masks, _, low = full.run(None, given)
        assert masks.shape == (3, 4, 683, 1000), masks.shape
        line.append(difference(low[:, :1], answers[expected]))
    line.append(f"{statistics.median(times[1:]):.2f} s")
    print("| " + " | ".join(line) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("| model | encoder, MB | embedding | decoder, MB | masks | iou | masks, other form | from a mask | encoder |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for folder in sorted(arguments.folder.iterdir()):
        if (folder / "answers.safetensors").exists():
            check(folder, arguments)


if __name__ == "__main__":
    main()
