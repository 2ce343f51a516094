"""Where ingredients come from: other places when one fails, and the recipe's own figures when nobody is asked."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import SourceError
from backend.plan import Plan, estimate_plan, make_plan
from backend.rates import Rates
from backend.recipes import Part, Recipe, custom_recipe
from backend.sources.listing import Listing, RemoteFile
from backend.sources.pinned import Pinned
from backend.sources.store import stored_bytes

GATED = SourceError("download.gated", repository="a/first", host="h", page="p")
GONE = SourceError("download.not_found", repository="a/first", host="h")
DOWN = SourceError("download.offline", host="h")
RECIPE = Recipe("mine", {"en": "Mine"}, Part("a/first", alternatives=("b/second", "modelscope:c/third"), bytes=900))


def pinned(spec: str, sha256: str = "1" * 64) -> Pinned:
    files = (RemoteFile("config.json", 10, "u", None, "2" * 40), RemoteFile("model.safetensors", 1000, "u", sha256))
    return Pinned(spec, Listing("hf", spec, "3" * 40, "https://h", files))


class Net:
    """Servers that answer as told, and remember who was asked about."""

    def __init__(self, answers: Mapping[str, SourceError | Pinned | None]) -> None:
        self.answers, self.asked = answers, list[str]()

    def find(self, spec: str) -> Pinned | None:
        self.asked.append(spec)
        answer = self.answers.get(spec, DOWN)
        if isinstance(answer, SourceError):
            raise answer
        return answer


def test_the_next_place_is_asked_and_the_plan_says_why(tmp_path: Path) -> None:
    net = Net({"a/first": GONE, "b/second": pinned("b/second")})
    plan = make_plan(RECIPE, find=net.find, downloads=tmp_path)
    assert (plan.base, plan.download_bytes, plan.estimated) == ("b/second", 1010, False)
    assert plan.pinned("b/second") is not None
    told = plan.instead[0].text("en")
    assert all(word in told for word in ("a/first", "b/second", "h"))
    assert Plan.from_json(plan.to_json()) == plan
    usual = make_plan(RECIPE, find=Net({"a/first": pinned("a/first")}).find, downloads=tmp_path)
    assert usual.instead == ()
    assert not usual.same_work(plan)


def test_a_server_that_only_lists_what_it_has_is_passed_over(tmp_path: Path) -> None:
    def admit(pin: Pinned) -> None:
        if pin.spec == "a/first":
            raise GATED

    net = Net({"a/first": pinned("a/first"), "b/second": pinned("b/second")})
    plan = make_plan(RECIPE, find=net.find, admit=admit, downloads=tmp_path)
    assert [one.spec for one in plan.remotes] == ["b/second"]
    assert plan.download_bytes == 1010


def test_what_a_person_typed_is_asked_for_too_unless_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def admit(pin: Pinned) -> None:
        raise GATED

    net, typed = Net({"a/first": pinned("a/first")}), custom_recipe("mine", base="a/first")
    with pytest.raises(SourceError) as caught:
        make_plan(typed, find=net.find, admit=admit, downloads=tmp_path)
    assert caught.value is GATED
    monkeypatch.setattr(Pinned, "missing_bytes", lambda *_: 0)
    assert make_plan(typed, find=net.find, admit=admit, downloads=tmp_path).download_bytes == 0


@pytest.mark.parametrize(("others", "key"), [(("b/second",), "plan.licence_first"), ((), "plan.licence_only")])
def test_a_licence_is_not_got_round(tmp_path: Path, others: tuple[str, ...], key: str) -> None:
    part = Part("a/first", alternatives=others, access="https://h/a/first")
    net = Net({"a/first": GATED, "b/second": pinned("b/second")})
    with pytest.raises(SourceError) as caught:
        make_plan(Recipe("mine", {"en": "Mine"}, part), find=net.find, downloads=tmp_path)
    assert (caught.value.key, net.asked) == (key, ["a/first"])
    assert all(spec in caught.value.text() for spec in ("https://h/a/first", *others))


def test_servers_that_do_not_answer_are_not_asked_twice(tmp_path: Path) -> None:
    net = Net({"a/first": DOWN, "modelscope:c/third": pinned("modelscope:c/third")})
    assert make_plan(RECIPE, find=net.find, downloads=tmp_path).base == "modelscope:c/third"
    assert net.asked == ["a/first", "modelscope:c/third"]


def test_when_nobody_has_it_the_first_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        make_plan(RECIPE, find=Net({"a/first": GATED}).find, downloads=tmp_path)
    assert caught.value is GATED


def test_a_folder_may_stand_in(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model.safetensors").write_bytes(b"x" * 70)
    recipe = replace(RECIPE, base=Part(str(tmp_path / "gone"), alternatives=(str(tmp_path / "here"),)))
    plan = make_plan(recipe)
    assert (plan.base, len(plan.instead)) == (str(tmp_path / "here"), 1)


def test_other_bytes_than_the_published_ones_are_no_stand_in(tmp_path: Path) -> None:
    base = replace(RECIPE.base, sha256={"model.safetensors": "f" * 64})
    net = Net({"a/first": pinned("a/first"), "b/second": pinned("b/second", "f" * 64)})
    plan = make_plan(replace(RECIPE, base=base), find=net.find, downloads=tmp_path)
    assert plan.base == "b/second"
    assert plan.instead[0].why.key == "recipes.other_bytes.say"
    assert [one.spec for one in plan.remotes] == ["b/second"]


def test_an_estimate_asks_nobody_and_has_the_recipes_figures() -> None:
    lora = Part("c/lora", bytes=50, layout="adapter")
    plan = estimate_plan(replace(RECIPE, loras=(lora,), parameters=480), rates=Rates(network=1.0))
    assert (plan.estimated, plan.download_bytes, plan.disk_bytes) == (True, 950, 950 + 960 + 2_000_000)
    assert plan.figures()["seconds"] == pytest.approx(950, abs=20)
    assert plan.remotes == ()


def test_what_was_downloaded_before_is_not_counted_again(tmp_path: Path) -> None:
    folder = tmp_path / "hf" / "b--second" / ("3" * 40)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 8192)
    found = stored_bytes(tmp_path)
    assert found == {("hf", "b/second"): 8192}
    for size, left in ((8000, 0), (10_000, 1808)):
        part = replace(RECIPE.base, bytes=size)
        plan = estimate_plan(replace(RECIPE, base=part, parameters=4000), stored=found)
        assert (plan.estimated, plan.download_bytes, plan.disk_bytes) == (True, left, left + size + 2_000_000)
    made = replace(RECIPE, base=replace(RECIPE.base, bytes=8192))
    assert estimate_plan(made, stored=found).lean_disk_bytes == 8192 + 2_000_000


def test_what_is_here_is_looked_at_even_for_an_estimate(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 70)
    plan = estimate_plan(custom_recipe("mine", base=str(tmp_path)))
    assert (plan.estimated, plan.download_bytes, plan.steps[1].reads) == (False, 0, 70)
    with pytest.raises(SourceError):
        estimate_plan(custom_recipe("mine", base=str(tmp_path / "gone")))


@pytest.mark.parametrize(
    ("change", "bytes_each"),
    [({}, None), ({"dtype": "float32"}, 4), ({"dtype": "float16"}, 2),
     ({"delta": Part("d/d", rule="mean", bytes=4000)}, 4), ({"delta": Part("d/d", bytes=4000)}, 2)],
)  # fmt: skip
def test_the_result_is_as_wide_as_its_numbers(change: Mapping[str, object], bytes_each: int | None) -> None:
    recipe = replace(RECIPE, parameters=1000, base=Part("a/b", bytes=2100), **change)
    merge = estimate_plan(recipe).steps[1]
    assert merge.writes == (2100 if bytes_each is None else 1000 * bytes_each)
