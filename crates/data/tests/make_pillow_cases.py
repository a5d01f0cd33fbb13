"""Makes pillow_cases.txt: what Pillow's Image.resize(size, BILINEAR) gives for pictures made by formula.

Run once, from this folder: python make_pillow_cases.py > pillow_cases.txt
Needs numpy and Pillow 12.1 or older. Up to there Pillow always filtered columns first, then rows, which is what every
published model was trained with. Pillow 12.2 takes rows first where a picture is over 100 times as tall as wide,
Pillow 13 for more of the shapes that grow shorter; of these cases 9 then differ, by one gray level at some pixels.

Byte i of the picture of case number n is the top byte of splitmix64's (n * 2^32 + i)-th value; odd cases keep only
its top bit, as 0 or 255. A line holds: width height new_width new_height, the FNV-1a 64 hash of the resized bytes,
and, for the small ones, those bytes in hex.
"""

import random

import numpy as np
import PIL
from PIL import Image


def splitmix64(index):
    z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def picture(number, width, height):
    index = np.arange(width * height * 3, dtype=np.uint64) + np.uint64(number << 32)
    values = (splitmix64(index) >> np.uint64(56)).astype(np.uint8)
    if number % 2:
        values = (values >> 7) * np.uint8(255)
    return Image.fromarray(values.reshape(height, width, 3))


def fnv(data):
    hash_ = 0xCBF29CE484222325
    for byte in data:
        hash_ = (hash_ ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hash_


SIZES = [
    # small ones, kept whole
    ((4, 5), (2, 3)), ((4, 5), (7, 6)), ((1, 1), (4, 3)), ((1, 7), (3, 2)), ((7, 1), (2, 3)), ((5, 5), (1, 1)),
    ((3, 4), (3, 4)), ((3, 4), (3, 7)), ((3, 4), (7, 4)), ((6, 2), (3, 2)),
    # what a model's preprocessing does
    ((640, 427), (1024, 683)), ((427, 640), (683, 1024)), ((800, 534), (512, 342)), ((500, 333), (1024, 682)),
    ((1500, 1000), (1024, 683)), ((2250, 1500), (512, 341)), ((1024, 768), (1024, 768)), ((1024, 700), (512, 350)),
    # extreme shapes
    ((1, 3000), (1, 1024)), ((3000, 1), (1024, 1)), ((1, 3000), (5, 17)), ((3000, 2), (3, 1)), ((20000, 1), (1, 1)),
    ((1, 20000), (2, 3)), ((2, 2), (1, 1000)), ((2, 2), (1000, 1)), ((1, 1), (257, 1)), ((70000, 1), (13, 2)),
    # one side unchanged
    ((333, 222), (333, 100)), ((333, 222), (100, 222)), ((333, 222), (333, 500)), ((333, 222), (500, 222)),
]

random.seed(20260105)
while len(SIZES) < 64:
    SIZES.append(tuple(tuple(int(2 ** random.uniform(0, 9.2)) for _ in range(2)) for _ in range(2)))

print("# Made by make_pillow_cases.py with Pillow", PIL.__version__)
for number, (size, target) in enumerate(SIZES):
    resized = picture(number, *size).resize(target, Image.BILINEAR).tobytes()
    print(*size, *target, f"{fnv(resized):016x}", *([resized.hex()] if len(resized) <= 200 else []))
