#!/usr/bin/env python
"""A classifier, plain or with attention, on images in a folder a class; a detector starts from it.

python examples/train_classifier.py --data images --network aa_resnet18 --output output/aa_resnet18

`--data` holds `train/` and `val/`, and each of them a folder a class. The same command continues a
training that was interrupted, from its last complete epoch. `OUTPUT/model_final.pth` has
torchvision's names and expects its colours, which `MODEL.WEIGHTS` of a detector takes.
"""

import argparse
import csv
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from aa_detection.models import classification

PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101")
ATTENTIVE = ("aa_resnet18", "aa_resnet34", "aa_resnet50", "aa_resnet101")
# torchvision's: a detector that loads the weights is to be given the same colours
COLOURS = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def build(network: str, num_classes: int, image_size: int) -> torch.nn.Module:
    if network in PLAIN:
        return getattr(torchvision.models, network)(num_classes=num_classes)
    return getattr(classification, network)(num_classes, image_size)


def open_images(folder: Path, image_size: int, augment: bool) -> ImageFolder:
    if augment:
        crop = [v2.RandomResizedCrop(image_size, scale=(0.35, 1.0)), v2.RandomHorizontalFlip()]
    else:
        crop = [v2.Resize(image_size), v2.CenterCrop(image_size)]
    tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), COLOURS]
    return ImageFolder(str(folder), v2.Compose([*crop, *tensor]))


class Classifier(LightningModule):
    """Cross-entropy with smoothed labels, SGD, one cycle of the learning rate."""

    def __init__(self, network: torch.nn.Module, learning_rate: float) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.learning_rate = learning_rate
        self.ranks: list[Tensor] = []  # of the true class of every validation image, 0 the first

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        scores = self.network(images.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(scores.float(), labels, label_smoothing=0.1)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.ranks = []

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        scores = self.network(images.to(memory_format=torch.channels_last)).float()
        true = scores.gather(1, labels[:, None])
        self.ranks.append((scores > true).sum(1).cpu())

    def on_validation_epoch_end(self) -> None:
        ranks = torch.cat(self.ranks)
        self.log_dict({f"top{k}": 100 * (ranks < k).float().mean() for k in (1, 5)}, prog_bar=True)

    def configure_optimizers(self):
        # as in torchvision's references: what scales and shifts does not decay
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}],
            lr=self.learning_rate,
            momentum=0.9,
            nesterov=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.2,
            cycle_momentum=False,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, in percent."""
    z = 1.959964
    share = right / total
    centre = share + z**2 / (2 * total)
    reach = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    scale = 100 / (1 + z**2 / total)
    return scale * (centre - reach), scale * (centre + reach)


def write_result(model: Classifier, validation: ImageFolder, args: argparse.Namespace) -> None:
    """What the network scored, which images it got right, and its weights."""
    ranks = torch.cat(model.ranks)
    settings = {key: value for key, value in vars(args).items() if key not in ("data", "output")}
    result: dict[str, object] = {"settings": settings, "torch": torch.__version__}
    for k in (1, 5):
        right, total = int((ranks < k).sum()), len(ranks)
        low, high = interval(right, total)
        result[f"top{k}"] = {"percent": 100 * right / total, "low": low, "high": high}
        print(
            f"top-{k}: {100 * right / total:.1f} % of {total} images, "
            f"95 % interval {low:.1f} to {high:.1f}"
        )
    (args.output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    with open(args.output / "ranks.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("image", "rank of its class"))
        for (path, _), rank in zip(validation.samples, ranks.tolist()):
            rows.writerow((Path(path).relative_to(args.data / "val").as_posix(), rank))
    torch.save({"model": model.network.state_dict()}, args.output / "model_final.pth")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--network", choices=(*PLAIN, *ATTENTIVE), default="resnet18")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=224, help="side of the square crops")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="the highest of the cycle")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes that load images")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    args = parser.parse_args(argv)

    for split in ("train", "val"):
        if not (args.data / split).is_dir():
            parser.error(f"--data {args.data}: expected a folder {split} with a folder a class")
    try:
        training = open_images(args.data / "train", args.image_size, augment=True)
        validation = open_images(args.data / "val", args.image_size, augment=False)
    except FileNotFoundError as error:  # no class, or one without images
        parser.error(f"--data {args.data}: {error}")
    if training.classes != validation.classes:
        odd = sorted({*training.classes} ^ {*validation.classes})
        parser.error(f"--data {args.data}: train and val differ in their classes, as in {odd[0]}")
    if len(training) < args.batch_size:
        parser.error(f"--batch-size {args.batch_size}: train has {len(training)} images only")

    seed_everything(args.seed)
    model = Classifier(
        build(args.network, len(training.classes), args.image_size), args.learning_rate
    )
    loading = {"batch_size": args.batch_size, "num_workers": args.workers}
    train_loader = DataLoader(training, shuffle=True, drop_last=True, **loading)
    val_loader = DataLoader(validation, **loading)
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=args.epochs,
        precision=args.precision,
        callbacks=[ModelCheckpoint(args.output, filename="{epoch}", save_last=True)],
        logger=False,
        num_sanity_val_steps=0,
    )
    last = args.output / "last.ckpt"
    trainer.fit(model, train_loader, val_loader, ckpt_path=str(last) if last.exists() else None)
    trainer.validate(model, val_loader, verbose=False)
    write_result(model, validation, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
