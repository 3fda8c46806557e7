"""Make a stopped process execute system calls, while none of its own instructions run. ptrace(2); x86-64.

The program waits in a system call. Its `syscall` instruction is executed repeatedly with other registers. In the end the registers are
restored, and the program is in its call as if nothing had happened.
"""

import ctypes
import errno
import os
import signal
import struct

_CONT, _SETOPTIONS, _GETEVENTMSG, _GETREGSET, _SETREGSET = 7, 0x4200, 0x4201, 0x4204, 0x4205
_SYSCALL, _DETACH, _SEIZE, _INTERRUPT = 24, 17, 0x4206, 0x4207
_OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000
"""TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, EXITKILL: a process that is left in the middle is killed."""
_CALL_STOP = signal.SIGTRAP | 0x80
_CHILD_EVENTS = (1, 2, 3)
"""fork, vfork, clone."""
_OWN_DOING = (signal.SIGSYS, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals of an instruction that it has run, or of a call that was dispatched to it (prctl(2): PR_SET_SYSCALL_USER_DISPATCH)."""
_GENERAL_REGISTERS = 1
_REGISTERS = struct.Struct("27Q")
_R10, _R9, _R8, _RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _RIP, _RSP = 7, 8, 9, 10, 12, 13, 14, 15, 16, 19
_ARGUMENTS = (_RDI, _RSI, _RDX, _R10, _R8, _R9)
_INSTRUCTION = b"\x0f\x05"
_RED_ZONE = 128
"""Bytes below the stack pointer that a function may use."""
_NOTHING = (1 << 64) - 1
_TO_BE_RESTARTED = range(_NOTHING + 1 - 516, _NOTHING + 1 - 511)
"""ERESTARTSYS and similar: results of calls that were interrupted before they had an effect."""
_CLONE = 56
_WALL = 0x40000000
"""Wait for every child, whatever signal its end sends. waitpid(2): __WALL."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class Broken(Exception):
    """The process did not do what the tracer told it; it must not continue."""


class Tracee:
    """A stopped process. All methods raise OSError if it is gone."""

    def __init__(self, pid: int, registers: tuple[int, ...] = ()) -> None:
        self.pid = pid
        self._before = list(registers)

    @classmethod
    def stop(cls, pid: int) -> "Tracee":
        """Stop a process in the middle of a system call. If it is in none, let it continue and raise Broken."""
        _ptrace(_SEIZE, pid, 0, _OPTIONS)
        tracee = cls(pid)
        _ptrace(_INTERRUPT, pid)
        tracee._wait()
        registers = tracee._registers()
        waits = registers[_RAX] in _TO_BE_RESTARTED and registers[_ORIG_RAX] != _NOTHING
        if not waits or tracee.read(registers[_RIP] - 2, 2) != _INSTRUCTION:
            _ptrace(_DETACH, pid)
            raise Broken("it is in no system call")
        registers[_RIP] -= 2  # it will be called once more
        registers[_RAX], registers[_ORIG_RAX] = registers[_ORIG_RAX], _NOTHING
        tracee._before = registers
        return tracee

    @property
    def waits_in(self) -> tuple[int, int]:
        """The system call that it was stopped in, and that call's first argument."""
        return self._before[_RAX], self._before[_RDI]

    def call(self, number: int, *arguments: int | bytes) -> int:
        """Execute a system call, and return its result. An argument of bytes is passed as a pointer to them. Raises OSError for its
        error."""
        self._begin(number, arguments)
        self._resume()
        return self._result()

    def clone(self, flags: int, key: int) -> "Tracee":
        """Make the process clone itself, and return its child, stopped in the same state. `key`: that of its filter of system calls."""
        self._begin(_CLONE, (flags, 0, 0, 0, 0, key))
        self._resume()
        message = ctypes.c_ulong()
        if self._event == 0:
            self._result()  # its error
            raise Broken("a child was made that nobody saw")
        _ptrace(_GETEVENTMSG, self.pid, 0, ctypes.addressof(message))
        child = Tracee(message.value, tuple(self._before))
        child._wait()
        self._resume()
        self._result()
        return child

    def read(self, address: int, count: int) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return os.pread(memory.fileno(), count, address)

    def write(self, address: int, data: bytes) -> None:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), data, address)

    @property
    def scratch(self) -> int:
        """An address below its stack that `call` does not use."""
        return (self._before[_RSP] - _RED_ZONE - 8192) & ~15

    def let_go(self) -> None:
        """Let the process continue where it was stopped."""
        self._set_registers(self._before)
        _ptrace(_DETACH, self.pid)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _begin(self, number: int, arguments: tuple[int | bytes, ...]) -> None:
        registers = list(self._before)
        place = (registers[_RSP] - _RED_ZONE) & ~15
        for register, argument in zip(_ARGUMENTS, arguments, strict=False):
            if isinstance(argument, bytes):
                place -= (len(argument) + 15) & ~15
                self.write(place, argument)
                argument = place
            registers[register] = argument & _NOTHING
        registers[_RAX], registers[_ORIG_RAX] = number, _NOTHING
        self._set_registers(registers)
        self._resume()  # to the call's entry
        entered = self._registers()
        if entered[_ORIG_RAX] != number or entered[_RIP] != registers[_RIP] + len(_INSTRUCTION):
            raise Broken("it made another system call than it was made to")

    def _result(self) -> int:
        value = self._registers()[_RAX]
        if value > _NOTHING - 4095:
            number = _NOTHING + 1 - value
            raise OSError(number, os.strerror(number))
        return value

    def _resume(self) -> None:
        """Run to the next entry, exit or event. A signal that comes meanwhile is dropped; between two cells none has a meaning.

        Raises Broken for a signal which shows that the process ran.
        """
        _ptrace(_SYSCALL, self.pid)
        while (stopped_by := self._wait()) != _CALL_STOP and self._event not in _CHILD_EVENTS:
            if stopped_by in _OWN_DOING:
                raise Broken(f"it ran, and came to {signal.Signals(stopped_by).name}")
            _ptrace(_SYSCALL, self.pid)

    def _wait(self) -> int:
        """Wait until the process stops, and return the signal that stopped it."""
        _, status = os.waitpid(self.pid, _WALL)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(errno.ESRCH, "it ended")
        self._event = status >> 16
        return os.WSTOPSIG(status)

    def _registers(self) -> list[int]:
        buffer = ctypes.create_string_buffer(_REGISTERS.size)
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), _REGISTERS.size)
        _ptrace(_GETREGSET, self.pid, _GENERAL_REGISTERS, ctypes.addressof(vector))
        return list(_REGISTERS.unpack(buffer.raw))

    def _set_registers(self, registers: list[int]) -> None:
        buffer = ctypes.create_string_buffer(_REGISTERS.pack(*registers), _REGISTERS.size)
        vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), _REGISTERS.size)
        _ptrace(_SETREGSET, self.pid, _GENERAL_REGISTERS, ctypes.addressof(vector))


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
