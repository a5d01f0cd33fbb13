"""Views a second by PyTorch and torchvision on one thread, to hold `kirie bench views --threads 1` against.

    python crates/samclr/peers/views_torchvision.py --data sets coco_subset camvid labelme_facade bsds500 --recipe samclr --size 64

Pictures are decoded once and kept; what is timed is what a data loader's worker does for a batch: RandomResizedCrop (bicubic), flip,
colour jitter, gray, blur and solarize on Pillow pictures, then tensor, normalisation and one stack. Blur is Pillow's, as in the published
codes of MoCo and lightly: torchvision's own is slower on pictures of this kind. Prints JSON with the names of `kirie bench views --json`.
"""

import argparse
import json
import os
import random
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Area of a crop; brightness, contrast, saturation, hue; share blurred and solarized of the first and the second view.
RECIPES = {
    "samclr": ((0.5, 1.0), (0.4, 0.4, 0.4, 0.1), ((0.5, 0.0), (0.5, 0.0))),
    "simclr": ((0.08, 1.0), (0.8, 0.8, 0.8, 0.2), ((0.5, 0.0), (0.5, 0.0))),
    "cifar": ((0.08, 1.0), (0.4, 0.4, 0.4, 0.1), ((0.0, 0.0), (0.0, 0.0))),
    "moco": ((0.2, 1.0), (0.4, 0.4, 0.4, 0.1), ((0.5, 0.0), (0.5, 0.0))),
    "dino": ((0.4, 1.0), (0.4, 0.4, 0.2, 0.1), ((1.0, 0.0), (0.1, 0.2))),
}


class Blur:
    def __call__(self, picture):
        return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class Solarize:
    def __call__(self, picture):
        return ImageOps.solarize(picture, 128)


def transform(scale, strength, blur, solarize, size):
    return T.Compose([
        T.RandomResizedCrop(size, scale=scale, interpolation=T.InterpolationMode.BICUBIC),
        T.RandomHorizontalFlip(0.5),
        T.RandomApply([T.ColorJitter(*strength)], 0.8),
        T.RandomGrayscale(0.2),
        T.RandomApply([Blur()], blur),
        T.RandomApply([Solarize()], solarize),
        T.ToTensor(),
        T.Normalize(MEAN, STD),
    ])


def files(folder):
    """The training list's pictures where there is one, otherwise all."""
    found = {}
    for place, _, names in os.walk(os.path.join(folder, "images") if os.path.isdir(os.path.join(folder, "images")) else folder):
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending.lower() in (".jpg", ".jpeg", ".png"):
                found[stem] = os.path.join(place, name)
    listed = os.path.join(folder, "train.txt")
    if os.path.exists(listed):
        with open(listed) as lines:
            wanted = [line.strip() for line in lines if line.strip()]
        return [found[stem] for stem in wanted if stem in found]
    return [found[stem] for stem in sorted(found)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", default=".", help="the folder that the sets lie in")
    arguments.add_argument("sets", nargs="+")
    arguments.add_argument("--recipe", choices=RECIPES, default="samclr")
    arguments.add_argument("--size", type=int, default=64)
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--warmup", type=int, default=1)
    args = arguments.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    torch.manual_seed(0)

    paths = [path for name in args.sets for path in files(os.path.join(args.data, name))]
    if not paths:
        raise SystemExit(f"no pictures in {', '.join(args.sets)} of {args.data}")
    began = time.perf_counter()
    pictures = [Image.open(path).convert("RGB") for path in paths]
    decode = (time.perf_counter() - began) / len(pictures)

    scale, strength, kinds = RECIPES[args.recipe]
    views = [transform(scale, strength, *kind, args.size) for kind in kinds]
    seconds = []
    order = []
    for run in range(args.warmup + args.repeat):
        while len(order) < args.batch:
            order += random.sample(range(len(pictures)), len(pictures))
        chosen, order = order[:args.batch], order[args.batch:]
        began = time.perf_counter()
        torch.stack([view(pictures[n]) for view in views for n in chosen])
        if run >= args.warmup:
            seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    count = args.batch * len(views)
    print(json.dumps({
        "what": "views",
        "views_from": "whole pictures",
        "recipe": args.recipe,
        "size": args.size,
        "views_per_batch": count,
        "threads": 1,
        "pictures": len(pictures),
        "seconds": {"median": median, "min": min(seconds), "max": max(seconds), "runs": seconds},
        "rate": count / median,
        "rate_per_thread": count / median,
        "rate_unit": "views/s",
        "decode_seconds_per_picture": decode,
        "versions": {"torch": torch.__version__, "pillow": Image.__version__},
    }, indent=2))


if __name__ == "__main__":
    main()
