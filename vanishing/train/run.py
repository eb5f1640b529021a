"""Training: one run as pure functions of a key and scalar settings, and many of them at once."""

import enum
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from vanishing._types import PyTree
from vanishing.layers import Layer
from vanishing.losses import Loss, accuracy
from vanishing.probing import Trace, probe
from vanishing.sweep import parallel


class Problem(NamedTuple):
    """What is trained: a network, the loss of its outputs and their targets, and the optimiser.

    Targets are usually integer labels, and the score the share of them that is named right.

    Close over a problem: it holds functions, so it cannot be an argument of `jax.jit`.
    """

    network: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    penalty: Callable[[PyTree], Float[Array, ""]] = lambda params: jnp.zeros(())
    score: Loss = accuracy  # recorded as the accuracy, 0 to 1


class Data(NamedTuple):
    """Training and test examples as device arrays."""

    x_train: Float[Array, "train ..."]
    y_train: Shaped[Array, "train ..."]
    x_test: Float[Array, "test ..."]
    y_test: Shaped[Array, "test ..."]


class State(NamedTuple):
    """What the next training step needs."""

    params: PyTree
    layer_state: PyTree
    opt_state: PyTree
    key: PRNGKeyArray  # of the data order and of layers that are random while training
    step: Int[Array, ""]


class History(NamedTuple):
    """What a person needs of one recorded step, measured before the step is taken."""

    step: Int[Array, "*record"]
    loss: Float[Array, "*record"]  # of the step's batch, penalty included
    accuracy: Float[Array, "*record"]  # of the step's batch, 0 to 1
    test_loss: Float[Array, "*record"]
    test_accuracy: Float[Array, "*record"]
    trace: Trace  # of the step's batch, with the record axis in front of the row axis


class Outcome(enum.IntEnum):
    """How a run ended."""

    FINITE = 0
    DIVERGED = 1  # the loss became infinite or nan


DTYPES = {"float32": jnp.float32, "float64": jnp.float64, "bfloat16": jnp.bfloat16}


class Run(NamedTuple):
    """One training run as pure functions.

    They take part in `jax.jit`, `jax.vmap` (over keys, states and settings) and `jax.lax.scan`.

    `init(key, settings, data)` returns a `State`;
    `advance(state, settings, data, records)` trains until so many records are taken and returns
    the new state and the records; `batches(state, data, records)` returns the numbers of the
    examples that it uses for that, with the shape (records, record_every, batch).
    """

    init: Callable[[PRNGKeyArray, Any, Data], State]
    advance: Callable[..., tuple[State, History]]
    batches: Callable[[State, Data, int], Int[Array, "records record_every batch"]]


def make_run(
    problem: Callable[[Any], Problem],
    *,
    batch_size: int,
    record_every: int = 1,
    precision: str = "float32",
) -> Run:
    """A training run, from what is trained.

    Batches are drawn without replacement, in an order that is new every epoch and depends on the
    key and the step alone: however the steps are cut into chunks, the run is the same. (A last
    batch that would be short is left out of its epoch.) A step that is not recorded computes
    nothing but itself.

    Args:
      problem: maps the run's settings, a tree of scalars that may be traced (learning rate,
        sigma_w, ...), to what is trained.
      batch_size: examples per step; 0 for all of them, which is gradient descent.
      record_every: steps from one record to the next; at least 1.
      precision: the arithmetic of the network: "float32", "float64" (needs `jax_enable_x64`), or
        "bfloat16", whose parameters, loss and summaries stay in float32.

    Raises:
      ValueError: a value is out of range; a batch larger than the data is met by `init`.
    """
    if batch_size < 0:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 0 (0: all examples).")
    if record_every < 1:
        raise ValueError(f"record_every is {record_every}; it must be at least 1.")
    if precision not in DTYPES:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(DTYPES)}.")
    if precision == "float64" and jax.dtypes.canonicalize_dtype(jnp.float64) != jnp.float64:
        raise ValueError("precision is 'float64', but jax_enable_x64 is off; turn it on first.")
    dtype = DTYPES[precision]
    param_dtype = jnp.promote_types(dtype, jnp.float32)

    def loss_of(problem: Problem, state: State, x, y, train: bool):
        def loss(params):
            key = jax.random.fold_in(jax.random.fold_in(state.key, 1), state.step)
            outputs, layer_state = problem.network.apply(
                _cast(params, dtype), state.layer_state, x.astype(dtype), key, train
            )
            outputs = outputs.astype(param_dtype)
            right = problem.score(outputs, y).astype(param_dtype)
            score = jnp.where(jnp.isnan(outputs).any(), jnp.nan, right)  # nan names no class
            value = problem.loss(outputs, y) + problem.penalty(params).astype(param_dtype)
            return value, (score, layer_state)

        return loss

    def init(key, settings, data):
        size = len(data.x_train)
        if batch_size > size:
            raise ValueError(f"batch_size is {batch_size}, but there are {size} examples to train.")
        init_key, run_key = jax.random.split(key)
        example = jax.ShapeDtypeStruct((1, *data.x_train.shape[1:]), param_dtype)
        params, layer_state = problem(settings).network.init(init_key, example)
        opt_state = problem(settings).optimizer.init(params)
        return State(params, layer_state, opt_state, run_key, jnp.zeros((), jnp.int32))

    def update(state: State, settings, grads, layer_state) -> State:
        optimizer = problem(settings).optimizer
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, layer_state, opt_state, state.key, state.step + 1)

    def recorded(state: State, settings, data, batch) -> tuple[State, History]:
        x, y = data.x_train[batch], data.y_train[batch]
        current = problem(settings)
        probed = probe(loss_of(current, state, x, y, train=True), has_aux=True)(state.params)
        score, layer_state = probed.aux
        test_loss, (test_score, _) = loss_of(current, state, data.x_test, data.y_test, train=False)(
            state.params
        )
        record = History(state.step, probed.value, score, test_loss, test_score, probed.trace)
        return update(state, settings, probed.grads, layer_state), record

    def plain(state: State, settings, data, batch) -> State:
        x, y = data.x_train[batch], data.y_train[batch]
        loss = loss_of(problem(settings), state, x, y, train=True)
        grads, (_, layer_state) = jax.grad(loss, has_aux=True)(state.params)
        return update(state, settings, grads, layer_state)

    def batches_of(state, data, records: int):
        steps = records * record_every
        flat = _batches(state.key, state.step, len(data.x_train), batch_size, steps)
        return flat.reshape(records, record_every, flat.shape[-1])

    def advance(state, settings, data, records: int):
        def one_record(state, batches):
            state, record = recorded(state, settings, data, batches[0])
            state, _ = jax.lax.scan(
                lambda state, batch: (plain(state, settings, data, batch), None),
                state,
                batches[1:],
            )
            return state, record

        return jax.lax.scan(one_record, state, batches_of(state, data, records))

    return Run(init, advance, batches_of)


def task(run: Run, *, records: int, chunks: int = 20) -> parallel.Task:
    """A run as the task of a fleet, whose points are settings with a `seed` among them.

    Args:
      run: what `make_run` returned.
      records: how many records to take while training; at least 1. One more is taken of the trained
        network, on a batch that it is not trained on any more.
      chunks: into about how many pieces to cut the run.

    Raises:
      ValueError: `records` is under 1.
    """
    if records < 1:
        raise ValueError(f"records is {records}; it must be at least 1.")
    length = math.ceil(records / chunks)  # of all chunks, which share one program

    def init(settings, data):
        return run.init(jax.random.key(settings["seed"]), settings, data)

    def advance(state, settings, data):
        return run.advance(state, settings, data, length)

    return parallel.Task(init, advance, math.ceil((records + 1) / length))


def fit(
    run: Run,
    settings: Mapping[str, Shaped[Array, " runs"]],
    data: Data,
    *,
    records: int,
    chunks: int = 20,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> History:
    """Train several runs side by side, each from its row of the settings.

    They share one program and advance together in chunks, between which the host collects the
    records and `progress` may draw a bar; the states never leave the devices.

    Args:
      run: what `make_run` returned.
      settings: arrays with the runs as first axis; `seed`, an integer, is among them.
      data: the examples, shared by all runs.
      records: as for `task`.
      chunks: as for `task`.
      progress: maps the chunk numbers to themselves, such as `tqdm.tqdm`.

    Returns:
      A `History` of NumPy arrays with leading axes (runs, records + 1).

    Raises:
      ValueError: `records` is under 1, or a batch is larger than the data.
    """
    work = task(run, records=records, chunks=chunks)
    history = parallel.gather(work, settings, data, progress=progress)
    return jax.tree.map(lambda leaf: leaf[:, : records + 1], history)


def outcome(record: History) -> np.ndarray:
    """The `Outcome` of each run of a `fit`, as an int8 array with one entry a run."""
    finite = np.isfinite(record.loss).all(axis=-1)
    return np.where(finite, Outcome.FINITE, Outcome.DIVERGED).astype(np.int8)


@functools.partial(jax.jit, static_argnames=("examples", "batch_size", "steps"))
def _batches(
    key: PRNGKeyArray, step: Int[Array, ""], examples: int, batch_size: int, steps: int
) -> Int[Array, "steps batch"]:
    """Which examples the next steps use: each epoch a permutation, made from its number."""
    size = batch_size or examples
    per_epoch = examples // size
    epoch = step // per_epoch

    def order(epoch):
        own = jax.random.fold_in(jax.random.fold_in(key, 0), epoch)
        return jax.random.permutation(own, examples)[: per_epoch * size].reshape(per_epoch, size)

    # The steps begin anywhere in the first of these epochs and end in the last.
    epochs = epoch + jnp.arange(1 + math.ceil(steps / per_epoch))
    orders = jax.vmap(order)(epochs).reshape(-1, size)
    return jax.lax.dynamic_slice_in_dim(orders, step - epoch * per_epoch, steps)


def _cast(tree: PyTree, dtype) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
