"""Two ways to run the same YAML: detectron2, and torchvision with Lightning.

Both are an :class:`Engine`, and write the same files. Neither imports the other; importing this
package imports neither.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fvcore.common.config import CfgNode
from torch import nn

from ..config import ConfigError
from .options import RunOptions

if TYPE_CHECKING:
    from . import detectron2, torchvision
    from .detector import Detector

ENGINES = ("detectron2", "torchvision")
__all__ = ["ENGINES", "Engine", "RunOptions", "engine_name", "load_engine"]


class Engine(Protocol):
    """What the package of an engine offers."""

    __name__: str

    def load_config(self, config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
        """The engine's defaults with attention's keys, then the file, then ``KEY VALUE`` pairs.

        The file is YAML, or a checkpoint that carries its config and is ``MODEL.WEIGHTS`` then.
        The datasets of ``DATASETS.COCO_FILES`` are registered. ``MODEL.DEVICE`` cuda becomes cpu
        where there is no CUDA device.

        Raises:
            ConfigError: a file, key or value that cannot be used here; names it.
            DatasetError: a dataset's name already stands for other files.
        """

    def build_model(self, cfg: CfgNode) -> nn.Module:
        """The detector a config describes, with random weights.

        Raises:
            ConfigError: attention that cannot be built; names the key.
        """

    def load_model(self, cfg: CfgNode, *, allow_pickle: bool = False) -> nn.Module:
        """The config's trained detector; see :func:`aa_detection.checkpoints.build_trained`."""

    def load_detector(
        self,
        cfg: CfgNode,
        *,
        allow_pickle: bool = False,
        bfloat16: bool = False,
        class_names: str | None = None,
    ) -> "Detector":
        """The trained detector as a function from pictures to detections.

        Args:
            allow_pickle: as :meth:`load_model`'s.
            bfloat16: see :class:`aa_detection.inference.BaseDetector`.
            class_names: see :func:`aa_detection.inference.categories.find_categories`.
        """

    def run(self, cfg: CfgNode, options: RunOptions = RunOptions()) -> dict[str, Any]:  # noqa: B008
        """Train and evaluate, or evaluate only.

        Returns:
            Metrics by task, ``{"bbox": {"AP": …}}``, of the only test dataset, or by its name;
            empty on machines and in processes other than the first.

        Raises:
            ConfigError, DatasetError: before anything is written.
            RunError, Interrupted: the run could not go on, or was asked to stop.
        """


def engine_name(name: str) -> str:
    """The engine that `name` stands for; "auto" is detectron2 where it imports, else torchvision.

    Raises:
        ConfigError: what the engine runs on is not installed; says how to install it.
    """
    if name == "auto":
        name = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
    if name == "detectron2" and not importlib.util.find_spec("detectron2"):
        raise ConfigError(
            "--engine detectron2: detectron2 is not installed; see "
            "https://detectron2.readthedocs.io/en/latest/tutorials/install.html "
            "or use --engine torchvision"
        )
    if name == "torchvision" and not importlib.util.find_spec("lightning"):
        raise ConfigError(
            "--engine torchvision: Lightning is not installed; pip install 'aa_detection[embedded]'"
        )
    return name


def load_engine(name: str) -> Engine:
    """The engine that :func:`engine_name` says.

    Raises:
        ConfigError: as :func:`engine_name`.
    """
    engine: Any = importlib.import_module(f"{__name__}.{engine_name(name)}")
    return engine


if TYPE_CHECKING:  # the type checker sees that each is one
    _detectron2: Engine = detectron2
    _torchvision: Engine = torchvision
