"""Guides in a terminal: the file's name stands above its content, and code is printed so that it can be copied."""

from __future__ import annotations

from typing import ClassVar

from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text


class _Code(CodeBlock):
    """A block of a guide without padding and with whole lines, under a line that says what it is: file or output."""

    label = ""

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> _Code:
        language, _, file = token.info.partition(" ")
        block = cls(language or "yaml", "ansi_dark")  # an indented block is a part of a file, or commands
        block.label = f"File {file}:" if file else "It prints:" if language == "text" else ""
        return block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.label:
            yield Text(self.label, style="bold")
        code = Syntax("", self.lexer_name, theme=self.theme, background_color="default").highlight(str(self.text))
        code.rstrip()
        code.no_wrap, code.overflow = True, "ignore"
        yield code


class _Guide(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = Markdown.elements | {"fence": _Code, "code_block": _Code}


def print_guide(text: str, screen: Console) -> None:
    """Print a guide's Markdown. A terminal folds long lines of code itself, so that they are copied whole."""
    screen.print(_Guide(text), crop=False)
