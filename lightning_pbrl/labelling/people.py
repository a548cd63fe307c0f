"""The people who may answer: a name, a role and the hash of a secret link."""

from __future__ import annotations

import hashlib
import hmac
import secrets

import sqlalchemy as sa

from lightning_pbrl.data.database import Database
from lightning_pbrl.data.outcomes import now
from lightning_pbrl.data.tables import PERSONS
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.interface import Person, Role

LONGEST_NAME = 64
"""Largest number of characters of a person's name."""


class People(Database):
    """The people of a label store."""

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
        return token

    def people(self) -> list[Person]:
        """Return everyone who was invited."""
        with self._reading() as db:
            return [Person(row.name, row.role) for row in db.execute(sa.select(PERSONS).order_by(PERSONS.c.name))]

    def person(self, token: str) -> Person | None:
        """Return the person whose token this is; None for an unknown one. Compares every person's, in constant time."""
        given, found = _hash(token), None
        with self._reading() as db:
            for row in db.execute(sa.select(PERSONS)).all():
                if hmac.compare_digest(row.token, given):
                    found = Person(row.name, row.role)
        return found


def _hash(token: str) -> str:
    """Return the hash of a token as the store keeps it."""
    return hashlib.sha256(token.encode()).hexdigest()
