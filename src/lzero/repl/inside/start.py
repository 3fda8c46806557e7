"""The first program in a jail.

    python start.py CONTROL_FD LIMITS_JSON [DEFENCE_TO_LEAVE_OUT …]

It starts the maker of copies while it is small, and becomes the zygote, which imports much.
"""

import json
import socket
import sys

import copying
import isolate


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    limits = isolate.Limits(**json.loads(sys.argv[2]))
    maker = copying.Maker(limits, control)

    import zygote

    zygote.serve(control, limits, sys.argv[3:], maker)


if __name__ == "__main__":
    main()
