"""Metadata stored in a checkpoint, so that the file is usable without any other.

Both engines store it beside the weights, under one key. It is plain data: texts and numbers in
dictionaries and lists, which ``torch.load(…, weights_only=True)`` reads and detectron2 ignores.
"""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode

from .. import __version__
from ..config import ConfigError, merge_text, merge_yaml
from ..one_line import is_line
from .reading import Checkpoint, read_checkpoint

KEY = "aa_detection"
# suffixes of weight files; any other file is taken for a config
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors", ".pkl")
_PACKAGES = (
    "torchvision", "lightning", "detectron2", "fvcore", "triton", "numpy",
    "opencv-python", "pillow", "pycocotools",
)  # fmt: skip


@dataclass(frozen=True)
class About:
    """Origin of a checkpoint.

    Attributes:
        config: the run's config, as YAML.
        categories: names by category id, in the order of the detector's classes; empty if the
            training data was not in COCO's format.
        datasets: ``name`` and ``sha256`` of the annotation file of each training dataset.
        engine: the engine that trained it, with its version.
        versions: of Python and of the packages involved.
    """

    config: str
    categories: Mapping[int, str]
    datasets: Sequence[Mapping[str, str]]
    engine: str
    versions: Mapping[str, str]

    def entry(self) -> dict[str, Any]:
        """Return the entry for the checkpoint's dictionary."""
        content = {
            "config": self.config,
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
            "datasets": [dict(dataset) for dataset in self.datasets],
            "engine": self.engine,
            "versions": dict(self.versions),
        }
        return {KEY: content}


def read_about(checkpoint: Checkpoint) -> About | None:
    """Return a checkpoint's metadata, or None if it has none.

    Raises:
        ConfigError: the entry differs from what :meth:`About.entry` makes.
    """
    content = checkpoint.rest.get(KEY)
    if content is None:
        return None
    try:
        about = About(
            content["config"],
            {category["id"]: category["name"] for category in content["categories"]},
            content["datasets"],
            content["engine"],
            content["versions"],
        )
        sound = isinstance(about.config, str) and all(
            type(i) is int and isinstance(name, str) and is_line(name)
            for i, name in about.categories.items()
        )
    except (KeyError, TypeError, IndexError):
        sound = False
    if not sound:
        raise ConfigError(
            f"{checkpoint.path}: {KEY!r} is not what training writes there: expected config and "
            "categories"
        )
    return about


def merge_config(cfg: CfgNode, source: str) -> None:
    """Merge a YAML file, or the config stored in a checkpoint, into `cfg`.

    With a checkpoint, ``MODEL.WEIGHTS`` is set to that file.

    Raises:
        ConfigError: as :func:`aa_detection.config.merge_yaml`; or the checkpoint cannot be read or
            holds no config.
    """
    if os.path.splitext(source)[1].lower() not in _CHECKPOINTS:
        merge_yaml(cfg, source)
        return
    about = read_about(read_checkpoint(source))
    if about is None:
        raise ConfigError(
            f"{source}: carries no config; expected a YAML file, or a checkpoint that this version "
            "trained"
        )
    merge_text(cfg, about.config, f"{source}: its config")
    cfg.MODEL.WEIGHTS = source


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Return versions of Python, this project, and the related packages that are installed."""
    versions = {
        "python": platform.python_version(),
        "aa_detection": __version__,
        "torch": str(torch.__version__),  # includes the CUDA version, unlike the package metadata
    }
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
