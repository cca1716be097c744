"""The options of `headrace serve` are the settings of a server."""

from __future__ import annotations

from dataclasses import fields

from headrace.cli.serve import serve
from headrace.server.settings import ServerSettings

DECIDED_LATER = {"allowed_hosts", "store_folder"}
"""Options whose default depends on others, or on the environment"""


def test_defaults_are_those_of_the_settings() -> None:
    settings = {field.name: field.default for field in fields(ServerSettings)}
    given = serve.make_context("serve", ["stories"]).params
    shared = given.keys() & settings.keys() - DECIDED_LATER
    assert len(shared) > 15
    assert {name: given[name] or None for name in shared} == {name: settings[name] or None for name in shared}
