"""Top-k and top-p: what is kept, how it is sampled, and that the target's ratio to what was sampled has mean 1."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from tiny_models import padded_prompts, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel, TopKLogitsWarper, TopPLogitsWarper

from nested_reft.core.layers import decoder_layers, nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.sampling import sample_completions

PROMPT = torch.tensor([[2, 4, 3]])


def sample(model: PreTrainedModel, prompt: Tensor = PROMPT, *, seed: int = 0, **changes: object) -> Rollout:
    """A rollout of unpadded prompts, with settings that a test can change one by one."""
    settings = {
        "prompt_mask": torch.ones_like(prompt), "group_size": 40, "max_new_tokens": 5, "temperature": 1.0,
        "end_ids": (1,), "pad_id": 0, "generator": torch.Generator().manual_seed(seed),
    }  # fmt: skip
    return sample_completions(model, prompt, **(settings | changes))


class Table:
    """Stands in for a model whose next-token logits are given: (P, V), the same at every step."""

    def __init__(self, logits: Tensor) -> None:
        model = tiny_model("gemma2", layers=1)  # an architecture that is decoded through its forward
        self.logits, self.config, self.base_model = logits, model.config, model.base_model

    def __call__(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.unsqueeze(1))


def one_step(logits: Tensor, **settings: object) -> Rollout:
    """One token a row of logits (P, V)."""
    prompt = torch.ones((len(logits), 1), dtype=torch.long)
    return sample(Table(logits), prompt, group_size=1, max_new_tokens=1, **settings)


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """The model computing in float64 throughout: transformers' own norms cast to float32."""
    width = model.config.hidden_size
    for owner in (model.model, *decoder_layers(model)):
        for name, child in list(owner.named_children()):
            if name.endswith("norm"):
                setattr(owner, name, nn.RMSNorm(width, eps=child.variance_epsilon))
                getattr(owner, name).weight = child.weight
    return model.double()


def plain_log_probs(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """Log-probabilities (B, T, V) the plain way: no cache, and -inf off the support before a full log_softmax."""
    prompt = rollout.prompt_ids.repeat_interleave(rollout.group_size, dim=0)
    logits = model(input_ids=torch.cat((prompt, rollout.tokens), dim=1), use_cache=False).logits
    logits = logits[:, prompt.shape[1] - 1 : -1]
    kept = torch.ones_like(logits, dtype=torch.bool)
    for index in () if rollout.support is None else torch.cartesian_prod(*map(torch.arange, logits.shape[:2])):
        kept[tuple(index)] = torch.isin(torch.arange(logits.shape[-1]), rollout.support[tuple(index)])
    return torch.log_softmax((logits / temperature).masked_fill(~kept, -torch.inf), dim=-1)


def plain_logp(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """log pi of the tokens from `plain_log_probs`: (B, T), 0 where the mask is false."""
    logp = plain_log_probs(model, rollout, temperature).gather(-1, rollout.tokens.unsqueeze(-1)).squeeze(-1)
    return torch.where(rollout.mask, logp, 0.0)


@pytest.mark.parametrize(
    ("probabilities", "settings", "kept"),
    [
        ((0.4, 0.3, 0.2, 0.1), {"top_p": 0.75}, [0, 1, 2]),
        ((0.1, 0.3, 0.2, 0.4), {"top_p": 0.65}, [3, 1]),
        ((0.4, 0.3, 0.2, 0.1), {"top_p": 0.01}, [0]),
        ((0.4, 0.3, 0.2, 0.1), {"top_k": 2}, [0, 1]),
        # After top_k 3 they are 0.444, 0.333, 0.222, so that two reach 0.75; of all four, three are needed.
        ((0.4, 0.3, 0.2, 0.1), {"top_k": 3, "top_p": 0.75}, [0, 1]),
        # Temperature 0.5 squares them: 0.533, 0.300, 0.133, 0.033.
        ((0.4, 0.3, 0.2, 0.1), {"temperature": 0.5, "top_p": 0.75}, [0, 1]),
        ((0.4, 0.3, 0.2, 0.1), {"top_k": 4, "top_p": 0.75}, [0, 1, 2]),
        # Ties: top_p stops when it is reached exactly, and of equal tokens the lower id is kept.
        ((0.25, 0.25, 0.25, 0.25), {"top_p": 0.5}, [0, 1]),
        ((0.25, 0.25, 0.25, 0.25), {"top_k": 3}, [0, 1, 2]),
        ((0.2, 0.2, 0.4, 0.2), {"top_k": 2}, [2, 0]),
        # A token that cannot be sampled is not kept.
        ((0.5, 0.0, 0.5, 0.0), {"top_k": 3}, [0, 2]),
    ],
)
def test_the_support_is_the_one_worked_out_by_hand(
    probabilities: tuple[float, ...], settings: dict[str, float], kept: list[int]
) -> None:
    rollout = one_step(torch.tensor([probabilities]).log(), **settings)
    assert rollout.support is not None
    assert rollout.support.dtype == torch.int32
    assert rollout.support.tolist() == [[kept]]
    powers = [probabilities[token] ** (1 / settings.get("temperature", 1)) for token in kept]
    chosen = kept.index(rollout.tokens.item())
    assert rollout.logp.item() == pytest.approx(math.log(powers[chosen] / sum(powers)), abs=1e-6)


@pytest.mark.parametrize("settings", [{"top_p": 0.8}, {"top_k": 7}, {"top_k": 12, "top_p": 0.6}])
def test_the_support_is_that_of_transformers_warpers(settings: dict[str, float]) -> None:
    logits = 2 * torch.randn((200, 50), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rollout = one_step(logits, temperature=0.8, **settings)
    scores = logits / 0.8
    if "top_k" in settings:
        scores = TopKLogitsWarper(settings["top_k"])(None, scores)
    if "top_p" in settings:
        scores = TopPLogitsWarper(settings["top_p"])(None, scores)
    sizes = set()
    for support, row in zip(rollout.support[:, 0], scores, strict=True):
        kept = support[support >= 0].tolist()
        assert sorted(kept) == row.isfinite().nonzero().flatten().tolist()
        assert support[len(kept) :].tolist() == [-1] * (len(support) - len(kept))
        sizes.add(len(kept))
    assert max(sizes) == rollout.support.shape[-1]
    assert len(sizes) > 3 or sizes == {7}
    expected = torch.log_softmax(scores, dim=-1).gather(-1, rollout.tokens)
    torch.testing.assert_close(rollout.logp, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"top_p": 0.8}, {"top_k": 5}, {"temperature": 0.7, "top_k": 6, "top_p": 0.9}])
def test_tokens_are_as_frequent_as_their_renormalised_probability(settings: dict[str, float]) -> None:
    model, draws = tiny_model(vocab=12, seed=3), 5000
    rollout = sample(model, group_size=draws, max_new_tokens=1, **settings)
    with torch.no_grad():
        exact = plain_log_probs(model, rollout.groups(slice(1)), settings.get("temperature", 1.0))[0, 0].exp().double()
    counts = torch.bincount(rollout.tokens[:, 0], minlength=12).double()
    kept = exact > 0
    assert 3 <= kept.sum() < 12
    assert counts[~kept].sum() == 0
    assert exact[kept].min() * draws > 5
    assert chisquare(counts[kept], exact[kept] / exact.sum() * draws).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
@pytest.mark.parametrize("settings", [{"top_p": 0.7}, {"temperature": 0.7, "top_k": 8, "top_p": 0.9}])
def test_the_kept_logp_is_that_of_a_fresh_forward(kind: str, settings: dict[str, float]) -> None:
    """Also with padded prompts; at skip zero the ratio of a truncated rollout is one."""
    model, temperature = nested_view(tiny_model(kind), ()), settings.get("temperature", 1.0)
    with torch.no_grad():
        rollout = sample(model, **settings)
        torch.testing.assert_close(rollout.logp, plain_logp(model, rollout, temperature), rtol=0, atol=1e-5)
        ids, mask = padded_prompts((3, 6, 1))
        padded = sample(model, ids, prompt_mask=mask, **settings)
        torch.testing.assert_close(completion_logp(model, padded, temperature), padded.logp, rtol=0, atol=1e-5)
    assert rollout.logp.min() < -0.5


def standard_errors(log_ratio: Tensor) -> float:
    """How many standard errors the mean of the ratios is from 1."""
    ratio = log_ratio.double().exp()
    return ((ratio.mean() - 1) / (ratio.std() / len(ratio) ** 0.5)).item()


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 0.6}, {"top_k": 4}, {"temperature": 0.7}, {"temperature": 0.7, "top_k": 6, "top_p": 0.7}],
    ids=["top_p", "top_k", "temperature", "all"],
)
def test_the_target_s_ratio_to_a_nested_rollout_has_mean_one_and_the_naive_has_not(settings: dict[str, float]) -> None:
    """Of each token still running, and of the completion. Naive: without the support, or without the temperature."""
    target, temperature = tiny_model(seed=3), settings.get("temperature", 1.0)
    behaviour = nested_view(target, (2,))
    with torch.no_grad():
        rollout = sample(behaviour, group_size=20_000, max_new_tokens=2, end_ids=(11,), **settings)
        log_ratio = completion_logp(target, rollout, temperature) - rollout.logp
        full, truncated = replace(rollout, support=None), rollout.support is not None
        naive = completion_logp(target, full, temperature if truncated else 1.0)
        naive_behaviour = completion_logp(behaviour, full, temperature if truncated else 1.0)
    assert not rollout.mask.all()
    for step in range(2):
        assert abs(standard_errors(log_ratio[:, step][rollout.mask[:, step]])) < 3
    assert abs(standard_errors(log_ratio.sum(-1))) < 3
    assert log_ratio.std() > 0.1  # target and nested rollout do differ
    assert abs(standard_errors((naive - naive_behaviour).sum(-1))) > 10
    if truncated:
        assert abs(standard_errors((naive - rollout.logp).sum(-1))) > 10


# In float32 the layers round too, in another order: logits of up to 10 by some 1e-6.
@pytest.mark.parametrize(("dtype", "tolerances"), [(torch.float32, (1e-5, 1e-6)), (torch.float64, (1e-12, 1e-12))])
@pytest.mark.parametrize("settings", [{"top_p": 0.7}, {"top_k": 6, "top_p": 0.8}, {"top_k": 5}, {}])
def test_completion_logp_and_its_gradient_are_those_of_a_masked_log_softmax(
    settings: dict[str, float], dtype: torch.dtype, tolerances: tuple[float, float]
) -> None:
    model = in_float64(tiny_model(seed=3)).to(dtype)
    prompts = torch.tensor([[2, 4, 3], [5, 6, 7]])
    rollout = sample(nested_view(model, (2,)), prompts, temperature=0.9, **settings)
    assert (rollout.support is not None) == bool(settings)
    assert not rollout.mask.all()
    shared, plain = completion_logp(model, rollout, 0.9), plain_logp(model, rollout, 0.9)
    assert shared.dtype == rollout.logp.dtype == dtype
    torch.testing.assert_close(shared, plain, rtol=0, atol=tolerances[0])
    assert (shared[~rollout.mask] == 0).all()
    coefficients = torch.randn(shared.shape, generator=torch.Generator().manual_seed(3)) / shared.numel()
    parameters = list(model.parameters())
    actual = torch.autograd.grad((shared * coefficients).sum(), parameters)
    expected = torch.autograd.grad((plain * coefficients).sum(), parameters)
    assert max(gradient.abs().max() for gradient in expected) > 1e-2
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerances[1])


def test_half_precision_keeps_the_gradient_of_a_likely_token() -> None:
    """1 - p of 0.0025 for the token: p alone would be rounded to 1 in bfloat16."""
    logits = torch.tensor([[6.0, 0.0, 5.0]], dtype=torch.bfloat16, requires_grad=True)
    rollout = Rollout(
        torch.ones((1, 1), dtype=torch.long), torch.ones((1, 1)), torch.tensor([[0]]), torch.ones((1, 1)).bool(),
        torch.zeros((1, 1)), torch.tensor([[[0, 1]]], dtype=torch.int32),
    )  # fmt: skip
    logp = completion_logp(Table(logits), rollout, 1.0)
    assert logp.dtype == torch.float32
    (gradient,) = torch.autograd.grad(logp.sum(), logits)
    share = 1 / (1 + math.exp(6))
    assert gradient[0].tolist() == pytest.approx([share, -share, 0], rel=0.005)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.7}, {"temperature": 0.0}])
def test_logp_is_float64_for_a_float64_model_and_float32_for_half(
    settings: dict[str, float], dtype: torch.dtype, kept: torch.dtype
) -> None:
    model = tiny_model().to(dtype)
    rollout = sample(model, **settings)
    assert rollout.logp.dtype == kept
    assert completion_logp(model, rollout, 1.0).dtype == kept


def test_after_the_end_the_support_is_the_pad_token_and_the_gradient_has_no_nan() -> None:
    model = tiny_model()
    rollout = sample(model, top_p=0.8, pad_id=7)
    ended = ~rollout.mask
    assert ended.any()
    assert (rollout.support[ended][:, 0] == 7).all()
    assert (rollout.support[ended][:, 1:] == -1).all()
    assert rollout.support.shape[-1] == (rollout.support >= 0).sum(-1).max()
    emptied = replace(rollout, support=rollout.support.masked_fill(ended.unsqueeze(-1), -1))
    for case in (rollout, emptied):
        logp = completion_logp(model, case, 1.0)
        assert (logp[ended] == 0).all()
        gradients = torch.autograd.grad(logp.sum(), list(model.parameters()))
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_token_off_the_support_has_probability_zero() -> None:
    rollout = sample(tiny_model(), top_k=3)
    wrong = replace(rollout, support=torch.where(rollout.support == rollout.tokens.unsqueeze(-1), -1, rollout.support))
    logp = completion_logp(tiny_model(), wrong, 1.0)
    assert (logp[rollout.mask] == -torch.inf).all()
    assert (logp[~rollout.mask] == 0).all()


def test_logits_of_nan_show_in_logp_and_give_a_token_of_the_vocabulary() -> None:
    rollout = one_step(torch.tensor([[0.0, 1.0, 2.0], [math.nan] * 3]), top_p=0.9)
    assert rollout.logp.isnan().tolist() == [[False], [True]]
    assert rollout.tokens[1].item() in range(3)


@pytest.mark.parametrize("settings", [{"top_p": 1.0}, {"top_k": 23}, {"top_k": 99, "top_p": 1.0}])
def test_what_cuts_nothing_is_off(settings: dict[str, float]) -> None:
    without, off = sample(tiny_model()), sample(tiny_model(), **settings)
    assert off.support is None
    assert torch.equal(off.tokens, without.tokens)
    assert torch.equal(off.logp, without.logp)


def test_greedy_ignores_both() -> None:
    both, plain = (sample(tiny_model(), temperature=0.0, **cut) for cut in ({"top_k": 3, "top_p": 0.5}, {}))
    assert both.support is None
    assert torch.equal(both.tokens, plain.tokens)
    assert (both.logp == 0).all()


def test_groups_take_the_support_of_their_rows() -> None:
    rollout = sample(tiny_model(), torch.tensor([[2, 4], [5, 6], [3, 8]]), group_size=4, top_p=0.8)
    assert torch.equal(rollout.groups(slice(1, 3)).support, rollout.support[4:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p must be in \(0, 1\], got 1.1"),
        ({"top_p": math.nan}, r"top_p must be in \(0, 1\], got nan"),
    ],
)
def test_arguments_that_cannot_be_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(tiny_model(), **change)
