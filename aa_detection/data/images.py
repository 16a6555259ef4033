"""Reading pictures as training and evaluation see them."""

from pathlib import Path

from PIL import Image, ImageOps

from .catalog import DatasetError, StrPath


def read_image(path: StrPath) -> Image.Image:
    """The picture in RGB, turned as its EXIF data say.

    Raises:
        DatasetError: the file is missing, truncated, or no picture.
    """
    try:
        with Image.open(Path(path)) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except Image.UnidentifiedImageError:
        raise DatasetError(f"image {path} cannot be read: not a format that Pillow knows") from None
    # what Pillow raises for a damaged file depends on its format
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        problem = getattr(error, "strerror", None) or error
        raise DatasetError(f"image {path} cannot be read: {problem}") from None
