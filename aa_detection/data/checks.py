"""Check, before a run starts, that datasets can be used for training and evaluation.

All findings are collected. Whatever makes training impossible or wrong is an error. Whatever COCO's
own files contain and training tolerates (crowds, boxes of size zero or over the border, images
without objects) is a warning.

Each column of the file is checked as a whole, and records are checked one by one only if a column
has a fault, so that a check costs little compared with reading the JSON.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..one_line import is_line
from .annotations import complete_annotations, no_garbage_collection
from .box_checks import check_areas, check_boxes, is_finite
from .catalog import CocoDataset, DatasetError
from .coco_file import FIELDS, OPTIONAL, read_lists, sound_records
from .image_checks import find_images, open_images
from .report import CocoSummary, DatasetReport, Record, require_usable

ImageCheck = Literal["names", "headers", "pixels"]


def check_datasets(
    train: Sequence[CocoDataset],
    test: Sequence[CocoDataset],
    *,
    num_classes: tuple[str, int] | None = None,
    masks: bool = False,
    images: ImageCheck = "headers",
) -> list[DatasetReport]:
    """Check every dataset of a run, and that all have the categories of the first.

    Args:
        num_classes: the config key of the head's number of classes, and its value.
        masks: whether a mask head will be trained.
        images: "names" only looks for the files, "headers" reads format and size, "pixels" decodes.
    """
    reports: list[DatasetReport] = []
    for dataset in dict.fromkeys((*train, *test)):
        report = check_dataset(
            dataset,
            num_classes=num_classes,
            train=dataset in train,
            masks=masks,
            images=images,
        )
        if reports:
            _compare_categories(report, reports[0])
        reports.append(report)
    return reports


def check_dataset(
    dataset: CocoDataset,
    *,
    num_classes: tuple[str, int] | None = None,
    train: bool = False,
    masks: bool = False,
    images: ImageCheck = "headers",
) -> DatasetReport:
    """Return all faults of a dataset. Arguments as in :func:`check_datasets`."""
    report = DatasetReport(dataset)
    check = _Check(report)
    start = time.perf_counter()
    with no_garbage_collection():
        try:
            # the content is not bound to a name, so it is freed before the collector runs again
            listed = check.content(read_lists(dataset.annotation_file), num_classes, train, masks)
            present = find_images(report, listed)
        except DatasetError as error:
            report.add("annotation file", str(error))
            present = []
    report.seconds = time.perf_counter() - start
    if images != "names":
        open_images(report, present, check.sizes, decode=images == "pixels")
        report.image_seconds = time.perf_counter() - start - report.seconds
    return report


def read_coco_annotations(path: Path) -> dict[str, list[Any]]:
    """Return the content of an annotation file, completed, without looking for images.

    Raises:
        DatasetError: the first error, and how many more there are.
    """
    report = DatasetReport(CocoDataset(path.stem, path, path.parent))
    with no_garbage_collection():
        content = read_lists(path)
        _Check(report).content(content, num_classes=None, train=False, masks=False)
    require_usable([report])
    return complete_annotations(content)


class _Check:
    """Checks one dataset and adds the findings to its report."""

    def __init__(self, report: DatasetReport) -> None:
        self.report = report
        self.path = report.dataset.annotation_file
        self.ids: dict[str, set[int]] = {}  # by list, including those of unsound records
        self.sizes: dict[int, tuple[float, float]] = {}  # width, height by image id; NaN if no size

    def content(
        self,
        content: dict[str, list[Any]],
        num_classes: tuple[str, int] | None,
        train: bool,
        masks: bool,
    ) -> list[Record]:
        """Check everything that needs only the annotation file; return the sound image records."""
        sound = {}
        for key in FIELDS:
            sound[key], self.ids[key] = sound_records(self.report, content[key], key)
        images, categories, annotations = (sound[key] for key in FIELDS)
        self.names(categories, "categories", "name")
        self.names(images, "images", "file_name")
        self.categories(num_classes)
        self.images(images)
        self.annotations(annotations, categories)
        if masks:
            self.masks(annotations)
        if train:
            self.something_to_learn(annotations)
        self.report.summary = _summary(images, categories, annotations)
        return [image for image in images if _is_name(image["file_name"])]

    def names(self, records: list[Record], key: str, field: str) -> None:
        """Check that names are single lines: they go into tables, logs and line-based files."""
        wrong = [record for record in records if not _is_name(record[field])]
        if wrong:
            first = wrong[0]
            self.report.add(
                f"{key}: {field} is not one line of text",
                f"{self.path}: {key}: {field} of id {first['id']} is {first[field]!r:.60}, "
                "expected one line of text without control characters",
                [record["id"] for record in wrong],
            )

    def categories(self, num_classes: tuple[str, int] | None) -> None:
        count = len(self.ids["categories"])
        if not count:
            self.report.add("no categories", f"{self.path} declares no category")
        elif num_classes is not None and num_classes[1] != count:
            key, value = num_classes
            self.report.add(
                "number of classes",
                f"{self.path} declares {count} {_plural(count, 'category', 'categories')}, but "
                f"{key} is {value}: set {key} to {count}",
            )

    def images(self, images: list[Record]) -> None:
        if not self.ids["images"]:
            self.report.add("no images", f"{self.path} lists no image")
        self.sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        wrong = [
            image
            for image in images
            if not all(
                is_finite(n) and n >= 1 and n == int(n) for n in (image["width"], image["height"])
            )
        ]
        if wrong:
            first = wrong[0]
            self.report.add(
                "images: not a size",
                f"{self.path}: image {first['id']} has width {first['width']!r:.30} and height "
                f"{first['height']!r:.30}, expected whole numbers of at least 1",
                [image["id"] for image in wrong],
            )
            self.sizes.update((image["id"], (math.nan, math.nan)) for image in wrong)

    def annotations(self, annotations: list[Record], categories: list[Record]) -> None:
        declared = self.ids["categories"]
        of_category = Counter(annotation["category_id"] for annotation in annotations)
        self._unknown(
            annotations, "category_id", declared, set(of_category),
            lambda: f"expected one of {_shortened(sorted(declared))}",
        )  # fmt: skip
        of_image = {annotation["image_id"] for annotation in annotations}
        self._unknown(
            annotations, "image_id", self.ids["images"], of_image,
            lambda: f"expected the id of one of the {len(self.ids['images'])} images",
        )  # fmt: skip
        in_images = [each for each in annotations if each["image_id"] in self.sizes]
        check_boxes(self.report, in_images, self.sizes)
        check_areas(self.report, annotations)
        self.report.note(
            "annotations: marked to be ignored",
            annotations,
            [annotation.get("ignore") for annotation in annotations],
            "has 'ignore' set, which is no key of COCO's format: remove the annotation, or set "
            "'iscrowd' instead",
            warning=False,
        )
        self.report.note(
            "annotations: crowd",
            annotations,
            [annotation.get("iscrowd") for annotation in annotations],
            "is a crowd: left out of training, and detections on it do not count",
        )
        if 0 in self.ids["annotations"]:
            self.report.add(
                "annotations: id 0",
                f"{self.path}: annotation 0: COCO's evaluation takes the id 0 for no object, and "
                "what finds it for a false detection; number annotations from 1",
                [0],
                warning=True,
            )
        missing = [key for key in OPTIONAL if any(each.get(key) is None for each in annotations)]
        if missing:
            assumed = {"area": "'area' (taken as width * height)", "iscrowd": "'iscrowd' (as 0)"}
            self.report.add(
                "annotations: assumed values",
                f"{self.path}: annotations without {' and '.join(assumed[k] for k in missing)}",
                [each["id"] for each in annotations if any(each.get(k) is None for k in missing)],
                warning=True,
            )
        unused = [category for category in categories if category["id"] not in of_category]
        if unused:
            self.report.add(
                "categories: without annotations",
                f"{self.path}: category {unused[0]['id']} ({unused[0]['name']!r:.60}) has no "
                "annotation",
                [category["id"] for category in unused],
                warning=True,
            )

    def _unknown(
        self,
        annotations: list[Record],
        key: str,
        known: set[int],
        used: set[int],
        expected: Callable[[], str],
    ) -> None:
        unknown = used - known
        if unknown:
            wrong = [annotation for annotation in annotations if annotation[key] in unknown]
            self.report.add(
                f"annotations: unknown {key}",
                f"{self.path}: annotation {wrong[0]['id']} has {key} {wrong[0][key]}, {expected()}",
                [annotation["id"] for annotation in wrong],
            )

    def masks(self, annotations: list[Record]) -> None:
        """Check that every object has a segmentation, on which a mask head is trained."""
        self.report.note(
            "annotations: no segmentation",
            annotations,
            [
                not annotation.get("segmentation") and not annotation.get("iscrowd")
                for annotation in annotations
            ],
            "has no 'segmentation', which MODEL.MASK_ON needs of every object: add it, or set "
            "MODEL.MASK_ON to False",
            warning=False,
        )

    def something_to_learn(self, annotations: list[Record]) -> None:
        if all(annotation.get("iscrowd") for annotation in annotations):
            self.report.add(
                "nothing to learn",
                f"{self.path} has no annotation to train on"
                + (", crowds aside" if annotations else ""),
            )


def _is_name(text: str) -> bool:
    return bool(text) and is_line(text)


def _compare_categories(report: DatasetReport, first: DatasetReport) -> None:
    if report.summary is None or first.summary is None:
        return
    own, other = (
        dict(zip(summary.category_ids, summary.category_names))
        for summary in (report.summary, first.summary)
    )
    different = [each for each in sorted({*own, *other}) if own.get(each) != other.get(each)]
    if different:
        each = different[0]
        paths = report.dataset.annotation_file, first.dataset.annotation_file
        says = [
            f"is {names[each]!r:.60}" if each in names else "does not exist"
            for names in (own, other)
        ]
        report.add(
            "categories: not those of the first dataset",
            f"category {each} {says[0]} in {paths[0]} and {says[1]} in {paths[1]}: the datasets of "
            "a run must declare the same categories",
            different,
        )


def _summary(
    images: list[Record], categories: list[Record], annotations: list[Record]
) -> CocoSummary:
    names = {category["id"]: category["name"] for category in categories}
    return CocoSummary(
        images=len(images),
        unannotated=len(
            {each["id"] for each in images} - {each["image_id"] for each in annotations}
        ),
        annotations=len(annotations),
        category_ids=tuple(sorted(names)),
        category_names=tuple(names[each] for each in sorted(names)),
    )


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return shown if len(ids) <= 10 else f"{shown}, … ({len(ids)} in all)"


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
