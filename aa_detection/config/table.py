"""The one table of config keys and their constraints, for both engines."""

from .attention_keys import ATTENTION_KEYS
from .augmentation_keys import AUGMENTATION_KEYS
from .constraints import Constraint
from .dataset_keys import DATASET_KEYS
from .detectron2_keys import KEYS
from .keys import Key
from .trainer_keys import TRAINER_KEYS

OWN_KEYS: tuple[Key, ...] = (
    *ATTENTION_KEYS.values(),
    *AUGMENTATION_KEYS,
    *DATASET_KEYS,
    *TRAINER_KEYS,
)


def constraints() -> dict[str, Constraint]:
    """Return the constraints by dotted key."""
    theirs = {name: key.allowed for name, key in KEYS.items() if key.allowed is not None}
    return {**theirs, **{key.name: key.allowed for key in OWN_KEYS}}
