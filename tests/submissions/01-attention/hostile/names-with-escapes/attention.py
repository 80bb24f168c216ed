from attack import *

name = "=HYPERLINK(1)\x1b[32m<b>passed</b>\r\n[/bold]\u202e" + "A" * 100_000


@at_call
def fail():
    raise type(name, (Exception,), {"__module__": name, "__qualname__": name})("x")


@answer
def named(q, k, v):
    return type(name, (), {})()
