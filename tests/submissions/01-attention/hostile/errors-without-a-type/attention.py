from attack import *


@at_call
def send():
    send_raw(message({"dict": [[{"str": "error"}, {"dict": []}]]}))
