"""OpenCV's selective search as a file of proposals: the outside reference that WeakSAM's proposals are held against.

It takes the pictures of a run's proposals and writes a file of the same form with OpenCV's boxes in place of the run's, which

    kirie evaluate weak RUN --split test --proposals OUT.json

scores beside them, all of them and, best first, as many in each picture as the run has. Nothing in kirie needs this script.

    python3 -m venv venv && venv/bin/pip install opencv-contrib-python-headless
    venv/bin/python selective_search.py RUN/stage-2-proposals/proposals-test.json SET OUT.json

SET is the folder that the pictures' files start from. Boxes come in OpenCV's own order, which mixes the levels of the hierarchy with
chance; scores fall with the place in it. `--seed` fixes the chance.
"""

import argparse
import json
import os
import sys
import time

import cv2


def boxes_of(picture, quality, most):
    """Corners of the boxes of a BGR picture, best first, edges behind the last pixel; doubles taken off."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(picture)
    if quality:
        search.switchToSelectiveSearchQuality()
    else:
        search.switchToSelectiveSearchFast()
    found, seen = [], set()
    for x, y, w, h in search.process().tolist():
        corners = (x, y, x + w, y + h)
        if w > 0 and h > 0 and corners not in seen:
            seen.add(corners)
            found.append([float(v) for v in corners])
        if len(found) == most:
            break
    return found


def main():
    parser = argparse.ArgumentParser(description="OpenCV's selective search as a file of proposals")
    parser.add_argument("proposals", help="a run's proposals.json or proposals-PART.json")
    parser.add_argument("set", help="the folder that its files start from")
    parser.add_argument("output", help="the file to write")
    parser.add_argument("--quality", action="store_true", help="the slower mode with more boxes")
    parser.add_argument("--most", type=int, default=2000, help="boxes a picture at most (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    cv2.setNumThreads(1)
    with open(args.proposals, encoding="utf-8") as file:
        proposals = json.load(file)
    began, count = time.monotonic(), 0
    for number, image in enumerate(proposals["images"]):
        path = os.path.join(args.set, image["file"])
        picture = cv2.imread(path, cv2.IMREAD_COLOR)
        if picture is None:
            sys.exit(f"{path}: cannot be read")
        height, width = picture.shape[:2]
        if (width, height) != (image["width"], image["height"]):
            sys.exit(f"{path}: expected {image['width']}x{image['height']} pixels, found {width}x{height}")
        cv2.setRNGSeed(args.seed + number)
        found = boxes_of(picture, args.quality, args.most) or [[0.0, 0.0, float(width), float(height)]]
        image["boxes"] = found
        image["scores"] = [1.0 - place / len(found) for place in range(len(found))]
        image["source"] = ["search"] * len(found)
        count += len(found)
    part = args.output + ".part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(proposals, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, args.output)
    pictures = max(len(proposals["images"]), 1)
    seconds = (time.monotonic() - began) / pictures
    print(f"{count / pictures:.1f} boxes and {seconds:.2f} s a picture, OpenCV {cv2.__version__}")


if __name__ == "__main__":
    main()
