"""Check that a dataset's image files exist and can be read."""

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from .images import ImageError, check_image_header, image_file, read_image
from .report import DatasetReport, Record


def find_images(report: DatasetReport, images: list[Record]) -> list[Record]:
    """Return the images whose file exists, and report the others."""
    root = report.dataset.image_root
    if not root.is_dir():
        report.add(
            "image folder",
            f"image folder {root} does not exist (images of {report.dataset.annotation_file})",
        )
        return []
    images = _in_folder(report, images)
    listings: dict[str, set[str]] = {}  # list each folder once: one stat per image is slow on NFS
    present: list[Record] = []
    missing: list[Record] = []
    for image in images:
        folder, name = os.path.split(image["file_name"])
        if folder not in listings:
            listings[folder] = _list_files(os.path.join(root, folder))
        (present if name in listings[folder] else missing).append(image)
    if missing:
        report.add(
            "images: file missing",
            f"image file {root / missing[0]['file_name']} does not exist "
            f"(image {missing[0]['id']} of {report.dataset.annotation_file})",
            [image["id"] for image in missing],
        )
    return present


def _in_folder(report: DatasetReport, images: list[Record]) -> list[Record]:
    """Return the images whose file is inside the folder, and report the others."""
    inside: list[Record] = []
    outside: list[tuple[Record, str]] = []
    for image in images:
        try:
            image_file(report.dataset.image_root, image["file_name"], image["id"])
            inside.append(image)
        except ImageError as error:
            outside.append((image, str(error)))
    if outside:
        report.add(
            "images: outside the image folder",
            f"{outside[0][1]} ({report.dataset.annotation_file})",
            [image["id"] for image, _ in outside],
        )
    return inside


def open_images(
    report: DatasetReport,
    images: list[Record],
    sizes: Mapping[int, tuple[float, float]],
    *,
    decode: bool,
) -> None:
    """Check that Pillow can read each file and that it has the size in the annotations.

    Args:
        sizes: width and height by image id; NaN if unusable.
        decode: decode the pixels too, not only the header.
    """
    root = os.fspath(report.dataset.image_root)

    def fault(image: Record) -> str | None:
        path = os.path.join(root, image["file_name"])
        try:
            (_decode if decode else check_image_header)(path, image["id"], sizes[image["id"]])
        except ImageError as error:
            return str(error)
        return None

    images = [image for image in images if not math.isnan(sizes[image["id"]][0])]
    # a file server answers requests in parallel, and Pillow decodes without the GIL
    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
        faults = list(pool.map(fault, images))
    wrong = [i for i, line in enumerate(faults) if line]
    if wrong:
        report.add(
            "images: unreadable or of another size",
            f"{faults[wrong[0]]} ({report.dataset.annotation_file})",
            [images[i]["id"] for i in wrong],
        )


def _decode(path: str, image_id: int, size: tuple[float, float]) -> None:
    read_image(path, image_id, size)  # returns nothing: the pixels would be kept


def _list_files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except OSError:
        return set()
