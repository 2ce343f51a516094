"""What the Setup tab looks like for one request: from a place in it to the new content of its components.

A place (stage, recipe looked at, job watched) belongs to one browser; jobs live on disk, so every browser and every
reload sees the same ones. Knows nothing about events, and nothing about how a card is drawn.
"""

import time
from dataclasses import dataclass, replace
from hashlib import blake2s
from typing import Any

import gradio as gr

from backend.errors import CriaError
from backend.hardware import anonymous
from backend.jobs.view import JobState, JobView
from backend.plan import Plan, check_plan, make_plan
from backend.services import DownloadChoice, Services
from backend.text import say
from ui.access import is_admin, language
from ui.render.downloads import stored_list
from ui.render.hardware import hardware_card
from ui.render.jobs import ACTIVE, RESUMABLE, job_card, jobs_banner, jobs_list
from ui.render.markup import problem, remark
from ui.render.path import path_line
from ui.render.plan import plan_receipt
from ui.render.recipes import Offer, recipe_gallery
from ui.views.setup import FAST_S, SLOW_S, SetupView

Updates = dict[Any, Any]  # component -> its new value or properties


@dataclass(frozen=True)
class Place:
    """Where one browser stands. ``recipe`` is empty while the form is what is being planned."""

    stage: str = "choose"
    recipe: str = ""
    job: str = ""


class Screen:
    """Draws the tab for one request: what a place looks like now, in the visitor's language and with their rights."""

    def __init__(self, view: SetupView, services: Services, request: gr.Request) -> None:
        self.view, self.services = view, services
        self.language, self.admin = language(request), is_admin(request)
        self.jobs = services.jobs.views()
        self.choice: DownloadChoice | None = None
        self.shelf = {model.name: model for model in services.models() if model.problem is None}

    def find(self, job: str) -> JobView | None:
        return next((one for one in self.jobs if one.id == job), None)

    def landing(self) -> Place:
        """Return where a fresh page belongs: at the newest set-up while that is not done, else at the choice."""
        active = [job for job in self.jobs if job.state in ACTIVE]
        unfinished = [job for job in self.jobs[:1] if job.state is not JobState.DONE]
        for job in (*active, *unfinished):
            return Place("run", job=job.id)
        return Place()

    def machine(self) -> str:
        looked = say(self.language, "setup.hardware.looked", time=time.strftime("%H:%M:%S"))
        found = self.services.hardware()
        card = hardware_card(found if self.admin else anonymous(found), self.language)
        return self._headed("setup.hardware.heading", f'{card}<p class="figures" role="status">{looked}</p>')

    def _headed(self, key: str, card: str) -> str:
        return f"<h2>{say(self.language, key)}</h2>{card}"

    def _offers(self) -> list[Offer]:
        making = {job.model: job.id for job in self.jobs if job.state in ACTIVE}
        offers = []
        for recipe in self.services.recipes():
            model = self._made_from(recipe.name)
            try:
                if self.services.is_remote(recipe):  # a gallery must not wait for a server
                    offers.append(Offer(recipe, None, None, None, model, making.get(recipe.name)))
                    continue
                plan = make_plan(recipe)
                offers.append(Offer(recipe, plan.disk_bytes, plan.download_bytes, None, model, making.get(recipe.name)))
            except CriaError as error:
                offers.append(Offer(recipe, error=error, model=model))
        return offers

    def _made_from(self, recipe: str) -> str | None:
        """Return the model of that name, else the newest made from that recipe."""
        named = [recipe] if recipe in self.shelf else [one.name for one in self.shelf.values() if one.recipe == recipe]
        return named[0] if named else None

    def stored(self) -> str:
        """Return the downloads on the disk; what lies there is for administrators to know."""
        return stored_list(self.services.downloads(), self.language) if self.admin else ""

    def _card(self, job: JobView) -> str:
        stored = self.services.stored(job.id) if job.state in RESUMABLE else 0
        return job_card(job, self.language, admin=self.admin, on_shelf=job.model in self.shelf, stored=stored)

    def gallery(self) -> str:
        cards = recipe_gallery(self._offers(), self.language, admin=self.admin)
        return self._headed("setup.recipes.heading", cards)

    def cards(self, place: Place) -> dict[Any, str]:
        """Return every card that changes by itself, drawn anew."""
        view, words, job = self.view, self.language, self.find(place.job)
        reached = frozenset({"choose", *(["run"] if job else [])})
        elsewhere = [one for one in self.jobs if place.stage != "run" or one.id != place.job]
        gone = remark(say(words, "job.unknown.say", job=place.job), say(words, "job.unknown.hint"), kind="warn")
        card = self._card(job) if job else gone
        return {
            view.path: path_line(place.stage, words, reached=reached),
            view.banner: jobs_banner(elsewhere, words),
            view.gallery: self.gallery() if place.stage == "choose" else "",
            view.job: self._headed("setup.job.heading", card) if place.stage == "run" else "",
            view.history: jobs_list(self.jobs, words, admin=self.admin, damaged=self.services.jobs.damaged()),
            view.stored: self.stored(),
        }

    def changed(self, place: Place, seen: str) -> Updates:
        """Return the cards that differ from what this browser has ``seen``, and the pace at which to ask again."""
        old = seen.split(" ")
        cards = self.cards(place)
        marks = [blake2s(card.encode(), digest_size=6).hexdigest() for card in cards.values()]
        updates: Updates = {}
        for number, (component, card) in enumerate(cards.items()):
            if number >= len(old) or old[number] != marks[number]:
                updates[component] = card
        if updates:
            busy = any(job.state in ACTIVE for job in self.jobs)
            updates |= {self.view.at_seen: " ".join(marks), self.view.timer: gr.Timer(FAST_S if busy else SLOW_S)}
        return updates

    def go(self, place: Place) -> Updates:
        """Return everything that brings a browser to a place."""
        view = self.view
        return {
            **self.changed(place, ""),
            view.choose: gr.Column(visible=place.stage == "choose"),
            view.plan: gr.Column(visible=place.stage == "plan"),
            view.run: gr.Column(visible=place.stage == "run"),
            view.at_stage: place.stage,
            view.at_recipe: place.recipe,
            view.at_job: place.job,
        }

    def go_plan(self, plan: Plan, recipe: str, error: CriaError | None = None) -> Updates:
        """Bring a browser to a plan's receipt, with a free name for what it makes."""
        hardware, found = self.services.hardware(), None
        named = replace(plan, name=self._free_name(plan.name))
        if error is None:
            try:
                named, found = self.services.examine(named)
                check_plan(named, hardware, self.services.settings.models_dir)
            except CriaError as raised:
                error = raised
        return {
            **self.go(Place("plan", recipe=recipe)),
            self.view.receipt: self._headed(
                "setup.plan.heading",
                plan_receipt(named, hardware, self.language, found=found, coming=self.services.coming(named)),
            ),
            self.view.name: named.name,
            self.view.plan_problem: problem(error, self.language) if error else "",
        }

    def _free_name(self, wanted: str) -> str:
        taken = {model.name for model in self.services.models()}
        taken |= {job.model for job in self.jobs if job.state in ACTIVE}
        names = [wanted, *(f"{wanted}-{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if name not in taken)
