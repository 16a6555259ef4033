"""detectron2's checkpointer, taught what an augmented convolution keeps of a plain one."""

from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

from ...models.weights import slice_plain_convs


class AACheckpointer(DetectionCheckpointer):
    """Loads plain checkpoints into augmented networks, and ``.pth`` files as data only."""

    def _torch_load(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: dict[str, Any]):
        # before detectron2 matches names: it drops tensors whose shape differs
        if checkpoint.get("__author__") == "Caffe2":
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"], _ = convert_c2_detectron_names(checkpoint["model"])
            checkpoint["__author__"] = "Caffe2, names converted"
        else:
            self._convert_ndarray_to_tensor(checkpoint["model"])
        sliced = slice_plain_convs(self.model, checkpoint["model"])
        if sliced:
            self.logger.info(
                "Kept the filters that attention does not replace of: %s", ", ".join(sliced)
            )
        return super()._load_model(checkpoint)
