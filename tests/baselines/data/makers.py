"""Tiny data sets on disk, in the layouts of the real ones, and a source without files."""

import json
import pickle
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from baselines.data.source import BaseSource

BIRDS = ("001.Auk/Auk_0001_11", "001.Auk/Auk_0002_12", "002.Wren/Wren_0001_21")
TEXTS = {
    "001.Auk/Auk_0001_11": ["a black auk.", "this bird is black"],
    "001.Auk/Auk_0002_12": ["a white auk", "white and small, with a red bill"],
    "002.Wren/Wren_0001_21": ["a brown wren"],
}


class Toy(BaseSource):
    """`images` images of one grey value each; image 0 has a long and a wordless caption."""

    def __init__(self, images=7, split="train"):
        super().__init__("toy", split)
        self.images = images

    def __len__(self):
        return self.images

    def pixels(self, index, size, *, rng=None):
        noise = torch.randint(128, (3, size, size), generator=rng) if rng else 0
        return (torch.full((3, size, size), 128 * index // self.images) + noise).to(torch.uint8)

    def captions(self, index):
        if index == 0:
            return ("w0 w1 w2 w3 w4 w5 w6 w7", "!?", "two words")
        return tuple(f"image {index} caption {number}" for number in range(1 + index % 3))

    def class_id(self, index):
        return index // 2

    def key(self, index):
        return f"toy/{index}"


def write_image(path: Path, *, width=40, height=30, seed=0, mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def make_cub(root: Path, *, text=True, splits=("train", "test")) -> Path:
    """Two auks to train on and one wren to test."""
    official = root / "CUB_200_2011"
    for number, key in enumerate(BIRDS):
        write_image(official / "images" / f"{key}.jpg", seed=number)
        if text:
            path = root / "text" / f"{key}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(TEXTS[key]) + "\n", encoding="utf-8")
    lines = [f"{number} {key}.jpg" for number, key in enumerate(BIRDS, start=1)]
    (official / "images.txt").write_text("\n".join(lines) + "\n")
    # In another order than images.txt: boxes belong to images by their number.
    (official / "bounding_boxes.txt").write_text(
        "3 1.0 2.0 30.0 20.0\n2 5 5 20 20\n1 0.0 0.0 40.0 30.0\n"
    )
    for split, keys, classes in (("train", BIRDS[:2], [1, 1]), ("test", BIRDS[2:], [2])):
        if split in splits:
            (root / split).mkdir()
            for name, content in (("filenames", list(keys)), ("class_info", classes)):
                (root / split / f"{name}.pickle").write_bytes(pickle.dumps(content, protocol=0))
    return root


def make_coco(root: Path) -> Path:
    """Two images a split, the second with three captions; one file lies there unlisted."""
    for number, (folder, base) in enumerate((("train2014", 10), ("val2014", 20))):
        images, annotations = [], []
        for offset in range(2):
            name = f"COCO_{folder}_{base + offset:012d}.jpg"
            write_image(root / folder / name, seed=number * 2 + offset)
            images.append({"id": base + offset, "file_name": name})
            annotations += [
                {"image_id": base + offset, "id": 100 - k, "caption": f"{folder} {offset} c{k}."}
                for k in range(1 + 2 * offset)
            ]
        write_image(root / folder / f"COCO_{folder}_{999:012d}.jpg")
        path = root / "annotations" / f"captions_{folder}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


def make_folder(root: Path, rows: list, *, images=True) -> Path:
    """A folder with these rows of metadata and an image for every row that names one."""
    root.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if images:
        for number, row in enumerate(rows):
            write_image(root / row["file_name"], seed=number)
    return root
