"""Conversion of Flax modules, Linen and NNX, into layers."""

import inspect
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import DenyList, meta, unfreeze
from flax.errors import InvalidRngError
from jaxtyping import PRNGKeyArray

from vanishing import _arguments
from vanishing._types import PyTree
from vanishing.layers import Layer
from vanishing.layers.base import Applied, Propagate, Variables

CallArguments = Callable[[bool], Mapping[str, Any]]

_DURING_TRAINING = ("train", "training", "is_training")
_AFTER_TRAINING = ("deterministic", "use_running_average", "eval_mode")
_FALLBACK = "params"  # the stream that Linen draws from where one that is asked for is absent


@_arguments.checked
def from_flax(
    module: nn.Module | Callable[..., Any],
    *,
    call_arguments: CallArguments | None = None,
    rngs: Sequence[str] = ("dropout",),
    not_state: Sequence[str] = ("intermediates",),
    propagate: Propagate | None = None,
) -> Layer:
    """A layer that computes what a Flax module computes.

    The layer's parameters are nested dicts, so that a probe names them as Flax does, such as
    `Dense_0.kernel` or `layers[0].kernel`. Its state is every other variable: running statistics,
    caches. A call with `train=True` returns the new state, in the dtype of the old one; a call with
    `train=False` returns the state that it was given. It runs in evaluation mode, as `train` says,
    through the arguments of the module's `__call__` of these names: `train`, `training`,
    `is_training`, and, inverted, `deterministic`, `use_running_average`, `eval_mode`. An NNX model
    is also put in its `train()` or `eval()` mode; the objects of the caller are never changed.

    Random numbers come from the key alone. `init(key, x)` draws the parameters that
    `module.init(key, x)` or `Model(rngs=nnx.Rngs(key))` draws. In `apply`, each stream of random
    numbers starts from the key with the stream's name folded in. Without a key, a Linen module that
    draws is refused; so is an NNX model in training, and in evaluation its streams start at 0.

    Args:
      module: a Linen module that maps one array to one array; or a function of `rngs` that returns
        an NNX model that does (a class all of whose other arguments have defaults is one).
      call_arguments: maps `train` to the keyword arguments of the module's `__call__`, where those
        above are not what it takes, such as `lambda train: {"mask": None, "dropout": train}`.
      rngs: names of a Linen module's streams beside "params"; any other name that it asks for
        draws from "params".
      not_state: collections of a Linen module that are no state, such as losses that it sows.
      propagate: the layer's mean-field form; without one, theory refuses the layer.

    Returns:
      A layer whose functions run under `jit`, `vmap`, `scan` and `grad`.

    Raises:
      ValueError: it is no module and no function that returns one, or its `__call__` needs other
        arguments; from `apply`: a key is missing, the output is not one array, or a call changed
        the structure of the state.

    >>> import flax.linen as nn
    >>> layer = from_flax(nn.Dense(3))
    >>> x = jnp.ones((2, 4))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, params)
    {'bias': (3,), 'kernel': (4, 3)}
    >>> layer.apply(params, state, x).output.shape
    (2, 3)
    >>> from flax import nnx
    >>> layer = from_flax(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    >>> layer.init(jax.random.key(0), x).params.keys()
    dict_keys(['bias', 'kernel'])
    """
    if isinstance(module, nn.Module):
        return _from_linen(module, call_arguments, rngs, not_state, propagate)
    if isinstance(module, nnx.Module):
        name = _name(module)
        raise ValueError(
            f"from_flax got an NNX model, {name}, whose parameters are drawn already; give a "
            f"function that builds it: from_flax(lambda rngs: {name}(..., rngs=rngs))."
        )
    if isinstance(module, type) and issubclass(module, nn.Module):
        raise ValueError(
            f"from_flax got the class {module.__name__}; give a module: {module.__name__}(...)."
        )
    if not callable(module):
        raise ValueError(
            f"module is {module!r}; it must be a Linen module, or a function of rngs that returns "
            "an NNX model."
        )
    return _from_nnx(_builder(module), call_arguments, propagate)


def _from_linen(
    module: nn.Module,
    call_arguments: CallArguments | None,
    rngs: Sequence[str],
    not_state: Sequence[str],
    propagate: Propagate | None,
) -> Layer:
    arguments_of = _call_arguments(module, call_arguments)

    def init(key, x):
        variables = module.init(
            {**_streams(key, rngs), _FALLBACK: key},
            jnp.zeros(x.shape, x.dtype),
            mutable=DenyList(tuple(not_state)),
            **arguments_of(False),
        )
        state = dict(unfreeze(meta.unbox(variables)))
        return Variables(state.pop("params", {}), state)

    def apply(params, state, x, key=None, train=False):
        try:
            output, new_state = module.apply(
                {"params": params, **state},
                x,
                rngs=_streams(key, (_FALLBACK, *rngs)),
                mutable=list(state) if train else (),
                **arguments_of(train),
            )
        except InvalidRngError:
            if key is not None:
                raise
            raise _without_key(module) from None
        _require_array(output, module)
        if not train:
            return Applied(output, state)
        remedy = "leave out collections that are no state, such as losses that are sown: not_state"
        return Applied(output, _carried(module, state, unfreeze(new_state), remedy))

    return Layer(init, apply, propagate)


def _from_nnx(
    build: Callable[[PRNGKeyArray], nnx.Module],
    call_arguments: CallArguments | None,
    propagate: Propagate | None,
) -> Layer:
    abstract = nnx.eval_shape(lambda: build(jax.random.key(0)))
    filters = (nnx.Param, nnx.RngState, nnx.Not(nnx.Intermediate), ...)
    graph, param_spec, random_spec, state_spec, other_spec = nnx.split(abstract, *filters)
    arguments_of = _call_arguments(abstract, call_arguments, given=("rngs",))
    takes_rngs = "rngs" in inspect.signature(type(abstract).__call__).parameters

    def init(key, x):
        del x  # an NNX model knows the shapes of its parameters
        _, params, _, state, _ = nnx.split(build(key), *filters)
        return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    def apply(params, state, x, key=None, train=False):
        root = jax.random.key(0) if key is None else key
        model = nnx.merge(
            graph,
            _filled(param_spec, params),
            _seeded(random_spec, root),
            _filled(state_spec, state),
            other_spec,
            copy=True,  # variables of this trace, though an outer one made the key
        )
        _ = model.train() if train else model.eval()
        call_rngs = nnx.Rngs(root)
        before = _counts(model, call_rngs)
        given = {"rngs": call_rngs} if takes_rngs else {}
        output = model(x, **given, **arguments_of(train))
        _require_array(output, model)
        if not train:
            return Applied(output, state)
        after = _counts(model, call_rngs)
        if key is None and any(a is not b for a, b in zip(before, after, strict=True)):
            raise _without_key(model)
        _, _, _, changed, _ = nnx.split(model, *filters)
        new_state = nnx.to_pure_dict(changed)
        remedy = "create every variable in __init__"
        return Applied(output, _carried(model, state, new_state, remedy))

    return Layer(init, apply, propagate)


def _builder(function: Callable[..., Any]) -> Callable[[PRNGKeyArray], nnx.Module]:
    """A function of a key that returns the NNX model that `function` makes of the key's streams."""
    signature = inspect.signature(function)
    catch_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    by_name = "rngs" in signature.parameters or catch_all  # a class of NNX shows (*args, **kwargs)
    try:
        _ = signature.bind(rngs=None) if by_name else signature.bind(None)
    except TypeError as error:
        raise ValueError(
            f"from_flax got {_name(function)}{signature}, which is not a function of rngs alone "
            f"({error}); give from_flax(lambda rngs: Model(..., rngs=rngs))."
        ) from None

    def build(key):
        streams = nnx.Rngs(key)
        model = function(rngs=streams) if by_name else function(streams)
        if not isinstance(model, nnx.Module):
            raise ValueError(
                f"from_flax got a function that returns {model!r}; it must return an NNX model."
            )
        return model

    return build


def _call_arguments(
    module: Any, call_arguments: CallArguments | None, given: Iterable[str] = ()
) -> CallArguments:
    """A function of `train` that returns the keyword arguments of the module's `__call__`."""
    signature = inspect.signature(type(module).__call__)
    names = signature.parameters

    def arguments_of(train: bool) -> Mapping[str, Any]:
        if call_arguments is not None:
            return call_arguments(train)
        return {
            **{name: train for name in _DURING_TRAINING if name in names},
            **{name: not train for name in _AFTER_TRAINING if name in names},
        }

    known = {name: None for name in given if name in names}
    try:
        signature.bind(module, None, **known, **arguments_of(False))
    except TypeError as error:
        raise ValueError(
            f"{_name(module)}.__call__{signature} does not take one array alone ({error}); name "
            "its keyword arguments: call_arguments=lambda train: {...}."
        ) from None
    return arguments_of


def _streams(key: PRNGKeyArray | None, names: Iterable[str]) -> dict[str, PRNGKeyArray]:
    """A key for each name; none at all without a key."""
    return {} if key is None else {name: _named(key, name) for name in names}


def _named(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _filled(spec: Any, values: PyTree) -> Any:
    """The state of an NNX model, with values from nested dicts."""

    def value(path):
        tree = values
        for step in path:
            tree = tree[step]
        return tree

    return nnx.from_flat_state(
        (path, leaf.replace(value(path)) if isinstance(leaf, nnx.Variable) else value(path))
        for path, leaf in nnx.to_flat_state(spec)
    )


def _seeded(spec: Any, key: PRNGKeyArray) -> Any:
    """The state of an NNX model's random streams, each started from a key of its own."""

    def start(path, leaf):
        if isinstance(leaf, nnx.RngCount):
            return jnp.zeros(leaf.shape, leaf.dtype)
        own = _named(key, "/".join(map(str, path)))
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    return nnx.from_flat_state(
        (path, leaf.replace(start(path, leaf))) for path, leaf in nnx.to_flat_state(spec)
    )


def _counts(*nodes: Any) -> list[Any]:
    """How often each random stream was drawn from; a draw puts a new array in its place."""
    states = (nnx.to_flat_state(nnx.state(node, nnx.RngCount)) for node in nodes)
    return [leaf.get_value() for state in states for _, leaf in state]


def _carried(module: Any, old: PyTree, new: PyTree, remedy: str) -> PyTree:
    """The new state in the dtypes of the old, so that it can be the carry of a scan.

    Raises:
      ValueError: their structures or shapes differ.
    """
    changed = {name for name in {**old, **new} if _shapes(old, name) != _shapes(new, name)}
    if changed:
        raise ValueError(
            f"a call of {_name(module)} changed the structure of its state in "
            f"{', '.join(sorted(changed))}; {remedy}."
        )
    return jax.tree.map(lambda a, b: b if a.dtype == b.dtype else b.astype(a.dtype), old, new)


def _shapes(state: PyTree, name: str) -> PyTree:
    return jax.tree.map(jnp.shape, state.get(name))


def _require_array(output: Any, module: Any) -> None:
    if not isinstance(output, jax.Array):
        kind = type(output).__name__
        raise ValueError(f"{_name(module)} returns a {kind}; it must return one array.")


def _without_key(module: Any) -> ValueError:
    return ValueError(f"{_name(module)} draws random numbers, but got no key; give apply a key.")


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)
