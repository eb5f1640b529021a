"""Run folders: the results of a sweep on disk, which survive being killed at any moment.

config.json    the configuration and the code that the folder belongs to
cells/         the finished parts of the grid's cells
checkpoints/   states from which unfinished parts go on
data.nc        the dataset of the whole grid; the two above are then gone unless a cell failed
cache/         programs that JAX compiled
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import numpy as np

from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep import sources, storage

with needs("sweeps"):
    import filelock
    import orbax.checkpoint as ocp
    import xarray as xr


_LONGEST = 180  # characters of a folder's name; file systems allow 255 bytes


class CodeVersion(NamedTuple):
    """The code that results depend on, besides their configuration."""

    modules: Mapping[str, str]  # a hash of the code of each module, by name
    libraries: Mapping[str, str]  # the versions of JAX and others, and the kind of device

    def attributes(self) -> dict[str, str]:
        """The version as attributes of a dataset; all modules are one hash there."""
        digest = hashlib.sha256(json.dumps(sorted(self.modules.items())).encode())
        version = f"{storage.version('vanishing')}+{digest.hexdigest()[:12]}"
        return {"code": version, **self.libraries}


def code_version(roots: Sequence[str | Path]) -> CodeVersion:
    """The version of the code that results of some modules depend on.

    Args:
      roots: names of modules, or paths of source files; what they import counts too, but comments,
        docstrings and formatting do not.
    """
    libraries = {name: storage.version(name) for name in ("jax", "jaxlib", "optax")}
    return CodeVersion(
        modules=sources.module_hashes(roots),
        libraries={**libraries, "backend": jax.default_backend()},
    )


@dataclasses.dataclass(frozen=True)
class Folder:
    """A run folder; `claimed` gives one that no other process works in."""

    path: Path

    @property
    def data(self) -> Path:
        """The path of the finished dataset."""
        return self.path / "data.nc"

    def parts(self, cell: str) -> dict[range, Path]:
        """The finished parts of a cell: their points and files, in the order of the points."""
        parts = {}
        for path in (self.path / "cells" / cell).glob("[0-9]*.nc"):
            start, stop = path.stem.split("-")
            parts[range(int(start), int(stop))] = path
        return dict(sorted(parts.items(), key=lambda item: item[0].start))

    def save_part(self, cell: str, points: range, dataset: xr.Dataset) -> None:
        """Write a part to disk, then remove its checkpoints."""
        folder = self.path / "cells" / cell
        folder.mkdir(parents=True, exist_ok=True)
        storage.save(dataset, folder / f"{points.start}-{points.stop}.nc")
        _remove(self._checkpoints(cell, points))

    def checkpoints(self, cell: str, points: range) -> "Checkpoints":
        """The checkpoints of an unfinished part."""
        return Checkpoints(self._checkpoints(cell, points).absolute())

    def _checkpoints(self, cell: str, points: range) -> Path:
        return self.path / "checkpoints" / cell / f"{points.start}-{points.stop}"

    def finish(self, dataset: xr.Dataset, *, complete: bool) -> None:
        """Write the dataset of the whole grid; remove its parts if no cell is missing."""
        storage.save(dataset, self.data)
        if complete:
            self.clear("cells", "checkpoints")

    def clear(self, *names: str) -> None:
        """Remove files and folders of the run folder."""
        for name in names:
            _remove(self.path / name)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """States and outputs of a part, by the number of chunks that were done."""

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
        """Write a tree of NumPy arrays, then remove the checkpoint before it."""
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree)) if leaf.size}
        try:
            with self._manager() as manager:
                manager.save(chunks, args=ocp.args.PyTreeSave(leaves))
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            raise OSError(f"no checkpoint could be written to {self.path}: {error}") from error

    def restore(self, chunks: int, specs: PyTree) -> PyTree:
        """The tree that was saved after `chunks` chunks.

        Args:
          chunks: what `latest` gives.
          specs: the shapes and dtypes of the tree.
        """
        leaves, structure = jax.tree.flatten(specs)
        stored = {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        with self._manager() as manager:
            arguments = ocp.args.PyTreeRestore(stored, restore_args=as_numpy)
            restored = manager.restore(chunks, args=arguments)
        arrays = [restored.get(str(i), np.zeros(s.shape, s.dtype)) for i, s in enumerate(leaves)]
        return structure.unflatten(arrays)

    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path, options=options)


@contextlib.contextmanager
def claimed(
    path: Path, config: Mapping[str, Any], code: CodeVersion, *, overwrite: bool = False
) -> Iterator[Folder]:
    """A run folder that belongs to a configuration and a code version, for this process alone.

    Args:
      path: the folder; created if it does not exist.
      config: the configuration, as JSON can write it.
      code: from `code_version`.
      overwrite: whether to remove the results of another configuration or version, or the finished
        ones of this; unfinished ones of this go on.

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
        _claim(Folder(path), _owner(config, code), overwrite)
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
    """A run folder that is removed at the end of the context."""
    with tempfile.TemporaryDirectory(prefix="vanishing-") as path:
        yield Folder(Path(path))


def cell_name(axes: Mapping[str, Any], sweep: str = "") -> str:
    """The name of a cell's folder, such as "activation=tanh,depth=30", under that of its sweep."""
    named = ",".join(f"{_quoted(name)}={_quoted(str(value))}" for name, value in axes.items())
    parts = (_quoted(sweep), named or "all")
    return "/".join(_of_its_own(part) for part in parts if part)


def _quoted(text: str) -> str:
    """A text without what separates the parts of a name, or paths."""
    return quote(text, safe="+ ")


def _of_its_own(part: str) -> str:
    """A name that no other part has on any file system: not by capitals, nor by being cut off."""
    plain = re.sub("%[0-9A-F]{2}", "", part)
    if plain == plain.lower() and len(part) <= _LONGEST and part.strip(". "):
        return part
    return f"{part[:_LONGEST].strip('. ')}-{hashlib.sha256(part.encode()).hexdigest()[:12]}"


def _owner(config: Mapping[str, Any], code: CodeVersion) -> dict[str, dict]:
    """The contents of `config.json`: the configuration and code that a folder belongs to."""
    owner = {"config": config, "code": code.attributes(), "modules": dict(code.modules)}
    return json.loads(json.dumps(owner))  # tuples as JSON has them


def _claim(folder: Folder, owner: dict[str, dict], overwrite: bool) -> None:
    path, results = folder.path / "config.json", ("data.nc", "cells", "checkpoints")
    existing = [folder.path / name for name in results if (folder.path / name).exists()]
    if path.exists():
        previous = json.loads(path.read_text())
        difference = _difference(previous, owner, folder.path)
        if existing and difference and not overwrite:
            raise ValueError(f"{difference}; give another --out, or --overwrite.")
        if not difference and not (overwrite and folder.data.exists()):
            return
    elif existing and not overwrite:
        raise ValueError(f"{existing[0]} was not written by an experiment; give another --out.")
    # The old name goes last: killed in between, the folder is still what it was.
    folder.clear(*results)
    text = json.dumps(owner, indent=2) + "\n"
    storage.write(path, lambda draft: draft.write_text(text))


def _difference(previous: dict[str, dict], owner: dict[str, dict], path: Path) -> str:
    """The first difference between two owners of a folder, in words; "" if they are the same.

    Of the code, the modules and the libraries count, not the release that they are part of.
    """
    for part in ("config", "code"):
        before, now = previous.get(part, {}), owner[part]
        for name in {**before, **now}:
            if before.get(name) != now.get(name) and (part, name) != ("code", "code"):
                return f"{path} holds a run with {name}={before.get(name)}, not {now.get(name)}"
    before, now = previous.get("modules", {}), owner["modules"]
    for name in {**now, **before}:
        if name in before and name in now and before[name] != now[name]:
            return f"{name} has changed since {path} was written"
    for name in {**now, **before}:
        if name not in before:
            return f"{name} is imported now, and was not when {path} was written"
        if name not in now:
            return f"{name} is not imported any more, as it was when {path} was written"
    return ""


def _remove(path: Path) -> None:
    """Remove a file or a folder at once: no reader sees a part of it."""
    if path.exists():
        draft = path.with_name(storage.DRAFT + path.name)
        path.rename(draft)
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def _clean_up(path: Path) -> None:
    """Remove the drafts of a killed process, and the programs that it may have cut short."""
    for glob in (path.glob, (path / "cells").rglob, (path / "checkpoints").rglob):
        for pattern in (f"{storage.DRAFT}*", "*.orbax-checkpoint-tmp*"):
            for draft in list(glob(pattern)):
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    # JAX writes a compiled program in place: the newest of each thread may be cut short.
    programs = sorted((path / "cache").glob("*-cache"), key=lambda entry: entry.stat().st_mtime)
    for program in programs[-2:]:
        program.unlink()
