"""Names of a detector's classes."""

from pathlib import Path

import orjson
from fvcore.common.config import CfgNode

from ..checkpoints import Checkpoint, read_about
from ..config import ConfigError, number_of_classes
from ..data import DatasetError, get_coco_dataset


def find_categories(
    cfg: CfgNode, class_names: str | None = None, checkpoint: Checkpoint | None = None
) -> dict[int, str]:
    """Return COCO category ids and names of a detector's classes, in the order of the classes.

    The first of these sources that applies is used: `class_names`; the checkpoint; a dataset that
    the config names, test datasets first, whose annotation file exists and has as many categories
    as the detector; COCO's own names if the dataset is one of COCO's. Otherwise the names are
    numbers.

    Args:
        class_names: a text file with one name per line, or a COCO annotation file.
        checkpoint: the source of the detector's weights.

    Raises:
        ConfigError, DatasetError: `class_names` cannot be read or has another number of names.
    """
    _, count = number_of_classes(cfg)
    if class_names is not None:
        categories = _read(Path(class_names))
        if len(categories) != count:
            raise ConfigError(
                f"--class-names {class_names}: {len(categories)} names, and the detector has "
                f"{count} classes"
            )
        return categories
    about = read_about(checkpoint) if checkpoint is not None else None
    if about is not None and len(about.categories) == count:
        return dict(about.categories)
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            categories = _of_annotations(get_coco_dataset(name).annotation_file)
        except DatasetError:
            categories = _coco() if name.startswith("coco_") else {}
        if len(categories) == count:
            return categories
    return {i: f"class {i}" for i in range(1, count + 1)}


def _read(path: Path) -> dict[int, str]:
    if path.suffix.lower() == ".json":
        return _of_annotations(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise ConfigError(f"--class-names {path}: {problem}") from None
    names = [line.strip() for line in lines if line.strip()]
    return dict(enumerate(names, 1))


def _of_annotations(path: Path) -> dict[int, str]:
    """Read only the categories: class names need nothing else of the file."""
    try:
        categories = orjson.loads(path.read_bytes())["categories"]
        return dict(sorted((int(category["id"]), str(category["name"])) for category in categories))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):  # orjson's error is a ValueError
        raise DatasetError(
            f"{path}: expected COCO's annotations, with a list of categories"
        ) from None


def _coco() -> dict[int, str]:
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    # by category id, with "N/A" for ids that COCO does not use
    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(names) if i and name != "N/A"}
