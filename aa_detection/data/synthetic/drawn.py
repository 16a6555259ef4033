"""Datasets generated from a seed: images and COCO annotations, written once and then reused."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..catalog import DatasetError, StrPath, dataset_root
from .scene import outline

_SPLITS = ("train", "val")

# RGB pixels (H, W, 3), and for each object its category's name and its visible pixels, (H, W)
Drawing = tuple[NDArray[np.uint8], Sequence[tuple[str, NDArray[np.bool_]]]]


@dataclass(frozen=True)
class DrawnDataset:
    """A kind of dataset that a random number generator draws.

    Args:
        name: the folder is ``aa_<name>``, and messages say "the <name> dataset".
        version: raise it whenever the same seed would give other files, so that an older dataset is
            not reused.
        category_ids: by the categories' names.
        draw: makes a :data:`Drawing` from a generator and the image's index, counted from 0. The
            visible part of an object must have no holes, so that polygons describe it exactly.
    """

    name: str
    version: str
    category_ids: dict[str, int]
    draw: Callable[[np.random.Generator, int], Drawing]

    @property
    def folder(self) -> str:
        """Return the folder's name under the dataset root."""
        return f"aa_{self.name}"

    def write(
        self, root: StrPath | None = None, *, num_train: int = 320, num_val: int = 80, seed: int = 0
    ) -> Path:
        """Write `root`/aa_<name> unless it exists, and return that folder.

        The folder holds `train/*.png`, `val/*.png` and COCO annotations in
        `annotations/train.json` and `annotations/val.json`. Boxes, areas and polygons describe the
        visible part of an object. The same arguments give the same files; an image depends only on
        `seed`, its split and its index.

        The folder appears when everything is written. A complete dataset of the same seed and size
        is left as it is; any other content is never touched.

        Args:
            root: default :func:`aa_detection.data.dataset_root`.
            num_train, num_val: number of images, at least 1.
            seed: at least 0.

        Raises:
            DatasetError: the folder holds something else, or cannot be written.
        """
        if min(num_train, num_val) < 1 or seed < 0:
            raise DatasetError(
                f"a {self.name} dataset needs num_train >= 1, num_val >= 1 and seed >= 0, "
                f"got {num_train}, {num_val} and {seed}"
            )
        root = dataset_root() if root is None else Path(root).expanduser()
        folder = root / self.folder
        counts = (num_train, num_val)
        try:
            if self._is_present(folder, counts, seed):
                return folder
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.folder}.", dir=root) as unfinished:
                # A subfolder, because only this user can read the temporary folder itself.
                written = Path(unfinished) / self.folder
                for index, (split, count) in enumerate(zip(_SPLITS, counts)):
                    self._write_split(written, split, count, (seed, index))
                try:
                    written.rename(folder)
                except OSError:
                    # another process may have written it in the meantime
                    if not self._is_present(folder, counts, seed):
                        raise
        except OSError as error:
            raise DatasetError(
                f"cannot write the {self.name} dataset to {folder}: {error.strerror or error}"
            ) from error
        return folder

    def _is_present(self, folder: Path, counts: tuple[int, int], seed: int) -> bool:
        """Return whether exactly this dataset exists; raise DatasetError for any other content."""
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
        for split, count in zip(_SPLITS, counts):
            try:
                content = json.loads((folder / "annotations" / f"{split}.json").read_bytes())
                info = content["info"]
                files = {image["file_name"] for image in content["images"]}
                complete = (info["version"], info["seed"]) == (self.version, seed)
                complete = complete and len(files) == count
                complete = complete and files == {path.name for path in (folder / split).iterdir()}
            except (OSError, ValueError, KeyError, TypeError):
                complete = False
            if not complete:
                raise DatasetError(
                    f"{folder} is there but is not the {self.name} dataset of format "
                    f"{self.version}, seed {seed}, {counts[0]} + {counts[1]} images (its {split} "
                    "part differs): remove that folder or choose another dataset root"
                )
        return True

    def _write_split(self, folder: Path, split: str, count: int, seed: tuple[int, int]) -> None:
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            pixels, objects = self.draw(np.random.default_rng((*seed, index)), index)
            image = {
                "id": index + 1,
                "license": 1,
                "file_name": f"{index + 1:06d}.png",
                "height": pixels.shape[0],
                "width": pixels.shape[1],
            }
            Image.fromarray(pixels).save(
                folder / split / image["file_name"],
                compress_level=1,  # higher levels are slower and save little on noise
            )
            images.append(image)
            for category, visible in objects:
                polygons = outline(visible)
                corners = np.concatenate(polygons)
                (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": self.category_ids[category],
                        "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)],
                        "area": float(visible.sum()),
                        "segmentation": [polygon.ravel().tolist() for polygon in polygons],
                        "iscrowd": 0,
                    }
                )
        content = {
            "info": {
                "description": f"aa_detection {self.name} dataset, {split}",
                "version": self.version,
                "seed": seed[0],
            },
            "licenses": [
                {
                    "id": 1,
                    "name": "CC0 1.0",
                    "url": "https://creativecommons.org/publicdomain/zero/1.0/",
                }
            ],
            "categories": [
                {"id": category_id, "name": name, "supercategory": "shape"}
                for name, category_id in self.category_ids.items()
            ],
            "images": images,
            "annotations": annotations,
        }
        path = folder / "annotations" / f"{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
