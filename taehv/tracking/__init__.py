"""Tracking: a local journal that is the truth, and MLflow fed from it. The only place that imports mlflow."""

from taehv.tracking.environment import current_git
from taehv.tracking.run import StageRun, check_store, stage_run

__all__ = ["StageRun", "check_store", "current_git", "stage_run"]
