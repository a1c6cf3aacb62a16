"""Prompts, their tokens and their padding, with a tokenizer of words made here."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nested_reft.config.sampling import Prompt
from nested_reft.data.records import DataError
from nested_reft.rollouts.prompts import encode_prompts, left_pad, render_prompt

WORDS = ["<pad>", "<s>", "system", "user", "assistant", ":", "Be", "brief", "1", "2", "+", "=", "?"]
TEMPLATE = (
    "<s> {% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerBase:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", pad_token="<pad>", unk_token="?")
    made.chat_template = template
    return made


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def test_plain_prompt_is_question_and_suffix() -> None:
    prompt = Prompt(style="plain", suffix=" = ?")
    assert render_prompt("1 + 2", prompt, tokenizer(None)) == "1 + 2 = ?"
    assert encode_prompts(["1 + 2"], prompt, tokenizer(None), 6) == [ids("<s> 1 + 2 = ?")]


def test_chat_prompt_ends_where_the_model_answers() -> None:
    prompt = Prompt(style="chat", system="Be brief", suffix=" = ?")
    text = "<s> system : Be brief user : 1 + 2 = ? assistant :"
    assert render_prompt("1 + 2", prompt, tokenizer()) == text
    # One <s>: the template wrote it, and the tokenizer's own must not come on top.
    assert encode_prompts(["1 + 2"], prompt, tokenizer(), 20) == [ids(text)]


def test_chat_prompt_without_system_has_no_system_message() -> None:
    assert render_prompt("1", Prompt(style="chat"), tokenizer()) == "<s> user : 1 assistant :"


def test_templates_that_cannot_render() -> None:
    with pytest.raises(DataError, match=r"no chat template; set `prompt\.style: plain`"):
        render_prompt("1", Prompt(style="chat"), tokenizer(None))
    with pytest.raises(DataError, match=r"System role not supported.*remove `prompt\.system`"):
        render_prompt("1", Prompt(style="chat", system="Be brief"), tokenizer(NO_SYSTEM))


def test_a_long_prompt_is_an_error_and_not_cut() -> None:
    prompt = Prompt(style="plain")
    assert encode_prompts(["1 + 2"], prompt, tokenizer(), 4) == [ids("<s> 1 + 2")]
    with pytest.raises(DataError, match=r"'1 \+ 2 = \?' has 6 tokens, more than max_prompt_tokens: 5"):
        encode_prompts(["1 + 2", "1 + 2 = ?"], prompt, tokenizer(), 5)


def template(single: str) -> processors.PostProcessor:
    used = [word for word in single.split() if word != "$A"]
    return processors.TemplateProcessing(single=single, special_tokens=[(word, ids(word)[0]) for word in used])


@pytest.mark.parametrize(
    ("processor", "before"),
    [
        (template("<s> $A <pad>"), ["<s>"]),
        (template("$A <pad>"), []),
        (template("<s> brief $A ? <pad>"), ["<s>", "brief"]),
        (template("<s> $A"), ["<s>"]),
        (processors.BertProcessing(("<pad>", 0), ("<s>", 1)), ["<s>"]),
        (processors.RobertaProcessing(("<pad>", 0), ("<s>", 1)), ["<s>"]),
        (processors.Sequence([processors.ByteLevel(), template("<s> $A <pad>")]), ["<s>"]),
        (None, []),
    ],
)
@pytest.mark.parametrize("text", ["1 + 2 =", "user : <pad>", "<s> 1 <pad> ?", "1 ?"])
def test_a_plain_prompt_begins_as_the_tokenizer_wants_but_ends_as_it_was_written(
    processor: processors.PostProcessor | None, before: list[str], text: str
) -> None:
    """Of several lengths at once, of which one ends with the very token that the post-processor appends."""
    made = tokenizer(None)
    made.backend_tokenizer.post_processor = processor
    made.add_special_tokens({"eos_token": "<pad>"})
    expected = [[ids(word)[0] for word in (*before, *words.split())] for words in (text, "1")]
    assert encode_prompts([text, "1"], Prompt(style="plain"), made, 20) == expected


def test_left_pad() -> None:
    tokens, real = left_pad([[5, 6, 7], [8], []], pad_id=0)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8], [0, 0, 0]]
    assert real.tolist() == [[True, True, True], [False, False, True], [False, False, False]]
    assert str(tokens.dtype) == "torch.int64"
    assert str(real.dtype) == "torch.bool"
    assert [part.shape for part in left_pad([], pad_id=0)] == [(0, 0), (0, 0)]
