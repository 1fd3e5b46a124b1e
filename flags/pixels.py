"""The flag type of lengths in pixels: 8 is right, 8/255 is not."""

import math

from absl import flags

flags.disclaim_key_flags()  # a flag belongs to the theme that calls define, so --help shows it


class PixelsParser(flags.ArgumentParser):
    """Reads a length in pixels of images that span 0-255; in L2 it may exceed 255."""

    syntactic_help = "a length in pixels, where images span 0-255"

    def parse(self, argument: str | float) -> float:
        """Returns the number.

        Raises:
          ValueError: a fraction of 255, a negative number, or no number.
        """
        text = str(argument)
        if "/" in text:
            head = text.split("/")[0]
            raise ValueError(f"the unit is pixels, as the paper counts: write {head}, not {text}")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number; give pixels, such as 8") from None
        if not 0 <= value < math.inf:
            raise ValueError(f"{text} pixels is out of range; give a number of at least 0")
        return value

    def flag_type(self) -> str:
        """Returns the type's name in the help text."""
        return "pixels"


def define(name: str, default: float | None, description: str) -> None:
    """Defines a flag of this type."""
    flags.DEFINE(PixelsParser(), name, default, description, serializer=flags.ArgumentSerializer())
