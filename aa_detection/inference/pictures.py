"""Convert the accepted types of image to the detectors' input."""

import os
from typing import TypeAlias

import numpy as np
from PIL import Image

from ..data import read_image, upright_rgb

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray


def to_bgr(picture: Picture, *, bgr: bool = False) -> np.ndarray:
    """Convert an image to ``(H, W, 3)`` uint8 in BGR order.

    Args:
        picture: the path of an image file, a Pillow image (EXIF orientation is applied to both), or
            an array ``(H, W, 3)`` uint8.
        bgr: an array is in BGR order; default RGB.

    Raises:
        DatasetError: the file is not an image.
        ValueError: any other argument is not an image.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                f"expected an array (H, W, 3) of uint8, got {picture.shape} of {picture.dtype}"
            )
        if not picture.size:
            raise ValueError(f"expected an array with pixels, got {picture.shape}")
        return np.ascontiguousarray(picture if bgr else picture[:, :, ::-1])
    if isinstance(picture, Image.Image):
        try:
            image = upright_rgb(picture)
        except OSError as error:  # Pillow decodes lazily, so an opened file may fail here
            raise ValueError(f"{picture!r}: {error}") from None
    elif isinstance(picture, (str, os.PathLike)):
        image = read_image(picture)
    else:
        raise ValueError(
            "expected a path, an image of Pillow's, an array or a list of these, got "
            f"{type(picture).__name__}"
        )
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
