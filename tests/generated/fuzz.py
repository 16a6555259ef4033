"""Fuzz a reader of foreign files: whatever the bytes, it reads them or refuses them in one line.

    pip install atheris
    python tests/generated/fuzz.py yaml -max_total_time=600

Readers: json, yaml, checkpoint, safetensors. Further words are libFuzzer's. An input that ends in
anything but a refusal is kept in the working folder as crash-…; give its name to see it again.
"""

import functools
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import torch

with atheris.instrument_imports(include=["aa_detection", "yaml", "yacs"]):
    from safetensors.torch import save as save_safetensors

    from aa_detection.checkpoints import read_checkpoint
    from aa_detection.checkpoints.about import read_about
    from aa_detection.comparison.results import read_results
    from aa_detection.config import ConfigError, check_values, merge_text
    from aa_detection.data import DatasetError, index_annotations, read_coco_annotations
    from aa_detection.engines.torchvision import load_config

CONTENT = {
    "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 48}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    ],
}
RESULTS = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]
WEIGHTS = {"backbone.bottom_up.res2.0.conv1.weight": torch.ones(2, 2)}


def read_json(file: Path) -> None:
    coco = index_annotations(json.loads(json.dumps(CONTENT)))
    try:
        read_coco_annotations(file)
    finally:
        read_results(coco, file)


@functools.cache
def _config():
    return load_config("sample/aa_retinanet_R18.yaml")


def read_yaml(file: Path) -> None:
    cfg = _config().clone()
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    merge_text(cfg, text, "fuzz")
    check_values(cfg)


def read_weights(file: Path) -> None:
    read_about(read_checkpoint(str(file), allow_pickle=True))


def _saved() -> bytes:
    file = io.BytesIO()
    torch.save({"model": WEIGHTS, "iteration": 3, "aa_detection": {"config": ""}}, file)
    return file.getvalue()


# the reader, the ending of its files, and files to begin with
READERS: dict[str, tuple[Callable[[Path], None], str, Callable[[], list[bytes]]]] = {
    "json": (read_json, ".json", lambda: [json.dumps(c).encode() for c in (CONTENT, RESULTS)]),
    "yaml": (
        read_yaml,
        ".yaml",
        lambda: [b"MODEL: {FPN: {NORM: GN}}\n", _config().dump().encode()],
    ),
    "checkpoint": (read_weights, ".pth", lambda: [_saved()]),
    "safetensors": (read_weights, ".safetensors", lambda: [save_safetensors(WEIGHTS)]),
}


def main(argv: list[str]) -> None:
    if len(argv) < 2 or argv[1] not in READERS:
        raise SystemExit(__doc__)
    read, ending, seeds = READERS[argv[1]]
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    file, corpus = folder / f"fuzz{ending}", folder / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds()):
        (corpus / str(i)).write_bytes(seed)

    def one(data: bytes) -> None:
        file.write_bytes(data)
        try:
            read(file)
        except (ConfigError, DatasetError) as error:
            if "\n" in str(error):
                raise AssertionError(f"several lines: {error}") from error

    atheris.Setup([argv[0], str(corpus), *argv[2:]], one)
    atheris.Fuzz()


main(sys.argv)
