#!/usr/bin/env python
"""The road signs of OtonomDataset as the experiment takes them: two COCO files.

    otonom.py CHECKOUT OUTPUT

`CHECKOUT` is luxunecteknoloji/OtonomDataset, in COCO's format, and stays the folder of the images.
Its splits are used as they are: train (about three augmented copies of each of its sources) for
training, valid and test together for validation. The category 0, a parent of the others that no box
has, is left out.
"""

import json
import sys
from pathlib import Path


def main(checkout: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, splits in {"train": ["train"], "val": ["valid", "test"]}.items():
        content = {"images": [], "annotations": []}
        for split in splits:
            found = json.loads((checkout / split / "_annotations.coco.json").read_text())
            first = len(content["images"])
            assert [image["id"] for image in found["images"]] == list(range(len(found["images"])))
            for image in found["images"]:
                image["id"] += first
                image["file_name"] = f"{split}/{image['file_name']}"
            for annotation in found["annotations"]:
                annotation["id"] = len(content["annotations"]) + 1  # COCO takes 0 for no object
                annotation["image_id"] += first
                content["annotations"].append(annotation)
            content["images"] += found["images"]
            content["licenses"] = found["licenses"]
            content["categories"] = [each for each in found["categories"] if each["id"]]
        (output / f"{name}.json").write_text(json.dumps(content))
        print(f"{name}: {len(content['images'])} images, {len(content['annotations'])} boxes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
