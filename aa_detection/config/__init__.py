"""The YAML config that both engines read: keys, constraints, loading, and pre-training checks."""

from .anchors import by_level
from .attention_keys import add_attention_keys, attention_spec
from .augmentation_keys import add_augmentation_keys
from .dataset_keys import add_dataset_keys, coco_files
from .errors import ConfigError, UnknownKeyError
from .files import config_file, configs_folder
from .loading import merge_overrides, merge_text, merge_yaml, parse_yaml, read_settings
from .memory import check_batch
from .preflight import (
    check_evaluation,
    check_shares,
    check_training,
    default_to_final_weights,
    number_of_classes,
)
from .trainer_keys import add_trainer_keys, check_averaging, check_best_metric
from .values import check_values

__all__ = [
    "ConfigError",
    "UnknownKeyError",
    "add_attention_keys",
    "add_augmentation_keys",
    "add_dataset_keys",
    "add_trainer_keys",
    "attention_spec",
    "by_level",
    "check_averaging",
    "check_batch",
    "check_best_metric",
    "check_evaluation",
    "check_shares",
    "check_training",
    "check_values",
    "coco_files",
    "config_file",
    "configs_folder",
    "default_to_final_weights",
    "merge_overrides",
    "merge_text",
    "merge_yaml",
    "number_of_classes",
    "parse_yaml",
    "read_settings",
]
