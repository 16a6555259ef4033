"""Read annotation files: JSON, and pycocotools' index over it."""

import contextlib
import errno
import gc
import io
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

import orjson
from pycocotools.coco import COCO

from .catalog import CocoDataset, StrPath


def load_json(path: StrPath) -> Any:
    """Return the content of a JSON file.

    orjson takes a quarter of the standard library's time, but rejects NaN and huge integers, and
    its errors have no line numbers. So what it rejects is parsed again by the standard library.

    Raises:
        OSError, ValueError, RecursionError: as ``json.loads``.
    """
    with open(path, "rb") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is a device, which may never end", os.fspath(path))
        text = file.read()
    with no_garbage_collection():
        return parse_json(text)


def parse_json(text: bytes) -> Any:
    """Parse JSON as :func:`load_json` does."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):  # the standard library's parser recurses on the stack
            raise RecursionError("nested more than 1024 levels deep") from None
        return json.loads(text)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable the collector, which would walk millions of new lists repeatedly and free nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def complete_annotations(content: dict[str, Any]) -> dict[str, Any]:
    """Fill in, in place, fields that COCO's evaluation needs and many tools do not write.

    A missing ``area`` becomes the area of the box, a missing ``iscrowd`` becomes 0.
    """
    for annotation in content["annotations"]:
        if annotation.get("area") is None:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        if annotation.get("iscrowd") is None:
            annotation["iscrowd"] = 0
    return content


def index_annotations(content: dict[str, Any]) -> COCO:
    """Return pycocotools' index of an annotation file's content, without its output."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def open_coco(dataset: CocoDataset) -> COCO:
    """Return the index of a dataset with missing fields filled in."""
    return index_annotations(complete_annotations(load_json(dataset.annotation_file)))
