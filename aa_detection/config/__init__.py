"""The YAML both engines read: attention's keys, loading, and what can be said before training."""

from .attention_keys import add_attention_keys, attention_spec
from .augmentation_keys import add_augmentation_keys, check_augmentation
from .dataset_keys import add_dataset_keys, coco_files
from .errors import ConfigError, UnknownKeyError
from .files import config_file, configs_folder
from .loading import merge_overrides, merge_text, merge_yaml, read_settings
from .preflight import (
    check_evaluation,
    check_shares,
    check_training,
    default_to_final_weights,
    number_of_classes,
)
from .trainer_keys import add_trainer_keys, check_averaging, check_best_metric, check_trainer
from .values import check_values

__all__ = [
    "ConfigError",
    "UnknownKeyError",
    "add_attention_keys",
    "add_augmentation_keys",
    "add_dataset_keys",
    "add_trainer_keys",
    "attention_spec",
    "check_augmentation",
    "check_averaging",
    "check_best_metric",
    "check_evaluation",
    "check_shares",
    "check_trainer",
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
    "read_settings",
]
