"""A trained detector from a run's folder or a checkpoint, on either engine."""

import os
from collections.abc import Mapping
from typing import TypeVar

from fvcore.common.config import CfgNode
from torch import nn

from ..checkpoints import Checkpoint, read_about, read_checkpoint
from ..config import ConfigError
from ..inference import BaseDetector
from ..inference.categories import find_categories
from . import load_engine

D = TypeVar("D", bound="Detector")


class Detector(BaseDetector):
    """A trained detector: :meth:`load` it, then call ``predict`` and look at its ``attention``.

    See :class:`aa_detection.inference.BaseDetector` for its methods and the other arguments.

    Args:
        cfg: the preprocessing is that of its ``INPUT`` for evaluation.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        categories: Mapping[int, str] | None = None,
        *,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(model, categories, bfloat16=bfloat16)
        self.edge, self.max_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        self.format = cfg.INPUT.FORMAT

    @classmethod
    def of_checkpoint(
        cls: type[D],
        cfg: CfgNode,
        model: nn.Module,
        checkpoint: Checkpoint,
        *,
        bfloat16: bool,
        class_names: str | None,
    ) -> D:
        """Name the classes as :func:`aa_detection.inference.categories.find_categories` does.

        Args:
            model: with the weights of `checkpoint`, in evaluation mode.
        """
        categories = find_categories(cfg, class_names, checkpoint)
        return cls(cfg, model, categories, bfloat16=bfloat16)

    @staticmethod
    def load(
        path: str | os.PathLike[str], *, engine: str = "auto", device: str | None = None
    ) -> "Detector":
        """Load the detector of a run.

        Args:
            path: a run's folder, or a checkpoint that carries its config, written by either engine.
            engine: "detectron2", "torchvision", or "auto": detectron2 if installed, else
                torchvision. Each loads checkpoints of the other.
            device: such as "cpu" or "cuda"; default: the run's, or the CPU without a GPU.

        Raises:
            ConfigError: the run or file does not exist or cannot be read, or the engine cannot
                build its network; one line.
        """
        config, overrides = _config_of(os.fspath(path))
        if device is not None:
            overrides = [*overrides, "MODEL.DEVICE", device]
        loaded = load_engine(engine)
        return loaded.load_detector(loaded.load_config(config, overrides))


def _config_of(path: str) -> tuple[str, list[str]]:
    """Return the arguments of ``load_config``."""
    if not os.path.exists(path):
        raise ConfigError(f"{path}: no such file or folder; expected a run's, or a checkpoint")
    if not os.path.isdir(path):
        return path, []
    weights = os.path.join(path, "model_final.pth")
    if not os.path.isfile(weights):
        raise ConfigError(f"{path}: not the folder of a finished run: it has no model_final.pth")
    # a later evaluation may have left its own config.yaml there
    if read_about(read_checkpoint(weights)) is not None:
        return weights, []
    config = os.path.join(path, "config.yaml")
    if not os.path.isfile(config):
        raise ConfigError(
            f"{path}: its model_final.pth carries no config, and there is no config.yaml beside it"
        )
    return config, ["MODEL.WEIGHTS", weights]
