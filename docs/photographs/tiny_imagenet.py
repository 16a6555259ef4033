#!/usr/bin/env python
"""tiny-imagenet-200 as a folder a class, in training and in validation, of links to its images.

tiny_imagenet.py tiny-imagenet-200 OUTPUT
"""

import sys
from pathlib import Path


def main(source: Path, output: Path) -> None:
    (output / "train").mkdir(parents=True)
    for folder in (source / "train").iterdir():
        (output / "train" / folder.name).symlink_to((folder / "images").resolve())
    for line in (source / "val/val_annotations.txt").read_text().splitlines():
        name, label, *_ = line.split("\t")
        folder = output / "val" / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((source / "val/images" / name).resolve())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
