"""Tracking: a local journal that is the truth, and MLflow fed from it. The only place that imports mlflow."""
