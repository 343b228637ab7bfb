"""Writing checkpoints in the background, and keeping the newest.

Training waits for the copy of its state, not for the disk. Each process writes what its own slots remember, the first
one everything else; nothing here talks over the training's own communication, which the background must not disturb:
a process says that its part is done by a file.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError

from taehv.runtime.errors import NotWritableError, UserError
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.training.checkpoint import (
    CheckpointError,
    Snapshot,
    flush_to_disk,
    read_checkpoint_manifest,
    step_of,
    take_snapshot,
    write_checkpoint_manifest,
    write_files,
)
from taehv.training.run_spec import RunSpec
from taehv.training.state import TrainingState

log = logging.getLogger(__name__)

SECONDS_TO_WAIT_FOR_OTHERS = 600.0
SECONDS_BETWEEN_LOOKS = 0.01


class CheckpointWriter:
    """Writes one checkpoint at a time. All processes of a run call ``save`` at the same steps."""

    def __init__(self, spec: RunSpec, process_index: int, processes: int) -> None:
        self._spec = spec
        self._index = process_index
        self._processes = processes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-writer")
        self._pending: Future[None] | None = None

    def save(self, folder: Path, state: TrainingState, *, keep: int | None = None) -> None:
        """Begin to write ``folder/step-N``; it appears when all of it is on disk.

        Args:
            folder: of the checkpoints.
            state: copied before this returns.
            keep: afterwards, delete all but the newest ``keep`` checkpoints of the folder up to this one.

        Raises:
            UserError: the checkpoint before this one could not be written.
        """
        self.wait()
        snapshot = take_snapshot(state, with_shared_part=self._index == 0)
        self._pending = self._thread.submit(self._write, folder, snapshot, keep)

    def check(self) -> None:
        """Raises UserError if the last write has failed; does not wait for one that is going on."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until the last write is done; raises UserError if it has failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """As ``wait``, and stop the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, folder: Path, snapshot: Snapshot, keep: int | None) -> None:
        partial = folder / f".step-{snapshot.step}.partial"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            write_files(snapshot, partial)
            failpoint(Failpoint.CHECKPOINT_FILES)
            if self._index > 0:
                _done_file(partial, self._index).touch()
                return
            self._wait_for_others(partial)
            write_checkpoint_manifest(partial, snapshot.step, self._spec)
            failpoint(Failpoint.CHECKPOINT_MANIFEST)
            _put_in_place(partial, folder / f"step-{snapshot.step}")
            failpoint(Failpoint.CHECKPOINT_IN_PLACE)
            if keep is not None:
                keep_newest(folder, keep, up_to=snapshot.step)
        except (OSError, NotWritableError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"the checkpoint of step {snapshot.step} cannot be written to {folder}: {error}. "
                "The one before is intact: make room (or fix what is wrong there) and run the same command again"
            ) from error

    def _wait_for_others(self, partial: Path) -> None:
        deadline = time.monotonic() + SECONDS_TO_WAIT_FOR_OTHERS
        for process in range(1, self._processes):
            done = _done_file(partial, process)
            while not done.exists():
                if time.monotonic() > deadline:
                    raise UserError(f"training process {process} did not write its part of {partial}")
                time.sleep(SECONDS_BETWEEN_LOOKS)
            done.unlink()


def newest_first(folders: Sequence[Path]) -> list[Path]:
    """The checkpoints in ``folders``, the newest first; not yet checked."""
    found = [path for folder in folders for path in folder.glob("step-*") if step_of(path) is not None]
    return sorted(found, key=lambda path: step_of(path) or 0, reverse=True)


def keep_newest(folder: Path, keep: int, *, up_to: int) -> None:
    """Delete all but the ``keep`` newest checkpoints of the steps up to ``up_to``, the one just written.

    Later ones are from before a resume that went back, because they were damaged or by --resume: they do not count, and
    are replaced when training comes to their steps. A deletion that is interrupted leaves no half checkpoint behind:
    the folder loses its name first.
    """
    written = [path for path in newest_first([folder]) if (step_of(path) or 0) <= up_to]
    for path in written[keep:]:
        doomed = path.with_name(f".{path.name}.partial")
        path.rename(doomed)
        failpoint(Failpoint.CHECKPOINT_DELETION)
        shutil.rmtree(doomed)


def delete_unfinished(folders: Sequence[Path]) -> None:
    """Delete what interrupted writes and deletions left; no process may be writing."""
    for folder in folders:
        for path in folder.glob(".step-*.partial"):
            shutil.rmtree(path)


def _put_in_place(partial: Path, final: Path) -> None:
    """Give a whole checkpoint its name. One of this step that is whole already says the same and stays."""
    if final.exists():
        try:
            read_checkpoint_manifest(final)
        except CheckpointError as error:
            log.warning("replaced: %s", error)
            shutil.rmtree(final)
        else:
            shutil.rmtree(partial)
            return
    partial.rename(final)
    flush_to_disk(final.parent)


def _done_file(partial: Path, process: int) -> Path:
    return partial / f".done-{process}"
