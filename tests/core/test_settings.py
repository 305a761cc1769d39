from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import Gt
from hypothesis import given
from hypothesis import strategies as st

from ismn_cli.core.errors import UsageError
from ismn_cli.core.settings import build_settings, settings_problems


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Settings:
    padding: Literal["valid", "same"] = "valid"
    lr: Annotated[float, Gt(0)] = 0.1
    epochs: int = 3
    eps: tuple[float, ...] = (0.1,)
    inner: Inner | None = field(default_factory=Inner)


@given(
    st.builds(
        Settings,
        lr=st.floats(1e-9, 1e9),
        epochs=st.integers(),
        eps=st.lists(st.floats(0, 1)).map(tuple),
        inner=st.none() | st.builds(Inner, rate=st.floats(0, 1)),
    )
)
def test_settings_come_back_as_they_were(settings: Settings) -> None:
    values = asdict(settings) | {"eps": list(settings.eps)}
    built = build_settings(Settings, values, "config")
    assert built == settings
    assert type(built) is Settings
    assert settings_problems(Settings, values) == []


def test_defaults_and_numbers_written_as_text() -> None:
    assert build_settings(Settings, {}, "config") == Settings()
    assert build_settings(Settings, {"lr": "1e-3"}, "config").lr == 0.001


def test_all_problems_at_once() -> None:
    wrong = {
        "epoch": 3,
        "lr": float("nan"),
        "padding": "sam",
        "eps": "0.1",
        "inner": {"rat": 1},
        "epochs": 1.5,
        "zzz": 0,
    }
    with pytest.raises(UsageError) as caught:
        build_settings(Settings, wrong, "config of ismn")
    message = caught.value.message
    assert message.startswith("config of ismn has 7 problems:")
    assert "epoch: unknown key; did you mean 'epochs'?" in message
    assert "inner.rat: unknown key; did you mean 'rate'?" in message
    assert "zzz: unknown key; known are epochs, eps, inner, lr, padding" in message
    for key in ("lr", "padding", "eps", "epochs"):
        assert f"\n  {key}: should be" in message
    assert len(settings_problems(Settings, wrong)) == 7


def test_one_problem_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"^config: lr: should be greater than 0, not -1\.$"):
        build_settings(Settings, {"lr": -1}, "config")
    with pytest.raises(UsageError, match=r"^config: lrr: unknown key; did you mean 'lr'\?$"):
        build_settings(Settings, {"lrr": 1}, "config")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["padding", "lr", "epochs", "eps", "inner", "x"]), json_values))
def test_anything_is_settings_or_a_usage_error(values: dict[str, object]) -> None:
    try:
        built = build_settings(Settings, values, "config")
    except UsageError:
        assert settings_problems(Settings, values)
    else:
        assert isinstance(built.epochs, int) and built.lr > 0 and built.padding in ("valid", "same")
        assert "x" not in values
