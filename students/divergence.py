"""A training whose loss is no longer a number."""

from cluster.errors import TrainingError


class TrainingDivergedError(TrainingError):
    """The loss is no longer a number."""

    def __init__(self, name: str, epoch: int, loss: float) -> None:
        super().__init__(name, epoch, loss)
        self.name, self.epoch, self.loss = name, epoch, loss

    def __str__(self) -> str:
        return (
            f"{self.name}: the loss is {self.loss} in epoch {self.epoch}, expected a finite number. Lower "
            "optimizer.lr, or set optimizer.clip_norm or optimizer.warmup."
        )
