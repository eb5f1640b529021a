"""Run folders: what is finished of a sweep, kept so that no moment of death loses it.

config.json    the configuration and the code that the folder belongs to
cells/         the finished parts of the grid's cells
checkpoints/   where the part in flight can be taken up again
data.nc        the whole, when all is done; the two above are gone then unless a cell failed
cache/         programs that JAX compiled
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import numpy as np

from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep import storage

with needs("sweeps"):
    import filelock
    import orbax.checkpoint as ocp
    import xarray as xr


def code_version(packages: Sequence[str] = ("vanishing",)) -> dict[str, str]:
    """What results depend on beside their configuration: our sources, JAX, and the kind of device.

    Args:
      packages: names of the packages whose source files count, by a hash of their contents.
    """
    digest = hashlib.sha256()
    for package in packages:
        found = importlib.util.find_spec(package)
        for root in (found and found.submodule_search_locations) or ():
            for path in sorted(Path(root).rglob("*.py")):
                digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    ours = f"{importlib.metadata.version('vanishing')}+{digest.hexdigest()[:12]}"
    libraries = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")}
    return {"code": ours, **libraries, "backend": jax.default_backend()}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A run folder; `claimed` gives one that nobody else works in."""

    path: Path

    @property
    def data(self) -> Path:
        """The finished dataset's place."""
        return self.path / "data.nc"

    def parts(self, cell: str) -> dict[range, Path]:
        """The finished parts of a cell: which of its points, and where."""
        found = {}
        for path in (self.path / "cells" / cell).glob("[0-9]*.nc"):
            start, stop = path.stem.split("-")
            found[range(int(start), int(stop))] = path
        return dict(sorted(found.items(), key=lambda item: item[0].start))

    def save_part(self, cell: str, points: range, dataset: xr.Dataset) -> None:
        """Put a part on the disk; when this returns it is there, and its checkpoints are gone."""
        folder = self.path / "cells" / cell
        folder.mkdir(parents=True, exist_ok=True)
        storage.save(dataset, folder / f"{points.start}-{points.stop}.nc")
        _remove(self._checkpoints(cell, points))

    def checkpoints(self, cell: str, points: range) -> "Checkpoints":
        """The checkpoints of a part in flight."""
        return Checkpoints(self._checkpoints(cell, points).absolute())

    def _checkpoints(self, cell: str, points: range) -> Path:
        return self.path / "checkpoints" / cell / f"{points.start}-{points.stop}"

    def finish(self, dataset: xr.Dataset, *, complete: bool) -> None:
        """Write the whole dataset; the parts it was put together from go if nothing is missing."""
        storage.save(dataset, self.data)
        if complete:
            self.clear("cells", "checkpoints")

    def clear(self, *names: str) -> None:
        """Remove files and folders of ours."""
        for name in names:
            _remove(self.path / name)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """States and outputs on the way through the chunks of a part, by how many are done."""

    path: Path

    def latest(self) -> int:
        """How many chunks were done at the last checkpoint; 0 if there is none."""
        return max(self._chunks(), default=0)

    def remove_before(self, chunks: int) -> None:
        """Remove the checkpoints of fewer chunks."""
        for number in self._chunks():
            if number < chunks:
                _remove(self.path / str(number))

    def _chunks(self) -> list[int]:
        return [int(path.name) for path in self.path.glob("*") if path.name.isdecimal()]

    def save(self, chunks: int, tree: PyTree) -> None:
        """Keep a tree of NumPy arrays; the checkpoint before it is removed after."""
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree)) if leaf.size}
        try:
            with self._manager() as manager:
                manager.save(chunks, args=ocp.args.PyTreeSave(leaves))
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            raise OSError(f"no checkpoint could be written to {self.path}: {error}") from error

    def restore(self, chunks: int, specs: PyTree) -> PyTree:
        """The tree that was kept after so many chunks, from the shapes of its leaves."""
        leaves, structure = jax.tree.flatten(specs)
        stored = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        with self._manager() as manager:
            arguments = ocp.args.PyTreeRestore(stored, restore_args=as_numpy)
            found = manager.restore(chunks, args=arguments)
        whole = [found.get(str(i), np.zeros(s.shape, s.dtype)) for i, s in enumerate(leaves)]
        return structure.unflatten(whole)

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path, options=options)


@contextlib.contextmanager
def claimed(
    path: Path, config: Mapping[str, Any], code: Mapping[str, str], *, overwrite: bool = False
) -> Iterator[Folder]:
    """A run folder that belongs to a configuration and a code version, for this process alone.

    Args:
      path: where it is; made if need be.
      config: the configuration, as JSON can write it.
      code: what `code_version` says.
      overwrite: whether to remove what another configuration or version left there, or this one
        finished; what this one has not finished goes on.

    Raises:
      ValueError: it is a file, another process works in it, or it is another configuration's or
        code version's.
      OSError: it cannot be written to.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"out is {path}, which is a file; name a folder.")
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / ".lock", timeout=0)
    try:
        held = lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{path} is in use by another process; wait for it to end, or give another --out."
        ) from None
    with held:
        asked = json.loads(json.dumps({"config": config, "code": code}))  # tuples as JSON has them
        _claim(Folder(path), asked, overwrite)
        running = path / ".running"
        if running.exists():
            _clean_up(path)
        running.touch()
        try:
            yield Folder(path)
        finally:
            running.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary() -> Iterator[Folder]:
    """A run folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="vanishing-") as path:
        yield Folder(Path(path))


def cell_name(axes: Mapping[str, Any], sweep: str = "") -> str:
    """The name of a cell's folder, such as "activation=tanh,depth=30", under that of its sweep."""
    named = ",".join(f"{name}={value}" for name, value in axes.items()) or "all"
    return "/".join(quote(part, safe="=,+ ") for part in (sweep, named) if part)


def _claim(folder: Folder, asked: dict, overwrite: bool) -> None:
    path, results = folder.path / "config.json", ("data.nc", "cells", "checkpoints")
    held = [folder.path / name for name in results if (folder.path / name).exists()]
    if path.exists():
        found = json.loads(path.read_text())
        if held and not overwrite:
            _require_same(asked, found, folder.path)
        if found == asked and not (overwrite and folder.data.exists()):
            return
    elif held and not overwrite:
        raise ValueError(f"{held[0]} was not written by an experiment; give another --out.")
    # The old name goes last: killed in between, the folder is still what it was.
    folder.clear(*results)
    text = json.dumps(asked, indent=2) + "\n"
    storage.write(path, lambda draft: draft.write_text(text))


def _require_same(asked: dict, found: dict, path: Path) -> None:
    for part in ("config", "code"):
        ours, theirs = asked[part], found.get(part, {})
        for name in {**theirs, **ours}:
            if ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"{path} holds a run with {name}={theirs.get(name)}, not {ours.get(name)}; "
                    "give another --out, or --overwrite."
                )


def _remove(path: Path) -> None:
    """Remove a file or a folder so that nobody ever finds half of it."""
    if path.exists():
        draft = path.with_name(storage.DRAFT + path.name)
        path.rename(draft)
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def _clean_up(path: Path) -> None:
    """Remove what a killed process was writing or removing."""
    for place in (path.glob, (path / "cells").rglob, (path / "checkpoints").rglob):
        for pattern in (f"{storage.DRAFT}*", "*.orbax-checkpoint-tmp*"):
            for draft in list(place(pattern)):
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    # JAX writes a compiled program in place: the newest of each thread may be cut short.
    programs = sorted((path / "cache").glob("*-cache"), key=lambda entry: entry.stat().st_mtime)
    for program in programs[-2:]:
        program.unlink()
