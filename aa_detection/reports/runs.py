"""Read the output directory of a run."""

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import read_about, read_checkpoint
from ..config import ConfigError, parse_yaml
from ..data.annotations import parse_json
from ..evaluation.coco_ap import METRICS

Series = list[tuple[int, float]]  # (iteration, value), ordered by iteration


@dataclass(frozen=True)
class TrainedRun:
    """The output directory of a run on either engine.

    Attributes:
        name: of the directory.
        config: the content of ``config.yaml``.
        scalars: content of ``metrics.json`` by name, without values that are not numbers.
        result_file: the detections on `dataset`, in COCO's format.
        dataset: the test dataset of the report, the first in the config.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    scalars: dict[str, Series]
    result_file: Path
    dataset: str

    @property
    def augmented(self) -> bool:
        """Return whether the backbone has attention that can be shown."""
        return self.config["MODEL"].get("ATTENTION", {}).get("CONV") == "aa"

    @property
    def evaluations(self) -> dict[str, Series]:
        """Return COCO's metrics of every evaluation, in percent, in COCO's order."""
        prefix = "bbox/" if f"bbox/{METRICS[0]}" in self.scalars else f"{self.dataset}/bbox/"
        found = ((name, self.scalars.get(prefix + name, [])) for name in METRICS)
        return {name: series for name, series in found if series}

    @property
    def losses(self) -> dict[str, Series]:
        """Return the losses, the total first."""
        names = [name for name in self.scalars if name.startswith("loss_")]
        found = ((name, self.scalars.get(name, [])) for name in ("total_loss", *sorted(names)))
        return {name: series for name, series in found if series}


def read_run(folder: str | os.PathLike[str]) -> TrainedRun:
    """Read an output directory, with the config from ``config.yaml`` or ``model_final.pth``.

    Raises:
        ConfigError: it is not an output directory, or the run was not evaluated.
    """
    folder = Path(folder)
    config = _read_config(folder)
    dataset = str(config["DATASETS"]["TEST"][0])
    candidates = [
        folder / "inference" / "coco_instances_results.json",
        folder / "inference" / dataset / "coco_instances_results.json",  # several test datasets
    ]
    result_file = next((path for path in candidates if path.is_file()), None)
    if result_file is None:
        raise ConfigError(
            f"{candidates[0]}: no such file: expected the output directory of a run that was "
            "evaluated"
        )
    return TrainedRun(
        name=folder.resolve().name,
        folder=folder,
        config=config,
        scalars=_read_scalars(folder / "metrics.json"),
        result_file=result_file,
        dataset=dataset,
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path, weights = folder / "config.yaml", folder / "model_final.pth"
    about = None
    if weights.is_file() and not path.exists():
        about = read_about(read_checkpoint(str(weights)))
    try:
        if about is not None:
            config = parse_yaml(about.config, f"{weights}: its config")
        else:
            with path.open(encoding="utf-8") as file:
                config = parse_yaml(file, str(path))
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: expected the output directory of a run"
        ) from None
    try:
        usable = bool(config["DATASETS"]["TEST"][0]) and isinstance(
            config["MODEL"]["ATTENTION"], dict
        )
    except (LookupError, TypeError):
        usable = False
    if not usable:
        raise ConfigError(f"{path}: expected a run's configuration with MODEL and DATASETS.TEST")
    return config


def _read_scalars(path: Path) -> dict[str, Series]:
    """Read scalars by name; empty without the file (resumed without it, or only evaluated)."""
    if not path.exists():
        return {}
    series: dict[str, dict[int, float]] = defaultdict(dict)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = parse_json(line)
            iteration = row["iteration"]
            if type(iteration) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"{path}: line {number}: expected an object of JSON with an iteration"
            ) from None
        for key, value in row.items():
            if key != "iteration" and type(value) in (int, float) and abs(value) < math.inf:
                series[key][iteration] = float(value)  # of two runs in one folder, the later wins
    return {key: sorted(values.items()) for key, values in series.items()}
