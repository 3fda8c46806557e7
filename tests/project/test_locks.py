"""The locks pin every package that the set-up installs, and nothing that belongs to one machine."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from lock import merge
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lzero.config import ReplConfig
from lzero.repl import environment

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "src" / "lzero" / "assets" / "kernel"
LOCKS = (ROOT / "locks" / "lzero.txt", KERNEL / "lock.txt")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(lock: Path) -> dict[str, list[Requirement]]:
    """Name → its pins, each with the marker of the Pythons that it is for."""
    found: dict[str, list[Requirement]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def asked_for() -> list[tuple[Path, Requirement]]:
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    ours = [Requirement(text) for text in (*PROJECT["dependencies"], *extras)]
    kernel = [Requirement(text) for text in environment.REQUIREMENTS]
    return [(LOCKS[0], each) for each in ours if each.name != "lzero"] + [(LOCKS[1], each) for each in kernel]


@pytest.mark.parametrize("lock", LOCKS, ids=["lzero", "kernel"])
def test_every_line_pins_one_release_and_names_no_address_and_no_build(lock: Path) -> None:
    for name, found in pins(lock).items():
        for pin in found:
            assert re.fullmatch(r"==[0-9][^+*]*", str(pin.specifier)), pin
            assert pin.url is None
        assert not name.startswith(("nvidia-", "cuda-")), name
    assert "//" not in lock.read_text(encoding="utf-8")


def test_what_is_asked_for_is_pinned_within_its_range() -> None:
    for lock, requirement in asked_for():
        for pin in pins(lock)[canonicalize_name(requirement.name)]:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{lock.name}: {pin} is not {requirement}: make lock"


@pytest.mark.skipif(Path(sys.prefix).name == ".venv-newest", reason="newer releases may need other packages")
def test_what_a_pinned_package_needs_is_pinned_too() -> None:
    pinned = pins(LOCKS[0])
    for name in pinned:
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of an extra that is not installed here
        for text in needs:
            need = Requirement(text)
            if (need.marker is None or need.marker.evaluate({"extra": ""})) and not need.name.startswith("nvidia-"):
                assert canonicalize_name(need.name) in pinned, f"{name} needs {need}, which nothing pins: make lock"


def test_torch_is_the_release_that_the_set_up_names() -> None:
    assert [str(pin) for pin in pins(LOCKS[0])["torch"]] == ["torch==2.13.0"]


def test_a_release_that_all_pythons_share_has_no_marker() -> None:
    three = ((3, 11), (3, 12), (3, 13))
    assert merge({python: {"rich": "14.0"} for python in three}) == ["rich==14.0"]
    assert merge(dict(zip(three, ({"numpy": "2.4"}, {"numpy": "2.5"}, {"numpy": "2.5"}), strict=True))) == [
        'numpy==2.4 ; python_version < "3.12"',
        'numpy==2.5 ; python_version >= "3.12"',
    ]
    assert merge(dict(zip(three, ({"a": "1"}, {"a": "2"}, {"a": "3"}), strict=True))) == [
        'a==1 ; python_version < "3.12"',
        'a==2 ; python_version >= "3.12" and python_version < "3.13"',
        'a==3 ; python_version >= "3.13"',
    ]


def test_a_package_that_only_some_pythons_need_is_pinned_for_all() -> None:
    assert merge({(3, 11): {"backport": "1.0"}, (3, 12): {}}) == ["backport==1.0"]


def test_a_package_of_ones_own_lifts_its_pin_in_the_kernel_environment() -> None:
    pinned = environment.pins(ReplConfig())
    assert re.search(r"^numpy==", pinned, re.MULTILINE)
    lifted = environment.pins(ReplConfig(packages=("NumPy<2", "scipy>=1")))
    assert not re.search(r"^numpy==", lifted, re.MULTILINE)
    assert re.search(r"^pandas==", lifted, re.MULTILINE)
