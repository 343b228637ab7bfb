"""Secrets of the tracking store are in nothing that a stage writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mlflow_servers import MlflowServer, free_port, silent_server
from support.tracked_runs import PROCESS, environment, runs, track

from taehv.tracking.secrets import hide_secrets, without_password, without_secrets

SECRETS = {
    "in the URI": "S3cr3t-of-the-uri",
    "as the password": "S3cr3t-password",
    "as the token": "S3cr3t-token",
    "in the query": "S3cr3t-of-the-query",
    "on the command line": "S3cr3t-argument",
}


def with_secrets(uri: str) -> dict[str, str]:
    user_info, query = f"me:{SECRETS['in the URI']}@", f"?token={SECRETS['in the query']}"
    return {"MLFLOW_TRACKING_URI": uri.replace("//", f"//{user_info}") + query}


def run_stage(root: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A stage that is given secrets in every way, fails and says why; all its output."""
    command = [
        sys.executable,
        PROCESS,
        str(root / ".work/a800_test/0123456789abcdef/tracking"),
        "1",
        "5",
        "fail",
        "--token",
    ]
    command += [SECRETS["on the command line"], f"--api-key={SECRETS['on the command line']}"]
    more = {"TAEHV_TRACKING_DRAIN_SECONDS": "20", "MLFLOW_LOGGING_LEVEL": "DEBUG", **more}
    return subprocess.run(command, env=environment(root, **more), cwd=root, capture_output=True, text=True)


def assert_no_secret_in(root: Path, *outputs: str) -> None:
    written = {str(file): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    written |= {f"output {number}": output.encode() for number, output in enumerate(outputs)}
    for place, content in written.items():
        for where, secret in SECRETS.items():
            assert secret.encode() not in content, f"the secret {where} is in {place}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_a_store_that_fails_reveals_nothing(kind: str, tmp_path: Path) -> None:
    with silent_server() as silent:
        uri = silent if kind == "silent" else f"http://127.0.0.1:{free_port()}"
        # The sender, which lets everybody else go first, has time to say that it got no answer.
        soon = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "TAEHV_TRACKING_DRAIN_SECONDS": "60"}
        result = run_stage(tmp_path, **with_secrets(uri), **soon)
        synced = track(tmp_path, "sync", **with_secrets(uri))
    assert "does not work" in result.stderr
    assert synced.returncode == 1
    assert_no_secret_in(tmp_path, result.stderr, result.stdout, synced.stdout, synced.stderr)
    journals = list(tmp_path.rglob("journal.jsonl"))
    assert "cannot reach http://***@" in journals[0].read_text()


@pytest.mark.slow
def test_a_store_that_works_is_told_nothing(tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        uri = server.uri.replace("//", f"//me:{SECRETS['in the URI']}@")
        unsent = run_stage(tmp_path, MLFLOW_TRACKING_URI=uri, TAEHV_TRACKING_DRAIN_SECONDS="0")
        synced = track(tmp_path, "sync", MLFLOW_TRACKING_URI=uri, MLFLOW_LOGGING_LEVEL="DEBUG")
        assert "everything has arrived" in synced.stdout
        sent = run_stage(tmp_path, MLFLOW_TRACKING_URI=uri, TAEHV_TRACKING_DRAIN_SECONDS="600")
        (run,) = runs(server.uri)
        assert run.info.status == "FAILED"
    finally:
        server.kill()
    outputs = [output for result in (unsent, synced, sent) for output in (result.stdout, result.stderr)]
    assert_no_secret_in(tmp_path, *outputs)
    environment_json = next(tmp_path.rglob("environment.json"))
    assert "--token" in json.loads(environment_json.read_text())["command"]


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"])
def test_passwords_and_tokens_of_the_environment_reveal_nothing(variable: str, tmp_path: Path) -> None:
    secret = SECRETS["as the token" if "TOKEN" in variable else "as the password"]
    more = {"MLFLOW_TRACKING_USERNAME": "me", variable: secret, "TRACKED_PROCESS_SAYS": f"wrong credential {secret}"}
    result = run_stage(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}", **more)
    assert_no_secret_in(tmp_path, result.stdout)
    assert os.environ.get(variable) is None


@given(st.text("ab:/?=%.é1", min_size=6, max_size=20), st.text("abc", min_size=1), st.text("xyz 1", max_size=10))
def test_a_known_secret_is_hidden_wherever_it_stands(secret: str, before: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
        assert secret not in without_secrets(f"{before}{secret}{after}")


def test_what_is_hidden_and_what_is_not() -> None:
    assert without_password("https://me:secret@host:1/x") == "https://***@host:1/x"
    assert without_password("https://host/x?api=abc&b=c#d") == "https://host/x?api=***&b=***#d"
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    assert without_secrets("mail@example.org, step 3: loss=0.5") == "mail@example.org, step 3: loss=0.5"
    assert without_secrets("MLFLOW_TRACKING_TOKEN=abc x") == "MLFLOW_TRACKING_TOKEN=*** x"
    assert hide_secrets(["run", "--password", "abc", "--steps", "5", 5]) == [
        "run", "--password", "***", "--steps", "5", 5,
    ]  # fmt: skip
