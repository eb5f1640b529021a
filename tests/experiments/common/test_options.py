import dataclasses

import pytest

from experiments.common.options import Options, new_default, option
from tests.helpers import assert_refuses


@dataclasses.dataclass(frozen=True)
class Config(Options):
    depths: tuple[int, ...] = option((2, 3), "Depths.", at_least=1)
    name: str = option("a", "Name.", choices=("a", "b"))
    rate: float = option(0.1, "Rate.", more_than=0)
    rates: tuple[float, ...] = option((0.1,), "Rates.", more_than=0)
    out: str = option("", "Folder.", in_question=False)
    patience: float = option(1.0, "Seconds.", in_question=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": (2, 0)}, "depths has 0; it must be at least 1."),
        ({"depths": ()}, "depths is empty; it takes at least one value."),
        ({"depths": (2, 2)}, "depths names a value twice: 2, 2."),
        ({"name": "c"}, "name has 'c'; it must be one of a, b."),
        ({"rate": 0.0}, "rate has 0.0; it must be over 0."),
        ({"rate": float("nan")}, "rate has nan; it must be a finite number."),
        ({"rate": 1e-50}, "rate has 1e-50, which JAX holds as 0.0; sizes of float32 go from"),
        ({"rate": 1e300}, "rate has 1e+300, which JAX holds as inf; sizes of float32 go"),
        ({"depths": (2**40,)}, "depths has 1099511627776, which JAX holds as 0; integers of"),
        ({"rates": (0.1, 0.1 + 1e-10)}, "rates has 0.1 and 0.1000000001, which are the same in fl"),
    ],
)
def test_a_config_refuses_what_its_options_do_not_allow(change, message):
    assert_refuses(lambda: Config(**change), message)


def test_the_question_leaves_out_what_the_results_do_not_depend_on():
    question = {"depths": (2, 3), "name": "a", "rate": 0.1, "rates": (0.1,)}
    assert Config(out="/a", patience=1e-50).question() == question


def test_numbers_are_checked_in_the_precision_of_the_config():
    @dataclasses.dataclass(frozen=True)
    class Precise(Config):
        precision: str = option("float32", "Arithmetic.", choices=("float32", "float64"))

    assert Precise(precision="float64", rate=1e-50).rate == 1e-50
    assert_refuses(lambda: Precise(rate=1e-50), "rate has 1e-50, which JAX holds as 0.0")


def test_a_new_default_keeps_the_help_and_the_limits():
    @dataclasses.dataclass(frozen=True)
    class Changed(Config):
        rate: float = new_default(Config, "rate", 0.5)

    assert Changed().rate == 0.5
    (field,) = [field for field in dataclasses.fields(Changed) if field.name == "rate"]
    assert field.metadata["help"] == "Rate."
    assert_refuses(lambda: Changed(rate=0.0), "rate has 0.0; it must be over 0.")
