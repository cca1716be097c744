"""What the frameworks are asked to give an answer the shape of."""

from __future__ import annotations

from pydantic import BaseModel


class Pet(BaseModel):
    """A pet."""

    name: str
    is_big: bool
