"""The diagnosis of a loss: a transformation like `vanishing.probe`, and its use in tests."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, SupportsIndex, overload

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vanishing import _arguments
from vanishing._types import PyTree
from vanishing.diagnosis.findings import Diagnosis
from vanishing.diagnosis.known import Step, known_of, tried
from vanishing.diagnosis.remedies import REMEDIES
from vanishing.diagnosis.rules import judged
from vanishing.diagnosis.stopping import stopped
from vanishing.facts.stops import STEPS
from vanishing.probing import SUMMARIES, Probe, Probed, Site, Trace, probe

LATER = 128  # steps after one of 0 in which an optimiser should begin to move


@overload
def diagnose(loss: Trace) -> Diagnosis: ...
@overload
def diagnose(
    loss: Callable[..., Any],
    argnums: SupportsIndex | Sequence[SupportsIndex] = 0,
    has_aux: bool = False,
    *,
    level: str = "layer",
    where: Callable[[Site], bool] | str = "**",
    optimizer: optax.GradientTransformation | None = None,
) -> "Diagnose": ...
def diagnose(
    loss: Trace | Callable[..., Any],
    argnums: SupportsIndex | Sequence[SupportsIndex] = 0,
    has_aux: bool = False,
    *,
    level: str = "layer",
    where: Callable[[Site], bool] | str = "**",
    optimizer: optax.GradientTransformation | None = None,
) -> "Diagnosis | Diagnose":
    """A function of the loss's arguments that finds the faults of its network.

    It probes with all summaries that its rules need. Given a trace instead of a loss, it judges
    that at once: kinds of finding for which the trace lacks a summary (`dead_units`, or
    `similarity` for `rank_collapse`) are named by `Diagnosis.unjudged`, and `update_ratio` needs
    the updates (`Trace.with_updates`).

    Args:
      loss: as for `vanishing.probe`; or a trace, of which no other argument is taken. Of a stack of
        traces, the median is looked at, and every element that is not finite.
      argnums: as for `vanishing.probe`, like the next three.
      has_aux: see there.
      level: see there. With "op" operations are judged where the layers show nothing.
      where: see there.
      optimizer: of Optax, whose update of the parameters is looked at too.

    Returns:
      A `Diagnose`: call it with the loss's arguments, and with `opt_state=` where the optimiser has
      one already, for a `Diagnosis`. Of a trace, the `Diagnosis`.

    Raises:
      ValueError: an argument is not what it must be.

    >>> import jax, jax.numpy as jnp
    >>> def loss(params, x):
    ...     for w in params:
    ...         x = jax.nn.sigmoid(x @ w)
    ...     return jnp.mean(x)
    >>> diagnosis = diagnose(loss)([jnp.eye(8)] * 12, jnp.ones((4, 8)))
    >>> diagnosis.findings[0].kind
    'vanishing'
    >>> diagnose(diagnosis.trace)
    Diagnosis(Finding(vanishing at [0], high))
    """
    if not callable(loss):
        _arguments.instance("trace", loss, Trace, "a Trace of `vanishing.probe`, or a loss")
        if (argnums, has_aux, level, where, optimizer) != (0, False, "layer", "**", None):
            raise ValueError("a trace is judged as it is: give the options to the probe.")
        return judged(loss)
    if optimizer is not None and not callable(getattr(optimizer, "update", None)):
        is_not = _arguments.described(optimizer)
        raise ValueError(f"optimizer is {is_not}; it must be one of Optax, as optax.adam(1e-3) is.")
    probing = probe(loss, argnums, has_aux, level=level, where=where, summaries=SUMMARIES)
    return Diagnose(probing, optimizer)


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """The diagnosis of a loss; see `diagnose`."""

    probe: Probe
    optimizer: optax.GradientTransformation | None = None

    def __call__(self, *args: Any, opt_state: PyTree = None, **kwargs: Any) -> Diagnosis:
        """The faults of the network at these arguments.

        Args:
          *args: as for the loss.
          opt_state: of the optimiser, before the update that is looked at; by default it is new.
          **kwargs: as for the loss.

        Raises:
          TypeError, ValueError: as for a probe; or it is called inside of `jax.jit`, or `opt_state`
            is given without an optimiser.
        """
        if opt_state is not None and self.optimizer is None:
            raise ValueError("opt_state needs its optimiser: diagnose(loss, optimizer=...).")
        probe, probed = self.probe, self.probe(*args, **kwargs)
        if not len(probed.trace) and probe.level == "layer":  # no layer is known as one
            probe = dataclasses.replace(probe, level="op")
            probed = probe(*args, **kwargs)
        step = Step()
        probed.trace.single()  # which refuses one that is being traced
        if self.optimizer is not None:
            optimizer = optax.with_extra_args_support(self.optimizer)
            step = self._step(optimizer, probe, probed, opt_state, args, kwargs)

        def seen(probed: Probed) -> Trace:
            return probed.trace.with_updates(step.updates) if self.optimizer else probed.trace

        def judged_at(probe: Probe, probed: Probed) -> Diagnosis:
            return judged(seen(probed), known_of(probe, probed, args, kwargs, step))

        if self.probe.level == "op":
            # Attention, normalisations and layers are seen as such among layers alone.
            layers = dataclasses.replace(probe, level="layer")
            diagnosis = judged_at(layers, layers(*args, **kwargs))
            if diagnosis.findings:
                return diagnosis._replace(trace=seen(probed))
        return judged_at(probe, probed)

    def _step(
        self,
        optimizer: optax.GradientTransformationExtraArgs,
        probe: Probe,
        probed: Probed,
        state: PyTree,
        args: tuple,
        kwargs: dict,
    ) -> Step:
        """What the optimiser makes of the gradients."""
        numbers = self.probe.argnums
        is_one = not isinstance(numbers, Sequence)
        places = [range(len(args))[number] for number in ([numbers] if is_one else numbers)]

        def with_params(params):
            new = list(args)
            for place, param in zip(places, [params] if is_one else params, strict=True):
                new[place] = param
            return new

        def value(params):
            result = self.probe.loss(*with_params(params), **kwargs)
            return result[0] if self.probe.has_aux else result

        def update(grads, state, params):
            extra = {"value": probed.value, "grad": grads, "value_fn": value}
            return optimizer.update(grads, state, params, **extra)

        def largest(updates):
            return optax.tree.norm(updates, ord=jnp.inf)

        @jax.jit
        def moves(grads, state, params):
            """Is one of the next updates not 0, as after a warm-up or accumulated gradients?"""

            def step(state, _):
                updates, state = update(grads, state, params)
                return state, largest(updates)

            return jnp.any(jax.lax.scan(step, state, None, LATER)[1] > 0)

        @jax.jit
        def moved(grads, params):
            """What these gradients add to the parameters in the first steps of a new state."""

            def step(carry, _):
                state, total = carry
                updates, state = update(grads, state, params)
                return (state, optax.tree.add(total, updates)), None

            start = optimizer.init(params), optax.tree.zeros_like(params)
            (_, total), _ = jax.lax.scan(step, start, None, STEPS)
            return total

        def gradient_after(change):
            after = probe(*with_params(optax.apply_updates(params, change)), **kwargs)
            return np.asarray(after.trace.params.gradient)

        params = args[places[0]] if is_one else tuple(args[place] for place in places)
        kept = "" if state is None else "".join(tried(lambda: (_kept(state),)))
        state = optimizer.init(params) if state is None else state
        updates, state = jax.jit(update)(probed.grads, state, params)
        is_still = largest(updates) == 0 and largest(probed.grads) > 0
        moves_later = bool(is_still and moves(probed.grads, state, params))
        later = tried(lambda: (moved(probed.grads, params),)) if moves_later else ()
        (usual,) = later or (updates,)
        trace = probed.trace.single().with_updates(usual)
        return Step(
            updates,
            moves_later=moves_later,
            kept=kept,
            stopped=tried(stopped, trace, probed.grads, lambda g: moved(g, params), gradient_after),
        )


def _kept(state: PyTree) -> str:
    """What in an optimiser's state holds an inf or nan, or ""."""

    def is_sum(node):
        return isinstance(node, optax.MultiStepsState)

    def is_broken(tree):
        leaves = (x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact))
        return any(not jnp.isfinite(x).all() for x in leaves)

    sums = [node for node in jax.tree.leaves(state, is_leaf=is_sum) if is_sum(node)]
    if any(is_broken(node.acc_grads) for node in sums):
        return "MultiSteps"
    return "state" if is_broken(state) else ""


def assert_healthy(
    loss: Callable[..., Any], *, allow: Collection[str] = (), **options: Any
) -> Callable[..., Diagnosis]:
    """A function of the loss's arguments that fails where the diagnosis finds a fault.

    For the tests of your own model.

    Args:
      loss: as for `diagnose`.
      allow: kinds of finding that are no failure, such as "saturated".
      **options: of `diagnose`.

    Returns:
      A function of the loss's arguments, which returns the diagnosis. It raises an AssertionError
      with the diagnosis where that has a finding of a kind that is not allowed, or where nothing
      could be judged.

    Raises:
      ValueError: `allow` has a kind that there is not, or as for `diagnose`.

    >>> import jax.numpy as jnp
    >>> x = jnp.eye(8)
    >>> assert_healthy(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(jnp.eye(8))
    Diagnosis(no findings)
    """
    allowed = (allow,) if isinstance(allow, str) else allow
    if not isinstance(allowed, Collection):
        given = _arguments.described(allow)
        raise ValueError(f"allow is {given}; it must be a tuple of kinds of finding.")
    for kind in allowed:
        _arguments.one_of("allow", kind, tuple(REMEDIES))
    if isinstance(loss, Trace):
        raise ValueError("loss is a Trace; it must be a function: assert_healthy(loss)(params).")
    diagnosed = diagnose(loss, **options)

    def asserted(*args: Any, **kwargs: Any) -> Diagnosis:
        diagnosis = diagnosed(*args, **kwargs)
        if not diagnosis.rows or any(f.kind not in allowed for f in diagnosis.findings):
            raise AssertionError(f"the network is not healthy.\n{diagnosis}")
        return diagnosis

    return asserted
