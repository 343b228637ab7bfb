"""What a run is labelled with: where it comes from, what it ran on, how it ended."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass

from taehv.config.params import Params, StageName
from taehv.config.profiles import Profile
from taehv.config.stage_keys import stage_params
from taehv.runtime.errors import Interrupted, UserError
from taehv.runtime.hashing import sha256_of_json
from taehv.tracking.environment import current_git, gpu_names


@dataclass(frozen=True)
class Ending:
    """How a run ended, as MLflow is told."""

    status: str
    """FINISHED, FAILED or KILLED."""
    tags: Mapping[str, str]


def ending_of(error: BaseException) -> Ending:
    """An exception as the end of a run: KILLED where a signal asked for it, FAILED otherwise."""
    if isinstance(error, Interrupted):
        return Ending("KILLED", {"interrupted": error.reason})
    if isinstance(error, KeyboardInterrupt):
        return Ending("KILLED", {"interrupted": "SIGINT"})
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return Ending("FAILED", {"failed": "true", "failure_reason": reason})


def parent_from_environment() -> str | None:
    """The `mlflow run` that started us. Taken out of the environment, or every stage would write into that one run.

    It also names its experiment, `Default` (0) where nobody has chosen one; that is then no choice of ours either.
    """
    parent = os.environ.pop("MLFLOW_RUN_ID", None)
    if parent is not None and os.environ.get("MLFLOW_EXPERIMENT_ID") == "0":
        del os.environ["MLFLOW_EXPERIMENT_ID"]
    return parent


def stage_tags(stage: StageName, params: Params, profile: Profile) -> dict[str, str]:
    """What runs are searched and grouped by, and what MLflow's UI shows as user, source and version."""
    git, gpus = current_git(), gpu_names()
    tags = {
        "stage": stage,
        "scale": params.scale,
        "profile": profile.name,
        "processes": str(profile.processes),
        "per_device": str(profile.per_device),
        "gpu_names": ", ".join(sorted(set(gpus))) or "none",
        "gpu_count": str(len(gpus)),
        "git_commit": git.commit,
        "git_dirty": git.dirty,
        "params_sha256": sha256_of_json(stage_params(params, stage)),
    }
    tags |= {"mlflow.source.name": f"stages/{stage}.py", "mlflow.source.type": "LOCAL"}
    if git.commit != "unknown":
        tags["mlflow.source.git.commit"] = git.commit
    with contextlib.suppress(OSError, KeyError):  # a user id without a name
        tags["mlflow.user"] = getpass.getuser()
    from_dvc = {"dvc_exp_name": "DVC_EXP_NAME", "dvc_exp_baseline_rev": "DVC_EXP_BASELINE_REV"}
    return tags | {tag: os.environ[name] for tag, name in from_dvc.items() if name in os.environ}
