"""vLLM in other processes: a real server, and an engine beside this process. And engines that must be refused."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel
from vllm_harness import (
    LENGTH,
    SKIPS,
    TEMPERATURE,
    TOLERANCE,
    Completion,
    logp_error,
    make_engine,
    move_weights,
    prompts,
    sample,
    save_model,
)

from nested_reft.core.layers import nested_view
from nested_reft.integrations.vllm import engine_arguments, load_weights, load_weights_server, nest, nest_server
from nested_reft.integrations.vllm_worker import refuse_engine, set_skipped

pytest.importorskip("vllm.sampling_params", reason="vLLM is not installed: make test-vllm")

ROOT = Path(__file__).parents[2]
WRONG = 0.01
START_S = 300  # guards against a hang


@dataclass(frozen=True)
class Server:
    """A running server and the model that it has."""

    url: str
    model: PreTrainedModel

    def sample(self) -> list[Completion]:
        """As `vllm_harness.sample`, over HTTP."""
        asked = {
            "model": "tiny", "prompt": prompts(), "n": 2, "max_tokens": 12, "temperature": TEMPERATURE, "seed": 1,
            "logprobs": 0, "return_token_ids": True, "ignore_eos": True,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{self.url}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=START_S) as response:
            choices = json.load(response)["choices"]
        return [
            Completion(prompts()[index // 2], choice["token_ids"], choice["logprobs"]["token_logprobs"])
            for index, choice in enumerate(sorted(choices, key=lambda choice: choice["index"]))
        ]


def server_options() -> list[str]:
    """`engine_arguments()` as a command line."""
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in engine_arguments().items()]
    return [text for name, value in pairs for text in ([name] if value is True else [name, value])]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    model = save_model("qwen2", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; the command itself asks for metadata named `vllm`, which the CPU build lacks.
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name",
        "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", str(LENGTH),
        *server_options(),
    ]  # fmt: skip
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"}
        )
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while not answers(f"{url}/health"):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(1)
            yield Server(url, model)
        finally:
            process.terminate()
            process.wait(START_S)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("skipped", SKIPS)
def test_a_server_s_log_probabilities_are_those_of_the_nested_view(server: Server, skipped: tuple[int, ...]) -> None:
    nest_server(server.url, skipped)
    completions = server.sample()
    assert logp_error(nested_view(server.model, skipped), completions) < TOLERANCE
    if skipped:
        assert logp_error(server.model, completions) > WRONG


def test_a_server_s_new_weights_are_those_of_the_folder(server: Server, tmp_path: Path) -> None:
    nest_server(server.url, (2, 5))
    old = server.sample()
    move_weights(server.model, 0.02, seed=1)
    assert logp_error(nested_view(server.model, (2, 5)), old) > WRONG
    server.model.save_pretrained(tmp_path)
    load_weights_server(server.url, tmp_path)
    assert logp_error(nested_view(server.model, (2, 5)), server.sample()) < TOLERANCE
    with pytest.raises(ValueError, match=r"no \*.safetensors in"):
        load_weights_server(server.url, tmp_path / "nothing")


def test_a_server_refuses_in_the_same_words_and_goes_on(server: Server) -> None:
    nest_server(server.url, (2,))
    with pytest.raises(ValueError, match=r"skipped has \[9\], but the model's layers are 0 to 7"):
        nest_server(server.url, (9,))
    assert logp_error(nested_view(server.model, (2,)), server.sample()) < TOLERANCE


def test_a_switch_waits_for_running_requests(server: Server) -> None:
    """Whatever is sampled around a switch is sampled by one set of layers from beginning to end."""
    nest_server(server.url, (1,))
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(server.sample) for _ in range(4)]
        running[0].result()
        nest_server(server.url, (6,))
        found = [completion for future in running for completion in future.result()]
    views = [nested_view(server.model, (index,)) for index in (1, 6)]
    assert all(min(logp_error(view, [completion]) for view in views) < TOLERANCE for completion in found)
    assert logp_error(views[1], server.sample()) < TOLERANCE


def test_an_engine_beside_this_process_can_nest_but_takes_no_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    model = save_model("qwen2", tmp_path)
    llm = make_engine(tmp_path)
    nest(llm, (2, 5))
    assert logp_error(nested_view(model, (2, 5)), sample(llm)) < TOLERANCE
    with pytest.raises(ValueError, match="every layer"):
        nest(llm, range(8))
    with pytest.raises(RuntimeError, match="set VLLM_ENABLE_V1_MULTIPROCESSING=0"):
        load_weights(llm, model.named_parameters())
    llm.llm_engine.engine_core.shutdown()


def test_compiled_mode_is_refused_since_it_would_run_every_layer(tmp_path: Path) -> None:
    model = save_model("qwen2", tmp_path)
    llm = make_engine(tmp_path, enforce_eager=False)
    with pytest.raises(ValueError, match=r"not in eager mode.*set enforce_eager=True"):
        nest(llm, (2, 5))
    llm.apply_model(lambda inner: set_skipped(inner, (2, 5)))  # what the refusal prevents
    completions = sample(llm)
    assert logp_error(model, completions) < TOLERANCE
    assert logp_error(nested_view(model, (2, 5)), completions) > WRONG


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, None),
        ({"enforce_eager": False}, "not in eager mode"),
        ({"logprobs_mode": "raw_logprobs"}, "logprobs_mode is 'raw_logprobs'"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative decoding"),
    ],
)
def test_vllm_s_own_configurations_are_told_apart(
    tmp_path: Path, arguments: dict[str, Any], reason: str | None
) -> None:
    from vllm import EngineArgs

    save_model("qwen2", tmp_path)
    config = EngineArgs(
        str(tmp_path), max_model_len=LENGTH, **{**engine_arguments(), **arguments}
    ).create_engine_config()
    if reason is None:
        refuse_engine(config)
    else:
        with pytest.raises(ValueError, match=reason):
            refuse_engine(config)


def test_an_engine_without_the_extension_is_refused(tmp_path: Path) -> None:
    save_model("qwen2", tmp_path)
    llm = make_engine(tmp_path, worker_extension_cls="")
    with pytest.raises(ValueError, match=r"make it by vllm.LLM\(..., \*\*engine_arguments\(\)\)"):
        nest(llm, (2,))


def test_the_example_prints_what_it_samples(tmp_path: Path) -> None:
    save_model("llama", tmp_path)  # transformers reads the tokenizer of a Qwen2 as a byte-level one, whatever it is
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/vllm_nested.py"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = re.findall(r"^without (\(.*\)): log b = -\d+\.\d\d: '", done.stdout, re.MULTILINE)
    assert len(lines) == 3 * 2 * 4
    assert set(lines[:8]) == {"()"}
    assert len(set(lines)) == 3


def test_the_commands_of_the_page_have_the_arguments_of_the_engine() -> None:
    page = (ROOT / "docs/vllm.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^VLLM_SERVER_DEV_MODE=1 vllm serve .*$", page, re.MULTILINE)
    assert " ".join(command.split()).endswith(" ".join(server_options()))
