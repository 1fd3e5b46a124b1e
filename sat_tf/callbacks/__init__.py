"""What watches a run: progress, TensorBoard and a stop on NaN.

Order in the list of callbacks: `StopOnNaN` and `TensorBoard` before whatever writes checkpoints.
"""

from sat_tf.callbacks.nan import StopOnNaN, first_nonfinite
from sat_tf.callbacks.pictures import PictureGrid
from sat_tf.callbacks.profile import Profile
from sat_tf.callbacks.progress import Progress
from sat_tf.callbacks.tensorboard import TensorBoard

__all__ = ["PictureGrid", "Profile", "Progress", "StopOnNaN", "TensorBoard", "first_nonfinite"]
