"""How busy the machine is, under MLflow's names, so that its UI shows them as system metrics.

Not MLflow's own monitor: that one ends at the first call that fails, and its points would be in no journal.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

import psutil
import pynvml

MEGABYTE = 1e6
SECONDS_BETWEEN_SAMPLES = 10.0


class SystemMetrics:
    """A thread that samples now and then until it is stopped."""

    def __init__(self, record: Callable[[int, Mapping[str, float]], object], first_step: int) -> None:
        """Start.

        Args:
            record: takes each sample with its number as the step.
            first_step: the number of the first sample.
        """
        self._record = record
        self._step = first_step
        self._gpus = _gpus()
        self._network_before = psutil.net_io_counters()
        psutil.cpu_percent()  # begins the interval that the first sample is about
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stopped.set()
        self._thread.join()

    def sample(self) -> dict[str, float]:
        """Percent, megabytes and watts."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.used / memory.total * 100,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / MEGABYTE,
            "disk_available_megabytes": disk.free / MEGABYTE,
            "network_receive_megabytes": (network.bytes_recv - self._network_before.bytes_recv) / MEGABYTE,
            "network_transmit_megabytes": (network.bytes_sent - self._network_before.bytes_sent) / MEGABYTE,
        }
        for number, gpu in enumerate(self._gpus):
            values |= {f"gpu_{number}_{name}": value for name, value in _gpu_sample(gpu).items()}
        return {f"system/{name}": round(float(value), 1) for name, value in values.items()}

    def _run(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_SAMPLES):
            self._record(self._step, self.sample())
            self._step += 1


def _gpus() -> list[object]:
    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []  # no NVIDIA driver: nothing to measure


def _gpu_sample(gpu: object) -> dict[str, float]:
    """What this GPU can measure; not all can measure power."""
    values: dict[str, float] = {}
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        values["memory_usage_percentage"] = memory.used / memory.total * 100
        values["memory_usage_megabytes"] = memory.used / MEGABYTE
        values["utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
        watts = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
        values["power_usage_watts"] = watts
        values["power_usage_percentage"] = watts * 1e5 / pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu)
    except pynvml.NVMLError:
        return values
    return values
