"""Read weight files as data, without running anything in them."""

import os
import pickle
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import PathManager
from safetensors import safe_open
from torch import Tensor

from ..config import ConfigError
from .names import (
    NameClash,
    from_caffe2,
    from_torchvision,
    is_caffe2,
    is_torchvision_resnet,
    is_torchvision_retinanet,
)
from .paths import PATHS, local_file
from .pickles import RefusedPickle, load_arrays

# keys under which files keep weights: detectron2 and torchvision's references, Lightning, pycls
_WEIGHTS_KEYS = ("model", "state_dict", "model_state", "blobs")
# prefixes of a model wrapped for several processes, and of Lightning's module
_WRAPPERS = ("module.", "model.")
# state that is not a weight: the config or another part of the checkpoint determines it
_NO_WEIGHT = re.compile(r"(?:^|\.)(?:pixel_mean|pixel_std|cell_anchors\.\d+|loss_normalizer)$")


@dataclass
class Checkpoint:
    """A weight file.

    Attributes:
        path: as the user gave it.
        weights: keyed by detectron2's names (:mod:`.names`).
        layout: whose names the file uses: "detectron2", "torchvision" or "Caffe2".
        author: who trained the weights, if the file says so: "torchvision", "Detectron" (on
            Caffe2), "Detectron2 Model Zoo"; else "".
        rest: the rest of the file, such as an optimizer's state.
    """

    path: str
    weights: dict[str, Tensor]
    layout: str = "detectron2"
    author: str = ""
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def iteration(self) -> int:
        """Return how many iterations the weights were trained; 0 if the file does not say."""
        last = self.rest.get("iteration", -1)  # counted from 0, as in detectron2
        return last + 1 if type(last) is int else 0


def read_checkpoint(
    path: str, *, allow_pickle: bool = False, paths: PathManager = PATHS
) -> Checkpoint:
    """Read ``.pth`` (or ``.ckpt``, ``.pt``), ``.safetensors`` or, if allowed, ``.pkl``.

    Args:
        path: a file, or an address that `paths` knows.
        allow_pickle: read a ``.pkl``; only arrays are accepted.

    Raises:
        ConfigError: the file does not exist, is damaged, or does not hold named tensors; one line,
            which begins with `path`.
    """
    address = path.partition("?")[0] if "://" in path else path
    _check_allowed(path, _kind(address), allow_pickle)  # before any download
    file = local_file(address, paths)
    # detectron2's catalog:// names have no suffix
    kind = _kind(address) if _kind(address) in _READERS else _kind(file)
    _check_allowed(path, kind, allow_pickle)
    try:
        if os.path.getsize(file) == 0:
            raise ConfigError(f"{path}: the file is empty")
        content = _READERS.get(kind, _read_torch)(file)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # on damaged files the readers raise anything
        raise ConfigError(f"{path}: {_unreadable(kind, error)}") from None
    return _checkpoint(path, content)


def _kind(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _check_allowed(path: str, kind: str, allow_pickle: bool) -> None:
    if kind == ".pkl" and not allow_pickle:
        raise ConfigError(
            f"{path}: a pickle, which could run code when it is read; --allow-pickle accepts it "
            "and reads arrays only"
        )


def _read_torch(file: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files that are refused below with one line
        return torch.load(file, map_location="cpu", weights_only=True)


def _read_safetensors(file: str) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return {**(opened.metadata() or {}), "model": weights}


def _read_pickle(file: str) -> Any:
    with open(file, "rb") as opened:
        return load_arrays(opened)


_READERS = {".safetensors": _read_safetensors, ".pkl": _read_pickle}


def _unreadable(kind: str, error: Exception) -> str:
    """Return our own one-line error: the readers' are paragraphs or empty."""
    if isinstance(error, RefusedPickle):
        return str(error)
    if kind in _READERS:
        return f"damaged, or not a {kind.removeprefix('.').replace('pkl', 'pickle')} file"
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked and isinstance(error, pickle.UnpicklingError):
        return f"it asks for {asked[1]}, and only tensors are read; nothing in it was run"
    return "damaged, or not a file of tensors"


def _checkpoint(path: str, content: Any) -> Checkpoint:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected tensors by name, got {_type(content)}")
    key = next((k for k in _WEIGHTS_KEYS if isinstance(content.get(k), dict)), None)
    weights = content if key is None else content[key]
    rest = {} if key is None else {k: v for k, v in content.items() if k != key}
    weights = _tensors(path, weights)
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    author, layout = str(rest.get("__author__", "")), "detectron2"
    try:
        if is_caffe2(weights):
            layout, author, weights = "Caffe2", "Detectron", from_caffe2(weights)
        elif is_torchvision_resnet(weights) or is_torchvision_retinanet(weights):
            layout, author, weights = "torchvision", "torchvision", from_torchvision(weights)
        else:
            weights = from_torchvision(weights)  # from the embedded engine's training
    except NameClash as error:
        raise ConfigError(f"{path}: two tensors of one name: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    weights = {k: v for k, v in weights.items() if not _NO_WEIGHT.search(k)}
    return Checkpoint(path, weights, layout, author, rest)


def _tensors(path: str, weights: dict[Any, Any]) -> dict[str, Tensor]:
    if not weights:
        raise ConfigError(f"{path}: holds no tensors")
    tensors = {}
    for name, value in weights.items():
        if not isinstance(name, str):
            raise ConfigError(f"{path}: expected tensors by name, got the name {name!r}")
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, Tensor) or value.is_sparse or value.is_quantized:
            raise ConfigError(f"{path}: expected a dense tensor for {name}, got {_type(value)}")
        if value.is_meta:
            raise ConfigError(f"{path}: expected numbers for {name}, got a shape alone")
        if value.is_complex():
            raise ConfigError(f"{path}: expected real numbers for {name}, got {value.dtype}")
        tensors[name] = value
    return tensors


def _type(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return type(value).__name__
