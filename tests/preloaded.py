"""What the commands of the tests import, all but the experiments themselves."""

import sklearn.datasets  # noqa: F401

import tests.walks  # noqa: F401
from experiments import launch, training  # noqa: F401
from vanishing import compare, diagnose, networks, probe, theory  # noqa: F401
