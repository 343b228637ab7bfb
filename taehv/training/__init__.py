"""One training loop: step, validation, schedule, checkpoints, resume."""
