"""The one place where a question becomes a prompt, and a prompt becomes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nested_reft.config.errors import nearest
from nested_reft.config.sampling import Prompt
from nested_reft.data.records import DataError

# What a chat template gets when it asks for the date: always this one, so that a run that is resumed tomorrow, or
# repeated next year, has the same prompts. It is the date that templates of Llama fall back on.
TODAY = datetime(2024, 7, 26)
# The renderer takes no function in place of its own `strftime_now`, so a macro of that name looks the directives up.
DIRECTIVES = {
    f"%{code}": TODAY.strftime(f"%{code}") for code in (*"aAbBcdeFHIjmMpSTuUwWxXyYzZ", "-d", "-m", "-H", "-I")
}
CLOCK = (
    "{% macro strftime_now(format) %}{% set text = namespace(now=format) %}"
    "{% for code, value in strftime_directives.items() %}{% set text.now = text.now.replace(code, value) %}{% endfor %}"
    "{{ text.now }}{% endmacro %}{{ '' }}"  # the last part keeps a newline after it
)
ANSWER = "The answer is 42."  # what the assistant says in the conversation that shows how a turn ends


def render_prompt(question: str, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model continues. DataError if it is a chat prompt that the tokenizer cannot render."""
    if prompt.style == "plain":
        return question + prompt.suffix
    return _render(question, None, prompt, tokenizer)


def _render(question: str, answer: str | None, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """A conversation in the model's chat template: up to the assistant's turn, or with it if there is an `answer`."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system is not None else []
    messages.append({"role": "user", "content": question + prompt.suffix})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    name, template = _chat_template(prompt, tokenizer)
    try:
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=CLOCK + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=answer is None,
            strftime_directives=DIRECTIVES,
        )
    except Exception as error:  # a template is a program of the model's author: it may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "remove `prompt.system`" if prompt.system is not None else "set `prompt.style: plain`"
        raise DataError(
            f"{_model(tokenizer)}: the model's chat template '{name}' refuses the prompt ({reason}); {remedy}, or "
            "choose another with `prompt.template`"
        ) from error
    return str(text)


def _chat_template(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The name and the text of the chat template that the settings ask for."""
    found = tokenizer.chat_template or {}
    templates: dict[str, str] = found if isinstance(found, dict) else {"default": found}
    if not templates:
        raise DataError(f"{_model(tokenizer)}: the model's tokenizer has no chat template; set `prompt.style: plain`")
    name = prompt.template or (next(iter(templates)) if len(templates) == 1 else "default")
    if name in templates:
        return name, templates[name]
    if prompt.template is None:
        raise DataError(
            f"{_model(tokenizer)}: the model has several chat templates, none of which is the default; set "
            f"`prompt.template` to one of: {', '.join(sorted(templates))}"
        )
    raise DataError(
        f"{_model(tokenizer)}: the model has no chat template '{name}', {nearest(name, templates)}; correct "
        "`prompt.template`"
    )


def _model(tokenizer: PreTrainedTokenizerBase) -> str:
    """The model's folder, to be named in an error."""
    return tokenizer.name_or_path or "model"


def end_token_ids(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a completion because of how the model is prompted: `prompt.end_tokens` and a turn's end.

    A base model often has a chat template whose turns end with a token, such as <|im_end|>, that is not among the end
    tokens of the model: nothing would end its completions. DataError if an entry of `prompt.end_tokens` is not exactly
    one token of the tokenizer.
    """
    ends = set[int]()
    for token in prompt.end_tokens:
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if ids == [tokenizer.unk_token_id] and token != tokenizer.unk_token:
            ids = []
        if len(ids) != 1:
            raise DataError(
                f"{_model(tokenizer)}: {token!r} is not one token of the model but {len(ids)}; correct "
                "`prompt.end_tokens`"
            )
        ends.add(ids[0])
    turn_end = _turn_end(prompt, tokenizer) if prompt.style == "chat" else None
    return ends if turn_end is None else ends | {turn_end}


def _turn_end(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token after an assistant's words in the chat template; None if that is not an added token but text."""
    render_prompt("", prompt, tokenizer)  # if the template cannot render prompts, that is the error to report
    try:
        text = _render("What is 6 * 7?", ANSWER, prompt, tokenizer)
    except DataError:
        return None  # it renders prompts only
    rest = text.rpartition(ANSWER)[2].lstrip() if ANSWER in text else ""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    found = [content for content in added if rest.startswith(content)]
    return added[max(found, key=len)] if found else None


def encode_prompts(
    questions: Sequence[str], prompt: Prompt, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int
) -> list[list[int]]:
    """Token ids of each question's prompt, unpadded. DataError if one is longer than `max_prompt_tokens`.

    A prompt is never truncated: in neither style does it end with the question, and half a problem has another answer.
    """
    texts = [render_prompt(question, prompt, tokenizer) for question in questions]
    # A chat template writes the special tokens itself; adding them again would double the first.
    encoded = _with_first_tokens(texts, tokenizer) if prompt.style == "plain" else _tokens(texts, tokenizer)
    for question, tokens in zip(questions, encoded, strict=True):
        if len(tokens) > max_prompt_tokens:
            raise DataError(
                f"the prompt of {question[:60]!r} has {len(tokens)} tokens, more than max_prompt_tokens: "
                f"{max_prompt_tokens}; raise it"
            )
    return encoded


def _tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return found


def _with_first_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts with the special tokens that the tokenizer puts before them, but without those that it puts after them.

    Many tokenizers end every text with an end token. A prompt goes on: the model must not read its own end first.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), return_special_tokens_mask=True)  # 1 for a token that is not of the text
    return [
        tokens[: max((index + 1 for index, added in enumerate(mask) if not added), default=len(tokens))]
        for tokens, mask in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    ]


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (P, S) int64 padded on the left to the longest, and which are real (P, S) bool."""
    width = max((len(sequence) for sequence in sequences), default=0)
    tokens = torch.full((len(sequences), width), pad_id, dtype=torch.int64)
    real = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        if sequence:
            tokens[row, -len(sequence) :] = torch.tensor(sequence, dtype=torch.int64)
            real[row, -len(sequence) :] = True
    return tokens, real
