import pytest

from vanishing import figures


@pytest.fixture
def axes():
    return figures.panels(1, 1, "title")[1][0, 0]
