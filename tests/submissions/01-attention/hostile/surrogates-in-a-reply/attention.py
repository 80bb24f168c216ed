import os

from attack import *

odd = [{"str": "\ud800\x1b[2J"}, {"str": "\ud800" * 99}, 5, None, {"list": [5, None, {"str": "\udfff"}]}, {"dict": []}]


@at_call
def forge():
    fields = ("types", "text", "where", "traceback", "notes")
    turn = os.getpid()
    error = {"dict": [[{"str": name}, odd[(turn + place) % len(odd)]] for place, name in enumerate(fields)]}
    send_raw(message({"dict": [[{"str": "error"}, error]]}))
    os._exit(0)
