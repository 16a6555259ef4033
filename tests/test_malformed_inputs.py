"""A table of malformed inputs: each is refused in one line, and costs nothing.

Every row is made in an empty folder, goes through the command line of a tool, and must end with
exit status 2, its one line on standard error, and no file written or changed.
"""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aa_detection.config import configs_folder
from aa_detection.data.catalog import _BUILTIN
from aa_detection.engines import ENGINES

from .tiny_dataset import SETTINGS, content

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/sample/aa_retinanet_R18.yaml"

CONTENT = content(images=4)
VAL_CONTENT = {
    **CONTENT,
    "images": CONTENT["images"][:1],
    "annotations": CONTENT["annotations"][:1],
}


class Place:
    """What a row finds: a sound config, dataset and command, to be made unsound.

    Attributes:
        config, json, images, output: paths of the configuration, the annotations to train on, the
            folder of images, and OUTPUT_DIR.
        content: of the annotations to train on; what a row leaves here is written.
        data: the words of the command that name the data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "my config.yaml"
        self.json = folder / "my data.json"
        val_json = folder / "val.json"
        self.images = folder / "my images"
        self.output = folder / "out"
        self.content = copy.deepcopy(CONTENT)
        self.config.write_text(f"_BASE_: {CONFIG}\n{SETTINGS}OUTPUT_DIR: {self.output}\n")
        val_json.write_text(json.dumps(VAL_CONTENT))
        self.data = ["--train-json", str(self.json), "--train-images", str(self.images)]
        self.data += ["--val-json", str(val_json), "--val-images", str(self.images)]
        self.images.mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
        for image in self.content["images"]:
            Image.fromarray(pixels).save(self.images / image["file_name"])


Make = Callable[[Place], list[str] | None]  # makes the input; may return words for the command


def text(content: str | bytes) -> Make:
    """Another configuration."""

    def make(place):
        place.config.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def settings(content: str) -> Make:
    """More settings in the configuration."""

    def make(place):
        place.config.write_text(f"_BASE_: {CONFIG}\n{content}\nOUTPUT_DIR: {place.output}\n")

    return make


def keys(*words: str) -> Make:
    """Config keys and values on the command line."""
    return lambda place: list(words)


def record(key: str, index: int, **fields) -> Make:
    """Other fields of a record of the annotation file; None removes one."""

    def make(place):
        for field, value in fields.items():
            if value is None:
                del place.content[key][index][field]
            else:
                place.content[key][index][field] = value

    return make


def content(change: Callable[[dict], object]) -> Make:
    return lambda place: change(place.content) and None


def annotations(data: bytes) -> Make:
    """Another annotation file."""

    def make(place):
        place.content = None
        place.json.write_bytes(data)

    return make


def datasets(*words: str) -> Make:
    """Config keys and values, and no data on the command line."""

    def make(place):
        place.data = []
        return list(words)

    return make


def image(write: Callable[[Path], object]) -> Make:
    """Another second image."""
    return lambda place: write(place.images / "2.png") and None


def turned(path: Path) -> None:
    """As large as the annotations say, but for its orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(path, exif=exif)


# name: (what makes it, its line or the line of each engine that refuses it)
CONFIGS = {
    "missing": (
        lambda place: place.config.unlink(),
        (
            "{folder}/my config.yaml: no such file, nor a config that comes with the package; "
            "they are in {configs}"
        ),
    ),
    "folder": (
        lambda place: (place.config.unlink(), place.config.mkdir()) and None,
        "{folder}/my config.yaml: cannot read the config file: Is a directory",
    ),
    "syntax": (
        text("MODEL: [unclosed\nSOLVER: {}"),
        (
            "{folder}/my config.yaml: line 2, column 7: not a YAML file: expected ',' or ']', "
            "but got ':'"
        ),
    ),
    "tab": (
        text("SOLVER:\n\tMAX_ITER: 3\n"),
        (
            "{folder}/my config.yaml: line 2, column 1: not a YAML file: found character '\\t' "
            "that cannot start any token"
        ),
    ),
    "binary": (
        text(b"\x80\x03}q\x00."),
        "{folder}/my config.yaml: not a YAML file: it is not UTF-8 text",
    ),
    "list": (
        text("- a\n- b\n"),
        "{folder}/my config.yaml: expected config keys and values, got list",
    ),
    "key twice": (
        text("SOLVER:\n  MAX_ITER: 3\nSEED: 1\nSOLVER:\n  BASE_LR: 0.1\n"),
        (
            "{folder}/my config.yaml: line 4, column 1: not a YAML file: the key SOLVER is "
            "there twice"
        ),
    ),
    "number as key": (text("3: 4\n"), "{folder}/my config.yaml: expected a config key, got 3"),
    "python tag": (
        text("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n"),
        (
            "{folder}/my config.yaml: line 1, column 13: not a YAML file: could not determine "
            "a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'"
        ),
    ),
    "base cycle": (
        text("_BASE_: my config.yaml\n"),
        "{folder}/my config.yaml: its _BASE_ chain leads back to itself",
    ),
    "base missing": (
        text("_BASE_: gone.yaml\n"),
        "{folder}/gone.yaml: cannot read the config file: No such file or directory",
    ),
    "base number": (
        text("_BASE_: 3\n"),
        "{folder}/my config.yaml: _BASE_ must be the path of a file, got 3",
    ),
    "unknown key": (
        keys("SOLVER.BASELR", "0.1"),
        (
            "the command line: unknown config key SOLVER.BASELR; the nearest known key is "
            "SOLVER.BASE_LR"
        ),
    ),
    "unknown section": (
        keys("MODLE.DEVICE", "cpu"),
        (
            "the command line: unknown config key MODLE.DEVICE; the nearest known key is "
            "MODEL.DEVICE"
        ),
    ),
    "odd words": (
        keys("SOLVER.MAX_ITER"),
        "the command line must end in KEY VALUE pairs, got 1 words: SOLVER.MAX_ITER",
    ),
    "word for number": (
        keys("SOLVER.MAX_ITER", "many"),
        "the command line: SOLVER.MAX_ITER: got many of type str, expected int, such as 2",
    ),
    "fraction for whole": (
        keys("SOLVER.IMS_PER_BATCH", "1.5"),
        ("the command line: SOLVER.IMS_PER_BATCH: got 1.5 of type float, expected int, such as 2"),
    ),
    "value for section": (
        keys("MODEL", "resnet"),
        "the command line: MODEL: got 'resnet', expected keys of its own",
    ),
    "no classes": (
        keys("MODEL.RETINANET.NUM_CLASSES", "0"),
        "MODEL.RETINANET.NUM_CLASSES: got 0, expected a whole number from 1 to 1,000,000",
    ),
    "classes of COCO": (
        keys("MODEL.RETINANET.NUM_CLASSES", "80"),
        (
            "{folder}/my data.json declares 2 categories, but MODEL.RETINANET.NUM_CLASSES is "
            "80: set MODEL.RETINANET.NUM_CLASSES to 2 (and 1 more: tools/check_dataset.py "
            "lists all)"
        ),
    ),
    "negative heads": (
        keys("MODEL.ATTENTION.AA.NUM_HEADS", "-1"),
        "MODEL.ATTENTION.AA.NUM_HEADS: got -1, expected a whole number from 1 to 65,536",
    ),
    "value ratio": (
        keys("MODEL.ATTENTION.AA.VALUE_RATIO", "1.5"),
        "MODEL.ATTENTION.AA.VALUE_RATIO: got 1.5, expected a number from 0 to 1",
    ),
    "value ratio nan": (
        settings("MODEL: {ATTENTION: {AA: {VALUE_RATIO: .nan}}}"),
        "MODEL.ATTENTION.AA.VALUE_RATIO: got nan, expected a number from 0 to 1",
    ),
    "stage": (
        keys("MODEL.ATTENTION.STAGES", "['res9']"),
        "MODEL.ATTENTION.STAGES: got ['res9'], expected a list, each one of 'res2', "
        "'res3', 'res4', 'res5'",
    ),
    "conv": (
        keys("MODEL.ATTENTION.CONV", "ab"),
        "MODEL.ATTENTION.CONV: got 'ab', expected one of '', 'aa', 'aw'",
    ),
    "backend": (
        keys("MODEL.ATTENTION.AA.BACKEND", "triton2"),
        "MODEL.ATTENTION.AA.BACKEND: got 'triton2', expected one of 'auto', 'dense', 'native', "
        "'blocked', 'fused', 'folded'",
    ),
    "scale jitter": (
        keys("INPUT.SCALE_JITTER.ENABLED", "True", "INPUT.SCALE_JITTER.RANGE", "(2,1)"),
        "INPUT.SCALE_JITTER.RANGE: got (2, 1), expected a list of 2, sorted, each a "
        "number from 0.01 to 100",
    ),
    "no training data": (
        datasets("DATASETS.TRAIN", "()"),
        "DATASETS.TRAIN is empty; name a dataset or use --train-json",
    ),
    "unknown dataset": (
        datasets("DATASETS.TRAIN", "('coco_2017_trian',)"),
        "unknown dataset 'coco_2017_trian', did you mean 'coco_2017_train'? known: {known}",
    ),
    "no batch": (
        keys("SOLVER.IMS_PER_BATCH", "0"),
        "SOLVER.IMS_PER_BATCH: got 0, expected a whole number from 1 to 65,536",
    ),
    "no iterations": (
        keys("SOLVER.MAX_ITER", "0"),
        "SOLVER.MAX_ITER: got 0, expected a whole number from 1 to 1,000,000,000,000",
    ),
    "no checkpoints": (
        keys("SOLVER.CHECKPOINT_PERIOD", "0"),
        "SOLVER.CHECKPOINT_PERIOD: got 0, expected a whole number from 1 to 1,000,000,000,000",
    ),
    "rate nan": (
        settings("SOLVER: {BASE_LR: .nan}"),
        "SOLVER.BASE_LR: got nan, expected a number above 0 and at most 1,000,000",
    ),
    "rate infinite": (
        settings("SOLVER: {BASE_LR: .inf}"),
        "SOLVER.BASE_LR: got inf, expected a number above 0 and at most 1,000,000",
    ),
    "rate zero": (
        keys("SOLVER.BASE_LR", "0"),
        "SOLVER.BASE_LR: got 0.0, expected a number above 0 and at most 1,000,000",
    ),
    "steps disordered": (
        keys("SOLVER.STEPS", "(2, 1)"),
        "SOLVER.STEPS: got (2, 1), expected a list, increasing, each a whole number from "
        "1 to 1,000,000,000,000",
    ),
    "schedule": (
        keys("SOLVER.LR_SCHEDULER_NAME", "Cosine"),
        "SOLVER.LR_SCHEDULER_NAME: got 'Cosine', expected one of 'WarmupMultiStepLR', "
        "'WarmupCosineLR'",
    ),
    "workers": (
        keys("DATALOADER.NUM_WORKERS", "-1"),
        "DATALOADER.NUM_WORKERS: got -1, expected a whole number from 0 to 1,024",
    ),
    "no sizes": (
        keys("INPUT.MIN_SIZE_TRAIN", "()"),
        "INPUT.MIN_SIZE_TRAIN: got (), expected a list of 1 or more, each a whole number "
        "from 0 to 32,768 (pixels; 0 resizes nothing)",
    ),
    "flip": (
        keys("INPUT.RANDOM_FLIP", "sideways"),
        "INPUT.RANDOM_FLIP: got 'sideways', expected one of 'horizontal', 'vertical', 'none'",
    ),
    "channels": (
        keys("MODEL.PIXEL_MEAN", "[0.5, 0.5]"),
        "MODEL.PIXEL_MEAN: got [0.5, 0.5], expected a number for each of 3 channels",
    ),
    "std zero": (
        keys("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]"),
        "MODEL.PIXEL_STD: got [1.0, 0.0, 1.0], expected a list of 1 or more, each a "
        "number from 1e-06 to 1,000,000",
    ),
    "device": (
        keys("MODEL.DEVICE", "gpu"),
        "MODEL.DEVICE: got 'gpu', expected cuda, cuda:<number> of an available GPU, or cpu",
    ),
    "depth": (
        keys("MODEL.RESNETS.DEPTH", "42"),
        "MODEL.RESNETS.DEPTH: got 42, expected one of 18, 34, 50, 101, 152",
    ),
    "width of R18": (
        keys("MODEL.RESNETS.RES2_OUT_CHANNELS", "256"),
        "MODEL.RESNETS.RES2_OUT_CHANNELS: got 256, expected 64 for a ResNet-18",
    ),
    "backbone": (
        keys("MODEL.BACKBONE.NAME", "build_resnet_fpn_bakcbone"),
        {
            "detectron2": (
                "MODEL.BACKBONE.NAME 'build_resnet_fpn_bakcbone' is not registered, did you mean "
                "build_resnet_fpn_backbone?"
            ),
            "torchvision": (
                "MODEL.BACKBONE.NAME: got 'build_resnet_fpn_bakcbone', expected "
                "'build_retinanet_resnet_fpn_backbone', 'build_retinanet_aa_resnet_fpn_backbone' "
                "on the torchvision engine; detectron2 has the rest"
            ),
        },
    ),
    "frozen at random": (
        keys("MODEL.BACKBONE.FREEZE_AT", "2"),
        (
            "MODEL.BACKBONE.FREEZE_AT 2 would keep random weights: MODEL.WEIGHTS is empty; "
            "name a checkpoint, or set MODEL.BACKBONE.FREEZE_AT to 0"
        ),
    ),
    "frozen norm at random": (
        keys("MODEL.RESNETS.NORM", "FrozenBN"),
        (
            "MODEL.RESNETS.NORM FrozenBN needs a checkpoint's statistics, but MODEL.WEIGHTS "
            "is empty: name a checkpoint, or set MODEL.RESNETS.NORM to BN, SyncBN or GN"
        ),
    ),
    "half precision without CUDA": (
        keys("SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"),
        {
            "detectron2": (
                "SOLVER.AMP.ENABLED: detectron2 has it on CUDA alone, and MODEL.DEVICE is cpu; set "
                "it to False, or use --engine torchvision (bfloat16)"
            )
        },
    ),
    "output is a file": (
        lambda place: place.output.write_text("x") and None,
        {"torchvision": ("OUTPUT_DIR {folder}/out: is a file, expected a folder")},
    ),
}


JSONS = {
    "missing": (
        lambda place: setattr(place, "content", None),
        "annotation file {folder}/my data.json does not exist",
    ),
    "folder": (
        lambda place: (setattr(place, "content", None), place.json.mkdir()) and None,
        "annotation file {folder}/my data.json cannot be read: Is a directory",
    ),
    "empty": (
        annotations(b""),
        "{folder}/my data.json is not JSON: line 1, column 1: Expecting value",
    ),
    "cut off": (
        annotations(json.dumps(CONTENT).encode()[:300]),
        "{folder}/my data.json is not JSON: line 1, column 301: Expecting value",
    ),
    "not UTF-8": (
        annotations(b'{"images": ["\xff"]}'),
        "{folder}/my data.json is not JSON: byte 13 is not UTF-8",
    ),
    "list": (
        annotations(b"[]"),
        (
            "{folder}/my data.json is not in COCO's format: expected an object with the lists "
            "images, categories, annotations, got a list"
        ),
    ),
    "no categories": (
        content(lambda c: c.pop("categories")),
        (
            "{folder}/my data.json is not in COCO's format: expected a list under "
            "'categories', got nothing"
        ),
    ),
    "categories empty": (
        content(lambda c: c.update(categories=[])),
        (
            "{folder}/my data.json declares no category (and 6 more: tools/check_dataset.py "
            "lists all)"
        ),
    ),
    "images empty": (
        content(lambda c: c.update(images=[], annotations=[])),
        "{folder}/my data.json lists no image (and 1 more: tools/check_dataset.py lists all)",
    ),
    "annotations empty": (
        content(lambda c: c.update(annotations=[])),
        "{folder}/my data.json has no annotation to train on",
    ),
    "annotation is a number": (
        content(lambda c: c["annotations"].append(5)),
        "{folder}/my data.json: annotations[4] is 5, expected an object",
    ),
    "no bbox": (
        record("annotations", 1, bbox=None),
        "{folder}/my data.json: annotations[1] (id 12): no 'bbox', expected list",
    ),
    "id is text": (
        record("annotations", 1, id="12"),
        "{folder}/my data.json: annotations[1] (id '12'): 'id' is '12', expected int",
    ),
    "image id twice": (
        content(lambda c: c["images"].append(c["images"][0])),
        "{folder}/my data.json: images has the id 1 more than once",
    ),
    "annotation id twice": (
        record("annotations", 1, id=11),
        "{folder}/my data.json: annotations has the id 11 more than once",
    ),
    "category id twice": (
        content(lambda c: c["categories"].append(c["categories"][0])),
        "{folder}/my data.json: categories has the id 3 more than once",
    ),
    "unknown category": (
        record("annotations", 1, category_id=5),
        "{folder}/my data.json: annotation 12 has category_id 5, expected one of 3, 7",
    ),
    "unknown image": (
        record("annotations", 1, image_id=9),
        (
            "{folder}/my data.json: annotation 12 has image_id 9, expected the id of one of "
            "the 4 images"
        ),
    ),
    "three numbers": (
        record("annotations", 1, bbox=[1, 2, 3]),
        (
            "{folder}/my data.json: annotation 12 has bbox [1, 2, 3], expected four finite "
            "numbers [x, y, width, height] with width and height at least 0"
        ),
    ),
    "number as text": (
        record("annotations", 1, bbox=[1, 2, "3", 4]),
        (
            "{folder}/my data.json: annotation 12 has bbox [1, 2, '3', 4], expected four "
            "finite numbers [x, y, width, height] with width and height at least 0"
        ),
    ),
    "box nan": (
        record("annotations", 1, bbox=[1, 2, float("nan"), 4]),
        (
            "{folder}/my data.json: annotation 12 has bbox [1, 2, nan, 4], expected four "
            "finite numbers [x, y, width, height] with width and height at least 0"
        ),
    ),
    "box infinite": (
        record("annotations", 1, bbox=[1, 2, float("inf"), 4]),
        (
            "{folder}/my data.json: annotation 12 has bbox [1, 2, inf, 4], expected four "
            "finite numbers [x, y, width, height] with width and height at least 0"
        ),
    ),
    "box negative": (
        record("annotations", 1, bbox=[1, 2, -3, 4]),
        (
            "{folder}/my data.json: annotation 12 has bbox [1, 2, -3, 4], expected four "
            "finite numbers [x, y, width, height] with width and height at least 0"
        ),
    ),
    "box outside": (
        record("annotations", 1, bbox=[64, 2, 3, 4]),
        (
            "{folder}/my data.json: annotation 12 has bbox [64, 2, 3, 4] of a 64x48 image: it "
            "lies outside"
        ),
    ),
    "boxes in fractions": (
        content(lambda c: [a.update(bbox=[0.1, 0.1, 0.5, 0.5]) for a in c["annotations"]]),
        (
            "{folder}/my data.json: every number of every bbox is at most 1, as in annotation "
            "11: [0.1, 0.1, 0.5, 0.5]; expected pixels, not fractions of the image"
        ),
    ),
    "area nan": (
        record("annotations", 1, area=float("nan")),
        (
            "{folder}/my data.json: annotation 12 has area nan, expected a finite number of "
            "at least 0"
        ),
    ),
    "size missing": (
        record("images", 1, width=None),
        "{folder}/my data.json: images[1] (id 2): no 'width', expected int or float",
    ),
    "size zero": (
        record("images", 1, width=0),
        (
            "{folder}/my data.json: image 2 has width 0 and height 48, expected whole numbers "
            "of at least 1"
        ),
    ),
    "crowds only": (
        content(lambda c: [a.update(iscrowd=1) for a in c["annotations"]]),
        "{folder}/my data.json has no annotation to train on, crowds aside",
    ),
    "ignored": (
        record("annotations", 1, ignore=1),
        (
            "{folder}/my data.json: annotation 12 has 'ignore' set, which is no key of COCO's "
            "format: remove the annotation, or set 'iscrowd' instead"
        ),
    ),
    "several": (
        content(lambda c: [a.update(category_id=1) for a in c["annotations"]]),
        (
            "{folder}/my data.json: annotation 11 has category_id 1, expected one of 3, 7 "
            "(and 3 more: tools/check_dataset.py lists all)"
        ),
    ),
    "folder of images missing": (
        lambda place: shutil.rmtree(place.images),
        (
            "image folder {folder}/my images does not exist (images of {folder}/my data.json) "
            "(and 1 more: tools/check_dataset.py lists all)"
        ),
    ),
}

IMAGES = {
    "missing": (
        image(Path.unlink),
        "image file {folder}/my images/2.png does not exist (image 2 of {folder}/my data.json)",
    ),
    "empty": (
        image(lambda path: path.write_bytes(b"")),
        (
            "image file {folder}/my images/2.png (image 2) cannot be read: it is no image of "
            "a format that Pillow knows ({folder}/my data.json)"
        ),
    ),
    "text": (
        image(lambda path: path.write_text("not an image")),
        (
            "image file {folder}/my images/2.png (image 2) cannot be read: it is no image of "
            "a format that Pillow knows ({folder}/my data.json)"
        ),
    ),
    "folder": (
        image(lambda path: (path.unlink(), path.mkdir())),
        "image file {folder}/my images/2.png does not exist (image 2 of {folder}/my data.json)",
    ),
    "another size": (
        image(lambda path: Image.new("RGB", (48, 64)).save(path)),
        (
            "image file {folder}/my images/2.png (image 2) has 48x64 pixels, but its "
            "annotations say 64x48 ({folder}/my data.json)"
        ),
    ),
    "cut off in the header": (
        image(lambda path: path.write_bytes(path.read_bytes()[:20])),
        (
            "image file {folder}/my images/2.png (image 2) cannot be read: Truncated File "
            "Read ({folder}/my data.json)"
        ),
    ),
    "turned by EXIF": (
        image(turned),
        (
            "image file {folder}/my images/2.png (image 2) has 48x64 pixels as its EXIF "
            "orientation turns it, but its annotations say 64x48 ({folder}/my data.json)"
        ),
    ),
    "floating point": (
        image(lambda path: Image.new("F", (64, 48)).save(path, format="TIFF")),
        (
            "image file {folder}/my images/2.png (image 2) cannot be read: its pixels are of "
            "mode F, 32 bits each; convert it to 8 bits ({folder}/my data.json)"
        ),
    ),
}

TABLES = {"config": CONFIGS, "json": JSONS, "image": IMAGES}
ROWS = [
    pytest.param(engine, make, expected, id=f"{engine}-{kind}-{name}")
    for kind, table in TABLES.items()
    for name, (make, lines) in table.items()
    for engine, expected in (
        lines if type(lines) is dict else dict.fromkeys(ENGINES, lines)
    ).items()
]


@pytest.fixture(scope="module")
def main(load_tool):
    return load_tool("train_net").main


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr("aa_detection.data.catalog._registered", {})
    return Place(tmp_path)


@pytest.mark.parametrize("engine, make, line", ROWS)
def test_malformed_input(engine, make, line, place, main, capsys):
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="detectron2 is not installed")
    words = make(place) or []
    if place.content is not None:
        place.json.write_text(json.dumps(place.content))
    before = {path: path.stat().st_mtime_ns for path in place.folder.rglob("*")}
    status = main(["--engine", engine, "--config-file", str(place.config), *place.data, *words])
    out, err = capsys.readouterr()
    assert status == 2
    known = ", ".join(sorted(_BUILTIN))
    expected = line.format(folder=place.folder, known=known, configs=configs_folder())
    assert err == f"train_net.py: {expected}\n"
    assert {path: path.stat().st_mtime_ns for path in place.folder.rglob("*")} == before
