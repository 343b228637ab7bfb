"""What an interrupted prepare_data has finished, for the next start of the same one.

    data/prepare_data.partial/made_by            the hash of what the bytes of shards depend on, but their videos
    data/prepare_data.partial/clips/             shards, as in the finished store; some are not complete
    data/prepare_data.partial/finished/*.json    what each complete one is, and of which plan: written after it

A shard is used again if the same code, versions and parameters have made it, of the same plan, and if its bytes are
still those that were written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taehv.data.clip_codec import Fidelity
from taehv.data.clip_index import ClipRecord
from taehv.data.clip_shards import ShardFile
from taehv.data.extract_clips import WrittenShards
from taehv.data.remote_shards import RemoteShards
from taehv.data.shard_plan import ShardPlan
from taehv.runtime import atomic_files
from taehv.runtime.hashing import sha256_of_file


class FinishedShards:
    """The finished shards in a folder, which is emptied where something else has made what is in it."""

    def __init__(self, folder: Path, made_by: Mapping[str, Any], remote: RemoteShards | None) -> None:
        """
        Args:
            folder: ``data/prepare_data.partial``.
            made_by: what the bytes of shards depend on, but their own plan; JSON.
            remote: where finished shards have gone to; None: they are in the folder.
        """
        self._folder = folder
        self._remote = remote
        mark = folder / "made_by"
        key = _hash(made_by)
        if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
            shutil.rmtree(folder, ignore_errors=True)
        (folder / "finished").mkdir(parents=True, exist_ok=True)
        atomic_files.write_text(mark, key)

    def __len__(self) -> int:
        return sum(1 for _ in (self._folder / "finished").glob("*.json"))

    def take(self, plan: ShardPlan) -> WrittenShards | None:
        """The shards of this plan, compared with what was written; None where they must be made."""
        try:
            noted = json.loads(self._note_of(plan).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if noted["plan"] != _hash(_facts(plan)):
            return None
        files = tuple(ShardFile(**facts) for facts in noted["files"])
        if not self._are_there(files):
            return None
        return WrittenShards(
            files, tuple(ClipRecord(**facts) for facts in noted["records"]), Fidelity(**noted["fidelity"])
        )

    def note(self, plan: ShardPlan, written: WrittenShards) -> None:
        """Say that the shards of a plan are complete, and in their place."""
        atomic_files.write_text(
            self._note_of(plan), json.dumps({"plan": _hash(_facts(plan)), **dataclasses.asdict(written)})
        )

    def _note_of(self, plan: ShardPlan) -> Path:
        return self._folder / "finished" / f"{plan.names[0]}.json"

    def _are_there(self, files: tuple[ShardFile, ...]) -> bool:
        if self._remote is not None:
            return all(self._remote.has(file) for file in files)
        paths = [(self._folder / "clips" / file.name, file) for file in files]
        return all(path.is_file() and sha256_of_file(path) == file.sha256 for path, file in paths)


def _facts(plan: ShardPlan) -> dict[str, Any]:
    """Of each video everything but where its file is: the same content may have moved."""
    facts = dataclasses.asdict(plan)
    for video in facts["videos"]:
        del video["video"]["file"]
    return facts


def _hash(facts: Mapping[str, Any]) -> str:
    """Of values whose text says all of them: numbers, strings, fractions, paths."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
