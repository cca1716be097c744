"""All that a server keeps, opened and closed together."""

from __future__ import annotations

import logging

from headrace.errors import ConfigError
from headrace.server.settings import ServerSettings
from headrace.server.stored.batches import BatchStore
from headrace.server.stored.errors import NothingKept
from headrace.server.stored.files import FileStore
from headrace.server.stored.folder import Folder
from headrace.server.stored.responses import ResponseStore

logger = logging.getLogger("headrace.server")

_DAY = 86_400


class Kept:
    """The stores of one server."""

    def __init__(self, settings: ServerSettings) -> None:
        """Open the folder, if there is to be one.

        Raises:
            ConfigError: it cannot be written, or is another server's (unless the settings say that it can be missed).
        """
        self._folder, self._trouble = _open(settings)
        seconds = settings.max_stored_days * _DAY
        self.responses = ResponseStore(
            settings.max_stored_responses,
            settings.max_stored_response_bytes,
            seconds,
            self._folder if settings.keep_responses else None,
        )
        self._files: FileStore | None = None
        self._batches: BatchStore | None = None
        if self._folder is not None:
            self._files = FileStore(self._folder, settings.max_stored_files, settings.max_stored_file_bytes, seconds)
            self._batches = BatchStore(self._folder, self._files, settings.max_batches, seconds)

    @property
    def files(self) -> FileStore:
        """The files.

        Raises:
            NothingKept: this server keeps none.
        """
        if self._files is None:
            raise NothingKept(self._trouble)
        return self._files

    @property
    def batches(self) -> BatchStore:
        """The batches.

        Raises:
            NothingKept: this server keeps none.
        """
        if self._batches is None:
            raise NothingKept(self._trouble)
        return self._batches

    @property
    def has_batches(self) -> bool:
        """Whether this server runs batches."""
        return self._batches is not None

    def close(self) -> None:
        """Finish what is being written, and give the folder back."""
        if self._folder is not None:
            self._folder.close()


def _open(settings: ServerSettings) -> tuple[Folder | None, str]:
    """The folder, or why there is none."""
    if settings.store_folder is None:
        return None, "This server keeps no files; it can be started with --store FOLDER"
    try:
        return Folder(settings.store_folder), ""
    except ConfigError as error:
        if not settings.store_is_optional:
            raise
        logger.warning("no files and batches: %s", error)
        return None, f"This server keeps no files: {error}"
