"""Generated sequence tasks of any length, and the losses that are reached without memory."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from vanishing import _arguments

SYMBOLS, RECALLED = 8, 10  # of copy_memory: how many different ones, and how many to recall
BLANK, DELIMITER = SYMBOLS, SYMBOLS + 1  # what else copy_memory shows, as indices

ADDING_MEMORYLESS = 1 / 6  # variance of the sum of two U(0, 1): mean squared error of answering 1
TEMPORAL_ORDER_MEMORYLESS = math.log(4)  # nats of four equal chances


class Sequences(NamedTuple):
    """Examples of a sequence task."""

    x: Float[Array, "examples length features"]
    y: Float[Array, " examples"] | Int[Array, "examples ..."]


@_arguments.checked
def adding(key: PRNGKeyArray, examples: int, length: int) -> Sequences:
    """The adding problem: of many numbers, the sum of the two that are marked.

    Args:
      key: what all draws come from.
      examples: how many sequences.
      length: of a sequence; at least 2.

    Returns:
      `x` (examples, length, 2): a number from U(0, 1), and a mark that is 1 at one place of the
      first half and one of the second (the larger, where the length is odd), elsewhere 0; `y`
      (examples,), the sum of the marked numbers. Without memory the mean squared error stays at
      `ADDING_MEMORYLESS`.

    Raises:
      ValueError: `length` is under 2.

    Reference: Hochreiter & Schmidhuber, Long short-term memory, 1997, sec. 5.4; in the form of Le,
    Jaitly & Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015.

    >>> x, y = adding(jax.random.key(0), 2, 5)
    >>> print(x[..., 1].sum(1), bool(jnp.allclose((x[..., 0] * x[..., 1]).sum(1), y)))
    [2. 2.] True
    """
    _arguments.whole("length", length, 2, note=": adding marks two places")
    _arguments.fits_in_memory("examples", examples, 20 * length)  # numbers, two marks, both
    value_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (examples, length))
    first = jax.random.randint(first_key, (examples,), 0, length // 2)
    second = jax.random.randint(second_key, (examples,), length // 2, length)
    marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
    return Sequences(jnp.stack([values, marks], axis=-1), jnp.sum(values * marks, axis=1))


@_arguments.checked
def copy_memory(key: PRNGKeyArray, examples: int, blanks: int) -> Sequences:
    """The copy task: ten symbols, to be repeated once a long stretch of blanks is over.

    Args:
      key: what all draws come from.
      examples: how many sequences.
      blanks: T, from the last symbol to the delimiter, which is one of them; at least 1.

    Returns:
      `x` (examples, T + 20, 10), one-hot: ten of 8 symbols, T - 1 blanks, the delimiter, ten
      blanks; `y` (examples, T + 20): the blank (class 8) T + 10 times, then the ten symbols
      (classes 0 to 7). Without memory the cross-entropy stays at `copy_memoryless(blanks)`.

    Raises:
      ValueError: `blanks` is under 1.

    Reference: Arjovsky, Shah & Bengio, Unitary evolution recurrent neural networks, ICML 2016, its
    copying memory problem, after Hochreiter & Schmidhuber 1997.

    >>> x, y = copy_memory(jax.random.key(0), 2, 30)
    >>> x.shape, y.shape, bool((x[:, :10].argmax(-1) == y[:, -10:]).all())
    ((2, 50, 10), (2, 50), True)
    """
    _arguments.whole("blanks", blanks, 1, note=": the last is the delimiter")
    steps = blanks + 2 * RECALLED
    _arguments.fits_in_memory("examples", examples, 4 * steps * (SYMBOLS + 4))
    symbols = jax.random.randint(key, (examples, RECALLED), 0, SYMBOLS)

    def blank(count: int) -> Int[Array, "..."]:
        return jnp.full((examples, count), BLANK, symbols.dtype)

    delimiter = jnp.full((examples, 1), DELIMITER, symbols.dtype)
    inputs = jnp.concatenate([symbols, blank(blanks - 1), delimiter, blank(RECALLED)], axis=1)
    targets = jnp.concatenate([blank(blanks + RECALLED), symbols], axis=1)
    return Sequences(jax.nn.one_hot(inputs, SYMBOLS + 2), targets)


@_arguments.checked
def copy_memoryless(blanks: int) -> float:
    """The cross-entropy of `copy_memory`, in nats a step, of a guess at each of the ten symbols.

    10 log(8) / (T + 20): all else is known from the delimiter alone.

    >>> print(f"{copy_memoryless(100):.5f}")
    0.17329
    """
    return RECALLED * math.log(SYMBOLS) / (blanks + 2 * RECALLED)


@_arguments.checked
def temporal_order(key: PRNGKeyArray, examples: int, length: int) -> Sequences:
    """Temporal order: which of two symbols came at an early place, and which at a later one.

    Args:
      key: what all draws come from.
      examples: how many sequences.
      length: of a sequence; at least 10.

    Returns:
      `x` (examples, length, 6), one-hot: X or Y (features 0 and 1) at one place from 10 to 20 % of
      the length and one from 50 to 60 %, and elsewhere one of four distractors; `y` (examples,),
      0 to 3 for XX, XY, YX and YY. Without memory the cross-entropy stays at
      `TEMPORAL_ORDER_MEMORYLESS`.

    Raises:
      ValueError: `length` is under 10.

    Reference: Hochreiter & Schmidhuber, Long short-term memory, 1997, sec. 5.6, task 6a, without
    its symbols for start and end; in the form of Pascanu, Mikolov & Bengio, On the difficulty of
    training recurrent neural networks, ICML 2013, sec. 4.1.

    >>> x, y = temporal_order(jax.random.key(0), 3, 100)
    >>> x.shape, x[:, 10:20, :2].sum((1, 2)).tolist(), x[..., :2].sum((1, 2)).tolist()
    ((3, 100, 6), [1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    """
    _arguments.whole("length", length, 10, note=": a tenth of it holds a symbol")
    _arguments.fits_in_memory("examples", examples, 4 * 8 * length)
    keys = jax.random.split(key, 4)
    at = [
        jax.random.randint(own_key, (examples,), length * low // 10, length * (low + 1) // 10)
        for own_key, low in zip(keys[:2], (1, 5), strict=True)
    ]
    distractors = jax.random.randint(keys[2], (examples, length), 2, 6)
    symbols = jax.random.randint(keys[3], (examples, 2), 0, 2)
    rows = jnp.arange(examples)
    inputs = distractors.at[rows, at[0]].set(symbols[:, 0]).at[rows, at[1]].set(symbols[:, 1])
    return Sequences(jax.nn.one_hot(inputs, 6), 2 * symbols[:, 0] + symbols[:, 1])


@_arguments.checked
def by_pixel(
    images: Float[Array | np.ndarray, "examples height width channels"],
) -> Float[Array | np.ndarray, "examples pixels channels"]:
    """Images as sequences of their pixels, row after row.

    Reference: Le, Jaitly & Hinton, A simple way to initialize recurrent networks of rectified
    linear units, 2015.

    >>> by_pixel(np.zeros((3, 28, 28, 1), np.float32)).shape
    (3, 784, 1)
    """
    examples, height, width, channels = images.shape
    return images.reshape(examples, height * width, channels)
