"""A detectron2 checkpointer that reads and loads like :mod:`aa_detection.checkpoints`."""

import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ...atomic_file import atomic_write
from ...checkpoints import About, load_checkpoint, read_checkpoint
from ...training.guard import check_weights


class AACheckpointer(DetectionCheckpointer):
    """Read files as data only, and load plain checkpoints into augmented networks.

    Files are written atomically and never hold weights that are not finite.

    Args:
        allow_pickle: read ``.pkl`` files, accepting only arrays.
        allow_partial: load less than half of the backbone's parameters.
        about: metadata written into its files.

    Attributes:
        saved_model: the module whose weights are saved as ``model``: the average, if weights are
            averaged.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        allow_pickle: bool = False,
        allow_partial: bool = False,
        about: About | None = None,
        **how: Any,
    ) -> None:
        super().__init__(model, save_dir, **how)
        self.allow_pickle = allow_pickle
        self.allow_partial = allow_partial
        self.about = about
        self.saved_model = self.model

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        check_weights(self.model, kwargs.get("iteration"), self.get_checkpoint_file() or None)
        states = {key: each.state_dict() for key, each in self.checkpointables.items()}
        about = self.about.entry() if self.about is not None else {}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with atomic_write(path) as file:
            torch.save({"model": self.saved_model.state_dict(), **states, **kwargs, **about}, file)
        self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(os.path.join(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # else a refusal blocks later loads

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename, allow_pickle=self.allow_pickle)
        return {**checkpoint.rest, "model": checkpoint}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        report = load_checkpoint(
            self.model, checkpoint.pop("model"), allow_partial=self.allow_partial
        )
        for line in report.lines():
            self.logger.info("%s", line)
