"""What each kind of finding and each cause means, by which rule it is found, and from where."""

KINDS = {
    "non_finite": (
        "A number is inf or nan that reaches the loss or the gradient of a parameter. What a "
        "select throws away in both directions is none."
    ),
    "precision": (
        "The dtype is too narrow: numbers beyond its range, gradients under its smallest "
        "number, or updates under half of the distance to its next number (Micikevicius et al., "
        "Mixed precision training, ICLR 2018, sections 3.1 and 3.2)."
    ),
    "dead_gradient": (
        "The gradient of a parameter is exactly 0, or nothing but the rounding of terms that "
        "cancel, and no step of training changes that. Zero for one step, as before a "
        "zero-initialised last layer, is healthy."
    ),
    "norm": (
        "A normalisation that does not normalise: what it returns is constant, or its size is "
        "far from that of its gain."
    ),
    "symmetry": (
        "The units of a layer hold equal weights and get equal gradients, so that they stay "
        "equal: the layer is as one unit."
    ),
    "double_softmax": (
        "A softmax is taken of what is a softmax already: its inputs lie in 0 to 1, so that its "
        "output stays near uniform and its gradient small."
    ),
    "saturated": (
        "The slope is under 1 % of its largest at more than 30 % of a nonlinearity's units; a "
        "standard normal pre-activation leaves 0.3 % of tanh there (Glorot & Bengio, AISTATS "
        "2010, section 3.2). Of attention: the squares of a token's weights sum to more than "
        "0.8, where the trace of the softmax's Jacobian is 1 less that sum."
    ),
    "dead_units": (
        "More than half of a layer's units are 0 for every example of the batch (Lu et al., "
        "Dying ReLU and initialization, 2019); asked of eight examples or more."
    ),
    "rank_collapse": (
        "Examples or tokens that came in different go out the same (Dong et al., Attention is "
        "not all you need, ICML 2021)."
    ),
    "vanishing": (
        "The gradient at the first layer is under a hundredth of that at the last, beyond what "
        "chance explains: one learning rate cannot serve both (Glorot & Bengio, AISTATS 2010, "
        "section 4). The log of a ReLU network's squared gradient varies by chance by about 5 "
        "times the sum of 1/width (Hanin, NeurIPS 2018, theorem 1); two standard deviations of "
        "it are allowed. r squared says how well a constant factor a layer fits: 1 is exactly. "
        "Or: the gradient in a residual branch is under 1e-4 of that of the stream that it is "
        "added to."
    ),
    "exploding": (
        "The gradient at the first layer is over a hundred times that at the last, beyond what "
        "chance explains (see vanishing), or the signal or the gradient grows until it "
        "overflows, or one parameter's gradient is out of all proportion to the others'."
    ),
    "forward_drift": (
        "The signal changes over the network more than a thousandfold, beyond what chance explains."
    ),
    "update_ratio": (
        "A step moves a parameter by more than a tenth, or by less than 1e-7, of its own norm; "
        "about 1e-3 is usual (Karpathy, A recipe for training neural networks, 2019). Or the "
        "update is not finite, or 0 though the gradient is not. Or a kernel moves by less than "
        "1e-6 of its norm, and would move more than ten times as far if its gradient were large: "
        "that is under the size at which the optimiser stops (vanishing.facts.STOPS)."
    ),
}
"""Each kind of finding, by which rule it is found, and the rule's source."""

CAUSES = {
    "": "",
    "activation": "The slope of the activation, under 1, is multiplied in at every layer.",
    "all_factors_zero": (
        "Parameters of 0 multiply one another: each keeps the other's gradient at 0."
    ),
    "attention": "The softmax of the attention is at an end, where it has no slope.",
    "cancellation": "Terms cancel but for their rounding errors.",
    "constant_weights": "All weights of a layer are the same number.",
    "data": "What comes in is not finite.",
    "discrete": "argmax, round, sign, a comparison or a cast to integers has the derivative 0.",
    "epsilon": "The epsilon of a division outweighs what it is added to.",
    "flat": "The slope is 0 at every input that there is.",
    "frozen": "The optimiser leaves it as it is.",
    "growth": "Every step, or layer, multiplies by more than 1, until the number is out of range.",
    "head_scale": "The last layer is drawn too large for the loss to begin near chance.",
    "index": "An index or a label is beyond the end of its axis.",
    "initial_scale": "The weights are drawn too small or too large for their depth and activation.",
    "input_scale": "What comes in is far from size 1.",
    "learning_rate": "The step is too large or too small for the parameter.",
    "mask": "A mask leaves nothing to look at.",
    "no_input": "What the parameter is multiplied with is 0 for every example.",
    "normalization": "A normalisation on the skip connection divides the gradient at every block.",
    "one_unit": "A softmax, or a normalisation, over a single number is constant.",
    "one_parameter": "One parameter is out of proportion to its own step; its neighbours are not.",
    "optimizer": "The optimiser makes it: its state, its epsilon, or what it divides by.",
    "out_of_range": "The targets are beyond what the output's activation can be.",
    "overflow": "A number is beyond the largest of its dtype.",
    "parameter": "A parameter holds it already.",
    "recurrence": "Every step of time multiplies the gradient by the same matrix or gate.",
    "residual_scale": (
        "The sum of stream and branch multiplies the stream by a factor other than 1, or the "
        "branch by almost 0."
    ),
    "rounding": "What is added is under half of the distance to the dtype's next number.",
    "same_examples": "The layer's output does not depend on its input.",
    "singular_slope": "The operation's derivative is infinite at a number that it was given.",
    "singular_value": "The operation has no finite value at a number that it was given.",
    "softmax_twice": "A softmax is taken of probabilities.",
    "stopped": "stop_gradient sets the derivative to 0.",
    "underflow": "A number is under the smallest of its dtype.",
    "untaken_branch": (
        "A jnp.where computes both branches; the one not taken has an infinite slope."
    ),
    "unused": "Nothing that reaches the loss is computed from it.",
}
"""Each cause, which is what the remedy follows from."""
