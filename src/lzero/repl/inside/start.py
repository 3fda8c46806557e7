"""The first program in a jail.

    python start.py CONTROL_FD LIMITS_JSON [DEFENCE_TO_LEAVE_OUT …]

It starts the maker of copies while it is small. Then it becomes the zygote, which imports much.
"""

import json
import os
import socket
import sys

import copying
import isolate


def main() -> None:
    descriptor, limits_json, *without = sys.argv[1:]
    sys.argv[:] = [""]  # a session is no script, so its argument parsers find no arguments
    control = socket.socket(fileno=int(descriptor))
    control.set_inheritable(False)
    os.closerange(3, control.fileno())
    os.closerange(control.fileno() + 1, 1 << 20)  # other descriptors of bubblewrap
    limits = isolate.Limits(**json.loads(limits_json))
    isolate.keep_devices()
    maker = copying.Maker(limits, control)

    import zygote

    zygote.serve(control, limits, without, maker)


if __name__ == "__main__":
    main()
