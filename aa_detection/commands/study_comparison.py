"""Test the comparison's intervals on simulated detectors.

    study_comparison.py images     equal detectors, one run of each: how often is none shown better?
    study_comparison.py training   the same with training noise, by the number of runs
    study_comparison.py strong     the same with more noise from training than from images
    study_comparison.py power      a difference of one AP on 5,000 images: how often is it shown?
    study_comparison.py speed      500 to 50,000 images, 80 classes, 100 detections an image

Each writes its rows into ``study.json`` and ``study.txt`` in ``--output``; images and power add
simulations to the existing ones. Shares come with their own 95 % intervals (Clopper and Pearson),
from the number of simulations.
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from scipy.stats import binomtest

from ..comparison import compare
from ..comparison.intervals import interval
from ..comparison.matching import match
from ..comparison.resampling import draw_resamples, resampled_metrics
from ..comparison.results import read_results
from ..data import index_annotations
from ..studies.simulation import simulate_annotations, simulate_detections
from .arguments import command_parser

SMALL = {"images": 100, "classes": 2, "per_image": 10, "resamples": 200}
LARGE = {"images": 5000, "classes": 20, "per_image": 20, "resamples": 200}
ONE_AP = 0.043  # skill that gives one AP on LARGE
TRAINING_NOISE, STRONG_NOISE = 0.03, 0.15  # standard deviation of skill from run to run
RUNS = (1, 2, 3, 5)
SPEED_IMAGES, SPEED_CLASSES, SPEED_RESAMPLES = (500, 5000, 50_000), 80, 1000

Bounds = tuple[float, float]
Row = dict[str, Any]


def simulate_ap(
    simulation: int,
    runs: int,
    *,
    images: int,
    classes: int,
    per_image: int,
    resamples: int,
    planted: float = 0.0,
    training_noise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return AP of two arms, (runs, 1 + resamples) each, on newly simulated annotations.

    Args:
        planted: skill advantage of the first arm over the second.
        training_noise: standard deviation of the skill from run to run.
    """
    rng = np.random.default_rng((2, simulation))
    annotations = simulate_annotations(images, classes, simulation)
    coco = index_annotations(annotations)
    weights = draw_resamples(images, resamples, rng)
    arms = []
    for arm, skill in enumerate((planted, 0.0)):
        detections = [
            simulate_detections(
                annotations,
                1000 * simulation + 100 * arm + run,
                skill=skill + training_noise * rng.normal(),
                per_image=per_image,
            )
            for run in range(runs)
        ]
        matches = [match(coco, read_results(coco, run)) for run in detections]
        arms.append(np.stack([resampled_metrics(each, weights)[:, 0] for each in matches]))
    return arms[0], arms[1]


def ours(a: np.ndarray, b: np.ndarray) -> Bounds:
    result = interval(a, b)
    return result.low, result.high


def images_alone(a: np.ndarray, b: np.ndarray) -> Bounds:
    """Return the interval that ignores training: as if every run were the only possible one."""
    drawn = a[:, 1:].mean(axis=0) - b[:, 1:].mean(axis=0)
    return tuple(np.quantile(drawn, (0.025, 0.975)))


def hierarchical(a: np.ndarray, b: np.ndarray) -> Bounds:
    """Return percentiles of the differences when runs are resampled too, with replacement."""
    rng = np.random.default_rng(0)
    resamples = a.shape[1] - 1
    at = np.arange(1, resamples + 1)
    means = [arm[rng.integers(len(arm), size=(len(arm), resamples)), at].mean(0) for arm in (a, b)]
    return tuple(np.quantile(means[0] - means[1], (0.025, 0.975)))


def share(truths: list[bool]) -> Row:
    """Return the share of true simulations with its Clopper-Pearson interval."""
    test = binomtest(sum(truths), len(truths)).proportion_ci(0.95)
    return {
        "simulations": len(truths),
        "share": sum(truths) / len(truths),
        "low": test.low,
        "high": test.high,
    }


def no_difference(
    arms: list[tuple[np.ndarray, np.ndarray]], runs: int, method: Callable[..., Bounds]
) -> Row:
    """Return how often the interval of each arm's first `runs` holds zero, and its median width."""
    bounds = [method(a[:runs], b[:runs]) for a, b in arms]
    return {
        **share([low <= 0 <= high for low, high in bounds]),
        "width": float(np.median([high - low for low, high in bounds])),
    }


def study_images(simulations: int, earlier: list[Row]) -> Iterator[Row]:
    """Yield one row per simulation, after those of earlier calls."""
    yield from earlier
    for number in range(len(earlier), len(earlier) + simulations):
        result = interval(*simulate_ap(number, 1, **SMALL))
        yield {"low": result.low, "high": result.high}


def study_training(simulations: int, earlier: list[Row], noise: float) -> Iterator[Row]:
    arms = [
        simulate_ap(10_000 + number, max(RUNS), training_noise=noise, **SMALL)
        for number in range(simulations)
    ]
    spread = np.sqrt(np.mean([arm[:, 0].var(ddof=1) for pair in arms for arm in pair]))
    print(f"standard deviation of AP from run to run: {spread:.2f}")
    for runs in RUNS:
        methods = {"ours": ours, "images alone": images_alone, "hierarchical": hierarchical}
        for name, method in methods.items() if runs > 1 else [("images alone", ours)]:
            row = {"runs": runs, "method": name, "spread": float(spread)}
            yield row | no_difference(arms, runs, method)


def study_power(simulations: int, earlier: list[Row]) -> Iterator[Row]:
    """Yield one row per simulation, after those of earlier calls."""
    yield from earlier
    for number in range(len(earlier), len(earlier) + simulations):
        a, b = simulate_ap(20_000 + number, 1, planted=ONE_AP, **LARGE)
        result = interval(a, b)
        yield {
            "difference": float(a[0, 0] - b[0, 0]),
            "low": result.low,
            "high": result.high,
            "detectable": result.detectable,
        }


def study_speed(simulations: int, earlier: list[Row]) -> Iterator[Row]:
    """Yield a row per size, each measured in its own process; `simulations` of each."""
    for images in SPEED_IMAGES:
        for _ in range(simulations):
            with tempfile.TemporaryDirectory() as folder:
                _in_a_process(_write_case, folder, images)
                yield _in_a_process(_measure_case, folder, images)


def _in_a_process(function: Callable[[str, int], Any], folder: str, images: int) -> Any:
    # in the same process, earlier memory and caches would count
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, folder, images).result()


def _write_case(folder: str, images: int) -> None:
    annotations = simulate_annotations(images, SPEED_CLASSES, seed=0)
    (Path(folder) / "val.json").write_bytes(orjson.dumps(annotations))
    for name, seed in (("a.json", 1), ("b.json", 2)):
        detections = simulate_detections(annotations, seed)
        (Path(folder) / name).write_bytes(orjson.dumps(detections))


def _measure_case(folder: str, images: int) -> Row:
    start, cpu = time.perf_counter(), time.process_time()
    paths = [Path(folder) / name for name in ("val.json", "a.json", "b.json")]
    compare(paths[0], [paths[1]], [paths[2]], resamples=SPEED_RESAMPLES)
    return {
        "images": images,
        "classes": SPEED_CLASSES,
        "detections": 100 * images,
        "resamples": SPEED_RESAMPLES,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


STUDIES: dict[str, tuple[Callable[[int, list[Row]], Iterator[Row]], int]] = {
    "images": (study_images, 200),
    "training": (partial(study_training, noise=TRAINING_NOISE), 100),
    "strong": (partial(study_training, noise=STRONG_NOISE), 100),
    "power": (study_power, 4),
    "speed": (study_speed, 1),
}


def page(studies: dict[str, list[Row]]) -> str:
    """Format the rows as text."""
    lines = []
    shape = "{images} images, {classes} classes, {per_image} detections an image"
    if "images" in studies:
        none = [row["low"] <= 0 <= row["high"] for row in studies["images"]]
        lines += [
            "Equal detectors, one run of each, no noise of training but what a seed does to single",
            f"objects; {shape.format(**SMALL)}:",
            f"  no difference shown in {_share(share(none))}",
            "",
        ]
    for rows in (studies[name] for name in ("training", "strong") if name in studies):
        lines += [
            "Equal methods whose runs differ by the seed, with a standard deviation of "
            f"{rows[0]['spread']:.2f} AP;",
            f"{shape.format(**SMALL)}:",
            *(
                f"  {row['runs']} run{' s'[row['runs'] > 1]} an arm, {row['method']:13} "
                f"no difference shown in {_share(row)}, median width {row['width']:5.2f} AP"
                for row in rows
            ),
            "",
        ]
    if "power" in studies:
        rows = studies["power"]
        difference, detectable = (
            np.mean([row[key] for row in rows]) for key in ("difference", "detectable")
        )
        lines += [
            f"A planted difference of {difference:.2f} AP (mean of the simulations), one run each;",
            f"{shape.format(**LARGE)}:",
            f"  shown in {_share(share([row['low'] > 0 for row in rows]))};",
            "  the comparisons themselves put what they would show four times in five at "
            f"{detectable:.2f} AP (mean)",
            "",
        ]
    if "speed" in studies:
        lines += [
            "{images:6,} images, {classes} classes, about {detections:9,} detections a side, "
            "{resamples:,} resamples: {cpu_seconds:5.0f} s of one core, {peak_gb:4.1f} GB".format(
                **row
            )
            for row in studies["speed"]
        ]
    return "\n".join(lines)


def write(studies: dict[str, list[Row]], path: Path) -> None:
    """Write the rows, and their text page beside them."""
    for content, file in (
        (json.dumps(studies, indent=1) + "\n", path),
        (page(studies), path.with_suffix(".txt")),
    ):
        unfinished = file.with_name(f".{file.name}")
        unfinished.write_text(content)
        unfinished.replace(file)


def _share(row: Row) -> str:
    return (
        f"{100 * row['share']:5.1f} % of {row['simulations']} simulations "
        f"({100 * row['low']:.1f}..{100 * row['high']:.1f})"
    )


def main(argv: list[str] | None = None, prog: str = "study_comparison.py") -> int:
    parser = command_parser(__doc__, "study_comparison.py", prog)
    parser.add_argument("study", choices=STUDIES, help="study to run, described above")
    parser.add_argument(
        "--simulations",
        type=int,
        metavar="N",
        help="number of simulations (default: depends on the study)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/comparison"),
        metavar="DIR",
        help="output folder (default: docs/comparison)",
    )
    args = parser.parse_args(argv)
    study, simulations = STUDIES[args.study]
    if args.simulations is not None and args.simulations < 1:
        parser.error("expected --simulations of at least 1")
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "study.json"
    studies = json.loads(path.read_text()) if path.exists() else {}
    earlier = studies.get(args.study, [])
    studies[args.study] = []
    for row in study(args.simulations or simulations, earlier):
        studies[args.study].append(row)
        if len(studies[args.study]) > len(earlier):  # an interrupted run keeps them
            write(studies, path)
    write(studies, path)
    print(page(studies))
    return 0
