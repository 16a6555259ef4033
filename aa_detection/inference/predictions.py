"""Detect objects in images and videos; write annotated copies and a COCO file."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image

from ..atomic_file import atomic_write
from ..data import DatasetError
from ..evaluation import Detections
from ..visualization.boxes import annotate
from .detector import BaseDetector
from .sources import Source

T = TypeVar("T")


@dataclass
class Predictions:
    """Detections as a dataset in COCO's format whose annotations have scores.

    ``COCO(file)`` reads it, and its "annotations" are a COCO result list. A video's frames are
    images with ``video_id`` and ``frame_id`` (from 0), as in COCO-VID.

    Attributes:
        categories: names by category id, in the order of the detector's classes.
        skipped: one line for each source that could not be read.
        seconds: time spent on detection, without reading and drawing.
    """

    categories: Mapping[int, str]
    images: list[dict[str, Any]] = field(default_factory=list)
    videos: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(
        self, source: Source, frame: int, image: np.ndarray, detections: Detections
    ) -> list[dict[str, Any]]:
        """Add one image's detections and return them as COCO results. Frames must be in order."""
        height, width = image.shape[:2]
        record = {
            "id": len(self.images) + 1,
            "file_name": source.name,
            "height": height,
            "width": width,
        }
        if source.kind != "image":
            if frame == 0:
                self.videos.append({"id": len(self.videos) + 1, "name": source.name})
            record |= {"video_id": len(self.videos), "frame_id": frame}
        self.images.append(record)
        results = detections.to_coco(record["id"], list(self.categories))
        for result in results:
            area = result["bbox"][2] * result["bbox"][3]
            number = len(self.annotations) + 1
            self.annotations.append({"id": number, **result, "area": area, "iscrowd": 0})
        return results

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset as JSON; the file appears when it is complete."""
        content = {
            "images": self.images,
            "videos": self.videos,
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
            "annotations": self.annotations,
        }
        with atomic_write(path, "w") as file:
            json.dump(content, file)

    def summary(self) -> str:
        """Return a summary for people: number of images, detections, speed."""
        frames = sum("video_id" in image for image in self.images)
        counts = Counter(annotation["category_id"] for annotation in self.annotations)
        lines = [
            f"{len(self.images) - frames} images, {frames} frames of {len(self.videos)} videos: "
            f"{len(self.annotations)} detections"
        ]
        lines += [f"  {self.categories[i]}: {count}" for i, count in counts.most_common()]
        if self.seconds:
            lines.append(f"{len(self.images) / self.seconds:.2f} pictures a second")
        return "\n".join(lines)


def predict(
    detector: BaseDetector,
    sources: Sequence[Source],
    folder: str | os.PathLike[str],
    predictions: Predictions,
    *,
    score_threshold: float,
    batch_size: int,
    on_picture: Callable[[], object] = lambda: None,
) -> None:
    """Detect objects in all sources, fill `predictions` and write the annotated copies.

    An interrupt (Ctrl-C) propagates to the caller; `predictions` and a video's file then hold what
    was done so far. Images and videos appear under their names when they are complete.

    Args:
        folder: for the annotated copies, named as :attr:`.sources.Source.output`.
        score_threshold: drop detections with a lower score.
        batch_size: images per batch; a webcam's frames run one by one.
        on_picture: called after each image.

    Raises:
        OSError: a file cannot be written.
    """
    stills = [source for source in sources if source.kind == "image"]
    pictures = ((s, i, image) for s in stills for i, image in _readable(s, predictions.skipped))
    for batch in _batches(pictures, batch_size):
        for source, found, image in _detect(detector, batch, score_threshold, predictions):
            annotated = annotate(image, found, predictions.categories)
            _write_image(annotated, Path(folder) / source.output)
            on_picture()
    for source in sources:
        if source.kind == "image":
            continue
        try:
            rate = source.frames_per_second()
        except DatasetError as error:
            predictions.skipped.append(str(error))
            continue
        pictures = ((source, *each) for each in _readable(source, predictions.skipped))
        live = source.kind == "webcam"
        with VideoFile(Path(folder) / source.output, rate, live) as video:
            for batch in _batches(pictures, 1 if live else batch_size):
                for _, found, image in _detect(detector, batch, score_threshold, predictions):
                    video.write(annotate(image, found, predictions.categories))
                    on_picture()


def _write_image(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        picture = Image.fromarray(image[:, :, ::-1])
        picture.save(file, format="JPEG" if path.suffix == ".jpg" else "PNG", quality=92)


class VideoFile:
    """An mp4 file that gets its name when it is complete, or cut short by an interrupt.

    Args:
        rate: frames per second.
        live: keep real time by repeating or dropping frames, according to the time since the first.
    """

    def __init__(self, path: Path, rate: float, live: bool) -> None:
        self.path = path
        self.unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
        self.rate = rate
        self.live = live
        self.writer: cv2.VideoWriter | None = None

    def __enter__(self) -> "VideoFile":
        return self

    def write(self, frame: np.ndarray) -> None:
        writer = self.writer or self._open(frame)
        repeats = 1
        if self.live:
            due = int((monotonic() - self.start) * self.rate) + 1
            repeats = max(0, due - self.written)
        for _ in range(repeats):
            writer.write(np.ascontiguousarray(frame))
        self.written += repeats

    def _open(self, frame: np.ndarray) -> cv2.VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width = frame.shape[:2]
        self.writer = writer = cv2.VideoWriter(
            os.fspath(self.unfinished),
            cv2.VideoWriter_fourcc(*"mp4v"),
            self.rate,
            (width, height),
        )
        if not writer.isOpened():
            raise OSError(None, "OpenCV cannot write a video there", os.fspath(self.path))
        self.start, self.written = monotonic(), 0
        return writer

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.writer is None:
            return
        self.writer.release()
        if error is None or isinstance(error, KeyboardInterrupt):
            os.replace(self.unfinished, self.path)
        else:
            self.unfinished.unlink(missing_ok=True)


def _readable(source: Source, skipped: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the source's frames, numbered; an error is added to `skipped`."""
    try:
        yield from enumerate(source.frames())
    except DatasetError as error:
        skipped.append(str(error))


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _detect(
    detector: BaseDetector,
    batch: list[tuple[Source, int, np.ndarray]],
    score_threshold: float,
    predictions: Predictions,
) -> Iterator[tuple[Source, list[dict[str, Any]], np.ndarray]]:
    start = perf_counter()
    found = detector([image for _, _, image in batch])
    predictions.seconds += perf_counter() - start
    for (source, frame, image), detections in zip(batch, found):
        detections = detections.above(score_threshold)
        yield source, predictions.add(source, frame, image, detections), image
