"""COCO's format: the lists of an annotation file and the fields of each record."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .annotations import load_json
from .catalog import DatasetError
from .report import DatasetReport, Record

# The fields that training and COCO's evaluation read from each record, by list. Types are compared
# exactly: JSON's true is not an id, although Python's bool is a subclass of int.
NUMBER = {int, float}
FIELDS: dict[str, dict[str, set[type]]] = {
    "images": {"id": {int}, "file_name": {str}, "height": NUMBER, "width": NUMBER},
    "categories": {"id": {int}, "name": {str}},
    "annotations": {"id": {int}, "image_id": {int}, "category_id": {int}, "bbox": {list}},
}
# a missing field or None is filled in, see open_coco
OPTIONAL: dict[str, set[type]] = {"area": NUMBER, "iscrowd": {int, bool}}


def read_lists(path: Path) -> dict[str, list[Any]]:
    """Return the content of an annotation file, after checking that its lists are lists.

    Raises:
        DatasetError: the file cannot be read, or is not in COCO's format.
    """
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
            f"{', '.join(FIELDS)}, got a {type(content).__name__}"
        )
    for key in FIELDS:
        if not isinstance(content.get(key), list):
            got = type(content[key]).__name__ if key in content else "nothing"
            raise DatasetError(
                f"{path} is not in COCO's format: expected a list under {key!r}, got {got}"
            )
    return content


def sound_records(
    report: DatasetReport, records: list[Any], key: str
) -> tuple[list[Record], set[int]]:
    """Return a list's records whose fields have the expected types, and report the others.

    Returns:
        The sound records, and the ids of all records.
    """
    path = report.dataset.annotation_file
    required = FIELDS[key]
    optional = OPTIONAL if key == "annotations" else {}
    original = records
    no_objects = [i for i, record in enumerate(records) if type(record) is not dict]
    if no_objects:
        report.add(
            f"{key}: not an object",
            f"{path}: {key}[{no_objects[0]}] is {records[no_objects[0]]!r:.60}, expected an object",
            [f"[{i}]" for i in no_objects],
        )
        records = [each if type(each) is dict else {} for each in records]
    unsound = set(no_objects)
    for name, types in (*required.items(), *optional.items()):
        accepted = types if name in required else types | {type(None)}
        if set(map(type, [record.get(name) for record in records])) <= accepted:
            continue
        wrong = [
            i
            for i, record in enumerate(records)
            if type(record.get(name)) not in accepted and type(original[i]) is dict
        ]
        if not wrong:
            continue
        record = records[wrong[0]]
        got = f"{name!r} is {record[name]!r:.60}" if name in record else f"no {name!r}"
        known_id = f" (id {record['id']!r:.60})" if "id" in record else ""
        names = sorted((each.__name__ for each in types), reverse=True)
        report.add(
            f"{key}: {name} missing or of another type",
            f"{path}: {key}[{wrong[0]}]{known_id}: {got}, expected {' or '.join(names)}",
            [_short(records[i].get("id", f"[{i}]")) for i in wrong],
        )
        unsound.update(wrong)
    sound = records
    if unsound:
        sound = [record for i, record in enumerate(records) if i not in unsound]
    ids = [record["id"] for record in sound]
    known_ids = set(ids)
    if len(known_ids) < len(ids):
        repeated = [each for each, count in Counter(ids).items() if count > 1]
        # detectron2 makes the same exception by name: COCO's minival2014 files have a few
        known = key == "annotations" and "minival" in str(path)
        report.add(
            f"{key}: id used more than once",
            f"{path}: {key} has the id {repeated[0]} more than once",
            repeated,
            warning=known,
        )
    if unsound:
        known_ids.update(each["id"] for each in records if type(each.get("id")) is int)
    return sound, known_ids


def _short(value: Any) -> Any:
    return value if isinstance(value, int) else f"{value!r:.60}"
