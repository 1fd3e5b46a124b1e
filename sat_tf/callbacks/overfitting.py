"""Notices catastrophic overfitting: the network beats its own attack and no other."""

import sys
from collections.abc import Sequence

import keras

from sat_tf import specs

ACTIONS = ("warn", "stop", "raise")


class RobustnessCollapsed(ValueError):
    """Robust validation accuracy fell while the training attack kept losing."""


class CatastrophicOverfitting(keras.callbacks.Callback):
    """Watches the gap between the training attack and PGD on validation images.

    After an epoch, with `a` the adversarial accuracy in training, `r` that in validation and `best`
    the highest `r` so far: robustness has collapsed if both `best - r` and `a - r` exceed
    `tolerance * best`. Training with few attack steps does so suddenly, within an epoch. A fall of
    both accuracies is another fault, such as a high learning rate, and is not named so.

    Source: Wong et al., arXiv 2001.03994, section 5.4, stop early when PGD accuracy falls by 0.2
    (absolute). Deviation: relative to the best, so that it also holds for 100 or 1,000 classes.

    Args:
      action: "warn" writes a line to stderr; "stop" also ends `fit` after the epoch; "raise"
        raises before a later callback saves the epoch, so put this one before it.
      tolerance: share of the best robust accuracy, in (0, 1).
      history: logs of the epochs that a resumed run has behind it.
      warmup_epochs: in which the training attack is smaller than that of validation: an epoch that
        begins there is not judged, as the network beats that attack rightly.

    Raises:
      ValueError: an unknown action or a tolerance out of range.
    """

    def __init__(
        self,
        action: str = "warn",
        *,
        tolerance: float = 0.5,
        history: Sequence[dict] = (),
        warmup_epochs: float = 0.0,
    ):
        super().__init__()
        specs.one_of("action", action, ACTIONS)
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance is {tolerance}; give a share between 0 and 1")
        self.action, self.tolerance, self.warmup_epochs = action, tolerance, warmup_epochs
        self.best, self.best_epoch = 0.0, 0
        for logs in history:
            self._remember(logs.get("val_adversarial_accuracy", 0.0), logs["epoch"])

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Judges an epoch.

        Raises:
          RobustnessCollapsed: it has collapsed and the action is "raise".
        """
        logs = logs or {}
        if not {"adversarial_accuracy", "val_adversarial_accuracy"} <= logs.keys():
            return
        training = float(logs["adversarial_accuracy"])
        robust = float(logs["val_adversarial_accuracy"])
        allowed = self.tolerance * self.best
        collapsed = self.best - robust > allowed and training - robust > allowed
        if collapsed and epoch >= self.warmup_epochs:
            self._act(self._message(epoch + 1, training, robust))
        self._remember(robust, epoch + 1)

    def _remember(self, robust, epoch):
        if robust >= self.best:  # as `Checkpoint`, which keeps the network of this epoch
            self.best, self.best_epoch = robust, epoch

    def _message(self, epoch, training, robust):
        return (
            f"catastrophic overfitting in epoch {epoch}: PGD leaves {robust:.1%} of the validation "
            f"images right, after {self.best:.1%} in epoch {self.best_epoch}, while the training "
            f"attack leaves {training:.1%}; use more attack steps, a step size below epsilon "
            "or a smaller epsilon. The network of the best epoch is kept"
        )

    def _act(self, message):
        if self.action == "raise":
            raise RobustnessCollapsed(message)
        stopping = "; training stops here" if self.action == "stop" else ""
        print(f"warning: {message}{stopping}", file=sys.stderr)
        if self.action == "stop":
            self.model.stop_training = True
