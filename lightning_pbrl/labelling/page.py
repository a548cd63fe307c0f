"""Labelling page: a FastAPI application in front of a desk and its clips; it keeps nothing itself."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.exceptions import HTTPException

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling import security, wording
from lightning_pbrl.labelling.filmed import filmed
from lightning_pbrl.labelling.interface import AnyDesk, Codec, Films, Key, OpenQuestion, Person
from lightning_pbrl.labelling.overview import overview_routes
from lightning_pbrl.labelling.review import review_routes
from lightning_pbrl.labelling.security import Access, Form, Guard, Refusal, access_of, asker
from lightning_pbrl.labelling.turns import Told, Turns

HERE = Path(__file__).parent
LOG = logging.getLogger(__name__)
THREADS = 2
"""Threads for films and for the researcher's pages, beside the one that serves the desk."""
SEEN = 10_000
"""Questions that are remembered for the requests about them that follow."""

NOT_STORED = "The answers cannot be stored at the moment: the page tries again by itself; leave it open and nothing is lost."
"""Sentence for a desk that fails (locked, disk full); its own sentence names files and goes to the log."""


class Given(BaseModel):
    """An answer as it is posted."""

    model_config = ConfigDict(extra="forbid")
    key: str = Field(max_length=400)
    choice: Literal["left", "right", "equal", "skip"] | StrictInt
    seconds: float = Field(ge=0, le=1e6, allow_inf_nan=False)
    revision: StrictInt = Field(ge=0, lt=2**31)
    strength: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repeat: bool = False


def app(
    desk: AnyDesk,
    clips: Films,
    *,
    task: str = "",
    strength: bool = False,
    hosts: Collection[str] = (),
    framed: bool = False,
    rate: float = 50.0,
    export: Callable[[], Iterable[str]] | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        desk: questions and answers.
        clips: films of the questions.
        task: description of what is good, for the people who answer.
        strength: whether "much better" is offered beside "better".
        hosts: further names under which the page may be called, beside those of the loopback.
        framed: whether a notebook on this machine may show the page in a frame.
        rate: requests per second that one person may make, with bursts of four times as many.
        export: lines of the label store's export, for the researcher; no link without it.
    """
    page = FastAPI(title="lightning-pbrl", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_few_threads)
    page.add_middleware(Guard, hosts=hosts, framed=framed)
    page.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    templates = Jinja2Templates(directory=HERE / "templates")
    page.state.access = Access(desk, rate)
    _add_refusals(page, templates)
    _add_links(page, templates)
    _add_questions(page, desk, clips)
    page.include_router(overview_routes(desk, templates, export))
    page.include_router(review_routes(desk, clips, templates))

    @page.get("/")
    def labelling(request: Request) -> Response:
        person = asker(request)
        token = request.cookies[security.cookie_name(request)]
        context = {"person": person, "task": task, "strength": strength, "csrf": security.csrf(token)}
        return templates.TemplateResponse(request, "label.html", context)

    return page


@asynccontextmanager
async def _few_threads(page: FastAPI) -> AsyncIterator[None]:
    """Answer requests in a few threads: more of them wait for each other, and an answer then costs twice the time."""
    current_default_thread_limiter().total_tokens = THREADS
    yield


def _add_links(page: FastAPI, templates: Jinja2Templates) -> None:
    """Add the way in: a personal link, consent, and the cookie.

    The cookie is set by the form, not by the link: browsers hold a strict cookie back from whatever a link in a mail leads to.
    """

    @page.get("/join/{token}")
    def join(request: Request, token: str) -> Response:
        context = {"person": access_of(request).owner(token, request), "token": token}
        return templates.TemplateResponse(request, "join.html", context)

    @page.post("/join")
    def consent(request: Request, form: Form) -> Response:
        security.check_origin(request)
        token = form.get("token", "")
        person = access_of(request).owner(token, request)
        response = RedirectResponse("/overview" if person.role == "researcher" else "/", 303)
        response.set_cookie(
            security.cookie_name(request),
            token,
            max_age=30 * 86400,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response


def _add_questions(page: FastAPI, desk: AnyDesk, clips: Films) -> None:
    """Add what the script on the page asks for."""
    seen: dict[tuple[Key, str, bool], OpenQuestion] = {}  # their kind, sides and expected answers do not change
    turns = Turns(desk)

    def described(question: OpenQuestion, person: Person) -> dict[str, Any]:
        if len(seen) >= SEEN:
            seen.clear()
        seen[question.key, person.name, question.repeat] = question
        return wording.described(question, clips, desk.bins(question.key.run) if question.kind == "rating" else 0)

    def known(key: str, person: Person, repeat: bool) -> OpenQuestion:
        if (question := desk.question(wording.parsed(key), person.name, repeat)) is None:
            raise Refusal(404, wording.OUTCOMES["unknown"])
        return question

    def shown(key: str, person: Person, repeat: bool) -> OpenQuestion:
        return seen.get((wording.parsed(key), person.name, repeat)) or known(key, person, repeat)

    def questions(request: Request, without: list[str]) -> Response:
        person = asker(request)
        found = [described(each, person) for each in desk.next(person.name, 2, [wording.parsed(key) for key in without])]
        progress = desk.progress(person.name)
        ended = None if found or progress.open else desk.ended()
        return JSONResponse({"questions": found, "progress": wording.counted(progress, ended), "over": wording.OVER[ended]})

    def question(request: Request, key: str, repeat: bool) -> Response:
        person = asker(request)
        return JSONResponse(described(known(key, person, repeat), person))

    def last(request: Request) -> Response:
        person = asker(request)
        found = desk.last(person.name)
        nothing = {"key": None, "sentence": "There is no answer of yours to undo yet."}
        return JSONResponse(nothing if found is None else described(found, person))

    def answer(request: Request, given: Given) -> Told:
        person = asker(request)
        access_of(request).check_csrf(request, request.headers.get("x-csrf-token", ""))
        question = shown(given.key, person, given.repeat)
        levels = desk.bins(question.key.run) if question.kind == "rating" else 0
        value, status = wording.stored(question, given.choice, levels, given.strength)
        kept = desk.answer(
            person.name,
            question.key,
            value,
            status,
            seconds=given.seconds,
            revision=given.revision,
            strength=given.strength if wording.places(question) == 2 and status == Status.ANSWERED else None,
            repeat=given.repeat,
        )

        def told() -> Response:
            content = wording.outcome(question, kept, given.choice, desk.progress(person.name))
            return JSONResponse(content, {"kept": 200, "again": 200, "unknown": 404}.get(kept.how, 409))

        return told

    @page.get("/questions")
    async def get_questions(request: Request, without: Annotated[list[str] | None, Query(max_length=8)] = None) -> Response:
        return await turns.take(questions, request, without or [])

    @page.get("/questions/{key:path}")
    async def get_question(request: Request, key: str, repeat: bool = False) -> Response:
        return await turns.take(question, request, key, repeat)

    @page.get("/last")
    async def get_last(request: Request) -> Response:
        return await turns.take(last, request)

    @page.post("/answers")
    async def post_answer(request: Request, given: Given) -> Response:
        return await turns.keep(partial(answer, request, given))

    @page.get("/clips/{key:path}/{place:int}.{codec}")
    async def get_clip(request: Request, key: str, place: int, codec: Codec, repeat: bool = False) -> Response:
        person = access_of(request).recent(request)
        question = None if person is None else seen.get((wording.parsed(key), person.name, repeat))
        made = None
        if question is not None and place < wording.places(question):
            made = filmed(request, clips.made(question, wording.which(question, place), codec), f"video/{codec}")
        return made or await turns.take(clip, request, key, place, codec, repeat)

    def clip(request: Request, key: str, place: int, codec: Codec, repeat: bool) -> Response:
        question = shown(key, asker(request), repeat)
        if place >= wording.places(question):
            raise Refusal(404, "There is no such clip.")
        try:
            response = filmed(request, clips.path(question, wording.which(question, place), codec), f"video/{codec}")
        except UserError as error:
            raise Refusal(404, security.without_paths(str(error))) from error
        if response is None:
            raise Refusal(404, "This clip is still being made: the page shows it as soon as it is there.")
        return response


def _add_refusals(page: FastAPI, templates: Jinja2Templates) -> None:
    """Let every refusal be one sentence: as a page where a person looks, as JSON where the script asks."""

    def said(request: Request, status: int, sentence: str, headers: Any = None) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return templates.TemplateResponse(request, "message.html", {"sentence": sentence}, status, headers)
        return JSONResponse({"sentence": sentence}, status, headers)

    @page.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        named = {404: "There is nothing at this address: open the page by your link.", 405: "This address is not used that way."}
        sentence = error.detail if isinstance(error, Refusal) else named.get(error.status_code, "The request cannot be read.")
        return said(request, error.status_code, sentence, error.headers)

    @page.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        field = next((str(part) for part in error.errors()[0]["loc"][1:2]), "body")
        return said(request, 422, f"The request has no usable {field!r}: nothing was stored; reload the page and try again.")

    @page.exception_handler(UserError)
    def failing(request: Request, error: UserError) -> Response:
        LOG.warning("%s", error)
        return said(request, 503, NOT_STORED, {"Retry-After": "1"})
