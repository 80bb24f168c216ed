import unittest

import pytest
from attack import *

ways = [lambda: pytest.skip("nothing to see"), lambda: pytest.xfail("known"), lambda: (_ for _ in ()).throw(unittest.SkipTest())]


@at_call
def skip():
    ways.append(ways.pop(0))
    ways[0]()
