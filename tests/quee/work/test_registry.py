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
