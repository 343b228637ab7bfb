"""How every stage starts and ends. Imported before torch."""

import os

# GNU OpenMP's threads wait for each other by spinning. Beside another busy process a training step then takes 40 times
# as long: 13.6 s instead of 0.34 s on 2 cores, but about 1 s with this limit. Alone, the limit costs about a tenth.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from taehv.errors import EXIT_FAILED
from taehv.errors import exit_with as run_stage

__all__ = ["EXIT_FAILED", "run_stage"]
