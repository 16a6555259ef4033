import json

import pytest
import yaml

from aa_detection.data import CocoDataset
from aa_detection.data.synthetic.sample import write_sample_dataset


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    folder = write_sample_dataset(tmp_path_factory.mktemp("a set"), num_train=1, num_val=12)
    return CocoDataset("aa_sample_val", folder / "annotations" / "val.json", folder / "val")


@pytest.fixture(scope="session")
def truths(val):
    """The ground truth as detections without a fault."""
    annotations = json.loads(val.annotation_file.read_bytes())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: each[key] for key in keys}, "score": 0.9} for each in annotations]


@pytest.fixture
def make_run(tmp_path, truths):
    """``make_run(name, detections, **config)``: an output directory as the engines leave it."""

    def make(name, detections=truths, metrics=None, **model):
        folder = tmp_path / "output dir" / name
        (folder / "inference").mkdir(parents=True)
        config = {
            "DATASETS": {"TEST": ["aa_sample_val"]},
            "MODEL": {"ATTENTION": {"CONV": ""}, **model},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        rows = [
            {"iteration": 19, "total_loss": 2.0, "loss_cls": 1.5, "loss_box_reg": 0.5, "lr": 0.01},
            {
                "iteration": 39,
                "total_loss": None,
                "loss_cls": None,
                "loss_box_reg": 0.25,
                "lr": 0.1,
            },
            {"iteration": 39, "bbox/AP": 12.5, "bbox/APl": None},
        ]
        lines = [json.dumps(row) for row in (rows if metrics is None else metrics)]
        (folder / "metrics.json").write_text("\n".join(lines) + "\n")
        results = folder / "inference" / "coco_instances_results.json"
        results.write_text(json.dumps(detections))
        return folder

    return make
