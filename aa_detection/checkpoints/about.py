"""What a checkpoint says about itself, so that whoever has the file needs no other.

Both engines put it beside the weights, below one key. It is plain data: texts and numbers in
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
# what a file of weights may end in; a config is everything else
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors", ".pkl")
_PACKAGES = (
    "torchvision", "lightning", "detectron2", "fvcore", "triton", "numpy",
    "opencv-python", "pillow", "pycocotools",
)  # fmt: skip


@dataclass(frozen=True)
class About:
    """Where a checkpoint comes from.

    Attributes:
        config: the run's, as YAML.
        categories: names by category id, in the order of the detector's classes; empty where the
            training data was not in COCO's format.
        datasets: of each training dataset ``name`` and ``sha256``, of its annotation file.
        engine: that trained it, with its version.
        versions: of Python and of the packages that took part.
    """

    config: str
    categories: Mapping[int, str]
    datasets: Sequence[Mapping[str, str]]
    engine: str
    versions: Mapping[str, str]

    def entry(self) -> dict[str, Any]:
        """What goes into the file's dictionary."""
        content = {
            "config": self.config,
            "categories": [{"id": i, "name": name} for i, name in self.categories.items()],
            "datasets": [dict(dataset) for dataset in self.datasets],
            "engine": self.engine,
            "versions": dict(self.versions),
        }
        return {KEY: content}


def read_about(checkpoint: Checkpoint) -> About | None:
    """What a checkpoint says about itself; None for one that says nothing.

    Raises:
        ConfigError: it says something else than :meth:`About.entry` makes.
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
    """Merge a YAML file, or the config that a checkpoint carries, into `cfg`.

    With a checkpoint, ``MODEL.WEIGHTS`` is that file.

    Raises:
        ConfigError: as :func:`aa_detection.config.merge_yaml`; the checkpoint cannot be read, or
            carries no config.
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
    """Of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of Python, of this project, and of those packages it works with that are there."""
    versions = {
        "python": platform.python_version(),
        "aa_detection": __version__,
        "torch": str(torch.__version__),  # names its CUDA, which the installed package's does not
    }
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
