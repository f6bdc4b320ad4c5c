"""Which step a training is at: one count for all that looks on."""

import keras


class Clock(keras.callbacks.Callback):
    """Counts steps; it comes before the callbacks that read it.

    Some backends take several steps between two looks, and count on over an
    epoch's end.

    Args:
        steps_per_epoch: batches of a whole epoch.
        epoch: where the training begins, counted from 0.
        step: steps of that epoch that an earlier call has done.

    Attributes:
        epoch: the present one.
        step: steps of it that are done.
        first: how many were when this call began it.
        taken: steps since the look before.
    """

    def __init__(self, steps_per_epoch: int, epoch: int = 0, step: int = 0):
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.epoch = epoch
        self.step = self.first = step
        self.taken = 0

    @property
    def total(self) -> int:
        """Steps of the whole training that are done."""
        return self.epoch * self.steps_per_epoch + self.step

    def on_epoch_begin(self, epoch, logs=None):
        """Begins an epoch, or goes on with one."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0
        self.first = self.step

    def on_train_batch_end(self, batch, logs=None):
        """Counts the steps."""
        before = self.step
        self.step = min(self.first + batch + 1, self.steps_per_epoch)
        self.taken = self.step - before
