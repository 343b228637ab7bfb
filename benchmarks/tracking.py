"""What tracking costs a training step: without it, on sqlite, on a live, a silent and a dead server.

    make bench-tracking                       # about 15 minutes on 2 cores; ARGS="--rounds 5 --steps 20"

Real training steps of the embedded default on random clips, with the metrics of a real run every `log_every` steps. All
five runs are open in this one process; they take turns, a few steps each, in an order that rotates, so that whatever
else the machine does hits all alike. While a run waits for its turn, its sender is stopped (SIGSTOP), so that each pays
for its own. The live server is on this machine and its work counts too; it is stopped with its sender.

The ratio compares each turn with the turn without tracking of the same round; median, and the middle half in brackets.
Two numbers beside it do not depend on the machine's noise: the time that the training thread spends in tracking, and
the CPU time of the sender, which is a process of its own. Prints rows of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as stages/entry.py does

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import psutil  # noqa: E402
import torch  # noqa: E402
from support.mlflow_servers import MlflowServer, free_port, silent_server  # noqa: E402

from benchmarks.train_step import AVAILABLE, Setting, build  # noqa: E402
from taehv.config.params import load_params  # noqa: E402
from taehv.config.profiles import load_profile  # noqa: E402
from taehv.runtime.machine import available_cores  # noqa: E402
from taehv.tracking.run import StageRun, stage_run  # noqa: E402


@dataclass
class Store:
    """One of the five, and what its turns took."""

    name: str
    run: StageRun | None = None
    processes: list[psutil.Process] = field(default_factory=list)
    """The sender, and the server where it is ours."""
    step_seconds: list[float] = field(default_factory=list)
    """Mean of each turn."""
    tracking_seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0

    def let(self, what: signal.Signals) -> None:
        """Stop or continue everything that works for this store."""
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(what)

    def cpu(self) -> float:
        """Seconds of the sender so far."""
        if not self.processes:
            return 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            times = self.processes[0].cpu_times()
            return float(times.user + times.system)
        return 0.0

    def take_turn(self, train: Callable[[int], Any], first: int, steps: int, log_every: int) -> None:
        """Train some steps, timed."""
        self.let(signal.SIGCONT)
        before, started = self.cpu(), time.perf_counter()
        for step in range(first, first + steps):
            report = train(step)
            if step % log_every == 0 and self.run is not None:
                entered = time.perf_counter()
                self.run.metrics(step, tracked(report))
                self.tracking_seconds += time.perf_counter() - entered
        self.step_seconds.append((time.perf_counter() - started) / steps)
        self.steps += steps
        self.cpu_seconds += self.cpu() - before
        self.let(signal.SIGSTOP)

    def row(self, alone: Store) -> str:
        """For the table."""
        mean = statistics.median(self.step_seconds)
        ratios = [mine / other for mine, other in zip(self.step_seconds, alone.step_seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        thread, cpu = self.tracking_seconds / self.steps, self.cpu_seconds / self.steps
        return (
            f"| {self.name} | {1e3 * mean:.1f} | {middle:.4f} ({low:.4f} to {high:.4f}) | {1e6 * thread:.0f} "
            f"({thread / mean:.4%}) | {1e3 * cpu:.2f} ({cpu / mean:.2%}) |"
        )


def tracked(report: Any) -> dict[str, float]:
    """As `RunMetrics.training_metrics` does."""
    return {
        "train/loss": report.loss,
        **{f"train/{term}": value for term, value in report.terms.items()},
        **{f"train/weighted/{term}": report.weights[term] * value for term, value in report.terms.items()},
        "train/gradient_norm": report.gradient_norm,
        **{f"train/learning_rate_{name}": rate for name, rate in report.learning_rates.items()},
        "throughput/clips_per_second": 1.0,
    }


@contextlib.contextmanager
def opened(stack: contextlib.ExitStack, root: Path, settle: float) -> Iterator[list[Store]]:
    """All five, ready for their turns after so many seconds."""
    server = MlflowServer(root)
    server.start()
    stack.callback(server.kill)
    uris = {
        "sqlite": None,
        "live server": server.uri,
        "server that never answers": stack.enter_context(silent_server()),
        "dead port": f"http://127.0.0.1:{free_port()}",
    }
    stores = [Store("no tracking")]
    params, profile = load_params(REPOSITORY / "params.yaml"), load_profile("local", REPOSITORY / "profiles")
    for name, uri in uris.items():
        environment = {"TAEHV_ROOT": str(root), "TAEHV_TRACKING_DRAIN_SECONDS": "5"}
        environment |= {} if uri is None else {"MLFLOW_TRACKING_URI": uri}
        known = set(psutil.Process().children())
        with mock.patch.dict(os.environ, environment):
            run = stack.enter_context(stage_run("a800_test", params, profile, folder=root / name / "tracking"))
        stores.append(Store(name, run, [child for child in psutil.Process().children() if child not in known]))
    time.sleep(settle)
    listening = next(store for store in stores if store.name == "live server")
    listening.processes += server.processes()
    for store in stores:
        store.let(signal.SIGSTOP)
    try:
        yield stores
    finally:
        for store in stores:
            store.let(signal.SIGCONT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each store (default: 12)")
    parser.add_argument("--steps", type=int, default=30, help="steps of a turn (default: 30)")
    parser.add_argument(
        "--settle",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="until every sender has loaded its libraries and met its store (default: 30)",
    )
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # However it ends, no sender stays behind stopped.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    log_every = load_profile("local", REPOSITORY / "profiles").log_every
    train: Any = build(Setting("embedded", 64, 64, 4, "fp32", AVAILABLE), torch.device("cpu"))
    for step in range(1, 6):
        train(step)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.ExitStack() as stack,
        opened(stack, Path(folder), options.settle) as stores,
    ):
        step = 6
        for turn in range(options.rounds):
            for store in stores[turn % len(stores) :] + stores[: turn % len(stores)]:
                store.take_turn(train, step, options.steps, log_every)
                step += options.steps
            print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
            if turn > 0:
                print_table(stores, turn + 1, options)


def print_table(stores: list[Store], rounds: int, options: argparse.Namespace) -> None:
    """After each round, so that a run that is ended early is not lost."""
    print(f"\n{rounds} x {options.steps} steps, {options.threads} thread(s)")
    print("| store | ms/step | times no tracking | training thread, us/step | sender's CPU, ms/step |")
    print("|---|---|---|---|---|")
    for store in stores:
        print(store.row(stores[0]), flush=True)


if __name__ == "__main__":
    main()
