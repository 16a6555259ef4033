"""Ground truth beside predictions for a few images, in one picture."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from ..atomic_file import atomic_write
from ..data import DatasetError, read_image
from ..data.annotations import load_json
from ..data.images import image_file
from .boxes import draw_boxes, font

_CELL = 300  # pixels per side, for one image with its boxes
_GAP = 8
_BAR = 28  # height of the title above a pair
_PAIR = (2 * _CELL + _GAP // 2, _BAR + _CELL)  # width, height
_PAPER, _MAT, _BAR_COLOUR = (255, 255, 255), (238, 240, 243), (32, 36, 42)
_TITLE_SIZE = 16


def write_contact_sheet(
    path: str | os.PathLike[str],
    annotation_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    detections: Sequence[Mapping[str, Any]] | str | os.PathLike[str],
    *,
    class_names: Mapping[int, str] | None = None,
    score_threshold: float = 0.5,
    max_images: int = 12,
    columns: int = 3,
) -> Path:
    """Draw pairs of an image with its ground truth (left) and its detections (right), as PNG.

    The choice of images depends only on the annotations, never on the detections: every class in
    turn, spread over the dataset, and one image without objects if there is one.

    Args:
        path: the PNG file; its folder is created if needed.
        annotation_file, image_root: a dataset in COCO's format.
        detections: a COCO result list, with `image_id`, `category_id`, `bbox` (x, y, width,
            height in pixels) and `score`, or the JSON file that holds it.
        class_names: category id to name; default: the names in the annotation file.
        score_threshold: detections with a lower score are not drawn.
        max_images: maximum number of pairs.
        columns: pairs side by side.

    Returns:
        `path`.

    Raises:
        DatasetError: a file cannot be read, or the detections do not belong to this dataset.
        ValueError: `max_images` or `columns` is below 1.
    """
    if min(max_images, columns) < 1:
        raise ValueError(
            f"max_images and columns must be at least 1, got {max_images} and {columns}"
        )
    pairs = draw_pairs(
        annotation_file,
        image_root,
        detections,
        class_names=class_names,
        score_threshold=score_threshold,
        max_images=max_images,
    )
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    step_x, step_y = _PAIR[0] + 2 * _GAP, _PAIR[1] + 2 * _GAP
    sheet = Image.new("RGB", (columns * step_x, rows * step_y), _PAPER)
    for place, pair in enumerate(pairs):
        row, column = divmod(place, columns)
        sheet.paste(pair.picture, (column * step_x + _GAP, row * step_y + _GAP))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        sheet.save(file, format="PNG", optimize=True)
    return path


class Pair(NamedTuple):
    """One picture with an image's ground truth on the left and its detections on the right."""

    image_id: int
    image_file: Path
    picture: Image.Image


def draw_pairs(
    annotation_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    detections: Sequence[Mapping[str, Any]] | str | os.PathLike[str],
    *,
    class_names: Mapping[int, str] | None = None,
    score_threshold: float = 0.5,
    max_images: int = 12,
) -> list[Pair]:
    """Return the pairs of :func:`write_contact_sheet`, in order of image ids. Arguments as there.

    Raises:
        DatasetError: as :func:`write_contact_sheet`.
    """
    dataset = _read_json(annotation_file)
    if not dataset["images"]:
        raise DatasetError(f"{annotation_file} has no images to show")
    images = {image["id"]: image for image in dataset["images"]}
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    names.update(class_names or {})
    truths = defaultdict(list)
    for annotation in dataset.get("annotations", ()):  # a test set has none
        truths[annotation["image_id"]].append(annotation)
    found = defaultdict(list)
    for detection in _read_detections(detections):
        for key, known in (("image_id", images), ("category_id", names)):
            if detection[key] not in known:
                raise DatasetError(
                    f"a detection has {key} {detection[key]}, which {annotation_file} has not: "
                    "expected detections on this dataset"
                )
        if detection["score"] >= score_threshold:
            found[detection["image_id"]].append(detection)

    pairs = []
    for image_id in _choose_images(sorted(images), truths, max_images):
        file = image_file(image_root, images[image_id]["file_name"], image_id)
        truth, predicted = truths[image_id], found[image_id]
        titles = (
            f"image {image_id} · ground truth: {len(truth)}",
            f"predictions: {len(predicted)} (score at least {score_threshold:g})",
        )
        picture = draw_pair(read_image(file), truth, predicted, names, titles)
        pairs.append(Pair(image_id, file, picture))
    return pairs


def _choose_images(ids: list[int], truths: Mapping[int, list[Any]], count: int) -> list[int]:
    """Choose at most `count` of the ids; see :func:`write_contact_sheet`."""
    count = min(count, len(ids))
    places_of = defaultdict(set)  # category id: positions in `ids`
    empty = []
    for place, image_id in enumerate(ids):
        for truth in truths.get(image_id, ()):
            places_of[truth["category_id"]].add(place)
        if not truths.get(image_id):
            empty.append(place)
    chosen = {empty[len(empty) // 2]} if empty and count > 1 else set()
    classes = [places for _, places in sorted(places_of.items())]
    wanted = count - len(chosen)
    for turn in range(wanted):
        free = set(range(len(ids))) - chosen
        middle = (turn + 0.5) * len(ids) / wanted
        candidates = classes[turn % len(classes)] & free if classes else free
        chosen.add(min(candidates or free, key=lambda place: (abs(place - middle), place)))
    return [ids[place] for place in sorted(chosen)]


def draw_pair(
    picture: Image.Image,
    truth: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    names: Mapping[int, str],
    titles: tuple[str, str] = ("ground truth", "detections"),
) -> Image.Image:
    """Draw an image twice: with its ground truth, and with its detections.

    Args:
        truth, found: annotations and detections in COCO's format.
        names: of all category ids.
    """
    pair = Image.new("RGB", _PAIR, _PAPER)
    draw = ImageDraw.Draw(pair)
    draw.rectangle((0, 0, _PAIR[0], _BAR - 1), fill=_BAR_COLOUR)
    for records, title, x in ((truth, titles[0], 0), (found, titles[1], _PAIR[0] - _CELL)):
        draw.text((x + 8, _BAR / 2), title, (255, 255, 255), font(_TITLE_SIZE), anchor="lm")
        pair.paste(_draw_cell(picture, records, names), (x, _BAR))
    return pair


def _draw_cell(
    picture: Image.Image, records: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> Image.Image:
    """Draw a square cell: the image as large as it fits, its boxes, and their labels."""
    scale = _CELL / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    corner = (_CELL - size[0]) // 2, (_CELL - size[1]) // 2
    cell = Image.new("RGB", (_CELL, _CELL), _MAT)
    cell.paste(picture.resize(size, Image.Resampling.BICUBIC), corner)
    draw_boxes(cell, records, names, scale=scale, corner=corner)
    return cell


def _read_detections(
    detections: Sequence[Mapping[str, Any]] | str | os.PathLike[str],
) -> Sequence[Mapping[str, Any]]:
    where = "the detections"
    results: Any = detections
    if isinstance(detections, (str, os.PathLike)):
        where, results = os.fspath(detections), _read_json(detections)
    keys = {"image_id", "category_id", "bbox", "score"}
    if not isinstance(results, Sequence) or not all(
        isinstance(detection, Mapping) and keys <= detection.keys() for detection in results
    ):
        raise DatasetError(
            f"{where}: expected COCO's list of results, each with {', '.join(sorted(keys))}"
        )
    return results


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        return load_json(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
