"""The model registry: versions, what they are known for, and which of them is the champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from taehv.tracking.queries import if_there

CHAMPION = "champion"
MODEL_URI = "models:/"
SCORE = "test_psnr_db"
TEST_SET = ("dataset_sha256", "test_clips", "test_frames")
"""Version tags that must be equal before scores may be compared."""
SHOWN = 12
"""Characters of a hash for a person."""


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes the champion."""

    replaces: bool
    reason: str


def decide(new: Mapping[str, str], champion: Mapping[str, str] | None) -> Decision:
    """Compare two versions by their tags; ``champion`` is None where there is none.

    Only a better score on the same test clips replaces a champion.
    """
    score = float(new[SCORE])
    if champion is None:
        return Decision(True, f"the first: test PSNR {score:.2f} dB on {_test_set(new)}")
    try:
        other = float(champion[SCORE])
    except (KeyError, ValueError):
        return Decision(False, "the champion has no test PSNR among its tags, so they cannot be compared")
    if any(new.get(name) != champion.get(name) for name in TEST_SET):
        return Decision(
            False, f"measured on {_test_set(new)}, the champion on {_test_set(champion)}, so they cannot be compared"
        )
    shown = f"test PSNR {score:.4f} dB against {other:.4f} dB on {_test_set(new)}"
    return Decision(score > other, shown if score > other else f"not better: {shown}")


def _test_set(tags: Mapping[str, str]) -> str:
    dataset, clips, frames = (tags.get(name, "unknown") for name in TEST_SET)
    return f"{clips} clips of {frames} frames of dataset {dataset[:SHOWN]}"


class Registry:
    """Every call may be repeated: nothing is registered twice."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def register(self, model_id: str, name: str, alias: str, tags: Mapping[str, str], reason: str) -> str:
        """A version of the registered model, under an alias; the model's own version where it has one already.

        An event may be sent long after it happened: the alias stays with a version whose run began later.

        Returns the version's number.
        """
        version = self._tagged_version(model_id, name, tags)
        holder = self._holder(name, alias)
        if holder is not None and self._began_later(holder, self._client.get_model_version(name, version)):
            stays = f"version {holder.version}, whose run began later, keeps the alias; {reason}"
            self._describe(name, version, alias, stays)
            return version
        self._client.set_registered_model_alias(name, alias, version)
        self._describe(name, version, alias, reason)
        return version

    def promote(self, model_id: str, name: str, tags: Mapping[str, str]) -> Decision:
        """Make the model the champion if ``decide`` says so. The reason is put into the version's description."""
        version = self._tagged_version(model_id, name, tags)
        present = self._holder(name, CHAMPION)
        if present is not None and str(present.version) == version:
            return Decision(True, "it is the champion already")
        decision = decide(tags, None if present is None else present.tags)
        if decision.replaces:
            self._client.set_registered_model_alias(name, CHAMPION, version)
        if present is None:
            shown = decision.reason
        elif decision.replaces:
            shown = f"replaced version {present.version}: {decision.reason}"
        else:
            shown = (
                f"version {present.version} stays: {decision.reason}. By hand: "
                f"MlflowClient().set_registered_model_alias('{name}', '{CHAMPION}', '{version}')"
            )
        self._describe(name, version, CHAMPION, shown)
        return Decision(decision.replaces, shown)

    def bring_name(self, name: str, description: str | None, tags: Mapping[str, str]) -> None:
        """A registered model of another store, if there is none of that name."""
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name, dict(tags), description)

    def bring_version(
        self, model_id: str, name: str, description: str | None, tags: Mapping[str, str], *, aliases: Sequence[str]
    ) -> None:
        """A version that another store has of the model, with what is missing of its aliases.

        An alias that another version has here moves to one that is new here if it would had the model been registered
        here: the champion's to a better one, any other to one whose run began later.
        """
        is_new = self._version_of(model_id, name) is None
        version = self._tagged_version(model_id, name, tags if is_new else {})
        if is_new and description:
            self._client.update_model_version(name, version, description)
        for alias in aliases:
            holder = self._holder(name, alias)
            if holder is None or (is_new and self._takes(name, version, alias, tags, holder)):
                self._client.set_registered_model_alias(name, alias, version)

    def _takes(self, name: str, version: str, alias: str, tags: Mapping[str, str], holder: ModelVersion) -> bool:
        if alias == CHAMPION:
            return SCORE in tags and decide(tags, holder.tags).replaces
        return not self._began_later(holder, self._client.get_model_version(name, version))

    def _began_later(self, one: ModelVersion, other: ModelVersion) -> bool:
        """Whether both models' runs are known, and that of ``one`` began later."""
        began = self._run_began(other)
        later = self._run_began(one)
        return later is not None and began is not None and later > began

    def _version_of(self, model_id: str, name: str) -> str | None:
        source = f"{MODEL_URI}{model_id}"
        versions = [v for v in self._client.search_model_versions(f"name = '{name}'") if v.source == source]
        return str(versions[0].version) if versions else None

    def _tagged_version(self, model_id: str, name: str, tags: Mapping[str, str]) -> str:
        """The model's version, which is registered where there is none yet, with the tags."""
        version = self._version_of(model_id, name)
        if version is None:
            version = str(mlflow.register_model(f"{MODEL_URI}{model_id}", name).version)
        for key, value in tags.items():
            self._client.set_model_version_tag(name, version, key, value)
        return version

    def _holder(self, name: str, alias: str) -> ModelVersion | None:
        return if_there(lambda: self._client.get_model_version_by_alias(name, alias))

    def _run_began(self, version: ModelVersion) -> int | None:
        """When the version's model was trained, in milliseconds since 1970; None where its run is not known.

        The run's time is the journal's. The model's own is the time of its sending.
        """
        run_id, source = version.run_id, version.source or ""
        if source.startswith(MODEL_URI):
            model = if_there(lambda: self._client.get_logged_model(source.removeprefix(MODEL_URI)))
            run_id = None if model is None else model.source_run_id
        run = if_there(lambda: self._client.get_run(run_id)) if run_id else None
        return None if run is None else int(run.info.start_time)

    def _describe(self, name: str, version: str, alias: str, reason: str) -> None:
        """One line per alias; other lines of the description stay as they are."""
        known = self._client.get_model_version(name, version).description or ""
        prefix, new = f"{alias}: ", f"{alias}: {reason}"
        lines = [new if line.startswith(prefix) else line for line in known.splitlines()]
        self._client.update_model_version(name, version, "\n".join(lines if new in lines else [*lines, new]))
