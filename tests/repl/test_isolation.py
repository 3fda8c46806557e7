"""A session can see and reach nothing of the machine but its own."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from repl_sessions import no_tools, raised, value

import lzero
from lzero.repl import LocalPool, LocalRepl

pytestmark = [pytest.mark.sandbox, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[LocalPool]:
    os.environ["LZERO_TEST_HOST_VARIABLE"] = "not to be seen"
    descriptor = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    async with LocalPool() as pool:
        yield pool
    os.close(descriptor)
    del os.environ["LZERO_TEST_HOST_VARIABLE"]


async def test_no_module_of_lzero_is_importable(repl: LocalRepl) -> None:
    for module in ("lzero", "lzero.data", "torch", "msgspec", "transformers", "pydantic"):
        assert await raised(repl, f"import {module}") == "ModuleNotFoundError", module
    assert await value(repl, "[n for n in __import__('sys').modules if 'lzero' in n]") == "[]"


async def test_the_hosts_files_are_absent(repl: LocalRepl) -> None:
    source = Path(lzero.__file__).parent
    for path in (
        source,
        source.parent.parent / "pyproject.toml",
        Path(sys.prefix) / "pyvenv.cfg",
        Path.home() / ".ssh",
    ):
        assert await value(repl, f"__import__('os').path.exists({str(path)!r})") == "False", path
    for name in ("/etc/hosts", "/etc/shadow", "/etc/hostname", "/home", "/var", "/run", "/sys", "/mnt"):
        assert await value(repl, f"__import__('os').path.exists({name!r})") == "False", name


async def test_the_packages_of_the_python_below_are_hidden(repl: LocalRepl) -> None:
    code = """
import os, sys
seen = [p for p in (f"{root}/lib/python{v}/{kind}-packages" for root in (sys.base_prefix, "/usr", "/usr/local")
    for v in ("3", "3.%d" % sys.version_info[1]) for kind in ("site", "dist")) if os.path.isdir(p)]
[p for p in seen if os.listdir(p)], [p for p in seen if os.access(p, os.W_OK)]
"""
    assert await value(repl, code) == "([], [])"


async def test_the_environment_holds_no_host_variable(repl: LocalRepl) -> None:
    names = await value(repl, "import os\nsorted(os.environ)")
    assert "LZERO_TEST_HOST_VARIABLE" not in names
    allowed = {"HOME", "LANG", "LOGNAME", "NO_COLOR", "PATH", "PWD", "TERM", "TZ", "USER"}
    allowed |= {
        "JE_ARROW_MALLOC_CONF",
        "MALLOC_ARENA_MAX",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    }
    allowed |= {"MPLBACKEND", "MPLCONFIGDIR", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONNOUSERSITE"}
    extra = await value(repl, f"sorted(set(os.environ) - {allowed!r})")
    assert extra in ("[]", "['LC_CTYPE']", "['FORCE_COLOR']"), extra


async def test_no_descriptor_of_the_host_is_open(repl: LocalRepl) -> None:
    code = """
import os
kinds = {}
for number in range(1024):
    try: kinds[number] = os.readlink(f"/proc/self/fd/{number}").split(":")[0]
    except OSError: pass
kinds
"""
    kinds = await value(repl, code)
    assert (
        kinds == ("{0: '/dev/null',\n 1: '/memfd',\n 2: '/memfd',\n 3: 'socket',\n 4: '/memfd',\n 5: '/memfd'}")
        or kinds == "{0: '/dev/null', 1: '/memfd', 2: '/memfd', 3: 'socket', 4: '/memfd', 5: '/memfd'}"
    )


async def test_there_is_no_network(repl: LocalRepl) -> None:
    for address in ("('1.1.1.1', 53)", "('169.254.169.254', 80)", "('127.0.0.1', 22)", "('10.0.0.1', 80)"):
        assert await raised(repl, f"import socket; socket.create_connection({address}, timeout=3)") == "OSError", (
            address
        )
    assert await raised(repl, "import socket; socket.create_connection(('::1', 22), timeout=3)") == "OSError"
    assert await raised(repl, "import socket; socket.getaddrinfo('example.com', 80)") == "gaierror"
    assert await value(repl, "[line.split(':')[0].strip() for line in open('/proc/net/dev')][2:]") == "['lo']"


async def test_only_its_own_pids_are_visible(repl: LocalRepl) -> None:
    assert await value(
        repl, "import os\nos.getpid(), os.getppid(), [n for n in os.listdir('/proc') if n.isdigit()]"
    ) == ("(2, 0, ['2'])")
    assert await raised(repl, "import os; os.kill(3, 9)") == "ProcessLookupError"


async def test_no_capability_no_new_privileges_no_nested_namespace(repl: LocalRepl) -> None:
    code = "sorted({line.split()[1] for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNewPrivs'))})"
    assert await value(repl, code) == "['0000000000000000', '1']"
    nested = "import ctypes\nlibc = ctypes.CDLL(None)\n[libc.unshare(f) for f in (0x10000000, 0x20000, 0x20000000, 0x40000000)]"
    assert await value(repl, nested) == "[-1, -1, -1, -1]"
    assert await raised(repl, "open('/proc/sys/user/max_user_namespaces', 'w').write('9')") == "PermissionError"
    assert (
        await value(repl, "libc.mount(b'none', b'/workspace', b'tmpfs', 0, None), libc.umount(b'/proc')") == "(-1, -1)"
    )
    assert await value(repl, "libc.sethostname(b'x', 1), libc.setuid(0), libc.chroot(b'/')") == "(-1, -1, -1)"


async def test_what_is_shared_is_read_only(repl: LocalRepl) -> None:
    for path in (
        "/x",
        "/usr/x",
        "/dev/x",
        "/opt/x",
        "/opt/lzero/kernel.py",
        "/opt/environment/x",
        "/etc/x",
        "/opt/lzero/x.pth",
    ):
        assert await raised(repl, f"open({path!r}, 'w')") in ("OSError", "PermissionError", "IsADirectoryError"), path
    base = await value(repl, "import sys, os\nos.__file__")
    assert await raised(repl, f"open({base}, 'a')") in ("OSError", "PermissionError")


async def test_the_workspace_is_private_writable_and_bounded(repl: LocalRepl) -> None:
    assert await value(repl, "import os\nos.getcwd(), os.path.expanduser('~'), os.listdir()") == (
        "('/workspace', '/workspace', [])"
    )
    for path in ("/workspace/x", "/tmp/x", "/dev/shm/x"):
        assert await raised(repl, f"open({path!r}, 'w').write('1')") == ""
    fill = "block = bytes(1 << 20)\nwith open('big', 'wb') as f:\n    for _ in range(400): f.write(block)"
    execution = await repl.run(fill, deadline_s=20.0)
    assert execution.status == "error"
    assert await value(repl, "os.remove('big')\n1 + 1") == "2"


async def test_limits_on_memory_processes_files(pool: LocalPool) -> None:
    repl = await pool.open((), no_tools, seed=0)
    assert await raised(repl, "bytearray(10 ** 12)") == "MemoryError"
    assert await raised(repl, "[open('/dev/null') for _ in range(5000)]") == "OSError"
    bomb = "import os, time\npids = []\ntry:\n    while len(pids) < 2000:\n        pid = os.fork()\n        if pid == 0: time.sleep(60)\n"
    bomb += "        pids.append(pid)\nexcept BlockingIOError: pass\nlen(pids) < 100"
    assert await value(repl, bomb) == "True"
    other = await pool.open((), no_tools, seed=0)
    assert await value(other, "import subprocess\nsubprocess.run(['true']).returncode") == "0"
    await repl.close()
    await other.close()
