"""Activations as layers, made by name: `make("swish")`, `make("celu:alpha=1.6")`.

| name | f(x) | parameters |
|---|---|---|
| relu | max(0, x) | |
| swish, silu | x sigmoid(beta x) | beta=1 |
| gelu | x Phi(x), Phi the normal distribution | |
| gelu_tanh | 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the paper's GELU | |
| elu | x, or alpha (e^x - 1) below 0; smooth at alpha=1 only | alpha=1 |
| celu | x, or alpha (e^(x/alpha) - 1) below 0; smooth for every alpha | alpha=1 |
| softplus | ln(1 + e^x) | |
| parametric_softplus | ln(1 + e^(alpha x)) / alpha | alpha=10 |
| mish | x tanh(ln(1 + e^x)) | |
| smoothrelu | max(0, x) - ln(1 + a max(0, x)) / a, a = beta^2 trained at every site | beta=20 |
| pssilu | x (sigmoid(abs(a) x) - abs(b)) / (1 - abs(b)), a and b trained | a=1, b=1e-8 |

`package.module:callable` names anything else: a Keras layer class, a function of one tensor, or a
function of no tensor that makes a layer. Its parameters follow a second colon and are numbers.

`tfa:snake:frequency=2` and the like come from TensorFlow Addons, where it is installed: see
`sat_tf.addons.activations`.

`f:backward=g` computes f forward and multiplies gradients by g'(x) on the way back, with g's
parameters as `backward_...`: `relu:backward=parametric_softplus,backward_alpha=10`.

Source: Xie et al., Smooth Adversarial Training, arXiv 2006.14536; PSSiLU from Dai et al. 2021.
"""

from sat_tf.activations.drawing import drawing, drawing_again, next_seed
from sat_tf.activations.layers import Activation, factory, make
from sat_tf.activations.specs import NAMES, parse, with_derivative
from sat_tf.activations.trained import TRAINED, PSSiLU, SmoothReLU

__all__ = [
    "NAMES",
    "TRAINED",
    "Activation",
    "PSSiLU",
    "SmoothReLU",
    "drawing",
    "drawing_again",
    "factory",
    "make",
    "next_seed",
    "parse",
    "with_derivative",
]
