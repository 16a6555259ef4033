"""Accidents at random moments of training, checkpoint writing and evaluation; then ``--resume``.

Minutes long: ``pytest -m slow -s tests/engines/test_kills.py`` prints the rows of the table in
docs/accidents.md. A run is a process group of its own, its data worker included.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from aa_detection.atomic_file import UNFINISHED

ROOT = Path(__file__).resolve().parents[2]
MAX_ITER, PERIOD, EVAL_PERIOD = 24, 3, 8
KEYS = {
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "TEST.DETECTIONS_PER_IMAGE": 20,
    "TEST.EVAL_PERIOD": EVAL_PERIOD,
    "INPUT.MIN_SIZE_TRAIN": "(64,80)",
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 128,
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": MAX_ITER,
    "SOLVER.STEPS": "(16,)",
    "SOLVER.WARMUP_ITERS": 4,
    "SOLVER.CHECKPOINT_PERIOD": PERIOD,
}
ACCIDENTS = (
    "kill -9 in training",
    "kill -9 in a checkpoint",
    "kill -9 in evaluation",
    "SIGHUP",
    "kill -9 of the data worker",
    "two starts at once, kill -9",
)
COUNTS = {"torchvision": 18, "detectron2": 12}
CASES = [(engine, number) for engine, count in COUNTS.items() for number in range(count)]
TIMINGS = {"time", "data_time", "rank_data_time", "eta_seconds"}


class Run:
    """Runs of tools/train_net.py into one folder."""

    def __init__(self, engine: str, output: Path) -> None:
        self.engine, self.output = engine, output
        self.process: subprocess.Popen | None = None

    def start(self, *options: str, **keys) -> None:
        """Keys override KEYS, written with ``__`` for a dot."""
        changes = {key.replace("__", "."): value for key, value in keys.items()}
        words = [str(word) for pair in {**KEYS, **changes}.items() for word in pair]
        config = ROOT / "configs/sample/aa_retinanet_R18.yaml"
        command = [sys.executable, ROOT / "tools/train_net.py", "--config-file", config]
        command += ["--engine", self.engine, *options, "OUTPUT_DIR", self.output, *words]
        with open(f"{self.output}.out", "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(os.environ, PYTHONPATH=str(ROOT)),
            )

    def finish(self) -> None:
        said = Path(f"{self.output}.out")
        assert self.process.wait(timeout=120) == 0, said.read_text()[-3000:]

    def kill(self) -> bool:
        """Kill -9 the process and its worker; whether it was still running."""
        running = self.process.poll() is None
        if running:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return running

    def worker(self) -> int:
        """Process id of the data worker, a fork of the run; 0 if there is none."""
        own = Path(f"/proc/{self.process.pid}")
        try:
            children = (own / f"task/{own.name}/children").read_text().split()
            command = (own / "cmdline").read_bytes()
            forks = [p for p in children if Path(f"/proc/{p}/cmdline").read_bytes() == command]
            return int(forks[0]) if forks else 0
        except OSError:  # one of them has just ended
            return 0

    def wait_until(self, happened) -> None:
        while self.process.poll() is None and not happened():
            time.sleep(0.001)

    def unfinished(self) -> list[Path]:
        return list(self.output.rglob(f"*{UNFINISHED}"))

    def iterations(self) -> int:
        """Behind the newest complete checkpoint; 0 where there is none."""
        if self.engine == "torchvision":
            names = [path.stem for path in self.output.glob("checkpoints/*.ckpt")]
            return max((int(name[-7:]) for name in names), default=0)
        try:
            name = (self.output / "last_checkpoint").read_text().removesuffix(".pth")
        except FileNotFoundError:
            return 0
        return MAX_ITER if name == "model_final" else int(name[-7:]) + 1

    def evaluations(self) -> int:
        """That were begun."""
        if self.engine == "torchvision":  # a checkpoint precedes each
            return self.iterations() // EVAL_PERIOD
        log = self.output / "log.txt"
        return log.read_text().count("Start inference") if log.exists() else 0

    def result(self):
        """Metrics, detections and weights that must not depend on what happened."""
        lines = [json.loads(line) for line in (self.output / "metrics.json").open()]
        metrics = [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]
        if self.engine == "detectron2":  # its losses are running medians
            metrics = [
                {k: v for k, v in line.items() if k == "iteration" or k.startswith("bbox/")}
                for line in metrics
                if "bbox/AP" in line
            ]
        detections = (self.output / "inference/coco_instances_results.json").read_bytes()
        weights = torch.load(self.output / "model_final.pth", weights_only=True)["model"]
        tensors = hashlib.sha256()
        for name in sorted(weights):
            tensors.update(weights[name].numpy().tobytes())
        return metrics, hashlib.sha256(detections).hexdigest(), tensors.hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    results = {}

    def _uninterrupted(engine):
        if engine not in results:
            if engine == "detectron2":
                pytest.importorskip("detectron2", reason="detectron2 is not installed")
            run = Run(engine, tmp_path_factory.mktemp(engine) / "run")
            run.start()
            run.finish()
            results[engine] = run.result()
        return results[engine]

    return _uninterrupted


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.slow
@pytest.mark.parametrize(("engine", "number"), CASES)
def test_a_run_resumed_after_an_accident_ends_as_if_nothing_had_happened(
    engine, number, uninterrupted, tmp_path, request
):
    expected = uninterrupted(engine)
    draw = random.Random(f"{engine} {number}")
    accident = ACCIDENTS[number % len(ACCIDENTS)]
    run = Run(engine, tmp_path / "run")
    request.addfinalizer(run.kill)
    run.start()
    if accident.startswith("two starts"):
        rival = Run(engine, run.output)
        request.addfinalizer(rival.kill)
        rival.start()
        while run.process.poll() is None and rival.process.poll() is None:
            time.sleep(0.01)
        refused, run = (run, rival) if run.process.poll() is not None else (rival, run)
        assert refused.process.returncode == 2
        assert f"process {run.process.pid}" in Path(f"{run.output}.out").read_text()
    if accident.endswith("checkpoint"):
        after = draw.randint(0, MAX_ITER // PERIOD - 2)
        run.wait_until(
            lambda: (
                run.iterations() >= after * PERIOD
                and any(path.stat().st_size for path in run.unfinished() if path.exists())
            )
        )
    elif accident.endswith("evaluation"):
        count = draw.randint(1, MAX_ITER // EVAL_PERIOD)
        run.wait_until(lambda: run.evaluations() >= count)
        time.sleep(draw.uniform(0, 0.2))
    else:
        after = draw.randint(0, MAX_ITER // PERIOD - 1)
        run.wait_until(lambda: run.iterations() >= after * PERIOD and run.output.exists())
        time.sleep(draw.uniform(0, 0.5))
    worker = 0
    while accident.endswith("worker") and not worker and run.process.poll() is None:
        worker = run.worker()
    if worker:
        os.kill(worker, signal.SIGKILL)
    elif accident == "SIGHUP" and run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGHUP)
    if worker or accident == "SIGHUP":
        status = run.process.wait(timeout=60)
        assert status in (0, 1 if worker else 128 + signal.SIGHUP)
        happened = status != 0
    else:
        happened = run.kill()
    torn = sum(path.stat().st_size for path in run.unfinished() if path.is_file())
    resumable = run.iterations()
    run.start("--resume")
    run.finish()
    result = run.result()
    assert not run.unfinished()
    ap = [line["bbox/AP"] for line in result[0] if "bbox/AP" in line][-1]
    print(
        f"\n| {engine} | {number + 1} | {accident if happened else 'none before the end'} "
        f"| {resumable} | {torn / 1e6:.1f} | {ap:.10f} "
        f"| {' | '.join('equal' if a == b else 'DIFFERS' for a, b in zip(result, expected))} |",
        flush=True,
    )
    assert result == expected


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.slow
@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["Ctrl-C", "SIGTERM", "SIGHUP"]
)
@pytest.mark.parametrize("engine", list(COUNTS))
def test_a_signal_to_the_group_ends_in_one_line(engine, signum, tmp_path, request):
    """As a terminal and a scheduler send it: to the data workers too."""
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    run = Run(engine, tmp_path / "run")
    request.addfinalizer(run.kill)
    run.start(SOLVER__MAX_ITER=100_000, DATALOADER__NUM_WORKERS=2)
    run.wait_until(lambda: run.iterations() >= 2 * PERIOD)
    os.killpg(run.process.pid, signum)
    assert run.process.wait(timeout=60) == 128 + signum
    said = Path(f"{run.output}.out").read_text()
    assert "Traceback" not in said
    *_, last = said.strip().splitlines()
    assert last.startswith(f"train_net.py: interrupted by {signum.name}; --resume goes on from")
    print(f"\n{engine}: {last}", flush=True)
