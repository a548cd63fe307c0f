"""The people who may answer: a name, a role and the hash of a secret link."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from lightning_pbrl.data.database import SharedDatabase
from lightning_pbrl.data.outcomes import now
from lightning_pbrl.data.tables import PERSONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.interface import Person, Role

FRESH = 0.5
"""Seconds for which people are remembered."""
LONGEST_NAME = 64
"""Largest number of characters of a person's name."""


class People(SharedDatabase):
    """The people of a label store.

    Args:
        path_or_url: the store, a file or a SQLAlchemy URL.
        pragmas: further SQLite settings.
    """

    def __init__(self, path_or_url: str | Path, pragmas: Mapping[str, int | str] | None = None) -> None:
        super().__init__(path_or_url, pragmas)
        self._persons: tuple[float, dict[str, Person]] = (-math.inf, {})

    def invite(self, name: str, role: Role = "labeller") -> str:
        """Return a new token for a person, whose old one stops working; the store keeps its hash alone.

        Raises:
            UserError: for an empty or very long name.
        """
        name = " ".join(name.split())
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise UserError(f"{name[:LONGEST_NAME]!r} is no name for a person: give 1 to {LONGEST_NAME} printable characters.")
        token = secrets.token_urlsafe(24)
        with self._writing() as db:
            db.execute(PERSONS.delete().where(PERSONS.c.name == name))
            db.execute(PERSONS.insert().values(name=name, token=_hash(token), role=role, time=now()))
        self._persons = (-math.inf, {})
        return token

    def people(self) -> list[Person]:
        """Return everyone who was invited."""
        with self._reading() as db:
            return [Person(row.name, row.role) for row in db.execute(sa.select(PERSONS).order_by(PERSONS.c.name))]

    def person(self, token: str) -> Person | None:
        """Return the person whose token this is; None for an unknown one.

        It is looked up by its hash, so that the time that this takes tells nothing about other tokens.
        """
        read, persons = self._persons
        if time.monotonic() - read > FRESH:
            read = time.monotonic()
            with self._reading() as db:
                persons = {row.token: Person(row.name, row.role) for row in db.execute(sa.select(PERSONS)).all()}
            self._persons = read, persons
        return persons.get(_hash(token))


def _hash(token: str) -> str:
    """Return the hash of a token as the store keeps it."""
    return hashlib.sha256(token.encode()).hexdigest()
