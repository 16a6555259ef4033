"""Export a backbone to a file and check the file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from .check import Agreement, check
from .formats import FORMATS, check_target
from .graph import Features, geometry, trace
from .replacing import replacing


def export_backbone(
    backbone: nn.Module,
    file: Path,
    format: str,
    *,
    pixel_mean: Sequence[float],
    pixel_std: Sequence[float],
    input_format: str,
    report: Callable[[Agreement], None] = lambda agreement: None,
) -> None:
    """Write a detector's backbone; keep the file only if it computes the same as the backbone.

    The graph takes the backbone's input: images of `input_format` channels, ``(x - mean) / std``
    with x in 0 … 255, padded with zeros at the bottom and right to a common size that is a multiple
    of ``size_divisibility``. It returns the backbone's maps by name. Batch and image size are
    dynamic; the padding mask is in the graph. The file's metadata records all this.

    Args:
        backbone: from either engine's detector, on the CPU, in evaluation mode.
        file: output path; an existing file is replaced once the new one is complete and checked.
        format: a key of ``FORMATS``.
        pixel_mean, pixel_std: the normalisation before the backbone, in `input_format`'s order.
        input_format: "BGR" or "RGB".
        report: called with the result of every comparison.

    Raises:
        ConfigError: a package is missing, or `file` cannot be written.
        DisagreementError: the file computes something else; it is removed.
    """
    check_target(file, format)
    sizes = geometry(backbone)
    metadata = {
        "pixel_mean": json.dumps(list(pixel_mean)),
        "pixel_std": json.dumps(list(pixel_std)),
        "input_format": input_format,
        "size_divisibility": str(sizes.size_divisibility),
        "smallest_side": str(sizes.smallest_side),
        "strides": json.dumps(sizes.strides),
    }
    kind = FORMATS[format]
    with replacing(file) as unchecked:
        kind.write(trace(Features(backbone, kind.attention), sizes), metadata, unchecked)
        for agreement in check(backbone, kind.read(unchecked), pixel_mean, pixel_std):
            report(agreement)
