"""Writes coco_cases.json: a COCO file of hand-made shapes, and what pycocotools measures on them.

Run it with pycocotools 2.0.11 and numpy 2: python make_coco_cases.py > coco_cases.json
"""

import json
import random

import numpy as np
from pycocotools import mask as coco

WIDTH, HEIGHT = 61, 47
random.seed(3)


def blob(points, radius):
    import math

    cx, cy = random.uniform(5, WIDTH - 5), random.uniform(5, HEIGHT - 5)
    ring = []
    for i in range(points):
        angle = 2 * math.pi * i / points
        r = radius * random.uniform(0.5, 1.3)
        ring += [round(cx + r * math.cos(angle), 2), round(cy + r * math.sin(angle), 2)]
    return ring


shapes = [[blob(random.randint(3, 12), random.uniform(2, 25)) for _ in range(random.randint(1, 3))] for _ in range(12)]
yy, xx = np.mgrid[:HEIGHT, :WIDTH]
for k in range(3):
    mask = ((xx * (k + 2) + yy * yy) % 17 < 6).astype(np.uint8)
    rle = coco.encode(np.asfortranarray(mask))
    shapes.append({"size": rle["size"], "counts": rle["counts"].decode()})
    flat = mask.flatten(order="F").tolist()
    counts, value = [0], 0
    for v in flat:
        if v != value:
            counts.append(0)
            value = v
        counts[-1] += 1
    shapes.append({"size": [HEIGHT, WIDTH], "counts": counts})

annotations = []
for i, shape in enumerate(shapes):
    crowd = int(isinstance(shape, dict))
    if isinstance(shape, list):
        rle = coco.merge(coco.frPyObjects(shape, HEIGHT, WIDTH))
    elif isinstance(shape["counts"], list):
        rle = coco.frPyObjects(shape, HEIGHT, WIDTH)
    else:
        rle = shape
    annotations.append(
        {
            "id": i + 1,
            "image_id": 7,
            "category_id": 3 + i % 2,
            "segmentation": shape,
            "iscrowd": crowd,
            "expected": {"area": int(coco.area(rle)), "bbox": coco.toBbox(rle).tolist()},
        }
    )

print(
    json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
            "annotations": annotations,
            "categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}],
        },
        separators=(",", ":"),
    ).replace('{"id":', '\n{"id":')
)
