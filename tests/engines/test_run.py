"""Training, evaluation and resuming on either engine, and the files they leave."""

import json
import shutil

import pytest
import torch

from aa_detection.config import ConfigError

OUTPUT_FILES = {
    "config.yaml",
    "log.txt",
    "metrics.json",
    "model_final.pth",
    "inference/coco_instances_results.json",
}


def read_metrics(output_dir):
    return [json.loads(line) for line in (output_dir / "metrics.json").open()]


def detections(output_dir):
    return json.loads((output_dir / "inference/coco_instances_results.json").read_text())


def test_training_leaves_the_same_files(engine, trained):
    output, metrics = trained(engine)
    written = {str(p.relative_to(output)) for p in output.rglob("*")}
    assert written >= OUTPUT_FILES
    assert any(name.startswith("events.out.tfevents") for name in written)
    assert set(metrics["bbox"]) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "AP-circle"}
    lines = read_metrics(output)
    assert lines[-1]["iteration"] in (3, 4)
    assert {"total_loss", "loss_cls", "loss_box_reg", "lr"} <= set().union(*lines)
    assert any("bbox/AP" in line for line in lines)
    weights = torch.load(output / "model_final.pth", weights_only=True)["model"]
    assert "backbone.bottom_up.res5.0.conv1.rel_h" in weights
    assert "engine: " in (output / "log.txt").read_text().splitlines()[0]


def test_eval_only_reproduces_the_training_result(engine, run, trained, tmp_path):
    output, metrics = trained(engine)
    expected = detections(output)
    assert len(expected) > 40  # four images, 20 detections at most
    again = run(
        engine, tmp_path / "a", "MODEL.WEIGHTS", str(output / "model_final.pth"), eval_only=True
    )
    assert detections(tmp_path / "a") == expected
    torch.testing.assert_close(again["bbox"], metrics["bbox"], rtol=0, atol=0, equal_nan=True)
    # without MODEL.WEIGHTS it is the run's own final checkpoint
    shutil.copytree(output, tmp_path / "b")
    (tmp_path / "b/inference/coco_instances_results.json").unlink()
    run(engine, tmp_path / "b", eval_only=True)
    assert detections(tmp_path / "b") == expected


def test_resume_without_a_checkpoint_starts(engine, run, tmp_path):
    run(engine, tmp_path, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", resume=True)
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize("name", ["torchvision", "detectron2"])
def test_weights_of_either_engine_load_in_the_other(name, run, trained, tmp_path, request):
    engines = {n: request.getfixturevalue(f"{n}_engine") for n in ("torchvision", "detectron2")}
    output, _ = trained(engines[name])
    other = engines["detectron2" if name == "torchvision" else "torchvision"]
    run(other, tmp_path, "MODEL.WEIGHTS", str(output / "model_final.pth"), eval_only=True)
    first, second = detections(output), detections(tmp_path)
    assert len(first) == len(second) > 40
    # boxes that overlap the border may be clipped in another order; the best of each image agree
    for image_id in {d["image_id"] for d in first}:
        best = [
            max((d for d in found if d["image_id"] == image_id), key=lambda d: d["score"])
            for found in (first, second)
        ]
        assert best[0]["category_id"] == best[1]["category_id"]
        assert best[0]["score"] == pytest.approx(best[1]["score"], abs=1e-3)
        assert best[0]["bbox"] == pytest.approx(best[1]["bbox"], abs=0.1)


def test_empty_images_train_where_they_are_not_filtered(engine, run, tmp_path):
    keys = ["SOLVER.MAX_ITER", "6", "DATASETS.TEST", "()"]  # each of the twelve images once
    run(engine, tmp_path, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False", *keys)
    losses = [line["total_loss"] for line in read_metrics(tmp_path) if "total_loss" in line]
    assert losses and all(torch.isfinite(torch.tensor(losses)))


def test_detectron2_refuses_mixed_precision_on_the_cpu(detectron2_engine, run, tmp_path):
    with pytest.raises(ConfigError, match="SOLVER.AMP.ENABLED: .* MODEL.DEVICE is cpu"):
        run(detectron2_engine, tmp_path / "out", "SOLVER.AMP.ENABLED", "True")
    assert not (tmp_path / "out").exists()


def test_a_batch_that_the_processes_cannot_share_is_refused(engine, run, tmp_path):
    with pytest.raises(ConfigError, match="SOLVER.IMS_PER_BATCH 3 cannot be shared by 2"):
        run(engine, tmp_path / "out", "SOLVER.IMS_PER_BATCH", "3", num_gpus=2)
    assert not (tmp_path / "out").exists()
