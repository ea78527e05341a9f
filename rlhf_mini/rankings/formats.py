"""The shapes that a row of preference data has: texts, whole conversations, or lists of messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from rlhf_mini.errors import InputError, shown
from rlhf_mini.texts import plain, text

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
NAMES = {"prompt": ("prompt", "question", "instruction"), "chosen": ("chosen", "response_chosen", "chosen_response"),
         "rejected": ("rejected", "response_rejected", "rejected_response")}
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}

Triple = tuple[str, str, str]  # prompt, chosen, rejected
Message = tuple[str, str]  # role, content


def triple_of(row: Any) -> Triple:
    """The prompt and both answers of a row. Raises: InputError, one line, for a row that has none.

    Answers may be texts, whole conversations (see `split_conversations`), or lists of messages, with the prompt
    inside them or beside them. A prompt of one message is its text; one of several is written as a conversation.
    """
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"it is {shown(row)}, not a JSON object")
    prompt, chosen, rejected = (_field(row, what) for what in NAMES)
    if chosen is None or rejected is None:
        raise InputError(_why_no_answers(row))
    prompt, chosen, rejected = (plain(value) for value in (prompt, chosen, rejected))
    are_messages = isinstance(chosen, list) and isinstance(rejected, list)
    read: Any = _messages if are_messages else text
    first, second = read('"chosen"', chosen), read('"rejected"', rejected)
    if first == second:
        raise InputError("chosen and rejected are the same")
    return _from_messages(prompt, first, second) if are_messages else _from_texts(row, prompt, first, second)


def split_conversations(chosen: str, rejected: str) -> Triple:
    """Split two conversations that differ only in the last answer: the prompt (up to "Assistant:"), and both answers.

    Raises: InputError if they differ elsewhere.
    """
    chosen, rejected = text("chosen", chosen), text("rejected", rejected)
    shared = list(takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    start = chosen.rfind(ASSISTANT, 0, len(shared))
    if start < 0:
        raise InputError('they share no beginning up to an "Assistant:", and there is no prompt')
    start += len(ASSISTANT)
    answers = chosen[start:], rejected[start:]
    if any(turn in answer for turn in (HUMAN, ASSISTANT) for answer in answers):
        raise InputError("they differ before the last answer")
    return chosen[:start], *answers


def without_repeated_prompts(triples: Sequence[Triple]) -> list[Triple]:
    """The triples with answers that do not begin with the prompt, where the data repeat it there.

    They do if most rows do: one answer may begin with the words of its prompt by chance.
    """
    repeating = [_repeats(*triple) for triple in triples]
    if 2 * sum(repeating) <= sum(prompt.strip() != "" for prompt, _, _ in triples):
        return list(triples)
    return [(prompt, chosen[len(prompt):], rejected[len(prompt):]) if repeats else (prompt, chosen, rejected)
            for (prompt, chosen, rejected), repeats in zip(triples, repeating, strict=True)]


def _repeats(prompt: str, chosen: str, rejected: str) -> bool:
    return prompt.strip() != "" and chosen.startswith(prompt) and rejected.startswith(prompt)


def _field(row: Mapping[Any, Any], what: str) -> Any:
    values = (row.get(name) for name in NAMES[what])
    return next((value for value in values if value is not None and not _is_nan(value)), None)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)  # a gap in a table


def _why_no_answers(row: Mapping[Any, Any]) -> str:
    if {"annotator", "completions"} <= row.keys():
        return "it is a ranking: read the file with rankings.load_rankings"
    names = ", ".join(shown(name) for name in list(row)[:8]) or "nothing"
    return f'"chosen" or "rejected" is missing or null, there is {names}: name the columns prompt, chosen, rejected'


def _from_texts(row: Mapping[Any, Any], prompt: Any, chosen: str, rejected: str) -> Triple:
    if prompt is None:
        return split_conversations(chosen, rejected)
    if isinstance(prompt, list):
        prompt = _written(_messages('"prompt"', prompt))
    prompt = text('"prompt"', prompt)
    if prompt == row.get("instruction") and isinstance(row.get("input"), str) and row["input"]:
        prompt = f"{prompt}\n{row['input']}"
    if chosen.startswith(HUMAN) and rejected.startswith(HUMAN):
        whole = split_conversations(chosen, rejected)
        if prompt.strip() in whole[0]:
            return whole
    return prompt, chosen, rejected


def _from_messages(prompt: Any, chosen: list[Message], rejected: list[Message]) -> Triple:
    shared = [one for one, _ in takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))]
    ends = chosen[len(shared):], rejected[len(shared):]
    if any(len(end) != 1 or end[0][0] != "assistant" for end in ends):
        raise InputError("chosen and rejected do not differ in one last message of the assistant alone")
    answers = ends[0][0][1], ends[1][0][1]
    if isinstance(prompt, list):
        before = _messages('"prompt"', prompt)
        return _written(shared if shared[:len(before)] == before else before + shared), *answers
    if prompt is not None and prompt != "":
        prompt = text('"prompt"', prompt)
        if not shared:
            return prompt, *answers
        if not any(prompt.strip() in content for _, content in shared):
            raise InputError('"prompt" is not in the messages of chosen')
    if not shared:
        raise InputError("there is no prompt, neither inside the messages nor beside them")
    return _written(shared), *answers


def _messages(name: str, given: list[Any]) -> list[Message]:
    messages = []
    for message in given:
        fields = message if isinstance(message, Mapping) else {}
        role, content = (fields.get(a, fields.get(b)) for a, b in (("role", "from"), ("content", "value")))
        if not isinstance(role, str) or role not in ROLES or not isinstance(content, str):
            raise InputError(f'{name} holds {shown(message)}: give messages with a role (user, assistant or system) '
                             "and a content that is text")
        messages.append((ROLES[role], content))
    return messages


def _written(messages: list[Message]) -> str:
    """One message of the user as its text, several messages as a conversation that ends where the answer begins."""
    if len(messages) == 1 and messages[0][0] == "user":
        return messages[0][1]
    turns = {"user": HUMAN + " ", "assistant": ASSISTANT + " ", "system": ""}
    return "".join(turns[role] + content for role, content in messages) + ASSISTANT
