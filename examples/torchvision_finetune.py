#!/usr/bin/env python
"""Attention in torchvision's RetinaNet, trained and evaluated on a dataset in COCO's format.

python tools/draw_dataset.py sample     # into datasets/aa_sample
python examples/torchvision_finetune.py --data datasets/aa_sample --pretrained
"""

import argparse
from pathlib import Path

import torch
from pycocotools.coco import COCO
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import (
    RetinaNet_ResNet50_FPN_V2_Weights,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.retinanet import RetinaNetClassificationHead
from torchvision.transforms import v2

from aa_detection import AttentionSpec, augment
from aa_detection.evaluation import coco_ap


def build_model(num_classes: int, image_size: int, pretrained: bool) -> nn.Module:
    """torchvision's RetinaNet with attention in the last three stages of its ResNet-50."""
    sizes = {"min_size": image_size, "max_size": 2 * image_size}
    if pretrained:  # downloads them, unless they are in torch's cache
        weights = RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1
        model = retinanet_resnet50_fpn_v2(weights=weights, **sizes)
        # COCO's classes make way for ours, as in any fine-tuning
        model.head.classification_head = RetinaNetClassificationHead(
            model.backbone.out_channels,
            model.head.classification_head.num_anchors,
            num_classes,
            norm_layer=lambda channels: nn.GroupNorm(32, channels),
        )
    else:
        model = retinanet_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=num_classes, **sizes
        )
    # The one line. Of the pretrained filters each 3×3 convolution keeps nine tenths, and attention
    # makes the other maps. Padding is found in the batch and left out; nothing else has to know.
    augment(model.backbone.body, AttentionSpec(max_image_size=2 * image_size))
    return model


def open_dataset(folder: Path, split: str) -> CocoDetection:
    """Images as floats in 0 … 1, targets with torchvision's boxes, labels and the image's id."""
    transforms = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if split == "train":
        transforms.append(v2.RandomHorizontalFlip())
    dataset = CocoDetection(
        folder / split, folder / f"annotations/{split}.json", transforms=v2.Compose(transforms)
    )
    return wrap_dataset_for_transforms_v2(dataset, target_keys=("image_id", "boxes", "labels"))


def collate(samples):
    """Lists, since images differ in size; one without objects gets boxes of shape (0, 4)."""
    images, targets = zip(*samples)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return list(images), [{**nothing, **target} for target in targets]


def train(model: nn.Module, dataset: CocoDetection, steps: int, device: str) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.005, momentum=0.9, weight_decay=1e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=max(1, steps // 5))
    loader = DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate)
    model.train()
    step = 0
    while step < steps:
        for images, targets in loader:
            images = [image.to(device) for image in images]
            targets = [
                {key: target[key].to(device) for key in ("boxes", "labels")} for target in targets
            ]
            losses = model(images, targets)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            warmup.step()
            step += 1
            if step % 10 == 0 or step == steps:
                print(
                    f"step {step}:", {name: round(loss.item(), 3) for name, loss in losses.items()}
                )
            if step == steps:
                break


@torch.no_grad()
def evaluate(model: nn.Module, dataset: CocoDetection, coco: COCO, device: str) -> dict[str, float]:
    """COCO's metrics, in percent."""
    model.eval()
    detections = []
    for images, targets in DataLoader(dataset, batch_size=1, collate_fn=collate):
        for target, found in zip(targets, model([image.to(device) for image in images])):
            found["boxes"][:, 2:] -= found["boxes"][:, :2]  # COCO's (x, y, width, height)
            detections += [
                {"image_id": target["image_id"], "category_id": label, "bbox": box, "score": score}
                for box, label, score in zip(
                    *(found[k].tolist() for k in ("boxes", "labels", "scores"))
                )
            ]
    return coco_ap(coco, detections)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("datasets/aa_sample"), metavar="FOLDER")
    parser.add_argument("--pretrained", action="store_true", help="start from COCO's weights")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--image-size", type=int, default=256, help="shorter side, in pixels")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    coco = COCO(args.data / "annotations/val.json")
    # torchvision's labels are the category ids, of which 0 is the background's
    model = build_model(max(coco.cats) + 1, args.image_size, args.pretrained).to(args.device)
    train(model, open_dataset(args.data, "train"), args.steps, args.device)
    metrics = evaluate(model, open_dataset(args.data, "val"), coco, args.device)
    print({name: round(value, 1) for name, value in metrics.items()})
    return 0


if __name__ == "__main__":
    main()
