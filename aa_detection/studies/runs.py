"""Run the trainings that an experiment compares, each in its own process with one record.

A record is a JSON file with a training's settings and scores, and its detections in a file beside
it. An experiment keeps only the records: a run with a record is complete and never repeated, an
interrupted one continues from its last checkpoint.
"""

import contextlib
import fcntl
import gzip
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from ..atomic_file import atomic_write
from ..config import ConfigError, read_settings
from ..training.files import ELSEWHERE
from ..training.interrupt import handling, raise_interrupted

# arguments of Python that start a training, in a checkout and in an installation
TRAIN = ("-m", "aa_detection", "train")
_PACKAGES = ("aa_detection", "torch", "torchvision", "lightning", "detectron2", "numpy")


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: name of its record, relative to the records folder; may have slashes.
        config_file: its YAML.
        overrides: ``KEY VALUE …`` on top.
        labels: the run's role in the experiment (arm, seed, data), kept in the record.
        environment: variables of its process, such as the root of its datasets.
        arguments: further options of the training program, such as its dataset's files.
    """

    name: str
    config_file: Path
    overrides: tuple[str, ...] = ()
    labels: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


class Runs:
    """The runs of an experiment and their records.

    Args:
        train: arguments of ``python`` that start a training; default :data:`TRAIN`.
        engine: its ``--engine``, resolved: "detectron2" or "torchvision".
        records: folder of the records, to keep.
        work: folder of the runs' own output (logs, checkpoints).
    """

    def __init__(self, train: Sequence[str], engine: str, records: Path, work: Path) -> None:
        self.train = train
        self.engine = engine
        self.records = records
        self.work = work
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()
        self._starting = threading.Lock()  # held while a process starts, or a stop would miss it

    def record(self, run: Run) -> dict[str, Any] | None:
        """Return the record of a complete run, None if it is not complete.

        Raises:
            ConfigError: the record has other settings, or cannot be read.
        """
        path = self._path(run)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a record of a run: {error}") from None
        difference = _first_difference(record, self._identity(run))
        if difference:
            raise ConfigError(
                f"{path}: this run had another {difference}; remove the record to run it again, "
                "or keep other runs in another folder"
            )
        return record

    def detections(self, run: Run) -> list[dict[str, Any]]:
        """Return the detections of a complete run in COCO's results format."""
        with gzip.open(self._detections_path(run), "rt", encoding="utf-8") as file:
            return json.load(file)

    def complete(
        self, runs: Sequence[Run], *, jobs: int, report: Callable[[str], None]
    ) -> list[Run]:
        """Make the missing runs in order, `jobs` at a time.

        A failed run does not stop the others.

        Returns:
            The runs that failed.

        Raises:
            ConfigError: another process makes runs in this folder, or an unfinished run there has
                other settings.
            Interrupted: SIGINT, SIGTERM or SIGHUP. The running trainings were told to write a
                checkpoint and have ended; they continue the next time.
        """
        missing = [run for run in runs if self.record(run) is None]
        for run in missing:
            self._check_unfinished(run)
        report(f"{len(runs) - len(missing)} of {len(runs)} runs are complete")
        failed: list[Run] = []

        def make(run: Run) -> None:
            if self._stopped.is_set():
                return
            report(f"{run.name}: starts")
            record = self._make(run, jobs)
            if record is not None:
                score = record["metrics"]["AP"]  # None if nothing is annotated
                score = "none" if score is None else f"{score:.2f}"
                report(f"{run.name}: AP {score} after {record['seconds']:.0f} s")
            elif not self._stopped.is_set():
                failed.append(run)
                report(f"{run.name}: failed, see {self.work / run.name / 'output.txt'}")

        with _alone_in(self.work), handling(raise_interrupted), ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(make, run) for run in missing]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                with self._starting:
                    self._stopped.set()
                    for process in self._processes:
                        process.terminate()
                raise
        return failed

    def _check_unfinished(self, run: Run) -> None:
        """Refuse to continue a checkpoint that has other settings."""
        path = self._begun_path(run)
        try:
            difference = _first_difference(json.loads(path.read_bytes()), self._identity(run))
        except FileNotFoundError:
            return
        except ValueError as error:
            raise ConfigError(f"{path}: not the settings of a run: {error}") from None
        if difference:
            raise ConfigError(
                f"{path.parent}: an unfinished run with another {difference}; remove the folder, "
                "or choose another with --work"
            )

    def _make(self, run: Run, jobs: int) -> dict[str, Any] | None:
        """Train, evaluate and record; return None if the process failed or evaluated nothing."""
        output = self.work / run.name
        output.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._begun_path(run), "w") as file:
            file.write(json.dumps(self._identity(run), indent=1) + "\n")
        environment = {**os.environ, **run.environment}
        # processes that each use all cores would wait for each other
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        command = [sys.executable, *self.train, "--config-file", str(run.config_file)]
        command += ["--engine", self.engine, "--resume", *run.arguments]
        command += [*run.overrides, "OUTPUT_DIR", str(output)]
        resumed = any(output.glob("**/*.ckpt")) or (output / "last_checkpoint").exists()
        start = time.monotonic()
        with open(output / "output.txt", "a", encoding="utf-8") as file:
            with self._starting:
                if self._stopped.is_set():
                    return None
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    # otherwise Ctrl-C would reach it before the SIGTERM, and a second signal ends a
                    # training without a checkpoint
                    start_new_session=True,
                )
                self._processes.add(process)
            status = process.wait()
            with self._starting:
                self._processes.discard(process)
        metrics = {} if status else _last_metrics(output / "metrics.json")
        if not metrics:
            return None
        record = {
            **self._identity(run),
            "metrics": metrics,
            "device": _device(output / "config.yaml"),
            "threads": int(environment["OMP_NUM_THREADS"]),
            # time of the process that finished the run
            "seconds": round(time.monotonic() - start, 1),
            "resumed": resumed,
            "versions": _versions(),
            "commit": _commit(),
        }
        found = json.loads((output / "inference" / "coco_instances_results.json").read_bytes())
        self._path(run).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._detections_path(run)) as file:
            # without a time stamp, so that equal detections give equal files
            file.write(gzip.compress(json.dumps(_rounded(found)).encode(), mtime=0))
        # written last: its existence marks the run as complete
        with atomic_write(self._path(run), "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")
        return record

    def _identity(self, run: Run) -> dict[str, Any]:
        settings = read_settings(str(run.config_file), run.overrides)
        settings = {key: value for key, value in settings.items() if key not in ELSEWHERE}
        identity = {**run.labels, "engine": self.engine, "settings": settings}
        return json.loads(json.dumps(identity))  # turns tuples into lists, as in the record

    def _path(self, run: Run) -> Path:
        return self.records / f"{run.name}.json"

    def _begun_path(self, run: Run) -> Path:
        return self.work / run.name / "run.json"

    def _detections_path(self, run: Run) -> Path:
        return self.records / f"{run.name}.detections.json.gz"


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock the folder: two processes would overwrite each other's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:  # released however the process ends
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another command makes its runs there; wait for it, or choose another "
                "folder with --work"
            ) from None
        yield


def _first_difference(found: Any, identity: dict[str, Any]) -> str | None:
    """Describe the first part of a run's identity that differs in `found`."""
    for part, wanted in identity.items():
        part_found = found.get(part) if isinstance(found, dict) else None
        if part_found != wanted:
            return _difference(part, part_found, wanted)
    return None


def _difference(part: str, found: Any, wanted: Any) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        part = next(key for key in keys if found.get(key) != wanted.get(key))
        found, wanted = found.get(part), wanted.get(part)
    return f"{part}, {json.dumps(found)} and not {json.dumps(wanted)}"


def _last_metrics(path: Path) -> dict[str, float | None]:
    """Return the last evaluation's metrics, None for one without annotations."""
    metrics: dict[str, float | None] = {}
    if not path.exists():
        return metrics
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "bbox/AP" in row:
            metrics = {key[5:]: value for key, value in row.items() if key.startswith("bbox/")}
    return {
        key: value if value is None or math.isnan(value) else round(value, 4)
        for key, value in metrics.items()
    }


def _device(config: Path) -> str:
    device = yaml.safe_load(config.read_text(encoding="utf-8"))["MODEL"]["DEVICE"]
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _commit() -> str | None:
    """Return the commit of this package's repository; None if installed, or without git."""
    this = Path(__file__)
    git = ["git", "-C", str(this.parent)]
    commit = None
    # an environment may lie in an unrelated repository
    for words in (["ls-files", "--error-unmatch", this.name], ["rev-parse", "HEAD"]):
        try:
            done = subprocess.run([*git, *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        commit = done.stdout.strip()
    return commit


def _rounded(detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Round to 0.01 pixels and 0.00001 of a score, which halves the size."""
    return [
        {
            **each,
            "bbox": [round(number, 2) for number in each["bbox"]],
            "score": round(each["score"], 5),
        }
        for each in detections
    ]
