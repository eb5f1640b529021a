"""What proves a remedy: a sick network that does not learn, and the same one mended, which does.

Both are trained with the same optimiser, over the same learning rates and from the same seeds. Of
each run the loss at the end is divided by what the loss is without having learnt anything. Under a
fifth of that, the network has learnt: of a balanced choice of four, it is right with a probability
of three quarters. Over a half, it has not: it is still nearer to knowing nothing than to knowing
everything. Between the two nothing is proven. The mended network has one learning rate at which it
learns from every seed; the sick one does not learn from any seed at any rate.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vanishing.diagnosis import Diagnosis, Finding, Remedy, diagnose
from vanishing.probing import SUMMARIES, probe

LEARNT, NOT_LEARNT = 0.2, 0.5
SEEDS = 2
RATES = (0.001, 0.01, 0.1)  # tenfold apart, as a first search has them

CLASSES, EXAMPLES, WIDTH = 4, 32, 32
CHANCE = float(np.log(CLASSES))
UNIT = WIDTH**-0.5  # the standard deviation of weights that keep the size of a signal


def momentum(rate):
    return optax.sgd(rate, momentum=0.9)


class Arm(NamedTuple):
    """A network to be trained, sick or mended."""

    loss: Callable[..., Any]  # of the parameters and `args`
    draw: Callable[[Any], Any]  # the parameters that it begins with, of a key
    args: tuple = ()
    optimizer: Callable[[Any], optax.GradientTransformation] = momentum  # of a rate
    rates: Sequence[float] = RATES
    score: Callable[..., Any] | None = None  # what is judged, if not the loss


class Case(NamedTuple):
    """A sick network, and for each remedy the network that it makes of it."""

    kind: str  # of the finding
    cause: str  # of the finding
    sick: Arm
    mended: Mapping[Remedy, Arm]
    chance: float = CHANCE  # the loss of one that knows nothing
    steps: int = 100
    watched: bool = False  # does the diagnosis look at the optimiser's steps?
    after: int = 0  # steps of training after which it is made, of what they have done
    traced: bool = False  # is it made of a trace alone?
    remains: Collection[Remedy] = ()  # after these the network is as it was, and so its finding


def normal(key, *shape, std=1.0):
    return std * jax.random.normal(jax.random.key(key) if isinstance(key, int) else key, shape)


LABELS = jnp.arange(EXAMPLES) % CLASSES
_CENTRES = jax.random.orthogonal(jax.random.key(1), WIDTH)[:CLASSES] * WIDTH**0.5
INPUTS = (_CENTRES[LABELS] + 0.5 * normal(2, EXAMPLES, WIDTH)) / 1.25**0.5  # size 1, and easy


def cross_entropy(logits, labels=LABELS):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _seeds(arm: Arm) -> Any:
    return jax.vmap(arm.draw)(jax.random.split(jax.random.key(3), SEEDS))


@functools.cache  # arms that differ by their numbers alone share a compiled program
def _trainer(loss, score, optimizer, steps) -> Callable[..., Any]:
    def run(rate, params, args):
        transform = optimizer(rate)

        def step(carry, _):
            params, state = carry
            grads = jax.grad(loss)(params, *args)
            updates, state = transform.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        begin = (params, transform.init(params))
        params, state = jax.lax.scan(step, begin, None, steps)[0]
        return score(params, *args), params, state

    over_seeds = jax.vmap(run, (None, 0, None))
    return jax.jit(jax.vmap(over_seeds, (0, None, None)))


_diagnose, _probe = functools.cache(diagnose), functools.cache(probe)


def _end(arm: Arm, steps: int) -> tuple[Any, Any, Any]:
    """Scores, parameters and the optimiser's state after training, by rate and seed."""
    train = _trainer(arm.loss, arm.score or arm.loss, arm.optimizer, steps)
    return train(jnp.array(arm.rates), _seeds(arm), arm.args)


def trained(arm: Arm, case: Case) -> np.ndarray:
    """The score at the end over that of chance, by rate and seed; what is not finite is inf."""
    scores = np.asarray(_end(arm, case.steps)[0], np.float64) / case.chance
    return np.where(np.isfinite(scores), scores, np.inf)


def diagnosed(arm: Arm, case: Case) -> Diagnosis:
    """The diagnosis of an arm at its first seed, before training or after it."""
    params, state = jax.tree.map(lambda leaf: leaf[0], _seeds(arm)), None
    if case.after:
        params, state = jax.tree.map(lambda leaf: leaf[0, 0], _end(arm, case.after)[1:])
    if case.traced:
        return diagnose(_probe(arm.loss, summaries=SUMMARIES)(params, *arm.args).trace)
    if not case.watched:
        return _diagnose(arm.loss)(params, *arm.args)
    optimizer = arm.optimizer(arm.rates[0])
    return _diagnose(arm.loss, optimizer=optimizer)(params, *arm.args, opt_state=state)


def found(diagnosis: Diagnosis, case: Case) -> list[Finding]:
    """The findings of the illness of a case."""
    return [
        finding
        for finding in diagnosis.findings
        if (finding.kind, finding.cause) == (case.kind, case.cause)
    ]


def learns(scores: np.ndarray) -> bool:
    return bool((scores < LEARNT).all(1).any())


def learns_nothing(scores: np.ndarray) -> bool:
    return bool((scores > NOT_LEARNT).all())
