"""The gate's findings in words that help: what failed, what the run looked like, what to look at next.

The hints say what a number is consistent with, not what it proves.
"""

from __future__ import annotations

from typing import Literal

from taehv.config.params import Params
from taehv.evaluation.gate_checks import Evidence
from taehv.evaluation.known_failures import is_legacy
from taehv.evaluation.run_records import HistoryRow, finite

MEAN_COLOUR_DB = 17.2
"""PSNR of each sample clip's own mean colour, measured: what a model reaches that reproduces no structure at all."""
BROKEN_BELOW_DB = 10.0
"""Well below mean colour: longer training does not fix that."""


def diagnose(evidence: Evidence, params: Params, failures: list[str], warnings: list[str]) -> str:
    """Readable text, several lines: findings, the run's course, hints, and how to tell which run it was."""
    lines: list[str | None] = [f"gate_psnr {'failed' if failures else 'passed'}"]
    lines += [f"  FAILED   {failure}" for failure in failures]
    lines += [f"  warning  {warning}" for warning in warnings]
    lines += ["", _course(evidence), _sources(evidence), _dominating_term(evidence)]
    hints = _hints(evidence, params) if failures else []
    if hints:
        lines += ["", "What this is consistent with:", *(f"  - {hint}" for hint in hints)]
    lines += ["", _identity(evidence, params)]
    if failures:
        lines += [
            "",
            "Next: look at runs/a800_test/train.log and the validation curve (make ui), fix params.yaml or the data, "
            "then run: dvc repro",
        ]
    return "\n".join(line for line in lines if line is not None)


def _course(evidence: Evidence) -> str | None:
    if not evidence.history:
        return f"Validation PSNR: none; {evidence.history_problem}"
    shown = "  ".join(f"{row['step']}: {_decibel(row.get('psnr'))}" for row in _thinned(evidence.history))
    return f"Validation PSNR in dB by step: {shown}"


def _thinned(rows: tuple[HistoryRow, ...], most: int = 12) -> list[HistoryRow]:
    every = -(-len(rows) // most)
    return [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]


def _sources(evidence: Evidence) -> str | None:
    by_source = (evidence.gate_row or {}).get("psnr_by_source")
    if not isinstance(by_source, dict) or not by_source:
        return None
    worst_first = sorted(by_source.items(), key=lambda item: finite(item[1]) or float("-inf"))
    shown = ", ".join(f"{source} {_decibel(value)}" for source, value in worst_first[:5])
    return f"By source at step {evidence.gate_step}, worst first: {shown}"


def _dominating_term(evidence: Evidence) -> str:
    shares = _shares(evidence)
    if not shares:
        return f"Loss terms: not recorded{f' ({evidence.summary_problem})' if evidence.summary_problem else ''}"
    shown = ", ".join(f"{term} {share:.0%}" for term, share in shares)
    pulls = _shares(evidence, "gradient_share")
    if not pulls:
        return f"Loss terms, weighted, at the end of the run: {shown}; {shares[0][0]} dominates"
    pulling = ", ".join(f"{term} {share:.0%}" for term, share in pulls)
    return (
        f"Gradient of each loss term, weighted, at the end of the run: {pulling}; {pulls[0][0]} dominates\n"
        f"Value of each loss term, weighted: {shown}"
    )


def _shares(evidence: Evidence, kind: Literal["share", "gradient_share"] = "share") -> list[tuple[str, float]]:
    """Each term's part of the loss, or of the summed gradient norms, the largest first."""
    terms = evidence.summary.get("loss_terms")
    if not isinstance(terms, dict):
        return []
    shares = [(str(term), finite(entry.get(kind))) for term, entry in terms.items() if isinstance(entry, dict)]
    return sorted(((term, share) for term, share in shares if share is not None), key=lambda pair: -pair[1])


def _hints(evidence: Evidence, params: Params) -> list[str]:
    return [*_configuration_hints(evidence, params), *_level_hints(evidence), *_course_hints(evidence, params)]


def _configuration_hints(evidence: Evidence, params: Params) -> list[str]:
    hints = []
    loss = params.loss
    if loss.recon == 0:
        hints.append("loss.recon is 0: nothing compares the round trip with its input, which is what the gate measures")
    elif is_legacy(loss):
        hints.append(
            "the guide's legacy balance (recon 0.1, encoder 1.0, decoder 1.0; with it perceptual 0.02, seraena 0.3, "
            "lr 5e-5), reported with 4.2 dB at step 1,000. With every term really working, and the learning rates of "
            "the embedded scale, it passes the gate there (27.5 dB; 28.0 dB with the guide's weights; 3 seeds, "
            "docs/losses.md), so look for a second cause"
        )
    pulls = dict(_shares(evidence, "gradient_share") or _shares(evidence))
    if 0 < pulls.get("recon", 1.0) < 0.2:
        hints.append(
            f"recon is only {pulls['recon']:.0%} of what the loss terms pull: the result is as good as the teacher's "
            "latents make it; see evaluate's numbers for the teacher, or try a larger loss.recon"
        )
    optim = params.active.optim
    if params.scale == "embedded" and optim.name == "adamw" and optim.lr <= 1e-4:
        hints.append(f"lr {optim.lr:g} is small for a short run of the embedded scale")
    return hints


def _level_hints(evidence: Evidence) -> list[str]:
    psnr = finite((evidence.gate_row or {}).get("psnr"))
    if psnr is None:
        return []
    earlier = [finite(row.get("psnr")) or 0.0 for row in evidence.up_to_gate[:-1]]
    if psnr < MEAN_COLOUR_DB < max(earlier, default=0.0):
        return [
            f"{max(earlier):.1f} dB had been reached before: training works and then diverges. Look at the learning "
            "rate, and at the clips of the steps before the fall"
        ]
    if psnr < BROKEN_BELOW_DB:
        return [
            f"{psnr:.1f} dB is worse than a clip's mean colour (about {MEAN_COLOUR_DB} dB on the sample clips): rather "
            "a broken comparison or a diverged run than too little training. On the sample clips a good codec reads "
            "4.6 dB where one side is in [-1, 1] and the other in [0, 1], 11 dB against another clip's frames, 15 dB "
            "upside down; an output that is all white 4.6 dB, all black 7.1 dB (docs/losses.md). Look also at "
            "the learning rate, at weights that are not finite, and whether any loss term reaches the decoder"
        ]
    if psnr < MEAN_COLOUR_DB:
        return [
            f"{psnr:.1f} dB is no better than a clip's mean colour (about {MEAN_COLOUR_DB} dB on the sample clips): "
            "the model reproduces no structure yet. Look at the learning rate and at which loss term dominates"
        ]
    return []


def _course_hints(evidence: Evidence, params: Params) -> list[str]:
    hints = []
    stopped = evidence.summary.get("stopped_early")
    if stopped == "aborted_at_gate":
        hints.append(f"a800_test ended itself: at most {params.a800_test.abort_below_db:g} dB at the gate step")
    if stopped == "patience" and evidence.gate_row is None:
        hints.append("early stopping ended the run before the gate step: validation PSNR had stopped improving")
    row = evidence.gate_row or {}
    averaged, raw = finite(row.get("psnr")), finite(row.get("psnr_raw"))
    if averaged is not None and raw is not None and raw > averaged + 1.0:
        hints.append(
            f"the raw weights reach {raw:.2f} dB: the moving average lags behind, try a smaller optim.ema_decay"
        )
    rows = evidence.up_to_gate
    if len(rows) > 1 and averaged is not None and averaged > MEAN_COLOUR_DB:
        before = finite(rows[-2].get("psnr"))
        if before is not None and averaged - before > 0.5:
            gain = f"{averaged - before:.1f} dB between steps {rows[-2]['step']} and {rows[-1]['step']}"
            hints.append(f"PSNR is still rising ({gain}): slow rather than broken")
    return hints


def _identity(evidence: Evidence, params: Params) -> str:
    dataset = evidence.dataset_sha256 or evidence.summary.get("dataset_sha256")
    hashes = {"dataset": dataset, "params": evidence.summary.get("params_sha256")}
    shown = ", ".join(f"{name} {str(value)[:12] if value else 'unknown'}" for name, value in hashes.items())
    return f"Run: seed {params.seed}, scale {params.scale}, {shown}"


def _decibel(value: object) -> str:
    number = finite(value)
    return "not measured" if number is None else f"{number:.2f}"
