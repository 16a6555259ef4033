"""Sources of images: image files, folders, videos, webcams."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..data import DatasetError, read_image
from ..data.images import is_stream

# other files of a folder are ignored
_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_OPENCV_SILENT = 0  # LOG_LEVEL_SILENT
_FFMPEG_QUIET = -8  # AV_LOG_QUIET
_MOST_DIGITS = 9  # of a webcam's number, which must fit a C int
_VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}


@dataclass(frozen=True)
class Source:
    """One image, video or webcam.

    Attributes:
        name: the path as given, extended by the path inside a folder; or a webcam's number.
        kind: "image", "video" or "webcam".
        output: file name of the annotated copy, unique among the sources.
    """

    name: str
    kind: str
    output: Path

    def count(self) -> int:
        """Return the number of frames according to the file; 0 if unknown."""
        if self.kind != "video":
            return int(self.kind == "image")
        capture = _capture(self.name)
        try:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        finally:
            capture.release()

    def frames(self) -> Iterator[np.ndarray]:
        """Yield ``(H, W, 3)`` uint8, BGR, rotated according to the EXIF or video metadata.

        Raises:
            DatasetError: the source cannot be read.
        """
        if self.kind == "image":
            yield np.ascontiguousarray(np.asarray(read_image(self.name))[:, :, ::-1])
            return
        capture = self._open()
        try:
            count = 0
            while True:
                read, frame = capture.read()
                if not read:
                    break
                count += 1
                yield frame
        finally:
            capture.release()
        if not count:
            raise DatasetError(f"{self.kind} {self.name}: no frame can be read")

    def frames_per_second(self) -> float:
        """Return the frame rate of a video or webcam; 25 if it is unknown.

        Raises:
            DatasetError: it cannot be opened, such as a webcam whose :meth:`frames` are in use.
        """
        capture = self._open()
        try:
            rate = capture.get(cv2.CAP_PROP_FPS)
        finally:
            capture.release()
        return rate if 0 < rate <= 1000 else 25.0

    def _open(self) -> cv2.VideoCapture:
        capture = _capture(self.name if self.kind == "video" else int(self.name))
        if not capture.isOpened():
            raise DatasetError(f"{self.kind} {self.name} cannot be opened")
        return capture


def _capture(source: str | int) -> cv2.VideoCapture:
    """Open a capture while silencing what OpenCV and FFmpeg write to standard error."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", str(_FFMPEG_QUIET))
    log = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 and OpenCV 4 have the functions
    level = log.getLogLevel()
    log.setLogLevel(_OPENCV_SILENT)
    try:
        return cv2.VideoCapture(source)
    finally:
        log.setLogLevel(level)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Return the sources that command-line words name.

    A number is a webcam, unless a file has that name. A folder stands for all images and videos in
    it and its subfolders, in order. A file is a video or an image according to its suffix.

    Raises:
        DatasetError: nothing has that name, or a folder has neither images nor videos.
    """
    found: list[tuple[str, str, Path]] = []
    for word in inputs:
        path = Path(word)
        if path.is_dir():
            files = sorted(
                p
                for p in path.rglob("*")
                if p.suffix.lower() in _IMAGES | _VIDEOS and not (p.exists() and is_stream(p))
            )
            if not files:
                raise DatasetError(f"{word}: no images or videos in this folder")
            found += [(os.fspath(p), _kind(p), p.relative_to(path)) for p in files]
        elif path.exists() and is_stream(path):
            raise DatasetError(f"{word}: a pipe or a device, expected images or videos")
        elif path.exists():
            found.append((word, _kind(path), Path(path.name)))
        elif word.isdecimal() and len(word) <= _MOST_DIGITS:
            found.append((word, "webcam", Path(f"webcam{word}")))
        else:
            raise DatasetError(f"{word}: no such file or folder")
    taken: set[Path] = set()
    return [Source(name, kind, _free(output, kind, taken)) for name, kind, output in found]


def _kind(path: Path) -> str:
    return "video" if path.suffix.lower() in _VIDEOS else "image"


def _free(path: Path, kind: str, taken: set[Path]) -> Path:
    """Return `path` with the output suffix, and a number if another source has that name."""
    if kind != "image":
        suffix = ".mp4"
    else:
        suffix = ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    free, number = path.with_suffix(suffix), 1
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}_{number}{suffix}")
    taken.add(free)
    return free
