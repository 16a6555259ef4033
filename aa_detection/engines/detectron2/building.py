"""Build detectron2's detectors and turn its errors about a config into one line."""

import os
import traceback

import detectron2
import fvcore
from detectron2.config import CfgNode
from detectron2.modeling import build_model as _build_model
from torch import nn

from ...config import ConfigError

# fvcore holds detectron2's registries
_PACKAGES = tuple(os.path.dirname(each.__file__) for each in (detectron2, fvcore))


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the config's detector with random weights.

    Raises:
        ConfigError: attention that cannot be built (names the key), or a value that detectron2's
            own code rejects. Errors of other code, such as a project's own backbone, pass through.
    """
    try:
        return _build_model(cfg)
    except ConfigError:
        raise
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if not place.filename.startswith(_PACKAGES):
            raise
        words = " ".join(str(error).split()) or place.line
        raise ConfigError(
            f"detectron2 cannot build this configuration: {type(error).__name__}: {words} "
            f"({place.filename}, line {place.lineno})"
        ) from None
