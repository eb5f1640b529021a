import numpy as np
import pytest
import xarray as xr

from experiments import phase_diagram
from tests.commands import command
from tests.helpers import assert_refuses
from vanishing import theory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    flags = ("--points=40", "--dots=2", "--width=200", "--depth=12", "--seeds=4")
    process = command(*flags, f"--out={out}", experiment="phase_diagram")
    assert process.returncode == 0, process.stderr
    with xr.open_dataset(out / "data.nc") as dataset:
        return process.stdout, dataset.load()


@pytest.mark.slow
def test_the_map_parts_along_the_critical_line(run):
    """To the left of the published line chi_1 is under 1, to the right over it."""
    dataset = run[1]
    for sigma_b2, sigma_w2 in ((0.05, 1.760955), (0.2, 2.285152), (1.0, 3.443211)):
        row = dataset.chi_1.sel(sigma_b=sigma_b2**0.5, method="nearest")
        (edge,) = theory.critical("tanh", float(row.sigma_b))
        assert edge.sigma_w == pytest.approx(sigma_w2**0.5, rel=0.01)  # sigma_b is the grid's
        np.testing.assert_array_equal(row > 1, row.sigma_w > edge.sigma_w)


@pytest.mark.slow
def test_dots_agree_with_the_map(run):
    stdout, dataset = run
    assert "4 of 4 agree" in stdout
    off = dataset.dot_measured.mean("seed") - dataset.dot_predicted
    assert np.all(np.abs(off) < np.maximum(0.02, 0.05 * np.abs(dataset.dot_predicted)))


@pytest.mark.slow
def test_the_figure_has_the_line_the_contours_and_the_dots(run):
    drawing = phase_diagram.figure(run[1])
    labels = {text.get_text() for text in drawing.legends[0].get_texts()}
    assert labels == {"critical line", "depth scale, in layers", "measured networks"}
    bare = phase_diagram.figure(run[1].drop_dims("dot"))
    assert len(bare.legends[0].get_texts()) == 2


def test_relu_is_mapped_where_its_variance_grows_for_ever():
    config = phase_diagram.Config(activation="relu", points=5, dots=0)
    dataset = phase_diagram.measure(config)
    expected = np.broadcast_to(dataset.sigma_w.values**2 / 2, (5, 5))
    np.testing.assert_allclose(dataset.chi_1, expected, rtol=1e-5)
    verdict = phase_diagram.verdict(dataset)
    assert "sigma_w = 1.4142" in verdict
    assert "sigma_b = 0.5    none" in verdict


def test_an_empty_plane_is_refused():
    assert_refuses(
        lambda: phase_diagram.Config(sigma_w_from=2.0, sigma_w_to=1.0),
        "sigma_w_to has 1.0; it must be over sigma_w_from, 2.0",
    )
