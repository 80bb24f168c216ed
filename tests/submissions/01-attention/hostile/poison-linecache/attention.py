import linecache

from attack import *

linecache.getline = lambda name, line, _=None: read_text(targets.hidden_test)
linecache.getlines = lambda name, _=None: [read_text(targets.solution)]


@at_call
def fail():
    code = compile("\n" * 300 + "raise ValueError('temperature')", targets.hidden_test, "exec")
    exec(code)
