"""What the commands of the tests import, all but the experiments themselves."""

import sklearn.datasets  # noqa: F401

import tests.walks  # noqa: F401
from experiments.common import launch, training  # noqa: F401
from vanishing import comparison, diagnosis, networks, probing, sweep, theory  # noqa: F401
