"""One thin script per DVC stage: read the parameters, call taehv, track."""
