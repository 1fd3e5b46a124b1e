"""A run on the disk, its devices and the terminal: folder, checkpoints, workers, a line."""


class Interrupted(Exception):
    """A program was told to stop and has saved its state.

    Args:
      message: what was saved and how to go on.
      signal_number: of the signal that stopped it.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number
