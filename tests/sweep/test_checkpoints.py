import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from vanishing.sweep.checkpoints import Checkpoints
from vanishing.sweep.run_folder import Folder

ROOT = Path(__file__).parents[2]


def test_the_last_checkpoint_comes_back_bit_for_bit(tmp_path):
    tree = {
        "params": np.array([1e-42, np.nan, -0.0, 3.0], np.float32),  # 1e-42 is subnormal
        "half": np.asarray(jnp.arange(4, dtype=jnp.bfloat16)),
        "key": np.array([[1, 2**32 - 1]], np.uint32),
        "count": np.array([7], np.int32),
        "nothing": np.zeros((2, 0), np.float32),
    }
    specs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    store = Folder(tmp_path)
    assert store.checkpoints("cell", range(0, 2)).latest() == 0
    store.checkpoints("cell", range(0, 2)).save(3, jax.tree.map(np.zeros_like, tree))
    store.checkpoints("cell", range(0, 2)).save(12, tree)
    checkpoints = store.checkpoints("cell", range(0, 2))
    assert checkpoints.latest() == 12
    back = checkpoints.restore(12, specs)
    chex.assert_trees_all_equal(back, tree)
    assert [leaf.dtype for leaf in jax.tree.leaves(back)] == [
        leaf.dtype for leaf in jax.tree.leaves(tree)
    ]
    assert np.signbit(back["params"][2])
    store.save_part("cell", range(0, 2), xr.Dataset({"y": ("point", np.ones(2))}))
    assert checkpoints.latest() == 0, "a finished part needs no checkpoint"


def saved(path, *numbers, owner=""):
    """Checkpoints of so many chunks that are all there, as a kill before a removal leaves them."""
    checkpoints = Checkpoints(path.absolute(), owner)
    for chunks in numbers:
        aside = Checkpoints(path.with_name("aside").absolute(), owner)
        aside.save(chunks, {"x": np.full(3, chunks)})
        path.mkdir(exist_ok=True)
        (aside.path / str(chunks)).rename(path / str(chunks))
    return checkpoints


def restored(checkpoints, chunks):
    return checkpoints.restore(chunks, {"x": jax.ShapeDtypeStruct((3,), np.int64)})["x"].tolist()


def test_looking_for_the_last_checkpoint_removes_none(tmp_path):
    checkpoints = saved(tmp_path / "cell", 2, 3, 10)
    (checkpoints.path / "12").mkdir()  # as a process leaves it that is killed before it is sealed
    assert checkpoints.latest() == checkpoints.latest() == 10
    assert len(list(checkpoints.path.iterdir())) == 4
    checkpoints.keep_only(10)
    assert [path.name for path in checkpoints.path.iterdir()] == ["10"]
    assert restored(checkpoints, 10) == [10, 10, 10]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on(tmp_path, caplog):
    checkpoints = saved(tmp_path / "cell", 3, 10)
    files = (path for path in (checkpoints.path / "10").rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    contents = bytearray(largest.read_bytes())
    contents[len(contents) // 2] ^= 1
    largest.write_bytes(contents)
    assert checkpoints.latest() == 3
    checkpoints.keep_only(3)
    assert f"{checkpoints.path / '10'} is damaged; what it held is computed again." in caplog.text
    assert restored(checkpoints, 3) == [3, 3, 3]


def test_a_checkpoint_with_a_file_more_or_less_is_damaged(tmp_path):
    checkpoints = saved(tmp_path / "cell", 3)
    (checkpoints.path / "3" / "more").touch()
    assert checkpoints.latest() == 0
    (checkpoints.path / "3" / "more").unlink()
    assert checkpoints.latest() == 3
    next(path for path in (checkpoints.path / "3").rglob("_METADATA")).unlink()
    assert checkpoints.latest() == 0


def test_a_checkpoint_of_others_is_none(tmp_path):
    saved(tmp_path / "cell", 3, owner="one grid")
    assert Checkpoints(tmp_path / "cell", "another grid").latest() == 0


def test_saving_removes_the_checkpoint_before(tmp_path):
    checkpoints = Checkpoints(tmp_path.absolute())
    for chunks in (1, 2, 5):
        checkpoints.save(chunks, {"x": np.full(3, chunks)})
        assert [path.name for path in tmp_path.iterdir()] == [str(chunks)]
    assert restored(checkpoints, 5) == [5, 5, 5]


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path):
    program = f"""
import resource, sys
from pathlib import Path
import numpy as np
from vanishing.sweep.checkpoints import Checkpoints
checkpoints = Checkpoints(Path({str(tmp_path)!r}))
random = np.random.default_rng(0)
checkpoints.save(1, {{"x": random.normal(size=100)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, {{"x": random.normal(size=10_000)}})
except OSError as error:
    sys.exit(f"{{error}}; {{checkpoints.latest()}}")
"""
    python = [sys.executable, "-c", program]
    process = subprocess.run(python, capture_output=True, text=True, cwd=ROOT)
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"no checkpoint could be written to {tmp_path}: File too large")
    assert line.endswith("; 1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
