"""`headrace run`: text from one prompt, or a conversation on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.options import (
    Text,
    debug_option,
    engine_options,
    parse_token_ids,
    sampling_options,
    structure_options,
)
from headrace.config import EngineConfig

if TYPE_CHECKING:
    from headrace.cli.conversation import Conversation

BUNDLED = "stories"
OPENING = "Once upon a time"
"""What the bundled model goes on from when nobody says anything"""


@click.command(short_help="Stream text, or chat.")
@click.argument("model", default=BUNDLED)
@click.argument("prompt", type=Text(), required=False)
@click.option("--system", type=Text(), metavar="TEXT", help="System message of the conversation.")
@click.option("--raw", is_flag=True, help="Continue the prompt's text; do not use the model's chat template.")
@click.option("--token-ids", is_flag=True, help="PROMPT is token ids, and so is the output; no tokenizer is used.")
@click.option(
    "--chat-template",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Jinja template to use instead of the model's own.",
)
@sampling_options
@structure_options
@engine_options
@click.option(
    "--lora",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="LoRA adapter (PEFT's folder) to answer with.",
)
@click.option("-q", "--quiet", is_flag=True, help="Only the text: no thoughts, no status lines.")
@debug_option
def run(
    model: str,
    prompt: str | None,
    *,
    system: str | None,
    raw: bool,
    token_ids: bool,
    chat_template: Path | None,
    lora: Path | None,
    sampling: dict[str, Any],
    config: EngineConfig,
    quiet: bool,
) -> None:
    """Stream MODEL's answer to PROMPT; a chat on a terminal without PROMPT.

    MODEL is "stories" if it is left out. Without PROMPT, or with "-", the prompt is read from a pipe (one newline at
    its end is left out). A PROMPT that is given is all there is: a pipe is not read then. A model with a chat template
    answers PROMPT as a message; one without continues it. Sampling defaults are the model's own.

    Text goes to stdout, everything else to stderr, thoughts of a model that thinks too.
    """
    _check_combination(system=system, raw=raw, token_ids=token_ids, chat_template=chat_template)
    _check_name(model, prompt)
    stdin_is_terminal = sys.stdin is None or sys.stdin.isatty()
    is_interactive = prompt is None and stdin_is_terminal and sys.stdin is not None and sys.stdout.isatty()
    text = None if is_interactive else _read_prompt(prompt, stdin_is_terminal=stdin_is_terminal)
    if text is None and model != BUNDLED and not is_interactive:
        raise click.UsageError(f"no prompt for {model}: give PROMPT, pipe one in, or run on a terminal to chat")
    _check_values(sampling, text if token_ids else None)
    from headrace.cli.conversation import Settings, load_conversation

    settings = Settings(system=system, raw=raw, token_ids=token_ids, sampling=sampling, is_quiet=quiet, lora=lora)
    with load_conversation(model, config, chat_template, settings) as conversation:
        _answer(conversation, model, text, is_interactive=is_interactive)


def _answer(conversation: Conversation, model: str, text: str | None, *, is_interactive: bool) -> None:
    if text is not None:
        conversation.answer(text)
        return
    if model == BUNDLED and not conversation.settings.token_ids:
        conversation.tell(OPENING)
    if is_interactive:
        from headrace.cli.chat import chat

        chat(conversation)


def _check_combination(*, system: str | None, raw: bool, token_ids: bool, chat_template: Path | None) -> None:
    for plain, is_plain in (("--raw", raw), ("--token-ids", token_ids)):
        for chatty, value in (("--system", system), ("--chat-template", chat_template)):
            if is_plain and value is not None:
                raise click.UsageError(f"{chatty} belongs to chat, and {plain} turns chat off; leave one of them out")


def _check_values(sampling: dict[str, Any], token_ids: str | None) -> None:
    """What can be wrong without a model is said before one is loaded, which may take minutes."""
    from headrace.sampling_params import SamplingParams

    SamplingParams(**sampling)
    if token_ids is not None:
        parse_token_ids(token_ids)


def _check_name(model: str, prompt: str | None) -> None:
    """A prompt in the place of the model is a likely mistake: say so instead of that there is no such model."""
    if prompt is None and len(model.split()) > 1 and not Path(model).exists():
        raise click.UsageError(f'{model!r} is not a model; for a prompt, name the model first: run {BUNDLED} "…"')


def _read_prompt(prompt: str | None, *, stdin_is_terminal: bool) -> str | None:
    """PROMPT or what the pipe holds; None when there is neither."""
    if prompt is not None and prompt != "-":
        if not prompt:
            raise click.UsageError("PROMPT is empty, expected some text")
        return prompt
    if sys.stdin is None or (stdin_is_terminal and prompt is None):
        return None
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the prompt on stdin is not UTF-8 ({error.reason} at byte {error.start})") from error
    if not text and prompt == "-":
        raise click.UsageError("the prompt on stdin is empty")
    return text or None
