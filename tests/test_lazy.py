import types

import pytest

import vanishing
from vanishing import _lazy


def test_names_are_found_in_their_homes_and_modules_by_themselves():
    get, names = _lazy.attach("vanishing", {"mlp": "networks", "theory": ""})
    assert get("mlp") is vanishing.networks.mlp
    assert isinstance(get("theory"), types.ModuleType)
    assert names() == ["mlp", "theory"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vanishing' has no attribute 'prob'"):
        vanishing.__getattr__("prob")
