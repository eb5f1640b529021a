"""Run folders: the results of a sweep on disk, which survive being killed at any moment.

config.json    the configuration and the code that the folder belongs to
cells/         the finished parts of the grid's cells, with checksums in their names
checkpoints/   states from which unfinished parts go on
data.nc        the dataset of the whole grid; the two above are then gone unless a cell failed
data.sha256    its checksum
cache/         programs that JAX compiled

What is damaged is named, and computed again.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
from absl import logging

from vanishing._extras import needs
from vanishing.sweep import sources, storage
from vanishing.sweep.checkpoints import Checkpoints

with needs("sweeps"):
    import filelock
    import xarray as xr


_PART = re.compile(r"(?P<start>\d+)-(?P<stop>\d+)\.(?P<owner>[0-9a-f]{16})\.[0-9a-f]{16}\.nc")
_RESULTS = ("data.nc", "data.sha256", "cells", "checkpoints")
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
    owner: str = ""  # a hash of the configuration and the code that it belongs to
    sweep: str = ""  # what else parts and checkpoints belong to: the axes of their grid

    @property
    def data(self) -> Path:
        """The path of the finished dataset."""
        return self.path / "data.nc"

    @property
    def _seal(self) -> Path:
        return self.path / "data.sha256"

    def is_finished(self) -> bool:
        """Whether the dataset is there and whole; one that is damaged is named.

        Beside its parts it may lack its checksum: a process was killed while it wrote them.
        """
        whole = self._is_sealed()
        is_being_written = (self.path / "cells").exists() and not self._seal.exists()
        if not whole and self.data.exists() and not is_being_written:
            logging.warning("%s is damaged; it is computed again.", self.data)
        return whole

    def _is_sealed(self) -> bool:
        """Whether the dataset has a checksum, without which it was being written, that holds."""
        is_there = self.data.is_file() and self._seal.is_file()
        return is_there and self._seal.read_bytes() == self._sum(self.data.read_bytes())

    def _sum(self, data: bytes) -> bytes:
        """The contents of `data.sha256`, as `sha256sum --check` reads them."""
        return f"{storage.checksum(data)}  {self.data.name}\n# of {self.owner}\n".encode()

    def parts(self, cell: str) -> dict[range, Path]:
        """The finished parts of a cell: their points and files, in the order of the points."""
        parts = {}
        for path in (self.path / "cells" / cell).glob("*.nc"):
            name = _PART.fullmatch(path.name)
            if name and name["owner"] == _short(self.owner):
                parts[range(int(name["start"]), int(name["stop"]))] = path
        return dict(sorted(parts.items(), key=lambda item: item[0].start))

    def whole_parts(self, cell: str) -> list[range]:
        """The points of those parts that are whole; one that is damaged is named and removed."""
        whole = []
        for points, path in self.parts(cell).items():
            if self._is_whole(path, path.read_bytes()):
                whole.append(points)
            else:
                logging.warning("%s is damaged; it is computed again.", path)
                storage.remove(path)
        return whole

    def load_part(self, cell: str, points: range) -> xr.Dataset:
        """A finished part.

        Raises:
          ValueError: it is damaged.
        """
        path = self.parts(cell)[points]
        contents = path.read_bytes()
        if not self._is_whole(path, contents):
            raise ValueError(f"{path} is damaged; the same command computes it again.")
        return storage.from_bytes(contents, path)

    def _is_whole(self, path: Path, contents: bytes) -> bool:
        return path.name.split(".")[-2] == _short(storage.checksum(contents, self.sweep))

    def save_part(self, cell: str, points: range, dataset: xr.Dataset) -> None:
        """Write a part to disk, then remove its checkpoints."""
        folder, contents = self.path / "cells" / cell, storage.to_bytes(dataset)
        folder.mkdir(parents=True, exist_ok=True)
        seal = _short(storage.checksum(contents, self.sweep))
        name = f"{points.start}-{points.stop}.{_short(self.owner)}.{seal}.nc"
        storage.write(folder / name, contents)
        storage.remove(self._checkpoints(cell, points))

    def checkpoints(self, cell: str, points: range) -> Checkpoints:
        """The checkpoints of an unfinished part."""
        path = self._checkpoints(cell, points).absolute()
        return Checkpoints(path, f"{self.owner} {self.sweep}")

    def _checkpoints(self, cell: str, points: range) -> Path:
        return self.path / "checkpoints" / cell / f"{points.start}-{points.stop}"

    def finish(self, dataset: xr.Dataset, *, complete: bool) -> None:
        """Write the dataset of the whole grid; remove its parts if no cell is missing."""
        contents = storage.to_bytes(dataset)
        self.clear(self._seal.name)  # which is that of the dataset before
        storage.write(self.data, contents)
        storage.write(self._seal, self._sum(contents))
        if complete:
            self.clear("cells", "checkpoints")

    def clear(self, *names: str) -> None:
        """Remove files and folders of the run folder."""
        for name in names:
            storage.remove(self.path / name)


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
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    before = set(path.iterdir()) if path.exists() else set()
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / ".lock", timeout=0)
    try:
        held = lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"{path} is in use by another process; wait for it to end, or give another --out."
        ) from None
    with held, _no_trace_of_a_refusal(path, made, before):
        folder, running = of(path, config, code), path / ".running"
        _claim(folder, _owner(config, code), overwrite)
        if running.exists():
            _clean_up(path)
        running.touch()
        try:
            yield folder
        finally:
            running.unlink(missing_ok=True)


def of(path: Path, config: Mapping[str, Any], code: CodeVersion) -> Folder:
    """The run folder of a configuration and a code version, without claiming it."""
    owner = _owner(config, code)
    del owner["code"]["code"]  # the release, which may change where the code does not
    return Folder(path, hashlib.sha256(json.dumps(owner, sort_keys=True).encode()).hexdigest())


@contextlib.contextmanager
def _no_trace_of_a_refusal(
    path: Path, made: Sequence[Path], before: Collection[Path]
) -> Iterator[None]:
    """Remove what is new in a folder, and the folders made for it, after an error and no results.

    What Ctrl-C or a signal leaves is there to go on from.
    """
    try:
        yield
    except (Exception, SystemExit):
        files = [file for name in _RESULTS for file in _files(path / name)]
        empty = all(file.name.startswith(storage.DRAFT) for file in files)
        with contextlib.suppress(OSError):  # what cannot be removed stays
            for name in (*_RESULTS, "config.json", "cache", ".lock") if empty else (".lock",):
                if path / name not in before:
                    storage.remove(path / name)
            for folder in made:
                folder.rmdir()
        raise


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


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


def _read_owner(path: Path) -> dict[str, dict] | None:
    """The contents of a `config.json`; None if they are damaged."""
    try:
        owner = json.loads(path.read_bytes())
        seal = owner.pop("checksum")
    except (ValueError, TypeError, AttributeError, KeyError):  # cut short, a list, null, ...
        return None
    return owner if seal == _checksum(owner) else None


def _write_owner(path: Path, owner: dict[str, dict]) -> None:
    text = json.dumps({**owner, "checksum": _checksum(owner)}, indent=2)
    storage.write(path, text + "\n")


def _checksum(owner: dict[str, dict]) -> str:
    return storage.checksum(json.dumps(owner, sort_keys=True).encode())


def _short(digest: str) -> str:
    """The part of a hash that names hold; of a text that is none, its hash."""
    return (digest if len(digest) == 64 else storage.checksum(digest.encode()))[:16]


def _of_others(folder: Folder) -> Path | None:
    """A result that cannot be told to belong to the folder's own configuration."""
    if folder.data.exists() and not folder._is_sealed():
        return folder.data
    for path in (folder.path / "cells").rglob("*.nc"):
        name = _PART.fullmatch(path.name)
        if name is None or name["owner"] != _short(folder.owner):
            return path
    return None


def _claim(folder: Folder, owner: dict[str, dict], overwrite: bool) -> None:
    path = folder.path / "config.json"
    existing = [folder.path / name for name in _RESULTS if (folder.path / name).exists()]
    previous = _read_owner(path) if path.is_file() else None
    if path.exists() and previous is None and not overwrite:
        if other := _of_others(folder):
            raise ValueError(
                f"{path} is damaged, and {other} may be of another run; give another --out, or "
                "--overwrite."
            )
        logging.warning("%s is damaged; it is written anew.", path)
    elif path.exists() and previous is not None:
        difference = _difference(previous, owner, folder.path)
        if existing and difference and not overwrite:
            raise ValueError(f"{difference}; give another --out, or --overwrite.")
        if not difference and not (overwrite and folder.data.exists()):
            return
    elif existing and not overwrite:
        raise ValueError(f"{existing[0]} was not written by an experiment; give another --out.")
    # The old name goes last: killed in between, the folder is still what it was.
    if overwrite or previous is not None or not path.exists():
        folder.clear(*_RESULTS)
    if path.is_dir():
        folder.clear(path.name)
    _write_owner(path, owner)


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
