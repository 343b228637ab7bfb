"""How every stage starts and ends. Imported before torch."""

import os

# GNU OpenMP's threads wait for each other by spinning. Beside another busy process a training step then takes 40 times
# as long: 13.6 s on 2 cores instead of 0.33 s. With this limit it takes 0.9 s, and alone as long as without
# (benchmarks/RESULTS.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from taehv.errors import EXIT_FAILED
from taehv.errors import exit_with as run_stage

__all__ = ["EXIT_FAILED", "run_stage"]
