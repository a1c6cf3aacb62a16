"""Rollouts in a precision of their own: what a matrix computes, what views share, and what a rollout is then."""

from __future__ import annotations

import pytest
import torch
from tiny_models import padded_prompts, tiny_model
from torch import Tensor

from nested_reft.core.diagnostics import off_policy_diagnostics
from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine import layer_weights
from nested_reft.engine.layer_weights import RolloutWeights
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.matrices import PRECISIONS, Int8Matrix, Matrix, OneDnnMatrix, why_no_precision
from nested_reft.engine.sampling import sample_completions

CPU = torch.device("cpu")
SUPPORTED = [name for name in PRECISIONS if not why_no_precision(name, CPU)]
ROUNDING = {"float32": 1e-4, "bfloat16": 0.3, "int8": 0.6}
"""By how much log b of a tiny model with large random weights may differ from log pi in float32, in nats."""


@pytest.fixture(params=SUPPORTED)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each precision that this processor has, with tiny matrices packed too."""
    monkeypatch.setattr(layer_weights, "MIN_PACKED", 1)
    return str(request.param)


def sample(model: torch.nn.Module, weights: RolloutWeights | None, seed: int = 0) -> Rollout:
    """Completions of three prompts of different lengths."""
    return sample_completions(
        model, *padded_prompts((5, 1, 6)), group_size=5, max_new_tokens=12, temperature=1.0, end_ids=(1, 2), pad_id=0,
        generator=torch.Generator().manual_seed(seed), weights=weights,
    )  # fmt: skip


# --- one matrix


def random_matrix(bias: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
    """A matrix (48, 40), a bias (40,) or none, and rows (7, 48) of very different magnitudes."""
    torch.manual_seed(0)
    rows = torch.randn(7, 48) * torch.tensor([1e-3, 1, 1, 10, 1, 1, 1e3]).unsqueeze(1)
    return torch.randn(48, 40), torch.randn(40) if bias else None, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_matrix_computes_what_a_plain_one_does(dtype: torch.dtype) -> None:
    if why_no_precision(str(dtype).removeprefix("torch."), CPU):
        pytest.skip("this processor has no instructions for it")
    weight, bias, rows = random_matrix()
    weight, bias, factor = weight.to(dtype), bias.to(dtype), torch.randn(7, 40).to(dtype)
    plain, packed = Matrix(weight, bias), OneDnnMatrix(weight, bias)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.05}
    torch.testing.assert_close(packed(rows), plain(rows), **close)
    torch.testing.assert_close(packed.silu(rows), plain.silu(rows), **close)
    torch.testing.assert_close(packed.times(rows, factor), plain.times(rows, factor), **close)
    plain, packed = Matrix(weight), OneDnnMatrix(weight)
    rows = rows.to(dtype)
    torch.testing.assert_close(packed.add(rows, factor), plain.add(rows, factor), **close)
    hidden = torch.randn(7, 40)  # of another type, if the matrix is in bfloat16
    added = packed.add(rows, hidden)
    assert added.dtype == torch.float32
    torch.testing.assert_close(added, hidden + (rows @ weight).float(), rtol=0.02, atol=0.05)


@pytest.mark.skipif("int8" not in SUPPORTED, reason="this processor has no instructions for int8")
@pytest.mark.parametrize("bias", [True, False])
def test_an_int8_matrix_rounds_columns_and_rows_to_8_bits(bias: bool) -> None:
    """Against the same product of the rounded numbers, written out in float64."""
    weight, offset, rows = random_matrix(bias)
    rows[3] = 0
    matrix = Int8Matrix(weight, offset)
    columns = weight.double().abs().amax(0) / 127
    scales = (rows.double().abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
    expected = ((rows / scales).round() * scales) @ ((weight / columns).round() * columns)
    expected += 0 if offset is None else offset
    torch.testing.assert_close(matrix(rows).double(), expected, rtol=1e-5, atol=1e-4)
    error = (matrix(rows) - Matrix(weight, offset)(rows)).norm(dim=1) / rows.norm(dim=1).clamp_min(1)
    assert 0 < error.max() < 0.1
    for row, product in zip(rows, matrix(rows), strict=True):
        assert torch.equal(matrix(row.unsqueeze(0))[0], product), "it does not depend on the rows beside it"


# --- a rollout


@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3_full"])
def test_log_b_is_that_of_the_model_in_this_precision(kind: str, precision: str) -> None:
    view = nested_view(tiny_model(kind), (1,))
    rollout = sample(view, RolloutWeights(precision))
    with torch.no_grad():
        logp = completion_logp(view, rollout, 1.0)
    difference = (logp - rollout.logp)[rollout.mask].abs()
    assert difference.max() < ROUNDING[precision]
    # Off-policy by rounding, and the diagnostics say by how much.
    found = off_policy_diagnostics(logp, rollout.logp, rollout.mask)
    assert found["ess"] > 0.95
    if precision != "float32":
        assert difference.max() > 1e-4
        assert found["ess"] < 1
        assert found["kl_k3"] > 0


def test_it_is_in_its_precision_whatever_surrounds_it(precision: str) -> None:
    model = tiny_model("qwen2")
    alone = sample(model, RolloutWeights(precision))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sample(model, RolloutWeights(precision)).logp, alone.logp)


def test_views_share_what_was_made_until_it_is_cleared(precision: str) -> None:
    model, weights = tiny_model("qwen2"), RolloutWeights(precision)
    made: list[int] = []
    plain = weights._matrix
    weights._matrix = lambda *matrix: made.append(0) or plain(*matrix)  # type: ignore[method-assign]
    for skipped in ((1, 2), (1, 3), (2, 4), ()):
        sample(nested_view(model, skipped), weights)
    layers = model.config.num_hidden_layers
    assert len(made) == 5 * layers + 1, "five matrices of each layer, and the head"
    before = sample(model, weights)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    weights.clear()
    after = sample(model, weights)
    assert len(made) == 2 * (5 * layers + 1)
    assert not torch.equal(before.logp[:, 0], after.logp[:, 0])
    assert torch.equal(after.logp, sample(model, RolloutWeights(precision)).logp)


def test_small_matrices_are_not_packed() -> None:
    weights = RolloutWeights("float32")
    assert type(weights._matrix(torch.ones(64, 128), None)) is Matrix
    assert type(weights._matrix(torch.ones(1024, 512), None)) is OneDnnMatrix


def test_a_precision_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, int8 or None, got 'int4'"):
        RolloutWeights("int4")
    with pytest.raises(ValueError, match="rollouts of Gemma3ForCausalLM cannot be in int8: it has modules of type"):
        sample(tiny_model("gemma3"), RolloutWeights("int8"))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert why_no_precision("int8", CPU) == "this processor has no instructions for int8"
    assert why_no_precision("int8", torch.device("cuda")) == "int8 was measured on CPUs only"
