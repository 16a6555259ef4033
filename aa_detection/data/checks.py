"""Whether datasets can be trained on and evaluated, found out before anything starts.

All findings are collected. What makes training impossible or wrong is an error; what COCO's own
files contain and training copes with (crowds, boxes of size zero or over the border, images without
objects) is a warning.

Columns of the file are looked at as a whole, and records one by one only where a column has
something wrong, so that a check costs little beside reading the JSON.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .annotations import complete_annotations, load_json, no_garbage_collection
from .catalog import CocoDataset, DatasetError
from .images import ImageError, check_image_header, read_image

Record = dict[str, Any]
ImageCheck = Literal["names", "headers", "pixels"]


@dataclass(frozen=True)
class CocoSummary:
    """What a dataset holds. The tuples on categories are in the order of their ids."""

    images: int
    annotations: int
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    category_counts: tuple[int, ...]  # annotations


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one dataset."""

    kind: str
    is_error: bool
    first: str  # a line on the first, complete in itself
    ids: tuple[Any, ...]  # of the first few records; () where it is about the whole file
    count: int = 1

    def __str__(self) -> str:
        if self.count == 1:
            return f"{self.kind}: {self.first}"
        ids = ", ".join(map(str, self.ids)) + (", …" if self.count > len(self.ids) else "")
        return f"{self.kind}, {self.count} times (ids {ids}): {self.first}"


@dataclass
class DatasetReport:
    """What the checks found in one dataset."""

    dataset: CocoDataset
    findings: list[Finding] = field(default_factory=list)
    summary: CocoSummary | None = None  # None: the file is not in COCO's format
    seconds: float = 0.0  # without opening images
    image_seconds: float = 0.0

    @property
    def errors(self) -> list[Finding]:
        """What makes training impossible or wrong."""
        return [finding for finding in self.findings if finding.is_error]

    @property
    def warnings(self) -> list[Finding]:
        """What training copes with."""
        return [finding for finding in self.findings if not finding.is_error]


# What training and COCO's evaluation read of each record, by the list that it stands in. The types
# are compared exactly: JSON's true is no id, though Python counts bool among the integers.
_NUMBER = {int, float}
_FIELDS: dict[str, dict[str, set[type]]] = {
    "images": {"id": {int}, "file_name": {str}, "height": _NUMBER, "width": _NUMBER},
    "categories": {"id": {int}, "name": {str}},
    "annotations": {"id": {int}, "image_id": {int}, "category_id": {int}, "bbox": {list}},
}
# None: may be missing, see open_coco
_OPTIONAL: dict[str, set[type]] = {"area": _NUMBER, "iscrowd": {int, bool}}

_SHOWN_IDS = 5
_CORNERS_FROM = 10  # boxes: fewer may all look like corners by chance


def check_datasets(
    train: Sequence[CocoDataset],
    test: Sequence[CocoDataset],
    *,
    num_classes: tuple[str, int] | None = None,
    masks: bool = False,
    images: ImageCheck = "headers",
) -> list[DatasetReport]:
    """Checks every dataset of a run, and that all have the categories of the first.

    Args:
        num_classes: the config key of the head's number of classes, and its value.
        masks: a mask head is to be trained.
        images: only look for the files, read their headers (format and size), or decode them.
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


def require_usable(reports: Iterable[DatasetReport]) -> None:
    """Refuses datasets with errors.

    Raises:
        DatasetError: the first error, and how many more there are.
    """
    errors = [error for report in reports for error in report.errors]
    if not errors:
        return
    others = sum(error.count for error in errors) - 1
    more = f" (and {others} more: tools/check_dataset.py lists all)" if others else ""
    raise DatasetError(errors[0].first + more)


def check_dataset(
    dataset: CocoDataset,
    *,
    num_classes: tuple[str, int] | None = None,
    train: bool = False,
    masks: bool = False,
    images: ImageCheck = "headers",
) -> DatasetReport:
    """All that is wrong with a dataset. Arguments as :func:`check_datasets`'s."""
    report = DatasetReport(dataset)
    check = _Check(report)
    start = time.perf_counter()
    with no_garbage_collection():
        try:
            content = _read(dataset.annotation_file)
            present = check.image_files(check.content(content, num_classes, train, masks))
        except DatasetError as error:
            report.findings.append(Finding("annotation file", True, str(error), ()))
            present = []
    report.seconds = time.perf_counter() - start
    if images != "names":
        check.open_images(present, decode=images == "pixels")
        report.image_seconds = time.perf_counter() - start - report.seconds
    return report


def read_coco_annotations(path: Path) -> dict[str, list[Any]]:
    """The content of an annotation file, completed; no image is looked for.

    Raises:
        DatasetError: the first error, and how many more there are.
    """
    report = DatasetReport(CocoDataset(path.stem, path, path.parent))
    with no_garbage_collection():
        content = _read(path)
        _Check(report).content(content, num_classes=None, train=False, masks=False)
    require_usable([report])
    return complete_annotations(content)


def _read(path: Path) -> dict[str, list[Any]]:
    """The content of an annotation file, its lists being lists."""
    try:
        content = load_json(path)
    except FileNotFoundError:
        raise DatasetError(f"annotation file {path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"annotation file {path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not JSON: byte {error.start} is not UTF-8") from error
    except RecursionError:
        raise DatasetError(f"{path} is not in COCO's format: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DatasetError(f"{path} is not in COCO's format: {error}") from None
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path} is not in COCO's format: expected an object with the lists "
            f"{', '.join(_FIELDS)}, got a {type(content).__name__}"
        )
    for key in _FIELDS:
        if not isinstance(content.get(key), list):
            got = type(content[key]).__name__ if key in content else "nothing"
            raise DatasetError(
                f"{path} is not in COCO's format: expected a list under {key!r}, got {got}"
            )
    return content


class _Check:
    """Looks at one dataset and puts what it finds into its report."""

    def __init__(self, report: DatasetReport) -> None:
        self.report = report
        self.path = report.dataset.annotation_file
        self.ids: dict[str, set[int]] = {}  # by list, of unsound records too
        self.sizes: dict[int, tuple[float, float]] = {}  # width, height by image id; NaN if no size

    def content(
        self,
        content: dict[str, list[Any]],
        num_classes: tuple[str, int] | None,
        train: bool,
        masks: bool,
    ) -> list[Record]:
        """Everything that the annotation file alone can tell; returns the sound image records."""
        images, categories, annotations = (
            self.fields(content[key], key, required, _OPTIONAL if key == "annotations" else {})
            for key, required in _FIELDS.items()
        )
        self.categories(num_classes)
        self.images(images)
        self.annotations(annotations, categories)
        if masks:
            self.masks(annotations)
        if train:
            self.something_to_learn(annotations)
        self.report.summary = _summary(images, categories, annotations)
        return images

    def _add(
        self, kind: str, first: str, ids: Sequence[Any] = (), *, warning: bool = False
    ) -> None:
        self.report.findings.append(
            Finding(kind, not warning, first, tuple(ids[:_SHOWN_IDS]), max(1, len(ids)))
        )

    def fields(
        self,
        records: list[Any],
        key: str,
        required: dict[str, set[type]],
        optional: dict[str, set[type]],
    ) -> list[Record]:
        """The records with every field of the type expected, each id once; the rest is noted."""
        no_objects = [i for i, record in enumerate(records) if type(record) is not dict]
        if no_objects:
            self._add(
                f"{key}: not an object",
                f"{self.path}: {key}[{no_objects[0]}] is {records[no_objects[0]]!r:.60}, expected "
                "an object",
                [f"[{i}]" for i in no_objects],
            )
            records = [record if type(record) is dict else {} for record in records]
        unsound = set(no_objects)
        for name, types in (*required.items(), *optional.items()):
            accepted = types if name in required else types | {type(None)}
            if set(map(type, [record.get(name) for record in records])) <= accepted:
                continue
            wrong = [
                i
                for i, record in enumerate(records)
                if type(record.get(name)) not in accepted and i not in no_objects
            ]
            if not wrong:
                continue
            record = records[wrong[0]]
            got = f"{name!r} is {record[name]!r:.60}" if name in record else f"no {name!r}"
            known_id = f" (id {record['id']!r:.60})" if "id" in record else ""
            names = sorted((each.__name__ for each in types), reverse=True)
            self._add(
                f"{key}: {name} missing or of another type",
                f"{self.path}: {key}[{wrong[0]}]{known_id}: {got}, expected {' or '.join(names)}",
                [_short(records[i].get("id", f"[{i}]")) for i in wrong],
            )
            unsound.update(wrong)
        self.ids[key] = {each["id"] for each in records if type(each.get("id")) is int}
        sound = records
        if unsound:
            sound = [record for i, record in enumerate(records) if i not in unsound]
        ids = [record["id"] for record in sound]
        if len(set(ids)) < len(ids):
            repeated = [each for each, count in Counter(ids).items() if count > 1]
            # detectron2 allows this by the same name: COCO's minival2014 files have a few
            known = key == "annotations" and "minival" in str(self.path)
            self._add(
                f"{key}: id used more than once",
                f"{self.path}: {key} has the id {repeated[0]} more than once",
                repeated,
                warning=known,
            )
        return sound

    def categories(self, num_classes: tuple[str, int] | None) -> None:
        count = len(self.ids["categories"])
        if not count:
            self._add("no categories", f"{self.path} declares no category")
        elif num_classes is not None and num_classes[1] != count:
            key, value = num_classes
            self._add(
                "number of classes",
                f"{self.path} declares {count} {_plural(count, 'category', 'categories')}, but "
                f"{key} is {value}: set {key} to {count}",
            )

    def images(self, images: list[Record]) -> None:
        if not self.ids["images"]:
            self._add("no images", f"{self.path} lists no image")
        self.sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        wrong = [
            image
            for image in images
            if not all(
                _is_finite(n) and n >= 1 and n == int(n) for n in (image["width"], image["height"])
            )
        ]
        if wrong:
            first = wrong[0]
            self._add(
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
        self._boxes([each for each in annotations if each["image_id"] in self.sizes])
        self._areas(annotations)
        self._note(
            "annotations: marked to be ignored",
            annotations,
            [annotation.get("ignore") for annotation in annotations],
            "has 'ignore' set, which is no key of COCO's format: remove the annotation, or set "
            "'iscrowd' instead",
            warning=False,
        )
        self._note(
            "annotations: crowd",
            annotations,
            [annotation.get("iscrowd") for annotation in annotations],
            "is a crowd: left out of training, and detections on it do not count",
        )
        missing = [key for key in _OPTIONAL if any(each.get(key) is None for each in annotations)]
        if missing:
            assumed = {"area": "'area' (taken as width * height)", "iscrowd": "'iscrowd' (as 0)"}
            self._add(
                "annotations: assumed values",
                f"{self.path}: annotations without {' and '.join(assumed[k] for k in missing)}",
                [each["id"] for each in annotations if any(each.get(k) is None for k in missing)],
                warning=True,
            )
        empty = [image_id for image_id in self.sizes if image_id not in of_image]
        if empty:
            self._add(
                "images: without annotations",
                f"{self.path}: image {empty[0]} has no annotation: left out of training unless "
                "DATALOADER.FILTER_EMPTY_ANNOTATIONS is False",
                empty,
                warning=True,
            )
        unused = [category for category in categories if category["id"] not in of_category]
        if unused:
            self._add(
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
            self._add(
                f"annotations: unknown {key}",
                f"{self.path}: annotation {wrong[0]['id']} has {key} {wrong[0][key]}, {expected()}",
                [annotation["id"] for annotation in wrong],
            )

    def _note(
        self,
        kind: str,
        annotations: list[Record],
        wrong: Sequence[Any] | np.ndarray,
        what: str,
        *,
        warning: bool = True,
    ) -> None:
        """A finding on the annotations for which `wrong` is true, if any."""
        if np.any(wrong):
            ids = [each["id"] for each, is_wrong in zip(annotations, wrong) if is_wrong]
            self._add(kind, f"{self.path}: annotation {ids[0]} {what}", ids, warning=warning)

    def _boxes(self, annotations: list[Record]) -> None:
        """Boxes as [x, y, width, height] in pixels of their image."""
        wrong = _not_boxes([annotation["bbox"] for annotation in annotations])
        if wrong:
            first = annotations[wrong[0]]
            self._add(
                "annotations: not a box",
                f"{self.path}: annotation {first['id']} has bbox {first['bbox']!r:.80}, expected "
                "four finite numbers [x, y, width, height] with width and height at least 0",
                [annotations[i]["id"] for i in wrong],
            )
            bad = set(wrong)
            annotations = [each for i, each in enumerate(annotations) if i not in bad]
        if not annotations:
            return
        boxes = _numbers([annotation["bbox"] for annotation in annotations], 4)
        canvas = _numbers([self.sizes[annotation["image_id"]] for annotation in annotations], 2)
        start, extent = boxes[:, :2], boxes[:, 2:]
        with np.errstate(over="ignore"):
            end = start + extent

        def box(i: int) -> str:
            width, height = canvas[i]
            return f"bbox {annotations[i]['bbox']} of a {width:g}x{height:g} image"

        if 0 < boxes.max() <= 1 and (canvas > 1).any():
            self._add(
                "annotations: boxes in fractions",
                f"{self.path}: every number of every bbox is at most 1, as in annotation "
                f"{annotations[0]['id']}: {annotations[0]['bbox']}; expected pixels, not fractions "
                "of the image",
            )
            return
        over = np.maximum(-start, end - canvas).max(axis=1)  # pixels; NaN where the size is none
        corners = (extent > start).all() and (extent <= canvas + 1).all()
        if corners and len(boxes) >= _CORNERS_FROM and (over > 1).any():
            i = int(np.argmax(over > 1))
            self._add(
                "annotations: boxes as corners",
                f"{self.path}: every bbox looks like [x1, y1, x2, y2], as in annotation "
                f"{annotations[i]['id']}: {box(i)}; expected [x, y, width, height]",
            )
            return
        empty = (extent == 0).any(axis=1)
        self._note(
            "annotations: box of size zero",
            annotations,
            empty,
            f"has bbox {annotations[int(np.argmax(empty))]['bbox']}: left out of training",
        )
        outside = ((end <= 0) | (start >= canvas)).any(axis=1) & ~empty
        i = int(np.argmax(outside))
        self._note(
            "annotations: box outside its image",
            annotations,
            outside,
            f"has {box(i)}: it lies outside",
            warning=False,
        )
        over = np.where(outside | np.isnan(over), 0, over)
        self._note(
            "annotations: box over the border",
            annotations,
            over > 0,
            f"has {box(int(np.argmax(over > 0)))}: clipped; the farthest of these reaches "
            f"{over.max():.3g} pixels over the border",
        )

    def _areas(self, annotations: list[Record]) -> None:
        areas = [annotation.get("area") or 0 for annotation in annotations]
        try:
            numbers = np.array(areas, np.float64)
        except OverflowError:  # an integer beyond floating point
            numbers = np.array([area if _is_finite(area) else math.inf for area in areas])
        wrong = ~(np.isfinite(numbers) & (numbers >= 0))
        self._note(
            "annotations: not an area",
            annotations,
            wrong,
            f"has area {areas[int(np.argmax(wrong))] if areas else 0!r:.30}, expected a finite "
            "number of at least 0",
            warning=False,
        )

    def masks(self, annotations: list[Record]) -> None:
        """A mask head is trained on every object's segmentation."""
        self._note(
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
            self._add(
                "nothing to learn",
                f"{self.path} has no annotation to train on"
                + (", crowds aside" if annotations else ""),
            )

    def image_files(self, images: list[Record]) -> list[Record]:
        """The images whose file is there."""
        root = self.report.dataset.image_root
        if not root.is_dir():
            self._add("image folder", f"image folder {root} does not exist (images of {self.path})")
            return []
        listings: dict[str, set[str]] = {}  # one listing a folder: a stat an image is slow on NFS
        present: list[Record] = []
        missing: list[Record] = []
        for image in images:
            folder, name = os.path.split(image["file_name"])
            if folder not in listings:
                listings[folder] = _list_files(os.path.join(root, folder))
            (present if name in listings[folder] else missing).append(image)
        if missing:
            self._add(
                "images: file missing",
                f"image file {root / missing[0]['file_name']} does not exist "
                f"(image {missing[0]['id']} of {self.path})",
                [image["id"] for image in missing],
            )
        return present

    def open_images(self, images: list[Record], decode: bool) -> None:
        root = os.fspath(self.report.dataset.image_root)

        def fault(image: Record) -> str | None:
            path = os.path.join(root, image["file_name"])
            try:
                (_decode if decode else check_image_header)(
                    path, image["id"], self.sizes[image["id"]]
                )
            except ImageError as error:
                return str(error)
            return None

        images = [image for image in images if not math.isnan(self.sizes[image["id"]][0])]
        # a file server answers several requests at once, and Pillow decodes without Python's lock
        with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as pool:
            faults = list(pool.map(fault, images))
        wrong = [i for i, line in enumerate(faults) if line]
        if wrong:
            self._add(
                "images: unreadable or of another size",
                f"{faults[wrong[0]]} ({self.path})",
                [images[i]["id"] for i in wrong],
            )


def _decode(path: str, image_id: int, size: tuple[float, float]) -> None:
    read_image(path, image_id, size)  # returns nothing: the pixels would be kept


def _not_boxes(boxes: list[list[Any]]) -> list[int]:
    """Positions of what is not four finite numbers with a size of at least 0."""
    quick = set(map(len, boxes)) <= {4} and set(map(type, chain.from_iterable(boxes))) <= _NUMBER
    if quick:
        try:
            numbers = _numbers(boxes, 4)
        except OverflowError:  # an integer beyond floating point
            quick = False
    if quick:
        sound = np.isfinite(numbers).all(axis=1) & (numbers[:, 2:] >= 0).all(axis=1)
        return np.flatnonzero(~sound).tolist()
    return [
        i
        for i, box in enumerate(boxes)
        if len(box) != 4
        or not all(type(number) in _NUMBER and _is_finite(number) for number in box)
        or min(box[2:]) < 0
    ]


def _numbers(rows: Sequence[Sequence[float]], width: int) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * width).reshape(-1, width)


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


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
        report.findings.append(
            Finding(
                "categories: not those of the first dataset",
                True,
                f"category {each} {says[0]} in {paths[0]} and {says[1]} in {paths[1]}: the "
                "datasets of a run must declare the same categories",
                tuple(different[:_SHOWN_IDS]),
                len(different),
            )
        )


def _summary(
    images: list[Record], categories: list[Record], annotations: list[Record]
) -> CocoSummary:
    names = {category["id"]: category["name"] for category in categories}
    counts = Counter(annotation["category_id"] for annotation in annotations)
    return CocoSummary(
        images=len(images),
        annotations=len(annotations),
        category_ids=tuple(sorted(names)),
        category_names=tuple(names[each] for each in sorted(names)),
        category_counts=tuple(counts[each] for each in sorted(names)),
    )


def _list_files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except OSError:
        return set()


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:10]))
    return shown if len(ids) <= 10 else f"{shown}, … ({len(ids)} in all)"


def _short(value: Any) -> Any:
    return value if isinstance(value, int) else f"{value!r:.60}"


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
