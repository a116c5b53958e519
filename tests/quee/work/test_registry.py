"""Registries and their answer to unknown names."""

import pytest

from quee.errors import UsageError
from quee.work.registry import Registry, unknown


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    for value, name in enumerate(("red", "green", "blue")):
        registry.register(name)(value)
    return registry


def test_entries_are_found_and_listed_in_order(colours: Registry[int]) -> None:
    assert colours["green"] == 1
    assert list(colours) == ["blue", "green", "red"]
    assert len(colours) == 3
    assert "red" in colours
    assert "mauve" not in colours


def test_registering_gives_the_entry_back() -> None:
    registry: Registry[type] = Registry("shape")

    @registry.register("square")
    class Square:
        pass

    assert registry["square"] is Square


def test_an_unknown_name_is_answered_with_the_closest_and_all(colours: Registry[int]) -> None:
    with pytest.raises(UsageError) as raised:
        colours["gren"]
    assert str(raised.value) == "unknown colour 'gren' (did you mean 'green'?); valid: blue, green, red"
    assert raised.value.exit_status == 2


def test_no_hint_where_nothing_is_close(colours: Registry[int]) -> None:
    with pytest.raises(UsageError, match=r"^unknown colour 'x'; valid: blue, green, red$"):
        colours["x"]


def test_an_empty_registry_has_no_valid_names() -> None:
    assert unknown("colour", "red", []) == "unknown colour 'red'; valid: none"


def test_a_name_is_registered_once(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.register("red")(9)
    assert colours["red"] == 0


def test_of_many_names_the_nearest_are_listed_and_what_lists_them_all() -> None:
    many = [f"static_w{bits}a{bits}" for bits in range(2, 20)] + ["quee_plan", "oracle"]
    said = unknown("method", "plan", many, "`quee results --all`")
    assert said.startswith("unknown method 'plan' (did you mean 'quee_plan'?); valid: quee_plan, ")
    assert said.endswith(" and 16 more: `quee results --all` lists them")
    assert said.count(",") == 3


@pytest.mark.parametrize(("names", "listing"), [(12, "`list`"), (40, "")], ids=["few", "nothing lists them"])
def test_names_are_listed_whole_where_they_are_few_or_nothing_else_lists_them(names: int, listing: str) -> None:
    every = [f"n{number}" for number in range(names)]
    assert unknown("name", "x", every, listing) == f"unknown name 'x'; valid: {', '.join(every)}"
