"""Chat templates of every kind: several by name, failing ones, those that print the date, and how their turns end."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from nested_reft.config.sampling import Prompt
from nested_reft.config.sources import HubModel
from nested_reft.config.strict import ConfigError, parse
from nested_reft.data.hub_models import fetch_model
from nested_reft.data.records import DataError
from nested_reft.rollouts.policy import load_tokenizer
from nested_reft.rollouts.prompts import end_token_ids, render_prompt

WORDS = [
    "<pad>",
    "<eos>",
    "user",
    "assistant",
    ":",
    "What",
    "is",
    "6",
    "*",
    "7?",
    "The",
    "answer",
    "42.",
    "[UNK]",
    "end",
]
CHAT = Prompt(style="chat")
TURNS = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} END {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def tokenizer(template: str | dict[str, str], *added: AddedToken | str) -> PreTrainedTokenizerBase:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", unk_token="[UNK]")
    made.add_tokens(list(added))
    made.chat_template = template
    made.name_or_path = "models/some"
    return made


# --- which template, and what happens if it fails


def test_one_of_several_templates_is_chosen_by_name() -> None:
    templates = {"default": "D", "rag": "R"}
    assert render_prompt("1", CHAT, tokenizer(templates)) == "D"
    assert render_prompt("1", Prompt(style="chat", template="rag"), tokenizer(templates)) == "R"
    assert render_prompt("1", Prompt(style="chat", template="default"), tokenizer("only")) == "only"
    assert render_prompt("1", CHAT, tokenizer({"rag": "R"})) == "R"


@pytest.mark.parametrize(
    ("template", "name", "message"),
    [
        ({"tool": "T", "rag": "R"}, None, "several chat templates.*set `prompt.template` to one of: rag, tool$"),
        ({"tool": "T", "rag": "R"}, "rga", "no chat template 'rga', did you mean 'rag'"),
        ("T", "rag", "no chat template 'rag', possible: default"),
        ("{{ raise_exception('No\nsystem') }}", None, r"chat template 'default' refuses the prompt \(No system\)"),
        ("{{ messages[0]['x'].y }}", None, r"chat template 'default' refuses the prompt \(.*has no attribute 'x'\)"),
        ("{{ 'a' + 1 }}", None, r"chat template 'default' refuses the prompt \(can only concatenate str"),
        ("{% if %}", None, r"chat template 'default' refuses the prompt \(Expected an expression"),
        ({"a": "A", "b": "{{ 1 / 0 }}"}, "b", r"chat template 'b' refuses the prompt \(division by zero\)"),
        ("", None, "no chat template; set `prompt.style: plain`"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(
    template: str | dict[str, str], name: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=f"^models/some: .*{message}") as caught:
        render_prompt("1", Prompt(style="chat", template=name), tokenizer(template))
    assert "\n" not in str(caught.value)


def test_a_plain_prompt_has_no_template() -> None:
    with pytest.raises(ConfigError, match="template: style `plain` has none"):
        parse(Prompt, {"style": "plain", "template": "rag"}, "prompt")


def test_all_templates_of_a_model_are_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "mirror/o/m"
    tokenizer({"default": "D", "rag": "R"}).save_pretrained(folder)
    (folder / "config.json").write_text('{"num_hidden_layers": 2}')
    (folder / "model.safetensors").write_bytes(b"abc")
    settings = HubModel(source="hub", repo="o/m", layers=2)
    record = fetch_model(settings, tmp_path / "mirror", tmp_path / "out")
    loaded = load_tokenizer(tmp_path / "out")
    assert render_prompt("1", Prompt(style="chat", template="rag"), loaded) == "R"
    assert render_prompt("1", CHAT, loaded) == "D"
    assert "additional_chat_templates/rag.jinja" in record["files"]


# --- the date


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{{ strftime_now('%A %H:%M') }}", "Friday 00:00"),
        (
            "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
            "{{ date_string }}",
            "26 Jul 2024",
        ),
        (
            "{% if not date_string is defined %}{% set date_string = '1 Jan 2020' %}{% endif %}{{ date_string }}",
            "1 Jan 2020",
        ),
        ("\n  {% set f = '%B %-d, %Y' %}\n{{ strftime_now(f) if strftime_now is defined }}\n", "\nJuly 26, 2024"),
        ("{% macro day() %}{{ strftime_now('%Y') }}{% endmacro %}{{ day() }}", "2024"),
    ],
)  # fmt: skip
def test_a_resumed_run_has_the_same_prompts(monkeypatch: pytest.MonkeyPatch, template: str, expected: str) -> None:
    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Tomorrow:
            return cls(2031, 1, 2, 3, 4)

    today = render_prompt("1", CHAT, tokenizer(template))
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    assert render_prompt("1", CHAT, tokenizer(template)) == today == expected


# --- how a completion ends


@pytest.mark.parametrize("mark", [AddedToken("<|im_end|>", special=True), AddedToken("<|im_end|>", special=False)])
@pytest.mark.parametrize("end", ["<|im_end|>", " <|im_end|>\n", "\n<|im_end|>user"])
def test_the_token_that_ends_a_turn_ends_a_completion(mark: AddedToken, end: str) -> None:
    made = tokenizer(TURNS.replace(" END", end), mark)
    assert end_token_ids(CHAT, made) == {made.convert_tokens_to_ids("<|im_end|>")}
    assert end_token_ids(Prompt(style="chat", system="is"), made) == {made.convert_tokens_to_ids("<|im_end|>")}
    assert end_token_ids(Prompt(style="plain"), made) == set()


@pytest.mark.parametrize(
    "template",
    [
        TURNS,  # text
        TURNS.replace(" END", ""),
        "assistant :",  # no words of the assistant
        "{% if messages[-1].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}assistant :",
    ],
)
def test_a_turn_that_no_token_ends_adds_none(template: str) -> None:
    assert end_token_ids(CHAT, tokenizer(template, "<|im_end|>")) == set()


def test_end_tokens_of_the_settings_are_added() -> None:
    made = tokenizer(TURNS, "<|im_end|>")
    mark, word = made.convert_tokens_to_ids("<|im_end|>"), made.convert_tokens_to_ids("end")
    assert end_token_ids(Prompt(style="plain", end_tokens=("<|im_end|>", "end")), made) == {mark, word}
    assert end_token_ids(Prompt(style="chat", end_tokens=("end",)), tokenizer(TURNS.replace("END", "<eos>"))) == {
        word,
        1,
    }


@pytest.mark.parametrize(("token", "found"), [("end end", "but 2"), ("<|nope|>", "but 0"), (" ", "but 0")])
def test_end_tokens_that_are_none_are_named(token: str, found: str) -> None:
    with pytest.raises(DataError, match=f"^models/some: .*is not one token of the model.*{found}.*`prompt.end_tokens`"):
        end_token_ids(Prompt(style="plain", end_tokens=(token,)), tokenizer(TURNS))
