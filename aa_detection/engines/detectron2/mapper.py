"""Map records of detectron2's catalog to training samples."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import convert_PIL_to_numpy

from ...data import read_image


class ImageMapper(DatasetMapper):
    """``DatasetMapper`` that reads images with :func:`aa_detection.data.read_image`.

    This converts 16-bit images as the embedded engine does, and names a broken image. Records with
    semantic segmentation or precomputed proposals are left to detectron2's own mapper.
    """

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        if "sem_seg_file_name" in record or self.proposal_topk is not None:
            return super().__call__(record)
        record = copy.deepcopy(record)
        size = (record["width"], record["height"]) if "width" in record else None
        image = read_image(record["file_name"], record.get("image_id"), size)
        record.update(width=image.width, height=image.height)
        sample = T.AugInput(convert_PIL_to_numpy(image, self.image_format))
        transforms = self.augmentations(sample)
        pixels = sample.image.transpose(2, 0, 1)  # (H, W, C) to (C, H, W)
        record["image"] = torch.as_tensor(np.ascontiguousarray(pixels))
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, sample.image.shape[:2])
        return record
