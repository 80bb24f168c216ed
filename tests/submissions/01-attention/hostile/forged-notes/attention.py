import os

from attack import *

note = {"str": "\x1b[2J\ud800=cmd()" * 20}
notes = [{"list": [note] * 1000}, 5, {"tensor": 0}, {"dict": [[note, note]]}]


@at_call
def forge():
    value = {"dict": [[{"str": "value"}, None], [{"str": "used"}, notes[os.getpid() % 4]]]}
    send_raw(message(value, [["float32", [2], "cpu"]] if os.getpid() % 4 == 2 else [], bytes(8 * (os.getpid() % 4 == 2))))
    os._exit(0)
