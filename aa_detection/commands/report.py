"""Write an HTML page about one training run, or comparing several.

Reads a run's OUTPUT_DIR: the configuration, the losses, the detections on the test dataset and, for
networks with attention, the weights.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from ..atomic_file import atomic_write
from ..config import ConfigError, coco_files
from ..data import CocoDataset, DatasetError, get_coco_dataset, register_coco_dataset
from ..engines.detector import Detector
from ..overwriting import refuse_overwriting
from ..reports.runs import TrainedRun, read_run
from .arguments import ENGINE_OPTION, SCORE_OPTION, command_parser, path_word
from .ending import run_command


def parse_args(argv: list[str] | None, prog: str) -> argparse.Namespace:
    parser = command_parser(__doc__, "report.py", prog)
    parser.add_argument(
        "runs",
        nargs="+",
        type=path_word,
        metavar="OUTPUT_DIR",
        help="output folders of runs; the first is the baseline",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="HTML file to write (default: report.html in the first OUTPUT_DIR)",
    )
    parser.add_argument(
        "--val-json",
        metavar="FILE",
        help="annotations in COCO format, instead of the config's test dataset",
    )
    parser.add_argument("--val-images", metavar="FOLDER", help="image folder of --val-json")
    parser.add_argument(
        "--score-threshold",
        **SCORE_OPTION,
        help="lowest score of the detections shown, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument("--engine", **ENGINE_OPTION)
    parser.add_argument(
        "--no-attention",
        action="store_true",
        help="skip the attention maps, which load the weights and take seconds",
    )
    args = parser.parse_args(argv)
    if bool(args.val_json) != bool(args.val_images):
        parser.error("--val-json and --val-images go together")
    return args


def write_report(args: argparse.Namespace) -> None:
    try:
        from ..reports.page import report_page
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the report needs {error.name}: pip install 'aa_detection[plots]'"
        ) from None
    runs = name_apart([read_run(folder) for folder in args.runs])
    dataset = _dataset(args, runs)
    path = Path(args.output) if args.output else runs[0].folder / "report.html"
    kept = ("config.yaml", "metrics.json", "log.txt", "model_final.pth", "checkpoints", "inference")
    refuse_overwriting(
        [
            *(("the run's file", run.folder / name) for run in runs for name in kept),
            (f"the annotations of {dataset.name}", dataset.annotation_file),
            (f"the images of {dataset.name}", dataset.image_root),
        ],
        [("--output", path)],
    )
    detectors = {}
    if not args.no_attention:
        for run in runs:
            if run.augmented:
                detectors[run.name] = Detector.load(run.folder, engine=args.engine)
    page = report_page(runs, dataset, detectors=detectors, score_threshold=args.score_threshold)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as file:
        file.write(page)
    print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def name_apart(runs: Sequence[TrainedRun]) -> list[TrainedRun]:
    """Extend the runs' names by as much of their folders as makes them distinct.

    Raises:
        ConfigError: a folder is given twice.
    """
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders):
        if folders.count(folder) > 1:
            raise ConfigError(f"{run.folder} is given twice; expected runs of their own")
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            break
    return [replace(run, name=name) for run, name in zip(runs, names)]


def _dataset(args: argparse.Namespace, runs: Sequence[TrainedRun]) -> CocoDataset:
    if args.val_json:
        return CocoDataset(Path(args.val_json).name, Path(args.val_json), Path(args.val_images))
    for run in runs[1:]:
        if run.dataset != runs[0].dataset:
            raise ConfigError(
                f"{run.folder} was evaluated on {run.dataset}, and {runs[0].folder} on "
                f"{runs[0].dataset}: expected runs on one dataset"
            )
    for name, annotation_file, image_root in coco_files(CfgNode(runs[0].config)):
        register_coco_dataset(name, annotation_file, image_root)
    try:
        return get_coco_dataset(runs[0].dataset)
    except DatasetError as error:
        raise ConfigError(f"{error}; name its files with --val-json and --val-images") from None


def main(argv: list[str] | None = None, prog: str = "report.py") -> int:
    """Run the command line; the exit status is :func:`run_command`'s."""
    args = parse_args(argv, prog)
    return run_command(prog, write_report, args, interrupted="interrupted; nothing was written")
