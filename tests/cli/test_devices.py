"""Devices and processes that share a run change only its speed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import pgjax
from pgjax.cli import devices
from pgjax.runs import folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


EPISODES = ("--on-device", "--episodes-per-update", "12")
STREAMS = ("--algorithm", "ppo", "--on-device", "--num-epochs", "4")


def train(path, options=EPISODES):
    return ("train", "CartPole-v1", *options, "--run-dir", str(path))


def start(*words, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "pgjax", *words],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*words):
    address = f"127.0.0.1:{free_port()}"
    of_both = (*words, "--coordinator", address, "--num-processes", "2")
    return [start(*of_both, "--process-id", str(i)) for i in range(2)]


def wait_for_updates(path, n):
    until = time.monotonic() + 240
    while (
        not (path / "metrics.jsonl").exists()
        or (path / "metrics.jsonl").read_bytes().count(b"\n") < n
    ):
        assert time.monotonic() < until
        time.sleep(0.5)


@pytest.mark.slow
def test_one_result_on_any_number_of_devices_and_processes(tmp_path):
    few = ("--updates", "20", "--eval-episodes", "5")
    for n in (1, 2, 4, 8):
        flags = f"--xla_force_host_platform_device_count={n}"
        run = start(*train(tmp_path / str(n)), *few, "--num-devices", str(n), XLA_FLAGS=flags)
        assert run.communicate()[1] == ""
    both = start_two(*train(tmp_path / "two processes"), *few)
    output = [run.communicate()[0] for run in both]
    assert [run.returncode for run in both] == [0, 0]
    assert "evaluation" in output[0]
    assert "evaluation" not in output[1]  # only process 0 prints
    folders = sorted(tmp_path.iterdir())
    assert len(folders) == 5
    manifests = [json.loads((p / "manifest.json").read_text()) for p in folders]
    assert len({m["params_sha256"] for m in manifests}) == 1
    assert len({(p / "metrics.jsonl").read_bytes() for p in folders}) == 1
    assert len({(p / "evaluation.json").read_bytes() for p in folders}) == 1


@pytest.mark.slow
def test_one_result_where_a_device_has_few_rows_and_keeps_moments(tmp_path):
    """Two episodes of 40 steps per shard: fewer steps than a chunk."""
    few = ("--updates", "20", "--eval-episodes", "2", "--max-episode-steps", "40")
    kept = ("--normalize-obs", "--normalize-rewards", "--episodes-per-update", "16")
    for n in (1, 2, 8):
        flags = f"--xla_force_host_platform_device_count={n}"
        path, devices = str(tmp_path / str(n)), ("--num-devices", str(n))
        words = ("train", "Pendulum-v1", "--on-device", "--run-dir", path, *few, *kept, *devices)
        assert start(*words, XLA_FLAGS=flags).communicate()[1] == ""
    assert len({(p / "digests.jsonl").read_bytes() for p in tmp_path.iterdir()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_process_ends_the_other_and_leaves_a_whole_checkpoint(killed, tmp_path):
    both = start_two(*train(tmp_path / "run"), "--updates", "100000")
    try:
        wait_for_updates(tmp_path / "run", 20)
        both[killed].send_signal(signal.SIGKILL)
        _, error = both[1 - killed].communicate(timeout=60)
    finally:
        for run in both:
            run.kill()
            run.communicate()
    assert both[1 - killed].returncode not in (0, None)
    lost = "pgjax: another process of the run was lost" in error
    if killed == 1:
        assert lost
        assert len(error.splitlines()) <= 2  # the other one is a log line of XLA
    else:  # JAX writes more, and may end the process before pgjax notices
        assert lost or "another task died" in error
    assert int(pgjax.load(tmp_path / "run").state.step) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [EPISODES, STREAMS])
def test_two_killed_processes_resume_to_the_result_of_one(options, tmp_path):
    few = ("--updates", "150", "--eval-episodes", "5", "--checkpoint-seconds", "0.1")
    assert start(*train(tmp_path / "one", options), *few).communicate()[1] == ""
    both = start_two(*train(tmp_path / "two", options), *few)
    wait_for_updates(tmp_path / "two", 20)
    for run in both:
        run.kill()
    for run in both:
        run.communicate()
    assert len(folder.read_lines(tmp_path / "two" / "metrics.jsonl")) < 150
    both = start_two("resume", str(tmp_path / "two"))
    errors = [run.communicate() for run in both]
    assert [run.returncode for run in both] == [0, 0], errors
    for name in ("metrics.jsonl", "digests.jsonl", "evaluation.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", 2, 0), "HOST:PORT"),
        (("nowhere:99999", 2, 0), "HOST:PORT"),
        (("127.0.0.1:1234", None, 0), "--num-processes"),
        (("127.0.0.1:1234", 2, 2), "from 0 to 1, got 2"),
        (("127.0.0.1:1234", 0, 0), "--num-processes must be at least 1"),
        (("auto", 2, None), "leave them out"),
    ],
)
def test_invalid_addresses_are_rejected(arguments, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        devices.join_processes(*arguments)


@pytest.mark.slow
def test_missing_processes_are_reported(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    code = f"from pgjax.cli import devices as d; d.WAIT = 3; d.join_processes('{address}', 2, 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, len(run.stderr.splitlines())) == (2, 1)
    assert f"connected to the coordinator {address} within 3 s" in run.stderr


def test_a_coordinator_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(devices, "WAIT", 1)
    port = free_port()
    with pytest.raises(pgjax.ConfigError, match=f"127.0.0.1:{port} cannot be reached within 1 s"):
        devices.join_processes(f"127.0.0.1:{port}", 2, 1)
