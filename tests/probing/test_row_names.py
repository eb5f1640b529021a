import pytest

from vanishing.probing import row_names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**", "up[0].w up[0].w/gelu up[1].w up/add[t=7] up[0].w#2"),
        ("up[*].w", "up[0].w up[1].w"),
        ("up[0]*", ""),
        ("up[0]**", "up[0].w up[0].w/gelu up[0].w#2"),
        ("*/*[t=*]", "up/add[t=7]"),
        ("**/gelu", "up[0].w/gelu"),
        ("up[0].w#*", "up[0].w#2"),
        ("up.0.", ""),
        ("up", ""),
    ],
)
def test_a_pattern_matches_within_parts_and_across_them(pattern, names):
    rows = ["up[0].w", "up[0].w/gelu", "up[1].w", "up/add[t=7]", "up[0].w#2"]
    assert [row for row in rows if row_names.matches(pattern, row)] == names.split()


@pytest.mark.parametrize(
    ("layers", "model", "path"),
    [
        (["b[3].norm", "b[3].up", "b[3].down"], "", "b[3]"),
        (["b[3].up#2", "b[3].down#2"], "", "b[3]"),
        (["params.a", "params.b"], "params", "params.b"),
        (["a[0]", "a[1]"], "", "a[1]"),
        (["only"], "", "only"),
    ],
)
def test_a_branch_is_called_after_what_its_layers_share(layers, model, path):
    assert row_names.branch(layers, model) == path
