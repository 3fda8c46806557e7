"""`lzero pool probe`: what isolation this machine allows, and its exit code."""

import json
import shutil
from pathlib import Path

import pytest
from commands import exit_code

pytestmark = pytest.mark.sandbox
PARTS = {
    "Linux",
    "bubblewrap",
    "user namespaces",
    "user namespaces within them",
    "a /proc of its own",
    "a network of its own",
    "a filter on system calls",
    "memory of processes can be read",
    "control groups",
    "bounds per REPL",
    "Landlock",
    "a first REPL",
}


def probed(*arguments: str) -> int:
    return exit_code("pool", "probe", *arguments)


def test_every_part_is_tried_and_the_tier_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert probed() == 0
    said = capsys.readouterr().out
    assert all(part in said for part in PARTS)
    assert said.splitlines()[-1] == "REPLs run in tier 'namespaces'"


def test_a_program_reads_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert probed("--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["tier"], report["problem"]) == ("namespaces", "")
    assert {finding["part"].partition(":")[0] for finding in report["findings"]} == PARTS
    assert all(finding["here"] for finding in report["findings"] if finding["needed"])


def test_without_control_groups_it_names_what_is_not_bounded_and_how_to_bound_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert probed("repl.cgroups=off") == 0
    printed = capsys.readouterr()
    assert "bounds per REPL: memory" in printed.out
    assert (printed.out + printed.err).count("systemd-run --user --scope -p Delegate=yes") == 1


@pytest.mark.parametrize(
    ("fake", "part", "told"),
    [
        ("", "bubblewrap", "apt-get install bubblewrap"),
        ("echo 'bwrap: No permissions to create new namespace' >&2; exit 1", "user namespaces", "sysctl"),
        (
            'case "$*" in *--unshare-all*--mount-proc*) exit 1;; esac; exec REAL "$@"',
            "a /proc",
            "unmask",
        ),
    ],
    ids=["no bubblewrap", "no namespaces", "no fresh proc"],
)
def test_a_missing_part_is_told_with_the_way_out(
    fake: str,
    part: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    public_directory: Path,
) -> None:
    for name in ("unshare", "setpriv", "sh", "true", "mount", "mkdir", "cp", "rm", "chmod"):
        (public_directory / name).symlink_to(shutil.which(name) or "")
    if fake:
        (public_directory / "bwrap").write_text(f"#!/bin/sh\n{fake}\n".replace("REAL", shutil.which("bwrap") or ""))
        (public_directory / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(public_directory))
    code = probed("--json")
    report = json.loads(capsys.readouterr().out)
    missing = {finding["part"]: finding for finding in report["findings"] if not finding["here"]}
    (name,) = [name for name in missing if name.startswith(part) and "within" not in name]
    assert told in missing[name]["mend"]
    # The jail of the last case makes its /proc itself, so it holds all the same.
    assert code == (1 if report["problem"] else 0) == (1 if "a first REPL" in missing else 0) == (part != "a /proc")
