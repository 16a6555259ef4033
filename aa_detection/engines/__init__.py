"""The two engines that run the same YAML: detectron2, and torchvision with Lightning.

Both implement :class:`Engine` and write the same files. Neither imports the other; importing this
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
    """The interface of an engine package."""

    __name__: str

    def load_config(self, config_file: str, overrides: Sequence[str] = ()) -> CfgNode:
        """Return the engine's defaults, overridden by the file and then by ``KEY VALUE`` pairs.

        The file is YAML, or a checkpoint that carries its config; ``MODEL.WEIGHTS`` is then that
        checkpoint. Registers the datasets of ``DATASETS.COCO_FILES``. Without a CUDA device,
        ``MODEL.DEVICE`` cuda becomes cpu.

        Raises:
            ConfigError: a file, key or value cannot be used here; names it.
            DatasetError: a dataset's name is already taken by other files.
        """

    def build_model(self, cfg: CfgNode) -> nn.Module:
        """Build the config's detector with random weights.

        Raises:
            ConfigError: attention that cannot be built; names the key.
        """

    def load_model(self, cfg: CfgNode, *, allow_pickle: bool = False) -> nn.Module:
        """Load the trained detector; see :func:`aa_detection.checkpoints.build_trained`."""

    def load_detector(
        self,
        cfg: CfgNode,
        *,
        allow_pickle: bool = False,
        bfloat16: bool = False,
        class_names: str | None = None,
    ) -> "Detector":
        """Load the trained detector as a function from pictures to detections.

        Args:
            allow_pickle: see :meth:`load_model`.
            bfloat16: see :class:`aa_detection.inference.BaseDetector`.
            class_names: see :func:`aa_detection.inference.categories.find_categories`.
        """

    def run(self, cfg: CfgNode, options: RunOptions = RunOptions()) -> dict[str, Any]:  # noqa: B008
        """Train and evaluate, or evaluate only.

        Returns:
            Metrics by task, ``{"bbox": {"AP": …}}``, of the only test dataset, or by dataset name
            if there are several; empty in all processes but the first.

        Raises:
            ConfigError, DatasetError: raised before anything is written.
            RunError, Interrupted: the run failed, or was asked to stop.
        """


def engine_name(name: str) -> str:
    """Resolve an engine's name; "auto" is detectron2 if it imports, else torchvision.

    Raises:
        ConfigError: the engine's framework is not installed; says how to install it.
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
    """Import the engine that :func:`engine_name` resolves to.

    Raises:
        ConfigError: as :func:`engine_name`.
    """
    engine: Any = importlib.import_module(f"{__name__}.{engine_name(name)}")
    return engine


if TYPE_CHECKING:  # lets the type checker verify both engines
    _detectron2: Engine = detectron2
    _torchvision: Engine = torchvision
