"""Writes what pycocotools makes of some thousand random masks and polygons.

    pip install numpy pycocotools
    python crates/mask/tests/make_pycocotools_cases.py

Masks and polygons are drawn from splitmix64 with plain integer and IEEE arithmetic, so that `pycocotools.rs`
beside this file draws the same ones, and only the answers are stored, in `data/`. Run-length strings are stored
as their 64-bit FNV-1a hash (short ones also in full), fractions as the 16 hex digits of their bits.
"""

import struct
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

GAMMA = 0x9E3779B97F4A7C15
MASKS, GROUPS, POLYGONS = 1200, 1200, 2400


class Random:
    """splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self, count=None):
        """One number, or an array of the next `count` numbers."""
        steps = np.arange(1, (count or 1) + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            z = np.uint64(self.state) + steps * np.uint64(GAMMA)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
        self.state = (self.state + len(steps) * GAMMA) % 2**64
        return z if count else int(z[0])

    def below(self, n):
        return self.next() % n


def noise(random, w, h, part, whole):
    """Each pixel foreground in `part` of `whole` cases, row by row."""
    return (random.next(w * h) % np.uint64(whole) < np.uint64(part)).reshape(h, w)


def blobs(random, w, h):
    y, x = np.mgrid[:h, :w]
    mask = np.zeros((h, w), bool)
    for _ in range(1 + random.below(6)):
        cx, cy, r = random.below(w), random.below(h), random.below(max(w, h) // 2 + 1)
        mask |= (x - cx) ** 2 + (y - cy) ** 2 <= r * r
    return mask


def stripes(random, w, h):
    y, x = np.mgrid[:h, :w]
    a, b, period = random.below(4), random.below(4), 2 + random.below(30)
    width = 1 + random.below(period - 1)
    return (a * x + b * y) % period < width


def mask_of(kind, random, w, h):
    if kind in (0, 1):
        return noise(random, w, h, 1 + random.below(15), 16)
    if kind in (2, 3):
        return blobs(random, w, h)
    if kind in (4, 5):
        return stripes(random, w, h)
    if kind in (6, 7):
        return blobs(random, w, h) ^ noise(random, w, h, 1, 64)
    if kind == 8:
        mask = np.zeros((h, w), bool)
        mask[random.below(h), random.below(w)] = True
        return mask
    return np.full((h, w), kind == 10)


def frame(random, kind):
    """Width and height; kind 11 is a single row or column."""
    w, h = 1 + random.below(200), 1 + random.below(200)
    if kind == 11:
        return (w, 1) if random.below(2) == 0 else (1, h)
    return w, h


def mask_case(i):
    random = Random(1_000_000 + i)
    kind = i % 12
    w, h = frame(random, kind)
    return mask_of(0 if kind == 11 else kind, random, w, h)


def group_case(i):
    """Three masks in one frame."""
    random = Random(2_000_000 + i)
    w, h = frame(random, i % 12)
    return [mask_of(random.below(11), random, w, h) for _ in range(3)]


def spread(random, low, high, parts):
    """A number from low to high (whole numbers) in steps of 1 / parts."""
    return (low * parts + random.below((high - low) * parts + 1)) / parts


def round_polygon(random, w, h, star):
    """Corners at rising angles around a centre; a star's stand nearer and farther in turn."""
    cx, cy = spread(random, 0, w, 1000), spread(random, 0, h, 1000)
    rx, ry = spread(random, 0, w, 1000), spread(random, 0, h, 1000)
    angles = sorted((random.below(4), random.below(1000)) for _ in range(3 + random.below(12)))
    corners = []
    for i, (quarter, step) in enumerate(angles):
        t = step / 1000.0
        c, s = (1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t)
        for _ in range(quarter):
            c, s = -s, c
        reach = 0.375 if star and i % 2 == 1 else 1.0
        corners.append((cx + rx * c * reach, cy + ry * s * reach))
    return corners


def polygon_of(kind, random, w, h):
    if kind in (0, 1):
        return round_polygon(random, w, h, star=kind == 1)
    count = 3 + random.below(20)
    if kind == 2:  # crossing itself, partly outside
        return [(spread(random, -20, w + 20, 1000), spread(random, -20, h + 20, 1000)) for _ in range(count)]
    if kind == 3:  # mostly outside
        return [(spread(random, -3 * w, 4 * w, 100), spread(random, -3 * h, 4 * h, 100)) for _ in range(count)]
    if kind == 4:  # tiny
        x, y = random.below(w), random.below(h)
        return [(x + spread(random, -1, 1, 100), y + spread(random, -1, 1, 100)) for _ in range(count)]
    if kind == 5:  # whole pixels
        return [(spread(random, -2, w + 2, 1), spread(random, -2, h + 2, 1)) for _ in range(count)]
    if kind == 6:  # tenths, which fall between the steps of the fine grid
        return [(spread(random, -2, w + 2, 10), spread(random, -2, h + 2, 10)) for _ in range(count)]
    return [(spread(random, -50_000, 50_000, 10), spread(random, -50_000, 50_000, 10)) for _ in range(count)]


def polygon_case(i):
    """Width, height and the parts; every ninth case has two to four."""
    random = Random(3_000_000 + i)
    w, h = frame(random, i % 12)
    if i % 9 < 8:
        return w, h, [polygon_of(i % 9, random, w, h)]
    return w, h, [polygon_of(random.below(7), random, w, h) for _ in range(2 + random.below(3))]


def encode(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def bits(number):
    return struct.pack(">d", number).hex()


def mask_line(i):
    rle = encode(mask_case(i))
    text = rle["counts"]
    box = [int(v) for v in coco.toBbox(rle)]
    short = [text.decode()] if len(text) <= 40 else []
    return [fnv(text), int(coco.area(rle)), *box, *short]


def group_line(i):
    rles = [encode(mask) for mask in group_case(i)]
    iou, crowd = (coco.iou(rles[:1], rles[1:2], [flag])[0, 0] for flag in (0, 1))
    merged = [coco.merge(rles, intersect=flag)["counts"] for flag in (False, True)]
    return [bits(iou), bits(crowd), fnv(b" ".join(merged))]


def polygon_line(i):
    w, h, parts = polygon_case(i)
    flat = [[float(v) for corner in part for v in corner] for part in parts]
    rle = coco.merge(coco.frPyObjects(flat, h, w))
    return [fnv(rle["counts"]), int(coco.area(rle))]


def write(name, header, line, count):
    path = Path(__file__).parent / "data" / name
    with path.open("w", newline="\n") as file:
        print(f"# pycocotools {version('pycocotools')}: {header}", file=file)
        for i in range(count):
            print(*line(i), file=file)


if __name__ == "__main__":
    write("masks.txt", "hash of the string, area, box x y w h, string if short", mask_line, MASKS)
    header = "IoU of a and b, the same with b a crowd, hash of 'union intersection' of a b c"
    write("groups.txt", header, group_line, GROUPS)
    write("polygons.txt", "hash of the string, area", polygon_line, POLYGONS)
