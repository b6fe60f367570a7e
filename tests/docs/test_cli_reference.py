"""docs/reference/cli.md is what the command line says of itself."""

from __future__ import annotations

import make_cli_reference


def test_the_page_of_commands_is_fresh() -> None:
    assert make_cli_reference.PAGE.read_text() == make_cli_reference.page(), "run scripts/make_cli_reference.py"


def test_every_command_says_what_it_does_and_shows_an_example() -> None:
    for words in make_cli_reference.commands():
        said = make_cli_reference.help_of(words)
        assert len(said.splitlines()) > 5, words
