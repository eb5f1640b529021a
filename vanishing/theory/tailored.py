"""Tailored activations: nonlinearities fitted to a network, so that its plain form trains deep.

Deep Kernel Shaping (DKS; Martens et al., Rapid training of deep neural networks without skip
connections or normalization layers using Deep Kernel Shaping, 2021) and Tailored Activation
Transformations (TAT; Zhang et al., Deep learning without shortcuts: shaping the kernel with
tailored rectifiers, ICLR 2022). Both scale and shift an activation's input and output until the
network's map of correlations is neither degenerate nor chaotic.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float

from vanishing import _arguments
from vanishing._types import Spec
from vanishing.layers import (
    ACTIVATIONS,
    Activation,
    Chain,
    Gated,
    Layer,
    Sum,
    facts_of,
    propagate,
)
from vanishing.meanfield import Moments, Signal, signal
from vanishing.meanfield.moments import Leaky
from vanishing.meanfield.quadrature import nodes
from vanishing.meanfield.signals import unknown
from vanishing.theory.roots import root

Network = Callable[[Activation], Layer]  # the network with this nonlinearity everywhere
_TRIES = 50  # starting points of the search
_STARTS = {
    "negative_slope": (0.0, 0.5),
    "input_scale": (1.0, 0.1),
    "input_shift": (0.0, 1.0, -1.0),
    "output_shift": (0.0, 1.0, -1.0),
}
_RANGE = {
    "negative_slope": (0.0, 1.0),
    "input_scale": (0.0, 2.0),
    "input_shift": (-3.0, 3.0),
    "output_shift": (-3.0, 3.0),
}
_UNSTABLE = 2.0  # input times output scale from which TAT's solutions have unstable variances
_LARGEST_SHIFTED_RELU = np.pi / (np.pi - 1)  # of the slopes that relu(x + b) can have, for b > 0


@dataclasses.dataclass(frozen=True)
class Tailored:
    """`output_scale * (f(input_scale * x + input_shift) + output_shift)` for a known f."""

    name: str  # of f, in `layers.ACTIVATIONS`
    input_scale: float = 1.0
    input_shift: float = 0.0
    output_scale: float = 1.0
    output_shift: float = 0.0
    negative_slope: float | None = None  # of a leaky ReLU

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The nonlinearity, element by element."""
        inner = _base(self.name, self.negative_slope)(self.input_scale * x + self.input_shift)
        return self.output_scale * (inner + self.output_shift)

    @property
    def activation(self) -> Activation:
        """The nonlinearity for `layers.activation` and `networks`, for weights with sigma_w = 1."""
        return Activation(
            self,
            largest_slope=ACTIVATIONS[self.name].largest_slope
            * self.output_scale
            * self.input_scale,
            saturation=(-np.inf, np.inf),
            initializer="lecun_normal",
            source="tailored",
            kinks=(-self.input_shift / self.input_scale,),
        )


@_arguments.checked(
    network=None,
    slope=_arguments.Range(1, over=True, under=True),
    correlation=_arguments.Range(0, 1, over=True, under=True),
    curvature=_arguments.POSITIVE,
)
def tailor(
    name: str,
    network: Network,
    x: Spec,
    *,
    method: str = "dks",
    slope: float = 1.5,
    correlation: float = 0.9,
    curvature: float = 0.3,
) -> Tailored:
    """Fit an activation to a network, so that it trains deep without skips or normalisation.

    DKS gives every nonlinearity a local correlation map of slope psi at 1 and value 0 at 0, and the
    variance map value and slope 1 at 1, with psi such that no subnetwork's map has a slope over
    `slope`. TAT gives leaky ReLU the negative slope at which no subnetwork maps inputs at right
    angles to a correlation over `correlation`; other activations get a local map of slope 1, whose
    curvature at 1 is such that no subnetwork's is over `curvature`.

    Args:
      name: of a `layers.ACTIVATIONS` nonlinearity.
      network: makes the network with a given nonlinearity; its weights must keep the variance
        (sigma_w = 1 and sigma_b = 0, such as "lecun_normal" or "orthogonal"), its residual sums as
        well (squared scales that add up to 1).
      x: a batch of inputs, or a spec of such.
      method: "dks" or "tat"; "relu" has too few parameters for the latter.
      slope: over 1 (DKS's zeta).
      correlation: in (0, 1) (TAT's eta).
      curvature: over 0 (TAT's tau).

    Returns:
      The tailored nonlinearity.

    Raises:
      ValueError: a target cannot be met, or the network does not keep the variance.

    >>> from vanishing import networks
    >>> from vanishing.initializers import Weights, orthogonal
    >>> def plain(activation):
    ...     weights = Weights(orthogonal())
    ...     return networks.mlp(10, depth=100, width=64, activation=activation, weights=weights)
    >>> x = jax.ShapeDtypeStruct((8, 64), jnp.float32)
    >>> fitted = tailor("leaky_relu", plain, x, method="tat")
    >>> print(f"{fitted.negative_slope:.4f}")
    0.5704
    """
    _arguments.one_of("activation", name, ACTIVATIONS)
    if name in ("identity", "prelu"):
        raise ValueError(f"{name} cannot be tailored; take another activation, such as tanh.")
    _arguments.one_of("method", method, ("dks", "tat"))
    with jax.enable_x64(True):
        if method == "dks":
            local = _increasing(maximal_slope(network, x), slope, 1.0, slope, "slope")
            return _fit(name, _Targets(slope=local, value_at_0=0.0))
        if name == "leaky_relu":
            return _leaky_relu(network, x, correlation)
        if name == "relu":
            raise ValueError("tat cannot tailor relu; take leaky_relu.")
        local = _increasing(maximal_curvature(network, x), curvature, 0.0, curvature, "curvature")
        return _fit(name, _Targets(slope=1.0, curvature=local))


@_arguments.checked(network=None)
def maximal_slope(network: Network, x: Spec) -> Callable[[float], float]:
    """The largest slope at 1 of a subnetwork's correlation map, as a function of the local slope.

    Reference: Martens et al. 2021, section "Summary of our method".
    """
    return _largest(network, x, lambda slope: lambda value: slope * value, 1.0)


@_arguments.checked(network=None)
def maximal_curvature(network: Network, x: Spec) -> Callable[[float], float]:
    """The largest second derivative at 1 of a subnetwork's map, where all local slopes are 1.

    Reference: Zhang et al. 2022, appendix A.
    """
    return _largest(network, x, lambda curvature: lambda value: curvature + value, 0.0)


def _leaky_relu(network: Network, x: Spec, correlation: float) -> Tailored:
    def local_map(negative_slope):
        def value(c_minus_1):  # the correlation map of variance-preserving leaky ReLU, less 1
            m = Leaky(negative_slope)(1.0, -c_minus_1)
            return -m.difference / m.square

        return value

    largest = _largest(network, x, local_map, -1.0)
    negative_slope = 0.0
    if 1 + largest(0.0) > correlation:  # otherwise even ReLU itself is well behaved
        negative_slope = _increasing(
            lambda slope: -largest(slope), 1 - correlation, 0.0, 1.0, "correlation"
        )
    return Tailored(
        "leaky_relu",
        output_scale=(2 / (1 + negative_slope**2)) ** 0.5,
        negative_slope=negative_slope,
    )


def _largest(network: Network, x: Spec, local_map, start: float) -> Callable[[float], float]:
    """The largest of a value over subnetworks, which every nonlinearity maps and sums average.

    The value takes the place of the signal's `decorrelation`, which dense layers keep and residual
    sums weigh as they weigh correlations. A subnetwork is the network, or one path of a sum in it.
    """

    _arguments.function("network", network, "a function of an activation that returns a layer")

    def run(parameter):
        def get_moments(q, value):
            one = jnp.ones_like(q)
            zero = jnp.zeros_like(q)
            fields = dict.fromkeys(Moments._fields, one)
            fields |= {"mean": zero, "square": q, "difference": local_map(parameter)(value)}
            return Moments(**fields)

        stand_in = ACTIVATIONS["tanh"]._replace(closed_form=get_moments, initializer="lecun_normal")
        fitted = network(stand_in)
        before = _beginning(signal(1.0, shape=tuple(x.shape[1:]), batch=x.shape[0]), start)
        after = propagate(fitted, before)
        ends = [propagate(path, _beginning(entry, start)) for path, entry in _paths(fitted, before)]
        return after.q, functools.reduce(jnp.maximum, [s.decorrelation for s in (after, *ends)])

    jitted = jax.jit(run)

    def largest(parameter: float) -> float:
        q, value = jitted(parameter)
        if abs(float(q) - 1) > 1e-6:
            raise ValueError(
                f"the network maps a variance of 1 to {float(q):.4g}; tailored activations are for "
                "weights with sigma_w = 1 and sigma_b = 0, and residual sums whose squared scales "
                "add up to 1."
            )
        return float(value)

    return largest


def _beginning(entry: Signal, start: float) -> Signal:
    """The signal at the same place of a subnetwork that begins there."""
    return dataclasses.replace(
        entry.restarted(),
        log_q=jnp.zeros_like(entry.log_q),
        decorrelation=jnp.asarray(start, jnp.float64),
    )


def _paths(layer: Layer, before: Signal) -> Iterator[tuple[Layer, Signal]]:
    """Every path of a sum within a layer, at any depth, with the signal in front of it."""
    match layer.structure:
        case Chain(layers=parts):
            for part in parts:
                yield from _paths(part, before)
                before = propagate(part, before)
        case Sum(paths=paths):
            for path in paths:
                yield path, before
                yield from _paths(path, before)
        case Gated():
            raise unknown("no activation is tailored to a network with a highway.", before)


def _increasing(
    f: Callable[[float], float], target: float, low: float, high: float, quantity: str
) -> float:
    """Where an increasing function meets its target."""
    if not f(low) < target <= f(high):
        raise ValueError(
            f"no local value from {low:g} to {high:g} gives the network a {quantity} of {target:g} "
            f"(it reaches {f(low):.4g} to {f(high):.4g}); take another target, or a network with "
            "nonlinearities on its longest path."
        )
    return root(lambda p: f(p) - target, low, high)


@dataclasses.dataclass(frozen=True)
class _Targets:
    slope: float  # of the local correlation map at 1
    value_at_0: float | None = None  # of the same at 0
    curvature: float | None = None  # of the same at 1


def _fit(name: str, targets: _Targets) -> Tailored:
    """Solve for the parameters: variance map value and slope 1 at 1, and the targets."""
    fixed: dict[str, float] = {}
    free = ("input_scale", "input_shift")
    if name == "relu":  # which a scaled shift leaves one parameter
        fixed["input_shift"] = 1.0 if targets.slope < _LARGEST_SHIFTED_RELU else -1.0
        free = ("input_scale",)
    elif name == "leaky_relu":
        free = ("negative_slope", "input_shift")
    elif targets.value_at_0 is None:
        free = (*free, "output_shift")

    solve_output = jax.jit(
        lambda p: _with_output(name, fixed | dict(zip(free, p, strict=True)), targets)
    )
    errors = jax.jit(
        lambda p: _errors(
            name, fixed | dict(zip(free, p, strict=True)), targets, with_variance=name != "relu"
        )
    )
    randoms = np.random.default_rng(0)
    starts = list(itertools.product(*(_STARTS[parameter] for parameter in free)))
    starts += [
        tuple(randoms.uniform(*_RANGE[parameter]) for parameter in free)
        for _ in range(_TRIES - len(starts))
    ]
    for start in starts:
        with np.errstate(all="ignore"):
            solution = scipy.optimize.root(
                lambda p: np.asarray(errors(p)), np.asarray(start), tol=1e-13
            ).x
        if not np.all(np.abs(errors(solution)) < 1e-9):
            continue
        parameters = {k: float(v) for k, v in solve_output(solution).items()}
        scales = parameters.get("input_scale", 1.0) * parameters["output_scale"]
        if targets.value_at_0 is not None or scales < _UNSTABLE:
            return _upright(name, parameters)
    raise ValueError(
        f"no scales and shifts of {name} meet the targets (local slope {targets.slope:.6g}); take "
        "another activation, such as tanh, or another target."
    )


def _upright(name: str, parameters: dict[str, float]) -> Tailored:
    """Of a solution and its mirror image, the one with an input shift over 0, as published.

    An f that is odd but for a constant, f(x) + f(-x) = 2 f(0), makes of -x with the shifts turned
    round the same function with another sign, which meets the same targets.
    """
    solution = Tailored(name, **parameters)
    base, x = _base(name, parameters.get("negative_slope")), jnp.array([0.0, 0.5, 1.0, 2.0])
    f = np.asarray(base(x) + base(-x))
    is_odd = np.allclose(f, f[0], rtol=0, atol=1e-6)
    if not is_odd or solution.input_shift >= 0:
        return solution
    return dataclasses.replace(
        solution,
        input_shift=-solution.input_shift,
        output_shift=-float(f[0]) - solution.output_shift,
    )


def _with_output(name: str, parameters: dict, targets: _Targets) -> dict:
    """The parameters with the output's scale and shift, which the others determine."""
    z, weight = _rule(parameters)
    f = _shifted(name, parameters)(z)
    shift = parameters.get("output_shift", 0.0)
    if targets.value_at_0 is not None:
        shift = targets.value_at_0**0.5 - jnp.sum(weight * f)
    scale = 1 / jnp.sqrt(jnp.sum(weight * (f + shift) ** 2))
    return parameters | {"output_shift": shift, "output_scale": scale}


def _errors(name: str, parameters: dict, targets: _Targets, with_variance: bool) -> Array:
    z, weight = _rule(parameters)
    parameters = _with_output(name, parameters, targets)

    def f(x):
        shifted = _shifted(name, parameters)(x) + parameters["output_shift"]
        return parameters["output_scale"] * shifted

    slopes = jax.vmap(jax.grad(f))(z)
    errors = [jnp.sum(weight * slopes**2) - targets.slope]
    if with_variance:
        errors.append(jnp.sum(weight * f(z) * slopes * z) - 1)
    if targets.curvature is not None:
        curvatures = jax.vmap(jax.grad(jax.grad(f)))(z)
        errors.append(jnp.sum(weight * curvatures**2) - targets.curvature)
    return jnp.stack(errors)


def _rule(parameters: dict):
    """Nodes with a break where the shift puts the activation's bend, in either order with 0."""
    bend = -parameters.get("input_shift", 0.0) / parameters.get("input_scale", 1.0)
    return nodes([jnp.minimum(bend, 0.0), jnp.maximum(bend, 0.0)])


def _shifted(name: str, parameters: dict):
    base = _base(name, parameters.get("negative_slope"))
    scale, shift = parameters.get("input_scale", 1.0), parameters.get("input_shift", 0.0)
    return lambda x: base(scale * x + shift)


def _base(name: str, negative_slope):
    if negative_slope is None:
        return facts_of(name).function
    return lambda x: jnp.where(x > 0, x, negative_slope * x)
