"""The probe: a transformation, like `jax.grad`, that measures every layer's signal and gradient."""

import dataclasses
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, SupportsIndex

import jax
import numpy as np
from jax.core import Tracer

from vanishing import _arguments
from vanishing.probing import check, kept
from vanishing.probing.check import Check
from vanishing.probing.measuring import FINITE, Probed, measuring
from vanishing.probing.plan import Plan, make_plan
from vanishing.probing.sites import Site

LEVELS = ("layer", "op")  # what gets a row: each layer and nonlinearity, or every operation
# The summaries that are computed unless others are asked for.
USUAL = ("mean", "rms", "largest", "zeros", "non_finite", "saturated")
# All summaries; the last two take a pass over the data each.
SUMMARIES = (*USUAL, "dead_units", "similarity")
# Words for several of them.
PRESETS = {"usual": USUAL, "all": SUMMARIES, "size": ("rms",), "finite": FINITE}


def probe(
    loss: Callable[..., Any],
    argnums: SupportsIndex | Sequence[SupportsIndex] = 0,
    has_aux: bool = False,
    *,
    level: str = "layer",
    where: Callable[[Site], bool] | str = lambda site: True,
    summaries: Collection[str] | str = USUAL,
    params: bool = True,
) -> "Probe":
    """A function of the same arguments that also measures signal and gradient at every layer.

    The network is not touched: the loss is traced once, as `jax.jit` does, and replayed with an
    identity after each place of interest whose backward rule hands a summary of the cotangent out.
    Value and gradients are those of `jax.value_and_grad`. It works inside and outside of `jax.jit`,
    under `jax.vmap`, in a scanned training loop and in `jax.shard_map`. Outside of `jax.jit`
    the compiled program is kept as long as the loss lives, and serves again while what the loss
    refers to is the same: call it with the same loss, and not with a new lambda each time.

    Args:
      loss: a function of parameters and anything else that returns a real scalar, or with `has_aux`
        a pair of it and any tree.
      argnums: which arguments hold the parameters, trees of floating-point or complex arrays. The
        others may be anything: numbers and arrays are traced, unless the loss needs them as values
        of Python (`range(n)`), which a call finds out by trying; flags are not traced.
      has_aux: does the loss return a pair?
      level: "layer" for one row for each operation with parameters, for each nonlinearity that
        follows one, and for each sum of a residual stream; "op" for every floating-point operation
        on the backward path that does more than change a shape or a dtype.
      where: keeps only the sites for which it is true, for instance
        `lambda site: site.kind == "matmul"`; or those with a row whose name matches a pattern, for
        instance "blocks[3].*" or "**/gelu", in which `*` stands for anything within a part of a
        name, `**` for anything across parts, and brackets for themselves.
      summaries: a tuple of names of entries of `vanishing.probing.ForwardSummary` and
        `BackwardSummary`, or a word for some: "usual" for all but "dead_units" and "similarity",
        which a diagnosis finds dead units and inputs that become one by; "all"; "size" for
        `("rms",)`; "finite" for `("non_finite",)`, which costs the least: of a loss whose value
        and gradients are finite nothing is counted, and of another in a second pass.
      params: are the norms of each parameter and of its gradient wanted? With "finite" there are
        none.

    Returns:
      A `Probe`: call it for a `Probed`; its `check` proves the numbers on the same arguments.

    Raises:
      ValueError: `loss` or `where` is no function, or `level` or one of `summaries` is unknown.

    >>> import jax, jax.numpy as jnp
    >>> from vanishing import probe
    >>> def loss(params, x):
    ...     h = jax.nn.sigmoid(x @ params["w1"])
    ...     return jnp.mean((h @ params["w2"]) ** 2)
    >>> params = {"w1": jnp.ones((3, 4)), "w2": jnp.ones((4, 1))}
    >>> probed = probe(loss)(params, jnp.ones((8, 3)))
    >>> [site.op for site in probed.trace.sites]
    ['dot_general', 'sigmoid', 'dot_general']
    """
    _arguments.function("loss", loss, "a function of the parameters: probe(loss)(params)")
    _require_argnums(argnums)
    for name, flag in (("has_aux", has_aux), ("params", params)):
        _arguments.instance(name, flag, (bool, np.bool_), "True or False")
    _arguments.one_of("level", level, LEVELS)
    if not isinstance(where, str):
        _arguments.function("where", where, "a function of a site, or a pattern of names as text")
    if isinstance(summaries, str):
        if summaries in SUMMARIES:
            raise ValueError(f"summaries is a single name; give a tuple: ({summaries!r},).")
        _arguments.one_of("summaries", summaries, tuple(PRESETS))
        summaries = PRESETS[summaries]
    elif not (isinstance(summaries, Collection) and all(isinstance(s, str) for s in summaries)):
        given = _arguments.described(summaries)
        raise ValueError(f"summaries is {given}; it must be a tuple of names, or a word for some.")
    if unknown := sorted(set(summaries) - set(SUMMARIES)):
        raise ValueError(f"summaries has {unknown[0]!r}; it may hold {', '.join(SUMMARIES)}.")
    return Probe(
        loss=loss,
        argnums=argnums,
        has_aux=has_aux,
        level=level,
        where=where,
        summaries=tuple(summaries),
        params=params,
    )


def _require_argnums(argnums: Any) -> None:
    """Refuse what is no position of an argument, as JAX does when it makes the transformation."""
    try:
        try:
            operator.index(argnums)
        except TypeError:
            [operator.index(each) for each in argnums]
    except TypeError:
        given = _arguments.described(argnums)
        raise TypeError(
            f"argnums is {given}; it must be a whole number or a tuple of them."
        ) from None


@dataclasses.dataclass(frozen=True)
class Probe:
    """A probed loss; see `probe`."""

    loss: Callable[..., Any]
    argnums: SupportsIndex | Sequence[SupportsIndex]
    has_aux: bool
    level: str
    where: Callable[[Site], bool] | str
    summaries: tuple[str, ...]
    params: bool

    def __call__(self, *args, **kwargs) -> Probed:
        """The loss's value, gradients and aux, and the trace.

        Raises:
          TypeError: a parameter is no floating-point or complex array, or the loss no real scalar.
        """
        fields = (f.name for f in dataclasses.fields(self) if f.name not in ("loss", "where"))
        options = tuple(getattr(self, name) for name in fields)
        call = kept.call_of((self.loss, self.where), options, args, kwargs)
        program = kept.find(call)
        if program is None:
            program = self._program(self.plan(args, kwargs))
            kept.keep(program, call)
        return program(call.leaves)

    def plan(self, args: tuple, kwargs: dict) -> Plan:
        """What is recorded of the loss at these arguments, and how."""
        return make_plan(
            self.loss,
            args,
            kwargs,
            argnums=self.argnums,
            has_aux=self.has_aux,
            level=self.level,
            where=self.where,
        )

    def _program(self, plan: Plan) -> kept.Program:
        return kept.program_of(plan, measuring(plan, self.summaries, self.params))

    def check(self, *args, rows: int | str = 8, **kwargs) -> Check:
        """Prove the trace's numbers on these arguments, against gradients of perturbations.

        The loss is replayed with a perturbation of zeros added to the signal at a sample of rows.
        Its gradient is the cotangent itself, which is summarised by NumPy in float64; no part of
        the tap or of the summaries is used. Value and gradients are compared with those of
        `jax.value_and_grad`.

        Args:
          *args: as for the call.
          rows: how many rows to check, spread evenly; 0 for all of them. Or a pattern of their
            names, as of `probe`.
          **kwargs: as for the call.

        Returns:
          The relative error of every number that was checked; print it.

        Raises:
          TypeError, ValueError: as for the call, or it was called inside of `jax.jit`, or `rows` is
            under 0.
        """
        if not isinstance(rows, str):
            _arguments.whole("rows", rows, 0, note=", for all rows")
        plan = self.plan(args, kwargs)
        if any(isinstance(leaf, Tracer) for leaf in (*plan.params, *plan.others)):
            raise ValueError("check compares numbers: call it outside of jit, vmap and scan.")
        probed = self._program(plan)(jax.tree.leaves((args, kwargs)))
        expected = check.perturb(plan, check.chosen(probed.trace.names, rows))
        return check.verify(probed.trace, probed.grads, expected)
