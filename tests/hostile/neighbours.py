"""Two graders of one user side by side: the submission in one starts all the processes it may, again and again.

neighbours.py FOLDER        prints a JSON line: what became of the calls of an honest submission meanwhile
"""

import json
import threading
import time

from autograder.box.policy import Policy
from autograder.box.sandbox import Sandbox
from autograder.errors import StudentFault

CALLS = 12
BOMB = b"""
import os, time
def bomb():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)
"""
HONEST = b"""
def work():
    return 3
"""


def ask(slot, module, path):
    channel = slot.channel(module, seed=1, timeout=20)
    try:
        return channel.ask({"call": path, "args": [], "kwargs": {}, "device": "cpu"}, 20)
    finally:
        channel.close()


def bomb_until(over, slot, ended):
    while not over.is_set():
        try:
            ask(slot, "bomb", "bomb.bomb")
        except StudentFault as fault:
            ended.append(str(fault))


def main() -> None:
    over, ended, answers = threading.Event(), [], []
    with (
        Sandbox() as theirs,
        Sandbox() as ours,
        theirs.slot({"bomb.py": BOMB}, Policy()) as bombing,
        ours.slot({"work.py": HONEST}, Policy()) as honest,
    ):
        ask(honest, "work", "work.work")
        thread = threading.Thread(target=bomb_until, args=(over, bombing, ended))
        thread.start()
        try:
            for _ in range(CALLS):
                time.sleep(0.3)  # so that some of them meet a bomb at its height
                answers.append(answer_of(honest))
        finally:
            over.set()
            thread.join()
    print(json.dumps({"answers": answers, "bombs": ended}))


def answer_of(slot):
    try:
        return ask(slot, "work", "work.work")
    except StudentFault as fault:
        return str(fault)


if __name__ == "__main__":
    main()
