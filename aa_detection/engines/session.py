"""Check a run before its first step, and set up each of its processes.

Both engines use :func:`preflight`, which does all checks and writes nothing, and then
:func:`session`, in which every process trains or evaluates.
"""

import contextlib
import glob
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode
from iopath.common.file_io import PathManager
from torch import nn

from ..atomic_file import remove_unfinished
from ..checkpoints import (
    About,
    Checkpoint,
    load_checkpoint,
    package_versions,
    read_checkpoint,
    read_configured,
)
from ..checkpoints.about import sha256
from ..checkpoints.loading import fit_checkpoint
from ..checkpoints.paths import PATHS
from ..config import (
    ConfigError,
    check_batch,
    check_best_metric,
    check_evaluation,
    check_shares,
    check_training,
    default_to_final_weights,
    number_of_classes,
)
from ..data import CocoDataset, DatasetReport, check_datasets, require_usable
from ..overwriting import refuse_overwriting
from ..training.failures import RunError, is_out_of_memory, one_line_endings
from ..training.files import alone_in, check_output_dir, check_unfinished
from ..training.interrupt import StopSignals
from .options import RunOptions
from .processes import Processes, is_first_process

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Result of :func:`preflight`: the checked inputs that each process of the run needs.

    Attributes:
        train, test: the datasets in COCO's format.
        summaries: one line per dataset about its contents.
        findings: warnings of the dataset checks.
        checkpoint: the run's own, to resume or to evaluate; None for a new run.
        weights: the checkpoint of ``MODEL.WEIGHTS``; None with a `checkpoint`, or if
            ``MODEL.WEIGHTS`` is empty.
        categories: names by category id of the training data; empty if it is not COCO's.
        fingerprints: the sha256 of each training dataset's annotation file, by dataset name.
        last_checkpoint: the engine's function that finds the newest complete checkpoint in an
            ``OUTPUT_DIR``.
    """

    cfg: CfgNode
    options: RunOptions
    processes: Processes
    train: Sequence[CocoDataset]
    test: Sequence[CocoDataset]
    summaries: Sequence[str]
    findings: Sequence[str]
    checkpoint: str | None
    weights: Checkpoint | None
    categories: Mapping[int, str]
    fingerprints: Mapping[str, str]
    last_checkpoint: Callable[[str], str | None]

    def resumable(self) -> str | None:
        """Return the checkpoint from which the training would resume if it ended now."""
        return None if self.options.eval_only else self.last_checkpoint(self.cfg.OUTPUT_DIR)

    def about(self, engine: str) -> About:
        """Return the metadata for the run's checkpoints; `engine` is its name and version."""
        datasets = [{"name": name, "sha256": each} for name, each in self.fingerprints.items()]
        config = self.cfg.dump()
        return About(config, self.categories, datasets, engine, package_versions())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Reserve ``OUTPUT_DIR`` for this run inside ``with``; for the process that starts the run.

        Raises:
            ConfigError: another run is using it, or it holds a finished run of another
                configuration.
        """
        if not self.processes.is_first:
            yield
            return
        with alone_in(self.cfg.OUTPUT_DIR):
            if not (self.options.resume or self.options.eval_only):
                check_unfinished(self.cfg)
            yield

    def load_weights(self, model: nn.Module) -> None:
        """Load ``MODEL.WEIGHTS``, if set, and log the result."""
        if self.weights is None:
            return
        report = load_checkpoint(model, self.weights, allow_partial=self.options.allow_partial)
        for line in report.lines():
            _log.info("%s", line)


def preflight(
    cfg: CfgNode,
    options: RunOptions,
    processes: Processes,
    *,
    last_checkpoint: Callable[[str], str | None],
    find_dataset: Callable[[str], CocoDataset | None],
    build_model: Callable[[CfgNode], nn.Module],
    try_state: Callable[[CfgNode, nn.Module, dict[str, Any]], None],
    paths: PathManager = PATHS,
) -> Plan:
    """Check a run's config, weights and data; writes nothing.

    Args:
        last_checkpoint: see :class:`Plan`.
        find_dataset: returns the named dataset, or None if it is not in COCO's format.
        build_model: the engine's; builds a model for trying the weights.
        try_state: the engine's; loads what a checkpoint of its own holds beside the weights into a
            new optimizer. Raises LookupError or TypeError if the contents are of another kind, and
            ValueError if they are another optimizer's.
        paths: passed to :func:`aa_detection.checkpoints.read_checkpoint`.

    Raises:
        ConfigError, DatasetError: see :meth:`aa_detection.engines.Engine.run`.
        RunError: there is not enough memory for the network.
    """
    checkpoint = last_checkpoint(cfg.OUTPUT_DIR) if options.resume else None
    if options.eval_only:
        check_evaluation(cfg)
        if checkpoint is None:
            default_to_final_weights(cfg)
    else:
        check_training(cfg)
        check_shares(cfg, processes.total)
        check_batch(cfg, processes.total)
    on_cpu = cfg.clone()
    on_cpu.defrost()
    on_cpu.MODEL.DEVICE = "cpu"
    # otherwise a value that builds no model would be found only after the first file is written
    model = _build(on_cpu, build_model)
    weights = None
    if checkpoint is not None:
        _check_checkpoint(checkpoint, model, None if options.eval_only else cfg, try_state, paths)
    elif cfg.MODEL.WEIGHTS:
        weights = read_configured(
            cfg,
            model,
            allow_pickle=options.allow_pickle,
            allow_partial=options.allow_partial,
            to_use=options.eval_only,
            paths=paths,
        )
    train, test = (
        [dataset for dataset in map(find_dataset, names) if dataset is not None]
        for names in (() if options.eval_only else cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    )
    _keep_inputs(cfg, train, test, None if options.eval_only else weights)
    reports = check_datasets(
        train,
        test,
        num_classes=number_of_classes(cfg),
        masks=cfg.MODEL.MASK_ON,
        images="headers" if options.open_images else "names",
    )
    require_usable(reports)
    if not options.eval_only:
        classes = {each.dataset.name: list(_categories(each).values()) for each in reports}
        check_best_metric(cfg, {name: classes.get(name, []) for name in cfg.DATASETS.TEST})
    return Plan(
        cfg,
        options,
        processes,
        train,
        test,
        [f"{report.dataset.name}: {report.summary}" for report in reports],
        [str(finding) for report in reports for finding in report.warnings],
        checkpoint,
        weights,
        _categories(reports[0]) if train else {},
        {dataset.name: sha256(dataset.annotation_file) for dataset in train},
        last_checkpoint,
    )


def _build(cfg: CfgNode, build_model: Callable[[CfgNode], nn.Module]) -> nn.Module:
    try:
        return build_model(cfg)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        resnets = cfg.MODEL.RESNETS
        raise RunError(
            "out of memory for the network alone: lower MODEL.FPN.OUT_CHANNELS "
            f"({cfg.MODEL.FPN.OUT_CHANNELS}) or MODEL.RESNETS.WIDTH_PER_GROUP "
            f"({resnets.WIDTH_PER_GROUP})"
        ) from None


def _categories(report: DatasetReport) -> dict[int, str]:
    summary = report.summary
    return dict(zip(summary.category_ids, summary.category_names)) if summary else {}


def _check_checkpoint(
    path: str,
    model: nn.Module,
    cfg: CfgNode | None,
    try_state: Callable[[CfgNode, nn.Module, dict[str, Any]], None],
    paths: PathManager,
) -> None:
    """Check that a run can continue from its own checkpoint.

    Args:
        cfg: the config to train with; None to evaluate, which needs only the weights.

    Raises:
        ConfigError: it cannot be read, or comes from another configuration, engine or program.
    """
    anew = "without --resume training starts anew"
    try:
        checkpoint = read_checkpoint(path, paths=paths)
        _, report = fit_checkpoint(model, checkpoint, allow_partial=True)
    except ConfigError as error:
        raise ConfigError(f"--resume: {error}; {anew}") from None
    different = [*report.misfits, *report.fresh, *report.unused, *report.sliced, *report.reindexed]
    if different:
        name = different[0]
        how = "is in one of the two alone"
        if name in report.misfits:
            theirs, ours = map(tuple, report.misfits[name])
            how = f"is {theirs} there and {ours} here"
        elif name in report.sliced or name in report.reindexed:
            how = "has another size"
        raise ConfigError(f"--resume: {path} is of another configuration: {name} {how}; {anew}")
    if cfg is None:
        return
    try:
        try_state(cfg, model, checkpoint.rest)
    except (LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"--resume: {path} is no checkpoint that a training of this engine wrote ({error}); "
            f"{anew}, from its weights with MODEL.WEIGHTS"
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"--resume: {path} is of another configuration of SOLVER or MODEL: {error}; {anew}"
        ) from None


def _keep_inputs(
    cfg: CfgNode,
    train: Sequence[CocoDataset],
    test: Sequence[CocoDataset],
    weights: Checkpoint | None,
) -> None:
    """Refuse to overwrite a run's own annotations and weights with its output files.

    The image folder may contain ``OUTPUT_DIR``, as with ``--train-images .``: none of a run's files
    is an image.
    """
    names = ["config.yaml", "log.txt", "metrics.json", "last_checkpoint", "model_final.pth"]
    names += ["model_best.pth", "metrics.csv", "loggers.json"]
    writes = [os.path.join(cfg.OUTPUT_DIR, name) for name in (*names, "checkpoints", "inference")]
    writes += glob.glob(os.path.join(glob.escape(cfg.OUTPUT_DIR), "model_*.pth"))
    reads = [
        (f"the annotations of {dataset.name}", dataset.annotation_file)
        for dataset in (*train, *test)
    ]
    refuse_overwriting(
        [*reads, ("MODEL.WEIGHTS", weights.path if weights else None)],
        [("OUTPUT_DIR", path) for path in writes],
    )


@contextlib.contextmanager
def session(plan: Plan, engine: str, start_log: Callable[[str], None]) -> Iterator[StopSignals]:
    """Set up one process of a run: signal handling, one-line errors, ``OUTPUT_DIR`` and the log.

    Args:
        engine: name and version, for the log's first line.
        start_log: the engine's function that sends this project's log to the terminal and
            ``OUTPUT_DIR``.

    Raises:
        ConfigError: ``OUTPUT_DIR`` cannot be written to.
        RunError, Interrupted: see :func:`aa_detection.training.failures.one_line_endings`.
    """
    cfg, options = plan.cfg, plan.options
    stop = StopSignals()
    with stop, one_line_endings(stop, plan.resumable, _what_takes_memory(cfg, options)):
        check_output_dir(cfg.OUTPUT_DIR)
        if is_first_process():
            remove_unfinished(cfg.OUTPUT_DIR)
        start_log(cfg.OUTPUT_DIR)
        _log.info("engine: %s on %s", engine, cfg.MODEL.DEVICE)
        for summary in plan.summaries:
            _log.info("%s", summary)
        for finding in plan.findings:
            _log.warning("%s", finding)
        if options.resume and plan.checkpoint is None and not options.eval_only:
            _log.info("--resume: no checkpoint in %s, training starts", cfg.OUTPUT_DIR)
        yield stop


def _what_takes_memory(cfg: CfgNode, options: RunOptions) -> str:
    """Name the keys that lower memory use."""
    if options.eval_only:
        keys = ("MIN_SIZE_TEST", "MAX_SIZE_TEST")
        sizes = " or ".join(f"INPUT.{key} ({cfg.INPUT[key]})" for key in keys)
        return f"evaluation takes images one by one: lower {sizes}"
    size = f"INPUT.MIN_SIZE_TRAIN ({cfg.INPUT.MIN_SIZE_TRAIN})"
    if cfg.INPUT.SCALE_JITTER.ENABLED:
        size = f"INPUT.SCALE_JITTER.SIZE ({cfg.INPUT.SCALE_JITTER.SIZE})"
    steps = cfg.SOLVER.GRAD_ACCUM_STEPS
    return (
        f"lower SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}) or {size}, or raise "
        f"SOLVER.GRAD_ACCUM_STEPS ({steps})"
    )
