"""Sampling: the kept log-probabilities are those of the sampling distribution, and the text is what it should be."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from tiny_models import padded_prompts, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.sampling import sample_completions
from nested_reft.training.world import join_rollouts

PROMPTS = (3, 6, 1)  # lengths, so that two of three are padded


def sample(model: PreTrainedModel, *, seed: int = 0, **changes: object) -> Rollout:
    """A rollout with settings that a test can change one by one."""
    ids, mask = padded_prompts(PROMPTS, vocab=model.config.vocab_size)
    settings = {
        "prompt_ids": ids, "prompt_mask": mask, "group_size": 2, "max_new_tokens": 7, "temperature": 1.0,
        "end_ids": (1,), "pad_id": 0, "generator": torch.Generator().manual_seed(seed),
    }  # fmt: skip
    return sample_completions(model, **(settings | changes))


def plain_logp(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """log pi the plain way: row by row, without padding and without a cache, (B, T), 0 where the mask is false."""
    rows = []
    for row in range(len(rollout.tokens)):
        prompt = row // rollout.group_size
        question = rollout.prompt_ids[prompt][rollout.prompt_mask[prompt]]
        completion = rollout.tokens[row][rollout.mask[row]]
        text = torch.cat((question, completion)).unsqueeze(0)
        logits = model(input_ids=text, use_cache=False).logits[0, len(question) - 1 : -1]
        logp = torch.log_softmax(logits / temperature, dim=-1).gather(-1, completion.unsqueeze(-1)).squeeze(-1)
        rows.append(torch.nn.functional.pad(logp, (0, rollout.tokens.shape[1] - len(completion))))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma2"])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_the_kept_logp_is_that_of_a_fresh_forward(kind: str, temperature: float) -> None:
    model = tiny_model(kind)
    with torch.no_grad():
        rollout = sample(model, temperature=temperature)
        expected = plain_logp(model, rollout, temperature)
    torch.testing.assert_close(rollout.logp, expected, rtol=0, atol=1e-5)
    assert rollout.logp[rollout.mask].max() < 0


def test_the_kept_logp_of_a_nested_rollout_is_the_view_s_and_not_the_target_s() -> None:
    model = tiny_model()
    view = nested_view(model, (1, 3))
    with torch.no_grad():
        rollout = sample(view)
        torch.testing.assert_close(rollout.logp, plain_logp(view, rollout, 1.0), rtol=0, atol=1e-5)
        assert (rollout.logp - plain_logp(model, rollout, 1.0)).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma2"])
def test_greedy_is_generate_s_token_by_token(kind: str) -> None:
    model, (ids, mask) = tiny_model(kind), padded_prompts(PROMPTS)
    rollout = sample(model, temperature=0.0, group_size=1, end_ids=(), max_new_tokens=9)
    expected = model.generate(
        ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=9, eos_token_id=None, pad_token_id=0
    )[:, ids.shape[1] :]
    assert torch.equal(rollout.tokens, expected)
    assert torch.equal(rollout.logp, torch.zeros(3, 9))
    assert rollout.mask.all()


def test_greedy_with_an_end_token_is_generate_s() -> None:
    model, (ids, mask) = tiny_model(), padded_prompts(PROMPTS)
    unstopped = sample(model, temperature=0.0, group_size=1, end_ids=(), max_new_tokens=9).tokens
    end = int(unstopped[0, 2])  # a token that at least one completion reaches before its last
    rollout = sample(model, temperature=0.0, group_size=1, end_ids=(end,), max_new_tokens=9)
    expected = model.generate(
        ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=9, eos_token_id=end, pad_token_id=0
    )[:, ids.shape[1] :]
    assert torch.equal(rollout.tokens, expected)
    assert not rollout.mask.all()


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_samples_follow_the_exact_distribution(temperature: float) -> None:
    """All pairs of two tokens of a vocabulary of five, against their exact probabilities."""
    vocab, draws = 5, 4000
    model = tiny_model(layers=3, vocab=vocab)
    prompt = torch.tensor([[2, 4, 3]])
    with torch.no_grad():
        pairs = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))
        text = torch.cat((prompt.expand(len(pairs), -1), pairs), dim=1)
        log_probs = torch.log_softmax(model(input_ids=text, use_cache=False).logits.double() / temperature, dim=-1)
        exact = (log_probs[:, 2].gather(1, pairs[:, :1]) + log_probs[:, 3].gather(1, pairs[:, 1:])).exp().squeeze(1)
    rollout = sample(
        model, prompt_ids=prompt, prompt_mask=torch.ones_like(prompt), group_size=draws, max_new_tokens=2,
        temperature=temperature, end_ids=(),
    )  # fmt: skip
    counts = torch.bincount(rollout.tokens[:, 0] * vocab + rollout.tokens[:, 1], minlength=vocab**2).double()
    assert exact.sum().item() == pytest.approx(1, abs=1e-6)
    # Cells that expect fewer than five are taken together, as the test's approximation asks.
    rare = exact * draws < 5
    observed = torch.cat((counts[~rare], counts[rare].sum().unsqueeze(0)))
    expected = torch.cat((exact[~rare], exact[rare].sum().unsqueeze(0)))
    expected = expected / expected.sum() * draws
    keep = expected > 0
    assert keep.sum() > 8
    assert chisquare(observed[keep], expected[keep]).pvalue > 1e-3


def test_a_completion_stops_at_its_first_end_token() -> None:
    rollout = sample(tiny_model(vocab=6), group_size=20, end_ids=(1, 3), max_new_tokens=12)
    lengths = set()
    for tokens, mask, logp in zip(rollout.tokens, rollout.mask, rollout.logp, strict=True):
        ends = [step for step, token in enumerate(tokens.tolist()) if token in (1, 3)]
        length = ends[0] + 1 if ends else 12
        width = len(tokens)
        assert mask.tolist() == [step < length for step in range(width)]
        assert tokens[length:].tolist() == [0] * (width - length)
        assert logp[length:].tolist() == [0.0] * (width - length)
        lengths.add(length)
    assert len(lengths) > 3
    assert rollout.tokens.shape[1] == max(lengths)


def test_the_rollout_is_as_wide_as_its_longest_completion() -> None:
    rollout = sample(tiny_model(vocab=6), end_ids=range(6), max_new_tokens=12)
    assert rollout.tokens.shape == rollout.mask.shape == rollout.logp.shape == (6, 1)
    assert rollout.mask.all()


def test_without_an_end_token_every_completion_has_all_its_tokens() -> None:
    rollout = sample(tiny_model(vocab=6), end_ids=(), max_new_tokens=12)
    assert rollout.mask.shape == (6, 12)
    assert rollout.mask.all()


def test_the_generator_alone_decides_the_text() -> None:
    model = tiny_model()
    torch.manual_seed(1)
    first = sample(model, seed=4)
    torch.manual_seed(2)
    again, other = sample(model, seed=4), sample(model, seed=5)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.logp, again.logp)
    assert not torch.equal(first.tokens[:, :3], other.tokens[:, :3])


def test_sampling_leaves_no_gradient_and_the_global_generator_alone() -> None:
    model = tiny_model()
    before = torch.get_rng_state()
    rollout = sample(model)
    assert not rollout.logp.requires_grad
    assert rollout.logp.dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.8}])
def test_a_batch_written_in_parts_is_the_batch(settings: dict[str, object]) -> None:
    """Parts have other lengths and supports of other widths, and the random numbers of their place in the batch."""
    model = tiny_model()
    ids, mask = padded_prompts(PROMPTS)
    settings = settings | {"end_ids": range(1, 9)}
    whole = sample(model, **settings)
    parts = [
        sample(model, prompt_ids=ids[share], prompt_mask=mask[share], part=(share.start, len(ids)), **settings)
        for share in (slice(0, 1), slice(1, 3))
    ]
    assert len({part.tokens.shape[1] for part in parts}) == 2, "nothing to fill up"
    joined = join_rollouts(parts, pad_id=0)
    for name, expected in vars(whole).items():
        if expected is None or not expected.is_floating_point():
            assert expected is getattr(joined, name) or torch.equal(getattr(joined, name), expected), name
        else:
            torch.testing.assert_close(getattr(joined, name), expected, rtol=0, atol=1e-5)


def test_groups_are_the_rows_of_their_prompts() -> None:
    rollout = sample(tiny_model(), group_size=3)
    assert rollout.group_size == 3
    part = rollout.groups(slice(1, 3))
    assert torch.equal(part.prompt_ids, rollout.prompt_ids[[1, 2]])
    assert torch.equal(part.prompt_mask, rollout.prompt_mask[[1, 2]])
    for name in ("tokens", "mask", "logp"):
        assert torch.equal(getattr(part, name), getattr(rollout, name)[[3, 4, 5, 6, 7, 8]])
    assert part.group_size == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -0.1}, "temperature must not be negative, got -0.1"),
        ({"prompt_mask": torch.ones(3, 5)}, r"prompt_ids \(3, 6\) and prompt_mask \(3, 5\) differ"),
        ({"prompt_mask": torch.ones(3, 6).tril(3)}, "prompts must be padded on the left, and none may be empty"),
    ],
)
def test_arguments_that_cannot_be_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(tiny_model(), **change)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_completion_logp_and_its_gradient_are_those_of_the_plain_way(kind: str, temperature: float) -> None:
    model = tiny_model(kind).double()  # transformers' norms still round to float32, which ours do not
    rollout = sample(nested_view(model, (2,)), temperature=temperature, max_new_tokens=9, end_ids=(1, 2, 3, 4, 5))
    shared, plain = completion_logp(model, rollout, temperature), plain_logp(model, rollout, temperature)
    torch.testing.assert_close(shared, plain, rtol=0, atol=5e-6)
    assert (shared[~rollout.mask] == 0).all()
    assert not rollout.mask.all()
    coefficients = torch.randn(shared.shape, generator=torch.Generator().manual_seed(3)) / shared.numel()
    parameters = list(model.parameters())
    actual = torch.autograd.grad((shared * coefficients).sum(), parameters)
    expected = torch.autograd.grad((plain * coefficients).sum(), parameters)
    assert max(gradient.abs().max() for gradient in expected) > 1e-2
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=5e-6)


def test_completion_logp_with_layers_that_see_a_window() -> None:
    """In float32: transformers' own attention of Gemma 2 gives nan in float64 if a prompt is padded."""
    model = tiny_model("gemma2")
    rollout = sample(nested_view(model, (2,)), max_new_tokens=9)
    with torch.no_grad():
        logp = completion_logp(model, rollout, 1.0)
        torch.testing.assert_close(logp, plain_logp(model, rollout, 1.0), rtol=0, atol=1e-5)


def test_completion_logp_of_single_tokens() -> None:
    model = tiny_model()
    rollout = sample(model, max_new_tokens=1)
    with torch.no_grad():
        logp = completion_logp(model, rollout, 1.0)
        torch.testing.assert_close(logp, plain_logp(model, rollout, 1.0), rtol=0, atol=1e-5)
    assert logp.shape == (6, 1)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
def test_at_skip_zero_the_ratio_is_one(kind: str) -> None:
    model = tiny_model(kind)
    rollout = sample(nested_view(model, ()), temperature=0.8)
    with torch.no_grad():
        ratio = (completion_logp(model, rollout, 0.8) - rollout.logp).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)
