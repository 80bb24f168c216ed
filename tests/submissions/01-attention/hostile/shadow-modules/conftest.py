import targets

print("REACHED: conftest.py was imported")
open(targets.results, "w").write("100")
