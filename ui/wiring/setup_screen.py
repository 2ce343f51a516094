"""What the Setup tab looks like for one request: from a place in it to the new content of its components.

A place belongs to one browser; jobs live on disk, so every browser and every reload sees the same ones. Knows nothing
about events, and nothing about how a card is drawn.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2s
from typing import Any

import gradio as gr

from backend.fit.reach import sized
from backend.hardware import anonymous
from backend.jobs.stock import Stored
from backend.jobs.view import JobState, JobView
from backend.services import DownloadChoice, Services
from backend.text import say
from ui.access import is_admin, language
from ui.render.downloads import stored_list
from ui.render.jobs import RESUMABLE, See, job_card, jobs_banner, jobs_list
from ui.render.machine import machine_line, machine_station, next_step, reach
from ui.render.markup import remark
from ui.render.path import path_line
from ui.render.recipes import recipe_gallery
from ui.render.remedies import Means
from ui.views.setup import FAST_S, SLOW_S, SetupView
from ui.wiring.setup_gallery import Gallery
from ui.wiring.setup_place import Place

Updates = dict[Any, Any]  # component -> its new value or properties


@dataclass(frozen=True)
class _Card:
    """A card's content, and a mark that changes whenever it does; drawing may cost more than knowing the mark."""

    mark: str
    draw: Callable[[], str]


def _drawn(html: str) -> _Card:
    return _Card(_hash(html), lambda: html)


def _hash(*parts: object) -> str:
    return blake2s("\n".join(map(str, parts)).encode("utf-8", "replace"), digest_size=6).hexdigest()


class Screen:
    """Draws the tab for one request: what a place looks like now, in the visitor's language and with their rights."""

    def __init__(self, view: SetupView, services: Services, request: gr.Request, gallery: Gallery) -> None:
        self.view, self.services, self._gallery = view, services, gallery
        self.language, self.admin = language(request), is_admin(request)
        self.jobs = services.jobs.views()
        self.choice: DownloadChoice | None = None
        self.models = services.models()
        self.shelf = {model.name: model for model in self.models if model.problem is None}

    def find(self, job: str) -> JobView | None:
        """Return a job by its id."""
        return next((one for one in self.jobs if one.id == job), None)

    def landing(self) -> Place:
        """Return where a fresh page belongs: at a set-up that runs; at the machine where nothing has been set up yet;
        else at the choice, where a line tells of a set-up that stopped.
        """
        for job in self.jobs:
            if job.state.is_active:
                return Place("run", job=job.id)
        return Place("choose" if self.models or self.jobs else "machine")

    def _machine(self, place: Place) -> str:
        words, found = self.language, self._gallery.hardware()
        shown = found if self.admin else anonymous(found)
        offers = self._gallery.offers(self.jobs, list(self.shelf.values()))
        means = reach(sized((one.recipe, one.outlook) for one in offers), words, brief=place.stage != "machine")
        looked = say(words, "setup.hardware.looked", time=time.strftime("%H:%M:%S"))
        if place.stage != "machine":
            return machine_line(shown, means, words, looked=looked)
        following = next_step(offers, words, admin=self.admin)
        return machine_station(shown, means, words, looked=looked, following=following)

    def _choice(self) -> str:
        offers = self._gallery.offers(self.jobs, list(self.shelf.values()))
        problems = self.services.recipe_problems()
        return recipe_gallery(offers, self.language, admin=self.admin, problems=problems)

    def _watched(self) -> str:
        """Return a mark of everything that a gallery shows and that changes by itself."""
        making = [(job.id, job.model) for job in self.jobs if job.state.is_active]
        own = self.services.settings.recipes_dir
        changed = own.stat().st_mtime_ns if own.is_dir() else 0
        return _hash(making, sorted(self.shelf), changed)

    def headed(self, key: str, card: str) -> str:
        """Return a card below its heading."""
        return f"<h2>{say(self.language, key)}</h2>{card}"

    @cached_property
    def _stock(self) -> tuple[Stored, ...]:
        """The downloads on the disk; what lies there is for administrators to know."""
        return self.services.stock.all() if self.admin else ()

    def stored(self) -> str:
        """Return the downloads on the disk as a list."""
        return stored_list(self._stock, self.language) if self.admin else ""

    def _job(self, job: JobView | None, place: Place) -> str:
        words = self.language
        if job is None:
            return remark(say(words, "job.unknown.say", job=place.job), say(words, "job.unknown.hint"), kind="warn")
        stored, means = 0, Means()
        if job.state in RESUMABLE and self.admin:
            stored = self.services.stock.of_job(job.id)
            means = self._means(job)
        see = See(self.admin, job.model in self.shelf, stored, means, self._loads(job))
        return job_card(job, words, see)

    def _means(self, job: JobView) -> Means:
        unused = sum(one.bytes for one in self._stock if one.is_unused)
        plan = self.services.jobs.plan(job.id)
        return Means(unused, bool(plan.remotes) and plan.keep_sources, self.free_name(job.model))

    def _loads(self, job: JobView) -> str:
        if job.state is not JobState.DONE or job.model not in self.shelf:
            return ""
        bits = self.services.best_options(job.model).bits
        return say(self.language, "wizard.loads_bits", bits=bits) if bits != 16 else ""

    def _cards(self, place: Place) -> dict[Any, _Card]:
        """Return every card that changes by itself."""
        view, words, job = self.view, self.language, self.find(place.job)
        at = f"{place.stage} {words} {self.admin}"
        reached = {"machine", "choose", *(["run"] if job else []), *(["chat"] if self.shelf else [])}
        elsewhere = [one for one in self.jobs if place.stage != "run" or one.id != place.job]
        path = path_line(place.stage, words, reached=frozenset(reached), recipe=place.recipe, job=place.job)
        choosing = place.stage == "choose"
        first = self._watched() if place.stage in {"machine", "choose"} else ""
        history = jobs_list(self.jobs, words, admin=self.admin, damaged=self.services.jobs.damaged())
        return {
            view.path: _drawn(path),
            view.banner: _drawn(jobs_banner(elsewhere, words)),
            view.machine: _Card(_hash(at, first if place.stage == "machine" else ""), lambda: self._machine(place)),
            view.gallery: _Card(_hash(at, first), self._choice if choosing else lambda: ""),
            view.job: _drawn(self.headed("setup.job.heading", self._job(job, place)) if place.stage == "run" else ""),
            view.history: _drawn(history),
            view.stored: _drawn(self.stored()),
        }

    def changed(self, place: Place, seen: str) -> Updates:
        """Return the cards that differ from what this browser has ``seen``, and the pace at which to ask again."""
        old = seen.split(" ")
        cards = self._cards(place)
        updates: Updates = {}
        for number, (component, card) in enumerate(cards.items()):
            if number >= len(old) or old[number] != card.mark:
                updates[component] = card.draw()
        if updates:
            busy = any(job.state.is_active for job in self.jobs)
            marks = " ".join(card.mark for card in cards.values())
            shown = bool(self.jobs or self.services.jobs.damaged())
            updates |= {
                self.view.at_seen: marks,
                self.view.timer: gr.Timer(FAST_S if busy else SLOW_S),
                self.view.history_box: gr.Accordion(visible=shown),
                self.view.stored_box: gr.Accordion(visible=bool(self._stock)),
            }
        return updates

    def go(self, place: Place) -> Updates:
        """Return everything that brings a browser to a place."""
        view = self.view
        return {
            **self.changed(place, ""),
            view.choose: gr.Column(visible=place.stage == "choose"),
            view.plan: gr.Column(visible=place.stage == "plan"),
            view.run: gr.Column(visible=place.stage == "run"),
            view.receipt: "",  # what was typed into another receipt must not stay
            view.plan_problem: "",
            view.at_stage: place.stage,
            view.at_recipe: place.recipe,
            view.at_job: place.job,
        }

    def look_again(self, place: Place) -> Updates:
        """Look at the machine anew."""
        if self.admin:
            self.services.prospects.measure_later(self.services.settings.models_dir, again=True)
        self._gallery.hardware(oldest_s=0.0)
        return self.changed(place, "")

    def free_name(self, wanted: str) -> str:
        """Return a name that no model has and none is being made under."""
        taken = {model.name for model in self.models}
        taken |= {job.model for job in self.jobs if job.state.is_active}
        names = [wanted, *(f"{wanted}-{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if name not in taken)
