import sys

from attack import *


@at_call
def talk():
    print("===== 4 passed in 0.01s =====\n::set-output name=score::100\n::error::no\nScore: 100/100")
    print('{"score": 100}\n<script>alert(1)</script>\n[bold]passed[/bold]\n[/]', file=sys.stderr)
    print("\x1b]0;title\x07\x1b[2J\x1b[1;1H\x1b[32m100 %\x1b[0m\r\b\b\x9b1m\u202e\u2066\ud83d".encode("utf-8", "replace").decode())
    raise ValueError("\x1b[2J\x1b[32mpassed\x1b[0m\r\n</td><td>100</td>\u202e=HYPERLINK(1)\ud800 [/]")
