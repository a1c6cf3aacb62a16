"""Each benchmark with --quick: it ends well, and its keys hold real numbers. What they are is not judged here."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from benchmark_harness import call, positive, result_of

from nested_reft.engine.matrices import PRECISIONS, why_no_precision

CASES = {"small", "large", "smollm2", "qwen0.5b"}


@pytest.mark.slow
def test_rollout(cache: str) -> None:
    result = result_of(call("rollout", "--quick", "--cache", cache), "rollout")
    for key in ("ratio", "ratio_spread", "ratio_processor", "tokens_per_s", "mean_length", "skip_efficiency"):
        assert set(result[key]) == CASES, key
        assert positive(result[key]), key
    assert {name: set(skips["float32"]) for name, skips in result["skip_efficiency"].items()} == {
        "small": {"12", "25", "38"},
        "large": {"12", "25", "38"},
        "smollm2": {"5", "10", "15"},
        "qwen0.5b": {"5", "10", "15"},
    }
    assert result["greedy_identical"] == {name: {"float32": 1.0} for name in CASES}
    spreads = [spread for of_case in result["ratio_spread"].values() for spread in of_case.values()]
    assert all(low <= median <= high for median, low, high in spreads)
    assert positive(result["ratio_continuous_batching"]["qwen0.5b"])


@pytest.mark.slow
def test_rollout_in_several_precisions() -> None:
    supported = [name for name in PRECISIONS if not why_no_precision(name, torch.device("cpu"))]
    done = call("rollout", "--quick", "--cases", "qwen0.5b", "--pairs", "1", "--precisions", *supported)
    result = result_of(done, "rollout")
    assert set(result["ratio"]["qwen0.5b"]) == set(result["skip_efficiency"]["qwen0.5b"]) == set(supported)
    assert positive(result["ratio"])


def test_matrices() -> None:
    result = result_of(call("matrices", "--quick", "--pairs", "2"), "matrices")
    supported = {name for name in PRECISIONS if not why_no_precision(name, torch.device("cpu"))}
    assert set(result["ratio_spread"]) == set(result["gflops"]) == {"96x96", "128x512"}
    assert set(result["ratio_spread"]["96x96"]["8"]) == supported
    assert set(result["gflops"]["96x96"]["8"]) == supported | {"plain"}
    assert positive([result["ratio_spread"], result["gflops"]])


def test_rollout_refuses_a_case_that_the_device_does_not_have() -> None:
    done = call("rollout", "--quick", "--cases", "qwen2.5-math-7b-batch64")
    assert done.returncode == 1
    assert "unknown cases qwen2.5-math-7b-batch64; on cpu: small, large, smollm2, qwen0.5b" in done.stderr


def test_nested_view() -> None:
    result = result_of(call("nested_view", "--quick"), "nested_view")
    assert positive([result["milliseconds"], result["runs"]])
    assert result["limit_milliseconds"] == 10


@pytest.mark.slow
def test_grading() -> None:
    result = result_of(call("grading", "--quick"), "grading")
    kinds = {"whole numbers", "fractions and decimals", "tuples and lists", "formulas", "mixed"}
    assert set(result["answers_per_s"]) == kinds
    assert positive(result["answers_per_s"])
    assert result["wanted_per_s"] == 2000


@pytest.mark.slow
def test_limit(cache: str) -> None:
    done = call("limit", "--quick", "--cache", cache, "--markdown")
    result = result_of(done, "limit")
    assert set(result["phases"]) == set(result["peaks"]) == CASES
    assert positive(result["peaks"])
    for phases in result["phases"].values():
        assert set(phases) == {"prefill", "decode", "update"}
        for row in phases.values():
            assert positive({key: value for key, value in row.items() if key not in ("overhead", "bound")})
            assert row["overhead"] == pytest.approx(1 - max(row["flops_share"], row["bytes_share"]), abs=1e-3)
    assert sum(line.startswith("| small |") for line in done.stdout.splitlines()) == 3


@pytest.mark.slow
def test_startup() -> None:
    result = result_of(call("startup", "--quick"), "startup")
    assert positive([result[key] for key in ("help_s", "imports_s", "dry_run_s", "paper_dry_run_s")])


@pytest.mark.slow
def test_grpo_step(cache: str) -> None:
    if importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed: pip install -e '.[bench]'")
    result = result_of(call("grpo_step", "--quick", "--cache", cache), "grpo_step")
    sizes = {"small", "large"}
    for key in ("ratio", "ratio_spread", "ratio_processor", "seconds"):
        assert set(result[key]) == sizes, key
        assert positive(result[key]), key
    for rewards in result["rewards"].values():
        assert len(rewards["trl"]) == len(rewards["ours"]) == result["steps"]
        assert all(0 <= reward <= 1 for reward in rewards["trl"] + rewards["ours"])
        assert rewards["alike"] is (abs(rewards["difference"]) <= 2 * rewards["standard_error"] + 1e-9)


def test_a_missing_peer_is_one_line_and_exit_code_2() -> None:
    if importlib.util.find_spec("trl") is not None:
        pytest.skip("trl is installed")
    missing = " and ".join(name for name in ("trl", "accelerate") if importlib.util.find_spec(name) is None)
    done = call("grpo_step", "--quick")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip().splitlines() == [
        f"grpo_step.py: error: {missing} not installed; run: pip install -e '.[bench]'"
    ]
