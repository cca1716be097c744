"""The text side of a model: its tokenizer and its chat template, and what they mean for prompts and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headrace.engine.constraint import Constraint
from headrace.errors import DamagedFile, MissingChatTemplate, RequestError
from headrace.hub.files import ModelFiles
from headrace.model.loader import read_spec
from headrace.prompts import Message
from headrace.sampling_params import SamplingParams
from headrace.text.answer import AnswerFormat, Reading, answer_format
from headrace.text.chat import ChatTemplate, load_chat_template
from headrace.text.folder_vocab import configured_end_ids
from headrace.text.restrictions import Restrictions
from headrace.text.thinking import effort_means
from headrace.text.tokenizer import Tokenizer
from headrace.text.tools.definitions import ToolChoice, read_tools
from headrace.types import Request


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A conversation as the engine gets it, and how the answers to it are read."""

    token_ids: list[int]
    reading: Reading
    text: str = ""
    """As the chat template wrote it"""


class ModelText:
    """What a model's files say about text; none of it needs the weights.

    Args:
        files: The model.
        chat_template: A Jinja file to use instead of the model's own template.

    Raises:
        ModelError: the files cannot be read, or say what is not implemented.
    """

    def __init__(self, files: ModelFiles, chat_template: Path | None = None) -> None:
        self.files = files
        self.name = files.name
        """What the user called the model"""
        self.spec = read_spec(files)
        self.chat_template = load_chat_template(files, chat_template)
        """None for a model without one"""
        generation_config = files.read_json("generation_config.json") or {}
        self.recommended = recommended_sampling(generation_config)
        """What the model's generation_config says of sampling, by the names of SamplingParams"""
        self.default_params = default_params(generation_config, files.name)
        """The same with SamplingParams' own defaults for the rest, for 16 tokens"""

    def build_tokenizer(self) -> None:
        """Begin to build the tokenizer in a thread: half a second for 10^5 tokens, as long as weights take."""
        _ = self._building

    @cached_property
    def _building(self) -> Future[Tokenizer | None]:
        thread = ThreadPoolExecutor(1, "headrace-tokenizer")
        building = thread.submit(Tokenizer.from_files, self.files)
        thread.shutdown(wait=False)
        return building

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """None for a folder without a tokenizer, which runs on token ids.

        Raises:
            ModelError: its files cannot be read, or say what is not implemented.
        """
        return self._building.result()

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        """What ends a text."""
        return configured_end_ids(self.files) if self.tokenizer is None else self.tokenizer.eos_token_ids

    @cached_property
    def restrictions(self) -> Restrictions:
        """The grammars over the model's vocabulary."""
        return Restrictions(self.tokenizer, self.spec.vocab_size, self.eos_token_ids)

    def new_constraint(self, request: Request) -> Constraint | None:
        """A fresh constraint for one sequence of a request; None if nothing restricts it."""
        if request.grammar is None and request.thinking is None:
            return None  # and the tokenizer is not needed
        return self.restrictions.new_constraint(request)

    @cached_property
    def answer_format(self) -> AnswerFormat:
        """How the model writes thoughts and tool calls, as far as its chat template shows."""
        return AnswerFormat() if self.chat_template is None else answer_format(self.chat_template)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        reasoning_effort: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        add_special_tokens: bool = False,
    ) -> EncodedChat:
        """A conversation through the model's chat template, or the Jinja text `chat_template`.

        Templates write their special tokens themselves; `add_special_tokens` adds the tokenizer's own around them.

        Raises:
            MissingChatTemplate: the model has none.
            RequestError: the template refuses the messages, knows no tools, or does not read `documents`.
        """
        template = self.chat_template
        if chat_template is not None and self.tokenizer is not None:
            template = ChatTemplate.of_request(chat_template, self.tokenizer.special_tokens)
        if template is None or self.tokenizer is None:
            raise MissingChatTemplate(
                f"{self.name} has no chat template; give one with --chat-template FILE, or use completions",
                param="messages",
            )
        asked = read_tools(tools, tool_choice, is_parallel=parallel_tool_calls)
        format_ = self.answer_format if template is self.chat_template else answer_format(template)
        if asked is not None and not format_.has_calls:
            raise RequestError(
                f"the chat template of {self.name} knows no tools; leave tools out, or give a template that does with"
                " --chat-template FILE",
                param="tools",
            )
        variables, budget = effort_means(reasoning_effort, template, format_)
        text = template.render(
            messages,
            tools=None if asked is None else asked.definitions,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs={**variables, **(chat_template_kwargs or {})},
        )
        reading = Reading(
            format_,
            in_thought=format_.opens_thought(text),
            has_closed=format_.closes_thought(text),
            tools=asked.schemas if asked is not None and asked.choice != "none" else None,
            asked=asked,
            budget=budget,
        )
        return EncodedChat(self.tokenizer.encode(text, add_special_tokens=add_special_tokens), reading, text)


def recommended_sampling(generation_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model's generation_config.json recommends, as vLLM reads it; greedy where it says so."""
    known = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    values = {name: generation_config[name] for name in known if generation_config.get(name) is not None}
    if generation_config.get("do_sample") is False:
        return {"temperature": 0.0, "repetition_penalty": values.get("repetition_penalty", 1.0)}
    return values


def default_params(generation_config: Mapping[str, Any], source: str) -> SamplingParams:
    """The sampling that a model's generation_config.json recommends; SamplingParams' defaults for the rest.

    Raises:
        DamagedFile: it recommends what makes no sense.
    """
    try:
        return SamplingParams(**recommended_sampling(generation_config))
    except RequestError as error:
        raise DamagedFile(f"{source}: generation_config.json: {error}") from error
