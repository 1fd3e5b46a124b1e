"""Flag types of numbers, each with a range that the help states; lengths are in pixels."""

from absl import flags

flags.disclaim_key_flags()  # a flag belongs to the theme that calls these, so --help shows it

LARGEST_INT32 = 2**31 - 1  # of TensorFlow's shapes and seeds
_LARGEST_PIXELS = 1e9  # the L1 ball around a whole large image is smaller


class RealParser(flags.FloatParser):
    """Reads a finite number of a range: absl lets NaN pass every bound."""

    def is_outside_bounds(self, value: float) -> bool:
        """Tells if a number is outside the range."""
        return not self.lower_bound <= value <= self.upper_bound


class PixelsParser(RealParser):
    """Reads a length in pixels of images that span 0-255; in L2 it may exceed 255."""

    def __init__(self):
        super().__init__(0, _LARGEST_PIXELS)
        self.syntactic_help = f"pixels, where images span 0-255, from 0 to {_LARGEST_PIXELS:g}"

    def convert(self, argument: str | float) -> float:
        """Returns the number.

        Raises:
          ValueError: a fraction of 255, or no number.
        """
        text = str(argument)
        if "/" in text:
            head = text.split("/")[0]
            raise ValueError(f"the unit is pixels, as the paper counts: write {head}, not {text}")
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number; give pixels, such as 8") from None

    def flag_type(self) -> str:
        """Returns the type's name in the help text."""
        return "pixels"


class SpanParser(flags.ArgumentParser):
    """Reads two whole numbers from 1 on, the smaller first, such as 10,20."""

    def parse(self, argument: str | tuple[int, int]) -> tuple[int, int]:
        """Returns both.

        Raises:
          ValueError: they are not two, no whole numbers, or out of order.
        """
        if not isinstance(argument, str):
            return argument
        parts = argument.split(",")
        numbers = [int(part) for part in parts if part.isascii() and part.isdecimal()]
        if len(numbers) != len(parts) or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
            raise ValueError("give two whole numbers from 1 on, the smaller first, such as 10,20")
        return numbers[0], numbers[1]

    def flag_type(self) -> str:
        """Returns the type's name in the help text."""
        return "span"


class SpanSerializer(flags.ArgumentSerializer):
    """Writes both numbers as they are read."""

    def serialize(self, value: tuple[int, int]) -> str:
        """Returns, for example, "10,20"."""
        return ",".join(map(str, value))


def span(name: str, description: str) -> None:
    """Defines a flag of two whole numbers, `first,last`, that is not set unless given."""
    flags.DEFINE(SpanParser(), name, None, description, serializer=SpanSerializer())


def whole(
    name: str, default: int | None, description: str, least: int, most: int = LARGEST_INT32
) -> None:
    """Defines a flag of a whole number from `least` to `most`."""
    flags.DEFINE_integer(name, default, description, lower_bound=least, upper_bound=most)


def real(name: str, default: float | None, description: str, least: float, most: float) -> None:
    """Defines a flag of a number from `least` to `most`."""
    serializer = flags.ArgumentSerializer()
    flags.DEFINE(RealParser(least, most), name, default, description, serializer=serializer)


def reals(name: str, default: list[float], description: str, least: float, most: float) -> None:
    """Defines a flag that may be repeated, of numbers from `least` to `most`."""
    serializer = flags.ArgumentSerializer()
    parser = RealParser(least, most)
    flags.DEFINE_multi(parser, serializer, name, default, description)


def pixels(name: str, default: float | None, description: str) -> None:
    """Defines a flag of a length in pixels."""
    flags.DEFINE(PixelsParser(), name, default, description, serializer=flags.ArgumentSerializer())
