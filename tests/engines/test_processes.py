"""Several processes: the same training and evaluation as in one, and one end for all."""

import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from aa_detection.config import ConfigError
from aa_detection.engines import RunOptions
from aa_detection.engines.launch import run_together
from aa_detection.engines.processes import plan_processes
from aa_detection.training.failures import RunError
from aa_detection.training.interrupt import Interrupted

from .conftest import AA_CONFIG, ROOT, TINY


def weights(output_dir):
    return torch.load(output_dir / "model_final.pth", weights_only=True)["model"]


def detections(output_dir, dataset=""):
    path = output_dir / "inference" / dataset / "coco_instances_results.json"
    found = json.loads(path.read_text())
    return sorted(found, key=lambda d: d["image_id"])


# A batch split in two is the whole one where norms take no statistics over it (GN), and neither
# does the loss: the embedded engine's RetinaNet counts the anchors of all processes; detectron2's
# each its own, so there it is a region proposal network that learns from every anchor.
SPLIT = {
    "torchvision": [
        "MODEL.RESNETS.NORM", "GN",
        "SOLVER.BASE_LR", "0.01",
    ],
    "detectron2": [
        "MODEL.META_ARCHITECTURE", "ProposalNetwork",
        "MODEL.BACKBONE.NAME", "build_aa_resnet_fpn_backbone",
        "MODEL.RESNETS.NORM", "GN",
        "MODEL.ANCHOR_GENERATOR.SIZES", "[[32.0]]",
        "MODEL.RPN.IN_FEATURES", "['p3', 'p4', 'p5', 'p6']",
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "4000",
        "MODEL.RPN.POSITIVE_FRACTION", "1.0",
        "MODEL.ROI_HEADS.NUM_CLASSES", "5",
        "INPUT.RANDOM_FLIP", "none",  # each process throws its own dice
        "SOLVER.BASE_LR", "0.5",
    ],
}  # fmt: skip


# Before the worker of a run, in each of its processes.
FLOAT64 = {
    "torchvision": "import torch; torch.set_default_dtype(torch.float64)",
    "detectron2": """
import torch
from detectron2.modeling.proposal_generator import proposal_utils

torch.set_default_dtype(torch.float64)
# detectron2's makes float32 boxes, and wants scores of the same type
nms = proposal_utils.batched_nms
proposal_utils.batched_nms = lambda boxes, scores, *more: nms(boxes, scores.float(), *more)
""",
}
SUMMED_GRADIENTS = """
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

def summed(_, bucket):
    done = distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
    return done.then(lambda future: future.value()[0])

create = DistributedDataParallel.__init__
def create_and_sum(self, *args, **kwargs):
    create(self, *args, **kwargs)
    self.register_comm_hook(None, summed)
DistributedDataParallel.__init__ = create_and_sum
"""


@pytest.fixture
def prepared_run(run, monkeypatch):
    """``prepared_run(code, engine, …)``: as `run`, with code executed first in every process."""

    def _prepared_run(code, engine, *args, **how):
        def prepared(worker, args, **how):
            scope = {"code": code, "worker": worker, "args": args}
            return run_together(eval, ("exec(code, {}) or worker(*args)", scope), **how)

        train = importlib.import_module(f"{engine.__name__}.train")
        monkeypatch.setattr(train, "run_together", prepared)
        return run(engine, *args, **how)

    # what the code changes in this process, where a run is in one
    before = torch.get_default_dtype()
    if importlib.util.find_spec("detectron2"):
        module = importlib.import_module("detectron2.modeling.proposal_generator.proposal_utils")
        monkeypatch.setattr(module, "batched_nms", module.batched_nms)
    yield _prepared_run
    torch.set_default_dtype(before)


def test_two_processes_train_as_one(engine, prepared_run, datasets, tmp_path):
    name = engine.__name__.rpartition(".")[2]
    keys = [*SPLIT[name], "DATASETS.TRAIN", f"('{datasets[7]}',)", "SEED", "1"]
    keys += ["DATASETS.TEST", f"('{datasets[7]}',)" if name == "torchvision" else "()"]
    # An L1 loss has no gradient at zero: near it, float32's rounding alone decides the sign of a
    # box's gradient, and the weights differ by steps of the learning rate.
    prepared_run(FLOAT64[name], engine, tmp_path / "one", *keys)
    metrics = prepared_run(FLOAT64[name], engine, tmp_path / "two", *keys, num_gpus=2)
    one = weights(tmp_path / "one")
    torch.testing.assert_close(weights(tmp_path / "two"), one, rtol=1e-10, atol=1e-10)
    if name == "torchvision":
        assert metrics["bbox"].keys() >= {"AP", "AP-c8"}
        assert len(detections(tmp_path / "two")) > 40

    wrong = FLOAT64[name] + SUMMED_GRADIENTS
    prepared_run(wrong, engine, tmp_path / "sum", *keys, num_gpus=2)
    kernel = "backbone.bottom_up.res5.0.conv2.weight"
    assert one[kernel].dtype == torch.float64
    assert (weights(tmp_path / "sum")[kernel] - one[kernel]).abs().max() > 1e-6


@pytest.mark.slow
def test_two_processes_that_accumulate_train_as_one(engine, prepared_run, datasets, tmp_path):
    name = engine.__name__.rpartition(".")[2]
    keys = [*SPLIT[name], "DATASETS.TRAIN", f"('{datasets[7]}',)", "SEED", "1"]
    keys += ["DATASETS.TEST", "()", "SOLVER.IMS_PER_BATCH", "4"]
    prepared_run(FLOAT64[name], engine, tmp_path / "one", *keys)
    keys += ["SOLVER.GRAD_ACCUM_STEPS", "2"]
    prepared_run(FLOAT64[name], engine, tmp_path / "two", *keys, num_gpus=2)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_evaluation_in_one_two_and_three_processes_agrees(engine, run, datasets, tmp_path):
    # 7 images are not to be shared evenly, and 1 leaves processes without
    both = ["DATASETS.TRAIN", f"('{datasets[7]}',)"]
    both += ["DATASETS.TEST", f"('{datasets[7]}', '{datasets[1]}')"]
    # long enough to find something
    keys = ["SOLVER.MAX_ITER", "60", "SOLVER.STEPS", "(50,)", "TEST.DETECTIONS_PER_IMAGE", "100"]
    run(engine, tmp_path / "trained", *both, *keys, "DATASETS.TEST", "()")
    both += ["MODEL.WEIGHTS", str(tmp_path / "trained/model_final.pth")]
    metrics, found = {}, {}
    for processes in (1, 2, 3):
        output = tmp_path / str(processes)
        metrics[processes] = run(engine, output, *both, eval_only=True, num_gpus=processes)
        found[processes] = {n: detections(output, n) for n in datasets.values()}
    assert metrics[1][datasets[7]]["bbox"]["AP"] > 0
    assert {d["image_id"] for d in found[1][datasets[7]]} == set(range(20, 27))
    for processes in (2, 3):
        assert found[processes] == found[1]
        torch.testing.assert_close(metrics[processes], metrics[1], rtol=0, atol=0, equal_nan=True)


def together(code, num_gpus=2):
    """What ``code`` leaves as `result` in the first of several processes."""
    plan = plan_processes("cpu", RunOptions(num_gpus=num_gpus))
    scope = f"exec({code!r}, scope := {{}}) or scope.get('result')"
    return run_together(eval, (scope,), processes=plan, device="cpu")


def test_an_error_in_one_process_ends_all(capfd):
    code = """
from torch import distributed
from aa_detection.config import ConfigError
if distributed.get_rank() == 1:
    raise ConfigError("SOLVER.MAX_ITER: too many")
distributed.barrier()  # the first waits for the one that is gone
"""
    start = time.monotonic()
    with pytest.raises(ConfigError, match="^SOLVER.MAX_ITER: too many$"):
        together(code)
    assert time.monotonic() - start < 120
    assert capfd.readouterr().err == ""  # the caller prints the line


@pytest.mark.slow
def test_an_error_that_cannot_be_pickled_keeps_its_traceback():
    code = """
class Odd(Exception):
    pass
def broken():
    raise Odd("of a library")
broken()
"""
    with pytest.raises(ChildFailedError, match=r"in broken(.|\n)*Odd: of a library"):
        together(code)


@pytest.mark.slow
def test_a_killed_process_ends_all(capfd):
    code = """
import os, signal
from torch import distributed
if distributed.get_rank() == 1:
    os.kill(os.getpid(), signal.SIGKILL)
distributed.barrier()
"""
    with pytest.raises(RunError, match="process 1 of 2 .* SIGKILL, .* memory"):
        together(code)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_signal_while_processes_start_ends_them():
    def send():
        while not multiprocessing.active_children():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    start = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"):
        together("import time; time.sleep(600)")
    assert time.monotonic() - start < 120


@pytest.mark.slow
def test_no_process_outlives_a_killed_launcher(tmp_path):
    code = f"""
import os, time
open(os.path.join({str(tmp_path)!r}, str(os.getpid())), "w")
time.sleep(600)
"""
    program = tmp_path / "program.py"
    program.write_text(f"""
from tests.engines.test_processes import together
if __name__ == "__main__":
    together({code!r})
""")
    launcher = subprocess.Popen(
        [sys.executable, program], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    end = time.monotonic() + 120
    while len(pids := [p.name for p in tmp_path.glob("[0-9]*")]) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    launcher.kill()
    launcher.wait()
    assert len(pids) == 2
    end = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


@pytest.mark.slow
def test_processes_share_the_cores():
    torch.set_num_threads(1)
    code = "import torch; result = (torch.distributed.get_world_size(), torch.get_num_threads())"
    assert together(code) == (2, max(1, torch.get_num_threads() // 2))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"num_gpus": 64}, ["--num-gpus", "64"]),
        ({"num_machines": 2}, ["--num-machines 2", "--dist-url"]),
        (
            {"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://10.0.0.1:5000"},
            ["--machine-rank 2"],
        ),
        ({"dist_url": "10.0.0.1:5000"}, ["--dist-url 10.0.0.1:5000", "tcp://HOST:PORT"]),
    ],
    ids=["GPUs", "meeting point", "rank", "URL"],
)
def test_a_wrong_plan(options, parts):
    with pytest.raises(ConfigError) as error:
        plan_processes("cuda" if "num_gpus" in options else "cpu", RunOptions(**options))
    assert all(part in str(error.value) for part in parts)


@pytest.fixture
def command(tmp_path):
    """``command(engine, *words, keys=…, launcher=…)``: the running command line, with pipes."""

    def _command(engine, *words, keys=(), launcher=()):
        name = engine.__name__.rpartition(".")[2]
        train_net = [str(ROOT / "tools/train_net.py"), "--engine", name, "--config-file", AA_CONFIG]
        return subprocess.Popen(
            [sys.executable, *launcher, *train_net, *words, *TINY, *keys],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group, as a shell makes it
        )

    return _command


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.slow
def test_torchrun_trains_as_our_own_processes_do(engine, command, run, tmp_path):
    keys = ["SEED", "1", "OUTPUT_DIR", str(tmp_path / "torchrun")]
    process = command(engine, keys=keys, launcher=TORCHRUN)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    run(engine, tmp_path / "own", "SEED", "1", num_gpus=2)
    assert_same_run(tmp_path / "torchrun", tmp_path / "own")


@pytest.mark.slow
def test_two_machines_train_as_two_processes_do(engine, command, run, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    keys = ["SEED", "1", "OUTPUT_DIR", str(tmp_path / "machines")]
    words = ["--num-machines", "2", "--dist-url", url, "--machine-rank"]
    machines = [command(engine, *words, rank, keys=keys) for rank in "01"]
    for machine in machines:
        _, errors = machine.communicate(timeout=300)
        assert machine.returncode == 0, errors
    run(engine, tmp_path / "own", "SEED", "1", num_gpus=2)
    assert_same_run(tmp_path / "machines", tmp_path / "own")


def assert_same_run(one, other):
    """The same weights and detections, and files written once."""
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    assert detections(one) == detections(other)
    lines = [json.loads(line) for line in (one / "metrics.json").open()]
    assert len(lines) == len({line["iteration"] for line in lines})
    assert (one / "log.txt").read_text().count("engine: ") == 1
    # TensorBoard's, of one process
    assert len({path.name.split(".")[-2] for path in one.glob("events.out.tfevents*")}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ()], ids=["torchrun", "num-gpus"])
def test_bad_input_is_said_once(engine, command, tmp_path, launcher):
    words = [] if launcher else ["--num-gpus", "2"]
    keys = ["DATASETS.TRAIN", "('nowhere',)", "OUTPUT_DIR", str(tmp_path / "out")]
    process = command(engine, *words, keys=keys, launcher=launcher)
    _, errors = process.communicate(timeout=300)
    assert errors.count("train_net.py: unknown dataset 'nowhere'") == 1, errors
    assert f'File "{ROOT}' not in errors  # torchrun shows a traceback of its own
    assert process.returncode == (1 if launcher else 2)  # torchrun's own status
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "send"),
    [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)],
    ids=["Ctrl-C, to the group", "to the launcher"],
)
def test_a_signal_leaves_a_checkpoint(torchvision_engine, command, tmp_path, signum, send):
    output = tmp_path / "out"
    keys = ["SOLVER.MAX_ITER", "100000", "OUTPUT_DIR", str(output)]
    process = command(torchvision_engine, "--num-gpus", "2", keys=keys)
    log = output / "log.txt"
    end = time.monotonic() + 120
    while not (log.exists() and "  iter: " in log.read_text()) and time.monotonic() < end:
        time.sleep(0.5)
    send(process.pid, signum)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, errors
    (checkpoint,) = (output / "checkpoints").iterdir()
    ends = [line for line in errors.splitlines() if line.startswith("train_net.py: ")]
    assert ends == [
        f"train_net.py: interrupted by {signum.name}; --resume goes on from {checkpoint}"
    ]
    assert "Traceback" not in errors
