"""What a loss refers to: each case is a loss whose surroundings change between two calls."""

import argparse
import dataclasses
import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vanishing import probe
from vanishing.probing import surroundings

P = jnp.array([0.5, -1.0, 2.0])
factor = 1.0


def squares(p):
    return jnp.sum(p**2)


def through(p):
    return factor * squares(p)


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args):
        return factor * function(*args)

    return wrapper


def nested(p):
    def inner():
        return sum(factor * x for x in [squares(p)])

    return (lambda: inner())()


class Model:
    own = 1.0

    def loss(self, p):
        return factor * self.own * squares(p)


@dataclasses.dataclass(frozen=True)
class Config:
    factors: dict


def outermost():
    own = 1.0

    def change():
        nonlocal own
        own = 3.0

    def inner(p):
        return own * squares(p)

    return (lambda p: inner(p)), change


def defaults(p, factor=1.0, *, other=1.0):
    return factor * other * squares(p)


def rebinding(loss):
    return loss, lambda: globals().update(factor=3.0)


def of_object(holder):
    return (lambda p: holder.factor * squares(p)), lambda: setattr(holder, "factor", 3.0)


def of_attribute(holder):
    loss = lambda p: getattr(holder, "factor") * squares(p)  # noqa: B009, E731
    return loss, lambda: setattr(holder, "factor", 3.0)


def of_mapped(mapped):
    return rebinding(lambda p: mapped(p[None])[0])


def of_items(holder):
    return (lambda p: holder[0] * squares(p)), lambda: holder.__setitem__(0, 3.0)


def of_array():
    array = np.ones(2, np.float32)
    return (lambda p: jnp.asarray(array)[0] * squares(p)), lambda: array.fill(3.0)


def of_method():
    model = Model()
    return model.loss, lambda: setattr(model, "own", 3.0)


def of_class():
    def change():
        Model.own = 3.0

    return Model().loss, change


def of_dictionary():
    config = Config({"a": [1.0]})
    loss = lambda p: jnp.prod(jnp.array(config.factors["a"])) * squares(p)  # noqa: E731
    return loss, lambda: config.factors["a"].append(3.0)


def of_module():
    module = sys.modules["a_module_of_a_user"] = types.ModuleType("a_module_of_a_user")
    module.factor = 1.0

    def loss(p):
        import a_module_of_a_user

        return a_module_of_a_user.factor * squares(p)

    return loss, lambda: setattr(module, "factor", 3.0)


def of_defaults(**changes):
    function = types.FunctionType(defaults.__code__, globals(), argdefs=(1.0,))
    function.__kwdefaults__ = {"other": 1.0}

    def change():
        for name, value in changes.items():
            setattr(function, name, value)

    return (lambda p: function(p)), change


CASES = {
    "two functions deep": lambda: rebinding(lambda p: through(p)),
    "nested code": lambda: rebinding(nested),
    "functools.wraps": lambda: rebinding(wrapped(squares)),
    "functools.partial": lambda: rebinding(functools.partial(lambda a, p: a * through(p), 2.0)),
    "a bound method": lambda: rebinding(Model().loss),
    "a function of JAX": lambda: of_mapped(jax.vmap(through)),
    "closures": outermost,
    "attributes": of_method,
    "class attributes": of_class,
    "a namespace": lambda: of_object(types.SimpleNamespace(factor=1.0)),
    "argparse": lambda: of_object(argparse.Namespace(factor=1.0)),
    "getattr": lambda: of_attribute(types.SimpleNamespace(factor=1.0)),
    "a list": lambda: of_items([1.0]),
    "a dictionary": lambda: of_items({0: 1.0}),
    "in a dataclass": of_dictionary,
    "an array of NumPy": of_array,
    "a module": of_module,
    "defaults": lambda: of_defaults(__defaults__=(3.0,)),
    "keyword defaults": lambda: of_defaults(__kwdefaults__={"other": 3.0}),
    "code": lambda: of_defaults(__code__=(lambda p, factor, *, other: 3.0 * squares(p)).__code__),
}


@pytest.fixture(autouse=True)
def as_before():
    yield
    globals()["factor"], Model.own = 1.0, 1.0
    sys.modules.pop("a_module_of_a_user", None)


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_seen_and_nothing_else_is(name):
    loss, change = CASES[name]()

    def reached():
        return surroundings.reached([loss])

    before = surroundings.held(reached())
    assert surroundings.same(before, reached())
    value = loss(P)
    change()
    assert loss(P) == 3 * value
    assert not surroundings.same(before, reached())


def test_a_probe_sees_a_change_two_functions_deep():
    loss, change = CASES["two functions deep"]()
    value = probe(loss)(P).value
    change()
    assert probe(loss)(P).value == 3 * value


class Trainer:
    def __init__(self):
        self.steps, self.factor = 0, 1.0

    def loss(self, p):
        return self.factor * squares(p)


def test_attributes_that_no_code_reads_may_change():
    trainer = Trainer()
    before = surroundings.held(surroundings.reached([trainer.loss]))
    trainer.steps += 1
    assert surroundings.same(before, surroundings.reached([trainer.loss]))


def test_numbers_are_the_same_by_type_and_sign():
    before = surroundings.held([0.0, 1, "a", 1.0])
    assert surroundings.same(before, [0.0, 1, "a", 1.0])
    for other in ([-0.0, 1, "a", 1.0], [0.0, True, "a", 1.0], [0.0, 1, "a", 1], [0.0, 1, "a"]):
        assert not surroundings.same(before, other)


def test_what_is_too_much_or_fails_to_follow_is_not_kept():
    class Broken:
        @property
        def __dict__(self):
            raise OSError

    for thing in ([0] * (surroundings.MOST + 1), Broken()):
        assert surroundings.reached([lambda p, thing=thing: p]) is None
    assert surroundings.reach([lambda: squares], squares)
    assert not surroundings.reach([lambda: Model], through)


def test_the_variables_of_libraries_are_not_followed():
    assert len(surroundings.reached([lambda p: jax.nn.gelu(jnp.sum(p))])) < 20
