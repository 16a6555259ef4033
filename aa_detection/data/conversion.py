"""Convert Pascal VOC and YOLO folders to COCO annotation files, using supervision.

supervision was preferred to our own parser and to globox: it treats VOC's corners as 1-based,
inclusive pixels, parses XML with defusedxml and YOLO's names with YAML's safe loader, and takes
sizes from the images. It is an optional dependency (``aa_detection[convert]``).
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .catalog import CocoDataset, DatasetError
from .checks import check_dataset
from .report import DatasetReport


def convert_voc(
    images: Path,
    annotations: Path,
    output: Path,
    *,
    image_set: Path | None = None,
    classes: Sequence[str] = (),
) -> DatasetReport:
    """Convert Pascal VOC: one XML file per image, of the same name. Difficult objects are kept.

    Args:
        image_set: a text file that lists the images to convert, such as
            ``ImageSets/Main/train.txt``.
        classes: in the order of their category ids; default: those in `annotations`, sorted.

    Raises:
        DatasetError: as :func:`convert_yolo`.
    """
    supervision = _supervision()
    _require_folders(images, annotations)
    try:
        dataset = supervision.DetectionDataset.from_pascal_voc(
            os.fspath(images), os.fspath(annotations)
        )
    except Exception as error:  # the XML parser's or supervision's; neither names the file
        raise DatasetError(_broken_xml(annotations) or _line(error, images)) from error
    names = list(classes) or sorted(dataset.classes)
    unknown = sorted(set(dataset.classes) - set(names))
    if unknown:
        raise DatasetError(
            f"{annotations}: objects of class {unknown[0]!r}, expected one of {', '.join(names)}"
        )
    index = np.array([names.index(name) for name in dataset.classes], dtype=int)
    for found in dataset.annotations.values():
        found.class_id = index[found.class_id]
    kept = dataset.image_paths
    if image_set is not None:
        listed = _listed(image_set)
        kept = [path for path in kept if Path(path).stem in listed]
        missing = sorted(listed - {Path(path).stem for path in kept})
        if missing:
            raise DatasetError(f"{image_set}: image {missing[0]!r} is not in {images}")
    return _write(names, kept, dataset.annotations, images, output)


def convert_yolo(images: Path, annotations: Path, names: Path, output: Path) -> DatasetReport:
    """Convert YOLO: one text file per image, of the same name; without one it has no objects.

    Args:
        names: the YAML file with the classes' ``names``.

    Returns:
        The report of the checks on the written file, without errors.

    Raises:
        DatasetError: names the fault and the file; `output` is then unchanged.
    """
    supervision = _supervision()
    _require_folders(images, annotations)
    try:
        dataset = supervision.DetectionDataset.from_yolo(
            os.fspath(images), os.fspath(annotations), os.fspath(names)
        )
    except Exception as error:  # supervision's, Pillow's or YAML's
        raise DatasetError(_line(error, annotations, names, images)) from error
    return _write(dataset.classes, sorted(dataset.image_paths), dataset.annotations, images, output)


def _supervision() -> ModuleType:
    try:
        import supervision
    except ImportError:
        raise DatasetError(
            "conversion needs supervision: pip install 'aa_detection[convert]'"
        ) from None
    return supervision


def _require_folders(*folders: Path) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"folder {folder} does not exist")


def _line(error: Exception, *places: Path) -> str:
    """Turn an error into one line that names one of the places."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    problem = " ".join(str(error).split())
    named = any(str(place) in problem for place in places)
    return problem if named else f"{places[0]}: {problem}"


def _listed(image_set: Path) -> set[str]:
    try:
        lines = image_set.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(_line(error, image_set)) from error
    return {line.split()[0] for line in lines if line.strip()}


def _broken_xml(annotations: Path) -> str | None:
    """Return a line on the first file that supervision cannot read."""
    from defusedxml.ElementTree import parse
    from supervision.dataset.formats.pascal_voc import detections_from_xml_obj

    for path in sorted(annotations.glob("*.xml")):
        try:
            detections_from_xml_obj(parse(path).getroot(), [], (1, 1))
        except Exception as error:
            return f"{path}: {' '.join(str(error).split())}"
    return None


def _remove_claims(file: Path) -> None:
    """Remove the licence and the dates, which supervision makes up.

    The licence is the owner's to state. Without the time of day, the same dataset gives the same
    file, by whose content records know it.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    content["licenses"] = []
    for image in content["images"]:
        image.pop("license", None)
        image.pop("date_captured", None)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write(
    classes: Sequence[str],
    paths: Sequence[str],
    annotations: dict[str, Any],
    images: Path,
    output: Path,
) -> DatasetReport:
    if not paths:
        raise DatasetError(f"{images} has no image to convert")
    dataset = _supervision().DetectionDataset(
        list(classes), list(paths), {path: annotations[path] for path in paths}
    )
    unfinished = output.with_name(f"{output.name}.unfinished")
    try:
        dataset.as_coco(annotations_path=os.fspath(unfinished))
        _remove_claims(unfinished)
        report = check_dataset(CocoDataset(output.stem, unfinished, images))
        if report.errors:
            first = report.errors[0].first.replace(os.fspath(unfinished), os.fspath(output))
            raise DatasetError(f"not converted: {first}")
        os.replace(unfinished, output)
    except OSError as error:
        raise DatasetError(f"not converted: {_line(error, images, output)}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    report.dataset = CocoDataset(output.stem, output, images)
    return report
