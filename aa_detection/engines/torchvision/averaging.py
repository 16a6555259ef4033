"""The exponential moving average of the weights, ``SOLVER.EMA.DECAY``."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Lightning's, whose average is in place until an evaluation is over.

    Lightning takes it away before the module and other callbacks have seen the results.
    Averaged are parameters and buffers, batch norm's statistics among them.
    """

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module is still on the CPU
        super().setup(trainer, module, stage)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Not yet."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, module)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Lightning ends no training that had all its steps before it was resumed
        if stage == "fit":
            self.on_train_end(trainer, module)

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # an evaluation that a resumed run repeats is the average's, the state_dict of the file
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, module, checkpoint)
