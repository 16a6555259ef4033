"""Checkpoints of several frameworks: read as data, load into either engine's models, convert."""

from .about import About, merge_config, package_versions, read_about
from .configured import build_trained, read_configured
from .converting import convert
from .loading import load_checkpoint
from .preprocessing import check_preprocessing
from .reading import Checkpoint, read_checkpoint
from .writing import write_trained, write_weights

__all__ = [
    "About",
    "Checkpoint",
    "build_trained",
    "check_preprocessing",
    "convert",
    "load_checkpoint",
    "merge_config",
    "package_versions",
    "read_about",
    "read_checkpoint",
    "read_configured",
    "write_trained",
    "write_weights",
]
