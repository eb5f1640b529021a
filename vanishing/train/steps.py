"""The steps of a training run as pure functions of a recipe, a state and the run's settings."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vanishing import _arguments
from vanishing._types import PyTree
from vanishing.layers.base import NETWORK, require_layer
from vanishing.probing import probe
from vanishing.train.history import History
from vanishing.train.problem import Data, Problem, State

# The dtypes that a network can compute in, by name.
DTYPES = {"float32": jnp.float32, "float64": jnp.float64, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a run is trained and recorded; `make_run` describes the fields and checks."""

    problem: Callable[[Any], Problem]
    batch_size: int
    record_every: int = 1
    precision: str = "float32"
    summaries: Collection[str] | str | None = "usual"
    keep_params: bool = False

    def __post_init__(self):
        _arguments.whole("batch_size", self.batch_size, 0, note=" (0: all examples)")
        _arguments.whole("record_every", self.record_every, 1)
        _arguments.one_of("precision", self.precision, DTYPES)
        if self.summaries is not None:
            probe(math.prod, summaries=self.summaries)  # which refuses what it cannot measure
        if self.dtype != jax.dtypes.canonicalize_dtype(self.dtype):
            raise ValueError("precision is 'float64', but jax_enable_x64 is off; turn it on first.")

    @property
    def dtype(self) -> Any:
        """The dtype of the network's arithmetic."""
        return DTYPES[self.precision]

    @property
    def param_dtype(self) -> Any:
        """The dtype of parameters, losses and summaries: float32 at least."""
        return jnp.promote_types(self.dtype, jnp.float32)


def init(recipe: Recipe, key: PRNGKeyArray, settings: Any, data: Data) -> State:
    """The state that a run starts from.

    Raises:
      ValueError: a batch is larger than the data, or the problem or its network is something else.
    """
    size = len(data.x_train)
    if recipe.batch_size > size:
        raise ValueError(
            f"batch_size is {recipe.batch_size}, but there are {size} examples to train."
        )
    problem = recipe.problem(settings)
    _arguments.instance("problem", problem, Problem, "a train.Problem")
    require_layer("problem.network", problem.network, NETWORK)
    init_key, run_key = jax.random.split(key)
    example = jax.ShapeDtypeStruct((1, *data.x_train.shape[1:]), recipe.param_dtype)
    params, layer_state = problem.network.init(init_key, example)
    return State(
        params=params,
        layer_state=layer_state,
        opt_state=problem.optimizer.init(params),
        key=run_key,
        step=jnp.zeros((), jnp.int32),
    )


def loss_of(
    recipe: Recipe, problem: Problem, state: State, x: Array, y: Array, *, train: bool
) -> Callable[[PyTree], tuple[Float[Array, ""], tuple[Float[Array, ""], PyTree]]]:
    """The loss of a batch as a function of the parameters.

    Args:
      recipe: the precision is read.
      problem: the recipe's problem at the run's settings.
      state: the layers' state, and the key and step that their randomness depends on, are read.
      x: inputs, with the examples as first axis.
      y: their targets.
      train: whether layers behave as in training.

    Returns:
      A function of the parameters that returns (loss, (score, new state of the layers)); the
      score of outputs with a nan is nan.
    """

    def loss(params):
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
        outputs, layer_state = problem.network.apply(
            _cast(params, recipe.dtype), state.layer_state, x.astype(recipe.dtype), key, train
        )
        outputs = outputs.astype(recipe.param_dtype)
        score = problem.score(outputs, y).astype(recipe.param_dtype)
        score = jnp.where(jnp.isnan(outputs).any(), jnp.nan, score)  # nan names no class
        penalty = problem.penalty(params).astype(recipe.param_dtype)
        return problem.loss(outputs, y) + penalty, (score, layer_state)

    return loss


def step(recipe: Recipe, state: State, settings: Any, data: Data, batch: Array) -> State:
    """The state after one step that is not recorded.

    Args:
      recipe: how the run is trained.
      state: the state before the step.
      settings: the argument of the recipe's problem.
      data: the examples.
      batch: numbers of the training examples that the step uses.
    """
    problem = recipe.problem(settings)
    x, y = data.x_train[batch], data.y_train[batch]
    loss = loss_of(recipe, problem, state, x, y, train=True)
    grads, (_, layer_state) = jax.grad(loss, has_aux=True)(state.params)
    return _updated(problem, state, grads, layer_state)


def recorded_step(
    recipe: Recipe, state: State, settings: Any, data: Data, batch: Array
) -> tuple[State, History]:
    """The state after one step, and the record of the state before it.

    Args: as for `step`.

    Returns:
      The same state as `step` gives, and a `History` without leading axes.
    """
    problem = recipe.problem(settings)
    x, y = data.x_train[batch], data.y_train[batch]
    loss = loss_of(recipe, problem, state, x, y, train=True)
    if recipe.summaries is None:
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        trace = None
    else:
        probed = probe(loss, has_aux=True, summaries=recipe.summaries)(state.params)
        value, aux, grads, trace = probed.value, probed.aux, probed.grads, probed.trace
    score, layer_state = aux
    test_loss = test_score = jnp.full((), jnp.nan, recipe.param_dtype)
    if len(data.x_test):
        on_test = loss_of(recipe, problem, state, data.x_test, data.y_test, train=False)
        test_loss, (test_score, _) = on_test(state.params)
    record = History(
        step=state.step,
        loss=value,
        accuracy=score,
        test_loss=test_loss,
        test_accuracy=test_score,
        trace=trace,
        params=state.params if recipe.keep_params else None,
    )
    return _updated(problem, state, grads, layer_state), record


def advance(
    recipe: Recipe, state: State, settings: Any, data: Data, records: int
) -> tuple[State, History]:
    """The state `records * record_every` steps later, and the records of that many steps.

    The first of every `record_every` steps is recorded.

    Args:
      recipe, state, settings, data: as for `step`.
      records: how many records to take.
    """

    def unrecorded(state, batch):
        return step(recipe, state, settings, data, batch), None

    def one_record(state, batches):
        state, record = recorded_step(recipe, state, settings, data, batches[0])
        state, _ = jax.lax.scan(unrecorded, state, batches[1:])
        return state, record

    return jax.lax.scan(one_record, state, batches(recipe, state, data, records))


def batches(
    recipe: Recipe, state: State, data: Data, records: int
) -> Int[Array, "records record_every batch"]:
    """The numbers of the training examples that the next steps of a run use."""
    steps = records * recipe.record_every
    flat = _batches(state.key, state.step, len(data.x_train), recipe.batch_size, steps)
    return flat.reshape(records, recipe.record_every, flat.shape[-1])


def _updated(problem: Problem, state: State, grads: PyTree, layer_state: PyTree) -> State:
    """The state after the optimizer's update by these gradients."""
    updates, opt_state = problem.optimizer.update(grads, state.opt_state, state.params)
    return State(
        params=optax.apply_updates(state.params, updates),
        layer_state=layer_state,
        opt_state=opt_state,
        key=state.key,
        step=state.step + 1,
    )


@functools.partial(jax.jit, static_argnames=("examples", "batch_size", "steps"))
def _batches(
    key: PRNGKeyArray, step: Int[Array, ""], examples: int, batch_size: int, steps: int
) -> Int[Array, "steps batch"]:
    """The examples of the next steps: each epoch is a permutation that its number determines."""
    size = batch_size or examples
    per_epoch = examples // size
    epoch = step // per_epoch

    def order(epoch):
        epoch_key = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
        return jax.random.permutation(epoch_key, examples)[: per_epoch * size].reshape(
            per_epoch, size
        )

    # The steps begin anywhere in the first of these epochs and end in the last.
    epochs = epoch + jnp.arange(1 + math.ceil(steps / per_epoch))
    orders = jax.vmap(order)(epochs).reshape(-1, size)
    return jax.lax.dynamic_slice_in_dim(orders, step - epoch * per_epoch, steps)


def _cast(tree: PyTree, dtype) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
