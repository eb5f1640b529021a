"""Remedies: what to try, by kind of finding."""

from typing import NamedTuple

from vanishing._text import number


class Remedy(NamedTuple):
    """Something to try."""

    action: str
    reason: str
    source: str


UNSCALED = Remedy(
    "let the skip connection pass with the factor 1",
    "each block multiplies the gradient by that factor",
    "He et al. 2016, Identity mappings",
)
FORGET = Remedy(
    "begin with a forget bias of 1, or chrono initialisation for long memory",
    "the cell's gradient is multiplied by the forget gate at every step",
    "Gers et al. 2000; Tallec & Ollivier 2018",
)
BOUNDED = Remedy(
    "keep what the cell returns bounded: tanh in place of ReLU or the identity",
    "an unbounded state that feeds itself grows at every step",
    "Le et al. 2015",
)
NORMALIZE = Remedy("normalise", "each layer's signal is set back to size 1", "Ioffe & Szegedy 2015")
OVER_BATCH = Remedy(
    "normalise over the batch",
    "that takes off what all examples have in common, and leaves their differences at size 1",
    "Ioffe & Szegedy 2015",
)
RESIDUAL = Remedy(
    "add skip connections", "the gradient has a way back that multiplies nothing", "He et al. 2016"
)
BRANCHES = Remedy(
    "scale the branches down, by 1/sqrt(number of blocks) or from 0",
    "the blocks' sum then keeps the size of one",
    "Zhang et al. 2019; Bachlechner et al. 2021",
)
WAKE = Remedy(
    "multiply that branch by more: by 1e-4 to 1, or by a gain that is trained, and may begin at 0",
    "what is left of its gradient moves none of its weights",
    "Touvron et al. 2021; Bachlechner et al. 2021",
)
TOKENS = Remedy(
    "keep the tokens apart: normalise inside of each branch (pre-norm), or warm up slowly",
    "attention to tokens that are alike is the same whatever its weights are",
    "Dong et al. 2021; Xiong et al. 2020",
)
SCALE = Remedy(
    "derive the initial scale from the activation",
    "each layer then keeps the size of its signal: He for ReLU, Glorot for tanh",
    "He et al. 2015; Glorot & Bengio 2010",
)
ORTHOGONAL = Remedy(
    "draw the recurrent matrix orthogonal, or scale its largest eigenvalue to about 1",
    "every step of time multiplies the gradient by it",
    "Saxe et al. 2014; Le et al. 2015",
)
PRENORM = Remedy(
    "normalise inside of each branch, before its first layer (pre-norm)",
    "a normalisation on the skip connection divides the gradient by the signal's size",
    "Xiong et al. 2020",
)
SCORES = Remedy(
    "divide the attention scores by sqrt(width of a head), or normalise queries and keys",
    "a softmax that gives one token all the weight has no slope",
    "Vaswani et al. 2017; Henry et al. 2020",
)
CLIP = Remedy(
    "clip the gradient's norm", "one step cannot undo the training", "Pascanu et al. 2013"
)
ACTIVATION = Remedy(
    "use ReLU or one of its kin, at He's initial scale",
    "its slope is 1 wherever it is on",
    "Glorot et al. 2011; He et al. 2015",
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
GUARD = Remedy(
    "keep what that operation takes in away from where it breaks, with jnp.maximum(x, 1e-6) or a "
    "jnp.where on its input",
    "log(0), sqrt(-1) and 0/0 are not finite, nor is the slope of sqrt at 0",
    "JAX FAQ",
)
SMALLER = Remedy(
    "make the signal smaller there: by a smaller initial scale or inputs of size 1",
    "a number beyond the largest of its dtype is inf",
    "He et al. 2015",
)
CHECK_DATA = Remedy(
    "look for inf and nan in the data", "every operation hands them on", "jax.debug_nans"
)
DOUBLE_WHERE = Remedy(
    "put a second jnp.where inside: f(jnp.where(ok, x, 1.0)) in the branch for which ok is true",
    "the slope of the branch that is not taken is multiplied by 0, and 0 * inf is nan",
    "JAX FAQ",
)
MASK = Remedy(
    "let every row see at least one element, or mask with jnp.finfo(dtype).min in place of -inf",
    "the softmax of a row of -inf is 0 / 0",
    "jax.nn.softmax",
)
OTHER_WAY = Remedy(
    "look which way the mask goes: True is what is looked at in Flax and jax.nn, what is left out "
    "in PyTorch",
    "of what a mask leaves a token, a single other has no slope",
    "jax.nn.dot_product_attention; torch.nn.MultiheadAttention",
)
INDEX = Remedy(
    "look for labels and indices that are not under the size of their axis",
    "an index beyond an array is answered with nan",
    "jax.numpy.take",
)
WIDER = Remedy(
    "compute that in bfloat16 or float32, or make it smaller",
    "float16 ends at 65504",
    "Micikevicius et al. 2018",
)
LOSS_SCALE = Remedy(
    "scale the loss by 2**10 or more, and the gradients back before the update",
    "what is under the smallest number of float16, 6e-8, is 0",
    "Micikevicius et al. 2018, section 3.2",
)
BFLOAT = Remedy(
    "use bfloat16 in place of float16",
    "it has the range of float32",
    "Kalamkar et al. 2019",
)
UNCANCEL = Remedy(
    "take one of the two ways off: detach the sample or the weight with stop_gradient, or do not "
    "divide by a sum of one element",
    "a term less itself has no gradient",
    "Mohamed et al. 2020",
)
REACH = Remedy(
    "bring what comes in to where the parameter acts: scale the inputs, or widen its range",
    "a parameter that is multiplied with 0 has no gradient",
    "the chain rule",
)
INPUTS = Remedy(
    "bring the inputs to size 1: subtract their mean, and divide by their standard deviation",
    "the weights are drawn for inputs of that size",
    "LeCun et al. 1998, Efficient BackProp, section 4.3",
)
NO_ACTIVATION = Remedy(
    "leave out the activation on the output, or bring the targets into its range",
    "at the end of its range, where it should go, it has no slope",
    "Bishop 2006, section 4.3",
)
HEAD = Remedy(
    "draw the last layer smaller",
    "a loss that begins far above chance spends its first steps on the scale of the outputs",
    "Karpathy 2019",
)
RATE_OF_UPDATES = Remedy(
    "change the learning rate", "a step should move a weight by about 1e-3", "Karpathy 2019"
)
ONE_RATE = Remedy(
    "draw that parameter at the size of its neighbours, or give it a learning rate of its own",
    "the others move as they should",
    "Karpathy 2019",
)
OPTIMIZER = Remedy(
    "look at the optimiser's own numbers: its state, its epsilon in the dtype of the parameters "
    "(1e-8 is 0 in float16), the norm that it clips by",
    "the gradient is finite, and the update is not",
    "optax.adam",
)
SKIP = Remedy(
    "leave such steps out: optax.MultiSteps(..., should_skip_update_fn=optax.skip_not_finite)",
    "a nan in the sum of gradients stays in it",
    "optax.MultiSteps",
)
LOUDER = Remedy(
    "mend what makes the gradient small, or multiply the loss",
    "Adam's step does not depend on the size of the loss, but for its epsilon",
    "Kingma & Ba 2015, section 2.1",
)
NO_EPSILON = Remedy(
    "take a smaller epsilon, or an optimiser that needs none, as optax.lion",
    "the sign of a gradient does not depend on its size",
    "Chen et al. 2023",
)
STANDS_STILL = Remedy(
    "look at the schedule, at masks and labels of groups, and at a clip whose norm overflows",
    "no parameter moves",
    "optax",
)
SYMMETRY = Remedy(
    "draw that kernel at random",
    "units that begin equal and get equal gradients stay equal",
    "Goodfellow et al. 2016, section 8.4",
)
ONE_SOFTMAX = Remedy(
    "give the logits to the loss, without the first softmax or sigmoid",
    "a softmax of numbers between 0 and 1 is near uniform, and so is its gradient small",
    "optax.softmax_cross_entropy",
)
EPSILON = Remedy(
    "make the epsilon smaller than the variance of what the normalisation takes in, or that larger",
    "it divides by sqrt(variance + epsilon)",
    "Ba et al. 2016",
)
UNIT_GAIN = Remedy(
    "begin with a gain of 1; of 0 only at the end of a branch, in front of its sum",
    "a layer whose input is 0 has no gradient",
    "Ba et al. 2016; Goyal et al. 2017",
)
TWO_PASS = Remedy(
    "compute its variance from x - mean(x) (use_fast_variance=False in Flax), or in float32",
    "E[x^2] - E[x]^2 is rounding where the mean is large beside the deviation",
    "Chan et al. 1983",
)
CHECK_STEP = Remedy(
    "look at the step before: clip its gradient, lower its learning rate, or skip it",
    "one gradient that is not finite spoils every weight that it moves",
    "Pascanu et al. 2013",
)
ALL_BUT_ONE = Remedy(
    "draw all but the last of them at random",
    "a gradient is 0 for one step only where a single factor of the product is 0",
    "Hu et al. 2022, section 4.1",
)
TWO_UNITS = Remedy(
    "use a sigmoid, or two units", "a softmax over one unit is 1 for every input", "its definition"
)
# What to try for each kind of finding, best first.
REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "non_finite": (GUARD, SMALLER, CHECK_DATA, CHECK_STEP),
    "dead_gradient": (USE, UNSTOP, TWO_UNITS, SLOPE, ALL_BUT_ONE),
    "vanishing": (
        UNSCALED,
        FORGET,
        GATE,
        ORTHOGONAL,
        TOKENS,
        PRENORM,
        ACTIVATION,
        SCALE,
        RESIDUAL,
        OVER_BATCH,
        NORMALIZE,
    ),
    "exploding": (
        BOUNDED,
        ORTHOGONAL,
        BRANCHES,
        SCALE,
        RESIDUAL,
        NORMALIZE,
        CLIP,
        GATE,
    ),
    "saturated": (BOUNDED, ORTHOGONAL, SCORES, SCALE, NORMALIZE, ACTIVATION),
    "dead_units": (
        Remedy("use leaky ReLU or ELU", "a unit that is off still has a slope", "Maas et al. 2013"),
        RATE,
        Remedy("begin with biases of 0", "half of the units are on", "He et al. 2015"),
    ),
    "rank_collapse": (RESIDUAL, ORTHOGONAL, OVER_BATCH, SCALE),
    "norm": (
        Remedy(
            "leave the normalisation out there, or normalise over an axis of several numbers",
            "of a single number less its own mean nothing is left",
            "Ba et al. 2016",
        ),
    ),
    "precision": (
        Remedy(
            "keep the weights in float32, and cast them inside of the loss",
            "what is under half of the distance to the next number is rounded away",
            "Micikevicius et al. 2018, section 3.1",
        ),
    ),
    "symmetry": (SYMMETRY,),
    "double_softmax": (ONE_SOFTMAX,),
    "forward_drift": (ORTHOGONAL, SCALE, NORMALIZE),
    "update_ratio": (RATE_OF_UPDATES,),
}


_BY = ": about "  # before the factor of an action


def with_factor(remedies: tuple[Remedy, ...], factor: float) -> tuple[Remedy, ...]:
    """Remedies of which that for the initial scale says by what the weights are to be multiplied.

    >>> with_factor((SCALE,), 2.0)[0].action
    'derive the initial scale from the activation: about 2 times what it is'
    """
    times = f"{_BY}{number(factor)} times what it is"
    return tuple(r._replace(action=r.action + times) if r == SCALE else r for r in remedies)


def without_factor(remedies: tuple[Remedy, ...]) -> tuple[Remedy, ...]:
    """The same remedies as they are for any place.

    >>> without_factor(with_factor((SCALE,), 2.0)) == (SCALE,)
    True
    """
    return tuple(r._replace(action=r.action.partition(_BY)[0]) for r in remedies)
