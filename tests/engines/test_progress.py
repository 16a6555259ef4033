"""What either engine says during a run: the log, metrics.json and TensorBoard."""

import json
import re

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# as scripts around detectron2 read its log
LINE = re.compile(
    r"eta: (?P<eta>[\d:]+)  iter: (?P<iter>\d+).*  total_loss: (?P<total>\S+)  loss_cls: \S+  "
    r"loss_box_reg: \S+.*  time: (?P<time>\S+)  last_time: \S+  data_time: \S+  "
    r"last_data_time: \S+   ?lr: (?P<lr>\S+)"
)


def test_a_run_shows_its_progress(engine, run, tmp_path):
    keys = ["SOLVER.MAX_ITER", "24", "SOLVER.STEPS", "(22,)", "TEST.EVAL_PERIOD", "12"]
    run(engine, tmp_path, *keys)
    log = (tmp_path / "log.txt").read_text()
    lines = [LINE.search(line) for line in log.splitlines() if "  iter: " in line]
    assert [int(line["iter"]) for line in lines] == [19, 23]
    assert lines[-1]["eta"] == "0:00:00" and float(lines[-1]["time"]) > 0
    assert [float(line["lr"]) for line in lines] == [0.03, 0.003]
    assert re.search(r"\|\s*circle\s*\|\s*(nan|[\d.]+)\s*\|", log), "no AP by class"
    if engine.__name__.endswith("torchvision"):
        assert re.search(r"iter: 23/24 .* max_mem: [1-9]\d+M", log)

    metrics = [json.loads(line) for line in (tmp_path / "metrics.json").open()]
    assert sum("bbox/AP" in line for line in metrics) == 2
    metrics = [line for line in metrics if "total_loss" in line]
    # detectron2 writes its losses beside an evaluation, too; the other one is that of the last step
    beside = [11] if engine.__name__.endswith("detectron2") else []
    assert [line["iteration"] for line in metrics] == [*beside, 19, 23]
    assert metrics[0].keys() >= {"loss_cls", "loss_box_reg", "lr", "time", "data_time"}
    assert metrics[-1]["eta_seconds"] == 0

    board = EventAccumulator(str(tmp_path)).Reload()
    assert set(board.Tags()["scalars"]) >= {"total_loss", "loss_cls", "lr", "time", "bbox/AP"}
    samples = [tag for tag in board.Tags()["images"] if tag.startswith("aa_sample_val/image ")]
    assert len(samples) == 4
    pictures = board.Images(samples[0])
    assert len(pictures) == 2  # one an evaluation, of the same image
    assert (pictures[0].width, pictures[0].height) == (pictures[1].width, pictures[1].height)
    attention = [tag for tag in board.Tags()["images"] if "/attention in image " in tag]
    assert len(attention) == 2
