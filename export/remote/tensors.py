"""TensorProto from and to plain Python, as `tf.make_ndarray` and `tf.make_tensor_proto` do it."""

import array
import math
from typing import Any

# Of each type of TensorProto: the field of its values, and how `array` names it in the bytes.
_FIELDS = {
    "DT_FLOAT": ("float_val", "f"),
    "DT_DOUBLE": ("double_val", "d"),
    "DT_INT32": ("int_val", "i"),
    "DT_INT64": ("int64_val", "q"),
    "DT_STRING": ("string_val", None),
}


def fill(proto: Any, values: Any) -> None:
    """Writes values into an empty TensorProto.

    Args:
      proto: written to.
      values: a list of bytes, or a NumPy array of float32 or uint8.
    """
    names = proto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name
    if isinstance(values, list):
        proto.dtype = names["DT_STRING"].number
        proto.tensor_shape.dim.add(size=len(values))
        proto.string_val.extend(values)
        return
    proto.dtype = names[{"float32": "DT_FLOAT", "uint8": "DT_UINT8"}[values.dtype.name]].number
    for size in values.shape:
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_content = values.tobytes()


def read(proto: Any) -> list:
    """Returns the values of a TensorProto of at least one dimension as nested lists.

    Values stand in a field or packed in `tensor_content`; of a field that is too short, the last
    value stands for the rest. Strings are taken for UTF-8.

    Raises:
      ValueError: a type that no answer of an exported network has.
    """
    name = proto.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number[proto.dtype].name
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if name not in _FIELDS or not shape:
        raise ValueError(f"the server answers with {name} {shape}; expected {', '.join(_FIELDS)}")
    field, code = _FIELDS[name]
    if proto.tensor_content and code:
        flat = array.array(code, proto.tensor_content).tolist()
    else:
        flat = list(getattr(proto, field))
    missing = math.prod(shape) - len(flat)
    flat += flat[-1:] * missing if flat else [0] * missing
    if name == "DT_STRING":
        flat = [one.decode("utf-8", "replace") for one in flat]
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat
