"""All that a server keeps, opened and closed together."""

from __future__ import annotations

from headrace.server.settings import ServerSettings
from headrace.server.stored.folder import Folder
from headrace.server.stored.responses import ResponseStore

_DAY = 86_400


class Kept:
    """The stores of one server."""

    def __init__(self, settings: ServerSettings) -> None:
        """Open the folder, if there is to be one.

        Raises:
            ConfigError: it cannot be written, or is another server's.
        """
        self._folder = None if settings.store_folder is None else Folder(settings.store_folder)
        self.responses = ResponseStore(
            settings.max_stored_responses,
            settings.max_stored_response_bytes,
            settings.max_stored_days * _DAY,
            self._folder if settings.keep_responses else None,
        )

    def close(self) -> None:
        """Finish what is being written, and give the folder back."""
        if self._folder is not None:
            self._folder.close()
