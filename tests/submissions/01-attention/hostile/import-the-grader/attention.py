import importlib
import importlib.util
import os
import sys

from attack import *

sys.path += [os.path.dirname(targets.hidden_test), os.path.dirname(targets.solution), "/autograder/source"]
for name in ("test_attention", "inside", "conftest", "autograder.grade", "autograder.plugin", "autograder.samples"):
    reached(f"importing {name}", lambda: importlib.import_module(name))
cached = importlib.util.cache_from_source(targets.hidden_test)
reached("a compiled test", lambda: open(cached, "rb").read())
reached("the solution by its path", lambda: importlib.util.spec_from_file_location("s", targets.solution).loader.load_module())
