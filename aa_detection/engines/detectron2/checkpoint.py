"""detectron2's checkpointer, reading and loading as :mod:`aa_detection.checkpoints` does."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ...checkpoints import load_checkpoint, read_checkpoint


class AACheckpointer(DetectionCheckpointer):
    """Reads files as data only, and loads plain checkpoints into augmented networks.

    Args:
        allow_pickle: read ``.pkl`` files, of which arrays only are accepted.
        allow_partial: load less than half of the backbone's parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        allow_pickle: bool = False,
        allow_partial: bool = False,
        **how: Any,
    ) -> None:
        super().__init__(model, save_dir, **how)
        self.allow_pickle = allow_pickle
        self.allow_partial = allow_partial

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None  # a refusal would leave it, and no load after it

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename, allow_pickle=self.allow_pickle)
        return {**checkpoint.rest, "model": checkpoint}

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        report = load_checkpoint(
            self.model, checkpoint.pop("model"), allow_partial=self.allow_partial
        )
        for line in report.lines():
            self.logger.info("%s", line)
