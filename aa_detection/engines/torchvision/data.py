"""COCO images for training and evaluation, resized, cropped and flipped as in detectron2."""

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from ...data import CocoDataset, open_coco, read_image
from ...evaluation import Detections
from ...training.batches import TrainingBatches
from ...training.interrupt import leave_to_parent

Sample = tuple[Tensor, dict[str, Tensor]]
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


class DetectionDataset(Dataset[Sample]):
    """Images with boxes from one or several COCO datasets with the same categories.

    An item is ``(image, target)``: the image ``(3, H, W)`` uint8 in ``INPUT.FORMAT`` order; the
    target with ``boxes`` (N, 4) in x1, y1, x2, y2 of the resized image, 0-based ``labels`` (N,),
    and ``image_id`` and ``size`` (height, width) of the original.

    Args:
        train: augment; leave out crowds and, if ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` is set,
            images without objects. The item's key is then ``(index, seed)``, and the same key gives
            the same augmentation in any process.
    """

    def __init__(self, cfg: CfgNode, datasets: Sequence[CocoDataset], train: bool) -> None:
        self.train = train
        self.format = cfg.INPUT.FORMAT
        self.flip = cfg.INPUT.RANDOM_FLIP
        self.jitter = cfg.INPUT.SCALE_JITTER if train and cfg.INPUT.SCALE_JITTER.ENABLED else None
        self.sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
        self.sizes = cfg.INPUT.MIN_SIZE_TRAIN if train else (cfg.INPUT.MIN_SIZE_TEST,)
        self.max_size = cfg.INPUT.MAX_SIZE_TRAIN if train else cfg.INPUT.MAX_SIZE_TEST
        self.records = []
        for dataset in datasets:
            coco = open_coco(dataset)
            label = {category: i for i, category in enumerate(sorted(coco.getCatIds()))}
            for image in coco.imgs.values():
                annotations = coco.imgToAnns[image["id"]]
                if train:
                    annotations = [a for a in annotations if not a.get("iscrowd", 0)]
                    if not annotations and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
                        continue
                boxes = torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4)
                labels = torch.tensor([label[a["category_id"]] for a in annotations]).long()
                path = dataset.image_root / image["file_name"]
                self.records.append((path, image["id"], boxes, labels, image))

    def __len__(self) -> int:
        return len(self.records)

    def is_wide(self, index: int) -> bool:
        """Whether the image is wider than tall by the annotations, without opening it."""
        image = self.records[index][4]
        return image["width"] > image["height"]

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, seed = (key, 0) if isinstance(key, int) else key
        path, image_id, boxes, labels, stated = self.records[index]
        image = read_image(path, image_id, (stated["width"], stated["height"]))
        height, width = image.height, image.width
        boxes = tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=(height, width))
        boxes = F.clamp_bounding_boxes(F.convert_bounding_box_format(boxes, new_format="XYXY"))

        generator = torch.Generator().manual_seed(seed)
        if self.jitter is None:
            size = shortest_edge(height, width, self._edge(generator), self.max_size)
        else:
            low, high = self.jitter.RANGE
            factor = low + (high - low) * float(torch.rand((), generator=generator))
            size = fit(height, width, factor * self.jitter.SIZE)
        image, boxes = F.resize(image, size), F.resize(boxes, size)  # PIL's bilinear filter
        if self.jitter is not None:
            place = float(torch.rand((), generator=generator))
            window = crop_window(*size, self.jitter.SIZE, place)
            image, boxes = F.crop(image, *window), F.crop(boxes, *window)
        if self.train and self.flip != "none" and torch.rand((), generator=generator) < 0.5:
            flip = F.horizontal_flip if self.flip == "horizontal" else F.vertical_flip
            image, boxes = flip(image), flip(boxes)

        pixels = F.pil_to_tensor(image)
        if self.format == "BGR":
            pixels = pixels.flip(0)
        boxes = boxes.as_subclass(Tensor)
        keep = (boxes[:, 2:] - boxes[:, :2] > 1e-5).all(dim=1)  # as detectron2 does
        return pixels, {
            "boxes": boxes[keep],
            "labels": labels[keep],
            "image_id": torch.tensor(image_id),
            "size": torch.tensor([height, width]),
        }

    def _edge(self, generator: torch.Generator) -> int:
        if self.sampling == "range" and self.train:
            low, high = min(self.sizes), max(self.sizes)
            return int(torch.randint(low, high + 1, (), generator=generator))
        return self.sizes[int(torch.randint(len(self.sizes), (), generator=generator))]


def shortest_edge(height: int, width: int, edge: int, max_size: int) -> tuple[int, int]:
    """Return height and width with the shorter one `edge`, the longer at most `max_size`.

    Rounds like detectron2's ``ResizeShortestEdge``; an `edge` of 0 resizes nothing.
    """
    if edge == 0:
        return height, width
    # detectron2's order of operations, which decides how halves round
    scale = edge / min(height, width)
    new = [edge if n == min(height, width) else scale * n for n in (height, width)]
    if max(new) > max_size:
        scale = max_size / max(new)
        new = [n * scale for n in new]
    return max(1, int(new[0] + 0.5)), max(1, int(new[1] + 0.5))


def in_picture(
    output: dict[str, Tensor], input_size: Sequence[int], picture_size: Sequence[int]
) -> Detections:
    """Rescale the network's output on a resized picture to the original; sizes: rows, columns."""
    boxes = output["boxes"]
    (height, width), (rows, columns) = picture_size, input_size
    scale = torch.tensor([width, height, width, height]) / torch.tensor([columns, rows] * 2)
    return Detections.of(boxes * scale.to(boxes), output["scores"], output["labels"])


def fit(height: int, width: int, side: float) -> tuple[int, int]:
    """Return height and width with the longer one `side`, rounded like ``ResizeScale``."""
    scale = min(side / height, side / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def crop_window(height: int, width: int, size: int, place: float) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a window of at most ``size`` × ``size``.

    `place`, 0 … 1, moves the window from the top left to the bottom right over the part beyond
    `size`, one number for both axes as in detectron2's ``FixedSizeCrop``.
    """
    top, left = (round(max(n - size, 0) * place) for n in (height, width))
    return top, left, min(height, size), min(width, size)


def collate(samples: list[Sample]) -> Batch:
    """Return images of different sizes as a list; the model pads them."""
    images, targets = zip(*samples)
    return list(images), list(targets)


def train_loader(
    cfg: CfgNode,
    datasets: Sequence[CocoDataset],
    *,
    seed: int,
    start: int,
    rank: int,
    world_size: int,
) -> DataLoader[Sample]:
    """Yield the batches of iterations `start` to ``SOLVER.MAX_ITER``, in parts."""
    dataset = DetectionDataset(cfg, datasets, train=True)
    batches = TrainingBatches(
        [dataset.is_wide(index) for index in range(len(dataset))],
        cfg.SOLVER.IMS_PER_BATCH // world_size,
        parts=cfg.SOLVER.GRAD_ACCUM_STEPS,
        seed=seed,
        start=start,
        end=cfg.SOLVER.MAX_ITER,
        group=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        rank=rank,
        world_size=world_size,
    )
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
        worker_init_fn=leave_to_parent,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )


def test_loader(
    cfg: CfgNode, dataset: CocoDataset, *, rank: int, world_size: int
) -> DataLoader[Sample]:
    """Yield every image once, one per batch, split over the processes.

    If there are fewer images than processes, those without one get the first: Lightning would
    leave a process without images out of the evaluation, and the others would wait for it.
    """
    images = DetectionDataset(cfg, [dataset], train=False)
    share = range(rank, len(images), world_size) or range(min(1, len(images)))
    return DataLoader(
        Subset(images, share),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=collate,
        worker_init_fn=leave_to_parent,
    )
