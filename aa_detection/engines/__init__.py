"""Two ways to run the same YAML: detectron2, and torchvision with Lightning.

Both offer ``load_config(config_file, overrides)`` and ``run(cfg, …)``, and write the same files.
Neither imports the other; importing this package imports neither.
"""

import importlib
import importlib.util
from types import ModuleType

from ..config import ConfigError

ENGINES = ("detectron2", "torchvision")


def load_engine(name: str) -> ModuleType:
    """The engine of that name; "auto" is detectron2 where it imports, else torchvision.

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
    return importlib.import_module(f"{__name__}.{name}")
