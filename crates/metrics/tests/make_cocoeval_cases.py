"""Writes what pycocotools makes of random ground truth and detections.

    pip install numpy pycocotools
    python crates/metrics/tests/make_cocoeval_cases.py

Everything is drawn from Python's `random` with a fixed seed. `data/cocoeval.txt` holds case after case, one thing a
line, numbers in the shortest decimal form that reads back to the same bits:

    case NAME box|mask HEIGHT WIDTH     height and width of the masks' frame, 0 0 for boxes
    images ID...
    categories ID...
    t IMAGE CATEGORY CROWD AREA REGION  ground truth; REGION is x y w h, or a COCO run-length string
    d IMAGE CATEGORY SCORE AREA REGION  detection; AREA is - when it is the region's own
    run AGNOSTIC MAXDETS IOUS           one evaluation; lists with commas, `coco` for COCO's own
    arrays PRECISION RECALL             FNV-1a of the bits of COCOeval's two arrays
    stats NUMBER...                     the 12 figures of the summary
    class ID AP AP@IOU...               mean precision of one category over all IoUs, then at each
"""

import contextlib
import io
import random
import struct
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZE = 128


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def bits(array):
    """The numbers of an array in C order, each as 8 big-endian bytes."""
    return struct.pack(f">{array.size}d", *array.ravel())


class Boxes:
    """Boxes; sides now and then at the borders of the size classes."""

    name, frame = "box", "0 0"

    def new(self, rng):
        side = rng.choice([8.0, 32.0, 96.0, rng.uniform(2, 40), rng.uniform(20, 150)])
        other = side if rng.random() < 0.5 else rng.uniform(2, 150)
        return [round(v, 2) for v in (rng.uniform(0, 200), rng.uniform(0, 200), side, other)]

    def near(self, rng, box):
        """The same box, or one shifted and stretched a little."""
        if rng.random() < 0.2:
            return list(box)
        x, y, w, h = box
        by = rng.choice([0.02, 0.1, 0.3])
        moved = [x + w * rng.uniform(-by, by), y + h * rng.uniform(-by, by)]
        return [round(v, 2) for v in (*moved, w * rng.uniform(1 - by, 1 + by), h * rng.uniform(1 - by, 1 + by))]

    def annotation(self, box):
        return {"bbox": box}

    def text(self, box):
        return " ".join(map(repr, box))


class Masks:
    """Unions of an upright and a slanted shape, as bitmaps."""

    name, frame = "mask", f"{SIZE} {SIZE}"

    def new(self, rng):
        w, h = rng.choice([(8, 8), (32, 32), (96, 96), (rng.randint(2, 40), rng.randint(2, 60))])
        return self.shape(rng.randint(-4, SIZE - 8), rng.randint(-4, SIZE - 8), w, h, rng.choice([0, 0, 1, 3]))

    def shape(self, left, top, w, h, slant):
        y, x = np.mgrid[:SIZE, :SIZE]
        left = left + (y - top) * slant // 4
        return (x >= left) & (x < left + w) & (y >= top) & (y < top + h)

    def near(self, rng, mask):
        if rng.random() < 0.2:
            return mask
        by = rng.choice([1, 2, 6])
        moved = np.roll(mask, (rng.randint(-by, by), rng.randint(-by, by)), (0, 1))
        return moved & mask if rng.random() < 0.3 else moved

    def encode(self, mask):
        return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))

    def annotation(self, mask):
        return {"segmentation": self.encode(mask)}

    def text(self, mask):
        return self.encode(mask)["counts"].decode()


def area_of(kind, region):
    return float(region[2] * region[3]) if kind.name == "box" else float(region.sum())


def draw(rng, kind, images, categories, objects, extra, own_areas):
    """Ground truth and detections. The last image has no ground truth, the first no detections; the last category
    has no ground truth, the one before it no detections."""
    truths, detections = [], []
    for _ in range(objects):
        image, category = rng.choice(images[:-1]), rng.choice(categories[:-1])
        region = kind.new(rng)
        # COCO states the mask's area: smaller than the box's, and not that of our regions. Borders included.
        area = rng.choice([1024.0, 9216.0, area_of(kind, region), round(area_of(kind, region) * 0.7, 1)])
        truths.append((image, category, int(rng.random() < 0.12), area, region))
        if category == categories[-2] or image == images[0]:
            continue
        for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
            sure_of = category if rng.random() < 0.9 else rng.choice(categories[:-2])
            detections.append([image, sure_of, kind.near(rng, region)])
    for _ in range(extra):
        category = rng.choice(categories[:-2] + categories[-1:])
        detections.append([rng.choice(images[1:]), category, kind.new(rng)])
    rng.shuffle(detections)
    scored = []
    for image, category, region in detections:
        score = rng.choice([round(rng.random(), 1), round(rng.random(), 3)])
        area = None if own_areas or kind.name == "box" else round(area_of(kind, region) * rng.uniform(0.8, 1.5), 2)
        scored.append((image, category, score, area, region))
    return truths, scored


def load(kind, images, categories, truths, detections):
    gt = COCO()
    gt.dataset = {
        "images": [{"id": i, "height": SIZE, "width": SIZE} for i in images],
        "categories": [{"id": c, "name": str(c)} for c in categories],
        # Ids from 1: pycocotools takes id 0 for "no match".
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": c, "iscrowd": crowd, "area": area, **kind.annotation(region)}
            for n, (i, c, crowd, area, region) in enumerate(truths)
        ],
    }
    gt.createIndex()
    results = [
        {"image_id": i, "category_id": c, "score": score, **kind.annotation(region)}
        for i, c, score, _, region in detections
    ]
    dt = gt.loadRes(results)
    for ann, (_, _, _, area, _) in zip(dt.dataset["annotations"], detections):
        if area is not None:  # as for results that bring a box beside the mask
            ann["area"] = area
    return gt, dt


def evaluate(kind, gt, dt, agnostic, max_dets, ious):
    run = COCOeval(gt, dt, "bbox" if kind.name == "box" else "segm")
    run.params.useCats = int(not agnostic)
    if max_dets:
        run.params.maxDets = max_dets
    if ious:
        run.params.iouThrs = np.array(ious)
    run.evaluate()
    run.accumulate()
    stats = None
    if not max_dets and not ious:
        run.summarize()
        stats = run.stats
    return run.eval["precision"], run.eval["recall"], stats


def mean(values):
    values = values[values > -1]
    return float(np.mean(values)) if len(values) else -1.0


def numbers(values):
    return " ".join(repr(float(v)) for v in values)


def write_case(file, name, kind, seed, images, categories, objects, extra, runs, own_areas=True):
    rng = random.Random(seed)
    truths, detections = draw(rng, kind, images, categories, objects, extra, own_areas)

    def line(*parts):
        print(*parts, file=file)

    line("case", name, kind.name, kind.frame)
    line("images", *images)
    line("categories", *categories)
    for image, category, crowd, area, region in truths:
        line("t", image, category, crowd, repr(area), kind.text(region))
    for image, category, score, area, region in detections:
        line("d", image, category, repr(score), "-" if area is None else repr(area), kind.text(region))
    for agnostic, max_dets, ious in runs:
        with contextlib.redirect_stdout(io.StringIO()):
            gt, dt = load(kind, images, categories, truths, detections)
            precision, recall, stats = evaluate(kind, gt, dt, agnostic, max_dets, ious)
        shown = [",".join(map(repr, values)) if values else "coco" for values in (max_dets, ious)]
        line("run", int(agnostic), *shown)
        line("arrays", fnv(bits(precision)), fnv(bits(recall)))
        if stats is not None:
            line("stats", numbers(stats))
        for k, category in enumerate([0] if agnostic else categories):
            by_iou = precision[:, :, k, 0, -1]
            line("class", category, numbers([mean(by_iou), *(mean(row) for row in by_iou)]))


COCO_RUN = (False, None, None)
ALL_RUNS = [
    COCO_RUN,
    (True, None, None),
    (False, [1, 3, 300], [0.25, 0.5, 0.7, 0.75, 1.0]),
    (True, [2, 5, 20], [0.5, 0.75, 0.9]),
]

if __name__ == "__main__":
    path = Path(__file__).parent / "data" / "cocoeval.txt"
    with path.open("w", newline="\n") as out:
        print(f"# pycocotools {version('pycocotools')}, NumPy {version('numpy')}; see make_cocoeval_cases.py", file=out)
        for n in range(8):
            images, categories = list(range(3, 13)), [1, 2, 5, 7, 90]
            write_case(out, f"boxes-{n}", Boxes(), n, images, categories, 60, 25, ALL_RUNS)
        # More than 100 detections in an image, nearly all scores tied.
        write_case(out, "crowded-boxes", Boxes(), 100, [1, 2, 3], [1, 2, 3], 60, 320, ALL_RUNS)
        # One object, one image that anything is in.
        write_case(out, "few-boxes", Boxes(), 101, [4, 9, 11], [2, 3, 8], 2, 4, ALL_RUNS)
        write_case(out, "many-categories", Boxes(), 102, list(range(1, 21)), list(range(1, 41)), 150, 60, ALL_RUNS)
        for n in range(6):
            images, categories = list(range(1, 7)), [1, 2, 3, 4]
            write_case(out, f"masks-{n}", Masks(), 200 + n, images, categories, 40, 20, ALL_RUNS, n % 2 == 0)
