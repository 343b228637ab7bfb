"""``python -m benchmarks.on_gpu --part PART``; see benchmarks/gpu.sh."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
from pathlib import Path

from benchmarks.on_gpu.session import Session

PARTS = ("correctness", "step", "codec", "train")


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description="What only a GPU can show.")
    parser.add_argument("--part", required=True, choices=PARTS)
    parser.add_argument("--rehearse", action="store_true", help="the same lines on a CPU, tiny")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing new begins (480)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".work/benchmarks")))
    parser.add_argument("--only", default="", help="only cases whose name contains one of these, split at semicolons")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    session = Session(options.part, options.out, options.budget, options.only, rehearsal=options.rehearse)
    part = importlib.import_module(f"benchmarks.on_gpu.{options.part}")
    part.run(session)
    return session.finish()


if __name__ == "__main__":
    raise SystemExit(main())
