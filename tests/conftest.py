"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing on a busy one
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers that tests start keep their files to themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> None:
    """httpx's clients wait for 5 s where nothing is said; a machine that has other work needs more."""
    from httpx._config import DEFAULT_TIMEOUT_CONFIG

    DEFAULT_TIMEOUT_CONFIG.__init__(60.0)  # type: ignore[misc]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The read-only material beside the project's root; a user's checkout does not have it."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs the material in ../shared, which is not part of the project")
    return path


@pytest.fixture(scope="session")
def spec_schemas(shared: Path) -> dict[str, Any]:
    """The schemas of OpenAI's OpenAPI document."""
    yaml = pytest.importorskip("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schemas: dict[str, Any] = yaml.load((shared / "data/specs/openai.yaml").read_text(), Loader=loader)["components"][
        "schemas"
    ]
    return schemas
