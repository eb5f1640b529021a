"""Training runs as pure functions of a key and scalar settings, and many of them side by side."""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from vanishing import _arguments, _held
from vanishing.sweep import parallel
from vanishing.train import steps
from vanishing.train.history import History
from vanishing.train.problem import Data, Problem, State


class Run(NamedTuple):
    """One training run as pure functions.

    They take part in `jax.jit`, `jax.vmap` (over keys, states and settings) and `jax.lax.scan`.

    `init(key, settings, data)` returns a `State`;
    `advance(state, settings, data, records)` trains until `records` records are taken and returns
    the new state and the records; `batches(state, data, records)` returns the numbers of the
    examples that it uses for that, with the shape (records, record_every, batch).
    """

    init: Callable[[PRNGKeyArray, Any, Data], State]
    advance: Callable[..., tuple[State, History]]
    batches: Callable[[State, Data, int], Int[Array, "records record_every batch"]]


@_arguments.checked(problem=None)
def make_run(
    problem: Problem | Callable[[Any], Problem],
    *,
    batch_size: int,
    record_every: int = 1,
    precision: str = "float32",
    summaries: Collection[str] | str | None = "usual",
    keep_params: bool = False,
) -> Run:
    """A training run of a problem.

    Batches are drawn without replacement, in an order that is new every epoch and depends on the
    key and the step alone: however the steps are cut into chunks, the run is the same. (A last
    batch that would be short is left out of its epoch.) A step that is not recorded computes
    nothing but itself.

    Args:
      problem: the network, loss and optimizer; or a function that maps the run's settings, a tree
        of scalars that may be traced (learning rate, sigma_w, ...), to them.
      batch_size: examples per step; 0 for all of them, which is gradient descent.
      record_every: steps from one record to the next; at least 1.
      precision: the arithmetic of the network: "float32", "float64" (needs `jax_enable_x64`), or
        "bfloat16", whose parameters, loss and summaries stay in float32.
      summaries: what is measured at each layer, as `vanishing.probe` takes it; None for nothing,
        which leaves `History.trace` None and is the faster the smaller the network is.
      keep_params: whether each record keeps the parameters, in `History.params`.

    Raises:
      ValueError: a value is out of range; `init` refuses a batch larger than the data.
    """
    if not isinstance(problem, Problem):
        what = "a train.Problem, or a function of the run's settings that returns one"
        _arguments.function("problem", problem, what)
    recipe = steps.Recipe(
        problem=(lambda settings: problem) if isinstance(problem, Problem) else problem,
        batch_size=batch_size,
        record_every=record_every,
        precision=precision,
        summaries=summaries,
        keep_params=keep_params,
    )
    return Run(
        init=functools.partial(steps.init, recipe),
        advance=functools.partial(steps.advance, recipe),
        batches=functools.partial(steps.batches, recipe),
    )


@_arguments.checked
def task(run: Run, *, records: int, chunks: int = 20) -> parallel.Task:
    """A run as a task, whose points are settings with an integer `seed` among them.

    Args:
      run: from `make_run`.
      records: how many records to take while training; at least 1. One more is taken of the trained
        network, on a batch that it is not trained on any more.
      chunks: into about how many pieces to cut the run.

    Raises:
      ValueError: `records` is under 1.
    """
    _arguments.whole("records", records, 1)
    length = math.ceil(records / chunks)  # of all chunks, which share one program

    def init(settings, data):
        return run.init(jax.random.key(settings["seed"]), settings, data)

    def advance(state, settings, data):
        return run.advance(state, settings, data, length)

    return parallel.Task(init, advance, math.ceil((records + 1) / length))


@_arguments.checked
def fit(
    run: Run,
    settings: Mapping[str, Any],
    data: Data,
    *,
    records: int,
    chunks: int = 20,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> History:
    """Train several runs side by side, each with its own settings.

    They share one program and advance together in chunks, between which the host collects the
    records and `progress` may draw a bar; the states never leave the devices.

    Args:
      run: from `make_run`.
      settings: by name, a sequence or array with a value for each run, or one number for all runs.
        `seed`, an integer (0 unless given), determines the initial weights and the order of
        examples; the others reach the problem of `make_run` one run at a time.
      data: the examples, shared by all runs.
      records: as for `task`.
      chunks: as for `task`.
      progress: maps the chunk numbers to themselves, such as `tqdm.tqdm`.

    Returns:
      A `History` of NumPy arrays with leading axes (runs, records + 1).

    Raises:
      ValueError: `records` is under 1, a batch is larger than the data, two settings have values
        for different numbers of runs, or JAX's precision makes another number of a value.

    Two learning rates of a sigmoid network, and the layer that loses the gradient at its start:

    >>> import jax, optax
    >>> from vanishing import losses, networks, train
    >>> x = jax.random.normal(jax.random.key(0), (256, 8))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> data = train.Data(x[:192], y[:192], x[192:], y[192:])
    >>> network = networks.mlp(2, depth=5, width=32, activation="sigmoid")
    >>> def problem(settings):
    ...     optimizer = optax.adam(settings["learning_rate"])
    ...     return train.Problem(network, losses.softmax_cross_entropy, optimizer)
    >>> run = train.make_run(problem, batch_size=32, record_every=20)
    >>> history = train.fit(run, {"learning_rate": [0.001, 0.03]}, data, records=10)
    >>> print(history.test_accuracy[:, -1].round(1))
    [0.8 1. ]
    >>> print(history.at(0, 0).trace.budget().sentence())  # doctest: +ELLIPSIS
    Of the 3.6 decades lost between output.dense and first.dense, ...
    """
    _arguments.instance("run", run, Run, "a Run of `train.make_run`")
    _arguments.instance("data", data, Data, "train.Data(x_train, y_train, x_test, y_test)")
    work = task(run, records=records, chunks=chunks)
    history = parallel.gather(work, _by_run(settings), data, progress=progress)
    return jax.tree.map(lambda leaf: leaf[:, : records + 1], history)


def _by_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as arrays whose first axis is the runs."""
    values = {"seed": 0, **settings}
    arrays = {
        name: value if isinstance(value, jax.Array) else _held.held(f"settings.{name}", value)
        for name, value in values.items()
    }
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(counts.values())) > 1:
        sizes = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise ValueError(
            f"settings has {sizes}; give a value for each run, or one number for all of them."
        )
    runs = next(iter(counts.values()), 1)
    return {n: a if a.ndim else np.broadcast_to(a, (runs,)) for n, a in arrays.items()}
