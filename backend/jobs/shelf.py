"""The shelf in use: every model with what is wrong with it, and what may be done to it while nobody needs it.

Joins the library (folders), set-ups and checks (jobs) and the engine's state, none of which knows the others. Knows
nothing about pages or terminals.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backend.engines.base import EngineState, EngineStatus
from backend.errors import JobError, UsageError
from backend.events import Progress
from backend.jobs.check import check_plan
from backend.jobs.manager import JobManager
from backend.jobs.view import JobView
from backend.library.adopt_gguf import adopt_gguf, find_gguf
from backend.library.asking import ask
from backend.library.changes import changing, delete_model, drop_converted, rename_model
from backend.library.condition import Condition, Way
from backend.library.looking import Looker
from backend.library.models import ModelInfo
from backend.text import Message

_GONE = frozenset({EngineState.OFF, EngineState.FAILED})
Ask = Callable[..., tuple[Message, ...]]


@dataclass(frozen=True)
class Shelved:
    """One model as people see it. ``found``: None while it is being looked at; ``check``: its newest check, if any;
    ``users``: the models that set-ups make of it now; ``is_loaded``: an engine has it, or is getting it.
    """

    info: ModelInfo
    found: Condition | None = None
    check: JobView | None = None
    users: tuple[str, ...] = ()
    is_loaded: bool = False

    @property
    def is_checking(self) -> bool:
        """Tell whether its files are being read again now."""
        return self.check is not None and self.check.state.is_active

    @property
    def is_free(self) -> bool:
        """Tell whether nobody needs the folder to stay as it is."""
        return not (self.is_loaded or self.users or self.is_checking)


class Shelf:
    """All models of one data folder. ``engine`` tells what is loaded; ``jobs`` are the set-ups."""

    def __init__(
        self,
        data_dir: Path,
        jobs: JobManager,
        engine: Callable[[], EngineStatus],
        *,
        looker: Looker | None = None,
        checks: JobManager | None = None,
        ask: Ask = ask,
    ) -> None:
        self._models_dir, self._jobs, self._engine, self._ask = data_dir / "models", jobs, engine, ask
        self._looker = looker or Looker(self._models_dir, data_dir / "checks" / "looked.json")
        self._checks = checks or JobManager(data_dir, worker="backend.jobs.checker", place="checks")

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the shelf, newest first; quick."""
        return self._looker.models()

    def shelved(self, *, look: bool = True, wait: bool = False) -> tuple[Shelved, ...]:
        """Return the shelf with everything that is known. With ``look`` new folders are looked into meanwhile, with
        ``wait`` before this returns.
        """
        checks = {view.model: view for view in reversed(self._checks.views())}
        needs, status = self._needs(), self._engine()
        loaded = "" if status.state in _GONE else status.model
        return tuple(
            Shelved(
                one.info,
                one.found,
                checks.get(one.info.id),
                tuple(model for folder, model in needs if folder == one.info.folder.resolve()),
                one.info.name == loaded,
            )
            for one in self._looker.looked(look=look, wait=wait)
        )

    def unsound(self, *, look: bool = False) -> frozenset[str]:
        """Return the names of the models in which a look found what no repair mends, as far as is known; quick. With
        ``look`` new folders are looked into meanwhile.
        """
        known = self._looker.looked(look=look)
        return frozenset(
            one.info.name for one in known if one.found and any(fault.way is not Way.MEND for fault in one.found.faults)
        )

    def model(self, name: str) -> ModelInfo:
        """Return one model by its name.

        Raises:
            UsageError: there is none; the message lists what there is.
        """
        return self.find(name).info

    def find(self, wanted: str) -> Shelved:
        """Return one model by its id or its name.

        Raises:
            UsageError: there is none; the message lists what there is.
        """
        every = self.shelved(look=False)
        found = next((one for one in every if wanted in (one.info.id, one.info.name)), None)
        if found is None:
            known = ", ".join(one.info.name for one in every if one.info.is_text) or "-"
            raise UsageError("library.unknown", name=wanted[:200], known=known)
        return found

    def rename(self, wanted: str, name: str) -> None:
        """Give a model another name.

        Raises:
            UsageError: there is none, it is in use, or the new name cannot be used.
            MachineError: the disk refused.
        """
        rename_model(self._free(wanted).info.folder, name.strip())

    def delete(self, wanted: str) -> None:
        """Delete a model for good.

        Raises:
            UsageError: there is none, or it is in use.
            MachineError: the disk refused.
        """
        found = self._free(wanted)
        delete_model(found.info.folder, in_use=False)
        self._forget_checks(found.info.id)

    def repair(self, wanted: str, *, template: str | None = None) -> tuple[Message, ...]:
        """Mend a model's small files; return what was found and put right.

        Raises:
            CriaError: it cannot be mended, or is in use.
        """
        return self._mend("repair", wanted, template)

    def undo(self, wanted: str) -> None:
        """Bring back a model's small files as they were before it was mended.

        Raises:
            CriaError: it was not mended, or is in use.
        """
        self._mend("undo", wanted, None)

    def adopt(self, given: str, name: str = "", *, may_copy: bool = True) -> Iterator[Progress | str]:
        """Put a ready-made GGUF on the shelf: a file, or a folder with one. Yields progress of a copy, in the end the
        model's name.

        Raises:
            CriaError: it is none, the name cannot be used, or the disk refused.
        """
        found = find_gguf(given, name)
        yield from adopt_gguf(found, self._models_dir, may_copy=may_copy)
        yield found.name

    def drop(self, wanted: str) -> int:
        """Delete what engines made of a model's weights for quicker loading; return the bytes.

        Raises:
            CriaError: the model is in use, or the disk refused.
        """
        found = self._free(wanted)
        with changing(self._models_dir):
            freed = drop_converted(found.info.folder)
        self._looker.forget(found.info.name)
        return freed

    def _mend(self, do: str, wanted: str, template: str | None) -> tuple[Message, ...]:
        found = self._free(wanted)
        if found.info.ready:
            raise UsageError("ggufready.no_repair", name=found.info.name)
        with changing(self._models_dir):
            notes = self._ask(do, found.info.folder, template=template)
        self._looker.forget(found.info.name)
        return notes

    def check(self, wanted: str) -> str:
        """Start reading all files of a model again; return the job's id.

        Raises:
            UsageError: there is no such model.
            JobError: it is being checked already.
            MachineError: the data folder cannot be written.
        """
        found = self.find(wanted)
        if found.is_checking:
            raise JobError("models.checking", name=found.info.name)
        job = self._checks.start(check_plan(found.info.folder, name=found.info.id, size=found.info.bytes))
        self._forget_checks(found.info.id, but=job)
        return job

    def watch(self, job: str) -> JobView:
        """Return a check.

        Raises:
            JobError: there is none of that id.
        """
        return self._checks.view(job)

    def cancel_check(self, wanted: str) -> None:
        """Stop the check of a model.

        Raises:
            UsageError: there is no such model.
        """
        found = self.find(wanted)
        if found.check is not None and found.is_checking:
            self._checks.pause(found.check.id)

    def _forget_checks(self, model: str, *, but: str = "") -> None:
        """Remove the checks of a model that ended; what they found is in its record."""
        for view in self._checks.views():
            if view.model == model and view.id != but and not view.state.is_active:
                with contextlib.suppress(JobError):  # another page was faster
                    self._checks.delete(view.id)

    def _free(self, wanted: str) -> Shelved:
        """Return a model that nobody needs to stay as it is.

        Raises:
            UsageError: there is none, or it is in use; the message says by whom.
        """
        found = self.find(wanted)
        name = found.info.name
        if found.is_loaded:
            raise UsageError("library.in_use", name=name)
        if found.users:
            raise UsageError("models.needed", name=name, by=", ".join(found.users))
        if found.is_checking:
            raise UsageError("models.checking", name=name)
        return found

    def _needs(self) -> list[tuple[Path, str]]:
        """Return folder and model of every set-up that runs and reads from this machine."""
        found = []
        for view in self._jobs.views():
            if view.state.is_active:
                with contextlib.suppress(JobError, OSError, ValueError, RuntimeError):
                    sources = self._jobs.plan(view.id).sources
                    found += [(Path(source).resolve(), view.model) for source in sources]
        return found
