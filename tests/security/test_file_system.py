"""Files: a session finds its own, and what it needs of the system to read; nothing of the host's, and no way to write there."""

import ast
import errno
import os
import subprocess
from pathlib import Path

import pytest
from cases import attack
from repl_sessions import no_tools, raised, run, value
from syscalls import CALL, OWN_SETTINGS, answers

import lzero
from lzero.repl import LocalPool, LocalRepl, jail, users
from lzero.types import Stream

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]

ROUNDABOUT = ("", "/proc/self/root", "/proc/1/cwd/../..", "/workspace/../../../..", "/proc/self/fd/../../../..")
"""Ways to the root that a careless jail leaves open."""


@attack(29)
async def test_secrets_and_homes_of_the_host_are_not_there(repl: LocalRepl, public_directory: Path) -> None:
    secret = public_directory / "secret"
    secret.write_text("to be read by everybody", encoding="utf-8")
    secret.chmod(0o644)
    places = [
        secret,
        Path.home() / ".ssh",
        Path.home() / ".netrc",
        Path.home() / ".cache",
        Path.home() / ".config",
        Path(lzero.__file__),
        *map(Path, ("/etc/shadow", "/etc/hosts", "/etc/hostname", "/etc/ssl/private", "/home", "/var", "/run", "/sys")),
        *map(Path, ("/var/run/docker.sock", "/run/secrets", "/proc/1/root/etc/shadow", "/boot", "/mnt", "/media")),
    ]
    code = f"[way + place for way in {ROUNDABOUT!r} for place in {[str(place) for place in places]!r}]"
    assert await value(repl, f"import os\n[path for path in {code} if os.path.lexists(path)]") == "[]"
    assert secret.exists()


@attack(29)
async def test_the_command_line_of_the_hosts_kernel_is_not_there(repl: LocalRepl) -> None:
    assert Path("/proc/cmdline").read_text("utf-8")
    assert await value(repl, "open('/proc/cmdline').read(), len(open('/proc/self/cmdline').read()) > 0") == "('', True)"
    if Path("/proc/bootconfig").exists():
        assert await value(repl, "open('/proc/bootconfig').read()") == "''"


@attack(29)
async def test_users_and_settings_of_the_host_are_not_there(repl: LocalRepl) -> None:
    code = "import os\nsorted(os.listdir('/etc')), [line.split(':')[0] for name in ('passwd', 'group') for line in open(f'/etc/{name}')]"
    files, names = ast.literal_eval(await value(repl, code))
    assert set(files) <= {"alternatives", "group", "ld.so.cache", "passwd"}
    assert names == ["root", "agent", "nobody", "root", "agent", "nogroup"]


@pytest.mark.skipif(not users.may_mount(), reason="lzero's modules are copied only where root may mount")
@attack(29)
async def test_compiled_files_that_name_lzeros_directory_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "kernel.py").touch()
    command = ("unshare", "--mount", "--propagation", "private", "--", "/bin/sh", "-c", jail.STAGE, "sh", str(tmp_path))
    done = subprocess.run([*command, "--", "ls", "-A", f"{jail.STAGING}/0"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kernel.py"]


@attack(29)
async def test_the_workspace_of_others_is_not_there(pool: LocalPool, repl: LocalRepl) -> None:
    other = await pool.open((), no_tools, seed=0)
    write = "[open(f'{place}/secret', 'w').write('mine') for place in ('/workspace', '/tmp', '/dev/shm')]"
    assert await value(other, write) == "[4, 4, 4]"
    look = "import os\n[os.listdir(place) for place in ('/workspace', '/dev/shm')], os.path.exists('/tmp/secret')"
    assert await value(repl, look) == "([[], []], False)"
    await other.close()


@attack(30)
async def test_what_is_shared_cannot_be_changed(repl: LocalRepl) -> None:
    code = """
import IPython, numpy, site
found, shared = set(), [os.__file__, numpy.__file__, sys.executable, IPython.__file__, "/opt/lzero/kernel.py", "/etc/passwd", "/bin/sh"]
for file in shared:
    folder = os.path.dirname(file)
    for attack in (
        lambda: open(file, "a"),
        lambda: open(folder + "/sitecustomize.py", "w"),
        lambda: open(folder + "/evil.pth", "w"),
        lambda: os.makedirs(folder + "/__pycache__/evil"),
        lambda: os.truncate(file, 0),
        lambda: os.chmod(file, 0o777),
        lambda: os.utime(file),
        lambda: os.unlink(file),
        lambda: os.rename(file, file + "~"),
        lambda: os.link(file, folder + "/evil"),
        lambda: os.symlink("/workspace", folder + "/evil"),
        lambda: os.setxattr(file, "user.x", b""),
        lambda: os.open(f"/proc/self/fd/{os.open(file, os.O_RDONLY)}", os.O_RDWR),
    ):
        found.add(attempt(attack))
sorted(found)
"""
    refused = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ETXTBSY}
    dangling = {errno.ENOENT}  # the sitecustomize.py of a system Python may be a link to /etc, which is not there
    assert set(await answers(repl, code)) <= refused | dangling
    assert errno.EROFS in await answers(repl, code)


@attack(30)
async def test_what_one_session_patches_no_other_imports(pool: LocalPool, repl: LocalRepl) -> None:
    poison = """
import builtins, json, os, random, sys, numpy
json.load = numpy.mean = random.random = builtins.divmod = lambda *_: "poisoned"
sys.path.insert(0, "/workspace"); sys.modules["csv"] = json
os.environ["PYTHONPATH"] = os.environ["PYTHONSTARTUP"] = "/workspace"
for name in ("sitecustomize.py", "usercustomize.py", "poisoned.py"):
    for place in ("/workspace", "/tmp"):
        open(f"{place}/{name}", "w").write("import builtins; builtins.poisoned = 1")
os.makedirs("/tmp/ipython/profile_default/startup", exist_ok=True)
open("/tmp/ipython/profile_default/startup/0.py", "w").write("poisoned = 1")
divmod(7, 2)
"""
    assert await value(repl, poison) == "'poisoned'"
    for other in (await pool.open((), no_tools, seed=0), await pool.open((), no_tools, seed=1)):
        code = (
            "import csv, json, numpy, os, sys\ndivmod(7, 2), json.load.__name__, int(numpy.mean([1])), csv.__name__, "
        )
        code += "'/workspace' in sys.path, 'PYTHONPATH' in os.environ, 'poisoned' in dir(__builtins__) + dir()"
        assert await value(other, code) == "((3, 1), 'load', 1, 'csv', False, False, False)"
        assert await raised(other, "import poisoned") == "ModuleNotFoundError"
        await other.close()


@attack(34)
async def test_hostile_file_names_come_through(repl: LocalRepl) -> None:
    names = [b"-rf", b"a\nb", b"\xff\xfe", b"$(reboot)", b"`id`;&|", b"A", b"a", b"\x1b[2J", b"n" * 255, b"..."]
    make = f"import os\nnames = {names!r}\nfor name in names: open(b'/workspace/' + name, 'w').close()\n"
    assert await value(repl, f"{make}sorted(os.listdir(b'/workspace')) == sorted(names)") == "True"
    assert ast.literal_eval(await value(repl, "ascii(sorted(os.listdir()))")) == ascii(sorted(map(os.fsdecode, names)))
    execution = await run(repl, "print(*sorted(os.listdir()), sep='\\0')")
    (shown,) = [output for output in execution.outputs if isinstance(output, Stream)]
    assert "-rf" in shown.text
    shown.text.encode()  # no half of a character is left in it
    refused = "[attempt(open, name, 'w') for name in (b'n' * 256, b'/'.join([b'd' * 200] * 30), b'x/../../../etc/x')]"
    assert await answers(repl, refused) == [errno.ENAMETOOLONG, errno.ENAMETOOLONG, errno.ENOENT]
    assert await raised(repl, "open('a\\0b', 'w')") == "ValueError"


@attack(34)
async def test_paths_deeper_than_any_name_are_gone_with_the_session(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    deep = (
        "import os\nfor _ in range(200):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\nopen('\\n', 'w').close()\n1"
    )
    assert await value(repl, deep) == "1"
    await repl.close()
    other = await pool.open((), no_tools, seed=0)
    assert await value(other, "import os\nos.getcwd(), os.listdir()") == "('/workspace', [])"
    await other.close()


@attack(35)
async def test_set_user_id_gives_nothing(repl: LocalRepl) -> None:
    code = """
import shutil
shutil.copy("/bin/cat", "/workspace/cat")
os.chmod("/workspace/cat", 0o6755)
status = subprocess.run(["/workspace/cat", "/proc/self/status"], capture_output=True, text=True).stdout
lines = dict(line.split(":", 1) for line in status.splitlines())
[set(lines[key].split()) for key in ("Uid", "Gid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs")]
"""
    shown = ast.literal_eval(await value(repl, CALL + code))
    none = {"0000000000000000"}
    assert shown == [{"1000"}, {"1000"}, none, none, none, {"1"}]
    become = "[attempt(os.setuid, 0), attempt(os.setresgid, 0, 0, 0), attempt(os.setgroups, [0]), attempt(os.chown, '.', 0, 0)]"
    assert await answers(repl, become) == [errno.EINVAL, errno.EINVAL, errno.EPERM, errno.EINVAL]
    capability = (
        "attempt(os.setxattr, '/workspace/cat', 'security.capability', bytes.fromhex('0100000200000000' + 'f' * 24))"
    )
    assert await answers(repl, f"[{capability}]") != [0]


@attack(35)
async def test_set_user_id_programs_of_the_system_give_nothing(repl: LocalRepl) -> None:
    find = """
import os
places = [os.path.join(root, name) for root, _, names in os.walk("/usr") for name in names]
[place for place in places if os.path.isfile(place) and os.lstat(place).st_mode & 0o6000]
"""
    programs = ast.literal_eval(await value(repl, find))
    nosuid = "[os.statvfs(place).f_flag & os.ST_NOSUID for place in ('/usr', '/workspace', '/tmp', '/dev/shm', '/opt')]"
    assert await value(repl, f"set({nosuid}) == {{os.ST_NOSUID}}") == "True"
    for program in [place for place in programs if place.endswith(("/su", "/newgrp", "/mount"))]:
        arguments = {"su": ["-c", "id"], "newgrp": ["root"], "mount": ["-t", "tmpfs", "none", "/workspace"]}
        command = [program, *arguments[Path(program).name]]
        done = f"import subprocess\nsubprocess.run({command!r}, stdin=subprocess.DEVNULL, capture_output=True).returncode != 0"
        assert await value(repl, done) == "True", program


@attack(36)
async def test_devices_are_absent_and_cannot_be_made(repl: LocalRepl) -> None:
    allowed = {"ptmx", "pts", "shm", "core", "fd", "stdin", "stdout", "stderr", "tty"}
    allowed |= {"null", "zero", "full", "random", "urandom"}
    assert await value(repl, f"import os\nset(os.listdir('/dev')) - {allowed!r}") == "set()"
    make = """
import stat
devices = [(stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 1, 11), (stat.S_IFCHR, 5, 1), (stat.S_IFCHR, 10, 229),
           (stat.S_IFCHR, 10, 232), (stat.S_IFBLK, 7, 0), (stat.S_IFBLK, 8, 0), (stat.S_IFBLK, 254, 0)]
places = ("/workspace", "/tmp", "/dev/shm", "/dev")
[attempt(os.mknod, f"{place}/made", kind | 0o666, os.makedev(*numbers)) for kind, *numbers in devices for place in places]
"""
    assert set(await answers(repl, make)) <= {errno.EPERM, errno.EROFS}
    nodev = (
        "[bool(os.statvfs(place).f_flag & os.ST_NODEV) for place in ('/usr', '/workspace', '/tmp', '/dev/shm', '/dev')]"
    )
    assert await value(repl, nodev) == "[True, True, True, True, True]"


HANDLES = """
handle = (ctypes.c_uint32 * 34)(128)
mount = ctypes.c_int()
[
    call("name_to_handle_at", -100, b"/workspace", handle, ctypes.byref(mount), 0),
    call("open_by_handle_at", -100, handle, 0),
    call("fanotify_init", 0x200, 0),  # with FAN_REPORT_FID, as anybody may
]
"""


@attack(37)
async def test_file_handles_and_fanotify_are_refused(repl: LocalRepl, open_repl: LocalRepl) -> None:
    named, opened, watched = await answers(open_repl, HANDLES)
    assert (named, opened) == (0, errno.EPERM)  # a handle, and no right to use it
    assert watched in (0, errno.EPERM, errno.ENOSYS)  # as the kernel was made
    assert await answers(repl, HANDLES) == [errno.EPERM] * 3


DESCRIPTORS = """
import os
found = {}
for number in range(1024):
    try: found[number] = (os.readlink(f"/proc/self/fd/{number}").partition(":")[0], *os.fstat(number)[1:3])
    except OSError: pass
found
"""


@attack(38)
async def test_descriptors_that_the_host_left_open_are_closed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open", encoding="utf-8")
    left = [os.open(place, os.O_RDONLY) for place in (secret, tmp_path, "/")]
    for number in left:
        os.set_inheritable(number, True)
    try:
        async with LocalPool() as pool:
            repl = await pool.open((), no_tools, seed=0)
            await run(repl, "open('/dev/zero')")
            found = ast.literal_eval(await value(repl, DESCRIPTORS))
            await repl.close()
    finally:
        files = [os.fstat(number) for number in left]
        for number in left:
            os.close(number)
    assert not {(file.st_ino, file.st_dev) for file in files} & {(ino, dev) for _, ino, dev in found.values()}
    assert set(found) <= set(range(8))
    assert {name for name, _, _ in found.values()} <= {"/dev/null", "/dev/zero", "/memfd", "socket"}
    assert [number for number, (name, _, _) in found.items() if name == "socket"] == [3]


@attack(38)
async def test_no_descriptor_is_shared_with_another_session(pool: LocalPool, repl: LocalRepl) -> None:
    other = await pool.open((), no_tools, seed=0)
    # what is kept with an open file, not with its number: the signal for readiness, and locks
    mark = "import fcntl\n[fcntl.fcntl(n, 10, 33 + n) for n in range(6)]\n[fcntl.fcntl(n, 11) for n in range(6)]"
    assert await value(repl, mark) == "[33, 34, 35, 36, 37, 38]"
    assert await value(other, "import fcntl\n[fcntl.fcntl(n, 11) for n in range(6)]") == "[0, 0, 0, 0, 0, 0]"
    await other.close()


@attack(38)
async def test_a_program_that_it_starts_gets_standard_descriptors_only(repl: LocalRepl) -> None:
    code = "import subprocess\nsubprocess.run(['ls', '/proc/self/fd'], close_fds=False, capture_output=True).stdout.split()"
    assert await value(repl, code) == "[b'0', b'1', b'2', b'3']"  # the last is that of the listing


WRITABLE = """
import os
found = []
for root, folders, files in os.walk("/proc"):
    if root == "/proc":
        folders[:] = [name for name in folders if not name.isdigit() and name not in ("self", "thread-self")]
    for name in files:
        try:
            os.close(os.open(os.path.join(root, name), os.O_WRONLY | os.O_NONBLOCK))
            found.append(os.path.join(root, name))
        except OSError: pass
found
"""


@attack(39)
async def test_settings_of_the_kernel_cannot_be_opened_for_writing(repl: LocalRepl) -> None:
    found = ast.literal_eval(await value(repl, WRITABLE))
    covered = tuple(f"/proc/{name}" for name in ("cmdline", "bootconfig", "keys", "key-users", "locks"))  # by /dev/null
    assert [place for place in found if not place.startswith((*OWN_SETTINGS, *covered))] == []
    assert await value(repl, "import os\nos.path.samefile('/proc/cmdline', '/dev/null')") == "True"
    names = ("sysrq-trigger", "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/drop_caches", "sys/fs/file-max")
    refused = await answers(repl, f"[attempt(os.open, '/proc/' + name, os.O_WRONLY) for name in {names!r}]")
    assert set(refused) <= {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}
    absent = "[os.path.exists(p) for p in ('/sys', '/proc/sys/fs/binfmt_misc/register', '/sys/kernel/uevent_helper')]"
    assert await value(repl, f"import os\n{absent}") == "[False, False, False]"


@attack(39)
async def test_settings_of_its_own_namespaces_stay_there(pool: LocalPool, repl: LocalRepl) -> None:
    names = ("sys/kernel/shmmax", "sys/kernel/msgmax", "sys/fs/mqueue/msg_max", "sys/kernel/pid_max")
    outside = [Path("/proc", name).read_text(encoding="ascii") for name in names if Path("/proc", name).exists()]
    other = await pool.open((), no_tools, seed=0)
    read = f"[open('/proc/' + name).read() for name in {names!r} if os.path.exists('/proc/' + name)]"
    before = await value(other, f"import os\n{read}")
    await run(
        repl,
        f"import os\nfor name in {names!r}:\n    try: open('/proc/' + name, 'w').write('500')\n    except OSError: pass",
    )
    assert await value(other, read) == before
    await other.close()
    assert [
        Path("/proc", name).read_text(encoding="ascii") for name in names if Path("/proc", name).exists()
    ] == outside


@attack(39)
async def test_the_program_that_runs_cannot_be_overwritten(repl: LocalRepl) -> None:
    code = """
executable = os.path.realpath(f"/proc/{os.getpid()}/exe")
[attempt(os.open, place, os.O_WRONLY) for place in ("/proc/self/exe", "/proc/1/exe", executable)]
"""
    assert set(await answers(repl, code)) <= {errno.EROFS, errno.ETXTBSY, errno.EACCES, errno.ENOENT}  # its init's
    lower = "def protect():\n    with open('/proc/self/oom_score_adj', 'w') as file: file.write('-1000')\n[attempt(protect)]"
    assert await answers(repl, lower) == [errno.EACCES]
