import os

from attack import *

full_marks = '{"score": 100, "tests": [{"status": "passed", "score": 100}]}'


@at_call
def write():
    reached("writing", lambda: open(targets.results, "w").write(full_marks))
    reached("appending", lambda: open(targets.results, "a").write(full_marks))
    reached("truncating", lambda: os.truncate(targets.results, 0))
    reached("a new file", lambda: open(f"{targets.results_folder}/results.json.part", "w").write(full_marks))
    open("mine.json", "w").write(full_marks)
    reached("replacing", lambda: os.replace("mine.json", targets.results))
    reached("removing", lambda: os.unlink(targets.results))
    reached("a new folder", lambda: os.mkdir(f"{targets.results_folder}/x"))
