"""The exponential moving average of the weights, ``SOLVER.EMA.DECAY``."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Lightning's weight averaging, with the average kept in place until evaluation is over.

    Lightning removes it before the module and other callbacks have seen the results. Parameters and
    buffers are averaged, batch norm's statistics included.
    """

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device  # the module is still on the CPU
        super().setup(trainer, module, stage)

    def on_validation_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Do nothing yet."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, module)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        # Lightning ends no training that had all its steps before it was resumed
        if stage == "fit":
            self.on_train_end(trainer, module)

    def on_load_checkpoint(
        self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # a resumed run repeats an evaluation with the average, which is the file's state_dict
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, module, checkpoint)
