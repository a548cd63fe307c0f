"""A person at the page, over HTTP without a browser; needs the test client of the dev extra."""

from __future__ import annotations

from fastapi.testclient import TestClient

from lightning_pbrl.labelling import security
from lightning_pbrl.labelling.interface import AnyDesk, Films
from lightning_pbrl.labelling.page import app

ADDRESS = "http://localhost:8017"


class Visitor:
    """A browser of one person."""

    def __init__(
        self, desk: AnyDesk, clips: Films, name: str = "anna", role: str = "labeller", run: str = "run-1", **settings
    ) -> None:
        self.client = TestClient(app(desk, clips, **settings), base_url=ADDRESS, follow_redirects=False)
        self.run = run
        self.token = desk.invite(name, role)
        self.joined = self.client.post("/join", data={"token": self.token})
        self.csrf = security.csrf(self.token)

    def get(self, address: str, **headers: str):
        return self.client.get(address, headers=headers)

    def answer(self, number: int = 0, choice="left", revision: int = 0, csrf: str | None = None, **more):
        body = {"key": f"{self.run}/0/{number}", "choice": choice, "seconds": 1.5, "revision": revision, **more}
        return self.client.post("/answers", json=body, headers={"x-csrf-token": self.csrf if csrf is None else csrf})
