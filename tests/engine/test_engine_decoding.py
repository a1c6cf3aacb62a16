"""Fast decoding gives what the model's own forward gives, whatever ends when; and is only used if it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chi2_contingency
from tiny_models import padded_prompts, random_tokens, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from nested_reft.core.layers import nested_view
from nested_reft.core.rollout import Rollout
from nested_reft.engine import sampling
from nested_reft.engine.decoder import ModelDecoder, make_decoder
from nested_reft.engine.grouped_decoder import GroupedDecoder
from nested_reft.engine.llama import why_unsupported
from nested_reft.engine.logp import completion_logp
from nested_reft.engine.sampling import BLOCK, _choose, sample_completions

FAST = ("qwen2", "llama", "qwen3_full")
LENGTHS = (5, 1, 6)


def sample(model: PreTrainedModel, *, seed: int = 0, **changes: object) -> Rollout:
    """Completions of three prompts of different lengths."""
    prompt_ids, prompt_mask = padded_prompts(LENGTHS)
    settings = {
        "group_size": 5, "max_new_tokens": 12, "temperature": 1.0, "end_ids": (1, 2, 3), "pad_id": 0,
        "generator": torch.Generator().manual_seed(seed),
    }  # fmt: skip
    return sample_completions(model, prompt_ids, prompt_mask, **(settings | changes))


@pytest.mark.parametrize("kind", FAST)
def test_the_fast_way_is_taken_where_it_is_known(kind: str) -> None:
    model = tiny_model(kind)
    assert isinstance(make_decoder(model), GroupedDecoder)
    assert isinstance(make_decoder(nested_view(model, (1, 3))), GroupedDecoder)


@pytest.mark.parametrize("group_size", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("kind", FAST)
def test_logits_are_those_of_the_model_while_rows_end(kind: str, group_size: int) -> None:
    """Rows end at random, more and more, so that lines become ragged, are copied into smaller ones, and vanish.

    The two round differently: by up to 1.4e-5 in float32, where logits reach 3.4.
    """
    view = nested_view(tiny_model(kind), (2,))
    prompt_ids, prompt_mask = padded_prompts(LENGTHS)
    generator = torch.Generator().manual_seed(4)
    fast, plain = GroupedDecoder(view), ModelDecoder(view)
    with torch.no_grad():
        starts = [decoder.start(prompt_ids, prompt_mask, group_size, 12) for decoder in (fast, plain)]
        torch.testing.assert_close(*starts, rtol=0, atol=5e-5)
        rows = 3 * group_size
        for step in range(12):
            tokens = torch.randint(2, 23, (rows,), generator=generator)
            torch.testing.assert_close(fast.step(tokens), plain.step(tokens), rtol=0, atol=5e-5)
            kept = (torch.rand(rows, generator=generator) > 0.06 * step).nonzero().squeeze(-1)
            if 0 < len(kept) < rows:
                fast.keep(kept)
                plain.keep(kept)
                rows = len(kept)
    assert rows < max(2, group_size)


@pytest.mark.parametrize("kind", FAST)
def test_greedy_completions_are_the_tokens_of_generate(kind: str) -> None:
    model = tiny_model(kind)
    rollout = sample(model, temperature=0.0, group_size=1)
    prompt_ids, prompt_mask = padded_prompts(LENGTHS)
    generated = model.generate(
        input_ids=prompt_ids, attention_mask=prompt_mask, do_sample=False, max_new_tokens=12, eos_token_id=[1, 2, 3],
        pad_token_id=0,
    )[:, prompt_ids.shape[1] :]  # fmt: skip
    assert torch.equal(rollout.tokens, generated)


@pytest.mark.parametrize("kind", FAST)
@pytest.mark.parametrize("options", [{}, {"top_k": 4}, {"top_p": 0.7}])
def test_both_ways_sample_the_same_and_keep_the_same_logp(
    kind: str, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(kind)
    fast = sample(model, **options)
    monkeypatch.setattr(sampling, "make_decoder", lambda model, weights: ModelDecoder(model))
    plain = sample(model, **options)
    assert torch.equal(fast.tokens, plain.tokens)
    assert torch.equal(fast.mask, plain.mask)
    assert len(set(fast.mask.sum(-1).tolist())) > 3
    # Two orders of float32 sums: the log-probabilities, down to -10, differ by a few units of the sixth digit.
    torch.testing.assert_close(fast.logp, plain.logp, rtol=1e-5, atol=1e-6)
    if options:
        assert torch.equal(fast.support, plain.support)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
def test_a_completion_does_not_depend_on_when_others_end(kind: str) -> None:
    model = tiny_model(kind)
    ending, endless = sample(model), sample(model, end_ids=())
    assert not ending.mask.all()
    assert endless.mask.all()
    length = ending.tokens.shape[1]
    assert torch.equal(ending.tokens[ending.mask], endless.tokens[:, :length][ending.mask])


@pytest.mark.parametrize("kind", FAST)
def test_packed_log_probabilities_and_gradients_are_the_model_s(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(kind).double()
    rollout = sample(model, top_k=6)
    assert not rollout.mask.all()

    def logp_and_gradients() -> tuple[Tensor, tuple[Tensor, ...]]:
        logp = completion_logp(model, rollout, 0.7)
        return logp.detach(), torch.autograd.grad(logp[rollout.mask].mean(), list(model.parameters()))

    packed = logp_and_gradients()
    monkeypatch.setattr("nested_reft.engine.logp.why_unsupported", lambda model: "wants the other way")
    plain = logp_and_gradients()
    # The model's own norms round to float32 even here.
    torch.testing.assert_close(packed[0], plain[0], rtol=0, atol=5e-6)
    for one, other in zip(packed[1], plain[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("decoder", [GroupedDecoder, ModelDecoder])
def test_under_autocast_both_ways_are_near_float32(decoder: type) -> None:
    """Matrices in bfloat16, hidden states in float32; a bfloat16 number has three digits."""
    model = tiny_model()
    prompt_ids, prompt_mask = padded_prompts(LENGTHS)
    tokens = random_tokens(1, 6)[0]
    with torch.no_grad():
        exact = GroupedDecoder(model)
        exact.start(prompt_ids, prompt_mask, 2, 3)
        expected = exact.step(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = decoder(model)
            half.start(prompt_ids, prompt_mask, 2, 3)
            actual = half.step(tokens).float()
    difference = (actual - expected).abs().max()
    assert 0 < difference < 0.05 * expected.abs().max()


def drop_attention(model: PreTrainedModel) -> None:
    model.config.attention_dropout = 0.1
    model.train()


def hook(model: PreTrainedModel) -> None:
    model.model.layers[2].register_forward_hook(lambda module, inputs, output: output)


def adapt(model: PreTrainedModel) -> None:
    class Adapted(nn.Linear):
        pass

    model.model.layers[0].self_attn.q_proj = Adapted(16, 16)


def other_norm(model: PreTrainedModel) -> None:
    model.model.norm = nn.RMSNorm(16)


def bias(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.up_proj.bias = nn.Parameter(torch.ones(32))


def other_activation(model: PreTrainedModel) -> None:
    model.config.hidden_act = "gelu"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop_attention, "it drops attention weights"),
        (hook, "layers.2 has a hook, or a forward that is not its class's"),
        (adapt, "it has modules of type Adapted"),
        (other_norm, "it has modules of type RMSNorm"),
        (bias, "layers.1.mlp.up_proj has a bias"),
        (other_activation, "its activation is gelu"),
    ],
)
def test_a_model_that_the_fast_way_would_get_wrong_goes_its_own(
    change: Callable[[PreTrainedModel], None], reason: str
) -> None:
    model = tiny_model()
    change(model)
    assert why_unsupported(model) == reason
    assert isinstance(make_decoder(model), ModelDecoder)


def test_windows_and_experts_go_their_own_way() -> None:
    assert why_unsupported(tiny_model("qwen3")) == "it has layers without full attention"
    assert why_unsupported(tiny_model("gemma2")) == "it has modules of type Gemma2DecoderLayer, Gemma2RMSNorm"
    assert "Qwen3MoeDecoderLayer" in str(why_unsupported(tiny_model("qwen3_moe")))


@pytest.mark.parametrize("vocab", [7, BLOCK, BLOCK + 1, 5 * BLOCK + 17])
def test_columns_are_chosen_by_their_probability(vocab: int) -> None:
    """Seven columns have a share, the others none; uniform numbers at equal distances give the shares exactly."""
    columns = torch.linspace(0, vocab - 1, 7).long()
    shares = torch.arange(1.0, 8) / 28
    logits = torch.full((1, vocab), -torch.inf)
    logits[0, columns] = shares.log() + 3
    uniform = (torch.arange(2800) + 0.5) / 2800
    chosen, logp = _choose(logits.repeat(2800, 1), uniform)
    counts = torch.tensor([(chosen == column).sum() for column in columns])
    assert counts.sum() == 2800
    assert (counts - 2800 * shares).abs().max() <= 1
    torch.testing.assert_close(logp, shares[torch.searchsorted(columns, chosen)].log(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
@pytest.mark.parametrize("vocab", [9, 2 * BLOCK + 9])
def test_a_column_without_probability_is_never_chosen(uniform: float, vocab: int) -> None:
    logits = torch.full((1, vocab), -torch.inf)
    logits[0, 3:5] = torch.tensor([0.3, -20.0])
    column, logp = _choose(logits.clone(), torch.tensor([uniform]))
    assert column.item() in (3, 4)
    assert torch.isfinite(logp).all()


def test_sampled_tokens_are_distributed_as_those_of_generate() -> None:
    """The pairs of first and second token, ours against transformers', each 4,000 times."""
    model = tiny_model(vocab=5)
    prompt_ids, prompt_mask = padded_prompts((3,), vocab=5)
    ours = sample_completions(
        model, prompt_ids, prompt_mask, group_size=4000, max_new_tokens=2, temperature=1.0, end_ids=(), pad_id=0,
        generator=torch.Generator().manual_seed(0),
    ).tokens  # fmt: skip
    torch.manual_seed(0)
    theirs = model.generate(
        input_ids=prompt_ids, attention_mask=prompt_mask, do_sample=True, top_k=0, max_new_tokens=2, min_new_tokens=2,
        num_return_sequences=4000, eos_token_id=None, pad_token_id=0,
    )[:, -2:]  # fmt: skip
    counts = [torch.bincount(pairs[:, 0] * 5 + pairs[:, 1], minlength=25) for pairs in (ours, theirs)]
    common = (counts[0] + counts[1]) >= 20
    first, second = counts[0][common].double(), counts[1][common].double()
    assert common.sum() >= 8
    assert chi2_contingency(torch.stack((first, second)).numpy()).pvalue > 1e-3
