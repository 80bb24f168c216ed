import os

from attack import *

folders = ["/", "/tmp", "/home", "/root", "/opt", "/srv", "/var", "/autograder", "/proc", targets.box_folder]
folders += [os.path.dirname(targets.hidden_test), targets.results_folder, os.path.dirname(targets.closed)]
for folder in filter(os.path.exists, folders):
    reached(f"listing {folder}", lambda: os.listdir(folder))
