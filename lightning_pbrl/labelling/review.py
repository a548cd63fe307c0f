"""Review for the researcher: questions that have a label, each with its clips; nothing can be changed there."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates

from lightning_pbrl.labelling import wording
from lightning_pbrl.labelling.interface import AnyDesk, Films
from lightning_pbrl.labelling.security import Refusal, access_of


def review_routes(desk: AnyDesk, clips: Films, templates: Jinja2Templates) -> APIRouter:
    """Return the routes of the review; all are for researchers only."""
    routes = APIRouter()

    @routes.get("/review")
    def first(request: Request) -> Response:
        return page(request, "")

    @routes.get("/review/{key:path}")
    def page(request: Request, key: str) -> Response:
        person = access_of(request).researcher(request)
        found = desk.reviewed(wording.parsed(key) if key else None)
        if found is None:
            raise Refusal(
                404, "There is no such question with a label: begin at /review." if key else "No question has a label yet."
            )
        question = desk.question(found.question.key, person.name)
        if question is None:
            raise Refusal(404, wording.OUTCOMES["unknown"])
        following = None if found.after is None else desk.question(found.after, person.name)
        if following is not None:
            wording.described(following, clips, 0)  # so that its clips are made next
        shown = wording.described(question, clips, 0)
        films = shown["clips"][::-1] if question.swapped else shown["clips"]
        context = {"person": person, "found": found, "films": films, "waiting": shown["waiting"], "sentence": shown["sentence"]}
        return templates.TemplateResponse(request, "review.html", {**context, "label": wording.label(found.question)})

    return routes
