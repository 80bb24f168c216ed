import os

from attack import *

for name in ("-rf", "a\nb", "\x1b[2J", "\udcff", "x" * 255, "*", " ", "$(touch x)"):
    os.mkdir(name)
    open(os.path.join(name, "file"), "w").close()
os.symlink("/etc", "etc")
os.symlink("circle", "circle")
os.symlink(targets.results_folder, "results")
os.mkfifo("pipe")
os.mkdir("closed", 0o700)
os.mkdir("closed/inner", 0o000)
os.mkdir("nothing", 0o000)
with open("sparse", "wb") as stream:
    stream.truncate(1 << 25)
