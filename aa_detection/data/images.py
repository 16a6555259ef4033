"""The only image reader, so that both engines and the checks see the same pixels.

Pillow reads the files; this module decides three things that Pillow leaves open. EXIF orientation
is applied. 16-bit greys keep their upper eight bits, as in OpenCV: Pillow's own conversion to RGB
saturates, which turns such an image white. Any fault of a file is one line that names it.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .catalog import DatasetError, StrPath

_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


class ImageError(DatasetError):
    """An image file that cannot be used.

    A dataloader re-raises a worker's exception with the worker's traceback as its message. The
    traceback ends with the original line, and only that line is kept.
    """

    def __init__(self, message: str) -> None:
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.strip().rpartition("\n")[2].removeprefix(name))


def image_file(root: StrPath, file_name: str, image_id: object = None) -> Path:
    """Return the path of an image below a dataset's image folder.

    Raises:
        ImageError: `file_name` is absolute or leaves the folder by "..", and could name any file of
            the machine.
    """
    path = os.path.normpath(file_name)
    if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
        raise ImageError(
            f"{_named(file_name, image_id)} is not in the image folder {os.fspath(root)}: expected "
            "a path below it"
        )
    return Path(root, file_name)


def is_stream(path: StrPath) -> bool:
    """Return whether the path is a pipe, a socket or a device, where reading may never end."""
    mode = os.stat(path).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def read_image(
    path: StrPath, image_id: object = None, size: tuple[float, float] | None = None
) -> Image.Image:
    """Read an image, upright, RGB, eight bits per channel.

    Args:
        image_id: named in errors.
        size: width and height in the annotations; None accepts any.

    Raises:
        ImageError: the file cannot be read or has another size.
    """
    with _open(path, image_id) as file:
        as_stored = file.size
        _check_mode(file)
        ImageOps.exif_transpose(file, in_place=True)  # a copy of a large image takes a gigabyte
        image = _rgb(file)
    _check_size(path, image_id, as_stored, image.size, size)
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a Pillow image to the form that :func:`read_image` returns.

    Raises:
        OSError: its pixels have 32 bits.
    """
    _check_mode(image)
    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def check_image_header(path: StrPath, image_id: object, size: tuple[float, float]) -> None:
    """Check as much of what :func:`read_image` would refuse as the file's header shows.

    Raises:
        ImageError: as :func:`read_image`.
    """
    with _open(path, image_id) as file:
        _check_mode(file)
        as_stored = found = file.size
        # getexif() of a PNG decodes the whole image unless the chunk precedes the pixels
        has_exif = file.format != "PNG" or "exif" in file.info
        if has_exif and file.getexif().get(_ORIENTATION) in _QUARTER_TURNS:
            found = found[::-1]
    _check_size(path, image_id, as_stored, found, size)


@contextmanager
def _open(path: StrPath, image_id: object) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if is_stream(path):
                raise OSError("it is a pipe or a device, expected a file")
            with Image.open(path) as file:
                yield file
    # on broken files Pillow's decoders raise a dozen kinds, even SyntaxError and struct.error
    except Exception as error:
        raise ImageError(f"{_named(path, image_id)} cannot be read: {_reason(error)}") from error


def _check_mode(file: Image.Image) -> None:
    # for 16-bit greys, only older versions of Pillow use mode "I", and only for PNG
    if file.mode == "F" or (file.mode == "I" and file.format != "PNG"):
        raise OSError(f"its pixels are of mode {file.mode}, 32 bits each; convert it to 8 bits")


def _check_size(
    path: StrPath,
    image_id: object,
    as_stored: tuple[int, int],
    found: tuple[int, int],
    stated: tuple[float, float] | None,
) -> None:
    if stated is not None and found != stated:
        turned = " as its EXIF orientation turns it" if as_stored != found else ""
        raise ImageError(
            f"{_named(path, image_id)} has {found[0]}x{found[1]} pixels{turned}, but its "
            f"annotations say {stated[0]:g}x{stated[1]:g}"
        )


def _named(path: StrPath, image_id: object) -> str:
    return f"image file {path}" if image_id is None else f"image file {path} (image {image_id})"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
