"""The jail's command line: what it hands over, and what it says where a part is missing."""

import os
from pathlib import Path

import pytest

import lzero
from lzero.config import ReplConfig
from lzero.errors import SandboxError
from lzero.repl import environment, jail, users
from lzero.repl.environment import Environment

SAMPLE = Environment(
    directory=Path("/tmp/an env"),
    base_prefix=Path("/root/python"),
    interpreter=Path("/root/python/bin/python3.11"),
    os_file="/root/python/lib/os.py",
)


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("bwrap", "unshare", "setpriv"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("user", [0, 1000])
def test_the_jail_shares_nothing_and_dies_with_us(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    command = jail.command(SAMPLE, ["inner", "argument"])
    assert command[-3:] == ["--", "inner", "argument"]
    for kind in ("user", "ipc", "pid", "net", "uts", "cgroup-try"):
        assert f"--unshare-{kind}" in command
    for flag in ("--die-with-parent", "--new-session", "--clearenv"):
        assert flag in command
    for flag in ("--share-net", "--bind", "--dev-bind"):
        assert flag not in command
    own = str(Path(lzero.__file__).parent)  # which may itself be in somebody's home
    assert not any(part.startswith("/home") and not part.startswith(own) for part in command)


def test_a_user_namespace_that_is_given_takes_the_place_of_a_new_one() -> None:
    command = jail.command(SAMPLE, ["inner"], namespace=7)
    assert command[command.index("--userns") + 1] == "7"
    assert "--unshare-user" not in command


def test_root_goes_through_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(users, "may_mount", lambda: True)
    command = jail.command(SAMPLE, ["inner"])
    assert Path(command[0]).name == "unshare"
    assert "--reuid=65534" in command
    assert "--no-new-privs" in command


def test_root_that_may_not_mount_shows_the_jail_what_is_readable_as_it_is(
    monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(users, "may_mount", lambda: False)
    (programs / "unshare").unlink()
    command = jail.command(SAMPLE, ["inner"])
    assert Path(command[0]).name == "setpriv"
    assert "--reuid=65534" in command
    assert command[command.index("/tmp/an env") - 1 :][:3] == ["--ro-bind", "/tmp/an env", "/opt/environment"]


def test_an_ordinary_user_needs_bubblewrap_only(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (programs / "unshare").unlink()
    (programs / "setpriv").unlink()
    command = jail.command(SAMPLE, ["inner"])
    assert Path(command[0]).name == "bwrap"
    assert command[command.index("/tmp/an env") - 1 :][:3] == ["--ro-bind", "/tmp/an env", "/opt/environment"]


def test_a_system_python_needs_no_bind_of_its_own() -> None:
    system = Environment(Path("/srv/env"), Path("/usr"), Path("/usr/bin/python3"), "/usr/lib/python3/os.py")
    assert [target for _, target in jail._bound_directories(system)] == ["/opt/lzero", "/opt/environment"]


def test_packages_of_the_host_are_hidden_beneath_what_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    for where in (packages / "lzero", tmp_path / "src" / "lzero"):
        monkeypatch.setattr(jail, "__file__", str(where / "repl" / "jail.py"))
        sample = Environment(Path("/srv/env"), tmp_path, tmp_path / "bin" / "python3", "os.py")
        command = jail.command(sample, ["inner"])
        hidden = [command[place + 1] for place, part in enumerate(command) if part == "--tmpfs"]
        assert str(packages) in hidden
        assert (str(where) in hidden) == (packages not in where.parents)
        assert all(
            command[command.index(directory) + 1 :][:2] == ["--remount-ro", directory] for directory in hidden[1:]
        )


def test_etc_of_the_jail_is_made_of_links_into_what_the_jail_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    targets = {
        "awk": "/usr/bin/mawk",
        "java": "/home/me/jdk/bin/java",
        "awk.1.gz": "/usr/share/man/man1/mawk.1.gz",
        "cc": "../bin/gcc",
        "up": "/usr/../home/me/program",
    }
    for name, target in targets.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "README").write_text("no link")
    monkeypatch.setattr(jail, "_ALTERNATIVES", tmp_path)
    arguments = jail._links_in_etc()
    assert set(arguments[::3]) == {"--symlink"}
    assert dict(zip(arguments[2::3], arguments[1::3], strict=True)) == {
        "/etc/passwd": "/opt/lzero/etc/passwd",
        "/etc/group": "/opt/lzero/etc/group",
        str(tmp_path / "awk"): "/usr/bin/mawk",
    }


def test_scripts_of_an_environment_name_its_place_in_the_jail(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    scripts = {
        "pytest": f"#!{tmp_path}/bin/python\nimport sys\n",
        "long": f"#!/bin/sh\n'''exec' {tmp_path}/bin/python \"$0\" \"$@\"\n' '''\n",
        "other": "#!/bin/sh\n",
    }
    for name, text in scripts.items():
        (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / "program").write_bytes(b"\x7fELF" + str(tmp_path).encode())
    (tmp_path / "bin" / "python").symlink_to("/usr/bin/env")
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\ncommand = /usr/bin/python3 -m venv {tmp_path}\n")
    environment._name_the_jails_place(tmp_path)
    for name, text in scripts.items():
        assert (tmp_path / "bin" / name).read_text() == text.replace(str(tmp_path), "/opt/environment")
    assert str(tmp_path).encode() in (tmp_path / "bin" / "program").read_bytes()
    assert str(tmp_path) not in (tmp_path / "pyvenv.cfg").read_text()


@pytest.mark.parametrize("missing", ["bwrap", "unshare", "setpriv"])
def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, programs: Path, missing: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(users, "may_mount", lambda: True)
    (programs / missing).unlink()
    with pytest.raises(SandboxError, match=missing):
        jail.command(SAMPLE, ["inner"])


def test_an_environment_has_a_place_of_its_own_for_its_packages() -> None:
    plain, more = ReplConfig(), ReplConfig(packages=("sympy",))
    assert environment._directory(plain) == environment._directory(ReplConfig())
    assert environment._directory(plain) != environment._directory(more)
    assert environment._directory(ReplConfig(environment="/srv/env")) == Path("/srv/env")


def test_a_build_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    config = ReplConfig(environment=str(tmp_path / "place" / "env"), python="/bin/false")
    with pytest.raises(SandboxError, match="make a virtual environment"):
        environment.build(config)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["env.lock"]


def test_an_environment_that_does_not_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/nowhere/python")
    with pytest.raises(SandboxError, match=str(tmp_path)):
        environment.find(ReplConfig(environment=str(tmp_path)))
