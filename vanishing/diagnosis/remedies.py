"""Remedies: what to try, by kind of finding, best first."""

from typing import NamedTuple


class Remedy(NamedTuple):
    """Something to try."""

    action: str
    reason: str
    source: str


NORMALIZE = Remedy("normalise", "each layer's signal is set back to size 1", "Ioffe & Szegedy 2015")
RESIDUAL = Remedy(
    "add skip connections", "the gradient has a way back that multiplies nothing", "He et al. 2016"
)
SCALE = Remedy(
    "derive the initial scale from the activation",
    "each layer then keeps the size of its signal: He for ReLU, Glorot for tanh",
    "He et al. 2015; Glorot & Bengio 2010",
)
CLIP = Remedy(
    "clip the gradient's norm", "one step cannot undo the training", "Pascanu et al. 2013"
)
ACTIVATION = Remedy(
    "use ReLU or one of its kin", "its slope is 1 wherever it is on", "Glorot et al. 2011"
)
GATE = Remedy(
    "use an LSTM or GRU, its forget bias at 1",
    "the cell's gradient is multiplied by about 1",
    "Hochreiter & Schmidhuber 1997; Gers et al. 2000",
)
RATE = Remedy(
    "lower the learning rate", "large steps drive units out of their range", "Lu et al. 2019"
)
USE = Remedy("use the parameter, or take it out", "no gradient can ever move it", "jax.grad")
UNSTOP = Remedy(
    "take stop_gradient, argmax, round or the cast to integers off its way to the loss",
    "the loss depends on it, but its derivative there is set to 0",
    "jax.lax.stop_gradient",
)
SLOPE = Remedy(
    "give the step a slope on the way back (vanishing.surrogate)",
    "its own derivative is 0 wherever it was asked for",
    "Bengio et al. 2013",
)
# What to try for each kind of finding, best first.
REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "non_finite": (
        Remedy(
            "guard the input of that operation",
            "log(0), 0/0 or an overflow begins there",
            "JAX FAQ",
        ),
        CLIP,
        SCALE,
    ),
    "dead_gradient": (USE, UNSTOP, SLOPE),
    "vanishing": (ACTIVATION, SCALE, RESIDUAL, NORMALIZE, GATE),
    "exploding": (SCALE, CLIP, RESIDUAL, GATE),
    "saturated": (SCALE, NORMALIZE, ACTIVATION),
    "dead_units": (
        Remedy("use leaky ReLU or ELU", "a unit that is off still has a slope", "Maas et al. 2013"),
        RATE,
        Remedy("begin with biases of 0", "half of the units are on", "He et al. 2015"),
    ),
    "rank_collapse": (RESIDUAL, NORMALIZE, SCALE),
    "forward_drift": (SCALE, NORMALIZE),
    "update_ratio": (
        Remedy(
            "change the learning rate", "a step should move a weight by about 1e-3", "Karpathy 2019"
        ),
    ),
}
