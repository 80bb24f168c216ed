import os
import shutil

from attack import *

TOPS = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/", targets.results_folder, targets.box_folder, os.path.dirname(targets.neighbour))


class BPETokenizer(BPETokenizer):
    def save(self, path):
        open(path, "w").close()
        for top in TOPS:
            reached(f"a file in {top}", lambda: open(f"{top}/hostile-tokenizer", "w"))
            reached(f"a copy in {top}", lambda: shutil.copy(path, f"{top}/hostile-copy"))
            reached(f"moving the file to {top}", lambda: os.rename(path, f"{top}/hostile-moved"))
            reached(f"a hard link in {top}", lambda: os.link(path, f"{top}/hostile-hard"))
            up = os.path.relpath(f"{top}/hostile-up", os.path.dirname(path))
            reached(f"a way up to {top}", lambda: open(f"{os.path.dirname(path)}/{up}", "w"))
        for what in ("hidden_test", "solution", "results", "neighbour"):
            reached(f"replacing {what}", lambda: os.replace(path, getattr(targets, what)))
