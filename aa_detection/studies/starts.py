"""How much of a pretrained detector's AP each way to add attention keeps.

The detector is fine-tuned as in detectron2: frozen norms, frozen stem and res2, two images per
step. A row is one start under one padding mask, with its AP before the first step and after a few.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from ..atomic_file import atomic_write
from ..checkpoints import write_weights
from ..checkpoints.names import detectron2_name
from ..config import ConfigError
from ..data import get_coco_dataset, open_coco, read_image
from ..engines import Engine, RunOptions
from ..models import CONVS, AttentionSpec
from ..models.resnet import blocks_with_stride, norm_beside, spatial_conv_name

MASKS = ("none", "batch", "all")
# the plain checkpoint's weights, and the same network with its least important filters last
AS_TRAINED, RANKED = "as trained", "ranked"
# by name: the weights, and MODEL.ATTENTION
STARTS: dict[str, tuple[str, dict[str, str]]] = {
    "plain": (AS_TRAINED, {}),
    "concat, norm thawed": (AS_TRAINED, {"CONV": "aa_thawed"}),
    "concat": (AS_TRAINED, {"CONV": "aa"}),
    "concat, least filters": (RANKED, {"CONV": "aa"}),
    "add": (AS_TRAINED, {"CONV": "aa", "AA.MERGE": "add"}),
}
# learning rate and warm-up of the few steps; a quarter of the rate for eight images
FINE_TUNING = (
    "MODEL.RESNETS.NORM", "FrozenBN",
    "MODEL.BACKBONE.FREEZE_AT", "2",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.BASE_LR", "0.0075",
    "SOLVER.WARMUP_ITERS", "10",
    "SOLVER.STEPS", "()",
    "SEED", "1",
)  # fmt: skip


def _thawed(spec: AttentionSpec, stage: str, image_stride: int, **arguments: Any) -> nn.Module:
    """Build the concatenation as a custom entry, after which ``augment`` thaws a frozen norm."""
    return CONVS["aa"](spec, stage, image_stride, **arguments)


@torch.no_grad()
def rank_filters(resnet: nn.Module) -> None:
    """Sort the filters that attention would replace by importance, in place.

    A filter's importance is the scale of its norm times the norm of the weights that read it. The
    network computes the same as before.
    """
    for _, block, _ in blocks_with_stride(resnet):
        name = spatial_conv_name(block)
        conv: Any = getattr(block, name)
        norm: Any = getattr(block, norm_beside(name), None) or conv.norm
        reader: Any = getattr(block, f"conv{int(name[-1]) + 1}")
        matters = norm.weight.abs() * reader.weight.flatten(2).square().sum(dim=(0, 2)).sqrt()
        order = matters.argsort(descending=True)
        conv.weight.copy_(conv.weight[order])
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(tensor[order])
        reader.weight.copy_(reader.weight[:, order])


class Study:
    """Rows of the table, each saved as soon as it is measured.

    Args:
        engine: trains and evaluates.
        config_file: of the plain detector.
        overrides: ``KEY VALUE …`` of every run; ``MODEL.WEIGHTS`` is the plain detector's.
        steps: number of fine-tuning steps.
        work: folder of the runs' own output.
        record: JSON file of the rows.
    """

    def __init__(
        self,
        engine: Engine,
        config_file: str,
        overrides: Sequence[str],
        *,
        steps: int,
        work: Path,
        record: Path,
    ) -> None:
        CONVS.setdefault("aa_thawed", _thawed)
        self.engine, self.config_file, self.overrides = engine, config_file, tuple(overrides)
        self.steps, self.work, self.record = steps, work, record
        self.plain = self._config("plain", "none", "")
        self.rows: list[dict[str, Any]] = []
        settings = {"config": Path(config_file).name, "steps": steps, "keys": list(overrides)}
        self.content = {**settings, "engine": engine.__name__.rpartition(".")[2], "rows": self.rows}
        if record.exists():
            try:
                found = json.loads(record.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{record}: not a record of this study: {error}") from None
            if not isinstance(found, dict) or found | {"rows": []} != self.content | {"rows": []}:
                raise ConfigError(
                    f"{record}: rows of another study; remove it or name another file"
                )
            self.rows += found["rows"]

    def complete(self, report: Callable[[str], None]) -> None:
        """Measure the missing rows."""
        done = {(row["start"], row["mask"]) for row in self.rows}
        for mask in MASKS:
            for start in STARTS:
                if (start, mask) in done:
                    continue
                row = {"start": start, "mask": mask, **self._measure(start, mask)}
                if start == "plain":
                    row["batch_difference"] = self._batch_difference(mask)
                self.rows.append(row)
                self.record.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(self.record, "w") as file:
                    file.write(json.dumps(self.content, indent=1) + "\n")
                report(f"{start}, mask {mask}: AP {row['before']:.1f}, then {row['after']:.1f}")

    def table(self) -> Iterator[str]:
        """Yield the rows in Markdown."""
        masks = " | ".join(f"{mask}: before | after {self.steps} steps" for mask in MASKS)
        yield f"| start | {masks} |"
        yield "|---" * (1 + 2 * len(MASKS)) + "|"
        rows = {(row["start"], row["mask"]): row for row in self.rows}
        for start in STARTS:
            found = [rows.get((start, mask)) for mask in MASKS]
            cells = [
                f"{row[when]:.1f}" if row else "" for row in found for when in ("before", "after")
            ]
            yield f"| {start} | {' | '.join(cells)} |"
        yield ""
        for mask in MASKS:
            if ("plain", mask) in rows:
                difference = rows["plain", mask]["batch_difference"]
                yield (
                    f"- mask {mask}: beside a larger image the plain detector's pyramid differs by "
                    f"{difference:.1%} of its mean"
                )

    def _config(self, start: str, mask: str, name: str, *more: str) -> CfgNode:
        weights, attention = STARTS[start]
        keys = {**attention, "AA.MASK_PADDING": mask}
        overrides = [*self.overrides, *FINE_TUNING, "SOLVER.MAX_ITER", str(self.steps)]
        for key, value in keys.items():
            overrides += [f"MODEL.ATTENTION.{key}", value]
        overrides += ["OUTPUT_DIR", str(self.work / name), *more]
        if weights == RANKED:
            overrides += ["MODEL.WEIGHTS", str(self._ranked())]
        return self.engine.load_config(self.config_file, overrides)

    def _ranked(self) -> Path:
        path = self.work / "ranked.safetensors"
        if not path.exists():
            model: Any = self.engine.load_model(self.plain)
            rank_filters(_resnet(model))
            path.parent.mkdir(parents=True, exist_ok=True)
            weights = {detectron2_name(k): v for k, v in model.state_dict().items()}
            write_weights(str(path), weights)
        return path

    def _measure(self, start: str, mask: str) -> dict[str, float]:
        name = f"{start}, {mask}".replace(", ", "-").replace(" ", "-")
        found = {
            "before": self.engine.run(
                self._config(start, mask, f"{name}-before"),
                RunOptions(eval_only=True, allow_partial=True),
            ),
            "after": self.engine.run(self._config(start, mask, name)),
        }
        # detectron2 reports no AP if nothing was detected
        return {when: float(np.nan_to_num(each["bbox"]["AP"])) for when, each in found.items()}

    @torch.no_grad()
    def _batch_difference(self, mask: str, images: int = 50) -> float:
        """Return the pyramid's mean change beside a larger image, relative to its mean."""
        cfg = self._config("plain", mask, "")
        model: Any = self.engine.load_model(cfg)
        mean, std = (
            torch.tensor(values)[:, None, None]
            for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        dataset = get_coco_dataset(cfg.DATASETS.TEST[0])
        difference = total = 0.0
        for image in open_coco(dataset).dataset["images"][:images]:
            pixels = np.array(read_image(Path(dataset.image_root) / image["file_name"]))
            if cfg.INPUT.FORMAT == "BGR":
                pixels = pixels[:, :, ::-1].copy()
            normalised = (torch.from_numpy(pixels).permute(2, 0, 1) - mean) / std
            alone, beside = (
                model.backbone(_padded(normalised, more).to(cfg.MODEL.DEVICE)) for more in (0, 64)
            )
            for name, maps in alone.items():
                height, width = maps.shape[2:]
                difference += float((beside[name][:, :, :height, :width] - maps).abs().sum())
                total += float(maps.abs().sum())
        return difference / total


def _padded(image: Tensor, more: int) -> Tensor:
    """Return ``(1, C, H, W)``, padded to multiples of 32 as a pyramid requires, and by `more`."""
    height, width = (-(-n // 32) * 32 + more for n in image.shape[1:])
    return F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))[None]


def _resnet(model: Any) -> nn.Module:
    return getattr(model.backbone, "bottom_up", None) or model.backbone.body
