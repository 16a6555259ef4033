#!/usr/bin/env python
"""The groceries dataset as the experiment takes it: one folder of images, and two COCO files.

    groceries.py CHECKOUT OUTPUT

`CHECKOUT` is branch `train-val` of aleksandar-aleksandrov/groceries-object-detection-dataset, which
has a folder a class. Its validation split has 160 images, too few to tell detectors apart. Here the
last sixth of each class, by the number in a file's name, is the validation split: neighbours are
often of one shelf, and a random split would put the same products into both. Of byte-identical
images the first is kept, so that none is in both.
"""

import hashlib
import sys
from pathlib import Path

from aa_detection.data.conversion import convert_voc


def main(checkout: Path, output: Path) -> None:
    source = checkout / "dataset"
    classes = (source / "classes.txt").read_text().split()
    for folder in ("images", "annotations"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for name in classes:
        images = sorted(source.glob(f"*/images/{name}/*.png"), key=lambda path: path.name)
        kept = []
        for image in images:
            digest = hashlib.sha256(image.read_bytes()).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            kept.append(image.stem)
            xml = image.parents[2] / "annotations" / name / f"{image.stem}.xml"
            for file, folder in ((image, "images"), (xml, "annotations")):
                link = output / folder / file.name
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
        first = len(kept) - len(kept) // 6
        splits["train"] += kept[:first]
        splits["val"] += kept[first:]
    for split, stems in splits.items():
        listed = output / f"{split}.txt"
        listed.write_text("\n".join(stems) + "\n")
        report = convert_voc(
            output / "images",
            output / "annotations",
            output / f"{split}.json",
            image_set=listed,
            classes=classes,
        )
        print(report.summary)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
