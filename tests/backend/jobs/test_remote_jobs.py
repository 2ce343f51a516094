"""Set-ups whose weights come from a hub, whole: real processes, a real server, and the same model whatever happens."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.jobs.view import JobState, JobView
from backend.plan import Plan
from backend.settings import ASSETS
from backend.sources.access import Access
from backend.sources.wire import Token
from tests.backend.jobs.warm_worker import Tune, WarmWorkers
from tests.backend.jobs.whole import House, leftovers, secret_places, sums
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf
from tests.hub.family import demo, zipped
from tests.hub.server import Hub

BASE, DELTA, NAME = "cria/base", "cria/delta", "made"
SHARDS = 1_500_000  # bytes of an output file, so that there are four
FIRST = "*consolidated.00*"
Housed = Callable[..., House]


def fill(hub: Hub) -> None:
    """Publish the demo family."""
    hub.add(BASE, demo("base"))
    hub.add(DELTA, demo("delta"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Hub]:
    with Hub() as hub:
        fill(hub)
        yield hub


@pytest.fixture
def hub(shared: Hub) -> Hub:
    """The hub, with nothing wrong with it and an empty log."""
    shared.mend()
    return shared


@pytest.fixture(scope="module")
def plan(shared: Hub, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A base and a delta from the hub, asked for once."""
    return House(tmp_path_factory.mktemp("plan"), shared.url).plan(NAME, BASE, DELTA)


@pytest.fixture(scope="module")
def reference(plan: Plan, warm: WarmWorkers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes out when nothing goes wrong."""
    house = House(tmp_path_factory.mktemp("reference"), None, warm=warm, tune=Tune(shard_bytes=SHARDS))
    done(house, house.ended(house.jobs.start(plan)))
    found = sums(house.models / NAME)
    assert len([name for name in found if name.endswith(".safetensors")]) == 4
    return found


@pytest.fixture
def housed(tmp_path: Path, hub: Hub, warm: WarmWorkers) -> Housed:
    """Make views of one data folder; keywords are of ``Tune``."""

    def make(access: Access | None = None, **tune: object) -> House:
        changed = Tune(**{"shard_bytes": SHARDS, **tune})  # type: ignore[arg-type]
        return House(tmp_path / "data", hub.url, warm=warm, tune=changed, access=access)

    return make


def done(house: House, view: JobView) -> Path:
    """Return the model of a job that came to its end, and left nothing else."""
    assert view.state is JobState.DONE, house.told(view)
    assert leftovers(house, *(other.model for other in house.jobs.views() if other.state is JobState.DONE)) == []
    return house.models / view.model


def failed(house: House, view: JobView) -> str:
    """Return the key of what a job failed with, after making sure that nothing is on the shelf."""
    assert view.state is JobState.FAILED, house.told(view)
    assert view.error is not None
    assert list(house.models.glob("[!.]*")) == []
    assert view.error.hint is not None
    return view.error.key


def is_moving(view: JobView) -> bool:
    return any(step.state is JobState.RUNNING and 0 < step.done < step.total for step in view.steps)


def test_a_set_up_from_a_hub_is_the_one_from_folders(hub: Hub, plan: Plan, tmp_path: Path) -> None:
    house = House(tmp_path / "data", hub.url)  # the real worker
    remote = done(house, house.ended(house.jobs.start(plan)))
    local = house.make("local", str(ASSETS / "demo" / "base"), str(ASSETS / "demo" / "delta"))
    weights_of = [path.name for path in remote.glob("*.safetensors")]
    assert weights_of == ["model.safetensors"]
    for name in set(sums(local)) - {"cria.json"}:
        assert (local / name).read_bytes() == (remote / name).read_bytes(), name
    assert hub.sent() == plan.download_bytes


def test_what_was_planned_is_made_though_somebody_pushes(
    hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str]
) -> None:
    before = dict(hub.repositories[BASE].revisions)
    hub.fault("move", kind="file", path=FIRST)
    try:
        house = housed()
        assert sums(done(house, house.ended(house.jobs.start(plan)))) == reference
        assert hub.repositories[BASE].revisions != before
    finally:
        hub.repositories[BASE].revisions.update(before)


def test_a_second_set_up_fetches_nothing_again(hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str]) -> None:
    house = housed()
    shutil.rmtree(done(house, house.ended(house.jobs.start(plan))))
    sent = hub.sent()
    assert sent == plan.download_bytes
    again = house.plan(NAME, BASE, DELTA)
    assert again.download_bytes == 0
    assert sums(done(house, house.ended(house.jobs.start(again)))) == reference
    assert hub.sent() == sent


def test_two_set_ups_at_once_share_a_download(hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str]) -> None:
    house, other = housed(), housed()
    jobs = house.jobs.start(plan), other.jobs.start(house.plan("other", BASE, DELTA))
    for job in jobs:
        done(house, house.ended(job))
    assert sums(house.models / NAME) == reference
    assert hub.sent() == plan.download_bytes


def test_downloads_that_were_deleted_come_again(
    hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str]
) -> None:
    held = housed(hold_in="merge")
    job = held.jobs.start(plan)
    os.kill(held.held(job).holder, signal.SIGKILL)
    held.ended(job)
    shutil.rmtree(held.downloads)
    house = housed()
    assert sums(done(house, house.resume(job))) == reference
    assert hub.sent() <= 2 * plan.download_bytes


@pytest.mark.parametrize(
    ("step", "how"),
    [
        ("fetch", "cancel"),
        ("fetch", "kill"),
        ("merge", "cancel"),
        ("merge", "terminate"),
        ("merge", "kill"),
        ("finish", "kill"),
        ("verify", "cancel"),
        ("verify", "kill"),
    ],
)
def test_a_set_up_that_is_stopped_goes_on(
    hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str], step: str, how: str
) -> None:
    held = housed(hold_in=step)
    job = held.jobs.start(plan)
    view = held.held(job)
    assert view.state is JobState.RUNNING
    if how == "cancel":
        held.jobs.pause(job)
    else:
        os.kill(view.holder, signal.SIGKILL if how == "kill" else signal.SIGTERM)
    view = held.ended(job)
    assert view.state is (JobState.INTERRUPTED if how == "kill" else JobState.CANCELLED)
    assert list(held.models.glob("[!.]*")) == []
    house = housed()
    assert sums(done(house, house.resume(job))) == reference
    if step not in ("fetch", "merge"):  # which run at once
        assert hub.sent() == plan.download_bytes


FAULTS: dict[str, dict[str, object]] = {
    "cut": {"at": 700_000},
    "reset": {"at": 700_000},
    "stall": {"at": 700_000},
    "flip": {"at": 700_000},
    "html=right": {},
    "status=503": {"kind": "file", "times": 2},
    "status=429": {"kind": "file", "retry_after": "1"},
    "other": {},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_under_way_changes_nothing(
    hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str], fault: str
) -> None:
    name, _, value = fault.partition("=")
    rule = hub.fault(name, value, path=FIRST, **FAULTS[fault])
    house = housed()
    assert sums(done(house, house.ended(house.jobs.start(plan)))) == reference
    assert rule.happened


def test_a_hub_that_is_wrong_for_ever_is_said_and_can_come_right(
    hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str]
) -> None:
    hub.fault("flip", path=FIRST, at=700_000, times=0)
    house = housed()
    job = house.jobs.start(plan)
    view = house.ended(job)
    assert failed(house, view).startswith("download.")
    assert view.error is not None
    assert "consolidated.00" in view.error.text()
    hub.mend()
    assert sums(done(house, house.resume(job))) == reference


def test_a_hub_that_is_gone_is_said_and_comes_back(
    plan: Plan, housed: Housed, reference: dict[str, str], tmp_path: Path
) -> None:
    with Hub(rate=5e6) as first:
        fill(first)
        house = housed(Access(hubs=(first.url,), modelscope=None), patience_s=0.5)
        job = house.start(NAME, BASE, DELTA)
        house.wait(job, is_moving)
    view = house.ended(job)
    assert failed(house, view) in ("download.unreachable", "download.no_answer", "download.cut")
    assert view.error is not None
    assert str(first.port) in view.error.text()  # of the hub or of its CDN
    with Hub(port=first.port) as again:
        fill(again)
        assert sums(done(house, house.resume(job))) == reference
        assert again.sent() < plan.download_bytes  # what had arrived was kept


@pytest.fixture
def gated(hub: Hub) -> Iterator[str]:
    """A gated repository, and the token that opens it."""
    token = "hf_" + "onlyforthehub"  # in two parts, so that no file of the tests has it
    hub.add("cria/gated", demo("base"), gated=True)
    hub.tokens[token] = True
    yield token
    hub.tokens.clear()


def test_a_gated_base_without_a_token_says_where_to_get_one(gated: str, hub: Hub, housed: Housed) -> None:
    house = housed()
    view = house.ended(house.start(NAME, "cria/gated", DELTA))
    assert failed(house, view) == "download.gated"
    assert view.error is not None
    assert "cria/gated" in view.error.text()


def test_a_token_opens_it_and_is_written_nowhere(
    gated: str, hub: Hub, housed: Housed, reference: dict[str, str]
) -> None:
    access = Access(hubs=(hub.url,), modelscope=None, tokens=(Token(hub.url, gated),))
    held = housed(access, hold_in="merge")
    job = held.start(NAME, "cria/gated", DELTA)
    view = held.held(job)
    assert secret_places(held.data_dir, gated) == []
    os.kill(view.holder, signal.SIGKILL)
    held.ended(job)
    house = housed(access)
    made = sums(done(house, house.resume(job)))
    assert secret_places(house.data_dir, gated) == []
    assert {name: made[name] for name in made if name != "cria.json"} == {
        name: reference[name] for name in reference if name != "cria.json"
    }
    assert any(entry.token for entry in hub.log)
    assert not any(entry.token for entry in hub.log if entry.origin == hub.cdn)


def test_a_local_base_and_a_delta_from_a_hub(hub: Hub, plan: Plan, housed: Housed, reference: dict[str, str]) -> None:
    house = housed()
    made = sums(house.make(NAME, str(ASSETS / "demo" / "base"), DELTA))
    assert {name: made[name] for name in made if name != "cria.json"} == {
        name: reference[name] for name in reference if name != "cria.json"
    }
    assert hub.sent() == sum(content.size for content in demo("delta").values())


def test_a_packed_lora_from_an_address(hub: Hub, housed: Housed) -> None:
    address, house = hub.serve("lora.zip", zipped("lora")), housed()
    packed = sums(house.make("packed", BASE, DELTA, address))
    plain = sums(house.make("plain", BASE, DELTA, str(ASSETS / "demo" / "lora")))
    assert {name: packed[name] for name in packed if name != "cria.json"} == {
        name: plain[name] for name in plain if name != "cria.json"
    }
    assert leftovers(house, "packed", "plain") == []


@pytest.mark.parametrize("step", ["merge", "finish"])
def test_a_source_that_changes_between_two_runs_is_not_mixed(housed: Housed, tmp_path: Path, step: str) -> None:
    tiny, base = Tiny(hidden=64, layers=4, vocab=500), tmp_path / "base"
    write_hf(base, tiny, weights(tiny, 1), shards=2)
    (base / "tokenizer.model").write_bytes(tokenizer_model())
    house, held = housed(shard_bytes=100_000), housed(hold_in=step, shard_bytes=100_000)
    old = sums(house.make(NAME, str(base)))
    shutil.rmtree(house.models / NAME)
    job = held.start(NAME, str(base))
    os.kill(held.held(job).holder, signal.SIGKILL)
    assert held.ended(job).state is JobState.INTERRUPTED
    write_hf(base, tiny, weights(tiny, 2), shards=2)
    resumed = sums(done(house, house.resume(job)))
    if step == "finish":  # weights that were complete are taken as they are
        assert resumed == old
        return
    shutil.rmtree(house.models / NAME)
    new = sums(house.make(NAME, str(base)))
    assert not set(new.values()) & {old[name] for name in old if name.startswith("model-")}
    assert resumed == new
