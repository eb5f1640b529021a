import jax
import jax.numpy as jnp

from vanishing.probing.plan import make_plan

W, X = jnp.eye(4), jnp.ones((2, 4))


def suspects_of(loss, **settings):
    """The suspects before each row, and those before the loss, without their lines."""
    layout = make_plan(loss, (W, X), {}, **settings).layout
    names = [layout.sites[i].label for i in range(len(layout.sites))]
    ops = [tuple(place.partition(" at ")[0] for place in places) for places in layout.suspects]
    return dict(zip([*names, "loss"], ops, strict=True))


def test_each_operation_that_may_break_is_between_the_rows_where_it_stands():
    def loss(w, x):
        h = jnp.tanh(jnp.sqrt(x) @ w)
        return jnp.mean(jnp.log(h) / 3)

    assert suspects_of(loss) == {"": ("sqrt",), "/tanh": (), "loss": ("log",)} or suspects_of(
        loss
    ) == {"w": ("sqrt",), "w/tanh": (), "loss": ("log",)}


def test_a_division_by_a_number_is_none_and_one_by_a_signal_is():
    assert suspects_of(lambda w, x: jnp.mean(x @ w) / 2)["loss"] == ()
    assert suspects_of(lambda w, x: 2 / jnp.mean(x @ w))["loss"] == ("div",)


def test_a_loop_hands_its_suspects_to_its_next_turn_and_on():
    def loss(w, x):
        step = lambda h, _: (jnp.log(jnp.tanh(h @ w)), None)  # noqa: E731
        return jnp.mean(jax.lax.scan(step, x, length=2)[0])

    suspects = suspects_of(loss)
    assert [suspects[name] for name in suspects] == [("log",), (), ("log",)]


def test_branches_are_joined():
    def loss(w, x):
        return jnp.mean(jax.lax.cond(w[0, 0] > 0, jnp.log, jnp.sqrt, x @ w))

    assert suspects_of(loss)["loss"] == ("sqrt", "log")


def test_at_the_level_of_operations_each_has_its_own():
    suspects = suspects_of(lambda w, x: jnp.mean(jnp.log(x @ w)), level="op")
    assert sum(map(len, suspects.values())) == 1
    assert [name.endswith("log") for name, found in suspects.items() if found] == [True]
