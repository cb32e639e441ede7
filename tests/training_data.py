"""Generate a small detection data set on which a model really learns: red and blue boxes on dark noise.

As a program: ``python tests/training_data.py FOLDER [--train 64] [--val 16] [--size 64] [--seed 0]``.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = (("red", (230, 40, 40)), ("blue", (40, 40, 230)))


def generate(folder: str | os.PathLike[str], train: int = 64, val: int = 16, size: int = 64, seed: int = 0) -> Path:
    """Write `train` + `val` square JPEGs of `size` pixels with YOLO labels below `folder`; return its data.yaml.

    The same arguments give the same boxes. Existing files are overwritten.
    """
    root = Path(folder).resolve()
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, label = _sample(rng, size)
            Image.fromarray(image).save(root / "images" / split / f"{number:05d}.jpg", quality=95)
            (root / "labels" / split / f"{number:05d}.txt").write_text(label, encoding="utf-8")
    names = "".join(f"  {index}: {name}\n" for index, (name, _colour) in enumerate(CLASSES))
    description = root / "data.yaml"
    # A JSON string is a YAML string whatever the folder is called.
    text = f"path: {json.dumps(str(root), ensure_ascii=False)}\ntrain: images/train\nval: images/val\nnames:\n{names}"
    description.write_text(text, encoding="utf-8")
    return description


def _sample(rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
    """Return one image and its label file: one to three boxes, each a fifth to a half of the image wide and high."""
    image = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(len(CLASSES)))
        width, height = (int(side) for side in rng.integers(size // 5, size // 2, 2))
        left, top = int(rng.integers(0, size - width)), int(rng.integers(0, size - height))
        image[top : top + height, left : left + width] = CLASSES[kind][1]
        box = ((left + width / 2) / size, (top + height / 2) / size, width / size, height / size)
        lines.append(f"{kind} " + " ".join(f"{number:.6f}" for number in box))
    return image, "\n".join(lines) + "\n"


def main() -> None:
    """Generate what the command line asks for and print the path of data.yaml."""
    parser = argparse.ArgumentParser(description="Generate a small detection data set.")
    parser.add_argument("folder")
    for name, default in (("train", 64), ("val", 16), ("size", 64), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    print(generate(arguments.folder, arguments.train, arguments.val, arguments.size, arguments.seed))


if __name__ == "__main__":
    main()
