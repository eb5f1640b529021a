"""Checkpoints: states from which the unfinished parts of a sweep go on.

Each is a folder that Orbax writes, named by the number of chunks that were done, and sealed at last
with a checksum of its files. One without a seal was being written when its process was killed.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import logging

from vanishing._extras import needs
from vanishing._types import PyTree
from vanishing.sweep import parallel, storage

with needs("sweeps"):
    import orbax.checkpoint as ocp

_SEAL = "seal.sha256"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """States and outputs of a part, by the number of chunks that were done."""

    path: Path
    owner: str = ""  # what they belong to; one of another owner is none

    def latest(self) -> int:
        """How many chunks were done at the last checkpoint that is whole; 0 if there is none."""
        return max(filter(self._is_sealed, self._chunks()), default=0)

    def keep_only(self, chunks: int) -> None:
        """Remove all others: older, without a seal, or damaged; these are named."""
        for number in self._chunks():
            path = self.path / str(number)
            if number != chunks:
                if (path / _SEAL).exists() and not self._is_sealed(number):
                    logging.warning("%s is damaged; what it held is computed again.", path)
                storage.remove(path)

    def save(self, chunks: int, tree: PyTree) -> None:
        """Write a tree of NumPy arrays, then remove the checkpoint before it."""
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree)) if leaf.size}
        try:
            with _without_logs(), self._manager() as manager:
                manager.save(chunks, args=ocp.args.PyTreeSave(leaves))
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            for draft in self.path.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(draft, ignore_errors=True)
            reason = str(error).rpartition(": ")[2]
            raise OSError(f"no checkpoint could be written to {self.path}: {reason}") from error
        if jax.process_index() == 0:
            storage.write(self.path / str(chunks) / _SEAL, self._seal(chunks))
            self.keep_only(chunks)
        parallel.wait_for_all()  # the next one is not begun while these are removed

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

    def _chunks(self) -> list[int]:
        return [int(path.name) for path in self.path.glob("*") if path.name.isdecimal()]

    def _is_sealed(self, chunks: int) -> bool:
        seal = self.path / str(chunks) / _SEAL
        return seal.is_file() and seal.read_bytes() == self._seal(chunks)

    def _seal(self, chunks: int) -> bytes:
        """A checksum of the names and contents of a checkpoint's files."""
        folder = self.path / str(chunks)
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL)
        listed = (f"{storage.checksum(p.read_bytes())}  {p.relative_to(folder)}" for p in files)
        return storage.checksum("\n".join(sorted(listed)).encode(), self.owner).encode()

    def _manager(self) -> ocp.CheckpointManager:
        # the one before stays until the next is sealed
        options = ocp.CheckpointManagerOptions(max_to_keep=None, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.path, options=options)


@contextlib.contextmanager
def _without_logs() -> Iterator[None]:
    """Without the tracebacks that Orbax's threads log beside the error that they raise."""
    logger, own = logging.get_absl_logger(), lambda record: "orbax" not in record.pathname
    logger.addFilter(own)
    try:
        yield
    finally:
        logger.removeFilter(own)
