"""The conversation on a terminal: a line editor around `Conversation`."""

from __future__ import annotations

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent

from headrace.cli.conversation import Conversation
from headrace.errors import HeadraceError

HELP = """\
/help    this help
/clear   forget the conversation
/exit    leave (or Ctrl-D)

Enter sends, Alt-Enter begins a new line; a pasted text may have many lines.
Up and Down go through what you typed. Ctrl-C stops an answer.
A line that begins with / is a command; put a space before it to send it."""


def chat(conversation: Conversation) -> None:
    """Ask for prompts and stream answers until Ctrl-D or /exit; errors are a line, and it goes on."""
    session: PromptSession[str] = PromptSession(history=InMemoryHistory(), multiline=True, key_bindings=_keys())
    conversation.status.say("/help lists the commands, Ctrl-D leaves")
    while True:
        try:
            text = session.prompt(HTML("<b>&gt;&gt;&gt; </b>"), prompt_continuation=_continuation)
        except KeyboardInterrupt:
            continue  # a line thrown away
        except EOFError:
            return
        if text.startswith("/"):
            if not _obey(conversation, text.strip()):
                return
        elif text.strip():
            _answer(conversation, text)


def _answer(conversation: Conversation, text: str) -> None:
    try:
        conversation.answer(text)
    except KeyboardInterrupt:
        conversation.status.say("stopped")
    except (HeadraceError, click.UsageError) as error:
        conversation.status.error(error)


def _obey(conversation: Conversation, command: str) -> bool:
    """Do what a command says; False to leave."""
    match command.lower():
        case "/exit" | "/quit" | "/bye":
            return False
        case "/help" | "/?":
            click.echo(HELP, err=True)
        case "/clear":
            conversation.clear()
            conversation.status.say("the conversation is forgotten")
        case _:
            click.echo(f"no command {command.split(maxsplit=1)[0]}; /help lists them", err=True)
    return True


def _continuation(_width: int, _line: int, wraps: int) -> str:
    """What stands before a further line; nothing where a long line is only wrapped."""
    return "" if wraps else "... "


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter is a new line."""
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
