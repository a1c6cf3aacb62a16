"""The paper's DAG from config to tables: the real data sets, and random models in the shape of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from workflow_harness import Pipeline, read_config

pytestmark = pytest.mark.slow

WIDTHS = {"1.5b": 16, "7b": 32}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_paper_config() -> dict[str, Any]:
    """The paper's experiment with two corrections and one seed; few and short completions; a CPU."""
    settings = read_config("paper.yaml")
    del settings["rollout_engine"], settings["vllm"]  # tests/vllm_engine has vLLM
    settings |= {"device": "cpu", "threads_per_job": 1, "seeds": [1]}
    del settings["corrections"]["unit"]
    for model in settings["sizes"].values():
        del model["shape"]  # those of the mirror are tiny
    for source in (*settings["datasets"].values(), *settings["benchmarks"].values()):
        source["limit"] = 4
    settings["training"] |= {
        "steps": 2,
        "problems_per_step": 2,
        "completions_per_problem": 2,
        "max_new_tokens": 8,
        "max_prompt_tokens": 2048,
        "warmup_steps": 0,
        "dtype": "float32",
    }
    settings["evaluation"] |= {"samples_per_problem": 1, "max_new_tokens": 8, "benchmarks_per_job": 5}
    settings["throughput"] |= {"problems": 2, "completions_per_problem": 2, "new_tokens": 4, "pairs": 3}
    settings["step_speed"] = {"pairs": 3, "new_tokens": 4}
    settings["gradients"] |= {"batches": 4, "problems_per_batch": 2, "completions_per_problem": 2}
    return settings


def save_random_model(folder: Path, width: int, texts: list[str]) -> None:
    """A Qwen2 model of 28 layers with random weights, and a byte-level tokenizer with a ChatML template."""
    bpe = ByteLevelBPETokenizer()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(texts, vocab_size=400, special_tokens=specials)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT
    )
    torch.manual_seed(width)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=28,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def mirror(data_mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data sets, linked, beside two random models under the names of the paper's."""
    folder = tmp_path_factory.mktemp("mirror")
    for owner in (path for path in data_mirror.iterdir() if path.is_dir()):
        (folder / owner.name).symlink_to(owner.resolve(), target_is_directory=True)
    with (data_mirror / "openai/gsm8k/main/test.jsonl").open(encoding="utf-8") as file:
        texts = [json.loads(next(file))["question"] for _ in range(50)]
    for size, model in read_config("paper.yaml")["sizes"].items():
        save_random_model(folder / model["repo"], WIDTHS[size], texts)
    return folder


@pytest.fixture(scope="module")
def paper(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of the whole DAG."""
    pipeline = Pipeline.copied_to(tmp_path_factory.mktemp("paper") / "pipeline")
    config = pipeline.write_config(small_paper_config())
    done = pipeline.call(config=config, mirror=mirror, timeout=1800)
    assert done.code == 0, done.output[-4000:]
    return pipeline.results("paper")


def test_every_size_data_set_and_benchmark_is_in_the_tables(paper: Path) -> None:
    settings = read_config("paper.yaml")
    runs = pd.read_csv(paper / "tables/runs.csv", dtype={"size": str})
    tuned = runs[runs["correction"] != "pretrained"]
    cells = tuned.groupby(["size", "dataset"]).size()
    # 7 models (skip 0, and 3 skips x 2 corrections), 5 benchmarks, greedy and sampled
    assert dict(cells) == {(size, data): 70 for size in settings["sizes"] for data in settings["datasets"]}
    assert set(runs["benchmark"]) == set(settings["benchmarks"])
    assert set(runs["n"]) == {4}
    for metric in ("greedy", "sampled"):
        assert "not run" not in (paper / f"tables/accuracy_{metric}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("skip", "layers"), [(0, 0), (5, 1), (10, 3), (15, 4)])
def test_the_share_skipped_is_that_of_28_layers(paper: Path, skip: int, layers: int) -> None:
    files = sorted((paper / "runs").glob(f"*/*/*/skip{skip}/seed1/metrics.jsonl"))
    assert len(files) == (6 if skip == 0 else 12)
    for path in files:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [len(row["skipped_layers"]) for row in rows] == [layers] * 2
        assert all(0 < layer < 27 for row in rows for layer in row["skipped_layers"])
    record = json.loads((paper / f"throughput/7b/skip{skip}.json").read_text(encoding="utf-8"))
    assert (record["num_layers"], record["num_skipped"]) == (28, layers)


def test_provenance_names_files_with_checksums_and_rows(paper: Path) -> None:
    settings = read_config("paper.yaml")
    for role, key in (("train", "datasets"), ("test", "benchmarks")):
        for name, source in settings[key].items():
            found = json.loads((paper / f"data/{role}/{name}.json").read_text(encoding="utf-8"))
            assert (found["origin"], found["repo"], found["rows_kept"]) == ("mirror", source["repo"], 4)
            assert found["files"]
            assert all(len(file["sha256"]) == 64 for file in found["files"].values())
            log = (paper / f"logs/data/{role}/{name}.log").read_text(encoding="utf-8")
            assert "as locked in config/hub.lock" in log
    for size, model in settings["sizes"].items():
        found = json.loads((paper / f"models/{size}.json").read_text(encoding="utf-8"))
        assert (found["origin"], found["repo"]) == ("mirror", model["repo"])
        assert len(found["files"]["model.safetensors"]["sha256"]) == 64
        log = (paper / f"logs/models/{size}.log").read_text(encoding="utf-8")
        assert "not verified: config/hub.lock has no entry" in log


def test_rows_dropped_from_the_whole_data_set_are_logged(mirror: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.copied_to(tmp_path / "pipeline")
    target = "results/paper/data/train/math12k.jsonl"
    done = pipeline.call(target, config="config/paper.yaml", mirror=mirror)
    assert done.code == 0, done.output
    log = (pipeline.results("paper") / "logs/data/train/math12k.log").read_text(encoding="utf-8")
    assert "11998 problems from mirror; 2 rows dropped" in log
    assert len((pipeline.folder / target).read_text(encoding="utf-8").splitlines()) == 11998
