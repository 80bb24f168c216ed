import glob
import os

from attack import *

mine = os.path.dirname(os.path.abspath(__file__))
for path in (targets.neighbour, os.path.dirname(targets.neighbour), mine):
    reached(f"a new file in {path}", lambda: open(f"{path}/x.py", "w"))
    reached(f"renaming {path}", lambda: os.rename(path, path + ".old"))
reached("the neighbour's code", lambda: read_text(targets.neighbour))
reached("the neighbour's folder", lambda: os.listdir(os.path.dirname(targets.neighbour)))
reached("rewriting itself", lambda: open(f"{mine}/attention.py", "w"))
if found := [path for path in glob.glob(f"{targets.box_folder}/*") + glob.glob(f"{targets.box_folder}/*/*")]:
    print("REACHED: names in the box", found)
