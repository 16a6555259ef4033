"""Write weight files atomically."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..atomic_file import atomic_write
from ..config import ConfigError
from .about import About

FORMATS = (".pth", ".safetensors")


def write_weights(
    path: str, weights: dict[str, Tensor], about: dict[str, Any] | None = None
) -> None:
    """Write named tensors as ``.pth`` or ``.safetensors``.

    Args:
        about: further metadata. With it a ``.pth`` holds the tensors under ``model``, as
            detectron2's files do, and a ``.safetensors`` holds it as text in its own metadata.

    Raises:
        ConfigError: the format is unknown, or the file cannot be written.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind not in FORMATS:
        raise ConfigError(f"{path}: written are {' and '.join(FORMATS)}, got {kind or 'no ending'}")
    try:
        with atomic_write(path) as file:
            if kind == ".pth":
                torch.save(weights if about is None else {"model": weights, **about}, file)
            else:
                separate = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
                file.write(save(separate, {key: str(text) for key, text in (about or {}).items()}))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_trained(
    path: str, weights: Mapping[str, Tensor], iteration: int, about: About | None
) -> None:
    """Write the weights after an iteration, counted from 0, for inference, not for resuming.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"model": dict(weights), "iteration": iteration}
    content |= about.entry() if about is not None else {}
    with atomic_write(path) as file:
        torch.save(content, file)
