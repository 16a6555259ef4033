"""The documents' commands at toy scale: what they are given, and what is made smaller.

A command runs as it is written. What stands behind it is small: COCO has a dozen images, published
weights are a random ResNet-18, a folder of photos has two. And whatever configuration an engine
loads is shrunk after it was loaded, so that a training step takes a fraction of a second.
"""

import contextlib
import importlib
import importlib.util
import json
import pickle
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import pytest
import torch
import torchvision

from aa_detection.attention import BACKENDS
from aa_detection.checkpoints.names import from_torchvision
from aa_detection.data import catalog
from aa_detection.data.synthetic.drawn import DrawnDataset
from aa_detection.data.synthetic.sample import write_sample_dataset
from aa_detection.engines import ENGINES, RunOptions, load_engine
from aa_detection.engines.processes import Processes, plan_processes
from aa_detection.export import check, detector_check
from aa_detection.layers import GATES
from aa_detection.models import CONVS
from aa_detection.studies import timing
from aa_detection.studies.benchmarks import operator

ROOT = Path(__file__).resolve().parents[2]

NUM_TRAIN, NUM_VAL = 12, 4  # images of a drawn dataset
SMALLER = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.ATTENTION.STAGES": ["res5"],
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MAX_SIZE_TRAIN": 96,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "INPUT.SCALE_JITTER.SIZE": 96,
    "TEST.DETECTIONS_PER_IMAGE": 5,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.GRAD_ACCUM_STEPS": 1,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": (),
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.AMP.ENABLED": False,  # detectron2 has it on CUDA alone
}


def shrink(cfg):
    """A configuration of either engine, made smaller in place."""
    for key, value in SMALLER.items():
        *path, name = key.split(".")
        node = cfg
        for part in path:
            node = node.get(part, {})
        if name in node:
            node[name] = value
    if cfg.MODEL.RESNETS.NORM == "SyncBN":  # on GPUs alone
        cfg.MODEL.RESNETS.NORM = "BN"
    if cfg.SEED < 0:  # a random detector may find nothing, and then its export cannot be checked
        cfg.SEED = 1
    return cfg


def write_world(folder: Path) -> None:
    """What a reader of the documents is taken to have, in `folder`.

    ``datasets/coco`` and ``datasets/aa_sample``; a dataset of five classes of their own in
    ``train.json``, ``train/``, ``val.json`` and ``val/``, and the same as VOC and YOLO have it;
    ``photo.jpg``, ``photos/`` and ``clip.mp4``; ``flowers/`` in a folder a class; published
    weights, in iopath's cache (``cache``) and as ``resnet50.pth`` and ``R-50.pkl``; and a ``.venv``
    to activate. :func:`write_runs` adds what was trained.
    """
    sample = write_sample_dataset(folder / "datasets", num_train=NUM_TRAIN, num_val=NUM_VAL)
    _write_coco(sample, folder / "datasets/coco")
    for split in ("train", "val"):
        shutil.copytree(sample / split, folder / split)
        shutil.copy(sample / f"annotations/{split}.json", folder / f"{split}.json")
    _write_voc_and_yolo(folder)
    _write_pictures(sorted((sample / "val").iterdir()), folder)
    _write_weights(folder)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()


def _write_coco(sample: Path, coco: Path) -> None:
    weights = torchvision.models.detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
    names = enumerate(weights.meta["categories"])
    categories = [{"id": i, "name": name} for i, name in names if i and name != "N/A"]
    (coco / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        shutil.copytree(sample / split, coco / f"{split}2017")
        content = json.loads((sample / f"annotations/{split}.json").read_text())
        content["categories"] = categories
        (coco / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))


def _write_voc_and_yolo(folder: Path) -> None:
    content = json.loads((folder / "train.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    numbers = {category: number for number, category in enumerate(names)}
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "images", "labels/train"):
        (folder / name).mkdir(parents=True)
    shutil.copytree(folder / "train", folder / "JPEGImages", dirs_exist_ok=True)
    shutil.copytree(folder / "train", folder / "images/train")
    for image in content["images"]:
        stem = Path(image["file_name"]).stem
        objects, lines = [], []
        for each in content["annotations"]:
            if each["image_id"] != image["id"]:
                continue
            x, y, width, height = each["bbox"]
            objects.append(
                f"<object><name>{names[each['category_id']]}</name><bndbox><xmin>{x + 1:g}</xmin>"
                f"<ymin>{y + 1:g}</ymin><xmax>{x + width:g}</xmax><ymax>{y + height:g}</ymax>"
                "</bndbox></object>"
            )
            centre = (x + width / 2) / image["width"], (y + height / 2) / image["height"]
            size = width / image["width"], height / image["height"]
            lines.append(" ".join(map(str, (numbers[each["category_id"]], *centre, *size))))
        (folder / f"Annotations/{stem}.xml").write_text(
            f"<annotation><filename>{image['file_name']}</filename><size>"
            f"<width>{image['width']}</width><height>{image['height']}</height><depth>3</depth>"
            f"</size>{''.join(objects)}</annotation>"
        )
        (folder / f"labels/train/{stem}.txt").write_text("\n".join(lines))
    stems = "\n".join(Path(image["file_name"]).stem for image in content["images"])
    (folder / "ImageSets/Main/train.txt").write_text(stems + "\n")
    (folder / "data.yaml").write_text(f"names: {json.dumps(list(names.values()))}\n")


def _write_pictures(files: list[Path], folder: Path) -> None:
    pictures = [cv2.imread(str(file)) for file in files[:2]]
    (folder / "photos").mkdir()
    cv2.imwrite(str(folder / "photo.jpg"), cv2.resize(pictures[0], (640, 480)))
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"photos/{number}.jpg"), picture)
    for split in ("train", "val"):
        for number, name in enumerate(("rose", "tulip")):
            path = folder / "flowers" / split / name / "1.jpg"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), pictures[number])
    height, width = pictures[0].shape[:2]
    fourcc = cv2.VideoWriter_fourcc(*"mp4v")
    clip = cv2.VideoWriter(str(folder / "clip.mp4"), fourcc, 5, (width, height))
    for _ in range(3):
        clip.write(pictures[0])
    clip.release()


def _write_weights(folder: Path) -> None:
    """A random ResNet-18 as the zoos' ResNet-50 and -101: :func:`shrink` makes one of those."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18().state_dict()
    torch.save(resnet, folder / "resnet50.pth")
    arrays = {}  # by Caffe2's names, as MSRA's are
    for name, tensor in from_torchvision(resnet).items():
        found = re.fullmatch(r"res(\d)\.(\d)\.(?:conv(\d)|(shortcut))\.(norm\.)?(\w+)", name)
        if not found or "running" in name or "num_batches" in name:
            continue
        stage, block, conv, _, norm, kind = found.groups()
        branch = f"branch2{'abc'[int(conv) - 1]}" if conv else "branch1"
        suffix = {"weight": "bn_s", "bias": "bn_b"}[kind] if norm else "w"
        arrays[f"res{stage}_{block}_{branch}_{suffix}"] = tensor.numpy()
    arrays["conv1_w"] = resnet["conv1.weight"].numpy()
    arrays["res_conv1_bn_s"] = resnet["bn1.weight"].numpy()
    arrays["res_conv1_bn_b"] = resnet["bn1.bias"].numpy()
    for depth in (50, 101):
        cached = folder / f"cache/detectron2/ImageNetPretrained/MSRA/R-{depth}.pkl"
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(pickle.dumps(arrays))
    shutil.copy(cached, folder / "R-50.pkl")


def write_runs(folder: Path) -> None:
    """Trained runs: ``output/demo``, as `make demo` leaves it, ``output/retinanet_R50`` and
    ``output/aa_retinanet_R50``, whose ``model_final.pth`` also lies in `folder`.

    Inside :func:`toy_scale`; by the engine that "auto" is.
    """
    engine = load_engine("auto")
    for name, config in (
        ("demo", "sample/aa_retinanet_R18"),
        ("retinanet_R50", "retinanet_R50"),
        ("aa_retinanet_R50", "aa_retinanet_R50"),
    ):
        cfg = engine.load_config(str(ROOT / f"configs/{config}.yaml"))
        cfg.OUTPUT_DIR = str(folder / "output" / name)
        engine.run(cfg, RunOptions(allow_pickle=True))
    shutil.copy(folder / "output/aa_retinanet_R50/model_final.pth", folder)


@contextlib.contextmanager
def toy_scale(world: Path):
    """Everything that documents do in here is small, and what they register is forgotten."""
    engines = [
        load_engine(name)  # which registers the backbones
        for name in ENGINES
        if importlib.util.find_spec({"torchvision": "lightning"}.get(name, name))
    ]
    registries = [CONVS, GATES, BACKENDS]
    if importlib.util.find_spec("detectron2"):
        registries.append(importlib.import_module("detectron2.modeling").BACKBONE_REGISTRY._obj_map)
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for registry in registries:
            stack.enter_context(mock.patch.dict(registry))
        patch.setenv("DETECTRON2_DATASETS", str(world / "datasets"))
        patch.setenv("FVCORE_CACHE", str(world / "cache"))
        for engine in engines:
            _shrink_engine(patch, engine)
        if importlib.util.find_spec("detectron2"):
            # what get_cfg() copies; a cuda device would have to be there
            defaults = importlib.import_module("detectron2.config.defaults")
            patch.setitem(defaults._C.MODEL, "DEVICE", "cpu")
            patch.setattr(importlib.import_module("detectron2.engine"), "launch", _launch_one)
        patch.setattr(catalog, "_registered", {})
        patch.setattr(check, "SIZES", ((320, 320),))
        patch.setattr(detector_check, "SIZES", ((97, 61),))
        patch.setattr(DrawnDataset, "write", _write_few)
        patch.setattr(timing, "ENOUGH_S", 0.0)
        patch.setattr(operator, "in_fresh_process", lambda function, *args: function(*args))
        yield


def _launch_one(worker: Callable, *how, args: tuple = (), **more) -> None:
    """detectron2's launch, without other processes."""
    worker(*args)


_write = DrawnDataset.write


def _write_few(self, root=None, *, num_train=NUM_TRAIN, num_val=NUM_VAL, seed=0) -> Path:
    return _write(self, root, num_train=min(num_train, NUM_TRAIN), num_val=min(num_val, NUM_VAL))


def _shrink_engine(patch: pytest.MonkeyPatch, engine: types.ModuleType) -> None:
    load_config = engine.load_config
    patch.setattr(
        engine, "load_config", lambda *args, **kwargs: shrink(load_config(*args, **kwargs))
    )

    def plan_one(*args) -> Processes:
        plan_processes(*args)  # refuses what contradicts itself
        return Processes()

    patch.setattr(importlib.import_module(f"{engine.__name__}.train"), "plan_processes", plan_one)


# beginnings of detectron2's own names
_BUILTIN = ("ade20k_", "cityscapes_", "coco_", "keypoints_", "lvis_", "voc_")


def forget_datasets() -> None:
    """A new process knows no dataset of the last one's, and finds the built-in ones anew."""
    catalog._registered.clear()
    if "detectron2" not in sys.modules:
        return
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    for name in DatasetCatalog.list():
        if name.startswith("coco_2017_") or not name.startswith(_BUILTIN):
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
    for split in ("train", "val"):
        coco = catalog.get_coco_dataset(f"coco_2017_{split}")
        register_coco_instances(coco.name, {}, str(coco.annotation_file), str(coco.image_root))
