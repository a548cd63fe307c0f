"""Overview for the researcher: who answered how many questions, how fast and how alike; pausing, closing, export."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from fastapi.templating import Jinja2Templates

from lightning_pbrl.labelling import security, wording
from lightning_pbrl.labelling.interface import AnyDesk
from lightning_pbrl.labelling.security import Form, Refusal, access_of


def overview_routes(desk: AnyDesk, templates: Jinja2Templates, export: Callable[[], Iterable[str]] | None) -> APIRouter:
    """Return the routes of the overview; all are for researchers only."""
    routes = APIRouter()

    @routes.get("/overview")
    def overview(request: Request) -> Response:
        person = access_of(request).researcher(request)
        token = request.cookies[security.cookie_name(request)]
        context = {
            "person": person,
            "overview": desk.overview(),
            "waits_for": desk.progress(person.name).waits_for,
            "csrf": security.csrf(token),
            "export": export is not None,
        }
        return templates.TemplateResponse(request, "overview.html", context)

    @routes.post("/overview/close")
    def close(request: Request, form: Form) -> Response:
        person = access_of(request).researcher(request)
        access_of(request).check_csrf(request, form.get("csrf", ""))
        key = wording.parsed(form["key"].strip()) if form.get("what") == "one" and form.get("key") else None
        if form.get("what") not in ("one", "all") or (form["what"] == "one") != (key is not None):
            raise Refusal(422, "Name the question as run/round/number, as it stands below the clips: nothing was changed.")
        if key is not None and desk.question(key, person.name) is None:
            raise Refusal(404, f"There is no question {key}: nothing was changed.")
        desk.close(key, closed=form.get("closed") == "yes")
        return RedirectResponse("/overview", 303)

    @routes.get("/overview/export")
    def export_answers(request: Request) -> Response:
        access_of(request).researcher(request)
        if export is None:
            raise Refusal(404, "This page was started without an export: use `lightning-pbrl labels export`.")
        headers = {"Content-Disposition": 'attachment; filename="labels.jsonl"'}
        return StreamingResponse(export(), media_type="application/x-ndjson", headers=headers)

    return routes
